"""One array of a params file: where it lies, and how it becomes float32.

An array is read when it is asked for, in pieces, so that a table of gigabytes costs no
memory: it is a private map of the file, or converted into another file and that one mapped.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from object2vec.errors import ModelError
from object2vec.sagemaker.members import shown_name

Floats = np.ndarray[Any, np.dtype[np.float32]]

TYPES: dict[int, tuple[str, str]] = {
    0: ("float32", "<f4"),
    1: ("float64", "<f8"),
    2: ("float16", "<f2"),
    3: ("uint8", "u1"),
    4: ("int32", "<i4"),
    5: ("int8", "i1"),
    6: ("int64", "<i8"),
    7: ("bool", "?"),
    8: ("int16", "<i2"),
    9: ("uint16", "<u2"),
    10: ("uint32", "<u4"),
    11: ("uint64", "<u8"),
    12: ("bfloat16", "<u2"),
}
"""MXNet's type flags: the name of the type, and what numpy reads it as."""

_WEIGHT_TYPES = ("float32", "float64", "float16", "bfloat16")

_PIECE_BYTES = 8 << 20
_IN_MEMORY_BYTES = 16 << 20
"""Larger results lie in a file, of which the system holds only as much as fits."""

_FREE_DENSE_BYTES = 24 << 20  # of each of two tables
_MAX_SWELL = 1000
"""How many times larger than what is stored the dense form of a row_sparse array may be.
A table of 3,000,000 rows that saw one token in a thousand is honest; a shape alone, with
next to nothing stored, could ask for any size."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """An array in a params file; `float32` reads it.

    Good for as long as the file is open. A map that `float32` gave lives on by itself.

    Attributes:
      name: without `arg:`.
      shape: the dense shape, also of a row_sparse array; empty for one without values.
      dtype: as stored, little-endian; bfloat16 is two bytes to numpy.
      is_row_sparse: rows that are not stored are zero.
      type_name: MXNet's name of the type.
      member: the archive's member, for messages.
      is_empty: an entry without values ("none array").
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_row_sparse: bool
    type_name: str
    member: str
    is_empty: bool
    file: BinaryIO
    values_offset: int
    num_rows: int  # stored rows of a row_sparse array
    index_offset: int

    def float32(self, scratch: Path) -> Floats:
        """The array, dense, C-contiguous; writing to it changes nothing else.

        Args:
          scratch: a folder for nameless files, for what is too large for memory.

        Raises:
          ModelError: the type is no float, a number is too large for float32, rows are out
            of order or of range, or the dense form is out of all proportion.
          OSError: `scratch` cannot be written, or is full.
        """
        if self.is_empty:
            raise self._error("has no values, only a name")
        if self.type_name not in _WEIGHT_TYPES:
            raise self._error(
                f"is of type {self.type_name}; weights must be one of {', '.join(_WEIGHT_TYPES)}"
            )
        rows = self._row_index() if self.is_row_sparse else None
        size_bytes = 4 * math.prod(self.shape)
        if rows is not None:
            self._check_swell(size_bytes, len(rows))
            if len(rows) == self.shape[0]:
                rows = None  # all rows, in order: the values are the dense array
        is_plain = rows is None and self.type_name == "float32"
        if size_bytes and is_plain and self.values_offset % 4 == 0:
            return np.memmap(self.file, np.float32, "c", self.values_offset, self.shape)
        pieces = self._dense_pieces() if rows is None else self._sparse_pieces(rows)
        if size_bytes <= _IN_MEMORY_BYTES:
            array = np.zeros(math.prod(self.shape), np.float32)
            start = 0
            for piece in pieces:
                array[start : start + len(piece)] = piece
                start += len(piece)
            return array.reshape(self.shape)
        # Written, not mapped while it is made: pages in a map would count as memory in use.
        with tempfile.TemporaryFile(dir=scratch) as file:
            for piece in pieces:
                file.write(piece.data)
            file.flush()
            return np.memmap(file, np.float32, "c", shape=self.shape)

    def _dense_pieces(self) -> Iterator[Floats]:
        """The values in order, flat, at most `_PIECE_BYTES` each."""
        yield from self._converted(0, math.prod(self.shape))

    def _sparse_pieces(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Floats]:
        """The dense array in order, flat. The index ascends, so rows lie in order as well."""
        width = math.prod(self.shape[1:])
        rows_at_once = max(1, _PIECE_BYTES // (4 * width)) if width else self.shape[0]
        for start in range(0, self.shape[0] if width else 0, rows_at_once):
            stop = min(start + rows_at_once, self.shape[0])
            first, last = (int(i) for i in np.searchsorted(rows, [start, stop]))
            block = np.zeros((stop - start, width), np.float32)
            at = first
            for piece in self._converted(first * width, last * width, width):
                held = piece.reshape(-1, width)
                block[rows[at : at + len(held)] - start] = held
                at += len(held)
            yield block.reshape(-1)

    def _converted(self, start: int, stop: int, step: int = 1) -> Iterator[Floats]:
        """Stored numbers `start` to `stop` as float32, in pieces of a multiple of `step`."""
        at_once = max(1, _PIECE_BYTES // (self.dtype.itemsize * step)) * step
        for first in range(start, stop, at_once):
            count = min(at_once, stop - first)
            offset = self.values_offset + first * self.dtype.itemsize
            data = os.pread(self.file.fileno(), count * self.dtype.itemsize, offset)
            if len(data) != count * self.dtype.itemsize:
                raise self._error("ends early: the file became shorter while it was read")
            yield self._as_float32(np.frombuffer(data, self.dtype))

    def _as_float32(self, numbers: np.ndarray[Any, Any]) -> Floats:
        if self.type_name == "bfloat16":
            return (numbers.astype(np.uint32) << 16).view(np.float32)
        # What is too large is looked for below; a signalling NaN ("invalid") becomes a quiet one.
        with np.errstate(over="ignore", invalid="ignore"):
            converted = numbers.astype(np.float32)
        if self.type_name == "float64":
            too_large = np.isinf(converted) & np.isfinite(numbers)
            if too_large.any():
                number = float(numbers[too_large.argmax()])
                raise self._error(f"holds {number!r}, which is too large for float32")
        return converted

    def _row_index(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 [stored rows], checked: strictly ascending, within the shape."""
        if not self.num_rows:
            return np.zeros(0, np.int64)
        rows = np.memmap(self.file, np.int64, "r", self.index_offset, (self.num_rows,))
        if not (rows[1:] > rows[:-1]).all():
            raise self._error("has an index of rows that does not ascend; the file is damaged")
        if rows[0] < 0 or rows[-1] >= self.shape[0]:
            wrong = rows[0] if rows[0] < 0 else rows[-1]
            raise self._error(
                f"stores row {wrong}, but has rows 0 to {self.shape[0] - 1}; the file is damaged"
            )
        return rows

    def _check_swell(self, size_bytes: int, num_rows: int) -> None:
        stored_bytes = num_rows * (8 + math.prod(self.shape[1:]) * self.dtype.itemsize)
        if size_bytes > max(_FREE_DENSE_BYTES, _MAX_SWELL * stored_bytes):
            raise self._error(
                f"of shape {self.shape} needs {size_bytes:,} bytes, but only {stored_bytes:,} are"
                f" stored; more than {_MAX_SWELL} times that is refused"
            )

    def _error(self, what: str) -> ModelError:
        return ModelError(f"{self.member}: array {shown_name(self.name)} {what}")
