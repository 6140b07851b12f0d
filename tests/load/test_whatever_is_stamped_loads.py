"""The promise between the two ends: what the edge lets through loads as its own bytes, and reads back equal."""

from __future__ import annotations

import json
import os
from itertools import count
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pinstream.collect.intake import take
from pinstream.collect.stamp import Context
from pinstream.collect.wire import parse
from pinstream.event import EVENTS, Event
from pinstream.eventlog.contract import Intent, Partition, Stored
from pinstream.load import batch, deadletter
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse
from tests.collect.test_fuzz import VISITOR, contexts, event_fields
from tests.warehouse.test_schema import comparable

Request = tuple[list[dict[str, Any]], Context]


numbers = count()


def records(requests: list[Request]) -> list[bytes]:
    """What the edge would append for these requests, each event with an id of its own: equal ones are one row."""
    values: list[bytes] = []
    for events, context in requests:
        named = [each | {"event_id": f"{next(numbers)} {each.get('event_id', '')}"[:256]} for each in events]
        body = {"site": "1", "consent": "yes", "visitor_id": VISITOR, "user": {"em": "a@b.de"}, "events": named}
        found = take(parse("application/json", json.dumps(body).encode()), context, os.urandom)
        values += [record.value for record in found.records]
    return values


async def test_any_event_that_is_stamped_loads_and_reads_back_equal(warehouse: Warehouse) -> None:
    blocks: list[list[bytes]] = []

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.tuples(st.lists(event_fields, min_size=1, max_size=8), contexts), min_size=1, max_size=4))
    def generate(requests: list[Request]) -> None:
        blocks.append(records(requests))

    generate()
    offsets = count()
    expected: dict[int, Any] = {}
    for values in filter(None, blocks):
        check = deadletter.CHECKS[EVENTS]
        stored = [Stored(next(offsets), value, 1) for value in values]
        judged = batch.judge(stored, check)
        intent = Intent(last=stored[-1].offset, rollup_version=schema.ROLLUP_VERSION, format=deadletter.FORMAT)
        block = batch.build(Partition(EVENTS, 0), judged, intent, b"key")
        assert (block.good, block.bad) == (len(values), 0)
        await warehouse.insert("events", schema.insert_columns("events"), block.rows, token=block.token)
        expected |= {each.offset: comparable(msgspec.json.decode(each.value, type=Event)) for each in stored}
    assert len(expected) > 40

    sql = f"SELECT {schema.read_back('events')} FROM events ORDER BY k_offset"
    back = [comparable(schema.record("events", line)) for line in (await warehouse.select_bytes(sql)).splitlines()]
    assert back == [expected[offset] for offset in sorted(expected)]
