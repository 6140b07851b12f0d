-- What analysts read: a database of views only, with every type stated, so that tables may change beneath them. No
-- view shows an address of any kind, nor a hash of an identifier, other than the visitor's number: `masked` cuts hashes,
-- networks and click ids out of every text of a client's, because `collect` leaves the hash of an e-mail address in the
-- place of the address. Names of events need none: `collect` stores no such one, and filters on them prune.

CREATE DATABASE IF NOT EXISTS {analytics}{on_cluster};

CREATE VIEW IF NOT EXISTS {analytics}.events{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    event_name LowCardinality(String) COMMENT 'What happened: a Conversions API name, or a custom one',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, corrected and clamped',
    day Date COMMENT 'Day on which it happened, UTC',
    received_at DateTime64(3, 'UTC') COMMENT 'When collect received it',
    source LowCardinality(String) COMMENT 'Where the event came from: tag, api, pinterest or import',
    consent LowCardinality(String) COMMENT 'Consent in force when the event was sent: unknown, yes or no',
    event_id String COMMENT 'Names the event; the same event sent twice has the same id',
    event_key UInt64 COMMENT 'Hash of site, name and id: count events with uniq(event_key)',
    visitor_id UInt64 COMMENT 'Visitor; 0 = nobody known',
    from_pinterest Bool COMMENT 'The page''s address brought a click id of Pinterest: counts as a click on a Pin',
    url String COMMENT 'Page, with personal data, hashes and click ids removed',
    referrer String COMMENT 'Page before, with personal data, hashes and click ids removed',
    value Decimal(18, 4) COMMENT 'Total, in the main unit of currency',
    currency LowCardinality(String) COMMENT 'ISO 4217 code; empty = not said',
    order_id String COMMENT 'Number of the order',
    order_quantity UInt16 COMMENT 'Pieces in the order',
    search_query String COMMENT 'What was searched for, with personal data and hashes removed',
    product_ids Array(String) COMMENT 'Ids of the products; details are in line_items',
    props String COMMENT 'Everything else, a JSON object as text, with personal data, hashes and click ids removed',
    skew_ms Int64 COMMENT 'Clock of the client minus ours, milliseconds',
    time_clamped Bool COMMENT 'event_time was outside the accepted range and was moved to its edge',
    user_agent LowCardinality(String) COMMENT 'User agent of the browser; its versions have three parts at most',
    language LowCardinality(String) COMMENT 'Language of the browser'
)
{security}
COMMENT 'Events, one row each; an event told by tag and server about two visitors has two, so count with uniq(event_key)'
AS
SELECT
    site_id, event_name, event_time, toDate(event_time, 'UTC') AS day, received_at, toString(source) AS source,
    toString(consent) AS consent, {masked event_id} AS event_id, event_key, visitor_id, is_landing AS from_pinterest,
    {masked url} AS url, {masked referrer} AS referrer, value, currency, {masked order_id} AS order_id, order_quantity,
    {masked search_query} AS search_query, arrayMap(id -> {masked id}, e.product_ids) AS product_ids,
    {masked props} AS props, skew_ms, time_clamped,
    {masked replaceRegexpAll(e.user_agent, '(/[0-9]+[.][0-9]+[.][0-9]+)[.][0-9]+', '\\1')} AS user_agent,
    {masked language} AS language
FROM {database}.events AS e FINAL;

CREATE VIEW IF NOT EXISTS {analytics}.line_items{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    event_name LowCardinality(String) COMMENT 'What happened: a Conversions API name, or a custom one',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, corrected and clamped',
    day Date COMMENT 'Day on which it happened, UTC',
    event_key UInt64 COMMENT 'Event it belongs to, as in events',
    visitor_id UInt64 COMMENT 'Visitor; 0 = nobody known',
    order_id String COMMENT 'Number of the order',
    currency LowCardinality(String) COMMENT 'ISO 4217 code; empty = not said',
    product_id String COMMENT 'Product',
    product_name String COMMENT 'Its name',
    product_category String COMMENT 'Its category, as sent',
    product_brand String COMMENT 'Its brand',
    product_variant String COMMENT 'Name of the variant',
    product_variant_id String COMMENT 'Id of the variant',
    product_price Decimal(18, 4) COMMENT 'Price of one piece, in the main unit of currency',
    product_quantity UInt16 COMMENT 'Pieces; 0 = not said',
    amount Decimal(38, 4) COMMENT 'Price times pieces, of one piece where their number is not said'
)
{security}
COMMENT 'Products of orders, carts and pages, one row a product of an event'
AS
SELECT
    site_id, event_name, event_time, toDate(event_time, 'UTC') AS day, event_key, visitor_id,
    {masked order_id} AS order_id, currency, {masked item.product_id} AS product_id,
    {masked item.product_name} AS product_name, {masked item.product_category} AS product_category,
    {masked item.product_brand} AS product_brand, {masked item.product_variant} AS product_variant,
    {masked item.product_variant_id} AS product_variant_id, item.product_price AS product_price,
    item.product_quantity AS product_quantity,
    toDecimal128(item.product_price, 4) * greatest(item.product_quantity, 1) AS amount
