"""What each operator makes of the values it reads, inside the encoders.

A rule takes a node with its values and says what comes out, or refuses. What is not
written here is not known to stand in an Object2Vec network, so it has no rule.

Source: sections 3.4 and 4.3 of the notes on SageMaker, and MXNet's operators.
"""

from __future__ import annotations

from collections.abc import Callable

from object2vec.sagemaker import call as shapes
from object2vec.sagemaker import masks, scoring
from object2vec.sagemaker.attributes import Attributes, Refused
from object2vec.sagemaker.call import Call, fits, over_time, with_axes
from object2vec.sagemaker.layers import ConvolutionLayer, LstmStack
from object2vec.sagemaker.values import (
    Convolved,
    Count,
    Embedded,
    Ids,
    IsEmpty,
    Mask,
    MaskedStates,
    NotEmpty,
    OfMask,
    OfTokens,
    Peak,
    PenalisedStates,
    Penalty,
    SafeCount,
    StatePeak,
    States,
    Tokens,
    TokenSum,
    Value,
    Variable,
    Vector,
    Zeros,
)

Rule = Callable[[Call], Value]

_MAX_LAYERS = 4
_MAX_WIDTH = 9


def _embedding(out_of_range: str) -> Rule:
    def rule(call: Call) -> Value:
        attributes = call.attributes
        attributes.must_be("dtype", "float32")
        attributes.may_be_anything("sparse_grad", "deterministic")  # about gradients
        vocab_size, dim = attributes.integer("input_dim"), attributes.integer("output_dim")
        match call.values:
            case (Ids(axes=axes, side=side), Variable(name=table)):
                return Embedded(axes + "E", side, table, vocab_size, dim, out_of_range)
        raise call.unfit()

    return rule


def _belongs(flags: OfMask, value: OfTokens, broadcasts: bool) -> bool:
    """Whether flags are of the ids that the value was made from, and of its shape."""
    return flags.goes_with(value.tokens) and fits(flags, value, broadcasts)


def _add(broadcasts: bool) -> Rule:
    def rule(call: Call) -> Value:
        for first, second in call.both_orders():
            match first, second:
                case Count() as count, IsEmpty() as empty if (
                    count.goes_with(empty) and count.axes == empty.axes
                ):
                    return count.turned_into(SafeCount)
                case MaskedStates() as states, Penalty() as penalty if _belongs(
                    penalty, states, broadcasts
                ):
                    return PenalisedStates(states.axes, states.tokens, states.lstm)
        raise call.unfit()

    return rule


def _multiply(broadcasts: bool) -> Rule:
    def rule(call: Call) -> Value:
        for first, second in call.both_orders():
            match first, second:
                case Embedded() as rows, Mask() as mask if rows.side == mask.side and fits(
                    mask, rows, broadcasts
                ):
                    return Tokens(
                        axes=rows.axes,
                        side=rows.side,
                        padding_id=mask.padding_id,
                        table=rows.table,
                        vocab_size=rows.vocab_size,
                        dim=rows.dim,
                        out_of_range=rows.out_of_range,
                    )
                case States() as states, Mask() as mask if _belongs(mask, states, broadcasts):
                    return MaskedStates(states.axes, states.tokens, states.lstm)
                case StatePeak(axes="BH") as peak, NotEmpty() as flag if _belongs(
                    flag, peak, broadcasts
                ):
                    encoder = peak.tokens.encoder("bilstm", lstm=peak.lstm)
                    return Vector("BD", peak.tokens.side, encoder)
        return scoring.hadamard(call)

    return rule


def _divide(broadcasts: bool) -> Rule:
    def rule(call: Call) -> Value:
        match call.values:
            case (TokenSum(axes="BE") as total, SafeCount() as count) if _belongs(
                count, total, broadcasts
            ):
                encoder = total.tokens.encoder("pooled_embedding")
                return Vector("BD", total.tokens.side, encoder)
        raise call.unfit()

    return rule


def _sum(call: Call) -> Value:
    value, axes = over_time(call)
    match value:
        case Tokens() as tokens:
            return TokenSum(axes, with_axes(tokens, "BTE"))
        case Mask():
            return Count(axes, value.side, value.padding_id)
    raise call.unfit()


