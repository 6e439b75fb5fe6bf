"""The errors of the house, in one tree.

    Object2VecError
    ├── StopError            ends the run; nothing half-done becomes visible
    │   ├── UsageError           the command line or an argument is wrong
    │   ├── ModelError           the model directory cannot be used
    │   ├── DeviceError          the device that was asked for is not there
    │   ├── InputError           the input as a whole cannot be used
    │   ├── OutputError          the output directory is refused
    │   ├── StorageError         a disk or an object store failed, after retries
    │   └── RunnerError          the runner, or a child process, failed
    └── SetAsideError        sets something aside; the rest goes on
        ├── FileError            one input file cannot be done
        └── RecordError          one record cannot be encoded

Each error names what, where, and what to do. They cross process boundaries
inside pickles, so each hands `super().__init__` the arguments it took and
builds its text in `__str__`.
"""

from __future__ import annotations


class Object2VecError(Exception):
    """Everything this project raises on purpose."""


class StopError(Object2VecError):
    """Ends the run."""


class UsageError(StopError):
    """The command line, or an argument of a public function, is wrong."""


class ModelError(StopError):
    """A model directory cannot be used: missing, damaged, or of another version."""


class DeviceError(StopError):
    """A device was asked for and is not there."""


class InputError(StopError):
    """The input as a whole cannot be used."""


class OutputError(StopError):
    """The output directory is refused: held by another run, or of other settings."""


class StorageError(StopError):
    """A disk or an object store failed, after retries. A rerun is safe."""


class RunnerError(StopError):
    """The runner, or a child process, failed. A rerun is safe."""


class SetAsideError(Object2VecError):
    """Sets one thing aside; the rest of the run goes on."""


class FileError(SetAsideError):
    """One input file cannot be done.

    Args:
      file: the file's name, as the user knows it.
      reason: what is wrong, in words.
      offset: byte offset in the decompressed file, if there is one place.
    """

    def __init__(self, file: str, reason: str, offset: int | None = None) -> None:
        super().__init__(file, reason, offset)
        self.file = file
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        place = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.file}{place}: {self.reason}"


class RecordError(SetAsideError):
    """One record cannot be encoded.

    Args:
      kind: a short name for counters, such as `syntax` or `out_of_range`.
      reason: what is wrong, in words.
      path: JSON path of the place inside the record, such as `$.in0[3]`.
      offset: byte offset of the record's line in the decompressed file.
    """

    def __init__(self, kind: str, reason: str, path: str = "$", offset: int = 0) -> None:
        super().__init__(kind, reason, path, offset)
        self.kind = kind
        self.reason = reason
        self.path = path
        self.offset = offset

    def __str__(self) -> str:
        return f"record at byte {self.offset}, {self.path}: {self.reason}"
