"""`pinstream demo`: the whole product at work, and at the end the truth about it.

The shoppers' ledger says what was answered; ClickHouse says what arrived; the fake Pinterest says who is in its
list. The summary compares the three, so a figure in it is never a counter of the process it judges.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil
from msgspec import Struct

from pinstream.demo.shoppers import Ledger, certain_people, expected_cart_abandoners, shop
from pinstream.demo.stack import AUDIENCE, TAG_ID, Stack, stack
from pinstream.errors import PinstreamError
from pinstream.supervisor import Emit
from pinstream.warehouse import queries

SETTLE_S: Final = 45.0
"""After the shop closes: how long the last events may take to reach ClickHouse, and the last members Pinterest."""
WATCH_S: Final = 0.1
SAY_S: Final = 4.0
IDS_AT_ONCE: Final = 5000


class Options(Struct, frozen=True, kw_only=True):
    """How the demo runs."""

    seconds: float | None
    """Ends by itself after so long; None = when stopped."""
    events_per_s: float
    data_dir: Path | None
    """Kept there; None = a folder that is removed at the end."""
    seed: int | None
    """Of the shoppers' dice; None = another one each time."""
    verbose: bool
    """Show the processes' own lines."""


class Size(Struct, frozen=True):
    """An audience and how many people are in it."""

    id: int
    name: str
    size: int


class Pushed(Struct, frozen=True):
    """An audience's list at the fake Pinterest."""

    audience: str
    list_id: str
    members_at_pinterest: int
    equal: bool
    """Its members are exactly the audience's, and of the shoppers exactly those whom their ledger expects."""


class Summary(Struct, frozen=True, kw_only=True):
    """The truth at the end. The keys are a contract."""

    accepted: int
    """Distinct event ids that were answered durable."""
    in_clickhouse: int
    lost: int
    duplicates: int
    """Events that count more than once, and log positions loaded more than once."""
    rejected: dict[str, int]
    """Events refused, by the reason in the answer."""
    dropped: dict[str, int]
    """Events dropped by policy, by the reason in the answer."""
    unanswered: int
    freshness_ms: dict[str, int]
    """From the HTTP answer until a SELECT finds the event."""
    audiences: list[Size]
    pushed: list[Pushed]
    restarts: int
    rss_mb: int
    """Peak memory of all processes together, shared pages counted once per process."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Is every promise kept?"""
        return self.lost == 0 and self.duplicates == 0 and all(each.equal for each in self.pushed)


async def demo(options: Options, stop: asyncio.Event, emit: Emit) -> Summary:
    """Run it until `stop` or `options.seconds`, then settle and compare.

    Raises:
        SetupFault: something could not start; the lines given to `emit` say why.
    """
    started = time.monotonic()
    held: list[tuple[str, str]] = []

    def relay(name: str, line: str) -> None:
        held.append((name, line))
        del held[:-40]
        if options.verbose:
            emit(name, line)

    try:
        with _folder(options.data_dir) as folder:
            async with stack(folder, relay) as running:
                watch = Watch(running)
                _say_where(running, emit, time.monotonic() - started)
                async with watch.watching(emit):
                    await _shop(running, watch.ledger, options, stop)
                    emit("demo", "the shop has closed; waiting until the last events and members have arrived")
                    await _settle(watch)
                summary = await _summary(watch, time.monotonic() - started)
                _say_verdict(summary, emit)
                return summary
    except PinstreamError:
        if not options.verbose:
            for name, line in held:
                emit(name, line)
        raise


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="pinstream-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _say_where(running: Stack, emit: Emit, after_s: float) -> None:
    clickhouse = running.settings.warehouse
    url = f"{clickhouse.url}/?user={clickhouse.user}&password={clickhouse.password.get_secret_value()}"
    query = f"SELECT event_name, count() FROM {clickhouse.database}.events FINAL GROUP BY 1 FORMAT PrettyCompact"  # noqa: S608
    for line in (
        f"everything runs, {after_s:.0f} s after the start",
        f"shop        {running.shop_url}",
        f"popular     {running.collect_url}/v1/popular?site={TAG_ID}&product=mug  (after half a minute)",
        f"ClickHouse  curl '{url}' --data-binary '{query}'",
        f"Pinterest   {running.pinterest_url}/_fake/lists  (who is in which list, hashed)",
        f"lists       http://127.0.0.1:{running.settings.console.port}/v1/lists  (key: keys create --may-import)",
        f"metrics     {running.metrics_url}",
        f"commands    export PINSTREAM_CONFIG={running.config_file}; .venv/bin/pinstream doctor",
    ):
        emit("demo", line)


def _say_verdict(summary: Summary, emit: Emit) -> None:
    marks = {True: "kept", False: "BROKEN"}
    members = sum(each.members_at_pinterest for each in summary.pushed)
    equal = all(each.equal for each in summary.pushed)
    for line in (
        f"{summary.accepted} events answered durable, {summary.lost} lost: {marks[summary.lost == 0]}",
        f"{summary.duplicates} counted twice: {marks[summary.duplicates == 0]}",
        f"{members} people in Pinterest's list, exactly those of the audience: {marks[equal]}",
        f"from answer to SELECT: {summary.freshness_ms['p50']} ms p50, {summary.freshness_ms['p99']} ms p99",
    ):
        emit("demo", line)


