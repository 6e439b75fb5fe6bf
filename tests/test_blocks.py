"""Blocks: lines are whole, none is lost, and the grid alone decides where they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.blocks import Lines, cut_lines


def cut(
    data: bytes, start: int, stop: int | None, limit: int, cell: int, chunk: int
) -> list[Lines]:
    begin = max(start - 1, 0)
    chunks = (data[i : i + chunk] for i in range(begin, len(data), chunk))
    return list(cut_lines(chunks, start=start, stop=stop, max_line_bytes=limit, cell_bytes=cell))


def by_hand(data: bytes, start: int, stop: int, limit: int) -> list[tuple[int, bytes]]:
    """(offset, line without newline, cut at limit + 1) of the lines that begin in the span."""
    lines, offset = [], 0
    for line in data.split(b"\n"):
        if start <= offset < stop and offset < len(data):
            lines.append((offset, line[: limit + 1]))
        offset += len(line) + 1
    return lines


def lines_of(blocks: list[Lines]) -> list[tuple[int, bytes]]:
    lines = []
    for block in blocks:
        offset = block.offset
        for line in block.data.removesuffix(b"\n").split(b"\n"):
            lines.append((offset, line))
            offset += len(line) + 1
    return lines


files = st.lists(st.sampled_from([b"", b"a", b"bb", b"cccc", b"d" * 9, b"e" * 30]), max_size=12)


@given(files, st.booleans(), st.integers(1, 7), st.integers(1, 9), st.integers(1, 12), st.data())
def test_every_line_is_in_the_span_of_its_first_byte(parts, newline, cell, chunk, limit, data):
    text = b"\n".join(parts) + (b"\n" if newline and parts else b"")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text) // cell), max_size=3)))
    edges = [0, *(c * cell for c in cuts), len(text)]
    found = []
    for start, stop in pairwise(edges):
        blocks = cut(text, start, stop, limit, cell, chunk)
        assert all(start <= b.offset < stop for b in blocks)
        found += lines_of(blocks)
    assert found == by_hand(text, 0, len(text), limit)


@given(files, st.integers(1, 7), st.integers(1, 9))
def test_cells_end_where_the_grid_says_whatever_the_chunks(parts, cell, chunk):
    text = b"\n".join(parts)
    blocks = cut(text, 0, None, 100, cell, chunk)
    assert blocks == cut(text, 0, None, 100, cell, 1000)
    assert all(block.ends_cell for block in blocks)
    assert len({block.offset // cell for block in blocks}) == len(blocks)


def test_a_long_line_is_cut_and_offsets_after_it_are_true():
    blocks = cut(b"ab\n" + b"x" * 1000 + b"\ncd\n", 0, None, 5, 10_000, 7)
    assert [(b.offset, b.data, b.ends_cell) for b in blocks] == [
        (0, b"ab\nxxxxxx\n", False),
        (1004, b"cd\n", True),
    ]


def test_a_file_without_newlines_is_never_held_in_memory():
    made = 0

    def chunks():
        nonlocal made
        for _ in range(1000):
            made += 1
            yield b"x" * 1000

    blocks = list(cut_lines(chunks(), start=0, stop=None, max_line_bytes=50, cell_bytes=100))
    assert made == 1000
    assert [(b.offset, len(b.data), b.ends_cell) for b in blocks] == [(0, 52, True)]


@pytest.mark.parametrize("limit, refused", [(9, True), (10, False)])
def test_the_limit_is_on_the_line_without_its_newline(limit, refused):
    (offset, line), *_ = lines_of(cut(b"0123456789\nab\n", 0, None, limit, 64, 3))
    assert (offset, len(line) > limit) == (0, refused)
