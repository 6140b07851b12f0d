"""`scripts/bench tag`: what the tag costs a page, and what leaving a page costs the tag, beside others from npm.

The same for all. *Leaves*: a page is opened, tells one event and is left in the same task; what is kept in the browser
is thrown away before the next page, so only what leaves with the page counts. *Main thread*: the page is opened under
tracing, with the processor slowed down to a quarter.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import shutil
import sqlite3
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, Page, async_playwright
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from loadtests.bench import report, scripttime, servers, traffic
from loadtests.bench.collect import progress, workplace
from loadtests.bench.parts import Fault, need
from loadtests.bench.processes import cores
from loadtests.bench.scripttime import ScriptTime
from loadtests.bench.sink import Sink, ids
from pinstream.serving import serving

SHOP: Final = "www.shop.localhost"
COLLECTOR: Final = "t.shop.localhost"
"""Names of this machine for Chromium: two hosts of one site."""
PLACE: Final = servers.PEERS / "tags"
PEERS: Final = ("plausible", "snowplow", "segment", "amplitude", "posthog", "mixpanel")
TABS: Final = 3
SLOWER: Final = 4
OPENINGS: Final = 9
QUIET_S: Final = 10.0
"""After this long without a new event no more come."""
STAYS: Final = 1_000_000
"""Number of the event of a page that is not left: it must arrive, or the figures would say nothing."""
PATIENCE_S: Final = 30.0
SETTLE_MS: Final = 2000
"""How long a traced page is looked at after it has loaded: batches go after a second."""
ARGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-blink-features=AutomationControlled",  # some peers stay silent where a program drives the browser
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE *.localhost",  # some peers also ask their makers' hosts
    f"--user-agent={traffic.AGENTS[5]}",  # headless Chromium's own is a crawler's, and the collector believes it
)
KINDS: Final = ("pagevisit", "addtocart", "search", "checkout")
WAYS: Final = (
    "document.querySelector('a').click()",
    "location.href = '/gone'",
    "document.querySelector('form').submit()",
    "location.replace('/gone')",
    "",  # the tab is closed
)

_OURS: Final = """<script>
!function (w, d) {
  var p = w.pintrk = function () { p.queue.push(arguments) };
  p.queue = []; p.version = "3.0";
  var s = d.createElement("script"); s.async = 1; s.src = "%s";
  d.head.appendChild(s);
}(window, document);
pintrk("setconsent", true);
pintrk("load", "%s", {em: "ada@example.com"});
pintrk("page");
function tell(id, kind) { pintrk("track", kind, {event_id: id, value: 18.5, currency: "EUR"}) }
</script>"""


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    leaves: int
    peer_leaves: int
    peers: Sequence[str]
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Tag:
    """A tag to measure: what stands in a page's head, its script, and what of its events has arrived so far."""

    head: str
    address: str
    script: bytes
    live: str
    """Of JavaScript: it runs."""
    seen: Callable[[], Counter[int]]


@dataclass(frozen=True)
class Figures:
    """What was seen of one tag. `again`: events that came more than once."""

    gz_bytes: int
    leaves: int
    lost: int
    again: int
    openings: Sequence[ScriptTime]

    @property
    def summary(self) -> dict[str, Any]:
        return {
            "page_leaves": self.leaves,
            "lost": self.lost,
            "again": self.again,
            "main_thread_ms_4x": round(statistics.median(each.load_ms for each in self.openings), 1),
            "main_thread_least_ms_4x": round(min(each.load_ms for each in self.openings), 1),
            "main_thread_with_batch_ms_4x": round(statistics.median(each.total_ms for each in self.openings), 1),
            "long_tasks": sum(each.long_tasks for each in self.openings),
            "gz_bytes": self.gz_bytes,
        }


def run(options: Options) -> dict[str, Figures]:
    """Measure ours, and each peer.

    Raises:
        Fault: something is missing, does not start, or a tag does not run.
    """
    need("taskset", "chromium", *(["npm"] if options.peers else []))
    bundles = _bundles(options.peers)
    with workplace() as home:
        return asyncio.run(_run(options, bundles, home))


def _bundles(peers: Sequence[str]) -> dict[str, bytes]:
    """Each peer as one script: what npm has in the versions of the lock file, put together by esbuild."""
    if peers:
        progress("installing the peers' packages")
        _do(["npm", "ci", "--silent", "--no-audit", "--no-fund"])
    options = ["--bundle", "--minify", "--format=iife", "--target=es2020", "--log-level=error"]
    return {name: _do(["node_modules/.bin/esbuild", f"{name}.js", *options]) for name in peers}


