"""Log -> ClickHouse, exactly once, as one loop to read from top to bottom.

For every block: commit an *intent* (position, last offset, versions), insert the block under a token that
names its range and checksum, go on. The next intent acknowledges the block before. Whoever takes a partition
over reads position and intent afresh and repeats exactly that range, so that ClickHouse drops or repairs it.
The proof and the traps: docs/decisions/0003-intents-live-in-the-committed-position.md.

The loop itself only reads the log, which also keeps its membership alive. What takes longer is a task: taking the
partitions over is one, and then each partition has at most one, so that its blocks go in one after the other while
those of another partition are made and committed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from msgspec import Struct

from pinstream import event, metrics
from pinstream.errors import (
    Fatal,
    Fenced,
    PinstreamError,
    PositionLost,
    Retryable,
    WarehouseAway,
    WarehouseError,
)
from pinstream.eventlog.contract import Bounds, Consumer, Intent, Log, Partition, Position, Stored
from pinstream.load import batch, deadletter, lag
from pinstream.settings import Load
from pinstream.warehouse import flips, migrate, queries, rollup, schema
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.flips import Flip

logger = logging.getLogger(__name__)
T = TypeVar("T")

GROUP: Final = "load"
TOPICS: Final = (event.EVENTS, event.ENGAGEMENTS, event.REJECTED)
POLL_S: Final = 0.2
READ_AHEAD_S: Final = 0.02
"""Between two looks for records while a task runs and the last look has found none."""
INSERTS: Final = 2
"""Blocks inserted at a time, of different partitions. More gain nothing (docs/benchmarks.md) and cost memory there."""
FLIP_S: Final = 0.5
"""Between two looks at the rollup version that new records get."""
HELD_S: Final = 60.0
"""A rebuild that holds the load for so long is dead: what it left is put in order here."""
PROOF_S: Final = 30.0
"""A loader that has not committed for so long may have been asleep: it proves its ownership before it inserts."""
RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses between tries while ClickHouse or the log is away; the last one repeats."""


class Lane(Struct):
    """One partition owned by this process."""

    pending: batch.Pending
    replay: Intent | None
    """An intent found open: the next block is exactly its range."""
    position: int
    """Offset from which nothing is inserted yet."""
    version: int
    """Rollup version that the last commit named."""
    acknowledged: bool = True
    """Is `position` committed?"""


class _Stopped(Exception):
    """Told to stop while waiting for ClickHouse or the log. An intent may be open; the next loader repeats it."""


