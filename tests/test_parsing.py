"""Tables: what is a record, what is refused and in which words."""

import json
import pickle
import re
import time

import pytest

from object2vec.errors import RecordError
from object2vec.parsing import Limits, _at_once, parse_document, parse_lines
from object2vec.refusals import MAX_NESTING, MAX_REASON_CHARS, nesting, quote, refusal

STRICT = Limits((100, 1000), (5, 4), (False, False), (0, 0))
CLIP = Limits((100, 1000), (5, 4), (True, True), (7, 7))
GOOD = b'{"in0":[1,2]}'


def records(batch):
    """[(kind, [sequences])], the slow and obvious way."""
    out = []
    for r in range(batch.num_records):
        first, last = batch.first_sequence_of(r), batch.first_sequence_of(r + 1)
        parts = [
            batch.values_N[batch.starts_S1[s] : batch.starts_S1[s + 1]].tolist()
            for s in range(first, last)
        ]
        out.append((int(batch.kinds_R[r]), parts))
    return out


def verdict(line, limits=STRICT):
    """The record of one line, or its refusal; its neighbours must stay what they are."""
    parsed = parse_lines(GOOD + b"\n" + line + b"\n" + GOOD + b"\n", 1000, limits)
    assert parsed.num_lines == 3 == parsed.batch.num_records + len(parsed.errors)
    found = records(parsed.batch)
    assert found[0] == found[-1] == (0, [[1, 2]])
    assert parsed.batch.offsets_R[[0, -1]].tolist() == [1000, 1014 + len(line) + 1]
    if parsed.errors:
        assert parsed.errors[0].offset == 1014
        return parsed.errors[0]
    assert parsed.batch.offsets_R.tolist() == [1000, 1014, 1014 + len(line) + 1]
    return found[1]


ACCEPTED = {
    "in0": (b'{"in0":[3,4]}', (0, [[3, 4]])),
    "in1": (b'{"in1":[999]}', (1, [[999]])),
    "both": (b'{"in1":[1,2],"in0":[3]}', (2, [[3], [1, 2]])),
    "both and identical": (b'{"in0":[7],"in1":[7]}', (2, [[7], [7]])),
    "empty list": (b'{"in0":[]}', (0, [[]])),
    "padding id": (b'{"in0":[0,1,0]}', (0, [[0, 1, 0]])),
    "minus zero": (b'{"in0":[-0]}', (0, [[0]])),
    "last id": (b'{"in0":[99]}', (0, [[99]])),
    "white space": (b' { "in0" :\t[ 1 , 2 ] } \r', (0, [[1, 2]])),
    "CR as white space": (b'{"in0":\r[1]\r}\r', (0, [[1]])),
    "escaped key": (rb'{"\u0069n0":[5]}', (0, [[5]])),
    "extra keys": (b'{"id":"a","in0":[1],"n":null,"f":1e999,"b":[true,{}]}', (0, [[1]])),
    "huge extra integer": (b'{"in0":[1],"x":' + b"1" * 5000 + b"}", (0, [[1]])),
    "huge extra field": (b'{"in0":[1],"x":"' + b"a" * 10**6 + b'"}', (0, [[1]])),
    "deep extra field": (b'{"in0":[1],"x":' + b"[" * 199 + b"]" * 199 + b"}", (0, [[1]])),
    "broad extra field": (b'{"in0":[1],"x":[' + b"[]," * 999 + b"{}]}", (0, [[1]])),
    "brackets in a string": (b'{"in0":[1],"x":"' + b"[" * 999 + b'\\""}', (0, [[1]])),
    "key below": (b'{"in0":[1],"x":{"in0":["a"],"in1":2}}', (0, [[1]])),
    "key as a value": (b'{"in0":[1],"x":"in0"}', (0, [[1]])),
    "key of another case": (b'{"In0":["a"],"in0":[1]}', (0, [[1]])),
    "UTF-8": ('{"in0":[1],"ключ":"\u2028é𝄞"}'.encode(), (0, [[1]])),
    "quotes in text": (rb'{"in0":[1],"x":"a \"in0\" \n \\ \u00e9 b"}', (0, [[1]])),
    "NUL as an escape": (rb'{"in0":[1],"x":"\u0000"}', (0, [[1]])),
    "surrogate pair": (rb'{"in0":[1],"x":"\ud834\udd1e"}', (0, [[1]])),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name):
    line, expected = ACCEPTED[name]
    assert verdict(line) == expected


