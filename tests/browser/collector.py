"""The real edge behind a tag, which a test can take away and bring back; what it has durably is the test's truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pinstream.event import EVENTS
from pinstream.state.snapshot import Popular, Site, Snapshot
from tests.browser.recorder import PATIENCE_S, TAG_ID, cookie_domain
from tests.collect.conftest import Running, running

LOOK_S = 0.2
"""Each look opens the journal anew."""


class Collector:
    """Between `start` and `stop` it takes requests, on a port that it keeps when it comes back."""

    def __init__(self, host: str, folder: Path) -> None:
        self._host = host
        self._folder = folder
        domain = cookie_domain(host)
        site = Site(id=1, tag_id=TAG_ID, origins=("*",), allow_null_origin=True, currency="EUR", cookie_domain=domain)
        popular = {1: Popular(products={"lamp": 1000, "sofa": 50})}
        self._snapshot = Snapshot(taken_ms=1, sites=(site,), popular=popular)
        self._stack = AsyncExitStack()
        self._edge: Running | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    async def start(self) -> None:
        entered = running(self._folder, snapshot=self._snapshot, port=self.port)
        self._edge = await self._stack.enter_async_context(entered)
        self.port = urlsplit(self._edge.base_url).port or 0

    async def stop(self) -> None:
        """From now on connections are refused."""
        await self._stack.aclose()

    async def stored(self) -> list[dict[str, Any]]:
        """Every record in the log, in the order of its event's time."""
        assert self._edge
        return sorted(await self._edge.stored(EVENTS), key=lambda event: event["time"])

    async def until(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Wait until events with all these ids are in the log; gives every record. Fails after PATIENCE_S."""
        wanted, deadline = set(ids), time.monotonic() + PATIENCE_S
        while True:
            found = await self.stored()
            missing = wanted - {event["event_id"] for event in found}
            if not missing:
                return found
            assert time.monotonic() < deadline, f"{len(missing)} of {len(wanted)} events are missing: {missing}"
            await asyncio.sleep(LOOK_S)
