"""Which network a graph is; and that no graph passes which would give other numbers."""

import copy
import json
import re
import time

import artefacts
import graphs
import pytest
from graphs import Side, altered, inserted, object2vec
from hypothesis import given, settings
from hypothesis import strategies as st

from object2vec.errors import ModelError
from object2vec.sagemaker.layers import ConvolutionLayer, Dense, EncoderNetwork, LstmStack
from object2vec.sagemaker.network import Network, read_network
from object2vec.sagemaker.symbol import parse_symbol

ALL = ("hadamard", "concat", "abs_diff")


def read(symbol):
    text = symbol if isinstance(symbol, bytes) else json.dumps(symbol).encode()
    return read_network(parse_symbol(text, "box!symbol.json"), "box!symbol.json")


def dense(name, width):
    return Dense(name, f"{name}_weight", f"{name}_bias", width)


def pooled(table, vocab_size, dim, out_of_range="clip"):
    return EncoderNetwork("pooled_embedding", table, vocab_size, dim, 0, out_of_range)


def hcnn(side, vocab_size, dim, layers, filters, width, pad):
    convolutions = tuple(
        ConvolutionLayer(f"{name}_weight", f"{name}_bias", filters, width, pad)
        for name in (f"{graphs.SIDES[side]}_{layer}" for layer in range(layers))
    )
    return EncoderNetwork(
        "hcnn", f"embed_{side}_weight", vocab_size, dim, 0, "clip", convolutions, None
    )


def bilstm(side, vocab_size, dim, layers, size):
    stack = LstmStack(f"{graphs.SIDES[side]}_lstm_parameters", layers, size)
    return EncoderNetwork("bilstm", f"embed_{side}_weight", vocab_size, dim, 0, "clip", (), stack)


