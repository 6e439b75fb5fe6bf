"""The engine: records of all kinds in place, threads, memory that runs out, devices."""

import itertools
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from definitions import encoder, model_of, some_sequences

from object2vec import DeviceError, ModelConfig, Object2Vec
from object2vec.device import Placement, choose_device, exact_numerics, placement
from object2vec.engine import Engine
from object2vec.probe import run_probe
from object2vec.tokens import IN0, IN1, PAIR, TokenBatch
from object2vec.vectors import Encoded

MIXED = (encoder("hcnn", max_seq_len=20), encoder("bilstm", max_seq_len=25))


def mixed_batch(count=60, seed=0):
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, count).tolist()
    flat = some_sequences(count + kinds.count(PAIR), longest=20, seed=seed)
    return TokenBatch.build(flat, kinds, range(count))


def sequences_of(batch):
    starts = batch.starts_S1.tolist()
    return [batch.values_N[a:b].tolist() for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize("sides", [MIXED, MIXED[::-1], (encoder("pooled_embedding"),) * 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_each_record_gets_what_it_gets_alone(sides, threads):
    model = model_of(*sides)
    batch = mixed_batch()
    encoded = Engine(model, device="cpu", threads=threads).encode(batch)
    assert encoded.kinds_R.tolist() == batch.kinds_R.tolist()
    rows = [iter(matrix) for matrix in encoded.vectors]
    flat = iter(sequences_of(batch))
    for kind in batch.kinds_R.tolist():
        if kind == PAIR:
            expected = model.score([next(flat)], [next(flat)])
        else:
            expected = model.encode([next(flat)], kind)
        assert next(rows[kind]).tobytes() == expected.tobytes()
    for matrix in encoded.vectors:
        assert matrix.dtype == np.float32
        assert matrix.flags.c_contiguous


@pytest.mark.parametrize("kinds", [[], [IN0] * 3, [IN1] * 3, [PAIR] * 3, [IN0, PAIR], [PAIR, IN1]])
def test_kinds_that_are_absent_give_empty_matrices(kinds):
    flat = [[1, 2]] * (len(kinds) + kinds.count(PAIR))
    encoded = Engine(model_of(*MIXED), device="cpu").encode(
        TokenBatch.build(flat, kinds, range(len(kinds)))
    )
    counts = [kinds.count(kind) for kind in (IN0, IN1, PAIR)]
    assert [m.shape for m in encoded.vectors] == list(zip(counts, (12, 12, 2), strict=True))


def test_a_batch_that_may_not_be_written_to_is_taken():
    batch = TokenBatch.of([[1, 0, 2], [3]], 0)
    batch.values_N.flags.writeable = False
    for network in ("pooled_embedding", "hcnn"):
        model = model_of(encoder(network))
        actual = Engine(model, device="cpu").encode(batch).vectors[0]
        assert actual.tobytes() == model.encode([[1, 0, 2], [3]]).tobytes()


@pytest.mark.parametrize("network", ["pooled_embedding", "hcnn", "bilstm"])
@pytest.mark.parametrize(
    ("ids", "message"),
    [([1] * 31, "has 31 ids, 30 are allowed"), ([1, 51], "between 1 and 51"), ([-1], "-1 and 3")],
)
def test_what_the_parser_should_have_seen_to_is_refused(network, ids, message):
    engine = Engine(model_of(encoder(network)), device="cpu")
    for side in (0, 1):
        with pytest.raises(ValueError, match=f"in{side} .*{message}"):
            engine.encode(TokenBatch.of([[3], ids], side))


def test_longest_lengths_are_those_of_each_side():
    model = model_of(*MIXED)
    engine = Engine(model, device="cpu", max_seq_lens=(40, 3))
    assert engine.encode(TokenBatch.of([[1] * 40], 0)).vectors[0].any()
    with pytest.raises(ValueError, match="in1 has 4 ids, 3 are allowed"):
        engine.encode(TokenBatch.of([[1] * 4], 1))
    # hcnn at its longest has no room for the padding that it would have with more.
    full = TokenBatch.of([[5] * 20], 0)
    default = Engine(model, device="cpu").encode(full).vectors[0]
    assert (engine.encode(full).vectors[0] != default).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"max_seq_lens": (0, 5)}, "max_seq_lens: 0"),
        ({"max_seq_lens": (5, 5001)}, "max_seq_lens: 5001"),
        ({"max_seq_lens": (5, 6)}, "encoder 1 cannot run at 6 positions; .* fewer than 7"),
        ({"preferred_mode": "x"}, "preferred_mode is 'x'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    shrinking = encoder("hcnn", layers=3, cnn_padding=0)
    with pytest.raises(ValueError, match=message):
        Engine(model_of(MIXED[0], shrinking), **{"device": "cpu", **arguments})
    Engine(model_of(MIXED[0], shrinking), device="cpu", max_seq_lens=(1, 7))


class FirstId(torch.nn.Module):
    """Gives the first id and the number of ids of each row; holds `max_rows` at most."""

    def __init__(self, max_rows=10**9):
        super().__init__()
        self.max_rows = max_rows
        self.shapes = []

    def forward(self, ids_MT, lengths_M):
        self.shapes.append(tuple(ids_MT.shape))
        if len(ids_MT) > self.max_rows:
            raise torch.OutOfMemoryError("no memory")
        return torch.stack([ids_MT[:, 0], lengths_M, lengths_M, lengths_M], 1).float()


class Sum(torch.nn.Module):
    """Gives the sum of both vectors' first numbers; holds `max_rows` at most."""

    def __init__(self, max_rows=10**9):
        super().__init__()
        self.max_rows = max_rows
        self.shapes = []

    def forward(self, u_MD, v_MD):
        self.shapes.append(tuple(u_MD.shape))
        if len(u_MD) > self.max_rows:
            raise torch.OutOfMemoryError("no memory")
        return u_MD[:, :1] + v_MD[:, :1]


def fake_engine(encoder0=None, scorer=None, threads=1):
    side = encoder("bilstm", enc_dim=4, max_seq_len=24)
    config = ModelConfig((side, side), output_layer="mean_squared_error")
    parts = (encoder0 or FirstId(), FirstId())
    model = Object2Vec(config, parts, scorer or Sum())
    return Engine(model, device="cpu", threads=threads)


def test_runs_have_canonical_shapes_whatever_is_in_them():
    fake = FirstId()
    batch = TokenBatch.of([[9]] * 513 + [[7] * 9, [8] * 20, []], 0)
    vectors = fake_engine(fake).encode(batch).vectors[0]
    assert sorted(fake.shapes) == [(168, 24), (256, 16), (512, 8), (512, 8)]
    assert vectors[:, 0].tolist() == [9] * 513 + [7, 8, 0]
    assert vectors[:, 1].tolist() == [1] * 513 + [9, 20, 0]


def test_the_scorer_runs_in_fixed_rows():
    fake = Sum()
    batch = TokenBatch.build([[3], [4]] * 257, [PAIR] * 257, range(257))
    assert fake_engine(scorer=fake).encode(batch).vectors[PAIR].tolist() == [[7]] * 257
    assert fake.shapes == [(256, 4)] * 2


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_halved_where_memory_runs_out_and_stay_so(threads):
    fake = FirstId(max_rows=100)
    engine = fake_engine(fake, threads=threads)
    sequences = [[i % 40 + 1] for i in range(600)]
    for _ in range(2):
        vectors = engine.encode(TokenBatch.of(sequences, 0)).vectors[0]
        assert vectors[:, 0].tolist() == [i % 40 + 1 for i in range(600)]
        assert engine.num_oom_steps == 3
        assert fake.shapes[-1] == (64, 8)
    assert {rows for rows, _ in fake.shapes} == {512, 256, 128, 64}
    assert fake.shapes.count((64, 8)) == 20  # ten runs each time


def test_the_scorers_rows_are_halved_too():
    fake = Sum(max_rows=32)
    engine = fake_engine(scorer=fake)
    batch = TokenBatch.build([[3], [4]] * 70, [PAIR] * 70, range(70))
    assert engine.encode(batch).vectors[PAIR].tolist() == [[7]] * 70
    assert engine.num_oom_steps == 3
    assert fake.shapes[-3:] == [(32, 4)] * 3


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_that_runs_out_at_8_rows_is_an_error(threads):
    fake = FirstId(max_rows=7)
    engine = fake_engine(fake, threads=threads)
    with pytest.raises(DeviceError, match=r"8 rows at a time, the fewest"):
        engine.encode(TokenBatch.of([[1], [2]] * 600, 0))
    assert min(fake.shapes) == (8, 8)
    assert engine.num_oom_steps == 6


@pytest.mark.parametrize("network", ["pooled_embedding", "hcnn"])
def test_fewer_rows_give_the_same_values(network):
    model = model_of(encoder(network))
    batch = TokenBatch.of([ids[:30] for ids in some_sequences(50)], 0)
    expected = Engine(model, device="cpu").encode(batch).vectors[0]
    engine = Engine(model, device="cpu")
    engine.num_oom_steps = 4
    np.testing.assert_allclose(engine.encode(batch).vectors[0], expected, atol=1e-5)


class Broken(FirstId):
    def forward(self, ids_MT, lengths_M):
        raise KeyError("broken")


@pytest.mark.parametrize("threads", [1, 2])
def test_another_error_comes_out_and_settings_are_set_back(threads):
    before = torch.get_num_threads()
    engine = fake_engine(Broken(), threads=threads)
    with pytest.raises(KeyError, match="broken"):
        engine.encode(TokenBatch.of([[1], [2] * 20] * 300, 0))
    assert torch.get_num_threads() == before


def test_after_an_error_no_thread_of_ours_is_at_work():
    class SlowOrBroken(FirstId):
        def forward(self, ids_MT, lengths_M):
            if ids_MT.shape[1] == 8:
                raise KeyError("broken")
            time.sleep(0.3)
            return super().forward(ids_MT, lengths_M)

    fake = SlowOrBroken()
    with pytest.raises(KeyError):
        fake_engine(fake, threads=2).encode(TokenBatch.of([[1], [2] * 20], 0))
    shapes_then = list(fake.shapes)
    time.sleep(0.4)
    assert fake.shapes == shapes_then


def test_operators_have_one_thread_inside_in_every_thread_of_ours():
    class Threads(FirstId):
        def forward(self, ids_MT, lengths_M):
            return torch.full((len(ids_MT), 4), float(torch.get_num_threads()))

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for threads in (1, 2):
            engine = fake_engine(Threads(), threads=threads)
            vectors = engine.encode(TokenBatch.of([[1]] * 5000, 0)).vectors[0]
            assert set(vectors.ravel().tolist()) == {1.0}
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_number_of_threads_that_another_thread_set_does_not_count():
    class Threads(FirstId):
        def forward(self, ids_MT, lengths_M):
            return torch.full((len(ids_MT), 4), float(torch.get_num_threads()))

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        other = threading.Thread(target=torch.set_num_threads, args=(3,))
        other.start()
        other.join()
        engine = fake_engine(Threads(), threads=2)
        vectors = engine.encode(TokenBatch.of([[1]] * 5000, 0)).vectors[0]
        assert set(vectors.ravel().tolist()) == {1.0}
    finally:
        torch.set_num_threads(before)


def test_precisions_are_exact_inside_and_as_before_outside():
    parts = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
    parts += [torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn]
    before = [part.fp32_precision for part in parts]
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with exact_numerics():
            assert [part.fp32_precision for part in parts] == ["ieee"] * 6
            assert torch.backends.cudnn.deterministic
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        assert not torch.backends.cudnn.deterministic
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before[3]
    assert [part.fp32_precision for part in parts] == before


def test_the_device_is_the_one_asked_for_or_none():
    assert choose_device("auto", True) == choose_device("cuda", True) == "cuda"
    assert choose_device("auto", False) == choose_device("cpu", True) == "cpu"
    with pytest.raises(DeviceError, match="torch sees no GPU"):
        choose_device("cuda", False)


def test_the_preferred_mode_decides_what_is_on_the_gpu():
    assert placement("embedding", "cuda") == Placement(encoders="cuda", scorer="cpu")
    for mode in ("classification", None):
        assert placement(mode, "cuda") == Placement(encoders="cuda", scorer="cuda")
    for mode in ("embedding", "classification", None):
        assert placement(mode, "cpu") == Placement(encoders="cpu", scorer="cpu")


@pytest.mark.parametrize("mode", ["embedding", "classification", None])
def test_both_kinds_are_answered_in_every_mode(mode):
    model, batch = model_of(*MIXED), mixed_batch()
    expected = Engine(model, device="cpu").encode(batch)
    actual = Engine(model, device="cpu", preferred_mode=mode).encode(batch)
    for one, other in zip(actual.vectors, expected.vectors, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_padded_bilstm_gives_each_record_what_it_gets_alone(threads, layers):
    side = encoder("bilstm", reads_padding=True, layers=layers)
    sequences = [ids[:20] for ids in some_sequences(700)]
    engine = Engine(model_of(side), device="cpu", threads=threads, max_seq_lens=(20, 20))
    actual = engine.encode(TokenBatch.of(sequences, 0)).vectors[0]
    for i in (0, 1, 511, 512, 699):
        alone = model_of(side).encode([sequences[i]], max_seq_len=20)
        assert actual[i].tobytes() == alone.tobytes()


@pytest.mark.parametrize("network", ["pooled_embedding", "hcnn", "bilstm"])
def test_the_probe_finds_equal_bits_and_repeats(network):
    model = model_of(encoder(network))
    one = Engine(model, device="cpu", threads=2).probe()
    other = Engine(model, device="cpu").probe()
    assert one.deterministic
    assert one.digest == other.digest
    assert re.fullmatch("[0-9a-f]{64}", one.digest)
    assert json.loads(json.dumps(one.details)) == one.details
    assert one.details["num_records"] == 144
    assert Engine(model_of(encoder(network), seed=9), device="cpu").probe().digest != one.digest


@pytest.mark.parametrize("kind", [IN0, IN1, PAIR])
def test_the_probe_finds_one_wrong_bit(kind):
    model = model_of(*MIXED)
    engine = Engine(model, device="cpu")

    def encode_wrongly(batch):
        encoded = engine.encode(batch)
        encoded.vectors[kind][3].view(np.int32)[1] ^= 1
        return Encoded(encoded.kinds_R, encoded.vectors)

    args = model.config, engine.max_seq_lens, "cpu"
    assert run_probe(engine.encode, engine.encode, *args).details["num_different"] == 0
    probe = run_probe(engine.encode, encode_wrongly, *args)
    # Row 3 may be that of a neighbour, which is compared with nothing.
    assert probe.deterministic is (probe.details["num_different"] == 0)
    assert run_probe(encode_wrongly, engine.encode, *args).details["num_different"] == 1


def test_the_probe_takes_models_of_the_shortest_sequences():
    probe = Engine(model_of(encoder("hcnn", max_seq_len=1)), device="cpu").probe()
    assert probe.deterministic


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("mode", ["embedding", "classification"])
@pytest.mark.parametrize("network", ["pooled_embedding", "hcnn", "bilstm", "padded bilstm"])
def test_a_gpu_says_the_same(network, mode):
    side = encoder(network.split()[-1], reads_padding=network.startswith("padded"))
    model, batch = model_of(side), mixed_batch()
    expected = Engine(model, device="cpu").encode(batch)
    actual = Engine(model, device="cuda", preferred_mode=mode).encode(batch)
    for one, other in zip(actual.vectors, expected.vectors, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_callers_of_one_engine_wait_for_one_another(monkeypatch):
    """torch's settings are those of the process: two callers would undo each other's."""
    engine = Engine(model_of(encoder("hcnn")), threads=1)
    inside, most = [], []
    encode = engine._encode

    def watched(batch):
        inside.append(batch)
        most.append(len(inside))
        try:
            return encode(batch)
        finally:
            inside.pop()

    monkeypatch.setattr(engine, "_encode", watched)
    batch = TokenBatch.of(some_sequences(vocab_size=50, longest=30), side=0)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(engine.encode, [batch] * 12))
    assert max(most) == 1 and torch.get_num_threads() == before
    assert all(np.array_equal(r.vectors[0], results[0].vectors[0]) for r in results)
