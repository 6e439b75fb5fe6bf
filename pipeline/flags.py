"""Our flags, grouped and explained: what `--help` prints."""

from __future__ import annotations

import argparse
import re
from typing import Any

from object2vec.errors import UsageError
from transforms.recipe import DEAD_LETTER, FAIL_FILE, JSON_LINES, PLACEHOLDER

IMPORT_MODEL = "import-model"
"""The word that makes a command line one of `pipeline/import_model.py`."""

_EXAMPLES = """
examples:
  embed a folder, one .out per file, on all cores of this machine
    object2vec --model=model/ --input=data/ --output=out/

  what SageMaker's job said, in its words
    object2vec --model=model/ --input=data/ --output=out/ \\
      --content_type="application/jsonlines; infer_max_seqlens=50,100" \\
      --env=INFERENCE_PREFERRED_MODE=embedding

  a model.tar.gz of SageMaker's, as it is; or looked at first, as a directory with a card
    object2vec --model=model.tar.gz --input=data/ --output=out/
    object2vec import-model model.tar.gz model/        (import-model --help says more)

  from S3 to S3 every night; two processes; bad lines set aside; 99 if nothing is new
    object2vec --model=model/ --input=s3://bucket/in --output=s3://bucket/out \\
      --workers=2 --on_bad_record=dead_letter --exit_code_if_nothing=99

exit codes:
  0 done; 1 finished, some files failed; 2 command line; 3 model, device or input
  unusable; 4 output refused; 5 runner or storage failed, rerun is safe; 99 nothing to
  do (on request); 130/143 interrupted, rerun is safe
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong by an exception, which becomes the one line that users see."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see --help")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="object2vec",
        usage="object2vec --model=PATH --input=PATH --output=DIR [flags]\n"
        "       object2vec import-model MODEL.TAR.GZ DIR [flags]",
        description="Embeds JSON Lines of token ids with an Object2Vec model: one ordered .out "
        "per input file, the same bytes whatever the machine's load, batches, retries or crashes. "
        "Run the same command again to do what is missing.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    need = parser.add_argument_group("what to do")
    need.add_argument(
        "--model",
        required=True,
        metavar="PATH",
        help="model directory, or the model.tar.gz of a SageMaker training job (converted once, "
        "into OBJECT2VEC_CACHE); local or in a store",
    )
    need.add_argument(
        "--input",
        required=True,
        action="append",
        metavar="PATH",
        help="a file, a directory or prefix (all files below it), or a glob; local, s3://, gs:// "
        "or az://; may be given several times; names that begin with _ or . are skipped",
    )
    need.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="directory of the outputs: a/b.jsonl below the input becomes DIR/a/b.jsonl.out",
    )
    words = parser.add_argument_group("in SageMaker's words")
    words.add_argument(
        "--content_type",
        default=JSON_LINES,
        metavar="TYPE",
        help="application/jsonlines (default) or application/json (one {'instances': [...]} per "
        "file), optionally with '; infer_max_seqlens=F,B'",
    )
    words.add_argument(
        "--accept",
        metavar="TYPE",
        help="application/jsonlines, application/json or avro/binary; default: as --content_type",
    )
    words.add_argument(
        "--infer_max_seqlens",
        metavar="F,B",
        help="longest sequences of in0 and in1, each 1 to 5000; longer ones lose their tail; "
        "default: the model's",
    )
    words.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="environment of the job; INFERENCE_PREFERRED_MODE=embedding|classification decides "
        "which network is put into GPU memory (no effect on CPU, none on the values)",
    )
    records = parser.add_argument_group("records")
    records.add_argument(
        "--on_bad_record",
        choices=(FAIL_FILE, PLACEHOLDER, DEAD_LETTER),
        default=FAIL_FILE,
        help="fail_file (default, as SageMaker): no .out for that file, the others go on; "
        "placeholder: an error line keeps the place; dead_letter: set aside below _o2v/rejected",
    )
    records.add_argument(
        "--out_of_range_ids",
        choices=("clip", "error"),
        help="ids outside the vocabulary: clip to its ends, or refuse the record; default: as the "
        "model says",
    )
    records.add_argument(
        "--max_line_bytes",
        type=_size,
        default=6 * 2**20,
        metavar="N",
        help="longest line that is read (default 6MiB)",
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    machine.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that compute in one process (default: the cores divided by the workers)",
    )
    machine.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine (default 1)",
    )
    machine.add_argument(
        "--batch_tokens",
        type=int,
        default=65_536,
        metavar="N",
        help="ids that are encoded together (default 65536); changes speed, not bytes",
    )
    machine.add_argument(
        "--unit_bytes",
        type=_size,
        metavar="N",
        help="input bytes of one unit of work, which is what a crash can cost (default: by file "
        "size, 4MiB to 64MiB); changes no bytes",
    )
    machine.add_argument(
        "--require_determinism",
        **_switch("fail where the machine's arithmetic is seen to depend on the batch"),
    )
    again = parser.add_argument_group("running again")
    again.add_argument(
        "--overwrite", **_switch("redo outputs whose input, model or options differ")
    )
    again.add_argument("--force_unlock", **_switch("take over the lock of another run"))
    again.add_argument(
        "--exit_code_if_nothing",
        type=int,
        default=0,
        metavar="N",
        help="exit code of a run that finds nothing to do (default 0; Airflow likes 99)",
    )
    look = parser.add_argument_group("looking closer")
    look.add_argument(
        "--dry_run", **_switch("check everything, forecast size and time, and write nothing")
    )
    look.add_argument("--debug", **_switch("show tracebacks and Beam's own messages"))
    parser.add_argument_group(
        "Beam", "Every option of Apache Beam works too, such as --runner or --labels."
    )
    return parser


def _switch(help_text: str) -> dict[str, Any]:
    return {
        "nargs": "?",
        "const": True,
        "default": False,
        "type": _boolean,
        "metavar": "true|false",
        "help": help_text,
    }


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(|k|m|g)(i?b)?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4194304 or 4MiB")
    factor: int = 1024 ** " kmg".index(match[2] or " ")
    return int(match[1]) * factor
