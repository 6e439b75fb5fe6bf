"""Archives of random networks: the imported model says what their graphs compute.

`executor` runs the graph itself, padded to the longest sequence, as MXNet would. It is
first held against the golden answers, which MXNet gave.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import artefacts
import executor
import graphs
import numpy as np
import pytest
from graphs import SIDES, Side, altered, node_of, object2vec, random_arrays

from object2vec import Engine, Object2Vec
from object2vec.errors import ModelError
from object2vec.tokens import PAIR, TokenBatch, clipped


def check(actual, expected):
    """Within the tolerance of the golden cases."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape and np.isfinite(expected).all()
    excess = np.abs(actual - expected) - (1e-5 + 1e-5 * np.abs(expected))
    rows = np.flatnonzero((excess > 0).any(axis=1)).tolist()
    assert not rows, f"records {rows} are off by up to {np.abs(actual - expected).max()}"


def read_lines(case, name):
    return [json.loads(line) for line in (artefacts.golden(case) / name).read_text().splitlines()]


@pytest.mark.parametrize("case", artefacts.GOLDEN)
def test_the_executor_gives_the_golden_answers(case):
    members = artefacts.unpacked(case)
    symbol, arrays = json.loads(members["symbol.json"]), executor.read_arrays(members["params"])
    facts = json.loads((artefacts.golden(case) / "case.json").read_text())
    answers = read_lines(case, "expected.jsonl")
    for record, answer in zip(read_lines(case, "input.jsonl"), answers, strict=True):
        inputs = {
            name: executor.padded([record[key]], length)
            for key, name, length in zip(("in0", "in1"), SIDES, facts["max_seq_len"], strict=True)
            if key in record
        }
        output = facts["embedding_outputs"]["in0" not in record]
        if len(inputs) == 2:
            output = facts["score_output"]
        (expected,) = answer.values()
        check(executor.run(symbol, arrays, inputs, output), np.array([expected]))


def test_the_executor_refuses_the_ids_that_mxnet_refuses():
    members = artefacts.unpacked("v2_pooled_tied_sparse")
    symbol, arrays = json.loads(members["symbol.json"]), executor.read_arrays(members["params"])
    for line in read_lines("v2_pooled_tied_sparse", "errors.jsonl"):
        record = line["input"]
        ids = {"source": record.get("in0", []), "target": record.get("in1", [])}
        inputs = {name: executor.padded([ids], 50) for name, ids in ids.items()}
        with pytest.raises(IndexError, match="out of bound"):
            executor.run(symbol, arrays, inputs)


# Random architectures


@pytest.fixture(scope="session", autouse=True)
def converted_once(tmp_path_factory):
    """No archive of these tests goes to the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OBJECT2VEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass(frozen=True, eq=False)
class Network:
    """What an archive holds, and the longest sequences it was trained for."""

    sides: tuple[Side, Side]
    symbol: dict
    arrays: dict[str, artefacts.Stored]
    max_lens: tuple[int, int]
    version: str = "V2"

    def values(self):
        return {k: a.dense() if hasattr(a, "dense") else a for k, a in self.arrays.items()}

    def load(self, folder):
        meta = {f"enc{side}_max_seq_len": str(n) for side, n in enumerate(self.max_lens)}
        file = folder / "model.tar.gz"
        content = {"training_parameters": meta}
        file.write_bytes(
            artefacts.model_tar_gz(self.symbol, self.arrays, content, version=self.version)
        )
        return Object2Vec.load(file)

    def inputs(self, side, sequences, length):
        padding_id = self.sides[side].padding_id
        return {SIDES[side]: executor.padded(sequences, length, padding_id)}

    def vectors(self, side, sequences, length):
        inputs = self.inputs(side, sequences, length)
        return executor.run(self.symbol, self.values(), inputs, f"vector_{side}")

    def scores(self, pairs, lengths):
        inputs = {}
        for side, sequences in enumerate(zip(*pairs, strict=True)):
            inputs |= self.inputs(side, sequences, lengths[side])
        return executor.run(self.symbol, self.values(), inputs, "out_layer")


def shortest(side):
    """The fewest positions of which a side's convolutions leave one."""
    lost = side.width - 1 - 2 * side.pad
    return 1 + side.layers * max(lost, 0) if side.network == "hcnn" else 1


