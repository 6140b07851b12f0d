"""Where else the tag has to run: under a strict policy, without a page, and under somebody else's wrapper."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from playwright.async_api import Page

from pinstream.collect.snippet import snippet
from pinstream.collect.tagfiles import TagFiles
from pinstream.state import snapshot
from tests.browser.clock import pass_time, with_own_clock
from tests.browser.collector import Collector
from tests.browser.recorder import TAG_ID, Recorder, Site, both_places, in_browser
from tests.browser.test_shop import complaints

pytestmark = in_browser

JS = Path(__file__).parents[2] / "js"
WRAPPER = "react-pinterest-tag"

# --- a strict policy -------------------------------------------------------------------------------

STRICT = "default-src 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"


async def test_the_printed_element_works_where_scripts_may_name_no_script(
    page: Page, store: Site, collector: Collector
) -> None:
    made = snippet(
        snapshot.Site(id=1, tag_id=TAG_ID, consent_default="yes"),
        "html-csp",
        store.collector_url,
        TagFiles("/tag.js", "/p/i"),
    )
    allowed = "; ".join(f"{directive} {' '.join(sources)}" for directive, sources in made.csp.items())
    store.pages["/"], store.policies["/"] = made.text, f"{STRICT}; {allowed} data:"
    wrong = complaints(page)
    await page.goto(store.url)  # waiting for more would take the eval that the policy forbids
    told = await page.evaluate("() => pintrk.live && pintrk('track', 'lead', {em: 'ada@example.com'})")
    stored = await collector.until([told])
    assert {event["event"] for event in stored} >= {"page_visit", "lead"}
    assert wrong == []


# --- without a page --------------------------------------------------------------------------------

WORKER = """
importScripts("COLLECTOR/sandbox.js");
const kept = {};
const pintrk = pinstream.createClient({
  endpoint: "COLLECTOR/p/i",
  url: () => "https://www.shop.example/checkout",
  referrer: () => "https://www.shop.example/cart",
  kept,
  keep: (key, value) => { kept[key] = value },
});
pintrk("load", "SITE", {em: "ada@example.com"});
pintrk("setconsent", true);
const told = [pintrk("track", "pagevisit"), pintrk("track", "checkout", {value: 37, order_id: "1"})];
postMessage({told, missing: ["window", "document", "localStorage"].filter(name => name in self)});
onmessage = () => postMessage(Object.entries(kept).filter(([key, value]) => value).map(([key]) => key));
"""


@both_places
async def test_a_sandbox_without_a_page_delivers(page: Page, store: Site, collector: Collector) -> None:
    store.scripts["/worker.js"] = WORKER.replace("COLLECTOR", store.collector_url).replace("SITE", TAG_ID)
    await page.goto(store.url)
    said = await page.evaluate("""() => new Promise(done => {
        window.worker = new Worker("/worker.js");
        worker.onmessage = ({data}) => done(data);
    })""")
    assert said["missing"] == []
    stored = await collector.until(said["told"])
    assert {event["url"] for event in stored} == {"https://www.shop.example/checkout"}
    assert all(event["em"] for event in stored)
    kept = await page.evaluate("""() => new Promise(done => {
        worker.onmessage = ({data}) =>
            data.some(key => key.startsWith("ps_vid_q")) ? worker.postMessage(0) : done(data);
        worker.postMessage(0);
    })""")
    assert kept == ["ps_vid"]


FRAME = """<script>
  addEventListener("message", ({data}) => {
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.srcdoc = data;
    document.body.append(frame);
  });
</script>"""


@pytest.mark.parametrize("script", ["tag.js", "sandbox.js"])
@both_places
async def test_a_frame_without_an_origin_delivers_once(
    script: str, page: Page, store: Site, collector: Collector
) -> None:
    """Storage and cookies throw there, and the answer to `Origin: null` allows no credentials."""
    begin = {
        "tag.js": "",
        "sandbox.js": f'var pintrk = pinstream.createClient({{endpoint: "{store.collector_url}/p/i"}});',
    }[script]
    inner = f"""<script src="{store.collector_url}/{script}"></script><script>
        {begin}
        pintrk("load", "{TAG_ID}"); pintrk("setconsent", true);
        parent.postMessage([origin, pintrk("track", "checkout", {{order_id: "1"}})], "*");
    </script>"""
    await with_own_clock(page)
    await page.goto(store.url)
    said = await page.evaluate(
        """(inner) => new Promise(done => {
            addEventListener("message", ({data}) => done(data), {once: true});
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts";
            frame.srcdoc = inner;
            document.body.append(frame);
        })""",
        inner,
    )
    assert said[0] == "null"
    await pass_time(page, 20)
    stored = await collector.until([said[1]])
    assert [event["event"] for event in stored] == ["checkout"]


# --- a wrapper from npm ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wrapper_js() -> str:
    """react-pinterest-tag, unmodified, put together with a page's own code."""
    if not (JS / "node_modules" / WRAPPER).exists():
        pytest.skip(f"{WRAPPER} is missing: npm ci in js/")
    entry = f'import wrapper from "{WRAPPER}"; window.wrapper = wrapper.default ?? wrapper;'
    command = ["node_modules/.bin/esbuild", "--bundle", "--format=iife", "--log-level=error"]
    return subprocess.run(command, cwd=JS, input=entry, capture_output=True, text=True, check=True).stdout


async def use(page: Page) -> None:
    """As its README says."""
    await page.evaluate(f"""() => {{
        wrapper.init("{TAG_ID}", "ada@example.com", {{debug: true}});
        wrapper.pageView();
        wrapper.track("AddToCart", {{value: 18.5, currency: "EUR", order_quantity: 1}});
        wrapper.pintrk("track", "Checkout", {{order_id: "7", value: 18.5}});
    }}""")


async def test_an_unmodified_wrapper_calls_our_tag(page: Page, site: Site, recorder: Recorder, wrapper_js: str) -> None:
    site.scripts["/app.js"] = wrapper_js
    site.pages["/"] = site.tag('pintrk("setconsent", true);', load=False) + '<script src="/app.js"></script>'
    await page.goto(site.url)
    await use(page)
    await wrapped(recorder)


async def test_the_wrappers_own_stub_is_taken_over(page: Page, site: Site, recorder: Recorder, wrapper_js: str) -> None:
    """Where the wrapper comes first it asks for Pinterest's script, and makes the queue that ours then finds."""
    await page.route("https://s.pinimg.com/**", lambda route: route.abort())
    site.scripts["/app.js"] = wrapper_js
    site.pages["/"] = '<script src="/app.js"></script>'
    await page.goto(site.url)
    await use(page)
    await page.evaluate("pintrk('setconsent', true)")
    await page.add_script_tag(url=f"{site.collector_url}/tag.js")
    await wrapped(recorder)


async def wrapped(recorder: Recorder) -> None:
    sent = await recorder.carrying(event="Checkout")
    assert [event["event"].lower() for event in recorder.events] == ["init", "addtocart", "checkout"]
    assert recorder.events[1]["value"] == 18.5
    assert recorder.events[2]["order_id"] == "7"
    assert list(sent.body["user"]) == ["em"]
    assert sent.body["site"] == TAG_ID
