from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pinstream.privacy import suppress
from pinstream.state.store import Store
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import NOW_MS, hashed, next_site


async def test_whom_the_state_suppresses_is_written_down_once(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suppress, "HASHES_AT_ONCE", 2)
    store, site_id = Store.open(f"sqlite:///{tmp_path / 'state.db'}"), next_site()
    assert await suppress.carry(store, warehouse, site_id) == 0
    store.suppress([hashed(f"p{number}") for number in range(5)], now_ms=NOW_MS)
    await asyncio.gather(*[suppress.carry(store, warehouse, site_id) for _ in range(3)])
    store.suppress([hashed("p5")], now_ms=NOW_MS + 1)
    assert [await suppress.carry(store, warehouse, site_id) for _ in range(2)] == [1, 0]
    store.close()
    sql = (
        "SELECT lower(hex(id_value)) AS hash, toUnixTimestamp64Milli(erased_at) AS at FROM erased FINAL "
        "WHERE site_id = {site:UInt32} AND id_type = 'hash'"
    )
    found = {row["hash"]: row["at"] for row in await warehouse.select(sql, {"site": site_id})}
    assert found == {hashed(f"p{number}"): NOW_MS + (number == 5) for number in range(6)}
