"""Plan: a grid that knows the file alone, units that lose nothing, gaps that are filled."""

from __future__ import annotations

from itertools import pairwise

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as CheckedPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import input_file, manifest, spans_of

from object2vec.errors import StorageError
from transforms.agenda import Agenda, gaps, units_left
from transforms.manifest import Span, Unit
from transforms.plan import (
    PACKED_FILES,
    PlanLine,
    ReadPlan,
    cut_spans,
    pack_units,
    read_plan,
    stretches,
    unit_bytes_of,
    write_plan,
)
from transforms.recipe import JSON_DOCUMENT, JSON_LINES
from transforms.storage import open_store

KIB, MIB, GIB = 2**10, 2**20, 2**30
CELL = 256 * KIB


@pytest.mark.parametrize(
    "size, step",
    [
        (0, 4 * MIB),
        (1, 4 * MIB),
        (4_000 * MIB, 4 * MIB),
        (8_000 * MIB, 8 * MIB),
        (64_000 * MIB, 64 * MIB),
        (10**15, 64 * MIB),
    ],
)
def test_the_grid_is_a_thousandth_of_the_file_between_4_and_64_mib(size, step):
    assert unit_bytes_of(size) == step


@settings(deadline=None)
@given(st.integers(0, 10**12), st.none() | st.integers(1, 10**9))
def test_the_grid_lies_on_cells_and_covers_what_was_asked(size, unit_bytes):
    step = unit_bytes_of(size, unit_bytes)
    assert step % CELL == 0 and step > 0
    if unit_bytes is not None:
        assert unit_bytes <= step < unit_bytes + CELL


@settings(deadline=None)
@given(st.integers(0, 200 * MIB), st.none() | st.integers(1, 50 * MIB))
def test_the_spans_of_a_file_tile_it_on_the_grid(size, unit_bytes):
    spans = cut_spans(input_file(size=size), JSON_LINES, unit_bytes)
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == size
    step = unit_bytes_of(size, unit_bytes)
    assert all(span.stop - span.start == step for span in spans[:-1])
    assert len(spans) == 1 or spans[-1].stop > spans[-1].start


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "A.JSONL.GZ", "b.Zst"])
def test_a_compressed_file_is_one_span_however_large(name):
    file = input_file(name, size=GIB)
    assert cut_spans(file, JSON_LINES, MIB) == [Span(file, 0, GIB)]


def test_a_document_is_one_span_however_large():
    file = input_file(size=GIB)
    assert cut_spans(file, JSON_DOCUMENT, MIB) == [Span(file, 0, GIB)]
    assert len(cut_spans(file, JSON_LINES, MIB)) == 1024


files = st.lists(st.integers(0, 3 * MIB), max_size=30).map(
    lambda sizes: [input_file(f"{i:03}", size) for i, size in enumerate(sizes)]
)


@settings(deadline=None)
@given(files, st.integers(1, 2 * MIB))
def test_packing_loses_nothing_and_keeps_the_limit(found, unit_bytes):
    spans = [span for file in found for span in cut_spans(file, JSON_LINES, unit_bytes)]
    units = pack_units(spans, unit_bytes)
    packed = [span for unit in units for span in unit.spans]
    assert sorted(map(repr, packed)) == sorted(map(repr, spans))
    limit = unit_bytes_of(0, unit_bytes)
    for unit in units:
        assert unit.size <= limit
        if len(unit.spans) > 1:
            assert all(span.is_whole_file for span in unit.spans)
    firsts = [(unit.spans[0].file.output, unit.spans[0].start) for unit in units]
    assert firsts == sorted(firsts)


@settings(deadline=None)
@given(files, st.integers(1, 2 * MIB))
def test_two_neighbouring_packs_would_not_fit_into_one(found, unit_bytes):
    spans = [span for file in found for span in cut_spans(file, JSON_LINES, unit_bytes)]
    packs = [u for u in pack_units(spans, unit_bytes) if all(s.is_whole_file for s in u.spans)]
    limit = unit_bytes_of(0, unit_bytes)
    for pack, after in pairwise(packs):
        assert pack.size + after.spans[0].stop > limit


def test_a_pack_has_a_bounded_number_of_files():
    spans = [Span(input_file(f"{i:05}", 1), 0, 1) for i in range(2 * PACKED_FILES + 1)]
    assert [len(unit.spans) for unit in pack_units(spans)] == [PACKED_FILES, PACKED_FILES, 1]


def test_a_large_compressed_file_is_a_unit_of_its_own():
    small, large = input_file("a", 10), input_file("b.gz", GIB)
    last = input_file("c", 10)
    units = pack_units([Span(f, 0, f.size) for f in (small, large, last)])
    names = [[span.file.name for span in unit.spans] for unit in units]
    assert names == [["a", "c"], ["b.gz"]]


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 12))
def test_stretches_are_neighbours_in_order(sizes, count):
    units = [Unit((Span(input_file(f"{i:03}", size), 0, size),)) for i, size in enumerate(sizes)]
    runs = stretches(units, count)
    assert [unit for run in runs for unit in run] == units
    assert len(runs) <= count and all(runs)
    fair = (sum(sizes) + len(sizes)) / max(1, min(count, len(units)))
    assert all(sum(u.size + 1 for u in run[:-1]) <= fair + 1 for run in runs)


