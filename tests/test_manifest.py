"""The records that outlive a run: fingerprints that add up, keys that tell units apart."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import input_file, manifest, recipe, spans_of

from transforms.manifest import (
    FINGERPRINT_CELL,
    Counts,
    FileEntry,
    Fingerprint,
    Marker,
    Refusal,
    Span,
    Unit,
    WrittenPiece,
)

CELL = FINGERPRINT_CELL
DATA = bytes(range(256)) * 1024 * 3 + b"tail"  # three cells and four bytes


def fingerprint(data: bytes, start: int = 0, step: int | None = None) -> str:
    whole = Fingerprint(start)
    for begin in range(0, len(data), step or len(data) or 1):
        whole.update(data[begin : begin + (step or len(data))])
    return whole.hexdigest()


def by_hand(data: bytes) -> str:
    """The definition: sha256 of each cell's position and bytes, added modulo 2^256."""
    total = 0
    for start in range(0, len(data), CELL):
        text = start.to_bytes(8, "big") + data[start : start + CELL]
        total += int(hashlib.sha256(text).hexdigest(), 16)
    return f"{total % 2**256:064x}"


@pytest.mark.parametrize("size", [0, 1, CELL - 1, CELL, CELL + 1, 3 * CELL, len(DATA)])
def test_a_fingerprint_is_what_its_docstring_says(size):
    assert fingerprint(DATA[:size]) == by_hand(DATA[:size])


@settings(deadline=None)
@given(st.integers(10_000, 2 * CELL), st.sets(st.integers(1, 3)))
def test_any_cut_on_the_grid_sums_to_the_same(step, cuts):
    edges = [0, *sorted(cut * CELL for cut in cuts), len(DATA)]
    sums = [fingerprint(DATA[start:stop], start, step) for start, stop in pairwise(edges)]
    assert Fingerprint.add(sums) == Fingerprint.add(reversed(sums)) == by_hand(DATA)


def test_a_view_is_as_good_as_bytes():
    whole = Fingerprint(0)
    whole.update(memoryview(DATA))
    assert whole.hexdigest() == by_hand(DATA)


@pytest.mark.parametrize(
    "other",
    [
        DATA[:-1] + b"L",
        b"x" + DATA[1:],
        DATA[:-1],
        DATA + b"\0",
        DATA[1:2] + DATA[:1] + DATA[2:],
        DATA[-4:] + DATA[:-4],
        b"",
    ],
)
def test_a_changed_or_moved_byte_changes_it(other):
    assert fingerprint(other) != fingerprint(DATA)


def test_a_moved_cell_changes_it():
    first, second = b"a" * CELL, b"b" * CELL
    assert fingerprint(first + second) != fingerprint(second + first)


def test_a_span_starts_on_the_grid():
    with pytest.raises(ValueError, match="between two cells"):
        Fingerprint(CELL + 1)


def unit() -> Unit:
    return Unit(tuple(spans_of(input_file(), 40, 60)))


def test_a_unit_has_one_key():
    assert unit().key("r") == unit().key("r")
    assert len(unit().key("r")) == 40


@pytest.mark.parametrize("name", [f.name for f in fields(type(input_file()))])
def test_a_units_key_changes_with_each_fact_about_its_file(name):
    span = Span(input_file(), 0, 100)
    value = 101 if name == "size" else "other"
    changed = replace(span, file=replace(span.file, **{name: value}))
    assert Unit((span,)).key("r") != Unit((changed,)).key("r")


def test_a_units_key_changes_with_its_spans_and_the_recipe():
    a, b = spans_of(input_file(), 50)
    units = [(a,), (b,), (a, b), (b, a), (replace(a, stop=49),), (replace(b, start=51),), ()]
    keys = [Unit(spans).key("r") for spans in units]
    keys += [Unit((a,)).key("s")]
    assert len(set(keys)) == len(keys)


def test_names_that_run_into_each_other_make_other_keys():
    first = Unit((Span(input_file("ab", store="/c"), 0, 1),))
    second = Unit((Span(input_file("b", store="/ca", output="ab.out"), 0, 1),))
    assert first.key("r") != second.key("r")


def test_a_unit_is_as_large_as_its_spans():
    assert unit().size == 100 and unit().spans[1].stop - unit().spans[1].start == 20


def test_whole_files_are_told_from_their_parts():
    file = input_file()
    assert Span(file, 0, 100).is_whole_file
    assert not Span(file, 0, 99).is_whole_file and not Span(file, 1, 100).is_whole_file
    assert Span(input_file(size=0), 0, 0).is_whole_file


def test_a_file_is_named_by_its_place():
    assert input_file("a/b", store="/in").uri == "/in/a/b"
    assert input_file("b", store="/").uri == "/b"
    assert input_file("b", store="s3://bucket/x").uri == "s3://bucket/x/b"


def test_counts_add_up_in_every_field():
    ones = Counts(*[1] * 7)
    total = Counts.total([ones, Counts(1, 2, 3, 4, 5, 6, 7), Counts()])
    assert total == Counts(2, 3, 4, 5, 6, 7, 8)
    assert total.records == 3 + 4 + 5
    assert ones == Counts(*[1] * 7) and Counts.total([]) == Counts()


def test_a_marker_and_an_entry_read_back_as_they_were_written():
    span = Span(input_file('q"\nö'), 0, 100)
    refusal = Refusal(7, 3, "$.in0[1]", "type", "no integer", '{"in0":[1.0]}')
    made = manifest(
        span,
        WrittenPiece("p", 3, 4, "ab"),
        rejected=WrittenPiece("r", 0, 9, "cd"),
        first_refusals=(refusal,),
        failed="why",
        boot_id="b",
    )
    marker = Marker(recipe(), (made, manifest(span)))
    assert msgspec.json.decode(msgspec.json.encode(marker), type=Marker) == marker
    entry = FileEntry(span.file, "r", "failed", Counts(1), reason="why", first_refusals=(refusal,))
    assert msgspec.json.decode(msgspec.json.encode(entry), type=FileEntry) == entry


def test_the_recipes_hash_changes_with_each_setting():
    changes = {
        "model_hash": "1" * 64,
        "content_type": "application/json",
        "accept": "avro/binary",
        "max_seq_lens": (10, 11),
        "clips": (False, True),
        "on_bad_record": "placeholder",
        "max_line_bytes": 1001,
        "vocab_sizes": (100, 101),
        "padding_ids": (0, 1),
    }
    assert set(changes) == {f.name for f in fields(recipe())}
    others = [recipe(**{name: value}) for name, value in changes.items()]
    assert len({recipe().hash, *(other.hash for other in others)}) == 1 + len(changes)
    assert recipe().hash == recipe().hash


def test_a_recipe_tells_in_words_how_it_differs():
    other = recipe(model_hash="1" * 64, on_bad_record="placeholder")
    assert recipe().differences(other) == [
        "model_hash was 111111111111..., is 000000000000...",
        "on_bad_record was placeholder, is fail_file",
    ]
    assert recipe().differences(recipe()) == []


def test_a_recipe_hands_the_parser_its_limits():
    limits = recipe(
        clips=(True, False), max_seq_lens=(3, 4), vocab_sizes=(5, 6), padding_ids=(1, 2)
    ).limits
    assert (limits.clips, limits.max_seq_lens) == ((True, False), (3, 4))
    assert limits.padding_ids == (1, 2)
    assert (limits.vocab_sizes, limits.max_line_bytes) == ((5, 6), 1000)
