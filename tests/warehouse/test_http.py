from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import clickhouse_connect
import httpx
import lz4.frame
import pytest
import zstandard
from clickhouse_connect.driver.exceptions import DatabaseError

from pinstream.settings import Settings
from pinstream.warehouse import http
from pinstream.warehouse.embedded import MAX_MEMORY_RATIO, MAX_SESSIONS
from pinstream.warehouse.password import password
from tests.warehouse_server import PASSWORD, EmbeddedProcess, free_port

TABLE = (
    "CREATE TABLE {} (a UInt64, s LowCardinality(String), at DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY a "
    "SETTINGS non_replicated_deduplication_window = 100"
)


@pytest.fixture
def table(official: Any) -> Iterator[str]:
    """A new table in `default`."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    official.command(TABLE.format(name))
    yield name
    official.command(f"DROP TABLE {name}")


@pytest.fixture
def official(warehouse_server: EmbeddedProcess) -> Iterator[Any]:
    """The client anybody would use, with all its defaults."""
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=warehouse_server.port, username="default", password=PASSWORD
    )
    yield client
    client.close()


@pytest.fixture
async def raw(warehouse_server: EmbeddedProcess) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP with the right user and password, as curl."""
    async with httpx.AsyncClient(
        base_url=warehouse_server.settings.url, auth=("default", PASSWORD), timeout=60
    ) as client:
        yield client


# --- clickhouse_connect, unchanged -----------------------------------------------------------------


def test_official_client_selects(official: Any) -> None:
    result = official.query(
        "SELECT number, toString(number), toLowCardinality('x'), toDecimal64(1.5, 4), "
        "toDateTime64(1.5, 3, 'UTC'), [1, 2], map('a', 1), NULL FROM numbers(2)"
    )
    at = datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    for number, row in enumerate(result.result_rows):
        moment = row[4].replace(tzinfo=UTC)
        assert (*row[:4], moment, *row[5:]) == (number, str(number), "x", Decimal("1.5"), at, [1, 2], {"a": 1}, None)


def test_official_client_streams_a_million_rows(official: Any) -> None:
    with official.query_row_block_stream("SELECT number FROM numbers(1000000)") as stream:
        assert sum(row[0] for block in stream for row in block) == 499_999_500_000


def test_official_client_inserts_natively_and_as_json(official: Any, table: str) -> None:
    official.insert(
        table,
        [[1, "x", datetime(2026, 1, 1, tzinfo=UTC)], [2, "y", datetime(2026, 1, 2, tzinfo=UTC)]],
        column_names=["a", "s", "at"],
    )
    for _ in range(3):
        official.raw_insert(
            table, ["a", "s"], b'{"a":3,"s":"z"}\n', fmt="JSONEachRow", settings={"insert_deduplication_token": "once"}
        )
    assert official.query(f"SELECT a, s FROM {table} ORDER BY a").result_rows == [(1, "x"), (2, "y"), (3, "z")]


def test_official_client_with_frames(official: Any, table: str) -> None:
    official.insert_df(table, official.query_df("SELECT 9 AS a, 'df' AS s, now64(3) AS at"))
    assert official.query_df(f"SELECT a, s FROM {table}").to_dict("records") == [{"a": 9, "s": "df"}]


@pytest.mark.parametrize("value", ["", "it's", "tab\t nl\n \\ \\n", "ünï \U0001f600", "x" * 20_000, "'; DROP TABLE t"])
def test_official_client_binds_parameters(official: Any, value: str) -> None:
    assert official.query(
        "SELECT {v:String} AS v, {n:UInt64} AS n", parameters={"v": value, "n": 2**64 - 1}
    ).result_rows == [(value, 2**64 - 1)]


def test_official_client_asks_for_columns_only(official: Any, table: str) -> None:
    assert official.query(f"SELECT * FROM {table} LIMIT 0").column_names == ("a", "s", "at")


