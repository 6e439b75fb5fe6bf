import gzip
import io
import json
import os
import random
import struct
import tarfile
import zipfile
import zlib

import artefacts
import numpy as np
import pytest
from artefacts import ndarray_list, tar_gz_of, tar_of, zip_of

from object2vec.errors import ModelError
from object2vec.sagemaker import archive as archive_module
from object2vec.sagemaker import gunzip, members, zipped
from object2vec.sagemaker.archive import open_archive

SYMBOL = json.dumps({"nodes": [], "arg_nodes": []}).encode()
PARAMS = ndarray_list({"a": np.ones((2, 3), "float32")})
META = b'{"training_parameters": {"enc0_max_seq_len": "7"}}'
ZIP = zip_of({"meta.json": META, "symbol.json": SYMBOL, "params": PARAMS})
TAR = tar_of({"model_algo-1": ZIP})
MIB = 1 << 20


def contents(data, tmp_path, name="model.tar.gz"):
    """symbol, params, metadata; and the members the first two are from."""
    path = tmp_path / name
    path.write_bytes(data)
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    with open_archive(path, scratch) as found:
        assert os.listdir(scratch) == []
        assert found.params.tell() == 0
        params = found.params.read()
        assert len(params) == found.params_size
        return (
            (found.symbol, params, found.metadata),
            (found.symbol_name, found.params_name),
        )


def refusal(data, tmp_path):
    """What an artefact is refused with; it took no second, no memory, and left no file."""
    path = tmp_path / "model.tar.gz"
    path.write_bytes(data)
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    with (
        artefacts.cheaply(8 * MIB),
        pytest.raises(ModelError) as caught,
        open_archive(path, scratch),
    ):
        pass
    assert os.listdir(scratch) == [] and sorted(os.listdir(tmp_path)) == ["model.tar.gz", "scratch"]
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and text.isascii() and text.isprintable()
    assert len(text) < 500 + len(str(path))
    return text.removeprefix(f"{path}: ")


# What is read.

LAYOUTS = {
    "usual": (tar_gz_of({"model_algo-1": ZIP}), "model_algo-1!symbol.json", "model_algo-1!params"),
    "plain tar": (TAR, "model_algo-1!symbol.json", "model_algo-1!params"),
    "bare zip": (ZIP, "model.tar.gz!symbol.json", "model.tar.gz!params"),
    "deflated": (
        tar_gz_of(
            {
                "./model_algo-1": zip_of(
                    {"meta.json": META, "symbol.json": SYMBOL, "params": PARAMS},
                    zipfile.ZIP_DEFLATED,
                )
            }
        ),
        "./model_algo-1!symbol.json",
        "./model_algo-1!params",
    ),
    "linear learner": (
        tar_gz_of(
            {
                "model_algo-1": zip_of(
                    {
                        "additional-params.json": META,
                        "mx-mod-symbol.json": SYMBOL,
                        "mx-mod-0000.params": PARAMS,
                    }
                )
            }
        ),
        "model_algo-1!mx-mod-symbol.json",
        "model_algo-1!mx-mod-0000.params",
    ),
    "deepar": (
        tar_gz_of(
            {
                "model_algo-1-0000.params": PARAMS,
                "meta.json": META,
                "model_algo-1-symbol.json": SYMBOL,
                "a picture": b"\x89PNG",
                "nothing": b"",
            }
        ),
        "model_algo-1-symbol.json",
        "model_algo-1-0000.params",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_are_read(layout, tmp_path):
    data, symbol_name, params_name = LAYOUTS[layout]
    (symbol, params, metadata), names = contents(data, tmp_path)
    assert (symbol, params) == (SYMBOL, PARAMS)
    assert list(metadata.values()) == [{"training_parameters": {"enc0_max_seq_len": "7"}}]
    assert names == (symbol_name, params_name)


def test_a_byte_order_mark_is_read_as_if_it_were_not_there(tmp_path):
    mark = b"\xef\xbb\xbf"
    box = zip_of({"meta.json": mark + META, "symbol.json": mark + b"\n" + SYMBOL, "p": PARAMS})
    (symbol, _, metadata), _ = contents(tar_gz_of({"model_algo-1": box}), tmp_path)
    assert symbol == b"\n" + SYMBOL
    assert metadata == {"model_algo-1!meta.json": json.loads(META)}
    assert "like JSON" in refusal(mark + META, tmp_path)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["m" * 90, f"{'d' * 80}/{'m' * 80}", "dir/model_algo-1"])
def test_tars_of_all_formats_are_read(format, name, tmp_path):
    _, (symbol_name, _) = contents(tar_gz_of({name: ZIP}, format), tmp_path)
    assert symbol_name == f"{name}!symbol.json"


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["m" * 300, "modell_für_größe", "模型" * 60])
def test_long_names_and_other_letters_are_read(format, name, tmp_path):
    _, (symbol_name, _) = contents(tar_gz_of({name: ZIP}, format), tmp_path)
    assert symbol_name == f"{ascii(name)[1:-1]}!symbol.json"


