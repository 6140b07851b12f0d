"""Questions about records, each a named SELECT with typed parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse


class Query(Struct, frozen=True):
    """A SELECT and what fills its `{name:Type}`."""

    sql: str
    params: dict[str, Any]

    async def rows(self, warehouse: Warehouse) -> list[dict[str, Any]]:
        """Ask `warehouse`."""
        return await warehouse.select(self.sql, self.params)


async def newest_offset(warehouse: Warehouse, topic: str, partition: int, *, since_ms: int = 0) -> int | None:
    """The highest offset of a partition that was applied, dead letters included; None if there is none.

    Rows received before `since_ms` do not count.
    """
    table = schema.TABLE_OF_TOPIC[topic]
    own = " AND topic = ''" if table == "rejected" else ""
    since = "k_partition = {partition:UInt16} AND received_at >= fromUnixTimestamp64Milli({since:Int64})"
    rows = f"SELECT k_offset FROM {table} WHERE {since}{own}"
    dead = f"SELECT k_offset FROM rejected WHERE {since} AND topic = {{topic:String}}"
    query = Query(
        f"SELECT maxOrNull(k_offset) AS newest FROM ({rows} UNION ALL {dead})",
        {"partition": partition, "topic": topic, "since": since_ms},
    )
    newest: int | None = (await query.rows(warehouse))[0]["newest"]
    return newest


async def knows_nothing(warehouse: Warehouse) -> bool:
    """Whether no event ever came in, as in a warehouse that is new: those whose rows are deleted by now count too."""
    tables = ("events", "event_minute", "visitor_profile")
    some = " UNION ALL ".join(f"SELECT 1 FROM (SELECT 1 FROM {table} LIMIT 1)" for table in tables)
    return not await Query(some, {}).rows(warehouse)


def record_counts(table: str) -> Query:
    """A row a partition: `partition`, `records`, `distinct_records`. The two differ if a record was applied twice.

    Of events that share their id only one row may be left (ReplacingMergeTree): `event_minute` counts every record.
    """
    return Query(
        "SELECT k_partition AS partition, count() AS records, uniqExact(k_partition, k_offset) AS distinct_records "
        f"FROM {table} GROUP BY partition ORDER BY partition",
        {},
    )


def event_ids_present(site_id: int, event_ids: Sequence[str]) -> Query:
    """A row an id that is there: `event_id`, `events`: how many events and engagements have it; one, or duplicates."""
    there = " UNION ALL ".join(
        f"SELECT event_id FROM {table} FINAL WHERE site_id = {{site:UInt32}} AND event_id IN {{ids:Array(String)}}"
        for table in ("events", "engagements")
    )
    return Query(
        f"SELECT event_id, count() AS events FROM ({there}) GROUP BY event_id",
        {"site": site_id, "ids": list(event_ids)},
    )


def newest_received() -> Query:
    """One row, `received_ms`: when the newest event was received, ms since 1970; None if there is none."""
    return Query("SELECT toUnixTimestamp64Milli(maxOrNull(received_at)) AS received_ms FROM events", {})


def duplicates() -> Query:
    """One row, `n`: events and engagements that count more than once, plus log positions that were loaded more than
    once."""
    counts = [
        f"SELECT count() AS n FROM {rows} GROUP BY {key}"
        for table, name in (("events", "event_name"), ("engagements", "action"))
        for rows, key in ((f"{table} FINAL", f"site_id, {name}, event_id"), (table, "k_partition, k_offset"))
    ]
    return Query(f"SELECT sum(n - 1) AS n FROM ({' UNION ALL '.join(counts)})", {})


def refused_lately() -> Query:
    """A row a reason, most frequent first: `reason`, `n`: how often `collect` refused an event within the last hour."""
    return Query(
        "SELECT reason, count() AS n FROM rejected WHERE received_at > now64(3) - INTERVAL 1 HOUR "
        "GROUP BY reason ORDER BY n DESC LIMIT 5",
        {},
    )
