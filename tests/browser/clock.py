"""A page's own clock: a minute of its timers takes a moment of the test."""

from __future__ import annotations

from playwright.async_api import Page


async def with_own_clock(page: Page) -> None:
    """From the next page on, its timers and dates are those that `pass_time` gives it. Playwright's are no whole ms."""
    await page.clock.install()
    await page.add_init_script("Date.now = (now => () => Math.floor(now()))(Date.now)")


async def pass_time(page: Page, seconds: int) -> None:
    """Let the page's clock run on by so much, and the network keep up: each second ends with a request's answer."""
    for _ in range(seconds):
        await page.clock.run_for(1000)
        await page.evaluate("() => fetch('/robots.txt').then(answer => answer.text())")


async def in_time(page: Page, condition: str, seconds: int = 90) -> None:
    """Let the page's clock run on until a condition holds. Fails when it does not within so much of it."""
    for _ in range(seconds):
        if await page.evaluate(condition):
            return
        await pass_time(page, 1)
    raise AssertionError(f"{condition} did not come true within {seconds} s of the page")
