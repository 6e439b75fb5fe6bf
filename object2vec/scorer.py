"""Compares the vectors of two encoders: comparator, hidden layers, output layer.

Bits depend on the number of rows of a product, so the engine always runs this on the
same number of rows (`shapes.scorer_rows`), filled up with zeros.

Shapes: M rows, D vector, K features out of the comparator, C classes (1 for a
regression).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from object2vec.config import ModelConfig

_COMPARATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hadamard": lambda u, v: u * v,
    "concat": lambda u, v: torch.cat([u, v], dim=1),
    "abs_diff": lambda u, v: (u - v).abs(),
}

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda hidden: hidden,
}


class Scorer(nn.Module):
    """Two vectors in; probabilities of the classes, or the value of a regression, out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.comparator_list = config.comparator_list
        self.activation = _ACTIVATIONS[config.mlp_activation]
        self.is_softmax = config.output_layer == "softmax"
        num_blocks = sum(2 if name == "concat" else 1 for name in config.comparator_list)
        width = num_blocks * config.encoders[0].enc_dim
        widths = [width] + [config.mlp_dim] * config.mlp_layers
        self.hidden = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(widths)
        )
        self.output = nn.Linear(widths[-1], config.num_classes)

    def forward(self, u_MD: Tensor, v_MD: Tensor) -> Tensor:
        """Scores pairs.

        Args:
          u_MD: float32 [M, D], from encoder 0.
          v_MD: float32 [M, D], from encoder 1.

        Returns:
          float32 [M, C]: rows that add up to 1, or what the regression says.
        """
        blocks = [_COMPARATORS[name](u_MD, v_MD) for name in self.comparator_list]
        hidden_MK = torch.cat(blocks, dim=1)
        for layer in self.hidden:
            hidden_MK = self.activation(layer(hidden_MK))
        scores_MC: Tensor = self.output(hidden_MK)
        if self.is_softmax:
            scores_MC = scores_MC.softmax(dim=1)
        return scores_MC.add_(0.0)  # no -0.0
