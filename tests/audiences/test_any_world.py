"""Random rules in random worlds: the engine and the specification in `people.py` say the same, at both levels."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from pinstream.audiences import compile
from pinstream.audiences.compile import Money
from pinstream.audiences.rule import (
    Arrived,
    Bought,
    Condition,
    Consents,
    Did,
    Engaged,
    FirstSeen,
    InAudience,
    Known,
    LastSeen,
    OnList,
    Orders,
    Rule,
    Where,
    checked,
)
from pinstream.event import CONSENT_WITHDRAWN
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import DAY, Pinned, Seen, World, answers, create, hashed, people_in, visitors_in

WORLDS = 6
RULES = 40
MONEY = Money(currency="EUR", rates={"EUR": 1.1, "USD": 0.97, "SEK": 0.1})
EVENTS = ("add_to_cart", "initiate_checkout", "checkout", "page_visit", "view_category", "view_content", "search")
CUSTOM = ("signup", "lead", "watch_video", "played the game", "order_cancelled")
ITEMS = (("chair", "seats", "Oak"), ("stool", "seats", "Elm"), ("lamp", "lights", "Elm"), ("", "lights", ""))
ACTIONS = ("click", "save", "closeup", "comment", "like")
EDGES = [days * DAY + near for days in (1, 7, 30) for near in (-1, 0, 1)] + [1, 3599, 3600, 3601]
EMAILS = ("ann", "bob", "eve", "joe", "kim")
CUSTOMERS, PHONES = ("c1", "c2", "c3", "c4"), ("p1", "p2")
VISITORS = 10


class Dice(random.Random):
    """Whatever may happen, and whatever may be asked."""

    def some(self, *found: Any, most: int = 2, least: int = 1) -> tuple[Any, ...]:
        return tuple(self.sample(found, self.randint(least, min(most, len(found)))))

    def maybe(self, value: Any, chance: float = 0.5) -> Any:
        return value if self.random() < chance else None

    def ago_s(self) -> int:
        """Some clocks are ahead."""
        return self.choice([self.choice(EDGES), self.randint(-300, 8 * DAY), self.randint(1, 40 * DAY)])

    # --- worlds

    def world(self) -> World:
        seen = [self.seen() for _ in range(self.randint(20, 80))]
        seen += [self.copy(one) for one in seen if self.random() < 0.2]
        return World(
            seen,
            [self.pinned() for _ in range(self.randint(0, 16))],
            [self.listed() for _ in range(self.randint(0, 4))],
            [(self.randint(1, 2), self.choice(EMAILS)) for _ in range(self.randint(0, 2))],
            MONEY,
            [self.erased() for _ in range(self.choice([0, 0, 1, 2]))],
        )

    def seen(self) -> Seen:
        event = self.choice([*EVENTS * 5, *["checkout"] * 6, *CUSTOM * 2, CONSENT_WITHDRAWN])
        visitor = self.randint(1, VISITORS)
        epik = self.choice(["", "", "k1", "k2"])
        cancels = event == "order_cancelled" or event == "checkout"
        return Seen(
            visitor=visitor if event != "order_cancelled" else self.choice([0, visitor]),
            event=event,
            ago_s=self.ago_s(),
            em=self.name(EMAILS, visitor),
            x=self.name(CUSTOMERS, visitor),
            ph=self.choice(["", "", "", *PHONES]),
            consent=self.choice(["yes"] * 30 + ["unknown", "no"]),  # type: ignore[arg-type]
            received_ago_s=self.maybe(self.ago_s(), 0.2),
            value=self.choice([0.0, 9.99, 10.0, 50.5, 100.0, 1234.5678]),
            currency=self.choice(["", "EUR", "EUR", "USD", "SEK", "JPY"]),
            order_id=self.choice(["", "o1", "o2", "o3", "o4"]) if cancels else "",
            items=self.some(*ITEMS, least=0),
            url=self.choice(["https://shop.example/Sale", "https://shop.example/"]) + (f"?epik={epik}" if epik else ""),
            search=self.choice(["", "oak chair", "LAMPE"]),
            epik=epik or self.choice(["", "k3"]),
            event_id=f"id-{self.randint(0, 10**9)}",
            source=self.choice(["tag", "api", "import"]),
        )

    def copy(self, one: Seen) -> Seen:
        """The same event by the shop's server, or sent again: another device, time or value."""
        again = self.maybe(one.ago_s, 0.7)
        return Seen(
            **{
                **vars(one),
                "visitor": self.maybe(one.visitor) or self.randint(1, VISITORS),
                "ago_s": again if again is not None else self.ago_s(),
                "source": "api",
                "order_id": self.maybe(one.order_id, 0.7) or "",
                "value": self.maybe(one.value, 0.7) or 100.0,
                "currency": self.choice([one.currency, "USD", ""]),
                "url": self.maybe(one.url) or "",
            }
        )

    def pinned(self) -> Pinned:
        visitor = self.randint(1, VISITORS + 1)
        return Pinned(
            visitor=visitor,
            action=self.choice(ACTIONS),  # type: ignore[arg-type]
            ago_s=self.ago_s(),
            em=self.name(EMAILS, visitor),
            x=self.name(CUSTOMERS, visitor),
            pin=self.choice([0, 11, 12]),
            board=self.choice([0, 21]),
            campaign=self.choice([0, 31]),
            product=self.choice(["", "chair"]),
        )

    def name(self, names: tuple[str, ...], visitor: int) -> str:
        """Mostly the visitor's own, now and then somebody else's."""
        return self.choice([*[""] * 8, *[names[visitor % len(names)]] * 8, self.choice(names)])

    def listed(self) -> tuple[int, Any, str]:
        kind, names = self.choice([("em", EMAILS), ("external_id", CUSTOMERS), ("ph", PHONES)])
        return self.randint(1, 2), kind, self.choice(names)

    def erased(self) -> tuple[str, str]:
        names = {
            "em": EMAILS,
            "external_id": CUSTOMERS,
            "ph": PHONES,
            "hash": EMAILS + CUSTOMERS + PHONES,
            "epik": ("k1", "k2", "k3"),
            "visitor": [str(visitor) for visitor in range(1, VISITORS + 1)],
        }
        kind = self.choice(list(names))
        return kind, self.choice(names[kind])

    # --- rules

    def rule(self) -> Rule:
        made = Rule(
            all=tuple(self.condition() for _ in range(self.choice([1, 1, 1, 2]))),
            any=tuple(self.condition() for _ in range(self.choice([0, 0, 0, 2]))),
            none=tuple(self.condition() for _ in range(self.choice([0, 0, 1]))),
            quiet_for_min=self.choice([0, 0, 0, 60]),
        )
        return checked(made)

    def condition(self) -> Condition:
        days = self.choice([1, 7, 30])
        actions = self.some(*ACTIONS, least=0)
        events = self.some(*EVENTS, *CUSTOM, most=3)
        views = ("page_visit", "view_content", "view_category")
        often = self.randint(1, 3)
        found: list[Condition] = [
            Did(events=events, within_days=days),
            Did(events=views, within_days=days),
            Did(events=events, within_days=days, at_least=often + 1),
            Did(events=self.some(*EVENTS, most=5), within_days=self.choice([days, 181]), where=self.where()),
            Did(events=EVENTS, within_days=self.choice([days, 190]), at_least=often, where=self.where()),
            Engaged(within_days=days, actions=actions),
            Engaged(within_days=days, actions=actions, on="pin", ids=self.some("11", "12")),
            Engaged(within_days=days, on="product", ids=self.some("chair", "lamp", least=0)),
            Engaged(within_days=days, on=self.choice(["board", "campaign"])),
            Arrived(within_days=days),
            FirstSeen(within_days=days),
            LastSeen(within_days=days),
            self.orders(),
            self.orders(),
            Bought(products=self.some("chair", "stool", "lamp", "nothing")),
            Bought(products=("stool",), categories=self.some("lights", "seats")),
            Consents(word=self.choice(["yes", "no", "unknown"])),
            Known(),
            OnList(lists=self.some(1, 2)),
            InAudience(audiences=self.some(1, 2)),
        ]
        return self.choice(found)

    def orders(self) -> Orders:
        made = Orders(
            within_days=self.choice([0, 0, 7, 30]),
            count_at_least=self.maybe(self.randint(1, 2)),
            count_at_most=self.maybe(self.randint(0, 2), 0.3),
            total_at_least=self.maybe(self.choice([0.0, 10.0, 88.1818, 100.0]), 0.3),
            total_below=self.maybe(self.choice([10.0, 100.0, 5000.0]), 0.3),
            average_at_least=self.maybe(self.choice([9.99, 44.0909, 50.0]), 0.2),
            average_below=self.maybe(self.choice([10.0, 60.5, 2000.0]), 0.2),
        )
        return made if made != Orders(within_days=made.within_days) else self.orders()

    def where(self) -> Where:
        return Where(
            products=self.maybe(self.some("chair", "stool"), 0.3) or (),
            categories=self.maybe(self.some("seats", "lights"), 0.3) or (),
            brands=self.maybe(("Elm",), 0.2) or (),
            value_at_least=self.maybe(self.choice([9.99, 44.53, 100.0]), 0.3),
            value_below=self.maybe(self.choice([10.0, 100.0]), 0.2),
            currency=self.maybe("USD", 0.2) or "",
            url_contains=self.maybe("/sale", 0.3) or "",
            search_contains=self.maybe("lamp", 0.2) or "",
        )


