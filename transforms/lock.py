"""One run per output.

On disks the operating system holds the lock (flock): it is free the moment its holder dies,
however it dies. On object stores nobody watches over processes, so the holder beats: it
rewrites the lock object every few seconds. A contender watches for some beats; no clock is
compared between machines. Either way the loser learns who holds it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from object2vec.errors import FileError, OutputError, StorageError
from transforms.storage import Store

if TYPE_CHECKING:
    from transforms.objects import ObjectStore

_LOG = logging.getLogger(__name__)
LOCK_NAME = "_o2v/lock"
NUM_BEATS = 4
"""A holder that misses so many beats is taken for dead."""


class OutputLock:
    """The right to write below a store's root, held from `with` to the end of the block.

    Args:
      store: the output.
      force: take it from whoever holds it (`--force_unlock`). The other run notices at its
        next `check`.
      beat_s: seconds between beats, on object stores.

    Example:
      with OutputLock(store) as lock:
          for unit in units:
              lock.check()
    """

    def __init__(self, store: Store, *, force: bool = False, beat_s: float = 10.0) -> None:
        path = store.local_path(LOCK_NAME)
        self._lock: _Lock
        if path is not None:
            self._lock = _FileLock(path, store.root)
        else:
            self._lock = BeatingLock(store, beat_s=beat_s)  # type: ignore[arg-type]
        self._force = force

    def __enter__(self) -> Self:
        """Raises:
        OutputError: another run holds it; said at once, on object stores after a beat.
        StorageError: it cannot be written.
        """
        self._lock.acquire(self._force)
        self._lock.start()
        return self

    def check(self) -> None:
        """Raises:
        OutputError: the lock is ours no more: someone forced it open.
        """
        self._lock.check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


class _Lock(Protocol):
    def acquire(self, force: bool) -> None: ...
    def start(self) -> None: ...
    def check(self) -> None: ...
    def release(self) -> None: ...


class _FileLock:
    """flock on a file that is never removed, only replaced, by force.

    A forced lock is a new file under the old name. So holding a lock means two things: to
    hold it on a file, and that the file is the one of that name.
    """

    def __init__(self, path: str, root: str) -> None:
        self._path = path
        self._root = root
        self.file: int | None = None

    def acquire(self, force: bool) -> None:
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            if force:
                with suppress(FileNotFoundError):
                    os.unlink(self._path)
            while not self._try():
                pass  # the file was replaced while we waited for it: the new one counts
        except OSError as error:
            raise StorageError(f"cannot lock {self._path}: {error.strerror or error}") from error
        _HELD.add(self)

    def _try(self) -> bool:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_current(file):
                os.close(file)
                return False
            os.ftruncate(file, 0)
            os.pwrite(file, _encode(_me()), 0)
        except BlockingIOError:
            holder = _decode(os.pread(file, 1 << 16, 0))
            os.close(file)
            raise _held(self._root, holder) from None
        except BaseException:
            os.close(file)
            raise
        self.file = file
        return True

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def start(self) -> None:
        """Nothing to do: the operating system watches."""

    def check(self) -> None:
        if self.file is None or not self._is_current(self.file):
            raise _lost(self._root)

    def release(self) -> None:
        _HELD.discard(self)
        if self.file is not None:
            # Not unlinked: by now the name may be another run's lock.
            os.ftruncate(self.file, 0)
            os.close(self.file)
            self.file = None


_HELD: weakref.WeakSet[_FileLock] = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child holds its parent's locks too, and would keep them when it dies."""
    for lock in list(_HELD):
        if lock.file is not None:
            os.close(lock.file)
            lock.file = None


os.register_at_fork(after_in_child=_close_in_child)


