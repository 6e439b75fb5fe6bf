"""What is installed, what it needs, and what a clone brings along."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from test_architecture import imported_names

ROOT = Path(__file__).parents[1]
OURS = {"object2vec", "transforms", "pipeline"}
SCRIPTS = ("run_local.sh", "run_tests.sh", ".ci/run", ".ci/set_up.sh", ".ci/pin")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def setup_arguments() -> dict[str, ast.expr]:
    """The arguments of the call of setup() in setup.py, not evaluated."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (call,) = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "setup"]
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def requirement_names(text: str) -> set[str]:
    return {normal(name) for name in re.findall(r"^[A-Za-z0-9._-]+", text, re.MULTILINE)}


def repository_files() -> list[Path]:
    """All files of the repository: those that git tracks, and new ones that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # a downloaded archive, without git: all files but what set-up, tools and example make
        made = {".git", ".venv", "__pycache__", "data", "build", "dist"}
        paths = [
            path
            for path in ROOT.rglob("*")
            if made.isdisjoint(path.relative_to(ROOT).parts)
            and not re.search(r"_cache/|\.hypothesis/|\.egg-info/|\.lock$", path.as_posix())
        ]
    return [path for path in paths if path.is_file()]


def test_every_import_is_declared_in_setup_py():
    declared = requirement_names("\n".join(ast.literal_eval(setup_arguments()["install_requires"])))
    optional = {"boto3", "botocore"}  # the extra `s3`
    distributions = packages_distributions()
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            for name in imported_names(path.read_text(encoding="utf-8")):
                module = name.split(".")[0]
                if module in sys.stdlib_module_names | OURS | optional:
                    continue
                names = {normal(d) for d in distributions.get(module, [module])}
                assert names & declared, f"{path.relative_to(ROOT)} imports {module}"


def test_requirements_txt_pins_all_that_setup_py_asks_for():
    pins = requirement_names((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    asked = {normal(n) for n in re.findall(r'"([A-Za-z0-9.-]+)(?:\[\w+\])?[<>=]=?\d', source)}
    assert {"torch", "apache-beam", "boto3", "moto", "ruff"} <= asked
    assert asked <= pins


def test_every_pin_is_exact():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [pin for pin in pins if not re.match(r"[\w.-]+==[\w.]+( ; .+)?$", pin)] == []


def test_the_version_is_the_changelogs():
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (version,) = re.findall(r'^VERSION = "(.+?)"', source, re.MULTILINE)
    assert re.findall(r"^## (\S+)", changelog, re.MULTILINE)[0] == version


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy without the network: setuptools is in requirements.txt."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in repository_files():
        copy = folder / "source" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--no-index", "--quiet", "--wheel-dir", folder, folder / "source"], check=True
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    modules = {name for name in wheel if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in repository_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in OURS
    }
    assert modules == expected


def test_the_wheel_brings_the_command_and_the_license(wheel):
    (entry_points,) = [text for name, text in wheel.items() if name.endswith("entry_points.txt")]
    assert b"object2vec = pipeline.__main__:main" in entry_points
    assert any(name.endswith("LICENSE") for name in wheel)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_run_and_has_no_syntax_error(script):
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_no_file_names_a_path_of_this_machine_or_a_registry():
    # Put together here, as this file is looked at too.
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "download." + "pytorch.org"]
    homes = ["/" + "root/", "/" + "work/", "/" + "home/", "/" + "Users/", str(ROOT)]
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in repository_files()
        for word in hosts + homes
        if re.search(rf"(?<![\w.]){re.escape(word)}", path.read_bytes().decode("utf-8", "replace"))
    ]
    assert found == []
