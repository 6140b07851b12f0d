"""A collector that only takes notes: what the tag sent, and how. And a site whose pages a test writes."""

from __future__ import annotations

import asyncio
import json
import time
from importlib.resources import files
from typing import Any

import pytest
from msgspec import Struct
from playwright.async_api import Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tests.browser.clock import pass_time

PATIENCE_S = 30.0  # a busy machine takes its time; what comes ends the wait at once
TAG_ID = "demo"

SHOP, ONE_SITE, TWO_SITES = "www.shop.localhost", "t.shop.localhost", "other.localhost"
"""Names of this machine's loopback for Chromium: a shop, a collector on the shop's site, and one on another site."""
both_places = pytest.mark.parametrize("collector_host", [ONE_SITE, TWO_SITES], indirect=True)
"""Run a test with the collector on the shop's site, where its cookie works, and on another, where it does not."""
in_browser = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


def cookie_domain(host: str) -> str:
    """Of the visitor's cookie: the shop's pages read it where the collector is on their site."""
    return "shop.localhost" if host == ONE_SITE else ""


STATIC = files("pinstream.collect") / "static"


class Sent(Struct):
    """One request of the tag."""

    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.body["events"]]


class Recorder:
    """Answers as the collector does: CORS for any origin, the visitor's cookie, and the statuses a test asks for."""

    def __init__(self, host: str) -> None:
        self.url = ""
        domain = cookie_domain(host)
        self._cookie = f"Path=/; SameSite=Lax; Secure{'; Domain=' if domain else ''}{domain}"
        self.sent: list[Sent] = []
        self.methods: list[str] = []
        self.statuses: list[int] = []
        """The next answers; when they are used up, 204."""
        self.retry_after = ""
        self.sets_cookie = False

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/p/i", self._take, methods=["GET", "POST", "OPTIONS"]),
                Route("/v1/popular", self._popular),
                Route("/{script:path}", self._script),
            ]
        )

    async def _script(self, request: Request) -> Response:
        script = STATIC / request.path_params["script"]
        anywhere = {"Access-Control-Allow-Origin": "*"}  # import() and workers ask with CORS
        return Response(script.read_bytes(), media_type="text/javascript", headers=anywhere)

    async def _popular(self, request: Request) -> Response:
        return JSONResponse({"products": {}, "pins": {}}, headers={"Access-Control-Allow-Origin": "*"})

    async def _take(self, request: Request) -> Response:
        self.methods.append(request.method)
        if request.method == "POST":
            self.sent.append(Sent(json.loads(await request.body()), dict(request.headers)))
        answer = Response(status_code=self.statuses.pop(0) if self.statuses else 204)
        answer.headers["Access-Control-Allow-Origin"] = request.headers.get("origin", "*")
        answer.headers["Access-Control-Allow-Credentials"] = "true"
        answer.headers["Access-Control-Expose-Headers"] = "Retry-After"
        answer.headers["Vary"] = "Origin"
        if self.retry_after and answer.status_code in (429, 503):
            answer.headers["Retry-After"] = self.retry_after
        if self.sets_cookie and request.method == "POST":
            withdrawn = self.sent[-1].body["consent"] == "no"
            visitor, age = ("", 0) if withdrawn else (self.sent[-1].body["visitor_id"], 390 * 86_400)
            answer.headers["Set-Cookie"] = f"ps_vid={visitor}; Max-Age={age}; {self._cookie}"
        return answer

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event sent, in the order of its time; one that was sent again stands here again."""
        return sorted((event for sent in self.sent for event in sent.body["events"]), key=lambda event: event["time"])

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]

    @property
    def counted(self) -> list[str]:
        """The names of all events as the server counts them: an id once, however often it came.

        What was sent when the page was left before the answer came may come again from the next page.
        """
        return [event["event"] for event in {event["event_id"]: event for event in self.events}.values()]

    async def carrying(self, **fields: Any) -> Sent:
        """Wait for a request with an event that has these fields: the first one."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for sent in self.sent:
                if any(fields == {key: event.get(key) for key in fields} for event in sent.body["events"]):
                    return sent
            assert time.monotonic() < deadline, f"waited for an event with {fields}, got {self.events}"
            await asyncio.sleep(0.02)

    async def until(self, *names: str) -> None:
        """Wait until these events have come, in this order of their times, among others. Fails after PATIENCE_S."""
        deadline = time.monotonic() + PATIENCE_S
        while not _holds(self.names, names):
            assert time.monotonic() < deadline, f"waited for {names}, got {self.names}"
            await asyncio.sleep(0.02)

    async def requests(self, count: int) -> list[Sent]:
        """Wait for so many requests of one page; they are all there are. Across pages one may come twice."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.sent) < count:
            assert time.monotonic() < deadline, f"waited for {count} requests, got {len(self.sent)}"
            await asyncio.sleep(0.02)
        assert len(self.sent) == count
        return self.sent

    async def stays_silent(self, page: Page, seconds: int = 60) -> None:
        """Nothing (more) comes for so long. The page must run `with_own_clock`."""
        before = len(self.sent)
        await pass_time(page, seconds)
        assert [sent.names for sent in self.sent[before:]] == []


def _holds(got: list[str], wanted: tuple[str, ...]) -> bool:
    rest = iter(got)
    return all(name in rest for name in wanted)


class Site:
    """A storefront, by path: what stands in a page's head, its Content-Security-Policy, and scripts of its own."""

    def __init__(self, collector_url: str) -> None:
        self.url = ""
        self.collector_url = collector_url
        self.pages: dict[str, str] = {"/": ""}
        self.policies: dict[str, str] = {}
        self.scripts: dict[str, str] = {}

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._page)])

    async def _page(self, request: Request) -> Response:
        path = request.url.path
        if path in self.scripts:
            return Response(self.scripts[path], media_type="text/javascript")
        head = self.pages.get(path, "")
        page = HTMLResponse(f"<!doctype html><title>Site</title><link rel=icon href=data:,><head>{head}</head>")
        if path in self.policies:
            page.headers["Content-Security-Policy"] = self.policies[path]
        return page

    def tag(self, calls: str = "", *, load: bool = True) -> str:
        """The stub of js/README.md, and then `calls`."""
        first = f'pintrk("load", "{TAG_ID}");' if load else ""
        return f"""<script>
          !function (w, d) {{
            if (w.pintrk) return;
            var p = w.pintrk = function () {{ p.queue.push(arguments) }};
            p.queue = []; p.version = "3.0";
            var s = d.createElement("script"); s.async = 1; s.src = "{self.collector_url}/tag.js";
            d.head.appendChild(s);
          }}(window, document);
          {first} {calls}
        </script>"""
