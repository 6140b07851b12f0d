from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from pinstream import event
from pinstream.errors import QueryFailed
from pinstream.settings import Warehouse as WarehouseSettings
from pinstream.warehouse import migrate, schema
from pinstream.warehouse.client import Warehouse

TABLES = tuple(schema.STRUCT_OF_TABLE)
SEPTEMBER_MS = 1_788_220_800_000  # 2026-09-01; a block may span 100 months at most, so times stay within a few
DAY_MS = 86_400_000


def spliced(offset: int, record: Any, partition: int = 0, version: int = schema.ROLLUP_VERSION) -> bytes:
    """A row as `load` sends it."""
    prefix = b'{"k_partition":%d,"k_offset":%d,"rollup_version":%d,' % (partition, offset, version)
    return prefix + event.encode(record)[1:]


async def insert(warehouse: Warehouse, table: str, records: list[Any], token: str) -> None:
    body = b"\n".join(spliced(offset, record) for offset, record in enumerate(records))
    await warehouse.insert(table, schema.insert_columns(table), body, token=token)


async def read(warehouse: Warehouse, table: str) -> list[Any]:
    rows = await warehouse.select_bytes(f"SELECT {schema.read_back(table)} FROM {table} ORDER BY k_offset")
    return [schema.record(table, row) for row in rows.splitlines()]


async def columns(warehouse: Warehouse, table: str) -> dict[str, dict[str, Any]]:
    sql = (
        "SELECT name, type, default_kind, default_expression, comment FROM system.columns "
        "WHERE database = currentDatabase() AND table = {table:String}"
    )
    return {row["name"]: row for row in await warehouse.select(sql, {"table": table})}


# --- the table against the struct -------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
async def test_every_key_of_a_record_is_an_insert_column(warehouse: Warehouse, table: str) -> None:
    there = await columns(warehouse, table)
    insertable = {name for name, column in there.items() if column["default_kind"] in ("", "EPHEMERAL")}
    stored_defaults = {name for name, column in there.items() if column["default_kind"] == "DEFAULT"}
    assert set(schema.insert_columns(table)) <= insertable | {"props"}
    assert insertable - set(schema.insert_columns(table)) == set()
    renamed = {"event_name", "event_time", "received_at", "em_sha256", "ph_sha256", "external_id_sha256", "props"}
    assert stored_defaults <= renamed


@pytest.mark.parametrize("table", TABLES)
async def test_column_defaults_are_the_structs_defaults(warehouse: Warehouse, table: str) -> None:
    struct = schema.STRUCT_OF_TABLE[table]
    needed = {"event": "x", "event_id": "e", "site_id": 1, "received_ms": SEPTEMBER_MS, "time": SEPTEMBER_MS}
    needed |= {"action": "save", "reason": "bad_json", "step": "load"}
    required = {field.name for field in msgspec.structs.fields(struct) if field.required}
    record = struct(
        **{
            name: value
            for name, value in needed.items()
            if name in required | ({"time"} if table == "events" else set())
        }
    )
    assert msgspec.json.decode(event.encode(record)).keys() <= required | {"time"}  # the encoder leaves defaults out
    await insert(warehouse, table, [record], "defaults")
    assert await read(warehouse, table) == [record]


async def test_every_table_and_column_is_explained(warehouse: Warehouse) -> None:
    silent = await warehouse.select(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND comment = '' "
        "AND NOT match(table, '_v[0-9]+$')"
    )
    assert silent == []
    tables = "SELECT name FROM system.tables WHERE database = currentDatabase() AND comment = ''"
    assert await warehouse.select(f"{tables} AND engine != 'MaterializedView'") == []


async def test_every_table_remembers_blocks(warehouse: Warehouse) -> None:
    sql = "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
    rows = await warehouse.select(sql)
    forgetful = [row["name"] for row in rows if "non_replicated_deduplication_window" not in row["engine_full"]]
    assert forgetful == ["schema_migration"]
    assert {"events", "visitor_profile", "identity", "event_minute", "audience_member"} <= {row["name"] for row in rows}


