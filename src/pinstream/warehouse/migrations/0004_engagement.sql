-- What is done to Pins and products, by the day. A landing, which is an event whose page's address brought a click id
-- of Pinterest, counts as a click on a Pin: we know of no Pin, but of the shop and of the products on the page. A click
-- id names one click, however often its page is loaded and whoever tells of it.

CREATE TABLE IF NOT EXISTS engagement_day{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    object Enum8('site' = 0, 'pin' = 1, 'board' = 2, 'product' = 3, 'campaign' = 4)
        COMMENT 'What the action was on; site = everything of the shop',
    object_id String COMMENT 'Its id; empty for site' CODEC(ZSTD(1)),
    day Date COMMENT 'Day on which it happened, UTC' CODEC(DoubleDelta, ZSTD(1)),
    action Enum8('click' = 1, 'save' = 2, 'closeup' = 3, 'comment' = 4, 'like' = 5) COMMENT 'What was done to the Pin',
    events AggregateFunction(uniq, UInt64) COMMENT 'Engagements; read with uniqMerge',
    visitors AggregateFunction(uniq, UInt64) COMMENT 'Known visitors; read with uniqMerge'
)
ENGINE = {engine AggregatingMergeTree()}
PARTITION BY toYYYYMM(day)
ORDER BY (site_id, object, object_id, day, action)
TTL day + INTERVAL 400 DAY
SETTINGS {window}, {fsync}, ttl_only_drop_parts = 1
COMMENT 'Actions on Pins by the day, for each pin, board, product and campaign and for the whole shop';

CREATE MATERIALIZED VIEW IF NOT EXISTS engagement_day_from_engagements_v{version}{on_cluster} TO engagement_day AS
WITH if(action = 'click' AND epik != '', cityHash64(site_id, 'click', epik), event_key) AS key
SELECT
    site_id,
    place.1 AS object,
    place.2 AS object_id,
    toDate(event_time, 'UTC') AS day,
    action,
    uniqState(key) AS events,
    uniqStateIf(visitor_id, visitor_id != 0) AS visitors
FROM engagements
ARRAY JOIN arrayFilter(pair -> pair.1 = 'site' OR pair.2 NOT IN ('', '0'), [('site', ''), ('pin', toString(pin_id)),
    ('board', toString(board_id)), ('product', product_id), ('campaign', toString(campaign_id))]) AS place
WHERE rollup_version >= {version}
GROUP BY site_id, object, object_id, day, action;

CREATE MATERIALIZED VIEW IF NOT EXISTS engagement_day_from_events_v{version}{on_cluster} TO engagement_day AS
SELECT
    site_id,
    if(product_id = '', 'site', 'product') AS object,
    product_id AS object_id,
    toDate(event_time, 'UTC') AS day,
    'click' AS action,
    uniqState(cityHash64(site_id, 'click', epik)) AS events,
    uniqStateIf(visitor_id, visitor_id != 0) AS visitors
FROM events
ARRAY JOIN arrayDistinct(arrayPushBack(product_ids, '')) AS product_id
WHERE rollup_version >= {version} AND is_landing AND event_name != 'consent_withdrawn'
GROUP BY site_id, object, object_id, day, action;

CREATE TABLE IF NOT EXISTS engagement_visitor{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    action Enum8('click' = 1, 'save' = 2, 'closeup' = 3, 'comment' = 4, 'like' = 5) COMMENT 'What was done to the Pin',
    object Enum8('site' = 0, 'pin' = 1, 'board' = 2, 'product' = 3, 'campaign' = 4)
        COMMENT 'What the action was on; never site, see visitor_profile for that',
    object_id String COMMENT 'Its id' CODEC(ZSTD(1)),
    visitor_id UInt64 COMMENT 'Visitor; never 0' CODEC(ZSTD(1)),
    last_at SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest time'
)
ENGINE = {engine AggregatingMergeTree()}
ORDER BY (site_id, action, object, object_id, visitor_id)
TTL last_at + INTERVAL 541 DAY
SETTINGS {window}, {fsync}
COMMENT 'Who did what to which pin, board, product or campaign, and when last';

CREATE MATERIALIZED VIEW IF NOT EXISTS engagement_visitor_from_engagements_v{version}{on_cluster} TO engagement_visitor AS
SELECT
    site_id,
    action,
    place.1 AS object,
    place.2 AS object_id,
    visitor_id,
    max(toDateTime(event_time, 'UTC')) AS last_at
FROM engagements
ARRAY JOIN arrayFilter(pair -> pair.2 NOT IN ('', '0'), [('pin', toString(pin_id)),
    ('board', toString(board_id)), ('product', product_id), ('campaign', toString(campaign_id))]) AS place
WHERE rollup_version >= {version} AND visitor_id != 0
GROUP BY site_id, action, object, object_id, visitor_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS engagement_visitor_from_events_v{version}{on_cluster} TO engagement_visitor AS
SELECT
    site_id,
    'click' AS action,
    'product' AS object,
    product_id AS object_id,
    visitor_id,
    max(toDateTime(event_time, 'UTC')) AS last_at
FROM events
ARRAY JOIN arrayFilter(id -> id != '', product_ids) AS product_id
WHERE rollup_version >= {version} AND is_landing AND visitor_id != 0 AND event_name != 'consent_withdrawn'
GROUP BY site_id, action, object, object_id, visitor_id;

