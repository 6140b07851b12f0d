"""`load` against real logs and the real engine, killed and frozen at the worst moments: each record once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pinstream.event import EVENTS, Event, encode
from pinstream.eventlog.contract import Log, Record
from pinstream.eventlog.journal import JournalLog
from pinstream.eventlog.kafka import KafkaLog
from pinstream.settings import Log as LogSettings
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.migrate import migrate
from tests.kafka_broker import Broker, need_kafka
from tests.warehouse_server import EmbeddedProcess, free_port

ROWS = 3000
BAD = 15
BLOCK = 200
NAMES = ("page_visit", "add_to_cart", "initiate_checkout", "checkout")


def records(prefix: str = "a") -> list[Record]:
    """Good events of 300 visitors, whose ids begin with `prefix`, and some bytes that are no events."""
    dice = random.Random(prefix)
    now_ms = time.time_ns() // 1_000_000
    good = [
        Record(
            EVENTS,
            visitor := dice.randrange(1, 301),
            encode(
                Event(
                    event=(name := dice.choice(NAMES)),
                    event_id=f"{prefix}{number}",
                    time=now_ms - dice.randrange(3_600_000),
                    received_ms=now_ms,
                    site_id=1,
                    visitor_id=visitor,
                    consent="yes",
                    order_id=f"{prefix}{number}" if name == "checkout" else "",
                    value=float(dice.randrange(1, 100)),
                    em=f"{visitor:064x}" if visitor % 3 == 0 else "",
                )
            ),
        )
        for number in range(ROWS)
    ]
    bad = [Record(EVENTS, dice.randrange(1, 301), b'{"event":%d}' % number) for number in range(BAD)]
    everything = good + bad
    dice.shuffle(everything)
    return everything


@dataclass
class World:
    """A log with records in it, an empty warehouse, and loaders as processes."""

    log: Log
    warehouse: Warehouse
    environment: dict[str, str]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    async def fill(self, some: list[Record]) -> None:
        appender = await self.log.appender()
        try:
            for start in range(0, len(some), 500):
                await appender.append(some[start : start + 500])
        finally:
            await appender.aclose()

    def loader(self, moment: str = "never", nth: int = 1) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.load.loader_process", moment, str(nth)],
            env=os.environ | self.environment | {"PINSTREAM_LOAD__OPS_PORT": str(free_port())},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    async def until_said(self, process: subprocess.Popen[str], word: str, timeout_s: float = 60) -> None:
        """Wait for a word of the loader: "now" before it dies or freezes, "past" after what it was frozen in."""
        assert process.stdout
        lines = process.stdout
        async with asyncio.timeout(timeout_s):
            while (line := await asyncio.to_thread(lines.readline)) != f"{word}\n":
                assert line, f"the loader ended: {process.wait()}"

    async def until_loaded(self, sent: list[Record], timeout_s: float = 90) -> None:
        """Wait until the warehouse has what was sent.

        A block's rows are there before what the views make of them, and before its dead letters.
        """
        wanted, deadline = expected(sent), time.monotonic() + timeout_s
        found: dict[str, Any] = {}
        while found != wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            [found] = await self.warehouse.select("SELECT count() AS rows FROM events")
            if found["rows"] >= wanted["rows"]:
                found = await self.truth()
        assert found == wanted

    async def at_rest(self) -> dict[str, Any]:
        """The truth once every loader was told to stop and has."""
        alive = [process for process in self.processes if process.poll() is None]
        for process in alive:
            process.terminate()
        assert [await asyncio.to_thread(process.wait, 60) for process in alive] == [0] * len(alive)
        return await self.truth()

    async def truth(self) -> dict[str, Any]:
        """What is in the base table and in what the views feed."""
        asked = {
            "rows": "SELECT count() AS v FROM events",
            "positions": "SELECT uniqExact(k_partition, k_offset) AS v FROM events",
            "minutes": "SELECT sum(n) AS v FROM event_minute",
            "dead": "SELECT count() AS v FROM rejected",
            "dead positions": "SELECT uniqExact(k_partition, k_offset) AS v FROM rejected",
            "visitors": "SELECT count() AS v FROM visitor_profile FINAL",
            "orders": "SELECT sum(length(orders)) AS v FROM visitor_profile FINAL",
            # not orders.value: the engine reads a part of a column before it merges the rows
            "money": "SELECT toFloat64(sum(arraySum(tupleElement(orders, 'value')))) AS v FROM visitor_profile FINAL",
            "identities": "SELECT count() AS v FROM identity FINAL",
        }
        return {name: (await self.warehouse.select(sql))[0]["v"] for name, sql in asked.items()}

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def expected(some: list[Record]) -> dict[str, Any]:
    """The same figures, from what was sent."""
    good = [msgspec.json.decode(record.value, type=Event) for record in some if record.value.startswith(b'{"event":"')]
    orders = [event for event in good if event.event == "checkout"]
    return {
        "rows": len(good),
        "positions": len(good),
        "minutes": len(good),
        "dead": len(some) - len(good),
        "dead positions": len(some) - len(good),
        "visitors": len({event.visitor_id for event in good}),
        "orders": len(orders),
        "money": sum(event.value for event in orders),
        "identities": len({event.visitor_id for event in good if event.em}),
    }


def environment_for(data_dir: Path, warehouse: Warehouse, log: str) -> dict[str, str]:
    """Settings of a loader's process."""
    return {
        "PINSTREAM_DATA_DIR": str(data_dir),
        "PINSTREAM_WAREHOUSE__URL": warehouse.settings.url,
        "PINSTREAM_WAREHOUSE__PASSWORD": warehouse.settings.password.get_secret_value(),
        "PINSTREAM_WAREHOUSE__DATABASE": warehouse.database,
        "PINSTREAM_LOAD__BLOCK_ROWS": str(BLOCK),
        "PINSTREAM_LOAD__INTERVAL_S": "0.05",
        "PINSTREAM_LOG__KIND": log,
    }


