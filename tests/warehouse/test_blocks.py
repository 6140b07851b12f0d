"""Blocks: applied once a token, in the table and in every view, whatever dies; and what the views make of them."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pinstream import event
from pinstream.errors import QueryFailed, WarehouseAway
from pinstream.warehouse import queries, schema
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.migrate import migrate
from tests.warehouse.test_schema import spliced
from tests.warehouse_server import PASSWORD, EmbeddedProcess

DAY_MS = 86_400_000
START_MS = (int(time.time()) // 86_400 - 2) * DAY_MS  # `event_minute` keeps 30 days
EM, OTHER_EM = "ab" * 31 + "00", "cd" * 32
EVERYTHING = {
    "events": "SELECT count() AS n, sum(cityHash64(*)) AS h FROM events",
    "event_minute": "SELECT sum(n) AS n, uniqMerge(uniq_events) AS h FROM event_minute",
    "visitor_profile": "SELECT count() AS n, sum(cityHash64(*)) AS h FROM visitor_profile FINAL",
    "identity": "SELECT count() AS n, sum(cityHash64(*)) AS h FROM identity FINAL",
    "visitor_day": "SELECT sum(length(keys)) AS n, sum(cityHash64(arraySort(keys))) AS h FROM visitor_day FINAL",
    "visitor_profile rows": "SELECT count() AS n, 0 AS h FROM visitor_profile",
    "identity rows": "SELECT count() AS n, 0 AS h FROM identity",
}


class Blocks:
    """Inserts and asks as `load` does."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    async def insert(self, topic: str, rows: bytes, *, token: str) -> None:
        table = schema.TABLE_OF_TOPIC[topic]
        await self._warehouse.insert(table, schema.insert_columns(table), rows, token=token)

    async def insert_dead(self, rows: bytes, *, token: str) -> None:
        await self.insert(event.REJECTED, rows, token=token)

    async def newest(self, partition: tuple[str, int]) -> int | None:
        return await queries.newest_offset(self._warehouse, *partition)


def an_event(number: int, **fields: Any) -> event.Event:
    given: dict[str, Any] = {
        "event": "page_visit",
        "event_id": f"e{number}",
        "site_id": 1,
        "time": START_MS + number * 1000,
        "received_ms": START_MS + number * 1000 + 500,
        "visitor_id": number % 50 + 1,
        "em": EM if number % 7 == 0 else "",
        "consent": "yes",
    }
    return event.Event(**given | fields)


def block(first: int, last: int, **fields: Any) -> bytes:
    return b"\n".join(spliced(number, an_event(number, **fields)) for number in range(first, last + 1))


def rows(*records: Any) -> bytes:
    return b"\n".join(spliced(number, record) for number, record in enumerate(records))


async def state(warehouse: Warehouse) -> dict[str, tuple[int, int]]:
    found = {name: await warehouse.select(sql) for name, sql in EVERYTHING.items()}
    return {name: (answer[0]["n"], answer[0]["h"]) for name, answer in found.items()}


async def profile(warehouse: Warehouse, visitor_id: int) -> dict[str, Any]:
    sql = "SELECT * FROM visitor_profile FINAL WHERE site_id = 1 AND visitor_id = {visitor:UInt64}"
    (row,) = await warehouse.select(sql, {"visitor": visitor_id})
    return row


def moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC)


# --- once a token ----------------------------------------------------------------------------------


async def test_a_replayed_block_changes_nothing(warehouse: Warehouse) -> None:
    blocks = Blocks(warehouse)
    for first in range(0, 500, 100):
        await blocks.insert(event.EVENTS, block(first, first + 99), token=f"t{first}")
    before = await state(warehouse)
    assert before["events"][0] == before["event_minute"][0] == before["event_minute"][1] == 500
    for first in (400, 0, 200, 0):
        await blocks.insert(event.EVENTS, block(first, first + 99), token=f"t{first}")
    assert await state(warehouse) == before


