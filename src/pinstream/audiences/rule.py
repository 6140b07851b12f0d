"""The rule of an audience: why somebody is in it. docs/audiences.md says what each condition means, with its edges.

A rule is true of somebody if every condition of `all` holds, at least one of `any` (where there are some) and none of
`none`, and if they have been quiet for a while. A window is [now - N x 86,400 s, now), by the time at which something
happened; a condition that counts (`at_least` above 1) takes whole UTC days: the N before today, and today.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from pinstream.errors import Refused
from pinstream.event import CONSENT_WITHDRAWN, MAX_MONEY, MAX_UINT64, Action, canonical_name

MAX_WITHIN_DAYS: Final = 540
"""Pinterest's own bound for how long an audience remembers."""
MAX_DAILY_DAYS: Final = 180
"""So far `visitor_day` reaches back; a condition that needs more reads `events`."""
MAX_RAW_DAYS: Final = 400
"""So far `events` reaches back."""
MAX_CONDITIONS: Final = 10
MAX_EVENTS: Final = 10
MAX_AT_LEAST: Final = 64
"""So many events a day and visitor are counted exactly."""
MAX_NAMES: Final = 100
"""Products, Pins, lists and the like in one condition."""
MAX_NAME_CHARS: Final = 256
MAX_COUNT: Final = 1_000_000
MAX_QUIET_MIN: Final = 30 * 24 * 60
MAX_BYTES: Final = 16_384

VIEWS: Final = frozenset({"page_visit", "view_content", "view_category"})
"""Events that `visitor_profile.last_view` holds together."""
PROFILE_COLUMNS: Final = {
    "add_to_cart": "last_cart",
    "initiate_checkout": "last_checkout_started",
    "checkout": "last_order",
    "view_category": "last_view_category",
    "search": "last_search",
    "signup": "last_signup",
    "lead": "last_lead",
}
"""Events -> the column of `visitor_profile` that holds when each was last seen. All others are looked up by day."""
ACTION_COLUMNS: Final[dict[Action, str]] = {
    "click": "last_click",
    "save": "last_save",
    "closeup": "last_closeup",
    "comment": "last_comment",
    "like": "last_like",
}
"""Actions on Pins -> the column of `visitor_profile`. Who lands with a click id of Pinterest has clicked a Pin."""

Days = Annotated[int, Meta(ge=1, le=MAX_WITHIN_DAYS)]
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Money = Annotated[float, Meta(ge=0, le=MAX_MONEY)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^\x00-\x1f\x7f]*$")]
Names = Annotated[tuple[Name, ...], Meta(max_length=MAX_NAMES)]
Ids = Annotated[tuple[Annotated[int, Meta(ge=1, le=4_294_967_295)], ...], Meta(min_length=1, max_length=MAX_NAMES)]
Text = Annotated[str, Meta(max_length=MAX_NAME_CHARS, pattern=r"^[^\x00-\x1f\x7f]*$")]
Code = Annotated[str, Meta(pattern=r"^(?:[A-Z]{3})?$")]
Object = Literal["any", "pin", "board", "product", "campaign"]
Word = Literal["yes", "no", "unknown"]


