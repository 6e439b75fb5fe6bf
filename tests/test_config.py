"""What a model may be, and that its file says so and nothing else."""

import dataclasses
import json

import pytest
from definitions import encoder

from object2vec.config import CONFIG_FILE, EncoderConfig, ModelConfig, StoredConfig
from object2vec.errors import ModelError

BILSTM = encoder("bilstm")
CONFIG = ModelConfig((encoder("hcnn"), BILSTM), comparator_list=("concat", "hadamard"))
SHA = "ab" * 32


def test_sagemakers_defaults():
    hcnn = EncoderConfig("hcnn", 100, 300, 4096, 50)
    assert (hcnn.layers, hcnn.cnn_filter_width, hcnn.padding_id) == (4, 3, 0)
    assert EncoderConfig("bilstm", 100, 300, 4096, 50).layers == 1
    config = ModelConfig((hcnn, hcnn))
    assert config.comparator_list == ("hadamard", "concat", "abs_diff")
    assert (config.mlp_layers, config.mlp_dim, config.mlp_activation) == (2, 512, "linear")
    assert (config.output_layer, config.num_classes) == ("softmax", 2)
    assert hcnn.out_of_range == "error"  # our own; SageMaker's dense tables clip


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("vocab_size", 2, 3_000_000),
        ("token_embedding_dim", 2, 1000),
        ("enc_dim", 4, 10_000),
        ("max_seq_len", 1, 5000),
        ("layers", 0, 4),
        ("cnn_filter_width", 0, 9),
        ("padding_id", 0, 49),
    ],
)
def test_an_encoders_numbers_have_ranges(name, low, high):
    for value in (low, high):
        assert dataclasses.replace(BILSTM, **{name: value}).max_seq_len
    for value in (low - 1, high + 1, "3", 3.0, True, None):
        with pytest.raises(ValueError, match=f"{name} is .* from {low} to {high}"):
            dataclasses.replace(BILSTM, **{name: value})


@pytest.mark.parametrize(
    ("name", "low", "high"), [("mlp_layers", 0, 10), ("mlp_dim", 2, 10_000), ("num_classes", 2, 30)]
)
def test_a_models_numbers_have_ranges(name, low, high):
    for value in (low, high):
        assert getattr(dataclasses.replace(CONFIG, **{name: value}), name) == value
    for value in (low - 1, high + 1, True):
        with pytest.raises(ValueError, match=f"{name} is .* from {low} to {high}"):
            dataclasses.replace(CONFIG, **{name: value})


@pytest.mark.parametrize("name", ["network", "out_of_range"])
def test_an_encoders_words_are_from_a_list(name):
    with pytest.raises(ValueError, match=f"{name} is 'x'; it must be one of"):
        dataclasses.replace(BILSTM, **{name: "x"})


@pytest.mark.parametrize("name", ["mlp_activation", "output_layer"])
def test_a_models_words_are_from_a_list(name):
    with pytest.raises(ValueError, match=f"{name} is 'x'; it must be one of"):
        dataclasses.replace(CONFIG, **{name: "x"})


@pytest.mark.parametrize("names", [(), ("concat", "concat"), ("hadamard", "x")])
def test_comparators_are_an_ordered_choice(names):
    with pytest.raises(ValueError, match="comparator_list"):
        dataclasses.replace(CONFIG, comparator_list=names)


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        ("hcnn", {"enc_dim": 14, "layers": 4}, "needs a multiple"),
        ("bilstm", {"enc_dim": 13}, "needs an even number"),
        ("pooled_embedding", {"enc_dim": 13}, "must be equal"),
        ("pooled_embedding", {"cnn_padding": 0}, "cnn_padding is for hcnn alone, not for pooled"),
        ("bilstm", {"cnn_padding": 1}, "cnn_padding is for hcnn alone, not for bilstm"),
        ("hcnn", {"cnn_padding": 3}, "cnn_padding is 3; .* from 0 to 2"),
        ("hcnn", {"cnn_padding": -1}, "cnn_padding is -1"),
        ("hcnn", {"cnn_padding": True}, "cnn_padding is True"),
        ("hcnn", {"reads_padding": True}, "reads_padding is for bilstm alone, not for hcnn"),
        ("pooled_embedding", {"reads_padding": True}, "reads_padding is for bilstm alone"),
        ("bilstm", {"reads_padding": 1}, "reads_padding must be true or false"),
    ],
)
def test_an_encoders_values_have_to_go_together(network, changes, message):
    with pytest.raises(ValueError, match=message):
        encoder(network, **changes)


