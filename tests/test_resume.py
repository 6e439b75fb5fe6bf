"""A rerun of a command does what is missing, and says what it would not replace."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import manifest, outputs, records, run, save_model, summary, write_lines
from kills import Job, save_long_lines

NUM_LINES = {"a.jsonl": 9, "big.jsonl": 1500, "sub/b.jsonl": 7, "sub/c.jsonl": 5}
"""The big one has three units of 256 KiB, the others share one."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m", seed=1)


def make_input(folder: Path) -> Path:
    for number, (name, count) in enumerate(NUM_LINES.items()):
        save = save_long_lines if name == "big.jsonl" else write_any
        save(folder / name, count, number)
    return folder


def write_any(path: Path, count: int, seed: int) -> Path:
    return write_lines(path, records(count, seed))


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    """A folder with the input `in` and its output `out`."""
    folder = tmp_path_factory.mktemp("finished")
    make_input(folder / "in")
    assert run_in(folder, model) == 0
    return folder


@pytest.fixture
def place(finished, tmp_path) -> Path:
    """A copy of it, of which nothing tells that it is one."""
    place = tmp_path / "place"
    shutil.copytree(finished, place, copy_function=os.link)
    (place / "out" / "_o2v" / "lock").unlink()  # the one file that is written in place
    return place