def test_directories_and_global_headers_are_passed_over(tmp_path):
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}
    ) as tar:
        folder = tarfile.TarInfo("./model/")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(folder)
        info = tarfile.TarInfo("./model/model_algo-1")
        info.size, info.mtime = len(ZIP), 1.5
        info.pax_headers = {"size": str(len(ZIP)), "LIBARCHIVE.xattr.x": "y"}
        tar.addfile(info, io.BytesIO(ZIP))
    contents(file.getvalue(), tmp_path)


def test_a_size_in_binary_is_read(tmp_path):
    contents(tar(header("model_algo-1", size=len(ZIP), binary=True), body(ZIP)), tmp_path)


def test_gzip_of_several_members_and_padding_is_read(tmp_path):
    half = len(TAR) // 2
    pieces = gzip.compress(TAR[:half]) + gzip.compress(b"") + gzip.compress(TAR[half:])
    contents(pieces + bytes(100_000), tmp_path)


def test_a_zip_with_folders_a_comment_and_unsized_headers_is_read(tmp_path):
    class Pipe(io.RawIOBase):
        """Cannot go back, so sizes follow the data."""

        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", b"")
        archive.comment = b"a comment"
        archive.writestr("folder/symbol.json", SYMBOL)
        with archive.open("params", "w", force_zip64=True) as opened:
            opened.write(PARAMS)
    contents(pipe.data, tmp_path)


def test_a_symbol_larger_than_metadata_may_be_is_read(tmp_path):
    symbol = json.dumps({"pad": "x" * 3 * MIB, "nodes": [], "arg_nodes": []}).encode()
    (found, _, _), _ = contents(tar_gz_of({"s": symbol, "p": PARAMS}), tmp_path)
    assert found == symbol


def test_a_symbol_that_is_too_large_is_refused(tmp_path):
    symbol = json.dumps({"pad": "x" * 8 * MIB, "nodes": [], "arg_nodes": []}).encode()
    data = tar_of({"s": symbol, "p": PARAMS})
    assert "found s (JSON of 8,388,649 bytes, too large)" in refusal(data, tmp_path)


def test_json_too_large_for_metadata_is_passed_over(tmp_path):
    large = json.dumps({"vocabulary": "x" * MIB}).encode()
    huge = b'{"vocabulary": "' + b"x" * 9 * MIB
    medium = json.dumps({"pad": "x" * (MIB - 100)}).encode()
    parts = {"l": large, "h": huge, "s": SYMBOL, "p": PARAMS, "1": medium, "2": medium, "3": medium}
    (_, _, metadata), _ = contents(tar_of(parts), tmp_path)
    assert list(metadata) == ["1", "2"]


