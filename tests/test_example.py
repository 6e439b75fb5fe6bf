"""The example: real text, the same every time, and a model whose neighbours mean something."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from examples import build, neighbours
from examples.corpus import Definition, definitions, standard_library, words
from object2vec import Object2Vec

LIBRARY = '''"""Keeps bees, politely."""

class Hive(list, metaclass=Queen):
    """A hive holds many bees."""

    def addBee(self, bee, *, is_queen=False) -> None:
        """Put one bee into the hive."""

    def silent(self):
        pass

def two():
    """Two words."""

def addBee(bee):
    """The bee that is taken first."""

def addBee(bee, hive):
    """The bee that comes too late."""
'''


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The example as run_local.sh builds it."""
    folder = tmp_path_factory.mktemp("example") / "data"
    build.build(standard_library(), folder)
    return folder


@pytest.fixture(scope="module")
def some_modules(tmp_path_factory):
    """A small part of the standard library, which is built in a second."""
    folder = tmp_path_factory.mktemp("library")
    for name in ("json", "email"):
        shutil.copytree(standard_library() / name, folder / name)
    for name in ("gzip.py", "statistics.py", "threading.py"):
        shutil.copy(standard_library() / name, folder)
    return folder


def rows_of(folder):
    return [
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted((folder / "input").iterdir())
    ]


