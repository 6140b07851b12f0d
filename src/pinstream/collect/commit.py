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
from typing import Final, NamedTuple

from pinstream import metrics
from pinstream.errors import Fatal, LogError, Retryable
from pinstream.eventlog.contract import Appender, Record
from pinstream.settings import Collect

logger = logging.getLogger(__name__)

MAX_GROUP_BYTES: Final = 8 << 20
DRAIN_S: Final = 10.0
RECORD_OVERHEAD_BYTES: Final = 200  # what a waiting record costs beside its value


class _Parked(NamedTuple):
    records: Sequence[Record]
    size_bytes: int
    done: asyncio.Future[None] | None
    """None: nobody waits for these records."""


class Committer:
    """Collects records and appends them in groups. Use within one event loop; `start` before the first commit."""

    def __init__(self, appender: Appender, settings: Collect) -> None:
        self._appender = appender
        self._interval_s = settings.commit_interval_ms / 1000
        self._max_bytes = settings.max_pending_bytes
        self._parked: deque[_Parked] = deque()
        self._pending_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to append."""
        self._task = asyncio.create_task(self._run(), name="group commit")

    async def commit(self, records: Sequence[Record]) -> None:
        """Return once every record is durable.

        Raises:
            Retryable: nothing was stored; `reason` is log_full if too much waits already, else log_away.
            LogError: whatever else the log raised. Where it (or a Retryable) names `records`, those of ours that are
                not among them are durable.
        """
        done = asyncio.get_running_loop().create_future()
        self._park(records, done)
        await done

    def leave(self, records: Sequence[Record]) -> None:
        """Append the records with the next group, if there is room; nobody waits for them or hears of a failure."""
        try:
            self._park(records, None)
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
        _tell(group, _stopping())
        self._forget(group)

    def _park(self, records: Sequence[Record], done: asyncio.Future[None] | None) -> None:
        self.check()
        size = sum(len(record.value) + RECORD_OVERHEAD_BYTES for record in records)
        if self._pending_bytes + size > self._max_bytes:
            raise _full()
        self._pending_bytes += size
        metrics.PENDING_BYTES.set(self._pending_bytes)
        self._parked.append(_Parked(records, size, done))
        self._wake.set()

    async def _run(self) -> None:
        last = 0.0
        while True:
            await self._wake.wait()
            if not self._parked:
                if self._closing:
                    return
                self._wake.clear()
                continue
            rest = 0.0 if self._closing else last + self._interval_s - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
            last = time.monotonic()
            await self._append_group(self._next_group())

    def _next_group(self) -> list[_Parked]:
        group = [self._parked.popleft()]
        size = group[0].size_bytes
        while self._parked and size + self._parked[0].size_bytes <= MAX_GROUP_BYTES:
            size += self._parked[0].size_bytes
            group.append(self._parked.popleft())
        return group

    async def _append_group(self, group: list[_Parked]) -> None:
        try:
            fault = await self._append([record for parked in group for record in parked.records])
            if isinstance(fault, Fatal) and len(group) > 1:
                logger.error("The log refuses a group for good, trying its requests one by one: %s", fault)
                for parked in group:
                    _tell([parked], await self._append(parked.records))
            else:
                if isinstance(fault, Fatal):
                    logger.error("The log refuses a request for good: %s", fault)
                _tell(group, fault)
        finally:
            _tell(group, _stopping())
            self._forget(group)

    async def _append(self, records: Sequence[Record]) -> LogError | None:
        started = time.monotonic()
        try:
            await self._appender.append(records)
        except LogError as exc:
            return exc
        metrics.APPEND_MS.observe((time.monotonic() - started) * 1000)
        metrics.GROUP_RECORDS.observe(len(records))
        return None

    def _forget(self, group: Sequence[_Parked]) -> None:
        self._pending_bytes -= sum(parked.size_bytes for parked in group)
        metrics.PENDING_BYTES.set(self._pending_bytes)


def _tell(group: Sequence[_Parked], fault: LogError | None) -> None:
    """Wake those of the group who still wait. A fault that names records leaves the others durable."""
    named = getattr(fault, "records", None)
    missing = None if named is None else {id(record) for record in named}
    for parked in group:
        if parked.done is None or parked.done.done():
            continue
        if fault and (missing is None or any(id(record) in missing for record in parked.records)):
            parked.done.set_exception(fault)
        else:
            parked.done.set_result(None)


def _stopping() -> Retryable:
    return Retryable("This process is stopping. Send again: another one will answer.")


def _full() -> Retryable:
    full = Retryable("Too much waits for the event log already. Send again in a second.")
    full.reason = "log_full"
    return full
