"""One migrated database for all of these tests, empty again before each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pinstream import settings
from pinstream.warehouse.client import Warehouse
from tests.audiences.conftest import shared_database

__all__ = ["shared_database"]

FILLED = ("events", "visitor_profile", "identity", "cancelled_order", "list_member")


@pytest.fixture
async def warehouse(shared_database: settings.Warehouse) -> AsyncIterator[Warehouse]:
    client = Warehouse.open(shared_database, password=shared_database.password.get_secret_value())
    for table in FILLED:
        await client.command(f"TRUNCATE TABLE {table}")
    yield client
    await client.aclose()
