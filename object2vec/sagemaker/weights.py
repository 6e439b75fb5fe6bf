"""From the names and the order of the artefact's arrays to ours.

    embed_0_weight           [V, E]      encoders.0.embedding
    source_1_weight, _bias   [F, E, w]   encoders.0.convolutions.1.weight, .bias
    source_lstm_parameters   [n]         encoders.0.forwards.0.weight_ih_l0 and 7 more a layer
    mlp_fc0_weight, _bias    [out, in]   scorer.hidden.0.weight, .bias

Which array is which is told by the graph, not by these names.

Shapes: V vocabulary, E embedding, F filters, w width, H state of one direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from object2vec.config import EncoderConfig, ModelConfig
from object2vec.errors import ModelError
from object2vec.sagemaker.layers import Dense, EncoderNetwork, LstmStack
from object2vec.sagemaker.network import Network
from object2vec.sagemaker.symbol import shown


class Stored(Protocol):
    """What is asked of an array of the artefact; `params.StoredArray` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As the array would be in memory, absent rows included."""

    @property
    def is_row_sparse(self) -> bool:
        """Whether rows may be absent."""

    def float32(self, scratch: Path) -> np.ndarray:
        """The numbers, C-contiguous."""


def config_of(network: Network, max_seq_lens: tuple[int, int], member: str) -> ModelConfig:
    """The configuration of a network.

    Args:
      max_seq_lens: of in0 and in1, which no graph tells.
      member: the name of the graph, for messages.

    Raises:
      ModelError: a size is out of the range that SageMaker allows, or does not go with
        another.
    """
    first, second = network.encoders
    try:
        return ModelConfig(
            encoders=(
                _encoder_config(first, max_seq_lens[0]),
                _encoder_config(second, max_seq_lens[1]),
            ),
            tied_token_embedding_weight=first.table == second.table,
            comparator_list=network.comparator_list,
            mlp_layers=len(network.hidden),
            # Without hidden layers their width means nothing: the default, for one spelling.
            mlp_dim=network.hidden[0].num_hidden if network.hidden else 512,
            mlp_activation=network.mlp_activation,
            output_layer=network.output_layer,
            num_classes=network.output.num_hidden,
        )
    except ValueError as error:
        raise ModelError(
            f"{member}: {error}. The sizes were read from the graph; they are none that"
            " Object2Vec can be trained with"
        ) from error


def _encoder_config(encoder: EncoderNetwork, max_seq_len: int) -> EncoderConfig:
    convolutions, lstm = encoder.convolutions, encoder.lstm
    return EncoderConfig(
        network=encoder.network,
        vocab_size=encoder.vocab_size,
        token_embedding_dim=encoder.token_embedding_dim,
        enc_dim=_enc_dim(encoder),
        max_seq_len=max_seq_len,
        layers=len(convolutions) if lstm is None else lstm.num_layers,
        cnn_filter_width=convolutions[0].width if convolutions else 0,
        padding_id=encoder.padding_id,
        out_of_range=encoder.out_of_range,
        cnn_padding=convolutions[0].pad if convolutions else None,
        # No sequence lengths reach the operator, so its backward direction starts in the padding.
        reads_padding=lstm is not None,
    )


def _enc_dim(encoder: EncoderNetwork) -> int:
    if encoder.lstm is not None:
        return 2 * encoder.lstm.state_size
    if encoder.convolutions:
        return sum(layer.num_filters for layer in encoder.convolutions)
    return encoder.token_embedding_dim


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One of our tensors: where it is in the artefact.

    Attributes:
      ours: our name.
      array: the artefact's; None for a bias that the graph does not have, which is zero.
      stored_shape: what the whole array must be.
      start: where ours begins in the flat array, and
      shape: what it is there.
    """

    ours: str
    array: str | None
    stored_shape: tuple[int, ...]
    start: int
    shape: tuple[int, ...]


