"""Every template at both levels, worked out a second time: by DuckDB, over the raw events, in SQL of its own.

`SHOP_CUSTOMERS=85000 pytest tests/audiences/test_answers.py` does it with about a million events.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from pinstream import settings
from pinstream.audiences import compile, templates
from pinstream.audiences.rule import Rule
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import NOW_S, World, create, hashed, raw_engagement, raw_event
from tests.audiences.shop import ACTIONS, MONEY, shop

pytestmark = pytest.mark.slow

CUSTOMERS = int(os.environ.get("SHOP_CUSTOMERS", "1500"))

_VIEWS = f"""
CREATE TABLE ev AS SELECT event, event_id, time // 1000 AS t, received_ms, time AS time_ms, visitor_id AS visitor,
    coalesce(em, '') AS em, coalesce(external_id, '') AS x, coalesce(ph, '') AS ph,
    coalesce(consent, 'unknown') AS consent, coalesce(order_id, '') AS order_id,
    coalesce(source, 'tag') AS source, coalesce(value, 0)::DECIMAL(18, 4) AS value, coalesce(currency, '') AS currency,
    coalesce(url, '') LIKE '%?epik=%' AS landing, coalesce(line_items, []) AS items
FROM raw_events;
CREATE TABLE pin AS SELECT action, time // 1000 AS t, visitor_id AS visitor, coalesce(em, '') AS em,
    coalesce(pin_id, 0) AS pin, coalesce(board_id, 0) AS board, coalesce(campaign_id, 0) AS campaign,
    coalesce(product_id, '') AS product
FROM raw_engagements;

-- people
CREATE TABLE mail AS SELECT DISTINCT em, visitor FROM (
    SELECT em, visitor FROM ev WHERE visitor <> 0 UNION ALL SELECT em, visitor FROM pin) WHERE em <> '';
CREATE TABLE ext AS SELECT DISTINCT x, visitor FROM ev WHERE x <> '' AND visitor <> 0
    AND x NOT IN (SELECT x FROM ev WHERE x <> '' GROUP BY x HAVING count(DISTINCT visitor) > 50);
CREATE TABLE shared AS
    SELECT visitor FROM (SELECT em, visitor, t FROM ev UNION ALL SELECT em, visitor, t FROM pin)
    WHERE em <> '' AND t >= {NOW_S} - 30 * 86400 GROUP BY visitor HAVING count(DISTINCT em) > 5
    UNION SELECT visitor FROM ev WHERE x <> '' AND t >= {NOW_S} - 30 * 86400
    GROUP BY visitor HAVING count(DISTINCT x) > 5;
CREATE TABLE device AS
    SELECT em, visitor FROM mail
    UNION SELECT mail.em, other.visitor FROM mail JOIN ext USING (visitor) JOIN ext AS other USING (x)
    WHERE mail.visitor NOT IN (SELECT visitor FROM shared);
DELETE FROM device WHERE em IN (SELECT em FROM mail GROUP BY em HAVING count(*) > 50);

-- consent: the latest word of each visitor, a no before a yes
CREATE TABLE word AS SELECT visitor, max(row(said, no)) AS latest FROM (
    SELECT visitor, CASE WHEN source <> 'import' AND (event = 'consent_withdrawn' OR consent = 'no') THEN received_ms
        ELSE least(time_ms, received_ms) END AS said, event = 'consent_withdrawn' OR consent = 'no' AS no
    FROM ev WHERE visitor <> 0 AND (event = 'consent_withdrawn' OR consent <> 'unknown')) GROUP BY visitor;

CREATE TABLE owned_person AS SELECT em AS who, visitor FROM device WHERE visitor NOT IN (SELECT visitor FROM shared);
CREATE TABLE ok_person AS SELECT em AS who FROM device JOIN word USING (visitor)
    WHERE latest[2] OR visitor NOT IN (SELECT visitor FROM shared) GROUP BY em HAVING NOT max(latest)[2];
