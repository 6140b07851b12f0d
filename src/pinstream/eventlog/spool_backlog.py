"""The way of one spool file's records into Kafka: oldest first, deleted once acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, ParamSpec, TypeVar

from pinstream import metrics
from pinstream.errors import Fatal, LogError, Retryable, Uncertain
from pinstream.eventlog.contract import Appender, Record
from pinstream.eventlog.spool_file import Kept, SpoolFile, State

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

Part = tuple[Sequence[Record], asyncio.Future[bool]]
"""Records that may still arrive, and the future that tells."""

DRAIN_BYTES: Final = 1 << 20  # of one step, unless one record is larger
RETRY_S: Final = 1.0  # until the disk is tried again
CLOSE_S: Final = 1.0  # for what has just been settled to be noted


class Backlog:
    """What one file holds that Kafka has not acknowledged."""

    def __init__(self, file: SpoolFile) -> None:
        self.file = file
        self.open: set[asyncio.Future[bool]] = set()
        """Each tells of some records of the file whether they arrived after all."""
        self._watchers: set[asyncio.Task[None]] = set()
        self._counted = (0, 0)
        self._measure(file.records, file.used_bytes)

    async def keep(self, absent: Sequence[Record], parts: Sequence[Part] = ()) -> None:
        """Return once all of them are durable: `absent` ones wait for the drain, the others until they are settled.

        Raises:
            Retryable: none was kept; `reason` is log_full if there is no room.
        """
        parts = [part for part in parts if not _has_arrived(part[1])]
        ranges = await self.file.add([(State.waiting, absent), *((State.uncertain, part) for part, _ in parts)])
        for seqs, (_, settled) in zip(ranges[1:], parts, strict=True):
            self._watch(seqs, settled)
        metrics.SPOOLED.inc(sum(map(len, ranges)))
        self._measure(self.file.records, self.file.used_bytes)

    async def drain(self, appender: Appender, most_records: int) -> int:
        """Append the oldest records that wait; returns how many it was about, 0 if none waits.

        A death in the middle leaves them in the file, so that at most this one step is repeated.

        Raises:
            LogError: the log did not take all of them; what it took is deleted.
        """
        rows = await _insist(self.file.oldest, most_records, DRAIN_BYTES)
        if rows:
            await self._deliver(rows, appender)
        return len(rows)

    async def _deliver(self, rows: Sequence[Kept], appender: Appender) -> None:
        try:
            await appender.append([row.record for row in rows])
        except Fatal as exc:
            await self._sort_out(rows, appender, exc)
        except Uncertain as exc:
            await self._in_kafka(_others(rows, exc.records))
            for records, settled in exc.parts:
                seqs = [row.seq for row in _those(rows, records)]
                await _insist(self.file.mark, seqs, State.uncertain)
                self._watch(seqs, settled)
            raise
        except Retryable as exc:
            if exc.records is None:
                raise
            await self._in_kafka(_others(rows, exc.records))
            await self._deliver(_those(rows, exc.records), appender)
        else:
            await self._in_kafka(rows)

    async def _sort_out(self, rows: Sequence[Kept], appender: Appender, exc: Fatal) -> None:
        """One of them, at least, is refused for good: find it by halves, and leave it where it is."""
        if len(rows) > 1:
            await self._deliver(rows[: len(rows) // 2], appender)
            await self._deliver(rows[len(rows) // 2 :], appender)
            return
        logger.error("A spooled record stays in the spool, %s Then restart collect: it is tried again.", exc)
        await _insist(self.file.mark, [rows[0].seq], State.refused)

    def _watch(self, seqs: Collection[int], settled: asyncio.Future[bool]) -> None:
        self.open.add(settled)
        task = asyncio.create_task(self._learn(seqs, settled), name="spool: a late acknowledgement")
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    async def _learn(self, seqs: Collection[int], settled: asyncio.Future[bool]) -> None:
        await asyncio.wait([settled])
        try:
            if settled.result():
                await self._forget(seqs)
            else:
                await _insist(self.file.mark, seqs, State.waiting)
        finally:
            self.open.discard(settled)

    async def _in_kafka(self, rows: Sequence[Kept]) -> None:
        if rows:
            await self._forget([row.seq for row in rows])

    async def _forget(self, seqs: Collection[int]) -> None:
        await _insist(self.file.forget, seqs)
        metrics.DRAINED.inc(len(seqs))
        self._measure(self.file.records, self.file.used_bytes)

    def _measure(self, records: int, used_bytes: int) -> None:
        metrics.SPOOL_RECORDS.inc(records - self._counted[0])
        metrics.SPOOL_BYTES.inc(used_bytes - self._counted[1])
        self._counted = (records, used_bytes)

    async def aclose(self) -> None:
        """Note what has been settled by now, then let another process have the file. Bounded."""
        if self._watchers:
            settling = list(self._watchers)
            await asyncio.wait(settling, timeout=CLOSE_S)
            for task in settling:
                task.cancel()
            await asyncio.gather(*settling, return_exceptions=True)
        await self.file.aclose()
        self._measure(0, 0)


async def _insist(work: Callable[P, Awaitable[T]], *arguments: P.args, **more: P.kwargs) -> T:
    """What Kafka has taken must be noted before anything else is drained, however long the disk takes."""
    while True:
        try:
            return await work(*arguments, **more)
        except LogError as exc:
            logger.warning("%s", exc)
            await asyncio.sleep(RETRY_S)


def _has_arrived(settled: asyncio.Future[bool]) -> bool:
    return settled.done() and settled.result()


def _those(rows: Sequence[Kept], records: Sequence[Record]) -> list[Kept]:
    named = {id(record) for record in records}
    return [row for row in rows if id(row.record) in named]


def _others(rows: Sequence[Kept], records: Sequence[Record]) -> list[Kept]:
    named = {id(record) for record in records}
    return [row for row in rows if id(row.record) not in named]
