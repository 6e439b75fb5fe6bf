"""Which files a run reads, and what their outputs are called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from object2vec.errors import InputError
from transforms.manifest import InputFile
from transforms.storage import FileStat, Store, open_store

_WILDCARD = re.compile(r"[*?\[]")
_SET = re.compile(r"\[([!^]?+)(\][^]]*|[^]]+)\]")  # a bracket that comes first is a member
_MAX_NAME_BYTES = 255
"""Longest name of one path segment on common disks."""


def find_inputs(inputs: Sequence[str], suffix: str, longest_suffix: str = "") -> list[InputFile]:
    """All input files, sorted by output name.

    Args:
      inputs: each a file, a directory or key prefix (every file below it), or a glob if
        no file of that very name exists. In a glob `*`, `?` and `[...]` stay within one
        path segment and `**` crosses them.
      suffix: what the output's name adds.
      longest_suffix: what the longest name of all that comes of an input adds; empty if
        that is the output's.

    Raises:
      InputError: an input matches nothing; two inputs have one output, or one's output is
        a folder of the other's; a name would be too long.
    """
    found: list[InputFile] = []
    for uri in inputs:
        files = list(_find(uri, suffix))
        if not files:
            raise InputError(
                f"--input={uri} matches no file (names that begin with _ or . are never input)"
            )
        found += files
    taken: dict[str, InputFile] = {}
    for file in found:
        twin = taken.setdefault(file.output.casefold(), file)
        if (twin.uri, twin.output) != (file.uri, file.output):
            raise InputError(
                f"{twin.uri} and {file.uri} would both be written to {file.output} (on some "
                "disks, if they differ in case); give them different names or outputs"
            )
    for name, file in taken.items():
        _check_length(file, longest_suffix.removeprefix(suffix))
        while "/" in name:
            name = name.rpartition("/")[0]
            if name in taken:
                raise InputError(
                    f"{taken[name].uri} would be written to {taken[name].output}, and {file.uri} "
                    "below a folder of that name; give one of them another name or output"
                )
    return sorted(taken.values(), key=lambda file: file.output)


def _as_path(uri: str) -> str:
    """A `file://` uri as the path it means; anything else as it is."""
    if not uri.startswith("file://"):
        return uri
    return open_store(uri).root + ("/" if uri.endswith("/") else "")


def _find(uri: str, suffix: str) -> Iterator[InputFile]:
    uri = _as_path(uri)
    folder, _, base = uri.rstrip("/").rpartition("/")
    if "://" in uri and (folder.endswith(":/") or not base):
        folder, base = uri.rstrip("/"), ""  # a whole bucket
    if base not in ("", ".", "..") and not uri.endswith("/"):
        parent = open_store(folder or ("/" if uri.startswith("/") else "."))
        stat = parent.stat(base)
        if stat is not None and is_input(base):
            yield _file(parent, stat, base, suffix)
            return
    whole = open_store(uri)
    below = [stat for stat in whole.list() if is_input(stat.name)]
    if below:
        for stat in below:
            yield _file(whole, stat, stat.name, suffix)
        return
    match = _WILDCARD.search(uri)
    if match is not None:
        root, _, _ = uri[: match.start()].rpartition("/")
        pattern = uri[len(root) :].lstrip("/") if root else uri.lstrip("/")
        store = open_store(root or ("/" if uri.startswith("/") else "."))
        regex = glob_regex(pattern)
        for stat in store.list():
            if is_input(stat.name) and regex.fullmatch(stat.name):
                yield _file(store, stat, stat.name, suffix)


def is_input(name: str) -> bool:
    """Whether a name may be input: no segment begins with `_` or `.`."""
    return not any(segment.startswith(("_", ".")) for segment in name.split("/"))


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob over whole names: `*`, `?`, `[...]` within a segment, `**` across them."""
    out, position = "", 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/"):
            out, position = out + "(?:.*/)?", position + 3
        elif rest.startswith("**"):
            out, position = out + ".*", position + 2
        elif rest[0] == "*":
            out, position = out + "[^/]*", position + 1
        elif rest[0] == "?":
            out, position = out + "[^/]", position + 1
        elif found := _SET.match(rest):
            negated = "^" if found[1] else ""
            out, position = out + f"(?!/)[{negated}{_members(found[2])}]", position + found.end()
        else:
            out, position = out + re.escape(rest[0]), position + 1
    return re.compile(out, re.DOTALL)


def _members(text: str) -> str:
    """What stands between the brackets of a glob, for those of a regular expression."""
    out = ""
    while text:
        first, last = text[0], text[2:3]
        if text[1:2] == "-" and last:
            # A range that is upside down holds nothing, but `[]` is no set in Python.
            out += f"{re.escape(first)}-{re.escape(last)}" if first <= last else ""
            text = text[3:]
        else:
            out, text = out + re.escape(first), text[1:]
    return out or "\0"  # which is in no name


def _file(store: Store, stat: FileStat, name: str, suffix: str) -> InputFile:
    return InputFile(store.root, stat.name, stat.size, stat.version, name + suffix)


def _check_length(file: InputFile, suffix: str) -> None:
    base = file.output.rpartition("/")[2] + suffix
    if len(base.encode()) > _MAX_NAME_BYTES:
        raise InputError(
            f"{file.uri}: the output's name {base[:40]}... would be {len(base.encode())} bytes "
            f"long, and {_MAX_NAME_BYTES} is the limit; rename the input"
        )


def check_apart(inputs: Sequence[str], output: str) -> None:
    """
    Raises:
      InputError: the output lies below an input or an input below the output, so that
        the next run would read what this one wrote.
    """
    out = _canonical(output)
    for uri in map(_as_path, inputs):
        wildcard = _WILDCARD.search(uri)
        base = uri
        if wildcard is not None and not os.path.exists(uri):
            base = uri[: wildcard.start()].rpartition("/")[0] or "."
        place = _canonical(base)
        if out == place or out.startswith(place.rstrip("/") + "/"):
            raise InputError(
                f"--output={output} lies in --input={uri}: the next run would read the outputs "
                "of this one; write somewhere else"
            )
        if place.startswith(out.rstrip("/") + "/"):
            raise InputError(
                f"--input={uri} lies in --output={output}: outputs might replace inputs; "
                "write somewhere else"
            )


def _canonical(uri: str) -> str:
    store = open_store(uri)
    return os.path.realpath(store.root) if store.is_local else store.root.rstrip("/")
