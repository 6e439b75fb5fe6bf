"""Opens an artefact of SageMaker: finds the symbol, the params and the metadata in it.

An artefact comes from somewhere, so nothing in it is believed. No member is written under its
own name, none is unpickled, sizes are checked before they are used, and what swells is stopped.
Members are told apart by their first bytes; their names only appear in messages.

Layouts (`sagemaker.md`, section 4.1): a tar, in gzip or plain, of

    model_algo-1, a ZIP of meta.json, symbol.json, params        NTM, and so Object2Vec
    model_algo-1, a ZIP of mx-mod-symbol.json, mx-mod-0000.params, ...   Linear Learner
    model_algo-1-symbol.json, model_algo-1-0000.params           DeepAR

or that ZIP by itself.
"""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from object2vec.errors import ModelError
from object2vec.sagemaker.gunzip import GZIP_MAGIC, GzipSource, Source
from object2vec.sagemaker.members import refused
from object2vec.sagemaker.params import LIST_MAGIC
from object2vec.sagemaker.tarball import TarMember, is_tar, tar_members
from object2vec.sagemaker.zipped import ZIP_MAGIC, ZipMember, zip_members

_MAX_SYMBOL_BYTES = 8 << 20  # the largest golden one has 18 kB
_MAX_METADATA_BYTES = 1 << 20
_MAX_ALL_METADATA_BYTES = 2 << 20
"""Objects made of JSON take up to 25 times the text."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some editors put before UTF-8; no parser of JSON has to take it."""

_HEAD_BYTES = 512
_PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """The parts of a model, out of its archive.

    Attributes:
      symbol: the text of the graph.
      symbol_name: its member, for messages: `model_algo-1!symbol.json`.
      params: a file without a name that holds MXNet's list of arrays, at position 0.
      params_size: in bytes.
      params_name: its member, for messages.
      metadata: the other JSON members, parsed, by name.
    """

    symbol: bytes
    symbol_name: str
    params: BinaryIO
    params_size: int
    params_name: str
    metadata: dict[str, Any]


@contextmanager
def open_archive(path: Path, scratch: Path) -> Iterator[Artifact]:
    """Reads an archive to its end; what it yields is good until the block ends.

    Args:
      path: a tar, in gzip or plain, or a ZIP; its first bytes tell.
      scratch: a folder for nameless files, of up to twice the size of the params.

    Raises:
      ModelError: the file cannot be read, is no such archive, is cut or damaged, holds
        something that no training job writes, or not exactly one symbol and one params.
      OSError: `scratch` cannot be written, or is full.
    """
    with ExitStack() as stack:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ModelError(f"{path} is no regular file; name a model.tar.gz")
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from error
        finds = _Finds(stack, scratch)
        try:
            _read_archive(file, path, finds)
            artifact = finds.artifact()
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        yield artifact


def _read_archive(file: BinaryIO, path: Path, finds: _Finds) -> None:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head.startswith(GZIP_MAGIC):
        _read_tar(GzipSource(file), finds)
    elif head.startswith(ZIP_MAGIC):
        _read_zip(file, path.stat().st_size, path.name, finds)
    elif is_tar(head):
        _read_tar(file, finds)
    else:
        raise ModelError(
            f"this is neither gzip, tar nor ZIP, but {_kind_of(head)};"
            " name the model.tar.gz that the training job wrote"
        )


def _read_tar(source: Source, finds: _Finds) -> None:
    for member in tar_members(source):
        head = finds.head(member)
        if not head.startswith(ZIP_MAGIC):
            finds.take(member, head)
            continue
        with tempfile.TemporaryFile(dir=finds.scratch) as file:
            _copy(member, head, file)
            _read_zip(file, member.size, member.name, finds)


def _read_zip(file: BinaryIO, size: int, container: str, finds: _Finds) -> None:
    for member in zip_members(file, size, container):
        head = finds.head(member)
        if head.startswith(ZIP_MAGIC):
            raise refused(member.name, "is a ZIP in a ZIP, as no training job writes it")
        finds.take(member, head)


def _copy(member: TarMember | ZipMember, head: bytes, file: BinaryIO) -> None:
    file.write(head)
    while data := member.read(_PIECE_BYTES):
        file.write(data)
    file.flush()
    file.seek(0)


