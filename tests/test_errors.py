"""The tree of errors: drawn as it is, and fit to cross process boundaries."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from object2vec import errors

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception)
}

EXAMPLES = {
    "FileError": ("a/b.jsonl", "ends in the middle of a gzip member", 17),
    "RecordError": ("out_of_range", "id 9 is outside the vocabulary", "$.in0[3]", 120),
}


def drawn() -> dict[str, str]:
    """Each class of the picture on top of errors.py, with the one it hangs from."""
    above: list[tuple[int, str]] = []
    parents = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([ │├└─]*)([A-Z]\w+Error)\b", line)
        if match:
            depth, name = len(match[1]), match[2]
            above = [(d, n) for d, n in above if d < depth]
            parents[name] = above[-1][1] if above else "Exception"
            above.append((depth, name))
    return parents


def test_the_picture_shows_the_tree_as_it_is():
    assert len(CLASSES) > 5
    assert drawn() == {name: cls.__base__.__name__ for name, cls in CLASSES.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_survives_pickling_twice(name):
    arguments = EXAMPLES.get(name, ("model 'm' has no config.json; is it a model directory?",))
    error = CLASSES[name](*arguments)
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_a_file_error_names_file_place_and_reason():
    assert str(errors.FileError("a.gz", "is cut", 17)) == "a.gz at byte 17: is cut"
    assert str(errors.FileError("a.gz", "is cut", 0)) == "a.gz at byte 0: is cut"
    assert str(errors.FileError("a.gz", "is cut")) == "a.gz: is cut"


def test_a_record_error_names_place_path_and_reason():
    error = errors.RecordError("type", "expected an integer", "$.in0[3]", 120)
    assert str(error) == "record at byte 120, $.in0[3]: expected an integer"
