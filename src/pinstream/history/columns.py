"""Pure: the columns of a shop's file, under whatever names -> what collect takes.

Names are compared by letters and digits alone. The order's number is what pinstream's own snippets send as order id:
of WooCommerce the order number, of Shopify the id (its export has that on an order's first line only).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct

from pinstream.collect.wire import USER_KEYS, read_consent
from pinstream.errors import Refused
from pinstream.event import CHECKOUT, ORDER_CANCELLED, ORDER_REFUNDED

ITEM_FIELDS: Final = (
    "product_id",
    "product_name",
    "product_category",
    "product_brand",
    "product_variant",
    "product_variant_id",
    "product_price",
    "product_quantity",
)

_ORDERS: Final[dict[str, tuple[str, ...]]] = {
    "order_id": (
        *("ordernumber", "orderid", "order", "orderno", "bestellnummer", "bestellnr", "auftragsnummer", "belegnummer"),
        *("belegnr", "numérodecommande", "numerodecommande", "ncommande", "commande"),
    ),
    "time": (
        *("time", "orderdate", "createdat", "datecreated", "orderedat", "date", "bestelldatum", "datum"),
        *("datedecommande", "datecommande"),
    ),
    "value": (
        *("value", "ordertotal", "total", "totalprice", "grandtotal", "amount", "gesamtbetrag", "gesamtsumme"),
        *("betrag", "summe", "montanttotal", "montant"),
    ),
    "currency": ("currency", "ordercurrency", "währung", "devise"),
    "status": ("status", "orderstatus", "financialstatus", "bestellstatus", "statut", "statutdelacommande"),
    "cancelled_at": ("cancelledat", "canceledat", "refundedat"),
    "consent": ("consent", "acceptsmarketing", "buyeracceptsmarketing"),
    "order_quantity": ("orderquantity", "itemssold", "itemcount"),
    "line_items": ("lineitems",),
    "epik": ("epik",),
    "em": ("em", "email", "billingemail", "customeremail", "emailaddress", "emailsha256", "emailadresse", "courriel"),
    "ph": ("ph", "phone", "billingphone", "customerphone", "phonenumber", "telefon", "telefonnummer", "téléphone"),
    "external_id": ("externalid", "customerid", "userid", "customeruser"),
    "product_id": ("productid", "lineitemsku", "itemsku", "sku", "artikelnummer", "artikelnr", "référence"),
    "product_name": ("productname", "lineitemname", "itemname", "artikelname", "artikel", "produit", "article"),
    "product_category": ("productcategory", "itemcategory", "category", "kategorie", "catégorie"),
    "product_brand": ("productbrand", "vendor", "brand"),
    "product_variant": ("productvariant",),
    "product_variant_id": ("productvariantid", "variationid"),
    "product_price": ("productprice", "lineitemprice", "itemprice", "einzelpreis", "prixunitaire"),
    "product_quantity": (
        "productquantity",
        "lineitemquantity",
        "itemquantity",
        "quantity",
        "menge",
        "anzahl",
        "quantité",
    ),
}
"""Field -> its names, the best one first."""
_SHOPIFY: Final = frozenset({"financialstatus", "lineitemname", "name"})
_OWN_ID: Final = "own_id"
"""Of an order of Shopify, whose rows are held together by its name."""
FIELDS: Final = (*_ORDERS, "event", "event_id", "visitor_id", "url", "referrer", "search_query")
"""What `--column` may name."""

PLACED: Final = "placed"
_STATES: Final = {
    "refunded": ORDER_REFUNDED,
    "cancelled": ORDER_CANCELLED,
    PLACED: CHECKOUT,
}
"""What `--status` may say, and the event that tells of it."""
_WORDS: Final = {
    ORDER_REFUNDED: "refunded remboursé remboursée remboursement erstattet zurückerstattet rückerstattet",
    ORDER_CANCELLED: "cancelled canceled voided failed trash expired declined annulé annulée échoué échouée refusée "
    "storniert abgebrochen fehlgeschlagen abgelehnt",
    CHECKOUT: "placed paid pending processing on-hold completed complete authorized partially-paid partially-refunded "
    "open closed archived new shipped delivered fulfilled unfulfilled checkout-draft terminée payée expédiée livrée "
    "en-cours en-attente abgeschlossen bezahlt versandt geliefert offen",
}
_STATE_OF: Final = {word: event for event, words in _WORDS.items() for word in words.split()}
MAX_STATES: Final = 20  # unknown ones that a report names
_STATE = re.compile(r"[^\W\d_](?:[^\W\d]|[ -]){0,39}")  # names nobody
_MAX_SHOWN: Final = 60  # letters of a column's name
_MAX_MAPPINGS: Final = 100  # of rows that name their columns themselves
_MAX_ITEM_ROWS: Final = 101  # one more than an event may have, which is refused


class Reading(Struct, frozen=True, kw_only=True):
    """How a file is to be read."""

    columns: Mapping[str, str] = {}
    """Field -> the column it is in; empty text: in none, whatever looks like it."""
    consent: str = ""
    """What counts where a row says nothing; empty: the site's default."""
    zone: tzinfo = UTC
    """Of times that name none."""
    time_format: str = ""
    """As `datetime.strptime` has it; empty: ISO 8601, 31.12.2026, or seconds or milliseconds since 1970."""
    states: Mapping[str, str] = {}
    """The shop's own word for an order's state, in small letters -> the event that it means."""


