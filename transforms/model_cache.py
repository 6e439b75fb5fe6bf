"""From `--model` to a model directory on this machine.

A directory on a disk is used where it is. What lies in an object store is fetched once
per version, and an archive that SageMaker wrote is converted once, both into the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from object2vec.cache import cache_folder
from object2vec.errors import ModelError
from object2vec.sagemaker.importer import converted
from transforms.storage import FileStat, Store, open_store

_READ_BYTES = 8 * 2**20


def find_model(uri: str, max_seq_lens: tuple[int, int] | None = None) -> str:
    """A local path of the model directory at `uri`, or made of the archive there.

    Args:
      uri: a model directory or a `model.tar.gz`, on a disk or in a store.
      max_seq_lens: longest sequences, for an archive that does not say them itself.

    Raises:
      ModelError: there is nothing at `uri`, or the archive cannot be used.
      StorageError: the store failed.
    """
    path = Path(fetch_model(uri))
    return str(converted(path, max_seq_lens) if path.is_file() else path)


def fetch_model(uri: str) -> str:
    """A local path of what lies at `uri`: a directory, or a single file.

    Raises:
      ModelError: there is nothing at `uri`.
      StorageError: the store failed.
    """
    store = open_store(uri)
    if store.is_local:
        return store.root
    files = list(store.list())
    if files:
        return str(_fetched(store, files))
    parent, _, name = store.root.rpartition("/")
    if not parent.endswith("/"):  # else the root is a bucket
        store = open_store(parent)
        file = store.stat(name)
        if file is not None:
            return str(_fetched(store, [file]) / name)
    raise ModelError(f"{uri} holds no files; --model must be a model directory or a model.tar.gz")


def _fetched(store: Store, files: Sequence[FileStat]) -> Path:
    """A folder of the cache that holds the files."""
    # By version: a model that was replaced is fetched anew, and never under running jobs.
    identity = "\n".join([store.root, *(f"{f.name} {f.version}" for f in files)])
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    folder = cache_folder() / "fetched"
    found = folder / name
    if found.is_dir():
        return found
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
    return found
