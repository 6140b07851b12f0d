"""badge.js in real Chromium, in front of the real edge: what a page says of its products."""

from __future__ import annotations

from playwright.async_api import Page, expect

from tests.browser.collector import Collector
from tests.browser.recorder import TAG_ID, Site, in_browser

pytestmark = in_browser

SPANS = """<p><span id=lamp data-pinstream-product="lamp"></span>
<span id=rug data-pinstream-product="rug">new</span>
<span id=sofa data-pinstream-product="sofa" data-text="Épinglé {n} fois"></span></p>"""


async def test_popular_products_say_so_without_cookies_or_consent(
    page: Page, store: Site, collector: Collector
) -> None:
    script = f'<script defer src="{collector.url}/badge.js" data-site="{TAG_ID}"></script>'
    store.pages["/"] = f"{script}<body>{SPANS}"
    store.policies["/"] = f"default-src 'none'; script-src {collector.url}; connect-src {collector.url}; img-src data:"
    await page.goto(store.url)
    await expect(page.locator("#lamp")).to_have_text("Saved by 1,000+ people on Pinterest")
    await expect(page.locator("#sofa")).to_have_text("Épinglé 50+ fois")
    await expect(page.locator("#rug")).to_have_text("new")
    later = '<b data-pinstream-product="lamp"></b>'
    await page.locator("p").evaluate("(element, html) => element.insertAdjacentHTML('beforeend', html)", later)
    await expect(page.locator("b")).to_have_text("Saved by 1,000+ people on Pinterest")
    assert await page.context.cookies() == []
    assert await page.evaluate("localStorage.length") == 0
    assert await collector.stored() == []
