"""A JSON document: `{"predictions":[...]}`, one per input file."""

from __future__ import annotations

from transforms.encode import EncodedBlock
from transforms.sinks.json_lines import merged_rows

BEGIN, END = b'{"predictions":[', b"]}"


class JsonDocumentSink:
    """Rows with a comma before each, but before the first row of the first span.

    Where the first span has no rows (all its lines are dead letters), the comma before
    the file's first row is one too many: Publish leaves it out (`surplus_comma`).
    """

    def __init__(self, on_bad_record: str, *, is_first: bool) -> None:
        self._on_bad_record = on_bad_record
        self._comma = b"" if is_first else b","

    def begin(self) -> bytes:
        return BEGIN

    def add(self, block: EncodedBlock) -> bytes:
        """The text of a block. May be empty."""
        rows = merged_rows(block, self._on_bad_record)
        if not rows:
            return b""
        text = self._comma + b",".join(rows)
        self._comma = b","
        return text

    def end(self) -> bytes:
        return END


def surplus_comma(rows_before: int, starts_file: bool, rows: int) -> int:
    """How many bytes of a span's text to leave out: 1 if its comma has nothing before it."""
    return int(rows > 0 and rows_before == 0 and not starts_file)
