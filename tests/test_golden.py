"""The golden cases: archives in SageMaker's layout, and what MXNet answered.

Each way to use a model must agree with it: the Python API, the main job from the archive,
and the main job from the imported directory. `../shared/golden/README.md` says how the
answers were computed, and what the tolerance is.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from artefacts import GOLDEN, golden
from definitions import encode_slowly
from jobs import outputs, run, summary, write_lines

from object2vec import Engine, Object2Vec
from object2vec.tokens import PAIR, TokenBatch
from pipeline.__main__ import main


@pytest.fixture(scope="session", autouse=True)
def converted_once(tmp_path_factory):
    """All tests of this file share one cache of converted archives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OBJECT2VEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def read_lines(case, name):
    return [json.loads(line) for line in (golden(case) / name).read_text().splitlines()]


@cache
def expected_of(case):
    return [
        np.array(next(iter(a.values())), np.float64) for a in read_lines(case, "expected.jsonl")
    ]


def check(case, actual):
    """Every number within the case's tolerance, every answer of the right kind and length."""
    tolerance = json.loads((golden(case) / "case.json").read_text())["tolerance"]
    answers = expected_of(case)
    assert len(actual) == len(answers)
    for line, (mine, theirs) in enumerate(zip(actual, answers, strict=True), 1):
        assert len(mine) == len(theirs), f"line {line}"
        difference = np.abs(np.asarray(mine, np.float64) - theirs)
        allowed = tolerance["atol"] + tolerance["rtol"] * np.abs(theirs)
        assert (difference <= allowed).all(), f"line {line}: off by {difference.max()}"


@cache
def model_of(case):
    return Object2Vec.load(golden(case) / "model.tar.gz")


def by_api(model, records):
    """The answer to each record: all of one kind in one call."""
    answers: list[np.ndarray | None] = [None] * len(records)
    for side, key in enumerate(("in0", "in1")):
        chosen = [i for i, r in enumerate(records) if (key in r) and len(r.keys() & SIDES) == 1]
        vectors = model.encode([records[i][key] for i in chosen], side)
        for i, vector in zip(chosen, vectors, strict=True):
            answers[i] = vector
    pairs = [i for i, record in enumerate(records) if record.keys() >= SIDES]
    scores = model.score([records[i]["in0"] for i in pairs], [records[i]["in1"] for i in pairs])
    for i, score in zip(pairs, scores, strict=True):
        answers[i] = score
    return answers


SIDES = {"in0", "in1"}


@pytest.mark.parametrize("case", GOLDEN)
def test_the_api_agrees_in_one_big_batch(case):
    check(case, by_api(model_of(case), read_lines(case, "input.jsonl")))


@pytest.mark.parametrize("case", GOLDEN)
def test_alone_shuffled_and_together_are_the_same_bits(case):
    model, records = model_of(case), read_lines(case, "input.jsonl")
    together = by_api(model, records)
    order = np.random.default_rng(5).permutation(len(records)).tolist()
    shuffled = by_api(model, [records[i] for i in order])
    for place, i in enumerate(order):
        assert shuffled[place].tobytes() == together[i].tobytes()
    for i, record in enumerate(records):
        (alone,) = by_api(model, [record])
        assert alone.tobytes() == together[i].tobytes()


