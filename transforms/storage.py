"""One small interface over the places where files lie: disks and object stores.

    open_store("out")             Disk         transforms/disk.py, the os module
    open_store("file:///data")    Disk
    open_store("s3://b/jobs/7")   ObjectStore  transforms/objects.py, obstore (and boto3 on S3)
    open_store("gs://b/jobs/7")   ObjectStore
    open_store("az://c/jobs/7")   ObjectStore

A store is rooted at a directory or a key prefix. Names are relative to it, separated by
`/`, and taken as they are: no globs, no percent signs, no Unicode normalisation. Nothing
here is specific to our output layout, and nothing knows the model or Beam.

What becomes visible becomes so in one act (rename, hard link, completed upload), and only
when its writer said so; leaving on an error never publishes.

Errors: ValueError for a name that leaves the root, FileError for one file that cannot be
read as it is, StorageError for a disk or a service that failed after retries.
"""

from __future__ import annotations

import re
import urllib.parse
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from object2vec.errors import UsageError

Buffer = bytes | bytearray | memoryview

_TEMP = re.compile(r"\.o2v-[0-9a-f]{32}\.tmp")


@dataclass(frozen=True, slots=True)
class FileStat:
    """One file as it is now.

    Attributes:
      name: relative to the store's root.
      size: in bytes.
      version: opaque; another version means other bytes (mtime, inode and size on disks, the
        etag on object stores).
    """

    name: str
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of bytes of a part: `length` of them from `offset` on."""

    part: str
    offset: int
    length: int


class PartWriter(ABC):
    """A file being written. It exists when `close` has returned, never before.

    (On disks the growing part has its name from the start; nobody looks for it there.)
    As a context manager it closes at the end of the block and aborts on an exception.
    """

    @abstractmethod
    def write(self, data: Buffer) -> None:
        """Appends all of `data`.

        Raises:
          StorageError: it could not be written.
        """

    @abstractmethod
    def tell(self) -> int:
        """Bytes written so far."""

    @abstractmethod
    def close(self) -> None:
        """Completes the file. On disks it may not survive a power loss: `publish` syncs.

        Raises:
          StorageError: it could not be completed; nothing is visible.
        """

    @abstractmethod
    def abort(self) -> None:
        """Gives up: nothing stays. Harmless after `close` or another `abort`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class Store(ABC):
    """Files below one root. Cheap to make again: `open_store(store.root)` is the same store.

    Attributes:
      root: the absolute path of a directory, or `scheme://bucket/prefix`.
      is_local: whether the files lie on a disk of this machine (`local_path` works).
    """

    root: str
    is_local: bool

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[FileStat]:
        """Every file below a folder, at any depth, sorted by name.

        `prefix` ends at a `/`: `list("a")` gives `a/x`, neither `ab/x` nor the file `a`.
        A folder that is not there has no files. Links to files are followed, links to
        directories are not; broken links and special files are skipped with a log line.
        Our own temporary neighbours are not listed.

        Raises:
          InputError: a name is not valid UTF-8.
          StorageError: the place cannot be read.
        """

    @abstractmethod
    def stat(self, name: str) -> FileStat | None:
        """The file as it is now; None if there is none (or a directory)."""

    @abstractmethod
    def read(
        self, name: str, start: int = 0, stop: int | None = None, version: str | None = None
    ) -> bytes:
        """Bytes `start` to `stop` (None: the end), all of them or an error.

        Args:
          version: what `stat` or `list` said; None reads whatever is there.

        Raises:
          FileError: the file is gone, shorter than `stop`, or of another version.
          StorageError: it is there and could not be read.
        """

    @abstractmethod
    def put(self, name: str, data: Buffer) -> None:
        """Makes or replaces a small file in one act; on return it would survive a power loss."""

    @abstractmethod
    def put_if_absent(self, name: str, data: Buffer) -> bool:
        """Makes a small file in one act unless there is one.

        Returns:
          Whether this call made it. Of many racing calls one wins. (On object stores: if
          the reply of a request that worked is lost, the repeated request says False.
          Who must know compares the content.)
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes a file; fine if there is none."""

    @abstractmethod
    def delete_all(self, prefix: str) -> None:
        """Removes every file below a folder, what `sweep` removes there, and the folder itself."""

    @abstractmethod
    def sweep(self, prefix: str = "") -> int:
        """Removes what died in the middle of becoming a file below a folder.

        Temporary neighbours on disks, open multipart uploads on S3; nothing elsewhere
        (GCS and Azure forget them by themselves). The caller holds the lock of the place.

        Returns:
          How many were removed.

        Raises:
          UsageError: on S3 without boto3 (the `s3` extra).
        """

    @abstractmethod
    def create(self, name: str) -> PartWriter:
        """A writer for a new file, which must not exist yet; folders are made.

        Raises:
          StorageError: the file exists or cannot be made.
        """

    @abstractmethod
    def publish(self, name: str, pieces: Sequence[Piece], scratch: str) -> None:
        """Makes `name` visible in one act: the pieces, one after the other.

        No pieces make an empty file. On return it would survive a power loss. On any error
        an older `name` is untouched and nothing temporary stays. A part that is used whole
        and alone is renamed on disks: afterwards it may be gone, or may not.

        Args:
          scratch: a folder below the root (same file system) for temporary bytes on disks.

        Raises:
          StorageError: it could not be done; `name` is as it was.
          UsageError: on S3, more than one piece, without boto3 (the `s3` extra).
        """

    @abstractmethod
    def local_path(self, name: str) -> str | None:
        """The path of a file on a disk; None on object stores."""


