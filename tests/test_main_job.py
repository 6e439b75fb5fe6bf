"""The main job: files in, ordered outputs, the same bytes whatever the way."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import fastavro
import numpy as np
import pytest
import zstandard
from jobs import manifest, outputs, records, run, save_model, summary, write_lines

from object2vec.model import Object2Vec
from transforms.storage import open_store

pytest_plugins = ("s3_server",)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two small files, an empty one, and one that spans several units of 256 KiB."""
    folder = tmp_path_factory.mktemp("data")
    write_lines(folder / "a.jsonl", records(30, seed=1))
    write_lines(folder / "sub" / "b.jsonl", records(7, seed=2))
    write_lines(folder / "big.jsonl", records(16_000, seed=3))
    (folder / "empty.jsonl").touch()
    (folder / "_skipped.jsonl").write_text("not read")
    return folder


@pytest.fixture(scope="module")
def reference(model, data, tmp_path_factory) -> dict[str, bytes]:
    """What one thread, one process and big units write."""
    out = tmp_path_factory.mktemp("reference")
    assert run(model=model, input=data, output=out, flags=["--threads=1"]) == 0
    return outputs(out)


def test_the_layout_is_that_of_batch_transform(reference):
    assert set(reference) == {"a.jsonl.out", "big.jsonl.out", "empty.jsonl.out", "sub/b.jsonl.out"}
    assert reference["empty.jsonl.out"] == b""


def test_line_i_answers_record_i(model, data, reference):
    python = Object2Vec.load(model)
    rows = [json.loads(line) for line in (data / "big.jsonl").read_text().splitlines()]
    lines = reference["big.jsonl.out"].decode().splitlines()
    assert len(lines) == len(rows) == 16_000
    for row, line in list(zip(rows, lines, strict=True))[::97]:
        answer = json.loads(line)
        if "in0" in row and "in1" in row:
            expected = python.score([row["in0"][:12]], [row["in1"][:12]])[0]
            found = answer["scores"]
        else:
            side = 0 if "in0" in row else 1
            expected = python.encode([row[f"in{side}"]], side=side)[0]
            found = answer["embeddings"]
        assert np.array_equal(np.array(found, np.float32), expected + 0.0)


@pytest.mark.parametrize(
    "flags",
    [
        ["--threads=2", "--unit_bytes=256K"],
        ["--batch_tokens=100", "--unit_bytes=512K", "--threads=1"],
        ["--unit_bytes=256K", "--direct_runner_bundle_repeat=1"],
        ["--workers=2", "--unit_bytes=256K"],
        ["--runner=DirectRunner", "--labels=airflow-version=v2"],
    ],
)
def test_bytes_do_not_depend_on_the_way(model, data, reference, tmp_path, flags):
    out = tmp_path / "out"
    assert run(model=model, input=data, output=out, flags=flags) == 0
    assert outputs(out) == reference
    assert (out / "_SUCCESS").exists()
    assert not (out / "_o2v" / "tmp").exists() and not (out / "_o2v" / "units").exists()


@pytest.mark.parametrize("network", ["hcnn", "bilstm"])
def test_networks_that_pad_give_the_same_bytes_in_any_batch(network, data, tmp_path):
    model = save_model(tmp_path / "m", network)
    small = write_lines(tmp_path / "in.jsonl", records(3000, seed=4))
    found = []
    for number, flags in enumerate([["--threads=1"], ["--threads=2", "--batch_tokens=77"]]):
        out = tmp_path / str(number)
        assert run(model=model, input=small, output=out, flags=flags) == 0
        found.append(outputs(out))
    assert found[0] == found[1]
    assert found[0]["in.jsonl.out"].count(b"\n") == 3000


