"""Why a text is not a record, in words that help.

Nothing here is on the fast path. What is accepted is decided by the decoder in
`parsing.py` and by the four checks below (`refuse_unread`, `has_duplicate_key`); the
rest only puts a refusal into words. Reasons are at most 300 printable characters: what
they quote of the input is cut and escaped, so that no input can write into a terminal
or a log.

    kind          meaning
    syntax        not JSON
    encoding      not UTF-8
    blank         only white space
    too_long      longer than the limit
    nesting       lists or objects more than MAX_NESTING deep
    type          JSON, but not a record: a float as an id, a list as a record, ...
    missing       neither in0 nor in1
    duplicate     in0 or in1 twice
    out_of_range  an id that does not fit into 64 bits, or not into the vocabulary
    document      the document as a whole cannot be used
"""

from __future__ import annotations

import json
import re

import msgspec
import numpy as np

from object2vec.errors import RecordError

MAX_NESTING = 200
"""Far below the decoder's own limit, which depends on the depth of the caller's stack."""

MAX_REASON_CHARS = 300
_MAX_QUOTE_CHARS = 60

# Spellings of the letters in "in0", "in1" and "instances" as escapes, as in "\u0069n0".
_ESCAPED_KEY = re.compile(rb"\\u00(?:3[01]|6[1359eE]|7[34])")
# The closing quote is optional: an unclosed string reaches to the end, in linear time.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PLACE = re.compile(r"(.*?) - at `(\$[^`]*)`", re.DOTALL)
_IN_RECORD = re.compile(r"\$\.(in[01])(?:\[(\d+)\])?")
_MALFORMED = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)", re.DOTALL)

_MAGIC = (
    (b"PAR1", "a Parquet file"),
    (b"\x89PNG", "a PNG image"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"Obj\x01", "an Avro file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xff\xfe", "UTF-16 text (write it as UTF-8)"),
    (b"\xfe\xff", "UTF-16 text (write it as UTF-8)"),
)
_IN_WORDS = {
    "int": "a single number",
    "float": "a number with a fraction or an exponent",
    "str": "a string",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_AS_DOCUMENT = (
    'this looks like a document {"instances":[...]}, one per file:'
    " pass --content_type=application/json"
)


class _Sides(msgspec.Struct):
    in0: msgspec.Raw = msgspec.Raw()
    in1: msgspec.Raw = msgspec.Raw()


_decode_sides = msgspec.json.Decoder(_Sides).decode  # made before there are threads


def refusal(kind: str, reason: str, path: str = "$") -> RecordError:
    """A RecordError whose reason is printable and not too long."""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in reason)
    if len(printable) > MAX_REASON_CHARS:
        printable = printable[: MAX_REASON_CHARS - 3] + "..."
    return RecordError(kind, printable, path)


def quote(text: bytes) -> str:
    """The beginning of `text` in ASCII, with control characters escaped."""
    shown = ascii(text[:_MAX_QUOTE_CHARS].decode("utf-8", "backslashreplace"))[1:-1]
    cut = len(text) > _MAX_QUOTE_CHARS or len(shown) > _MAX_QUOTE_CHARS
    return shown[: _MAX_QUOTE_CHARS - 3] + "..." if cut else shown


def may_escape_a_key(text: bytes) -> bool:
    """Whether a key may be spelled with escapes, so that counting words does not find it."""
    return b"\\" in text and _ESCAPED_KEY.search(text) is not None


def nesting(text: bytes) -> int:
    """The depth of brackets outside strings. Takes time linear in the text's length."""
    marks = np.frombuffer(_STRING.sub(b"", text), np.uint8)
    opens = (marks == ord("[")) | (marks == ord("{"))
    closes = (marks == ord("]")) | (marks == ord("}"))
    depths = np.cumsum(opens.astype(np.int32) - closes.astype(np.int32))
    return int(depths.max(initial=0))


def is_too_nested(text: bytes) -> bool:
    return text.count(b"[") + text.count(b"{") > MAX_NESTING and nesting(text) > MAX_NESTING


def refuse_unread(text: bytes, max_bytes: int) -> RecordError | None:
    """What can be said before decoding: too long, blank, not UTF-8, too nested."""
    if len(text) > max_bytes:
        size = f"more than {max_bytes:,} bytes, the limit (--max_line_bytes)"
        return refusal("too_long", f"{size}; it begins {quote(text)}")
    if not text.strip(b" \t\r\n"):
        return refusal("blank", "a blank line holds no record")
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return refusal("encoding", f"not UTF-8 at byte {error.start}{_looks_like(text)}")
    if is_too_nested(text):
        return too_nested()
    return None


def too_nested() -> RecordError:
    return refusal("nesting", f"nested more than {MAX_NESTING} deep")


def has_duplicate_key(text: bytes, names: tuple[str, ...]) -> str | None:
    """The first of `names` that the object in `text` (valid JSON) holds more than once."""
    pairs = json.loads(  # every object becomes its list of pairs; numbers are not needed
        text.decode(), object_pairs_hook=list, parse_int=len, parse_float=len, parse_constant=len
    )
    keys = [key for key, _ in pairs]
    return next((name for name in names if keys.count(name) > 1), None)


