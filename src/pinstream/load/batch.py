"""Pure: the records of a range -> the block that ClickHouse gets, and when a block is due.

The same range, read again by anybody at any time, gives the same bytes and the same token. That is what
lets ClickHouse drop a block it has and repair one it has half.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import NamedTuple
from zlib import crc32

from msgspec import Struct

from pinstream.eventlog.contract import Intent, Partition, Stored
from pinstream.load import deadletter
from pinstream.warehouse import schema


class Judged(NamedTuple):
    """Records of one partition, and the offsets of those among them that do not load."""

    records: list[Stored]
    bad: set[int]


class Insert(NamedTuple):
    """What goes into one table. ClickHouse takes it once, whatever is tried again."""

    table: str
    body: bytes
    token: str


class Block(NamedTuple):
    """A range of one partition, split into rows and dead letters."""

    token: str
    """`topic:partition:first-last:crc32`: the checksum tells a recreated log from the old one."""
    rows: bytes
    """JSONEachRow: each record's own bytes with its position spliced in front."""
    good: int
    dead: bytes
    """JSONEachRow for `rejected`: why, never what."""
    bad: int

    def inserts(self, topic: str) -> list[Insert]:
        """One or two, none of them empty. Refusals that are dead letters themselves go into the table of the others."""
        both = (
            Insert(schema.TABLE_OF_TOPIC[topic], self.rows, self.token),
            Insert("rejected", self.dead, f"{self.token}:dead"),
        )
        return [each for each in both if each.body]


def judge(records: Sequence[Stored], is_valid: Callable[[bytes], bool]) -> Judged:
    """Ask of each record whether it loads."""
    return Judged(list(records), {offset for offset, value, _ in records if not is_valid(value)})


def build(partition: Partition, judged: Judged, intent: Intent, secret: bytes) -> Block:
    """The block of what was judged: all of the partition's records from its position up to `intent.last`."""
    placed = b'{"k_partition":%d,"k_offset":%%d,"rollup_version":%d,%%s' % (partition.number, intent.rollup_version)
    rows: list[bytes] = []
    dead: list[bytes] = []
    checksum = 0
    for record in judged.records:
        offset, value, _ = record
        checksum = crc32(value, checksum)
        if offset in judged.bad:
            dead.append(placed % (offset, deadletter.rejection(partition.topic, record, secret)[1:]))
        else:
            rows.append(placed % (offset, value[1:]))
    token = f"{partition.topic}:{partition.number}:{judged.records[0].offset}-{intent.last}:{checksum:08x}"
    return Block(token, b"\n".join(rows), len(rows), b"\n".join(dead), len(dead))


class Pending(Struct):
    """Records of one partition that were read and not inserted yet; time is passed in."""

    max_rows: int
    max_bytes: int
    is_valid: Callable[[bytes], bool]
    records: list[Stored] = []
    bad: set[int] = set()
    """Offsets of those among them that do not load."""
    bytes_held: int = 0
    inserted_at: float = float("-inf")
    """Seconds on the caller's clock when the block before was inserted."""

    def add(self, records: Sequence[Stored]) -> None:
        """Take what was read. It is judged here, so that this is done while the block before is inserted."""
        judged = judge(records, self.is_valid)
        self.records += judged.records
        self.bad |= judged.bad
        self.bytes_held += _size(records)

    @property
    def full(self) -> bool:
        """A whole block waits: stop reading ahead."""
        return len(self.records) >= self.max_rows or self.bytes_held >= self.max_bytes

    def due(self, now: float, interval_s: float) -> bool:
        """Is it time to insert what is here?"""
        return bool(self.records) and (self.full or now - self.inserted_at >= interval_s)

    def holds(self, last: int) -> bool:
        """Is everything up to offset `last` here?"""
        return bool(self.records) and self.records[-1].offset >= last

    def take(self, last: int | None = None) -> Judged:
        """Remove and give the next block: up to offset `last`, else up to the bounds (one record at least)."""
        end = self._end_of_block() if last is None else bisect_right(self.records, last, key=_offset)
        taken, self.records = self.records[:end], self.records[end:]
        bad = {offset for offset in self.bad if offset <= taken[-1].offset}
        self.bad -= bad
        self.bytes_held -= _size(taken)
        return Judged(taken, bad)

    def _end_of_block(self) -> int:
        if self.bytes_held > self.max_bytes:
            reached = accumulate(map(len, map(_value, self.records[: self.max_rows])))
            return max(1, bisect_right(list(reached), self.max_bytes))
        return min(len(self.records), self.max_rows)


_offset = attrgetter("offset")
_value = attrgetter("value")


def _size(records: Sequence[Stored]) -> int:
    return sum(map(len, map(_value, records)))


def interval_s(at_least_s: float, insert_s: float, partitions: int) -> float:
    """Time between two inserts of a partition that leaves the writer at most half busy."""
    return max(at_least_s, 2 * insert_s * partitions)
