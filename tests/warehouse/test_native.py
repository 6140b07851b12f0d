"""Native as a client that names its protocol version reads it; what clickhouse-go does with it was tried by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from pinstream.warehouse import native
from tests.warehouse_server import PASSWORD, EmbeddedProcess

NEW, OLD = str(native.CUSTOM_SERIALIZATION), str(native.CUSTOM_SERIALIZATION - 1)
INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
VALUES = (
    *("toUInt8(number)", "toInt64(number)", "toUInt256(number)", "number > 0", "number / 3", "toFloat32(number)"),
    *("toDate(number)", "toDate32(number)", "toDateTime(number, 'Europe/Paris')", "toDateTime64(number, 3, 'UTC')"),
    *(
        "toString(number)",
        "repeat('x', number * 200)",
        "toFixedString('ab', 3)",
        "toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0')",
    ),
    *("toIPv4('1.2.3.4')", "toIPv6('::1')", "toDecimal32(number, 2)", "toDecimal64(number, 4)"),
    *(
        "toDecimal128(number, 4)",
        "toDecimal256(number, 4)",
        "NULL",
        "nullIf(number, 1)",
        "nullIf(toString(number), '1')",
    ),
    *("CAST(number % 3, 'Enum8(\\'a, (\\' = 0, \\'b\\' = 1, \\'c)\\' = 2)')", "toIntervalDay(number)", "[]"),
    *("range(number)", "[range(number), [7]]", "arrayMap(x -> nullIf(toString(x), '1'), range(number))"),
    *("(number, 'x')", "tuple(number, [(1, 'y')])", "CAST((1, ['z']), 'Tuple(a UInt8, `b c` Array(String))')"),
    *("map('a', number)", "map(number, map('k', [NULL, 'v']))", "toLowCardinality(toString(number))"),
    *("toLowCardinality(nullIf(toString(number), '1'))", "[toLowCardinality('p'), toLowCardinality('q')]"),
    *("(toLowCardinality('p'), [toLowCardinality(toString(number))])", "emptyArrayString()"),
    "CAST(map('a', '1'), 'Map(LowCardinality(String), LowCardinality(String))')",
)


@pytest.fixture
async def ask(warehouse_server: EmbeddedProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=warehouse_server.settings.url, auth=("default", PASSWORD), params={"default_format": "Native"}
    ) as client:
        yield client


@pytest.mark.parametrize("rows", [1, 3, 300])
async def test_every_column_gets_its_mark_and_keeps_its_bytes(ask: httpx.AsyncClient, rows: int) -> None:
    """# A column alone ends where its block ends, so where it ends is known without a look at its type."""
    columns = []
    for number, value in enumerate(VALUES):
        sql = f"SELECT {value} AS c{number} FROM numbers({rows})"
        plain = (await ask.post("/", content=sql, params={"client_protocol_version": OLD})).content
        counts = 2 if rows < 128 else 3
        name, kind = plain[counts + 1 : counts + 1 + plain[counts]], counts + 1 + plain[counts]
        assert name == f"c{number}".encode()
        data = kind + 1 + plain[kind]
        columns.append(plain[counts:data] + b"\x00" + plain[data:])
        told = (await ask.post("/", content=sql, params={"client_protocol_version": NEW})).content
        assert told == INFO + plain[:counts] + columns[-1], value
    listed = ", ".join(f"{value} AS c{number}" for number, value in enumerate(VALUES))
    sql = f"SELECT {listed} FROM numbers({rows})"
    together = (await ask.post("/", content=sql, params={"client_protocol_version": NEW})).content
    plain = (await ask.post("/", content=sql)).content
    counts = 2 if rows < 128 else 3
    assert together == INFO + plain[:counts] + b"".join(columns)


async def test_no_rows(ask: httpx.AsyncClient) -> None:
    for version in (OLD, NEW):
        answer = await ask.post("/", content="SELECT 1 WHERE 0", params={"client_protocol_version": version})
        assert (answer.status_code, answer.content) == (200, b"")


async def test_many_blocks(ask: httpx.AsyncClient) -> None:
    sql = (
        "SELECT number, toLowCardinality(toString(number % 300)) AS s FROM numbers(10000) SETTINGS max_block_size = 999"
    )
    told = (await ask.post("/", content=sql, params={"client_protocol_version": NEW})).content
    assert told.count(INFO + b"\x02") == 11
    plain = (await ask.post("/", content=sql)).content
    assert len(told) == len(plain) + 11 * (len(INFO) + 2)


async def test_a_type_without_an_end_is_refused_with_a_sentence(ask: httpx.AsyncClient) -> None:
    params = {"client_protocol_version": NEW}
    answer = await ask.post("/", content="SELECT uniqState(number) AS u FROM numbers(3)", params=params)
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (501, "48")
    assert "toString(x)" in answer.text
    answer = await ask.post("/", content="SELECT 1 FORMAT CSV", params=params | {"client_protocol_version": "x"})
    assert answer.text == "1\n"
