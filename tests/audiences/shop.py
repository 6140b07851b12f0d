"""A made-up shop of some thousand events with everything that makes counting hard: sent twice, told by tag and server,
late, imported, refunded, on shared devices, withdrawn."""

from __future__ import annotations

import random
from dataclasses import replace

from pinstream.audiences.compile import Money
from pinstream.event import CONSENT_WITHDRAWN, Action
from tests.audiences.people import DAY, Pinned, Seen, World

PRODUCTS = tuple((f"product-{n}", f"category-{n % 7}", f"brand-{n % 5}") for n in range(40))
ACTIONS: tuple[Action, ...] = ("click", "save", "closeup", "comment", "like")
MONEY = Money(currency="EUR", rates={"EUR": 1.0, "USD": 0.875})


def shop(customers: int, seed: int = 6) -> World:
    """The same shop for the same arguments."""
    return _Shop(random.Random(seed)).open(customers)


class _Shop:
    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.seen: list[Seen] = []
        self.pinned: list[Pinned] = []
        self.number = 0

    def open(self, customers: int) -> World:
        for number in range(customers):
            self.customer(number)
        self.shared()
        self.seen += [again for one in self.seen for again in self.copies(one)]
        self.dice.shuffle(self.seen)
        listed = [
            (self.dice.randint(1, 2), kind, f"{kind}-{self.dice.randrange(customers)}")
            for kind in ("em", "external_id", "ph")
            for _ in range(customers // 8)
        ]
        return World(self.seen, self.pinned, listed, (), MONEY)  # type: ignore[arg-type]

    def customer(self, number: int) -> None:
        """One to three devices; on some of them an e-mail address, an external id or a phone number was seen."""
        dice = self.dice
        left = dice.choice([0.1, 1, 5, 20, 45, 70, 100, 150, 300])  # days ago
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            who = Seen(
                visitor=dice.randrange(1, 1 << 63),
                event="page_visit",
                ago_s=0,
                em=f"em-{number}" if dice.random() < 0.7 else "",
                x=f"external_id-{number}" if dice.random() < 0.3 else "",
                ph=f"ph-{number}" if dice.random() < 0.2 else "",
                consent="yes" if dice.random() < 0.96 else "unknown",
                source="import" if left > 200 else "tag",
            )
            for _ in range(dice.randint(1, 3)):
                self.session(who, (left + dice.expovariate(1 / 20)) * DAY)
            if dice.random() < 0.04:
                gone = dice.uniform(0, 40) * DAY
                self.seen.append(Seen(who.visitor, CONSENT_WITHDRAWN, gone, consent="no", event_id=self.id()))
            for _ in range(dice.choice([0, 0, 0, 1, 2])):
                self.pin(who)

    def session(self, who: Seen, ago_s: float) -> None:
        dice = self.dice
        items = tuple(dice.sample(PRODUCTS, dice.randint(1, 3)))
        epik = f"click-{dice.randrange(1 << 40)}" if dice.random() < 0.1 else ""
        url = "https://shop.example/" + (f"?epik={epik}" if epik else "sale")
        late = dice.random() < 0.1
        steps = ["page_visit", "view_content", "add_to_cart", "initiate_checkout", "checkout"]
        for step in steps[: dice.choice([1, 2, 2, 3, 3, 4, 5, 5])]:
            ago_s = max(1.0, ago_s - dice.uniform(1, 400))
            self.seen.append(
                replace(
                    who,
                    event=step,
                    ago_s=round(ago_s, 3),
                    received_ago_s=max(0.0, round(ago_s - 2 * DAY, 3)) if late else None,
                    items=items if step != "page_visit" else (),
                    url=url if step == "page_visit" else "https://shop.example/product",
                    epik=epik,
                    event_id=self.id(),
                )
            )
        if step == "checkout":
            self.order(ago_s)

    def order(self, ago_s: float) -> None:
        """Give the last event its money; one in ten is refunded, mostly by a server that knows nobody."""
        dice = self.dice
        placed = self.seen.pop()
        order_id = f"order-{self.id()}" if dice.random() < 0.9 else ""
        currency = dice.choice(["EUR", "EUR", "EUR", "", "USD", "JPY"])
        self.seen.append(
            replace(placed, order_id=order_id, value=round(dice.lognormvariate(4, 1), 2), currency=currency)
        )
        if order_id and dice.random() < 0.1:
            who = dice.choice([0, placed.visitor])
            name = dice.choice(["order_cancelled", "order_refunded"])
            self.seen.append(
                Seen(who, name, max(1.0, ago_s - DAY), order_id=order_id, event_id=self.id(), source="api")
            )
        if order_id and dice.random() < 0.05:  # somebody's browser says so: that is no word of the shop
            self.seen.append(
                Seen(placed.visitor, "order_cancelled", max(1.0, ago_s - DAY), order_id=order_id, event_id=self.id())
            )

    def pin(self, who: Seen) -> None:
        dice = self.dice
        self.pinned.append(
            Pinned(
                visitor=who.visitor,
                action=dice.choice(ACTIONS),
                ago_s=round(dice.expovariate(1 / 20) * DAY + 1, 3),
                em=who.em if dice.random() < 0.3 else "",
                pin=dice.choice([0, 11, 12, 13]),
                board=dice.choice([0, 21, 22]),
                campaign=dice.choice([0, 0, 31]),
                product=dice.choice(["", *(product for product, _, _ in PRODUCTS[:5])]),
            )
        )

    def shared(self) -> None:
        """A till, a guest account, and an address that everybody uses."""
        for number in range(12):
            self.seen.append(Seen(7, "checkout", 3600 + number, em=f"em-{number}", value=900, event_id=self.id()))
        for number in range(60):
            did = "add_to_cart" if number else "page_visit"
            self.seen.append(Seen(100 + number, did, 7200, x="guest", event_id=self.id()))
            self.seen.append(Seen(200 + number, "add_to_cart", 7200, em="info", event_id=self.id()))
        self.seen.append(Seen(100, "page_visit", 7200, em="em-20", event_id=self.id()))

    def copies(self, one: Seen) -> list[Seen]:
        """Sent twice by the tag, or told by the shop's server too, which knows another visitor, and
        now and then another amount or no number of the order."""
        again = []
        if self.dice.random() < 0.1:
            again.append(one)
        if self.dice.random() < 0.05:
            again.append(replace(one, ago_s=max(0.5, one.ago_s - 0.003)))
        if one.event == "checkout" and one.em and self.dice.random() < 0.5:
            visitor = int.from_bytes(one.em.encode()[-7:], "big")
            told = replace(one, visitor=visitor, source="api", currency="", ago_s=max(0.5, one.ago_s - 1))
            if self.dice.random() < 0.2:  # it counts in another currency
                told = replace(told, currency=self.dice.choice(["EUR", "USD"]), value=round(one.value * 1.25, 2))
            again.append(replace(told, order_id="") if self.dice.random() < 0.2 else told)
        return again

    def id(self) -> str:
        self.number += 1
        return f"e{self.number}"