def margin(side):
    """Positions beyond a sequence's end that its vector may depend on, about."""
    return side.layers * (side.width - 1) + 2 if side.network == "hcnn" else 3


NETWORKS = tuple(itertools.product(graphs.ENCODERS, repeat=2))
COMPARATORS = [
    order
    for count in (1, 2, 3)
    for order in itertools.permutations(("hadamard", "concat", "abs_diff"), count)
]
NUM_SEEDS = 45  # each pair of networks five times, each choice of comparators three times


def random_side(rng, network, enc_dim, **given):
    width = int(rng.integers(1, 10))
    layers = int(rng.integers(1, 5 if network == "hcnn" else 4))
    vocab_size = int(rng.integers(6, 60))
    values = {
        "network": network,
        "vocab_size": vocab_size,
        "dim": enc_dim if network == "pooled_embedding" else int(rng.integers(2, 20)),
        "layers": layers,
        "filters": enc_dim // layers,
        "width": width,
        "pad": int(rng.integers(0, width)),
        "state_size": enc_dim // 2,
        "padding_id": int(rng.choice([0, 0, 1, vocab_size - 1])),
        "op": str(rng.choice(["Embedding", "Embedding", "_contrib_SparseEmbedding"])),
        "bias": rng.random() < 0.8,
    }
    return Side(**{**values, **given})


def without_biases(symbol, arrays, rng):
    """Takes the bias from some dense layers."""
    for name in [node["name"] for node in symbol["nodes"] if node["op"] == "FullyConnected"]:
        if rng.random() < 0.2:
            node = node_of(symbol, name)
            node["inputs"].pop()
            node["attrs"]["no_bias"] = "True"
            del arrays[f"{name}_bias"]


def written_otherwise(symbol, rng):
    """Some operators by others that compute the same."""
    for node in list(symbol["nodes"]):
        name, turned = node["name"], {"(1, 2)": "(0, 2, 1)", "(0, 1)": "(1, 0, 2)"}
        if rng.random() < 0.5:
            continue
        if node["op"] == "SwapAxis":
            axes = turned[f"({node['attrs']['dim1']}, {node['attrs']['dim2']})"]
            symbol = altered(symbol, name, op="transpose", dim1=None, dim2=None, axes=axes)
        elif node["op"] == "Reshape":
            symbol = altered(symbol, name, op="expand_dims", shape=None, axis=2)
        elif name in ("safe_0", "safe_1"):
            (count, _, _), _ = node["inputs"]
            below = symbol["nodes"][count]["name"]
            symbol = altered(symbol, name, op="_maximum_scalar", inputs=[below], scalar="1")
        elif node["op"] in ("elemwise_mul", "elemwise_sub"):
            symbol = altered(symbol, name, op=node["op"].replace("elemwise", "broadcast"))
    return symbol


def of_moderate_size(arrays, rng):
    """So that no layer drowns another, and biases can be seen."""
    for name, array in arrays.items():
        if name.startswith("embed"):
            yield name, array
        elif name.endswith("_lstm_parameters"):
            # More, and an LSTM is chaotic: the last bit of a weight shows in the fifth digit.
            yield name, array * rng.uniform(0.15, 0.35)
        else:
            fan_in = np.prod(array.shape[1:]) if array.ndim > 1 else 4
            yield name, array * fan_in**-0.5


def as_stored(name, array, version, rng):
    """An array in some number format; a table perhaps as some of its rows."""
    array = array.astype(rng.choice(["float32", "float32", "float16", "float64"]))
    if not (name.startswith("embed") and version in ("V2", "V3") and rng.random() < 0.5):
        return array
    rows = np.flatnonzero(rng.random(len(array)) < 0.8)
    return artefacts.RowSparse(array[rows], rows, array.shape)


