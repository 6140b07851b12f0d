"""The recording collector, the real one, and sites: on names that make them one site for the browser, or two.

All tests of this folder share one event loop and one connection to the browser; each has profiles of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from pinstream.demo.shop.app import serve
from pinstream.serving import serving
from tests.browser.collector import Collector
from tests.browser.recorder import ONE_SITE, SHOP, TAG_ID, Recorder, Site
from tests.browser_fixtures import OpenPage, connected, pages


@pytest.fixture
def collector_host(request: pytest.FixtureRequest) -> str:
    """The collector's name: on the shop's site, unless a test is parametrised with others."""
    return str(getattr(request, "param", ONE_SITE))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_browser(chromium: str) -> AsyncIterator[Browser]:
    async with connected(chromium) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(shared_browser: Browser) -> AsyncIterator[OpenPage]:
    """Opens pages, as `pages` does."""
    async with pages(shared_browser) as open_one:
        yield open_one


@pytest_asyncio.fixture(loop_scope="session")
async def page(open_page: OpenPage) -> Page:
    """A page of a visitor whose browser says nothing about tracking."""
    return await open_page()


@pytest_asyncio.fixture(loop_scope="session")
async def recorder(collector_host: str) -> AsyncIterator[Recorder]:
    """Where the tag sends to, as a notebook. That nothing but POST came is checked after every test."""
    collector = Recorder(collector_host)
    async with serving(collector.app(), "127.0.0.1", 0, lifespan="off") as port:
        collector.url = f"http://{collector_host}:{port}"
        yield collector
    assert set(collector.methods) <= {"POST"}


@pytest_asyncio.fixture(loop_scope="session")
async def site(recorder: Recorder) -> AsyncIterator[Site]:
    storefront = Site(recorder.url)
    async with serving(storefront.app(), "127.0.0.1", 0, lifespan="off") as port:
        storefront.url = f"http://{SHOP}:{port}"
        yield storefront


@pytest_asyncio.fixture(loop_scope="session")
async def shop_url(recorder: Recorder) -> AsyncIterator[str]:
    """The demo shop, with the recording collector behind its tag."""
    async with serve("127.0.0.1", 0, recorder.url, TAG_ID) as port:
        yield f"http://{SHOP}:{port}"


@pytest_asyncio.fixture(loop_scope="session")
async def collector(collector_host: str, tmp_path: Path) -> AsyncIterator[Collector]:
    """The real edge in front of a real journal."""
    async with Collector(collector_host, tmp_path) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def store(collector: Collector) -> AsyncIterator[Site]:
    """A site with the real edge behind its tag."""
    storefront = Site(collector.url)
    async with serving(storefront.app(), "127.0.0.1", 0, lifespan="off") as port:
        storefront.url = f"http://{SHOP}:{port}"
        yield storefront
