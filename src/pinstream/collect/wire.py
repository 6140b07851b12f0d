"""Pure: the bytes of a request -> what the client says, as one envelope and its events.

The only place that knows other spellings than ours: Pinterest's `/v3/` form (`tid`, `event`, and `ed`, `pd`, `ad`
as JSON text, as objects or in bracket notation), `eventID`, numbers as text and text as numbers, product fields
outside of `line_items`. What nobody knows is kept in `props`.

Whoever calls it gets `Refused` for a request that cannot be read or names no site; everything else that is wrong
is part of the answer, so that one bad event never costs the others.

There are two ways through: what is sent exactly as documented is decoded by msgspec in one step, bounds included
(`_exact`); everything else, faults too, goes field by field (`parse_leniently`). Both give the same Wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct, inspect

from pinstream.collect import form
from pinstream.collect.values import (
    an_object,
    decode_json,
    depth,
    integer,
    is_uuid,
    money,
    object_or_json,
    storable,
    text,
    unquoted,
    uuid,
)
from pinstream.errors import Refused
from pinstream.event import (
    MAX_EVENTS,
    MAX_LINE_ITEMS,
    MAX_PROPS_BYTES,
    MAX_PROPS_DEPTH,
    MAX_TIME_MS,
    LineItem,
    Millis,
    RawEvent,
)

MAX_USER_VALUES: Final = 20  # of one identifier
MAX_USER_CHARS: Final = 512  # of one value
MAX_EPIK_CHARS: Final = 512
MAX_SITE_CHARS: Final = 64
MAX_ALL_PROPS_BYTES: Final = 65_536  # of the props of all events of a request, as JSON
MAX_SIGNS: Final = 16_384  # of addresses, links and encodings in the texts of a request; each costs microseconds

MATCH_KEYS: Final = ("fn", "ln", "ge", "db", "ct", "st", "zp", "country", "hashed_maids")
USER_KEYS: Final = ("em", "ph", "external_id", *MATCH_KEYS)
"""The identifiers we know, under the names of Pinterest's Conversions API."""

Said = Literal["", "unknown", "yes", "no"]


class Envelope(Struct, frozen=True, kw_only=True):
    """What holds for every event of a request."""

    site: str
    sent_at: int = 0
    """When the client sent it, by the client's clock; 0 = not said."""
    consent: Said = ""
    """What the visitor said, as the client tells it; empty = nothing."""
    visitor_id: str = ""
    """The tag's UUID for this visitor, lowercase."""
    epik: str = ""
    user: Mapping[str, tuple[str, ...]] = {}
    """Identifiers by USER_KEYS, as sent: plain or hashed."""
    user_path: str = "$.user"


class Wire(Struct, frozen=True):
    """A request as read."""

    envelope: Envelope
    events: Sequence[RawEvent | Refused]
    event_ids: list[str]
    """The client's id of each event, also of the refused ones if it can be read; else empty."""
    batch: bool = False
    """Whether the events came as a list; else the paths in faults start at the single event."""


def parse(content_type: str, body: bytes) -> Wire:
    """Read a request's body. JSON is recognised by its first byte, whatever `content_type` says.

    Raises:
        Refused: the body is no JSON object or form, or names no site.
    """
    return _exact(body) or parse_leniently(content_type, body)


def parse_leniently(content_type: str, body: bytes) -> Wire:
    """As `parse`, field by field: every spelling, and the faults with their paths."""
    first = body.lstrip()[:1]
    if not first:
        raise Refused("empty_body", "The request has no body.")
    if "form-urlencoded" in content_type and first not in (b"{", b"["):
        return _wire(form.parse(body.strip()))
    return _wire(an_object(decode_json(body), "$"))


def parse_query(query: bytes) -> Wire:
    """Read a pixel's query string. Raises Refused as `parse` does."""
    if not query:
        raise Refused("empty_body", "The request has no query.")
    return _wire(form.parse(query))