def _do(command: Sequence[str]) -> bytes:
    done = subprocess.run(command, cwd=PLACE, capture_output=True, check=False)
    if done.returncode:
        raise Fault(f"`{' '.join(command)}` failed: {done.stderr.decode(errors='replace')[-1000:]}")
    return done.stdout


async def _run(options: Options, bundles: Mapping[str, bytes], home: Path) -> dict[str, Figures]:
    settings = {"log.kind": "journal", **options.settings}
    found: dict[str, Figures] = {}
    async with AsyncExitStack() as stack:
        browser = await (await stack.enter_async_context(async_playwright())).chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGS
        )
        stack.push_async_callback(browser.close)
        collect = stack.enter_context(servers.ours(home / "ours", cores()[0], "", settings, origin="*"))
        address = f"http://{COLLECTOR}:{collect.port}/tag.js"
        script = (files("pinstream.collect") / "static" / "tag.js").read_bytes()
        head = _OURS % (address, traffic.SITE)
        journal = home / "ours" / "data" / "journal"
        ours = Tag(head, address, script, "pintrk.live", lambda: durable(journal))
        found["ours"] = await _measure("ours", ours, browser, options.leaves)
        for name, bundle in bundles.items():
            sink = Sink(bundle)
            port = await stack.enter_async_context(serving(sink.app(), "127.0.0.1", 0, lifespan="off"))
            address = f"http://{COLLECTOR}:{port}/peer.js"
            head = f'<script async src="{address}"></script>'
            peer = Tag(head, address, bundle, "!!window.tell", lambda sink=sink: sink.seen)  # type: ignore[misc]
            found[name] = await _measure(name, peer, browser, options.peer_leaves)
    return found


def durable(journal: Path) -> Counter[int]:
    """The numbers of the leaves whose event is in the journal, read past the code under test."""
    found: Counter[int] = Counter()
    for file in journal.glob("*.journal"):
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            for (value,) in connection.execute("SELECT value FROM record WHERE topic = ?", (servers.EVENTS,)):
                found.update(ids(value))
    return found


# --- one tag ---------------------------------------------------------------------------------------


async def _measure(name: str, tag: Tag, browser: Browser, leaves: int) -> Figures:
    async with serving(_site(tag.head), "127.0.0.1", 0, lifespan="off") as port:
        shop = f"http://{SHOP}:{port}"
        started = time.monotonic()
        await _stay(browser, shop, tag, name)
        openings = [await _opening(browser, shop, tag) for _ in range(OPENINGS)]
        pending = iter(range(leaves))
        await asyncio.gather(*(_visitor(browser, shop, tag, pending, leaves) for _ in range(min(TABS, leaves))))
        seen = await _settled(tag, leaves)
    made = Figures(
        gz_bytes=len(gzip.compress(tag.script, 9)),
        leaves=leaves,
        lost=sum(number not in seen for number in range(leaves)),
        again=sum(count > 1 for number, count in seen.items() if number != STAYS),
        openings=openings,
    )
    progress(f"{name:9}  {json.dumps(made.summary)}  {time.monotonic() - started:.0f} s")
    return made


def _site(head: str) -> Starlette:
    """A storefront. The pages that are left, and the one behind them, forget what was kept."""
    forget = "<script>localStorage.clear(); sessionStorage.clear()</script>"
    top = "<!doctype html><title>Shop</title><link rel=icon href=data:,>"
    body = '<p><a href="/gone">Next</a><form action="/gone"></form>'
    pages = {"/new": f"{top}{head}{body}", "/left": f"{top}{forget}{head}{body}", "/gone": f"{top}{forget}<p>Gone"}

    async def page(request: Request) -> Response:
        return HTMLResponse(pages[request.url.path])

    return Starlette(routes=[Route(path, page) for path in pages])


