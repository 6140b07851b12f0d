"""Both ends of the way: what the users' file says was accepted, and what ClickHouse holds of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from pinstream.clock import now_ms
from pinstream.errors import PinstreamError
from pinstream.supervisor import Emit
from pinstream.warehouse import queries
from pinstream.warehouse.client import Warehouse

SETTLE_S: Final = 60.0
"""After the users have gone: how long the last events may take to reach ClickHouse."""
LINGER_S: Final = 2.0
"""And then: what comes twice comes late."""
WATCH_S: Final = 0.1
SAY_S: Final = 4.0
IDS_AT_ONCE: Final = 5000


class Accepted:
    """What the users' file says was accepted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answered_ms: dict[str, dict[str, int]] = {"events": {}, "engagements": {}}
        """Table -> event id -> when its answer came."""
        self._offset = 0

    def read(self) -> None:
        """Read on. A line that is not whole yet is left for the next time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        self._offset += len(whole) + bool(whole)
        for line in whole.decode().splitlines():
            table, at_ms, event_id = line.split(" ")
            self.answered_ms[table][event_id] = int(at_ms)

    def __len__(self) -> int:
        return sum(map(len, self.answered_ms.values()))


_NEW: Final = " UNION ALL ".join(
    f"SELECT '{table}' AS table, event_id, k_partition, k_offset FROM {table} "
    f"WHERE k_offset >= {{{table}:Array(UInt64)}}[k_partition + 1]"
    for table in ("events", "engagements")
)


class Watch:
    """Looks at ClickHouse and at the users' file, all the time."""

    def __init__(self, warehouse: Warehouse, partitions: int, accepted: Path) -> None:
        self.accepted = Accepted(accepted)
        self.seen_ms: dict[str, dict[str, int]] = {"events": {}, "engagements": {}}
        """Table -> event id -> when a SELECT first found it."""
        self._warehouse = warehouse
        self._next = {table: [0] * partitions for table in self.seen_ms}

    @asynccontextmanager
    async def watching(self, say: Emit) -> AsyncIterator[None]:
        """Watch while the block runs, and say every SAY_S what is happening."""
        tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._tell(say))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self, withdrawn: int) -> None:
        """Wait until all that was accepted, and the withdrawals beside it, has been seen, SETTLE_S at most."""
        deadline = time.monotonic() + SETTLE_S
        self.accepted.read()
        wanted = len(self.accepted.answered_ms["events"]) + withdrawn
        while (self.missing() or len(self.seen_ms["events"]) < wanted) and time.monotonic() < deadline:
            await asyncio.sleep(WATCH_S)
        await asyncio.sleep(LINGER_S)

    def missing(self) -> int:
        """How much was accepted and not seen yet."""
        return sum(len(ids.keys() - self.seen_ms[table].keys()) for table, ids in self.accepted.answered_ms.items())

    def freshness_ms(self) -> list[int]:
        """For each event: from its answer until it was seen, sorted. 0 where it was seen first."""
        return sorted(
            max(0, seen - answered[event_id])
            for table, answered in self.accepted.answered_ms.items()
            for event_id, seen in self.seen_ms[table].items()
            if event_id in answered
        )

    async def _look(self) -> None:
        while True:
            with suppress(PinstreamError):
                rows = await self._warehouse.select(_NEW, self._next)
                at_ms = now_ms()
                for row in rows:
                    self.seen_ms[row["table"]].setdefault(row["event_id"], at_ms)
                    after = self._next[row["table"]]
                    after[row["k_partition"]] = max(after[row["k_partition"]], row["k_offset"] + 1)
            await asyncio.sleep(WATCH_S)

    async def _tell(self, say: Emit) -> None:
        while True:
            await asyncio.sleep(SAY_S)
            self.accepted.read()
            say("loadtest", f"{len(self.accepted)} accepted, {self.missing()} of them not in ClickHouse yet")


# --- the truth ---------------------------------------------------------------------------------------


class Arrived(Struct, frozen=True):
    """What ClickHouse holds of one table."""

    found: int
    """Accepted ids that are there."""
    events: int
    """Everything that counts."""
    records: int
    """Records that were applied, by the table's own account."""
    doubled: int
    """Ids that count more than once, and positions that are there more than once."""


async def arrived(warehouse: Warehouse, site_id: int, table: str, ids: Collection[str]) -> Arrived:
    """Ask ClickHouse for the accepted `ids` of a table, and for everything else in it."""
    wanted, found = sorted(ids), 0
    present = queries.event_ids_present if table == "events" else _engagement_ids_present
    for start in range(0, len(wanted), IDS_AT_ONCE):
        found += len(await present(site_id, wanted[start : start + IDS_AT_ONCE]).rows(warehouse))
    name = "event_name" if table == "events" else "action"
    doubled = (
        f"SELECT sum(n - 1) AS n FROM (SELECT count() AS n FROM {table} FINAL GROUP BY site_id, {name}, event_id "
        f"UNION ALL SELECT count() AS n FROM {table} GROUP BY k_partition, k_offset)"
    )
    records = "SELECT sum(n) AS n FROM event_minute" if table == "events" else f"SELECT count() AS n FROM {table}"
    events = f"SELECT count() AS n FROM {table} FINAL"
    answers = [await warehouse.select(sql) for sql in (events, records, doubled)]
    return Arrived(found, *(int(rows[0]["n"] or 0) for rows in answers))


def _engagement_ids_present(site_id: int, event_ids: Sequence[str]) -> queries.Query:
    return queries.Query(
        "SELECT event_id, count() AS events FROM engagements FINAL "
        "WHERE site_id = {site:UInt32} AND event_id IN {ids:Array(String)} GROUP BY event_id",
        {"site": site_id, "ids": list(event_ids)},
    )


class Judgement(Struct, frozen=True):
    """Both ends compared."""

    found: int
    lost: int
    doubled: int
    strange: int
    """Events in ClickHouse that nobody was told of."""


def judge(ledger: Mapping[str, Any], accepted: Mapping[str, int], arrived: Mapping[str, Arrived]) -> Judgement:
    """Compare what was accepted of each table with what arrived.

    Each event is one record, and so is each withdrawal that was noted beside events. An event that was sent twice, or
    whose answer nobody heard, may be a record more.
    """
    lost, doubled, strange = 0, 0, 0
    unsure = ledger["resent"] + ledger["unanswered"]
    for table, there in arrived.items():
        sure = accepted[table] + (ledger["withdrawn"] if table == "events" else 0)
        lost += max(accepted[table] - there.found, sure - there.records)
        doubled += max(there.doubled, there.records - sure - unsure)
        strange += max(0, there.events - sure - ledger["unanswered"])
    return Judgement(sum(there.found for there in arrived.values()), lost, doubled, strange)
