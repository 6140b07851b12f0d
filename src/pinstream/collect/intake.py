"""Pure: a request as read + what the edge knows -> what to append, and what to tell the sender.

Everything that answers a request's events goes through here, so that the loss identity holds by construction:
every event becomes exactly one Outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from pinstream.collect import stamp
from pinstream.collect.stamp import Context, Dropped, Random, Sender
from pinstream.collect.wire import Wire
from pinstream.errors import Refused
from pinstream.event import CONSENT_WITHDRAWN, EVENTS, Event, RawEvent, canonical_name, encode
from pinstream.eventlog.contract import Record


class Outcome(NamedTuple):
    """What became of one event of a request."""

    event_id: str
    status: Literal["durable", "dropped", "refused"]
    reason: str = ""
    """A key of `event.REASONS`; empty for durable."""
    field: str = ""
    """Path of the fault in the input."""


class Intake(NamedTuple):
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
    return found._replace(outcomes=outcomes, records=kept, visitor=None)  # the cookie waits for the whole


def take(wire: Wire, context: Context, random: Random) -> Intake:
    """Stamp every event of a request of a known site."""
    who = stamp.sender(wire.envelope, context)
    withdrew = withdrawn = stamp.withdrew(who)
    outcomes: list[Outcome] = []
    records: list[Record] = []
    for place, event in enumerate(wire.events):
        outcome, record = _take_one(event, wire.event_ids[place], who, context, random)
        outcomes.append(outcome if outcome.field != _PROPS_PATH else _placed(outcome, place, wire))
        if record:
            records.append(record)
        if _withdraws(event):
            withdrew = False  # and no second record of it
            withdrawn = withdrawn or record is not None
    implied = None
    if withdrew:
        implied = stamp.withdrawal(who, context, "", context.now_ms, random)
    if implied:
        records.append(_record(implied))
    cookie = "" if withdrawn else (who.visitor or None) if records else None
    return Intake(outcomes, records, cookie, implied is not None)


def _take_one(
    event: RawEvent | Refused, event_id: str, who: Sender, context: Context, random: Random
) -> tuple[Outcome, Record | None]:
    if isinstance(event, Refused):
        return Outcome(event_id, "refused", event.reason, event.field), None
    try:
        stamped = stamp.stamp(event, who, context, random)
    except Refused as exc:
        return Outcome(event_id, "refused", exc.reason, exc.field), None
    if isinstance(stamped, Dropped):
        return Outcome(event_id, "dropped", stamped.reason), None
    return Outcome(stamped.event_id, "durable"), _record(stamped)


_PROPS_PATH: Final = "$.props"


def _placed(outcome: Outcome, place: int, wire: Wire) -> Outcome:
    """A fault that `stamp` found in props, with the event's place in a batch."""
    return outcome._replace(field=f"$.events[{place}].props") if wire.batch else outcome


def _record(event: Event) -> Record:
    return Record(EVENTS, event.visitor_id, encode(event))


def _withdraws(event: RawEvent | Refused) -> bool:
    return isinstance(event, RawEvent) and canonical_name(event.event) == CONSENT_WITHDRAWN
