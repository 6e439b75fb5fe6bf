"""What is remembered between runs, and when it is not believed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from object2vec import cache
from object2vec.cache import cache_folder, content_hash


@pytest.fixture
def big(tmp_path, monkeypatch):
    """A file that counts as large and as settled."""
    monkeypatch.setenv("OBJECT2VEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_WORTH_BYTES", 4)
    monkeypatch.setattr(cache, "_SETTLED_S", -1.0)
    path = tmp_path / "weights"
    path.write_bytes(b"first bytes")
    return path


def sha256(text):
    return hashlib.sha256(text).hexdigest()


def lie(folder):
    """Changes what is remembered, so that a test sees whether it is believed."""
    (memory,) = (folder / "hashes").iterdir()
    memory.write_text(memory.read_text().replace(sha256(b"first bytes"), "remembered"))


def test_a_hash_is_remembered_while_its_file_stays_untouched(big):
    assert content_hash(big) == sha256(b"first bytes")
    lie(cache_folder())
    assert content_hash(big) == "remembered"
    assert content_hash(Path(os.path.relpath(big))) == "remembered"


def test_writing_over_a_file_voids_what_is_remembered_even_if_its_times_are_set_back(big):
    content_hash(big)
    lie(cache_folder())
    times = (big.stat().st_atime_ns, big.stat().st_mtime_ns)
    big.write_bytes(b"other bytes")  # as many
    os.utime(big, ns=times)
    assert content_hash(big) == sha256(b"other bytes")


def test_a_copy_with_its_times_is_another_file(big, tmp_path):
    content_hash(big)
    lie(cache_folder())
    stat = big.stat()
    big.rename(tmp_path / "moved")
    big.write_bytes(b"other bytes")
    os.utime(big, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content_hash(big) == sha256(b"other bytes")


def test_a_file_that_changed_just_now_is_not_remembered(big, monkeypatch):
    monkeypatch.setattr(cache, "_SETTLED_S", 60.0)
    content_hash(big)
    assert not (cache_folder() / "hashes").exists()


def test_small_files_are_not_remembered(big, monkeypatch):
    monkeypatch.setattr(cache, "_WORTH_BYTES", 1000)
    content_hash(big)
    assert not (cache_folder() / "hashes").exists()


@pytest.mark.parametrize("damage", ["", "[1]", "{}", "null", '{"identity": 3}', "{", "\0"])
def test_a_damaged_memory_is_as_good_as_none(big, damage):
    content_hash(big)
    (memory,) = (cache_folder() / "hashes").iterdir()
    memory.write_text(damage)
    assert content_hash(big) == sha256(b"first bytes")


def test_where_the_cache_cannot_be_written_the_file_is_read_again(big, tmp_path, monkeypatch):
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("OBJECT2VEC_CACHE", str(tmp_path / "a_file" / "cache"))
    assert content_hash(big) == content_hash(big) == sha256(b"first bytes")


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("OBJECT2VEC_CACHE", "/here")
    assert cache_folder() == Path("/here")
    monkeypatch.delenv("OBJECT2VEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert cache_folder() == Path("/there/object2vec")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "object2vec"
