"""Everything that is not hot, and whatever the hot path hands over: routes in Starlette.

Every path is an `Endpoint`: it knows the methods, adds the CORS headers to whatever is answered, counts, and is the
one place where an unforeseen fault ends. What a request with events goes through is in `edge.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from msgspec.structs import replace
from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pinstream import metrics
from pinstream.collect import answer as answers
from pinstream.collect import body as bodies
from pinstream.collect import openapi
from pinstream.collect.answer import Answer
from pinstream.collect.commit import Committer
from pinstream.collect.edge import Edge, Head, Taken, count_answer
from pinstream.collect.popular import PATH as POPULAR
from pinstream.collect.popular import Shelf
from pinstream.collect.tagfiles import Offer, TagFiles, free_of
from pinstream.errors import LogError, Refused
from pinstream.settings import Collect

logger = logging.getLogger(__name__)

Run = Callable[[Request], Awaitable[Answer]]


def build(edge: Edge, committer: Committer, settings: Collect, tags_dir: Path | None = None) -> ASGIApp:
    """The edge as an ASGI app. `tags_dir`: where pinned versions of the tag are kept.

    Raises:
        Misconfigured: a path in the settings is one that means something else.
    """
    takes = Takes(edge, committer, settings.body_timeout_s)
    events: dict[str, Run] = {"POST": takes.events}
    pixel: dict[str, Run] = {"GET": takes.pixel, "HEAD": takes.pixel, "POST": takes.events}
    health: dict[str, Run] = {"GET": healthz, "HEAD": healthz}
    popular = Shelf(edge.gate).answer
    tag = TagFiles(settings.script_path, settings.endpoint_path, tags_dir)
    paths: list[tuple[str, str, Mapping[str, Run]]] = [
        ("/p/i", "events", events),
        ("/v1/events", "events", events),
        ("/v3/", "v3", pixel),
        ("/v3", "v3", pixel),
        ("/v1/engagements", "engagements", {"POST": takes.engagements}),
        (POPULAR, "popular", {"GET": popular, "HEAD": popular}),
        ("/healthz", "healthz", health),
        ("/openapi.json", "openapi", {"GET": openapi.answer, "HEAD": openapi.answer}),
    ]
    fixed = {path for path, _, _ in paths}
    free_of(fixed - {"/p/i"}, settings.script_path, settings.endpoint_path)
    if settings.endpoint_path not in fixed:
        paths.append((settings.endpoint_path, "events", events))
    for path, file in tag.paths.items():
        answer = Offer(file).answer
        paths.append((path, "tag", {"GET": answer, "HEAD": answer}))
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
        count_answer(self._route, found.status, scope.get("read_at"))
        metrics.flush()
        await _send(found, self._edge.cors(_head(request).origin, mirror=found.mirror), send)

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
        return replace(refusal, headers=[*refusal.headers, ("Allow", self._allow)])


async def _send(found: Answer, cors: bytes, send: Send) -> None:
    lines = answers.head_lines(found, cors).split(b"\r\n")[:-1]
    headers = [tuple(line.split(b": ", 1)) for line in lines]
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": found.body})


class Takes:
    """The endpoints that take events: read, ask the edge, commit, answer."""

    def __init__(self, edge: Edge, committer: Committer, body_timeout_s: float) -> None:
        self._edge = edge
        self._committer = committer
        self._body_timeout_s = body_timeout_s

    async def events(self, request: Request) -> Answer:
        """POST /p/i, /v1/events and /v3/."""
        return await self._with_body(request, self._edge.events)

    async def engagements(self, request: Request) -> Answer:
        """POST /v1/engagements."""
        return await self._with_body(request, self._edge.engagements)

    async def pixel(self, request: Request) -> Answer:
        """GET and HEAD /v3/."""
        request.scope["read_at"] = time.monotonic()
        return await self._commit(self._edge.pixel(_head(request)))

    async def _with_body(self, request: Request, take: Callable[[Head, bytes], Taken | Answer]) -> Answer:
        length = request.headers.get("content-length", "")
        try:
            body = await bodies.read(request.receive, length, self._body_timeout_s)
        except Refused as exc:
            return self._edge.refused(exc)
        except bodies.Gone:
            return answers.of_refusal("too_slow")
        request.scope["read_at"] = time.monotonic()
        return await self._commit(take(_head(request), body))

    async def _commit(self, taken: Taken | Answer) -> Answer:
        if isinstance(taken, Answer):
            return taken
        try:
            await self._committer.commit(taken.found.records)
        except LogError as exc:
            return self._edge.settle(taken, exc)
        return self._edge.settle(taken, None)


def _head(request: Request) -> Head:
    peer = request.client.host if request.client else ""
    return Head(request.url.path, request.scope["query_string"], request.scope["headers"], peer)


async def healthz(request: Request) -> Answer:
    """This process answers. Whether it can store events is `/readyz`, on the operations port."""
    return Answer(200, [("Content-Type", "application/json")], b'{"ok":true}')
