"""The sender's own books: what every event was answered. Afterwards the log is held against them, event by event."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

from msgspec import Struct

MAX_EVENTS: Final = 20_000_000  # a run's; the books take nine bytes an event
SHOWN: Final = 10  # events that are told one by one


class Fate(IntEnum):
    """What the sender was told about an event."""

    UNANSWERED = 0
    """Nothing: the connection died, or no answer came in time. It may be in the log or not."""
    DURABLE = 1
    DROPPED = 2
    REFUSED = 3


class Told(Struct, frozen=True):
    """One event that needs an explanation. Seconds since the run began."""

    event_id: str
    fate: str
    sent_s: float
    answered_s: float
    in_kafka: int


class Verdict(Struct, frozen=True):
    """The ledger held against the log. All are numbers of events."""

    sent: int
    answered: int
    """Answered durable."""
    missing: int
    """Of those: neither in Kafka nor in the spool."""
    doubled: int
    """Of those: more than once in Kafka, although sent once."""
    only_in_spool: int
    refused: int
    dropped: int
    unanswered: int
    refused_but_stored: int
    """Refused, and yet in the log: the edge said that it did not know, or gave up before the log did."""
    unanswered_but_stored: int
    strange: int
    """Records of events that this run did not send."""
    examples: tuple[Told, ...]
    """The first SHOWN missing or doubled ones."""


class Ledger:
    """Events are numbered from 0; the number is the end of the event's id, so one byte keeps its fate."""

    def __init__(self, run: int) -> None:
        """`run` tells runs apart: it is the first part of every event id."""
        self._prefix = f"{run & 0xFFFFFFFF:08x}-c4a0-4000-8000-"
        self._fates = bytearray()
        self._sent_s = array("f")
        self._answered_s = array("f")

    def __len__(self) -> int:
        return len(self._fates)

    def open(self, count: int, *, at_s: float) -> range:
        """Numbers of `count` new events, about to be sent. Raises OverflowError past MAX_EVENTS."""
        first = len(self._fates)
        if first + count > MAX_EVENTS:
            raise OverflowError(f"A run has at most {MAX_EVENTS} events: lower --rate or the time.")
        self._fates.extend(bytes(count))
        self._sent_s.extend([at_s] * count)
        self._answered_s.extend([0.0] * count)
        return range(first, first + count)

    def event_id(self, number: int) -> str:
        """A UUID."""
        return f"{self._prefix}{number:012x}"

    def number(self, event_id: str) -> int | None:
        """The inverse of `event_id`; None for an event that is not of this run."""
        if not event_id.startswith(self._prefix):
            return None
        number = int(event_id[len(self._prefix) :], 16)
        return number if number < len(self._fates) else None

    def answer(self, numbers: range, fates: Sequence[Fate], *, at_s: float) -> None:
        """What a request's events were answered, in its order."""
        for number, fate in zip(numbers, fates, strict=True):
            self._fates[number] = fate
            self._answered_s[number] = at_s

    def count(self, fate: Fate) -> int:
        """How many events have that fate so far."""
        return self._fates.count(fate)

    def held_against(self, kafka: Iterable[str], spool: Iterable[str]) -> Verdict:
        """The verdict over the event ids of all records in Kafka, and of those still in the spool."""
        times = array("H", bytes(2 * len(self)))
        spooled = bytearray(len(self))
        strange = 0
        for event_id in kafka:
            if (number := self.number(event_id)) is None:
                strange += 1
            else:
                times[number] = min(times[number] + 1, 0xFFFF)
        for event_id in spool:
            if (number := self.number(event_id)) is None:
                strange += 1
            else:
                spooled[number] = 1
        return self._verdict(times, spooled, strange)

    def _verdict(self, times: Sequence[int], spooled: bytearray, strange: int) -> Verdict:
        missing, doubled, only_in_spool = [], [], 0
        stored = [0] * len(Fate)
        for number, fate in enumerate(self._fates):
            stored[fate] += bool(times[number] or spooled[number])
            if fate != Fate.DURABLE:
                continue
            only_in_spool += bool(spooled[number] and not times[number])
            if times[number] > 1:
                doubled.append(number)
            elif not times[number] and not spooled[number]:
                missing.append(number)
        return Verdict(
            sent=len(self),
            answered=self.count(Fate.DURABLE),
            missing=len(missing),
            doubled=len(doubled),
            only_in_spool=only_in_spool,
            refused=self.count(Fate.REFUSED),
            dropped=self.count(Fate.DROPPED),
            unanswered=self.count(Fate.UNANSWERED),
            refused_but_stored=stored[Fate.REFUSED],
            unanswered_but_stored=stored[Fate.UNANSWERED],
            strange=strange,
            examples=tuple(self._told(number, times[number]) for number in (missing + doubled)[:SHOWN]),
        )

    def _told(self, number: int, in_kafka: int) -> Told:
        return Told(
            self.event_id(number),
            Fate(self._fates[number]).name.lower(),
            round(self._sent_s[number], 3),
            round(self._answered_s[number], 3),
            in_kafka,
        )
