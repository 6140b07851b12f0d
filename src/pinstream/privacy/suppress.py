"""Whom the state database suppresses, brought to where audiences are worked out: ClickHouse's `erased`."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import msgspec

from pinstream.state.store import Store
from pinstream.warehouse.client import Warehouse

HASHES_AT_ONCE: Final = 50_000
"""Written in one insert: a few MB."""
HASH_BYTES: Final = 32


async def carry(store: Store, warehouse: Warehouse, site_id: int) -> int:
    """Write down as erased from a site whom the state suppresses and is not there yet; returns how many.

    To be done before any of the site's audiences is asked for. What is there stays; any number of times, or several at
    once, have the effect of one.

    Raises:
        StateError, WarehouseError: some may be written; do it again.
    """
    asked = await asyncio.to_thread(store.suppressions)
    if not asked:
        return 0
    sql = "SELECT DISTINCT toFixedString(id_value, 32) FROM erased WHERE site_id = {site:UInt32} AND id_type = 'hash'"
    rows = (await warehouse.select_bytes(sql, {"site": site_id}, "RowBinary")).hex()
    there = {rows[at : at + 2 * HASH_BYTES] for at in range(0, len(rows), 2 * HASH_BYTES)}
    missing = sorted(asked.keys() - there)
    for start in range(0, len(missing), HASHES_AT_ONCE):
        some = [
            {"site_id": site_id, "id_type": "hash", "id_hex": each, "erased_at": str(asked[each])}
            for each in missing[start : start + HASHES_AT_ONCE]
        ]
        body = b"\n".join(map(msgspec.json.encode, some))
        await warehouse.insert("erased", list(some[0]), body, token=f"suppressed:{secrets.token_hex(8)}")
    return len(missing)
