"""Compares a model with answers that somebody has: a sample of SageMaker's, for one."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from object2vec.engine import Engine
from object2vec.errors import InputError
from object2vec.model import Object2Vec
from object2vec.parsing import Limits, parse_lines
from object2vec.tokens import PAIR

ATOL = RTOL = 1e-5
"""Two float32 programs of one model agree about ten times better than this."""


class _Answer(msgspec.Struct):
    embeddings: list[float] | None = None
    scores: list[float] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the answers of one kind are apart.

    Attributes:
      kind: `embeddings` or `scores`.
      num_lines: how many were compared.
      largest: the largest absolute difference of a number; 0.0 without lines.
      tolerance_share: the largest `|actual - expected| / (ATOL + RTOL * |expected|)`; above
        1 the two disagree.
      worst_line: 1-based line of that; 0 without lines.
    """

    kind: str
    num_lines: int
    largest: float
    tolerance_share: float
    worst_line: int

    @property
    def agrees(self) -> bool:
        """Whether every number lies within the tolerance."""
        return self.tolerance_share <= 1

    def __str__(self) -> str:
        if not self.num_lines:
            return f"no {self.kind} to compare"
        return (
            f"{self.num_lines:,} {self.kind}: largest difference {self.largest:.1e},"
            f" {self.tolerance_share:.1%} of the tolerance ({ATOL:g} + {RTOL:g} of the value)"
            f" at most, in line {self.worst_line:,}"
        )


def compare(model: Object2Vec, records: bytes, expected: bytes) -> tuple[Difference, Difference]:
    """Encodes records and compares with what is expected, line by line.

    Args:
      records: lines of JSON with `in0`, `in1` or both: a sample, held in memory.
      expected: as many lines, `{"embeddings":[...]}` or `{"scores":[...]}`.

    Returns:
      The differences of the embeddings and of the scores.

    Raises:
      InputError: a line cannot be read, the two have not the same number of lines, or an
        answer is of another kind or length than the model's; names the line.
    """
    parsed = parse_lines(records, 0, Limits.of(model.config))
    for error in parsed.errors[:1]:
        line = 1 + records.count(b"\n", 0, error.offset)
        raise InputError(f"line {line} of the records: {error.reason}")
    answers = expected.splitlines()
    if len(answers) != parsed.num_lines:
        raise InputError(
            f"{parsed.num_lines:,} records, but {len(answers):,} expected answers; line i of one"
            " must belong to line i of the other"
        )
    encoded = Engine(model, device="cpu").encode(parsed.batch)
    rows = [iter(matrix) for matrix in encoded.vectors]
    found: dict[str, list[tuple[float, float, int]]] = {"embeddings": [], "scores": []}
    for line, (kind, answer) in enumerate(zip(encoded.kinds_R.tolist(), answers, strict=True), 1):
        name = "scores" if kind == PAIR else "embeddings"
        actual = next(rows[kind]).astype(np.float64)
        expected_numbers = _numbers(answer, name, len(actual), line)
        difference = np.abs(actual - expected_numbers)
        with np.errstate(invalid="ignore"):
            share = (difference / (ATOL + RTOL * np.abs(expected_numbers))).max()
        # A NaN agrees with nothing, and would lose every comparison.
        share = share if np.isfinite(share) else np.inf
        found[name].append((float(share), float(difference.max()), line))
    embeddings, scores = (_difference(name, lines) for name, lines in found.items())
    return embeddings, scores


def _numbers(text: bytes, name: str, count: int, line: int) -> np.ndarray:
    try:
        numbers = getattr(_decode(text), name)
    except msgspec.MsgspecError as error:
        raise InputError(f"line {line} of the expected answers: {error}") from error
    if numbers is None or len(numbers) != count:
        raise InputError(
            f"line {line} of the expected answers: not {count} {name}, as the model gives"
        )
    with np.errstate(over="ignore"):  # too large for a float32: no answer of such a model
        # Whatever digits they were printed with, they were float32.
        return np.array(numbers, np.float32).astype(np.float64)


def _difference(name: str, lines: list[tuple[float, float, int]]) -> Difference:
    share, _, worst_line = max(lines, default=(0.0, 0.0, 0))
    largest = max((largest for _, largest, _ in lines), default=0.0)
    return Difference(name, len(lines), largest, share, worst_line)
