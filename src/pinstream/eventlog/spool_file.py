"""One file of the spool: records that Kafka has not acknowledged, each with its topic and key.

It is a file of the journal (its tables, lock, group commit, size bound and mending) in a folder of its own. What is
the topic there is a record's state here, so that each state is counted, and read in order, through one index; the
record itself, as MessagePack, is the value.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pinstream.errors import SetupFault
from pinstream.eventlog import journal_file as files
from pinstream.eventlog.contract import Record
from pinstream.eventlog.journal_mend import fault_of
from pinstream.eventlog.journal_writer import JournalAppender

logger = logging.getLogger(__name__)

SHRINK_BYTES: Final = 16 << 20  # an emptied file that is larger gives its room back to the disk

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


class State(StrEnum):
    """Why a record is in the spool."""

    waiting = "waiting"
    """It is not in Kafka: the next drain takes it."""
    uncertain = "uncertain"
    """Kafka may still take it, and the file's writer waits to learn whether. When the writer dies, it is waiting."""
    refused = "refused"
    """Kafka will not take it as it is, or it cannot be read. The file's next writer tries once more."""


class Kept(NamedTuple):
    """One record in the file."""

    seq: int
    record: Record


class _UntilDrained(NamedTuple):
    """The spool's `journal_writer.Retention`: records go when Kafka has them, and never to make room."""

    max_bytes: int

    @property
    def full(self) -> str:
        return (
            f"Kafka does not answer and the spool has reached {self.max_bytes} bytes (log.spool_max_bytes). "
            "Start Kafka, or raise the bound."
        )

    def trim(self, connection: sqlite3.Connection, room_bytes: int) -> bool:
        return False


class SpoolFile:
    """A file whose lock this process holds."""

    def __init__(self, writer: JournalAppender, records: int) -> None:
        self._writer = writer
        self.records = records
        """In all states."""

    @classmethod
    async def take(cls, directory: Path, max_bytes: int) -> SpoolFile:
        """The first file that has no writer, or a new one.

        Raises:
            SetupFault: the folder cannot be written, or has no room to mend a damaged file.
            Retryable: the disk is full.
        """

        def lock() -> files.WriterLock:
            files.make_folder(directory)
            return files.take(directory)

        return await cls._open(directory, await asyncio.to_thread(lock), max_bytes)

    @classmethod
    async def adopt(cls, directory: Path, number: int, max_bytes: int) -> SpoolFile | None:
        """The file, if it has no living writer. Raises as `take` does."""
        try:
            return await cls._open(directory, files.WriterLock(directory, number), max_bytes)
        except BlockingIOError:
            return None

    @classmethod
    async def _open(cls, directory: Path, lock: files.WriterLock, max_bytes: int) -> SpoolFile:
        def write() -> JournalAppender:
            try:
                return JournalAppender(directory, lock, _UntilDrained(max_bytes))
            except BaseException:
                lock.release()
                raise

        opening = asyncio.ensure_future(asyncio.to_thread(write))
        try:
            writer = await asyncio.shield(opening)
            return cls(writer, await writer.call(_opened))
        except BaseException:
            await asyncio.wait([opening])  # a thread cannot be cancelled
            if not opening.cancelled() and opening.exception() is None:
                await opening.result().aclose()
            raise

    @property
    def number(self) -> int:
        """Which file it is."""
        return self._writer.number

    @property
    def used_bytes(self) -> int:
        """Of the disk, as of the last commit."""
        return self._writer.used_bytes

    async def add(self, parts: Sequence[tuple[State, Sequence[Record]]]) -> list[range]:
        """Return the sequence numbers of each part once all of them are durable. Raises Retryable: none is."""
        rows: list[Record] = []
        for state, records in parts:
            name = state.value
            rows += [Record(name, 0, _encode(record)) for record in records]
        start = (await self._writer.store(rows)).start
        self.records += len(rows)
        found = []
        for _, records in parts:
            found.append(range(start, start + len(records)))
            start = found[-1].stop
        return found

    async def oldest(self, most_records: int, most_bytes: int) -> list[Kept]:
        """The next records that wait, in the order in which they came; at least one if there is any."""
        found, unreadable = await self._writer.call(lambda connection: _oldest(connection, most_records, most_bytes))
        if unreadable:
            logger.error("%d records of spool file %d cannot be read; they stay there.", len(unreadable), self.number)
            await self.mark(unreadable, State.refused)
        return found

    async def mark(self, seqs: Collection[int], state: State) -> None:
        """Change their state."""
        rows = [(state.value, seq) for seq in seqs]

        def work(connection: sqlite3.Connection) -> None:
            with files.transaction(connection):
                connection.executemany("UPDATE record SET topic = ? WHERE seq = ?", rows)

        await self._writer.call(work)

    async def forget(self, seqs: Collection[int]) -> None:
        """Kafka has them: delete them."""
        gone = await self._writer.call(lambda connection: _forget(connection, seqs))
        self.records -= gone

    async def ready(self) -> None:
        """Return if records can be added now, as far as is known; else raise a LogError."""
        await self._writer.ready()

    async def aclose(self) -> None:
        """Commit what waits, then let another process in. Bounded."""
        await self._writer.aclose()


