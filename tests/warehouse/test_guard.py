from __future__ import annotations

import pytest

from pinstream.errors import QueryFailed
from pinstream.warehouse import guard
from pinstream.warehouse.client import Warehouse

CREATE = "CREATE TABLE t (a UInt8)"
REFUSED_ENGINES = [
    *("Kafka", "RabbitMQ", "NATS", "S3Queue", "AzureQueue", "FileLog", "MySQL", "PostgreSQL", "MaterializedPostgreSQL"),
    *("MongoDB", "Redis", "SQLite", "ODBC", "JDBC", "URL", "File", "S3", "HDFS", "AzureBlobStorage", "Iceberg"),
    *("DeltaLake", "Hudi", "Executable", "ExecutablePool", "Distributed", "Merge", "Join", "Set", "Buffer"),
    *("Dictionary", "KeeperMap", "EmbeddedRocksDB", "QueryRunner", "Alias", "Loop", "Remote", "ReplicatedMergeTree"),
]


def refusal(sql: str | bytes) -> QueryFailed:
    with pytest.raises(QueryFailed) as caught:
        guard.inspect(sql if isinstance(sql, bytes) else sql.encode())
    return caught.value


@pytest.mark.parametrize("engine", REFUSED_ENGINES)
def test_engine(engine: str) -> None:
    assert refusal(f"{CREATE} ENGINE = {engine}('x')").code == guard.ACCESS_DENIED


@pytest.mark.parametrize(
    "sql",
    [
        f"{CREATE} ENGINE=Kafka",
        f"{CREATE} engine\n=\tKafka()",
        f"{CREATE} ENGINE/* */=/* MergeTree */Kafka()",
        f"{CREATE} ENGINE -- MergeTree\n = Kafka()",
        f"{CREATE} ENGINE = `Kafka`()",
        f'{CREATE} ENGINE = "Kafka"()',
        f'{CREATE} ENGINE = "Kaf\\x6ba"()',
        f"{CREATE} ENGINE Kafka()",
        f"{CREATE} ENGINE\u00a0=\u2003Kafka()",
        "CREATE OR REPLACE TABLE t (a UInt8) ENGINE = Kafka()",
        "CREATE TABLE t ENGINE = Kafka() AS SELECT 1",
        "REPLACE TABLE t (a UInt8) ENGINE = Kafka()",
        "CREATE MATERIALIZED VIEW v ENGINE = Kafka() AS SELECT 1",
        "CREATE DATABASE d ENGINE = MySQL('host', 'd', 'u', 'p')",
        "CREATE DATABASE d ENGINE = Filesystem('/')",
        "CREATE DATABASE d ENGINE = Overlay",
        "CREATE DATABASE d ENGINE = MergeTree",
        f"{CREATE} ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = 'local', path = '/tmp/')",
    ],
)
def test_engine_with_tricks(sql: str) -> None:
    assert refusal(sql).code == guard.ACCESS_DENIED


