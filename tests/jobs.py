"""Small models, inputs and runs of the main job for the tests that need them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from object2vec.config import EncoderConfig, ModelConfig
from object2vec.model import Object2Vec
from pipeline.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
VOCAB = 50


def save_model(
    path: Path, network: str = "pooled_embedding", seed: int = 0, **changes: Any
) -> Path:
    """A model directory with random weights: two encoders, vocabulary of 50, D = 8."""
    settings: dict[str, Any] = {
        "network": network,
        "vocab_size": VOCAB,
        "token_embedding_dim": 8,
        "enc_dim": 8,
        "max_seq_len": 12,
    }
    if network != "pooled_embedding":
        settings["layers"] = 2
    side = EncoderConfig(**(settings | changes))
    Object2Vec.random(ModelConfig((side, side)), seed=seed).save(path)
    return path


def records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """in0, in1 and pair records, of 0 to 15 ids each (12 is the model's longest)."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        ids = [rng.integers(0, VOCAB, rng.integers(0, 16)).tolist() for _ in range(2)]
        keys = (("in0",), ("in1",), ("in0", "in1"))[int(rng.choice(3, p=(0.7, 0.2, 0.1)))]
        found.append({"id": number, **dict(zip(keys, ids, strict=False))})
    return found


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*, model: Any, input: Any, output: Any, flags: Sequence[str] = ()) -> int:
    """The main job in this process.

    Returns:
      Its exit code.
    """
    return main([f"--model={model}", f"--input={input}", f"--output={output}", *flags])


def start(*flags: str, **environment: str) -> subprocess.Popen[str]:
    """The main job in a process of its own, from the repository's root."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *flags],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outputs(folder: Path) -> dict[str, bytes]:
    """Every published file and its bytes; nothing of `_o2v` or `_SUCCESS`."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith("_")
    }


def manifest(folder: Path) -> dict[str, Any]:
    """The latest run's manifest."""
    latest = sorted((folder / "_o2v" / "runs").iterdir())[-1]
    found: dict[str, Any] = json.loads(latest.read_bytes())
    return found


def summary(folder: Path) -> dict[str, Any]:
    """`_o2v/summary.json`."""
    found: dict[str, Any] = json.loads((folder / "_o2v" / "summary.json").read_bytes())
    return found
