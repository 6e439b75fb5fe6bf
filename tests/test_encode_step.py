"""Encode: one answer for each block, in order, and no NaN behind it. The engine is a fake."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as CheckedPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.shared import Shared
from jobs import save_model
from pieces import ends, input_file

from object2vec.errors import DeviceError, ModelError
from object2vec.probe import Probe
from object2vec.tokens import IN0, IN1, PAIR, TokenBatch
from object2vec.vectors import Encoded
from transforms import encode as encode_module
from transforms.board import Board, StopRequested
from transforms.encode import (
    BatchTokens,
    EncodedBlock,
    EncodeTokens,
    EngineSpec,
    LoadedEngine,
    refuse_rows,
)
from transforms.manifest import Counts, Refusal, Span, Unit
from transforms.parse import MIN_RECORD_COST, TokenBlock

SPAN = Span(input_file(size=1000), 0, 1000)


class LengthEngine:
    """An embedding is [length, first id]; a score [how much longer in0 is]. 13 brings bad luck."""

    num_oom_steps = 3

    def encode(self, batch):
        vectors = ([], [], [])
        starts = batch.starts_S1.tolist()
        sequences = iter(batch.values_N[a:b].tolist() for a, b in pairwise(starts))
        for kind in batch.kinds_R.tolist():
            ids = next(sequences)
            if kind == PAIR:
                vectors[kind].append([len(ids) - len(next(sequences))])
            else:
                vectors[kind].append([np.nan if 13 in ids else len(ids), ids[0] if ids else -1])
        widths = (2, 2, 1)
        matrices = [
            np.array(v, np.float32).reshape(len(v), w) for v, w in zip(vectors, widths, strict=True)
        ]
        return Encoded(batch.kinds_R, (matrices[0], matrices[1], matrices[2]))


class Loaded:
    """What LoadedEngine would be, with the engine above."""

    def __init__(self, _: EngineSpec) -> None:
        self.engine = LengthEngine()
        self.probe = Probe("digest", True, {})


@pytest.fixture(autouse=True)
def fake_engine(request, monkeypatch):
    if "real_engine" not in request.fixturenames:
        monkeypatch.setattr(encode_module, "LoadedEngine", Loaded)


@pytest.fixture
def real_engine():
    """Leaves LoadedEngine as it is."""


def block(sequences, kinds, offset=0, **changes) -> TokenBlock:
    counts = Counts(len(kinds), kinds.count(IN0), kinds.count(IN1), kinds.count(PAIR))
    batch = TokenBatch.build(sequences, kinds, [offset + 10 * i for i in range(len(kinds))])
    made = TokenBlock(Unit((SPAN,)), SPAN, batch, (), counts, None, True, None)
    return replace(made, **changes)


def started(policy="fail_file", board=None):
    fn = EncodeTokens(EngineSpec("m"), policy, board)._fn
    fn.setup()
    return fn


def rows_of(made: EncodedBlock) -> list[list[float]]:
    rows = [iter(matrix.tolist()) for matrix in made.encoded.vectors]
    return [next(rows[kind]) for kind in made.encoded.kinds_R.tolist()]


def test_blocks_come_back_one_for_one_and_in_order():
    blocks = [
        block([[5, 6], [7]], [IN0, IN1]),
        block([], []),
        block([[1, 2, 3], [4], [9]], [PAIR, IN0], offset=500, end=ends()),
    ]
    made = list(started().process(blocks))
    assert [rows_of(each) for each in made] == [[[2, 5], [1, 7]], [], [[2], [1, 9]]]
    assert [each.offsets_R.tolist() for each in made] == [[0, 10], [], [500, 510]]
    assert [each.tokens.end for each in made] == [None, None, ends()]
    assert all((each.digest, each.deterministic) == ("digest", True) for each in made)
    # The ids have done their work.
    assert all(each.tokens.batch.num_records == 0 for each in made)
    assert [each.tokens.counts for each in made] == [each.counts for each in blocks]


def test_a_batch_may_be_empty():
    assert list(started().process([])) == []


def test_a_record_alone_and_among_others_has_the_same_vector():
    first, second = block([[5, 6]], [IN0]), block([[7], [8, 8]], [IN1, IN1])
    fn = started()
    alone = [rows_of(next(fn.process([each]))) for each in (first, second)]
    assert alone == [rows_of(each) for each in fn.process([first, second])]


def test_a_vector_that_is_not_finite_fails_the_file():
    (made,) = started().process([block([[1], [13], [2]], [IN0, IN1, IN0])])
    assert made.tokens.failed.startswith("/in/a.jsonl: byte 10, $: its vector is not finite")
    assert rows_of(made) == [[1, 1], [1, 2]] and made.offsets_R.tolist() == [0, 20]
    assert made.tokens.counts == Counts(lines=3, in0=2, refused=1)


@pytest.mark.parametrize("policy", ["placeholder", "dead_letter"])
def test_a_vector_that_is_not_finite_becomes_a_refusal(policy):
    parsed = (Refusal(5, 2, "$", "blank", "a blank line"), Refusal(25, 5, "$", "blank", "another"))
    counts = Counts(lines=5, in0=3, refused=2, truncated=1)
    given = block([[1], [13], [2]], [IN0] * 3, refusals=parsed, counts=counts)
    (made,) = started(policy).process([given])
    assert made.tokens.failed is None
    assert [(r.offset, r.kind) for r in made.tokens.refusals] == [
        (5, "blank"), (10, "not_finite"), (25, "blank"),
    ]  # fmt: skip
    assert made.tokens.counts == Counts(lines=5, in0=2, refused=3, truncated=1)
    assert given.counts == Counts(lines=5, in0=3, refused=2, truncated=1)
    assert made.offsets_R.tolist() == [0, 20]


def test_rows_of_all_kinds_can_be_refused():
    encoded = LengthEngine().encode(
        TokenBatch.build([[1], [2], [3], [4], [5]], [IN0, PAIR, IN1, IN1], range(4))
    )
    given = block([], [], counts=Counts(lines=4, in0=1, in1=2, pair=1))
    made, left, offsets_R = refuse_rows(
        given, encoded, np.array([0, 10, 20, 30]), np.array([0, 1, 3]), "placeholder"
    )
    assert made.counts == Counts(lines=4, in1=1, refused=3)
    assert left.kinds_R.tolist() == [IN1] and offsets_R.tolist() == [20]
    assert [m.tolist() for m in left.vectors] == [[], [[1, 4]], []]
    assert [r.offset for r in made.refusals] == [0, 10, 30]


def test_a_file_that_failed_before_keeps_its_reason():
    (made,) = started().process([block([[13]], [IN0], failed="earlier")])
    assert made.tokens.failed == "earlier"


def test_progress_is_posted_and_a_wish_to_stop_is_heard(tmp_path):
    fn = started(board=str(tmp_path))
    list(fn.process([block([[1], [2]], [IN0, IN1])]))
    list(fn.process([block([[1]], [IN0])]))
    fn.finish_bundle()
    total = Board(str(tmp_path)).total()
    assert (total.encoded, total.oom_steps) == (3, 3)
    Board(str(tmp_path)).request_stop()
    with pytest.raises(StopRequested):
        list(fn.process([]))


def test_batches_hold_about_as_many_tokens_as_they_may_and_keep_the_order():
    blocks = [block([[1] * 40], [IN0], offset=i) for i in range(5)]
    assert MIN_RECORD_COST < 40
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        batches = pipeline | beam.Create([blocks]) | beam.FlatMap(list) | BatchTokens(100)
        offsets = batches | beam.Map(lambda batch: [int(b.batch.offsets_R[0]) for b in batch])
        assert_that(offsets | beam.Filter(bool), equal_to([[0, 1], [2, 3], [4]]))


def test_blocks_without_records_wait_for_no_one():
    blocks = [block([], [], end=ends())] * 3
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        step = EncodeTokens(EngineSpec("m"), "fail_file", None)
        made = pipeline | beam.Create([blocks]) | beam.FlatMap(list) | BatchTokens(100) | step
        assert_that(made | beam.Map(lambda b: b.tokens.end), equal_to([ends()] * 3))


@pytest.mark.usefixtures("real_engine")
def test_the_engine_is_made_as_the_spec_says(tmp_path):
    model = str(save_model(tmp_path / "m"))
    loaded = LoadedEngine(EngineSpec(model, "cpu", threads=2, max_seq_lens=(3, 4)))
    assert loaded.engine.max_seq_lens == (3, 4) and loaded.engine.device == "cpu"
    assert loaded.probe.deterministic and len(loaded.probe.digest) == 64
    with pytest.raises(ModelError, match=r"config\.json"):
        LoadedEngine(EngineSpec(str(tmp_path)))


@pytest.mark.usefixtures("real_engine")
def test_processes_load_a_model_once(tmp_path, monkeypatch):
    made = []

    class Counted(LoadedEngine):
        def __init__(self, spec):
            made.append(spec)
            super().__init__(spec)

    monkeypatch.setattr(encode_module, "LoadedEngine", Counted)
    spec, shared = EngineSpec(str(save_model(tmp_path / "m"))), Shared()
    steps = [encode_module._EncodeFn(spec, "fail_file", None, shared) for _ in range(3)]
    for step in steps:
        step.setup()
    assert made == [spec] and len({id(step._loaded) for step in steps}) == 1


@pytest.mark.usefixtures("real_engine")
def test_a_machine_that_rounds_is_told_and_refused_only_on_request(tmp_path, monkeypatch, caplog):
    unequal = Probe("digest", False, {"num_different": 7})
    monkeypatch.setattr("object2vec.engine.Engine.probe", lambda self: unequal)
    model = str(save_model(tmp_path / "m"))
    with caplog.at_level(logging.WARNING):
        assert not LoadedEngine(EngineSpec(model)).probe.deterministic
    assert "does not give equal bits" in caplog.text
    with pytest.raises(DeviceError, match=r"--require_determinism was given; .*'num_different': 7"):
        LoadedEngine(EngineSpec(model, require_determinism=True))
