"""A rollup built anew while a real loader loads: afterwards it holds what it held, and what came meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from pinstream.errors import Misconfigured, Refused, Retryable
from pinstream.eventlog.contract import Record
from pinstream.load import rebuild
from pinstream.warehouse import flips, migrate, rollup
from pinstream.warehouse.flips import Flip
from tests.load.test_exactly_once import BAD, World, expected, records, world

__all__ = ["world"]


alone = pytest.mark.parametrize("world", ["journal"], indirect=True)
"""What does not depend on the log's kind."""


async def rebuilt(world: World, name: str) -> rebuild.Rebuilt:
    return await rebuild.rebuild(world.log, world.warehouse, name, print)


async def trickle(world: World, some: list[Record], enough: asyncio.Event) -> list[Record]:
    """Append them a few at a time until it is enough, so that there is always something to load; give what was sent."""
    appender = await world.log.appender()
    start = 0
    try:
        while start < len(some) and not enough.is_set():
            await appender.append(some[start : start + 20])
            start += 20
            await asyncio.sleep(0.05)
    finally:
        await appender.aclose()
    return some[:start]


async def views_of(world: World, name: str) -> list[str]:
    sql = "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, {name:String})"
    sql += " ORDER BY name"
    return [row["name"] for row in await world.warehouse.select(sql, {"name": name})]


async def test_nothing_is_missing_and_nothing_counted_twice(world: World) -> None:
    """# Sums too: `event_minute.n` would show a record that both the backfill and a view have counted."""
    first, enough = records("a"), asyncio.Event()
    await world.fill(first)
    world.loader()
    await world.until_loaded(first)
    trickling = asyncio.create_task(trickle(world, records("b") + records("c"), enough))
    minutes = await rebuilt(world, "event_minute")
    profile = await rebuilt(world, "visitor_profile")
    enough.set()
    sent = first + await trickling
    await world.until_loaded(sent)
    assert await world.at_rest() == expected(sent)
    assert len(first) - BAD <= minutes.rows < profile.rows
    assert (minutes.version, profile.version) == (3, 5)
    assert await views_of(world, "event_minute") == ["event_minute", "event_minute_from_events_v3"]
    assert await views_of(world, "visitor_profile") == [
        "visitor_profile",
        "visitor_profile_from_engagements_v5",
        "visitor_profile_from_events_v5",
    ]


@alone
async def test_what_a_wrong_view_has_left_is_gone_afterwards(world: World) -> None:
    sent = records()
    await world.fill(sent)
    world.loader()
    await world.until_loaded(sent)
    await world.warehouse.command("TRUNCATE TABLE identity")
    await world.warehouse.command(
        "INSERT INTO visitor_profile (site_id, visitor_id, last_seen) SELECT 1, 999, toDateTime('2030-01-01')"
    )
    await rebuilt(world, "visitor_profile")
    told, progress = await by_command(world, "identity")
    assert re.match(r"identity, round 1: 100% of [\d,]+ rows, at \w+ of \d{4}-\d\d-\d\d$", progress[-1])
    assert (told["view"], told["rows"], told["version"]) == ("identity", len(sent) - BAD, 5)
    assert await world.at_rest() == expected(sent)


@alone
async def test_what_only_deleted_events_told_is_not_forgotten_unasked(world: World) -> None:
    sent = records()
    await world.fill(sent)
    world.loader()
    await world.until_loaded(sent)
    keys = {"visitor_profile": "visitor_id, first_order", "cancelled_order": "order_key, last_at"}
    keys |= {"identity": "visitor_id, first_seen", "engagement_visitor": "visitor_id, last_at"}
    for name, columns in keys.items():
        for days in (410, 390):
            await world.warehouse.command(
                f"INSERT INTO {name} (site_id, {columns}) SELECT 1, {days}, now() - INTERVAL {days} DAY"
            )
        with pytest.raises(Refused, match=f"^1 rows of {name} .*--forget-older"):
            await rebuilt(world, name)
    told, _ = await by_command(world, "cancelled_order", "--forget-older")
    assert told["view"] == "cancelled_order"
    assert [await rollup.outlived(world.warehouse, name) for name in keys] == [1, 0, 1, 1]


