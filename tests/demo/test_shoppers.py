"""The shoppers' journeys, their books, and how they send."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pinstream.collect.wire import parse
from pinstream.demo import shoppers
from pinstream.demo.shoppers import Door, Entry, Journey, Ledger, Verdict, expected_cart_abandoners, verdicts
from pinstream.errors import Refused
from pinstream.event import CONSENT_WITHDRAWN
from pinstream.serving import serving

pytestmark = pytest.mark.slow

NOW_MS = 1795291390500
SHOP = "https://shop.example"


def people(count: int, seed: int = 1) -> list[Journey]:
    return list(itertools.islice(shoppers.journeys(random.Random(seed), SHOP), count))


# --- journeys ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_people() -> None:
    assert people(50) == people(50)
    assert people(50) != people(50, seed=2)


def test_every_kind_of_shopper_comes_as_often_as_it_should() -> None:
    came = Counter(journey.persona for journey in people(4000))
    total = sum(shoppers.WEIGHTS.values())
    for persona, weight in shoppers.WEIGHTS.items():
        assert came[persona] == pytest.approx(4000 * weight / total, rel=0.35), persona


def test_no_two_people_share_a_device_or_an_email() -> None:
    devices = [{step.device.visitor_id for step in journey.steps} for journey in people(500)]
    emails = [{step.em for step in journey.steps if step.em} for journey in people(500)]
    for sets in (devices, emails):
        assert sum(map(len, sets)) == len(set().union(*sets))


def booked(journeys: list[Journey]) -> Ledger:
    """The books as if every request were answered the way the persona deserves."""
    ledger = Ledger()
    clock = itertools.count(NOW_MS, 10)
    for journey in journeys:
        for step in journey.steps:
            for event in shoppers.stamped(step.events, next(clock), random.Random(next(clock))):
                entry = shoppers._entry(event, journey.persona, step)
                withdrawn = entry.event == CONSENT_WITHDRAWN
                told = step.consent == "yes" and not step.gpc and journey.persona not in ("bot", "bad_client")
                entry.status = "durable" if told or withdrawn else "dropped"
                ledger.entries[entry.event_id] = entry
    return ledger


def test_those_who_leave_a_full_cart_and_an_email_are_expected_and_nobody_else() -> None:
    ledger = booked(people(600))
    given = ledger.emails
    assert given["abandoner"] and given["second_thoughts"] and given["withdrawer"] and given["two_devices"]
    assert expected_cart_abandoners(ledger) == given["abandoner"] | given["second_thoughts"]


# --- books -------------------------------------------------------------------------------------------


def books(*told: tuple[str, str, str] | tuple[str, str, str, str]) -> Ledger:
    """From (visitor, event, em[, status]) in the order of time."""
    entries = {}
    for number, (visitor, event, em, *status) in enumerate(told):
        entries[str(number)] = Entry(
            event_id=str(number),
            event=event,
            time_ms=NOW_MS + number,
            visitor_id=visitor,
            persona="browser",
            em=em,
            status=status[0] if status else "durable",  # type: ignore[arg-type]
        )
    return Ledger(entries=entries)


@pytest.mark.parametrize(
    ("ledger", "expected"),
    [
        (books(("v", "add_to_cart", "e")), {"e"}),
        (books(("v", "initiate_checkout", "e")), {"e"}),
        (books(("v", "add_to_cart", ""), ("v", "signup", "e")), {"e"}),
        (books(("v", "signup", "e"), ("v", "add_to_cart", "")), {"e"}),
        (books(("v", "add_to_cart", "")), set()),
        (books(("v", "page_visit", "e")), set()),
        (books(("v", "add_to_cart", "e"), ("v", "checkout", "")), set()),
        (books(("phone", "add_to_cart", "e"), ("laptop", "checkout", "e")), set()),
        (books(("phone", "add_to_cart", "e"), ("laptop", "page_visit", "e")), {"e"}),
        (books(("v", "add_to_cart", "e"), ("v", CONSENT_WITHDRAWN, "")), set()),
        (books(("v", "add_to_cart", "e"), ("v", CONSENT_WITHDRAWN, ""), ("v", "page_visit", "")), {"e"}),
        (books(("v", "add_to_cart", "e", "dropped")), set()),
        (books(("v", "add_to_cart", "e", "unknown")), set()),
        (books(("v", "add_to_cart", "e"), ("v", "checkout", "", "refused")), {"e"}),
        (books(("v", "add_to_cart", "", "dropped"), ("v", "signup", "e")), set()),
    ],
)
def test_who_is_expected(ledger: Ledger, expected: set[str]) -> None:
    assert expected_cart_abandoners(ledger) == expected


def test_the_books_add_up() -> None:
    ledger = books(("v", "x", ""), ("v", "x", "e", "dropped"), ("v", "x", "", "refused"), ("v", "x", "", "unknown"))
    ledger.entries["1"].reason = "bot"
    ledger.entries["2"].reason = "bad_type"
    assert ledger.durable == {"0"}
    assert ledger.counts == {"durable": 1, "dropped:bot": 1, "refused:bad_type": 1, "unknown:no_answer": 1}
    assert ledger.emails == {"browser": {"e"}}


# --- wire --------------------------------------------------------------------------------------------


def test_ids_are_uuids_of_their_time() -> None:
    events = shoppers.stamped([{"event": "a"}, {"event": "b"}], NOW_MS, random.Random(1))
    assert [event["time"] for event in events] == [NOW_MS - 1, NOW_MS]
    for event in events:
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", event["event_id"])
        assert int(event["event_id"].replace("-", "")[:12], 16) == event["time"]


def test_the_collector_can_read_all_that_is_not_meant_to_be_bad() -> None:
    for journey in people(300):
        for step in journey.steps:
            events = shoppers.stamped(step.events, NOW_MS, random.Random(1))
            if step.on_pinterest:
                continue
            wire = parse("text/plain", shoppers.body("demo", step, events, NOW_MS))
            assert wire.event_ids == [event["event_id"] for event in events]
            refused = [event for event in wire.events if isinstance(event, Refused)]
            assert len(refused) == (1 if journey.persona == "bad_client" else 0), refused


def test_a_withdrawal_holds_site_visitor_and_time() -> None:
    steps = next(journey.steps for journey in people(200) if journey.persona == "withdrawer")
    body = json.loads(
        shoppers.body("demo", steps[-1], shoppers.stamped(steps[-1].events, NOW_MS, random.Random(1)), NOW_MS)
    )
    assert body.keys() == {"site", "sent_at", "consent", "visitor_id", "events"}
    assert body["events"][0].keys() == {"event", "event_id", "time"}


def results(*told: tuple[str, str]) -> bytes:
    return json.dumps({"results": [{"status": status, "reason": reason} for status, reason in told]}).encode()


@pytest.mark.parametrize(
    ("status", "text", "found"),
    [
        (204, b"", [Verdict("durable"), Verdict("durable")]),
        (
            207,
            results(("durable", ""), ("refused", "bad_type")),
            [Verdict("durable"), Verdict("refused", "bad_type")],
        ),
        (200, results(("dropped", "gpc"), ("dropped", "gpc")), [Verdict("dropped", "gpc")] * 2),
        (
            400,
            results(("refused", "bad_type"), ("refused", "too_long")),
            [Verdict("refused", "bad_type"), Verdict("refused", "too_long")],
        ),
        (403, b'{"reason": "unknown_site"}', [Verdict("refused", "unknown_site")] * 2),
        (207, results(("durable", "")), [Verdict("unknown", "http_207")] * 2),
        (200, b"<html>", [Verdict("unknown", "http_200")] * 2),
        (200, b"[]", [Verdict("unknown", "http_200")] * 2),
        (207, b'{"results": [1, 2]}', [Verdict("unknown", "http_207")] * 2),
        (207, results(("stored", ""), ("durable", "")), [Verdict("unknown"), Verdict("durable")]),
        (429, b"", None),
        (500, b"", None),
        (503, b'{"reason": "log_away"}', None),
    ],
)  # fmt: skip
def test_answers_are_read_event_by_event(status: int, text: bytes, found: list[Verdict] | None) -> None:
    assert verdicts(status, text, 2) == found


# --- sending, over HTTP ------------------------------------------------------------------------------

Answer = Callable[[dict[str, Any], Request], Response]


@asynccontextmanager
async def collector(answer: Answer) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A collector that answers as it is told; gives its address and the bodies it got."""
    got: list[dict[str, Any]] = []

    async def take(request: Request) -> Response:
        got.append(json.loads(await request.body()))
        return answer(got[-1], request)

    async with serving(Starlette(routes=[Route("/p/i", take, methods=["POST"])]), "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}", got


async def send(url: str, *, seconds: float = 1.0, events_per_s: float = 60, origin: str = "") -> Ledger:
    ledger = Ledger()
    door = Door(url, "demo", origin)
    await shoppers.shop(door, seconds=seconds, events_per_s=events_per_s, seed=3, ledger=ledger)
    return ledger


async def test_events_come_at_once_and_at_the_asked_rate() -> None:
    async with collector(lambda body, request: Response(status_code=204)) as (url, got):
        started = time.monotonic()
        ledger = await send(url, seconds=2, events_per_s=40)
        took = time.monotonic() - started
    assert took < 4
    assert ledger.durable == {event["event_id"] for body in got for event in body["events"]}
    assert 60 <= len(ledger.durable) <= 92
    assert ledger.counts == {"durable": len(ledger.entries)}
    assert all(entry.answered_ms and entry.answered_s and entry.tries == 1 for entry in ledger.entries.values())
    assert min(entry.answered_s for entry in ledger.entries.values()) - started < 0.7


async def test_what_fails_is_sent_again_with_the_same_ids() -> None:
    failed: set[str] = set()

    def answer(body: dict[str, Any], request: Request) -> Response:
        first = body["events"][0]["event_id"]
        status = 204 if first in failed else random.choice((503, 429, 500))
        failed.add(first)
        return Response(status_code=status)

    async with collector(answer) as (url, got):
        ledger = await send(url)
    assert set(ledger.counts) == {"durable"}
    assert {entry.tries for entry in ledger.entries.values()} == {2}
    sent = Counter(event["event_id"] for body in got for event in body["events"])
    assert sent == dict.fromkeys(ledger.entries, 2)


async def test_without_any_answer_everything_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoppers, "GRACE_S", 0.2)
    ledger = await send("http://127.0.0.1:9", seconds=0.5)
    assert ledger.entries
    assert set(ledger.counts) == {"unknown:no_answer"}
    assert all(entry.answered_ms == 0 for entry in ledger.entries.values())


