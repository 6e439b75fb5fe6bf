"""Publish: what becomes visible is whole, in order, and of one kind of bits, or nothing is."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace

import apache_beam as beam
import msgspec
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as CheckedPipeline
from apache_beam.testing.util import assert_that, equal_to
from pieces import input_file, manifest, recipe, spans_of

from object2vec.errors import StorageError
from transforms.manifest import Counts, Fingerprint, Refusal, Span, WrittenPiece
from transforms.publish import (
    PARTS,
    PublishFiles,
    failure,
    located,
    pieces_of,
    publish_file,
    sha256_of,
    tile,
)
from transforms.sinks.json_document import surplus_comma
from transforms.storage import Piece, open_store

FILE = input_file(size=100)
A, B, C = spans_of(FILE, 40, 60)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "out"))


def write(store, name, data):
    """A part; gives its pieces by their ends."""
    with store.create(name) as writer:
        writer.write(data)

    def piece(start, stop):
        return WrittenPiece(name, start, stop - start, sha(data[:stop]))

    return piece


def refusal(line: int, offset: int = 0, reason: str = "bad") -> Refusal:
    return Refusal(offset, line, "$.in0", "type", reason)


def test_spans_are_put_in_order():
    made = [manifest(span) for span in (B, C, A)]
    assert [m.span for m in tile(made)] == [A, B, C]


def test_a_file_in_one_span_tiles_itself():
    whole, empty = Span(FILE, 0, 100), Span(input_file(size=0), 0, 0)
    assert tile([manifest(whole)])[0].span == whole
    assert tile([manifest(empty)])[0].span == empty


@pytest.mark.parametrize(
    "edges",
    [
        [(0, 40), (60, 100)],
        [(40, 100)],
        [(0, 40), (40, 60)],
        [(0, 60), (40, 100)],
        [(0, 100), (40, 100)],
        [(0, 40), (0, 60), (60, 100)],
        [(0, 40), (40, 100), (60, 100)],
        [(0, 60), (40, 60), (60, 100)],
        [(0, 100), (100, 200)],
    ],
)
def test_gaps_and_overlaps_are_errors(edges):
    for order in itertools.permutations(edges):
        with pytest.raises(StorageError, match="the runner lost or doubled work"):
            tile([manifest(Span(FILE, start, stop)) for start, stop in order])


def test_attempts_at_one_span_count_once_and_a_success_wins():
    good, bad = manifest(A), manifest(A, failed="why", digest="other")
    rest = [manifest(B), manifest(C)]
    for attempts in ([good, good], [good, bad], [bad, good], [bad, good, bad]):
        assert tile([*attempts, *rest])[0] == good
    assert tile([bad, *rest])[0] == bad


def test_lines_are_counted_from_the_files_start():
    spans = [
        manifest(A, counts=Counts(lines=7, refused=1), first_refusals=(refusal(7),)),
        manifest(B, counts=Counts(lines=5)),
        manifest(
            C, counts=Counts(lines=3), first_refusals=(refusal(1), refusal(0, 88), refusal(3))
        ),
    ]
    assert [r.line for r in located(spans)] == [7, 13, 0, 15]
    assert [r.offset for r in located(spans)] == [0, 0, 88, 0]


def test_no_more_than_ten_refusals_are_shown():
    spans = [manifest(span, first_refusals=(refusal(1),) * 7) for span in (A, B, C)]
    assert len(located(spans)) == 10


def why(spans) -> str | None:
    return failure(spans, located(spans), Counts.total(m.counts for m in spans))


def test_a_file_without_fault_is_published():
    assert why([manifest(A), manifest(B), manifest(C)]) is None


def test_the_first_refusal_is_told_with_its_line_in_the_file():
    first = refusal(2, 47, "not a list")
    failed = f"{FILE.uri}: byte 47, $.in0: not a list"
    spans = [
        manifest(A, counts=Counts(lines=10, in0=10)),
        manifest(B, first_refusals=(first,), failed=failed),
        manifest(C, failed=failed),
    ]
    assert why(spans) == "line 12, $.in0: not a list"


def test_a_refusal_without_a_line_is_told_with_its_byte():
    spans = [manifest(Span(FILE, 0, 100), first_refusals=(refusal(0, 5),),
                      failed=f"{FILE.uri}: byte 5, $.in0: bad")]  # fmt: skip
    assert why(spans) == "byte 5, $.in0: bad"


def test_a_damaged_file_is_told_as_such():
    assert why([manifest(A), manifest(B, failed=f"{FILE.uri}: ends early"), manifest(C)]) == (
        "ends early"
    )


def test_refusals_that_have_a_place_in_the_output_are_not_blamed_for_damage():
    spans = [manifest(Span(FILE, 0, 100), counts=Counts(lines=2, in0=1, refused=1),
                      first_refusals=(refusal(1),), failed=f"{FILE.uri}: ends early")]  # fmt: skip
    assert why(spans) == "ends early"


def test_bits_of_two_kinds_are_not_mixed():
    told = why([manifest(A, digest="x" * 64), manifest(B, digest="y" * 64), manifest(C)])
    assert told is not None and "round differently" in told
    assert "xxxxxxxxxxxx, yyyyyyyyyyyy" in told and "run again" in told


def test_a_lost_line_is_an_error():
    with pytest.raises(StorageError, match="3 lines went in, 1 records and 1 refusals came out"):
        why([manifest(Span(FILE, 0, 100), counts=Counts(lines=3, pair=1, refused=1))])


def cut(*pieces, accept="application/jsonlines", counts=(), policy="fail_file"):
    """pieces_of as [(part, offset, length)], and its hash."""
    spans = [manifest(span, piece) for span, piece in zip((A, B, C), pieces, strict=True)]
    if counts:
        spans = [replace(m, counts=c) for m, c in zip(spans, counts, strict=True)]
    found, digest = pieces_of(spans, recipe(accept=accept, on_bad_record=policy))
    return [(p.part, p.offset, p.length) for p in found], digest


def test_spans_that_grew_one_part_have_the_parts_hash():
    pieces = [
        WrittenPiece("p", 0, 5, "x"),
        WrittenPiece("p", 5, 3, "y"),
        WrittenPiece("p", 8, 2, "z"),
    ]
    assert cut(*pieces) == ([("p", 0, 5), ("p", 5, 3), ("p", 8, 2)], "z")


@pytest.mark.parametrize(
    "pieces",
    [
        [("p", 0, 5), ("q", 5, 3), ("p", 8, 2)],
        [("p", 1, 5), ("p", 6, 3), ("p", 9, 2)],
        [("p", 0, 5), ("p", 6, 3), ("p", 9, 2)],
        [("p", 0, 5), ("p", 0, 5), ("p", 5, 5)],
        [("p", 5, 3), ("p", 0, 5), ("p", 8, 2)],
    ],
)
def test_spans_of_several_parts_have_no_hash(pieces):
    assert cut(*(WrittenPiece(*piece, "x") for piece in pieces))[1] is None


ROW, NO_ROW = Counts(lines=1, in1=1), Counts(lines=1, refused=1)


@pytest.mark.parametrize(
    "counts, skipped",
    [
        ((ROW, ROW, ROW), (0, 0, 0)),
        ((NO_ROW, ROW, ROW), (0, 1, 0)),
        ((NO_ROW, NO_ROW, ROW), (0, 0, 1)),
        ((NO_ROW, NO_ROW, NO_ROW), (0, 0, 0)),
        ((Counts(), ROW, NO_ROW), (0, 1, 0)),
    ],
)
def test_the_comma_before_the_first_row_is_left_out(counts, skipped):
    pieces = [WrittenPiece("p", 10 * i, 10, "x") for i in range(3)]
    found, _ = cut(*pieces, accept="application/json", counts=counts, policy="dead_letter")
    assert found == [("p", 10 * i + skip, 10 - skip) for i, skip in enumerate(skipped)]
    # Lines have no commas, and placeholders are rows.
    assert cut(*pieces, counts=counts)[0] == [("p", 10 * i, 10) for i in range(3)]
    if Counts() not in counts:
        found, _ = cut(*pieces, accept="application/json", counts=counts, policy="placeholder")
        assert found == [("p", 10 * i, 10) for i in range(3)]


def test_a_part_without_its_first_comma_has_another_hash():
    pieces = [WrittenPiece("p", 10 * i, 10, "x") for i in range(3)]
    assert cut(*pieces, accept="application/json", counts=(NO_ROW, ROW, ROW))[1] is None


@pytest.mark.parametrize(
    "rows_before, starts_file, rows, surplus",
    [(0, False, 1, 1), (1, False, 1, 0), (0, True, 1, 0), (0, False, 0, 0)],
)
def test_surplus_comma(rows_before, starts_file, rows, surplus):
    assert surplus_comma(rows_before, starts_file, rows) == surplus


def test_a_published_file_is_described(store):
    piece = write(store, "p", b"abcdef")
    spans = [manifest(A, piece(0, 2)), manifest(B, piece(2, 3)), manifest(C, piece(3, 6))]
    entry = publish_file(store, recipe(), [spans[2], spans[0], spans[1]])
    assert store.read("a.jsonl.out") == b"abcdef"
    assert (entry.status, entry.file, entry.recipe_hash) == ("done", FILE, recipe().hash)
    assert (entry.output_size, entry.output_sha256) == (6, sha(b"abcdef"))
    assert entry.output_version == store.stat("a.jsonl.out").version
    assert entry.fingerprint == Fingerprint.add(m.fingerprint for m in spans)
    assert entry.counts == Counts(lines=3, in0=3)
    assert entry.digest == "d" and entry.deterministic


def test_an_undisturbed_file_is_renamed_and_others_are_joined(store):
    piece = write(store, "p", b"abc")
    spans = [manifest(A, piece(0, 1)), manifest(B, piece(1, 2)), manifest(C, piece(2, 3))]
    inode = (store.stat("p")).version.split("-")[1]
    publish_file(store, recipe(), spans)
    assert store.stat("p") is None and store.stat("a.jsonl.out").version.split("-")[1] == inode

    other = write(store, "q", b"XbXa")
    spans = [manifest(A, other(3, 4)), manifest(B, other(1, 2)), manifest(C, other(0, 0))]
    entry = publish_file(store, recipe(), spans)
    assert store.read("a.jsonl.out") == b"ab" and store.stat("q") is not None
    assert entry.output_sha256 == hashlib.sha256(b"ab").hexdigest() and entry.output_size == 2


def test_publishing_again_is_success(store):
    piece = write(store, "p", b"abc")
    spans = [manifest(Span(FILE, 0, 100), piece(0, 3))]
    first = publish_file(store, recipe(), spans)
    assert store.stat("p") is None
    assert publish_file(store, recipe(), spans) == first


def test_parts_that_are_gone_are_an_error(store):
    spans = [manifest(Span(FILE, 0, 100), WrittenPiece("gone", 0, 3, sha(b"abc")))]
    with pytest.raises(StorageError, match="parts that were recorded are gone"):
        publish_file(store, recipe(), spans)
    assert store.stat("a.jsonl.out") is None


@pytest.mark.parametrize("other", [b"abd", b"ab", b"abcd", b""])
def test_another_files_bytes_are_not_taken_for_ours(store, other):
    store.put("a.jsonl.out", other)
    spans = [manifest(Span(FILE, 0, 100), WrittenPiece("gone", 0, 3, sha(b"abc")))]
    with pytest.raises(StorageError, match="gone"):
        publish_file(store, recipe(), spans)
    assert store.read("a.jsonl.out") == other


def test_some_parts_of_a_file_that_are_gone_are_an_error_too(store):
    piece = write(store, "p", b"abc")
    spans = [manifest(A, piece(0, 3)), manifest(B, WrittenPiece("gone", 0, 1, "")), manifest(C)]
    with pytest.raises(StorageError, match="gone"):
        publish_file(store, recipe(), spans)


def test_a_failed_file_leaves_what_was_there_and_says_why(store):
    store.put("a.jsonl.out", b"old")
    spans = [manifest(A), manifest(B, None, failed=f"{FILE.uri}: ends early"), manifest(C)]
    entry = publish_file(store, recipe(), spans)
    assert (entry.status, entry.reason) == ("failed", "ends early")
    assert (entry.output_size, entry.output_sha256, entry.fingerprint) == (0, None, "")
    assert store.read("a.jsonl.out") == b"old"


def test_one_machine_that_rounds_makes_the_file_not_deterministic(store):
    piece = write(store, "p", b"abc")
    spans = [manifest(span, piece(i, i + 1)) for i, span in enumerate((A, B, C))]
    spans[1] = replace(spans[1], deterministic=False)
    assert not publish_file(store, recipe(), spans).deterministic


def letters(*refusals: Refusal) -> bytes:
    return b"".join(msgspec.json.encode(r) + b"\n" for r in refusals)


def test_dead_letters_have_the_lines_of_the_file(store):
    out, first, last = b"rows", letters(refusal(2, 20)), letters(refusal(1, 70), refusal(5, 90))
    piece, rejected = write(store, "p", out), write(store, "r", b"junk" + first + last)
    counts = [Counts(lines=4, in0=3, refused=1), Counts(lines=6, in0=6), Counts(5, 3, refused=2)]
    edges = [4, 4 + len(first), 4 + len(first + last)]
    spans = [
        manifest(A, piece(0, 2), counts=counts[0], rejected=rejected(edges[0], edges[1])),
        manifest(B, piece(2, 3), counts=counts[1]),
        manifest(C, piece(3, 4), counts=counts[2], rejected=rejected(edges[1], edges[2])),
    ]
    policy = recipe(on_bad_record="dead_letter")
    publish_file(store, policy, spans)
    name = "_o2v/rejected/a.jsonl.out.jsonl"
    found = [json.loads(line) for line in store.read(name).splitlines()]
    assert [(f["line"], f["offset"]) for f in found] == [(2, 20), (11, 70), (15, 90)]
    # Again, after parts were cleaned up: nothing is lost or doubled.
    before = store.read(name)
    store.delete("r")
    publish_file(store, policy, spans)
    assert store.read(name) == before
    assert not list(store.list(PARTS))


def test_dead_letters_of_an_older_run_go_with_its_output(store):
    store.put("_o2v/rejected/a.jsonl.out.jsonl", b"old")
    piece = write(store, "p", b"abc")
    publish_file(store, recipe(), [manifest(Span(FILE, 0, 100), piece(0, 3))])
    assert store.stat("_o2v/rejected/a.jsonl.out.jsonl") is None


def test_a_hash_may_stop_early(store):
    store.put("x", b"abcdef")
    assert sha256_of(store, "x") == sha(b"abcdef") and sha256_of(store, "x", 3) == sha(b"abc")
    with pytest.raises(StorageError, match="y: is gone"):
        sha256_of(store, "y")


def test_pieces_may_be_empty(store):
    piece = write(store, "p", b"ab")
    spans = [manifest(A, piece(0, 0)), manifest(B, piece(0, 2)), manifest(C, piece(2, 2))]
    assert publish_file(store, recipe(), spans).output_sha256 == sha(b"ab")
    assert store.read("a.jsonl.out") == b"ab"
    assert [p for p in pieces_of(spans, recipe())[0] if p.length] == [Piece("p", 0, 2)]


def test_the_step_gathers_the_spans_of_each_file(store):
    other = input_file("b.jsonl", size=5)
    piece, more = write(store, "p", b"abc"), write(store, "q", b"other")
    made = [
        manifest(C, piece(2, 3)),
        manifest(Span(other, 0, 5), more(0, 5)),
        manifest(A, piece(0, 1)),
        manifest(B, piece(1, 2)),
    ]
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        entries = pipeline | beam.Create(made) | PublishFiles(store.root, recipe())
        found = entries | beam.Map(lambda e: (e.file.output, e.status, e.output_size))
        assert_that(found, equal_to([("a.jsonl.out", "done", 3), ("b.jsonl.out", "done", 5)]))
    assert (store.read("a.jsonl.out"), store.read("b.jsonl.out")) == (b"abc", b"other")
