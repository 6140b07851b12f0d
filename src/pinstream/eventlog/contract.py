"""What an event log promises, whichever it is: Kafka (`kafka.py`) or the journal (`journal.py`).

A log holds topics, a topic has partitions, a partition is a sequence of records whose offsets grow and
are never used twice (there may be holes). One contract suite runs on both: `tests/eventlog/test_contract.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

MAX_VALUE_BYTES: Final = 2_000_000
"""Of one record. A larger one is refused with Fatal."""


class Record(NamedTuple):
    """One record to append. `key` picks the partition: equal keys, equal partition; 0 = any partition."""

    topic: str
    key: int
    value: bytes


class Stored(NamedTuple):
    """One record as read back."""

    offset: int
    value: bytes
    appended_ms: int


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


class Intent(Struct, frozen=True, kw_only=True):
    """What a consumer was about to do with the records from its position up to `last`, inclusive.

    Stored with the position in one commit, so that whoever owns the partition next repeats exactly that.
    """

    last: int
    rollup_version: int
    format: int


class Position(NamedTuple):
    """What a consumer group has committed for a partition: the next offset, and an open intent if any."""

    offset: int | None
    """None: nothing was ever committed."""
    intent: Intent | None


class Bounds(NamedTuple):
    """A partition's extent: nothing at or after `first` was ever deleted, `end` is one past the newest record."""

    first: int
    end: int


class Appender(Protocol):
    """The writing side."""

    async def append(self, records: Sequence[Record]) -> None:
        """Return once every record is durable.

        Records with the same key keep their order, within one append and from one append to the next.

        Raises:
            Retryable: not in the log; the same may be offered again (`reason` log_away or log_full). Where
                `records` is set it names which, as the same objects; the others of this append are durable.
            Uncertain: `records` names those that are not known to be in the log, the others are durable;
                `settled` tells later whether all of them arrived.
            Fatal: the log will never take them (one is larger than MAX_VALUE_BYTES, its topic does not exist);
                none of them is in the log.
        """

    async def ready(self) -> None:
        """Return if an append would succeed now, as far as can be told without one; else raise a LogError."""

    async def aclose(self) -> None:
        """Stop within a bounded time. What was acknowledged stays."""


class Consumer(Protocol):
    """One member of a consumer group. Partitions come and go; every change raises `generation` by at least one."""

    @property
    def generation(self) -> int:
        """Changes whenever the assignment may have changed. What was buffered under another one is void."""

    def assignment(self) -> frozenset[Partition]:
        """The partitions owned now; empty while another member owns them (a standby)."""

    async def position(self, partition: Partition) -> Position:
        """Offset and intent as committed, read afresh from the log."""

    async def bounds(self, partition: Partition) -> Bounds:
        """Oldest and end offset now."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Continue reading at `offset`. Needed for every partition of the assignment after each new generation."""

    async def poll(
        self, *, timeout_s: float, max_records: int, paused: frozenset[Partition] = frozenset()
    ) -> Mapping[Partition, Sequence[Stored]]:
        """At most `max_records` next records, waiting up to `timeout_s` for the first one.

        Must be called at least every few seconds, with everything paused if need be: it keeps the membership alive.
        Returns nothing for partitions that were not sought yet.

        Raises:
            Retryable: the log does not answer; what was read so far stays read, poll again.
            PositionLost: the log no longer has the offset that was sought (`first` has passed it, or `end` is below).
        """

    async def commit(self, partition: Partition, offset: int, intent: Intent | None) -> None:
        """Store the position and the intent in one step.

        Raises:
            Fenced: another member owns the partition now, or it was not sought under this generation; the stored
                pair is unchanged.
            Retryable: the log does not answer; the pair may or may not be stored.
        """

    async def aclose(self) -> None:
        """Leave the group, so that another member takes over at once."""


class Log(Protocol):
    """A log that can be opened for writing and reading."""

    async def appender(self) -> Appender:
        """Open the writing side. Raises SetupFault with what to do if the log is not fit to be written."""

    async def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        """Join `group` on `topics`. Raises SetupFault with what to do if the log is not fit to be read."""

    async def check(self) -> None:
        """Return if the log could be opened for writing now, changing nothing; else raise SetupFault or a LogError."""

    async def inspect(self, group: str, topics: Sequence[str]) -> Mapping[Partition, tuple[Position, Bounds]]:
        """Where `group` stands and what the log holds, without joining. Raises Retryable if the log is away."""

    async def overdue(self, group: str, topics: Sequence[str], *, now_ms: int) -> Sequence[Partition]:
        """Where `group` has left records unread for more than half of the time after which the log deletes them.

        Raises Retryable if the log is away.
        """
