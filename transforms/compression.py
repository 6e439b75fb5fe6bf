"""Compressed input: gzip and zstd, told by their first bytes, never cut short in silence.

A stream that ends early, goes on with something else or does not check out is a FileError;
what came before was yielded already, so nobody may publish before the iterator is done.
Memory is bounded by the piece and the window, not by what a small file may swell to.

(Beam's own CompressedFile takes a cut file for a whole one, and inflates 16 MiB at once.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Literal

import zstandard

from object2vec.errors import FileError

Kind = Literal["gzip", "zstd"]

HEAD_BYTES = 4
"""`detect` wants that many bytes of the file, or all of them."""
PIECE_BYTES = 1 << 20
MAX_WINDOW_BYTES = 1 << 27  # what the zstd command takes without `--long`

_SLICE_BYTES = 1 << 15
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SUFFIXES: dict[str, Kind] = {".gz": "gzip", ".zst": "zstd"}


def detect(head: bytes, file: str) -> Kind | None:
    """How a file is compressed; None if it is not.

    The first bytes decide; no JSON text begins like these. The name only objects.

    Args:
      head: the first `HEAD_BYTES` of the file, fewer if it is shorter.
      file: its name.

    Raises:
      FileError: the name ends in `.gz` or `.zst`, and the bytes are something else.

    Example:
      >>> detect(b"\\x1f\\x8b\\x08\\x00", "a.jsonl.gz")
      'gzip'
    """
    kind: Kind | None = None
    if head[:2] == _GZIP_MAGIC:
        kind = "gzip"
    elif head[:4] == _ZSTD_MAGIC or _is_skippable(head):
        kind = "zstd"
    promised = next((k for suffix, k in _SUFFIXES.items() if file.lower().endswith(suffix)), None)
    if promised and promised != kind:
        what = "empty" if not head else f"not {promised} data" + (f" but {kind}" if kind else "")
        raise FileError(file, f"the file is {what}, against its name")
    return kind


def decompress(chunks: Iterator[bytes], kind: Kind, file: str) -> Iterator[bytes]:
    """The decompressed stream, in pieces of at most `PIECE_BYTES`, none of them empty.

    Several gzip members or zstd frames follow one another; zeros behind the last gzip member
    are padding, as for gzip(1).

    Args:
      chunks: the compressed file, in order.
      file: its name, for errors.

    Raises:
      FileError: the stream ends early, is damaged, has something else behind its end, or
        needs a window larger than `MAX_WINDOW_BYTES`. It names the compressed byte.
    """
    return _gunzip(chunks, file) if kind == "gzip" else _unzstd(_Source(chunks, file), file)


def _gunzip(chunks: Iterator[bytes], file: str) -> Iterator[bytes]:
    chunks = _sliced(chunks)
    member = zlib.decompressobj(wbits=31)
    is_begun = False  # whether this member has seen a byte
    num_members = 0
    offset = 0  # of the compressed byte behind `data`
    for data in chunks:
        offset += len(data)
        # Output that does not fit into a piece waits inside, at the latest for the trailer.
        while data:
            start = offset - len(data)
            if not is_begun:
                if num_members and data[0] == 0:
                    _check_padding(data, chunks, file, start)
                    return
                if data[0] != _GZIP_MAGIC[0]:
                    what = "something that is not gzip" if num_members else "no gzip data"
                    raise _error(file, what, start)
                is_begun = True
            try:
                piece = member.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise _error(file, f"damaged gzip data ({error})", start) from None
            if piece:
                yield piece
            if member.eof:
                num_members += 1
                data, is_begun = member.unused_data, False
                member = zlib.decompressobj(wbits=31)
            else:
                data = member.unconsumed_tail
    if is_begun or not num_members:
        raise _error(file, "the gzip data ends early", offset)


def _sliced(chunks: Iterator[bytes]) -> Iterator[bytes]:
    # Each member hands back a copy of what follows it: small slices, small copies.
    for chunk in chunks:
        for start in range(0, len(chunk), _SLICE_BYTES):
            yield chunk[start : start + _SLICE_BYTES]


def _check_padding(data: bytes, chunks: Iterator[bytes], file: str, offset: int) -> None:
    while True:
        stripped = data.lstrip(b"\0")
        if stripped:
            place = offset + len(data) - len(stripped)
            raise _error(file, "something that is not gzip", place)
        offset += len(data)
        try:
            data = next(chunks)
        except StopIteration:
            return


def _unzstd(source: _Source, file: str) -> Iterator[bytes]:
    """Walks the frames block by block, for three reasons.

    A block gives at most 128 kB, so output is bounded however well it compresses; the walk
    knows where a frame must go on, so a cut is seen; and it knows where one ends, so what
    follows is. The library's own streams do only one of these at a time.

    Source: RFC 8878, section 3.1.
    """
    while True:
        start = source.offset
        magic = source.take(4)
        if magic == _ZSTD_MAGIC:
            yield from _zstd_frame(source, file)
        elif _is_skippable(magic):
            length = int.from_bytes(source.take(4), "little")
            while length:
                length -= len(source.take(min(length, PIECE_BYTES)))
        else:
            raise _error(file, "something that is not zstd", start)
        if source.at_end():
            return


def _zstd_frame(source: _Source, file: str) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    start = source.offset - len(_ZSTD_MAGIC)
    descriptor = source.take(1)
    flags = descriptor[0]
    single_segment, has_checksum = bool(flags & 0x20), bool(flags & 0x04)
    size_bytes = (1 if single_segment else 0, 2, 4, 8)[flags >> 6]
    header = source.take((not single_segment) + (0, 1, 2, 4)[flags & 3] + size_bytes)
    try:
        frame.decompress(_ZSTD_MAGIC + descriptor + header)
        is_last = False
        while not is_last:
            start = source.offset
            block_header = source.take(3)
            fields = int.from_bytes(block_header, "little")
            is_last, block_type, size = bool(fields & 1), fields >> 1 & 3, fields >> 3
            if size > 128 << 10:
                raise _error(file, "damaged zstd data (block too large)", start)
            # Type 1 is one byte, repeated `size` times.
            piece = frame.decompress(block_header + source.take(1 if block_type == 1 else size))
            if is_last and has_checksum:
                piece += frame.decompress(source.take(4))
            if piece:
                yield piece
    except zstandard.ZstdError as error:
        reason = str(error)
        if "too much memory" in reason:
            reason = f"needs a window of more than {MAX_WINDOW_BYTES >> 20} MiB: without --long"
        raise _error(file, f"damaged or unusable zstd data ({reason})", start) from None
    if not frame.eof:
        raise _error(file, "damaged zstd data (the frame does not end)", source.offset)


class _Source:
    """Chunks, to be taken byte by byte."""

    def __init__(self, chunks: Iterator[bytes], file: str) -> None:
        self._chunks = chunks
        self._file = file
        self._rest = bytearray()
        self.offset = 0

    def take(self, size: int) -> bytes:
        """Exactly so many bytes.

        Raises:
          FileError: the file ends before.
        """
        while len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                end = self.offset + len(self._rest)
                raise _error(self._file, "the zstd data ends early", end)
            self._rest += chunk
        taken = bytes(self._rest[:size])
        del self._rest[:size]
        self.offset += size
        return taken

    def at_end(self) -> bool:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return True
            self._rest += chunk
        return False


def _is_skippable(head: bytes) -> bool:
    """Frames of other programs inside zstd files; pzstd begins with one."""
    return len(head) >= 4 and head[0] >> 4 == 5 and head[1:4] == b"\x2a\x4d\x18"


def _error(file: str, reason: str, offset: int) -> FileError:
    # FileError's own offset counts decompressed bytes.
    return FileError(file, f"{reason}, at byte {offset} of the compressed file")
