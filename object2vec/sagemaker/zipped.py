"""Reads the members of a ZIP through Python's `zipfile`, which trusts what it reads; we do not.

Caps, names, overlaps and counts are checked against the directory before any data is read;
the sums (CRC-32) while it is.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO

from object2vec.sagemaker.gunzip import FREE_BYTES, MAX_RATIO
from object2vec.sagemaker.members import Budget, checked_name, refused

ZIP_MAGIC = b"PK\x03\x04"

_MAX_READ_BYTES = 1 << 18
"""The directory is read whole: this is more than 64 members need, and soon gone through."""

_LOCAL_HEADER_BYTES = 30
_END_BYTES = 22
_MANY = 0xFFFF  # "see the ZIP64 record", which has 64 bits for it
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCHED = 0x20


class ZipMember:
    """A file of a ZIP.

    Attributes:
      name: checked, behind the ZIP's own name: `model_algo-1!params`.
      size: as declared, in bytes.
    """

    def __init__(self, name: str, size: int, opened: IO[bytes]) -> None:
        self.name = name
        self.size = size
        self._left = size
        self._opened = opened

    def read(self, size: int, /) -> bytes:
        """The next bytes; fewer only at the member's end, when its sum has been checked.

        Raises:
          ModelError: damaged, or the data ends before the member does.
        """
        wanted = min(size, self._left)
        try:
            data = self._opened.read(wanted)
        # zlib.error: no deflate stream. EOFError: the file ends in the data.
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise refused(self.name, f"is damaged ({error or 'cut'}); fetch it again") from None
        if len(data) != wanted:
            raise refused(self.name, f"is shorter than the {self.size:,} bytes it declares")
        self._left -= wanted
        return data


def zip_members(file: BinaryIO, size: int, container: str) -> Iterator[ZipMember]:
    """The files of a ZIP, in the order of its directory; a folder in it is an empty file.

    Args:
      file: at any position.
      size: in bytes.
      container: the ZIP's name, for messages.

    Raises:
      ModelError: no ZIP, damaged, cut, more than the caps allow, encrypted, overlapping
        members, a symbolic link, a compression other than deflate, or a name that no honest
        archive has.
    """
    try:
        archive = zipfile.ZipFile(_Guarded(file, size))
    except UnicodeDecodeError as error:
        raise refused(error.object, f"of {container!a} has a name that is not UTF-8") from None
    # NotImplementedError: a version of the format that zipfile does not know.
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise refused(container, f"is a ZIP that is cut or damaged ({_brief(error)})") from None
    with archive:
        _check_count(file, size, archive, container)
        _check_entries(archive.infolist(), archive.start_dir, container)
        for entry in archive.infolist():
            name = f"{container}!{entry.orig_filename}"
            with _opened(archive, entry, name) as opened:
                yield ZipMember(name, entry.file_size, opened)


def _opened(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> IO[bytes]:
    try:
        return archive.open(entry)
    # The header before the data is not there, or has another name: UnicodeDecodeError as well.
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise refused(name, f"has a damaged header ({_brief(error)})") from None


def _check_count(file: BinaryIO, size: int, archive: zipfile.ZipFile, container: str) -> None:
    """zipfile reads the directory to its end, however many members are declared."""
    file.seek(size - _END_BYTES - len(archive.comment))
    (count,) = struct.unpack("<H", file.read(_END_BYTES)[10:12])
    if count not in (_MANY, len(archive.filelist)):
        found = len(archive.filelist)
        raise refused(container, f"says it has {count} members, but lists {found}; it is damaged")


def _check_entries(entries: list[zipfile.ZipInfo], directory: int, container: str) -> None:
    budget = Budget()
    for entry in entries:
        name = f"{container}!{checked_name(entry.orig_filename.encode())}"
        budget.take(name, entry.file_size)
        if entry.flag_bits & _ENCRYPTED:
            raise refused(name, "is encrypted")
        if entry.flag_bits & _PATCHED or entry.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise refused(name, f"is compressed in way {entry.compress_type}, which is not read")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refused(name, "is a link or a device; only regular files are read")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise refused(name, "is not compressed, and yet has two sizes; it is damaged")
        if entry.file_size > max(FREE_BYTES, MAX_RATIO * entry.compress_size):
            raise refused(
                name,
                f"says {entry.compress_size:,} bytes swell to {entry.file_size:,}; more than"
                f" {MAX_RATIO} times is refused",
            )
    _check_overlaps(entries, directory, container)


def _check_overlaps(entries: list[zipfile.ZipInfo], directory: int, container: str) -> None:
    """Members that share their data could make much of little, a cap for each or not."""
    end = directory
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        head = _LOCAL_HEADER_BYTES + len(entry.orig_filename)
        if entry.header_offset < 0 or entry.header_offset + head + entry.compress_size > end:
            raise refused(
                f"{container}!{entry.orig_filename}",
                "overlaps with the next member, or the directory; the ZIP is damaged",
            )
        end = entry.header_offset


class _Guarded(io.RawIOBase):
    """A file that zipfile can neither leave nor read whole.

    zipfile seeks wherever an offset in the file says, and reads as much as a size says.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if not 0 <= base + offset <= self._size:
            raise zipfile.BadZipFile("an offset leads out of the file")
        self._at = base + offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        rest = self._size - self._at
        wanted = rest if size is None or size < 0 else min(size, rest)
        if wanted > _MAX_READ_BYTES:
            raise zipfile.BadZipFile("its directory is larger than any honest one")
        self._file.seek(self._at)
        data = self._file.read(wanted)
        self._at += len(data)
        return data


def _brief(error: Exception) -> str:
    """zipfile quotes names as they are in the file, up to 65,535 bytes of them."""
    return ascii(str(error)[:100])[1:-1]
