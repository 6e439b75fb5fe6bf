"""Damages artefacts of SageMaker in many ways, and checks that reading them stays civil.

A mutation is known by its name, `case/layer/number`: the number decides its kind, and the name
seeds all that is random in it. So a name is all that it takes to see it again:

    PYTHONPATH=. python -W error tests/fuzzing.py --keep=bad.tar.gz hcnn/params/17

As many as one likes run as `hcnn/params/0:1000`. `test_sagemaker_fuzz.py` runs this file in
processes of their own, without torch, so that their memory is that of the importer alone.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import random
import re
import resource
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from artefacts import BFloat16, RowSparse, golden, ndarray_list, tar_of, unpacked, zip_of
from graphs import Side, object2vec, random_arrays

from object2vec.errors import ModelError
from object2vec.sagemaker.importer import read_archive

PARTS = {"symbol": "symbol.json", "params": "params", "meta": "meta.json"}
LAYERS = ("gzip", "tar", "zip", *PARTS)

MAX_CPU_S = 1.0
MAX_WALL_S = 2.0
HANG_S = 20  # ends the process, also in the middle of C code
MAX_GROWTH_BYTES = 64_000_000
MAX_HONEST_TIMES = 3
ADDRESS_SPACE_BYTES = 2 << 30  # beyond what the process has at its start
MAX_FAILURES = 5
MAX_MESSAGE = 600  # letters, beside the archive's path


# Artefacts that are whole.


@dataclass(frozen=True, eq=False)
class Seed:
    """An honest artefact, layer by layer; `parts` by the names that `PARTS` gives them."""

    gzip: bytes
    tar: bytes
    zip: bytes
    parts: dict[str, bytes]

    def layer(self, layer: str) -> bytes:
        return self.parts[PARTS[layer]] if layer in PARTS else getattr(self, layer)

    def wrapped(self, layer: str, data: bytes) -> bytes:
        """A model.tar.gz with `data` in place of a layer; all sums around it are right."""
        if layer in PARTS:
            layer, data = "zip", zip_of({**self.parts, PARTS[layer]: data})
        if layer == "zip":
            layer, data = "tar", tar_of({"model_algo-1": data})
        return stored_gzip(data) if layer == "tar" else data


def stored_gzip(data: bytes) -> bytes:
    """gzip that does not compress, because that would take most of the time."""
    packer = zlib.compressobj(0, wbits=31)
    return packer.compress(data) + packer.flush()


def deflated_gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(6, wbits=31)
    return packer.compress(data) + packer.flush()


def golden_seed(case: str) -> Seed:
    """One of MXNet's own."""
    path = golden(case) / "model.tar.gz"
    with tarfile.open(path) as archive:
        member = archive.extractfile("model_algo-1")
        assert member is not None
        inner = member.read()
    packed = path.read_bytes()
    return Seed(packed, zlib.decompress(packed, wbits=31), inner, unpacked(case))


LENGTHS = {"training_parameters": {"enc0_max_seq_len": "24", "enc1_max_seq_len": "9"}}


def made_seed(case: str) -> Seed:
    """One made by hand: small, with what the golden ones do not have."""
    spec, version, graph = {
        "hcnn": (Side("hcnn", layers=3), "V3", {"style": "param"}),
        "bilstm": (Side("bilstm", dim=5, state_size=3), "V0", {"style": "attr"}),
        "tied": (Side(vocab_size=99), "V2", {"tied": True, "output": "softmax"}),
    }[case]
    arrays = random_arrays(spec, **graph)
    if case == "tied":
        table = arrays["embed_shared_weight"]
        rows = np.arange(1, len(table), 3)
        arrays["embed_shared_weight"] = RowSparse(table[rows], rows, table.shape)
        arrays["mlp_fc0_weight"] = arrays["mlp_fc0_weight"].astype(np.float16)
        arrays["mlp_fc1_weight"] = BFloat16(arrays["mlp_fc1_weight"])
        arrays["mlp_fc1_bias"] = arrays["mlp_fc1_bias"].astype(np.float64)
    parts = {
        "meta.json": json.dumps(LENGTHS).encode(),
        "symbol.json": json.dumps(object2vec(spec, **graph), indent=2).encode(),
        "params": ndarray_list(arrays, version),
    }
    inner = zip_of(parts)
    outer = tar_of({"model_algo-1": inner}, tarfile.PAX_FORMAT)
    return Seed(deflated_gzip(outer), outer, inner, parts)


