"""Each encoder against its definition, and against itself in other company."""

import numpy as np
import pytest
import torch
from definitions import encode_slowly, encoder, model_of, some_sequences

from object2vec import Object2Vec
from object2vec.engine import Engine
from object2vec.tokens import TokenBatch

KINDS = {
    "pooled": encoder("pooled_embedding"),
    "pooled, padding id 7": encoder("pooled_embedding", padding_id=7),
    **{f"hcnn, {n} layers": encoder("hcnn", layers=n) for n in (1, 2, 3, 4)},
    **{f"hcnn, width {w}": encoder("hcnn", layers=2, cnn_filter_width=w) for w in range(1, 10)},
    "hcnn, 3 layers, width 4": encoder("hcnn", layers=3, cnn_filter_width=4),
    "hcnn that shrinks": encoder("hcnn", layers=3, cnn_filter_width=4, cnn_padding=1),
    "hcnn that grows": encoder("hcnn", layers=3, cnn_filter_width=4, cnn_padding=3),
    "hcnn without zeros": encoder("hcnn", layers=2, cnn_filter_width=3, cnn_padding=0),
    "hcnn, one filter a layer": encoder("hcnn", layers=4, enc_dim=4),
    "hcnn, padding id 7": encoder("hcnn", padding_id=7),
    **{f"bilstm, {n} layers": encoder("bilstm", layers=n) for n in (1, 2, 3, 4)},
    "bilstm, padding id 7": encoder("bilstm", padding_id=7),
    "padded bilstm": encoder("bilstm", reads_padding=True),
    "padded bilstm, padding id 7": encoder("bilstm", reads_padding=True, padding_id=7),
    "padded bilstm, 2 layers": encoder("bilstm", reads_padding=True, layers=2),
    "padded bilstm, 3 layers": encoder("bilstm", reads_padding=True, layers=3),
}
# Lengths 0, 1, the longest, one more, and all those at which a run's length changes.
LENGTHS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 20, 22, 23, 24, 25, 28, 29, 30, 31, 45)


@pytest.fixture(params=KINDS)
def model(request):
    return model_of(KINDS[request.param])


def test_an_encoder_does_what_its_definition_says(model):
    rng = np.random.default_rng(1)
    sequences = [rng.integers(1, 50, n).tolist() for n in LENGTHS]
    sequences += [[0], [0, 0, 0], [5, 0, 6], [0, 5, 6], [5, 6, 0], [7], [5, 7, 7, 6], [49]]
    for side in (0, 1):
        actual = model.encode(sequences, side)
        assert actual.dtype == np.float32
        assert actual.flags.c_contiguous
        np.testing.assert_allclose(
            actual, encode_slowly(model, sequences, side), rtol=1e-5, atol=1e-5
        )


def test_a_longest_length_of_the_callers_own_is_the_one_that_counts(model):
    sequences = some_sequences(20)
    for max_len in (40, 1, 5, 64):
        max_len = max(max_len, model.config.encoders[0].min_seq_len)
        np.testing.assert_allclose(
            model.encode(sequences, max_seq_len=max_len),
            encode_slowly(model, sequences, max_seq_len=max_len),
            rtol=1e-5,
            atol=1e-5,
        )


def test_no_bit_depends_on_neighbours_order_batch_size_or_threads(model):
    sequences = [ids[:30] for ids in some_sequences(150)]
    expected = model.encode(sequences)
    engines = [Engine(model, device="cpu", threads=threads) for threads in (1, 2)]

    def encode(engine, numbers):
        return engine.encode(TokenBatch.of([sequences[i] for i in numbers], 0)).vectors[0]

    for engine in engines:
        for size in (1, 7, 64, 150):
            for start in range(0, 150 if size > 1 else 30, size):
                numbers = range(start, min(start + size, 150))
                assert_same_bits(encode(engine, numbers), expected[start : start + size])
        shuffled = np.random.default_rng(2).permutation(150)
        assert_same_bits(encode(engine, shuffled), expected[shuffled])
        assert_same_bits(encode(engine, [5] * 100), expected[[5] * 100])


@pytest.mark.parametrize(
    "config",
    [
        encoder("hcnn", layers=1, enc_dim=301, token_embedding_dim=7),
        encoder("hcnn", layers=1, enc_dim=512, token_embedding_dim=300),
        encoder("bilstm", enc_dim=14, token_embedding_dim=3),
        encoder("bilstm", enc_dim=256, token_embedding_dim=33),
        encoder("pooled_embedding", enc_dim=301, token_embedding_dim=301),
    ],
    ids=lambda config: f"{config.network} {config.token_embedding_dim} {config.enc_dim}",
)
def test_no_bit_depends_on_neighbours_at_other_widths(config):
    model = model_of(config)
    sequences = some_sequences(40, longest=20)
    expected = model.encode(sequences)
    for i in range(0, 40, 4):
        assert_same_bits(model.encode([sequences[i]]), expected[i : i + 1])
    assert_same_bits(model.encode(sequences[::-1]), expected[::-1])


