r"""Text in: JSON Lines, or a JSON document, to a TokenBatch and what was refused.

    block of lines ─┬─ as a whole ──────────────────┬─> records ─> cut, checked ─> TokenBatch
                    └─ line by line, if it is odd ──┴─> RecordErrors

Both ways decode each line on its own, with the same decoder. The first then proves, by
counting words and brackets in the block, that none of the careful checks of the second
would have refused a line (`_at_once`). So which way a line went changes no verdict.

A line ends at `\n`; a `\r` before it is white space; a newline at the end begins no line.
A UTF-8 byte order mark is accepted at the start of a file. Ids are integers: never
`1.0`, `true`, `null` or a string. `[]` is a sequence. Extra keys are tolerated.

Shapes: R records, S sequences (a pair record has two), N ids in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from object2vec.config import ModelConfig
from object2vec.errors import RecordError
from object2vec.refusals import (
    MAX_NESTING,
    explain,
    explain_document,
    has_duplicate_key,
    is_too_nested,
    may_escape_a_key,
    missing,
    refusal,
    refuse_unread,
)
from object2vec.tokens import IN0, IN1, PAIR, TokenBatch, clipped

_BOM = b"\xef\xbb\xbf"
_SIDES = ("in0", "in1")
_Ids = list[Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]]


class _Record(msgspec.Struct, gc=False):
    in0: _Ids | UnsetType = UNSET
    in1: _Ids | UnsetType = UNSET


class _Document(msgspec.Struct):
    instances: list[msgspec.Raw]


# Made before there are threads: msgspec fills its cache of a type without a lock, and two
# threads that do so at once crash the interpreter.
_decode = msgspec.json.Decoder(_Record).decode
_decode_document = msgspec.json.Decoder(_Document).decode


@dataclass(frozen=True, slots=True)
class Limits:
    """What the model and the options allow.

    Attributes:
      vocab_sizes: of in0 and in1; ids are 0 to size - 1.
      max_seq_lens: of in0 and in1, in ids; longer sequences keep their head.
      clips: per side, what becomes of ids outside the vocabulary: True takes the
        nearest id, False refuses the record.
      padding_ids: of in0 and in1. An id that was clipped is never padding.
      max_line_bytes: of a line without its newline, or of an instance of a document.

    Raises:
      ValueError: a size or a length is not in its range.
    """

    vocab_sizes: tuple[int, int]
    max_seq_lens: tuple[int, int]
    clips: tuple[bool, bool]
    padding_ids: tuple[int, int]
    max_line_bytes: int = 6 * 2**20

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        max_seq_lens: tuple[int, int] | None = None,
        out_of_range_ids: str | None = None,
    ) -> Limits:
        """Those of a model.

        Args:
          max_seq_lens: longest sequences; None takes the model's.
          out_of_range_ids: `clip` or `error`; None takes what the model says of each side.
        """
        first, second = config.encoders
        return cls(
            vocab_sizes=(first.vocab_size, second.vocab_size),
            max_seq_lens=max_seq_lens or (first.max_seq_len, second.max_seq_len),
            clips=(
                (out_of_range_ids or first.out_of_range) == "clip",
                (out_of_range_ids or second.out_of_range) == "clip",
            ),
            padding_ids=(first.padding_id, second.padding_id),
        )

    def __post_init__(self) -> None:
        # The size itself is an id of a TokenBatch, too, and those have 32 bits.
        if not all(1 <= size < 2**31 for size in self.vocab_sizes):
            raise ValueError(f"vocab_sizes are {self.vocab_sizes}; each must be 1 to 2^31 - 1")
        if not all(0 <= i < n for i, n in zip(self.padding_ids, self.vocab_sizes, strict=True)):
            raise ValueError(
                f"padding_ids are {self.padding_ids}; each must be an id of its vocabulary"
            )
        if not all(length >= 1 for length in self.max_seq_lens):
            raise ValueError(f"max_seq_lens are {self.max_seq_lens}; each must be at least 1")
        if self.max_line_bytes < 1:
            raise ValueError(f"max_line_bytes is {self.max_line_bytes}; it must be at least 1")


@dataclass(slots=True)
class Parsed:
    """What became of a block. Every line is a record of `batch` or one of `errors`.

    Attributes:
      batch: the good records in order, cut to their length, their ids clipped.
      errors: one per refused line, in order of their offsets.
      num_lines: lines (or instances) in the block: records + errors.
      num_truncated: records of `batch` that lost the tail of a sequence.
      num_out_of_range: ids of `batch` that were clipped.
    """

    batch: TokenBatch
    errors: list[RecordError] = field(default_factory=list)
    num_lines: int = 0
    num_truncated: int = 0
    num_out_of_range: int = 0


def parse_lines(block: bytes, base: int, limits: Limits) -> Parsed:
    r"""Records out of whole lines; the last may lack its newline.

    Args:
      block: lines that end at `\n`.
      base: byte offset of the block in the decompressed file. Offsets of records and
        errors are those of their lines in the file.
      limits: of the model and the options.

    Example:
      >>> limits = Limits((50, 50), (100, 100), (False, False), (0, 0))
      >>> parsed = parse_lines(b'{"in0":[7,8]}\n{"in0":[7.0]}\n', 1000, limits)
      >>> parsed.batch.values_N.tolist(), parsed.batch.offsets_R.tolist()
      ([7, 8], [1000])
      >>> parsed.errors[0].path, parsed.errors[0].offset
      ('$.in0[0]', 1014)
    """
    if base == 0:
        block = _blank_bom(block)
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    ends = np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines)) + 1)
    offsets = base + np.concatenate([np.zeros(1, np.int64), ends])[: len(lines)]
    return _parse(lines, block, offsets, lambda line: "$", limits)


def parse_document(document: bytes, limits: Limits) -> Parsed:
    """Records out of one `{"instances":[...]}`; the offsets are those of the instances.

    Raises:
      RecordError: of kind `document`, if the document as a whole cannot be used: not
        UTF-8, not JSON, nested too deep, no list of instances or two of them.

    Example:
      >>> limits = Limits((50, 50), (100, 100), (False, False), (0, 0))
      >>> parse_document(b'{"instances":[{"in1":[7]}]}', limits).batch.offsets_R.tolist()
      [14]
    """
    document = _blank_bom(document)
    try:
        document.decode()
        raws = _decode_document(document).instances
        # "instances" twice would show the last list only.
        if document.count(b'"instances"') > 1 or may_escape_a_key(document):
            twice = has_duplicate_key(document, ("instances",)) is not None
        else:
            twice = False
    except UnicodeDecodeError as error:
        raise refusal("document", f"not UTF-8 at byte {error.start}") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise explain_document(document, error) from None
    if twice:
        raise refusal("document", "instances stands there twice", "$.instances")

    # A Raw is a view into the document, so its address tells where it stands.
    start = _address(document)
    offsets = np.array([_address(raw) - start for raw in raws], np.int64)
    texts = [bytes(raw) for raw in raws]
    around = document
    if texts:
        around = document[: offsets[0]] + document[offsets[-1] + len(texts[-1]) :]
    parsed = _parse(texts, document, offsets, lambda i: f"$.instances[{i}]", limits)
    # How deep the decoder above goes depends on the caller's stack. So that the verdict
    # does not, depth refuses the document wherever it is found.
    deep = next((e.path for e in parsed.errors if e.kind == "nesting"), None)
    if deep is not None or is_too_nested(around):
        raise refusal("document", f"nested more than {MAX_NESTING} deep", deep or "$")
    return parsed


def _blank_bom(text: bytes) -> bytes:
    # White space of the same length: offsets stay what they are.
    return b"   " + text[3:] if text.startswith(_BOM) else text


def _address(buffer: bytes | msgspec.Raw) -> int:
    view = np.frombuffer(memoryview(buffer), np.uint8)
    address: int = view.__array_interface__["data"][0]
    return address


def _parse(
    texts: list[bytes],
    whole: bytes,
    offsets: np.ndarray,
    root: Callable[[int], str],
    limits: Limits,
) -> Parsed:
    """Records out of `texts`, pieces of `whole`, at `offsets` and JSON paths `root(i)`."""
    errors: dict[int, RecordError] = {}
    kept_R = np.arange(len(texts))
    records = _at_once(texts, whole, limits.max_line_bytes)
    if records is None:
        records = []
        for index, text in enumerate(texts):
            try:
                records.append(_one(text, limits.max_line_bytes))
            except RecordError as error:
                errors[index] = error
        kept_R = np.delete(kept_R, list(errors))

    parsed, out_of_range = _batch(records, offsets[kept_R], limits)
    errors.update({int(kept_R[r]): error for r, error in out_of_range.items()})
    parsed.num_lines = len(texts)
    parsed.errors = [
        RecordError(e.kind, e.reason, root(index) + e.path[1:], int(offsets[index]))
        for index, e in sorted(errors.items())
    ]
    return parsed


def _at_once(texts: list[bytes], whole: bytes, max_bytes: int) -> list[_Record] | None:
    """All records, or None if one of `texts` may be something that `_one` refuses.

    None says nothing about any text; a list says that `_one` gives the same list. For
    each of its checks:

    - too long, not UTF-8, missing, what the decoder refuses (blank, too): the same check.
    - duplicate: without escapes, a key in0 is the word `"in0"`. So each text holds at
      least as many words as keys, and at least as many keys as decoded sequences. As
      the sums of words and of sequences are equal, they are equal in each text.
    - nesting: a text cannot be deeper than it has opening brackets. Each has one for
      its object and one for every sequence, at most 3, so all others together would
      have to exceed MAX_NESTING - 3.
    """
    if len(whole) > max_bytes and max(map(len, texts), default=0) > max_bytes:
        return None
    if may_escape_a_key(whole):
        return None
    try:
        if not whole.isascii():
            whole.decode()
        records = list(map(_decode, texts))
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        return None
    num_missing = [sum(getattr(r, side) is UNSET for r in records) for side in _SIDES]
    if all(num_missing) and any(r.in0 is r.in1 for r in records):  # UNSET is UNSET
        return None
    num_sequences = 2 * len(records) - sum(num_missing)
    if whole.count(b'"in0"') + whole.count(b'"in1"') != num_sequences:
        return None
    others = whole.count(b"[") + whole.count(b"{") - num_sequences - len(records)
    if others > MAX_NESTING - 3 and any(map(is_too_nested, texts)):
        return None
    return records


def _one(text: bytes, max_bytes: int) -> _Record:
    """The record in `text`, or RecordError with the reason why it holds none."""
    refused = refuse_unread(text, max_bytes)
    if refused is not None:
        raise refused
    try:
        record = _decode(text)
        num_sides = (record.in0 is not UNSET) + (record.in1 is not UNSET)
        if num_sides == 0:
            raise missing(text)
        # Words can only be more than keys (they may stand in strings), unless escaped.
        num_words = text.count(b'"in0"') + text.count(b'"in1"')
        if num_words != num_sides or may_escape_a_key(text):
            name = has_duplicate_key(text, _SIDES)
            if name is not None:
                raise refusal("duplicate", f"{name} stands there twice", f"$.{name}")
    except (msgspec.MsgspecError, RecursionError) as error:
        raise explain(text, error) from None
    return record


def _batch(
    records: list[_Record], offsets_R: np.ndarray, limits: Limits
) -> tuple[Parsed, dict[int, RecordError]]:
    """Cuts, checks and packs; the ids that refuse their record, by the record's index."""
    kinds_R, sides_S, sequences = _sequences(records)
    record_of_S = np.repeat(np.arange(len(records)), np.where(kinds_R == PAIR, 2, 1))

    # Cut first: what the model does not see cannot refuse a record.
    lengths_S = np.fromiter(map(len, sequences), np.int64, len(sequences))
    max_S = np.array(limits.max_seq_lens)[sides_S]
    is_cut_S = lengths_S > max_S
    for s in np.flatnonzero(is_cut_S).tolist():
        sequences[s] = sequences[s][: max_S[s]]
    lengths_S = np.minimum(lengths_S, max_S)
    values_N = np.fromiter(chain.from_iterable(sequences), np.int64, int(lengths_S.sum()))

    # One comparison: seen as unsigned, a negative id is larger than any vocabulary.
    vocab_S = np.array(limits.vocab_sizes)[sides_S]
    is_out_N = values_N.view(np.uint64) >= np.repeat(vocab_S, lengths_S).view(np.uint64)
    errors: dict[int, RecordError] = {}
    num_out_of_range = 0
    if is_out_N.any():
        is_bad_N = is_out_N & ~np.repeat(np.array(limits.clips)[sides_S], lengths_S)
        starts_S = np.cumsum(lengths_S) - lengths_S
        sequence_of_N = np.repeat(np.arange(len(lengths_S)), lengths_S)
        for n in np.flatnonzero(is_bad_N).tolist():
            s = int(sequence_of_N[n])
            if int(record_of_S[s]) not in errors:
                place = f"{_SIDES[sides_S[s]]}[{n - starts_S[s]}]"
                errors[int(record_of_S[s])] = _out_of_range(place, values_N[n], vocab_S[s])
        keep_R = np.ones(len(records), np.bool_)
        keep_R[list(errors)] = False
        keep_S = keep_R[record_of_S]
        keep_N = np.repeat(keep_S, lengths_S)
        num_out_of_range = int((is_out_N & keep_N).sum())
        vocab_N = np.repeat(vocab_S, lengths_S)
        padding_N = np.repeat(np.array(limits.padding_ids)[sides_S], lengths_S)
        values_N = clipped(values_N, vocab_N, padding_N)[keep_N]
        lengths_S, record_of_S, is_cut_S = (
            lengths_S[keep_S],
            record_of_S[keep_S],
            is_cut_S[keep_S],
        )
        kinds_R, offsets_R = kinds_R[keep_R], offsets_R[keep_R]

    starts_S1 = np.zeros(len(lengths_S) + 1, np.int64)
    np.cumsum(lengths_S, out=starts_S1[1:])
    parsed = Parsed(
        TokenBatch(values_N.astype(np.int32), starts_S1, kinds_R, offsets_R),
        num_truncated=len(np.unique(record_of_S[is_cut_S])),
        num_out_of_range=num_out_of_range,
    )
    return parsed, errors


def _sequences(records: list[_Record]) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """uint8 [R] kinds, uint8 [S] sides, S sequences in the order of a TokenBatch."""
    kinds: list[int] = []
    sides: list[int] = []
    sequences: list[list[int]] = []
    for record in records:
        in0, in1 = record.in0, record.in1
        if in0 is not UNSET:
            sequences.append(in0)
            sides.append(IN0)
        if in1 is not UNSET:
            sequences.append(in1)
            sides.append(IN1)
        kinds.append(IN0 if in1 is UNSET else IN1 if in0 is UNSET else PAIR)
    return np.array(kinds, np.uint8), np.array(sides, np.uint8), sequences


def _out_of_range(place: str, value: int, vocab_size: int) -> RecordError:
    reason = (
        f"{place} is {value}, but the vocabulary has ids 0 to {vocab_size - 1}; was it"
        " tokenized for another model? --out_of_range_ids=clip takes the nearest id"
    )
    return refusal("out_of_range", reason, f"$.{place}")
