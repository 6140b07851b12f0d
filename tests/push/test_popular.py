"""From saves in the real engine to what `collect` knows."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from pinstream.errors import WarehouseAway
from pinstream.push import popular
from pinstream.settings import Warehouse as Settings
from pinstream.state.snapshot import Popular
from pinstream.state.store import Store
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import NOW_MS, Pinned, load
from tests.push.conftest import Shop

_visitors = itertools.count(1)


@pytest.mark.parametrize(
    ("savers", "band"),
    [(0, 0), (49, 0), (50, 50), (99, 50), (100, 100), (1_999, 1_000), (9_999_999, 1_000_000)],
)
def test_a_number_is_told_as_the_band_it_reaches(savers: int, band: int) -> None:
    assert popular.band(savers) == band


async def saved(shop: Shop, savers: int, **on: object) -> None:
    """So many people save it."""
    saves = [Pinned(next(_visitors), "save", 60, **on) for _ in range(savers)]  # type: ignore[arg-type]
    await load(shop.parts.warehouse, shop.site_id, saves)


async def refreshed(warehouse: Warehouse) -> Warehouse:
    """What ClickHouse does every hour."""
    await popular.refresh(warehouse)
    return warehouse


def told(shop: Shop) -> Popular | None:
    return shop.parts.store.snapshot(NOW_MS).popular.get(shop.site_id)


async def test_bands_are_copied_and_below_the_first_nothing(shop: Shop) -> None:
    await saved(shop, 50, product="lamp", pin=7)
    await saved(shop, 49, product="rug", pin=8)
    await saved(shop, 101, product="sofa")
    await popular.copy(shop.parts.store, await refreshed(shop.parts.warehouse))
    assert told(shop) == Popular(products={"sofa": 100, "lamp": 50}, pins={"7": 50})
    await saved(shop, 1, product="rug")
    await saved(shop, 1, pin=8)
    await popular.copy(shop.parts.store, await refreshed(shop.parts.warehouse))
    assert told(shop) == Popular(products={"sofa": 100, "lamp": 50, "rug": 50}, pins={"7": 50, "8": 50})


async def test_only_the_best_of_each_site_are_copied(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(popular, "MOST_A_SITE", 2)
    for savers, product in ((51, "b"), (53, "d"), (52, "c"), (54, "e")):
        await saved(shop, savers, product=product)
    await popular.copy(shop.parts.store, await refreshed(shop.parts.warehouse))
    assert told(shop) == Popular(products={"e": 50, "d": 50})


async def test_push_copies_while_it_runs_and_outlives_a_fault(
    shop: Shop, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(popular, "EVERY_S", 0.01)
    await saved(shop, 60, product="lamp")
    await refreshed(shop.parts.warehouse)
    away = Warehouse.open(Settings(url="http://127.0.0.1:1"), password="")
    with pytest.raises(WarehouseAway):
        await popular.copy(store, away)
    async with popular.copied(store, away), asyncio.timeout(20):
        while "stays as it was" not in caplog.text:
            await asyncio.sleep(0.01)
    await away.aclose()
    async with popular.copied(store, shop.parts.warehouse), asyncio.timeout(20):
        while told(shop) is None:
            await asyncio.sleep(0.01)
    assert told(shop) == Popular(products={"lamp": 50})
