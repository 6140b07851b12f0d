"""What the users send, in front of the real edge and a real journal: each answer is the promised one."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from loadtests.ledger import Answer, Ledger, Request, cookies, verdicts
from loadtests.traffic import Blunder, Browser, Target

from loadtests import ledger, traffic
from pinstream.clock import now_ms
from pinstream.event import CONSENT_WITHDRAWN, ENGAGEMENTS, EVENTS
from pinstream.state.snapshot import Key, Site, Snapshot
from tests.collect.conftest import running

pytestmark = pytest.mark.slow

TARGET = Target("loadtest", "https://loadtest.example", "ps_loadtest_key")
SITE = Site(id=1, tag_id=TARGET.site, origins=(TARGET.origin,), currency="EUR")
KEY = Key(sha256=sha256(TARGET.api_key.encode()).hexdigest(), prefix="ps_load", site_id=1)
SNAPSHOT = Snapshot(taken_ms=1, sites=(SITE,), keys=(KEY,))


class Sender:
    """Sends requests as locust's users do, one after the other."""

    def __init__(self, base_url: str) -> None:
        self.http = httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=30)
        self.books = Ledger()
        self.durable: dict[str, list[str]] = {"events": [], "engagements": []}
        self.faults: list[str] = []

    async def send(self, request: Request) -> Answer:
        response = await self.http.request(request.method, request.path, content=request.body, headers=request.headers)
        self.http.cookies.clear()
        headers = response.headers
        answer = Answer(
            status=response.status_code,
            body=response.content,
            dropped=headers.get("x-pinstream-dropped", ""),
            refused=headers.get("x-pinstream-refused", ""),
            cookies=headers.get_list("set-cookie"),
        )
        self.books.sends("user", request, again=False)
        found = verdicts(request, answer)
        assert found is not None, answer
        wrong, durable = self.books.book("user", request, answer, found)
        self.faults += [f"{wrong}: {answer.body[:300]!r}"] if wrong else []
        self.durable[request.table] += durable
        return answer


async def test_all_users_get_the_answers_they_expect_and_what_they_call_durable_is_stored(tmp_path: Path) -> None:
    dice = random.Random(7)
    browsers = [Browser(TARGET, dice, visits) for visits in (traffic.browses, traffic.buys)]
    sent: Counter[str] = Counter()
    async with running(tmp_path, snapshot=SNAPSHOT) as edge:
        sender = Sender(edge.base_url)
        async with sender.http:
            for blunder in traffic.BLUNDERS:
                await sender.send(blunder(Blunder(TARGET, dice, now_ms())))
            for _ in range(25):
                await sender.send(traffic.engagements(TARGET, now_ms(), dice))
            for _ in range(250):
                for browser in browsers:
                    request = browser.request(now_ms())
                    sent[request.name] += 1
                    browser.keep(cookies((await sender.send(request)).cookies))
        stored, engaged = await edge.stored(EVENTS), await edge.stored(ENGAGEMENTS)

    assert sender.faults == []
    assert sent.keys() >= {
        *(f"/p/i {name}" for name in ("page_visit", "view_category", "search", "add_to_cart", "checkout", "signup")),
        f"/p/i {CONSENT_WITHDRAWN}",
        "/v3/ image",
        "/v3/ image, nothing said",
    }
    assert sorted(one["event_id"] for one in engaged) == sorted(sender.durable["engagements"])
    durable, report = set(sender.durable["events"]), sender.books.report()
    beside = [event for event in stored if event["event_id"] not in durable]
    assert {event["event_id"] for event in stored} > durable
    assert len(stored) == len(durable) + report["withdrawn"]
    assert [event["event"] for event in beside] == [CONSENT_WITHDRAWN] * report["withdrawn"]


async def test_a_visitor_comes_back_with_the_cookie_of_the_first_answer(tmp_path: Path) -> None:
    browser = Browser(TARGET, random.Random(1), traffic.buys)
    async with running(tmp_path, snapshot=SNAPSHOT) as edge:
        sender = Sender(edge.base_url)
        async with sender.http:
            first = browser.request(now_ms())
            assert "Cookie" not in first.headers
            browser.keep(cookies((await sender.send(first)).cookies))
    assert browser.request(now_ms()).headers["Cookie"] == f"ps_vid={first.visitor_id}"


async def test_an_answer_that_should_have_been_a_refusal_is_a_fault(tmp_path: Path) -> None:
    careless = Snapshot(taken_ms=1, sites=(Site(id=1, tag_id=TARGET.site, origins=("*",)),))
    async with running(tmp_path, snapshot=careless) as edge:
        sender = Sender(edge.base_url)
        async with sender.http:
            await sender.send(traffic._wrong_origin(Blunder(TARGET, random.Random(1), now_ms())))
    assert sender.books.report()["unexpected"] == {"bad: wrong origin: 204 durable, not 403 refused wrong_origin": 1}


def test_half_of_the_buyers_give_a_plain_address() -> None:
    browser = Browser(TARGET, random.Random(1), traffic.buys)
    bodies = [browser.request(1795291390500).body for _ in range(400)]
    plain, hashed = (sum(part in body for body in bodies) for part in (b"@Example.com", b'"em":["'))
    assert 0 < plain < hashed


def test_no_two_events_share_an_id() -> None:
    dice = random.Random(1)
    browsers = [Browser(TARGET, dice, traffic.browses) for _ in range(20)]
    ids = [event_id for browser in browsers for _ in range(50) for event_id in browser.request(1795291390500).event_ids]
    assert len(ids) == len(set(ids)) > 1000


def test_every_blunder_has_a_name_of_its_own() -> None:
    made = [blunder(Blunder(TARGET, random.Random(1), 1795291390500)).name for blunder in traffic.BLUNDERS]
    assert len(made) == len(set(made)) < ledger.MAX_FAULTS
