"""What the views make of events and engagements: profile, visits by the day, interest in Pins and products."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from pinstream import event
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse
from tests.warehouse.test_blocks import DAY_MS, START_MS, Blocks, an_event, moment, profile, rows

LANDING = "https://shop.example/p/1?utm_source=pinterest&epik="


def bought(*products: str, category: str = "") -> list[event.LineItem]:
    return [event.LineItem(product_id=each, product_category=category) for each in products]


def an_engagement(number: int, action: event.Action, **fields: Any) -> event.Engagement:
    given: dict[str, Any] = {
        "site_id": 1,
        "event_id": f"g{number}",
        "time": START_MS + number * 1000,
        "received_ms": START_MS,
        "visitor_id": number,
    }
    return event.Engagement(action=action, **given | fields)


async def load(warehouse: Warehouse, *records: event.Event | event.Engagement, token: str = "t") -> None:
    """Insert twice under two tokens: what an audience reads must not mind."""
    for kind, topic in ((event.Event, event.EVENTS), (event.Engagement, event.ENGAGEMENTS)):
        if some := [record for record in records if isinstance(record, kind)]:
            for copy in ("", " again"):
                await Blocks(warehouse).insert(topic, rows(*some), token=token + copy)


async def hashes(warehouse: Warehouse, *texts: str) -> set[int]:
    (row,) = await warehouse.select(
        "SELECT arrayMap(t -> cityHash64(t), {texts:Array(String)}) AS h", {"texts": list(texts)}
    )
    return set(row["h"])


# --- the profile -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("signup", "last_signup"),
        ("lead", "last_lead"),
        ("search", "last_search"),
        ("view_category", "last_view_category"),
    ],
)
async def test_the_latest_of_each_standard_event(warehouse: Warehouse, name: str, column: str) -> None:
    await load(warehouse, an_event(1, event=name, visitor_id=5), an_event(7, event=name, visitor_id=5), an_event(9))
    assert (await profile(warehouse, 5))[column] == moment(START_MS + 7000)


async def test_the_latest_of_each_action_on_a_pin(warehouse: Warehouse) -> None:
    actions: tuple[event.Action, ...] = ("click", "save", "closeup", "comment", "like")
    await load(warehouse, *(an_engagement(n, action, visitor_id=5) for n, action in enumerate(actions, 1)))
    got = await profile(warehouse, 5)
    assert [got[f"last_{action}"] for action in actions] == [moment(START_MS + n * 1000) for n in range(1, 6)]
    assert got["last_engage"] == moment(START_MS + 5000)


async def test_a_landing_counts_as_a_click_and_a_cookie_does_not(warehouse: Warehouse) -> None:
    await load(
        warehouse,
        an_event(1, visitor_id=5, epik="k", url=f"{LANDING}k"),
        an_event(2, visitor_id=5, epik="k", url="https://shop.example/?my_epik=k"),
        an_event(3, visitor_id=5),
        an_event(4, visitor_id=5, epik="k", url=f"{LANDING}k", event="consent_withdrawn"),
    )
    got = await profile(warehouse, 5)
    assert got["last_click"] == got["last_engage"] == got["last_epik_landing"] == moment(START_MS + 1000)


async def test_every_telling_of_an_order_is_kept_once(warehouse: Warehouse) -> None:
    await load(
        warehouse,
        an_event(1, event="checkout", visitor_id=5, order_id="o1", value=10.0, currency="EUR"),
        an_event(1, event="checkout", visitor_id=5, order_id="o1", value=10.0, currency="EUR", source="api"),
        an_event(6, event="checkout", visitor_id=5, value=7.5),
        an_event(4, event="page_visit", visitor_id=5, order_id="o3", value=1.0, currency="USD"),
    )
    keys = {row["n"]: row["k"] for row in await warehouse.select("SELECT event_id AS n, event_key AS k FROM events")}
    [number] = await hashes(warehouse, "o1")
    at = START_MS // 1000
    assert sorted(tuple(each.values()) for each in (await profile(warehouse, 5))["orders"]) == sorted(
        [(keys["e1"], number, at + 1, Decimal(10), "EUR"), (keys["e6"], 0, at + 6, Decimal("7.5"), "")]
    )


async def test_analysts_see_an_order_once_with_one_copys_money(warehouse: Warehouse) -> None:
    """The server's copy knows no number of the order, and another currency."""
    tag = an_event(1, event="checkout", visitor_id=5, order_id="o1", value=40_000.0, currency="HUF")
    server = an_event(1, event="checkout", visitor_id=5, value=100.0, currency="USD", source="api")
    await load(warehouse, an_engagement(0, "save", visitor_id=5))
    await load(warehouse, server, tag, structs.replace(server, visitor_id=6))
    views = schema.analytics_database(warehouse.settings)
    visitors = await warehouse.select(f"SELECT visitor_id, orders, revenue FROM {views}.visitors ORDER BY visitor_id")
    assert [tuple(row.values()) for row in visitors] == [(5, 1, {"HUF": 40_000}), (6, 1, {"USD": 100})]
    [order] = await warehouse.select(f"SELECT order_id, value, currency FROM {views}.engagement_to_order")
    assert tuple(order.values()) == ("o1", 40_000, "HUF")


