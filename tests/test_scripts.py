"""The scripts at the top: what they do around the job, with a stand-in for the job itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

JOB = """
import os, sys
print(os.getcwd(), *sys.argv[1:], sep="|")
sys.exit(7)
"""


@pytest.fixture
def clone(tmp_path):
    """A clone in a folder with a space in its name, and no .venv."""
    folder = tmp_path / "a clone"
    (folder / ".ci").mkdir(parents=True)
    for name in ("run_local.sh", "run_tests.sh", "setup.py", "requirements.txt", ".ci/set_up.sh"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def ready_clone(clone, tmp_path):
    """The same, set up: its Python is ours, with a `pipeline` that only tells how it was called."""
    made_from = f"{clone}\n" + "".join(
        (clone / name).read_text(encoding="utf-8")
        for name in ("setup.py", "requirements.txt", ".ci/set_up.sh")
    )
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "pipeline.py").write_text(JOB, encoding="utf-8")
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "made_from").write_text(made_from, encoding="utf-8")
    python = clone / ".venv" / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="{tmp_path}/job" exec "{sys.executable}" "$@"\n', encoding="utf-8"
    )
    python.chmod(0o755)
    return clone


def run(script, *arguments, cwd, **environment):
    return subprocess.run(
        [script, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_users_job_runs_in_the_users_folder_and_its_exit_code_is_kept(ready_clone, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "pipeline").mkdir(parents=True)  # a folder of the user's own of the same name
    (elsewhere / "pipeline" / "__init__.py").touch()
    ended = run(ready_clone / "run_local.sh", "--input=a b/*.jsonl", "--model=m", cwd=elsewhere)
    assert (ended.returncode, ended.stderr) == (7, "")
    assert ended.stdout == f"{elsewhere}|--input=a b/*.jsonl|--model=m\n"


def test_scripts_can_be_called_by_a_relative_path(ready_clone, tmp_path):
    ended = run("./a clone/run_local.sh", "--help", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (7, f"{tmp_path}|--help\n")


def test_set_up_has_nothing_to_do_the_second_time(ready_clone, tmp_path):
    begin = time.monotonic()
    ended = run(ready_clone / ".ci" / "set_up.sh", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("changed", ["setup.py", "requirements.txt", ".ci/set_up.sh"])
def test_set_up_starts_over_when_its_sources_change(ready_clone, tmp_path, changed):
    with open(ready_clone / changed, "a", encoding="utf-8") as file:
        file.write("# changed\n")
    # It gets as far as to look for a Python, and finds that the one it is told is none.
    ended = run(ready_clone / ".ci" / "set_up.sh", cwd=tmp_path, PYTHON="no-such-python")
    assert ended.returncode == 3


def test_a_wrong_python_is_told_in_one_line_and_nothing_is_made(clone, tmp_path):
    ended = run(clone / "run_tests.sh", cwd=tmp_path, PYTHON="no-such-python")
    assert ended.returncode == 3
    assert ended.stdout == ""
    assert ended.stderr == (
        "set up: PYTHON=no-such-python is not a Python 3.11 or newer with its venv module\n"
    )
    assert not (clone / ".venv").exists()