CREATE TABLE IF NOT EXISTS product_day{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    day Date COMMENT 'Day on which it happened, UTC' CODEC(DoubleDelta, ZSTD(1)),
    action Enum8('click' = 1, 'save' = 2, 'closeup' = 3, 'comment' = 4, 'like' = 5, 'view' = 6, 'cart' = 7, 'order' = 8)
        COMMENT 'What was done to its Pin, or to itself in the shop',
    product_id String COMMENT 'Product' CODEC(ZSTD(1)),
    events AggregateFunction(uniq, UInt64) COMMENT 'Events; read with uniqMerge',
    visitors AggregateFunction(uniq, UInt64) COMMENT 'Known visitors; read with uniqMerge'
)
ENGINE = {engine AggregatingMergeTree()}
PARTITION BY toYYYYMM(day)
ORDER BY (site_id, day, action, product_id)
TTL day + INTERVAL 190 DAY
SETTINGS {window}, {fsync}, ttl_only_drop_parts = 1
COMMENT 'Interest in products by the day, on Pinterest and in the shop';

CREATE MATERIALIZED VIEW IF NOT EXISTS product_day_from_events_v{version}{on_cluster} TO product_day AS
SELECT
    site_id,
    toDate(event_time, 'UTC') AS day,
    done.1 AS action,
    done.2 AS product_id,
    uniqState(if(done.1 = 'click', cityHash64(site_id, 'click', epik), event_key)) AS events,
    uniqStateIf(visitor_id, visitor_id != 0) AS visitors
FROM events
ARRAY JOIN arrayFilter(pair -> pair.1 != '' AND pair.2 != '', arrayConcat(
    arrayMap(id -> (multiIf(event_name IN ('page_visit', 'view_content'), 'view', event_name = 'add_to_cart', 'cart',
        event_name = 'checkout', 'order', ''), id), product_ids),
    if(is_landing, arrayMap(id -> ('click', id), product_ids), []))) AS done
WHERE rollup_version >= {version} AND notEmpty(product_ids)
GROUP BY site_id, day, action, product_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS product_day_from_engagements_v{version}{on_cluster} TO product_day AS
SELECT
    site_id,
    toDate(event_time, 'UTC') AS day,
    action,
    product_id,
    uniqState(if(action = 'click' AND epik != '', cityHash64(site_id, 'click', epik), event_key)) AS events,
    uniqStateIf(visitor_id, visitor_id != 0) AS visitors
FROM engagements
WHERE rollup_version >= {version} AND product_id != ''
GROUP BY site_id, day, action, product_id;

-- Popular on Pinterest. Made anew every hour; each server makes its own, so these are never replicated.

CREATE TABLE IF NOT EXISTS product_popularity{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    rank UInt32 COMMENT 'Place among the shop''s products, from 1',
    of UInt32 COMMENT 'How many products have a place',
    product_id String COMMENT 'Product' CODEC(ZSTD(1)),
    savers UInt64 COMMENT 'Visitors who saved its Pin in 28 days; at least 5, or it has no place',
    clickers UInt64 COMMENT 'Visitors who came from its Pin in 28 days',
    buyers UInt64 COMMENT 'Visitors who ordered it in 28 days',
    score UInt64 COMMENT '3 x savers + clickers + 5 x buyers',
    refreshed_at DateTime('UTC') COMMENT 'When this was made'
)
ENGINE = MergeTree
ORDER BY (site_id, rank)
SETTINGS {window}
COMMENT 'Products that are popular on Pinterest, made anew every hour';

CREATE MATERIALIZED VIEW IF NOT EXISTS product_popularity_v1{on_cluster} REFRESH EVERY 1 HOUR TO product_popularity AS
SELECT
    site_id,
    toUInt32(row_number() OVER (PARTITION BY site_id ORDER BY score DESC, product_id)) AS rank,
    toUInt32(count() OVER (PARTITION BY site_id)) AS of,
    product_id,
    uniqMergeIf(visitors, action = 'save') AS savers,
    uniqMergeIf(visitors, action = 'click') AS clickers,
    uniqMergeIf(visitors, action = 'order') AS buyers,
    3 * savers + clickers + 5 * buyers AS score,
    now('UTC') AS refreshed_at
FROM product_day
WHERE day > toDate(now('UTC')) - 28 AND action IN ('save', 'click', 'order')
GROUP BY site_id, product_id
HAVING savers >= 5;

CREATE TABLE IF NOT EXISTS pin_popularity{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    rank UInt32 COMMENT 'Place among the shop''s Pins, from 1',
    of UInt32 COMMENT 'How many Pins have a place',
    pin_id UInt64 COMMENT 'Pin',
    savers UInt64 COMMENT 'Visitors who saved it in 28 days; at least 5, or it has no place',
    clickers UInt64 COMMENT 'Visitors who clicked it in 28 days',
    score UInt64 COMMENT '3 x savers + clickers',
    refreshed_at DateTime('UTC') COMMENT 'When this was made'
)
ENGINE = MergeTree
ORDER BY (site_id, rank)
SETTINGS {window}
COMMENT 'Pins that are popular, made anew every hour';

CREATE MATERIALIZED VIEW IF NOT EXISTS pin_popularity_v1{on_cluster} REFRESH EVERY 1 HOUR TO pin_popularity AS
SELECT
    site_id,
    toUInt32(row_number() OVER (PARTITION BY site_id ORDER BY score DESC, pin_id)) AS rank,
    toUInt32(count() OVER (PARTITION BY site_id)) AS of,
    toUInt64(object_id) AS pin_id,
    uniqMergeIf(visitors, action = 'save') AS savers,
    uniqMergeIf(visitors, action = 'click') AS clickers,
    3 * savers + clickers AS score,
    now('UTC') AS refreshed_at
FROM engagement_day
WHERE object = 'pin' AND day > toDate(now('UTC')) - 28 AND action IN ('save', 'click')
GROUP BY site_id, object_id
HAVING savers >= 5;
