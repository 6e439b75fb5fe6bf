"""A model: its weights, its files, and the short way to use it from Python.

    config.json           what it is, and the hash of everything
    weights.safetensors   float32, memory-mapped when loaded; never a pickle
    MODEL_CARD.md         the same for people

Shapes: n sequences or pairs, D vector, C classes (1 for a regression).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from object2vec.cache import content_hash
from object2vec.config import EncoderConfig, ModelConfig, StoredConfig
from object2vec.encoders import build_encoder
from object2vec.engine import Engine
from object2vec.errors import ModelError
from object2vec.folder import WEIGHTS_FILE, write_folder
from object2vec.sagemaker.importer import converted
from object2vec.scorer import Scorer
from object2vec.tokens import PAIR, TokenBatch, clipped

Ids = Sequence[int] | np.ndarray


class Object2Vec:
    """A model that is ready to encode, on the CPU.

    Args:
      config: what the model is.
      encoders: two modules such as `encoders.build_encoder` makes.
      scorer: a module such as `scorer.Scorer`.

    Example:
      >>> from object2vec.config import EncoderConfig
      >>> side = EncoderConfig("pooled_embedding", 10, 4, 4, max_seq_len=5)
      >>> model = Object2Vec.random(ModelConfig((side, side)), seed=0)
      >>> model.encode([[1, 2, 3], [7]], side=0).shape
      (2, 4)
      >>> model.score([[1, 2]], [[7]]).shape
      (1, 2)
    """

    def __init__(
        self,
        config: ModelConfig,
        encoders: tuple[nn.Module, nn.Module],
        scorer: nn.Module,
        weights_sha256: str | None = None,
    ) -> None:
        self.config = config
        self._parts = nn.ModuleDict({"encoders": nn.ModuleList(encoders), "scorer": scorer})
        self._parts.requires_grad_(False).eval()
        self._encoders = encoders
        self._scorer = scorer
        self._weights_sha256 = weights_sha256

    @classmethod
    def from_weights(
        cls, config: ModelConfig, weights: Mapping[str, Tensor], weights_sha256: str | None = None
    ) -> Object2Vec:
        """A model of given weights, which are taken as they are, without a copy.

        Args:
          weights: float32 tensors, named and shaped as `weight_shapes` says.
          weights_sha256: of the file they come from, if they come from one.

        Raises:
          ValueError: a tensor is missing, unknown, or of another shape or type.
        """
        shapes = weight_shapes(config)
        for verdict, names in (
            ("missing", shapes.keys() - weights.keys()),
            ("unknown", weights.keys() - shapes.keys()),
        ):
            if names:
                raise ValueError(f"{verdict} weights: {', '.join(sorted(names))}")
        for name, shape in shapes.items():
            found = weights[name]
            if found.dtype != torch.float32 or tuple(found.shape) != shape:
                raise ValueError(
                    f"{name} is {found.dtype} {list(found.shape)};"
                    f" the configuration asks for float32 {list(shape)}"
                )
        weights = dict(weights)
        if config.tied_token_embedding_weight:
            weights["encoders.1.embedding"] = weights["encoders.0.embedding"]
        parts = _empty_parts(config)
        for module, prefix in zip(parts, _PREFIXES, strict=True):
            own = {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
            module.load_state_dict(own, assign=True)
            for part in module.modules():
                if isinstance(part, nn.LSTM):
                    part.flatten_parameters()  # cuDNN wants its weights in one block
        return cls(config, (parts[0], parts[1]), parts[2], weights_sha256)

    @classmethod
    def random(cls, config: ModelConfig, seed: int) -> Object2Vec:
        """A model of random weights: for tests and benchmarks, it means nothing."""
        generator = torch.Generator().manual_seed(seed)
        weights = {}
        for name, shape in weight_shapes(config).items():
            # About the size that training begins with, so that no layer drowns another.
            scale = 0.1 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
            weights[name] = torch.randn(shape, generator=generator).mul_(scale)
        return cls.from_weights(config, weights)

    @classmethod
    def load(cls, path: str | Path, max_seq_lens: tuple[int, int] | None = None) -> Object2Vec:
        """Loads a model directory, or a `model.tar.gz` that SageMaker wrote.

        The weights stay in their file, mapped into memory. Replace the file by rename if
        you must; written over in place, it would change the loaded model, and cut off, it
        would end the process. An archive is first converted into the cache, once.

        Args:
          path: of the directory or the archive.
          max_seq_lens: longest sequences, for an archive that does not say them itself.

        Raises:
          ModelError: a file is missing or damaged, or does not go with the others; or the
            archive holds something that cannot be run.
        """
        if Path(path).is_file():
            path = converted(Path(path), max_seq_lens)
        stored = StoredConfig.load(path)
        file = Path(path) / WEIGHTS_FILE
        try:
            found = content_hash(file)
        except OSError as error:
            raise ModelError(
                f"{file}: {error.strerror or error}; weights are read from {WEIGHTS_FILE} alone,"
                " never from a pickle (.bin, .pt)"
            ) from error
        if found != stored.weights_sha256:
            raise ModelError(
                f"{file} has sha256 {found}, but the configuration beside it asks for"
                f" {stored.weights_sha256}; one of them is damaged or of another model."
                " Copy the directory again, as a whole"
            )
        try:
            weights = safetensors.torch.load_file(file)
            return cls.from_weights(stored.config, weights, found)
        except (safetensors.SafetensorError, ValueError) as error:
            raise ModelError(f"{file}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes the model directory: all of it becomes visible at once.

        A model directory that is there already is replaced; files in it that are not the
        model's are kept.

        Raises:
          ModelError: the place is taken by something that is no model directory.
        """
        arrays = {name: tensor.numpy() for name, tensor in self.weights().items()}
        write_folder(Path(path), self.config, arrays)

    @property
    def hash(self) -> str:
        """sha256, in hex, of configuration and weights; the one its directory states."""
        if self._weights_sha256 is None:
            content = safetensors.torch.save(self.weights())
            self._weights_sha256 = hashlib.sha256(content).hexdigest()
        return StoredConfig(self.config, self._weights_sha256).model_hash

    def weights(self) -> dict[str, Tensor]:
        """The tensors by name, a tied table once. Not copies."""
        return {
            name: tensor
            for name, tensor in self._parts.state_dict().items()
            if not _is_tied(name, self.config)
        }

    def encode(
        self, sequences: Sequence[Ids], side: int = 0, max_seq_len: int | None = None
    ) -> np.ndarray:
        """Embeds sequences.

        Args:
          sequences: n sequences of ids: lists, or integer arrays.
          side: the encoder, 0 or 1.
          max_seq_len: what is longer keeps its head; None takes the model's. 1 to 5000.

        Returns:
          float32 [n, D]; row i does not depend on the other rows.

        Raises:
          ValueError: an argument is wrong; or an id is no integer, or is outside the
            vocabulary of an encoder that refuses that (sequence and place are named).
        """
        # Of the other side nothing runs, so its own length stays, which it can run.
        engine = self._engine((None, max_seq_len) if side == 1 else (max_seq_len, None))
        checked = self._checked("sequences", sequences, side, engine)
        batch = _side_by_side(checked, [side] * len(checked))
        return engine.encode(batch).vectors[side]

    def score(self, sequences0: Sequence[Ids], sequences1: Sequence[Ids]) -> np.ndarray:
        """Scores pairs.

        Args:
          sequences0: n sequences of ids for encoder 0.
          sequences1: n sequences of ids for encoder 1.

        Returns:
          float32 [n, C]: probabilities of the classes, or what a regression says.

        Raises:
          ValueError: as `encode`; or the two are not of one length.
        """
        if len(sequences0) != len(sequences1):
            raise ValueError(f"{len(sequences0)} sequences to pair with {len(sequences1)}")
        engine = self._engine((None, None))
        sides = (
            self._checked("sequences0", sequences0, 0, engine),
            self._checked("sequences1", sequences1, 1, engine),
        )
        pairs = [sequence for pair in zip(*sides, strict=True) for sequence in pair]
        batch = _side_by_side(pairs, [PAIR] * len(sequences0))
        return engine.encode(batch).vectors[PAIR]

    def encoders_on(self, device: str) -> tuple[nn.Module, nn.Module]:
        """The encoders, on a device. On `cpu` they are the model's own."""
        return self._encoders if device == "cpu" else self._copy_on(device)._encoders

    def scorer_on(self, device: str) -> nn.Module:
        """The scorer, likewise."""
        return self._scorer if device == "cpu" else self._copy_on(device)._scorer

    def _copy_on(self, device: str) -> Object2Vec:
        # Not deepcopy: that would first read all of the mapped weights into memory.
        weights = {name: tensor.to(device) for name, tensor in self.weights().items()}
        return Object2Vec.from_weights(self.config, weights, self._weights_sha256)

    def _engine(self, max_seq_lens: tuple[int | None, int | None]) -> Engine:
        own0, own1 = (encoder.max_seq_len for encoder in self.config.encoders)
        asked0, asked1 = max_seq_lens
        return Engine(
            self,
            device="cpu",
            threads=torch.get_num_threads(),
            max_seq_lens=(own0 if asked0 is None else asked0, own1 if asked1 is None else asked1),
        )

    def _checked(
        self, name: str, sequences: Sequence[Ids], side: int, engine: Engine
    ) -> list[np.ndarray]:
        if side not in (0, 1):
            raise ValueError(f"side is {side!r}; it must be 0 or 1")
        config, max_len = self.config.encoders[side], engine.max_seq_lens[side]
        return [
            _checked_ids(f"{name}[{i}]", ids, config, max_len) for i, ids in enumerate(sequences)
        ]


