"""`scripts/bench segments`: the templates on the profile, one by one and in one pass, beside the same rules written
straight over `events`; the difference of two large sets inside ClickHouse and in Python; erasure; size on disk.

A year of a shop's events, from as many visitors as asked for, four persons to every ten visitors. Both ways of asking
must give the same counts, or the run is a Fault.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loadtests.bench import embedded, raw_rules, report
from loadtests.bench.collect import progress, workplace
from loadtests.bench.parts import Fault
from pinstream.audiences import compile, membership, templates
from pinstream.audiences.compile import Level, Money, Query
from pinstream.audiences.membership import Target
from pinstream.audiences.rule import Rule
from pinstream.settings import Warehouse as Settings
from pinstream.warehouse.client import Warehouse

SITE: Final = 1
DAYS: Final = 365
BLOCK: Final = 100_000
MIN_VISITORS: Final = 4000
"""So that each of the erased ones is there, and is erased once."""
CHUNK: Final = 1900
GOALS: Final = (("one_pass", 0.2, 0.25), ("person_one_pass", 0.2, 0.25), ("diff", 0.1, 0.25))
"""What, its goal and its stop line, as a share of the other way's time."""
GOALS_FROM_EVENTS: Final = 10_000_000
"""With fewer, what every statement costs hides what the events cost (docs/benchmarks.md)."""

_EVENTS: Final = """
INSERT INTO events (k_partition, k_offset, rollup_version, site_id, event, event_id, time, received_ms, consent,
  visitor_id, em, value, currency, order_id, line_items, url)
WITH
  number % {each:UInt64} = 0 AS own,
  if(own, intDiv(number, {each:UInt64}) * 2654435761, cityHash64(number, 1)) % {visitors:UInt64} AS visitor,
  cityHash64(number, 2) % 100 AS dice,
  {start:Int64} + toInt64(number * {step:Float64}) AS at,
  multiIf(dice < 60, 'page_visit', dice < 75, 'view_content', dice < 85, 'add_to_cart', dice < 90, 'search',
    dice < 94, 'initiate_checkout', dice < 98, 'checkout', 'signup') AS name,
  cityHash64(number, 3) % 5000 AS product
SELECT 0, number, 1, {site:UInt32}, name, toString(number), at, at, 'yes',
  cityHash64(visitor, 7),
  if(visitor % 2 = 0 AND (own OR number % 3 = 0),
    lower(hex(SHA256(toString(intDiv(visitor, 2) % {persons:UInt64})))), ''),
  if(name = 'checkout', (cityHash64(number, 4) % 20000) / 100, 0), 'EUR', if(name = 'checkout', toString(number), ''),
  if(dice < 60 OR name IN ('search', 'signup'), [], [tuple(toString(product), '', toString(product % 20), '', '', '',
    toDecimal64(10, 4), toUInt16(1))]),
  concat('https://shop.example/', toString(product))
FROM numbers({first:UInt64}, {count:UInt64})
"""
"""`own`: every visitor has one, so that as many are there, and as many known, however few events they have. The factor
is a prime: all come, far from their neighbours. The other events fall on anybody.
"""
_WITHDRAWALS: Final = """
INSERT INTO events (k_partition, k_offset, rollup_version, site_id, event, event_id, time, received_ms, consent,
  visitor_id, line_items)
SELECT 0, number, 1, {site:UInt32}, 'consent_withdrawn', toString(number), {now:Int64} - 1000, {now:Int64} - 1000, 'no',
  cityHash64(number * 500, 7), []
FROM numbers(intDiv({visitors:UInt64}, 500))
"""
_CANCELLATIONS: Final = """
INSERT INTO events (k_partition, k_offset, rollup_version, site_id, event, event_id, time, received_ms, consent,
  source, visitor_id, order_id, line_items)
SELECT 0, number, 1, {site:UInt32}, 'order_refunded', order_id, {now:Int64} - 1000, {now:Int64} - 1000, 'unknown',
  'api', 0, order_id, []
FROM (SELECT number, order_id FROM (SELECT k_offset AS number, order_id FROM events
  WHERE site_id = {site:UInt32} AND event_name = 'checkout') WHERE number % 20 = 0)
"""
_ENGAGEMENTS: Final = """
INSERT INTO engagements (k_partition, k_offset, rollup_version, site_id, action, event_id, time, received_ms,
  visitor_id, pin_id)
SELECT 0, number, 1, {site:UInt32}, 1 + number % 5, toString(number), {start:Int64} + toInt64(number * {step:Float64}),
  {now:Int64}, cityHash64(cityHash64(number, 9) % {visitors:UInt64}, 7), 1 + cityHash64(number, 5) % 100
FROM numbers({count:UInt64})
"""


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    events: int
    visitors: int
    rounds: int