CREATE TABLE owned_visitor AS SELECT DISTINCT visitor AS who, visitor FROM (
    SELECT visitor FROM ev UNION SELECT visitor FROM pin) WHERE visitor <> 0;
CREATE TABLE ok_visitor AS SELECT visitor AS who FROM word WHERE NOT latest[2];
"""

_LEVEL = """
CREATE OR REPLACE VIEW owned AS SELECT * FROM owned_{level};
CREATE OR REPLACE VIEW ok AS SELECT * FROM ok_{level};
CREATE OR REPLACE VIEW act AS SELECT owned.who, ev.* FROM owned JOIN ev USING (visitor)
    WHERE event <> 'consent_withdrawn';
CREATE OR REPLACE VIEW touched AS SELECT owned.who, pin.* FROM owned JOIN pin USING (visitor);
CREATE OR REPLACE VIEW bill AS
    SELECT who, t, value, currency, event_id, CASE order_id WHEN '' THEN (SELECT min(named.order_id) FROM act AS named
        WHERE named.who = act.who AND named.event = 'checkout' AND named.event_id = act.event_id
        AND named.order_id <> '') ELSE order_id END AS number
    FROM act WHERE event = 'checkout';
CREATE OR REPLACE VIEW ordered AS
    SELECT *, value * CASE currency WHEN 'USD' THEN 0.875 WHEN 'JPY' THEN NULL ELSE 1 END AS worth FROM (
        SELECT DISTINCT ON (who, key) who, key, min(t) OVER (PARTITION BY who, key) AS t, value, currency
        FROM (SELECT *, coalesce('order ' || number, event_id) AS key FROM bill)
        WHERE number IS NULL OR number NOT IN (SELECT order_id FROM ev
            WHERE event IN ('order_cancelled', 'order_refunded') AND source IN ('api', 'import'))
        ORDER BY who, key, value DESC, currency DESC);
CREATE OR REPLACE VIEW had AS
    SELECT who, unnest(items).product_id AS product, unnest(items).product_category AS category
    FROM act WHERE event = 'checkout';
