"""A model's files, and its use from Python."""

import hashlib
import json
import pickle
import platform
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from definitions import encoder, model_of, some_sequences

import object2vec
from object2vec import ModelConfig, ModelError, Object2Vec, mkl_cbwr, model_hash
from object2vec.config import CONFIG_FILE, StoredConfig
from object2vec.folder import CARD_FILE, WEIGHTS_FILE
from object2vec.model import weight_shapes

MIXED = (encoder("hcnn"), encoder("bilstm", layers=2))


@pytest.fixture
def folder(tmp_path):
    model_of(*MIXED).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("network", ["pooled_embedding", "hcnn", "bilstm"])
def test_what_was_saved_loads_equal(tmp_path, network, tied):
    model = model_of(encoder(network), tied_token_embedding_weight=tied)
    model.save(tmp_path)
    loaded = Object2Vec.load(tmp_path)
    assert loaded.config == model.config
    assert loaded.hash == model.hash == model_hash(tmp_path)
    sequences = some_sequences(9)
    for side in (0, 1):
        expected = model.encode(sequences, side).tobytes()
        assert loaded.encode(sequences, side).tobytes() == expected
    assert loaded.score(sequences, sequences).tobytes() == (
        model.score(sequences, sequences).tobytes()
    )
    names = safetensors.torch.load_file(tmp_path / WEIGHTS_FILE).keys()
    assert ("encoders.1.embedding" in names) is not tied


def test_a_folder_holds_three_files_that_others_may_read(folder):
    assert sorted(p.name for p in folder.iterdir()) == [CARD_FILE, CONFIG_FILE, WEIGHTS_FILE]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # nothing left over
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444
    card = (folder / CARD_FILE).read_text()
    for fact in ("hcnn, 4 layers", "bilstm, 2 layers", "vectors of 12", model_hash(folder)):
        assert fact in card


def test_the_hash_is_stated_so_weights_are_not_needed_for_it(folder):
    expected = Object2Vec.load(folder).hash
    (folder / WEIGHTS_FILE).unlink()
    assert model_hash(folder) == expected
    assert ModelConfig.load(folder).encoders == MIXED


def test_other_weights_give_another_hash():
    assert model_of(*MIXED, seed=1).hash != model_of(*MIXED, seed=2).hash
    assert model_of(*MIXED, seed=1).hash == model_of(*MIXED, seed=1).hash


def test_saving_again_replaces_the_model_and_keeps_other_files(folder):
    (folder / "vocabulary.json").write_text("{}")
    (folder / "more").mkdir()
    (folder / "more" / "notes").write_text("n")
    other = model_of(encoder("pooled_embedding"))
    other.save(folder)
    assert Object2Vec.load(folder).hash == other.hash
    assert (folder / "vocabulary.json").read_text() == "{}"
    assert (folder / "more" / "notes").read_text() == "n"
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_loaded_model_can_be_saved_where_it_came_from(folder):
    model = Object2Vec.load(folder)
    expected = model.encode([[1, 2]]).tobytes()
    model.save(folder)
    assert model.encode([[1, 2]]).tobytes() == expected
    assert Object2Vec.load(folder).encode([[1, 2]]).tobytes() == expected


@pytest.mark.parametrize("name", ["precious.txt", CONFIG_FILE])
def test_a_folder_that_is_no_model_is_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=r"config\.json"):
        model_of(*MIXED).save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        model_of(*MIXED).save(tmp_path / "file")


def test_a_failed_save_leaves_the_old_model(folder, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    old = model_hash(folder)
    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        model_of(encoder("pooled_embedding")).save(folder)
    assert Object2Vec.load(folder).hash == old
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_changed_weights_are_noticed(folder):
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        Object2Vec.load(folder)
    stated = StoredConfig.load(folder).weights_sha256
    for word in (str(folder / WEIGHTS_FILE), stated, "Copy the directory again"):
        assert word in str(caught.value)


def test_missing_weights_are_named_and_a_pickle_is_no_substitute(folder):
    (folder / WEIGHTS_FILE).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="never from a pickle"):
        Object2Vec.load(folder)


