"""Vectors of one batch, and their JSON text.

    Encoded (float32)  ->  to_json_rows  ->  b'{"embeddings":[0.5,-1.0]}' per record

The text of a number is the shortest that reads back as the same float32. Zero is
`0.0` whatever its sign, so that the sign of a rounding error shows nowhere.

Shapes: R records; n0, n1, n2 records of each kind (`in0`, `in1`, pair); D0, D1 the
encoders' dimensions; C classes (1 for a regression).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson

from object2vec.tokens import KIND_NAMES, PAIR

_ROWS_AT_ONCE = 512  # the copy without -0.0 stays in the cache: 512 rows of 300 are 600 kB


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What the model answers to a TokenBatch, a matrix per kind of record.

    Row i of `vectors[k]` belongs to the i-th record of kind k.

    Attributes:
      kinds_R: uint8 [R], IN0, IN1 or PAIR.
      vectors: float32 matrices: embeddings [n0, D0] and [n1, D1], scores [n2, C].

    Raises:
      ValueError: a matrix is not float32, not two-dimensional, or not as long as
        `kinds_R` says.

    Example:
      >>> one = np.ones((1, 2), np.float32)
      >>> none = np.empty((0, 3), np.float32)
      >>> to_json_rows(Encoded(np.array([0], np.uint8), (one, none, none)))
      [b'{"embeddings":[1.0,1.0]}']
    """

    kinds_R: np.ndarray
    vectors: tuple[np.ndarray, np.ndarray, np.ndarray]

    def __post_init__(self) -> None:
        counts = np.bincount(self.kinds_R, minlength=3).tolist()
        if len(counts) != len(self.vectors):
            raise ValueError(f"kinds_R holds {max(self.kinds_R)}; it may hold 0, 1 and 2")
        for name, count, matrix in zip(KIND_NAMES, counts, self.vectors, strict=True):
            if matrix.dtype != np.float32 or matrix.ndim != 2 or len(matrix) != count:
                raise ValueError(
                    f"vectors of {name}: {matrix.dtype} {list(matrix.shape)};"
                    f" expected float32 [{count}, dimension]"
                )

    @property
    def num_records(self) -> int:
        return len(self.kinds_R)

    def rows(self, start: int, stop: int) -> Encoded:
        """Records start to stop (0 <= start <= stop <= R), without copying the vectors."""
        before = np.bincount(self.kinds_R[:start], minlength=3)
        until = before + np.bincount(self.kinds_R[start:stop], minlength=3)
        in0, in1, pair = (
            matrix[a:b] for matrix, a, b in zip(self.vectors, before, until, strict=True)
        )
        return Encoded(self.kinds_R[start:stop], (in0, in1, pair))

    def not_finite(self) -> np.ndarray:
        """int64, ascending: the records whose vector holds a NaN or an infinity."""
        bad_R = np.zeros(self.num_records, np.bool_)
        for kind, matrix in enumerate(self.vectors):
            bad_R[self.kinds_R == kind] = ~np.isfinite(matrix).all(axis=1)
        return np.flatnonzero(bad_R)


def to_json_rows(encoded: Encoded) -> list[bytes]:
    """The answer of every record as one JSON object without a newline, in record order.

    `{"embeddings":[...]}` for a record of one side, `{"scores":[...]}` for a pair.

    Raises:
      ValueError: a vector holds NaN or Infinity, for which JSON has no number.
    """
    bad = encoded.not_finite()
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {encoded.num_records} vectors hold NaN or Infinity, the first"
            f" is that of record {bad[0]}; JSON has no such numbers"
        )
    kinds = np.unique(encoded.kinds_R).tolist()
    if len(kinds) == 1:  # the usual batch
        return list(_texts(kinds[0], encoded.vectors[kinds[0]]))
    texts = [_texts(kind, matrix) for kind, matrix in enumerate(encoded.vectors)]
    return [next(texts[kind]) for kind in encoded.kinds_R.tolist()]


def _texts(kind: int, matrix: np.ndarray) -> Iterator[bytes]:
    head = b'{"scores":' if kind == PAIR else b'{"embeddings":'
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        # -0.0 + 0.0 is 0.0, and nothing else changes. orjson wants rows without gaps.
        rows = np.ascontiguousarray(matrix[start : start + _ROWS_AT_ONCE] + np.float32(0))
        for row in rows:
            yield head + orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) + b"}"
