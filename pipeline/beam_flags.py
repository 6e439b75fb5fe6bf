"""The flags that are Beam's: known to it, or refused; and which runner they name.

Beam itself only warns about flags that nobody knows. Importing it takes a second, so
nothing here is imported for a command line without such flags.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from object2vec.errors import UsageError

LOCAL_RUNNERS = ("FnApiRunner", "DirectRunner", "BundleBasedDirectRunner")


def check_beam_flags(flags: Sequence[str]) -> None:
    """
    Raises:
      UsageError: a flag that Beam does not know either, a value that it does not take, or
        a runner that is not there.
    """
    for flag in flags:
        if not re.match("--[a-zA-Z]", flag):
            raise UsageError(f"{flag!r} is no flag; write --name=value (see --help)")
    options = PipelineOptions(list(flags))
    told = io.StringIO()
    try:
        # Beam's parser prints a page of usage before its reason, and ends the process.
        with contextlib.redirect_stderr(told):
            known = set(options.get_all_options())
            unknown = set(options.get_all_options(retain_unknown_options=True)) - known
    except SystemExit:
        reason = told.getvalue().strip().rpartition("error: ")[2]
        raise UsageError(f"Beam does not accept {' '.join(flags)}: {reason}") from None
    if unknown:
        names = ", ".join(f"--{name}" for name in sorted(unknown))
        raise UsageError(f"unknown flags: {names} (neither ours nor Beam's; see --help)")
    try:
        create_runner(runner_of(flags))
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"--runner={runner_of(flags)}: {error}") from None


def runner_of(beam_args: Sequence[str]) -> str:
    """The runner's name: FnApiRunner unless the user names another.

    DirectRunner means FnApiRunner too: by itself it would try to download a binary.
    """
    named = PipelineOptions(list(beam_args)).get_all_options().get("runner")
    if named is None:
        return "FnApiRunner"
    # Beam takes names in any case.
    local = {name.lower(): name for name in LOCAL_RUNNERS} | {"directrunner": "FnApiRunner"}
    return local.get(str(named).lower(), str(named))
