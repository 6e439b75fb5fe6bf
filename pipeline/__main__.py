"""The command line: `python -m pipeline`, or `object2vec`.

Every error that we foresee is one line on standard error and an exit code; `--debug`
shows where it came from.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence

from object2vec import errors
from pipeline.flags import IMPORT_MODEL
from pipeline.options import JobOptions, parse_options
from pipeline.stopping import ended_by_signals

EXIT_CODES: dict[type[Exception], int] = {
    errors.UsageError: 2,
    errors.ModelError: 3,
    errors.DeviceError: 3,
    errors.InputError: 3,
    errors.OutputError: 4,
    errors.StorageError: 5,
    errors.RunnerError: 5,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Returns:
      The exit code.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    # Looked for before the arguments are parsed: that may be what fails.
    debug = any(re.fullmatch("--debug(=(?i:true|1|yes))?", arg) for arg in argv)
    _set_up_logging(debug)
    try:
        with ended_by_signals():
            if argv[:1] == [IMPORT_MODEL]:
                return _import_model(argv[1:])
            options = parse_options(argv)
            return _dry_run(options) if options.dry_run else _run(options)
    except errors.Object2VecError as error:
        if debug:
            logging.getLogger("object2vec").exception("the run ended")
        _tell([f"object2vec: {error}"])
        return exit_code_of(error)
    except Exception as error:
        # Python's own exit code would be 1, and 1 means that some files failed.
        if debug:
            logging.getLogger("object2vec").exception("the run ended")
        name = type(error).__name__
        print(f"object2vec: unforeseen {name}: {error} (--debug shows where)", file=sys.stderr)
        return 5


def exit_code_of(error: errors.Object2VecError) -> int:
    """The documented exit code of an error that ends a run."""
    number = getattr(error, "signal_number", None)
    if number is not None:
        return 128 + int(number)
    return EXIT_CODES.get(type(error), 5)


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        print(printable(line), file=sys.stderr)


def printable(text: str) -> str:
    """Text with its control characters spelled out: names of files may hold any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


def _set_up_logging(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, handlers=[handler])
    for name in ("object2vec", "transforms", "pipeline"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        # Beam logs the stack of every error that it also raises, and what it misses.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)


def _run(options: JobOptions) -> int:
    from pipeline.embed import embed  # imports Beam: not for --help

    summary = embed(options)
    if summary.run is None:
        _tell(
            [
                f"object2vec: nothing to do, all {summary.files_before:,} files are done "
                f"in {summary.output} (looked for {summary.seconds:.1f} s)"
            ]
        )
        return options.exit_code_if_nothing
    what = "finished, but some files failed" if summary.files_failed else "done"
    _tell([f"object2vec: {what}", *summary.lines()])
    return 1 if summary.files_failed else 0


def _import_model(argv: Sequence[str]) -> int:
    from pipeline.import_model import import_model, parse_import

    options = parse_import(argv)
    _tell(["object2vec: imported", *import_model(options)])
    return 0


def _dry_run(options: JobOptions) -> int:
    from pipeline.embed import forecast
    from pipeline.rehearsal import seconds_for

    job, agenda, found = forecast(options)
    seconds = seconds_for(job, found)
    print(
        "\n".join(
            [
                "object2vec: dry run, nothing was written",
                f"  to do         {found.files:,} files, {found.input_bytes:,} bytes, "
                f"about {found.records:,} records",
                f"  done before   {len(agenda.done):,} files",
                f"  output        about {found.output_bytes:,} bytes to {options.output}",
                f"  time          about {seconds:.0f} s with {options.workers} worker(s), "
                f"{options.threads} thread(s) each",
            ]
        ),
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