async def test_the_shop_cancels_orders_and_a_browser_does_not(warehouse: Warehouse) -> None:
    await load(
        warehouse,
        an_event(1, event=event.ORDER_CANCELLED, visitor_id=5, order_id="o1", source="api"),
        an_event(2, event=event.ORDER_REFUNDED, visitor_id=5, order_id="o2", source="import"),
        an_event(3, event=event.ORDER_REFUNDED, visitor_id=5, source="api"),
        an_event(4, event=event.ORDER_REFUNDED, visitor_id=0, order_id="o3", source="api"),  # it knows only its orders
        an_event(5, event=event.ORDER_CANCELLED, visitor_id=5, order_id="o4", source="tag"),
    )
    got = await profile(warehouse, 5)
    assert (got["orders"], got["last_order"].year) == ([], 1970)
    table = await warehouse.select("SELECT order_key FROM cancelled_order FINAL WHERE site_id = 1")
    assert {row["order_key"] for row in table} == await hashes(warehouse, "o1", "o2", "o3")


async def test_bought_products_and_categories(warehouse: Warehouse) -> None:
    await load(
        warehouse,
        an_event(1, event="checkout", visitor_id=5, line_items=bought("a", "b", category="Chairs")),
        an_event(2, event="checkout", visitor_id=5, line_items=bought("a", "", category="")),
        an_event(3, event="add_to_cart", visitor_id=5, line_items=bought("c", category="Tables")),
    )
    got = await profile(warehouse, 5)
    assert set(got["bought"]) == await hashes(warehouse, "a", "b")
    assert set(got["bought_categories"]) == await hashes(warehouse, "Chairs")


async def test_a_full_set_shows_that_it_is_full(warehouse: Warehouse) -> None:
    orders = [
        an_event(n, event="checkout", visitor_id=5, line_items=bought(*(f"p{n}.{m}" for m in range(100))))
        for n in range(6)
    ]
    await load(warehouse, *orders[:4])
    assert len((await profile(warehouse, 5))["bought"]) == 400
    await load(warehouse, *orders[4:], token="more")
    assert len((await profile(warehouse, 5))["bought"]) == 500


# --- by the day ------------------------------------------------------------------------------------


async def test_how_often_a_visitor_did_what_on_a_day(warehouse: Warehouse) -> None:
    await load(
        warehouse,
        *(an_event(n, event="page_visit", visitor_id=5) for n in range(3)),
        an_event(3, event="search", visitor_id=5),
        an_event(4, event="page_visit", visitor_id=5, time=START_MS - 1),
        an_event(5, event="page_visit", visitor_id=0),
        an_event(6, event="consent_withdrawn", visitor_id=5),
    )
    sql = "SELECT event_name, day, visitor_id, length(keys) AS n, last_at FROM visitor_day FINAL ORDER BY ALL"
    today, before = moment(START_MS).date(), moment(START_MS - 1).date()
    assert [tuple(row.values()) for row in await warehouse.select(sql)] == [
        ("page_visit", before, 5, 1, moment(START_MS - 1)),
        ("page_visit", today, 5, 3, moment(START_MS + 2000)),
        ("search", today, 5, 1, moment(START_MS + 3000)),
    ]


async def test_more_often_than_64_times_is_full(warehouse: Warehouse) -> None:
    await load(warehouse, *(an_event(n, visitor_id=5) for n in range(63)))
    sql = "SELECT length(keys) AS n FROM visitor_day FINAL"
    assert await warehouse.select(sql) == [{"n": 63}]
    await load(warehouse, *(an_event(n, visitor_id=5) for n in range(63, 70)), token="more")
    assert await warehouse.select(sql) == [{"n": 64}]


async def days(warehouse: Warehouse, table: str, columns: str) -> list[tuple[Any, ...]]:
    found = await warehouse.select(
        f"SELECT {columns}, day, action, uniqMerge(events) AS n, uniqMerge(visitors) AS v FROM {table} "
        "GROUP BY ALL ORDER BY ALL"
    )
    return [tuple(row.values()) for row in found]


async def test_engagement_of_each_object_by_the_day(warehouse: Warehouse) -> None:
    where = {"pin_id": 7, "board_id": 8, "campaign_id": 9, "product_id": "p"}
    await load(
        warehouse,
        an_engagement(1, "save", **where),
        an_engagement(2, "save", **where, visitor_id=1),
        an_engagement(3, "save", pin_id=7, time=START_MS + DAY_MS),
        an_engagement(4, "like", visitor_id=0),
    )
    today, next_day = moment(START_MS).date(), moment(START_MS + DAY_MS).date()
    assert await days(warehouse, "engagement_day", "object, object_id") == [
        ("site", "", today, "save", 2, 1),
        ("site", "", today, "like", 1, 0),
        ("site", "", next_day, "save", 1, 1),
        ("pin", "7", today, "save", 2, 1),
        ("pin", "7", next_day, "save", 1, 1),
        ("board", "8", today, "save", 2, 1),
        ("product", "p", today, "save", 2, 1),
        ("campaign", "9", today, "save", 2, 1),
    ]