@pytest.mark.parametrize("name", sorted(guard.KNOWN_TABLE_FUNCTIONS - guard.TABLE_FUNCTIONS))
def test_table_function(name: str) -> None:
    for sql in (
        f"SELECT * FROM {name}('x')",
        f"SELECT * FROM {name.upper()} ('x')",
        f"INSERT INTO FUNCTION {name}('x') SELECT 1",
        f"INSERT INTO TABLE FUNCTION {name}('x') VALUES (1)",
        f"CREATE TABLE t AS {name}('x')",
        f"DESCRIBE TABLE {name}('x')",
        f"EXPLAIN SELECT * FROM {name}('x')",
        f"SELECT 1 WHERE 1 IN (SELECT 1 FROM a, {name}('x'))",
        f"SELECT * FROM (SELECT 1) JOIN {name}('x') USING a",
    ):
        assert refusal(sql).code == guard.ACCESS_DENIED, sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM file('/etc/passwd')",
        "select * from File('/etc/passwd')",
        "SELECT * FROM `file`('/etc/passwd')",
        'SELECT * FROM "file"("/etc/passwd")',
        "SELECT * FROM `f\\x69le`('/etc/passwd')",
        "SELECT * FROM file/**/('/etc/passwd')",
        "SELECT * FROM file/* /* nested */ */('/etc/passwd')",
        "SELECT * FROM file -- (\n ('/etc/passwd')",
        "SELECT * FROM file # (\n ('/etc/passwd')",
        "SELECT * FROM file // (\n ('/etc/passwd')",
        "SELECT * FROM file\u200b('/etc/passwd')",
        "SELECT * FROM file\u3000('/etc/passwd')",
        "SELECT * FROM file\x00('/etc/passwd')",
        "SELECT 'it''s', * FROM file('/etc/passwd')",
        "SELECT 'back\\'slash', * FROM file('/etc/passwd')",
        "SELECT 'a\\\\', * FROM file('/etc/passwd')",
        'SELECT "a""b", * FROM file(1)',
        "SELECT $$it's$$, * FROM file('/etc/passwd')",
        "SELECT $a$ $b$ $a$, * FROM file('/etc/passwd')",
        "SELECT 1$$, * FROM file('/etc/passwd')",
        "WITH x AS (SELECT * FROM file('/etc/passwd')) SELECT * FROM x",
        "SELECT (SELECT * FROM file('/etc/passwd'))",
        "CREATE VIEW v AS SELECT * FROM file('/etc/passwd')",
        "CREATE TABLE t (a String DEFAULT file('/etc/passwd')) ENGINE = Memory",
        "ALTER TABLE t ADD COLUMN a String DEFAULT file('/etc/passwd')",
        "ALTER TABLE t DELETE WHERE a = file('/etc/passwd')",
        "SELECT file('/etc/passwd')",
        "SELECT arrayMap(file, ['/etc/passwd'])",
        "SELECT * APPLY file FROM t",
        "SELECT * APPLY(`file`) FROM t",
        "INSERT INTO t VALUES (file('/etc/passwd'))",
        "INSERT INTO t FORMAT Values (file('/etc/passwd'))",
        "INSERT INTO t format/**/VALUES\n(file('/etc/passwd'))",
        "SELECT hasColumnInTable('host:9000', 'u', 'p', 'd', 't', 'c')",
        "SELECT aiGenerate('x')",
        "SELECT * FROM values('a String DEFAULT file(1)', 1)",
        "SELECT * FROM values('a String DEFAULT f(1)', 1)",
        "SELECT * FROM values(concat('a String DEF', 'AULT f(1)'), 1)",
        "SELECT * FROM values('a String DEF' || 'AULT f(1)', 1)",
        "SELECT * FROM values({s:String}, 1)",
        "SELECT * FROM values($$a String alias f(1)$$, 1)",
        "SELECT * FROM generateRandom('a String MATERIALIZED f(1)')",
        "INSERT INTO FUNCTION null('a String EPHEMERAL f(1)') SELECT 1",
        "SELECT * FROM eval('SELECT 1')",
        "SELECT * FROM format('JSONEachRow', 'a String DEFAULT f(1)', '{}')",
        "SELECT * FROM (format(JSONEachRow, 'a String', '{}'))",
        "SELECT * FROM a, format(JSONEachRow, 'a String', '{}')",
        "SELECT * FROM python(settings)",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT 1 INTO/**/outfile '/tmp/x'",
        "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString",
        "SET dialect = 'prql'",
        "SELECT 1 SETTINGS Dialect = 'kusto'",
        "SELECT 1 SETTINGS `dialect` = 'kusto'",
        "SET additional_table_filters = {'t': 'file(1)'}",
        "SET additional_result_filter = 'file(1)'",
        "SELECT 1 SETTINGS format_template_row = '/etc/passwd' FORMAT Template",
        "SET format_avro_schema_registry_url = 'http://x'",
        "SYSTEM SHUTDOWN",
        "SYSTEM KILL",
        "SYSTEM /* FLUSH LOGS */ SHUTDOWN",
        "SYSTEM RELOAD CONFIG",
        "SYSTEM STOP LISTEN HTTP",
        "KILL QUERY WHERE 1",
        "BACKUP TABLE t TO Disk('x', 'y')",
        "RESTORE TABLE t FROM Disk('x', 'y')",
        "ATTACH TABLE t FROM '/tmp/x' (a UInt8) ENGINE = MergeTree ORDER BY a",
        "ATTACH DATABASE d",
        "DETACH DATABASE default",
        "CREATE FUNCTION f LANGUAGE PYTHON AS 'x'",
        "CREATE FUNCTION f ENGINE = Executable",
        "CREATE DICTIONARY d (a UInt64) PRIMARY KEY a SOURCE(FILE(path '/x' format 'CSV')) LAYOUT(FLAT()) LIFETIME(1)",
        "CREATE DICTIONARY d (a UInt64) PRIMARY KEY a SOURCE(CLICKHOUSE(QUERY 'SELECT file(1)')) LAYOUT(FLAT())",
        "CREATE NAMED COLLECTION c AS url = 'x'",
        "CREATE USER u",
        "GRANT ALL ON *.* TO u",
        "ALTER TABLE t FETCH PARTITION 1 FROM '/path'",
        "EXECUTE AS u SELECT 1",
    ],
)
def test_whatever_reaches_files_or_the_network(sql: str) -> None:
    assert refusal(sql).code == guard.ACCESS_DENIED


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "hello",
        "1 + 1",
        "SELECT 1; SELECT 2",
        "SELECT 1;; DROP TABLE t",
        "CREATE TABLE a (x UInt8) ENGINE = Memory PARALLEL WITH DROP TABLE b",
        "SELECT 'not closed",
        "SELECT `not closed",
        "SELECT $not$closed$",
        "SELECT $a$ $b$ $c$",
        "SELECT $a",
        "SELECT $",
        "SELECT 1 /* not closed",
        "SELECT 1 /* /* */",
        "SELECT \u2018it's\u2019, file('/etc/passwd')",
        "SELECT  \u201ca\u201d",
    ],
)
def test_what_is_not_one_statement(sql: str) -> None:
    assert refusal(sql).code == guard.SYNTAX_ERROR


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1;",
        "SELECT 'file(''/etc/passwd'')', \"url(\", $$s3('x')$$ -- file('x')",
        "SELECT 1 /* file('x') */ # file('x')\n // file('x')",
        "SELECT format('{} {}', a, toString(b)), path(url), domain(url) FROM t WHERE source = 'api' AND url = ''",
        "SELECT engine FROM system.tables WHERE engine = 'Kafka'",
        "CREATE VIEW v AS SELECT engine, name FROM system.tables",
        f"{CREATE} ENGINE = ReplacingMergeTree(a) ORDER BY a",
        f"{CREATE} ENGINE MergeTree ORDER BY a",
        f"{CREATE} ENGINE = `Memory`",
        "CREATE TEMPORARY TABLE t (a UInt8)",
        "CREATE DATABASE d ENGINE = Atomic",
        "CREATE MATERIALIZED VIEW v REFRESH EVERY 1 HOUR TO t AS SELECT 1",
        "CREATE FUNCTION plus_one AS (x) -> x + 1",
        "INSERT INTO t VALUES (now(), 'file(1)'), (toDate('2026-01-01'), 'x')",
        "INSERT INTO t SELECT number FROM numbers(10)",
        "SELECT * FROM values('a UInt8, b String', (1, 'x'), (2, 'file'))",
        "SELECT * FROM view(SELECT 1)",
        "SELECT * FROM merge('d', '^t$')",
        "SELECT * FROM generateRandom('a UInt8') LIMIT 1",
        "WITH 1 AS x SELECT x FORMAT JSON SETTINGS max_threads = 1",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "FROM t SELECT a",
        "SYSTEM FLUSH LOGS",
        "SYSTEM REFRESH VIEW v",
        "ALTER TABLE t APPLY PATCHES",
        "OPTIMIZE TABLE t FINAL",
        "SHOW CREATE TABLE t",
    ],
)
def test_what_is_let_through(sql: str) -> None:
    guard.inspect(sql.encode())


