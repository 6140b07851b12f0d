"""The one writer of a file: group commit, the size bound, mending, and room made when there is too little."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from pinstream import clock
from pinstream.errors import Fatal, LogError, Retryable
from pinstream.eventlog import journal_file as files
from pinstream.eventlog.contract import MAX_VALUE_BYTES, Record
from pinstream.eventlog.journal_mend import open_for_writing

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAITING_BYTES: Final = 256 << 20  # appends that wait for their commit
GROUP_BYTES: Final = 16 << 20  # of one commit, unless one append is larger
RECORD_OVERHEAD_BYTES: Final = 64  # what a record takes in the file beyond its value
TICK_S: Final = 1.0  # between two looks at what may be deleted
ROOM_STEPS: Final = 10  # deletions tried before an append is refused
CLOSE_S: Final = 10.0


class Retention(Protocol):
    """How much the files of a folder may hold together, and what of it may go."""

    @property
    def max_bytes(self) -> int:
        """The size bound."""

    @property
    def full(self) -> str:
        """What to tell whom the bound refuses."""

    def trim(self, connection: sqlite3.Connection, room_bytes: int) -> bool:
        """Delete some of what may go, `room_bytes` being left below the bound. True if that was any."""


@dataclass(eq=False, slots=True)
class _Append:
    """One call of `store` that waits for its commit."""

    records: Sequence[Record]
    size_bytes: int
    done: asyncio.Future[range]
    result: range | None = None
    error: LogError | None = None


@dataclass(eq=False, slots=True)
class _Call:
    """Work for the writer's thread."""

    work: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class JournalAppender:
    """The one writer of a file. Its thread commits whatever has arrived since the last commit."""

    def __init__(self, directory: Path, lock: files.WriterLock, retention: Retention) -> None:
        """Opens the file, mending it first if need be. Raises SetupFault as `open_for_writing` does."""
        self._directory = directory
        self._path = files.journal_path(directory, lock.number)
        self._lock = lock
        self._retention = retention
        self._others_bytes = 0
        self._used_bytes = 0
        self._wanted_bytes = 1  # by whom there was no room for
        self._tend_at = 0.0
        self._fault: LogError | None = None
        self._waiting: deque[_Append] = deque()
        self._waiting_bytes = 0
        self._calls: deque[_Call] = deque()
        self._closing = False
        self._changed = threading.Condition()
        self._open()
        self._thread = threading.Thread(target=self._run, name=f"journal {lock.number}", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """The partition this writer fills."""
        return self._lock.number

    async def append(self, records: Sequence[Record]) -> None:
        """See `contract.Appender`. All records of one call are in one commit."""
        if not records:
            return
        if any(len(record.value) > MAX_VALUE_BYTES for record in records):
            raise Fatal(f"A record is larger than {MAX_VALUE_BYTES} bytes: the log never takes it.")
        await self.store(records)

    async def store(self, records: Sequence[Record]) -> range:
        """As `append`, for records that were checked. Returns their sequence numbers."""
        size = sum(len(record.value) for record in records) + RECORD_OVERHEAD_BYTES * len(records)
        append = _Append(records, size, asyncio.get_running_loop().create_future())
        with self._changed:
            self._offer(append)
        return await append.done

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, run in the writer's thread between two commits. Its errors of SQLite are translated."""
        call = _Call(work, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._closing:
                raise _stopped()
            self._calls.append(call)
            self._changed.notify()
        result: T = await call.done
        return result

    @property
    def used_bytes(self) -> int:
        """Bytes in use by this file, as of its last commit."""
        return self._used_bytes

    def _offer(self, append: _Append) -> None:
        if self._closing:
            raise _stopped()
        if self._waiting and self._waiting_bytes + append.size_bytes > WAITING_BYTES:
            raise files.log_full("Too many bytes wait for the disk. Offer them again later.")
        self._waiting.append(append)
        self._waiting_bytes += append.size_bytes
        self._changed.notify()

    async def ready(self) -> None:
        """See `contract.Appender`. Tells what the last commit and the last look at the size (TICK_S) found."""
        if not self._thread.is_alive():
            raise Fatal(f"The writer of {self._path} has stopped. Restart this process.")
        if self._fault is not None:
            raise self._fault
        if self._room() < self._wanted_bytes:
            raise self._full()

    async def aclose(self) -> None:
        """Commit what waits, then let another writer in. Gives up after CLOSE_S."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, CLOSE_S)
        if self._thread.is_alive():
            logger.warning("%s is still being written after %s s: not waiting any longer.", self._path, CLOSE_S)

    # What follows runs in the writer's thread (and before it starts).

    def _open(self) -> None:
        self._connection = open_for_writing(self._directory, self._lock)
        self._next_seq = max(files.last_seq(self._connection), self._lock.reserved or 0) + 1
        self._measure()

    def _run(self) -> None:
        rest_s = 0.0
        try:
            while (group := self._next_group(rest_s)) is not None:
                if group:
                    self._commit(group)
                while self._calls:
                    self._answer(self._calls.popleft())
                rest_s = self._tend()
            self._lock.reserve(self._next_seq - 1)
        except Exception:
            logger.exception("%s cannot be written any more. Restart this process.", self._path)
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._closing = True
            left: list[_Append | _Call] = [*self._waiting, *self._calls]
            self._waiting.clear()
            self._calls.clear()
        for each in left:
            each.error = _stopped()
        _settle(left)
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._lock.release()

    def _next_group(self, rest_s: float) -> list[_Append] | None:
        """What waits, up to GROUP_BYTES; empty if nothing comes within `rest_s`; None when closing and all is done."""
        with self._changed:
            if not self._waiting and not self._calls and not self._closing:
                self._changed.wait(rest_s)
            group: list[_Append] = []
            size = 0
            while self._waiting and (not group or size + self._waiting[0].size_bytes <= GROUP_BYTES):
                group.append(self._waiting.popleft())
                size += group[-1].size_bytes
            self._waiting_bytes -= size
            return None if self._closing and not group and not self._calls else group

    def _commit(self, group: list[_Append]) -> None:
        fitting: list[_Append] = []
        try:
            fitting = self._fitting(group)
            if fitting:
                self._write(fitting)
                self._fault = None
        except (sqlite3.Error, OSError) as exc:
            self._failed(fitting or group, exc)
        finally:
            for append in group:
                if append.result is None and append.error is None:  # this thread is ending
                    append.error = _stopped()
            _settle(group)

    def _answer(self, call: _Call) -> None:
        try:
            call.result = call.work(self._connection)
            self._used_bytes = files.used_bytes(self._connection, self._path)
        except (sqlite3.Error, OSError) as exc:
            call.error = files.translated(exc, self._path)
            if files.is_damage(exc):
                self._connection.close()
                self._open()
        except Exception as exc:  # noqa: BLE001  the caller's own: it is told
            call.error = exc
        finally:  # mending may fail, which ends this thread
            _settle([call])

    def _fitting(self, group: list[_Append]) -> list[_Append]:
        """Those that stay within the size bound, after deleting what may go."""
        needed = sum(append.size_bytes for append in group)
        for _ in range(ROOM_STEPS):
            if self._room() >= needed or not self._trim():
                break
        room = self._room()
        fitting = []
        for append in group:
            if append.size_bytes <= room:
                room -= append.size_bytes
                fitting.append(append)
            else:
                self._wanted_bytes = min(append.size_bytes, self._retention.max_bytes // 10)
                append.error = self._full()
        return fitting

    def _write(self, appends: list[_Append]) -> None:
        now_ms = clock.now_ms()
        records = [record for append in appends for record in append.records]
        last = self._next_seq + len(records) - 1
        if last > (self._lock.reserved or 0):
            self._lock.reserve(last + files.RESERVE_RECORDS)
        with files.transaction(self._connection):
            self._connection.executemany(
                "INSERT INTO record (seq, topic, appended_ms, value) VALUES (?,?,?,?)",
                [(seq, record.topic, now_ms, record.value) for seq, record in enumerate(records, self._next_seq)],
            )
        for append in appends:
            append.result = range(self._next_seq, self._next_seq + len(append.records))
            self._next_seq = append.result.stop
        self._used_bytes = files.used_bytes(self._connection, self._path)

    def _failed(self, appends: list[_Append], exc: sqlite3.Error | OSError) -> None:
        """A fault of the machine fails all. Any other can only be one append's own: find out whose."""
        if isinstance(exc, OSError) or files.is_environment(exc):
            self._fault = files.translated(exc, self._path)
            for append in appends:
                append.error = files.translated(exc, self._path)
            if files.is_damage(exc):
                self._connection.close()
                self._open()
        elif len(appends) == 1:
            appends[0].error = Fatal(f"The journal does not take these records: {exc}.")
        else:
            for append in appends:
                self._commit([append])

    def _tend(self) -> float:
        """Delete a little, look at the size, try whether a fault is over. Returns for how long to rest."""
        now = time.monotonic()
        if now < self._tend_at:
            return self._tend_at - now
        deleted = False
        try:
            deleted = self._trim()
            if self._fault is not None:
                self._try_writing()
            self._measure()
        except (sqlite3.Error, OSError) as exc:
            self._fault = files.translated(exc, self._path)
        self._tend_at = now + (0 if deleted else TICK_S)
        return max(0.0, self._tend_at - now)

    def _try_writing(self) -> None:
        with files.transaction(self._connection):
            self._connection.execute("INSERT INTO trimmed VALUES ('probe', 1)")
            self._connection.execute("DELETE FROM trimmed WHERE topic = 'probe'")
        self._fault = None

    # size and deletion

    def _measure(self) -> None:
        self._used_bytes = files.used_bytes(self._connection, self._path)
        self._others_bytes = files.used_by_others(self._directory, self._lock.number)

    def _room(self) -> int:
        return self._retention.max_bytes - self._others_bytes - self._used_bytes

    def _full(self) -> Retryable:
        return files.log_full(self._retention.full)

    def _trim(self) -> bool:
        trimmed = self._retention.trim(self._connection, self._room())
        if trimmed:
            self._used_bytes = files.used_bytes(self._connection, self._path)
        return trimmed


def _stopped() -> Retryable:
    return Retryable("The file's writer has stopped. Offer the records to its successor.")


def _settle(group: Sequence[_Append | _Call]) -> None:
    """Tell the callers, each in its own event loop."""
    for loop in {each.done.get_loop() for each in group}:
        with contextlib.suppress(RuntimeError):  # that loop is gone, and its callers with it
            loop.call_soon_threadsafe(_tell, [each for each in group if each.done.get_loop() is loop])


def _tell(group: Sequence[_Append | _Call]) -> None:
    for each in group:
        if each.done.done():
            continue
        if each.error is None:
            result: Any = each.result
            each.done.set_result(result)
        else:
            each.done.set_exception(each.error)
