"""A fake Pinterest API v5: `python -m pinstream.pinterest.fake --port 8091`. For tests, demos and trying things out.

Every request and every answer is checked against Pinterest's own description (openapi/openapi.yaml). A request
that breaks it gets Pinterest's error body and what was wrong; an answer of ours that breaks it is a 500 and
counted. Stricter than the description in one way: a field it does not name is refused (`list_type` on a
PATCH is the known trap). It behaves as Pinterest's pages say:

- a list is a set of hashes; plain e-mails are hashed on arrival; counters count attempts, not people
- a list is PROCESSING for a while after a change, then READY or TOO_SMALL; its audience follows it
- everybody in a list has a Pinterest account, so an audience's size is its list's
- REMOVE by PATCH is how an audience is deleted; the list stays

Where Pinterest's description is silent (codes of a 404, which of two orders is the default), the choice is ours.

Beside /v5, for tests only and without a token:

| call | does |
|---|---|
| GET /_fake/lists | every list: id, name, counters, members (sorted) |
| GET /_fake/lists/{id}/members | `{"members": [...]}`, sorted |
| GET /_fake/audiences | every audience, as the API shows it |
| GET /_fake/calls | the last MAX_CALLS calls (operation, status, records, plain e-mails among them) and totals |
| POST /_fake/faults | the next calls go wrong, see `Fault` |
| POST /_fake/clock | `{"advance_s": 60}`: time goes on, so lists become ready |
| POST /_fake/reset | forget lists, audiences, calls and faults; `invalid_answers` stays |
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta, Struct
from openapi_core import OpenAPI
from openapi_core.configurations import Config
from openapi_core.contrib.starlette import StarletteOpenAPIRequest, StarletteOpenAPIResponse
from openapi_core.exceptions import OpenAPIError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pinstream.pinterest.fakeworld import INVALID, Page, Problem, World, position_of, records
from pinstream.serving import serving

logger = logging.getLogger(__name__)

T = TypeVar("T")

AD_ACCOUNT_ID: Final = "549755885175"
"""The ad account that exists unless others are named."""
PREFIX: Final = "/v5"

MAX_BODY_BYTES: Final = 8 << 20
MAX_CALLS: Final = 1000
"""Kept for /_fake/calls; older ones are forgotten."""
MAX_FAULTS: Final = 100

# Pinterest's codes where its description or pages name one, else the HTTP status is the code.
_AUTHENTICATION: Final = 2
_RATE_LIMITED: Final = 8
_NO_ACCESS: Final = 29
_UNAVAILABLE: Final = 4197


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of /_fake/faults: what shall go wrong with the next `count` calls of `operation` ("*": of any).

    rate_limited: 429. unavailable: 503. drop_before: the connection is cut and nothing is done. drop_after: it
    is done, then the connection is cut. slow: done after `ms`.
    """

    kind: Literal["rate_limited", "unavailable", "drop_before", "drop_after", "slow"]
    operation: str = "*"
    count: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    retry_after_s: Annotated[float, Meta(ge=0, le=86_400)] | None = 1
    """Of rate_limited; null leaves the header out."""
    ms: Annotated[int, Meta(ge=0, le=600_000)] = 0
    """Of slow: how long the call waits before it is done."""


