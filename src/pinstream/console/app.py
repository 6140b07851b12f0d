"""The admin API: lists. No pages.

Whoever asks presents an API key that may import (`pinstream keys create --may-import`), and sees the lists of its site.
docs/http-api.md describes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pinstream.collect import body as bodies
from pinstream.collect.gate import presented_key
from pinstream.collect.values import an_object, decode_json, text
from pinstream.collect.wire import MAX_SITE_CHARS
from pinstream.errors import PinstreamError, Refused, StateError, WarehouseAway
from pinstream.event import REASONS
from pinstream.history.lists import Lists, read
from pinstream.state.snapshot import Key, Site
from pinstream.state.store import MAX_NAME, MemberList, Store

logger = logging.getLogger(__name__)

BODY_S: Final = 30.0
METHOD_NOT_ALLOWED: Final = 405
MAX_NAMED: Final = 100  # refused identifiers that an answer names; it counts all

Clock = Callable[[], int]
"""Milliseconds since 1970."""


class Api:
    """The routes."""

    def __init__(self, store: Store, lists: Lists, clock: Clock) -> None:
        self._store = store
        self._lists = lists
        self._clock = clock

    async def lists(self, request: Request) -> Response:
        """/v1/lists"""
        return await (self._make if request.method == "POST" else self._all)(request)

    async def _all(self, request: Request) -> Response:
        """GET /v1/lists?site="""
        key = await self._key(request)
        site = await self._site(key, request.query_params.get("site"))
        found = await self._lists.all(site.id)
        return JSONResponse({"lists": [{"id": each.id, "name": each.name, "members": each.members} for each in found]})

    async def _make(self, request: Request) -> Response:
        """POST /v1/lists"""
        key = await self._key(request)
        sent = await _body(request)
        site = await self._site(key, sent.get("site"))
        name = text(sent.get("name") or "", "$.name", MAX_NAME)
        made = await asyncio.to_thread(self._store.add_list, site_id=site.id, name=name, now_ms=self._clock())
        return JSONResponse({"id": made.id, "name": made.name}, 201)

    async def change(self, request: Request) -> Response:
        """POST /v1/lists/{id}/members"""
        key = await self._key(request)
        site, target = await self._list(key, request.path_params["id"])
        sent = await _body(request)
        if not sent or sent.keys() - {"add", "remove"}:
            raise Refused("bad_value", "Say whom to `add` and whom to `remove`.", field="$")
        add, bad = read(an_object(sent.get("add") or {}, "$.add"), site.phone_region, "$.add")
        remove, worse = read(an_object(sent.get("remove") or {}, "$.remove"), site.phone_region, "$.remove")
        refused = [*bad, *worse]
        await self._lists.remove(target, remove)
        gone = await self._lists.add(target, add)
        answer = {
            "added": sum(member not in gone for member in add),
            "removed": len(remove),
            "suppressed": sum(member in gone for member in add),
            "refused": len(refused),
            "results": [
                {"field": each.field, "reason": each.reason, "hint": str(each)} for each in refused[:MAX_NAMED]
            ],
        }
        return JSONResponse(answer, 200 if add or remove else 400)

    async def drop(self, request: Request) -> Response:
        """DELETE /v1/lists/{id}"""
        key = await self._key(request)
        _, target = await self._list(key, request.path_params["id"])
        await self._lists.drop(target)
        return Response(status_code=204)

    async def _key(self, request: Request) -> Key:
        presented = presented_key(request.headers.get("authorization", ""), request.headers.get("x-api-key", ""))
        key = await asyncio.to_thread(self._store.key, presented)
        if key is None or not key.may_import:
            raise Refused("bad_key", REASONS["bad_key"][1])
        return key

    async def _site(self, key: Key, tag_id: Any) -> Site:
        if not tag_id:
            raise Refused("missing_field", "The request names no site.", field="$.site")
        wanted = text(tag_id, "$.site", MAX_SITE_CHARS)
        site = next((each for each in await asyncio.to_thread(self._store.sites) if each.tag_id == wanted), None)
        if site is None:
            raise Refused("unknown_site", REASONS["unknown_site"][1], field="$.site")
        if key.site_id not in (0, site.id):
            raise Refused("bad_key", REASONS["bad_key"][1], field="$.site")
        return site

    async def _list(self, key: Key, list_id: int) -> tuple[Site, MemberList]:
        """A list that the key may see; any other one is not there."""
        lists = await asyncio.to_thread(self._store.lists, site_id=key.site_id or None)
        found = next((each for each in lists if each.id == list_id), None)
        if found is None:
            raise Refused("not_found", f"There is no list {list_id}.")
        sites = await asyncio.to_thread(self._store.sites)
        return next(site for site in sites if site.id == found.site_id), found


async def _body(request: Request) -> Mapping[str, Any]:
    try:
        sent = await bodies.read(request.receive, request.headers.get("content-length", ""), BODY_S)
    except bodies.Gone as exc:
        raise Refused("too_slow", "The client went away.") from exc
    sent = bodies.inflate(sent, request.headers.get("content-encoding", ""))
    if not sent.strip():
        raise Refused("empty_body", "The request has no body.")
    return an_object(decode_json(sent), "$")


def build(store: Store, lists: Lists, clock: Clock) -> Starlette:
    """The API as an ASGI app."""
    api = Api(store, lists, clock)
    return Starlette(
        routes=[
            Route("/v1/lists", _answering(api.lists), methods=["GET", "POST"]),
            Route("/v1/lists/{id:int}/members", _answering(api.change), methods=["POST"]),
            Route("/v1/lists/{id:int}", _answering(api.drop), methods=["DELETE"]),
            Route("/healthz", healthz, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _unrouted},  # type: ignore[dict-item]  # narrower than Exception
    )


def _answering(run: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The route, with what goes wrong as an answer of the closed list."""

    async def route(request: Request) -> Response:
        try:
            return await run(request)
        except Refused as exc:
            return _refusal(exc.reason, str(exc), exc.field)
        except (StateError, WarehouseAway) as exc:
            logger.warning("%s", exc)
            return _refusal(exc.reason)
        except PinstreamError:
            logger.exception("A request to %s failed.", request.url.path)
            return _refusal("warehouse")

    return route


async def _unrouted(request: Request, exc: HTTPException) -> Response:
    """A path or a method that is not there."""
    answer = _refusal("method_not_allowed" if exc.status_code == METHOD_NOT_ALLOWED else "not_found")
    answer.headers.update(exc.headers or {})
    return answer


def _refusal(reason: str, hint: str = "", field: str = "") -> Response:
    status, sentence = REASONS[reason]
    headers = {"Retry-After": "5"} if reason in ("state_away", "warehouse_away") else {}
    return JSONResponse({"reason": reason, "field": field, "hint": hint or sentence}, status, headers)


async def healthz(request: Request) -> Response:
    """This process answers."""
    return JSONResponse({"ok": True})
