"""Calls to Pinterest's API v5: the token, the pace, the retries, and one place where faults are translated.

A call is an `Operation`, declared beside the functions that use it, named as in Pinterest's description.
What may be repeated is repeated here, with growing, jittered waits:

| fault | reading, and changes of a list (set-like) | creating |
|---|---|---|
| no connection: nothing was sent | again | again |
| 429: nothing was applied | again, after Retry-After | again, after Retry-After |
| connection lost, time-out, 5xx: may have been applied | again | no: PinterestAway, look first |

The token goes into one header and nowhere else: not into logs, errors or reprs.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar

import httpx
import msgspec
import stamina
import stamina.instrumentation

from pinstream import metrics, settings
from pinstream.errors import Misconfigured, PinterestAway, PinterestError, PinterestRefused, RateLimited, Refused
from pinstream.pinterest.types import Account, AdAccount, error_body

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Each fault is logged below. stamina's own hook would print it again, to stdout, which belongs to --json.
stamina.instrumentation.set_on_retry_hooks([])

ATTEMPTS: Final = 4
"""Tries of one call, the first included."""
WAIT_INITIAL_S: Final = 0.2
"""Before the second try; doubled for each further one, up to WAIT_MAX_S, plus up to WAIT_JITTER_S."""
WAIT_MAX_S: Final = 10.0
WAIT_JITTER_S: Final = 0.5
RETRY_FOR_S: Final = 90.0
"""No new try later than this after the first began."""
MAX_RETRY_AFTER_S: Final = 30.0
"""A longer Retry-After is not waited for here: the caller gets RateLimited and its number."""
UNSTATED_RETRY_AFTER_S: Final = 10.0
"""What RateLimited carries where Pinterest names no time."""
MAX_ANSWER_BYTES: Final = 8 << 20
"""A page of 250 audiences is under 1 MB."""
MAX_WAITING: Final = 100
"""Calls that may wait for their turn at once."""
MAX_MESSAGE_CHARS: Final = 500
"""Of Pinterest's message, kept in an error."""

_ID: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One operation of Pinterest's description."""

    name: str
    """Its operationId."""
    method: Literal["GET", "POST", "PATCH"]
    path: str
    """Template below /v5; each `{}` takes an id of 1 to 18 digits."""
    answer: type[T]
    repeatable: bool
    """The same call twice has the effect of one."""

    def path_of(self, ids: tuple[str, ...]) -> str:
        """The path with its ids. Raises Refused if one is not an id, so that no text can bend the path."""
        for value in ids:
            if not _ID.fullmatch(value):
                raise Refused("bad_value", f"{value!r} is not an id of Pinterest's: 1 to 18 digits are.")
        return self.path.format(*ids)


GET_AD_ACCOUNT: Final = Operation("ad_accounts/get", "GET", "/ad_accounts/{}", AdAccount, repeatable=True)
GET_USER_ACCOUNT: Final = Operation("user_account/get", "GET", "/user_account", Account, repeatable=True)


class _NeverSent(PinterestAway):
    """No connection came about, so nothing can have been applied."""


class _RateLimitedUnstated(RateLimited):
    """429 without a time to wait."""


_FAULTS: Final[tuple[tuple[type[Exception], type[PinterestAway], str], ...]] = (
    (httpx.ConnectTimeout, _NeverSent, "did not accept a connection in time"),
    (httpx.ConnectError, _NeverSent, "cannot be reached"),
    (httpx.PoolTimeout, _NeverSent, "had no free connection in time"),
    (httpx.TimeoutException, PinterestAway, "did not answer in time"),
    (TimeoutError, PinterestAway, "did not answer in time"),
    (httpx.RequestError, PinterestAway, "broke the connection before its answer was complete"),
)
"""Most specific first: what httpx raises, what we raise, and the sentence's middle."""