def test_pooled_vectors_may_be_as_long_as_any():
    assert encoder("pooled_embedding", enc_dim=10_000, token_embedding_dim=10_000).layers == 0


def test_what_an_encoder_does_not_use_does_not_tell_models_apart():
    for network in ("pooled_embedding", "bilstm"):
        assert encoder(network, cnn_filter_width=5) == encoder(network)
    assert encoder("pooled_embedding", layers=3) == encoder("pooled_embedding")
    assert encoder("hcnn", cnn_filter_width=5) != encoder("hcnn")


def test_the_usual_padding_of_convolutions_has_one_spelling():
    for width in range(1, 10):
        usual = encoder("hcnn", cnn_filter_width=width)
        assert encoder("hcnn", cnn_filter_width=width, cnn_padding=width // 2) == usual
        assert (usual.cnn_padding, usual.num_zeros) == (None, width // 2)
    assert encoder("hcnn", cnn_padding=2).num_zeros == 2 != encoder("hcnn").num_zeros
    assert encoder("bilstm").num_zeros == encoder("pooled_embedding").num_zeros == 0


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize(("width", "padding"), [(2, 0), (3, 0), (4, 1), (9, 0), (9, 3), (9, 4)])
def test_the_longest_sequence_leaves_the_convolutions_something(layers, width, padding):
    def positions(length):
        return [length + layer * (2 * padding - width + 1) for layer in range(1, layers + 1)]

    shape = {"layers": layers, "cnn_filter_width": width, "cnn_padding": padding}
    shortest = next(n for n in range(1, 99) if min(positions(n)) >= 1)
    assert encoder("hcnn", **shape, max_seq_len=shortest).min_seq_len == shortest
    if shortest > 1:
        with pytest.raises(ValueError, match=f"max_seq_len is .* need {shortest}"):
            encoder("hcnn", **shape, max_seq_len=shortest - 1)


def test_both_vectors_are_of_one_length():
    with pytest.raises(ValueError, match="enc_dim is 12 in encoder 0, 16 in 1"):
        ModelConfig((encoder("hcnn"), encoder("hcnn", enc_dim=16)))


@pytest.mark.parametrize("name", ["vocab_size", "token_embedding_dim", "padding_id"])
def test_tied_encoders_share_what_a_table_is(name):
    other = dataclasses.replace(BILSTM, **{name: 9})
    assert ModelConfig((BILSTM, other))
    with pytest.raises(ValueError, match=f"{name} is .* share one table"):
        ModelConfig((BILSTM, other), tied_token_embedding_weight=True)
    assert ModelConfig((BILSTM, BILSTM), tied_token_embedding_weight=True)


def test_a_model_has_two_encoders():
    with pytest.raises(ValueError, match="1 encoders"):
        ModelConfig((BILSTM,))


def test_a_regression_has_one_output():
    config = dataclasses.replace(CONFIG, output_layer="mean_squared_error", num_classes=7)
    assert config.num_classes == 1
    assert ModelConfig.from_json(config.to_json()) == config


@pytest.fixture
def folder(tmp_path):
    (tmp_path / CONFIG_FILE).write_text(StoredConfig(CONFIG, SHA).to_text())
    return tmp_path


def change(folder, edit):
    file = folder / CONFIG_FILE
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))


def refusal(folder):
    with pytest.raises(ModelError) as caught:
        StoredConfig.load(folder)
    assert str(folder / CONFIG_FILE) in str(caught.value)
    return str(caught.value)


def test_a_file_reads_back(folder):
    stored = StoredConfig.load(folder)
    assert stored == StoredConfig(CONFIG, SHA)
    assert ModelConfig.load(folder) == CONFIG
    document = json.loads((folder / CONFIG_FILE).read_text())
    assert document["format_version"] == 1
    assert document["weights_sha256"] == SHA
    assert document["model_hash"] == stored.model_hash


