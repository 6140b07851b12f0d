"""The shop's pages over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from pinstream.demo.shop.app import MAX_EMAIL_CHARS, MAX_FORM_BYTES, MAX_QUERY_CHARS, money, serve
from pinstream.demo.shop.catalogue import CATEGORIES, PRODUCTS

COLLECTOR = "https://collect.example"


@pytest.fixture
async def shop() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve("127.0.0.1", 0, f"{COLLECTOR}/", "tag-1") as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


PAGES = [
    "/",
    "/search",
    "/search?q=mug",
    "/cart",
    *(f"/c/{slug}" for slug in CATEGORIES),
    *(f"/p/{p}" for p in PRODUCTS),
]


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_is_there_and_embeds_the_tag(path: str, shop: httpx.AsyncClient) -> None:
    answer = await shop.get(path)
    assert answer.status_code == 200
    assert f's.src = "{COLLECTOR}/tag.js"' in answer.text
    assert 'pintrk("load", "tag-1")' in answer.text


async def test_nothing_comes_from_elsewhere(shop: httpx.AsyncClient) -> None:
    home = (await shop.get("/")).text
    local = set(re.findall(r'(?:href|src)="(/static/[^"#]+)', home))
    assert local == {"/static/shop.css", "/static/shop.js", "/static/icon.svg", "/static/pictures.svg"}
    for path in local:
        assert (await shop.get(path)).status_code == 200
    assert re.findall(r'(?:href|src)="((?:https?:)?//[^"]+)', home) == [f"{COLLECTOR}/badge.js"]


async def test_every_product_has_a_picture(shop: httpx.AsyncClient) -> None:
    pictures = (await shop.get("/static/pictures.svg")).text
    assert all(f'id="{product}"' in pictures for product in PRODUCTS)


@pytest.mark.parametrize(
    "query",
    ['"><script>alert(1)</script>', "</script><script>alert(1)</script>", "' onload='alert(1)", "<b>{{ 7*7 }}</b>"],
)
async def test_a_hostile_search_is_only_text(query: str, shop: httpx.AsyncClient) -> None:
    page = (await shop.get("/search", params={"q": query})).text
    assert query not in page
    assert "<script>alert" not in page


async def test_inline_scripts_carry_the_nonce_of_the_policy(shop: httpx.AsyncClient) -> None:
    first, second = await shop.get("/"), await shop.get("/")
    nonces = [re.findall(r"'nonce-([^']+)'", page.headers["content-security-policy"]) for page in (first, second)]
    assert nonces[0] != nonces[1]
    assert re.findall(r'<script nonce="([^"]+)"', first.text) == nonces[0]
    assert COLLECTOR in first.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/nope", "/c/nope", "/p/nope", "/p/mug%00", "/static/nope.css", "/static/../app.py"])
async def test_what_is_not_there_is_404(path: str, shop: httpx.AsyncClient) -> None:
    assert (await shop.get(path)).status_code == 404


async def test_a_long_query_is_cut(shop: httpx.AsyncClient) -> None:
    page = (await shop.get("/search", params={"q": "x" * (MAX_QUERY_CHARS + 1)})).text
    assert "x" * MAX_QUERY_CHARS in page
    assert "x" * (MAX_QUERY_CHARS + 1) not in page


async def test_a_form_has_a_bound(shop: httpx.AsyncClient) -> None:
    fields = "product=mug&note="
    at_bound = fields + "x" * (MAX_FORM_BYTES - len(fields))
    assert (await shop.post("/cart", content=at_bound)).status_code == 303
    assert (await shop.post("/cart", content=at_bound + "x")).status_code == 413


async def test_a_purchase(shop: httpx.AsyncClient) -> None:
    await shop.post("/cart", data={"product": "mug", "quantity": "2"})
    await shop.post("/cart", data={"product": "mug", "quantity": "1"})
    await shop.post("/cart", data={"product": "vase", "quantity": "1"})
    await shop.post("/cart", data={"product": "vase", "remove": "1"})
    await shop.post("/cart", data={"product": "lamp", "quantity": "5"})
    await shop.post("/cart", data={"product": "lamp", "quantity": "1", "set": "1"})
    cart = (await shop.get("/cart")).text
    assert "Tall vase" not in cart
    assert "€55.50" in cart

    checkout = (await shop.get("/checkout")).text
    assert '"initiatecheckout"' in checkout
    assert "€124.50" in checkout
    ordered = await shop.post("/checkout", data={"email": "a@example.com"})
    assert (ordered.status_code, ordered.headers["location"]) == (303, "/thanks")
    thanks = (await shop.get("/thanks")).text
    order = re.search(r'<b id="order">(FC-[0-9A-F]{8})</b>', thanks)
    assert order
    assert f'"event_id": "order-{order[1]}"' in thanks
    assert '"value": 124.5' in thanks
    assert "a@example.com" not in thanks
    assert "It is empty so far" in (await shop.get("/cart")).text


@pytest.mark.parametrize("path", ["/checkout", "/thanks"])
async def test_without_a_cart_there_is_nothing_to_order(path: str, shop: httpx.AsyncClient) -> None:
    assert (await shop.get(path)).status_code == 303


@pytest.mark.parametrize("cookie", ["FC-00000000|", "FC-00000000|nope:1", "x|mug:1", "FC-0000000G|mug:1", "'; --"])
async def test_a_made_up_order_is_none(cookie: str, shop: httpx.AsyncClient) -> None:
    assert (await shop.get("/thanks", headers={"cookie": f"order={cookie}"})).status_code == 303


@pytest.mark.parametrize(
    ("email", "status"),
    [
        ("a@example.com", 303),
        ("a" * (MAX_EMAIL_CHARS - 12) + "@example.com", 303),
        ("a" * (MAX_EMAIL_CHARS - 11) + "@example.com", 400),
        ("", 400),
        ("nobody", 400),
        ("a@b", 400),
    ],
)
async def test_newsletter_and_checkout_want_an_email(email: str, status: int, shop: httpx.AsyncClient) -> None:
    assert (await shop.post("/newsletter", data={"email": email})).status_code == status
    await shop.post("/cart", data={"product": "mug"})
    assert (await shop.post("/checkout", data={"email": email})).status_code == status


@pytest.mark.parametrize(
    ("quantity", "value"),
    [("1", 1), ("9", 9), ("10", 9), ("999", 9), ("1000", 1), ("-1", 1), ("x", 1), ("", 1), ("٣", 1)],
)
async def test_quantities_are_bounded(quantity: str, value: int, shop: httpx.AsyncClient) -> None:
    await shop.post("/cart", data={"product": "mug", "quantity": quantity})
    assert f'name="quantity" value="{value}"' in (await shop.get("/cart")).text


def test_money() -> None:
    assert [money(5), money(1850), money(123456)] == ["€0.05", "€18.50", "€1,234.56"]
