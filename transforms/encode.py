"""Encode: batches of tokens become float32 vectors. The DoFns here own the model.

`EncodeTokens` is the step of the main job, over blocks of records. `EncodeInstances` is
for a pipeline of your own, over single records with keys.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import msgspec
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from object2vec.engine import Engine
from object2vec.errors import DeviceError, RecordError
from object2vec.model import Object2Vec
from object2vec.parsing import Limits, parse_lines
from object2vec.tokens import KIND_NAMES, TokenBatch
from object2vec.vectors import Encoded
from transforms.board import Board
from transforms.manifest import Refusal
from transforms.parse import TokenBlock, cost_of, describe
from transforms.recipe import FAIL_FILE

_LOG = logging.getLogger(__name__)

REJECTED = "rejected"
"""Tag of EncodeInstances' output of records that cannot be encoded."""


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


class _LoadedEngine:
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
        self._loaded = self._shared.acquire(lambda: _LoadedEngine(self._spec))
        self._board = Board(self._board_folder)

    def process(self, blocks: list[TokenBlock]) -> Iterator[EncodedBlock]:
        batch = TokenBatch.concatenate([block.batch for block in blocks])
        self._board.check_stop()
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


class EncodeInstances(beam.PTransform):
    """(key, record) to (key, vector), for a pipeline of your own.

    A record is a mapping as SageMaker takes it: `{"in0": [ids]}`, `{"in1": [ids]}`, or
    both for the score of a pair; other keys are ignored. The key is yours. A vector is
    a float32 array [D] (an embedding) or [C] (scores), and depends on its record alone.

    Args:
      model: local path of a model directory; every worker must see it.
      batch_tokens: ids that are encoded together. Changes speed, not values.
      spec: further settings of the engine; its `model` is replaced.

    Returns:
      A PCollection of (key, vector). With `with_rejected()`, a dict of two: "encoded",
      and "rejected" with (key, reason). Without it a bad record fails the bundle.

    Raises:
      RecordError: at run time, for a record that cannot be encoded.
    """

    def __init__(
        self, model: str, *, batch_tokens: int = 65_536, spec: EngineSpec | None = None
    ) -> None:
        super().__init__()
        self._batch_tokens = batch_tokens
        self._fn = _EncodeInstancesFn(
            replace(spec or EngineSpec(model), model=model), Shared(), rejects=False
        )

    def with_rejected(self) -> EncodeInstances:
        """The same transform, with bad records set aside instead of failing."""
        other = EncodeInstances(self._fn.spec.model, batch_tokens=self._batch_tokens)
        other._fn = _EncodeInstancesFn(self._fn.spec, Shared(), rejects=True)
        return other

    def expand(self, records: beam.PCollection) -> Any:
        encoded = (
            records
            | "BatchElements"
            >> beam.BatchElements(
                min_batch_size=self._batch_tokens,
                max_batch_size=self._batch_tokens,
                element_size_fn=_cost_of_record,
            )
            | "Vectors" >> beam.ParDo(self._fn).with_outputs(REJECTED, main="encoded")
        )
        if self._fn.rejects:
            return {"encoded": encoded["encoded"], REJECTED: encoded[REJECTED]}
        return encoded["encoded"]


def _cost_of_record(keyed: tuple[Any, Mapping[str, Any]]) -> int:
    record = keyed[1]
    if not isinstance(record, Mapping):
        return 16  # it will be refused
    sequences = (record.get(side) for side in ("in0", "in1"))
    return 16 + sum(len(s) for s in sequences if isinstance(s, list | tuple | np.ndarray))


class _EncodeInstancesFn(beam.DoFn):
    def __init__(self, spec: EngineSpec, shared: Shared, rejects: bool) -> None:
        self.spec = spec
        self.rejects = rejects
        self._shared = shared

    def setup(self) -> None:
        self._loaded = self._shared.acquire(lambda: _LoadedEngine(self.spec))
        config = self._loaded.engine.config
        first, second = config.encoders
        self._limits = Limits(
            vocab_sizes=(first.vocab_size, second.vocab_size),
            max_seq_lens=self.spec.max_seq_lens or (first.max_seq_len, second.max_seq_len),
            clips=(first.out_of_range == "clip", second.out_of_range == "clip"),
        )

    def process(self, batch: Iterable[tuple[Any, Mapping[str, Any]]]) -> Iterator[Any]:
        keyed = list(batch)
        # Through the parser of the main job, so that both refuse the same records.
        texts = [_text_of(record) for _, record in keyed]
        starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
        parsed = parse_lines(b"\n".join(texts), 0, self._limits)
        positions = {int(start): i for i, start in enumerate(starts)}
        for error in parsed.errors:
            key = keyed[positions[error.offset]][0]
            if not self.rejects:
                raise RecordError(error.kind, f"{error.reason} (key {key!r})", error.path)
            yield beam.pvalue.TaggedOutput(REJECTED, (key, f"{error.path}: {error.reason}"))
        encoded = self._loaded.engine.encode(parsed.batch)
        rows = [iter(matrix) for matrix in encoded.vectors]
        for offset, kind in zip(
            parsed.batch.offsets_R.tolist(), encoded.kinds_R.tolist(), strict=True
        ):
            yield keyed[positions[offset]][0], next(rows[kind])


def _text_of(record: Any) -> bytes:
    """A record as a line. What JSON cannot say becomes text that the parser refuses."""
    if isinstance(record, Mapping):
        record = {side: record[side] for side in ("in0", "in1") if side in record}
    try:
        return msgspec.json.encode(record, enc_hook=_plain)
    except (ValueError, RecursionError):
        return b"null"


def _plain(value: Any) -> Any:
    # By its type's name, the parser says what it should have been.
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else type(value).__name__
