"""Pure: query strings and form bodies -> nested plain data.

Understands the bracket notation of HTML forms: `ed[value]=1`, `ed[line_items][0][product_id]=A` and
`pd[em][]=x`. Keys that are all numbers make a list, ordered by number. Every value is text.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from pinstream.errors import Refused

MAX_FIELDS: Final = 2000  # 100 line items of 8 fields, and as much again
MAX_FORM_DEPTH: Final = 8
MAX_KEY_CHARS: Final = 512

_BRACKETED = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])+)$")
_PART = re.compile(r"\[([^\[\]]*)\]")
_INDEX = re.compile(r"^[0-9]{1,4}$")

_Node = dict[str, Any]


def parse(text: bytes) -> dict[str, Any]:
    """The fields of `a=1&b[c]=2`. Of two equal plain names the last one wins.

    Raises:
        Refused: bad_text (not UTF-8 once decoded), too_many (fields), too_deep (brackets), too_long (a name),
            bad_type (a name used both as a value and as a group).
    """
    pairs = [pair for pair in text.split(b"&") if pair]
    if len(pairs) > MAX_FIELDS:
        raise Refused("too_many", f"A form has at most {MAX_FIELDS} fields.")
    root: _Node = {}
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        _put(root, _decoded(name), _decoded(value))
    return {name: _with_lists(value) for name, value in root.items()}


def _decoded(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError as exc:
        raise Refused("bad_text", "A form field is not UTF-8.") from exc


def _put(root: _Node, name: str, value: str) -> None:
    path = _path(name)
    node = root
    for part in path[:-1]:
        inner = node.setdefault(part or str(len(node)), {})
        if not isinstance(inner, dict):
            raise Refused("bad_type", "A form field is used both as a value and as a group.")
        node = inner
    last = path[-1] or str(len(node))
    if isinstance(node.get(last), dict):
        raise Refused("bad_type", "A form field is used both as a value and as a group.")
    node[last] = value


def _path(name: str) -> list[str]:
    if len(name) > MAX_KEY_CHARS:
        raise Refused("too_long", f"The name of a form field has at most {MAX_KEY_CHARS} characters.")
    bracketed = _BRACKETED.match(name)
    if not bracketed:
        return [name or "_"]
    path = [bracketed[1], *_PART.findall(bracketed[2])]
    if len(path) > MAX_FORM_DEPTH:
        raise Refused("too_deep", f"Form fields nest at most {MAX_FORM_DEPTH} deep.")
    return path


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    inner = {name: _with_lists(value) for name, value in node.items()}
    if inner and all(_INDEX.match(name) for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner
