"""Encodes made-up records like those of the input, to say how long the whole will take.

Writes nothing. Made-up ones, because a sample may be of any kind: half a document, or
lines that are all refused.
"""

from __future__ import annotations

import time

import numpy as np

from object2vec.engine import Engine
from object2vec.model import Object2Vec
from object2vec.tokens import IN0, TokenBatch
from object2vec.vectors import to_json_rows
from pipeline.embed import Job
from pipeline.forecast import Forecast, first_block

START_UP_S = 4.0
"""Imports and Beam's own start; measured, and nearly constant."""

_WRITE_S_PER_BYTE = 1 / 0.7e9
"""Filling fresh pages of the page cache. Source: reference measurements, 0.5-0.9 GB/s."""

_PARSE_S_PER_RECORD = 2e-6
_NUM_RECORDS = 2000


def seconds_for(job: Job, found: Forecast) -> float:
    """Estimated duration of a run, from its size and a rehearsal.

    Raises:
      ModelError, DeviceError: as the run would.
    """
    if not found.files:
        return START_UP_S
    options = job.options
    engine = Engine(
        Object2Vec.load(job.model),
        device=options.device,
        threads=options.threads,
        max_seq_lens=job.recipe.max_seq_lens,
        preferred_mode=options.preferred_mode,
    )
    largest = max(job.files, key=lambda file: file.size)  # the first one may be empty
    length = min(mean_length(first_block(largest, job.recipe)), job.recipe.max_seq_lens[0])
    ids = np.arange(_NUM_RECORDS * length).reshape(_NUM_RECORDS, length)
    batch = TokenBatch.of((ids % job.recipe.vocab_sizes[0]).tolist(), side=IN0)
    engine.encode(batch)  # the first call pays for what is made once
    begun = time.perf_counter()
    encoded = engine.encode(batch)
    if not len(encoded.not_finite()):
        to_json_rows(encoded)
    spent = (time.perf_counter() - begun) / _NUM_RECORDS + _PARSE_S_PER_RECORD
    work = found.records * spent / options.workers
    return START_UP_S + work + found.output_bytes * _WRITE_S_PER_BYTE


def mean_length(text: bytes) -> int:
    """About how many ids a sequence in a piece of input has; at least 1."""
    sequences = text.count(b'"in0"') + text.count(b'"in1"')
    return max(1, round(text.count(b",") / sequences)) if sequences else 1
