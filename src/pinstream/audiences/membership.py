"""Who should be in an audience, who Pinterest has, and the difference: all worked out inside ClickHouse.

`audience_desired` holds what a run wants, for as long as the run compares; `audience_member` what Pinterest has
accepted, and is written after each accepted chunk only.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from pinstream.audiences.compile import Query
from pinstream.errors import WarehouseError
from pinstream.state.runs import MEMBER_BYTES, Chunk, Operation, Run
from pinstream.warehouse.client import Warehouse

logger = logging.getLogger(__name__)

CHUNKS_A_PAGE: Final = 50
"""Of a difference, fetched at a time: bounds memory to a few MB."""

MAX_LISTED: Final = 10_000
"""Audiences of which the latest sync is told."""

_SNAPSHOT: Final = """FROM audience_desired FINAL
  WHERE site_id = {site:UInt32} AND audience_id = {audience:UInt32} AND run_id = {run:UInt64}"""
_SIDES: Final = f"""
SELECT em, toUInt8(wanted.side + member.side) AS sides
FROM (SELECT em, toUInt8(1) AS side {_SNAPSHOT}) AS wanted
FULL OUTER JOIN (
  SELECT em, toUInt8(2) AS side FROM audience_member FINAL
  WHERE site_id = {{site:UInt32}} AND audience_id = {{audience:UInt32}} AND state = 1) AS member USING (em)
SETTINGS join_algorithm = 'full_sorting_merge', join_use_nulls = 0
"""  # noqa: S608 - constants
"""`sides`: 1 = wanted only, 2 = member only, 3 = both. A snapshot written twice changes nothing.

