"""Pure: what was sent, what an answer says about each event of it, and whether that is what was expected.

A ledger holds counts only, so it stays small however long a run takes; whoever needs the ids of what was accepted
gets them from `book`, request by request.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from pinstream.demo.shoppers import COOKIE, Verdict
from pinstream.demo.shoppers import verdicts as said_of_events

MAX_TRIES: Final = 8
"""Of a request that is told to come again, or gets no answer."""
MAX_PAUSE_S: Final = 30.0
"""Between two tries, whatever Retry-After says."""
MAX_FAULTS: Final = 100
"""Different sentences about unexpected answers; the rest are counted as one."""
MAX_LISTED: Final = 100
"""Events that an answer names; more are refused together."""

DURABLE: Final = Verdict("durable")
AGAIN: Final = frozenset({"rate_limited", "busy", "log_full", "log_away", "log_uncertain"})
"""Reasons after which the same request, with the same event ids, is to be sent again (docs/http-api.md)."""


class Request(Struct, frozen=True, kw_only=True):
    """One request and the answer that it must get."""

    name: str
    """What it is called in locust's statistics; one of a few."""
    method: str = "POST"
    path: str = "/p/i"
    headers: dict[str, str] = {}
    body: bytes = b""
    event_ids: tuple[str, ...]
    """Of its events, in order; what is no event at all counts as one, with an empty id."""
    status: int = 204
    verdicts: tuple[Verdict, ...]
    """One an event."""
    visitor_id: str = ""
    """The only one that an answer's cookie may name."""
    withdraws: int = 0
    """Records of a withdrawal that it leaves beside its events."""
    table: str = "events"
    """Where its events are found in ClickHouse."""


class Answer(NamedTuple):
    """What came back. Status 0: nothing, the connection broke or the time was over."""

    status: int
    body: bytes = b""
    retry_after: str = ""
    dropped: str = ""
    """X-Pinstream-Dropped, which tells what a GIF cannot."""
    refused: str = ""
    """X-Pinstream-Refused, likewise."""
    cookies: Sequence[str] = ()
    """The lines of Set-Cookie."""


def told_to_wait(answer: Answer) -> bool:
    """Whether the server is well and asks to come again: 429, or 503 with Retry-After."""
    return answer.status == 429 or (answer.status == 503 and bool(answer.retry_after))


def verdicts(request: Request, answer: Answer) -> list[Verdict] | None:
    """What an answer says about each event of a request; None: send it again, with the same ids."""
    if answer.status == 0 or told_to_wait(answer):
        return None
    if request.method == "GET":
        return [_of_image(answer)]
    count = len(request.event_ids)
    listed = min(count, MAX_LISTED)
    found = said_of_events(answer.status, answer.body, listed) or [Verdict("unknown", f"http_{answer.status}")] * listed
    found += found[-1:] * (count - listed)
    return None if any(verdict.reason in AGAIN for verdict in found) else found


def _of_image(answer: Answer) -> Verdict:
    if answer.refused:
        return Verdict("refused", answer.refused)
    if answer.status != 200:
        return Verdict("unknown", f"http_{answer.status}")
    return Verdict("dropped", answer.dropped) if answer.dropped else DURABLE


def fault(request: Request, answer: Answer, found: Sequence[Verdict]) -> str:
    """What is wrong with a final answer, in one sentence that holds no id; empty: nothing."""
    if (answer.status, *found) != (request.status, *request.verdicts):
        return f"{request.name}: {_said(answer.status, found)}, not {_said(request.status, request.verdicts)}"
    if any(each not in ("", sent) for each, sent in zip(_named(answer), request.event_ids, strict=False)):
        return f"{request.name}: the answer names events of somebody else"
    if any(value not in ("", request.visitor_id) for value in cookies(answer.cookies)):
        return f"{request.name}: the cookie names somebody else"
    return ""


def _said(status: int, found: Sequence[Verdict]) -> str:
    words = dict.fromkeys(" ".join(filter(None, verdict)) for verdict in found)
    return f"{status} {', '.join(words)}".rstrip()


