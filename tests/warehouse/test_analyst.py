"""The analyst against the real front: what is let through, and above all what is not."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import clickhouse_connect
import httpx
import pytest
from clickhouse_connect import common
from clickhouse_connect.driver.exceptions import DatabaseError
from msgspec import Raw
from typer.testing import CliRunner

from pinstream import cli, event
from pinstream.clock import now_ms
from pinstream.collect import intake, wire
from pinstream.collect.scrub import scrub_text
from pinstream.collect.stamp import Context
from pinstream.errors import QueryFailed
from pinstream.settings import Settings
from pinstream.settings import Warehouse as WarehouseSettings
from pinstream.state.snapshot import Site
from pinstream.warehouse import analyst, guard, http, schema
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.password import analyst_password, password
from tests.warehouse.conftest import SECRETS, Month
from tests.warehouse_server import ANALYST_PASSWORD, PASSWORD, EmbeddedProcess

OWNER = ("default", PASSWORD)
START_MS = now_ms() - 60_000
TEXTS = {"event": 100, "event_id": 256, "order_id": 128, "search_query": 512}
ITEM_TEXTS = {
    **{"product_id": 128, "product_name": 256, "product_category": 256, "product_brand": 128},
    **{"product_variant": 128, "product_variant_id": 128},
}
QUERIES = Path(__file__).parents[2] / "docs" / "queries.md"
VIEWS = {
    *("events", "line_items", "sessions", "visitors", "products_daily", "engagement_daily", "engagement_to_order"),
    *("audience_members_now", "audience_size_daily", "audience_changes", "sync_runs", "rejected_events"),
    "data_quality_daily",
}
SECRET_COLUMNS = ("em_sha256", "external_id_sha256", "ph_sha256", "match_keys", "epik", "ip_prefix", "payload_hash")


@pytest.fixture
async def front(warehouse_server: EmbeddedProcess, month: Month) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP as the analyst."""
    auth = ("analyst", ANALYST_PASSWORD)
    async with httpx.AsyncClient(base_url=warehouse_server.settings.url, auth=auth, timeout=60) as client:
        yield client


@pytest.fixture
def official(warehouse_server: EmbeddedProcess, month: Month) -> Iterator[Any]:
    """clickhouse-connect with all its defaults."""
    port = warehouse_server.port
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=port, username="analyst", password=ANALYST_PASSWORD, database="analytics"
    )
    yield client
    client.close()
    common.set_setting("invalid_setting_action", "error")


# --- what is let through -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count() > 100 FROM events",
        "SELECT count() > 100 FROM analytics.events",
        'SELECT count() > 100 FROM `analytics`."events" AS e WHERE e.site_id = 1',
        "WITH o AS (SELECT * FROM events WHERE event_name = 'checkout') SELECT count() > 5 FROM o",
        "FROM visitors SELECT count() > 1",
        "SELECT 1 FROM system.tables WHERE database = 'analytics' AND name = 'events'",
        "SELECT max(number) = 9 FROM numbers(10)",
        "SELECT count() = 2 FROM values('a UInt8', 1, 2)",
        "SELECT 'pinstream.events' != '' /* FROM pinstream.events */ -- FROM pinstream.events",
        "EXISTS analytics.events",
        "(SELECT 1)",
    ],
)
async def test_an_analyst_reads_the_views(front: httpx.AsyncClient, sql: str) -> None:
    answer = await front.post("/", content=sql)
    assert answer.text in ("1\n", "true\n"), answer.text


@pytest.mark.parametrize("sql", ["SHOW TABLES", "SHOW DATABASES", "SHOW CREATE TABLE events", "DESCRIBE events"])
async def test_an_analyst_looks_around(front: httpx.AsyncClient, sql: str) -> None:
    answer = await front.get("/", params={"query": sql})
    assert answer.status_code == 200
    assert answer.text


def test_clickhouse_connect_as_the_analyst(official: Any, month: Month) -> None:
    bound = {"least": 3}
    sql = "SELECT event_name, uniq(event_key) AS n FROM events GROUP BY event_name HAVING n >= {least:UInt64}"
    names = {row[0] for row in official.query(sql, parameters=bound).result_rows}
    assert {"page_visit", "search", "checkout"} <= names
    assert len(official.query_df("SELECT * FROM sessions LIMIT 3")) == 3
    common.set_setting("invalid_setting_action", "send")  # it reads of `readonly` and would not try
    assert official.query("SELECT getSetting('max_execution_time')", settings={"max_execution_time": 9}).first_row == (
        9,
    )
    with official.query_row_block_stream("SELECT event_time FROM events") as stream:
        events = {(one.event_id) for one in month.events}
        assert sum(len(block) for block in stream) == len(events)
    with pytest.raises(DatabaseError, match="reads the views"):
        official.query("SELECT * FROM pinstream.events")


