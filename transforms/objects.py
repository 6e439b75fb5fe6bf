"""Objects in S3, GCS or Azure: the `Store` that runs on obstore.

obstore does nearly everything. Two things it cannot do on S3 are done with boto3 (the `s3`
extra): copying parts of objects on the server, and finding multipart uploads that a dead
process left open (S3 bills them for ever). GCS and Azure need neither.

Error texts carry what the service said went wrong, not its whole reply: some quote the
key id in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

import obstore
import tenacity
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    InvalidPathError,
    PreconditionError,
)

from object2vec.errors import FileError, InputError, StorageError, UsageError
from transforms.buckets import open_bucket, s3_endpoint
from transforms.storage import (
    Buffer,
    FileStat,
    PartWriter,
    Piece,
    Store,
    check_name,
    check_prefix,
    merge_pieces,
)

MAX_PARTS = 10_000
PART_BYTES = 64 << 20
MAX_COPY_BYTES = 5 << 30
_STREAM_BYTES = 16 << 20
_DELETE_AT_ONCE = 1000

T = TypeVar("T")


class ObjectStore(Store):
    """Objects below a key prefix of one bucket (S3, GCS) or container (Azure)."""

    is_local = False

    def __init__(self, uri: str) -> None:
        self.scheme, _, rest = uri.partition("://")
        self.bucket, _, prefix = rest.partition("/")
        try:
            self._prefix = check_prefix(prefix)
        except ValueError:
            raise UsageError(f"{uri!r}: not a key prefix") from None
        if not self.bucket:
            raise UsageError(f"{uri}: the bucket is missing")
        self.root = "/".join(filter(None, (f"{self.scheme}://{self.bucket}", self._prefix)))

    # Reading

    def list(self, prefix: str = "") -> Iterator[FileStat]:
        folder = self._folder(prefix)

        def get() -> list[dict[str, Any]]:
            chunks = obstore.list(self._store, prefix=folder or None, chunk_size=1000)
            return [dict(meta) for chunk in chunks for meta in chunk]

        try:
            metas = self._try("list", prefix, get)
        except InvalidPathError as error:
            text = _first_line(error)
            raise InputError(f"{self.root}: a key that is not a path; rename it: {text}") from None
        skip = len(self._prefix) + 1 if self._prefix else 0
        last = ""
        for meta in sorted(metas, key=lambda meta: str(meta["path"])):
            name = meta["path"][skip:]
            if name == last or not meta["path"].startswith(folder):
                continue
            found = FileStat(name, meta["size"], meta["e_tag"] or "")
            if found.size == 0:
                # Consoles mark a folder by an empty object `a/`, and obstore lists it as `a`.
                real = self.stat(name)
                if real is None:
                    continue
                found = real
            last = name
            yield found

    def stat(self, name: str) -> FileStat | None:
        key = self._key(name)
        try:
            meta = self._try("look at", name, lambda: obstore.head(self._store, key))
        except FileNotFoundError:
            return None
        return FileStat(name, meta["size"], meta["e_tag"] or "")

    def read(
        self, name: str, start: int = 0, stop: int | None = None, version: str | None = None
    ) -> bytes:
        if start == stop:
            found = self.stat(name)
            self._check_unchanged(name, found, version)
            return b""
        options: dict[str, Any] = {}
        if version:
            options["if_match"] = version
        if stop is not None:
            options["range"] = (start, stop)
        elif start:
            options["range"] = {"offset": start}

        def get() -> tuple[bytes, int]:
            result = obstore.get(self._store, self._key(name), options=options)  # type: ignore[arg-type]
            end = result.meta["size"] if stop is None else stop
            return bytes(result.bytes()), end

        try:
            data, end = self._try("read", name, get)
        except FileNotFoundError:
            raise FileError(name, "is not there (any more)") from None
        except PreconditionError:
            raise FileError(name, "changed while it was read") from None
        except _RangeRefused:
            found = self.stat(name)
            self._check_unchanged(name, found, version)
            if found and stop is None and start == found.size:
                return b""
            size = found.size if found else 0
            raise FileError(name, f"ends at byte {size}, {stop or start} was expected") from None
        if len(data) != end - start:
            raise FileError(name, f"ends at byte {start + len(data)}, {end} was expected")
        return data

    @staticmethod
    def _check_unchanged(name: str, found: FileStat | None, version: str | None) -> None:
        if found is None:
            raise FileError(name, "is not there (any more)")
        if version and version != found.version:
            raise FileError(name, "changed while it was read")

    # Writing

    def put(self, name: str, data: Buffer) -> None:
        self._put(name, data, "overwrite")

    def put_if_absent(self, name: str, data: Buffer) -> bool:
        return self.swap(name, data, None) is not None

    def swap(self, name: str, data: Buffer, version: str | None) -> str | None:
        """Writes an object only if it is (still) the given version.

        Args:
          version: the version that is to be replaced; None: there must be no object.

        Returns:
          The new version; None if another writer was first, or is: nothing was written
          then (or this very write was, and its reply was lost: compare the content).
        """
        mode: Any = "create" if version is None else {"e_tag": version}
        with suppress(AlreadyExistsError, PreconditionError):
            return self._put(name, data, mode)
        return None

    def _put(self, name: str, data: Buffer, mode: Any) -> str:
        key, body = self._key(name), bytes(data)

        def put() -> str:
            # One PutObject: the default turns to multipart, which cannot be empty.
            result = obstore.put(self._store, key, body, mode=mode, use_multipart=False)
            return result["e_tag"] or ""

        try:
            return self._try("write", name, put)
        except FileNotFoundError as error:
            if isinstance(mode, dict):  # conditional on an object that is gone
                raise PreconditionError(name) from None
            raise StorageError(self._text("write", name, error)) from None

    def delete(self, name: str) -> None:
        key = self._key(name)
        with suppress(FileNotFoundError):
            self._try("delete", name, lambda: obstore.delete(self._store, key))

    def delete_all(self, prefix: str) -> None:
        check_name(check_prefix(prefix))
        self.sweep(prefix)
        keys = [self._key(found.name) for found in self.list(prefix)]
        for start in range(0, len(keys), _DELETE_AT_ONCE):
            some = keys[start : start + _DELETE_AT_ONCE]
            with suppress(FileNotFoundError):
                self._try("delete", prefix, lambda some=some: obstore.delete(self._store, some))  # type: ignore[misc]

    def sweep(self, prefix: str = "") -> int:
        return self._server.abort_uploads(self._folder(prefix)) if self.scheme == "s3" else 0

    def create(self, name: str) -> PartWriter:
        """As `Store.create`; an object that exists is replaced, not refused.

        At most 625 GiB (10,000 parts of 64 MiB: obstore's part size does not grow).
        """
        key = self._key(name)
        # Two parts on their way and one being filled: at most 192 MiB.
        writer = obstore.open_writer(self._store, key, buffer_size=PART_BYTES, max_concurrency=2)
        return _ObjectWriter(writer, lambda action, error: self._text(action, name, error))

    def publish(self, name: str, pieces: Sequence[Piece], scratch: str) -> None:
        del scratch  # an upload is invisible until it is complete
        key = self._key(name)
        pieces = [Piece(check_name(p.part), p.offset, p.length) for p in merge_pieces(pieces)]
        try:
            if not pieces:
                self.put(name, b"")
            elif len(pieces) == 1 and self._is_whole(pieces[0]):
                source = self._key(pieces[0].part)
                self._try("publish", name, lambda: obstore.copy(self._store, source, key))
            elif self.scheme == "s3":
                pieces = [Piece(self._key(p.part), p.offset, p.length) for p in pieces]
                self._server.concatenate(key, pieces)
            else:
                self._stream(name, pieces)
        except FileError as error:
            raise StorageError(f"cannot publish {self.root}/{name}: {error}") from error
        except FileNotFoundError as error:
            raise StorageError(self._text("publish", name, error)) from None

    def local_path(self, name: str) -> str | None:
        check_name(name)
        return None

    def _is_whole(self, piece: Piece) -> bool:
        part = self.stat(piece.part)
        if part is None:
            raise FileError(piece.part, "is not there (any more)")
        return (piece.offset, piece.length) == (0, part.size) and part.size <= MAX_COPY_BYTES

    def _stream(self, name: str, pieces: Sequence[Piece]) -> None:
        """Through this machine, where the service cannot concatenate."""
        with self.create(name) as writer:
            for piece in pieces:
                end = piece.offset + piece.length
                for start in range(piece.offset, end, _STREAM_BYTES):
                    writer.write(self.read(piece.part, start, min(end, start + _STREAM_BYTES)))

    # Names, clients, errors

    def _key(self, name: str) -> str:
        """Raises ValueError for what no service takes, control characters too."""
        if any(c < " " or c == "\x7f" for c in name):
            raise ValueError(f"not a name on an object store: {name!r}")
        return f"{self._prefix}/{check_name(name)}" if self._prefix else check_name(name)

    def _folder(self, prefix: str) -> str:
        prefix = check_prefix(prefix)
        key = self._key(prefix) if prefix else self._prefix
        return key + "/" if key else ""

    @cached_property
    def _store(self) -> Any:
        return open_bucket(self.scheme, self.bucket)

    @cached_property
    def _server(self) -> Any:
        try:
            from transforms.multipart import S3Server
        except ModuleNotFoundError as error:
            if error.name not in ("boto3", "botocore"):
                raise
            raise UsageError(
                f"{self.root}: output on S3 needs boto3; install the s3 extra"
            ) from None
        return S3Server(self.bucket, s3_endpoint(), self._read_key)

    def _read_key(self, key: str, start: int, stop: int) -> bytes:
        return self.read(key[len(self._prefix) + 1 :] if self._prefix else key, start, stop)

    def _try(self, action: str, name: str, call: Callable[[], T]) -> T:
        """The call's result; obstore has repeated each request, we repeat the call as a whole.

        Passes on what a caller may expect: FileNotFoundError (of an object, not of a
        bucket), AlreadyExistsError, PreconditionError, InvalidPathError, _RangeRefused.
        """
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=5),
            retry=tenacity.retry_if_exception(_is_passing),
            reraise=True,
        )
        try:
            return attempts(call)
        except (AlreadyExistsError, PreconditionError, InvalidPathError):
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" not in str(error):
                raise
            raise StorageError(self._text(action, name, error)) from None
        except BaseError as error:
            if "416 Range Not Satisfiable" in str(error):
                raise _RangeRefused from None
            raise StorageError(self._text(action, name, error)) from None

    def _text(self, action: str, name: str, error: BaseException) -> str:
        return f"cannot {action} {self.root}/{name}: {_first_line(error)}"


class _RangeRefused(Exception):
    """The object ends before the range begins."""


class _ObjectWriter(PartWriter):
    """A multipart upload, or one put if it stays small; the object appears with `close`."""

    def __init__(self, writer: Any, text: Callable[[str, BaseException], str]) -> None:
        self._writer = writer
        self._text = text
        self._size = 0
        self._open = True

    def write(self, data: Buffer) -> None:
        size = memoryview(data).nbytes
        if self._size + size > MAX_PARTS * PART_BYTES:
            too_large = ValueError(f"more than {MAX_PARTS} parts of {PART_BYTES} bytes")
            raise StorageError(self._text("write", too_large))
        try:
            self._writer.write(data)
        except (BaseError, OSError) as error:
            raise StorageError(self._text("write", error)) from None
        self._size += size

    def tell(self) -> int:
        return self._size

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            self._writer.close()
        except (BaseError, OSError) as error:
            raise StorageError(self._text("complete", error)) from None

    def abort(self) -> None:
        if not self._open:
            return
        self._open = False
        gone = InterruptedError()
        # If even this fails the upload stays open, invisible, for `sweep`.
        with suppress(BaseError, OSError):
            self._writer.__exit__(InterruptedError, gone, None)


def _is_passing(error: BaseException) -> bool:
    """Whether a repetition may help: no answer, a broken one, or the service's own trouble."""
    return isinstance(error, GenericError) and not re.search(r"status code: [34]\d\d", str(error))


def _first_line(error: BaseException) -> str:
    """What happened, without the service's whole reply, which may quote the key id."""
    text = str(error)
    what = re.split(r": <\?xml|: <Error>|: <html|\n", text, maxsplit=1)[0]
    said = [found.group(1) for found in re.finditer(r"<(?:Code|Message)>([^<]*)<", text)]
    return ": ".join([what, *said])
