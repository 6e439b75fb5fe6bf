"""What is refused before work begins: exit code, one line that says what to do, nothing written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from jobs import outputs, records, run, save_model, write_lines
from pieces import run_workers_in_turn

from object2vec import errors
from object2vec.errors import OutputError
from pipeline.__main__ import EXIT_CODES, exit_code_of, main
from pipeline.embed import _check_output
from pipeline.graph import translate
from pipeline.stopping import Interrupted
from transforms.board import StopRequested
from transforms.disk import Disk
from transforms.lock import OutputLock
from transforms.storage import open_store

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with one file of three records."""
    write_lines(tmp_path / "in" / "a.jsonl", records(3))
    return tmp_path / "in"


@pytest.fixture
def refused(model, data, tmp_path, capsys):
    """Runs a job that must end with a code; gives its one line. Nothing is published."""

    def check(code: int, *flags: str, **places) -> str:
        given = {"model": model, "input": data, "output": tmp_path / "out"} | places
        before = listing(Path(given["output"]))
        capsys.readouterr()
        assert run(**given, flags=flags) == code
        told = capsys.readouterr().err
        assert "Traceback" not in told
        lines = [line for line in told.splitlines() if line.startswith("object2vec: ")]
        assert len(lines) == 1 and told.endswith(lines[0] + "\n")
        ours = ("_o2v",)
        after = [name for name in listing(Path(given["output"])) if name.split("/")[0] not in ours]
        assert after == [name for name in before if name.split("/")[0] not in ours]
        return lines[0]

    return check


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.is_dir() else []


# Input


def test_an_input_that_is_not_there(refused, tmp_path):
    assert "matches no file" in refused(3, input=tmp_path / "nothing")
    assert "matches no file" in refused(3, input=tmp_path / "in" / "*.csv")
    assert not (tmp_path / "out").exists()


def test_output_and_input_in_one_another(refused, data, tmp_path):
    assert "write somewhere else" in refused(3, output=data)
    assert "write somewhere else" in refused(3, output=data / "out")
    assert "write somewhere else" in refused(3, output=tmp_path)
    (tmp_path / "link").symlink_to(data)
    assert "write somewhere else" in refused(3, output=tmp_path / "link" / "out")


def test_two_inputs_of_one_output(refused, tmp_path):
    write_lines(tmp_path / "other" / "a.jsonl", records(1))
    told = refused(3, f"--input={tmp_path / 'other'}")
    assert "other/a.jsonl would both be written to a.jsonl.out" in told


def test_an_input_whose_output_would_have_too_long_a_name(refused, data):
    write_lines(data / ("x" * 252), records(1))
    assert "255 is the limit; rename the input" in refused(3)
    (data / ("x" * 252)).rename(data / ("x" * 250))
    assert "255 is the limit" in refused(3, "--on_bad_record=dead_letter")


def test_names_that_are_not_unicode(refused, data, tmp_path):
    try:
        (data / "b\udcff").touch()
    except OSError:
        pytest.skip("this disk takes no such names")
    assert "not valid UTF-8; rename it" in refused(3)
    assert "not valid UTF-8; rename it" in refused(2, input=tmp_path / "\udcff")


# The command line


@pytest.mark.parametrize(
    "flag, told",
    [
        ("--no_such_flag=1", "unknown flags: --no_such_flag"),
        ("extra", "'extra' is no flag"),
        ("--infer_max_seqlens=0,1", "go from 1 to 5000"),
        ("--output=ftp://host/x", "give a path, or a file://"),
        ("--output=", "not a path"),
        ("--output=s3://", "the bucket is missing"),
        ("--runner=NoRunner", "Unexpected pipeline runner"),
    ],
)
def test_a_wrong_command_line(refused, flag, told):
    assert told in refused(2, flag)


# The model and the device


def test_a_model_that_is_not_there(refused, tmp_path):
    told = refused(3, model=tmp_path / "no model")
    assert "no model/config.json: No such file" in told and "a model is a directory" in told
    (tmp_path / "file").touch()
    assert "this is neither gzip, tar nor ZIP" in refused(3, model=tmp_path / "file")