FROM {database}.events FINAL
ARRAY JOIN line_items AS item;

CREATE VIEW IF NOT EXISTS {analytics}.sessions{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    visitor_id UInt64 COMMENT 'Visitor; never 0',
    day Date COMMENT 'Day of the session, UTC; filter on it to read less',
    session_id UInt64 COMMENT 'Names the session',
    started_at DateTime64(3, 'UTC') COMMENT 'Time of its first event',
    ended_at DateTime64(3, 'UTC') COMMENT 'Time of its last event',
    duration_s UInt32 COMMENT 'Seconds between the two',
    events UInt32 COMMENT 'Events in it',
    page_views UInt32 COMMENT 'Of these page_visit, view_content and view_category',
    landing_page String COMMENT 'First page, with personal data, hashes and click ids removed',
    referrer String COMMENT 'Page before, with personal data, hashes and click ids removed',
    from_pinterest Bool COMMENT 'It began with, or had, a click on a Pin',
    cart_adds UInt32 COMMENT 'Of its events add_to_cart',
    orders UInt32 COMMENT 'Orders placed in it'
)
{security}
COMMENT 'Visits: events of a visitor with less than 30 minutes between two; midnight UTC ends one too; imports are none'
AS
SELECT
    site_id, visitor_id, day, cityHash64(site_id, visitor_id, session[1].1) AS session_id,
    session[1].1 AS started_at, session[-1].1 AS ended_at, dateDiff('second', started_at, ended_at) AS duration_s,
    length(session) AS events,
    arrayCount(e -> e.3 IN ('page_visit', 'view_content', 'view_category'), session) AS page_views,
    session[1].6 AS landing_page, session[1].7 AS referrer, arrayExists(e -> e.4, session) AS from_pinterest,
    arrayCount(e -> e.3 = 'add_to_cart', session) AS cart_adds,
    arrayUniq(arrayMap(e -> e.5, arrayFilter(e -> e.3 = 'checkout', session))) AS orders
FROM
(
    SELECT
        site_id, visitor_id, toDate(event_time, 'UTC') AS day,
        arraySort(groupArray((event_time, event_key, event_name, is_landing,
            if(order_id != '', cityHash64(order_id), event_key), {masked url}, {masked referrer}))) AS seen
    FROM {database}.events FINAL
    WHERE visitor_id != 0 AND event_name != 'consent_withdrawn' AND source != 'import'
    GROUP BY site_id, visitor_id, day
)
ARRAY JOIN arraySplit((e, i) -> dateDiff('second', seen[i - 1].1, e.1) >= 1800, seen, arrayEnumerate(seen)) AS session;

CREATE VIEW IF NOT EXISTS {analytics}.visitors{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    visitor_id UInt64 COMMENT 'Visitor; never 0',
    first_seen Nullable(DateTime('UTC')) COMMENT 'First event; NULL = never',
    last_seen Nullable(DateTime('UTC')) COMMENT 'Latest event; NULL = never',
    last_view Nullable(DateTime('UTC')) COMMENT 'Latest page_visit, view_content or view_category; NULL = never',
    last_cart Nullable(DateTime('UTC')) COMMENT 'Latest add_to_cart; NULL = never',
    last_checkout_started Nullable(DateTime('UTC')) COMMENT 'Latest initiate_checkout; NULL = never',
    first_order Nullable(DateTime('UTC')) COMMENT 'First checkout; NULL = never',
    last_order Nullable(DateTime('UTC')) COMMENT 'Latest checkout; NULL = never',
    last_engagement Nullable(DateTime('UTC')) COMMENT 'Latest action on a Pin, landings included; NULL = never',
    last_landing Nullable(DateTime('UTC'))
        COMMENT 'Latest page whose address brought a click id of Pinterest; NULL = never',
    consent LowCardinality(String) COMMENT 'Latest word on consent: unknown, yes or no',
    email_known Bool COMMENT 'The hash of an e-mail address was seen with this visitor',
    orders UInt32 COMMENT 'Orders, without cancelled and refunded ones',
    revenue Map(String, Decimal(38, 4)) COMMENT 'Their total in each currency; an empty currency = not said'
)
{security}
COMMENT 'One row a visitor, which is one browser: what they did last, what they ordered'
AS
WITH
    toDateTime(0, 'UTC') AS never,
    arrayFilter(each -> (site_id, each.1) NOT IN (SELECT site_id, order_key FROM {database}.cancelled_order),
        {orders p.orders}) AS kept,
    arrayDistinct(tupleElement(kept, 3)) AS names
