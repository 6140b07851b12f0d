"""Pure: who it was. Identifiers normalised and hashed as Pinterest's Conversions API wants them, and our visitor id.

Hashes are lowercase hex SHA-256 over UTF-8. Rules: Pinterest's OpenAPI description v5.23.0, `user_data`, and its
help page on enhanced match (blanks removed from e-mails). Where those contradict themselves the words count,
not the sample hashes: country and state in lower case, gender one letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from hashlib import blake2b, sha256
from typing import Final

import phonenumbers
from msgspec import Struct

from pinstream.errors import Refused

_SHA256 = re.compile(r"^[0-9a-fA-F]{64}$")
_OTHER_HASH = re.compile(r"^(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{40})$")
_EMAIL = re.compile(r"^[^@\s]{1,64}@[^@\s.]+(?:\.[^@\s.]+)+$")
MAX_EMAIL_CHARS: Final = 320  # RFC 3696 erratum 1690: 64 + 1 + 255
MIN_PHONE_DIGITS: Final = 7  # with country code; the shortest in use
MAX_PHONE_DIGITS: Final = 15  # E.164

_TEMPLATES: Final = (
    "", "undefined", "null", "none", "n/a", "nan", "nil", "(not set)", "[object object]", "user_email_address",
    "<user_email_address>", "<user_email>",
)  # fmt: skip
_TEMPLATE = re.compile(r"^(?:<[^>]*>|\$\{.*\}|%%.*%%|.*\{\{.*\}\}.*|.*\{%.*%\}.*)$", re.DOTALL)


def digest(value: str) -> str:
    """SHA-256 of the text, in lower-case hex."""
    return sha256(value.encode()).hexdigest()


_TEMPLATE_HASHES: Final = frozenset(
    digest(spelling) for text in _TEMPLATES for spelling in (text, text.upper(), text.capitalize(), f" {text} ")
) | {digest("[object Object]"), digest("NaN"), digest(" ")}


_NOTHING: Final = ("", digest(""))


class Person(Struct, frozen=True, kw_only=True):
    """The hashed identifiers of whoever sent a request."""

    em: str = ""
    ph: str = ""
    external_id: str = ""
    match_keys: dict[str, str] = {}
    hashes: frozenset[str] = frozenset()
    """Every e-mail, phone and external id that was sent, also those after the first of each."""


NOBODY: Final = Person()


def identify(user: Mapping[str, tuple[str, ...]], region: str, path: str) -> Person:
    """Hash what was sent. Of several values the first valid one is taken.

    Raises:
        Refused: no value of an identifier is valid; bad_hash for MD5 and SHA-1, else bad_value. `path` is where
            `user` stands in the input.
    """
    if not user:
        return NOBODY
    found = {key: _hashes(key, values, region, f"{path}.{key}") for key, values in user.items()}
    first = {key: hashes[0] for key, hashes in found.items() if hashes}
    main = {key: first.pop(key, "") for key in ("em", "ph", "external_id")}
    every = (one for key in ("em", "ph", "external_id") for one in found.get(key, ()))
    return Person(**main, match_keys=first, hashes=frozenset(every))


def _hashes(key: str, values: tuple[str, ...], region: str, path: str) -> list[str]:
    """The valid values' hashes, in order. Empty texts count as absent, and so does the hash of one: shops send it."""
    hashes, fault = [], None
    for place, value in enumerate(values):
        if value.strip().lower() in _NOTHING:
            continue
        try:
            hashes.append(hashed(key, value, region, f"{path}[{place}]"))
        except Refused as exc:
            fault = fault or exc
    if fault and not hashes:
        raise fault
    return hashes


_INVALID: Final = {
    "em": "This is no e-mail address.",
    "ph": "This is no phone number. Write it with its country, as +49 ..., or set the site's --phone-region.",
}


