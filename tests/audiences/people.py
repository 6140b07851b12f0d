"""Small worlds for audience tests: who was seen doing what, loaded into the real engine, and what a rule means there.

`expected` is the specification in plain Python, written without a look at the SQL.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import msgspec

from pinstream import event
from pinstream.audiences import compile
from pinstream.audiences.compile import NO_RATES, Money
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
)
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse

NOW_S = int(time.time()) - 100_000
NOW_MS = NOW_S * 1000
DAY = 86_400
BLOCK_ROWS = 50_000
EVERY_KIND = {"em", "ph", "external_id", "epik"}

_sites = itertools.count(1)
_tokens = itertools.count()


@dataclass(frozen=True)
class Seen:
    """One event of one visitor."""

    visitor: int
    event: str
    ago_s: float
    em: str = ""
    x: str = ""
    consent: Literal["unknown", "yes", "no"] = "yes"
    received_ago_s: float | None = None
    ph: str = ""
    value: float = 0.0
    currency: str = ""
    order_id: str = ""
    items: tuple[tuple[str, str, str], ...] = ()
    """(product id, category, brand) of each line item."""
    url: str = ""
    search: str = ""
    epik: str = ""
    event_id: str = ""
    """Empty: one of its own."""
    source: Literal["tag", "api", "pinterest", "import"] = "tag"

    @property
    def time_ms(self) -> int:
        return round((NOW_S - self.ago_s) * 1000)

    @property
    def received_ms(self) -> int:
        return self.time_ms if self.received_ago_s is None else round((NOW_S - self.received_ago_s) * 1000)

    @property
    def landing(self) -> bool:
        return bool(self.epik) and "?epik=" in self.url


@dataclass(frozen=True)
class Pinned:
    """One action on a Pin."""

    visitor: int
    action: event.Action
    ago_s: float
    em: str = ""
    x: str = ""
    pin: int = 0
    board: int = 0
    campaign: int = 0
    product: str = ""

    @property
    def time_ms(self) -> int:
        return round((NOW_S - self.ago_s) * 1000)


@dataclass
class World:
    """What a site knows."""

    seen: Sequence[Seen] = ()
    pinned: Sequence[Pinned] = ()
    listed: Sequence[tuple[int, Literal["em", "ph", "external_id"], str]] = ()
    """(list, kind, person)"""
    members: Sequence[tuple[int, str]] = ()
    """(audience, e-mail)"""
    money: Money = field(default_factory=lambda: NO_RATES)
    erased: Sequence[tuple[str, str]] = ()
    """(kind as in ClickHouse, who)"""

    @property
    def acts(self) -> list[Seen | Pinned]:
        """Events and actions on Pins."""
        return [*self.seen, *self.pinned]


def next_site() -> int:
    """Every world gets a site of its own, so that many share one database."""
    return next(_sites)


def hashed(text: str) -> str:
    """SHA-256 hex of a made-up person or customer number."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def raw_event(site_id: int, number: int, one: Seen) -> bytes:
    """The record of an event, as `collect` writes it."""
    items = [
        event.LineItem(product_id=product, product_category=category, product_brand=brand)
        for product, category, brand in one.items
    ]
    return event.encode(
        event.Event(
            event=one.event,
            event_id=one.event_id or f"{number}",
            time=one.time_ms,
            site_id=site_id,
            received_ms=one.received_ms,
            visitor_id=one.visitor,
            consent=one.consent,
            em=hashed(one.em),
            external_id=hashed(one.x),
            ph=hashed(one.ph),
            value=one.value,
            currency=one.currency,
            order_id=one.order_id,
            line_items=items,
            url=one.url,
            search_query=one.search,
            epik=one.epik,
            source=one.source,
        )
    )