def missing(text: bytes) -> RecordError:
    """The object in `text` has neither side."""
    reason = 'neither in0 nor in1; a record is {"in0":[ids]}, {"in1":[ids]} or both'
    if b'"instances"' in text:
        reason = f"neither in0 nor in1; {_AS_DOCUMENT}"
    elif re.search(rb'"in[01]"', text.lower()):
        reason += "; keys are case-sensitive and must stand at the top level"
    return refusal("missing", reason)


def explain(text: bytes, error: Exception) -> RecordError:
    """What the decoder did not like about `text` (UTF-8, not too nested)."""
    if isinstance(error, RecursionError):
        return too_nested()
    if not isinstance(error, msgspec.ValidationError):
        is_document = b'"instances"' in text and text.lstrip()[:1] == b"{"
        hint = f"; {_AS_DOCUMENT}" if is_document else _looks_like(text)
        return refusal("syntax", syntax_in_words(text, error) + hint)
    place = _PLACE.fullmatch(str(error))
    message, path = (place[1], place[2]) if place else (str(error), "$")
    if path == "$":
        return refusal(
            "type",
            f'a record must be an object such as {{"in0":[1,2]}}, not {_got(message)}'
            + _looks_like(text),
        )
    value = _value_at(text, path)
    shown = "" if value is None else f": {quote(value)}"
    if not path.endswith("]"):
        reason = f"{path[2:]} must be a list of integer ids, not {_got(message)}{shown}"
        return refusal("type", reason, path)
    if "`int` <=" in message or "`int` >=" in message or message.startswith("Integer"):
        return refusal("out_of_range", f"an id must fit into 64 bits{shown}", path)
    got = "float" if message == "Number out of range" else message  # as 1e400
    return refusal("type", f"an id must be an integer, not {_got(got)}{shown}", path)


def syntax_in_words(text: bytes, error: Exception) -> str:
    """The decoder's message about malformed JSON, with the place in bytes."""
    if _HALF_SURROGATE.search(text) and re.search("truncated|surrogate", str(error)):
        return r"not JSON: a \ud800-\udfff escape without its other half"
    parts = _MALFORMED.fullmatch(str(error))
    if parts is None:
        return "not JSON: it ends in the middle of a value; a record may not span lines"
    is_trailing = parts[1] == "trailing characters"
    at = int(parts[2]) - is_trailing  # for these msgspec 0.22 names the byte behind
    near = f": {quote(text[at : at + 20])}" if at < len(text) else ""
    if is_trailing:
        return f"something follows the record, from byte {at}{near}; a line holds one record"
    if text.startswith(b"\xef\xbb\xbf"):
        return "not JSON: a byte order mark is taken at the start of a file only"
    return f"not JSON: {parts[1]} at byte {at}{near}"


def explain_document(document: bytes, error: Exception) -> RecordError:
    """Why `document` (UTF-8) is not `{"instances":[...]}`."""
    if isinstance(error, RecursionError):
        return refusal("document", f"nested more than {MAX_NESTING} deep")
    message = str(error)
    as_lines = ""
    if re.match(rb'\s*{\s*"in[01]"', document):
        as_lines = "; these look like JSON Lines: pass --content_type=application/jsonlines"
    if not isinstance(error, msgspec.ValidationError):
        trailing = "trailing characters" in message
        reason = (
            "more than one JSON document; a file holds one"
            if trailing
            else syntax_in_words(document, error).replace("; a record may not span lines", "")
        )
        return refusal("document", reason + (as_lines or _looks_like(document)))
    if "$.instances" in message:
        reason = f"instances must be a list of records, not {_got(message)}"
        return refusal("document", reason, "$.instances")
    if "missing required field" in message:
        return refusal("document", f'no instances; expected {{"instances":[...]}}{as_lines}')
    reason = f'expected {{"instances":[...]}}, not {_got(message)}'
    return refusal("document", reason + _looks_like(document))


def _got(message: str) -> str:
    found = re.search(r"got `(\w+)`", message)
    name = found[1] if found else message
    return _IN_WORDS.get(name, name)


def _value_at(text: bytes, path: str) -> bytes | None:
    """The JSON text at a path such as `$.in0[3]`, if it is certain which one is meant."""
    place = _IN_RECORD.fullmatch(path)
    if place is None or text.count(f'"{place[1]}"'.encode()) != 1 or may_escape_a_key(text):
        return None
    try:
        value = getattr(_decode_sides(text), place[1])
        if place[2] is not None:
            value = msgspec.json.decode(value, type=list[msgspec.Raw])[int(place[2])]
    except (msgspec.MsgspecError, RecursionError):  # malformed further on
        return None
    return bytes(value).strip()


def _looks_like(text: bytes) -> str:
    """A guess at what was meant, to be appended to a reason."""
    for magic, name in _MAGIC:
        if text.startswith(magic):
            return f"; this looks like {name}"
    start = text.lstrip()[:1]
    if start == b"[":
        return '; write one object a line, or a document {"instances":[...]}'
    if start != b"{" and re.search(rb"[,;\t]", text):
        return "; this looks like CSV, which is not read"
    return ""
