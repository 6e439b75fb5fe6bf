"""Running commands alternately, and telling what was measured on what."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of a command: wall seconds, and the largest resident size of its process."""

    seconds: float
    peak_bytes: int


_WATCHED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""Runs a command, and prints its peak in KiB. Linux counts for a process what its parent held
when it was started, so that a large parent (pytest, say) would be measured instead."""


def run_once(command: Sequence[str]) -> Measured:
    """Runs a command in a process of its own.

    Raises:
      RuntimeError: it failed; with what it printed.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    watched = [sys.executable, "-I", "-S", "-c", _WATCHED, *command]
    begun = time.perf_counter()
    ended = subprocess.run(watched, cwd=ROOT, env=environment, capture_output=True)
    seconds = time.perf_counter() - begun
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr.decode()[-2000:]}")
    return Measured(seconds, int(ended.stdout) * 1024)


def alternate(contenders: Mapping[str, Sequence[str]], repeats: int) -> dict[str, list[Measured]]:
    """Runs every command `repeats` times, in turns, so that a noisy minute hits all."""
    found: dict[str, list[Measured]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, command in contenders.items():
            found[name].append(run_once(command))
            print(f"  {name}: {found[name][-1].seconds:.1f} s", file=sys.stderr)
    return found


def report(name: str, **facts: object) -> None:
    """Prints one JSON line: the facts, and what they were measured with."""
    environment = {
        "python": platform.python_version(),
        **{package: version(package) for package in ("apache-beam", "torch", "numpy", "orjson")},
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps({"benchmark": name, **facts, **environment}))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum and median."""
    return {"min": round(min(values), 3), "median": round(statistics.median(values), 3)}


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
