"""Compressed input: every cut is an error, every byte is there, no bomb fills the memory."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from object2vec.errors import FileError
from transforms.compression import HEAD_BYTES, PIECE_BYTES, Kind, decompress, detect

RNG = random.Random(11)
TEXT = b"".join(b'{"in0":[%d]}\n' % RNG.randrange(10**6) for _ in range(40))
LARGE = RNG.randbytes(300_000) + bytes(3_000_000) + TEXT * 500


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def zstd(data: bytes) -> bytes:
    """As the zstd command writes: with a checksum, without the size."""
    return zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(data)


def zstd_plain(data: bytes) -> bytes:
    """With the size, in a single segment, without a checksum."""
    return zstandard.ZstdCompressor(level=19).compress(data)


Packer = Callable[[bytes], bytes]
PACKERS: list[tuple[Kind, Packer]] = [("gzip", gzipped), ("zstd", zstd), ("zstd", zstd_plain)]
packed = pytest.mark.parametrize(("kind", "pack"), PACKERS)


def cut(data: bytes, step: int) -> Iterator[bytes]:
    return (data[k : k + step] for k in range(0, len(data), step))


def unpack(data: bytes, kind: Kind, step: int = 1 << 20) -> bytes:
    return b"".join(decompress(cut(data, step), kind, "a.x"))


@packed
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_what_was_packed_comes_out(kind: Kind, pack: Packer, step: int) -> None:
    for data in (b"", b"a", TEXT, *([LARGE] if step > 7 else [])):
        assert unpack(pack(data), kind, step) == data


@packed
def test_pieces_are_small_and_not_empty(kind: Kind, pack: Packer) -> None:
    sizes = [len(piece) for piece in decompress(iter([pack(LARGE)]), kind, "a")]
    assert min(sizes) > 0
    assert max(sizes) <= PIECE_BYTES


@packed
def test_members_follow_one_another(kind: Kind, pack: Packer) -> None:
    data = pack(TEXT) + pack(b"") + pack(LARGE) + pack(b"end")
    for step in (1000, 1 << 20):
        assert unpack(data, kind, step) == TEXT + LARGE + b"end"
    assert unpack(pack(b"a") + pack(b"b"), kind, 1) == b"ab"


@packed
def test_a_cut_at_every_byte_is_an_error(kind: Kind, pack: Packer) -> None:
    first, second = pack(TEXT), pack(b"second")
    whole = first + second
    for size in range(len(whole)):
        if size == len(first):
            continue  # a whole file
        for step in (1 << 20, 5):
            with pytest.raises(FileError, match=rf"a\.x: .*ends early, at byte {size} of"):
                unpack(whole[:size], kind, step)


@packed
def test_every_flipped_byte_is_an_error_or_harmless(kind: Kind, pack: Packer) -> None:
    whole = pack(TEXT)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        try:
            found = unpack(bytes(damaged), kind)
        except FileError:
            continue
        # gzip's time stamp and system byte, for example; zstd without a checksum sees little.
        assert found == TEXT or pack is zstd_plain, place


@given(st.binary(max_size=40), st.sampled_from(PACKERS), st.integers(1, 50))
def test_garbage_behind_the_end_is_an_error(
    garbage: bytes, packer: tuple[Kind, Packer], step: int
) -> None:
    kind, pack = packer
    whole = pack(b"text")
    if not garbage.strip(b"\0") and (kind == "gzip" or not garbage):
        assert unpack(whole + garbage, kind, step) == b"text"
        return
    with pytest.raises(FileError, match="of the compressed file"):
        unpack(whole + garbage, kind, step)


def test_garbage_is_found_where_it_begins() -> None:
    whole = gzipped(b"text")
    with pytest.raises(FileError, match=f"not gzip, at byte {len(whole)} of"):
        unpack(whole + b"garbage", "gzip")
    with pytest.raises(FileError, match=f"not gzip, at byte {len(whole) + 1000} of"):
        unpack(whole + bytes(1000) + gzipped(b"hidden"), "gzip", 100)
    whole = zstd(b"text")
    with pytest.raises(FileError, match=f"not zstd, at byte {len(whole)} of"):
        unpack(whole + b"garbage", "zstd")


def test_frames_to_be_skipped_are_skipped() -> None:
    skip = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    assert detect(skip[:HEAD_BYTES], "a.zst") == "zstd"
    assert unpack(skip + zstd(TEXT) + skip + zstd(b"b"), "zstd", 9) == TEXT + b"b"
    with pytest.raises(FileError, match="ends early"):
        unpack(zstd(TEXT) + skip[:-1], "zstd")


def test_a_window_of_long_distance_is_refused() -> None:
    window = zstandard.ZstdCompressionParameters.from_level(3, window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=window).compressobj()
    data = compressor.compress(TEXT) + compressor.flush()
    with pytest.raises(FileError, match="128 MiB"):
        unpack(data, "zstd")


@pytest.mark.parametrize(
    ("head", "file", "kind"),
    [
        (b"\x1f\x8b\x08\0", "a.jsonl.gz", "gzip"),
        (b"\x1f\x8b\x08\0", "a.jsonl", "gzip"),
        (b"\x28\xb5\x2f\xfd", "a.ZST", "zstd"),
        (b"\x28\xb5\x2f\xfd", "a", "zstd"),
        (b'{"in', "a.jsonl", None),
        (b"", "a.jsonl", None),
        (b"", "gz", None),
        (b"\x1f", "a", None),
    ],
)
def test_the_first_bytes_tell(head: bytes, file: str, kind: Kind | None) -> None:
    assert detect(head, file) == kind


@pytest.mark.parametrize(
    ("head", "file", "reason"),
    [
        (b"", "a.gz", "empty"),
        (b"", "a.zst", "empty"),
        (b"\x1f", "a.gz", "not gzip data, against its name"),
        (b'{"in', "a.jsonl.gz", "not gzip data"),
        (b"\x28\xb5\x2f\xfd", "a.gz", "not gzip data but zstd"),
        (b"\x1f\x8b\x08\0", "a.zst", "not zstd data but gzip"),
    ],
)
def test_a_name_that_promises_something_else(head: bytes, file: str, reason: str) -> None:
    with pytest.raises(FileError, match=reason):
        detect(head, file)


def test_other_bytes_are_neither() -> None:
    with pytest.raises(FileError, match="no gzip data, at byte 0"):
        unpack(zlib.compress(TEXT), "gzip")
    with pytest.raises(FileError, match="not zstd, at byte 0"):
        unpack(TEXT, "zstd")


@packed
def test_a_bomb_does_not_fill_the_memory(kind: Kind, pack: Packer, tmp_path: Path) -> None:
    """400 MB of zeros pass through a process that grows by less than 32 MB."""
    piece = pack(bytes(100 << 20))
    (tmp_path / "bomb").write_bytes(piece * 4)
    program = (
        "import resource, sys\n"
        "from transforms.compression import decompress\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "size = sum(len(p) for p in decompress(iter([data]), sys.argv[2], 'a'))\n"
        "print(size, peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb"), kind],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    size, grown_kib = map(int, done.stdout.split())
    assert size == 400 << 20
    assert grown_kib < 32 << 10