def test_every_value_is_in_the_hash():
    stored = StoredConfig(CONFIG, SHA)
    first, second = CONFIG.encoders
    others = [
        StoredConfig(CONFIG, "cd" * 32),
        StoredConfig(dataclasses.replace(CONFIG, mlp_layers=3), SHA),
        StoredConfig(dataclasses.replace(CONFIG, comparator_list=("hadamard", "concat")), SHA),
        StoredConfig(dataclasses.replace(CONFIG, encoders=(second, first)), SHA),
        *(
            StoredConfig(
                dataclasses.replace(CONFIG, encoders=(dataclasses.replace(first, **c), second)), SHA
            )
            for c in ({"max_seq_len": 29}, {"padding_id": 1}, {"out_of_range": "clip"})
        ),
    ]
    assert len({one.model_hash for one in [stored, *others]}) == len(others) + 1
    assert StoredConfig(ModelConfig.from_json(CONFIG.to_json()), SHA).model_hash == (
        stored.model_hash
    )


def test_settings_that_came_later_are_written_only_where_they_say_something():
    # The hash that version 0.1.0 gave, before it knew of them.
    assert StoredConfig(CONFIG, SHA).model_hash == (
        "ec61f24a5f34407c23371cdd3485b428d5ae904405d996b96603e0ca1d936c17"
    )
    later = {"cnn_padding", "reads_padding"}
    assert not any(later & set(side) for side in CONFIG.to_json()["encoders"])
    sides = encoder("hcnn", cnn_padding=0), encoder("bilstm", reads_padding=True)
    config = dataclasses.replace(CONFIG, encoders=sides)
    written = [later & set(side) for side in config.to_json()["encoders"]]
    assert written == [{"cnn_padding"}, {"reads_padding"}]
    assert ModelConfig.from_json(config.to_json()) == config
    hashes = {
        StoredConfig(dataclasses.replace(CONFIG, encoders=pair), SHA).model_hash
        for pair in (CONFIG.encoders, (sides[0], BILSTM), (CONFIG.encoders[0], sides[1]), sides)
    }
    assert len(hashes) == 4


def test_an_unknown_key_is_refused_by_name(folder):
    change(folder, lambda d: d.update(mlp_depth=3, zoo=1))
    assert "unknown in the model: mlp_depth, zoo" in refusal(folder)


def test_an_unknown_key_of_an_encoder_is_refused_by_name(folder):
    change(folder, lambda d: d["encoders"][1].update(width=3))
    assert "unknown in encoder 1: width" in refusal(folder)


def test_a_missing_key_is_refused_by_name(folder):
    change(folder, lambda d: d.pop("mlp_dim"))
    assert "missing in the model: mlp_dim" in refusal(folder)


@pytest.mark.parametrize("version", [2, "1", None, True])
def test_another_version_is_refused_by_name(folder, version):
    change(folder, lambda d: d.update(format_version=version, unknown=1))
    assert f"format_version is {version!r}; this program reads 1" in refusal(folder)


def test_a_wrong_value_is_refused(folder):
    change(folder, lambda d: d.update(mlp_dim=1))
    assert "mlp_dim is 1" in refusal(folder)


@pytest.mark.parametrize("key", ["encoders", "comparator_list", "weights_sha256"])
@pytest.mark.parametrize("value", [None, 3, "hadamard", {"a": 1}])
def test_a_value_of_another_type_is_refused(folder, key, value):
    change(folder, lambda d: d.update({key: value}))
    refusal(folder)


def test_an_edited_file_is_noticed(folder):
    change(folder, lambda d: d.update(mlp_activation="relu"))
    assert "was the file edited?" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x80"])
def test_another_kind_of_file_is_refused(folder, text):
    (folder / CONFIG_FILE).write_text(text, encoding="latin-1")
    refusal(folder)


def test_a_missing_file_is_refused(folder):
    (folder / CONFIG_FILE).unlink()
    assert "a model is a directory" in refusal(folder)