GOLDEN = {
    "v1_hcnn_default": Network(
        encoders=(hcnn(0, 1200, 30, 4, 4, 3, 1), hcnn(1, 1200, 30, 4, 4, 3, 1)),
        comparator_list=ALL,
        hidden=(dense("mlp_fc0", 512), dense("mlp_fc1", 512)),
        mlp_activation="linear",
        output=dense("output_layer", 3),
        output_layer="softmax",
        inferred=(),
    ),
    "v2_pooled_tied_sparse": Network(
        encoders=(pooled("embed_shared_weight", 2500, 48, "error"),) * 2,
        comparator_list=("hadamard",),
        hidden=(dense("mlp_fc0", 64), dense("mlp_fc1", 64)),
        mlp_activation="relu",
        output=dense("output_layer", 2),
        output_layer="softmax",
        inferred=(),
    ),
    "v3_pooled_movie_regression": Network(
        encoders=(pooled("embed_0_weight", 120, 1024), pooled("embed_1_weight", 160, 1024)),
        comparator_list=ALL,
        hidden=(dense("mlp_fc0", 256),),
        mlp_activation="tanh",
        output=dense("output_layer", 1),
        output_layer="mean_squared_error",
        inferred=(),
    ),
    "v4_mixed_encoders": Network(
        encoders=(hcnn(0, 800, 24, 2, 6, 5, 2), pooled("embed_1_weight", 500, 12)),
        comparator_list=("abs_diff", "concat"),
        hidden=(),
        mlp_activation="linear",
        output=dense("output_layer", 4),
        output_layer="softmax",
        inferred=(),
    ),
    "v5_hcnn_w1_l1": Network(
        encoders=(hcnn(0, 600, 16, 1, 10, 1, 0), hcnn(1, 700, 12, 1, 10, 1, 0)),
        comparator_list=("hadamard", "abs_diff"),
        hidden=(dense("mlp_fc0", 32),),
        mlp_activation="relu",
        output=dense("output_layer", 1),
        output_layer="mean_squared_error",
        inferred=(),
    ),
    "v6_bilstm_inferred": Network(
        encoders=(bilstm(0, 700, 14, 1, 10), bilstm(1, 500, 10, 1, 10)),
        comparator_list=ALL,
        hidden=(dense("mlp_fc0", 40),),
        mlp_activation="tanh",
        output=dense("output_layer", 3),
        output_layer="softmax",
        inferred=(
            "No bilstm graph of SageMaker is public: which operators it is made of was inferred."
            " This graph holds just those, but what else the service does was not seen.",
        ),
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_every_golden_graph_is_read(case):
    assert read(artefacts.unpacked(case)["symbol.json"]) == GOLDEN[case]


POOLED, HCNN, BILSTM = Side(), Side("hcnn"), Side("bilstm", layers=1)
GRAPHS = {
    "pooled": object2vec(POOLED),
    "hcnn": object2vec(HCNN),
    "bilstm": object2vec(BILSTM),
}
NETWORKS = {name: read(symbol) for name, symbol in GRAPHS.items()}


@pytest.mark.parametrize("style", graphs.STYLES)
@pytest.mark.parametrize("name", GRAPHS)
def test_every_style_is_read_alike(name, style):
    assert read(graphs.in_style(GRAPHS[name], style)) == NETWORKS[name]


def test_what_the_graph_says_is_taken():
    sides = (
        Side("hcnn", 77, 5, layers=3, filters=4, width=4, pad=1, padding_id=9, bias=False),
        Side("bilstm", 88, 9, layers=2, state_size=6, op="_contrib_SparseEmbedding"),
    )
    network = read(
        object2vec(
            *sides,
            comparators=("concat", "hadamard"),
            hidden=(7, 7, 7),
            activation="tanh",
            classes=1,
            output="LinearRegressionOutput",
        )
    )
    first, second = network.encoders
    assert (first.vocab_size, first.token_embedding_dim, first.padding_id) == (77, 5, 9)
    assert [(c.num_filters, c.width, c.pad) for c in first.convolutions] == [(4, 4, 1)] * 3
    assert first.convolutions[0].bias is None
    assert (second.vocab_size, second.out_of_range) == (88, "error")
    assert second.lstm == LstmStack("target_lstm_parameters", 2, 6)
    assert network.comparator_list == ("concat", "hadamard")
    assert [layer.num_hidden for layer in network.hidden] == [7, 7, 7]
    assert network.mlp_activation == "tanh"
    assert network.output_layer == "mean_squared_error"


def defaults_written_out(symbol):
    """As versions before 0.9 do it: every attribute is there."""
    symbol = copy.deepcopy(symbol)
    more = {
        "Convolution": {
            **{"stride": "(1,)", "dilate": "(1,)", "num_group": "1", "no_bias": "False"},
            **{"workspace": "1024", "cudnn_tune": "None", "cudnn_off": "False", "layout": "None"},
        },
        "Dropout": {"mode": "training", "axes": "()"},
        "Embedding": {"dtype": "float32", "sparse_grad": "False"},
        "FullyConnected": {"no_bias": "False", "flatten": "True"},
        "Reshape": {"target_shape": "(0, 0)", "keep_highest": "False", "reverse": "False"},
        "sum": {"keepdims": "False", "exclude": "False"},
        "max": {"keepdims": "False", "exclude": "False"},
        "_not_equal_scalar": {"is_int": "True"},
        "RNN": {"projection_size": "None", "use_sequence_length": "False"},
        "SoftmaxOutput": {
            **{"grad_scale": "1", "ignore_label": "-1", "multi_output": "False"},
            **{"normalization": "null", "out_grad": "False", "preserve_shape": "False"},
            **{"use_ignore": "False", "smooth_alpha": "0"},
        },
    }
    for node in symbol["nodes"]:
        node["attrs"] = {**node.get("attrs", {}), **more.get(node["op"], {}), "__mood__": "fine"}
    return symbol


SAME = {
    "defaults written out": {g: defaults_written_out for g in GRAPHS},
    "a stride of nothing": {"hcnn": lambda s: altered(s, "source_0", stride="()")},
    "axes from the right": {
        "pooled": lambda s: altered(s, "total_0", axis="-2"),
        "hcnn": lambda s: altered(s, "max_0_1", axis="(-1,)"),
        "bilstm": lambda s: altered(s, "peak_1", axis="[1]"),
    },
    "transpose for SwapAxis": {
        "hcnn": lambda s: altered(
            s, "swap_0", op="transpose", dim1=None, dim2=None, axes="(0, 2, 1)"
        ),
        "bilstm": lambda s: altered(
            s, "back_0", op="transpose", dim1=None, dim2=None, axes="(1, 0, 2)"
        ),
    },
    "swapped the other way round": {"hcnn": lambda s: altered(s, "swap_0", dim1="2", dim2="1")},
    "expand_dims for Reshape": {
        g: lambda s: altered(s, "reshape_1", op="expand_dims", shape=None, axis="-1")
        for g in GRAPHS
    },
    "Reshape by other codes": {
        "pooled": lambda s: altered(s, "reshape_0", shape="(-2, 1)"),
        "hcnn": lambda s: altered(s, "reshape_0", shape="(0, -1, 1)"),
        "bilstm": lambda s: altered(s, "reshape_0", shape="(0,0,-1)"),
    },
    "the other operand first": {
        g: lambda s: altered(
            altered(s, "tokens_0", inputs=["reshape_0", "embed_0"]),
            "hadamard",
            inputs=["vector_1", "vector_0"],
        )
        for g in GRAPHS
    },
    "v less u, whose absolute value is the same": {
        g: lambda s: altered(s, "minus", inputs=["vector_1", "vector_0"]) for g in GRAPHS
    },
    "other names of sums": {
        "pooled": lambda s: altered(altered(s, "safe_0", op="_Plus"), "safe_1", op="broadcast_plus")
    },
    "other names of products": {
        "pooled": lambda s: altered(
            altered(altered(s, "hadamard", op="_mul"), "minus", op="broadcast_minus"),
            "compared",
            op="concat",
        )
    },
    "_equal_scalar for zeros": {
        "pooled": lambda s: altered(
            s, "empty_0", op="_equal_scalar", inputs=["count_0"], scalar="0.0"
        )
    },
    "a maximum with 1": {
        "pooled": lambda s: altered(
            s, "safe_0", op="_maximum_scalar", inputs=["count_0"], scalar="1"
        )
    },
    "a copy for a dropout": {"hcnn": lambda s: altered(s, "drop_0_0", op="_copy", p=None)},
    "a cast to what it is": {
        "pooled": lambda s: altered(s, "vector_0", op="Cast", p=None, dtype="float32")
    },
    "relu by its own name": {"hcnn": lambda s: altered(s, "relu_0_1", op="relu", act_type=None)},
    "softmax for SoftmaxOutput": {
        g: lambda s: altered(s, "out_layer", op="softmax", inputs=["output_layer"], axis="-1")
        for g in GRAPHS
    },
    "the ids through a copy": {
        "hcnn": lambda s: altered(
            inserted(s, "embed_0", "identity", "ids", ["source"]),
            "embed_0",
            inputs=["ids", "embed_0_weight"],
        )
    },
    "comparators joined in two steps": {
        "pooled": lambda s: altered(
            inserted(s, "compared", "Concat", "uv", ["vector_0", "vector_1"], num_args=2),
            "compared",
            inputs=["hadamard", "uv", "abs_diff"],
            num_args="3",
        )
    },
    "a node that nobody reads": {
        g: lambda s: inserted(s, "out_layer", "Mystery", "m", ["source"], a=1) for g in GRAPHS
    },
}


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case, at in SAME.items() for name in at]
)
def test_another_way_to_write_the_same_is_read_alike(case, name):
    assert read(SAME[case][name](GRAPHS[name])) == NETWORKS[name]


