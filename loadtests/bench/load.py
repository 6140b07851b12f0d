"""`scripts/bench load`: the log through `pinstream load` into ClickHouse, beside a loop that inserts the same bytes.

Both go through every view, into databases of one embedded warehouse, in turn, each first in every other round. The
loop inserts blocks that were made before; `load` reads the log, checks every record, makes the blocks and keeps its
positions.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from loadtests.bench import broker, embedded, report
from loadtests.bench.collect import progress, workplace
from loadtests.bench.parts import Fault
from loadtests.bench.processes import cores, free_port, running
from pinstream import metrics
from pinstream.event import EVENTS, Event, LineItem, encode
from pinstream.eventlog.contract import Intent, Log, Partition, Record, Stored
from pinstream.eventlog.journal import JournalLog
from pinstream.eventlog.kafka import KafkaLog
from pinstream.load import batch, deadletter
from pinstream.roles import LOOPBACK
from pinstream.settings import Log as LogSettings
from pinstream.settings import Warehouse as WarehouseSettings
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse

BIN: Final = Path(sys.executable).parent
LOOK_S_PER_M_EVENTS: Final = 1.0
"""Seconds between two looks at the loader, for a million events: some twenty looks a run, whatever its length."""
REST_S: Final = 30.0
QUIET_S: Final = 2.0
STALL_S: Final = 60.0
"""Nothing came for so long: the run is over."""
SECRET: Final = b"bench"

NAMES: Final = (
    *("page_visit",) * 60,
    *("view_content",) * 15,
    *("add_to_cart",) * 10,
    *("search",) * 5,
    *("initiate_checkout",) * 4,
    *("checkout",) * 4,
    *("signup",) * 2,
)


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    events: int
    """Of one run."""
    rounds: int
    log: str
    """kafka or journal."""
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Round:
    """One run of each."""

    rows_per_s: float
    direct_rows_per_s: float
    rss_mb: float
    """The loader's, at most."""

    @property
    def ratio(self) -> float:
        return self.rows_per_s / self.direct_rows_per_s


@dataclass(frozen=True)
class Outcome:
    """What was measured."""

    rounds: list[Round]
    bytes_per_event: int
    block_rows: int

    @property
    def result(self) -> dict[str, Any]:
        return {
            "rows_per_s": round(statistics.median(each.rows_per_s for each in self.rounds)),
            "direct_rows_per_s": round(statistics.median(each.direct_rows_per_s for each in self.rounds)),
            "ratio": round(statistics.median(each.ratio for each in self.rounds), 3),
            "rss_mb": round(statistics.median(each.rss_mb for each in self.rounds)),
        }


def run(options: Options) -> Outcome:
    """Measure both in every round.

    Raises:
        Fault: something does not start, or rows are missing or doubled at the end of a run.
    """
    with workplace() as home, embedded.started(home) as settings:
        if options.log == "journal":
            return asyncio.run(_rounds(options, home, settings, ""))
        with broker.kafka(home / "kafka", broker.CURRENT, cores()) as bootstrap:
            return asyncio.run(_rounds(options, home, settings, bootstrap))