def raw_engagement(site_id: int, number: int, one: Pinned) -> bytes:
    """The record of an engagement, as `collect` writes it."""
    return event.encode(
        event.Engagement(
            site_id=site_id,
            action=one.action,
            event_id=f"{number}",
            time=one.time_ms,
            received_ms=one.time_ms,
            visitor_id=one.visitor,
            em=hashed(one.em),
            external_id=hashed(one.x),
            pin_id=one.pin,
            board_id=one.board,
            campaign_id=one.campaign,
            product_id=one.product,
        )
    )


async def _insert(warehouse: Warehouse, table: str, records: Iterable[bytes]) -> None:
    """As `load` does: the record's own bytes with its position in front, through all views."""
    rows = [b'{"k_partition":0,"k_offset":0,"rollup_version":1,' + record[1:] for record in records]
    columns = schema.insert_columns(table)
    for start in range(0, len(rows), BLOCK_ROWS):
        body = b"\n".join(rows[start : start + BLOCK_ROWS])
        await warehouse.insert(table, columns, body, token=f"test:{next(_tokens)}")


async def load(warehouse: Warehouse, site_id: int, acts: Iterable[Seen | Pinned]) -> None:
    """Insert events and actions on Pins."""
    numbered = list(enumerate(acts))
    await _insert(warehouse, "events", [raw_event(site_id, n, one) for n, one in numbered if isinstance(one, Seen)])
    pinned = [raw_engagement(site_id, n, one) for n, one in numbered if isinstance(one, Pinned)]
    await _insert(warehouse, "engagements", pinned)


async def create(warehouse: Warehouse, worlds: Sequence[World]) -> list[int]:
    """A new site for each world, all of them loaded at once; gives their ids."""
    sites = [next_site() for _ in worlds]
    found = list(zip(sites, worlds, strict=True))
    seen = [raw_event(site, number, one) for site, each in found for number, one in enumerate(each.seen)]
    await _insert(warehouse, "events", seen)
    pinned = [raw_engagement(site, number, one) for site, each in found for number, one in enumerate(each.pinned)]
    await _insert(warehouse, "engagements", pinned)
    listed = [
        {"site_id": site, "list_id": number, "id_type": kind, "id_hex": hashed(name)}
        for site, each in found
        for number, kind, name in each.listed
    ]
    members = [
        {"site_id": site, "audience_id": number, "em_hex": hashed(name), "state": 1, "op_at": str(NOW_MS)}
        for site, each in found
        for number, name in each.members
    ]
    erased = [
        {"site_id": site, "id_type": kind, "erased_at": str(NOW_MS)}
        | ({"id_value": name} if kind in ("epik", "visitor") else {"id_hex": hashed(name)})
        for site, each in found
        for kind, name in each.erased
    ]
    by_text = [row for row in erased if "id_value" in row]
    by_hash = [row for row in erased if "id_hex" in row]
    tables = (("list_member", listed), ("audience_member", members), ("erased", by_text), ("erased", by_hash))
    for table, rows in tables:
        if rows:
            body = b"\n".join(map(msgspec.json.encode, rows))
            await warehouse.insert(table, list(rows[0]), body, token=f"test:{next(_tokens)}")
    return sites


async def world(warehouse: Warehouse, *seen: Seen) -> int:
    """A new site with these events; gives its id."""
    site_id = next_site()
    await load(warehouse, site_id, seen)
    return site_id


async def found(warehouse: Warehouse, site_id: int, rule: Rule, now_ms: int = NOW_MS) -> set[str]:
    """The e-mail hashes that the engine says are in."""
    return await answer(warehouse, compile.members(rule, site_id=site_id, now_ms=now_ms))


async def answer(warehouse: Warehouse, query: compile.Query) -> set[str]:
    """The e-mail hashes a query gives, each at most once."""
    rows = [bytes(row["em"]).hex() for row in await warehouse.select(query.sql, query.params)]
    assert len(rows) == len(set(rows))
    return set(rows)


