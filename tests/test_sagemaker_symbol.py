"""The text of a graph: all styles, and what is no graph."""

import json
import time

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from object2vec.errors import ModelError
from object2vec.sagemaker.attributes import Attributes, Refused
from object2vec.sagemaker.symbol import MAX_NODES, Node, parse_symbol

HCNN = graphs.Side("hcnn")


def parse(symbol):
    text = symbol if isinstance(symbol, bytes) else json.dumps(symbol).encode()
    return parse_symbol(text, "box!symbol.json")


def variable(name="x", **more):
    return {"op": "null", "name": name, "inputs": [], **more}


def graph_of(*nodes, heads=((0, 0, 0),), **more):
    return {"nodes": list(nodes), "arg_nodes": [0], "heads": [list(h) for h in heads], **more}


@pytest.mark.parametrize("style", graphs.STYLES)
def test_every_style_gives_the_same_graph(style):
    wanted = graphs.object2vec(HCNN)
    found = parse(graphs.in_style(wanted, style))
    assert [node.name for node in found.nodes] == [node["name"] for node in wanted["nodes"]]
    assert [dict(node.attrs) for node in found.nodes] == [
        n.get("attrs", {}) for n in wanted["nodes"]
    ]
    assert [list(node.inputs) for node in found.nodes] == [
        [(source, output) for source, output, _ in node["inputs"]] for node in wanted["nodes"]
    ]
    assert found.heads == ((len(wanted["nodes"]) - 1, 0),)


def test_what_the_operator_is_told_wins_over_what_users_noted():
    node = variable(attr={"kernel": "(9,)", "lr_mult": "2"}, param={"kernel": "(3,)"})
    assert parse(graph_of(node)).nodes[0].attrs == {"kernel": "(3,)", "lr_mult": "2"}


def test_numbers_among_attributes_become_text():
    node = variable(attrs={"num_filter": 4, "p": 0.5, "no_bias": True})
    assert parse(graph_of(node)).nodes[0].attrs == {
        "num_filter": "4",
        "p": "0.5",
        "no_bias": "True",
    }


NO_GRAPHS = {
    "no JSON": (b"\x00\x01", "malformed"),
    "cut off": (json.dumps(graph_of(variable())).encode()[:-5], "truncated"),
    "no object": (b"[]", "Expected `object`"),
    "no nodes": (b'{"heads": [[0, 0]]}', "nodes"),
    "no UTF-8": (json.dumps(graph_of(variable())).encode() + b"\xff", "utf-8"),
    "no UTF-8 in what is skipped": (b'{"nodes":[],"heads":[],"more":"\xff"}', "utf-8"),
    "half a surrogate": (b'{"nodes":[{"op":"\\ud800","name":"","inputs":[]}]}', "surrogate"),
    "no heads": (graph_of(variable(), heads=()), "no heads"),
    "a head that is not there": (graph_of(variable(), heads=[(1, 0, 0)]), "node 1"),
    "a head below zero": (graph_of(variable(), heads=[(-1, 0, 0)]), "node -1"),
    "a huge head": (graph_of(variable(), heads=[(10**30, 0, 0)]), str(10**30)),
    "a huge output": (graph_of(variable(), heads=[(0, 10**30, 0)]), str(10**30)),
    "an input ahead": (
        graph_of(variable(), {"op": "abs", "name": "ahead", "inputs": [[2, 0, 0]]}, variable("y")),
        "'ahead' (abs)",
    ),
    "an input to itself": (
        graph_of(variable(), {"op": "abs", "name": "itself", "inputs": [[1, 0, 0]]}),
        "'itself' (abs)",
    ),
    "a variable with inputs": (
        graph_of(variable(), {"op": "null", "name": "second", "inputs": [[0, 0, 0]]}),
        "'second' (null)",
    ),
    "true for a node": (graph_of(variable(), heads=[(True, 0, 0)]), "bool"),
    "a fraction for a node": (graph_of(variable(), heads=[(0.0, 0, 0)]), "float"),
    "a name that is a number": (graph_of(variable(name=3)), "Expected `str`"),
    "an operator that is missing": (graph_of({"name": "x", "inputs": []}), "op"),
    "a short input": (graph_of(variable(), heads=[(0,)]), "length"),
    "a long input": (graph_of(variable(), heads=[(0, 0, 0, 0)]), "length"),
    "attributes in a list": (graph_of(variable(attrs=["a"])), "object"),
    "an attribute that is a list": (graph_of(variable(attrs={"a": []})), "array"),
    "a node for training": (graph_of(variable(backward_source_id=0)), "training"),
    "not a number": (b'{"nodes":[],"heads":[[NaN,0]]}', "malformed"),
}


