"""mirror.js beside Pinterest's own tag, here a library of ours that behaves as reference notes describe it.

It starts only while `queue.push` is the native one, carries out what waits, and puts its own push in that place. What
it was told is in `window.official`.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.clock import with_own_clock
from tests.browser.recorder import TAG_ID, Recorder, Site, in_browser

pytestmark = in_browser

STUB = """<script>
  !function (e) {
    if (!window.pintrk) {
      window.pintrk = function () { window.pintrk.queue.push(Array.prototype.slice.call(arguments)) };
      var n = window.pintrk; n.queue = []; n.version = "3.0";
    }
  }();
  CALLS
</script>"""

LIBRARY = """!function () {
  var told = window.official = [], queue = window.pintrk && window.pintrk.queue;
  if (!queue || queue.push !== Array.prototype.push) { window.officialRefused = true; return }
  var run = function (call) {
    call = Array.prototype.slice.call(call);
    told.push(call);
    if (String(call[0]).trim().toLowerCase() === "load") window.pintrk.tagId = String(call[1]);
    if (typeof call[3] === "function") call[3](true);
  };
  queue.forEach(run);
  queue.length = 0;
  queue.push = function () { Array.prototype.slice.call(arguments).forEach(run); return 0 };
}();"""

CALLS = f"""
  pintrk("setconsent", true);
  pintrk("load", "{TAG_ID}", {{em: "ada@example.com"}});
  pintrk("page");
  pintrk("track", "pagevisit");
  pintrk.queue.push(["track", "addtocart", {{value: 2, product_ids: ["mug"]}}]);
  (function () {{ pintrk.queue.push(arguments) }})("track", "search", {{search_query: "mug"}});
"""

ORDERS = {
    "mirror first": '<script src="{mirror}" data-site="{site}"></script><script src="/official.js"></script>',
    "library later": '<script async src="{mirror}" data-site="{site}"></script>',
    "mirror last": '<script src="/official.js"></script><script src="{mirror}" data-site="{site}"></script>',
}


async def mirrored(page: Page, site: Site, order: str = "mirror first", calls: str = CALLS) -> None:
    site.scripts["/official.js"] = LIBRARY
    scripts = ORDERS[order].format(mirror=f"{site.collector_url}/mirror.js", site=TAG_ID)
    site.pages["/"] = STUB.replace("CALLS", calls) + scripts
    await page.goto(site.url)
    await page.wait_for_function("pintrk.live")
    if order == "library later":
        await page.evaluate("pintrk('track', 'before the library')")
        await page.add_script_tag(url="/official.js")
    assert not await page.evaluate("window.officialRefused")


async def official(page: Page) -> list[list[Any]]:
    """The calls that Pinterest's tag was told."""
    told: list[list[Any]] = await page.evaluate("JSON.parse(JSON.stringify(window.official))")
    return told


def tracked(calls: list[list[Any]]) -> dict[str, Any]:
    """Event name -> its id, of the calls that have one."""
    return {call[1]: call[2]["event_id"] for call in calls if call[0] == "track"}


def sent(recorder: Recorder) -> dict[str, Any]:
    return {event["event"]: event["event_id"] for event in recorder.events if event["event"] != "init"}


@pytest.mark.parametrize("order", ["mirror first", "library later"])
async def test_both_get_every_event_with_the_same_id(order: str, page: Page, site: Site, recorder: Recorder) -> None:
    await mirrored(page, site, order)
    await page.evaluate("""() => {
        pintrk("track", "viewcategory", {product_category: "Ceramics"});
        pintrk("track", "checkout", {event_id: "order-7", value: 20, currency: "EUR"});
        pintrk("track", "lead");
    }""")
    await recorder.until("lead")
    await page.wait_for_function("window.official.some(call => call[1] === 'lead')")
    ours = sent(recorder)
    early = {"before the library"} if order == "library later" else set()
    assert ours.keys() == {"pagevisit", "addtocart", "search", "viewcategory", "checkout", "lead"} | early
    assert ours["checkout"] == "order-7"
    theirs = tracked([call for call in await official(page) if len(call) > 2])
    assert {name: theirs.get(name) for name in ours} == ours


async def test_what_pinterests_tag_did_before_is_not_done_again(page: Page, site: Site, recorder: Recorder) -> None:
    await mirrored(page, site, "mirror last")
    before = len(await official(page))
    await page.evaluate(f"""() => {{
        pintrk("setconsent", true);
        pintrk("load", "{TAG_ID}");
        pintrk("track", "lead");
    }}""")
    await recorder.until("lead")
    calls = await official(page)
    assert len(calls) == before + 3
    assert tracked(calls[before:]) == sent(recorder)


async def test_the_official_calls_keep_their_order_and_their_data(page: Page, site: Site, recorder: Recorder) -> None:
    await mirrored(page, site)
    await recorder.until("search")
    calls = await official(page)
    assert [call[:2] for call in calls] == [
        ["setconsent", True],
        ["load", TAG_ID],
        ["page"],
        ["track", "pagevisit"],
        ["track", "addtocart"],
        ["track", "search"],
    ]
    assert calls[1][2] == {"em": "ada@example.com"}
    added = {key: value for key, value in calls[4][2].items() if key != "event_id"}
    assert added == {"value": 2, "product_ids": ["mug"]}


async def test_a_tag_manager_that_writes_to_the_queue_is_heard_by_both(
    page: Page, site: Site, recorder: Recorder
) -> None:
    await mirrored(page, site)
    await page.evaluate("""() => {
        pintrk.queue.push(["track", "from_array", {value: 1}]);
        (function () { pintrk.queue.push(arguments) })("track", "lead", {value: 2});
    }""")
    await recorder.until("from_array", "lead")
    theirs = tracked(await official(page))
    ours = sent(recorder)
    assert {name: theirs[name] for name in ("from_array", "lead")} == {
        name: ours[name] for name in ("from_array", "lead")
    }


async def test_callbacks_and_what_wrappers_read_stay_as_they_were(page: Page, site: Site, recorder: Recorder) -> None:
    await mirrored(page, site)
    told = await page.evaluate("""() => new Promise(done =>
        pintrk("track", "lead", {}, done)
    )""")
    assert told is True
    assert await page.evaluate("[pintrk.version, pintrk.tagId, Array.isArray(pintrk.queue)]") == ["3.0", TAG_ID, True]


async def test_without_a_yes_pinterests_tag_works_and_ours_is_silent(
    page: Page, site: Site, recorder: Recorder
) -> None:
    await with_own_clock(page)
    await mirrored(page, site, calls=CALLS.replace('pintrk("setconsent", true);', 'pintrk("setconsent", false);'))
    await page.evaluate("pintrk('track', 'lead')")
    assert tracked(await official(page)).keys() >= {"pagevisit", "lead"}
    await recorder.stays_silent(page)
    assert recorder.sent == []
