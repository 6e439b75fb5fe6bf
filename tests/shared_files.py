"""Where tests find material that is not in this repository: `../shared`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


def shared(path: str) -> Path:
    """`../shared/<path>`. Without it the test is skipped, but fails where CI is set."""
    found = _ROOT.parent / "shared" / path
    if found.exists():
        return found
    reason = f"../shared/{path} is not here, so nothing was compared with it"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)
