"""Avro container files: rows of `offset`, `side`, `values`.

Source: Apache Avro specification 1.12, "Object Container Files". A file is a header
(schema, sync marker) and blocks that each end in the sync marker; so blocks of spans
that were written apart stand side by side under one header. The marker derives from the
output's name and the recipe, and a block holds the records of one cell of the input
file's grid (a document's too, which is parsed whole): the bytes do not depend on how the
file was cut into spans.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import fastavro
import numpy as np

from object2vec.tokens import KIND_NAMES
from transforms.blocks import BLOCK_BYTES
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
        self._rows: list[tuple[int, int, np.ndarray]] = []  # offset, kind, vector
        self._header = self._container([])

    def begin(self) -> bytes:
        return self._header

    def add(self, block: EncodedBlock) -> bytes:
        """The Avro blocks of the cells that are complete; what is not yet is kept."""
        data = []
        vectors = [iter(matrix) for matrix in block.encoded.vectors]
        for offset, kind in zip(
            block.offsets_R.tolist(), block.encoded.kinds_R.tolist(), strict=True
        ):
            if self._rows and offset // BLOCK_BYTES != self._rows[0][0] // BLOCK_BYTES:
                data.append(self._take_rows())
            self._rows.append((offset, kind, next(vectors[kind])))
        if block.tokens.ends_cell and self._rows:
            data.append(self._take_rows())
        return b"".join(data)

    def _take_rows(self) -> bytes:
        rows = [
            # + 0.0: minus zero is written as zero, as in JSON.
            {"offset": offset, "side": KIND_NAMES[kind], "values": (vector + 0.0).tolist()}
            for offset, kind, vector in self._rows
        ]
        self._rows = []
        return self._container(rows)[len(self._header) :]

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
