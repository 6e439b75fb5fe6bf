"""Data and models for the benchmarks: seeded, so that every run measures the same work.

Set S ("short"): lengths log-normal with mean 20 and sigma 0.8, between 1 and 512; ids
Zipf 1.05 over a vocabulary of 50,000. The 100,000 records made here are repeated to
any count, so that making data costs seconds and files of any size hold real variety.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from object2vec.config import EncoderConfig, ModelConfig
from object2vec.model import Object2Vec

VOCAB_SIZE = 50_000
MEAN_LENGTH, SIGMA, MAX_LENGTH = 20, 0.8, 512
_DISTINCT = 100_000


def write_set_s(path: Path, num_records: int, seed: int = 7) -> Path:
    """JSON Lines of `{"in0":[...]}`."""
    rng = np.random.default_rng(seed)
    distinct = min(num_records, _DISTINCT)
    mu = np.log(MEAN_LENGTH) - SIGMA**2 / 2
    lengths = np.clip(rng.lognormal(mu, SIGMA, distinct).round(), 1, MAX_LENGTH).astype(int)
    weights = 1 / np.arange(1, VOCAB_SIZE) ** 1.05
    ids = rng.choice(np.arange(1, VOCAB_SIZE), int(lengths.sum()), p=weights / weights.sum())
    lines = []
    start = 0
    for length in lengths.tolist():
        text = ",".join(map(str, ids[start : start + length].tolist()))
        lines.append(f'{{"in0":[{text}]}}\n')
        start += length
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = "".join(lines)
    with open(path, "w") as file:
        for _ in range(num_records // distinct):
            file.write(whole)
        file.writelines(lines[: num_records % distinct])
    return path


def save_pooled(path: Path, dimension: int = 300) -> Path:
    """A pooled model with random weights: values do not matter for speed."""
    side = EncoderConfig(
        "pooled_embedding", VOCAB_SIZE, dimension, dimension, max_seq_len=MAX_LENGTH
    )
    Object2Vec.random(ModelConfig((side, side)), seed=0).save(path)
    return path
