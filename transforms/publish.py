"""Publish: the spans of a file become its output, in one act, or the file is failed.

The one place where something becomes visible under a final name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import apache_beam as beam
import msgspec

from object2vec.errors import StorageError
from transforms.board import Board
from transforms.manifest import (
    REFUSAL_DECODER,
    Counts,
    FileEntry,
    Fingerprint,
    Refusal,
    SpanManifest,
    WrittenPiece,
)
from transforms.parse import describe
from transforms.recipe import JSON_DOCUMENT, PLACEHOLDER, Recipe
from transforms.sinks.json_document import surplus_comma
from transforms.storage import Piece, Store, open_store

SCRATCH = "_o2v/tmp"
PARTS = f"{SCRATCH}/parts"
REJECTED = "_o2v/rejected"

_READ_BYTES = 8 * 2**20


class PublishFiles(beam.PTransform):
    """SpanManifests to FileEntries, one per file. A file's output appears whole or not at all."""

    def __init__(self, output: str, recipe: Recipe, board: str | None = None) -> None:
        super().__init__()
        self._fn = _PublishFn(output, recipe, board)

    def expand(self, manifests: beam.PCollection[SpanManifest]) -> beam.PCollection[FileEntry]:
        return (
            manifests
            | "ByFile" >> beam.WithKeys(_output_of).with_output_types(tuple[str, SpanManifest])
            | "Gather" >> beam.GroupByKey()
            | "Join" >> beam.ParDo(self._fn)
        )


def _output_of(manifest: SpanManifest) -> str:
    return manifest.span.file.output


class _PublishFn(beam.DoFn):
    def __init__(self, output: str, recipe: Recipe, board: str | None) -> None:
        self._output = output
        self._recipe = recipe
        self._board_folder = board

    def setup(self) -> None:
        self._store = open_store(self._output)
        self._board = Board(self._board_folder)

    def process(self, keyed: tuple[str, Iterable[SpanManifest]]) -> Iterator[FileEntry]:
        self._board.check_stop()
        yield publish_file(self._store, self._recipe, list(keyed[1]))


def publish_file(store: Store, recipe: Recipe, manifests: Sequence[SpanManifest]) -> FileEntry:
    """Puts a file together from its spans and makes it visible.

    Args:
      manifests: of all spans of one file, in any order; several attempts at one span may
        be among them.

    Returns:
      The file's entry: done, or failed with the reason. "Already published, the same
      bytes" is done.

    Raises:
      StorageError: the store failed, or the spans do not tile the file: a runner lost work.
    """
    spans = tile(manifests)
    file = spans[0].span.file
    counts = Counts.total(span.counts for span in spans)
    refusals = located(spans)
    entry: dict[str, Any] = {
        "file": file,
        "recipe_hash": recipe.hash,
        "counts": counts,
        "first_refusals": refusals,
        "digest": spans[0].digest,
        "deterministic": all(span.deterministic for span in spans),
    }
    reason = failure(spans, refusals, counts)
    if reason is not None:
        return FileEntry(status="failed", reason=reason, **entry)
    pieces, sha256 = pieces_of(spans, recipe)
    if all(store.stat(name) is not None for name in {piece.part for piece in pieces}):
        store.publish(file.output, pieces, SCRATCH)
    elif not _is_published(store, file.output, sum(p.length for p in pieces), sha256):
        raise StorageError(
            f"{file.output}: parts that were recorded are gone, and the output is not there "
            "either; did something else clean the output directory? Run again."
        )
    _publish_rejected(store, file.output, spans)
    published = store.stat(file.output)
    if sha256 is None and store.is_local:  # of several parts: nobody has read them in a row
        sha256 = sha256_of(store, file.output)
    if published is None:
        raise StorageError(f"{file.output}: published, and not there; did something remove it?")
    return FileEntry(
        status="done",
        fingerprint=Fingerprint.add(span.fingerprint for span in spans),
        output_size=published.size,
        output_version=published.version,
        output_sha256=sha256,
        **entry,
    )


def tile(manifests: Sequence[SpanManifest]) -> list[SpanManifest]:
    """One manifest per span, in order, covering the file exactly.

    Raises:
      StorageError: there is a gap or an overlap.
    """
    first: dict[tuple[int, int], SpanManifest] = {}
    for manifest in manifests:
        key = (manifest.span.start, manifest.span.stop)
        # Attempts at one span are interchangeable, but a success tells more than a failure.
        if key not in first or (first[key].failed is not None and manifest.failed is None):
            first[key] = manifest
    spans = [first[key] for key in sorted(first)]
    file = spans[0].span.file
    edges = [0, *(manifest.span.stop for manifest in spans)]
    if [manifest.span.start for manifest in spans] != edges[:-1] or edges[-1] != file.size:
        raise StorageError(
            f"{file.uri}: its spans cover {[(m.span.start, m.span.stop) for m in spans]} of "
            f"{file.size} bytes; the runner lost or doubled work. Run again."
        )
    return spans


