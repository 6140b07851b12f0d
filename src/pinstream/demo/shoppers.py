"""Synthetic shoppers: they send over HTTP what the tag would send, and keep books about every answer.

The books (`Ledger`) are the truth against which the demo compares ClickHouse and Pinterest: which event ids were
answered durable, and who must therefore be in the audience.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from http.cookiejar import CookieJar, DefaultCookiePolicy
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, Literal, NamedTuple

import httpx
import msgspec
from msgspec import Struct

from pinstream.clock import now_ms
from pinstream.collect.engagements import ACTIONS
from pinstream.demo import pins
from pinstream.demo.shop import cart as carts
from pinstream.demo.shop.catalogue import CATEGORIES, CURRENCY, PRODUCTS
from pinstream.event import CONSENT_WITHDRAWN, canonical_name

MAX_TRIES: Final = 6  # of a request that gets no answer, or 429 or 5xx
MAX_PAUSE_S: Final = 5.0
GRACE_S: Final = 5.0  # after the shop closes, for requests under way
WORKERS: Final = 16  # shoppers at the same time
TIMEOUT_S: Final = 10.0
MAX_ENTRIES: Final = 500_000  # in the ledger; then the shoppers go home
COOKIE: Final = "ps_vid"

Persona = Literal[
    "browser",
    "abandoner",
    "buyer",
    "pinner",
    "two_devices",
    "second_thoughts",
    "withdrawer",
    "refuser",
    "gpc",
    "bot",
    "bad_client",
]

WEIGHTS: Final[dict[Persona, int]] = {
    "browser": 38,
    "abandoner": 22,
    "buyer": 16,
    "pinner": 8,
    "two_devices": 5,
    "second_thoughts": 4,
    "withdrawer": 3,
    "refuser": 4,
    "gpc": 3,
    "bot": 2,
    "bad_client": 3,
}
"""How often each kind of shopper comes."""

_PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 Version/19.1 Safari/604.1"
_LAPTOP = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"
_CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"

# --- books -----------------------------------------------------------------------------------------

Status = Literal["durable", "dropped", "refused", "unknown"]


class Entry(Struct, kw_only=True):
    """One event as it was sent, and what became of it."""

    event_id: str
    event: str
    time_ms: int
    visitor_id: str
    persona: Persona
    em: str = ""
    """SHA-256 of the e-mail that went with it."""
    status: Status = "unknown"
    """unknown: no final answer; the event may be stored or not."""
    reason: str = "no_answer"
    answered_ms: int = 0
    """When the final answer came, ms since 1970; 0 = it never came."""
    answered_s: float = 0.0
    """The same by the monotonic clock."""
    tries: int = 0


class Ledger(Struct):
    """Everything that was sent."""

    entries: dict[str, Entry] = {}
    """By event id."""

    @property
    def durable(self) -> set[str]:
        """Ids of the events that were answered durable."""
        return {entry.event_id for entry in self.entries.values() if entry.status == "durable"}

    @property
    def counts(self) -> Counter[str]:
        """How many events were `durable`, `dropped:<reason>`, `refused:<reason>` or `unknown:<reason>`."""
        return Counter(
            entry.status if entry.status == "durable" else f"{entry.status}:{entry.reason}"
            for entry in self.entries.values()
        )

    @property
    def emails(self) -> dict[str, set[str]]:
        """The hashed e-mails that each kind of shopper gave."""
        given: dict[str, set[str]] = defaultdict(set)
        for entry in self.entries.values():
            if entry.em:
                given[entry.persona].add(entry.em)
        return dict(given)


def expected_cart_abandoners(ledger: Ledger) -> set[str]:
    """Hashed e-mails of the people who must be in "cart abandoned", by what was answered durable.

    A person is everybody who gave the same e-mail: they filled a cart or began to pay, placed no order, and the last
    that was heard of them is not that they withdrew.
    """
    return {
        em
        for em, entries in _people(ledger).items()
        if {"add_to_cart", "initiate_checkout"} & {entry.event for entry in entries}
        and "checkout" not in {entry.event for entry in entries}
        and max(entries, key=lambda entry: (entry.time_ms, entry.event == CONSENT_WITHDRAWN)).event != CONSENT_WITHDRAWN
    }


def certain_people(ledger: Ledger) -> set[str]:
    """Hashed e-mails of the people of whom every event got a final answer: only of these can be said who is in."""
    unsure = {entry.visitor_id for entry in ledger.entries.values() if entry.status == "unknown"}
    doubtful = {entry.em for entry in ledger.entries.values() if entry.visitor_id in unsure}
    return {entry.em for entry in ledger.entries.values() if entry.em} - doubtful


def _people(ledger: Ledger) -> dict[str, list[Entry]]:
    """Durable events by e-mail, also those that a visitor sent before giving it.

    Not what they did on Pinterest, which tells an e-mail and nothing of the browser that goes with it.
    """
    durable = [each for each in ledger.entries.values() if each.status == "durable" and each.event not in ACTIONS]
    em_of = {entry.visitor_id: entry.em for entry in durable if entry.em}
    people: dict[str, list[Entry]] = defaultdict(list)
    for entry in durable:
        if entry.visitor_id in em_of:
            people[em_of[entry.visitor_id]].append(entry)
    return people


# --- journeys: pure but for the dice ---------------------------------------------------------------


class Device(Struct):
    """One browser, as the collector sees it."""

    visitor_id: str
    user_agent: str
    epik: str = ""
    cookie: str = ""
    """Value of the collector's cookie, once it has set one."""


