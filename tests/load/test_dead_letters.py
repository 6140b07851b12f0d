"""Of every topic, what loads and what never will is there afterwards: none of it lost, none of it twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinstream.event import ENGAGEMENTS, EVENTS, REJECTED, Engagement, Event, Rejection, encode
from pinstream.eventlog.contract import Record
from pinstream.eventlog.journal import JournalLog
from pinstream.load.loop import Loader
from pinstream.settings import Load, Log
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse
from tests.load.loading import load_until

NOW_MS = 1_795_291_391_000
GOOD = {
    EVENTS: [
        encode(Event(event="lead", event_id=f"{n}", time=NOW_MS, site_id=1, received_ms=NOW_MS)) for n in range(3)
    ],
    ENGAGEMENTS: [
        encode(Engagement(action="save", event_id=f"{n}", time=NOW_MS, site_id=1, received_ms=NOW_MS)) for n in range(3)
    ],
    REJECTED: [encode(Rejection(received_ms=NOW_MS, reason="too_long", step="collect", site_id=n)) for n in range(3)],
}


@pytest.mark.parametrize("topic", GOOD)
async def test_a_block_of_good_and_bad_records(topic: str, tmp_path: Path, warehouse: Warehouse) -> None:
    log = JournalLog(tmp_path / "journal", Log())
    appender = await log.appender()
    await appender.append([Record(topic, 1, value) for value in (b"{}", *GOOD[topic], b'{"no":1}')])
    await appender.aclose()
    good = f"FROM {schema.TABLE_OF_TOPIC[topic]}" + " WHERE reason = 'too_long'" * (topic == REJECTED)
    sql = f"SELECT (SELECT count() {good}) AS good, (SELECT count() FROM rejected WHERE reason = 'bad_record') AS dead"
    wanted = {"good": 3, "dead": 2}
    loader = Loader(log, warehouse, Load(), b"key")

    async def done() -> bool:
        return await warehouse.select(sql) == [wanted]

    await load_until(loader, done, timeout_s=30)
