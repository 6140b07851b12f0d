"""The edge as a whole: what is stored, what the sender hears, which cookies are set."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pinstream import metrics
from pinstream.collect import answer as answers
from pinstream.collect import edge as edges
from pinstream.collect.edge import SAMPLED
from pinstream.collect.identity import visitor_hash
from pinstream.errors import Fatal, LogError, Retryable, Uncertain
from pinstream.event import ENGAGEMENTS, EVENTS, MAX_BODY_BYTES, MAX_EVENTS, REJECTED, Event
from pinstream.eventlog.contract import Record
from pinstream.settings import Collect
from tests.collect.conftest import API_KEY, OTHER, SANDBOX, SHOP, SITE, SNAPSHOT, VISITOR, client, running
from tests.collect.corpus.case import HEALTH, post
from tests.collect.raw import connected

PAGE = {"site": SITE.tag_id, "consent": "yes", "visitor_id": VISITOR, "event": "page_visit", "event_id": "e-1"}
COOKIE = f"ps_vid={VISITOR}; Max-Age=33696000; Path=/; SameSite=Lax; Secure"
EXPIRED = "ps_vid=; Max-Age=0; Path=/; SameSite=Lax; Secure"
NOW = 1_795_291_391_000


def sample(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"pinstream_{name}", labels) or 0.0


class Counted:
    """How far the counters of the loss identity moved."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> dict[str, float]:
        found: dict[str, float] = {}
        for family in metrics.REGISTRY.collect():
            for one in family.samples:
                if match := re.fullmatch(r"pinstream_(received|durable|dropped|refused)_total", one.name):
                    key = match[1] + (f" {one.labels['reason']}" if "reason" in one.labels else "")
                    found[key] = one.value
        return found

    def moved(self) -> dict[str, float]:
        now = self._now()
        moved = {key: now[key] - self._before.get(key, 0) for key in now}
        return {key: change for key, change in moved.items() if change}


class Faulty:
    """A log that fails as the test says."""

    def __init__(self, fault: Callable[[Sequence[Record]], LogError | Exception]) -> None:
        self.fault = fault

    async def append(self, records: Sequence[Record]) -> None:
        raise self.fault(records)

    async def ready(self) -> None: ...

    async def aclose(self) -> None: ...


# --- what is stored ----------------------------------------------------------------------------------


async def test_a_204_is_in_the_log(tmp_path: Path) -> None:
    async with running(tmp_path, clock=lambda: NOW) as edge, client(edge) as http:
        response = await http.post("/p/i", json=PAGE, headers={"accept-language": "de-DE,de"})
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["set-cookie"] == COOKIE
        [stored] = await edge.stored(EVENTS)
    assert msgspec.json.decode(msgspec.json.encode(stored), type=Event) == Event(
        event="page_visit",
        event_id="e-1",
        time=NOW,
        currency="EUR",
        site_id=1,
        received_ms=NOW,
        visitor_id=visitor_hash(1, f"v:{VISITOR}"),
        consent="yes",
        ip_prefix="127.0.0.0/24",
        user_agent=http.headers["user-agent"],
        language="de-DE",
    )


