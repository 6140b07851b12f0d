"""What the edge adds to an event, and what it does not let through."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from pinstream.collect import identity, intake, scrub, stamp, wire
from pinstream.collect.stamp import Context, Decision, Dropped
from pinstream.collect.wire import Envelope
from pinstream.errors import Refused
from pinstream.event import EARLY_MS, LATE_MS, MAX_PROPS_BYTES, Event, LineItem, RawEvent, canonical_name
from pinstream.state.snapshot import Site

NOW = 1_795_291_391_000
VISITOR = "019a63f2-7c1e-7d0a-9b42-5f2c1d8e9a10"
OTHER = "019a63f2-7c1e-7d0a-9b42-5f2c1d8e9a11"
SITE = Site(id=7, tag_id="1", currency="EUR", phone_region="DE")
RANDOM = bytes(range(10))


def sha(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def context(**changes: Any) -> Context:
    return msgspec.structs.replace(Context(now_ms=NOW, site=SITE), **changes)


def envelope(**changes: Any) -> Envelope:
    return msgspec.structs.replace(Envelope(site="1", consent="yes"), **changes)


def stamped(raw: RawEvent, env: Envelope | None = None, ctx: Context | None = None) -> Event | Dropped:
    env, ctx = env or envelope(), ctx or context()
    result = stamp.stamp(raw, stamp.sender(env, ctx), ctx, lambda count: RANDOM[:count])
    if isinstance(result, Dropped):
        return result
    stored = msgspec.json.decode(result.value, type=Event)
    assert (stored.event_id, stored.visitor_id) == (result.event_id, result.visitor_id)
    return stored


def event(raw: RawEvent, env: Envelope | None = None, ctx: Context | None = None) -> Event:
    result = stamped(raw, env, ctx)
    assert isinstance(result, Event)
    return result


def visitor_number(uuid: str) -> int:
    return identity.visitor_hash(SITE.id, f"v:{uuid}")


# --- the whole ---------------------------------------------------------------------------------------


def test_an_event_is_stamped_whole() -> None:
    raw = RawEvent(
        event="Add-To-Cart",
        event_id="e-1",
        time=NOW - 500,
        url="https://shop.de/?epik=url-epik&e=ann@shop.de",
        value=12.34567,
        line_items=[LineItem(product_id="A", product_name="for ann@shop.de", product_price=0.00005)],
        order_id="ann@shop.de",
        search_query="+49 151 2345678",
        props=msgspec.Raw(b'{"phone":"0151 2345678","k":1}'),
    )
    env = envelope(visitor_id=OTHER, user={"em": ("Ann@shop.de",), "ph": ("0151 2345678",), "fn": ("Ann",)})
    ctx = context(
        ip="203.0.113.77",
        user_agent="Browser (ann@shop.de)",
        language="de-DE,de;q=0.9",
        visitor_cookie=VISITOR.upper(),
        epik_cookie="cookie-epik",
        source="pinterest",
    )
    assert event(raw, env, ctx) == Event(
        event="add_to_cart",
        event_id="e-1",
        time=NOW - 500,
        url=f"https://shop.de/?epik=url-epik&e={sha('ann@shop.de')}",
        value=12.3457,
        currency="EUR",
        order_id=sha("ann@shop.de"),
        line_items=[LineItem(product_id="A", product_name=f"for {sha('ann@shop.de')}", product_price=0.0001)],
        props=msgspec.Raw(b'{"phone":"","k":1}'),
        site_id=7,
        received_ms=NOW,
        visitor_id=visitor_number(VISITOR),
        source="pinterest",
        consent="yes",
        em=sha("ann@shop.de"),
        ph=sha("491512345678"),
        match_keys={"fn": sha("ann")},
        epik="url-epik",
        ip_prefix="203.0.113.0/24",
        user_agent=f"Browser ({sha('ann@shop.de')})",
        language="de-DE",
    )


# --- history -----------------------------------------------------------------------------------------

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("ago_ms", "kept_ms", "clamped"),
    [(DAY_MS * 400, DAY_MS * 400, False), (DAY_MS * 400 + 1, DAY_MS * 400, True), (-EARLY_MS, -EARLY_MS, False)],
)
def test_an_import_may_be_400_days_old(ago_ms: int, kept_ms: int, clamped: bool) -> None:
    raw = RawEvent(event="search", event_id="e", time=NOW - ago_ms)
    found = event(raw, envelope(sent_at=NOW - ago_ms), context(source="import"))
    assert (found.time, found.time_clamped, found.skew_ms, found.source) == (NOW - kept_ms, clamped, 0, "import")


def test_an_import_of_the_future_is_refused_and_its_no_is_taken() -> None:
    late = RawEvent(event="checkout", order_id="A-17", time=NOW + EARLY_MS + 1)
    with pytest.raises(Refused) as caught:
        event(late, envelope(), context(source="import"))
    assert (caught.value.reason, caught.value.field) == ("out_of_range", "$.time")
    said = {"event": "checkout", "order_id": "A-17"}
    sent = {"site": SITE.tag_id, "consent": "yes", "events": [said | {"time": NOW}, said | {"time": late.time}]}
    read = wire.parse("application/json", msgspec.json.encode(sent))
    outcomes = intake.take(read, context(source="import"), lambda count: RANDOM[:count]).outcomes
    assert [(each.status, each.field) for each in outcomes] == [("durable", ""), ("refused", "$.events[1].time")]
    no = RawEvent(event="consent_withdrawn", time=NOW + 200 * DAY_MS)
    assert event(no, envelope(visitor_id=OTHER), context(source="import")).time == NOW + EARLY_MS


@pytest.mark.parametrize(
    ("name", "source", "made"),
    [
        ("checkout", "import", "A-17"),
        ("OrderRefunded", "import", "A-17"),
        ("order_cancelled", "import", "A-17"),
        ("add_to_cart", "import", None),
        ("checkout", "api", None),
    ],
)
def test_an_imported_orders_id_is_its_events(name: str, source: Any, made: str | None) -> None:
    found = event(RawEvent(event=name, order_id="A-17"), envelope(), context(source=source))
    assert (found.event_id == "A-17") == (made is not None)
    given = event(RawEvent(event=name, order_id="A-17", event_id="own"), envelope(), context(source=source))
    assert given.event_id == "own"


@pytest.mark.parametrize(("name", "source"), [("OrderRefunded", "api"), ("order_cancelled", "import")])
@pytest.mark.parametrize(("said", "suppressed"), [("", False), ("no", False), ("yes", True)])
def test_that_an_order_came_to_nothing_needs_no_consent_and_names_nobody(
    name: str, source: Any, said: Any, suppressed: bool
) -> None:
    sent = envelope(consent=said, visitor_id=OTHER, user={"em": ("ann@shop.example",)}, epik="dj0yxyz")
    where = context(source=source, suppressed=frozenset({sha("ann@shop.example")}) if suppressed else frozenset())
    raw = RawEvent(event=name, order_id="A-17", url="https://shop.example/?a", value=9.5, time=NOW - DAY_MS)
    found = event(raw, sent, where)
    fields = {"event": canonical_name(name), "time": NOW - DAY_MS, "order_id": "A-17", "source": source}
    assert {key: getattr(found, key) for key in fields} == fields
    assert found == Event(event_id=found.event_id, site_id=SITE.id, received_ms=NOW, **fields)
    assert found.event_id == "A-17" or source == "api"


def test_of_a_browser_it_needs_consent_and_so_does_one_without_its_order() -> None:
    no = envelope(consent="no")
    assert stamped(RawEvent(event="order_refunded", order_id="A-17"), no) == Dropped("consent")
    assert stamped(RawEvent(event="order_refunded"), no, context(source="api")) == Dropped("consent")


# --- consent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("default", "overrides", "opted_out", "said", "decision"),
    [
        ("unknown", False, False, "", Decision("unknown", "default")),
        ("unknown", False, False, "unknown", Decision("unknown", "default")),
        ("unknown", False, False, "yes", Decision("yes", "explicit")),
        ("unknown", False, False, "no", Decision("no", "explicit")),
        ("yes", False, False, "", Decision("yes", "default")),
        ("yes", False, False, "unknown", Decision("yes", "default")),
        ("yes", False, False, "no", Decision("no", "explicit")),
        ("no", False, False, "", Decision("no", "default")),
        ("no", False, False, "yes", Decision("yes", "explicit")),
        ("yes", False, True, "", Decision("no", "gpc")),
        ("yes", False, True, "yes", Decision("no", "gpc")),
        ("yes", True, True, "yes", Decision("yes", "explicit")),
        ("yes", True, True, "", Decision("no", "gpc")),
        ("yes", True, True, "no", Decision("no", "gpc")),
    ],
)
def test_the_order_of_consent(default: Any, overrides: bool, opted_out: bool, said: str, decision: Decision) -> None:
    site = msgspec.structs.replace(SITE, consent_default=default, explicit_yes_overrides_gpc=overrides)
    assert stamp.decide(site, opted_out=opted_out, said=said) == decision


@pytest.mark.parametrize(
    ("said", "opted_out", "reason"), [("", False, "consent"), ("no", False, "consent"), ("yes", True, "gpc")]
)
def test_without_consent_nothing_is_let_through(said: Any, opted_out: bool, reason: str) -> None:
    dropped = stamped(RawEvent(event="x"), envelope(consent=said), context(opted_out=opted_out))
    assert dropped == Dropped(reason)


def test_without_consent_identifiers_are_not_even_judged() -> None:
    assert stamped(RawEvent(event="x"), envelope(consent="no", user={"em": ("undefined",)})) == Dropped("consent")


def test_a_crawlers_events_are_dropped() -> None:
    assert stamped(RawEvent(event="x"), ctx=context(bot=True)) == Dropped("bot")


def test_people_who_asked_to_be_erased_are_dropped() -> None:
    ctx = context(suppressed=frozenset({sha("gone@shop.de"), sha("491512345678"), sha("c-1")}))
    for user in ({"em": ("ann@shop.de", "gone@shop.de")}, {"ph": ("+491512345678",)}, {"external_id": ("C-1",)}):
        assert stamped(RawEvent(event="x"), envelope(user=user), ctx) == Dropped("suppressed")
    event(RawEvent(event="x"), envelope(user={"em": ("ann@shop.de",)}), ctx)


def test_a_refused_identifier_refuses_the_event() -> None:
    with pytest.raises(Refused) as caught:
        stamped(RawEvent(event="x"), envelope(user={"em": ("undefined",)}, user_path="$.pd"))
    assert (caught.value.reason, caught.value.field) == ("bad_value", "$.pd.em[0]")


# --- withdrawal --------------------------------------------------------------------------------------

WITHDRAWN = RawEvent(
    event="ConsentWithdrawn",
    event_id="w-1",
    time=NOW - 10,
    url="https://shop.de/",
    value=3.0,
    order_id="A",
    props=msgspec.Raw(b'{"a":1}'),
)


@pytest.mark.parametrize("said", ["yes", "no", "unknown", ""])
@pytest.mark.parametrize(
    "changes", [{}, {"opted_out": True}, {"bot": True}, {"suppressed": frozenset({sha("a@b.de")})}]
)
def test_a_withdrawal_is_always_taken_and_holds_only_site_visitor_and_time(said: Any, changes: dict[str, Any]) -> None:
    env = envelope(consent=said, visitor_id=VISITOR, user={"em": ("a@b.de",), "ph": ("undefined",)}, epik="k")
    ctx = context(ip="203.0.113.77", user_agent="Browser", language="de", epik_cookie="c", **changes)
    assert event(WITHDRAWN, env, ctx) == Event(
        event="consent_withdrawn",
        event_id="w-1",
        time=NOW - 10,
        site_id=7,
        received_ms=NOW,
        visitor_id=visitor_number(VISITOR),
        consent="no",
    )


def test_a_withdrawal_of_nobody_is_dropped() -> None:
    assert stamped(WITHDRAWN, envelope(consent="no")) == Dropped("consent")
    assert stamped(WITHDRAWN, envelope(), context(opted_out=True)) == Dropped("gpc")


def test_a_withdrawal_without_visitor_carries_the_hashes_that_say_whose_it_is() -> None:
    user = {"em": ("a@b.de", "c@d.de"), "external_id": ("C-1",), "ph": ("+491512345678",), "fn": ("Ann",)}
    ctx = context(ip="203.0.113.77", user_agent="Browser", language="de", epik_cookie="c")
    assert event(WITHDRAWN, envelope(consent="no", user=user, epik="k"), ctx) == Event(
        event="consent_withdrawn",
        event_id="w-1",
        time=NOW - 10,
        site_id=7,
        received_ms=NOW,
        visitor_id=identity.visitor_hash(7, f"x:{sha('c-1')}"),
        consent="no",
        em=sha("a@b.de"),
        external_id=sha("c-1"),
    )


def test_a_withdrawal_with_nothing_but_refused_identifiers_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        stamped(WITHDRAWN, envelope(consent="no", user={"em": ("0" * 32,)}))
    assert (caught.value.reason, caught.value.field) == ("bad_hash", "$.user.em[0]")


def test_a_withdrawal_without_id_gets_one() -> None:
    raw = RawEvent(event="consent_withdrawn")
    assert event(raw, envelope(visitor_id=VISITOR)).event_id == stamp.uuid7(NOW, RANDOM)


@pytest.mark.parametrize(
    ("said", "opted_out", "withdrew"),
    [
        ("no", False, True),
        ("", True, True),
        ("yes", True, True),
        ("yes", False, False),
        ("", False, False),
    ],
)
@pytest.mark.parametrize(
    ("cookie", "body", "known"),
    [(VISITOR, "", True), ("", OTHER, True), ("rubbish", OTHER, True), ("rubbish", "", False), ("", "", False)],
)
def test_who_withdrew(said: Any, opted_out: bool, withdrew: bool, cookie: str, body: str, known: bool) -> None:
    ctx = context(opted_out=opted_out, visitor_cookie=cookie)
    who = stamp.sender(envelope(consent=said, visitor_id=body, user={"em": ("a@b.de",)}), ctx)
    assert stamp.withdrew(who) is (withdrew and known)


def test_a_sites_default_is_no_withdrawal() -> None:
    ctx = context(site=msgspec.structs.replace(SITE, consent_default="no"), visitor_cookie=VISITOR)
    assert not stamp.withdrew(stamp.sender(envelope(consent=""), ctx))


# --- identity ----------------------------------------------------------------------------------------


def test_the_cookie_wins_over_the_body() -> None:
    raw = RawEvent(event="x")
    both = event(raw, envelope(visitor_id=OTHER), context(visitor_cookie=VISITOR))
    assert both.visitor_id == visitor_number(VISITOR)
    assert event(raw, envelope(visitor_id=OTHER)).visitor_id == visitor_number(OTHER)
    assert event(raw, envelope(visitor_id=OTHER), context(visitor_cookie="x")).visitor_id == visitor_number(OTHER)


def test_a_no_that_waited_is_that_of_the_visitor_it_names() -> None:
    late = envelope(consent="no", visitor_id=OTHER)
    who = stamp.sender(late, context(visitor_cookie=VISITOR))
    assert who.visitor_id == visitor_number(OTHER)
    nameless = stamp.sender(envelope(consent="no", visitor_id=""), context(visitor_cookie=VISITOR))
    assert nameless.visitor_id == visitor_number(VISITOR)


def test_without_visitor_the_click_id_of_the_url_is_the_last_resort() -> None:
    raw = RawEvent(event="x", url="https://shop.de/?a=1&epik=dj0%2By")
    assert event(raw).visitor_id == identity.visitor_hash(7, "k:dj0+y")
    assert event(RawEvent(event="x")).visitor_id == 0


def test_where_the_click_id_comes_from() -> None:
    raw = RawEvent(event="x", url="https://shop.de/#/?epik=url")
    ctx = context(epik_cookie="cookie")
    assert event(raw, envelope(epik="body"), ctx).epik == "body"
    assert event(raw, ctx=ctx).epik == "url"
    assert event(RawEvent(event="x", url="https://shop.de/?noepik=1"), ctx=ctx).epik == "cookie"
    assert event(RawEvent(event="x"), ctx=context(epik_cookie="e" * 513)).epik == ""
    assert event(RawEvent(event="x"), ctx=context(epik_cookie="e" * 512)).epik == "e" * 512


# --- time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skew", "time"),
    [(0, NOW - 5), (59_999, NOW - 5), (-59_999, NOW - 5), (60_000, NOW - 60_005), (-60_000, NOW + 59_995)],
)
def test_a_clock_that_is_off_by_a_minute_is_corrected(skew: int, time: int) -> None:
    found = event(RawEvent(event="x", time=NOW - 5), envelope(sent_at=NOW + skew))
    assert (found.skew_ms, found.time, found.time_clamped) == (skew, time, False)


def test_a_clock_in_another_year_is_corrected() -> None:
    year = 365 * 86_400_000
    found = event(RawEvent(event="x", time=NOW - year - 1000), envelope(sent_at=NOW - year))
    assert (found.time, found.skew_ms, found.time_clamped) == (NOW - 1000, -year, False)


@pytest.mark.parametrize(
    ("said", "time", "clamped"),
    [
        (NOW - LATE_MS, NOW - LATE_MS, False),
        (NOW - LATE_MS - 1, NOW - LATE_MS, True),
        (NOW + EARLY_MS, NOW + EARLY_MS, False),
        (NOW + EARLY_MS + 1, NOW + EARLY_MS, True),
        (1, NOW - LATE_MS, True),
        (0, NOW, False),
    ],
)
def test_time_is_clamped(said: int, time: int, clamped: bool) -> None:
    found = event(RawEvent(event="x", time=said))
    assert (found.time, found.time_clamped) == (time, clamped)


# --- the rest ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("AddToCart", "add_to_cart"),
        ("add to cart", "add_to_cart"),
        ("  My Event ", "My Event"),
        ("_", "_"),
        ("ask ann@shop.de", "custom"),
        (sha("ann@shop.de"), "custom"),
        ("from 203.0.113.7", "custom"),
        ("+4915123456789", "custom"),
    ],
)
def test_event_names(sent: str, stored: str) -> None:
    assert event(RawEvent(event=sent)).event == stored


def test_a_missing_id_is_a_uuid_of_version_7() -> None:
    found = event(RawEvent(event="x")).event_id
    assert found == stamp.uuid7(NOW, RANDOM) == f"{NOW:012x}"[:8] + "-" + f"{NOW:012x}"[8:] + "-7001-8203-040506070809"


def test_currency_of_the_event_wins_over_the_sites() -> None:
    assert event(RawEvent(event="x", currency="USD")).currency == "USD"


@pytest.mark.parametrize(
    ("ip", "prefix"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("fe80::1%eth0", "fe80::/48"),
        ("", ""),
        ("unix:", ""),
        ("203.0.113.77:80", ""),
    ],
)
def test_addresses_are_cut(ip: str, prefix: str) -> None:
    assert scrub.ip_prefix(ip) == prefix


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("de-DE,de;q=0.9", "de-DE"), ("en;q=0.5", "en"), ("", ""), ("*", ""), ("x" * 35, "x" * 35), ("x" * 36, "")],
)
def test_languages(accepted: str, language: str) -> None:
    assert stamp.first_language(accepted) == language


def test_texts_that_grow_by_hashing_keep_their_bounds() -> None:
    many = "a@b.de " * 200
    found = event(
        RawEvent(
            event="e@f.de " * 14,
            event_id=many[:256],
            url=many,
            referrer=many,
            order_id=many[:128],
            search_query=many[:512],
            line_items=[LineItem(product_id=many[:128], product_name=many[:256])],
        ),
        ctx=context(user_agent=many),
    )
    lengths = len(found.event), len(found.event_id), len(found.url), len(found.order_id), len(found.user_agent)
    assert lengths == (6, 195, 2015, 65, 455)
    assert "@" not in str(msgspec.to_builtins(found))
    texts = found.event_id, found.url, found.referrer, found.order_id, found.search_query, found.user_agent
    assert {len(run) for text in texts for run in re.findall("[0-9a-f]+", text)} == {64}  # half a hash is one too


def test_props_that_grow_past_their_bound_are_refused() -> None:
    packed = msgspec.json.encode({"k": "a@b.de " * 1100})
    assert len(packed) < MAX_PROPS_BYTES
    with pytest.raises(Refused) as caught:
        stamped(RawEvent(event="x", props=msgspec.Raw(packed)))
    assert (caught.value.reason, caught.value.field) == ("too_long", "$.props")


def test_props_without_personal_data_keep_their_bytes() -> None:
    sent = b'{ "k" : 1.50 }'
    assert bytes(event(RawEvent(event="x", props=msgspec.Raw(sent))).props) == sent
