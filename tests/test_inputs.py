"""Which files are read, what their outputs are called, and what is refused about names."""

from __future__ import annotations

import fnmatch
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from object2vec.errors import InputError, UsageError
from transforms.inputs import check_apart, find_inputs, glob_regex, is_input


def make(folder, *names):
    """Files that hold their own names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def found(*inputs, suffix=".out"):
    """Output name of each input file, by the file's own text: its name."""
    names = {}
    for file in find_inputs([str(i) for i in inputs], suffix):
        with open(os.path.join(file.store, file.name)) as opened:
            names[opened.read()] = file.output
    return names


def test_a_file_gives_its_base_name(tmp_path):
    make(tmp_path, "a/b.jsonl")
    assert found(tmp_path / "a/b.jsonl") == {"a/b.jsonl": "b.jsonl.out"}
    assert found(tmp_path / "a/b.jsonl", suffix=".out.avro") == {"a/b.jsonl": "b.jsonl.out.avro"}


def test_an_input_is_described_as_it_is(tmp_path):
    make(tmp_path, "a/b.jsonl")
    (file,) = find_inputs([str(tmp_path)], ".out")
    assert (file.store, file.name, file.size) == (str(tmp_path), "a/b.jsonl", 9)
    assert file.uri == f"{tmp_path}/a/b.jsonl"
    before = file.version
    (tmp_path / "a/b.jsonl").write_text("other, longer")
    (file,) = find_inputs([str(tmp_path)], ".out")
    assert file.version != before and file.size == 13


@pytest.mark.parametrize("ending", ["", "/", "/.", "//"])
def test_a_directory_gives_all_files_below_it_with_their_paths(tmp_path, ending):
    make(tmp_path, "d/x", "d/s/y", "d/s/t/z", "dd/x", "other")
    expected = {"d/x": "x.out", "d/s/y": "s/y.out", "d/s/t/z": "s/t/z.out"}
    assert found(f"{tmp_path}/d{ending}") == expected


def test_relative_paths_and_dots_work(tmp_path, monkeypatch):
    make(tmp_path, "d/x", "e/y")
    monkeypatch.chdir(tmp_path / "e")
    assert found("../d") == {"d/x": "x.out"}
    assert found("../d/x") == {"d/x": "x.out"}
    assert found("y") == found(".") == found("./y") == {"e/y": "y.out"}
    assert found("..") == {"d/x": "d/x.out", "e/y": "e/y.out"}


def test_names_that_begin_with_an_underscore_or_a_dot_are_never_input(tmp_path):
    make(tmp_path, "x", "_SUCCESS", ".hidden", "_o2v/lock", "a/.git/c", "a/_b/c", "a/b_", "a/c.")
    assert set(found(tmp_path)) == {"x", "a/b_", "a/c."}
    assert set(found(tmp_path / "*")) == {"x"}
    assert set(found(tmp_path / "**")) == {"x", "a/b_", "a/c."}
    for name in ("_SUCCESS", ".hidden"):
        with pytest.raises(InputError, match="never input"):
            found(tmp_path / name)


def test_only_what_is_below_the_input_counts_as_a_name(tmp_path):
    make(tmp_path, "_mine/.x/a")
    assert found(tmp_path / "_mine/.x") == {"_mine/.x/a": "a.out"}


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("*.jsonl", {"a.jsonl": "a.jsonl.out", "b.jsonl": "b.jsonl.out"}),
        ("?.jsonl", {"a.jsonl": "a.jsonl.out", "b.jsonl": "b.jsonl.out"}),
        ("[bc].jsonl", {"b.jsonl": "b.jsonl.out"}),
        ("[!a].jsonl", {"b.jsonl": "b.jsonl.out"}),
        ("*/a.jsonl", {"s/a.jsonl": "s/a.jsonl.out"}),
        ("s/*.jsonl", {"s/a.jsonl": "a.jsonl.out"}),
        ("s/t/a.*", {"s/t/a.txt": "a.txt.out"}),
        ("**/a.jsonl", {"a.jsonl": "a.jsonl.out", "s/a.jsonl": "s/a.jsonl.out"}),
        ("s*/**", {"s/a.jsonl": "s/a.jsonl.out", "s/t/a.txt": "s/t/a.txt.out"}),
        ("s/**/a.txt", {"s/t/a.txt": "t/a.txt.out"}),
    ],
)
def test_a_glob_names_outputs_below_the_folder_before_its_wildcard(tmp_path, pattern, names):
    make(tmp_path, "a.jsonl", "b.jsonl", "s/a.jsonl", "s/t/a.txt")
    assert found(tmp_path / pattern) == names


