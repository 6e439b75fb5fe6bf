"""Signals and locks: a run stops when it is asked to, and has its output for itself."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import pytest
from jobs import outputs, run, save_model, summary
from kills import Job, save_long_lines, save_slow_model

NUM_UNITS, NUM_RECORDS = 24, 11_900
UNITS = ("--unit_bytes=256K", "--batch_tokens=4096")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_slow_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def small_model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return save_long_lines(
        tmp_path_factory.mktemp("data") / "in" / "big.jsonl", NUM_RECORDS, seed=1
    ).parent


@pytest.fixture(scope="module")
def reference(model, data, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference")
    assert run(model=model, input=data, output=out) == 0
    return outputs(out)


@pytest.fixture
def job(model, data, reference, tmp_path) -> Job:
    flags = (f"--model={model}", f"--input={data}", *UNITS)
    return Job(flags, tmp_path / "out", tmp_path / "runs", reference)


def check_interrupted(stopped, number: int) -> None:
    """One line, the documented code, in time, and nobody stays behind."""
    asked = time.monotonic()
    assert stopped.wait(10) == 128 + number
    assert time.monotonic() - asked < 10
    name = signal.Signals(number).name
    told = [line for line in stopped.said.splitlines() if not is_progress(line)]
    assert told == [
        f"object2vec: stopped by {name}; run the same command again to do what is missing"
    ]
    assert not stopped.children()
    assert not list(stopped.scratch.iterdir())


def is_progress(line: str) -> bool:
    return re.match(r"\d\d:\d\d:\d\d |INFO:", line) is not None


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGTERM, {"cold": True}),
        (signal.SIGINT, {}),
    ],
)
def test_a_signal_stops_the_run_and_a_rerun_goes_on(job, number, how):
    stopped = job.start(**how)
    assert stopped.until(lambda: job.markers() >= NUM_UNITS // 3, look=job.look), stopped.said
    stopped.signal(number)
    check_interrupted(stopped, number)
    num_kept = job.markers()
    assert NUM_UNITS // 3 <= num_kept < NUM_UNITS
    job.look()
    assert outputs(job.output) == {}
    job.finish()
    assert summary(job.output)["encoded"] <= NUM_RECORDS * (1 - (num_kept - 1) / NUM_UNITS)


def test_a_signal_stops_child_processes_too(job):
    stopped = job.start("--workers=2")
    assert stopped.until(lambda: job.markers() >= NUM_UNITS // 3, look=job.look), stopped.said
    stopped.signal(signal.SIGTERM)
    check_interrupted(stopped, signal.SIGTERM)
    job.finish()
    assert summary(job.output)["encoded"] <= 0.8 * NUM_RECORDS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_start_is_told_in_one_line_too(job, number):
    """Before there is anything to stop."""
    stopped = job.start()
    assert stopped.until((job.output / "_o2v" / "lock").exists)
    stopped.signal(number)
    check_interrupted(stopped, number)


@pytest.mark.parametrize(
    ("num_files", "num_lines"), [(600, 2), (30, 550)], ids=["of one unit", "of two units each"]
)
def test_a_signal_stops_the_publishing_of_many_files(small_model, tmp_path, num_files, num_lines):
    for number in range(num_files):
        save_long_lines(tmp_path / "in" / f"{number:03}.jsonl", num_lines, seed=number)
    whole = tmp_path / "reference"
    assert run(model=small_model, input=tmp_path / "in", output=whole) == 0
    unit_bytes = "1M" if num_lines < 10 else "256K"
    flags = (f"--model={small_model}", f"--input={tmp_path / 'in'}", f"--unit_bytes={unit_bytes}")
    job = Job(flags, tmp_path / "out", tmp_path / "runs", outputs(whole))
    stopped = job.start()
    assert stopped.until(lambda: any(job.output.glob("*.out"))), stopped.said
    stopped.signal(signal.SIGTERM)
    check_interrupted(stopped, signal.SIGTERM)
    assert len(outputs(job.output)) < num_files
    job.finish()


def test_a_signal_stops_child_processes_that_still_start(job):
    stopped = job.start("--workers=2")
    assert stopped.until(lambda: len(stopped.children()) == 2)
    stopped.signal(signal.SIGINT)
    check_interrupted(stopped, signal.SIGINT)


def test_a_second_signal_ends_child_processes_at_once(job):
    stopped = job.start("--workers=2")
    assert stopped.until(lambda: len(stopped.children()) == 2)
    stopped.signal(signal.SIGINT)
    time.sleep(0.1)
    stopped.signal(signal.SIGINT)
    assert stopped.wait(1) == 128 + signal.SIGINT
    assert stopped.children_end_within(1)


def test_a_second_signal_ends_it_at_once(job):
    stopped = job.start()
    assert stopped.until(lambda: job.markers() >= 2, look=job.look), stopped.said
    stopped.signal(signal.SIGSTOP)  # so that both are there when it goes on
    stopped.signal(signal.SIGINT)
    stopped.signal(signal.SIGTERM)
    stopped.signal(signal.SIGCONT)
    assert stopped.wait(2) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert "stopped by" not in stopped.said
    job.look()


# Locks


def test_of_two_runs_one_wins(job):
    """Five times, each within 100 ms; the winner is killed, and its lock is free at once."""
    chance = random.Random(1)
    for _ in range(5):
        runs = [job.start()]
        time.sleep(chance.uniform(0, 0.1))
        runs.append(job.start())
        started = time.monotonic()
        assert runs[0].until(lambda runs=runs: any(r.code is not None for r in runs), look=job.look)
        loser, winner = sorted(runs, key=lambda each: each.code is None)
        assert loser.code == 4, loser.said
        assert time.monotonic() - started < 3
        assert loser.said.startswith("object2vec: ") and loser.said.count("\n") == 1
        assert f"is locked by process {winner.pid} on" in loser.said
        held = job.markers()
        assert winner.until(lambda held=held: job.markers() > held, look=job.look), winner.said
        winner.signal(signal.SIGKILL)
        winner.wait(look=job.look)
    job.finish()


def test_a_forced_lock_stops_its_holder(job):
    loser = job.start()
    assert loser.until(lambda: job.markers() >= 2, look=job.look), loser.said
    refused = job.start()
    assert refused.wait() == 4 and "--force_unlock" in refused.said
    loser.signal(signal.SIGSTOP)  # as on a machine that lost its network
    job.finish("--force_unlock")
    finished = identities(job.output)
    loser.signal(signal.SIGCONT)
    assert loser.wait(10, look=job.look) == 4
    assert "forced it open" in loser.said and "Traceback" not in loser.said
    job.look()
    assert identities(job.output) == finished
    assert run(model=job.flags[0].partition("=")[2], input=job.flags[1].partition("=")[2],
               output=job.output, flags=["--exit_code_if_nothing=99"]) == 99  # fmt: skip
    job.check_finished()


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every output: as they are if nobody touched it."""
    stats = {name: (folder / name).stat() for name in outputs(folder)}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in stats.items()}
