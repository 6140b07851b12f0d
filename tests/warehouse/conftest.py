"""A month of a made-up shop in the database `pinstream`, for everything that reads the views for analysts."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

import pytest
from msgspec import Raw, Struct, structs

from pinstream import event
from pinstream.clock import now_ms
from pinstream.demo.shop.catalogue import CURRENCY, PRODUCTS
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.migrate import migrate
from tests.warehouse_server import PASSWORD, EmbeddedProcess

SITE: Final = 1
SHELF: Final = tuple(PRODUCTS.values())
VISITORS: Final = 60
DAY_MS: Final = 86_400_000
SECRETS: Final = ("epik-of-somebody", sha256(b"ada@example.com").hexdigest(), "203.0.113.0/24")
"""What stands in the tables and in no view."""
AUDIENCE: Final = 7


class Month:
    """The same month for the same `now_ms`: 60 visitors, some of whom come from Pins, order, cancel or hide."""

    def __init__(self, now_ms: int) -> None:
        self.dice = random.Random(8)
        self.end_ms = now_ms - 3_600_000
        self.events: list[event.Event] = []
        self.engagements: list[event.Engagement] = []
        self.ids = itertools.count()
        for visitor in range(1, VISITORS + 1):
            self.visitor(visitor)

    def visitor(self, number: int) -> None:
        epik, email, network = SECRETS
        em = email if number == 1 else sha256(f"{number}@example.com".encode()).hexdigest() if number % 2 else ""
        who: dict[str, Any] = {
            "visitor_id": number,
            "em": em,
            "ip_prefix": network,
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
            "language": self.dice.choice(["en", "fr", "de"]),
            "consent": "yes" if number % 9 else "unknown",
            "source": "api" if number % 7 == 0 else "tag",
        }
        for visit in range(self.dice.randint(1, 4)):
            at = self.end_ms - int((visit * 7 + self.dice.random()) * DAY_MS)
            if number % 3 == 0:
                self.engage(number, at - 7_200_000)
            landing = number % 2 == 0
            query = f"?epik={epik}&c=1" if landing else f"?u={em}" if em else ""
            self.visit(who | {"epik": epik if landing else ""}, at, query, orders=number % 4 == 0)

    def visit(self, who: dict[str, Any], at: int, query: str, *, orders: bool) -> None:
        product = self.dice.choice(SHELF)
        item = event.LineItem(
            product_id=product.id,
            product_name=product.name,
            product_category=product.category,
            product_brand="House",
            product_price=product.price_cents / 100,
            product_quantity=self.dice.randint(1, 3),
        )
        page = f"https://shop.example/p/{product.id}"
        self.say(who, "page_visit", at, url=page + query, referrer="https://www.pinterest.com/", line_items=[item])
        self.say(who, "search", at + 30_000, search_query=f"{product.category} {who['em']}".strip())
        self.say(who, "add_to_cart", at + 60_000, url=page, line_items=[item], props=Raw(self.props(who)))
        if orders:
            order = {"order_id": f"o-{len(self.events)}", "value": item.product_price * item.product_quantity}
            more = {"currency": CURRENCY, "order_quantity": item.product_quantity, "line_items": [item], **order}
            self.say(who, "checkout", at + 120_000, **more)
            told = self.events[-1]
            self.events[-1:] = [structs.replace(told, order_id=""), told]  # sent twice, at first without its number
            if len(self.events) % 5 == 0:
                self.say(who | {"source": "api"}, "order_cancelled", at + 1_000_000, order_id=order["order_id"])

    def props(self, who: dict[str, Any]) -> bytes:
        return json.dumps({"colour": "blue", "epik": who["epik"], "u": who["em"]}).encode()

    def say(self, who: dict[str, Any], name: str, at: int, **more: Any) -> None:
        event_id = f"e{next(self.ids)}"
        stamped: dict[str, Any] = {"site_id": SITE, "event_id": event_id, "time": at, "received_ms": at + 50}
        self.events.append(event.Event(event=name, **stamped, **who, **more))

    def engage(self, visitor: int, at: int) -> None:
        for action in self.dice.sample(["click", "save", "closeup", "comment", "like"], 3):
            self.engagements.append(
                event.Engagement(
                    site_id=SITE,
                    action=action,  # type: ignore[arg-type]
                    event_id=f"g{next(self.ids)}",
                    time=at,
                    received_ms=at + 50,
                    visitor_id=visitor,
                    epik=SECRETS[0] + str(visitor) if action == "click" else "",
                    pin_id=1000 + visitor % 5,
                    board_id=2000 + visitor % 2,
                    campaign_id=3000 if visitor % 2 else 0,
                    product_id=self.dice.choice(SHELF).id,
                )
            )

    def refusals(self) -> list[event.Rejection]:
        return [
            event.Rejection(
                received_ms=self.end_ms - number * DAY_MS // 4,
                reason=self.dice.choice(["bad_json", "wrong_origin", "out_of_range"]),
                step="collect",
                site_id=SITE,
                field="$.events[0].value",
                size_bytes=100 + number,
                payload_hash="ab" * 16,
            )
            for number in range(40)
        ]

    def members(self) -> list[dict[str, Any]]:
        known = {each.em: each.visitor_id for each in self.events if each.em}
        return [
            {
                "site_id": SITE,
                "audience_id": AUDIENCE,
                "em_hex": em,
                "state": int(number % 5 != 0),
                "op_at": str(self.end_ms - number % 6 * DAY_MS),
                "sync_id": number % 6,
                "chunk_id": "c",
            }
            for em, number in known.items()
        ]

    def runs(self) -> list[dict[str, Any]]:
        return [
            {
                "site_id": SITE,
                "audience_id": AUDIENCE,
                "run_id": number,
                "audience": "VIPs",
                "connection_id": 1,
                "status": "failed" if number == 3 else "done",
                "started_at": str(self.end_ms - number * DAY_MS - 4000),
                "updated_at": str(self.end_ms - number * DAY_MS),
                "desired": 30 - number,
                "members": 20,
                "adds": 4,
                "removes": number,
                "held": 0,
                "entered": 4,
                "left": number,
                "fingerprint_members": 24 - number,
                "fingerprint": 1,
                "error": "Pinterest does not answer." if number == 3 else "",
            }
            for number in range(6)
        ]


async def _load(warehouse: Warehouse, month: Month) -> None:
    records: dict[str, list[Any]] = {
        "events": month.events,
        "engagements": month.engagements,
        "rejected": month.refusals(),
    }
    for table, rows in records.items():
        body = b"\n".join(_row(offset, row) for offset, row in enumerate(rows))
        await warehouse.insert(table, schema.insert_columns(table), body, token=f"month {table}")
    for table, lines in {"audience_member": month.members(), "audience_run": month.runs()}.items():
        body = "\n".join(map(json.dumps, lines)).encode()
        await warehouse.insert(table, list(lines[0]), body, token=f"month {table}")


def _row(offset: int, record: Struct) -> bytes:
    return b'{"k_partition":0,"k_offset":%d,"rollup_version":1,' % offset + event.encode(record)[1:]


@pytest.fixture(scope="session")
def month(warehouse_server: EmbeddedProcess) -> Iterator[Month]:
    """A month that was loaded into `pinstream`, whose views are in `analytics`."""
    made = Month(now_ms())

    async def open_shop() -> None:
        client = Warehouse.open(warehouse_server.settings, password=PASSWORD)
        await migrate(client, warehouse_server.settings)
        await _load(client, made)
        await client.aclose()

    async def close_shop() -> None:
        client = Warehouse.open(warehouse_server.settings, password=PASSWORD)
        await client.command("DROP DATABASE analytics")
        await client.command("DROP DATABASE pinstream SYNC")
        await client.aclose()

    asyncio.run(open_shop())
    yield made
    asyncio.run(close_shop())
