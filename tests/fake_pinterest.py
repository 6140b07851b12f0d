"""The fake Pinterest as a fixture: one server for the whole run, emptied before each test that asks for it.

It runs in a thread with a loop of its own, so tests of both kinds (async or not) and other processes can call it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from pinstream import settings
from pinstream.pinterest import fake
from pinstream.pinterest.fakeworld import World

TOKEN = "pina_TESTS0123456789"

_QUICK: dict[str, Any] = {"trust_env": False, "verify": False}  # reading certificates costs more than the call


class FakePinterest:
    """Where it listens, and what a test may ask or tell it. Methods block, for milliseconds."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.root}/v5"
        self.token = TOKEN
        self.ad_account_id = fake.AD_ACCOUNT_ID

    def settings(self, **changes: Any) -> settings.Pinterest:
        """Settings that lead here, as quick as tests like them."""
        plain: dict[str, Any] = {
            "base_url": self.base_url,
            "ad_account_id": self.ad_account_id,
            "access_token": SecretStr(self.token),
            "requests_per_s": 1000,
            "timeout_s": 5,
        }
        return settings.Pinterest(**{**plain, **changes})

    def lists(self) -> list[dict[str, Any]]:
        """Every customer list: id, name, counters, members."""
        return list(self._get("/_fake/lists")["items"])

    def members(self, list_id: str) -> set[str]:
        """Who is in a list."""
        return set(self._get(f"/_fake/lists/{list_id}/members")["members"])

    def audiences(self) -> list[dict[str, Any]]:
        """Every audience, as the API shows it."""
        return list(self._get("/_fake/audiences")["items"])

    def calls(self, operation: str = "") -> list[dict[str, Any]]:
        """The calls it got, oldest first; only those of `operation` if one is given."""
        calls = self._get("/_fake/calls")["calls"]
        return [call for call in calls if operation in ("", call["operation"])]

    def invalid_answers(self) -> int:
        """How many of its own answers broke Pinterest's description."""
        return int(self._get("/_fake/calls")["invalid_answers"])

    def fault(self, kind: str, operation: str = "*", **more: Any) -> None:
        """Let the next call go wrong: see `fake.Fault`."""
        self._post("/_fake/faults", {"kind": kind, "operation": operation, **more})

    def advance(self, seconds: float) -> None:
        """Let its time go on."""
        self._post("/_fake/clock", {"advance_s": seconds})

    def reset(self) -> None:
        """Empty it."""
        self._post("/_fake/reset", {})

    def _get(self, path: str) -> Any:
        return httpx.get(self.root + path, **_QUICK).raise_for_status().json()

    def _post(self, path: str, body: dict[str, Any]) -> None:
        httpx.post(self.root + path, json=body, **_QUICK).raise_for_status()


class _Thread(threading.Thread):
    """Runs the server until told to stop."""

    def __init__(self) -> None:
        super().__init__(name="fake pinterest", daemon=True)
        self.ready = threading.Event()
        self.port = 0

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        world = World(None, minimum_size=100, processing_s=10)
        try:
            async with fake.running(fake.Fake(world, TOKEN), "127.0.0.1", 0) as self.port:
                self.ready.set()
                await self._ended.wait()
        finally:
            world.close()
            self.ready.set()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join(15)


@pytest.fixture(scope="session")
def fake_pinterest_server() -> Iterator[FakePinterest]:
    """One server a run. When the run ends, none of its answers may have broken Pinterest's description."""
    thread = _Thread()
    thread.start()
    thread.ready.wait(30)
    server = FakePinterest(thread.port)
    try:
        yield server
        assert server.invalid_answers() == 0
    finally:
        thread.stop()


@pytest.fixture
def fake_pinterest(fake_pinterest_server: FakePinterest) -> FakePinterest:
    """An empty fake Pinterest."""
    fake_pinterest_server.reset()
    return fake_pinterest_server
