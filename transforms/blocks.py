"""Cutting a stream of bytes into blocks of whole lines. Knows no Beam, no files.

A file is laid on a grid of cells. A line belongs to the cell, and so to the span, that
holds its first byte. Blocks therefore depend on the file alone, not on how it was read:

    cell 0            cell 1            cell 2
    |.....\\n....\\n...|....\\n...........|.......\\n.....
     block 0 ------------->            |block 2 --->
                        block 1 -------------->
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from transforms.manifest import FINGERPRINT_CELL

BLOCK_BYTES = FINGERPRINT_CELL
"""Size of a cell, and so about the size of a block."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines that lie side by side.

    Attributes:
      offset: of the first byte in the decompressed file.
      data: the lines. Of one that is longer than the limit only the head is kept, and it
        is the last of its block, so that offsets stay true.
      ends_cell: no more lines begin in this cell.
    """

    offset: int
    data: bytes
    ends_cell: bool


def cut_lines(
    chunks: Iterable[bytes],
    *,
    start: int,
    stop: int | None,
    max_line_bytes: int,
    cell_bytes: int = BLOCK_BYTES,
) -> Iterator[Lines]:
    """The lines that begin in [start, stop), cell by cell.

    Args:
      chunks: the file's bytes from `max(start - 1, 0)` on, until its end or until a
        newline at or after `stop - 1`. Chunks may have any length.
      start: a multiple of `cell_bytes`.
      stop: None for the end of the stream.
      max_line_bytes: longer lines, newline aside, are cut (see Lines).
      cell_bytes: distance of the grid's lines.

    Yields:
      Lines in order. An empty cell yields nothing. Memory: about a cell, a chunk and a line.
    """
    stream = _Stream(chunks, max(start - 1, 0))
    # Through the whole span, though no line that begins in it can follow its last byte:
    # who counts or hashes the chunks has then seen all of it.
    if start > 0 and not stream.drop_line(stop):
        return
    while stream.fill(1) and (stop is None or stream.offset < stop):
        cell_end = (stream.offset // cell_bytes + 1) * cell_bytes
        if stop is not None:
            cell_end = min(cell_end, stop)
        yield from _cell(stream, cell_end, max_line_bytes)


def _cell(stream: _Stream, cell_end: int, max_line_bytes: int) -> Iterator[Lines]:
    """The lines that begin before `cell_end`; the stream stands at the first of them."""
    while stream.offset < cell_end:
        # The last line that begins in the cell ends at the first newline at or after
        # cell_end - 1; all before it are whole as soon as the cell is in memory.
        stream.fill(cell_end - stream.offset)
        tail = stream.find_newline(cell_end - 1 - stream.offset, max_line_bytes)
        length = stream.length if tail is None and stream.at_end else None
        if tail is not None:
            length = tail + 1
        if length is not None:
            long = stream.first_long_line(length, max_line_bytes)
            if long is None:
                offset = stream.offset
                yield Lines(offset, stream.take(length), ends_cell=True)
                return
        else:
            # The cell's last line runs on past the limit.
            long = stream.first_long_line(stream.length, max_line_bytes)
            if long is None:
                raise AssertionError("a line without an end is shorter than its limit")
        offset = stream.offset
        data = stream.take(long + max_line_bytes + 1)
        more = stream.drop_line()
        ends_cell = stream.offset >= cell_end or not more
        if not data.endswith(b"\n"):
            data += b"\n"
        yield Lines(offset, data, ends_cell)
        if not more:
            return


class _Stream:
    """Bytes that were read and not yet taken, and where they begin."""

    def __init__(self, chunks: Iterable[bytes], offset: int) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()
        self.offset = offset
        self.at_end = False

    @property
    def length(self) -> int:
        return len(self._buffer)

    def fill(self, length: int) -> bool:
        """Reads until `length` bytes are there; False if the stream ends before."""
        while len(self._buffer) < length and not self.at_end:
            chunk = next(self._chunks, None)
            if chunk is None:
                self.at_end = True
            else:
                self._buffer += chunk
        return len(self._buffer) >= length

    def find_newline(self, position: int, limit: int) -> int | None:
        """Position of the first newline at or after `position`.

        None if the stream ends before one, or if none comes within `limit` bytes and a
        chunk: then some line is longer than the limit.
        """
        position = max(position, 0)
        searched_from = position
        while True:
            found = self._buffer.find(b"\n", position)
            if found >= 0:
                return found
            position = len(self._buffer)
            if position - searched_from > limit + 1 or not self.fill(position + 1):
                return None

    def first_long_line(self, length: int, limit: int) -> int | None:
        """Start of the first line within the first `length` bytes that is over the limit."""
        begin = 0
        while length - begin > limit:
            # A newline in the next limit + 1 bytes: all lines up to the last such newline
            # are short enough, so jump there.
            end = self._buffer.rfind(b"\n", begin, min(begin + limit + 1, length))
            if end < 0:
                return begin
            begin = end + 1
        return None

    def take(self, length: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        self.offset += len(data)
        return data

    def drop_line(self, until: int | None = None) -> bool:
        """Forgets everything through the next newline.

        Returns:
          False if the stream ends before one, or if there is none before `until`: who
          looks for a line that begins in a span need not read on behind the span.
        """
        while True:
            found = self._buffer.find(b"\n")
            if found >= 0:
                self.take(found + 1)
                return True
            self.take(len(self._buffer))
            if (until is not None and self.offset >= until) or not self.fill(1):
                return False
