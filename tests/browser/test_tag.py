"""The tag in a real browser."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import msgspec
import pytest
from playwright.async_api import Page

from pinstream.collect.identity import hashed
from pinstream.collect.wire import parse
from pinstream.event import RawEvent
from tests.browser.clock import pass_time, with_own_clock
from tests.browser.recorder import TAG_ID, Recorder, Site, in_browser
from tests.browser_fixtures import OpenPage, with_gpc

pytestmark = in_browser

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}")
YES = 'pintrk("setconsent", true);'


async def started(page: Page, site: Site, calls: str = "", *, yes: bool = True, path: str = "/") -> None:
    """Open a page with the tag, and wait until tag.js runs."""
    site.pages[path.partition("?")[0]] = site.tag((YES if yes else "") + calls)
    await page.goto(site.url + path)
    await page.wait_for_function("pintrk.live")


async def stored(page: Page) -> dict[str, str]:
    kept: dict[str, str] = await page.evaluate("({...localStorage})")
    return kept


async def cookies(page: Page) -> dict[str, str]:
    return {cookie["name"]: cookie["value"] for cookie in await page.context.cookies()}


async def test_calls_before_the_tag_is_there_are_carried_out_in_order(
    page: Page, site: Site, recorder: Recorder
) -> None:
    await started(
        page,
        site,
        """
        pintrk("page");
        pintrk.queue.push(["track", "from_array", {value: 2}]);
        pintrk(" TRACK ", "pagevisit");
        pintrk("trAck", "lead");
        """,
    )
    await recorder.until("lead")
    (sent,) = recorder.sent
    assert sent.names == ["init", "from_array", "pagevisit", "lead"]
    assert sent.body["site"] == TAG_ID
    assert sent.body["consent"] == "yes"
    assert UUID7.fullmatch(sent.body["visitor_id"])
    assert all(UUID7.fullmatch(event["event_id"]) for event in sent.body["events"])
    assert sent.headers["content-type"] == "text/plain;charset=UTF-8"
    assert {event["url"] for event in sent.body["events"]} == {f"{site.url}/"}


async def test_a_tag_manager_that_goes_on_filling_the_queue_is_heard(
    page: Page, site: Site, recorder: Recorder
) -> None:
    await started(page, site)
    await page.evaluate("""() => {
        pintrk.queue.push(["track", "late_array"]);
        (function () { pintrk.queue.push(arguments) })("track", "lead");
    }""")
    await recorder.until("late_array", "lead")


async def test_a_stub_that_somebody_kept_still_works(page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site, "window.kept = pintrk;")
    await page.evaluate('kept("track", "lead")')
    await recorder.until("lead")


async def test_tag_js_twice_sends_everything_once(page: Page, site: Site, recorder: Recorder) -> None:
    await with_own_clock(page)
    site.pages["/"] = site.tag(YES) + f'<script src="{site.collector_url}/tag.js"></script>'
    await page.goto(site.url)
    await page.evaluate('pintrk("track", "lead")')
    await recorder.until("lead")
    await recorder.stays_silent(page)
    assert recorder.names == ["lead"]


async def test_track_gives_the_id_and_calls_back(page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site)
    given: dict[str, Any] = await page.evaluate("""() => {
        const told = {};
        const id = pintrk("track", "lead", {}, (...said) => { told.said = said });
        return {id, ...told};
    }""")
    await recorder.until("lead")
    assert given == {"id": recorder.events[0]["event_id"], "said": [True, None]}


async def test_nothing_is_stored_or_sent_before_yes(page: Page, site: Site, recorder: Recorder) -> None:
    await with_own_clock(page)
    recorder.sets_cookie = True
    await started(page, site, 'pintrk("page"); pintrk("set", {em: "a@example.com"});', yes=False, path="/?epik=dj0yAA")
    await page.evaluate('pintrk("track", "checkout", {value: 1})')
    await recorder.stays_silent(page)
    assert recorder.sent == []
    assert await stored(page) == {}
    assert await cookies(page) == {}

    await page.evaluate('pintrk("setconsent", true)')
    await recorder.until("init", "checkout")
    (sent,) = recorder.sent
    assert sent.body["epik"] == "dj0yAA"
    assert sent.body["user"] == {"em": [hashlib.sha256(b"a@example.com").hexdigest()]}
    assert await stored(page) == {"ps_vid": sent.body["visitor_id"], "ps_vid_epik": "dj0yAA"}


async def test_leaving_without_an_answer_sends_nothing(page: Page, site: Site, recorder: Recorder) -> None:
    await with_own_clock(page)
    await started(page, site, 'pintrk("page");', yes=False)
    await page.goto(f"{site.url}/elsewhere")
    await recorder.stays_silent(page)
    assert recorder.sent == []


async def test_a_no_sends_and_stores_nothing(page: Page, site: Site, recorder: Recorder) -> None:
    await with_own_clock(page)
    await started(page, site, 'pintrk("page"); pintrk("setconsent", false); pintrk("track", "checkout");', yes=False)
    await recorder.stays_silent(page)
    assert recorder.sent == []
    assert await stored(page) == {}


async def test_the_click_id_stays_for_later_pages(page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site, path="/?epik=dj0yAA")
    await page.evaluate('pintrk("track", "lead")')
    await recorder.until("lead")
    await started(page, site, path="/later")
    await page.evaluate('pintrk("track", "lead", {value: 2})')
    sent = await recorder.carrying(value=2)
    assert sent.body["epik"] == "dj0yAA"


async def test_a_visitor_keeps_the_id_and_the_cookie_wins(page: Page, site: Site, recorder: Recorder) -> None:
    recorder.sets_cookie = True
    await started(page, site)
    await page.evaluate('pintrk("track", "lead")')
    await recorder.until("lead")
    minted = recorder.sent[0].body["visitor_id"]
    await page.wait_for_function("document.cookie.includes('ps_vid=')")
    assert (await cookies(page))["ps_vid"] == minted

    other = "0b5c0000-0000-4000-8000-00000000000c"
    await page.context.add_cookies([{"name": "ps_vid", "value": other, "domain": ".shop.localhost", "path": "/"}])
    await started(page, site)
    await page.evaluate('pintrk("track", "lead", {value: 2})')
    assert (await recorder.carrying(value=2)).body["visitor_id"] == other
    await page.wait_for_function("localStorage.length === 1")
    assert await stored(page) == {"ps_vid": other}


async def test_withdrawal_erases_everything_and_is_told_once(page: Page, site: Site, recorder: Recorder) -> None:
    await with_own_clock(page)
    recorder.sets_cookie = True
    await started(page, site, path="/?epik=dj0yAA")
    await page.evaluate('pintrk("set", {em: "a@example.com"}); pintrk("track", "lead")')
    await recorder.until("lead")
    await page.evaluate('pintrk("track", "pagevisit"); pintrk("setconsent", false); pintrk("setconsent", false)')
    await recorder.until("lead", "consent_withdrawn")
    await page.wait_for_function("document.cookie == ''")  # its answer takes the cookie, which scripts cannot
    assert await stored(page) == {}
    assert await cookies(page) == {}
    told = recorder.counted
    await started(page, site, 'pintrk("setconsent", false); pintrk("page");', yes=False)
    await recorder.stays_silent(page)

    assert recorder.counted == told
    assert set(told) == {"lead", "consent_withdrawn"}
    body = recorder.sent[-1].body
    assert body.keys() == {"site", "sent_at", "consent", "visitor_id", "events"}
    assert body["visitor_id"] == recorder.sent[0].body["visitor_id"]
    assert body["consent"] == "no"
    assert body["events"][0].keys() == {"event", "event_id", "time"}


async def test_gpc_beats_a_yes(open_page: OpenPage, site: Site, recorder: Recorder) -> None:
    page = await open_page(gpc=True)
    await with_own_clock(page)
    await started(page, site, 'pintrk("page"); pintrk("track", "checkout");')
    told = await page.evaluate("() => new Promise(done => pintrk('track', 'lead', {}, (...said) => done(said)))")
    await recorder.stays_silent(page)
    assert told == [False, "no consent"]
    assert recorder.sent == []
    assert await stored(page) == {}


async def test_gpc_withdraws_a_visitor_it_finds(page: Page, site: Site, recorder: Recorder) -> None:
    recorder.sets_cookie = True
    await started(page, site)
    await page.evaluate('pintrk("track", "lead")')
    await recorder.until("lead")
    await with_gpc(page.context)
    await started(page, site, 'pintrk("page");')
    await recorder.until("lead", "consent_withdrawn")
    await page.wait_for_function("document.cookie == ''")
    assert recorder.sent[-1].headers["sec-gpc"] == "1"
    assert await stored(page) == {}
    assert await cookies(page) == {}


IDENTIFIERS = [
    ("em", " Ada.Lovelace@Example.COM "),
    ("em", "ada lovelace@example.com"),
    ("em", "grüße@example.com"),
    ("ph", "+49 (0)151 234 567 89"),
    ("ph", "+1 202-555-0143"),
    ("external_id", " Customer-42 "),
    ("fn", " Émile "),
    ("ln", "O'Neill-Smith"),
    ("ge", "Female"),
    ("ge", "m"),
    ("db", "1990-01-31"),
    ("ct", "San José"),
    ("st", "CA"),
    ("zp", "SW1A 1AA"),
    ("country", "US"),
    ("em", "ab" * 32),
]


async def test_identifiers_are_hashed_as_the_server_hashes_them(page: Page, site: Site, recorder: Recorder) -> None:
    for number, (key, raw) in enumerate(IDENTIFIERS):
        await started(page, site)
        await page.evaluate(
            "([key, raw, number]) => { pintrk('set', {[key]: raw}); pintrk('track', 'lead', {number}) }",
            [key, raw, number],
        )
        sent = await recorder.carrying(number=number)
        assert sent.body["user"] == {key: [hashed(key, raw, "", "$.user")]}, (key, raw)


async def test_without_web_crypto_nobody_is_told_who_it_is(page: Page, site: Site, recorder: Recorder) -> None:
    await page.add_init_script("Object.defineProperty(crypto, 'subtle', {value: undefined})")
    await started(page, site)
    await page.evaluate("pintrk('set', {em: ' Ada@Example.com '}); pintrk('track', 'lead')")
    await recorder.until("lead")
    assert recorder.sent[0].body["user"] == {}


@pytest.mark.parametrize(
    "way", ["location.href = '/next'", "location.reload()", "history.back()", "window.open('/next', '_self')"]
)
async def test_leaving_right_after_a_call_loses_nothing(way: str, page: Page, site: Site, recorder: Recorder) -> None:
    await page.goto(f"{site.url}/before")
    await started(page, site, path="/here")
    await page.evaluate(f"() => {{ pintrk('track', 'pagevisit', {{value: 3}}); {way} }}")
    await recorder.until("pagevisit")
    assert recorder.events[0]["value"] == 3


async def test_an_identifier_given_right_before_leaving_arrives_hashed(
    page: Page, site: Site, recorder: Recorder
) -> None:
    await started(page, site)
    async with page.expect_navigation():
        await page.evaluate("""() => {
            pintrk('set', {em: 'a@example.com'});
            pintrk('track', 'signup');
            location.href = '/next';
        }""")
    await recorder.until("signup")
    assert recorder.sent[0].body["user"] == {"em": [hashlib.sha256(b"a@example.com").hexdigest()]}


async def test_a_busy_collector_gets_the_same_events_again(page: Page, site: Site, recorder: Recorder) -> None:
    await with_own_clock(page)
    recorder.statuses = [503, 500]
    await started(page, site)
    await page.evaluate('pintrk("track", "lead")')
    await pass_time(page, 10)
    await recorder.until("lead", "lead", "lead")
    await recorder.stays_silent(page)
    assert len({event["event_id"] for event in recorder.events}) == 1


@pytest.mark.parametrize("status", [204, 200, 400, 403])
async def test_an_answer_is_the_end_of_it(status: int, page: Page, site: Site, recorder: Recorder) -> None:
    await with_own_clock(page)
    recorder.statuses = [status]
    await started(page, site)
    await page.evaluate('pintrk("track", "lead")')
    await recorder.until("lead")
    await recorder.stays_silent(page)
    assert recorder.names == ["lead"]


async def test_an_unknown_command_is_logged_and_harmless(page: Page, site: Site, recorder: Recorder) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    await started(page, site)
    await page.evaluate("""() => {
        pintrk("dance");
        pintrk();
        pintrk("toString");
        pintrk("track", "lead");
    }""")
    await recorder.until("lead")
    assert [text.split()[:2] for text in said] == [["pintrk:", name] for name in ("dance", "undefined", "toString")]


async def test_nothing_that_a_page_says_throws(page: Page, site: Site, recorder: Recorder) -> None:
    """Random calls with values that break careless code; an uncaught error would fail the `page` fixture."""
    await started(page, site)
    await page.evaluate("""() => {
        console.error = () => {};  // it is told of most of them; the browser's way to us is slow
        let seed = 7;
        const dice = (list) => list[(seed = seed * 16807 % 2147483647) % list.length];
        const circle = {}; circle.self = circle;
        const trap = {get em() { throw new Error("trap") }, get value() { throw 1 }};
        const values = [undefined, null, 0, NaN, "", "lead", {}, [], circle, trap, 10n, Symbol("s"), () => 1, window,
                        new Date(NaN), {em: circle}, {ph: [null, {}, "+1"]}, "\\ud800", {line_items: circle}];
        const commands = ["load", "set", "page", "track", "setconsent", "LOAD", "constructor", null, circle];
        for (let n = 0; n < 10000; n++) pintrk(dice(commands), dice(values), dice(values), dice(values), dice(values));
        for (let n = 0; n < 300; n++) pintrk.queue.push(dice(values));
        pintrk("load", "demo"); pintrk("setconsent", true); pintrk("track", "lead", {order_id: "last"});
    }""")
    await recorder.carrying(order_id="last")


async def test_bodies_are_json_for_the_server_whatever_is_in_them(page: Page, site: Site, recorder: Recorder) -> None:
    await started(page, site)
    await page.evaluate(r"""pintrk("track", "lead", {a: "x\ud800y\0z", b: "😀", c: "\\ud800"})""")
    await recorder.until("lead")
    [event] = parse("text/plain", json.dumps(recorder.sent[0].body).encode()).events
    assert isinstance(event, RawEvent)
    assert msgspec.json.decode(event.props) == {"a": "xyz", "b": "😀", "c": "\\ud800"}