def hashed(key: str, value: str, region: str, path: str) -> str:
    """One identifier's SHA-256; one that is hashed already is passed on in lower case.

    Raises:
        Refused: bad_hash (MD5 or SHA-1), bad_value (a template's leftover, or not such an identifier).
    """
    trimmed = value.strip()
    if _SHA256.match(trimmed):
        if trimmed.lower() in _TEMPLATE_HASHES:
            raise Refused("bad_value", "This is the hash of a template's leftover.", field=path)
        return trimmed.lower()
    if _OTHER_HASH.match(trimmed):
        raise Refused("bad_hash", "This looks like MD5 or SHA-1. Send SHA-256, or the plain value.", field=path)
    if trimmed.lower() in _TEMPLATES or _TEMPLATE.match(trimmed):
        raise Refused("bad_value", "This is a template's leftover, not an identifier.", field=path)
    plain = _phone(trimmed, region) if key == "ph" else _NORMAL[key](trimmed.lower())
    if not plain:
        raise Refused("bad_value", _INVALID.get(key, f"This is no valid {key}."), field=path)
    return digest(plain)


def normal_email(value: str) -> str:
    """Trimmed, lowercased, without blanks; empty if it does not look like an e-mail address."""
    address = "".join(value.lower().split())
    return address if len(address) <= MAX_EMAIL_CHARS and _EMAIL.match(address) else ""


def _phone(value: str, region: str) -> str:
    """Country code and number, digits only; empty if it can be none.

    Without a plus it is a number of `region`, unless it begins with that region's country code and is valid so.
    """
    international = f"+{value[2:]}" if value.startswith("00") else value
    number = _without_plus(international, region) or _parsed(international, region)
    if number is None or not phonenumbers.is_possible_number(number):
        return ""
    digits = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164).lstrip("+")
    return digits if MIN_PHONE_DIGITS <= len(digits) <= MAX_PHONE_DIGITS else ""


def _without_plus(value: str, region: str) -> phonenumbers.PhoneNumber | None:
    number = _parsed(f"+{value}", "") if region and value[:1] in "123456789" else None
    if number is None or number.country_code != phonenumbers.country_code_for_region(region):
        return None
    return number if phonenumbers.is_valid_number(number) else None


def _parsed(value: str, region: str) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(value, region or None)
    except phonenumbers.NumberParseException:
        return None


def _letters_and_digits(value: str) -> str:
    return "".join(char for char in value if char.isalnum())


def _two_letters(value: str) -> str:
    code = _letters_and_digits(value)
    return code if len(code) == 2 and code.isascii() and code.isalpha() else ""


def _birth_date(value: str) -> str:
    """YYYYMMDD, from that or from YYYY-MM-DD with any separator."""
    digits = "".join(char for char in value if char in "0123456789")
    try:
        born = date.fromisoformat(digits) if len(digits) == 8 else None
    except ValueError:
        born = None
    return digits if born else ""


_GENDERS: Final = {
    "f": "f", "female": "f", "w": "f", "m": "m", "male": "m",
    "n": "n", "nonbinary": "n", "non-binary": "n", "x": "n", "d": "n",
}  # fmt: skip

_NORMAL: Final[dict[str, Callable[[str], str]]] = {
    "em": normal_email,
    "external_id": str.strip,
    "fn": str.strip,
    "ln": str.strip,
    "ge": lambda value: _GENDERS.get(value, ""),
    "db": _birth_date,
    "ct": _letters_and_digits,
    "st": _two_letters,
    "zp": _letters_and_digits,  # Pinterest asks for digits, which would make British and Dutch codes collide
    "country": _two_letters,
    "hashed_maids": str.strip,
}


def visitor_id(site_id: int, *, visitor: str, person: Person, epik: str) -> int:
    """Our number for a visitor: 8 bytes of BLAKE2b over the site and the best identity there is; 0 = nobody known."""
    if visitor:
        return visitor_hash(site_id, f"v:{visitor}")
    if person.external_id:
        return visitor_hash(site_id, f"x:{person.external_id}")
    if person.em:
        return visitor_hash(site_id, f"e:{person.em}")
    return visitor_hash(site_id, f"k:{epik}") if epik else 0


def visitor_hash(site_id: int, identity: str) -> int:
    """The number that stands for `v:<visitor id>`, `x:<external id hash>`, `e:<em>` or `k:<epik>` on a site."""
    return int.from_bytes(blake2b(f"{site_id}:{identity}".encode(), digest_size=8).digest(), "big")
