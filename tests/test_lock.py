"""One run per output: on disks by processes that are killed, on S3 by a clock of ours."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from object2vec.errors import OutputError, StorageError
from transforms.lock import LOCK_NAME, NUM_BEATS, BeatingLock, OutputLock, boot_id
from transforms.objects import ObjectStore
from transforms.storage import Store, open_store

pytest_plugins = ("s3_server",)
HOLDER = """
import subprocess, sys, time
from transforms.lock import OutputLock
from transforms.storage import open_store
with OutputLock(open_store(sys.argv[1])) as lock:
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def output(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


@contextmanager
def holder(root: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock; killed at the end, and its child with it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.kill(child, signal.SIGKILL)


# Disks


def test_a_second_run_is_refused_at_once_and_told_by_whom(output: Store) -> None:
    with holder(output.root) as process:
        started = time.monotonic()
        with pytest.raises(OutputError, match=f"process {process.pid} on .*--force_unlock"):
            OutputLock(output).__enter__()
        assert time.monotonic() - started < 1
        content = json.loads(output.read(LOCK_NAME))
        assert content["pid"] == process.pid
        assert content["boot"] == boot_id()


def test_the_lock_of_a_killed_run_is_free_at_once(output: Store) -> None:
    """Also while a child of the killed run lives on."""
    with holder(output.root) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with OutputLock(output) as lock:
            lock.check()


def test_a_lock_can_be_taken_again_after_its_end(output: Store) -> None:
    for _ in range(3):
        with OutputLock(output) as lock:
            with pytest.raises(OutputError):
                OutputLock(output).__enter__()
            lock.check()
    with pytest.raises(OutputError, match="not locked by this run"):
        lock.check()


def test_force_takes_the_lock_and_the_other_run_notices(output: Store) -> None:
    with OutputLock(output) as old:
        with OutputLock(output, force=True) as new:
            new.check()
            with pytest.raises(OutputError, match="forced"):
                old.check()
            with pytest.raises(OutputError):
                OutputLock(output).__enter__()
        OutputLock(output).__enter__()
    # The old run's end must not open the lock that is now another's.
    with pytest.raises(OutputError):
        OutputLock(output).__enter__()


def test_a_forked_child_does_not_keep_the_lock(output: Store) -> None:
    lock = OutputLock(output).__enter__()
    from_parent, to_child = os.pipe()
    from_child, to_parent = os.pipe()
    child = os.fork()
    if not child:
        os.close(to_child)
        os.write(to_parent, b"x")
        os.read(from_parent, 1)  # lives until the parent is done
        os._exit(0)
    try:
        os.read(from_child, 1)
        # As the death of this process would: no unlocking, just the descriptor closed.
        os.close(lock._lock.file)  # type: ignore[attr-defined]
        lock._lock.file = None  # type: ignore[attr-defined]
        with OutputLock(output):
            pass
    finally:
        os.close(to_child)
        os.waitpid(child, 0)
        for end in (from_parent, from_child, to_parent):
            os.close(end)


def _race(root: str, rounds: int, barrier: Any, force: bool, results: Any) -> None:
    store = open_store(root)
    for number in range(rounds):
        barrier.wait(30)
        lock = OutputLock(store, force=force)
        try:
            lock.__enter__()
            held = True
        except OutputError:
            held = False
        barrier.wait(30)
        try:
            lock.check()
        except OutputError:
            held = False
        results.put((number, held))
        barrier.wait(30)
        lock.__exit__(None, None, None)


@pytest.mark.parametrize("force", [False, True])
def test_of_two_runs_exactly_one_proceeds(output: Store, force: bool) -> None:
    """Twenty times over. By force too: of two that force, the last holds it."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (output.root, 20, barrier, force, results)
    processes = [context.Process(target=_race, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    winners = [0] * 20
    for _ in range(40):
        number, held = results.get(timeout=30)
        winners[number] += held
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert winners == [1] * 20


def test_an_output_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(StorageError, match="cannot lock"):
        OutputLock(open_store(str(tmp_path / "out"))).__enter__()


# Object stores


class Clock:
    """Time that passes only in `sleep`; on each second others may act."""

    def __init__(self) -> None:
        self.now = 100.0
        self.each_second: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.now += 1
            self.each_second()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(s3_store: str, clock: Clock) -> Callable[[], BeatingLock]:
    """Locks of one output, beating every 10 s of the clock when told to."""
    store = ObjectStore(s3_store + "/out")
    return lambda: BeatingLock(store, beat_s=10, sleep=clock.sleep, clock=clock)


def test_a_beating_holder_keeps_the_lock(make: Callable[[], BeatingLock], clock: Clock) -> None:
    old, new = make(), make()
    old.acquire()
    clock.each_second = lambda: old.beat() if clock.now % 10 == 0 else None
    with pytest.raises(OutputError, match=f"process {os.getpid()} on .*--force_unlock"):
        new.acquire()
    assert clock.now <= 110  # one beat was enough
    old.check()
    with pytest.raises(OutputError):
        new.check()


def test_a_slow_beat_is_not_a_dead_one(make: Callable[[], BeatingLock], clock: Clock) -> None:
    old, new = make(), make()
    old.acquire()
    clock.each_second = lambda: old.beat() if clock.now == 100 + 10 * NUM_BEATS - 1 else None
    with pytest.raises(OutputError):
        new.acquire()
    old.check()


def test_a_silent_holder_is_taken_over_and_notices(
    make: Callable[[], BeatingLock], clock: Clock
) -> None:
    old, new = make(), make()
    old.acquire()
    new.acquire()
    assert clock.now == 100 + 10 * NUM_BEATS
    new.check()
    with pytest.raises(OutputError, match="not locked by this run"):
        old.check()  # it wakes up, and asks before it goes on
    with pytest.raises(OutputError):
        old.beat()
    old.release()
    new.check()
    new.beat()


def test_a_holder_that_slept_and_was_not_taken_over_goes_on(
    make: Callable[[], BeatingLock], clock: Clock
) -> None:
    lock = make()
    lock.acquire()
    clock.now += 1000
    lock.check()


def test_of_two_that_take_over_one_wins(make: Callable[[], BeatingLock], clock: Clock) -> None:
    make().acquire()
    first, second = make(), make()

    def first_is_faster() -> None:
        if clock.now == 100 + 10 * NUM_BEATS:
            clock.each_second = lambda: None
            first._write(first._look()[0])  # type: ignore[index]

    clock.each_second = first_is_faster
    with pytest.raises(OutputError):
        second.acquire()
    first.check()


def test_of_many_contenders_for_a_free_lock_one_wins(make: Callable[[], BeatingLock]) -> None:
    start, won = threading.Barrier(8), []

    def race() -> None:
        lock = make()
        start.wait()
        if lock._write(None):
            won.append(lock)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_released_lock_is_free_at_once(make: Callable[[], BeatingLock], clock: Clock) -> None:
    for _ in range(3):
        lock = make()
        lock.acquire()
        lock.release()
        with pytest.raises(OutputError):
            lock.check()
    assert clock.now == 100


def test_force_takes_a_beating_lock(make: Callable[[], BeatingLock], clock: Clock) -> None:
    old, new = make(), make()
    old.acquire()
    new.acquire(force=True)
    assert clock.now == 100
    new.check()
    with pytest.raises(OutputError):
        old.beat()


def test_a_beat_whose_reply_was_lost_is_ours(s3_store: str, s3_proxy: Any) -> None:
    lock = BeatingLock(ObjectStore(s3_store + "/out"), beat_s=10)
    for step in (lock.acquire, lock.beat):
        faults = ["lost"]
        s3_proxy.fault = lambda method, path, f=faults: f.pop() if f and method == "PUT" else None
        step()
    lock.check()
    assert s3_proxy.num_faults == 2


def test_the_lock_beats_by_itself(s3_store: str) -> None:
    store = open_store(s3_store + "/out")
    with OutputLock(store, beat_s=0.05) as lock:
        beats: set[int] = set()
        deadline = time.monotonic() + 10
        while len(beats) < 3 and time.monotonic() < deadline:
            beats.add(json.loads(store.read(LOCK_NAME))["beat"])
        assert len(beats) == 3
        with pytest.raises(OutputError, match="is locked by"):
            OutputLock(store, beat_s=0.05).__enter__()
        lock.check()
    assert not [thread for thread in threading.enumerate() if thread.name == "o2v-lock"]
    with OutputLock(store, beat_s=60):
        pass