class Where(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an event must be like: everything that is given. Of a list, one entry on one line item is enough."""

    products: Names = ()
    categories: Names = ()
    brands: Names = ()
    value_at_least: Money | None = None
    """In the site's currency. An event in a currency without a rate has no value."""
    value_below: Money | None = None
    currency: Code = ""
    url_contains: Text = ""
    """Whatever the case of its letters, as `search_contains`."""
    search_contains: Text = ""


class _Condition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a rule."""


class Did(_Condition, frozen=True, tag="did"):
    """Any of `events` happened in the window: once, or `at_least` so often, all of them together."""

    events: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_EVENTS)]
    within_days: Days
    at_least: Annotated[int, Meta(ge=1, le=MAX_AT_LEAST)] = 1
    where: Where = Where()


class Engaged(_Condition, frozen=True, tag="engaged"):
    """Did something to a Pin in the window: any of `actions` (none named: any of the five)."""

    within_days: Days
    actions: Annotated[tuple[Action, ...], Meta(max_length=5)] = ()
    on: Object = "any"
    """What is named by `ids`. Without ids: some Pin, board, product or campaign."""
    ids: Names = ()


class Arrived(_Condition, frozen=True, tag="arrived"):
    """Came from a Pin in the window: landed with Pinterest's click id."""

    within_days: Days


class FirstSeen(_Condition, frozen=True, tag="first_seen"):
    """The first event lies in the window."""

    within_days: Days


class LastSeen(_Condition, frozen=True, tag="last_seen"):
    """The latest event lies in the window. Actions on Pins are no visit."""

    within_days: Days


class Orders(_Condition, frozen=True, tag="orders"):
    """Orders, without the cancelled and refunded: how many, what sum, what average. Every bound given must hold."""

    within_days: Annotated[int, Meta(ge=0, le=MAX_WITHIN_DAYS)] = 0
    """0 = ever."""
    count_at_least: Count | None = None
    count_at_most: Count | None = None
    total_at_least: Money | None = None
    """Money is in the site's currency. Orders in a currency without a rate are no money, and are counted."""
    total_below: Money | None = None
    average_at_least: Money | None = None
    """Of no order there is no average: no bound of it holds."""
    average_below: Money | None = None


class Bought(_Condition, frozen=True, tag="bought"):
    """Ever ordered one of `products`, or something of one of `categories`."""

    products: Names = ()
    categories: Names = ()


class Consents(_Condition, frozen=True, tag="consent"):
    """The latest word on consent. Only who says yes is ever counted or pushed, whatever else a rule says."""

    word: Word


class Known(_Condition, frozen=True, tag="known"):
    """There is an e-mail address. True of every person; of a visitor, once one was seen in that browser."""


class OnList(_Condition, frozen=True, tag="list"):
    """On one of these imported lists: by e-mail, phone or external id."""

    lists: Ids


class InAudience(_Condition, frozen=True, tag="audience"):
    """In one of these audiences, as it stands at Pinterest since its last sync."""

    audiences: Ids


Condition = Did | Engaged | Arrived | FirstSeen | LastSeen | Orders | Bought | Consents | Known | OnList | InAudience
Conditions = Annotated[tuple[Condition, ...], Meta(max_length=MAX_CONDITIONS)]
Group = Literal["all", "any", "none"]


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who is in. Make one with `from_json` or `from_toml`, or check a hand-made one with `checked`."""

    all: Conditions = ()
    any: Conditions = ()
    none: Conditions = ()
    quiet_for_min: Annotated[int, Meta(ge=0, le=MAX_QUIET_MIN)] = 0
    """Nothing at all was seen for so many minutes; 0 = does not matter."""
    level: Literal["person", "visitor"] = "person"
    """person: conditions hold for somebody with all their devices. visitor: for one browser; such a rule can be counted
    and exported, never pushed."""

    def conditions(self) -> list[tuple[Group, int, Condition]]:
        """Every condition with its place: group and number in it."""
        groups: tuple[tuple[Group, Conditions], ...] = (("all", self.all), ("any", self.any), ("none", self.none))
        return [(group, number, each) for group, found in groups for number, each in enumerate(found)]


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


def check_possible(rule: Rule) -> None:
    """Raise Refused if bounds of one condition exclude each other, so that it can never hold."""
    for group, number, each in rule.conditions():
        path = f"$.{group}[{number}]"
        match each:
            case Orders():
                _some_between(path, "count", each.count_at_least, each.count_at_most, end_included=True)
                _some_between(path, "total", each.total_at_least, each.total_below)
                _some_between(path, "average", each.average_at_least, each.average_below)
            case Did():
                _some_between(f"{path}.where", "value", each.where.value_at_least, each.where.value_below)
            case _:
                pass


def reads_events(condition: Condition) -> bool:
    """Whether a condition is looked up in `events`, so that its cost grows with traffic and not with visitors."""
    if not isinstance(condition, Did):
        return False
    by_profile = condition.at_least == 1 and not columns_of(condition.events)[1]
    return condition.where != Where() or (condition.within_days > MAX_DAILY_DAYS and not by_profile)


def columns_of(events: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The profile's columns that say when `events` were last seen, and the events that have none."""
    views = ("last_view",) if set(events) >= VIEWS else ()
    rest = [event for event in events if not (views and event in VIEWS)]
    columns = views + tuple(PROFILE_COLUMNS[event] for event in rest if event in PROFILE_COLUMNS)
    return columns, tuple(event for event in rest if event not in PROFILE_COLUMNS)


ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "type": tuple(str(kind.__struct_config__.tag) for kind in get_args(Condition)),
    "actions": get_args(Action),
    "on": get_args(Object),
    "word": get_args(Word),
    "level": ("person", "visitor"),
}
"""The words that a field takes."""