class Loader:
    """One process's part of the group `load`."""

    def __init__(
        self,
        log: Log,
        warehouse: Warehouse,
        settings: Load,
        secret: bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`secret` keys the hashes of dead letters; `clock` counts seconds."""
        self._log = log
        self._warehouse = warehouse
        self._settings = settings
        self._secret = secret
        self._clock = clock
        self._lanes: dict[Partition, Lane] = {}
        self._generation = -1
        self._insert_s = 0.0
        self._proven_at = float("-inf")
        self._tasks: dict[Partition | None, asyncio.Task[None]] = {}
        """What runs for a partition; under None the taking over, which runs alone."""
        self._inserting = asyncio.Semaphore(INSERTS)
        self._more = False
        """The last poll gave something, so there may be more."""
        self._judged: dict[str, list[tuple[int, int]]] = {}
        """Topic -> (bad, all) of the latest blocks."""
        self._waiting_for: dict[str, WarehouseAway | Retryable] = {"log": Retryable("Not a member of the group yet.")}
        self._flip = Flip(0, False)
        """The newest step of the rollup version that was seen."""
        self._stop = asyncio.Event()

    async def ready(self) -> None:
        """Return if a block would go through now, or if this is a standby; raise what is in the way otherwise."""
        if self._waiting_for:
            raise next(iter(self._waiting_for.values()))
        await self._warehouse.ping()

    async def run(self, stop: asyncio.Event) -> None:
        """Load until `stop` is set.

        Raises:
            PositionLost: the stored position does not fit the log or ClickHouse; the message says what to do.
            Fatal: too many bad records in a block, or an intent of a newer version.
            QueryFailed: ClickHouse refuses the rows; the schema and this program disagree.
        """
        self._stop = stop
        consumer = await self._log.consumer(GROUP, TOPICS)
        watching = [
            asyncio.create_task(lag.watch(self._log, GROUP, TOPICS), name="lag"),
            asyncio.create_task(self._watch_flips(), name="rollup version"),
        ]
        try:
            while not stop.is_set():
                try:
                    await self._turn(consumer)
                except Fenced as exc:
                    logger.warning("Another loader owns the partition now: %s", exc)
                    self._lanes.clear()
                except Retryable as exc:
                    logger.warning("The log does not answer, waiting: %s", exc)
                    self._waiting_for["log"] = exc
                    await asyncio.sleep(RETRY_S[-2])
                except _Stopped:
                    break
                else:
                    if consumer.generation == self._generation:
                        self._waiting_for.pop("log", None)
            await self._come_to_rest(consumer)
        finally:
            for task in (*watching, *self._tasks.values()):
                task.cancel()
            await asyncio.gather(*watching, *self._tasks.values(), return_exceptions=True)
            await consumer.aclose()

    async def _turn(self, consumer: Consumer) -> None:
        """Read on, take what the ended tasks raise, and begin what is due. Everything ends before a taking over."""
        await self._read_on(consumer)
        self._reap()
        if consumer.generation != self._generation:
            if not self._tasks:
                self._begin(None, self._take_over(consumer))
            return
        for partition, lane in self._lanes.items():
            if partition not in self._tasks and (self._outdated(lane) or self._due(lane) or self._idle(lane)):
                self._begin(partition, self._advance(consumer, partition, lane))

    def _begin(self, partition: Partition | None, work: Coroutine[Any, Any, None]) -> None:
        name = f"{partition.topic}/{partition.number}" if partition else "taking over"
        self._tasks[partition] = asyncio.create_task(work, name=name)

    def _reap(self) -> None:
        """Forget the tasks that have ended. Raises what the first of them raised; the others are left to the next."""
        for partition, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[partition]
                task.result()

    async def _read_on(self, consumer: Consumer) -> None:
        """Wait for records or the end of a task, whatever comes first, and buffer what was read."""
        if self._tasks:
            timeout_s = 1.0 if self._full == consumer.assignment() else 0 if self._more else READ_AHEAD_S
            await asyncio.wait(self._tasks.values(), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            await self._read(consumer, 0)
        else:
            await self._read(consumer, 0 if any(map(self._due, self._lanes.values())) else POLL_S)

    async def _advance(self, consumer: Consumer, partition: Partition, lane: Lane) -> None:
        """One step of a partition."""
        if self._outdated(lane):
            await self._close(consumer, partition, lane, self._flip.version)
        if self._due(lane):
            await self._load_block(consumer, partition, lane)
        elif self._idle(lane):
            await self._acknowledge(consumer, partition, lane)

    async def _read(self, consumer: Consumer, timeout_s: float) -> None:
        """Buffer what comes next in the partitions whose next block is not all here; under a new generation nothing."""
        paused = self._full if consumer.generation == self._generation else consumer.assignment()
        got = await consumer.poll(timeout_s=timeout_s, max_records=self._settings.block_rows, paused=paused)
        self._more = bool(got)
        if consumer.generation == self._generation:
            for partition, records in got.items():
                self._lanes[partition].pending.add(records)

    @property
    def _full(self) -> frozenset[Partition]:
        return frozenset(partition for partition, lane in self._lanes.items() if self._reads_enough(lane))

    async def _watch_flips(self) -> None:
        """Learn of a new rollup version, and end what a dead rebuild left."""
        held_since = self._clock()
        while True:
            await asyncio.sleep(FLIP_S)
            try:
                self._flip = max(self._flip, await flips.latest(self._warehouse))
                if self._flip.open:
                    held_since = self._clock()
                elif self._clock() - held_since > HELD_S:
                    held_since = self._clock()
                    async with migrate.lock(self._warehouse, wait_s=0) as still_ours:
                        logger.warning("%s", await rollup.recover(self._warehouse, still_ours))
            except WarehouseError as exc:
                logger.debug("The rollup version is unknown: %s", exc)
            except PinstreamError as exc:  # such as a rebuild of a newer program's: the version must be watched on
                logger.warning("What a rebuild has left cannot be put in order: %s", exc)

    # --- taking over ---------------------------------------------------------------------------------

    async def _take_over(self, consumer: Consumer) -> None:
        """Throw away what is buffered, read positions and intents afresh, continue there."""
        generation = consumer.generation
        self._lanes.clear()
        for partition in sorted(consumer.assignment()):
            position = await consumer.position(partition)
            bounds = await consumer.bounds(partition)
            newest = await self._patiently(consumer, partial(self._newest, partition), generation)
            blank = await self._patiently(consumer, partial(queries.knows_nothing, self._warehouse), generation)
            flip = await self._patiently(consumer, partial(flips.latest, self._warehouse), generation)
            if consumer.generation != generation:
                return
            self._flip = max(self._flip, flip)
            start = starting_offset(partition, position, bounds, newest, blank=blank)
            consumer.seek(partition, start)
            pending = batch.Pending(
                max_rows=self._settings.block_rows,
                max_bytes=self._settings.block_bytes,
                is_valid=deadletter.CHECKS[partition.topic],
            )
            version = position.intent.rollup_version if position.intent else 0
            self._lanes[partition] = Lane(pending, replay=_open(position), position=start, version=version)
            logger.info("Loading %s/%d from offset %d", partition.topic, partition.number, start)
        self._generation = generation

    # --- one block -----------------------------------------------------------------------------------

    def _reads_enough(self, lane: Lane) -> bool:
        return lane.pending.holds(lane.replay.last) if lane.replay else lane.pending.full

    def _outdated(self, lane: Lane) -> bool:
        return not lane.replay and lane.version < self._flip.version

    def _due(self, lane: Lane) -> bool:
        if lane.replay:
            return lane.pending.holds(lane.replay.last)
        if not self._flip.open or lane.version != self._flip.version:
            return False
        interval_s = batch.interval_s(self._settings.interval_s, self._insert_s, len(self._lanes))
        return lane.pending.due(self._clock(), interval_s)

    async def _load_block(self, consumer: Consumer, partition: Partition, lane: Lane) -> None:
        judged = lane.pending.take(lane.replay.last if lane.replay else None)
        first, newest = judged.records[0].offset, judged.records[-1]
        if lane.replay:
            intent = lane.replay
            metrics.REPLAYED.inc()
        else:
            intent = Intent(last=newest.offset, rollup_version=lane.version, format=deadletter.FORMAT)
        block = batch.build(partition, judged, intent, self._secret)
        if not lane.replay:
            self._refuse_a_bad_deploy(partition, block)
            await self._commit(consumer, partition, first, intent)
            lane.acknowledged = True  # that commit acknowledged the block before
        prove = partial(self._prove, consumer, partition, first, intent)
        async with self._inserting:
            started = self._clock()
            await self._insert(consumer, partition, block, prove)
            self._insert_s = 0.8 * self._insert_s + 0.2 * (self._clock() - started)
        lane.replay = None
        lane.position = intent.last + 1
        lane.acknowledged = False
        lane.pending.inserted_at = self._clock()
        self._measure(partition, block, newest)

    def _refuse_a_bad_deploy(self, partition: Partition, block: batch.Block) -> None:
        """Raise Fatal if too many of the latest records are bad. Small blocks are judged together with those before."""
        judged = self._judged.setdefault(partition.topic, [])
        judged.append((block.bad, block.good + block.bad))
        while sum(total for _, total in judged[1:]) >= self._settings.bad_ratio_min_records:
            del judged[0]
        bad, total = sum(bad for bad, _ in judged), sum(total for _, total in judged)
        if deadletter.too_many(
            bad,
            total,
            max_ratio=self._settings.max_bad_ratio,
            min_records=self._settings.bad_ratio_min_records,
        ):
            raise Fatal(
                f"{bad} of the latest {total} records up to {block.token} are not valid: load stops before them. Find "
                f"what writes them; to load the good ones and dead-letter the rest, raise load.max_bad_ratio."
            )

    async def _insert(
        self, consumer: Consumer, partition: Partition, block: batch.Block, prove: Callable[[], Awaitable[None]]
    ) -> None:
        for table, body, token in block.inserts(partition.topic):
            insert = partial(self._warehouse.insert, table, schema.insert_columns(table), body, token=token)
            await self._patiently(consumer, insert, self._generation, prove)

    async def _prove(self, consumer: Consumer, partition: Partition, first: int, intent: Intent) -> None:
        """Commit the same intent again if the last commit is long ago. Raises Fenced if the partition is lost.

        ClickHouse remembers tokens for a limited number of blocks: a loader that slept through as many must not insert.
        """
        if self._clock() - self._proven_at > PROOF_S:
            await self._commit(consumer, partition, first, intent)

    async def _newest(self, partition: Partition) -> int | None:
        since_ms = self._settings.positions_from_ms
        return await queries.newest_offset(self._warehouse, *partition, since_ms=since_ms)

    async def _patiently(
        self,
        consumer: Consumer,
        act: Callable[[], Awaitable[T]],
        generation: int,
        prove: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """Do it until it succeeds.

        Raises:
            _Stopped: told to stop before it succeeded.
            Fenced: the assignment is no longer that of `generation`, or `prove` says so.
        """
        attempt = 0
        while True:
            if prove:
                await prove()
            if consumer.generation != generation:
                raise Fenced("The partitions were assigned anew.")
            try:
                result = await act()
            except WarehouseAway as exc:
                if attempt % 12 == 0:
                    logger.warning("ClickHouse does not answer, waiting: %s", exc)
                self._waiting_for["ClickHouse"] = exc
            else:
                self._waiting_for.pop("ClickHouse", None)
                return result
            await self._pause(attempt)
            attempt += 1

    async def _pause(self, attempt: int) -> None:
        """Wait before the next try. Raises _Stopped if told to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), RETRY_S[min(attempt, len(RETRY_S) - 1)])
        if self._stop.is_set():
            raise _Stopped

    # --- acknowledging -------------------------------------------------------------------------------

    def _idle(self, lane: Lane) -> bool:
        quiet_s = self._clock() - lane.pending.inserted_at
        return not lane.acknowledged and not lane.pending.records and quiet_s >= 1.0

    async def _acknowledge(self, consumer: Consumer, partition: Partition, lane: Lane) -> None:
        """Commit the end of the last block with no open intent, so that an idle night leaves none open."""
        if not lane.acknowledged:
            await self._close(consumer, partition, lane, lane.version)

    async def _close(self, consumer: Consumer, partition: Partition, lane: Lane, version: int) -> None:
        """Commit that everything up to here is inserted, and that from here on `version` counts.

        An intent of no record says so. A rebuild waits until every partition has said it, and nobody takes it back:
        the next owner of the partition begins with the version that it finds committed.
        """
        closed = Intent(last=lane.position - 1, rollup_version=version, format=deadletter.FORMAT)
        await self._commit(consumer, partition, lane.position, closed)
        lane.version = version
        lane.acknowledged = True

    async def _come_to_rest(self, consumer: Consumer) -> None:
        """End what runs, and acknowledge what is inserted."""
        try:
            while self._tasks:
                await self._read_on(consumer)
                with suppress(_Stopped):
                    self._reap()
            for partition, lane in self._lanes.items():
                if consumer.generation == self._generation:
                    await asyncio.wait_for(self._acknowledge(consumer, partition, lane), timeout=5)
        except (Fenced, Retryable, TimeoutError, _Stopped):
            logger.warning("Stopped with an open intent; the next loader repeats that block, which changes nothing.")

    async def _commit(self, consumer: Consumer, partition: Partition, offset: int, intent: Intent | None) -> None:
        """Store position and intent; while the log is away, wait for it. Raises Fenced if the partition is lost."""
        attempt = 0
        while True:
            if consumer.generation != self._generation:
                raise Fenced(f"{partition.topic}/{partition.number} was assigned anew.")
            try:
                await consumer.commit(partition, offset, intent)
                self._proven_at = self._clock()
            except Retryable as exc:
                self._waiting_for["commit"] = exc
                logger.warning("The log does not take a commit, waiting: %s", exc)
                await self._pause(attempt)
                attempt += 1
            else:
                self._waiting_for.pop("commit", None)
                return

    def _measure(self, partition: Partition, block: batch.Block, newest: Stored) -> None:
        metrics.LOADED.labels(partition.topic).inc(block.good)
        metrics.DEAD_LETTERS.labels("bad_record").inc(block.bad)
        metrics.INSERT_MS.observe(self._insert_s * 1000)
        metrics.FRESHNESS_S.observe(max(0.0, time.time() - newest.appended_ms / 1000))


