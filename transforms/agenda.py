"""The agenda: what a run has to do, and what it may take over from earlier ones.

Done is what the ledger records with the same input (size and content), the same recipe,
and an output that is still there. An unchanged version saves comparing contents.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from object2vec.errors import FileError, InputError, OutputError
from transforms.ledger import Ledger
from transforms.lock import boot_id
from transforms.manifest import (
    FileEntry,
    Fingerprint,
    InputFile,
    Span,
    SpanManifest,
    Unit,
    WrittenPiece,
)
from transforms.plan import cut_spans, pack_units
from transforms.publish import sha256_of
from transforms.recipe import Recipe
from transforms.storage import Store, open_store

_LOG = logging.getLogger(__name__)

_SHOWN = 3
_READ_BYTES = 8 * 2**20


@dataclass(slots=True)
class Agenda:
    """What a run has to do.

    Attributes:
      files: inputs that are not done.
      kept: manifests of their spans that an earlier attempt encoded.
      done: entries of inputs that are done.
    """

    files: list[InputFile] = field(default_factory=list)
    kept: list[SpanManifest] = field(default_factory=list)
    done: list[FileEntry] = field(default_factory=list)


def make_agenda(
    store: Store, ledger: Ledger, files: Sequence[InputFile], recipe: Recipe, overwrite: bool
) -> Agenda:
    """Compares inputs with what is on record.

    Args:
      overwrite: redo what differs, instead of refusing.

    Raises:
      OutputError: something on record differs in its input or recipe, or an output is
        there that nothing on record explains, and `overwrite` is not set.
      InputError: an input had to be compared, and cannot be read.
    """
    agenda = Agenda()
    refused: list[str] = []
    recorded: dict[str, list[tuple[Recipe, SpanManifest]]] = {}
    for marker in ledger.markers.values():
        for manifest in marker.manifests:
            recorded.setdefault(manifest.span.file.output, []).append((marker.recipe, manifest))
    now_boot_id = boot_id() if store.is_local else ""
    for file in files:
        entry = ledger.entries.get(file.output)
        markers = recorded.get(file.output, [])
        if entry is not None and entry.status == "done":
            difference = _difference(ledger, entry, file, recipe)
            if difference is None and _is_intact(store, entry):
                agenda.done.append(entry)  # its markers, if any, only wait to be removed
                continue
            # Markers tell of a later run, which was allowed to replace it.
            if difference is not None and not overwrite and not markers:
                refused.append(f"{file.output}: {difference}")
        agenda.files.append(file)
        others = [other for other, _ in markers if other.hash != recipe.hash]
        if others and not overwrite:
            refused.append(f"{file.output}: {'; '.join(recipe.differences(others[0]))}")
        elif not markers and entry is None and not overwrite and store.stat(file.output):
            refused.append(f"{file.output}: is there, and no run on record made it")
        same = [manifest for other, manifest in markers if other.hash == recipe.hash]
        agenda.kept += _usable(store, same, file, now_boot_id)
    if refused:
        more = f" (and {len(refused) - _SHOWN} more)" if len(refused) > _SHOWN else ""
        raise OutputError(
            f"the outputs in {store.root} differ from what this run would write: "
            f"{' | '.join(refused[:_SHOWN])}{more}. Use another --output, or --overwrite to "
            "replace what differs, file by file."
        )
    agenda.kept = _without_overlaps(agenda.kept)
    return agenda


def _difference(ledger: Ledger, entry: FileEntry, file: InputFile, recipe: Recipe) -> str | None:
    """Why a recorded file does not stand for the one at hand; None if it does."""
    if entry.recipe_hash != recipe.hash:
        other = ledger.recipes.get(entry.recipe_hash)
        return "; ".join(recipe.differences(other)) if other else "was made with other settings"
    if entry.file.size != file.size:
        return f"its input had {entry.file.size} bytes, has {file.size}"
    same_place = (entry.file.store, entry.file.name) == (file.store, file.name)
    if same_place and entry.file.version == file.version:
        return None
    try:
        same = fingerprint_of(file) == entry.fingerprint
    except FileError as error:
        raise InputError(f"{file.uri}: {error.reason}") from error
    return None if same else "the content of its input has changed"


def fingerprint_of(file: InputFile) -> str:
    """The fingerprint of a whole file, by reading it.

    Raises:
      FileError: it cannot be read.
    """
    store, fingerprint, step = open_store(file.store), Fingerprint(0), 8 * 2**20
    for start in range(0, file.size, step):
        stop = min(start + step, file.size)
        fingerprint.update(store.read(file.name, start, stop, file.version))
    return fingerprint.hexdigest()


def _is_intact(store: Store, entry: FileEntry) -> bool:
    """Whether a recorded output is still what was published."""
    found = store.stat(entry.file.output)
    if found is None:
        _LOG.info("%s is gone: it is made again", entry.file.output)
        return False
    if found.size == entry.output_size and found.version == entry.output_version:
        return True
    comparable = found.size == entry.output_size and entry.output_sha256 is not None
    if comparable and sha256_of(store, entry.file.output) == entry.output_sha256:
        return True
    _LOG.warning("%s is not what was published: it is made again", entry.file.output)
    return False


def _usable(
    store: Store, manifests: Iterable[SpanManifest], file: InputFile, now_boot_id: str
) -> list[SpanManifest]:
    """The spans of a file that need not be encoded again.

    Their input must be the same, and their bytes must be there: in parts, or published by
    a run that died before it could say so.
    """
    # By version alone: the last line of a span ends behind it, where its fingerprint does
    # not reach, so an equal fingerprint would not do.
    same = [m for m in manifests if m.failed is None and m.piece and m.span.file == file]
    # After another boot bytes may be lost that were never synced; then they are compared.
    # Where the system tells no boots apart, always.
    doubted = [m for m in same if store.is_local and (m.boot_id or "?") != now_boot_id]
    damaged = _damaged(store, doubted)
    in_parts = [m for m in same if m not in damaged and _has_parts(store, m)]
    if len(in_parts) < len(same) and _is_published(store, same):
        return same
    return in_parts


def _has_parts(store: Store, manifest: SpanManifest) -> bool:
    for piece in _pieces(manifest):
        found = store.stat(piece.part)
        if found is None or found.size < piece.offset + piece.length:
            return False
    return True


def _pieces(manifest: SpanManifest) -> list[WrittenPiece]:
    return [piece for piece in (manifest.piece, manifest.rejected) if piece is not None]


def _damaged(store: Store, manifests: Sequence[SpanManifest]) -> list[SpanManifest]:
    """Those whose parts are there and hold other bytes. Reads each part once."""
    ends: dict[str, set[int]] = {}
    for piece in (piece for manifest in manifests for piece in _pieces(manifest)):
        ends.setdefault(piece.part, set()).add(piece.offset + piece.length)
    found = {part: prefix_hashes(store, part, sorted(ends[part])) for part in ends}
    return [
        manifest
        for manifest in manifests
        if any(
            found[piece.part].get(piece.offset + piece.length, piece.prefix_sha256)
            != piece.prefix_sha256
            for piece in _pieces(manifest)
        )
    ]


def prefix_hashes(store: Store, name: str, ends: Sequence[int]) -> dict[int, str]:
    """Hex sha256 of a file's first bytes, up to each of the ascending `ends` that it has."""
    found = store.stat(name)
    digest, hashes, position = hashlib.sha256(), {}, 0
    for end in ends:
        if found is None or end > found.size:
            break
        while position < end:
            stop = min(position + _READ_BYTES, end)
            digest.update(store.read(name, position, stop))
            position = stop
        hashes[end] = digest.hexdigest()
    return hashes


