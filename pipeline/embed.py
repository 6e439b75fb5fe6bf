"""The main job: from options to published files, with everything a run owes its user.

check -> lock -> ledger -> agenda -> plan -> graph (or workers, then graph) -> summary
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from object2vec.config import ModelConfig, StoredConfig
from object2vec.errors import InputError, OutputError, UsageError
from object2vec.parsing import Limits
from pipeline.beam_flags import LOCAL_RUNNERS, runner_of
from pipeline.forecast import Forecast, check_fits, make_forecast
from pipeline.graph import GraphSpec, run_graph
from pipeline.options import JobOptions
from pipeline.report import ProgressReporter, Summary, summarise
from pipeline.stopping import stopped_by_signals, stopped_without
from pipeline.worker import run_workers
from transforms.agenda import Agenda, make_agenda, units_left
from transforms.board import Board
from transforms.encode import EngineSpec
from transforms.finish import write_success
from transforms.inputs import check_apart, find_inputs
from transforms.ledger import RUNS, SUCCESS, Ledger, RunManifest, read_ledger, totals
from transforms.lock import OutputLock
from transforms.manifest import InputFile, Unit
from transforms.model_cache import find_model
from transforms.plan import PlanLine, stretches, write_plan
from transforms.publish import SCRATCH
from transforms.recipe import DEAD_LETTER, Recipe
from transforms.sinks import suffix_of
from transforms.storage import Store, open_store
from transforms.sweep import clear_finished, of_other_inputs, sweep

_LOG = logging.getLogger("object2vec")

SUMMARY = "_o2v/summary.json"

REMOTE_STRETCHES = 10_000
"""Elements of the plan that a cluster shares out; a local run needs one."""


def embed(options: JobOptions) -> Summary:
    """Runs the main job.

    Returns:
      What it did. `run` is None if there was nothing to do.

    Raises:
      StopError: see errors.py. Interrupted: by SIGINT or SIGTERM.
    """
    started = time.monotonic()
    job = check(options)
    with OutputLock(job.store, force=options.force_unlock) as lock:
        ledger = read_ledger(job.store)
        agenda = make_agenda(job.store, ledger, job.files, job.recipe, options.overwrite)
        if not agenda.files:
            return _nothing_to_do(job, ledger, agenda, started)
        found = make_forecast(agenda.files, job.recipe, job.config, agenda.kept)
        check_fits(found, job.store)
        job.store.delete(SUCCESS)
        others = of_other_inputs(ledger, job.files)
        sweep(job.store, ledger, [*agenda.kept, *others])
        with _board_folder(job.store) as folder:
            with stopped_without(lock, Board(folder)):
                manifest = _run(job, agenda, folder)
            progress = Board(folder).total()
        lock.check()
        clear_finished(job.store, ledger, others)
        summary = summarise(
            manifest, options.output, len(agenda.done), progress, time.monotonic() - started
        )
        job.store.put(SUMMARY, summary.to_json())
        return summary


@contextlib.contextmanager
def _board_folder(store: Store) -> Iterator[str]:
    """A folder for the board: among what the next run sweeps, where that is on a disk."""
    scratch = store.local_path(SCRATCH)
    if scratch is not None:
        os.makedirs(scratch, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="board-", dir=scratch) as folder:
        yield folder


@dataclass(frozen=True, slots=True)
class Job:
    """A checked command line: everything a run stands on, nothing done yet.

    Attributes:
      model: local path of the model directory.
    """

    options: JobOptions
    model: str
    config: ModelConfig
    recipe: Recipe
    store: Store
    files: list[InputFile]


def check(options: JobOptions) -> Job:
    """Everything that can be refused without touching the output.

    Raises:
      UsageError, ModelError, DeviceError, InputError, OutputError.
    """
    if options.workers > 1 and runner_of(options.beam_args) not in LOCAL_RUNNERS:
        raise UsageError(
            f"--workers={options.workers} starts processes on this machine; a cluster has its own "
            "(leave it out)"
        )
    check_apart(options.inputs, options.output)
    if options.device == "cuda":
        import torch  # a second to import: not for a run that may have nothing to do

        from object2vec.device import choose_device

        choose_device("cuda", torch.cuda.is_available())
    path = find_model(options.model, options.max_seq_lens)
    model = StoredConfig.load(path)
    store = open_store(options.output)
    _check_output(store)
    suffix = suffix_of(options.accept)
    letters = f"{suffix}.jsonl" if options.on_bad_record == DEAD_LETTER else ""
    files = find_inputs(options.inputs, suffix, letters)
    odd = [file for file in files if not file.output.isprintable()]
    if odd and not store.is_local:
        raise InputError(
            f"{odd[0].uri!r}: object stores take no control characters in names; rename it"
        )
    return Job(options, path, model.config, recipe_of(options, model), store, files)


def _check_output(store: Store) -> None:
    path = store.local_path("_o2v")
    while path is not None and not os.path.lexists(path):
        path = os.path.dirname(path)
    if path is not None and not os.path.isdir(path):
        raise OutputError(f"{store.root} cannot be a directory: {path} is a file")
    if path is not None and not os.access(path, os.W_OK | os.X_OK):
        raise OutputError(f"{store.root} cannot be written: no permission in {path}")


def recipe_of(options: JobOptions, model: StoredConfig) -> Recipe:
    """What decides the bytes of this run's outputs.

    Raises:
      UsageError: the model cannot run at the lengths that the options ask for.
    """
    limits = Limits.of(model.config, options.max_seq_lens, options.out_of_range_ids)
    for side, encoder in enumerate(model.config.encoders):
        if limits.max_seq_lens[side] < encoder.min_seq_len:
            raise UsageError(
                f"infer_max_seqlens says {limits.max_seq_lens[side]} for in{side}; the convolutions"
                f" of this model leave nothing of fewer than {encoder.min_seq_len} positions"
            )
    return Recipe(
        model_hash=model.model_hash,
        content_type=options.content_type,
        accept=options.accept,
        max_seq_lens=limits.max_seq_lens,
        clips=limits.clips,
        on_bad_record=options.on_bad_record,
        max_line_bytes=options.max_line_bytes,
        vocab_sizes=limits.vocab_sizes,
        padding_ids=limits.padding_ids,
    )


def forecast(options: JobOptions) -> tuple[Job, Agenda, Forecast]:
    """What a run would do, without doing any of it.

    Raises:
      StopError: as the run would.
    """
    job = check(options)
    agenda = make_agenda(
        job.store, read_ledger(job.store), job.files, job.recipe, options.overwrite
    )
    found = make_forecast(agenda.files, job.recipe, job.config, agenda.kept)
    check_fits(found, job.store)
    return job, agenda, found


def _nothing_to_do(job: Job, ledger: Ledger, agenda: Agenda, started: float) -> Summary:
    # A crash may have come between the manifest and the end of the run.
    others = of_other_inputs(ledger, job.files)
    sweep(job.store, ledger, others)
    clear_finished(job.store, ledger, others)
    runs = sorted(stat.name for stat in job.store.list(RUNS))
    run = runs[-1].rpartition("/")[2].removesuffix(".json") if runs else "none"
    if job.store.stat(SUCCESS) is None and not others:  # else another job is unfinished here
        write_success(job.store, run, job.recipe, agenda.done)
    summary = Summary(
        run=None,
        output=job.options.output,
        files_done=0,
        files_failed=0,
        files_before=len(agenda.done),
        counts=totals(agenda.done),
        encoded=0,
        seconds=round(time.monotonic() - started, 3),
        records_per_s=0.0,
        peak_memory_bytes=0,
        deterministic=all(entry.deterministic for entry in agenda.done),
        oom_steps=0,
        errors=(),
    )
    if not _is_summary_of(job.store, run):
        job.store.put(SUMMARY, replace(summary, run=run).to_json())
    return summary


def _is_summary_of(store: Store, run: str) -> bool:
    if store.stat(SUMMARY) is None:
        return False
    with contextlib.suppress(ValueError, TypeError, KeyError):  # damaged: it is written again
        return bool(json.loads(store.read(SUMMARY))["run"] == run)
    return False


def _run(job: Job, agenda: Agenda, folder: str) -> RunManifest:
    options = job.options
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:6]}"
    is_local = runner_of(options.beam_args) in LOCAL_RUNNERS
    board = Board(folder)
    spec = GraphSpec(
        output=job.store.root,
        run=run,
        recipe=job.recipe,
        engine=EngineSpec(
            model=job.model,
            device=options.device,
            threads=options.threads,
            max_seq_lens=job.recipe.max_seq_lens,
            preferred_mode=options.preferred_mode,
            require_determinism=options.require_determinism,
        ),
        plan=f"{SCRATCH}/{run}/plan",
        batch_tokens=options.batch_tokens,
        board=folder if is_local else None,
        num_files=len(agenda.files),
        carried=f"{SCRATCH}/{run}/carried",
    )
    with job.store.create(spec.carried) as writer:
        writer.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in agenda.done))
    units = units_left(agenda, options.unit_bytes, job.recipe.content_type)
    total_bytes = sum(unit.size for unit in units)
    _LOG.info(
        "%s to encode, %s bytes%s",
        "1 file" if len(agenda.files) == 1 else f"{len(agenda.files):,} files",
        f"{total_bytes:,}",
        f", {len(agenda.kept):,} pieces kept from an earlier attempt" if agenda.kept else "",
    )
    with stopped_by_signals(board), ProgressReporter(board, total_bytes):
        if options.workers > 1 and len(units) > 1:
            _run_workers(spec, units, options, folder)
            # What finished runs left has been judged; now only this one's markers count.
            recorded = Ledger(markers=read_ledger(job.store).markers)
            agenda = make_agenda(job.store, recorded, agenda.files, job.recipe, overwrite=True)
            units = units_left(agenda, options.unit_bytes, job.recipe.content_type)
            if units:
                _LOG.warning("%d units are left; this process does them", len(units))
        count = 1 if is_local else REMOTE_STRETCHES
        lines = [PlanLine(units=stretch) for stretch in stretches(units, count)]
        lines += [PlanLine(done=(manifest,)) for manifest in agenda.kept]
        write_plan(job.store.root, spec.plan, lines)
        run_graph(replace(spec, encodes=bool(units)), options.beam_args)
    return msgspec.json.decode(job.store.read(f"{RUNS}/{run}.json"), type=RunManifest)


def _run_workers(spec: GraphSpec, units: list[Unit], options: JobOptions, folder: str) -> None:
    specs = []
    for number, stretch in enumerate(stretches(units, options.workers)):
        plan = f"{spec.plan}-{number}"
        write_plan(spec.output, plan, [PlanLine(units=stretch)])
        specs.append(replace(spec, plan=plan, publishes=False))
    codes = run_workers(specs, options.beam_args, folder)
    Board(folder).check_stop()  # then they ended because they were asked to
    for number, code in enumerate(codes):
        if code != 0:
            how = f"by signal {-code}" if code < 0 else f"with code {code}"
            _LOG.warning("worker %d ended %s; what it finished is kept", number, how)
