"""`scripts/chaos load`: hurt loaders, the warehouse and Kafka under load, then compare with what one calm pass makes.

Two real `pinstream load` read a real Kafka and insert through a TCP front into a real embedded warehouse, while rollups
are built anew now and then. Afterwards every record of Kafka is looked up by its offset, and every rollup is compared,
row by row, with that of a second database into which the same records were inserted once, in order, undisturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, get_args

from aiokafka import AIOKafkaConsumer
from msgspec import Struct
from pydantic import SecretStr

from loadtests.chaos.parts import LOOPBACK, Kafka, PartFault, Say
from loadtests.chaos.proxy import OwnProxy, free_port
from pinstream.errors import LogError, PinstreamError, WarehouseError
from pinstream.event import ENGAGEMENTS, EVENTS, Action, Engagement, Event, LineItem, encode
from pinstream.eventlog.contract import Intent, Partition, Record, Stored
from pinstream.eventlog.kafka import SESSION_MS, KafkaLog
from pinstream.load import batch, deadletter
from pinstream.settings import Log as LogSettings
from pinstream.settings import Warehouse as WarehouseSettings
from pinstream.warehouse import rollup, schema
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.migrate import migrate

Kind = Literal[
    "load_kill",
    "load_freeze",
    "load_joins",
    "warehouse_kill",
    "answers_lost",
    "front_cut",
    "kafka_kill",
    "kafka_restart",
    "rebuild",
]
"""load_kill, warehouse_kill, kafka_kill: SIGKILL. load_freeze: SIGSTOP for longer than Kafka waits for a member, so
that it wakes up as a zombie. load_joins: a third loader comes and goes. answers_lost: inserts arrive and their answers
do not; the connections are cut at the end. rebuild: `pinstream warehouse rebuild`, which goes on under what follows."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
WEIGHTS: Final[Mapping[Kind, int]] = {"load_kill": 3, "warehouse_kill": 2, "answers_lost": 2}
TOPICS: Final = (EVENTS, ENGAGEMENTS)
PASSWORD: Final = "chaos"
BLOCK_ROWS: Final = 500
READY_S: Final = 240.0
GO_ON_S: Final = 20.0
"""After a fault, before most of the next ones, until something is loaded again."""
SETTLE_S: Final = 600.0
"""For the loaders to read all there is, once everything runs again."""
RESTART_S: Final = 0.3
TRUTH_ROWS: Final = 20_000


class Options(Struct, frozen=True, kw_only=True):
    """What the command line says."""

    directory: Path
    kills: int
    rate: float
    seed: int
    kinds: Sequence[Kind] = KINDS


