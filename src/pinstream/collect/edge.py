"""From a request as HTTP gives it to what shall be stored, and from what became of that to the answer.

Both HTTP paths go through here: the hot one (`protocol.py`) and Starlette's (`app.py`). Nothing here waits: whoever
calls commits the records in between. Small pure modules decide; this one asks them in order, and counts.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from pinstream import metrics
from pinstream.collect import answer as answers
from pinstream.collect import body as bodies
from pinstream.collect import engagements, intake, wire
from pinstream.collect.answer import Answer
from pinstream.collect.commit import Committer
from pinstream.collect.gate import NULL_ORIGIN, Gate, allows, client_ip, is_bot, networks, presented_key
from pinstream.collect.intake import Intake
from pinstream.collect.limits import Limits
from pinstream.collect.stamp import Context
from pinstream.collect.wire import Wire
from pinstream.errors import LogError, Refused
from pinstream.event import REJECTED, Rejection, Source, encode
from pinstream.eventlog.contract import Record
from pinstream.settings import Collect
from pinstream.state.snapshot import Key, Site

logger = logging.getLogger(__name__)

MAX_FIELD_CHARS: Final = 256
LIMITED_LOG_MS: Final = 60_000
MAX_QUERY_BYTES: Final = 60_000  # httptools' parser ends at 65,535 bytes, with an answer of its own

_BLANKS: Final = b" \t"

Clock = Callable[[], int]
"""Milliseconds since 1970."""

_VISITOR = re.compile(rf"{answers.COOKIE}=(?<![^;\s]{answers.COOKIE}=)([^;\s]*)")
_EPIK = re.compile(r"_epik=(?<![^;\s]_epik=)([^;\s]*)")
"""Begin with the name, for which the engine looks fast; what is in front of it is checked behind."""


class Head:
    """A request without its body."""

    __slots__ = ("fields", "headers", "origin", "path", "peer", "query")

    def __init__(self, path: str, query: bytes, headers: list[tuple[bytes, bytes]], peer: str) -> None:
        """`headers`: in order, names in lower case; `peer`: the other end's address, empty if there is none."""
        self.path = path
        self.query = query
        self.headers = headers
        self.peer = peer
        self.fields = dict(reversed(headers))
        self.origin = self.get(b"origin") if b"origin" in self.fields else None
        """The Origin header; None: there is none."""

    def get(self, name: bytes) -> str:
        """The first header of that name without the blanks around it (RFC 9110 5.5), or empty."""
        value = self.fields.get(name)
        return value.strip(_BLANKS).decode("latin-1") if value else ""

    def all(self, name: bytes) -> str:
        """Every header of that name, as the list that HTTP says they are (RFC 9110 5.2)."""
        return ", ".join(value.decode("latin-1") for found, value in self.headers if found == name)


class Taken(Struct, frozen=True):
    """A request that was read: its records are to be committed, then it is `settle`d."""

    found: Intake
    site: Site
    cookies: bool = True
    """Whether the answer may set one."""
    rejections: Sequence[Record] = ()
    """What is left in the log about the refused ones; nobody waits for it."""


