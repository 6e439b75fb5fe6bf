"""Write: formatting and writing, in a thread of its own while the next batch is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from transforms.board import Board
from transforms.encode import EncodedBlock
from transforms.manifest import FileEntry, SpanManifest
from transforms.recipe import Recipe
from transforms.storage import open_store
from transforms.unit_writer import UnitWriter

ENTRIES = "entries"
"""Tag of the output that carries FileEntries of files that one unit held whole."""

_QUEUED_BLOCKS = 3


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
