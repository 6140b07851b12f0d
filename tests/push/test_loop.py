from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pinstream import metrics
from pinstream.clock import now_ms
from pinstream.errors import PinterestAway, PinterestRefused, RateLimited
from pinstream.pinterest.client import Client
from pinstream.push import sync
from pinstream.push.sync import MAX_RETRY_S, _Agenda, loop
from pinstream.settings import Push, Settings
from pinstream.state import runs
from tests.push.conftest import Shop, connected, people
from tests.warehouse_server import PASSWORD

FAST = Push(interval_s=0.1, chunk_members=3)


class Running:
    """`loop` as a task, stopped at the end of the block."""

    def __init__(self, shop: Shop, config: Push = FAST) -> None:
        self.stop = asyncio.Event()
        parts = shop.parts
        self._loop = loop(Settings(push=config), parts.store, parts.warehouse, parts.client, self.stop)

    async def __aenter__(self) -> Running:
        self.task = asyncio.create_task(self._loop)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, sync.STOP_S + 5)


async def until(shop: Shop, *expected: int, within_s: float = 30) -> None:
    """Wait until exactly these people are members."""
    deadline = time.monotonic() + within_s
    while not shop.link.customer_list_id or shop.members() != people(*expected):
        assert time.monotonic() < deadline, shop.link
        await asyncio.sleep(0.05)


async def test_the_loop_keeps_every_connection_in_step(shop: Shop) -> None:
    other = connected(shop.parts, shop.fake, shop.clock)
    done = metrics.SYNCS.labels("done")._value.get()
    async with Running(shop):
        await shop.carted(1, 2)
        await until(shop, 1, 2)
        await other.carted(3)
        await until(other, 3)
        await shop.ordered(1)
        await until(shop, 2)
    assert metrics.SYNCS.labels("done")._value.get() > done


async def test_pinterest_away_is_logged_and_waited_out(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "FIRST_RETRY_S", 0.05)
    await shop.carted(1)
    shop.fake.fault("drop_before", "customer_lists/create", count=2)
    with caplog.at_level(logging.WARNING):
        async with Running(shop):
            await until(shop, 1)
    assert any("sync broke off: Pinterest" in record.message for record in caplog.records)
    assert len(shop.fake.lists()) == 1


async def test_one_broken_connection_does_not_hold_up_the_others(shop: Shop) -> None:
    other = connected(shop.parts, shop.fake, shop.clock)
    shop.parts.store.set_audience(shop.link.audience_id, rule="{}")
    async with Running(shop):
        await other.carted(1)
        await until(other, 1)
    assert shop.link.state == "error"


async def test_a_state_database_that_is_away_is_waited_for(
    shop: Shop, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    await shop.carted(1)
    hidden = tmp_path / "hidden.db"
    shop.parts.store.close()
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        if (tmp_path / name).exists():
            (tmp_path / name).rename(f"{hidden}{name.removeprefix('state.db')}")
    (tmp_path / "state.db").mkdir()
    with caplog.at_level(logging.WARNING):
        async with Running(shop):
            await asyncio.sleep(0.3)
            (tmp_path / "state.db").rmdir()
            for file in tmp_path.glob("hidden.db*"):
                file.rename(tmp_path / file.name.replace("hidden.db", "state.db"))
            await until(shop, 1)
    assert any("push waits: The state database" in record.message for record in caplog.records)


async def test_a_stop_during_a_call_that_hangs_is_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "STOP_S", 0.3)
    await shop.carted(1)
    shop.fake.fault("slow", "customer_lists/create", ms=60_000)
    async with Client(shop.fake.settings(timeout_s=100)) as patient:
        shop.parts = sync.Parts(shop.parts.store, shop.parts.warehouse, patient, FAST)
        began = time.monotonic()
        async with Running(shop):
            while not runs.next_open(shop.parts.store, shop.link_id):
                await asyncio.sleep(0.02)
            began = time.monotonic()
        assert time.monotonic() - began < 5
    chunk = runs.next_open(shop.parts.store, shop.link_id)
    assert chunk and chunk.status == "sending"


async def test_an_idle_loop_stops_at_once(shop: Shop) -> None:
    async with Running(shop, Push(interval_s=900)):
        while not [run for run in runs.runs(shop.parts.store, shop.link_id) if run.status == "done"]:
            await asyncio.sleep(0.02)
        began = time.monotonic()
    assert time.monotonic() - began < sync.STOP_S


# --- when


def test_waits_grow_with_failures_and_start_over_after_a_success() -> None:
    agenda = _Agenda(900)
    assert agenda.is_due(1, 0)
    waits = []
    for _ in range(12):
        agenda.plan(1, PinterestAway("away"), 0)
        waits.append(next(wait for wait in range(10_000) if agenda.is_due(1, wait)))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, MAX_RETRY_S, MAX_RETRY_S, MAX_RETRY_S]
    agenda.plan(1, None, 0)
    agenda.plan(1, PinterestAway("away"), 0)
    assert agenda.is_due(1, 1) and not agenda.is_due(1, 0.9)


def test_what_cannot_help_itself_waits_the_whole_interval() -> None:
    agenda = _Agenda(900)
    agenda.plan(1, PinterestRefused("no"), 0)
    assert agenda.is_due(1, 900) and not agenda.is_due(1, 899)


def test_a_stated_pause_is_kept() -> None:
    agenda = _Agenda(900)
    agenda.plan(1, RateLimited("slow down", retry_after_s=1234), 0)
    assert agenda.is_due(1, 1234) and not agenda.is_due(1, 1233)


# --- kill -9


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_killed_for_real_again_and_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push process of its own is killed at random moments while the world changes; at the end all is right."""
    dice = random.Random(7)
    inside: set[int] = set()
    for turn in range(12):
        came, went = {turn * 10 + number for number in range(6)}, set(sorted(inside)[:2])
        await shop.carted(*came)
        if went:
            await shop.withdrew(*went)
        inside = (inside | came) - went
        process = _worker(shop)
        assert process.stdout and process.stdout.readline() == b"ready\n"
        await asyncio.sleep(dice.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    killed = [run.status for run in runs.runs(shop.parts.store, shop.link_id, limit=100)]
    assert "running" in killed or "interrupted" in killed
    shop.clock.now_ms = now_ms() + 60_000
    await shop.sync()
    assert shop.members() == people(*inside)
    assert len(shop.fake.lists()) == 1 == len(shop.fake.audiences())


def _worker(shop: Shop) -> subprocess.Popen[bytes]:
    warehouse = shop.parts.warehouse.settings
    settings = {
        "PINSTREAM_STATE__URL": shop.parts.store.engine.url.render_as_string(hide_password=False),
        "PINSTREAM_WAREHOUSE__URL": warehouse.url,
        "PINSTREAM_WAREHOUSE__PASSWORD": PASSWORD,
        "PINSTREAM_WAREHOUSE__DATABASE": warehouse.database,
        "PINSTREAM_PINTEREST__BASE_URL": shop.fake.base_url,
        "PINSTREAM_PINTEREST__ACCESS_TOKEN": shop.fake.token,
        "PINSTREAM_PINTEREST__REQUESTS_PER_S": "1000",
        "PINSTREAM_PUSH__CHUNK_MEMBERS": "3",
        "PINSTREAM_PUSH__INTERVAL_S": "0.05",
    }
    command = [sys.executable, "-m", "tests.push.worker"]
    return subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE)
