"""What people did with Pins, from HTTP to the figures that analysts read, whatever says who they are."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from pinstream.clock import now_ms
from pinstream.eventlog.journal import JournalLog
from pinstream.load.loop import Loader
from pinstream.settings import Load, Log
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse
from tests.collect.conftest import API_KEY, SITE, client, running
from tests.load.loading import load_until

PINNER = sha256(b"a pinner's id").hexdigest()
ANN = sha256(b"ann@shop.example").hexdigest()
IDENTITIES: tuple[dict[str, Any], ...] = (
    {"user": {"external_id": PINNER}},
    {"user": {"em": ANN}},
    {"epik": "dj0-click"},
    {},
)
PLACE = {"pin_id": "7", "board_id": "8", "campaign_id": "9", "product_id": "lamp"}
OBJECTS = [("site", ""), ("pin", "7"), ("board", "8"), ("product", "lamp"), ("campaign", "9")]
PAGE = {"site": SITE.tag_id, "consent": "yes", "event": "view_content", "line_items": [{"product_id": "rug"}]}


async def loaded(warehouse: Warehouse, folder: Path, *, records: int) -> None:
    """Let `load` take the journal in `folder`, until so many records have come."""
    loader = Loader(JournalLog(folder, Log()), warehouse, Load(), b"key")
    count = "SELECT (SELECT count() FROM events) + (SELECT count() FROM engagements) AS n"

    async def done() -> bool:
        return bool((await warehouse.select(count))[0]["n"] >= records)

    await load_until(loader, done)


async def rows(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in await warehouse.select(sql)]


async def test_every_kind_of_identity_reaches_the_same_rollups(warehouse: Warehouse, tmp_path: Path) -> None:
    day_ms, noon_ms = 86_400_000, now_ms() // 86_400_000 * 86_400_000 - 43_200_000
    sent = [
        {"action": "save", "event_id": f"e{number}", "time": noon_ms, **PLACE, **identity}
        for number, identity in enumerate(IDENTITIES)
    ]
    earlier = {"action": "like", "event_id": "e9", "time": noon_ms - day_ms, **PLACE, **IDENTITIES[1]}
    async with running(tmp_path) as edge, client(edge, authorization=f"Bearer {API_KEY}") as http:
        for engagements in (sent, [earlier], sent[:3]):  # some twice: an event id counts once
            answer = await http.post("/v1/engagements", json={"site": SITE.tag_id, "engagements": engagements})
            assert answer.status_code == 204
    await loaded(warehouse, tmp_path, records=len(sent) + 1)

    analytics = schema.analytics_database(warehouse.settings)
    series = await rows(
        warehouse, f"SELECT object, object_id, action, engagements, visitors, day FROM {analytics}.engagement_daily"
    )
    days = sorted({row[-1] for row in series})
    assert len(days) == 2
    assert sorted(series) == sorted(
        (*each, *figures) for each in OBJECTS for figures in (("save", 4, 3, days[1]), ("like", 1, 1, days[0]))
    )
    product = (
        "SELECT action, product_id, uniqMerge(events), uniqMerge(visitors) FROM product_day GROUP BY ALL ORDER BY ALL"
    )
    assert await rows(warehouse, product) == [("save", "lamp", 4, 3), ("like", "lamp", 1, 1)]
    who = "SELECT object, object_id, uniq(visitor_id) FROM engagement_visitor FINAL WHERE action = 'save' GROUP BY ALL"
    assert sorted(await rows(warehouse, who)) == sorted((*each, 3) for each in OBJECTS[1:])
    profiles = "SELECT count(), countIf(last_save > 0), countIf(last_like > 0) FROM visitor_profile FINAL"
    assert await rows(warehouse, profiles) == [(3, 3, 1)]
    known = "SELECT toString(id_type), if(id_type = 'epik', id_value, lower(hex(id_value))) FROM identity FINAL"
    assert sorted(await rows(warehouse, known)) == [("em", ANN), ("epik", "dj0-click"), ("external_id", PINNER)]


async def test_a_landing_with_a_click_id_is_a_pin_click_with_and_without_the_server_s_word(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    landing = PAGE | {"epik": "dj0-click", "url": "https://www.shop.example/p/rug?epik=dj0-click"}
    told = {"action": "click", "epik": "dj0-click", "product_id": "rug", "pin_id": 7}
    async with running(tmp_path) as edge, client(edge) as http:
        for page in (landing, PAGE):
            assert (await http.post("/p/i", json=page)).status_code == 204
        key = {"authorization": f"Bearer {API_KEY}"}
        body = {"site": SITE.tag_id, "engagements": [told]}
        assert (await http.post("/v1/engagements", json=body, headers=key)).status_code == 204
    await loaded(warehouse, tmp_path, records=3)
    analytics = schema.analytics_database(warehouse.settings)
    clicks = f"SELECT object, object_id, action, engagements FROM {analytics}.engagement_daily"
    assert sorted(await rows(warehouse, clicks)) == [
        ("pin", "7", "click", 1),
        ("product", "rug", "click", 1),
        ("site", "", "click", 1),
    ]
