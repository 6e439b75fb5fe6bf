"""Write: vectors become text in parts, and a finished unit is recorded by its marker.

Formatting and writing run in a thread of their own while the next batch is computed. On
disks consecutive spans of a file grow one part, so that publishing an undisturbed file
is one rename; on object stores a unit has one part.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import apache_beam as beam
import msgspec
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

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
from transforms.storage import PartWriter, Store, open_store

ENTRIES = "entries"
"""Tag of the output that carries FileEntries of files that one unit held whole."""

SHOWN_REFUSALS = 10
"""Refusals of a span that its manifest repeats."""

_QUEUED_BLOCKS = 3
_PUBLISHING_THREADS = 16


class WriteParts(beam.PTransform):
    """EncodedBlocks to SpanManifests; `ENTRIES`: FileEntries of files published on the spot.

    When a unit's manifests come out, its marker is there. A file that lies in one unit
    is published as soon as its unit is done; the others wait for Publish.
    """

    def __init__(self, output: str, recipe: Recipe, board: str | None) -> None:
        super().__init__()
        self._fn = _WriteFn(output, recipe, board)

    def expand(self, blocks: beam.PCollection[EncodedBlock]) -> beam.PCollection:
        return blocks | "Parts" >> beam.ParDo(self._fn).with_outputs(ENTRIES, main="manifests")


class _WriteFn(beam.DoFn):
    def __init__(self, output: str, recipe: Recipe, board: str | None) -> None:
        self._output = output
        self._recipe = recipe
        self._board_folder = board
        self._thread: _WritingThread | None = None

    def setup(self) -> None:
        self._store = open_store(self._output)

    def start_bundle(self) -> None:
        writer = UnitWriter(self._store, self._recipe, Board(self._board_folder))
        self._thread = _WritingThread(writer)

    def process(self, block: EncodedBlock) -> Iterator[SpanManifest | beam.pvalue.TaggedOutput]:
        assert self._thread is not None
        for result in self._thread.submit(block):
            yield _tagged(result)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        assert self._thread is not None
        results = self._thread.finish()
        self._thread = None
        for result in results:
            tagged = _tagged(result)
            window = GlobalWindow()
            value = tagged.value if isinstance(tagged, beam.pvalue.TaggedOutput) else tagged
            windowed = WindowedValue(value, window.max_timestamp(), (window,))
            if isinstance(tagged, beam.pvalue.TaggedOutput):
                yield beam.pvalue.TaggedOutput(tagged.tag, windowed)
            else:
                yield windowed

    def teardown(self) -> None:
        if self._thread is not None:  # the bundle failed
            self._thread.abandon()
            self._thread = None


def _tagged(result: SpanManifest | FileEntry) -> SpanManifest | beam.pvalue.TaggedOutput:
    if isinstance(result, FileEntry):
        return beam.pvalue.TaggedOutput(ENTRIES, result)
    return result


class _WritingThread:
    """Runs a UnitWriter behind a short queue. Its errors come out of `submit` and `finish`."""

    def __init__(self, writer: UnitWriter) -> None:
        self._writer = writer
        self._blocks: queue.Queue[EncodedBlock | None] = queue.Queue(_QUEUED_BLOCKS)
        self._results: queue.SimpleQueue[SpanManifest | FileEntry] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="o2v-write", daemon=True)
        self._thread.start()

    def submit(self, block: EncodedBlock) -> list[SpanManifest | FileEntry]:
        """Queues a block; gives what was finished meanwhile."""
        self._raise()
        self._blocks.put(block)
        return self._taken()

    def finish(self) -> list[SpanManifest | FileEntry]:
        """Waits until everything is written; gives what is left."""
        self._blocks.put(None)
        self._thread.join()
        self._raise()
        self._writer.close()
        return self._taken()

    def abandon(self) -> None:
        """Stops after the block at hand; nothing of an open unit stays."""
        if self._error is None:
            self._error = RuntimeError("the bundle was given up")
        self._blocks.put(None)
        self._thread.join()
        self._writer.abort()

    def _run(self) -> None:
        while (block := self._blocks.get()) is not None:
            if self._error is not None:
                continue  # drain, so that nobody waits for a place in the queue
            try:
                for result in self._writer.add(block):
                    self._results.put(result)
            except BaseException as error:
                self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _taken(self) -> list[SpanManifest | FileEntry]:
        return [self._results.get() for _ in range(self._results.qsize())]


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
    seen_bytes: int = 0


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
        self._board.mine.input_bytes += unit.size
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
            return publish_file(self._store, self._recipe, [manifest])

        # Publishing waits for the disk to sync, or for the store to answer: many at a time.
        with ThreadPoolExecutor(min(_PUBLISHING_THREADS, len(whole))) as pool:
            entries = list(pool.map(publish, whole))
        self._board.mine.files += len(entries)
        return [*entries, *(m for m in manifests if not m.span.is_whole_file)]

    def _report(self, block: EncodedBlock) -> None:
        mine, counts = self._board.mine, block.tokens.counts
        mine.records += counts.records
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
