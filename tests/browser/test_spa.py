"""Pages that change without being loaded: with `pagevisit` each address is a page visit, however it comes about."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.recorder import TAG_ID, Recorder, Site, in_browser

pytestmark = in_browser

LOAD = f'pintrk("setconsent", true); pintrk("load", "{TAG_ID}", {{pagevisit: true}});'
NO_NAVIGATION_API = "Object.defineProperty(window, 'navigation', {value: undefined})"

both_ways = pytest.mark.parametrize("hook", ["Navigation API", "history"])


async def started(page: Page, site: Site, hook: str = "Navigation API", calls: str = LOAD) -> None:
    if hook == "history":
        await page.add_init_script(NO_NAVIGATION_API)
    site.pages["/one"] = site.tag(calls, load=False)
    await page.goto(f"{site.url}/one")
    await page.wait_for_function("pintrk.live")
    assert await page.evaluate("window.navigation === undefined") == (hook == "history")


async def visits(page: Page, recorder: Recorder, site: Site) -> list[str]:
    """The addresses of the page visits, in order, once all have come."""
    await page.evaluate("pintrk('track', 'lead', {last: true})")
    await recorder.carrying(last=True)
    seen: dict[str, Any] = {event["event_id"]: event for event in recorder.events if event["event"] == "pagevisit"}
    return [event["url"].removeprefix(site.url) for event in seen.values()]


@both_ways
async def test_each_address_is_a_visit(hook: str, page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site, hook)
    await page.evaluate("history.pushState({}, '', '/two')")
    await page.evaluate("history.replaceState({}, '', '/three?color=red')")
    await page.evaluate("history.pushState({}, '', '?color=blue')")
    await page.go_back()
    await page.wait_for_url("**/three?color=red")
    await page.go_forward()
    await page.wait_for_url("**/three?color=blue")
    assert await visits(page, recorder, site) == [
        "/one",
        "/two",
        "/three?color=red",
        "/three?color=blue",
        "/three?color=red",
        "/three?color=blue",
    ]


@both_ways
async def test_the_same_address_is_no_new_visit(hook: str, page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site, hook)
    await page.evaluate("history.replaceState({step: 1}, '')")
    await page.evaluate("history.replaceState({step: 2}, '', '/one')")
    await page.evaluate("history.pushState({step: 3}, '', location.href)")
    await page.evaluate("location.hash = 'reviews'")
    await page.evaluate("history.replaceState({}, '', '/one#shipping')")
    assert await visits(page, recorder, site) == ["/one"]


@both_ways
async def test_the_pages_own_history_works_on(hook: str, page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site, hook)
    state = await page.evaluate("""() => {
        history.pushState({cart: 3}, "", "/two");
        history.replaceState({cart: 4}, "", "/three");
        return [history.state, location.pathname, history.length];
    }""")
    assert state[:2] == [{"cart": 4}, "/three"]
    assert await page.evaluate("(() => { try { history.pushState(() => 1, '') } catch (e) { return e.name } })()") == (
        "DataCloneError"
    )


async def test_without_the_option_a_page_tells_its_visits_itself(page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site, calls=LOAD.replace("pagevisit: true", ""))
    await page.evaluate("history.pushState({}, '', '/two')")
    assert await visits(page, recorder, site) == []


async def test_visits_before_a_yes_come_with_it(page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site, calls=LOAD.replace('pintrk("setconsent", true);', ""))
    await page.evaluate("history.pushState({}, '', '/two')")
    assert recorder.sent == []
    await page.evaluate("pintrk('setconsent', true)")
    assert await visits(page, recorder, site) == ["/one", "/two"]


async def test_loaded_twice_each_address_is_one_visit(page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site, calls=LOAD + f'pintrk("load", "{TAG_ID}", {{pagevisit: true}});')
    await page.evaluate("pintrk('load', 'demo', {pagevisit: true})")
    await page.evaluate("history.pushState({}, '', '/two')")
    assert await visits(page, recorder, site) == ["/one", "/two"]
