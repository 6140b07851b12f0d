-- What is known of each visitor, kept up to date by views. Everything an audience reads is idempotent: the same
-- event counted twice changes nothing. A view takes the records of its own rollup_version and of later ones, so that
-- a new view begins at an exact offset of every partition (docs/decisions/0010).

CREATE TABLE IF NOT EXISTS visitor_profile{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    visitor_id UInt64 COMMENT 'Visitor; never 0',
    first_seen SimpleAggregateFunction(min, DateTime('UTC')) DEFAULT toDateTime(4294967295, 'UTC')
        COMMENT 'First event; 2106 = never',
    first_order SimpleAggregateFunction(min, DateTime('UTC')) DEFAULT toDateTime(4294967295, 'UTC')
        COMMENT 'First checkout; 2106 = never',
    last_seen SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest event; 1970 = never',
    last_view SimpleAggregateFunction(max, DateTime('UTC'))
        COMMENT 'Latest page_visit, view_content or view_category; 1970 = never',
    last_cart SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest add_to_cart; 1970 = never',
    last_checkout_started SimpleAggregateFunction(max, DateTime('UTC'))
        COMMENT 'Latest initiate_checkout; 1970 = never',
    last_order SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest checkout; 1970 = never',
    last_view_category SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest view_category; 1970 = never',
    last_search SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest search; 1970 = never',
    last_signup SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest signup; 1970 = never',
    last_lead SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest lead; 1970 = never',
    last_engage SimpleAggregateFunction(max, DateTime('UTC'))
        COMMENT 'Latest action on a Pin, landings included; 1970 = never',
    last_click SimpleAggregateFunction(max, DateTime('UTC'))
        COMMENT 'Latest click on a Pin, landings included; 1970 = never',
    last_save SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest save of a Pin; 1970 = never',
    last_closeup SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest closeup of a Pin; 1970 = never',
    last_comment SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest comment on a Pin; 1970 = never',
    last_like SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest like of a Pin; 1970 = never',
    last_epik_landing SimpleAggregateFunction(max, DateTime('UTC'))
        COMMENT 'Latest page whose address brought a click id; 1970 = never',
    em SimpleAggregateFunction(max, Tuple(DateTime64(3, 'UTC'), FixedString(32)))
        COMMENT 'Latest e-mail hash: (when, SHA-256); zeros = none',
    epik SimpleAggregateFunction(max, Tuple(DateTime64(3, 'UTC'), String))
        COMMENT 'Latest click id of Pinterest: (when, id); empty = none',
    consent SimpleAggregateFunction(max, UInt64)
        COMMENT 'Latest word on consent: milliseconds since 1970 x 4 + word (0 unknown, 1 yes, 2 no); bitAnd(consent, 3)',
    orders SimpleAggregateFunction(groupUniqArrayArray(2000),
        Array(Tuple(event UInt64, number UInt64, at UInt32, value Decimal(18, 4), currency String)))
        COMMENT 'Each telling of an order: event key, hash of the order id (0 = not said), seconds since 1970, money; 2000 = full, there may be more',
    bought SimpleAggregateFunction(groupUniqArrayArray(500), Array(UInt64))
        COMMENT 'Hashes of bought product ids; 500 = full, there may be more',
    bought_categories SimpleAggregateFunction(groupUniqArrayArray(500), Array(UInt64))
        COMMENT 'Hashes of bought product categories, as sent; 500 = full, there may be more'
)
ENGINE = {engine AggregatingMergeTree()}
ORDER BY (site_id, visitor_id)
SETTINGS {window}, {fsync}
COMMENT 'One row a visitor; read with FINAL';

CREATE MATERIALIZED VIEW IF NOT EXISTS visitor_profile_from_events_v{version}{on_cluster} TO visitor_profile AS
WITH
    toDateTime(event_time, 'UTC') AS at,
    event_name != 'consent_withdrawn' AS seen,
    event_name = 'checkout' AS ordered,
    toDateTime(4294967295, 'UTC') AS never,
    multiIf(event_name = 'consent_withdrawn', 2, consent = 'no', 2, consent = 'yes', 1, 0) AS word
