"""What `pinstream snippet` prints, in real Chromium under the policy it prints, in front of the real edge."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import ConsoleMessage, Page

from pinstream.collect.snippet import Snippet, snippet
from pinstream.collect.tagfiles import TagFiles
from pinstream.state.snapshot import Site as Shop
from tests.browser.collector import Collector
from tests.browser.recorder import PATIENCE_S, TAG_ID, Site, in_browser
from tests.browser_fixtures import OpenPage

pytestmark = in_browser

FIRST = "() => window.pintrk && pintrk.live && pintrk('track', 'lead')"
"""The id of an event, once the tag runs."""


def printed(platform: str, collector: Collector) -> Snippet:
    shop = Shop(id=1, tag_id=TAG_ID, consent_default="yes")
    return snippet(shop, platform, collector.url, TagFiles("/tag.js", "/p/i"))


def policy(made: Snippet) -> str:
    """What a strict shop has, and what the snippet asks for."""
    return "default-src 'none'; " + "; ".join(f"{name} {' '.join(allowed)}" for name, allowed in made.csp.items())


async def given(page: Page, expression: str) -> Any:
    """What a function of the page gives, once it is something. Playwright waits by `eval`, which policies forbid."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await page.evaluate(expression)):
            await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize("platform", ["html", "html-csp", "pinned"])
async def test_it_runs_under_the_policy_it_names(
    platform: str, store: Site, collector: Collector, open_page: OpenPage
) -> None:
    made = printed("html-csp" if platform == "pinned" else platform, collector)
    store.pages["/"] = made.pinned if platform == "pinned" else made.text
    store.policies["/"] = policy(made)
    page = await open_page()
    await page.goto(store.url)
    event_id = await given(page, FIRST)
    events = {event["event_id"]: event["event"] for event in await collector.until([event_id])}
    assert sorted(events.values()) == ["lead", "page_visit"]


async def test_a_pinned_script_of_another_version_does_not_run(
    store: Site, collector: Collector, open_page: OpenPage
) -> None:
    made = printed("html", collector)
    store.pages["/"] = made.pinned.replace(made.pinned_url, made.script_url).replace("sha384-", "sha384-x")
    page = await open_page()
    async with page.expect_console_message(lambda message: "integrity" in message.text):
        await page.goto(store.url)
    assert await page.evaluate("typeof window.pintrk") == "undefined"


@pytest.mark.parametrize("platform", ["html", "html-csp"])
async def test_debug_says_what_is_decided(
    platform: str, store: Site, collector: Collector, open_page: OpenPage
) -> None:
    made = printed(platform, collector)
    store.pages["/"], store.policies["/"] = made.text, policy(made)
    page = await open_page()

    def stored(message: ConsoleMessage) -> bool:
        return "answered 204: all of it is stored" in message.text

    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    async with page.expect_console_message(stored):
        await page.goto(f"{store.url}/?pt_debug=1")
    for part in ("consent is yes: the site's default", "queued pagevisit", f"sent for site {TAG_ID}"):
        assert any(part in text for text in said), said


async def test_an_adapter_is_heard_whichever_script_is_first(
    store: Site, collector: Collector, open_page: OpenPage
) -> None:
    shop = Shop(id=1, tag_id=TAG_ID)
    made = snippet(shop, "html-csp", collector.url, TagFiles("/tag.js", "/p/i"))
    adapter = f'<script async src="{collector.url}/adapters/consent-mode.js"></script>'
    store.pages["/"] = f'<script src="/layer.js"></script>{adapter}{made.text}'
    store.scripts["/layer.js"] = (
        "dataLayer = []; function gtag() { dataLayer.push(arguments) }"
        "gtag('consent', 'default', { ad_storage: 'denied', ad_user_data: 'denied' })"
    )
    page = await open_page()
    await page.goto(store.url)
    event_id = await given(page, FIRST)
    assert await page.evaluate("localStorage.length") == 0
    await page.evaluate("gtag('consent', 'update', { ad_storage: 'granted', ad_user_data: 'granted' })")
    assert {event["consent"] for event in await collector.until([event_id])} == {"yes"}


async def test_the_mirror_and_the_official_library_have_one_id(
    store: Site, collector: Collector, open_page: OpenPage
) -> None:
    """Of the official tag only its stub is here; the library's part is that it reads the queue."""
    made = printed("mirror", collector)
    store.pages["/"] = (
        "<script>window.pintrk = function () { window.pintrk.queue.push(Array.prototype.slice.call(arguments)) };"
        "pintrk.queue = []; pintrk.version = '3.0'; pintrk('load', '2600'); pintrk('track', 'signup', { value: 1 })"
        f"</script>{made.text}"
    )
    page = await open_page()
    await page.goto(store.url)
    await given(page, "() => pintrk.live")
    event_id = await page.evaluate("pintrk.queue.find(([command]) => command === 'track')[2].event_id")
    (event,) = await collector.until([event_id])
    assert (event["event"], event["event_id"]) == ("signup", event_id)
