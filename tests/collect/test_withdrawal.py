"""A withdrawal from the request to the audience: whatever says whose it is, the person is out, in the real engine."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec
import pytest

from pinstream.audiences import compile
from pinstream.audiences.rule import Did, Rule
from pinstream.collect import intake, wire
from pinstream.collect.identity import digest
from pinstream.collect.stamp import Context
from pinstream.event import EVENTS
from pinstream.state.snapshot import Site
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse

SITE = Site(id=1, tag_id="t")
NOW_MS = int(time.time() * 1000) - 100_000
PHONE, LAPTOP = "019a63f2-7c1e-7d0a-9b42-5f2c1d8e9a10", "019a63f2-7c1e-7d0a-9b42-5f2c1d8e9a11"
CARTED = Rule(all=(Did(events=("add_to_cart",), within_days=30),))
ANN, BOB = digest("ann@shop.de"), digest("bob@shop.de")
_offsets = itertools.count()


async def send(warehouse: Warehouse, at_ms: int, **said: Any) -> list[str]:
    """Through wire and stamp into the warehouse; what the sender is told."""
    read = wire.parse("", msgspec.json.encode({"site": "t"} | said))
    found = intake.take(read, Context(now_ms=at_ms, site=SITE), lambda size: bytes(size))
    rows = [
        b'{"k_partition":0,"k_offset":%d,"rollup_version":%d,' % (next(_offsets), schema.ROLLUP_VERSION) + one.value[1:]
        for one in found.records
        if one.topic == EVENTS
    ]
    await warehouse.insert(
        "events", schema.insert_columns("events"), b"\n".join(rows), token=f"withdrawal:{next(_offsets)}"
    )
    return [outcome.status for outcome in found.outcomes]


async def people(warehouse: Warehouse, query: compile.Query) -> set[str]:
    return {bytes(row["em"]).hex() for row in await warehouse.select(query.sql, query.params)}


async def members(warehouse: Warehouse) -> set[str]:
    return await people(warehouse, compile.members(CARTED, site_id=1, now_ms=NOW_MS))


async def two_people(warehouse: Warehouse) -> None:
    """Ann on two devices, which share her customer number; Bob on one."""
    cart = {"consent": "yes", "event": "add_to_cart"}
    ann = {"em": "ann@shop.de", "external_id": "c-1"}
    await send(warehouse, NOW_MS - 9000, **cart, event_id="1", visitor_id=PHONE, user=ann)
    await send(warehouse, NOW_MS - 8000, **cart, event_id="2", visitor_id=LAPTOP, user={"external_id": "c-1"})
    await send(warehouse, NOW_MS - 7000, **cart, event_id="3", user={"em": "bob@shop.de"})


@pytest.mark.parametrize(
    "whose",
    [
        {"visitor_id": PHONE},
        {"visitor_id": LAPTOP},
        {"user": {"em": "ann@shop.de"}},
        {"user": {"external_id": "C-1"}},
        {"user": {"em": "ann@shop.de", "external_id": "c-99"}},
        {"user": {"em": ANN, "external_id": "c-1"}, "epik": "k"},
    ],
)
async def test_a_withdrawal_takes_the_person_out_whatever_names_them(
    warehouse: Warehouse, whose: dict[str, Any]
) -> None:
    await two_people(warehouse)
    assert await members(warehouse) == {ANN, BOB}
    assert await send(warehouse, NOW_MS - 5000, event="consent_withdrawn", event_id="w", **whose) == ["durable"]
    assert await members(warehouse) == {BOB}
    assert await people(warehouse, compile.withdrawn(site_id=1, now_ms=NOW_MS)) == {ANN}


async def test_a_later_yes_brings_the_person_back_and_a_late_event_does_not(warehouse: Warehouse) -> None:
    await two_people(warehouse)
    again = {"consent": "yes", "event": "page_visit", "visitor_id": PHONE}
    await send(warehouse, NOW_MS - 5000, event="consent_withdrawn", user={"em": "ann@shop.de"})
    await send(warehouse, NOW_MS - 4000, **again, event_id="late", time=NOW_MS - 6000)
    assert await members(warehouse) == {BOB}
    await send(warehouse, NOW_MS - 3000, **again, event_id="new", time=NOW_MS - 3500)
    assert await members(warehouse) == {ANN, BOB}
