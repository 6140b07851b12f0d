"""One file of the journal, or of the spool: its tables, its locks, its size, and what its faults mean.

`<n>.journal` is a SQLite database and holds partition `n` of every topic. Beside it lies `<n>.lock`: whoever
holds its `flock` is the file's only writer. Its text is the highest sequence number that may have been used, so
that offsets never restart, not even after the file itself was lost, and the holder's process id. Consumers write
their own rows under a shared `flock` on the folder; mending takes it exclusively, so that no commit lands in a
file that is being replaced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pinstream.errors import LogError, Retryable, SetupFault

MAX_FILES: Final = 1024  # partitions of the journal
RESERVE_RECORDS: Final = 100_000  # sequence numbers set aside at once in the lock file
BUSY_MS: Final = 5000  # how long a transaction waits for another one
TURN_S: Final = 0.0005  # between two tries to begin one
PAGE_BYTES: Final = 4096
WAL_BYTES: Final = 16 << 20  # of a file's WAL that do not count towards the size bound
LAST_SEQ: Final = 2**63 - 1
EVERY_TOPIC: Final = ""  # in `trimmed`: records of any topic may have existed and been lost below this number
APPLICATION_ID: Final = 0x50494E53
SCHEMA_VERSION: Final = 1

SCHEMA: Final = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA journal_mode = WAL;
BEGIN;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE record (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, appended_ms INTEGER NOT NULL, value BLOB NOT NULL
);
CREATE INDEX record_topic ON record (topic);
CREATE TABLE consumer (
    group_id TEXT NOT NULL, topic TEXT NOT NULL, offset INTEGER,
    intent_last INTEGER, intent_rollup_version INTEGER, intent_format INTEGER,
    owner INTEGER NOT NULL DEFAULT 0, lease_until_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, topic)
) WITHOUT ROWID;
CREATE TABLE trimmed (topic TEXT PRIMARY KEY, first INTEGER NOT NULL) WITHOUT ROWID;
COMMIT;
"""


def journal_path(directory: Path, number: int) -> Path:
    """Where partition `number` lies."""
    return directory / f"{number}.journal"


def numbers(directory: Path, *suffixes: str) -> list[int]:
    """The partitions that have a file, in order."""
    found = {path.stem for suffix in suffixes or (".journal",) for path in directory.glob(f"*{suffix}")}
    return sorted(int(stem) for stem in found if stem.isdecimal())


# --- errors: SQLite's and the kernel's, translated here and nowhere else ---------------------------

_AWAY = "%s does not answer (%s). It is tried again; if this stays, look at the disk."
_FULL = "The disk of %s is full. Make room: nothing is taken until then."


def translated(exc: sqlite3.Error | OSError, path: Path) -> LogError:
    """What a fault of SQLite or of the file system means to the caller."""
    if _is_full(exc, path):
        return log_full(_FULL % path)
    return Retryable(_AWAY % (path, exc))


def log_full(detail: str) -> Retryable:
    """A Retryable with the reason `log_full`."""
    error = Retryable(detail)
    error.reason = "log_full"
    return error


def is_environment(exc: sqlite3.Error) -> bool:
    """True if the machine, not the statement, is at fault: full, busy, or an I/O error."""
    primary = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    return primary in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def is_damage(exc: sqlite3.Error | OSError) -> bool:
    """True if the file itself is broken."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_full(exc: sqlite3.Error | OSError, path: Path) -> bool:
    if isinstance(exc, OSError):
        return exc.errno in _FULL_ERRNOS
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    return code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and not _can_grow(path))


_FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _can_grow(path: Path) -> bool:
    """SQLite reports a quota as an I/O error, so write one page where the file would grow to see which it is."""
    probe = path.with_suffix(".probe")
    try:
        with probe.open("wb") as file:
            file.seek(max(size(path), size(wal(path))))
            file.write(b"\0" * PAGE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        return exc.errno not in _FULL_ERRNOS
    finally:
        probe.unlink(missing_ok=True)
    return True


# --- locks ---------------------------------------------------------------------------------------

_PID_AT: Final = 21  # behind the sequence number


class WriterLock:
    """The right to write one file, and the highest sequence number that may have been used in it."""

    def __init__(self, directory: Path, number: int) -> None:
        """Raises BlockingIOError while another writer lives."""
        self.number = number
        self._fd = os.open(directory / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise
        self.reserved = self._read()
        os.pwrite(self._fd, b"%d\n" % os.getpid(), _PID_AT)

    def _read(self) -> int | None:
        text = os.pread(self._fd, _PID_AT, 0).strip(b"\0 \n")
        return int(text) if text.isdigit() else None

    def reserve(self, seq: int) -> None:
        """Remember durably that sequence numbers up to `seq` may have been used."""
        os.pwrite(self._fd, b"%020d\n" % seq, 0)
        os.fsync(self._fd)
        self.reserved = seq

    def release(self) -> None:
        """Let another writer in."""
        os.close(self._fd)


def make_folder(directory: Path) -> None:
    """Raises SetupFault if files cannot be made in it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = directory / f".probe-{threading.get_ident()}-{time.time_ns()}"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise _unwritable(directory, exc) from exc