def test_params_are_good_until_the_block_ends(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(ZIP)
    with open_archive(path, tmp_path) as found:
        params = found.params
        assert params.fileno() >= 0
    assert params.closed


# What is missing, or there twice.


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "no model is in it; found nothing"),
        ({"readme.txt": b"hello"}, "found readme.txt (something that begins with b'hello')"),
        ({"meta.json": META}, "no model is in it; found meta.json"),
        ({"model_algo-1": PARAMS}, "model_algo-1 holds arrays, but no symbol.json says"),
        ({"s": SYMBOL, "empty": b""}, "no params; found empty (empty)"),
        ({"s": SYMBOL, "t": SYMBOL, "p": PARAMS}, "member 't' holds a symbol, and so does s"),
        ({"s": SYMBOL, "p": PARAMS, "q": PARAMS}, "member 'q' holds params, and so does p"),
        ({"a": ZIP, "b": ZIP}, "member 'b!symbol.json' holds a symbol, and so does a!symbol.json"),
        ({"a": zip_of({"b": ZIP})}, "member 'a!b' is a ZIP in a ZIP"),
        ({"meta.json": b'{"a": '}, "member 'meta.json' begins like JSON, but is damaged"),
        ({"meta.json": b'{"a": "\xff"}'}, "member 'meta.json' begins like JSON, but is damaged"),
        ({"meta.json": b'{"a": ' + b"[" * 100_000}, "member 'meta.json' begins like JSON"),
        ({"meta.json": b'{"a": ' + b"1" * 9000 + b"}"}, "member 'meta.json' begins like JSON"),
    ],
)
def test_what_is_no_model_is_refused(parts, words, tmp_path):
    assert words in refusal(tar_gz_of(parts), tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "but empty"),
        (b"<html><body>Access denied", "a web page"),
        (b'{"message": "Forbidden"}', "like JSON"),
        (PARAMS, "a bare list of arrays"),
        (b"hello" * 200, "begins with b'hellohel'"),
        (gzip.compress(b""), "the tar ends behind the archive's beginning"),
        (gzip.compress(b"hello" * 200), "the header behind the archive's beginning is damaged"),
        (gzip.compress(ZIP + bytes(512)), "the header behind the archive's beginning is damaged"),
        (gzip.compress(bytes(10240)), "no model is in it; found nothing"),
    ],
)
def test_other_files_are_refused(data, words, tmp_path):
    assert words in refusal(data, tmp_path)


def test_what_cannot_be_opened_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, words in (
        (tmp_path / "none", "cannot be read: No such file"),
        (tmp_path, "is no regular file"),
        (tmp_path / "fifo", "is no regular file"),
    ):
        with pytest.raises(ModelError, match=words), open_archive(path, tmp_path):
            pass


def test_a_scratch_folder_that_is_not_there_is_no_fault_of_the_model(tmp_path):
    (tmp_path / "m").write_bytes(TAR)
    with pytest.raises(FileNotFoundError), open_archive(tmp_path / "m", tmp_path / "none"):
        pass


# Hostile tars.


def header(name, kind=b"0", size=0, link="", binary=False, magic=b"ustar\x0000"):
    """One block; a size that is bytes is put there as it is."""
    raw_name = name if isinstance(name, bytes) else name.encode()
    if isinstance(size, int):
        size = b"\x80" + size.to_bytes(11, "big") if binary else b"%011o\0" % size
    block = bytearray(512)
    block[0 : len(raw_name)] = raw_name
    block[100:108] = b"0000644\0"
    block[124:136] = size
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157 : 157 + len(link)] = link.encode()
    block[257:265] = magic
    block[148:156] = b"%06o\0 " % sum(block)
    return [bytes(block)]


def body(data):
    return data + bytes(-len(data) % 512)


def tar(*parts, end=bytes(1024)):
    return b"".join(b"".join(part) if isinstance(part, list) else part for part in parts) + end


def pax(*records, kind=b"x"):
    data = b"".join(records)
    return [*header("PaxHeader", kind, len(data)), body(data)]


def record(key, value):
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


