"""`push` as a process of its own, for tests that kill it: the real loop, with leases short enough to wait for."""

from __future__ import annotations

import asyncio
import os

from pinstream import settings
from pinstream.pinterest.client import Client
from pinstream.push import sync
from pinstream.push.sync import loop
from pinstream.state.store import Store
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.password import password


async def main() -> None:
    sync.LEASE_S = 0.2  # type: ignore[misc]
    sync.POLL_S = 0.02  # type: ignore[misc]
    config = settings.load()
    warehouse = Warehouse.open(config.warehouse, password=password(config))
    store = Store.open(config.state_url)
    os.write(1, b"ready\n")
    async with Client(config.pinterest) as client:
        await loop(config, store, warehouse, client, asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
