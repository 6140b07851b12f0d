"""Lists of people that a shop gives us: customers, VIPs, newsletter. Who is on one stands in `list_member`.

An identifier is normalised and hashed as those of events are, before anything of it is stored; one that is a SHA-256
already is taken as it is. People who asked to be erased are left out. Doing anything twice changes nothing.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from pinstream.audiences import rule
from pinstream.audiences.rule import OnList
from pinstream.collect.identity import hashed
from pinstream.collect.wire import MAX_USER_CHARS
from pinstream.errors import Refused
from pinstream.history import files
from pinstream.history.columns import recognised
from pinstream.history.importing import Bad, Say, count, refuse
from pinstream.state.snapshot import Site
from pinstream.state.store import MemberList, Store
from pinstream.warehouse.client import Warehouse

INSERT_MEMBERS: Final = 20_000  # of one insert
MAX_SENT: Final = 10_000  # identifiers of one request
_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "em": ("em", "email", "emailaddress", "mail", "customeremail", "billingemail", "emailsha256", "sha256", "hash"),
    "ph": ("ph", "phone", "phonenumber", "mobile", "customerphone", "billingphone", "phonesha256"),
    "external_id": ("externalid", "customerid", "userid"),
}
"""Kind of identifier -> names of its column, as `columns.py` compares them."""
_ANY: Final = "identifier"
"""A column of e-mails, phones and hashes alike; so is the one of a file that names none."""

Member = tuple[str, str]
"""(kind of identifier, its SHA-256 in hex)."""
Operation = Literal["add", "remove"]


class Listed(Struct, frozen=True, kw_only=True):
    """A list, and how many identifiers are on it."""

    id: int
    site_id: int
    name: str
    members: int


class ListReport(Struct, kw_only=True):
    """What became of a file. rows = those used + refused + dropped."""

    list_id: int
    operation: Operation
    finished: bool = False
    rows: int = 0
    members: int = 0
    """Identifiers that are now on the list, or no longer; a row may have several, and several rows the same."""
    ignored: dict[str, int] = {}
    """Identifiers that cannot be used, beside others in their row that can."""
    dropped: dict[str, int] = {}
    """Rows of people who asked to be erased."""
    refused: dict[str, int] = {}
    """Rows without anything that can be used."""
    bad: list[Bad] = []
    """The first MAX_NAMED refused ones."""


class Lists:
    """The lists of an installation."""

    def __init__(self, store: Store, warehouse: Warehouse) -> None:
        self._store = store
        self._warehouse = warehouse

    async def all(self, site_id: int | None = None) -> list[Listed]:
        """The lists (of one site), oldest first."""
        found = await asyncio.to_thread(self._store.lists, site_id=site_id)
        sizes = await self._warehouse.select("SELECT list_id, count() AS n FROM list_member FINAL GROUP BY list_id")
        counted = {row["list_id"]: row["n"] for row in sizes}
        return [
            Listed(id=each.id, site_id=each.site_id, name=each.name, members=counted.get(each.id, 0)) for each in found
        ]

    async def add(self, to: MemberList, members: Sequence[Member]) -> set[Member]:
        """Put `members` on a list; returns those that were not, because their people asked to be erased."""
        suppressed = await asyncio.to_thread(self._store.suppressed, [value for _, value in members])
        gone = {member for member in members if member[1] in suppressed}
        await self._write(to, [member for member in members if member not in gone], removed=0)
        return gone

    async def remove(self, of: MemberList, members: Sequence[Member]) -> None:
        """Take `members` off a list; whether they are on it does not matter. Their hashes stay, marked as taken off."""
        await self._write(of, members, removed=1)

    async def _write(self, to: MemberList, members: Sequence[Member], *, removed: int) -> None:
        """ClickHouse says when, by its one clock: what it took last counts, whoever sent it."""
        fixed = {"site_id": to.site_id, "list_id": to.id, "removed": removed}
        columns = (*fixed, "id_type", "id_hex")
        rows = [
            msgspec.json.encode(fixed | {"id_type": kind, "id_hex": value}) for kind, value in dict.fromkeys(members)
        ]
        for start in range(0, len(rows), INSERT_MEMBERS):
            body = b"\n".join(rows[start : start + INSERT_MEMBERS])
            await self._warehouse.insert("list_member", columns, body, token=f"list:{uuid.uuid4().hex}")

    async def drop(self, gone: MemberList) -> None:
        """Forget a list and who is on it. Raises Refused while an audience asks for it."""
        for audience in await asyncio.to_thread(self._store.audiences, site_id=gone.site_id):
            asked = (each for _, _, each in rule.from_json(audience.rule).conditions())
            if any(isinstance(each, OnList) and gone.id in each.lists for each in asked):
                raise Refused("bad_value", f"Audience {audience.id} ({audience.name}) asks for this list.")
        sql = "DELETE FROM list_member WHERE site_id = {site:UInt32} AND list_id = {list:UInt32}"
        await self._warehouse.command(sql, {"site": gone.site_id, "list": gone.id})
        await asyncio.to_thread(self._store.remove_list, gone.id)


def read(sent: Mapping[str, Any], region: str, path: str) -> tuple[list[Member], list[Refused]]:
    """The identifiers of a request, by kind: those that can be used, and why others cannot.

    Raises:
        Refused: there is another kind, too many of them, or something else than a list.
    """
    if unknown := sent.keys() - _KINDS:
        raise Refused("bad_value", f"Known identifiers are {', '.join(_KINDS)}.", field=f"{path}.{min(unknown)}")
    found: list[Member] = []
    faults = []
    for kind, values in sent.items():
        values = values if isinstance(values, list) else [values]
        for place, value in enumerate(values):
            try:
                found.append((kind, _hashed(kind, value, region, f"{path}.{kind}[{place}]")))
            except Refused as exc:
                faults.append(exc)
    if len(found) + len(faults) > MAX_SENT:
        raise Refused("too_many", f"At most {MAX_SENT} identifiers in a request.", field=path)
    return found, faults


def _hashed(kind: str, value: Any, region: str, path: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Refused("bad_type", "Text is wanted here.", field=path)
    text = str(value)
    if len(text) > MAX_USER_CHARS:
        raise Refused("too_long", f"At most {MAX_USER_CHARS} characters.", field=path)
    return hashed(kind, text, region, path)


# --- files -------------------------------------------------------------------------------------------


class ListImport:
    """One run through a file."""

    def __init__(self, lists: Lists, site: Site, target: MemberList, operation: Operation) -> None:
        self._lists = lists
        self._site = site
        self._target = target
        self.report = ListReport(list_id=target.id, operation=operation)

    async def run(
        self,
        path: Path,
        columns: Mapping[str, str],
        encoding: str,
        *,
        stop: asyncio.Event,
        say: Say,
        name_bad: Callable[[Bad], None],
    ) -> ListReport:
        """Add or remove everybody in the file at `path`. A run that was stopped may be begun again.

        Raises:
            Refused: the file cannot be read, or has no column of identifiers.
        """
        report = self.report
        with files.opened(path, encoding) as table:
            table.head(unnamed=_ANY)
            rows = self._members(table, columns, name_bad)
            while not stop.is_set():
                batch = await asyncio.to_thread(_some, rows)
                if not batch:
                    report.finished = True
                    break
                await self._apply(batch)
                say(f"{report.rows:,} rows: {report.members:,} identifiers")
        return report

    async def _apply(self, batch: list[list[Member]]) -> None:
        members = [member for row in batch for member in row]
        if self.report.operation == "remove":
            await self._lists.remove(self._target, members)
            self.report.members += len(members)
            return
        gone = await self._lists.add(self._target, members)
        count(self.report.dropped, "suppressed", sum(all(member in gone for member in row) for row in batch))
        self.report.members += sum(member not in gone for member in members)

    def _members(
        self, table: files.Table, columns: Mapping[str, str], name_bad: Callable[[Bad], None]
    ) -> Iterator[list[Member]]:
        """The identifiers of each row that has some."""
        known = _columns(table.columns, columns) if table.columns else None
        if table.columns == (_ANY,) and not known:
            known = {_ANY: _ANY}
        if known == {}:
            raise Refused(
                "missing_field",
                "The file has no column of e-mails, phones or customer ids. Name one: --column em=... "
                f"The columns are {', '.join(table.columns)}.",
            )
        for line, fields in table.rows():
            self.report.rows += 1
            try:
                if isinstance(fields, Refused):
                    raise fields
                yield self._row(fields, _columns(tuple(fields), columns) if known is None else known)
            except Refused as exc:
                refuse(self.report, Bad(line, exc.reason, exc.field, str(exc)), name_bad)

    def _row(self, fields: Mapping[str, Any], known: Mapping[str, str]) -> list[Member]:
        sent = {kind: fields[name] for kind, name in known.items() if fields.get(name) not in (None, "")}
        found: list[Member] = []
        faults: list[Refused] = []
        for name, value in sent.items():
            kind = name if name != _ANY else "ph" if files.PHONE.fullmatch(str(value)) else "em"
            try:
                found.append((kind, _hashed(kind, value, self._site.phone_region, kind)))
            except Refused as exc:
                faults.append(exc)
        if not found:
            raise faults[0] if faults else Refused("missing_field", "There is nobody in this row.")
        for fault in faults:
            count(self.report.ignored, fault.reason)
        return found


def _some(rows: Iterator[list[Member]]) -> list[list[Member]]:
    """As many rows as make one insert."""
    found: list[list[Member]] = []
    members = 0
    for row in rows:
        found.append(row)
        members += len(row)
        if members >= INSERT_MEMBERS:
            break
    return found


def _columns(names: Sequence[str], asked: Mapping[str, str]) -> dict[str, str]:
    """Kind of identifier -> its column."""
    for kind, name in asked.items():
        if kind not in _KINDS:
            raise Refused("bad_value", f"Known identifiers are {', '.join(_KINDS)}, not {kind}.", field="--column")
        if name and name not in names:
            raise Refused("bad_value", f"The file has no column {name}.", field="--column")
    return {kind: name for kind, name in (recognised(names, _KINDS) | dict(asked)).items() if name}