class Advance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of /_fake/clock."""

    advance_s: Annotated[float, Meta(ge=0, le=1e9)]


class Call(Struct, kw_only=True):
    """One call, as /_fake/calls shows it."""

    operation: str
    status: int = 0
    """0: the connection was cut instead."""
    records: int = 0
    plain: int = 0
    message: str = ""


class Dropped(Exception):
    """The connection is to be cut without an answer."""


@dataclass
class Fake:
    """One fake Pinterest: what it remembers, what was asked, what shall go wrong."""

    world: World
    token: str = ""
    """The only token accepted; empty = any."""
    ad_account_ids: tuple[str, ...] = (AD_ACCOUNT_ID,)
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=MAX_CALLS))
    faults: list[Fault] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    """Calls by "operation status"."""
    invalid_requests: int = 0
    invalid_answers: int = 0
    advanced_s: float = 0
    resets: int = 0

    def now(self) -> float:
        """Unix seconds, plus what /_fake/clock added."""
        return time.time() + self.advanced_s

    def take_fault(self, operation: str) -> Fault | None:
        """The oldest fault meant for `operation`, its count lowered by one."""
        for position, fault in enumerate(self.faults):
            if fault.operation in ("*", operation):
                left = msgspec.structs.replace(fault, count=fault.count - 1)
                self.faults[position : position + 1] = [left] if left.count else []
                return fault
        return None

    def note(self, call: Call) -> None:
        """Remember a finished call."""
        self.calls.append(call)
        self.totals[f"{call.operation} {call.status}"] += 1

    def reset(self) -> None:
        """Forget all but `invalid_answers`, which is a fault of this program."""
        self.world.reset()
        self.calls.clear()
        self.faults.clear()
        self.totals.clear()
        self.invalid_requests = 0
        self.resets += 1


# What each operation does: (fake, request, decoded body, notes) -> answer


def _create_list(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    given = records(body["records"])
    call.records, call.plain = given.attempts, given.plain
    return fake.world.create_list(_account(request), body["name"], given, fake.now())


def _change_list(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    given = records(body["records"])
    call.records, call.plain = given.attempts, given.plain
    list_id, operation = request.path_params["customer_list_id"], body["operation_type"]
    return fake.world.change_list(_account(request), list_id, operation, given, fake.now())


def _get_list(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    return fake.world.list_of(_account(request), request.path_params["customer_list_id"], fake.now())


def _lists(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    return fake.world.lists(_account(request), _page(request), fake.now())


def _create_audience(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    return fake.world.create_audience(_account(request), body, fake.now())


def _change_audience(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    return fake.world.change_audience(_account(request), request.path_params["audience_id"], body, fake.now())


def _get_audience(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    return fake.world.audience_of(_account(request), request.path_params["audience_id"], fake.now())


def _audiences(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    if request.query_params.get("ownership_type") == "RECEIVED":
        return {"items": [], "bookmark": None}
    return fake.world.audiences(_account(request), _page(request), fake.now())


def _ad_accounts(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    return {"items": [_ad_account(identifier) for identifier in fake.ad_account_ids], "bookmark": None}


def _get_ad_account(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    return _ad_account(_account(request))


def _user_account(fake: Fake, request: Request, body: dict[str, Any], call: Call) -> dict[str, Any]:
    return {"id": "549755885000", "username": "fakeshop", "account_type": "BUSINESS", "business_name": "Fake shop"}


Act = Callable[[Fake, Request, dict[str, Any], Call], dict[str, Any]]

SERVED: Final[dict[tuple[str, str], tuple[str, Act]]] = {
    ("POST", "/ad_accounts/{ad_account_id}/customer_lists"): ("customer_lists/create", _create_list),
    ("GET", "/ad_accounts/{ad_account_id}/customer_lists"): ("customer_lists/list", _lists),
    ("GET", "/ad_accounts/{ad_account_id}/customer_lists/{customer_list_id}"): ("customer_lists/get", _get_list),
    ("PATCH", "/ad_accounts/{ad_account_id}/customer_lists/{customer_list_id}"): (
        "customer_lists/update",
        _change_list,
    ),
    ("POST", "/ad_accounts/{ad_account_id}/audiences"): ("audiences/create", _create_audience),
    ("GET", "/ad_accounts/{ad_account_id}/audiences"): ("audiences/list", _audiences),
    ("GET", "/ad_accounts/{ad_account_id}/audiences/{audience_id}"): ("audiences/get", _get_audience),
    ("PATCH", "/ad_accounts/{ad_account_id}/audiences/{audience_id}"): ("audiences/update", _change_audience),
    ("GET", "/ad_accounts"): ("ad_accounts/list", _ad_accounts),
    ("GET", "/ad_accounts/{ad_account_id}"): ("ad_accounts/get", _get_ad_account),
    ("GET", "/user_account"): ("user_account/get", _user_account),
}
"""(method, path) of the description -> (its operationId, what it does)."""


def _account(request: Request) -> str:
    return str(request.path_params["ad_account_id"])


def _ad_account(identifier: str) -> dict[str, Any]:
    owner = {"id": "549755885000", "username": "fakeshop"}
    return {
        "id": identifier,
        "name": "Fake shop",
        "country": "US",
        "currency": "USD",
        "owner": owner,
        "permissions": ["OWNER"],
    }


def _page(request: Request) -> Page:
    query = request.query_params
    descending = query.get("order") == "DESCENDING"
    return Page(int(query.get("page_size", "25")), descending, position_of(query.get("bookmark", "")))


# The description


@cache
def description() -> dict[str, Any]:
    """Pinterest's description, cut down to what is served here, without the tokens' scopes: those are not faked."""
    text = resources.files("pinstream.pinterest").joinpath("openapi/openapi.yaml").read_text(encoding="utf-8")
    whole: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    paths: dict[str, Any] = {}
    for method, path in SERVED:
        operation = {**whole["paths"][path][method.lower()], "security": []}
        paths.setdefault(path, {})[method.lower()] = operation
    return {**whole, "paths": paths, "servers": [{"url": PREFIX}]}


@cache
def _openapi() -> OpenAPI:
    return OpenAPI.from_dict(description(), config=Config(spec_validator_cls=None))


@cache
def documented_fields(method: str, path: str) -> frozenset[str]:
    """Names that the body of an operation may have at its top level."""
    operation = description()["paths"][path][method.lower()]
    if "requestBody" not in operation:
        return frozenset()
    return frozenset(_properties(operation["requestBody"]["content"]["application/json"]["schema"]))


def _properties(schema: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        kind, name = schema["$ref"].split("/")[-2:]
        return _properties(description()["components"][kind][name])
    inherited = (_properties(part) for part in schema.get("allOf", ()))
    return set(schema.get("properties", ())).union(*inherited)


def fault_of_request(request: Request, body: bytes) -> str:
    """What in `request` breaks the description; empty if nothing does."""
    try:
        _openapi().validate_request(StarletteOpenAPIRequest(request, body))
    except OpenAPIError as exc:
        return _sentence(exc)
    return ""


def fault_of_answer(request: Request, body: bytes, response: Response) -> str:
    """What in `response` breaks the description; empty if nothing does."""
    try:
        _openapi().validate_response(StarletteOpenAPIRequest(request, body), StarletteOpenAPIResponse(response))
    except OpenAPIError as exc:
        return _sentence(exc)
    return ""


def _sentence(exc: BaseException) -> str:
    """The innermost cause, short: jsonschema likes to quote the whole value."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    errors = getattr(exc, "schema_errors", ())
    parts = [f"{'.'.join(map(str, error.path)) or 'body'}: {error.message[-200:]}" for error in errors]
    return "; ".join(parts)[:600] or f"{type(exc).__name__}: {exc}"[:300]