def test_a_glob_without_a_folder_is_relative(tmp_path, monkeypatch):
    make(tmp_path, "a.jsonl", "s/a.jsonl")
    monkeypatch.chdir(tmp_path)
    assert found("*.jsonl") == {"a.jsonl": "a.jsonl.out"}


def test_a_file_of_that_very_name_wins_over_the_glob(tmp_path):
    make(tmp_path, "[ab].jsonl", "a.jsonl", "x*/c", "xy/d")
    assert found(tmp_path / "[ab].jsonl") == {"[ab].jsonl": "[ab].jsonl.out"}
    assert found(tmp_path / "x*") == {"x*/c": "c.out"}  # so does a directory
    (tmp_path / "[ab].jsonl").unlink()
    assert found(tmp_path / "[ab].jsonl") == {"a.jsonl": "a.jsonl.out"}


@pytest.mark.parametrize(
    "pattern", ["[", "[]", "[!]", "[a", "a]", "[z-a]", "[]a]", "[!]a]", "[a-]"]
)
def test_odd_brackets_mean_what_the_shell_takes_them_for(pattern):
    for name in ("[", "[]", "[!]", "[a", "a]", "]", "a", "-", "b"):
        assert bool(glob_regex(pattern).fullmatch(name)) == fnmatch.fnmatchcase(name, pattern)


letters = st.text("ab-!]\\.^[*?&~|+(", max_size=5)


@settings(deadline=None)
@given(letters, st.text("ab-!]\\.^[&~|+(\n", max_size=4))
def test_a_glob_within_a_segment_is_that_of_the_shell(pattern, name):
    if "**" not in pattern and "[^" not in pattern:  # the shell knows [^a], fnmatch does not
        assert bool(glob_regex(pattern).fullmatch(name)) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    "pattern, name, matches",
    [
        ("*", "a/b", False),
        ("a?b", "a/b", False),
        ("a[/]b", "a/b", False),
        ("a[!x]b", "a/b", False),
        ("**", "a/b/c", True),
        ("**/c", "c", True),
        ("**/c", "a/b/c", True),
        ("**/c", "abc", False),
        ("a/**/c", "a/c", True),
        ("a/**", "a", False),
        ("[^a]", "b", True),
        ("[^a]", "a", False),
        ("é*", "éa", True),
        ("*", "new\nline", True),
    ],
)
def test_only_two_stars_cross_segments(pattern, name, matches):
    assert bool(glob_regex(pattern).fullmatch(name)) == matches


@pytest.mark.parametrize(
    "name, verdict",
    [("a", True), ("a/b_", True), ("_a", False), (".a", False), ("a/_b", False), ("a/.b/c", False)],
)
def test_is_input(name, verdict):
    assert is_input(name) == verdict


def test_several_inputs_make_one_sorted_list_and_none_is_read_twice(tmp_path):
    make(tmp_path, "d/y", "d/x", "e/w")
    inputs = [str(tmp_path / "e"), str(tmp_path / "d"), str(tmp_path / "d" / "x")]
    files = find_inputs(inputs, ".out")
    assert [file.output for file in files] == ["w.out", "x.out", "y.out"]
    # The same file at two places below the output is two outputs.
    assert len(find_inputs([str(tmp_path), str(tmp_path / "d")], ".out")) == 5


def test_two_inputs_of_one_output_are_refused_and_both_named(tmp_path):
    make(tmp_path, "d/x", "e/x")
    with pytest.raises(InputError, match=r"d/x and .*e/x would both be written to x\.out"):
        found(tmp_path / "d", tmp_path / "e")


@pytest.mark.parametrize("names", [("A", "a"), ("A", "B", "a"), ("d/É", "d/z", "d/é")])
def test_names_that_differ_in_case_alone_are_refused(tmp_path, names):
    make(tmp_path, *names)
    if len(os.listdir((tmp_path / names[0]).parent)) < len(names):
        pytest.skip("this disk cannot hold such names")
    with pytest.raises(InputError, match="differ in case"):
        found(tmp_path)


def test_an_output_that_another_one_needs_as_a_folder_is_refused(tmp_path):
    make(tmp_path, "a", "a.out/b")
    with pytest.raises(InputError, match=r"a would be written to a\.out, and .*a\.out/b below"):
        found(tmp_path)
    assert len(found(tmp_path, suffix=".out.avro")) == 2


