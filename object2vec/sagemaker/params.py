"""Reads the index of MXNet's list of arrays, the format of `mx.nd.save`.

Sizes in the file are claims. Each is checked against the bytes that are there, in Python's
integers, which do not overflow, before anything is read or made by it.

Source: `src/ndarray/ndarray.cc` of Apache MXNet 1.3 to 1.9; all numbers are little-endian.

    list    uint64 0x112, uint64 0, uint64 N, N arrays, uint64 K, K names
    name    uint64 length, UTF-8: "arg:" or "aux:" and the variable's name
    array   magic of V1, V2 or V3 (before V1: none), [int32 storage type], [shape of the
            stored rows], shape, int32 device, int32 device's number, int32 type,
            [int32 type and shape of the row index], values, [row index]
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from object2vec.errors import ModelError
from object2vec.sagemaker.members import shown_name
from object2vec.sagemaker.stored import TYPES, StoredArray

__all__ = ["LIST_MAGIC", "StoredArray", "read_params"]

LIST_MAGIC = struct.pack("<Q", 0x112)

_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE, _ROW_SPARSE, _CSR = 0, 1, 2
_INT64_FLAG = 6

_MAX_ARRAYS = 10_000  # the largest Object2Vec network has fewer than 100
_MAX_DIMENSIONS = 32  # MXNet's own operators take no more
_MAX_NAME_BYTES = 1024
_MAX_BYTES = 2**62  # a shape beyond it does not fit into numpy's integers

_WINDOW_BYTES = 1 << 12


def read_params(file: BinaryIO, size: int, member: str) -> dict[str, StoredArray]:
    """The arrays of a params file, by name. Only the index is read.

    Args:
      file: a file that the system can map; its position is not used.
      size: in bytes.
      member: the archive's member, for messages.

    Returns:
      Arrays by name without `arg:`; without auxiliary states (`aux:`), of which a network
      of Object2Vec has none.

    Raises:
      ModelError: not such a file, damaged, cut, or of a kind that holds no weights.
    """
    cursor = _Cursor(file, size, member)
    if cursor.take(16, "the list's magic") != LIST_MAGIC + bytes(8):
        raise cursor.error("this is no list of arrays as MXNet writes it")
    num_arrays = cursor.number("<Q", "the number of arrays")
    if num_arrays > _MAX_ARRAYS:
        raise cursor.error(f"says it holds {num_arrays:,} arrays; {_MAX_ARRAYS:,} are the most")
    entries = [_read_entry(cursor, f"array {i} of {num_arrays}") for i in range(num_arrays)]
    num_names = cursor.number("<Q", "the number of names")
    if num_names != num_arrays:
        raise cursor.error(
            f"holds {num_arrays} arrays, but {num_names:,} names; without a name for each,"
            " nobody knows which is which"
        )
    arrays: dict[str, StoredArray] = {}
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        name = _read_name(cursor, f"name {i} of {num_names}")
        kind, _, rest = name.partition(":")
        variable = rest if kind in ("arg", "aux") and rest else name
        if variable in seen:
            raise cursor.error(f"array {shown_name(variable)} is there twice")
        seen.add(variable)
        if kind != "aux":
            arrays[variable] = entry.named(variable, cursor)
    if cursor.at != size:
        raise cursor.error(f"{size - cursor.at:,} bytes follow the names, which end the file")
    return arrays


@dataclass(frozen=True, slots=True)
class _Entry:
    """An array before its name is known. `type_flag` None: it has no values."""

    shape: tuple[int, ...] = ()
    type_flag: int | None = None
    values_offset: int = 0
    num_rows: int | None = None  # stored rows; None for a dense array
    index_offset: int = 0

    def named(self, name: str, cursor: _Cursor) -> StoredArray:
        type_name, layout = TYPES[self.type_flag or 0]
        return StoredArray(
            name=name,
            shape=self.shape,
            dtype=np.dtype(layout),
            is_row_sparse=self.num_rows is not None,
            type_name=type_name,
            member=cursor.member,
            is_empty=self.type_flag is None,
            file=cursor.file,
            values_offset=self.values_offset,
            num_rows=self.num_rows or 0,
            index_offset=self.index_offset,
        )


class _Cursor:
    """Walks through a file; what it takes is there, or it says where the file ends."""

    def __init__(self, file: BinaryIO, size: int, member: str) -> None:
        self.file = file
        self.member = member
        self.at = 0
        self._size = size
        self._window = b""
        self._window_at = 0

    def take(self, count: int, what: str) -> bytes:
        """The next bytes, at most `_WINDOW_BYTES`."""
        start = self.at
        self.skip(count, what)
        if not self._window_at <= start <= self.at <= self._window_at + len(self._window):
            self._window_at = start
            self._window = os.pread(self.file.fileno(), _WINDOW_BYTES, start)
        data = self._window[start - self._window_at : self.at - self._window_at]
        if len(data) != count:
            raise self.error(f"the file became shorter while {what} was read")
        return data

    def skip(self, count: int, what: str) -> None:
        if count > self._size - self.at:
            raise self.error(
                f"{what} needs {count:,} bytes from byte {self.at:,} on, but the member ends at"
                f" {self._size:,}; it was cut, or a size in it is wrong"
            )
        self.at += count

    def number(self, layout: str, what: str) -> int:
        return int(struct.unpack(layout, self.take(struct.calcsize(layout), what))[0])

    def error(self, what: str) -> ModelError:
        return ModelError(f"{self.member}: {what}")


def _read_entry(cursor: _Cursor, what: str) -> _Entry:
    magic = cursor.number("<I", what)
    if magic not in (_V1, _V2, _V3):
        if magic > _MAX_DIMENSIONS:
            raise cursor.error(f"{what} begins with {magic:#x}, which is no version of MXNet's")
        sizes = struct.unpack(f"<{magic}I", cursor.take(4 * magic, what))  # before V1
        return _read_values(cursor, sizes, what) if sizes else _Entry()
    storage = _DENSE if magic == _V1 else cursor.number("<i", what)
    if storage == _CSR:
        raise cursor.error(f"{what} is a csr matrix; Object2Vec has dense and row_sparse ones")
    if storage not in (_DENSE, _ROW_SPARSE):
        raise cursor.error(f"{what} has storage type {storage}, which MXNet does not define")
    is_numpy_shape = magic == _V3  # there -1 means unknown, and () is one number
    rows_shape = _read_shape(cursor, is_numpy_shape, what) if storage == _ROW_SPARSE else None
    shape = _read_shape(cursor, is_numpy_shape, what)
    if shape is None or (not shape and not is_numpy_shape):
        return _Entry()
    if storage == _DENSE:
        return _read_values(cursor, shape, what)
    return _read_row_sparse(cursor, rows_shape or (), shape, what)


def _read_shape(cursor: _Cursor, is_numpy_shape: bool, what: str) -> tuple[int, ...] | None:
    ndim = cursor.number("<i", what)
    if ndim == -1 and is_numpy_shape:
        return None
    if not 0 <= ndim <= _MAX_DIMENSIONS:
        raise cursor.error(f"{what} has {ndim:,} dimensions; {_MAX_DIMENSIONS} are the most")
    shape = struct.unpack(f"<{ndim}q", cursor.take(8 * ndim, what))
    if min(shape, default=0) < 0:
        raise cursor.error(f"{what} has shape {shape}, with a dimension below zero")
    return shape


def _read_type(cursor: _Cursor, what: str) -> int:
    """The type of the values; the device that they were on is of no interest."""
    cursor.take(8, what)
    flag = cursor.number("<i", what)
    if flag not in TYPES:
        raise cursor.error(f"{what} has type {flag}, which MXNet does not define")
    return flag


def _read_values(cursor: _Cursor, shape: tuple[int, ...], what: str) -> _Entry:
    flag = _read_type(cursor, what)
    offset = cursor.at
    cursor.skip(_size_bytes(cursor, shape, flag, what), what)
    return _Entry(shape, flag, offset)


def _read_row_sparse(
    cursor: _Cursor, rows_shape: tuple[int, ...], shape: tuple[int, ...], what: str
) -> _Entry:
    flag = _read_type(cursor, what)
    index_flag = cursor.number("<i", what)
    index_shape = _read_shape(cursor, False, what)
    if index_flag != _INT64_FLAG:
        raise cursor.error(f"{what} has a row index of type {index_flag}; it must be int64 (6)")
    if not shape or not rows_shape or rows_shape[1:] != shape[1:] or rows_shape[0] > shape[0]:
        raise cursor.error(f"{what} of shape {shape} stores rows of shape {rows_shape}")
    if index_shape != rows_shape[:1]:
        raise cursor.error(f"{what} stores {rows_shape[0]:,} rows, but its index is {index_shape}")
    _size_bytes(cursor, shape, flag, what)
    values_offset = cursor.at
    cursor.skip(_size_bytes(cursor, rows_shape, flag, what), what)
    index_offset = cursor.at
    cursor.skip(8 * rows_shape[0], what)
    return _Entry(shape, flag, values_offset, rows_shape[0], index_offset)


def _size_bytes(cursor: _Cursor, shape: tuple[int, ...], flag: int, what: str) -> int:
    itemsize = np.dtype(TYPES[flag][1]).itemsize
    # Dimensions of zero are left out: numpy multiplies the others as well.
    if 8 * math.prod(n for n in shape if n) > _MAX_BYTES:
        raise cursor.error(f"{what} has shape {shape}, which is too large for any machine")
    return itemsize * math.prod(shape)


def _read_name(cursor: _Cursor, what: str) -> str:
    length = cursor.number("<Q", what)
    if length > _MAX_NAME_BYTES:
        raise cursor.error(f"{what} is {length:,} bytes long; {_MAX_NAME_BYTES:,} are the most")
    data = cursor.take(length, what)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise cursor.error(f"{what} is not UTF-8: {shown_name(data)}") from None