"""


def within(days: int, column: str = "t") -> str:
    return f"{column} >= {NOW_S - days * 86400} AND {column} < {NOW_S}"


SEEN = "SELECT who FROM act WHERE {}"
BUYS = "SELECT who FROM ordered WHERE {}"
LISTED = {
    "person": "SELECT who FROM owned_person "
    "WHERE who IN (SELECT hash FROM listed WHERE kind = 'em' AND list = 1) UNION "
    "SELECT who FROM act_all WHERE x IN (SELECT hash FROM listed WHERE kind = 'external_id' AND list = 1) UNION "
    "SELECT who FROM act_all WHERE ph IN (SELECT hash FROM listed WHERE kind = 'ph' AND list = 1)",
    "visitor": "SELECT visitor FROM mail WHERE em IN (SELECT hash FROM listed WHERE kind = 'em' AND list = 1) UNION "
    "SELECT visitor FROM ev WHERE x IN (SELECT hash FROM listed WHERE kind = 'external_id' AND list = 1) UNION "
    "SELECT visitor FROM ev WHERE ph IN (SELECT hash FROM listed WHERE kind = 'ph' AND list = 1)",
}
LANDED = "SELECT who FROM act WHERE landing AND {}"
TOUCHED = "SELECT who FROM touched WHERE {}"


def cases(level: str) -> dict[str, tuple[Rule, str]]:
    """Name -> the template's rule, and what DuckDB is asked."""
    ready = templates.BY_KEY
    known = "SELECT who FROM owned" if level == "person" else "SELECT visitor FROM mail"
    listed = LISTED[level].replace("act_all", "(SELECT owned.who, ev.* FROM owned JOIN ev USING (visitor))")
    idle = f"SELECT who FROM ok EXCEPT ({SEEN.format(within(60))})"
    spent = "SELECT who FROM ordered GROUP BY who HAVING sum(coalesce(worth, 0)) >= 500"
    found: dict[str, tuple[Rule, str]] = {
        "cart_abandoned": (
            ready["cart_abandoned"].rule(),
            f"({SEEN.format(within(7))} AND event IN ('add_to_cart', 'initiate_checkout')) EXCEPT "
            f"({SEEN.format(within(7))} AND event = 'checkout') EXCEPT ({SEEN.format(f't >= {NOW_S - 3600}')})",
        ),
        "win_back": (ready["win_back"].rule(), f"{BUYS.format('true')} EXCEPT ({BUYS.format(within(90))})"),
        "re_engagement": (
            ready["re_engagement"].rule(),
            f"({known}) EXCEPT ({SEEN.format(within(60))})",
        ),
        "cross_sell": (
            ready["cross_sell"].rule({"bought_categories": "category-1, category-2", "not_products": "product-3"}),
            "SELECT who FROM had WHERE category IN ('category-1', 'category-2') EXCEPT "
            "(SELECT who FROM had WHERE product = 'product-3')",
        ),
        "new_customers": (
            ready["new_customers"].rule(),
            f"{SEEN.format(within(30))} EXCEPT ({BUYS.format('true')})",
        ),
        "multichannel": (ready["multichannel"].rule(), f"({known}) INTERSECT ({SEEN.format(within(30))})"),
        "multichannel of a list": (
            ready["multichannel"].rule({"lists": "1"}),
            f"({listed}) INTERSECT ({SEEN.format(within(30))})",
        ),
        "brand_lovers": (
            ready["brand_lovers"].rule(),
            f"({BUYS.format(within(60))}) INTERSECT (SELECT who FROM ordered GROUP BY who "
            "HAVING count(*) <= 2 AND sum(coalesce(worth, 0)) < 100)",
        ),
        "disengaged_vips": (
            ready["disengaged_vips"].rule(),
            f"(({spent}) INTERSECT ({idle})) EXCEPT ({TOUCHED.format(within(60))})",
        ),
        "disengaged_vips of a list": (
            ready["disengaged_vips"].rule({"lists": [1], "idle_days": 60}),
            f"((({spent}) UNION ({listed})) INTERSECT ({idle})) EXCEPT ({TOUCHED.format(within(60))})",
        ),
        "recent_buyers": (ready["recent_buyers"].rule(), BUYS.format(within(30))),
        "all_visitors": (ready["all_visitors"].rule({"within_days": 14}), SEEN.format(within(14))),
        "first_visitors": (
            ready["first_visitors"].rule(),
            f"SELECT who FROM act GROUP BY who HAVING {within(30, 'min(t)')}",
        ),
        "engaged": (
            ready["engaged"].rule(),
            f"({TOUCHED.format(within(30))}) UNION ({LANDED.format(within(30))})",
        ),
        "engaged on a product": (
            ready["engaged"].rule({"on": "product", "ids": "product-2"}),
            f"({TOUCHED.format(within(30))} AND product = 'product-2') UNION ({LANDED.format(within(30))} "
            "AND list_contains(list_transform(items, lambda item: item.product_id), 'product-2'))",
        ),
        "actalike_seed": (
            ready["actalike_seed"].rule(),
            f"SELECT who FROM ordered WHERE {within(365)} GROUP BY who "
            "HAVING count(*) >= 2 AND sum(coalesce(worth, 0)) >= 200",
        ),
    }
    for action in ACTIONS:
        landed = f" UNION ({LANDED.format(within(30))})" if action == "click" else ""
        found[f"engaged: {action}"] = (
            ready["engaged"].rule({"actions": action}),
            f"({TOUCHED.format(within(30))} AND action = '{action}'){landed}",
        )
        for on, number in (("pin", 11), ("board", 21), ("campaign", 31)):
            found[f"engaged: {action} on {on}"] = (
                ready["engaged"].rule({"actions": action, "on": on, "ids": str(number), "within_days": 60}),
                f"{TOUCHED.format(within(60))} AND action = '{action}' AND {on} = {number}",
            )
    return found