def random_network(seed):
    rng = np.random.default_rng(seed)
    dim = int(rng.choice([12, 24, 36]))
    networks = NETWORKS[seed % len(NETWORKS)]
    tied = rng.random() < 0.25
    first = random_side(rng, networks[0], dim)
    if tied and "pooled_embedding" in networks:
        first = random_side(rng, networks[0], dim, dim=dim)
    shared = ("vocab_size", "padding_id", "dim", "op")
    second = random_side(
        rng, networks[1], dim, **({name: getattr(first, name) for name in shared} if tied else {})
    )
    sides = first, second
    output = str(rng.choice(["SoftmaxOutput", "softmax", "LinearRegressionOutput"]))
    num_hidden = int(rng.integers(0, 4))
    about = {
        "comparators": COMPARATORS[seed % len(COMPARATORS)],
        "hidden": (int(rng.integers(2, 12)),) * num_hidden,
        "classes": 1 if output == "LinearRegressionOutput" else int(rng.integers(2, 7)),
        "tied": tied,
    }
    symbol = object2vec(
        *sides,
        **about,
        activation=str(rng.choice(["tanh", "relu", "linear"])),
        output=output,
        heads=[(), (), ("vector_1",), ("vector_0", "vector_1")][rng.integers(4)],
    )
    rng.shuffle(symbol["heads"])
    arrays = dict(of_moderate_size(random_arrays(*sides, **about, seed=seed), rng))
    without_biases(symbol, arrays, rng)
    symbol = graphs.in_style(written_otherwise(symbol, rng), graphs.STYLES[rng.integers(3)])
    version = str(rng.choice(["V0", "V1", "V2", "V2", "V2", "V3"]))
    return Network(
        sides,
        symbol,
        {name: as_stored(name, array, version, rng) for name, array in arrays.items()},
        tuple(shortest(side) + int(rng.integers(0, margin(side) + 20)) for side in sides),
        version,
    )


@cache
def network_of(seed):
    return random_network(seed)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    return cache(lambda seed: network_of(seed).load(tmp_path_factory.mktemp("archive")))


def random_sequences(rng, side, max_len):
    """Of all kinds of lengths, with padding inside and at the end, and ids out of range."""
    lengths = [0, 1, 2, 3, *range(max(max_len - margin(side), 0), max_len + 4)]
    lengths = [*lengths, *rng.integers(0, max_len + 4, 8)]
    sequences = []
    for length in rng.permutation(lengths)[:32]:
        ids = rng.integers(0, side.vocab_size, length)
        ids[rng.random(length) < 0.1] = side.padding_id
        if side.op == "Embedding":
            outside = rng.integers(-5, 0), -(2**20), side.vocab_size, side.vocab_size + 3, 2**20
            chosen = rng.random(length) < rng.choice([0, 0.15])
            ids[chosen] = rng.choice(outside, chosen.sum())
        if rng.random() < 0.3:
            ids[length - rng.integers(0, length + 1) :] = side.padding_id
        sequences.append(ids.tolist())
    padding, last = side.padding_id, side.vocab_size - 1
    return [*sequences, sequences[0], [padding], [padding] * 3, [last, padding, padding], [last]]


def sequences_of(seed, lengths):
    """Of both sides, as many of the one as of the other."""
    rng = np.random.default_rng([seed, *lengths])
    sides = network_of(seed).sides
    both = [random_sequences(rng, side, n) for side, n in zip(sides, lengths, strict=True)]
    count = min(map(len, both))
    return both[0][-count:], both[1][-count:]


def batch_of(model, records, max_lens):
    """Of (kind, sequences): as the parser makes it."""
    sequences = []
    for kind, parts in records:
        for side, ids in zip((0, 1) if kind == PAIR else (kind,), parts, strict=True):
            config, head = model.config.encoders[side], np.array(ids[: max_lens[side]], np.int64)
            sequences.append(clipped(head, config.vocab_size, config.padding_id).tolist())
    return TokenBatch.build(sequences, [kind for kind, _ in records], range(len(records)))


def answers(engine, model, records):
    """The answer to each record, a row of float32 each."""
    vectors = engine.encode(batch_of(model, records, engine.max_seq_lens)).vectors
    rows = [iter(matrix) for matrix in vectors]
    return [next(rows[kind]) for kind, _ in records]