@pytest.mark.parametrize(
    ("sql", "kind", "output"),
    [
        ("SELECT 1 FORMAT JSON", "read", "JSON"),
        ("SELECT 1 FORMAT CSV SETTINGS max_threads = 1", "read", "CSV"),
        ("SELECT (SELECT 'FORMAT JSON')", "read", ""),
        ("WITH 1 AS x SELECT x", "read", ""),
        ("WITH 1 AS x INSERT INTO t SELECT x", "write", ""),
        ("INSERT INTO t SELECT 1", "write", ""),
        ("SET max_threads = 1", "session", ""),
        ("USE d", "session", ""),
        ("DROP TABLE t", "write", ""),
    ],
)
def test_kind_and_output_format(sql: str, kind: str, output: str) -> None:
    statement = guard.inspect(sql.encode())
    assert (statement.kind, statement.output_format, statement.data_at) == (kind, output, -1)


@pytest.mark.parametrize(
    ("sql", "data"),
    [
        (b"INSERT INTO t FORMAT JSONEachRow\n{}", b"{}"),
        (b"INSERT INTO t FORMAT JSONEachRow {}", b"{}"),
        (b"INSERT INTO t FORMAT JSONEachRow  \t\r\n{}", b"{}"),
        (b"INSERT INTO t FORMAT JSONEachRow\n\n{}", b"\n{}"),
        (b"INSERT INTO t (a, `b`) SETTINGS async_insert = 0 FORMAT JSONEachRow\n'\x00\xff file(", b"'\x00\xff file("),
        (b"INSERT INTO d.t FORMAT JSONEachRow", b""),
    ],
)
def test_data_begins_after_one_line_break(sql: bytes, data: bytes) -> None:
    statement = guard.inspect(sql)
    assert statement.insert_format == "JSONEachRow"
    assert sql[statement.data_at :] == data
    assert b"FORMAT" not in statement.head + statement.settings
    assert b"SETTINGS" not in statement.head
    assert (statement.settings.strip() == b"SETTINGS async_insert = 0") == (b"SETTINGS" in sql)