@pytest.mark.parametrize(
    ("sql", "code", "word"),
    [
        ("SELECT * FROM nope", 60, "UNKNOWN_TABLE"),
        ("SELECT nope", 47, "UNKNOWN_IDENTIFIER"),
        ("SELECT throwIf(1)", 395, "FUNCTION_THROW_IF"),
        ("SELECT sleep(3) SETTINGS max_execution_time = 1", 159, "TIMEOUT_EXCEEDED"),
        ("SELECT * FROM file('/etc/passwd')", 497, "ACCESS_DENIED"),
        ("SELECT groupArray(number) FROM numbers(1000000000) SETTINGS max_memory_usage = 100000000", 241, "MEMORY"),
    ],
)
def test_official_client_gets_clickhouses_errors(official: Any, sql: str, code: int, word: str) -> None:
    with pytest.raises(DatabaseError, match=word) as caught:
        official.query(sql)
    assert caught.value.code == code


def test_a_session_keeps_what_was_set_and_nothing_else(official: Any) -> None:
    """# clickhouse_connect sends a session id by default."""
    probe = "SELECT getSetting('max_threads'), getSetting('max_block_size'), currentDatabase()"
    (before,) = official.query(probe).result_rows
    official.command("SET max_threads = 1")
    official.command("USE system", use_database=False)
    assert official.query(probe, settings={"max_block_size": 777}).result_rows == [(1, 777, "system")]
    assert official.query(probe).result_rows == [(1, before[1], "system")]
    official.database = "default"
    assert official.command("SELECT currentDatabase()") == "default"
    assert official.command("SELECT currentDatabase()", use_database=False) == "system"


# --- plain HTTP, as curl ---------------------------------------------------------------------------


async def test_ping_and_root_want_no_password(warehouse_server: EmbeddedProcess) -> None:
    async with httpx.AsyncClient(base_url=warehouse_server.settings.url) as client:
        for path in ("/", "/ping", "/replicas_status"):
            answer = await client.get(path)
            assert (answer.status_code, answer.text) == (200, "Ok.\n")
        assert (await client.get("/nope")).status_code == 404
        assert (await client.put("/")).status_code == 405


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ({}, 401, "194"),
        ({"auth": ("default", "wrong")}, 403, "516"),
        ({"auth": ("somebody", PASSWORD)}, 403, "516"),
        ({"headers": {"X-ClickHouse-User": "default", "X-ClickHouse-Key": "wrong"}}, 403, "516"),
        ({"headers": {"X-ClickHouse-User": "default"}}, 403, "516"),
        ({"headers": {"Authorization": "Basic ###"}}, 403, "516"),
        ({"params": {"user": "default", "password": "wrong"}}, 403, "516"),
        ({"auth": ("default", PASSWORD)}, 200, None),
        ({"headers": {"X-ClickHouse-User": "default", "X-ClickHouse-Key": PASSWORD}}, 200, None),
        ({"params": {"user": "default", "password": PASSWORD}}, 200, None),
        ({"params": {"password": PASSWORD}}, 200, None),
    ],
)
async def test_passwords(warehouse_server: EmbeddedProcess, how: dict[str, Any], status: int, code: str | None) -> None:
    async with httpx.AsyncClient(base_url=warehouse_server.settings.url) as client:
        answer = await client.post("/", content="SELECT 1", **how)
    assert (answer.status_code, answer.headers.get("X-ClickHouse-Exception-Code")) == (status, code)
    assert (answer.text == "1\n") == (status == 200)


async def test_where_the_statement_may_be(raw: httpx.AsyncClient) -> None:
    for answer in (
        await raw.get("/", params={"query": "SELECT 1"}),
        await raw.post("/", params={"query": "SELECT 1"}),
        await raw.post("/", content="SELECT 1"),
        await raw.post("/", params={"query": "SELECT"}, content="1"),
    ):
        assert (answer.status_code, answer.text) == (200, "1\n")
    assert (await raw.get("/", params={"database": "default"})).headers["X-ClickHouse-Exception-Code"] == "62"
    assert (await raw.post("/")).headers["X-ClickHouse-Exception-Code"] == "62"


