"""The user's cache: what was found out or made once, and need not be again.

    hashes/      sha256 of large files, as long as the files stay untouched
    converted/   model directories made out of SageMaker's archives
    fetched/     models out of object stores (transforms/model_cache.py)

It lies at OBJECT2VEC_CACHE, or below the user's own cache folder. Whoever deletes it loses
nothing but time. Models that have to be converted or fetched need a place that can be
written; hashes do without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from object2vec.errors import ModelError

_WORTH_BYTES = 64 * 2**20
"""Smaller files are hashed in less time than a person notices."""

_SETTLED_S = 2.0
"""A file that changed this short a time ago may change again within one tick of its clock."""

_ABANDONED_S = 24 * 3600.0
"""What nobody has added to for a day was left by a process that was killed."""


def cache_folder() -> Path:
    """Where the cache lies; it may not exist yet.

    Raises:
      ModelError: the environment names none, and the user has no home.
    """
    named = os.environ.get("OBJECT2VEC_CACHE")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "object2vec"
    except RuntimeError as error:
        raise ModelError(
            "this user has no home folder to keep converted models in; name a folder in"
            " OBJECT2VEC_CACHE"
        ) from error


@contextlib.contextmanager
def unfinished_folder(folder: Path, name: str) -> Iterator[Path]:
    """A folder beside what is finished, to be renamed out of, and gone after the block.

    What killed processes left there is removed after a day.

    Raises:
      OSError: the cache cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob(".*"):
        with contextlib.suppress(OSError):  # gone already
            if time.time() - other.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(other, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def move_in(made: Path, found: Path) -> None:
    """Gives a folder its final name, unless another process was faster.

    Raises:
      OSError: the cache cannot be written.
    """
    try:
        made.rename(found)
    except OSError:
        if not found.is_dir():
            raise


def content_hash(path: Path) -> str:
    """sha256, in hex, of a file's bytes.

    That of a large file is remembered, together with the file's place, size, times and
    inode: a model of gigabytes is read through once, not at every start. Whatever writes
    to a file changes its ctime, so what is remembered of it is void then.

    Raises:
      OSError: the file cannot be read.
    """
    before = identity(path)
    if path.stat().st_size < _WORTH_BYTES:
        return _sha256(path)
    name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:32]
    try:
        memory = cache_folder() / "hashes" / f"{name}.json"
    except ModelError:  # no home
        return _sha256(path)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or damaged
        remembered = json.loads(memory.read_bytes())
        if remembered["identity"] == before:
            return str(remembered["sha256"])
    found = _sha256(path)
    settled = time.time() - path.stat().st_ctime > _SETTLED_S
    if settled and identity(path) == before:
        with contextlib.suppress(OSError):  # a home that cannot be written costs time only
            _replace(memory, json.dumps({"identity": before, "sha256": found}))
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def identity(path: Path) -> list[int]:
    """What changes when a file is written to, or another takes its place.

    Raises:
      OSError: there is no file.
    """
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder) / "new"
        new.write_text(text)
        new.rename(path)
