-- What is known of each visitor, kept up to date by views. Everything an audience reads is idempotent: the same
-- event counted twice changes nothing. Each view takes only the records of its own rollup_version, so that a
-- new view can take over at an exact offset.

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
    last_engage SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest action on a Pin; 1970 = never',
    last_save SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest save of a Pin; 1970 = never',
    last_click SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest click on a Pin; 1970 = never',
    em SimpleAggregateFunction(max, Tuple(DateTime64(3, 'UTC'), FixedString(32)))
        COMMENT 'Latest e-mail hash: (when, SHA-256); zeros = none',
    epik SimpleAggregateFunction(max, Tuple(DateTime64(3, 'UTC'), String))
        COMMENT 'Latest click id of Pinterest: (when, id); empty = none',
    consent SimpleAggregateFunction(max, Tuple(DateTime64(3, 'UTC'), UInt8))
        COMMENT 'Latest word on consent: (when, 0 unknown, 1 yes, 2 no)',
    orders SimpleAggregateFunction(maxMap, Map(UInt64, Decimal(18, 4)))
        COMMENT 'Hash of the order id (of the event where it has none) -> value',
    bought SimpleAggregateFunction(groupUniqArrayArray(500), Array(UInt64))
        COMMENT 'Hashes of bought product ids; 500 = full, there may be more'
)
ENGINE = {engine AggregatingMergeTree()}
ORDER BY (site_id, visitor_id)
SETTINGS {window}, {fsync}
COMMENT 'One row a visitor; read with FINAL';

CREATE MATERIALIZED VIEW IF NOT EXISTS visitor_profile_from_events_v1{on_cluster} TO visitor_profile AS
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
    max(if(seen AND em_sha256 != toFixedString('', 32), (event_time, em_sha256),
        (toDateTime64(0, 3, 'UTC'), toFixedString('', 32)))) AS em,
    max(if(seen AND epik != '', (event_time, epik), (toDateTime64(0, 3, 'UTC'), ''))) AS epik,
    -- an event that was kept back and comes after a withdrawal must not overrule it: a yes is as old as its event
    max(if(word > 0, (if(word = 1, least(event_time, received_at), received_at), toUInt8(word)),
        (toDateTime64(0, 3, 'UTC'), toUInt8(0)))) AS consent,
    maxMap(if(ordered, map(if(order_id != '', cityHash64(order_id), event_key), value),
        CAST(map(), 'Map(UInt64, Decimal(18, 4))'))) AS orders,
    groupUniqArrayArray(500)(if(ordered, arrayMap(id -> cityHash64(id), arrayFilter(id -> id != '', product_ids)), []))
        AS bought
FROM events
WHERE rollup_version = 1 AND visitor_id != 0
GROUP BY site_id, visitor_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS visitor_profile_from_engagements_v1{on_cluster} TO visitor_profile AS
WITH toDateTime(event_time, 'UTC') AS at
SELECT
    site_id,
    visitor_id,
    toDateTime(4294967295, 'UTC') AS first_seen,
    toDateTime(4294967295, 'UTC') AS first_order,
    max(at) AS last_engage,
    maxIf(at, action = 'save') AS last_save,
    maxIf(at, action = 'click') AS last_click,
    max(if(em_sha256 != toFixedString('', 32), (event_time, em_sha256),
        (toDateTime64(0, 3, 'UTC'), toFixedString('', 32)))) AS em,
    max(if(epik != '', (event_time, epik), (toDateTime64(0, 3, 'UTC'), ''))) AS epik
FROM engagements
WHERE rollup_version = 1 AND visitor_id != 0
GROUP BY site_id, visitor_id;

CREATE TABLE IF NOT EXISTS identity{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    id_type Enum8('em' = 1, 'epik' = 2, 'external_id' = 3) COMMENT 'Kind of identifier',
    id_value String COMMENT 'em and external_id: the 32 bytes of the SHA-256; epik: as it came' CODEC(ZSTD(1)),
    visitor_id UInt64 COMMENT 'Visitor seen with it; never 0' CODEC(ZSTD(1)),
    first_seen SimpleAggregateFunction(min, DateTime('UTC')) COMMENT 'First time the two were seen together',
    last_seen SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'Latest time the two were seen together'
)
ENGINE = {engine AggregatingMergeTree()}
ORDER BY (site_id, id_type, id_value, visitor_id)
SETTINGS {window}, {fsync}
COMMENT 'Which identifiers were seen with which visitor';

-- A withdrawal counts too: where it names no visitor, its hashes are the only way to the person it is about.
CREATE MATERIALIZED VIEW IF NOT EXISTS identity_from_events_v1{on_cluster} TO identity AS
SELECT
    site_id,
    CAST(id.1, 'Enum8(\'em\' = 1, \'epik\' = 2, \'external_id\' = 3)') AS id_type,
    id.2 AS id_value,
    visitor_id,
    min(toDateTime(event_time, 'UTC')) AS first_seen,
    max(toDateTime(event_time, 'UTC')) AS last_seen
FROM events
ARRAY JOIN arrayFilter(pair -> pair.2 != '', [
    (1, if(em_sha256 = toFixedString('', 32), '', substring(em_sha256, 1, 32))),
    (2, epik),
    (3, if(external_id_sha256 = toFixedString('', 32), '', substring(external_id_sha256, 1, 32)))]) AS id
WHERE rollup_version = 1 AND visitor_id != 0
GROUP BY site_id, id_type, id_value, visitor_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS identity_from_engagements_v1{on_cluster} TO identity AS
SELECT
    site_id,
    CAST(id.1, 'Enum8(\'em\' = 1, \'epik\' = 2, \'external_id\' = 3)') AS id_type,
    id.2 AS id_value,
    visitor_id,
    min(toDateTime(event_time, 'UTC')) AS first_seen,
    max(toDateTime(event_time, 'UTC')) AS last_seen
FROM engagements
ARRAY JOIN arrayFilter(pair -> pair.2 != '', [
    (1, if(em_sha256 = toFixedString('', 32), '', substring(em_sha256, 1, 32))),
    (2, epik),
    (3, if(external_id_sha256 = toFixedString('', 32), '', substring(external_id_sha256, 1, 32)))]) AS id
WHERE rollup_version = 1 AND visitor_id != 0
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

CREATE MATERIALIZED VIEW IF NOT EXISTS event_minute_from_events_v1{on_cluster} TO event_minute AS
SELECT
    site_id,
    toStartOfMinute(toDateTime(received_at, 'UTC')) AS minute,
    event_name,
    source,
    count() AS n,
    uniqState(event_key) AS uniq_events
FROM events
WHERE rollup_version = 1
GROUP BY site_id, minute, event_name, source;
