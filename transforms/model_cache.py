"""From `--model` to a model directory on this machine.

A directory on a disk is used where it is. What lies in an object store is fetched once
per version, and an archive that SageMaker wrote is converted once, both into the cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from object2vec.cache import cache_folder, move_in, unfinished_folder
from object2vec.config import CONFIG_FILE
from object2vec.errors import ModelError
from object2vec.sagemaker.importer import converted
from transforms.storage import FileStat, Store, open_store

_READ_BYTES = 8 * 2**20

_ARCHIVES = (".tar.gz", ".tgz", ".tar", "model_algo-1")


def find_model(uri: str, max_seq_lens: tuple[int, int] | None = None) -> str:
    """A local path of the model directory at `uri`, or made of the archive there.

    Args:
      uri: a model directory or a `model.tar.gz`, on a disk or in a store.
      max_seq_lens: longest sequences, for a side of which the archive does not say it.

    Raises:
      ModelError: there is nothing at `uri`, or the archive cannot be used.
      StorageError: the store failed.
    """
    path = Path(fetch_model(uri))
    return str(converted(path, max_seq_lens) if path.is_file() else path)


def fetch_model(uri: str) -> str:
    """A local path of what lies at `uri`: a directory, or a single file.

    Raises:
      ModelError: there is nothing at `uri`; or a folder that holds no model, but an archive.
      StorageError: the store failed.
    """
    store = open_store(uri)
    if store.is_local:
        if os.path.isdir(store.root):
            _check_folder(uri, os.listdir(store.root))
        return store.root
    parent, _, name = store.root.rpartition("/")
    if name.endswith(_ARCHIVES):  # looked for first: who may read it may not be allowed to list
        beside = open_store(parent)
        file = beside.stat(name)
        if file is not None:
            return str(_fetched(beside, [file]) / name)
    files = list(store.list())
    if not files:
        raise ModelError(
            f"{uri} holds no files; --model must be a model directory or a model.tar.gz"
        )
    _check_folder(uri, [file.name for file in files])
    return str(_fetched(store, files))


def _check_folder(uri: str, names: Sequence[str]) -> None:
    archives = [name for name in names if name.endswith(_ARCHIVES)]
    if archives and CONFIG_FILE not in names:
        archive = f"{uri.rstrip('/')}/{archives[0]}"
        raise ModelError(f"{uri} is no model directory; did you mean {archive}?")


def _fetched(store: Store, files: Sequence[FileStat]) -> Path:
    """A folder of the cache that holds the files."""
    # By version: a model that was replaced is fetched anew, and never under running jobs.
    identity = "\n".join([store.root, *(f"{f.name} {f.version}" for f in files)])
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    folder = cache_folder() / "fetched"
    found = folder / name
    if found.is_dir():
        return found
    try:
        with unfinished_folder(folder, name) as unfinished:
            for file in files:
                _fetch(store, file, unfinished / file.name)
            move_in(unfinished, found)
    except OSError as error:
        raise ModelError(
            f"{store.root} cannot be fetched into {folder}: {error.strerror or error};"
            " OBJECT2VEC_CACHE names another place"
        ) from error
    return found


def _fetch(store: Store, file: FileStat, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as copy:
        for start in range(0, file.size, _READ_BYTES):
            stop = min(start + _READ_BYTES, file.size)
            copy.write(store.read(file.name, start, stop, file.version))