@dataclass(frozen=True)
class Outcome:
    """What was measured."""

    events: int
    visitors: int
    times_ms: Mapping[str, list[float]]
    """Name -> the time of each round."""
    bytes_per_event: float

    @property
    def rounds(self) -> int:
        return len(self.times_ms["one_pass"])

    def median(self, name: str) -> float:
        return statistics.median(self.times_ms[name])

    @property
    def result(self) -> dict[str, Any]:
        def total(kind: str) -> float:
            return round(sum(self.median(name) for name in self.times_ms if name.startswith(f"{kind}:")), 1)

        names = [name.removeprefix("each:") for name in self.times_ms if name.startswith("each:")]
        single = ("one_pass", "person_one_pass", "diff", "python_diff", "erase_1", "erase_1000")
        return {
            "events": self.events,
            "visitors": self.visitors,
            **{f"{name}_ms": round(self.median(name), 1) for name in single},
            "each_ms": {name: round(self.median(f"each:{name}"), 1) for name in names},
            "person_each_ms": {name: round(self.median(f"person_each:{name}"), 1) for name in names},
            "raw_total_ms": total("raw"),
            "person_raw_total_ms": total("person_raw"),
            "bytes_per_event": round(self.bytes_per_event, 1),
        }

    def ratios(self) -> dict[str, float]:
        """Ours as a share of the other way's time."""
        found = self.result
        other = {"one_pass": "raw_total_ms", "person_one_pass": "person_raw_total_ms", "diff": "python_diff_ms"}
        return {name: found[f"{name}_ms"] / found[against] for name, against in other.items()}


def run(options: Options) -> Outcome:
    """Fill an embedded warehouse, then measure in rounds, all of them in turn.

    Raises:
        Fault: the warehouse does not start, or two ways of asking give two answers.
    """
    with workplace() as home, embedded.started(home) as settings:
        return asyncio.run(_measured(settings, options))