# --- sent exactly as documented ----------------------------------------------------------------------


class _ExactItem(LineItem, forbid_unknown_fields=True): ...


class _ExactEvent(RawEvent, forbid_unknown_fields=True):
    line_items: Annotated[list[_ExactItem], Meta(max_length=MAX_LINE_ITEMS)] = []  # type: ignore[assignment]


class _ExactSingle(_ExactEvent, kw_only=True):
    """One event with the envelope inline."""

    site: Annotated[str, Meta(min_length=1, max_length=MAX_SITE_CHARS)]
    sent_at: Millis = 0
    consent: Said = ""
    visitor_id: str = ""
    epik: Annotated[str, Meta(max_length=MAX_EPIK_CHARS)] = ""
    user: dict[str, Any] = {}


class _ExactBatch(Struct, kw_only=True, forbid_unknown_fields=True):
    site: Annotated[str, Meta(min_length=1, max_length=MAX_SITE_CHARS)]
    events: Annotated[list[_ExactEvent], Meta(min_length=1, max_length=MAX_EVENTS)]
    sent_at: Millis = 0
    consent: Said = ""
    visitor_id: str = ""
    epik: Annotated[str, Meta(max_length=MAX_EPIK_CHARS)] = ""
    user: dict[str, Any] = {}


_decode_single: Final = msgspec.json.Decoder(_ExactSingle).decode
_decode_batch: Final = msgspec.json.Decoder(_ExactBatch).decode
_NO_PROPS: Final = Raw(b"{}")
_UUID_CHARS: Final = 36


def _exact(body: bytes) -> Wire | None:
    """A JSON body in which nothing has to be bent, renamed or moved; None for any other, whatever it is.

    What msgspec lets through and we do not is looked at here: a NUL, blanks around a name, bytes that are no UTF-8.
    """
    if (b"\\" in body and b"\\u0000" in body) or not (body.isascii() or _is_utf8(body)):
        return None
    sent: _ExactSingle | _ExactBatch
    try:
        if b'"events"' in body:
            sent = batch = _decode_batch(body)
            events = []
            left = MAX_ALL_PROPS_BYTES
            for event in batch.events:
                events.append(plain := _plain(event, left))
                left -= len(plain.props) if plain.props != _NO_PROPS else 0
        else:
            sent = _decode_single(body)
            events = [_plain(sent, MAX_ALL_PROPS_BYTES)]
        if sent.visitor_id and not (len(sent.visitor_id) == _UUID_CHARS and is_uuid(sent.visitor_id)):
            return None
        user = read_user(sent.user, "") if sent.user else {}
    except (msgspec.MsgspecError, Refused, RecursionError):
        return None
    envelope = Envelope(
        site=sent.site,
        sent_at=sent.sent_at,
        consent=sent.consent,
        visitor_id=sent.visitor_id,
        epik=sent.epik,
        user=user,
    )
    batched = isinstance(sent, _ExactBatch)
    read = events if _has_few_signs(body) else _costly_refused(events, batched)
    return Wire(envelope, read, [event.event_id for event in events], batched)


def _plain(sent: _ExactEvent, left: int) -> RawEvent:
    """Raises Refused for what needs a closer look. `left`: the bytes of props that the request may still have."""
    if sent.event[0].isspace() or sent.event[-1].isspace() or len(sent.currency) not in (0, 3):
        raise Refused("bad_value", "Not as documented.")
    return RawEvent(
        event=sent.event,
        event_id=sent.event_id,
        time=sent.time,
        url=sent.url,
        referrer=sent.referrer,
        value=sent.value + 0.0,  # never minus zero
        currency=sent.currency,
        order_id=sent.order_id,
        order_quantity=sent.order_quantity,
        search_query=sent.search_query,
        line_items=[_plain_item(item) for item in sent.line_items],
        props=sent.props
        if sent.props == _NO_PROPS
        else pack_props(an_object(decode_json(bytes(sent.props)), ""), "", left),
    )