async def test_settings_of_grafana(front: httpx.AsyncClient) -> None:
    sent = {"database": "analytics", "default_format": "JSON", "limit": "3", "max_execution_time": "60"}
    answer = await front.post("/", params=sent, content="SELECT day FROM events")
    assert answer.json()["rows"] == 3
    hello = await front.post("/", params=sent, content="SELECT displayName(), version(), revision(), timezone()")
    assert hello.json()["rows"] == 1
    columns = "SELECT name, type, table FROM system.columns WHERE database = 'analytics' AND table = 'events'"
    assert (await front.post("/", params=sent | {"limit": "0"}, content=columns)).json()["rows"] > 15
    shown = await front.post("/", params={"default_format": "JSON"}, content='SHOW TABLES FROM "analytics"')
    assert {"name": "events"} in shown.json()["data"]


async def test_limits_hold_and_may_be_lowered(front: httpx.AsyncClient) -> None:
    probe = "SELECT {}".format(", ".join(f"getSetting('{name}')" for name in analyst.LIMITS))
    values = (await front.post("/", content=probe)).text.split()
    assert values == [str(limit) for limit in analyst.LIMITS.values()]
    for name, limit in analyst.LIMITS.items():
        lowered = await front.post("/", params={name: str(limit - 1)}, content=f"SELECT getSetting('{name}')")
        assert lowered.text == f"{limit - 1}\n"
        for value in ("0", str(limit + 1), "1e1", "-1", ""):
            answer = await front.post("/", params={name: value}, content="SELECT 1")
            assert answer.headers["X-ClickHouse-Exception-Code"] == "452", (name, value)
    threads = (await front.post("/", content="SELECT getSetting('max_threads')")).text
    assert threads == f"{http.ANALYST_THREADS}\n"
    more = await front.post("/", params={"max_threads": str(http.ANALYST_THREADS + 1)}, content="SELECT 1")
    assert more.headers["X-ClickHouse-Exception-Code"] == "452"
    many = await front.post("/", content="SELECT * FROM numbers(2000000)")
    assert many.headers["X-ClickHouse-Exception-Code"] == "396"
    slow = await front.post("/", params={"max_execution_time": "1"}, content="SELECT sleep(3)")
    assert slow.headers["X-ClickHouse-Exception-Code"] == "159"


LONGEST = f"SELECT 1{' ' * (analyst.MAX_SQL_BYTES - 8)}"


async def test_a_statement_is_as_long_as_people_write_them(front: httpx.AsyncClient) -> None:
    most, packed = LONGEST.encode(), {"Content-Encoding": "gzip"}
    assert (await front.post("/", content=most)).text == "1\n"
    assert (await front.post("/", content=gzip.compress(most), headers=packed)).text == "1\n"
    for answer in (
        await front.post("/", content=most + b" "),
        await front.post("/", content=gzip.compress(most + b" "), headers=packed),
        await front.post("/", params={"query": "SELECT 1"}, content=most[8:]),
        await front.post("/", content=iter_of(most, most)),
    ):
        assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (413, "307"), answer.text


