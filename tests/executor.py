"""MXNet's operators once more, in float64 numpy: a witness for what an archive says.

It runs any symbol JSON made of the operators below, node by node, without a notion of
encoders. Written from the semantics of MXNet 1.x (and the golden answers, which MXNet
gave), without a look at the code that imports archives. What it does not know, it
refuses: an operator, or an attribute of another value than it works out here.

Shapes: B records, T positions, E below, F filters, H state.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Attributes = Mapping[str, Any]


def run(
    symbol: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    output: str | None = None,
) -> np.ndarray:
    """The value of a node.

    Args:
      symbol: symbol JSON, of any version.
      arrays: weights by the names of their variables.
      inputs: values of other variables.
      output: name of a node, with or without `_output`; None takes the first head.

    Raises:
      KeyError: a variable that is needed has no value.
      IndexError: an id is outside a table that allows none.
      NotImplementedError: an operator or an attribute is none of those here.
    """
    nodes = symbol["nodes"]
    names = [node["name"] for node in nodes]
    if output is None:
        goal = symbol["heads"][0][0]
    else:
        goal = names.index(output if output in names else output.removesuffix("_output"))
    needed = {goal}
    for index in range(goal, -1, -1):
        if index in needed:
            needed |= set(_operands(nodes[index]))
    values: dict[int, np.ndarray] = {}
    for index in sorted(needed):
        node = nodes[index]
        if node["op"] == "null":
            given = inputs if node["name"] in inputs else arrays
            values[index] = np.asarray(given[node["name"]], np.float64)
            continue
        if node["op"] not in _OPERATORS:
            raise NotImplementedError(f"operator {node['op']} of {node['name']}")
        operands = [values[operand] for operand in _operands(node)]
        values[index] = _OPERATORS[node["op"]](_attributes_of(node), *operands)
    return values[goal]


def _operands(node: Mapping[str, Any]) -> list[int]:
    entries = node["inputs"]
    if node["op"] in ("SoftmaxOutput", "LinearRegressionOutput"):
        entries = entries[:1]  # the other one is the label, which matters in training alone
    for _, output, *_ in entries:
        if output != 0:
            raise NotImplementedError(f"{node['name']} reads output {output}")
    return [entry[0] for entry in entries]


def _attributes_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the operator, as Python values. `__x__` are the user's."""
    found = {**node.get("attr", {}), **node.get("attrs", {}), **node.get("param", {})}
    return {k: _value(v) for k, v in found.items() if not k.startswith("__")}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a word, such as relu


def _only(attributes: Attributes, **allowed: Any) -> None:
    """Refuses attributes that are not named, or have another value than the one allowed.

    Args:
      allowed: the value, or Ellipsis where any will do.
    """
    for name, value in attributes.items():
        if name not in allowed or (allowed[name] is not ... and value != allowed[name]):
            raise NotImplementedError(f"attribute {name} = {value!r}")


# Operators: attributes and operands to one value


def _embedding(attributes: Attributes, ids_BT: np.ndarray, table: np.ndarray) -> np.ndarray:
    _only(attributes, input_dim=..., output_dim=..., dtype="float32", sparse_grad=...)
    assert table.shape == (attributes["input_dim"], attributes["output_dim"])
    return table[np.clip(ids_BT.astype(np.int64), 0, len(table) - 1)]


def _sparse_embedding(attributes: Attributes, ids_BT: np.ndarray, table: np.ndarray) -> np.ndarray:
    if ((ids_BT < 0) | (ids_BT >= len(table))).any():
        raise IndexError("SparseEmbedding input contains data out of bound")
    return _embedding({k: v for k, v in attributes.items() if k != "deterministic"}, ids_BT, table)