# What follows runs in the writer's thread.


def _opened(connection: sqlite3.Connection) -> int:
    """The writer before us is dead: what it was waiting to learn, nobody will. Returns how many records there are."""
    counts = _counts(connection)
    if counts.keys() - {State.waiting}:
        with files.transaction(connection):
            connection.execute("UPDATE record SET topic = ? WHERE topic <> ?", (State.waiting, State.waiting))
    return sum(counts.values())


def _oldest(connection: sqlite3.Connection, most_records: int, most_bytes: int) -> tuple[list[Kept], list[int]]:
    query = "SELECT seq, value FROM record WHERE topic = ? ORDER BY seq LIMIT ?"
    found: list[Kept] = []
    unreadable: list[int] = []
    with contextlib.closing(connection.execute(query, (State.waiting, most_records))) as rows:
        for seq, value in rows:
            try:
                found.append(Kept(seq, _decode(value)))
            except msgspec.MsgspecError:
                unreadable.append(seq)
            most_bytes -= len(value)
            if most_bytes <= 0:
                break
    return found, unreadable


def _forget(connection: sqlite3.Connection, seqs: Collection[int]) -> int:
    with files.transaction(connection):
        gone = connection.executemany("DELETE FROM record WHERE seq = ?", [(seq,) for seq in seqs]).rowcount
        first = connection.execute("SELECT min(seq) FROM record").fetchone()[0]
        # Mending reads pages that are free again: this tells it what was drained.
        drained = first or files.last_seq(connection) + 1
        connection.executemany("INSERT OR REPLACE INTO trimmed VALUES (?, ?)", [(each, drained) for each in State])
    pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
    if first is None and pages * files.PAGE_BYTES > SHRINK_BYTES:
        with contextlib.suppress(sqlite3.OperationalError):  # somebody looks at the file: another time
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return int(gone)


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT topic, count(*) FROM record GROUP BY topic").fetchall())


# --- looks from outside, while a writer may be at work ----------------------------------------------


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A file as `pinstream spool` shows it."""

    file: int
    holder: int | None
    """The process that writes it; None: nobody does, so the next `collect`, or `spool drain`, drains it."""
    records: int
    uncertain: int
    refused: int
    used_bytes: int
    oldest_ms: int | None
    """When its oldest record was spooled, ms since 1970."""
    damage: str


def standing(directory: Path) -> list[Standing]:
    """Every file of the spool as it stands now."""
    return [_standing(directory, number) for number in files.all_numbers(directory)]


def _standing(directory: Path, number: int) -> Standing:
    path = files.journal_path(directory, number)
    counts: dict[str, int] = {}
    used, oldest, damage = files.size(path), None, ""
    try:
        with contextlib.closing(files.connect(path)) as connection:
            counts = _counts(connection)
            used = files.used_bytes(connection, path)
            oldest = connection.execute("SELECT appended_ms FROM record ORDER BY seq LIMIT 1").fetchone()
    except sqlite3.Error as exc:
        damage = str(exc)
    return Standing(
        file=number,
        holder=files.holder(directory, number),
        records=sum(counts.values()),
        uncertain=counts.get(State.uncertain, 0),
        refused=counts.get(State.refused, 0),
        used_bytes=used,
        oldest_ms=oldest[0] if oldest else None,
        damage=damage,
    )


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What reading a whole file found."""

    file: int
    records: int
    unreadable: int
    damage: str
    set_aside: list[str]
    """What earlier mendings left for you to look at."""


def verify(directory: Path) -> Iterator[Verdict]:
    """Read every page and every record of each file. Takes its time, and holds nobody up."""
    return (_verdict(directory, number) for number in files.all_numbers(directory))


def _verdict(directory: Path, number: int) -> Verdict:
    path = files.journal_path(directory, number)
    records = unreadable = 0
    try:
        damage = fault_of(path)
        if not damage:
            with contextlib.closing(files.connect(path)) as connection:
                for topic, value in connection.execute("SELECT topic, value FROM record"):
                    records += 1
                    unreadable += not _is_readable(topic, value)
    except (sqlite3.Error, SetupFault) as exc:
        damage = str(exc)
    aside = sorted(each.name for each in directory.glob(f"{path.name}.corrupt-*") if not each.name.endswith("-wal"))
    return Verdict(file=number, records=records, unreadable=unreadable, damage=damage, set_aside=aside)


def _is_readable(topic: str, value: bytes) -> bool:
    try:
        _decode(value)
    except msgspec.MsgspecError:
        return False
    return topic in set(State)


def orphans(directory: Path) -> list[int]:
    """Files that hold something, or cannot say so, and that no living process writes."""
    return [
        number
        for number in files.all_numbers(directory)
        if files.holder(directory, number) is None and _holds_something(files.journal_path(directory, number))
    ]


def _holds_something(path: Path) -> bool:
    try:
        with contextlib.closing(files.connect(path)) as connection:
            return connection.execute("SELECT 1 FROM record LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return True
