"""The OpenAPI document of the public port, made from the event model, its bounds and the list of reasons.

It describes the form to send. What else is understood (other spellings, numbers as text, gzip) stands in the
descriptions, and in docs/http-api.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct
from starlette.requests import Request

from pinstream import __version__
from pinstream.collect import popular, wire
from pinstream.collect.answer import Answer
from pinstream.event import (
    MAX_EVENTS,
    MAX_PROPS_BYTES,
    MAX_PROPS_DEPTH,
    MAX_UINT64,
    REASONS,
    Action,
    Engagement,
    LineItem,
    Millis,
    RawEvent,
    Str256,
)

Schema = dict[str, Any]

_NO_NUL: Final = r"^[^\u0000]*$"
_NOT_BLANK: Final = r"^[^\u0000]*[^\s\u0000][^\u0000]*$"
_UUID: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


# --- what is sent ----------------------------------------------------------------------------------

_MEANING: Final = {
    "site": "The site's tag id. Also `tid`.",
    "sent_at": "When the client sent this, by its own clock: ms since 1970.",
    "consent": "What the visitor said. Missing: the site's default.",
    "visitor_id": "The tag's id of the visitor. The cookie `ps_vid` wins over it.",
    "epik": "Pinterest's click id.",
    "event": "A standard event in any spelling, or a name of your own.",
    "event_id": "The same event sent twice counts once. Made here if missing. Also `eventID`, `eventId`, `eid`.",
    "time": "When it happened, by the client's clock: ms since 1970. Missing: now.",
    "value": "The total, in the main unit of `currency`.",
    "currency": "Missing: the site's.",
    "line_items": "Also one object; product fields beside it make one line item.",
    "props": f"Anything else, at most {MAX_PROPS_BYTES} bytes as JSON. Fields that are not listed here end there too.",
}


def _of_type(kind: Any) -> Schema:
    schema = msgspec.json.schema(kind)
    if schema.get("type") == "string" and "pattern" not in schema and "enum" not in schema:
        schema["pattern"] = _NO_NUL
    return schema


def _fields(struct: type[Struct], names: Iterable[str] = ()) -> dict[str, Schema]:
    """The fields of a struct (all, or these) with their bounds, meaning and plain defaults."""
    found = {}
    for field in msgspec.structs.fields(struct):
        if names and field.name not in names:
            continue
        match field.name:
            case "props":
                schema: Schema = _ref("Object")
            case "line_items":
                schema = {"type": "array", "items": _ref("LineItem"), "maxItems": _of_type(field.type)["maxItems"]}
            case _:
                schema = _of_type(field.type)
        if isinstance(field.default, int | float) and field.default:
            schema["default"] = field.default
        found[field.name] = schema | _meaning(field.name)
    return found


def _meaning(name: str) -> Schema:
    return {"description": _MEANING[name]} if name in _MEANING else {}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _text(most: int, *, pattern: str = _NO_NUL) -> Schema:
    return {"type": "string", "maxLength": most, "pattern": pattern}


def _object(properties: dict[str, Schema], *required: str, description: str = "") -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "required": list(required)}
    return schema | ({"description": description} if description else {})


_OPEN: Final = {"propertyNames": _ref("Text"), "additionalProperties": _ref("Value")}
"""Any further fields."""


def _envelope() -> dict[str, Schema]:
    fields = {
        "site": _text(wire.MAX_SITE_CHARS) | {"minLength": 1},
        "sent_at": _of_type(Millis),
        "consent": {"type": "string", "enum": ["yes", "no", "unknown"]},
        "visitor_id": {"type": "string", "format": "uuid", "pattern": _UUID},
        "epik": _text(wire.MAX_EPIK_CHARS),
    }
    return {name: schema | _meaning(name) for name, schema in fields.items()} | {"user": _ref("User")}


def _sent() -> dict[str, Schema]:
    """Schemas of what is sent."""
    event = _fields(RawEvent)
    event["event"]["pattern"] = _NOT_BLANK
    envelope = _envelope()
    identifier = _text(wire.MAX_USER_CHARS)
    several = {"type": "array", "items": identifier, "maxItems": wire.MAX_USER_VALUES}
    one_event = _object(
        envelope | event, "site", "event", description="One event, with the envelope's fields beside it."
    )
    events = {"type": "array", "items": _ref("Event"), "minItems": 1, "maxItems": MAX_EVENTS}
    within = _object(event, "event") | {
        "additionalProperties": _ref("Value"),
        "propertyNames": _ref("Text") | {"not": {"enum": sorted(envelope)}},
    }
    pin = _fields(Engagement, {"time", "product_id", "pin_id", "board_id", "ad_id", "campaign_id"})
    for name, schema in pin.items():
        if name.endswith("_id") and schema["type"] == "integer":
            schema["maximum"] = MAX_UINT64
    pin["action"] = {"type": "string", "enum": list(get_args(Action))}
    pin["event_id"] = _of_type(Str256) | _meaning("event_id")
    pin |= {name: envelope[name] for name in ("visitor_id", "epik", "user")}
    pins = {"type": "array", "items": _ref("Engagement"), "minItems": 1, "maxItems": MAX_EVENTS}
    head = {name: envelope[name] for name in ("site", "consent")}
    values = [
        _ref("Text"),
        {"type": ["number", "boolean", "null"]},
        {"type": "array", "items": _ref("Value")},
        _ref("Object"),
    ]
    return {
        "Value": {"anyOf": values, "description": f"At most {MAX_PROPS_DEPTH} levels deep."},
        "Object": {"type": "object"} | _OPEN,
        "Text": {"type": "string", "pattern": _NO_NUL},
        "Identifier": {"anyOf": [identifier, several]},
        "User": {
            "type": "object",
            "properties": dict.fromkeys(wire.USER_KEYS, _ref("Identifier")),
            "additionalProperties": False,
            "description": "Identifiers, plain or as hexadecimal SHA-256; plain ones are hashed at once and forgotten.",
        },
        "LineItem": _object(_fields(LineItem)) | _OPEN,
        "Event": within,
        "SingleEvent": one_event | _OPEN,
        "Batch": _object(envelope | {"events": events}, "site", "events") | _OPEN,
        "PinterestForm": _object({name: parameter["schema"] for name, parameter in _PIXEL.items()}, "tid", "event"),
        "Engagement": _object(pin, "action") | {"additionalProperties": False},
        "Engagements": _object(head | {"engagements": pins}, "site", "engagements"),
    }


_PIXEL: Final[dict[str, Schema]] = {
    "tid": {"description": "The site's tag id.", "schema": _text(wire.MAX_SITE_CHARS)},
    "event": {"description": _MEANING["event"], "schema": _text(100)},
    "consent": {"description": _MEANING["consent"], "schema": {"type": "string", "enum": ["yes", "no", "unknown"]}},
    "ed": {"description": "The event's fields, as `ed[value]=1` or as JSON text.", "schema": {"type": "object"}},
    "pd": {"description": "Identifiers and `epik`, as `pd[em]=...` or as JSON text.", "schema": {"type": "object"}},
    "ad": {"description": "`loc` and `ref`: the page, and the one before.", "schema": {"type": "object"}},
    "cb": {"description": "When it was sent: ms since 1970.", "schema": {"type": "string"}},
}


def _parameters() -> list[Schema]:
    return [
        {
            "name": name,
            "in": "query",
            "required": name in ("tid", "event"),
            **({"style": "deepObject", "explode": True} if parameter["schema"]["type"] == "object" else {}),
            **parameter,
        }
        for name, parameter in _PIXEL.items()
    ]


_HISTORY: Final = {
    "name": "source",
    "in": "query",
    "description": "`import`: history, told with a key that may import; times up to 400 days back stay as they are.",
    "schema": {"type": "string", "enum": ["import"]},
}


# --- what is answered ------------------------------------------------------------------------------

_HEADERS: Final = {
    "Access-Control-Allow-Origin": {
        "description": "The Origin, or `*`.",
        "required": True,
        "schema": {"type": "string"},
    },
}
_DROPPED: Final = {
    "X-Pinstream-Dropped": {"description": "The reasons, with commas.", "schema": {"type": "string"}},
}
_RETRY: Final = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_GIF: Final = {"image/gif": {"schema": {"type": "string", "contentMediaType": "image/gif"}}}
_FILE: Final = {"text/javascript": {"schema": {"type": "string"}}}


def _answered() -> dict[str, Schema]:
    """Schemas of what is answered."""
    text: Schema = {"type": "string"}
    reason = {"type": "string", "enum": ["", *REASONS]}
    status = {"type": "string", "enum": ["durable", "dropped", "refused"]}
    line = {"event_id": text, "status": status, "reason": reason, "field": text, "hint": text}
    results: Schema = {"type": "array", "items": _ref("Result")}
    refusal = {"reason": reason, "field": text, "hint": text}
    band = {"savers": text | {"pattern": "^[0-9,]+\\+$"}, "at_least": {"type": "integer", "minimum": 1}}
    told: Schema = {"type": "object", "additionalProperties": _object(band, *band)}
    return {
        "Result": _object(line, *line),
        "Results": _object({"results": results}, "results", description="One line an event, in the order sent."),
        "Refusal": _object(refusal | {"results": results}, *refusal),
        "Popular": _object({"products": told, "pins": told}, "products", "pins"),
        "Health": _object({"ok": {"const": True}}, "ok"),
    }


def _json(name: str) -> Schema:
    return {"application/json": {"schema": _ref(name)}}


def _response(description: str, content: Schema | None = None, **headers: Schema) -> Schema:
    response: Schema = {"description": description, "headers": _HEADERS | headers}
    return response | ({"content": content} if content else {})


def _refusals() -> dict[str, Schema]:
    """A response a status, with the reasons that have it; and the same as the pixel gives it."""
    by_status: dict[int, list[str]] = {}
    for reason, (status, hint) in REASONS.items():
        if status >= 400:
            by_status.setdefault(status, []).append(f"`{reason}`: {hint}")
    found = {}
    for status, lines in sorted(by_status.items()):
        refusal = _response("\n".join(lines), _json("Refusal"), **(_RETRY if status in _AGAIN else {}))
        found[str(status)] = refusal
        found[f"{status}.pixel"] = refusal | {"content": _json("Refusal") | _GIF}
    return found


_AGAIN: Final = (429, 503)
_ANYWHERE: Final = (400, 405, 408, 431, 503)
"""What any path may answer."""
_TAKING: Final = (*_ANYWHERE, 403, 413, 429)


def _refused(*statuses: int, suffix: str = "") -> dict[str, Schema]:
    return {str(status): {"$ref": f"#/components/responses/{status}{suffix}"} for status in sorted(statuses)}


_DURABLE: Final = "Durable: acknowledged by Kafka from all replicas in sync, or synced to the journal's disk."
_ALL_DROPPED: Final = "All dropped by policy; the reasons are in X-Pinstream-Dropped."


def _takes(operation: str, summary: str, content: Schema) -> Schema:
    """An operation that takes events in a body."""
    return {
        "operationId": operation,
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _response(_ALL_DROPPED, _json("Results"), **_DROPPED),
            "204": _response(_DURABLE),
            "207": _response("A line an event: durable, dropped or refused.", _json("Results")),
            **_refused(*_TAKING),
        },
    }


def _pixel(operation: str, summary: str) -> Schema:
    taken = _response(f"{_DURABLE} With X-Pinstream-Dropped: dropped by policy.", _GIF, **_DROPPED)
    responses = {"200": taken, **_refused(*_TAKING, suffix=".pixel")}
    return {"operationId": operation, "summary": summary, "parameters": _parameters(), "responses": responses}


def _gives(operation: str, summary: str, content: Schema, *, cached: bool = False) -> Schema:
    """An operation that gives something."""
    responses = {"200": _response(summary, content), **_refused(*_ANYWHERE)}
    if cached:
        responses["304"] = _response("The version that If-None-Match names is the present one.")
    return {"operationId": operation, "summary": summary, "responses": responses}


def _popular() -> Schema:
    several: Schema = {"type": "array", "items": {"type": "string"}, "maxItems": popular.MAX_ASKED}
    site: Schema = {"description": _MEANING["site"], "schema": _text(wire.MAX_SITE_CHARS) | {"minLength": 1}}
    products = {"description": "Product ids; with `pin` one at least. Repeat it.", "schema": several}
    pins = {"description": "Ids of Pins. Repeat it.", "schema": several}
    asked = {"site": site | {"required": True}, "product": products, "pin": pins}
    operation = _gives("popular", "What is popular on Pinterest; what is missing is not", _json("Popular"), cached=True)
    operation["responses"] |= _refused(403)
    return operation | {"parameters": [{"name": name, "in": "query"} | each for name, each in asked.items()]}


# --- the document ----------------------------------------------------------------------------------

_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: `pinstream keys create`."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_BY_KEY: Final[list[Schema]] = [{"bearer": []}, {"key": []}]


@cache
def document() -> Schema:
    """The document, as plain data."""
    body = {"application/json": {"schema": {"anyOf": [_ref("SingleEvent"), _ref("Batch")]}}}
    form = {"application/x-www-form-urlencoded": {"schema": _ref("PinterestForm")}}
    json = {"application/json": {"schema": _ref("Engagements")}}
    anything = {"application/json": {"schema": {"type": "object"}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pinstream collect",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Events of a shop and engagements with Pins, answered once they are durable. A body that "
            "begins with a brace is JSON, whatever its Content-Type. Numbers may be written as text and text as "
            "numbers, and null means that nothing was said. Content-Encoding may be gzip or zstd.",
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/p/i": {"post": _takes("sendFromPage", "Events, from a page", body)},
            "/v1/events": {
                "post": _takes("sendEvents", "Events, from a server", body)
                | {"security": [{}, *_BY_KEY], "parameters": [_HISTORY]}
            },
            "/v3/": {
                "get": _pixel("pixel", "One event in Pinterest's form, as an image"),
                "head": _pixel("pixelHead", "As GET, without the image"),
                "post": _takes("sendPinterestForm", "One event in Pinterest's form", form | body),
            },
            "/v1/engagements": {
                "post": _takes("sendEngagements", "What people did with Pins", json) | {"security": _BY_KEY}
            },
            popular.PATH: {"get": _popular()},
            "/tag.js": {"get": _gives("tag", "The tag", _FILE, cached=True)},
            "/healthz": {"get": _gives("health", "This process answers", _json("Health"))},
            "/openapi.json": {"get": _gives("openapi", "This document", anything)},
        },
        "components": {
            "schemas": _sent() | _answered(),
            "responses": _refusals(),
            "securitySchemes": _SCHEMES,
        },
    }


async def answer(request: Request) -> Answer:
    """GET and HEAD /openapi.json."""
    return Answer(200, [("Content-Type", "application/json")], msgspec.json.encode(document()))
