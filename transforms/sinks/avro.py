"""Avro container files: rows of `offset`, `side`, `values`.

Source: Apache Avro specification 1.12, "Object Container Files". A file is a header
(schema, sync marker) and blocks that each end in the sync marker; so blocks of spans
that were written apart stand side by side under one header. The marker derives from the
output's name and the recipe, and a block holds the records of one cell of the input
file's grid: the bytes do not depend on how the file was cut into spans.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import fastavro

from object2vec.tokens import KIND_NAMES
from transforms.encode import EncodedBlock
from transforms.recipe import Recipe

SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Embedding",
        "namespace": "object2vec",
        "fields": [
            {"name": "offset", "type": "long", "doc": "byte offset of the record's line"},
            {
                "name": "side",
                "type": {"type": "enum", "name": "Side", "symbols": list(KIND_NAMES)},
                "doc": "in0 or in1: values is an embedding; pair: values are scores",
            },
            {"name": "values", "type": {"type": "array", "items": "float"}},
        ],
    }
)


class AvroSink:
    """One Avro block per cell of the input file."""

    def __init__(self, recipe: Recipe, output: str) -> None:
        identity = f"{output}\0{recipe.model_hash}\0{recipe.hash}"
        self._marker = hashlib.sha256(identity.encode()).digest()[:16]
        self._metadata = {"object2vec.model": recipe.model_hash}
        self._rows: list[dict[str, Any]] = []
        self._header = self._container([])

    def begin(self) -> bytes:
        return self._header

    def add(self, block: EncodedBlock) -> bytes:
        """The Avro block of a cell, when the cell ends; nothing before."""
        rows = [iter(matrix.tolist()) for matrix in block.encoded.vectors]
        for offset, kind in zip(
            block.offsets_R.tolist(), block.encoded.kinds_R.tolist(), strict=True
        ):
            # + 0.0: minus zero is written as zero, as in JSON.
            values = [value + 0.0 for value in next(rows[kind])]
            self._rows.append({"offset": offset, "side": KIND_NAMES[kind], "values": values})
        if not block.tokens.ends_cell or not self._rows:
            return b""
        data = self._container(self._rows)[len(self._header) :]
        self._rows = []
        return data

    def end(self) -> bytes:
        return b""

    def _container(self, rows: list[dict[str, Any]]) -> bytes:
        buffer = io.BytesIO()
        fastavro.writer(
            buffer,
            SCHEMA,
            rows,
            codec="null",
            sync_interval=2**40,  # never by size: only the grid ends a block
            metadata=self._metadata,
            sync_marker=self._marker,
        )
        return buffer.getvalue()
