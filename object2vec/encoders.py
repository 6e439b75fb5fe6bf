"""The three encoders: ids in, one vector per sequence out.

Each keeps one promise: a row's bits do not depend on the other rows, as long as the
shape stays the same (`shapes.py` sees to that). That is why they use the operators they
use: `conv1d`, one-way `nn.LSTM` without packing, `embedding_bag`. Other ways to write
the same maths (unfold and a product, packed sequences, gather and sum) were measured to
break it.

Tried with MKL_CBWR set, one thread, 8 rows and more, on a Zen 5 and a Sapphire Rapids:
neither position nor neighbours changed a bit of any of them. The *number of threads
inside an operator* does change `conv1d` on Zen 5, so the engine always runs with one and
gives whole runs to its threads instead.

Shapes: M sequences, N ids in all, T positions, V vocabulary, E embedding, F filters,
H half of D, D vector, K states.
"""

from __future__ import annotations

import threading
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from object2vec.config import EncoderConfig
from object2vec.shapes import ROW_STEP


class PooledEncoder(nn.Module):
    """The mean of the embeddings of all ids that are not padding; zeros if there are none."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.token_embedding_dim))

    def forward(self, values_N: Tensor, starts_M1: Tensor) -> Tensor:
        """Encodes ragged sequences.

        Args:
          values_N: int32 [N], rows of the table: ids *without* padding ids.
          starts_M1: int32 [M + 1], where each sequence starts; the last entry is N.

        Returns:
          float32 [M, D].
        """
        # The sum adds row by row in order, so neighbours cannot matter. With padding_idx
        # or mode="mean" other code runs, which was not measured.
        sum_MD = functional.embedding_bag(
            values_N, self.embedding, starts_M1, mode="sum", include_last_offset=True
        )
        counts_M1 = starts_M1.diff().clamp_(min=1).to(torch.float32).unsqueeze(1)
        return _without_minus_zero(sum_MD.div_(counts_M1))


class HcnnEncoder(nn.Module):
    """Convolutions on top of each other; the maximum over time of each, side by side.

    The maximum goes over the padding as well, as SageMaker's does: the embedding of
    padding is zero, but what the biases make of it is not. `shapes.num_positions_needed`
    says how much padding makes the result independent of more of it.

    Args:
      config: with an even width, or another `cnn_padding` than half the width, each layer
        is longer or shorter than the one before.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.padding_id = config.padding_id
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.token_embedding_dim))
        width, num_filters = config.cnn_filter_width, config.enc_dim // config.layers
        self.convolutions = nn.ModuleList(
            nn.Conv1d(
                config.token_embedding_dim if layer == 0 else num_filters,
                num_filters,
                width,
                padding=config.num_zeros,
            )
            for layer in range(config.layers)
        )

    def forward(self, ids_MT: Tensor, lengths_M: Tensor) -> Tensor:
        """Encodes padded sequences.

        Args:
          ids_MT: int32 [M, T], as in a TokenBatch; padded with padding_id.
          lengths_M: int64 [M]; not read, since padding is told by its id.

        Returns:
          float32 [M, D], nothing below zero.
        """
        hidden_MET = _embed(ids_MT, self.embedding, self.padding_id).transpose(1, 2).contiguous()
        peaks = []
        for convolution in self.convolutions:
            hidden_MFT = convolution(hidden_MET).relu_()
            peaks.append(hidden_MFT.amax(dim=2))
            hidden_MET = hidden_MFT
        return _without_minus_zero(torch.cat(peaks, dim=1))


