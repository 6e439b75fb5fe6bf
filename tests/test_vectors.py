"""What was written reads back equal, bit by bit."""

import json

import numpy as np
import pytest

from object2vec.tokens import IN0, IN1, PAIR
from object2vec.vectors import Encoded, to_json_rows


def encoded(kinds, in0=(), in1=(), pair=()):
    matrices = [np.array(m, np.float32).reshape(len(m), -1 if m else 2) for m in (in0, in1, pair)]
    return Encoded(np.array(kinds, np.uint8), tuple(matrices))


def of_in0(matrix):
    none = np.empty((0, 1), np.float32)
    return Encoded(np.zeros(len(matrix), np.uint8), (matrix, none, none))


def read_back(rows, key="embeddings"):
    return np.array([json.loads(row)[key] for row in rows], np.float64).astype(np.float32)


def test_an_embedding_reads_as_in_sagemakers_page():
    assert to_json_rows(encoded([IN0], in0=[[0.5, -1.0]])) == [b'{"embeddings":[0.5,-1.0]}']


def test_a_pair_has_scores():
    assert to_json_rows(encoded([PAIR], pair=[[0.25, 0.75]])) == [b'{"scores":[0.25,0.75]}']


def test_rows_of_mixed_kinds_stand_in_the_order_of_their_records():
    kinds = [PAIR, IN1, IN0, IN1, PAIR, IN0]
    rows = to_json_rows(encoded(kinds, [[1], [2]], [[3, 3], [4, 4]], [[5], [6]]))
    assert rows == [
        b'{"scores":[5.0]}',
        b'{"embeddings":[3.0,3.0]}',
        b'{"embeddings":[1.0]}',
        b'{"embeddings":[4.0,4.0]}',
        b'{"scores":[6.0]}',
        b'{"embeddings":[2.0]}',
    ]


def test_no_records_give_no_rows():
    assert to_json_rows(encoded([])) == []


def test_a_million_random_bit_patterns_read_back_equal():
    bits = np.random.default_rng(20260101).integers(0, 2**32, 1_000_000, np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    values = values[: len(values) // 250 * 250].reshape(-1, 250)
    assert (np.abs(values[values != 0]) < np.finfo(np.float32).tiny).any(), "denormals, too"
    assert (read_back(to_json_rows(of_in0(values))).view(np.uint32) == values.view(np.uint32)).all()


def test_the_edges_of_float32_read_back_equal():
    info = np.finfo(np.float32)
    powers = np.ldexp(np.float32(1), np.arange(-149, 128))
    edges = np.array([info.max, info.min, info.tiny, info.smallest_subnormal, 0.1, 1e16])
    near = np.float32(np.concatenate([powers, edges]))
    values = np.stack([near, -near, np.nextafter(near, np.float32(0)) + np.float32(0)])
    assert (read_back(to_json_rows(of_in0(values))).view(np.uint32) == values.view(np.uint32)).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, b"0.1"), (1 / 3, b"0.33333334"), (16777216, b"16777216.0"), (5e-324, b"0.0")],
)
def test_the_text_is_the_shortest_that_reads_back(value, text):
    assert to_json_rows(encoded([IN0], [[value]])) == [b'{"embeddings":[' + text + b"]}"]


def test_minus_zero_is_written_as_zero_wherever_it_stands():
    values = np.full((1030, 3), -0.0, np.float32)  # more than two chunks
    rows = to_json_rows(of_in0(values))
    assert rows == [b'{"embeddings":[0.0,0.0,0.0]}'] * 1030
    assert np.signbit(values).all(), "the caller's matrix is left alone"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [IN0, IN1, PAIR])
def test_numbers_that_json_does_not_have_are_refused(value, kind):
    parts = [[], [], []]
    parts[kind] = [[1, 2], [3, value]]
    with pytest.raises(ValueError, match=r"1 of 2 vectors .* record 1"):
        to_json_rows(encoded([kind, kind], *parts))


def test_not_finite_names_the_records():
    batch = encoded([PAIR, IN0, IN1, IN0], [[1], [np.nan]], [[np.inf]], [[0]])
    assert batch.not_finite().tolist() == [2, 3]
    assert encoded([IN0], [[1]]).not_finite().tolist() == []


def test_a_vector_does_not_depend_on_memory_order():
    values = np.random.default_rng(1).standard_normal((600, 7)).astype(np.float32)
    expected = to_json_rows(of_in0(values))
    assert to_json_rows(of_in0(np.asfortranarray(values))) == expected
    assert to_json_rows(of_in0(np.repeat(values, 2, axis=1)[:, ::2])) == expected


def test_rows_are_the_same_records():
    batch = encoded([PAIR, IN1, IN0, IN1, PAIR, IN0], [[1], [2]], [[3], [4]], [[5], [6]])
    rows = to_json_rows(batch)
    for start in range(7):
        for stop in range(start, 7):
            assert batch.rows(start, stop).num_records == stop - start
            assert to_json_rows(batch.rows(start, stop)) == rows[start:stop]


@pytest.mark.parametrize(
    ("kinds", "matrix"),
    [
        ([IN0], np.zeros((2, 3), np.float32)),
        ([IN0], np.zeros((1, 3), np.float64)),
        ([IN0], np.zeros(1, np.float32)),
        ([IN0, 3], np.zeros((1, 3), np.float32)),
    ],
)
def test_matrices_that_do_not_fit_the_records_are_refused(kinds, matrix):
    none = np.empty((0, 3), np.float32)
    with pytest.raises(ValueError, match=r"expected float32|may hold"):
        Encoded(np.array(kinds, np.uint8), (matrix, none, none))