def _max(call: Call) -> Value:
    value, axes = over_time(call)
    match value:
        case Convolved(is_active=True):
            return Peak(axes, value.tokens, value.layers)
        case PenalisedStates():
            return StatePeak(axes, value.tokens, value.lstm)
    raise call.unfit()


def _convolution(call: Call) -> Value:
    has_bias = not call.attributes.flag("no_bias", False)
    weights = call.values[1:]
    names = [value.name for value in weights if isinstance(value, Variable)]
    if len(call.values) != 2 + has_bias or len(names) != len(weights):
        raise call.unfit()
    layer = _layer(call.attributes, names[0], names[1] if has_bias else None)
    match call.values[0]:
        case Tokens(axes="BET") as tokens:
            # From here on the axes of the tokens tell nothing.
            return Convolved("BFT", with_axes(tokens, "BTE"), (layer,), is_active=False)
        case Convolved(axes="BFT", is_active=True) as below:
            if len(below.layers) == _MAX_LAYERS:
                raise Refused(f"it is a layer more than the {_MAX_LAYERS} that hcnn may have")
            ours, theirs = ((at.num_filters, at.width, at.pad) for at in (layer, below.layers[-1]))
            if ours != theirs:
                raise Refused(
                    f"num_filter, kernel and pad are {ours}, in the layer before {theirs};"
                    " in hcnn all layers have the same"
                )
            return Convolved("BFT", below.tokens, (*below.layers, layer), is_active=False)
    raise call.unfit()


def _layer(attributes: Attributes, weight: str, bias: str | None) -> ConvolutionLayer:
    attributes.must_be_integer("stride", 1)
    attributes.must_be_integer("dilate", 1)
    attributes.must_be_integer("num_group", 1)
    attributes.must_be("layout", "NCW")
    attributes.may_be_anything("workspace", "cudnn_tune", "cudnn_off")
    num_filters = attributes.integer("num_filter")
    width, pad = attributes.one_integer("kernel"), attributes.one_integer("pad", 0)
    if not 1 <= width <= _MAX_WIDTH:
        raise Refused(f"attribute kernel is {width}; hcnn has filters of width 1 to {_MAX_WIDTH}")
    if not 0 <= pad < width:
        raise Refused(f"attribute pad is {pad}; it must be from 0 to {width - 1}, the width less 1")
    return ConvolutionLayer(weight, bias, num_filters, width, pad)


def _activation(call: Call, kind: str) -> Value:
    match call.values:
        case (Convolved(is_active=False) as below,) if kind == "relu":
            return Convolved(below.axes, below.tokens, below.layers, is_active=True)
    return scoring.activation(call, kind)


def _activation_by_name(call: Call) -> Value:
    return _activation(call, call.attributes.word("act_type", "relu", "tanh"))


def _rnn(call: Call) -> Value:
    attributes = call.attributes
    attributes.word("mode", "lstm")
    attributes.must_be_flag("bidirectional", True)
    attributes.must_be_flag("use_sequence_length", False)
    attributes.must_be_flag("lstm_state_clip_nan", False)
    for name in ("projection_size", "lstm_state_clip_min", "lstm_state_clip_max"):
        attributes.must_be(name, "None")
    attributes.may_be_anything("p")  # dropout between layers
    attributes.flag("state_outputs", False)  # they are outputs 1 and 2, which nobody may read
    num_layers, state_size = attributes.integer("num_layers"), attributes.integer("state_size")
    if not 1 <= num_layers <= _MAX_LAYERS:
        raise Refused(f"attribute num_layers is {num_layers}; bilstm has 1 to {_MAX_LAYERS}")
    match call.values:
        case (
            Tokens(axes="TBE") as tokens,
            Variable(name=parameters),
            Zeros() as state,
            Zeros() as cell,
        ):
            for zeros in (state, cell):
                if len(zeros.shape) != 3 or zeros.shape[::2] != (2 * num_layers, state_size):
                    raise Refused(f"its first states are {zeros}, which does not fit its sizes")
            stack = LstmStack(parameters, num_layers, state_size)
            return States("TBH", with_axes(tokens, "BTE"), stack)
    raise call.unfit()


