"""The small records of the transforms, made by hand for the tests of the parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from object2vec.errors import Object2VecError
from object2vec.tokens import KIND_NAMES, TokenBatch
from object2vec.vectors import Encoded
from pipeline.graph import GraphSpec, run_graph
from transforms.agenda import fingerprint_of
from transforms.encode import EncodedBlock
from transforms.finish import finish_run
from transforms.lock import boot_id
from transforms.manifest import (
    Counts,
    FileEntry,
    InputFile,
    Marker,
    Span,
    SpanManifest,
    Unit,
    WrittenPiece,
)
from transforms.parse import TokenBlock
from transforms.publish import PARTS
from transforms.read import MARKERS, SpanEnd
from transforms.recipe import FAIL_FILE, JSON_LINES, Recipe
from transforms.storage import Store, open_store


def recipe(**changes: Any) -> Recipe:
    """JSON Lines in and out; 100 ids, sequences of 10."""
    settings: dict[str, Any] = {
        "model_hash": "0" * 64,
        "content_type": JSON_LINES,
        "accept": JSON_LINES,
        "max_seq_lens": (10, 10),
        "clips": (False, False),
        "on_bad_record": FAIL_FILE,
        "max_line_bytes": 1000,
        "vocab_sizes": (100, 100),
        "padding_ids": (0, 0),
    }
    return Recipe(**(settings | changes))


def input_file(name: str = "a.jsonl", size: int = 100, **changes: Any) -> InputFile:
    """A file that is nowhere."""
    settings = {"store": "/in", "name": name, "size": size, "version": "1", "output": f"{name}.out"}
    return InputFile(**(settings | changes))


def stored_file(path: Path, data: bytes) -> InputFile:
    """A file on disk, as a plan knows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    store = open_store(str(path.parent))
    found = store.stat(path.name)
    assert found is not None
    return InputFile(store.root, path.name, found.size, found.version, f"{path.name}.out")


def spans_of(file: InputFile, *edges: int) -> list[Span]:
    """The spans between the edges; the whole file without any."""
    inner = [0, *edges, file.size]
    return [Span(file, a, b) for a, b in pairwise(inner)]


def manifest(span: Span, piece: WrittenPiece | None = None, **changes: Any) -> SpanManifest:
    """What came of a span: one in0 record, unless `changes` say otherwise."""
    settings: dict[str, Any] = {
        "span": span,
        "piece": piece or WrittenPiece("part", 0, 0, ""),
        "rejected": None,
        "counts": Counts(lines=1, in0=1),
        "fingerprint": f"{span.start + 1:064x}",
        "digest": "d",
    }
    return SpanManifest(**(settings | changes))


def encoded_block(
    span: Span,
    rows: list[tuple[int, int, list[float]]],
    *,
    unit: Unit | None = None,
    end: SpanEnd | None = None,
    **changes: Any,
) -> EncodedBlock:
    """A block of vectors.

    Args:
      rows: (offset, kind, vector) of each record; vectors of a kind are of one length.
      unit: the span alone, if it is not given.
      end: of the span; None if more blocks come.
      changes: of the TokenBlock, such as `refusals` or `failed`.
    """
    kinds_R = np.array([kind for _, kind, _ in rows], np.uint8)
    matrices = []
    for kind in range(len(KIND_NAMES)):
        vectors = [vector for _, k, vector in rows if k == kind]
        matrices.append(np.array(vectors, np.float32).reshape(len(vectors), -1 if vectors else 2))
    counts = Counts(
        lines=len(rows), **{n: len(m) for n, m in zip(KIND_NAMES, matrices, strict=True)}
    )
    refusals = changes.get("refusals", ())
    counts.lines += len(refusals)
    counts.refused = len(refusals)
    settings: dict[str, Any] = {
        "unit": unit or Unit((span,)),
        "span": span,
        "batch": TokenBatch.concatenate([]),
        "refusals": (),
        "counts": counts,
        "failed": None,
        "ends_cell": True,
        "end": end,
    }
    return EncodedBlock(
        TokenBlock(**(settings | changes)),
        Encoded(kinds_R, (matrices[0], matrices[1], matrices[2])),
        np.array([offset for offset, _, _ in rows], np.int64),
        "digest",
        True,
    )


def ends(unit: bool = True, failed: str | None = None) -> SpanEnd:
    """The end of a span, and of its unit."""
    return SpanEnd("0" * 64, failed, unit)


def sha(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def finish(
    store: Store,
    file: InputFile,
    made_with: Recipe | None = None,
    output: bytes = b"rows\n",
    run: str = "run-1",
    **changes: Any,
) -> FileEntry:
    """A finished run on record: the file's output, and a manifest with its entry."""
    made_with = made_with or recipe()
    store.put(file.output, output)
    found = store.stat(file.output)
    assert found is not None
    entry = FileEntry(
        file=file,
        recipe_hash=made_with.hash,
        status="done",
        counts=Counts(lines=1, in0=1),
        fingerprint=fingerprint_of(file),
        output_size=len(output),
        output_version=found.version,
        output_sha256=sha(output),
    )
    entry = replace(entry, **changes)
    finish_run(store, run, made_with, [entry])
    return entry


def mark(store: Store, made_with: Recipe, *manifests: SpanManifest) -> str:
    """The marker of a unit; gives its name."""
    unit = Unit(tuple(m.span for m in manifests))
    name = f"{MARKERS}/{unit.key(made_with.hash)}.json"
    store.put_if_absent(name, msgspec.json.encode(Marker(made_with, manifests)))
    return name


def attempt(
    store: Store,
    file: InputFile,
    *edges: int,
    made_with: Recipe | None = None,
    data: bytes | None = None,
    part: str = f"{PARTS}/x/1.out",
    **changes: Any,
) -> list[SpanManifest]:
    """A run that died: a part with ten bytes for each span, and a marker for each.

    Args:
      edges: where the file is cut into spans.
      data: what the part holds in truth.
    """
    spans = spans_of(file, *edges)
    recorded = b"0123456789" * len(spans)
    with store.create(part) as writer:
        writer.write(recorded if data is None else data)
    made = []
    for number, span in enumerate(spans):
        piece = WrittenPiece(part, 10 * number, 10, sha(recorded[: 10 * number + 10]))
        made.append(manifest(span, piece, **({"boot_id": boot_id()} | changes)))
        mark(store, made_with or recipe(), made[-1])
    return made


def run_workers_in_turn(specs: Sequence[GraphSpec], beam_args: Sequence[str], *_: Any) -> list[int]:
    """What `run_workers` does, in this process: seconds faster, where processes do not matter."""
    codes = []
    for spec in specs:
        try:
            run_graph(spec, beam_args)
            codes.append(0)
        except Object2VecError:
            codes.append(5)
    return codes