class Edge:
    """What every request needs: who may send, where records go, the time."""

    def __init__(self, gate: Gate, committer: Committer, settings: Collect, clock: Clock) -> None:
        self.gate = gate
        self._committer = committer
        self._clock = clock
        self._proxies = networks(settings.trusted_proxies)
        self._allowance = Allowance(settings.reject_records_per_s)
        self._limits = None if settings.limits == "off" else Limits(settings)
        self._dry_run = settings.limits == "dry_run"
        self._limited_logged_ms: dict[str, int] = {}  # when each was last named; sites and keys there are bound it

    def cors(self, origin: str | None, *, mirror: bool) -> bytes:
        """The CORS header lines for an answer to a page of `origin`, which may read it with its cookies if `mirror`."""
        return answers.cors(origin, known=mirror and bool(origin) and self.gate.knows_origin(origin or ""))

    # --- a request as read -> what to store, or the answer at once ---

    def events(self, head: Head, body: bytes) -> Taken | Answer:
        """A POST of events; `body` as sent. Never raises Refused: what cannot be read counts as one event."""
        return self._guarded(self._events, head, body)

    def pixel(self, head: Head) -> Taken | Answer:
        """A GET or HEAD with the event in the query."""
        return self._guarded(self._pixel, head, b"")

    def engagements(self, head: Head, body: bytes) -> Taken | Answer:
        """A POST of engagements."""
        return self._guarded(self._engagements, head, body)

    def refused(self, refused: Refused) -> Answer:
        """The answer to a request that cannot be read."""
        _count(intake.refused([""], refused.reason))
        answer = answers.of_refused(refused)
        closing = [("Connection", "close")] if refused.reason in ("too_large", "too_slow") else []
        return replace(answer, headers=[*answer.headers, *closing])

    def busy(self) -> Answer:
        """The answer to a request that nobody has the time to read."""
        _count(_BUSY)
        return answers.BUSY

    def _guarded(self, run: Callable[[Head, bytes], Taken | Answer], head: Head, body: bytes) -> Taken | Answer:
        try:
            return run(head, body)
        except Refused as exc:
            return self.refused(exc)

    def _events(self, head: Head, body: bytes) -> Taken | Answer:
        encoding = head.get(b"content-encoding")
        if encoding:
            body = bodies.inflate(body, encoding)
        if not body and head.query and head.path.startswith("/v3"):
            return self._pixel(head, body)
        return self._take(head, wire.parse(head.get(b"content-type"), body), body)

    def _pixel(self, head: Head, _: bytes) -> Taken | Answer:
        if len(head.query) > MAX_QUERY_BYTES:
            raise Refused("too_long", f"A query has at most {MAX_QUERY_BYTES} bytes.")
        return self._take(head, wire.parse_query(head.query), head.query)

    def _take(self, head: Head, read: Wire, body: bytes) -> Taken | Answer:
        site = self.gate.site(read.envelope.site)
        if site is None:
            return _refused(intake.refused(read.event_ids, "unknown_site", "$.site"))
        origin = head.origin
        key, reason = self._forbidden(head, site, origin)
        if reason:
            found = intake.refused(read.event_ids, reason)
        elif self._limits and (limited := self._limited(self._limits, site, key, len(read.event_ids))):
            return limited
        else:
            found = intake.take(read, self._context(head, site, _source(head)), os.urandom)
        return self._wanted(Taken(found, site, origin != NULL_ORIGIN, self._rejections(found, site, body)))

    def _forbidden(self, head: Head, site: Site, origin: str | None) -> tuple[Key | None, str]:
        """The key that a request presents, and the reason why it may not speak for the site, or empty."""
        presented = _presented_key(head) if head.path == "/v1/events" else ""
        if presented:
            key = self.gate.key(presented)
            may = key and key.site_id in (0, site.id) and (key.may_import or not _is_import(head))
            return key, "" if may else "bad_key"
        if _is_import(head):
            return None, "bad_key"
        return None, "" if allows(site, origin) else "wrong_origin"

    def _limited(self, limits: Limits, site: Site, key: Key | None, events: int) -> Answer | None:
        """The answer to a request that is more than a limit allows. Only who may speak for the site uses it up."""
        over = limits.take(self.gate.snapshot, site, key, events, self._clock())
        if over is None:
            return None
        self._name_limited(over.scope, site, key)
        if self._dry_run:
            metrics.tally(metrics.RATE_LIMIT_DRY_RUN.labels(over.scope), events)
            return None
        # Counted, but not written to the log as other refusals are: a flood must not become a flood of records.
        metrics.tally(metrics.RECEIVED, events)
        metrics.tally(metrics.REFUSED.labels("rate_limited"), events)
        answer = answers.of_refusal("rate_limited")
        return replace(answer, headers=[("Retry-After", str(over.wait_s)), *answer.headers])

    def _name_limited(self, scope: str, site: Site, key: Key | None) -> None:
        """Tell the operator who sends too much: the first time, and then once in LIMITED_LOG_MS each."""
        who = f"key {key.prefix}..." if scope == "key" and key else f"site {site.tag_id}"
        now_ms = self._clock()
        if now_ms < self._limited_logged_ms.get(who, 0) + LIMITED_LOG_MS:
            return
        self._limited_logged_ms = {
            name: at for name, at in self._limited_logged_ms.items() if at + LIMITED_LOG_MS > now_ms
        }
        self._limited_logged_ms[who] = now_ms
        would = "would be" if self._dry_run else "are"
        logger.warning("Events of %s %s refused: more than its limit a second. See collect.limits.", who, would)

    def _engagements(self, head: Head, body: bytes) -> Taken | Answer:
        body = bodies.inflate(body, head.get(b"content-encoding"))
        key = self.gate.key(_presented_key(head))
        if key is None:
            raise Refused("bad_key", "The API key is missing or unknown.")
        tag_id, sent, consent = engagements.read(body)
        site = self.gate.site(tag_id)
        if site is None:
            return _refused(intake.refused([""] * len(sent), "unknown_site", "$.site"))
        if key.site_id not in (0, site.id):
            found = intake.refused([""] * len(sent), "bad_key", "$.site")
        elif self._limits and (limited := self._limited(self._limits, site, key, len(sent))):
            return limited
        else:
            found = engagements.take(sent, consent, self._context(head, site, "api"), os.urandom)
        return self._wanted(Taken(found, site, rejections=self._rejections(found, site, body)))

    def _wanted(self, taken: Taken) -> Taken | Answer:
        """The answer at once where there is nothing to store."""
        return taken if taken.found.records else self.settle(taken, None)

    def _context(self, head: Head, site: Site, source: Source) -> Context:
        """What the edge knows about the sender. A server's own address and agent say nothing about the visitor."""
        fields = head.fields
        cookies = "" if head.origin == NULL_ORIGIN else head.get(b"cookie")
        ip = agent = language = ""
        if source not in ("api", "import"):
            ip = client_ip(head.peer, head.all(b"x-forwarded-for"), self._proxies) if self._proxies else head.peer
            agent, language = head.get(b"user-agent"), head.get(b"accept-language")
        return Context(
            now_ms=self._clock(),
            site=site,
            ip=ip,
            user_agent=agent,
            language=language,
            visitor_cookie=_first(_VISITOR, cookies) if cookies else "",
            epik_cookie=_first(_EPIK, cookies) if "_epik=" in cookies else "",
            opted_out=(b"sec-gpc" in fields and head.get(b"sec-gpc") == "1")
            or (b"dnt" in fields and head.get(b"dnt") == "1"),
            bot=is_bot(agent),
            source=source,
            suppressed=self.gate.suppressed,
        )

    # --- what became of it -> the answer ---

    def settle(self, taken: Taken, fault: LogError | None) -> Answer:
        """The answer once the records are durable, or the log said otherwise. Call it once: it counts."""
        found = taken.found
        if fault:
            reason = answers.log_reason(fault)
            named: Sequence[Record] | None = getattr(fault, "records", None)
            part = None if named is None else intake.in_part(found, named, reason)
            if part is None:
                _count(intake.refused([""] * len(found.outcomes), reason))
                return answers.of_refusal(reason)
            found = part
        if taken.rejections:
            self._committer.leave(taken.rejections)
        _count(found)
        cookie = answers.cookie(found.visitor, taken.site) if taken.cookies and found.visitor is not None else ""
        return answers.of_outcomes(found.outcomes, cookie)

    def _rejections(self, found: Intake, site: Site, body: bytes) -> Sequence[Record]:
        """What was refused, never what it said; so many a second at most."""
        if len(found.records) == len(found.outcomes) and not found.implied:
            return ()
        refused = [outcome for outcome in found.outcomes if outcome.status == "refused"]
        if not refused:
            return ()
        now_ms = self._clock()
        granted = self._allowance.take(len(refused), now_ms)
        if not granted:
            return ()
        payload_hash = blake2b(body, key=self.gate.snapshot.payload_key, digest_size=16).hexdigest()
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
        return [Record(REJECTED, 0, encode(rejection)) for rejection in rejections]


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