async def test_formats(raw: httpx.AsyncClient) -> None:
    in_statement = await raw.post("/", content="SELECT 1 AS x FORMAT JSONEachRow")
    in_address = await raw.post("/", params={"default_format": "JSONEachRow"}, content="SELECT 1 AS x")
    in_header = await raw.post("/", headers={"X-ClickHouse-Format": "JSONEachRow"}, content="SELECT 1 AS x")
    for answer in (in_statement, in_address, in_header):
        assert answer.text == '{"x":1}\n'
        assert answer.headers["X-ClickHouse-Format"] == "JSONEachRow"
        assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    for name in ("DataFrame", "ArrowTable", "Nope"):
        answer = await raw.post("/", params={"default_format": name}, content="SELECT 1")
        assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (404, "73")


async def test_headers_of_an_answer(raw: httpx.AsyncClient) -> None:
    answer = await raw.post("/", params={"query_id": "mine"}, content="SELECT * FROM numbers(3)")
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Timezone"]
    assert answer.headers["X-ClickHouse-Server-Display-Name"] == "pinstream"
    summary = json.loads(answer.headers["X-ClickHouse-Summary"])
    assert (summary["read_rows"], summary["result_rows"]) == ("3", "3")
    failed = await raw.post("/", content="SELECT * FROM nope")
    assert failed.status_code == 404
    assert failed.headers["X-ClickHouse-Exception-Code"] == "60"
    assert failed.text.startswith("Code: 60. DB::Exception: Unknown table")
    assert "(UNKNOWN_TABLE) (version " in failed.text


@pytest.mark.parametrize("query_id", ["\u20ac", "a\r\nX-Mine: 1", "x" * 257])
async def test_a_query_id_that_no_header_can_hold(raw: httpx.AsyncClient, query_id: str) -> None:
    answer = await raw.post("/", params={"query_id": query_id}, content="SELECT 1")
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (400, "36")
    assert uuid.UUID(answer.headers["X-ClickHouse-Query-Id"])
    assert "X-Mine" not in answer.headers


async def test_parameters_are_bound_not_pasted(raw: httpx.AsyncClient) -> None:
    answer = await raw.get(
        "/", params={"query": "SELECT {a:String}, {b:UInt8}", "param_a": "x'; DROP\\t", "param_b": "7"}
    )
    assert answer.text == "x\\'; DROP\\t\t7\n"
    missing = await raw.get("/", params={"query": "SELECT {a:String}"})
    assert missing.headers["X-ClickHouse-Exception-Code"] == "456"
    wrong = await raw.get("/", params={"query": "SELECT {a:UInt8}", "param_a": "x"})
    assert (wrong.status_code, wrong.headers["X-ClickHouse-Exception-Code"]) == (400, "457")


async def test_parameters_of_an_insert_with_data(raw: httpx.AsyncClient, table: str) -> None:
    await raw.post("/", params={"query": "INSERT INTO {t:Identifier} (a) FORMAT CSV", "param_t": table}, content="41\n")
    assert (await raw.post("/", content=f"SELECT a FROM {table}")).text == "41\n"


async def test_settings_count_for_one_statement(raw: httpx.AsyncClient) -> None:
    probe = "SELECT getSetting('max_block_size')"
    before = (await raw.post("/", content=probe)).text
    assert (await raw.post("/", params={"max_block_size": "777"}, content=probe)).text == "777\n"
    assert (await raw.post("/", content=probe)).text == before
    unknown = await raw.post("/", params={"no_such_setting": "1"}, content="SELECT 1")
    assert (unknown.status_code, unknown.headers["X-ClickHouse-Exception-Code"]) == (404, "115")
    odd = await raw.post("/", params={"a = 1, readonly": "1"}, content="SELECT 1")
    assert odd.headers["X-ClickHouse-Exception-Code"] == "115"
    denied = await raw.post("/", params={"dialect": "prql"}, content="SELECT 1")
    assert (denied.status_code, denied.headers["X-ClickHouse-Exception-Code"]) == (403, "497")


async def test_database(raw: httpx.AsyncClient) -> None:
    assert (await raw.post("/", params={"database": "system"}, content="SELECT currentDatabase()")).text == "system\n"
    unknown = await raw.post("/", params={"database": "no`pe\\"}, content="SELECT 1")
    assert (unknown.status_code, unknown.headers["X-ClickHouse-Exception-Code"]) == (404, "81")


