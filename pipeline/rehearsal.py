"""Encodes a sample of the input to say how long the whole will take. Writes nothing."""

from __future__ import annotations

import time

from object2vec.engine import Engine
from object2vec.model import Object2Vec
from object2vec.parsing import parse_lines
from object2vec.vectors import to_json_rows
from pipeline.embed import Job
from pipeline.forecast import Forecast, first_block
from transforms.recipe import JSON_DOCUMENT

START_UP_S = 4.0
"""Imports and Beam's own start; measured, and nearly constant."""

_WRITE_S_PER_BYTE = 1 / 0.7e9
"""Filling fresh pages of the page cache. Source: reference measurements, 0.5-0.9 GB/s."""


def seconds_for(job: Job, found: Forecast) -> float:
    """Estimated duration of a run, from one block of its input.

    Raises:
      ModelError, DeviceError: as the run would.
    """
    options = job.options
    engine = Engine(
        Object2Vec.load(job.model),
        device=options.device,
        threads=options.threads,
        max_seq_lens=job.recipe.max_seq_lens,
        preferred_mode=options.preferred_mode,
    )
    if not job.files or job.recipe.content_type == JSON_DOCUMENT:
        return START_UP_S
    largest = max(job.files, key=lambda file: file.size)  # the first one may be empty
    data = first_block(largest, job.recipe)
    parse_lines(data, 0, job.recipe.limits)  # the first call pays for what is made once
    begun = time.perf_counter()
    batch = parse_lines(data, 0, job.recipe.limits).batch
    to_json_rows(engine.encode(batch))
    spent = (time.perf_counter() - begun) / max(batch.num_records, 1)
    work = found.records * spent / options.workers
    return START_UP_S + work + found.output_bytes * _WRITE_S_PER_BYTE
