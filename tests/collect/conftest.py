"""The edge on a real port, in front of a real journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import msgspec

from pinstream.clock import now_ms
from pinstream.collect.app import build
from pinstream.collect.commit import Committer
from pinstream.collect.edge import Edge
from pinstream.collect.gate import Gate
from pinstream.collect.protocol import Hot
from pinstream.collect.server import public
from pinstream.event import TOPICS
from pinstream.eventlog.contract import Appender
from pinstream.eventlog.journal import JournalLog
from pinstream.serving import Bounded, serving
from pinstream.settings import Collect, Log
from pinstream.state.snapshot import Key, Popular, Site, Snapshot

hypothesis.settings.register_profile("collect", deadline=None)  # other processes share the machine
hypothesis.settings.load_profile("collect")

SHOP = "https://www.shop.example"
OTHER = "https://www.other.example"
VISITOR = "019a63f2-7c1e-7d0a-9b42-5f2c1d8e9a10"
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
API_KEY = "ps_test_key"
SITE_KEY = "ps_key_of_site_2"

SITE = Site(id=1, tag_id="2600000000001", origins=(SHOP,), currency="EUR", phone_region="DE")
SANDBOX = Site(id=2, tag_id="2600000000002", origins=(OTHER,), allow_null_origin=True, consent_default="yes")
STRICT = Site(id=3, tag_id="2600000000003", origins=(SHOP,), allow_no_origin=False, explicit_yes_overrides_gpc=True)
GONE_EMAIL = "gone@shop.example"
SNAPSHOT = Snapshot(
    taken_ms=1,
    sites=(SITE, SANDBOX, STRICT),
    keys=(
        Key(sha256=sha256(API_KEY.encode()).hexdigest(), prefix="ps_test", site_id=0, may_import=True),
        Key(sha256=sha256(SITE_KEY.encode()).hexdigest(), prefix="ps_key", site_id=2),
    ),
    suppressed=frozenset({sha256(GONE_EMAIL.encode()).hexdigest()}),
    popular={1: Popular(products={"RS-42": 1000, "café 1/2": 50}, pins={"1125899906842624": 200})},
)


class Running:
    """An edge that takes requests, and what it has stored."""

    def __init__(self, base_url: str, folder: Path) -> None:
        self.base_url = base_url
        self._folder = folder

    async def stored(self, topic: str) -> list[dict[str, Any]]:
        """Every record of a topic, read back through the log."""
        consumer = await JournalLog(self._folder, Log()).consumer("load", TOPICS)
        try:
            return await asyncio.wait_for(_read_all(consumer, topic), 20)
        finally:
            await consumer.aclose()


async def _read_all(consumer: Any, topic: str) -> list[dict[str, Any]]:
    while not consumer.assignment():
        await consumer.poll(timeout_s=0.05, max_records=1)
    left = {}
    for partition in consumer.assignment():
        bounds = await consumer.bounds(partition)
        if partition.topic == topic and bounds.first < bounds.end:
            consumer.seek(partition, bounds.first)
            left[partition] = bounds.end
    found = []
    while left:
        for partition, records in (await consumer.poll(timeout_s=0.05, max_records=10_000)).items():
            found += [msgspec.json.decode(stored.value) for stored in records]
            if records[-1].offset + 1 >= left[partition]:
                del left[partition]
    return found


def as_starlette(protocol: type[Hot]) -> type[Bounded]:
    """The same port without the hot path."""

    class Public(Bounded):
        max_connections = protocol.max_connections
        headers_of_refusals = protocol.headers_of_refusals

    return Public


@asynccontextmanager
async def running(
    folder: Path,
    *,
    snapshot: Snapshot = SNAPSHOT,
    settings: Collect | None = None,
    appender: Appender | None = None,
    clock: Callable[[], int] = now_ms,
    hot: bool = True,
    port: int = 0,
) -> AsyncIterator[Running]:
    """An edge in front of a journal in `folder`, or of `appender`. Not `hot`: every request goes through Starlette."""
    settings = settings or Collect(commit_interval_ms=1)
    log = appender or await JournalLog(folder, Log()).appender()
    committer = Committer(log, settings)
    committer.start()
    edge = Edge(Gate(snapshot), committer, settings, clock)
    protocol = public(edge, committer, settings)
    options: dict[str, Any] = {
        "http": protocol if hot else as_starlette(protocol),
        "ws": "none",
        "lifespan": "off",
        "proxy_headers": False,
        "date_header": False,
    }
    try:
        async with serving(build(edge, committer, settings), "127.0.0.1", port, **options) as bound:
            yield Running(f"http://127.0.0.1:{bound}", folder)
    finally:
        await committer.aclose()
        await log.aclose()


def client(edge: Running, **headers: str) -> httpx.AsyncClient:
    """A browser on the shop's page."""
    return httpx.AsyncClient(
        base_url=edge.base_url, timeout=30, headers={"User-Agent": BROWSER, "Origin": SHOP} | headers
    )