MADE = ("hcnn", "bilstm", "tied")


@functools.cache
def seed_of(case: str) -> Seed:
    return made_seed(case) if case in MADE else golden_seed(case)


# Kinds of damage. Each gets the bytes and the places where a format keeps its numbers.

Hot = Sequence[tuple[int, int]]


def hot_places(layer: str, data: bytes) -> Hot:
    """Half of all damage goes there: in the rest, which is weights, it would mean little."""
    size = len(data)
    if layer == "gzip":
        return [(0, 12), (size - 8, size)]
    if layer == "tar":
        return [(0, 512), (100, 160), (size - 10240, size)]
    if layer == "zip":
        return [(found.start(), found.start() + 64) for found in re.finditer(rb"PK[\1-\6]", data)]
    if layer == "params":
        heads = [found.start() - 1 for found in re.finditer(rb"\xfa\x93\xf9", data)]
        names = data.index(b"arg:") - 16
        return [(0, 64), (names, size), *((at, at + 56) for at in heads)]
    return [(0, size)]


def place(rng: random.Random, data: bytes, hot: Hot) -> int:
    if rng.random() < 0.5:
        return rng.randrange(len(data))
    low, high = rng.choice(hot)
    return min(max(rng.randrange(low, high), 0), len(data) - 1)


def length(rng: random.Random, most: int) -> int:
    """Short ones are as likely as long ones."""
    return min(most, int(2 ** rng.uniform(0, 14)))


def flip(rng: random.Random, data: bytes, hot: Hot, layer: str) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 16))):
        changed[place(rng, data, hot)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(rng: random.Random, data: bytes, hot: Hot, layer: str) -> bytes:
    changed = bytearray(data)
    start = place(rng, data, hot)
    for at in range(start, min(len(data), start + rng.choice((1, 1, 2, 4, 8, 300)))):
        changed[at] = rng.choice((0, 255, 0x7F, 0x80))
    return bytes(changed)


def boundary(rng: random.Random, bits: int, true: int) -> int:
    """A number that may be one too many, in so many bits."""
    top = 1 << bits
    near = (true - 1, true + 1, true + 8, 2 * true, true // 2, -true, true * 1000)
    edges = (0, 1, 2, 7, -1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63)
    return rng.choice((*near, *edges, top - 1)) % top


def integers(rng: random.Random, data: bytes, hot: Hot, layer: str) -> bytes:
    """A number in binary; in JSON, one of digits."""
    if layer in ("symbol", "meta"):
        found = rng.choice(list(re.finditer(rb"[0-9]+", data)))
        value = boundary(rng, 64, int(found[0])) * rng.choice((1, 1, -1))
        return data[: found.start()] + str(value).encode() + data[found.end() :]
    width = rng.choice((2, 4, 8))
    # Numbers are aligned to what is before them, and most of them to 4 bytes.
    at = min(place(rng, data, hot), len(data) - width)
    at = at - at % 4 if rng.random() < 0.5 else at
    if layer == "tar" and rng.random() < 0.3:  # the size, in 12 bytes: octal, or binary
        number = boundary(rng, 64, int(data[124:135], 8))
        field = rng.choice((b"%011o\0" % number, b"\x80" + number.to_bytes(11, "big")))
        return data[:124] + field[-12:] + data[136:]
    value = boundary(rng, 8 * width, int.from_bytes(data[at : at + width], "little"))
    return data[:at] + value.to_bytes(width, "little") + data[at + width :]


def cut(rng: random.Random, data: bytes, hot: Hot, layer: str) -> bytes:
    return data[: place(rng, data, hot)]


def insert(rng: random.Random, data: bytes, hot: Hot, layer: str) -> bytes:
    at, count = place(rng, data, hot), length(rng, len(data))
    new = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count), b" " * count))
    return data[:at] + new + data[at:]


