"""Finish: the entries of all files become the run's manifest and, last of all, `_SUCCESS`.

Inside the graph, so that it also happens where nobody waits for the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import msgspec

from object2vec.errors import StorageError
from transforms.ledger import RUNS, SUCCESS, RunManifest, totals
from transforms.manifest import ENTRY_DECODER, FileEntry
from transforms.recipe import Recipe
from transforms.storage import Store, open_store


class FinishRun(beam.PTransform):
    """FileEntries of a whole run to its one RunManifest, which is written.

    `_SUCCESS` appears if every file is done.

    Args:
      output: the output directory.
      run: name of the run.
      recipe: what it encodes with.
      num_files: how many entries there must be.
      carried: name of a file of entries, one a line, that earlier runs had done.
    """

    def __init__(self, output: str, run: str, recipe: Recipe, num_files: int, carried: str) -> None:
        super().__init__()
        self._fn = _FinishFn(output, run, recipe, num_files, carried)

    def expand(self, entries: beam.PCollection[FileEntry]) -> beam.PCollection[RunManifest]:
        return (
            entries
            | "Together" >> beam.WithKeys(0).with_output_types(tuple[int, FileEntry])
            | "Gather" >> beam.GroupByKey()
            | "Manifest" >> beam.ParDo(self._fn)
        )


class _FinishFn(beam.DoFn):
    def __init__(self, output: str, run: str, recipe: Recipe, num_files: int, carried: str) -> None:
        self._output = output
        self._run = run
        self._recipe = recipe
        self._num_files = num_files
        self._carried = carried

    def process(self, keyed: tuple[int, Iterable[FileEntry]]) -> Iterator[RunManifest]:
        store = open_store(self._output)
        entries = list(keyed[1])
        if len({entry.file.output for entry in entries}) != self._num_files:
            raise StorageError(
                f"{self._num_files} files went in, {len(entries)} came out: the runner lost work. "
                "Run again."
            )
        yield finish_run(store, self._run, self._recipe, [*entries, *self._read_carried(store)])

    def _read_carried(self, store: Store) -> list[FileEntry]:
        lines = store.read(self._carried).split(b"\n")[:-1]
        return [ENTRY_DECODER.decode(line) for line in lines]


def finish_run(store: Store, run: str, recipe: Recipe, entries: Iterable[FileEntry]) -> RunManifest:
    """Writes the manifest, then `_SUCCESS` if every file is done."""
    ordered = tuple(sorted(entries, key=lambda entry: entry.file.output))
    manifest = RunManifest(
        format_version=1,
        run=run,
        recipe=recipe,
        entries=ordered,
        totals=totals(ordered),
        deterministic=all(entry.deterministic for entry in ordered),
    )
    store.put(f"{RUNS}/{run}.json", msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    if all(entry.status == "done" for entry in ordered):
        write_success(store, run, recipe, ordered)
    return manifest


def write_success(store: Store, run: str, recipe: Recipe, done: Sequence[FileEntry]) -> None:
    """Writes `_SUCCESS`: every file is done, and this is what they hold together."""
    success = {
        "run": run,
        "model": recipe.model_hash,
        "options": recipe.hash,
        "files": len(done),
        "totals": msgspec.to_builtins(totals(done)),
    }
    store.put(SUCCESS, msgspec.json.encode(success) + b"\n")
