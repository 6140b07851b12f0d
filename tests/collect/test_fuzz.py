"""Whatever comes in: the reader raises nothing but Refused, and what is let through fits its columns."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pinstream.collect import engagements, intake, wire
from pinstream.collect.stamp import Context
from pinstream.collect.wire import USER_KEYS
from pinstream.errors import Refused
from pinstream.event import MAX_PROPS_BYTES, MAX_UINT64, POLICY, REASONS, Engagement, Event, LineItem, RawEvent
from pinstream.state.snapshot import Site

NOW = 1_795_291_391_000
VISITOR = "019a63f2-7c1e-7d0a-9b42-5f2c1d8e9a10"

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-5, 70_000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=50)
    | st.sampled_from(
        ["", "yes", "12.5", "a@b.de", "+4915123456789", "undefined", VISITOR, "a@b.de " * 40, "\0", "eur"]
    )
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    [
        *msgspec.structs.asdict(wire.Envelope(site="1")),
        *RawEvent.__struct_fields__,
        *LineItem.__struct_fields__,
        "tid",
        "ed",
        "pd",
        "ad",
        "ov",
        "cb",
        "eid",
        "eventID",
        "events",
        "action",
        "engagements",
        "pin_id",
        "phone",
        *USER_KEYS,
    ]
)
objects = st.dictionaries(
    names | st.text(max_size=5), anything | st.dictionaries(names, anything, max_size=4), max_size=8
)
requests = objects | st.builds(
    lambda top, events: {**top, "events": events}, objects, st.lists(objects | anything, max_size=4)
)


def has_nul(data: Any) -> bool:
    if isinstance(data, dict):
        return any(has_nul(part) for part in (*data, *data.values()))
    return any(map(has_nul, data)) if isinstance(data, list) else isinstance(data, str) and "\0" in data


def take(parsed: wire.Wire, context: Context) -> intake.Intake:
    """Stamp, and check what came out."""
    found = intake.take(parsed, context, lambda count: bytes(range(count)))
    assert len(found.outcomes) == len(parsed.events) == len(parsed.event_ids)
    for outcome in found.outcomes:
        assert (outcome.status == "durable") == (outcome.reason == "")
        assert (outcome.status == "dropped") == (outcome.reason in POLICY)
        assert outcome.reason == "" or outcome.reason in REASONS
    assert len(found.records) == sum(outcome.status == "durable" for outcome in found.outcomes) + found.implied
    for record in found.records:
        stored = msgspec.json.decode(record.value, type=Event)
        assert msgspec.json.encode(stored) == record.value
        assert record.key == stored.visitor_id <= MAX_UINT64
        assert len(bytes(stored.props)) <= MAX_PROPS_BYTES
        assert not has_nul(msgspec.json.decode(record.value))
        assert stored.consent == ("no" if stored.event == "consent_withdrawn" else "yes")
        assert b"a@b.de" not in record.value
    return found


def read(body: bytes, content_type: str) -> wire.Wire | None:
    try:
        return wire.parse(content_type, body)
    except Refused as exc:
        assert exc.reason in REASONS
        return None


contexts = st.builds(
    Context,
    now_ms=st.just(NOW),
    site=st.builds(
        Site,
        id=st.integers(1, 2**32 - 1),
        tag_id=st.just("1"),
        currency=st.sampled_from(["", "EUR"]),
        phone_region=st.sampled_from(["", "DE", "US"]),
        consent_default=st.sampled_from(["yes", "no", "unknown"]),
    ),
    ip=st.ip_addresses().map(str) | st.text(max_size=20),
    user_agent=st.text(max_size=600),
    language=st.text(max_size=40),
    visitor_cookie=st.sampled_from(["", VISITOR]) | st.text(max_size=40),
    epik_cookie=st.text(max_size=600),
    opted_out=st.booleans(),
    bot=st.booleans(),
)


@given(st.binary(max_size=300), st.sampled_from(["", "application/json", "application/x-www-form-urlencoded"]))
def test_any_bytes(body: bytes, content_type: str) -> None:
    read(body, content_type)
    read(b'{"site":"1","event":"' + body + b'"}', content_type)
    read(b"site=1&event=" + body, "application/x-www-form-urlencoded")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(anything)
def test_any_json(data: Any) -> None:
    read(json.dumps(data).encode(), "application/json")


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(requests, contexts)
@example({"event": "a@b.de" * 16, "time": 1, "skew": 0}, Context(now_ms=NOW, site=Site(id=1, tag_id="1")))
@example({"event": "x", "user": {"em": "a@b.de"}}, Context(now_ms=NOW, site=Site(id=1, tag_id="1")))
def test_any_request_is_stored_within_bounds_or_refused(data: dict[str, Any], context: Context) -> None:
    for consent in ("yes", "no"):
        parsed = read(json.dumps({"consent": consent, **data, "site": "1"}).encode(), "")
        if parsed:
            take(parsed, context)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names | st.text(max_size=5), anything, max_size=6), contexts)
def test_any_form(data: dict[str, Any], context: Context) -> None:
    fields = {"tid": "1", "event": "x", "consent": "yes"}
    for name, value in data.items():
        fields[name] = value if isinstance(value, str) else json.dumps(value)
    parsed = read(
        urlencode({name: value.encode("utf-8", "replace") for name, value in fields.items()}).encode(),
        "form-urlencoded",
    )
    if parsed and parsed.envelope.site == "1":
        take(parsed, context)


event_fields = st.fixed_dictionaries(
    {"event": st.text("abcDEF_- é😀@.", min_size=1, max_size=100)},
    optional={
        "event_id": st.text(max_size=256),
        "time": st.integers(0, 4_102_444_800_000),
        "url": st.text(max_size=200) | st.just("https://a@b.de/?e=a@b.de&phone=0151234567" * 40),
        "referrer": st.text(max_size=2048),
        "value": st.floats(0, 99_999_999_999) | st.integers(0, 99_999_999_999).map(str),
        "currency": st.sampled_from(["eur", "USD", ""]),
        "order_id": st.text(max_size=128) | st.integers(),
        "order_quantity": st.integers(0, 65_535),
        "search_query": st.text(max_size=512),
        "line_items": st.lists(
            st.fixed_dictionaries(
                {},
                optional={"product_id": st.text(max_size=128), "product_price": st.floats(0, 1e9), "extra": anything},
            ),
            max_size=5,
        ),
        "props": st.dictionaries(st.text(max_size=20), anything, max_size=6),
    },
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.lists(event_fields, min_size=1, max_size=5), contexts, st.integers(0, 4_102_444_800_000))
def test_good_events_are_stored_and_read_back(events: list[dict[str, Any]], context: Context, sent_at: int) -> None:
    body = json.dumps({"site": "1", "consent": "yes", "sent_at": sent_at, "visitor_id": VISITOR, "events": events})
    parsed = read(body.encode(), "")
    assert parsed
    take(parsed, context)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(objects | anything, max_size=4), contexts)
def test_any_engagement(sent: list[Any], context: Context) -> None:
    body = json.dumps(
        {"site": "1", "engagements": [{"action": "save", **one} if isinstance(one, dict) else one for one in sent]}
    )
    try:
        _, read_back, consent = engagements.read(body.encode())
    except Refused:
        return
    found = engagements.take(read_back, consent, context, lambda count: bytes(range(count)))
    assert len(found.outcomes) == len(read_back)
    for record in found.records:
        stored = msgspec.json.decode(record.value, type=Engagement)
        assert msgspec.json.encode(stored) == record.value
        assert max(stored.pin_id, stored.board_id, stored.ad_id, stored.campaign_id) <= MAX_UINT64