@pytest.mark.slow
def test_engine_and_specification_agree(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "MAX_IDS_PER_VISITOR", 2)
    monkeypatch.setattr(compile, "MAX_VISITORS_PER_ID", 3)
    seed = random.randrange(10**9)  # a failure names it: put it here to see it again
    dice = Dice(seed)
    worlds = [dice.world() for _ in range(WORLDS)]
    hits = 0

    async def ask() -> None:
        nonlocal hits
        client = Warehouse.open(warehouse.settings, password=warehouse.settings.password.get_secret_value())
        sites = await create(client, worlds)
        for number, (site, world) in enumerate(zip(sites, worlds, strict=True)):
            rules = [dice.rule() for _ in range(RULES)]
            persons = await answers(client, site, rules, "person", MONEY)
            browsers = await answers(client, site, rules, "visitor", MONEY)
            for rule, person, browser in zip(rules, persons, browsers, strict=True):
                where = f"seed {seed}, world {number}: {rule}"
                assert person == people_in(world, rule), where
                assert browser == visitors_in(world, rule), where
                hits += len(person) + len(browser)
        await client.aclose()

    asyncio.run(ask())
    assert hits > WORLDS * RULES / 4, "the random worlds are too empty to prove anything"


def test_the_names_of_the_dice() -> None:
    """`people.py` compares names, the engine hashes: no two of them may be taken for one."""
    names = [*EMAILS, *CUSTOMERS, *PHONES]
    assert len({hashed(name) for name in names}) == len(names)
