"""Pure: take plain personal data out of text. An e-mail address becomes its SHA-256, a phone number goes.

A phone number is one in international form (`+49 ...`), or digits under a name that speaks of a phone. Percent
encoding is looked through, three layers deep, as redirects put one URL into another.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote, unquote

from pinstream.collect.identity import digest

MAX_LAYERS: Final = 3  # of percent encoding

_LOCAL_CHARS: Final = frozenset("_+%~.'-")  # beside letters and digits, left of the @
_DOMAIN = re.compile(r"(?:[\w-]{1,63}\.){1,10}[^\W\d_][\w-]{0,61}[^\W_]")
_PLUS_PHONE = re.compile(r"\+[1-9][0-9 ().\-/]{5,20}[0-9]")
_LEADING_PHONE = re.compile(r"^\+[1-9][0-9 ().\-/]{5,20}[0-9]")
_PHONE_VALUE = re.compile(r"^[+0-9 ().\-/]{6,25}$")
_PHONE_KEY = re.compile(r"(?i:phone|mobile|msisdn|whatsapp|telefon|(?<![a-z])tel(?![a-z]))|(?<=[a-z])Tel(?![a-z])")
_SUSPECT = re.compile(r"[@+%]|(?i:phone|mobile|msisdn|whatsapp|tel)")
_HINT = re.compile(r"[@+]|(?i:phone|mobile|msisdn|whatsapp|tel)")
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^/?#@]*(?:@[^/?#@]*)*@")
_DELIMITER = re.compile(r"([?&#;/])")


def scrub_text(text: str) -> str:
    """`text` without plain e-mail addresses and phone numbers."""
    if not _SUSPECT.search(text):
        return text
    if "%" in text or "://" in text:
        text = scrub_url(text)
    return _PLUS_PHONE.sub("", _emails_hashed(text))


def scrub_url(url: str, layer: int = 0) -> str:
    """`url` without plain e-mail addresses, phone numbers and credentials; what is left keeps its bytes.

    `layer`: how many layers of percent encoding have been taken off already.
    """
    if not _SUSPECT.search(url) or ("%" in url and not _HINT.search(_fully_unquoted(url))):
        return url
    url = _USERINFO.sub(r"\1", url)
    return "".join(_scrub_part(part, layer) for part in _DELIMITER.split(url))


def _fully_unquoted(text: str) -> str:
    for _ in range(MAX_LAYERS):
        if "%" not in text:
            break
        text = unquote(text)
    return text


def _scrub_part(part: str, layer: int) -> str:
    key, equals, value = part.partition("=")
    if not equals:
        return _scrub_piece(part, layer)
    if speaks_of_phone(unquote(key)) and _is_phone(unquote(value).replace("+", " ")):
        return f"{key}="
    return f"{_scrub_piece(key, layer)}={_scrub_piece(value, layer)}"


def _scrub_piece(piece: str, layer: int) -> str:
    """A piece between two delimiters. A plus inside it is a blank, so only one in front starts a phone number."""
    clear = unquote(piece) if "%" in piece and layer < MAX_LAYERS else piece
    if clear == piece:
        return _LEADING_PHONE.sub("", _emails_hashed(piece))
    clean = _PLUS_PHONE.sub("", _emails_hashed(scrub_url(clear, layer + 1)))
    return piece if clean == clear else quote(clean, safe="")


def _emails_hashed(text: str) -> str:
    """Looks at each `@` in turn, so that the time is linear in the text, whatever it is."""
    parts, done, at = [], 0, text.find("@")
    while at != -1:
        start, domain = _local_start(text, done, at), _DOMAIN.match(text, at + 1)
        if domain and start < at:
            parts += [text[done:start], digest(text[start : domain.end()].lower())]
            done = domain.end()
        at = text.find("@", max(at + 1, done))
    return "".join([*parts, text[done:]])


def _local_start(text: str, floor: int, at: int) -> int:
    """Where the address around the `@` at `at` begins, not before `floor`."""
    start = at
    while start > floor and (text[start - 1].isalnum() or text[start - 1] in _LOCAL_CHARS):
        start -= 1
    while start < at and text[start] in ".'":
        start += 1
    return start


def speaks_of_phone(name: str) -> bool:
    """Whether a key or parameter of this name is likely to hold a phone number."""
    return bool(_PHONE_KEY.search(name))


def _is_phone(text: str) -> bool:
    return bool(_PHONE_VALUE.match(text.strip())) and 6 <= sum(char.isdigit() for char in text) <= 16


def scrub_data(data: Any, key: str = "") -> Any:
    """Plain data with every text and key scrubbed. `key`: the name under which `data` stands.

    A number under a phone's name becomes null.
    """
    match data:
        case str():
            return "" if speaks_of_phone(key) and _is_phone(data) else scrub_text(data)
        case dict():
            return {scrub_text(name): scrub_data(value, name) for name, value in data.items()}
        case list():
            return [scrub_data(value, key) for value in data]
        case int() if not isinstance(data, bool) and speaks_of_phone(key) and 10**6 <= abs(data) < 10**16:
            return None
    return data
