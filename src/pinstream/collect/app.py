"""The HTTP edge: routes, and what a request goes through. Small pure modules decide; this one reads and answers.

Every path is an `Endpoint`: it knows the methods, adds the CORS headers to whatever is answered, counts, and is the
one place where an unforeseen fault ends.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b, sha256
from importlib import resources
from typing import Final

from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pinstream import metrics
from pinstream.collect import answer as answers
from pinstream.collect import body as bodies
from pinstream.collect import engagements, intake, wire
from pinstream.collect.answer import Answer
from pinstream.collect.commit import Committer
from pinstream.collect.gate import NULL_ORIGIN, Gate, allows, client_ip, is_bot, networks
from pinstream.collect.intake import Intake
from pinstream.collect.stamp import Context
from pinstream.collect.wire import Wire
from pinstream.errors import LogError, Refused
from pinstream.event import REJECTED, Rejection, Source, encode
from pinstream.eventlog.contract import Record
from pinstream.settings import Collect
from pinstream.state.snapshot import Site

logger = logging.getLogger(__name__)

TAG_CACHE_S: Final = 300
MAX_FIELD_CHARS: Final = 256
MAX_QUERY_BYTES: Final = 60_000  # uvicorn's parser ends at 65,535 bytes, with an answer of its own

Clock = Callable[[], int]
"""Milliseconds since 1970."""

Run = Callable[[Request], Awaitable[Answer]]

_VISITOR = re.compile(rf"(?:^|;)\s*{answers.COOKIE}=([^;\s]*)")
_EPIK = re.compile(r"(?:^|;)\s*_epik=([^;\s]*)")


def build(gate: Gate, committer: Committer, settings: Collect, clock: Clock) -> ASGIApp:
    """The edge as an ASGI app."""
    edge = Edge(gate, committer, settings, clock)
    hot: dict[str, Run] = {"POST": edge.events}
    pixel: dict[str, Run] = {"GET": edge.pixel, "HEAD": edge.pixel, "POST": edge.events}
    tag, health = TagFile(), {"GET": healthz, "HEAD": healthz}
    paths: list[tuple[str, str, Mapping[str, Run]]] = [
        ("/p/i", "events", hot),
        ("/v1/events", "events", hot),
        ("/v3/", "v3", pixel),
        ("/v3", "v3", pixel),
        ("/v1/engagements", "engagements", {"POST": edge.engagements}),
        ("/tag.js", "tag", {"GET": tag.answer, "HEAD": tag.answer}),
        ("/healthz", "healthz", health),
    ]
    routes = [Route(path, Endpoint(edge, name, methods)) for path, name, methods in paths]
    return Router(routes, redirect_slashes=False, default=Endpoint(edge, "other", {}))


class Endpoint:
    """One path: its methods, and what is true of every answer."""

    def __init__(self, edge: Edge, route: str, methods: Mapping[str, Run]) -> None:
        """`route`: label of the metrics; a path without methods is not found."""
        self._edge = edge
        self._route = route
        self._methods = methods
        self._allow = ", ".join([*methods, "OPTIONS"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        found = await self._answer(request)
        metrics.REQUESTS.labels(self._route, str(found.status)).inc()
        if read_at := scope.get("read_at"):
            metrics.ANSWER_MS.observe((time.monotonic() - read_at) * 1000)
        await _send(found, self._edge.cors(request, found), send)

    async def _answer(self, request: Request) -> Answer:
        run = self._methods.get(request.method)
        pixel = self._route == "v3" and request.method in ("GET", "HEAD")
        try:
            found = await run(request) if run else self._other(request.method)
        except Exception:
            logger.exception("A request to %s failed for a reason nobody foresaw.", self._route)
            found = answers.FAULT
        return answers.as_pixel(found) if pixel else found

    def _other(self, method: str) -> Answer:
        if not self._methods:
            return answers.of_refusal("not_found")
        if method == "OPTIONS":
            return answers.PREFLIGHT
        refusal = answers.of_refusal("method_not_allowed")
        return refusal._replace(headers=[*refusal.headers, ("Allow", self._allow)])


async def _send(found: Answer, cors: answers.Headers, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in [*found.headers, *cors]]
    if found.status not in (204, 304):
        headers.append((b"content-length", str(len(found.body)).encode()))
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": found.body})


class Edge:
    """What the endpoints share: who may send, where records go, the time."""

    def __init__(self, gate: Gate, committer: Committer, settings: Collect, clock: Clock) -> None:
        self._gate = gate
        self._committer = committer
        self._settings = settings
        self._clock = clock
        self._proxies = networks(settings.trusted_proxies)
        self._allowance = Allowance(settings.reject_records_per_s)

    def cors(self, request: Request, found: Answer) -> answers.Headers:
        """The CORS headers for an answer to `request`."""
        origin = request.headers.get("origin")
        return answers.cors(origin, known=bool(origin) and found.mirror and self._gate.knows_origin(origin or ""))

    # --- endpoints ---

    async def events(self, request: Request) -> Answer:
        """POST /p/i, /v1/events and /v3/."""
        return await self._guarded(request, self._events)

    async def pixel(self, request: Request) -> Answer:
        """GET and HEAD /v3/."""
        return await self._guarded(request, self._pixel)

    async def engagements(self, request: Request) -> Answer:
        """POST /v1/engagements."""
        return await self._guarded(request, self._engagements)

    async def _guarded(self, request: Request, run: Run) -> Answer:
        """Answer what cannot be read; it counts as one event."""
        try:
            return await run(request)
        except Refused as exc:
            _count(intake.refused([""], exc.reason))
            refusal = answers.of_refused(exc)
            closing = [("Connection", "close")] if exc.reason in ("too_large", "too_slow") else []
            return refusal._replace(headers=[*refusal.headers, *closing])
        except bodies.Gone:
            return answers.of_refusal("too_slow")

    async def _events(self, request: Request) -> Answer:
        body = await self._body(request)
        if not body and request.url.path.startswith("/v3") and request.scope["query_string"]:
            return await self._pixel(request)
        return await self._take(request, wire.parse(request.headers.get("content-type", ""), body), body)

    async def _pixel(self, request: Request) -> Answer:
        query: bytes = request.scope["query_string"]
        if len(query) > MAX_QUERY_BYTES:
            raise Refused("too_long", f"A query has at most {MAX_QUERY_BYTES} bytes.")
        return await self._take(request, wire.parse_query(query), query)

    async def _engagements(self, request: Request) -> Answer:
        body = await self._body(request)
        key = self._gate.key(_presented_key(request))
        if key is None:
            raise Refused("bad_key", "The API key is missing or unknown.")
        tag_id, sent, consent = engagements.read(body)
        site = self._gate.site(tag_id)
        if site is None:
            found = intake.refused([""] * len(sent), "unknown_site", "$.site")
        elif key.site_id not in (0, site.id):
            found = intake.refused([""] * len(sent), "bad_key", "$.site")
        else:
            found = engagements.take(sent, consent, self._context(request, site, "api"), os.urandom)
        return await self._commit(found, site, body)

    async def _body(self, request: Request) -> bytes:
        length = request.headers.get("content-length", "")
        sent = await bodies.read(request.receive, length, self._settings.body_timeout_s)
        request.scope["read_at"] = time.monotonic()
        return bodies.inflate(sent, request.headers.get("content-encoding", ""))

    # --- from a request as read to its answer ---

    async def _take(self, request: Request, read: Wire, body: bytes) -> Answer:
        site = self._gate.site(read.envelope.site)
        reason = self._forbidden(request, site)
        if site is None or reason:
            found = intake.refused(read.event_ids, reason, "" if site else "$.site")
        else:
            found = intake.take(read, self._context(request, site, _source(request)), os.urandom)
        return await self._commit(found, site, body, cookies=request.headers.get("origin") != NULL_ORIGIN)

    def _forbidden(self, request: Request, site: Site | None) -> str:
        """The reason why a request may not speak for the site, or empty."""
        if site is None:
            return "unknown_site"
        presented = _presented_key(request) if request.url.path == "/v1/events" else ""
        if presented:
            key = self._gate.key(presented)
            return "" if key and key.site_id in (0, site.id) else "bad_key"
        return "" if allows(site, request.headers.get("origin")) else "wrong_origin"

    def _context(self, request: Request, site: Site, source: Source) -> Context:
        """What the edge knows about the sender. A server's own address and agent say nothing about the visitor."""
        headers = request.headers
        cookies = "" if headers.get("origin") == NULL_ORIGIN else headers.get("cookie", "")
        direct = source != "api"
        agent = headers.get("user-agent", "") if direct else ""
        peer = request.client.host if request.client else ""
        return Context(
            now_ms=self._clock(),
            site=site,
            ip=client_ip(peer, headers.get("x-forwarded-for", ""), self._proxies) if direct else "",
            user_agent=agent,
            language=headers.get("accept-language", "") if direct else "",
            visitor_cookie=_first(_VISITOR, cookies),
            epik_cookie=_first(_EPIK, cookies),
            opted_out=headers.get("sec-gpc") == "1" or headers.get("dnt") == "1",
            bot=is_bot(agent),
            source=source,
            suppressed=self._gate.suppressed,
        )

    async def _commit(self, found: Intake, site: Site | None, body: bytes, *, cookies: bool = True) -> Answer:
        asked = found
        if found.records:
            try:
                await self._committer.commit(found.records)
            except LogError as exc:
                reason = answers.log_reason(exc)
                named = getattr(exc, "records", None)
                part = None if named is None else intake.in_part(found, named, reason)
                if part is None:
                    _count(intake.refused([""] * len(found.outcomes), reason))
                    return answers.of_refusal(reason)
                found = part
        _count(found)
        if site:
            self._leave_rejections(asked, site, body)
        answer = answers.of_outcomes(found.outcomes)
        if site and cookies and found.visitor is not None:
            return answer._replace(headers=[*answer.headers, answers.set_cookie(found.visitor, site)])
        return answer

    def _leave_rejections(self, found: Intake, site: Site, body: bytes) -> None:
        """Note what was refused, never what it said. Nobody waits for it: a refusal must not depend on the log."""
        now_ms = self._clock()
        refused = [outcome for outcome in found.outcomes if outcome.status == "refused"]
        granted = self._allowance.take(len(refused), now_ms)
        if not granted:
            return
        payload_hash = blake2b(body, key=self._gate.snapshot.payload_key, digest_size=16).hexdigest()
        rejections = [
            Rejection(
                received_ms=now_ms,
                reason=outcome.reason,
                step="collect",
                site_id=site.id,
                field=outcome.field[:MAX_FIELD_CHARS],
                size_bytes=len(body),
                payload_hash=payload_hash,
            )
            for outcome in refused[:granted]
        ]
        self._committer.leave([Record(REJECTED, 0, encode(rejection)) for rejection in rejections])