async def test_every_way_in_marks_its_source(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        await http.post("/p/i", json=PAGE | {"event_id": "tag"})
        await http.post("/v1/events", json=PAGE | {"event_id": "browser on v1"})
        await http.get(f"/v3/?tid={SITE.tag_id}&consent=yes&event=search&ed[event_id]=pixel")
        del http.headers["origin"]
        server = {"event_id": "server"}
        response = await http.post("/v1/events", json=PAGE | server, headers={"user-agent": "curl/8.0"})
        assert response.status_code == 204
        stored = {event["event_id"]: event for event in await edge.stored(EVENTS)}
    assert {key: event.get("source", "tag") for key, event in stored.items()} == {
        "tag": "tag",
        "browser on v1": "tag",
        "pixel": "pinterest",
        "server": "api",
    }
    assert {"ip_prefix", "user_agent", "language"}.isdisjoint(stored["server"])


async def test_a_mixed_batch_has_a_line_for_each_event(tmp_path: Path) -> None:
    events = [
        {"event": "search", "event_id": "a"},
        {"event": "search", "event_id": "b", "value": -1},
        {"event": "search", "note": "mail a@b.de " * 600},
        {"event": "search"},
    ]
    counted = Counted()
    async with running(tmp_path) as edge, client(edge) as http:
        response = await http.post("/p/i", json={"site": SITE.tag_id, "consent": "yes", "events": events})
        stored = await edge.stored(EVENTS)
    assert response.status_code == 207
    results = response.json()["results"]
    assert [(line["status"], line["reason"], line["field"]) for line in results] == [
        ("durable", "", ""),
        ("refused", "out_of_range", "$.events[1].value"),
        ("refused", "too_long", "$.events[2].props"),
        ("durable", "", ""),
    ]
    assert [line["event_id"] for line in results[:3]] == ["a", "b", ""]
    assert [event["event_id"] for event in stored] == ["a", results[3]["event_id"]]
    assert "set-cookie" not in response.headers  # nobody is known
    assert counted.moved() == {"received": 4, "durable": 2, "refused out_of_range": 1, "refused too_long": 1}


async def test_refusals_leave_a_record_without_payload_and_drops_leave_nothing(tmp_path: Path) -> None:
    body = json.dumps(PAGE | {"value": -1, "order_id": "secret"}).encode()
    async with running(tmp_path, clock=lambda: NOW) as edge, client(edge) as http:
        assert (await http.post("/p/i", content=body)).status_code == 400
        assert (await http.post("/p/i", content=body)).status_code == 400
        assert (await http.post("/p/i", json=PAGE | {"consent": "unknown"})).status_code == 200
        assert (await http.post("/p/i", json=PAGE | {"site": "unknown"})).status_code == 403
        assert (await http.post("/p/i", json=PAGE)).status_code == 204  # what was left behind is stored before it
        rejected = await edge.stored(REJECTED)
        assert len(await edge.stored(EVENTS)) == 1
    assert len(rejected) == 2 and rejected[0] == rejected[1]
    assert re.fullmatch(r"[0-9a-f]{32}", rejected[0].pop("payload_hash"))
    assert rejected[0] == {
        "received_ms": NOW,
        "reason": "out_of_range",
        "step": "collect",
        "site_id": 1,
        "field": "$.value",
        "size_bytes": len(body),
    }


async def test_refusal_records_are_bounded_in_number(tmp_path: Path) -> None:
    settings = Collect(commit_interval_ms=0, reject_records_per_s=3)
    bad = {"site": SITE.tag_id, "consent": "yes", "events": [{"event": ""}] * MAX_EVENTS}
    async with running(tmp_path, settings=settings, clock=lambda: NOW) as edge, client(edge) as http:
        for _ in range(2):
            assert (await http.post("/p/i", json=bad)).status_code == 400
        assert (await http.post("/p/i", json=PAGE)).status_code == 204  # what was left behind is stored before it
        assert len(await edge.stored(REJECTED)) == 3


def test_an_allowance_is_a_seconds() -> None:
    allowance = edges.Allowance(3)
    assert [allowance.take(2, 1_000), allowance.take(2, 1_999), allowance.take(2, 1_999)] == [2, 1, 0]
    assert allowance.take(5, 2_000) == 3


async def test_engagements_are_stored(tmp_path: Path) -> None:
    body = {"site": SITE.tag_id, "engagements": [{"action": "save", "event_id": "s-1", "pin_id": "17"}]}
    counted = Counted()
    async with running(tmp_path, clock=lambda: NOW) as edge, client(edge) as http:
        response = await http.post("/v1/engagements", json=body, headers={"x-api-key": API_KEY})
        assert response.status_code == 204 and "set-cookie" not in response.headers
        stored = await edge.stored(ENGAGEMENTS)
    expected = {"site_id": 1, "action": "save", "event_id": "s-1", "time": NOW, "received_ms": NOW, "pin_id": 17}
    assert stored == [expected]
    assert counted.moved() == {"received": 1, "durable": 1}


# --- consent and cookies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "headers", "reason"),
    [({"consent": "no"}, {}, "consent"), ({}, {"sec-gpc": "1"}, "gpc"), ({}, {"dnt": "1"}, "gpc")],
)
async def test_a_known_visitor_who_no_longer_agrees_leaves_one_withdrawal(
    tmp_path: Path, changes: dict[str, str], headers: dict[str, str], reason: str
) -> None:
    counted = Counted()
    batch = {"site": SITE.tag_id, "consent": "yes", "events": [{"event": "search"}, {"event": "lead"}]} | changes
    async with running(tmp_path, clock=lambda: NOW) as edge, client(edge) as http:
        response = await http.post("/p/i", json=batch, headers={"cookie": f"a=b; ps_vid={VISITOR}; c=d"} | headers)
        assert (response.status_code, response.headers["x-pinstream-dropped"]) == (200, reason)
        assert response.headers["set-cookie"] == EXPIRED
        [stored] = await edge.stored(EVENTS)
    assert re.fullmatch(r"[0-9a-f-]{36}", stored["event_id"])
    assert msgspec.json.decode(msgspec.json.encode(stored), type=Event) == Event(
        event="consent_withdrawn",
        event_id=stored["event_id"],
        time=NOW,
        site_id=1,
        received_ms=NOW,
        visitor_id=visitor_hash(1, f"v:{VISITOR}"),
        consent="no",
    )
    assert counted.moved() == {"received": 3, "durable": 1, f"dropped {reason}": 2}


