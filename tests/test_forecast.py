"""The forecast: about right for every kind of record, and no run begins that will not fit."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections import namedtuple

import numpy as np
import pytest
from definitions import encoder
from jobs import outputs, records, run, save_model, write_lines
from pieces import input_file, manifest, recipe, spans_of, stored_file

from object2vec.config import ModelConfig
from object2vec.errors import OutputError
from pipeline import forecast as forecast_module
from pipeline.forecast import Forecast, check_fits, first_block, make_forecast
from transforms.manifest import WrittenPiece
from transforms.storage import open_store

SIDE = encoder("pooled_embedding", enc_dim=300, token_embedding_dim=300)
CONFIG = ModelConfig((SIDE, SIDE), num_classes=3)
DOCUMENTS = recipe(content_type="application/json")
Usage = namedtuple("Usage", "total used free")


def forecast_of(*files, made_with=None) -> Forecast:
    return make_forecast(files, made_with or recipe(), CONFIG)


@pytest.fixture
def source(tmp_path):
    def make(data: bytes, name: str = "a.jsonl"):
        return stored_file(tmp_path / "in" / name, data)

    return make


@pytest.mark.parametrize(
    "line, floats",
    [
        (b'{"in0":[1,2,3]}\n', 300),
        (b'{"in1":[1,2,3],"id":"x","other":{"a":1}}\n', 300),
        (b'{"in0":[1],"in1":[2]}\n', 3),
        (b'{"in0":[1]}\n{"in0":[1],"in1":[2]}\n{"in1":[7]}\n', 201),
    ],
)
def test_records_are_counted_by_kind(source, line, floats):
    file = source(line * 2000)
    found = forecast_of(file)
    assert (found.files, found.input_bytes) == (1, file.size)
    assert found.records == line.count(b"\n") * 2000
    assert found.output_bytes == pytest.approx(found.records * (floats * 11.3 + 18), rel=1e-3)


def test_the_whole_is_estimated_from_the_first_block(source):
    found = forecast_of(source(b'{"in0":[1,2,3]}\n' * 100_000))
    assert found.records == pytest.approx(100_000, rel=1e-3)


def test_avro_needs_four_bytes_a_float(source):
    file = source(b'{"in0":[1,2,3]}\n' * 100)
    found = forecast_of(file, made_with=recipe(accept="avro/binary"))
    assert found.output_bytes == 100 * (300 * 4 + 18)


def test_files_are_sampled_all_over(source):
    small = [source(b'{"in0":[1]}\n', f"{i:03}") for i in range(100)]
    pairs = [source(b'{"in0":[1],"in1":[1]}\n', f"{i:03}") for i in range(100, 200)]
    found = forecast_of(*small, *pairs)
    assert found.files == 200 and found.records == pytest.approx(200, rel=0.1)
    assert 60 < found.output_bytes / (11.3 * 300) < 140  # a hundred of two hundred are long


def test_compressed_files_are_taken_to_swell(source):
    rng = random.Random(0)
    text = b"".join(
        b'{"in0":[%d,%d]}\n' % (rng.randrange(10**5), rng.randrange(10**5)) for _ in range(9000)
    )
    for name in ("a.gz", "A.GZ"):
        found = forecast_of(source(gzip.compress(text), name))
        assert found.records == pytest.approx(9000, rel=0.3)


def test_documents_are_counted_by_instances(source):
    text = json.dumps({"instances": [{"in0": [1, 2]}] * 70 + [{"in0": [1], "in1": [2]}] * 30})
    found = forecast_of(source(text.encode()), made_with=DOCUMENTS)
    assert found.records == 100
    assert found.output_bytes == pytest.approx(11.3 * (70 * 300 + 30 * 3) + 100 * 18, rel=1e-3)


def test_a_large_document_is_looked_into_at_its_head(source):
    text = json.dumps({"instances": [{"in0": list(range(20))}] * 30_000}).encode()
    assert len(text) > 2**20
    file = source(text)
    assert first_block(file, DOCUMENTS) == text[: 2**20]
    assert forecast_of(file, made_with=DOCUMENTS).records == pytest.approx(30_000, rel=0.01)


@pytest.mark.parametrize("data", [b"", b"\n\n\n", b"nonsense", b"\xff" * 1000])
def test_what_holds_no_records_makes_no_output(source, data):
    found = forecast_of(source(data))
    assert (found.records, found.output_bytes) == (0, 0)


def test_files_that_cannot_be_read_are_left_out(source, tmp_path):
    gone, bad = input_file(store=str(tmp_path)), source(b"no gzip", "b.gz")
    assert first_block(gone, recipe()) == first_block(bad, recipe()) == b""
    good = source(b'{"in0":[1]}\n' * 100)
    assert forecast_of(gone, bad, good).records > 100  # they count as much as the others


def test_no_files_make_no_output():
    assert forecast_of() == Forecast(0, 0, 0, 0)


def test_what_is_kept_is_not_written_again_but_may_have_to_be_copied(source):
    file = source(b'{"in0":[1,2,3]}\n' * 65_536)  # 1 MiB
    half, rest = spans_of(file, 2**19)
    every = make_forecast([file], recipe(), CONFIG)
    found = make_forecast([file], recipe(), CONFIG, [manifest(half)])
    assert found.input_bytes == 2**19 and every.joined_bytes == 0
    assert found.output_bytes == pytest.approx(every.output_bytes / 2, rel=1e-3)
    assert found.joined_bytes == pytest.approx(every.output_bytes, rel=1e-3)
    # One part that holds all of it is renamed; two are joined.
    pieces = [WrittenPiece(name, 0, 1, "") for name in "pq"]
    kept = [manifest(half, pieces[0]), manifest(rest, pieces[0])]
    assert make_forecast([file], recipe(), CONFIG, kept).joined_bytes == 0
    kept[1] = manifest(rest, pieces[1])
    assert make_forecast([file], recipe(), CONFIG, kept).joined_bytes > 0
    assert make_forecast([file], recipe(), CONFIG, kept).output_bytes == 0


def test_outputs_that_are_joined_need_their_room_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 0, 1000))
    store = open_store(str(tmp_path))
    check_fits(Forecast(1, 1, 1, 600, joined_bytes=400), store)
    with pytest.raises(OutputError, match="the outputs will need about"):
        check_fits(Forecast(1, 1, 1, 600, joined_bytes=401), store)


def test_the_forecast_is_near_what_is_written(tmp_path):
    model = save_model(tmp_path / "m")
    data = write_lines(tmp_path / "x.jsonl", records(3000))
    assert run(model=model, input=data, output=tmp_path / "o", flags=["--threads=1"]) == 0
    written = sum(map(len, outputs(tmp_path / "o").values()))
    sides = ModelConfig((encoder("pooled_embedding", enc_dim=8, token_embedding_dim=8),) * 2)
    found = make_forecast([stored_file(data, data.read_bytes())], recipe(), sides)
    assert found.records == 3000
    assert found.output_bytes == pytest.approx(written, rel=0.25)


def test_a_float_takes_about_as_many_bytes_as_is_said():
    floats = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    text = ",".join(str(x) for x in floats)
    assert len(text) / 10_000 == pytest.approx(forecast_module._TEXT_BYTES_PER_FLOAT, rel=0.1)


@pytest.mark.parametrize("free, fits", [(1000, True), (999, False)])
def test_the_disk_of_the_output_must_hold_the_forecast(tmp_path, monkeypatch, free, fits):
    asked = []

    def disk_usage(path):
        asked.append(str(path))
        return Usage(10**6, 0, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    store = open_store(str(tmp_path / "not" / "yet" / "there"))
    found = Forecast(1, 1, 1, 1000)
    if fits:
        check_fits(found, store)
    else:
        with pytest.raises(OutputError, match=r"has 0\.00 GiB free; use another --output"):
            check_fits(found, store)
    assert asked == [str(tmp_path)]


def test_a_bucket_has_no_end(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 0))
    check_fits(Forecast(1, 1, 1, 10**15), open_store("s3://bucket/out"))


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path, capsys):
    model = save_model(tmp_path / "m")
    write_lines(tmp_path / "in" / "b.jsonl", records(500))
    (tmp_path / "in" / "a.jsonl").touch()
    flags = ["--dry_run", "--threads=1"]
    out = tmp_path / "out"
    assert run(model=model, input=tmp_path / "in", output=out, flags=flags) == 0
    told = capsys.readouterr().err
    assert "dry run, nothing was written" in told and "about 500 records" in told
    assert "2 files" in told and "0 files" in told and "1 worker(s), 1 thread(s)" in told
    assert not out.exists()
    assert run(model=model, input=tmp_path / "in", output=out, flags=["--threads=1"]) == 0
    assert run(model=model, input=tmp_path / "in", output=out, flags=flags) == 0
    assert "done before   2 files" in capsys.readouterr().err


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path, capsys):
    model = save_model(tmp_path / "m")
    data = write_lines(tmp_path / "x.jsonl", records(5))
    weights = model / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    flags = ["--dry_run"]
    assert run(model=model, input=data, output=tmp_path / "o", flags=flags) == 3
    assert run(model=model, input=data, output=tmp_path, flags=flags) == 3
    assert run(model=tmp_path, input=data, output=tmp_path / "o", flags=flags) == 3
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "x.jsonl.out").touch()
    assert run(model=model, input=data, output=tmp_path / "p", flags=flags) == 4
    assert capsys.readouterr().err.count("\n") == 4