async def test_the_same_rows_under_another_token_show_in_records_not_in_events(warehouse: Warehouse) -> None:
    blocks = Blocks(warehouse)
    await blocks.insert(event.EVENTS, block(0, 99), token="one")
    before = await state(warehouse)
    await blocks.insert(event.EVENTS, block(0, 99), token="two")
    after = await state(warehouse)
    assert after["event_minute"] == (200, 100)  # the record level sees it, the event level does not
    for name in ("visitor_profile", "identity"):
        assert after[name] == before[name]
    (final,) = await warehouse.select("SELECT count() AS n FROM events FINAL")
    assert final["n"] == 100


async def test_many_replays_later_the_first_block_is_still_known(warehouse: Warehouse) -> None:
    """# A window counts parts, and each block makes one in each table (two here: it spans two months)."""
    blocks = Blocks(warehouse)
    for number in range(60):
        times = {"time": START_MS + number % 2 * 31 * 86_400_000}
        await blocks.insert(
            event.EVENTS,
            block(number, number, **times) + b"\n" + block(1000 + number, 1000 + number),
            token=f"t{number}",
        )
    before = await state(warehouse)
    await blocks.insert(event.EVENTS, block(0, 0, time=START_MS) + b"\n" + block(1000, 1000), token="t0")
    assert await state(warehouse) == before


async def test_a_block_that_a_view_refused_is_completed_by_its_replay(warehouse: Warehouse) -> None:
    await warehouse.command(
        "CREATE TABLE picky (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100"
    )
    await warehouse.command(
        "CREATE MATERIALIZED VIEW zz_picky TO picky AS SELECT throwIf(event_id = 'e7') AS a FROM events"
    )
    blocks = Blocks(warehouse)
    with pytest.raises(QueryFailed) as caught:
        await blocks.insert(event.EVENTS, block(0, 9), token="t")
    assert caught.value.code == 395
    await warehouse.command("DROP VIEW zz_picky")
    for _ in range(2):
        await blocks.insert(event.EVENTS, block(0, 9), token="t")
    repaired = await state(warehouse)
    await warehouse.command("TRUNCATE TABLE events")
    for name in ("event_minute", "visitor_profile", "identity"):
        await warehouse.command(f"TRUNCATE TABLE {name}")
    await blocks.insert(event.EVENTS, block(0, 9), token="whole")
    whole = await state(warehouse)
    assert {name: n for name, (n, _) in repaired.items()} == {name: n for name, (n, _) in whole.items()}


async def test_the_same_token_from_many_writers_counts_once(warehouse: Warehouse) -> None:
    blocks = Blocks(warehouse)
    for number in range(10):
        await asyncio.gather(
            *(blocks.insert(event.EVENTS, block(number, number), token=f"t{number}") for _ in range(4))
        )
    assert (await state(warehouse))["event_minute"] == (10, 10)
    (counts,) = await queries.record_counts("events").rows(warehouse)
    assert counts == {"partition": 0, "records": 10, "distinct_records": 10}


@pytest.mark.parametrize("count", [1, 10_000])
async def test_a_body_is_one_block(warehouse: Warehouse, count: int) -> None:
    await Blocks(warehouse).insert(event.EVENTS, block(0, count - 1, time=START_MS), token="t")
    (row,) = await warehouse.select("SELECT count() AS n, uniqExact(_block_number) AS blocks FROM events")
    assert row == {"n": count, "blocks": 1}


async def test_one_bad_row_and_nothing_of_the_block_is_there(warehouse: Warehouse) -> None:
    body = block(0, 9) + b"\n" + block(10, 10).replace(b'"visitor_id":11', b'"visitor_id":-1') + b"\n" + block(11, 20)
    with pytest.raises(QueryFailed):
        await Blocks(warehouse).insert(event.EVENTS, body, token="t")
    assert (await state(warehouse))["events"] == (0, 0)


@pytest.mark.parametrize(("version", "taken"), [(0, 0), (1, 10), (2, 10)])
async def test_a_view_takes_its_own_version_and_later_ones(warehouse: Warehouse, version: int, taken: int) -> None:
    body = b"\n".join(spliced(n, an_event(n), version=version) for n in range(10))
    await Blocks(warehouse).insert(event.EVENTS, body, token="t")
    found = await state(warehouse)
    assert (found["events"][0], found["event_minute"][0], found["visitor_profile"][0]) == (10, taken, taken)


