"""scripts/chaos load: its records, its faults, that its comparison can fail; and one short run."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from loadtests.chaos import load

from pinstream.event import EVENTS
from pinstream.eventlog.contract import Partition, Stored
from pinstream.load import deadletter
from pinstream.warehouse import rollup
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.migrate import migrate
from tests.kafka_broker import need_kafka
from tests.warehouse_server import PASSWORD

NOW_MS = 1_795_291_391_000


def options(tmp_path: Path, **changes: object) -> load.Options:
    return load.Options(**{"directory": tmp_path, "kills": 30, "rate": 200.0, "seed": 3, **changes})  # type: ignore


def test_records_are_different_and_some_are_no_events() -> None:
    made = load.records(random.Random(1), 5000, NOW_MS)
    good = Counter(deadletter.CHECKS[each.topic](each.value) for each in made)
    assert len({each.value for each in made}) == 5000
    assert 0 < good[False] < 50


def test_every_kind_of_fault_comes_and_a_seed_repeats_them(tmp_path: Path) -> None:
    dealt = load.plan(options(tmp_path))
    assert len(dealt) == 30
    assert set(dealt) == set(load.KINDS)
    assert dealt == load.plan(options(tmp_path)) != load.plan(options(tmp_path, seed=4))


def test_nothing_at_all_holds_nothing() -> None:
    calm = {"in_kafka": 5, "missing": 0, "doubled": 0, "views": {"identity": {"missing": 0, "doubled": 0}}}
    assert load.holds(calm)
    assert not load.holds(calm | {"in_kafka": 0})
    assert not load.holds(calm | {"doubled": 1})
    assert not load.holds(calm | {"views": {"identity": {"missing": 1, "doubled": 0}}})


async def test_what_is_missing_and_what_is_doubled_shows_in_every_rollup(warehouse: Warehouse) -> None:
    stored = [
        Stored(offset, record.value, 0)
        for offset, record in enumerate(load.records(random.Random(1), 300, NOW_MS))
        if record.topic == EVENTS
    ]
    other = Warehouse.open(
        warehouse.settings.model_copy(update={"database": f"{warehouse.database}_other"}), password=PASSWORD
    )
    try:
        await migrate(other, other.settings)
        for database in (warehouse, other):
            await load._calm_pass(database, {Partition(EVENTS, 0): stored}, b"x")

        async def verdicts() -> Iterator[tuple[int, int]]:
            found = [await load.compared(warehouse, other.database, warehouse.database, n) for n in rollup.names()]
            return ((each["missing"], each["doubled"]) for each in found)

        assert set(await verdicts()) == {(0, 0)}
        await load._calm_pass(other, {Partition(EVENTS, 1): stored[:1]}, b"x")
        counts = await load.compared(warehouse, other.database, warehouse.database, "event_minute")
        assert counts == {"missing": 1, "doubled": 1}  # one row of the two has another sum
        for name in rollup.names():
            await other.command(f"TRUNCATE TABLE {name}")
        assert all(missing > 0 and not doubled for missing, doubled in await verdicts())
    finally:
        await other.command(f"DROP DATABASE {other.database}")
        await other.aclose()


@pytest.mark.slow
@pytest.mark.kafka
def test_a_short_run_is_exact(tmp_path: Path) -> None:
    need_kafka()
    chosen = options(tmp_path, kills=2, kinds=("load_kill", "answers_lost"))
    outcome = asyncio.run(load.run(chosen, print))
    assert load.holds(outcome), outcome
    assert outcome["kills"] == 2