def _named(answer: Answer) -> list[str]:
    """Event ids in an answer's body."""
    try:
        return [result["event_id"] for result in msgspec.json.decode(answer.body).get("results") or []]
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        return []


def cookies(lines: Sequence[str]) -> Iterator[str]:
    """Values of the visitor's cookie among Set-Cookie lines; empty = it has expired."""
    for line in lines:
        try:
            morsel = SimpleCookie(line).get(COOKIE)
        except CookieError:
            continue
        if morsel is not None:
            yield morsel.value


def pause_s(answer: Answer, attempt: int, luck: float) -> float:
    """How long to wait before the next try. `attempt` counts from 0; `luck` in [0, 1) keeps a crowd from marching."""
    wanted = float(answer.retry_after) if answer.retry_after.isdigit() else 0.2 * 2.0**attempt
    return min(MAX_PAUSE_S, wanted) * (1 + luck / 4)


class Ledger:
    """What was answered to each class of user. Sums are over events where nothing else is said.

    Keys: `requests` (that were begun), `sent`, `durable`, `dropped:<reason>`, `refused:<reason>`, `withdrawn` (records
    of withdrawals that were no events), `told_to_wait` and `unheard` (requests), `resent` (events that went out once
    more, under their ids), `unexpected:<sentence>` (answers).
    """

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        """By class of user."""

    def sends(self, who: str, request: Request, *, again: bool) -> None:
        """A request goes out, for the first time or again."""
        counts = self.counts[who]
        counts["resent" if again else "sent"] += len(request.event_ids)
        counts["requests"] += not again

    def waits(self, who: str, answer: Answer) -> None:
        """A request was not answered finally."""
        self.counts[who]["told_to_wait" if told_to_wait(answer) else "unheard"] += 1

    def book(self, who: str, request: Request, answer: Answer, found: Sequence[Verdict]) -> tuple[str, list[str]]:
        """A request was answered finally: (what is wrong with that, ids of the events that are durable)."""
        counts = self.counts[who]
        for verdict in found:
            if verdict.status != "unknown":
                counts[":".join(filter(None, verdict))] += 1
        wrong = fault(request, answer, found)
        if wrong:
            self.wonder(who, wrong)
        elif request.withdraws:
            counts["withdrawn"] += request.withdraws
        durable = zip(request.event_ids, found, strict=True)
        return wrong, [event_id for event_id, verdict in durable if verdict == DURABLE]

    def wonder(self, who: str, sentence: str) -> None:
        """Something happened that must not."""
        counts = self.counts[who]
        known = [key for key in counts if key.startswith("unexpected:")]
        key = f"unexpected:{sentence}"
        counts[key if key in known or len(known) < MAX_FAULTS else "unexpected:and others"] += 1

    def take(self) -> dict[str, dict[str, int]]:
        """Everything since the last `take`, as plain data; the ledger is empty afterwards."""
        taken = {who: dict(counts) for who, counts in self.counts.items()}
        self.counts.clear()
        return taken

    def add(self, taken: Mapping[str, Mapping[str, int]]) -> None:
        """Add what another ledger gave."""
        for who, counts in taken.items():
            self.counts[who].update(counts)

    def report(self) -> dict[str, Any]:
        """The sum of all classes, and each class."""
        total: Counter[str] = Counter()
        for counts in self.counts.values():
            total.update(counts)
        return {**_report(total), "by_class": {who: _report(counts) for who, counts in sorted(self.counts.items())}}


def _report(counts: Counter[str]) -> dict[str, Any]:
    by_reason = {status: _by(counts, status) for status in ("dropped", "refused", "unexpected")}
    answered = counts["durable"] + sum(by_reason["dropped"].values()) + sum(by_reason["refused"].values())
    plain = ("requests", "sent", "resent", "durable", "withdrawn", "told_to_wait", "unheard")
    return {**{key: counts[key] for key in plain}, "unanswered": counts["sent"] - answered, **by_reason}


def _by(counts: Counter[str], kind: str) -> dict[str, int]:
    return {key.partition(":")[2]: n for key, n in sorted(counts.items()) if key.startswith(f"{kind}:")}