def test_one_layer_or_one_comparator_needs_no_concat():
    one = Side("hcnn", layers=1, filters=12)
    wanted = read(object2vec(one, comparators=("hadamard",)))
    symbol = object2vec(one, comparators=("hadamard",))
    symbol = altered(symbol, "hadamard", inputs=["max_0_0", "max_1_0"])
    symbol = altered(symbol, "mlp_fc0", inputs=["hadamard", "mlp_fc0_weight", "mlp_fc0_bias"])
    assert read(symbol) == wanted
    symbol = object2vec(one, comparators=("concat",))
    wanted = read(symbol)
    assert read(altered(symbol, "compared", inputs=["max_0_0", "max_1_0"])) == wanted


# graph, node to change, changes; where another node is to blame, `blames` names it.
REFUSED = {
    # encoders
    "stride": ("hcnn", "source_1", {"stride": "(2,)"}),
    "dilation": ("hcnn", "source_1", {"dilate": "2"}),
    "groups": ("hcnn", "target_0", {"num_group": "2"}),
    "another layout": ("hcnn", "target_0", {"layout": "NWC"}),
    "two dimensions": ("hcnn", "target_0", {"kernel": "(3, 3)"}),
    "a wide filter": ("hcnn", "source_0", {"kernel": "(11,)"}),
    "a pad that differs": ("hcnn", "source_1", {"pad": "(0,)"}),
    "a pad as wide as the filter": ("hcnn", "source_0", {"pad": "(3,)"}),
    "a pad below zero": ("hcnn", "source_0", {"pad": "(-1,)"}),
    "filters that differ": ("hcnn", "source_1", {"num_filter": "7"}),
    "a width that differs": ("hcnn", "source_1", {"kernel": "(5,)"}),
    "no filters": ("hcnn", "source_1", {"num_filter": None}),
    "a bias too much": ("hcnn", "source_0", {"no_bias": "True"}),
    "a bias too few": ("hcnn", "source_0", {"inputs": ["swap_0", "source_0_weight"]}),
    "weights that are computed": (
        "hcnn",
        "source_1",
        {"inputs": ["drop_0_0", "tokens_0", "source_1_bias"]},
    ),
    "sigmoid": ("hcnn", "relu_0_0", {"act_type": "sigmoid"}),
    "tanh in a convolution": ("hcnn", "relu_0_0", {"act_type": "tanh"}),
    "no kind of activation": ("hcnn", "relu_0_0", {"act_type": None}),
    "leaky relu": ("hcnn", "relu_0_0", {"op": "LeakyReLU", "act_type": "leaky"}),
    "pooling": ("hcnn", "max_0_0", {"op": "Pooling"}),
    "the mean over time": ("hcnn", "max_0_0", {"op": "mean"}),
    "the sum over time": ("hcnn", "max_0_0", {"op": "sum"}),
    "max over filters": ("hcnn", "max_0_0", {"axis": "1"}),
    "max over records": ("hcnn", "max_0_0", {"axis": "0"}),
    "max over everything": ("hcnn", "max_0_0", {"axis": None}),
    "max over all but time": ("hcnn", "max_0_0", {"exclude": "True"}),
    "max over two axes": ("hcnn", "max_0_0", {"axis": "(1, 2)"}),
    "max over an axis too far": ("hcnn", "max_0_0", {"axis": "3"}),
    "max that keeps its axis": ("hcnn", "max_0_0", {"keepdims": "True", "blames": "vector_0"}),
    "max before the relu": ("hcnn", "max_0_0", {"inputs": ["source_0"]}),
    "no relu between layers": (
        "hcnn",
        "source_1",
        {"inputs": ["source_0", "source_1_weight", "source_1_bias"]},
    ),
    "a layer left out of the concat": (
        "hcnn",
        "vector_0",
        {"inputs": ["max_0_1"], "num_args": "1"},
    ),
    "a layer that the first skips": (
        "hcnn",
        "vector_0",
        {"inputs": ["max_0_1", "max_0_1"]},
    ),
    "the last layer twice": (
        "hcnn",
        "vector_0",
        {"inputs": ["max_0_0", "max_0_1", "max_0_1"], "num_args": "3"},
    ),
    "layers in another order": ("hcnn", "vector_0", {"inputs": ["max_0_1", "max_0_0"]}),
    "a layer of the other side": ("hcnn", "vector_1", {"inputs": ["max_0_0", "max_1_1"]}),
    "concat along records": ("hcnn", "vector_0", {"dim": "0"}),
    "another number of inputs": ("hcnn", "vector_0", {"num_args": "3"}),
    "no swap": ("hcnn", "source_0", {"inputs": ["tokens_0", "source_0_weight", "source_0_bias"]}),
    "another swap": ("hcnn", "swap_0", {"dim1": "0", "blames": "source_0"}),
    "a swap of an axis too far": ("hcnn", "swap_0", {"dim1": "3"}),
    "no mask": (
        "hcnn",
        "swap_0",
        {"inputs": ["embed_0"], "blames": "source_0"},
    ),
    "the mask of the other side": ("hcnn", "tokens_1", {"inputs": ["embed_1", "reshape_0"]}),
    "a mask without its axis": ("hcnn", "tokens_1", {"inputs": ["embed_1", "mask_1"]}),
    "a mask that is not broadcast": ("hcnn", "tokens_1", {"op": "elemwise_mul"}),
    "a mask along the embedding": (
        "hcnn",
        "reshape_0",
        {"op": "expand_dims", "shape": None, "axis": "1", "blames": "tokens_0"},
    ),
    "a mask that is added": ("hcnn", "tokens_1", {"op": "broadcast_add"}),
    "a mask by another comparison": ("hcnn", "mask_0", {"op": "_greater_scalar"}),
    "a mask of the opposite": ("hcnn", "mask_0", {"op": "_equal_scalar"}),
    "a padding id that is no integer": ("hcnn", "mask_0", {"scalar": "0.5"}),
    "no padding id": ("hcnn", "mask_0", {"scalar": None}),
    "another shape": ("hcnn", "reshape_0", {"shape": "(0, 1, 0)"}),
    "a shape from the right": ("hcnn", "reshape_0", {"reverse": "True"}),
    "half precision": ("hcnn", "embed_0", {"dtype": "float16"}),
    "no vocabulary": ("hcnn", "embed_0", {"input_dim": None}),
    "ids out of a computation": (
        "hcnn",
        "embed_1",
        {"inputs": ["mask_0", "embed_1_weight"]},
    ),
    "ids read twice": ("hcnn", "embed_1", {"inputs": ["source", "embed_1_weight"], "blames": None}),
    "an attribute that nobody knows": ("hcnn", "source_0", {"reflect": "True"}),
    "another output": ("hcnn", "relu_0_0", {"output": 1}),
    "dropout at inference": ("hcnn", "drop_0_0", {"mode": "always"}),
    "SequenceMask": ("hcnn", "drop_0_0", {"op": "SequenceMask"}),
    "an unknown operator": ("hcnn", "drop_0_0", {"op": "Custom"}),
    "batch normalisation": ("hcnn", "drop_0_0", {"op": "BatchNorm"}),
    "the square": ("pooled", "abs_diff", {"op": "square"}),
    # pooled
    "a sum over the embedding": ("pooled", "total_0", {"axis": "2"}),
    "the maximum for the sum": ("pooled", "total_0", {"op": "max"}),
    "a sum without a mask": ("pooled", "total_0", {"inputs": ["embed_0"]}),
    "division by a count that may be zero": (
        "pooled",
        "mean_0",
        {"inputs": ["total_0", "count_0"]},
    ),
    "division the wrong way": ("pooled", "mean_0", {"inputs": ["safe_0", "total_0"]}),
    "no division": ("pooled", "vector_0", {"inputs": ["total_0"], "blames": "hadamard"}),
    "a count that is subtracted": ("pooled", "safe_0", {"op": "elemwise_sub"}),
    "a count and itself": ("pooled", "safe_0", {"inputs": ["count_0", "count_0"]}),
    "a count compared with itself": ("pooled", "empty_0", {"inputs": ["count_0", "count_0"]}),
    "a count that is not broadcast": ("pooled", "mean_0", {"op": "elemwise_div"}),
    # bilstm
    "gru": ("bilstm", "rnn_0", {"mode": "gru"}),
    "no mode": ("bilstm", "rnn_0", {"mode": None}),
    "one direction": ("bilstm", "rnn_0", {"bidirectional": "False"}),
    "a projection": ("bilstm", "rnn_0", {"projection_size": "4"}),
    "clipped states": ("bilstm", "rnn_0", {"lstm_state_clip_max": "3.0"}),
    "sequence lengths": ("bilstm", "rnn_0", {"use_sequence_length": "True"}),
    "too many layers": ("bilstm", "rnn_0", {"num_layers": "5"}),
    "another size of state": ("bilstm", "rnn_0", {"state_size": "7"}),
    "time not first": (
        "bilstm",
        "rnn_0",
        {"inputs": ["tokens_0", "source_lstm_parameters", "state_0", "cell_0"]},
    ),
    "a state that is given": (
        "bilstm",
        "rnn_0",
        {"inputs": ["swap_0", "source_lstm_parameters", "source_lstm_parameters", "cell_0"]},
    ),
    "the last state": ("bilstm", "back_0", {"output": 1}),
    "states without a mask": ("bilstm", "open_0", {"inputs": ["back_0", "penalty_0"]}),
    "states under the mask of the other side": (
        "bilstm",
        "states_1",
        {"inputs": ["back_1", "reshape_0"]},
    ),
    "states without a penalty": ("bilstm", "peak_0", {"inputs": ["states_0"]}),
    "the mean of the states": ("bilstm", "peak_0", {"op": "mean"}),
    "a small penalty": ("bilstm", "penalty_0", {"scalar": "0.5"}),
    "a penalty below zero": ("bilstm", "penalty_0", {"scalar": "-1e30"}),
    "an endless penalty": ("bilstm", "penalty_0", {"scalar": "1e39"}),
    "another mask less one": ("bilstm", "less_0", {"scalar": "2"}),
    "the penalty of the other side": ("bilstm", "open_1", {"inputs": ["states_1", "penalty_0"]}),
    "whether the other side is empty": ("bilstm", "vector_1", {"inputs": ["peak_1", "any_0"]}),
    "empty by another number": ("bilstm", "any_0", {"scalar": "1"}),
    "nothing for empty": ("bilstm", "hadamard", {"inputs": ["peak_0", "vector_1"]}),
    "states of integers": ("bilstm", "state_0", {"dtype": "int32"}),
    "ones for zeros": ("bilstm", "state_0", {"op": "_ones"}),
    # comparators
    "a vector on its side": ("pooled", "vector_0", {"op": "SwapAxis", "p": None, "dim2": "1"}),
    "nothing joined": ("pooled", "compared", {"inputs": [], "num_args": None}),
    "v before u": (
        "pooled",
        "compared",
        {"inputs": ["hadamard", "vector_1", "vector_0", "abs_diff"]},
    ),
    "u and v apart": (
        "pooled",
        "compared",
        {"inputs": ["vector_0", "hadamard", "vector_1", "abs_diff"]},
    ),
    "u alone": ("pooled", "compared", {"inputs": ["hadamard", "vector_0"], "num_args": "2"}),
    "concat twice": (
        "pooled",
        "compared",
        {"inputs": ["vector_0", "vector_1"] * 2, "num_args": "4"},
    ),
    "hadamard twice": ("pooled", "compared", {"inputs": ["hadamard"] * 2, "num_args": "2"}),
    "u with itself": ("pooled", "hadamard", {"inputs": ["vector_0", "vector_0"]}),
    "u less itself": ("pooled", "minus", {"inputs": ["vector_1", "vector_1"]}),
    "the sum of both": ("pooled", "minus", {"op": "elemwise_add"}),
    "a difference with its sign": (
        "pooled",
        "compared",
        {"inputs": ["hadamard", "minus"], "num_args": "2"},
    ),
    # mlp and output
    "another width": ("pooled", "mlp_fc1", {"num_hidden": "9"}),
    "another activation": ("pooled", "act_1", {"act_type": "tanh", "blames": "mlp_fc1"}),
    "a linear layer among others": (
        "pooled",
        "mlp_drop1",
        {"inputs": ["mlp_fc1"], "blames": "mlp_fc1"},
    ),
    "sigmoid in the mlp": ("pooled", "act_0", {"act_type": "sigmoid"}),
    "two activations": ("pooled", "mlp_drop0", {"op": "tanh", "p": None}),
    "an output with an activation": (
        "pooled",
        "out_layer",
        {"inputs": ["act_1", "out_layer_label"]},
    ),
    "u for the comparators": (
        "pooled",
        "mlp_fc0",
        {"inputs": ["vector_0", "mlp_fc0_weight", "mlp_fc0_bias"]},
    ),
    "no bias, says the layer": ("pooled", "mlp_fc0", {"no_bias": "1"}),
    "many outputs": ("pooled", "out_layer", {"multi_output": "True"}),
    "softmax over records": (
        "pooled",
        "out_layer",
        {"op": "softmax", "inputs": ["output_layer"], "axis": "0"},
    ),
    "a temperature": (
        "pooled",
        "out_layer",
        {"op": "softmax", "inputs": ["output_layer"], "temperature": "2"},
    ),
    "log_softmax": ("pooled", "out_layer", {"op": "log_softmax", "inputs": ["output_layer"]}),
    "a regression of three": (
        "pooled",
        "out_layer",
        {"op": "LinearRegressionOutput", "blames": "output_layer"},
    ),
    "a logistic regression": ("pooled", "out_layer", {"op": "LogisticRegressionOutput"}),
    "a label that is computed": ("pooled", "out_layer", {"inputs": ["output_layer", "vector_0"]}),
}