@pytest.mark.parametrize("suffix", [".out", ".out.avro"])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_names_that_the_suffix_makes_too_long_are_refused(tmp_path, suffix, letter):
    fits = letter * ((255 - len(suffix)) // len(letter.encode()))
    make(tmp_path, fits)
    assert len(found(tmp_path, suffix=suffix)) == 1
    longer = fits + "y" * (256 - len(suffix) - len(fits.encode()))
    make(tmp_path, f"s/{longer}")
    with pytest.raises(InputError, match="would be 256 bytes long, and 255 is the limit"):
        found(tmp_path, suffix=suffix)


def test_dead_letters_have_longer_names_than_outputs(tmp_path):
    make(tmp_path, "x" * 246)
    assert len(find_inputs([str(tmp_path)], ".out")) == 1
    with pytest.raises(InputError, match="would be 256 bytes long"):
        find_inputs([str(tmp_path)], ".out", ".out.jsonl")


@pytest.mark.parametrize("name", ["missing", "missing/", "*.csv", "empty", "x/", "[", "../nope"])
def test_an_input_that_matches_nothing_is_refused(tmp_path, name):
    make(tmp_path, "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="matches no file"):
        found(tmp_path, f"{tmp_path}/{name}")


def test_one_empty_input_among_others_is_refused_too(tmp_path):
    make(tmp_path, "x")
    with pytest.raises(InputError, match=r"--input=.*/gone matches no file"):
        found(tmp_path / "x", tmp_path / "gone")


ODD = [
    "a#1",
    "b%20c",
    "new\nline",
    "-dash",
    "größe",
    "e\u0301",
    "tab\t",
    " space ",
    "日本",
    "a:b",
    "\\",
]


def test_odd_names_are_names(tmp_path):
    make(tmp_path, *ODD, *(f"folder {name}/x" for name in ODD))
    assert found(tmp_path) == {
        **{name: f"{name}.out" for name in ODD},
        **{f"folder {name}/x": f"folder {name}/x.out" for name in ODD},
    }
    for name in ODD:
        assert found(tmp_path / name) == {name: f"{name}.out"}


def test_a_file_uri_is_a_path(tmp_path):
    make(tmp_path, "b c.jsonl", "d/[x]")
    base = tmp_path.as_uri()
    assert found(f"{base}/b%20c.jsonl") == {"b c.jsonl": "b c.jsonl.out"}
    assert found(f"{base}/d/") == {"d/[x]": "[x].out"}
    assert found(f"{base}/*.jsonl") == {"b c.jsonl": "b c.jsonl.out"}


def test_a_scheme_that_nobody_knows_is_refused():
    with pytest.raises(UsageError, match="give a path, or a file://"):
        found("ftp://host/x")


@pytest.mark.parametrize(
    "place, output",
    [
        ("in", "in"),
        ("in", "in/out"),
        ("in/", "in/a/b/"),
        ("in", "in/../in/out"),
        ("in/**", "in/out"),
        ("in/a/*/x", "in/a/out"),
        ("in", "link"),
        ("in", "link/out"),
        ("link", "in/out"),
        (".", "out"),
    ],
)
def test_an_output_below_an_input_is_refused(tmp_path, monkeypatch, place, output):
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    for absolute in (False, True):
        uris = [str(tmp_path / u) for u in (place, output)] if absolute else [place, output]
        with pytest.raises(InputError, match="the next run would read the outputs"):
            check_apart([uris[0]], uris[1])


@pytest.mark.parametrize(
    "place, output",
    [
        ("out/in", "out"),
        ("out/in/x", "out"),
        ("out/in/*", "out"),
        ("out/in", "."),
        ("out/in", "out/in/.."),
        ("link/in", "out"),
        ("file.link", "out"),
    ],
)
def test_an_input_below_the_output_is_refused(tmp_path, monkeypatch, place, output):
    make(tmp_path, "out/in/x")
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "file.link").symlink_to("out/in/x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="outputs might replace inputs"):
        check_apart([place], output)
    with pytest.raises(InputError, match="outputs might replace inputs"):
        check_apart([str(tmp_path / "elsewhere"), (tmp_path / place).as_uri()], output)


@pytest.mark.parametrize(
    "place, output",
    [
        ("in", "out"),
        ("in", "in2"),
        ("in2", "in"),
        ("in", "in/../out"),
        ("s3://b/in", "s3://b/in2"),
        ("s3://b/in/*", "s3://b/out"),
        ("s3://b/in", "s3://c/in"),
        ("s3://b/in", "gs://b/in"),
    ],
)
def test_neighbours_are_apart(tmp_path, monkeypatch, place, output):
    monkeypatch.chdir(tmp_path)
    check_apart([place], output)


@pytest.mark.parametrize(
    "place, output",
    [
        ("s3://b", "s3://b/out"),
        ("s3://b/in/", "s3://b/in"),
        ("s3://b/in/**", "s3://b/in/out"),
        ("s3://b/out/in", "s3://b/out"),
    ],
)
def test_in_buckets_the_same_is_refused(place, output):
    with pytest.raises(InputError):
        check_apart([place], output)
