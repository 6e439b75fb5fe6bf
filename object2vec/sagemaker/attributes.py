"""Reads the attributes of a node, strictly: each is used, known to be harmless, or refused.

{"kernel": "(3,)", "pad": "(1,)", "cudnn_tune": "off", "no_bias": "False"}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from object2vec.sagemaker.symbol import Node, shown

# MXNet hands these to the optimizer, the scheduler of devices or the profiler; no operator reads
# them.
_OF_NO_OPERATOR = frozenset(
    ("lr_mult", "wd_mult", "ctx_group", "force_mirroring", "mirror_stage", "profiler_scope")
)

_MAX_LENGTH = 200  # longer ones hold no number that we read

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}[lL]?")  # Python 2 writes 3L
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_FLAGS = {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}


class Refused(Exception):
    """Why a node cannot be run. `network.read_network` makes a ModelError of it.

    Args:
      reason: in words.
      node: the node to blame, if it is not the one being read.
    """

    def __init__(self, reason: str, node: Node | None = None) -> None:
        super().__init__(reason, node)
        self.reason = reason
        self.node = node


class Attributes:
    """The attributes of one node. Each method marks what it reads.

    An attribute that is not there, or is `None`, has its default.

    Raises:
      Refused: by all methods: the text is not of the kind that is asked for, or it is
        missing and has no default.
    """

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self._texts = attributes
        self._read: set[str] = set()

    def _text(self, name: str) -> str | None:
        self._read.add(name)
        text = self._texts.get(name, "None").strip()
        return None if text == "None" else text

    def _unfit(self, name: str, wanted: str) -> Refused:
        if name not in self._texts:
            return Refused(f"attribute {name} is missing; it must be {wanted}")
        return Refused(f"attribute {name} is {shown(self._texts[name])}; it must be {wanted}")

    def integer(self, name: str, default: int | None = None) -> int:
        """`3`."""
        text = self._text(name)
        if text is None and default is not None:
            return default
        if text is None or not _INTEGER.fullmatch(text):
            raise self._unfit(name, "an integer")
        return int(text.rstrip("lL"))

    def number(self, name: str, default: float | None = None) -> float:
        """`3`, `0.5` or `1e+30`; finite."""
        text = self._text(name)
        if text is None and default is not None:
            return default
        if text is None or len(text) > _MAX_LENGTH or not _NUMBER.fullmatch(text):
            raise self._unfit(name, "a number")
        value = float(text)
        if not math.isfinite(value):
            raise self._unfit(name, "a finite number")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """`True`, `true` or `1`; `False`, `false` or `0`."""
        text = self._text(name)
        if text is None:
            return default
        if text not in _FLAGS:
            raise self._unfit(name, "True or False")
        return _FLAGS[text]

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """`(3,)`, `[3]` or `3`."""
        text = self._text(name)
        if text is None and default is not None:
            return default
        if text is None or len(text) > _MAX_LENGTH:
            raise self._unfit(name, "a tuple of integers")
        if (text[:1], text[-1:]) in (("(", ")"), ("[", "]")):
            text = text[1:-1].strip().removesuffix(",")
        parts = [part.strip() for part in text.split(",")] if text else []
        if not all(_INTEGER.fullmatch(part) for part in parts):
            raise self._unfit(name, "a tuple of integers")
        return tuple(int(part.rstrip("lL")) for part in parts)

    def one_integer(self, name: str, default: int | None = None) -> int:
        """`(3,)`, `[3]` or `3`, where there must be one."""
        values = self.integers(name, None if default is None else (default,))
        if not values and default is not None:  # `()` is MXNet's way to write a default
            return default
        if len(values) != 1:
            raise self._unfit(name, "a single integer")
        return values[0]

    def word(self, name: str, *allowed: str) -> str:
        """One of these."""
        text = self._text(name)
        if text not in allowed:
            raise self._unfit(name, " or ".join(allowed))
        return text

    def must_be(self, name: str, *allowed: str) -> None:
        """Refuses words other than these. One of them is the default."""
        if self._text(name) is not None:
            self.word(name, *allowed)

    def must_be_flag(self, name: str, value: bool) -> None:
        """Refuses the other value. This one is the default."""
        if self.flag(name, value) != value:
            raise self._unfit(name, str(value))

    def must_be_integer(self, name: str, value: int) -> None:
        """Refuses other values, in a tuple or not. This one is the default."""
        if self.one_integer(name, value) != value:
            raise self._unfit(name, str(value))

    def must_be_number(self, name: str, value: float) -> None:
        """Refuses other values. This one is the default."""
        if self.number(name, value) != value:
            raise self._unfit(name, f"{value:g}")

    def may_be_anything(self, *names: str) -> None:
        """Notes attributes that change no number at inference."""
        self._read.update(names)

    def check_all_read(self) -> None:
        """Refuses what nobody asked for: it could change the result."""
        for name in self._texts:
            if name in self._read or name in _OF_NO_OPERATOR:
                continue
            if not (name.startswith("__") and name.endswith("__")):
                raise Refused(f"attribute {shown(name)} is not known here")
