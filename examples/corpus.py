"""The text of a Python installation: what each documented definition of the standard library says.

The standard library is on every machine that can run this project, it is about many different
things, and its authors wrote down what belongs together: a docstring and the signature it explains.
Sources are read with `ast`; nothing is imported or run.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
"""Folders that are not the library itself, or whose docstrings are about test cases."""

MIN_WORDS = 3
"""A docstring with fewer words says too little to be compared with others."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Definition:
    """One documented module, class or function.

    Attributes:
      name: its full name, such as `json.decoder.JSONDecoder.decode`.
      docstring: its docstring, not yet cut into words.
      signature: its full name with parameters or base classes, as in the source.
    """

    name: str
    docstring: str
    signature: str


def standard_library() -> Path:
    """The folder of the standard library that belongs to the running Python."""
    return Path(sysconfig.get_paths()["stdlib"])


def definitions(root: Path) -> list[Definition]:
    """All documented definitions below `root`, by file name, in the order of the source.

    A name that is defined more than once (for two platforms, or as getter and setter) is taken
    the first time. Files that this Python cannot parse are passed over: the standard library has
    a few, kept as test data.
    """
    found: dict[str, Definition] = {}
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts):
            module = ".".join(parts).removesuffix(".__init__")
            for definition in _in_file(path, module):
                found.setdefault(definition.name, definition)
    return list(found.values())


def words(text: str) -> list[str]:
    """The words of a text, in lower case; `camelCase` and `snake_case` are two words each.

    Single characters are left out.

    Example:
      >>> words("JSONDecoder.raw_decode(s, idx=0) -> UTF8")
      ['json', 'decoder', 'raw', 'decode', 'idx', 'utf']
    """
    pieces = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", text)
    return [piece.lower() for piece in pieces if len(piece) > 1]


def _in_file(path: Path, module: str) -> Iterator[Definition]:
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    yield from _in_node(tree, module)


def _in_node(node: Documented, name: str) -> Iterator[Definition]:
    docstring = ast.get_docstring(node) or ""
    if len(words(docstring)) >= MIN_WORDS:
        yield Definition(name, docstring, name + _parameters(node))
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _in_node(child, f"{name}.{child.name}")


def _parameters(node: Documented) -> str:
    if isinstance(node, ast.Module):
        return ""
    if isinstance(node, ast.ClassDef):
        return f"({', '.join(map(ast.unparse, node.bases))})"
    return f"({ast.unparse(node.args)})"
