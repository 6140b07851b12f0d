"""The rule of an audience: why somebody is in it.

A rule is true of a person if all conditions of `all` hold and none of `none` does, and the person has been
quiet for a while. A window is [now - N x 86,400 s, now), by the time at which something happened.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from pinstream.errors import Refused
from pinstream.event import canonical_name

MAX_WITHIN_DAYS: Final = 540
"""Pinterest's own bound for how long an audience remembers."""
MAX_CONDITIONS: Final = 10
MAX_EVENTS: Final = 10
MAX_QUIET_MIN: Final = 30 * 24 * 60
MAX_BYTES: Final = 16_384

PROFILE_COLUMNS: Final = {
    "add_to_cart": "last_cart",
    "initiate_checkout": "last_checkout_started",
    "checkout": "last_order",
}
"""Events a rule may name -> the column of `visitor_profile` that holds when it was last seen."""


class Did(Struct, tag="did", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Any of `events` happened at least once in the window."""

    events: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EVENTS)]
    within_days: Annotated[int, Meta(ge=1, le=MAX_WITHIN_DAYS)]


Conditions = Annotated[tuple[Did, ...], Meta(max_length=MAX_CONDITIONS)]


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is in. Make one with `from_json` or `from_toml`, or check a hand-made one with `checked`."""

    all: Annotated[tuple[Did, ...], Meta(min_length=1, max_length=MAX_CONDITIONS)]
    none: Conditions = ()
    quiet_for_min: Annotated[int, Meta(ge=0, le=MAX_QUIET_MIN)] = 0
    """Nothing at all was seen of the person for so many minutes; 0 = does not matter."""
    level: Literal["person"] = "person"
    """Conditions hold for a person with all their devices, never for one browser."""


def from_json(text: str | bytes) -> Rule:
    """A rule from its JSON. Raises Refused with the path of what is wrong."""
    return _decoded(text, "JSON", msgspec.json.decode)


def from_toml(text: str | bytes) -> Rule:
    """A rule from TOML of the same shape. Raises Refused with the path of what is wrong."""
    return _decoded(text, "TOML", msgspec.toml.decode)


def to_json(rule: Rule) -> str:
    """The JSON that `from_json` reads back as `rule`."""
    return msgspec.json.encode(rule).decode()


def checked(rule: Rule) -> Rule:
    """`rule` with event names as stored. Raises Refused as `from_json` does."""
    return from_json(to_json(rule))


def _decoded(text: str | bytes, kind: str, decode: Any) -> Rule:
    if len(text if isinstance(text, bytes) else text.encode()) > MAX_BYTES:
        raise Refused("too_long", f"The rule is longer than {MAX_BYTES} bytes.", field="$")
    try:
        rule = decode(text, type=Rule)
    except msgspec.ValidationError as exc:
        what, _, path = str(exc).partition(" - at ")
        raise Refused("bad_value", f"The rule is not valid: {what}.", field=path.strip("`") or "$") from exc
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise Refused("bad_json", f"The rule is not valid {kind}: {exc}.", field="$") from exc
    return Rule(
        all=_named(rule.all, "$.all"),
        none=_named(rule.none, "$.none"),
        quiet_for_min=rule.quiet_for_min,
        level=rule.level,
    )


def _named(conditions: tuple[Did, ...], path: str) -> tuple[Did, ...]:
    return tuple(
        Did(events=_known(condition.events, f"{path}[{number}].events"), within_days=condition.within_days)
        for number, condition in enumerate(conditions)
    )


def _known(events: tuple[str, ...], path: str) -> tuple[str, ...]:
    names = [canonical_name(event) for event in events]
    for number, name in enumerate(names):
        if name not in PROFILE_COLUMNS:
            shown = re.sub(r"[^\w .-]", "?", name)[:100]
            known = ", ".join(PROFILE_COLUMNS)
            detail = f"No rule can use the event {shown} yet. Use {known}."
            raise Refused("bad_value", detail, field=f"{path}[{number}]")
    return tuple(dict.fromkeys(names))
