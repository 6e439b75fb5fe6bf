"""Parse: blocks of lines become batches of tokens; what is refused carries its reason."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics

from object2vec.errors import RecordError
from object2vec.parsing import Parsed, parse_document, parse_lines
from object2vec.tokens import IN0, IN1, PAIR, TokenBatch
from transforms.manifest import Counts, Refusal, Span, Unit
from transforms.read import Block, SpanEnd
from transforms.recipe import DEAD_LETTER, FAIL_FILE, JSON_DOCUMENT, Recipe

MIN_RECORD_COST = 16
"""A record counts for at least so many tokens: its vector needs memory too."""

MAX_KEPT_RECORD_BYTES = 64 * 1024
"""A dead letter carries its line if the line is no longer than this."""


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """Records of one span that are encoded together.

    Attributes:
      unit, span: what they belong to.
      batch: the records; empty if the file has failed.
      refusals: lines that no record came of, among those of the batch, by offset.
      counts: of the lines in here.
      failed: why the file cannot be done; None if it can so far.
      ends_cell, end: as in Block.
    """

    unit: Unit
    span: Span
    batch: TokenBatch
    refusals: tuple[Refusal, ...]
    counts: Counts
    failed: str | None
    ends_cell: bool
    end: SpanEnd | None


def cost_of(block: TokenBlock) -> int:
    """What a block counts for in a batch, in tokens; at least 1."""
    return max(1, int(_costs_R(block.batch).sum()))


class ParseBlocks(beam.PTransform):
    """Blocks to TokenBlocks of at most `batch_tokens`, in order.

    Every line is a record of the batch or a refusal. With `fail_file` the first refusal
    fails its file, and nothing of that file is parsed after it.
    """

    def __init__(self, recipe: Recipe, batch_tokens: int) -> None:
        super().__init__()
        self._fn = _ParseFn(recipe, batch_tokens)

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[TokenBlock]:
        return blocks | "Tokens" >> beam.ParDo(self._fn)


class _ParseFn(beam.DoFn):
    def __init__(self, recipe: Recipe, batch_tokens: int) -> None:
        self._recipe = recipe
        self._batch_tokens = batch_tokens
        self._refused = Metrics.counter("object2vec", "refused")

    def start_bundle(self) -> None:
        self._failed: dict[str, str] = {}
        self._span: Span | None = None
        self._lines = 0

    def process(self, block: Block) -> Iterator[TokenBlock]:
        if block.span != self._span:  # not `is`: between fused steps it may be a copy
            self._span, self._lines = block.span, 0
        output = block.span.file.output
        parsed = _NOTHING
        refusals: tuple[Refusal, ...] = ()
        if output not in self._failed:
            parsed, refusals, failed = parse_block(block, self._lines, self._recipe)
            self._lines += parsed.num_lines
            self._refused.inc(len(refusals))
            if failed is not None:
                self._failed[output] = failed
        if block.end is not None and block.end.failed is not None:
            self._failed.setdefault(output, block.end.failed)
        yield from split(block, parsed, refusals, self._failed.get(output), self._batch_tokens)


_NOTHING = Parsed(TokenBatch.concatenate([]), [], 0, 0, 0)


def parse_block(
    block: Block, lines_before: int, recipe: Recipe
) -> tuple[Parsed, tuple[Refusal, ...], str | None]:
    """A block's records and refusals, and why its file fails (None: it does not).

    Args:
      lines_before: lines of the span before this block.
    """
    is_document = recipe.content_type == JSON_DOCUMENT
    try:
        if is_document:
            parsed = parse_document(block.data, recipe.limits)
        else:
            parsed = parse_lines(block.data, block.offset, recipe.limits)
    except RecordError as error:
        return _NOTHING, (), f"{block.span.file.uri}: {error.reason}"
    first_line = 0 if is_document else lines_before + 1
    keep = recipe.on_bad_record == DEAD_LETTER
    refusals = tuple(_refusals(parsed.errors, block, first_line, keep))
    if refusals and recipe.on_bad_record == FAIL_FILE:
        return parsed, refusals[:1], f"{block.span.file.uri}: {describe(refusals[0])}"
    return parsed, refusals, None


def _refusals(
    errors: Sequence[RecordError], block: Block, first_line: int, keep: bool
) -> Iterator[Refusal]:
    """Refusals of a block, in order.

    Args:
      first_line: number of the block's first line; 0 for a document, which has none.
      keep: whether they carry their lines.
    """
    line, counted = first_line, 0
    for error in errors:
        start = error.offset - block.offset
        record = None
        if first_line:
            line += block.data.count(b"\n", counted, start)
            counted = start
        if keep and first_line and error.kind != "too_long":  # of that only the head is here
            end = block.data.find(b"\n", start)
            raw = block.data[start : len(block.data) if end < 0 else end]
            if len(raw) <= MAX_KEPT_RECORD_BYTES:
                record = raw.decode("utf-8", errors="replace")
        yield Refusal(error.offset, line, error.path, error.kind, error.reason, record)


def describe(refusal: Refusal) -> str:
    """One line about a refusal: where (byte and path) and why."""
    return f"byte {refusal.offset}, {refusal.path}: {refusal.reason}"


def _costs_R(batch: TokenBatch) -> np.ndarray:
    """int64 [R], what each record counts for."""
    lengths_S: np.ndarray = batch.lengths_S
    if len(lengths_S) == batch.num_records:
        lengths_S = np.maximum(lengths_S, MIN_RECORD_COST)
        return lengths_S
    is_pair_R = batch.kinds_R == PAIR
    firsts_R = np.cumsum(np.concatenate([[0], 1 + is_pair_R[:-1]]))
    costs_R: np.ndarray = np.maximum(np.add.reduceat(lengths_S, firsts_R), MIN_RECORD_COST)
    return costs_R


def split(
    block: Block,
    parsed: Parsed,
    refusals: tuple[Refusal, ...],
    failed: str | None,
    batch_tokens: int,
) -> Iterator[TokenBlock]:
    """TokenBlocks of at most `batch_tokens` (or one record). Ends stay with the last one."""
    batch = parsed.batch if failed is None else _NOTHING.batch
    counts = Counts(lines=parsed.num_lines, refused=len(refusals))
    counts.truncated, counts.clipped = parsed.num_truncated, parsed.num_out_of_range
    by_kind = np.bincount(batch.kinds_R, minlength=3).tolist()
    counts.in0, counts.in1, counts.pair = by_kind[IN0], by_kind[IN1], by_kind[PAIR]
    ends_R = np.cumsum(_costs_R(batch))
    offsets = [refusal.offset for refusal in refusals]
    start, taken = 0, 0
    while batch.num_records - start > 0:
        spent = int(ends_R[start - 1]) if start else 0
        stop = int(np.searchsorted(ends_R, spent + batch_tokens, side="right"))
        stop = max(stop, start + 1)
        if stop >= batch.num_records:
            break
        upto = bisect_left(offsets, int(batch.offsets_R[stop]))
        yield TokenBlock(
            block.unit, block.span, batch.rows(start, stop), refusals[taken:upto],
            Counts(), None, False, None,
        )  # fmt: skip
        start, taken = stop, upto
    yield TokenBlock(
        block.unit,
        block.span,
        batch.rows(start, batch.num_records),
        refusals[taken:],
        counts,
        failed,
        block.ends_cell,
        block.end,
    )