class _Finds:
    """What was found so far."""

    def __init__(self, stack: ExitStack, scratch: Path) -> None:
        self.scratch = scratch
        self._stack = stack
        self._names: set[str] = set()
        self._symbol: tuple[bytes, str] | None = None
        self._params: tuple[BinaryIO, int, str] | None = None
        self._metadata: dict[str, Any] = {}
        self._metadata_bytes = 0
        self._passed_over: list[str] = []

    def head(self, member: TarMember | ZipMember) -> bytes:
        """A member's first bytes. No two have one name, or messages would not tell which."""
        if member.name in self._names:
            raise refused(member.name, "is there twice")
        self._names.add(member.name)
        return member.read(_HEAD_BYTES)

    def take(self, member: TarMember | ZipMember, head: bytes) -> None:
        """Keeps a member that is none of an archive's layers, or passes it over."""
        if head.startswith(LIST_MAGIC):
            if self._params is not None:
                raise _second(member.name, "params", self._params[2])
            file = tempfile.TemporaryFile(dir=self.scratch)  # noqa: SIM115 - the stack closes it
            self._stack.enter_context(file)
            _copy(member, head, file)
            self._params = (file, member.size, _shown(member.name))
        elif _begins_like_json(head):
            self._take_json(member, head)
        else:
            self._passed_over.append(f"{_shown(member.name)} ({_kind_of(head)})")

    def _take_json(self, member: TarMember | ZipMember, head: bytes) -> None:
        name = _shown(member.name)
        if member.size > _MAX_SYMBOL_BYTES:
            self._passed_over.append(f"{name} (JSON of {member.size:,} bytes, too large)")
            return
        pieces = [head]
        while data := member.read(_PIECE_BYTES):
            pieces.append(data)
        text = b"".join(pieces).removeprefix(_BYTE_ORDER_MARK)
        if _is_symbol(text):
            if self._symbol is not None:
                raise _second(member.name, "a symbol", self._symbol[1])
            self._symbol = (text, name)
        elif (
            len(text) > _MAX_METADATA_BYTES
            or self._metadata_bytes + len(text) > _MAX_ALL_METADATA_BYTES
        ):
            self._passed_over.append(f"{name} (JSON of {len(text):,} bytes, but no symbol)")
        else:
            self._metadata_bytes += len(text)
            try:
                self._metadata[name] = json.loads(text)
            # ValueError: no JSON, no UTF-8, or a number of thousands of digits.
            except (ValueError, RecursionError) as error:
                raise refused(
                    member.name, f"begins like JSON, but is damaged ({error}); fetch it again"
                ) from None

    def artifact(self) -> Artifact:
        found = ", ".join([*self._metadata, *self._passed_over]) or "nothing else"
        if self._symbol is None and self._params is None:
            raise ModelError(f"no model is in it; found {found}")
        if self._params is None:
            raise ModelError(f"a symbol is in it, but no params; found {found}")
        params, size, name = self._params
        if self._symbol is None:
            raise ModelError(
                f"{name} holds arrays, but no symbol.json says what is computed with them;"
                " k-means and PCA write such a model_algo-1, Object2Vec does not"
                f" (found {found})"
            )
        return Artifact(*self._symbol, params, size, name, self._metadata)


class _Peek(msgspec.Struct):
    """A symbol's members, unread: what a hostile text would become takes room."""

    nodes: msgspec.Raw
    arg_nodes: msgspec.Raw


def _begins_like_json(head: bytes) -> bool:
    return head.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"{")


def _is_symbol(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=_Peek)
    # DecodeError: not both are there, or no JSON; json says which. The others: hostile text.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _second(name: str, what: str, first: str) -> ModelError:
    return refused(name, f"holds {what}, and so does {first}; a model has one of each")


def _shown(name: str) -> str:
    return ascii(name)[1:-1]


def _kind_of(head: bytes) -> str:
    """In words, what a file seems to be that is not what was wanted."""
    if not head:
        return "empty"
    if head.startswith(LIST_MAGIC):
        return "a bare list of arrays"
    if head.lstrip().startswith(b"<"):
        return "something like a web page or XML"
    if _begins_like_json(head):
        return "something like JSON"
    return f"something that begins with {head[:8]!r}"
