"""Pure: what a client says + who and when -> the record to store, or why nothing is stored.

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
    CHECKOUT,
    CONSENT_WITHDRAWN,
    EARLY_MS,
    IMPORT_LATE_MS,
    LATE_MS,
    MAX_MONEY,
    MAX_PROPS_BYTES,
    ORDER_CANCELLED,
    ORDER_REFUNDED,
    TELLING,
    Consent,
    Event,
    LineItem,
    RawEvent,
    Source,
    canonical_name,
    encode,
)
from pinstream.state.snapshot import Site

Random = Callable[[int], bytes]
"""n -> n random bytes."""

SKEW_MS: Final = 60_000  # a client's clock that is off by less is left alone
RANDOM_BYTES: Final = 10  # of an event id that we make
MAX_AGENT_CHARS: Final = 512
_LANGUAGE_HEADER_CHARS: Final = 100  # that are looked at


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


class Stamped(Struct, frozen=True):
    """An event to store."""

    event_id: str
    visitor_id: int
    value: bytes
    """The record's: the JSON of an `Event`, of what the client says first, then of what the edge adds."""


class Dropped(Struct, frozen=True):
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
    """The tag's UUID, of the cookie or else of the body, and of a no the other way round; may be empty."""
    person: Person
    fault: Refused | None
    """Why the identifiers are refused, if they are."""
    dropped: str
    """The policy by which no event is stored but a withdrawal, or empty."""
    visitor_id: int
    """0: only a click id can tell."""
    epik: str
    skew_ms: int
    stamp: bytes
    """What a stored event of the request says after its own fields, where nothing of it is special."""


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
    late = envelope.consent == "no" and visitor  # a no that waited is that of its time; the cookie may be a new one's
    if cookie and cookie != visitor and not late and is_uuid(cookie.lower()):
        visitor = cookie.lower()
    decision = decide(site, opted_out=context.opted_out, said=envelope.consent)
    dropped = "bot" if context.bot else "" if decision.consent == "yes" else _policy(decision)
    if not dropped and person.hashes and not person.hashes.isdisjoint(context.suppressed):
        dropped = "suppressed"
    visitor_id = identity.visitor_id(site.id, visitor=visitor, person=person, epik="")
    imported = context.source == _IMPORT  # whose clock was right when it happened, and is long out of use
    skew_ms = envelope.sent_at - context.now_ms if envelope.sent_at and not imported else 0
    return Sender(
        decision=decision,
        visitor=visitor,
        person=person,
        fault=fault,
        dropped=dropped,
        visitor_id=visitor_id,
        epik=scrub_text(envelope.epik) if envelope.epik else "",
        skew_ms=skew_ms,
        stamp=b"" if dropped else _stamp(context, person, visitor_id, skew_ms),
    )


def stamp(raw: RawEvent, who: Sender, context: Context, random: Random) -> Stamped | Dropped:
    """The event to store, or the policy that forbids it. `random` makes the id of an event that has none.

    That an order was cancelled or refunded is stored without a yes too, and then names nobody.

    Raises:
        Refused: the sender's identifiers are refused (of a withdrawal: and nothing else tells whose it is), props no
            longer fit once e-mails in them are hashed, or history is of a time to come (which holds up no withdrawal).
    """
    if canonical_name(raw.event) == CONSENT_WITHDRAWN:
        if who.fault and not who.visitor:
            raise who.fault
        return withdrawal(who, context, raw.event_id, raw.time, random) or Dropped(_policy(who.decision))
    if who.dropped:
        return _undone(raw, who, context, random) or Dropped(who.dropped)
    if who.fault:
        raise who.fault
    return _stamped(raw, who, context, random)


