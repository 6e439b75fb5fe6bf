"""Writes a model directory, all or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from object2vec.config import CONFIG_FILE, EncoderConfig, ModelConfig, StoredConfig
from object2vec.errors import ModelError

WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "MODEL_CARD.md"

Section = tuple[str, Sequence[str]]
"""A part of the model card: its title, and its sentences."""


def write_folder(
    path: Path,
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
    sections: Sequence[Section] = (),
) -> None:
    """Writes weights, configuration and card beside `path`, then renames.

    A model directory that is there is replaced; other files in it move along. Weights are
    not copied in memory, so they may be larger than it, if they are mapped files.

    Args:
      weights: float32, named and shaped as `model.weight_shapes` says.
      sections: what the card says besides: where the model comes from, for one.

    Raises:
      ModelError: `path` is a file, or a directory with things in it but no model.
    """
    check_place(path)
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new = temporary / "new"
        new.mkdir()
        whole = {name: np.ascontiguousarray(array) for name, array in weights.items()}
        safetensors.numpy.save_file(whole, new / WEIGHTS_FILE)
        (new / WEIGHTS_FILE).chmod(0o644)  # safetensors writes files only the owner can read
        with (new / WEIGHTS_FILE).open("rb") as opened:
            stored = StoredConfig(config, hashlib.file_digest(opened, "sha256").hexdigest())
            os.fsync(opened.fileno())  # before the rename: a cache believes what it finds
        (new / CONFIG_FILE).write_text(stored.to_text())
        (new / CARD_FILE).write_text(card(stored, weights, sections))
        if path.exists():
            for other in path.iterdir():
                if other.name not in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
                    copy = shutil.copytree if other.is_dir() else shutil.copy2
                    copy(other, new / other.name)
            path.rename(temporary / "old")
        try:
            new.rename(path)
        except OSError:
            if (temporary / "old").exists():
                (temporary / "old").rename(path)
            raise
    finally:
        shutil.rmtree(temporary)


def check_place(path: Path) -> None:
    """Whether a model can be written at `path`: nothing is there, or a model.

    Raises:
      ModelError: something else is.
    """
    if path.exists() and not path.is_dir():
        raise ModelError(f"{path} is a file; a model needs a directory")
    if path.is_dir() and any(path.iterdir()) and not (path / CONFIG_FILE).exists():
        raise ModelError(
            f"{path} holds files, but no {CONFIG_FILE}, so it is no model to be replaced;"
            " choose another name, or empty it"
        )
    if path.is_dir() and any(path.iterdir()):
        StoredConfig.load(path)  # some other program's config.json is no model either


def card(
    stored: StoredConfig, weights: Mapping[str, np.ndarray], sections: Sequence[Section] = ()
) -> str:
    """The text of MODEL_CARD.md."""
    config = stored.config
    num_weights = sum(array.size for array in weights.values())
    tied = "; both read one table of embeddings" if config.tied_token_embedding_weight else ""
    outcome = (
        "the value of a regression"
        if config.output_layer == "mean_squared_error"
        else f"probabilities of {config.num_classes} classes"
    )
    return f"""# Object2Vec model

Two encoders turn lists of token ids into vectors of {config.encoders[0].enc_dim} numbers;
a scorer compares a vector of each{tied}.

{_encoder_line(0, config.encoders[0])}
{_encoder_line(1, config.encoders[1])}
- scorer: {", ".join(config.comparator_list)}; {config.mlp_layers} hidden layers of \
{config.mlp_dim} ({config.mlp_activation}); gives {outcome}
- weights: {num_weights:,} in float32, {num_weights * 4:,} bytes
- model hash: `{stored.model_hash}`

Limits: a vector means something only beside vectors of the same encoder of the same model.
Ids have to come from the vocabulary that the model was trained with. Longer sequences keep
their head. What the model was trained on, and whom it serves badly, is not written here:
whoever trained it should add it.

    from object2vec import Object2Vec
    Object2Vec.load("this directory").encode([[1, 2, 3]], side=0)
""" + "".join(
        f"\n## {title}\n\n" + "".join(f"- {line}\n" for line in lines)
        for title, lines in sections
        if lines
    )


def _encoder_line(side: int, encoder: EncoderConfig) -> str:
    words = [f"- encoder {side} (`in{side}`): {encoder.network}"]
    if encoder.layers:
        words.append(f"{encoder.layers} layers")
    if encoder.cnn_filter_width:
        words.append(f"filters of width {encoder.cnn_filter_width}, padded by {encoder.num_zeros}")
    words.append(f"vocabulary of {encoder.vocab_size:,}")
    words.append(f"token embeddings of {encoder.token_embedding_dim}")
    words.append(f"sequences of at most {encoder.max_seq_len} ids")
    reads = ", which its LSTMs step through" if encoder.reads_padding else ""
    words.append(f"id {encoder.padding_id} is padding{reads}")
    verb = "clipped" if encoder.out_of_range == "clip" else "refused"
    words.append(f"other ids are {verb}")
    return ", ".join(words)