@pytest.mark.slow
async def test_kill_9_while_inserting_then_the_same_blocks_again(tmp_path: Path) -> None:
    """# Killed three times at random; unacknowledged blocks come again under their tokens; then everything is exact."""
    server = EmbeddedProcess(tmp_path)
    server.start()
    warehouse = Warehouse.open(server.settings, password=PASSWORD)
    await migrate(warehouse, server.settings)
    blocks, size, dice = Blocks(warehouse), 2000, random.Random(7)
    waiting = list(range(40))
    for _ in range(3):
        killer = asyncio.get_running_loop().call_later(dice.uniform(0.1, 0.6), server.kill)
        with pytest.raises(WarehouseAway):
            while True:
                number = waiting[0] if waiting else 40
                await blocks.insert(event.EVENTS, block(number * size, number * size + size - 1), token=f"t{number}")
                waiting = waiting[1:] if waiting else []
        killer.cancel()
        server.start()
    for number in [*waiting, *range(41)]:
        await blocks.insert(event.EVENTS, block(number * size, number * size + size - 1), token=f"t{number}")
    found = await state(warehouse)
    (counts,) = await queries.record_counts("events").rows(warehouse)
    assert counts["records"] == counts["distinct_records"] == 41 * size
    assert found["event_minute"][0] == 41 * size
    people = await warehouse.select(
        "SELECT count() AS n, min(first_seen) AS a, max(last_seen) AS z FROM visitor_profile FINAL"
    )
    assert people == [{"n": 50, "a": moment(START_MS), "z": moment(START_MS + (41 * size - 1) * 1000)}]
    await warehouse.aclose()
    server.stop()


# --- questions -------------------------------------------------------------------------------------


async def test_the_newest_offset_counts_dead_letters(warehouse: Warehouse) -> None:
    blocks = Blocks(warehouse)
    for topic in (event.EVENTS, event.ENGAGEMENTS, event.REJECTED):
        assert await blocks.newest((topic, 0)) is None
    await blocks.insert(event.EVENTS, block(0, 4), token="a")
    dead = event.Rejection(received_ms=START_MS, reason="bad_record", step="load", topic=event.EVENTS)
    await blocks.insert_dead(spliced(5, dead) + b"\n" + spliced(9, dead, partition=1), token="b")
    own = event.Rejection(received_ms=START_MS, reason="bad_json", step="collect")
    await blocks.insert(event.REJECTED, spliced(3, own), token="c")
    assert await blocks.newest((event.EVENTS, 0)) == 5
    assert await blocks.newest((event.EVENTS, 1)) == 9
    assert await blocks.newest((event.REJECTED, 0)) == 3
    assert await blocks.newest((event.ENGAGEMENTS, 0)) is None


async def test_event_ids_present(warehouse: Warehouse) -> None:
    await Blocks(warehouse).insert(event.EVENTS, rows(an_event(1), an_event(2), an_event(1)), token="a")
    found = await queries.event_ids_present(1, ["e1", "e2", "e3", "it's"]).rows(warehouse)
    assert {row["event_id"]: row["events"] for row in found} == {"e1": 1, "e2": 1}
    (newest,) = await queries.newest_received().rows(warehouse)
    assert newest["received_ms"] == START_MS + 2500


async def test_engagements_are_present_and_count_once_too(warehouse: Warehouse) -> None:
    first, second = (
        event.Engagement(site_id=1, action="save", event_id=f"g{n}", time=START_MS, received_ms=START_MS, visitor_id=n)
        for n in range(2)
    )
    await Blocks(warehouse).insert(event.ENGAGEMENTS, rows(first), token="a")
    await Blocks(warehouse).insert(event.EVENTS, rows(an_event(2)), token="b")
    found = await queries.event_ids_present(1, ["g0", "g1", "e2", "e3"]).rows(warehouse)
    assert {row["event_id"]: row["events"] for row in found} == {"g0": 1, "e2": 1}
    assert (await queries.duplicates().rows(warehouse))[0]["n"] == 0
    await Blocks(warehouse).insert(event.ENGAGEMENTS, rows(second), token="c")  # where the first one is
    assert (await queries.duplicates().rows(warehouse))[0]["n"] == 1