def test_a_model_of_another_version_or_edited(refused, tmp_path):
    config = save_model(tmp_path / "m") / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"format_version": 1', '"format_version": 2'))
    assert "format_version is 2; this program reads 1" in refused(3, model=tmp_path / "m")
    config.write_text(text.replace('"max_seq_len": 12', '"max_seq_len": 13'))
    assert "was the file edited?" in refused(3, model=tmp_path / "m")
    config.write_text(text[:40])
    assert "is not JSON" in refused(3, model=tmp_path / "m")


def test_weights_that_are_damaged_are_told_as_such_out_of_a_worker(refused, tmp_path):
    weights = save_model(tmp_path / "m") / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 1
    weights.write_bytes(content)
    told = refused(3, model=tmp_path / "m")
    assert "weights.safetensors has sha256" in told
    assert told.endswith("Copy the directory again, as a whole")
    weights.unlink()
    assert "weights.safetensors: No such file" in refused(3, model=tmp_path / "m")
    assert not outputs(tmp_path / "out") and not (tmp_path / "out" / "_SUCCESS").exists()


def test_damaged_weights_are_told_when_workers_found_them_too(refused, tmp_path, data, monkeypatch):
    monkeypatch.setattr("pipeline.embed.run_workers", run_workers_in_turn)
    write_lines(data / "b.jsonl", records(20_000))
    weights = save_model(tmp_path / "m") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    flags = ("--workers=2", "--unit_bytes=256K")
    assert "Copy the directory again" in refused(3, *flags, model=tmp_path / "m")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(refused, tmp_path):
    told = refused(3, "--device=cuda")
    assert "torch sees no GPU here; ask for cpu or auto" in told
    assert not (tmp_path / "out").exists()


# The output


def test_an_output_below_a_file(refused, tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/out", "file/out/deeper"):
        assert f"{tmp_path}/file is a file" in refused(4, output=tmp_path / place)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "_o2v").touch()
    assert "_o2v is a file" in refused(4, output=tmp_path / "dir")


