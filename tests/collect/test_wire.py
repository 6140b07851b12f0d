"""Every spelling that is understood, and every bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from pinstream.collect import wire
from pinstream.collect.values import MAX_NESTED
from pinstream.collect.wire import Wire
from pinstream.errors import Refused
from pinstream.event import (
    MAX_DEPTH,
    MAX_EVENTS,
    MAX_LINE_ITEMS,
    MAX_MONEY,
    MAX_PROPS_BYTES,
    MAX_PROPS_DEPTH,
    MAX_TIME_MS,
    LineItem,
    RawEvent,
)

GOLDEN = Path(__file__).parents[1] / "wire"
VISITOR = "019a63f2-7c1e-7d0a-9b42-5f2c1d8e9a10"


def read(data: Any) -> Wire:
    return wire.parse("text/plain", json.dumps(data).encode())


def one(**fields: Any) -> RawEvent:
    """The single event of a request that must be taken."""
    event = read({"site": "1", "event": "custom"} | fields).events[0]
    assert isinstance(event, RawEvent), f"{event} at {getattr(event, 'field', '')}"
    return event


def fault(**fields: Any) -> tuple[str, str]:
    """(reason, field) of a single event that must be refused."""
    event = read({"site": "1", "event": "custom"} | fields).events[0]
    assert isinstance(event, Refused), event
    return event.reason, event.field


def unreadable(body: bytes, content_type: str = "application/json") -> str:
    with pytest.raises(Refused) as caught:
        wire.parse(content_type, body)
    return caught.value.reason


def props(event: RawEvent) -> Any:
    return msgspec.json.decode(event.props)


# --- golden bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_every_golden_body_is_taken_whole(path: Path) -> None:
    parsed = wire.parse("text/plain;charset=UTF-8", path.read_bytes())
    assert parsed.events
    assert [event for event in parsed.events if isinstance(event, Refused)] == []


def test_golden_full_says_everything_there_is_to_say() -> None:
    parsed = wire.parse("text/plain", (GOLDEN / "server_full.json").read_bytes())
    assert parsed.envelope == wire.Envelope(
        site="2600000000001",
        sent_at=1795291391000,
        consent="yes",
        visitor_id=VISITOR,
        epik="dj0yJnU9",
        user={"em": ("Ann@Shop.example",), "ph": ("+49 151 23456789",), "external_id": ("customer-17", "customer-18")},
    )
    [event] = parsed.events
    assert event == RawEvent(
        event="AddToCart",
        event_id="a-1",
        time=1795291390500,
        url="https://www.shop.example/products/red-shoes?epik=dj0yJnU9",
        referrer="https://www.pinterest.com/",
        value=25.5,
        currency="EUR",
        order_id="A-17",
        order_quantity=2,
        search_query="red shoes",
        line_items=[
            LineItem(
                product_id="RS-42",
                product_name="Red shoes",
                product_category="Shoes",
                product_brand="Acme",
                product_variant="42",
                product_variant_id="RS-42-B",
                product_price=12.75,
                product_quantity=2,
            )
        ],
        props=msgspec.Raw(b'{"promo_code":"SPRING"}'),
    )
    assert parsed.event_ids == ["a-1"] and parsed.batch


def test_golden_pinterest_is_the_same_in_all_its_forms() -> None:
    data = json.loads((GOLDEN / "server_pinterest.json").read_bytes())
    flat = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in data.items()}
    as_json = wire.parse("application/json", json.dumps(data).encode())
    with_text = wire.parse("application/json", json.dumps(flat).encode())
    as_form = wire.parse("application/x-www-form-urlencoded", urlencode(flat).encode())
    as_query = wire.parse_query(urlencode(flat).encode())
    assert as_json == with_text == as_form == as_query
    [event] = as_json.events
    assert isinstance(event, RawEvent)
    assert as_json.envelope == wire.Envelope(
        site="2600000000001",
        sent_at=1795291391000,
        epik="dj0yJnU9",
        user={"em": ("a" * 64,), "external_id": ("customer-17",)},
        user_path="$.pd",
    )
    assert (event.event, event.event_id, event.time) == ("checkout", "7f3c", 1795291391000)
    assert (event.value, event.currency, event.order_id, event.order_quantity) == (42.5, "EUR", "A-17", 2)
    assert (event.url, event.referrer) == ("https://www.shop.example/thanks", "https://www.shop.example/cart")
    assert event.line_items == [LineItem(product_id="RS-42", product_price=21.25, product_quantity=2)]
    assert props(event) == {"np": "shopify", "sw": 1920, "promo_code": "SPRING", "dep": "4,TAGS_RECEIVED"}


# --- Pinterest's form --------------------------------------------------------------------------------


def test_bracketed_image_of_a_theme() -> None:
    query = (
        "tid=2600000000001&event=checkout&ed[value]=42.50&ed[currency]=eur&ed[order_id]=A-17&ed[order_quantity]=2"
        "&ed[event_id]=7f3c&pd[em]=" + "b" * 64 + "&pd[opt_out_type]=LDP&noscript=1"
        "&ed[line_items][0][product_id]=A&ed[line_items][0][product_price]=1.5&ed[line_items][1][product_id]=B"
    )
    for parsed in (
        wire.parse_query(query.encode()),
        wire.parse_query(quote(query, safe="=&").encode()),
        wire.parse("application/x-www-form-urlencoded; charset=UTF-8", query.encode()),
    ):
        [event] = parsed.events
        assert isinstance(event, RawEvent)
        assert parsed.envelope.user == {"em": ("b" * 64,)}
        assert (event.value, event.currency, event.event_id) == (42.5, "EUR", "7f3c")
        assert event.line_items == [LineItem(product_id="A", product_price=1.5), LineItem(product_id="B")]
        assert props(event) == {"opt_out_type": "LDP", "noscript": "1"}


def test_base_image() -> None:
    parsed = wire.parse_query(b"tid=2600000000001&event=init&noscript=1")
    assert parsed.envelope.site == "2600000000001"
    assert parsed.events == [RawEvent(event="init", props=msgspec.Raw(b'{"noscript":"1"}'))]


@pytest.mark.parametrize(
    ("cb", "time"),
    [("1795291391000", 1795291391000), ("12345", 0), ("0.83", 0), ("", 0), ("9" * 30, 0), (str(MAX_TIME_MS + 1), 0)],
)
def test_cb_is_a_time_only_if_it_looks_like_one(cb: str, time: int) -> None:
    parsed = wire.parse_query(f"tid=1&event=search&cb={cb}&ed[x]=1".encode())
    [event] = parsed.events
    assert isinstance(event, RawEvent)
    assert event.time == parsed.envelope.sent_at == time


def test_line_items_as_json_text_in_brackets() -> None:
    items = quote('[{"product_id":"A"}]')
    [event] = wire.parse_query(f"tid=1&event=x&ed[line_items]={items}".encode()).events
    assert isinstance(event, RawEvent) and event.line_items == [LineItem(product_id="A")]


def test_external_id_among_the_event_data_goes_to_the_person() -> None:
    assert wire.parse_query(b"tid=1&event=x&ed[external_id]=c-1").envelope.user == {"external_id": ("c-1",)}


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        (b"tid=1&event=x&ed={", "bad_json", "$.ed"),
        (b"tid=1&event=x&ed=[1]", "bad_type", "$.ed"),
        (b"tid=1&event=x&pd=1", "bad_type", "$.pd"),
        (b"tid=1&event=x&ed[value]=much", "bad_type", "$.value"),
        (b"tid=1&ed[value]=1", "missing_field", "$.event"),
        (b"tid=1&event=x&ed[line_items]=[1]", "bad_type", "$.line_items[0]"),
        (b"tid=1&event=x&ed[line_items]={{", "bad_json", "$.line_items"),
    ],
)
def test_faults_of_the_pinterest_form(query: bytes, reason: str, field: str) -> None:
    [event] = wire.parse_query(query).events
    assert isinstance(event, Refused)
    assert (event.reason, event.field) == (reason, field)


# --- aliases and types -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["event_id", "eventID", "eventId", "eid"])
def test_every_spelling_of_the_event_id(name: str) -> None:
    parsed = read({"site": "1", "event": "x", name: 17})
    [event] = parsed.events
    assert isinstance(event, RawEvent)
    assert event.event_id == "17"
    assert props(event) == {}


def test_of_two_spellings_ours_wins_and_the_other_is_kept() -> None:
    event = one(event_id="a", eventID="b")
    assert event.event_id == "a" and props(event) == {"eventID": "b"}


def test_numbers_as_text_and_text_as_numbers() -> None:
    event = one(value=" 12.50 ", order_quantity="2", order_id=17, search_query=1.5, time="1795291390500")
    assert (event.value, event.order_quantity, event.order_id, event.search_query) == (12.5, 2, "17", "1.5")
    assert event.time == 1795291390500
    assert one(order_quantity=2.0).order_quantity == 2
    assert str(one(value=-0.0).value) == "0.0"


@pytest.mark.parametrize("text", ["1,5", "€5", "nan", "inf", "-Infinity", "1_000", "0x10", "١٢", "1e", "--1", "."])
def test_text_that_is_no_number_is_refused(text: str) -> None:
    assert fault(value=text) == ("bad_type", "$.value")


def test_product_fields_outside_of_line_items_make_one() -> None:
    assert one(product_id=7, product_price="9.99").line_items == [LineItem(product_id="7", product_price=9.99)]
    assert one(line_items={"product_id": "A"}).line_items == [LineItem(product_id="A")]
    event = one(line_items=[{"product_id": "A"}], product_id="B")
    assert event.line_items == [LineItem(product_id="A")] and props(event) == {"product_id": "B"}


def test_what_nobody_knows_is_kept_in_props() -> None:
    event = one(lead_type="newsletter", page_name=None, property="x", props={"coupon": "C", "property": "y"})
    assert props(event) == {"lead_type": "newsletter", "page_name": None, "property": "y", "coupon": "C"}
    items = one(line_items=[{"product_id": "A"}, {"product_id": "B", "color": "red"}])
    assert props(items) == {"line_items": [{}, {"color": "red"}]}
    batch = read({"site": "1", "shop_version": 3, "events": [{"event": "a"}, {"event": "b", "k": 1}]}).events
    assert [props(event) for event in batch if isinstance(event, RawEvent)] == [
        {"shop_version": 3},
        {"shop_version": 3, "k": 1},
    ]


def test_whole_numbers_past_64_bits_are_kept_as_text() -> None:
    body = b'{"site":"1","event":"x","big":%d,"low":%d,"high":%d}' % (2**64, -(2**63), 2**64 - 1)
    [event] = wire.parse("", body).events
    assert isinstance(event, RawEvent)
    assert props(event) == {"big": str(2**64), "low": -(2**63), "high": 2**64 - 1}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("yes", "yes"),
        (True, "yes"),
        (1, "yes"),
        ("TRUE", "yes"),
        ("granted", "yes"),
        ("no", "no"),
        (False, "no"),
        (0, "no"),
        ("denied", "no"),
        ("unknown", "unknown"),
        ("", ""),
        (None, ""),
    ],
)
def test_consent_words(said: object, meant: str) -> None:
    assert read({"site": "1", "event": "x", "consent": said}).envelope.consent == meant


def test_currency_is_upper_case() -> None:
    assert one(currency=" eur ").currency == "EUR"
    assert one(currency="").currency == ""


def test_null_means_nothing_was_said() -> None:
    assert one(value=None, url=None, line_items=None, props=None, event_id=None, order_quantity="") == RawEvent(
        event="custom"
    )


def test_site_may_be_a_number() -> None:
    assert read({"tid": 2600000000001, "event": "x"}).envelope.site == "2600000000001"


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain;charset=UTF-8", "", "application/x-www-form-urlencoded"]
)
def test_json_is_recognised_by_its_bytes(content_type: str) -> None:
    assert wire.parse(content_type, b' {"site":"1","event":"x"}').events == [RawEvent(event="x")]


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"event": ""}, "missing_field", "$.event"),
        ({"event": None}, "missing_field", "$.event"),
        ({"event": ["x"]}, "bad_type", "$.event"),
        ({"value": True}, "bad_type", "$.value"),
        ({"value": {}}, "bad_type", "$.value"),
        ({"value": 10**400}, "out_of_range", "$.value"),
        ({"value": "1e999"}, "out_of_range", "$.value"),
        ({"value": -0.01}, "out_of_range", "$.value"),
        ({"order_quantity": 1.5}, "bad_type", "$.order_quantity"),
        ({"url": {"href": "x"}}, "bad_type", "$.url"),
        ({"order_id": True}, "bad_type", "$.order_id"),
        ({"order_id": 10**200}, "too_long", "$.order_id"),
        ({"currency": "EURO"}, "bad_value", "$.currency"),
        ({"currency": "€€€"}, "bad_value", "$.currency"),
        ({"line_items": 3}, "bad_type", "$.line_items"),
        ({"line_items": [3]}, "bad_type", "$.line_items[0]"),
        ({"line_items": [{}, {"product_quantity": -1}]}, "out_of_range", "$.line_items[1].product_quantity"),
        ({"product_price": "x"}, "bad_type", "$.product_price"),
        ({"props": [1]}, "bad_type", "$.props"),
    ],
)  # fmt: skip
def test_an_event_is_refused_with_the_path_of_its_fault(fields: dict[str, Any], reason: str, field: str) -> None:
    assert fault(**fields) == (reason, field)


def test_one_bad_event_does_not_cost_the_others() -> None:
    parsed = read(
        {"site": "1", "events": [{"event": "a"}, {"event": "b", "eid": "e-2", "value": -1}, 5, {"event": "c"}]}
    )
    faults = [(event.reason, event.field) for event in parsed.events if isinstance(event, Refused)]
    assert faults == [("out_of_range", "$.events[1].value"), ("bad_type", "$.events[2]")]
    assert parsed.event_ids == ["", "e-2", "", ""]


@pytest.mark.parametrize("key", ["site", "sent_at", "consent", "visitor_id", "epik", "user"])
def test_an_envelope_key_inside_a_batch_is_refused(key: str) -> None:
    [event] = read({"site": "1", "consent": "yes", "events": [{"event": "a", key: "no"}]}).events
    assert isinstance(event, Refused)
    assert (event.reason, event.field) == ("bad_value", f"$.events[0].{key}")


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"consent": "maybe"}, "bad_value", "$.consent"),
        ({"consent": 2}, "bad_value", "$.consent"),
        ({"consent": {}}, "bad_value", "$.consent"),
        ({"visitor_id": "me"}, "bad_value", "$.visitor_id"),
        ({"visitor_id": VISITOR + "0"}, "bad_value", "$.visitor_id"),
        ({"sent_at": "yesterday"}, "bad_type", "$.sent_at"),
        ({"sent_at": -1}, "out_of_range", "$.sent_at"),
        ({"sent_at": MAX_TIME_MS + 1}, "out_of_range", "$.sent_at"),
        ({"epik": []}, "bad_type", "$.epik"),
        ({"user": "ann"}, "bad_json", "$.user"),
        ({"user": [1]}, "bad_type", "$.user"),
        ({"user": {"name": "Ann"}}, "bad_value", "$.user"),
        ({"user": {"em": {"a": 1}}}, "bad_type", "$.user.em[0]"),
    ],
)
def test_a_bad_envelope_refuses_every_event(fields: dict[str, Any], reason: str, field: str) -> None:
    parsed = read({"site": "1", "events": [{"event": "a", "event_id": "e-1"}, {"event": "b"}]} | fields)
    assert parsed.envelope.site == "1" and parsed.event_ids == ["e-1", ""]
    assert [(event.reason, event.field) for event in parsed.events if isinstance(event, Refused)] == [
        (reason, field)
    ] * 2


def test_events_must_be_a_list_with_something_in_it() -> None:
    for events, reason in (([], "missing_field"), ({}, "bad_type"), ("x", "bad_type"), (None, "bad_type")):
        [event] = read({"site": "1", "events": events}).events
        assert isinstance(event, Refused)
        assert (event.reason, event.field) == (reason, "$.events")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_body"),
        (b" \r\n", "empty_body"),
        (b"{", "bad_json"),
        (b"{} x", "bad_json"),
        (b"nope", "bad_json"),
        (b"NaN", "bad_json"),
        (b'{"site":"1","event":"x","value":NaN}', "bad_json"),
        (b'{"site":"1","event":"x","value":Infinity}', "bad_json"),
        (b'{"site":"1","event":"x","value":1e999}', "out_of_range"),
        (b'{"site":"1","event":"x","value":' + b"9" * 5000 + b"}", "out_of_range"),
        (b'{"site":"1","event":"\xff"}', "bad_text"),
        (b'{"site":"1","event":"\xed\xa0\x80"}', "bad_text"),
        (b'{"site":"1","event":"x\0"}', "bad_text"),
        (b"\xfe\xff\x00{", "bad_text"),
        ('{"site":"1"}'.encode("utf-16"), "bad_text"),
        (b"[" * 10_000 + b"]" * 10_000, "too_deep"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too_deep"),
        (b"[" * 10_000, "too_deep"),
        (b"[]", "bad_type"),
        (b'"x"', "bad_type"),
        (b"{}", "missing_field"),
        (b'{"site":""}', "missing_field"),
        (b'{"site":[]}', "bad_type"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read(body: bytes, reason: str) -> None:
    assert unreadable(body) == reason


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (r"a\u0000b", "ab"), (r"a\ud800b", "ab"), (r"a\udc00", "a"), (r"\udc00\ud800a", "a"),
        (r"\ud800\ud83d\ude00", "😀"), (r"\\ud800", r"\ud800"), (r"\\\ud800", "\\"), (r"\\u0000", r"\u0000"),
        ("\u2028", "\u2028"),
    ],
)  # fmt: skip
def test_halves_of_characters_and_nuls_are_left_out(sent: str, kept: str) -> None:
    [event] = wire.parse("", f'{{"site":"1","event":"x","search_query":"{sent}","k":"{sent}"}}'.encode()).events
    assert isinstance(event, RawEvent)
    assert (event.search_query, bytes(event.props)) == (kept, msgspec.json.encode({"k": kept}))


def test_a_surrogate_pair_is_a_character() -> None:
    [event] = wire.parse("", b'{"site":"1","event":"\\ud83d\\ude00"}').events
    assert event == RawEvent(event="😀")


def test_of_equal_keys_the_last_one_counts() -> None:
    assert wire.parse("", b'{"site":"1","event":"a","event":"b"}').events == [RawEvent(event="b")]


# --- bounds: at, and one past ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "limit"),
    [("event", 100), ("event_id", 256), ("url", 2048), ("referrer", 2048), ("order_id", 128), ("search_query", 512)],
)
def test_texts_are_bounded(field: str, limit: int) -> None:
    assert getattr(one(**{field: "é" * limit}), field) == "é" * limit
    assert fault(**{field: "é" * (limit + 1)}) == ("too_long", f"$.{field}")


@pytest.mark.parametrize(
    ("field", "limit"),
    [
        ("product_id", 128),
        ("product_name", 256),
        ("product_category", 256),
        ("product_brand", 128),
        ("product_variant", 128),
        ("product_variant_id", 128),
    ],
)
def test_texts_of_line_items_are_bounded(field: str, limit: int) -> None:
    assert getattr(one(line_items=[{field: "x" * limit}]).line_items[0], field) == "x" * limit
    assert fault(line_items=[{field: "x" * (limit + 1)}]) == ("too_long", f"$.line_items[0].{field}")


@pytest.mark.parametrize(
    ("field", "high"), [("value", int(MAX_MONEY)), ("order_quantity", 65_535), ("time", MAX_TIME_MS)]
)
def test_numbers_are_bounded(field: str, high: int) -> None:
    for value in (0, high, str(high)):
        assert getattr(one(**{field: value}), field) == int(value)
    for value in (-1, high + 1, str(high + 1)):
        assert fault(**{field: value}) == ("out_of_range", f"$.{field}")


def test_line_items_are_bounded() -> None:
    assert len(one(line_items=[{"product_id": "A"}] * MAX_LINE_ITEMS).line_items) == MAX_LINE_ITEMS
    assert fault(line_items=[{"product_id": "A"}] * (MAX_LINE_ITEMS + 1)) == ("too_many", "$.line_items")


def test_events_are_bounded() -> None:
    assert read({"site": "1", "events": [{"event": "a"}] * MAX_EVENTS}).events == [RawEvent(event="a")] * MAX_EVENTS
    refused = read({"site": "1", "events": [{"event": "a"}] * (MAX_EVENTS + 1)}).events
    assert len(refused) == MAX_EVENTS + 1
    assert {(event.reason, event.field) for event in refused if isinstance(event, Refused)} == {
        ("too_many", "$.events")
    }


def nested(levels: int) -> Any:
    data: Any = 1
    for _ in range(levels):
        data = [data]
    return data


def test_props_are_bounded_in_depth_and_size() -> None:
    assert props(one(deep=nested(MAX_PROPS_DEPTH - 1))) == {"deep": nested(MAX_PROPS_DEPTH - 1)}
    assert fault(deep=nested(MAX_PROPS_DEPTH)) == ("too_deep", "$.props")
    room = MAX_PROPS_BYTES - len(b'{"k":""}')
    assert len(bytes(one(k="x" * room).props)) == MAX_PROPS_BYTES
    assert fault(k="x" * (room + 1)) == ("too_long", "$.props")


def test_json_is_bounded_in_depth() -> None:
    deepest = {"site": "1", "event": "x", "deep": nested(MAX_DEPTH - 1)}
    assert read(deepest).events  # props are shallower, so the event is refused, but the request was read
    assert unreadable(json.dumps({"site": "1", "event": "x", "deep": nested(MAX_DEPTH)}).encode()) == "too_deep"


def test_identifiers_are_bounded() -> None:
    at_bound = ["x" * wire.MAX_USER_CHARS] * wire.MAX_USER_VALUES
    assert read({"site": "1", "event": "x", "user": {"em": at_bound}}).envelope.user == {"em": tuple(at_bound)}
    assert fault(user={"em": [*at_bound, "x"]}) == ("too_many", "$.user.em")
    assert fault(user={"em": ["x", "x" * (wire.MAX_USER_CHARS + 1)]}) == ("too_long", "$.user.em[1]")


def test_site_and_epik_are_bounded() -> None:
    assert read({"site": "s" * wire.MAX_SITE_CHARS, "event": "x"}).envelope.site
    assert unreadable(json.dumps({"site": "s" * (wire.MAX_SITE_CHARS + 1)}).encode()) == "too_long"
    assert read({"site": "1", "event": "x", "epik": "e" * wire.MAX_EPIK_CHARS}).envelope.epik
    assert fault(epik="e" * (wire.MAX_EPIK_CHARS + 1)) == ("too_long", "$.epik")


def refusals(sent: dict[str, Any]) -> list[tuple[int, str, str]]:
    """(place, reason, field) of the events refused; both ways of reading say the same."""
    body = json.dumps({"site": "1"} | sent).encode()
    found, other = (
        [(n, one.reason, one.field) for n, one in enumerate(parsed.events) if isinstance(one, Refused)]
        for parsed in (wire.parse("", body), wire.parse_leniently("", body))
    )
    assert found == other
    return found


def test_props_of_a_request_are_bounded_together() -> None:
    full = {"event": "a", "props": {"a": "x" * (MAX_PROPS_BYTES - len('{"a":""}'))}}
    fit = wire.MAX_ALL_PROPS_BYTES // MAX_PROPS_BYTES
    assert refusals({"events": [full] * fit + [{"event": "a"}]}) == []
    more = [full] * fit + [{"event": "a", "props": {"a": 1}}, {"event": "a"}]
    assert refusals({"events": more}) == [(fit, "too_long", f"$.events[{fit}].props")]
    shared = {"events": [{"event": "a"}] * 2, "z": "x" * MAX_PROPS_BYTES}
    assert refusals(shared) == [(n, "too_long", f"$.events[{n}].props") for n in range(2)]


def test_signs_of_a_request_are_bounded_together() -> None:
    full = {"event": "a", "url": "/" * 2048}
    fit = wire.MAX_SIGNS // 2048
    assert refusals({"events": [full] * fit + [{"event": "a"}]}) == []
    more = [full] * fit + [{"event": "a", "order_id": "/"}, {"event": "a"}]
    assert refusals({"events": more}) == [(fit, "too_long", f"$.events[{fit}]")]


def test_lists_and_objects_of_a_body_are_bounded() -> None:
    fit = b'{"site":"1","event":"a","z":[' + b",".join([b"[]"] * (MAX_NESTED - 2)) + b"]}"
    assert refusals(msgspec.json.decode(fit)) == [(0, "too_long", "$.props")]
    assert unreadable(fit[:-2] + b",[]]}") == "too_many"