def content_of(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_definitions_are_those_with_a_docstring_of_three_words_in_order(tmp_path):
    (tmp_path / "bees").mkdir()
    (tmp_path / "bees" / "__init__.py").write_text(LIBRARY, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def (", encoding="utf-8")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "bees.py").write_text('"""Left out, as it is a test."""', encoding="utf-8")
    assert definitions(tmp_path) == [
        Definition("bees", "Keeps bees, politely.", "bees"),
        Definition("bees.Hive", "A hive holds many bees.", "bees.Hive(list)"),
        Definition(
            "bees.Hive.addBee",
            "Put one bee into the hive.",
            "bees.Hive.addBee(self, bee, *, is_queen=False)",
        ),
        Definition("bees.addBee", "The bee that is taken first.", "bees.addBee(bee)"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("snake_case camelCase CamelCase", ["snake", "case", "camel", "case", "camel", "case"]),
        ("HTTPServer2Go a x1", ["http", "server", "go"]),
        ("don't: 3.11", ["don", "11"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_the_vocabulary_counts_from_two_frequent_words_first():
    texts = [["bee"] * 3, ["hive"] * 4, ["rare"] * 2, ["ant"] * 3]
    expected = {"<padding>": 0, "<unknown>": 1, "hive": 2, "ant": 3, "bee": 4}
    assert build.vocabulary_of(texts) == expected
    assert list(build.vocabulary_of(texts)) == list(expected)


def test_shards_hold_each_definition_once_on_each_side_and_pairs_of_both_sorts():
    found = [Definition(f"m{i}", "bee bee bee", "m(hive)") for i in range(100)]
    shards = build.shards_of(found, {"bee": 2, "hive": 3})
    docstrings = [row for shard in shards[:6] for row in shard]
    signatures = [row for shard in shards[6:9] for row in shard]
    assert docstrings == [{"id": f"m{i}", "in0": [2, 2, 2]} for i in range(100)]
    assert signatures == [{"id": f"m{i}", "in1": [3]} for i in range(100)]
    labels = [row["id"].split(" | ") for row in shards[9]]
    assert labels[:3] == [["m0", "m0"], ["m8", "m58"], ["m16", "m16"]]
    assert len(labels) == 13


def test_the_example_is_large_enough_and_of_all_kinds(example):
    shards = rows_of(example)
    assert len(shards) >= 8
    assert sum(map(len, shards)) >= 10_000
    kinds = {tuple(sorted(row.keys() - {"id"})) for shard in shards for row in shard}
    assert kinds == {("in0",), ("in1",), ("in0", "in1")}


def test_the_vocabulary_and_the_model_fit_the_records(example):
    vocabulary = json.loads((example / "vocabulary.json").read_text(encoding="utf-8"))
    assert list(vocabulary.values()) == list(range(len(vocabulary)))
    ids = {i for shard in rows_of(example) for row in shard for i in row.get("in0", row.get("in1"))}
    # No padding, each word used, and rare words unknown.
    assert ids == set(range(1, len(vocabulary)))
    config = Object2Vec.load(example / "model").config
    assert [encoder.vocab_size for encoder in config.encoders] == [len(vocabulary)] * 2


def test_building_twice_gives_the_same_bytes(some_modules, tmp_path, capsys):
    for name in ("one", "two"):
        arguments = [f"--source={some_modules}", f"--output={tmp_path / name}"]
        assert build.main(arguments) == 0
    one = content_of(tmp_path / "one")
    assert "model/weights.safetensors" in one
    assert one == content_of(tmp_path / "two")
    assert "records in 10 shards" in capsys.readouterr().out


def test_building_again_replaces_what_was_there(some_modules, tmp_path):
    (tmp_path / "data" / "output").mkdir(parents=True)
    (tmp_path / "data" / "output" / "old.out").touch()
    build.build(some_modules, tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert not (tmp_path / "data" / "output").exists()


def test_a_source_without_text_is_told_in_one_line(tmp_path, capsys):
    assert build.main([f"--source={tmp_path}", f"--output={tmp_path / 'data'}"]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path} has 0 documented definitions; that is too few\n"
    )
    assert list(tmp_path.iterdir()) == []


def unit(vectors_ND):
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)


def test_docstrings_of_one_module_are_closer_than_those_of_two(example):
    model = Object2Vec.load(example / "model")
    rows = [row for shard in rows_of(example)[:6] for row in shard]
    vectors_ND = unit(model.encode([row["in0"] for row in rows], side=0))
    modules = [row["id"].split(".")[0] for row in rows]
    same = [i for i in range(len(rows) - 1) if modules[i] == modules[i + 1]]
    same_cosine = (vectors_ND[same] * vectors_ND[np.array(same) + 1]).sum(1).mean()
    half = len(rows) // 2
    other_cosine = (vectors_ND[:half] * vectors_ND[half : 2 * half]).sum(1).mean()
    # Random vectors would give 0 for both; this model about 0.5 and 0.
    assert other_cosine < 0.1
    assert same_cosine > other_cosine + 0.3


def test_a_docstring_scores_higher_with_its_own_signature(example):
    model = Object2Vec.load(example / "model")
    pairs = rows_of(example)[9]
    scores_N = model.score([row["in0"] for row in pairs], [row["in1"] for row in pairs])[:, 0]
    is_own_N = np.array([len(set(row["id"].split(" | "))) == 1 for row in pairs])
    own, others = scores_N[is_own_N], scores_N[~is_own_N]
    # How often a pair that belongs together wins against one that does not; 0.5 by chance.
    assert (own[:, None] > others[None, :]).mean() > 0.9


def write_output(data, outputs):
    """What the main job writes, by the library alone."""
    model = Object2Vec.load(data / "model")
    outputs.mkdir()
    for path in sorted((data / "input").iterdir()):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if "in0" in rows[0] and "in1" in rows[0]:
            key, values = "scores", model.score([r["in0"] for r in rows], [r["in1"] for r in rows])
        else:
            side = 0 if "in0" in rows[0] else 1
            key, values = "embeddings", model.encode([r[f"in{side}"] for r in rows], side=side)
        lines = [json.dumps({key: value}) + "\n" for value in values.tolist()]
        (outputs / f"{path.name}.out").write_text("".join(lines), encoding="utf-8")


def test_neighbours_are_read_from_shards_and_their_outputs(some_modules, tmp_path, capsys):
    build.build(some_modules, tmp_path / "data")
    write_output(tmp_path / "data", tmp_path / "output")
    arguments = [f"--data={tmp_path / 'data'}", f"--output={tmp_path / 'output'}", "--num=2"]
    assert neighbours.main(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    query = shown.index("  json.dumps")
    assert [line.split()[1].split(".")[0] for line in shown[query + 1 : query + 3]] == ["json"] * 2
    assert shown[query + 3].startswith("  gzip.compress")
    own, others = (float(line.split()[0]) for line in shown[-2:])
    assert own > others + 0.3


def test_nearest_is_by_angle_and_leaves_out_the_query_and_its_like():
    vectors_ND = np.array([[1, 0], [2, 0], [3, 3], [0, 1], [4, 1], [0, 0]], np.float32)
    found = neighbours.nearest(vectors_ND, 0, num=3)
    assert [i for i, _ in found] == [4, 2, 3]
    assert [round(cosine, 3) for _, cosine in found] == [0.970, 0.707, 0.0]


def test_outputs_that_are_shorter_than_their_shard_are_refused(tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "a.jsonl").write_text('{"id":"x","in0":[1]}\n' * 2, encoding="utf-8")
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "a.jsonl.out").write_text('{"embeddings":[1.0]}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="shorter"):
        list(neighbours.read(tmp_path / "input", tmp_path / "output"))
