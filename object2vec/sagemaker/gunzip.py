"""A gzip stream that is read once, from front to end, and may not swell without limit."""

from __future__ import annotations

import zlib
from typing import BinaryIO, Protocol

from object2vec.errors import ModelError

GZIP_MAGIC = b"\x1f\x8b"

FREE_BYTES = 64 << 20
"""So much may come out of anything: it is read in a fraction of a second."""
MAX_RATIO = 200
"""Beyond `FREE_BYTES`, at most so many bytes may come out for one that goes in. Weights give
less than 2, tables full of zero rows perhaps 50; deflate could do 1,032."""

_SLICE_BYTES = 1 << 15
_PIECE_BYTES = 1 << 18
_MIN_MEMBER_BYTES = 1 << 10
_FREE_MEMBERS = 1000
"""A file of nothing but empty gzip members would take a minute for each 100 MB."""


class Source(Protocol):
    """What can be read forwards."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes; fewer only at the end."""


class GzipSource:
    """The decompressed bytes of a gzip file, checked to its last byte.

    Several members follow one another; zeros behind the last one are padding.

    Args:
      file: the compressed file, at its beginning.

    Raises:
      ModelError: from `read`: damaged, cut, followed by something else, or a bomb.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._member = zlib.decompressobj(wbits=31)
        self._data = b""  # compressed, not yet used
        self._is_begun = False  # whether this member has seen a byte
        self._num_members = 0
        self._bytes_in = 0
        self._bytes_out = 0
        self._ready = bytearray()
        self._is_done = False

    def read(self, size: int, /) -> bytes:
        while len(self._ready) < size and not self._is_done:
            self._advance()
        data = bytes(self._ready[:size])
        del self._ready[:size]
        return data

    def _advance(self) -> None:
        if not self._data:
            self._data = self._file.read(_SLICE_BYTES)
            self._bytes_in += len(self._data)
        if not self._data:
            if self._is_begun or not self._num_members:
                raise self._error("ends early; it was cut, so fetch it again")
            self._is_done = True
            return
        if not self._is_begun:
            self._begin()
            return
        try:
            piece = self._member.decompress(self._data, _PIECE_BYTES)
        except zlib.error as error:
            raise self._error(f"is damaged ({error}); fetch it again") from None
        self._ready += piece
        self._bytes_out += len(piece)
        if self._bytes_out > max(FREE_BYTES, MAX_RATIO * self._bytes_in):
            raise self._error(
                f"swells to more than {MAX_RATIO} times its size; no weights do, so it is refused"
            )
        if self._member.eof:
            self._data, self._is_begun = self._member.unused_data, False
            self._num_members += 1
            if self._num_members > _FREE_MEMBERS + self._bytes_in // _MIN_MEMBER_BYTES:
                raise self._error("is made of very many tiny members; it is refused")
        else:
            self._data = self._member.unconsumed_tail

    def _begin(self) -> None:
        """A member begins here, or the padding."""
        if self._num_members and self._data[0] == 0:
            self._data = self._data.lstrip(b"\0")
            if not self._data:
                return
        if self._data[0] != GZIP_MAGIC[0]:
            raise self._error("is followed by something that is not gzip; fetch it again")
        self._member = zlib.decompressobj(wbits=31)
        self._is_begun = True

    def _error(self, what: str) -> ModelError:
        return ModelError(f"the gzip stream, at byte {self._bytes_in - len(self._data):,}, {what}")
