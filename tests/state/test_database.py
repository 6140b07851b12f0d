from __future__ import annotations

import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, text

from pinstream.errors import Misconfigured, SetupFault, StateError
from pinstream.state import database
from pinstream.state.snapshot import Site
from pinstream.state.store import Store
from pinstream.state.tables import METADATA, SECRET


def test_the_migrations_make_exactly_the_tables(store: Store) -> None:
    with database.reading(store.engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_opening_again_changes_nothing(url: str, store: Store) -> None:
    store.add_site(Site(id=0, tag_id="t1"), now_ms=1)
    again = Store.open(url)
    assert again.sites() == store.sites()
    again.ping()
    again.close()


def test_a_newer_schema_is_refused(url: str, store: Store) -> None:
    with database.writing(store.engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (lambda: Store.open(url), lambda: Store.open(url, upgrade=False), store.ping):
        with pytest.raises(StateError, match="newer than this program"):
            attempt()


def test_an_old_schema_names_the_command(url: str) -> None:
    with pytest.raises(StateError, match="pinstream migrate"):
        Store.open(url, upgrade=False)


def _open(url: str) -> int:
    store = Store.open(url)
    return len(store.sites())


def test_processes_that_start_together_migrate_once(url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as processes:
        assert processes.map(_open, [url] * 8) == [0] * 8


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), database.writing(store.engine) as connection:
        connection.execute(insert(SECRET).values(name="half", value=b""))
        _ = 1 // 0
    with database.reading(store.engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM secret")) == 0


def test_a_read_is_of_one_moment(url: str, store: Store) -> None:
    with database.reading(store.engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM secret")) == 0
        other = Store(database.open_engine(url))
        other.secret("later")
        other.close()
        assert connection.scalar(text("SELECT count(*) FROM secret")) == 0


@pytest.mark.parametrize("bad", ["", "mysql://root@localhost/x", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_other_urls_are_misconfigured(bad: str) -> None:
    with pytest.raises(Misconfigured, match=r"state\.url"):
        Store.open(bad)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupFault, match="Cannot write"):
        Store.open(f"sqlite:///{tmp_path / 'file' / 'state.db'}")


def test_a_file_that_is_no_database_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database at all, " * 100)
    with pytest.raises(StateError):
        Store.open(f"sqlite:///{tmp_path / 'state.db'}")


def test_a_server_that_is_away_is_a_state_error() -> None:
    with pytest.raises(StateError, match="does not answer"):
        Store.open("postgresql://test@127.0.0.1:1/none")


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path / 'deep' / 'state.db'}")
    yield store
    store.close()


def test_the_file_is_for_this_user_only(sqlite_store: Store, tmp_path: Path) -> None:
    assert os.stat(tmp_path / "deep" / "state.db").st_mode & 0o077 == 0


def test_sqlite_keeps_foreign_keys_and_the_wal(sqlite_store: Store) -> None:
    with database.reading(sqlite_store.engine) as connection:
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2


def test_a_database_that_stays_locked_is_a_state_error(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 100)
    impatient = Store(database.open_engine(str(sqlite_store.engine.url)))
    blocker = sqlite3.connect(tmp_path / "deep" / "state.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError, match="locked"):
        impatient.secret("x")
    blocker.execute("ROLLBACK")
    blocker.close()
    assert impatient.secret("x")
    impatient.close()
