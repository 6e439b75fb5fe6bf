"""A model in an object store is fetched once per machine; a local one is used where it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from object2vec.errors import ModelError
from transforms.storage import open_store

_READ_BYTES = 8 * 2**20


def fetch_model(uri: str, cache: str | None = None) -> str:
    """A local path of the model directory at `uri`.

    Args:
      cache: folder of fetched models; None for the environment's OBJECT2VEC_CACHE, else a
        folder below the user's own cache.

    Raises:
      ModelError: there are no files at `uri`.
      StorageError: the store failed.
    """
    store = open_store(uri)
    if store.is_local:
        return store.root
    files = list(store.list())
    if not files:
        raise ModelError(f"{uri} holds no files; --model must be a model directory")
    # By version: a model that was replaced is fetched anew, and never under running jobs.
    identity = "\n".join([store.root, *(f"{f.name} {f.version}" for f in files)])
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    folder = Path(cache or _default_cache())
    found = folder / name
    if found.is_dir():
        return str(found)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
    try:
        for file in files:
            path = unfinished / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as copy:
                for start in range(0, file.size, _READ_BYTES):
                    stop = min(start + _READ_BYTES, file.size)
                    copy.write(store.read(file.name, start, stop, file.version))
        if not found.is_dir():  # else another process was faster
            os.rename(unfinished, found)
    except OSError:
        if not found.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return str(found)


def _default_cache() -> str:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return os.environ.get("OBJECT2VEC_CACHE") or os.path.join(home, "object2vec")
