"""The reading side of the journal: consumer groups, ownership by lease, positions with intents.

Ownership is per file. Whoever owns holds a number in the group's rows, which every commit compares: the lease
only decides when another member may take over, never who may write. After a lost lease the old number is worth
nothing, whatever the clocks say.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pinstream.errors import Fenced, PositionLost, Retryable
from pinstream.eventlog import journal_file as files
from pinstream.eventlog.contract import Bounds, Intent, Partition, Position, Stored
from pinstream.eventlog.journal_mend import open_for_writing

logger = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_S: Final = 6.0  # a member that does not poll for so long may be replaced
LOOK_S: Final = 0.02  # between two looks for new records
RESCAN_S: Final = 0.5  # between two looks for new files and lapsed leases
READ_BYTES: Final = 16 << 20  # of one poll, unless one record is larger


@dataclass(slots=True)
class _File:
    """One open file; `owner` is our number in it, None for a standby."""

    connection: sqlite3.Connection
    inode: int
    owner: int | None = None


class JournalConsumer:
    """One member of a consumer group. All of SQLite happens in one thread of its own."""

    def __init__(self, directory: Path, group: str, topics: tuple[str, ...], lease_s: float) -> None:
        self._directory = directory
        self._group = group
        self._topics = topics
        self._lease_ms = int(lease_s * 1000)
        self._files: dict[int, _File] = {}
        self._next: dict[Partition, int] = {}
        self._unchecked: set[Partition] = set()
        self._warned: set[int] = set()
        self._generation = 0
        self._turns = 0
        self._scan_at = 0.0
        self._renew_at = 0.0
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"journal {group}")

    @property
    def generation(self) -> int:
        """See `contract.Consumer`."""
        return self._generation

    def assignment(self) -> frozenset[Partition]:
        """See `contract.Consumer`."""
        owned = (number for number, file in list(self._files.items()) if file.owner is not None)
        return frozenset(Partition(topic, number) for number in owned for topic in self._topics)

    async def position(self, partition: Partition) -> Position:
        """See `contract.Consumer`."""
        return await self._run(self._position, partition)

    async def bounds(self, partition: Partition) -> Bounds:
        """See `contract.Consumer`."""
        return await self._run(self._bounds, partition)

    def seek(self, partition: Partition, offset: int) -> None:
        """See `contract.Consumer`. Does nothing for a partition that is not assigned."""
        if partition in self.assignment():
            self._next[partition] = offset
            self._unchecked.add(partition)

    async def poll(
        self, *, timeout_s: float, max_records: int, paused: frozenset[Partition] = frozenset()
    ) -> Mapping[Partition, Sequence[Stored]]:
        """See `contract.Consumer`."""
        deadline = time.monotonic() + timeout_s
        while True:
            wanted = {partition: at for partition, at in self._next.items() if partition not in paused}
            generation = self._generation
            found = await self._run(self._turn, wanted, max_records)
            read = self._accepted(found, wanted, generation)
            rest_s = min(LOOK_S, deadline - time.monotonic())
            if read or self._generation != generation or rest_s <= 0:
                return read
            await asyncio.sleep(rest_s)

    def _accepted(
        self, found: Mapping[Partition, Sequence[Stored]], wanted: Mapping[Partition, int], generation: int
    ) -> Mapping[Partition, Sequence[Stored]]:
        """What was read, unless ownership changed or somebody sought elsewhere meanwhile."""
        if generation != self._generation:
            return {}
        read = {partition: rows for partition, rows in found.items() if self._next.get(partition) == wanted[partition]}
        for partition, rows in read.items():
            self._next[partition] = rows[-1].offset + 1
        return read

    async def commit(self, partition: Partition, offset: int, intent: Intent | None) -> None:
        """See `contract.Consumer`."""
        if partition not in self._next:
            raise Fenced(f"{_name(partition)} was not sought since it was assigned. Read its position afresh.")
        await self._run(self._commit, partition, offset, intent)

    async def aclose(self) -> None:
        """See `contract.Consumer`."""
        if self._closed:
            return
        try:
            await self._run(self._leave)
        finally:
            self._closed = True
            self._thread.shutdown(wait=False)

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        if self._closed:
            raise Fenced("This consumer is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    # What follows runs in the consumer's thread.

    def _turn(self, wanted: Mapping[Partition, int], max_records: int) -> dict[Partition, list[Stored]]:
        self._tend()
        found: dict[Partition, list[Stored]] = {}
        left, left_bytes = max_records, READ_BYTES
        for partition in self._rotated(wanted):
            if left <= 0 or left_bytes <= 0:
                break
            file = self._files.get(partition.number)
            if file is None or file.owner is None:
                continue
            if partition in self._unchecked:
                self._check(partition, wanted[partition])
            rows = self._read(file, partition, wanted[partition], left, left_bytes)
            if rows:
                found[partition] = rows
                left -= len(rows)
                left_bytes -= sum(len(row.value) for row in rows)
        return found

    def _rotated(self, wanted: Mapping[Partition, int]) -> list[Partition]:
        """Each turn begins with another partition, so that a busy one does not starve the rest."""
        order = sorted(wanted)
        self._turns += 1
        shift = self._turns % len(order) if order else 0
        return order[shift:] + order[:shift]

    def _check(self, partition: Partition, at: int) -> None:
        bounds = self._bounds(partition)
        if not bounds.first <= at <= bounds.end:
            raise PositionLost(
                f"{_name(partition)} holds offsets {bounds.first} to {bounds.end - 1}, reading was to go on at {at}."
            )
        self._unchecked.discard(partition)

    def _read(self, file: _File, partition: Partition, at: int, most: int, most_bytes: int) -> list[Stored]:
        query = "SELECT seq, value, appended_ms FROM record WHERE topic = ? AND seq >= ? ORDER BY seq LIMIT ?"
        rows: list[Stored] = []
        with (
            self._errors(partition.number),
            contextlib.closing(file.connection.execute(query, (partition.topic, at, most))) as cursor,
        ):
            for row in cursor:
                rows.append(Stored(*row))
                most_bytes -= len(rows[-1].value)
                if most_bytes <= 0:
                    break
        return rows

    def _position(self, partition: Partition) -> Position:
        file = self._file(partition.number)
        if file is None:
            return Position(None, None)
        with self._errors(partition.number):
            row = file.connection.execute(
                "SELECT offset, intent_last, intent_rollup_version, intent_format FROM consumer "
                "WHERE group_id = ? AND topic = ?",
                (self._group, partition.topic),
            ).fetchone()
        if row is None:
            return Position(None, None)
        intent = None if row[1] is None else Intent(last=row[1], rollup_version=row[2], format=row[3])
        return Position(row[0], intent)

    def _bounds(self, partition: Partition) -> Bounds:
        file = self._file(partition.number)
        if file is None:
            return Bounds(1, 1)
        with self._errors(partition.number):
            first = dict(file.connection.execute("SELECT topic, first FROM trimmed").fetchall())
            last = file.connection.execute(
                "SELECT max(seq) FROM record WHERE topic = ?", (partition.topic,)
            ).fetchone()[0]
        trimmed = first.get(partition.topic, 1)
        return Bounds(trimmed, max(trimmed, (last or 0) + 1, first.get(files.EVERY_TOPIC, 1)))

    def _commit(self, partition: Partition, offset: int, intent: Intent | None) -> None:
        try:
            changed = self._store(partition, offset, intent)
        except Fenced:
            self._lose(partition.number)
            raise
        if not changed:
            self._lose(partition.number)
            raise Fenced(f"{_name(partition)} is owned by another member of {self._group} now.")

    def _store(self, partition: Partition, offset: int, intent: Intent | None) -> int:
        """How many rows took it: none if their owner is another one."""
        file = self._files.get(partition.number)
        if file is None or file.owner is None:
            return 0
        pair = (intent.last, intent.rollup_version, intent.format) if intent else (None, None, None)
        with self._errors(partition.number), self._writing(partition.number, file):
            self._renew(file)
            return file.connection.execute(
                "UPDATE consumer SET offset = ?, intent_last = ?, intent_rollup_version = ?, intent_format = ? "
                "WHERE group_id = ? AND topic = ? AND owner = ?",
                (offset, *pair, self._group, partition.topic, file.owner),
            ).rowcount

    def _leave(self) -> None:
        for number, file in self._files.items():
            if file.owner is not None:
                with contextlib.suppress(Retryable, Fenced), self._errors(number), self._writing(number, file):
                    file.connection.execute(
                        "UPDATE consumer SET lease_until_ms = 0, owner = owner + 1 WHERE group_id = ? AND owner = ?",
                        (self._group, file.owner),
                    )
            file.connection.close()
        self._files.clear()
        self._changed()

    # ownership

    def _tend(self) -> None:
        """Every RESCAN_S look for files and free leases; every third of a lease renew ours."""
        now = time.monotonic()
        if now >= self._scan_at:
            self._scan_at = now + RESCAN_S
            for number in files.numbers(self._directory):
                self._look_at(number)
        if now >= self._renew_at:
            self._renew_at = now + self._lease_ms / 3000
            for number, file in list(self._files.items()):
                if file.owner is not None:
                    self._keep(number, file)

    def _look_at(self, number: int) -> None:
        try:
            file = self._file(number)
            if file is not None and file.owner is None:
                self._claim(number, file)
            self._warned.discard(number)
        except Fenced:
            pass  # replaced this moment: the next look finds the new one
        except Retryable as exc:
            if number not in self._warned:
                logger.warning("%s", exc)
            self._warned.add(number)

    def _file(self, number: int) -> _File | None:
        """The open file, opened again if another one has taken its place; None if there is none."""
        path = files.journal_path(self._directory, number)
        known = self._files.get(number)
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            return None
        if known is not None and known.inode == inode:
            return known
        self._forget(number)
        if files.size(path) == 0:  # opening it would drop its WAL
            self._mend(number)
            return None
        with self._errors(number):
            self._files[number] = _File(files.connect(path), inode)
        return self._files[number]

    def _claim(self, number: int, file: _File) -> None:
        with self._errors(number):
            if not self._is_free(file):
                return
            with self._writing(number, file):
                if not self._is_free(file):
                    return
                owner = file.connection.execute(
                    "SELECT coalesce(max(owner), 0) + 1 FROM consumer WHERE group_id = ?", (self._group,)
                ).fetchone()[0]
                file.connection.executemany(
                    "INSERT INTO consumer (group_id, topic, owner, lease_until_ms) VALUES (?1, ?2, ?3, ?4) "
                    "ON CONFLICT DO UPDATE SET owner = ?3, lease_until_ms = ?4",
                    [(self._group, topic, owner, _now_ms() + self._lease_ms) for topic in self._topics],
                )
        file.owner = owner
        self._changed()

    def _is_free(self, file: _File) -> bool:
        """No live lease on any of our topics. One further away than a lease is long is from before a restart."""
        now = _now_ms()
        leases = file.connection.execute(
            "SELECT topic, lease_until_ms FROM consumer WHERE group_id = ?", (self._group,)
        )
        return not any(
            topic in self._topics and now < until <= now + self._lease_ms for topic, until in leases.fetchall()
        )

    def _keep(self, number: int, file: _File) -> None:
        try:
            with self._errors(number), self._writing(number, file):
                kept = self._renew(file)
        except Retryable as exc:
            logger.warning("%s", exc)
            return
        except Fenced:
            kept = 0
        if kept < len(self._topics):
            self._lose(number)

    def _renew(self, file: _File) -> int:
        return file.connection.execute(
            "UPDATE consumer SET lease_until_ms = ? WHERE group_id = ? AND owner = ?",
            (_now_ms() + self._lease_ms, self._group, file.owner),
        ).rowcount

    def _lose(self, number: int) -> None:
        file = self._files.get(number)
        if file is not None:
            file.owner = None
        self._changed()

    def _forget(self, number: int) -> None:
        file = self._files.pop(number, None)
        if file is not None:
            file.connection.close()
            if file.owner is not None:
                self._changed()

    def _changed(self) -> None:
        self._next.clear()
        self._unchecked.clear()
        self._generation += 1

    # transactions and errors

    @contextlib.contextmanager
    def _writing(self, number: int, file: _File) -> Iterator[None]:
        """A transaction in the file that bears the name now: not in one that is being, or was, replaced."""
        path = files.journal_path(self._directory, number)
        try:
            with files.folder_lock(self._directory, fcntl.LOCK_SH | fcntl.LOCK_NB):
                if not path.exists() or path.stat().st_ino != file.inode:
                    raise Fenced(f"{path} was replaced. Read the position afresh.")
                with files.transaction(file.connection):
                    yield
        except BlockingIOError as exc:
            raise Retryable(f"The journal in {self._directory} is being mended. Wait.") from exc

    @contextlib.contextmanager
    def _errors(self, number: int) -> Iterator[None]:
        path = files.journal_path(self._directory, number)
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            if files.is_damage(exc):
                self._forget(number)
                self._mend(number)
            raise files.translated(exc, path) from exc

    def _mend(self, number: int) -> None:
        """Mend a damaged file ourselves if it has no writer; else its writer meets the same damage and does."""
        try:
            lock = files.WriterLock(self._directory, number)
        except OSError:
            logger.error("Journal %s is damaged. Restart collect: it is mended when it is opened.", number)
            return
        try:
            open_for_writing(self._directory, lock).close()
        finally:
            lock.release()


def _name(partition: Partition) -> str:
    return f"{partition.topic}:{partition.number}"


def _now_ms() -> int:
    """A clock that all processes of this machine share and nobody sets."""
    return time.monotonic_ns() // 1_000_000
