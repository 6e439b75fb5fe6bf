"""Ragged batches of token ids: what the parser makes and the engine takes.

Shapes: R records, S sequences (a pair record has two), N ids in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IN0, IN1, PAIR = 0, 1, 2
"""What a record holds: `in0` alone, `in1` alone, or both (a pair to be scored)."""

KIND_NAMES = ("in0", "in1", "pair")


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Records side by side, without padding.

    Sequence s is `values_N[starts_S1[s]:starts_S1[s + 1]]`. Sequences stand in the
    order of their records; a pair has two, `in0` first.

    An id may be one more than the largest, the size of the vocabulary. It stands for an
    id outside the vocabulary that was clipped to the padding id: like MXNet, encoders
    read the padding id's row for it, and yet count it as a token (`clipped`).

    Attributes:
      values_N: int32 [N], ids.
      starts_S1: int64 [S + 1], where each sequence starts; the last entry is N.
      kinds_R: uint8 [R], IN0, IN1 or PAIR.
      offsets_R: int64 [R], byte offset of each record in its decompressed file.

    Example:
      >>> batch = TokenBatch.of([[5, 6], [7]], side=0)
      >>> batch.num_records, batch.num_tokens
      (2, 3)
      >>> batch.rows(1, 2).values_N.tolist()
      [7]
    """

    values_N: np.ndarray
    starts_S1: np.ndarray
    kinds_R: np.ndarray
    offsets_R: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], side: int) -> TokenBatch:
        """A batch of one side, from lists of ids. Offsets count the records.

        Raises:
          ValueError: `side` is not 0 or 1.
          OverflowError: an id does not fit in 32 bits.
        """
        if side not in (IN0, IN1):
            raise ValueError(f"side is {side!r}; it must be 0 or 1")
        return cls.build(sequences, [side] * len(sequences), range(len(sequences)))

    @classmethod
    def build(
        cls, sequences: Sequence[Sequence[int]], kinds: Sequence[int], offsets: Sequence[int]
    ) -> TokenBatch:
        """A batch from lists: S sequences, R kinds, R offsets.

        Raises:
          OverflowError: an id does not fit in 32 bits.
        """
        starts_S1 = np.zeros(len(sequences) + 1, np.int64)
        np.cumsum([len(s) for s in sequences], out=starts_S1[1:])
        values_N = np.empty(int(starts_S1[-1]), np.int32)
        for start, sequence in zip(starts_S1.tolist(), sequences, strict=False):
            values_N[start : start + len(sequence)] = sequence
        return cls(values_N, starts_S1, np.asarray(kinds, np.uint8), np.asarray(offsets, np.int64))

    @property
    def num_records(self) -> int:
        return len(self.kinds_R)

    @property
    def num_sequences(self) -> int:
        return len(self.starts_S1) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.values_N)

    @property
    def lengths_S(self) -> np.ndarray:
        """int64 [S], in ids."""
        return np.diff(self.starts_S1)

    @property
    def sides_S(self) -> np.ndarray:
        """uint8 [S], the encoder that each sequence is meant for: 0 or 1."""
        if not (self.kinds_R == PAIR).any():
            return self.kinds_R
        sides = np.repeat(self.kinds_R, np.where(self.kinds_R == PAIR, 2, 1))
        second = np.flatnonzero(sides == PAIR)
        sides[second[0::2]] = IN0
        sides[second[1::2]] = IN1
        return sides

    def first_sequence_of(self, record: int) -> int:
        """Index of the record's first sequence (R itself gives S)."""
        return record + int((self.kinds_R[:record] == PAIR).sum())

    def rows(self, start: int, stop: int) -> TokenBatch:
        """Records start to stop, without copying the ids."""
        s0, s1 = self.first_sequence_of(start), self.first_sequence_of(stop)
        starts_S1 = self.starts_S1[s0 : s1 + 1]
        v0, v1 = int(starts_S1[0]), int(starts_S1[-1])
        return TokenBatch(
            self.values_N[v0:v1],
            starts_S1 - v0,
            self.kinds_R[start:stop],
            self.offsets_R[start:stop],
        )

    @classmethod
    def concatenate(cls, batches: Sequence[TokenBatch]) -> TokenBatch:
        """One batch of all records, in order."""
        if len(batches) == 1:
            return batches[0]
        ends = np.cumsum([0, *(b.num_tokens for b in batches)])
        starts = [b.starts_S1[:-1] + end for b, end in zip(batches, ends, strict=False)]
        return cls(
            np.concatenate([b.values_N for b in batches] or [np.empty(0, np.int32)]),
            np.concatenate([*starts, ends[-1:]]).astype(np.int64),
            np.concatenate([b.kinds_R for b in batches] or [np.empty(0, np.uint8)]),
            np.concatenate([b.offsets_R for b in batches] or [np.empty(0, np.int64)]),
        )


def clipped(
    ids_N: np.ndarray, vocab_size: int | np.ndarray, padding_id: int | np.ndarray
) -> np.ndarray:
    """Ids as they stand in a TokenBatch: in the vocabulary, or its size.

    Args:
      ids_N: integers [N].
      vocab_size: one, or one for each id.
      padding_id: likewise.

    Example:
      >>> clipped(np.array([-7, 0, 3, 12]), vocab_size=10, padding_id=0).tolist()
      [10, 0, 3, 9]
    """
    nearest_N = ids_N.clip(0, vocab_size - 1)
    became_padding_N = (nearest_N == padding_id) & (ids_N != padding_id)
    return np.where(became_padding_N, vocab_size, nearest_N)
