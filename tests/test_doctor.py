from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from pinstream import doctor, roles
from pinstream.clock import now_ms
from pinstream.event import EVENTS, Event, encode
from pinstream.eventlog import open_log
from pinstream.eventlog.contract import Partition, Record
from pinstream.settings import FirstSite, Load, Log, Settings
from pinstream.settings import Log as LogSettings
from pinstream.settings import Warehouse as WarehouseSettings
from pinstream.state.store import Store
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse
from tests.collect.conftest import BROWSER, SHOP, SITE
from tests.collect.test_server import serving, settings_in
from tests.warehouse_server import free_port


@pytest.fixture
def healthy(tmp_path: Path, warehouse: Warehouse) -> Settings:
    """A set-up with nothing wrong, whose roles do not run."""
    settings = Settings(
        data_dir=tmp_path / "data",
        warehouse=warehouse.settings,
        load=Load(ops_port=free_port()),
        site=FirstSite(tag_id="shop", origins=["https://www.shop.example"]),
    )
    store = Store.open(settings.state_url)
    store.ensure_first_site(settings.site, now_ms=1)
    store.close()
    return settings


async def faults(settings: Settings, **options: object) -> dict[str, doctor.Finding]:
    findings = await doctor.examine(settings, **options)  # type: ignore[arg-type]
    return {finding.check: finding for finding in findings if finding.verdict == "fault"}


async def test_a_healthy_set_up_has_no_fault(healthy: Settings) -> None:
    assert await faults(healthy) == {}


async def test_clickhouse_away(healthy: Settings) -> None:
    away = healthy.model_copy(
        update={"warehouse": healthy.warehouse.model_copy(update={"url": f"http://127.0.0.1:{free_port()}"})}
    )
    found = await faults(away)
    assert list(found) == ["warehouse"]
    assert "127.0.0.1" in found["warehouse"].seen
    assert "Start ClickHouse" in found["warehouse"].fix


async def test_schema_behind(healthy: Settings) -> None:
    new = healthy.model_copy(update={"warehouse": healthy.warehouse.model_copy(update={"database": "never_migrated"})})
    found = await faults(new)
    assert "pinstream migrate" in found["schema"].seen


async def test_what_collect_turned_away_is_counted(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "data").model_copy(
        update={"warehouse": WarehouseSettings(url=f"http://127.0.0.1:{free_port()}")}
    )
    async with serving(settings) as role, httpx.AsyncClient(headers={"origin": SHOP}, trust_env=False) as http:
        before = await counted(settings)
        for agent, consent, times in (("curl/8", "yes", 3), (BROWSER, "no", 2)):
            for _ in range(times):
                event = {"site": SITE.tag_id, "consent": consent, "event": "page_visit"}
                assert (await http.post(f"{role.url}/p/i", json=event, headers={"user-agent": agent})).is_success
        wrong = {"site": "nobody", "consent": "yes", "event": "page_visit"}
        assert (await http.post(f"{role.url}/p/i", json=wrong, headers={"user-agent": BROWSER})).status_code == 403
        after = await counted(settings)
    assert {reason: after[reason] - before.get(reason, 0) for reason in ("bot", "consent", "unknown_site")} == {
        "bot": 3,
        "consent": 2,
        "unknown_site": 1,
    }
    assert await counted(settings) == {}, "it does not run any more"


async def counted(settings: Settings) -> dict[str, int]:
    """What the finding says, by reason. The counts are this process's, so other tests are in them."""
    findings = {each.check: each for each in await doctor.examine(settings)}
    if "counted" not in findings:
        return {}
    assert findings["counted"].verdict == "note"
    return {reason: int(events) for reason, events in re.findall(r"(\w+) (\d+)", findings["counted"].seen)}


async def test_clock_off(healthy: Settings) -> None:
    found = await faults(healthy, clock_ms=lambda: now_ms() + 600_000)
    assert "+600 s" in found["clock"].seen
    assert found["clock"].fix


def test_a_clock_behind_the_newest_event() -> None:
    assert doctor.clock(1_000_000, 1_000_000, 2_000_000).verdict == "fault"
    assert doctor.clock(1_000_000, 1_000_000, 1_000_000).verdict == "ok"


async def test_disk_full(healthy: Settings) -> None:
    found = await faults(healthy, min_free_bytes=1 << 60)
    assert "Free disk space" in found["disk"].fix


async def test_a_data_folder_that_is_none(tmp_path: Path, healthy: Settings) -> None:
    (tmp_path / "file").touch()
    found = await faults(healthy.model_copy(update={"data_dir": tmp_path / "file" / "data"}))
    assert {"data folder", "state", "log"} <= set(found)


async def test_no_site(tmp_path: Path, healthy: Settings) -> None:
    empty = healthy.model_copy(update={"data_dir": tmp_path / "other"})
    Store.open(empty.state_url).close()
    found = await faults(empty)
    assert "pinstream sites add" in found["state"].fix


async def write(settings: Settings, count: int) -> list[bytes]:
    at_ms = now_ms()
    values = [encode(Event(event="x", event_id=str(n), site_id=1, time=at_ms, received_ms=at_ms)) for n in range(count)]
    appender = await open_log(settings).appender()
    await appender.append([Record(EVENTS, 1, value) for value in values])
    await appender.aclose()
    return values