def withdrawal(who: Sender, context: Context, event_id: str, said_ms: int, random: Random) -> Stamped | None:
    """The record that a withdrawn consent leaves: site, visitor and time; None if nobody knows the visitor.

    `said_ms`: when, by the client's clock; 0 = now.

    Without the visitor's own id it carries the hashes of e-mail and external id: they lead to the visitors of old.
    """
    visitor_id = identity.visitor_id(context.site.id, visitor=who.visitor, person=who.person, epik=who.epik)
    if not visitor_id:
        return None
    person = NOBODY if who.visitor else who.person
    time, _ = _time(said_ms, who.skew_ms, context)
    event = Event(
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
    return Stamped(event.event_id, visitor_id, encode(event))


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
_TELLING: Final = re.compile(TELLING, re.IGNORECASE | re.ASCII)
_NO_PROPS: Final = Raw(b"{}")
_NO_MONEY: Final = RawEvent(event="-").value  # the very object: msgspec leaves a default out where it finds that
_TAG: Final[Source] = "tag"  # the default
_API: Final[Source] = "api"
_IMPORT: Final[Source] = "import"
_ENDS_OF_ORDERS: Final = frozenset({ORDER_CANCELLED, ORDER_REFUNDED})
_OF_ORDERS: Final = _ENDS_OF_ORDERS | {CHECKOUT}


def id_of_order(raw: RawEvent) -> str:
    """The order's id, if `raw` says what became of one: an imported event's own id where it has none. Else empty."""
    return raw.order_id if canonical_name(raw.event) in _OF_ORDERS else ""


def _stamped(raw: RawEvent, who: Sender, context: Context, random: Random) -> Stamped:
    time, clamped = _happened(raw, who, context)
    event_id, order_id, search_query, items = raw.event_id, raw.order_id, raw.search_query, raw.line_items
    if not event_id and context.source == _IMPORT:
        event_id = id_of_order(raw)
    texts = event_id + order_id + search_query
    for item in items:
        texts += (
            f"{item.product_id}{item.product_name}{item.product_category}"
            f"{item.product_brand}{item.product_variant}{item.product_variant_id}"
        )
    if not is_calm(texts):
        event_id = scrub_text(event_id, _EVENT_ID_CHARS)
        order_id = scrub_text(order_id, _ORDER_ID_CHARS)
        search_query = scrub_text(search_query, _SEARCH_CHARS)
        items = [_scrubbed(item) for item in items]
    event_id = event_id or uuid7(context.now_ms, random(RANDOM_BYTES))
    said = RawEvent(  # in the order of the fields, which is nine times as fast as another one
        event=_name(raw.event),
        event_id=event_id,
        time=time,
        url=scrub_url(raw.url, _URL_CHARS),
        referrer=scrub_url(raw.referrer, _URL_CHARS),
        value=_money(raw.value) if raw.value else _NO_MONEY,
        currency=raw.currency or context.site.currency,
        order_id=order_id,
        order_quantity=raw.order_quantity,
        search_query=search_query,
        line_items=[_priced(item) for item in items],
        props=raw.props if raw.props == _NO_PROPS else _props(raw.props),
    )
    visitor_id, stamp = who.visitor_id, who.stamp
    epik = who.epik or epik_of(raw.url) or _header(context.epik_cookie)
    if clamped or epik:
        epik = epik if len(epik) <= MAX_EPIK_CHARS else ""
        visitor_id = visitor_id or identity.visitor_id(context.site.id, visitor="", person=NOBODY, epik=epik)
        stamp = _stamp(context, who.person, visitor_id, who.skew_ms, clamped=clamped, epik=epik)
    return Stamped(event_id, visitor_id, encode(said)[:-1] + stamp)


def _undone(raw: RawEvent, who: Sender, context: Context, random: Random) -> Stamped | None:
    """The record that an order came to nothing, whatever was agreed to: of the order and nobody. None of all else.

    Only a server of the shop or its history may say so.
    """
    name = canonical_name(raw.event)
    if name not in _ENDS_OF_ORDERS or not raw.order_id or context.source not in (_API, _IMPORT):
        return None
    time, clamped = _happened(raw, who, context)
    own_id = raw.event_id or (raw.order_id if context.source == _IMPORT else "")
    event = Event(
        event=name,
        event_id=scrub_text(own_id, _EVENT_ID_CHARS) or uuid7(context.now_ms, random(RANDOM_BYTES)),
        time=time,
        order_id=scrub_text(raw.order_id, _ORDER_ID_CHARS),
        site_id=context.site.id,
        received_ms=context.now_ms,
        source=context.source,
        skew_ms=who.skew_ms,
        time_clamped=clamped,
    )
    return Stamped(event.event_id, 0, encode(event))


def _stamp(
    context: Context, person: Person, visitor_id: int, skew_ms: int, *, clamped: bool = False, epik: str = ""
) -> bytes:
    """What a stored event says after its own fields: see `Sender.stamp`.

    Byte for byte what the encoder writes for the fields of `Event`, in their order and without those that have their
    default: to `load`, a record that is anything else is a bad one.
    """
    source, network = context.source, ip_prefix(context.ip)
    return b',"site_id":%d,"received_ms":%d%b%b,"consent":"yes"%b%b%b%b%b}' % (
        context.site.id,
        context.now_ms,
        b',"visitor_id":%d' % visitor_id if visitor_id else b"",
        b"" if source == _TAG else b',"source":"%b"' % source.encode(),
        b',"skew_ms":%d' % skew_ms if skew_ms else b"",
        b',"time_clamped":true' if clamped else b"",
        b"" if person is NOBODY else _hashes(person),
        b',"epik":%b' % encode(epik) if epik else b"",
        _device(network, context.user_agent[:MAX_AGENT_CHARS], context.language[:_LANGUAGE_HEADER_CHARS]),
    )


def _hashes(person: Person) -> bytes:
    return _fields(em=person.em, ph=person.ph, external_id=person.external_id, match_keys=person.match_keys)


@lru_cache(maxsize=_CACHED)
def _device(network: str, user_agent: str, language: str) -> bytes:
    return _fields(ip_prefix=network, user_agent=_agent(user_agent), language=first_language(language))


def _fields(**fields: Any) -> bytes:
    """JSON that goes on behind other fields, without those that are empty."""
    said = encode({name: value for name, value in fields.items() if value})
    return b"," + said[1:-1] if len(said) > len(b"{}") else b""


def _header(sent: str) -> str:
    return scrub_text(sent.replace("\0", "")) if sent else ""


@lru_cache(maxsize=_CACHED)
def _agent(sent: str) -> str:
    return scrub_text(sent.replace("\0", ""), MAX_AGENT_CHARS)


@lru_cache(maxsize=_CACHED)
def _name(sent: str) -> str:
    """Names are what analysts filter on, and see as they are: one that leads to a person is none."""
    name = scrub_text(canonical_name(sent)).strip()
    return "custom" if not name or _TELLING.search(name) else name[:_EVENT_CHARS]


def _happened(raw: RawEvent, who: Sender, context: Context) -> tuple[int, bool]:
    """As `_time`. Raises Refused for history of a time to come: moved to now, a misread date makes a recent buyer."""
    time, clamped = _time(raw.time, who.skew_ms, context)
    if clamped and context.source == _IMPORT and time > context.now_ms:
        raise Refused("out_of_range", "History has no time to come.", field="$.time")
    return time, clamped


def _time(said: int, skew_ms: int, context: Context) -> tuple[int, bool]:
    """(when it happened by our clock, whether that had to be moved into the accepted range)."""
    now_ms = context.now_ms
    if not said:
        return now_ms, False
    ours = said if -SKEW_MS < skew_ms < SKEW_MS else said - skew_ms
    oldest = now_ms - (IMPORT_LATE_MS if context.source == _IMPORT else LATE_MS)
    if ours < oldest:
        return oldest, True
    if ours > now_ms + EARLY_MS:
        return now_ms + EARLY_MS, True
    return ours, False


def _money(value: float) -> float:
    """With four decimals at most. Most prices have two, which costs a tenth to find out of what rounding costs."""
    return value if round(value * 100) / 100 == value else min(round(value, 4), MAX_MONEY)


def _scrubbed(item: LineItem) -> LineItem:
    return replace(item, **{name: scrub_text(getattr(item, name), limit) for name, limit in _ITEM_CHARS.items()})


def _priced(item: LineItem) -> LineItem:
    price = _money(item.product_price)
    return item if price == item.product_price else replace(item, product_price=price)


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


_LANGUAGE = re.compile(r"^[A-Za-z0-9-]{1,35}$")


def first_language(accepted: str) -> str:
    """The first tag of an Accept-Language header, or empty."""
    return _first_language(accepted[:_LANGUAGE_HEADER_CHARS])


@lru_cache(maxsize=_CACHED)
def _first_language(accepted: str) -> str:
    tag = accepted.partition(",")[0].partition(";")[0].strip()
    return tag if _LANGUAGE.match(tag) else ""
