"""Runs that are killed, and their reruns: the same bytes, nothing partial, nothing left over."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest
from jobs import outputs, records, run, save_model, summary, write_lines
from kills import Job, Run, read_ledger_in_haste, save_long_lines, save_slow_model

from transforms.storage import open_store

pytest_plugins = ("s3_server",)

NUM_UNITS, NUM_RECORDS = 24, 11_900
UNITS = ("--unit_bytes=256K", "--batch_tokens=4096")
"""Units of 500 records, and batches of half a unit: markers come one by one."""


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory) -> Path:
    return save_slow_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file of 24 units, and small ones that share a unit."""
    folder = tmp_path_factory.mktemp("data")
    save_long_lines(folder / "big.jsonl", NUM_RECORDS, seed=1)
    for number in range(5):
        write_lines(folder / "small" / f"{number}.jsonl", records(20, seed=number))
    assert (NUM_UNITS - 1) * 2**18 < (folder / "big.jsonl").stat().st_size < NUM_UNITS * 2**18
    return folder


@pytest.fixture(scope="module")
def reference(slow_model, data, tmp_path_factory) -> dict[str, bytes]:
    """What one undisturbed process writes, in big units."""
    out = tmp_path_factory.mktemp("reference")
    assert run(model=slow_model, input=data, output=out) == 0
    return outputs(out)


@pytest.fixture
def job(slow_model, data, reference, tmp_path) -> Job:
    flags = (f"--model={slow_model}", f"--input={data}", *UNITS)
    return Job(flags, tmp_path / "out", tmp_path / "runs", reference)


