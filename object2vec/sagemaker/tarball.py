"""Reads a tar from front to end: its regular files, and nothing that is not one.

By hand, because Python's `tarfile` ends in silence at a damaged or missing header, as if the
archive were over; reads extended headers of any size into memory; and searches them with a
pattern whose time grows with their square (CVE-2024-6232, in the Pythons we support).

Source: POSIX.1-2008, pax interchange format; GNU tar's manual, "Basic Tar Format". Blocks of
512 bytes: a header, the data, padded; two blocks of zeros end the archive.

    0 name[100]   124 size[12]   148 checksum[8]   156 type   257 magic[6]   345 prefix[155]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from object2vec.errors import ModelError
from object2vec.sagemaker.gunzip import Source
from object2vec.sagemaker.members import MAX_MEMBERS, Budget, checked_name, refused, shown_name

_BLOCK = 512
_PIECE_BYTES = 1 << 18
_MAX_EXTENDED_BYTES = 1 << 16
_MAX_EXTENDED = 4 * MAX_MEMBERS
"""Headers about headers, in all; a member has two at most."""
_MAX_ALL_EXTENDED_BYTES = 1 << 19
_MAX_PADDING_BYTES = 16 << 20  # tars are padded to 10 KiB, on tapes to a few MiB

_REGULAR = (b"0", b"\0", b"7")
_DIRECTORY = b"5"
_PAX = (b"x", b"X")
_PAX_GLOBAL = b"g"
_LONG_NAME, _LONG_LINK = b"L", b"K"
_OTHER_TYPES = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file",
}


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    size: int
    type: bytes

    @property
    def is_directory(self) -> bool:
        return self.type == _DIRECTORY or (self.type in _REGULAR and self.name.endswith(b"/"))


@dataclass(slots=True)
class _Extended:
    """Counts the extended headers of a tar."""

    num_headers: int = 0
    num_bytes: int = 0

    def take(self, header: _Header) -> None:
        self.num_headers += 1
        self.num_bytes += header.size
        if header.size > _MAX_EXTENDED_BYTES:
            raise refused(
                header.name,
                f"is a header of {header.size:,} bytes; {_MAX_EXTENDED_BYTES:,} are the most",
            )
        if self.num_headers > _MAX_EXTENDED or self.num_bytes > _MAX_ALL_EXTENDED_BYTES:
            raise refused(header.name, "is one header too many that describes other headers")


class TarMember:
    """A regular file of a tar, to be read before the next one is asked for.

    Attributes:
      name: checked.
      size: as declared, in bytes.
    """

    def __init__(self, name: str, size: int, source: Source) -> None:
        self.name = name
        self.size = size
        self._left = size
        self._source = source

    def read(self, size: int, /) -> bytes:
        """The next bytes; fewer only at the member's end.

        Raises:
          ModelError: the archive ends before the member does.
        """
        wanted = min(size, self._left)
        try:
            data = self._source.read(wanted)
        except ModelError as error:  # of gzip, which knows no members
            raise ModelError(f"{error} (in member {shown_name(self.name)})") from None
        if len(data) != wanted:
            raise refused(
                self.name,
                f"ends after {self.size - self._left + len(data):,} of {self.size:,} bytes; the"
                " archive was cut, so fetch it again",
            )
        self._left -= wanted
        return data

    def drain(self) -> None:
        """Reads what nobody wanted, so that it is known to be there."""
        while self._left:
            self.read(_PIECE_BYTES)


def is_tar(block: bytes) -> bool:
    """Whether these 512 bytes are the header of a tar's member."""
    return len(block) == _BLOCK and any(block) and _has_checksum(block)


def tar_members(source: Source) -> Iterator[TarMember]:
    """The regular files of a tar, in order. Reads the source to its end.

    Raises:
      ModelError: no tar, damaged, cut, more than the caps allow, or a member that is neither
        a regular file nor a directory, or has a name that no honest archive has.
    """
    budget, extended = Budget(), _Extended()
    previous = "the archive's beginning"
    while (header := _next_header(source, extended, previous)) is not None:
        name = checked_name(header.name)
        size = 0 if header.is_directory else header.size
        if not header.is_directory and header.type not in _REGULAR:
            kind = _OTHER_TYPES.get(header.type, f"of type {header.type!r}")
            raise refused(name, f"is {kind}; only regular files and directories are read")
        budget.take(name, size)
        member = TarMember(name, size, source)
        if not header.is_directory:
            yield member
        member.drain()
        source.read(-size % _BLOCK)  # if less is there, so is no header behind it
        previous = f"member {name!a}"
    _check_rest(source)


