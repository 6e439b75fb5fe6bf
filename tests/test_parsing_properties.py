"""Every line is in exactly one of records and errors, whatever stands around it.

`judge` is a second opinion: the same rules, written for the json module.
"""

import json
import random
import re
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from object2vec.errors import RecordError
from object2vec.parsing import Limits, parse_document, parse_lines
from object2vec.refusals import MAX_REASON_CHARS

LIMITS = Limits((60, 600), (6, 9), (False, True), (0, 599))
VALID = [
    b'{"in0":[1,2,3]}',
    b'{"in0": [4, 5], "id": "a\\"b"}',
    b'{"in1":[6,700,8]}\r',
    b'{"in0":[9],"in1":[10,11]}',
    b'{"in1":[],"in0":[1,2,3,4,5,6,7,8]}',
    b'{"x":{"in0":[1],"y":[[],{}]},"in0":[0,-0]}',
    '{"text":"naïve \\u00e9 𝄞","in1":[1]}'.encode(),
]
MUTATIONS = [
    b"",
    b" \t\r",
    b"{}",
    b"null",
    b"[1,2]",
    b"1,2,3",
    b'{"in0":[1.0]}',
    b'{"in0":[true]}',
    b'{"in0":[null]}',
    b'{"in0":["1"]}',
    b'{"in0":[60]}',
    b'{"in0":[-1],"in1":[1]}',
    b'{"in0":[18446744073709551616]}',
    b'{"in0":[1],"in0":[2]}',
    rb'{"in0":[1],"\u0069n0":[2]}',
    b'{"in0":[1]}{"in0":[2]}',
    b'{"in0":[1]}\r{"in0":[2]}',
    b'{"in0":[1',
    b"]}",
    b'{"in0":[1],"x":"\xff"}',
    b'\xef\xbb\xbf{"in0":[1]}',
    b'{"in0":[1],"x":"\\ud800"}',
    b'{"in0":' + b"[" * 300 + b"]" * 300 + b"}",
    b'{"in0":[1],"x":NaN}',
    b'{"instances":[{"in0":[1]}]}',
]


def judge(line):
    """[[ids], [ids]] of an acceptable line (None for a side that is not there), or None."""

    def refuse(_):
        raise ValueError

    try:
        text = line.decode()
        pairs = json.loads(
            text, object_pairs_hook=tuple, parse_constant=refuse, parse_int=int, parse_float=float
        )
    except (ValueError, RecursionError):
        return None
    if text.startswith("\ufeff") or re.search("[\ud800-\udfff]", json_strings(pairs)):
        return None
    if not text.lstrip(" \t\r").startswith("{"):
        return None
    sides = []
    for side, (vocab, longest) in enumerate(zip((60, 600), (6, 9), strict=True)):
        values = [value for key, value in pairs if key == f"in{side}"]
        if len(values) > 1:
            return None
        if not values:
            sides.append(None)
            continue
        ids = values[0]
        if not isinstance(ids, list) or any(type(v) is not int for v in ids):
            return None
        if any(not -(2**63) <= v < 2**63 for v in ids):
            return None
        ids = ids[:longest]
        if side == 0 and any(not 0 <= v < vocab for v in ids):
            return None
        # As 599 is the padding id of in1, what is clipped to it is told from it as 600.
        sides.append([min(max(v, 0), vocab) for v in ids])
    return None if sides == [None, None] else sides


def json_strings(value):
    """All strings and keys of a value whose objects are tuples of pairs, in one string."""
    if isinstance(value, str):
        return value
    return "".join(map(json_strings, value)) if isinstance(value, list | tuple) else ""


def sides(batch):
    """The records of a batch as `judge` gives them."""
    out, sequences = [], iter(range(batch.num_sequences))
    for kind in batch.kinds_R.tolist():
        record = [None, None]
        for side in ((0,), (1,), (0, 1))[kind]:
            s = next(sequences)
            record[side] = batch.values_N[batch.starts_S1[s] : batch.starts_S1[s + 1]].tolist()
        out.append(record)
    assert next(sequences, None) is None
    return out


def everything(parsed):
    errors = [(e.kind, e.reason, e.path, e.offset) for e in parsed.errors]
    counts = (parsed.num_lines, parsed.num_truncated, parsed.num_out_of_range)
    return sides(parsed.batch), parsed.batch.offsets_R.tolist(), errors, counts


def joined(parts):
    """What `everything` gives of a block, out of what it gives of its parts."""
    *lists, counts = zip(*parts, strict=True)
    return *(list(chain(*part)) for part in lists), tuple(np.sum(counts, axis=0).tolist())


def starts_of(lines):
    return np.cumsum([0, *(len(line) + 1 for line in lines)]).tolist()


lines_of_a_file = st.lists(st.sampled_from(VALID) | st.sampled_from(MUTATIONS), max_size=12)


def test_the_second_opinion_knows_good_from_bad():
    assert all(judge(line) is not None for line in VALID)
    assert not any(judge(line) for line in MUTATIONS)


