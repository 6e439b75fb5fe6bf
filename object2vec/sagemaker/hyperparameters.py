"""What the JSON beside a graph says. The graph wins; only sequence lengths are taken from here.

    {"training_parameters": {"enc0_max_seq_len": "82", "enc1_network": "enc0", ...}, "version": 1}

All values may be strings. What the file looks like in an Object2Vec artefact is inferred
from those of sibling algorithms, so keys are looked for in some other places as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from object2vec.config import MAX_SEQ_LEN
from object2vec.errors import ModelError
from object2vec.sagemaker.network import Network
from object2vec.sagemaker.symbol import shown

_PARAMETERS = "training_parameters"

_UNSAID = frozenset(("", "none", "null", "auto"))
"""Texts that stand for a length that nobody gave."""

_INSTEAD = "--infer_max_seqlens=F,B says them instead"

_STORAGE = {
    "clip": ("dense", "Embedding", "clips"),
    "error": ("row_sparse", "_contrib_SparseEmbedding", "refuses"),
}
"""By what a table does with ids out of range: its storage type, its operator, that in words."""


def max_seq_lens(metadata: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The longest sequences that the model was trained with, in ids.

    Args:
      metadata: parsed JSON by the name of its member.

    Returns:
      Of in0 and in1; None where nothing is said. Encoder 1 has a length of its own if one is
      stated; else that of encoder 0, if its network is said to be `enc0` or nothing is said
      about it.

    Raises:
      ModelError: a length is not an integer from 1 to 5000, names member and key; or two
        members state different ones, names both.
    """
    lengths: list[int | None] = [None, None]
    members = ["", ""]
    inherits = False
    for member, document in metadata.items():
        found = _stated(member, document)
        if found is None:
            continue
        for side, length in enumerate(found.lengths):
            known = lengths[side]
            if length is None or length == known:
                continue
            if known is not None:
                raise ModelError(
                    f"{members[side]} says that sequences of in{side} have at most {known} ids,"
                    f" {member} says {length}; {_INSTEAD}"
                )
            lengths[side], members[side] = length, member
        inherits = inherits or found.inherits
    if inherits and lengths[1] is None:
        lengths[1] = lengths[0]
    return lengths[0], lengths[1]


def remarks(metadata: Mapping[str, Any], network: Network) -> tuple[str, ...]:
    """Where the hyperparameters say other than the graph, or what is not done as they say.

    Returns:
      Sentences for the model card.
    """
    sentences: dict[str, None] = {}  # each once, in order
    for keys, remark in (
        (("enc1_max_seq_len",), _on_lengths),
        (("bucket_width",), _on_buckets),
        (("token_embedding_storage_type",), _on_storage),
        (("enc_dim", "enc0_network", "comparator_list"), _differences),
    ):
        for member, values in _objects(metadata):
            if any(key in values for key in keys):
                sentences.update(dict.fromkeys(remark(member, values, network)))
                break
    return tuple(sentences)


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


@dataclass(frozen=True, slots=True)
class _Lengths:
    """What one member states; `inherits` if encoder 1 has that of encoder 0 for want of one."""

    lengths: tuple[int | None, int | None]
    inherits: bool


def _stated(member: str, document: Any) -> _Lengths | None:
    """The lengths in the likeliest place of a member that has any."""
    for _, values in _objects({member: document}):
        first = _length(values.get("enc0_max_seq_len"), "enc0_max_seq_len", member)
        is_copy = _is_copy(values)
        second = values.get("enc1_max_seq_len")
        # A copy needs no length, so one that is none may stand there.
        if not is_copy or first is None or _in_range(second):
            second = _length(second, "enc1_max_seq_len", member)
        else:
            second = None
        if first is not None or second is not None:
            return _Lengths((first, second), is_copy or _is_unsaid(values.get("enc1_network")))
        pair = values.get("max_seq_lens")
        if isinstance(pair, list):
            if len(pair) != 2:
                raise ModelError(
                    f"{member}: max_seq_lens has {len(pair)} values; there are two encoders;"
                    f" {_INSTEAD}"
                )
            one, other = (_length(value, "max_seq_lens", member) for value in pair)
            if one is not None or other is not None:
                return _Lengths((one, other), inherits=False)
    return None


def _length(value: Any, key: str, member: str) -> int | None:
    if _is_unsaid(value):
        return None
    length = _integer(value)
    if length is None or not _in_range(value):
        raise ModelError(
            f"{member}: {key} is {_said(value, quoted=True)}; it must be an integer from 1 to"
            f" {MAX_SEQ_LEN}; {_INSTEAD}"
        )
    return length


def _is_unsaid(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in _UNSAID)


def _in_range(value: Any) -> bool:
    length = _integer(value)
    return length is not None and 1 <= length <= MAX_SEQ_LEN


def _integer(value: Any) -> int | None:
    """A number that JSON may hold as text, or as a float; None if it is no integer."""
    if isinstance(value, str):
        text = value.strip()
        is_number = re.fullmatch(r"[0-9]{1,9}(\.0{0,9})?", text, re.ASCII)
        return int(text.partition(".")[0]) if is_number else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    # bool is an int in Python; as a length it is a mistake.
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_copy(values: Mapping[str, Any]) -> bool:
    """Whether encoder 1 has the settings of encoder 0, whatever else is said about it."""
    return _plain(values.get("enc1_network")) == "enc0"


def _on_lengths(member: str, values: Mapping[str, Any], network: Network) -> Iterator[str]:
    own, other = values.get("enc0_max_seq_len"), values.get("enc1_max_seq_len")
    if not _is_copy(values) or _is_unsaid(own) or _is_unsaid(other):
        return
    if _integer(own) != _integer(other) or _integer(own) is None:
        taken = other if _in_range(other) else own
        yield (
            f"{member} says enc1_max_seq_len is {_said(other)}, but also that encoder 1 has the"
            f" settings of encoder 0, whose length is {_said(own)}; {_said(taken)} was taken."
        )


def _on_buckets(member: str, values: Mapping[str, Any], network: Network) -> Iterator[str]:
    width = _integer(values["bucket_width"])
    if width is not None and width > 0:
        yield (
            f"{member} says bucket_width is {width}: training padded sequences to buckets of"
            " lengths. What the service does at inference is not known; here sequences are"
            " padded to the longest. That matters for bilstm, and for hcnn near the longest."
        )


def _on_storage(member: str, values: Mapping[str, Any], network: Network) -> Iterator[str]:
    said = values["token_embedding_storage_type"]
    if _is_unsaid(said):
        return
    for side, encoder in enumerate(network.encoders):
        storage, operator, does = _STORAGE[encoder.out_of_range]
        if _plain(said) != storage:
            yield (
                f"{member} says token_embedding_storage_type is {_said(said)}; the graph looks up"
                f" in{side} with {operator}, which {does} ids out of range, and that was taken."
            )


def _differences(member: str, values: Mapping[str, Any], network: Network) -> Iterator[str]:
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


def _said(value: Any, quoted: bool = False) -> str:
    return shown(str(value), quoted)