def _next_header(source: Source, extended: _Extended, previous: str) -> _Header | None:
    """The next member's, with what extended headers say about it; None at the end mark."""
    name, size = None, None
    while (header := _read_header(source, previous)) is not None:
        if header.type not in (*_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
            if name is not None:
                header = replace(header, name=name)
            if size is not None:
                header = replace(header, size=_checked_size(_decimal(size), header.name))
            return header
        extended.take(header)
        # What is cut here ends without a header behind it, which is an error as well.
        payload = source.read(header.size + -header.size % _BLOCK)[: header.size]
        if header.type == _LONG_NAME:
            name = payload.rstrip(b"\0")
        elif header.type != _LONG_LINK:
            fields = _pax_fields(payload, previous)
            if header.type == _PAX_GLOBAL and fields.keys() & {b"path", b"size"}:
                raise ModelError(f"behind {previous}, one name or size is given to all members")
            if any(key.startswith(b"GNU.sparse") for key in fields):
                raise refused(fields.get(b"path", header.name), "is a sparse file; pack it anew")
            name = fields.get(b"path", name)
            size = fields.get(b"size", size)
    if name is not None or size is not None:
        raise ModelError(f"behind {previous}, a header describes a member that is missing")
    return None


def _read_header(source: Source, previous: str) -> _Header | None:
    block = source.read(_BLOCK)
    if len(block) != _BLOCK:
        raise ModelError(
            f"the tar ends behind {previous}, without its end mark; it was cut, so fetch it again"
        )
    if not any(block):
        return None
    if not _has_checksum(block):
        raise ModelError(f"the header behind {previous} is damaged; fetch the archive again")
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0]
    if prefix and block[257:263] == b"ustar\0":  # GNU tar keeps other things there
        name = prefix + b"/" + name
    return _Header(name, _checked_size(_number(block[124:136]), name), block[156:157])


def _has_checksum(block: bytes) -> bool:
    """The sum of all bytes, its own field taken for spaces; some old tars summed signed ones."""
    stated = _number(block[148:156])
    others = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(others)
    return stated in (unsigned, unsigned - 256 * sum(byte > 127 for byte in others))


def _number(field: bytes) -> int | None:
    """Octal digits, or, with the first bit set, a binary number; None for something else."""
    if field[0] & 0x80:
        bits = 8 * len(field)
        value = int.from_bytes(field, "big", signed=False) & ((1 << (bits - 1)) - 1)
        return value if field[0] == 0x80 else value - (1 << (bits - 1))
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        return None
    return int(digits or b"0", 8)


def _decimal(digits: bytes) -> int | None:
    return int(digits) if digits.isdigit() and len(digits) < 20 else None


def _checked_size(size: int | None, name: bytes) -> int:
    if size is None or size < 0:
        raise refused(name, "has a size that is no number from 0 on")
    return size


def _pax_fields(payload: bytes, previous: str) -> dict[bytes, bytes]:
    """Records of `<length> <key>=<value>\\n`; the length counts the whole record."""
    fields: dict[bytes, bytes] = {}
    at = 0
    while at < len(payload):
        digits, _, _ = payload[at : at + 8].partition(b" ")
        length = _decimal(digits) or 0
        record = payload[at + len(digits) + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if not length or at + length > len(payload) or not equals or not value.endswith(b"\n"):
            raise ModelError(f"the extended header behind {previous} is damaged; fetch it again")
        fields[key] = value[:-1]
        at += length
    return fields


def _check_rest(source: Source) -> None:
    """Behind the end mark there are zeros; reading them lets gzip check its own sum."""
    num_bytes = 0
    while data := source.read(_PIECE_BYTES):
        num_bytes += len(data)
        if any(data) or num_bytes > _MAX_PADDING_BYTES:
            raise ModelError("something follows the end of the tar; pack the model by itself")
