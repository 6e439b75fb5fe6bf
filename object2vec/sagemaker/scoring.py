"""What each operator makes of the vectors: comparators, hidden layers, output."""

from __future__ import annotations

from object2vec.sagemaker.attributes import Refused
from object2vec.sagemaker.call import Call
from object2vec.sagemaker.layers import Dense
from object2vec.sagemaker.values import (
    Difference,
    Features,
    Hidden,
    Peak,
    Scores,
    Value,
    Variable,
    Vector,
)

_MAX_HIDDEN = 10


def as_vector(value: Value) -> Value:
    """The maximum of the only layer is the vector, even if no Concat follows."""
    if isinstance(value, Peak) and value.axes == "BF" and len(value.layers) == 1:
        encoder = value.tokens.encoder("hcnn", value.layers)
        return Vector("BD", value.tokens.side, encoder)
    return value


def hadamard(call: Call) -> Value:
    return Features("BD", ("hadamard",), _both(call))


def difference(call: Call) -> Value:
    _both(call)
    first, second = (as_vector(value) for value in call.values)
    match first, second:
        case Vector(side=0), Vector(side=1):
            return Difference("BD", (first, second))
        case Vector(side=1), Vector(side=0):
            # |v - u| is |u - v|, to the bit; and nothing but its absolute value is known.
            return Difference("BD", (second, first))
    raise call.unfit()


def absolute(call: Call) -> Value:
    match call.values:
        case (Difference(vectors=vectors),):
            return Features("BD", ("abs_diff",), vectors)
    raise call.unfit()


def _both(call: Call) -> tuple[Vector, Vector]:
    """u and v, in that order, of a call that reads them in either order."""
    for first, second in call.both_orders():
        match as_vector(first), as_vector(second):
            case Vector(side=0) as u, Vector(side=1) as v:
                return u, v
    raise call.unfit()


def concat(call: Call) -> Value:
    """Comparators side by side. u and then v is one of them."""
    if len(call.values) == 1:
        return call.values[0]
    parts: list[str] = []
    vectors: dict[int, Vector] = {}
    for value in map(as_vector, call.values):
        match value:
            case Vector():
                parts.append("uv"[value.side])
                own: tuple[Vector, ...] = (value,)
            case Features():
                parts.extend(value.comparators)
                own = value.vectors
            case _:
                raise call.unfit()
        for vector in own:
            if vectors.setdefault(vector.side, vector) != vector:
                raise Refused(f"it joins comparators of two different encoders of in{vector.side}")
    if not parts:
        raise call.unfit()
    comparators = _comparators(parts)
    return Features("BD", comparators, (vectors[0], vectors[1]))


def _comparators(parts: list[str]) -> tuple[str, ...]:
    names: list[str] = []
    rest = list(parts)
    while rest:
        if rest[:2] == ["u", "v"]:
            rest[:2] = ["concat"]
        name = rest.pop(0)
        if name in ("u", "v"):
            raise Refused(
                f"it joins {', '.join(parts)}; the vector of in0 (u) must stand directly before"
                " that of in1 (v)"
            )
        if name in names:
            raise Refused(f"it joins {', '.join(parts)}; a comparator may stand there only once")
        names.append(name)
    return tuple(names)


def fully_connected(call: Call) -> Value:
    attributes = call.attributes
    attributes.may_be_anything("flatten")  # what it reads has two axes, flat or not
    has_bias = not attributes.flag("no_bias", False)
    num_hidden = attributes.integer("num_hidden")
    weights = call.values[1:]
    names = [value.name for value in weights if isinstance(value, Variable)]
    if len(call.values) != 2 + has_bias or len(names) != len(weights):
        raise call.unfit()
    layer = Dense(call.node.name, names[0], names[1] if has_bias else None, num_hidden)
    match call.values[0]:
        case Features() as features:
            return Hidden("BD", features, ((call.node, layer),), ())
        case Hidden() as below:
            below = _as_hidden(below)
            return Hidden(
                "BD", below.features, (*below.layers, (call.node, layer)), below.activations
            )
    raise call.unfit()


def _as_hidden(below: Hidden) -> Hidden:
    """What another layer stands on: its last layer is a hidden one, so it must be like the others.

    A last layer without an activation is a linear one.
    """
    *earlier, (node, last) = below.layers
    if len(below.layers) > _MAX_HIDDEN:
        raise Refused(f"it is a hidden layer more than the {_MAX_HIDDEN} known", node)
    activations = below.activations
    if len(activations) < len(below.layers):
        activations = (*activations, "linear")
    if earlier and earlier[-1][1].num_hidden != last.num_hidden:
        raise Refused(
            f"num_hidden is {last.num_hidden}, in the layer before {earlier[-1][1].num_hidden};"
            " all hidden layers must have the same",
            node,
        )
    if earlier and activations[-2] != activations[-1]:
        raise Refused(
            f"its activation is {activations[-1]}, in the layer before {activations[-2]};"
            " all hidden layers must have the same",
            node,
        )
    return Hidden(below.axes, below.features, below.layers, activations)


def activation(call: Call, kind: str) -> Value:
    match call.values:
        case (Hidden() as below,) if len(below.activations) < len(below.layers):
            return Hidden("BD", below.features, below.layers, (*below.activations, kind))
    raise call.unfit()


def softmax_output(call: Call) -> Value:
    attributes = call.attributes
    attributes.must_be_flag("multi_output", False)
    attributes.must_be_flag("preserve_shape", False)
    attributes.may_be_anything("grad_scale", "ignore_label", "use_ignore")  # about gradients
    attributes.may_be_anything("normalization", "out_grad", "smooth_alpha")
    match call.values:
        case (Hidden() as hidden, Variable()):
            return _scores(hidden, "softmax")
    raise call.unfit()


def softmax(call: Call) -> Value:
    attributes = call.attributes
    axis = attributes.integer("axis", -1)
    if axis not in (-1, 1):
        raise Refused(f"attribute axis is {axis}; only the last one is known")
    attributes.must_be_number("temperature", 1)
    attributes.must_be("dtype", "float32")
    attributes.must_be_flag("use_length", False)
    match call.values:
        case (Hidden() as hidden,):
            return _scores(hidden, "softmax")
    raise call.unfit()


def regression_output(call: Call) -> Value:
    call.attributes.may_be_anything("grad_scale")
    match call.values:
        case (Hidden() as hidden, Variable()):
            return _scores(hidden, "mean_squared_error")
    raise call.unfit()


def _scores(hidden: Hidden, output_layer: str) -> Scores:
    node, output = hidden.layers[-1]
    if len(hidden.activations) == len(hidden.layers):
        raise Refused(
            f"between it and {node} stands {hidden.activations[-1]}; the output layer has no"
            " activation"
        )
    if output_layer == "mean_squared_error" and output.num_hidden != 1:
        raise Refused(f"num_hidden is {output.num_hidden}; a regression gives one value", node)
    return Scores("BD", hidden, output_layer)
