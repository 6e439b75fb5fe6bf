"""The house stands as docs/architecture.md and house rules draw it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BANNED = {
    "object2vec": {"apache_beam", "transforms", "pipeline", "examples", "benchmarks", "tests"},
    "transforms": {"pipeline", "examples", "benchmarks", "tests"},
    "pipeline": {"examples", "benchmarks", "tests"},
}

UNNAMED_ROOMS = {"utils.py", "helpers.py", "common.py", "base.py"}


def imported_names(source: str) -> Iterator[str]:
    """Full names of the modules that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}: write the full name"
            yield node.module or ""


def test_imports_are_found_wherever_they_stand():
    source = "import a.b, c\ndef f():\n    from d.e import g\n"
    assert list(imported_names(source)) == ["a.b", "c", "d.e"]


@pytest.mark.parametrize("package", BANNED)
def test_imports_flow_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        for name in imported_names(path.read_text(encoding="utf-8")):
            banned = name.split(".")[0] in BANNED[package]
            assert not banned, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", BANNED)
def test_every_file_is_one_room_with_a_name(package):
    for path in (ROOT / package).rglob("*.py"):
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        assert num_lines <= 400, f"{path.relative_to(ROOT)} has {num_lines} lines: two nouns?"
        assert path.name not in UNNAMED_ROOMS, path.relative_to(ROOT)


def test_every_path_in_the_architecture_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = "object2vec|transforms|pipeline|examples|benchmarks|tests|docs"
    paths = re.findall(rf"`((?:{folders})/[\w./-]*)`", text)
    assert paths, "docs/architecture.md names no path of the repository"
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
