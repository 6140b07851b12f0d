"""The recording collector and a site, on two ports of this machine: two origins of one site."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pinstream.demo.shop.app import serve
from pinstream.serving import serving
from tests.browser.recorder import TAG_ID, Recorder, Site


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    """Where the tag sends to. That it never asks permission first (OPTIONS) is checked after every test."""
    collector = Recorder()
    async with serving(collector.app(), "127.0.0.1", 0, lifespan="off") as port:
        collector.url = f"http://127.0.0.1:{port}"
        yield collector
    assert set(collector.methods) <= {"POST"}


@pytest.fixture
async def site(recorder: Recorder) -> AsyncIterator[Site]:
    storefront = Site(recorder.url)
    async with serving(storefront.app(), "127.0.0.1", 0, lifespan="off") as port:
        storefront.url = f"http://127.0.0.1:{port}"
        yield storefront


@pytest.fixture
async def shop_url(recorder: Recorder) -> AsyncIterator[str]:
    """The demo shop, with the recording collector behind its tag."""
    async with serve("127.0.0.1", 0, recorder.url, TAG_ID) as port:
        yield f"http://127.0.0.1:{port}"
