"""JSONTestSuite (nst/JSONTestSuite, MIT): 318 texts nobody here wrote, three ways each.

    (a) the text as a line      never a record, as none of them holds in0
    (b) {"in0":[1],"x":<text>}  a record exactly if the text is JSON
    (c) {"in0":<text>}          a record exactly if the text is a list of ids

Texts whose name begins with i_ are left open by the standard: what is done with them
is written down below, so that no update of a library changes it unseen.
"""

import json

from shared_files import shared

from object2vec.parsing import Limits, parse_lines

LIMITS = Limits((2**31 - 1,) * 2, (5000, 5000), (False, False), (0, 0))
GOOD = b'{"in0":[1,2]}'

OPEN = {  # in (b), in (c)
    "i_number_double_huge_neg_exp": ("accepted", "type"),
    "i_number_huge_exp": ("accepted", "type"),
    "i_number_neg_int_huge_exp": ("accepted", "type"),
    "i_number_pos_double_huge_exp": ("accepted", "type"),
    "i_number_real_neg_overflow": ("accepted", "type"),
    "i_number_real_pos_overflow": ("accepted", "type"),
    "i_number_real_underflow": ("accepted", "type"),
    "i_number_too_big_neg_int": ("accepted", "out_of_range"),
    "i_number_too_big_pos_int": ("accepted", "out_of_range"),
    "i_number_very_big_negative_int": ("accepted", "out_of_range"),
    "i_object_key_lone_2nd_surrogate": ("syntax", "type"),
    "i_string_1st_surrogate_but_2nd_missing": ("syntax", "syntax"),
    "i_string_1st_valid_surrogate_2nd_invalid": ("syntax", "syntax"),
    "i_string_UTF-16LE_with_BOM": ("encoding", "encoding"),
    "i_string_UTF-8_invalid_sequence": ("encoding", "encoding"),
    "i_string_UTF8_surrogate_U+D800": ("encoding", "encoding"),
    "i_string_incomplete_surrogate_and_escape_valid": ("syntax", "syntax"),
    "i_string_incomplete_surrogate_pair": ("syntax", "syntax"),
    "i_string_incomplete_surrogates_escape_valid": ("syntax", "syntax"),
    "i_string_invalid_lonely_surrogate": ("syntax", "syntax"),
    "i_string_invalid_surrogate": ("syntax", "syntax"),
    "i_string_invalid_utf-8": ("encoding", "encoding"),
    "i_string_inverted_surrogates_U+1D11E": ("syntax", "syntax"),
    "i_string_iso_latin_1": ("encoding", "encoding"),
    "i_string_lone_second_surrogate": ("syntax", "syntax"),
    "i_string_lone_utf8_continuation_byte": ("encoding", "encoding"),
    "i_string_not_in_unicode_range": ("encoding", "encoding"),
    "i_string_overlong_sequence_2_bytes": ("encoding", "encoding"),
    "i_string_overlong_sequence_6_bytes": ("encoding", "encoding"),
    "i_string_overlong_sequence_6_bytes_null": ("encoding", "encoding"),
    "i_string_truncated-utf-8": ("encoding", "encoding"),
    "i_string_utf16BE_no_BOM": ("encoding", "encoding"),
    "i_string_utf16LE_no_BOM": ("encoding", "encoding"),
    "i_structure_500_nested_arrays": ("nesting", "nesting"),
    "i_structure_UTF-8_BOM_empty_object": ("syntax", "syntax"),
    "number_-9223372036854775808": ("accepted", "out_of_range"),
    "number_-9223372036854775809": ("accepted", "out_of_range"),
    "number_1.0": ("accepted", "type"),
    "number_1.000000000000000005": ("accepted", "type"),
    "number_1000000000000000": ("accepted", "out_of_range"),
    "number_10000000000000000999": ("accepted", "out_of_range"),
    "number_1e-999": ("accepted", "type"),
    "number_1e6": ("accepted", "type"),
    "number_9223372036854775807": ("accepted", "out_of_range"),
    "number_9223372036854775808": ("accepted", "out_of_range"),
    "object_key_nfc_nfd": ("accepted", "type"),
    "object_key_nfd_nfc": ("accepted", "type"),
    "object_same_key_different_values": ("accepted", "type"),
    "object_same_key_same_value": ("accepted", "type"),
    "object_same_key_unclear_values": ("accepted", "type"),
    "string_1_escaped_invalid_codepoint": ("syntax", "syntax"),
    "string_1_invalid_codepoint": ("encoding", "encoding"),
    "string_2_escaped_invalid_codepoints": ("syntax", "syntax"),
    "string_2_invalid_codepoints": ("encoding", "encoding"),
    "string_3_escaped_invalid_codepoints": ("syntax", "syntax"),
    "string_3_invalid_codepoints": ("encoding", "encoding"),
    "string_with_escaped_NULL": ("accepted", "type"),
}


def verdicts(line):
    """Of the lines in `line`, usually one; what stands around them stays what it is."""
    parsed = parse_lines(b"\n".join([GOOD, line, GOOD]), 0, LIMITS)
    assert parsed.num_lines == 3 + line.count(b"\n")
    assert parsed.batch.num_records + len(parsed.errors) == parsed.num_lines
    assert parsed.batch.offsets_R[[0, -1]].tolist() == [0, len(GOOD) + len(line) + 2]
    accepted = ["accepted"] * (parsed.batch.num_records - 2)
    assert parsed.batch.values_N[[0, 1, -2, -1]].tolist() == [1, 2, 1, 2]
    return accepted + [e.kind for e in parsed.errors]


def is_list_of_ids(text):
    value = json.loads(text)
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**31 for v in value)


def in_fields(text):
    return verdicts(b'{"in0":[1],"x":' + text + b"}"), verdicts(b'{"in0":' + text + b"}")


def texts(folder, start):
    found = sorted(shared(f"corpora/json/{folder}").glob(f"{start}*.json"))
    return {path.name: path.read_bytes() for path in found}


def test_the_corpus_is_whole():
    counts = [len(texts("test_parsing", start)) for start in "yni"]
    assert counts == [95, 188, 35] and len(texts("test_transform", "")) == 22


def test_no_text_is_a_record_by_itself():
    for name, text in (texts("test_parsing", "") | texts("test_transform", "")).items():
        assert "accepted" not in verdicts(text), name


def test_valid_texts_are_accepted_as_extra_fields_and_as_lists_of_ids():
    num_lists = 0
    for name, text in texts("test_parsing", "y").items():
        line = text.replace(b"\n", b" ")  # white space: a string cannot hold a newline
        extra, ids = in_fields(line)
        assert extra == ["accepted"], name
        assert (ids == ["accepted"]) == is_list_of_ids(text), name
        assert verdicts(line)[0] in ("missing", "type"), name
        num_lists += ids == ["accepted"]
    assert num_lists > 5


def test_invalid_texts_are_refused():
    for name, text in texts("test_parsing", "n").items():
        extra, ids = in_fields(text)
        assert "accepted" not in extra + ids, name
        if b"\n" not in text:
            assert len(extra) == len(ids) == len(verdicts(text)) == 1, name


def test_open_texts_are_treated_as_written_down():
    found = {}
    for folder, start in (("test_parsing", "i"), ("test_transform", "")):
        for name, text in texts(folder, start).items():
            extra, ids = in_fields(text.rstrip(b"\n"))
            assert len(extra) == len(ids) == 1, name
            found[name.removesuffix(".json")] = (extra[0], ids[0])
    assert found == OPEN
