"""The one event model: what a client may send, what we stamp, and why something is not taken.

A field is declared here once, with the bounds of its ClickHouse column, so that any record the edge
accepts also loads and reads back equal. `RawEvent` is what a client may send; `Event` adds what the
edge stamps, and its JSON is the value of the log's record, byte for byte what ClickHouse reads.

Units are suffixes. Times are integer milliseconds since 1970, money is in the currency's main unit
with at most four decimals. Fields are never retyped; a new one has a default.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

EVENTS: Final = "pinstream.events"
ENGAGEMENTS: Final = "pinstream.engagements"
REJECTED: Final = "pinstream.rejected"
FORWARD: Final = "pinstream.forward"
TOPICS: Final = (EVENTS, ENGAGEMENTS, REJECTED, FORWARD)

# --- bounds, each with a reason code and a test at the bound and one past it ------------------------

MAX_BODY_BYTES: Final = 1 << 20  # of a request, after decompression too
MAX_EVENTS: Final = 100  # in one request
MAX_LINE_ITEMS: Final = 100
MAX_PROPS_BYTES: Final = 8192
MAX_DEPTH: Final = 32  # of a request's JSON
MAX_PROPS_DEPTH: Final = 8
MAX_TIME_MS: Final = 4_102_444_800_000  # 2100-01-01
MAX_MONEY: Final = 99_999_999_999.0  # with four decimals still exact in a double, and within Decimal(18, 4)
LATE_MS: Final = 7 * 86_400_000  # an event's time is clamped to [received - LATE_MS, received + EARLY_MS]
EARLY_MS: Final = 5 * 60_000
IMPORT_LATE_MS: Final = 400 * 86_400_000  # of an import, instead of LATE_MS; events are kept for as long

UInt16 = Annotated[int, Meta(ge=0, le=65_535)]
UInt32 = Annotated[int, Meta(ge=0, le=4_294_967_295)]
UInt64 = Annotated[int, Meta(ge=0)]  # msgspec cannot hold the upper bound: see MAX_UINT64
MAX_UINT64: Final = 2**64 - 1  # for every field of type UInt64; checked by hand at the edge and by load
Millis = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
Money = Annotated[float, Meta(ge=0, le=MAX_MONEY)]
Sha256 = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?$")]
Currency = Annotated[str, Meta(pattern=r"^(?:[A-Z]{3})?$")]
Str64 = Annotated[str, Meta(max_length=64)]
Str128 = Annotated[str, Meta(max_length=128)]
Str256 = Annotated[str, Meta(max_length=256)]
Str512 = Annotated[str, Meta(max_length=512)]
Str2048 = Annotated[str, Meta(max_length=2048)]

Consent = Literal["unknown", "yes", "no"]
Source = Literal["tag", "api", "pinterest", "import"]
Action = Literal["click", "save", "closeup", "comment", "like"]

CONSENT_WITHDRAWN: Final = "consent_withdrawn"
"""The event that a withdrawal leaves behind: it holds site, visitor and time; hashes only where it names no visitor."""
ORDER_CANCELLED: Final = "order_cancelled"
ORDER_REFUNDED: Final = "order_refunded"
"""Events that take the order of their `order_id` out of every count and total."""
CHECKOUT: Final = "checkout"
"""An order was placed."""


class LineItem(Struct, kw_only=True):
    """One product of an order or a product page; names are those of Pinterest's tag."""

    product_id: Str128 = ""
    product_name: Str256 = ""
    product_category: Str256 = ""
    product_brand: Str128 = ""
    product_variant: Str128 = ""
    product_variant_id: Str128 = ""
    product_price: Money = 0.0
    product_quantity: UInt16 = 1


class RawEvent(Struct, kw_only=True, omit_defaults=True):
    """What a client may say about one thing that happened, after `wire.py` has resolved every alias."""

    event: Annotated[str, Meta(min_length=1, max_length=100)]
    event_id: Str256 = ""
    time: Millis = 0
    """When it happened, by the client's clock; 0 = not said."""
    url: Str2048 = ""
    referrer: Str2048 = ""
    value: Money = 0.0
    """The total, in `currency`."""
    currency: Currency = ""
    order_id: Str128 = ""
    order_quantity: UInt16 = 0
    search_query: Str512 = ""
    line_items: Annotated[list[LineItem], Meta(max_length=MAX_LINE_ITEMS)] = []
    props: Raw = Raw(b"{}")
    """Everything else the client said, one JSON object of at most MAX_PROPS_BYTES."""


