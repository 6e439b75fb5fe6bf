"""`object2vec import-model`, archives as `--model`, and what is remembered of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from artefacts import RowSparse, model_tar_gz
from graphs import Side, object2vec, random_arrays
from jobs import ROOT, outputs, records, run, write_lines

from object2vec import Object2Vec
from object2vec.config import StoredConfig
from object2vec.errors import ModelError
from object2vec.parity import compare
from object2vec.sagemaker import importer
from pipeline.__main__ import main
from transforms.storage import open_store

pytest_plugins = ("s3_server",)

LENGTHS = {"enc0_max_seq_len": "12", "enc1_max_seq_len": "9"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OBJECT2VEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def archive_of(path, *sides, meta=LENGTHS, seed=0, **changes):
    """Writes a model.tar.gz; pooled, vocabulary of 50, D = 12, unless sides are given."""
    sides = sides or (Side(),)
    arrays = random_arrays(*sides, seed=seed, **changes)
    path.write_bytes(
        model_tar_gz(object2vec(*sides, **changes), arrays, {"training_parameters": meta})
    )
    return path


@pytest.fixture
def archive(tmp_path):
    return archive_of(tmp_path / "model.tar.gz")


def test_an_imported_directory_holds_a_model_and_says_where_it_comes_from(
    archive, tmp_path, capsys
):
    assert main(["import-model", str(archive), str(tmp_path / "deep" / "model")]) == 0
    folder = tmp_path / "deep" / "model"
    assert sorted(path.name for path in folder.iterdir()) == [
        "MODEL_CARD.md",
        "config.json",
        "weights.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # nothing left over
    card = (folder / "MODEL_CARD.md").read_text()
    digest = subprocess.run(["sha256sum", archive], capture_output=True, text=True, check=True)
    for fact in (
        digest.stdout.split()[0],
        "model_algo-1!symbol.json",
        "longest sequences: in0 12, as it says; in1 9, as it says",
        "encoder 1 (`in1`): pooled_embedding, vocabulary of 50",
        "sequences of at most 9 ids",
        "2 hidden layers of 8 (relu)",
    ):
        assert fact in card
    told = capsys.readouterr().err
    assert "longest sequences: in0 12" in told and str(folder / "MODEL_CARD.md") in told
    assert Object2Vec.load(folder).hash == Object2Vec.load(archive).hash


def test_importing_does_not_need_torch(archive, tmp_path):
    code = (
        "import sys; from pipeline.__main__ import main;"
        "code = main(['import-model', *sys.argv[1:]]); assert 'torch' not in sys.modules;"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, str(archive), str(tmp_path / "m")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert ended.returncode == 0, ended.stderr


def test_importing_again_replaces_a_model_but_nothing_else(archive, tmp_path, capsys):
    folder = tmp_path / "model"
    for _ in range(2):
        assert main(["import-model", str(archive), str(folder)]) == 0
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    assert main(["import-model", str(archive), str(tmp_path / "photos")]) == 3
    assert "photos holds files, but no config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{archive}"], 2, "DIR"),
        (["{archive}", "s3://bucket/model"], 2, "import-model writes to a disk"),
        (["{archive}", "{new}", "--golden_input=x"], 2, "belong together"),
        (["{archive}", "{new}", "--infer_max_seqlens=5"], 2, "two integers"),
        (["{archive}", "{new}", "--nonsense"], 2, "--nonsense"),
        (["{archive}", "{new}", "--infer_max_seqlens=0,5"], 2, "max_seq_len is 0"),
        (
            ["{archive}", "{new}", "--golden_input=s3://b/x", "--golden_output=x"],
            2,
            "copy it first",
        ),
        (["{tmp}/missing.tar.gz", "{new}"], 3, "missing.tar.gz cannot be read: No such file"),
        (["{tmp}", "{new}"], 3, "did you mean {tmp}/model.tar.gz?"),
        (["{tmp}/empty", "{new}"], 3, "is a directory; import-model reads a model.tar.gz"),
        (["{archive}", "{archive}"], 3, "is a file; a model needs a directory"),
        (["{archive}", "{archive}/deeper"], 3, "deeper cannot be written: File exists"),
        (["{archive}", "{new}", "--golden_input=/no", "--golden_output=/no"], 3, "/no: No such"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(archive, tmp_path, capsys, arguments, code, words):
    names = {"archive": archive, "new": tmp_path / "new", "tmp": tmp_path}
    (tmp_path / "empty").mkdir()
    assert main(["import-model", *(a.format(**names) for a in arguments)]) == code
    told = capsys.readouterr().err
    assert words.format(**names) in told and told.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["import-model", "--help"])
    assert ended.value.code == 0
    assert "--golden_output" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "object2vec import-model MODEL.TAR.GZ DIR" in capsys.readouterr().out


def test_the_main_job_converts_an_archive_once(archive, tmp_path, cache, monkeypatch):
    data = write_lines(tmp_path / "x.jsonl", records(30))
    assert run(model=archive, input=data, output=tmp_path / "a") == 0
    (converted,) = (cache / "converted").iterdir()

    def read_again(*_):
        raise AssertionError

    monkeypatch.setattr(importer, "read_archive", read_again)
    assert run(model=archive, input=data, output=tmp_path / "b") == 0
    moved = archive.rename(tmp_path / "elsewhere.tar.gz")  # by content, not by name
    assert run(model=moved, input=data, output=tmp_path / "c") == 0
    assert run(model=converted, input=data, output=tmp_path / "d") == 0
    assert (
        outputs(tmp_path / "a")
        == outputs(tmp_path / "b")
        == outputs(tmp_path / "c")
        == outputs(tmp_path / "d")
    )


def test_an_archive_in_a_store_is_fetched_and_converted(archive, tmp_path, s3_store, cache):
    data = write_lines(tmp_path / "x.jsonl", records(9))
    store = open_store(f"{s3_store}/job/output")
    store.put("model.tar.gz", archive.read_bytes())
    uri = f"{s3_store}/job/output/model.tar.gz"
    assert run(model=uri, input=data, output=tmp_path / "a") == 0
    assert run(model=archive, input=data, output=tmp_path / "b") == 0
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")
    assert main(["import-model", uri, str(tmp_path / "model")]) == 0
    assert len(list((cache / "fetched").iterdir())) == 1
    store.put("model.tar.gz", archive_of(tmp_path / "other", seed=1).read_bytes())
    assert run(model=uri, input=data, output=tmp_path / "c") == 0
    assert outputs(tmp_path / "a") != outputs(tmp_path / "c")


def test_a_missing_archive_in_a_store_is_named(s3_store, tmp_path, capsys):
    data = write_lines(tmp_path / "x.jsonl", records(1))
    assert run(model=f"{s3_store}/no/model.tar.gz", input=data, output=tmp_path / "out") == 3
    assert "no/model.tar.gz holds no files" in capsys.readouterr().err


def test_lengths_that_the_archive_does_not_say_have_to_be_said(tmp_path, capsys, cache):
    archive = archive_of(tmp_path / "model.tar.gz", meta={})
    data = write_lines(tmp_path / "x.jsonl", records(9))
    assert run(model=archive, input=data, output=tmp_path / "out") == 3
    told = capsys.readouterr().err
    assert "enc0_max_seq_len" in told and "--infer_max_seqlens=F,B" in told
    for lengths in ("7,8", "8,7"):
        flags = [f"--infer_max_seqlens={lengths}"]
        assert run(model=archive, input=data, output=tmp_path / lengths, flags=flags) == 0
        folder = tmp_path / f"model {lengths}"
        assert main(["import-model", str(archive), str(folder), *flags]) == 0
        encoders = StoredConfig.load(folder).config.encoders
        assert f"{encoders[0].max_seq_len},{encoders[1].max_seq_len}" == lengths
    assert len(list((cache / "converted").iterdir())) == 2
    assert Object2Vec.load(archive, (7, 8)).config.encoders[0].max_seq_len == 7


def test_a_length_is_asked_for_only_where_the_archive_says_none(tmp_path):
    meta = {"enc0_max_seq_len": "12", "enc1_network": "hcnn"}
    archive = archive_of(tmp_path / "model.tar.gz", meta=meta)
    encoders = Object2Vec.load(archive, (7, 8)).config.encoders
    assert [encoder.max_seq_len for encoder in encoders] == [12, 8]
    with pytest.raises(ValueError, match="99999 is outside 1 to 5000"):
        Object2Vec.load(archive, (7, 99999))


def test_an_import_with_other_lengths_is_a_model_with_those(archive, tmp_path):
    flags = ["--infer_max_seqlens=3,4"]
    data = write_lines(tmp_path / "x.jsonl", records(30))
    assert run(model=archive, input=data, output=tmp_path / "out", flags=flags) == 0
    flags += [f"--golden_input={data}", f"--golden_output={tmp_path / 'out' / 'x.jsonl.out'}"]
    assert main(["import-model", str(archive), str(tmp_path / "m"), *flags]) == 0
    encoders = StoredConfig.load(tmp_path / "m").config.encoders
    assert [encoder.max_seq_len for encoder in encoders] == [3, 4]
    card = (tmp_path / "m" / "MODEL_CARD.md").read_text()
    assert "in0 3, in1 4: what this directory was imported with" in card


def test_lengths_that_the_archive_says_are_the_models_whatever_the_job_asks_for(tmp_path, cache):
    archive = archive_of(tmp_path / "model.tar.gz")
    data = write_lines(tmp_path / "x.jsonl", records(9))
    flags = ["--infer_max_seqlens=3,4"]
    assert run(model=archive, input=data, output=tmp_path / "short", flags=flags) == 0
    assert run(model=archive, input=data, output=tmp_path / "own") == 0
    assert outputs(tmp_path / "short") != outputs(tmp_path / "own")
    assert len(list((cache / "converted").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(archive, tmp_path, monkeypatch, capsys):
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("OBJECT2VEC_CACHE", str(tmp_path / "a_file"))
    data = write_lines(tmp_path / "x.jsonl", records(1))
    assert run(model=archive, input=data, output=tmp_path / "out") == 3
    assert "OBJECT2VEC_CACHE names another place" in capsys.readouterr().err


def test_a_conversion_that_fails_leaves_nothing_in_the_cache(tmp_path, cache):
    symbol, arrays = object2vec(Side()), random_arrays(Side())
    del arrays["output_layer_bias"]
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(model_tar_gz(symbol, arrays, {"training_parameters": LENGTHS}))
    data = write_lines(tmp_path / "x.jsonl", records(1))
    assert run(model=archive, input=data, output=tmp_path / "out") == 3
    assert list((cache / "converted").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_an_archive_that_is_replaced_while_it_is_read_does_not_become_another_model(
    archive, tmp_path, cache, monkeypatch
):
    content = archive.read_bytes()
    other = archive_of(tmp_path / "other", seed=1)
    opened = importer.open_archive

    def replaced_first(path, scratch):
        other.replace(path)
        return opened(path, scratch)

    monkeypatch.setattr(importer, "open_archive", replaced_first)
    with pytest.raises(ModelError, match="changed while it was read; run again"):
        importer.converted(archive)
    assert list((cache / "converted").iterdir()) == []

    # Replaced between the first look and the reading: what was read is what it is filed under.
    monkeypatch.setattr(importer, "open_archive", opened)
    archive.write_bytes(content)
    read = importer.read_archive

    def replaced_before(path, *rest):
        archive_of(path, seed=2)
        return read(path, *rest)

    monkeypatch.setattr(importer, "read_archive", replaced_before)
    second = importer.converted(archive)
    monkeypatch.setattr(importer, "read_archive", read)
    assert importer.converted(archive) == second
    archive.write_bytes(content)
    assert importer.converted(archive) != second


@pytest.mark.parametrize("damage", ["weights.safetensors", "config.json"])
def test_a_damaged_conversion_is_made_again(archive, damage, caplog):
    folder = importer.converted(archive)
    whole = (folder / damage).read_bytes()
    (folder / damage).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert importer.converted(archive) == folder
    assert "is damaged" in caplog.text
    assert (folder / damage).read_bytes() == whole
    (folder / damage).unlink()
    assert Object2Vec.load(archive).hash == StoredConfig.load(folder).model_hash


def test_two_processes_that_convert_at_once_agree(tmp_path, cache):
    archive = archive_of(tmp_path / "model.tar.gz", Side(vocab_size=200_000, dim=40))
    code = "import sys; from object2vec import Object2Vec; print(Object2Vec.load(sys.argv[1]).hash)"
    command = [sys.executable, "-c", code, str(archive)]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    told = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0] and len(told) == 1
    assert len(list((cache / "converted").iterdir())) == 1


def test_what_a_killed_conversion_left_is_removed_a_day_later(archive, cache):
    old, new = cache / "converted" / ".old-x", cache / "converted" / ".new-x"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "weights").touch()
    day = 24 * 3600 + 60
    os.utime(old, (old.stat().st_atime - day, old.stat().st_mtime - day))
    importer.converted(archive)
    assert new.is_dir() and not old.exists()


def test_a_user_without_a_home_is_asked_for_a_cache(archive, tmp_path, monkeypatch, capsys):
    for name in ("OBJECT2VEC_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    data = write_lines(tmp_path / "x.jsonl", records(1))
    assert run(model=archive, input=data, output=tmp_path / "out") == 3
    assert "name a folder in OBJECT2VEC_CACHE" in capsys.readouterr().err
    # A directory needs no cache.
    monkeypatch.setattr("object2vec.cache._WORTH_BYTES", 1)
    assert main(["import-model", str(archive), str(tmp_path / "model")]) == 0
    assert run(model=tmp_path / "model", input=data, output=tmp_path / "out") == 0


def test_a_folder_that_holds_an_archive_names_it(archive, tmp_path, s3_store, capsys):
    data = write_lines(tmp_path / "in" / "x.jsonl", records(1))
    open_store(f"{s3_store}/job/output").put("model.tar.gz", archive.read_bytes())
    for folder in (str(tmp_path), f"{s3_store}/job/output/"):
        assert run(model=folder, input=data, output=tmp_path / "out") == 3
        wanted = f"did you mean {folder.rstrip('/')}/model.tar.gz?"
        assert wanted in capsys.readouterr().err


def test_a_conversion_tells_what_was_inferred(tmp_path, caplog):
    archive = archive_of(tmp_path / "model.tar.gz", Side("bilstm"))
    with caplog.at_level("INFO"):
        folder = importer.converted(archive)
    assert "No bilstm graph of SageMaker is public" in caplog.text
    assert str(folder / "MODEL_CARD.md") in caplog.text


def test_numbers_that_are_not_finite_are_on_the_card(tmp_path):
    arrays = random_arrays(Side())
    arrays["embed_0_weight"][7, 3:5] = np.nan
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(model_tar_gz(object2vec(Side()), arrays, {"training_parameters": LENGTHS}))
    assert main(["import-model", str(archive), str(tmp_path / "m")]) == 0
    card = (tmp_path / "m" / "MODEL_CARD.md").read_text()
    assert "2 numbers of encoders.0.embedding are not finite" in card


def golden_pair(tmp_path, archive, count=40):
    """Files of records and of the model's own answers."""
    rows = [r for r in records(3 * count) if len(r) > 1][:count]
    data = write_lines(tmp_path / "sample.jsonl", rows)
    assert run(model=archive, input=data, output=tmp_path / "golden") == 0
    return data, tmp_path / "golden" / "sample.jsonl.out"