def reading(
    columns: Iterable[str], consent: str, time_zone: str, time_format: str, states: Iterable[str] = ()
) -> Reading:
    """What the command line says, `columns` as `field=column`, `states` as `refunded=word`.

    Raises:
        Refused: it cannot be.
    """
    pairs = [column.partition("=") for column in columns]
    if wrong := next((field for field, equals, _ in pairs if not equals), ""):
        raise Refused("bad_value", f"Write --column {wrong}=NAME OF THE COLUMN.", field="--column")
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError) as exc:
        raise Refused("bad_value", f"There is no time zone {time_zone}.", field="--time-zone") from exc
    named = {field: name for field, _, name in pairs}
    meant = {}
    for state in states:
        kind, _, word = state.partition("=")
        if kind not in _STATES or not word:
            raise Refused("bad_value", f"Write --status {'|'.join(_STATES)}=YOUR WORD FOR IT.", field="--status")
        meant[word.strip().lower()] = _STATES[kind]
    return Reading(columns=named, consent=read_consent(consent), zone=zone, time_format=time_format, states=meant)


class Told(NamedTuple):
    """One event that a file tells of."""

    line: int
    request: dict[str, Any] | Refused
    """A request's body, without the site."""


def mapping(columns: Sequence[str], reading: Reading) -> dict[str, str]:
    """Field of an order -> its column.

    Raises:
        Refused: `reading.columns` names a field or a column that is none.
    """
    folded = _folded(columns)
    found = recognised(columns, _ORDERS)
    asked = _asked(columns, reading)
    if folded.keys() >= _SHOPIFY and "order_id" not in asked:
        found |= {"order_id": folded["name"], _OWN_ID: folded.get("id", "")}
    return {field: name for field, name in (found | asked).items() if name}


def _asked(columns: Sequence[str], reading: Reading) -> dict[str, str]:
    """What `--column` says."""
    for field, name in reading.columns.items():
        if field not in FIELDS:
            raise Refused("bad_value", f"There is no field {field}. There are {', '.join(FIELDS)}.", field="--column")
        if name and columns and name not in columns:
            raise Refused("bad_value", f"The file has no column {name}.", field="--column")
    return dict(reading.columns)