def delete(rng: random.Random, data: bytes, hot: Hot, layer: str) -> bytes:
    at = place(rng, data, hot)
    return data[:at] + data[at + length(rng, len(data) - at) :]


def duplicate(rng: random.Random, data: bytes, hot: Hot, layer: str) -> bytes:
    """Doubles a range where it stands, or writes it over another place."""
    at = place(rng, data, hot)
    count = length(rng, len(data) - at)
    part = data[at : at + count]
    if rng.random() < 0.5:
        return data[:at] + part + data[at:]
    to = place(rng, data, hot)
    return data[:to] + part + data[to + count :]


def splice(rng: random.Random, data: bytes, hot: Hot, layer: str) -> bytes:
    """Puts in a part of another artefact, or all of it."""
    other = seed_of(rng.choice(MADE)).layer(rng.choice((layer, layer, layer, *LAYERS)))
    if rng.random() < 0.2:
        return other
    at = place(rng, data, hot)
    start = rng.choice((min(at, len(other) - 1), rng.randrange(len(other))))
    part = other[start : start + length(rng, len(other))]
    return data[:at] + part + data[at + rng.choice((0, len(part))) :]


_MARK = "\ue000"  # in no artefact; stands for text that no object can be written as


def of_json(rng: random.Random, data: bytes, hot: Hot, layer: str) -> bytes:
    """Another JSON: what a writer with bad intent would write, not what a disk does."""
    document = json.loads(data)
    holder, key = rng.choice(list(spots(document)))
    change = rng.choice((numbered, worded, nested, doubled, removed, moved, repeated, retyped))
    raw = change(rng, document, holder, key)
    text = json.dumps(document, indent=rng.choice((None, 2)))
    return text.replace(json.dumps(_MARK), raw or "0").encode()


