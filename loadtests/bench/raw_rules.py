"""The templates written straight over `events` and `engagements`, as somebody would who has no rollups.

Kept fair: each opens only the events that it needs by name and time, and reads no row with FINAL.
"""

from __future__ import annotations

from typing import Final

from pinstream.audiences.compile import Level, Query

_PEOPLE: Final = """
WITH
  till AS (SELECT visitor_id FROM events WHERE site_id = {site:UInt32}
    AND event_time >= toDateTime({now:UInt32} - 2592000) AND em_sha256 != toFixedString('', 32)
    GROUP BY visitor_id HAVING uniqExact(em_sha256) > 5),
  mail AS (SELECT DISTINCT em_sha256 AS em, visitor_id FROM events
    WHERE site_id = {site:UInt32} AND em_sha256 != toFixedString('', 32) AND visitor_id NOT IN till),
  crowd AS (SELECT em FROM mail GROUP BY em HAVING count() > 50),
  owned AS (SELECT em AS who, visitor_id FROM mail WHERE em NOT IN crowd)
"""
_BROWSERS: Final = "WITH 1 AS one\n"

_TEMPLATES: Final = {
    "cart_abandoned": """
SELECT who FROM ev WHERE event_name IN ('add_to_cart', 'initiate_checkout', 'checkout') AND LAST(7)
  AND who NOT IN (SELECT who FROM ev WHERE event_time >= toDateTime({now:UInt32} - 3600)
    AND event_name != 'consent_withdrawn')
GROUP BY who HAVING countIf(event_name != 'checkout') > 0 AND countIf(event_name = 'checkout') = 0""",
    "win_back": "SELECT who FROM ev WHERE ORDERED GROUP BY who HAVING countIf(LAST(90)) = 0",
    "re_engagement": """
SELECT who FROM ev WHERE event_name != 'consent_withdrawn' GROUP BY who
HAVING KNOWN_AT_ALL countIf(LAST(60)) = 0""",
    "cross_sell": """
SELECT who FROM ev WHERE event_name = 'checkout' GROUP BY who
HAVING max(has(line_items.product_category, '3')) AND NOT max(has(line_items.product_category, '4'))""",
    "new_customers": """
SELECT DISTINCT who FROM ev WHERE SEEN AND LAST(30) AND who NOT IN (SELECT who FROM ev WHERE ORDERED)""",
    "multichannel": """
SELECT DISTINCT who FROM ev WHERE SEEN AND LAST(30) KNOWN_BY_ANY""",
    "brand_lovers": """
SELECT who FROM (SELECT who, order_id, max(value) AS value, min(event_time) AS event_time FROM ev WHERE ORDERED
  GROUP BY who, order_id)
GROUP BY who HAVING countIf(LAST(60)) > 0 AND count() <= 2 AND sum(value) < 100""",
    "disengaged_vips": """
SELECT who FROM (SELECT who, order_id, max(value) AS value FROM ev WHERE ORDERED GROUP BY who, order_id)
WHERE who NOT IN (SELECT who FROM ev WHERE SEEN AND LAST(60)) AND who NOT IN (SELECT who FROM pin WHERE LAST(60))
GROUP BY who HAVING sum(value) >= 500""",
    "recent_buyers": """
SELECT who FROM (SELECT who, order_id, min(event_time) AS event_time FROM ev WHERE ORDERED GROUP BY who, order_id)
WHERE LAST(30) GROUP BY who""",
    "all_visitors": "SELECT DISTINCT who FROM ev WHERE SEEN AND LAST(30)",
    "first_visitors": """
SELECT who FROM ev WHERE SEEN GROUP BY who HAVING min(event_time) >= toDateTime({now:UInt32} - 30 * 86400)""",
    "engaged": """
SELECT DISTINCT who FROM (SELECT who FROM pin WHERE LAST(30) AND who IN (SELECT who FROM ev WHERE consent = 'yes')
  UNION ALL SELECT who FROM ev WHERE is_landing AND SEEN AND LAST(30))""",
    "actalike_seed": """
SELECT who FROM (SELECT who, order_id, max(value) AS value, min(event_time) AS event_time FROM ev WHERE ORDERED
  GROUP BY who, order_id)
WHERE LAST(365) GROUP BY who HAVING count() >= 2 AND sum(value) >= 200""",
}


def size(key: str, level: Level, site_id: int, now_ms: int) -> Query:
    """How many are in a template, as `n`."""
    text = _TEMPLATES[key].replace("SEEN", "event_name != 'consent_withdrawn'")
    text = text.replace(
        "ORDERED",
        "event_name = 'checkout' AND order_id NOT IN (SELECT order_id FROM events WHERE site_id = {site:UInt32} "
        "AND event_name IN ('order_cancelled', 'order_refunded') AND source IN ('api', 'import'))",
    )
    for days in (7, 30, 60, 90, 365):
        text = text.replace(f"LAST({days})", f"event_time >= toDateTime({{now:UInt32}} - {days} * 86400)")
    browsers = level == "visitor"  # every person has an address
    mailed = "AND who IN (SELECT who FROM ev WHERE em_sha256 != toFixedString('', 32))"
    text = text.replace("KNOWN_AT_ALL", "max(em_sha256) != toFixedString('', 32) AND" if browsers else "")
    text = text.replace("KNOWN_BY_ANY", mailed if browsers else "")
    gone = "who NOT IN (SELECT who FROM ev WHERE event_name = 'consent_withdrawn')"
    if browsers:
        head, tables = _BROWSERS, "visitor_id AS who, * FROM {} WHERE site_id = {{site:UInt32}} AND visitor_id != 0"
    else:
        head = _PEOPLE
        tables = "owned.who AS who, {0}.* FROM {0} INNER JOIN owned ON {0}.visitor_id = owned.visitor_id "
        tables += "WHERE {0}.site_id = {{site:UInt32}}"
    views = f",\n  ev AS (SELECT {tables.format('events')}),\n  pin AS (SELECT {tables.format('engagements')})\n"
    views = views.replace(" * FROM events", " *, is_landing FROM events").replace("events.* ", "events.*, is_landing ")
    sql = f"{head.rstrip()}{views}SELECT count() AS n FROM ({text}\n) WHERE {gone}"
    return Query(sql=sql, params={"site": site_id, "now": now_ms // 1000})