async def answers(
    warehouse: Warehouse, site_id: int, rules: Sequence[Rule], level: compile.Level, money: Money = NO_RATES
) -> list[set[Any]]:
    """For each rule the e-mail hashes, or the visitors, that the engine says are in; all of one pass."""
    query = compile.answers(rules, level=level, site_id=site_id, now_ms=NOW_MS, money=money)
    ins: list[set[Any]] = [set() for _ in rules]
    for row in await warehouse.select(query.sql, query.params):
        who, *flags = row.values()
        for flag, each in zip(flags, ins, strict=True):
            if flag:
                each.add(who if level == "visitor" else bytes(who).hex())
    return ins


# --- the specification ---------------------------------------------------------------------------


def expected(seen: Iterable[Seen], rule: Rule) -> set[str]:
    """The e-mail hashes that should be in at NOW."""
    return people_in(World(list(seen)), rule)


def people_in(world: World, rule: Rule) -> set[str]:
    """The e-mail hashes of the people who should be in at NOW."""
    shared = shared_devices(world)
    return {
        hashed(em)
        for em, devices in people(world).items()
        if _consents(world, devices, shared)
        and not _erased_person(world, devices - shared, em)
        and _holds(_Who(world, frozenset(devices - shared), em), rule)
    }


def visitors_in(world: World, rule: Rule) -> set[int]:
    """The browsers that should be in at NOW."""
    known = {one.visitor for one in world.acts} - {0}
    return {
        visitor
        for visitor in known
        if _consents(world, {visitor}, set())
        and not _erased_devices(world, {visitor}, EVERY_KIND)
        and _holds(_Who(world, frozenset({visitor}), None), rule)
    }


def people(world: World) -> dict[str, set[int]]:
    """E-mail -> its devices, shared ones included."""
    by_em, by_x = _links(world, "em"), _links(world, "x")
    shared = shared_devices(world)
    persons = {}
    for em, direct in by_em.items():
        if len(direct) > compile.MAX_VISITORS_PER_ID:
            continue
        devices = set(direct)
        for visitors in by_x.values():
            if len(visitors) <= compile.MAX_VISITORS_PER_ID and visitors & (direct - shared):
                devices |= visitors
        persons[em] = devices
    return persons


def shared_devices(world: World) -> set[int]:
    """Devices with too many e-mails, or too many external ids, in the last 30 days."""
    since_ms = (NOW_S - compile.SHARED_WINDOW_S) * 1000
    recent = World(
        [one for one in world.seen if one.time_ms >= since_ms], [one for one in world.pinned if one.time_ms >= since_ms]
    )
    return {
        visitor
        for kind in ("em", "x")
        for links in [_links(recent, kind)]
        for visitor in set().union(*links.values())
        if sum(visitor in visitors for visitors in links.values()) > compile.MAX_IDS_PER_VISITOR
    }


def _links(world: World, kind: str) -> dict[str, set[int]]:
    links: dict[str, set[int]] = defaultdict(set)
    for one in world.acts:
        if getattr(one, kind, "") and one.visitor:
            links[getattr(one, kind)].add(one.visitor)
    return links


def _consents(world: World, devices: set[int], shared: set[int]) -> bool:
    return _word_of(world, devices, shared) == 1


def _word_of(world: World, devices: set[int], shared: set[int]) -> int:
    words = []
    for device in devices:
        said = [(_said_ms(one), _word(one)) for one in world.seen if one.visitor == device and _word(one)]
        latest = max(said, default=(0, 0))
        if latest[1] == 2 or device not in shared:
            words.append(latest)
    return max(words, default=(0, 0))[1]


def _erased_person(world: World, own: set[int], em: str) -> bool:
    """The address was, or anything but an address that was seen on an own device."""
    named = any(kind in ("em", "hash") and name == em for kind, name in world.erased)
    return named or _erased_devices(world, own, EVERY_KIND - {"em"})