PNG = b"\x89PNG\r"
DEEP = MAX_NESTING  # one object around it makes it one too deep
REFUSED = {  # line, kind, path, words of the reason
    # reliability.md, "Differences that bite"
    "1.0": (b'{"in0":[1.0]}', "type", "$.in0[0]", "a fraction or an exponent: 1.0"),
    "1e2": (b'{"in0":[5,1e2]}', "type", "$.in0[1]", "must be an integer.*: 1e2"),
    "-0.0": (b'{"in1":[-0.0]}', "type", "$.in1[0]", "must be an integer.*: -0.0"),
    "true": (b'{"in0":[1,2,true]}', "type", "$.in0[2]", "not true or false: true"),
    "null id": (b'{"in0":[null]}', "type", "$.in0[0]", "integer, not null"),
    "1e400": (b'{"in0":[1e400]}', "type", "$.in0[0]", "must be an integer.*: 1e400"),
    "2^63": (b'{"in0":[9223372036854775808]}', "out_of_range", "$.in0[0]", "64 bits: 92233"),
    "2^64": (b'{"in0":[1,18446744073709551616]}', "out_of_range", "$.in0[1]", "64 bits: 184467"),
    "10^30": (b'{"in0":[1' + b"0" * 30 + b"]}", "out_of_range", "$.in0[0]", "64 bits: 1000"),
    "10^9999": (b'{"in0":[1' + b"0" * 9999 + b"]}", "out_of_range", "$.in0[0]", "0000...$"),
    "-2^63-1": (b'{"in0":[-9223372036854775809]}', "out_of_range", "$.in0[0]", "64 bits: -9"),
    "in0 twice": (b'{"in0":[1],"in0":[2]}', "duplicate", "$.in0", "in0 stands there twice"),
    "in1 twice": (b'{"in1":[1],"in0":[1],"in1":[1]}', "duplicate", "$.in1", "in1"),
    "twice, escaped": (rb'{"in0":[1],"i\u006E0":[1]}', "duplicate", "$.in0", "in0"),
    "twice, e": (rb'{"in0":[1],"i\u006e0":[1]}', "duplicate", "$.in0", "in0"),
    "twice, 0": (rb'{"in\u0030":[1],"in0":[1]}', "duplicate", "$.in0", "in0"),
    "twice, 1": (rb'{"in\u0031":[1],"in1":[1]}', "duplicate", "$.in1", "in1"),
    "twice, one a float": (b'{"in0":[1.5],"in0":[7]}', "type", "$.in0[0]", "an exponent$"),
    "twice, both escaped": (rb'{"in\u0030":[1],"i\u006e0":[1]}', "duplicate", "$.in0", "in0"),
    "BOM inside": (b'\xef\xbb\xbf{"in0":[1]}', "syntax", "$", "start of a file only"),
    "bad UTF-8": (b'{"in0":[1],"x":"\xff"}', "encoding", "$", "not UTF-8 at byte 16"),
    "lone surrogate": (rb'{"in0":[1],"x":"\ud800"}', "syntax", "$", "without its other half"),
    "two documents": (GOOD + GOOD, "syntax", "$", 'something follows.*from byte 13: {"in0'),
    "two with a space": (GOOD + b" " + GOOD, "syntax", "$", "a line holds one record"),
    "two with a CR": (GOOD + b"\r" + GOOD, "syntax", "$", "something follows"),
    # I4, I6, I7
    "bad UTF-8 in in0": (b'{"in0":["\xc0\x80"]}', "encoding", "$", "byte 9"),
    "bad UTF-8 as a key": (b'{"in0":[1],"\xed\xa0\x80":1}', "encoding", "$", "byte 12"),
    "form feed": (b'{"in0":\x0c[1]}', "syntax", "$", r"invalid character at byte 7.*\\x0c"),
    "form feed alone": (b"\x0c", "syntax", "$", "byte 0"),
    "NUL": (b'{"in0":[1],"x":"\x00"}', "syntax", "$", "byte 16"),
    "NUL at the end": (GOOD + b"\x00", "syntax", "$", "byte 13"),
    "U+2028 as space": ('{"in0":\u2028[1]}'.encode(), "syntax", "$", "byte 7"),
    "blank": (b"", "blank", "$", "holds no record"),
    "blank with white space": (b" \t \r", "blank", "$", "holds no record"),
    # I9
    "too deep": (b'{"in0":[1],"x":' + b"[" * DEEP + b"]" * DEEP + b"}", "nesting", "$", "200"),
    "1,000 deep": (b'{"in0":[1],"x":' + b"[" * 1000 + b"]" * 1000 + b"}", "nesting", "$", "deep"),
    "100,000 deep": (b"[" * 10**5, "nesting", "$", "deep"),
    "1,000,000 deep": (b'{"x":' * 10**6, "nesting", "$", "deep"),
    "deep ids": (b'{"in0":' + b"[" * 500 + b"]" * 500 + b"}", "nesting", "$", "deep"),
    # I10, I11, I13, I14
    "key case": (b'{"In0":[1]}', "missing", "$", "case-sensitive"),
    "neither": (b'{"x":[1]}', "missing", "$", 'a record is {"in0"'),
    "key below only": (b'{"x":{"in0":[1]}}', "missing", "$", "at the top level"),
    "empty object": (b"{}", "missing", "$", "neither in0 nor in1"),
    "string id": (b'{"in0":["1"]}', "type", "$.in0[0]", 'not a string: "1"'),
    "NaN": (b'{"in0":[NaN]}', "syntax", "$", "byte 8: NaN"),
    "Infinity": (b'{"in0":[-Infinity]}', "syntax", "$", "byte 9"),
    "leading zero": (b'{"in0":[01]}', "syntax", "$", "invalid number"),
    "null": (b'{"in0":null}', "type", "$.in0", "in0 must be a list of integer ids, not null"),
    "scalar": (b'{"in0":10}', "type", "$.in0", "not a single number: 10"),
    "float scalar": (b'{"in1":1.5}', "type", "$.in1", "in1 must be a list"),
    "string": (b'{"in0":"hello"}', "type", "$.in0", 'not a string: "hello"'),
    "object": (b'{"in0":{"a":1}}', "type", "$.in0", "not an object"),
    "nested list": (b'{"in0":[[1,2]]}', "type", "$.in0[0]", r"not a list: \[1,2\]"),
    "one side null": (b'{"in0":[1],"in1":null}', "type", "$.in1", "not null"),
    "cut off": (b'{"in0":[1,2', "syntax", "$", "ends in the middle.*may not span lines"),
    "trailing comma": (b'{"in0":[1,]}', "syntax", "$", "trailing comma"),
    # I12
    "negative": (b'{"in0":[1,-1]}', "out_of_range", "$.in0[1]", r"in0\[1\] is -1.* 0 to 99;"),
    "vocabulary size": (b'{"in0":[100,-1]}', "out_of_range", "$.in0[0]", "is 100.*_ids=clip"),
    "of the other side": (b'{"in0":[7],"in1":[1000]}', "out_of_range", "$.in1[0]", "0 to 999;"),
    "2^32 + 1": (b'{"in0":[4294967297]}', "out_of_range", "$.in0[0]", "is 4294967297"),
    # I17, I18
    "document": (b'{"instances":[{"in0":[1]}]}', "missing", "$", "content_type=application/json"),
    "document's first line": (b'{"instances": [', "syntax", "$", "content_type=application/json"),
    "array of records": (b'[{"in0":[1]}]', "type", "$", "an object such as.*not a list.*a line"),
    "array of ids": (b"[1,2]", "type", "$", "not a list"),
    "CSV": (b"1,2,3", "type", "$", "CSV"),
    "CSV with a head": (b"id,text", "syntax", "$", "CSV"),
    "quoted CSV": (b'"a","b"', "type", "$", "CSV"),
    "bare number": (b"5", "type", "$", "not a single number$"),
    "Parquet": (b"PAR1\x15\x04\x15\xf0", "encoding", "$", "a Parquet file"),
    "PNG": (PNG, "encoding", "$", "byte 0; this looks like a PNG image"),
    "gzip": (b"\x1f\x8b\x08\x00", "encoding", "$", "gzip"),
    "UTF-16": ('\ufeff{"in0":[1]}'.encode("utf-16-le"), "encoding", "$", "UTF-16"),
    "control characters": (b'{"in0":["\\u001b[31m\x7f"]}', "type", "$.in0[0]", r"u001b.*\\x7f"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    line, kind, path, words = REFUSED[name]
    error = verdict(line)
    assert isinstance(error, RecordError), f"accepted: {error}"
    assert (error.kind, error.path) == (kind, path), error
    assert re.search(words, error.reason), error.reason
    assert error.reason.isprintable() and len(error.reason) <= MAX_REASON_CHARS
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.offset) == (str(error), 1014)


@pytest.mark.parametrize("line", [b"[" * 10**6, b'{"x":' * 10**6, b'"' + rb"\"" * 10**6])
def test_hostile_lines_are_refused_in_linear_time(line):
    assert nesting(b'"' + rb"\"[" * 10) == 0
    start = time.perf_counter()
    parsed = parse_lines(line, 0, STRICT)
    assert len(parsed.errors) == 1
    assert time.perf_counter() - start < 1  # quadratic takes minutes


def test_reasons_are_bounded_whatever_is_quoted():
    for ids in (b'"' + b"a" * 10**5 + b'"', b'"\xf0\x9d\x84\x9e\xc2\x9b"', "\u202e".encode()):
        error = verdict(b'{"in0":[' + ids + b"]}")
        assert len(error.reason) <= MAX_REASON_CHARS and error.reason.isascii()


def test_a_reason_cannot_write_into_a_terminal():
    reason = refusal("type", "\x1b[31m\n\x9b\u202eé" + "a" * 999).reason
    assert reason.startswith("\\x1b[31m\\n\\x9b\\u202eé") and reason.endswith("aaa...")
    assert len(reason) == MAX_REASON_CHARS and reason.isprintable()
    assert quote(b"\x1b\n\xff\xc3\xa9'") == r"\x1b\n\\xff\xe9'"
    assert quote(b"\x00" * 60) == r"\x00" * 14 + r"\..."


def test_a_byte_order_mark_is_taken_at_the_start_of_the_file_only():
    block = b"\xef\xbb\xbf" + GOOD + b"\n" + GOOD + b"\n"
    parsed = parse_lines(block, 0, STRICT)
    assert parsed.errors == [] and parsed.batch.offsets_R.tolist() == [0, 17]
    parsed = parse_lines(block, 5, STRICT)
    assert [e.offset for e in parsed.errors] == [5] and parsed.batch.offsets_R.tolist() == [22]
    assert parse_lines(b"\xef\xbb\xbf" * 2 + GOOD, 0, STRICT).errors[0].kind == "syntax"
    assert parse_lines(b"\xef\xbb\xbf\n", 0, STRICT).errors[0].kind == "blank"


@pytest.mark.parametrize(
    ("block", "num_records", "num_blank"),
    [
        (b"", 0, 0),
        (b"\n", 0, 1),
        (b"\n\n\n", 0, 3),
        (GOOD, 1, 0),
        (GOOD + b"\n", 1, 0),
        (GOOD + b"\r\n", 1, 0),
        (GOOD + b"\n\n", 1, 1),
        (GOOD + b"\n \n" + GOOD, 2, 1),
        (b"\n" + GOOD, 1, 1),
        (b"\r", 0, 1),
    ],
)
def test_lines_are_counted_as_they_stand(block, num_records, num_blank):
    parsed = parse_lines(block, 0, STRICT)
    assert parsed.batch.num_records == num_records
    assert [e.kind for e in parsed.errors] == ["blank"] * num_blank
    assert parsed.num_lines == num_records + num_blank


def test_a_line_may_be_as_long_as_the_limit_and_no_longer():
    lines = [b'{"in0":[1]}', b'{"in0":[1] }', b'{"in0":[12345678']
    parsed = parse_lines(b"\n".join(lines), 0, Limits((9, 9), (9, 9), (False, False), (0, 0), 11))
    assert parsed.batch.num_records == 1
    assert [(e.kind, e.offset) for e in parsed.errors] == [("too_long", 12), ("too_long", 25)]
    assert "more than 11 bytes" in parsed.errors[0].reason


def test_a_sequence_keeps_its_head_and_the_record_is_counted_once():
    line = b'{"in0":[1,2,3,4,5,6],"in1":[1,2,3,4,5]}\n{"in0":[1,2,3,4,5]}\n{"in1":[5,4,3,2,1]}'
    parsed = parse_lines(line, 0, STRICT)
    expected = [(2, [[1, 2, 3, 4, 5], [1, 2, 3, 4]]), (0, [[1, 2, 3, 4, 5]]), (1, [[5, 4, 3, 2]])]
    assert records(parsed.batch) == expected
    assert (parsed.num_truncated, parsed.num_out_of_range) == (2, 0)


def test_an_id_that_is_cut_off_cannot_refuse_its_record():
    parsed = parse_lines(b'{"in0":[1,2,3,4,5,1000,-1]}', 0, STRICT)
    assert records(parsed.batch) == [(0, [[1, 2, 3, 4, 5]])] and parsed.num_truncated == 1
    parsed = parse_lines(b'{"in0":[1,2,3,4,-5,1000]}', 0, CLIP)
    assert (records(parsed.batch), parsed.num_out_of_range) == ([(0, [[1, 2, 3, 4, 0]])], 1)


def test_ids_are_clipped_as_their_side_says():
    line = b'{"in0":[-5,100,99],"in1":[1000,999,9223372036854775807]}'
    parsed = parse_lines(line, 0, CLIP)
    assert records(parsed.batch) == [(2, [[0, 99, 99], [999, 999, 999]])]
    assert (parsed.errors, parsed.num_out_of_range) == ([], 4)
    parsed = parse_lines(line, 0, Limits((100, 1000), (5, 4), (True, False), (7, 7)))
    assert (parsed.batch.num_records, parsed.num_out_of_range) == (0, 0)
    assert parsed.errors[0].path == "$.in1[0]"


@pytest.mark.parametrize(
    ("padding_ids", "in0", "in1"),
    [
        ((0, 0), [100, 0, 3, 99, 99], [1000, 999]),
        ((99, 999), [0, 0, 3, 99, 100], [0, 1000]),
        ((3, 5), [0, 0, 3, 99, 99], [0, 999]),
    ],
)
def test_an_id_clipped_to_the_padding_id_stays_a_token(padding_ids, in0, in1):
    limits = Limits((100, 1000), (5, 4), (True, True), padding_ids)
    line = b'{"in0":[-1,0,3,99,100],"in1":[-9223372036854775808,1000]}'
    parsed = parse_lines(line, 0, limits)
    assert records(parsed.batch) == [(2, [in0, in1])]
    assert (parsed.num_out_of_range, parsed.batch.values_N.dtype) == (4, "int32")


def test_refused_records_do_not_count_nor_shift_others():
    block = (
        b'{"in0":[]}\n{"in0":[1,2,3,4,5,6],"in1":[1000]}\n{"in1":[]}\n{"in0":[-1,100,3]}\n' + GOOD
    )
    parsed = parse_lines(block, 7, Limits((100, 1000), (5, 4), (True, False), (7, 7)))
    assert records(parsed.batch) == [(0, [[]]), (1, [[]]), (0, [[0, 99, 3]]), (0, [[1, 2]])]
    assert (parsed.num_truncated, parsed.num_out_of_range, parsed.num_lines) == (0, 2, 5)
    assert [(e.offset, e.path) for e in parsed.errors] == [(18, "$.in1[0]")]


def test_ordinary_lines_take_the_fast_path_and_odd_ones_do_not():
    ordinary = [GOOD, b'{"in0":[1],"in1":[]}', b'{"in1":[1],"x":"\xc3\xa9\\n"}\r', GOOD]
    assert len(_at_once(ordinary, b"\n".join(ordinary), 99)) == 4
    for odd in (b"", b'{"in0":[1],"in0":[1]}', b"{}", b'{"in0":[1],"x":"\xff"}', b'{"in0":[1.0]}'):
        assert _at_once([GOOD, odd], GOOD + b"\n" + odd, 99) is None
    assert _at_once(ordinary, b"\n".join(ordinary), 21) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ((0, 9), (9, 9), (0, 0)),
        ((9, 2**31), (9, 9), (0, 0)),
        ((9, 9), (0, 9), (0, 0)),
        ((9, 9), (9, 9), (0, 0), 0),
        ((9, 9), (9, 9), (9, 0)),
        ((9, 9), (9, 9), (0, -1)),
    ],
)
def test_limits_out_of_their_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        Limits(*arguments[:2], (False, False), *arguments[2:])