@pytest.fixture(scope="module")
def world() -> World:
    return shop(CUSTOMERS)


@pytest.fixture(scope="module")
def engine(shared_database: settings.Warehouse, world: World) -> tuple[settings.Warehouse, int]:
    """The shop in the real engine."""

    async def load() -> int:
        client = Warehouse.open(shared_database, password=shared_database.password.get_secret_value())
        [site] = await create(client, [world])
        await client.aclose()
        return site

    return shared_database, asyncio.run(load())


@pytest.fixture(scope="module")
def duck(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """The same records in DuckDB."""
    folder: Path = tmp_path_factory.mktemp("duck")
    (folder / "events.jsonl").write_bytes(b"\n".join(raw_event(1, n, one) for n, one in enumerate(world.seen)))
    pinned = b"\n".join(raw_engagement(1, n, one) for n, one in enumerate(world.pinned))
    (folder / "engagements.jsonl").write_bytes(pinned)
    listed = [{"list": number, "kind": kind, "hash": hashed(name)} for number, kind, name in world.listed]
    (folder / "listed.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, listed)))
    text = "VARCHAR"
    columns = dict.fromkeys(
        ("event", "event_id", "em", "external_id", "ph", "consent", "order_id", "currency", "url", "source"), text
    ) | {
        "time": "BIGINT",
        "received_ms": "BIGINT",
        "visitor_id": "UBIGINT",
        "value": "DECIMAL(18, 4)",
        "line_items": "STRUCT(product_id VARCHAR, product_category VARCHAR)[]",
    }
    actions = dict.fromkeys(("action", "em", "product_id"), text) | dict.fromkeys(
        ("time", "visitor_id", "pin_id", "board_id", "campaign_id"), "UBIGINT"
    )
    with duckdb.connect() as connection:
        for table, wanted in (("raw_events", columns), ("raw_engagements", actions)):
            file = folder / f"{table.removeprefix('raw_')}.jsonl"
            connection.execute(
                f"CREATE TABLE {table} AS FROM read_json('{file}', format = 'newline_delimited', columns = {wanted})"
            )
        connection.execute(f"CREATE TABLE listed AS FROM read_json_auto('{folder / 'listed.jsonl'}')")
        connection.execute(_VIEWS)
        yield connection


@pytest.mark.parametrize("level", ["person", "visitor"])
def test_every_template_gives_what_the_raw_events_say(
    level: compile.Level, engine: tuple[settings.Warehouse, int], duck: duckdb.DuckDBPyConnection
) -> None:
    database, site = engine
    asked = cases(level)
    assert {name.split(":")[0].split(" of ")[0].split(" on ")[0] for name in asked} == set(templates.BY_KEY)
    query = compile.answers(
        [rule for rule, _ in asked.values()], level=level, site_id=site, now_ms=NOW_S * 1000, money=MONEY
    )

    async def ask() -> list[dict[str, Any]]:
        client = Warehouse.open(database, password=database.password.get_secret_value())
        rows = await client.select(query.sql, query.params)
        await client.aclose()
        return rows

    rows = asyncio.run(ask())
    duck.execute(_LEVEL.format(level=level))
    for number, (name, (_, sql)) in enumerate(asked.items()):
        wanted = {row[0] for row in duck.execute(f"({sql}) INTERSECT SELECT who FROM ok").fetchall()}
        ours = {bytes(row["em"]).hex() if level == "person" else row["visitor_id"] for row in rows if row[f"n{number}"]}
        assert ours == wanted, f"{name}: {len(ours - wanted)} too many, {len(wanted - ours)} missing"
        assert ours, f"{name}: nobody is in, which proves nothing"
