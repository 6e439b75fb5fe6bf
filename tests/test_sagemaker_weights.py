"""Arrays under our names, the configuration they go with, and what the hyperparameters add."""

import json
from dataclasses import dataclass

import graphs
import numpy as np
import pytest
from graphs import Side, object2vec, random_arrays

from object2vec import EncoderConfig, ModelConfig
from object2vec.errors import ModelError
from object2vec.model import weight_shapes
from object2vec.sagemaker.hyperparameters import max_seq_lens, remarks
from object2vec.sagemaker.network import read_network
from object2vec.sagemaker.symbol import parse_symbol
from object2vec.sagemaker.weights import config_of, weights_of

POOLED, HCNN, BILSTM = Side(), Side("hcnn"), Side("bilstm", layers=2)
MIXED = (Side("hcnn", dim=5, width=4, pad=1, bias=False), Side("bilstm", dim=9, layers=1))


@dataclass
class InMemory:
    """Stands for an array of an artefact; counts how often it is read."""

    array: np.ndarray
    num_reads: int = 0
    is_row_sparse: bool = False

    @property
    def shape(self):
        return self.array.shape

    def float32(self, scratch):
        self.num_reads += 1
        return self.array


def read(*sides, **settings):
    symbol = json.dumps(object2vec(*sides, **settings)).encode()
    return read_network(parse_symbol(symbol, "symbol.json"), "symbol.json")


def imported(*sides, change=None, **settings):
    """Configuration, our weights and the arrays they come from."""
    network = read(*sides, **settings)
    config = config_of(network, (20, 30), "symbol.json")
    arrays = random_arrays(*sides, **settings)
    if change:
        change(arrays)
    stored = {name: InMemory(array) for name, array in arrays.items()}
    return config, weights_of(network, config, stored, "params", None), stored


def test_the_configuration_is_that_of_the_graph():
    settings = {"comparators": ("concat", "hadamard"), "hidden": (7, 7, 7), "classes": 4}
    network = read(*MIXED, activation="tanh", **settings)
    assert config_of(network, (20, 30), "symbol.json") == ModelConfig(
        encoders=(
            EncoderConfig(
                "hcnn",
                50,
                5,
                12,
                20,
                layers=2,
                cnn_filter_width=4,
                cnn_padding=1,
                out_of_range="clip",
            ),
            EncoderConfig(
                "bilstm", 50, 9, 12, 30, layers=1, reads_padding=True, out_of_range="clip"
            ),
        ),
        comparator_list=("concat", "hadamard"),
        mlp_layers=3,
        mlp_dim=7,
        mlp_activation="tanh",
        num_classes=4,
    )


def test_a_table_that_both_sides_read_is_tied():
    sparse = Side(op="_contrib_SparseEmbedding", padding_id=3)
    config, weights, _ = imported(sparse, tied=True)
    assert config.tied_token_embedding_weight
    assert [encoder.out_of_range for encoder in config.encoders] == ["error", "error"]
    assert [encoder.padding_id for encoder in config.encoders] == [3, 3]
    assert "encoders.1.embedding" not in weights


def test_a_regression_has_one_value():
    config, _, _ = imported(POOLED, classes=1, output="LinearRegressionOutput", hidden=())
    assert (config.output_layer, config.num_classes, config.mlp_layers) == (
        "mean_squared_error",
        1,
        0,
    )


@pytest.mark.parametrize(
    ("sides", "settings", "words"),
    [
        ((Side(vocab_size=1),), {}, "vocab_size is 1"),
        ((POOLED,), {"classes": 31}, "num_classes is 31"),
        ((POOLED,), {"hidden": (1,)}, "mlp_dim is 1"),
        ((Side(padding_id=50),), {}, "padding_id is 50"),
        ((Side(padding_id=-1),), {}, "padding_id is -1"),
        ((POOLED, Side(dim=10)), {}, "enc_dim is 12 in encoder 0, 10 in 1"),
        ((POOLED, Side(vocab_size=60)), {"tied": True}, "tied encoders share one table"),
    ],
)
def test_sizes_that_no_training_gives_are_refused(sides, settings, words):
    with pytest.raises(ModelError, match=r"symbol\.json: ") as error:
        config_of(read(*sides, **settings), (20, 30), "symbol.json")
    assert words in str(error.value)


def test_a_length_out_of_range_is_refused():
    with pytest.raises(ModelError, match="max_seq_len is 5001"):
        config_of(read(POOLED), (5001, 1), "symbol.json")


