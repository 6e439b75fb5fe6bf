"""Write: parts in order, markers before results, and nothing left of a unit that failed."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import replace

import apache_beam as beam
import fastavro
import msgspec
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as CheckedPipeline
from apache_beam.testing.util import assert_that, equal_to
from pieces import encoded_block, ends, input_file, recipe, spans_of

from object2vec.errors import StorageError
from object2vec.tokens import IN0, IN1, PAIR
from transforms.board import Board
from transforms.disk import Disk
from transforms.ledger import read_ledger
from transforms.lock import boot_id
from transforms.manifest import Counts, FileEntry, Marker, Refusal, Span, SpanManifest, Unit
from transforms.publish import PARTS, publish_file
from transforms.read import MARKERS, load_marker
from transforms.sinks import make_sink, suffix_of
from transforms.unit_writer import SHOWN_REFUSALS, UnitWriter
from transforms.write import ENTRIES, WriteParts, _WritingThread

FILE = input_file(size=100)
WHOLE = Span(FILE, 0, 100)
A, B, C = spans_of(FILE, 40, 60)
ONE, TWO = b'{"embeddings":[1.0,2.0]}\n', b'{"embeddings":[3.0,4.0]}\n'
FIRST, SECOND = [(0, IN0, [1, 2])], [(50, IN1, [3, 4])]


class Bucket(Disk):
    """A disk that says it is none: parts per unit, as on object stores."""

    is_local = False


@pytest.fixture(params=[Disk, Bucket])
def store(request, tmp_path):
    return request.param(str(tmp_path / "out"))


@pytest.fixture
def disk(tmp_path):
    return Disk(str(tmp_path / "out"))


@pytest.fixture
def writer_on():
    """Makes writers; at the end of the test they are closed."""
    made = []

    def make(store, board=None, **changes) -> UnitWriter:
        made.append(UnitWriter(store, recipe(**changes), board or Board(None)))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


def files(store) -> list[str]:
    return [stat.name for stat in store.list()]


def test_a_file_of_one_unit_is_published_on_the_spot(writer_on, store):
    writer = writer_on(store)
    assert writer.add(encoded_block(WHOLE, FIRST)) == []
    (entry,) = writer.add(encoded_block(WHOLE, SECOND, end=ends()))
    assert isinstance(entry, FileEntry) and entry.status == "done"
    assert entry.counts == Counts(lines=2, in0=1, in1=1) and entry.digest == "digest"
    assert store.read("a.jsonl.out") == ONE + TWO
    assert entry.output_sha256 == hashlib.sha256(ONE + TWO).hexdigest()


def test_units_of_a_file_make_manifests_that_publish_to_it(writer_on, store):
    writer = writer_on(store)
    made = []
    for span, rows in ((A, FIRST), (B, SECOND), (C, FIRST)):
        made += writer.add(encoded_block(span, rows, end=ends()))
    writer.close()
    assert [m.span for m in made] == [A, B, C]
    assert store.stat("a.jsonl.out") is None
    publish_file(store, recipe(), made)
    assert store.read("a.jsonl.out") == ONE + TWO + ONE


def test_on_disks_consecutive_units_of_a_file_grow_one_part(writer_on, disk):
    writer = writer_on(disk)
    made = [writer.add(encoded_block(s, FIRST, end=ends()))[0] for s in (A, B, C)]
    assert [m.piece.offset for m in made] == [0, len(ONE), 2 * len(ONE)]
    assert len({m.piece.part for m in made}) == 1
    for number, m in enumerate(made):
        assert m.piece.prefix_sha256 == hashlib.sha256(ONE * (number + 1)).hexdigest()
        assert m.boot_id == boot_id()


def test_a_gap_or_another_file_begins_another_part(writer_on, disk):
    other = Span(input_file("b", size=50), 0, 40)
    writer = writer_on(disk)
    made = [writer.add(encoded_block(s, FIRST, end=ends()))[0] for s in (A, C, other, B)]
    assert len({m.piece.part for m in made}) == 4 and all(m.piece.offset == 0 for m in made)


def test_in_buckets_each_unit_has_its_part(writer_on, tmp_path):
    writer = writer_on(Bucket(str(tmp_path)))
    made = [writer.add(encoded_block(s, FIRST, end=ends()))[0] for s in (A, B, C)]
    assert len({m.piece.part for m in made}) == 3 and {m.boot_id for m in made} == {""}


def test_small_files_of_one_unit_are_all_published(writer_on, store):
    spans = [Span(input_file(name, size=5), 0, 5) for name in "abc"]
    unit = Unit(tuple(spans))
    writer = writer_on(store)
    assert writer.add(encoded_block(spans[0], FIRST, unit=unit, end=ends(False))) == []
    assert writer.add(encoded_block(spans[1], [], unit=unit, end=ends(False))) == []
    entries = writer.add(encoded_block(spans[2], SECOND, unit=unit, end=ends()))
    assert [e.file.output for e in entries] == ["a.out", "b.out", "c.out"]
    assert [store.read(e.file.output) for e in entries] == [ONE, b"", TWO]
    assert load_marker(store, unit, recipe().hash) is not None


class Recording(Disk):
    """Notes what becomes visible, in order."""

    def __init__(self, path):
        super().__init__(path)
        self.acts = []

    def put_if_absent(self, name, data):
        self.acts.append(name.rpartition("/")[0])
        return super().put_if_absent(name, data)

    def publish(self, name, pieces, scratch):
        self.acts.append(name)
        super().publish(name, pieces, scratch)


def test_the_marker_is_there_before_anything_is_published_or_said(writer_on, tmp_path):
    store = Recording(str(tmp_path))
    writer = writer_on(store)
    (entry,) = writer.add(encoded_block(WHOLE, FIRST, end=ends()))
    assert store.acts == [MARKERS, "a.jsonl.out"] and entry.status == "done"
    (name,) = [stat.name for stat in store.list(MARKERS)]
    marker = msgspec.json.decode(store.read(name), type=Marker)
    assert marker.recipe == recipe() and marker.manifests[0].span == WHOLE
    assert name == f"{MARKERS}/{Unit((WHOLE,)).key(recipe().hash)}.json"


def test_a_marker_that_is_there_already_stays(writer_on, store):
    for _ in range(2):
        made = writer_on(store).add(encoded_block(A, FIRST, end=ends()))
    (marked,) = load_marker(store, Unit((A,)), recipe().hash)
    assert marked.piece.part != made[0].piece.part  # of the first attempt, as good as ours
    assert len(read_ledger(store).markers) == 1


def test_counts_and_the_first_refusals_of_all_blocks_are_kept(writer_on, store):
    refusals = tuple(Refusal(i, i, "$", "blank", "a blank line") for i in range(8))
    writer = writer_on(store, on_bad_record="placeholder")
    writer.add(encoded_block(A, FIRST, refusals=refusals))
    (made,) = writer.add(encoded_block(A, SECOND, refusals=refusals, end=ends()))
    assert made.counts == Counts(lines=18, in0=1, in1=1, refused=16)
    assert made.first_refusals == (*refusals, *refusals)[:SHOWN_REFUSALS]


def test_placeholders_stand_where_the_refused_lines_stood(writer_on, store):
    refusals = (Refusal(5, 1, "$.in0", "type", "no"), Refusal(20, 3, "$", "blank", "empty"))
    rows = [(10, IN0, [1, 2]), (30, PAIR, [0.5])]
    block = encoded_block(WHOLE, rows, refusals=refusals, end=ends())
    writer_on(store, on_bad_record="placeholder").add(block)
    assert [json.loads(line) for line in store.read("a.jsonl.out").splitlines()] == [
        {"error": {"offset": 5, "path": "$.in0", "reason": "no"}},
        {"embeddings": [1.0, 2.0]},
        {"error": {"offset": 20, "path": "$", "reason": "empty"}},
        {"scores": [0.5]},
    ]
    assert not list(store.list("_o2v/rejected"))


def test_dead_letters_of_spans_go_to_a_part_of_their_own(writer_on, store):
    first, second = Refusal(5, 1, "$", "blank", "one"), Refusal(45, 2, "$", "blank", "two")
    unit = Unit((A, B, C))
    writer = writer_on(store, on_bad_record="dead_letter")
    writer.add(encoded_block(A, FIRST, unit=unit, refusals=(first,), end=ends(False)))
    writer.add(encoded_block(B, [], unit=unit, end=ends(False)))
    made = writer.add(encoded_block(C, [], unit=unit, refusals=(second,), end=ends()))
    assert [m.rejected is None for m in made] == [False, True, False]
    for m, expected in ((made[0], first), (made[2], second)):
        piece = m.rejected
        text = store.read(piece.part, piece.offset, piece.offset + piece.length)
        assert msgspec.json.decode(text, type=Refusal) == expected
        until = store.read(piece.part, 0, piece.offset + piece.length)
        assert piece.prefix_sha256 == hashlib.sha256(until).hexdigest()


def test_a_span_that_failed_has_no_bytes_and_its_neighbours_have(writer_on, store):
    bad = encoded_block(B, SECOND, failed="why", end=ends())
    writer = writer_on(store)
    made = [*writer.add(encoded_block(A, FIRST, end=ends())), *writer.add(bad)]
    made += writer.add(encoded_block(C, SECOND, end=ends()))
    writer.close()
    assert [m.failed for m in made] == [None, "why", None]
    assert made[1].piece is None
    for m, text in ((made[0], ONE), (made[2], TWO)):
        piece = m.piece
        assert store.read(piece.part, piece.offset, piece.offset + piece.length) == text


def test_a_span_that_fails_half_way_leaves_no_part_of_its_own(writer_on, store):
    writer = writer_on(store)
    writer.add(encoded_block(WHOLE, FIRST))
    (entry,) = writer.add(encoded_block(WHOLE, SECOND, failed="in /in/a.jsonl", end=ends()))
    writer.close()
    assert (entry.status, entry.counts.lines) == ("failed", 2)
    assert store.stat("a.jsonl.out") is None and not list(store.list(PARTS))


def test_progress_counts_what_is_written(writer_on, disk, tmp_path):
    (tmp_path / "board").mkdir()
    board = Board(str(tmp_path / "board"))
    writer = writer_on(disk, board, on_bad_record="placeholder")
    refusals = (Refusal(41, 1, "$", "blank", "a blank line"),)
    writer.add(encoded_block(A, FIRST, end=ends()))
    writer.add(encoded_block(B, SECOND, refusals=refusals))
    board.post(now=True)
    assert 40 <= board.total().input_bytes < 60 and board.total().records == 2
    writer.add(encoded_block(B, SECOND, end=ends()))
    total = board.total()
    assert (total.input_bytes, total.records, total.refused, total.files) == (60, 3, 1, 0)
    assert total.first_refusal == "/in/a.jsonl: byte 41, $: a blank line"


def test_the_first_refusal_is_shown_with_its_line_where_that_is_known(writer_on, disk, tmp_path):
    (tmp_path / "board").mkdir()
    board = Board(str(tmp_path / "board"))
    refusals = (Refusal(9, 4, "$.in0", "type", "no list"), Refusal(20, 5, "$", "blank", "later"))
    writer_on(disk, board).add(encoded_block(WHOLE, [], refusals=refusals, failed="x", end=ends()))
    assert board.total().first_refusal == "/in/a.jsonl:4: $.in0: no list"
    assert board.total().files == 1


def test_what_is_given_up_leaves_nothing(writer_on, store):
    spans = [Span(input_file(name, size=5), 0, 5) for name in "ab"]
    unit = Unit(tuple(spans))
    writer = writer_on(store, on_bad_record="dead_letter")
    refusals = (Refusal(1, 1, "$", "blank", "x"),)
    writer.add(encoded_block(spans[0], FIRST, unit=unit, refusals=refusals))
    writer.abort()
    assert files(store) == []


def test_what_is_given_up_in_a_bucket_does_not_become_visible(writer_on, tmp_path):
    """A part of an open unit is never completed, though one of its spans was."""
    store = Bucket(str(tmp_path))
    spans = [Span(input_file(name, size=5), 0, 5) for name in "ab"]
    writer = writer_on(store)
    writer.add(encoded_block(spans[0], FIRST, unit=Unit(tuple(spans)), end=ends(False)))
    writer.abort()
    assert files(store) == []


def test_what_was_finished_before_stays(writer_on, store):
    writer = writer_on(store)
    (made,) = writer.add(encoded_block(A, FIRST, end=ends()))
    writer.add(encoded_block(B, SECOND))
    writer.abort()
    piece = made.piece
    assert store.read(piece.part, piece.offset, piece.offset + piece.length) == ONE
    assert load_marker(store, Unit((A,)), recipe().hash) == (made,)
    assert load_marker(store, Unit((B,)), recipe().hash) is None


# Formats


def test_a_document_of_many_spans_is_a_document(writer_on, store):
    writer = writer_on(store, accept="application/json", on_bad_record="dead_letter")
    refusals = (Refusal(1, 1, "$", "blank", "x"),)
    made = []
    for span, rows, refused in ((A, [], refusals), (B, SECOND, ()), (C, FIRST, ())):
        made += writer.add(encoded_block(span, rows, refusals=refused, end=ends()))
    writer.close()
    publish_file(store, recipe(accept="application/json", on_bad_record="dead_letter"), made)
    rows = [{"embeddings": [3.0, 4.0]}, {"embeddings": [1.0, 2.0]}]
    assert json.loads(store.read("a.jsonl.out")) == {"predictions": rows}


@pytest.mark.parametrize("accept", ["application/json", "avro/binary"])
def test_an_empty_file_makes_an_output_that_can_be_read(writer_on, store, accept, tmp_path):
    empty = Span(input_file(size=0), 0, 0)
    writer_on(store, accept=accept).add(encoded_block(empty, [], end=ends()))
    with open(tmp_path / "out" / "a.jsonl.out", "rb") as file:
        found = json.load(file) if accept == "application/json" else list(fastavro.reader(file))
    assert found in ({"predictions": []}, [])


MIXED = [(0, IN0, [1.5, -0.0]), (9, PAIR, [0.25]), (20, IN1, [3, 4]), (31, IN0, [-7, 1e-45])]


def test_kinds_may_be_mixed_in_every_format(writer_on, store, tmp_path):
    values = [[1.5, 0.0], [0.25], [3.0, 4.0], [-7.0, 1.401298464324817e-45]]
    writer_on(store).add(encoded_block(WHOLE, MIXED, end=ends()))
    rows = [json.loads(line) for line in store.read("a.jsonl.out").splitlines()]
    assert [next(iter(row)) for row in rows] == ["embeddings", "scores", "embeddings", "embeddings"]
    assert [list(*row.values()) for row in rows][:2] == [[1.5, 0.0], [0.25]]
    assert b"-0.0" not in store.read("a.jsonl.out")

    other = replace(FILE, output="x.avro")
    block = encoded_block(Span(other, 0, 100), MIXED, end=ends())
    writer_on(store, accept="avro/binary").add(block)
    with open(tmp_path / "out" / "x.avro", "rb") as file:
        found = list(fastavro.reader(file))
    assert [row["offset"] for row in found] == [0, 9, 20, 31]
    assert [row["side"] for row in found] == ["in0", "pair", "in1", "in0"]
    assert [row["values"] for row in found] == values
    assert not any(str(v) == "-0.0" for row in found for v in row["values"])


def test_an_avro_block_ends_where_a_cell_does_however_it_was_encoded():
    def bytes_of(*groups):
        sink = make_sink(recipe(accept="avro/binary"), WHOLE)
        text = sink.begin()
        for number, rows in enumerate(groups):
            last = number == len(groups) - 1
            text += sink.add(encoded_block(WHOLE, rows, ends_cell=last, end=None))
        return text + sink.end()

    assert bytes_of(MIXED) == bytes_of(MIXED[:1], MIXED[1:3], [], MIXED[3:])


def test_avros_sync_marker_tells_files_and_recipes_apart():
    def marker(span, **changes):
        return make_sink(recipe(accept="avro/binary", **changes), span).begin()[-16:]

    other = Span(replace(FILE, output="other"), 0, 100)
    moved = Span(replace(FILE, store="/elsewhere", name="n", version="2"), 0, 100)
    assert marker(WHOLE) == marker(A) == marker(moved)
    assert len({marker(WHOLE), marker(other), marker(WHOLE, model_hash="1" * 64)}) == 3


def test_outputs_are_named_by_their_format():
    assert [suffix_of(a) for a in ("application/jsonlines", "application/json", "avro/binary")] == [
        ".out", ".out", ".out.avro",
    ]  # fmt: skip


# The thread


class Slow:
    """A writer that notes what it is given; fails at 13."""

    def __init__(self, gate=None):
        self.seen, self.events, self.gate = [], [], gate

    def add(self, block):
        if self.gate is not None:
            self.gate.wait(5)
        if block == 13:
            raise StorageError("disk full")
        self.seen.append(block)
        return [block * 10]

    def close(self):
        self.events.append("close")

    def abort(self):
        self.events.append("abort")


def test_the_thread_writes_in_order_and_gives_all_results():
    writer = Slow()
    thread = _WritingThread(writer)
    results = [result for block in range(10) for result in thread.submit(block)]
    results += thread.finish()
    assert writer.seen == list(range(10)) and results == [10 * i for i in range(10)]
    assert writer.events == ["close"]


def test_only_a_few_blocks_wait():
    gate = threading.Event()
    thread = _WritingThread(Slow(gate))
    given = []

    def hurry():
        for block in range(10):
            thread.submit(block)
            given.append(block)

    sender = threading.Thread(target=hurry)
    sender.start()
    deadline = time.monotonic() + 5
    while len(given) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(given) == 4  # one is written, three wait
    gate.set()
    sender.join(5)
    assert len(thread.finish()) > 0 and len(given) == 10


def test_an_error_of_the_thread_comes_out_of_finish():
    thread = _WritingThread(Slow())
    thread.submit(13)
    with pytest.raises(StorageError, match="disk full"):
        thread.finish()
    thread.abandon()


def test_an_error_of_the_thread_comes_out_of_the_next_submit_and_nobody_waits_for_ever():
    writer = Slow()
    thread = _WritingThread(writer)
    with pytest.raises(StorageError, match="disk full"):
        for block in [1, 13, *range(2, 10_000)]:
            thread.submit(block)
    assert writer.seen == [1]
    thread.abandon()
    assert writer.events == ["abort"] and not thread._thread.is_alive()


def test_a_thread_that_is_abandoned_writes_nothing_more():
    gate = threading.Event()
    writer = Slow(gate)
    thread = _WritingThread(writer)
    for block in (1, 2, 3):
        thread.submit(block)
    threading.Timer(0.05, gate.set).start()
    thread.abandon()
    assert writer.seen in ([], [1]) and writer.events == ["abort"]


# The step


def step(store, **changes):
    fn = WriteParts(store.root, recipe(**changes), None)._fn
    fn.setup()
    fn.start_bundle()
    return fn


def test_a_bundle_that_fails_leaves_only_what_was_committed(disk):
    fn = step(disk)
    list(fn.process(encoded_block(A, FIRST, end=ends())))
    deadline = time.monotonic() + 5
    while not list(disk.list(MARKERS)) and time.monotonic() < deadline:
        time.sleep(0.01)
    list(fn.process(encoded_block(B, SECOND)))
    fn.teardown()
    assert [name.split("/")[1] for name in files(disk)] == ["tmp", "units"]
    assert disk.read(files(disk)[0])[: len(ONE)] == ONE


def test_an_error_while_writing_fails_the_bundle(disk):
    class Full(Disk):
        def create(self, name):
            raise StorageError("no space left on device")

    fn = step(disk)
    fn._thread._writer._store = Full(disk.root)
    list(fn.process(encoded_block(A, FIRST, end=ends())))
    with pytest.raises(StorageError, match="no space left"):
        list(fn.finish_bundle())
    fn.teardown()
    assert files(disk) == []


def test_a_bundle_may_be_empty(disk):
    assert list(step(disk).finish_bundle()) == []
    assert files(disk) == []


def test_the_step_tells_published_files_from_parts(disk):
    other = Span(input_file("b", size=5), 0, 5)
    blocks = [encoded_block(A, FIRST, end=ends()), encoded_block(other, SECOND, end=ends())]
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        written = pipeline | beam.Create(blocks) | WriteParts(disk.root, recipe(), None)
        spans = written["manifests"] | beam.Map(lambda m: (type(m), m.span.start, m.span.stop))
        assert_that(spans, equal_to([(SpanManifest, 0, 40)]), label="manifests")
        entries = written[ENTRIES] | beam.Map(lambda e: (type(e), e.file.output, e.status))
        assert_that(entries, equal_to([(FileEntry, "b.out", "done")]), label="entries")
    assert disk.read("b.out") == TWO
