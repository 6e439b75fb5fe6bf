"""The command line: our flags, Beam's, and nothing else.

Parsed once into a frozen JobOptions; below it, functions take plain values. Beam only
warns about flags that nobody knows; here they end the run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from object2vec.errors import UsageError
from pipeline.flags import make_parser
from transforms.recipe import AVRO, JSON_DOCUMENT, JSON_LINES, PLACEHOLDER

MAX_SEQ_LEN = 5000
"""Largest `infer_max_seqlens`. Source: AWS's page "Encoder Embeddings for Object2Vec"."""


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the user asked for. `None` means that the program chooses.

    Attributes: as the flags of the same names; `content_type` and `accept` without
    parameters, `environment` the pairs of `--env`, `beam_args` the flags that are Beam's.
    """

    model: str
    inputs: tuple[str, ...]
    output: str
    content_type: str
    accept: str
    max_seq_lens: tuple[int, int] | None
    environment: tuple[tuple[str, str], ...]
    on_bad_record: str
    out_of_range_ids: str | None
    batch_tokens: int
    unit_bytes: int | None
    max_line_bytes: int
    device: str
    threads: int
    workers: int
    overwrite: bool
    force_unlock: bool
    exit_code_if_nothing: int
    require_determinism: bool
    debug: bool
    dry_run: bool
    beam_args: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "max_line_bytes", "threads", "workers"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name}={getattr(self, name)}: must be at least 1")
        if self.unit_bytes is not None and self.unit_bytes < 1:
            raise UsageError(f"--unit_bytes={self.unit_bytes}: must be at least 1")
        if not 0 <= self.exit_code_if_nothing <= 255:
            raise UsageError(
                f"--exit_code_if_nothing={self.exit_code_if_nothing}: an exit code is 0 to 255"
            )
        for path in (self.model, *self.inputs, self.output):
            try:
                path.encode()
            except UnicodeEncodeError:
                raise UsageError(f"{path!a}: the path is not valid UTF-8; rename it") from None
        for length in self.max_seq_lens or ():
            if not 1 <= length <= MAX_SEQ_LEN:
                raise UsageError(
                    f"infer_max_seqlens holds {length}; both lengths go from 1 to {MAX_SEQ_LEN}"
                )
        if self.accept == AVRO and self.on_bad_record == PLACEHOLDER:
            raise UsageError(
                "--on_bad_record=placeholder cannot go with --accept=avro/binary: an Avro row "
                "has no place for a reason, and its offset keeps the place already; use dead_letter"
            )

    @property
    def preferred_mode(self) -> str | None:
        """Value of INFERENCE_PREFERRED_MODE, if it is set."""
        return dict(self.environment).get("INFERENCE_PREFERRED_MODE")


def parse_options(argv: Sequence[str]) -> JobOptions:
    """Reads a command line, without the program's name.

    Raises:
      UsageError: with the flag and what it takes. SystemExit(0) after `--help`.
    """
    ours, rest = make_parser().parse_known_args(list(argv))
    if rest:
        # Imports Beam, which takes a second: not for a command line without its flags.
        from pipeline.beam_flags import check_beam_flags

        check_beam_flags(rest)
    content_type, parameter = parse_content_type(ours.content_type)
    if ours.infer_max_seqlens is not None:
        flag = parse_seqlens(ours.infer_max_seqlens)
        if parameter is not None and parameter != flag:
            raise UsageError(
                f"--infer_max_seqlens says {flag}, --content_type says {parameter}; give one"
            )
        parameter = flag
    accept, answer = parse_content_type(ours.accept or content_type, flag="accept")
    if answer not in (None, parameter):
        raise UsageError(f"--accept says infer_max_seqlens={answer}; say it in --content_type")
    workers = ours.workers
    return JobOptions(
        # A shell expands ~ at the start of a word only, and `--input=~/x` is one word.
        model=os.path.expanduser(ours.model),
        inputs=tuple(os.path.expanduser(path) for path in ours.input),
        output=os.path.expanduser(ours.output),
        content_type=content_type,
        accept=accept,
        max_seq_lens=parameter,
        environment=parse_environment(ours.env),
        on_bad_record=ours.on_bad_record,
        out_of_range_ids=ours.out_of_range_ids,
        batch_tokens=ours.batch_tokens,
        unit_bytes=ours.unit_bytes,
        max_line_bytes=ours.max_line_bytes,
        device=ours.device,
        threads=max(1, usable_cores() // max(workers, 1)) if ours.threads is None else ours.threads,
        workers=workers,
        overwrite=ours.overwrite,
        force_unlock=ours.force_unlock,
        exit_code_if_nothing=ours.exit_code_if_nothing,
        require_determinism=ours.require_determinism,
        debug=ours.debug,
        dry_run=ours.dry_run,
        beam_args=tuple(rest),
    )


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_content_type(text: str, flag: str = "content_type") -> tuple[str, tuple[int, int] | None]:
    """`type/subtype; infer_max_seqlens=F,B` to the type and the pair (None: not given).

    Other parameters, such as charset, are ignored. Source: RFC 9110, 8.3.1.

    Raises:
      UsageError: another type, or lengths that are not two integers.
    """
    main, *parameters = (piece.strip() for piece in text.split(";"))
    known = (JSON_LINES, JSON_DOCUMENT, AVRO) if flag == "accept" else (JSON_LINES, JSON_DOCUMENT)
    if main.lower() not in known:
        raise UsageError(f"--{flag}={main}: must be one of {', '.join(known)}")
    lengths = None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "infer_max_seqlens":
            lengths = parse_seqlens(value.strip().strip('"'))
    return main.lower(), lengths


def parse_seqlens(text: str) -> tuple[int, int]:
    """`F,B` to two integers. Their range is checked by JobOptions.

    Raises:
      UsageError: it is something else.
    """
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text, re.ASCII)
    if match is None:
        raise UsageError(f"infer_max_seqlens={text!r}: must be two integers such as 50,100")
    return int(match[1]), int(match[2])


def parse_environment(pairs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`NAME=VALUE` pairs. Names other than INFERENCE_PREFERRED_MODE are kept and do nothing.

    Raises:
      UsageError: not a pair, more than 16 of them, or an unknown mode.
    """
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]{0,1023}", name):
            raise UsageError(f"--env={pair}: must be NAME=VALUE")
        if name in found:
            raise UsageError(f"--env={name} is given twice")
        found[name] = value
    if len(found) > 16:
        raise UsageError(f"{len(found)} times --env; SageMaker's limit is 16")
    mode = found.get("INFERENCE_PREFERRED_MODE", "embedding")
    if mode not in ("embedding", "classification"):
        raise UsageError(
            f"--env=INFERENCE_PREFERRED_MODE={mode}: must be embedding or classification"
        )
    return tuple(found.items())
