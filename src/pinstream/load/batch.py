"""Pure: the records of a range -> the block that ClickHouse gets, and when a block is due.

The same range, read again by anybody at any time, gives the same bytes and the same token. That is what
lets ClickHouse drop a block it has and repair one it has half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from zlib import crc32

from msgspec import Struct

from pinstream.eventlog.contract import Intent, Partition, Stored
from pinstream.load import deadletter
from pinstream.warehouse import schema


class Judged(NamedTuple):
    """A record, and whether it loads."""

    record: Stored
    valid: bool


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


def build(partition: Partition, records: Sequence[Judged], intent: Intent, secret: bytes) -> Block:
    """The block of `records`, which are all of the partition's records from its position up to `intent.last`."""
    rows: list[bytes] = []
    dead: list[bytes] = []
    checksum = 0
    for record, valid in records:
        checksum = crc32(record.value, checksum)
        payload = record.value if valid else deadletter.rejection(partition.topic, record, secret)
        spliced = b'{"k_partition":%d,"k_offset":%d,"rollup_version":%d,%s' % (
            partition.number,
            record.offset,
            intent.rollup_version,
            payload[1:],
        )
        (rows if valid else dead).append(spliced)
    token = f"{partition.topic}:{partition.number}:{records[0].record.offset}-{intent.last}:{checksum:08x}"
    return Block(token, b"\n".join(rows), len(rows), b"\n".join(dead), len(dead))


class Pending(Struct):
    """Records of one partition that were read and not inserted yet; time is passed in."""

    max_rows: int
    max_bytes: int
    is_valid: Callable[[bytes], bool]
    records: list[Judged] = []
    bytes_held: int = 0
    inserted_at: float = float("-inf")
    """Seconds on the caller's clock when the block before was inserted."""

    def add(self, records: Sequence[Stored]) -> None:
        """Take what was read. It is judged here, so that this is done while the block before is inserted."""
        self.records += [Judged(record, self.is_valid(record.value)) for record in records]
        self.bytes_held += sum(len(record.value) for record in records)

    @property
    def full(self) -> bool:
        """A whole block waits: stop reading ahead."""
        return len(self.records) >= self.max_rows or self.bytes_held >= self.max_bytes

    def due(self, now: float, interval_s: float) -> bool:
        """Is it time to insert what is here?"""
        return bool(self.records) and (self.full or now - self.inserted_at >= interval_s)

    def holds(self, last: int) -> bool:
        """Is everything up to offset `last` here?"""
        return bool(self.records) and self.records[-1].record.offset >= last

    def take(self, last: int | None = None) -> list[Judged]:
        """Remove and give the next block: up to offset `last`, else up to the bounds (one record at least)."""
        end = self._end_of_block() if last is None else sum(record.offset <= last for record, _ in self.records)
        taken, self.records = self.records[:end], self.records[end:]
        self.bytes_held -= sum(len(record.value) for record, _ in taken)
        return taken

    def _end_of_block(self) -> int:
        total = 0
        for index, (record, _) in enumerate(self.records[: self.max_rows]):
            total += len(record.value)
            if total > self.max_bytes and index:
                return index
        return min(len(self.records), self.max_rows)


def interval_s(at_least_s: float, insert_s: float, partitions: int) -> float:
    """Time between two inserts of a partition that leaves the writer at most half busy."""
    return max(at_least_s, 2 * insert_s * partitions)
