"""Rollups, the tables that views feed, and how one is built anew beside itself: its parts in ClickHouse.

When to do what, so that `load` may go on, is decided in load/rebuild.py; why it is exact, in
docs/decisions/0010-a-rollup-is-rebuilt-beside-itself.md. Two tables may be there beside a rollup `t`: `t__next`,
which is being filled, and `t__ready`, which is complete: from then on there is no way back.

A rollup's table and its views stand in one migration, as `CREATE ... IF NOT EXISTS`; a later migration that changes
one of them states it anew in full.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from typing import Any, Final, NamedTuple

from pinstream.errors import Misconfigured
from pinstream.settings import Warehouse as Settings
from pinstream.warehouse import flips, migrate, schema
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.flips import Flip

SLICE_ROWS: Final = 500_000
"""Rows of a source that one INSERT ... SELECT of a backfill reads; a day that has more is cut by visitor."""
KEPT_DAYS: Final = 400
"""Events and engagements are deleted after these days."""
ONE_BLOCK: Final[dict[str, Any]] = {
    # The token covers a block, so what one statement inserts must be one block: a repeated one is then dropped whole.
    "max_threads": 1,
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 10_000_000,
    "min_insert_block_size_bytes": 1 << 30,
    "insert_deduplicate": 1,
}

_VIEW: Final = re.compile(
    r"CREATE MATERIALIZED VIEW IF NOT EXISTS ((\w+)_from_(\w+))_v\d+(?: ON CLUSTER \S+)? TO \2 AS\s+(.*)", re.DOTALL
)
_TABLE: Final = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)\b")

StillOurs = Callable[[], Awaitable[None]]


class View(NamedTuple):
    """What feeds a rollup from one source."""

    name: str
    """Without its version."""
    source: str
    statement: str
    """That creates it, for one version."""
    select: str


class Slice(NamedTuple):
    """What one statement of a backfill reads: rows of a view's source with `first` <= rollup_version < `end`."""

    view: View
    day: date
    first: int
    end: int
    part: int
    parts: int
    rows: int

    @property
    def token(self) -> str:
        """Of the insert: the same slice is inserted once, however often it is tried."""
        cut = f":{self.part}/{self.parts}" if self.parts > 1 else ""
        return f"backfill:{self.view.name}:{self.day}:{self.first}-{self.end}{cut}"


def names() -> list[str]:
    """Every rollup that can be built anew."""
    return sorted({match[2] for statement in _statements(Settings(), 1) if (match := _VIEW.match(statement))})


def views(settings: Settings, rollup: str, version: int) -> list[View]:
    """What feeds `rollup`, each view counting from `version` on. Raises Misconfigured if there is no such rollup."""
    found = {
        match[1]: View(match[1], match[3], statement, match[4])
        for statement in _statements(settings, version)
        if (match := _VIEW.match(statement)) and match[2] == rollup
    }
    if not found:
        raise Misconfigured(f"There is no rollup {rollup!r}. There are {', '.join(names())}.")
    return list(found.values())


def _statements(settings: Settings, version: int) -> list[str]:
    return [each for step in migrate.steps(settings, version=version) for each in step.statements]


async def outlived(warehouse: Warehouse, rollup: str) -> int:
    """How many rows hold a time from before the days for which events are kept: a rebuild would forget it."""
    columns = await warehouse.select(
        "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {rollup:String} "
        "AND match(type, '^SimpleAggregateFunction\\\\(m(in|ax), DateTime')",
        {"rollup": rollup},
    )
    if not columns:
        return 0
    times = ", ".join(row["name"] for row in columns)
    [row] = await warehouse.select(
        f"SELECT count() AS n FROM {rollup} FINAL "  # noqa: S608  our own names
        f"WHERE arrayExists(at -> toUnixTimestamp(at) > 0 AND at < now() - INTERVAL {KEPT_DAYS} DAY, [{times}])"
    )
    return int(row["n"])


# --- building beside ---------------------------------------------------------------------------------


async def begin(warehouse: Warehouse, rollup: str) -> None:
    """An empty `<rollup>__next`, as this program defines the rollup."""
    settings = warehouse.settings
    statement = [each for each in _statements(settings, 1) if (m := _TABLE.match(each)) and m[1] == rollup][-1]
    await _drop(warehouse, f"{rollup}__next")
    await warehouse.command(_TABLE.sub(f"CREATE TABLE {rollup}__next", statement, count=1))


