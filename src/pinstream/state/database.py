"""The control plane's database: how it is opened, migrated, and how its faults are told.

SQLite runs in WAL mode with foreign keys; a write takes the lock at its start, so that it waits its turn
instead of failing in the middle. PostgreSQL is reached through psycopg 3.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pinstream.errors import Misconfigured, SetupFault, StateError

BUSY_TIMEOUT_MS: Final = 10_000
CONNECT_TIMEOUT_S: Final = 5
_LOCK_NUMBER: Final = 7_420_461_120  # of PostgreSQL's advisory lock around migrations; any constant of ours


def open_engine(url: str) -> Engine:
    """An engine for `url`; nothing is asked of the database yet.

    Raises:
        Misconfigured: `url` is not a database URL we speak.
        SetupFault: the folder of a SQLite file cannot be made or written.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise Misconfigured("state.url is not a database URL. Use sqlite:///<file> or postgresql://....") from exc
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database and parsed.database != ":memory:":
        return _sqlite(parsed)
    if kind in ("postgresql", "postgres"):
        return _postgresql(parsed)
    raise Misconfigured(f"state.url: {kind} is not supported. Use sqlite:///<file> or postgresql://....")


def _sqlite(url: URL) -> Engine:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as exc:
        raise SetupFault(
            f"Cannot write {path}: {exc.strerror}. Set state.url or data_dir to a folder of ours."
        ) from exc
    engine = create_engine(url.set(drivername="sqlite+pysqlite"), connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _postgresql(url: URL) -> Engine:
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_timeout=CONNECT_TIMEOUT_S,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
        )
    except (ImportError, NoSuchModuleError) as exc:
        raise SetupFault("PostgreSQL needs the package psycopg. Install psycopg[binary].") from exc


@contextmanager
def translated() -> Iterator[None]:
    """Turn a database that does not answer into a StateError. A broken constraint passes as it is."""
    try:
        yield
    except PoolTimeout as exc:
        raise StateError("The state database has no free connection. Try again, or allow it more.") from exc
    except OperationalError as exc:
        raise StateError(f"The state database does not answer: {_first_line(exc)}. Check state.url.") from exc
    except DBAPIError as exc:
        if exc.connection_invalidated:
            raise StateError("The connection to the state database was lost. Try again.") from exc
        if type(exc) is DatabaseError:  # what SQLite says of a broken file
            raise StateError(f"The state database cannot be used: {_first_line(exc)}. Check state.url.") from exc
        raise


def _first_line(exc: DBAPIError) -> str:
    return (str(exc.orig).strip() or type(exc.orig).__name__).splitlines()[0].rstrip(".")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One read transaction: everything read in it is of one moment."""
    with translated(), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction: all of it, or nothing."""
    with translated(), engine.connect().execution_options(write=True) as connection, connection.begin():
        yield connection


# --- migrations ----------------------------------------------------------------------------------


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def revision(engine: Engine) -> str | None:
    """The revision the database is at; None = nothing of ours is in it."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine) -> None:
    """Bring the schema to this program's revision, one process at a time.

    Raises:
        StateError: the database is away, or its schema is newer than this program.
    """
    with _lock(engine):
        current, head = revision(engine), _script().get_current_head()
        if current == head:
            return
        _refuse_newer(current)
        config = _config()
        with writing(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def check(engine: Engine) -> None:
    """Return if the schema is this program's; else raise the StateError that says what to run."""
    current = revision(engine)
    if current == _script().get_current_head():
        return
    _refuse_newer(current)
    raise StateError(f"The state database is at schema {current or 'none'}, which is old. Run `pinstream migrate`.")


def _refuse_newer(current: str | None) -> None:
    known = {script.revision for script in _script().walk_revisions()}
    if current is not None and current not in known:
        raise StateError(f"The state database has schema {current}, newer than this program. Update pinstream.")


@contextmanager
def _lock(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "postgresql":
        with _advisory_lock(engine):
            yield
        return
    with open(f"{engine.url.database}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _advisory_lock(engine: Engine) -> Iterator[None]:
    with translated(), engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": _LOCK_NUMBER})
        connection.commit()
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:number)"), {"number": _LOCK_NUMBER})
            connection.commit()
