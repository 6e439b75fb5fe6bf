"""A model whose neighbours mean something, learnt in seconds by counting: no training, no chance.

Words that keep the same company get similar vectors. Four classical steps, all linear or closed:

1. Count which words occur together: close by in a docstring, or in a signature and its docstring.
2. Positive pointwise mutual information: how much more often than chance would have it.
3. A truncated singular value decomposition keeps the WIDTH directions that explain most of it.
4. Frequent words say little: scale them down by a / (a + frequency), and take the one direction
   that all texts share out of every word.

Step 4 needs no code in the encoder, as pooled_embedding is the mean of the table's rows: it is
folded into the table.

Sources: Levy and Goldberg 2014, "Neural word embedding as implicit matrix factorization" (2, 3);
Arora, Liang and Ma 2017, "A simple but tough-to-beat baseline for sentence embeddings" (4).

Shapes: V words, N texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from object2vec import EncoderConfig, ModelConfig, Object2Vec

Text = tuple[list[int], list[int]]
"""The ids of a docstring, and of the signature it explains."""

WIDTH = 96
WINDOW = 10
"""Words further apart than this are not counted as company."""
HEAD = 40
"""A name is counted with the first words of its docstring; the rest is about details."""
SMOOTHING = 0.75
SIF_A = 1e-3

MAX_SEQ_LEN = 512
"""Longer docstrings are cut: the summary of a run counts them."""


def learn(texts: Sequence[Text], vocab_size: int, unknown_id: int) -> np.ndarray:
    """The table of word vectors.

    Returns:
      float32 [V, D], at most WIDTH wide. Rows 0 (padding) and `unknown_id` are zero, and the mean
      docstring has length 1, so that the dot product of two texts is of a cosine's size.
    """
    information_VV = _ppmi(_company(texts, vocab_size, unknown_id))
    weights_V = _sif_weights(texts, vocab_size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a sum that is split over threads has other last bits
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for the start of svd_lowrank
            left_VD, values_D, _ = torch.svd_lowrank(
                torch.from_numpy(information_VV), q=min(WIDTH, vocab_size), niter=4
            )
        table_VD = left_VD * values_D.sqrt() * torch.from_numpy(weights_V)[:, None]
        table_VD[[0, unknown_id]] = 0
        docstrings_ND = torch.stack([table_VD[docstring].mean(0) for docstring, _ in texts])
        shared_D = torch.linalg.svd(docstrings_ND, full_matrices=False).Vh[0]
        table_VD -= torch.outer(table_VD @ shared_D, shared_D)
        docstrings_ND -= torch.outer(docstrings_ND @ shared_D, shared_D)
        table_VD /= docstrings_ND.norm(dim=1).mean()
    finally:
        torch.set_num_threads(threads)
    table: np.ndarray = table_VD.numpy()
    return table


def model_of(table_VD: np.ndarray) -> Object2Vec:
    """Both sides pool the same table; the score is the dot product of the two sides.

    A hadamard comparator without hidden layers, weights 1 and bias 0, is the dot product. It means
    something as it is: docstrings and signatures live in one space.
    """
    vocab_size, width = table_VD.shape
    encoder = EncoderConfig(
        network="pooled_embedding",
        vocab_size=vocab_size,
        token_embedding_dim=width,
        enc_dim=width,
        max_seq_len=MAX_SEQ_LEN,
    )
    config = ModelConfig(
        encoders=(encoder, encoder),
        tied_token_embedding_weight=True,
        comparator_list=("hadamard",),
        mlp_layers=0,
        output_layer="mean_squared_error",
    )
    weights = {
        "encoders.0.embedding": torch.from_numpy(table_VD),
        "scorer.output.weight": torch.ones(1, width),
        "scorer.output.bias": torch.zeros(1),
    }
    return Object2Vec.from_weights(config, weights)


def _company(texts: Sequence[Text], vocab_size: int, unknown_id: int) -> np.ndarray:
    """float32 [V, V], how often two words occur together. Symmetric."""
    counts_VV = np.zeros((vocab_size, vocab_size), np.float32)
    for docstring, signature in texts:
        text, name = np.array(docstring, np.int64), np.array(signature, np.int64)
        for distance in range(1, min(WINDOW, len(text) - 1) + 1):
            np.add.at(counts_VV, (text[:-distance], text[distance:]), 1)
        for distance in range(1, len(name)):
            np.add.at(counts_VV, (name[:-distance], name[distance:]), 1)
        np.add.at(counts_VV, (name[:, None], text[None, :HEAD]), 1)
    counts_VV[unknown_id] = counts_VV[:, unknown_id] = 0
    return counts_VV + counts_VV.T


def _ppmi(counts_VV: np.ndarray) -> np.ndarray:
    """float32 [V, V], positive pointwise mutual information; 0 where nothing was counted.

    The chance of a context is smoothed, as rare words would otherwise dominate.
    """
    rows_V = counts_VV.sum(1)
    chance_V = rows_V**SMOOTHING
    chance_V /= chance_V.sum()
    with np.errstate(divide="ignore", invalid="ignore"):  # log 0 and 0 / 0 become 0 below
        information_VV = np.log(counts_VV / rows_V[:, None] / chance_V[None, :])
    information_VV[~(information_VV > 0)] = 0
    return np.asarray(information_VV, np.float32)


def _sif_weights(texts: Sequence[Text], vocab_size: int) -> np.ndarray:
    """float32 [V], a / (a + frequency)."""
    ids = [i for pair in texts for text in pair for i in text]
    counts_V = np.bincount(ids, minlength=vocab_size)
    weights_V: np.ndarray = SIF_A / (SIF_A + counts_V / counts_V.sum())
    return weights_V.astype(np.float32)