def recognised(columns: Sequence[str], fields: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each of `fields` -> the column that has the first of its names that is there; empty: none has one."""
    folded = _folded(columns)
    return {field: next((folded[name] for name in names if name in folded), "") for field, names in fields.items()}


def _folded(columns: Sequence[str]) -> dict[str, str]:
    """What is compared of each name -> the first column that has it."""
    folded: dict[str, str] = {}
    for name in columns:
        folded.setdefault("".join(letter for letter in name.lower() if letter.isalnum()), name)
    return folded


def _shown(name: str) -> str:
    """A column's name for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name.strip()[:_MAX_SHOWN])


# --- orders ------------------------------------------------------------------------------------------


class Orders:
    """Rows of an order each, or of a line item each: those of one order must follow each other."""

    def __init__(self, columns: Sequence[str], reading: Reading, latest_ms: int) -> None:
        """`columns`: of the whole file; empty: every row has its own. `latest_ms`: what is later is no order's time.

        Raises:
            Refused: as `mapping`, or a column is missing.
        """
        self._reading = reading
        self._latest_ms = latest_ms
        self._columns = tuple(columns)
        self.unknown_states: dict[str, int] = {}
        """States of orders that were not understood -> how many orders, which count as placed; "other" for the rest."""
        self._mappings = {self._columns: mapping(columns, reading)}
        if columns and not {"order_id", "time"} <= self._mappings[self._columns].keys():
            raise Refused(
                "missing_field",
                "The file needs a column of the order's id and one of its time. Name them: --column order_id=... "
                f"--column time=... The columns are {', '.join(columns)}.",
            )

    def understood(self) -> str:
        """Which column is taken for what, and which for nothing, for people; empty: every row has its own."""
        taken = dict(self._mappings[self._columns])
        left = [_shown(name) for name in self._columns if name.strip() and name not in taken.values()]
        if own := taken.pop(_OWN_ID, ""):  # the name still holds the rows of an order together
            taken["order_id"] = own
        parts = [f"{field} from {_shown(name)}" for field, name in taken.items()]
        return ", ".join(parts) + (f"; nothing from {', '.join(left)}" if left else "") if self._columns else ""

    def told(self, rows: Iterable[tuple[int, Mapping[str, Any] | Refused]]) -> Iterable[Told]:
        """The events of the rows' orders: each placed, and each that came to nothing."""
        line, order, items = 0, dict[str, Any](), list[dict[str, Any]]()
        for at, fields in rows:
            if isinstance(fields, Refused):
                yield Told(at, fields)
                continue
            row = self._read(fields)
            item: dict[str, Any] = {name: row.pop(name) for name in ITEM_FIELDS if name in row}
            if "order_id" in order and row.get("order_id") == order["order_id"]:
                order = row | order  # what the first row says counts
            else:
                yield from self._events(line, order, items)
                line, order, items = at, row, []
            if item and len(items) < _MAX_ITEM_ROWS:
                items.append(item)
        yield from self._events(line, order, items)

    def _read(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        columns = self._columns or tuple(fields)
        if columns not in self._mappings:
            if len(self._mappings) == _MAX_MAPPINGS:
                self._mappings.clear()
            asked = {field: name for field, name in self._reading.columns.items() if name in columns or not name}
            self._mappings[columns] = mapping(columns, Reading(columns=asked))
        found = self._mappings[columns]
        return {field: fields[name] for field, name in found.items() if fields.get(name) not in (None, "")}

    def _events(self, line: int, order: dict[str, Any], items: list[dict[str, Any]]) -> Iterable[Told]:
        if not order and not items:
            return
        try:
            yield from (Told(line, request) for request in self._requests(order, items))
        except Refused as exc:
            yield Told(line, exc)

    def _requests(self, order: dict[str, Any], items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Read everything before anything is told of: an order is taken whole."""
        order_id = str(order.get(_OWN_ID) or order.get("order_id", ""))
        if not order_id:
            raise Refused("missing_field", "An order needs an id.", field="order_id")
        ended = self._ended(order)
        ended_ms = self._time_ms(order, "cancelled_at") if "cancelled_at" in order else 0
        if "time" not in order and not ended:
            raise Refused("missing_field", "An order needs the time at which it was placed.", field="time")
        found = []
        if "time" in order:
            placed_ms = self._time_ms(order, "time")
            ended_ms = ended_ms or placed_ms
            found.append(_placed(order, order_id, placed_ms, items, self._reading))
        if ended:
            # holds nobody, so it needs no one's consent
            found.append({"consent": "yes", "event": ended, "order_id": order_id, "time": ended_ms})
        return found

    def _ended(self, order: Mapping[str, Any]) -> str:
        """The event that says that the order came to nothing; empty: it did not."""
        state = str(order.get("status", "")).strip().lower().removeprefix("wc-")
        event = self._reading.states.get(state) or _STATE_OF.get(re.sub(r"[ _]", "-", state))
        if state and event is None:
            known = len(self.unknown_states) < MAX_STATES or state in self.unknown_states
            name = state if known and _STATE.fullmatch(state) else "other"
            self.unknown_states[name] = self.unknown_states.get(name, 0) + 1
        if event in (ORDER_REFUNDED, ORDER_CANCELLED):
            return event
        return ORDER_CANCELLED if "cancelled_at" in order else ""

    def _time_ms(self, order: Mapping[str, Any], field: str) -> int:
        found = time_ms(order[field], self._reading, field)
        if found > self._latest_ms:
            raise Refused("out_of_range", f"This is a time to come. {_HOW_TIMES}", field=field)
        return found


def _placed(
    order: Mapping[str, Any], order_id: str, placed_ms: int, items: list[dict[str, Any]], reading: Reading
) -> dict[str, Any]:
    found: dict[str, Any] = {"event": CHECKOUT, "order_id": order_id, "time": placed_ms, **_who(order, reading)}
    found |= {name: order[name] for name in ("order_quantity", "epik", "currency") if name in order}
    if isinstance(sent := order.get("line_items"), list) or str(sent).startswith("["):  # else a text for people
        found["line_items"] = sent
    if "value" in order:
        found["value"] = amount(order["value"])
    if items:
        found["line_items"] = [_item(item) for item in items]
    return found


def _item(item: dict[str, Any]) -> dict[str, Any]:
    return item | ({"product_price": amount(item["product_price"])} if "product_price" in item else {})


def _who(fields: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """Identifiers and consent. A customer without an account has the id 0 in some shops."""
    user = {key: fields[key] for key in USER_KEYS if fields.get(key)}
    if str(user.get("external_id", "")).strip() == "0":
        del user["external_id"]
    consent = fields.get("consent") or reading.consent
    return ({"user": user} if user else {}) | ({"consent": consent} if consent else {})


# --- events ------------------------------------------------------------------------------------------


class Events:
    """Rows of an event each, in columns, or as lines of JSON in the form that collect takes."""

    def __init__(self, columns: Sequence[str], reading: Reading) -> None:
        """As `Orders`."""
        self._reading = reading
        self._renamed = {name: field for field, name in _asked(columns, reading).items() if name}

    def told(self, rows: Iterable[tuple[int, Mapping[str, Any] | Refused]]) -> Iterable[Told]:
        """The events of the rows."""
        for line, fields in rows:
            try:
                yield Told(line, fields if isinstance(fields, Refused) else self._request(fields))
            except Refused as exc:
                yield Told(line, exc)

    def _request(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        found = {self._renamed.get(name, name): value for name, value in fields.items()}
        if "event" not in found and "event_name" in found:  # as ClickHouse's column is called
            found["event"] = found.pop("event_name")
        if "events" in found:
            raise Refused("bad_value", "One event a line.", field="$.events")
        if "time" in found:
            found["time"] = time_ms(found["time"], self._reading, "time")
        who = _who(found, self._reading)
        if "user" in found:
            who.pop("user", None)
        else:
            found = {name: value for name, value in found.items() if name not in USER_KEYS}
        return found | who


# --- values ------------------------------------------------------------------------------------------

_HOW_TIMES: Final = "Say how times are written: --time-format, --time-zone."
_OFFSET = re.compile(r"\s+(?=[+-]\d\d:?\d\d$)")
_DIGITS = re.compile(r"\d{9,14}(?:\.\d+)?")
_DOTTED = re.compile(r"\d{1,2}\.\d{1,2}\.\d{4}(?: \d\d:\d\d(?::\d\d)?)?")  # the day first, wherever it is written
_DOTTED_FORMATS: Final = ("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S")  # by the number of colons
_MILLISECONDS_FROM: Final = 100_000_000_000
_GROUPS: Final = r"[1-9]\d{{0,2}}(?P<mark>[{}' \u00a0\u202f\u2019])\d{{3}}(?:(?P=mark)\d{{3}})*"  # a mark of thousands
_COMMA = re.compile(rf"-?(?:(?:{_GROUPS.format('.')}|\d+),\d{{1,2}}|0,\d+)")
_POINT = re.compile(rf"-?{_GROUPS.format(',')}(?:\.\d+)?")
_AROUND: Final = " \t\u00a0\u202f€$£¥"


def time_ms(value: Any, reading: Reading, field: str) -> int:
    """Milliseconds since 1970. Raises Refused for what is no time."""
    text = str(value).strip()
    if not reading.time_format and _DIGITS.fullmatch(text):
        number = float(text)
        return int(number if number >= _MILLISECONDS_FROM else number * 1000)
    try:
        if reading.time_format:
            found = datetime.strptime(text, reading.time_format)  # noqa: DTZ007  the zone is put in below
        elif _DOTTED.fullmatch(text):
            found = datetime.strptime(text, _DOTTED_FORMATS[text.count(":")])  # noqa: DTZ007
        else:
            found = datetime.fromisoformat(_OFFSET.sub("", text.removesuffix(" UTC")))
        found = found if found.tzinfo else found.replace(tzinfo=reading.zone)
        return int(found.timestamp() * 1000)
    except (ValueError, OverflowError) as exc:
        raise Refused("bad_value", f"This is no time. {_HOW_TIMES}", field=field) from exc


def amount(value: Any) -> Any:
    """A sum of money as a plain number: without its sign, with a point. What is none stays as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip(_AROUND)
    if _COMMA.fullmatch(text):
        return re.sub(r"[^-\d,]", "", text).replace(",", ".")
    return re.sub(r"[^-\d.]", "", text) if _POINT.fullmatch(text) else text
