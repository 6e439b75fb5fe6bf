"""EncodeInstances: the encoding step for a pipeline of your own, over single records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import apache_beam as beam
import msgspec
import numpy as np
from apache_beam.utils.shared import Shared

from object2vec.errors import RecordError
from object2vec.parsing import Limits, parse_lines
from transforms.encode import EngineSpec, LoadedEngine

REJECTED = "rejected"
"""Tag of the output of records that cannot be encoded."""


class EncodeInstances(beam.PTransform):
    """(key, record) to (key, vector), for a pipeline of your own.

    A record is a mapping as SageMaker takes it: `{"in0": [ids]}`, `{"in1": [ids]}`, or
    both for the score of a pair; other keys are ignored. The key is yours. A vector is
    a float32 array [D] (an embedding) or [C] (scores), and depends on its record alone.

    Args:
      model: local path of a model directory; every worker must see it.
      batch_tokens: ids that are encoded together. Changes speed, not values.
      out_of_range_ids: "clip" or "error"; None for what the model says.
      spec: further settings of the engine; its `model` is replaced.

    Returns:
      A PCollection of (key, vector). With `with_rejected()`, a dict of two: "encoded",
      and "rejected" with (key, reason). Without it a bad record fails the bundle.

    Raises:
      RecordError: at run time, for a record that cannot be encoded.
    """

    def __init__(
        self,
        model: str,
        *,
        batch_tokens: int = 65_536,
        out_of_range_ids: str | None = None,
        spec: EngineSpec | None = None,
    ) -> None:
        super().__init__()
        if out_of_range_ids not in (None, "clip", "error"):
            raise ValueError(f"out_of_range_ids is {out_of_range_ids!r}; clip, error or None")
        self._batch_tokens = batch_tokens
        self._spec = replace(spec or EngineSpec(model), model=model)
        self._out_of_range_ids = out_of_range_ids
        self._rejects = False

    def with_rejected(self) -> EncodeInstances:
        """The same transform, with bad records set aside instead of failing."""
        other = EncodeInstances(
            self._spec.model,
            batch_tokens=self._batch_tokens,
            out_of_range_ids=self._out_of_range_ids,
            spec=self._spec,
        )
        other._rejects = True
        return other

    def expand(self, records: beam.PCollection) -> Any:
        fn = _EncodeInstancesFn(self._spec, Shared(), self._out_of_range_ids, self._rejects)
        encoded = (
            records
            | "BatchElements"
            >> beam.BatchElements(
                min_batch_size=self._batch_tokens,
                max_batch_size=self._batch_tokens,
                element_size_fn=_cost_of_record,
            )
            | "Vectors" >> beam.ParDo(fn).with_outputs(REJECTED, main="encoded")
        )
        if self._rejects:
            return {"encoded": encoded["encoded"], REJECTED: encoded[REJECTED]}
        return encoded["encoded"]


def _cost_of_record(keyed: tuple[Any, Mapping[str, Any]]) -> int:
    record = keyed[1]
    if not isinstance(record, Mapping):
        return 16  # it will be refused
    sequences = (record.get(side) for side in ("in0", "in1"))
    sized = (s for s in sequences if isinstance(s, list | tuple | np.ndarray))
    return 16 + sum(s.size if isinstance(s, np.ndarray) else len(s) for s in sized)


class _EncodeInstancesFn(beam.DoFn):
    def __init__(
        self, spec: EngineSpec, shared: Shared, out_of_range_ids: str | None, rejects: bool
    ) -> None:
        self._spec = spec
        self._shared = shared
        self._out_of_range_ids = out_of_range_ids
        self._rejects = rejects

    def setup(self) -> None:
        self._loaded = self._shared.acquire(lambda: LoadedEngine(self._spec))
        config = self._loaded.engine.config
        self._limits = Limits.of(config, self._spec.max_seq_lens, self._out_of_range_ids)

    def process(self, batch: Iterable[tuple[Any, Mapping[str, Any]]]) -> Iterator[Any]:
        keyed = list(batch)
        # Through the parser of the main job, so that both refuse the same records.
        texts = [_text_of(record) for _, record in keyed]
        starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
        parsed = parse_lines(b"\n".join(texts), 0, self._limits)
        positions = {int(start): i for i, start in enumerate(starts)}
        for error in parsed.errors:
            yield self._reject(keyed[positions[error.offset]][0], error)
        encoded = self._loaded.engine.encode(parsed.batch)
        not_finite = set(encoded.not_finite().tolist())
        rows = [iter(matrix) for matrix in encoded.vectors]
        for number, offset in enumerate(parsed.batch.offsets_R.tolist()):
            key, vector = keyed[positions[offset]][0], next(rows[encoded.kinds_R[number]])
            if number in not_finite:
                yield self._reject(key, RecordError("not_finite", "its vector is not finite"))
            else:
                yield key, vector

    def _reject(self, key: Any, error: RecordError) -> beam.pvalue.TaggedOutput:
        if not self._rejects:
            raise RecordError(error.kind, f"{error.reason} (key {key!r})", error.path)
        return beam.pvalue.TaggedOutput(REJECTED, (key, f"{error.path}: {error.reason}"))


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
