"""The shoppers in front of the real edge and a real journal: the books are true."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinstream.collect.engagements import ACTIONS
from pinstream.demo import pins, shoppers
from pinstream.demo.shoppers import Door, Ledger
from pinstream.event import CONSENT_WITHDRAWN, ENGAGEMENTS, EVENTS
from pinstream.state.snapshot import Key, Site, Snapshot
from pinstream.state.store import hash_key
from tests.collect.conftest import running

pytestmark = pytest.mark.slow

ORIGIN = "https://shop.example"
KEY = "psk_of_the_shops_server"
SNAPSHOT = Snapshot(
    taken_ms=1,
    sites=(Site(id=1, tag_id="demo", origins=(ORIGIN,), currency="EUR"),),
    keys=(Key(sha256=hash_key(KEY), prefix=KEY[:10], site_id=1),),
)


async def test_what_the_books_call_durable_is_in_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shoppers, "GRACE_S", 60)
    ledger = Ledger()
    async with running(tmp_path, snapshot=SNAPSHOT) as edge:
        door = Door(edge.base_url, "demo", ORIGIN, KEY)
        await shoppers.shop(door, seconds=6, events_per_s=150, seed=20, ledger=ledger)  # everybody comes soon
        stored = await edge.stored(EVENTS)
        pinned = await edge.stored(ENGAGEMENTS)
    done = {entry.event_id for entry in ledger.entries.values() if entry.event in ACTIONS}
    assert {each["event_id"] for each in pinned} == done <= ledger.durable
    assert len(pinned) == len(done) > sum(pins.WEEK_SAVES)
    assert {each["action"] for each in pinned} == ACTIONS
    assert min(each["time"] for each in pinned) < pinned[0]["received_ms"] - pins.WEEK_MS / 2
    landed = [event for event in stored if "?epik=" in event.get("url", "")]
    assert landed and all(event["epik"] in event["url"] for event in landed)

    durable = ledger.durable - done
    ids = [event["event_id"] for event in stored]
    assert len(ids) == len(set(ids))
    assert durable <= set(ids)
    assert len(durable) > 200
    # What nobody sent: the edge notes a withdrawal when a known visitor's browser says no
    assert {event["event"] for event in stored if event["event_id"] not in durable} <= {CONSENT_WITHDRAWN}

    counts = ledger.counts
    assert {"durable", "dropped:consent", "dropped:gpc", "dropped:bot"} <= counts.keys()
    assert any(reason.startswith("refused:") for reason in counts)
    assert not any(reason.startswith("unknown:") for reason in counts)

    withdrawn = [event for event in stored if event["event"] == CONSENT_WITHDRAWN]
    assert withdrawn
    assert all(event["consent"] == "no" and "em" not in event for event in withdrawn)
    emails = {event["em"] for event in stored if event.get("em")}
    assert shoppers.expected_cart_abandoners(ledger) < emails