HOSTILE_TARS = {
    "traversal": (tar(header("../../etc/x")), "member '../../etc/x' leads out"),
    "hidden traversal": (tar(header("a/../b")), "member 'a/../b' leads out"),
    "traversal by a backslash": (tar(header("a\\..\\b")), "leads out"),
    "traversal by a prefix": (tar(header("..", b"5")), "member '..' leads out"),
    "absolute": (tar(header("/etc/passwd")), "member '/etc/passwd' has an absolute path"),
    "long absolute": (
        tar(header("x", b"L", 5), body(b"/etc\0"), header("x")),
        "member '/etc' has an absolute path",
    ),
    "absolute by pax": (
        tar(pax(record(b"path", b"/etc/x")), header("x")),
        "member '/etc/x' has an absolute path",
    ),
    "no UTF-8": (tar(header(b"mod\xff\xfeel")), r"member b'mod\xff\xfeel' has a name that is not"),
    "no UTF-8 in pax": (
        tar(pax(record(b"hdrcharset", b"BINARY"), record(b"path", b"\xc3(")), header("x")),
        r"member b'\xc3(' has a name that is not UTF-8",
    ),
    "NUL": (tar(pax(record(b"path", b"a\0b")), header("x")), r"member 'a\x00b' has NUL"),
    "escape codes": (tar(header("\x1b[2J\n", b"2")), r"member '\x1b[2J\n' is a symbolic link"),
    "no name": (tar(header("")), "member '' has no name"),
    "endless name": (
        tar(header("x", b"L", 60_000), body(b"a" * 60_000), header("x")),
        "(60,000 long) has a name of 60,000 bytes",
    ),
    "symbolic link": (tar(header("s", b"2", link="/etc/passwd")), "'s' is a symbolic link"),
    "hard link": (tar(header("h", b"1", link="/etc/passwd")), "'h' is a hard link"),
    "long link": (
        tar(header("x", b"K", 5), body(b"/etc\0"), header("s", b"2")),
        "'s' is a symbolic link",
    ),
    "character device": (tar(header("c", b"3")), "'c' is a character device"),
    "block device": (tar(header("b", b"4")), "'b' is a block device"),
    "pipe": (tar(header("p", b"6")), "'p' is a named pipe"),
    "sparse": (tar(header("s", b"S")), "'s' is a sparse file"),
    "sparse by pax": (
        tar(pax(record(b"GNU.sparse.major", b"1")), header("s")),
        "is a sparse file",
    ),
    "unknown kind": (tar(header("u", b"Z")), "'u' is of type b'Z'"),
    "65 members": (tar(*(header(f"m{i}") for i in range(65))), "'m64' is member number 65"),
    "65 folders": (tar(*(header(f"m{i}", b"5") for i in range(65))), "'m64' is member number 65"),
    "twice": (tar(header("a", size=1), body(b"x"), header("a")), "member 'a' is there twice"),
    "negative size": (tar(header("n", size=b"\xff" * 12)), "'n' has a size that is no number"),
    "no size": (tar(header("n", size=b"  twelve \0  ")), "'n' has a size that is no number"),
    "size by sign": (tar(header("n", size=b"-0000000017\0")), "'n' has a size that is no number"),
    "size beyond 64 bits": (
        tar(header("n", size=2**80, binary=True)),
        "'n' says it is 1,208,925,819,614,629,174,706,176 bytes large",
    ),
    "size of 100 GiB": (tar(header("n", size=100 << 30, binary=True)), "'n' says it is 107,374"),
    "size of 50 GiB": (
        tar(header("n", size=50 << 30, binary=True)),
        "'n' ends after 1,024 of 53,687,091,200 bytes",
    ),
    "size by pax": (
        tar(pax(record(b"size", b"99999999999999999")), header("n")),
        "'n' says it is 99,999,999,999,999,999 bytes",
    ),
    "negative size by pax": (
        tar(pax(record(b"size", b"-512")), header("n")),
        "'n' has a size that is no number",
    ),
    "digits by pax": (
        tar(pax(record(b"size", b"9" * 50_000)), header("n")),
        "'n' has a size that is no number",
    ),
    "size for all": (
        tar(pax(record(b"size", b"0"), kind=b"g"), header("n")),
        "one name or size is given to all members",
    ),
    "pax bomb": (
        tar(header("bomb", b"x", 1 << 30, binary=True)),
        "member 'bomb' is a header of 1,073,741,824 bytes",
    ),
    "long name bomb": (tar(header("bomb", b"L", 1 << 30)), "'bomb' is a header of"),
    "quadratic pax": (tar(pax(b"1" * 65_000), header("n")), "extended header behind the archive's"),
    "damaged pax": (tar(pax(b"99 path=x\n"), header("n")), "extended header behind"),
    "pax of length 0": (tar(pax(b"0 path=x\n"), header("n")), "extended header behind"),
    "pax without a key": (tar(pax(b"5 ab\n"), header("n")), "extended header behind"),
    "headers without end": (
        tar(*(pax(record(b"comment", b"x")) for _ in range(300))),
        "'PaxHeader' is one header too many",
    ),
    "many records": (
        tar(*(pax(*(b"6 a=b\n" for _ in range(10_000))) for _ in range(100))),
        "'PaxHeader' is one header too many",
    ),
    "header of nothing": (
        tar(pax(record(b"path", b"x"))),
        "a header describes a member that is missing",
    ),
    "damaged header": (
        tar(header("a"), b"\1" + header("b")[0][1:]),
        "the header behind member 'a' is damaged",
    ),
    "no end": (tar(header("a"), end=b""), "ends behind member 'a', without its end mark"),
    "two tars": (tar(header("a")) + tar(header("b")), "something follows the end of the tar"),
    "zeros without end": (TAR + bytes(17 * MIB), "something follows the end of the tar"),
}


