"""Proves, at start-up, that this machine gives equal bits for equal records.

The same few records are encoded in two arrangements: alone and with threads; permuted,
among others and without threads. If a bit differs, a promise of equal bytes cannot be
kept here, and the run says so. The digest of the bits, with what is known to change
them, tells machines apart whose outputs must not be mixed in one file.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import object2vec
from object2vec.config import ModelConfig
from object2vec.tokens import IN0, IN1, PAIR, TokenBatch
from object2vec.vectors import Encoded

_NUM_RECORDS = 64  # of each side
_NUM_PAIRS = 16
_NUM_NEIGHBOURS = 40  # of each side; with these, the records still fit into the same runs
_LENGTHS = (0, 1, 2, 3, 5, 6, 17, 18, 19, 20)  # two canonical lengths, so few runs


@dataclass(frozen=True, slots=True)
class Probe:
    """What the probe found.

    Attributes:
      digest: sha256, in hex, over the bits and what is known to change them.
      deterministic: whether both arrangements gave the same bits.
      details: torch, device and settings, and how many records differed; plain values
        that JSON can hold.
    """

    digest: str
    deterministic: bool
    details: dict[str, Any]


def run_probe(
    encode: Callable[[TokenBatch], Encoded],
    encode_otherwise: Callable[[TokenBatch], Encoded],
    config: ModelConfig,
    max_seq_lens: tuple[int, int],
    device: str,
) -> Probe:
    """Encodes the records in both arrangements.

    Args:
      encode: the usual way to encode.
      encode_otherwise: a way that must give the same bits, such as without threads.
      config: of the model.
      max_seq_lens: longest sequence of each side.
      device: `cpu` or `cuda`, where the encoders are.
    """
    kinds = [IN0] * _NUM_RECORDS + [IN1] * _NUM_RECORDS + [PAIR] * _NUM_PAIRS
    records = [_record(config, max_seq_lens, kind, i) for i, kind in enumerate(kinds)]
    straight = _by_record(encode(_batch(records, kinds)))

    other_kinds = [IN0] * _NUM_NEIGHBOURS + [IN1] * _NUM_NEIGHBOURS
    others = [_record(config, max_seq_lens, kind, 1000 + i) for i, kind in enumerate(other_kinds)]
    all_records, all_kinds = records + others, kinds + other_kinds
    order = np.argsort(_scatter(np.arange(len(all_records))), kind="stable").tolist()
    shuffled = _by_record(
        encode_otherwise(_batch([all_records[i] for i in order], [all_kinds[i] for i in order]))
    )
    place_of = {record: place for place, record in enumerate(order)}
    num_different = sum(bits != shuffled[place_of[i]] for i, bits in enumerate(straight))

    identity = {
        "torch": torch.__version__,
        "device": device if device == "cpu" else f"{device} {torch.cuda.get_device_name()}",
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for bits in straight:
        digest.update(bits)
    details = {
        **identity,
        "cpu": _cpu_model(),
        "libraries": [
            line.strip(" -")
            for line in torch.__config__.show().splitlines()
            if "Math Kernel" in line or "MKL-DNN" in line
        ],
        # If so, torch may have used MKL before MKL_CBWR was set.
        "torch_came_first": object2vec.TORCH_CAME_FIRST,
        "num_records": len(records),
        "num_different": num_different,
    }
    return Probe(digest.hexdigest(), num_different == 0, details)


def _record(
    config: ModelConfig, max_seq_lens: tuple[int, int], kind: int, number: int
) -> list[list[int]]:
    """The sequences of one record: arithmetic, so that no library can change them."""
    sequences = []
    for side in (IN0, IN1) if kind == PAIR else (kind,):
        seed = 2 * number + side
        length = min(_LENGTHS[seed // 2 % len(_LENGTHS)], max_seq_lens[side])
        ids = _scatter(np.arange(length) + 32 * seed) % config.encoders[side].vocab_size
        sequences.append(ids.tolist())
    return sequences


def _scatter(numbers: np.ndarray) -> np.ndarray:
    """Numbers without an order to the eye (Knuth's multiplicative hash)."""
    return (numbers.astype(np.int64) + 1) * 2654435761 % 2**32 >> 4


def _batch(records: list[list[list[int]]], kinds: list[int]) -> TokenBatch:
    sequences = [sequence for record in records for sequence in record]
    return TokenBatch.build(sequences, kinds, range(len(records)))


def _by_record(encoded: Encoded) -> list[bytes]:
    rows = [iter(matrix) for matrix in encoded.vectors]
    return [next(rows[kind]).tobytes() for kind in encoded.kinds_R.tolist()]


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
