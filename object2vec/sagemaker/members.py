"""Members of an archive: what their names may be, and how much of them there may be."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from object2vec.errors import ModelError

MAX_MEMBERS = 64
"""In a tar, and in a ZIP. Algorithms of SageMaker write one to five."""
MAX_BYTES = 64 << 30
"""Uncompressed, all members together. Both tables at the limits of Object2Vec (3,000,000
words of 1,000 numbers) are 24 GB, and twice that in float64."""

_MAX_NAME_BYTES = 1024
_MAX_SHOWN = 100


@dataclass(slots=True)
class Budget:
    """Counts the members of one archive; raises at the first that is too much."""

    num_members: int = 0
    num_bytes: int = 0

    def take(self, name: str, size: int) -> None:
        """Takes a member into account, before a byte of it is read.

        Raises:
          ModelError: one member, or one byte, too many.
        """
        self.num_members += 1
        if self.num_members > MAX_MEMBERS:
            raise refused(name, f"is member number {MAX_MEMBERS + 1}; no model has as many")
        self.num_bytes += size
        if self.num_bytes > MAX_BYTES:
            raise refused(
                name,
                f"says it is {size:,} bytes large; all members together may have {MAX_BYTES:,}",
            )


def checked_name(name: bytes) -> str:
    """A member's name as text, if it is one that an honest archive can have.

    Raises:
      ModelError: not UTF-8, empty, absolute, too long, or with `..` or NUL in it. Nothing is
        written by such a name here, but whoever packed it meant harm, or it is damaged.
    """
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise refused(name, "has a name that is not UTF-8") from None
    if not text:
        raise refused(name, "has no name")
    if len(name) > _MAX_NAME_BYTES:
        raise refused(name, f"has a name of {len(name):,} bytes")
    if "\0" in text:
        raise refused(name, "has NUL in its name")
    if text.startswith("/"):
        raise refused(name, "has an absolute path for a name")
    if ".." in text.replace("\\", "/").split("/"):
        raise refused(name, "leads out of the archive by its name")
    return text


def refused(name: str | bytes, reason: str) -> ModelError:
    """An error that names a member."""
    return ModelError(f"member {shown_name(name)} {reason}")


def shown_name(name: str | bytes) -> str:
    """A member's name for a message: short, and ASCII whatever it is; bytes if it is no text."""
    if isinstance(name, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            name = name.decode()
    shown = ascii(name)
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[:_MAX_SHOWN]}... ({len(name):,} long)"
    return shown
