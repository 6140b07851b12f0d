-- The log's records, one table a topic. A record's own JSON is inserted unchanged: every key of it is an insert
-- column (docs/decisions/0002). Where a column is stored under another name or type, the key is EPHEMERAL.

CREATE TABLE IF NOT EXISTS events{on_cluster}
(
    k_partition UInt16 COMMENT 'Partition of the log that the record came from' CODEC(ZSTD(1)),
    k_offset UInt64 COMMENT 'Offset of the record in that partition' CODEC(DoubleDelta, ZSTD(1)),
    rollup_version UInt16 COMMENT 'Views of this version and older ones have counted this record',

    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    event String EPHEMERAL '' COMMENT 'Key of the record; stored as event_name',
    event_name LowCardinality(String) DEFAULT event COMMENT 'What happened: a Conversions API name, or a custom one',
    event_id String COMMENT 'Names the event; the same event sent twice has the same id' CODEC(ZSTD(1)),
    event_key UInt64 MATERIALIZED cityHash64(site_id, event_name, event_id)
        COMMENT 'Hash of site, name and id: count events with uniq(event_key)',
    time Int64 EPHEMERAL 0 COMMENT 'Key of the record; stored as event_time',
    event_time DateTime64(3, 'UTC') DEFAULT fromUnixTimestamp64Milli(time, 'UTC')
        COMMENT 'When it happened, corrected and clamped' CODEC(DoubleDelta, ZSTD(1)),
    received_ms Int64 EPHEMERAL 0 COMMENT 'Key of the record; stored as received_at',
    received_at DateTime64(3, 'UTC') DEFAULT fromUnixTimestamp64Milli(received_ms, 'UTC')
        COMMENT 'When collect received it' CODEC(DoubleDelta, ZSTD(1)),
    skew_ms Int64 COMMENT 'Clock of the client minus ours, milliseconds' CODEC(ZSTD(1)),
    time_clamped Bool COMMENT 'event_time was outside the accepted range and was moved to its edge',

    source Enum8('tag' = 0, 'api' = 1, 'pinterest' = 2, 'import' = 3) COMMENT 'Where the event came from',
    consent Enum8('unknown' = 0, 'yes' = 1, 'no' = 2) COMMENT 'Consent in force when the event was sent',
    visitor_id UInt64 COMMENT 'Hash of site and best identity; 0 = nobody known' CODEC(ZSTD(1)),
    em String EPHEMERAL '' COMMENT 'Key of the record, hex; stored as em_sha256',
    em_sha256 FixedString(32) DEFAULT unhex(em) COMMENT 'SHA-256 of the e-mail address; zeros = none' CODEC(ZSTD(1)),
    ph String EPHEMERAL '' COMMENT 'Key of the record, hex; stored as ph_sha256',
    ph_sha256 FixedString(32) DEFAULT unhex(ph) COMMENT 'SHA-256 of the phone number; zeros = none' CODEC(ZSTD(1)),
    external_id String EPHEMERAL '' COMMENT 'Key of the record, hex; stored as external_id_sha256',
    external_id_sha256 FixedString(32) DEFAULT unhex(external_id)
        COMMENT 'SHA-256 of the id the shop gave this customer; zeros = none' CODEC(ZSTD(1)),
    match_keys Map(LowCardinality(String), String)
        COMMENT 'Further SHA-256 match keys of the Conversions API, hex' CODEC(ZSTD(1)),
    epik String COMMENT 'Click id of Pinterest' CODEC(ZSTD(1)),

    url String COMMENT 'Page, with personal data removed' CODEC(ZSTD(3)),
    is_landing Bool MATERIALIZED epik != '' AND multiSearchAny(url, ['?epik=', '&epik=', '#epik='])
        COMMENT 'The page''s address brought a click id of Pinterest: counts as a click on a Pin',
    referrer String COMMENT 'Page before, with personal data removed' CODEC(ZSTD(3)),
    value Decimal(18, 4) COMMENT 'Total, in the main unit of currency' CODEC(ZSTD(1)),
    currency LowCardinality(String) COMMENT 'ISO 4217 code; empty = not said',
    order_id String COMMENT 'Number of the order' CODEC(ZSTD(1)),
    order_quantity UInt16 COMMENT 'Pieces in the order' CODEC(ZSTD(1)),
    search_query String COMMENT 'What was searched for' CODEC(ZSTD(3)),
    line_items Array(Tuple(
        product_id String,
        product_name String,
        product_category String,
        product_brand String,
        product_variant String,
        product_variant_id String,
        product_price Decimal(18, 4),
        product_quantity UInt16)) COMMENT 'Products of the order or the page' CODEC(ZSTD(3)),
    product_ids Array(String) MATERIALIZED line_items.product_id COMMENT 'Ids of the products' CODEC(ZSTD(1)),
    props String DEFAULT '{}' COMMENT 'Everything else, a JSON object as text' CODEC(ZSTD(3)),

    ip_prefix String COMMENT 'Network of the sender, /24 or /48; the address is never stored' CODEC(ZSTD(1)),
    user_agent LowCardinality(String) COMMENT 'User agent of the browser',
    language LowCardinality(String) COMMENT 'Language of the browser'
)
ENGINE = {engine ReplacingMergeTree()}
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (site_id, event_name, visitor_id)
ORDER BY (site_id, event_name, visitor_id, event_key)
TTL toDateTime(event_time) + INTERVAL 400 DAY
SETTINGS {window}, {fsync}, ttl_only_drop_parts = 1, enable_block_number_column = 1, enable_block_offset_column = 1
COMMENT 'Events of shops, one row a record of the log; FINAL or uniq(event_key) counts each event once';