async def test_an_unknown_key_fails_the_block(warehouse: Warehouse) -> None:
    row = spliced(0, event.Event(event="x", site_id=1, received_ms=1))[:-1] + b',"brand_new":1}'
    with pytest.raises(QueryFailed) as caught:
        await warehouse.insert("events", schema.insert_columns("events"), row, token="x")
    assert caught.value.code == 117
    assert "brand_new" in str(caught.value)


# --- any record within its bounds comes back equal ---------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
sha256 = st.one_of(st.just(""), st.binary(min_size=32, max_size=32).filter(any).map(bytes.hex))
uint16, uint32 = st.integers(0, 65_535), st.integers(0, 4_294_967_295)
uint64 = st.one_of(st.integers(0, event.MAX_UINT64), st.just(event.MAX_UINT64))
money = st.one_of(
    st.integers(0, 10_000_000).map(lambda n: n / 10_000),
    st.integers(0, int(event.MAX_MONEY) * 10_000).map(lambda n: n / 10_000),
    st.just(event.MAX_MONEY),
)
millis = st.integers(SEPTEMBER_MS, SEPTEMBER_MS + 60 * DAY_MS)
props = st.dictionaries(
    text,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)
# A client's own spelling is kept: spaces, escapes, trailing zeros
raw_props = st.one_of(
    props.map(lambda value: json.dumps(value, indent=1).encode()),
    props.map(lambda value: json.dumps(value, ensure_ascii=False).encode()),
    st.just(b'{ "price": 1.50, "big": 123456789012345678901234567890, "none": null, "quote": "\\"{}[]\\u0000" }'),
)
line_item = st.builds(
    event.LineItem,
    product_id=text,
    product_name=text,
    product_category=text,
    product_brand=text,
    product_variant=text,
    product_variant_id=text,
    product_price=money,
    product_quantity=uint16,
)
events = st.builds(
    event.Event,
    event=text.filter(bool),
    event_id=text,
    time=millis,
    url=text,
    referrer=text,
    value=money,
    currency=st.sampled_from(["", "EUR", "USD"]),
    order_id=text,
    order_quantity=uint16,
    search_query=text,
    line_items=st.lists(line_item, max_size=3),
    props=raw_props.map(Raw),
    site_id=st.integers(1, 4_294_967_295),
    received_ms=millis,
    visitor_id=uint64,
    source=st.sampled_from(["tag", "api", "pinterest", "import"]),
    consent=st.sampled_from(["unknown", "yes", "no"]),
    skew_ms=st.integers(-event.MAX_TIME_MS, event.MAX_TIME_MS),
    time_clamped=st.booleans(),
    em=sha256,
    ph=sha256,
    external_id=sha256,
    match_keys=st.dictionaries(text, sha256, max_size=3),
    epik=text,
    ip_prefix=text,
    user_agent=text,
    language=text.map(lambda value: value[:35]),
)
engagements = st.builds(
    event.Engagement,
    site_id=st.integers(1, 4_294_967_295),
    action=st.sampled_from(["click", "save", "closeup", "comment", "like"]),
    event_id=text.filter(bool),
    time=millis,
    received_ms=millis,
    visitor_id=uint64,
    em=sha256,
    external_id=sha256,
    epik=text,
    pin_id=uint64,
    board_id=uint64,
    ad_id=uint64,
    campaign_id=uint64,
    product_id=text,
    time_clamped=st.booleans(),
)
rejections = st.builds(
    event.Rejection,
    received_ms=millis,
    reason=text,
    step=st.sampled_from(["collect", "load"]),
    site_id=uint32,
    field=text,
    size_bytes=uint32,
    payload_hash=st.one_of(st.just(""), st.binary(min_size=16, max_size=16).map(bytes.hex)),
    topic=text,
)
RECORDS = {"events": events, "engagements": engagements, "rejected": rejections}


def comparable(record: Any) -> Any:
    """Equal records have equal fields; props are compared byte for byte."""
    return {field: getattr(record, field) for field in record.__struct_fields__} | {
        "props": bytes(getattr(record, "props", b""))
    }


