"""A visitor walks the demo shop: what the tag then tells, and what it does not."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from playwright.async_api import Page, Request

from tests.browser.clock import with_own_clock
from tests.browser.recorder import Recorder, in_browser
from tests.browser_fixtures import OpenPage

pytestmark = in_browser

EMAIL = "ada@example.com"
HASH = hashlib.sha256(EMAIL.encode()).hexdigest()


def complaints(page: Page) -> list[str]:
    """What the browser complains of from now on: a blocked script, a missing file, an error.

    Not: what was under way when the page was left. The tag's requests outlive the page, so they are no failure.
    """
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)

    def failed(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":
            said.append(f"{request.url}: {request.failure}")

    page.on("requestfailed", failed)
    return said


PAGES_OF_A_PURCHASE = 9


async def buy(page: Page, shop_url: str) -> None:
    """A search, a shelf, two mugs, the newsletter, the checkout: so many pages as PAGES_OF_A_PURCHASE says."""
    await page.goto(shop_url)
    await page.fill("[name=q]", "mug")
    await page.press("[name=q]", "Enter")
    await page.wait_for_url("**/search?q=mug")
    await page.click("nav >> text=Ceramics")
    await page.click("text=Morning mug")
    await page.wait_for_url("**/p/mug")
    await page.fill("[name=quantity]", "2")
    await page.click("text=Add to cart")
    await page.wait_for_url("**/cart")
    await page.fill("#newsletter [name=email]", EMAIL)
    await page.click("text=Sign up")
    await page.wait_for_url("**/?subscribed=1**")
    await page.click("text=Cart")
    await page.click("text=Go to checkout")
    await page.wait_for_url("**/checkout")
    await page.fill("main [name=email]", EMAIL)
    await page.click("text=Place order")
    await page.wait_for_url("**/thanks")


async def test_a_purchase_is_told_step_by_step(page: Page, shop_url: str, recorder: Recorder) -> None:
    recorder.sets_cookie = True
    wrong = complaints(page)
    await page.goto(shop_url)
    await page.click("text=Accept")
    await buy(page, shop_url)
    await recorder.until(
        "pagevisit", "search", "viewcategory", "pagevisit", "addtocart", "signup", "initiatecheckout", "checkout"
    )
    assert wrong == []
    assert len({event["event_id"] for event in recorder.events if event["event"] == "init"}) == 1 + PAGES_OF_A_PURCHASE

    told: dict[str, dict[str, Any]] = {event["event"]: event for event in recorder.events}
    assert told["search"]["search_query"] == "mug"
    assert told["viewcategory"]["product_category"] == "Ceramics"
    for name in ("addtocart", "initiatecheckout", "checkout"):
        assert (told[name]["value"], told[name]["currency"], told[name]["order_quantity"]) == (37, "EUR", 2)
        assert [item["product_id"] for item in told[name]["line_items"]] == ["mug"]
    assert told["checkout"]["order_id"] == await page.inner_text("#order")
    assert told["checkout"]["event_id"] == f"order-{told['checkout']['order_id']}"

    assert len({sent.body["visitor_id"] for sent in recorder.sent}) == 1
    assert all(sent.body["consent"] == "yes" for sent in recorder.sent)
    hashed = [sent.body["user"] for sent in recorder.sent if sent.body["user"]]
    assert hashed and all(user == {"em": [HASH]} for user in hashed)
    assert EMAIL not in str(recorder.sent)


async def test_an_order_page_opened_twice_tells_one_order(page: Page, shop_url: str, recorder: Recorder) -> None:
    await page.goto(shop_url)
    await page.click("text=Accept")
    await buy(page, shop_url)
    await page.reload()
    await recorder.until("checkout", "checkout")
    assert len({event["event_id"] for event in recorder.events if event["event"] == "checkout"}) == 1


async def test_the_cart_is_told_also_when_the_visitor_leaves_at_once(
    page: Page, shop_url: str, recorder: Recorder
) -> None:
    await page.goto(shop_url)
    await page.click("text=Accept")
    await page.goto(f"{shop_url}/p/vase")
    await page.click("text=Add to cart")
    await page.goto("about:blank")
    await recorder.until("addtocart")


@pytest.mark.parametrize("answer", ["Refuse", ""])
async def test_without_a_yes_nothing_is_told(answer: str, page: Page, shop_url: str, recorder: Recorder) -> None:
    await with_own_clock(page)
    await page.goto(shop_url)
    if answer:
        await page.click(f"text={answer}")
    else:
        await page.evaluate("document.getElementById('consent').remove()")
    await buy(page, shop_url)
    await recorder.stays_silent(page)
    assert recorder.sent == []
    assert await page.evaluate("localStorage.length") == 0


async def test_with_gpc_nobody_is_asked_and_nothing_is_told(
    open_page: OpenPage, shop_url: str, recorder: Recorder
) -> None:
    page = await open_page(gpc=True)
    await with_own_clock(page)
    await page.goto(shop_url)
    assert not await page.is_visible("#consent")
    await page.click("text=Privacy choices")
    assert await page.is_visible("text=Your browser asks not to be tracked")
    assert not await page.is_visible("#accept")
    await page.click("#refuse")
    await buy(page, shop_url)
    await recorder.stays_silent(page)
    assert recorder.sent == []


async def test_a_change_of_mind_withdraws(page: Page, shop_url: str, recorder: Recorder) -> None:
    recorder.sets_cookie = True
    await with_own_clock(page)
    await page.goto(shop_url)
    await page.click("text=Accept")
    await recorder.until("init", "pagevisit")
    await page.click("text=Privacy choices")
    await page.click("text=Refuse")
    await recorder.until("consent_withdrawn")
    await page.goto(f"{shop_url}/p/mug")
    await recorder.stays_silent(page)
    assert recorder.counted == ["init", "pagevisit", "consent_withdrawn"]


@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_pages_fit_the_screen(width: int, open_page: OpenPage, shop_url: str) -> None:
    page = await open_page(viewport={"width": width, "height": 800})
    await page.goto(f"{shop_url}/p/lamp")
    await page.click("text=Refuse")
    await page.click("text=Add to cart")
    await page.wait_for_url("**/cart")
    for path in ("/", "/c/plants", "/p/monstera", "/search?q=linen", "/cart", "/checkout", "/nope"):
        await page.goto(shop_url + path)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
