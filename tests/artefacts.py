"""Artefacts of SageMaker, made by hand: lists of arrays, ZIPs, tars; and the golden ones.

Written from the description of the formats (`../shared/reference/sagemaker.md`, section 4.2),
not from the code that reads them.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from shared_files import shared

from object2vec.sagemaker.params import StoredArray, read_params

GOLDEN = (
    "v1_hcnn_default",
    "v2_pooled_tied_sparse",
    "v3_pooled_movie_regression",
    "v4_mixed_encoders",
    "v5_hcnn_w1_l1",
    "v6_bilstm_inferred",
)
"""The names of the golden cases."""

LIST_MAGIC = 0x112
MAGICS = {"V1": 0xF993FAC8, "V2": 0xF993FAC9, "V3": 0xF993FACA}
FLAGS = {
    "float32": 0,
    "float64": 1,
    "float16": 2,
    "uint8": 3,
    "int32": 4,
    "int8": 5,
    "int64": 6,
    "bool": 7,
}
BFLOAT16 = 12


@dataclass(frozen=True, eq=False)
class RowSparse:
    """A table of `shape` of which only the rows `indices` are stored."""

    values: np.ndarray
    indices: np.ndarray  # int64, ascending
    shape: tuple[int, ...]

    def dense(self) -> np.ndarray:
        table = np.zeros(self.shape, self.values.dtype)
        table[self.indices] = self.values
        return table


@dataclass(frozen=True, eq=False)
class BFloat16:
    """A float32 array, written without its lower 16 bits."""

    array: np.ndarray


Stored = np.ndarray | RowSparse | BFloat16


def ndarray_list(arrays: Mapping[str, Stored], version: str = "V2") -> bytes:
    """The file `mx.nd.save` writes. A name without a colon gets `arg:`.

    Args:
      version: V1, V2, V3, or V0 for what came before V1.
    """
    names = [name if ":" in name else f"arg:{name}" for name in arrays]
    return records_list([ndarray(array, version) for array in arrays.values()], names)


def records_list(records: Iterable[bytes], names: Iterable[str | bytes]) -> bytes:
    """A list of arrays that are bytes already."""
    records, names = list(records), list(names)
    encoded = [name.encode() if isinstance(name, str) else name for name in names]
    return b"".join(
        [
            struct.pack("<QQQ", LIST_MAGIC, 0, len(records)),
            *records,
            struct.pack("<Q", len(encoded)),
            *(struct.pack("<Q", len(name)) + name for name in encoded),
        ]
    )


def ndarray(array: Stored, version: str = "V2") -> bytes:
    """One array as it lies in the list."""
    if isinstance(array, RowSparse):
        assert version in ("V2", "V3"), "older ones know no row_sparse"
        values = np.ascontiguousarray(array.values)
        return b"".join(
            [
                struct.pack("<Ii", MAGICS[version], 1),
                tshape(values.shape),
                tshape(array.shape),
                struct.pack("<iii", 1, 0, FLAGS[values.dtype.name]),
                struct.pack("<i", FLAGS["int64"]),
                tshape((len(array.indices),)),
                values.tobytes(),
                np.asarray(array.indices, "<i8").tobytes(),
            ]
        )
    if isinstance(array, BFloat16):
        flag, shape = BFLOAT16, array.array.shape
        bits = np.ascontiguousarray(array.array, "<f4").view("<u4")
        data = (bits >> 16).astype("<u2").tobytes()
    else:
        flag, shape, data = FLAGS[array.dtype.name], array.shape, array.tobytes()
    if version == "V0":
        head = struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    elif version == "V1":
        head = struct.pack("<I", MAGICS["V1"]) + tshape(shape)
    else:
        head = struct.pack("<Ii", MAGICS[version], 0) + tshape(shape)
    return head + struct.pack("<iii", 1, 0, flag) + data


def tshape(shape: Iterable[int]) -> bytes:
    """Number of dimensions, and each in 64 bits."""
    shape = tuple(shape)
    return struct.pack(f"<i{len(shape)}q", len(shape), *shape)


def zip_of(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP, as model_algo-1 is one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tar_of(members: Mapping[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar that is not compressed."""
    return _tar(members, "w", format)


def tar_gz_of(members: Mapping[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar in gzip."""
    return _tar(members, "w:gz", format)


def _tar(members: Mapping[str, bytes], mode: str, format: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def model_tar_gz(
    symbol: Mapping[str, Any],
    arrays: Mapping[str, Stored],
    meta: Mapping[str, Any],
    version: str = "V2",
) -> bytes:
    """model.tar.gz in the usual layout: a tar of a ZIP of three members."""
    members = {
        "meta.json": json.dumps(meta).encode(),
        "symbol.json": json.dumps(symbol).encode(),
        "params": ndarray_list(arrays, version),
    }
    return tar_gz_of({"model_algo-1": zip_of(members)})


@contextmanager
def open_file(data: bytes) -> Iterator[BinaryIO]:
    """The bytes in a file without a name, as `read_params` wants them."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        file.seek(0)
        yield file


@contextmanager
def stored(arrays: Mapping[str, Stored], version: str = "V2") -> Iterator[dict[str, StoredArray]]:
    """What `read_params` gives for the arrays. Good for as long as the file is open."""
    data = ndarray_list(arrays, version)
    with open_file(data) as file:
        yield read_params(file, len(data), "params")


@contextmanager
def cheaply(max_bytes: int) -> Iterator[None]:
    """Fails if what is inside takes a second of computing, or more memory than that."""
    tracemalloc.start()
    started = time.process_time()
    try:
        yield
        assert time.process_time() - started < 1
        assert tracemalloc.get_traced_memory()[1] < max_bytes
    finally:
        tracemalloc.stop()


def golden(case: str) -> Path:
    """The directory of a golden case."""
    return shared("golden") / case


def unpacked(case: str) -> dict[str, bytes]:
    """meta.json, symbol.json and params of a golden case."""
    with tarfile.open(golden(case) / "model.tar.gz") as archive:
        member = archive.extractfile("model_algo-1")
        assert member is not None
        inner = zipfile.ZipFile(io.BytesIO(member.read()))
    return {name: inner.read(name) for name in inner.namelist()}