def _concat(call: Call) -> Value:
    """The peaks of a convolution network, side by side; or the comparators."""
    attributes = call.attributes
    num_args = attributes.integer("num_args", len(call.values))
    if num_args != len(call.values):
        raise Refused(f"attribute num_args is {num_args}, but it reads {len(call.values)} inputs")
    axis = attributes.integer("dim", 1)
    if axis not in (1, -1):
        raise Refused(f"attribute dim is {axis}; only 1 is known")
    peaks = [value for value in call.values if isinstance(value, Peak)]
    sides = {peak.tokens.side for peak in peaks}
    if peaks and len(peaks) == len(call.values) and len(sides) == 1:
        return _all_peaks(peaks)
    return scoring.concat(call)


def _all_peaks(peaks: list[Peak]) -> Value:
    last = peaks[-1]
    # The number first: behind all layers, those up to a place are all of them again.
    if len(peaks) != len(last.layers) or any(
        peak.axes != "BF" or peak.tokens != last.tokens or peak.layers != last.layers[:place]
        for place, peak in enumerate(peaks, start=1)
    ):
        raise Refused(
            "it does not join the maxima of all layers of one encoder, each once and in order"
        )
    return Vector("BD", last.tokens.side, last.tokens.encoder("hcnn", last.layers))


def rule_of(op: str) -> Rule | None:
    """The rule of an operator, by any of its names."""
    return _RULES.get(op)


def _by_names(*pairs: tuple[str, Rule]) -> dict[str, Rule]:
    return {name: rule for names, rule in pairs for name in names.split()}


_RULES = _by_names(
    ("BlockGrad stop_gradient identity _copy", shapes.same),
    ("Dropout", shapes.dropout),
    ("Cast cast", shapes.cast),
    ("SwapAxis swapaxes", shapes.swap_axes),
    ("transpose", shapes.transpose),
    ("expand_dims", shapes.expand_dims),
    ("Reshape reshape", shapes.reshape),
    ("Flatten flatten", shapes.flatten),
    ("Embedding", _embedding("clip")),
    ("_contrib_SparseEmbedding", _embedding("error")),
    ("_not_equal_scalar _NotEqualScalar", masks.not_equal_scalar),
    ("_equal_scalar _EqualScalar", masks.equal_scalar),
    ("_equal _Equal broadcast_equal", masks.equal),
    ("_minus_scalar _MinusScalar", masks.minus_scalar),
    ("_mul_scalar _MulScalar", masks.times_scalar),
    ("_maximum_scalar _MaximumScalar", masks.maximum_scalar),
    ("elemwise_add _add _plus _Plus", _add(broadcasts=False)),
    ("broadcast_add broadcast_plus", _add(broadcasts=True)),
    ("elemwise_sub _sub _minus _Minus", scoring.difference),
    ("broadcast_sub broadcast_minus", scoring.difference),
    ("elemwise_mul _mul _Mul", _multiply(broadcasts=False)),
    ("broadcast_mul", _multiply(broadcasts=True)),
    ("elemwise_div _div _Div", _divide(broadcasts=False)),
    ("broadcast_div", _divide(broadcasts=True)),
    ("zeros_like", masks.zeros_like),
    ("_zeros", masks.zeros),
    ("sum sum_axis", _sum),
    ("max max_axis", _max),
    ("abs", scoring.absolute),
    ("Activation", _activation_by_name),
    ("relu", lambda call: _activation(call, "relu")),
    ("tanh", lambda call: _activation(call, "tanh")),
    ("Convolution", _convolution),
    ("RNN", _rnn),
    ("Concat concat", _concat),
    ("FullyConnected", scoring.fully_connected),
    ("SoftmaxOutput Softmax", scoring.softmax_output),
    ("softmax", scoring.softmax),
    ("LinearRegressionOutput", scoring.regression_output),
)
"""Names and their aliases. Source: MXNet's registrations, 0.8 to 1.9."""
