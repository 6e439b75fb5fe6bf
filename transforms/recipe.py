"""The recipe: everything that decides the bytes of an output, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import msgspec

from object2vec.parsing import Limits

JSON_LINES = "application/jsonlines"
JSON_DOCUMENT = "application/json"
AVRO = "avro/binary"

FAIL_FILE, PLACEHOLDER, DEAD_LETTER = "fail_file", "placeholder", "dead_letter"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What must be equal for two runs to write equal bytes, given equal input.

    The number of workers, threads, units or batches is not here: it changes no byte.

    Attributes:
      model_hash: the model directory's hash.
      content_type: JSON_LINES or JSON_DOCUMENT, what the input files hold.
      accept: JSON_LINES, JSON_DOCUMENT or AVRO, what the output files hold.
      max_seq_lens: longest sequence of each side, in ids.
      clips: per side, whether an id outside the vocabulary is clipped (or refused).
      on_bad_record: FAIL_FILE, PLACEHOLDER or DEAD_LETTER.
      max_line_bytes: longest line that is read, without its newline.
      vocab_sizes: of each side. Follows from the model; kept so that workers can
        parse without opening it.
      padding_ids: likewise.
    """

    model_hash: str
    content_type: str
    accept: str
    max_seq_lens: tuple[int, int]
    clips: tuple[bool, bool]
    on_bad_record: str
    max_line_bytes: int
    vocab_sizes: tuple[int, int]
    padding_ids: tuple[int, int]

    @property
    def hash(self) -> str:
        """Hex digest of the whole recipe."""
        return hashlib.sha256(msgspec.json.encode(asdict(self))).hexdigest()

    @property
    def limits(self) -> Limits:
        """What the parser needs of it."""
        return Limits(
            vocab_sizes=self.vocab_sizes,
            max_seq_lens=self.max_seq_lens,
            clips=self.clips,
            padding_ids=self.padding_ids,
            max_line_bytes=self.max_line_bytes,
        )

    def differences(self, other: Recipe) -> list[str]:
        """In words, each setting in which the two differ: `accept was a, is b`."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name} was {_short(theirs[name])}, is {_short(mine[name])}"
            for name in mine
            if mine[name] != theirs[name]
        ]


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