async def _shop(running: Stack, ledger: Ledger, options: Options, stop: asyncio.Event) -> None:
    """Let shoppers in until the time is over or `stop` is set."""
    seconds = options.seconds if options.seconds is not None else 10 * 365 * 86_400.0
    shopping = asyncio.create_task(
        shop(
            running.door,
            seconds=seconds,
            events_per_s=options.events_per_s,
            seed=secrets.randbits(32) if options.seed is None else options.seed,
            ledger=ledger,
        )
    )
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([shopping, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not shopping.done():
        shopping.cancel()
    with suppress(asyncio.CancelledError):
        await shopping


class Watch:
    """Looks at ClickHouse and at the processes from outside, all the time."""

    def __init__(self, running: Stack) -> None:
        self.running = running
        self.ledger = Ledger()
        self.seen_at: dict[str, float] = {}
        """Event id -> when a SELECT first found it, by the monotonic clock."""
        self.rss_bytes = 0
        self._offsets: dict[str, int] = {}
        """Of each table the newest row that was looked at."""

    @asynccontextmanager
    async def watching(self, emit: Emit) -> AsyncIterator[None]:
        """Watch while the block runs what comes from now on, and say every SAY_S what is happening."""
        for table in ("events", "engagements"):
            rows = await self.running.warehouse.select(f"SELECT max(k_offset) AS newest FROM {table}")  # noqa: S608
            self._offsets[table] = rows[0]["newest"]
        tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._say(emit))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            with suppress(PinstreamError):
                for table, offset in self._offsets.items():
                    new = f"SELECT event_id, k_offset FROM {table} WHERE k_offset > {{after:Int64}}"  # noqa: S608
                    rows = await self.running.warehouse.select(new, {"after": offset})
                    now = time.monotonic()
                    self.seen_at.update({row["event_id"]: now for row in rows if row["event_id"] not in self.seen_at})
                    self._offsets[table] = max([offset, *(row["k_offset"] for row in rows)])
            await asyncio.sleep(WATCH_S)

    async def _say(self, emit: Emit) -> None:
        while True:
            self.rss_bytes = max(self.rss_bytes, _rss_bytes(self.running))
            emit("demo", await self._line())
            await asyncio.sleep(SAY_S)

    async def _line(self) -> str:
        counts = self.ledger.counts
        refused = sum(n for what, n in counts.items() if not what.startswith(("durable", "unknown")))
        members = "-"
        with suppress(PinstreamError, StopIteration):
            wanted = await self.running.audience_members()
            _, there = await self.running.list_members()
            members = f"{len(wanted)} in the audience, {len(there)} at Pinterest"
        seen = self.seen_at.keys() & self.ledger.entries.keys()
        more = len(self.seen_at) - len(seen)
        others = f" and {more} more (yours, or noted by collect)" if more else ""
        return (
            f"{counts['durable']} durable, {len(seen)} in ClickHouse{others}, {refused} refused or dropped; {members}"
        )

    def missing(self) -> set[str]:
        """Answered durable, and not seen in ClickHouse yet."""
        return self.ledger.durable - self.seen_at.keys()

    def freshness_ms(self) -> list[int]:
        """For each event: from its answer until it was seen, sorted. 0 where it was seen first."""
        answered = {entry.event_id: entry.answered_s for entry in self.ledger.entries.values() if entry.answered_s}
        return sorted(max(0, round(1000 * (at - answered[key]))) for key, at in self.seen_at.items() if key in answered)


async def _settle(watch: Watch) -> None:
    """Wait until everything answered durable is in ClickHouse, and Pinterest's list equals the audience."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        if not watch.missing():
            _, there = await watch.running.list_members()
            if there == await watch.running.audience_members():
                return
        await asyncio.sleep(0.3)


async def _summary(watch: Watch, seconds: float) -> Summary:
    running, ledger = watch.running, watch.ledger
    counts = ledger.counts
    durable = sorted(ledger.durable)
    found: set[str] = set()
    for start in range(0, len(durable), IDS_AT_ONCE):
        query = queries.event_ids_present(running.site.id, durable[start : start + IDS_AT_ONCE])
        found |= {row["event_id"] for row in await query.rows(running.warehouse)}
    doubled = await queries.duplicates().rows(running.warehouse)
    wanted = await running.audience_members()
    list_id, there = await running.list_members()
    freshness = watch.freshness_ms() or [0]
    return Summary(
        accepted=len(durable),
        in_clickhouse=len(found),
        lost=len(durable) - len(found),
        duplicates=int(doubled[0]["n"] or 0),
        rejected=_by_reason(counts, "refused"),
        dropped=_by_reason(counts, "dropped"),
        unanswered=sum(_by_reason(counts, "unknown").values()),
        freshness_ms={
            "p50": freshness[len(freshness) // 2],
            "p99": freshness[min(len(freshness) - 1, len(freshness) * 99 // 100)],
        },
        audiences=[Size(running.audience_id, AUDIENCE, len(wanted))],
        pushed=[Pushed(AUDIENCE, list_id, len(there), there == wanted and _as_expected(ledger, wanted))],
        restarts=sum(running.supervisor.restarts.values()),
        rss_mb=watch.rss_bytes >> 20,
        seconds=round(seconds, 1),
    )


def _as_expected(ledger: Ledger, wanted: set[str]) -> bool:
    """Of the people in the ledger, are exactly those in the audience who should be?

    People who came through the shop's pages are not in the ledger; events without a final answer decide nothing.
    """
    known = certain_people(ledger)
    return wanted & known == expected_cart_abandoners(ledger) & known


def _by_reason(counts: Counter[str], status: str) -> dict[str, int]:
    return {what.partition(":")[2]: n for what, n in sorted(counts.items()) if what.startswith(f"{status}:")}


def _rss_bytes(running: Stack) -> int:
    total = psutil.Process().memory_info().rss
    for pid in running.supervisor.pids.values():
        with suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total