@pytest.fixture(params=["journal", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, tmp_path: Path, warehouse: Warehouse) -> Iterator[World]:
    with ExitStack() as stack:
        environment = environment_for(tmp_path, warehouse, request.param)
        log: Log
        if request.param == "kafka":
            need_kafka()
            broker = Broker(tmp_path / "kafka")
            bootstrap = broker.start()
            stack.callback(broker.stop)
            log = KafkaLog(LogSettings(kind="kafka", kafka_bootstrap=bootstrap, kafka_create_topics=True))
            environment |= {"PINSTREAM_LOG__KAFKA_BOOTSTRAP": bootstrap}
        else:
            log = JournalLog(tmp_path / "journal", LogSettings())
        made = World(log, warehouse, environment)
        stack.callback(made.end)
        yield made


async def test_everything_is_loaded_once(world: World) -> None:
    sent = records()
    await world.fill(sent)
    world.loader()
    await world.until_loaded(sent)
    assert await world.at_rest() == expected(sent)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["after-insert", "before-insert", "before-commit"])
async def test_a_loader_killed_at_any_step_loses_and_doubles_nothing(world: World, moment: str) -> None:
    sent = records()
    await world.fill(sent)
    killed = world.loader(f"die:{moment}", 4)
    await world.until_said(killed, "now")
    assert await asyncio.to_thread(killed.wait) == -signal.SIGKILL
    world.loader()
    await world.until_loaded(sent)
    assert await world.at_rest() == expected(sent)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before-insert", "before-commit"])
async def test_a_zombie_with_a_filled_buffer_changes_nothing(world: World, moment: str) -> None:
    sent = records()
    await world.fill(sent)
    frozen = world.loader(f"freeze:{moment}", 4)
    await world.until_said(frozen, "now")
    successor = world.loader()
    await world.until_loaded(sent, timeout_s=120)
    more = records("b")
    frozen.send_signal(signal.SIGCONT)
    await world.fill(more)
    await world.until_said(frozen, "past")
    await world.until_loaded(sent + more)
    assert successor.poll() is None
    assert frozen.poll() is None
    assert await world.at_rest() == expected(sent + more)


@pytest.mark.slow
async def test_loaders_that_come_and_go_lose_and_double_nothing(world: World) -> None:
    sent = records()
    await world.fill(sent[:1000])
    first = world.loader()
    await world.until_loaded(sent[:1000])
    world.loader()
    await world.fill(sent[1000:2000])
    while (await world.truth())["rows"] < 1100:
        await asyncio.sleep(0.1)
    first.terminate()
    await world.fill(sent[2000:])
    await world.until_loaded(sent, timeout_s=120)
    assert await asyncio.to_thread(first.wait, 30) == 0
    assert await world.at_rest() == expected(sent)


@pytest.mark.slow
async def test_a_loader_that_waits_for_clickhouse_stops_when_told_and_nothing_is_lost(tmp_path: Path) -> None:
    sent = records()
    server = EmbeddedProcess(tmp_path / "warehouse")
    server.start()
    own = server.settings.model_copy(update={"database": "t"})
    warehouse = Warehouse.open(own, password=own.password.get_secret_value())
    log = JournalLog(tmp_path / "journal", LogSettings())
    world = World(log, warehouse, environment_for(tmp_path, warehouse, "journal"))
    try:
        await migrate(warehouse, own)
        await world.fill(sent)
        waiting = world.loader("freeze:before-insert", 4)
        await world.until_said(waiting, "now")
        server.kill()
        waiting.send_signal(signal.SIGCONT)
        await asyncio.sleep(3)
        assert waiting.poll() is None
        waiting.terminate()
        assert await asyncio.to_thread(waiting.wait, 10) == 0
        server.start()
        world.loader()
        await world.until_loaded(sent)
        assert await world.at_rest() == expected(sent)
    finally:
        world.end()
        await warehouse.aclose()
        server.stop()