def _erased_devices(world: World, devices: set[int], kinds: set[str]) -> bool:
    """One of `devices` was erased, or one of these kinds of identifiers that was seen on it."""
    return any(
        (kind == "visitor" and int(name) in devices)
        or any(
            one.visitor in devices and getattr(one, {"external_id": "x"}.get(seen, seen), "") == name
            for seen in (kinds if kind == "hash" else kinds & {kind})
            for one in world.acts
        )
        for kind, name in world.erased
    )


def _said_ms(one: Seen) -> int:
    """A yes is as old as its event, a no counts from when it was received, unless it is history."""
    return min(one.time_ms, one.received_ms) if _word(one) == 1 or one.source == "import" else one.received_ms


def _word(one: Seen) -> int:
    return 2 if one.event == event.CONSENT_WITHDRAWN else {"unknown": 0, "yes": 1, "no": 2}[one.consent]


class _Who:
    """Somebody: a person (`em`) with the own devices, or one browser."""

    def __init__(self, world: World, devices: frozenset[int], em: str | None) -> None:
        self.world = world
        self.em = em
        self.devices = devices
        self.all = [one for one in world.seen if one.visitor in devices]
        self.seen = [one for one in self.all if one.event != event.CONSENT_WITHDRAWN]
        self.pinned = [one for one in world.pinned if one.visitor in devices]
        self.acts: list[Seen | Pinned] = [*self.seen, *self.pinned]