# One call


def _endpoint(fake: Fake, method: str, path: str) -> Route:
    operation, act = SERVED[method, path]

    async def endpoint(request: Request) -> Response:
        call = Call(operation=operation)
        try:
            response = await _answer(fake, request, act, call)
            call.status = response.status_code
            return response
        except Dropped:
            return await _cut(request)
        finally:
            fake.note(call)

    return Route(PREFIX + path, endpoint, methods=[method])


async def _answer(fake: Fake, request: Request, act: Act, call: Call) -> Response:
    fault = fake.take_fault(call.operation)
    raw, resets = b"", fake.resets
    try:
        raw = await _body(request)
        await _go_wrong(fault)
        if fake.resets != resets:
            raise Dropped  # it was meant for what was forgotten meanwhile
        _check_access(fake, request)
        body = _checked(fake, request, raw)
        response: Response = JSONResponse(act(fake, request, body, call))
    except Problem as problem:
        call.message = problem.message
        response = _error(problem)
    if fault is not None and fault.kind == "drop_after":
        raise Dropped
    return _proven(fake, request, raw, response)


async def _go_wrong(fault: Fault | None) -> None:
    match fault:
        case Fault(kind="rate_limited"):
            headers = {} if fault.retry_after_s is None else {"Retry-After": f"{fault.retry_after_s:g}"}
            headers["x-ratelimit-remaining"] = "0"
            raise Problem(429, _RATE_LIMITED, "You have exceeded your rate limit. Try again later.", headers)
        case Fault(kind="unavailable"):
            raise Problem(503, _UNAVAILABLE, "This endpoint has been ramped down.")
        case Fault(kind="drop_before"):
            raise Dropped
        case Fault(kind="slow"):
            await asyncio.sleep(fault.ms / 1000)
        case _:
            pass


