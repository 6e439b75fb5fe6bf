"""Damaged and hostile artefacts: read or refused, at once, in little memory, nothing left behind.

What is done to them, and how to see one of them again: `fuzzing.py`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter

import numpy as np
import pytest
from artefacts import golden, model_tar_gz, ndarray_list, tar_gz_of, tar_of, zip_of
from fuzzing import LAYERS, MADE, kinds_of
from graphs import Side, object2vec, random_arrays
from jobs import ROOT

from pipeline.__main__ import main

# How many mutations of each case; those of the large ones take ten times as long.
GOLDEN = {
    "v1_hcnn_default": 400,
    "v2_pooled_tied_sparse": 2_000,
    "v3_pooled_movie_regression": 200,
    "v4_mixed_encoders": 6_000,
    "v5_hcnn_w1_l1": 6_500,
    "v6_bilstm_inferred": 6_500,
}
SHARES = {"gzip": 0.1, "tar": 0.12, "zip": 0.15, "symbol": 0.3, "params": 0.2, "meta": 0.13}

# No half of these is whole, and an array without its last byte, or with one more, is none.
NEVER_ACCEPTED = {
    "gzip/cut",
    "zip/cut",
    "params/cut",
    "symbol/cut",
    "meta/cut",
    "params/insert",
    "params/delete",
}
# Where nobody looks there may be more or less; but such places are few.
RARELY_ACCEPTED = {"gzip/delete", "gzip/insert", "gzip/duplicate", "zip/delete", "symbol/set"}


def fuzzed(plan, folder):
    """Runs a plan in two processes.

    Args:
      plan: how many mutations of each case.

    Returns:
      Counter of `layer/kind/verdict`.
    """
    names = ([], [])
    for case, count in plan.items():
        for layer, share in SHARES.items():
            stop = round(share * count)
            names[0].append(f"{case}/{layer}/0:{stop // 2}")
            names[1].append(f"{case}/{layer}/{stop // 2}:{stop}")
    started = [begin(folder / str(i), part) for i, part in enumerate(names)]
    reports = [ended(folder / str(i), process) for i, process in enumerate(started)]
    for report in reports:
        print({key: report[key] for key in ("slowest", "largest", "base", "seconds")})
    failures = [failure for report in reports for failure in report["failures"]]
    assert not failures, "\n\n".join(
        [
            *failures,
            "To see one again: PYTHONPATH=. python -W error tests/fuzzing.py <case/layer/number>",
        ]
    )
    return sum((Counter(report["counts"]) for report in reports), Counter())


def begin(folder, names, code="fuzzing.main(sys.argv[1:])"):
    """Starts a process that has never heard of torch."""
    folder.mkdir()
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-c", f"import sys, fuzzing\n{code}"),
            *(f"--folder={folder}", *names),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(folder, process):
    out, err = process.communicate()
    if process.returncode:
        how = "hung" if process.returncode == -signal.SIGALRM else f"ended it: {err[-3000:]}"
        now = folder / "now"
        pytest.fail(f"{now.read_text().strip() if now.exists() else 'The beginning'} {how}")
    return json.loads(out)


def check_shares(counts, least):
    """Each kind of damage to each layer was tried, and both verdicts were heard of."""
    for layer in LAYERS:
        for kind in {name.partition(" ")[0] for name in kinds_of(layer)}:
            place = f"{layer}/{kind}"
            accepted, refused = counts[f"{place}/accepted"], counts[f"{place}/refused"]
            assert refused + accepted >= least and refused >= least // 20, place
            if place in NEVER_ACCEPTED:
                assert accepted == 0, place
            elif place not in RARELY_ACCEPTED:
                assert accepted > 0, place


def test_damaged_artefacts_made_by_hand_are_read_or_refused(tmp_path):
    counts = fuzzed(dict.fromkeys(MADE, 1_500), tmp_path)
    assert counts.total() == 4_500
    check_shares(counts, least=40)


def test_damaged_golden_artefacts_are_read_or_refused(tmp_path):
    for case in GOLDEN:
        golden(case)  # skips, or fails, where they are missing
    counts = fuzzed(GOLDEN, tmp_path)
    assert counts.total() >= 20_000
    check_shares(counts, least=200)
    for layer, share in SHARES.items():
        assert sum(n for key, n in counts.items() if key.startswith(layer)) > 0.99 * share * 20_000


FAULTS = {
    "another error": ("raise KeyError('x')", "KeyError: 'x'"),
    "two lines": ("raise ModelError(f'{path}: a\\nb')", "is not one short line"),
    "endless": ("raise ModelError(f'{path}: ' + 'a' * 10**4)", "is not one short line"),
    "no name": ("raise ModelError('it is damaged')", "does not name the archive"),
    "a warning": ("np.float64(1e300).astype(np.float32)", "RuntimeWarning: overflow"),
    "a file left": ("(scratch / 'x').touch()", "left in scratch: ['x']"),
    "a file open": ("KEPT.append(open(path))", "some file stays open"),
    "memory": ("np.ones(10**7)", "bytes for an artefact of"),
    "more memory than there is": ("np.ones(2**29)", "MemoryError"),
    "time": ("end = time.process_time() + 1.1\nwhile time.process_time() < end: pass", "took 1.1"),
    "waiting": ("time.sleep(2.1)", "s of computing, 2.1"),
    "torch": ("sys.modules['torch'] = None", "torch was imported"),
}


def with_fault(fault, hang_s=20):
    """The importer, but on damaged artefacts it does something more."""
    lines = "\n        ".join(fault.splitlines())
    return f"""