@pytest.mark.parametrize("case", NO_GRAPHS)
def test_what_is_no_graph_is_refused_by_name(case):
    text, word = NO_GRAPHS[case]
    with pytest.raises(ModelError) as error:
        parse(text)
    assert str(error.value).startswith("box!symbol.json")
    assert word in str(error.value)


def nested(depth, opening, closing):
    return b'{"nodes":[],"heads":[],"more":' + opening * depth + b"1" + closing * depth + b"}"


HOSTILE = {
    "deep lists": nested(150_000, b"[", b"]"),
    "deep objects": nested(40_000, b'{"a":', b"}"),
    "endless lists": b"[" * 8_000_000,
    "many lists": b'{"nodes":[' + b"[]," * 2_000_000 + b"[]]}",
    "many nodes": json.dumps(graph_of(*[variable()] * (MAX_NODES + 1))).encode(),
    "many objects": b'{"nodes":[' + b"{}," * 2_000_000 + b"{}]}",
    "many attributes": json.dumps(
        graph_of(variable(attrs={f"{i}": "" for i in range(500_000)}))
    ).encode(),
    "a long name": graph_of(variable(backward_source_id=0, name="x" * 5_000_000)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_is_refused_at_once_and_shortly(case):
    text = HOSTILE[case]
    if not isinstance(text, bytes):
        text = json.dumps(text).encode()
    started = time.perf_counter()
    with pytest.raises(ModelError) as error:
        parse(text)
    assert time.perf_counter() - started < 1
    assert len(str(error.value)) < 1000


def test_as_many_nodes_as_are_allowed_are_read():
    assert len(parse(graph_of(*[variable()] * MAX_NODES)).nodes) == MAX_NODES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["nodes", "heads", "op", "name", "inputs", "attrs", "param", "attr"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_a_graph_or_a_model_error(document):
    try:
        parse(document)
    except ModelError as error:
        assert str(error).startswith("box!symbol.json")


def test_a_node_reads_well_whatever_its_name_holds():
    node = Node(0, "evil\nop", "a\x1b[31m" + "b" * 200, {}, ())
    assert str(node).isprintable()
    assert len(str(node)) < 150
    assert str(Node(0, "max", "max0", {}, ())) == "node 'max0' (max)"


def attribute(method, text, *more):
    return getattr(Attributes({"a": text}), method)("a", *more)


@pytest.mark.parametrize(
    ("method", "text", "value"),
    [
        ("integer", "3", 3),
        ("integer", "-2", -2),
        ("integer", " 3L ", 3),
        ("number", "0", 0.0),
        ("number", "1e+30", 1e30),
        ("number", "-.5", -0.5),
        ("integers", "(3,)", (3,)),
        ("integers", "[3]", (3,)),
        ("integers", "3", (3,)),
        ("integers", "(0, 0, 1)", (0, 0, 1)),
        ("integers", "(2L, -1L)", (2, -1)),
        ("integers", "()", ()),
        ("one_integer", "(3,)", 3),
    ],
)
def test_attributes_are_read(method, text, value):
    assert attribute(method, text) == value


@pytest.mark.parametrize("text", ["True", "true", "1"])
def test_flags_are_read(text):
    assert attribute("flag", text, False) is True


@pytest.mark.parametrize("text", ["False", "false", "0"])
def test_flags_that_are_off_are_read(text):
    assert attribute("flag", text, True) is False


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("integer", ""),
        ("integer", "3.0"),
        ("integer", "None"),
        ("integer", "٣"),
        ("integer", "9" * 19),
        ("integer", "1_000"),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "1e999"),
        ("number", "0x10"),
        ("number", "1" * 5_000_000 + "x"),
        ("integers", "(3"),
        ("integers", "(3,,)"),
        ("integers", "(3.5,)"),
        ("integers", "((3,),)"),
        ("integers", "1," * 5_000_000),
        ("one_integer", "(3, 3)"),
        ("one_integer", "()"),
    ],
)
def test_attributes_of_another_kind_are_refused_by_name(method, text):
    with pytest.raises(Refused, match="attribute a ") as refusal:
        attribute(method, text)
    assert len(refusal.value.reason) < 200


def test_flags_of_another_kind_are_refused():
    with pytest.raises(Refused, match="True or False"):
        attribute("flag", "yes", True)


def test_a_missing_attribute_has_its_default_or_is_refused():
    assert Attributes({}).integer("a", 7) == 7
    assert attribute("integer", "None", 7) == 7
    assert attribute("one_integer", "()", 1) == 1
    with pytest.raises(Refused, match="a is missing"):
        Attributes({}).integer("a")


def test_an_attribute_that_nobody_asked_for_is_refused():
    attributes = Attributes({"known": "1", "__note__": "x", "lr_mult": "2", "strange": "1"})
    attributes.integer("known")
    with pytest.raises(Refused, match="'strange'"):
        attributes.check_all_read()
    attributes.may_be_anything("strange")
    attributes.check_all_read()
