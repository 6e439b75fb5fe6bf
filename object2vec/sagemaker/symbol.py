"""Reads the text of a graph: the symbol JSON that MXNet writes, of any age.

    before 0.9   "param": what the operator is told; "attr": what users note; [node, output]
    until 1.0    "attr": both; [node, output, version]
    since        "attrs": both

Here the text becomes nodes that can be walked without fear: in order, each reading
earlier ones only. What the operators mean is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from object2vec.errors import ModelError

MAX_NODES = 10_000
"""A real graph of the largest settings has fewer than 200."""

# Counted before the text is parsed, so that a small file cannot become millions of
# objects: a node has one list of inputs, each a list, and a handful of attributes.
_MAX_MARKS = ((b"[", 20 * MAX_NODES), (b"{", 5 * MAX_NODES), (b":", 40 * MAX_NODES))


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph.

    Attributes:
      index: its place in the graph.
      op: the operator; `null` for a variable, which is an input or an array of weights.
      name: not always unique.
      attrs: what the operator is told, and what users noted, as text.
      inputs: (node, output) pairs, of earlier nodes.
    """

    index: int
    op: str
    name: str
    attrs: Mapping[str, str]
    inputs: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return f"node {shown(self.name)} ({shown(self.op, quoted=False)})"


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes, each after those it reads, and the (node, output) pairs that it gives."""

    nodes: tuple[Node, ...]
    heads: tuple[tuple[int, int], ...]


_Entry = Annotated[list[int], msgspec.Meta(min_length=2, max_length=3)]
_Attributes = dict[str, str | int | float | bool] | None


class _NodeText(msgspec.Struct):
    op: str
    name: str
    inputs: list[_Entry]
    attrs: _Attributes = None
    attr: _Attributes = None
    param: _Attributes = None
    backward_source_id: int = -1


class _GraphText(msgspec.Struct):
    nodes: list[_NodeText]
    heads: list[_Entry]


def parse_symbol(text: bytes, member: str) -> Graph:
    """Reads a symbol JSON.

    Args:
      member: the name of the text, for messages.

    Raises:
      ModelError: it is no such JSON; it has too many nodes, or too many of other things;
        or a node reads what does not come before it.
    """
    for mark, limit in _MAX_MARKS:
        if text.count(mark) > limit:
            raise ModelError(
                f"{member} holds {mark.decode()!r} more than {limit:,} times; a graph of"
                f" Object2Vec has fewer than 200 nodes, and at most {MAX_NODES:,} are read"
            )
    try:
        text.decode()  # msgspec does not look into what it skips
        document = msgspec.json.decode(text, type=_GraphText)
    # What msgspec raises: syntax and types; bytes that are no UTF-8; too deep a nesting.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(
            f"{member} is no graph of MXNet: {error}; is the file damaged, or of another program?"
        ) from error
    if len(document.nodes) > MAX_NODES:
        raise ModelError(f"{member} has {len(document.nodes):,} nodes; at most {MAX_NODES:,}")
    nodes = tuple(_node(index, node, member) for index, node in enumerate(document.nodes))
    if not document.heads:
        raise ModelError(f"{member} has no heads: the graph says nowhere what it gives")
    heads = tuple(
        _entry(entry, len(nodes), f"{member}, heads", "the graph") for entry in document.heads
    )
    return Graph(nodes, heads)


def _node(index: int, text: _NodeText, member: str) -> Node:
    attributes: dict[str, str] = {}
    # What the operator is told wins over what users noted beside it.
    for part in (text.attr, text.attrs, text.param):
        attributes.update((name, str(value)) for name, value in (part or {}).items())
    node = Node(index, text.op, text.name, attributes, ())
    if text.backward_source_id != -1:
        raise ModelError(f"{member}: {node} is of a graph for training; save the one for inference")
    if text.op == "null" and text.inputs:
        raise ModelError(f"{member}: {node} is a variable, yet it has inputs; is the file damaged?")
    inputs = tuple(_entry(entry, index, f"{member}: {node}", "it") for entry in text.inputs)
    return Node(index, text.op, text.name, attributes, inputs)


def _entry(entry: list[int], end: int, where: str, reader: str) -> tuple[int, int]:
    source, output = entry[:2]
    if not 0 <= source < end or not 0 <= output < 2**31:
        raise ModelError(
            f"{where}: {reader} reads output {output} of node {source}, but may read only nodes 0"
            f" to {end - 1}; is the file damaged?"
        )
    return source, output


def shown(text: str, quoted: bool = True) -> str:
    """A name out of a file, fit for a message: short, and of visible characters."""
    short = text if len(text) <= 80 else text[:77] + "..."
    if quoted:
        return repr(short)
    return short if short.isprintable() and short else repr(short)
