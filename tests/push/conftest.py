"""A whole push: real engine, SQLite state, a fake Pinterest over HTTP, and a site of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import stamina.instrumentation
from sqlalchemy import text

from pinstream.audiences import rule
from pinstream.audiences.templates import cart_abandoned
from pinstream.event import CONSENT_WITHDRAWN
from pinstream.pinterest.client import Client
from pinstream.push import sync
from pinstream.push.sync import Parts
from pinstream.settings import Push
from pinstream.state import runs
from pinstream.state.runs import Run
from pinstream.state.snapshot import Site
from pinstream.state.store import Link, Store
from pinstream.warehouse.client import Warehouse
from tests.audiences.conftest import shared_database, warehouse
from tests.audiences.people import NOW_MS, Seen, hashed, load, next_site
from tests.fake_pinterest import FakePinterest

__all__ = ["shared_database", "warehouse"]


@pytest.fixture(autouse=True)
def quiet_retries() -> Iterator[None]:
    """stamina would print each retry to stdout."""
    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([])
    yield
    stamina.instrumentation.set_on_retry_hooks(before)


class Clock:
    """Milliseconds since 1970 that move by one with every look, and as told."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        self.now_ms += 1
        return self.now_ms


@dataclass
class Shop:
    """One site with one connected audience, and the world around it."""

    parts: Parts
    fake: FakePinterest
    clock: Clock
    site_id: int
    link_id: int

    async def seen(self, *events: Seen) -> None:
        """Let these events be loaded."""
        await load(self.parts.warehouse, self.site_id, events)

    async def carted(self, *people: int) -> None:
        """Each of these people carts, on a device of their own."""
        await self.seen(*[Seen(1000 + number, "add_to_cart", 3600, em=f"p{number}") for number in people])

    async def ordered(self, *people: int) -> None:
        """Each of these people places an order."""
        await self.seen(*[Seen(1000 + number, "checkout", 60, em=f"p{number}") for number in people])

    async def withdrew(self, *people: int) -> None:
        """Each of these people withdraws consent: the event names the device only."""
        await self.seen(*[Seen(1000 + number, CONSENT_WITHDRAWN, 10) for number in people])

    async def sync(self, **changes: Any) -> Run:
        """One sync that must not find the connection taken."""
        run = await sync.sync(replace(self.parts, **changes), self.link_id)
        assert run is not None
        return run

    @property
    def link(self) -> Link:
        return self.parts.store.connection(self.link_id)

    def members(self) -> set[str]:
        """Who is in the list at Pinterest, which must be the only one."""
        [one] = [item for item in self.fake.lists() if item["name"] == self.link.list_name]
        assert one["id"] == self.link.customer_list_id
        return self.fake.members(one["id"])

    def last_run(self) -> Run:
        return runs.runs(self.parts.store, self.link_id, limit=1)[0]


def people(*numbers: int) -> set[str]:
    """The hashes of these people."""
    return {hashed(f"p{number}") for number in numbers}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'state.db'}")
    yield opened
    opened.close()


def connected(parts: Parts, fake: FakePinterest, clock: Clock) -> Shop:
    """A new site whose cart audience is connected."""
    store, site_id = parts.store, next_site()
    with store.engine.begin() as connection:  # ids that no other test of this database has
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = 'site'"))
        connection.execute(text("INSERT INTO sqlite_sequence VALUES ('site', :seq)"), {"seq": site_id - 1})
    site = store.add_site(Site(id=0, tag_id=f"tag{site_id}", name="Shop"), now_ms=NOW_MS)
    cart = rule.to_json(cart_abandoned(quiet_for_min=0))
    audience = store.add_audience(site_id=site.id, name="Cart", rule=cart, now_ms=NOW_MS)
    link = store.connect(audience_id=audience.id, ad_account_id=fake.ad_account_id, now_ms=NOW_MS)
    return Shop(parts=parts, fake=fake, clock=clock, site_id=site.id, link_id=link.id)


@pytest.fixture
async def client(fake_pinterest: FakePinterest) -> AsyncIterator[Client]:
    async with Client(fake_pinterest.settings()) as client:
        yield client


@pytest.fixture
def shop(store: Store, warehouse: Warehouse, client: Client, fake_pinterest: FakePinterest) -> Shop:
    clock = Clock()
    config = Push(chunk_members=3)
    parts = Parts(store=store, warehouse=warehouse, client=client, config=config, clock_ms=clock)
    return connected(parts, fake_pinterest, clock)