def _holds(who: _Who, rule: Rule) -> bool:
    """Whether the rule is true, consent left aside."""
    if not all(_is(who, each) for each in rule.all) or any(_is(who, each) for each in rule.none):
        return False
    if rule.any and not any(_is(who, each) for each in rule.any):
        return False
    quiet_since_s = NOW_S - rule.quiet_for_min * 60
    return not rule.quiet_for_min or all(one.time_ms // 1000 < quiet_since_s for one in who.seen)


def _is(who: _Who, condition: Condition) -> bool:  # noqa: PLR0912 - one line a kind
    match condition:
        case Did():
            return _did(who, condition)
        case Engaged():
            return any(_inside(at_ms, condition.within_days) for at_ms in _engaged(who, condition))
        case Arrived(within_days=days):
            return any(one.landing and _inside(one.time_ms, days) for one in who.seen)
        case FirstSeen(within_days=days):
            return bool(who.seen) and _inside(min(one.time_ms for one in who.seen), days)
        case LastSeen(within_days=days):
            return any(_inside(one.time_ms, days) for one in who.seen)
        case Orders():
            return _orders(who, condition)
        case Bought(products=products, categories=categories):
            items = [item for one in who.seen if one.event == "checkout" for item in one.items]
            return any(item[0] in products or item[1] in categories for item in items)
        case Consents(word=word):
            return word == "yes"  # who is asked consents
        case Known():
            return who.em is not None or any(one.em for one in who.acts)
        case OnList(lists=lists):
            return any(_is_listed(who, kind, name) for number, kind, name in who.world.listed if number in lists)
        case InAudience(audiences=audiences):
            return any(
                number in audiences and name in ({who.em} if who.em else _names(who, "em"))
                for number, name in who.world.members
            )


def _inside(time_ms: int, days: int) -> bool:
    return NOW_S - days * DAY <= time_ms // 1000


def _on(time_ms: int) -> date:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date()


def _did(who: _Who, condition: Did) -> bool:
    times = defaultdict(list)
    for one in who.seen:
        if one.event in condition.events and _fits(one, condition.where, who.world.money):
            times[one.event, one.event_id or id(one)].append(one.time_ms)
    if condition.at_least == 1:
        return any(_inside(time_ms, condition.within_days) for each in times.values() for time_ms in each)
    first = _on(NOW_MS) - timedelta(days=condition.within_days)
    counted = [each for each in times.values() if any(first <= _on(time_ms) for time_ms in each)]
    return len(counted) >= condition.at_least


def _fits(one: Seen, where: Where, money: Money) -> bool:
    for column, names in enumerate((where.products, where.categories, where.brands)):
        if names and not any(item[column] in names for item in one.items):
            return False
    if where.value_at_least is not None or where.value_below is not None:
        worth = _worth(one.value, one.currency, money)
        if worth is None or not _between(worth, where.value_at_least, where.value_below):
            return False
    if where.currency and one.currency != where.currency:
        return False
    return where.url_contains.lower() in one.url.lower() and where.search_contains.lower() in one.search.lower()


def _worth(value: float, currency: str, money: Money) -> Decimal | None:
    amount = Decimal(f"{value:.4f}")
    if currency in ("", money.currency):
        return amount
    if currency not in money.rates or money.currency not in money.rates:
        return None
    rate = Decimal(str(money.rates[currency])) / Decimal(str(money.rates[money.currency]))
    return amount * rate.quantize(Decimal("0.00000001"))


def _between(amount: Decimal, at_least: float | None, below: float | None) -> bool:
    return (at_least is None or amount >= Decimal(f"{at_least:.4f}")) and (
        below is None or amount < Decimal(f"{below:.4f}")
    )


def _engaged(who: _Who, condition: Engaged) -> list[int]:
    wanted = condition.actions or ("click", "save", "closeup", "comment", "like")
    times = []
    for pinned in who.pinned:
        objects = {
            "pin": str(pinned.pin or ""),
            "board": str(pinned.board or ""),
            "campaign": str(pinned.campaign or ""),
            "product": pinned.product,
        }
        name = objects.get(condition.on, "any")
        if pinned.action in wanted and name and (not condition.ids or name in condition.ids):
            times.append(pinned.time_ms)
    for one in who.seen:
        if one.landing and "click" in wanted:
            products = {item[0] for item in one.items} - {""}
            named = products & set(condition.ids) if condition.ids else products
            if condition.on == "any" or (condition.on == "product" and named):
                times.append(one.time_ms)
    return times


def _orders(who: _Who, condition: Orders) -> bool:
    cancelled = {
        one.order_id
        for one in who.world.seen
        if one.event in ("order_cancelled", "order_refunded") and one.source in ("api", "import")
    }
    told = [one for one in who.seen if one.event == "checkout"]
    number_of = {one.event_id: one.order_id for one in told if one.event_id and one.order_id}
    copies = defaultdict(list)
    for one in told:
        number = one.order_id or number_of.get(one.event_id, "")
        if not number or number not in cancelled:
            copies[number or (one.event_id or id(one),)].append(one)
    placed = [
        _worth(*max((one.value, one.currency) for one in each), who.world.money)
        for each in copies.values()
        if not condition.within_days or _inside(min(one.time_ms for one in each), condition.within_days)
    ]
    worth = [amount for amount in placed if amount is not None]
    total = sum(worth, Decimal(0))
    if condition.count_at_least is not None and len(placed) < condition.count_at_least:
        return False
    if condition.count_at_most is not None and len(placed) > condition.count_at_most:
        return False
    if not _between(total, condition.total_at_least, condition.total_below):
        return False
    if condition.average_at_least is None and condition.average_below is None:
        return True
    at_least, below = condition.average_at_least, condition.average_below
    return bool(worth) and not (
        (at_least is not None and total < Decimal(f"{at_least:.4f}") * len(worth))
        or (below is not None and total >= Decimal(f"{below:.4f}") * len(worth))
    )


def _names(who: _Who, kind: str) -> set[str]:
    return {getattr(one, kind, "") for one in (*who.all, *who.pinned)} - {""}


def _is_listed(who: _Who, kind: str, name: str) -> bool:
    if kind == "em" and who.em:
        return name == who.em
    return name in _names(who, {"em": "em", "ph": "ph", "external_id": "x"}[kind])
