"""Records per second of the main job against stock RunInference, both in one run.

    python -m benchmarks.against_run_inference [--records=200000] [--repeats=3]

Whole commands are timed, imports and commit protocol included, alternating.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.data import save_pooled, write_set_s
from benchmarks.measure import alternate, report, spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", help="folder for data (default: the system's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        model = save_pooled(folder / "model")
        data = write_set_s(folder / "in" / "s.jsonl", args.records)
        places = [f"--model={model}", f"--input={data}"]
        ours, stock = folder / "ours", folder / "stock"
        clean = "import shutil, sys; [shutil.rmtree(p, ignore_errors=True) for p in sys.argv[1:]]"
        measured = alternate(
            {
                "clean": [sys.executable, "-c", clean, str(ours), str(stock)],
                "ours": [sys.executable, "-m", "pipeline", *places, f"--output={ours}"],
                "stock": [
                    sys.executable, "-m", "benchmarks.stock_run_inference", *places,
                    f"--output={stock}",
                ],
            },
            args.repeats,
        )  # fmt: skip
        check_equal(ours / "s.jsonl.out", stock / "out")
        shutil.rmtree(ours)
    seconds = {side: [m.seconds for m in measured[side]] for side in ("ours", "stock")}
    rates = {side: args.records / spread(seconds[side])["median"] for side in seconds}
    report(
        "against_run_inference",
        records=args.records,
        repeats=args.repeats,
        ours_s=spread(seconds["ours"]),
        stock_s=spread(seconds["stock"]),
        ours_records_per_s=round(rates["ours"]),
        stock_records_per_s=round(rates["stock"]),
        ratio_of_medians=round(rates["ours"] / rates["stock"], 2),
        ours_peak_mib=round(max(m.peak_bytes for m in measured["ours"]) / 2**20),
        stock_peak_mib=round(max(m.peak_bytes for m in measured["stock"]) / 2**20),
    )


def check_equal(ours: Path, stock: Path) -> None:
    """Both sides did the same job.

    Raises:
      ValueError: another number of lines, or a value that differs by more than rounding.
    """
    with open(ours) as a, open(stock) as b:
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            if number % 1000 == 0:
                x, y = (np.array(json.loads(line)["embeddings"]) for line in (one, other))
                if not np.allclose(x, y, atol=1e-5):
                    raise ValueError(f"line {number + 1} differs by {abs(x - y).max()}")


if __name__ == "__main__":
    main()
