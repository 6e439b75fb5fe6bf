"""How much a run will write, and whether it fits. Estimates, from samples of the input."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from object2vec.config import ModelConfig
from object2vec.errors import FileError, OutputError
from transforms.compression import HEAD_BYTES, detect
from transforms.manifest import InputFile, Span, SpanManifest, Unit
from transforms.read import read_span
from transforms.recipe import AVRO, JSON_DOCUMENT, Recipe
from transforms.storage import Store, open_store

SAMPLED_FILES = 16
_HEAD_BYTES = 2**20
_ROW_BYTES = 18
"""Of a row, besides its numbers."""
_BYTES_PER_FLOAT = {AVRO: 4.0}
_TEXT_BYTES_PER_FLOAT = 11.3
"""Text of a float32 and its comma. Measured on pooled embeddings; 0.0 is shorter."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run is expected to write.

    Attributes:
      files, input_bytes: what it has to encode.
      records: estimated.
      output_bytes: estimated, of what it encodes.
      joined_bytes: estimated, of outputs that are put together from parts of several
        attempts: on a disk these need their room twice, until the run ends.
    """

    files: int
    input_bytes: int
    records: int
    output_bytes: int
    joined_bytes: int = 0


def make_forecast(
    files: Sequence[InputFile],
    recipe: Recipe,
    config: ModelConfig,
    kept: Sequence[SpanManifest] = (),
) -> Forecast:
    """Looks into the first block of a few files, spread over all of them.

    Args:
      kept: spans of the files that need not be encoded again.
    """
    sampled, singles, pairs = 0, 0, 0
    step = max(1, len(files) // SAMPLED_FILES)
    unpacked: float = 1.0
    for file in files[::step][:SAMPLED_FILES]:
        data = first_block(file, recipe)
        sampled += len(data)
        found = _count_records(data, recipe.content_type)
        singles, pairs = singles + found[0], pairs + found[1]
        if file.name.lower().endswith((".gz", ".zst")):
            unpacked = 3.0  # ids compress to a third or less; a guess, and only for the disk
    kept_bytes: dict[InputFile, int] = {}
    parts: dict[InputFile, set[str]] = {}
    for manifest in kept:
        file, span = manifest.span.file, manifest.span
        kept_bytes[file] = kept_bytes.get(file, 0) + span.stop - span.start
        if manifest.piece is not None:
            parts.setdefault(file, set()).add(manifest.piece.part)
    input_bytes = sum(file.size - kept_bytes.get(file, 0) for file in files)
    joined = sum(f.size for f in parts if kept_bytes[f] < f.size or len(parts[f]) > 1)
    per_byte = unpacked / sampled if sampled else 0.0
    per_float = _BYTES_PER_FLOAT.get(recipe.accept, _TEXT_BYTES_PER_FLOAT)
    num_floats = singles * config.encoders[0].enc_dim + pairs * config.num_classes
    num_records = singles + pairs
    output_bytes = num_floats * per_float + num_records * _ROW_BYTES
    return Forecast(
        files=len(files),
        input_bytes=input_bytes,
        records=round(num_records * input_bytes * per_byte),
        output_bytes=round(output_bytes * input_bytes * per_byte),
        joined_bytes=round(output_bytes * joined * per_byte),
    )


def _count_records(data: bytes, content_type: str) -> tuple[int, int]:
    """About how many records of one side, and of both, are in a text."""
    keys = data.count(b'"in0"') + data.count(b'"in1"')
    opened = data.count(b"{") - 1 if content_type == JSON_DOCUMENT else len(data.splitlines())
    records = min(keys, max(opened, (keys + 1) // 2))
    return 2 * records - keys, keys - records


def first_block(file: InputFile, recipe: Recipe) -> bytes:
    """The first lines of a file; empty if it cannot be read."""
    span, store = Span(file, 0, file.size), open_store(file.store)
    try:
        if recipe.content_type == JSON_DOCUMENT and file.size > _HEAD_BYTES:
            head = store.read(file.name, 0, _HEAD_BYTES, file.version)
            return b"" if detect(head[:HEAD_BYTES], file.name) else head
        return next(read_span(store, Unit((span,)), span, recipe)).data
    except FileError:
        return b""


def check_fits(forecast: Forecast, store: Store) -> None:
    """
    Raises:
      OutputError: the disk has less room than the outputs are expected to need.
    """
    path = store.local_path("_o2v")
    if path is None:
        return
    place = Path(path)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    needed = forecast.output_bytes + forecast.joined_bytes
    if needed > free:
        raise OutputError(
            f"the outputs will need about {_gib(needed)} and the disk of "
            f"{store.root} has {_gib(free)} free; use another --output, or --accept=avro/binary, "
            "which needs a third"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