async def _rounds(options: Options, home: Path, settings: WarehouseSettings, bootstrap: str) -> Outcome:
    rounds: list[Round] = []
    size, block_rows = 0, int(options.settings.get("load.block_rows", "10000"))
    env = {"PINSTREAM_" + key.upper().replace(".", "__"): value for key, value in options.settings.items()}
    env |= {"PINSTREAM_LOG__KIND": options.log, "PINSTREAM_LOG__KAFKA_BOOTSTRAP": bootstrap}
    chosen = LogSettings(kind="kafka", kafka_bootstrap=bootstrap or "unused", kafka_create_topics=True)
    log: Log = KafkaLog(chosen) if bootstrap else JournalLog(home / "data" / "journal", LogSettings())
    async with embedded.database(settings, "direct") as direct, embedded.database(settings, "load") as loaded:
        env |= embedded.environment(home, loaded.settings)
        for number in range(options.rounds):
            events = list(make(options.events, seed=number, now_ms=time.time_ns() // 1_000_000))
            size = sum(len(each.value) for each in events) // len(events)
            found: dict[str, float] = {}
            for which in ("direct", "load") if number % 2 else ("load", "direct"):
                await _at_rest(direct)
                if which == "direct":
                    found["direct"] = await _direct(direct, events, block_rows, number * options.events)
                else:
                    await _append(log, events)
                    rest = (broker.PARTITIONS if bootstrap else 1) * block_rows
                    found["load"], found["rss_mb"] = await _loaded(loaded, len(events), rest, home, env)
            one = Round(found["load"], found["direct"], found["rss_mb"])
            rounds.append(one)
            progress(
                f"round {number + 1}/{options.rounds}  load {one.rows_per_s:,.0f} rows/s  direct "
                f"{one.direct_rows_per_s:,.0f} rows/s  ratio {one.ratio:.3f}  loader {one.rss_mb:.0f} MB"
            )
    return Outcome(rounds, size, block_rows)


async def _at_rest(warehouse: Warehouse) -> None:
    """Return once the merges that the run before has left are done: none was seen for QUIET_S."""
    deadline, seen = time.monotonic() + REST_S, time.monotonic()
    while (now := time.monotonic()) < min(deadline, seen + QUIET_S):
        if (await warehouse.select("SELECT count() AS n FROM system.merges"))[0]["n"]:
            seen = now
        await asyncio.sleep(0.2)


def make(count: int, *, seed: int, now_ms: int) -> Iterator[Record]:
    """What shoppers do, about 650 bytes an event, of visitors out of a million: the worst case for the views."""
    dice = random.Random(seed)
    for number in range(count):
        name, visitor = dice.choice(NAMES), dice.randrange(1, 1_000_000)
        shown = name in ("view_content", "add_to_cart", "checkout")
        epik = f"dj0yJnU9{visitor:032x}" if visitor % 5 == 0 else ""
        landed = f"&epik={epik}" if epik and dice.random() < 0.2 else ""
        items = [
            LineItem(
                product_id=f"p{dice.randrange(5000)}",
                product_name="A chair of oak",
                product_category=f"Home > Chairs > {dice.randrange(50)}",
                product_brand="Oak & Sons",
                product_price=19.9,
            )
            for _ in range((1 + (name == "checkout")) * shown)
        ]
        event = Event(
            event=name,
            event_id=str(uuid.UUID(int=dice.getrandbits(128))),
            time=now_ms - dice.randrange(60_000),
            received_ms=now_ms,
            site_id=1,
            visitor_id=visitor * 11400714819323198485 % 2**64,
            consent="yes",
            em=f"{visitor:064x}" if visitor % 4 == 0 else "",
            epik=epik,
            url=f"https://www.shop.example/chairs/{dice.randrange(5000)}?utm_source=pinterest{landed}",
            referrer="https://www.pinterest.com/pin/123456789012345678/",
            value=19.9 * len(items),
            currency="EUR" if items else "",
            order_id=f"o{seed}.{number}" if name == "checkout" else "",
            order_quantity=len(items),
            search_query="oak chair" if name == "search" else "",
            line_items=items,
            ip_prefix="192.0.2.0/24",
            user_agent="Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/142.0.0.0 Safari/537.36",
            language="de-DE",
        )
        yield Record(EVENTS, event.visitor_id, encode(event))


async def _append(log: Log, events: list[Record]) -> None:
    appender = await log.appender()
    try:
        for start in range(0, len(events), 1000):
            await appender.append(events[start : start + 1000])
    finally:
        await appender.aclose()


async def _direct(warehouse: Warehouse, events: list[Record], block_rows: int, first: int) -> float:
    """Rows a second of blocks that were made before, with offsets from `first` on; the first block does not count."""
    blocks = []
    for start in range(0, len(events), block_rows):
        part = [Stored(first + start + n, each.value, 0) for n, each in enumerate(events[start : start + block_rows])]
        intent = Intent(last=part[-1].offset, rollup_version=schema.ROLLUP_VERSION, format=deadletter.FORMAT)
        blocks.append(batch.build(Partition(EVENTS, 0), batch.Judged(part, set()), intent, SECRET))
    columns = schema.insert_columns("events")
    started = 0.0
    for number, block in enumerate(blocks):
        if number == 1:
            started = time.perf_counter()
        await warehouse.insert("events", columns, block.rows, token=block.token)
    seconds = time.perf_counter() - started
    await _whole(warehouse, first + len(events))
    return (len(events) - blocks[0].good) / seconds


async def _loaded(
    warehouse: Warehouse, count: int, rest: int, home: Path, env: Mapping[str, str]
) -> tuple[float, float]:
    """Rows a second of a loader that finds `count` events in the log, and its memory in MB.

    Timed are whole blocks after the first one: the last `rest` wait for more to come, as they should. The loader is
    asked how much it has inserted, and not the warehouse: ten queries a second would cost that a tenth of its time.
    """
    port, log = free_port(), home / "load.log"
    env = {**env, "PINSTREAM_LOAD__OPS_PORT": str(port)}
    before = await _counted(warehouse)
    with running([str(BIN / "pinstream"), "load"], core=None, port=port, log=log, env=env) as process:
        seen: list[tuple[float, int]] = []
        look_s = LOOK_S_PER_M_EVENTS * count / 1_000_000
        looked_at, rss_bytes, done = time.perf_counter(), 0, 0
        async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", trust_env=False) as loader:
            while done < count:
                await asyncio.sleep(look_s)
                done = loaded((await loader.get("/metrics")).text)
                now, rss_bytes = time.perf_counter(), max(rss_bytes, process.rss_bytes())
                if done > (seen[-1][1] if seen else 0):
                    seen.append((now, done))
                    looked_at = now
                elif now - looked_at > STALL_S:
                    raise Fault(f"load stopped at {done:,} of {count:,} events:\n{log.read_text()[-2000:]}")
        await _whole(warehouse, before + count)
    whole = [each for each in seen if each[1] < count - rest]
    if len(whole) < 2:
        raise Fault(f"{count:,} events are too few to time {rest:,} rows of whole blocks: take more --events.")
    (first_at, first), (last_at, last) = whole[0], whole[-1]
    return (last - first) / (last_at - first_at), rss_bytes / 2**20


def loaded(exposition: str) -> int:
    """Pure: how many events were inserted, from Prometheus's text format."""
    return int(metrics.counted(exposition, metrics.LOADED).get(EVENTS, 0))


async def _counted(warehouse: Warehouse) -> int:
    (row,) = await warehouse.select("SELECT sum(n) AS n FROM event_minute")
    return int(row["n"])


async def _whole(warehouse: Warehouse, count: int) -> None:
    (row,) = await warehouse.select("SELECT count() AS n, uniqExact(event_key) AS events FROM events")
    if row != {"n": count, "events": count}:
        raise Fault(f"{count:,} events were written, and ClickHouse holds {row['n']:,} rows of {row['events']:,}.")


def shown(outcome: Outcome) -> str:
    """The rounds and the medians as a table of Markdown."""
    rows = [["round", "load, rows/s", "direct, rows/s", "ratio", "loader, MB"]]
    for number, each in enumerate(outcome.rounds, 1):
        rows.append(
            [
                str(number),
                f"{each.rows_per_s:,.0f}",
                f"{each.direct_rows_per_s:,.0f}",
                f"{each.ratio:.3f}",
                f"{each.rss_mb:.0f}",
            ]
        )
    median = outcome.result
    rows.append(
        [
            "median",
            f"{median['rows_per_s']:,}",
            f"{median['direct_rows_per_s']:,}",
            f"{median['ratio']:.3f}",
            f"{median['rss_mb']:,}",
        ]
    )
    verdict = "held" if median["ratio"] >= 0.95 else "stop line held" if median["ratio"] >= 0.85 else "missed"
    return (
        "\n".join(report.markdown(rows))
        + f"\n\nGoal: a ratio of 0.95, stop line 0.85: {verdict}. Events of {outcome.bytes_per_event} bytes, blocks of "
        f"{outcome.block_rows:,} rows."
    )