class Bomb:
    def __reduce__(self):
        return (shutil.rmtree, ("nowhere",))


def put_weights(folder, content):
    """Puts other weights in, and a configuration that agrees."""
    (folder / WEIGHTS_FILE).write_bytes(content)
    stored = StoredConfig(ModelConfig.load(folder), hashlib.sha256(content).hexdigest())
    (folder / CONFIG_FILE).write_text(stored.to_text())


def test_a_pickle_in_disguise_is_not_unpickled(folder):
    put_weights(folder, pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        Object2Vec.load(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("encoders.0.embedding"), r"missing weights: encoders\.0\.embedding"),
        (lambda w: w.update(zoo=torch.zeros(1)), "unknown weights: zoo"),
        (
            lambda w: w.update({"scorer.output.bias": torch.zeros(3)}),
            r"scorer\.output\.bias is torch\.float32 \[3\].*asks for float32 \[2\]",
        ),
        (
            lambda w: w.update({"scorer.output.bias": torch.zeros(2, dtype=torch.float64)}),
            r"scorer\.output\.bias is torch\.float64",
        ),
    ],
    ids=["missing", "unknown", "shape", "type"],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, edit, message):
    weights = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    edit(weights)
    put_weights(folder, safetensors.torch.save(weights))
    with pytest.raises(ModelError, match=message):
        Object2Vec.load(folder)


def test_the_names_of_weights_stay():
    """They are the file format; other programs write them."""
    config = ModelConfig((encoder("hcnn", layers=2), encoder("bilstm")), mlp_layers=1, mlp_dim=9)
    assert weight_shapes(config) == {
        "encoders.0.embedding": (50, 7),
        "encoders.0.convolutions.0.weight": (6, 7, 3),
        "encoders.0.convolutions.0.bias": (6,),
        "encoders.0.convolutions.1.weight": (6, 6, 3),
        "encoders.0.convolutions.1.bias": (6,),
        "encoders.1.embedding": (50, 7),
        "encoders.1.forwards.0.weight_ih_l0": (24, 7),
        "encoders.1.forwards.0.weight_hh_l0": (24, 6),
        "encoders.1.forwards.0.bias_ih_l0": (24,),
        "encoders.1.forwards.0.bias_hh_l0": (24,),
        "encoders.1.backwards.0.weight_ih_l0": (24, 7),
        "encoders.1.backwards.0.weight_hh_l0": (24, 6),
        "encoders.1.backwards.0.bias_ih_l0": (24,),
        "encoders.1.backwards.0.bias_hh_l0": (24,),
        "scorer.hidden.0.weight": (9, 48),
        "scorer.hidden.0.bias": (9,),
        "scorer.output.weight": (2, 9),
        "scorer.output.bias": (2,),
    }


def test_weights_are_mapped_not_copied(tmp_path):
    table = encoder("pooled_embedding", vocab_size=50_000, token_embedding_dim=300, enc_dim=300)
    model_of(table, tied_token_embedding_weight=True).save(tmp_path)
    code = (
        "import sys; from object2vec import Object2Vec\n"
        "from object2vec import model as _\n"
        "def anonymous_kb():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('RssAnon'))\n"
        "before = anonymous_kb()\n"
        "model = Object2Vec.load(sys.argv[1])\n"
        "model.encode([[1, 2, 49999]])\n"
        "print(anonymous_kb() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 30_000  # the table alone is 60,000 kB


def test_lists_arrays_and_matrices_are_taken():
    model = model_of(*MIXED)
    expected = model.encode([[1, 2], [3, 4]]).tobytes()
    assert model.encode(np.array([[1, 2], [3, 4]])).tobytes() == expected
    for kind in (np.int8, np.uint64, np.int32):
        assert model.encode([np.array([1, 2], kind), (3, 4)]).tobytes() == expected
    assert model.encode([]).shape == (0, 12)
    assert model.score([], []).shape == (0, 2)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([1, 2], r"sequences\[0\] is 1; it must be a list of ids"),
        ([[1], [[2]]], r"sequences\[1\] is \[\[2\]\]"),
        ([[1], [[2], [3, 4]]], r"sequences\[1\] is"),
        ([[1.0]], r"sequences\[0\] holds float64 values"),
        ([["1"]], r"sequences\[0\] holds <U1 values"),
        ([[2**70]], r"sequences\[0\] holds object values"),
        ([[1], [1, 50]], r"sequences\[1\]\[1\] is 50, but the vocabulary has ids 0 to 49"),
        ([[2, 3, -1]], r"sequences\[0\]\[2\] is -1"),
        ([np.array([2**63], np.uint64)], r"sequences\[0\]\[0\] is 9223372036854775808"),
    ],
)
def test_what_is_no_id_is_refused_with_its_place(sequences, message):
    with pytest.raises(ValueError, match=message):
        model_of(*MIXED).encode(sequences)