def spots(value: object) -> Iterator[tuple[dict | list, str | int]]:
    """Every place in a document, as its holder and its key there."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in pairs:
        yield value, key
        if isinstance(part, dict | list):
            yield from spots(part)


def numbered(rng, document, holder, key):
    old = holder[key]
    digits = re.search(r"[0-9]+", str(old))
    number = boundary(rng, 64, int(digits[0]) if digits else 1) * rng.choice((1, 1, -1))
    if isinstance(old, str) and digits:  # "(3,)"
        holder[key] = old.replace(digits[0], str(number), 1)
        return None
    holder[key] = _MARK
    odd = ("1e999", "-0", "1e-400", "NaN", "Infinity", "9" * 5000, "1" + "0" * 300, "1.5", "0x10")
    return rng.choice((str(number), str(number), f'"{number}"', *odd))


def worded(rng, document, holder, key):
    """Another string; often one that stands elsewhere in the document."""
    others = [part[k] for part, k in spots(document) if isinstance(part[k], str)]
    odd = ("", "\0", "\ud800", "é\n\x1b[2J", "a" * 100_000, "()", "[[1]]", "None", "True", "1e400")
    strings = [(part, k) for part, k in spots(document) if isinstance(part[k], str)]
    if strings and rng.random() < 0.8:
        holder, key = rng.choice(strings)
    holder[key] = rng.choice(others if others and rng.random() < 0.6 else odd)


def nested(rng, document, holder, key):
    depth = length(rng, 100_000) * rng.choice((1, 1, 30))
    inner = json.dumps(holder[key])
    holder[key] = _MARK
    if rng.random() < 0.5:
        return "[" * depth + inner + "]" * depth
    return '{"a":' * depth + inner + "}" * depth


def doubled(rng, document, holder, key):
    """A key twice in one object, with another value the second time."""
    objects = [(part, k) for part, k in spots(document) if isinstance(part, dict)]
    holder, key = rng.choice(objects)
    values = [part[k] for part, k in objects]
    first, second = holder[key], rng.choice((holder[key], rng.choice(values), None, []))
    holder[key] = _MARK
    return f"{json.dumps(first)}, {json.dumps(key)}: {json.dumps(second)}"


def removed(rng, document, holder, key):
    del holder[key]


def moved(rng, document, holder, key):
    """Two values of one holder change places, as nodes or attributes."""
    other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key], holder[other] = holder[other], holder[key]


def repeated(rng, document, holder, key):
    count = length(rng, 12_000)
    text = json.dumps(holder[key])
    if isinstance(holder, list):
        holder[key] = _MARK
        return ",".join([text] * min(count, 2_000_000 // len(text) + 1))
    old, holder[key] = holder[key], _MARK
    return ", ".join([json.dumps(old), *(f'"{i}": {text[:99_999]}' for i in range(min(count, 99)))])


def retyped(rng, document, holder, key):
    holder[key] = rng.choice((None, True, False, [], {}, "", 0, [holder[key]], str(holder[key])))


Kind = Callable[[random.Random, bytes, Hot, str], bytes]
KINDS: dict[str, Kind] = {
    "flip": flip,
    "set": set_bytes,
    "integers": integers,
    "cut": cut,
    "insert": insert,
    "delete": delete,
    "duplicate": duplicate,
    "splice": splice,
}


def kinds_of(layer: str) -> dict[str, Kind]:
    """JSON three times: no other damage reaches as deep."""
    if layer in ("symbol", "meta"):
        return KINDS | {"json": of_json, "json 2": of_json, "json 3": of_json}
    return KINDS


@dataclass(frozen=True)
class Mutation:
    """A damaged artefact. Equal names give equal bytes."""

    case: str
    layer: str
    number: int

    def __str__(self) -> str:
        return f"{self.case}/{self.layer}/{self.number}"

    @property
    def kind(self) -> str:
        kinds = list(kinds_of(self.layer))
        return kinds[self.number % len(kinds)].partition(" ")[0]

    def data(self) -> bytes:
        rng = random.Random(str(self))
        seed = seed_of(self.case)
        whole = seed.layer(self.layer)
        hot = hot_places(self.layer, whole)
        function = of_json if self.kind == "json" else KINDS[self.kind]
        damaged = whole
        while damaged == whole:
            damaged = function(rng, whole, hot, self.layer)
        if self.layer == "tar" and rng.random() < 0.7:
            damaged = with_checksum(damaged)
        return seed.wrapped(self.layer, damaged)


def with_checksum(tar: bytes) -> bytes:
    """The first header's sum made right, so that what it says is believed."""
    if len(tar) < 512:
        return tar
    total = sum(tar[:148]) + 8 * 32 + sum(tar[156:512])
    return tar[:148] + b"%06o\0 " % total + tar[156:]


# Reading them.


class Uncivil(Exception):
    """A mutation was neither read nor refused as it should be."""


def read(path: Path, scratch: Path) -> bool:
    """Whether an artefact is accepted.

    Raises:
      Uncivil: it is refused in a way that helps nobody, or leaves something behind.
      Exception: any other than ModelError is what this file looks for.
    """
    try:
        with read_archive(path, scratch) as imported:
            for name, array in imported.weights.items():
                if array.dtype != np.float32 or not array.flags.c_contiguous:
                    raise Uncivil(f"{name} is {array.dtype}, or not contiguous")
                np.count_nonzero(array)  # reads all of it
            for _, facts in imported.sections:
                for fact in facts:
                    if not fact.isprintable():
                        raise Uncivil(f"on the model card: {fact!r}")
        accepted = True
    except ModelError as error:
        check_message(str(error), path)
        accepted = False
    if os.listdir(scratch):
        raise Uncivil(f"left in scratch: {os.listdir(scratch)}")
    return accepted