class BeatingLock:
    """An object that its holder rewrites, so that its version tells whether it lives.

    Every write is conditional on the version it replaces: of many contenders one wins, and
    a holder that was taken over cannot write again.

    Args:
      store: an object store.
      beat_s: seconds between beats.
      sleep: waits so many seconds; tests hand in their own.
      clock: seconds, of this machine; tests hand in their own.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        beat_s: float = 10.0,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._beat_s = beat_s
        self._sleep = sleep
        self._clock = clock
        self._me: dict[str, Any] = _me() | {"owner": uuid.uuid4().hex, "beat_s": beat_s}
        self._beat = 0
        self._version: str | None = None  # of our last beat; None: not held
        self._beaten_at = 0.0
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, force: bool = False) -> None:
        found = self._look()
        if found is None or found[1].get("released") or force:
            # By force a few times over, since a living holder may beat in between.
            for _ in range(10 if force else 1):
                if self._write(found[0] if found else None):
                    return
                found = self._look()
            raise _held(self._store.root, found[1] if found else {})
        beat_s = max(self._beat_s, float(found[1].get("beat_s", 0)))
        for _ in range(NUM_BEATS):
            self._sleep(beat_s)
            now = self._look()
            if now is None or now[0] != found[0]:
                raise _held(self._store.root, (now or found)[1])
        if not self._write(found[0]):
            raise _held(self._store.root, found[1])
        seconds = NUM_BEATS * beat_s
        _LOG.warning("%s was locked by %s, silent for %g s: taken over",
                     self._store.root, _name(found[1]), seconds)  # fmt: skip

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="o2v-lock", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._beat_s):
            try:
                self.beat()
            except OutputError:
                return  # `check` will say so
            except StorageError as error:
                _LOG.warning("the lock could not be renewed: %s", error)

    def beat(self) -> None:
        """Shows that we live.

        Raises:
          OutputError: someone else holds it now.
          StorageError: the service does not answer; the next beat may work.
        """
        with self._busy:
            if self._version is None or not self._write(self._version):
                self._version = None
                raise _lost(self._store.root)

    def check(self) -> None:
        if self._version is None:
            raise _lost(self._store.root)
        # After so long a silence (a stopped process, a lost network) others may have acted.
        if self._clock() - self._beaten_at > (NUM_BEATS - 1) * self._beat_s:
            self.beat()

    def release(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._busy:
            if self._version is not None:
                # If it was taken from us, or the service is away, there is nothing to give.
                with suppress(StorageError):
                    self._store.swap(LOCK_NAME, _encode({"released": True}), self._version)
                self._version = None

    def _write(self, version: str | None) -> bool:
        """One beat in place of a version (None: of no object); whether we hold the lock now."""
        self._beat += 1
        started = self._clock()  # the beat counts from before it was sent
        data = _encode(self._me | {"beat": self._beat})
        new = self._store.swap(LOCK_NAME, data, version)
        if new is None:
            # The refused write may be the repetition of one that worked: is this our text?
            found = self._look()
            if found is None or _encode(found[1]) != data:
                return False
            new = found[0]
        self._version, self._beaten_at = new, started
        return True

    def _look(self) -> tuple[str, dict[str, Any]] | None:
        """The lock object's version and content, of the same moment."""
        for _ in range(10):
            found = self._store.stat(LOCK_NAME)
            if found is None:
                return None
            with suppress(FileError):  # it beat in between
                data = self._store.read(LOCK_NAME, version=found.version)
                return found.version, _decode(data)
        raise StorageError(f"cannot read the lock of {self._store.root}: it changes all the time")


def boot_id() -> str:
    """Another one after each start of the machine; empty where the system has none."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""


def _me() -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")  # for people, never compared
    host = socket.gethostname()
    return {"pid": os.getpid(), "host": host, "boot": boot_id(), "started": started}


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _decode(data: bytes) -> dict[str, Any]:
    """Anything that is not ours, such as a lock that is just being written, says nothing."""
    with suppress(ValueError):
        content = json.loads(data)
        if isinstance(content, dict):
            return content
    return {}


def _name(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another run"
    return f"process {holder['pid']} on {holder.get('host')}, since {holder.get('started')}"


def _held(root: str, holder: dict[str, Any]) -> OutputError:
    return OutputError(
        f"{root} is locked by {_name(holder)}; wait for it to end, or, if it is surely gone,"
        " use --force_unlock"
    )


def _lost(root: str) -> OutputError:
    return OutputError(f"{root} is not locked by this run any more: someone forced it open")