async def _stay(browser: Browser, shop: str, tag: Tag, name: str) -> None:
    """Tell an event and wait for it. Raises Fault if it does not arrive: then nothing else would either."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{shop}/new")
    await page.wait_for_function(tag.live)
    await page.evaluate(f"() => {{ {_told(STAYS)} }}")
    deadline = time.monotonic() + PATIENCE_S
    while STAYS not in tag.seen():
        if time.monotonic() > deadline:
            raise Fault(f"{name}: no event arrives, even when the page stays.")
        await asyncio.sleep(0.2)
    await context.close()


def _told(number: int) -> str:
    """JavaScript."""
    return f"tell('bench-leave-{number}', '{KINDS[number % len(KINDS)]}')"


async def _opening(browser: Browser, shop: str, tag: Tag) -> ScriptTime:
    """Open a page as a new visitor, slowed down, under tracing."""
    context = await browser.new_context()
    try:
        page = await context.new_page()
        session = await context.new_cdp_session(page)
        await session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
        await browser.start_tracing(page=page, categories=list(scripttime.CATEGORIES))
        await page.goto(f"{shop}/new")
        await page.wait_for_timeout(SETTLE_MS)
        trace = json.loads(await browser.stop_tracing())["traceEvents"]
    finally:
        await context.close()
    try:
        return scripttime.of(trace, tag.address)
    except ValueError as exc:
        raise Fault(str(exc)) from exc


async def _visitor(browser: Browser, shop: str, tag: Tag, pending: Any, leaves: int) -> None:
    """Opens pages and leaves them until none is pending."""
    context = await browser.new_context()
    page = await context.new_page()
    for number in pending:
        page = await _leave(page, shop, tag, number)
        if number and number % 100 == 0:
            progress(f"           {number} of {leaves} leaves")
    await context.close()


async def _leave(page: Page, shop: str, tag: Tag, number: int) -> Page:
    """Tell an event, and be gone. Gives the tab for the next one."""
    way = WAYS[number % len(WAYS)]
    await page.goto(f"{shop}/left")
    await page.wait_for_function(tag.live)
    told = _told(number)
    if way:
        async with page.expect_navigation(url="**/gone*"):
            await page.evaluate(f"() => {{ {told}; {way} }}")
        return page
    after = await page.context.new_page()
    await page.evaluate(f"() => {{ {told} }}")
    await page.close()
    return after


async def _settled(tag: Tag, leaves: int) -> Counter[int]:
    """What has arrived, once all has or nothing more comes."""
    seen, deadline = tag.seen(), time.monotonic() + QUIET_S
    while len(seen) <= leaves and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        more = tag.seen()
        if len(more) > len(seen):
            deadline = time.monotonic() + QUIET_S
        seen = Counter(more)
    return seen


# --- for people ------------------------------------------------------------------------------------

LOST_PERCENT: Final = 0.5
MAIN_THREAD_MS: Final = 10.0


def result(found: Mapping[str, Figures]) -> dict[str, Any]:
    """The JSON object."""
    peers = {name: each.summary for name, each in found.items() if name != "ours"}
    return {**found["ours"].summary, "peers": peers}


def shown(found: Mapping[str, Figures]) -> str:
    """The figures and the goals, in Markdown."""
    rows = [
        [
            "tag",
            "bytes gz",
            "leaves",
            "lost",
            "lost %",
            "twice",
            "main thread ms",
            "least",
            "with the batch",
            "long tasks",
        ]
    ]
    for name, each in found.items():
        one = each.summary
        rows.append(
            [
                "**pinstream**" if name == "ours" else name,
                f"{one['gz_bytes']:,}",
                f"{one['page_leaves']:,}",
                f"{one['lost']:,}",
                f"{100 * each.lost / each.leaves:.1f}",
                f"{one['again']:,}",
                f"{one['main_thread_ms_4x']:.1f}",
                f"{one['main_thread_least_ms_4x']:.1f}",
                f"{one['main_thread_with_batch_ms_4x']:.1f}",
                f"{one['long_tasks']:,}",
            ]
        )
    ours = found["ours"]
    lost, main_ms = 100 * ours.lost / ours.leaves, ours.summary["main_thread_ms_4x"]
    goals = [
        ["goal", "wanted", "measured", "verdict"],
        ["lost, %", f"<= {LOST_PERCENT:g}", f"{lost:.2f}", "met" if lost <= LOST_PERCENT else "missed"],
        [
            "main thread, ms",
            f"<= {MAIN_THREAD_MS:g}",
            f"{main_ms:.1f}",
            "met" if main_ms <= MAIN_THREAD_MS else "missed",
        ],
    ]
    return "\n".join([*report.markdown(rows), "", *report.markdown(goals)])
