"""The three small records that cross the shuffle and outlive a run.

A Span of an InputFile is encoded once and leaves a SpanManifest; the manifests of all
spans of a file become its FileEntry. They are written as JSON (msgspec), so that a
person can read what a run did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from transforms.recipe import Recipe

FINGERPRINT_CELL = 256 * 1024
"""Bytes of input under one hash of the fingerprint; spans are cut on its multiples."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file, as it was when the run was planned.

    Attributes:
      store: root of the store it lies in, a path or URI.
      name: its name below that root.
      size: in bytes, as stored.
      version: opaque; changes when the file does (mtime, inode and size; or etag).
      output: name of its output below the output directory.
    """

    store: str
    name: str
    size: int
    version: str
    output: str

    @property
    def uri(self) -> str:
        return f"{self.store.rstrip('/')}/{self.name}"


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, stop) of a file. A line belongs to the span that holds its first byte."""

    file: InputFile
    start: int
    stop: int

    @property
    def is_whole_file(self) -> bool:
        return self.start == 0 and self.stop == self.file.size


@dataclass(frozen=True, slots=True)
class Unit:
    """The work of one commit: spans that are read, encoded and recorded together."""

    spans: tuple[Span, ...]

    @property
    def size(self) -> int:
        return sum(span.stop - span.start for span in self.spans)

    def key(self, recipe_hash: str) -> str:
        """Name of the unit's marker: a hash of what is encoded, and how."""
        digest = hashlib.sha256(recipe_hash.encode())
        for s in self.spans:
            fields = (s.file.store, s.file.name, s.file.version, s.file.output)
            digest.update(repr((*fields, s.file.size, s.start, s.stop)).encode())
        return digest.hexdigest()[:40]


@dataclass(slots=True)
class Counts:
    """What became of the lines of a span, a file or a run.

    Attributes:
      lines: physical lines (or instances of a document).
      in0, in1, pair: records encoded, by kind.
      refused: lines that no record came of.
      truncated: records that lost their tail to the longest sequence.
      clipped: ids outside the vocabulary that were clipped.
    """

    lines: int = 0
    in0: int = 0
    in1: int = 0
    pair: int = 0
    refused: int = 0
    truncated: int = 0
    clipped: int = 0

    @property
    def records(self) -> int:
        return self.in0 + self.in1 + self.pair

    def add(self, other: Counts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @classmethod
    def total(cls, counts: Iterable[Counts]) -> Counts:
        total = cls()
        for each in counts:
            total.add(each)
        return total


@dataclass(frozen=True, slots=True)
class Refusal:
    """One line that no record came of.

    Attributes:
      offset: byte offset of the line in the decompressed file.
      line: its 1-based number, counted from the start of the span; Publish adds the
        lines before it. 0 for an instance of a document, which has a path instead.
      path: JSON path inside the record.
      kind: short name of the reason.
      reason: the reason, in words.
      record: the line itself, if it is short text.
    """

    offset: int
    line: int
    path: str
    kind: str
    reason: str
    record: str | None = None


@dataclass(frozen=True, slots=True)
class WrittenPiece:
    """Where bytes of an output lie before they are published.

    Attributes:
      part, offset, length: the bytes.
      prefix_sha256: sha256 of the part's bytes [0, offset + length). For a part that
        holds a file from its start this is the hash of the file so far, and it costs
        no second pass over the bytes.
    """

    part: str
    offset: int
    length: int
    prefix_sha256: str


@dataclass(frozen=True, slots=True)
class SpanManifest:
    """What came of one span.

    Attributes:
      span: which bytes of which input.
      piece: the output's bytes; None if the span failed.
      rejected: dead letters, one JSON object a line; None if there are none.
      counts: what became of the lines.
      fingerprint: hex, sums with those of the file's other spans to the file's.
      first_refusals: the first few refusals, to be shown.
      failed: why the file cannot be done; None if it can.
      digest: digest of the probe under which it was encoded.
      deterministic: whether that probe saw equal bits.
      boot_id: of the machine that wrote the part, if it is on a local disk.
    """

    span: Span
    piece: WrittenPiece | None
    rejected: WrittenPiece | None
    counts: Counts
    fingerprint: str
    first_refusals: tuple[Refusal, ...] = ()
    failed: str | None = None
    digest: str = ""
    deterministic: bool = True
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class Marker:
    """What `_o2v/units/<key>.json` says: this unit is done, and here is what came of it."""

    recipe: Recipe
    manifests: tuple[SpanManifest, ...]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What became of one input file, in the run's manifest.

    Attributes:
      file: the input, as planned.
      recipe_hash: how it was encoded.
      status: "done" or "failed".
      counts: what became of its lines.
      fingerprint: of the input's bytes.
      output_size, output_version, output_sha256: of the published output. The hash is
        None where an object store put the file together by itself.
      reason: why it failed.
      first_refusals: the first few refusals, lines counted from the file's start.
      digest, deterministic: of the probe.
    """

    file: InputFile
    recipe_hash: str
    status: str
    counts: Counts = field(default_factory=Counts)
    fingerprint: str = ""
    output_size: int = 0
    output_version: str = ""
    output_sha256: str | None = None
    reason: str | None = None
    first_refusals: tuple[Refusal, ...] = ()
    digest: str = ""
    deterministic: bool = True


# Made here, before there are threads: msgspec fills its cache of a type on first use without
# a lock, and two threads that decode the same new type at once crash the interpreter.
MARKER_DECODER = msgspec.json.Decoder(Marker)
ENTRY_DECODER = msgspec.json.Decoder(FileEntry)
REFUSAL_DECODER = msgspec.json.Decoder(Refusal)


class Fingerprint:
    """A hash of a file's bytes that can be computed span by span, in any order.

    Each cell of 256 KiB (the last one of a file may be shorter) is hashed with its
    position by sha256, and the hashes are added modulo 2^256. Made against accidents,
    not against forgers: sums of hashes can be forged.

    Example:
      >>> whole = Fingerprint(0)
      >>> whole.update(b"abc")
      >>> whole.hexdigest() == Fingerprint.add([whole.hexdigest()])
      True
    """

    def __init__(self, start: int) -> None:
        """`start`: offset of the first byte, a multiple of FINGERPRINT_CELL."""
        if start % FINGERPRINT_CELL:
            raise ValueError(f"a span starts at {start}, between two cells")
        self._position = start
        self._cell = hashlib.sha256(start.to_bytes(8, "big"))
        self._sum = 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            room = FINGERPRINT_CELL - self._position % FINGERPRINT_CELL
            piece, view = view[:room], view[room:]
            self._cell.update(piece)
            self._position += len(piece)
            if self._position % FINGERPRINT_CELL == 0:
                self._close_cell()

    def _close_cell(self) -> None:
        self._sum += int.from_bytes(self._cell.digest(), "big")
        self._cell = hashlib.sha256(self._position.to_bytes(8, "big"))

    def hexdigest(self) -> str:
        """Of the bytes so far."""
        total = self._sum
        if self._position % FINGERPRINT_CELL:  # the last cell of a file may be shorter
            total += int.from_bytes(self._cell.digest(), "big")
        return f"{total % 2**256:064x}"

    @staticmethod
    def add(digests: Iterable[str]) -> str:
        """The fingerprint of a file from those of its spans."""
        return f"{sum(int(d, 16) for d in digests) % 2**256:064x}"
