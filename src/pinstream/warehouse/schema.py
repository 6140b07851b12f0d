"""How records become rows and rows become records again: pure, computed from the structs of `event.py`.

A record's own JSON is inserted unchanged (docs/decisions/0002), so every key of it is an insert column. Tests
compare all this with an empty, migrated engine.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from pinstream import event
from pinstream.settings import Warehouse as Settings

ROLLUP_VERSION: Final = 1
"""The first version of the materialized views. A view takes the records of its own version and of later ones."""

DEDUPLICATION_WINDOW: Final = 10_000
"""Parts that a table remembers. A replayed block is dropped as long as no more parts came after it."""
DEDUPLICATION_WINDOW_S: Final = 30 * 86_400
"""On replicated tables the window ends after this time too."""

TABLE_OF_TOPIC: Final = {event.EVENTS: "events", event.ENGAGEMENTS: "engagements", event.REJECTED: "rejected"}
STRUCT_OF_TABLE: Final[dict[str, type[Struct]]] = {
    "events": event.Event,
    "engagements": event.Engagement,
    "rejected": event.Rejection,
}
SPLICED: Final = ("k_partition", "k_offset", "rollup_version")
"""Keys that `load` puts in front of a record's own."""

_SHA256: Final = "if({0} = toFixedString('', 32), '', lower(hex({0})))"
_STORED_AS: Final = {
    "event": "toString(event_name)",
    "time": "toUnixTimestamp64Milli(event_time)",
    "received_ms": "toUnixTimestamp64Milli(received_at)",
    "em": _SHA256.format("em_sha256"),
    "ph": _SHA256.format("ph_sha256"),
    "external_id": _SHA256.format("external_id_sha256"),
}
"""Key of a record -> expression that gives it back, where the column has another name or type."""


@cache
def insert_columns(table: str) -> tuple[str, ...]:
    """The columns an INSERT must name: the spliced ones, then the record's keys in the struct's order."""
    return SPLICED + tuple(field.encode_name for field in msgspec.structs.fields(STRUCT_OF_TABLE[table]))


def read_back(table: str) -> str:
    """A SELECT list that yields the record's keys again; a row of it as JSONEachRow goes to `record`."""
    keys = (field.encode_name for field in msgspec.structs.fields(STRUCT_OF_TABLE[table]))
    return ", ".join(f"{_STORED_AS[key]} AS {key}" if key in _STORED_AS else key for key in keys)


def record(table: str, row: bytes) -> Any:
    """The struct that a row of `read_back`, as JSONEachRow, was inserted from."""
    keys = msgspec.json.decode(row, type=dict[str, Raw])
    if "props" in keys:
        keys["props"] = Raw(msgspec.json.decode(keys["props"], type=str).encode())
    return msgspec.json.decode(msgspec.json.encode(keys), type=STRUCT_OF_TABLE[table])


def statements(text: str, settings: Settings, *, version: int = ROLLUP_VERSION) -> list[str]:
    """The statements of a migration, its places filled for the mode of `settings`.

    `{engine X(a)}` is the engine, replicated on a cluster; `{on_cluster}` names it; `{window}` remembers blocks, so
    that a replay is dropped; `{fsync}` makes an insert durable before it is answered; `{version}` is the rollup
    version from which a view counts. `{database}` and `{analytics}` are the databases of tables and of views for
    analysts; `{security}` lets these read what their reader may not; `{masked x}` is text x without what leads
    to a person; where `props` hides a click id from that, it is empty; `{orders x}` is `orders` of x.
    """
    filled = re.sub(r"\{engine (\w+)\((.*?)\)\}", lambda match: _engine(match[1], match[2], settings), text)
    filled = re.sub(r"\{masked ([^{}]+)\}", lambda match: _masked(match[1]), filled)
    filled = re.sub(r"\{orders ([\w.]+)\}", lambda match: orders(match[1]), filled)
    places = {
        "analytics": analytics_database(settings),
        "database": settings.database,
        "security": _security(settings),
        "on_cluster": on_cluster(settings),
        "window": _window(settings),
        "fsync": _FSYNC,
        "version": str(version),
    }
    for place, value in places.items():
        filled = filled.replace(f"{{{place}}}", value)
    code = (re.sub(r"(?m)^\s*--.*\n?", "", part).strip() for part in re.split(r";\s*(?:\n|$)", filled))
    return [statement for statement in code if statement]


