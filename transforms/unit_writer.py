"""The writer of units: vectors become text in parts, a finished unit gets its marker.

Knows no Beam. On disks consecutive spans of a file grow one part, so that publishing an
undisturbed file is one rename; on object stores a unit has one part.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec

from transforms.board import Board
from transforms.encode import EncodedBlock
from transforms.lock import boot_id
from transforms.manifest import (
    Counts,
    FileEntry,
    Marker,
    Refusal,
    Span,
    SpanManifest,
    Unit,
    WrittenPiece,
)
from transforms.parse import describe
from transforms.publish import PARTS, publish_file
from transforms.read import MARKERS
from transforms.recipe import DEAD_LETTER, Recipe
from transforms.sinks import Sink, make_sink
from transforms.sinks.json_lines import join_refusals
from transforms.storage import PartWriter, Store

SHOWN_REFUSALS = 10
"""Refusals of a span that its manifest repeats."""

_PUBLISHING_THREADS = 16


@dataclass(slots=True)
class _Part:
    """A part that is being written, and the hash of its bytes so far."""

    name: str
    writer: PartWriter
    sha256: object = field(default_factory=hashlib.sha256)
    # On disks: the file whose spans grow it, and where the next span must begin.
    output: str | None = None
    next_start: int = -1
    committed: bool = False

    def write(self, data: bytes) -> None:
        if data:
            self.writer.write(data)
            self.sha256.update(data)  # type: ignore[attr-defined]

    def piece(self, offset: int) -> WrittenPiece:
        """What was written since `offset`."""
        length = self.writer.tell() - offset
        return WrittenPiece(self.name, offset, length, self.sha256.hexdigest())  # type: ignore[attr-defined]


@dataclass(slots=True)
class _OpenSpan:
    """A span that is being written."""

    span: Span
    sink: Sink
    part: _Part | None
    offset: int
    rejected_offset: int
    counts: Counts = field(default_factory=Counts)
    refusals: list[Refusal] = field(default_factory=list)
    failed: str | None = None


class UnitWriter:
    """Writes blocks in order, unit after unit. Knows no Beam.

    Args:
      store: of the output directory.
      recipe: decides the format.
      board: where progress is posted.
    """

    def __init__(self, store: Store, recipe: Recipe, board: Board) -> None:
        self._store = store
        self._recipe = recipe
        self._board = board
        self._attempt = uuid.uuid4().hex[:16]
        self._num_parts = 0
        self._part: _Part | None = None
        self._rejected: _Part | None = None
        self._open: _OpenSpan | None = None
        self._manifests: list[SpanManifest] = []
        self._written_bytes = 0
        self._boot_id = boot_id() if store.is_local else ""

    def add(self, block: EncodedBlock) -> list[SpanManifest | FileEntry]:
        """Writes a block.

        Returns:
          At the end of a unit what came of its spans, else nothing.
        """
        if self._open is None:
            self._open = self._begin(block)
        span, tokens = self._open, block.tokens
        span.counts.add(tokens.counts)
        span.refusals += tokens.refusals[: max(0, SHOWN_REFUSALS - len(span.refusals))]
        span.failed = span.failed or tokens.failed
        if span.part is not None and span.failed is None:
            span.part.write(span.sink.add(block))
            if self._recipe.on_bad_record == DEAD_LETTER and tokens.refusals:
                self._rejected_part().write(join_refusals(tokens.refusals))
        self._report(block)
        if tokens.end is None:
            return []
        self._end_span(block)
        return self._end_unit(tokens.unit) if tokens.end.ends_unit else []

    def close(self) -> None:
        """Closes the part that a further span might have grown."""
        self._leave(self._part)
        self._part = None

    def abort(self) -> None:
        """Gives up the unit that is open. Parts of finished units stay."""
        if self._store.is_local:
            self._leave(self._part)  # earlier units may lie in it
        elif self._part is not None:
            self._part.writer.abort()
        if self._rejected is not None:
            self._rejected.writer.abort()
        self._part = self._rejected = self._open = None

    def _begin(self, block: EncodedBlock) -> _OpenSpan:
        span = block.tokens.span
        part = self._part
        if self._store.is_local and part is not None:
            grows = part.output == span.file.output and part.next_start == span.start
            if not grows:
                self._leave(part)
                part = None
        if part is None:
            part = self._part = self._new_part("out")
            part.output = span.file.output
        opened = _OpenSpan(
            span,
            make_sink(self._recipe, span),
            part,
            offset=part.writer.tell(),
            rejected_offset=self._rejected.writer.tell() if self._rejected else 0,
        )
        if span.start == 0:
            part.write(opened.sink.begin())
        return opened

    def _end_span(self, block: EncodedBlock) -> None:
        opened, end = self._open, block.tokens.end
        assert opened is not None and end is not None and opened.part is not None
        self._open = None
        self._written_bytes += opened.span.stop - opened.span.start
        piece = rejected = None
        if opened.failed is None:
            if opened.span.stop == opened.span.file.size:
                opened.part.write(opened.sink.end())
            piece = opened.part.piece(opened.offset)
            opened.part.committed = True
            if self._rejected and self._rejected.writer.tell() > opened.rejected_offset:
                rejected = self._rejected.piece(opened.rejected_offset)
        opened.part.next_start = opened.span.stop if opened.failed is None else -1
        self._manifests.append(
            SpanManifest(
                span=opened.span,
                piece=piece,
                rejected=rejected,
                counts=opened.counts,
                fingerprint=end.fingerprint,
                first_refusals=tuple(opened.refusals[:SHOWN_REFUSALS]),
                failed=opened.failed,
                digest=block.digest,
                deterministic=block.deterministic,
                boot_id=self._boot_id,
            )
        )

    def _end_unit(self, unit: Unit) -> list[SpanManifest | FileEntry]:
        if not self._store.is_local:
            self._leave(self._part)
            self._part = None
        self._leave(self._rejected)
        self._rejected = None
        manifests, self._manifests = tuple(self._manifests), []
        marker = Marker(self._recipe, manifests)
        name = f"{MARKERS}/{unit.key(self._recipe.hash)}.json"
        self._store.put_if_absent(name, msgspec.json.encode(marker))
        results = self._publish_whole_files(manifests)
        self._board.mine.input_bytes = self._written_bytes
        self._board.post(now=True)
        return results

    def _publish_whole_files(
        self, manifests: Sequence[SpanManifest]
    ) -> list[SpanManifest | FileEntry]:
        whole = [manifest for manifest in manifests if manifest.span.is_whole_file]
        if not whole:
            return list(manifests)
        if self._store.is_local:
            self.close()  # a part that is published is renamed

        def publish(manifest: SpanManifest) -> FileEntry:
            self._board.check_stop()  # the marker is there: a rerun publishes the rest
            return publish_file(self._store, self._recipe, [manifest])

        # Publishing waits for the disk to sync, or for the store to answer: many at a time.
        with ThreadPoolExecutor(min(_PUBLISHING_THREADS, len(whole))) as pool:
            entries = list(pool.map(publish, whole))
        self._board.mine.files += len(entries)
        return [*entries, *(m for m in manifests if not m.span.is_whole_file)]

    def _report(self, block: EncodedBlock) -> None:
        mine, counts = self._board.mine, block.tokens.counts
        mine.input_bytes = self._written_bytes + _bytes_into(block)
        mine.records += block.encoded.num_records
        mine.refused += counts.refused
        if block.tokens.refusals and mine.first_refusal is None:
            first, span = block.tokens.refusals[0], block.tokens.span
            # In a later span its line is not known before all spans are there.
            known = span.start == 0 and first.line > 0
            place = (
                f":{first.line}: {first.path}: {first.reason}" if known else f": {describe(first)}"
            )
            mine.first_refusal = span.file.uri + place
        self._board.post()

    def _rejected_part(self) -> _Part:
        if self._rejected is None:
            self._rejected = self._new_part("rejected")
        return self._rejected

    def _new_part(self, kind: str) -> _Part:
        self._num_parts += 1
        name = f"{PARTS}/{self._attempt}/{self._num_parts}.{kind}"
        return _Part(name, self._store.create(name))

    def _leave(self, part: _Part | None) -> None:
        if part is None:
            return
        if part.committed or part is self._rejected:
            part.writer.close()
        else:
            part.writer.abort()


def _bytes_into(block: EncodedBlock) -> int:
    """About how far into its span a block lies, in input bytes, for the progress bar."""
    span = block.tokens.span
    if not len(block.offsets_R):
        return 0
    # In a compressed file offsets run further than its bytes: the bar waits at its end.
    return min(max(int(block.offsets_R[-1]) - span.start, 0), span.stop - span.start)