_BUSY: Final = intake.refused([""], "busy")


def _refused(found: Intake) -> Answer:
    _count(found)
    return answers.of_outcomes(found.outcomes)


def _count(found: Intake) -> None:
    """received = durable + dropped + refused, for every request."""
    outcomes = found.outcomes
    metrics.tally(metrics.RECEIVED, len(outcomes) + found.implied)
    if found.implied:
        metrics.tally(metrics.DURABLE, 1)
    if len(outcomes) == 1 and outcomes[0].status == "durable":
        metrics.tally(metrics.DURABLE, 1)
        return
    for (status, reason), count in Counter((outcome.status, outcome.reason) for outcome in outcomes).items():
        match status:
            case "durable":
                metrics.tally(metrics.DURABLE, count)
            case "dropped":
                metrics.tally(metrics.DROPPED.labels(reason), count)
            case "refused":
                metrics.tally(metrics.REFUSED.labels(reason), count)


SAMPLED: Final = 32
"""Of so many answers, the time of one is taken."""

_answers = itertools.count(1)


def count_answer(route: str, status: int, read_at: float | None) -> None:
    """An answer of a route of the metrics. `read_at`: when the request was received, of `time.monotonic`."""
    metrics.tally(_requests(route, status), 1)
    if read_at is not None and next(_answers) % SAMPLED == 0:
        metrics.ANSWER_MS.observe((time.monotonic() - read_at) * 1000)


@lru_cache(maxsize=256)
def _requests(route: str, status: int) -> Any:
    return metrics.REQUESTS.labels(route, str(status))


def _source(head: Head) -> Source:
    """Where events come from: Pinterest's pixel form, a browser (it names its origin), a server, or history."""
    if head.path.startswith("/v3"):
        return "pinterest"
    if _is_import(head):
        return "import"
    return "api" if head.path == "/v1/events" and head.origin is None else "tag"


def _is_import(head: Head) -> bool:
    """Whether a server says that it tells of what happened long ago."""
    return bool(head.query) and head.path == "/v1/events" and b"source=import" in head.query.split(b"&")


def _presented_key(head: Head) -> str:
    return presented_key(head.get(b"authorization"), head.get(b"x-api-key"))


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""
