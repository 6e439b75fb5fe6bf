"""Which rows run together, at which padded length: the rule behind equal bytes.

The last bits of a float32 product depend on the shape it runs in. So a sequence runs in
a shape that follows from its own length, the model and the options alone, whatever
stands next to it:

    length 13, hcnn of 4 layers, width 3   needs 13 + 8 = 21 positions
    T = 24, the next step of the series    M = 4096 / 24 = 170, rounded down to 168 rows
    3 sequences of that kind               one run of 168 rows, 165 of them empty

No torch here, and no ids: only lengths.

Shapes: S sequences, M rows of a run, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from object2vec.config import EncoderConfig

STEPS = (
    *(8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768),
    *(1024, 1536, 2048, 3072, 4096),
)
"""The lengths a run may have, besides the longest one allowed."""

_POSITIONS_PER_RUN = 4096
ROW_STEP = 8  # fewer rows, or odd numbers of them, take other code paths in MKL and oneDNN

SCORER_ROWS = 256
"""Rows of every run of the scorer."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Sequences that go through an encoder side by side.

    Attributes:
      length: T, positions.
      num_rows: M, rows; those beyond the members are empty.
      members: int64, at most M indices of sequences, ascending.
    """

    length: int
    num_rows: int
    members: np.ndarray


def rows_per_run(length: int, halvings: int = 0) -> int:
    """M for runs of `length` positions: a multiple of 8, at least 8.

    Args:
      length: T, at least 1.
      halvings: how often the rows were halved since memory ran out.
    """
    return max(ROW_STEP, _halved(_POSITIONS_PER_RUN // length, halvings))


def scorer_rows(halvings: int = 0) -> int:
    """M for runs of the scorer, likewise."""
    return max(ROW_STEP, _halved(SCORER_ROWS, halvings))


def _halved(num_rows: int, halvings: int) -> int:
    return (num_rows >> halvings) // ROW_STEP * ROW_STEP


def num_positions_needed(lengths_S: np.ndarray, config: EncoderConfig, max_len: int) -> np.ndarray:
    """The fewest positions that give each sequence the result it has at `max_len`.

    hcnn takes its maximum over the padding too. A layer adds p zeros at either end and
    reads w positions at a time, t - p to t - p + w - 1, so of T positions it makes
    T + 2p - w + 1. Those of layer l, for a sequence of n ids, counted from the left:

        0 ................ n + lp ............ T + p - l(w-1-p) .... T + l(2p-w+1)
        | see the sequence | see padding alone | see the right end   |

    Each layer sees p further left than the one below, and w - 1 - p further right. The
    right end begins to show in layer 2: in layer 1 the embeddings of padding are zero,
    and so is what the convolution adds. As long as one position between the two sees
    padding alone, in the last layer as well, those left of it are what they are at any
    larger T, those right of it are too, counted from the right, and so is the maximum:

        T + p - L(w-1-p) - (n + Lp) >= 1,  or  T >= n + L(w-1) - p + 1

    The LSTMs of a bilstm that reads its padding go through all of `max_len`; where there
    is one layer alone, `PaddedBilstmEncoder` knows what they make of the padding.

    Args:
      lengths_S: int64 [S], at most max_len.

    Returns:
      int64 [S], at most max_len.

    Source: the padding effect in section 3.4 of the notes on SageMaker.
    """
    if config.reads_padding and config.layers > 1:
        return np.full_like(lengths_S, max_len)
    margin = 0
    if config.network == "hcnn":
        margin = config.layers * (config.cnn_filter_width - 1) - config.num_zeros + 1
    needed_S: np.ndarray = np.minimum(lengths_S + margin, max_len)
    return needed_S


def plan_runs(needed_S: np.ndarray, max_len: int, halvings: int = 0) -> Iterator[Run]:
    """Groups sequences by canonical length, in arrival order, into full runs.

    The canonical length is the smallest step, or else `max_len`, that holds what a
    sequence needs.

    Args:
      needed_S: int64 [S], the positions each sequence needs, 0 to max_len.
      max_len: Tmax.
      halvings: how often the rows were halved since memory ran out.

    Yields:
      Runs, the shortest first. Every sequence is a member of exactly one.

    Raises:
      ValueError: a sequence needs more than `max_len`.
    """
    if len(needed_S) and not 0 <= needed_S.min() <= needed_S.max() <= max_len:
        raise ValueError(f"a sequence needs {needed_S.max()} positions; {max_len} are allowed")
    lengths = np.array([*(step for step in STEPS if step < max_len), max_len])
    groups_S = np.searchsorted(lengths, needed_S)
    for group in np.unique(groups_S).tolist():
        length = int(lengths[group])
        num_rows = rows_per_run(length, halvings)
        members = np.flatnonzero(groups_S == group)
        for start in range(0, len(members), num_rows):
            yield Run(length, num_rows, members[start : start + num_rows])