@pytest.fixture(scope="module")
def quick_reference(model, data, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference")
    assert run(model=model, input=data, output=out) == 0
    return outputs(out)


@pytest.fixture
def quick_job(model, data, quick_reference, tmp_path) -> Job:
    """The same with a model that takes no time."""
    flags = (f"--model={model}", f"--input={data}", "--unit_bytes=256K")
    return Job(flags, tmp_path / "out", tmp_path / "runs", quick_reference)


@pytest.fixture
def big_job(slow_model, data, reference, tmp_path) -> Job:
    """Of the big file alone."""
    flags = (f"--model={slow_model}", f"--input={data / 'big.jsonl'}", *UNITS)
    big = {"big.jsonl.out": reference["big.jsonl.out"]}
    return Job(flags, tmp_path / "out", tmp_path / "runs", big)


def kill_at(job: Job, num_markers: int, *flags: str) -> None:
    """Starts a run and kills it when so many units are on record."""
    victim = job.start(*flags)
    assert victim.until(lambda: job.markers() >= num_markers, look=job.look), victim.said
    victim.signal(signal.SIGKILL)
    assert victim.wait(look=job.look) == -signal.SIGKILL


# The driver


def test_the_driver_is_killed_at_five_random_moments(job):
    chance = random.Random(1)
    middle = sorted(chance.sample(range(2, NUM_UNITS - 1), 3))
    moments = [0, *middle, NUM_UNITS + 1]  # of them the first in start-up, the last in publishing
    for markers in moments:
        victim = job.start()
        assert victim.until((job.output / "_o2v" / "lock").exists, look=job.look)
        assert victim.until(lambda markers=markers: job.markers() >= markers, look=job.look)
        time.sleep(chance.uniform(0, 0.05))
        victim.signal(signal.SIGKILL)
        code = victim.wait(look=job.look)
        # By chance it may have ended before the last kill; a rerun has nothing to do then.
        assert code == -signal.SIGKILL or (code == 0 and markers == moments[-1])
    job.finish()


def test_death_before_any_change_of_the_output_folder_is_harmless(model, tmp_path):
    """Every rename, link and removal of a run is the last thing that did not happen, once."""
    folder = tmp_path / "in"
    write_lines(folder / "sub" / "b.jsonl", records(9, seed=2))
    save_long_lines(folder / "c.jsonl", 700, seed=3)
    with (folder / "c.jsonl").open("a") as file:
        file.write("not a record\n")
    flags = (f"--model={model}", f"--input={folder}", *UNITS, "--on_bad_record=dead_letter")
    undisturbed = tmp_path / "undisturbed"
    assert run(model=model, input=folder, output=undisturbed, flags=flags[2:]) == 0
    letters = (undisturbed / "_o2v" / "rejected" / "c.jsonl.out.jsonl").read_bytes()
    for number in itertools.count(1):
        job = Job(flags, tmp_path / str(number), tmp_path / "runs", outputs(undisturbed))
        if job.start(dies_before=number).wait(look=job.look) == 0:
            break
        if number % 8 == 0:  # the rerun too
            job.start(dies_before=number // 2 + 1).wait(look=job.look)
        rerun = job.start()
        assert rerun.wait(look=job.look) == 0, rerun.said
        rejected = job.output / "_o2v" / "rejected"
        assert (rejected / "c.jsonl.out.jsonl").read_bytes() == letters
        shutil.rmtree(rejected)
        job.check_finished()
        assert summary(job.output)["counts"]["refused"] == 1
    assert number > 20


@pytest.mark.parametrize(
    "change",
    [
        "replace _o2v/runs/",
        "replace _SUCCESS",
        "rmdir _o2v/units",
        "rmdir _o2v/tmp",
        "replace _o2v/summary.json",
    ],
)
def test_what_was_published_is_not_made_again(quick_job, change):
    """Death between the last output and the end of the run."""
    job = quick_job
    assert job.start(dies_before=change).wait(look=job.look) == -signal.SIGKILL
    before = identities(job)
    assert len(before) == 6
    job.finish()
    assert identities(job) == before
    found = summary(job.output)
    assert found["encoded"] == 0 or change == "rmdir _o2v/units"
    assert found["counts"]["lines"] == NUM_RECORDS + 100


def identities(job: Job) -> dict[str, tuple[int, int]]:
    """Inode and time of every output: as they are if nobody touched it."""
    stats = {name: (job.output / name).stat() for name in job.reference}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in stats.items()}


def test_many_markers_are_read_by_threads_that_meet(quick_job):
    """Whoever decodes a type for the first time, msgspec must not do it in two threads."""
    assert quick_job.start(dies_before="replace _o2v/runs/").wait() == -signal.SIGKILL
    codes = [read_ledger_in_haste(str(quick_job.output)) for _ in range(10)]
    assert codes == [0] * 10


@pytest.mark.parametrize("flags", [(), ("--unit_bytes=512K",)])
def test_half_of_a_big_file_is_kept(big_job, flags):
    kill_at(big_job, NUM_UNITS // 2)
    big_job.finish(*flags)
    assert 0 < summary(big_job.output)["encoded"] <= 0.7 * NUM_RECORDS


# Child processes


def test_both_children_killed_cost_no_output(job):
    parent = job.start("--workers=2")
    assert parent.until(lambda: len(parent.children()) == 2, look=job.look)
    for child in parent.children():  # while they start
        os.kill(child, signal.SIGKILL)
    job.finish(run=parent)
    assert parent.said.count("ended by signal 9") == 2


def test_children_die_with_their_parent_and_a_killed_child_costs_no_output(job):
    parent = job.start("--workers=2")
    assert parent.until(lambda: job.markers() >= NUM_UNITS // 2, look=job.look)
    assert parent.children()
    parent.signal(signal.SIGKILL)
    parent.wait(look=job.look)
    assert parent.children_end_within(1), "children live on without their parent"
    # The rerun loses a child, and ends well by itself.
    before, chance = job.markers(), random.Random(1)
    parent = job.start("--workers=2")
    moment = chance.randrange(1, 5)
    assert parent.until(lambda: job.markers() >= before + moment, look=job.look), parent.said
    os.kill(chance.choice(parent.children()), signal.SIGKILL)
    job.finish(run=parent)
    assert "ended by signal 9" in parent.said
    assert 0 < summary(job.output)["encoded"] <= 0.7 * NUM_RECORDS


def test_children_that_still_start_die_with_their_parent(big_job):
    parent = big_job.start("--workers=2")
    assert parent.until(lambda: len(parent.children()) == 2, look=big_job.look)
    time.sleep(0.3)
    parent.signal(signal.SIGKILL)
    parent.wait()
    assert parent.children_end_within(1), "children live on without their parent"


# Other faults


@pytest.mark.parametrize("times", [1, 2])
def test_bundles_that_run_again_change_nothing(quick_job, times):
    quick_job.finish(f"--direct_runner_bundle_repeat={times}")


def test_a_part_that_was_damaged_by_a_power_loss_is_made_again(big_job):
    """Markers of another boot are believed if the bytes verify, and only then."""
    kill_at(big_job, NUM_UNITS // 2)
    stored = {}
    for path in (big_job.output / "_o2v" / "units").iterdir():
        if not path.name.endswith(".json"):
            continue
        marker = json.loads(path.read_bytes())
        (manifest,) = marker["manifests"]
        manifest["boot_id"] = "another"
        path.write_text(json.dumps(marker))
        stored[manifest["span"]["start"]] = manifest
    starts = sorted(stored)
    sixth = stored[starts[5]]["piece"]
    with (big_job.output / sixth["part"]).open("r+b") as file:
        file.seek(sixth["offset"] + sixth["length"] // 2)
        file.write(b"\0" * 100)  # as a file system leaves what it had not written
    big_job.finish()
    kept = [stored[start]["counts"] for start in starts[:5]]
    num_kept = sum(counts[kind] for counts in kept for kind in ("in0", "in1", "pair"))
    assert summary(big_job.output)["encoded"] == NUM_RECORDS - num_kept


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(big_job, slow_model, data, tmp_path):
    """Old outputs stay until there is room for the new ones."""
    old = ("--infer_max_seqlens=3,3",)
    with small_disk(tmp_path / "disk", "36m") as disk:
        big_job.output = disk / "out"
        first = big_job.start(*old)
        assert first.wait() == 0, first.said
        big_job.older = outputs(big_job.output)
        assert big_job.older != big_job.reference
        writing = big_job.start("--overwrite")
        assert writing.until(lambda: big_job.markers() >= 3, look=big_job.look)
        # Someone else fills the disk; the forecast could not know.
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        assert writing.wait(look=big_job.look) == 5
        assert "No space left on device" in writing.said and "Traceback" not in writing.said
        refused = big_job.start("--overwrite")
        assert refused.wait(look=big_job.look) in (4, 5), refused.said
        assert "No space left" in refused.said or "GiB free" in refused.said
        filler.unlink()
        big_job.finish("--overwrite")
        assert summary(big_job.output)["encoded"] < NUM_RECORDS


def test_what_is_done_needs_no_room_again(tmp_path):
    """A disk with room for all outputs, and not for those of a rerun that began anew."""
    model = save_model(tmp_path / "m", enc_dim=300, token_embedding_dim=300)
    for number in range(8):
        save_long_lines(tmp_path / "in" / f"{number}.jsonl", 400, seed=number)
    assert run(model=model, input=tmp_path / "in", output=tmp_path / "reference") == 0
    reference = outputs(tmp_path / "reference")
    flags = (f"--model={model}", f"--input={tmp_path / 'in'}", *UNITS)
    size = sum(map(len, reference.values())) * 9 // 8
    with small_disk(tmp_path / "disk", str(size)) as disk:
        job = Job(flags, disk / "out", tmp_path / "runs", reference)
        dying = job.start(dies_before="replace 7.jsonl.out")
        assert dying.wait(look=job.look) == -signal.SIGKILL, dying.said
        assert len(outputs(job.output)) == 7
        job.finish()


# Object stores


def test_a_killed_run_on_s3_leaves_nothing_open(slow_model, data, reference, s3_store, tmp_path):
    bucket = s3_store.removeprefix("s3://")
    target, client = open_store(f"{s3_store}/out"), boto3.client("s3")
    flags = [f"--model={slow_model}", f"--input={data}", f"--output={target.root}", *UNITS]
    victim = Run(flags, tmp_path)

    def num_markers() -> int:
        return sum(1 for _ in target.list("_o2v/units"))

    assert victim.until(lambda: num_markers() >= NUM_UNITS // 2), victim.said
    victim.signal(signal.SIGKILL)
    victim.wait()
    assert not target.stat("big.jsonl.out") and not target.stat("_SUCCESS")
    # As if it had died while it put a big file, or a part of one, together.
    for key in ("out/big.jsonl.out", "out/_o2v/tmp/parts/0/1.out"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    # A holder on S3 is given up after four beats, 40 s: not here.
    rerun = Run([*flags, "--force_unlock"], tmp_path)
    assert rerun.wait() == 0, rerun.said
    assert {name: target.read(name) for name in reference} == reference
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    ours = {stat.name.split("/")[1] for stat in target.list("_o2v")}
    assert ours == {"lock", "runs", "summary.json"} and target.stat("_SUCCESS")
    assert json.loads(target.read("_o2v/summary.json"))["encoded"] <= 0.7 * NUM_RECORDS