async def slices(warehouse: Warehouse, rollup: str, first: int, end: int) -> AsyncIterator[Slice]:
    """The backfill of the rows with `first` <= rollup_version < `end`, the oldest day first."""
    for view in views(warehouse.settings, rollup, first):
        days = await warehouse.select(
            f"SELECT toDate(event_time, 'UTC') AS day, count() AS n FROM {view.source} "  # noqa: S608  our own name
            "WHERE rollup_version >= {first:UInt16} AND rollup_version < {end:UInt16} GROUP BY day ORDER BY day",
            {"first": first, "end": end},
        )
        for row in days:
            parts = -(-row["n"] // SLICE_ROWS)
            for part in range(parts):
                yield Slice(view, row["day"], first, end, part, parts, row["n"] // parts)


async def fill(warehouse: Warehouse, rollup: str, piece: Slice) -> None:
    """Insert one slice into `<rollup>__next`. Repeating it changes nothing."""
    wanted = (
        "rollup_version >= {first:UInt16} AND rollup_version < {end:UInt16} "
        "AND event_time >= toDateTime64({day:Date}, 3, 'UTC') AND event_time < toDateTime64({day:Date} + 1, 3, 'UTC') "
        "AND visitor_id % {parts:UInt32} = {part:UInt32}"
    )
    filters = f"rollup_version >= {piece.first}"
    select = piece.view.select.replace(filters, wanted)
    params = {"first": piece.first, "end": piece.end, "day": piece.day, "parts": piece.parts, "part": piece.part}
    columns = ", ".join(row["name"] for row in await warehouse.select(f"DESCRIBE TABLE ({select})", params))
    await warehouse.command(
        f"INSERT INTO {rollup}__next ({columns}) {select}",
        params,
        {**ONE_BLOCK, "insert_deduplication_token": piece.token},
    )


async def table_uuid(warehouse: Warehouse, table: str) -> str:
    """The table behind a name, whatever it is called; empty if there is none."""
    rows = await warehouse.select(
        "SELECT toString(uuid) AS uuid FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
        {"name": table},
    )
    return str(rows[0]["uuid"]) if rows else ""


# --- taking its place: only while nothing is loaded --------------------------------------------------


async def decide(warehouse: Warehouse, rollup: str) -> None:
    """`<rollup>__next` is complete. Fails if another process has given the rebuild up meanwhile."""
    await warehouse.command(f"RENAME TABLE {rollup}__next TO {rollup}__ready{schema.on_cluster(warehouse.settings)}")


async def finish(warehouse: Warehouse, rollup: str, still_ours: StillOurs) -> None:
    """Let `<rollup>__ready` take the place of `rollup`, then let `load` go on. May be repeated after any fault.

    The old views go first: an insert of a loader that was long asleep would find the new table under their names.
    """
    settings, now = warehouse.settings, await flips.latest(warehouse)
    _, next_uuid = await flips.held(warehouse)
    for view in await _views_of(warehouse, rollup):
        if int(view.rpartition("_v")[2]) < now.version:
            await still_ours()
            await _drop(warehouse, view)
    if await table_uuid(warehouse, rollup) != next_uuid:
        await still_ours()
        await warehouse.command(f"EXCHANGE TABLES {rollup} AND {rollup}__ready{schema.on_cluster(settings)}")
    for each in views(settings, rollup, now.version):
        await still_ours()
        await warehouse.command(each.statement)
    await flips.flip(warehouse, Flip(now.version, True), rollup=rollup)
    await _drop(warehouse, f"{rollup}__ready")


async def recover(warehouse: Warehouse, still_ours: StillOurs) -> str:
    """Finish a rebuild that was cut off behind the point of no return, give up one that was cut off before.

    Returns:
        What was done, as a sentence; empty: there was nothing to do.
    """
    beside = await warehouse.select(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND match(name, '__(next|ready)$')"
    )
    now = await flips.latest(warehouse)
    for name in sorted(row["name"] for row in beside):
        rollup, _, state = name.rpartition("__")
        await still_ours()
        if state == "ready" and not now.open:
            await finish(warehouse, rollup, still_ours)
            return f"The rebuild of {rollup} that was cut off is finished."
        await _drop(warehouse, name)
    if not now.open:
        await flips.flip(warehouse, Flip(now.version, True))
        return "The rebuild that was cut off is given up; nothing has changed."
    return ""


async def _views_of(warehouse: Warehouse, rollup: str) -> list[str]:
    rows = await warehouse.select(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'MaterializedView' "
        "AND match(name, {pattern:String}) ORDER BY name",
        {"pattern": f"^{rollup}_from_[a-z_]+_v[0-9]+$"},
    )
    return [row["name"] for row in rows]


async def _drop(warehouse: Warehouse, table: str) -> None:
    await warehouse.command(f"DROP TABLE IF EXISTS {table}{schema.on_cluster(warehouse.settings)} SYNC")
