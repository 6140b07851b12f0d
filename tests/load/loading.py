"""A loader in this process, for as long as a test waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pinstream.load.loop import Loader


async def load_until(loader: Loader, done: Callable[[], Awaitable[bool]], timeout_s: float = 60) -> None:
    """Run it until `done` says so, and stop it in order. Raises what the loader raises, or TimeoutError."""
    stop = asyncio.Event()
    loading = asyncio.create_task(loader.run(stop))
    try:
        async with asyncio.timeout(timeout_s):
            while not await done():
                assert not loading.done()
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await loading
