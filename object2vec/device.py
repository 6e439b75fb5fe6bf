"""Where a model runs, and under which of torch's settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from object2vec.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda")
PREFERRED_MODES = ("embedding", "classification")


@dataclass(frozen=True, slots=True)
class Placement:
    """Which device holds which network: `cpu` or `cuda`."""

    encoders: str
    scorer: str


def placement(preferred_mode: str | None, device: str) -> Placement:
    """What goes into GPU memory, as SageMaker's INFERENCE_PREFERRED_MODE asks.

    Both kinds of records are answered in any mode. On a CPU there is nothing to choose.

    Raises:
      ValueError: the mode is not `embedding`, `classification` or None.
    """
    if preferred_mode is not None and preferred_mode not in PREFERRED_MODES:
        raise ValueError(
            f"preferred_mode is {preferred_mode!r}; it must be one of {', '.join(PREFERRED_MODES)}"
        )
    return Placement(encoders=device, scorer="cpu" if preferred_mode == "embedding" else device)


def choose_device(asked: str, has_cuda: bool) -> str:
    """`cpu` or `cuda`, for what was asked and what is there.

    Raises:
      ValueError: the name is not `auto`, `cpu` or `cuda`.
      DeviceError: `cuda` was asked for and is not there.
    """
    if asked not in DEVICES:
        raise ValueError(f"device is {asked!r}; it must be one of {', '.join(DEVICES)}")
    if asked == "cuda" and not has_cuda:
        raise DeviceError(
            "device cuda was asked for, but torch sees no GPU here;"
            " ask for cpu or auto, or install a driver and a torch that fit the GPU"
        )
    if asked == "auto":
        return "cuda" if has_cuda else "cpu"
    return asked


@contextmanager
def exact_numerics() -> Iterator[None]:
    """float32 that is float32, and always the same algorithm, for the time of the block.

    torch's settings are those of the process. They are set back at the end.
    """
    backends: Any = torch.backends  # its parts are made at run time
    settings = [
        # By default cuDNN may round what goes into a convolution or an LSTM to TF32.
        (backends.cuda.matmul, "fp32_precision", "ieee"),
        (backends.cudnn.conv, "fp32_precision", "ieee"),
        (backends.cudnn.rnn, "fp32_precision", "ieee"),
        (backends.mkldnn.matmul, "fp32_precision", "ieee"),
        (backends.mkldnn.conv, "fp32_precision", "ieee"),
        (backends.mkldnn.rnn, "fp32_precision", "ieee"),
        # Of several algorithms, not the one that happens to be the fastest just now.
        (backends.cudnn, "benchmark", False),
        (backends.cudnn, "deterministic", True),
    ]
    before = [getattr(part, name) for part, name, _ in settings]
    try:
        for part, name, value in settings:
            setattr(part, name, value)
        yield
    finally:
        for (part, name, _), value in zip(settings, before, strict=True):
            setattr(part, name, value)