SELECT
    site_id,
    visitor_id,
    min(if(seen, at, never)) AS first_seen,
    min(if(ordered, at, never)) AS first_order,
    maxIf(at, seen) AS last_seen,
    maxIf(at, event_name IN ('page_visit', 'view_content', 'view_category')) AS last_view,
    maxIf(at, event_name = 'add_to_cart') AS last_cart,
    maxIf(at, event_name = 'initiate_checkout') AS last_checkout_started,
    maxIf(at, ordered) AS last_order,
    maxIf(at, event_name = 'view_category') AS last_view_category,
    maxIf(at, event_name = 'search') AS last_search,
    maxIf(at, event_name = 'signup') AS last_signup,
    maxIf(at, event_name = 'lead') AS last_lead,
    maxIf(at, is_landing AND seen) AS last_engage,
    maxIf(at, is_landing AND seen) AS last_click,
    maxIf(at, is_landing AND seen) AS last_epik_landing,
    max(if(seen AND em_sha256 != toFixedString('', 32), (event_time, em_sha256),
        (toDateTime64(0, 3, 'UTC'), toFixedString('', 32)))) AS em,
    max(if(seen AND epik != '', (event_time, epik), (toDateTime64(0, 3, 'UTC'), ''))) AS epik,
    -- an event that was kept back and comes after a withdrawal must not overrule it: a yes is as old as its event, and
    -- so is all that history says, whose no must not overrule the yes that came after it
    -- one number, because a tuple of the two takes ten times as long to merge
    max(if(word = 0, 0,
        4 * toUnixTimestamp64Milli(if(word = 1 OR source = 'import', least(event_time, received_at), received_at)) + word)) AS consent,
    groupUniqArrayIf(2000)(CAST((event_key, if(order_id != '', cityHash64(order_id), 0), toUnixTimestamp(at), value,
        currency), 'Tuple(event UInt64, number UInt64, at UInt32, value Decimal(18, 4), currency String)'), ordered)
        AS orders,
    groupUniqArrayArrayIf(500)(arrayMap(id -> cityHash64(id), arrayFilter(id -> id != '', product_ids)), ordered)
        AS bought,
    groupUniqArrayArrayIf(500)(
        arrayMap(name -> cityHash64(name), arrayFilter(name -> name != '', line_items.product_category)), ordered)
        AS bought_categories
FROM events
WHERE rollup_version >= {version} AND visitor_id != 0
GROUP BY site_id, visitor_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS visitor_profile_from_engagements_v{version}{on_cluster} TO visitor_profile AS
WITH toDateTime(event_time, 'UTC') AS at
SELECT
    site_id,
    visitor_id,
    toDateTime(4294967295, 'UTC') AS first_seen,
    toDateTime(4294967295, 'UTC') AS first_order,
    max(at) AS last_engage,
    maxIf(at, action = 'click') AS last_click,
    maxIf(at, action = 'save') AS last_save,
    maxIf(at, action = 'closeup') AS last_closeup,
    maxIf(at, action = 'comment') AS last_comment,
    maxIf(at, action = 'like') AS last_like,
    max(if(em_sha256 != toFixedString('', 32), (event_time, em_sha256),
        (toDateTime64(0, 3, 'UTC'), toFixedString('', 32)))) AS em,
    max(if(epik != '', (event_time, epik), (toDateTime64(0, 3, 'UTC'), ''))) AS epik
FROM engagements
WHERE rollup_version >= {version} AND visitor_id != 0
GROUP BY site_id, visitor_id;

CREATE TABLE IF NOT EXISTS cancelled_order{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    order_key UInt64 COMMENT 'Hash of the order id, as number in visitor_profile.orders' CODEC(ZSTD(1)),
    last_at SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'When it was cancelled or refunded'
)
ENGINE = {engine AggregatingMergeTree()}
ORDER BY (site_id, order_key)
SETTINGS {window}, {fsync}
COMMENT 'Orders that were cancelled or refunded, as the shop''s server says or an import; they never count';

CREATE MATERIALIZED VIEW IF NOT EXISTS cancelled_order_from_events_v{version}{on_cluster} TO cancelled_order AS
SELECT
    site_id,
    cityHash64(order_id) AS order_key,
    max(toDateTime(event_time, 'UTC')) AS last_at
FROM events
WHERE rollup_version >= {version} AND event_name IN ('order_cancelled', 'order_refunded') AND order_id != ''
    AND source IN ('api', 'import') -- numbers of orders can be guessed, and a browser can say anything
GROUP BY site_id, order_key;

CREATE TABLE IF NOT EXISTS visitor_day{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    event_name LowCardinality(String) COMMENT 'What happened',
    day Date COMMENT 'Day on which it happened, UTC' CODEC(DoubleDelta, ZSTD(1)),
    visitor_id UInt64 COMMENT 'Visitor; never 0' CODEC(ZSTD(1)),
    keys SimpleAggregateFunction(groupUniqArrayArray(64), Array(UInt32))
        COMMENT 'Low halves of the event keys: how often is their number; 64 = full, there may be more' CODEC(ZSTD(1)),
    last_at SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest time of that day' CODEC(ZSTD(1))
)
ENGINE = {engine AggregatingMergeTree()}
PARTITION BY toYYYYMM(day)
ORDER BY (site_id, event_name, day, visitor_id)
TTL day + INTERVAL 190 DAY
SETTINGS {window}, {fsync}, ttl_only_drop_parts = 1
COMMENT 'How often a visitor did what on a day; read with FINAL';

