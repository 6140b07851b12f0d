"""Pure: what a client says + who and when -> the Event to store, or why nothing is stored.

Order: crawlers, then consent, then suppression. What a visitor did not agree to is dropped before anything else
of it is looked at. A withdrawal of consent is always taken, and holds only site, visitor and time; where it names no
visitor, the hashes that say whose it is stand in (docs/decisions/0004).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import unquote_plus

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from pinstream.collect import identity
from pinstream.collect.identity import NOBODY, Person
from pinstream.collect.scrub import HASH_CHARS, count_emails, ip_prefix, is_calm, scrub_data, scrub_text, scrub_url
from pinstream.collect.values import is_uuid
from pinstream.collect.wire import MAX_EPIK_CHARS, Envelope, pack_props, props_too_long
from pinstream.errors import Refused
from pinstream.event import (
    CONSENT_WITHDRAWN,
    EARLY_MS,
    LATE_MS,
    MAX_MONEY,
    MAX_PROPS_BYTES,
    Consent,
    Event,
    LineItem,
    RawEvent,
    Source,
    canonical_name,
)
from pinstream.state.snapshot import Site

Random = Callable[[int], bytes]
"""n -> n random bytes."""

SKEW_MS: Final = 60_000  # a client's clock that is off by less is left alone
RANDOM_BYTES: Final = 10  # of an event id that we make
MAX_AGENT_CHARS: Final = 512


class Context(Struct, frozen=True, kw_only=True):
    """What the edge knows about a request beside its body."""

    now_ms: int
    site: Site
    ip: str = ""
    user_agent: str = ""
    language: str = ""
    """Accept-Language, as sent."""
    visitor_cookie: str = ""
    epik_cookie: str = ""
    opted_out: bool = False
    """Sec-GPC or DNT is 1."""
    bot: bool = False
    source: Source = "tag"
    suppressed: frozenset[str] = frozenset()


class Dropped(NamedTuple):
    """Not stored, by policy. `reason` is one of `event.POLICY`."""

    reason: str


class Decision(NamedTuple):
    """What holds for a visitor's consent, and what decided it."""

    consent: Consent
    by: Literal["gpc", "explicit", "default"]


_SAID_YES: Final = Decision("yes", "explicit")
_SAID_NO: Final = Decision("no", "explicit")


class Sender(Struct, frozen=True, kw_only=True):
    """Who sent a request, worked out once for all of its events."""

    decision: Decision
    visitor: str
    """The tag's UUID, of the cookie or else of the body; may be empty."""
    person: Person
    fault: Refused | None
    """Why the identifiers are refused, if they are."""
    visitor_id: int
    """0: only a click id can tell."""
    epik: str
    skew_ms: int


def decide(site: Site, *, opted_out: bool, said: str) -> Decision:
    """The browser's GPC or DNT > what the visitor said > the site's default."""
    if opted_out and not (said == "yes" and site.explicit_yes_overrides_gpc):
        return Decision("no", "gpc")
    if said == "yes":
        return _SAID_YES
    return _SAID_NO if said == "no" else Decision(site.consent_default, "default")


def sender(envelope: Envelope, context: Context) -> Sender:
    """Who sent the request. Identifiers that are refused are a fault only where consent lets them be used."""
    site, person, fault = context.site, NOBODY, None
    try:
        if envelope.user:
            person = identity.identify(envelope.user, site.phone_region, envelope.user_path)
    except Refused as exc:
        fault = exc
    visitor, cookie = envelope.visitor_id, context.visitor_cookie
    if cookie and cookie != visitor and is_uuid(cookie.lower()):
        visitor = cookie.lower()
    return Sender(
        decision=decide(site, opted_out=context.opted_out, said=envelope.consent),
        visitor=visitor,
        person=person,
        fault=fault,
        visitor_id=identity.visitor_id(site.id, visitor=visitor, person=person, epik=""),
        epik=scrub_text(envelope.epik) if envelope.epik else "",
        skew_ms=envelope.sent_at - context.now_ms if envelope.sent_at else 0,
    )


