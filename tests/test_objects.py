"""What only object stores do, and do wrong: uploads, versions, a service in trouble."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from object2vec.errors import FileError, InputError, StorageError
from transforms.objects import PART_BYTES, ObjectStore
from transforms.storage import Piece, Store

if TYPE_CHECKING:
    from s3_server import FaultProxy

pytest_plugins = ("s3_server",)
MIB = 1 << 20


def names(store: Store, prefix: str = "") -> list[str]:
    return [found.name for found in store.list(prefix)]


def open_uploads(bucket: str) -> list[str]:
    """Keys of the multipart uploads that are open in a bucket."""
    reply = boto3.client("s3").list_multipart_uploads(Bucket=bucket)
    return [upload["Key"] for upload in reply.get("Uploads", [])]


def test_a_large_object_goes_up_in_parts_and_an_abandoned_one_is_swept(s3_store: str) -> None:
    store = ObjectStore(s3_store + "/root")
    block = random.Random(1).randbytes(PART_BYTES + 1)
    with store.create("tmp/large") as writer:
        writer.write(block)
    found = store.stat("tmp/large")
    assert found is not None
    assert found.version.endswith('-2"')
    assert store.read("tmp/large", PART_BYTES - 1) == block[-2:]

    with pytest.raises(KeyError), store.create("tmp/failed") as failed:
        failed.write(block)
        raise KeyError
    assert open_uploads(store.bucket) == []

    s3 = boto3.client("s3")
    for key in ("root/tmp/dead", "root/a.out", "root-of-others/x"):
        s3.create_multipart_upload(Bucket=store.bucket, Key=key)
    store.delete_all("tmp")
    assert sorted(open_uploads(store.bucket)) == ["root-of-others/x", "root/a.out"]
    assert store.sweep() == 1
    assert open_uploads(store.bucket) == ["root-of-others/x"]
    assert names(store) == []


def test_a_dropped_writer_publishes_nothing(s3_store: str) -> None:
    store = ObjectStore(s3_store)
    writer = store.create("a")
    writer.write(b"1")
    del writer
    assert store.stat("a") is None


def test_streaming_makes_the_same_object(s3_store: str) -> None:
    """What GCS and Azure do; they have no server here."""
    store = ObjectStore(s3_store)
    data = random.Random(2).randbytes(17 * MIB)
    store.put("p", data)
    store._stream("a", [Piece("p", 5, 17 * MIB - 5), Piece("p", 0, 5)])
    assert store.read("a") == data[5:] + data[:5]
    with pytest.raises(FileError):
        store._stream("a", [Piece("p", 0, 5), Piece("gone", 0, 5)])
    assert store.read("a") == data[5:] + data[:5]


def test_folder_marks_are_not_files(s3_store: str) -> None:
    store = ObjectStore(s3_store)
    s3 = boto3.client("s3")
    for key in ("d/", "e/", "e/x", "f"):
        s3.put_object(Bucket=store.bucket, Key=key, Body=b"")
    assert names(store) == ["e/x", "f"]
    assert names(store, "d") == []
    store.put("d", b"a file beside its mark")
    assert next((found.name, found.size) for found in store.list()) == ("d", 22)
    assert names(store) == ["d", "e/x", "f"]
    assert names(store, "d") == []


def test_a_key_that_is_not_a_path_is_refused_aloud(s3_store: str) -> None:
    store = ObjectStore(s3_store)
    boto3.client("s3").put_object(Bucket=store.bucket, Key="a//b", Body=b"")
    with pytest.raises(InputError, match="a//b"):
        list(store.list())
    for act in (lambda: store.put("a\nb", b""), lambda: store.create("a\tb")):
        with pytest.raises(ValueError, match="not a name on an object store"):
            act()


def test_only_the_version_that_was_seen_is_replaced(s3_store: str) -> None:
    store = ObjectStore(s3_store)
    first = store.swap("a", b"1", None)
    assert first is not None
    assert store.swap("a", b"x", None) is None
    second = store.swap("a", b"2", first)
    assert second is not None
    assert store.swap("a", b"x", first) is None
    assert store.read("a", version=second) == b"2"
    assert store.swap("gone", b"x", first) is None


def test_a_bucket_that_is_not_there(s3_store: str) -> None:
    store = ObjectStore("s3://no-such-bucket/root")
    pieces = [Piece("p", 0, 1), Piece("q", 0, 1)]
    for act in (
        lambda: list(store.list()),
        lambda: store.put("a", b""),
        lambda: store.put_if_absent("a", b""),
        lambda: store.delete("a"),
        lambda: store.sweep(),
        lambda: store.publish("a", pieces, "tmp"),
        lambda: store.create("a").close(),
    ):
        with pytest.raises(StorageError, match=r"NoSuchBucket|does not exist"):
            act()


def test_refusals_say_what_the_service_said_and_no_key(s3_store: str, s3_proxy: FaultProxy) -> None:
    store = ObjectStore(s3_store)
    s3_proxy.fault = lambda method, path: 403
    pieces = [Piece("p", 0, 1), Piece("q", 0, 1)]
    for act in (
        lambda: list(store.list()),
        lambda: store.stat("a"),
        lambda: store.read("a"),
        lambda: store.put("a", b""),
        lambda: store.delete("a"),
        lambda: store.publish("a", pieces, "tmp"),
        lambda: store.sweep(),
        lambda: store.create("a").close(),
    ):
        with pytest.raises(StorageError, match=r"403|Forbidden|Injected") as caught:
            act()
        shown = str(caught.value) + repr(caught.value)
        assert os.environ["AWS_ACCESS_KEY_ID"] not in shown
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in shown


def test_a_service_in_trouble_is_asked_again(s3_store: str, s3_proxy: FaultProxy) -> None:
    rng = random.Random(5)
    s3_proxy.fault = lambda method, path: 503 if rng.random() < 0.3 else None
    store = ObjectStore(s3_store)
    data = rng.randbytes(6 * MIB)
    store.put("p", data)
    store.publish("a", [Piece("p", 0, 6 * MIB - 1), Piece("p", 0, 1)], "tmp")
    assert store.read("a") == data[:-1] + data[:1]
    for number in range(20):
        store.put(f"n/{number}", b"%d" % number)
    assert len(names(store, "n")) == 20
    assert s3_proxy.num_faults > 5
    s3_proxy.fault = lambda method, path: None
    assert open_uploads(store.bucket) == []


def test_half_a_body_is_never_taken_for_the_whole(s3_store: str, s3_proxy: FaultProxy) -> None:
    store = ObjectStore(s3_store)
    data = random.Random(6).randbytes(100_000)
    store.put("a", data)
    faults: list[str | None] = ["half"] * 12
    s3_proxy.fault = lambda method, path: faults.pop() if method == "GET" and faults else None
    assert store.read("a") == data
    assert s3_proxy.num_faults == 12


@pytest.mark.parametrize("status", [403, "lost"])
def test_the_last_step_of_an_upload_fails(
    s3_store: str, s3_proxy: FaultProxy, status: str | int
) -> None:
    """Refused: the old object stays. Done, but the reply lost: that is success."""
    store = ObjectStore(s3_store)
    store.put("a", b"old")
    store.put("p", bytes(6 * MIB))
    pieces = [Piece("p", 0, 6 * MIB), Piece("p", 0, 1)]

    def fault(method: str, path: str) -> str | int | None:
        if method != "POST" or "uploadId=" not in path:
            return None
        # A reply is lost once; the repetition is told that there is no such upload.
        return 404 if status == "lost" and s3_proxy.num_faults else status

    s3_proxy.fault = fault
    if status == "lost":
        store.publish("a", pieces, "tmp")
        assert store.read("a") == bytes(6 * MIB + 1)
    else:
        with pytest.raises(StorageError, match=r"cannot publish .*Injected"):
            store.publish("a", pieces, "tmp")
        assert store.read("a") == b"old"
    assert s3_proxy.num_faults >= 1
    assert open_uploads(store.bucket) == []


def test_a_copy_that_fails_keeps_the_old_object(s3_store: str, s3_proxy: FaultProxy) -> None:
    store = ObjectStore(s3_store)
    store.put("a", b"old")
    store.put("p", b"new")
    s3_proxy.fault = lambda method, path: 403 if method == "PUT" else None
    with pytest.raises(StorageError, match="publish"):
        store.publish("a", [Piece("p", 0, 3)], "tmp")
    assert store.read("a") == b"old"


def test_keys_of_a_profile_are_found(
    s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    profile = tmp_path / "credentials"
    profile.write_text("[mine]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    store = ObjectStore(s3_store)
    store.put("a", b"1")
    assert store.read("a") == b"1"