def test_ids_out_of_range_are_clipped_where_the_model_says_so():
    model = model_of(encoder("bilstm", out_of_range="clip"))
    outside = [[3, 7, 50], [2**40], np.array([2**63], np.uint64), np.array([49, 50], np.int8)]
    inside = [[3, 7, 49], [49], [49], [49, 49]]
    assert model.encode(outside).tobytes() == model.encode(inside).tobytes()
    # The row of the padding id, 0, which id 0 itself does not read.
    below = model.encode([[-5], np.array([-3], np.int8)])
    assert below[0].tobytes() == below[1].tobytes() != model.encode([[0]])[0].tobytes()
    pooled = encoder("pooled_embedding", out_of_range="clip", vocab_size=1000)
    assert model_of(pooled).encode([np.array([7], np.int8)]).any()


def test_what_is_cut_off_is_not_looked_at():
    model = model_of(*MIXED)
    expected = model.encode([[1, 2]], max_seq_len=2)
    assert model.encode([[1, 2, 99]], max_seq_len=2).tobytes() == expected.tobytes()


@pytest.mark.parametrize("length", [0, 5001])
def test_a_longest_length_out_of_range_is_refused(length):
    with pytest.raises(ValueError, match="outside 1 to 5000"):
        model_of(*MIXED).encode([[1]], max_seq_len=length)


def test_there_are_two_sides():
    with pytest.raises(ValueError, match="side is 2"):
        model_of(*MIXED).encode([[1]], side=2)


def test_pairs_have_two_sequences():
    with pytest.raises(ValueError, match="1 sequences to pair with 2"):
        model_of(*MIXED).score([[1]], [[1], [2]])


def test_the_weights_of_a_pair_are_those_of_its_sides():
    model = model_of(*MIXED)
    assert model.score([[1, 2]], [[3]]).tolist() != model.score([[3]], [[1, 2]]).tolist()


def test_the_package_sets_mkl_cbwr_before_torch_and_leaves_a_set_value():
    code = (
        "import os, sys\nimport object2vec\nassert 'torch' not in sys.modules\n"
        "import json; print(json.dumps([os.environ.get('MKL_CBWR'), object2vec.TORCH_CAME_FIRST]))"
    )

    def run(code, **environ):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    with open("/proc/cpuinfo") as opened:
        cpuinfo = opened.read()
    path = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    assert run(code, **path) == [mkl_cbwr(platform.machine(), cpuinfo), False]
    assert run(code, MKL_CBWR="COMPATIBLE", **path) == ["COMPATIBLE", False]


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", "flags : avx avx2 avx512f", "AVX2,STRICT"),
        ("x86_64", "a\nflags : avx512vl avx512f avx512bw avx512cd avx512dq", "AVX512,STRICT"),
        ("AMD64", "", "AVX2,STRICT"),
        ("aarch64", "flags : avx512f", None),
    ],
)
def test_mkl_cbwr_follows_the_cpu(machine, cpuinfo, expected):
    assert mkl_cbwr(machine, cpuinfo) == expected


def test_the_packages_names_are_there():
    for name in object2vec.__all__:
        assert getattr(object2vec, name).__name__ == name
        assert name in dir(object2vec)
    with pytest.raises(AttributeError, match="no attribute 'zoo'"):
        _ = object2vec.zoo
