"""An archive with a vocabulary of 3,000,000 x 300: peak memory of its import, and load times.

python -m benchmarks.large_import [--vocab_size=3000000] [--dim=300] [--scratch=DIR]

Needs room for about four times the table (14 GB). Loads are timed inside Python, after the imports;
the first one after the import reads the weights once to check their hash, later ones do not.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import ROOT, report, run_once, spread

_ROWS_AT_ONCE = 20_000

_LOAD = """
import sys, time
from object2vec import Object2Vec
import object2vec.model
begun = time.perf_counter()
model = Object2Vec.load(sys.argv[1])
print(time.perf_counter() - begun)
model.encode([[1, 2, 3], [5]], side=1)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab_size", type=int, default=3_000_000)
    parser.add_argument("--dim", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", help="folder for data (default: the system's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        os.environ["OBJECT2VEC_CACHE"] = str(folder / "cache")
        archive = folder / "model.tar.gz"
        _write_archive(archive, args.vocab_size, args.dim)
        table_bytes = args.vocab_size * args.dim * 4
        model = folder / "model"
        command = [sys.executable, "-m", "pipeline", "import-model", str(archive), str(model)]
        imported = run_once(command)
        loads = [_load_seconds(model) for _ in range(args.repeats + 1)]
        report(
            "large_import",
            vocab_size=args.vocab_size,
            dim=args.dim,
            table_mib=round(table_bytes / 2**20),
            archive_mib=round(archive.stat().st_size / 2**20),
            import_s=round(imported.seconds, 1),
            import_peak_mib=round(imported.peak_bytes / 2**20),
            import_peak_to_table=round(imported.peak_bytes / table_bytes, 3),
            first_load_s=round(loads[0], 3),
            later_load_s=spread(loads[1:]),
        )


def _load_seconds(model: Path) -> float:
    command = [sys.executable, "-c", _LOAD, str(model)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    return float(ended.stdout)


def _write_archive(path: Path, vocab_size: int, dim: int) -> None:
    """A pooled, tied model as SageMaker stores it: MXNet's files in a ZIP in a tar.gz."""
    algo = path.with_name("model_algo-1")
    rng = np.random.default_rng(0)
    small = {
        "output_layer_weight": rng.standard_normal((2, 4 * dim), np.float32) * 0.05,
        "output_layer_bias": rng.standard_normal(2, np.float32),
    }
    with zipfile.ZipFile(algo, "w", zipfile.ZIP_STORED) as archive:
        lengths = {"enc0_max_seq_len": "50", "enc1_max_seq_len": "50"}
        archive.writestr("meta.json", json.dumps({"training_parameters": lengths}))
        archive.writestr("symbol.json", json.dumps(_symbol(vocab_size, dim)))
        with archive.open("params", "w", force_zip64=True) as params:
            params.write(struct.pack("<QQQ", 0x112, 0, 1 + len(small)))
            params.write(_array_head((vocab_size, dim)))
            for start in range(0, vocab_size, _ROWS_AT_ONCE):
                rows = min(_ROWS_AT_ONCE, vocab_size - start)
                params.write((rng.standard_normal((rows, dim), np.float32) * 0.05).tobytes())
            for array in small.values():
                params.write(_array_head(array.shape) + array.tobytes())
            names = [f"arg:{name}".encode() for name in ("embed_shared_weight", *small)]
            params.write(struct.pack("<Q", len(names)))
            for name in names:
                params.write(struct.pack("<Q", len(name)) + name)
    with (
        gzip.open(path, "wb", compresslevel=1) as stream,
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):
        tar.add(algo, arcname="model_algo-1")
    algo.unlink()


def _array_head(shape: tuple[int, ...]) -> bytes:
    """NDArray V2: magic, dense, shape, cpu(0), float32."""
    return struct.pack(f"<IiI{len(shape)}qiii", 0xF993FAC9, 0, len(shape), *shape, 1, 0, 0)


def _symbol(vocab_size: int, dim: int) -> dict[str, Any]:
    """The graph of a pooled model without hidden layers, as MXNet 1.x writes it."""
    nodes: list[dict[str, Any]] = []

    def add(op: str, name: str, inputs: tuple[int, ...] = (), **attrs: object) -> int:
        texts = {key: str(value) for key, value in attrs.items()}
        sources = [[source, 0, 0] for source in inputs]
        nodes.append({"op": op, "name": name, "attrs": texts, "inputs": sources})
        return len(nodes) - 1

    vectors = []
    table = add("null", "embed_shared_weight")
    for side, source in enumerate(("source", "target")):
        ids = add("null", source)
        rows = add("Embedding", f"embed_{side}", (ids, table), input_dim=vocab_size, output_dim=dim)
        flat = add("_not_equal_scalar", f"ne{side}", (ids,), scalar=0)
        mask = add("Reshape", f"reshape{side}", (flat,), shape="(0, 0, 1)")
        total = add("sum", f"sum{side}", (add("broadcast_mul", f"m{side}", (rows, mask)),), axis=1)
        count = add("sum", f"count{side}", (mask,), axis=1)
        none = add("_equal", f"eq{side}", (count, add("zeros_like", f"zero{side}", (count,))))
        safe = add("elemwise_add", f"plus{side}", (count, none))
        vectors.append(add("broadcast_div", f"div{side}", (total, safe)))
    u, v = vectors
    product = add("elemwise_mul", "mul", (u, v))
    difference = add("abs", "abs", (add("elemwise_sub", "minus", (u, v)),))
    features = add("Concat", "concat", (product, u, v, difference), dim=1, num_args=4)
    weight, bias = add("null", "output_layer_weight"), add("null", "output_layer_bias")
    logits = add("FullyConnected", "output_layer", (features, weight, bias), num_hidden=2)
    out = add("SoftmaxOutput", "out_layer", (logits, add("null", "out_layer_label")))
    variables = [i for i, node in enumerate(nodes) if node["op"] == "null"]
    return {
        "nodes": nodes,
        "arg_nodes": variables,
        "heads": [[out, 0, 0]],
        "attrs": {"mxnet_version": ["int", 10301]},
    }


if __name__ == "__main__":
    main()