def _check_access(fake: Fake, request: Request) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or (fake.token and token.strip() != fake.token):
        raise Problem(401, _AUTHENTICATION, "Authentication failed.")
    account = request.path_params.get("ad_account_id")
    if account is not None and account.isdigit() and account not in fake.ad_account_ids:
        raise Problem(403, _NO_ACCESS, "You are not permitted to access that resource.")


def _checked(fake: Fake, request: Request, raw: bytes) -> dict[str, Any]:
    """The decoded body of a request that keeps to the description. Raises Problem."""
    try:
        body = msgspec.json.decode(raw) if raw else {}
        fault = fault_of_request(request, raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        body, fault = {}, f"body: not JSON that can be read: {exc}"
    unknown = set(body) - _allowed(request) if isinstance(body, dict) else set()
    if not fault and unknown:
        fault = f"body: this operation knows no {', '.join(sorted(unknown))[:200]}"
    if fault:
        fake.invalid_requests += 1
        raise Problem(400, INVALID, fault)
    return body if isinstance(body, dict) else {}


def _allowed(request: Request) -> frozenset[str]:
    route: Route = request.scope["route"]
    return documented_fields(request.method, route.path.removeprefix(PREFIX))


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise Problem(413, 413, f"The body is larger than {MAX_BODY_BYTES} bytes.", {"Connection": "close"})
    return bytes(body)


def _error(problem: Problem) -> Response:
    return JSONResponse({"code": problem.code, "message": problem.message}, problem.status, problem.headers)


def _proven(fake: Fake, request: Request, raw: bytes, response: Response) -> Response:
    """`response` with its request id, or a 500 if it breaks the description."""
    fault = fault_of_answer(request, raw, response)
    if fault:
        fake.invalid_answers += 1
        logger.error("The fake Pinterest's own answer to %s is invalid: %s", request.url.path, fault)
        response = _error(Problem(500, 500, f"The fake's own answer is invalid: {fault}"))
    response.headers["x-pinterest-rid"] = str(uuid.uuid4().int)[:16]
    return response


class _Cuttable(HttpToolsProtocol):
    """uvicorn's protocol, whose requests know how to cut their connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["pinstream.cut"] = self.transport.abort  # type: ignore[typeddict-unknown-key]


async def _cut(request: Request) -> Response:
    """End the connection without an answer; what is returned reaches nobody."""
    request.scope["pinstream.cut"]()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response()


# For tests


def _inspection(fake: Fake) -> list[Route]:
    async def lists(request: Request) -> Response:
        return JSONResponse({"items": fake.world.every_list(fake.now())})

    async def members(request: Request) -> Response:
        return JSONResponse({"members": fake.world.members(request.path_params["list_id"])})

    async def audiences(request: Request) -> Response:
        return JSONResponse({"items": fake.world.every_audience(fake.now())})

    async def calls(request: Request) -> Response:
        return JSONResponse(
            {
                "calls": [msgspec.to_builtins(call) for call in fake.calls],
                "totals": dict(fake.totals),
                "invalid_requests": fake.invalid_requests,
                "invalid_answers": fake.invalid_answers,
            }
        )

    async def faults(request: Request) -> Response:
        fault = _decoded(await _body(request), Fault)
        if len(fake.faults) >= MAX_FAULTS:
            raise Problem(400, 400, f"{MAX_FAULTS} faults wait already.")
        fake.faults.append(fault)
        return JSONResponse({"faults": [msgspec.to_builtins(waiting) for waiting in fake.faults]})

    async def clock(request: Request) -> Response:
        fake.advanced_s += _decoded(await _body(request), Advance).advance_s
        return JSONResponse({"now": fake.now()})

    async def reset(request: Request) -> Response:
        fake.reset()
        return JSONResponse({})

    return [
        Route("/_fake/lists", lists),
        Route("/_fake/lists/{list_id:int}/members", members),
        Route("/_fake/audiences", audiences),
        Route("/_fake/calls", calls),
        Route("/_fake/faults", faults, methods=["POST"]),
        Route("/_fake/clock", clock, methods=["POST"]),
        Route("/_fake/reset", reset, methods=["POST"]),
    ]


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Problem(400, 400, str(exc)) from exc


def app(fake: Fake) -> Starlette:
    """The routes of `fake`."""

    async def problem(request: Request, exc: Exception) -> Response:
        return _error(exc if isinstance(exc, Problem) else Problem(500, 500, "Internal error."))

    async def http_error(request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else 500
        headers: Mapping[str, str] | None = exc.headers if isinstance(exc, HTTPException) else None
        message = f"This fake does not serve {request.method} {request.url.path[:200]}."
        return _error(Problem(status, status, message, dict(headers or {})))

    routes = [_endpoint(fake, method, path) for method, path in SERVED]
    handlers: dict[Any, Any] = {Problem: problem, HTTPException: http_error}
    return Starlette(routes=[*routes, *_inspection(fake)], exception_handlers=handlers)


@asynccontextmanager
async def running(fake: Fake, host: str, port: int) -> AsyncIterator[int]:
    """Serve `fake` while the block runs; gives the port. Raises SetupFault if the port is taken."""
    _openapi()
    async with serving(app(fake), host, port, http=_Cuttable) as bound:
        yield bound


async def serve(
    host: str,
    port: int,
    *,
    state_file: Path | None = None,
    minimum_size: int = 100,
    processing_s: float = 2,
    token: str = "",
    ad_account_ids: tuple[str, ...] = (AD_ACCOUNT_ID,),
) -> None:
    """Serve until cancelled. With `state_file`, lists and audiences outlive the process.

    `minimum_size`: members under which a list is TOO_SMALL; `processing_s`: how long a change is PROCESSING;
    `token`: the only one accepted, empty = any. Raises SetupFault if the port is taken.
    """
    world = World(state_file, minimum_size=minimum_size, processing_s=processing_s)
    try:
        async with running(Fake(world, token, ad_account_ids), host, port) as bound:
            logger.info(
                "Fake Pinterest on http://%s:%d%s, ad accounts %s", host, bound, PREFIX, ", ".join(ad_account_ids)
            )
            await asyncio.Event().wait()
    finally:
        world.close()


def main() -> None:
    """The command: see --help."""
    parser = argparse.ArgumentParser(prog="python -m pinstream.pinterest.fake", description="A fake Pinterest API v5.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one and logs it")
    parser.add_argument("--state", type=Path, help="file that keeps lists and audiences")
    parser.add_argument("--token", default="", help="the only token accepted; any if left out")
    parser.add_argument("--minimum-size", type=int, default=100)
    parser.add_argument("--processing-s", type=float, default=2)
    parser.add_argument("--ad-account", action="append", help="ad account that exists; may be repeated")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    asyncio.run(_until_stopped(options))


async def _until_stopped(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    task = asyncio.create_task(
        serve(
            options.host,
            options.port,
            state_file=options.state,
            minimum_size=options.minimum_size,
            processing_s=options.processing_s,
            token=options.token,
            ad_account_ids=tuple(options.ad_account or [AD_ACCOUNT_ID]),
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logger.info("Fake Pinterest stopped")


if __name__ == "__main__":
    main()