class Event(RawEvent, kw_only=True, omit_defaults=True):
    """A `RawEvent` as stamped by the edge. Its JSON is the value of a record in `EVENTS`."""

    site_id: Annotated[int, Meta(ge=1, le=4_294_967_295)]
    received_ms: Millis
    visitor_id: UInt64 = 0
    """BLAKE2b of site and the best identity there is (see `collect/identity.py`); 0 = nobody known."""
    source: Source = "tag"
    consent: Consent = "unknown"
    skew_ms: Annotated[int, Meta(ge=-MAX_TIME_MS, le=MAX_TIME_MS)] = 0
    """The client's clock minus ours; already taken off `time` where it is a minute or more."""
    time_clamped: bool = False
    em: Sha256 = ""
    ph: Sha256 = ""
    external_id: Sha256 = ""
    match_keys: Annotated[dict[Str64, Sha256], Meta(max_length=16)] = {}
    """Further SHA-256 match keys of the Conversions API: fn, ln, ge, db, ct, st, zp, country, hashed_maids."""
    epik: Str512 = ""
    """Pinterest's click id, from the landing URL or the `_epik` cookie."""
    ip_prefix: Str64 = ""
    """The sender's network, /24 or /48. The address itself is never stored."""
    user_agent: Str512 = ""
    language: Annotated[str, Meta(max_length=35)] = ""


class Engagement(Struct, kw_only=True, omit_defaults=True):
    """An action on a Pin. Its JSON is the value of a record in `ENGAGEMENTS`."""

    site_id: Annotated[int, Meta(ge=1, le=4_294_967_295)]
    action: Action
    event_id: Annotated[str, Meta(min_length=1, max_length=256)]
    time: Millis
    received_ms: Millis
    visitor_id: UInt64 = 0
    em: Sha256 = ""
    external_id: Sha256 = ""
    epik: Str512 = ""
    pin_id: UInt64 = 0
    board_id: UInt64 = 0
    ad_id: UInt64 = 0
    campaign_id: UInt64 = 0
    product_id: Str128 = ""
    time_clamped: bool = False


class Rejection(Struct, kw_only=True, omit_defaults=True):
    """That something was refused, and why; never what it was. A record in `REJECTED`."""

    received_ms: Millis
    reason: Str64
    step: Literal["collect", "load"]
    site_id: UInt32 = 0
    field: Str256 = ""
    """Path in the input, such as `$.events[2].value`."""
    size_bytes: UInt32 = 0
    payload_hash: Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{32})?$")] = ""
    """Keyed hash of the refused bytes: equal inputs can be counted, nothing can be read back."""
    topic: Str64 = ""


encode: Final = msgspec.json.Encoder().encode
"""Any of the structs above -> the record's bytes."""

_HEX_DIGIT: Final = r"(?:[0-9a-f]|%(?:25)*[346][0-9a-f])"
_GROUP: Final = r"[0-9a-f]{1,4}"
_COLON: Final = r"(?::|%(?:25)*3A)"
_NETWORK: Final = r"(?:(?:/|%(?:25)*2F)[0-9]{1,3})?"
TELLING: Final = (
    rf"{_HEX_DIGIT}{{64,}}"
    r"|dj0y[\w-]{4,}"
    rf"|[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}{_NETWORK}"
    rf"|{_GROUP}(?:{_COLON}{_GROUP}){{7}}{_NETWORK}"
    rf"|(?:{_GROUP}{_COLON}){{1,7}}{_COLON}(?:{_GROUP}(?:{_COLON}{_GROUP}){{0,5}})?{_NETWORK}"
)
"""What leads to one person, by its look: a SHA-256, a click id of Pinterest (Base64 of `v=2`), an address of a machine
or its network, percent-encoded or not. A pattern for Python and for RE2, without regard to case."""

# --- names ---------------------------------------------------------------------------------------