def open_store(uri: str) -> Store:
    """The store at a path, `file://`, `s3://`, `gs://` or `az://` uri. Touches nothing yet.

    Raises:
      UsageError: the scheme is not one of these, or the bucket is missing.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or "/" in scheme:
        if not uri or "\0" in uri:
            raise UsageError(f"not a path: {uri!r}")
        from transforms.disk import Disk

        return Disk(uri)
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise UsageError(f"{uri}: a file uri of another host; write file:///path")
        from transforms.disk import Disk

        return Disk("/" + urllib.parse.unquote(path, errors="surrogateescape"))
    if scheme in ("s3", "gs", "az"):
        from transforms.objects import ObjectStore

        return ObjectStore(uri)
    raise UsageError(f"{uri}: give a path, or a file://, s3://, gs:// or az:// uri")


def check_name(name: str) -> str:
    """The name itself, if it stays below a root.

    Raises:
      ValueError: it is empty or absolute, has an empty, `.` or `..` segment, a NUL, or is
        not valid Unicode.
    """
    if "\0" in name or any(segment in ("", ".", "..") for segment in name.split("/")):
        raise ValueError(f"not a name below a root: {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"not a name in Unicode: {name!r}") from None
    return name


def check_prefix(prefix: str) -> str:
    """The prefix without its last `/`; empty for the root itself.

    Raises:
      ValueError: as `check_name`.
    """
    prefix = prefix.removesuffix("/")
    return check_name(prefix) if prefix else ""


def temp_name() -> str:
    """A name nobody else takes. It begins with a dot, so it is never an input."""
    return f".o2v-{uuid.uuid4().hex}.tmp"


def is_temp(name: str) -> bool:
    """Whether `temp_name` made the last segment of this name."""
    return _TEMP.fullmatch(name.rpartition("/")[2]) is not None


def merge_pieces(pieces: Sequence[Piece]) -> list[Piece]:
    """The same bytes in the fewest pieces: neighbours of one part joined, empty ones gone.

    Raises:
      ValueError: a negative offset or length.
    """
    merged: list[Piece] = []
    for piece in pieces:
        if piece.offset < 0 or piece.length < 0:
            raise ValueError(f"a piece that lies before its part: {piece}")
        last = merged[-1] if merged else None
        if last and last.part == piece.part and last.offset + last.length == piece.offset:
            merged[-1] = Piece(last.part, last.offset, last.length + piece.length)
        elif piece.length:
            merged.append(piece)
    return merged