def _reshape(attributes: Attributes, data: np.ndarray) -> np.ndarray:
    _only(attributes, shape=...)
    shape: list[int] = []
    for place, code in enumerate(attributes["shape"]):
        if code == 0:
            shape.append(data.shape[place])
        elif code == -2:  # all that are left
            shape += data.shape[place:]
        elif code >= -1:
            shape.append(code)
        else:
            raise NotImplementedError(f"shape {attributes['shape']}")
    return data.reshape(shape)


def _expand_dims(attributes: Attributes, data: np.ndarray) -> np.ndarray:
    _only(attributes, axis=...)
    return np.expand_dims(data, attributes["axis"])


def _swap_axis(attributes: Attributes, data: np.ndarray) -> np.ndarray:
    _only(attributes, dim1=..., dim2=...)
    return np.swapaxes(data, attributes.get("dim1", 0), attributes.get("dim2", 0))


def _transpose(attributes: Attributes, data: np.ndarray) -> np.ndarray:
    _only(attributes, axes=...)
    return np.transpose(data, attributes.get("axes") or None)


def _convolution(
    attributes: Attributes,
    data_BET: np.ndarray,
    weight_FEW: np.ndarray,
    bias_F: np.ndarray | None = None,
) -> np.ndarray:
    _only(attributes, kernel=..., pad=..., num_filter=..., no_bias=..., layout=None, num_group=1)
    width, pad = (_single(attributes.get(name) or 0) for name in ("kernel", "pad"))
    assert bool(attributes.get("no_bias", False)) == (bias_F is None)
    assert weight_FEW.shape == (attributes["num_filter"], data_BET.shape[1], width)
    wide = np.pad(data_BET, ((0, 0), (0, 0), (pad, pad)))
    windows_BETW = sliding_window_view(wide, width, axis=2)  # ValueError if there is none
    result_BTF = np.tensordot(windows_BETW, weight_FEW, axes=([1, 3], [1, 2]))
    if bias_F is not None:
        result_BTF = result_BTF + bias_F
    return result_BTF.transpose(0, 2, 1)


def _single(value: int | tuple[int]) -> int:
    return value if isinstance(value, int) else int(*value)  # "3" and "(3,)" are one


def _activation(attributes: Attributes, data: np.ndarray) -> np.ndarray:
    _only(attributes, act_type=...)
    kinds = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "sigmoid": _sigmoid}
    return kinds[attributes["act_type"]](data)


def _sigmoid(data: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(data / 2)) / 2  # does not overflow


