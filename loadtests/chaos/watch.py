"""What is seen of `collect` from outside while it runs: its memory, and how much it has spooled and drained."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Final

import httpx

from loadtests.chaos.parts import LOOPBACK, Collect

EVERY_S: Final = 0.5
_COUNTS: Final = re.compile(r"^pinstream_(spooled|drained)_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


class Watch:
    """Samples every EVERY_S.

    A counter that falls is one of a new process: what it says then is added. What a killed process counted after the
    last sample is not known, so these are at least's; the truth about events comes from the ledger.
    """

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._last = {"spooled": 0, "drained": 0}
        self.counts = {"spooled": 0, "drained": 0}
        self.rss_bytes = 0
        """At the last sample."""
        self.peak_bytes = 0

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Once, now."""
        self._remember_memory()
        with suppress(httpx.HTTPError):
            # There is no TLS: loading certificates each time would cost more than all else here.
            async with httpx.AsyncClient(trust_env=False, timeout=2, verify=False) as client:
                told = await client.get(f"http://{LOOPBACK}:{self._collect.ops_port}/metrics")
            self._add(counted(told.text))

    def _remember_memory(self) -> None:
        if size := self._collect.rss_bytes():
            self.rss_bytes = size
            self.peak_bytes = max(self.peak_bytes, size)

    def _add(self, now: dict[str, int]) -> None:
        for name, value in now.items():
            self.counts[name] += value - self._last[name] if value >= self._last[name] else value
            self._last[name] = value


def counted(exposition: str) -> dict[str, int]:
    """Pure: how much was spooled and drained, from Prometheus's text format."""
    found = {"spooled": 0, "drained": 0}
    for name, value in _COUNTS.findall(exposition):
        found[name] += int(float(value))
    return found