class Pace:
    """Spaces calls evenly, at most `per_s` a second, and holds all of them back after a 429."""

    def __init__(self, per_s: float) -> None:
        self._gap_s = 1 / per_s
        self._next = 0.0
        self._held_until = 0.0
        self._waiting = 0

    async def turn(self) -> None:
        """Return when the next call may start.

        Raises RateLimited if MAX_WAITING calls wait already, or Pinterest wants a longer pause than we wait for.
        """
        held_s = self._held_until - time.monotonic()
        if held_s > MAX_RETRY_AFTER_S:
            raise RateLimited(f"Pinterest wants a pause of {held_s:.0f} s more.", retry_after_s=held_s)
        if self._waiting >= MAX_WAITING:
            raise RateLimited(
                f"{MAX_WAITING} calls to Pinterest wait already. Try later, or raise pinterest.requests_per_s.",
                retry_after_s=MAX_WAITING * self._gap_s,
            )
        self._waiting += 1
        try:
            while (wait_s := max(self._next, self._held_until) - time.monotonic()) > 0:  # noqa: ASYNC110 - for a time, no event
                await asyncio.sleep(wait_s)
            self._next = time.monotonic() + self._gap_s
        finally:
            self._waiting -= 1

    def hold(self, for_s: float) -> None:
        """No call starts within the next `for_s` seconds."""
        self._held_until = max(self._held_until, time.monotonic() + for_s)


class Client:
    """An open connection to Pinterest for one token. Use it as an async context manager.

    Every call may raise PinterestAway, RateLimited or PinterestRefused; what was worth repeating has been
    repeated by then. Safe to share between tasks.
    """

    def __init__(self, config: settings.Pinterest) -> None:
        """Raises Misconfigured if the token is missing, or would travel in plain text over a network."""
        token = config.access_token.get_secret_value()
        if not token or not token.isascii() or not token.isprintable():
            raise Misconfigured("pinterest.access_token is empty or not a token. Set one with ads:read and ads:write.")
        _check_base_url(config.base_url)
        self._config = config
        self._pace = Pace(config.requests_per_s)
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json", "User-Agent": "pinstream"},
            timeout=config.timeout_s,
            limits=httpx.Limits(max_connections=10, max_keepalive_connections=5),
        )

    def __repr__(self) -> str:
        return f"Client({self._config.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(
        self,
        operation: Operation[T],
        *ids: str,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> T:
        """Do `operation` and return its decoded answer. `ids` fill the path; `json` is the body.

        Raises:
            PinterestAway: no usable answer; unless it was a read, it may have been applied.
            RateLimited: 429 more often, or for longer, than is waited for here.
            PinterestRefused: the same call will be refused again.
            Refused: an id is not an id, or a text is not Unicode; nothing was sent.
        """
        url = self._config.base_url.rstrip("/") + operation.path_of(ids)
        try:
            request = self._http.build_request(operation.method, url, json=json, params=params)
        except ValueError as exc:
            raise Refused(
                "bad_value", f"{operation.name}: a text is not valid Unicode, or a number not finite."
            ) from exc
        async for attempt in stamina.retry_context(
            on=_again_if_safe if operation.repeatable else _again_if_not_applied,
            attempts=ATTEMPTS,
            timeout=RETRY_FOR_S,
            wait_initial=WAIT_INITIAL_S,
            wait_max=WAIT_MAX_S,
            wait_jitter=WAIT_JITTER_S,
        ):
            with attempt:
                body = await self._once(operation.name, request)
                return _decoded(operation, body)
        raise PinterestAway(f"Pinterest could not be asked for {operation.name}.")  # stamina always tries once

    async def user_account(self) -> Account:
        """The account the token belongs to: the cheapest way to check a token."""
        return await self.call(GET_USER_ACCOUNT)

    async def ad_account(self, ad_account_id: str) -> AdAccount:
        """One ad account; PinterestRefused with status 403 if the token may not use it."""
        return await self.call(GET_AD_ACCOUNT, ad_account_id)

    async def _once(self, name: str, request: httpx.Request) -> bytes:
        """One try. The body of a success, or the translated fault, counted and logged."""
        await self._pace.turn()
        try:
            response, body = await self._answer(request)
        except (httpx.RequestError, TimeoutError) as exc:
            metrics.PINTEREST_CALLS.labels(name, "network").inc()
            fault = _network_fault(name, exc)
            logger.warning("%s", fault)
            raise fault from exc
        metrics.PINTEREST_CALLS.labels(name, str(response.status_code)).inc()
        if response.is_success:
            return body
        refusal = self._refusal(name, response, body)
        logger.warning("%s Request id %s; limits %s", refusal, refusal.request_id or "-", rate_limits(response.headers))
        raise refusal

    async def _answer(self, request: httpx.Request) -> tuple[httpx.Response, bytes]:
        """Send, and read at most MAX_ANSWER_BYTES within the time-out of a whole call."""
        async with asyncio.timeout(self._config.timeout_s):
            response = await self._http.send(request, stream=True)
            try:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        raise httpx.ReadError(f"The answer is longer than {MAX_ANSWER_BYTES} bytes.", request=request)
            finally:
                await response.aclose()
        return response, bytes(body)

    def _refusal(self, name: str, response: httpx.Response, body: bytes) -> PinterestError:
        error = error_body(body)
        message = self._redacted(error.message)[:MAX_MESSAGE_CHARS]
        detail = f"Pinterest answered {response.status_code}, code {error.code}, to {name}: {message}"
        request_id = response.headers.get("x-pinterest-rid", "")[:100]
        if response.status_code == 429:
            return self._rate_limited(detail, error.code, request_id, response.headers)
        kind = PinterestAway if response.status_code >= 500 or response.status_code == 408 else PinterestRefused
        return kind(detail, code=error.code, status=response.status_code, request_id=request_id)

    def _rate_limited(self, detail: str, code: int, request_id: str, headers: httpx.Headers) -> RateLimited:
        wait_s = retry_after_s(headers, time.time())
        if wait_s is None:
            return _RateLimitedUnstated(detail, retry_after_s=UNSTATED_RETRY_AFTER_S, code=code, request_id=request_id)
        self._pace.hold(wait_s)
        return RateLimited(detail, retry_after_s=wait_s, code=code, request_id=request_id)

    def _redacted(self, text: str) -> str:
        return text.replace(self._config.access_token.get_secret_value(), "[token]")