async def test_get_and_readonly_change_nothing(raw: httpx.AsyncClient, table: str) -> None:
    for sql in (
        f"INSERT INTO {table} (a) VALUES (1)",
        f"DROP TABLE {table}",
        f"WITH 1 AS x INSERT INTO {table} (a) SELECT x",
    ):
        for answer in (
            await raw.get("/", params={"query": sql}),
            await raw.post("/", params={"readonly": "1"}, content=sql),
        ):
            assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (400, "164")
    assert (await raw.get("/", params={"query": f"SELECT count() FROM {table}"})).text == "0\n"


async def test_one_statement_a_request(raw: httpx.AsyncClient) -> None:
    answer = await raw.post("/", content="SELECT 1; SELECT 2")
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (400, "62")


async def test_insert_with_the_statement_in_the_address_or_in_front(raw: httpx.AsyncClient, table: str) -> None:
    await raw.post("/", params={"query": f"INSERT INTO {table} (a, s) FORMAT CSV"}, content="1,x\n2,y\n")
    await raw.post("/", content=f"INSERT INTO {table} (a, s) FORMAT CSV\n3,z\n")
    await raw.post("/", content=f"INSERT INTO {table} (a, s) SETTINGS async_insert = 0 FORMAT CSV 4,w")
    await raw.post("/", params={"query": f"INSERT INTO {table} (a, s) VALUES"}, content="(5, concat('v', 'v'))")
    answer = await raw.post("/", content=f"SELECT a, s FROM {table} ORDER BY a FORMAT CSV")
    assert answer.text == '1,"x"\n2,"y"\n3,"z"\n4,"w"\n5,"vv"\n'
    bad = await raw.post("/", content=f"INSERT INTO {table} (a) FORMAT JSONEachRow\n" + '{"a":6}\n{"a":"x"}')
    assert (bad.status_code, bad.headers["X-ClickHouse-Exception-Code"]) == (400, "27")
    assert (await raw.post("/", content=f"SELECT count() FROM {table}")).text == "5\n"


def _zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(body)


def _zstd_streamed(body: bytes) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(body) + packer.flush()


PACK: dict[str, list[Callable[[bytes], bytes]]] = {
    "gzip": [gzip.compress],
    "deflate": [zlib.compress],
    "zstd": [_zstd, _zstd_streamed],
    "lz4": [lz4.frame.compress],
}
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body, max_output_size=1 << 20),
    "lz4": lz4.frame.decompress,
}


@pytest.mark.parametrize("encoding", PACK)
async def test_compressed_requests(raw: httpx.AsyncClient, table: str, encoding: str) -> None:
    for number, pack in enumerate(PACK[encoding]):
        body = b"".join(b'{"a":%d,"s":"x"}\n' % (number * 1000 + row) for row in range(1000))
        answer = await raw.post(
            "/",
            params={"query": f"INSERT INTO {table} (a, s) FORMAT JSONEachRow"},
            content=pack(body),
            headers={"Content-Encoding": encoding},
        )
        assert answer.status_code == 200, answer.text
    count = await raw.post("/", content=f"SELECT uniqExact(a) FROM {table}")
    assert count.text == f"{1000 * len(PACK[encoding])}\n"


@pytest.mark.parametrize("encoding", UNPACK)
async def test_compressed_answers(raw: httpx.AsyncClient, encoding: str) -> None:
    for asked in (encoding, f"br, {encoding};q=1, gzip"):
        async with raw.stream(
            "POST",
            "/",
            params={"enable_http_compression": "1"},
            headers={"Accept-Encoding": asked},
            content="SELECT 'x' FROM numbers(10000)",
        ) as answer:
            body = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers["Content-Encoding"] == encoding
        assert UNPACK[encoding](body) == b"x\n" * 10_000


