"""Plan: files become units of work, and the plan a file that the graph reads.

The plan is made before submission and written to the output directory: 100,000 files do
not fit into a job request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import msgspec

from object2vec.errors import StorageError
from transforms.blocks import BLOCK_BYTES
from transforms.manifest import InputFile, Span, SpanManifest, Unit
from transforms.recipe import JSON_DOCUMENT
from transforms.storage import open_store

_MIN_UNIT, _MAX_UNIT = 4 * 2**20, 64 * 2**20

PACKED_FILES = 1000
"""At most so many small files in one unit: its marker stays small, its commit quick."""


def unit_bytes_of(size: int, unit_bytes: int | None = None) -> int:
    """Distance of the grid on which a file of `size` bytes is cut into units.

    Depends on the file alone (or on the user's `unit_bytes`), never on the number of
    workers; a multiple of the block's size, so that blocks do not depend on it either.
    """
    wanted = min(max(size // 1000, _MIN_UNIT), _MAX_UNIT) if unit_bytes is None else unit_bytes
    return max(1, -(-wanted // BLOCK_BYTES)) * BLOCK_BYTES


def cut_spans(file: InputFile, content_type: str, unit_bytes: int | None = None) -> list[Span]:
    """The spans of one file. Compressed files and documents are one span."""
    step = unit_bytes_of(file.size, unit_bytes)
    whole = content_type == JSON_DOCUMENT or file.name.lower().endswith((".gz", ".zst"))
    if whole or file.size <= step:
        return [Span(file, 0, file.size)]
    return [Span(file, start, min(start + step, file.size)) for start in range(0, file.size, step)]


def pack_units(spans: Iterable[Span], unit_bytes: int | None = None) -> list[Unit]:
    """Units in the order of the spans: big spans alone, whole small files together.

    Spans of one file never share a unit with others: so a unit that holds a file whole
    can publish it, and what is left of a file after a crash makes the same units again.
    """
    units: list[Unit] = []
    packed: list[Span] = []
    packed_bytes = 0
    limit = unit_bytes_of(0, unit_bytes)
    for span in spans:
        size = span.stop - span.start
        if not span.is_whole_file or size > limit:
            units.append(Unit((span,)))
            continue
        if packed and (packed_bytes + size > limit or len(packed) >= PACKED_FILES):
            units.append(Unit(tuple(packed)))
            packed, packed_bytes = [], 0
        packed.append(span)
        packed_bytes += size
    if packed:
        units.append(Unit(tuple(packed)))
    return sorted(units, key=lambda unit: (unit.spans[0].file.output, unit.spans[0].start))


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One line of the plan file: a stretch of units for one worker, or manifests on record.

    Attributes:
      units: neighbours that one worker takes in order.
      done: manifests of earlier attempts that only wait to be published.
    """

    units: tuple[Unit, ...] = ()
    done: tuple[SpanManifest, ...] = ()


_DECODER = msgspec.json.Decoder(PlanLine)  # made before there are threads, see manifest.py


def stretches(units: Sequence[Unit], count: int) -> list[tuple[Unit, ...]]:
    """At most `count` runs of neighbouring units, of about equal bytes."""
    total = sum(unit.size + 1 for unit in units)
    runs: list[list[Unit]] = [[] for _ in range(max(1, min(count, len(units))))]
    position = 0
    for unit in units:
        runs[min(position * len(runs) // max(total, 1), len(runs) - 1)].append(unit)
        position += unit.size + 1
    return [tuple(run) for run in runs if run]


def write_plan(output: str, name: str, lines: Iterable[PlanLine]) -> None:
    """Writes the plan below the output directory."""
    with open_store(output).create(name) as writer:
        for line in lines:
            writer.write(msgspec.json.encode(line) + b"\n")


def read_plan(output: str, name: str) -> Iterator[PlanLine]:
    """The lines of a plan, one at a time.

    Raises:
      StorageError: it is not there: this worker sees another place than the launcher.
    """
    store = open_store(output)
    found = store.stat(name)
    if found is None:
        raise StorageError(
            f"{store.root} lacks the run's plan, {name}; does every worker see that directory?"
        )
    held, size, step = b"", found.size, 8 * 2**20
    for start in range(0, size, step):
        *whole, held = (held + store.read(name, start, min(start + step, size))).split(b"\n")
        for line in whole:
            yield _DECODER.decode(line)


class ReadPlan(beam.PTransform):
    """The plan's lines, one element each, spread over the workers.

    Reshuffled while they are descriptors: rows never cross a shuffle.
    """

    def __init__(self, output: str, plan: str) -> None:
        super().__init__()
        self._output = output
        self._plan = plan

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[PlanLine]:
        return (
            begin
            | "PlanFile" >> beam.Create([(self._output, self._plan)], reshuffle=False)
            | "Lines" >> beam.FlatMapTuple(_encoded_lines).with_output_types(bytes)
            | "Spread" >> beam.Reshuffle()
            | "Decode" >> beam.Map(_decode_line)
        )


def _encoded_lines(output: str, plan: str) -> Iterator[bytes]:
    for line in read_plan(output, plan):
        yield msgspec.json.encode(line)


def _decode_line(line: bytes) -> PlanLine:
    return _DECODER.decode(line)