def stamp(raw: RawEvent, who: Sender, context: Context, random: Random) -> Event | Dropped:
    """The event to store, or the policy that forbids it. `random` makes the id of an event that has none.

    Raises:
        Refused: the sender's identifiers are refused (of a withdrawal: and nothing else tells whose it is), or props
            no longer fit once e-mails in them are hashed.
    """
    if canonical_name(raw.event) == CONSENT_WITHDRAWN:
        time, _ = _time(raw.time, who.skew_ms, context.now_ms)
        if who.fault and not who.visitor:
            raise who.fault
        return withdrawal(who, context, raw.event_id, time, random) or Dropped(_policy(who.decision))
    if context.bot:
        return Dropped("bot")
    if who.decision.consent != "yes":
        return Dropped(_policy(who.decision))
    if who.fault:
        raise who.fault
    if who.person.hashes and not who.person.hashes.isdisjoint(context.suppressed):
        return Dropped("suppressed")
    return _stamped(raw, who, context, random)


def withdrawal(who: Sender, context: Context, event_id: str, time: int, random: Random) -> Event | None:
    """The record that a withdrawn consent leaves: site, visitor and time; None if nobody knows the visitor.

    Without the visitor's own id it carries the hashes of e-mail and external id: they lead to the visitors of old.
    """
    visitor_id = identity.visitor_id(context.site.id, visitor=who.visitor, person=who.person, epik=who.epik)
    if not visitor_id:
        return None
    person = NOBODY if who.visitor else who.person
    return Event(
        event=CONSENT_WITHDRAWN,
        event_id=scrub_text(event_id, _EVENT_ID_CHARS) or uuid7(context.now_ms, random(RANDOM_BYTES)),
        time=time,
        site_id=context.site.id,
        received_ms=context.now_ms,
        visitor_id=visitor_id,
        source=context.source,
        consent="no",
        em=person.em,
        external_id=person.external_id,
    )


def withdrew(who: Sender) -> bool:
    """Whether a visitor with an id of the tag's no longer agrees, by the browser's signal or by their own word."""
    return bool(who.visitor) and who.decision.consent == "no" and who.decision.by != "default"


def _policy(decision: Decision) -> str:
    return "gpc" if decision.by == "gpc" else "consent"


def uuid7(now_ms: int, random: bytes) -> str:
    """A UUIDv7 (RFC 9562 5.7) of this time and RANDOM_BYTES random bytes."""
    high = (0x7000 | int.from_bytes(random[:2], "big") & 0x0FFF).to_bytes(2, "big")
    low = bytes([0x80 | random[2] & 0x3F]) + random[3:RANDOM_BYTES]
    text = (now_ms.to_bytes(6, "big") + high + low).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# --- one event -------------------------------------------------------------------------------------

_CACHED: Final = 4096  # user agents, names and languages, which few visitors have to themselves
_EVENT_CHARS: Final = 100
_EVENT_ID_CHARS: Final = 256
_URL_CHARS: Final = 2048
_ORDER_ID_CHARS: Final = 128
_SEARCH_CHARS: Final = 512
_ITEM_CHARS: Final = {
    "product_id": 128,
    "product_name": 256,
    "product_category": 256,
    "product_brand": 128,
    "product_variant": 128,
    "product_variant_id": 128,
}
_NO_PROPS: Final = Raw(b"{}")