async def test_answers_are_plain_unless_asked(raw: httpx.AsyncClient) -> None:
    answer = await raw.post("/", headers={"Accept-Encoding": "gzip"}, content="SELECT 'x' FROM numbers(10000)")
    assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize(
    ("params", "headers", "body", "status", "code"),
    [
        ({}, {"Content-Encoding": "gzip"}, b"not gzip", 500, "271"),
        ({}, {"Content-Encoding": "lz4"}, b"not lz4", 500, "271"),
        ({}, {"Content-Encoding": "zstd"}, b"not zstd", 500, "271"),
        ({}, {"Content-Encoding": "brotli"}, b"x", 501, "48"),
        ({"compress": "1"}, {}, b"SELECT 1", 501, "48"),
        ({"decompress": "1"}, {}, b"SELECT 1", 501, "48"),
        ({"session_id": "s", "session_timeout": "3601"}, {}, b"SELECT 1", 400, "36"),
        ({"session_id": "s", "session_timeout": "x"}, {}, b"SELECT 1", 400, "36"),
        ({"session_id": "nobody", "session_check": "1"}, {}, b"SELECT 1", 404, "372"),
    ],
)
async def test_what_cannot_be_done_is_said(
    raw: httpx.AsyncClient, params: dict[str, str], headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    answer = await raw.post("/", params=params, headers=headers, content=body)
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (status, code), answer.text


async def test_a_forms_fields_are_parameters(raw: httpx.AsyncClient) -> None:
    fields = {"query": (None, "SELECT {v:String}"), "param_v": (None, "ünï")}
    answer = await raw.post("/", files=fields)
    assert (answer.status_code, answer.text) == (200, "ünï\n")
    external = await raw.post("/", files={"t": ("t.csv", b"1\n"), "query": (None, "SELECT * FROM t")})
    assert external.status_code == 501
    latin = await raw.post("/", files={"query": (None, "SELECT 'ü'".encode("latin-1"))})
    assert (latin.status_code, latin.headers["X-ClickHouse-Exception-Code"]) == (400, "36")


@pytest.mark.slow
async def test_a_body_is_bounded_before_and_after_decompression(raw: httpx.AsyncClient) -> None:
    bomb = gzip.compress(b" " * (http.MAX_BODY_BYTES + 1), 1)
    for answer in (
        await raw.post("/", content=bomb, headers={"Content-Encoding": "gzip"}),
        await raw.post("/", content=_zstd(b" " * (http.MAX_BODY_BYTES + 1)), headers={"Content-Encoding": "zstd"}),
        await raw.post(
            "/", content=lz4.frame.compress(b" " * (http.MAX_BODY_BYTES + 1)), headers={"Content-Encoding": "lz4"}
        ),
    ):
        assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (413, "307")
    most = gzip.compress(b"SELECT 1 " + b" " * (http.MAX_BODY_BYTES - 9), 1)
    answer = await raw.post("/", content=most, headers={"Content-Encoding": "gzip"})
    assert answer.headers["X-ClickHouse-Exception-Code"] == "62"  # within the body's bound, beyond the statement's


async def test_a_body_that_claims_to_be_too_long_is_refused_at_once(warehouse_server: EmbeddedProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse_server.port)
    login = f"X-ClickHouse-User: default\r\nX-ClickHouse-Key: {PASSWORD}"
    head = f"POST / HTTP/1.1\r\nHost: x\r\n{login}\r\nContent-Length: {http.MAX_BODY_BYTES + 1}\r\n\r\n"
    writer.write(head.encode())
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    await writer.wait_closed()


async def test_sessions(raw: httpx.AsyncClient) -> None:
    one, two = ({"session_id": uuid.uuid4().hex} for _ in range(2))
    probe = "SELECT getSetting('max_block_size')"
    before = (await raw.post("/", content=probe)).text
    await raw.post("/", params=one, content="SET max_block_size = 555")
    await raw.post("/", params=one, content="CREATE TEMPORARY TABLE mine (a UInt8)")
    await raw.post("/", params=one, content="INSERT INTO mine VALUES (7)")
    assert (await raw.post("/", params={**one, "max_block_size": "9"}, content=probe)).text == "9\n"
    assert (await raw.post("/", params=one, content=probe)).text == "555\n"
    assert (await raw.post("/", params=one, content="SELECT a FROM mine")).text == "7\n"
    for other in (two, {}):
        assert (await raw.post("/", params=other, content=probe)).text == before
        assert (await raw.post("/", params=other, content="SELECT a FROM mine")).status_code == 404


async def test_a_session_serves_one_statement_at_a_time(raw: httpx.AsyncClient) -> None:
    session = {"session_id": uuid.uuid4().hex}
    slow = asyncio.create_task(raw.post("/", params=session, content="SELECT sleep(1)"))
    await running(raw, "SELECT sleep(1)")
    locked = await raw.post("/", params=session, content="SELECT 1")
    assert locked.headers["X-ClickHouse-Exception-Code"] == "373"
    assert (await slow).status_code == 200
    assert (await raw.post("/", params=session, content="SELECT 1")).text == "1\n"


async def test_a_session_ends_after_its_time(raw: httpx.AsyncClient) -> None:
    session = {"session_id": uuid.uuid4().hex, "session_timeout": "0"}
    await raw.post("/", params=session, content="SET max_block_size = 555")
    gone = await raw.post("/", params={**session, "session_check": "1"}, content="SELECT 1")
    assert gone.headers["X-ClickHouse-Exception-Code"] == "372"


async def test_more_sessions_than_are_kept(raw: httpx.AsyncClient) -> None:
    first = {"session_id": uuid.uuid4().hex}
    await raw.post("/", params=first, content="SET max_block_size = 555")
    for _ in range(MAX_SESSIONS):
        answer = await raw.post("/", params={"session_id": uuid.uuid4().hex}, content="SET max_block_size = 555")
        assert answer.status_code == 200
    gone = await raw.post("/", params={**first, "session_check": "1"}, content="SELECT 1")
    assert gone.headers["X-ClickHouse-Exception-Code"] == "372"


async def test_statements_run_side_by_side(raw: httpx.AsyncClient) -> None:
    reads = [asyncio.create_task(raw.post("/", content="SELECT sleep(2)")) for _ in range(8)]
    await running(raw, "SELECT sleep(2)", times=8)
    assert {(await read).status_code for read in reads} == {200}


async def running(client: httpx.AsyncClient, sql: str, times: int = 1) -> None:
    """Wait until a statement runs so many times at once."""
    async with asyncio.timeout(30):
        while (await client.post("/", content="SELECT query FROM system.processes")).text.count(sql) < times:
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_slow_reads_keep_no_insert_out(raw: httpx.AsyncClient, table: str) -> None:
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=raw.base_url, auth=raw.auth, limits=limits, timeout=60) as client:
        reads = [asyncio.create_task(client.post("/", content="SELECT sleep(3)")) for _ in range(http.MAX_READS + 4)]
        await asyncio.sleep(0.5)
        assert (await client.post("/", content=f"INSERT INTO {table} (a) FORMAT CSV\n1")).status_code == 200
        assert not any(read.done() for read in reads)
        assert {(await read).status_code for read in reads} == {200}