# --- what the views make of it ---------------------------------------------------------------------


async def test_profile_of_a_visitor(warehouse: Warehouse) -> None:
    t = START_MS
    item = event.LineItem(product_id="p1", product_price=5.0)
    seen = [
        an_event(1, event="page_visit", time=t + 1000, visitor_id=5, em=EM, epik="k1"),
        an_event(2, event="add_to_cart", time=t + 2000, visitor_id=5, em="", epik=""),
        an_event(3, event="initiate_checkout", time=t + 3000, visitor_id=5, em=OTHER_EM),
        an_event(4, event="checkout", time=t + 4000, visitor_id=5, em="", order_id="o1", value=12.5, line_items=[item]),
        an_event(5, event="checkout", time=t + 5000, visitor_id=5, em="", order_id="o1", value=12.5),
        an_event(6, event="checkout", time=t + 6000, visitor_id=5, em="", order_id="", value=0.5),
    ]
    await Blocks(warehouse).insert(event.EVENTS, rows(*seen), token="a")
    actions = [
        event.Engagement(site_id=1, action="save", event_id="s", time=t + 7000, received_ms=t, visitor_id=5),
        event.Engagement(site_id=1, action="click", event_id="c", time=t + 8000, received_ms=t, visitor_id=5),
        event.Engagement(site_id=1, action="like", event_id="l", time=t + 9000, received_ms=t, visitor_id=5, epik="k2"),
    ]
    await Blocks(warehouse).insert(event.ENGAGEMENTS, rows(*actions), token="b")
    got = await profile(warehouse, 5)
    columns = {
        "first_seen": 1000,
        "last_view": 1000,
        "last_cart": 2000,
        "last_checkout_started": 3000,
        "first_order": 4000,
        "last_order": 6000,
        "last_seen": 6000,
        "last_save": 7000,
        "last_click": 8000,
        "last_engage": 9000,
    }
    assert {name: got[name] for name in columns} == {name: moment(t + ms) for name, ms in columns.items()}
    assert got["em"][1] == bytes.fromhex(OTHER_EM)
    assert got["epik"][1] == "k2"
    assert len(got["orders"]) == 3  # tellings
    sql = f"SELECT {schema.orders('orders')} AS placed FROM visitor_profile FINAL WHERE visitor_id = 5"
    [folded] = await warehouse.select(sql)
    assert sorted(order[1] for order in folded["placed"]) == [Decimal("0.5"), Decimal("12.5")]
    assert len(got["bought"]) == 1


async def test_never_is_1970_for_last_and_far_away_for_first(warehouse: Warehouse) -> None:
    await Blocks(warehouse).insert(event.EVENTS, rows(an_event(1, visitor_id=5)), token="a")
    got = await profile(warehouse, 5)
    assert got["first_order"] == datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)
    assert {got[name] for name in ("last_cart", "last_order", "last_engage", "last_save")} == {
        datetime(1970, 1, 1, tzinfo=UTC)
    }


