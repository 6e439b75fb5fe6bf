"""Peak memory of the main job at 200,000 and 1,000,000 lines, and with 1,000 small files.

python -m benchmarks.memory [--small=200000] [--large=1000000]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.data import save_pooled, write_set_s
from benchmarks.measure import report, run_once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=200_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--scratch", help="folder for data (default: the system's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        model = save_pooled(folder / "model")
        facts: dict[str, object] = {}
        for label, records, small_files in (
            ("small", args.small, 0),
            ("large", args.large, 0),
            ("small_and_1000_files", args.small, 1000),
        ):
            source = folder / label
            write_set_s(source / "one.jsonl", records)
            for number in range(small_files):
                write_set_s(source / "many" / f"{number:04}.jsonl", 20, seed=number)
            command = [sys.executable, "-m", "pipeline", f"--model={model}", f"--input={source}"]
            measured = run_once([*command, f"--output={folder / 'out' / label}"])
            facts[f"{label}_records"] = records + 20 * small_files
            facts[f"{label}_peak_mib"] = round(measured.peak_bytes / 2**20)
            facts[f"{label}_s"] = round(measured.seconds, 1)
        report("memory", **facts)


if __name__ == "__main__":
    main()
