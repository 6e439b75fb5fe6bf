"""After a run: what is swept, what is kept, and what the run says of itself."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest
from jobs import outputs, records, run, save_model, write_lines
from pieces import (
    attempt,
    finish,
    input_file,
    manifest,
    mark,
    recipe,
    run_workers_in_turn,
    spans_of,
    stored_file,
)

from transforms.agenda import fingerprint_of, make_agenda
from transforms.finish import finish_run
from transforms.ledger import RUNS, SUCCESS, read_ledger, totals
from transforms.manifest import (
    FINGERPRINT_CELL,
    Counts,
    FileEntry,
    Fingerprint,
    Span,
    Unit,
    WrittenPiece,
)
from transforms.publish import PARTS
from transforms.read import MARKERS
from transforms.storage import open_store
from transforms.sweep import clear_finished, of_other_inputs, sweep

RECIPE = recipe()
OTHER = recipe(on_bad_record="placeholder")
TEXT = b'{"in0":[1]}\n' * 50_000  # more than two cells


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def file(tmp_path):
    return stored_file(tmp_path / "in" / "a.jsonl", TEXT)


def names(store) -> set[str]:
    return {stat.name for stat in store.list()}


def test_a_sweep_keeps_what_is_in_use_and_removes_the_rest(store, file):
    made = attempt(store, file, FINGERPRINT_CELL)
    store.put("r", b"rr")
    older = mark(store, OTHER, manifest(Span(input_file("gone"), 0, 100)))
    for name in ("dead/plan", "parts/y/1.out", "parts/x/2.out"):
        store.put(f"_o2v/tmp/{name}", b"x")
    used = replace(made[0], rejected=WrittenPiece("_o2v/tmp/parts/x/2.out", 0, 1, ""))
    store.put("other.out", b"published")
    known = read_ledger(store)
    sweep(store, known, [used])
    unused = f"{MARKERS}/{Unit((made[1].span,)).key(RECIPE.hash)}.json"
    markers = set(known.markers) - {older, unused}
    parts = {f"{PARTS}/x/1.out", f"{PARTS}/x/2.out"}
    assert names(store) == {"r", "other.out"} | parts | markers and len(markers) == 1


def test_a_sweep_with_nothing_in_use_leaves_only_what_is_published(store, file):
    attempt(store, file)
    store.put(file.output, b"rows")
    store.put("_o2v/tmp/x/plan", b"")
    finish(store, file)
    before = names(store)
    sweep(store, read_ledger(store), [])
    assert names(store) == {file.output, SUCCESS, f"{RUNS}/run-1.json"} < before


def test_a_sweep_keeps_a_marker_for_the_sake_of_one_of_its_files(store, tmp_path):
    files = [stored_file(tmp_path / "in" / name, b"x") for name in "ab"]
    made = [manifest(Span(f, 0, 1), WrittenPiece(f"{PARTS}/{f.name}", 0, 0, "")) for f in files]
    name = mark(store, RECIPE, *made)
    sweep(store, read_ledger(store), made[:1])
    assert name in names(store)
    sweep(store, read_ledger(store), [])
    assert name not in names(store)


def test_a_finished_run_leaves_no_markers_and_no_parts(store, file):
    attempt(store, file)
    finish(store, file)
    clear_finished(store)
    assert names(store) == {file.output, SUCCESS, f"{RUNS}/run-1.json"}
    clear_finished(store)


def test_an_unfinished_run_over_other_inputs_keeps_what_it_needs(store, file, tmp_path):
    other = stored_file(tmp_path / "in" / "b.jsonl", TEXT)
    gone = stored_file(tmp_path / "in" / "c.jsonl", TEXT)
    attempt(store, file)
    made = attempt(store, other, FINGERPRINT_CELL, part=f"{PARTS}/y/1.out")
    attempt(store, gone, part=f"{PARTS}/z/1.out")
    (tmp_path / "in" / "c.jsonl").unlink()  # nobody will ask for it
    known = read_ledger(store)
    others = of_other_inputs(known, [file])
    assert sorted(others, key=lambda m: m.span.start) == made
    assert of_other_inputs(known, [file, other, gone]) == []
    sweep(store, known, others)
    finish(store, file)
    clear_finished(store, known, others)
    kept = {f"{MARKERS}/{Unit((m.span,)).key(RECIPE.hash)}.json" for m in made}
    published = {file.output, SUCCESS, f"{RUNS}/run-1.json"}
    assert names(store) == published | kept | {f"{PARTS}/y/1.out"}
    assert make_agenda(store, read_ledger(store), [other], RECIPE, False).kept == made


def test_what_others_left_of_an_input_that_has_changed_is_of_no_use(store, tmp_path):
    other = stored_file(tmp_path / "in" / "b.jsonl", TEXT)
    attempt(store, other)
    stored_file(tmp_path / "in" / "b.jsonl", TEXT[:-2] + b" \n")
    assert of_other_inputs(read_ledger(store), []) == []


def test_success_is_only_where_every_file_is_done(store, file):
    entry = finish(store, file)
    assert json.loads(store.read(SUCCESS)) == {
        "run": "run-1",
        "model": RECIPE.model_hash,
        "options": RECIPE.hash,
        "files": 1,
        "totals": msgspec.to_builtins(Counts(lines=1, in0=1)),
    }
    store.delete(SUCCESS)
    failed = replace(entry, status="failed", file=replace(file, output="b.out"))
    made = finish_run(store, "run-2", RECIPE, [failed, entry])
    assert store.stat(SUCCESS) is None
    assert [e.file.output for e in made.entries] == ["a.jsonl.out", "b.out"]
    assert made.totals == Counts(lines=1, in0=1)  # of what is done
    assert read_ledger(store).entries["b.out"] == failed


def test_totals_are_of_what_is_done():
    one = FileEntry(input_file(), "r", "done", Counts(lines=2, pair=1, refused=1))
    assert totals([one, one, replace(one, status="failed")]) == Counts(lines=4, pair=2, refused=2)


def test_one_entry_that_was_not_reproducible_marks_the_run(store, file):
    entry = finish(store, file)
    assert finish_run(store, "r", RECIPE, [entry]).deterministic
    assert not finish_run(
        store, "r", RECIPE, [entry, replace(entry, deterministic=False)]
    ).deterministic


def test_a_files_fingerprint_is_the_sum_of_its_spans(file):
    sums = []
    for span in spans_of(file, FINGERPRINT_CELL, 2 * FINGERPRINT_CELL):
        part = Fingerprint(span.start)
        part.update(TEXT[span.start : span.stop])
        sums.append(part.hexdigest())
    assert fingerprint_of(file) == Fingerprint.add(sums)


def test_outputs_that_are_gone_are_made_again_by_workers_too(tmp_path, monkeypatch):
    """What workers publish is on no record but their markers', though an older run's is there."""
    monkeypatch.setattr("pipeline.embed.run_workers", run_workers_in_turn)
    model, out = save_model(tmp_path / "m"), tmp_path / "out"
    for name in "ab":
        write_lines(tmp_path / "in" / name, records(4000, seed=ord(name)))
    flags = ["--unit_bytes=256K", "--threads=1"]
    assert run(model=model, input=tmp_path / "in", output=out, flags=flags) == 0
    before = outputs(out)
    for name in before:
        (out / name).unlink()
    flags.append("--workers=2")
    assert run(model=model, input=tmp_path / "in", output=out, flags=flags) == 0
    assert outputs(out) == before


def test_success_is_not_restored_beside_another_unfinished_job(tmp_path):
    model = save_model(tmp_path / "m")
    data = write_lines(tmp_path / "in" / "x.jsonl", records(5))
    out = tmp_path / "out"
    assert run(model=model, input=data, output=out) == 0
    (out / SUCCESS).unlink()
    store = open_store(str(out))
    attempt(store, stored_file(tmp_path / "in" / "a.jsonl", TEXT), FINGERPRINT_CELL)
    assert run(model=model, input=data, output=out) == 0
    assert not (out / SUCCESS).exists()
    store.delete_all(MARKERS)
    assert run(model=model, input=data, output=out) == 0
    assert (out / SUCCESS).exists()
