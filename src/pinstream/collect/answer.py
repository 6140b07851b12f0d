"""Pure: what became of a request's events -> status, headers and body, and the CORS headers every answer carries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pinstream.collect.gate import NULL_ORIGIN
from pinstream.collect.intake import Outcome
from pinstream.errors import Fatal, LogError, Refused, Uncertain
from pinstream.event import MAX_EVENTS, REASONS
from pinstream.state.snapshot import Site

GIF: Final = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,"
    b"\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
"""One transparent pixel, 43 bytes."""

COOKIE: Final = "ps_vid"
COOKIE_S: Final = 390 * 86_400  # under Chrome's cap of 400 days and CNIL's of 13 months
PREFLIGHT_S: Final = 86_400
RETRY_AFTER_S: Final = {"log_full": 1, "log_away": 5, "log_uncertain": 1, "busy": 1}

Headers = list[tuple[str, str]]


class Answer(Struct, frozen=True):
    """An HTTP answer, without the CORS headers."""

    status: int
    headers: Headers
    body: bytes = b""
    mirror: bool = True
    """Whether a known origin may read it with cookies."""
    cookie: str = ""
    """A Set-Cookie header to send."""


def of_outcomes(outcomes: Sequence[Outcome], cookie: str = "") -> Answer:
    """204 all durable, 200 all dropped, 400 all refused (403 for a site or origin), else 207 with a line each."""
    for outcome in outcomes:
        if outcome.status != "durable":
            return replace(_mixed(outcomes), cookie=cookie)
    return Answer(204, [], cookie=cookie)


def _mixed(outcomes: Sequence[Outcome]) -> Answer:
    kinds = {outcome.status for outcome in outcomes}
    if kinds == {"refused"}:
        return _refusal(outcomes[0].reason, outcomes[0].field, outcomes)
    if kinds == {"dropped"}:
        reasons = ",".join(dict.fromkeys(outcome.reason for outcome in outcomes))
        return _json(200, {"results": _results(outcomes)}, [("X-Pinstream-Dropped", reasons)])
    return _json(207, {"results": _results(outcomes)})


def of_refusal(reason: str, field: str = "") -> Answer:
    """A request of which nothing was taken, for one reason."""
    return _refusal(reason, field, ())


def of_refused(refused: Refused) -> Answer:
    """A request that cannot be read."""
    return of_refusal(refused.reason, refused.field)


def log_reason(error: LogError) -> str:
    """The reason to tell when the log did not take a request's records."""
    if isinstance(error, Uncertain):
        return "log_uncertain"
    if isinstance(error, Fatal):
        return "log_broken"
    return "log_full" if error.reason == "log_full" else "log_away"


def as_pixel(answer: Answer) -> Answer:
    """The same status and headers with the pixel as the body; what a body would have said is in the headers."""
    status = 200 if answer.status in (204, 207) else answer.status
    headers = [header for header in answer.headers if header[0] != "Content-Type"]
    if answer.status >= 400:
        headers.append(("X-Pinstream-Refused", msgspec.json.decode(answer.body)["reason"]))
    headers += [("Content-Type", "image/gif"), ("Cache-Control", "no-store")]
    return replace(answer, status=status, headers=headers, body=GIF)


def _refusal(reason: str, field: str, outcomes: Sequence[Outcome]) -> Answer:
    status, hint = REASONS[reason]
    body: dict[str, Any] = {"reason": reason, "field": field, "hint": hint}
    if outcomes:
        body["results"] = _results(outcomes[:MAX_EVENTS])
    headers = [("Retry-After", str(RETRY_AFTER_S[reason]))] if reason in RETRY_AFTER_S else []
    return replace(_json(status, body, headers), mirror=reason != "wrong_origin")


def _results(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    return [
        {
            "event_id": outcome.event_id,
            "status": outcome.status,
            "reason": outcome.reason,
            "field": outcome.field,
            "hint": REASONS[outcome.reason][1] if outcome.reason else "",
        }
        for outcome in outcomes
    ]


def _json(status: int, body: dict[str, Any], headers: Headers | None = None) -> Answer:
    return Answer(status, [*(headers or []), ("Content-Type", "application/json")], msgspec.json.encode(body))


FAULT: Final = _json(
    500,
    {"reason": "internal", "field": "", "hint": "A fault of ours. It is logged; send again with the same event_id."},
)

BUSY: Final = of_refusal("busy")

# --- CORS and cookies ------------------------------------------------------------------------------

_CORS: Final = b"vary: Origin\r\naccess-control-expose-headers: Retry-After, X-Pinstream-Dropped\r\n"
_MAX_ORIGIN_CHARS: Final = 512


def cors(origin: str | None, *, known: bool) -> bytes:
    """The header lines for an answer to this Origin; `known`: it may read answers with its cookies."""
    if not origin or not known or len(origin) > _MAX_ORIGIN_CHARS:
        return b"access-control-allow-origin: *\r\n" + _CORS
    return _mirrored(origin)


@lru_cache(maxsize=1024)
def _mirrored(origin: str) -> bytes:
    allowed = b"access-control-allow-origin: %b\r\n" % origin.encode("latin-1")
    with_cookies = b"" if origin == NULL_ORIGIN else b"access-control-allow-credentials: true\r\n"
    return allowed + with_cookies + _CORS


PREFLIGHT: Final = Answer(
    204,
    [
        ("Access-Control-Allow-Methods", "GET, POST, HEAD, OPTIONS"),
        ("Access-Control-Allow-Headers", "Content-Type, Content-Encoding, Authorization, X-API-Key"),
        ("Access-Control-Max-Age", str(PREFLIGHT_S)),
    ],
)


def cookie(visitor: str, site: Site) -> str:
    """The Set-Cookie header with the visitor's id, or an expired one if `visitor` is empty. The tag can read it."""
    age = COOKIE_S if visitor else 0
    domain = f"; Domain={site.cookie_domain}" if site.cookie_domain else ""
    return f"{COOKIE}={visitor}; Max-Age={age}; Path=/{domain}; SameSite=Lax; Secure"


# --- bytes -----------------------------------------------------------------------------------------

_NO_BODY: Final = (204, 304)


def head_lines(answer: Answer, cors: bytes) -> bytes:
    """The header lines of an answer, each with its line end, without the status line and the empty line."""
    lines = [f"{name.lower()}: {value}\r\n" for name, value in answer.headers]
    if answer.cookie:
        lines.append(f"set-cookie: {answer.cookie}\r\n")
    length = b"" if answer.status in _NO_BODY else b"content-length: %d\r\n" % len(answer.body)
    return "".join(lines).encode("latin-1") + cors + length


_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def to_bytes(answer: Answer, cors: bytes, *, keep_alive: bool, with_body: bool = True) -> bytes:
    """An answer as HTTP/1.1 sends it. `with_body` is False for HEAD."""
    if answer.status == 204 and not answer.headers and keep_alive:
        sets = b"set-cookie: %b\r\n" % answer.cookie.encode("latin-1") if answer.cookie else b""
        return b"HTTP/1.1 204 No Content\r\n" + sets + cors + b"\r\n"
    lines = head_lines(answer, cors)
    if not keep_alive and b"connection: close\r\n" not in lines:
        lines += b"connection: close\r\n"
    return _STATUS_LINES[answer.status] + lines + b"\r\n" + (answer.body if with_body else b"")


def closes(answer: Answer) -> bool:
    """Whether the connection ends with this answer."""
    return ("Connection", "close") in answer.headers