@pytest.mark.parametrize(
    ("sides", "settings"),
    [
        ((POOLED,), {}),
        ((POOLED,), {"tied": True}),
        ((HCNN,), {"hidden": ()}),
        ((BILSTM,), {"comparators": ("hadamard",)}),
        (MIXED, {}),
    ],
)
def test_all_weights_are_there_in_the_shapes_that_a_model_takes(sides, settings):
    config, weights, stored = imported(*sides, **settings)
    assert {name: array.shape for name, array in weights.items()} == weight_shapes(config)
    for array in weights.values():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
    assert all(array.num_reads == 1 for array in stored.values())


def test_each_array_is_under_its_name():
    _, weights, stored = imported(HCNN, POOLED)
    for ours, theirs in {
        "encoders.0.embedding": "embed_0_weight",
        "encoders.0.convolutions.1.weight": "source_1_weight",
        "encoders.0.convolutions.1.bias": "source_1_bias",
        "encoders.1.embedding": "embed_1_weight",
        "scorer.hidden.0.weight": "mlp_fc0_weight",
        "scorer.hidden.1.bias": "mlp_fc1_bias",
        "scorer.output.weight": "output_layer_weight",
        "scorer.output.bias": "output_layer_bias",
    }.items():
        np.testing.assert_array_equal(weights[ours], stored[theirs].array)


def test_a_bias_that_the_graph_does_not_have_is_zero():
    _, weights, _ = imported(*MIXED)
    np.testing.assert_array_equal(weights["encoders.0.convolutions.0.bias"], np.zeros(6))


def test_the_parts_of_an_lstm_stand_as_mxnet_puts_them():
    """Laid out once more, by the book: all products, then all biases."""
    _, weights, stored = imported(BILSTM)
    flat = list(stored["target_lstm_parameters"].array)

    def take(*shape):
        count = int(np.prod(shape))
        part, flat[:count] = np.array(flat[:count], np.float32).reshape(shape), ()
        return part

    for kind in ("weight", "bias"):
        for layer, width in ((0, 12), (1, 12)):
            for direction in ("forwards", "backwards"):
                name = f"encoders.1.{direction}.{layer}.{kind}"
                for source, inner in (("ih", width), ("hh", 6)):
                    shape = (24, inner) if kind == "weight" else (24,)
                    np.testing.assert_array_equal(weights[f"{name}_{source}_l0"], take(*shape))
    assert not flat


