"""The shop in real Chromium in front of the real edge: what is in the log afterwards."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from pinstream.demo.shop.app import serve
from pinstream.event import EVENTS
from pinstream.state.snapshot import Site, Snapshot
from tests.browser.recorder import TAG_ID
from tests.browser.test_shop import EMAIL, PAGES_OF_A_PURCHASE, buy, complaints
from tests.browser_fixtures import OpenPage
from tests.collect.conftest import Running, running

pytestmark = pytest.mark.browser

LOG_PATIENCE_S = 40.0  # opening the log anew for each look takes its time
SNAPSHOT = Snapshot(taken_ms=1, sites=(Site(id=1, tag_id=TAG_ID, origins=("*",), currency="EUR"),))


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, snapshot=SNAPSHOT) as edge:
        yield edge


@pytest.fixture
async def shop(edge: Running) -> AsyncIterator[str]:
    async with serve("127.0.0.1", 0, edge.base_url, TAG_ID) as port:
        yield f"http://127.0.0.1:{port}"


async def stored(edge: Running, last: str) -> list[dict[str, Any]]:
    """The events in the log, once `last` is among them."""
    async with asyncio.timeout(LOG_PATIENCE_S):
        while True:
            await asyncio.sleep(1)
            events = sorted(await edge.stored(EVENTS), key=lambda event: event["time"])
            if last in [event["event"] for event in events]:
                return events


async def cookie(page: Page) -> str:
    return {each["name"]: each["value"] for each in await page.context.cookies()}.get("ps_vid", "")


async def test_a_purchase_is_in_the_log_as_one_visitor(page: Page, shop: str, edge: Running) -> None:
    wrong = complaints(page)
    await page.goto(shop)
    await page.click("text=Accept")
    await buy(page, shop)
    events = await stored(edge, "checkout")
    assert wrong == []
    names = [event["event"] for event in events]
    order = ["search", "view_category", "page_visit", "add_to_cart", "signup", "initiate_checkout", "checkout"]
    rest = iter(names)
    assert all(name in rest for name in order), names
    # A batch may come twice, if its page was left before the answer came; its ids count once.
    assert len({event["event_id"] for event in events if event["event"] == "init"}) == 1 + PAGES_OF_A_PURCHASE
    assert len({event["visitor_id"] for event in events}) == 1
    assert {event.get("em", "") for event in events if event["event"] == "signup"} == {
        hashlib.sha256(EMAIL.encode()).hexdigest()
    }
    assert await cookie(page) == await page.evaluate("localStorage.ps_vid")


async def test_a_change_of_mind_ends_in_the_log_and_takes_the_cookie(page: Page, shop: str, edge: Running) -> None:
    await page.goto(shop)
    await page.click("text=Accept")
    await stored(edge, "page_visit")
    assert await cookie(page)
    await page.click("text=Privacy choices")
    await page.click("text=Refuse")
    events = await stored(edge, "consent_withdrawn")
    await page.goto(f"{shop}/p/mug")
    await asyncio.sleep(1.5)
    later = await stored(edge, "consent_withdrawn")
    assert {event["event_id"] for event in later} == {event["event_id"] for event in events}
    assert len({event["visitor_id"] for event in events}) == 1
    assert await cookie(page) == ""
    assert await page.evaluate("localStorage.length") == 0


@pytest.mark.parametrize("gpc", [False, True])
async def test_without_a_yes_the_log_stays_empty(gpc: bool, open_page: OpenPage, shop: str, edge: Running) -> None:
    page = await open_page(gpc=gpc)
    await page.goto(shop)
    if not gpc:
        await page.click("text=Refuse")
    await buy(page, shop)
    await asyncio.sleep(1.5)
    assert await edge.stored(EVENTS) == []
    assert await cookie(page) == ""