# Documents


@pytest.mark.parametrize("head", ["", "\ufeff"])
def test_a_document_gives_its_instances_with_their_offsets(head):
    texts = ['{"in0":[1]}', ' {"in1": [2]} '.strip(), '{"in0":[3], "in1":[4], "x":"é"}', "{ }", "5"]
    document = (head + '{"name":"é", "instances" : [\n' + " ,\r\n ".join(texts) + "\n] }").encode()
    parsed = parse_document(document, STRICT)
    assert records(parsed.batch) == [(0, [[1]]), (1, [[2]]), (2, [[3], [4]])]
    offsets = [*parsed.batch.offsets_R.tolist(), *(e.offset for e in parsed.errors)]
    for offset, text in zip(offsets, texts, strict=True):
        assert document[offset:].startswith(text.encode())
    assert [(e.kind, e.path) for e in parsed.errors] == [
        ("missing", "$.instances[3]"),
        ("type", "$.instances[4]"),
    ]
    assert parsed.num_lines == 5


@pytest.mark.parametrize("instance", ['{"in0":[1,2.5]}', '{"in0":[1,100]}'])
def test_errors_of_instances_have_their_path(instance):
    document = f'{{"instances":[{{"in0":[0]}},{{"in0":[0],"in0":[0]}},{instance}]}}'
    parsed = parse_document(document.encode(), STRICT)
    assert [e.path for e in parsed.errors] == ["$.instances[1].in0", "$.instances[2].in0[1]"]