def test_stretches_of_equal_units_are_equal():
    units = [Unit((Span(input_file(f"{i}", 100), 0, 100),)) for i in range(8)]
    assert [len(run) for run in stretches(units, 4)] == [2, 2, 2, 2]
    assert [len(run) for run in stretches(units, 100)] == [1] * 8
    assert [len(run) for run in stretches(units, 1)] == [8]


def a_plan() -> list[PlanLine]:
    odd = input_file('new\nline "ö" #.jsonl', 10)
    spans = spans_of(input_file(size=3 * MIB), MIB, 2 * MIB)
    return [
        PlanLine(units=(Unit((spans[0],)), Unit((spans[1],)))),
        PlanLine(units=(Unit((Span(odd, 0, 10), spans[2])),)),
        PlanLine(done=(manifest(spans[0]),)),
        PlanLine(),
    ]


def test_a_plan_reads_back_as_it_was_written(tmp_path):
    lines = a_plan()
    write_plan(str(tmp_path), "_o2v/tmp/plan", lines)
    assert list(read_plan(str(tmp_path), "_o2v/tmp/plan")) == lines


def test_a_plan_of_many_megabytes_reads_back(tmp_path):
    many = [PlanLine(units=(Unit(tuple(spans_of(input_file("x" * 200), 50))),))] * 20_000
    write_plan(str(tmp_path), "plan", many)
    assert (tmp_path / "plan").stat().st_size > 8 * MIB  # it is read in steps of that
    assert sum(line == many[0] for line in read_plan(str(tmp_path), "plan")) == 20_000


def test_a_plan_that_a_worker_does_not_see_is_an_error_and_no_empty_job(tmp_path):
    with pytest.raises(StorageError, match=r"lacks the run's plan, plan; does every worker see"):
        list(read_plan(str(tmp_path), "plan"))


def test_the_plan_step_gives_every_line_once(tmp_path):
    lines = a_plan()
    write_plan(str(tmp_path), "plan", lines)
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | ReadPlan(str(tmp_path), "plan") | beam.Map(repr)
        assert_that(found, equal_to([repr(line) for line in lines]))


def covered(units: list[Unit], agenda: Agenda, file) -> list[tuple[int, int]]:
    """The spans of a file, to do and kept, in order."""
    todo = [s for unit in units for s in unit.spans if s.file == file]
    kept = [m.span for m in agenda.kept if m.span.file == file]
    return sorted((span.start, span.stop) for span in todo + kept)


def test_what_is_kept_is_not_done_again():
    file = input_file(size=10 * MIB)
    spans = cut_spans(file, JSON_LINES, MIB)
    agenda = Agenda([file], kept=[manifest(spans[2]), manifest(spans[7])])
    units = units_left(agenda, MIB, JSON_LINES)
    assert [u.spans for u in units] == [(s,) for i, s in enumerate(spans) if i not in (2, 7)]


def test_a_file_that_is_kept_whole_leaves_no_unit():
    small, empty = input_file("a"), input_file("b", size=0)
    agenda = Agenda(
        [small, empty], kept=[manifest(Span(small, 0, 100)), manifest(Span(empty, 0, 0))]
    )
    assert units_left(agenda, None, JSON_LINES) == []


@settings(deadline=None)
@given(
    st.integers(1, 60 * CELL),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sets(st.integers(0, 59), max_size=10),
)
def test_another_unit_size_leaves_no_gap_and_no_overlap(size, before, after, done):
    file = input_file(size=size)
    old = cut_spans(file, JSON_LINES, before * CELL)
    kept = [span for i, span in enumerate(old) if i in done]
    agenda = Agenda([file], kept=[manifest(span) for span in kept])
    units = units_left(agenda, after * CELL, JSON_LINES)
    edges = covered(units, agenda, file)
    assert edges[0][0] == 0 and edges[-1][1] == size
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    for unit in units:
        assert all(span.start % CELL == 0 for span in unit.spans)
        assert unit.size <= after * CELL


def test_gaps_of_one_file_do_not_care_for_another():
    file, other = input_file("a", 4 * MIB), input_file("b", 4 * MIB)
    agenda = Agenda([file, other], kept=[manifest(Span(other, 0, 2 * MIB))])
    cut = cut_spans(file, JSON_LINES, MIB)
    assert gaps(file, agenda, cut) == cut


def test_the_plan_is_part_of_the_output_and_not_of_this_machine(tmp_path):
    write_plan((tmp_path / "out").as_uri(), "_o2v/tmp/plan", a_plan())
    assert [s.name for s in open_store(str(tmp_path / "out")).list()] == ["_o2v/tmp/plan"]