class BilstmEncoder(nn.Module):
    """LSTMs in both directions; the maximum over the positions that hold a token.

    Padding is not read: the backward direction starts at the last token. The padding id
    between tokens is stepped through with an embedding of zero, and left out of the
    maximum. A sequence without tokens gives zeros.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.padding_id = config.padding_id
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.token_embedding_dim))
        half = config.enc_dim // 2
        widths = [config.token_embedding_dim] + [config.enc_dim] * (config.layers - 1)
        # Two one-way LSTMs a layer: a two-way one reads the padding, and packing it, which
        # avoids that, makes the bits depend on the neighbours.
        self.forwards = nn.ModuleList(nn.LSTM(w, half, batch_first=True) for w in widths)
        self.backwards = nn.ModuleList(nn.LSTM(w, half, batch_first=True) for w in widths)

    def forward(self, ids_MT: Tensor, lengths_M: Tensor) -> Tensor:
        """Encodes padded sequences.

        Args:
          ids_MT: int32 [M, T], as in a TokenBatch; what stands beyond a row's length is
            not read.
          lengths_M: int64 [M], 0 to T; padding ids at the end of a row may be in it.

        Returns:
          float32 [M, D].
        """
        steps_T = torch.arange(ids_MT.shape[1], device=ids_MT.device)
        is_token_MT = (steps_T < lengths_M.unsqueeze(1)) & (ids_MT != self.padding_id)
        _, mirror_MT = _mirror(is_token_MT)
        hidden_MTD = _embed(ids_MT, self.embedding, self.padding_id)
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            ahead_MTH, _ = ahead(hidden_MTD)
            mirrored_MTH, _ = back(_take(hidden_MTD, mirror_MT))
            hidden_MTD = torch.cat([ahead_MTH, _take(mirrored_MTH, mirror_MT)], dim=2)
        return _peak_of_tokens(hidden_MTD, is_token_MT)


class PaddedBilstmEncoder(BilstmEncoder):
    """The same weights, but padding is read, as SageMaker's graphs read it.

    A sequence is padded to the longest length allowed, and both LSTMs step through all of
    it, the backward one through the padding first:

        forward    a b c . . . .  ->         only tokens count in the maximum, so what
        backward   a b c . . . .  <-         comes after the last one changes nothing

    What k steps through padding make of an LSTM depends on no record. So, of one layer,
    the backward LSTM starts at the last token, from its state after k steps, out of a
    table. In a second layer the padding is no longer zero: there, all of it is run.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self._states = _PaddingStates()

    def forward(  # type: ignore[override]
        self, ids_MT: Tensor, lengths_M: Tensor, tails_M: Tensor
    ) -> Tensor:
        """Encodes padded sequences.

        Args:
          ids_MT: int32 [M, T], as in a TokenBatch; padded with padding_id.
          lengths_M: int64 [M], 0 to T; padding ids at the end of a row may be in it.
          tails_M: int64 [M], how many positions of padding follow that length up to the
            longest one allowed. Of several layers, T *is* the longest.

        Returns:
          float32 [M, D].
        """
        is_token_MT = ids_MT != self.padding_id
        hidden_MTD = _embed(ids_MT, self.embedding, self.padding_id)
        if len(self.forwards) > 1:
            for ahead, back in zip(self.forwards, self.backwards, strict=True):
                ahead_MTH, _ = ahead(hidden_MTD)
                mirrored_MTH, _ = back(hidden_MTD.flip(1))
                hidden_MTD = torch.cat([ahead_MTH, mirrored_MTH.flip(1)], dim=2)
            return _peak_of_tokens(hidden_MTD, is_token_MT)

        ends_M, mirror_MT = _mirror(is_token_MT)
        ahead, back = self.forwards[0], cast(nn.LSTM, self.backwards[0])
        start = self._states.after(lengths_M + tails_M - ends_M, back)
        ahead_MTH, _ = ahead(hidden_MTD)
        mirrored_MTH, _ = back(_take(hidden_MTD, mirror_MT), start)
        hidden_MTD = torch.cat([ahead_MTH, _take(mirrored_MTH, mirror_MT)], dim=2)
        return _peak_of_tokens(hidden_MTD, is_token_MT)


