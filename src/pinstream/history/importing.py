"""A file of orders or events -> the event log: through the same decoding and stamping as a request to `collect`.

Read, stamped and sorted by time first; what touches our disk meanwhile is records as the log has them, hashed. Then
appended. Where a run stops, a small file says how far it came, and the next run of the same file goes on behind that.
Without it everything is appended again, and counts once: every event has an id that depends on nothing but itself.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pinstream.collect import intake, wire
from pinstream.collect.intake import Outcome
from pinstream.collect.stamp import Context, id_of_order
from pinstream.collect.wire import Wire
from pinstream.errors import Refused, Retryable, SetupFault, Uncertain
from pinstream.event import CHECKOUT, EARLY_MS, EVENTS, encode
from pinstream.eventlog.contract import Appender, Log, Record
from pinstream.history import files
from pinstream.history.columns import Events, Orders, Reading, Told
from pinstream.history.sorting import RUN_BYTES, Entry, Sorter
from pinstream.state.snapshot import Site

APPEND_RECORDS: Final = 1000  # of one append
PATIENCE_S: Final = 600.0  # for a log that takes nothing
PAUSE_S: Final = 0.5
SAY_EVERY_S: Final = 1.0
MAX_NAMED: Final = 100  # bad rows that a report names; it counts all
RESUME_MS: Final = 7 * 86_400_000  # after which a run that stopped is begun anew

Kind = Literal["orders", "events"]
Say = Callable[[str], None]


class Bad(Struct, frozen=True):
    """A row that was refused, and why; never what it said."""

    line: int
    reason: str
    field: str
    hint: str


class Refusals(Protocol):
    """What a report tells of rows that were refused."""

    refused: dict[str, int]
    bad: list[Bad]


def refuse(report: Refusals, bad: Bad, name_bad: Callable[[Bad], None]) -> None:
    """Count a row that was refused, and name it; the report names the first MAX_NAMED."""
    count(report.refused, bad.reason)
    if len(report.bad) < MAX_NAMED:
        report.bad.append(bad)
    name_bad(bad)


def count(into: dict[str, int], reason: str, more: int = 1) -> None:
    """Add to what is counted under a reason; nothing stands there for none."""
    if more:
        into[reason] = into.get(reason, 0) + more


class Source(Struct, frozen=True, kw_only=True):
    """What to import, and where to."""

    path: Path
    kind: Kind
    site: Site
    secret: bytes
    """This install's key of hashes: makes the ids of events that have none."""
    suppressed: frozenset[str] = frozenset()
    reading: Reading = Reading()
    encoding: str = "utf-8"
    dry_run: bool = False
    """Read and judge it, and append nothing."""


class Report(Struct, kw_only=True):
    """What became of a file. events + withdrawals = valid + dropped + refused; durable = valid, once it is finished
    for real."""

    kind: Kind
    finished: bool = False
    rows: int = 0
    """Rows behind the head; an order may take several."""
    events: int = 0
    withdrawals: int = 0
    """Beside `events`: records that a visitor said no, in a row that is dropped for it."""
    valid: int = 0
    """To be appended."""
    durable: int = 0
    """In the log, those that an earlier run appended included."""
    earlier: int = 0
    """Of `durable`: by a run that stopped."""
    clamped: int = 0
    """Of `events`: older than 400 days, and moved there."""
    dropped: dict[str, int] = {}
    refused: dict[str, int] = {}
    unknown_states: dict[str, int] = {}
    """Of orders: what was not understood, and so counts as placed."""
    without_value: int = 0
    """Of orders placed: those of which no sum is told."""
    bad: list[Bad] = []
    """The first MAX_NAMED refused ones."""
    seconds: float = 0.0


class Progress(Struct, frozen=True):
    """How far a run came that stopped."""

    as_of_ms: int
    """What it took for now."""
    last: tuple[int, str, str]
    """Time, name and id of the event appended last; everything before it in order is in the log too."""