async def _measured(settings: Settings, options: Options) -> Outcome:
    async with embedded.database(settings) as warehouse:
        shop = _Shop(warehouse, options.events, options.visitors, time.time_ns() // 1_000_000)
        await shop.fill()
        times: dict[str, list[float]] = {}
        for number in range(options.rounds):
            await _round(shop, times, number)
            took = ", ".join(f"{name.replace('_', ' ')} {ms:,.0f} ms" for name, ms in _last(times).items())
            progress(f"round {number + 1} of {options.rounds}: {took}")
        size = await shop.bytes_on_disk()
        await shop.erase(times)
        return Outcome(options.events, shop.visitors, times, size / options.events)


def _last(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: round(found[-1]) for name, found in times.items() if ":" not in name}


class _Shop:
    """A filled warehouse, and what is asked of it."""

    def __init__(self, warehouse: Warehouse, events: int, visitors: int, now_ms: int) -> None:
        self.warehouse = warehouse
        self.events = events
        self.visitors = visitors
        self.now_ms = now_ms
        self.rules = {each.key: _rule(each) for each in templates.ALL}
        self._members = max(1000, self.visitors // 2)

    async def fill(self) -> None:
        """In order of time, in blocks, through all views."""
        span_ms = DAYS * 86_400_000
        common = {"site": SITE, "visitors": self.visitors, "start": self.now_ms - span_ms, "now": self.now_ms}
        step = (span_ms - 7_200_000) / self.events
        began = time.monotonic()
        for first in range(0, self.events, BLOCK):
            count = min(BLOCK, self.events - first)
            own = {"first": first, "count": count, "step": step, "persons": self.visitors * 4 // 10}
            own["each"] = self.events // self.visitors
            await self._insert(_EVENTS, common | own, f"events {first}")
            if first % (10 * BLOCK) == 0:
                progress(f"{first + count:,} of {self.events:,} events, {time.monotonic() - began:.0f} s")
        await self._insert(_WITHDRAWALS, common, "withdrawals")
        await self._insert(_CANCELLATIONS, common, "cancellations")
        count = max(1, self.events // 100)
        await self._insert(_ENGAGEMENTS, common | {"count": count, "step": span_ms / count - 1}, "engagements")

    async def _insert(self, sql: str, params: dict[str, Any], token: str) -> None:
        settings = {
            "insert_deduplication_token": token,
            "deduplicate_blocks_in_dependent_materialized_views": 1,
            "max_block_size": BLOCK,
            "min_insert_block_size_rows": 10 * BLOCK,
        }
        await self.warehouse.command(sql, params, settings)

    def sizes(self, rules: list[Rule], level: Level) -> Query:
        """Ours."""
        return compile.sizes(rules, level=level, site_id=SITE, now_ms=self.now_ms, money=Money(currency="EUR"))

    async def one(self, query: Query) -> list[int]:
        """The only row."""
        [row] = await self.warehouse.select(query.sql, query.params)
        return [int(value) for value in row.values()]

    async def bytes_on_disk(self) -> int:
        [row] = await self.warehouse.select(
            "SELECT sum(bytes_on_disk) AS n FROM system.parts WHERE active AND database = currentDatabase()"
        )
        return int(row["n"])

    async def erase(self, times: dict[str, list[float]]) -> None:
        """Take visitors out of `events`, others each time, so that nobody finds them any more."""
        for name, count in (("erase_1", 1), ("erase_1000", 1000)):
            for number in range(1, 4):
                who = f"cityHash64({number * count} + number, 7)"
                sql = (
                    f"DELETE FROM events WHERE site_id = {SITE} AND visitor_id IN (SELECT {who} FROM numbers({count}))"
                )
                command = self.warehouse.command(sql, None, {"lightweight_delete_mode": "lightweight_update"})
                times.setdefault(name, []).append(await _timed(command))

    async def difference(self) -> int:
        """Of two large sets, by the query a sync uses: how many differ."""
        target = Target(site_id=SITE, audience_id=1, run_id=1)
        found = 0
        async for _, page in membership.difference(self.warehouse, target, CHUNK):
            found += len(page) // 32
        return found

    async def difference_in_python(self) -> int:
        """The same by fetching both sides."""
        sides = []
        for table in (
            "audience_desired FINAL WHERE site_id = 1 AND audience_id = 1 AND run_id = 1",
            "audience_member FINAL WHERE site_id = 1 AND audience_id = 1 AND state = 1",
        ):
            found = await self.warehouse.select_bytes(f"SELECT em FROM {table}", fmt="RowBinary")
            sides.append({found[at : at + 32] for at in range(0, len(found), 32)})
        return len(sides[0] - sides[1]) + len(sides[1] - sides[0])

    async def fill_members(self) -> None:
        """So many wanted, and so many members of whom a twentieth are others."""
        desired, others = self._members, self._members // 20
        em = "toFixedString(SHA256(toString({})), 32)"
        await self.warehouse.command("TRUNCATE TABLE audience_desired")
        await self.warehouse.command("TRUNCATE TABLE audience_member")
        await self.warehouse.command(
            f"INSERT INTO audience_desired (site_id, audience_id, run_id, em) "
            f"SELECT 1, 1, 1, {em.format('number')} FROM numbers({desired})"
        )
        await self.warehouse.command(
            "INSERT INTO audience_member (site_id, audience_id, em, state, op_at, sync_id, chunk_id) "
            f"SELECT 1, 1, {em.format('number')}, 1, now64(3), 1, 'bench' FROM numbers({others}, {desired - others})"
        )


def _rule(template: templates.Template) -> Rule:
    asked: dict[str, dict[str, Any]] = {
        "cross_sell": {"bought_categories": "3", "not_categories": "4"},
        "brand_lovers": {"within_days": 60},
    }
    return template.rule(asked.get(template.key))


async def _round(shop: _Shop, times: dict[str, list[float]], number: int) -> None:
    """Every way once; in every other round the other way round."""
    answers: dict[str, list[int]] = {}

    async def ask(name: str, query: Query) -> None:
        async def once() -> None:
            answers[name] = await shop.one(query)

        times.setdefault(name, []).append(await _timed(once()))

    steps: list[tuple[str, Query]] = []
    levels: tuple[tuple[str, Level], ...] = (("", "visitor"), ("person_", "person"))
    for prefix, level in levels:
        steps.append((f"{prefix}one_pass", shop.sizes(list(shop.rules.values()), level)))
        for key, rule in shop.rules.items():
            steps.append((f"{prefix}each:{key}", shop.sizes([rule], level)))
            steps.append((f"{prefix}raw:{key}", raw_rules.size(key, level, SITE, shop.now_ms)))
    for name, query in reversed(steps) if number % 2 else steps:
        await ask(name, query)
    for prefix, _ in levels:
        for place, key in enumerate(shop.rules):
            told = [answers[f"{prefix}{way}:{key}"][0] for way in ("each", "raw")]
            told.append(answers[f"{prefix}one_pass"][place])
            if len(set(told)) != 1:
                raise Fault(f"{prefix}{key}: the ways of asking give different answers, {told}.")
    await shop.fill_members()
    found: list[int] = []

    async def compare(way: Callable[[], Awaitable[int]]) -> None:
        found.append(await way())

    for name, way in (("diff", shop.difference), ("python_diff", shop.difference_in_python)):
        times.setdefault(name, []).append(await _timed(compare(way)))
    if len(set(found)) != 1:
        raise Fault(f"The two differences have {found} people.")


async def _timed(action: Awaitable[None]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    await action
    return (time.perf_counter() - began) * 1000


def shown(outcome: Outcome) -> str:
    """The tables, in Markdown."""
    found = outcome.result
    rows = [["template", "visitor ms", "raw", "person ms", "raw"]]
    for key in found["each_ms"]:
        cells = (f"each:{key}", f"raw:{key}", f"person_each:{key}", f"person_raw:{key}")
        rows.append([key, *(f"{outcome.median(name):.0f}" for name in cells)])
    totals = (found["one_pass_ms"], found["raw_total_ms"], found["person_one_pass_ms"], found["person_raw_total_ms"])
    rows.append(["all in one pass; raw: sum", *(f"{value:.0f}" for value in totals)])
    ratios = outcome.ratios()
    goals = [["share of the other way's time", "measured", "goal", "stop line", "verdict"]]
    goals += [
        [name, f"{ratios[name]:.3f}", f"{goal:g}", f"{stop:g}", _verdict(outcome.events, ratios[name], goal, stop)]
        for name, goal, stop in GOALS
    ]
    rest = (
        f"{outcome.events:,} events, {outcome.visitors:,} visitors, {found['bytes_per_event']:.0f} bytes an event on "
        f"disk. Difference: {found['diff_ms']:.0f} ms, in Python {found['python_diff_ms']:.0f} ms. Erasure of 1 "
        f"visitor {found['erase_1_ms']:.0f} ms, of 1,000 {found['erase_1000_ms']:.0f} ms."
    )
    return "\n".join([*report.markdown(rows), "", *report.markdown(goals), "", rest])


SIZES: Final = (
    "visitors",
    "events",
    "one pass, ms",
    "raw, sum",
    "share",
    "people, one pass",
    "raw, sum",
    "share",
    "difference",
    "in Python",
    "rounds",
    "on",
)
"""The columns of the table that keeps a row for each size."""


def size(outcome: Outcome, day: str) -> list[str]:
    """A row of that table; `day`: when it was measured."""
    found, ratios = outcome.result, outcome.ratios()

    def beside(ours: str, other: str) -> list[str]:
        return [f"{found[f'{ours}_ms']:,.0f}", f"{found[other]:,.0f}", f"{ratios[ours]:.3f}"]

    return [
        f"{outcome.visitors:,}",
        f"{outcome.events:,}",
        *beside("one_pass", "raw_total_ms"),
        *beside("person_one_pass", "person_raw_total_ms"),
        *beside("diff", "python_diff_ms")[:2],
        str(outcome.rounds),
        day,
    ]


def _verdict(events: int, share: float, goal: float, stop: float) -> str:
    if events < GOALS_FROM_EVENTS:
        return f"no goal below {GOALS_FROM_EVENTS:,} events"
    if share <= goal:
        return "goal met"
    return "stop line held" if share <= stop else "missed"
