-- Who is in which audience at Pinterest, who should be, and who must never be again.

CREATE TABLE IF NOT EXISTS audience_member{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    audience_id UInt32 COMMENT 'Audience',
    em_hex String EPHEMERAL '' COMMENT 'Insert column, hex; stored as em',
    em FixedString(32) DEFAULT unhex(em_hex) COMMENT 'SHA-256 of the e-mail address' CODEC(ZSTD(1)),
    state UInt8 COMMENT '1 = member, 0 = removed',
    op_at DateTime64(3, 'UTC') COMMENT 'When Pinterest acknowledged the operation' CODEC(DoubleDelta, ZSTD(1)),
    sync_id UInt64 COMMENT 'Sync that sent it' CODEC(ZSTD(1)),
    chunk_id String COMMENT 'Key of the chunk that held it' CODEC(ZSTD(1))
)
ENGINE = {engine ReplacingMergeTree(op_at)}
ORDER BY (site_id, audience_id, em)
SETTINGS {window}, {fsync}
COMMENT 'Acknowledged operations; members are FINAL with state = 1. No TTL on state: it would bring removed people back';

CREATE TABLE IF NOT EXISTS audience_desired{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    audience_id UInt32 COMMENT 'Audience',
    run_id UInt64 COMMENT 'Sync that evaluated the rule',
    em FixedString(32) COMMENT 'SHA-256 of the e-mail address' CODEC(ZSTD(1)),
    full_set UInt8 COMMENT '1 = a set that the rule asks about is full, and may lack some'
)
ENGINE = {engine ReplacingMergeTree()}
PARTITION BY (audience_id, run_id)
ORDER BY (site_id, em)
SETTINGS {window}
COMMENT 'Who should be a member, a snapshot a sync, read with FINAL; its partition is dropped when the sync ends';

CREATE TABLE IF NOT EXISTS audience_run{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    audience_id UInt32 COMMENT 'Audience',
    run_id UInt64 COMMENT 'Sync',
    audience String COMMENT 'Name of the audience, as it was then' CODEC(ZSTD(1)),
    connection_id UInt32 COMMENT 'Connection that was synced',
    status LowCardinality(String) COMMENT 'running, done, held, failed or interrupted',
    started_at DateTime64(3, 'UTC') COMMENT 'When it began',
    updated_at DateTime64(3, 'UTC') COMMENT 'When this row was written; the latest counts',
    desired UInt64 COMMENT 'People the rule wants in',
    members UInt64 COMMENT 'People in before the sync',
    adds UInt64 COMMENT 'People to add',
    removes UInt64 COMMENT 'People to remove',
    held UInt64 COMMENT 'Removals that wait for confirmation',
    entered UInt64 COMMENT 'People that Pinterest took since the sync before that went through',
    left UInt64 COMMENT 'People that Pinterest let go in that time',
    fingerprint_members UInt64 COMMENT 'People in after the sync',
    fingerprint UInt64 COMMENT 'groupBitXor(sipHash64(em)) over them',
    error String COMMENT 'What went wrong; empty = nothing' CODEC(ZSTD(1))
)
ENGINE = {engine ReplacingMergeTree(updated_at)}
ORDER BY (site_id, audience_id, run_id)
SETTINGS {window}
COMMENT 'Syncs, a copy for analysts; the state database holds the truth';

CREATE TABLE IF NOT EXISTS erased{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    id_type Enum8('em' = 1, 'epik' = 2, 'external_id' = 3, 'visitor' = 4, 'ph' = 5, 'hash' = 6) COMMENT 'Kind of identifier; hash = em, external_id or ph',
    id_hex String EPHEMERAL '' COMMENT 'Insert column, hex; stored as id_value',
    id_value String DEFAULT unhex(id_hex) COMMENT 'Hashes: 32 bytes of SHA-256; visitor: the number as text; epik: as it came',
    erased_at DateTime64(3, 'UTC') COMMENT 'When the person asked'
)
ENGINE = {engine ReplacingMergeTree(erased_at)}
ORDER BY (site_id, id_type, id_value)
SETTINGS {window}, {fsync}
COMMENT 'People who asked to be erased; every audience leaves them out';

CREATE TABLE IF NOT EXISTS list_member{on_cluster}
(
    site_id UInt32 COMMENT 'Shop',
    list_id UInt32 COMMENT 'List',
    id_type Enum8('em' = 1, 'external_id' = 3, 'ph' = 5) COMMENT 'Kind of identifier',
    id_hex String EPHEMERAL '' COMMENT 'Insert column, hex; stored as id_value',
    id_value FixedString(32) DEFAULT unhex(id_hex) COMMENT 'SHA-256 of the identifier' CODEC(ZSTD(1)),
    removed UInt8 DEFAULT 0 COMMENT '1 = taken off; FINAL leaves it out',
    changed_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was put on or taken off; the latest counts' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = {engine ReplacingMergeTree(changed_at, removed)}
ORDER BY (site_id, list_id, id_type, id_value)
SETTINGS {window}, {fsync}
COMMENT 'Who is on which list that the shop gave us: customers, VIPs, newsletter; hashed before it got here';
