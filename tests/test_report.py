"""What a person sees: progress on terminals and in logs, a summary, the errors in a line."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import time

import pytest
from pieces import input_file, recipe

from pipeline.report import ProgressReporter, Summary, error_line, summarise
from transforms import board as board_module
from transforms.board import Board, Progress, StopRequested, peak_memory_bytes
from transforms.ledger import RunManifest, totals
from transforms.manifest import Counts, FileEntry, Refusal


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self):
        return True


@pytest.fixture
def board(tmp_path) -> Board:
    return Board(str(tmp_path))


def posted(board: Board, **values) -> None:
    for name, value in values.items():
        setattr(board.mine, name, value)
    board.post(now=True)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited for 5 s"
        time.sleep(0.01)


# The board


def test_the_notices_of_all_processes_add_up(tmp_path):
    first, second = Board(str(tmp_path)), Board(str(tmp_path))
    posted(first, input_bytes=10, records=1, refused=2, files=3, encoded=4, oom_steps=5)
    posted(second, input_bytes=100, records=10, refused=20, files=30, encoded=40, oom_steps=50)
    total = Board(str(tmp_path)).total()
    assert (total.input_bytes, total.records, total.refused) == (110, 11, 22)
    assert (total.files, total.encoded, total.oom_steps) == (33, 44, 55)


def test_memory_is_that_of_the_largest_process(tmp_path, monkeypatch):
    for size in (7, 9, 8):
        monkeypatch.setattr(board_module, "peak_memory_bytes", lambda size=size: size)
        Board(str(tmp_path)).post(now=True)
    assert Board(str(tmp_path)).total().peak_memory_bytes == 9


def test_a_process_has_one_notice_which_is_replaced(tmp_path, board):
    posted(board, records=1)
    posted(board, records=2)
    assert len(os.listdir(tmp_path)) == 1 and board.total().records == 2


def test_notices_are_written_a_few_times_a_second_unless_they_matter(board):
    posted(board, records=1)
    board.mine.records = 2
    board.post()
    assert board.total().records == 1
    board.post(now=True)
    assert board.total().records == 2


def test_the_first_refusal_that_is_found_is_shown(tmp_path):
    Board(str(tmp_path)).post(now=True)
    posted(Board(str(tmp_path)), first_refusal="a.jsonl:3: why")
    assert Board(str(tmp_path)).total().first_refusal == "a.jsonl:3: why"


def test_half_written_notices_and_other_files_are_not_read(tmp_path, board):
    (tmp_path / "1-2.json.new").write_text("{")
    (tmp_path / "worker-0.order").write_text("?")
    assert board.total() == Progress()


def test_a_wish_to_stop_reaches_everyone(tmp_path, board):
    board.check_stop()
    Board(str(tmp_path)).request_stop()
    Board(str(tmp_path)).request_stop()
    with pytest.raises(StopRequested, match="asked to stop"):
        board.check_stop()


def test_a_board_that_nobody_reads_takes_everything(tmp_path):
    nowhere = Board(None)
    posted(nowhere, records=3)
    nowhere.request_stop()
    nowhere.check_stop()
    assert nowhere.total() == Progress()
    gone = Board(str(tmp_path / "gone"))
    posted(gone, records=3)  # a worker may outlive the folder by a moment


def test_this_process_has_a_size():
    assert 10 * 2**20 < peak_memory_bytes() < 2**40


# Progress


def test_elsewhere_than_on_a_terminal_there_are_log_lines(board, caplog):
    posted(board, input_bytes=250, records=12_345)
    with (
        caplog.at_level(logging.INFO, "object2vec"),
        ProgressReporter(board, 1000, stream=io.StringIO(), interval_s=0.02),
    ):
        wait_for(lambda: len(caplog.messages) >= 2)
    assert re.fullmatch(r"25 %, 12,345 records written, [\d,]+/s, \d+ s left", caplog.messages[0])


def test_before_the_first_record_no_end_is_promised(board, caplog):
    with (
        caplog.at_level(logging.INFO, "object2vec"),
        ProgressReporter(board, 0, stream=io.StringIO(), interval_s=0.02),
    ):
        wait_for(lambda: caplog.messages)
    assert caplog.messages[0] == "0 %, 0 records written, 0/s"


def test_the_time_left_is_what_the_rest_takes_at_this_rate(board, caplog):
    posted(board, input_bytes=500, records=1)
    reporter = ProgressReporter(board, 1000, stream=io.StringIO(), interval_s=0.02)
    reporter._started = time.monotonic() - 100
    with caplog.at_level(logging.INFO, "object2vec"), reporter:
        wait_for(lambda: caplog.messages)
    assert caplog.messages[0] == "50 %, 1 records written, 0/s, 100 s left"


@pytest.mark.parametrize("interval_s", [0.02, 60])
def test_the_first_bad_record_is_told_once_also_by_a_short_run(board, caplog, interval_s):
    posted(board, first_refusal="a.jsonl:3: $.in0: no list")
    with (
        caplog.at_level(logging.WARNING, "object2vec"),
        ProgressReporter(board, 10, stream=io.StringIO(), interval_s=interval_s),
    ):
        if interval_s < 1:
            wait_for(lambda: caplog.messages)
            time.sleep(0.1)
    assert caplog.messages == ["first bad record: a.jsonl:3: $.in0: no list"]


def test_a_short_run_is_not_held_up(board):
    started = time.monotonic()
    with ProgressReporter(board, 10, stream=io.StringIO(), interval_s=60):
        pass
    assert time.monotonic() - started < 5


def test_on_a_terminal_there_is_a_bar_that_goes_away(board, caplog, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    posted(board, input_bytes=512, records=1234, first_refusal="a.jsonl:3: why")
    with caplog.at_level(logging.INFO, "object2vec"), ProgressReporter(board, 1024, stream=stream):
        wait_for(lambda: "1,234 records" in stream.getvalue())
    shown = stream.getvalue()
    assert "embedding" in shown and re.search(r"512/1,?024 bytes|0\.5/1\.0 KiB", shown)
    assert "first bad record: a.jsonl:3: why" in caplog.text
    assert "records written" not in caplog.text  # the bar says so
    assert "\x1b[2K" in shown[shown.rindex("records") :]  # its line is erased


# The summary


def summary(**changes) -> Summary:
    values = {
        "run": "r",
        "output": "out/",
        "files_done": 3,
        "files_failed": 0,
        "files_before": 0,
        "counts": Counts(lines=6000, in0=1000, in1=2000, pair=3000),
        "encoded": 6000,
        "seconds": 2.04,
        "records_per_s": 2941.2,
        "peak_memory_bytes": 300 * 2**20,
        "deterministic": True,
        "oom_steps": 0,
        "errors": (),
    }
    return Summary(**(values | changes))


def test_a_run_without_trouble_is_told_in_five_lines():
    assert summary().lines() == [
        "  files         3 done",
        "  records       6,000: 1,000 in0, 2,000 in1, 3,000 pairs",
        "  time          2.0 s, 2,941 records/s",
        "  peak memory   300 MiB",
        "  output        out/",
    ]


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"files_failed": 1200}, "  files         3 done, 1,200 failed"),
        ({"files_before": 4}, "  files         3 done, 4 were done before"),
        ({"counts": Counts(truncated=7)}, "  truncated     7 records"),
        ({"counts": Counts(clipped=1234)}, "  out of range  1,234 ids"),
        ({"counts": Counts(refused=5)}, "  refused       5 lines"),
        ({"oom_steps": 2}, "  memory        the device ran out 2 times; rows reduced"),
        (
            {"deterministic": False},
            "  bits          not reproducible on this machine (see _o2v/runs)",
        ),
        ({"errors": ("f:1: why",)}, "  error         f:1: why"),
    ],
)
def test_trouble_is_told_and_only_then(changes, line):
    assert any(told.startswith(line) for told in summary(**changes).lines())
    assert not any(told.startswith(line) for told in summary().lines())


def test_the_summary_as_json_has_the_same_facts():
    found = json.loads(summary(errors=("x",)).to_json())
    assert found["format_version"] == 1
    assert found["counts"]["pair"] == 3000 and found["errors"] == ["x"]
    assert set(found) - {"format_version"} == set(Summary.__dataclass_fields__)


def entry(name: str, status: str = "done", **changes) -> FileEntry:
    return FileEntry(input_file(name), "r", status, **changes)


def test_a_run_is_summed_up_from_its_manifest_and_the_board(monkeypatch):
    monkeypatch.setattr(board_module, "peak_memory_bytes", lambda: 50)
    entries = (
        entry("a", counts=Counts(lines=10, in0=10)),
        entry("b", counts=Counts(lines=5, in1=4, refused=1)),
        entry("c", "failed", reason="ends early", counts=Counts(lines=99)),
    )
    made = RunManifest(1, "run", recipe(), entries, totals(entries), False)
    progress = Progress(encoded=8, oom_steps=1, peak_memory_bytes=70)
    found = summarise(made, "out", 1, progress, 4.0004)
    assert (found.files_done, found.files_failed, found.files_before) == (1, 1, 1)
    assert found.counts == Counts(lines=15, in0=10, in1=4, refused=1)
    assert (found.encoded, found.records_per_s, found.seconds) == (8, 2.0, 4.0)
    assert (found.oom_steps, found.peak_memory_bytes, found.deterministic) == (1, 70, False)
    assert found.errors == ("/in/c: ends early",)


def test_no_more_than_ten_errors_are_shown():
    entries = tuple(entry(f"{i:02}", "failed", reason="why") for i in range(30))
    made = RunManifest(1, "run", recipe(), entries, Counts(), True)
    assert len(summarise(made, "out", 0, Progress(), 1.0).errors) == 10


FIRST = Refusal(12, 2, "$.in0[1]", "type", "an id must be an integer")


@pytest.mark.parametrize(
    "refusals, reason, line",
    [
        ((FIRST,), f"line 2, $.in0[1]: {FIRST.reason}", f"/in/a:2: $.in0[1]: {FIRST.reason}"),
        ((), "ends early", "/in/a: ends early"),
        ((FIRST,), "ends early", "/in/a: ends early"),
        (
            (Refusal(12, 0, "$.instances[1]", "type", "no"),),
            "byte 12, $.instances[1]: no",
            "/in/a: byte 12, $.instances[1]: no",
        ),
    ],
)
def test_an_error_is_one_line_with_file_and_line(refusals, reason, line):
    assert error_line(entry("a", "failed", reason=reason, first_refusals=refusals)) == line