def _reduction(over: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def reduced(attributes: Attributes, data: np.ndarray) -> np.ndarray:
        _only(attributes, axis=..., keepdims=..., exclude=False)
        axis = attributes.get("axis")
        axis = tuple(axis) or None if isinstance(axis, tuple | list) else axis
        return over(data, axis=axis, keepdims=bool(attributes.get("keepdims", False)))

    return reduced


def _pairwise(function: Callable[..., np.ndarray], broadcasts: bool) -> Callable[..., np.ndarray]:
    def computed(attributes: Attributes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        _only(attributes)
        assert a.ndim == b.ndim and (broadcasts or a.shape == b.shape), (a.shape, b.shape)
        return function(a, b).astype(np.float64)

    return computed


def _with_scalar(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def computed(attributes: Attributes, data: np.ndarray) -> np.ndarray:
        _only(attributes, scalar=..., is_int=...)
        return function(data, float(attributes["scalar"])).astype(np.float64)

    return computed


def _unary(function: Callable[..., np.ndarray], **allowed: Any) -> Callable[..., np.ndarray]:
    def computed(attributes: Attributes, data: np.ndarray) -> np.ndarray:
        _only(attributes, **allowed)
        return function(data)

    return computed


def _concat(attributes: Attributes, *parts: np.ndarray) -> np.ndarray:
    _only(attributes, dim=..., num_args=len(parts))
    return np.concatenate(parts, axis=attributes.get("dim", 1))


def _fully_connected(
    attributes: Attributes, data: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    _only(attributes, num_hidden=..., no_bias=..., flatten=...)
    assert bool(attributes.get("no_bias", False)) == (bias is None)
    assert len(weight) == attributes["num_hidden"]
    if attributes.get("flatten", True):
        data = data.reshape(len(data), -1)
    return data @ weight.T + (0 if bias is None else bias)


def _softmax(attributes: Attributes, data: np.ndarray) -> np.ndarray:
    assert data.ndim == 2  # of more dimensions, the two operators mean different things
    powers = np.exp(data - data.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _softmax_op(attributes: Attributes, data: np.ndarray) -> np.ndarray:
    _only(attributes, axis=..., temperature=None)
    assert attributes.get("axis", -1) in (-1, 1)
    return _softmax(attributes, data)


def _softmax_output(attributes: Attributes, data: np.ndarray) -> np.ndarray:
    _only(attributes, grad_scale=..., normalization=..., multi_output=False, preserve_shape=False)
    return _softmax(attributes, data)


def _zeros(attributes: Attributes) -> np.ndarray:
    _only(attributes, shape=..., dtype="float32", ctx=...)
    return np.zeros(attributes["shape"])  # 0 is a number that follows from who reads it


def _rnn(
    attributes: Attributes,
    data_TBE: np.ndarray,
    parameters: np.ndarray,
    state: np.ndarray,
    cell: np.ndarray,
) -> np.ndarray:
    """[T, B, directions x H]. A layer reads both directions of the one below, side by side."""
    _only(
        attributes,
        **{"bidirectional": ..., "mode": "lstm", "num_layers": ..., "p": ..., "state_size": ...},
        **{"state_outputs": ..., "projection_size": None, "use_sequence_length": False},
    )
    size, num_layers = attributes["state_size"], attributes["num_layers"]
    directions = (1, -1) if attributes.get("bidirectional", False) else (1,)
    for begin in (state, cell):
        assert begin.shape[::2] == (num_layers * len(directions), size) and not begin.any()
    # All weights stand before all biases.
    rest = iter(parameters)
    widths = [data_TBE.shape[2]] + [len(directions) * size] * (num_layers - 1)
    keys = [(layer, direction) for layer in range(num_layers) for direction in directions]
    weights = {
        key: (_take(rest, 4 * size, widths[key[0]]), _take(rest, 4 * size, size)) for key in keys
    }
    biases = {key: _take(rest, 2, 4 * size).sum(axis=0) for key in keys}
    assert next(rest, None) is None, "parameters are left over"
    for layer in range(num_layers):
        data_TBE = np.concatenate(
            [
                _lstm(data_TBE[::step], *weights[layer, step], biases[layer, step])[::step]
                for step in directions
            ],
            axis=2,
        )
    return data_TBE


def _take(numbers: Iterator[float], *shape: int) -> np.ndarray:
    return np.array([next(numbers) for _ in range(int(np.prod(shape)))]).reshape(shape)


def _lstm(
    data_TBE: np.ndarray, to_gates: np.ndarray, from_state: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    size = from_state.shape[1]
    state = cell = np.zeros((data_TBE.shape[1], size))
    states = []
    for data_BE in data_TBE:
        gates = data_BE @ to_gates.T + state @ from_state.T + bias
        let_in, forget, candidate, let_out = np.split(gates, 4, axis=1)
        cell = _sigmoid(forget) * cell + _sigmoid(let_in) * np.tanh(candidate)
        state = _sigmoid(let_out) * np.tanh(cell)
        states.append(state)
    return np.array(states)


_SUM, _DIFFERENCE, _PRODUCT = np.add, np.subtract, np.multiply

_OPERATORS: dict[str, Callable[..., np.ndarray]] = {
    "Embedding": _embedding,
    "_contrib_SparseEmbedding": _sparse_embedding,
    "Reshape": _reshape,
    "expand_dims": _expand_dims,
    "SwapAxis": _swap_axis,
    "transpose": _transpose,
    "Convolution": _convolution,
    "Activation": _activation,
    "max": _reduction(np.max),
    "sum": _reduction(np.sum),
    "abs": _unary(np.abs),
    "zeros_like": _unary(np.zeros_like),
    "_copy": _unary(np.copy),
    "Dropout": _unary(np.copy, p=..., mode="training", axes=()),
    "LinearRegressionOutput": _unary(np.copy, grad_scale=...),
    "SoftmaxOutput": _softmax_output,
    "softmax": _softmax_op,
    "Concat": _concat,
    "FullyConnected": _fully_connected,
    "RNN": _rnn,
    "_zeros": _zeros,
    "_equal": _pairwise(np.equal, False),
    "_plus": _pairwise(_SUM, False),
    "elemwise_add": _pairwise(_SUM, False),
    "elemwise_sub": _pairwise(_DIFFERENCE, False),
    "elemwise_mul": _pairwise(_PRODUCT, False),
    "broadcast_add": _pairwise(_SUM, True),
    "broadcast_sub": _pairwise(_DIFFERENCE, True),
    "broadcast_mul": _pairwise(_PRODUCT, True),
    "broadcast_div": _pairwise(np.divide, True),
    "broadcast_equal": _pairwise(np.equal, True),
    "_not_equal_scalar": _with_scalar(np.not_equal),
    "_equal_scalar": _with_scalar(np.equal),
    "_plus_scalar": _with_scalar(_SUM),
    "_minus_scalar": _with_scalar(_DIFFERENCE),
    "_mul_scalar": _with_scalar(_PRODUCT),
    "_maximum_scalar": _with_scalar(np.maximum),
}

OPERATORS = tuple(_OPERATORS)


def padded(sequences: Sequence[Sequence[int]], length: int, padding_id: int = 0) -> np.ndarray:
    """float64 [B, T]: the first `length` ids of each, as a graph wants them."""
    ids_BT = np.full((len(sequences), length), padding_id, np.float64)
    for row, ids in zip(ids_BT, sequences, strict=True):
        row[: min(len(ids), length)] = ids[:length]
    return ids_BT


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file `params`, dense and by their names without `arg:`.

    Source: section 4.2 of the notes on SageMaker.
    """
    file = _Cursor(data)
    assert file.numbers("QQ") == (0x112, 0)
    arrays = [_read_array(file) for _ in range(*file.numbers("Q"))]
    names = [file.bytes(*file.numbers("Q")).decode() for _ in range(*file.numbers("Q"))]
    assert file.at == len(data)
    return {name.removeprefix("arg:"): a for name, a in zip(names, arrays, strict=True)}


_TYPES = {0: "<f4", 1: "<f8", 2: "<f2"}


def _read_array(file: _Cursor) -> np.ndarray:
    (magic,) = file.numbers("I")
    (storage,) = file.numbers("i") if magic in (0xF993FAC9, 0xF993FACA) else (0,)
    assert magic >= 0xF993FAC8 and storage in (0, 1)
    stored_shape = file.shape() if storage else ()
    shape = file.shape()
    _, _, kind = file.numbers("iii")
    if not storage:
        return file.array(shape, _TYPES[kind])
    assert file.numbers("i") == (6,)
    rows_shape = file.shape()
    table, values = np.zeros(shape), file.array(stored_shape, _TYPES[kind])
    table[file.array(rows_shape, "<i8")] = values
    return table


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def bytes(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, codes: str) -> tuple[int, ...]:
        return struct.unpack(f"<{codes}", self.bytes(struct.calcsize(f"<{codes}")))

    def shape(self) -> tuple[int, ...]:
        (ndim,) = self.numbers("I")
        return self.numbers(f"{ndim}q")

    def array(self, shape: tuple[int, ...], kind: str) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        return np.frombuffer(self.bytes(size), kind).reshape(shape)
