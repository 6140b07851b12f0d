from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pinstream.errors import QueryFailed, SchemaBehind, WarehouseAway
from pinstream.settings import Warehouse as Settings
from pinstream.warehouse import flips, migrate, schema
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.flips import Flip
from tests.warehouse.test_blocks import an_event, block
from tests.warehouse.test_schema import spliced

NUMBERS = [step.number for step in migrate.steps(Settings())]


@pytest.fixture
async def empty(warehouse_settings: Settings) -> AsyncIterator[Warehouse]:
    """A client of a database that does not exist yet."""
    own = warehouse_settings.model_copy(update={"database": f"t_{uuid.uuid4().hex[:12]}"})
    client = Warehouse.open(own, password=own.password.get_secret_value())
    yield client
    await client.create_database()
    await client.command(f"DROP DATABASE {own.database}")
    await client.aclose()


async def tables(warehouse: Warehouse) -> set[str]:
    return {row["name"] for row in await warehouse.select("SHOW TABLES")}


def test_numbers_run_from_one_without_a_hole() -> None:
    assert list(range(1, len(NUMBERS) + 1)) == NUMBERS
    names = {path.name for path in Path(migrate.__file__).parent.joinpath("migrations").glob("*.sql")}
    assert len(names) == len(NUMBERS)


async def test_a_dry_run_changes_nothing(empty: Warehouse) -> None:
    plan = await migrate.migrate(empty, empty.settings, dry_run=True)
    assert [(step.number, step.state) for step in plan] == [(number, "pending") for number in NUMBERS]
    assert all(step.statements for step in plan)
    with pytest.raises(QueryFailed) as caught:
        await tables(empty)
    assert caught.value.code == migrate.UNKNOWN_DATABASE


async def test_a_second_run_finds_everything_applied(empty: Warehouse) -> None:
    first = await migrate.migrate(empty, empty.settings)
    second = await migrate.migrate(empty, empty.settings)
    assert {step.state for step in first} == {"pending"}
    assert {step.state for step in second} == {"applied"}
    assert not [name for name in await tables(empty) if name.startswith("schema_lock")]


async def test_check_wants_every_migration(empty: Warehouse) -> None:
    with pytest.raises(SchemaBehind, match="pinstream migrate"):
        await migrate.check(empty)
    await migrate.migrate(empty, empty.settings)
    await migrate.check(empty)


async def test_check_refuses_a_newer_database(empty: Warehouse) -> None:
    await migrate.migrate(empty, empty.settings)
    await empty.command(
        "INSERT INTO schema_migration (number, name, checksum, state) VALUES (9999, 'x', 'y', 'finished')"
    )
    for call in (migrate.check(empty), migrate.migrate(empty, empty.settings)):
        with pytest.raises(SchemaBehind, match="newer"):
            await call


async def test_an_edited_migration_is_refused(empty: Warehouse) -> None:
    await migrate.migrate(empty, empty.settings)
    await empty.command(
        "ALTER TABLE schema_migration UPDATE checksum = 'edited' WHERE number = 1 SETTINGS mutations_sync = 1"
    )
    for call in (migrate.check(empty), migrate.migrate(empty, empty.settings)):
        with pytest.raises(SchemaBehind, match="another text"):
            await call


async def test_a_run_that_died_is_run_again(empty: Warehouse) -> None:
    await migrate.migrate(empty, empty.settings)
    await empty.command(
        "ALTER TABLE schema_migration DELETE WHERE number >= 2 AND state = 'finished' SETTINGS mutations_sync = 1"
    )
    await empty.command("DROP TABLE event_minute_from_events_v1")
    with pytest.raises(SchemaBehind, match="0002"):
        await migrate.check(empty)
    await migrate.migrate(empty, empty.settings)
    await migrate.check(empty)
    assert "event_minute_from_events_v1" in await tables(empty)