def rate_limits(headers: Mapping[str, str]) -> dict[str, str]:
    """Every header that says something about limits. Their names are not in Pinterest's description."""
    return {name: value[:100] for name, value in headers.items() if "ratelimit" in name.lower()}


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, from Retry-After (seconds or a date) or a `*ratelimit*reset*` header of seconds; else None."""
    stated = httpx.Headers(dict(headers)).get("retry-after", "")
    resets = [value for name, value in rate_limits(headers).items() if "reset" in name.lower()]
    for text in (stated, *resets):
        if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
            return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(stated).timestamp() - now)
    except ValueError:
        return None


def _again_if_safe(exc: Exception) -> bool | float:
    """For calls that may be repeated: whether to try again, and after how many seconds."""
    return isinstance(exc, PinterestAway) or _again_if_not_applied(exc)


def _again_if_not_applied(exc: Exception) -> bool | float:
    """For creations: only faults after which nothing can have been applied."""
    if isinstance(exc, (_NeverSent, _RateLimitedUnstated)):
        return True
    if isinstance(exc, RateLimited) and exc.retry_after_s <= MAX_RETRY_AFTER_S:
        return exc.retry_after_s
    return False


def _network_fault(name: str, exc: Exception) -> PinterestAway:
    kind, middle = next((kind, middle) for foreign, kind, middle in _FAULTS if isinstance(exc, foreign))
    return kind(f"Pinterest {middle} ({name}). Check the network and pinterest.base_url; it is tried again later.")


def _decoded(operation: Operation[T], body: bytes) -> T:
    try:
        return msgspec.json.decode(body, type=operation.answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise PinterestAway(f"Pinterest's answer to {operation.name} is not the one documented: {exc}") from exc


def _check_base_url(base_url: str) -> None:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as exc:
        raise Misconfigured(f"pinterest.base_url is not a URL: {exc}") from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise Misconfigured("pinterest.base_url must begin with https://")
    # A name without a dot is this machine or a container beside us: a fake Pinterest.
    if url.scheme == "http" and "." in url.host and not url.host.startswith("127."):
        raise Misconfigured("pinterest.base_url must begin with https://, or the token travels in plain text.")