async def test_a_click_id_is_one_click_whoever_tells_of_it(warehouse: Warehouse) -> None:
    landed = {"epik": "k", "url": f"{LANDING}k", "line_items": bought("p", "p"), "event": "view_content"}
    await load(
        warehouse,
        an_event(1, visitor_id=5, **landed),
        an_event(2, visitor_id=5, **landed),  # the page again
        an_event(3, visitor_id=5, epik="k", line_items=bought("p")),  # the cookie, on a later page
        an_event(4, visitor_id=0, epik="m", url=f"{LANDING}m"),
        an_engagement(5, "click", epik="k", product_id="p", pin_id=7, visitor_id=6),
        an_engagement(6, "click", product_id="p", visitor_id=6),
    )
    today = moment(START_MS).date()
    assert await days(warehouse, "engagement_day", "object, object_id") == [
        ("site", "", today, "click", 3, 2),
        ("pin", "7", today, "click", 1, 1),
        ("product", "p", today, "click", 2, 2),
    ]
    assert await days(warehouse, "product_day", "product_id") == [
        ("p", today, "click", 2, 2),
        ("p", today, "view", 3, 1),
    ]


async def test_who_did_what_to_which_pin_and_when_last(warehouse: Warehouse) -> None:
    await load(
        warehouse,
        an_engagement(1, "save", pin_id=7, board_id=8, visitor_id=5),
        an_engagement(3, "save", pin_id=7, visitor_id=5),
        an_engagement(4, "save", pin_id=7, visitor_id=0),
        an_event(5, visitor_id=6, epik="k", url=f"{LANDING}k", line_items=bought("p", "")),
    )
    found = await warehouse.select("SELECT * EXCEPT site_id FROM engagement_visitor FINAL ORDER BY ALL")
    assert [tuple(row.values()) for row in found] == [
        ("click", "product", "p", 6, moment(START_MS + 5000)),
        ("save", "pin", "7", 5, moment(START_MS + 3000)),
        ("save", "board", "8", 5, moment(START_MS + 1000)),
    ]


async def test_interest_in_products_by_the_day(warehouse: Warehouse) -> None:
    done: Mapping[str, str] = {"view_content": "view", "page_visit": "view", "add_to_cart": "cart", "checkout": "order"}
    await load(
        warehouse,
        *(an_event(n, event=name, visitor_id=5, line_items=bought("p", "")) for n, name in enumerate(done)),
        an_event(9, event="search", visitor_id=5, line_items=bought("p")),
        an_engagement(1, "save", product_id="p"),
        an_engagement(2, "save"),
    )
    today = moment(START_MS).date()
    assert await days(warehouse, "product_day", "product_id") == [
        ("p", today, "save", 1, 1),
        ("p", today, "view", 2, 1),
        ("p", today, "cart", 1, 1),
        ("p", today, "order", 1, 1),
    ]


# --- popular ---------------------------------------------------------------------------------------


async def test_popular_products_and_pins(warehouse: Warehouse) -> None:
    saves = [
        an_engagement(100 * n + v, "save", visitor_id=v, product_id=f"p{n}", pin_id=n, time=START_MS)
        for n, savers in enumerate((4, 5, 6, 5), 1)
        for v in range(1, savers + 1)
    ]
    old = [an_engagement(v, "save", visitor_id=v, pin_id=9, time=START_MS - 40 * DAY_MS) for v in range(1, 9)]
    bought_once = an_event(1, event="checkout", visitor_id=5, line_items=bought("p4"), time=START_MS)
    await load(warehouse, *saves, *old, bought_once)
    for name in ("product_popularity", "pin_popularity"):
        await warehouse.command(f"SYSTEM REFRESH VIEW {name}_v1")
        await warehouse.command(f"SYSTEM WAIT VIEW {name}_v1")
    products = await warehouse.select(
        "SELECT rank, of, product_id, savers, clickers, buyers, score FROM product_popularity ORDER BY rank"
    )
    assert [tuple(row.values()) for row in products] == [
        (1, 3, "p4", 5, 0, 1, 20),
        (2, 3, "p3", 6, 0, 0, 18),
        (3, 3, "p2", 5, 0, 0, 15),
    ]
    pins = await warehouse.select("SELECT rank, of, pin_id, savers, clickers, score FROM pin_popularity ORDER BY rank")
    assert [tuple(row.values()) for row in pins] == [(1, 3, 3, 6, 0, 18), (2, 3, 2, 5, 0, 15), (3, 3, 4, 5, 0, 15)]


async def test_members_of_a_list_are_hashes(warehouse: Warehouse) -> None:
    member = b'{"site_id":1,"list_id":2,"id_type":"em","id_hex":"%s"}' % (b"ab" * 32)
    columns = ("site_id", "list_id", "id_type", "id_hex")
    for token in ("a", "b"):
        await warehouse.insert("list_member", columns, member, token=token)
    found = await warehouse.select("SELECT list_id, id_type, id_value FROM list_member FINAL")
    assert found == [{"list_id": 2, "id_type": "em", "id_value": bytes.fromhex("ab" * 32)}]