def test_the_agreement_with_a_sample_is_on_the_card(archive, tmp_path):
    asked, told = golden_pair(tmp_path, archive)
    flags = [f"--golden_input={asked}", f"--golden_output={told}"]
    assert main(["import-model", str(archive), str(tmp_path / "m"), *flags]) == 0
    card = (tmp_path / "m" / "MODEL_CARD.md").read_text()
    num_pairs = told.read_text().count('"scores"')
    assert f"{40 - num_pairs} embeddings: largest difference 0.0e+00" in card
    assert f"{num_pairs} scores: largest difference 0.0e+00" in card and num_pairs > 3


@pytest.mark.parametrize("kind", ["embeddings", "scores"])
@pytest.mark.parametrize(
    ("factor", "agrees"), [(1 + 4e-6, True), (1 + 4e-4, False), (np.nan, False)]
)
def test_one_number_decides_whether_answers_agree(archive, tmp_path, kind, factor, agrees):
    asked, told = golden_pair(tmp_path, archive)
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    place = [number for number, line in enumerate(lines) if kind in line][1]
    numbers = lines[place][kind]
    largest = max(range(len(numbers)), key=lambda i: abs(numbers[i]))
    numbers[largest] = numbers[largest] * factor if np.isfinite(factor) else 1e300
    expected = "".join(json.dumps(line) + "\n" for line in lines).encode()
    found = compare(Object2Vec.load(archive), asked.read_bytes(), expected)
    difference = next(d for d in found if d.kind == kind)
    other = next(d for d in found if d.kind != kind)
    assert difference.agrees is agrees and difference.worst_line == place + 1
    assert other.agrees and other.tolerance_share == 0.0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda asked, told: (asked[:-1], told), "39 records, but 40 expected answers"),
        (lambda asked, told: (asked, [*told[:3], "{}", *told[4:]]), "line 4 of the expected"),
        (lambda asked, told: (asked, [*told[:3], "{", *told[4:]]), "line 4 of the expected"),
        (
            lambda asked, told: ([*asked[:2], '{"in0":[7.5]}', *asked[3:]], told),
            "line 3 of the rec",
        ),
    ],
)
def test_samples_that_cannot_be_compared_are_refused_by_line(
    archive, tmp_path, capsys, damage, words
):
    asked, told = golden_pair(tmp_path, archive)
    for path, lines in zip(
        (asked, told),
        damage(asked.read_text().splitlines(), told.read_text().splitlines()),
        strict=True,
    ):
        path.write_text("\n".join(lines) + "\n")
    capsys.readouterr()
    flags = [f"--golden_input={asked}", f"--golden_output={told}"]
    assert main(["import-model", str(archive), str(tmp_path / "m"), *flags]) == 3
    assert words in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_lengths_that_cannot_be_used_give_way_to_those_asked_for(tmp_path, capsys):
    meta = {"enc0_max_seq_len": "many", "enc1_max_seq_len": "9"}
    archive = archive_of(tmp_path / "model.tar.gz", meta=meta)
    assert main(["import-model", str(archive), str(tmp_path / "m")]) == 3
    assert "--infer_max_seqlens=F,B says them instead" in capsys.readouterr().err
    flags = ["--infer_max_seqlens=7,8"]
    assert main(["import-model", str(archive), str(tmp_path / "m"), *flags]) == 0
    encoders = StoredConfig.load(tmp_path / "m").config.encoders
    assert [encoder.max_seq_len for encoder in encoders] == [7, 8]


def test_absent_rows_are_for_tables_alone(tmp_path, capsys):
    arrays = random_arrays(Side())
    width = arrays["mlp_fc0_weight"].shape[1]
    empty = RowSparse(np.zeros((0, width), np.float32), np.zeros(0, np.int64), (8, width))
    arrays["mlp_fc0_weight"] = empty
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(model_tar_gz(object2vec(Side()), arrays, {"training_parameters": LENGTHS}))
    assert main(["import-model", str(archive), str(tmp_path / "m")]) == 3
    told = capsys.readouterr().err
    assert "mlp_fc0_weight" in told and "is row_sparse, which only tables" in told