def change(case):
    name, at, changes = REFUSED[case]
    changes = dict(changes)
    blames = changes.pop("blames", at)
    symbol = altered(GRAPHS[name], at, **changes)
    return symbol, blames


@pytest.mark.parametrize("case", REFUSED)
def test_one_change_that_changes_numbers_is_refused_by_node_and_operator(case):
    symbol, blames = change(case)
    with pytest.raises(ModelError) as error:
        read(symbol)
    message = str(error.value)
    assert message.startswith("box!symbol.json: node '")
    if blames is not None:
        op = graphs.node_of(symbol, blames)["op"]
        assert f"node {blames!r} ({op}): " in message
    assert len(message) < 1000


def test_a_count_by_another_padding_id_is_refused():
    symbol = inserted(
        GRAPHS["pooled"], "count_0", "_not_equal_scalar", "other", ["source"], scalar=1
    )
    symbol = inserted(symbol, "count_0", "Reshape", "other_T1", ["other"], shape="(0, 0, 1)")
    symbol = altered(symbol, "count_0", inputs=["other_T1"])
    with pytest.raises(ModelError, match=r"'mean_0' \(broadcast_div\).*id 1 is padding"):
        read(symbol)


def test_a_count_of_the_other_side_is_refused():
    symbol = altered(GRAPHS["pooled"], "mean_1", inputs=["total_1", "safe_0"])
    with pytest.raises(ModelError, match=r"'mean_1' \(broadcast_div\).*tokens, at least 1, of in0"):
        read(symbol)


