"""The embedded warehouse: chDB, which is ClickHouse's engine inside this process, behind ClickHouse's HTTP interface.

Clients cannot tell it from a small server, so nothing else in pinstream knows that it exists. One process owns
the data folder; the engine takes the lock. What may run is decided by `guard.py`; this module is the only
importer of chdb, `http.py` speaks HTTP.

A request gets a connection of its own (0.25 ms), so that settings never reach the next one; a session that
changed something keeps its connection. The engine leaves Python's lock while it works: requests run side by
side in threads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import chdb

from pinstream.errors import Misconfigured, QueryFailed, SetupFault
from pinstream.serving import serving
from pinstream.settings import Settings
from pinstream.warehouse import guard, http, schema
from pinstream.warehouse.guard import Statement
from pinstream.warehouse.http import Analyst, Call, Outcome
from pinstream.warehouse.password import analyst_password, password

logger = logging.getLogger(__name__)

MAX_MEMORY_RATIO: Final = 0.6
"""Of the machine's (or the container's) memory, for all statements together."""
MAX_SESSIONS: Final = 128
"""Sessions that hold a connection; the one idle longest gives way."""
STOP_S: Final = 8.0
"""How long running statements may go on when the warehouse stops."""

UNKNOWN_FORMAT: Final = 73
SESSION_NOT_FOUND: Final = 372
SESSION_IS_LOCKED: Final = 373

_DEFAULTS: Final[dict[str, str]] = {
    **{name: str(cap) for name, cap in guard.CAPS.items()},
    "max_bytes_before_external_group_by": str(guard.MAX_QUERY_MEMORY_BYTES // 2),
    "max_bytes_before_external_sort": str(guard.MAX_QUERY_MEMORY_BYTES // 2),
    "implicit_select": "0",  # chDB's shell convenience; a server wants a statement
    "allow_introspection_functions": "0",
    "async_insert": "0",
}
_CODE: Final = re.compile(r"Code: (\d+)\.")
_CHDB: Final[Any] = chdb
"""It has no types; whether mypy notices depends on its cache."""
_PYTHON_FORMATS: Final = frozenset({"dataframe", "datastore", "arrowtable"})


class _Session:
    def __init__(self) -> None:
        self.connection: Any = None
        self.busy = False
        self.expires_at = 0.0


class Engine:
    """chDB on one folder. Every method may block; call `run` from worker threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._address = f"{folder}?max_server_memory_usage_to_ram_ratio={MAX_MEMORY_RATIO}"
        self._owner: Any = None
        self._sessions: dict[str, _Session] = {}
        self._sessions_lock = threading.Lock()
        self._running = 0
        self._running_lock = threading.Lock()
        self.forbidden = guard.forbidden_calls()
        self.version = ""
        self.timezone = ""

    def open(self) -> None:
        """Take the folder.

        Raises:
            SetupFault: another process has it, it cannot be written, or it does not hold what chDB can read.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # chDB would take SIGINT and SIGTERM away from the process
            _CHDB._chdb.set_signal_handlers_enabled(0)
            self._owner = _CHDB.connect(self._address)
            self._close_file_access()
        except (RuntimeError, OSError) as exc:
            raise SetupFault(_why_not_opened(self._folder, str(exc))) from exc
        self.version, self.timezone = self._rows("SELECT version(), timezone()")[0]
        self.forbidden = guard.forbidden_calls(
            name for (name,) in self._rows("SELECT name FROM system.table_functions")
        )

    def _rows(self, sql: str) -> list[list[Any]]:
        return [json.loads(line) for line in self._owner.query(sql, "JSONCompactEachRow").bytes().splitlines()]

    def _close_file_access(self) -> None:
        """chDB's own `default` database takes an unknown table's name for a file's path: replace it by a plain one.

        The plain one's folder appears with its first table. Before that, a note of it that was left by an earlier
        start names a database that chDB does not load, and would stand in the way.
        """
        metadata = self._folder / "metadata"
        self._owner.query("DETACH DATABASE default")
        if (metadata / "default").exists():
            self._owner.query("ATTACH DATABASE default")
        else:
            (metadata / "default.sql").unlink(missing_ok=True)
            self._owner.query("CREATE DATABASE default ENGINE = Atomic")

    def run(self, call: Call) -> Outcome:
        """Run one statement to its end.

        Raises:
            QueryFailed: what ClickHouse says about it, with its code.
        """
        if call.output_format.lower() in _PYTHON_FORMATS:
            raise QueryFailed(f"Unknown format {call.output_format}. (UNKNOWN_FORMAT)", code=UNKNOWN_FORMAT)
        with self._counted():
            return self._run_in_session(call) if call.session_id else self._run_alone(call)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._running_lock:
            self._running += 1
        try:
            yield
        finally:
            with self._running_lock:
                self._running -= 1

    def _run_alone(self, call: Call) -> Outcome:
        guard.check_database(call.statement, call.database)
        connection = self._connect()
        try:
            _prepare(connection, call.settings, call.database)
            if call.read_only:
                _ask(connection, "SET readonly = 1")
            return _execute(connection, call)
        finally:
            connection.close()

    def databases(self) -> list[str]:
        """Their names."""
        connection = self._connect()
        try:
            rows = _ask(connection, "SELECT name FROM system.databases", "JSONCompactEachRow").bytes().splitlines()
        finally:
            connection.close()
        return [name for (name,) in map(json.loads, rows)]

    def _connect(self) -> Any:
        try:
            connection = _CHDB.connect(self._address)
        except RuntimeError as exc:
            raise _translated(exc) from exc
        _ask(connection, f"SET {_assignments(_DEFAULTS)}")
        return connection

    def _run_in_session(self, call: Call) -> Outcome:
        session = self._enter(call.session_id, call.session_must_exist)
        try:
            if session.connection is None and not _leaves_a_mark(call.statement):
                return self._run_alone(call)
            if session.connection is None:
                session.connection = self._connect()
                _prepare(session.connection, {}, call.database)
            return _run_and_restore(session.connection, call)
        finally:
            session.expires_at = time.monotonic() + call.session_timeout_s
            session.busy = False

    def _enter(self, session_id: str, must_exist: bool) -> _Session:
        with self._sessions_lock:
            self._close_sessions(self._overdue())
            if must_exist and session_id not in self._sessions:
                raise QueryFailed(f"Session {session_id} not found. (SESSION_NOT_FOUND)", code=SESSION_NOT_FOUND)
            session = self._sessions.setdefault(session_id, _Session())
            if session.busy:
                raise QueryFailed(f"Session {session_id} is locked. (SESSION_IS_LOCKED)", code=SESSION_IS_LOCKED)
            session.busy = True
            return session

    def _overdue(self) -> list[str]:
        """Idle sessions past their time, and the longest idle ones above MAX_SESSIONS."""
        now = time.monotonic()
        idle = sorted((s.expires_at, name) for name, s in self._sessions.items() if not s.busy)
        surplus = len(self._sessions) - MAX_SESSIONS + 1
        return [name for place, (expires_at, name) in enumerate(idle) if expires_at < now or place < surplus]

    def _close_sessions(self, names: Iterable[str]) -> None:
        for name in list(names):
            connection = self._sessions.pop(name).connection
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """Stop what is still running, then give the folder back."""
        while self._running:
            self._owner.query("KILL QUERY WHERE query_id != queryID() ASYNC", "Null")
            time.sleep(0.1)
        with self._sessions_lock:
            self._close_sessions(list(self._sessions))
        self._owner.close()


def _why_not_opened(folder: Path, why: str) -> str:
    if "Cannot lock file" in why or "Error initializing EmbeddedServer" in why:
        return (
            f"The warehouse folder {folder} is used by another process (or is damaged). Stop the other "
            f"`pinstream warehouse` or `pinstream up`, or set another data_dir. The engine says: {why}"
        )
    return f"The warehouse folder {folder} cannot be opened: {why} Make it writable, or set another data_dir."


def _leaves_a_mark(statement: Statement) -> bool:
    return statement.kind == "session" or b"TEMPORARY" in statement.head[:200].upper()


def _run_and_restore(connection: Any, call: Call) -> Outcome:
    """Settings and database that came with the request count for this statement only."""
    if call.statement.kind == "session":
        return _execute(connection, call)
    before = _current(connection, call.settings)
    guard.check_database(call.statement, call.database or before[""][0])
    try:
        _prepare(connection, call.settings, call.database)
        return _execute(connection, call)
    finally:
        _ask(connection, f"USE {_identifier(before.pop('')[0])}")
        for name, (value, changed) in before.items():
            _ask(connection, f"SET {_assignments({name: value})}" if changed else f"SET {name} = DEFAULT")


def _current(connection: Any, names: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """Name of a setting -> value, whether it was changed; and under the empty name the database."""
    wanted = ", ".join(_literal(name) for name in ["", *names])
    settings = f"SELECT name, value, changed FROM system.settings WHERE name IN ({wanted})"  # noqa: S608 literals
    sql = f"{settings} UNION ALL SELECT '', currentDatabase(), 0"
    rows = (json.loads(line) for line in _ask(connection, sql, "JSONCompactEachRow").bytes().splitlines())
    return {name: (value, bool(changed)) for name, value, changed in rows}


def _prepare(connection: Any, settings: Mapping[str, str], database: str) -> None:
    if settings:
        _ask(connection, f"SET {_assignments(settings)}")
    if database:
        _ask(connection, f"USE {_identifier(database)}")


def _execute(connection: Any, call: Call) -> Outcome:
    started = time.perf_counter_ns()
    if call.statement.insert_format:
        result = _insert(connection, call)
    else:
        result = _ask(connection, call.statement.head, call.output_format, call.params)
    return Outcome(
        result.bytes() or b"",
        result.storage_rows_read(),
        result.storage_bytes_read(),
        result.rows_written(),
        result.rows_read(),
        time.perf_counter_ns() - started,
    )


def _insert(connection: Any, call: Call) -> Any:
    """Through a file: the engine's streaming insert says nothing when a view fails, and would lose half a block."""
    statement = call.statement
    with _as_file(call.data) as path:
        infile = f" FROM INFILE {_literal(path)} COMPRESSION 'none' ".encode()
        sql = statement.head + infile + statement.settings + f" FORMAT {statement.insert_format}".encode()
        return _ask(connection, sql, "Null", call.params)


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """The path of a file with `data`: in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("insert"), "wb") as file:
            file.write(data)
            file.flush()
            yield f"/proc/{os.getpid()}/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name


def _ask(
    connection: Any, sql: str | bytes, output_format: str = "Null", params: Mapping[str, str] | None = None
) -> Any:
    try:
        return connection.query(sql, output_format, params=params or {})
    except RuntimeError as exc:
        raise _translated(exc) from exc


def _translated(exc: RuntimeError) -> QueryFailed:
    text = str(exc)
    match = _CODE.search(text)
    if match is None:
        return QueryFailed(text, code=1001)
    text = text[match.end() :].strip().removeprefix("DB::Exception:").strip()
    return QueryFailed(re.sub(r"\s*\(version [\d.]+\)\s*$", "", text), code=int(match[1]))


def _assignments(settings: Mapping[str, str]) -> str:
    for name in settings:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise QueryFailed(f"Unknown setting '{name}'. (UNKNOWN_SETTING)", code=115)
    return ", ".join(f"{name} = {_literal(value)}" for name, value in settings.items())


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _identifier(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


# --- the process -----------------------------------------------------------------------------------


def address(settings: Settings) -> tuple[str, int]:
    """Host and port to listen on: those of `warehouse.url`."""
    url = urlsplit(settings.warehouse.url)
    if url.scheme != "http" or not url.hostname:
        raise Misconfigured("warehouse.url must be http://host:port for the embedded warehouse.")
    return url.hostname, url.port or 8123


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """The embedded warehouse while the block runs; gives its port.

    At the end running statements get STOP_S seconds, then they are interrupted.

    Raises:
        SetupFault: the folder or the port is not to be had.
    """
    loop = asyncio.get_running_loop()
    secret = password(settings)
    analyst = Analyst(
        settings.warehouse.analyst_user, analyst_password(settings), schema.analytics_database(settings.warehouse)
    )
    engine = Engine(settings.data_dir / "warehouse")
    with (
        ThreadPoolExecutor(http.MAX_READS + http.MAX_WRITES + 4, "warehouse") as threads,
        ThreadPoolExecutor(http.MAX_ANALYST_READS, "analyst") as analysts,
    ):
        await loop.run_in_executor(threads, engine.open)
        interface = http.Interface(
            engine, threads, analysts, user=settings.warehouse.user, password=secret, analyst=analyst
        )
        try:
            host, port = address(settings)
            async with serving(http.app(interface), host, port, timeout_graceful_shutdown=int(STOP_S)) as actual:
                logger.info("warehouse: ClickHouse %s on http://%s:%d", engine.version, host, actual)
                yield actual
        finally:
            await loop.run_in_executor(threads, engine.close)