def with_id(record: Any, unique: str) -> Any:
    if not hasattr(record, "event_id"):
        return record
    return msgspec.structs.replace(record, event_id=record.event_id + unique)


@pytest.mark.parametrize("table", TABLES)
async def test_any_record_loads_as_its_own_bytes_and_reads_back_equal(warehouse: Warehouse, table: str) -> None:
    """# 200 records and more, in blocks: the generator runs first, the engine takes what it made."""
    await warehouse.command(f"ALTER TABLE {table} REMOVE TTL")
    blocks: list[list[Any]] = []

    @settings(max_examples=20, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(RECORDS[table], min_size=10, max_size=20))
    def generate(records: list[Any]) -> None:
        blocks.append(records)

    generate()
    assert sum(map(len, blocks)) >= 200
    for number, generated in enumerate(blocks):
        # Each its own event, for ReplacingMergeTree keeps one row of those that share an event id
        records = [with_id(record, f"{number}.{place}") for place, record in enumerate(generated)]
        assert all(msgspec.json.decode(event.encode(r), type=type(r)) == r for r in records)
        await insert(warehouse, table, records, f"block {number}")
        back = await read(warehouse, table)
        assert [comparable(record) for record in back] == [comparable(record) for record in records]
        await warehouse.command(f"TRUNCATE TABLE {table}")


@pytest.mark.parametrize(
    "change",
    [
        {"visitor_id": event.MAX_UINT64},
        {"value": event.MAX_MONEY},
        {"value": 0.0001},
        {"order_quantity": 65_535},
        {"em": "00" * 31 + "01"},
        {"em": "01" + "00" * 31},
        {"url": "https://x/" + "é" * 2038},
        {"search_query": "\x00 \x1f \u2028 \U0001f600 \\ \" ' {} \t\n"},
        {"line_items": [event.LineItem(product_id=str(n)) for n in range(event.MAX_LINE_ITEMS)]},
        {"props": Raw(b'{"a":"' + b"x" * (event.MAX_PROPS_BYTES - 8) + b'"}')},
        {"match_keys": {"fn": "ab" * 32, "ln": ""}},
        {"skew_ms": -event.MAX_TIME_MS},
    ],
)
async def test_bounds_load_and_read_back_equal(warehouse: Warehouse, change: dict[str, Any]) -> None:
    record = event.Event(event="x", event_id="e", site_id=4_294_967_295, time=SEPTEMBER_MS, received_ms=SEPTEMBER_MS)
    record = msgspec.structs.replace(record, **change)
    await warehouse.command("ALTER TABLE events REMOVE TTL")
    await insert(warehouse, "events", [record], "bound")
    assert [comparable(r) for r in await read(warehouse, "events")] == [comparable(record)]


# --- modes -------------------------------------------------------------------------------------------


def test_a_cluster_gets_replicated_engines_and_on_cluster() -> None:
    cluster = WarehouseSettings(mode="cluster", cluster="shop")
    text = "-- a\nCREATE TABLE a{on_cluster} (x UInt8)\nENGINE = {engine ReplacingMergeTree(x)}\nSETTINGS {window};\n"
    assert schema.statements(text, cluster) == [
        'CREATE TABLE a ON CLUSTER "shop" (x UInt8)\n'
        "ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', x)\n"
        "SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 2592000"
    ]
    assert schema.statements(text, WarehouseSettings(mode="single")) == [
        "CREATE TABLE a (x UInt8)\nENGINE = ReplacingMergeTree(x)\nSETTINGS non_replicated_deduplication_window = 10000"
    ]


async def test_every_statement_parses_in_every_mode(warehouse: Warehouse) -> None:
    modes = [WarehouseSettings(mode="single"), WarehouseSettings(mode="cluster", cluster="shop")]
    for mode in modes:
        for step in migrate.steps(mode):
            for statement in step.statements:
                await warehouse.select_bytes(f"EXPLAIN AST {statement}", fmt="TabSeparated")