def test_layers_that_share_an_array_do_not_share_memory():
    symbol = object2vec(HCNN)
    symbol = graphs.altered(
        symbol, "target_1", inputs=["drop_1_0", "source_1_weight", "source_1_bias"]
    )
    network = read_network(parse_symbol(json.dumps(symbol).encode(), "s"), "s")
    arrays = {name: InMemory(array) for name, array in random_arrays(HCNN).items()}
    weights = weights_of(network, config_of(network, (20, 30), "s"), arrays, "p", None)
    first, second = (weights[f"encoders.{side}.convolutions.1.weight"] for side in (0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.shares_memory(first, second)


@pytest.mark.parametrize(
    ("sides", "name", "wanted"),
    [
        ((HCNN,), "embed_0_weight", [50, 12]),
        ((HCNN,), "source_0_weight", [6, 12, 3]),
        ((HCNN,), "target_1_weight", [6, 6, 3]),
        ((HCNN,), "target_1_bias", [6]),
        ((BILSTM,), "source_lstm_parameters", [graphs.lstm_size(12, 2, 6)]),
        ((HCNN,), "mlp_fc0_weight", [8, 48]),
        ((HCNN,), "mlp_fc1_weight", [8, 8]),
        ((HCNN,), "output_layer_bias", [3]),
    ],
)
def test_an_array_of_another_shape_or_none_is_refused_before_any_is_read(sides, name, wanted):
    def one_more_row(arrays):
        arrays[name] = np.concatenate([arrays[name], arrays[name][:1]])

    def flatter(arrays):
        arrays[name] = arrays[name].reshape(1, -1)

    for change in (one_more_row, flatter):
        with pytest.raises(ModelError, match="params: array") as error:
            imported(*sides, change=change)
        assert f"{name!r} has shape" in str(error.value)
        assert f"asks for {wanted}" in str(error.value)
    with pytest.raises(ModelError, match=f"params has no array {name!r}"):
        imported(*sides, change=lambda arrays: arrays.pop(name))


def test_arrays_that_the_graph_does_not_ask_for_are_left_out():
    _, weights, _ = imported(POOLED, change=lambda arrays: arrays.update(more=np.zeros(3)))
    assert len(weights) == 8


def said(**values):
    return {"model_algo-1!meta.json": {"training_parameters": values, "version": 1}}


FIRST = {"enc0_max_seq_len": "82"}


@pytest.mark.parametrize(
    ("metadata", "lengths"),
    [
        ({}, (None, None)),
        (said(epochs="3"), (None, None)),
        (said(**FIRST), (82, 82)),
        (said(**FIRST, enc1_network="enc0"), (82, 82)),
        (said(**FIRST, enc1_network="enc0", enc1_max_seq_len="7"), (82, 7)),
        (said(**FIRST, enc1_network="enc0", enc1_max_seq_len="0"), (82, 82)),
        (said(**FIRST, enc1_network="enc0", enc1_max_seq_len="many"), (82, 82)),
        (said(enc1_network="enc0", enc1_max_seq_len="7"), (None, 7)),
        (said(**FIRST, enc1_network=None), (82, 82)),
        (said(**FIRST, enc1_network=""), (82, 82)),
        (said(**FIRST, enc1_network="hcnn"), (82, None)),
        (said(**FIRST, enc1_network="hcnn", enc1_max_seq_len="7"), (82, 7)),
        (said(**FIRST, enc1_max_seq_len="7"), (82, 7)),
        (said(enc0_max_seq_len=1, enc1_max_seq_len=5000), (1, 5000)),
        (said(enc1_max_seq_len=7), (None, 7)),
        (said(max_seq_lens=[3, "4"]), (3, 4)),
        (said(max_seq_lens=[3.0, None]), (3, None)),
        (said(max_seq_lens=[None, None]), (None, None)),
        (said(enc0_max_seq_len="24.0", enc1_max_seq_len=30.0), (24, 30)),
        (said(enc0_max_seq_len=" 24. ", enc1_max_seq_len=" auto "), (24, 24)),
        ({"a.json": FIRST}, (82, 82)),
        ({"a.json": {"config": FIRST}}, (82, 82)),
        ({"a.json": {"config": {"encoder": FIRST}}}, (82, 82)),
        ({"a.json": [1], "b.json": 3, "c.json": FIRST}, (82, 82)),
        (
            {
                "a.json": {
                    "x": {"enc0_max_seq_len": 3},
                    "training_parameters": {**FIRST, "enc1_max_seq_len": "7"},
                }
            },
            (82, 7),
        ),
        ({"a.json": FIRST, "b.json": {"x": {"enc0_max_seq_len": 82.0}}}, (82, 82)),
        ({"a.json": FIRST, "b.json": {"enc1_max_seq_len": 7}}, (82, 7)),
        ({"b.json": {"enc1_max_seq_len": 7}, "a.json": FIRST}, (82, 7)),
    ],
)
def test_the_longest_sequences_are_found(metadata, lengths):
    assert max_seq_lens(metadata) == lengths


@pytest.mark.parametrize("value", ["", " ", None, "None", "none", "NULL", "auto"])
def test_a_length_may_be_said_not_to_be_said(value):
    assert max_seq_lens(said(**FIRST, enc1_max_seq_len=value)) == (82, 82)
    hcnn = {"enc1_network": "hcnn", "enc1_max_seq_len": value}
    assert max_seq_lens(said(**FIRST, **hcnn)) == (82, None)
    assert max_seq_lens(said(enc0_max_seq_len=value, enc1_max_seq_len=value)) == (None, None)
    assert max_seq_lens(said(enc0_max_seq_len=value, enc1_max_seq_len=7)) == (None, 7)


INSTEAD = "; --infer_max_seqlens=F,B says them instead$"


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "0.0",
        "5001",
        "many",
        "3.5",
        "1e2",
        "-1",
        "\u0663",
        0.0,
        np.nan,
        np.inf,
        True,
        [3],
        10**30,
    ],
)
@pytest.mark.parametrize("key", ["enc0_max_seq_len", "enc1_max_seq_len"])
def test_a_length_that_is_none_is_refused_by_member_and_key(key, value):
    with pytest.raises(ModelError, match=f"^model_algo-1!meta.json: {key} is .*{INSTEAD}"):
        max_seq_lens(said(**{**FIRST, key: value}))


@pytest.mark.parametrize("pair", [[1], [1, 2, 3], [1, "x"], [0, 1]])
def test_a_pair_of_lengths_that_is_none_is_refused(pair):
    with pytest.raises(ModelError, match=f"meta.json: max_seq_lens .*{INSTEAD}"):
        max_seq_lens(said(max_seq_lens=pair))


@pytest.mark.parametrize(
    ("first", "second", "side", "lengths"),
    [
        (FIRST, {"enc0_max_seq_len": 3}, 0, (82, 3)),
        (FIRST, {"x": {"enc0_max_seq_len": "3"}}, 0, (82, 3)),
        (
            {"max_seq_lens": [5, 7]},
            {**FIRST, "enc0_max_seq_len": 5, "enc1_max_seq_len": 8},
            1,
            (7, 8),
        ),
    ],
)
def test_members_that_state_different_lengths_are_both_named(first, second, side, lengths):
    with pytest.raises(ModelError) as caught:
        max_seq_lens({"a.json": first, "other.json": {}, "b.json": second})
    assert str(caught.value) == (
        f"a.json says that sequences of in{side} have at most {lengths[0]} ids, b.json says"
        f" {lengths[1]}; --infer_max_seqlens=F,B says them instead"
    )


