"""Rate limits: how much passes, how long to wait, and what a sender who is above them hears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstream.collect import answer as answers
from pinstream.collect.limits import Bucket, Limits, Over
from pinstream.collect.workers import share
from pinstream.event import ENGAGEMENTS, EVENTS, MAX_EVENTS, REASONS, REJECTED
from pinstream.settings import Collect
from pinstream.state.snapshot import Key, Site
from tests.collect.conftest import API_KEY, OTHER, SANDBOX, SHOP, SITE, SITE_KEY, SNAPSHOT, STRICT, client, running
from tests.collect.test_app import Counted, sample

NOW = 1_795_291_391_000
KEY, KEY_OF_SANDBOX = SNAPSHOT.keys

rates = st.integers(1, 3000)
bursts = st.integers(1, 60)
events_sent = st.integers(1, MAX_EVENTS)
steps = st.lists(st.tuples(st.integers(0, 2000), events_sent), min_size=1, max_size=30)
"""Requests: milliseconds since the one before, and events."""


# --- a bucket ----------------------------------------------------------------------------------------


def passed(bucket: Bucket, sent: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(time, events) of the requests that went through."""
    now, through = NOW, []
    for after_ms, events in sent:
        now += after_ms
        if not bucket.wait_ms(events, now):
            bucket.take(events)
            through.append((now, events))
    return through


@given(rates, bursts, steps)
def test_no_span_of_time_sees_more_than_the_rate_and_one_burst(
    rate: int, burst: int, sent: list[tuple[int, int]]
) -> None:
    through = passed(Bucket(rate, burst), sent)
    for first, (since, _) in enumerate(through):
        total, at_once = 0, rate * burst
        for now, events in through[first:]:
            total += events
            at_once = max(at_once, events)  # a full bucket takes a request that is larger than itself
            assert 1000 * total <= rate * (now - since) + 1000 * at_once