def weights_of(
    network: Network,
    config: ModelConfig,
    arrays: Mapping[str, Stored],
    member: str,
    scratch: Path,
) -> dict[str, np.ndarray]:
    """The weights under our names; no two share memory.

    Args:
      arrays: the artefact's, by name. Those that the graph does not ask for are left out.
      member: the name of the file of arrays, for messages.
      scratch: a directory for temporary files, for arrays that must be converted.

    Returns:
      float32, C-contiguous. Most are views on a map of the file.

    Raises:
      ModelError: an array is missing, has another shape than the graph asks for, or
        cannot be read; none is read before all are checked.
    """
    wanted = list(_wanted(network, config))
    for want in wanted:
        if want.array is None:
            continue
        if want.array not in arrays:
            raise ModelError(
                f"{member} has no array {shown(want.array)}, which the graph asks for as"
                f" {want.ours}; are graph and arrays of one training job?"
            )
        # Absent rows make much of little, so they may be where training leaves them absent.
        if arrays[want.array].is_row_sparse and not want.ours.endswith(".embedding"):
            raise ModelError(
                f"{member}: array {shown(want.array)} is row_sparse, which only tables of"
                f" embeddings are; the graph asks for it as {want.ours}"
            )
        found = arrays[want.array].shape
        if found != want.stored_shape:
            raise ModelError(
                f"{member}: array {shown(want.array)} has shape {list(found)}; the graph asks"
                f" for {list(want.stored_shape)}, as {want.ours}"
            )
    read: dict[str, np.ndarray] = {}
    taken: set[tuple[str, int]] = set()
    weights = {}
    for want in wanted:
        if want.array is None:
            weights[want.ours] = np.zeros(want.shape, np.float32)
            continue
        if want.array not in read:
            read[want.array] = arrays[want.array].float32(scratch).reshape(-1)
        part = read[want.array][want.start : want.start + math.prod(want.shape)]
        # Layers that share an array are trained as one; here each has its own.
        is_shared = (want.array, want.start) in taken
        taken.add((want.array, want.start))
        weights[want.ours] = (part.copy() if is_shared else part).reshape(want.shape)
    return weights


def _wanted(network: Network, config: ModelConfig) -> Iterator[_Wanted]:
    for side, (encoder, sizes) in enumerate(zip(network.encoders, config.encoders, strict=True)):
        prefix = f"encoders.{side}"
        if side == 0 or not config.tied_token_embedding_weight:
            table_shape = (sizes.vocab_size, sizes.token_embedding_dim)
            yield _whole(f"{prefix}.embedding", encoder.table, table_shape)
        num_inputs = sizes.token_embedding_dim
        for place, layer in enumerate(encoder.convolutions):
            name = f"{prefix}.convolutions.{place}"
            shape = (layer.num_filters, num_inputs, layer.width)
            yield _whole(f"{name}.weight", layer.weight, shape)
            yield _whole(f"{name}.bias", layer.bias, (layer.num_filters,))
            num_inputs = layer.num_filters
        if encoder.lstm is not None:
            yield from _lstm(prefix, encoder.lstm, num_inputs)
    widths = {"hadamard": 1, "concat": 2, "abs_diff": 1}
    num_inputs = sum(widths[name] for name in config.comparator_list) * config.encoders[0].enc_dim
    for place, dense in enumerate(network.hidden):
        yield from _dense(f"scorer.hidden.{place}", dense, num_inputs)
        num_inputs = dense.num_hidden
    yield from _dense("scorer.output", network.output, num_inputs)


def _whole(ours: str, array: str | None, shape: tuple[int, ...]) -> _Wanted:
    return _Wanted(ours, array, shape, 0, shape)


def _dense(ours: str, layer: Dense, num_inputs: int) -> Iterator[_Wanted]:
    yield _whole(f"{ours}.weight", layer.weight, (layer.num_hidden, num_inputs))
    yield _whole(f"{ours}.bias", layer.bias, (layer.num_hidden,))


def _lstm(prefix: str, stack: LstmStack, num_inputs: int) -> Iterator[_Wanted]:
    """All parts of a fused RNN's parameters.

    First the products, layer by layer, forwards then backwards, from the input then from
    the state; after them the biases in the same order. The gates are in, forget, cell,
    out: the order that torch has.

    Source: MXNet's rnn-inl.h, and the golden case v6.
    """
    size, gates = stack.state_size, 4 * stack.state_size
    parts: list[tuple[str, tuple[int, ...]]] = []
    for kind in ("weight", "bias"):
        for layer in range(stack.num_layers):
            width = num_inputs if layer == 0 else 2 * size
            for direction in ("forwards", "backwards"):
                for source, inner in (("ih", width), ("hh", size)):
                    name = f"{prefix}.{direction}.{layer}.{kind}_{source}_l0"
                    parts.append((name, (gates, inner) if kind == "weight" else (gates,)))
    sizes = [math.prod(shape) for _, shape in parts]
    start = 0
    for (name, shape), length in zip(parts, sizes, strict=True):
        yield _Wanted(name, stack.parameters, (sum(sizes),), start, shape)
        start += length
