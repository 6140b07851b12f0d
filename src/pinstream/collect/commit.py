"""Group commit: requests that come within a few milliseconds share one append to the log.

A request is answered after its group is durable. What waits is bounded in bytes; past that, requests are told to
come again instead of piling up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from pinstream import metrics
from pinstream.errors import Fatal, LogError, Retryable, Uncertain
from pinstream.eventlog.contract import Appender, Record
from pinstream.settings import Collect

logger = logging.getLogger(__name__)

MAX_GROUP_BYTES: Final = 8 << 20
DRAIN_S: Final = 10.0
RECORD_OVERHEAD_BYTES: Final = 200  # what a waiting record costs beside its value


class Parked(Protocol):
    """A request that waits for its records to be durable."""

    def settled(self, fault: LogError | None) -> None:
        """Called once, in the order of parking. None: all of its records are durable.

        Where a fault names `records`, they are records of this request, and its others are durable.
        """


class _Waiting(NamedTuple):
    records: Sequence[Record]
    size_bytes: int
    parked: Parked | None
    """None: nobody waits for these records."""


class _Future:
    """A parked coroutine."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settled(self, fault: LogError | None) -> None:
        if self.done.done():
            return
        if fault:
            self.done.set_exception(fault)
        else:
            self.done.set_result(None)


class Committer:
    """Collects records and appends them in groups. Use within one event loop; `start` before the first commit."""

    def __init__(self, appender: Appender, settings: Collect) -> None:
        self._appender = appender
        self._interval_s = settings.commit_interval_ms / 1000
        self._max_bytes = settings.max_pending_bytes
        self._parked: deque[_Waiting] = deque()
        self._pending_bytes = 0
        self._wake = asyncio.Event()
        self._awake = False  # asked before each `set`, which costs more
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to append."""
        self._task = asyncio.create_task(self._run(), name="group commit")

    async def commit(self, records: Sequence[Record]) -> None:
        """Return once every record is durable.

        Raises:
            Retryable: nothing was stored; `reason` is log_full if too much waits already, else log_away.
            LogError: whatever else the log raised. Where it (or a Retryable) names `records`, the others are durable.
        """
        waiting = _Future()
        self.park(records, waiting)
        await waiting.done

    def leave(self, records: Sequence[Record]) -> None:
        """Append the records with the next group, if there is room; nobody waits for them or hears of a failure."""
        try:
            self.park(records, None)
        except Retryable:
            logger.debug("No room for %d records that nobody waits for.", len(records))

    def check(self) -> None:
        """Raise Retryable if nothing can be committed now."""
        if self._closing or self._task is None or self._task.done():
            raise _stopping()
        if self._pending_bytes >= self._max_bytes:
            raise _full()

    async def aclose(self) -> None:
        """Take no more, append what waits (for DRAIN_S at most), then fail the rest as Retryable."""
        self._closing = True
        self._wake.set()
        if self._task:
            await asyncio.wait([self._task], timeout=DRAIN_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        group = list(self._parked)
        self._parked.clear()
        self._settle(group, _stopping())

    def park(self, records: Sequence[Record], parked: Parked | None) -> None:
        """Let `records` go with the next group, and tell `parked` what became of them.

        Raises:
            Retryable: as `commit` does, at once; `parked` hears nothing then.
        """
        size = RECORD_OVERHEAD_BYTES * len(records)
        for record in records:
            size += len(record.value)
        pending = self._pending_bytes + size
        if self._closing or pending > self._max_bytes or self._task is None or self._task.done():
            self.check()
            raise _full()
        self._pending_bytes = pending
        self._parked.append(_Waiting(records, size, parked))
        if not self._awake:
            self._awake = True
            self._wake.set()

    async def _run(self) -> None:
        last = 0.0
        while True:
            await self._wake.wait()
            if not self._parked:
                if self._closing:
                    return
                self._wake.clear()
                self._awake = False
                continue
            rest = 0.0 if self._closing else last + self._interval_s - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
            last = time.monotonic()
            await self._append_group(self._next_group())

    def _next_group(self) -> list[_Waiting]:
        metrics.PENDING_BYTES.set(self._pending_bytes)
        group = [self._parked.popleft()]
        size = group[0].size_bytes
        while self._parked and size + self._parked[0].size_bytes <= MAX_GROUP_BYTES:
            size += self._parked[0].size_bytes
            group.append(self._parked.popleft())
        return group

    async def _append_group(self, group: Sequence[_Waiting]) -> None:
        """Append, and tell what came of it. What the log refuses for good is found by halves; the order is kept."""
        parts = [group]  # the next one last
        try:
            while parts:
                fault = await self._append([record for waiting in parts[-1] for record in waiting.records])
                part = parts.pop()
                if isinstance(fault, Fatal) and len(part) > 1:
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
                    continue
                if isinstance(fault, Fatal):
                    logger.error("The log refuses a request for good: %s", fault)
                self._settle(part, fault)
        finally:
            for part in reversed(parts):
                self._settle(part, _stopping())

    async def _append(self, records: Sequence[Record]) -> LogError | None:
        started = time.monotonic()
        try:
            await self._appender.append(records)
        except LogError as exc:
            return exc
        except Exception:
            logger.exception("The log failed in a way nobody foresaw: these %d records may be in it.", len(records))
            return _unknown(records)
        metrics.APPEND_MS.observe((time.monotonic() - started) * 1000)
        metrics.GROUP_RECORDS.observe(len(records))
        return None

    def _settle(self, group: Sequence[_Waiting], fault: LogError | None) -> None:
        named = getattr(fault, "records", None)
        missing = None if named is None else {id(record) for record in named}
        for waiting in group:
            self._pending_bytes -= waiting.size_bytes
            if waiting.parked is None:
                continue
            try:
                waiting.parked.settled(fault if missing is None else _narrowed(fault, waiting.records, missing))
            except Exception:
                logger.exception("A request could not be answered for a reason nobody foresaw.")
        metrics.PENDING_BYTES.set(self._pending_bytes)
        metrics.flush()


def _narrowed(fault: LogError | None, records: Sequence[Record], missing: set[int]) -> LogError | None:
    """What a fault of a whole group means for the `records` of one request."""
    ours = [record for record in records if id(record) in missing]
    if not ours or fault is None:
        return None
    if isinstance(fault, Uncertain):
        return Uncertain(str(fault), ours, fault.settled)
    narrowed = Retryable(str(fault))
    narrowed.reason, narrowed.records = fault.reason, ours
    return narrowed


def _unknown(records: Sequence[Record]) -> Uncertain:
    """Nobody will ever tell whether they are in the log."""
    settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    settled.set_result(False)
    return Uncertain("The event log failed, and may have taken the records. Send again.", records, settled)


def _stopping() -> Retryable:
    return Retryable("This process is stopping. Send again: another one will answer.")


def _full() -> Retryable:
    full = Retryable("Too much waits for the event log already. Send again in a second.")
    full.reason = "log_full"
    return full
