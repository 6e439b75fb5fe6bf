"""What a model is, without its weights: frozen, and checked when made.

Names and ranges are those of SageMaker's hyperparameters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from object2vec.errors import ModelError

CONFIG_FILE = "config.json"
FORMAT_VERSION = 1

NETWORKS = ("hcnn", "bilstm", "pooled_embedding")
COMPARATORS = ("hadamard", "concat", "abs_diff")
ACTIVATIONS = ("tanh", "relu", "linear")
OUTPUT_LAYERS = ("softmax", "mean_squared_error")
MAX_SEQ_LEN = 5000


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """One encoder.

    Attributes:
      network: `hcnn`, `bilstm` or `pooled_embedding`.
      vocab_size: ids are 0 to vocab_size - 1; 2 to 3,000,000.
      token_embedding_dim: 2 to 1000. A pooled encoder has no projection, so there it
        equals enc_dim.
      enc_dim: length of a vector, 4 to 10000; even for bilstm, divisible by layers for
        hcnn.
      max_seq_len: in ids, 1 to 5000; what is longer keeps its head. Not below
        `min_seq_len`.
      layers: 1 to 4; 0 means SageMaker's `auto`: 4 for hcnn, 1 for bilstm. Always 0 for
        a pooled encoder, which has none.
      cnn_filter_width: 1 to 9; 0 means 3. Always 0 where there is no convolution.
      padding_id: this id counts as no token: its embedding is zero.
      out_of_range: `clip` reads the first or the last row for an id outside the
        vocabulary; `error` refuses the record.
      cnn_padding: zeros that each convolution adds at either end, 0 to the filter's
        width - 1; None means width // 2. Always None where there is no convolution.
      reads_padding: whether a bilstm's LSTMs step through the padding up to the longest
        sequence allowed, as those of SageMaker's graphs do. Always False elsewhere.

    Raises:
      ValueError: a value is out of its range, or does not go with another.
    """

    network: str
    vocab_size: int
    token_embedding_dim: int
    enc_dim: int
    max_seq_len: int
    layers: int = 0
    cnn_filter_width: int = 0
    padding_id: int = 0
    out_of_range: str = "error"
    cnn_padding: int | None = None
    reads_padding: bool = False

    def __post_init__(self) -> None:
        pooled = self.network == "pooled_embedding"
        _one_of("network", self.network, NETWORKS)
        _within("vocab_size", self.vocab_size, 2, 3_000_000)
        _within("enc_dim", self.enc_dim, 4, 10_000)
        # Training replaces a pooled encoder's token dimension by enc_dim, of larger range.
        _within("token_embedding_dim", self.token_embedding_dim, 2, 10_000 if pooled else 1000)
        _within("max_seq_len", self.max_seq_len, 1, MAX_SEQ_LEN)
        _within("layers", self.layers, 0, 4)
        _within("cnn_filter_width", self.cnn_filter_width, 0, 9)
        _within("padding_id", self.padding_id, 0, self.vocab_size - 1)
        _one_of("out_of_range", self.out_of_range, ("clip", "error"))
        # One spelling for each model: the hash of a model is taken from these values.
        auto_layers = {"hcnn": 4, "bilstm": 1, "pooled_embedding": 0}[self.network]
        object.__setattr__(self, "layers", 0 if pooled else self.layers or auto_layers)
        width = (self.cnn_filter_width or 3) if self.network == "hcnn" else 0
        object.__setattr__(self, "cnn_filter_width", width)
        if pooled and self.token_embedding_dim != self.enc_dim:
            raise ValueError(
                f"token_embedding_dim is {self.token_embedding_dim} and enc_dim {self.enc_dim};"
                " pooled_embedding has no projection, so they must be equal"
            )
        if self.network == "hcnn" and self.enc_dim % self.layers:
            raise ValueError(
                f"enc_dim is {self.enc_dim}; hcnn of {self.layers} layers needs a multiple of it"
            )
        if self.network == "bilstm" and self.enc_dim % 2:
            raise ValueError(f"enc_dim is {self.enc_dim}; bilstm needs an even number")
        self._check_padding()

    def _check_padding(self) -> None:
        if not isinstance(self.reads_padding, bool):
            raise ValueError("reads_padding must be true or false")
        if self.reads_padding and self.network != "bilstm":
            raise ValueError(f"reads_padding is for bilstm alone, not for {self.network}")
        if self.cnn_padding is not None:
            if self.network != "hcnn":
                raise ValueError(f"cnn_padding is for hcnn alone, not for {self.network}")
            _within("cnn_padding", self.cnn_padding, 0, self.cnn_filter_width - 1)
            if self.cnn_padding == self.cnn_filter_width // 2:
                object.__setattr__(self, "cnn_padding", None)
        if self.max_seq_len < self.min_seq_len:
            raise ValueError(
                f"max_seq_len is {self.max_seq_len}; {self.layers} convolutions of width"
                f" {self.cnn_filter_width} and padding {self.num_zeros} need {self.min_seq_len}"
            )

    @property
    def num_zeros(self) -> int:
        """Zeros that each convolution adds at either end; 0 where there is none."""
        return self.cnn_filter_width // 2 if self.cnn_padding is None else self.cnn_padding

    @property
    def min_seq_len(self) -> int:
        """The shortest longest sequence: of fewer positions, convolutions leave none."""
        num_lost = self.cnn_filter_width - 1 - 2 * self.num_zeros  # positions, in each layer
        return 1 + self.layers * num_lost if self.network == "hcnn" and num_lost > 0 else 1

    def to_json(self) -> dict[str, Any]:
        """The values as JSON knows them; those added later only where they say something.

        So a model without them keeps the hash it had before there were any.
        """
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in _ADDED or v != _ADDED[k]}


_ADDED = {"cnn_padding": None, "reads_padding": False}
"""Settings that format version 1 began without, and their values then."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Two encoders and what compares them.

    Attributes:
      encoders: encoder 0 (`in0`) and encoder 1 (`in1`), of equal enc_dim.
      tied_token_embedding_weight: both encoders read one table of embeddings; they have
        equal vocab_size, token_embedding_dim and padding_id then.
      comparator_list: an ordered choice out of `hadamard` (u*v), `concat` (u, v) and
        `abs_diff` (|u-v|); at least one, none twice.
      mlp_layers: 0 to 10.
      mlp_dim: width of each, 2 to 10000.
      mlp_activation: `tanh`, `relu` or `linear`.
      output_layer: `softmax`, or `mean_squared_error` for a regression.
      num_classes: 2 to 30; 1 for a regression, whatever is given.

    Raises:
      ValueError: a value is out of its range, or does not go with another.
    """

    encoders: tuple[EncoderConfig, EncoderConfig]
    tied_token_embedding_weight: bool = False
    comparator_list: tuple[str, ...] = COMPARATORS
    mlp_layers: int = 2
    mlp_dim: int = 512
    mlp_activation: str = "linear"
    output_layer: str = "softmax"
    num_classes: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoders", tuple(self.encoders))
        object.__setattr__(self, "comparator_list", tuple(self.comparator_list))
        if len(self.encoders) != 2:
            raise ValueError(f"{len(self.encoders)} encoders; a model has two")
        if not isinstance(self.tied_token_embedding_weight, bool):
            raise ValueError("tied_token_embedding_weight must be true or false")
        for name in self.comparator_list:
            _one_of("comparator_list", name, COMPARATORS)
        if not self.comparator_list or len(set(self.comparator_list)) < len(self.comparator_list):
            raise ValueError(
                f"comparator_list is {list(self.comparator_list)};"
                " it must name at least one comparator, and none twice"
            )
        _within("mlp_layers", self.mlp_layers, 0, 10)
        _within("mlp_dim", self.mlp_dim, 2, 10_000)
        _one_of("mlp_activation", self.mlp_activation, ACTIVATIONS)
        _one_of("output_layer", self.output_layer, OUTPUT_LAYERS)
        if self.output_layer == "mean_squared_error":
            object.__setattr__(self, "num_classes", 1)
        else:
            _within("num_classes", self.num_classes, 2, 30)
        self._check_equal("enc_dim", "the comparator needs vectors of one length")
        if self.tied_token_embedding_weight:
            for name in ("vocab_size", "token_embedding_dim", "padding_id"):
                self._check_equal(name, "tied encoders share one table")

    def _check_equal(self, name: str, reason: str) -> None:
        values = [getattr(encoder, name) for encoder in self.encoders]
        if values[0] != values[1]:
            raise ValueError(f"{name} is {values[0]} in encoder 0, {values[1]} in 1; {reason}")

    def to_json(self) -> dict[str, Any]:
        """The values as JSON knows them."""
        return {
            **dataclasses.asdict(self),
            "encoders": [encoder.to_json() for encoder in self.encoders],
            "comparator_list": list(self.comparator_list),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ModelConfig:
        """Reads back what `to_json` gave. Every key must be there, and no other.

        `cnn_padding` and `reads_padding` may be missing.

        Raises:
          ValueError: a key is missing or unknown (named), or a value is wrong.
        """
        check_keys(document, {field.name for field in dataclasses.fields(cls)}, "the model")
        if not isinstance(document["encoders"], list | tuple):
            raise ValueError("encoders must be a list")
        if not isinstance(document["comparator_list"], list | tuple):
            raise ValueError("comparator_list must be a list")
        names = {field.name for field in dataclasses.fields(EncoderConfig)}
        for side, encoder in enumerate(document["encoders"]):
            check_keys(encoder, names, f"encoder {side}", _ADDED)
        encoders = tuple(EncoderConfig(**encoder) for encoder in document["encoders"])
        return cls(**{**document, "encoders": encoders})

    @classmethod
    def load(cls, path: str | Path) -> ModelConfig:
        """Reads the configuration of a model directory, and no weights.

        Raises:
          ModelError: as `StoredConfig.load`.
        """
        return StoredConfig.load(path).config


@dataclass(frozen=True, slots=True)
class StoredConfig:
    """A `config.json`: the configuration and what the weights must hash to.

    Attributes:
      config: the model's configuration.
      weights_sha256: sha256 of the file of weights, in hex.
    """

    config: ModelConfig
    weights_sha256: str

    @property
    def model_hash(self) -> str:
        """sha256, in hex, over configuration and weights: what makes two models equal."""
        return hashlib.sha256(_canonical(self._document())).hexdigest()

    def _document(self) -> dict[str, Any]:
        head = {"format_version": FORMAT_VERSION, "weights_sha256": self.weights_sha256}
        return {**head, **self.config.to_json()}

    def to_text(self) -> str:
        """The text of `config.json`."""
        return json.dumps({**self._document(), "model_hash": self.model_hash}, indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> StoredConfig:
        """Reads and checks `config.json` of a model directory.

        Raises:
          ModelError: the file is missing or no JSON object; its version is not ours; a
            key is missing or unknown; a value is wrong; or it was edited, so that its
            hash is not the one it states.
        """
        file = Path(path) / CONFIG_FILE
        try:
            document = json.loads(file.read_bytes())
        except OSError as error:
            raise ModelError(
                f"{file}: {error.strerror or error}; a model is a directory that holds"
                f" {CONFIG_FILE} and its weights, or a model.tar.gz, named as a file"
            ) from error
        except ValueError as error:
            raise ModelError(f"{file} is not JSON: {error}") from error
        try:
            return cls._from_json(document)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{file}: {error}") from error

    @classmethod
    def _from_json(cls, document: Any) -> StoredConfig:
        if not isinstance(document, dict):
            raise ValueError("the document is not an object")
        version = document.pop("format_version", None)
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise ValueError(
                f"format_version is {version!r}; this program reads {FORMAT_VERSION}."
                " Use the program that wrote the model, or a newer one"
            )
        names = {field.name for field in dataclasses.fields(ModelConfig)}
        check_keys(document, names | {"weights_sha256", "model_hash"}, "the model")
        stated = document.pop("model_hash")
        weights_sha256 = document.pop("weights_sha256")
        if not isinstance(weights_sha256, str):
            raise ValueError("weights_sha256 must be a string")
        stored = cls(ModelConfig.from_json(document), weights_sha256)
        if stored.model_hash != stated:
            raise ValueError(
                f"model_hash is {stated}, but the values hash to {stored.model_hash};"
                " was the file edited? Save the model again instead"
            )
        return stored


def check_keys(document: Any, names: set[str], where: str, optional: Collection[str] = ()) -> None:
    """Refuses an object whose keys are not exactly `names`, the optional ones apart.

    Raises:
      ValueError: it is no object; or names the keys that are unknown or missing.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"{where} is not an object")
    missing = names - set(document) - set(optional)
    for verdict, keys in (("unknown", set(document) - names), ("missing", missing)):
        if keys:
            raise ValueError(f"{verdict} in {where}: {', '.join(sorted(map(str, keys)))}")


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _within(name: str, value: Any, low: int, high: int) -> None:
    # bool is an int in Python; as a size it is a mistake.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be an integer from {low} to {high}")


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
