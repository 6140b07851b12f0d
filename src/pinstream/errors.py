"""Every error pinstream raises on purpose: one tree, which says what to do next.

    PinstreamError
    ├── Misconfigured          a setting is wrong or missing; the message names the key
    ├── SetupFault             the machine is not ready: port taken, Java missing, folder not writable
    ├── Refused                an input breaks its contract; carries the reason and the field's path
    ├── LogError
    │   ├── Retryable          not in the log: offer it again, or spool it
    │   ├── Uncertain          may still arrive in the log; `settled` tells later
    │   ├── Fatal              the log will never take it as it is, or is unusable
    │   ├── Fenced             somebody else owns the partition now: drop what you hold
    │   └── PositionLost       the stored position does not fit this log (recreated, or trimmed)
    ├── WarehouseError
    │   ├── WarehouseAway      no answer: wait and try the same again
    │   ├── SchemaBehind       migrations are missing, or newer than this program
    │   └── QueryFailed        ClickHouse refused the statement; carries its exception code
    ├── StateError             the control-plane database does not answer
    └── PinterestError
        ├── PinterestAway      network, 5xx: try again later
        ├── RateLimited        429: try again after `retry_after_s`
        └── PinterestRefused   4xx: the same call will be refused again; carries code and message

Three class attributes speak to the caller: `reason` (a slug), `retryable` (may the *same* call
succeed later?) and `http_status` (what an HTTP edge answers). Messages are sentences for a person and
say what to do.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Any


class PinstreamError(Exception):
    """The root of the tree: catch it at a process's edge only."""

    reason: str = "internal"
    retryable: bool = False
    http_status: int = 500


class Misconfigured(PinstreamError):
    """A setting is wrong, unknown or missing; the message names its key."""

    reason = "misconfigured"


class SetupFault(PinstreamError):
    """The machine lacks something; the message names the fix."""

    reason = "setup"


class Refused(PinstreamError):
    """An input breaks its contract and is not taken, now or later."""

    http_status = 400

    def __init__(self, reason: str, detail: str, *, field: str = "") -> None:
        """`reason`: a key of `event.REASONS`; `field`: path in the input, such as `$.events[2].value`."""
        super().__init__(detail)
        self.reason = reason
        self.field = field


class LogError(PinstreamError):
    """The event log could not do what was asked."""

    reason = "log"
    http_status = 503


class Retryable(LogError):
    """The records are not in the log. The same may be offered again."""

    reason = "log_away"
    retryable = True
    records: Sequence[Any] | None = None
    """Where an append was taken in part: those that are not in the log (the same objects). None: all of them."""


class Uncertain(LogError):
    """The records may still arrive in the log, although no acknowledgement came in time."""

    reason = "log_uncertain"
    parts: Sequence[tuple[Sequence[Any], Future[bool]]] = ()
    """Where parts of the records settle on their own: each with its future. What is in no part is not in the log."""

    def __init__(self, detail: str, records: Sequence[Any], settled: Future[bool]) -> None:
        """`records`: those not known to be in the log; any others of the same append are.

        `settled` resolves to True once all of them are in the log, to False once that can no longer be learnt or
        one is known not to be: offer them again then, equal event ids count once.
        """
        super().__init__(detail)
        self.records = records
        self.settled = settled


class Fatal(LogError):
    """Offering the same records again cannot help."""

    reason = "log_broken"


class Fenced(LogError):
    """A commit was refused because another member of the group owns the partition now."""

    reason = "fenced"


class PositionLost(LogError):
    """A stored position does not fit this log: it was recreated, or trimmed past the position."""

    reason = "position_lost"


class WarehouseError(PinstreamError):
    """ClickHouse could not do what was asked."""

    reason = "warehouse"


class WarehouseAway(WarehouseError):
    """No answer from ClickHouse. What was sent may or may not have been applied: repeat it with its token."""

    reason = "warehouse_away"
    retryable = True
    http_status = 503


class SchemaBehind(WarehouseError):
    """The database's migrations and this program's differ; the message says which, and what to run."""

    reason = "schema_behind"


class QueryFailed(WarehouseError):
    """ClickHouse refused the statement."""

    reason = "query_failed"

    def __init__(self, detail: str, *, code: int = 0) -> None:
        """`code`: ClickHouse's exception code, 0 if none was given."""
        super().__init__(detail)
        self.code = code


class StateError(PinstreamError):
    """The control-plane database does not answer, or is of another version."""

    reason = "state_away"
    retryable = True
    http_status = 503


class PinterestError(PinstreamError):
    """Pinterest could not, or would not, do what was asked."""

    reason = "pinterest"
    http_status = 502

    def __init__(self, detail: str, *, code: int = 0, status: int = 0, request_id: str = "") -> None:
        """`code`: Pinterest's own error code; `status`: HTTP; `request_id`: header x-pinterest-rid, for support."""
        super().__init__(detail)
        self.code = code
        self.status = status
        self.request_id = request_id


class PinterestAway(PinterestError):
    """Network fault or 5xx. The call may have been applied."""

    reason = "pinterest_away"
    retryable = True


class RateLimited(PinterestError):
    """429. Nothing was applied; wait `retry_after_s` seconds."""

    reason = "pinterest_rate_limited"
    retryable = True
    http_status = 503

    def __init__(self, detail: str, *, retry_after_s: float, code: int = 8, request_id: str = "") -> None:
        super().__init__(detail, code=code, status=429, request_id=request_id)
        self.retry_after_s = retry_after_s


class PinterestRefused(PinterestError):
    """4xx: bad request, no access, not found. Repeating the same call is useless."""

    reason = "pinterest_refused"