@settings(max_examples=300, deadline=None)
@given(lines=lines_of_a_file, newline=st.booleans(), base=st.sampled_from([7, 2**40]))
def test_each_line_has_its_verdict_whatever_stands_around_it(lines, newline, base):
    newline = newline or not lines or lines[-1] == b""  # else the last line is not there
    block = b"\n".join(lines) + (b"\n" if newline and lines else b"")
    found = everything(parse_lines(block, base, LIMITS))
    starts = [base + start for start in starts_of(lines)]

    # As the second opinion has it, in order.
    expected = [judge(line) for line in lines]
    assert found[0] == [record for record in expected if record]
    assert found[1] == [s for s, record in zip(starts, expected, strict=False) if record]
    assert [e[3] for e in found[2]] == [
        s for s, record in zip(starts, expected, strict=False) if not record
    ]
    assert found[3][0] == len(lines) == len(found[1]) + len(found[2])

    # As each line alone has it; and as the careful way has it, which a bad line forces.
    alone = [parse_lines(x + b"\n", s, LIMITS) for x, s in zip(lines, starts, strict=False)]
    assert not lines or found == joined([everything(parsed) for parsed in alone])
    forced = everything(parse_lines(b"\n".join([*lines, b"x"]), base, LIMITS))
    assert (forced[:2], forced[2][:-1]) == (found[:2], found[2])


@settings(max_examples=100, deadline=None)
@given(lines=lines_of_a_file, cut=st.integers(0, 12))
def test_a_block_may_be_cut_at_any_line(lines, cut):
    head, tail = (b"".join(x + b"\n" for x in part) for part in (lines[:cut], lines[cut:]))
    parts = [parse_lines(head, 100, LIMITS), parse_lines(tail, 100 + len(head), LIMITS)]
    whole = everything(parse_lines(head + tail, 100, LIMITS))
    assert whole == joined([everything(part) for part in parts])


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(st.sampled_from(VALID) | st.sampled_from(MUTATIONS[2:13]), max_size=9))
def test_an_instance_has_the_verdict_of_its_line(lines):
    lines = [line for line in lines if line != b"1,2,3"]  # three instances
    document = parse_document(b'{"instances":[' + b",".join(lines) + b"]}", LIMITS)
    by_line = parse_lines(b"\n".join(lines), 14, LIMITS)
    assert sides(document.batch) == sides(by_line.batch)
    assert [(e.kind, e.reason) for e in document.errors] == [
        (e.kind, e.reason) for e in by_line.errors
    ]
    # A comma stands where the newline stood; white space around is not of the instance.
    assert document.batch.offsets_R.tolist() == by_line.batch.offsets_R.tolist()


PIECES = [
    *(bytes([byte]) for byte in b'{}[],:"\\ \t\r0129-.eEtn\x00\x0c\x7f\xc3\xa9\xff'),
    *(b'"in0"', b'"in1"', b"in0", b"[1]", b'"in0":[5],', b"\\u0069", b"\\ud800", b'\\"', b"1e5"),
    *(b"18446744073709551616", b"-0", b"true", b"null", b"\xef\xbb\xbf", b'"x":', b"]}", b"{}{}"),
]


def mutated(line, rng):
    for _ in range(rng.randint(0, 2)):
        at, length = rng.randint(0, len(line)), rng.choice([0, 0, 1, 1, 2, 5])
        piece = rng.choice(PIECES) if rng.random() < 0.8 else b""
        line = line[:at] + piece + line[at + length :]
    return line.replace(b"\n", b"")


def test_twenty_thousand_mutated_lines_are_judged_alike_on_every_way():
    rng = random.Random(3)
    num_accepted = num_refused = 0
    for _ in range(2000):
        lines = [mutated(rng.choice(VALID), rng) for _ in range(10)]
        starts = starts_of(lines)
        found = everything(parse_lines(b"".join(x + b"\n" for x in lines), 1, LIMITS))
        accepted = dict(zip(found[1], found[0], strict=True))
        for line, start in zip(lines, starts, strict=False):
            expected = judge(line)
            assert accepted.get(1 + start) == expected, line
            alone = parse_lines(line + b"\n", 1 + start, LIMITS)  # fast, where it is good
            assert sides(alone.batch) == ([expected] if expected else []), line
        for _, reason, _, _ in found[2]:
            assert reason.isprintable() and len(reason) <= MAX_REASON_CHARS
        num_accepted += len(found[0])
        num_refused += len(found[2])
    assert num_accepted > 3000 and num_refused > 3000, "both kinds must be well met"


def test_mutated_documents_are_refused_as_a_whole_or_give_their_instances():
    rng = random.Random(4)
    num_accepted = num_refused = 0
    for _ in range(3000):
        lines = [mutated(rng.choice(VALID), rng) for _ in range(rng.randint(0, 2))]
        document = b'{"instances": [' + b" ,".join([*lines, VALID[0]]) + b"]}"
        try:
            parsed = parse_document(document, LIMITS)
        except RecordError as error:
            assert error.kind == "document" and error.reason.isprintable()
            with pytest.raises(ValueError):
                refuse_halves(json.loads(document, parse_constant=refuse_halves))
            num_refused += 1
            continue
        instances = json.loads(document)["instances"]
        assert len(instances) == parsed.num_lines
        offsets = parsed.batch.offsets_R.tolist() + [e.offset for e in parsed.errors]
        for offset, instance in zip(sorted(offsets), instances, strict=True):
            assert json.JSONDecoder().raw_decode(document[offset:].decode())[0] == instance
        num_accepted += 1
    assert num_accepted > 500 and num_refused > 500, "both kinds must be well met"


def refuse_halves(value):
    """What json takes and JSON does not: NaN, and halves of surrogate pairs."""
    if isinstance(value, str):
        raise ValueError(value)
    if re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        raise ValueError("half a surrogate pair")
    return value
