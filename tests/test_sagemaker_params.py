import os
import struct
from pathlib import Path

import artefacts
import numpy as np
import pytest
from artefacts import BFloat16, RowSparse, ndarray, ndarray_list, open_file, records_list, tshape
from shared_files import shared

from object2vec.errors import ModelError
from object2vec.sagemaker import stored as stored_module
from object2vec.sagemaker.params import read_params


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def read(data, tmp_path):
    """All arrays of a list as float32, by name."""
    with open_file(data) as file:
        arrays = read_params(file, len(data), "params")
        return {name: array.float32(tmp_path) for name, array in arrays.items()}


def refusal(data, tmp_path, *names):
    """What a list is refused with, by its index or by the arrays named."""
    with open_file(data) as file, pytest.raises(ModelError) as caught:
        arrays = read_params(file, len(data), "box!params")
        for name in names:
            arrays[name].float32(tmp_path)
    assert str(caught.value).startswith("box!params: ")
    return str(caught.value)


@pytest.mark.parametrize("version", ["V0", "V1", "V2", "V3"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_arrays_of_all_versions_and_types_read_back(version, dtype, rng, tmp_path):
    arrays = {
        "a": rng.normal(size=(3, 5)).astype(dtype),
        "b": rng.normal(size=(7,)).astype(dtype),
        "c": rng.normal(size=(2, 3, 4)).astype(dtype),
    }
    found = read(ndarray_list(arrays, version), tmp_path)
    assert list(found) == ["a", "b", "c"]
    for name, array in arrays.items():
        assert found[name].dtype == np.float32 and found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name], array.astype(np.float32))