@pytest.mark.parametrize("case", GOLDEN)
def test_every_length_near_the_longest_agrees(case):
    """The golden records hold a few lengths. Here are all of them, against the definition.

    The definition pads every sequence to the longest one, as the golden answers were made.
    """
    model = model_of(case)
    rng = np.random.default_rng(2)
    for side, config in enumerate(model.config.encoders):
        sequences = [
            rng.integers(0, config.vocab_size, n).tolist() for n in range(config.max_seq_len + 3)
        ]
        slowly = encode_slowly(model, sequences, side)
        np.testing.assert_allclose(model.encode(sequences, side), slowly, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", GOLDEN)
def test_scores_are_the_same_bits_whatever_stands_beside_them(case):
    records = [r for r in read_lines(case, "input.jsonl") if r.keys() >= SIDES]
    model = model_of(case)
    limits = [e.max_seq_len for e in model.config.encoders]
    high = [e.vocab_size - 1 for e in model.config.encoders]
    pairs = [
        [np.clip(r[key][:limit], 1, top).tolist() for key, limit, top in zip(
            ("in0", "in1"), limits, high, strict=True
        )]
        for r in records
    ]  # fmt: skip

    def scores(chosen, threads):
        flat = [ids for pair in chosen for ids in pair]
        batch = TokenBatch.build(flat, [PAIR] * len(chosen), range(len(chosen)))
        return Engine(model, device="cpu", threads=threads).encode(batch).vectors[PAIR]

    whole = scores(pairs * 9, 1)
    assert whole.tobytes() == scores(pairs * 9, 3).tobytes()
    for place in (0, 1, len(pairs) - 1):
        assert scores(pairs[place : place + 1], 1).tobytes() == whole[place].tobytes()
    assert scores(pairs[::-1], 2)[::-1].tobytes() == whole[: len(pairs)].tobytes()


def answers_in(path: Path):
    """Kind and numbers of each line."""
    return [next(iter(json.loads(line).items())) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("case", GOLDEN)
def test_the_main_job_agrees_from_the_archive_and_from_the_imported_directory(case, tmp_path):
    archive, model = golden(case) / "model.tar.gz", tmp_path / "model"
    data = shutil.copy(golden(case) / "input.jsonl", tmp_path / "x.jsonl")
    assert run(model=archive, input=data, output=tmp_path / "a") == 0
    answers = answers_in(tmp_path / "a" / "x.jsonl.out")
    check(case, [numbers for _, numbers in answers])
    assert [kind for kind, _ in answers] == [
        next(iter(answer)) for answer in read_lines(case, "expected.jsonl")
    ]

    assert main(["import-model", str(archive), str(model)]) == 0
    assert run(model=model, input=data, output=tmp_path / "b") == 0
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")
    # Not only the same bytes: the same model, so a job that began with one goes on with the other.
    assert (
        run(model=model, input=data, output=tmp_path / "a", flags=["--exit_code_if_nothing=99"])
        == 99
    )


@pytest.mark.parametrize("flags", [[], ["--batch_tokens=40", "--threads=2"], ["--workers=2"]])
def test_batches_threads_and_workers_change_no_byte(flags, tmp_path):
    archive = golden("v1_hcnn_default") / "model.tar.gz"
    data = golden("v1_hcnn_default") / "input.jsonl"
    (tmp_path / "in").mkdir()
    for name in ("x.jsonl", "y.jsonl"):
        shutil.copy(data, tmp_path / "in" / name)
    assert run(model=archive, input=tmp_path / "in", output=tmp_path / "out", flags=flags) == 0
    for path in (tmp_path / "out").glob("*.out"):
        check("v1_hcnn_default", [numbers for _, numbers in answers_in(path)])
    assert run(model=archive, input=tmp_path / "in", output=tmp_path / "plain") == 0
    assert outputs(tmp_path / "out") == outputs(tmp_path / "plain")


def test_clipped_ids_are_counted_and_shown(tmp_path, capsys):
    archive = golden("v1_hcnn_default") / "model.tar.gz"
    data = golden("v1_hcnn_default") / "input.jsonl"
    model = model_of("v1_hcnn_default").config
    outside = 0
    for record in read_lines("v1_hcnn_default", "input.jsonl"):
        for key, encoder in zip(("in0", "in1"), model.encoders, strict=True):
            ids = record.get(key, [])[: encoder.max_seq_len]
            outside += sum(not 0 <= i < encoder.vocab_size for i in ids)
    assert outside > 20
    assert run(model=archive, input=data, output=tmp_path / "out") == 0
    assert summary(tmp_path / "out")["counts"]["clipped"] == outside
    assert f"out of range  {outside} ids clipped" in capsys.readouterr().err


def test_the_flag_overrides_what_the_graph_says_of_ids_out_of_range(tmp_path):
    archive = golden("v1_hcnn_default") / "model.tar.gz"
    data = golden("v1_hcnn_default") / "input.jsonl"
    flags = ["--out_of_range_ids=error", "--on_bad_record=dead_letter"]
    assert run(model=archive, input=data, output=tmp_path / "out", flags=flags) == 0
    counts = summary(tmp_path / "out")["counts"]
    assert counts["clipped"] == 0 and counts["refused"] > 20


def test_row_sparse_refuses_what_mxnet_refuses(tmp_path):
    archive = golden("v2_pooled_tied_sparse") / "model.tar.gz"
    records = [refused["input"] for refused in read_lines("v2_pooled_tied_sparse", "errors.jsonl")]
    data = write_lines(tmp_path / "x.jsonl", records)
    letters = tmp_path / "letters"
    flags = ["--on_bad_record=dead_letter"]
    assert run(model=archive, input=data, output=letters, flags=flags) == 0
    counts = summary(letters)["counts"]
    assert (counts["refused"], counts["in0"] + counts["in1"] + counts["pair"]) == (len(records), 0)
    assert run(model=archive, input=data, output=tmp_path / "failed") == 1
    assert outputs(tmp_path / "failed") == {}
    # Asked to, we clip; MXNet cannot.
    flags = ["--out_of_range_ids=clip"]
    assert run(model=archive, input=data, output=tmp_path / "clipped", flags=flags) == 0


def test_an_unpacked_archive_is_the_same_model(tmp_path):
    case = golden("v4_mixed_encoders")
    shutil.unpack_archive(case / "model.tar.gz", tmp_path, filter="data")
    assert Object2Vec.load(tmp_path / "model_algo-1").hash == model_of("v4_mixed_encoders").hash


@pytest.mark.parametrize("case", GOLDEN)
def test_the_card_says_how_far_the_answers_are_apart(case, tmp_path, capsys):
    folder = golden(case)
    flags = [f"--golden_input={folder / 'input.jsonl'}"]
    flags += [f"--golden_output={folder / 'expected.jsonl'}"]
    assert main(["import-model", str(folder / "model.tar.gz"), str(tmp_path / "m"), *flags]) == 0
    card = (tmp_path / "m" / "MODEL_CARD.md").read_text()
    scores = json.loads((folder / "case.json").read_text())["records"]["pair"]
    assert f"{scores} scores: largest difference" in card
    assert f"{scores} scores: largest difference" in capsys.readouterr().err
    assert ("inferred" in card.partition("## What was inferred")[2]) == (case.startswith("v6"))


def test_answers_of_another_model_stop_the_import(tmp_path, capsys):
    folder = golden("v4_mixed_encoders")
    wrong = tmp_path / "expected.jsonl"
    wrong.write_text((folder / "expected.jsonl").read_text().replace("0.1", "0.2", 1))
    flags = [f"--golden_input={folder / 'input.jsonl'}", f"--golden_output={wrong}"]
    assert main(["import-model", str(folder / "model.tar.gz"), str(tmp_path / "m"), *flags]) == 3
    assert "are not those in" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
