"""What the JSON beside a graph says. The graph wins; only sequence lengths are taken from here.

    {"training_parameters": {"enc0_max_seq_len": "82", "enc1_network": "enc0", ...}, "version": 1}

All values may be strings. What the file looks like in an Object2Vec artefact is inferred
from those of sibling algorithms, so keys are looked for in some other places as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from object2vec.config import MAX_SEQ_LEN
from object2vec.errors import ModelError
from object2vec.sagemaker.network import Network
from object2vec.sagemaker.symbol import shown

_PARAMETERS = "training_parameters"


def max_seq_lens(metadata: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The longest sequences that the model was trained with, in ids.

    Args:
      metadata: parsed JSON by the name of its member.

    Returns:
      Of in0 and in1; None where nothing is said. Encoder 1 has those of encoder 0 if its
      network is said to be `enc0`, or if nothing is said about it.

    Raises:
      ModelError: a length is not an integer from 1 to 5000; names member and key.
    """
    for member, values in _objects(metadata):
        first = _length(values, "enc0_max_seq_len", member)
        second = _length(values, "enc1_max_seq_len", member)
        pair = values.get("max_seq_lens")
        if first is None and second is None and isinstance(pair, list):
            if len(pair) != 2:
                raise ModelError(
                    f"{member}: max_seq_lens has {len(pair)} values; there are two encoders"
                )
            return (
                _checked_length(pair[0], "max_seq_lens", member),
                _checked_length(pair[1], "max_seq_lens", member),
            )
        if first is None and second is None:
            continue
        if _is_copy(values) or (second is None and "enc1_network" not in values):
            second = first if first is not None else second
        return first, second
    return None, None


def remarks(metadata: Mapping[str, Any], network: Network) -> tuple[str, ...]:
    """Where the hyperparameters say other than the graph.

    Returns:
      Sentences for the model card.
    """
    for member, values in _objects(metadata):
        if any(key in values for key in ("enc_dim", "enc0_network", "comparator_list")):
            return tuple(dict.fromkeys(_differences(member, values, network)))
    return ()


def _objects(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where hyperparameters may stand, the likeliest places first."""
    for member, document in metadata.items():
        if isinstance(document, dict):
            usual = document.get(_PARAMETERS)
            if isinstance(usual, dict):
                yield member, usual
            yield member, document
    for member, document in metadata.items():
        if isinstance(document, dict):
            for value in document.values():
                if isinstance(value, dict):
                    yield member, value
                    yield from ((member, part) for part in value.values() if isinstance(part, dict))


def _length(values: Mapping[str, Any], key: str, member: str) -> int | None:
    return _checked_length(values[key], key, member) if values.get(key) is not None else None


def _checked_length(value: Any, key: str, member: str) -> int:
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and re.fullmatch("[0-9]{1,9}", text):
        text = int(text)
    # bool is an int in Python; as a length it is a mistake.
    if not isinstance(text, int) or isinstance(text, bool) or not 1 <= text <= MAX_SEQ_LEN:
        raise ModelError(
            f"{member}: {key} is {shown(str(value))}; it must be an integer from 1 to {MAX_SEQ_LEN}"
        )
    return text


def _is_copy(values: Mapping[str, Any]) -> bool:
    """Whether encoder 1 has the settings of encoder 0, whatever else is said about it."""
    return values.get("enc1_network") == "enc0"


def _differences(member: str, values: Mapping[str, Any], network: Network) -> Iterator[str]:
    own, other = values.get("enc0_max_seq_len"), values.get("enc1_max_seq_len")
    if _is_copy(values) and other is not None and _plain(own) != _plain(other):
        yield (
            f"{member} says enc1_max_seq_len is {_said(other)}, but also that encoder 1 has the"
            f" settings of encoder 0; so {_said(own)} was taken."
        )
    for key, found in _of_graph(network, _is_copy(values)):
        said = values.get(key)
        if said is not None and _plain(said) not in found.split(" or "):
            yield f"{member} says {key} is {_said(said)}; the graph has {found}, which was taken."


def _of_graph(network: Network, is_copy: bool) -> Iterator[tuple[str, str]]:
    """Hyperparameters with the values that the graph has, as text."""
    for side, encoder in enumerate(network.encoders):
        prefix = f"enc{0 if is_copy else side}"
        yield f"{prefix}_network", encoder.network
        yield f"{prefix}_vocab_size", str(encoder.vocab_size)
        if encoder.convolutions:
            yield f"{prefix}_layers", _layers(len(encoder.convolutions), auto=4)
            yield f"{prefix}_cnn_filter_width", str(encoder.convolutions[0].width)
            yield "enc_dim", str(sum(layer.num_filters for layer in encoder.convolutions))
        elif encoder.lstm is not None:
            yield f"{prefix}_layers", _layers(encoder.lstm.num_layers, auto=1)
            yield "enc_dim", str(2 * encoder.lstm.state_size)
        else:
            yield "enc_dim", str(encoder.token_embedding_dim)
        # Training replaces that of a pooled encoder by enc_dim, and does not note it.
        if encoder.network != "pooled_embedding":
            yield f"{prefix}_token_embedding_dim", str(encoder.token_embedding_dim)
    yield "comparator_list", ",".join(network.comparator_list)
    yield "mlp_layers", str(len(network.hidden))
    if network.hidden:
        yield "mlp_dim", str(network.hidden[0].num_hidden)
        yield "mlp_activation", network.mlp_activation
    yield "output_layer", network.output_layer
    if network.output_layer == "softmax":
        yield "num_classes", str(network.output.num_hidden)
    tied = network.encoders[0].table == network.encoders[1].table
    yield "tied_token_embedding_weight", str(tied).lower()


def _layers(number: int, auto: int) -> str:
    return f"{number} or auto" if number == auto else str(number)


def _plain(value: Any) -> str:
    """As text that can be compared: lists without blanks, words in small letters."""
    if isinstance(value, list):
        return ",".join(_plain(part) for part in value[:10] if not isinstance(part, list))
    return str(value).replace(" ", "").lower()


def _said(value: Any) -> str:
    return shown(str(value), quoted=False)
