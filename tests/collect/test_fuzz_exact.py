"""What is read in one step and what is read field by field comes out the same, to the last bit of a record."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pinstream.collect import intake, wire
from pinstream.collect.stamp import Context
from pinstream.errors import Refused
from pinstream.event import Event, RawEvent
from pinstream.state.snapshot import Site
from tests.collect.test_fuzz import NOW, VISITOR, anything, names

REAL = [json.loads(path.read_bytes()) for path in sorted((Path(__file__).parents[1] / "wire").glob("*.json"))]
EXACT = [body for body in REAL if wire._exact(msgspec.json.encode(body))]

# fmt: off
TEXTS = [
    "", " ", " x", "x ", "\t", "\u00a0x", "x" * 100, "x" * 101, "x" * 2049, "x" * 8193, "\0", "\ud7ff", "\ud800", "😀",
    "1", "1.5", "-0", "EUR", "eur", "EUR\n", "yes", "true", VISITOR, VISITOR.upper(), VISITOR + "\n", f" {VISITOR}",
    "{}", "[]", "a", "é", "\u2028", "\\", '"', "/", "a@b.de", "checkout", "AddToCart",
]
NUMBERS = [
    0, 1, -1, 0.0, -0.0, 0.5, 2.0, 0.1 + 0.2, 1e-320, 1e11, 99_999_999_999, 99_999_999_999.5, 1e308, 65_535, 65_536,
    2**53 + 1, 2**63, 2**64, 2**70, 4_102_444_800_000, 4_102_444_800_001, 1_795_291_391_000.0, True, False,
]
OTHERS: list[Any] = [
    None, [], {}, [{}], {"a": {}}, [None], {"": 1}, {"a": "\0"}, [[[[[[[[[1]]]]]]]]], {"a": 2**70}, {"a": -0.0},
]
# fmt: on
edge_values: st.SearchStrategy[Any] = st.sampled_from([*TEXTS, *NUMBERS, *OTHERS])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A body that the tag or a server really sends, with a few things changed."""
    body = copy.deepcopy(draw(st.sampled_from(EXACT) | st.sampled_from(EXACT) | st.sampled_from(REAL)))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 4]))):
        _change(draw, body)
    text = json.dumps(body, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    sent = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(sent)))
        sent[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2) | st.sampled_from(BITS))
    return bytes(sent)


BITS = [b'"', b"\\", b"\\u0000", b"\\ud800", b",", b"}", b"1", b"\xc3", b"\xef\xbb\xbf"]


def _change(draw: st.DrawFn, body: Any) -> None:
    """One thing: most often a value into another of its type, which may well still be as documented."""
    where = list(places(body))
    if not where:
        return
    node, key = draw(st.sampled_from(where))
    match draw(st.sampled_from(["like"] * 8 + ["set", "any", "drop", "drop", "add"])):
        case "like" if isinstance(node[key], str):
            node[key] = draw(st.sampled_from(TEXTS) | st.text(max_size=20))
        case "like" if isinstance(node[key], int | float):
            node[key] = draw(st.sampled_from(NUMBERS) | st.floats(0, 1e11) | st.integers(0, 10**13))
        case "like" | "set":
            node[key] = copy.deepcopy(draw(edge_values))
        case "any":
            node[key] = draw(anything)
        case "drop":
            del node[key]
        case "add" if isinstance(node, dict):
            node[draw(names | st.text(max_size=5))] = copy.deepcopy(draw(edge_values | anything))


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (object or list, key or index) in a body."""
    for key, inner in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def shown(read_by: Callable[[str, bytes], wire.Wire], body: bytes, content_type: str) -> Any:
    """Everything that a reader says about a body, and the records that come of it, comparable to the last bit."""
    try:
        found = read_by(content_type, body)
    except Refused as exc:
        return exc.reason, exc.field
    said = [(one.reason, one.field) if isinstance(one, Refused) else plain(one) for one in found.events]
    site = Site(id=1, tag_id="1", consent_default="yes")
    stamped = intake.take(found, Context(now_ms=NOW, site=site), lambda count: bytes(count))
    stored = [plain(msgspec.json.decode(record.value, type=Event)) for record in stamped.records]
    return msgspec.json.encode(found.envelope), said, found.event_ids, found.batch, stamped.outcomes, stored


def plain(event: RawEvent) -> str:
    """Every field, so that -0.0 is not 0.0; a field that was left out is its default."""
    return repr(msgspec.structs.asdict(event) | {"props": bytes(event.props)})


def of(**fields: Any) -> bytes:
    """One event, exactly as documented but for these."""
    return json.dumps({"site": "1", "event": "x", **fields}).encode()


@example(of(value=-0.0), "")
@example(of(line_items=[{"product_price": -0.0}]), "")
@example(of(props={"a": -0.0}), "")
@example(of(order_quantity=2.0, time=1_795_291_390_000.0), "")
@example(of(currency="EUR\n"), "")
@example(of(visitor_id=VISITOR + "\n"), "")
@example(of(event=" x\u00a0"), "")
@example(of(url="\0"), "")
@example(of(url="x").replace(b'"x"}', b'"\xff"}'), "")
@example(of(url="x").replace(b'"x"}', b'"\\ud800"}'), "")
@example(of(event_id="events"), "")
@example(b'{"site":"1","event":"x","event":"y","site":"2"}', "")
@example(b'{"site":"1","event":"x","props":{"a":1},"props":null}', "")
@example(b'{"site":"1","events":[],"event":"x"}', "")
@example(b"\xef\xbb\xbf" + of(), "")
@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(), st.sampled_from(["", "text/plain", "application/x-www-form-urlencoded"]))
def test_both_ways_of_reading_agree(body: bytes, content_type: str) -> None:
    assert shown(wire.parse, body, content_type) == shown(wire.parse_leniently, body, content_type)


@pytest.mark.parametrize("body", REAL)
def test_a_real_body_is_read_in_one_step_or_field_by_field_alike(body: Any) -> None:
    sent = msgspec.json.encode(body)
    assert shown(wire.parse, sent, "") == shown(wire.parse_leniently, sent, "")
