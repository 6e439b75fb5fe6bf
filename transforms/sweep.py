"""Sweep: what runs leave behind is removed, but for what a later run can still use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from transforms.ledger import Ledger
from transforms.manifest import InputFile, SpanManifest
from transforms.publish import SCRATCH
from transforms.read import MARKERS
from transforms.storage import Store, open_store


def of_other_inputs(ledger: Ledger, files: Sequence[InputFile]) -> list[SpanManifest]:
    """What an unfinished run over other inputs left in the same output, and still needs."""
    outputs = {file.output for file in files}
    manifests = [
        manifest
        for marker in ledger.markers.values()
        for manifest in marker.manifests
        if manifest.span.file.output not in outputs
    ]
    there = {file for file in {m.span.file for m in manifests} if _is_there(file)}
    return [manifest for manifest in manifests if manifest.span.file in there]


def _is_there(file: InputFile) -> bool:
    found = open_store(file.store).stat(file.name)
    return found is not None and found.version == file.version


def sweep(store: Store, ledger: Ledger, kept: Iterable[SpanManifest]) -> None:
    """Removes what dead runs left, but for the parts and markers that are still of use."""
    markers, parts = _of_use(ledger, kept)
    if not parts:
        store.delete_all(SCRATCH)
    else:
        _delete_others(store, SCRATCH, parts)
    # What died while it became visible, beside its final name. Of a bucket only our own
    # folder: uploads elsewhere in it may be anyone's.
    store.sweep("_o2v" if re.fullmatch(r"\w+://[^/]+/?", store.root) else "")
    for name in ledger.markers.keys() - markers:
        store.delete(name)


def clear_finished(
    store: Store, ledger: Ledger | None = None, kept: Iterable[SpanManifest] = ()
) -> None:
    """Removes markers and temporary files of a run whose manifest is written.

    Args:
      kept: what an unfinished run over other inputs needs, of the ledger.
    """
    markers, parts = _of_use(ledger or Ledger(), kept)
    for folder, names in ((MARKERS, markers), (SCRATCH, parts)):
        if markers:
            _delete_others(store, folder, names)
        else:
            store.delete_all(folder)


def _of_use(ledger: Ledger, kept: Iterable[SpanManifest]) -> tuple[set[str], set[str]]:
    """Names of the markers that hold one of these spans, and of the parts with their bytes."""
    kept = list(kept)
    spans = {_place(manifest) for manifest in kept}
    markers = {
        name
        for name, marker in ledger.markers.items()
        if any(_place(manifest) in spans for manifest in marker.manifests)
    }
    pieces = [piece for m in kept for piece in (m.piece, m.rejected) if piece is not None]
    return markers, {piece.part for piece in pieces}


def _place(manifest: SpanManifest) -> tuple[str, int, int]:
    return manifest.span.file.output, manifest.span.start, manifest.span.stop


def _delete_others(store: Store, folder: str, names: set[str]) -> None:
    for stat in list(store.list(folder)):
        if stat.name not in names:
            store.delete(stat.name)