def located(spans: Sequence[SpanManifest]) -> tuple[Refusal, ...]:
    """The first refusals of a file, with lines counted from its start."""
    refusals: list[Refusal] = []
    lines = 0
    for manifest in spans:
        for refusal in manifest.first_refusals:
            refusals.append(_shift(refusal, lines))
        lines += manifest.counts.lines
    return tuple(refusals[:10])


def _shift(refusal: Refusal, lines: int) -> Refusal:
    return replace(refusal, line=refusal.line + lines) if refusal.line else refusal


def failure(
    spans: Sequence[SpanManifest], refusals: Sequence[Refusal], counts: Counts
) -> str | None:
    """Why a file cannot be published; None if it can."""
    for manifest in spans:
        if manifest.failed is None:
            continue
        reason = manifest.failed.removeprefix(f"{manifest.span.file.uri}: ")
        # With another policy than fail_file refusals fail no file: something else did.
        if manifest.first_refusals and reason == describe(manifest.first_refusals[0]):
            refusal = refusals[0]
            place = f"line {refusal.line}" if refusal.line else f"byte {refusal.offset}"
            return f"{place}, {refusal.path}: {refusal.reason}"
        return reason
    digests = {manifest.digest for manifest in spans}
    if len(digests) > 1:
        return (
            "its spans were encoded on machines that round differently (probe digests "
            f"{', '.join(sorted(d[:12] for d in digests))}); run again: it is encoded anew"
        )
    if counts.lines != counts.records + counts.refused:
        raise StorageError(
            f"{spans[0].span.file.uri}: {counts.lines} lines went in, {counts.records} records "
            f"and {counts.refused} refusals came out"
        )
    return None


def pieces_of(spans: Sequence[SpanManifest], recipe: Recipe) -> tuple[list[Piece], str | None]:
    """The bytes of a file, in order, and their sha256 if one part holds them from its start."""
    pieces: list[Piece] = []
    rows = 0
    for manifest in spans:
        piece = manifest.piece
        assert piece is not None
        num_rows = manifest.counts.records
        if recipe.on_bad_record == PLACEHOLDER:
            num_rows += manifest.counts.refused
        skip = 0
        if recipe.accept == JSON_DOCUMENT:
            skip = surplus_comma(rows, manifest.span.start == 0, num_rows)
        rows += num_rows
        pieces.append(Piece(piece.part, piece.offset + skip, piece.length - skip))
    written = [manifest.piece for manifest in spans if manifest.piece is not None]
    return pieces, _sha256_of(pieces, written)


def _sha256_of(pieces: Sequence[Piece], written: Sequence[WrittenPiece]) -> str | None:
    position = 0
    for piece in pieces:
        if piece.part != pieces[0].part or piece.offset != position:
            return None
        position += piece.length
    return written[-1].prefix_sha256


def _is_published(store: Store, name: str, size: int, sha256: str | None) -> bool:
    found = store.stat(name)
    if found is None or found.size != size:
        return False
    # Without a hash there is nothing to compare; parts of such files are never used up.
    return sha256 is not None and sha256_of(store, name) == sha256


def sha256_of(store: Store, name: str, stop: int | None = None) -> str:
    """Hex sha256 of a stored file (its first `stop` bytes), read in bounded memory."""
    found = store.stat(name)
    if found is None:
        raise StorageError(f"{name}: is gone")
    digest = hashlib.sha256()
    end = found.size if stop is None else stop
    for start in range(0, end, _READ_BYTES):
        digest.update(store.read(name, start, min(start + _READ_BYTES, end)))
    return digest.hexdigest()


def _publish_rejected(store: Store, output: str, spans: Sequence[SpanManifest]) -> None:
    """Dead letters of a file, with lines counted from its start."""
    name = f"{REJECTED}/{output}.jsonl"
    if not any(manifest.rejected for manifest in spans):
        store.delete(name)  # of an earlier run, whose output was just replaced
        return
    lines = 0
    part = f"{PARTS}/rejected-{hashlib.sha256(output.encode()).hexdigest()[:32]}"
    store.delete(part)
    with store.create(part) as writer:
        for manifest in spans:
            if manifest.rejected is not None:
                if store.stat(manifest.rejected.part) is None and store.stat(name) is not None:
                    writer.abort()
                    return  # an earlier attempt published them
                for line in _lines_of(store, manifest.rejected):
                    refusal = REFUSAL_DECODER.decode(line)
                    writer.write(msgspec.json.encode(_shift(refusal, lines)) + b"\n")
            lines += manifest.counts.lines
        length = writer.tell()
    store.publish(name, [Piece(part, 0, length)], SCRATCH)


def _lines_of(store: Store, piece: WrittenPiece) -> Iterator[bytes]:
    held = b""
    end = piece.offset + piece.length
    for start in range(piece.offset, end, _READ_BYTES):
        *lines, held = (held + store.read(piece.part, start, min(start + _READ_BYTES, end))).split(
            b"\n"
        )
        yield from lines