def test_from_s3_to_s3(model, data, reference, s3_store, tmp_path):
    source, target = open_store(f"{s3_store}/in"), open_store(f"{s3_store}/out")
    for path in data.rglob("*"):
        if path.is_file():
            source.put(str(path.relative_to(data)), path.read_bytes())
    flags = ["--unit_bytes=256K", "--direct_runner_bundle_repeat=1"]
    assert run(model=model, input=source.root, output=target.root, flags=flags) == 0
    assert {name: target.read(name) for name in reference} == reference
    ours = {stat.name.split("/")[1] for stat in target.list("_o2v")}
    assert ours <= {"lock", "runs", "summary.json"} and target.stat("_SUCCESS")
    assert run(model=model, input=source.root, output=target.root,
               flags=["--exit_code_if_nothing=99"]) == 99  # fmt: skip


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_files_give_the_same_bytes(model, data, reference, tmp_path, pack):
    suffix = "gz" if pack is gzip.compress else "zst"
    text = (data / "big.jsonl").read_bytes()
    half = text.index(b"\n", len(text) // 2) - 5  # in the middle of a line
    source = tmp_path / f"big.jsonl.{suffix}"
    source.write_bytes(pack(text[:half]) + pack(text[half:]))
    assert run(model=model, input=source, output=tmp_path / "out") == 0
    assert outputs(tmp_path / "out") == {f"big.jsonl.{suffix}.out": reference["big.jsonl.out"]}


def test_a_cut_gzip_file_fails_and_the_others_go_on(model, data, tmp_path):
    packed = gzip.compress((data / "big.jsonl").read_bytes())
    folder = tmp_path / "in"
    write_lines(folder / "good.jsonl", records(5))
    (folder / "cut.jsonl.gz").write_bytes(packed[:-9])
    assert run(model=model, input=folder, output=tmp_path / "out") == 1
    assert set(outputs(tmp_path / "out")) == {"good.jsonl.out"}
    failed = [e for e in manifest(tmp_path / "out")["entries"] if e["status"] == "failed"]
    assert [entry["file"]["name"] for entry in failed] == ["cut.jsonl.gz"]
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_json_documents(model, tmp_path):
    rows = records(20)
    source = tmp_path / "doc.json"
    source.write_text(json.dumps({"instances": rows}))
    lines = write_lines(tmp_path / "lines.jsonl", rows)
    assert run(model=model, input=lines, output=tmp_path / "l") == 0
    expected = [json.loads(x) for x in outputs(tmp_path / "l")["lines.jsonl.out"].splitlines()]
    flags = ["--content_type=application/json; charset=utf-8"]
    assert run(model=model, input=source, output=tmp_path / "d", flags=flags) == 0
    assert json.loads(outputs(tmp_path / "d")["doc.json.out"]) == {"predictions": expected}
    flags.append("--accept=application/jsonlines")
    assert run(model=model, input=source, output=tmp_path / "dl", flags=flags) == 0
    assert outputs(tmp_path / "dl")["doc.json.out"] == outputs(tmp_path / "l")["lines.jsonl.out"]


def test_a_document_of_many_units_is_whole(model, data, reference, tmp_path):
    flags = ["--accept=application/json", "--unit_bytes=256K"]
    assert run(model=model, input=data, output=tmp_path / "out", flags=flags) == 0
    for name, content in outputs(tmp_path / "out").items():
        rows = [json.loads(line) for line in reference[name].splitlines()]
        assert json.loads(content) == {"predictions": rows}


def test_avro_reads_back_exactly_and_repeats(model, data, reference, tmp_path):
    found = []
    for number, unit in enumerate(("256K", "64M")):
        flags = ["--accept=avro/binary", f"--unit_bytes={unit}"]
        assert run(model=model, input=data, output=tmp_path / str(number), flags=flags) == 0
        found.append(outputs(tmp_path / str(number)))
    assert found[0] == found[1]
    assert set(found[0]) == {name.replace(".out", ".out.avro") for name in reference}
    text = (data / "big.jsonl").read_bytes()
    with open(tmp_path / "0" / "big.jsonl.out.avro", "rb") as file:
        rows = list(fastavro.reader(file))
    for row, line in zip(rows, reference["big.jsonl.out"].splitlines(), strict=True):
        answer = json.loads(line)
        record = json.loads(text[row["offset"] : text.index(b"\n", row["offset"])])
        sides = [name for name in ("in0", "in1") if name in record]
        assert row["side"] == (sides[0] if len(sides) == 1 else "pair")
        values = answer["scores" if row["side"] == "pair" else "embeddings"]
        assert np.array_equal(np.float32(row["values"]), np.float32(values))


BAD = b'{"in0":[1]}\n{"in0":[1,true]}\nnonsense\n{"in1":[2]}\n'


def test_fail_file_is_the_default(model, tmp_path, capsys):
    folder = tmp_path / "in"
    write_lines(folder / "good.jsonl", records(5))
    (folder / "bad.jsonl").write_bytes(BAD)
    assert run(model=model, input=folder, output=tmp_path / "out") == 1
    assert set(outputs(tmp_path / "out")) == {"good.jsonl.out"}
    told = capsys.readouterr().err
    assert "bad.jsonl:2: $.in0[1]" in told and "some files failed" in told
    # A rerun tries the file again, and it alone.
    (folder / "bad.jsonl").write_bytes(b'{"in0":[1]}\n')
    assert run(model=model, input=folder, output=tmp_path / "out") == 0
    assert set(outputs(tmp_path / "out")) == {"good.jsonl.out", "bad.jsonl.out"}
    assert summary(tmp_path / "out")["encoded"] == 1


def test_placeholder_keeps_the_place(model, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(BAD)
    flags = ["--on_bad_record=placeholder"]
    assert run(model=model, input=tmp_path / "bad.jsonl", output=tmp_path / "o", flags=flags) == 0
    rows = [json.loads(row) for row in outputs(tmp_path / "o")["bad.jsonl.out"].splitlines()]
    assert [set(row) for row in rows] == [{"embeddings"}, {"error"}, {"error"}, {"embeddings"}]
    assert rows[1]["error"]["offset"] == 12 and rows[1]["error"]["path"] == "$.in0[1]"


def test_dead_letters_are_set_aside_with_file_lines(model, tmp_path):
    good = records(16_000, seed=3)
    text = b"".join(json.dumps(row).encode() + b"\n" for row in good)
    middle = text.index(b"\n", len(text) * 3 // 4) + 1
    (tmp_path / "big.jsonl").write_bytes(text[:middle] + b"{}\n" + text[middle:] + b"[]")
    flags = ["--on_bad_record=dead_letter", "--unit_bytes=256K"]
    out = tmp_path / "o"
    assert run(model=model, input=tmp_path / "big.jsonl", output=out, flags=flags) == 0
    assert outputs(out)["big.jsonl.out"].count(b"\n") == 16_000
    letters = (out / "_o2v" / "rejected" / "big.jsonl.out.jsonl").read_text().splitlines()
    found = [json.loads(letter) for letter in letters]
    assert [(x["line"], x["offset"], x["record"]) for x in found] == [
        (text[:middle].count(b"\n") + 1, middle, "{}"),
        (16_002, len(text) + 3, "[]"),
    ]
    assert manifest(out)["totals"]["refused"] == 2


def test_document_with_dead_letters_at_its_head_is_still_json(model, tmp_path):
    lines = b"[]\n" * 100_000 + b'{"in0":[1]}\n' * 3
    (tmp_path / "x.jsonl").write_bytes(lines)
    flags = ["--on_bad_record=dead_letter", "--accept=application/json", "--unit_bytes=256K"]
    out = tmp_path / "o"
    assert run(model=model, input=tmp_path / "x.jsonl", output=out, flags=flags) == 0
    assert len(json.loads(outputs(out)["x.jsonl.out"])["predictions"]) == 3


def test_ids_out_of_range(model, tmp_path, capfd):
    source = tmp_path / "x.jsonl"
    source.write_text('{"in0":[50]}\n{"in0":[49]}\n')
    assert run(model=model, input=source, output=tmp_path / "error") == 1
    flags = ["--out_of_range_ids=clip"]
    assert run(model=model, input=source, output=tmp_path / "clip", flags=flags) == 0
    first, second = outputs(tmp_path / "clip")["x.jsonl.out"].splitlines()
    assert first == second
    assert manifest(tmp_path / "clip")["totals"]["clipped"] == 1
    assert summary(tmp_path / "clip")["counts"]["clipped"] == 1
    assert "out of range  1 id clipped" in capfd.readouterr().err


def test_sequences_are_cut_and_counted(model, tmp_path):
    source = tmp_path / "x.jsonl"
    source.write_text('{"in0":[1,2,3]}\n{"in0":[1,2]}\n{"in1":[1,2,3]}\n')
    words = "application/jsonlines; infer_max_seqlens=2,5000"
    for number, flags in enumerate([[f"--content_type={words}"], ["--infer_max_seqlens=2,5000"]]):
        out = tmp_path / str(number)
        assert run(model=model, input=source, output=out, flags=flags) == 0
        first, second, third = outputs(out)["x.jsonl.out"].splitlines()
        assert first == second != third
        assert manifest(out)["totals"]["truncated"] == 1


def test_a_clipped_id_is_a_token_in_files_too(tmp_path):
    source = tmp_path / "x.jsonl"
    source.write_text('{"in0":[-1]}\n{"in0":[7]}\n{"in0":[49,7,50]}\n')
    for padding_id in (0, 49):
        folder, out = tmp_path / f"m{padding_id}", tmp_path / f"o{padding_id}"
        save_model(folder, padding_id=padding_id, out_of_range="clip")
        assert run(model=folder, input=source, output=out) == 0
        rows = [json.loads(line)["embeddings"] for line in outputs(out)["x.jsonl.out"].splitlines()]
        table = Object2Vec.load(folder).weights()["encoders.0.embedding"].numpy()
        last = [49, 7, 49] if padding_id == 0 else [7, 49]
        expected = [table[0], table[7], table[last].mean(axis=0)]
        np.testing.assert_allclose(rows, expected, rtol=1e-5)


def test_lengths_that_leave_a_models_convolutions_nothing_are_refused(tmp_path, capfd):
    folder = save_model(tmp_path / "m", "hcnn", cnn_padding=0)  # 2 layers of width 3
    source = write_lines(tmp_path / "x.jsonl", records(5))
    out = tmp_path / "o"
    flags = ["--infer_max_seqlens=5,4"]
    assert run(model=folder, input=source, output=out, flags=flags) == 2
    assert "infer_max_seqlens says 4 for in1; the convolutions" in capfd.readouterr().err
    assert not out.exists()
    assert run(model=folder, input=source, output=out, flags=["--infer_max_seqlens=5,5"]) == 0


def test_both_kinds_are_answered_in_both_modes(model, data, reference, tmp_path):
    for mode in ("embedding", "classification"):
        flags = [f"--env=INFERENCE_PREFERRED_MODE={mode}", "--env=OTHER=1"]
        source = data / "a.jsonl"
        assert run(model=model, input=source, output=tmp_path / mode, flags=flags) == 0
        assert outputs(tmp_path / mode) == {"a.jsonl.out": reference["a.jsonl.out"]}


def test_a_line_over_the_limit_is_refused(model, tmp_path):
    source = tmp_path / "x.jsonl"
    source.write_text('{"in0":[1]}\n{"in0":[1],"x":"' + "y" * 2_000_000 + '"}\n{"in0":[1]}\n')
    flags = ["--max_line_bytes=1M", "--on_bad_record=placeholder"]
    assert run(model=model, input=source, output=tmp_path / "o", flags=flags) == 0
    rows = outputs(tmp_path / "o")["x.jsonl.out"].splitlines()
    assert rows[0] == rows[2] and b'"error"' in rows[1]
    assert (
        run(model=model, input=source, output=tmp_path / "o2", flags=["--max_line_bytes=3M"]) == 0
    )


def test_avro_blocks_of_a_document_follow_its_bytes(model, tmp_path):
    source = tmp_path / "doc.json"
    source.write_text(json.dumps({"instances": records(16_000, seed=3)}))
    flags = ["--content_type=application/json", "--accept=avro/binary"]
    assert run(model=model, input=source, output=tmp_path / "o", flags=flags) == 0
    with open(tmp_path / "o" / "doc.json.out.avro", "rb") as file:
        blocks = [block.num_records for block in fastavro.block_reader(file)]
    assert sum(blocks) == 16_000
    assert len(blocks) == -(-source.stat().st_size // (256 * 1024))


def test_workers_do_not_run_a_package_of_the_current_folder(
    model, data, reference, tmp_path, monkeypatch, capfd
):
    stranger = tmp_path / "here" / "pipeline"
    stranger.mkdir(parents=True)
    (stranger / "__init__.py").write_text("")
    (stranger / "worker.py").write_text("print('a stranger ran')")
    monkeypatch.chdir(tmp_path / "here")
    flags = ["--workers=2", "--unit_bytes=256K"]
    assert run(model=model, input=data, output=tmp_path / "out", flags=flags) == 0
    assert outputs(tmp_path / "out") == reference
    told = capfd.readouterr()
    assert "stranger" not in told.out + told.err and "units are left" not in told.err


def test_control_characters_of_names_do_not_reach_the_terminal(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "\x1b[31mred\n.jsonl").write_text("nonsense")
    assert run(model=model, input=tmp_path / "in", output=tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "\x1b" not in told and r"\x1b[31mred\n.jsonl" in told
