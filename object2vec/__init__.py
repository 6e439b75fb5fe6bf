"""Object2Vec inference on PyTorch: token ids in, vectors out.

    Object2Vec.load("model").encode([[5, 9, 2], [7]], side=0)   # float32 [2, D]

This package knows no Beam and opens local files only. Importing it does not import
torch; the first use of a name that needs it does.

This is the one module that touches the environment: a float32 product of Intel's MKL
depends on where a row stands, unless MKL_CBWR asks it not to, and MKL reads that once,
before its first operation. A value that is set already is left alone.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from object2vec.config import EncoderConfig, ModelConfig
    from object2vec.engine import Engine
    from object2vec.errors import (
        DeviceError,
        ModelError,
        Object2VecError,
        RecordError,
    )
    from object2vec.model import Object2Vec, model_hash
    from object2vec.probe import Probe
    from object2vec.tokens import TokenBatch
    from object2vec.vectors import Encoded

_HOMES = {
    "DeviceError": "errors",
    "Encoded": "vectors",
    "EncoderConfig": "config",
    "Engine": "engine",
    "ModelConfig": "config",
    "ModelError": "errors",
    "Object2Vec": "model",
    "Object2VecError": "errors",
    "Probe": "probe",
    "RecordError": "errors",
    "TokenBatch": "tokens",
    "model_hash": "model",
}

__all__ = [
    "DeviceError",
    "Encoded",
    "EncoderConfig",
    "Engine",
    "ModelConfig",
    "ModelError",
    "Object2Vec",
    "Object2VecError",
    "Probe",
    "RecordError",
    "TokenBatch",
    "model_hash",
]

TORCH_CAME_FIRST = "torch" in sys.modules
"""Whether torch was imported before this package, when it may be too late for MKL_CBWR."""

_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def mkl_cbwr(machine: str, cpuinfo: str) -> str | None:
    """What MKL_CBWR has to be for bits that do not depend on a row's neighbours.

    Args:
      machine: as `platform.machine()` says it.
      cpuinfo: the text of /proc/cpuinfo; empty where there is none.

    Returns:
      The value, or None for a kind of machine that has no MKL.
    """
    if machine.lower() not in ("x86_64", "amd64"):
        return None
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    # AVX2 is also the answer where the flags are not known: every such CPU sold today has it.
    return "AVX512,STRICT" if set(flags.split()) >= _AVX512 else "AVX2,STRICT"


def _set_mkl_cbwr() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    value = mkl_cbwr(platform.machine(), text)
    if value is not None:
        os.environ.setdefault("MKL_CBWR", value)


_set_mkl_cbwr()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