def _plain_item(sent: _ExactItem) -> LineItem:
    return LineItem(
        product_id=sent.product_id,
        product_name=sent.product_name,
        product_category=sent.product_category,
        product_brand=sent.product_brand,
        product_variant=sent.product_variant,
        product_variant_id=sent.product_variant_id,
        product_price=sent.product_price + 0.0,
        product_quantity=sent.product_quantity,
    )


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- fields ------------------------------------------------------------------------------------------

Reader = Callable[[Any, str], Any]
"""(value, its path) -> the value in our type. Raises Refused."""


def _currency(value: Any, path: str) -> str:
    found = text(value, path, MAX_USER_CHARS).strip().upper()
    if found and not (len(found) == 3 and found.isascii() and found.isalpha()):
        raise Refused("bad_value", "A currency is three letters.", field=path)
    return found


def _name(value: Any, path: str) -> str:
    found = text(value, path, MAX_USER_CHARS).strip()
    if len(found) > _MAX_NAME:
        raise Refused("too_long", f"At most {_MAX_NAME} characters.", field=path)
    return found


def _reader(kind: inspect.Type) -> Reader | None:
    """The reader for a field, with the bounds that `event.py` declares."""
    match kind:
        case inspect.StrType(max_length=int(limit)):
            return lambda value, path: text(value, path, limit)
        case inspect.IntType(ge=int(low), le=int(high)):
            return partial(integer, low=low, high=high)
        case inspect.FloatType(ge=low, le=high) if low is not None and high is not None:
            return partial(money, low=float(low), high=float(high))
    return None


def _fields(struct: type[Struct]) -> dict[str, inspect.Type]:
    kind = inspect.type_info(struct)
    return {field.name: field.type for field in kind.fields} if isinstance(kind, inspect.StructType) else {}


def _readers(struct: type[Struct]) -> dict[str, Reader]:
    found = {name: _reader(kind) for name, kind in _fields(struct).items()}
    return {name: reader for name, reader in found.items() if reader}


_NAME_TYPE = _fields(RawEvent)["event"]
_MAX_NAME: Final = (_NAME_TYPE.max_length or 0) if isinstance(_NAME_TYPE, inspect.StrType) else 0
_ITEM_READERS: Final = _readers(LineItem)
_EVENT_READERS: Final = {**_readers(RawEvent), "event": _name, "currency": _currency}
_NUMERIC: Final = frozenset(
    name
    for name, kind in {**_fields(RawEvent), **_fields(LineItem)}.items()
    if isinstance(kind, (inspect.IntType, inspect.FloatType))
)


# --- events ----------------------------------------------------------------------------------------

_EVENT_ALIASES: Final = {"eventID": "event_id", "eventId": "event_id", "eid": "event_id"}
_ENVELOPE_ALIASES: Final = {"tid": "site"}
_ENVELOPE_KEYS: Final = frozenset({"site", "sent_at", "consent", "visitor_id", "epik", "user"})


