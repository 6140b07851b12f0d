"""What the Pinterest tests share: quick retries, a client, members."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest

from pinstream.pinterest.client import Client
from tests.fake_pinterest import FakePinterest


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test can afford."""
    monkeypatch.setattr("pinstream.pinterest.client.WAIT_INITIAL_S", 0.05)
    monkeypatch.setattr("pinstream.pinterest.client.WAIT_JITTER_S", 0.05)


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
