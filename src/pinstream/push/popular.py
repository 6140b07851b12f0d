"""What is popular on Pinterest: from ClickHouse, where it is made anew every hour, to the state database.

`collect` answers pages from there (`GET /v1/popular`). The exact counts stay behind: a band is copied, and nothing of
what has fewer savers than the first one (docs/decisions/0011).
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from pinstream.errors import PinstreamError
from pinstream.state.snapshot import Popular
from pinstream.state.store import Store
from pinstream.warehouse.client import Warehouse

logger = logging.getLogger(__name__)

EVERY_S: Final = 10.0
"""How soon a copy follows what ClickHouse made; the state is written only where something is new."""
TABLES: Final = ("product_popularity", "pin_popularity")
BANDS: Final = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
"""What may be told of a number of savers: the highest of these that it reaches."""
MOST_A_SITE: Final = 1_000
"""Products, and Pins, of one site that are copied, by rank; every worker of `collect` holds them."""


def band(savers: int) -> int:
    """The highest of BANDS that `savers` reaches; 0 if it reaches none."""
    reached = bisect.bisect_right(BANDS, savers)
    return BANDS[reached - 1] if reached else 0


async def refresh(warehouse: Warehouse) -> None:
    """Let this ClickHouse make its figures now, not only at the next full hour. Returns when they are there.

    Raises:
        WarehouseError: it does not answer, or could not make them.
    """
    for table in TABLES:
        for step in ("REFRESH", "WAIT"):
            await warehouse.command(f"SYSTEM {step} VIEW {table}_v1")


async def copy(store: Store, warehouse: Warehouse) -> None:
    """Put what ClickHouse says now in the place of what was copied before.

    Raises:
        WarehouseError, StateError: everything is as it was.
    """
    products = await _best(warehouse, TABLES[0], "product_id")
    pins = await _best(warehouse, TABLES[1], "pin_id")
    popular = {site: Popular(products=products.get(site, {}), pins=pins.get(site, {})) for site in products | pins}
    await asyncio.to_thread(store.set_popular, popular)


async def _best(warehouse: Warehouse, table: str, column: str) -> dict[int, dict[str, int]]:
    """By site: the best ranks that reach a band, and the band."""
    sql = (
        f"SELECT site_id, toString({column}) AS id, savers FROM {table} WHERE savers >= {{least:UInt64}} "  # noqa: S608 - constants
        "ORDER BY site_id, rank LIMIT {most:UInt32} BY site_id"
    )
    best: dict[int, dict[str, int]] = {}
    for row in await warehouse.select(sql, {"least": BANDS[0], "most": MOST_A_SITE}):
        best.setdefault(row["site_id"], {})[row["id"]] = band(row["savers"])
    return best


@asynccontextmanager
async def copied(store: Store, warehouse: Warehouse) -> AsyncIterator[None]:
    """Copy every EVERY_S while the block runs, from its start on. While that fails, the last copy stays."""
    task = asyncio.create_task(_keep_copying(store, warehouse), name="popular")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _keep_copying(store: Store, warehouse: Warehouse) -> None:
    failures = 0
    while True:
        try:
            await copy(store, warehouse)
            failures = 0
        except PinstreamError as exc:
            failures += 1
            if failures == 2:  # the first may be a ClickHouse that starts at the same time as we do
                logger.warning("What is popular on Pinterest stays as it was: %s", exc)
        except Exception:
            logger.exception("What is popular on Pinterest cannot be copied, for a reason nobody foresaw.")
        await asyncio.sleep(EVERY_S)
