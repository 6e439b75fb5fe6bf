"""What flows along the edges of a graph, as far as an Object2Vec network has it.

A value is a description, not numbers: "the embeddings of in0, masked, [B, T, E]". The
axes of a value are letters, so that swapping them is swapping letters:

    Ids BT -> Mask BT -> BT1 ─┐
      └─> Embedded BTE ────── x ─> Tokens BTE ─> TokenSum BE ...    pooled_embedding
                                   Tokens BET ─> Convolved BFT ─> Peak BF ...   hcnn
                                   Tokens TBE ─> States TBH ─> ... StatePeak BH   bilstm
    Vector BD of in0, Vector BD of in1 -> Features -> Hidden -> Scores

Every value is small and flat, however long the chain of nodes is that leads to it: the
rules in `operators.py` stop at the number of layers that a network may have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from object2vec.sagemaker.layers import ConvolutionLayer, Dense, EncoderNetwork, LstmStack
from object2vec.sagemaker.symbol import Node, shown


@dataclass(frozen=True, slots=True)
class Variable:
    """An input of the graph that is not ids: weights, or the label."""

    name: str

    def __str__(self) -> str:
        return f"the variable {shown(self.name)}"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value whose axes are known, one letter each; `1` is an axis of length one."""

    axes: str

    def __str__(self) -> str:
        return f"{self.words()} [{self.axes}]"

    def words(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, slots=True)
class Ids(Tensor):
    """[B, T]: what was sent, padded."""

    side: int

    def words(self) -> str:
        return f"the ids of in{self.side}"


@dataclass(frozen=True, slots=True)
class Embedded(Tensor):
    """[B, T, E]: a row of the table for each id."""

    side: int
    table: str
    vocab_size: int
    dim: int
    out_of_range: str

    def words(self) -> str:
        return f"the embeddings of in{self.side}, without a mask"


_OfMask = TypeVar("_OfMask", bound="OfMask")


@dataclass(frozen=True, slots=True)
class OfMask(Tensor):
    """Something that follows from where the padding is."""

    side: int
    padding_id: int

    def goes_with(self, other: OfMask) -> bool:
        """Whether both were made from the same ids, by the same padding id."""
        return (self.side, self.padding_id) == (other.side, other.padding_id)

    def turned_into(self, kind: type[_OfMask]) -> _OfMask:
        """What follows from it, along the same axes."""
        return kind(self.axes, self.side, self.padding_id)

    def words(self) -> str:
        kind = _KINDS_OF_MASK[type(self)]
        return f"{kind} of in{self.side}, where id {self.padding_id} is padding"


class Mask(OfMask):
    """[B, T, 1]: 1 for a token, 0 for padding."""

    __slots__ = ()


class MaskLessOne(OfMask):
    """[B, T, 1]: 0 for a token, -1 for padding."""

    __slots__ = ()


class Penalty(OfMask):
    """[B, T, 1]: 0 for a token, a large negative number for padding."""

    __slots__ = ()


class Count(OfMask):
    """[B, 1]: how many tokens."""

    __slots__ = ()


class IsEmpty(OfMask):
    """[B, 1]: 1 if there is no token."""

    __slots__ = ()


class NotEmpty(OfMask):
    """[B, 1]: 0 if there is no token."""

    __slots__ = ()


class SafeCount(OfMask):
    """[B, 1]: how many tokens, but 1 for none."""

    __slots__ = ()


_KINDS_OF_MASK: dict[type, str] = {
    Mask: "the mask",
    MaskLessOne: "the mask less one",
    Penalty: "the penalty on padding",
    Count: "the number of tokens",
    IsEmpty: "whether there is no token",
    NotEmpty: "whether there is a token",
    SafeCount: "the number of tokens, at least 1,",
}


