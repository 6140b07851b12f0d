"""The shop in real Chromium in front of the real edge: what is in the log afterwards."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.clock import pass_time, with_own_clock
from tests.browser.collector import LOOK_S, Collector
from tests.browser.recorder import PATIENCE_S, in_browser
from tests.browser.test_shop import EMAIL, PAGES_OF_A_PURCHASE, buy, complaints
from tests.browser_fixtures import OpenPage

pytestmark = in_browser


async def stored(collector: Collector, last: str) -> list[dict[str, Any]]:
    """The events in the log, once `last` is among them."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            events = await collector.stored()
            if last in [event["event"] for event in events]:
                return events
            await asyncio.sleep(LOOK_S)


async def cookie(page: Page) -> str:
    return {each["name"]: each["value"] for each in await page.context.cookies()}.get("ps_vid", "")


async def test_a_purchase_is_in_the_log_as_one_visitor(page: Page, shop: str, collector: Collector) -> None:
    wrong = complaints(page)
    await page.goto(shop)
    await page.click("text=Accept")
    await buy(page, shop)
    events = await stored(collector, "checkout")
    assert wrong == []
    names = [event["event"] for event in events]
    order = ["search", "view_category", "page_visit", "add_to_cart", "signup", "initiate_checkout", "checkout"]
    rest = iter(names)
    assert all(name in rest for name in order), names
    # A batch may come twice, if its page was left before the answer came; its ids count once.
    assert len({event["event_id"] for event in events if event["event"] == "init"}) == 1 + PAGES_OF_A_PURCHASE
    assert len({event["visitor_id"] for event in events}) == 1
    hashed = hashlib.sha256(EMAIL.encode()).hexdigest()
    assert {event.get("em") for event in events if event["event"] == "signup"} == {hashed}
    assert await cookie(page) == await page.evaluate("localStorage.ps_vid")


async def test_a_change_of_mind_ends_in_the_log_and_takes_the_cookie(
    page: Page, shop: str, collector: Collector
) -> None:
    await page.goto(shop)
    await page.click("text=Accept")
    await stored(collector, "page_visit")
    assert await cookie(page)
    await page.click("text=Privacy choices")
    await page.click("text=Refuse")
    events = await stored(collector, "consent_withdrawn")
    await page.goto(f"{shop}/p/mug")
    await pass_time(page, 10)
    later = await stored(collector, "consent_withdrawn")
    assert {event["event_id"] for event in later} == {event["event_id"] for event in events}
    assert len({event["visitor_id"] for event in events}) == 1
    assert await cookie(page) == ""
    assert await page.evaluate("localStorage.length") == 0


@pytest.mark.parametrize("gpc", [False, True])
async def test_without_a_yes_the_log_stays_empty(
    gpc: bool, open_page: OpenPage, shop: str, collector: Collector
) -> None:
    page = await open_page(gpc=gpc)
    await with_own_clock(page)
    await page.goto(shop)
    if not gpc:
        await page.click("text=Refuse")
    await buy(page, shop)
    await pass_time(page, 10)
    assert await collector.stored() == []
    assert await cookie(page) == ""
