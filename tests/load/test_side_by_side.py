"""Blocks of several partitions are inserted at a time, those of one partition one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pinstream.eventlog.journal import JournalLog
from pinstream.load import loop
from pinstream.settings import Load
from pinstream.settings import Log as LogSettings
from pinstream.warehouse.client import Warehouse
from tests.load.loading import load_until
from tests.load.test_exactly_once import BAD, ROWS, records

PARTITIONS = 3


async def test_side_by_side(tmp_path: Path, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    log = JournalLog(tmp_path / "journal", LogSettings())
    async with AsyncExitStack() as stack:
        for number in range(PARTITIONS):  # each writer has a partition of its own
            appender = await log.appender()
            stack.push_async_callback(appender.aclose)
            await appender.append(records("abc"[number]))
    insert = warehouse.insert
    running: list[str] = []
    most, side_by_side = 0, asyncio.Event()

    async def observed(table: str, columns: Sequence[str], body: bytes, *, token: str) -> None:
        nonlocal most
        partition = token.rpartition(":")[0].rpartition(":")[0]
        assert partition not in running
        running.append(partition)
        most = max(most, len(running))
        if len(running) > 1:
            side_by_side.set()
        await asyncio.wait_for(side_by_side.wait(), 20)
        await insert(table, columns, body, token=token)
        running.remove(partition)

    monkeypatch.setattr(warehouse, "insert", observed)
    loader = loop.Loader(log, warehouse, Load(block_rows=200, interval_s=0.05), b"secret")
    wanted = {"rows": PARTITIONS * ROWS, "dead": PARTITIONS * BAD}
    sql = "SELECT (SELECT count() FROM events) AS rows, (SELECT count() FROM rejected) AS dead"

    async def done() -> bool:
        return await warehouse.select(sql) == [wanted]

    await load_until(loader, done)
    assert most == loop.INSERTS