Both tables are sorted by the hash, so they are merged as they are read: less than half of what grouping them costs.
"""

_SIDE: Final[dict[Operation, int]] = {"ADD": 1, "REMOVE": 2}
_ROW_BYTES: Final = 1 + MEMBER_BYTES
"""A row of a difference as RowBinary: its side, its hash."""


class Target(Struct, frozen=True, kw_only=True):
    """What a run works on."""

    site_id: int
    audience_id: int
    run_id: int

    def params(self) -> dict[str, Any]:
        """Its ids, as bound parameters."""
        return {"site": self.site_id, "audience": self.audience_id, "run": self.run_id}

    def token(self) -> str:
        """The beginning of its deduplication tokens."""
        return f"{self.site_id}:{self.audience_id}"


class Counts(Struct, frozen=True, kw_only=True):
    """How wanted and actual members compare."""

    desired: int
    members: int
    adds: int
    removes: int

    def disabled(self, asked: int) -> Counts:
        """The same while the audience is disabled: nobody comes in, and only those `asked` who want it go."""
        return Counts(desired=self.members - asked, members=self.members, adds=0, removes=asked)


@asynccontextmanager
async def desired(warehouse: Warehouse, target: Target, wanted: Query | None) -> AsyncIterator[None]:
    """Keep the people of `wanted` in `audience_desired` while the block runs: one moment's answer for all its queries.

    `wanted`: as of `compile.members`; None: nobody.

    What killed runs of this audience left there is thrown away first, also under this run's own id: the ids of a
    state database that was restored come again.
    """
    await _drop_left(warehouse, target)
    try:
        if wanted:
            sql = (
                "INSERT INTO audience_desired (site_id, audience_id, run_id, em, full_set) "  # noqa: S608 - constants of compile.py; values are bound
                "SELECT {site:UInt32} AS site_id, {audience:UInt32} AS audience_id, {run:UInt64} AS run_id, em, "
                f"full_set FROM ({wanted.sql})"
            )
            await warehouse.command(sql, wanted.params | target.params())
        yield
    finally:
        try:
            await _drop(warehouse, target.audience_id, target.run_id)
        except WarehouseError as exc:  # the next run throws it away
            logger.warning("The snapshot of run %d stays for now: %s", target.run_id, exc)


async def counts(warehouse: Warehouse, target: Target) -> Counts:
    """Compare wanted and actual members."""
    sql = (
        "SELECT countIf(bitTest(sides, 0)) AS desired, countIf(bitTest(sides, 1)) AS members, "  # noqa: S608
        f"countIf(sides = 1) AS adds, countIf(sides = 2) AS removes FROM ({_SIDES})"
    )
    [row] = await warehouse.select(sql, target.params())
    return msgspec.convert(row, Counts)


async def count_full(warehouse: Warehouse, target: Target) -> int:
    """How many of the wanted people have a full set, so that the answer may be wrong about them."""
    [row] = await warehouse.select(f"SELECT countIf(full_set) AS n {_SNAPSHOT}", target.params())
    return int(row["n"])


async def compare(warehouse: Warehouse, target: Target, wanted: Query, withdrawn: Query) -> tuple[Counts, int]:
    """How the people of `wanted` and the members compare, and how many of the removals are in `withdrawn`.

    For looking only: nothing is kept, so the next question may get another answer.
    """
    sides = _SIDES.replace(_SNAPSHOT, f"FROM ({wanted.sql})")
    sql = (
        "SELECT countIf(bitTest(sides, 0)) AS desired, countIf(bitTest(sides, 1)) AS members, "  # noqa: S608
        f"countIf(sides = 1) AS adds, countIf(sides = 2) AS removes, "
        f"countIf(sides = 2 AND em IN ({withdrawn.sql})) AS withdrawn FROM ({sides})"
    )
    [row] = await warehouse.select(sql, target.params() | wanted.params | withdrawn.params)
    gone = int(row.pop("withdrawn"))
    return msgspec.convert(row, Counts), gone


async def count_removes(warehouse: Warehouse, target: Target, *, only: Query) -> int:
    """How many of the members to be removed are among `only`."""
    sql = f"SELECT count() AS n FROM ({_SIDES}) WHERE sides = 2 AND em IN ({only.sql})"  # noqa: S608
    [row] = await warehouse.select(sql, target.params() | only.params)
    return int(row["n"])


async def difference(
    warehouse: Warehouse, target: Target, chunk_members: int, *, removes_of: Query | None = None
) -> AsyncIterator[tuple[Operation, bytes]]:
    """Whom to remove, then whom to add, in order, as pages of hashes of 32 bytes each; one query a page.

    Every page but an operation's last holds a whole number of chunks. `removes_of`: only removals, of these people.
    """
    limit = chunk_members * CHUNKS_A_PAGE
    chunk_bytes = chunk_members * MEMBER_BYTES
    narrowed = f"AND em IN ({removes_of.sql})" if removes_of else ""
    sql = (
        f"SELECT sides, em FROM ({_SIDES}) WHERE sides {'= 2' if removes_of else '!= 3'} AND "  # noqa: S608
        "(sides < {side:UInt8} OR "
        f"(sides = {{side:UInt8}} AND em > toFixedString(unhex({{after:String}}), {MEMBER_BYTES}))) {narrowed} "
        "ORDER BY sides DESC, em LIMIT {limit:UInt32}"
    )
    params = target.params() | (removes_of.params if removes_of else {}) | {"limit": limit}
    side, after = _SIDE["REMOVE"], ""
    left: dict[Operation, bytes] = {"REMOVE": b"", "ADD": b""}
    while True:
        rows = await warehouse.select_bytes(sql, params | {"side": side, "after": after}, "RowBinary")
        last = len(rows) < limit * _ROW_BYTES
        side, after = (rows[-_ROW_BYTES], rows[-MEMBER_BYTES:].hex()) if rows else (side, after)
        for operation, found in _by_operation(rows).items():
            left[operation] += found
            over = last or (operation == "REMOVE" and side == _SIDE["ADD"])
            whole = len(left[operation]) if over else len(left[operation]) // chunk_bytes * chunk_bytes
            page, left[operation] = left[operation][:whole], left[operation][whole:]
            if page:
                yield operation, page
        if last:
            return


def _by_operation(rows: bytes) -> dict[Operation, bytes]:
    """The hashes of a page: removals stand before additions."""
    count = len(rows) // _ROW_BYTES
    removes = bisect.bisect_left(range(count), 1, key=lambda row: rows[row * _ROW_BYTES] == _SIDE["ADD"])
    ranges: dict[Operation, range] = {"REMOVE": range(removes), "ADD": range(removes, count)}
    return {
        operation: b"".join(rows[row * _ROW_BYTES + 1 : (row + 1) * _ROW_BYTES] for row in each)
        for operation, each in ranges.items()
    }


async def record(warehouse: Warehouse, target: Target, chunk: Chunk, acknowledged_ms: int) -> None:
    """Write down that Pinterest has accepted a chunk. Any number of times has the effect of one."""
    state = 1 if chunk.operation == "ADD" else 0
    fixed = {
        "site_id": target.site_id,
        "audience_id": target.audience_id,
        "state": state,
        "op_at": str(acknowledged_ms),
        "sync_id": chunk.sync_run_id,
        "chunk_id": chunk.key,
    }
    rows = [fixed | {"em_hex": member} for member in chunk.hexes()]
    await warehouse.insert(
        "audience_member", list(rows[0]), _lines(rows), token=f"{target.token()}:{chunk.key}@{acknowledged_ms}"
    )


async def forget(warehouse: Warehouse, target: Target, *, now_ms: int) -> None:
    """Write down that nobody is a member: the list that had them is not known any more."""
    sql = (
        "INSERT INTO audience_member (site_id, audience_id, em, state, op_at, sync_id, chunk_id) "
        "SELECT site_id, audience_id, em, 0, "
        "greatest(fromUnixTimestamp64Milli({now:Int64}, 'UTC'), op_at + toIntervalMillisecond(1)), "
        "{run:UInt64}, 'forgotten' FROM audience_member FINAL "
        "WHERE site_id = {site:UInt32} AND audience_id = {audience:UInt32} AND state = 1"
    )
    await warehouse.command(sql, target.params() | {"now": now_ms})


async def publish(warehouse: Warehouse, target: Target, name: str, run: Run, *, entered: int, left: int) -> None:
    """Copy a finished run of the audience `name` to `audience_run`, with the size and a fingerprint of what is in now.

    `entered`, `left`: as the ledger has them. What else the size has changed by since the run before, as after a list
    that was lost, is added: sizes and changes always add up.
    """
    sql = (
        "SELECT fingerprint_members FROM audience_run FINAL WHERE site_id = {site:UInt32} "
        "AND audience_id = {audience:UInt32} AND run_id < {run:UInt64} ORDER BY run_id DESC LIMIT 1"
    )
    before = sum([int(row["fingerprint_members"]) for row in await warehouse.select(sql, target.params())])
    sql = (
        "SELECT count() AS fingerprint_members, groupBitXor(sipHash64(em)) AS fingerprint FROM audience_member FINAL "
        "WHERE site_id = {site:UInt32} AND audience_id = {audience:UInt32} AND state = 1"
    )
    [found] = await warehouse.select(sql, target.params())
    lost = before + entered - left - int(found["fingerprint_members"])
    copied = ("connection_id", "status", "desired", "members", "adds", "removes", "held")
    row = {
        "site_id": target.site_id,
        "audience_id": target.audience_id,
        "run_id": run.id,
        "audience": name,
        "started_at": str(run.started_ms),
        "updated_at": str(run.finished_ms or run.started_ms),
        "error": run.detail,
        "entered": entered + max(-lost, 0),
        "left": left + max(lost, 0),
        **{name: getattr(run, name) for name in copied},
        **found,
    }
    await warehouse.insert(
        "audience_run", list(row), _lines([row]), token=f"{target.token()}:run{run.id}@{run.started_ms}:{run.status}"
    )


class Past(Struct, frozen=True, kw_only=True):
    """What a sync that went through left behind."""

    audience_id: int
    run_id: int
    at: datetime
    status: str
    """done, or held: removals wait for confirmation."""
    size: int
    """People in after it."""
    entered: int
    """Since the one before."""
    left: int
    held: int
    note: str


async def history(warehouse: Warehouse, target: Target, *, limit: int) -> list[Past]:
    """The latest syncs of an audience that went through, newest first."""
    which = "WHERE site_id = {site:UInt32} AND audience_id = {audience:UInt32} ORDER BY run_id DESC"
    return await _past(warehouse, which, target.params() | {"limit": limit})


async def latest(warehouse: Warehouse) -> dict[int, Past]:
    """Of each audience the latest sync that went through."""
    which = "ORDER BY audience_id, run_id DESC LIMIT 1 BY audience_id"
    return {past.audience_id: past for past in await _past(warehouse, which, {"limit": MAX_LISTED})}


async def _past(warehouse: Warehouse, which: str, params: dict[str, Any]) -> list[Past]:
    sql = (
        "SELECT audience_id, run_id, updated_at AS at, status, fingerprint_members AS size, entered, `left`, held, "  # noqa: S608
        f"error AS note FROM audience_run FINAL {which} LIMIT {{limit:UInt32}}"
    )
    return [msgspec.convert(row, Past) for row in await warehouse.select(sql, params)]


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return b"\n".join(map(msgspec.json.encode, rows))


async def _drop_left(warehouse: Warehouse, target: Target) -> None:
    sql = (
        "SELECT DISTINCT run_id FROM audience_desired "
        "WHERE site_id = {site:UInt32} AND audience_id = {audience:UInt32} AND run_id <= {run:UInt64}"
    )
    for row in await warehouse.select(sql, target.params()):
        await _drop(warehouse, target.audience_id, int(row["run_id"]))


async def _drop(warehouse: Warehouse, audience_id: int, run_id: int) -> None:
    await warehouse.command(f"ALTER TABLE audience_desired DROP PARTITION ({int(audience_id)}, {int(run_id)})")
