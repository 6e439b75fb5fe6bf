"""Shows what the embeddings of the example mean: nearest neighbours, and what the scores tell.

    python -m examples.neighbours --data=examples/data --output=examples/data/output

It joins each shard with its `.out` by line number: the first line of one belongs to the first line
of the other. The output of any run is used that way.

Shapes: N docstrings, D width.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

QUERIES = (
    "json.dumps",
    "gzip.compress",
    "zipfile.ZipFile.extract",
    "threading.Semaphore",
    "html.escape",
)

ALIKE = 0.995
"""Docstrings this close say the same in the same words; showing them teaches nothing."""


def read(inputs: Path, outputs: Path) -> Iterator[tuple[str, str, list[float]]]:
    """Label, kind (`in0`, `in1`, `pair`) and values of each line, shard by shard."""
    for shard in sorted(inputs.glob("*.jsonl")):
        output = outputs / f"{shard.name}.out"
        with open(shard, encoding="utf-8") as asked, open(output, encoding="utf-8") as answered:
            for question, answer in zip(asked, answered, strict=True):
                row, values = json.loads(question), json.loads(answer)
                kind = "pair" if "in0" in row and "in1" in row else "in0" if "in0" in row else "in1"
                yield row["id"], kind, values["scores" if kind == "pair" else "embeddings"]


def nearest(vectors_ND: np.ndarray, query: int, num: int) -> list[tuple[int, float]]:
    """Row and cosine of the nearest rows to row `query`, best first, without its like."""
    lengths_N = np.maximum(np.linalg.norm(vectors_ND, axis=1), 1e-12)
    cosines_N = vectors_ND @ vectors_ND[query] / lengths_N / lengths_N[query]
    order_N = np.argsort(-cosines_N, kind="stable")
    others = [(int(i), float(cosines_N[i])) for i in order_N if i != query]
    return [(i, cosine) for i, cosine in others if cosine < ALIKE][:num]


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Shows nearest neighbours.", allow_abbrev=False)
    data = Path(__file__).parent / "data"
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--output", type=Path, default=data / "output")
    parser.add_argument("--num", type=int, default=4, help="neighbours to show of each query")
    options = parser.parse_args(argv)

    labels: list[str] = []
    vectors: list[list[float]] = []
    own: list[float] = []
    others: list[float] = []
    for label, kind, values in read(options.data / "input", options.output):
        if kind == "in0":
            labels.append(label)
            vectors.append(values)
        elif kind == "pair":
            docstring, signature = label.split(" | ")
            (own if docstring == signature else others).append(values[0])

    print("Nearest docstrings, by cosine:")
    vectors_ND = np.array(vectors, np.float32)
    # Other text than the standard library's has none of them: then a few from all over it.
    for query in [q for q in QUERIES if q in labels] or labels[:: len(labels) // 5 + 1]:
        print(f"  {query}")
        for i, cosine in nearest(vectors_ND, labels.index(query), options.num):
            print(f"    {cosine:.2f}  {labels[i]}")
    print("Median score of a pair, a docstring with")
    print(f"    {statistics.median(own):5.2f}  its own signature")
    print(f"    {statistics.median(others):5.2f}  another's")
    return 0


if __name__ == "__main__":
    sys.exit(main())
