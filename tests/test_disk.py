"""What only disks do, and do wrong: links, names, full disks, other file systems."""

from __future__ import annotations

import logging
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from object2vec.errors import FileError, InputError, StorageError
from transforms.disk import copy_by_reading, copy_range
from transforms.storage import Piece, Store, open_store, temp_name

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def names(store: Store, prefix: str = "") -> list[str]:
    return [found.name for found in store.list(prefix)]


def temporaries(store: Store) -> list[str]:
    """What an act that failed might have left behind."""
    return [name for _, _, files in os.walk(store.root) for name in files if ".tmp" in name]


def test_a_newline_is_a_name_on_disk(disk: Store) -> None:
    for name in ("a\nb", "\x7f\t", "a/\n/c"):
        disk.put(name, b"1")
    assert names(disk) == sorted(["a\nb", "\x7f\t", "a/\n/c"])
    assert disk.read("a\nb") == b"1"


def test_links_and_special_files(
    disk: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk.put("d/a", b"123")
    root = Path(disk.root)
    (tmp_path / "outside").write_bytes(b"12")
    (root / "file_link").symlink_to(tmp_path / "outside")
    (root / "broken").symlink_to("nowhere")
    (root / "self").symlink_to("self")
    (root / "d" / "loop").symlink_to("..")
    os.mkfifo(root / "fifo")
    with caplog.at_level(logging.WARNING):
        assert [(found.name, found.size) for found in disk.list()] == [("d/a", 3), ("file_link", 2)]
    assert len(caplog.messages) == 4
    assert disk.read("file_link") == b"12"
    assert disk.stat("fifo") is None
    for name in ("fifo", "d", "self"):
        with pytest.raises(FileError):
            disk.read(name)


def test_a_name_that_is_not_unicode_is_refused_aloud(disk: Store) -> None:
    disk.put("a", b"")
    os.close(os.open(os.fsencode(disk.root) + b"/b\xff.jsonl", os.O_CREAT))
    with pytest.raises(InputError, match=r"b\\udcff\.jsonl'.*not valid UTF-8"):
        list(disk.list())


def test_a_file_that_grows_within_a_tick_changed(disk: Store) -> None:
    disk.put("a", b"1")
    path = Path(disk.root, "a")
    before, found = path.stat(), disk.stat("a")
    assert found is not None
    with path.open("ab") as file:
        file.write(b"2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(FileError, match="changed"):
        disk.read("a", 0, 1, found.version)


def test_a_growing_part_is_there_at_once_and_not_made_twice(disk: Store) -> None:
    writer = disk.create("tmp/part")
    writer.write(b"abc")
    assert disk.read("tmp/part") == b"abc"
    with pytest.raises(StorageError, match="File exists"):
        disk.create("tmp/part")
    writer.abort()
    assert list(disk.list()) == []


def test_a_whole_part_is_renamed_not_copied(disk: Store) -> None:
    disk.put("tmp/part", b"0123")
    inode = Path(disk.root, "tmp/part").stat().st_ino
    disk.publish("b/a.out", [Piece("tmp/part", 0, 4)], "tmp")
    assert Path(disk.root, "b/a.out").stat().st_ino == inode
    assert names(disk) == ["b/a.out"]


def test_temporary_neighbours_of_the_dead_are_swept(disk: Store) -> None:
    disk.put("u/.mine.tmp", b"")
    for folder in ("u/", "u/v/"):
        disk.put(folder + temp_name(), b"half")
    assert names(disk) == ["u/.mine.tmp"]
    assert disk.sweep("w") == 0
    assert disk.sweep() == 2
    assert temporaries(disk) == [".mine.tmp"]


def test_a_path_through_a_file_is_an_error_that_names_it(disk: Store) -> None:
    disk.put("a", b"1")
    assert disk.stat("a/b") is None
    disk.delete("a/b")
    for act in (
        lambda: disk.put("a/b", b""),
        lambda: disk.put_if_absent("a/b", b""),
        lambda: disk.create("a/b"),
        lambda: disk.publish("a/b", [], "tmp"),
    ):
        with pytest.raises(StorageError, match=r"a/b: Not a directory"):
            act()
    disk.put("d/x", b"")
    with pytest.raises(StorageError, match="Is a directory"):
        disk.put("d", b"")
    assert temporaries(disk) == []


def test_both_ways_of_copying_agree(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(3 * MIB)
    (tmp_path / "source").write_bytes(data)
    for number, copy in enumerate((copy_range, copy_by_reading)):
        target = tmp_path / f"target{number}"
        with open(tmp_path / "source", "rb") as source, open(target, "wb") as file:
            assert copy(source.fileno(), file.fileno(), 5, 2 * MIB) == 2 * MIB
            assert copy(source.fileno(), file.fileno(), 3 * MIB - 2, 100) == 2
        assert target.read_bytes() == data[5 : 5 + 2 * MIB] + data[-2:]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Store]:
    """A disk of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a full disk needs the right to mount one")
    yield open_store(str(folder))
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_there(small_disk: Store) -> None:
    small_disk.put("a.out", b"old")
    small_disk.put("tmp/part", bytes(100_000))
    acts = (
        lambda: small_disk.put("a.out", bytes(300_000)),
        lambda: small_disk.put_if_absent("b", bytes(300_000)),
        lambda: small_disk.publish("a.out", [Piece("tmp/part", 0, 99_999)] * 3, "tmp"),
    )
    for act in acts:
        with pytest.raises(StorageError, match="No space left on device"):
            act()
    writer = small_disk.create("tmp/growing")
    with pytest.raises(StorageError, match=r"write .*tmp/growing: No space left"):
        writer.write(bytes(300_000))
    writer.abort()
    assert small_disk.read("a.out") == b"old"
    assert names(small_disk) == ["a.out", "tmp/part"]
    assert temporaries(small_disk) == []


def test_parts_on_another_file_system(small_disk: Store, disk: Store) -> None:
    """The kernel copies such pieces or refuses to; a rename is refused, never lost."""
    small_disk.put("part", b"0123456789")
    os.makedirs(disk.root)
    Path(disk.root, "far").symlink_to(small_disk.root)
    disk.put("a.out", b"old")
    disk.publish("b.out", [Piece("far/part", 0, 3), Piece("far/part", 5, 5)], "tmp")
    assert disk.read("b.out") == b"01256789"
    with pytest.raises(StorageError, match="cross-device"):
        disk.publish("a.out", [Piece("far/part", 0, 10)], "tmp")
    assert disk.read("a.out") == b"old"