class Allowance:
    """So many a second, at most."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._second = -1
        self._left = 0

    def take(self, wanted: int, now_ms: int) -> int:
        """How many of `wanted` are granted now."""
        if now_ms // 1000 != self._second:
            self._second, self._left = now_ms // 1000, self._per_s
        granted = min(wanted, self._left)
        self._left -= granted
        return granted


def _count(found: Intake) -> None:
    """received = durable + dropped + refused, for every request."""
    metrics.RECEIVED.inc(len(found.outcomes) + found.implied)
    if found.implied:
        metrics.DURABLE.inc()
    for (status, reason), count in Counter((outcome.status, outcome.reason) for outcome in found.outcomes).items():
        match status:
            case "durable":
                metrics.DURABLE.inc(count)
            case "dropped":
                metrics.DROPPED.labels(reason).inc(count)
            case "refused":
                metrics.REFUSED.labels(reason).inc(count)


def _source(request: Request) -> Source:
    """Where events come from: Pinterest's pixel form, a browser (it names its origin), or a server."""
    if request.url.path.startswith("/v3"):
        return "pinterest"
    if request.url.path == "/v1/events" and "origin" not in request.headers:
        return "api"
    return "tag"


def _presented_key(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


async def healthz(request: Request) -> Answer:
    """This process answers. Whether it can store events is `/readyz`, on the operations port."""
    return Answer(200, [("Content-Type", "application/json")], b'{"ok":true}')


class TagFile:
    """The tag, as it is shipped in this package."""

    def __init__(self) -> None:
        self._bytes = resources.files("pinstream.collect").joinpath("static/tag.js").read_bytes()
        self._etag = f'"{sha256(self._bytes).hexdigest()[:32]}"'

    async def answer(self, request: Request) -> Answer:
        """GET /tag.js; 304 if the browser has this version."""
        headers = [("ETag", self._etag), ("Cache-Control", f"public, max-age={TAG_CACHE_S}")]
        if self._etag in request.headers.get("if-none-match", ""):
            return Answer(304, headers)
        return Answer(200, [*headers, ("Content-Type", "text/javascript; charset=utf-8")], self._bytes)
