"""The cart, which lives in a cookie: `mug:2.vase:1`."""

from __future__ import annotations

import re
from typing import Any, Final

from pinstream.demo.shop.catalogue import BRAND, CATEGORIES, CURRENCY, PRODUCTS, Product

MAX_QUANTITY: Final = 9
"""Of one product; there are as many lines as products at most."""

_LINE = re.compile(r"([a-z]{1,20}):([1-9])")

Cart = dict[str, int]
"""Product id -> quantity, in the order in which they were added."""


def parse(text: str) -> Cart:
    """The cart in a cookie's value. What is not understood is left out: a visitor may have edited it."""
    lines = (_LINE.fullmatch(part) for part in text.split(".")[: len(PRODUCTS)])
    return {line[1]: int(line[2]) for line in lines if line and line[1] in PRODUCTS}


def dump(cart: Cart) -> str:
    """The cookie's value; `parse` gives the cart back."""
    return ".".join(f"{product_id}:{quantity}" for product_id, quantity in cart.items())


def with_quantity(cart: Cart, product_id: str, quantity: int) -> Cart:
    """The cart with so many of a product: 0 takes it out, more than MAX_QUANTITY counts as that."""
    changed = {**cart, product_id: min(quantity, MAX_QUANTITY)}
    return {each: count for each, count in changed.items() if count > 0}


def total_cents(cart: Cart) -> int:
    """What it costs."""
    return sum(PRODUCTS[product_id].price_cents * quantity for product_id, quantity in cart.items())


def event_data(cart: Cart) -> dict[str, Any]:
    """What the tag is told about it, in the words of Pinterest's tag."""
    return {
        "value": total_cents(cart) / 100,
        "currency": CURRENCY,
        "order_quantity": sum(cart.values()),
        "line_items": [line_item(PRODUCTS[product_id], quantity) for product_id, quantity in cart.items()],
    }


def line_item(product: Product, quantity: int = 1) -> dict[str, Any]:
    """One product, in the words of Pinterest's tag."""
    return {
        "product_id": product.id,
        "product_name": product.name,
        "product_category": CATEGORIES[product.category],
        "product_brand": BRAND,
        "product_price": product.price_cents / 100,
        "product_quantity": quantity,
    }