def test_two_encoders_of_one_side_are_refused():
    graph = graphs.Builder()
    u = graphs.pooled(graph, 0, Side(dim=12), "embed_0_weight")
    v = graphs.pooled(graph, 1, Side(dim=12), "embed_1_weight")
    graph.add("_not_equal_scalar", "mask_x", ("target",), scalar=7)
    graph.add("Reshape", "reshape_x", ("mask_x",), shape="(0, 0, 1)")
    graph.add("broadcast_mul", "tokens_x", ("embed_1", "reshape_x"))
    graph.add("sum", "total_x", ("tokens_x",), axis=1)
    graph.add("sum", "count_x", ("reshape_x",), axis=1)
    graph.add("_maximum_scalar", "safe_x", ("count_x",), scalar=1)
    w = graph.add("broadcast_div", "vector_x", ("total_x", "safe_x"))
    graph.add("elemwise_mul", "hadamard", (u, w))
    graph.add("Concat", "compared", ("hadamard", u, v))
    graphs.dense(graph, "output_layer", "compared", 3)
    graph.add("softmax", "out_layer", ("output_layer",))
    with pytest.raises(ModelError, match=r"'compared' \(Concat\).*two different encoders of in1"):
        read(graph.symbol("out_layer"))


def test_an_lstm_of_single_cells_is_refused():
    graph = graphs.Builder()
    tokens = graphs.masked(graph, 0, BILSTM, "embed_0_weight")
    graphs.masked(graph, 1, BILSTM, "embed_1_weight")
    graph.add("SliceChannel", "steps", (tokens,), axis=1, num_outputs=30, squeeze_axis=1)
    graph.add("elemwise_mul", "joined", ("steps", "tokens_1"))
    with pytest.raises(ModelError, match=r"'steps' \(SliceChannel\)"):
        read(graph.symbol("joined"))


