"""Comparator, hidden layers and output layer against their definition."""

import itertools

import numpy as np
import pytest
from definitions import encoder, model_of, score_slowly, some_sequences

from object2vec.engine import Engine
from object2vec.tokens import PAIR, TokenBatch

SIDES = (encoder("pooled_embedding"), encoder("hcnn", layers=2))
NAMES = ("hadamard", "concat", "abs_diff")
COMPARATORS = [c for n in (1, 2, 3) for c in itertools.permutations(NAMES, n)]


def check(model):
    first, second = some_sequences(20, seed=1), some_sequences(20, seed=2)
    actual = model.score(first, second)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, score_slowly(model, first, second), rtol=1e-5, atol=1e-5)
    return actual


@pytest.mark.parametrize("comparators", COMPARATORS, ids=",".join)
def test_every_ordered_choice_of_comparators(comparators):
    check(model_of(*SIDES, comparator_list=comparators, mlp_layers=1, mlp_dim=9))


@pytest.mark.parametrize("activation", ["tanh", "relu", "linear"])
@pytest.mark.parametrize("layers", [0, 1, 2, 10])
def test_every_depth_and_activation(layers, activation):
    check(model_of(*SIDES, mlp_layers=layers, mlp_dim=9, mlp_activation=activation))


@pytest.mark.parametrize("num_classes", [2, 7, 30])
def test_softmax_gives_a_probability_to_each_class(num_classes):
    scores = check(model_of(*SIDES, num_classes=num_classes))
    assert scores.shape == (20, num_classes)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_a_regression_gives_one_number_of_any_size():
    scores = check(model_of(*SIDES, output_layer="mean_squared_error", num_classes=5))
    assert scores.shape == (20, 1)
    assert len(np.unique(scores)) > 10  # a softmax of one number would be 1


def test_tied_encoders_read_one_table():
    pooled = encoder("pooled_embedding")
    model = model_of(pooled, tied_token_embedding_weight=True)
    check(model)
    assert model.encode([[3, 4]], 0).tolist() == model.encode([[3, 4]], 1).tolist()
    untied = model_of(pooled)
    assert untied.encode([[3, 4]], 0).tolist() != untied.encode([[3, 4]], 1).tolist()


@pytest.mark.parametrize("output", ["softmax", "mean_squared_error"])
@pytest.mark.parametrize("mlp_dim", [7, 512])
def test_no_bit_depends_on_neighbours_order_batch_size_or_threads(mlp_dim, output):
    model = model_of(*SIDES, mlp_dim=mlp_dim, output_layer=output)
    sequences = [ids[:30] for ids in some_sequences(600)]
    pairs = list(zip(sequences[:300], sequences[300:], strict=True))
    expected = model.score(*zip(*pairs, strict=True))

    def score(engine, numbers):
        flat = [sequence for i in numbers for sequence in pairs[i]]
        return engine.encode(TokenBatch.build(flat, [PAIR] * len(numbers), numbers)).vectors[PAIR]

    for threads in (1, 2):
        engine = Engine(model, device="cpu", threads=threads)
        for size in (1, 7, 64, 300):
            for start in range(0, 300 if size > 7 else 21, size):
                numbers = range(start, min(start + size, 300))
                assert score(engine, numbers).tobytes() == expected[numbers].tobytes()
        shuffled = np.random.default_rng(0).permutation(300)
        assert score(engine, shuffled).tobytes() == expected[shuffled].tobytes()