class Import:
    """One run."""

    def __init__(self, source: Source, folder: Path, say: Say, name_bad: Callable[[Bad], None]) -> None:
        """`folder`: for what is sorted, and for how far a run came. `name_bad` is told of every refused row."""
        self._source = source
        self._folder = folder
        self._say = say
        self._name_bad = name_bad
        self._said_at = 0.0
        self.report = Report(kind=source.kind)

    async def run(self, log: Log, *, now_ms: int, stop: asyncio.Event, run_bytes: int = RUN_BYTES) -> Report:
        """Import the file; once `stop` is set, what is under way is finished and the report is not `finished`.

        Raises:
            Refused: the file cannot be read, or lacks a column.
            SetupFault: the folder cannot be written, or is full.
            LogError: the log has taken nothing for PATIENCE_S. A later run goes on from there.
        """
        began = self._said_at = time.monotonic()
        try:
            return await self._run(log, now_ms, stop, run_bytes)
        except OSError as exc:
            raise SetupFault(f"Cannot sort in {self._folder}: {exc.strerror}. Check data_dir, and its room.") from exc
        finally:
            self.report.seconds = round(time.monotonic() - began, 1)

    async def _run(self, log: Log, now_ms: int, stop: asyncio.Event, run_bytes: int) -> Report:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = await asyncio.to_thread(self._name)
        progress = _progress(self._folder / name, now_ms)
        sorter = Sorter(self._folder, run_bytes)
        try:
            as_of_ms = progress.as_of_ms if progress else now_ms
            await asyncio.to_thread(self._read, sorter, as_of_ms, stop)
            if not stop.is_set() and not self._source.dry_run:
                appender = await log.appender()
                try:
                    await self._append(appender, sorter.ordered(), progress, as_of_ms, self._folder / name, stop)
                finally:
                    await appender.aclose()
        finally:
            sorter.close()
        if not stop.is_set():
            if not self._source.dry_run:
                (self._folder / name).unlink(missing_ok=True)
            self.report.finished = True
        return self.report

    def _name(self) -> str:
        """Of the file that says how far this import came: of this file, read in this way."""
        source = self._source
        content = files.fingerprint(source.path, source.secret)
        asked = msgspec.json.encode((source.site.id, source.kind, source.encoding, repr(source.reading), content))
        return blake2b(asked, key=source.secret, digest_size=16).hexdigest() + ".json"

    # --- read, stamp, sort: in a thread ---

    def _read(self, sorter: Sorter, as_of_ms: int, stop: asyncio.Event) -> None:
        source = self._source
        context = Context(now_ms=as_of_ms, site=source.site, source="import", suppressed=source.suppressed)
        with files.opened(source.path, source.encoding) as table:
            table.head()
            orders, columns = source.kind == "orders", table.columns
            latest_ms = as_of_ms + EARLY_MS
            reader = Orders(columns, source.reading, latest_ms) if orders else Events(columns, source.reading)
            if isinstance(reader, Orders) and (understood := reader.understood()):
                self._say(f"columns: {understood}")
            for told in reader.told(self._counted(table.rows())):
                if stop.is_set():
                    return
                self._take(told, context, sorter)
            if isinstance(reader, Orders):
                self.report.unknown_states = reader.unknown_states
        self._say(f"read {self.report.rows:,} rows: {self.report.events:,} events")

    def _counted(self, rows: Iterable[files.Row]) -> Iterator[files.Row]:
        for row in rows:
            self.report.rows += 1
            self._tell(f"reading: {self.report.rows:,} rows")
            yield row

    def _take(self, told: Told, context: Context, sorter: Sorter) -> None:
        report = self.report
        report.events += 1
        try:
            if isinstance(told.request, Refused):
                raise told.request
            read = self._named(parse(told.request, context.site))
            found = intake.take(read, context, os.urandom)
        except Refused as exc:
            refuse(report, Bad(told.line, exc.reason, exc.field, str(exc)), self._name_bad)
            return
        for record in found.records:
            event = msgspec.json.decode(record.value, type=_Kept)
            report.clamped += event.time_clamped
            report.valid += 1
            if not self._source.dry_run:
                sorter.put(Entry(event.time, event.event, event.event_id, record.key, record.value))
        report.withdrawals += found.implied
        [outcome] = found.outcomes
        if outcome.status == "durable":
            report.without_value += told.request.get("event") == CHECKOUT and "value" not in told.request
        elif outcome.status == "dropped":
            count(report.dropped, outcome.reason)
        else:
            refuse(report, Bad(told.line, outcome.reason, outcome.field, _hint(read, outcome)), self._name_bad)

    def _named(self, read: Wire) -> Wire:
        """With an id of each event that has none, made of what it says and of who it is about."""
        [event] = read.events
        if isinstance(event, Refused):
            return read
        if not event.time:
            raise Refused("missing_field", "History needs a time.", field="time")
        if event.event_id or id_of_order(event):
            return read
        who = (self._source.site.id, dict(read.envelope.user), read.envelope.visitor_id, read.envelope.epik)
        made = blake2b(encode((who, event)), key=self._source.secret, digest_size=16).hexdigest()
        return replace(read, events=[replace(event, event_id=made)], event_ids=[made])

    # --- append ---

    async def _append(
        self,
        appender: Appender,
        entries: Iterator[Entry],
        progress: Progress | None,
        as_of_ms: int,
        path: Path,
        stop: asyncio.Event,
    ) -> None:
        report = self.report
        batch: list[Entry] = []
        for entry in entries:
            if progress and (entry.time, entry.event, entry.event_id) <= progress.last:
                report.durable += 1
                report.earlier += 1
                continue
            batch.append(entry)
            if len(batch) == APPEND_RECORDS:
                await self._append_batch(appender, batch, as_of_ms, path, stop)
                batch = []
                self._tell(f"appended {report.durable:,} of {report.valid:,} events")
                if stop.is_set():
                    return
        if batch:
            await self._append_batch(appender, batch, as_of_ms, path, stop)

    async def _append_batch(
        self, appender: Appender, batch: list[Entry], as_of_ms: int, path: Path, stop: asyncio.Event
    ) -> None:
        records: Sequence[Record] = [Record(EVENTS, entry.visitor_id, entry.value) for entry in batch]
        began = time.monotonic()
        while records:
            try:
                await appender.append(records)
                break
            except (Retryable, Uncertain) as exc:  # what arrives twice counts once
                records = records if exc.records is None else exc.records
                if stop.is_set() or time.monotonic() > began + PATIENCE_S:
                    raise
                self._tell(f"waiting for the log: {exc}")
                await asyncio.sleep(PAUSE_S)
        self.report.durable += len(batch)
        last = batch[-1]
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_bytes(msgspec.json.encode(Progress(as_of_ms, (last.time, last.event, last.event_id))))
        draft.replace(path)

    def _tell(self, line: str) -> None:
        now = time.monotonic()
        if now >= self._said_at + SAY_EVERY_S:
            self._said_at = now
            self._say(line)


class _Kept(Struct):
    """What of a record decides its place."""

    time: int
    event: str
    event_id: str
    time_clamped: bool = False


def parse(request: dict[str, object], site: Site) -> Wire:
    """One event as a request of `site`. Raises Refused where a request would be refused as a whole."""
    if request.setdefault("site", site.tag_id) != site.tag_id:
        raise Refused("bad_value", f"This belongs to another site than {site.tag_id}.", field="$.site")
    try:
        body = msgspec.json.encode(request)
    except (UnicodeEncodeError, msgspec.MsgspecError) as exc:
        raise Refused("bad_text", "A text is not UTF-8.") from exc
    return wire.parse("application/json", body)


def _hint(read: Wire, outcome: Outcome) -> str:
    """What the reader said, where it was the one who refused."""
    [event] = read.events
    return str(event) if isinstance(event, Refused) else ""


def _progress(path: Path, now_ms: int) -> Progress | None:
    """How far an earlier run came; None: there was none, or too long ago, or its file is broken."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Progress)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if now_ms - RESUME_MS < found.as_of_ms <= now_ms else None
