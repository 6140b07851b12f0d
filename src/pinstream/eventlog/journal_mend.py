"""Opens a file of the journal for its writer, and mends it first if it is damaged.

Mending always makes progress and a death in the middle of it loses nothing: what can be read is copied, with
its sequence numbers, into `<n>.mending`; that becomes `<n>.mended` once it is complete; the damaged file is
moved aside as `<n>.journal.corrupt-<time>`, the mended one takes its place. Records are read page by page, not
through the tree (SQLite's file format, https://www.sqlite.org/fileformat2.html, sections 1.6 and 2.1), so that
a broken page costs no more than the records on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from pinstream.errors import SetupFault
from pinstream.eventlog.contract import MAX_VALUE_BYTES
from pinstream.eventlog.journal_file import (
    APPLICATION_ID,
    EVERY_TOPIC,
    PAGE_BYTES,
    SCHEMA_VERSION,
    WriterLock,
    connect,
    create,
    folder_lock,
    journal_path,
    make,
    remove,
    shm,
    size,
    sync_folder,
    transaction,
    wal,
)

logger = logging.getLogger(__name__)

Row = tuple[int, str, int, bytes]
"""seq, topic, appended_ms, value."""

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_LEAF: Final = 0x0D
_MOST_LOCAL: Final = PAGE_BYTES - 35
_LEAST_LOCAL: Final = (PAGE_BYTES - 12) * 32 // 255 - 23


def open_for_writing(directory: Path, lock: WriterLock) -> sqlite3.Connection:
    """The file whose lock is held: made if it does not exist, mended if it is damaged.

    Raises:
        SetupFault: the folder cannot be written, or has no room for mending.
    """
    path = journal_path(directory, lock.number)
    try:
        _finish(path)
        if not path.exists() and not wal(path).exists():
            create(path)
        elif fault := fault_of(path):
            _mend(path, lock, fault)
        return connect(path)
    except (OSError, sqlite3.Error) as exc:
        raise SetupFault(f"Cannot write {path}: {exc}. Check the folder's owner and free space.") from exc


def fault_of(path: Path) -> str:
    """Why the file cannot be used as it is; empty if it can."""
    if not path.exists():
        return "only its write-ahead log is there"
    if size(path) == 0:  # SQLite would take it for a new database and drop its WAL
        return "it is empty"
    try:
        with contextlib.closing(connect(path)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION and connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
                raise SetupFault(f"{path} was written by a newer pinstream. Run that one.")
            if version != SCHEMA_VERSION:
                return f"its schema version is {version}, not {SCHEMA_VERSION}"
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY):
            raise
        return str(exc)
    except sqlite3.DatabaseError as exc:
        return str(exc)
    return "" if verdict == "ok" else verdict


def _finish(path: Path) -> None:
    """Go on where a mending died."""
    mended = path.with_suffix(".mended")
    remove(path.with_suffix(".mending"), path.with_suffix(".copy"), path.with_suffix(".new"))
    if mended.exists():
        with folder_lock(path.parent, fcntl.LOCK_EX):
            _put_in_place(path, mended)


def _mend(path: Path, lock: WriterLock, fault: str) -> None:
    mending, mended, copy = (path.with_suffix(suffix) for suffix in (".mending", ".mended", ".copy"))
    with folder_lock(path.parent, fcntl.LOCK_EX):
        if lock.reserved is None:  # nobody knows what was used: the clock is above it, up to a million records a second
            lock.reserve(time.time_ns() // 1000)
        _copy(path, copy)
        make(mending)
        salvaged = _salvage(copy, mending, lock.reserved or 0)
        mending.rename(mended)
        aside = _put_in_place(path, mended)
        remove(copy)
    logger.error(
        "%s was damaged (%s). Its %d readable records were taken over into a new file, the damaged "
        "one is now %s. Look at the disk, and keep that file until you know the cause.",
        path,
        fault,
        salvaged,
        aside.name,
    )


def _put_in_place(path: Path, mended: Path) -> Path:
    aside = path.with_name(
        f"{path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.time_ns() % 10**9}"
    )
    if path.exists():
        path.rename(aside)
    if wal(path).exists():
        wal(path).rename(wal(aside))
    shm(path).unlink(missing_ok=True)
    mended.rename(path)
    sync_folder(path.parent)
    return aside


def _copy(path: Path, copy: Path) -> None:
    """A copy to read from, since opening a damaged database changes it, with its WAL moved into it.

    Page 1 holds only the schema, which is always ours: where it is destroyed, a fresh one takes its place.
    """
    fresh = path.with_suffix(".new")
    make(fresh)
    template = fresh.read_bytes()
    remove(fresh)
    if path.exists():
        shutil.copyfile(path, copy)
    else:
        copy.touch()
    if wal(path).exists():
        shutil.copyfile(wal(path), wal(copy))
    with copy.open("r+b") as file:
        if size(copy) < len(template):
            file.write(template)
        elif file.read(16) != template[:16]:
            file.seek(0)
            file.write(template[:PAGE_BYTES])
    with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(connect(copy)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _salvage(source: Path, target: Path, last_seq: int) -> int:
    """Copy what can be read. Returns how many records."""
    with contextlib.closing(connect(target)) as to:
        to.execute("PRAGMA synchronous = OFF")
        with transaction(to):
            _salvage_small(source, to, "consumer", 8)
            _salvage_small(source, to, "trimmed", 2)
            to.execute("INSERT OR REPLACE INTO trimmed VALUES (?, ?)", (EVERY_TOPIC, last_seq + 1))
        first = dict(to.execute("SELECT topic, first FROM trimmed").fetchall())
        with transaction(to):  # INSERT OR IGNORE: a page that was moved may still hold what it held
            to.executemany(
                "INSERT OR IGNORE INTO record (seq, topic, appended_ms, value) VALUES (?,?,?,?)",
                (row for row in _rows(source) if first.get(row[1], 0) <= row[0] <= last_seq),
            )
        count = int(to.execute("SELECT count(*) FROM record").fetchone()[0])
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return count


def _salvage_small(source: Path, to: sqlite3.Connection, table: str, columns: int) -> None:
    insert = f"INSERT OR REPLACE INTO {table} VALUES ({','.join('?' * columns)})"  # noqa: S608  our own names
    with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(connect(source)) as old:
        for row in old.execute(f"SELECT * FROM {table}"):  # noqa: S608
            to.execute(insert, row)


# --- SQLite's pages -------------------------------------------------------------------------------


def _rows(source: Path) -> Iterator[Row]:
    """Every record on any leaf page, in the order of the file."""
    with source.open("rb") as file:
        number = 0
        while page := file.read(PAGE_BYTES):
            number += 1
            at = file.tell()
            header = 100 if number == 1 else 0
            if len(page) == PAGE_BYTES and page[header] == _LEAF:
                for cell in _cells(page, header):
                    with contextlib.suppress(ValueError, IndexError):
                        yield _row(file, page, cell)
                file.seek(at)


def _cells(page: bytes, header: int) -> list[int]:
    count = int.from_bytes(page[header + 3 : header + 5], "big")
    first = header + 8
    pointers = page[first : first + 2 * count]
    return [int.from_bytes(pointers[at : at + 2], "big") for at in range(0, len(pointers) - 1, 2)]


def _row(file: BinaryIO, page: bytes, at: int) -> Row:
    """The record in the cell at `at`. Raises ValueError or IndexError if it is not a whole record of ours."""
    length, at = _varint(page, at)
    seq, at = _varint(page, at)
    if length > MAX_VALUE_BYTES + PAGE_BYTES:
        raise ValueError("damaged")
    payload = _payload(file, page, at, length)
    header_length, here = _varint(payload, 0)
    kinds = []
    while here < header_length:
        kind, here = _varint(payload, here)
        kinds.append(kind)
    if len(kinds) != 4 or kinds[0] != 0 or kinds[1] < 13 or kinds[1] % 2 == 0 or kinds[3] < 12 or kinds[3] % 2:
        raise ValueError("another table's row")
    topic_end = header_length + (kinds[1] - 13) // 2
    time_end = topic_end + _INTEGER_BYTES[kinds[2]]
    value_end = time_end + (kinds[3] - 12) // 2
    topic = payload[header_length:topic_end].decode()
    if value_end != length or not _TOPIC.fullmatch(topic):
        raise ValueError("damaged")
    return seq, topic, int.from_bytes(payload[topic_end:time_end], "big"), payload[time_end:value_end]


def _payload(file: BinaryIO, page: bytes, at: int, length: int) -> bytes:
    """The cell's content, its overflow pages included."""
    if length <= _MOST_LOCAL:
        return page[at : at + length]
    local = _LEAST_LOCAL + (length - _LEAST_LOCAL) % (PAGE_BYTES - 4)
    local = local if local <= _MOST_LOCAL else _LEAST_LOCAL
    parts = [page[at : at + local]]
    missing = length - local
    following = int.from_bytes(page[at + local : at + local + 4], "big")
    while missing > 0:
        file.seek((following - 1) * PAGE_BYTES)
        more = file.read(PAGE_BYTES)
        if following == 0 or len(more) < PAGE_BYTES:
            raise ValueError("the chain of overflow pages is broken")
        following = int.from_bytes(more[:4], "big")
        parts.append(more[4 : 4 + missing])
        missing -= len(parts[-1])
    return b"".join(parts)


_INTEGER_BYTES: Final = (0, 1, 2, 3, 4, 6, 8, 0, 0, 0)
"""Bytes of a column by its serial type; 8 and 9 are the constants 0 and 1."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """SQLite's variable-length integer at `at`, and where the next thing begins."""
    value = 0
    for length in range(1, 9):
        byte = data[at + length - 1]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + length
    return value << 8 | data[at + 8], at + 9
