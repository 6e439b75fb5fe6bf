"""The ledger: what is believed of an output directory, what is refused, what is swept."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from pieces import attempt, finish, mark, recipe, sha, stored_file

from object2vec.errors import InputError, OutputError
from transforms import agenda as agenda_module
from transforms.agenda import make_agenda, prefix_hashes
from transforms.ledger import RUNS, Ledger, read_ledger
from transforms.manifest import (
    FINGERPRINT_CELL,
    Unit,
    WrittenPiece,
)
from transforms.publish import PARTS
from transforms.read import MARKERS
from transforms.storage import open_store

RECIPE = recipe()
OTHER = recipe(on_bad_record="placeholder")
TEXT = b'{"in0":[1]}\n' * 50_000  # more than two cells


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def file(tmp_path):
    return stored_file(tmp_path / "in" / "a.jsonl", TEXT)


def agenda_of(store, *files, made_with=RECIPE, overwrite=False):
    return make_agenda(store, read_ledger(store), files, made_with, overwrite)


def refused(store, *files, made_with=RECIPE) -> str:
    with pytest.raises(OutputError) as caught:
        agenda_of(store, *files, made_with=made_with)
    assert "--overwrite" in str(caught.value) and store.root in str(caught.value)
    return str(caught.value)


# Nothing on record


def test_a_new_directory_has_everything_to_do(store, file):
    agenda = agenda_of(store, file)
    assert (agenda.files, agenda.kept, agenda.done) == ([file], [], [])


def test_an_output_that_nobody_made_is_not_replaced_unasked(store, file):
    store.put(file.output, b"somebody's")
    assert "a.jsonl.out: is there, and no run on record made it" in refused(store, file)
    assert agenda_of(store, file, overwrite=True).files == [file]
    assert store.read(file.output) == b"somebody's"


def test_foreign_files_beside_the_outputs_are_nobodys_business(store, file):
    store.put("notes.txt", b"")
    assert agenda_of(store, file).files == [file]


# Finished runs


def test_what_is_done_is_done(store, file):
    entry = finish(store, file)
    agenda = agenda_of(store, file)
    assert (agenda.files, agenda.kept, agenda.done) == ([], [], [entry])
    assert agenda_of(store, file, overwrite=True).done == [entry]


def test_a_new_file_beside_done_ones_is_all_there_is_to_do(store, file, tmp_path):
    entry = finish(store, file)
    new = stored_file(tmp_path / "in" / "b.jsonl", b"x")
    agenda = agenda_of(store, file, new)
    assert (agenda.files, agenda.done) == ([new], [entry])


def test_another_recipe_is_refused_by_name_and_redone_when_asked(store, file):
    finish(store, file)
    told = refused(store, file, made_with=OTHER)
    assert "a.jsonl.out: on_bad_record was fail_file, is placeholder" in told
    agenda = agenda_of(store, file, made_with=OTHER, overwrite=True)
    assert (agenda.files, agenda.done) == ([file], [])


def test_a_recipe_that_is_not_on_record_any_more_is_refused_too(store, file):
    entry = finish(store, file)
    known = Ledger(entries={file.output: entry})
    with pytest.raises(OutputError, match="was made with other settings"):
        make_agenda(store, known, [file], OTHER, False)


def test_an_input_of_another_size_is_refused(store, file, tmp_path):
    finish(store, file)
    changed = stored_file(tmp_path / "in" / "a.jsonl", TEXT + b"x")
    assert f"its input had {len(TEXT)} bytes, has {len(TEXT) + 1}" in refused(store, changed)
    assert agenda_of(store, changed, overwrite=True).files == [changed]


def test_an_input_of_other_content_is_refused(store, file, tmp_path):
    finish(store, file)
    changed = stored_file(tmp_path / "in" / "a.jsonl", TEXT[:-2] + b" \n")
    assert "the content of its input has changed" in refused(store, changed)
    assert agenda_of(store, changed, overwrite=True).files == [changed]


def test_a_touched_input_of_the_same_content_is_done(store, file, tmp_path):
    entry = finish(store, file)
    os.utime(tmp_path / "in" / "a.jsonl", ns=(1, 1))
    (touched,) = [replace(file, version=open_store(file.store).stat(file.name).version)]
    assert touched.version != file.version
    assert agenda_of(store, touched).done == [entry]


def test_an_input_that_was_moved_is_done_if_its_content_is_the_same(store, file, tmp_path):
    entry = finish(store, file)
    moved = stored_file(tmp_path / "elsewhere" / "a.jsonl", TEXT)
    assert agenda_of(store, moved).done == [entry]
    other = stored_file(tmp_path / "third" / "a.jsonl", TEXT[:-2] + b" \n")
    assert "content of its input has changed" in refused(store, other)
    # Versions are compared at one place only: elsewhere an equal one says nothing.
    with pytest.raises(InputError, match=r"third/a\.jsonl: changed while it was read"):
        agenda_of(store, replace(other, version=file.version))


def test_an_untouched_input_is_not_read(store, file, tmp_path):
    entry = finish(store, file)
    (tmp_path / "in" / "a.jsonl").unlink()
    assert agenda_of(store, file).done == [entry]


def test_an_output_that_is_gone_is_made_again(store, file):
    finish(store, file)
    store.delete(file.output)
    agenda = agenda_of(store, file)
    assert (agenda.files, agenda.done) == ([file], [])


@pytest.mark.parametrize("content", [b"rows", b"rows\n\n", b"", b"Rows\n"])
def test_an_output_that_is_not_what_was_published_is_made_again(store, file, content):
    finish(store, file)
    store.put(file.output, content)
    assert agenda_of(store, file).files == [file]


def test_an_output_that_was_touched_is_compared(store, file):
    entry = finish(store, file)
    store.put(file.output, b"rows\n")
    assert store.stat(file.output).version != entry.output_version
    assert agenda_of(store, file).done == [entry]


def test_an_output_without_a_hash_must_not_be_touched(store, file):
    entry = finish(store, file, output_sha256=None)
    assert agenda_of(store, file).done == [entry]
    store.put(file.output, b"rows\n")
    assert agenda_of(store, file).files == [file]


def test_a_failed_file_is_tried_again(store, file):
    finish(store, file, status="failed", reason="why", output_size=0)
    store.delete(file.output)
    assert agenda_of(store, file).files == [file]
    assert agenda_of(store, file, made_with=OTHER).files == [file]


def test_the_latest_run_counts(store, file):
    finish(store, file, made_with=OTHER, run="20240101")
    entry = finish(store, file, run="20250101", output=b"newer")
    assert agenda_of(store, file).done == [entry]
    assert "is placeholder" in refused(store, file, made_with=OTHER)


def test_runs_over_parts_of_the_input_add_up(store, file, tmp_path):
    other = stored_file(tmp_path / "in" / "b.jsonl", b"x")
    first, second = finish(store, file, run="1"), finish(store, other, run="2")
    assert agenda_of(store, file, other).done == [first, second]


def test_the_message_does_not_grow_with_the_files(store, file, tmp_path):
    files = [stored_file(tmp_path / "in" / f"{i}", b"x") for i in range(5)]
    for each in files:
        store.put(each.output, b"")
    told = refused(store, *files)
    assert "(and 2 more)" in told and "2.out" in told and "3.out" not in told


# Attempts that died


def test_what_an_attempt_finished_is_kept(store, file):
    made = attempt(store, file, FINGERPRINT_CELL)
    agenda = agenda_of(store, file)
    assert (agenda.files, agenda.done) == ([file], [])
    assert agenda.kept == made


def test_kept_spans_are_in_order_whatever_their_markers_names(store, file):
    made = attempt(store, file, FINGERPRINT_CELL, 2 * FINGERPRINT_CELL)
    assert agenda_of(store, file).kept == made


def test_a_span_that_failed_is_done_again(store, file):
    attempt(store, file, failed="why")
    assert agenda_of(store, file).kept == []


def test_markers_of_another_recipe_are_refused_or_redone(store, file):
    attempt(store, file, made_with=OTHER)
    assert "on_bad_record was placeholder, is fail_file" in refused(store, file)
    agenda = agenda_of(store, file, overwrite=True)
    assert (agenda.files, agenda.kept) == ([file], [])
    assert len(agenda_of(store, file, made_with=OTHER).kept) == 1


def test_markers_of_an_older_version_of_the_input_are_not_believed(store, file, tmp_path):
    attempt(store, file, FINGERPRINT_CELL)
    changed = stored_file(tmp_path / "in" / "a.jsonl", TEXT[:-2] + b" \n")
    agenda = agenda_of(store, changed)
    assert (agenda.files, agenda.kept) == ([changed], [])


def test_a_part_that_is_gone_or_short_is_not_believed(store, file):
    made = attempt(store, file, FINGERPRINT_CELL)
    store.delete(f"{PARTS}/x/1.out")
    assert agenda_of(store, file).kept == []
    store.put(f"{PARTS}/x/1.out", b"0123456789012345678")
    assert agenda_of(store, file).kept == made[:1]


def test_a_part_may_be_longer_than_what_was_recorded(store, file):
    made = attempt(store, file, data=b"0123456789 and the beginning of more")
    assert agenda_of(store, file).kept == made


def test_the_same_boot_is_believed_without_reading(store, file):
    made = attempt(store, file, data=b"----------")
    assert agenda_of(store, file).kept == made


@pytest.mark.parametrize("written_by", ["another boot", ""])
def test_after_another_boot_bytes_must_verify(store, file, written_by):
    cells = (FINGERPRINT_CELL, 2 * FINGERPRINT_CELL)
    made = attempt(store, file, *cells, boot_id=written_by)
    assert agenda_of(store, file).kept == made
    store.put(f"{PARTS}/x/1.out", b"0123456789" + b"01234\0\0\0\0\0" + b"0123456789")
    assert agenda_of(store, file).kept == made[:1]


def test_a_system_that_tells_no_boots_apart_is_never_believed(store, file, monkeypatch):
    attempt(store, file, data=b"----------", boot_id="")
    monkeypatch.setattr(agenda_module, "boot_id", lambda: "")
    assert agenda_of(store, file).kept == []


def test_dead_letters_must_verify_too(store, file):
    letters = WrittenPiece("r", 0, 4, sha(b"rrrr"))
    made = attempt(store, file, rejected=letters)
    assert agenda_of(store, file).kept == []  # they are gone
    store.put("r", b"rr")
    assert agenda_of(store, file).kept == []
    store.put("r", b"rr\0\0")
    assert agenda_of(store, file).kept == made
    other = [replace(made[0], boot_id="another boot")]
    for name in [stat.name for stat in store.list(MARKERS)]:
        store.delete(name)
    mark(store, RECIPE, *other)
    assert agenda_of(store, file).kept == []
    store.put("r", b"rrrr")
    assert agenda_of(store, file).kept == other


def test_a_part_is_read_once_however_many_spans_it_has(store):
    store.put("x", bytes(range(256)))
    wanted = {end: sha(bytes(range(end))) for end in (0, 1, 100, 256)}
    assert prefix_hashes(store, "x", [0, 1, 100, 256, 257, 300]) == wanted
    assert prefix_hashes(store, "gone", [1]) == {}


@pytest.mark.parametrize("edges", [(), (FINGERPRINT_CELL,)])
def test_a_file_that_was_published_before_the_run_died_is_kept(store, file, edges):
    made = attempt(store, file, *edges)
    store.delete(f"{PARTS}/x/1.out")
    store.put(file.output, b"0123456789" * len(made))
    assert agenda_of(store, file).kept == made
    store.put(file.output, b"0123456789" * (len(made) - 1) + b"012345678x")
    assert agenda_of(store, file).kept == []
    store.put(file.output, b"0123456789" * (len(made) + 1))
    assert agenda_of(store, file).kept == []


def test_half_of_a_files_spans_do_not_make_it_published(store, file):
    made = attempt(store, file, FINGERPRINT_CELL)
    store.delete(f"{PARTS}/x/1.out")
    store.delete(f"{MARKERS}/{Unit((made[1].span,)).key(RECIPE.hash)}.json")
    store.put(file.output, b"0123456789")
    assert agenda_of(store, file).kept == []


def test_a_crash_after_the_manifest_leaves_nothing_to_do(store, file):
    """The run wrote its manifest and died before it could remove its markers."""
    made = attempt(store, file, FINGERPRINT_CELL, data=b"")
    store.delete(f"{PARTS}/x/1.out")
    entry = finish(store, file, output=b"0123456789" * len(made))
    agenda = agenda_of(store, file)
    assert (agenda.files, agenda.kept, agenda.done) == ([], [], [entry])


def test_an_overwriting_run_that_died_is_taken_up_again(store, file, tmp_path):
    finish(store, file, made_with=OTHER)
    other = stored_file(tmp_path / "in" / "b.jsonl", b"x")
    finish(store, other, made_with=OTHER, run="run-2")
    made = attempt(store, file)
    agenda = agenda_of(store, file, other, overwrite=True)
    assert (agenda.files, agenda.kept) == ([file, other], made)
    # Without --overwrite the second file stands in the way, and it alone.
    told = refused(store, file, other)
    assert "b.jsonl.out" in told and "a.jsonl.out" not in told


def test_an_overwriting_run_that_died_before_it_replaced_anything_did_no_harm(store, file):
    entry = finish(store, file)
    attempt(store, file, made_with=OTHER)
    assert agenda_of(store, file).done == [entry]


def test_an_overwriting_run_that_died_after_it_replaced_a_file_is_noticed(store, file):
    finish(store, file)
    attempt(store, file, made_with=OTHER)
    store.put(file.output, b"0123456789")
    assert "on_bad_record was placeholder, is fail_file" in refused(store, file)


def test_spans_that_overlap_are_kept_once(store, file):
    cells = [FINGERPRINT_CELL, 2 * FINGERPRINT_CELL]
    attempt(store, file, *cells)
    attempt(store, file, cells[1], part=f"{PARTS}/y/1.out")
    kept = sorted((m.span.start, m.span.stop) for m in agenda_of(store, file).kept)
    assert kept in (
        [(0, cells[0]), (cells[0], cells[1]), (cells[1], file.size)],
        [(0, cells[1]), (cells[1], file.size)],
    )


def test_an_empty_file_is_kept_once(store, tmp_path):
    empty = stored_file(tmp_path / "in" / "e", b"")
    attempt(store, empty, data=b"0123456789")
    assert len(agenda_of(store, empty).kept) == 1


# What cannot be read


def test_a_manifest_of_another_version_is_refused(store, file):
    finish(store, file)
    name = f"{RUNS}/run-1.json"
    document = json.loads(store.read(name)) | {"format_version": 2}
    store.put(name, json.dumps(document).encode())
    with pytest.raises(
        OutputError, match=r"run-1\.json has format version 2; this program knows 1"
    ):
        read_ledger(store)


@pytest.mark.parametrize("name", [f"{RUNS}/x.json", f"{MARKERS}/x.json"])
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"recipe":1}'])
def test_what_is_not_ours_is_refused_by_name(store, name, text):
    store.put(name, text)
    with pytest.raises(OutputError, match=f"{name} in the output directory is not what this"):
        read_ledger(store)


def test_other_files_in_our_folders_are_left_alone(store):
    store.put(f"{RUNS}/notes.txt", b"?")
    store.put(f"{MARKERS}/x.json.bak", b"?")
    assert read_ledger(store) == Ledger()