def test_the_number_of_threads_of_torch_changes_no_bit_and_stays(model):
    sequences = some_sequences(20)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(model.encode(sequences))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_the_empty_sequence_and_only_padding_are_zero_for_pooled():
    vectors = model_of(encoder("pooled_embedding")).encode([[], [0], [0, 0, 0]])
    assert vectors.tobytes() == bytes(3 * 12 * 4)  # 0.0, never -0.0


def test_the_empty_sequence_and_only_padding_are_one_constant_for_hcnn():
    vectors = model_of(encoder("hcnn")).encode([[], [0], [0, 0, 0]])
    assert vectors.max() > 0
    assert_same_bits(vectors[[1, 2]], vectors[[0, 0]])


def test_the_empty_sequence_and_only_padding_are_zero_for_bilstm():
    vectors = model_of(encoder("bilstm")).encode([[], [0], [0, 0, 0]])
    assert not vectors.any()


def test_bilstm_does_not_read_padding_at_the_end_but_steps_through_it_between_tokens():
    vectors = model_of(encoder("bilstm")).encode([[3, 4], [3, 4, 0, 0], [3, 0, 4]])
    assert_same_bits(vectors[[0]], vectors[[1]])
    assert (vectors[0] != vectors[2]).any()


def test_a_padded_bilstm_reads_padding_but_not_what_says_the_same():
    model = model_of(encoder("bilstm", reads_padding=True))
    vectors = model.encode([[3, 4], [3, 4, 0, 0], [3, 0, 4], [0, 0], []])
    assert_same_bits(vectors[[0]], vectors[[1]])
    assert (vectors[0] != vectors[2]).any()
    assert vectors[3:].tobytes() == bytes(2 * 12 * 4)
    assert (model.encode([[3, 4]], max_seq_len=20) != vectors[0]).any()


def test_what_was_asked_before_changes_no_bit_of_a_padded_bilstm():
    """The states after padding are made once for all lengths, in whatever order."""
    config, sequences = encoder("bilstm", reads_padding=True), some_sequences(30)
    lengths = (9, 300, 30, 10)
    models = model_of(config), model_of(config)
    forth = [models[0].encode(sequences, max_seq_len=n) for n in lengths]
    back = [models[1].encode(sequences, max_seq_len=n) for n in lengths[::-1]]
    for one, other in zip(forth, back[::-1], strict=True):
        assert_same_bits(one, other)
    states = [model.encoders_on("cpu")[0]._states._table_K2H for model in models]
    assert len(states[0]) == len(states[1]) == 301


CLIPPING = {
    "pooled": ("pooled_embedding", {}),
    "hcnn": ("hcnn", {}),
    "bilstm": ("bilstm", {}),
    "padded bilstm": ("bilstm", {"reads_padding": True}),
}


@pytest.mark.parametrize("padding_id", [0, 49, 7])
@pytest.mark.parametrize("kind", CLIPPING)
def test_a_clipped_id_is_a_token_even_where_its_row_is_that_of_padding(kind, padding_id):
    network, changes = CLIPPING[kind]
    config = encoder(network, out_of_range="clip", padding_id=padding_id, **changes)
    model = model_of(config)
    sequences = [[-1], [50], [3, -9, 4], [3, 2**40, 4], [5, 0], [5, 49], [-1, 50] * 10, [5, -1]]
    actual = model.encode(sequences)
    expected = encode_slowly(model, sequences)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    for i, ids in enumerate(sequences):
        assert_same_bits(model.encode([ids]), actual[[i]])
    # The row of padding is not zero in these tables: it is read, and it counts.
    padding, clipped = model.encode([[padding_id], [50 if padding_id else -1]])
    assert (padding != clipped).any()


def test_there_is_no_minus_zero():
    """It would be the sign of a rounding error: here, half of the smallest number below 0."""
    model = model_of(encoder("bilstm"))
    weights = {name: torch.zeros_like(weight) for name, weight in model.weights().items()}
    for direction in ("forwards", "backwards"):
        bias = weights[f"encoders.0.{direction}.0.bias_ih_l0"]
        bias[:6] = 100.0  # gate i lets everything through, gate o half of it
        bias[12:18] = -1e-45  # gate g
    vectors = Object2Vec.from_weights(model.config, weights).encode([[1]])
    assert vectors.tobytes() == bytes(12 * 4)


def assert_same_bits(actual, expected):
    assert actual.shape == expected.shape
    different = np.flatnonzero((actual.view(np.int32) != expected.view(np.int32)).any(axis=1))
    assert not len(different), f"rows {different[:5]} of {len(actual)} differ"