def run_in(place: Path, model: Path, *flags: str) -> int:
    more = ["--unit_bytes=256K", *flags]
    return run(model=model, input=place / "in", output=place / "out", flags=more)


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every output and `_SUCCESS`: as they are if nobody touched them."""
    stats = {name: (folder / name).stat() for name in [*outputs(folder), "_SUCCESS"]}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in stats.items()}


def rewrite(path: Path, change: Callable[[bytearray], object]) -> None:
    """Other bytes in the same file; links to the old one keep the old bytes."""
    content = bytearray(path.read_bytes())
    change(content)
    path.unlink()
    path.write_bytes(content)


# Outputs


@pytest.mark.parametrize("inputs", [["a.jsonl"], ["big.jsonl"], ["big.jsonl", "sub/b.jsonl"]])
@pytest.mark.parametrize("damage", ["deleted", "truncated", "grown", "changed"])
def test_what_was_lost_is_made_again_and_nothing_else(finished, place, model, inputs, damage):
    expected, before = outputs(finished / "out"), identities(place / "out")
    for name in inputs:
        path = place / "out" / f"{name}.out"
        if damage == "deleted":
            path.unlink()
        elif damage == "truncated":
            rewrite(path, lambda content: content.__delitem__(slice(-1, None)))
        elif damage == "grown":
            rewrite(path, lambda content: content.append(10))
        else:
            rewrite(path, lambda content: content.__setitem__(20, content[20] ^ 1))
    assert run_in(place, model) == 0
    assert outputs(place / "out") == expected
    assert summary(place / "out")["encoded"] == sum(NUM_LINES[name] for name in inputs)
    after = identities(place / "out")
    made = {f"{name}.out" for name in inputs} | {"_SUCCESS"}
    assert {name for name in before if before[name] != after[name]} == made


def test_an_output_that_was_only_copied_is_known_by_its_bytes(place, model):
    for name in outputs(place / "out"):
        rewrite(place / "out" / name, len)
    before = identities(place / "out")
    assert run_in(place, model, "--exit_code_if_nothing=99") == 99
    assert identities(place / "out") == before


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--exit_code_if_nothing=99"], 99)])
def test_nothing_to_do_touches_nothing_and_reads_no_weights(
    place, model, tmp_path, capsys, flags, code
):
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "weights.safetensors").unlink()
    before = identities(place / "out")
    runs = list((place / "out" / "_o2v" / "runs").iterdir())
    assert run_in(place, tmp_path / "m", *flags) == code
    assert "nothing to do, all 4 files are done" in capsys.readouterr().err
    assert identities(place / "out") == before
    assert list((place / "out" / "_o2v" / "runs").iterdir()) == runs
    # With something to do it would need them.
    (place / "out" / "a.jsonl.out").unlink()
    assert run_in(place, tmp_path / "m", *flags) == 3


def test_success_is_not_there_while_something_is_missing_and_comes_back(place, model):
    before = identities(place / "out")
    (place / "out" / "_SUCCESS").unlink()
    assert run_in(place, model, "--exit_code_if_nothing=99") == 99
    after = identities(place / "out")
    assert after.pop("_SUCCESS") != before.pop("_SUCCESS") and after == before
    (place / "in" / "new.jsonl").write_text("not a record\n")
    assert run_in(place, model) == 1
    assert not (place / "out" / "_SUCCESS").exists()


# Inputs


def test_only_new_files_are_encoded(finished, place, model):
    before = identities(place / "out")
    write_lines(place / "in" / "new.jsonl", records(3, seed=9))
    assert run_in(place, model) == 0
    assert summary(place / "out")["encoded"] == 3
    after = identities(place / "out")
    assert after.pop("new.jsonl.out") and after.pop("_SUCCESS") != before.pop("_SUCCESS")
    assert after == before
    assert len(manifest(place / "out")["entries"]) == 5


def test_the_same_bytes_elsewhere_are_the_same_input(place, model, tmp_path):
    for name in NUM_LINES:
        rewrite(place / "in" / name, len)
    assert run_in(place, model, "--exit_code_if_nothing=99") == 99
    (place / "in").rename(tmp_path / "in")
    flags = ["--exit_code_if_nothing=99"]
    assert run(model=model, input=tmp_path / "in", output=place / "out", flags=flags) == 99


def test_a_failed_file_is_tried_again(place, model):
    (place / "in" / "bad.jsonl").write_text('{"in0":[1]}\nnot a record\n')
    for _ in range(2):
        assert run_in(place, model) == 1
        assert summary(place / "out")["files_failed"] == 1
        assert not (place / "out" / "bad.jsonl.out").exists()
        assert not (place / "out" / "_SUCCESS").exists()
    (place / "in" / "bad.jsonl").write_text('{"in0":[1]}\n')
    assert run_in(place, model) == 0
    assert summary(place / "out")["encoded"] == 1


def test_another_input_of_the_same_output_keeps_what_the_first_one_left(model, tmp_path):
    """Two days' files go to one folder; the first day's run was killed."""
    days = [make_input(tmp_path / "1")]
    days.append(tmp_path / "2")
    write_lines(days[1] / "new.jsonl", records(3, seed=9))
    assert run(model=model, input=days[0], output=tmp_path / "reference") == 0
    flags = (f"--model={model}", f"--input={days[0]}", "--unit_bytes=256K", "--batch_tokens=4096")
    reference = outputs(tmp_path / "reference")
    job = Job(flags, tmp_path / "out", tmp_path / "runs", reference)
    assert job.start(dies_before="replace big.jsonl.out").wait() == -signal.SIGKILL
    for _ in range(2):  # the second time with nothing to do
        assert run(model=model, input=days[1], output=job.output) == 0
    rerun = job.start()
    assert rerun.wait() == 0, rerun.said
    assert summary(job.output)["encoded"] == 0
    (job.output / "new.jsonl.out").unlink()
    job.check_finished()


# What a run would not replace


def change_input(place: Path) -> None:
    rewrite(place / "in" / "a.jsonl", lambda content: content.__setitem__(7, ord("7")))


def grow_input(place: Path) -> None:
    rewrite(place / "in" / "a.jsonl", lambda content: content.extend(b'{"in0":[1]}\n'))


def keep_input(place: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("flags", "change", "told", "num_encoded"),
    [
        ([], change_input, "a.jsonl.out: the content of its input has changed", 9),
        ([], grow_input, "a.jsonl.out: its input had", 10),
        (["--infer_max_seqlens=3,12"], keep_input, "max_seq_lens was (12, 12), is (3, 12)", 1521),
        (["--accept=application/json"], keep_input, "accept was application/jsonlines, is", 1521),
        (["--out_of_range_ids=clip"], keep_input, "clips was", 1521),
        (["--on_bad_record=placeholder"], keep_input, "on_bad_record was fail_file, is", 1521),
        (["--max_line_bytes=1M"], keep_input, "max_line_bytes was", 1521),
    ],
)
def test_what_differs_is_refused_by_name_and_replaced_on_request(
    place, model, capsys, flags, change, told, num_encoded
):
    change(place)
    before = identities(place / "out")
    for more in ([], ["--dry_run"]):
        assert run_in(place, model, *flags, *more) == 4
        error = capsys.readouterr().err
        assert told in error and "--overwrite" in error and error.count("\n") == 1
        assert identities(place / "out") == before
    assert run_in(place, model, *flags, "--overwrite") == 0
    assert summary(place / "out")["encoded"] == num_encoded
    fresh = place / "fresh"
    assert run(model=model, input=place / "in", output=fresh, flags=flags) == 0
    assert outputs(place / "out") == outputs(fresh)
    assert run_in(place, model, *flags, "--overwrite", "--exit_code_if_nothing=99") == 99


def test_another_model_is_refused_with_both_hashes(place, model, other_model, capsys):
    before = identities(place / "out")
    assert run_in(place, other_model) == 4
    assert "model_hash was " in capsys.readouterr().err
    assert identities(place / "out") == before


def test_a_file_that_is_not_ours_is_refused(finished, model, tmp_path, capsys):
    (tmp_path / "out" / "sub").mkdir(parents=True)
    foreign = tmp_path / "out" / "sub" / "b.jsonl.out"
    foreign.write_text("mine\n")
    (tmp_path / "in").symlink_to(finished / "in")
    assert run_in(tmp_path, model) == 4
    assert "sub/b.jsonl.out: is there, and no run on record made it" in capsys.readouterr().err
    assert outputs(tmp_path / "out") == {"sub/b.jsonl.out": b"mine\n"}
    assert run_in(tmp_path, model, "--overwrite") == 0
    assert outputs(tmp_path / "out") == outputs(finished / "out")


def test_overwriting_keeps_old_outputs_until_they_are_replaced(
    finished, place, model, other_model, tmp_path
):
    """Killed again and again, it goes on where it was."""
    new = tmp_path / "new"
    assert run(model=other_model, input=finished / "in", output=new) == 0
    flags = (f"--model={other_model}", f"--input={place / 'in'}", "--unit_bytes=256K",
             "--batch_tokens=4096", "--overwrite")  # fmt: skip
    older = outputs(place / "out")
    job = Job(flags, place / "out", tmp_path / "runs", outputs(new), older)
    for change in ("link _o2v/units/", "replace big.jsonl.out"):
        assert job.start(dies_before=change).wait(look=job.look) == -signal.SIGKILL
    states = {name: (place / "out" / name).read_bytes() == older[name] for name in older}
    assert set(states.values()) == {True, False}
    job.finish()
    assert summary(place / "out")["encoded"] == 0