def _stamped(raw: RawEvent, who: Sender, context: Context, random: Random) -> Event:
    time, clamped = _time(raw.time, who.skew_ms, context.now_ms)
    epik = who.epik or epik_of(raw.url) or _header(context.epik_cookie)
    epik = epik if len(epik) <= MAX_EPIK_CHARS else ""
    site, person = context.site, who.person
    event_id, order_id, search_query = raw.event_id, raw.order_id, raw.search_query
    if not is_calm(event_id + order_id + search_query):
        event_id = scrub_text(event_id, _EVENT_ID_CHARS)
        order_id = scrub_text(order_id, _ORDER_ID_CHARS)
        search_query = scrub_text(search_query, _SEARCH_CHARS)
    return Event(
        event=_name(raw.event),
        event_id=event_id or uuid7(context.now_ms, random(RANDOM_BYTES)),
        time=time,
        url=scrub_url(raw.url, _URL_CHARS),
        referrer=scrub_url(raw.referrer, _URL_CHARS),
        value=_money(raw.value),
        currency=raw.currency or site.currency,
        order_id=order_id,
        order_quantity=raw.order_quantity,
        search_query=search_query,
        line_items=[_line_item(item) for item in raw.line_items],
        props=_props(raw.props) if raw.props != _NO_PROPS else raw.props,
        site_id=site.id,
        received_ms=context.now_ms,
        visitor_id=who.visitor_id or identity.visitor_id(site.id, visitor="", person=NOBODY, epik=epik),
        source=context.source,
        consent="yes",
        skew_ms=who.skew_ms,
        time_clamped=clamped,
        em=person.em,
        ph=person.ph,
        external_id=person.external_id,
        match_keys=person.match_keys,
        epik=epik,
        ip_prefix=ip_prefix(context.ip),
        user_agent=_agent(context.user_agent[:MAX_AGENT_CHARS]),
        language=first_language(context.language),
    )


def _header(sent: str) -> str:
    return scrub_text(sent.replace("\0", "")) if sent else ""


@lru_cache(maxsize=_CACHED)
def _agent(sent: str) -> str:
    return _header(sent)[:MAX_AGENT_CHARS]


@lru_cache(maxsize=_CACHED)
def _name(sent: str) -> str:
    return scrub_text(canonical_name(sent)).strip()[:_EVENT_CHARS] or "custom"


def _time(said: int, skew_ms: int, now_ms: int) -> tuple[int, bool]:
    """(when it happened by our clock, whether that had to be moved into the accepted range)."""
    if not said:
        return now_ms, False
    ours = said - skew_ms if abs(skew_ms) >= SKEW_MS else said
    kept = min(max(ours, now_ms - LATE_MS), now_ms + EARLY_MS)
    return kept, kept != ours


def _money(value: float) -> float:
    return min(round(value, 4), MAX_MONEY) if value else 0.0


def _line_item(item: LineItem) -> LineItem:
    price = _money(item.product_price)
    if is_calm(
        item.product_id
        + item.product_name
        + item.product_category
        + item.product_brand
        + item.product_variant
        + item.product_variant_id
    ):
        return item if price == item.product_price else replace(item, product_price=price)
    texts = {name: scrub_text(getattr(item, name), limit) for name, limit in _ITEM_CHARS.items()}
    return replace(item, product_price=price, **texts)


def _props(props: Raw) -> Raw:
    sent = bytes(props)
    if count_emails(sent.decode()) * HASH_CHARS > MAX_PROPS_BYTES:
        raise props_too_long("$.props")  # at once: the hashes alone would be
    data: dict[str, Any] = msgspec.json.decode(sent)
    clean = scrub_data(data)
    return props if clean == data else pack_props(clean, "$.props")


_EPIK = re.compile(r"[?&#]epik=([^&#]*)")


def epik_of(url: str) -> str:
    """Pinterest's click id in a landing URL, or empty."""
    found = _EPIK.search(url) if "epik=" in url else None
    return scrub_text(unquote_plus(found[1]).replace("\0", "")) if found else ""


_LANGUAGE_HEADER_CHARS: Final = 100  # that are looked at
_LANGUAGE = re.compile(r"^[A-Za-z0-9-]{1,35}$")


def first_language(accepted: str) -> str:
    """The first tag of an Accept-Language header, or empty."""
    return _first_language(accepted[:_LANGUAGE_HEADER_CHARS])


@lru_cache(maxsize=_CACHED)
def _first_language(accepted: str) -> str:
    tag = accepted.partition(",")[0].partition(";")[0].strip()
    return tag if _LANGUAGE.match(tag) else ""
