"""Pure: take plain personal data out of text. An e-mail address becomes its SHA-256, the rest goes.

Two nets. By *name*: what stands under one of a closed list of names (`phone`, `first_name`, `ip` ...), in props and
in a URL's parameters, goes whatever it looks like. By *look*, anywhere: e-mail addresses, `tel:` links and phone
numbers in international form (`+49 ...`), also percent-encoded, as redirects put one URL into another.

The time is linear in the text: patterns never go back further than a bound, and encodings are taken off a fixed
number of times. A text in which nothing is found keeps its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final, Literal
from unicodedata import normalize
from urllib.parse import quote, unquote

from pinstream.collect.identity import digest, normal_email
from pinstream.event import MAX_PROPS_BYTES

MAX_LAYERS: Final = 3  # of percent encoding
HASH_CHARS: Final = 64

# --- by look -----------------------------------------------------------------------------------------

_INVISIBLE = "\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
_FOLDABLE = re.compile(f"[{_INVISIBLE}\ufe50-\ufe6b\uff01-\uff5e]+")
_UNSEEN = re.compile(f"[{_INVISIBLE}]+")
_WRITTEN_AT = re.compile(r"&(?:#0{0,5}64|#[xX]0{0,5}40|commat);|\\u0040")
_LOCAL = r"\w+~%.'-"
_EMAIL = re.compile(
    rf"""((?<![{_LOCAL}])[.']*+)((?:[\w+~%-][{_LOCAL}]*+|"[^"\n]{{1,64}}+")"""
    r"@(?:[\w-]{1,63}\.){1,10}[^\W\d_][\w-]{0,61}[^\W_])"
)
_NUMBER: Final = r"[1-9][\d\s().\-/\u2010-\u2015]{5,20}\d"
_PLUS_PHONE = re.compile(rf"\+[\s(]{{0,4}}{_NUMBER}")
_LEADING_PHONE = re.compile(rf"^{_PLUS_PHONE.pattern}")
_TEL_LINK = re.compile(r"(?i:\btel:)/{0,2}[+(\d][\d\s().\-/\u2010-\u2015]{4,25}")
_LOOKS = re.compile(r"[^\s]@[\w-]|\+[\s(]{0,4}[1-9]|(?i:tel:)")
_SUSPECT = re.compile(rf"[@+%]|(?i:tel:)|&#|&commat|\\u0040|://|^\?|{_FOLDABLE.pattern}")
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^/?#@]*(?:@[^/?#@]*)*@")
_DELIMITER = re.compile(r"([?&#;/])")
_HASHED = re.compile(r"^[0-9a-fA-F]{64}$")
_HASH = re.compile(r"[0-9a-fA-F]{64,}")


_CALM_TEXT = re.compile(r"[A-Za-z0-9 _.,;!()'*<>|~^$=/-]*+")
_CALM_URL = re.compile(r"[A-Za-z0-9_.,!()'*~$:/?=&-]*+")


def is_calm(text: str) -> bool:
    """Whether a look at the characters alone shows that `scrub_text` would change nothing. Most texts are like that."""
    return _CALM_TEXT.fullmatch(text) is not None


_SCHEME_CHARS: Final = len("https:")


def _is_calm_url(url: str) -> bool:
    """As `is_calm`, for `scrub_url`."""
    scheme = _SCHEME_CHARS if url.startswith("http") else 0
    if not _CALM_URL.fullmatch(url) or (url.find(":", scheme) >= 0 and "tel:" in url.lower()):
        return False
    if "=" not in url:
        return True
    path, _, query = url.partition("?")
    if "=" in path or "/" in query or "?" in query:
        return False
    return not any(map(_kind, [parameter.partition("=")[0] for parameter in query.split("&")]))


_CACHED_CHARS: Final = 300
_is_short_and_calm = lru_cache(maxsize=8192)(_is_calm_url)  # many visitors are on few pages


def scrub_text(text: str, limit: int = MAX_PROPS_BYTES) -> str:
    """The first `limit` characters of `text` without plain personal data."""
    if is_calm(text) or not _SUSPECT.search(text):
        return text[:limit]
    if "%" in text or "://" in text or text[:1] == "?":
        text = scrub_url(text, limit)
    return _cut(_plain(_WRITTEN_AT.sub("@", text), limit), limit)


def scrub_url(url: str, limit: int = MAX_PROPS_BYTES) -> str:
    """The first `limit` characters of `url` without plain personal data and credentials."""
    if not url or (_is_short_and_calm(url) if len(url) <= _CACHED_CHARS else _is_calm_url(url)):
        return url[:limit]
    url = _USERINFO.sub(r"\1", _WRITTEN_AT.sub("@", url))
    parts, length = [], 0
    for part in _DELIMITER.split(url):
        clean = _scrub_part(part, limit)
        parts.append(clean)
        length += len(clean)
        if length >= limit:
            break
    return _cut("".join(parts), limit)


def _cut(text: str, limit: int) -> str:
    """The first `limit` characters, without a hash that ends later: half of one names a person just as well."""
    if len(text) > limit:
        limit = next((run.start() for run in _HASH.finditer(text) if run.start() < limit < run.end()), limit)
    return text[:limit]


def _scrub_part(part: str, limit: int) -> str:
    key, equals, value = part.partition("=")
    if not equals:
        return _scrub_piece(part, limit)
    kind = _kind(unquote(key) if "%" in key else key)
    if kind and value:
        return f"{_scrub_piece(key, limit)}={_named_parameter(kind, value)}"
    return f"{_scrub_piece(key, limit)}={_scrub_piece(value, limit)}"


def _scrub_piece(piece: str, limit: int) -> str:
    """A piece between two delimiters. A plus inside it is a blank, so only one in front starts a phone number."""
    if "%" not in piece:
        if not _needs_a_look(piece):
            return piece
        return _LEADING_PHONE.sub("", _TEL_LINK.sub("tel:", _emails_hashed(piece, limit)))
    clear = _folded(_decoded(piece))
    if not _LOOKS.search(clear):
        return piece
    clean = _plain(clear, limit)
    return piece if clean == clear else quote(clean, safe="")


def _needs_a_look(piece: str) -> bool:
    return "@" in piece or ":" in piece or piece[:1] == "+" or not piece.isascii()


def _decoded(text: str) -> str:
    """Without percent encoding. Layers of it are `%25`s, which cost next to nothing to take off."""
    for _ in range(2):
        for _ in range(MAX_LAYERS):
            text = text.replace("%25", "%")
        text = unquote(text)
        if "%" not in text:
            break
    return text


def _folded(text: str) -> str:
    """Full-width signs as plain ones, and nothing invisible."""
    if text.isascii():
        return text
    return _FOLDABLE.sub(lambda found: normalize("NFKC", _UNSEEN.sub("", found[0])), text)


def _plain(text: str, limit: int) -> str:
    """`text`, without encodings, scrubbed by look. The bytes stay if nothing is found."""
    clear = _folded(text)
    clean = _emails_hashed(clear, limit)
    if "tel:" in clean.lower():
        clean = _TEL_LINK.sub("tel:", clean)
    clean = _PLUS_PHONE.sub("", clean)
    return text if clean == clear else clean


def _emails_hashed(text: str, limit: int) -> str:
    """Those that the first `limit` characters of the result can hold; what comes after them is cut off."""
    if "@" not in text:
        return text
    clean, count = _EMAIL.subn(_hash_found, _folded(text), limit // HASH_CHARS + 1)
    return _cut(clean, limit) if count else text


def _hash_found(found: re.Match[str]) -> str:
    return found[1] + digest(found[2].lower())


def count_emails(text: str) -> int:
    """How many plain e-mail addresses are in `text`."""
    return len(_EMAIL.findall(text)) if "@" in text else 0


_IP_CHARS: Final = 64  # IPv6 with a zone


def ip_prefix(ip: str) -> str:
    """The network of an address: /24 of IPv4, /48 of IPv6; empty for anything else."""
    return _ip_prefix(ip) if len(ip) <= _IP_CHARS else ""


@lru_cache(maxsize=16_384)
def _ip_prefix(ip: str) -> str:
    try:
        address: IPv4Address | IPv6Address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(ip_network((int(address), 24 if address.version == 4 else 48), strict=False))


# --- by name -----------------------------------------------------------------------------------------

Kind = Literal["", "phone", "email", "person", "ip"]

NAMES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "phone": (
        "ph", "phone", "phones", "tel", "telephone", "telefon", "fon", "mobile", "mobil", "cell", "cellphone", "handy",
        "sms", "msisdn", "whatsapp", "fax", "phonenumber", "phoneno", "phonenr", "telephonenumber", "telnumber",
        "telno", "telnr", "telefonnummer", "mobilenumber", "mobileno", "mobilephone", "cellnumber", "handynummer",
        "contactnumber", "contactno", "whatsappnumber", "faxnumber",
    ),
    "email": ("em", "email", "emails", "mail", "emailaddress", "mailaddress", "useremail"),
    "person": (
        "fn", "ln", "firstname", "lastname", "fullname", "surname", "givenname", "familyname", "middlename",
        "customername", "birthday", "birthdate", "dateofbirth", "birth", "dob", "db", "ge", "address", "addresses",
        "addressline", "street", "streetname", "streetaddress", "housenumber",
    ),
    "ip": ("ip", "ipaddress", "ipaddr", "clientip", "userip", "remoteip", "remoteaddr", "xforwardedfor"),
}  # fmt: skip
"""What is kept by no name that ends so, written as words without what separates them."""

_KIND_OF: Final[dict[str, Kind]] = {name: kind for kind, names in NAMES.items() for name in names}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MAX_NAME_WORDS: Final = 3
_MAX_KEY_CHARS: Final = 100  # of a name's end that are looked at, and that the caches keep
_HINT = re.compile(
    "ph|em|tel|fon|mobil|cell|handy|sms|msisdn|what|fax|num|mail|fn|ln|name|birth|dob|db|ge|addr|street|ip|forw|no|nr",
    re.IGNORECASE,
)
_PHONE_KEY = re.compile(r"(?i:phone|mobile|msisdn|whatsapp|telefon|(?<![a-z])tel(?![a-z]))|(?<=[a-z])Tel(?![a-z])")
_PHONE_VALUE = re.compile(r"^[+\d\s().\-/\u2010-\u2015]{6,25}$")


def _kind(key: str) -> Kind:
    """What a name says its value is: by its last words, so `billing[phone_number]` is a phone."""
    return _kind_of_end(key[-_MAX_KEY_CHARS:])


@lru_cache(maxsize=4096)
def _kind_of_end(key: str) -> Kind:
    if not _HINT.search(key):
        return ""
    words = [word.lower() for word in _WORD.findall(key)][-_MAX_NAME_WORDS:]
    for start in range(len(words)):
        if kind := _KIND_OF.get("".join(words[start:]), ""):
            return kind
    return ""


def _named_parameter(kind: Kind, value: str) -> str:
    if kind in ("phone", "person"):
        return value if _HASHED.match(value) else ""
    clear = _decoded(value)
    clean = _named(kind, clear)
    return value if clean == clear else quote(clean, safe="")


def _named(kind: Kind, text: str) -> str:
    """What may be kept of a text under a name of this kind: a hash, a network, or nothing."""
    text = _folded(text).strip()
    if kind == "ip":
        return ip_prefix(text.partition("/")[0])
    if _HASHED.match(text):
        return text
    address = normal_email(text) if kind == "email" else ""
    return digest(address) if address else ""


def scrub_data(data: Any, key: str = "", kind: Kind = "") -> Any:
    """Plain data with every text and key scrubbed. `key`: the name under which `data` stands; `kind`: what the names
    above it say. A number that goes becomes null; true, false and null say nothing about a person and stay.
    """
    kind = _kind(key) or kind
    match data:
        case str():
            return _scrub_value(data, key, kind)
        case dict():
            return {scrub_text(name): scrub_data(value, name, kind) for name, value in data.items()}
        case list():
            return [scrub_data(value, key, kind) for value in data]
        case int() | float() if not isinstance(data, bool):
            return None if kind or (_speaks_of_phone(key) and 10**6 <= abs(data) < 10**16) else data
    return data


def _scrub_value(text: str, key: str, kind: Kind) -> str:
    if kind:
        return _named(kind, text)
    return "" if _speaks_of_phone(key) and _is_phone(text) else scrub_text(text)


def _speaks_of_phone(name: str) -> bool:
    """Whether a key of this name may hold a phone number; it goes if it looks like one."""
    return _ends_speaking_of_phone(name[-_MAX_KEY_CHARS:])


@lru_cache(maxsize=4096)
def _ends_speaking_of_phone(name: str) -> bool:
    return bool(_PHONE_KEY.search(name))


def _is_phone(text: str) -> bool:
    return bool(_PHONE_VALUE.match(text.strip())) and 6 <= sum(char.isdigit() for char in text) <= 16