# --- the process -----------------------------------------------------------------------------------


async def test_sigterm_lets_statements_finish(tmp_path: Path) -> None:
    server = EmbeddedProcess(tmp_path)
    server.start()
    async with httpx.AsyncClient(base_url=server.settings.url, auth=("default", PASSWORD), timeout=60) as client:
        slow = asyncio.create_task(client.post("/", content="SELECT sleep(2)"))
        await running(client, "SELECT sleep(2)")
        assert await asyncio.to_thread(server.stop) == 0
        assert (await slow).text == "0\n"


@pytest.mark.slow
async def test_sigterm_interrupts_what_does_not_end(tmp_path: Path) -> None:
    server = EmbeddedProcess(tmp_path)
    server.start()
    async with httpx.AsyncClient(base_url=server.settings.url, auth=("default", PASSWORD), timeout=60) as client:
        slow = asyncio.create_task(client.post("/", content="SELECT count() FROM numbers(1000000000000)"))
        await running(client, "FROM numbers(1000000000000)")
        started = time.monotonic()
        assert await asyncio.to_thread(server.stop) == 0
        assert time.monotonic() - started < 20
        (answer,) = await asyncio.gather(slow, return_exceptions=True)
        assert isinstance(answer, httpx.HTTPError) or (isinstance(answer, httpx.Response) and answer.status_code >= 500)


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("DROP DATABASE default", {}),
        ("RENAME DATABASE default TO dd", {}),
        ("TRUNCATE DATABASE system", {}),
        ("DROP VIEW tables", {"database": "INFORMATION_SCHEMA"}),
        ("DROP TABLE one", {"database": "system"}),
        ("SELECT 1", {"max_memory_usage": "0"}),
        ("SELECT 1", {"max_result_bytes": str(1 << 62)}),
        ("SELECT 1 SETTINGS max_memory_usage = 0", {}),
        ("SYSTEM STOP MERGES", {}),
    ],
)
async def test_no_statement_stops_the_warehouse(raw: httpx.AsyncClient, sql: str, params: dict[str, str]) -> None:
    answer = await raw.post("/", content=sql, params=params)
    assert answer.headers["X-ClickHouse-Exception-Code"] in ("497", "452"), answer.text
    assert (await raw.post("/", content="SELECT 1 FROM system.one")).text == "1\n"


