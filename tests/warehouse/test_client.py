from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from pinstream.errors import Misconfigured, QueryFailed, SetupFault, WarehouseAway
from pinstream.settings import Settings
from pinstream.settings import Warehouse as WarehouseSettings
from pinstream.warehouse import client
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.password import password
from tests.warehouse_server import PASSWORD, EmbeddedProcess, free_port


@pytest.mark.parametrize("url", ["", "localhost:8123", "ftp://x", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"warehouse\.url"):
        Warehouse.open(WarehouseSettings(url=url), password="x")


def test_a_password_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupFault, match="Cannot keep"):
        password(Settings(data_dir=tmp_path / "file" / "data"))
    assert password(Settings(data_dir=tmp_path, warehouse=WarehouseSettings(mode="single"))) == ""


async def test_nobody_listens() -> None:
    warehouse = Warehouse.open(WarehouseSettings(url=f"http://127.0.0.1:{free_port()}"), password="x")
    with pytest.raises(WarehouseAway, match="Connection refused.*Is it running"):  # noqa: RUF043
        await warehouse.ping()
    await warehouse.aclose()


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


async def test_nobody_answers(silent: int) -> None:
    settings = WarehouseSettings(url=f"http://127.0.0.1:{silent}", query_timeout_s=1)
    warehouse = Warehouse.open(settings, password="x")
    started = time.monotonic()
    with pytest.raises(WarehouseAway, match="does not answer"):
        await warehouse.ping()
    assert time.monotonic() - started < 10
    await warehouse.aclose()


async def test_a_wrong_password_is_a_sentence(warehouse_settings: WarehouseSettings) -> None:
    warehouse = Warehouse.open(warehouse_settings, password="wrong")
    with pytest.raises(QueryFailed, match=r"Set warehouse\.user and") as caught:
        await warehouse.ping()
    assert caught.value.code == 516
    await warehouse.aclose()


async def test_clickhouses_words_and_code_without_address(warehouse: Warehouse) -> None:
    with pytest.raises(QueryFailed) as caught:
        await warehouse.select("SELECT * FROM nope")
    assert caught.value.code == 60
    assert str(caught.value).startswith("Unknown table expression identifier 'nope'")
    assert "127.0.0.1" not in str(caught.value)
    assert "version" not in str(caught.value)


async def test_more_calls_than_threads(warehouse: Warehouse) -> None:
    numbers = range(5 * client.CALLS)
    answers = await asyncio.gather(*(warehouse.select("SELECT {n:UInt32} AS n", {"n": n}) for n in numbers))
    assert [row["n"] for (row,) in answers] == list(numbers)


async def test_settings_of_a_select_count_once(warehouse: Warehouse) -> None:
    probe = "SELECT getSetting('max_block_size') AS size"
    before = await warehouse.select(probe)
    assert await warehouse.select(probe, settings={"max_block_size": 777}) == [{"size": 777}]
    assert await warehouse.select(probe) == before


async def test_an_insert_is_compressed_off_this_machine(warehouse: Warehouse) -> None:
    await warehouse.command("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
    body = b"".join(b'{"a":%d}\n' % number for number in range(client.COMPRESS_FROM_BYTES // 5))
    for local in (True, False):
        warehouse._local = local
        await warehouse.insert("t", ["a"], body, token=str(local))
        await warehouse.insert("t", ["a"], b'{"a":0}\n', token=f"small {local}")
    (row,) = await warehouse.select("SELECT count() AS n, uniqExact(a) AS u FROM t")
    rows = body.count(b"\n")
    assert row == {"n": 2 * rows + 2, "u": rows}


async def test_calls_go_on_after_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """# a failure is raised as one sentence, and said by nobody else"""
    server = EmbeddedProcess(tmp_path)
    server.start()
    warehouse = Warehouse.open(server.settings, password=PASSWORD)
    await asyncio.gather(*(warehouse.ping() for _ in range(client.CALLS)))
    server.kill()
    with pytest.raises(WarehouseAway) as caught:
        await warehouse.insert("t", ["a"], b'{"a":0}\n', token="t")
    url = server.settings.url
    assert str(caught.value) == f"ClickHouse at {url} does not answer ([Errno 111] Connection refused). Is it running?"
    assert caplog.messages == []
    server.start()
    for _ in range(2 * client.CALLS):
        await warehouse.ping()
    await warehouse.aclose()
    server.stop()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("(total) memory limit exceeded: would use 9 GiB. (MEMORY_LIMIT_EXCEEDED)", WarehouseAway),
        ("Query memory limit exceeded: would use 3 GiB. (MEMORY_LIMIT_EXCEEDED)", QueryFailed),
    ],
)
async def test_memory_that_others_use_comes_back(text: str, kind: type[Exception]) -> None:
    warehouse = Warehouse.open(WarehouseSettings(), password="x")
    fault = DatabaseError(text, code=client.MEMORY_LIMIT_EXCEEDED)
    assert type(warehouse._translated(fault)) is kind
    await warehouse.aclose()
