"""Runs that are killed: the harness of the tests of crashes and interruptions.

A job's process is forked from a server that has Beam and torch imported already (an import
costs more than a job), so that a test can afford many. What happens to it is real: the
kernel's signals, at moments told by what the run has put on the disk.
"""

from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from jobs import ROOT, records, save_model, write_lines

HANGS_AFTER_S = 120
"""Far beyond every job here, on a busy machine too."""

_TOKEN = "O2V_TEST_RUN"


class Run:
    """The main job in a process of its own.

    Args:
      flags: its command line.
      scratch: a folder for its temporary files and what it says.
      cold: start it as a user would, by `python -m pipeline`; else it is forked.
      dies_before: the change of the output folder before which it kills itself: its number,
        or how it begins: `replace`, `link`, `unlink` or `rmdir`, and a name below the folder.
      environment: added to the one at hand.
    """

    def __init__(
        self,
        flags: Sequence[str],
        scratch: Path,
        *,
        cold: bool = False,
        dies_before: int | str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.token = uuid.uuid4().hex
        self.scratch = scratch / self.token[:8]
        self.scratch.mkdir(parents=True)
        self._log = self.scratch.with_suffix(".log")
        changes = {_TOKEN: self.token, "TMPDIR": str(self.scratch), **(environment or {})}
        self._process: Any
        if cold:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "pipeline", *flags],
                    cwd=ROOT,
                    env=os.environ | changes,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        else:
            environ = dict(os.environ) | changes
            arguments = (list(flags), environ, str(self._log), dies_before)
            self._process = _fork_server().Process(target=_main, args=arguments)
            self._process.start()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        code: int | None = self._process.exitcode
        return code

    @property
    def said(self) -> str:
        """Everything it printed."""
        return self._log.read_text() if self._log.exists() else ""

    def signal(self, number: int) -> None:
        if self.code is None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float = HANGS_AFTER_S, look: Callable[[], object] = int) -> int:
        """Its exit code; calls `look` again and again until then.

        Raises:
          AssertionError: it did not end; it is killed, and what it said is shown.
        """
        self.until(lambda: False, timeout_s, look)
        assert self.code is not None
        return self.code

    def until(
        self,
        condition: Callable[[], bool],
        timeout_s: float = HANGS_AFTER_S,
        look: Callable[[], object] = int,
    ) -> bool:
        """Waits until something is the case; False if the run ended before that.

        Raises:
          AssertionError: neither happened.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            ended = self.code is not None
            look()
            if condition():
                return True
            if ended:
                return False
            time.sleep(0.002)
        self.signal(signal.SIGKILL)
        raise AssertionError(f"hangs: nothing came in {timeout_s} s; it said:\n{self.said}")

    def children(self) -> list[int]:
        """Processes that it or its children started and that live, also after its death."""
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == self.pid:
                continue
            with suppress(OSError):  # it ended while we looked, or is a zombie
                environ = Path("/proc", name, "environ").read_bytes()
                if f"{_TOKEN}={self.token}".encode() in environ:
                    found.append(int(name))
        return sorted(found)

    def children_end_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.children():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


@cache
def _fork_server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kills", "pipeline.embed", "transforms.objects"])
    with pytest.MonkeyPatch.context() as patch:
        # Its own path is not handed on to it before Python 3.13, and it skips what it misses.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        forkserver.ensure_running()
    return context


def read_ledger_in_haste(root: str) -> int:
    """Reads an output's records in a fresh process whose threads change places all the time.

    Returns:
      The exit code, negative for a signal.
    """
    process = _fork_server().Process(target=_read_ledger, args=(root,))
    process.start()
    process.join(HANGS_AFTER_S)
    code: int | None = process.exitcode
    assert code is not None, "hangs"
    return code


def _read_ledger(root: str) -> None:
    from transforms.ledger import read_ledger
    from transforms.storage import open_store

    sys.setswitchinterval(1e-6)
    assert read_ledger(open_store(root)).markers


def _main(
    flags: list[str], environ: dict[str, str], log: str, dies_before: int | str | None
) -> None:
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None  # the server may have asked for it already
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.chdir(ROOT)
    faulthandler.enable()  # should the interpreter itself crash
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    from pipeline.__main__ import main

    if dies_before is not None:
        output = next(flag.partition("=")[2] for flag in flags if flag.startswith("--output="))
        _die_before(dies_before, output)
    sys.exit(main(flags))


def _die_before(change: int | str, root: str) -> None:
    """Makes this process kill itself before it changes names below a folder."""
    counter = itertools.count(1)

    def dying(name: str) -> None:
        real = getattr(os, name)

        def changed(*paths: Any, dir_fd: int | None = None, **more: Any) -> Any:
            folder = "" if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
            target = os.path.join(folder, paths[-1])
            if target.startswith(root):
                number, text = next(counter), f"{name} {os.path.relpath(target, root)}"
                if number == change if isinstance(change, int) else text.startswith(change):
                    os.kill(os.getpid(), signal.SIGKILL)
            if dir_fd is not None:
                more["dir_fd"] = dir_fd
            return real(*paths, **more)

        setattr(os, name, changed)

    for name in ("replace", "link", "unlink", "rmdir"):
        dying(name)


@dataclass
class Job:
    """A command line, and what its outputs must be.

    Attributes:
      flags: without `--output`.
      output: the output directory.
      scratch: for what the runs say and their temporary files.
      reference: the bytes of every output.
      older: bytes that an output may have until it is replaced.
    """

    flags: tuple[str, ...]
    output: Path
    scratch: Path
    reference: Mapping[str, bytes]
    older: Mapping[str, bytes] = field(default_factory=dict)
    _seen: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def start(self, *flags: str, **how: Any) -> Run:
        return Run([*self.flags, f"--output={self.output}", *flags], self.scratch, **how)

    def look(self) -> None:
        """Looks at what is visible now.

        Raises:
          AssertionError: something is there that is not a whole output, an older output is
            gone, or `_SUCCESS` is there and an output is not.
        """
        succeeded = (self.output / "_SUCCESS").exists()
        visible = set()
        for path in files_below(self.output):
            name = str(path.relative_to(self.output))
            if name.startswith("_o2v/") or name == "_SUCCESS" or path.name.endswith(".tmp"):
                continue
            visible.add(name)
            assert name in self.reference, f"{name} is no output"
            with suppress(FileNotFoundError):  # replaced or removed meanwhile
                found = path.stat()
                key = (found.st_ino, found.st_size, found.st_mtime_ns)
                if self._seen.get(name) != key:
                    content = path.read_bytes()
                    expected = [self.reference[name], self.older.get(name, self.reference[name])]
                    assert content in expected, f"{name}: {len(content)} bytes are visible"
                    self._seen[name] = key
        gone = set(self.older) - visible
        assert not gone, f"older outputs are gone: {gone}"
        if succeeded:
            assert visible == set(self.reference), f"_SUCCESS, and only {visible}"

    def markers(self) -> int:
        """Units on record."""
        with suppress(FileNotFoundError):
            names = os.listdir(self.output / "_o2v" / "units")
            return sum(name.endswith(".json") for name in names)
        return 0

    def finish(self, *flags: str, run: Run | None = None) -> Run:
        """Runs to the end, watched; then everything must be there, and nothing else."""
        run = run or self.start(*flags)
        code = run.wait(look=self.look)
        assert code == 0, f"ended with {code}; it said:\n{run.said}"
        self.check_finished()
        assert not run.children()
        assert not list(run.scratch.iterdir())
        return run

    def check_finished(self) -> None:
        """
        Raises:
          AssertionError: an output is missing or wrong, or something is left over.
        """
        left = {
            str(path.relative_to(self.output)) + ("/" if path.is_dir() else "")
            for path in self.output.rglob("*")
        }
        for name, content in self.reference.items():
            assert (self.output / name).read_bytes() == content, name
            left -= {name, *(f"{folder}/" for folder in Path(name).parents)}
        assert "_SUCCESS" in left
        left -= {"_SUCCESS", "_o2v/", "_o2v/lock", "_o2v/runs/", "_o2v/summary.json"}
        left = {name for name in left if not (name.startswith("_o2v/runs/") and is_json(name))}
        assert not left, f"left over: {sorted(left)}"


def is_json(name: str) -> bool:
    return name.endswith(".json")


def files_below(folder: Path) -> Iterator[Path]:
    """Every file; folders may come and go meanwhile."""
    for place, _, names in os.walk(folder):
        for name in names:
            yield Path(place, name)


def save_slow_model(path: Path) -> Path:
    """A model that takes more than 50 ms for a unit of `save_long_lines`."""
    return save_model(path, "bilstm", enc_dim=64, token_embedding_dim=64)


def save_long_lines(path: Path, count: int, seed: int) -> Path:
    """Records of about 500 bytes: few to a unit of 256 KiB, so that outputs stay small."""
    return write_lines(path, [{**row, "note": "x" * 460} for row in records(count, seed)])