def in_words(what: str, path: str) -> str:
    """What msgspec finds wrong, as a sentence that says what is allowed. `path`: where, such as `$.all[0].type`."""
    field = re.sub(r"\[\d*\]", "", path).rpartition(".")[2]
    if what.startswith(("Invalid value", "Invalid enum value")) and field in ALLOWED:
        return f"{what.replace(' enum', '')}. Allowed: {', '.join(ALLOWED[field])}."
    if "regex" in what:
        return "must be three capital letters, such as EUR." if field == "currency" else "has control characters."
    for name, words in _TYPES.items():
        what = what.replace(f"`{name}`", words)
    return what.replace("Expected ", "must be ") + "."


_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "array": "a list",
    "object": "a table of fields",
    "bool": "true or false",
    "null": "nothing",
}


def _decoded(text: str | bytes, kind: str, decode: Any) -> Rule:
    if len(text if isinstance(text, bytes) else text.encode()) > MAX_BYTES:
        raise Refused("too_long", f"The rule is longer than {MAX_BYTES} bytes.", field="$")
    try:
        rule: Rule = decode(text, type=Rule)
    except msgspec.ValidationError as exc:
        what, _, path = str(exc).partition(" - at ")
        path = path.strip("`") or "$"
        raise Refused("bad_value", f"The rule is not valid: {path}: {in_words(what, path)}", field=path) from exc
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise Refused("bad_json", f"The rule is not valid {kind}: {exc}.", field="$") from exc
    if not rule.all and not rule.any:
        raise Refused("missing_field", "The rule is not valid: it needs a condition in `all` or `any`.", field="$")
    groups = {
        group: tuple(_sound(each, f"$.{group}[{number}]") for number, each in enumerate(getattr(rule, group)))
        for group in ("all", "any", "none")
    }
    return msgspec.structs.replace(rule, **groups)


def _sound(condition: Condition, path: str) -> Condition:
    """`condition` as stored. Raises Refused where its fields do not go together."""
    match condition:
        case Did():
            return _did(condition, path)
        case Engaged(on="any", ids=ids) if ids:
            raise Refused("bad_value", "`ids` needs `on`: pin, board, product or campaign.", field=f"{path}.on")
        case Engaged(on=("pin" | "board" | "campaign"), ids=ids):
            for number, name in enumerate(ids):
                if not (name.isascii() and name.isdecimal() and int(name) <= MAX_UINT64):
                    raise Refused("bad_value", "Pinterest's ids are numbers.", field=f"{path}.ids[{number}]")
        case Orders() if condition == Orders(within_days=condition.within_days):
            raise Refused("missing_field", f"{path}: say how many orders, or how much money.", field=path)
        case Bought(products=(), categories=()):
            raise Refused("missing_field", f"{path}: name `products` or `categories`.", field=path)
        case _:
            pass
    return condition


def _some_between(
    path: str, what: str, at_least: float | None, end: float | None, *, end_included: bool = False
) -> None:
    """Raise Refused if nothing lies between two bounds."""
    if at_least is not None and end is not None and (at_least > end or (at_least == end and not end_included)):
        last = "at_most" if end_included else "below"
        detail = f"{path}: nothing is {what}_at_least {at_least:g} and {what}_{last} {end:g}."
        raise Refused("out_of_range", detail, field=path)


def _did(condition: Did, path: str) -> Did:
    names = tuple(dict.fromkeys(_event(each, f"{path}.events[{at}]") for at, each in enumerate(condition.events)))
    sound = msgspec.structs.replace(condition, events=names)
    if reads_events(sound) and sound.within_days > MAX_RAW_DAYS:
        detail = f"This condition reads events, which are kept for {MAX_RAW_DAYS} days."
        raise Refused("out_of_range", detail, field=f"{path}.within_days")
    return sound


def _event(event: str, path: str) -> str:
    name = canonical_name(event)
    if not 0 < len(name) <= 100 or name == CONSENT_WITHDRAWN:
        shown = re.sub(r"[^\w .-]", "?", name)[:100]
        raise Refused("bad_value", f"No rule can ask for the event {shown!r}.", field=path)
    return name
