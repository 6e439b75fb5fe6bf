"""What a graph is made of, in our words. Names of arrays are the artefact's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConvolutionLayer:
    """One convolution."""

    weight: str
    bias: str | None
    num_filters: int
    width: int
    pad: int


@dataclass(frozen=True, slots=True)
class LstmStack:
    """A fused RNN; `state_size` is that of one direction."""

    parameters: str
    num_layers: int
    state_size: int


@dataclass(frozen=True, slots=True)
class Dense:
    """One fully connected layer, of the node of that name."""

    node: str
    weight: str
    bias: str | None
    num_hidden: int


@dataclass(frozen=True, slots=True)
class EncoderNetwork:
    """One encoder of the graph.

    Attributes:
      network: `hcnn`, `bilstm` or `pooled_embedding`.
      table: the array of embeddings.
      out_of_range: what the operator does with an id outside the vocabulary: `clip` for
        Embedding, `error` for _contrib_SparseEmbedding.
      convolutions: of hcnn, in order.
      lstm: of bilstm.
    """

    network: str
    table: str
    vocab_size: int
    token_embedding_dim: int
    padding_id: int
    out_of_range: str
    convolutions: tuple[ConvolutionLayer, ...] = ()
    lstm: LstmStack | None = None