def test_an_output_below_a_broken_link(refused, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    assert "cannot be a directory" in refused(4, output=tmp_path / "link" / "out")


def test_an_output_that_may_not_be_written():
    """By a user who is not root: root may write anywhere."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o555)
    is_root = os.getuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    try:
        with pytest.raises(OutputError, match=f"cannot be written: no permission in {place}"):
            _check_output(open_store(str(place / "out" / "deeper")))
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        place.rmdir()


def test_a_disk_that_is_too_small(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 100))
    assert "has 0.00 GiB free; use another --output" in refused(4)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_an_output_that_somebody_else_made(refused, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jsonl.out").write_text("mine")
    told = refused(4)
    assert "a.jsonl.out: is there, and no run on record made it" in told and "--overwrite" in told
    assert (tmp_path / "out" / "a.jsonl.out").read_text() == "mine"


def test_outputs_of_another_recipe_model_or_input(refused, model, data, tmp_path):
    out = tmp_path / "out"
    assert run(model=model, input=data, output=out) == 0
    before = outputs(out)
    assert "on_bad_record was fail_file, is placeholder" in refused(
        4, "--on_bad_record=placeholder"
    )
    other = save_model(tmp_path / "other", seed=1)
    assert "model_hash was" in refused(4, model=other)
    write_lines(data / "a.jsonl", records(3, seed=9))
    assert "a.jsonl.out: " in refused(4)
    assert outputs(out) == before and (out / "_SUCCESS").exists()
    assert run(model=other, input=data, output=out, flags=["--overwrite"]) == 0
    assert outputs(out) != before


def test_an_output_of_another_version_of_this_program(refused, model, data, tmp_path):
    out = tmp_path / "out"
    assert run(model=model, input=data, output=out) == 0
    (path,) = (out / "_o2v" / "runs").iterdir()
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9', 1))
    assert "has format version 9; this program knows 1" in refused(4)
    path.write_text("{")
    assert "is not what this program writes" in refused(4)


def test_an_output_that_another_run_holds(refused, tmp_path):
    with OutputLock(open_store(str(tmp_path / "out"))):
        told = refused(4)
    assert f"is locked by process {os.getpid()}" in told and "--force_unlock" in told


def test_a_lock_may_be_forced(model, data, tmp_path):
    with OutputLock(open_store(str(tmp_path / "out"))):
        assert run(model=model, input=data, output=tmp_path / "out", flags=["--force_unlock"]) == 0


def test_a_disk_that_fails_is_exit_code_5_and_a_rerun_is_safe(
    refused, model, data, tmp_path, monkeypatch
):
    def full(self, name):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    with monkeypatch.context() as patched:
        patched.setattr("transforms.disk._DiskWriter.__init__", full)
        told = refused(5)
        assert "cannot create" in told and "No space left on device" in told
    with monkeypatch.context() as patched:

        def fails(self, name, data):
            raise errors.StorageError(f"cannot write {name}: Input/output error")

        patched.setattr(Disk, "put_if_absent", fails)
        assert "Input/output error" in refused(5)  # out of the writing thread
    assert run(model=model, input=data, output=tmp_path / "out") == 0


# The codes themselves


def test_every_stop_has_a_documented_code():
    kinds = {
        k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.StopError)
    }
    assert set(EXIT_CODES) == kinds - {errors.StopError}
    documented = {"UsageError": 2, "ModelError": 3, "DeviceError": 3, "InputError": 3,
                  "OutputError": 4, "StorageError": 5, "RunnerError": 5}  # fmt: skip
    assert {kind.__name__: code for kind, code in EXIT_CODES.items()} == documented


def test_what_should_not_have_ended_a_run_is_code_5():
    for error in (
        errors.FileError("f", "is gone"),
        errors.RecordError("type", "no"),
        StopRequested("x"),
    ):
        assert exit_code_of(error) == 5


def test_codes_of_signals_are_those_of_the_shell():
    assert exit_code_of(Interrupted(2)) == 130 and exit_code_of(Interrupted(15)) == 143
    assert "run the same command again" in str(Interrupted(15)) and "SIGTERM" in str(
        Interrupted(15)
    )


def test_what_nobody_foresaw_is_told_in_a_line_and_is_not_taken_for_failed_files(
    capsys, monkeypatch
):
    def surprise(argv):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("pipeline.__main__.parse_options", surprise)
    assert main(["--model=m"]) == 5
    told = capsys.readouterr().err
    assert told == "object2vec: unforeseen ZeroDivisionError: a bug (--debug shows where)\n"


# Out of what runners make of an error


def wrapped(error: Exception) -> RuntimeError:
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("the bundle failed") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize("kind", sorted(EXIT_CODES, key=lambda kind: kind.__name__))
def test_an_error_of_ours_is_found_inside_a_runners(kind):
    error = kind("why [while running 'Encode/Vectors-ptransform-7']")
    as_text = RuntimeError(
        "Traceback (most recent call last):\n  File x, line 3, in process\n"
        f"object2vec.errors.{kind.__name__}: why [while running 'Encode/Vectors']\n\n"
        "During handling of the above exception, another exception occurred:\nTraceback ..."
    )
    for found in (translate(error), translate(wrapped(error)), translate(as_text)):
        assert (type(found), str(found)) == (kind, "why")


def test_a_wish_to_stop_is_found_inside_a_runners_error():
    error = StopRequested("the run was asked to stop [while running 'Read']")
    for found in (translate(wrapped(error)), translate(RuntimeError(f"StopRequested: {error}"))):
        assert type(found) is StopRequested
        assert str(found) == "the run was asked to stop"


def test_any_other_error_is_the_runners_in_one_line():
    found = translate(ValueError("first line\nTraceback\nlast line [while running 'Read']"))
    assert type(found) is errors.RunnerError
    assert str(found) == "ValueError: last line; a rerun is safe"
    assert str(translate(KeyError())) == "KeyError: KeyError; a rerun is safe"
