"""The user's cache: what was found out or made once, and need not be again.

    hashes/      sha256 of large files, as long as the files stay untouched
    converted/   model directories made out of SageMaker's archives
    fetched/     models out of object stores (transforms/model_cache.py)

It lies at OBJECT2VEC_CACHE, or below the user's own cache folder. Nothing in it is ever
needed: whoever deletes it loses time, and where it cannot be written, work is repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

_WORTH_BYTES = 64 * 2**20
"""Smaller files are hashed in less time than a person notices."""

_SETTLED_S = 2.0
"""A file that changed this short a time ago may change again within one tick of its clock."""


def cache_folder() -> Path:
    """Where the cache lies; it may not exist yet."""
    named = os.environ.get("OBJECT2VEC_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "object2vec"


def content_hash(path: Path) -> str:
    """sha256, in hex, of a file's bytes.

    That of a large file is remembered, together with the file's place, size, times and
    inode: a model of gigabytes is read through once, not at every start. Whatever writes
    to a file changes its ctime, so what is remembered of it is void then.

    Raises:
      OSError: the file cannot be read.
    """
    before = _identity(path)
    if path.stat().st_size < _WORTH_BYTES:
        return _sha256(path)
    memory = cache_folder() / "hashes" / f"{_digest(os.path.abspath(path))}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or damaged
        remembered = json.loads(memory.read_bytes())
        if remembered["identity"] == before:
            return str(remembered["sha256"])
    found = _sha256(path)
    settled = time.time() - path.stat().st_ctime > _SETTLED_S
    if settled and _identity(path) == before:
        with contextlib.suppress(OSError):  # a home that cannot be written costs time only
            _replace(memory, json.dumps({"identity": before, "sha256": found}))
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _identity(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as temporary:
        temporary.write(text)
    os.replace(temporary.name, path)