@pytest.mark.parametrize(
    ("words", "consent"),
    [
        ([("yes", 0, 0)], 1),
        ([("unknown", 0, 0)], 0),
        ([("yes", 0, 0), ("unknown", 1, 1)], 1),
        ([("yes", 0, 0), ("no", 0, 1)], 2),
        ([("no", 0, 0), ("yes", 1, 1)], 1),
        ([("yes", 3_600_000, 0), ("withdrawn", 0, 1)], 2),  # a client's clock that is ahead does not help a yes
        ([("withdrawn", 0, 0), ("yes", 3_600_000, 1)], 1),
        ([("yes", 5, 5), ("withdrawn", 0, 5)], 2),  # a no wins a tie
        ([("withdrawn", 5, 5), ("yes", 5, 9)], 2),
        ([("withdrawn", 0, 5), ("yes", 6, 6)], 1),
        ([("withdrawn", 0, 5), ("yes", 4, 60_000)], 2),  # an event from before, kept back on the way
        ([("withdrawn", -60_000, 5), ("yes", 4, 4)], 2),  # a no counts from when we heard of it
    ],
)
async def test_the_last_word_on_consent_counts(
    warehouse: Warehouse, words: list[tuple[str, int, int]], consent: int
) -> None:
    for order in (words, words[::-1]):
        said = [
            an_event(
                number,
                event="consent_withdrawn" if word == "withdrawn" else "page_visit",
                consent="unknown" if word == "withdrawn" else word,
                time=START_MS + said_ms,
                received_ms=START_MS + at_ms,
                visitor_id=5,
            )
            for number, (word, said_ms, at_ms) in enumerate(order)
        ]
        for record in said:
            await Blocks(warehouse).insert(event.EVENTS, rows(record), token=f"{order} {record.event_id}")
        assert (await profile(warehouse, 5))["consent"] % 4 == consent
        await warehouse.command("TRUNCATE TABLE visitor_profile")


async def test_a_withdrawal_changes_nothing_but_consent(warehouse: Warehouse) -> None:
    t = START_MS
    gone = an_event(2, event="consent_withdrawn", time=t + 60_000, visitor_id=5, em=EM, epik="k", consent="no")
    await Blocks(warehouse).insert(event.EVENTS, rows(gone), token="a")
    got = await profile(warehouse, 5)
    assert (got["first_seen"].year, got["last_seen"].year, got["em"][1], got["epik"][1]) == (2106, 1970, bytes(32), "")
    assert got["consent"] % 4 == 2


async def test_a_withdrawal_with_hashes_leads_to_its_person(warehouse: Warehouse) -> None:
    gone = an_event(2, event="consent_withdrawn", visitor_id=5, em=EM, external_id=OTHER_EM, consent="no")
    nobody = an_event(3, event="consent_withdrawn", visitor_id=6, em="", consent="no")
    await Blocks(warehouse).insert(event.EVENTS, rows(gone, nobody), token="a")
    got = await warehouse.select("SELECT id_type, lower(hex(id_value)) AS id, visitor_id FROM identity ORDER BY 1")
    assert [tuple(row.values()) for row in got] == [("em", EM, 5), ("external_id", OTHER_EM, 5)]


async def test_nobody_is_in_neither_profile_nor_identity(warehouse: Warehouse) -> None:
    await Blocks(warehouse).insert(event.EVENTS, rows(an_event(1, visitor_id=0, em=EM)), token="a")
    found = await state(warehouse)
    assert found["visitor_profile"][0] == found["identity"][0] == 0
    assert found["event_minute"] == (1, 1)


async def test_identity_pairs_every_identifier_with_its_visitors(warehouse: Warehouse) -> None:
    known = [
        an_event(1, visitor_id=5, em=EM, epik="k", external_id=OTHER_EM, ph=OTHER_EM),
        an_event(9, visitor_id=5, em=EM),
        an_event(3, visitor_id=6, em=EM),
    ]
    await Blocks(warehouse).insert(event.EVENTS, rows(*known), token="a")
    got = await warehouse.select(
        "SELECT id_type, if(id_type = 'epik', id_value, lower(hex(id_value))) AS id, visitor_id, first_seen, last_seen "
        "FROM identity FINAL ORDER BY id_type, visitor_id"
    )
    t1, t3, t9 = (moment(START_MS + n * 1000) for n in (1, 3, 9))
    assert [tuple(row.values()) for row in got] == [
        ("em", EM, 5, t1, t9),
        ("em", EM, 6, t3, t3),
        ("epik", "k", 5, t1, t1),
        ("external_id", OTHER_EM, 5, t1, t1),
        ("ph", OTHER_EM, 5, t1, t1),
    ]