async def test_a_session_in_the_engines_own_database_only_reads(raw: httpx.AsyncClient) -> None:
    session = {"session_id": uuid.uuid4().hex}
    assert (await raw.post("/", content="USE system", params=session)).status_code == 200
    assert (await raw.post("/", content="SELECT * FROM one", params=session)).text == "0\n"
    answer = await raw.post("/", content="DROP TABLE one", params=session)
    assert answer.headers["X-ClickHouse-Exception-Code"] == "497"


async def test_all_statements_together_have_a_share_of_the_memory(raw: httpx.AsyncClient) -> None:
    sql = "SELECT value, changed FROM system.server_settings WHERE name = 'max_server_memory_usage_to_ram_ratio'"
    assert (await raw.post("/", content=sql)).text == f"{MAX_MEMORY_RATIO}\t1\n"


def test_an_engine_that_does_not_connect_says_why_with_a_code(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from pinstream.errors import QueryFailed\n"
        "from pinstream.warehouse import embedded, guard, http\n"
        "engine = embedded.Engine(pathlib.Path(sys.argv[1]))\n"
        "engine.open()\n"
        "engine._owner.query('DROP DATABASE default')\n"
        "sql = b'SELECT 1'\n"
        "try: engine.run(http.Call(guard.inspect(sql), b'', '', {}, {}, 'CSV'))\n"
        "except QueryFailed as exc: print(exc.code, exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=60, check=True)
    assert done.stdout.startswith(b"81 Database default does not exist"), done


def run_to_its_end(data_dir: Path, port: int) -> str:
    environment = os.environ | {
        "PINSTREAM_DATA_DIR": str(data_dir),
        "PINSTREAM_WAREHOUSE__URL": f"http://127.0.0.1:{port}",
    }
    process = subprocess.run(
        [sys.executable, "-m", "pinstream", "warehouse"],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert process.returncode != 0
    return process.stderr.decode()


def test_a_folder_in_use_is_a_sentence(warehouse_server: EmbeddedProcess) -> None:
    assert "is used by another process" in run_to_its_end(warehouse_server.data_dir, free_port())


def test_a_port_in_use_is_a_sentence(warehouse_server: EmbeddedProcess, tmp_path: Path) -> None:
    assert f"Port {warehouse_server.port} on 127.0.0.1 is taken" in run_to_its_end(tmp_path, warehouse_server.port)


def test_an_unwritable_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "warehouse").write_text("a file")
    (tmp_path / "warehouse.password").write_text("x")
    assert "cannot be opened" in run_to_its_end(tmp_path, free_port())


def test_the_password_is_made_once_and_private(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    made = password(settings)
    assert len(made) >= 30
    assert password(settings) == made
    assert [file.name for file in settings.data_dir.iterdir()] == [settings.warehouse_password_file.name]
    assert settings.warehouse_password_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_what_is_in_default_survives_a_restart(tmp_path: Path) -> None:
    server = EmbeddedProcess(tmp_path)
    for _ in range(3):
        server.start()
        with httpx.Client(base_url=server.settings.url, auth=("default", PASSWORD)) as client:
            client.post("/", content="CREATE TABLE IF NOT EXISTS kept (a UInt8) ENGINE = MergeTree ORDER BY a")
            client.post("/", content="INSERT INTO kept VALUES (1)")
            count = client.post("/", content="SELECT count() FROM kept").text
            assert client.post("/", content="SELECT * FROM `/etc/hostname`").status_code == 404
        assert server.process is not None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=30) == 0
    assert count == "3\n"