import contextlib, time
import numpy as np
from object2vec.errors import ModelError
KEPT, CALLS = [], []
honest = fuzzing.read_archive
@contextlib.contextmanager
def faulty(path, scratch):
    CALLS.append(path)
    if len(CALLS) > 1:  # the first is whole
        {lines}
    with honest(path, scratch) as imported:
        yield imported
fuzzing.read_archive = faulty
fuzzing.HANG_S = {hang_s}
fuzzing.main(sys.argv[1:])
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_if_it_is_there(fault, tmp_path):
    code, words = FAULTS[fault]
    process = begin(tmp_path / "x", ["hcnn/params/1"], with_fault(code))
    failures = ended(tmp_path / "x", process)["failures"]
    assert failures and all(words in failure for failure in failures), failures


def test_what_hangs_is_named(tmp_path):
    process = begin(tmp_path / "x", ["hcnn/params/1"], with_fault("time.sleep(99)", hang_s=1))
    with pytest.raises(pytest.fail.Exception, match="hcnn/params/1 hung"):
        ended(tmp_path / "x", process)


# Artefacts that somebody made to do harm, through the command line.

SYMBOL = object2vec(Side())
ARRAYS = random_arrays(Side())
META = {"training_parameters": {"enc0_max_seq_len": "12", "enc1_max_seq_len": "9"}}
PARAMS = ndarray_list(ARRAYS)


def with_params(params):
    members = {"meta.json": json.dumps(META), "symbol.json": json.dumps(SYMBOL), "params": params}
    return tar_gz_of({"model_algo-1": zip_of(members)})


def gzip_bomb(size):
    """A member of `size` zeros, all of them there. A thousand times smaller, in no time."""
    file = io.BytesIO()
    info = tarfile.TarInfo("model_algo-1")
    info.size = size
    packer = zlib.compressobj(9, wbits=31)
    file.write(packer.compress(info.tobuf(tarfile.GNU_FORMAT)) + packer.flush(zlib.Z_FULL_FLUSH))
    zeros = bytes(1 << 20)
    # After a full flush, equal bytes are compressed to equal bytes.
    megabyte = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    file.write(megabyte * (size // len(zeros)))
    return file.getvalue() + packer.flush()


def zip_bomb():
    zeros = {"params": bytes(100 << 20)}
    return tar_gz_of({"model_algo-1": zip_of(zeros, zipfile.ZIP_DEFLATED)})


def tar_with(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + tar_of({}), 1)


def altered_shape(*shape):
    """The first array, a table of 50 x 12, says it is larger."""
    return with_params(PARAMS.replace(struct.pack("<qq", 50, 12), struct.pack("<qq", *shape), 1))


WHOLE = model_tar_gz(SYMBOL, ARRAYS, META)
HOSTILE = {
    "gzip bomb": (gzip_bomb(10 << 30), "model_algo-1"),
    "zip bomb": (zip_bomb(), "model_algo-1!params"),
    "symbolic link": (tar_with("model_algo-1", tarfile.SYMTYPE, "/etc/passwd"), "model_algo-1"),
    "hard link": (tar_with("model_algo-1", tarfile.LNKTYPE, "../x"), "model_algo-1"),
    "traversal": (tar_with("../x"), "../x"),
    "absolute": (tar_with("/deep/x"), "/deep/x"),
    "traversal in the ZIP": (tar_gz_of({"model_algo-1": zip_of({"../x": b""})}), "../x"),
    "cut": (WHOLE[:-2000], "model_algo-1"),
    "cut at its end": (WHOLE[:-1], "the gzip stream"),
    "cut inside": (with_params(PARAMS[:-5]), "model_algo-1!params"),
    "one array more": (
        with_params(PARAMS[:16] + struct.pack("<Q", len(ARRAYS) + 1) + PARAMS[24:]),
        "model_algo-1!params",
    ),
    "2**63 arrays": (
        with_params(PARAMS[:16] + struct.pack("<Q", 2**63) + PARAMS[24:]),
        "model_algo-1!params",
    ),
    "shape that overflows": (altered_shape(2**33, 2**33), "model_algo-1!params"),
    "shape that overflows to what is there": (
        altered_shape(2**62 + 50, 2**2 * 3),
        "model_algo-1!params",
    ),
    "negative shape": (altered_shape(-50, -12), "model_algo-1!params"),
    "shape of a terabyte": (altered_shape(2**38, 1), "model_algo-1!params"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_artefact_ends_the_command_with_3_and_one_line(
    case, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OBJECT2VEC_CACHE", str(tmp_path / "cache"))
    data, member = HOSTILE[case]
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(data)
    capsys.readouterr()
    started = time.process_time()
    assert main(["import-model", str(archive), str(tmp_path / "new" / "model")]) == 3
    assert time.process_time() - started < 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and told.err.strip().isprintable()
    assert str(archive) in told.err and member in told.err
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left <= {"model.tar.gz", "new"}


def test_what_the_hostile_ones_were_made_of_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("OBJECT2VEC_CACHE", str(tmp_path / "cache"))
    for place, data in enumerate((WHOLE, with_params(PARAMS), altered_shape(50, 12))):
        archive = tmp_path / f"{place}.tar.gz"
        archive.write_bytes(data)
        assert main(["import-model", str(archive), str(tmp_path / str(place))]) == 0
    assert np.prod(ARRAYS["embed_0_weight"].shape) == 50 * 12
