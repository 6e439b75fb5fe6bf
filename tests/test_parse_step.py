"""Parse: every line is a record or a refusal, and blocks are split without losing order."""

from __future__ import annotations

import json
from itertools import pairwise

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as CheckedPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import ends, input_file, recipe, spans_of

from object2vec.tokens import TokenBatch
from transforms.manifest import Counts, Refusal, Span, Unit
from transforms.parse import (
    MAX_KEPT_RECORD_BYTES,
    MIN_RECORD_COST,
    ParseBlocks,
    TokenBlock,
    cost_of,
    describe,
    parse_block,
)
from transforms.read import Block

FILE = input_file(size=10_000)
SPAN = Span(FILE, 0, FILE.size)
KEEPING = {"on_bad_record": "dead_letter"}


def block(data: bytes, offset: int = 0, span: Span = SPAN, end=None) -> Block:
    return Block(Unit((span,)), span, offset, data, True, end)


def parsed(*blocks: Block, batch_tokens: int = 10**6, **changes) -> list[TokenBlock]:
    """One bundle."""
    fn = ParseBlocks(recipe(**changes), batch_tokens)._fn
    fn.start_bundle()
    return [made for each in blocks for made in fn.process(each)]


def ids_of(made: list[TokenBlock]) -> list[list[int]]:
    """The ids of each sequence."""
    found = []
    for each in made:
        starts = each.batch.starts_S1.tolist()
        values = each.batch.values_N.tolist()
        found += [values[a:b] for a, b in pairwise(starts)]
    return found


def test_a_block_becomes_tokens_with_their_counts():
    text = b'{"in0":[1,2]}\n{"in1":[3]}\n{"in0":[],"in1":[4]}\n{"in0":[5,6,7,8,9,1,2,3,4,5,6]}\n'
    (made,) = parsed(block(text, offset=100, end=ends()))
    assert ids_of([made]) == [[1, 2], [3], [], [4], [5, 6, 7, 8, 9, 1, 2, 3, 4, 5]]
    assert made.batch.offsets_R.tolist() == [100, 114, 126, 147]
    assert made.counts == Counts(lines=4, in0=2, in1=1, pair=1, truncated=1)
    assert (made.failed, made.refusals, made.ends_cell, made.end) == (None, (), True, ends())


def test_clipped_ids_are_counted():
    (made,) = parsed(block(b'{"in0":[100,-1,99]}\n'), clips=(True, True))
    assert ids_of([made]) == [[99, 100, 99]]  # 100: row 0, but not the padding id
    assert made.counts == Counts(lines=1, in0=1, clipped=2)


def test_an_empty_block_still_says_that_its_span_ends():
    (made,) = parsed(block(b"", end=ends(False)))
    assert made.batch.num_records == 0 and made.counts == Counts() and made.end == ends(False)


BAD = b'{"in0":[1]}\n\n{"in0":[2]}\nnonsense\n'


@pytest.mark.parametrize("policy", ["placeholder", "dead_letter"])
def test_with_a_place_for_refusals_the_others_go_on(policy):
    (made,) = parsed(block(BAD), on_bad_record=policy)
    assert ids_of([made]) == [[1], [2]] and made.failed is None
    assert [(r.offset, r.line, r.kind) for r in made.refusals] == [
        (12, 2, "blank"),
        (25, 4, "syntax"),
    ]
    assert made.counts == Counts(lines=4, in0=2, refused=2)


def test_the_first_refusal_fails_its_file_and_nothing_of_it_is_parsed_after():
    blocks = parsed(
        block(b'{"in0":[1]}\n'), block(BAD, 12), block(b"not even looked at", 60, end=ends())
    )
    assert [b.failed is None for b in blocks] == [True, False, False]
    assert blocks[1].failed.startswith("/in/a.jsonl: byte 24, $: ")
    assert blocks[2].failed == blocks[1].failed and blocks[2].refusals == ()
    assert ids_of(blocks) == [[1]] and len(blocks[1].refusals) == 1
    assert blocks[1].refusals[0].line == 3  # counted from the span's start
    assert blocks[2].counts == Counts()


def test_a_failed_file_does_not_fail_its_neighbours_nor_the_next_bundle():
    other = Span(input_file("b.jsonl"), 0, 100)
    good = b'{"in0":[1]}\n'
    fn = ParseBlocks(recipe(), 10**6)._fn
    fn.start_bundle()
    assert next(fn.process(block(b"?"))).failed is not None
    assert next(fn.process(block(good, span=other))).failed is None
    assert next(fn.process(block(good))).failed is not None
    fn.start_bundle()
    assert next(fn.process(block(good))).failed is None


def test_a_file_that_cannot_be_read_is_failed_by_its_end():
    (made,) = parsed(block(b'{"in0":[1]}\n', end=ends(failed="f: ends early")))
    assert made.failed == "f: ends early" and made.batch.num_records == 0
    assert made.counts.lines == 1


def test_a_refusal_is_told_before_what_came_later():
    (made,) = parsed(block(b"?\n", end=ends(failed="f: ends early")))
    assert "$: not JSON" in made.failed


def test_lines_are_counted_on_through_the_blocks_of_a_span_and_anew_in_the_next():
    first, second = spans_of(FILE, 5000)
    blocks = [
        block(b"{}\n" * 3, 0, first),
        block(b'{"in0":[1]}\n{}', 9, Span(FILE, 0, 5000)),  # an equal span, as after a copy
        block(b"{}\n", 5000, second),
    ]
    made = parsed(*blocks, on_bad_record="placeholder")
    assert [r.line for b in made for r in b.refusals] == [1, 2, 3, 5, 1]