SELECT
    site_id, visitor_id, nullIf(p.first_seen, toDateTime(4294967295, 'UTC')) AS first_seen,
    nullIf(p.last_seen, never) AS last_seen, nullIf(p.last_view, never) AS last_view,
    nullIf(p.last_cart, never) AS last_cart, nullIf(p.last_checkout_started, never) AS last_checkout_started,
    nullIf(p.first_order, toDateTime(4294967295, 'UTC')) AS first_order, nullIf(p.last_order, never) AS last_order,
    nullIf(p.last_engage, never) AS last_engagement, nullIf(p.last_epik_landing, never) AS last_landing,
    ['unknown', 'yes', 'no'][bitAnd(p.consent, 3) + 1] AS consent, p.em.2 != toFixedString('', 32) AS email_known,
    length(kept) AS orders,
    mapFromArrays(names, arrayMap(name -> arraySum(each -> if(each.3 = name, toDecimal128(each.2, 4), 0), kept), names))
        AS revenue
FROM {database}.visitor_profile AS p FINAL;

CREATE VIEW IF NOT EXISTS {analytics}.products_daily{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    day Date COMMENT 'Day on which it happened, UTC',
    product_id String COMMENT 'Product',
    pin_clicks UInt64 COMMENT 'Clicks on its Pins, landings included',
    pin_saves UInt64 COMMENT 'Saves of its Pins',
    pin_closeups UInt64 COMMENT 'Closeups of its Pins',
    pin_comments UInt64 COMMENT 'Comments on its Pins',
    pin_likes UInt64 COMMENT 'Likes of its Pins',
    views UInt64 COMMENT 'Views of its pages',
    cart_adds UInt64 COMMENT 'Times it was put in a cart',
    orders UInt64 COMMENT 'Checkouts it was in, cancelled ones included',
    viewers UInt64 COMMENT 'Known visitors who viewed it',
    buyers UInt64 COMMENT 'Known visitors who ordered it'
)
{security}
COMMENT 'Interest in products by the day, on Pinterest and in the shop, for 190 days; above some 10,000 a count is within 1 %'
AS
SELECT
    site_id, day, {masked p.product_id} AS product_id,
    uniqMergeIf(p.events, action = 'click') AS pin_clicks, uniqMergeIf(p.events, action = 'save') AS pin_saves,
    uniqMergeIf(p.events, action = 'closeup') AS pin_closeups, uniqMergeIf(p.events, action = 'comment') AS pin_comments,
    uniqMergeIf(p.events, action = 'like') AS pin_likes, uniqMergeIf(p.events, action = 'view') AS views,
    uniqMergeIf(p.events, action = 'cart') AS cart_adds, uniqMergeIf(p.events, action = 'order') AS orders,
    uniqMergeIf(p.visitors, action = 'view') AS viewers, uniqMergeIf(p.visitors, action = 'order') AS buyers
FROM {database}.product_day AS p
GROUP BY site_id, day, product_id;

CREATE VIEW IF NOT EXISTS {analytics}.engagement_daily{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    day Date COMMENT 'Day on which it happened, UTC',
    object LowCardinality(String) COMMENT 'What the action was on: pin, board, product, campaign, or site = everything',
    object_id String COMMENT 'Its id; empty for site',
    action LowCardinality(String) COMMENT 'What was done to the Pin: click, save, closeup, comment or like',
    engagements UInt64 COMMENT 'How often',
    visitors UInt64 COMMENT 'By how many known visitors'
)
{security}
COMMENT 'Actions on Pins by the day; do not add up over objects, each action is there for its pin, board, product and campaign'
AS
SELECT
    site_id, day, toString(object) AS object, {masked e.object_id} AS object_id, toString(action) AS action,
    uniqMerge(e.events) AS engagements, uniqMerge(e.visitors) AS visitors