@dataclass(frozen=True, slots=True)
class Tokens(OfMask):
    """[B, T, E]: embeddings, zero where padding is. What an encoder works on."""

    table: str
    vocab_size: int
    dim: int
    out_of_range: str

    def words(self) -> str:
        return f"the masked embeddings of in{self.side}"

    def encoder(
        self,
        network: str,
        convolutions: tuple[ConvolutionLayer, ...] = (),
        lstm: LstmStack | None = None,
    ) -> EncoderNetwork:
        """The encoder that begins with these."""
        return EncoderNetwork(
            network=network,
            table=self.table,
            vocab_size=self.vocab_size,
            token_embedding_dim=self.dim,
            padding_id=self.padding_id,
            out_of_range=self.out_of_range,
            convolutions=convolutions,
            lstm=lstm,
        )


@dataclass(frozen=True, slots=True)
class OfTokens(Tensor):
    """Something made from masked embeddings."""

    tokens: Tokens

    def words(self) -> str:
        return f"{_KINDS_OF_TOKENS[type(self)]} of in{self.tokens.side}"


class TokenSum(OfTokens):
    """[B, E]: the sum over time."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Convolved(OfTokens):
    """[B, F, T]: after some layers; the last of them is active once it had its relu."""

    layers: tuple[ConvolutionLayer, ...]
    is_active: bool


@dataclass(frozen=True, slots=True)
class Peak(OfTokens):
    """[B, F]: the maximum over time of the last of some layers."""

    layers: tuple[ConvolutionLayer, ...]


@dataclass(frozen=True, slots=True)
class OfStates(OfTokens):
    """Something made from the states of an LSTM."""

    lstm: LstmStack


class States(OfStates):
    """[T, B, H]: as the operator gives them; H is both directions, side by side."""

    __slots__ = ()


class MaskedStates(OfStates):
    """[B, T, H]: zero where padding is."""

    __slots__ = ()


class PenalisedStates(OfStates):
    """[B, T, H]: far below zero where padding is."""

    __slots__ = ()


class StatePeak(OfStates):
    """[B, H]: the maximum over the tokens; far below zero where there is none."""

    __slots__ = ()


_KINDS_OF_TOKENS: dict[type, str] = {
    TokenSum: "the sum of the embeddings",
    Convolved: "a convolution",
    Peak: "the maximum of a convolution",
    States: "the states of an LSTM",
    MaskedStates: "the masked states of an LSTM",
    PenalisedStates: "the states of an LSTM, with a penalty on padding,",
    StatePeak: "the maximum of the states",
}


@dataclass(frozen=True, slots=True)
class ZerosLike(Tensor):
    """Zeros, in the shape of something else."""

    def words(self) -> str:
        return "zeros"


@dataclass(frozen=True, slots=True)
class Zeros:
    """Zeros, in a shape of their own; a 0 in it is a length that is not known yet."""

    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"zeros of shape {self.shape}"


class OfRecords(Tensor):
    """Something [B, D], which has left time behind; nothing swaps or adds its axes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Vector(OfRecords):
    """[B, D]: what an encoder gives."""

    side: int
    encoder: EncoderNetwork

    def words(self) -> str:
        return f"the vector of in{self.side}"


@dataclass(frozen=True, slots=True)
class Difference(OfRecords):
    """[B, D]: u - v, or v - u."""

    vectors: tuple[Vector, Vector]

    def words(self) -> str:
        return "the difference of the vectors"


@dataclass(frozen=True, slots=True)
class Features(OfRecords):
    """[B, D]: comparators side by side; the vectors are u and v."""

    comparators: tuple[str, ...]
    vectors: tuple[Vector, Vector]

    def words(self) -> str:
        return f"what the comparators give ({', '.join(self.comparators)})"


@dataclass(frozen=True, slots=True)
class Hidden(OfRecords):
    """[B, D]: after some fully connected layers.

    Attributes:
      layers: the node and the layer, in order.
      activations: as many, or one less if the last layer had none yet.
    """

    features: Features
    layers: tuple[tuple[Node, Dense], ...]
    activations: tuple[str, ...]

    def words(self) -> str:
        return f"the output of {self.layers[-1][0]}"


@dataclass(frozen=True, slots=True)
class Scores(OfRecords):
    """[B, C]: what the graph is for."""

    hidden: Hidden
    output_layer: str

    def words(self) -> str:
        return "the scores"


Value = Variable | Zeros | Tensor