async def test_a_withdrawal_that_is_sent_is_not_doubled(tmp_path: Path) -> None:
    sent = PAGE | {"event": "consent_withdrawn", "consent": "no"}
    async with running(tmp_path) as edge, client(edge) as http:
        response = await http.post("/p/i", json=sent, headers={"cookie": f"ps_vid={VISITOR}", "sec-gpc": "1"})
        assert (response.status_code, response.headers["set-cookie"]) == (204, EXPIRED)
        assert [event["event_id"] for event in await edge.stored(EVENTS)] == ["e-1"]


async def test_a_visitor_known_by_the_body_withdraws_too(tmp_path: Path) -> None:
    sent = {"site": SITE.tag_id, "consent": "no", "visitor_id": VISITOR, "event": "page_visit"}
    async with running(tmp_path) as edge, client(edge) as http:
        response = await http.post("/p/i", json=sent)
        assert (response.status_code, response.headers["set-cookie"]) == (200, EXPIRED)
        [stored] = await edge.stored(EVENTS)
    assert (stored["event"], stored["visitor_id"]) == ("consent_withdrawn", visitor_hash(1, f"v:{VISITOR}"))


async def test_a_late_no_of_another_visitor_leaves_the_cookie_alone(tmp_path: Path) -> None:
    other = VISITOR[:-1] + "1"
    sent = {"site": SITE.tag_id, "consent": "no", "visitor_id": other, "event": "consent_withdrawn"}
    async with running(tmp_path) as edge, client(edge) as http:
        response = await http.post("/p/i", json=sent, headers={"cookie": f"ps_vid={VISITOR}"})
        assert response.status_code == 204 and "set-cookie" not in response.headers
        [stored] = await edge.stored(EVENTS)
    assert stored["visitor_id"] == visitor_hash(1, f"v:{other}")


async def test_without_visitor_a_no_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        response = await http.post("/p/i", json=PAGE | {"consent": "no", "visitor_id": None})
        assert response.status_code == 200 and "set-cookie" not in response.headers
        assert await edge.stored(EVENTS) == []


async def test_the_cookie_is_set_to_the_cookies_value_if_it_came(tmp_path: Path) -> None:
    other = VISITOR[:-1] + "1"
    async with running(tmp_path) as edge, client(edge) as http:
        response = await http.post("/p/i", json=PAGE, headers={"cookie": f"ps_vid={other}"})
        assert response.headers["set-cookie"].startswith(f"ps_vid={other};")
        [stored] = await edge.stored(EVENTS)
        assert stored["visitor_id"] == visitor_hash(1, f"v:{other}")


