"""The other side: Beam's RunInference with a pooled model, as its documentation shows it.

JSON Lines to JSON Lines: ReadFromText, a Map that parses, RunInference with its default
batching, a Map that prints, WriteToText. The one thing that is not stock is the
`inference_fn`: records have different lengths, and the default only stacks equal ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import torch
from apache_beam.ml.inference.base import PredictionResult, RunInference
from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerTensor
from apache_beam.options.pipeline_options import PipelineOptions

from object2vec.model import Object2Vec


class PooledModel(torch.nn.Module):
    """Mean of the embeddings of each record."""

    def __init__(self, vocab_size: int, dimension: int) -> None:
        super().__init__()
        self.bags = torch.nn.EmbeddingBag(vocab_size, dimension, mode="mean")

    def forward(self, values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.bags(values, offsets)
        return vectors


def infer_ragged(
    batch: Sequence[torch.Tensor],
    model: torch.nn.Module,
    device: str,
    inference_args: dict[str, Any] | None = None,
    model_id: str | None = None,
) -> Iterable[PredictionResult]:
    """Lays the records of a batch side by side."""
    lengths = torch.tensor([0, *(len(record) for record in batch[:-1])])
    with torch.no_grad():
        vectors = model(torch.cat(list(batch)).to(device), lengths.cumsum(0).to(device))
    return [PredictionResult(x, y, model_id) for x, y in zip(batch, vectors, strict=True)]


def parse(line: str) -> torch.Tensor:
    """A line to its ids."""
    return torch.tensor(json.loads(line)["in0"])


def to_line(result: PredictionResult) -> str:
    """A prediction to a line."""
    return json.dumps({"embeddings": result.inference.tolist()})


def save_state(model: Path, path: Path) -> tuple[int, int]:
    """Writes encoder 0 of a model directory as RunInference wants it: a state dict.

    Returns:
      Vocabulary size and dimension.
    """
    loaded = Object2Vec.load(model)
    encoder = loaded.config.encoders[0]
    table = next(
        weight for weight in loaded.weights().values()
        if tuple(weight.shape) == (encoder.vocab_size, encoder.enc_dim)
    )  # fmt: skip
    torch.save({"bags.weight": table.clone()}, path)
    return encoder.vocab_size, encoder.enc_dim


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True)
    state = args.output / "state.pt"
    vocab_size, dimension = save_state(args.model, state)
    handler = PytorchModelHandlerTensor(
        state_dict_path=str(state),
        model_class=PooledModel,
        model_params={"vocab_size": vocab_size, "dimension": dimension},
        device="CPU",
        inference_fn=infer_ragged,
    )
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        (
            pipeline
            | beam.io.ReadFromText(args.input)
            | beam.Map(parse)
            | RunInference(handler)
            | beam.Map(to_line)
            | beam.io.WriteToText(str(args.output / "out"), num_shards=1, shard_name_template="")
        )


if __name__ == "__main__":
    # Workers look classes up by module; __main__ is none that they can import.
    from benchmarks import stock_run_inference

    stock_run_inference.main()
