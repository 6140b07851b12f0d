"""The recording collector, the real one, and sites: on names that make them one site for the browser, or two.

All tests of this folder share one event loop and one connection to the browser; each has profiles of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page
from starlette.types import ASGIApp

from pinstream.demo.shop.app import app as shop_app
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


Serve = Callable[[ASGIApp], Awaitable[int]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _closing() -> AsyncIterator[list[asyncio.Task[None]]]:
    """What is being closed while the next test runs: a server takes some tenths of a second for it."""
    closing: list[asyncio.Task[None]] = []
    yield closing
    await asyncio.gather(*closing)


@pytest_asyncio.fixture(loop_scope="session")
async def serve_app(_closing: list[asyncio.Task[None]]) -> AsyncIterator[Serve]:
    """`await serve_app(app)` -> the port on which it is served until the test ends."""
    stack = AsyncExitStack()

    async def serve_one(app: ASGIApp) -> int:
        return await stack.enter_async_context(serving(app, "127.0.0.1", 0, lifespan="off"))

    yield serve_one
    _closing.append(asyncio.create_task(stack.aclose()))


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
async def recorder(collector_host: str, serve_app: Serve) -> AsyncIterator[Recorder]:
    """Where the tag sends to, as a notebook. That nothing but POST came is checked after every test."""
    collector = Recorder(collector_host)
    collector.url = f"http://{collector_host}:{await serve_app(collector.app())}"
    yield collector
    assert set(collector.methods) <= {"POST"}


@pytest_asyncio.fixture(loop_scope="session")
async def site(recorder: Recorder, serve_app: Serve) -> Site:
    """A site with the recorder behind its tag."""
    return await _site(recorder.url, serve_app)


@pytest_asyncio.fixture(loop_scope="session")
async def shop_url(recorder: Recorder, serve_app: Serve) -> str:
    """The demo shop, with the recorder behind its tag."""
    return f"http://{SHOP}:{await serve_app(shop_app(recorder.url, TAG_ID))}"


@pytest_asyncio.fixture(loop_scope="session")
async def collector(
    collector_host: str, tmp_path: Path, _closing: list[asyncio.Task[None]]
) -> AsyncIterator[Collector]:
    """The real edge in front of a real journal."""
    edge = Collector(collector_host, tmp_path)
    await edge.start()
    yield edge
    _closing.append(asyncio.create_task(edge.stop()))


@pytest_asyncio.fixture(loop_scope="session")
async def store(collector: Collector, serve_app: Serve) -> Site:
    """A site with the real edge behind its tag."""
    return await _site(collector.url, serve_app)


@pytest_asyncio.fixture(loop_scope="session")
async def shop(collector: Collector, serve_app: Serve) -> str:
    """The demo shop, with the real edge behind its tag."""
    return f"http://{SHOP}:{await serve_app(shop_app(collector.url, TAG_ID))}"


async def _site(collector_url: str, serve_app: Serve) -> Site:
    storefront = Site(collector_url)
    storefront.url = f"http://{SHOP}:{await serve_app(storefront.app())}"
    return storefront
