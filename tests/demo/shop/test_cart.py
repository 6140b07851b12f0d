"""The cart in its cookie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstream.demo.shop import cart as carts
from pinstream.demo.shop.catalogue import PRODUCTS, found, in_category

QUANTITIES = st.integers(1, carts.MAX_QUANTITY)
CARTS = st.dictionaries(st.sampled_from(sorted(PRODUCTS)), QUANTITIES)


@given(CARTS)
def test_a_cart_survives_its_cookie(cart: carts.Cart) -> None:
    assert carts.parse(carts.dump(cart)) == cart


@given(st.text(max_size=300))
def test_any_cookie_gives_a_cart_within_its_bounds(text: str) -> None:
    cart = carts.parse(text)
    assert cart.keys() <= PRODUCTS.keys()
    assert all(1 <= quantity <= carts.MAX_QUANTITY for quantity in cart.values())


@pytest.mark.parametrize(
    ("text", "cart"),
    [
        ("", {}),
        ("mug:2.vase:1", {"mug": 2, "vase": 1}),
        ("mug:10.vase:1", {"vase": 1}),
        ("mug:0", {}),
        ("nothing:1", {}),
        ("mug:2.mug:3", {"mug": 3}),
        ("mug:٣", {}),
    ],
)
def test_what_is_not_understood_is_left_out(text: str, cart: carts.Cart) -> None:
    assert carts.parse(text) == cart


@pytest.mark.parametrize(("quantity", "kept"), [(0, {}), (1, {"mug": 1}), (9, {"mug": 9}), (10, {"mug": 9})])
def test_quantities_have_bounds(quantity: int, kept: carts.Cart) -> None:
    assert carts.with_quantity({"mug": 4}, "mug", quantity) == kept


def test_what_the_tag_is_told_adds_up() -> None:
    data = carts.event_data({"mug": 2, "candle": 1})
    assert data["value"] == 49.5
    assert data["order_quantity"] == 3
    assert sum(item["product_price"] * item["product_quantity"] for item in data["line_items"]) == data["value"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("MUG", {"mug"}),
        ("linen", {"cushion"}),
        ("plants can", {"can"}),
        ("light warm", {"lamp"}),
        ("", set()),
        ("mug vase", set()),
    ],
)
def test_search_finds_every_word(query: str, ids: set[str]) -> None:
    assert {product.id for product in found(query)} == ids


def test_every_product_is_on_one_shelf() -> None:
    assert sum(len(in_category(slug)) for slug in ("ceramics", "textiles", "plants", "light")) == len(PRODUCTS) == 12