_PREFIXES = ("encoders.0.", "encoders.1.", "scorer.")


def model_hash(path: str | Path) -> str:
    """The hash of a model directory, as it states it. Reads no weights.

    Raises:
      ModelError: the configuration cannot be used.
    """
    return StoredConfig.load(path).model_hash


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights; a tied table is there once."""
    return {
        prefix + name: tuple(tensor.shape)
        for module, prefix in zip(_empty_parts(config), _PREFIXES, strict=True)
        for name, tensor in module.state_dict().items()
        if not _is_tied(prefix + name, config)
    }


def _is_tied(name: str, config: ModelConfig) -> bool:
    return config.tied_token_embedding_weight and name == "encoders.1.embedding"


def _empty_parts(config: ModelConfig) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Both encoders and the scorer, without memory for their weights."""
    with torch.device("meta"):
        first, second = (build_encoder(encoder) for encoder in config.encoders)
        return first, second, Scorer(config)


def _side_by_side(sequences: list[np.ndarray], kinds: list[int]) -> TokenBatch:
    starts_S1 = np.cumsum([0, *map(len, sequences)])
    values_N = np.concatenate([np.empty(0, np.int32), *sequences])
    kinds_R = np.array(kinds, np.uint8)
    return TokenBatch(values_N, starts_S1, kinds_R, np.arange(len(kinds)))


def _checked_ids(name: str, ids: Ids, config: EncoderConfig, max_len: int) -> np.ndarray:
    """int32, at most max_len, as they stand in a TokenBatch."""
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of unequal lengths
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise ValueError(f"{name} is {ids!r}; it must be a list of ids")
    if not len(array):
        return np.empty(0, np.int32)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {array.dtype} values; ids are integers of 64 bits")
    array = array[:max_len]
    if array.dtype != np.uint64:  # small types cannot be clipped to a large vocabulary
        array = array.astype(np.int64)
    outside = np.flatnonzero((array < 0) | (array >= config.vocab_size))
    if len(outside) and config.out_of_range == "error":
        raise ValueError(
            f"{name}[{outside[0]}] is {array[outside[0]]}, but the vocabulary has ids 0 to"
            f" {config.vocab_size - 1}; were the ids made for another model?"
        )
    return clipped(array, config.vocab_size, config.padding_id).astype(np.int32)