class Step(NamedTuple):
    """One request: what a page or a click sends."""

    device: Device
    events: list[dict[str, Any]]
    em: str = ""
    """Hash of the e-mail that the page knows."""
    on_pinterest: bool = False
    """Actions on Pins, which no page sends, but a server of the shop that has a key."""
    consent: Literal["yes", "no"] = "yes"
    gpc: bool = False


class Journey(NamedTuple):
    """One person's visit."""

    persona: Persona
    steps: list[Step]


def journeys(dice: random.Random, shop_url: str) -> Iterator[Journey]:
    """People, one after the other, for ever. Each is somebody else."""
    personas = list(WEIGHTS)
    weights = list(WEIGHTS.values())
    while True:
        persona = dice.choices(personas, weights)[0]
        yield Journey(persona, _VISITS[persona](Visit(dice, shop_url)))


class Visit:
    """Builds the requests of one person's visit, page by page."""

    def __init__(self, dice: random.Random, shop_url: str) -> None:
        self.dice = dice
        self.shop_url = shop_url
        self.cart: carts.Cart = {}

    def device(self, user_agent: str = "", *, from_pin: float = 0.25) -> Device:
        """A browser nobody has seen; so many of them come from a Pin."""
        return Device(
            visitor_id=str(uuid.UUID(int=self.dice.getrandbits(128), version=4)),
            user_agent=user_agent or self.dice.choice((_PHONE, _LAPTOP)),
            epik=f"dj0yJnU9{self.dice.getrandbits(64):x}" if self.dice.random() < from_pin else "",
        )

    def email(self) -> str:
        """The hash of an e-mail nobody else has."""
        return sha256(f"shopper-{self.dice.getrandbits(64):x}@example.com".encode()).hexdigest()

    def page(self, path: str, name: str, data: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """What opening a page sends."""
        here = {"url": f"{self.shop_url}{path}", "referrer": f"{self.shop_url}/"}
        return [{"event": "init", **here}, {"event": name, **here, **(data or {})}]

    def lands(self, device: Device, path: str, data: dict[str, Any] | None = None) -> Step:
        """The first page; who comes from a Pin has Pinterest's click id in its address."""
        opened = self.page(f"{path}?epik={device.epik}" if device.epik else path, "pagevisit", data)
        if device.epik:
            opened = [{**event, "referrer": "https://www.pinterest.com/"} for event in opened]
        return Step(device, opened)

    def looks(self, device: Device, *, pages: int = 3) -> list[Step]:
        """Front page, then shelves, products and searches."""
        openings = self.dice.choices((self.shelf, self.product, self.search), (1, 2, 1), k=self.dice.randint(1, pages))
        return [self.lands(device, "/"), *(Step(device, opened()) for opened in openings)]

    def shelf(self) -> list[dict[str, Any]]:
        slug, name = self.dice.choice(list(CATEGORIES.items()))
        return self.page(f"/c/{slug}", "viewcategory", {"product_category": name})

    def product(self) -> list[dict[str, Any]]:
        product_id = self.dice.choice(list(PRODUCTS))
        return self.page(f"/p/{product_id}", "pagevisit", carts.event_data({product_id: 1}))

    def search(self) -> list[dict[str, Any]]:
        word = self.dice.choice(("mug", "linen", "green", "gift for mum", "räucherkerze"))
        return self.page(f"/search?q={word.replace(' ', '+')}", "search", {"search_query": word})

    def fills_cart(self, device: Device) -> list[Step]:
        """One to three products into the cart."""
        steps = []
        for product_id in self.dice.sample(list(PRODUCTS), self.dice.randint(1, 3)):
            quantity = self.dice.choice((1, 1, 1, 2))
            self.cart = carts.with_quantity(self.cart, product_id, quantity)
            added = {"event": "addtocart", "url": f"{self.shop_url}/p/{product_id}"}
            steps.append(Step(device, [{**added, **carts.event_data({product_id: quantity})}]))
        return steps

    def signs_up(self, device: Device, em: str) -> list[Step]:
        """Leaves an e-mail address."""
        signup = {"event": "signup", "url": f"{self.shop_url}/", "lead_type": "newsletter"}
        return [Step(device, [signup], em)]

    def begins_to_pay(self, device: Device) -> list[Step]:
        return [Step(device, self.page("/checkout", "initiatecheckout", carts.event_data(self.cart)))]

    def pays(self, device: Device, em: str) -> list[Step]:
        order_id = f"FC-{self.dice.getrandbits(32):08X}"
        order = {"order_id": order_id, **carts.event_data(self.cart)}
        return [
            Step(device, [{"event": "addpaymentinfo", "url": f"{self.shop_url}/checkout"}], em),
            Step(device, self.page("/thanks", "checkout", order), em),
        ]


def _browses(visit: Visit) -> list[Step]:
    return visit.looks(visit.device(), pages=4)


def _abandons(visit: Visit) -> list[Step]:
    """Three in four leave an e-mail; some before, some after filling the cart."""
    device, em = visit.device(), visit.email()
    signup = visit.signs_up(device, em) if visit.dice.random() < 0.75 else []
    steps = visit.looks(device, pages=1)
    cart = visit.fills_cart(device) + (visit.begins_to_pay(device) if visit.dice.random() < 0.4 else [])
    return steps + (signup + cart if visit.dice.random() < 0.5 else cart + signup)


def _buys(visit: Visit) -> list[Step]:
    device = visit.device()
    steps = visit.looks(device, pages=1) + visit.fills_cart(device)
    return steps + visit.begins_to_pay(device) + visit.pays(device, visit.email())


def _pins(visit: Visit) -> list[Step]:
    """Saves a Pin and comes from it, as the same person for those who know the e-mail; every third one buys."""
    device, em, product_id = visit.device(from_pin=1), visit.email(), pins.popular(visit.dice)
    steps = [Step(device, pins.actions(visit.dice, product_id, em), em, on_pinterest=True)]
    steps.append(visit.lands(device, f"/p/{product_id}", carts.event_data({product_id: 1})))
    if visit.dice.random() < 0.33:
        return steps + visit.fills_cart(device) + visit.begins_to_pay(device) + visit.pays(device, em)
    return steps + visit.signs_up(device, em)


def _buys_elsewhere(visit: Visit) -> list[Step]:
    """Fills the cart on the phone, buys on the laptop: one person, nobody to remind."""
    phone, laptop, em = visit.device(_PHONE), visit.device(_LAPTOP), visit.email()
    steps = visit.looks(phone, pages=1) + visit.signs_up(phone, em) + visit.fills_cart(phone)
    return steps + visit.begins_to_pay(laptop) + visit.pays(laptop, em)


def _thinks_again(visit: Visit) -> list[Step]:
    """Fills the cart on the phone, looks again on the laptop, and still does not buy."""
    phone, laptop, em = visit.device(_PHONE), visit.device(_LAPTOP), visit.email()
    steps = visit.fills_cart(phone) + visit.signs_up(phone, em)
    return steps + visit.looks(laptop, pages=2) + visit.signs_up(laptop, em)


def _withdraws(visit: Visit) -> list[Step]:
    """Would have been reminded, but takes the consent back."""
    device, em = visit.device(), visit.email()
    steps = visit.fills_cart(device) + visit.signs_up(device, em)
    return [*steps, Step(device, [{"event": CONSENT_WITHDRAWN}], consent="no")]


def _refuses(visit: Visit) -> list[Step]:
    """Said no, on a storefront whose own script sends all the same."""
    device = visit.device()
    return [step._replace(consent="no") for step in visit.fills_cart(device) + visit.signs_up(device, visit.email())]


def _opts_out(visit: Visit) -> list[Step]:
    device = visit.device()
    return [step._replace(gpc=True) for step in visit.looks(device, pages=1) + visit.signs_up(device, visit.email())]


def _crawls(visit: Visit) -> list[Step]:
    return visit.looks(visit.device(_CRAWLER), pages=2)


def _blunders(visit: Visit) -> list[Step]:
    """A shop with a broken integration: some events are fine, some are not."""
    device = visit.device()
    broken: tuple[dict[str, Any], ...] = (
        {"event": "addtocart", "value": -3, "currency": CURRENCY},
        {"event": "addtocart", "value": "a lot"},
        {"event": "checkout", "order_id": "x" * 200},
        {"event": "checkout", "currency": "EURO"},
        {"event": "", "value": 1},
        {"event": "pagevisit", "line_items": "mug"},
    )
    bad = visit.dice.sample(broken, 2)
    return [Step(device, [*visit.page("/", "pagevisit"), bad[0]]), Step(device, [bad[1]])]


_VISITS: Final[dict[Persona, Callable[[Visit], list[Step]]]] = {
    "browser": _browses,
    "abandoner": _abandons,
    "buyer": _buys,
    "pinner": _pins,
    "two_devices": _buys_elsewhere,
    "second_thoughts": _thinks_again,
    "withdrawer": _withdraws,
    "refuser": _refuses,
    "gpc": _opts_out,
    "bot": _crawls,
    "bad_client": _blunders,
}


# --- wire: pure ------------------------------------------------------------------------------------


def stamped(events: Sequence[dict[str, Any]], now_ms: int, dice: random.Random) -> list[dict[str, Any]]:
    """The events as sent: each with an id of its own (UUIDv7) and its time, some milliseconds apart if it has none."""
    times = range(now_ms - len(events) + 1, now_ms + 1)
    return [{"time": at, **event, "event_id": _uuid7(at, dice)} for event, at in zip(events, times, strict=True)]


def _uuid7(now_ms: int, dice: random.Random) -> str:
    low = dice.getrandbits(74)
    return str(uuid.UUID(int=now_ms << 80 | 0x7 << 76 | (low >> 62) << 64 | 0b10 << 62 | low & (1 << 62) - 1))


def body(site: str, step: Step, events: list[dict[str, Any]], now_ms: int) -> bytes:
    """The request's body, as the tag or the shop's server builds it. A withdrawal names site, visitor and time only."""
    if step.on_pinterest:
        return msgspec.json.encode({"site": site, "engagements": events})
    envelope: dict[str, Any] = {"site": site, "sent_at": now_ms, "consent": step.consent}
    envelope["visitor_id"] = step.device.visitor_id
    if step.device.epik and step.consent == "yes":
        envelope["epik"] = step.device.epik
    if step.em:
        envelope["user"] = {"em": [step.em]}
    return msgspec.json.encode({**envelope, "events": events})


class Verdict(NamedTuple):
    """What an answer says about one event."""

    status: Status
    reason: str = ""


_STATUSES: Final[dict[str, Status]] = {"durable": "durable", "dropped": "dropped", "refused": "refused"}


def verdicts(status: int, text: bytes, count: int) -> list[Verdict] | None:
    """What an answer says about each of a request's `count` events, in order; None: ask again later."""
    if status == 204:
        return [Verdict("durable")] * count
    if status == 429 or status >= 500:
        return None
    try:
        said = msgspec.json.decode(text)
        results = said.get("results") or [{"status": "refused", "reason": said.get("reason", "")}] * count
        found = [Verdict(_STATUSES.get(result["status"], "unknown"), result["reason"]) for result in results]
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        return [Verdict("unknown", f"http_{status}")] * count
    return found if len(found) == count else [Verdict("unknown", f"http_{status}")] * count


# --- sending ---------------------------------------------------------------------------------------


class Door(NamedTuple):
    """Where the shoppers come in."""

    collector_url: str
    site: str
    origin: str = ""
    """The shop's address, sent as Origin; empty = none is sent."""
    key: str = ""
    """Of the shop's server, which tells what people do with Pins; empty = nobody tells it."""


async def shop(door: Door, *, seconds: float, events_per_s: float, seed: int, ledger: Ledger) -> None:
    """Send shoppers through the collector for so many seconds, the first at once, and book every answer.

    With a key, what people did with Pins in the week before is told at once. What gets no final answer until GRACE_S
    after the end stays `unknown`. Ends early when the ledger holds MAX_ENTRIES. Never raises for what the collector
    does.
    """
    people = journeys(random.Random(seed), door.origin or "https://shop.example")  # noqa: S311  not for secrets
    dice = random.Random(seed + 1)  # noqa: S311  its own, so that answers do not change who comes
    pace = _Pace(events_per_s)
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # each device keeps its own cookie
    limits = httpx.Limits(max_connections=WORKERS, max_keepalive_connections=WORKERS)
    async with httpx.AsyncClient(
        base_url=door.collector_url, cookies=jar, limits=limits, timeout=TIMEOUT_S, trust_env=False
    ) as client:
        sender = _Sender(client, door, dice, ledger)
        closes_s = time.monotonic() + seconds
        before = [asyncio.create_task(_week(sender))]
        workers = before + [asyncio.create_task(_worker(people, pace, sender, closes_s)) for _ in range(WORKERS)]
        try:
            await asyncio.wait(workers, timeout=seconds + GRACE_S)
        finally:  # the client must outlive them
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    for worker in workers:
        if not worker.cancelled() and (fault := worker.exception()):
            raise fault


class _Pace:
    """Hands out moments at which so many events may go, so that together they keep the rate."""

    def __init__(self, events_per_s: float) -> None:
        self._interval_s = 1 / events_per_s
        self._next_s = time.monotonic()

    async def wait(self, events: int, until_s: float) -> bool:
        """Sleep until these events may go. False, without sleeping: that would be after `until_s`."""
        due = max(self._next_s, time.monotonic() - 1)  # after a stall at most a second's events are made up for
        self._next_s = due + events * self._interval_s
        if due < until_s:
            await asyncio.sleep(due - time.monotonic())
        return due < until_s


async def _week(sender: _Sender) -> None:
    """What was done with Pins before the shop opened: always the same."""
    dice = random.Random(0)  # noqa: S311  not for secrets
    nobody = Device(visitor_id="", user_agent="")
    for done in pins.week(dice, now_ms()):
        await sender.send("pinner", Step(nobody, done, on_pinterest=True))


async def _worker(people: Iterator[Journey], pace: _Pace, sender: _Sender, closes_s: float) -> None:
    for journey in people:
        for step in journey.steps:
            if sender.books_are_full or not await pace.wait(len(step.events), closes_s):
                return
            await sender.send(journey.persona, step)


class _Sender:
    """Sends one request until it is answered, and books the answer."""

    def __init__(self, client: httpx.AsyncClient, door: Door, dice: random.Random, ledger: Ledger) -> None:
        self._client = client
        self._door = door
        self._dice = dice
        self._ledger = ledger

    @property
    def books_are_full(self) -> bool:
        return len(self._ledger.entries) >= MAX_ENTRIES

    async def send(self, persona: Persona, step: Step) -> None:
        if step.on_pinterest and not self._door.key:
            return
        events = stamped(step.events, now_ms(), self._dice)
        entries = [_entry(event, persona, step) for event in events]
        self._ledger.entries.update({entry.event_id: entry for entry in entries})
        for attempt in range(MAX_TRIES):
            for entry in entries:
                entry.tries += 1
            found, reason = await self._post(step, events)
            _book(entries, found or [Verdict("unknown", reason)] * len(entries), final=found is not None)
            if found:
                return
            await asyncio.sleep(min(MAX_PAUSE_S, 0.2 * 2**attempt) * (0.5 + self._dice.random() / 2))

    async def _post(self, step: Step, events: list[dict[str, Any]]) -> tuple[list[Verdict] | None, str]:
        content = body(self._door.site, step, events, now_ms())
        try:
            path, headers = (
                ("/v1/engagements", self._of_server()) if step.on_pinterest else ("/p/i", self._headers(step))
            )
            answer = await self._client.post(path, content=content, headers=headers)
        except httpx.HTTPError:
            return None, "no_answer"
        _keep_cookie(step.device, answer.headers.get_list("set-cookie"))
        return verdicts(answer.status_code, answer.content, len(events)), f"http_{answer.status_code}"

    def _of_server(self) -> dict[str, str]:
        return {"Content-Type": "application/json", "Authorization": f"Bearer {self._door.key}"}

    def _headers(self, step: Step) -> dict[str, str]:
        headers = {"Content-Type": "text/plain;charset=UTF-8", "User-Agent": step.device.user_agent}
        cookie = f"{COOKIE}={step.device.cookie}" if step.device.cookie else ""
        optional = {"Origin": self._door.origin, "Cookie": cookie, "Sec-GPC": "1" * step.gpc}
        return headers | {name: value for name, value in optional.items() if value}


def _keep_cookie(device: Device, lines: list[str]) -> None:
    """What a browser does with the collector's cookie: keep it, or forget it when it has expired (no value)."""
    for line in lines:
        try:
            morsel = SimpleCookie(line).get(COOKIE)
        except CookieError:
            continue
        if morsel is not None:
            device.cookie = morsel.value


def _entry(event: dict[str, Any], persona: Persona, step: Step) -> Entry:
    return Entry(
        event_id=event["event_id"],
        event=event["action"] if step.on_pinterest else canonical_name(event["event"]),
        time_ms=event["time"],
        visitor_id=step.device.visitor_id,
        persona=persona,
        em=step.em,
    )


def _book(entries: list[Entry], found: list[Verdict], *, final: bool) -> None:
    for entry, verdict in zip(entries, found, strict=True):
        entry.status, entry.reason = verdict
        if final:
            entry.answered_ms, entry.answered_s = now_ms(), time.monotonic()
