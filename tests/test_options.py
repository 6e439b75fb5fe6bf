"""The command line: each flag does something, and what nobody knows ends the run."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from jobs import ROOT, run, save_model

from object2vec.config import StoredConfig
from object2vec.errors import UsageError
from pipeline.__main__ import main
from pipeline.beam_flags import runner_of
from pipeline.embed import recipe_of
from pipeline.options import (
    JobOptions,
    parse_content_type,
    parse_environment,
    parse_options,
    parse_seqlens,
    usable_cores,
)

NEEDED = ("--model=m", "--input=i", "--output=o")


def parse(*flags: str) -> JobOptions:
    return parse_options([*NEEDED, *flags])


def refusal(*flags: str) -> str:
    """What a command line is refused with: one line, whatever it was."""
    with pytest.raises(UsageError) as caught:
        parse(*flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_those_of_the_manual():
    options = parse()
    assert (options.model, options.inputs, options.output) == ("m", ("i",), "o")
    assert options.content_type == options.accept == "application/jsonlines"
    assert options.max_seq_lens is None and options.unit_bytes is None
    assert options.out_of_range_ids is None and options.preferred_mode is None
    assert (options.on_bad_record, options.device) == ("fail_file", "auto")
    assert (options.batch_tokens, options.max_line_bytes) == (65_536, 6 * 2**20)
    assert (options.workers, options.threads) == (1, usable_cores())
    assert options.exit_code_if_nothing == 0 and options.beam_args == ()
    switches = ("overwrite", "force_unlock", "require_determinism", "debug", "dry_run")
    assert not any(getattr(options, name) for name in switches)


def test_input_may_be_given_several_times():
    assert parse("--input=j").inputs == ("i", "j")


@pytest.mark.parametrize("name", ["model", "input", "output"])
def test_three_flags_are_needed(name):
    flags = [flag for flag in NEEDED if not flag.startswith(f"--{name}")]
    with pytest.raises(UsageError, match=f"required: --{name}"):
        parse_options(flags)


@pytest.mark.parametrize(
    "flag, name, value",
    [
        ("--on_bad_record=placeholder", "on_bad_record", "placeholder"),
        ("--on_bad_record=dead_letter", "on_bad_record", "dead_letter"),
        ("--out_of_range_ids=clip", "out_of_range_ids", "clip"),
        ("--out_of_range_ids=error", "out_of_range_ids", "error"),
        ("--batch_tokens=1", "batch_tokens", 1),
        ("--unit_bytes=5M", "unit_bytes", 5 * 2**20),
        ("--max_line_bytes=9", "max_line_bytes", 9),
        ("--device=cuda", "device", "cuda"),
        ("--threads=3", "threads", 3),
        ("--workers=3", "workers", 3),
        ("--exit_code_if_nothing=99", "exit_code_if_nothing", 99),
        ("--infer_max_seqlens=1,5000", "max_seq_lens", (1, 5000)),
        ("--accept=avro/binary", "accept", "avro/binary"),
        ("--accept=Application/JSON", "accept", "application/json"),
    ],
)
def test_a_value_arrives(flag, name, value):
    assert getattr(parse(flag), name) == value != getattr(parse(), name)


@pytest.mark.parametrize(
    "name", ["overwrite", "force_unlock", "require_determinism", "debug", "dry_run"]
)
def test_a_switch_may_say_true_or_false(name):
    for flag in (f"--{name}", f"--{name}=true", f"--{name}=TRUE", f"--{name}=1", f"--{name}=yes"):
        assert getattr(parse(flag), name) is True
    for flag in (f"--{name}=false", f"--{name}=0", f"--{name}=no"):
        assert getattr(parse(flag), name) is False
    assert f"--{name}: 'maybe' is neither true nor false" in refusal(f"--{name}=maybe")


def test_a_switch_before_another_flag_takes_no_value_from_it():
    options = parse_options(["--overwrite", *NEEDED])
    assert options.overwrite and options.model == "m"


@pytest.mark.parametrize(
    "text, size",
    [
        ("1", 1),
        ("256k", 2**18),
        ("256K", 2**18),
        ("256kB", 2**18),
        ("4MiB", 2**22),
        ("4 MiB", 2**22),
        ("1g", 2**30),
        ("1GB", 2**30),
        ("7b", 7),
    ],
)
def test_sizes_take_suffixes(text, size):
    assert parse(f"--unit_bytes={text}").unit_bytes == size
    assert parse(f"--max_line_bytes={text}").max_line_bytes == size


@pytest.mark.parametrize("text", ["", "-1", "1.5M", "M", "4MM", "4TiB", "4 i", "four", "0x10"])
def test_other_sizes_are_refused(text):
    assert "is not a size such as" in refusal(f"--unit_bytes={text}")


@pytest.mark.parametrize(
    "flag",
    [
        "--batch_tokens=0",
        "--batch_tokens=-4",
        "--max_line_bytes=0",
        "--unit_bytes=0",
        "--threads=0",
        "--threads=-1",
        "--workers=0",
    ],
)
def test_counts_are_at_least_one(flag):
    assert refusal(flag) == f"{flag}: must be at least 1"


@pytest.mark.parametrize(
    "flag, reason",
    [
        ("--batch_tokens=many", "invalid int value"),
        ("--threads=2.5", "invalid int value"),
        ("--device=gpu", "invalid choice: 'gpu'"),
        ("--on_bad_record=skip", "invalid choice: 'skip'"),
        ("--out_of_range_ids=wrap", "invalid choice: 'wrap'"),
        ("--content_type=text/csv", "--content_type=text/csv: must be one of"),
        ("--content_type=avro/binary", "--content_type=avro/binary: must be one of"),
        ("--accept=text/csv", "--accept=text/csv: must be one of"),
        ("--exit_code_if_nothing=256", "an exit code is 0 to 255"),
        ("--exit_code_if_nothing=-1", "an exit code is 0 to 255"),
        ("--output=\udcff", "not valid UTF-8"),
        ("--input=a\udcff/b", "not valid UTF-8"),
        ("--model=\udcff", "not valid UTF-8"),
    ],
)
def test_bad_values_are_refused_by_name(flag, reason):
    assert reason in refusal(flag)


def test_threads_are_the_cores_divided_by_the_workers():
    assert parse("--workers=2").threads == max(1, usable_cores() // 2)
    assert parse("--workers=1000").threads == 1
    assert parse("--workers=1000", "--threads=7").threads == 7


@pytest.mark.parametrize(
    "text",
    [
        "application/jsonlines; infer_max_seqlens=50,100",
        "application/jsonlines;infer_max_seqlens=50,100",
        " Application/JSONLines ; Infer_Max_Seqlens = 50 , 100 ",
        'application/jsonlines; infer_max_seqlens="50,100"',
        "application/jsonlines; charset=utf-8; infer_max_seqlens=50,100",
        "application/jsonlines; infer_max_seqlens=50,100; charset=utf-8",
        "application/jsonlines;; infer_max_seqlens=50,100;",
    ],
)
def test_a_content_type_is_written_in_many_ways(text):
    assert parse_content_type(text) == ("application/jsonlines", (50, 100))


def test_other_parameters_of_a_content_type_say_nothing():
    assert parse_content_type("application/json; charset=utf-8") == ("application/json", None)


@pytest.mark.parametrize("text", ["50", "50,", ",50", "50,100,150", "a,b", "1.5,2", "-1,5", ""])
def test_lengths_are_two_integers(text):
    with pytest.raises(UsageError, match="must be two integers"):
        parse_seqlens(text)
    assert "must be two" in refusal(f"--content_type=application/json; infer_max_seqlens={text}")
    assert "must be two" in refusal(f"--infer_max_seqlens={text}")


@pytest.mark.parametrize("text", ["0,5", "5,0", "5001,1", "1,5001", "99999999999999999999,1"])
def test_lengths_go_from_1_to_5000(text):
    assert "go from 1 to 5000" in refusal(f"--infer_max_seqlens={text}")


def test_lengths_given_twice_must_agree():
    header = "--content_type=application/jsonlines; infer_max_seqlens=5,6"
    assert parse(header).max_seq_lens == (5, 6)
    assert parse(header, "--infer_max_seqlens=5,6").max_seq_lens == (5, 6)
    told = refusal(header, "--infer_max_seqlens=6,5")
    assert "(6, 5)" in told and "(5, 6)" in told


def test_lengths_belong_to_the_content_type():
    header = "; infer_max_seqlens=5,6"
    assert "say it in --content_type" in refusal(f"--accept=application/jsonlines{header}")
    same = (f"--content_type=application/json{header}", f"--accept=application/json{header}")
    assert parse(*same).max_seq_lens == (5, 6)


def test_accept_follows_the_content_type():
    options = parse("--content_type=application/json; infer_max_seqlens=1,2")
    assert options.accept == "application/json"
    mixed = parse("--content_type=application/json", "--accept=application/jsonlines")
    assert (mixed.content_type, mixed.accept) == ("application/json", "application/jsonlines")


def test_avro_has_no_place_for_placeholders():
    told = refusal("--accept=avro/binary", "--on_bad_record=placeholder")
    assert "use dead_letter" in told
    assert parse("--accept=avro/binary", "--on_bad_record=dead_letter").accept == "avro/binary"


def test_the_environment_sets_the_mode_and_keeps_the_rest():
    options = parse("--env=A=1=2", "--env=INFERENCE_PREFERRED_MODE=classification", "--env=_B=")
    assert options.preferred_mode == "classification"
    assert ("A", "1=2") in options.environment and ("_B", "") in options.environment
    assert parse("--env=INFERENCE_PREFERRED_MODE=embedding").preferred_mode == "embedding"


@pytest.mark.parametrize(
    "pairs, reason",
    [
        (["A"], "must be NAME=VALUE"),
        (["=1"], "must be NAME=VALUE"),
        (["1A=1"], "must be NAME=VALUE"),
        (["A B=1"], "must be NAME=VALUE"),
        (["A" * 1025 + "=1"], "must be NAME=VALUE"),
        (["A=1", "A=2"], "--env=A is given twice"),
        (["INFERENCE_PREFERRED_MODE=both"], "must be embedding or classification"),
        (["INFERENCE_PREFERRED_MODE="], "must be embedding or classification"),
        ([f"A{i}=1" for i in range(17)], "limit is 16"),
    ],
)
def test_environments_that_sagemaker_refuses_are_refused(pairs, reason):
    with pytest.raises(UsageError, match=reason):
        parse_environment(pairs)


def test_sixteen_variables_are_allowed():
    assert len(parse_environment([f"A{i}=1" for i in range(16)])) == 16


def test_beams_flags_are_known():
    flags = ["--labels=airflow-version=v2", "--labels=a=b", "--runner=DirectRunner"]
    assert parse(*flags).beam_args == tuple(flags)


@pytest.mark.parametrize(
    "flag, reason",
    [
        ("--nosuch", "unknown flags: --nosuch "),
        ("--nosuch=1", "unknown flags: --nosuch "),
        ("--batch_token=1", "unknown flags: --batch_token "),  # no abbreviations of ours
        ("--run=DirectRunner", "unknown flags: --run "),  # nor of Beam's
        ("data/", "'data/' is no flag"),
        ("-v", "'-v' is no flag"),
        ("--", "'--' is no flag"),
        ("--=1", "'--=1' is no flag"),
        ("--direct_num_workers=some", "invalid int value: 'some'"),
        ("--runner=NoSuchRunner", "--runner=NoSuchRunner: Unexpected pipeline runner"),
    ],
)
def test_what_nobody_knows_is_refused(flag, reason):
    assert reason in refusal("--labels=a=b", flag)


def test_all_unknown_flags_are_named():
    assert "--one, --two" in refusal("--two=2", "--one", "--labels=a=b")


@pytest.mark.parametrize(
    "flags, name",
    [
        ([], "FnApiRunner"),
        (["--runner=DirectRunner"], "FnApiRunner"),
        (["--runner=directrunner"], "FnApiRunner"),
        (["--runner=fnapirunner"], "FnApiRunner"),
        (["--runner=BundleBasedDirectRunner"], "BundleBasedDirectRunner"),
        (["--runner=FlinkRunner"], "FlinkRunner"),
    ],
)
def test_the_direct_runner_is_beams_own_and_downloads_nothing(flags, name):
    assert runner_of(flags) == name


def test_an_error_is_one_line_and_exit_code_2(capsys):
    assert main([*NEEDED, "--nosuch=1"]) == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"object2vec: unknown flags: --nosuch .*\n", told)


def test_beams_own_refusal_is_one_line_too(capsys):
    assert main([*NEEDED, "--direct_num_workers=some"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--debug", "--debug=true", "--debug=YES"])
def test_debug_shows_the_traceback(flag, capsys, caplog):
    assert main([*NEEDED, flag, "--threads=0"]) == 2
    shown = caplog.text + capsys.readouterr().err
    assert "Traceback" in shown and "UsageError" in shown


def test_without_debug_there_is_no_traceback(capsys, caplog):
    assert main([*NEEDED, "--debug=false", "--threads=0"]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in caplog.text + captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_help_groups_the_flags_and_gives_four_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    groups = re.findall(r"^([\w' ]+):$", told, re.MULTILINE)
    assert {"what to do", "in SageMaker's words", "records", "the machine"} < set(groups)
    examples = told[told.index("examples:") : told.index("exit codes:")]
    assert len(re.findall(r"^  \S.*\n    object2vec --model", examples, re.MULTILINE)) == 4
    for name in JobOptions.__dataclass_fields__:
        if name not in ("inputs", "max_seq_lens", "environment", "beam_args"):
            assert f"--{name}" in told


def test_help_imports_neither_beam_nor_torch():
    script = (
        "import sys\n"
        "from pipeline.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as ended:\n    assert ended.code == 0\n"
        "assert not {'apache_beam', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout


def test_the_recipe_takes_what_the_options_leave_from_the_model(tmp_path):
    stored = StoredConfig.load(save_model(tmp_path / "m", out_of_range="clip"))
    recipe = recipe_of(parse(), stored)
    assert recipe.max_seq_lens == (12, 12) and recipe.clips == (True, True)
    assert recipe.model_hash == stored.model_hash and recipe.vocab_sizes == (50, 50)
    changed = recipe_of(parse("--out_of_range_ids=error", "--infer_max_seqlens=7,8"), stored)
    assert changed.max_seq_lens == (7, 8) and changed.clips == (False, False)


@pytest.mark.parametrize(
    "flag, changes",
    [
        ("--infer_max_seqlens=7,8", True),
        ("--out_of_range_ids=clip", True),
        ("--on_bad_record=placeholder", True),
        ("--content_type=application/json", True),
        ("--accept=application/json", True),
        ("--max_line_bytes=9", True),
        ("--batch_tokens=9", False),
        ("--unit_bytes=9M", False),
        ("--threads=9", False),
        ("--workers=9", False),
        ("--device=cpu", False),
        ("--env=INFERENCE_PREFERRED_MODE=embedding", False),
        ("--infer_max_seqlens=12,12", False),
        ("--out_of_range_ids=error", False),
    ],
)
def test_the_recipe_changes_with_what_decides_bytes_and_nothing_else(tmp_path, flag, changes):
    stored = StoredConfig.load(save_model(tmp_path / "m"))
    assert (recipe_of(parse(flag), stored).hash != recipe_of(parse(), stored).hash) == changes


def test_workers_of_this_machine_do_not_go_with_a_cluster(tmp_path, capsys):
    flags = ["--workers=2", "--runner=FlinkRunner"]
    assert run(model="m", input="i", output=tmp_path / "o", flags=flags) == 2
    assert "--workers=2 starts processes on this machine" in capsys.readouterr().err
    assert not os.listdir(tmp_path)
