"""Builds the example: sharded token ids of real text, a vocabulary, and a model learnt from them.

    python -m examples.build --output=examples/data

makes, within half a minute and always the same for the same Python installation:

    input/part-00000.jsonl ...   documented definitions of the standard library (see corpus.py)
      00000 to 00005   `in0`: the words of the docstring
      00006 to 00008   `in1`: the words of the name and the signature
      00009            both: every eighth docstring, with its own or, in turn, another's signature
    vocabulary.json              word -> id
    model/                       what Object2Vec.load reads (see embedding.py)

`id`, the definition's full name, is an extra key: the pipeline passes over it, and neighbours.py
shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from examples.corpus import Definition, definitions, standard_library, words
from examples.embedding import learn, model_of

PADDING, UNKNOWN = "<padding>", "<unknown>"
PADDING_ID, UNKNOWN_ID = 0, 1

MIN_COUNT = 3
"""A rarer word is unknown: two uses are too few to learn what it goes with."""

CARD = """
## This model

It was not trained: it is the example of its project. Its table of word vectors comes from counting
which words keep company in the documentation of a Python library, so it knows the words of such
texts, in English, and nothing else. Both sides share the table; the score of a pair is the dot
product of its vectors.
"""

DOCSTRING_SHARDS, SIGNATURE_SHARDS = 6, 3
PAIR_STEP = 8


class Row(TypedDict, total=False):
    """One line of a shard: `in0`, `in1` or both."""

    id: str
    in0: list[int]
    in1: list[int]


def vocabulary_of(texts: list[list[str]]) -> dict[str, int]:
    """Ids of the words that occur at least MIN_COUNT times: the frequent first, then by letter."""
    counts = Counter(word for text in texts for word in text)
    frequent = [word for word, count in counts.items() if count >= MIN_COUNT]
    frequent.sort(key=lambda word: (-counts[word], word))
    return {word: i for i, word in enumerate([PADDING, UNKNOWN, *frequent])}


def shards_of(found: list[Definition], vocabulary: dict[str, int]) -> list[list[Row]]:
    """The rows of each shard."""

    def ids(text: str) -> list[int]:
        return [vocabulary.get(word, UNKNOWN_ID) for word in words(text)]

    docstrings: list[Row] = [{"id": d.name, "in0": ids(d.docstring)} for d in found]
    signatures: list[Row] = [{"id": d.name, "in1": ids(d.signature)} for d in found]
    pairs: list[Row] = []
    for i, one in enumerate(found[::PAIR_STEP]):
        # Half way round the library: a signature that has nothing to do with the docstring.
        other = one if i % 2 == 0 else found[(i * PAIR_STEP + len(found) // 2) % len(found)]
        label = f"{one.name} | {other.name}"
        pairs.append({"id": label, "in0": ids(one.docstring), "in1": ids(other.signature)})
    return [
        *_cut(docstrings, DOCSTRING_SHARDS),
        *_cut(signatures, SIGNATURE_SHARDS),
        pairs,
    ]


def build(source: Path, output: Path) -> None:
    """Builds the example from the Python files below `source` into the folder `output`.

    The folder appears when it is complete, and replaces one that was there, with all it holds.

    Raises:
      ValueError: `source` holds too little documented Python.
    """
    found = definitions(source)
    if len(found) < PAIR_STEP * 2:
        raise ValueError(f"{source} has {len(found)} documented definitions; that is too few")
    vocabulary = vocabulary_of([words(text) for d in found for text in (d.docstring, d.signature)])
    shards = shards_of(found, vocabulary)
    rows = {row["id"]: row for shard in shards[DOCSTRING_SHARDS:-1] for row in shard}
    docstrings = [row for shard in shards[:DOCSTRING_SHARDS] for row in shard]
    table_VD = learn(
        [(row["in0"], rows[row["id"]]["in1"]) for row in docstrings],
        len(vocabulary),
        unknown_id=UNKNOWN_ID,
    )

    unfinished = output.with_name(f"{output.name}.{os.getpid()}.unfinished")
    (unfinished / "input").mkdir(parents=True)
    try:
        for i, shard in enumerate(shards):
            _write_lines(unfinished / "input" / f"part-{i:05d}.jsonl", shard)
        text = json.dumps(vocabulary, indent=0)
        (unfinished / "vocabulary.json").write_text(text, encoding="utf-8")
        model_of(table_VD).save(unfinished / "model")
        with open(unfinished / "model" / "MODEL_CARD.md", "a", encoding="utf-8") as card:
            card.write(CARD)
        shutil.rmtree(output, ignore_errors=True)
        unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    num_records = sum(map(len, shards))
    print(f"{num_records} records in {len(shards)} shards, {len(vocabulary)} words: {output}")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds the example.", allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument(
        "--source",
        type=Path,
        default=standard_library(),
        help="folder of Python files whose text to take (default: the standard library)",
    )
    options = parser.parse_args(argv)
    try:
        build(options.source, options.output)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _cut(rows: list[Row], num_shards: int) -> Iterator[list[Row]]:
    for i in range(num_shards):
        yield rows[i * len(rows) // num_shards : (i + 1) * len(rows) // num_shards]


def _write_lines(path: Path, rows: list[Row]) -> None:
    lines = (json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
