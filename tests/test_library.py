"""EncodeInstances in a pipeline of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import torch
from apache_beam.testing.test_pipeline import TestPipeline as CheckedPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from jobs import save_model

from object2vec.errors import RecordError
from object2vec.model import Object2Vec
from transforms.encode import EngineSpec
from transforms.instances import REJECTED, EncodeInstances, _EncodeInstancesFn


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def python(model) -> Object2Vec:
    return Object2Vec.load(model)


def plain(keyed):
    """A vector as a list, which `equal_to` can compare."""
    return keyed[0], keyed[1].tolist()


def test_records_of_all_kinds_come_back_under_their_keys(model, python):
    records = {
        "a": {"in0": [1, 2, 3]},
        "b": {"in1": (4, 5), "text": object()},
        "c": {"in0": np.array([1, 2]), "in1": []},
        ("d", 4): {"in0": [7] * 40},
        "e": {"in0": [1, 2, 3]},
    }
    one, two = python.encode([[1, 2, 3], [7] * 12]).tolist()
    expected = [
        ("a", one),
        ("b", python.encode([[4, 5]], side=1)[0].tolist()),
        ("c", python.score([[1, 2]], [[]])[0].tolist()),
        (("d", 4), two),
        ("e", one),
    ]
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        vectors = pipeline | beam.Create(list(records.items())) | EncodeInstances(str(model))
        assert_that(vectors | beam.Map(plain), equal_to(expected))


BAD = [
    (1, {"in0": [50]}, "$.in0[0]: "),
    (2, {}, "$: neither in0 nor in1"),
    (3, {"in0": [1.0]}, "$.in0[0]: an id must be an integer"),
    (4, {"in0": [True]}, "$.in0[0]: an id must be an integer"),
    (5, {"in0": "text"}, "$.in0: in0 must be a list of integer ids"),
    (6, {"in0": [2**70]}, "$.in0[0]: "),
    (7, None, "$: a record must be an object"),
    (8, [1, 2], "$: a record must be an object"),
    (9, {"in0": [object()]}, "$.in0[0]: an id must be an integer"),
    (10, {"in0": np.array(5)}, "$.in0: in0 must be a list of integer ids"),
    (11, {"in1": np.array([[1, 2]])}, "$.in1[0]: an id must be an integer"),
    (12, {"in0": b"ab"}, "$.in0: in0 must be a list of integer ids"),
    (13, {"in0": [float("nan")]}, "$.in0[0]: an id must be an integer"),
]


def test_bad_records_are_set_aside_with_their_keys_and_reasons(model):
    records = [(key, record) for key, record, _ in BAD]
    records.insert(5, ("good", {"in0": [1]}))
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(records) | EncodeInstances(str(model)).with_rejected()
        keys = found["encoded"] | beam.Keys()
        assert_that(keys, equal_to(["good"]), label="encoded")
        reasons = {key: reason for key, _, reason in BAD}
        starts = found[REJECTED] | beam.MapTuple(
            lambda key, why, reasons=reasons: (key, why[: len(reasons[key])])
        )
        assert_that(starts, equal_to(list(reasons.items())), label="rejected")


def test_without_a_place_for_it_a_bad_record_fails_the_pipeline(model):
    records = [("good", {"in0": [1]}), ("my key", {"in0": ["x"]})]
    told = pytest.raises(Exception, match=r"an id must be an integer.*\(key 'my key'\)")
    with told, CheckedPipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create(records) | EncodeInstances(str(model))


def vectors_of(transform: EncodeInstances, batches: list[list]) -> list:
    """What its DoFn gives, batch after batch, in this process."""
    fn = _EncodeInstancesFn(
        transform._spec, beam.utils.shared.Shared(), transform._out_of_range_ids, transform._rejects
    )
    fn.setup()
    return [result for batch in batches for result in fn.process(batch)]


def test_a_vector_depends_on_its_record_alone(model):
    records = [(i, {"in0": list(range(i % 13))}) for i in range(40)]
    step = EncodeInstances(str(model))
    together = [plain(keyed) for keyed in vectors_of(step, [records])]
    alone = [plain(keyed) for keyed in vectors_of(step, [[], *([record] for record in records)])]
    assert together == alone and len(together) == 40


def test_windows_and_small_batches_lose_nothing(model, python):
    records = [(i, {"in1": [i]}) for i in range(20)]
    expected = [(i, python.encode([[i]], side=1)[0].tolist()) for i in range(20)]
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        stamped = (
            pipeline
            | beam.Create(records)
            | beam.Map(lambda keyed: TimestampedValue(keyed, keyed[0]))
            | beam.WindowInto(FixedWindows(7))
        )
        vectors = stamped | EncodeInstances(str(model), batch_tokens=40)
        assert_that(vectors | beam.Map(plain), equal_to(expected))


def test_ids_outside_the_vocabulary_are_clipped_on_request(model, python):
    step = EncodeInstances(str(model), out_of_range_ids="clip")
    ((_, vector),) = vectors_of(step, [[("k", {"in0": [50, -3]})]])
    sides = [replace(side, out_of_range="clip") for side in python.config.encoders]
    clipping = replace(python.config, encoders=tuple(sides))
    expected = Object2Vec.from_weights(clipping, python.weights()).encode([[50, -3]])
    assert np.array_equal(vector, expected[0])
    with pytest.raises(RecordError, match=r"the vocabulary has ids 0 to 49.*\(key 'k'\)"):
        vectors_of(EncodeInstances(str(model)), [[("k", {"in0": [50]})]])
    with pytest.raises(ValueError, match="out_of_range_ids is 'wrap'"):
        EncodeInstances(str(model), out_of_range_ids="wrap")


def test_the_engines_settings_are_the_users(model, python):
    spec = EngineSpec("another model", max_seq_lens=(2, 5000), threads=2)
    step = EncodeInstances(str(model), spec=spec).with_rejected()
    ((_, vector),) = vectors_of(step, [[("k", {"in0": [1, 2, 3, 4]})]])
    assert np.array_equal(vector, python.encode([[1, 2]])[0])


def test_a_vector_that_is_not_finite_is_set_aside(tmp_path, python):
    weights = {name: tensor.clone() for name, tensor in python.weights().items()}
    weights["encoders.0.embedding"][7] = torch.nan
    Object2Vec.from_weights(python.config, weights).save(tmp_path / "m")
    records = [[("ok", {"in0": [1]}), ("bad", {"in0": [1, 7]}), ("fine", {"in1": [7]})]]
    step = EncodeInstances(str(tmp_path / "m"))
    with pytest.raises(RecordError, match=r"not finite \(key 'bad'\)"):
        vectors_of(step, records)
    first, bad, last = vectors_of(step.with_rejected(), records)
    assert (first[0], last[0]) == ("ok", "fine")
    assert (bad.tag, bad.value) == (REJECTED, ("bad", "$: its vector is not finite"))