async def iter_of(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body whose length is not announced."""
    for chunk in chunks:
        yield chunk


async def test_analysts_wait_for_analysts_and_the_others_do_not(
    front: httpx.AsyncClient, warehouse_server: EmbeddedProcess
) -> None:
    """# With all turns of analysts taken, not even what will be refused is read, and the owner is answered."""
    endless, limit = (
        "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 7",
        {"max_execution_time": "8"},
    )
    async with (
        httpx.AsyncClient(base_url=warehouse_server.settings.url, auth=OWNER, timeout=60) as owner,
        asyncio.TaskGroup() as group,
    ):
        taken = [
            group.create_task(front.post("/", params=limit, content=endless)) for _ in range(http.MAX_ANALYST_READS)
        ]
        running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT count() FROM numbers%'"
        while (await owner.post("/", content=running)).text != f"{http.MAX_ANALYST_READS}\n":
            assert not any(task.done() for task in taken)
        late = [group.create_task(front.post("/", content="DROP TABLE t")) for _ in range(20)]
        for sql in ("SELECT 1", "CREATE TEMPORARY TABLE t (a UInt8)", "SELECT 1 FORMAT JSON", "SELECT 1", "SELECT 1"):
            assert (await owner.post("/", content=sql)).status_code == 200
        assert not any(task.done() for task in taken + late)
    assert {task.result().headers["X-ClickHouse-Exception-Code"] for task in taken} == {"159"}
    assert {task.result().headers["X-ClickHouse-Exception-Code"] for task in late} == {"497"}


# --- what is not --------------------------------------------------------------------------------------

BASE = "SELECT em_sha256 FROM pinstream.events"
SLIPS = [
    # other databases
    BASE,
    "SELECT * FROM pinstream . events",
    "SELECT * FROM pinstream/**/./* x */events",
    "SELECT * FROM pinstream -- \n .events",
    "SELECT * FROM pinstream # \n .events",
    "SELECT * FROM `pinstream`.events",
    'SELECT * FROM "pinstream"."events"',
    "SELECT * FROM PINSTREAM.events",
    "SELECT * FROM `pin\\x73tream`.events",
    "SELECT * FROM `pinstream.events`",
    "SELECT * FROM pinstream\u00a0.\u2003events",
    "SELECT * FROM analytics.events, pinstream.events",
    "SELECT * FROM events JOIN pinstream.visitor_profile USING visitor_id",
    "SELECT 1 IN pinstream.events",
    "SELECT 1 WHERE visitor_id GLOBAL NOT IN (pinstream.identity)",
    "WITH x AS (SELECT * FROM pinstream.identity) SELECT * FROM x",
    "SELECT (SELECT any(id_value) FROM pinstream.identity)",
    "FROM pinstream.events SELECT *",
    "(SELECT * FROM pinstream.events)",
    "SELECT 1 UNION ALL SELECT 1 FROM pinstream.events",
    "EXPLAIN SELECT * FROM pinstream.events",
    "EXPLAIN ESTIMATE SELECT * FROM pinstream.events",
    "SELECT * FROM (EXPLAIN SELECT * FROM pinstream.events)",
    "DESCRIBE pinstream.events",
    "DESC TABLE pinstream.events",
    "EXISTS pinstream.events",
    "SHOW TABLES FROM pinstream",
    "SHOW TABLES IN `pinstream`",
    "SHOW CREATE TABLE pinstream.events",
    "SHOW CREATE DATABASE pinstream",
    "SHOW COLUMNS FROM events FROM pinstream",
    "SHOW PROCESSLIST",
    "SHOW FULL PROCESSLIST",
    "SHOW GRANTS",
    "SELECT * FROM {t:Identifier}.events",
    "SELECT * FROM {d : `Identifier`}.{t:Identifier}",
    "SELECT * FROM default.x",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM INFORMATION_SCHEMA.columns",
    # system tables that are not listed
    "SELECT * FROM system.processes",
    "SELECT * FROM `system`.`processes`",
    "SELECT * FROM SYSTEM.parts",
    "SELECT * FROM system.query_log",
    "SELECT * FROM system.parts_columns",
    "SELECT * FROM system.server_settings",
    "SELECT * FROM system.one, system.parts",
    "SELECT * FROM system.text_log",
    # files, hosts, programs
    "SELECT * FROM file('/etc/hostname', 'LineAsString')",
    "SELECT * FROM `file`('/etc/hostname', 'LineAsString')",
    "SELECT file('/etc/hostname')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "SELECT * FROM s3('http://127.0.0.1:1/b', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1', 'pinstream', 'events')",
    "SELECT * FROM remoteSecure('127.0.0.1', 'pinstream', 'events')",
    "SELECT * FROM cluster('default', 'pinstream', 'events')",
    "SELECT * FROM executable('id', 'CSV', 'a String')",
    "SELECT * FROM merge('pinstream', 'events')",
    "SELECT * FROM merge(REGEXP('pin.*'), 'events')",
    "SELECT * FROM mergeTreeIndex('pinstream', 'events')",
    "SELECT * FROM dictionary('pinstream.d')",
    "SELECT * FROM loop('pinstream', 'events')",
    "SELECT * FROM view(SELECT 1)",
    "SELECT * FROM viewIfPermitted(SELECT 1 ELSE null('x UInt8'))",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT * FROM python(x)",
    "SELECT * FROM sqlite('/tmp/x', 't')",
    "SELECT dictGet('pinstream.d', 'a', 1)",
    "SELECT dictGetOrDefault('pinstream.d', 'a', 1, 1)",
    "SELECT arrayMap(dictHas, ['d'], [1])",
    "SELECT joinGet('pinstream.j', 'a', 1)",
    "SELECT hasColumnInTable('pinstream', 'events', 'a')",
    "SELECT * FROM events INTO OUTFILE '/tmp/x'",
    "SELECT * FROM events into/**/OutFile '/tmp/x' FORMAT CSV",
    "SELECT * FROM events INTO OUTFILE '/tmp/x' AND STDOUT",
    # writing, and what stays
    "INSERT INTO FUNCTION file('/tmp/x', 'CSV', 'a UInt8') SELECT 1",
    "INSERT INTO FUNCTION null('a UInt8') SELECT 1",
    "INSERT INTO events SELECT 1",
    "INSERT INTO pinstream.events (site_id) VALUES (1)",
    "WITH 1 AS x INSERT INTO pinstream.rejected (site_id) SELECT x",
    "CREATE TABLE t (a UInt8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE t (a UInt8)",
    "CREATE VIEW v AS SELECT * FROM pinstream.events",
    "CREATE FUNCTION f AS (x) -> x",
    "CREATE DICTIONARY d (a UInt8) PRIMARY KEY a SOURCE(CLICKHOUSE(TABLE 'events')) LAYOUT(FLAT()) LIFETIME(0)",
    "ALTER TABLE pinstream.events DELETE WHERE 1",
    "DROP VIEW analytics.events",
    "TRUNCATE TABLE pinstream.events",
    "OPTIMIZE TABLE pinstream.events",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "USE pinstream",
    "USE analytics",
    "SET readonly = 0",
    "SET max_memory_usage = 1",
    "CHECK TABLE events",
    "GRANT SELECT ON *.* TO analyst",
    "EXECUTE AS default SELECT 1",
    # several statements
    f"SELECT 1; {BASE}",
    f"SELECT 1;\n\n{BASE};",
    f"SELECT 1 PARALLEL WITH {BASE}",
    f"SELECT ';'; {BASE}",
    # quoting
    "SELECT 'it''s', em FROM pinstream.audience_member",
    "SELECT 'a\\', em FROM events -- ', em FROM pinstream.audience_member",
    "SELECT '\\\\', em FROM pinstream.audience_member",
    "SELECT $a$'$a$, em FROM pinstream.audience_member",
    "SELECT \u2018x\u2019, em FROM pinstream.audience_member",
    "SELECT /* /* */ ' */ em FROM pinstream.audience_member --'",
    "SELECT 1 -- ' \n, em FROM pinstream.audience_member",
    "SELECT 1 SETTINGS additional_table_filters = {'pinstream.events': '1'}",
]


async def test_whatever_slips_past_a_careless_reader_is_refused(front: httpx.AsyncClient, tmp_path: Path) -> None:
    let_through = []
    params = {"param_t": "events", "param_d": "pinstream"}
    for sql in SLIPS:
        answer = await front.post("/", params=params, content=sql.replace("/tmp/x", str(tmp_path / "out")))
        told = {"497": "ACCESS_DENIED", "62": "SYNTAX_ERROR", "164": "READONLY"}
        code = answer.headers.get("X-ClickHouse-Exception-Code", "")
        if told.get(code, "a refusal") not in answer.text:
            let_through.append((sql, answer.text[:200]))
    assert let_through == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sent",
    [
        {"database": "pinstream"},
        {"database": "system"},
        {"database": "default"},
        {"readonly_": "0"},
        {"allow_ddl": "1"},
        {"additional_table_filters": "{'pinstream.events': '1'}"},
        {"dialect": "prql"},
        {"format_schema": "/etc/passwd"},
        {"max_threads, readonly": "1"},
        {"output_format_parallel_formatting": "1"},
        {"session_timezone": "UTC', readonly = '0"},
    ],
)
async def test_what_came_along_is_refused(front: httpx.AsyncClient, sent: dict[str, str]) -> None:
    answer = await front.post("/", params=sent, content="SELECT 1")
    assert answer.headers["X-ClickHouse-Exception-Code"] in ("497", "452"), answer.text


@pytest.mark.parametrize("clause", ["readonly = 0", "max_memory_usage = 1", "`max_threads` = 1", "final", "limit = 1"])
async def test_settings_in_the_statement_are_refused(front: httpx.AsyncClient, clause: str) -> None:
    """# The engine takes those of a subquery, and does not heed them."""
    for sql in ("SELECT 1 SETTINGS {}", "SELECT * FROM (SELECT 1 settings {})", "SELECT 1./**/SETTINGS {}"):
        answer = await front.post("/", content=sql.format(clause))
        assert answer.headers["X-ClickHouse-Exception-Code"] == "497", answer.text
        assert "come along with the request" in answer.text
    for sql in ("SELECT name FROM system.settings LIMIT 1", "SELECT 'SETTINGS a = 1' -- SETTINGS a = 1"):
        assert (await front.post("/", content=sql)).status_code == 200


async def test_a_session_keeps_nothing(front: httpx.AsyncClient, warehouse_server: EmbeddedProcess) -> None:
    """# Not even one that the owner has left in another database."""
    session = {"session_id": "shared"}
    async with httpx.AsyncClient(base_url=warehouse_server.settings.url, auth=OWNER) as owner:
        assert (await owner.post("/", params=session, content="USE pinstream")).status_code == 200
    assert (await front.post("/", params=session, content="SELECT currentDatabase()")).text == "analytics\n"


async def test_the_analysts_password_opens_nothing_else(warehouse_server: EmbeddedProcess, month: Month) -> None:
    async with httpx.AsyncClient(base_url=warehouse_server.settings.url) as client:
        for auth in (("default", ANALYST_PASSWORD), ("analyst", PASSWORD), ("analyst", ""), ("", ANALYST_PASSWORD)):
            assert (await client.post("/", auth=auth, content="SELECT 1")).status_code == 403
        mine = {"user": "analyst", "password": ANALYST_PASSWORD}
        assert (await client.post("/", params=mine, content=BASE)).status_code == 403


def test_the_analysts_password_is_made_once_and_is_another_one(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    made = analyst_password(settings)
    assert len(made) >= 30
    assert analyst_password(settings) == made != password(settings)
    assert settings.analyst_password_file.stat().st_mode & 0o777 == 0o600


# --- the views hold no secret --------------------------------------------------------------------------


async def views(front: httpx.AsyncClient) -> list[str]:
    return (await front.post("/", content="SHOW TABLES")).text.split()


async def test_no_view_tells_a_secret(front: httpx.AsyncClient, month: Month) -> None:
    """# The tables hold them: in columns of their own, and in addresses, searches and properties."""
    hashes = {one.em for one in month.events if one.em}
    assert len(hashes) > 20
    assert set(await views(front)) == VIEWS
    for view in VIEWS:
        text = (await front.post("/", content=f"SELECT * FROM {view} FORMAT JSONEachRow")).text.lower()
        assert text, view
        for secret in (*SECRETS, *hashes, "ab" * 16):
            assert secret not in text, view
        raw = (await front.post("/", content=f"SELECT * FROM {view} FORMAT RowBinary")).content
        assert not any(bytes.fromhex(each) in raw for each in hashes), view
        described = (await front.post("/", content=f"DESCRIBE {view}")).text
        assert not [name for name in SECRET_COLUMNS if f"{name}\t" in described]


async def test_what_is_cut_out_of_text(front: httpx.AsyncClient) -> None:
    sql = "SELECT any({}) FROM events WHERE event_name = {} AND {}"
    cases = {
        ("url", "'page_visit'", "from_pinterest"): "?epik=&c=1",
        ("url", "'page_visit'", "visitor_id = 1"): "?u=",
        ("search_query", "'search'", "visitor_id = 1"): " ",
        ("props", "'add_to_cart'", "visitor_id = 2"): '{"colour": "blue", "epik": "", "u": ""}',
    }
    for case, end in cases.items():
        text = (await front.post("/", content=sql.format(*case) + " FORMAT RawBLOB")).text
        assert text.endswith(end), case


class Edge:
    """What `collect` makes of requests' JSON, put into the tables as `load` does."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.records: list[bytes] = []

    def take(self, body: dict[str, Any], *, ip: str = "", user_agent: str = "", language: str = "") -> None:
        context = Context(
            now_ms=START_MS,
            site=Site(id=1, tag_id="shop"),
            source="api",
            ip=ip,
            user_agent=user_agent,
            language=language,
        )
        sent = wire.parse("application/json", json.dumps({"site": "shop", "consent": "yes", **body}).encode())
        taken = intake.take(sent, context, bytes)
        assert [outcome.status for outcome in taken.outcomes] == ["durable"]
        self.records += [record.value for record in taken.records]

    async def store(self, table: str, *more: bytes) -> None:
        spliced = b'{"k_partition":0,"k_offset":%d,"rollup_version":1,'
        rows = b"\n".join(spliced % offset + value[1:] for offset, value in enumerate([*self.records, *more]))
        self.records = []
        await self.warehouse.insert(table, schema.insert_columns(table), rows, token=table)


PLAIN = (
    "ada@example.com",
    sha256(b"ada@example.com").hexdigest(),
    sha256(b"ada@example.com").hexdigest().upper(),
    "dj0yJnU9Q2JfTGxzZWNyZXQmcD0w",
    *("203.0.113.77", "203.0.113.0/24", "2001:db8:7:7::77", "2001:db8:7::/48"),
)
"""What leads to a person, in the ways in which it may be sent."""
TRACES = ("ada@", "203.0.113", "2001:db8", "dj0y", sha256(b"ada@example.com").hexdigest()[:16])


def planted(edge: Edge, plain: str, before: str) -> None:
    """`plain` in every text that an event has, alone or behind `before`."""
    text, percent = before + plain, quote(plain, safe="")
    page = f"https://a.example/{percent}/?q={plain}&u={percent}&epik={percent}#{text}"
    props = {
        **{"note": text, text: 1, "ip": plain, "epik": [plain], "_epik": plain, "email": plain},
        "deep": {"epik": {"v": plain}, "list": [text]},
        "json": json.dumps({"epik": text}),
    }
    said = {
        **{**dict.fromkeys(TEXTS, text), "url": page, "referrer": page, "props": props, "epik": "dj0yTHEID"},
        "line_items": [dict.fromkeys(ITEM_TEXTS, text)],
        "user": {"em": ["ada@example.com"], "ph": ["+4915112345678"], "external_id": ["ada@example.com"]},
    }
    for name in ("checkout", text):
        one = {**said, "event": name, "event_id": f"{len(edge.records)} {text}"}
        edge.take(one, ip=plain.partition("/")[0], user_agent=f"Browser/1.0.0.0 {text}", language=plain)


def cut_off(edge: Edge, plain: str) -> None:
    """`plain` where a text ends; a hash takes more room than its address."""
    for name, limit in {**TEXTS, **ITEM_TEXTS}.items():
        text = f"{len(edge.records)} ".ljust(limit - len(plain) - 1, ".") + " " + plain
        one = {"line_items": [{name: text}]} if name in ITEM_TEXTS else {name: text}
        edge.take({"event": "checkout", "event_id": f"{len(edge.records)}", **one})
    agent = " ".ljust(511 - len(plain), ".") + " " + plain
    edge.take({"event": "page_visit", "event_id": f"{len(edge.records)}"}, user_agent=agent)


async def test_what_leads_to_a_person_is_in_no_text_of_a_view(warehouse: Warehouse) -> None:
    """# Through the real edge, which leaves hashes and networks."""
    edge = Edge(warehouse)
    for plain in PLAIN:
        for before in ("", "a ", "aa", "9-"):
            planted(edge, plain, before)
        cut_off(edge, plain)
    sent = len(edge.records)
    await edge.store("events")
    at: dict[str, Any] = {"site_id": 1, "action": "save", "time": START_MS, "received_ms": START_MS, "visitor_id": 5}
    await edge.store(
        "engagements",
        *(event.encode(event.Engagement(**at, event_id=plain, product_id=scrub_text(plain))) for plain in PLAIN),
    )
    own, rows = schema.analytics_database(warehouse.settings), {}
    for view in VIEWS:
        text = (await warehouse.select_bytes(f"SELECT * FROM {own}.{view}", fmt="JSONEachRow")).decode()
        rows[view] = text.count("\n")
        clear = unquote(text.replace("\\/", "/")).lower()
        assert [(trace, clear[clear.find(trace) - 300 :][:400]) for trace in TRACES if trace in clear] == [], view
    assert min(rows[view] for view in ("line_items", "sessions", "products_daily", "engagement_daily")) > 0
    assert rows["events"] == sent


async def test_what_hides_from_the_mask_is_not_shown(warehouse: Warehouse) -> None:
    """# Records that no edge of ours wrote: with letters of JSON as numbers, and digits of a hash percent-encoded."""
    secret = sha256(b"ada@example.com").hexdigest()
    one = event.Event(event="page_visit", event_id="e", time=START_MS, site_id=1, received_ms=START_MS)
    one.url = "https://a.example/?h=" + "".join(f"%{ord(digit):x}" for digit in secret)
    one.props = Raw(b'{"colour": "blue", "x\\u0065pik": "dj0yTHEID"}')
    await Edge(warehouse).store("events", event.encode(one))
    own = schema.analytics_database(warehouse.settings)
    found = await warehouse.select(f"SELECT url, props, user_agent FROM {own}.events")
    assert found == [{"url": "https://a.example/?h=", "props": "{}", "user_agent": ""}]


async def test_what_leads_to_nobody_stays(warehouse: Warehouse) -> None:
    plain = {
        "event_id": "018f4a5e-7c1d-7000-8000-00c04fd430c8",
        "order_id": "A-10023",
        "search_query": "lamp 12:34:56 1.2.3",
        "url": "https://a.example/p/1?v=2.0.1&t=2026-11-22T11:46:06Z",
        "props": {"size": "XL", "n": [1, {"id": "ab12"}]},
    }
    agent = "Mozilla/5.0 (X11; Linux x86_64) Chrome/131.0.0 Safari/537.36"
    edge = Edge(warehouse)
    edge.take({"event": "my_event", **plain}, user_agent=agent.replace("131.0.0", "131.0.0.0"))
    await edge.store("events")
    own = schema.analytics_database(warehouse.settings)
    [found] = await warehouse.select(f"SELECT event_name, {', '.join(plain)}, user_agent FROM {own}.events")
    assert json.loads(found.pop("props")) == plain.pop("props")
    assert found == {"event_name": "my_event", **plain, "user_agent": agent}


# --- what the views say -------------------------------------------------------------------------------


async def rows(front: httpx.AsyncClient, sql: str) -> list[dict[str, Any]]:
    answer = await front.post("/", content=sql + " FORMAT JSONEachRow")
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_counts_of_the_views_are_those_of_the_shop(front: httpx.AsyncClient, month: Month) -> None:
    events = {one.event_id: one for one in month.events}.values()
    [found] = await rows(front, "SELECT toUInt32(count()) AS n, toUInt32(countIf(from_pinterest)) AS l FROM events")
    assert found == {"n": len(events), "l": sum(bool(one.epik and "?epik=" in one.url) for one in events)}
    items = sum(len(one.line_items) for one in events)
    assert await rows(front, "SELECT toUInt32(count()) AS n FROM line_items") == [{"n": items}]
    cancelled = {one.order_id for one in events if one.event == "order_cancelled"}
    orders = {one.order_id: one for one in events if one.event == "checkout"}
    kept = {order: one for order, one in orders.items() if order not in cancelled}
    assert cancelled
    [total] = await rows(
        front, "SELECT toUInt32(sum(orders)) AS orders, toFloat64(sum(revenue['EUR'])) AS money FROM visitors"
    )
    assert total["orders"] == len(kept)
    assert total["money"] == pytest.approx(sum(one.value for one in kept.values()))
    [visits] = await rows(
        front, "SELECT toUInt32(sum(orders)) AS orders, toUInt32(sum(events)) AS n, max(duration_s) AS s FROM sessions"
    )
    assert visits["orders"] == len(orders)
    assert visits["n"] == len(events)
    assert 120 <= visits["s"] <= timedelta(hours=1).total_seconds()
    attributed = await rows(front, "SELECT order_id, action, hours_to_order FROM engagement_to_order")
    came = {one.visitor_id for one in events if "?epik=" in one.url} | {one.visitor_id for one in month.engagements}
    assert {row["order_id"] for row in attributed} == {o for o, one in kept.items() if one.visitor_id in came}
    assert all(0 <= row["hours_to_order"] <= 720 for row in attributed)


async def test_members_changes_and_sizes(front: httpx.AsyncClient, month: Month) -> None:
    members = await rows(front, "SELECT visitor_ids FROM audience_members_now")
    expected = [row for row in month.members() if row["state"]]
    assert len(members) == len(expected)
    assert all(len(row["visitor_ids"]) == 1 for row in members)
    changes = await rows(front, "SELECT change, toUInt32(count()) AS n FROM audience_changes GROUP BY change")
    assert {row["change"]: row["n"] for row in changes} == {
        "entered": len(expected),
        "left": len(month.members()) - len(expected),
    }
    sizes = await rows(front, "SELECT toUInt32(members) AS members FROM audience_size_daily ORDER BY day")
    assert [row["members"] for row in sizes] == [19, 20, 22, 23, 24]


async def test_data_quality(front: httpx.AsyncClient, month: Month) -> None:
    events = {one.event_id: one for one in month.events}.values()
    [sums] = await rows(
        front,
        "SELECT toUInt32(sum(events)) AS events, toUInt32(sum(records)) AS records, "
        "toUInt32(sum(rejected)) AS rejected, toUInt32(sum(from_api)) AS api, "
        "toUInt32(sum(without_consent)) AS silent FROM data_quality_daily",
    )
    assert sums == {
        "events": len(events),
        "records": len(month.events),
        "rejected": len(month.refusals()),
        "api": sum(one.source == "api" for one in events),
        "silent": sum(one.consent != "yes" for one in events),
    }


async def test_a_rebuilt_table_is_read_by_the_views(warehouse: Warehouse) -> None:
    """# They name their tables, so what takes a table's place is read."""
    own = schema.analytics_database(warehouse.settings)
    await warehouse.command("CREATE TABLE other AS visitor_profile")
    await warehouse.command("INSERT INTO other (site_id, visitor_id) VALUES (1, 5)")
    await warehouse.command("EXCHANGE TABLES other AND visitor_profile")
    assert await warehouse.select(f"SELECT visitor_id FROM {own}.visitors") == [{"visitor_id": 5}]


# --- the example queries ---------------------------------------------------------------------------------

EXAMPLES = re.findall(r"^## (\d+)\. [^\n]+\?\n\n```sql\n(.+?)\n```$", QUERIES.read_text(), re.MULTILINE | re.DOTALL)


def test_there_are_25_examples_and_every_view_has_one() -> None:
    assert [int(number) for number, _ in EXAMPLES] == list(range(1, 26))
    asked = " ".join(sql for _, sql in EXAMPLES)
    assert [view for view in VIEWS - {"audience_changes"} if not re.search(rf"\b(FROM|JOIN) {view}\b", asked)] == []


@pytest.mark.parametrize("sql", [sql for _, sql in EXAMPLES], ids=[number for number, _ in EXAMPLES])
async def test_an_example_finds_something_in_the_shop(front: httpx.AsyncClient, sql: str) -> None:
    found = await rows(front, sql)
    assert found
    assert any(value not in (0, "0", "", None) for row in found for value in row.values())


# --- on a server --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["single", "cluster"])
async def test_the_roles_sql_parses(warehouse: Warehouse, mode: Any) -> None:
    settings = WarehouseSettings(mode=mode, cluster="shop")
    text = analyst.grants(settings)
    statements = schema.statements(text, settings)
    assert len(statements) == 6
    for statement in statements:
        await warehouse.select_bytes(f"EXPLAIN AST {statement}", fmt="TabSeparated")
    assert ("ON CLUSTER" in text) == (mode == "cluster")


def test_views_read_with_the_rights_of_their_maker_on_a_server() -> None:
    text = "CREATE VIEW {analytics}.v {security} AS SELECT 1 FROM {database}.t"
    assert schema.statements(text, WarehouseSettings(mode="single", user="loader", database="shop")) == [
        "CREATE VIEW shop_analytics.v DEFINER = `loader` SQL SECURITY DEFINER AS SELECT 1 FROM shop.t"
    ]


@pytest.mark.parametrize("sql", ["SELECT pinstream FROM events", "SELECT e.visitor_id FROM events AS e"])
def test_names_that_only_look_alike_are_columns(sql: str) -> None:
    statement = analyst.inspect(sql.encode(), guard.forbidden_calls(), ["pinstream", "analytics"], "analytics")
    assert statement.kind == "read"


def test_a_setting_that_is_unknown_says_which_are_known() -> None:
    with pytest.raises(QueryFailed, match="max_execution_time"):
        analyst.settings({"nope": "1"}, 1)


def test_the_command_says_how_to_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINSTREAM_DATA_DIR", str(tmp_path))
    told = json.loads(CliRunner().invoke(cli.app, ["warehouse", "analyst", "--json"]).stdout)
    assert (told["user"], told["database"], told["sql"]) == ("analyst", "analytics", "")
    assert told["password_file"] == str(tmp_path / "analyst.password")
    monkeypatch.setenv("PINSTREAM_WAREHOUSE__MODE", "single")
    assert "GRANT pinstream_analyst TO analyst;" in CliRunner().invoke(cli.app, ["warehouse", "analyst"]).stdout