@given(rates, bursts, steps, events_sent)
def test_after_the_wait_it_fits_and_not_a_moment_before(
    rate: int, burst: int, sent: list[tuple[int, int]], events: int
) -> None:
    bucket = Bucket(rate, burst)
    passed(bucket, sent)
    now = NOW + sum(after_ms for after_ms, _ in sent)
    wait = bucket.wait_ms(events, now)
    assert 0 <= wait <= 1000 * max(burst, -(-MAX_EVENTS // rate))
    if wait > 1:
        assert bucket.wait_ms(events, now + wait - 1) == 1
    assert bucket.wait_ms(events, now + wait) == 0


@given(rates, bursts, st.lists(st.tuples(st.integers(-100_000, 2000), events_sent), min_size=1, max_size=30))
def test_a_clock_that_is_set_back_neither_gives_nor_blocks(rate: int, burst: int, sent: list[tuple[int, int]]) -> None:
    forwards = [(max(0, after_ms), events) for after_ms, events in sent]
    times, again = Bucket(rate, burst), Bucket(rate, burst)
    assert [events for _, events in passed(times, sent)] == [events for _, events in passed(again, forwards)]


def test_a_bucket_in_numbers() -> None:
    bucket = Bucket(per_s=3, burst_s=2)
    assert passed(bucket, [(0, 4), (0, 2), (0, 1)]) == [(NOW, 4), (NOW, 2)]
    assert bucket.wait_ms(1, NOW) == 334  # a third of a second, in whole milliseconds
    assert bucket.wait_ms(100, NOW) == 2000  # when it is full
    bucket.wait_ms(100, NOW + 2000)
    bucket.take(100)
    assert bucket.wait_ms(1, NOW + 2000) == (100 - 6 + 1) * 1000 // 3 + 1


# --- of sites and keys -------------------------------------------------------------------------------

TWO_A_SECOND = Collect(limits="enforce", commit_interval_ms=1, site_events_per_s=2, key_events_per_s=2, burst_s=1)


def test_a_site_and_a_key_have_a_bucket_each() -> None:
    limits = Limits(TWO_A_SECOND)

    def take(site: Site, key: Key | None, events: int) -> Over | None:
        return limits.take(SNAPSHOT, site, key, events, NOW)

    assert take(SITE, None, 2) is None
    assert take(SITE, None, 1) == Over("site", 1)
    assert take(SANDBOX, KEY, 1) is None
    assert take(STRICT, KEY, 2) == Over("key", 1)  # took nothing of the site's
    assert take(STRICT, None, 2) is None
    assert take(STRICT, KEY, 1) == Over("site", 1)  # took nothing of the key's
    assert take(SANDBOX, KEY, 1) is None
    assert take(SANDBOX, KEY_OF_SANDBOX, 1) == Over("site", 1)


def test_the_wait_is_the_longer_one() -> None:
    limits = Limits(Collect(limits="enforce", site_events_per_s=10, key_events_per_s=1, burst_s=1))
    assert limits.take(SNAPSHOT, SITE, KEY, 10, NOW) is None
    assert limits.take(SNAPSHOT, SITE, KEY, 1, NOW) == Over("key", 10)
    assert limits.take(SNAPSHOT, SITE, None, 1, NOW) == Over("site", 1)


def test_a_fresh_snapshot_changes_nothing_for_who_is_still_there() -> None:
    limits = Limits(TWO_A_SECOND)
    without = msgspec.structs.replace(SNAPSHOT, sites=(SITE,), keys=(KEY,))
    assert limits.take(SNAPSHOT, SITE, KEY, 2, NOW) is None
    assert limits.take(without, SITE, None, 1, NOW) == Over("site", 1)
    with pytest.raises(KeyError):
        limits.take(without, SANDBOX, None, 1, NOW)  # nobody else has a bucket
    assert limits.take(SNAPSHOT, SANDBOX, KEY, 1, NOW) == Over("key", 1)
    assert limits.take(SNAPSHOT, SANDBOX, KEY_OF_SANDBOX, 1, NOW) is None


@given(st.integers(1, 64), rates)
def test_workers_share_a_limit(count: int, rate: int) -> None:
    part = share(Collect(workers=count, site_events_per_s=rate, key_events_per_s=rate))
    for each in (part.site_events_per_s, part.key_events_per_s):
        assert rate <= each * count < rate + count


# --- what a sender hears -----------------------------------------------------------------------------


class Time:
    """The edge's clock, moved by hand."""

    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        return self.ms


def page(event_id: str, **fields: Any) -> dict[str, Any]:
    return {"site": SITE.tag_id, "consent": "yes", "event": "search", "event_id": event_id} | fields


def batch(count: int, **fields: Any) -> dict[str, Any]:
    return {"site": SITE.tag_id, "consent": "yes", "events": [{"event": "search"}] * count} | fields


@pytest.mark.parametrize("hot", [True, False])
async def test_above_the_limit_it_is_429_until_retry_after(tmp_path: Path, hot: bool) -> None:
    settings = TWO_A_SECOND.model_copy(update={"burst_s": 3})
    now, counted = Time(), Counted()
    async with running(tmp_path, settings=settings, clock=now, hot=hot) as edge, client(edge) as http:
        assert (await http.post("/p/i", json=batch(6))).status_code == 204
        refused = await http.post("/p/i", json=batch(5))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
        assert refused.json() == {"reason": "rate_limited", "field": "", "hint": REASONS["rate_limited"][1]}
        assert refused.headers["access-control-allow-origin"] == SHOP
        assert refused.headers["access-control-allow-credentials"] == "true"
        assert "Retry-After" in refused.headers["access-control-expose-headers"]
        assert "set-cookie" not in refused.headers
        assert (await http.post("/p/i", json=page("e-1"))).headers["retry-after"] == "1"
        other = await http.post("/p/i", json=page("e-2", site=SANDBOX.tag_id), headers={"origin": OTHER})
        assert other.status_code == 204
        now.ms += 3000
        assert (await http.post("/p/i", json=batch(5))).status_code == 204
        assert len(await edge.stored(EVENTS)) == 6 + 1 + 5
        assert await edge.stored(REJECTED) == []
    assert counted.moved() == {"received": 18, "durable": 12, "refused rate_limited": 6}


async def test_more_than_fits_at_once_is_taken_after_a_rest(tmp_path: Path) -> None:
    now = Time()
    async with running(tmp_path, settings=TWO_A_SECOND, clock=now) as edge, client(edge) as http:
        assert (await http.post("/p/i", json=batch(100))).status_code == 204
        refused = await http.post("/p/i", json=batch(100))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "50")
        now.ms += 50_000
        assert (await http.post("/p/i", json=batch(100))).status_code == 204


async def test_a_key_has_a_limit_across_sites(tmp_path: Path) -> None:
    async with (
        running(tmp_path, settings=TWO_A_SECOND, clock=Time()) as edge,
        client(edge, **{"x-api-key": API_KEY}) as http,
    ):
        del http.headers["origin"]
        for site in (SITE, SANDBOX):
            assert (await http.post("/v1/events", json=page("e-1", site=site.tag_id))).status_code == 204
        refused = await http.post("/v1/events", json=page("e-2", site=STRICT.tag_id))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.headers["access-control-allow-origin"] == "*"
        assert (await http.post("/p/i", json=page("e-3"))).status_code == 204  # no key is looked at there


async def test_engagements_are_limited_too(tmp_path: Path) -> None:
    counted = Counted()
    body = {"site": SANDBOX.tag_id, "engagements": [{"action": "save"}] * 2}
    async with running(tmp_path, settings=TWO_A_SECOND, clock=Time()) as edge, client(edge) as http:
        keys = [{"x-api-key": API_KEY}, {"x-api-key": SITE_KEY}]
        assert (await http.post("/v1/engagements", json=body, headers=keys[0])).status_code == 204
        by_key = await http.post("/v1/engagements", json=body | {"site": SITE.tag_id}, headers=keys[0])
        by_site = await http.post("/v1/engagements", json=body, headers=keys[1])
        for refused in (by_key, by_site):
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["reason"] == "rate_limited"
        assert len(await edge.stored(ENGAGEMENTS)) == 2
    assert counted.moved() == {"received": 6, "durable": 2, "refused rate_limited": 4}


async def test_a_pixel_above_the_limit_is_still_a_pixel(tmp_path: Path) -> None:
    pixel = f"/v3/?tid={SITE.tag_id}&consent=yes&event=search"
    async with running(tmp_path, settings=TWO_A_SECOND, clock=Time()) as edge, client(edge) as http:
        told = [await http.get(pixel) for _ in range(3)]
    assert [response.status_code for response in told] == [200, 200, 429]
    assert {response.content for response in told} == {answers.GIF}
    assert told[2].headers["retry-after"] == "1"
    assert told[2].headers["x-pinstream-refused"] == "rate_limited"


async def test_who_may_not_speak_for_a_site_does_not_use_up_its_limit(tmp_path: Path) -> None:
    async with running(tmp_path, settings=TWO_A_SECOND, clock=Time()) as edge, client(edge) as http:
        for _ in range(3):
            assert (await http.post("/p/i", json=batch(2), headers={"origin": OTHER})).status_code == 403
            wrong = await http.post("/v1/events", json=batch(2), headers={"x-api-key": SITE_KEY})
            assert wrong.status_code == 403
        assert (await http.post("/p/i", json=page("e-1"))).status_code == 204


async def test_what_is_dropped_or_wrong_uses_it_up(tmp_path: Path) -> None:
    async with running(tmp_path, settings=TWO_A_SECOND, clock=Time()) as edge, client(edge) as http:
        assert (await http.post("/p/i", json=page("e-1", value=-1))).status_code == 400
        assert (await http.post("/p/i", json=page("e-2", consent="no"))).status_code == 200
        assert (await http.post("/p/i", json=page("e-3"))).status_code == 429


async def test_a_dry_run_counts_and_takes(tmp_path: Path) -> None:
    settings = TWO_A_SECOND.model_copy(update={"limits": "dry_run"})
    name = "rate_limit_dry_run_total"
    before, counted = (sample(name, scope="site"), sample(name, scope="key")), Counted()
    async with running(tmp_path, settings=settings, clock=Time()) as edge, client(edge) as http:
        for body, headers in (
            (batch(2), {}),
            (batch(5), {}),
            (batch(2, site=STRICT.tag_id), {"x-api-key": API_KEY}),
            (batch(3, site=SANDBOX.tag_id), {"x-api-key": API_KEY}),
        ):
            assert (await http.post("/v1/events", json=body, headers=headers)).status_code == 204
    assert (sample(name, scope="site"), sample(name, scope="key")) == (before[0] + 5, before[1] + 3)
    assert counted.moved() == {"received": 12, "durable": 12}


async def test_the_log_names_who_is_limited_once_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = Time()
    async with running(tmp_path, settings=TWO_A_SECOND, clock=now) as edge, client(edge) as http:
        for _ in range(2):
            for _ in range(3):
                await http.post("/p/i", json=batch(100))
            await http.post("/v1/events", json=batch(100, site=STRICT.tag_id), headers={"x-api-key": API_KEY})
            await http.post("/v1/events", json=batch(100, site=SANDBOX.tag_id), headers={"x-api-key": API_KEY})
            now.ms += 60_000
    named = [record.getMessage().split(" are ")[0] for record in caplog.records if "limit" in record.getMessage()]
    who = [f"Events of site {SITE.tag_id}", f"Events of key {KEY.prefix}..."]
    assert named == who * 2


async def test_nothing_is_limited_unless_it_is_asked_for(tmp_path: Path) -> None:
    settings = Collect(commit_interval_ms=1, site_events_per_s=1, key_events_per_s=1, burst_s=1)
    async with running(tmp_path, settings=settings, clock=Time()) as edge, client(edge) as http:
        for _ in range(3):
            answer = await http.post("/v1/events", json=batch(100), headers={"x-api-key": API_KEY})
            assert answer.status_code == 204
