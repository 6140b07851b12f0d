"""Pure: JSON and single values, read within bounds.

Numbers may come as text and text as numbers; nothing else is bent. Every fault is a Refused that names its path.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from pinstream.errors import Refused
from pinstream.event import MAX_DEPTH, MAX_UINT64

_MIN_INT: Final = -(2**63)
MAX_NESTED: Final = 65_536  # brackets that open in a JSON text, those in its texts too: many tiny lists cost most
MAX_UUID_CHARS: Final = 512  # blanks around it included

# --- JSON ------------------------------------------------------------------------------------------

_BROKEN_ESCAPE: Final = re.compile(
    rb"(\\\\|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2})"  # a backslash, a pair: whole
    rb"|\\u(?:0000|[dD][89a-fA-F][\da-fA-F]{2})"
)


def decode_json(body: bytes) -> Any:
    """`body` as plain data of at most MAX_DEPTH levels.

    An escaped NUL and half of a surrogate pair are left out: such a half is what a language with UTF-16 texts makes of
    a title that it cuts within an emoji, and no reason to lose an order.

    Raises:
        Refused: bad_json, bad_text, out_of_range, too_deep or too_many.
    """
    if b"\\u" in body:
        body = _BROKEN_ESCAPE.sub(rb"\1", body)
    nested = body.count(b"[") + body.count(b"{")
    if nested > MAX_NESTED:
        raise Refused("too_many", f"JSON has at most {MAX_NESTED} lists and objects.", field="$")
    try:
        body.decode()
        data = msgspec.json.decode(body)
    except UnicodeDecodeError as exc:
        raise Refused("bad_text", "The body is not UTF-8.", field="$") from exc
    except RecursionError as exc:
        raise Refused("too_deep", f"JSON has at most {MAX_DEPTH} levels.", field="$") from exc
    except msgspec.ValidationError as exc:
        raise Refused("out_of_range", "A number is too large for JSON readers.", field="$") from exc
    except msgspec.DecodeError as exc:
        raise Refused("bad_text" if b"\0" in body else "bad_json", "The body is not valid JSON.", field="$") from exc
    if nested > MAX_DEPTH and depth(data, MAX_DEPTH) > MAX_DEPTH:
        raise Refused("too_deep", f"JSON has at most {MAX_DEPTH} levels.", field="$")
    return data


def depth(data: Any, limit: int) -> int:
    """Levels of lists and objects in `data`, counted up to `limit` + 1."""
    level, here = 0, [data]
    while level <= limit:
        nested = [node for node in here if isinstance(node, (dict, list))]
        if not nested:
            break
        level += 1
        here = [inner for node in nested for inner in (node.values() if isinstance(node, dict) else node)]
    return level


def storable(data: Any, path: str) -> Any:
    """`data` with whole numbers past 64 bits as text. Raises Refused for a NUL."""
    match data:
        case str() if "\0" in data:
            raise Refused("bad_text", "A text holds a NUL.", field=path)
        case dict():
            return {storable(key, path): storable(value, path) for key, value in data.items()}
        case list():
            return [storable(value, path) for value in data]
        case int() if not _MIN_INT <= data <= MAX_UINT64:
            return str(data)
    return data


def an_object(data: Any, path: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise Refused("bad_type", "An object is wanted here.", field=path)
    return data


def object_or_json(data: Any, path: str) -> dict[str, Any]:
    """A copy of `data`, or of what is written in it as JSON text; empty if nothing was said."""
    if data is None or data == "":
        return {}
    return dict(an_object(unquoted(data, path), path))


def unquoted(data: Any, path: str) -> Any:
    """`data`, or what is written in it as JSON text."""
    if not isinstance(data, str):
        return data
    try:
        return decode_json(data.encode())
    except Refused as exc:
        raise Refused(exc.reason, str(exc), field=path) from exc


# --- single values ---------------------------------------------------------------------------------

_NUMBER = re.compile(r"^[+-]?[0-9]{1,32}(?:\.[0-9]{0,32})?(?:[eE][+-]?[0-9]{1,3})?$|^[+-]?\.[0-9]{1,32}$")
_UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
_LONG_INT_BITS: Final = 256


def text(value: Any, path: str, limit: int) -> str:
    """Text, or a number as text, of at most `limit` characters."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Refused("bad_type", "Text is wanted here.", field=path)
    if isinstance(value, int) and value.bit_length() > _LONG_INT_BITS:
        raise Refused("too_long", f"At most {limit} characters.", field=path)
    string = value if isinstance(value, str) else str(value)
    if len(string) > limit:
        raise Refused("too_long", f"At most {limit} characters.", field=path)
    if "\0" in string:
        raise Refused("bad_text", "A text holds a NUL.", field=path)
    return string


def number(value: Any, path: str, low: float, high: float) -> int | float:
    """A number, or one written as text, from `low` to `high`."""
    if isinstance(value, str):
        if not _NUMBER.match(value.strip()):
            raise Refused("bad_type", "A number is wanted here.", field=path)
        value = _plain_number(value.strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused("bad_type", "A number is wanted here.", field=path)
    if not low <= value <= high:
        raise Refused("out_of_range", f"A number from {low} to {high} is wanted here.", field=path)
    return value


def _plain_number(string: str) -> int | float:
    return int(string) if string.lstrip("+-").isdigit() else float(string)


def integer(value: Any, path: str, low: int, high: int) -> int:
    """A whole number, or one written as text or with a zero fraction, from `low` to `high`."""
    found = number(value, path, low, high)
    if found != int(found):
        raise Refused("bad_type", "A whole number is wanted here.", field=path)
    return int(found)


def money(value: Any, path: str, low: float, high: float) -> float:
    """An amount, or one written as text, from `low` to `high`; never minus zero."""
    return float(number(value, path, low, high)) + 0.0


def uuid(value: Any, path: str) -> str:
    """A UUID in its usual spelling, lowercased."""
    found = text(value, path, MAX_UUID_CHARS).strip().lower()
    if not _UUID.match(found):
        raise Refused("bad_value", "A UUID is wanted here.", field=path)
    return found


def is_uuid(value: str) -> bool:
    """Whether `value` is a UUID in lower case."""
    return bool(_UUID.match(value))