def _is_published(store: Store, manifests: Sequence[SpanManifest]) -> bool:
    """Whether the output is what these spans make: they filled one part, which was renamed."""
    spans = sorted(manifests, key=lambda m: (m.span.start, m.span.stop))
    pieces = [m.piece for m in spans if m.piece is not None]
    edges = [0, *(m.span.stop for m in spans)]
    tiled = [m.span.start for m in spans] == edges[:-1] and edges[-1] == spans[0].span.file.size
    if not tiled or len({piece.part for piece in pieces}) > 1 or pieces[0].offset:
        return False
    output = spans[0].span.file.output
    found = store.stat(output)
    if found is None or found.size != pieces[-1].offset + pieces[-1].length:
        return False
    return sha256_of(store, output) == pieces[-1].prefix_sha256


def _without_overlaps(manifests: Iterable[SpanManifest]) -> list[SpanManifest]:
    """Manifests of spans that do not overlap: a crash under another `--unit_bytes` leaves some."""
    kept: list[SpanManifest] = []
    ends: dict[str, int] = {}
    for manifest in sorted(manifests, key=lambda m: (m.span.file.output, m.span.start)):
        output, span = manifest.span.file.output, manifest.span
        empty_again = span.start == span.stop and output in ends
        if span.start >= ends.get(output, 0) and not empty_again:
            kept.append(manifest)
            ends[output] = span.stop
    return kept


def units_left(agenda: Agenda, unit_bytes: int | None, content_type: str) -> list[Unit]:
    """The units of an agenda's files, less the spans that are kept."""
    kept: dict[str, list[SpanManifest]] = {}
    for manifest in agenda.kept:
        kept.setdefault(manifest.span.file.output, []).append(manifest)
    spans: list[Span] = []
    for file in agenda.files:
        held = {(m.span.start, m.span.stop) for m in kept.get(file.output, [])}
        cut = cut_spans(file, content_type, unit_bytes)
        left = [span for span in cut if (span.start, span.stop) not in held]
        if len(cut) - len(left) != len(held):
            # Another --unit_bytes cut it elsewhere: what fits no gap is encoded anew.
            left = gaps(file, agenda, cut)
        spans += left
    return pack_units(spans, unit_bytes)


def gaps(file: InputFile, agenda: Agenda, cut: list[Span]) -> list[Span]:
    """The stretches of a file that no kept span covers, cut on the grid of `cut`."""
    edges = sorted(
        (m.span.start, m.span.stop) for m in agenda.kept if m.span.file.output == file.output
    )
    left: list[Span] = []
    for span in cut:
        position = span.start
        for start, stop in edges:
            if stop <= position or start >= span.stop:
                continue
            if start > position:
                left.append(Span(file, position, start))
            position = max(position, stop)
        if position < span.stop:
            left.append(Span(file, position, span.stop))
    return left