FROM {database}.engagement_day AS e
GROUP BY site_id, day, object, object_id, action;

CREATE VIEW IF NOT EXISTS {analytics}.engagement_to_order{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    day Date COMMENT 'Day of the order, UTC',
    order_id String COMMENT 'Number of the order; empty = not said',
    ordered_at DateTime64(3, 'UTC') COMMENT 'When it was placed, first told',
    visitor_id UInt64 COMMENT 'Visitor; never 0',
    value Decimal(18, 4) COMMENT 'Total, in the main unit of currency',
    currency LowCardinality(String) COMMENT 'ISO 4217 code; empty = not said',
    action LowCardinality(String) COMMENT 'Latest action on a Pin before the order: click, save, closeup, comment or like',
    engaged_at DateTime64(3, 'UTC') COMMENT 'When that was',
    hours_to_order Float64 COMMENT 'Hours from that to the order, at most 720',
    landing Bool COMMENT 'It was a click that was seen as a landing in the shop; the Pin is not known then',
    pin_id UInt64 COMMENT 'Pin; 0 = not known',
    board_id UInt64 COMMENT 'Board; 0 = not known',
    campaign_id UInt64 COMMENT 'Campaign; 0 = not an ad, or not known',
    product_id String COMMENT 'Product shown on the Pin; empty = not known'
)
{security}
COMMENT 'Orders placed within 30 days of an action on a Pin by the same visitor, each with the latest such action'
AS
SELECT
    o.site_id AS site_id, toDate(o.ordered_at, 'UTC') AS day, {masked o.order_number} AS order_id, o.ordered_at AS ordered_at,
    o.visitor AS visitor_id, o.total AS value, o.money AS currency, a.action AS action, a.engaged_at AS engaged_at,
    dateDiff('millisecond', a.engaged_at, o.ordered_at) / 3600000 AS hours_to_order, a.landing AS landing,
    a.pin_id AS pin_id, a.board_id AS board_id, a.campaign_id AS campaign_id, {masked a.product_id} AS product_id
FROM
(
    SELECT
        site_id, if(number != '', cityHash64(number), event_key) AS order_key, any(number) AS order_number,
        min(placed_at) AS ordered_at, argMin(placed_by, placed_at) AS visitor, max(told).1 AS total,
        max(told).2 AS money
    FROM
    (
        SELECT
            site_id, event_key, max(order_id) AS number, min(event_time) AS placed_at,
            argMin(visitor_id, event_time) AS placed_by, max((value, toString(currency))) AS told
        FROM {database}.events FINAL
        WHERE event_name = 'checkout' AND visitor_id != 0
        GROUP BY site_id, event_key
    )
    WHERE (site_id, order_key) NOT IN (SELECT site_id, order_key FROM {database}.cancelled_order)
    GROUP BY site_id, order_key
) AS o
ASOF JOIN
(
    SELECT
        site_id, visitor_id, event_time AS engaged_at, toString(action) AS action, 0 AS landing, pin_id, board_id,
        campaign_id, product_id
    FROM {database}.engagements FINAL
    WHERE visitor_id != 0
    UNION ALL
    SELECT site_id, visitor_id, event_time, 'click', 1, 0, 0, 0, if(length(product_ids) = 1, product_ids[1], '')
    FROM {database}.events FINAL
    WHERE visitor_id != 0 AND is_landing AND event_name != 'consent_withdrawn'
) AS a ON o.site_id = a.site_id AND o.visitor = a.visitor_id AND o.ordered_at >= a.engaged_at
WHERE hours_to_order <= 720;