def test_a_layer_more_than_hcnn_may_have_is_refused():
    with pytest.raises(ModelError, match=r"'source_4' \(Convolution\).*a layer more than the 4"):
        read(object2vec(Side("hcnn", layers=5)))


def test_a_hidden_layer_more_than_there_may_be_is_refused():
    assert len(read(object2vec(POOLED, hidden=(8,) * 10)).hidden) == 10
    with pytest.raises(ModelError, match=r"'mlp_fc10' \(FullyConnected\)"):
        read(object2vec(POOLED, hidden=(8,) * 11))


def test_a_variable_that_is_there_twice_is_refused():
    symbol = copy.deepcopy(GRAPHS["pooled"])
    graphs.node_of(symbol, "mlp_fc1_weight")["name"] = "mlp_fc0_weight"
    with pytest.raises(ModelError, match=r"'mlp_fc0_weight' \(null\) is there twice"):
        read(symbol)


def renamed(symbol, *pairs):
    symbol = copy.deepcopy(symbol)
    for old, new in pairs:
        graphs.node_of(symbol, old)["name"] = new
    return symbol


@pytest.mark.parametrize("names", [("in0", "in1"), ("data0", "data1")])
def test_sides_are_told_by_the_names_of_the_inputs(names):
    straight = renamed(GRAPHS["hcnn"], ("source", names[0]), ("target", names[1]))
    assert read(straight) == NETWORKS["hcnn"]
    # The other way round, what is called u here is v, so the concat is refused.
    crossed = renamed(GRAPHS["hcnn"], ("source", names[1]), ("target", names[0]))
    with pytest.raises(ModelError, match=r"'compared' \(Concat\).*hadamard, v, u, abs_diff"):
        read(crossed)


