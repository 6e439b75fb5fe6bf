"""Stores: one contract for disks and S3, then what only one of them can do wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from object2vec.errors import FileError, StorageError, UsageError
from transforms.disk import Disk
from transforms.objects import ObjectStore
from transforms.storage import Piece, Store, check_name, open_store

if TYPE_CHECKING:
    pass

pytest_plugins = ("s3_server",)
MIB = 1 << 20
# Every name a mainstream file system takes and S3 does too.
ODD_NAMES = [
    "a b", "a#1", "a%20b", "%2F", "\u00e9", "e\u0301", "-x", "x[1]", "x1", "x*", "a?b", "a+b",
    "a\\b", "~t", "x:y", "\u65e5\u672c", "a&b<c>", "'q\"", "{}", "^`|", "..x", "x..", "_u",
    ".h", "a/b/c", "a.b", "a-b/c", "A/b", "x" * 200 + ".out", "\U0001f600",
]  # fmt: skip


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return open_store(str(tmp_path / "root"))
    return open_store(request.getfixturevalue("s3_store") + "/some/root")


@pytest.fixture
def disk(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def names(store: Store, prefix: str = "") -> list[str]:
    return [found.name for found in store.list(prefix)]


def leftovers(store: Store) -> list[str]:
    """What an act that failed might have left behind."""
    if isinstance(store, ObjectStore):
        return open_uploads(store.bucket)
    return [name for _, _, files in os.walk(store.root) for name in files if ".tmp" in name]


def open_uploads(bucket: str) -> list[str]:
    """Keys of the multipart uploads that are open in a bucket."""
    reply = boto3.client("s3").list_multipart_uploads(Bucket=bucket)
    return [upload["Key"] for upload in reply.get("Uploads", [])]


def test_what_was_put_is_read_back(store: Store) -> None:
    for data in (b"", b"first", b"second, longer"):
        store.put("a/b", data)
        assert store.read("a/b") == data
    found = store.stat("a/b")
    assert found is not None
    assert (found.name, found.size) == ("a/b", 14)
    assert list(store.list()) == [found]


def test_ranges_are_exact_or_errors(store: Store) -> None:
    store.put("a", b"0123456789")
    assert store.read("a", 2, 5) == b"234"
    assert store.read("a", 7) == b"789"
    assert store.read("a", 10) == b""
    assert store.read("a", 4, 4) == b""
    for start, stop in [(5, 11), (11, 12), (11, None)]:
        with pytest.raises(FileError, match="ends at byte 10"):
            store.read("a", start, stop)


def test_a_file_that_is_not_there(store: Store) -> None:
    assert store.stat("no/such") is None
    assert list(store.list()) == list(store.list("no")) == []
    store.delete("no/such")
    store.delete_all("no")
    for start, stop in [(0, None), (0, 1), (3, 3)]:
        with pytest.raises(FileError, match="not there"):
            store.read("no/such", start, stop)


def test_a_file_that_changed_is_not_read(store: Store) -> None:
    store.put("a", b"old")
    before = store.stat("a")
    assert before is not None
    assert store.read("a", version=before.version) == b"old"
    store.put("a", b"new")
    for start, stop in [(0, None), (1, 2), (1, 1)]:
        with pytest.raises(FileError, match="changed while it was read"):
            store.read("a", start, stop, before.version)


def test_odd_names_are_exact(store: Store) -> None:
    for name in ODD_NAMES:
        store.put(name, name.encode())
    assert names(store) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        assert store.read(name) == name.encode()
        assert store.stat(name) is not None
    store.delete("x[1]")
    assert "x1" in names(store)
    assert "x[1]" not in names(store)


def test_a_prefix_ends_at_a_slash(store: Store) -> None:
    for name in ("a", "ab/x", "b/a/x", "b/ax", "c/d/e"):
        store.put(name, b"")
    assert names(store, "b/a") == ["b/a/x"]
    assert names(store, "b/") == ["b/a/x", "b/ax"]
    assert names(store, "a") == []  # the file itself is not below itself
    assert names(store, "c") == ["c/d/e"]


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "..", "a/../b", "a/..", ".", "a/./b", "a\0b", "a\udcff"]
)
def test_names_that_leave_the_root_are_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        check_name(name)
    for act in (
        lambda: store.put(name, b""),
        lambda: store.put_if_absent(name, b""),
        lambda: store.read(name),
        lambda: store.stat(name),
        lambda: store.delete(name),
        lambda: store.create(name),
        lambda: store.publish(name, [], "tmp"),
        lambda: store.publish("ok", [Piece(name, 0, 1)], "tmp"),
        lambda: store.local_path(name),
    ):
        with pytest.raises(ValueError, match="not a name"):
            act()
    for prefix in {"", "..", "a//b"} & {name}:
        with pytest.raises(ValueError, match="not a name"):
            store.delete_all(prefix)
    assert list(store.list()) == []


def test_put_if_absent_has_one_winner(store: Store) -> None:
    start = threading.Barrier(16)

    def race(number: int) -> bool:
        start.wait()
        return store.put_if_absent("race", b"%d" % number * 1000)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert won.count(True) == 1
    assert store.read("race") == b"%d" % won.index(True) * 1000
    assert not store.put_if_absent("race", b"later")
    assert leftovers(store) == []


def test_a_writer_publishes_only_by_closing(store: Store) -> None:
    with store.create("p/closed") as writer:
        writer.write(b"ab")
        writer.write(memoryview(bytearray(b"cd")))
        assert writer.tell() == 4
    assert store.read("p/closed") == b"abcd"
    writer.close()
    writer.abort()
    assert store.read("p/closed") == b"abcd"

    aborted = store.create("p/aborted")
    aborted.write(b"ab")
    aborted.abort()
    aborted.abort()
    aborted.close()
    with pytest.raises(KeyError), store.create("p/failed") as failed:
        failed.write(b"ab")
        raise KeyError
    store.create("p/empty").close()
    assert names(store) == ["p/closed", "p/empty"]
    assert store.read("p/empty") == b""


def test_pieces_are_published_in_order(store: Store) -> None:
    rng = random.Random(7)
    large, small = rng.randbytes(11 * MIB + 17), rng.randbytes(3000)
    store.put("tmp/large", large)
    store.put("tmp/small", small)
    parts = {"tmp/large": large, "tmp/small": small}
    sixth = 6 * MIB + 1
    for pieces in (
        [Piece("tmp/small", 5, 10), Piece("tmp/large", 3, 2), Piece("tmp/small", 0, 1)],
        [Piece("tmp/large", 0, sixth), Piece("tmp/small", 0, 3000), Piece("tmp/large", sixth, 100)],
        [Piece("tmp/small", 0, 3000), Piece("tmp/large", 1, 11 * MIB), Piece("tmp/small", 1, 9)],
        [Piece("tmp/small", k, 1) for k in range(100, 0, -1)],
        [Piece("tmp/large", 1, 7 * MIB)],
        [Piece("tmp/large", 0, 7 * MIB)],
        [Piece("tmp/small", 0, 2)],
    ):
        store.publish("out/a.out", pieces, "tmp/scratch")
        expected = b"".join(parts[p.part][p.offset : p.offset + p.length] for p in pieces)
        assert store.read("out/a.out") == expected
    assert leftovers(store) == []
    store.delete_all("tmp")
    assert names(store) == ["out/a.out"]


def test_a_whole_part_is_published(store: Store) -> None:
    store.put("out/a.out", b"old")
    store.put("tmp/part", b"0123456789")
    pieces = [Piece("tmp/part", 0, 4), Piece("tmp/part", 4, 0), Piece("tmp/part", 4, 6)]
    store.publish("out/a.out", pieces, "tmp/scratch")
    assert store.read("out/a.out") == b"0123456789"


@pytest.mark.parametrize("pieces", [[], [Piece("tmp/part", 2, 0)]])
def test_nothing_is_published_as_an_empty_file(store: Store, pieces: list[Piece]) -> None:
    store.put("tmp/part", b"0123")
    store.put("a.out", b"old")
    store.publish("a.out", pieces, "tmp")
    assert store.read("a.out") == b""


@pytest.mark.parametrize(
    "pieces",
    [
        [Piece("tmp/part", 0, 4), Piece("tmp/gone", 0, 4)],
        [Piece("tmp/gone", 0, 4)],
        [Piece("tmp/part", 1, 4)],
        [Piece("tmp/part", 1, 2), Piece("tmp/part", 0, 5)],
        [Piece("tmp/large", 0, 6 * MIB), Piece("tmp/large", 0, 6 * MIB + 2)],
    ],
)
def test_a_failed_publish_keeps_the_old_file(store: Store, pieces: list[Piece]) -> None:
    store.put("a.out", b"old")
    store.put("tmp/part", b"0123")
    store.put("tmp/large", bytes(6 * MIB + 1))
    before = store.stat("a.out")
    with pytest.raises(StorageError, match="publish"):
        store.publish("a.out", pieces, "tmp")
    assert store.read("a.out") == b"old"
    assert store.stat("a.out") == before
    assert names(store) == ["a.out", "tmp/large", "tmp/part"]
    assert leftovers(store) == []


def test_delete_all_removes_what_is_below_and_nothing_beside(store: Store) -> None:
    for name in ("t/a", "t/b/c", "tt/a", "u"):
        store.put(name, b"1")
    store.delete_all("t")
    store.delete("u")
    assert names(store) == ["tt/a"]
    if store.is_local:
        assert sorted(os.listdir(store.root)) == ["tt"]


def test_a_store_opens_again_from_its_root(store: Store) -> None:
    store.put("a b#%20/x", b"1")
    again = open_store(store.root)
    assert (again.root, type(again)) == (store.root, type(store))
    assert again.read("a b#%20/x") == b"1"


@pytest.mark.parametrize("uri", ["", "http://x/y", "hdfs://x/y", "s3://", "s3:///k", "file://h/x"])
def test_uris_that_are_none_of_ours(uri: str) -> None:
    with pytest.raises(UsageError):
        open_store(uri)
    with pytest.raises(UsageError):
        open_store("s3://bucket/a/../b")


def test_file_uris_and_paths_are_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a b#%20"
    for uri in ("a b#%20", str(folder) + "/", f"file://{tmp_path}/a%20b%23%2520"):
        assert open_store(uri).root == str(folder)
    assert open_store("a b#%20").local_path("x/y") == str(folder / "x" / "y")


def test_disks_need_no_cloud_library(tmp_path: Path) -> None:
    """And S3 without boto3 says which extra is missing."""
    program = (
        "import sys; sys.modules['boto3'] = None\n"
        "from transforms.storage import open_store\n"
        f"open_store({str(tmp_path)!r}).put('a', b'1')\n"
        "assert 'obstore' not in sys.modules\n"
        "try: open_store('s3://b').sweep()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.startswith("UsageError s3://b"), done.stderr
    assert "install the s3 extra" in done.stdout


def test_the_two_kinds_of_store() -> None:
    assert isinstance(open_store("x"), Disk)
    for uri in ("s3://b/x", "gs://b/x", "az://b/x"):
        store = open_store(uri + "/")
        assert (store.root, store.is_local, store.local_path("a")) == (uri, False, None)