def check_message(text: str, path: Path) -> None:
    if not text.startswith(f"{path}: ") or text.count(str(path)) != 1:
        raise Uncivil(f"does not name the archive, once: {text[:999]!r}")
    if not text.isprintable() or len(text) > len(str(path)) + MAX_MESSAGE:
        raise Uncivil(f"is not one short line: {len(text)} letters, {text[:999]!r}")


def clocked(path: Path, scratch: Path) -> tuple[bool, float]:
    """`read`, and the time it took; a slow one gets a second chance, as machines are noisy."""
    for attempt in range(2):
        cpu, wall = time.process_time(), time.monotonic()
        accepted = read(path, scratch)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        if cpu <= MAX_CPU_S and wall <= MAX_WALL_S:
            return accepted, cpu
        if attempt:
            raise Uncivil(f"took {cpu:.2f} s of computing, {wall:.2f} s by the clock")
    raise AssertionError


def memory(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{key}:")[2].split()[0])


def forget_peak() -> None:
    """From now on VmHWM is the peak since now. Source: proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


def run(mutations: Sequence[Mutation], folder: Path) -> dict:
    """Reads them all, and reports: counts, failures, the slowest and the largest."""
    path, scratch = folder / "model.tar.gz", folder / "scratch"
    scratch.mkdir()
    for case in {mutation.case for mutation in mutations}:  # what is loaded late is no growth
        path.write_bytes(seed_of(case).gzip)
        if not read(path, scratch):
            raise AssertionError(f"{case} is refused before it is damaged")
    gc.collect()
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + ADDRESS_SPACE_BYTES,) * 2)
    base, num_files = memory("VmRSS"), len(os.listdir("/proc/self/fd"))
    counts: Counter[str] = Counter()
    started = time.monotonic()
    failures: list[str] = []
    slowest, largest = (0.0, ""), (0, "")
    with (folder / "now").open("wb", buffering=0) as now:
        for mutation in mutations:
            data = mutation.data()
            path.write_bytes(data)
            honest = max(len(data), len(seed_of(mutation.case).tar))
            del data
            os.pwrite(now.fileno(), str(mutation).ljust(99).encode(), 0)
            signal.alarm(HANG_S)
            forget_peak()
            # Any exception is a finding; the loop goes on to find others.
            try:
                accepted, cpu = clocked(path, scratch)
                growth = memory("VmHWM") - base
                if growth > MAX_GROWTH_BYTES + MAX_HONEST_TIMES * honest:
                    raise Uncivil(f"took {growth:,} bytes for an artefact of {honest:,}")
            except Exception:
                text = traceback.format_exc()[-2000:]
                failures.append(f"{mutation} ({mutation.kind}): ...{text}")
                if len(failures) == MAX_FAILURES:
                    break
                continue
            verdict = "accepted" if accepted else "refused"
            counts[f"{mutation.layer}/{mutation.kind}/{verdict}"] += 1
            slowest = max(slowest, (cpu, str(mutation)))
            largest = max(largest, (growth, str(mutation)))
    signal.alarm(0)
    gc.collect()
    if len(os.listdir("/proc/self/fd")) > num_files:
        failures.append("some file stays open")
    if "torch" in sys.modules:
        failures.append("torch was imported")
    return {
        "counts": counts,
        "failures": failures,
        "slowest": slowest,
        "largest": largest,
        "base": base,
        "seconds": time.monotonic() - started,
    }


def parsed(name: str) -> list[Mutation]:
    """`case/layer/number`, or `case/layer/start:stop`."""
    case, layer, numbers = name.split("/")
    start, _, stop = numbers.partition(":")
    return [Mutation(case, layer, i) for i in range(int(start), int(stop or int(start) + 1))]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", metavar="case/layer/number[:stop]")
    parser.add_argument("--keep", type=Path, help="write the first one to this file, only")
    parser.add_argument("--folder", type=Path, help="to work in; it must be empty")
    ours = parser.parse_args(argv)
    mutations = [mutation for name in ours.names for mutation in parsed(name)]
    if ours.keep is not None:
        ours.keep.write_bytes(mutations[0].data())
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(mutations, ours.folder or Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