def test_names_decide_even_against_the_order():
    symbol = object2vec(POOLED, Side(vocab_size=99), comparators=("hadamard",))
    network = read(renamed(symbol, ("source", "x"), ("target", "source"), ("x", "target")))
    assert [encoder.vocab_size for encoder in network.encoders] == [99, 50]
    assert network.inferred == ()


def test_inputs_of_other_names_are_told_by_their_order_and_the_card_says_so():
    network = read(renamed(GRAPHS["hcnn"], ("source", "left"), ("target", "right")))
    assert network.encoders == NETWORKS["hcnn"].encoders
    assert network.inferred == (
        "The inputs of the graph are called 'left' and 'right'; in0 and in1 were told by their"
        " order.",
    )


@pytest.mark.parametrize(("known", "side"), [("source", 0), ("in0", 0), ("target", 1)])
@pytest.mark.parametrize("is_first", [True, False])
def test_one_known_name_decides_both_sides_and_the_card_says_so(known, side, is_first):
    names = (known, "other") if is_first else ("other", known)
    symbol = object2vec(POOLED, Side(vocab_size=99), comparators=("hadamard",))
    symbol = renamed(symbol, ("source", "x"), ("target", names[1]), ("x", names[0]))
    network = read(symbol)
    sizes = [encoder.vocab_size for encoder in network.encoders]
    assert sizes == ([50, 99] if is_first == (side == 0) else [99, 50])
    assert network.inferred == (
        f"Inputs of the graph are called '{known}', which is in{side}, and 'other', which was"
        f" taken for in{1 - side}.",
    )


def test_two_names_of_one_side_are_told_by_their_order():
    network = read(renamed(GRAPHS["hcnn"], ("source", "in1")))
    assert network.encoders == NETWORKS["hcnn"].encoders
    assert "'in1' and 'target'; in0 and in1 were told by their order" in network.inferred[0]


def test_a_padding_id_that_is_not_zero_is_on_the_card():
    network = read(object2vec(POOLED, Side("hcnn", padding_id=7)))
    assert [encoder.padding_id for encoder in network.encoders] == [0, 7]
    assert network.inferred == (
        "The graph takes id 7 of in1 for padding, not 0; so sequences are padded with that id,"
        " and where it is sent it is no token.",
    )


def test_vectors_may_be_heads_beside_the_scores():
    symbol = object2vec(HCNN, heads=("vector_0", "vector_1"))
    assert read(symbol) == NETWORKS["hcnn"]


def heads(symbol, *names):
    symbol = copy.deepcopy(symbol)
    places = [node["name"] for node in symbol["nodes"]]
    symbol["heads"] = [[places.index(name), 0, 0] for name in names]
    return symbol


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("vector_0", "vector_1"), "0 of the outputs"),
        (("out_layer", "out_layer"), "2 of the outputs"),
        (("out_layer", "hadamard"), "'hadamard' (elemwise_mul)"),
        (("output_layer",), "'output_layer' (FullyConnected)"),
        (("mlp_drop1",), "'mlp_drop1' (Dropout)"),
        (("source",), "'source' (null)"),
    ],
)
def test_other_heads_are_refused(names, words):
    with pytest.raises(ModelError, match=re.escape(words)):
        read(heads(GRAPHS["pooled"], *names))


def test_another_output_of_a_head_is_refused():
    symbol = copy.deepcopy(GRAPHS["pooled"])
    symbol["heads"][0][1] = 1
    with pytest.raises(ModelError, match=r"'out_layer' \(SoftmaxOutput\).*output 1"):
        read(symbol)


def test_a_vector_that_the_scores_are_not_made_from_is_refused():
    symbol = object2vec(Side("hcnn", layers=1, filters=12))
    symbol = inserted(
        symbol,
        "out_layer",
        "Convolution",
        "more",
        ["swap_0", "source_0_weight", "source_0_bias"],
        kernel="(3,)",
        num_filter=12,
    )
    symbol = inserted(symbol, "out_layer", "relu", "more_relu", ["more"])
    symbol = inserted(symbol, "out_layer", "max", "more_max", ["more_relu"], axis=2)
    with pytest.raises(ModelError, match=r"'more_max' \(max\).*a vector of in0"):
        read(heads(symbol, "out_layer", "more_max"))


def test_a_graph_that_ends_with_one_value_is_a_regression_and_the_card_says_so():
    symbol = object2vec(POOLED, classes=1, output="LinearRegressionOutput")
    network = read(heads(symbol, "output_layer"))
    assert network.output_layer == "mean_squared_error"
    assert "'output_layer' (FullyConnected)" in network.inferred[0]


def chain(op, count, **attrs):
    """The pooled graph, with a chain of nodes between its vectors and the comparators."""
    graph = graphs.Builder()
    u = graphs.pooled(graph, 0, POOLED, "embed_0_weight")
    v = graphs.pooled(graph, 1, POOLED, "embed_1_weight")
    graph.add("elemwise_mul", "hadamard", (u, v))
    graphs.dense(graph, "output_layer", "hadamard", 3)
    symbol = graph.symbol("output_layer")
    start = len(symbol["nodes"])
    for i in range(count):
        below = start - 1 + i
        width = 2 if op in ("elemwise_mul", "elemwise_add", "Concat") else 1
        symbol["nodes"].append(
            {"op": op, "name": f"n{i}", "attrs": attrs, "inputs": [[below, 0, 0]] * width}
        )
    symbol["nodes"].append(
        {"op": "softmax", "name": "last", "attrs": {}, "inputs": [[start + count - 1, 0, 0]]}
    )
    symbol["heads"] = [[start + count, 0, 0]]
    return symbol


