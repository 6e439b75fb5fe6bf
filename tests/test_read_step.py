"""Read: blocks of whole lines, each span with an end, and markers instead of work."""

from __future__ import annotations

import gzip
import os
import re

import apache_beam as beam
import msgspec
import pytest
import zstandard
from apache_beam.testing.test_pipeline import TestPipeline as CheckedPipeline
from apache_beam.testing.util import assert_that, equal_to
from pieces import manifest, mark, recipe, spans_of, stored_file

from object2vec.errors import StorageError
from transforms import read as read_module
from transforms.agenda import fingerprint_of
from transforms.board import Board, StopRequested
from transforms.manifest import FINGERPRINT_CELL, Fingerprint, Span, Unit
from transforms.read import DONE, Block, ReadUnits, load_marker, read_span
from transforms.storage import open_store

CELL = FINGERPRINT_CELL
LINE = b'{"in0":[1,2,3]}\n'
DOCUMENTS = recipe(content_type="application/json")


@pytest.fixture
def source(tmp_path):
    """Makes a file; gives it as a plan knows it."""

    def make(data: bytes, name: str = "a.jsonl"):
        return stored_file(tmp_path / "in" / name, data)

    return make


def blocks_of(file, span=None, unit=None, made_with=None) -> list[Block]:
    span = span or Span(file, 0, file.size)
    store = open_store(file.store)
    return list(read_span(store, unit or Unit((span,)), span, made_with or recipe()))


def text_of(blocks) -> bytes:
    return b"".join(block.data for block in blocks)


def failure_of(blocks) -> str:
    assert [block.end is None for block in blocks] == [True] * (len(blocks) - 1) + [False]
    assert blocks[-1].end.failed is not None
    return blocks[-1].end.failed


def test_a_small_file_is_one_block_with_an_end(source):
    file = source(LINE * 3)
    (block,) = blocks_of(file)
    assert (block.offset, block.data, block.ends_cell) == (0, LINE * 3, True)
    assert block.end.failed is None and block.end.ends_unit
    assert block.end.fingerprint == fingerprint_of(file)


