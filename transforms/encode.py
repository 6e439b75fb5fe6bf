"""Encode: batches of tokens become float32 vectors. The DoFn here owns the model.

The step of the main job, over blocks of records. For single records, in a pipeline of
your own: `EncodeInstances` in instances.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from object2vec.engine import Engine
from object2vec.errors import DeviceError
from object2vec.model import Object2Vec
from object2vec.tokens import KIND_NAMES, TokenBatch
from object2vec.vectors import Encoded
from transforms.board import Board
from transforms.manifest import Refusal
from transforms.parse import TokenBlock, cost_of, describe
from transforms.recipe import FAIL_FILE

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How a worker makes its engine: plain data, no model.

    Attributes:
      model: local path of a model directory.
      device: "auto", "cpu" or "cuda".
      threads: that compute in one process.
      max_seq_lens: per side; None for the model's own.
      preferred_mode: "embedding", "classification" or None, see Engine.
      require_determinism: whether a probe that sees unequal bits ends the run.
    """

    model: str
    device: str = "auto"
    threads: int = 1
    max_seq_lens: tuple[int, int] | None = None
    preferred_mode: str | None = None
    require_determinism: bool = False


class LoadedEngine:
    """An engine and its probe; a class of its own because Shared needs weak references."""

    def __init__(self, spec: EngineSpec) -> None:
        self.engine = Engine(
            Object2Vec.load(spec.model),
            device=spec.device,
            threads=spec.threads,
            max_seq_lens=spec.max_seq_lens,
            preferred_mode=spec.preferred_mode,
        )
        self.probe = self.engine.probe()
        _LOG.info("encoding on %s, probe %s", self.engine.device, self.probe.digest[:12])
        if not self.probe.deterministic:
            if spec.require_determinism:
                raise DeviceError(
                    "this machine does not give equal bits in every position of a batch, and "
                    f"--require_determinism was given; the probe saw {self.probe.details}"
                )
            _LOG.warning("this machine does not give equal bits: outputs may differ by rounding")


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """The vectors of a TokenBlock.

    Attributes:
      tokens: the block without its ids.
      encoded: a vector per record.
      offsets_R: int64 [R], byte offset of each record.
      digest, deterministic: of the probe under which they were made.
    """

    tokens: TokenBlock
    encoded: Encoded
    offsets_R: np.ndarray
    digest: str
    deterministic: bool


class BatchTokens(beam.PTransform):
    """TokenBlocks to lists of them that hold about `batch_tokens` together, in order."""

    def __init__(self, batch_tokens: int) -> None:
        super().__init__()
        self._batch_tokens = batch_tokens

    def expand(self, blocks: beam.PCollection[TokenBlock]) -> beam.PCollection[list[TokenBlock]]:
        # min == max: its estimator restarts with every bundle, and it may emit [].
        return blocks | "BatchElements" >> beam.BatchElements(
            min_batch_size=self._batch_tokens,
            max_batch_size=self._batch_tokens,
            element_size_fn=cost_of,
        )


class EncodeTokens(beam.PTransform):
    """Lists of TokenBlocks to EncodedBlocks, one for one and in order.

    A vector depends on its record and the model alone. A record whose vector is not
    finite becomes a refusal of kind `not_finite`.
    """

    def __init__(self, spec: EngineSpec, on_bad_record: str, board: str | None) -> None:
        super().__init__()
        self._fn = _EncodeFn(spec, on_bad_record, board, Shared())

    def expand(self, batches: beam.PCollection[list[TokenBlock]]) -> beam.PCollection[EncodedBlock]:
        return batches | "Vectors" >> beam.ParDo(self._fn)


class _EncodeFn(beam.DoFn):
    def __init__(
        self, spec: EngineSpec, on_bad_record: str, board: str | None, shared: Shared
    ) -> None:
        self._spec = spec
        self._on_bad_record = on_bad_record
        self._board_folder = board
        self._shared = shared
        self._encoded = Metrics.counter("object2vec", "encoded")
        self._batch_records = Metrics.distribution("object2vec", "batch_records")

    def setup(self) -> None:
        self._loaded = self._shared.acquire(lambda: LoadedEngine(self._spec))
        self._board = Board(self._board_folder)

    def process(self, blocks: list[TokenBlock]) -> Iterator[EncodedBlock]:
        self._board.check_stop()
        batch = TokenBatch.concatenate([block.batch for block in blocks])
        encoded = self._loaded.engine.encode(batch)
        self._encoded.inc(batch.num_records)
        if batch.num_records:
            self._batch_records.update(batch.num_records)
        self._board.mine.encoded += batch.num_records
        self._board.mine.oom_steps = self._loaded.engine.num_oom_steps
        self._board.post()
        start = 0
        for block in blocks:
            stop = start + block.batch.num_records
            rows, offsets_R = encoded.rows(start, stop), block.batch.offsets_R
            start = stop
            bad = rows.not_finite()
            if len(bad):
                block, rows, offsets_R = refuse_rows(
                    block, rows, offsets_R, bad, self._on_bad_record
                )
            yield EncodedBlock(
                replace(block, batch=_EMPTY),
                rows,
                offsets_R,
                self._loaded.probe.digest,
                self._loaded.probe.deterministic,
            )

    def finish_bundle(self) -> None:
        self._board.post(now=True)


_EMPTY = TokenBatch.concatenate([])


def refuse_rows(
    block: TokenBlock,
    encoded: Encoded,
    offsets_R: np.ndarray,
    bad: np.ndarray,
    on_bad_record: str,
) -> tuple[TokenBlock, Encoded, np.ndarray]:
    """The block with the records at the indices `bad` turned into refusals."""
    keep_R = np.ones(encoded.num_records, np.bool_)
    keep_R[bad] = False
    refusals = [
        Refusal(offset, 0, "$", "not_finite", "its vector is not finite; is the model damaged?")
        for offset in offsets_R[bad].tolist()
    ]
    kinds = np.bincount(encoded.kinds_R[bad], minlength=3).tolist()
    counts = replace(block.counts, refused=block.counts.refused + len(bad))
    for name, count in zip(KIND_NAMES, kinds, strict=True):
        setattr(counts, name, getattr(counts, name) - count)
    failed = block.failed
    if on_bad_record == FAIL_FILE and failed is None:
        failed = f"{block.span.file.uri}: {describe(refusals[0])}"
    in0, in1, pair = (
        matrix[keep_R[encoded.kinds_R == kind]] for kind, matrix in enumerate(encoded.vectors)
    )
    merged = sorted([*block.refusals, *refusals], key=lambda refusal: refusal.offset)
    block = replace(block, refusals=tuple(merged), counts=counts, failed=failed)
    return block, Encoded(encoded.kinds_R[keep_R], (in0, in1, pair)), offsets_R[keep_R]
