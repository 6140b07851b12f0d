"""Pure but for the dice: what each class of user sends, and what must be answered.

People and their journeys are the demo's (`pinstream.demo.shoppers`); here they become requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from hashlib import md5, sha256
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from loadtests.ledger import DURABLE, Request
from pinstream.demo.shop.catalogue import PRODUCTS
from pinstream.demo.shoppers import COOKIE, Device, Step, Verdict, Visit, body, stamped
from pinstream.event import CONSENT_WITHDRAWN, canonical_name

CRAWLER: Final = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
SERVER: Final = "loadtest/1"
TEXT: Final = "text/plain;charset=UTF-8"
MAX_BODY_BYTES: Final = 1 << 20
MAX_EVENTS: Final = 100
MAX_ENGAGEMENTS: Final = 20
"""In one request of ours; a server collects some before it sends."""
ACTIONS: Final = {"click": 50, "closeup": 25, "save": 15, "like": 7, "comment": 3}
"""How often each is done."""


class Target(Struct, frozen=True):
    """For which site, and by which right, events are sent."""

    site: str
    origin: str
    api_key: str = ""


class Hit(NamedTuple):
    """One request of a browser: what the tag sends, or an image in Pinterest's form."""

    step: Step
    image: bool = False
    said: bool = True
    """Whether consent is told; the site's default holds where it is not."""


Visits = Callable[[Visit], list[Hit]]


def browses(visit: Visit) -> list[Hit]:
    """Looks around. Three in ten are seen by an image before they answer the banner; few say no at the end."""
    device, dice = visit.device(), visit.dice
    front = Step(device, visit.page("/", "pagevisit")[-1:])
    hits = [Hit(front, image=True, said=False)] if dice.random() < 0.3 else []
    hits += [Hit(step) for step in visit.looks(device, pages=6)]
    if dice.random() < 0.2:
        hits.append(Hit(Step(device, visit.product()[-1:]), image=True))
    if dice.random() < 0.05:
        hits.append(Hit(Step(device, [{"event": CONSENT_WITHDRAWN}], consent="no")))
    return hits


def buys(visit: Visit) -> list[Hit]:
    """From the front page to the order; half of the shops hash the address, half leave that to the server."""
    device = visit.device()
    em = visit.email() if visit.dice.random() < 0.5 else f"Buyer-{visit.dice.getrandbits(64):x}@Example.com"
    steps = visit.looks(device, pages=2) + visit.signs_up(device, em) + visit.fills_cart(device)
    return [Hit(step) for step in steps + visit.begins_to_pay(device) + visit.pays(device, em)]


class Browser:
    """Hands out one visit after the other, each somebody else's, request by request."""

    def __init__(self, target: Target, dice: random.Random, visits: Visits) -> None:
        self._target = target
        self._dice = dice
        self._hits = self._endless(visits)
        self._device: Device | None = None

    def _endless(self, visits: Visits) -> Iterator[Hit]:
        while True:
            yield from visits(Visit(self._dice, self._target.origin))

    def request(self, now_ms: int) -> Request:
        """The next one."""
        hit = next(self._hits)
        self._device = hit.step.device
        return (_image if hit.image else _tag)(self._target, hit, now_ms, self._dice)

    def keep(self, cookies: Iterator[str]) -> None:
        """What a browser does with the cookies of an answer to its last request."""
        for value in cookies:
            if self._device:
                self._device.cookie = value


def _tag(target: Target, hit: Hit, now_ms: int, dice: random.Random) -> Request:
    step = hit.step
    events = stamped(step.events, now_ms, dice)
    return Request(
        name=f"/p/i {canonical_name(events[-1]['event'])}",
        headers=_headers(target, step.device),
        body=body(target.site, step, events, now_ms),
        event_ids=_ids(events),
        verdicts=(DURABLE,) * len(events),
        visitor_id=step.device.visitor_id,
    )


def _image(target: Target, hit: Hit, now_ms: int, dice: random.Random) -> Request:
    event, *_ = stamped(hit.step.events, now_ms, dice)
    data = {key: value for key, value in event.items() if key not in ("event", "url", "referrer", "time")}
    query = {"tid": target.site, "event": event["event"], "cb": now_ms, "ed": msgspec.json.encode(data).decode()}
    query["ad"] = msgspec.json.encode({"loc": event["url"], "ref": event["referrer"]}).decode()
    if hit.said:
        query["consent"] = hit.step.consent
    return Request(
        name="/v3/ image" if hit.said else "/v3/ image, nothing said",
        method="GET",
        path=f"/v3/?{urlencode(query, quote_via=quote)}",
        headers=_headers(target, hit.step.device),
        event_ids=(event["event_id"],),
        status=200,
        verdicts=(DURABLE,) if hit.said else (Verdict("dropped", "consent"),),
        visitor_id=hit.step.device.cookie,
    )