async def test_a_cookies_domain_is_the_sites(tmp_path: Path) -> None:
    site = msgspec.structs.replace(SITE, cookie_domain="shop.example")
    snapshot = msgspec.structs.replace(SNAPSHOT, sites=(site,))
    async with running(tmp_path, snapshot=snapshot) as edge, client(edge) as http:
        set_cookie = (await http.post("/p/i", json=PAGE)).headers["set-cookie"]
        assert "; Path=/; Domain=shop.example; SameSite=Lax; Secure" in set_cookie


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        ({"visitor_id": None}, {}),
        ({"consent": "unknown"}, {}),
        ({"value": -1}, {}),
        ({"site": SANDBOX.tag_id}, {"origin": "null"}),
        ({}, {"user-agent": "Googlebot/2.1"}),
        ({}, {"origin": OTHER}),
    ],
)
async def test_when_no_cookie_is_set(tmp_path: Path, changes: dict[str, Any], headers: dict[str, str]) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        assert "set-cookie" not in (await http.post("/p/i", json=PAGE | changes, headers=headers)).headers


async def test_a_sandbox_has_no_cookies_at_all(tmp_path: Path) -> None:
    headers = {"origin": "null", "cookie": f"ps_vid={VISITOR[:-1]}1; _epik=e", "sec-gpc": "1"}
    async with running(tmp_path) as edge, client(edge) as http:
        response = await http.post("/p/i", json=PAGE | {"site": SANDBOX.tag_id}, headers=headers)
        assert response.status_code == 200 and "set-cookie" not in response.headers
        assert "access-control-allow-credentials" not in response.headers
        [stored] = await edge.stored(EVENTS)
    assert stored["visitor_id"] == visitor_hash(SANDBOX.id, f"v:{VISITOR}")  # the body's, not the cookie's


