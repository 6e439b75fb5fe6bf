"""Pieces of parts: which bytes go into which part of an upload."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.multipart import MAX_PART_BYTES, multipart_etag, plan_parts
from transforms.objects import ObjectStore
from transforms.storage import Piece, merge_pieces

pytest_plugins = ("s3_server",)
MIB = 1 << 20


def bytes_of(pieces: list[Piece]) -> list[tuple[str, int]]:
    return [(p.part, p.offset + k) for p in pieces for k in range(p.length)]


some_pieces = st.lists(
    st.builds(Piece, st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 30)), max_size=12
)


@given(some_pieces)
def test_merged_pieces_are_the_same_bytes(pieces: list[Piece]) -> None:
    merged = merge_pieces(pieces)
    assert bytes_of(merged) == bytes_of(pieces)
    assert all(piece.length for piece in merged)
    for a, b in itertools.pairwise(merged):
        assert (a.part, a.offset + a.length) != (b.part, b.offset)


def test_a_piece_has_no_negative_size() -> None:
    for piece in (Piece("a", -1, 2), Piece("a", 0, -1)):
        with pytest.raises(ValueError, match="before its part"):
            merge_pieces([piece])


@given(some_pieces, st.integers(1, 20))
def test_planned_parts_are_the_same_bytes_and_large_enough(
    pieces: list[Piece], minimum: int
) -> None:
    pieces = merge_pieces(pieces)
    parts = plan_parts(pieces, minimum)
    assert bytes_of([piece for part in parts for piece in part]) == bytes_of(pieces)
    sizes = [sum(piece.length for piece in part) for part in parts]
    for part, size in list(zip(parts, sizes, strict=True))[:-1]:
        assert size == minimum or (len(part) == 1 and size > minimum)
    assert all(sizes)


def test_parts_stay_within_what_s3_takes() -> None:
    tib = 1 << 40
    parts = plan_parts([Piece("a", 0, 4 * tib + 1), Piece("b", 0, 1)], 5 * MIB)
    sizes = [sum(piece.length for piece in part) for part in parts]
    assert sum(sizes) == 4 * tib + 2
    assert max(sizes) <= MAX_PART_BYTES
    assert len(parts) < 1000
    pieces = [Piece(str(k), 0, 5 * MIB) for k in range(30_000)]
    total = 30_000 * 5 * MIB
    assert len(plan_parts(pieces, total // 9_000)) <= 10_000


def test_the_etag_of_an_upload_is_foreseen(s3_store: str) -> None:
    store = ObjectStore(s3_store)
    store.put("p", bytes(6 * MIB))
    store.publish("a", [Piece("p", 0, 6 * MIB), Piece("p", 0, 1)], "tmp")
    whole, byte = store.stat("p"), store.swap("b", b"\0", None)
    found = store.stat("a")
    assert whole
    assert byte
    assert found
    assert multipart_etag([whole.version, byte]) == found.version
    assert multipart_etag(["not hex"]) == ""