def _unwritable(directory: Path, exc: OSError) -> SetupFault:
    return SetupFault(f"Cannot write in {directory}: {exc.strerror}. Check data_dir, its owner and its free space.")


def all_numbers(directory: Path) -> list[int]:
    """The partitions that have a file, one that is only half there included."""
    return numbers(directory, ".journal", ".mended", ".journal-wal")


def take(directory: Path) -> WriterLock:
    """Lock the first file that has no writer, or a new number. Raises SetupFault, past MAX_FILES too."""
    known = all_numbers(directory)
    new = (number for number in range(MAX_FILES) if number not in set(known))
    for number in [*known, *new]:
        try:
            return WriterLock(directory, number)
        except BlockingIOError:
            continue
        except OSError as exc:
            raise _unwritable(directory, exc) from exc
    raise SetupFault(f"{directory} already has {MAX_FILES} files with a writer each. Run fewer workers.")


def holder(directory: Path, number: int) -> int | None:
    """The process that writes the file, None if there is none."""
    try:
        fd = os.open(directory / f"{number}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, _PID_AT).split(b"\n")[0]
        return int(text) if text.isdigit() else 0
    else:
        return None
    finally:
        os.close(fd)


@contextlib.contextmanager
def folder_lock(directory: Path, mode: int) -> Iterator[None]:
    """Hold the folder's `flock`. Raises BlockingIOError if `mode` has LOCK_NB and it is taken."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, mode)
        yield
    finally:
        os.close(fd)


def sync_folder(directory: Path) -> None:
    """Make renames in the folder survive a power failure."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- databases -------------------------------------------------------------------------------------


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing file for reading and writing, every commit synced. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One BEGIN IMMEDIATE: committed at the end of the block, rolled back if it raises."""
    _begin(connection)
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _begin(connection: sqlite3.Connection) -> None:
    """Wait for the write lock by looking every TURN_S.

    SQLite's own waiting looks at most every 100 ms and hardly ever finds the gap between two groups of a busy writer.
    """
    deadline = time.monotonic() + BUSY_MS / 1000
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
            else:
                return
            time.sleep(TURN_S)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")


def create(path: Path) -> None:
    """A new file appears complete or not at all: readers look at the folder at any time."""
    fresh = path.with_suffix(".new")
    remove(fresh)
    make(fresh)
    remove(wal(path), shm(path))
    fresh.rename(path)
    sync_folder(path.parent)


def make(path: Path) -> None:
    """An empty file of ours at `path`, synced."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def wal(path: Path) -> Path:
    """SQLite's write-ahead log of the file."""
    return path.with_name(path.name + "-wal")


def shm(path: Path) -> Path:
    """SQLite's index of the WAL, which is made anew whenever it is missing."""
    return path.with_name(path.name + "-shm")


def size(path: Path) -> int:
    """Bytes of a file, 0 if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def remove(*paths: Path) -> None:
    """Delete databases with what SQLite keeps beside them."""
    for path in paths:
        for each in (path, wal(path), shm(path)):
            each.unlink(missing_ok=True)


def last_seq(connection: sqlite3.Connection) -> int:
    """The highest sequence number the file knows of, used or committed as a position."""
    found = connection.execute(
        "SELECT max(n) FROM (SELECT max(seq) AS n FROM sqlite_sequence UNION ALL SELECT max(offset) - 1 FROM consumer "
        "UNION ALL SELECT max(intent_last) FROM consumer UNION ALL SELECT max(first) - 1 FROM trimmed)"
    ).fetchone()[0]
    return int(found or 0)


def topics(connection: sqlite3.Connection) -> list[str]:
    """The topics that have records, by stepping through the index."""
    found: list[str] = []
    query = "SELECT min(topic) FROM record WHERE topic > ?"
    while (topic := connection.execute(query, (found[-1] if found else "",)).fetchone()[0]) is not None:
        found.append(topic)
    return found


# --- size ----------------------------------------------------------------------------------------


def used_bytes(connection: sqlite3.Connection, path: Path) -> int:
    """Bytes in use: the database without its free pages, which are written again first, and a grown WAL."""
    pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
    free = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    return (pages - free) * PAGE_BYTES + max(0, size(wal(path)) - WAL_BYTES)


def used_by_others(directory: Path, number: int) -> int:
    """Bytes in use by the other files of the folder, as of now."""
    total = 0
    for other in numbers(directory):
        path = journal_path(directory, other)
        if other == number:
            continue
        try:
            with contextlib.closing(connect(path)) as connection:
                total += used_bytes(connection, path)
        except sqlite3.Error:
            total += size(path)
    return total