async def test_a_request_is_tried_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoppers, "MAX_PAUSE_S", 0.01)
    monkeypatch.setattr(shoppers, "GRACE_S", 60)
    async with collector(lambda body, request: Response(status_code=503)) as (url, _):
        ledger = await send(url, seconds=0.3)
    assert set(ledger.counts) == {"unknown:http_503"}
    assert {entry.tries for entry in ledger.entries.values()} == {shoppers.MAX_TRIES}


async def test_full_books_end_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoppers, "MAX_ENTRIES", 10)
    async with collector(lambda body, request: Response(status_code=204)) as (url, _):
        started = time.monotonic()
        ledger = await send(url, seconds=30)
    assert time.monotonic() - started < 5
    assert 10 <= len(ledger.entries) < 10 + 3 * shoppers.WORKERS


async def test_a_device_gives_back_its_own_cookie_until_it_expires() -> None:
    came: list[tuple[str, str | None]] = []

    def answer(body: dict[str, Any], request: Request) -> Response:
        visitor = body["visitor_id"]
        came.append((visitor, request.cookies.get("ps_vid")))
        gone = body["consent"] == "no"
        value, age = ("", 0) if gone else (visitor, 60)
        return Response(status_code=204, headers={"Set-Cookie": f"ps_vid={value}; Max-Age={age}; Path=/; Secure"})

    async with collector(answer) as (url, _):
        await send(url, seconds=2)
    assert {cookie for visitor, cookie in came if cookie != visitor} == {None}
    assert any(cookie == visitor for visitor, cookie in came)


async def test_requests_look_like_the_tags() -> None:
    seen: list[Request] = []

    def answer(body: dict[str, Any], request: Request) -> Response:
        seen.append(request)
        return JSONResponse({"results": [{"status": "dropped", "reason": "consent"}] * len(body["events"])})

    async with collector(answer) as (url, got):
        await send(url, seconds=2, origin=SHOP)
    assert {request.headers["origin"] for request in seen} == {SHOP}
    assert {request.headers["content-type"] for request in seen} == {"text/plain;charset=UTF-8"}
    assert {request.headers.get("sec-gpc") for request in seen} <= {None, "1"}
    assert not any("python" in request.headers["user-agent"] for request in seen)
    assert {body["site"] for body in got} == {"demo"}
