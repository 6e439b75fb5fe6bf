"""Read: a unit becomes blocks of whole lines, or the manifests of an earlier attempt."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from object2vec.errors import FileError
from transforms.blocks import cut_lines
from transforms.board import Board
from transforms.compression import decompress, detect
from transforms.manifest import MARKER_DECODER, Fingerprint, Span, SpanManifest, Unit
from transforms.recipe import JSON_DOCUMENT, Recipe
from transforms.storage import Store, open_store

_LOG = logging.getLogger(__name__)

MARKERS = "_o2v/units"
"""Folder of the markers, below the output directory."""

MAX_DOCUMENT_BYTES = 256 * 2**20
"""A JSON document is parsed whole; a larger one is refused."""

DONE = "done"
"""Tag of the output that carries manifests of units which an earlier attempt finished."""


@dataclass(frozen=True, slots=True)
class SpanEnd:
    """Comes with the last block of a span.

    Attributes:
      fingerprint: of the span's bytes as stored.
      failed: why the file cannot be done; None if it can.
      ends_unit: no more spans come in this unit.
    """

    fingerprint: str
    failed: str | None
    ends_unit: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of one span (or one whole document).

    Attributes:
      unit, span: what they belong to.
      offset: of `data` in the decompressed file.
      data: whole lines, about 256 KiB; may be empty in the last block of a span.
      ends_cell: no more lines begin in this cell of the file's grid.
      end: set in the last block of a span.
    """

    unit: Unit
    span: Span
    offset: int
    data: bytes
    ends_cell: bool
    end: SpanEnd | None


class ReadUnits(beam.PTransform):
    """Units to Blocks, in order within a unit; `DONE`: SpanManifests that exist already.

    A unit whose marker exists was finished by an earlier attempt: its manifests are
    taken out of the marker, and nothing is read. Every other span yields at least one
    Block, and its last one says so, also where the file cannot be read.
    """

    def __init__(self, output: str, recipe: Recipe, board: str | None) -> None:
        super().__init__()
        self._fn = _ReadFn(output, recipe, board)

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection:
        return units | "Blocks" >> beam.ParDo(self._fn).with_outputs(DONE, main="blocks")


class _ReadFn(beam.DoFn):
    def __init__(self, output: str, recipe: Recipe, board: str | None) -> None:
        self._output = output
        self._recipe = recipe
        self._board_folder = board

    def setup(self) -> None:
        self._store = open_store(self._output)
        self._stores: dict[str, Store] = {}
        self._board = Board(self._board_folder)

    def process(self, unit: Unit) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        manifests = load_marker(self._store, unit, self._recipe.hash)
        if manifests is not None:
            for manifest in manifests:
                yield beam.pvalue.TaggedOutput(DONE, manifest)
            return
        for span in unit.spans:
            store = self._stores.get(span.file.store) or open_store(span.file.store)
            self._stores[span.file.store] = store
            for block in read_span(store, unit, span, self._recipe):
                self._board.check_stop()
                if block.end is not None and block.end.failed is not None:
                    _LOG.info("set aside: %s", block.end.failed)
                yield block


def load_marker(store: Store, unit: Unit, recipe_hash: str) -> tuple[SpanManifest, ...] | None:
    """The manifests of a unit that is done already; None if it is not."""
    name = f"{MARKERS}/{unit.key(recipe_hash)}.json"
    if store.stat(name) is None:
        return None
    return MARKER_DECODER.decode(store.read(name)).manifests


def read_span(store: Store, unit: Unit, span: Span, recipe: Recipe) -> Iterator[Block]:
    """The blocks of one span. A file that cannot be read ends in a block that says why."""
    ends_unit = span is unit.spans[-1]
    raw = _RawSpan(store, span)
    held: Block | None = None
    failed = None
    try:
        for offset, data, ends_cell in _pieces(raw, span, recipe):
            if held is not None:
                yield held
            held = Block(unit, span, offset, data, ends_cell, None)
        raw.check_unchanged()
    except FileError as error:
        failed = FileError(span.file.uri, error.reason, error.offset)
    end = SpanEnd(raw.fingerprint.hexdigest(), None if failed is None else str(failed), ends_unit)
    if held is None:
        held = Block(unit, span, span.start, b"", True, None)
    yield Block(held.unit, held.span, held.offset, held.data, held.ends_cell, end)


def _pieces(raw: _RawSpan, span: Span, recipe: Recipe) -> Iterator[tuple[int, bytes, bool]]:
    """(offset, bytes, ends_cell) of a span's blocks, decompressed."""
    head = raw.head()
    kind = detect(head, span.file.name) if span.start == 0 else None
    if kind is None:
        chunks, stop = raw.chunks(), None if span.stop == span.file.size else span.stop
    elif span.is_whole_file:
        chunks, stop = decompress(raw.chunks(), kind, span.file.name), None
    else:
        raise FileError(span.file.name, f"holds {kind} data without a name that says so")
    if recipe.content_type == JSON_DOCUMENT:
        yield 0, _whole(chunks, span), True
        return
    for lines in cut_lines(
        chunks, start=span.start, stop=stop, max_line_bytes=recipe.max_line_bytes
    ):
        yield lines.offset, lines.data, lines.ends_cell


def _whole(chunks: Iterator[bytes], span: Span) -> bytes:
    document = bytearray()
    for chunk in chunks:
        document += chunk
        if len(document) > MAX_DOCUMENT_BYTES:
            raise FileError(
                span.file.name,
                f"the document is over {MAX_DOCUMENT_BYTES} bytes, and a document is parsed whole; "
                "split it, or use application/jsonlines",
            )
    return bytes(document)


class _RawSpan:
    """The bytes of a span as stored, and their fingerprint.

    Reading goes on behind the span's end as long as someone asks: its last line may end
    there. Only the span's own bytes enter the fingerprint.
    """

    def __init__(self, store: Store, span: Span) -> None:
        self._store = store
        self._span = span
        self._chunk_bytes = 2**20 if store.is_local else 8 * 2**20
        self.fingerprint = Fingerprint(span.start)

    def head(self) -> bytes:
        """The file's first bytes, if the span holds them."""
        file = self._span.file
        if self._span.start > 0:
            return b""
        return self._store.read(file.name, 0, min(4, file.size), file.version)

    def chunks(self) -> Iterator[bytes]:
        """From the byte before the span on (that tells whether a line begins at its start)."""
        file, start, stop = self._span.file, self._span.start, self._span.stop
        position = max(start - 1, 0)
        while position < file.size:
            end = min(position + self._chunk_bytes, file.size)
            if position < stop < end:
                # A chunk of its own behind the end: most last lines are short.
                end = stop
            elif position >= stop:
                end = min(position + 64 * 1024, file.size)
            data = self._store.read(file.name, position, end, file.version)
            own = memoryview(data)[max(start - position, 0) : max(stop - position, 0)]
            self.fingerprint.update(own)
            position = end
            yield data

    def check_unchanged(self) -> None:
        """
        Raises:
          FileError: the file is not the one that was planned any more.
        """
        now = self._store.stat(self._span.file.name)
        if now is None or now.version != self._span.file.version:
            raise FileError(self._span.file.name, "changed while it was read; run again")
