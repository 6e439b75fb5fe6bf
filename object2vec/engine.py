"""Runs a model over batches, on one device, with the same bits whatever stands where.

    TokenBatch -> sequences of one side -> runs of canonical shape -> rows in place
                  pairs: both sides, then the scorer in runs of fixed rows -> Encoded

A thread takes whole runs. Inside an operator there is always one thread: on some
machines the number of threads inside `conv1d` or a product changes bits.

Shapes: R records, S sequences of one side, N ids in all, M rows of a run, P pairs,
T positions, D vector, C classes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from object2vec.config import MAX_SEQ_LEN, EncoderConfig
from object2vec.device import choose_device, exact_numerics, placement
from object2vec.errors import DeviceError
from object2vec.probe import Probe, run_probe
from object2vec.shapes import ROW_STEP, Run, num_positions_needed, plan_runs, scorer_rows
from object2vec.tokens import IN0, IN1, PAIR, TokenBatch
from object2vec.vectors import Encoded

if TYPE_CHECKING:
    from object2vec.model import Object2Vec

_BAG_ROWS = 4096  # bags of a run of the pooled encoder; any number gives the same bits


_TORCH_SETTINGS = threading.RLock()
"""Held while torch's settings, which are those of the process, are changed."""


class Engine:
    """A model on a device, with its threads. Callers wait for one another.

    While a call runs, torch's number of threads and some settings
    (`device.exact_numerics`) are changed for the process, and set back afterwards.

    Args:
      model: what to run. On the CPU its weights are shared, not copied.
      device: `auto` takes a GPU if there is one.
      threads: how many runs are computed at a time on a CPU; at least 1.
      max_seq_lens: longest sequence of each side, 1 to 5000, not below what the encoder
        can run; None takes the model's.
      preferred_mode: `embedding`, `classification` or None; see `device.placement`.

    Attributes:
      config: the model's configuration.
      max_seq_lens: as above, never None.
      device: `cpu` or `cuda`.
      placement: which network is where.
      num_oom_steps: how often the rows of a run were halved because memory ran out.

    Raises:
      DeviceError: `cuda` was asked for and is not there.
      ValueError: another argument is wrong.
    """

    def __init__(
        self,
        model: Object2Vec,
        *,
        device: str = "auto",
        threads: int = 1,
        max_seq_lens: tuple[int, int] | None = None,
        preferred_mode: str | None = None,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        if max_seq_lens is None:
            first, second = model.config.encoders
            max_seq_lens = first.max_seq_len, second.max_seq_len
        for length in max_seq_lens:
            if not 1 <= length <= MAX_SEQ_LEN:
                raise ValueError(f"max_seq_lens: {length} is outside 1 to {MAX_SEQ_LEN}")
        for side, encoder in enumerate(model.config.encoders):
            if max_seq_lens[side] < encoder.min_seq_len:
                raise ValueError(
                    f"max_seq_lens: encoder {side} cannot run at {max_seq_lens[side]} positions;"
                    f" its convolutions leave nothing of fewer than {encoder.min_seq_len}"
                )
        self.config = model.config
        self.max_seq_lens: tuple[int, int] = max_seq_lens
        self.device = choose_device(device, torch.cuda.is_available())
        self.placement = placement(preferred_mode, self.device)
        self.num_oom_steps = 0
        self._encoders = model.encoders_on(self.placement.encoders)
        self._scorer = model.scorer_on(self.placement.scorer)
        # A GPU takes one run after the other; threads would only hold more of its memory.
        self._threads = threads if self.device == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None

    def encode(self, batch: TokenBatch) -> Encoded:
        """Embeds the records of one side and scores the pairs.

        Args:
          batch: records whose ids lie in the vocabulary (or are its size, see
            TokenBatch) and whose sequences are not longer than max_seq_lens; the parser
            sees to both.

        Returns:
          What the model says to each record: float32, C-contiguous.

        Raises:
          ValueError: an id or a length breaks the rule above.
          DeviceError: memory ran out at the smallest shape.
        """
        # Runners share one engine among their threads, and torch's settings are the process's.
        with _TORCH_SETTINGS:
            num_threads = torch.get_num_threads()
            try:
                with exact_numerics():
                    return self._encode(batch)
            finally:
                torch.set_num_threads(num_threads)  # each job sets it to 1

    def _encode(self, batch: TokenBatch) -> Encoded:
        sides_S = batch.sides_S
        in_pair_S = np.repeat(batch.kinds_R == PAIR, np.where(batch.kinds_R == PAIR, 2, 1))
        alone: list[np.ndarray] = []
        paired: list[np.ndarray] = []
        for side in (IN0, IN1):
            chosen = np.flatnonzero(sides_S == side)
            vectors_SD = self._encode_side(batch, chosen, side)
            in_pair = in_pair_S[chosen]
            # Usually a batch is of one kind, and then nothing is copied.
            alone.append(vectors_SD[~in_pair] if in_pair.any() else vectors_SD)
            paired.append(vectors_SD if in_pair.all() else vectors_SD[in_pair])
        scores_PC = self._score(*paired)
        return Encoded(batch.kinds_R, (alone[IN0], alone[IN1], scores_PC))

    def probe(self) -> Probe:
        """Encodes fixed records twice, among different neighbours, and compares the bits.

        The second time runs without the threads.
        """

        def encode_without_threads(batch: TokenBatch) -> Encoded:
            pool, self._pool = self._pool, None
            try:
                return self.encode(batch)
            finally:
                self._pool = pool

        with _TORCH_SETTINGS:
            return run_probe(
                self.encode, encode_without_threads, self.config, self.max_seq_lens, self.device
            )

    def _encode_side(self, batch: TokenBatch, chosen: np.ndarray, side: int) -> np.ndarray:
        """float32 [S, D]: the chosen sequences of a batch through the side's encoder."""
        config, max_len = self.config.encoders[side], self.max_seq_lens[side]
        out_SD = np.empty((len(chosen), config.enc_dim), np.float32)
        if not len(chosen):
            return out_SD
        ids = _Ids.chosen_from(batch, chosen)
        ids.check(side, config.vocab_size, max_len)
        module = self._encoders[side]
        needed_S = num_positions_needed(ids.lengths_S, config, max_len)

        def plan(halvings: int) -> Iterable[_Job]:
            if config.network == "pooled_embedding":
                return _plan_bags(module, ids, config, halvings, self._threads)
            runs = plan_runs(needed_S, max_len, halvings)
            return (_padded_job(module, ids, config, max_len, run) for run in runs)

        self._fill(out_SD, plan, self.placement.encoders)
        return out_SD

    def _score(self, u_PD: np.ndarray, v_PD: np.ndarray) -> np.ndarray:
        """float32 [P, C]: what the scorer says to the pairs."""
        out_PC = np.empty((len(u_PD), self.config.num_classes), np.float32)

        def plan(halvings: int) -> Iterator[_Job]:
            num_rows = scorer_rows(halvings)
            for start in range(0, len(u_PD), num_rows):
                rows = np.arange(start, min(start + num_rows, len(u_PD)))
                yield _scorer_job(self._scorer, u_PD, v_PD, rows, num_rows)

        self._fill(out_PC, plan, self.placement.scorer)
        return out_PC

    def _fill(self, out: np.ndarray, plan: Callable[[int], Iterable[_Job]], device: str) -> None:
        """Does all jobs of a plan; with smaller ones again where memory runs out."""
        while True:
            try:
                self._do_all(list(plan(self.num_oom_steps)), out, device)
                return
            except _OutOfMemoryError as error:
                if error.num_rows <= ROW_STEP:
                    raise DeviceError(
                        f"out of memory on {device} with {error.num_rows} rows at a time, the"
                        " fewest there are; allow shorter sequences (infer_max_seqlens), or"
                        " take a device with more memory"
                    ) from error
            # Out of the except block, which holds on to the tensors of the failed run.
            self.num_oom_steps += 1
            if device == "cuda":
                torch.cuda.empty_cache()

    def _do_all(self, jobs: list[_Job], out: np.ndarray, device: str) -> None:
        if self._pool is None or len(jobs) == 1:
            for job in jobs:
                job.do(out, device)
            return
        futures: list[Future[None]] = [self._pool.submit(job.do, out, device) for job in jobs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            # Nothing may run any more when torch's settings are set back.
            for future in futures:
                future.cancel()
            wait(futures)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One call of a module.

    Attributes:
      num_rows: rows of the call, those that are only filling included.
      members: where the leading rows of the result belong in the output.
      module: takes the inputs, gives float32 [num_rows, D or C].
      inputs: makes the inputs, in the thread that needs them.
    """

    num_rows: int
    members: np.ndarray
    module: torch.nn.Module
    inputs: Callable[[], tuple[np.ndarray, ...]]

    def do(self, out: np.ndarray, device: str) -> None:
        """Computes, and puts the rows where they belong.

        Raises:
          _OutOfMemoryError: so it says.
        """
        # Even if it is 1 already: MKL takes the number that any thread of the process set last.
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                inputs = [torch.from_numpy(array).to(device) for array in self.inputs()]
                result = self.module(*inputs)[: len(self.members)].cpu()
        except torch.OutOfMemoryError as error:
            raise _OutOfMemoryError(self.num_rows) from error
        out[self.members] = result.numpy()


class _OutOfMemoryError(Exception):
    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows)
        self.num_rows = num_rows


@dataclass(frozen=True, slots=True, eq=False)
class _Ids:
    """Sequences of one side, side by side without gaps.

    Attributes:
      values_N: int32 [N].
      starts_S: int64 [S], where each begins.
      lengths_S: int64 [S].
    """

    values_N: np.ndarray
    starts_S: np.ndarray
    lengths_S: np.ndarray

    @classmethod
    def chosen_from(cls, batch: TokenBatch, chosen: np.ndarray) -> _Ids:
        lengths_S = batch.lengths_S[chosen]
        if len(chosen) == batch.num_sequences:
            return cls(batch.values_N, batch.starts_S1[:-1], lengths_S)
        ends_S = np.cumsum(lengths_S)
        starts_S = ends_S - lengths_S
        # Position i of the result lies as far from its sequence's start as it did before.
        shift_N = np.repeat(batch.starts_S1[chosen] - starts_S, lengths_S)
        return cls(batch.values_N[np.arange(len(shift_N)) + shift_N], starts_S, lengths_S)

    def check(self, side: int, vocab_size: int, max_len: int) -> None:
        if self.lengths_S.max() > max_len:
            raise ValueError(
                f"a sequence of in{side} has {self.lengths_S.max()} ids, {max_len} are allowed;"
                " truncate it first"
            )
        # On a GPU, an id outside the table would end the process's use of it.
        if len(self.values_N) and not 0 <= self.values_N.min() <= self.values_N.max() <= vocab_size:
            raise ValueError(
                f"ids of in{side} lie between {self.values_N.min()} and {self.values_N.max()},"
                f" the vocabulary between 0 and {vocab_size - 1}; clip or refuse them first"
            )


def _plan_bags(
    module: torch.nn.Module, ids: _Ids, config: EncoderConfig, halvings: int, threads: int
) -> Iterator[_Job]:
    """Cuts ragged sequences into runs. How they are cut changes no bit: bags are sums."""
    num_sequences = len(ids.lengths_S)
    num_rows = max(ROW_STEP, min(_BAG_ROWS, -(-num_sequences // threads)) >> halvings)
    for start in range(0, num_sequences, num_rows):
        rows = np.arange(start, min(start + num_rows, num_sequences))
        yield _bag_job(module, ids, config, rows)


def _bag_job(module: torch.nn.Module, ids: _Ids, config: EncoderConfig, rows: np.ndarray) -> _Job:
    def inputs() -> tuple[np.ndarray, ...]:
        ends = np.cumsum(ids.lengths_S[rows])
        first = int(ids.starts_S[rows[0]])
        values = ids.values_N[first : first + int(ends[-1])]
        is_token = values != config.padding_id
        before = np.concatenate([[0], np.cumsum(is_token)])
        starts = before[np.concatenate([[0], ends])]
        rows_N = values[is_token]
        if rows_N.max(initial=0) == config.vocab_size:  # rare, and looked for faster than done
            rows_N[rows_N == config.vocab_size] = config.padding_id
        return rows_N, starts.astype(np.int32)

    return _Job(len(rows), rows, module, inputs)


def _padded_job(
    module: torch.nn.Module, ids: _Ids, config: EncoderConfig, max_len: int, run: Run
) -> _Job:
    def inputs() -> tuple[np.ndarray, ...]:
        lengths_M = np.zeros(run.num_rows, np.int64)
        lengths_M[: len(run.members)] = ids.lengths_S[run.members]
        starts_M = np.zeros(run.num_rows, np.int64)
        starts_M[: len(run.members)] = ids.starts_S[run.members]
        steps_T = np.arange(run.length)
        is_real_MT = steps_T < lengths_M[:, None]
        ids_MT = np.full((run.num_rows, run.length), config.padding_id, np.int32)
        ids_MT[is_real_MT] = ids.values_N[(starts_M[:, None] + steps_T)[is_real_MT]]
        if config.reads_padding:
            return ids_MT, lengths_M, max_len - lengths_M
        return ids_MT, lengths_M

    return _Job(run.num_rows, run.members, module, inputs)


def _scorer_job(
    module: torch.nn.Module, u_PD: np.ndarray, v_PD: np.ndarray, rows: np.ndarray, num_rows: int
) -> _Job:
    def inputs() -> tuple[np.ndarray, ...]:
        filling = ((0, num_rows - len(rows)), (0, 0))
        return np.pad(u_PD[rows], filling), np.pad(v_PD[rows], filling)

    return _Job(num_rows, rows, module, inputs)
