"""What the Pinterest tests share: quiet retries, a client, members."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator

import pytest
import stamina.instrumentation

from pinstream.pinterest.client import Client
from tests.fake_pinterest import FakePinterest


@pytest.fixture(autouse=True)
def quick_and_quiet_retries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """stamina would print each retry to stdout; the client logs each fault itself."""
    monkeypatch.setattr("pinstream.pinterest.client.WAIT_INITIAL_S", 0.05)
    monkeypatch.setattr("pinstream.pinterest.client.WAIT_JITTER_S", 0.05)
    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([])
    yield
    stamina.instrumentation.set_on_retry_hooks(before)


@pytest.fixture
async def client(fake_pinterest: FakePinterest) -> AsyncIterator[Client]:
    """A client of the fake."""
    async with Client(fake_pinterest.settings()) as client:
        yield client


def members(count: int, start: int = 0) -> list[str]:
    """Hashed e-mails of `count` people."""
    return [hashed(f"person{number}@shop.example") for number in range(start, start + count)]


def hashed(text: str) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(text.encode()).hexdigest()