AGREED = {
    "enc0_network": "hcnn",
    "enc0_layers": "2",
    "enc0_cnn_filter_width": "3",
    "enc0_vocab_size": "50",
    "enc0_token_embedding_dim": "12",
    "enc1_network": "pooled_embedding",
    "enc1_layers": "auto",
    "enc1_token_embedding_dim": "300",
    "enc_dim": "12",
    "comparator_list": "hadamard, concat, abs_diff",
    "mlp_layers": "2",
    "mlp_dim": "8",
    "mlp_activation": "relu",
    "output_layer": "softmax",
    "num_classes": "3",
    "tied_token_embedding_weight": "False",
}


def test_nothing_is_remarked_where_all_agree():
    network = read(HCNN, POOLED)
    assert remarks(said(**AGREED), network) == ()
    assert (
        remarks(said(**{**AGREED, "comparator_list": list(network.comparator_list)}), network) == ()
    )
    assert remarks({}, network) == ()
    four = read(Side("hcnn", layers=4, filters=3), POOLED)
    assert remarks(said(**{**AGREED, "enc0_layers": "auto"}), four) == ()


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("enc0_network", "bilstm", "hcnn"),
        ("enc0_layers", "auto", "2"),
        ("enc0_cnn_filter_width", "5", "3"),
        ("enc0_vocab_size", 51, "50"),
        ("enc0_token_embedding_dim", "300", "12"),
        ("enc_dim", "4096", "12"),
        ("comparator_list", "concat, hadamard, abs_diff", "hadamard,concat,abs_diff"),
        ("mlp_layers", "1", "2"),
        ("mlp_dim", "512", "8"),
        ("mlp_activation", "linear", "relu"),
        ("output_layer", "mean_squared_error", "softmax"),
        ("num_classes", "2", "3"),
        ("tied_token_embedding_weight", "true", "false"),
    ],
)
def test_where_the_hyperparameters_differ_it_is_remarked(key, value, found):
    (sentence,) = remarks(said(**{**AGREED, key: value}), read(HCNN, POOLED))
    assert sentence == (
        f"model_algo-1!meta.json says {key} is {value}; the graph has {found}, which was taken."
    )


def test_settings_of_encoder_1_are_not_remarked_where_it_copies_encoder_0():
    values = {**AGREED, "enc1_network": "enc0", "enc1_token_embedding_dim": "300"}
    assert remarks(said(**values), read(HCNN)) == ()
    values |= {"enc0_max_seq_len": "82", "enc1_max_seq_len": "7"}
    assert remarks(said(**values), read(HCNN)) == (
        "model_algo-1!meta.json says enc1_max_seq_len is 7, but also that encoder 1 has the"
        " settings of encoder 0, whose length is 82; 7 was taken.",
    )
    (sentence,) = remarks(said(**{**values, "enc1_max_seq_len": "0"}), read(HCNN))
    assert "enc1_max_seq_len is 0" in sentence and "82 was taken" in sentence
    for same in ("82", 82.0, "", None, "auto"):
        assert remarks(said(**{**values, "enc1_max_seq_len": same}), read(HCNN)) == ()


def test_buckets_of_training_are_remarked():
    network = read(HCNN, POOLED)
    for width in ("0", 0, "", None, "none"):
        assert remarks(said(**AGREED, bucket_width=width), network) == ()
    for width in ("10", 10, "10.0"):
        (sentence,) = remarks(said(bucket_width=width), network)
        assert sentence.startswith(
            "model_algo-1!meta.json says bucket_width is 10: training padded"
        )
        assert "not known" in sentence and "padded to the longest" in sentence


def test_a_storage_type_that_is_not_that_of_the_operator_is_remarked():
    sparse = Side(op="_contrib_SparseEmbedding")
    dense, rows = (said(token_embedding_storage_type=kind) for kind in ("dense", "row_sparse"))
    assert remarks(dense, read(POOLED)) == remarks(rows, read(sparse)) == ()
    assert remarks(said(token_embedding_storage_type=""), read(POOLED)) == ()
    assert remarks(rows, read(sparse, POOLED)) == (
        "model_algo-1!meta.json says token_embedding_storage_type is row_sparse; the graph looks"
        " up in1 with Embedding, which clips ids out of range, and that was taken.",
    )
    said_dense = remarks(dense, read(sparse))
    assert [
        sentence.count(f"in{side} with _contrib_SparseEmbedding, which refuses ids")
        for side, sentence in enumerate(said_dense)
    ] == [1, 1]