def test_only_the_last_block_has_an_end(source):
    file = source(LINE * 50_000)
    blocks = blocks_of(file)
    assert len(blocks) == -(-file.size // CELL) and text_of(blocks) == LINE * 50_000
    assert [block.end is None for block in blocks] == [True] * (len(blocks) - 1) + [False]
    assert all(block.ends_cell and len(block.data) <= CELL + len(LINE) for block in blocks)


@pytest.mark.parametrize("data", [b"", LINE[:-1], b"\n", b"\n" * 10])
def test_every_span_gives_a_block_and_no_byte_is_added(source, data):
    blocks = blocks_of(source(data))
    assert text_of(blocks) == data and blocks[-1].end.failed is None


def test_only_the_last_span_of_a_unit_ends_it(source):
    files = [source(LINE, name) for name in "abc"]
    unit = Unit(tuple(Span(file, 0, file.size) for file in files))
    ends = [blocks_of(s.file, s, unit)[-1].end.ends_unit for s in unit.spans]
    assert ends == [False, False, True]


def test_spans_share_no_line_and_their_fingerprints_add_up(source):
    file = source(b"".join(b'{"in0":[%d]}\n' % i for i in range(60_000)))
    whole = blocks_of(file)
    blocks = [blocks_of(file, span) for span in spans_of(file, CELL, 3 * CELL)]
    flat = [block for each in blocks for block in each]
    assert text_of(flat) == text_of(whole)
    assert [b.offset for b in flat] == [b.offset for b in whole]
    sums = [each[-1].end.fingerprint for each in blocks]
    assert Fingerprint.add(sums) == fingerprint_of(file)


@pytest.mark.parametrize("edges", [(4 * CELL,), (CELL, 8 * CELL), (4 * CELL, 8 * CELL)])
def test_a_line_over_many_spans_is_in_the_first_and_all_fingerprints_add_up(source, edges):
    file = source(LINE + b"x" * 10 * CELL + b"\n" + LINE)
    limit = recipe(max_line_bytes=20 * CELL)
    blocks = [blocks_of(file, span, made_with=limit) for span in spans_of(file, *edges)]
    assert text_of(blocks[0]) == LINE + b"x" * 10 * CELL + b"\n"
    assert [text_of(each) for each in blocks[1:-1]] == [b""] * (len(blocks) - 2)
    assert text_of(blocks[-1]) == LINE
    sums = [each[-1].end.fingerprint for each in blocks]
    assert Fingerprint.add(sums) == fingerprint_of(file)


def pack_gzip(data):
    return gzip.compress(data)


def pack_zstd(data):
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("pack, suffix", [(pack_gzip, "gz"), (pack_zstd, "zst")])
def test_a_compressed_file_is_read_decompressed_and_hashed_as_stored(source, pack, suffix):
    packed = pack(LINE * 30_000)
    file = source(packed, f"a.jsonl.{suffix}")
    blocks = blocks_of(file)
    assert text_of(blocks) == LINE * 30_000 and len(blocks) == 2
    assert blocks[-1].end.failed is None
    assert blocks[-1].end.fingerprint == fingerprint_of(file)


def test_a_compressed_file_needs_no_suffix_if_it_is_one_span(source):
    assert text_of(blocks_of(source(gzip.compress(LINE)))) == LINE


def test_a_large_compressed_file_without_a_suffix_fails_with_advice(source):
    file = source(gzip.compress(os.urandom(2 * CELL)))
    first, *_ = spans_of(file, CELL)
    assert "a.jsonl: holds gzip data without a name that says so" in failure_of(
        blocks_of(file, first)
    )


@pytest.mark.parametrize(
    "name, data, reason",
    [
        ("a.gz", LINE, "not gzip data"),
        ("a.zst", b"", "empty, against its name"),
        ("a.gz", gzip.compress(LINE)[:-3], "gzip data ends early"),
        ("a.gz", gzip.compress(LINE) + b"rest", "something that is not gzip"),
        ("a.zst", pack_zstd(LINE)[:-1], "zstd data ends early"),
    ],
)
def test_damaged_files_are_set_aside_and_named_whole(source, name, data, reason):
    file = source(data, name)
    told = failure_of(blocks_of(file))
    assert told.startswith(f"{file.uri}: ") and reason in told


def test_what_came_before_the_damage_comes_out_but_says_that_the_file_failed(source):
    packed = gzip.compress(LINE * 100_000)
    blocks = blocks_of(source(packed[:-9], "a.gz"))
    assert len(blocks) > 1 and "ends early" in failure_of(blocks)


def test_a_file_that_is_gone_is_set_aside(source, tmp_path):
    file = source(LINE)
    (tmp_path / "in" / "a.jsonl").unlink()
    told = failure_of(blocks_of(file))
    assert told == f"{file.uri}: is not there (any more)"


def test_a_file_that_was_changed_since_the_plan_is_set_aside(source):
    file = source(LINE * 3)
    source(LINE * 2 + LINE.replace(b"1", b"7"))
    assert "changed while it was read" in failure_of(blocks_of(file))


def test_a_file_that_changes_while_it_is_read_is_set_aside(source):
    file = source(LINE * 200_000)
    span = Span(file, 0, file.size)
    reading = read_span(open_store(file.store), Unit((span,)), span, recipe())
    first = next(reading)
    source(LINE.replace(b"1", b"7") * 200_000)
    blocks = [first, *reading]
    assert "changed while it was read" in failure_of(blocks)
    assert b"7" not in text_of(blocks)


def test_a_file_that_is_changed_after_its_last_byte_was_read_is_set_aside(source):
    file = source(LINE * 20_000)  # two blocks of one read
    span = Span(file, 0, file.size)
    reading = read_span(open_store(file.store), Unit((span,)), span, recipe())
    first = next(reading)
    source(LINE.replace(b"1", b"7") * 20_000)
    assert "changed while it was read" in failure_of([first, *reading])


def test_a_disk_that_fails_is_no_fault_of_the_file(source):
    class BrokenStore:
        """Fails as a disk does after retries."""

        is_local = True

        def read(self, *_):
            raise StorageError("cannot read: input/output error")

    span = Span(source(LINE), 0, len(LINE))
    with pytest.raises(StorageError, match="input/output error"):
        list(read_span(BrokenStore(), Unit((span,)), span, recipe()))


def test_lines_over_the_limit_are_cut_so_that_the_parser_refuses_them(source):
    file = source(LINE + b"y" * 5000 + b"\n" + LINE)
    blocks = blocks_of(file)
    assert [b.offset for b in blocks] == [0, len(LINE) + 5001]
    assert blocks[0].data == LINE + b"y" * 1001 + b"\n" and blocks[1].data == LINE
    assert blocks[-1].end.fingerprint == fingerprint_of(file)


def test_a_document_is_one_block(source):
    text = b'{"instances":[\n' + b'{"in0":[1]},\n' * 50_000 + b'{"in0":[2]}]}\n'
    for name, data in (("a.json", text), ("a.json.gz", gzip.compress(text))):
        (block,) = blocks_of(source(data, name), made_with=DOCUMENTS)
        assert (block.offset, block.data, block.ends_cell) == (0, text, True)


def test_a_document_that_is_too_large_is_set_aside(source, monkeypatch):
    monkeypatch.setattr(read_module, "MAX_DOCUMENT_BYTES", 1000)
    told = failure_of(blocks_of(source(b" " * 1001), made_with=DOCUMENTS))
    assert "the document is over 1000 bytes" in told and "use application/jsonlines" in told
    assert blocks_of(source(b" " * 1000), made_with=DOCUMENTS)[-1].end.failed is None


def test_a_marker_is_found_by_what_was_encoded_and_how(source, tmp_path):
    out = open_store(str(tmp_path / "out"))
    file, other = source(LINE), source(LINE, "b.jsonl")
    unit, next_unit = Unit((Span(file, 0, file.size),)), Unit((Span(other, 0, other.size),))
    made = manifest(unit.spans[0])
    assert load_marker(out, unit, recipe().hash) is None
    mark(out, recipe(), made)
    assert load_marker(out, unit, recipe().hash) == (made,)
    assert load_marker(out, next_unit, recipe().hash) is None
    assert load_marker(out, unit, recipe(accept="avro/binary").hash) is None


def test_the_step_reads_units_and_takes_over_what_is_marked(source, tmp_path):
    output = str(tmp_path / "out")
    file, other = source(LINE), source(LINE * 2, "b.jsonl")
    units = [Unit((Span(f, 0, f.size),)) for f in (file, other)]
    made = manifest(units[0].spans[0])
    mark(open_store(output), recipe(), made)
    (tmp_path / "in" / "a.jsonl").unlink()  # what is marked is not read
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | beam.Create(units) | ReadUnits(output, recipe(), None)
        texts = read["blocks"] | beam.Map(lambda block: (block.span.file.name, block.data))
        assert_that(texts, equal_to([("b.jsonl", LINE * 2)]), label="blocks")
        taken = read[DONE] | beam.Map(msgspec.json.encode)
        assert_that(taken, equal_to([msgspec.json.encode(made)]), label="done")


def test_reading_stops_when_it_is_asked_to(source, tmp_path):
    file = source(LINE)
    board = tmp_path / "board"
    board.mkdir()
    Board(str(board)).request_stop()
    step = ReadUnits(str(tmp_path / "out"), recipe(), str(board))._fn
    step.setup()
    with pytest.raises(StopRequested):
        list(step.process(Unit((Span(file, 0, file.size),))))


def test_failures_name_the_file_once(source):
    file = source(LINE, "a.gz")
    told = failure_of(blocks_of(file))
    assert len(re.findall(r"a\.gz", told)) == 1