async def by_command(world: World, name: str, *more: str) -> tuple[dict[str, Any], list[str]]:
    """What `pinstream warehouse rebuild` says at the end, and on its way."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pinstream", "warehouse", "rebuild", "--view", name, "--json", *more],
        env=os.environ | world.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told, done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 3])
async def test_a_loader_that_dies_meanwhile_changes_nothing(world: World, nth: int) -> None:
    """# Its successor repeats the open intent under the version that it names, and takes up the next one after that."""
    first, more = records("a"), records("b")
    await world.fill(first)
    calm = world.loader()
    await world.until_loaded(first)
    calm.terminate()
    await asyncio.to_thread(calm.wait)
    dying = world.loader("die:after-insert", nth)
    rebuilding = asyncio.create_task(rebuilt(world, "event_minute"))
    await world.fill(more)
    await world.until_said(dying, "now")
    world.loader()
    await rebuilding
    await world.until_loaded(first + more)
    assert await world.at_rest() == expected(first + more)


def rebuild_process(world: World, moment: str) -> subprocess.Popen[str]:
    """One that kills itself before it calls `moment`, a function of warehouse/rollup.py."""
    program = (
        "import asyncio, os, signal, sys\n"
        "from pinstream import cli, settings, roles\n"
        "from pinstream.warehouse import rollup\n"
        "async def die(*args): os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(rollup, sys.argv[1], die)\n"
        "asyncio.run(roles.rebuild_rollup(settings.load(), 'event_minute', print))\n"
    )
    return subprocess.Popen([sys.executable, "-c", program, moment], env=os.environ | world.environment, text=True)


@alone
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["fill", "decide", "finish"])
async def test_a_rebuild_that_died_is_put_in_order_by_the_next(
    world: World, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, more = records("a"), records("b")
    await world.fill(first)
    world.loader()
    await world.until_loaded(first)
    dying = rebuild_process(world, moment)
    assert await asyncio.to_thread(dying.wait, 60) == -signal.SIGKILL
    assert (await flips.latest(world.warehouse)).open is (moment == "fill")
    await world.fill(more)
    monkeypatch.setattr(migrate, "LOCK_S", 0.5)  # what the dead one holds runs out
    await rebuilt(world, "event_minute")
    await world.until_loaded(first + more)
    assert await world.at_rest() == expected(first + more)
    assert [name for name in await views_of(world, "event_minute") if "__" in name] == []


@alone
async def test_a_load_that_does_not_come_to_rest_is_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """# Nobody loads, so nobody answers; the step before is taken up by a loader that is gone by then."""
    monkeypatch.setattr(rebuild, "HELD_S", 0.5)
    monkeypatch.setattr(rebuild, "SHORT_S", float("inf"))
    sent = records()
    await world.fill(sent)
    first = world.loader()
    await world.until_loaded(sent)

    async def stop_the_loader(*_: Any) -> None:
        first.terminate()
        await asyncio.to_thread(first.wait)

    fill = rollup.fill

    async def last_fill(*args: Any) -> None:
        await fill(*args)
        await stop_the_loader()

    monkeypatch.setattr(rollup, "fill", last_fill)
    with pytest.raises(Retryable, match="Try again"):
        await rebuilt(world, "event_minute")
    assert await flips.latest(world.warehouse) == Flip(3, True)
    assert await views_of(world, "event_minute") == ["event_minute", "event_minute_from_events_v1"]
    world.loader()
    more = records("b")
    await world.fill(more)
    await world.until_loaded(sent + more)
    assert await world.at_rest() == expected(sent + more)


@alone
async def test_an_unknown_rollup_is_refused_with_the_known_ones(world: World) -> None:
    with pytest.raises(Misconfigured, match="event_minute, identity, product_day, visitor_day, visitor_profile"):
        await rebuilt(world, "events")
