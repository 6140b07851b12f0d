"""The shoppers in front of the real edge and a real journal: the books are true."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinstream.demo import shoppers
from pinstream.demo.shoppers import Ledger
from pinstream.event import CONSENT_WITHDRAWN, EVENTS
from pinstream.state.snapshot import Site, Snapshot
from tests.collect.conftest import running

pytestmark = pytest.mark.slow

ORIGIN = "https://shop.example"
SNAPSHOT = Snapshot(taken_ms=1, sites=(Site(id=1, tag_id="demo", origins=(ORIGIN,), currency="EUR"),))


async def test_what_the_books_call_durable_is_in_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shoppers, "GRACE_S", 60)
    ledger = Ledger()
    async with running(tmp_path, snapshot=SNAPSHOT) as edge:
        await shoppers.shop(edge.base_url, "demo", seconds=6, events_per_s=150, seed=1, ledger=ledger, origin=ORIGIN)
        stored = await edge.stored(EVENTS)
    ids = [event["event_id"] for event in stored]
    assert len(ids) == len(set(ids))
    assert ledger.durable <= set(ids)
    assert len(ledger.durable) > 200
    # What nobody sent: the edge notes a withdrawal when a known visitor's browser says no
    assert {event["event"] for event in stored if event["event_id"] not in ledger.durable} <= {CONSENT_WITHDRAWN}

    counts = ledger.counts
    assert {"durable", "dropped:consent", "dropped:gpc", "dropped:bot"} <= counts.keys()
    assert any(reason.startswith("refused:") for reason in counts)
    assert not any(reason.startswith("unknown:") for reason in counts)

    withdrawn = [event for event in stored if event["event"] == CONSENT_WITHDRAWN]
    assert withdrawn
    assert all(event["consent"] == "no" and "em" not in event for event in withdrawn)
    emails = {event["em"] for event in stored if event.get("em")}
    assert shoppers.expected_cart_abandoners(ledger) < emails
