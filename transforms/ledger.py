"""The ledger: what the output directory says is done. What of it a run may believe: agenda.py.

Below `_o2v/`: `runs/<run>.json` (RunManifest, one per finished run), `units/` (markers of
runs that did not finish), `tmp/` (plan and parts).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from object2vec.errors import OutputError
from transforms.manifest import (
    MARKER_DECODER,
    Counts,
    FileEntry,
    Marker,
)
from transforms.read import MARKERS
from transforms.recipe import Recipe
from transforms.storage import Store

RUNS = "_o2v/runs"
SUCCESS = "_SUCCESS"
_FETCHES = 16
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RunManifest:
    """What a finished run says of every input it was given.

    Attributes:
      format_version: of this file.
      run: name of the run; sorts by time.
      recipe: how it encoded what it encoded.
      entries: one per input file, also of those that an earlier run had done.
      totals: of the files that are done.
      deterministic: whether every machine saw equal bits.
    """

    format_version: int
    run: str
    recipe: Recipe
    entries: tuple[FileEntry, ...]
    totals: Counts
    deterministic: bool


_RUN_DECODER = msgspec.json.Decoder(RunManifest)


@dataclass(slots=True)
class Ledger:
    """Everything on record.

    Attributes:
      entries: the latest entry of each output.
      recipes: by hash.
      markers: name and content of each marker.
    """

    entries: dict[str, FileEntry] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    markers: dict[str, Marker] = field(default_factory=dict)


def read_ledger(store: Store) -> Ledger:
    """
    Raises:
      OutputError: a manifest is not readable, or of another version.
    """
    ledger = Ledger()
    for stat in store.list(RUNS):
        if not stat.name.endswith(".json"):
            continue
        manifest = _decode(store, stat.name, _RUN_DECODER)
        if manifest.format_version != 1:
            raise OutputError(
                f"{stat.name} has format version {manifest.format_version}; this program knows 1. "
                "Use the program that wrote it, or another output directory."
            )
        ledger.recipes[manifest.recipe.hash] = manifest.recipe
        for entry in manifest.entries:
            ledger.entries[entry.file.output] = entry
    names = [stat.name for stat in store.list(MARKERS) if stat.name.endswith(".json")]
    with ThreadPoolExecutor(_FETCHES) as pool:
        markers = pool.map(lambda name: _decode(store, name, MARKER_DECODER), names)
        ledger.markers = dict(zip(names, markers, strict=True))
    return ledger


def _decode(store: Store, name: str, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(store.read(name))
    except msgspec.MsgspecError as error:
        raise OutputError(
            f"{name} in the output directory is not what this program writes: {error}; "
            "use another output directory, or remove that file and run with --overwrite"
        ) from error


def totals(entries: Iterable[FileEntry]) -> Counts:
    """Counts of the files that are done."""
    return Counts.total(entry.counts for entry in entries if entry.status == "done")