@pytest.mark.parametrize("case", HOSTILE_TARS)
def test_a_hostile_tar_is_refused_at_once(case, tmp_path):
    data, words = HOSTILE_TARS[case]
    assert words in refusal(data, tmp_path)


def test_what_members_declare_is_added_up(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MAX_BYTES", 2000)
    parts = {f"m{i}": bytes(900) for i in range(3)}
    words = "'m2' says it is 900 bytes large; all members together may have 2,000"
    assert words in refusal(tar_of(parts), tmp_path)
    zipped = words.replace("m2", "model.tar.gz!m2")
    assert zipped in refusal(zip_of(parts), tmp_path)


@pytest.mark.parametrize("size", [*range(0, 3000, 37), *range(3000, len(TAR), 512)])
def test_a_tar_that_is_cut_is_refused(size, tmp_path):
    if size < len(TAR.rstrip(b"\0")) // 512 * 512 + 512:  # what follows is the end mark
        refusal(TAR[:size], tmp_path)


def test_a_tar_is_cut_until_its_end_mark_begins(tmp_path):
    end = 512 + len(body(ZIP))
    assert "without its end mark" in refusal(TAR[:end], tmp_path)
    contents(TAR[: end + 512], tmp_path)


# Hostile gzip.


def test_a_gzip_that_is_cut_anywhere_is_refused(tmp_path):
    data = tar_gz_of({"model_algo-1": ZIP})
    for size in range(len(data)):
        refusal(data[:size], tmp_path)


def bomb(size, tail=b""):
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(MIB)
    start = tar(header("model_algo-1", size=size), end=b"")
    pieces = [packer.compress(start), *(packer.compress(zeros) for _ in range(size // MIB))]
    return b"".join([*pieces, packer.compress(tail), packer.flush()])


HOSTILE_GZIP = {
    "bomb": (bomb(1 << 30), "swells to more than 200 times its size"),
    "bomb behind the end": (
        gzip.compress(TAR) + gzip.compress(bytes(100 * MIB)),
        "something follows the end of the tar",
    ),
    "bomb of nothing": (gzip.compress(b"") * 200_000, "is made of very many tiny members"),
    "garbage": (gzip.compress(TAR) + b"garbage", "followed by something that is not gzip"),
    "garbage in padding": (gzip.compress(TAR) + bytes(99) + b"g", "that is not gzip"),
    "wrong sum": (
        gzip.compress(TAR)[:-8] + bytes(4) + gzip.compress(TAR)[-4:],
        "is damaged (Error -3 while decompressing data: incorrect data check)",
    ),
    "wrong length": (gzip.compress(TAR)[:-4] + bytes(4), "incorrect length check"),
    "unknown method": (b"\x1f\x8b\x07" + bytes(30), "unknown compression method"),
    "endless name": (b"\x1f\x8b\x08\x08" + b"a" * 4 * MIB, "ends early"),
    "only a head": (b"\x1f\x8b", "ends early"),
}


@pytest.mark.parametrize("case", HOSTILE_GZIP)
def test_a_hostile_gzip_is_refused_at_once(case, tmp_path):
    data, words = HOSTILE_GZIP[case]
    text = refusal(data, tmp_path)
    assert words in text
    assert text.startswith("the gzip stream, at byte ") or "tar" in words


def test_what_swells_less_than_the_limit_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(gunzip, "FREE_BYTES", MIB)
    table = ndarray_list({"a": np.tile(np.arange(700, dtype="float32"), 2000)})
    data = tar_gz_of({"s": SYMBOL, "p": table})
    assert 50 < len(table) / len(data) < 200
    contents(data, tmp_path)
    monkeypatch.setattr(gunzip, "MAX_RATIO", 50)
    assert "swells to more than 50 times" in refusal(data, tmp_path)


# Hostile ZIPs.


def patched(data, at, layout, *values):
    """`data` with other numbers `at` a distance from the first directory entry."""
    start = data.index(b"PK\1\2") + at
    size = struct.calcsize(layout)
    return data[:start] + struct.pack(layout, *values) + data[start + size :]


def ended(data, at, layout, *values):
    start = data.rindex(b"PK\5\6") + at
    size = struct.calcsize(layout)
    return data[:start] + struct.pack(layout, *values) + data[start + size :]


def zip_with(name, data=b"", **attributes):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("name")
        info.filename = name
        for key, value in attributes.items():
            setattr(info, key, value)
        archive.writestr(info, data)
    return file.getvalue()


def overlapping():
    """Two entries that share one body, as in Fifield's bombs."""
    one = zip_of({"aaaa": b"x" * 5000})
    start = one.index(b"PK\1\2")
    entry = one[start : one.rindex(b"PK\5\6")]
    twice = one[:start] + entry + entry.replace(b"aaaa", b"bbbb") + one[one.rindex(b"PK\5\6") :]
    return ended(twice, 8, "<HHI", 2, 2, 2 * len(entry))


def directory_bomb(num_entries):
    """A directory of many entries that all point at one file."""
    one = zip_of({"aaaa": b"x"})
    start = one.index(b"PK\1\2")
    entry = one[start : one.rindex(b"PK\5\6")]
    many = one[:start] + entry * num_entries + one[one.rindex(b"PK\5\6") :]
    size = num_entries * len(entry)
    return ended(many, 8, "<HHI", num_entries & 0xFFFF, num_entries & 0xFFFF, size)


SMALL = zip_of({"aaaa": b"x" * 100})
DEFLATED = zip_of({"aaaa": b"x" * 100}, zipfile.ZIP_DEFLATED)
A = "member 'model_algo-1!aaaa' "

HOSTILE_ZIPS = {
    "traversal": (zip_with("../../x"), "member '../../x' leads out"),
    "absolute": (zip_with("/etc/x"), "member '/etc/x' has an absolute path"),
    "NUL": (SMALL.replace(b"aaaa", b"a\0aa"), r"member 'a\x00aa' has NUL"),
    "no name": (zip_with(""), "member '' has no name"),
    "endless name": (zip_with("a" * 60_000), "(60,000 long) has a name of 60,000 bytes"),
    "no UTF-8": (
        zip_with("für").replace("für".encode(), b"f\xff\xffr"),
        r"member b'f\xff\xffr' of 'model_algo-1' has a name that is not UTF-8",
    ),
    "symbolic link": (
        zip_with("s", b"/etc/passwd", external_attr=0o120777 << 16),
        "member 'model_algo-1!s' is a link or a device",
    ),
    "encrypted": (patched(SMALL, 8, "<H", 1), A + "is encrypted"),
    "patched": (patched(SMALL, 8, "<H", 0x20), A + "is compressed in way 0"),
    "bzip2": (zip_of({"aaaa": b"x"}, zipfile.ZIP_BZIP2), A + "is compressed in way 12"),
    "lzma": (zip_of({"aaaa": b"x"}, zipfile.ZIP_LZMA), A + "is compressed in way 14"),
    "unknown method": (patched(SMALL, 10, "<H", 99), A + "is compressed in way 99"),
    "later version": (patched(SMALL, 6, "<H", 90), "is a ZIP that is cut or damaged"),
    "65 members": (
        zip_of({f"m{i}": b"" for i in range(65)}),
        "member 'model_algo-1!m64' is member number 65",
    ),
    "overlapping": (overlapping(), "overlaps with the next member"),
    "bomb": (
        zip_of({"aaaa": bytes(100 * MIB)}, zipfile.ZIP_DEFLATED),
        "swell to 104,857,600; more than 200 times is refused",
    ),
    "larger than it says": (patched(DEFLATED, 24, "<I", 50), A + "is damaged (Bad CRC-32"),
    "smaller than it says": (patched(DEFLATED, 24, "<I", 150), A + "is shorter than the 150"),
    "two sizes": (patched(SMALL, 24, "<I", 50), A + "is not compressed, and yet has two sizes"),
    "sizes of 4 GiB": (patched(SMALL, 20, "<II", 2**32 - 2, 2**32 - 2), "overlaps with"),
    "wrong sum": (patched(SMALL, 16, "<I", 1), A + "is damaged (Bad CRC-32"),
    "no deflate stream": (
        patched(DEFLATED, 0, "<4s", b"PK\1\2").replace(
            DEFLATED[34 : DEFLATED.index(b"PK\1\2")],
            b"\xff" * (DEFLATED.index(b"PK\1\2") - 34),
        ),
        A + "is damaged (Error -3",
    ),
    "offset behind the end": (patched(SMALL, 42, "<I", 2**32 - 2), "overlaps with"),
    "offset to no header": (
        b"PK\3\4".join(zip_of({"aaaa": b"", "bbbb": b""}).split(b"PK\3\4")[:2])
        + b"PK\3\5"
        + zip_of({"aaaa": b"", "bbbb": b""}).split(b"PK\3\4")[2],
        "member 'model_algo-1!bbbb' has a damaged header (Bad magic number",
    ),
    "offset behind its data": (patched(SMALL, 42, "<I", 1), "overlaps with"),
    "other name in the header": (
        SMALL[:30] + b"bbbb" + SMALL[34:],
        "File name in directory 'aaaa' and header b'bbbb' differ",
    ),
    "other, endless name in the header": (
        (zip_of({"aaaa": b"x" * 2000})[:26] + struct.pack("<H", 1900))
        + zip_of({"aaaa": b"x" * 2000})[28:],
        A + "has a damaged header (File name in directory",
    ),
    "wrong count": (ended(SMALL, 8, "<HH", 2, 2), "says it has 2 members, but lists 1"),
    "directory elsewhere": (ended(SMALL, 16, "<I", 2**32 - 2), "overlaps with"),
    "directory of 4 GiB": (ended(SMALL, 12, "<I", 2**32 - 2), "is a ZIP that is cut or damaged"),
    "directory bomb": (directory_bomb(100_000), "larger than any honest one"),
    "small directory bomb": (directory_bomb(5_000), "is member number 65"),
    "no directory": (SMALL[: SMALL.index(b"PK\1\2")], "is a ZIP that is cut or damaged"),
    "more disks": (
        SMALL[: SMALL.rindex(b"PK\5\6")]
        + struct.pack("<4sIQI", b"PK\6\7", 1, 0, 5)
        + SMALL[SMALL.rindex(b"PK\5\6") :],
        "multiple disks",
    ),
    "ZIP64 of 2**64": (
        SMALL[: SMALL.rindex(b"PK\5\6")]
        + struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**64 - 1, 2**64 - 1)
        + struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
        + SMALL[SMALL.rindex(b"PK\5\6") :],
        "is a ZIP that is cut or damaged",
    ),
}


@pytest.mark.parametrize("case", HOSTILE_ZIPS)
def test_a_hostile_zip_is_refused_at_once(case, tmp_path):
    data, words = HOSTILE_ZIPS[case]
    text = refusal(tar_of({"model_algo-1": data}), tmp_path)
    assert words in text and text.startswith("member ")


def test_zipfile_cannot_leave_its_file():
    for offset, whence in ((4, 0), (-1, 0), (-4, 2), (1, 2)):
        with pytest.raises(zipfile.BadZipFile, match="out of the file"):
            zipped._Guarded(io.BytesIO(b"abc"), 3).seek(offset, whence)


def test_a_name_twice_in_a_zip_is_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"x")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", b"x")
    assert "member 'model.tar.gz!a' is there twice" in refusal(file.getvalue(), tmp_path)


def test_a_zip_that_is_cut_anywhere_is_refused(tmp_path):
    for size in range(4, len(ZIP)):
        refusal(ZIP[:size], tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.write_bytes(zip_of({"symbol.json": SYMBOL, "params": bytes(300_000)}))
    monkeypatch.setattr(
        archive_module._Finds, "head", lambda *_: os.truncate(path, 5000) or b"\x12"
    )
    with pytest.raises(ModelError), open_archive(path, tmp_path):
        pass


# Golden ones, whole and damaged.


@pytest.mark.parametrize("case", artefacts.GOLDEN)
def test_golden_archives_open(case, tmp_path):
    parts = artefacts.unpacked(case)
    data = (artefacts.golden(case) / "model.tar.gz").read_bytes()
    (symbol, params, metadata), names = contents(data, tmp_path)
    assert (symbol, params) == (parts["symbol.json"], parts["params"])
    assert metadata == {"model_algo-1!meta.json": json.loads(parts["meta.json"])}
    assert names == ("model_algo-1!symbol.json", "model_algo-1!params")


@pytest.mark.parametrize("layer", ["gzip", "tar", "zip"])
def test_damage_anywhere_is_refused_or_does_not_matter(layer, tmp_path):
    whole = {"gzip": tar_gz_of({"model_algo-1": ZIP}), "tar": TAR, "zip": ZIP}[layer]
    chance = random.Random(4)
    path = tmp_path / "m"
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            data[chance.randrange(len(data))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
        path.write_bytes(data)
        try:
            with open_archive(path, tmp_path) as found:
                assert found.params.read() == PARAMS
        except ModelError:
            pass