STANDARD_EVENTS: Final = (
    "page_visit",
    "view_category",
    "search",
    "add_to_cart",
    "checkout",
    "watch_video",
    "signup",
    "lead",
    "custom",
    "add_payment_info",
    "add_to_wishlist",
    "initiate_checkout",
    "subscribe",
    "view_content",
    "app_install",
    "app_open",
    "contact",
    "customize_product",
    "find_location",
    "schedule",
    "start_trial",
    "submit_application",
    "init",
    CONSENT_WITHDRAWN,
    ORDER_CANCELLED,
    ORDER_REFUNDED,
)
"""The Conversions API's names (reference: Pinterest "Track conversion events in the API"), `init` and ours."""

_FOLD = str.maketrans("", "", "_- ")
_BY_FOLDED: Final = {name.translate(_FOLD): name for name in STANDARD_EVENTS}


@lru_cache(maxsize=4096)
def canonical_name(name: str) -> str:
    """The name to store: the Conversions API's for a standard event in any spelling, else `name` trimmed."""
    return _BY_FOLDED.get(name.lower().translate(_FOLD)) or name.strip()


# --- reasons -------------------------------------------------------------------------------------

REASONS: Final[dict[str, tuple[int, str]]] = {
    # refused: the sender can mend it
    "empty_body": (400, 'The request has no body. Send one event, or {"events": [...]}.'),
    "bad_json": (400, "The body is not valid JSON in UTF-8."),
    "bad_text": (400, "A text holds a NUL or invalid UTF-8."),
    "bad_http": (400, "This is not HTTP/1.1 as servers read it."),
    "bad_encoding": (400, "The body is not what Content-Encoding says. Known are gzip and zstd."),
    "bad_type": (400, "A field has another type than documented."),
    "missing_field": (400, "A required field is missing."),
    "out_of_range": (400, "A number is outside its documented range."),
    "too_long": (400, "A text is longer than its documented bound."),
    "too_many": (400, "Too many entries: 100 events or products a request, 100 line items an event."),
    "too_deep": (400, "JSON is nested too deeply."),
    "bad_value": (400, "A value is not one of the documented ones."),
    "bad_hash": (400, "An identifier is hashed with MD5 or SHA-1. Send SHA-256, or the plain value."),
    "unknown_site": (403, "No such site. Create it with `pinstream sites add`, or correct the tag id."),
    "wrong_origin": (
        403,
        "This origin is not on the site's list. `pinstream sites set TAG_ID --add-origin ...` adds it.",
    ),
    "bad_key": (
        403,
        "The API key is missing, unknown, or not for this site or task. Make one with `pinstream keys create`.",
    ),
    "not_found": (404, "No such path. The endpoints are listed in docs/http-api.md."),
    "method_not_allowed": (405, "This path does not take that method."),
    "too_slow": (408, "The request did not arrive in time."),
    "too_large": (413, "The body is larger than 1 MiB, before or after decompression."),
    "head_too_large": (431, "The request line and headers have at most 64 KiB and 100 fields."),
    "rate_limited": (429, "Too many requests for this site or key. Wait as Retry-After says."),
    "busy": (503, "Too many requests or connections are open. Wait as Retry-After says; nothing was stored."),
    "log_full": (503, "The event log is full. Wait as Retry-After says; nothing was stored."),
    "log_away": (503, "The event log does not take events now. Wait as Retry-After says; nothing was stored."),
    "log_uncertain": (503, "The event log did not confirm in time. Send again with the same event_id: it counts once."),
    "log_broken": (
        503,
        "The event log cannot take this, now or later; nothing was stored. The operator's log says why.",
    ),
    "state_away": (503, "The state database does not answer. Wait as Retry-After says; the same may be sent again."),
    "warehouse_away": (503, "ClickHouse does not answer. Wait as Retry-After says; the same may be sent again."),
    "warehouse": (500, "ClickHouse refuses this. The operator's log says why."),
    # dropped by policy: nothing for the sender to mend, never stored
    "consent": (200, "No consent: nothing was stored."),
    "gpc": (200, "The browser asks not to be tracked (Sec-GPC or DNT): nothing was stored."),
    "bot": (200, "The user agent is a known crawler: nothing was stored."),
    "suppressed": (200, "This person asked to be erased: nothing was stored."),
    # dead letters: found by load, after the edge
    "bad_record": (0, "A record of the log is not a valid event."),
}
"""Closed list: why something was refused, dropped or dead-lettered -> (HTTP status, what to do about it)."""

POLICY: Final = frozenset({"consent", "gpc", "bot", "suppressed"})
"""The reasons that drop an event by policy."""