def _headers(target: Target, device: Device) -> dict[str, str]:
    known = {"Cookie": f"{COOKIE}={device.cookie}"} if device.cookie else {}
    return {"User-Agent": device.user_agent, "Origin": target.origin, "Content-Type": TEXT, **known}


def _ids(events: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(event["event_id"] for event in events)


# --- servers ---------------------------------------------------------------------------------------


def engagements(target: Target, now_ms: int, dice: random.Random) -> Request:
    """What people did with Pins, as the shop's server tells it."""
    actions = dice.choices(list(ACTIONS), list(ACTIONS.values()), k=dice.randint(1, MAX_ENGAGEMENTS))
    sent = stamped([_engagement(action, dice) for action in actions], now_ms, dice)
    return Request(
        name="/v1/engagements",
        path="/v1/engagements",
        headers=_server(target.api_key),
        body=msgspec.json.encode({"site": target.site, "engagements": sent}),
        event_ids=_ids(sent),
        verdicts=(DURABLE,) * len(sent),
        table="engagements",
    )


def _engagement(action: str, dice: random.Random) -> dict[str, Any]:
    pin = {"action": action, "pin_id": str(dice.getrandbits(60)), "board_id": dice.randrange(1, 500)}
    product = {"product_id": dice.choice(list(PRODUCTS))} if dice.random() < 0.5 else {}
    em = sha256(f"pinner-{dice.getrandbits(32):x}@example.com".encode()).hexdigest()
    return {**pin, **product, **({"user": {"em": em}} if dice.random() < 0.7 else {})}


def _server(api_key: str) -> dict[str, str]:
    return {"User-Agent": SERVER, "Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}


# --- bad clients -----------------------------------------------------------------------------------


class Blunder(NamedTuple):
    """Makes one wrong request."""

    target: Target
    dice: random.Random
    now_ms: int

    def refused(self, name: str, status: int, reason: str, **changes: Any) -> Request:
        """A request that must be refused as a whole; `changes` are fields of Request."""
        given: dict[str, Any] = {"event_ids": ("",), "headers": self.headers(), **changes}
        count = len(given["event_ids"])
        return Request(name=f"bad: {name}", status=status, verdicts=(Verdict("refused", reason),) * count, **given)

    def dropped(self, name: str, reason: str, **changes: Any) -> Request:
        """A request that is understood, and of which policy lets nothing be stored."""
        sent, ids = self.sent({"event": "page_visit"}, **changes.pop("envelope", {"consent": "yes"}))
        verdict = Verdict("dropped", reason)
        given: dict[str, Any] = {"headers": self.headers(), **changes}
        return Request(name=f"bad: {name}", status=200, body=sent, event_ids=ids, verdicts=(verdict,), **given)

    def headers(self, **changes: str) -> dict[str, str]:
        made = _headers(self.target, Visit(self.dice, self.target.origin).device())
        return made | {name.replace("_", "-"): value for name, value in changes.items()}

    def sent(self, *events: dict[str, Any], **envelope: Any) -> tuple[bytes, tuple[str, ...]]:
        """(a body, the ids of its events)."""
        made = stamped(events, self.now_ms, self.dice)
        return msgspec.json.encode({"site": self.target.site, **envelope, "events": made}), _ids(made)


def _invalid_json(make: Blunder) -> Request:
    return make.refused("invalid JSON", 400, "bad_json", body=b'{"site": "x", "events": [{]}')


def _wrong_type(make: Blunder) -> Request:
    sent, ids = make.sent({"event": "checkout", "value": {"amount": 1}}, consent="yes")
    return make.refused("wrong type", 400, "bad_type", body=sent, event_ids=ids)


def _out_of_range(make: Blunder) -> Request:
    sent, ids = make.sent({"event": "add_to_cart", "value": -3}, consent="yes")
    return make.refused("out of range", 400, "out_of_range", body=sent, event_ids=ids)


def _md5(make: Blunder) -> Request:
    digest = md5(b"ann@example.com", usedforsecurity=False).hexdigest()
    sent, ids = make.sent({"event": "signup"}, consent="yes", user={"em": digest})
    return make.refused("MD5 of an e-mail", 400, "bad_hash", body=sent, event_ids=ids)


def _too_many(make: Blunder) -> Request:
    sent, ids = make.sent(*({"event": "page_visit"} for _ in range(MAX_EVENTS + 1)), consent="yes")
    return make.refused("too many", 400, "too_many", body=sent, event_ids=ids)


def _too_large(make: Blunder) -> Request:
    return make.refused("too large", 413, "too_large", body=b" " * (MAX_BODY_BYTES + 1))


def _not_gzip(make: Blunder) -> Request:
    headers = make.headers(Content_Encoding="gzip")
    return make.refused("not gzip", 400, "bad_encoding", headers=headers, body=b"this is not gzip")


def _wrong_origin(make: Blunder) -> Request:
    sent, ids = make.sent({"event": "page_visit"}, consent="yes")
    headers = make.headers(Origin="https://elsewhere.invalid")
    return make.refused("wrong origin", 403, "wrong_origin", headers=headers, body=sent, event_ids=ids)


def _unknown_site(make: Blunder) -> Request:
    sent, ids = make.sent({"event": "page_visit"}, site="no-such-site", consent="yes")
    return make.refused("unknown site", 403, "unknown_site", body=sent, event_ids=ids)


def _image_of_unknown_site(make: Blunder) -> Request:
    return make.refused(
        "image of an unknown site", 403, "unknown_site", method="GET", path="/v3/?tid=no-such-site&event=x"
    )


def _wrong_key(make: Blunder) -> Request:
    wrong = {"headers": _server("wrong"), "path": "/v1/engagements", "table": "engagements"}
    return make.refused(
        "wrong key", 403, "bad_key", body=b'{"site": "x", "engagements": [{"action": "save"}]}', **wrong
    )


def _no_such_path(make: Blunder) -> Request:
    return make.refused("no such path", 404, "not_found", path="/p/none", body=b"{}")


def _wrong_method(make: Blunder) -> Request:
    return make.refused("wrong method", 405, "method_not_allowed", method="PUT", body=b"{}")


def _crawler(make: Blunder) -> Request:
    return make.dropped("crawler", "bot", headers=make.headers(User_Agent=CRAWLER))


def _nothing_said(make: Blunder) -> Request:
    return make.dropped("nothing said about consent", "consent", envelope={})


def _gpc(make: Blunder) -> Request:
    return make.dropped("GPC", "gpc", headers=make.headers(Sec_GPC="1"))


def _gpc_of_a_known_visitor(make: Blunder) -> Request:
    """Leaves a withdrawal behind: whoever switches GPC on takes the consent back."""
    device = Visit(make.dice, make.target.origin).device()
    envelope = {"consent": "yes", "visitor_id": device.visitor_id}
    headers = make.headers(Sec_GPC="1")
    return make.dropped("GPC of a known visitor", "gpc", envelope=envelope, headers=headers, withdraws=1)


def _one_good_one_bad(make: Blunder) -> Request:
    sent, ids = make.sent({"event": "page_visit"}, {"event": "add_to_cart", "value": -3}, consent="yes")
    verdicts = (DURABLE, Verdict("refused", "out_of_range"))
    return Request(
        name="bad: one good, one bad", headers=make.headers(), body=sent, event_ids=ids, status=207, verdicts=verdicts
    )


BLUNDERS: Final[dict[Callable[[Blunder], Request], int]] = {
    _invalid_json: 4,
    _wrong_type: 4,
    _out_of_range: 4,
    _md5: 2,
    _too_many: 2,
    _too_large: 1,
    _not_gzip: 2,
    _wrong_origin: 4,
    _unknown_site: 4,
    _image_of_unknown_site: 2,
    _wrong_key: 2,
    _no_such_path: 1,
    _wrong_method: 1,
    _crawler: 4,
    _nothing_said: 4,
    _gpc: 4,
    _gpc_of_a_known_visitor: 2,
    _one_good_one_bad: 4,
}
"""Everything a bad client does, and how often."""


def blunder(target: Target, now_ms: int, dice: random.Random) -> Request:
    """One wrong request, and the exact answer to it."""
    make = dice.choices(list(BLUNDERS), list(BLUNDERS.values()))[0]
    return make(Blunder(target, dice, now_ms))