SEEDS = range(NUM_SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_model_says_what_its_graph_computes(seed, model_of):
    network, model = network_of(seed), model_of(seed)
    both = sequences_of(seed, network.max_lens)
    for side, sequences in enumerate(both):
        expected = network.vectors(side, sequences, network.max_lens[side])
        check(model.encode(sequences, side), expected)
    check(model.score(*both), network.scores(list(zip(*both, strict=True)), network.max_lens))


def test_the_seeds_reach_every_kind_of_network():
    networks = [network_of(seed) for seed in SEEDS]
    sides = [side for network in networks for side in network.sides]
    hcnns = [side for side in sides if side.network == "hcnn"]
    nodes = [node for network in networks for node in network.symbol["nodes"]]
    values = [array for network in networks for array in network.arrays.values()]
    kinds = [type(array).__name__ for array in values]
    assert {tuple(s.network for s in n.sides) for n in networks} == set(NETWORKS)
    assert {s.layers for s in sides if s.network == "bilstm"} == {1, 2, 3}
    assert {s.layers for s in hcnns} == {1, 2, 3, 4} and {s.bias for s in hcnns} == {True, False}
    assert {s.width for s in hcnns} == set(range(1, 10))
    assert {s.padding_id == 0 for s in sides} == {s.op == "Embedding" for s in sides}
    assert {n.version for n in networks} == {"V0", "V1", "V2", "V3"}
    assert {len(n.symbol["heads"]) for n in networks} == {1, 2, 3}
    assert {"ndarray", "RowSparse"} == set(kinds)
    assert {a.dtype.name for a in values if isinstance(a, np.ndarray)} == {
        *("float16", "float32", "float64")
    }
    assert any("embed_shared_weight" in n.arrays for n in networks)
    assert any(
        n.sides[0].network != n.sides[1].network
        for n in networks
        if "embed_shared_weight" in n.arrays
    )
    assert {style for style in graphs.STYLES for node in nodes if style in node} == set(
        graphs.STYLES
    )
    assert {node["op"] for node in nodes} >= {
        *("SoftmaxOutput", "softmax", "LinearRegressionOutput", "transpose", "expand_dims"),
        *("_contrib_SparseEmbedding", "_maximum_scalar", "broadcast_sub"),
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_so_it_does_at_other_longest_sequences(seed, model_of):
    network, model = network_of(seed), model_of(seed)
    rng = np.random.default_rng(seed)
    least = [shortest(side) for side in network.sides]
    own = network.max_lens
    shorter = tuple(int(rng.integers(low, n + 1)) for low, n in zip(least, own, strict=True))
    longer = tuple(n + int(rng.integers(1, 40)) for n in own)
    for lengths in (tuple(least), shorter, longer, (shorter[0], longer[1])):
        engine = Engine(model, device="cpu", max_seq_lens=lengths)
        both = sequences_of(seed, lengths)
        pairs = list(zip(*both, strict=True))
        records = [(side, (ids,)) for side in (0, 1) for ids in both[side]]
        found = answers(engine, model, [*records, *((PAIR, pair) for pair in pairs)])
        count = len(pairs)
        for side, sequences in enumerate(both):
            expected = network.vectors(side, sequences, lengths[side])
            check(found[side * count : (side + 1) * count], expected)
        check(found[2 * count :], network.scores(pairs, lengths))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bits_are_the_same_whatever_stands_beside_a_record(seed, model_of):
    network, model = network_of(seed), model_of(seed)
    both = sequences_of(seed, network.max_lens)
    records = [(side, (ids,)) for side in (0, 1) for ids in both[side]]
    records += [(PAIR, pair) for pair in zip(*both, strict=True)]
    engine = Engine(model, device="cpu")
    together = [row.tobytes() for row in answers(engine, model, records)]
    order = np.random.default_rng(seed).permutation(len(records)).tolist()
    shuffled = answers(engine, model, [records[i] for i in order])
    assert [row.tobytes() for row in shuffled] == [together[i] for i in order]
    threaded = answers(
        Engine(model, device="cpu", threads=3), model, [records[i] for i in order] * 5
    )
    assert [row.tobytes() for row in threaded] == [together[i] for i in order] * 5
    for i in order[:9]:
        (alone,) = answers(engine, model, [records[i]])
        assert alone.tobytes() == together[i], records[i]


def test_encode_takes_any_length_that_its_own_encoder_can_run(model_of):
    """What the other encoder could not run is none of its business."""
    for seed in SEEDS:
        model = model_of(seed)
        lengths = [shortest(side) for side in network_of(seed).sides]
        both = sequences_of(seed, lengths)
        engine = Engine(model, device="cpu", max_seq_lens=tuple(lengths))
        for side, sequences in enumerate(both):
            expected = answers(engine, model, [(side, (ids,)) for ids in sequences])
            found = model.encode(sequences, side, max_seq_len=lengths[side])
            assert [row.tobytes() for row in found] == [row.tobytes() for row in expected]


@pytest.mark.parametrize("width", range(1, 10))
def test_convolutions_of_every_shape_see_the_padding_they_must(width, tmp_path):
    """Lengths where a run of fewer positions just about does; each layer, each pad."""
    rng = np.random.default_rng(width)
    shapes = [(layers, pad) for layers in (1, 2, 3, 4) for pad in range(width)]
    shapes += shapes[: len(shapes) % 2]
    for both in zip(shapes[::2], shapes[1::2], strict=True):
        sides = tuple(Side("hcnn", 20, 4, layers, 12 // layers, width, pad) for layers, pad in both)
        arrays = dict(of_moderate_size(random_arrays(*sides, seed=width), rng))
        arrays = {k: a * 0.3 if k.startswith("embed") else a for k, a in arrays.items()}
        margins = [side.layers * (width - 1) - side.pad + 1 for side in sides]
        steps = [next(step for step in (8, 16, 24, 32, 48) if step > m) for m in margins]
        lengths = tuple(max(shortest(s), 6 + t) for s, t in zip(sides, steps, strict=True))
        network = Network(sides, object2vec(*sides), arrays, lengths)
        model = network.load(tmp_path)
        for side, (step, outside) in enumerate(zip(steps, margins, strict=True)):
            exact = step - outside  # a run of `step` positions holds this many ids, and no more
            chosen = [0, 1, *[exact, exact + 1] * 3, lengths[side] - 1, lengths[side]]
            sequences = [rng.integers(1, 20, n).tolist() for n in chosen]
            sequences += [[id] * n for n in (exact, exact + 1) for id in (1, 2, 3)]
            check(model.encode(sequences, side), network.vectors(side, sequences, lengths[side]))


def test_ids_that_mxnet_refuses_are_refused_and_those_it_cuts_off_are_not(tmp_path):
    side = Side(op="_contrib_SparseEmbedding")
    network = Network((side, side), object2vec(side), random_arrays(side), (5, 5))
    model = network.load(tmp_path)
    for ids in ([50], [1, -1], [3, 0, 2**20]):
        with pytest.raises(IndexError, match="out of bound"):
            network.vectors(0, [ids], 5)
        with pytest.raises(ValueError, match="vocabulary has ids 0 to 49"):
            model.encode([ids])
    long = [[1, 2, 3, 4, 5, 50, -1]]
    check(model.encode(long, 1), network.vectors(1, long, 5))


def positions_of(model, side, sequences):
    """The lengths of the runs that a side's encoder makes of sequences, ascending."""
    lengths = []

    def note(module, inputs):
        lengths.append(inputs[0].shape[1])

    hook = model.encoders_on("cpu")[side].register_forward_pre_hook(note)
    model.encode(sequences, side)
    hook.remove()
    return sorted(lengths)  # threads take the runs


def test_one_lstm_layer_goes_as_far_as_a_record_and_two_through_all_the_padding(tmp_path):
    sides = Side("bilstm", layers=1), Side("bilstm", layers=2)
    arrays = dict(of_moderate_size(random_arrays(*sides), np.random.default_rng(0)))
    network = Network(sides, object2vec(*sides), arrays, (300, 300))
    model = network.load(tmp_path)
    sequences = [[1, 2, 3], [7] * 13, [4, 5] + [0] * 5, []]
    for side in (0, 1):
        check(model.encode(sequences, side), network.vectors(side, sequences, 300))
    assert positions_of(model, 0, sequences) == [8, 16]
    assert positions_of(model, 0, [[1] * 290]) == [300]
    assert positions_of(model, 1, sequences) == [300]


VALUES = ("0", "1", "2", "-1", "(1,)", "(2,)", "True", "relu", "tanh", "(0, 2, 1)", "(0, -1, 1)")


def changed(symbol, rng):
    """One node other than it was: an input, their order, an attribute or the operator."""
    symbol = copy.deepcopy(symbol)
    place = int(rng.choice([i for i, n in enumerate(symbol["nodes"]) if n["op"] != "null"]))
    node = symbol["nodes"][place]
    key = next((style for style in graphs.STYLES if style in node), None)
    match rng.integers(4):
        case 0 if node["inputs"]:
            entry = node["inputs"][rng.integers(len(node["inputs"]))]
            ops = [other["op"] for other in symbol["nodes"][:place]]
            alike = [i for i, op in enumerate(ops) if op == ops[entry[0]]]  # such as the other mask
            entry[0] = int(rng.choice(alike if rng.random() < 0.7 else place))
        case 1 if key and node[key]:
            node[key][str(rng.choice(list(node[key])))] = str(rng.choice(VALUES))
        case 2:
            node["op"] = str(rng.choice(executor.OPERATORS))
        case _:
            node["inputs"] = [node["inputs"][i] for i in rng.permutation(len(node["inputs"]))]
    return symbol


def says_what_it_computes(network, folder, rng):
    """Whether a network of a changed graph is taken; if so, for what it is."""
    try:
        model = network.load(folder)
    except ModelError:
        return False
    # What pads and what is out of range may have changed.
    sides = tuple(
        replace(side, padding_id=e.padding_id, op=OPS[e.out_of_range])
        for side, e in zip(network.sides, model.config.encoders, strict=True)
    )
    lengths = network.max_lens
    both = [random_sequences(rng, s, n) for s, n in zip(sides, lengths, strict=True)]
    pairs = list(zip(*both, strict=False))
    expected = replace(network, sides=sides).scores(pairs, lengths)
    check(model.score(*zip(*pairs, strict=True)), expected)
    return True


OPS = {"clip": "Embedding", "error": "_contrib_SparseEmbedding"}


def test_a_changed_graph_is_refused_or_computed_as_it_stands(tmp_path):
    """Never taken for another: of some changes the result is a network as good as any."""
    rng = np.random.default_rng(0)
    verdicts = Counter()
    for turn in range(400):
        network = network_of(turn % NUM_SEEDS)
        symbol = changed(network.symbol, rng)
        if symbol != network.symbol:
            verdicts[says_what_it_computes(replace(network, symbol=symbol), tmp_path, rng)] += 1
    assert min(verdicts[False], verdicts[True]) > 20, verdicts


def rewired(symbol):
    """Every copy in which one input is another node of the operator it was of."""
    for place, node in enumerate(symbol["nodes"]):
        for entry, (source, *_) in enumerate(node["inputs"]):
            for other, candidate in enumerate(symbol["nodes"][:place]):
                is_variable = candidate["op"] == "null"
                if (
                    other != source
                    and not is_variable
                    and candidate["op"] == symbol["nodes"][source]["op"]
                ):
                    copied = copy.deepcopy(symbol)
                    copied["nodes"][place]["inputs"][entry][0] = other
                    yield copied


@pytest.mark.parametrize("name", graphs.ENCODERS)
def test_an_input_taken_from_elsewhere_is_refused_or_computed_as_it_stands(name, tmp_path):
    rng = np.random.default_rng(0)
    sides = tuple(Side(name, layers=2, filters=6, padding_id=padding) for padding in (0, 3))
    arrays = dict(of_moderate_size(random_arrays(*sides, hidden=(8, 8)), rng))
    network = Network(sides, object2vec(*sides), arrays, (7, 7))
    assert says_what_it_computes(network, tmp_path, rng)
    verdicts = Counter(
        says_what_it_computes(replace(network, symbol=symbol), tmp_path, rng)
        for symbol in rewired(network.symbol)
    )
    assert verdicts[False] > 20, verdicts
