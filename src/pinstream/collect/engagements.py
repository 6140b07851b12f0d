"""Pure: what people did with Pins, as a server tells it -> Engagement records.

Unknown keys are refused: an engagement has no props to keep them in.
"""

from __future__ import annotations

from typing import Any, Final, get_args

from pinstream.collect import identity
from pinstream.collect.intake import Intake, Outcome
from pinstream.collect.scrub import scrub_text
from pinstream.collect.stamp import RANDOM_BYTES, Context, Random, uuid7
from pinstream.collect.values import decode_json, integer, text, uuid
from pinstream.collect.wire import MAX_EPIK_CHARS, MAX_SITE_CHARS, read_consent, read_user
from pinstream.errors import Refused
from pinstream.event import (
    EARLY_MS,
    ENGAGEMENTS,
    LATE_MS,
    MAX_EVENTS,
    MAX_TIME_MS,
    Action,
    Engagement,
    encode,
)
from pinstream.eventlog.contract import Record

ACTIONS: Final = frozenset(get_args(Action))
_IDS: Final = ("pin_id", "board_id", "ad_id", "campaign_id")
_KEYS: Final = frozenset({"action", "event_id", "time", "visitor_id", "epik", "user", "product_id", *_IDS})
_MAX_ID: Final = 2**64 - 1
_ID_CHARS: Final = 256
_PRODUCT_CHARS: Final = 128


def read(body: bytes) -> tuple[str, list[Any], str]:
    """(site, engagements as sent, consent as said). Raises Refused if the body is not of that shape."""
    if not body.strip():
        raise Refused("empty_body", "The request has no body.")
    data = decode_json(body)
    if not isinstance(data, dict):
        raise Refused("bad_type", "An object is wanted here.", field="$")
    site, sent = data.get("site"), data.get("engagements")
    if site is None or site == "":
        raise Refused("missing_field", "The request names no site.", field="$.site")
    if not sent and sent in (None, []):
        raise Refused("missing_field", "There are no engagements.", field="$.engagements")
    if not isinstance(sent, list):
        raise Refused("bad_type", "A list of engagements is wanted here.", field="$.engagements")
    if len(sent) > MAX_EVENTS:
        raise Refused("too_many", f"At most {MAX_EVENTS} engagements in a request.", field="$.engagements")
    return text(site, "$.site", MAX_SITE_CHARS), sent, read_consent(data.get("consent") or "")


def take(sent: list[Any], consent: str, context: Context, random: Random) -> Intake:
    """Stamp every engagement; one outcome each. With consent `no` none is looked at."""
    if consent == "no":
        return Intake([Outcome(_sent_id(one), "dropped", "consent") for one in sent], [])
    outcomes, records = [], []
    for place, one in enumerate(sent):
        try:
            engagement = _engagement(one, f"$.engagements[{place}]", context, random)
        except Refused as exc:
            outcomes.append(Outcome(_sent_id(one), "refused", exc.reason, exc.field))
            continue
        if engagement is None:
            outcomes.append(Outcome(_sent_id(one), "dropped", "suppressed"))
            continue
        outcomes.append(Outcome(engagement.event_id, "durable"))
        records.append(Record(ENGAGEMENTS, engagement.visitor_id, encode(engagement)))
    return Intake(outcomes, records)


def _sent_id(one: Any) -> str:
    event_id = one.get("event_id") if isinstance(one, dict) else ""
    return event_id[:_ID_CHARS] if isinstance(event_id, str) else ""


def _engagement(one: Any, path: str, context: Context, random: Random) -> Engagement | None:
    """The record, or None if the person asked to be erased."""
    if not isinstance(one, dict):
        raise Refused("bad_type", "An object is wanted here.", field=path)
    if one.keys() - _KEYS:
        raise Refused("bad_value", f"Known fields are {', '.join(sorted(_KEYS))}.", field=path)
    said = {name: value for name, value in one.items() if value is not None and value != ""}
    person = identity.identify(read_user(said.get("user"), f"{path}.user"), context.site.phone_region, f"{path}.user")
    if not person.hashes.isdisjoint(context.suppressed):
        return None
    epik = scrub_text(text(said.get("epik", ""), f"{path}.epik", MAX_EPIK_CHARS))
    visitor = uuid(said["visitor_id"], f"{path}.visitor_id") if "visitor_id" in said else ""
    time = integer(said.get("time", context.now_ms), f"{path}.time", 0, MAX_TIME_MS) or context.now_ms
    kept = min(max(time, context.now_ms - LATE_MS), context.now_ms + EARLY_MS)
    event_id = scrub_text(text(said.get("event_id", ""), f"{path}.event_id", _ID_CHARS), _ID_CHARS)
    return Engagement(
        site_id=context.site.id,
        action=_action(said.get("action"), f"{path}.action"),
        event_id=event_id or uuid7(context.now_ms, random(RANDOM_BYTES)),
        time=kept,
        received_ms=context.now_ms,
        visitor_id=identity.visitor_id(context.site.id, visitor=visitor, person=person, epik=epik),
        em=person.em,
        external_id=person.external_id,
        epik=epik if len(epik) <= MAX_EPIK_CHARS else "",
        product_id=scrub_text(text(said.get("product_id", ""), f"{path}.product_id", _PRODUCT_CHARS), _PRODUCT_CHARS),
        time_clamped=kept != time,
        **{name: integer(said.get(name, 0), f"{path}.{name}", 0, _MAX_ID) for name in _IDS},
    )


def _action(value: Any, path: str) -> Action:
    if value is None:
        raise Refused("missing_field", "An engagement needs an action.", field=path)
    if not isinstance(value, str):
        raise Refused("bad_type", "Text is wanted here.", field=path)
    action: Any = value.strip().lower()
    if action not in ACTIONS:
        raise Refused("bad_value", f"Known actions are {', '.join(sorted(ACTIONS))}.", field=path)
    known: Action = action
    return known
