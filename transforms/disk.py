"""Files on a disk of this machine: the `Store` that runs on the os module alone.

obstore's local store does not do: it never fsyncs, and it fails to list names with a newline
or drops those with `#1`. Here every name that the file system allows is a name.

What survives a power loss was fsynced, and so was the folder that holds its name: `put`,
`put_if_absent` and `publish` do both; a part written by `create` only when asked to.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat as stat_bits
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from object2vec.errors import FileError, InputError, StorageError
from transforms.storage import (
    Buffer,
    FileStat,
    PartWriter,
    Piece,
    Store,
    check_name,
    check_prefix,
    is_temp,
    merge_pieces,
    temp_name,
)

_LOG = logging.getLogger(__name__)
_COPY_BYTES = 1 << 20
# Where the kernel cannot copy between two files: other file systems, old kernels, FUSE.
_NO_COPY_FILE_RANGE = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


class Disk(Store):
    """Files below a directory, which need not exist yet."""

    is_local = True

    def __init__(self, path: str) -> None:
        self.root = os.path.abspath(path)

    def list(self, prefix: str = "") -> Iterator[FileStat]:
        prefix = check_prefix(prefix)
        folders = [prefix + "/" if prefix else ""]
        while folders:
            name = folders.pop()
            if name and not name.endswith("/"):  # a file, waiting for its place in the order
                found = self._stat_entry(name)
                if found is not None:
                    yield found
                continue
            with _errors("list", self._path(name)):
                entries = _scan(self._path(name))
            # Backwards, for the stack. A folder sorts as `name/`: `a.b` comes before `a/b`.
            folders += sorted((name + entry for entry in entries), reverse=True)

    def _stat_entry(self, name: str) -> FileStat | None:
        """A file the listing met; None, said aloud, for what is not a file."""
        path = self._path(name)
        if is_temp(name):
            return None
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{path!a}: the name is not valid UTF-8; rename it") from None
        try:
            found = os.stat(path)
        except FileNotFoundError:
            if os.path.islink(path):
                _LOG.warning("skipped %r: a broken link", path)
            return None  # else it went while we looked
        except OSError as error:
            _LOG.warning("skipped %r: %s", path, error.strerror)
            return None
        if stat_bits.S_ISREG(found.st_mode):
            return FileStat(name, found.st_size, _version(found))
        what = "a link to a directory" if stat_bits.S_ISDIR(found.st_mode) else "not a file"
        _LOG.warning("skipped %r: %s", path, what)
        return None

    def stat(self, name: str) -> FileStat | None:
        path = self._path(check_name(name))
        with _errors("look at", path):
            try:
                found = os.stat(path)
            except OSError as error:
                # A name too long for this file system cannot be there either.
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                    return None
                raise
        if not stat_bits.S_ISREG(found.st_mode):
            return None
        return FileStat(name, found.st_size, _version(found))

    def read(
        self, name: str, start: int = 0, stop: int | None = None, version: str | None = None
    ) -> bytes:
        path = self._path(check_name(name))
        try:
            # Not blocking, or a FIFO of this name would wait for its writer.
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise FileError(name, "is not there (any more)") from None
            if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG):
                raise FileError(name, f"cannot be opened: {error.strerror}") from None
            raise StorageError(_text("open", path, error)) from error
        try:
            with _errors("read", path):
                before = os.fstat(file)
                if not stat_bits.S_ISREG(before.st_mode):
                    raise FileError(name, "is not a file")
                end = before.st_size if stop is None else stop
                data = _read_range(file, start, end)
                # Behind the reading: a change before it shows as well.
                if version is not None and _version(os.fstat(file)) != version:
                    raise FileError(name, "changed while it was read")
        finally:
            os.close(file)
        if len(data) != end - start:
            size = min(before.st_size, start + len(data))
            raise FileError(name, f"ends at byte {size}, {max(start, end)} was expected")
        return data

    def put(self, name: str, data: Buffer) -> None:
        path = self._path(check_name(name))
        with _errors("write", path), self._temporary(os.path.dirname(path)) as temp:
            _write_new(temp, data)
            os.replace(temp, path)
            _sync_folder(os.path.dirname(path))

    def put_if_absent(self, name: str, data: Buffer) -> bool:
        path = self._path(check_name(name))
        if os.path.lexists(path):
            return False
        with _errors("write", path), self._temporary(os.path.dirname(path)) as temp:
            _write_new(temp, data)
            try:
                os.link(temp, path)
            except FileExistsError:
                return False
            _sync_folder(os.path.dirname(path))
            return True

    def delete(self, name: str) -> None:
        path = self._path(check_name(name))
        with _errors("delete", path), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)

    def delete_all(self, prefix: str) -> None:
        path = self._path(check_name(check_prefix(prefix)))
        with _errors("delete", path):
            shutil.rmtree(path, onerror=_unless_gone)

    def sweep(self, prefix: str = "") -> int:
        num_removed = 0
        top = self._path(check_prefix(prefix))
        with _errors("sweep", top):
            for folder, _, names in os.walk(top):
                for name in filter(is_temp, names):
                    with suppress(FileNotFoundError):
                        os.unlink(os.path.join(folder, name))
                        num_removed += 1
        return num_removed

    def create(self, name: str) -> PartWriter:
        path = self._path(check_name(name))
        with _errors("create", path):
            _make_folders(os.path.dirname(path))
            return _DiskWriter(path)

    def publish(self, name: str, pieces: Sequence[Piece], scratch: str) -> None:
        path = self._path(check_name(name))
        scratch_path = self._path(check_name(scratch))
        pieces = merge_pieces(pieces)
        with _errors("publish", path):
            _make_folders(os.path.dirname(path))
            if len(pieces) == 1 and self._is_whole(pieces[0]):
                part = self._path(pieces[0].part)
                _sync_file(part)
                os.replace(part, path)
            else:
                with self._temporary(scratch_path) as temp:
                    self._concatenate(pieces, temp)
                    os.replace(temp, path)
            _sync_folder(os.path.dirname(path))

    def local_path(self, name: str) -> str | None:
        return self._path(check_name(name))

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name) if name else self.root

    def _is_whole(self, piece: Piece) -> bool:
        path = self._path(check_name(piece.part))
        return (
            piece.offset == 0
            and not os.path.islink(path)  # renaming it would publish the link
            and os.stat(path).st_size == piece.length
        )

    def _concatenate(self, pieces: Sequence[Piece], temp: str) -> None:
        with open(temp, "xb", buffering=0) as target:
            for piece in pieces:
                part = self._path(check_name(piece.part))
                with open(part, "rb", buffering=0) as source:
                    missing = piece.length - copy_range(
                        source.fileno(), target.fileno(), piece.offset, piece.length
                    )
                if missing:
                    raise StorageError(f"cannot publish: {part} lacks {missing} bytes")
            os.fsync(target.fileno())

    @contextmanager
    def _temporary(self, folder: str) -> Iterator[str]:
        """A free path in a folder, which is made; whatever is there at the end is removed."""
        _make_folders(folder)
        temp = os.path.join(folder, temp_name())
        try:
            yield temp
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temp)


class _DiskWriter(PartWriter):
    """A growing file. Unbuffered: what `write` took is in the page cache, and in `tell`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - lives until close
        self._size = 0

    def write(self, data: Buffer) -> None:
        with _errors("write", self._path):
            self._size += _write_all(self._file.fileno(), data)

    def tell(self) -> int:
        return self._size

    def close(self) -> None:
        if self._file.closed:
            return
        with _errors("close", self._path):
            self._file.close()

    def abort(self) -> None:
        if self._file.closed:
            return
        with _errors("remove", self._path), suppress(FileNotFoundError):
            self._file.close()
            os.unlink(self._path)


