"""JSON Lines: one object a line, as SageMaker Batch Transform writes it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from object2vec.vectors import to_json_rows
from transforms.encode import EncodedBlock
from transforms.manifest import Refusal
from transforms.recipe import PLACEHOLDER


class JsonLinesSink:
    """Rows that end in a newline; spans are joined as they are."""

    def __init__(self, on_bad_record: str) -> None:
        self._on_bad_record = on_bad_record

    def begin(self) -> bytes:
        return b""

    def add(self, block: EncodedBlock) -> bytes:
        """The text of a block. May be empty."""
        rows = merged_rows(block, self._on_bad_record)
        if not rows:
            return b""
        rows.append(b"")
        return b"\n".join(rows)

    def end(self) -> bytes:
        return b""


def merged_rows(block: EncodedBlock, on_bad_record: str) -> list[bytes]:
    """A JSON object per record, and with `placeholder` one per refusal, by offset."""
    rows = to_json_rows(block.encoded)
    if on_bad_record != PLACEHOLDER or not block.tokens.refusals:
        return rows
    keyed = list(zip(block.offsets_R.tolist(), rows, strict=True))
    keyed += [(refusal.offset, placeholder(refusal)) for refusal in block.tokens.refusals]
    return [row for _, row in sorted(keyed, key=lambda pair: pair[0])]


def placeholder(refusal: Refusal) -> bytes:
    """The line that keeps the place of a refused one."""
    error = {"offset": refusal.offset, "path": refusal.path, "reason": refusal.reason}
    return msgspec.json.encode({"error": error})


def join_refusals(refusals: Sequence[Refusal]) -> bytes:
    """Dead letters: one JSON object a line."""
    return b"".join(msgspec.json.encode(refusal) + b"\n" for refusal in refusals)