async def test_the_click_id_comes_from_the_cookie(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        await http.post("/p/i", json=PAGE, headers={"cookie": "x_epik=no; _epik=dj0y"})
        assert [event["epik"] for event in await edge.stored(EVENTS)] == ["dj0y"]


async def test_the_address_behind_a_proxy(tmp_path: Path) -> None:
    settings = Collect(commit_interval_ms=0, trusted_proxies=["127.0.0.0/8"])
    async with running(tmp_path, settings=settings) as edge, client(edge) as http:
        await http.post("/p/i", json=PAGE, headers={"x-forwarded-for": "6.6.6.6, 203.0.113.77"})
        assert [event["ip_prefix"] for event in await edge.stored(EVENTS)] == ["203.0.113.0/24"]


async def test_an_address_that_anybody_claims_is_not_believed(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        await http.post("/p/i", json=PAGE, headers={"x-forwarded-for": "203.0.113.77"})
        assert [event["ip_prefix"] for event in await edge.stored(EVENTS)] == ["127.0.0.0/24"]


# --- the log fails -----------------------------------------------------------------------------------


def full(_: Sequence[Record]) -> LogError:
    found = Retryable("full")
    found.reason = "log_full"
    return found


def uncertain(records: Sequence[Record]) -> LogError:
    return Uncertain("late", records, asyncio.get_running_loop().create_future())


@pytest.mark.parametrize(
    ("fault", "reason", "retry_after"),
    [
        (lambda _: Retryable("away"), "log_away", "5"),
        (full, "log_full", "1"),
        (uncertain, "log_uncertain", "1"),
        (lambda _: Fatal("broken"), "log_broken", None),
    ],
)
async def test_what_the_log_did_not_take_is_told(
    tmp_path: Path, fault: Callable[[Sequence[Record]], LogError], reason: str, retry_after: str | None
) -> None:
    counted = Counted()
    pixel = f"/v3/?tid={SITE.tag_id}&consent=yes&event=search"
    async with running(tmp_path, appender=Faulty(fault)) as edge, client(edge) as http:
        response = await http.post("/p/i", json=PAGE)
        image = await http.get(pixel)
        refused = await http.post("/p/i", json=PAGE | {"value": -1})
    assert (response.status_code, response.json()["reason"]) == (503, reason)
    assert response.headers.get("retry-after") == retry_after
    assert response.headers["access-control-allow-origin"] == SHOP
    assert "set-cookie" not in response.headers
    assert (image.status_code, image.content, image.headers.get("retry-after")) == (503, answers.GIF, retry_after)
    assert refused.status_code == 400  # bad input is told as such, whatever the log does
    assert counted.moved() == {"received": 3, f"refused {reason}": 2, "refused out_of_range": 1}


def partly(kind: str) -> Callable[[Sequence[Record]], LogError]:
    def fault(records: Sequence[Record]) -> LogError:
        if kind == "log_uncertain":
            return uncertain(records[1:])
        away = Retryable("away")
        away.records = records[1:]
        return away

    return fault


@pytest.mark.parametrize("reason", ["log_away", "log_uncertain"])
async def test_what_the_log_took_of_a_request_is_told_as_durable(tmp_path: Path, reason: str) -> None:
    counted = Counted()
    events = [{"event": ""}, {"event": "search", "event_id": "a"}, {"event": "lead", "event_id": "b"}]
    batch = {"site": SITE.tag_id, "consent": "yes", "visitor_id": VISITOR, "events": events}
    async with running(tmp_path, appender=Faulty(partly(reason))) as edge, client(edge) as http:
        response = await http.post("/p/i", json=batch)
        whole = await http.post(
            "/v1/engagements",
            json={"site": SITE.tag_id, "engagements": [{"action": "save"}] * 2},
            headers={"x-api-key": API_KEY},
        )
    assert response.status_code == whole.status_code == 207
    assert [(line["event_id"], line["status"], line["reason"]) for line in response.json()["results"]] == [
        ("", "refused", "missing_field"),
        ("a", "durable", ""),
        ("b", "refused", reason),
    ]
    assert "set-cookie" not in response.headers
    assert counted.moved() == {"received": 5, "durable": 2, f"refused {reason}": 2, "refused missing_field": 1}


async def test_what_nobody_foresaw_is_logged_and_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def clock() -> int:
        raise ZeroDivisionError("the clock stopped")

    async with running(tmp_path, clock=clock) as edge, client(edge) as http:
        response = await http.post("/p/i", json=PAGE)
        image = await http.get(f"/v3/?tid={SITE.tag_id}&event=search")
        assert (await http.get("/healthz")).status_code == 200
    assert (response.status_code, response.json()["reason"]) == (500, "internal")
    assert response.headers["access-control-allow-origin"] == SHOP
    assert (image.status_code, image.content) == (500, answers.GIF)
    assert "the clock stopped" in caplog.text


async def test_open_requests_are_bounded(tmp_path: Path) -> None:
    gate = asyncio.Event()

    class Slow(Faulty):
        async def append(self, records: Sequence[Record]) -> None:
            await gate.wait()

    settings = Collect(commit_interval_ms=0, max_connections=2)
    async with running(tmp_path, settings=settings, appender=Slow(full)) as edge, client(edge) as http:
        async with connected(edge) as first, connected(edge) as second:
            for waiting in (first, second):
                await waiting.send(HEALTH)
                assert (await waiting.answer()).status == 200
                await waiting.send(post(body=json.dumps(PAGE).encode()))
            response = await http.post("/p/i", json=PAGE)
            assert (response.status_code, response.json()["reason"]) == (503, "busy")
            assert (response.headers.get("retry-after"), response.headers["access-control-allow-origin"]) == ("1", "*")
            gate.set()
            assert [(await waiting.answer()).status for waiting in (first, second)] == [204, 204]
        while (response := await http.post("/p/i", json=PAGE)).status_code == 503:
            await asyncio.sleep(0.01)  # until it knows that they are gone
        assert response.status_code == 204


# --- bodies on the wire ------------------------------------------------------------------------------


async def raw(edge: Any, request: bytes, *, wait_s: float = 5) -> bytes:
    """Write bytes to the server, read what it says until it closes the connection or falls silent."""
    host, port = edge.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    found = b""
    try:
        while chunk := await asyncio.wait_for(reader.read(65_536), wait_s):
            found += chunk
    except TimeoutError:
        pass
    writer.close()
    return found


async def test_a_body_that_does_not_arrive_is_408(tmp_path: Path) -> None:
    settings = Collect(body_timeout_s=0.2)
    head = f"POST /p/i HTTP/1.1\r\nHost: x\r\nOrigin: {SHOP}\r\nContent-Length: 100\r\n\r\n{{".encode()
    async with running(tmp_path, settings=settings) as edge:
        found = await raw(edge, head)
    assert found.startswith(b"HTTP/1.1 408") and b'"too_slow"' in found
    assert b"access-control-allow-origin: https://www.shop.example" in found


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 4 << 20])
async def test_a_body_that_is_too_large_is_413_with_and_without_length(tmp_path: Path, size: int) -> None:
    async def chunks() -> Any:
        for _ in range(0, size, 65_536):
            yield b"x" * min(65_536, size)

    async with running(tmp_path) as edge, client(edge) as http:
        chunked = await http.post("/p/i", content=chunks())
        assert (chunked.status_code, chunked.json()["reason"]) == (413, "too_large")
        told = await raw(
            edge, f"POST /p/i HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * 5, wait_s=0.3
        )
        assert told == b""  # it waits for the body before it answers, within the time for bodies
        sent = await http.post("/p/i", content=b"x" * (MAX_BODY_BYTES + 1))
        assert sent.status_code == 413