@pytest.mark.parametrize("version", ["V2", "V3"])
def test_absent_rows_are_zero(version, rng, tmp_path):
    table = RowSparse(rng.normal(size=(3, 4)).astype("float32"), np.array([0, 2, 5]), (7, 4))
    none = RowSparse(np.zeros((0, 4), "float32"), np.array([], int), (7, 4))
    every = RowSparse(rng.normal(size=(3, 4)).astype("float64"), np.arange(3), (3, 4))
    flat = RowSparse(rng.normal(size=(2,)).astype("float16"), np.array([1, 3]), (4,))
    arrays = {"table": table, "none": none, "every": every, "flat": flat}
    found = read(ndarray_list(arrays, version), tmp_path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array.dense().astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(rng, tmp_path):
    whole = rng.normal(size=(4, 3)).astype("float32")
    found = read(ndarray_list({"a": BFloat16(whole)}), tmp_path)["a"]
    np.testing.assert_array_equal(found.view("u4"), whole.view("u4") & 0xFFFF0000)


def test_shape_and_type_are_known_before_anything_is_read(tmp_path):
    arrays = {
        "a": np.ones((2, 3), "float64"),
        "b": RowSparse(np.ones((1, 2), "float32"), np.array([1]), (9, 2)),
    }
    with artefacts.stored(arrays) as found:
        assert (found["a"].shape, found["a"].dtype, found["a"].is_row_sparse) == (
            (2, 3),
            np.dtype("<f8"),
            False,
        )
        assert (found["b"].shape, found["b"].dtype, found["b"].is_row_sparse) == (
            (9, 2),
            np.dtype("<f4"),
            True,
        )


@pytest.mark.parametrize("piece_bytes", [1, 40, 100, 8 << 20])
def test_pieces_do_not_show(piece_bytes, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_module, "_PIECE_BYTES", piece_bytes)
    rows = np.sort(rng.choice(50, 20, replace=False))
    arrays = {
        "dense": rng.normal(size=(11, 5)),
        "sparse": RowSparse(rng.normal(size=(20, 3)).astype("float32"), rows, (50, 3)),
    }
    data = ndarray_list(arrays)
    small = read(data, tmp_path)
    monkeypatch.setattr(stored_module, "_IN_MEMORY_BYTES", 0)
    large = read(data, tmp_path)
    expected = {"dense": arrays["dense"], "sparse": arrays["sparse"].dense()}
    for name, array in expected.items():
        np.testing.assert_array_equal(small[name], array.astype("float32"))
        np.testing.assert_array_equal(large[name], array.astype("float32"))
        assert isinstance(large[name], np.memmap) and not isinstance(small[name], np.memmap)
    assert os.listdir(tmp_path) == []


def test_float32_is_mapped_and_writing_to_it_changes_no_file(tmp_path):
    data = ndarray_list({"a": np.ones((4, 4), "float32")})
    with open_file(data) as file:
        array = read_params(file, len(data), "params")["a"]
        mapped = array.float32(tmp_path)
        assert isinstance(mapped, np.memmap)
        mapped[:] = 5
        np.testing.assert_array_equal(array.float32(tmp_path), np.ones((4, 4)))
    assert mapped.sum() == 80  # the map outlives the file


def test_a_row_sparse_table_of_all_rows_is_mapped_as_well(tmp_path):
    table = RowSparse(np.ones((4, 3), "float32"), np.arange(4), (4, 3))
    assert isinstance(read(ndarray_list({"a": table}), tmp_path)["a"], np.memmap)


def test_a_file_that_shrinks_before_it_is_converted_is_refused(tmp_path):
    data = ndarray_list({"a": np.ones(1000)})
    with open_file(data) as file:
        array = read_params(file, len(data), "params")["a"]
        os.truncate(file.fileno(), 500)
        with pytest.raises(ModelError, match="became shorter"):
            array.float32(tmp_path)


def test_values_between_words_are_copied(tmp_path):
    arrays = {"byte": np.zeros(3, "int8"), "a": np.arange(5, dtype="float32")}
    with artefacts.stored(arrays) as found:
        array = found["a"].float32(tmp_path)
    assert array.flags.aligned and list(array) == [0, 1, 2, 3, 4]


def test_dimensions_of_zero_are_no_values(tmp_path):
    arrays = {
        "a": np.zeros((0, 3), "float32"),
        "b": np.zeros((3, 0), "float64"),
        "c": RowSparse(np.zeros((2, 0), "float32"), np.array([0, 2]), (5, 0)),
    }
    found = read(ndarray_list(arrays, "V3"), tmp_path)
    assert {name: array.shape for name, array in found.items()} == {
        "a": (0, 3),
        "b": (3, 0),
        "c": (5, 0),
    }


def test_a_scalar_of_v3_is_one_number(tmp_path):
    assert read(ndarray_list({"a": np.float32(2.5).reshape(())}, "V3"), tmp_path)["a"] == 2.5


def test_auxiliary_states_and_prefixes(tmp_path):
    one = np.ones(1, "float32")
    found = read(ndarray_list({"aux:mean": one, "arg:a": one, "x:b": one}), tmp_path)
    assert list(found) == ["a", "x:b"]
    bare = records_list([ndarray(one)], ["weight"])
    assert list(read(bare, tmp_path)) == ["weight"]


@pytest.mark.parametrize("version", ["V0", "V1", "V2", "V3"])
def test_an_entry_without_values_hurts_only_who_asks_for_it(version, tmp_path):
    none = {
        "V0": struct.pack("<I", 0),
        "V1": struct.pack("<Ii", artefacts.MAGICS["V1"], 0),
        "V2": struct.pack("<Iii", artefacts.MAGICS["V2"], 0, 0),
        "V3": struct.pack("<Iii", artefacts.MAGICS["V3"], 0, -1),
    }[version]
    data = records_list([none, ndarray(np.ones(2, "float32"))], ["arg:none", "arg:a"])
    with open_file(data) as file:
        arrays = read_params(file, len(data), "params")
        assert list(arrays["a"].float32(tmp_path)) == [1, 1]
    assert "array 'none' has no values" in refusal(data, tmp_path, "none")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_integers_are_no_weights_but_may_be_there(dtype, tmp_path):
    data = ndarray_list({"ids": np.ones(3, dtype), "a": np.ones(3, "float32")})
    with open_file(data) as file:
        assert read_params(file, len(data), "params")["a"].float32(tmp_path).sum() == 3
    assert f"array 'ids' is of type {dtype}" in refusal(data, tmp_path, "ids")


def test_a_number_too_large_for_float32_is_refused_by_name(tmp_path):
    fits = np.array([3.4e38, np.inf, np.nan, -1e-60])
    np.testing.assert_array_equal(
        read(ndarray_list({"a": fits}), tmp_path)["a"], fits.astype("float32")
    )
    text = refusal(ndarray_list({"a": np.array([1.0, -1e39])}), tmp_path, "a")
    assert "array 'a' holds -1e+39" in text


@pytest.mark.parametrize(("dtype", "bits"), [("float64", 0x7FF0000000000001), ("float16", 0x7C01)])
def test_a_signalling_nan_is_a_nan_and_no_warning(dtype, bits, tmp_path):
    words = np.array([bits, 0], "u8" if dtype == "float64" else "u2")
    found = read(ndarray_list({"a": words.view(dtype)}), tmp_path)["a"]
    np.testing.assert_array_equal(found, [np.nan, 0])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([0, 0], "does not ascend"),
        ([2, 1], "does not ascend"),
        ([-1, 1], "stores row -1, but has rows 0 to 4"),
        ([3, 5], "stores row 5, but has rows 0 to 4"),
        ([3, 2**62], "stores row 4611686018427387904"),
    ],
)
def test_a_row_index_that_cannot_be_is_refused(rows, words, tmp_path):
    table = RowSparse(np.ones((2, 2), "float32"), np.array(rows), (5, 2))
    assert words in refusal(ndarray_list({"a": table}), tmp_path, "a")


