"""Brings the database's schema up to date: numbered SQL files, forward only, each run once.

`schema_migration` notes when a file's run began and ended, with a checksum of its text. A run that died in between
is run again: every statement can be repeated. Views that are new on a database in use count from the next rollup
version on, which is the last thing a run notes; what came before is counted by a rebuild (rollup.py).

One process migrates at a time: it holds a lock, which is a table, because creating a table is what ClickHouse does
atomically. A lock that nobody has renewed for LOCK_S is taken over by creating the next one; the old holder notices
before its next statement.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Final, Literal

from msgspec import Struct

from pinstream.errors import QueryFailed, SchemaBehind, WarehouseError
from pinstream.settings import Warehouse as Settings
from pinstream.warehouse import flips, schema
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.flips import Flip

logger = logging.getLogger(__name__)

LOCK_S: Final = 60.0
"""A lock not renewed for so long belongs to a dead process."""
RENEW_S: Final = 10.0
WAIT_S: Final = 300.0
"""How long to wait for another process that migrates."""

UNKNOWN_TABLE: Final = 60
TABLE_ALREADY_EXISTS: Final = 57
UNKNOWN_DATABASE: Final = 81

_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS schema_migration{on_cluster}
(
    number UInt32 COMMENT 'Number of the migration',
    name String COMMENT 'Its name',
    checksum String COMMENT 'SHA-256 of its text',
    state Enum8('started' = 1, 'finished' = 2) COMMENT 'What happened',
    at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When'
)
ENGINE = {engine MergeTree()} ORDER BY (number, at) SETTINGS {fsync}
COMMENT 'Which migrations ran'
"""
_FILE: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class Step(Struct, frozen=True, kw_only=True):
    """One migration."""

    number: int
    name: str
    state: Literal["applied", "pending"]
    statements: tuple[str, ...]
    checksum: str


def steps(settings: Settings, *, version: int = schema.ROLLUP_VERSION) -> list[Step]:
    """This program's migrations in order, all pending, for the mode of `settings`; their views count from `version`."""
    found = []
    for file in sorted(resources.files("pinstream.warehouse").joinpath("migrations").iterdir(), key=lambda f: f.name):
        match = _FILE.fullmatch(file.name)
        if match:
            text = file.read_text(encoding="utf-8")
            found.append(
                Step(
                    number=int(match[1]),
                    name=match[2],
                    state="pending",
                    statements=tuple(schema.statements(text, settings, version=version)),
                    checksum=hashlib.sha256(text.encode()).hexdigest(),
                )
            )
    return found


async def migrate(warehouse: Warehouse, settings: Settings, *, dry_run: bool = False) -> list[Step]:
    """Run what is missing; with `dry_run` only say what would run.

    Returns:
        All steps, in order; those that ran just now, or would, as `pending`.

    Raises:
        SchemaBehind: the database was migrated by a newer program, or a released migration was edited.
        WarehouseAway: it broke off; run it again.
        QueryFailed: ClickHouse refuses a statement; the step's number is in the message.
    """
    if dry_run:
        return await _compared(warehouse, settings)
    plan = await _compared(warehouse, settings)
    if all(step.state == "applied" for step in plan) and not await _version_to_flip_to(warehouse):
        return plan  # without the lock: a rebuild may have it, and wait for a load that is starting here
    await warehouse.create_database()
    for statement in schema.statements(_LEDGER, settings):
        await warehouse.command(statement)
    async with lock(warehouse) as still_ours:
        plan = await _compared(warehouse, settings)
        for step in plan:
            if step.state == "pending":
                await _run(warehouse, step, still_ours)
        await still_ours()
        if version := await _version_to_flip_to(warehouse):
            await flips.flip(warehouse, Flip(version, True))
    return plan


async def _version_to_flip_to(warehouse: Warehouse) -> int:
    """That from which the newest views count, which new records are to have; 0: they have it."""
    (newest,) = await warehouse.select(
        "SELECT max(toUInt16OrZero(extract(name, '_from_[a-z_]+_v([0-9]+)$'))) AS version FROM system.tables "
        "WHERE database = currentDatabase() AND engine = 'MaterializedView'"
    )
    return int(newest["version"]) if newest["version"] > (await flips.latest(warehouse)).version else 0


async def check(warehouse: Warehouse) -> None:
    """Return if the database fits this program.

    Raises:
        SchemaBehind: it does not; the message says what to run.
        WarehouseAway: ClickHouse does not answer.
    """
    missing = [step for step in await _compared(warehouse, warehouse.settings) if step.state == "pending"]
    if missing:
        names = ", ".join(f"{step.number:04d} {step.name}" for step in missing)
        raise SchemaBehind(f"Database {warehouse.database} lacks migrations {names}. Run `pinstream migrate`.")


