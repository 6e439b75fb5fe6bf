"""Symbol JSON as MXNet writes it, built node by node: whole networks, and single changes to them.

Written from section 3.4 of the notes on SageMaker and from the golden graphs, not from the code
that reads them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np

STYLES = ("attrs", "attr", "param")
SIDES = ("source", "target")


@dataclass
class Builder:
    """A graph that grows. Nodes are known by their names here."""

    nodes: list[dict] = field(default_factory=list)

    def add(self, op, name, inputs=(), **attrs):
        self.nodes.append(
            {
                "op": op,
                "name": name,
                "attrs": {key: str(value) for key, value in attrs.items()},
                "inputs": [[self.index(source), 0, 0] for source in inputs],
            }
        )
        return name

    def var(self, name, **attrs):
        """Once, however often it is asked for."""
        known = any(node["name"] == name for node in self.nodes)
        return name if known else self.add("null", name, **attrs)

    def index(self, name):
        return next(i for i, node in enumerate(self.nodes) if node["name"] == name)

    def symbol(self, *heads):
        return {
            "nodes": self.nodes,
            "arg_nodes": [i for i, node in enumerate(self.nodes) if node["op"] == "null"],
            "node_row_ptr": list(range(len(self.nodes) + 1)),
            "heads": [[self.index(head), 0, 0] for head in heads],
            "attrs": {"mxnet_version": ["int", 10901]},
        }


@dataclass(frozen=True)
class Side:
    """An encoder to build."""

    network: str = "pooled_embedding"
    vocab_size: int = 50
    dim: int = 12
    layers: int = 2
    filters: int = 6
    width: int = 3
    pad: int = 1
    state_size: int = 6
    padding_id: int = 0
    op: str = "Embedding"
    bias: bool = True


def masked(graph, side, spec, table):
    """ids -> embeddings, the mask [B, T, 1], and their product."""
    name = SIDES[side]
    graph.var(name)
    graph.var(table)
    sizes = {"input_dim": spec.vocab_size, "output_dim": spec.dim}
    graph.add(spec.op, f"embed_{side}", (name, table), **sizes)
    graph.add("_not_equal_scalar", f"mask_{side}", (name,), scalar=spec.padding_id)
    graph.add("Reshape", f"reshape_{side}", (f"mask_{side}",), shape="(0, 0, 1)")
    return graph.add("broadcast_mul", f"tokens_{side}", (f"embed_{side}", f"reshape_{side}"))


def pooled(graph, side, spec, table):
    tokens = masked(graph, side, spec, table)
    graph.add("sum", f"total_{side}", (tokens,), axis=1)
    graph.add("sum", f"count_{side}", (f"reshape_{side}",), axis=1)
    graph.add("zeros_like", f"zeros_{side}", (f"count_{side}",))
    graph.add("_equal", f"empty_{side}", (f"count_{side}", f"zeros_{side}"))
    graph.add("elemwise_add", f"safe_{side}", (f"count_{side}", f"empty_{side}"))
    graph.add("broadcast_div", f"mean_{side}", (f"total_{side}", f"safe_{side}"))
    return graph.add("Dropout", f"vector_{side}", (f"mean_{side}",), p="0.1")


def hcnn(graph, side, spec, table):
    tokens = masked(graph, side, spec, table)
    below = graph.add("SwapAxis", f"swap_{side}", (tokens,), dim1=1, dim2=2)
    peaks = []
    for layer in range(spec.layers):
        name = f"{SIDES[side]}_{layer}"
        sizes = {"kernel": f"({spec.width},)", "num_filter": spec.filters, "pad": f"({spec.pad},)"}
        weights = [graph.var(f"{name}_weight", **sizes)]
        if spec.bias:
            weights.append(graph.var(f"{name}_bias", **sizes))
        else:
            sizes["no_bias"] = True
        graph.add("Convolution", name, (below, *weights), **sizes)
        graph.add("Activation", f"relu_{side}_{layer}", (name,), act_type="relu")
        peaks.append(graph.add("max", f"max_{side}_{layer}", (f"relu_{side}_{layer}",), axis=2))
        below = graph.add("Dropout", f"drop_{side}_{layer}", (f"relu_{side}_{layer}",), p="0.0")
    return graph.add("Concat", f"vector_{side}", peaks, dim=1, num_args=len(peaks))


def bilstm(graph, side, spec, table):
    tokens = masked(graph, side, spec, table)
    graph.add("SwapAxis", f"swap_{side}", (tokens,), dim1=0, dim2=1)
    graph.var(f"{SIDES[side]}_lstm_parameters")
    shape = f"({2 * spec.layers}, 0, {spec.state_size})"
    for state in ("state", "cell"):
        graph.add("_zeros", f"{state}_{side}", dtype="float32", shape=shape, __layout__="LNC")
    graph.add(
        "RNN",
        f"rnn_{side}",
        (f"swap_{side}", f"{SIDES[side]}_lstm_parameters", f"state_{side}", f"cell_{side}"),
        bidirectional=True,
        mode="lstm",
        num_layers=spec.layers,
        p="0.0",
        state_outputs=False,
        state_size=spec.state_size,
    )
    graph.add("SwapAxis", f"back_{side}", (f"rnn_{side}",), dim1=0, dim2=1)
    graph.add("broadcast_mul", f"states_{side}", (f"back_{side}", f"reshape_{side}"))
    graph.add("_minus_scalar", f"less_{side}", (f"reshape_{side}",), scalar=1)
    graph.add("_mul_scalar", f"penalty_{side}", (f"less_{side}",), scalar="1e+30")
    graph.add("broadcast_add", f"open_{side}", (f"states_{side}", f"penalty_{side}"))
    graph.add("max", f"peak_{side}", (f"open_{side}",), axis=1)
    graph.add("sum", f"count_{side}", (f"reshape_{side}",), axis=1)
    graph.add("_not_equal_scalar", f"any_{side}", (f"count_{side}",), scalar=0)
    return graph.add("broadcast_mul", f"vector_{side}", (f"peak_{side}", f"any_{side}"))


ENCODERS = {"pooled_embedding": pooled, "hcnn": hcnn, "bilstm": bilstm}


def compared(graph, u, v, comparators):
    parts = []
    for name in comparators:
        if name == "hadamard":
            parts.append(graph.add("elemwise_mul", "hadamard", (u, v)))
        elif name == "concat":
            parts += [u, v]
        else:
            graph.add("elemwise_sub", "minus", (u, v))
            parts.append(graph.add("abs", "abs_diff", ("minus",)))
    return graph.add("Concat", "compared", parts, dim=1, num_args=len(parts))


def dense(graph, name, below, width):
    weights = [graph.var(f"{name}_{kind}", num_hidden=width) for kind in ("weight", "bias")]
    return graph.add("FullyConnected", name, (below, *weights), num_hidden=width)


def object2vec(
    *sides,
    comparators=("hadamard", "concat", "abs_diff"),
    hidden=(8, 8),
    activation="relu",
    classes=3,
    output="SoftmaxOutput",
    tied=False,
    heads=(),
    style="attrs",
):
    """A whole graph, of one kind of encoder twice or of two.

    Args:
      heads: nodes that the graph gives beside its scores.
      style: where attributes stand, and how many numbers an input has.
    """
    graph = Builder()
    first, second = sides * 2 if len(sides) == 1 else sides
    vectors = []
    for side, spec in enumerate((first, second)):
        table = "embed_shared_weight" if tied else f"embed_{side}_weight"
        vectors.append(ENCODERS[spec.network](graph, side, spec, table))
    below = compared(graph, *vectors, comparators)
    for place, width in enumerate(hidden):
        below = dense(graph, f"mlp_fc{place}", below, width)
        if activation != "linear":
            graph.add("Activation", f"act_{place}", (below,), act_type=activation)
            below = graph.add("Dropout", f"mlp_drop{place}", (f"act_{place}",), p="0.0")
    below = dense(graph, "output_layer", below, classes)
    inputs = (below,) if output == "softmax" else (below, graph.var("out_layer_label"))
    graph.add(output, "out_layer", inputs)
    return in_style(graph.symbol("out_layer", *heads), style)


def in_style(symbol, style):
    """The same graph as other versions of MXNet write it."""
    symbol = copy.deepcopy(symbol)
    for node in symbol["nodes"]:
        attrs = node.pop("attrs", {})
        if attrs or style == "param":
            node[style] = attrs
        if style == "param":
            node["inputs"] = [entry[:2] for entry in node["inputs"]]
            node["backward_source_id"] = -1
    if style == "param":
        symbol["heads"] = [entry[:2] for entry in symbol["heads"]]
        del symbol["attrs"], symbol["node_row_ptr"]
    return symbol


def node_of(symbol, name):
    return next(node for node in symbol["nodes"] if node["name"] == name)


def altered(symbol, name, *, op=None, inputs=None, output=None, **attrs):
    """A copy with one node changed.

    Args:
      inputs: names of other inputs.
      output: the output of its first input that it reads.
      attrs: to set; None takes one away.
    """
    symbol = copy.deepcopy(symbol)
    node = node_of(symbol, name)
    names = [other["name"] for other in symbol["nodes"]]
    node["op"] = op or node["op"]
    if inputs is not None:
        node["inputs"] = [[names.index(source), 0, 0] for source in inputs]
    if output is not None:
        node["inputs"][0][1] = output
    for key, value in attrs.items():
        node.setdefault("attrs", {})[key] = value
        if value is None:
            del node["attrs"][key]
    return symbol


def inserted(symbol, before, op, name, inputs, **attrs):
    """A copy with a node more, put before another; who reads it must be altered."""
    symbol = copy.deepcopy(symbol)
    names = [node["name"] for node in symbol["nodes"]]
    at = names.index(before)

    def moved(index):
        return index + (index >= at)

    for node in symbol["nodes"]:
        node["inputs"] = [[moved(i), *rest] for i, *rest in node["inputs"]]
    symbol["heads"] = [[moved(i), *rest] for i, *rest in symbol["heads"]]
    new = {"op": op, "name": name, "attrs": {k: str(v) for k, v in attrs.items()}, "inputs": []}
    new["inputs"] = [[moved(names.index(source)), 0, 0] for source in inputs]
    symbol["nodes"].insert(at, new)
    return symbol


def lstm_size(dim, layers, state_size):
    """Numbers in the parameters of a fused bidirectional LSTM, both biases included."""
    total = 0
    for layer in range(layers):
        width = dim if layer == 0 else 2 * state_size
        total += 2 * 4 * state_size * (width + state_size + 2)
    return total


def random_arrays(
    *sides,
    comparators=("hadamard", "concat", "abs_diff"),
    hidden=(8, 8),
    classes=3,
    tied=False,
    seed=0,
    **_,
):
    """Weights for the graph that `object2vec` builds of the same arguments."""
    rng = np.random.default_rng(seed)
    shapes = {}
    first, second = sides * 2 if len(sides) == 1 else sides
    for side, spec in enumerate((first, second)):
        table = "embed_shared_weight" if tied else f"embed_{side}_weight"
        shapes[table] = (spec.vocab_size, spec.dim)
        if spec.network == "hcnn":
            width = spec.dim
            for layer in range(spec.layers):
                name = f"{SIDES[side]}_{layer}"
                shapes[f"{name}_weight"] = (spec.filters, width, spec.width)
                if spec.bias:
                    shapes[f"{name}_bias"] = (spec.filters,)
                width = spec.filters
        elif spec.network == "bilstm":
            size = lstm_size(spec.dim, spec.layers, spec.state_size)
            shapes[f"{SIDES[side]}_lstm_parameters"] = (size,)
    enc_dim = {
        "hcnn": first.layers * first.filters,
        "bilstm": 2 * first.state_size,
        "pooled_embedding": first.dim,
    }[first.network]
    width = enc_dim * sum({"concat": 2}.get(name, 1) for name in comparators)
    for place, size in enumerate(hidden):
        shapes |= {f"mlp_fc{place}_weight": (size, width), f"mlp_fc{place}_bias": (size,)}
        width = size
    shapes |= {"output_layer_weight": (classes, width), "output_layer_bias": (classes,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
