"""The dataflow of the main job, as a list of steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from object2vec import errors
from object2vec.errors import RunnerError, StopError
from pipeline.beam_flags import runner_of
from transforms.board import StopRequested
from transforms.encode import BatchTokens, EncodeTokens, EngineSpec
from transforms.finish import FinishRun
from transforms.manifest import SpanManifest, Unit
from transforms.parse import ParseBlocks
from transforms.plan import PlanLine, ReadPlan
from transforms.publish import PublishFiles
from transforms.read import DONE, ReadUnits
from transforms.recipe import Recipe
from transforms.write import ENTRIES, WriteParts


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """Everything that the graph needs: plain data, the same for a child process.

    Attributes:
      output: the output directory.
      run: name of the run.
      recipe: decides the bytes.
      engine: decides where and how fast.
      plan: name of the plan file below the output.
      batch_tokens: ids encoded together.
      board: folder of the notice board; None where workers are on other machines.
      num_files: how many files the plan holds.
      carried: name of the file of entries that earlier runs had done.
      encodes: whether there are units to encode; if not, no model is loaded.
      publishes: whether files are put together and the run is finished; a child process
        only encodes, and its parent publishes.
    """

    output: str
    run: str
    recipe: Recipe
    engine: EngineSpec
    plan: str
    batch_tokens: int
    board: str | None
    num_files: int
    carried: str
    encodes: bool = True
    publishes: bool = True


def wire(pipeline: beam.Pipeline, spec: GraphSpec) -> None:
    """Puts the steps together. See docs/architecture.md for the picture."""
    output, recipe = spec.output, spec.recipe
    plan = pipeline | "Plan" >> ReadPlan(output, spec.plan)
    manifests = [plan | "Recorded" >> beam.FlatMap(_done_of)]
    entries = []
    if spec.encodes:
        units = plan | "Units" >> beam.FlatMap(_units_of)
        read = units | "Read" >> ReadUnits(output, recipe, spec.board)
        written = (
            read["blocks"]
            | "Parse" >> ParseBlocks(recipe, spec.batch_tokens)
            | "Batch" >> BatchTokens(spec.batch_tokens)
            | "Encode" >> EncodeTokens(spec.engine, recipe.on_bad_record, spec.board)
            | "Write" >> WriteParts(output, recipe, spec.board)
        )
        manifests += [written["manifests"], read[DONE]]
        entries += [written[ENTRIES]]
    if spec.publishes:
        published = (
            manifests
            | "Manifests" >> beam.Flatten()
            | "Publish" >> PublishFiles(output, recipe, spec.board)
        )
        (
            [published, *entries]
            | "Entries" >> beam.Flatten()
            | "Finish" >> FinishRun(output, spec.run, recipe, spec.num_files, spec.carried)
        )


def _units_of(line: PlanLine) -> Iterable[Unit]:
    return line.units


def _done_of(line: PlanLine) -> Iterable[SpanManifest]:
    return line.done


def run_graph(spec: GraphSpec, beam_args: Sequence[str]) -> None:
    """Runs the graph and waits for it.

    Raises:
      StopRequested: the board said so. StopError: as a step raised it; RunnerError for
        everything else that a runner can come up with.
    """
    args = [arg for arg in beam_args if not arg.startswith("--runner=")]
    options = PipelineOptions([*args, f"--runner={runner_of(beam_args)}"])
    try:
        pipeline = beam.Pipeline(options=options)
        wire(pipeline, spec)
        result = pipeline.run()
        state = result.wait_until_finish()
    except Exception as error:
        raise translate(error) from error
    if state != "DONE":
        raise RunnerError(f"the runner ended in state {state}; a rerun is safe")


def translate(error: BaseException) -> Exception:
    """The error of ours inside what a runner made of it.

    Beam wraps what a step raises, sometimes in an exception of the same type with a
    longer text, sometimes as text alone.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, StopError | StopRequested):
            return type(seen)(_without_step(str(seen)))
        seen = seen.__cause__ or seen.__context__
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, StopError) and f"{name}: " in str(error):
            message = _without_step(str(error).rpartition(f"{name}: ")[2]).strip()
            return kind(message.partition("\n")[0])
    if "StopRequested" in str(error):
        return StopRequested("the run was asked to stop")
    text = _without_step(str(error)).strip().splitlines() or [type(error).__name__]
    return RunnerError(f"{type(error).__name__}: {text[-1]}; a rerun is safe")


def _without_step(text: str) -> str:
    return re.sub(r"\s*\[while running '.*?'\]", "", text, flags=re.DOTALL).rstrip()
