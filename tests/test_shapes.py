"""Canonical shapes against brute force."""

import itertools

import numpy as np
import pytest
from definitions import encode_slowly, encoder, model_of
from hypothesis import given
from hypothesis import strategies as st

from object2vec import ModelConfig, Object2Vec
from object2vec.shapes import (
    STEPS,
    num_positions_needed,
    plan_runs,
    rows_per_run,
    scorer_rows,
)


def test_the_steps_are_those_of_the_design():
    assert list(STEPS) == [
        8,
        16,
        24,
        32,
        48,
        64,
        96,
        128,
        192,
        256,
        384,
        512,
        768,
        *(1024, 1536, 2048, 3072, 4096),
    ]


def canonical_length(needed, max_len):
    return min(step for step in (*STEPS, max_len) if needed <= step <= max_len)


@pytest.mark.parametrize("max_len", [1, 7, 8, 9, 30, 100, 128, 4096, 5000])
def test_the_length_of_a_run_is_the_smallest_step_or_the_longest_allowed(max_len):
    for needed in {0, 1, max_len, *range(0, max_len + 1, max(1, max_len // 200))}:
        (run,) = plan_runs(np.array([needed]), max_len)
        assert run.length == canonical_length(needed, max_len)


@pytest.mark.parametrize("needed", [-1, 31])
def test_a_need_beyond_the_longest_is_refused(needed):
    with pytest.raises(ValueError, match="30 are allowed"):
        list(plan_runs(np.array([3, needed]), 30))


@pytest.mark.parametrize(
    ("length", "halvings", "rows"),
    [
        (1, 0, 4096),
        (8, 0, 512),
        (24, 0, 168),
        (30, 0, 136),
        (100, 0, 40),
        (512, 0, 8),
        (513, 0, 8),
        (5000, 0, 8),
        (24, 1, 80),
        (24, 2, 40),
        (24, 3, 16),
        (24, 4, 8),
        (24, 9, 8),
    ],
)
def test_rows_of_a_run(length, halvings, rows):
    assert rows_per_run(length, halvings) == rows


def test_rows_of_a_run_of_the_scorer():
    assert [scorer_rows(halvings) for halvings in range(7)] == [256, 128, 64, 32, 16, 8, 8]


@given(
    needed=st.lists(st.integers(0, 60), max_size=80),
    max_len=st.integers(60, 70),
    halvings=st.integers(0, 12),
)
def test_each_sequence_is_in_one_run_that_its_own_need_determines(needed, max_len, halvings):
    runs = list(plan_runs(np.array(needed, np.int64), max_len, halvings))
    assert sorted(i for run in runs for i in run.members.tolist()) == list(range(len(needed)))
    for run in runs:
        assert {canonical_length(needed[i], max_len) for i in run.members} == {run.length}
        assert run.num_rows == rows_per_run(run.length, halvings)
        assert 1 <= len(run.members) <= run.num_rows
        assert run.members.tolist() == sorted(run.members)
    # Only the last run of a length may have rows to spare.
    for run, following in itertools.pairwise(runs):
        assert run.length <= following.length
        assert run.length < following.length or len(run.members) == run.num_rows


@pytest.mark.parametrize("width", range(1, 10))
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_hcnn_needs_no_more_positions_than_we_say(layers, width):
    """At that many positions the definition gives what it gives at the longest, and beyond."""
    for padding in range(width):
        config = encoder(
            "hcnn",
            token_embedding_dim=2,
            enc_dim=12,
            layers=layers,
            cnn_filter_width=width,
            cnn_padding=padding,
            max_seq_len=48,
        )
        model = model_of(config, seed=padding)
        for length in (0, 1, 6):
            needed = int(num_positions_needed(np.array([length]), config, 48)[0])
            assert needed == length + layers * (width - 1) - padding + 1
            ids = [list(range(1, length + 1))]
            expected = encode_slowly(model, ids)
            for longest in (needed, 53):
                actual = encode_slowly(model, ids, max_seq_len=longest)
                np.testing.assert_allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("width", range(1, 10))
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_hcnn_with_one_position_fewer_would_give_something_else(layers, width):
    """Where tokens only take away, the maximum is at a position that sees padding alone."""
    for padding in range(width):
        config = encoder(
            "hcnn", layers=layers, cnn_filter_width=width, cnn_padding=padding, max_seq_len=60
        )
        weights = {name: abs(tensor) for name, tensor in model_of(config).weights().items()}
        weights["encoders.0.embedding"].neg_()
        for layer in range(layers):
            weights[f"encoders.0.convolutions.{layer}.bias"] += 1
        model = Object2Vec.from_weights(ModelConfig((config, config)), weights)
        needed = int(num_positions_needed(np.array([2]), config, 60)[0])
        fewer = encode_slowly(model, [[1, 2]], max_seq_len=needed - 1)
        assert (fewer < encode_slowly(model, [[1, 2]]) - 1e-3).any()


def test_too_few_positions_would_be_noticed():
    """The margin is not there for nothing: without it hcnn gives other values."""
    model = model_of(encoder("hcnn", max_seq_len=90))
    ids = [[1, 2, 3]]
    assert abs(encode_slowly(model, ids, max_seq_len=3) - encode_slowly(model, ids)).max() > 1e-3


def test_the_need_is_capped_and_other_encoders_need_their_own_length():
    lengths = np.array([0, 5, 28, 30])
    assert num_positions_needed(lengths, encoder("hcnn"), 30).tolist() == [8, 13, 30, 30]
    assert num_positions_needed(lengths, encoder("bilstm"), 30).tolist() == [0, 5, 28, 30]


def test_a_padded_bilstm_of_several_layers_needs_all_of_it():
    lengths = np.array([0, 5, 30])
    padded = encoder("bilstm", reads_padding=True)
    assert num_positions_needed(lengths, padded, 30).tolist() == [0, 5, 30]
    padded = encoder("bilstm", reads_padding=True, layers=2)
    assert num_positions_needed(lengths, padded, 40).tolist() == [40] * 3
