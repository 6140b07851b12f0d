"""Real Chromium for tests: one browser for the run, one fresh profile for each page that a test opens.

The browser is reached over its debugging port, so that a test's page lives in the test's own event loop, beside the
servers it talks to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"
"""Headless Chromium's own says so, and the collector takes it for a crawler. Set for the whole browser, as what a page
sends while it is left does not carry what Playwright sets for a page."""

ARGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    f"--user-agent={AGENT}",
)
START_S = 30.0
GPC_SCRIPT = "Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', {get: () => true})"

OpenPage = Callable[..., Awaitable[Page]]
"""`await open_page(gpc=False, **options)` -> a page in a profile of its own; options go to Playwright's new_context."""


def chromium_path() -> str | None:
    """PINSTREAM_CHROMIUM, or the one that is installed."""
    named = os.environ.get("PINSTREAM_CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running Chromium's debugging port. Without Chromium: skipped, in CI failed."""
    path = chromium_path()
    if not path or not shutil.which(path):
        sentence = "Chromium is missing: apt-get install chromium, or name it in PINSTREAM_CHROMIUM."
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    profile = tmp_path_factory.mktemp("chromium")
    with (profile / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [path, *ARGS, f"--user-data-dir={profile}"], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            yield f"http://127.0.0.1:{_debugging_port(process, profile)}"
        finally:
            process.terminate()
            process.wait(10)


def _debugging_port(process: subprocess.Popen[bytes], profile: Path) -> int:
    """The port that Chromium took, which it writes into its profile."""
    deadline = time.monotonic() + START_S
    note = profile / "DevToolsActivePort"
    while time.monotonic() < deadline and process.poll() is None:
        lines = note.read_text().split() if note.exists() else []
        if len(lines) == 2:
            return int(lines[0])
        time.sleep(0.05)
    raise RuntimeError(f"Chromium did not start: {(profile / 'chromium.log').read_text(errors='replace')[-2000:]}")


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Browser]:
    """The browser behind a debugging port."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(address)
        yield browser
        await browser.close()


@asynccontextmanager
async def pages(browser: Browser) -> AsyncIterator[OpenPage]:
    """Opens pages, each with cookies and storage of its own, until the block ends.

    Raises:
        AssertionError: a script had an uncaught error, or a page asked for permission (OPTIONS) before a request.
    """
    errors: list[str] = []
    preflights: list[str] = []

    def requested(said: dict[str, Any]) -> None:
        if said["request"]["method"] == "OPTIONS":
            preflights.append(said["request"]["url"])

    async with AsyncExitStack() as stack:

        async def open_one(*, gpc: bool = False, **options: Any) -> Page:
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            context.on("weberror", lambda error: errors.append(str(error.error)))
            if gpc:
                await with_gpc(context)
            page = await context.new_page()
            network = await context.new_cdp_session(page)  # Playwright itself tells of no preflights
            network.on("Network.requestWillBeSent", requested)
            await network.send("Network.enable")
            return page

        yield open_one
    assert not errors, errors
    assert not preflights, preflights


async def with_gpc(context: BrowserContext) -> None:
    """From the next page on, a browser with Global Privacy Control: header and property."""
    await context.set_extra_http_headers({"Sec-GPC": "1"})
    await context.add_init_script(GPC_SCRIPT)


@pytest.fixture
async def open_page(chromium: str) -> AsyncIterator[OpenPage]:
    """Opens pages, as `pages` does."""
    async with connected(chromium) as browser, pages(browser) as open_one:
        yield open_one


@pytest.fixture
async def page(open_page: OpenPage) -> Page:
    """A page of a visitor whose browser says nothing about tracking."""
    return await open_page()
