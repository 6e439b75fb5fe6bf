"""What stops a run before its end: a signal, or the loss of its lock.

While there is work underway both are a wish, pinned to the board: every process stops
after the block at hand, and what is committed stays. Before and after, a signal ends the
run where it stands. A second signal ends the process at once, whatever it does.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from object2vec.errors import OutputError, StorageError
from transforms.board import Board, StopRequested
from transforms.lock import OutputLock


class Interrupted(StopRequested):
    """A signal ended the run; a rerun is safe.

    Attributes:
      signal_number: which one.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        name = signal.Signals(self.signal_number).name
        return f"stopped by {name}; run the same command again to do what is missing"


class _Ended(BaseException):
    """Where the first signal came. Not an Exception: nobody but us shall handle it."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """The first SIGINT or SIGTERM leaves the block at once.

    Raises:
      Interrupted: it did.
    """

    def end(number: int) -> None:
        raise _Ended

    with _on_first_signal(end) as received:
        try:
            yield
        except _Ended:
            raise Interrupted(received[0]) from None


@contextmanager
def stopped_by_signals(board: Board) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks every process of the run to stop.

    Raises:
      Interrupted: they did, and the block ended in an error for it.
    """
    with _on_first_signal(lambda _: board.request_stop()) as received:
        try:
            yield
        except BaseException as error:
            if received:
                raise Interrupted(received[0]) from error
            raise


@contextmanager
def _on_first_signal(action: Callable[[int], object]) -> Iterator[list[int]]:
    """Gives the list of the signals that came. Handlers belong to the main thread; in others
    this does nothing."""
    received: list[int] = []

    def on_signal(number: int, _: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        action(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_without(lock: OutputLock, board: Board, every_s: float = 1.0) -> Iterator[None]:
    """Asks every process of the run to stop when its lock is forced open.

    Raises:
      OutputError: it was, and they did.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            try:
                lock.check()
            except OutputError:
                board.request_stop()
                return
            except StorageError:
                continue  # the next look may work; a lock that cannot be renewed is lost later

    thread = threading.Thread(target=watch, name="o2v-lock-watch", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        lock.check()  # the holder of today may have swept what we were missing
        raise
    finally:
        over.set()
        thread.join()