async def _compared(warehouse: Warehouse, settings: Settings) -> list[Step]:
    applied = await _applied(warehouse)
    known = {step.number: step for step in steps(settings, version=await _version_of_new_views(warehouse))}
    newer = sorted(applied.keys() - known.keys())
    if newer:
        raise SchemaBehind(
            f"Database {warehouse.database} has migration {newer[-1]:04d}, which this program does not know: "
            "it was migrated by a newer pinstream. Update this one."
        )
    for number, checksum in applied.items():
        if checksum != known[number].checksum:
            raise SchemaBehind(
                f"Migration {number:04d} was run on database {warehouse.database} with another text. A released "
                "migration is never edited: install the pinstream that ran it, or a newer one."
            )
    states: dict[bool, Literal["applied", "pending"]] = {True: "applied", False: "pending"}
    return [
        Step(
            number=step.number,
            name=step.name,
            state=states[step.number in applied],
            statements=step.statements,
            checksum=step.checksum,
        )
        for step in known.values()
    ]


async def _version_of_new_views(warehouse: Warehouse) -> int:
    """The version after the newest one; the first one as long as nothing was loaded."""
    try:
        sql = "SELECT 1 FROM events LIMIT 1 UNION ALL SELECT 1 FROM engagements LIMIT 1"
        if await warehouse.select(sql):
            return (await flips.latest(warehouse)).version + 1
    except QueryFailed as exc:
        if exc.code not in (UNKNOWN_TABLE, UNKNOWN_DATABASE):
            raise
    return schema.ROLLUP_VERSION


async def _applied(warehouse: Warehouse) -> dict[int, str]:
    """Number -> checksum of the migrations that finished."""
    sql = "SELECT number, any(checksum) AS checksum FROM schema_migration WHERE state = 'finished' GROUP BY number"
    try:
        return {row["number"]: row["checksum"] for row in await warehouse.select(sql)}
    except QueryFailed as exc:
        if exc.code in (UNKNOWN_TABLE, UNKNOWN_DATABASE):
            return {}
        raise


async def _run(warehouse: Warehouse, step: Step, still_ours: Callable[[], Awaitable[None]]) -> None:
    """Statement by statement: ClickHouse has neither transactions for DDL nor several statements in a request."""
    logger.info("migration %04d %s", step.number, step.name)
    await _note(warehouse, step, "started")
    for statement in step.statements:
        await still_ours()
        try:
            await warehouse.command(statement)
        except QueryFailed as exc:
            raise QueryFailed(f"Migration {step.number:04d} {step.name}: {exc}", code=exc.code) from exc
    await _note(warehouse, step, "finished")


async def _note(warehouse: Warehouse, step: Step, state: str) -> None:
    await warehouse.command(
        "INSERT INTO schema_migration (number, name, checksum, state) "
        "SELECT {number:UInt32}, {name:String}, {checksum:String}, {state:String}",
        {"number": step.number, "name": step.name, "checksum": step.checksum, "state": state},
    )


# --- the lock ------------------------------------------------------------------------------------


@asynccontextmanager
async def lock(warehouse: Warehouse, *, wait_s: float | None = None) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold the lock while the block runs. Gives a check to call before every statement.

    Raises:
        SchemaBehind: another process holds it for longer than `wait_s` (default WAIT_S).
    """
    number = await _acquire(warehouse, WAIT_S if wait_s is None else wait_s)

    async def still_ours() -> None:
        if max(await _locks(warehouse), default=0) != number:
            raise SchemaBehind("Another process has taken the migration over. Run `pinstream migrate` again.")

    renewing = asyncio.create_task(_renew(warehouse, number), name="migration lock")
    try:
        yield still_ours
    finally:
        renewing.cancel()
        with suppress(WarehouseError):  # a lock left behind runs out by itself
            for old in sorted(await _locks(warehouse)):
                if old <= number:
                    await warehouse.command(f"DROP TABLE IF EXISTS schema_lock_{old}")


async def _acquire(warehouse: Warehouse, wait_s: float) -> int:
    deadline = time.monotonic() + wait_s
    while True:
        locks = await _locks(warehouse)
        newest = max(locks, default=0)
        if (not locks or locks[newest] > LOCK_S) and await _create_lock(warehouse, newest + 1):
            return newest + 1
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(0.2)
    raise SchemaBehind(f"Another process has been migrating for {wait_s:.0f} s. Wait for it, then run this again.")


async def _create_lock(warehouse: Warehouse, number: int) -> bool:
    """False if another process was first."""
    try:
        await warehouse.command(f"CREATE TABLE schema_lock_{number} (one UInt8) ENGINE = MergeTree ORDER BY tuple()")
    except QueryFailed as exc:
        if exc.code == TABLE_ALREADY_EXISTS:
            return False
        raise
    return True


async def _locks(warehouse: Warehouse) -> dict[int, float]:
    """Number -> seconds since it was renewed."""
    rows = await warehouse.select(
        "SELECT toUInt32(substring(name, 13)) AS number, "
        "dateDiff('second', metadata_modification_time, now()) AS age_s FROM system.tables "
        "WHERE database = currentDatabase() AND match(name, '^schema_lock_[0-9]+$')"
    )
    return {row["number"]: row["age_s"] for row in rows}


async def _renew(warehouse: Warehouse, number: int) -> None:
    """Touch the lock's table for as long as we live."""
    while True:
        await asyncio.sleep(RENEW_S)
        with suppress(WarehouseError):
            await warehouse.command(f"ALTER TABLE schema_lock_{number} MODIFY COMMENT '{secrets.token_hex(8)}'")
