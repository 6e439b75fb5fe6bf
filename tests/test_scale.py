"""A thousand small files and one large one in one run, in memory that does not grow."""

from __future__ import annotations

import json
import sys

from jobs import manifest, records, save_model, write_lines

from benchmarks.measure import run_once

GROWTH_MIB = 100
"""What 600,000 more lines may add. Held whole they would take 300 MiB as text alone."""


def test_many_small_files_and_a_large_one(tmp_path):
    model = save_model(tmp_path / "model", token_embedding_dim=64, enc_dim=64)
    lines = [json.dumps(row) + "\n" for row in records(20_000, seed=8)]
    peaks = []
    for name, repeats in (("small", 10), ("large", 40)):
        source = tmp_path / name
        for number in range(1000 if name == "small" else 0):
            write_lines(source / f"{number % 7}" / f"{number:04}.jsonl", records(20, number))
        source.mkdir(exist_ok=True)
        with open(source / "one.jsonl", "w") as file:
            for _ in range(repeats):
                file.writelines(lines)
        out = tmp_path / f"{name}.out"
        command = [sys.executable, "-m", "pipeline", f"--model={model}", f"--input={source}"]
        peaks.append(run_once([*command, f"--output={out}", "--threads=1"]).peak_bytes / 2**20)
        totals = manifest(out)["totals"]
        assert totals["lines"] == 20_000 * repeats + (20_000 if name == "small" else 0)
        assert (out / "_SUCCESS").exists()
        with open(out / "one.jsonl.out", "rb") as file:
            assert sum(1 for _ in file) == 20_000 * repeats
    assert len(list((tmp_path / "small.out").rglob("*.out"))) == 1001
    assert peaks[0] < 1500
    assert peaks[1] < peaks[0] + GROWTH_MIB