CREATE VIEW IF NOT EXISTS {analytics}.audience_members_now{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    audience_id UInt32 COMMENT 'Audience',
    since DateTime64(3, 'UTC') COMMENT 'When Pinterest acknowledged the member',
    sync_id UInt64 COMMENT 'Sync that added the member, run_id in sync_runs',
    visitor_ids Array(UInt64) COMMENT 'Visitors in which this person was seen'
)
{security}
COMMENT 'Who is in which audience at Pinterest now, one row a person'
AS
SELECT m.site_id AS site_id, m.audience_id AS audience_id, m.op_at AS since, m.sync_id AS sync_id, i.visitor_ids AS visitor_ids
FROM {database}.audience_member AS m FINAL
LEFT JOIN
(
    SELECT site_id, id_value, groupUniqArray(visitor_id) AS visitor_ids
    FROM {database}.identity WHERE id_type = 'em' GROUP BY site_id, id_value
) AS i ON m.site_id = i.site_id AND substring(m.em, 1, 32) = i.id_value
WHERE m.state = 1;

CREATE VIEW IF NOT EXISTS {analytics}.audience_changes{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    audience_id UInt32 COMMENT 'Audience',
    changed_at DateTime64(3, 'UTC') COMMENT 'When Pinterest acknowledged the change',
    day Date COMMENT 'Day of that, UTC',
    change LowCardinality(String) COMMENT 'entered or left',
    sync_id UInt64 COMMENT 'Sync that sent it, run_id in sync_runs',
    visitor_ids Array(UInt64) COMMENT 'Visitors in which this person was seen'
)
{security}
COMMENT 'The latest change of each person in each audience; sums of all changes are in audience_size_daily'
AS
SELECT
    m.site_id AS site_id, m.audience_id AS audience_id, m.op_at AS changed_at, toDate(m.op_at, 'UTC') AS day,
    if(m.state = 1, 'entered', 'left') AS change, m.sync_id AS sync_id, i.visitor_ids AS visitor_ids
FROM {database}.audience_member AS m FINAL
LEFT JOIN
(
    SELECT site_id, id_value, groupUniqArray(visitor_id) AS visitor_ids
    FROM {database}.identity WHERE id_type = 'em' GROUP BY site_id, id_value
) AS i ON m.site_id = i.site_id AND substring(m.em, 1, 32) = i.id_value;

CREATE VIEW IF NOT EXISTS {analytics}.sync_runs{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    audience_id UInt32 COMMENT 'Audience',
    audience String COMMENT 'Name of the audience, as it was then',
    run_id UInt64 COMMENT 'Sync',
    connection_id UInt32 COMMENT 'Connection that was synced',
    status LowCardinality(String) COMMENT 'running, done, held, failed or interrupted',
    started_at DateTime64(3, 'UTC') COMMENT 'When it began',
    updated_at DateTime64(3, 'UTC') COMMENT 'When it ended, or was last heard of',
    desired UInt64 COMMENT 'People the rule wants in',
    members_before UInt64 COMMENT 'People in before the sync',
    members_after UInt64 COMMENT 'People in after the sync',
    adds UInt64 COMMENT 'People to add',
    removes UInt64 COMMENT 'People to remove',
    held UInt64 COMMENT 'Removals that wait for confirmation',
    error String COMMENT 'What went wrong; empty = nothing'
)
{security}
COMMENT 'Syncs of audiences with Pinterest, one row each'
AS
SELECT
    site_id, audience_id, {masked audience} AS audience, run_id, connection_id, status, started_at, updated_at, desired, members AS members_before,
    fingerprint_members AS members_after, adds, removes, held, {masked error} AS error
FROM {database}.audience_run FINAL;

CREATE VIEW IF NOT EXISTS {analytics}.audience_size_daily{on_cluster}
(
    site_id UInt32 COMMENT 'Shop, as numbered by pinstream',
    audience_id UInt32 COMMENT 'Audience',
    audience String COMMENT 'Name of the audience, as it was then',
    day Date COMMENT 'Day on which syncs ended, UTC; a day without one has no row',
    members UInt64 COMMENT 'People in after the last sync of the day',
    desired UInt64 COMMENT 'People the rule wanted in at that sync',
    entered UInt64 COMMENT 'People added that day',
    left UInt64 COMMENT 'People removed that day',
    syncs UInt64 COMMENT 'Syncs that ended well that day'
)
{security}
COMMENT 'How large each audience was at Pinterest at the end of each day'
AS
SELECT
    site_id, audience_id, argMax({masked r.audience}, updated_at) AS audience, toDate(updated_at, 'UTC') AS day,
    argMax(fingerprint_members, updated_at) AS members,
    argMax(r.desired, updated_at) AS desired, sum(r.entered) AS entered, sum(r.left) AS left, count() AS syncs
FROM {database}.audience_run AS r FINAL
WHERE status IN ('done', 'held')
GROUP BY site_id, audience_id, day;

