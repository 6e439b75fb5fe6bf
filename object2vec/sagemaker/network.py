"""Which network a graph is: read from its nodes, never assumed.

The graph is walked forward. Each node is given the values of its inputs and says what
it makes of them (`operators.py`); where it cannot say, the graph is refused by the name
of the node. So every number that the graph would give is one that we give, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from object2vec.errors import ModelError
from object2vec.sagemaker.attributes import Attributes, Refused
from object2vec.sagemaker.call import Call
from object2vec.sagemaker.layers import Dense, EncoderNetwork
from object2vec.sagemaker.operators import rule_of
from object2vec.sagemaker.scoring import as_vector
from object2vec.sagemaker.symbol import Graph, Node, shown
from object2vec.sagemaker.values import (
    Hidden,
    Ids,
    Scores,
    Value,
    Variable,
    Vector,
)

_SIDE_OF_NAME = {"source": 0, "in0": 0, "data0": 0, "target": 1, "in1": 1, "data1": 1}

# Operators that hand ids on as they are. Only these may stand before an Embedding.
_SAME_IDS = frozenset(("identity", "_copy", "BlockGrad", "stop_gradient", "Cast", "cast"))
_EMBEDDINGS = frozenset(("Embedding", "_contrib_SparseEmbedding"))

_MAX_INPUTS = 16  # a Concat of the comparators, or of the layers of an encoder, has four


@dataclass(frozen=True, slots=True)
class Network:
    """What a graph computes, in our words; names of arrays are the artefact's.

    Attributes:
      encoders: of in0 and of in1.
      comparator_list: in the graph's order.
      hidden: fully connected layers, all of one width; may be empty.
      mlp_activation: of each of them; `linear` if there is none.
      output: the last layer.
      output_layer: `softmax` or `mean_squared_error`.
      inferred: what the graph does not say by itself, in sentences for the model card.
    """

    encoders: tuple[EncoderNetwork, EncoderNetwork]
    comparator_list: tuple[str, ...]
    hidden: tuple[Dense, ...]
    mlp_activation: str
    output: Dense
    output_layer: str
    inferred: tuple[str, ...]


def read_network(graph: Graph, member: str) -> Network:
    """Reads the network out of a graph.

    Args:
      member: the name of the graph, for messages.

    Raises:
      ModelError: a node is none that an Object2Vec network has, or stands where it does
        not belong; it is named, with its operator.
    """
    reached = _reached(graph)
    _check_names(reached, member)
    sides, inferred = _sides(reached)
    values: dict[int, Value] = {}
    for node in reached:
        try:
            values[node.index] = _value(node, values, graph, sides)
        except Refused as refusal:
            raise ModelError(
                f"{member}: {refusal.node or node}: {refusal.reason}. The graph is not one that"
                " can be run here with the numbers it would give; only Object2Vec networks are"
                " imported"
            ) from refusal
    scores, more = _scores(graph, values, member)
    return _network(scores.hidden, scores.output_layer, (*inferred, *more))


def _network(hidden: Hidden, output_layer: str, inferred: tuple[str, ...]) -> Network:
    layers = [layer for _, layer in hidden.layers]
    first, second = (vector.encoder for vector in hidden.features.vectors)
    sentences = list(inferred)
    for side, encoder in enumerate((first, second)):
        if encoder.padding_id != 0:
            sentences.append(
                f"The graph takes id {encoder.padding_id} of in{side} for padding, not 0; so"
                " sequences are padded with that id, and where it is sent it is no token."
            )
    if "bilstm" in (first.network, second.network):
        sentences.append(
            "No bilstm graph of SageMaker is public: which operators it is made of was inferred."
            " This graph holds just those, but what else the service does was not seen."
        )
    return Network(
        encoders=(first, second),
        comparator_list=hidden.features.comparators,
        hidden=tuple(layers[:-1]),
        mlp_activation=hidden.activations[0] if hidden.activations else "linear",
        output=layers[-1],
        output_layer=output_layer,
        inferred=tuple(sentences),
    )


def _reached(graph: Graph) -> list[Node]:
    """The nodes that the heads depend on, in order. Others are never computed."""
    wanted = {source for source, _ in graph.heads}
    # Inputs come before their readers, so one way back from the end finds all.
    for node in reversed(graph.nodes):
        if node.index in wanted:
            wanted.update(source for source, _ in node.inputs)
    return [node for node in graph.nodes if node.index in wanted]


def _check_names(nodes: Iterable[Node], member: str) -> None:
    seen: set[str] = set()
    for node in nodes:
        if node.op == "null" and node.name in seen:
            raise ModelError(
                f"{member}: {node} is there twice, so it is not clear which array it takes"
            )
        if node.op == "null":
            seen.add(node.name)


def _sides(nodes: Iterable[Node]) -> tuple[dict[int, int], tuple[str, ...]]:
    """Which variables are ids of in0 and in1: index to side, and what was inferred."""
    origins: dict[int, Node] = {}
    found: dict[int, str] = {}
    for node in nodes:
        origin = origins.get(node.inputs[0][0]) if node.inputs else None
        if node.op == "null":
            origins[node.index] = node
        elif origin is not None and node.op in _SAME_IDS:
            origins[node.index] = origin
        elif origin is not None and node.op in _EMBEDDINGS:
            found[origin.index] = origin.name
    by_name = {
        index: _SIDE_OF_NAME[name] for index, name in sorted(found.items()) if name in _SIDE_OF_NAME
    }
    if sorted(by_name.values()) == [0, 1]:
        return by_name, ()
    if len(found) == 2 and len(by_name) == 1:
        ((known, side),) = by_name.items()
        (other,) = found.keys() - by_name.keys()
        sentence = (
            f"Inputs of the graph are called {shown(found[known])}, which is in{side}, and"
            f" {shown(found[other])}, which was taken for in{1 - side}."
        )
        return {known: side, other: 1 - side}, (sentence,)
    # Others than two are given sides, too: the walk then says where it goes wrong.
    by_order = dict(zip(sorted(found), (0, 1), strict=False))
    names = [shown(found[index]) for index in by_order]
    sentence = (
        f"The inputs of the graph are called {' and '.join(names)}; in0 and in1 were told by"
        " their order."
    )
    return by_order, (sentence,)


def _value(
    node: Node, values: Mapping[int, Value], graph: Graph, sides: Mapping[int, int]
) -> Value:
    if node.op == "null":
        if node.index in sides:
            return Ids("BT", sides[node.index])
        return Variable(node.name)
    rule = rule_of(node.op)
    if rule is None:
        raise Refused("no Object2Vec network is known that has this operator")
    if len(node.inputs) > _MAX_INPUTS:
        raise Refused(f"it reads {len(node.inputs)} inputs; at most {_MAX_INPUTS} are known")
    for source, output in node.inputs:
        if output != 0:
            raise Refused(f"it reads output {output} of {graph.nodes[source]}; only 0 is known")
    attributes = Attributes(node.attrs)
    value = rule(Call(node, attributes, tuple(values[source] for source, _ in node.inputs)))
    attributes.check_all_read()
    return value


def _scores(
    graph: Graph, values: Mapping[int, Value], member: str
) -> tuple[Scores, tuple[str, ...]]:
    """The one head that is the scores; the others may be the vectors."""
    scores: list[Scores] = []
    vectors: list[tuple[Node, Vector]] = []
    inferred: tuple[str, ...] = ()
    for source, output in graph.heads:
        node, value = graph.nodes[source], as_vector(values[source])
        match value:
            case Scores() if output == 0:
                scores.append(value)
            case Vector() if output == 0:
                vectors.append((node, value))
            case Hidden() if output == 0 and _is_bare_regression(value):
                scores.append(Scores(value.axes, value, "mean_squared_error"))
                inferred = (
                    f"The graph ends with {node}, which gives one value and no more is done to"
                    " it; it was taken for a regression.",
                )
            case _:
                raise ModelError(
                    f"{member}: {node}: the graph gives its output {output}, {value}; but"
                    " an Object2Vec network gives scores, and vectors beside them at most"
                )
    if len(scores) != 1:
        names = ", ".join(str(graph.nodes[source]) for source, _ in graph.heads[:10])
        raise ModelError(
            f"{member}: {len(scores)} of the outputs of the graph are scores, but one must be;"
            f" it gives {names}"
        )
    for node, vector in vectors:
        if vector not in scores[0].hidden.features.vectors:
            raise ModelError(
                f"{member}: {node}: the graph gives a vector of in{vector.side} that is not the"
                " one its scores are made from"
            )
    return scores[0], inferred


def _is_bare_regression(hidden: Hidden) -> bool:
    is_linear = len(hidden.activations) < len(hidden.layers)
    return is_linear and hidden.layers[-1][1].num_hidden == 1