async def test_a_client_that_leaves_while_it_writes_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as edge:
        host, port = edge.base_url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /p/i HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await asyncio.sleep(0.1)
        async with client(edge) as http:
            assert (await http.get("/healthz")).status_code == 200
        assert await edge.stored(EVENTS) == []


async def test_many_at_once_are_all_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        responses = await asyncio.gather(*(http.post("/p/i", json=PAGE | {"event_id": f"e-{n}"}) for n in range(150)))
        assert {response.status_code for response in responses} == {204}
        assert {event["event_id"] for event in await edge.stored(EVENTS)} == {f"e-{n}" for n in range(150)}


# --- the rest ----------------------------------------------------------------------------------------


async def test_the_tag_is_cached_by_its_content(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        first = await http.get("/tag.js")
        assert first.headers["content-type"] == "text/javascript; charset=utf-8"
        assert first.headers["cache-control"] == "public, max-age=300"
        assert first.content == Path(edges.__file__).with_name("static").joinpath("tag.js").read_bytes()
        again = await http.get("/tag.js", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await http.get("/tag.js", headers={"if-none-match": '"old"'})).status_code == 200


async def test_a_preflight_is_kept_for_a_day(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        response = await http.options("/p/i", headers={"access-control-request-headers": "content-encoding"})
    assert response.status_code == 204
    assert response.headers["access-control-max-age"] == "86400"
    assert "Content-Encoding" in response.headers["access-control-allow-headers"]
    assert "POST" in response.headers["access-control-allow-methods"]


async def test_requests_are_counted_by_route_and_status(tmp_path: Path) -> None:
    before = sample("requests_total", route="events", status="204"), sample("answer_ms_count")
    async with running(tmp_path) as edge, client(edge) as http:
        for _ in range(SAMPLED):
            await http.post("/p/i", json=PAGE)
    assert sample("requests_total", route="events", status="204") == before[0] + SAMPLED
    assert sample("answer_ms_count") == before[1] + 1


async def test_405_names_the_methods(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        assert (await http.get("/p/i")).headers["allow"] == "POST, OPTIONS"
        assert (await http.put("/v3/")).headers["allow"] == "GET, HEAD, POST, OPTIONS"


async def test_a_query_is_bounded(tmp_path: Path) -> None:
    start = f"/v3/?tid={SITE.tag_id}&consent=yes&event=search&cb="
    length = edges.MAX_QUERY_BYTES - len(start.partition("?")[2])
    async with running(tmp_path) as edge, client(edge) as http:
        assert (await http.get(start + "x" * length)).status_code == 200
        response = await http.get(start + "x" * (length + 1))
        assert (response.status_code, response.headers["x-pinstream-refused"]) == (400, "too_long")