CREATE VIEW IF NOT EXISTS {analytics}.rejected_events{on_cluster}
(
    site_id UInt32 COMMENT 'Shop; 0 = not known',
    received_at DateTime64(3, 'UTC') COMMENT 'When the refused input was received',
    day Date COMMENT 'Day of that, UTC',
    reason LowCardinality(String) COMMENT 'Why, one of the documented reasons',
    step LowCardinality(String) COMMENT 'Who refused it: collect or load',
    field String COMMENT 'Path in the input, such as $.events[2].value',
    size_bytes UInt32 COMMENT 'Size of what was refused'
)
{security}
COMMENT 'That something was refused, and why, for 90 days; collect writes at most 50 a second down, metrics count all'
AS
SELECT site_id, received_at, toDate(received_at, 'UTC') AS day, reason, toString(step) AS step, {masked field} AS field, size_bytes
FROM {database}.rejected;

CREATE VIEW IF NOT EXISTS {analytics}.data_quality_daily{on_cluster}
(
    site_id UInt32 COMMENT 'Shop; 0 = not known',
    day Date COMMENT 'Day on which collect received it, UTC',
    events UInt64 COMMENT 'Events',
    records UInt64 COMMENT 'Records of the log, copies of events included; 0 = older than 30 days',
    rejected UInt64 COMMENT 'Refused inputs',
    from_tag UInt64 COMMENT 'Events that the tag sent',
    from_api UInt64 COMMENT 'Events that a server sent',
    without_visitor UInt64 COMMENT 'Events of nobody known',
    without_consent UInt64 COMMENT 'Events without a yes',
    late UInt64 COMMENT 'Events received more than an hour after they happened, imports left out',
    time_clamped UInt64 COMMENT 'Events whose time had to be moved',
    checkouts UInt64 COMMENT 'Events named checkout',
    checkouts_without_order_id UInt64 COMMENT 'Of these without a number of the order',
    checkouts_without_value UInt64 COMMENT 'Of these without a value, or without a currency',
    checkouts_without_products UInt64 COMMENT 'Of these without products'
)
{security}
COMMENT 'How good the data is, by shop and day'
AS
SELECT
    site_id, day, sum(n_events) AS events, sum(n_records) AS records, sum(n_rejected) AS rejected,
    sum(counts[1]) AS from_tag, sum(counts[2]) AS from_api, sum(counts[3]) AS without_visitor,
    sum(counts[4]) AS without_consent, sum(counts[5]) AS late, sum(counts[6]) AS time_clamped,
    sum(counts[7]) AS checkouts, sum(counts[8]) AS checkouts_without_order_id,
    sum(counts[9]) AS checkouts_without_value, sum(counts[10]) AS checkouts_without_products
FROM
(
    SELECT
        e.site_id AS site_id, toDate(e.received_at, 'UTC') AS day, uniqExact(e.event_key) AS n_events, 0 AS n_records,
        0 AS n_rejected,
        [uniqExactIf(e.event_key, e.source = 'tag'), uniqExactIf(e.event_key, e.source = 'api'),
         uniqExactIf(e.event_key, e.visitor_id = 0), uniqExactIf(e.event_key, e.consent != 'yes'),
         uniqExactIf(e.event_key, e.source != 'import' AND dateDiff('second', e.event_time, e.received_at) > 3600),
         uniqExactIf(e.event_key, e.time_clamped), uniqExactIf(e.event_key, e.event_name = 'checkout'),
         uniqExactIf(e.event_key, e.event_name = 'checkout' AND e.order_id = ''),
         uniqExactIf(e.event_key, e.event_name = 'checkout' AND (e.value = 0 OR e.currency = '')),
         uniqExactIf(e.event_key, e.event_name = 'checkout' AND empty(e.product_ids))] AS counts
    FROM {database}.events AS e
    GROUP BY site_id, day
    UNION ALL
    SELECT site_id, toDate(minute, 'UTC') AS day, 0, sum(n), 0, arrayResize(emptyArrayUInt64(), 10)
    FROM {database}.event_minute
    GROUP BY site_id, day
    UNION ALL
    SELECT site_id, toDate(received_at, 'UTC') AS day, 0, 0, count(), arrayResize(emptyArrayUInt64(), 10)
    FROM {database}.rejected
    GROUP BY site_id, day
)
GROUP BY site_id, day;