def copy_range(source: int, target: int, offset: int, length: int) -> int:
    """Appends bytes of one open file to another, inside the kernel where it can.

    Args:
      source: a descriptor to read, from `offset` on.
      target: a descriptor, written at its own position.

    Returns:
      Bytes copied: `length`, or fewer if the source ends before.
    """
    done = 0
    while done < length:
        try:
            count = os.copy_file_range(source, target, length - done, offset + done)
        except OSError as error:
            if error.errno not in _NO_COPY_FILE_RANGE:
                raise
            count = 0
        if not count:  # the end, or a file system that says 0 for "cannot": reading tells
            return done + copy_by_reading(source, target, offset + done, length - done)
        done += count
    return done


def copy_by_reading(source: int, target: int, offset: int, length: int) -> int:
    """As `copy_range`, through memory, 1 MiB at a time."""
    done = 0
    while done < length:
        data = os.pread(source, min(_COPY_BYTES, length - done), offset + done)
        if not data:
            break
        done += _write_all(target, data)
    return done


def _version(found: os.stat_result) -> str:
    # With the size: a file that grows twice in one tick of the clock keeps its mtime.
    return f"{found.st_mtime_ns}-{found.st_ino}-{found.st_size}"


def _scan(path: str) -> list[str]:
    """Names in a folder; those of real directories end in `/`."""
    try:
        with os.scandir(path) as entries:
            return [e.name + "/" if e.is_dir(follow_symlinks=False) else e.name for e in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_range(file: int, start: int, stop: int) -> bytes:
    """Up to `stop`, or to the end of the file if that is earlier."""
    chunks = []
    while start < stop:
        data = os.pread(file, min(stop - start, 1 << 30), start)
        if not data:
            break
        chunks.append(data)
        start += len(data)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _write_all(file: int, data: Buffer) -> int:
    """All of it: one `write` of the system may take less, and takes at most 2 GiB."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        done += os.write(file, view[done:])
    return done


def _write_new(path: str, data: Buffer) -> None:
    with open(path, "xb", buffering=0) as file:
        _write_all(file.fileno(), data)
        os.fsync(file.fileno())


def _make_folders(path: str) -> None:
    """Makes a folder and those above it, so that their names survive a power loss too."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    _make_folders(above)
    with suppress(FileExistsError):
        os.mkdir(path)
        _sync_folder(above)
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)


def _sync_file(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


_sync_folder = _sync_file  # the same call; a folder holds names as a file holds bytes


def _unless_gone(_: Callable[..., Any], __: str, info: Any) -> None:
    """Another process may remove the same files."""
    if not isinstance(info[1], (FileNotFoundError, NotADirectoryError)):
        raise info[1]


@contextmanager
def _errors(action: str, path: str) -> Iterator[None]:
    """OSError, said as ours: what, where, why."""
    try:
        yield
    except OSError as error:
        raise StorageError(_text(action, path, error)) from error


def _text(action: str, path: str, error: OSError) -> str:
    return f"cannot {action} {path}: {error.strerror or error}"
