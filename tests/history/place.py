"""A shop with a journal of its own: what is imported into it, what is then in the log, and loading that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from pinstream.clock import now_ms
from pinstream.event import EVENTS
from pinstream.eventlog.journal import JournalLog
from pinstream.history.columns import Reading
from pinstream.history.importing import Bad, Import, Kind, Report, Source
from pinstream.history.sorting import RUN_BYTES
from pinstream.load.loop import Loader
from pinstream.settings import Load, Log
from pinstream.state.snapshot import Site
from pinstream.warehouse.client import Warehouse

SITE = Site(id=1, tag_id="shop", currency="EUR", phone_region="DE")
DAY_MS = 86_400_000
LOADED_S = 60.0


class Place:
    """See above."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = JournalLog(folder / "journal", Log())
        self.said: list[str] = []
        self.bad: list[Bad] = []

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    async def take(
        self,
        kind: Kind,
        path: Path,
        reading: Reading | None = None,
        *,
        stop: asyncio.Event | None = None,
        run_bytes: int = RUN_BYTES,
        at_ms: int = 0,
        **source: Any,
    ) -> Report:
        """Import a file, with consent."""
        found = Source(
            path=path, kind=kind, site=SITE, secret=b"key", reading=reading or Reading(consent="yes"), **source
        )
        run = Import(found, self.folder / "imports", self.said.append, self.bad.append)
        return await run.run(self.log, now_ms=at_ms or now_ms(), stop=stop or asyncio.Event(), run_bytes=run_bytes)

    async def stored(self) -> list[dict[str, Any]]:
        """Every event of the log, in the order of its partitions."""
        consumer = await self.log.consumer("looker", [EVENTS])
        found: list[dict[str, Any]] = []
        try:
            extents = await self.log.inspect("looker", [EVENTS])
            left = {each: bounds.end for each, (_, bounds) in extents.items() if bounds.first < bounds.end}
            while not consumer.assignment():
                await consumer.poll(timeout_s=0.05, max_records=1)
            for partition in consumer.assignment():
                consumer.seek(partition, (await consumer.bounds(partition)).first)
            while left:
                for partition, records in (await consumer.poll(timeout_s=0.2, max_records=10_000)).items():
                    found += [msgspec.json.decode(record.value) for record in records]
                    if records and records[-1].offset + 1 >= left[partition]:
                        del left[partition]
            return found
        finally:
            await consumer.aclose()

    async def load(
        self, warehouse: Warehouse, counted: str = "uniqExact(k_partition, k_offset) AS n FROM events"
    ) -> None:
        """Bring everything that is in the log into ClickHouse; `counted` is to become the number of records there."""
        records, stop = len(await self.stored()), asyncio.Event()
        loader = asyncio.create_task(Loader(self.log, warehouse, Load(interval_s=0.05), b"key").run(stop))
        try:
            async with asyncio.timeout(LOADED_S):
                while not loader.done() and (await warehouse.select(f"SELECT {counted}"))[0]["n"] < records:
                    await asyncio.wait([loader], timeout=0.1)
        finally:
            stop.set()
            await loader


def stamp(ago_days: float, at_ms: int = 0) -> str:
    """A time as shops write it."""
    return datetime.fromtimestamp(((at_ms or now_ms()) - ago_days * DAY_MS) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def csv(columns: Sequence[str], *rows: Sequence[object]) -> str:
    """Rows as a file."""
    return "".join(",".join(map(str, row)) + "\n" for row in (columns, *rows))