CREATE TABLE IF NOT EXISTS engagements{on_cluster}
(
    k_partition UInt16 COMMENT 'Partition of the log that the record came from' CODEC(ZSTD(1)),
    k_offset UInt64 COMMENT 'Offset of the record in that partition' CODEC(DoubleDelta, ZSTD(1)),
    rollup_version UInt16 COMMENT 'Views of this version and older ones have counted this record',

    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    action Enum8('click' = 1, 'save' = 2, 'closeup' = 3, 'comment' = 4, 'like' = 5) COMMENT 'What was done to the Pin',
    event_id String COMMENT 'Names the engagement; the same one sent twice has the same id' CODEC(ZSTD(1)),
    event_key UInt64 MATERIALIZED cityHash64(site_id, toString(action), event_id)
        COMMENT 'Hash of site, action and id: count engagements with uniq(event_key)',
    time Int64 EPHEMERAL 0 COMMENT 'Key of the record; stored as event_time',
    event_time DateTime64(3, 'UTC') DEFAULT fromUnixTimestamp64Milli(time, 'UTC')
        COMMENT 'When it happened' CODEC(DoubleDelta, ZSTD(1)),
    received_ms Int64 EPHEMERAL 0 COMMENT 'Key of the record; stored as received_at',
    received_at DateTime64(3, 'UTC') DEFAULT fromUnixTimestamp64Milli(received_ms, 'UTC')
        COMMENT 'When collect received it' CODEC(DoubleDelta, ZSTD(1)),
    time_clamped Bool COMMENT 'event_time was outside the accepted range and was moved to its edge',

    visitor_id UInt64 COMMENT 'Hash of site and best identity; 0 = nobody known' CODEC(ZSTD(1)),
    em String EPHEMERAL '' COMMENT 'Key of the record, hex; stored as em_sha256',
    em_sha256 FixedString(32) DEFAULT unhex(em) COMMENT 'SHA-256 of the e-mail address; zeros = none' CODEC(ZSTD(1)),
    external_id String EPHEMERAL '' COMMENT 'Key of the record, hex; stored as external_id_sha256',
    external_id_sha256 FixedString(32) DEFAULT unhex(external_id)
        COMMENT 'SHA-256 of the id the shop gave this customer; zeros = none' CODEC(ZSTD(1)),
    epik String COMMENT 'Click id of Pinterest' CODEC(ZSTD(1)),
    pin_id UInt64 COMMENT 'Pin' CODEC(T64, ZSTD(1)),
    board_id UInt64 COMMENT 'Board' CODEC(T64, ZSTD(1)),
    ad_id UInt64 COMMENT 'Ad; 0 = not an ad' CODEC(T64, ZSTD(1)),
    campaign_id UInt64 COMMENT 'Campaign; 0 = not an ad' CODEC(T64, ZSTD(1)),
    product_id String COMMENT 'Product shown on the Pin' CODEC(ZSTD(1))
)
ENGINE = {engine ReplacingMergeTree()}
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (site_id, action, visitor_id)
ORDER BY (site_id, action, visitor_id, event_key)
TTL toDateTime(event_time) + INTERVAL 400 DAY
SETTINGS {window}, {fsync}, ttl_only_drop_parts = 1, enable_block_number_column = 1, enable_block_offset_column = 1
COMMENT 'Actions on Pins, one row a record of the log; FINAL or uniq(event_key) counts each once';

CREATE TABLE IF NOT EXISTS rejected{on_cluster}
(
    k_partition UInt16 COMMENT 'Partition of the log that the record came from' CODEC(ZSTD(1)),
    k_offset UInt64 COMMENT 'Offset of the record in that partition' CODEC(DoubleDelta, ZSTD(1)),
    rollup_version UInt16 COMMENT 'Version of the materialized views in force',

    received_ms Int64 EPHEMERAL 0 COMMENT 'Key of the record; stored as received_at',
    received_at DateTime64(3, 'UTC') DEFAULT fromUnixTimestamp64Milli(received_ms, 'UTC')
        COMMENT 'When the refused input was received' CODEC(DoubleDelta, ZSTD(1)),
    reason LowCardinality(String) COMMENT 'Why, one of the documented reasons',
    step Enum8('collect' = 1, 'load' = 2) COMMENT 'Who refused it',
    site_id UInt32 COMMENT 'Shop; 0 = not known',
    field String COMMENT 'Path in the input, such as $.events[2].value' CODEC(ZSTD(1)),
    size_bytes UInt32 COMMENT 'Size of what was refused' CODEC(ZSTD(1)),
    payload_hash String COMMENT 'Keyed hash of what was refused, hex; the payload itself is never stored' CODEC(ZSTD(1)),
    topic LowCardinality(String) COMMENT 'For a dead letter the topic of its record, whose offset this is; else empty'
)
ENGINE = {engine MergeTree()}
PARTITION BY toYYYYMM(received_at)
ORDER BY (site_id, reason, received_at)
TTL toDateTime(received_at) + INTERVAL 90 DAY
SETTINGS {window}, {fsync}, ttl_only_drop_parts = 1
COMMENT 'That something was refused, and why; never what it was';

CREATE TABLE IF NOT EXISTS rollup_flip{on_cluster}
(
    version UInt16 COMMENT 'rollup_version of new records from now on',
    state Enum8('held' = 0, 'open' = 1) COMMENT 'held: nothing is loaded until it is open',
    next_uuid String COMMENT 'Of the table that takes the place of another meanwhile; empty = none',
    rollup String COMMENT 'Why: the rollup that is built anew; empty = a migration',
    at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When'
)
ENGINE = {engine MergeTree()}
ORDER BY (version, state)
SETTINGS {window}, {fsync}
COMMENT 'Steps of rollup_version; load takes up the newest one (docs/decisions/0010)';
