"""Pure: a request as read + what the edge knows -> what to append, and what to tell the sender.

Everything that answers a request's events goes through here, so that the loss identity holds by construction:
every event becomes exactly one Outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from pinstream.collect import stamp
from pinstream.collect.stamp import Context, Dropped, Random
from pinstream.collect.values import is_uuid
from pinstream.collect.wire import Wire
from pinstream.errors import Refused
from pinstream.event import CONSENT_WITHDRAWN, EVENTS, RawEvent, canonical_name
from pinstream.eventlog.contract import Record


class Outcome(Struct, frozen=True):
    """What became of one event of a request."""

    event_id: str
    status: Literal["durable", "dropped", "refused"]
    reason: str = ""
    """A key of `event.REASONS`; empty for durable."""
    field: str = ""
    """Path of the fault in the input."""


class Intake(Struct, frozen=True):
    """What a request asks for."""

    outcomes: list[Outcome]
    """One an event, in input order. `durable` holds once `records` are appended."""
    records: list[Record]
    visitor: str | None = None
    """The visitor cookie to set; empty = expire it, None = leave it alone."""
    implied: bool = False
    """Whether a withdrawal was recorded that the client did not send as an event."""


def refused(event_ids: list[str], reason: str, field: str = "") -> Intake:
    """Every event of a request refused for one reason."""
    return Intake([Outcome(event_id, "refused", reason, field) for event_id in event_ids], [])


def in_part(found: Intake, missing: Sequence[Record], reason: str) -> Intake | None:
    """What is left where the log did not take the `missing` records, for `reason`; None if it took none of ours."""
    lost = {id(record) for record in missing}
    kept = [record for record in found.records if id(record) not in lost]
    if not kept:
        return None
    records = iter(found.records)  # one a durable outcome, in order
    outcomes = [
        Outcome(outcome.event_id, "refused", reason)
        if outcome.status == "durable" and id(next(records)) in lost
        else outcome
        for outcome in found.outcomes
    ]
    return replace(found, outcomes=outcomes, records=kept, visitor=None)  # the cookie waits for the whole


def take(wire: Wire, context: Context, random: Random) -> Intake:
    """Stamp every event of a request of a known site."""
    who = stamp.sender(wire.envelope, context)
    withdrew = withdrawn = stamp.withdrew(who)
    outcomes: list[Outcome] = []
    records: list[Record] = []
    for place, event in enumerate(wire.events):
        try:
            if isinstance(event, Refused):
                raise event
            stored = stamp.stamp(event, who, context, random)
        except Refused as exc:
            outcomes.append(Outcome(wire.event_ids[place], "refused", exc.reason, _placed(exc.field, place, wire)))
            continue
        if isinstance(stored, Dropped):
            outcomes.append(Outcome(wire.event_ids[place], "dropped", stored.reason))
        else:
            outcomes.append(Outcome(stored.event_id, "durable"))
            records.append(Record(EVENTS, stored.visitor_id, stored.value))
        if canonical_name(event.event) == CONSENT_WITHDRAWN:
            withdrew = False  # and no second record of it
            withdrawn = withdrawn or not isinstance(stored, Dropped)
    implied = stamp.withdrawal(who, context, *_told(wire, context), random) if withdrew else None
    if implied:
        records.append(Record(EVENTS, implied.visitor_id, implied.value))
    cookie = (who.visitor or None) if records else None
    if withdrawn:
        other = context.visitor_cookie.lower() != who.visitor and is_uuid(context.visitor_cookie.lower())
        cookie = None if other else ""  # a late no is not the cookie's
    return Intake(outcomes, records, cookie, implied is not None)


def _told(wire: Wire, context: Context) -> tuple[str, int]:
    """Id and time of a withdrawal that a request implies: one of its own, and now; of history those of what tells it.

    A no of long ago must not undo the yes that came after it, and is one however often its file is read.
    """
    told = [
        (raw.time, own_id) for raw, own_id in zip(wire.events, wire.event_ids, strict=True) if isinstance(raw, RawEvent)
    ]
    if context.source != "import" or not told:
        return "", 0
    said_ms, own_id = max(told)
    return f"{own_id}:no" if own_id else "", said_ms


_FOUND_BY_STAMP: Final = frozenset({"$.props", "$.time"})


def _placed(path: str, place: int, wire: Wire) -> str:
    """The path of a fault. `stamp` finds some, and knows nothing of batches."""
    return f"$.events[{place}]{path[1:]}" if path in _FOUND_BY_STAMP and wire.batch else path