def test_the_statement_is_bounded_and_its_data_is_not() -> None:
    start = b"INSERT INTO t VALUES "
    most = start + b"(1)," * (guard.MAX_SQL_BYTES // 4)
    guard.inspect(most[: guard.MAX_SQL_BYTES])
    assert "longer than" in str(refusal(most[: guard.MAX_SQL_BYTES + 1]))
    assert refusal(start + b"('" + b"x" * guard.MAX_SQL_BYTES + b"')").code == guard.SYNTAX_ERROR
    guard.inspect(b"INSERT INTO t FORMAT CSV\n" + b"1\n" * guard.MAX_SQL_BYTES)


def test_each_character_is_read_once_or_twice() -> None:
    """# A text that is not closed ends the reading: nothing looks through the rest for one tag after the other."""
    many = " ".join(f"${number}$" for number in range(50_000))
    assert "$0$ at position 8" in str(refusal(f"SELECT {many}"))
    assert [token.text for token in guard.tokens(f"$a${many}$a$ x")] == [many, "x"]


async def test_every_table_function_of_the_engine_is_known(warehouse: Warehouse) -> None:
    rows = await warehouse.select("SELECT name FROM system.table_functions")
    assert {row["name"].lower() for row in rows} - guard.KNOWN_TABLE_FUNCTIONS == set()


async def test_no_name_of_a_file_is_a_table(warehouse: Warehouse) -> None:
    for sql in (
        "SELECT * FROM `/etc/hostname`",
        "SELECT * FROM default.`/etc/hostname`",
        "SELECT * FROM '/etc/hostname'",
    ):
        with pytest.raises(QueryFailed) as caught:
            await warehouse.select(sql)
        assert caught.value.code in (60, guard.SYNTAX_ERROR)
    with pytest.raises(QueryFailed) as caught:
        await warehouse.select("SELECT * FROM {table:Identifier}", {"table": "/etc/hostname"})
    assert caught.value.code == 60


async def test_a_refusal_keeps_the_folder_usable(warehouse: Warehouse) -> None:
    with pytest.raises(QueryFailed, match="no engine Kafka"):
        await warehouse.command(f"{CREATE} ENGINE = Kafka('localhost:9092', 't', 'g', 'JSONEachRow')")
    assert await warehouse.select("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP DATABASE default",
        "drop database if exists `default` SYNC",
        "DETACH DATABASE default",
        "RENAME DATABASE default TO dd",
        "RENAME DATABASE a TO b, c TO d, e TO default",
        "CREATE DATABASE default ENGINE = Memory",
        "CREATE OR REPLACE DATABASE default",
        "CREATE DATABASE system",
        "DROP DATABASE {d:Identifier}",
        "TRUNCATE DATABASE system",
        "TRUNCATE ALL TABLES FROM system",
        "DROP DATABASE INFORMATION_SCHEMA",
        "DROP DATABASE information_schema",
        "DROP VIEW INFORMATION_SCHEMA.tables",
        "DROP TABLE t, system.settings",
        "EXCHANGE TABLES t AND system.one",
        "RENAME TABLE system.one TO t",
        "CREATE TABLE system.t (a UInt8) ENGINE = Memory",
        "CREATE OR REPLACE VIEW information_schema.tables AS SELECT 1",
        "DROP TABLE {d:Identifier}.settings",
        "SYSTEM STOP MERGES",
        "SYSTEM STOP TTL MERGES",
        "SYSTEM START MERGES",
        "SYSTEM STOP MOVES",
        "SYSTEM STOP FETCHES",
        "SYSTEM STOP VIEWS",
        "SYSTEM CANCEL VIEW v",
        "SYSTEM SHUTDOWN",
        "SYSTEM FLUSH LOGSX",
    ],
)
def test_what_would_stop_the_warehouse_for_everybody(sql: str) -> None:
    assert refusal(sql).code == guard.ACCESS_DENIED