def test_lines_are_counted_through_many_refusals_of_a_block():
    text = b"".join(b"\n" if i % 3 else b'{"in1":[1]}\n' for i in range(3000))
    (made,) = parsed(block(text, 777), on_bad_record="placeholder")
    assert [r.line for r in made.refusals] == [i + 1 for i in range(3000) if i % 3]


def test_dead_letters_carry_their_lines():
    text = b'{"in0":[1]}\n{"in0":["\xff"]}\nlast'
    (made,) = parsed(block(text), **KEEPING)
    assert [r.record for r in made.refusals] == ['{"in0":["\ufffd"]}', "last"]
    (made,) = parsed(block(text), on_bad_record="placeholder")
    assert [r.record for r in made.refusals] == [None, None]


@pytest.mark.parametrize(
    "size, kept", [(MAX_KEPT_RECORD_BYTES, True), (MAX_KEPT_RECORD_BYTES + 1, False)]
)
def test_dead_letters_carry_no_long_lines(size, kept):
    (made,) = parsed(block(b"x" * size + b"\n"), max_line_bytes=10**6, **KEEPING)
    assert made.refusals[0].record == ("x" * size if kept else None)


def document(*instances: str) -> bytes:
    return ('{"instances":[' + ",".join(instances) + "]}").encode()


def test_instances_of_a_document_have_paths_and_no_lines():
    text = document('{"in0":[1]}', '{"in0":[true]}', "7")
    (made,) = parsed(block(text, end=ends()), content_type="application/json", **KEEPING)
    found = [(r.path, r.line, r.record) for r in made.refusals]
    assert found == [("$.instances[1].in0[0]", 0, None), ("$.instances[2]", 0, None)]
    assert made.counts == Counts(lines=3, in0=1, refused=2)
    assert [r.offset for r in made.refusals] == [text.index(b'{"in0":[true'), text.index(b"7")]


@pytest.mark.parametrize("policy", ["fail_file", "placeholder", "dead_letter"])
def test_what_is_no_document_fails_its_file_whatever_the_policy(policy):
    settings = {"content_type": "application/json", "on_bad_record": policy}
    (made,) = parsed(block(b'{"in0":[1]}\n{"in0":[1]}\n', end=ends()), **settings)
    assert made.failed.startswith("/in/a.jsonl: ") and "jsonlines" in made.failed
    assert made.refusals == () and made.batch.num_records == 0


def test_a_refusal_in_words():
    refusal = Refusal(17, 2, "$.in0[3]", "type", "an id must be an integer")
    assert describe(refusal) == "byte 17, $.in0[3]: an id must be an integer"


def test_a_record_costs_its_ids_and_at_least_something():
    def cost(*sequences, kinds):
        batch = TokenBatch.build(sequences, kinds, range(len(kinds)))
        return cost_of(TokenBlock(Unit(()), SPAN, batch, (), Counts(), None, True, None))

    least = MIN_RECORD_COST
    assert cost(kinds=[]) == 1  # of an empty block, so that batches end
    assert cost([1], [2] * 50, kinds=[0, 1]) == least + 50
    assert cost([1], [1] * 30, [2] * 50, [], [], kinds=[1, 2, 2]) == least + 80 + least


lines = st.lists(
    st.sampled_from([b'{"in0":[%s]}', b'{"in1":[%s]}', b'{"in0":[1],"in1":[%s]}', b"bad"]),
    max_size=40,
)


@settings(deadline=None)
@given(lines, st.integers(1, 200), st.data())
def test_split_blocks_are_the_block(kinds, batch_tokens, data):
    text = b""
    for kind in kinds:
        ids = b",".join([b"7"] * data.draw(st.integers(0, 10)))
        text += (kind % ids if b"%" in kind else kind) + b"\n"
    (whole,) = parsed(block(text, 50, end=ends()), on_bad_record="placeholder")
    made = parsed(
        block(text, 50, end=ends()), batch_tokens=batch_tokens, on_bad_record="placeholder"
    )
    assert ids_of(made) == ids_of([whole])
    offsets = [b.batch.offsets_R.tolist() for b in made]
    assert [x for each in offsets for x in each] == whole.batch.offsets_R.tolist()
    assert tuple(r for b in made for r in b.refusals) == whole.refusals
    assert Counts.total(b.counts for b in made) == whole.counts
    assert [b.end for b in made] == [None] * (len(made) - 1) + [ends()]
    assert [b.ends_cell for b in made] == [False] * (len(made) - 1) + [True]
    for each in made:
        assert cost_of(each) <= batch_tokens or each.batch.num_records == 1
    # Refusals stay among the records they stood among: placeholders are merged by offset.
    for before, after in pairwise(made):
        last = max([*before.batch.offsets_R.tolist(), *(r.offset for r in before.refusals)])
        assert last < min([*after.batch.offsets_R.tolist(), *(r.offset for r in after.refusals)])


def test_parse_block_is_given_what_came_before():
    _, refusals, failed = parse_block(block(b"x\n", 70), 6, recipe())
    assert refusals[0].line == 7 and failed is not None


def test_the_step_counts_refusals():
    blocks = [block(BAD, end=ends())]
    with CheckedPipeline(runner="FnApiRunner") as pipeline:
        made = pipeline | beam.Create(blocks) | ParseBlocks(recipe(**KEEPING), 100)
        found = made | beam.Map(lambda b: json.dumps([r.line for r in b.refusals]))
        assert_that(found, equal_to(["[2, 4]"]))
    (counter,) = pipeline.result.metrics().query()["counters"]
    assert (counter.key.metric.name, counter.committed) == ("refused", 2)