def orders(tellings: str) -> str:
    """SQL: an array of (key, value, currency, at), one an order, of what `visitor_profile.orders` holds.

    The key is the hash of the order id; a telling without one has that of another telling of the same event, or else
    the event's own key. Value and currency are those of the telling that says most, at is the earliest.
    """
    told = f"arrayReverseSort({tellings})"  # of an event, those with a number come first
    begins = f"arrayMap((each, step) -> each.2 != 0 OR step != 0, {told}, arrayDifference(tupleElement({told}, 1)))"
    keys = f"arrayFill((key, begin) -> begin, arrayMap(each -> if(each.2 != 0, each.2, each.1), {told}), {begins})"
    keyed = f"arraySort(arrayMap((key, each) -> (key, each.4, each.5, each.3), {keys}, {told}))"
    copies = f"arraySplit((each, step) -> step != 0, {keyed}, arrayDifference(tupleElement({keyed}, 1)))"
    return f"arrayMap(each -> (each[-1].1, each[-1].2, each[-1].3, arrayMin(tupleElement(each, 4))), {copies})"


def analytics_database(settings: Settings) -> str:
    """The database of views for analysts: `analytics`, or named after ours where ours has another name than usual."""
    return "analytics" if settings.database == "pinstream" else f"{settings.database}_analytics"


_CLICK_ID: Final = "(?:epik|click_?id)"
_TOLD: Final = (
    rf"(?i)({_CLICK_ID}(?:=|%(?:25)*3D))[^&#\"]*"
    rf'|({_CLICK_ID}"\s*:\s*")(?:[^"\\]|\\.)*'
    rf'|({_CLICK_ID}\\+"\s*:\s*\\+")[^"\\]*'
    rf"|{event.TELLING}"
)
"""Click ids by their name in an address, in JSON and in JSON within a JSON text; and the rest by its look."""
_HIDDEN: Final = rf'(?i){_CLICK_ID}\\*"\s*:\s*[\[{{]|\\u00[2-7]'
"""In JSON: a click id that is no plain text, or letters written as numbers, which the edge does not do."""


def _masked(text: str) -> str:
    mask = f"replaceRegexpAll({text}, {_literal(_TOLD)}, '\\\\1\\\\2\\\\3')"
    return f"if(match({text}, {_literal(_HIDDEN)}), '{{}}', {mask})" if text == "props" else mask


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_FSYNC: Final = "fsync_after_insert = 1, fsync_part_directory = 1"


def _engine(name: str, arguments: str, settings: Settings) -> str:
    if settings.mode != "cluster":
        return f"{name}({arguments})"
    rest = f", {arguments}" if arguments else ""
    return f"Replicated{name}('/clickhouse/tables/{{uuid}}/{{shard}}', '{{replica}}'{rest})"


def on_cluster(settings: Settings) -> str:
    """What DDL says after a name to be run on every server; empty unless there is a cluster."""
    return f" ON CLUSTER {json.dumps(settings.cluster)}" if settings.mode == "cluster" else ""


def _security(settings: Settings) -> str:
    """The embedded engine has no users: its HTTP front decides what an analyst reads (analyst.py)."""
    return "" if settings.mode == "embedded" else f"DEFINER = `{settings.user}` SQL SECURITY DEFINER"


def _window(settings: Settings) -> str:
    if settings.mode != "cluster":
        return f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"
    return (
        f"replicated_deduplication_window = {DEDUPLICATION_WINDOW}, "
        f"replicated_deduplication_window_seconds = {DEDUPLICATION_WINDOW_S}"
    )