@pytest.mark.parametrize(
    "sql",
    [
        "DROP DATABASE d",
        "CREATE DATABASE IF NOT EXISTS default",
        "DROP TABLE default.t",
        "CREATE TABLE database (a UInt8 DEFAULT 1) ENGINE = Memory",
        "CREATE TABLE t AS system.one ENGINE = Memory",
        "CREATE MATERIALIZED VIEW v TO t AS SELECT name FROM system.tables",
        "INSERT INTO t SELECT name FROM system.tables",
        "SYSTEM DROP MARK CACHE",
        "SYSTEM WAIT VIEW v",
        "SYSTEM RELOAD DICTIONARY d",
    ],
)
def test_what_stops_nobody(sql: str) -> None:
    guard.inspect(sql.encode())


@pytest.mark.parametrize(("name", "cap"), sorted(guard.CAPS.items()))
def test_caps_may_be_lowered_and_not_lifted(name: str, cap: int) -> None:
    for value in (1, cap, f"'{cap}'"):
        guard.inspect(f"SELECT 1 SETTINGS max_threads = 1, {name} = {value}, max_block_size = 9".encode())
        guard.inspect(f"SET {name} = {value};".encode())
    for value in (0, cap + 1, "'0'", "'10Gi'", "1.5e18", "1e18", "0x0", -1, "DEFAULT", "{x:UInt64}", "'1e18'", "$$0$$"):
        for sql in (f"SELECT 1 SETTINGS {name} = {value}", f"SET max_threads = 1, `{name}`={value}"):
            assert refusal(sql).code == guard.SETTING_CONSTRAINT_VIOLATION, sql
    assert refusal(f"INSERT INTO t SETTINGS {name} = 0 FORMAT CSV\n1").code == guard.SETTING_CONSTRAINT_VIOLATION


@pytest.mark.parametrize("sql", ["SET profile = 'default'", "SELECT 1 SETTINGS max_memory_usage_for_user = 1"])
def test_settings_that_reach_others(sql: str) -> None:
    assert refusal(sql).code == guard.ACCESS_DENIED
