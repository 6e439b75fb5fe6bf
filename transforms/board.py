"""A notice board for one run on one machine: a folder that its processes share.

Workers pin up how far they have written; the launcher reads it and shows it, and pins
up the wish to stop. A folder, because workers may be threads or child processes, and
because a signal handler can do no more than leave a note. Where workers are on other
machines there is no board, and nothing depends on it but what is shown.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass

import msgspec

from object2vec.errors import Object2VecError


class StopRequested(Object2VecError):
    """The user asked the run to stop; what is committed stays committed."""


@dataclass(slots=True)
class Progress:
    """How far one process, or all of them, has come.

    Attributes:
      input_bytes: bytes of input whose output is written.
      records: records written.
      refused: lines set aside.
      files: files published by the worker itself.
      encoded: records that went through an encoder (not taken over from earlier attempts).
      oom_steps: how often the device ran out of memory and took fewer rows.
      peak_memory_bytes: largest resident size of the process.
      first_refusal: the first line set aside, in words.
    """

    input_bytes: int = 0
    records: int = 0
    refused: int = 0
    files: int = 0
    encoded: int = 0
    oom_steps: int = 0
    peak_memory_bytes: int = 0
    first_refusal: str | None = None


class Board:
    """The notices of one run.

    Args:
      folder: an existing local folder, or None for a board that nobody reads.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._mine = Progress()
        self._name = f"{os.getpid()}-{time.monotonic_ns()}.json"
        self._next_write = 0.0

    @property
    def mine(self) -> Progress:
        """This process's own progress; change it, then `post` it."""
        return self._mine

    def post(self, now: bool = False) -> None:
        """Pins up this process's progress, at most four times a second unless `now`."""
        if self._folder is None or not os.path.isdir(self._folder):
            return
        if not now and time.monotonic() < self._next_write:
            return
        self._next_write = time.monotonic() + 0.25
        self._mine.peak_memory_bytes = peak_memory_bytes()
        path = os.path.join(self._folder, self._name)
        with open(path + ".new", "wb") as file:
            file.write(msgspec.json.encode(self._mine))
        os.replace(path + ".new", path)

    def total(self) -> Progress:
        """The sum of all processes; memory is the largest, not the sum."""
        total = Progress()
        if self._folder is None or not os.path.isdir(self._folder):
            return total
        for name in sorted(os.listdir(self._folder)):
            if not name.endswith(".json"):
                continue
            try:
                with open(os.path.join(self._folder, name), "rb") as file:
                    each = msgspec.json.decode(file.read(), type=Progress)
            except FileNotFoundError:
                continue  # taken down while we looked
            total.input_bytes += each.input_bytes
            total.records += each.records
            total.refused += each.refused
            total.files += each.files
            total.encoded += each.encoded
            total.oom_steps += each.oom_steps
            total.peak_memory_bytes = max(total.peak_memory_bytes, each.peak_memory_bytes)
            total.first_refusal = total.first_refusal or each.first_refusal
        return total

    def request_stop(self) -> None:
        """Asks every process to stop at its next block. Safe in a signal handler."""
        if self._folder is not None and os.path.isdir(self._folder):
            os.close(os.open(os.path.join(self._folder, "stop"), os.O_CREAT | os.O_WRONLY, 0o644))

    def is_stop_requested(self) -> bool:
        """Whether someone asked for it, or took the board down: a run that forced the lock."""
        if self._folder is None:
            return False
        stop = os.path.join(self._folder, "stop")
        return os.path.exists(stop) or not os.path.isdir(self._folder)

    def check_stop(self) -> None:
        """
        Raises:
          StopRequested: someone asked for it.
        """
        if self.is_stop_requested():
            raise StopRequested("the run was asked to stop")


def peak_memory_bytes() -> int:
    """Largest resident size this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
