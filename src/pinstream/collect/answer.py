"""Pure: what became of a request's events -> status, headers and body, and the CORS headers every answer carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

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
RETRY_AFTER_S: Final = {"log_full": 1, "log_away": 5, "log_uncertain": 1, "rate_limited": 1, "busy": 1}

Headers = list[tuple[str, str]]


class Answer(NamedTuple):
    """An HTTP answer, without the CORS headers."""

    status: int
    headers: Headers
    body: bytes = b""
    mirror: bool = True
    """Whether a known origin may read it with cookies."""


NO_CONTENT: Final = Answer(204, [])


def of_outcomes(outcomes: Sequence[Outcome]) -> Answer:
    """204 all durable, 200 all dropped, 400 all refused (403 for a site or origin), else 207 with a line each."""
    kinds = {outcome.status for outcome in outcomes}
    if kinds == {"durable"}:
        return NO_CONTENT
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
    return Answer(status, [*headers, ("Content-Type", "image/gif"), ("Cache-Control", "no-store")], GIF, answer.mirror)


def _refusal(reason: str, field: str, outcomes: Sequence[Outcome]) -> Answer:
    status, hint = REASONS[reason]
    body: dict[str, Any] = {"reason": reason, "field": field, "hint": hint}
    if outcomes:
        body["results"] = _results(outcomes[:MAX_EVENTS])
    headers = [("Retry-After", str(RETRY_AFTER_S[reason]))] if reason in RETRY_AFTER_S else []
    return _json(status, body, headers)._replace(mirror=reason != "wrong_origin")


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

# --- CORS and cookies ------------------------------------------------------------------------------

_EXPOSED: Final = ("Access-Control-Expose-Headers", "Retry-After, X-Pinstream-Dropped")
_VARY: Final = ("Vary", "Origin")


def cors(origin: str | None, *, known: bool) -> Headers:
    """The headers for an answer to this Origin; `known`: it may read answers with its cookies."""
    if not origin or not known:
        return [("Access-Control-Allow-Origin", "*"), _VARY, _EXPOSED]
    if origin == NULL_ORIGIN:
        return [("Access-Control-Allow-Origin", NULL_ORIGIN), _VARY, _EXPOSED]
    mirrored = [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true")]
    return [*mirrored, _VARY, _EXPOSED]


PREFLIGHT: Final = Answer(
    204,
    [
        ("Access-Control-Allow-Methods", "GET, POST, HEAD, OPTIONS"),
        ("Access-Control-Allow-Headers", "Content-Type, Content-Encoding, Authorization, X-API-Key"),
        ("Access-Control-Max-Age", str(PREFLIGHT_S)),
    ],
)


def set_cookie(visitor: str, site: Site) -> tuple[str, str]:
    """The header that sets the visitor's cookie, or expires it if `visitor` is empty. The tag can read it."""
    age = COOKIE_S if visitor else 0
    domain = f"; Domain={site.cookie_domain}" if site.cookie_domain else ""
    return "Set-Cookie", f"{COOKIE}={visitor}; Max-Age={age}; Path=/{domain}; SameSite=Lax; Secure"
