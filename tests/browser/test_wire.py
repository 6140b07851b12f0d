"""The bodies that the tag sends are those of tests/wire/tag_*.json, and the collector takes every one of them.

`PINSTREAM_GOLDEN=write` writes the files anew; look at what git says then.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from pinstream.collect.wire import parse
from pinstream.event import RawEvent
from tests.browser.recorder import Recorder, Site

WIRE = Path(__file__).parents[1] / "wire"
TIME_MS = 1795291390500
VISITOR = "0b5c0000-0000-4000-8000-000000000001"
SHOP = "https://www.shop.example"

MUG = """{product_id: "mug", product_name: "Morning mug", product_category: "Ceramics",
          product_brand: "Fern & Clay", product_price: 18.5, product_quantity: 2}"""
CALLS = {
    "page": 'pintrk("page"); pintrk("track", "pagevisit", {}); pintrk("track", "lead");',
    "view_category": 'pintrk("track", "ViewCategory", {product_category: "Ceramics"}); pintrk("track", "lead");',
    "search": 'pintrk("track", "search", {search_query: "grüne Vase 😀"}); pintrk("track", "lead");',
    "add_to_cart": f'pintrk("track", "addtocart", {{value: 37, currency: "EUR", line_items: [{MUG}]}});'
    'pintrk("track", "lead");',
    "signup": 'pintrk("set", {em: "Ada@Example.com", ph: "+1 202-555-0143"});'
    'pintrk("track", "signup", {lead_type: "newsletter", external_id: 42});',
    "checkout": 'pintrk("track", "checkout", {value: "37.00", currency: "EUR", order_id: 1001, order_quantity: "2",'
    f' promo_code: "SPRING", eventID: "order-1001", line_items: [{MUG}]}});',
    "custom": 'pintrk("track", "wishlist shared", {friends: 3, nested: {list: [1, "two", null, true]}});'
    'pintrk("track", "lead");',
}


def normalised(body: dict[str, Any], site_url: str) -> dict[str, Any]:
    """The body with ids, times and the site's port made the same for every run."""
    text = json.dumps(body, ensure_ascii=False).replace(site_url, SHOP)
    text = re.sub(body["visitor_id"], VISITOR, text)
    found: dict[str, Any] = json.loads(text)
    if "user" in found:
        found["user"] = dict(sorted(found["user"].items()))  # in the order in which hashing ended
    found["sent_at"] = TIME_MS + 1000
    for number, event in enumerate(found["events"]):
        event["time"] = TIME_MS + number
        if re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}", event["event_id"]):
            event["event_id"] = f"01a1ffb4-a224-7000-8000-{number:012x}"
    return found


def check(name: str, body: dict[str, Any]) -> None:
    path = WIRE / f"tag_{name}.json"
    text = json.dumps(body, ensure_ascii=False, indent=2) + "\n"
    if os.environ.get("PINSTREAM_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} says something else"


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", CALLS)
async def test_a_body_is_its_golden_file(name: str, page: Page, site: Site, recorder: Recorder) -> None:
    site.pages["/p/mug"] = site.tag(f'pintrk("setconsent", true); {CALLS[name]}')
    await page.goto(f"{site.url}/p/mug?epik=dj0yJnU9")
    (sent,) = await recorder.requests(1)
    check(name, normalised(sent.body, site.url))


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
async def test_a_withdrawal_is_its_golden_file(page: Page, site: Site, recorder: Recorder) -> None:
    site.pages["/"] = site.tag('pintrk("setconsent", true); pintrk("track", "lead");')
    await page.goto(site.url)
    await recorder.requests(1)
    await page.evaluate('pintrk("setconsent", false)')
    _, sent = await recorder.requests(2)
    check("consent_withdrawn", normalised(sent.body, site.url))


@pytest.mark.parametrize("path", sorted(WIRE.glob("tag_*.json")), ids=lambda path: path.stem)
def test_the_collector_takes_a_golden_file(path: Path) -> None:
    wire = parse("text/plain;charset=UTF-8", path.read_bytes())
    sent = json.loads(path.read_bytes())
    assert [type(event) for event in wire.events] == [RawEvent] * len(sent["events"])
    assert wire.envelope.visitor_id == VISITOR
    assert wire.envelope.consent == sent["consent"]


def test_there_is_a_golden_file_for_every_call() -> None:
    assert {path.stem for path in WIRE.glob("tag_*.json")} == {f"tag_{name}" for name in (*CALLS, "consent_withdrawn")}