CREATE MATERIALIZED VIEW IF NOT EXISTS visitor_day_from_events_v{version}{on_cluster} TO visitor_day AS
SELECT
    site_id,
    event_name,
    toDate(event_time, 'UTC') AS day,
    visitor_id,
    groupUniqArray(64)(toUInt32(bitAnd(event_key, 4294967295))) AS keys,
    max(toDateTime(event_time, 'UTC')) AS last_at
FROM events
WHERE rollup_version >= {version} AND visitor_id != 0 AND event_name != 'consent_withdrawn'
GROUP BY site_id, event_name, day, visitor_id;

CREATE TABLE IF NOT EXISTS identity{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    id_type Enum8('em' = 1, 'epik' = 2, 'external_id' = 3, 'ph' = 5) COMMENT 'Kind of identifier',
    id_value String COMMENT 'em, external_id and ph: the 32 bytes of the SHA-256; epik: as it came' CODEC(ZSTD(1)),
    visitor_id UInt64 COMMENT 'Visitor seen with it; never 0' CODEC(ZSTD(1)),
    first_seen SimpleAggregateFunction(min, DateTime('UTC')) COMMENT 'First time the two were seen together',
    last_seen SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest time the two were seen together'
)
ENGINE = {engine AggregatingMergeTree()}
ORDER BY (site_id, id_type, id_value, visitor_id)
SETTINGS {window}, {fsync}
COMMENT 'Which identifiers were seen with which visitor';

-- A withdrawal counts too: where it names no visitor, its hashes are the only way to the person it is about.
CREATE MATERIALIZED VIEW IF NOT EXISTS identity_from_events_v{version}{on_cluster} TO identity AS
SELECT
    site_id,
    CAST(id.1, 'Enum8(\'em\' = 1, \'epik\' = 2, \'external_id\' = 3, \'ph\' = 5)') AS id_type,
    id.2 AS id_value,
    visitor_id,
    min(toDateTime(event_time, 'UTC')) AS first_seen,
    max(toDateTime(event_time, 'UTC')) AS last_seen
FROM events
ARRAY JOIN arrayFilter(pair -> pair.2 != '', [
    (1, if(em_sha256 = toFixedString('', 32), '', substring(em_sha256, 1, 32))),
    (2, epik),
    (3, if(external_id_sha256 = toFixedString('', 32), '', substring(external_id_sha256, 1, 32))),
    (5, if(ph_sha256 = toFixedString('', 32), '', substring(ph_sha256, 1, 32)))]) AS id
WHERE rollup_version >= {version} AND visitor_id != 0
GROUP BY site_id, id_type, id_value, visitor_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS identity_from_engagements_v{version}{on_cluster} TO identity AS
SELECT
    site_id,
    CAST(id.1, 'Enum8(\'em\' = 1, \'epik\' = 2, \'external_id\' = 3, \'ph\' = 5)') AS id_type,
    id.2 AS id_value,
    visitor_id,
    min(toDateTime(event_time, 'UTC')) AS first_seen,
    max(toDateTime(event_time, 'UTC')) AS last_seen
FROM engagements
ARRAY JOIN arrayFilter(pair -> pair.2 != '', [
    (1, if(em_sha256 = toFixedString('', 32), '', substring(em_sha256, 1, 32))),
    (2, epik),
    (3, if(external_id_sha256 = toFixedString('', 32), '', substring(external_id_sha256, 1, 32)))]) AS id
WHERE rollup_version >= {version} AND visitor_id != 0
GROUP BY site_id, id_type, id_value, visitor_id;

CREATE TABLE IF NOT EXISTS event_minute{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    minute DateTime('UTC') COMMENT 'Minute in which the records were received' CODEC(DoubleDelta, ZSTD(1)),
    event_name LowCardinality(String) COMMENT 'What happened',
    source Enum8('tag' = 0, 'api' = 1, 'pinterest' = 2, 'import' = 3) COMMENT 'Where the events came from',
    n SimpleAggregateFunction(sum, UInt64) COMMENT 'Records; an event sent twice counts twice',
    uniq_events AggregateFunction(uniq, UInt64) COMMENT 'Events; read with uniqMerge'
)
ENGINE = {engine AggregatingMergeTree()}
PARTITION BY toYYYYMM(minute)
ORDER BY (site_id, minute, event_name, source)
TTL minute + INTERVAL 30 DAY
SETTINGS {window}, {fsync}, ttl_only_drop_parts = 1
COMMENT 'Traffic by the minute, for operators';

CREATE MATERIALIZED VIEW IF NOT EXISTS event_minute_from_events_v{version}{on_cluster} TO event_minute AS
SELECT
    site_id,
    toStartOfMinute(toDateTime(received_at, 'UTC')) AS minute,
    event_name,
    source,
    count() AS n,
    uniqState(event_key) AS uniq_events
FROM events
WHERE rollup_version >= {version}
GROUP BY site_id, minute, event_name, source;