def test_next_to_nothing_does_not_become_gigabytes(tmp_path):
    table = RowSparse(np.ones((1, 4), "float32"), np.array([5]), (2**40, 4))
    with artefacts.cheaply(4 << 20):
        assert "more than 1000 times" in refusal(ndarray_list({"a": table}), tmp_path, "a")
    rare = RowSparse(np.ones((1, 4), "float32"), np.array([9]), (100_000, 4))
    assert read(ndarray_list({"a": rare}), tmp_path)["a"].sum() == 4


ONE = ndarray(np.ones(2, "float32"))
V1, V2, V3 = (struct.pack("<I", artefacts.MAGICS[version]) for version in ("V1", "V2", "V3"))
DENSE = V2 + struct.pack("<i", 0)
SPARSE = V2 + struct.pack("<i", 1)
CPU_FLOAT = struct.pack("<iii", 1, 0, 0)
INT64 = struct.pack("<i", 6)
ROW = np.ones(2, "float32").tobytes() + struct.pack("<q", 0)  # of two numbers, and its index

HOSTILE = {
    "empty": (b"", "the list's magic needs 16 bytes"),
    "no magic": (bytes(100), "no list of arrays"),
    "reserved": (struct.pack("<QQQ", 0x112, 1, 0), "no list of arrays"),
    "many arrays": (struct.pack("<QQQ", 0x112, 0, 2**64 - 1), "18,446,744,073,709,551,615 arrays"),
    "10,001 arrays": (struct.pack("<QQQ", 0x112, 0, 10_001), "10,000 are the most"),
    "fewer arrays": (
        struct.pack("<QQQ", 0x112, 0, 2) + records_list([ONE], ["a"])[24:],
        "array 1 of 2",
    ),
    "more arrays": (struct.pack("<QQQ", 0x112, 0, 0) + records_list([ONE], ["a"])[24:], "names"),
    "no names": (records_list([ONE], []), "1 arrays, but 0 names"),
    "more names": (records_list([ONE], ["a", "b"]), "1 arrays, but 2 names"),
    "twice": (records_list([ONE, ONE], ["arg:a", "arg:a"]), "'a' is there twice"),
    "twice, bare": (records_list([ONE, ONE], ["arg:a", "a"]), "'a' is there twice"),
    "also auxiliary": (records_list([ONE, ONE], ["arg:a", "aux:a"]), "'a' is there twice"),
    "no UTF-8": (records_list([ONE], [b"arg:\xff\xfe"]), "name 0 of 1 is not UTF-8"),
    "long name": (records_list([ONE], ["a" * 1025]), "1,025 bytes long"),
    "endless name": (
        records_list([ONE], [])[:-8] + struct.pack("<QQ", 1, 2**64 - 1),
        "name 0 of 1 is 18,446,744,073,709,551,615 bytes long",
    ),
    "leftover": (records_list([ONE], ["a"]) + b"x", "1 bytes follow the names"),
    "csr": (records_list([V2 + struct.pack("<i", 2)], ["a"]), "array 0 of 1 is a csr matrix"),
    "undefined": (records_list([V2 + struct.pack("<i", -1)], ["a"]), "storage type -1"),
    "storage 3": (records_list([V3 + struct.pack("<i", 3)], ["a"]), "storage type 3"),
    "unknown version": (
        records_list([struct.pack("<I", 0xF993FACB)], ["a"]),
        "0xf993facb, which is no version",
    ),
    "many old dimensions": (records_list([struct.pack("<I", 33)], ["a"]), "no version"),
    "many dimensions": (
        records_list([DENSE + struct.pack("<i", 2**31 - 1)], ["a"]),
        "2,147,483,647 dimensions",
    ),
    "negative dimensions": (records_list([DENSE + struct.pack("<i", -1)], ["a"]), "-1 dimensions"),
    "below zero": (
        records_list([DENSE + tshape((2, -1)) + CPU_FLOAT], ["a"]),
        "with a dimension below zero",
    ),
    "unknown dimension of V3": (
        records_list([V3 + struct.pack("<i", 0) + tshape((2, -1)) + CPU_FLOAT], ["a"]),
        "with a dimension below zero",
    ),
    "overflow to 0": (
        records_list([DENSE + tshape((2**32, 2**32)) + CPU_FLOAT], ["a"]),
        "too large for any machine",
    ),
    "overflow to 4": (
        records_list([V1 + tshape((2**62 + 1, 4)) + CPU_FLOAT + bytes(16)], ["a"]),
        "too large for any machine",
    ),
    "overflow beside a zero": (
        records_list([DENSE + tshape((0, 2**62, 2**62)) + CPU_FLOAT], ["a"]),
        "too large for any machine",
    ),
    "more than is there": (
        records_list([DENSE + tshape((2**40,)) + CPU_FLOAT], ["a"]),
        "array 0 of 1 needs 4,398,046,511,104 bytes",
    ),
    "old, more than is there": (
        records_list([struct.pack("<III", 2, 2**20, 2**31 - 1) + CPU_FLOAT], ["a"]),
        "array 0 of 1 needs",
    ),
    "type": (
        records_list([DENSE + tshape((2,)) + struct.pack("<iii", 1, 0, 13)], ["a"]),
        "type 13",
    ),
    "negative type": (
        records_list([DENSE + tshape((2,)) + struct.pack("<iii", 1, 0, -1)], ["a"]),
        "type -1",
    ),
    "index of int32": (
        records_list(
            [
                SPARSE
                + tshape((1, 2))
                + tshape((4, 2))
                + CPU_FLOAT
                + struct.pack("<i", 4)
                + tshape((1,))
                + ROW
            ],
            ["a"],
        ),
        "row index of type 4",
    ),
    "rows of another width": (
        records_list(
            [SPARSE + tshape((1, 2)) + tshape((4, 3)) + CPU_FLOAT + INT64 + tshape((1,)) + ROW],
            ["a"],
        ),
        "shape (4, 3) stores rows of shape (1, 2)",
    ),
    "more rows than rows": (
        records_list(
            [SPARSE + tshape((5, 2)) + tshape((4, 2)) + CPU_FLOAT + INT64 + tshape((5,))], ["a"]
        ),
        "shape (4, 2) stores rows of shape (5, 2)",
    ),
    "rows of a scalar": (
        records_list(
            [
                V3
                + struct.pack("<i", 1)
                + tshape((1,))
                + tshape(())
                + CPU_FLOAT
                + INT64
                + tshape((1,))
            ],
            ["a"],
        ),
        "shape () stores rows of shape (1,)",
    ),
    "index of another length": (
        records_list(
            [SPARSE + tshape((1, 2)) + tshape((4, 2)) + CPU_FLOAT + INT64 + tshape((2,)) + ROW],
            ["a"],
        ),
        "stores 1 rows, but its index is (2,)",
    ),
    "table beyond all machines": (
        records_list(
            [SPARSE + tshape((1, 2)) + tshape((2**62, 2)) + CPU_FLOAT + INT64 + tshape((1,)) + ROW],
            ["a"],
        ),
        "too large for any machine",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_list_that_lies_is_refused_at_once(case, tmp_path):
    data, words = HOSTILE[case]
    with artefacts.cheaply(4 << 20):
        assert words in refusal(data, tmp_path)


def test_ten_thousand_arrays_are_soon_indexed(tmp_path):
    data = ndarray_list({f"array_{i}": np.ones(1, "float32") for i in range(10_000)})
    with open_file(data) as file, artefacts.cheaply(16 << 20):
        assert len(read_params(file, len(data), "params")) == 10_000


@pytest.mark.parametrize("version", ["V0", "V1", "V2", "V3"])
def test_a_list_that_is_cut_anywhere_is_refused(version, tmp_path):
    arrays = {"a": np.ones((2, 3), "float32"), "b": np.ones(3, "float16")}
    if version in ("V2", "V3"):
        arrays["c"] = RowSparse(np.ones((2, 2), "float32"), np.array([1, 3]), (5, 2))
    data = ndarray_list(arrays, version)
    for size in range(len(data)):
        refusal(data[:size], tmp_path)
    with open_file(data[:-1]) as file, pytest.raises(ModelError, match="became shorter"):
        read_params(file, len(data), "params")  # it had that size when it was looked at


def definition(data):
    """A second reading of the format, with numpy alone."""
    at = 0

    def take(dtype, count=1):
        nonlocal at
        values = np.frombuffer(data, dtype, count, at)
        at += values.nbytes
        return values

    def shape():
        return tuple(int(n) for n in take("<i8", int(take("<u4")[0])))

    assert list(take("<u8", 2)) == [0x112, 0]
    arrays = []
    for _ in range(int(take("<u8")[0])):
        magic = int(take("<u4")[0])
        storage = int(take("<i4")[0]) if magic == 0xF993FAC9 else 0
        rows_shape = shape() if storage else None
        dims = shape()
        dtype = {0: "<f4", 1: "<f8", 2: "<f2"}[int(take("<i4", 3)[2])]
        if storage:
            assert int(take("<i4")[0]) == 6
            (num_rows,) = shape()
            values = take(dtype, int(np.prod(rows_shape))).reshape(rows_shape)
            table = np.zeros(dims, dtype)
            table[take("<i8", num_rows)] = values
            arrays.append(table)
        else:
            arrays.append(take(dtype, int(np.prod(dims))).reshape(dims))
    names = [bytes(take("u1", int(take("<u8")[0]))) for _ in range(int(take("<u8")[0]))]
    assert at == len(data)
    return {name.decode().removeprefix("arg:"): a for name, a in zip(names, arrays, strict=True)}


@pytest.mark.parametrize("case", artefacts.GOLDEN)
def test_golden_arrays_read_as_an_independent_reading_has_them(case, tmp_path):
    data = artefacts.unpacked(case)["params"]
    expected = definition(data)
    found = read(data, tmp_path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array.astype("float32"))


def test_all_golden_cases_are_listed_here():
    assert sorted(artefacts.GOLDEN) == sorted(
        path.name for path in Path(shared("golden")).glob("v*")
    )
