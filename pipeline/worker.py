"""A child process of `--workers=N`: the same pipeline over its share of the units.

`python -m pipeline.worker SPEC.json`. It encodes and records; the parent publishes. It
ends with its parent: a run that was killed must leave no writer behind.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from object2vec.errors import Object2VecError
from transforms.board import Board, StopRequested

if TYPE_CHECKING:
    from pipeline.graph import GraphSpec

_LOG = logging.getLogger("pipeline.worker")  # here __name__ may be __main__
_PR_SET_PDEATHSIG = 1

STOPS_WITHIN_S = 3.0
"""What a child that was asked to stop may take for the block at hand."""


class _Order(msgspec.Struct):
    graph: msgspec.Raw  # a GraphSpec; Beam is not imported yet when an order is read
    beam_args: tuple[str, ...]


def run_workers(specs: Sequence[GraphSpec], beam_args: Sequence[str], folder: str) -> list[int]:
    """Runs one child process per spec and waits for all.

    Args:
      folder: a local folder for their orders.

    Returns:
      Their exit codes, negative for signals. What a child could not do is left to the
      caller: its units have no markers.
    """
    children = []
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    for number, spec in enumerate(specs):
        order = os.path.join(folder, f"worker-{number}.order")
        with open(order, "wb") as file:
            graph = msgspec.Raw(msgspec.json.encode(spec))
            file.write(msgspec.json.encode(_Order(graph, tuple(beam_args))))
        children.append(
            subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.worker", order],
                stdin=subprocess.PIPE,  # closes when this process dies
                stdout=2,  # standard error; sys.stderr may be something without a number
                # Whatever a killed child leaves behind goes with the folder.
                env={**os.environ, "PYTHONPATH": path, "TMPDIR": folder},
                start_new_session=True,  # Ctrl-C goes to the parent, which asks them to stop
            )
        )
    try:
        return _wait_for(children, Board(folder))
    finally:
        for child in children:
            child.kill()
            child.wait()
            if child.stdin is not None:
                child.stdin.close()


def _wait_for(children: Sequence[subprocess.Popen[bytes]], board: Board) -> list[int]:
    """Their exit codes. A child that was asked to stop and does not, for it still starts or
    computes, is killed: what it loses a rerun makes again."""
    deadline: float | None = None
    while any(child.poll() is None for child in children):
        time.sleep(0.05)
        if deadline is None and board.is_stop_requested():
            deadline = time.monotonic() + STOPS_WITHIN_S
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                child.kill()
    return [child.wait() for child in children]


def _end_with_parent() -> None:
    """Dies with the parent, by the kernel's help where there is some, else by a closed pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        # Not through sys.stdin: a thread that holds its lock crashes the interpreter's end.
        while os.read(0, 1):
            pass
        os._exit(5)

    threading.Thread(target=watch, daemon=True).start()


def main(argv: Sequence[str]) -> int:
    """Runs one order. Exit codes: 0 done, 5 anything else (the parent finds out what)."""
    _end_with_parent()
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    for name in ("pipeline", "transforms", "object2vec"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Beam logs the stack of every error that it also raises.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Takes seconds, in which the parent may die: only now that we would notice.
    from pipeline.graph import GraphSpec, run_graph

    with open(argv[0], "rb") as file:
        order = msgspec.json.decode(file.read(), type=_Order)
    try:
        run_graph(msgspec.json.decode(order.graph, type=GraphSpec), order.beam_args)
    except StopRequested:
        return 5
    except Object2VecError as error:
        _LOG.warning("a worker process gave up: %s", error)
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
