"""Ragged batches: cutting and joining loses nothing."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from object2vec.tokens import IN0, IN1, PAIR, TokenBatch

sequence = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5)
record = st.one_of(
    st.tuples(st.sampled_from([IN0, IN1]), st.tuples(sequence)),
    st.tuples(st.just(PAIR), st.tuples(sequence, sequence)),
)


def batch_of(records):
    flat = [ids for _, sequences in records for ids in sequences]
    return TokenBatch.build(flat, [kind for kind, _ in records], range(100, 100 + len(records)))


def read_back(batch):
    """Records as they were put in, and their offsets."""
    starts = batch.starts_S1.tolist()
    sequences = iter(batch.values_N[a:b].tolist() for a, b in itertools.pairwise(starts))
    records = [
        (kind, tuple(next(sequences) for _ in range(2 if kind == PAIR else 1)))
        for kind in batch.kinds_R.tolist()
    ]
    assert next(sequences, None) is None
    return records, batch.offsets_R.tolist()


@given(st.lists(record, max_size=12))
def test_records_read_back(records):
    batch = batch_of(records)
    assert read_back(batch) == (records, list(range(100, 100 + len(records))))
    assert batch.num_records == len(records)
    assert batch.num_sequences == sum(len(s) for _, s in records)
    assert batch.num_tokens == sum(len(ids) for _, s in records for ids in s)
    assert batch.lengths_S.tolist() == [len(ids) for _, s in records for ids in s]
    assert batch.values_N.dtype == np.int32
    assert batch.starts_S1.dtype == batch.offsets_R.dtype == np.int64


@given(st.lists(record, max_size=12))
def test_each_sequence_knows_its_side(records):
    expected = [side for kind, _ in records for side in ([IN0, IN1] if kind == PAIR else [kind])]
    assert batch_of(records).sides_S.tolist() == expected


@given(st.lists(record, max_size=12), st.data())
def test_pieces_joined_are_the_whole(records, data):
    cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=4).map(sorted))
    edges = [0, *cuts, len(records)]
    batch = batch_of(records)
    pieces = [batch.rows(a, b) for a, b in itertools.pairwise(edges)]
    for piece, a, b in zip(pieces, edges, edges[1:], strict=False):
        assert read_back(piece) == (records[a:b], list(range(100 + a, 100 + b)))
    assert read_back(TokenBatch.concatenate(pieces)) == read_back(batch)


def test_rows_are_no_copy():
    batch = TokenBatch.of([[1, 2], [3]], side=1)
    assert np.shares_memory(batch.rows(1, 2).values_N, batch.values_N)


def test_nothing_joined_is_an_empty_batch():
    batch = TokenBatch.concatenate([])
    assert read_back(batch) == ([], [])
    assert batch.values_N.dtype == np.int32
    assert batch.kinds_R.dtype == np.uint8


@pytest.mark.parametrize("side", [2, -1])
def test_there_are_two_sides(side):
    with pytest.raises(ValueError, match="must be 0 or 1"):
        TokenBatch.of([[1]], side)


def test_an_id_of_more_than_32_bits_is_refused():
    with pytest.raises(OverflowError):
        TokenBatch.of([[2**31]], 0)