class Program:
    """A role of pinstream as users run it, started again whenever it dies."""

    def __init__(self, role: str, environment: Mapping[str, str], log: Path) -> None:
        self._role = role
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith("PINSTREAM_")}
        self._environment |= environment
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and keep it running until `aclose`."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self._role}")

    def signal(self, number: signal.Signals) -> None:
        """Send it one; nothing happens if it is just starting again."""
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def aclose(self) -> int | None:
        """Stop it in an orderly way, for good; its exit code."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is None:
            return None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self._process.wait(), 60)
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    async def _spawn(self) -> None:
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pinstream", self._role, env=self._environment, stdout=output, stderr=output
            )

    async def _keep(self) -> None:
        while self._process:
            await self._process.wait()
            await asyncio.sleep(RESTART_S)
            await self._spawn()


class Parts(Struct, frozen=True):
    """What can be hurt, and how to ask afterwards."""

    kafka: Kafka
    bootstrap: str
    front: OwnProxy
    warehouse: Program
    loaders: Sequence[Program]
    loader: Callable[[], Program]
    """Another one, not started."""
    environment: Mapping[str, str]
    settings: WarehouseSettings
    """Of the database that is loaded; the front is not in the way."""


@asynccontextmanager
async def _parts(options: Options, say: Say) -> AsyncIterator[Parts]:
    home = options.directory
    async with AsyncExitStack() as stack:
        network, front = OwnProxy(), OwnProxy()
        kafka = Kafka(home / "kafka", network.port)
        stack.push_async_callback(kafka.stop)
        await network.start(await kafka.start())
        stack.push_async_callback(network.aclose)
        settings = WarehouseSettings(
            url=f"http://{LOOPBACK}:{free_port()}", password=SecretStr(PASSWORD), database="loaded"
        )
        environment = {
            "PINSTREAM_CONFIG": "",
            "PINSTREAM_DATA_DIR": str(home / "data"),
            "PINSTREAM_WAREHOUSE__PASSWORD": PASSWORD,
            "PINSTREAM_WAREHOUSE__DATABASE": settings.database,
            "PINSTREAM_LOG__KIND": "kafka",
            "PINSTREAM_LOG__SPOOL": "false",
            "PINSTREAM_LOG__KAFKA_BOOTSTRAP": f"{LOOPBACK}:{network.port}",
            "PINSTREAM_LOG__KAFKA_CREATE_TOPICS": "true",
            "PINSTREAM_LOAD__BLOCK_ROWS": str(BLOCK_ROWS),
            "PINSTREAM_LOAD__INTERVAL_S": "0.2",
        }
        own = environment | {"PINSTREAM_WAREHOUSE__URL": settings.url}
        through_front = environment | {"PINSTREAM_WAREHOUSE__URL": f"http://{LOOPBACK}:{front.port}"}
        warehouse = Program("warehouse", own, home / "warehouse.log")
        stack.push_async_callback(warehouse.aclose)
        await warehouse.start()
        await front.start(int(settings.url.rpartition(":")[2]))
        stack.push_async_callback(front.aclose)

        def loader() -> Program:
            return Program("load", through_front | {"PINSTREAM_LOAD__OPS_PORT": str(free_port())}, home / "load.log")

        loaders = [loader(), loader()]
        for each in loaders:
            stack.push_async_callback(each.aclose)
            await each.start()
        say(f"Kafka, a warehouse behind a front at port {front.port}, two loaders")
        bootstrap = f"{LOOPBACK}:{network.port}"
        yield Parts(kafka, bootstrap, front, warehouse, loaders, loader, through_front, settings)


# --- the load --------------------------------------------------------------------------------------


def records(rng: random.Random, count: int, now_ms: int) -> list[Record]:
    """`count` different ones of 2,000 visitors: events, one in five an action on a Pin, one in 500 no event at all."""
    return [_record(rng, now_ms) for _ in range(count)]


def _record(rng: random.Random, now_ms: int) -> Record:
    visitor, unique = rng.randrange(1, 2001), f"{rng.getrandbits(96):024x}"
    if rng.random() < 0.002:
        return Record(EVENTS, visitor, b'{"event":"%s","site_id":0}' % unique.encode())
    at, product = now_ms - rng.randrange(3_600_000), f"p{rng.randrange(200)}"
    em = f"{visitor:064x}" if visitor % 3 == 0 else ""
    if rng.random() < 0.2:
        action: Action = rng.choice(get_args(Action))
        engagement = Engagement(
            site_id=1,
            action=action,
            event_id=unique,
            time=at,
            received_ms=now_ms,
            visitor_id=visitor,
            em=em,
            pin_id=rng.randrange(1, 500),
            board_id=rng.randrange(1, 20),
            campaign_id=rng.randrange(3),
            product_id=product,
        )
        return Record(ENGAGEMENTS, visitor, encode(engagement))
    name = rng.choice(("page_visit", "view_content", "add_to_cart", "checkout", "order_cancelled", "search"))
    epik = unique if rng.random() < 0.1 else ""
    event = Event(
        event=name,
        event_id=unique,
        site_id=1,
        time=at,
        received_ms=now_ms,
        visitor_id=visitor,
        em=em,
        consent="yes",
        epik=epik,
        url=f"https://shop.example/{product}?epik={epik}" if epik else f"https://shop.example/{product}",
        order_id=f"o{rng.randrange(100_000)}" if name in ("checkout", "order_cancelled") else "",
        source="api" if name == "order_cancelled" else "tag",
        value=rng.randrange(1, 10_000) / 100,
        currency="EUR",
        line_items=[LineItem(product_id=product, product_category="c")] if name != "search" else [],
    )
    return Record(EVENTS, visitor, encode(event))


async def _feed(options: Options, bootstrap: str, stop: asyncio.Event, say: Say) -> None:
    """Append at the wanted rate. What was not acknowledged is never sent again: Kafka's content is the truth."""
    rng = random.Random(options.seed)
    log = KafkaLog(LogSettings(kind="kafka", kafka_bootstrap=bootstrap, kafka_create_topics=True))
    appender = await log.appender()
    try:
        while not stop.is_set():
            begun = time.monotonic()
            some = records(rng, max(1, int(options.rate / 5)), time.time_ns() // 1_000_000)
            try:
                await appender.append(some)
            except LogError as exc:
                say(f"Kafka does not take records: {str(exc)[:100]}")
            await asyncio.sleep(max(0.0, 0.2 - (time.monotonic() - begun)))
    finally:
        with suppress(LogError):
            await appender.aclose()


# --- faults ----------------------------------------------------------------------------------------


def plan(options: Options) -> list[Kind]:
    """What is done, in this order: dealt from a shuffled deck, to its end each time."""
    rng = random.Random(options.seed)
    dealt: list[Kind] = []
    while len(dealt) < options.kills:
        deck = [kind for kind in options.kinds for _ in range(WEIGHTS.get(kind, 1))]
        rng.shuffle(deck)
        dealt += deck
    return dealt[: options.kills]


async def _inflict(kind: Kind, parts: Parts, rng: random.Random, background: asyncio.TaskGroup, say: Say) -> None:
    victim = rng.choice(parts.loaders)
    if kind == "load_kill":
        victim.signal(signal.SIGKILL)
    elif kind == "load_freeze":
        victim.signal(signal.SIGSTOP)
        await asyncio.sleep(SESSION_MS / 1000 + 2)
        victim.signal(signal.SIGCONT)
    elif kind == "load_joins":
        third = parts.loader()
        await third.start()
        await asyncio.sleep(rng.uniform(3, 8))
        await third.aclose()
    elif kind == "warehouse_kill":
        parts.warehouse.signal(signal.SIGKILL)
    elif kind in ("answers_lost", "front_cut"):
        await parts.front.impose("acks_lost" if kind == "answers_lost" else "cut")
        await asyncio.sleep(rng.uniform(0.5, 3))
        await parts.front.heal()
    elif kind == "kafka_kill":
        await parts.kafka.kill()
        await parts.kafka.start()
    elif kind == "kafka_restart":
        await parts.kafka.stop()
        await parts.kafka.start()
    else:
        background.create_task(_rebuild(parts, rng.choice(rollup.names()), say))


async def _rebuild(parts: Parts, name: str, say: Say) -> None:
    """One rebuild. It may fail under what is done meanwhile; what it leaves is put in order by the next or by load."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pinstream", "warehouse", "rebuild", "--view", name),
        env={**os.environ, **parts.environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = err.decode().strip().splitlines()
    say(f"rebuild of {name}: {'done' if process.returncode == 0 else said[-1] if said else process.returncode}")


# --- what is true ----------------------------------------------------------------------------------


async def in_kafka(bootstrap: str) -> dict[Partition, list[Stored]]:
    """Every record of both topics, read past the code under test."""
    consumer = AIOKafkaConsumer(
        *TOPICS, bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: dict[Partition, list[Stored]] = {}
    try:
        partitions = sorted(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            for at, rows in (await consumer.getmany(timeout_ms=2000, max_records=20_000)).items():
                some = found.setdefault(Partition(at.topic, at.partition), [])
                some += [Stored(row.offset, row.value or b"", row.timestamp) for row in rows]
    finally:
        await consumer.stop()
    return found


async def positions(warehouse: Warehouse, topic: str) -> Counter[tuple[int, int]]:
    """How often ClickHouse has each (partition, offset) of a topic, dead letters included."""
    rows = await warehouse.select(
        f"SELECT k_partition AS p, k_offset AS o FROM {schema.TABLE_OF_TOPIC[topic]} "
        "UNION ALL SELECT k_partition, k_offset FROM rejected WHERE topic = {topic:String}",
        {"topic": topic},
    )
    return Counter((row["p"], row["o"]) for row in rows)


async def _calm_pass(warehouse: Warehouse, found: Mapping[Partition, Sequence[Stored]], secret: bytes) -> None:
    """Insert every record once, in order."""
    for partition, stored in found.items():
        check = deadletter.CHECKS[partition.topic]
        for start in range(0, len(stored), TRUTH_ROWS):
            part = batch.judge(stored[start : start + TRUTH_ROWS], check)
            last = part.records[-1].offset
            intent = Intent(last=last, rollup_version=schema.ROLLUP_VERSION, format=deadletter.FORMAT)
            block = batch.build(partition, part, intent, secret)
            for table, body, token in block.inserts(partition.topic):
                await warehouse.insert(table, schema.insert_columns(table), body, token=token)


async def compared(warehouse: Warehouse, loaded: str, calm: str, name: str) -> dict[str, int]:
    """Rows of a rollup that the calm pass has and the loaded database has not, and the other way round."""
    columns = await warehouse.select(
        "SELECT name, type FROM system.columns WHERE database = {db:String} AND table = {t:String} ORDER BY position",
        {"db": calm, "t": name},
    )
    chosen = ", ".join(_comparable(row["name"], row["type"]) for row in columns)
    count = "SELECT count() AS n FROM (SELECT {0} FROM {1}.{3} FINAL EXCEPT SELECT {0} FROM {2}.{3} FINAL)"
    (missing,) = await warehouse.select(count.format(chosen, calm, loaded, name))
    (doubled,) = await warehouse.select(count.format(chosen, loaded, calm, name))
    return {"missing": int(missing["n"]), "doubled": int(doubled["n"])}


def _comparable(name: str, kind: str) -> str:
    if kind.startswith("AggregateFunction"):
        return f"finalizeAggregation({name}) AS {name}_"
    if "Array(" in kind:
        return f"arraySort({name}) AS {name}_"
    return f"mapSort({name}) AS {name}_" if "Map(" in kind else name


# --- one run ---------------------------------------------------------------------------------------


async def run(options: Options, say: Say) -> dict[str, Any]:
    """Everything; returns what the last line says. Raises PartFault if a part does not come back."""
    begun = time.monotonic()

    def tell(line: str) -> None:
        say(f"{time.monotonic() - begun:6.1f} s  {line}")

    async with _parts(options, tell) as parts:
        warehouse = Warehouse.open(parts.settings, password=PASSWORD)
        try:
            faults = plan(options)
            await _hurt(options, parts, warehouse, faults, tell)
            found = await in_kafka(parts.bootstrap)
            await _settled(warehouse, found, tell)
            for each in parts.loaders:
                await each.aclose()
            verdict = await _verdict(warehouse, found, tell)
        finally:
            await warehouse.aclose()
    return {
        "kills": len(faults),
        "faults": dict(Counter(faults)),
        "seed": options.seed,
        **verdict,
        "seconds": round(time.monotonic() - begun, 1),
    }


async def _more(warehouse: Warehouse, than: int, wait_s: float) -> int:
    """How many records the views have counted, once they are more than `than`, or after `wait_s`."""
    deadline, now = time.monotonic() + wait_s, -1
    while now <= than and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        with suppress(PinstreamError):
            (row,) = await warehouse.select("SELECT sum(n) AS n FROM event_minute")
            now = int(row["n"])
    return now


async def _hurt(options: Options, parts: Parts, warehouse: Warehouse, faults: Sequence[Kind], say: Say) -> None:
    """One fault after the other, each into a load that goes on, or does not yet go on again after the one before."""
    rng, stop = random.Random(options.seed + 1), asyncio.Event()
    async with asyncio.TaskGroup() as background:
        feeding = background.create_task(_feed(options, parts.bootstrap, stop, say))
        if (counted := await _more(warehouse, 0, READY_S)) <= 0:
            raise PartFault(f"The loaders load nothing; see {options.directory}/load.log")
        for number, kind in enumerate(faults, 1):
            await asyncio.sleep(rng.uniform(0.5, 3))
            if rng.random() < 0.7:
                counted = await _more(warehouse, counted, GO_ON_S)
            say(f"{number}/{len(faults)} {kind}")
            await _inflict(kind, parts, rng, background, say)
        await asyncio.sleep(3)
        stop.set()
        await feeding
        say("the load has stopped; rebuilds under way are waited for")


async def _settled(warehouse: Warehouse, found: Mapping[Partition, Sequence[Stored]], say: Say) -> None:
    """Return once ClickHouse has every record, or has got no more of them for a while."""
    wanted, deadline = sum(map(len, found.values())), time.monotonic() + SETTLE_S
    last, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        try:
            there = sum([len(await positions(warehouse, topic)) for topic in TOPICS])
        except WarehouseError:
            there = last
        if there != last:
            last, since = there, time.monotonic()
            say(f"{there:,} of {wanted:,} records are in ClickHouse")
        if there >= wanted or time.monotonic() - since > 180:
            break
        await asyncio.sleep(0.5)
    await asyncio.sleep(5)  # a block's rows are there before what its views make of them


async def _verdict(warehouse: Warehouse, found: Mapping[Partition, Sequence[Stored]], say: Say) -> dict[str, Any]:
    missing = doubled = 0
    for topic in TOPICS:
        loaded = await positions(warehouse, topic)
        wanted = {(at.number, row.offset) for at, rows in found.items() if at.topic == topic for row in rows}
        missing += len(wanted - loaded.keys())
        doubled += sum(times - 1 for times in loaded.values()) + len(loaded.keys() - wanted)
    say("the same records are inserted once more, calmly, into a second database")
    calm = Warehouse.open(warehouse.settings.model_copy(update={"database": "calm"}), password=PASSWORD)
    try:
        await migrate(calm, calm.settings)
        await _calm_pass(calm, found, b"chaos")
        views = {name: await compared(calm, warehouse.database, "calm", name) for name in rollup.names()}
    finally:
        await calm.aclose()
    return {"in_kafka": sum(map(len, found.values())), "missing": missing, "doubled": doubled, "views": views}


# --- the command -----------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: nothing is missing and nothing doubled; 1: something is, or a part did not come back."""
    parser = argparse.ArgumentParser("scripts/chaos load", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="faults, one after the other (30)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="only these, with commas between them (all)")
    parser.add_argument("--rate", type=float, default=500, help="records a second (500)")
    parser.add_argument("--seed", type=int, help="of all dice (another one each time, and told)")
    parser.add_argument("--dir", type=Path, help="keep everything there (a temporary folder, kept after a failure)")
    parser.add_argument("--json", action="store_true", help="the last line is a JSON object")
    said = parser.parse_args(arguments)
    kinds = [kind for kind in KINDS if kind in said.kinds.split(",")]
    if said.kills < 1 or said.rate <= 0 or not kinds:
        parser.error(f"numbers must be above 0, and --kinds some of {','.join(KINDS)}")
    options = Options(
        directory=Path(said.dir or tempfile.mkdtemp(prefix="pinstream-chaos-load-")).absolute(),
        kills=said.kills,
        rate=said.rate,
        seed=random.randrange(2**31) if said.seed is None else said.seed,
        kinds=kinds,
    )
    options.directory.mkdir(parents=True, exist_ok=True)
    outcome: dict[str, Any] | None = None
    try:
        outcome = asyncio.run(_until_told(options))
    except* PartFault as group:
        for fault in group.exceptions:
            _say(f"scripts/chaos: {fault}")
    except* (KeyboardInterrupt, asyncio.CancelledError):
        _say("scripts/chaos: stopped; nothing was counted")
    exact = outcome is not None and holds(outcome)
    if exact and not said.dir:
        shutil.rmtree(options.directory, ignore_errors=True)
    else:
        _say(f"everything is kept in {options.directory} (--seed {options.seed})")
    if outcome is not None:
        _say(f"{outcome['in_kafka']:,} records: {outcome['missing']} missing, {outcome['doubled']} doubled")
        for name, each in outcome["views"].items():
            _say(f"{name:20} {each['missing']} missing, {each['doubled']} doubled")
        if said.json:
            print(json.dumps(outcome))
    return 0 if exact else 1


def holds(outcome: Mapping[str, Any]) -> bool:
    """Is nothing missing and nothing doubled, of something?"""
    counts = [outcome, *outcome["views"].values()]
    return outcome["in_kafka"] > 0 and not any(each["missing"] or each["doubled"] for each in counts)


async def _until_told(options: Options) -> dict[str, Any]:
    """`run`; SIGTERM ends it as Ctrl-C does, with all that it started."""
    task = asyncio.current_task()
    assert task  # narrows the type
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(options, _say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
