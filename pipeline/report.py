"""What a person sees of a run: progress while it lasts, a summary at its end."""

from __future__ import annotations

import logging
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from transforms import board
from transforms.ledger import RunManifest
from transforms.manifest import Counts, FileEntry

_LOG = logging.getLogger("object2vec")


class ProgressReporter:
    """Shows the board while a run lasts: a bar on a terminal, log lines elsewhere.

    Counts what is *written*. A context manager with a thread of its own.

    Args:
      notices: where workers post.
      total_bytes: of input that this run has to encode.
      interval_s: seconds between log lines.
    """

    def __init__(
        self,
        notices: board.Board,
        total_bytes: int,
        *,
        stream: TextIO | None = None,
        interval_s: float = 5.0,
    ) -> None:
        self._board = notices
        self._total_bytes = total_bytes
        self._interval_s = interval_s
        self._console = Console(file=stream or sys.stderr)
        self._stop = threading.Event()
        self._started = time.monotonic()
        self._first_refusal_shown = False
        self._thread = threading.Thread(target=self._run, name="o2v-progress", daemon=True)

    def __enter__(self) -> ProgressReporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if self._console.is_terminal:
            self._run_bar()
        else:
            self._run_lines()

    def _run_bar(self) -> None:
        columns = (
            TextColumn("embedding"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[records]:,} records"),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task("", total=self._total_bytes, records=0, rate=0.0)
            while not self._stop.wait(0.25):
                self._update(bar, task)
            self._update(bar, task)

    def _update(self, bar: Progress, task: TaskID) -> None:
        total = self._board.total()
        bar.update(task, completed=total.input_bytes, records=total.records, rate=self._rate(total))
        self._show_first_refusal(total)

    def _run_lines(self) -> None:
        while not self._stop.wait(self._interval_s):
            total = self._board.total()
            done = total.input_bytes / max(self._total_bytes, 1)
            elapsed = time.monotonic() - self._started
            left = f", {elapsed / done - elapsed:.0f} s left" if done > 0 else ""
            _LOG.info(
                "%.0f %%, %s records written, %s/s%s",
                100 * done,
                f"{total.records:,}",
                f"{self._rate(total):,.0f}",
                left,
            )
            self._show_first_refusal(total)
        self._show_first_refusal(self._board.total())  # of a run shorter than an interval

    def _rate(self, total: board.Progress) -> float:
        return total.records / max(time.monotonic() - self._started, 1e-3)

    def _show_first_refusal(self, total: board.Progress) -> None:
        if total.first_refusal is not None and not self._first_refusal_shown:
            self._first_refusal_shown = True
            _LOG.warning("first bad record: %s", total.first_refusal)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did, for people and for `_o2v/summary.json`.

    Attributes:
      run: its name; None if there was nothing to do.
      output: where the outputs are.
      files_done, files_failed: of this run. files_before: done by earlier runs.
      counts: of the lines of all files that are done.
      encoded: records that went through an encoder in this run.
      seconds: from start to end.
      records_per_s: records that this run wrote, per second.
      peak_memory_bytes: of the largest process.
      deterministic: whether every machine saw equal bits.
      oom_steps: how often a device ran out of memory and took fewer rows.
      errors: the first few, one line each.
    """

    run: str | None
    output: str
    files_done: int
    files_failed: int
    files_before: int
    counts: Counts
    encoded: int
    seconds: float
    records_per_s: float
    peak_memory_bytes: int
    deterministic: bool
    oom_steps: int
    errors: tuple[str, ...]

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode({"format_version": 1, **asdict(self)}))

    def lines(self) -> list[str]:
        """As text, a fact a line."""
        c = self.counts
        facts: list[tuple[str, Any]] = [
            ("files", f"{self.files_done:,} done"
             + (f", {self.files_failed:,} failed" if self.files_failed else "")
             + (f", {self.files_before:,} were done before" if self.files_before else "")),
            ("records", f"{c.records:,}: {c.in0:,} in0, {c.in1:,} in1, {_many(c.pair, 'pair')}"),
        ]  # fmt: skip
        if c.truncated:
            facts.append(("truncated", f"{_many(c.truncated, 'record')} lost their tail"))
        if c.clipped:
            facts.append(("out of range", f"{_many(c.clipped, 'id')} clipped"))
        if c.refused:
            facts.append(("refused", _many(c.refused, "line")))
        facts += [
            ("time", f"{self.seconds:.1f} s, {self.records_per_s:,.0f} records/s"),
            ("peak memory", f"{self.peak_memory_bytes / 2**20:,.0f} MiB"),
            ("output", self.output),
        ]
        if self.oom_steps:
            facts.append(("memory", f"the device ran out {self.oom_steps} times; rows reduced"))
        if not self.deterministic:
            facts.append(("bits", "not reproducible on this machine (see _o2v/runs)"))
        return [f"  {name:<13} {value}" for name, value in facts] + [
            f"  error         {error}" for error in self.errors
        ]


def summarise(
    manifest: RunManifest,
    output: str,
    before: int,
    progress: board.Progress,
    seconds: float,
) -> Summary:
    """The summary of a run that finished.

    Args:
      before: how many of the manifest's entries earlier runs had done.
    """
    failed = [entry for entry in manifest.entries if entry.status == "failed"]
    return Summary(
        run=manifest.run,
        output=output,
        files_done=len(manifest.entries) - len(failed) - before,
        files_failed=len(failed),
        files_before=before,
        counts=manifest.totals,
        encoded=progress.encoded,
        seconds=round(seconds, 3),
        records_per_s=round(progress.encoded / max(seconds, 1e-3), 1),
        peak_memory_bytes=max(progress.peak_memory_bytes, board.peak_memory_bytes()),
        deterministic=manifest.deterministic,
        oom_steps=progress.oom_steps,
        errors=tuple(error_line(entry) for entry in failed[:10]),
    )


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def error_line(entry: FileEntry) -> str:
    """`file:line: reason`, or `file: reason`."""
    for first in entry.first_refusals[:1]:
        # With another policy than fail_file it is something else that failed the file.
        if entry.reason == f"line {first.line}, {first.path}: {first.reason}":
            return f"{entry.file.uri}:{first.line}: {first.path}: {first.reason}"
    return f"{entry.file.uri}: {entry.reason}"
