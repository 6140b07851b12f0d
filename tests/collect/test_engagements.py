"""What a server tells about Pins."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from pinstream.collect import engagements, identity
from pinstream.collect.intake import Intake
from pinstream.collect.stamp import Context
from pinstream.errors import Refused
from pinstream.event import EARLY_MS, ENGAGEMENTS, LATE_MS, MAX_EVENTS, Engagement
from pinstream.state.snapshot import Site

NOW = 1_795_291_391_000
VISITOR = "019a63f2-7c1e-7d0a-9b42-5f2c1d8e9a10"
GONE = sha256(b"gone@shop.de").hexdigest()
CONTEXT = Context(now_ms=NOW, site=Site(id=7, tag_id="1", phone_region="DE"), suppressed=frozenset({GONE}))


def take(*sent: Any, consent: str = "") -> Intake:
    return engagements.take(list(sent), consent, CONTEXT, bytes)


def one(**fields: Any) -> Engagement:
    found = take({"action": "save", "event_id": "e-1"} | fields)
    assert found.outcomes[0].status == "durable", found.outcomes
    [record] = found.records
    assert record.topic == ENGAGEMENTS
    engagement = msgspec.json.decode(record.value, type=Engagement)
    assert record.key == engagement.visitor_id
    return engagement


def fault(sent: Any) -> tuple[str, str]:
    [outcome] = take(sent).outcomes
    return outcome.reason, outcome.field


def test_an_engagement_whole() -> None:
    email = sha256(b"ann@shop.de").hexdigest()
    assert one(
        action="Save",
        time=str(NOW - 5),
        pin_id=str(2**64 - 1),
        board_id=17,
        ad_id="18",
        campaign_id=19.0,
        product_id=42,
        user={"em": "Ann@shop.de", "external_id": ["C-1"]},
        visitor_id=VISITOR.upper(),
        epik="k",
    ) == Engagement(
        site_id=7,
        action="save",
        event_id="e-1",
        time=NOW - 5,
        received_ms=NOW,
        visitor_id=identity.visitor_hash(7, f"v:{VISITOR}"),
        em=email,
        external_id=sha256(b"c-1").hexdigest(),
        epik="k",
        pin_id=2**64 - 1,
        board_id=17,
        ad_id=18,
        campaign_id=19,
        product_id="42",
    )


def test_an_action_is_enough() -> None:
    found = one(event_id=None)
    assert len(found.event_id) == 36 and found.time == NOW and found.visitor_id == 0


@pytest.mark.parametrize("action", ["click", "save", "closeup", "comment", "like"])
def test_every_action(action: str) -> None:
    assert one(action=action).action == action


def test_time_is_clamped() -> None:
    assert one(time=NOW - LATE_MS).time_clamped is False
    assert (one(time=NOW - LATE_MS - 1).time, one(time=NOW - LATE_MS - 1).time_clamped) == (NOW - LATE_MS, True)
    assert (one(time=NOW + EARLY_MS + 1).time, one(time=NOW + EARLY_MS + 1).time_clamped) == (NOW + EARLY_MS, True)


def test_plain_personal_data_is_hashed() -> None:
    assert "@" not in str(one(product_id="ann@shop.de", event_id="ann@shop.de", epik="ann@shop.de"))


@pytest.mark.parametrize(
    ("sent", "reason", "field"),
    [
        (5, "bad_type", "$.engagements[0]"),
        ({}, "missing_field", "$.engagements[0].action"),
        ({"action": "poke"}, "bad_value", "$.engagements[0].action"),
        ({"action": 5}, "bad_type", "$.engagements[0].action"),
        ({"action": "save", "color": "red"}, "bad_value", "$.engagements[0]"),
        ({"action": "save", "pin_id": 2**64}, "out_of_range", "$.engagements[0].pin_id"),
        ({"action": "save", "pin_id": -1}, "out_of_range", "$.engagements[0].pin_id"),
        ({"action": "save", "pin_id": "p-1"}, "bad_type", "$.engagements[0].pin_id"),
        ({"action": "save", "time": "now"}, "bad_type", "$.engagements[0].time"),
        ({"action": "save", "event_id": "x" * 257}, "too_long", "$.engagements[0].event_id"),
        ({"action": "save", "product_id": "x" * 129}, "too_long", "$.engagements[0].product_id"),
        ({"action": "save", "epik": "x" * 513}, "too_long", "$.engagements[0].epik"),
        ({"action": "save", "visitor_id": "me"}, "bad_value", "$.engagements[0].visitor_id"),
        ({"action": "save", "user": {"em": "0" * 32}}, "bad_hash", "$.engagements[0].user.em[0]"),
        ({"action": "save", "user": {"name": "Ann"}}, "bad_value", "$.engagements[0].user"),
    ],
)
def test_an_engagement_is_refused_with_the_path_of_its_fault(sent: Any, reason: str, field: str) -> None:
    assert fault(sent) == (reason, field)


def test_one_bad_engagement_does_not_cost_the_others() -> None:
    found = take({"action": "save"}, {"event_id": "bad"}, {"action": "like"})
    assert [outcome.status for outcome in found.outcomes] == ["durable", "refused", "durable"]
    assert found.outcomes[1].event_id == "bad" and len(found.records) == 2


def test_the_erased_and_the_unwilling_are_dropped() -> None:
    assert [outcome.reason for outcome in take({"action": "save", "user": {"em": GONE}}).outcomes] == ["suppressed"]
    assert [outcome.reason for outcome in take({"action": "save"}, {"x": 1}, consent="no").outcomes] == ["consent"] * 2


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        (b"", "empty_body", ""),
        (b"{", "bad_json", "$"),
        (b"[]", "bad_type", "$"),
        (b'{"engagements":[]}', "missing_field", "$.site"),
        (b'{"site":"1"}', "missing_field", "$.engagements"),
        (b'{"site":"1","engagements":[]}', "missing_field", "$.engagements"),
        (b'{"site":"1","engagements":{}}', "bad_type", "$.engagements"),
        (b'{"site":"1","consent":"maybe","engagements":[1]}', "bad_value", "$.consent"),
    ],
)
def test_a_body_that_cannot_be_read(body: bytes, reason: str, field: str) -> None:
    with pytest.raises(Refused) as caught:
        engagements.read(body)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_engagements_are_bounded() -> None:
    def body(count: int) -> bytes:
        return json.dumps({"site": 1, "engagements": [{"action": "save"}] * count}).encode()

    site, sent, consent = engagements.read(body(MAX_EVENTS))
    assert (site, len(sent), consent) == ("1", MAX_EVENTS, "")
    with pytest.raises(Refused) as caught:
        engagements.read(body(MAX_EVENTS + 1))
    assert caught.value.reason == "too_many"
