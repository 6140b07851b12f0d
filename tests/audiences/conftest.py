"""One migrated database for all audience tests: each of them works on a site of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from pinstream import settings
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.migrate import migrate
from tests.warehouse_server import EmbeddedProcess


def _client(database: settings.Warehouse) -> Warehouse:
    return Warehouse.open(database, password=database.password.get_secret_value())


@pytest.fixture(scope="session")
def shared_database(warehouse_server: EmbeddedProcess) -> Iterator[settings.Warehouse]:
    own = warehouse_server.settings.model_copy(update={"database": f"t_{uuid.uuid4().hex[:12]}"})

    async def create() -> None:
        client = _client(own)
        await migrate(client, own)
        await client.aclose()

    async def drop() -> None:
        client = _client(own)
        await client.command(f"DROP DATABASE {own.database} SYNC")
        await client.aclose()

    asyncio.run(create())
    yield own
    asyncio.run(drop())


@pytest.fixture
async def warehouse(shared_database: settings.Warehouse) -> AsyncIterator[Warehouse]:
    client = _client(shared_database)
    yield client
    await client.aclose()
