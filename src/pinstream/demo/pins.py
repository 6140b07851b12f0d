"""The demo shop's Pins, one for each product, and what people do with them, as a server of the shop tells it."""

from __future__ import annotations

import random
from typing import Any, Final

from pinstream.demo.shop.catalogue import CATEGORIES, PRODUCTS
from pinstream.event import MAX_EVENTS, Action

FIRST_PIN: Final = 1_125_899_906_842_624
FIRST_BOARD: Final = 549_755_813_888
WEEK_SAVES: Final = (120, 70, 55, 40, 30, 20, 12, 8, 5, 3, 2, 1)
"""How many people saved each product in the week before the shop opened: some reach a band of `/v1/popular`."""
WEEK_MS: Final = 6 * 86_400_000

_OTHERS: Final[dict[Action, int]] = {"closeup": 6, "click": 4, "like": 3, "comment": 1}


def action(name: Action, product_id: str, em: str) -> dict[str, Any]:
    """Somebody did this to a product's Pin; `em`: the hash of the e-mail by which Pinterest's side knows them."""
    board = list(CATEGORIES).index(PRODUCTS[product_id].category)
    pin = list(PRODUCTS).index(product_id)
    ids = {"pin_id": FIRST_PIN + pin, "board_id": FIRST_BOARD + board, "product_id": product_id}
    return {"action": name, **ids, "user": {"em": [em]}}


def popular(dice: random.Random) -> str:
    """A product, the more often the more it was saved."""
    return dice.choices(list(PRODUCTS), WEEK_SAVES)[0]


def actions(dice: random.Random, product_id: str, em: str) -> list[dict[str, Any]]:
    """What one person does to a Pin: a save, and half of them something else before it."""
    other = dice.choices(list(_OTHERS), list(_OTHERS.values())) if dice.random() < 0.5 else []
    names: list[Action] = [*other, "save"]
    return [action(name, product_id, em) for name in names]


def week(dice: random.Random, now_ms: int) -> list[list[dict[str, Any]]]:
    """What was done in the days before the shop opened, each with its time, in requests as large as they may be."""
    done = []
    for product_id, saves in zip(PRODUCTS, WEEK_SAVES, strict=True):
        for _ in range(saves):
            em = f"{dice.getrandbits(256):064x}"
            at = now_ms - dice.randrange(WEEK_MS)
            done += [{**each, "time": at} for each in actions(dice, product_id, em)]
    return [done[start : start + MAX_EVENTS] for start in range(0, len(done), MAX_EVENTS)]