def starting_offset(
    partition: Partition, position: Position, bounds: Bounds, newest: int | None, *, blank: bool
) -> int:
    """Where to read on, given what is committed, what the log holds, and what ClickHouse holds. Pure.

    `newest`: the highest offset of the partition there, None for none; `blank`: no event ever came in there. The one
    without the other is nothing to wonder at: the rows of old history are deleted soon after they were counted.

    Raises:
        PositionLost: they contradict each other; going on would skip or double records.
        Fatal: the open intent is of a newer version of this program.
    """
    name = f"{partition.topic}/{partition.number}"
    intent = _open(position)
    if intent and intent.format > deadletter.FORMAT:
        raise Fatal(f"{name}: the open intent is of format {intent.format}; start the newer pinstream that wrote it.")
    if position.offset is None:
        if newest is not None:  # an intent is committed before the first insert
            raise PositionLost(f"{name}: no stored position, yet ClickHouse holds offset {newest}. {_MEND}")
        return bounds.first
    start, last_done = position.offset, intent.last if intent else position.offset - 1
    if start > bounds.end or (intent and intent.last >= bounds.end):
        raise PositionLost(
            f"{name}: offset {start} is beyond the log's end {bounds.end}: it was recreated or cut. {_MEND}"
        )
    if start < bounds.first:
        raise PositionLost(
            f"{name}: records {start} to {bounds.first - 1} were deleted before they were loaded. {_MEND}"
        )
    if newest is not None and newest > last_done:
        raise PositionLost(f"{name}: ClickHouse holds offset {newest}, beyond the stored position {start}. {_MEND}")
    if blank and intent is None and start > bounds.first and partition.topic == event.EVENTS:
        raise PositionLost(f"{name}: records up to {start - 1} were loaded, but ClickHouse holds none of them. {_MEND}")
    return start


def _open(position: Position) -> Intent | None:
    """The intent, if it is of any record: one that ends before the position only names the rollup version."""
    intent = position.intent
    return intent if intent and (position.offset is None or intent.last >= position.offset) else None


_MEND = (
    "Restore the log and the warehouse that belong together; or go on without with `pinstream load --reset-positions "
    "oldest` (the log or the warehouse is new: load all that the log holds) or `behind` (only the positions were lost: "
    "go on behind what ClickHouse holds)."
)