async def test_views_that_are_new_on_a_database_in_use_count_from_the_next_version_on(
    empty: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """# Also if the run dies after it made them: a second one makes no second view beside."""
    text = """
        CREATE TABLE IF NOT EXISTS event_total (n SimpleAggregateFunction(sum, UInt64))
        ENGINE = {engine AggregatingMergeTree()} ORDER BY tuple() SETTINGS {window};
        CREATE MATERIALIZED VIEW IF NOT EXISTS event_total_from_events_v{version} TO event_total AS
        SELECT count() AS n FROM events WHERE rollup_version >= {version};
    """
    steps = migrate.steps

    def with_a_new_one(settings: Settings, *, version: int = 1) -> list[migrate.Step]:
        new = migrate.Step(
            number=len(NUMBERS) + 1,
            name="totals",
            state="pending",
            checksum="c",
            statements=tuple(schema.statements(text, settings, version=version)),
        )
        return [*steps(settings, version=version), new]

    await migrate.migrate(empty, empty.settings)
    await empty.insert("events", schema.insert_columns("events"), block(0, 9), token="a")
    monkeypatch.setattr(migrate, "steps", with_a_new_one)
    with monkeypatch.context() as died, pytest.raises(ZeroDivisionError):
        died.setattr(migrate, "_version_to_flip_to", lambda _: 1 / 0)
        await migrate.migrate(empty, empty.settings)
    assert await flips.latest(empty) == Flip(1, True)
    await migrate.migrate(empty, empty.settings)
    await migrate.migrate(empty, empty.settings)
    assert await flips.latest(empty) == Flip(2, True)
    assert {name for name in await tables(empty) if "total" in name} == {"event_total", "event_total_from_events_v2"}
    new = b"\n".join(spliced(number, an_event(number), version=2) for number in range(10, 15))
    await empty.insert("events", schema.insert_columns("events"), block(10, 14), token="replayed under its own version")
    await empty.insert("events", schema.insert_columns("events"), new, token="b")
    assert await empty.select("SELECT sum(n) AS n FROM event_total") == [{"n": 5}]


async def test_two_at_once_take_turns(empty: Warehouse) -> None:
    other = Warehouse.open(empty.settings, password=empty.settings.password.get_secret_value())
    both = await asyncio.gather(*(migrate.migrate(client, client.settings) for client in (empty, other)))
    await other.aclose()
    assert sorted(plan[0].state for plan in both) == ["applied", "pending"]
    rows = await empty.select(
        "SELECT number, count() AS runs FROM schema_migration WHERE state = 'started' GROUP BY number"
    )
    assert {row["number"]: row["runs"] for row in rows} == dict.fromkeys(NUMBERS, 1)


async def test_a_dead_process_lock_is_taken_over(empty: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    await empty.create_database()
    await empty.command("CREATE TABLE schema_lock_3 (one UInt8) ENGINE = MergeTree ORDER BY tuple()")
    monkeypatch.setattr(migrate, "WAIT_S", 0.5)
    with pytest.raises(SchemaBehind, match="Another process"):
        await migrate.migrate(empty, empty.settings)
    monkeypatch.setattr(migrate, "LOCK_S", 0.5)
    monkeypatch.setattr(migrate, "WAIT_S", 10)
    await migrate.migrate(empty, empty.settings)
    assert not [name for name in await tables(empty) if name.startswith("schema_lock")]


async def test_the_holder_of_a_lock_notices_that_it_was_taken_over(empty: Warehouse) -> None:
    await empty.create_database()
    async with migrate.lock(empty) as still_ours:
        await still_ours()
        await empty.command("CREATE TABLE schema_lock_2 (one UInt8) ENGINE = MergeTree ORDER BY tuple()")
        with pytest.raises(SchemaBehind, match="taken the migration over"):
            await still_ours()
    assert {name for name in await tables(empty) if name.startswith("schema_lock")} == {"schema_lock_2"}


async def test_clickhouse_away_is_said_so(empty: Warehouse) -> None:
    nobody = Warehouse.open(Settings(url="http://127.0.0.1:9"), password="x")
    with pytest.raises(WarehouseAway, match="Is it running"):
        await migrate.check(nobody)
    await nobody.aclose()