def timed(symbol):
    graph = parse_symbol(json.dumps(symbol).encode(), "s")
    started = time.perf_counter()
    try:
        found = read_network(graph, "s")
    except ModelError as error:
        found = error
    assert time.perf_counter() - started < 1
    return found


def test_a_chain_of_ten_thousand_nodes_is_walked_at_once():
    assert isinstance(timed(chain("identity", 9_900)), Network)


@pytest.mark.parametrize("op", ["elemwise_mul", "elemwise_add", "Concat", "abs", "relu"])
def test_ten_thousand_diamonds_are_refused_at_once(op):
    assert isinstance(timed(chain(op, 9_900)), ModelError)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("expand_dims", {"axis": "0"}),
        ("Reshape", {"shape": "(-2, 1)"}),
        ("SwapAxis", {"dim1": "0", "dim2": "1"}),
        ("transpose", {"axes": "(1, 0)"}),
        ("zeros_like", {}),
        ("sum", {"axis": "0"}),
    ],
)
def test_long_chains_of_other_operators_end_at_once(op, attrs):
    assert isinstance(timed(chain(op, 9_900, **attrs)), ModelError)


def test_many_embeddings_behind_many_copies_end_at_once():
    nodes = [{"op": "null", "name": "x", "inputs": []}, {"op": "null", "name": "w", "inputs": []}]
    nodes += [
        {"op": "_copy", "name": f"c{i}", "inputs": [[i + (i > 0), 0, 0]]} for i in range(4_990)
    ]
    sizes = {"input_dim": "9", "output_dim": "9"}
    nodes += [
        {"op": "Embedding", "name": f"e{i}", "attrs": sizes, "inputs": [[4_991, 0, 0], [1, 0, 0]]}
        for i in range(5_000)
    ]
    symbol = {"nodes": nodes, "heads": [[i, 0, 0] for i in range(len(nodes))]}
    assert isinstance(timed(symbol), ModelError)


def test_a_mask_of_ten_thousand_axes_is_refused_shortly():
    symbol = copy.deepcopy(GRAPHS["pooled"])
    mask = graphs.Builder(symbol["nodes"]).index("mask_0")
    for i in range(9_900):
        below = len(symbol["nodes"]) - 1 if i else mask
        symbol["nodes"].append(
            {"op": "expand_dims", "name": f"n{i}", "attrs": {"axis": 0}, "inputs": [[below, 0, 0]]}
        )
    symbol["heads"].append([len(symbol["nodes"]) - 1, 0, 0])
    found = timed(symbol)
    assert "'n2' (expand_dims)" in str(found)
    assert len(str(found)) < 1000


def test_a_node_of_very_many_inputs_is_refused_shortly():
    inputs = ["vector_0", "vector_1"] * 40_000
    symbol = altered(GRAPHS["pooled"], "compared", inputs=inputs, num_args=None)
    found = timed(symbol)
    assert "80000 inputs" in str(found)
    assert len(str(found)) < 1000


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GRAPHS)), st.data())
def test_no_change_ends_in_another_error(name, data):
    """Anything changed anywhere gives a network or a ModelError, in a short message."""
    symbol = copy.deepcopy(GRAPHS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        node = data.draw(st.sampled_from(symbol["nodes"]))
        kind = data.draw(st.sampled_from(["op", "input", "attribute", "new", "less", "more"]))
        ops = sorted({other["op"] for other in symbol["nodes"]} | {"transpose", "Flatten"})
        if kind == "op":
            node["op"] = data.draw(st.sampled_from(ops))
        elif kind == "input" and node["inputs"]:
            entry = data.draw(st.sampled_from(node["inputs"]))
            entry[0] = data.draw(st.integers(0, len(symbol["nodes"])))
        elif kind == "attribute" and node.get("attrs"):
            key = data.draw(st.sampled_from(sorted(node["attrs"])))
            values = ["0", "1", "-1", "2", "()", "(0, 1)", "None", "True", "x", "1e30", "9" * 18]
            node["attrs"][key] = data.draw(st.sampled_from(values))
        elif kind == "new":
            keys = ["axis", "axes", "shape", "no_bias", "keepdims", "scalar", "num_args", "dim"]
            value = data.draw(st.sampled_from(["0", "1", "-1", "(2, 1, 0)", "True"]))
            node.setdefault("attrs", {})[data.draw(st.sampled_from(keys))] = value
        elif kind == "less" and node["inputs"]:
            node["inputs"].pop()
        elif kind == "more":
            node["inputs"].append([0, 0, 0])
    try:
        read(symbol)
    except ModelError as error:
        assert len(str(error)) < 1000