async def commit(settings: Settings, offset: int) -> None:
    consumer = await open_log(settings).consumer("load", [EVENTS])
    partition = Partition(EVENTS, 0)
    deadline = time.monotonic() + 30
    while partition not in consumer.assignment() and time.monotonic() < deadline:
        await consumer.poll(timeout_s=0.2, max_records=1)
    consumer.seek(partition, offset)
    await consumer.commit(partition, offset, None)
    await consumer.aclose()


async def test_a_spool_that_nobody_drains(healthy: Settings) -> None:
    away = Log(kind="kafka", kafka_bootstrap=f"127.0.0.1:{free_port()}", spool_max_bytes=1 << 20)
    settings = healthy.model_copy(update={"log": away})
    appender = await open_log(settings).appender()
    await appender.append([Record(EVENTS, 1, b"x" * 1000)])
    assert list(await faults(settings)) == ["log"], "its process lives, and drains it"
    await appender.aclose()
    found = await faults(settings)
    assert found["spool"].seen.startswith("1 records of processes that are gone")
    assert "pinstream spool drain" in found["spool"].fix
    appender = await open_log(settings).appender()
    await appender.append([Record(EVENTS, 1, b"x" * 600_000)])
    found = await faults(settings)
    assert "% full" in found["spool"].seen
    await appender.aclose()


async def test_a_recreated_log(healthy: Settings, warehouse: Warehouse) -> None:
    values = await write(healthy, 5)
    row = b'{"k_partition":0,"k_offset":5000,"rollup_version":1,' + values[0][1:]
    await warehouse.insert("events", schema.insert_columns("events"), row, token="t")
    await commit(healthy, 6)
    found = await faults(healthy)
    assert "--reset-positions" in found["positions"].seen
    assert "5000" in found["positions"].seen


async def test_a_log_that_is_shorter_than_the_position(healthy: Settings, warehouse: Warehouse) -> None:
    values = await write(healthy, 5)
    row = b'{"k_partition":0,"k_offset":2,"rollup_version":1,' + values[1][1:]
    await warehouse.insert("events", schema.insert_columns("events"), row, token="t")
    await commit(healthy, 3)
    assert await faults(healthy) == {}
    await commit(healthy, 900)
    assert "recreated or cut" in (await faults(healthy))["positions"].seen


async def test_kafka_away(healthy: Settings) -> None:
    away = LogSettings(kind="kafka", kafka_bootstrap=f"127.0.0.1:{free_port()}", kafka_request_timeout_ms=1000)
    found = await faults(healthy.model_copy(update={"log": away}))
    assert away.kafka_bootstrap in found["log"].seen


@pytest.mark.kafka
async def test_kafka_without_topics(healthy: Settings, kafka: str) -> None:
    log = LogSettings(kind="kafka", kafka_bootstrap=kafka, kafka_partitions=3)
    found = await faults(healthy.model_copy(update={"log": log}))
    if found:
        assert "kafka_create_topics" in found["log"].seen


def run(data_dir: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PINSTREAM_")}
    return subprocess.run(
        [sys.executable, "-m", "pinstream", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=data_dir,
        env=clean | {"PINSTREAM_DATA_DIR": str(data_dir)} | environment,
    )


@pytest.mark.slow
def test_the_command_names_fault_and_fix_and_exits_with_1(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run(tmp_path, "doctor", PINSTREAM_WAREHOUSE__URL=url, PINSTREAM_WAREHOUSE__PASSWORD="x")
    assert done.returncode == 1, done.stderr
    assert "FAULT" in done.stdout
    assert "pinstream migrate" in done.stdout
    assert url in done.stdout


@pytest.mark.slow
def test_the_command_speaks_json(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", "--json", PINSTREAM_WAREHOUSE__URL=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    findings = json.loads(done.stdout.splitlines()[-1])
    assert {"check", "verdict", "seen", "fix"} == set(findings[0])


@pytest.mark.slow
def test_a_typo_in_the_settings_is_a_finding(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", PINSTREAM_COLLECT__PROT="1")
    assert done.returncode == 1
    assert "PINSTREAM_COLLECT__PROT" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_healthy_set_up_exits_with_0(healthy: Settings) -> None:
    warehouse: WarehouseSettings = healthy.warehouse
    done = run(
        healthy.data_dir,
        "doctor",
        PINSTREAM_WAREHOUSE__URL=warehouse.url,
        PINSTREAM_WAREHOUSE__DATABASE=warehouse.database,
        PINSTREAM_WAREHOUSE__PASSWORD=warehouse.password.get_secret_value(),
    )
    assert done.returncode == 0, done.stdout
    shutil.rmtree(healthy.data_dir)


async def test_a_wiped_warehouse(healthy: Settings) -> None:
    await write(healthy, 5)
    await commit(healthy, 6)
    assert "ClickHouse holds none" in (await faults(healthy))["positions"].seen
    done = await roles.reset_positions(healthy, "oldest")
    assert {"topic": EVENTS, "partition": 0, "offset": 1, "then": "start load"} in done
    assert await faults(healthy) == {}


async def test_a_connection_that_fails_is_noted(healthy: Settings) -> None:
    store = Store.open(healthy.state_url)
    audience = store.add_audience(site_id=store.sites()[0].id, name="Carts", rule="{}", now_ms=1)
    link = store.connect(audience_id=audience.id, ad_account_id="7", now_ms=1)
    store.set_connection(link.id, state="error", detail="Pinterest answered 403.")
    store.close()
    notes = [each for each in await doctor.examine(healthy) if each.check == "audience"]
    assert notes == [doctor.Finding("audience", "note", f"{audience.id}, Carts: error. Pinterest answered 403.")]