def _renamed(fields: dict[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """`fields` under our names; where both spellings are there, ours wins and the other one stays as it is."""
    for alias, name in aliases.items():
        if alias in fields and fields.get(name) is None:
            fields[name] = fields.pop(alias)
    return fields


def _event(sent: Any, path: str, shared_props: Mapping[str, Any], left: int) -> RawEvent:
    """One event. `shared_props`: unknown keys of the envelope, which every event keeps; `left`: see `_plain`."""
    fields = _renamed(dict(an_object(sent, path)), _EVENT_ALIASES)
    for key in _ENVELOPE_KEYS:
        if fields.get(key) is not None:
            raise Refused("bad_value", "This belongs into the envelope, beside `events`.", field=f"{path}.{key}")
    known = _take(fields, _EVENT_READERS, path)
    if not known.get("event"):
        raise Refused("missing_field", "An event needs a name.", field=f"{path}.event")
    items, extras = _line_items(fields, path)
    if items:
        known["line_items"] = items
    props = object_or_json(fields.pop("props", None), f"{path}.props")
    if extras:
        props.setdefault("line_items", extras)
    known["props"] = pack_props({**shared_props, **fields, **props}, f"{path}.props", left)
    return RawEvent(**known)


def _take(fields: dict[str, Any], readers: Mapping[str, Reader], path: str) -> dict[str, Any]:
    """Move the fields that have a reader out of `fields`. Nothing said (null, empty number) is left out."""
    taken = {}
    for name in readers:
        value = fields.pop(name, None)
        if value is None or (value == "" and name in _NUMERIC):
            continue
        taken[name] = readers[name](value, f"{path}.{name}")
    return taken


def _line_items(fields: dict[str, Any], path: str) -> tuple[list[LineItem], list[dict[str, Any]]]:
    """The line items, and per item what `LineItem` has no field for (empty if there is nothing of the kind)."""
    sent = fields.pop("line_items", None)
    where = f"{path}.line_items"
    sent = unquoted(sent, where) if sent != "" else None
    if sent is None or sent == []:
        loose = {name: fields.pop(name) for name in _ITEM_READERS if fields.get(name) is not None}
        return ([LineItem(**_take(loose, _ITEM_READERS, path))] if loose else []), []
    sent = [sent] if isinstance(sent, dict) else sent
    if not isinstance(sent, list):
        raise Refused("bad_type", "A list of products is wanted here.", field=where)
    if len(sent) > MAX_LINE_ITEMS:
        raise Refused("too_many", f"At most {MAX_LINE_ITEMS} line items.", field=where)
    rest = [dict(an_object(item, f"{where}[{place}]")) for place, item in enumerate(sent)]
    items = [LineItem(**_take(item, _ITEM_READERS, f"{where}[{place}]")) for place, item in enumerate(rest)]
    return items, rest if any(rest) else []


def pack_props(props: dict[str, Any], path: str, left: int = MAX_PROPS_BYTES) -> Raw:
    """`props` as the bytes to store. Raises Refused if they are past their bounds, or than the `left` bytes longer."""
    if not props:
        return _NO_PROPS
    limit = min(left, MAX_PROPS_BYTES)
    if len(msgspec.json.encode(props)) > limit:  # first of all, since it bounds the walks below
        raise props_too_long(path)
    if depth(props, MAX_PROPS_DEPTH) > MAX_PROPS_DEPTH:
        raise Refused("too_deep", f"Props have at most {MAX_PROPS_DEPTH} levels.", field=path)
    packed = msgspec.json.encode(storable(props, path))
    if len(packed) > limit:
        raise props_too_long(path)
    return Raw(packed)


def props_too_long(path: str) -> Refused:
    """The fault of props past their bound."""
    return Refused(
        "too_long",
        f"Props have at most {MAX_PROPS_BYTES} bytes as JSON, those of a request together {MAX_ALL_PROPS_BYTES}.",
        field=path,
    )


_SIGNS: Final = (
    b"@+%:/?&;#=" + b"\xc2\xcd\xe1\xe2\xef"  # and how the invisible and the full-width ones start in UTF-8
)


def _signs(event: RawEvent) -> int:
    """How many of the signs at which `scrub` looks closer are in the texts of an event."""
    texts = [event.event_id, event.url, event.referrer, event.order_id, event.search_query]
    for item in event.line_items:
        texts += item.product_id, item.product_name, item.product_category
        texts += item.product_brand, item.product_variant, item.product_variant_id
    sent = "".join(texts).encode() + bytes(event.props)
    return len(sent) - len(sent.translate(None, _SIGNS))


def _has_few_signs(body: bytes) -> bool:
    """Whether a look at the body as a whole shows that its texts keep within MAX_SIGNS. An escape may hide signs."""
    if len(body) <= MAX_SIGNS:
        return True
    return b"\\" not in body and len(body) - len(body.translate(None, _SIGNS)) <= MAX_SIGNS


def _costly_refused(events: Sequence[RawEvent | Refused], batch: bool) -> list[RawEvent | Refused]:
    """`events`, those refused that take the request past MAX_SIGNS: one request must not hold up the others."""
    left, kept = MAX_SIGNS, list(events)
    for place, event in enumerate(events):
        if isinstance(event, RawEvent) and (signs := _signs(event)):
            if signs > left:
                why = f"The texts of a request have at most {MAX_SIGNS} signs such as @ % / & together."
                kept[place] = Refused("too_long", why, field=f"$.events[{place}]" if batch else "$")
            else:
                left -= signs
    return kept


# --- envelope --------------------------------------------------------------------------------------

_CONSENT: Final[dict[Any, Said]] = {
    "yes": "yes", "true": "yes", "1": "yes", "granted": "yes",
    "no": "no", "false": "no", "0": "no", "denied": "no",
    "unknown": "unknown", "": "",
}  # fmt: skip


def _wire(fields: dict[str, Any]) -> Wire:
    fields = _renamed(fields, _ENVELOPE_ALIASES)
    site = _site(fields.pop("site", None))
    try:
        if _is_pinterest(fields):
            fields, user_path = _from_pinterest(fields), "$.pd"
        else:
            user_path = "$.user"
        envelope, sent, shared, inline = _split(site, fields, user_path)
    except Refused as exc:
        return _all_refused(site, fields, exc)
    if inline:
        return Wire(envelope, _costly_refused([_event_or_refused(fields, "$")], False), [_event_id(fields)])
    events = _events(sent, shared)
    return Wire(envelope, _costly_refused(events, True), [_event_id(event) for event in sent], batch=True)


def _events(sent: list[Any], shared_props: Mapping[str, Any]) -> list[RawEvent | Refused]:
    """The events of a list. Props that no event can have are not tried again for each."""
    if len(msgspec.json.encode(shared_props)) > MAX_PROPS_BYTES:
        return [props_too_long(f"$.events[{place}].props") for place in range(len(sent))]
    events: list[RawEvent | Refused] = []
    left = MAX_ALL_PROPS_BYTES
    for place, one in enumerate(sent):
        events.append(event := _event_or_refused(one, f"$.events[{place}]", shared_props, left))
        left -= len(event.props) if isinstance(event, RawEvent) and event.props != _NO_PROPS else 0
    return events


def _site(value: Any) -> str:
    if value is None or value == "":
        raise Refused("missing_field", "The request names no site.", field="$.site")
    return text(value, "$.site", MAX_SITE_CHARS)


def _split(site: str, fields: dict[str, Any], user_path: str) -> tuple[Envelope, list[Any], dict[str, Any], bool]:
    """Take the envelope out of `fields`: (envelope, events, what else the envelope held, is it a single event?)."""
    known = {name: fields.pop(name) for name in _ENVELOPE_KEYS & fields.keys()}
    said = {name: value for name, value in known.items() if value is not None}
    envelope = Envelope(
        site=site,
        sent_at=integer(said.get("sent_at") or 0, "$.sent_at", 0, MAX_TIME_MS),
        consent=read_consent(said.get("consent", "")),
        visitor_id=uuid(said["visitor_id"], "$.visitor_id") if said.get("visitor_id") else "",
        epik=text(said.get("epik", ""), "$.epik", MAX_EPIK_CHARS),
        user=read_user(said.get("user"), user_path),
        user_path=user_path,
    )
    if "events" not in fields:
        return envelope, [], {}, True
    events = fields["events"]
    if not isinstance(events, list):
        raise Refused("bad_type", "A list of events is wanted here.", field="$.events")
    if not events:
        raise Refused("missing_field", "There is no event in the list.", field="$.events")
    if len(events) > MAX_EVENTS:
        raise Refused("too_many", f"At most {MAX_EVENTS} events in a request.", field="$.events")
    del fields["events"]
    return envelope, events, fields, False


def _all_refused(site: str, fields: dict[str, Any], why: Refused) -> Wire:
    """A bad envelope refuses each of its events."""
    events = fields.get("events")
    sent = events if isinstance(events, list) and events else [fields]
    return Wire(Envelope(site=site), [why] * len(sent), [_event_id(event) for event in sent], batch=sent is events)


def _event_or_refused(
    sent: Any, path: str, shared_props: Mapping[str, Any] = {}, left: int = MAX_ALL_PROPS_BYTES
) -> RawEvent | Refused:
    try:
        return _event(sent, path, shared_props, left)
    except Refused as exc:
        return exc


def _event_id(sent: Any) -> str:
    if not isinstance(sent, dict):
        return ""
    for name in ("event_id", *_EVENT_ALIASES):
        value = sent.get(name)
        if isinstance(value, str) and value and "\0" not in value:
            return value[:256]
    return ""


def read_consent(value: Any) -> Said:
    """What the client says about consent. Raises Refused for a word nobody knows."""
    word = str(value).strip().lower() if isinstance(value, (str, bool, int)) else None
    if word not in _CONSENT:
        raise Refused("bad_value", "Consent is yes, no or unknown.", field="$.consent")
    return _CONSENT[word]


def read_user(value: Any, path: str) -> dict[str, tuple[str, ...]]:
    """Identifiers as sent, by USER_KEYS. Raises Refused for a key that is none, or values of the wrong shape."""
    fields = object_or_json(value, path)
    if fields.keys() - set(USER_KEYS):
        raise Refused("bad_value", f"Known identifiers are {', '.join(USER_KEYS)}.", field=path)
    return {name: _user_values(values, f"{path}.{name}") for name, values in fields.items()}


def _user_values(value: Any, path: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_USER_VALUES:
        raise Refused("too_many", f"At most {MAX_USER_VALUES} values of an identifier.", field=path)
    return tuple(
        text("" if one is None else one, f"{path}[{place}]", MAX_USER_CHARS) for place, one in enumerate(values)
    )


# --- Pinterest's form ------------------------------------------------------------------------------

_PINTEREST_KEYS: Final = ("ed", "pd", "ad", "ov")
_CB_MS: Final = (1_000_000_000_000, MAX_TIME_MS)  # older images carry any number there, to get past caches


def _is_pinterest(fields: Mapping[str, Any]) -> bool:
    return "events" not in fields and any(key in fields for key in (*_PINTEREST_KEYS, "cb"))


def _from_pinterest(fields: dict[str, Any]) -> dict[str, Any]:
    """Pinterest's `tid, event, ed, pd, ad, ov, cb` -> our single event with the envelope inline."""
    data, person, page, override = (object_or_json(fields.pop(key, None), f"$.{key}") for key in _PINTEREST_KEYS)
    person |= {"external_id": data.pop("external_id")} if "external_id" in data and "external_id" not in person else {}
    user = {key: person.pop(key) for key in USER_KEYS if key in person}
    ours: dict[str, Any] = {"url": page.pop("loc", None), "referrer": page.pop("ref", None), **_sent_at(fields)}
    ours["epik"] = person.pop("epik", None)
    merged = {**page, **person, **fields, **override, **data}
    for name, value in ours.items():
        if merged.get(name) is None:
            merged[name] = value
    merged["event"] = fields.get("event") or data.get("event")
    return merged | {"user": user}


def _sent_at(fields: dict[str, Any]) -> dict[str, int]:
    """`cb` is when the tag sent the event, if it looks like milliseconds; else it only got past a cache."""
    raw = str(fields.pop("cb", "") or "")
    sent_at = int(raw) if raw.isascii() and raw.isdigit() and len(raw) < 20 else 0
    if _CB_MS[0] <= sent_at <= _CB_MS[1]:
        return {"sent_at": sent_at, "time": sent_at}
    return {}