class _PaddingStates:
    """The states of an LSTM after 0, 1, 2, ... steps through padding, made when needed.

    A step always has the same shape, so that a state's bits do not depend on how many
    were asked for at a time.
    """

    def __init__(self) -> None:
        self._table_K2H: Tensor | None = None

    def after(self, steps_M: Tensor, lstm: nn.LSTM) -> tuple[Tensor, Tensor]:
        """What the LSTM, of one layer, goes on from after `steps_M` steps: both [1, M, H]."""
        with _GROWING:
            if self._table_K2H is None:
                self._table_K2H = torch.zeros(1, 2, lstm.hidden_size, device=steps_M.device)
            self._table_K2H = table_K2H = _grown(self._table_K2H, lstm, int(steps_M.max()) + 1)
        states_2MH = table_K2H[steps_M].transpose(0, 1).contiguous()
        return states_2MH[:1], states_2MH[1:]


_GROWING = threading.Lock()
"""Held while a table of states grows: threads share the encoders."""


def _grown(table_K2H: Tensor, lstm: nn.LSTM, num_states: int) -> Tensor:
    """The table with at least so many states."""
    # Fewer rows than 8 take other code paths, see shapes.py. All of them are equal.
    zeros_MTE = table_K2H.new_zeros(ROW_STEP, 1, lstm.input_size)
    last_2MH = table_K2H[-1].unsqueeze(1).repeat(1, ROW_STEP, 1)
    h_1MH, c_1MH = last_2MH[:1], last_2MH[1:]
    states = [table_K2H]
    for _ in range(len(table_K2H), num_states):
        _, (h_1MH, c_1MH) = lstm(zeros_MTE, (h_1MH, c_1MH))
        states.append(torch.stack([h_1MH[:, 0], c_1MH[:, 0]], dim=1))
    return torch.cat(states) if len(states) > 1 else table_K2H


Encoder = PooledEncoder | HcnnEncoder | BilstmEncoder


def build_encoder(config: EncoderConfig) -> Encoder:
    """The module of a configuration. Its weights are not set."""
    networks: dict[str, type[Encoder]] = {
        "pooled_embedding": PooledEncoder,
        "hcnn": HcnnEncoder,
        "bilstm": PaddedBilstmEncoder if config.reads_padding else BilstmEncoder,
    }
    return networks[config.network](config)


def _embed(ids_MT: Tensor, table_VE: Tensor, padding_id: int) -> Tensor:
    """float32 [M, T, E], zero where the id is padding."""
    rows_MT = ids_MT.masked_fill(ids_MT == len(table_VE), padding_id)  # see TokenBatch
    embedded_MTE = functional.embedding(rows_MT, table_VE)
    return embedded_MTE.masked_fill_((ids_MT == padding_id).unsqueeze(2), 0.0)


def _mirror(is_token_MT: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row ends, and the order in which it is read backwards.

    Returns:
      ends_M: int64 [M], the position after the last token.
      mirror_MT: int64 [M, T]: a b c . .  ->  c b a . .   and by the same indices back again.
    """
    steps_T = torch.arange(is_token_MT.shape[1], device=is_token_MT.device)
    ends_M = ((steps_T + 1) * is_token_MT).amax(dim=1)
    ends_M1 = ends_M.unsqueeze(1)
    return ends_M, torch.where(steps_T < ends_M1, ends_M1 - 1 - steps_T, steps_T)


def _peak_of_tokens(hidden_MTD: Tensor, is_token_MT: Tensor) -> Tensor:
    """float32 [M, D], the maximum over the tokens, zero where there is none. In place."""
    peak_MD = hidden_MTD.masked_fill_(~is_token_MT.unsqueeze(2), -torch.inf).amax(dim=1)
    has_tokens_M1 = is_token_MT.any(dim=1).unsqueeze(1)
    return _without_minus_zero(peak_MD.masked_fill_(~has_tokens_M1, 0.0))


def _take(hidden_MTH: Tensor, index_MT: Tensor) -> Tensor:
    """Row m, position t of the result is row m, position index_MT[m, t]."""
    return hidden_MTH.gather(1, index_MT.unsqueeze(2).expand_as(hidden_MTH))


def _without_minus_zero(vectors_MD: Tensor) -> Tensor:
    # Which of 0.0 and -0.0 a maximum picks may depend on where the row stands.
    return vectors_MD.add_(0.0)
