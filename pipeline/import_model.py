"""`object2vec import-model`: SageMaker's archive becomes a model directory of ours."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from object2vec.errors import InputError, ModelError, UsageError
from object2vec.folder import CARD_FILE, Section, check_place, write_folder
from object2vec.sagemaker.importer import ImportedModel, read_archive
from pipeline.flags import Parser
from pipeline.options import parse_seqlens
from transforms.model_cache import fetch_model

_DESCRIPTION = """\
Reads the model.tar.gz of a SageMaker Object2Vec training job, without MXNet, and writes a model
directory: config.json, weights.safetensors and MODEL_CARD.md, which says where the model comes
from, what it is, and what had to be inferred. The main job takes a model.tar.gz as it is, too; this
is for looking at a model, for keeping it, and for checking it against answers of SageMaker's.
"""

_EXAMPLES = """
examples:
  object2vec import-model s3://bucket/job/output/model.tar.gz model/

  with a sample of what SageMaker answered; the card then says how far the two are apart
    object2vec import-model model.tar.gz model/ \\
      --golden_input=sample.jsonl --golden_output=sample.jsonl.out
"""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the user asked for.

    Attributes:
      archive: path or uri of the archive.
      folder: where the model directory goes.
      max_seq_lens: longest sequences, instead of those of the training.
      golden: files of records and of the answers expected to them.
    """

    archive: str
    folder: Path
    max_seq_lens: tuple[int, int] | None
    golden: tuple[Path, Path] | None


def parse_import(argv: Sequence[str]) -> ImportOptions:
    """Reads a command line, without `import-model`.

    Raises:
      UsageError: with the argument and what it takes. SystemExit(0) after `--help`.
    """
    parser = Parser(
        prog="object2vec import-model",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("archive", metavar="MODEL.TAR.GZ", help="local, or in a store")
    parser.add_argument("folder", metavar="DIR", help="the model directory to write; local")
    parser.add_argument(
        "--infer_max_seqlens",
        metavar="F,B",
        help="longest sequences of in0 and in1, instead of those of the training",
    )
    parser.add_argument(
        "--golden_input", metavar="FILE", help="JSON Lines of records that SageMaker answered"
    )
    parser.add_argument(
        "--golden_output",
        metavar="FILE",
        help="its answers, line by line; if ours differ by more than rounding, nothing is written",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    ours = parser.parse_args(list(argv))
    if "://" in ours.folder:
        raise UsageError(f"{ours.folder}: import-model writes to a disk; copy the directory then")
    golden = [ours.golden_input, ours.golden_output]
    for path in golden:
        if path is not None and "://" in path:
            raise UsageError(f"{path}: answers are compared with files on a disk; copy it first")
    if None in golden and golden != [None, None]:
        raise UsageError("--golden_input and --golden_output belong together; give both")
    return ImportOptions(
        archive=os.path.expanduser(ours.archive),
        folder=Path(ours.folder).expanduser(),
        max_seq_lens=parse_seqlens(ours.infer_max_seqlens) if ours.infer_max_seqlens else None,
        golden=None if None in golden else (Path(golden[0]), Path(golden[1])),
    )


def import_model(options: ImportOptions) -> list[str]:
    """Writes the model directory, all of it or nothing.

    Returns:
      What was found, in lines for a terminal.

    Raises:
      ModelError: the archive cannot be used, the place is taken by something else, or the
        model's answers are not those expected.
      InputError: the files of expected answers cannot be used.
    """
    archive = Path(fetch_model(options.archive))
    if archive.is_dir():
        raise ModelError(f"{archive} is a directory; import-model reads a model.tar.gz")
    check_place(options.folder)
    scratch = options.folder.absolute().parent
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with read_archive(archive, scratch, options.max_seq_lens) as imported:
            imported = _with_lengths(imported, options.max_seq_lens)
            sections = [*imported.sections, *_agreement(imported, options.golden)]
            write_folder(options.folder, imported.config, imported.weights, sections)
    except OSError as error:
        text = f"{options.folder} cannot be written: {error.strerror or error}"
        raise ModelError(text) from error
    lines = [f"  {line}" for title, facts in sections if facts for line in (f"{title}:", *facts)]
    return [*lines, f"  Model card: {options.folder / CARD_FILE}"]


def _with_lengths(imported: ImportedModel, lengths: tuple[int, int] | None) -> ImportedModel:
    """The same model with other longest sequences.

    Raises:
      UsageError: it cannot have them.
    """
    if lengths is None:
        return imported
    try:
        first, second = (
            replace(encoder, max_seq_len=length)
            for encoder, length in zip(imported.config.encoders, lengths, strict=True)
        )
    except ValueError as error:
        raise UsageError(f"--infer_max_seqlens={lengths[0]},{lengths[1]}: {error}") from error
    asked = f"in0 {lengths[0]}, in1 {lengths[1]}: what this directory was imported with"
    return replace(
        imported,
        config=replace(imported.config, encoders=(first, second)),
        sections=(*imported.sections, ("Longest sequences that were asked for", [asked])),
    )


def _agreement(imported: ImportedModel, golden: tuple[Path, Path] | None) -> list[Section]:
    """What the card says of expected answers.

    Raises:
      ModelError: the model gives others.
    """
    if golden is None:
        return []
    import torch  # for this alone

    from object2vec.model import Object2Vec
    from object2vec.parity import compare

    tensors = {name: torch.from_numpy(array) for name, array in imported.weights.items()}
    model = Object2Vec.from_weights(imported.config, tensors)
    texts = []
    for path in golden:
        try:
            texts.append(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
    differences = compare(model, texts[0], texts[1])
    for difference in differences:
        if not difference.agrees:
            raise ModelError(
                f"the model's answers to {golden[0]} are not those in {golden[1]}: {difference};"
                " was the sample made by this model, with its own infer_max_seqlens?"
            )
    compared = (f"compared with {golden[1].name!a}", *map(str, differences))
    return [("Agreement with expected answers", compared)]