def test_a_document_without_instances_in_its_list_is_empty():
    parsed = parse_document(b'{"instances":[]}', STRICT)
    assert (parsed.num_lines, parsed.batch.num_records, parsed.errors) == (0, 0, [])


def test_the_word_instances_may_stand_elsewhere():
    document = rb'{"x":{"instances":1},"\u0069nstances":[{"in0":[1],"instances":[]}]}'
    assert parse_document(document, STRICT).batch.num_records == 1


NO_DOCUMENT = {
    "empty": (b"", "ends in the middle"),
    "bare record": (b'{"in0":[1]}', "content_type=application/jsonlines"),
    "JSON Lines": (GOOD + b"\n" + GOOD, "content_type=application/jsonlines"),
    "list": (b'[{"in0":[1]}]', r'expected {"instances":\[...\]}, not a list'),
    "no list": (b'{"instances":{"in0":[1]}}', "must be a list of records, not an object"),
    "null": (b'{"instances":null}', "not null"),
    "two documents": (b'{"instances":[]}\n{"instances":[]}', "more than one JSON document"),
    "no instances": (b'{"records":[]}', "no instances"),
    "twice": (b'{"instances":[],"instances":[]}', "instances stands there twice"),
    "twice, escaped": (rb'{"instances":[],"instance\u0073":[]}', "instances stands there twice"),
    "syntax": (b'{"instances":[{"in0":[1}]}', "not JSON: .* at byte 23: }]}"),
    "bad UTF-8": (b'{"instances":[{"in0":[1],"x":"\xff"}]}', "not UTF-8 at byte 30"),
    "lone surrogate": (rb'{"instances":["\udc00"]}', "without its other half"),
    "deep instance": (b'{"instances":[' + b"[" * 201 + b"]" * 201 + b"]}", "deep"),
    "deep elsewhere": (b'{"x":' + b"[" * 200 + b"]" * 200 + b',"instances":[5]}', "deep"),
    "too deep to decode": (b'{"instances":[' + b"[" * 10**5, "deep"),
    "gzip": (b"\x1f\x8b\x08", "not UTF-8 at byte 1"),
    "CSV": (b"a,b", "CSV"),
}


@pytest.mark.parametrize("name", NO_DOCUMENT)
def test_documents_that_cannot_be_used(name):
    document, words = NO_DOCUMENT[name]
    with pytest.raises(RecordError, match=words) as caught:
        parse_document(document, STRICT)
    assert caught.value.kind == "document" and caught.value.reason.isprintable()
    assert len(caught.value.reason) <= MAX_REASON_CHARS


def test_lines_and_documents_agree():
    lines = [v[0] for k, v in ACCEPTED.items()]
    by_line = parse_lines(b"\n".join(lines), 0, STRICT)
    document = parse_document(b'{"instances":[' + b",".join(lines) + b"]}", STRICT)
    assert records(document.batch) == records(by_line.batch)
    assert json.loads(lines[0])["in0"] == records(by_line.batch)[0][1][0]
