"""Kafka with a spool in front: while Kafka is away, what it has not acknowledged is kept on disk, and drained later.

Kafka is away once it has acknowledged nothing for log.spool_after_s although something waits. From then on records
go straight to the spool (fsync, then the answer). What an append before that left behind goes there too: what is known
not to be in Kafka, to be drained; what may still arrive (at most two batches a partition: aiokafka takes no more),
marked uncertain, and struck when it does. Kafka is back when its topics are as set and it acknowledges a few of the
spooled records, or something uncertain. Then records go to Kafka again, and the spool is drained beside them.

Each process has a file of its own, and drains it and those whose process is gone: a file's `flock` says who may.

**Order.** The file keeps it, and the drain keeps the file's, so equal keys keep theirs *within* an outage. Between
spooled records and fresh ones there is none: the drain runs beside the traffic, so that an hour's outage does not
delay the present by another hour. An uncertain record, too, may arrive before those it was spooled after. Readers
go by an event's own time.

**Twice.** A record may arrive twice, with the same bytes: when a process dies while it is uncertain, or between its
acknowledgement and its deletion (one step of the drain at most). Events count once by their id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pinstream import metrics
from pinstream.errors import Fatal, LogError, Retryable, SetupFault, Uncertain
from pinstream.eventlog import spool_file
from pinstream.eventlog.contract import Bounds, Partition, Position, Record
from pinstream.eventlog.kafka import KafkaAppender, KafkaAway, KafkaConsumer, KafkaLog
from pinstream.eventlog.spool_backlog import Backlog, Part
from pinstream.eventlog.spool_file import SpoolFile
from pinstream.settings import Log as LogSettings

logger = logging.getLogger(__name__)

DRAIN_RECORDS: Final = 500  # of one step
DRAIN_RECORDS_PER_S: Final = 500  # at least, if Kafka takes them
DRAIN_SHARE: Final = 0.25  # of what Kafka takes
PROBE_RECORDS: Final = 10  # offered to see whether Kafka is back
PROBE_S: Final = 1.0  # between two looks for Kafka, and until the next try after a failure
MISFIT_S: Final = 10.0  # between two looks at topics that are not as set
WEDGED_S: Final = 15.0  # Kafka answers, and yet nothing is acknowledged: another connection
LOOK_S: Final = 5.0  # between two looks for files that a dead process left
CLOSE_S: Final = 1.0  # for each step of closing what Kafka's client holds


class SpoolingLog:
    """Kafka, written through a spool in `directory`. Of the settings it reads `spool_...` and `kafka_ack_...`."""

    def __init__(self, kafka: KafkaLog, directory: Path, settings: LogSettings) -> None:
        self._kafka = kafka
        self._directory = directory
        self._settings = settings

    async def appender(self) -> SpoolingAppender:
        """Open the spool, and Kafka if it answers within log.kafka_ack_timeout_ms, else as soon as it does.

        Raises:
            SetupFault: the spool cannot be written (a new file needs room on its disk), or Kafka answers and is not
                as set.
            Retryable: the disk has no room to take over the file of a dead process.
        """
        file = await SpoolFile.take(self._directory, self._settings.spool_max_bytes)
        appender = SpoolingAppender(self._kafka, self._directory, file, self._settings)
        try:
            await appender.start()
        except BaseException:
            await appender.aclose()
            raise
        return appender

    async def consumer(self, group: str, topics: Sequence[str]) -> KafkaConsumer:
        """See `KafkaLog`: what is still spooled is not there to be read."""
        return await self._kafka.consumer(group, topics)

    async def check(self) -> None:
        """See `KafkaLog`."""
        await self._kafka.check()

    async def inspect(self, group: str, topics: Sequence[str]) -> Mapping[Partition, tuple[Position, Bounds]]:
        """See `KafkaLog`."""
        return await self._kafka.inspect(group, topics)

    async def overdue(self, group: str, topics: Sequence[str], *, now_ms: int) -> Sequence[Partition]:
        """See `KafkaLog`."""
        return await self._kafka.overdue(group, topics, now_ms=now_ms)


class SpoolingAppender:
    """Appends to Kafka, or to the spool while Kafka is away. Within one event loop; appends may overlap."""

    def __init__(self, log: KafkaLog, directory: Path, file: SpoolFile, settings: LogSettings) -> None:
        self._log = log
        self._directory = directory
        self._settings = settings
        self._own = Backlog(file)
        self._adopted: Backlog | None = None
        self._hopeless: set[int] = set()  # files that are left alone from now on
        self._kafka: KafkaAppender | None = None
        self._connecting: asyncio.Task[KafkaAppender] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._away_since = time.monotonic()  # 0: it is there
        self._unanswered = 0  # appends, and parts of them, that wait for Kafka
        self._silent_since = 0.0  # since when they have, no acknowledgement having come; 0: nothing waits
        self._misfit: Fatal | None = None
        self._appending = 0
        self._something = asyncio.Event()  # to drain
        self._idle = asyncio.Event()
        self._closed = False

    async def start(self) -> None:
        """Connect, and begin to drain. Raises SetupFault if Kafka answers and is not as set."""
        self._connecting = asyncio.create_task(self._connect(), name="spool: connect to Kafka")
        await asyncio.wait([self._connecting], timeout=self._settings.kafka_ack_timeout_ms / 1000)
        try:
            if not self._connecting.done():
                raise KafkaAway(f"Kafka at {self._settings.kafka_bootstrap} does not answer yet.")
            self._kafka = self._connecting.result()
            self._away_since = 0.0
        except (KafkaAway, LogError) as exc:
            logger.warning("%s Until it does, records go to the spool.", exc)
        metrics.SPOOLING.set(1 if self._away_since else 0)
        self._tending = asyncio.create_task(self._tend(), name="spool: drain")

    async def _connect(self) -> KafkaAppender:
        return await self._log.appender(ack_timeout_ms=self._settings.kafka_ack_timeout_ms)

    # --- the hot path

    async def append(self, records: Sequence[Record]) -> None:
        """See `contract.Appender`. Durable is in Kafka, or in the spool."""
        if self._closed:
            raise Retryable("This appender is closed.")
        if not records:
            return
        self._appending += 1
        try:
            await self._append(records)
        finally:
            self._appending -= 1
            if not self._appending:
                self._idle.set()

    async def _append(self, records: Sequence[Record]) -> None:
        self._look_at_silence()
        if self._away_since or self._kafka is None:
            self._log.refuse(records)
            await self._keep(records)
            return
        try:
            await self._send(self._kafka, records)
        except Retryable as exc:
            await self._keep(records if exc.records is None else exc.records)
        except Uncertain as exc:
            open_ = {id(record) for part, _ in exc.parts for record in part}
            try:
                await self._keep([record for record in exc.records if id(record) not in open_], exc.parts)
            except Retryable as full:
                raise exc from full

    async def _send(self, kafka: KafkaAppender, records: Sequence[Record]) -> None:
        """Append to Kafka, and note for how long it leaves us without an acknowledgement."""
        self._silent_since = self._silent_since or time.monotonic()
        self._unanswered += 1
        acknowledged = False
        try:
            await kafka.append(records)
            acknowledged = True
        except Uncertain as exc:
            for _, settled in exc.parts:
                self._unanswered += 1
                settled.add_done_callback(lambda part: self._answered(part.result()))
            raise
        finally:
            self._answered(acknowledged)

    def _answered(self, acknowledged: bool) -> None:
        self._unanswered -= 1
        if not acknowledged:
            self._look_at_silence()
        if acknowledged or not self._unanswered:
            self._silent_since = 0.0

    def _look_at_silence(self) -> None:
        silent_s = time.monotonic() - self._silent_since if self._silent_since else 0.0
        if silent_s > self._settings.spool_after_s and not self._away_since:
            self._went_away(f"nothing acknowledged for {silent_s:.1f} s")

    async def _keep(self, records: Sequence[Record], parts: Sequence[Part] = ()) -> None:
        try:
            await self._own.keep(records, parts)
        except Retryable as exc:
            exc.records = records
            raise
        self._something.set()

    def _went_away(self, why: str) -> None:
        self._away_since = time.monotonic()
        metrics.SPOOLING.set(1)
        self._something.set()
        logger.warning("Kafka is away (%s): records go to the spool.", why)

    async def ready(self) -> None:
        """See `contract.Appender`. Either of the two is enough, except where the topics are not as set."""
        if self._closed:
            raise Retryable("This appender is closed.")
        if self._tending is None or self._tending.done():
            raise Fatal("The spool is not drained any more. Restart this process, and look at its log.")
        if self._misfit is not None:
            raise self._misfit
        try:
            await self._own.file.ready()
        except LogError:
            if self._kafka is None or self._away_since:
                raise
            await self._kafka.ready()

    async def aclose(self) -> None:
        """Stop within a few seconds. What Kafka has not acknowledged is in the spool by then: nothing is flushed."""
        if self._closed:
            return
        self._closed = True
        await _cancelled(self._tending)
        if self._appending:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.kafka_ack_timeout_ms / 1000 + CLOSE_S):
                    await self._idle.wait()
        await _cancelled(self._connecting)
        if self._kafka is not None:
            await self._kafka.aclose(within_s=CLOSE_S)
        await asyncio.gather(*(backlog.aclose() for backlog in self._backlogs()))

    # --- Kafka's coming back, and the drain: one task

    async def _tend(self) -> None:
        while True:
            try:
                if self._kafka is None or self._away_since:
                    await self._come_back()
                else:
                    await self._drain(self._kafka)
            except (LogError, KafkaAway) as exc:
                if not self._away_since:
                    self._went_away(str(exc))
                await asyncio.sleep(PROBE_S)
            except SetupFault as exc:
                self._differs(exc)
                await asyncio.sleep(MISFIT_S)

    def _differs(self, exc: SetupFault) -> None:
        if self._misfit is None or str(self._misfit) != str(exc):
            logger.error("%s Until then records go to the spool, and this process is not ready.", exc)
        self._misfit = Fatal(str(exc))

    async def _come_back(self) -> None:
        """One try to find Kafka back: fit, and with an acknowledgement."""
        if self._kafka is None:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect(), name="spool: connect to Kafka")
            connecting, self._connecting = self._connecting, None
            self._kafka = await connecting
        else:
            await self._log.check()
        self._misfit = None
        if open_ := {settled for backlog in self._backlogs() for settled in backlog.open}:
            if not await self._late_acknowledgement(open_):
                return
        else:
            await self._drain_one(self._kafka, PROBE_RECORDS)
        logger.info("Kafka is back after %.0f s.", time.monotonic() - self._away_since)
        self._away_since = self._silent_since = 0.0
        metrics.SPOOLING.set(0)

    async def _late_acknowledgement(self, open_: set[asyncio.Future[bool]]) -> bool:
        """True if something uncertain arrived. Kafka answers, so when nothing is ever settled, it is our connection."""
        done, _ = await asyncio.wait(open_, timeout=WEDGED_S, return_when=asyncio.FIRST_COMPLETED)
        if not done and self._kafka is not None:
            self._kafka.renew()
        return any(settled.result() for settled in done)

    def _backlogs(self) -> list[Backlog]:
        return [self._own] if self._adopted is None else [self._own, self._adopted]

    async def _drain_one(self, kafka: KafkaAppender, most_records: int) -> int:
        for backlog in self._backlogs():
            if drained := await backlog.drain(kafka, most_records):
                return drained
        return 0

    async def _drain(self, kafka: KafkaAppender) -> None:
        """One step, with the rest that keeps the pace; or wait for something to drain."""
        self._something.clear()
        started = time.monotonic()
        drained = await self._drain_one(kafka, DRAIN_RECORDS)
        if drained:
            await asyncio.sleep(rest_s(drained, time.monotonic() - started))
        elif not await self._next_orphan():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._something.wait()

    async def _next_orphan(self) -> bool:
        """Give back the file that is drained, take the next that a dead process left. False if there is none."""
        if self._adopted is not None:
            if self._adopted.open:
                return False
            backlog, self._adopted = self._adopted, None
            if backlog.file.records:  # Kafka refuses them, as it would again
                self._hopeless.add(backlog.file.number)
            await backlog.aclose()
        for number in await asyncio.to_thread(spool_file.orphans, self._directory):
            if number in self._hopeless:
                continue
            try:
                file = await SpoolFile.adopt(self._directory, number, self._settings.spool_max_bytes)
            except (LogError, SetupFault) as exc:
                logger.warning("%s", exc)
                continue
            if file is not None:
                logger.info("Spool file %d has lost its process: its %d records are drained.", number, file.records)
                self._adopted = Backlog(file)
                return True
        return False


class Drained(NamedTuple):
    """What `drain_orphans` did, in records."""

    drained: int
    left: int
    """In files of dead processes: Kafka refuses them, or they cannot be read."""
    held: int
    """In files that living processes hold, and drain themselves."""


async def drain_orphans(
    log: KafkaLog, directory: Path, settings: LogSettings, report: Callable[[int, int], None]
) -> Drained:
    """Drain the files of dead processes now, at full speed.

    `report` is told a file's number and how many records it has left, after each step.

    Raises:
        SetupFault: Kafka is away or not as set, or a file cannot be mended.
        LogError: Kafka went away; what it took is deleted.
    """
    drained = left = 0
    numbers = await asyncio.to_thread(spool_file.orphans, directory)
    if not numbers:
        return Drained(drained, left, await asyncio.to_thread(_held, directory))
    kafka = await log.appender(ack_timeout_ms=settings.kafka_ack_timeout_ms)
    try:
        for number in numbers:
            file = await SpoolFile.adopt(directory, number, settings.spool_max_bytes)
            if file is None:
                continue
            backlog, before = Backlog(file), file.records
            try:
                while await backlog.drain(kafka, DRAIN_RECORDS):
                    report(number, file.records)
            finally:
                await backlog.aclose()
            drained += before - file.records
            left += file.records
    finally:
        await kafka.aclose()
    return Drained(drained, left, await asyncio.to_thread(_held, directory))


def _held(directory: Path) -> int:
    return sum(each.records for each in spool_file.standing(directory) if each.holder is not None)


def rest_s(records: int, took_s: float) -> float:
    """How long to rest after draining so many: the share of Kafka's time, unless that is slower than the least pace."""
    return max(0.0, min(took_s / DRAIN_SHARE, records / DRAIN_RECORDS_PER_S) - took_s)


async def _cancelled(task: asyncio.Task[object] | asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
