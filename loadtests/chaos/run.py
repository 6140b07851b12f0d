"""One run: parts started, load and faults, the drain awaited, and every event counted."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from loadtests.chaos.disk import Disk, FileSizes, Tmpfs
from loadtests.chaos.faults import OF_COLLECT, Fault, Kind, Parts, inflict
from loadtests.chaos.ledger import Fate, Ledger
from loadtests.chaos.parts import LOOPBACK, Collect, Kafka, PartFault, Say
from loadtests.chaos.proxy import OwnProxy, Proxy, Toxiproxy, free_port, installed_toxiproxy
from loadtests.chaos.readback import event_ids_in_kafka, event_ids_in_spool, left_in_spool
from loadtests.chaos.sender import ORIGIN, TAG_ID, Sender
from loadtests.chaos.watch import Watch
from pinstream.event import EVENTS

How = Literal["kill", "stop", "freeze", "cut"]
OUTAGES: Final[dict[How, Kind]] = {"kill": "kafka_kill", "stop": "kafka_stop", "freeze": "kafka_freeze", "cut": "cut"}

AROUND_S: Final = {"faults": 3.0, "outage": 10.0}
"""Load before the first fault, and after the last."""
READY_S: Final = 120
"""For `collect`, once the faults are over."""
DRAIN_S: Final = 900
"""For the spool, once the load has stopped."""
TELL_S: Final = 5
LOOK_S: Final = 0.2


class Options(Struct, frozen=True, kw_only=True):
    """What the command line says."""

    directory: Path
    faults: Sequence[Fault]
    how: How | None = None
    """An outage instead of faults at random; `faults` then holds that one."""
    rate: float
    seed: int
    workers: int = 0
    """Passed on to `collect`; 0 leaves it out."""
    proxy: Literal["auto", "own", "toxiproxy"] = "auto"

    @property
    def spool(self) -> Path:
        """The folder of collect's spool."""
        return self.directory / "data" / "spool"


async def run(options: Options, tmpfs: Tmpfs | None, say: Say) -> dict[str, Any]:
    """The whole run; returns what the last line of the command says.

    Raises:
        PartFault: a part did not start, `collect` did not come back, or the spool was not drained in time.
    """
    begun = time.monotonic()
    async with _parts(options, tmpfs, say) as parts:
        stage = _Stage(options, parts, say)
        told = await stage.load()
        say(f"counting the {len(stage.ledger)} events one by one")
        in_kafka = await event_ids_in_kafka(f"{LOOPBACK}:{parts.proxy.port}", EVENTS)
        in_spool = await asyncio.to_thread(event_ids_in_spool, options.spool, EVENTS)
        verdict = await asyncio.to_thread(stage.ledger.held_against, in_kafka, in_spool)
        counted: dict[str, Any] = msgspec.to_builtins(verdict)
        return told | counted | {"starts": parts.collect.starts, "seconds": round(time.monotonic() - begun, 1)}


# --- parts ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _parts(options: Options, tmpfs: Tmpfs | None, say: Say) -> AsyncIterator[Parts]:
    async with AsyncExitStack() as stack:
        proxy = await _proxy(options.proxy)
        kafka = Kafka(options.directory / "kafka", proxy.port)
        stack.push_async_callback(kafka.stop)
        await proxy.start(await kafka.start())
        stack.push_async_callback(proxy.aclose)
        collect = Collect(
            _environment(options.directory / "data", proxy.port),
            options.directory / "collect.log",
            workers=options.workers,
            seed=options.seed,
        )
        stack.push_async_callback(collect.aclose)
        await collect.start()
        disk: Disk = tmpfs or FileSizes(collect.processes)
        say(f"Kafka behind {proxy.name}; collect at port {collect.port}")
        if any(fault.kind == "disk_full" for fault in options.faults):
            say(f"a full disk is {disk.name}")
        yield Parts(collect, kafka, proxy, disk)


async def _proxy(wanted: str) -> Proxy:
    program = None if wanted == "own" else await installed_toxiproxy()
    if program is None and wanted == "toxiproxy":
        raise PartFault("Toxiproxy could not be installed. It needs Go (apt-get install golang) and a module proxy.")
    return OwnProxy() if program is None else Toxiproxy(program)


def _environment(data: Path, kafka_port: int) -> dict[str, str]:
    """Settings of `collect`: defaults, but for where things are."""
    return {
        "PINSTREAM_CONFIG": "",
        "PINSTREAM_DATA_DIR": str(data),
        "PINSTREAM_COLLECT__PORT": str(free_port()),
        "PINSTREAM_COLLECT__OPS_PORT": str(free_port()),
        "PINSTREAM_LOG__KIND": "kafka",
        "PINSTREAM_LOG__KAFKA_BOOTSTRAP": f"{LOOPBACK}:{kafka_port}",
        "PINSTREAM_LOG__KAFKA_CREATE_TOPICS": "true",
        "PINSTREAM_SITE__TAG_ID": TAG_ID,
        "PINSTREAM_SITE__ORIGINS": json.dumps([ORIGIN]),
    }


# --- load and faults ------------------------------------------------------------------------------


class _Stage:
    """The load, what happens meanwhile, and what is told about it."""

    def __init__(self, options: Options, parts: Parts, say: Say) -> None:
        self._options = options
        self._parts = parts
        self.ledger = Ledger(options.seed)
        self._sender = Sender(LOOPBACK, parts.collect.port, self.ledger, rate=options.rate, seed=options.seed)
        self._watch = Watch(parts.collect)
        self._tell = say
        self._around_s = AROUND_S["outage" if options.how else "faults"]

    def _say(self, line: str) -> None:
        self._tell(f"{self._sender.now_s:6.1f} s  {line}")

    async def load(self) -> dict[str, Any]:
        """All faults under load, then the drain; what was measured."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._sender.run(stop))
            watching = [group.create_task(self._watch.run()), group.create_task(self._progress())]
            await asyncio.sleep(self._around_s)
            start_bytes = self._watch.rss_bytes
            await self._inflict_all()
            back = time.monotonic()
            await self._until_ready()
            await asyncio.sleep(self._around_s)
            stop.set()
            await sending
            self._say("load stopped; waiting until the spool is empty")
            await self._until_drained()
            drain_s = time.monotonic() - back
            for task in watching:
                task.cancel()
        await self._watch.look()  # at what was counted since it last looked
        return {
            "kills": len(self._options.faults),
            "faults": dict(Counter(fault.kind for fault in self._options.faults)),
            "seed": self._options.seed,
            "rate": self._options.rate,
            "drain_s": round(drain_s, 1),
            "rss_mb": {
                "start": start_bytes >> 20,
                "peak": self._watch.peak_bytes >> 20,
                "end": self._watch.rss_bytes >> 20,
            },
            "answers": dict(self._sender.answers.most_common()),
            "answer_ms": quantiles(self._sender.answer_ms),
            **self._watch.counts,
        }

    async def _inflict_all(self) -> None:
        begun = time.monotonic()
        lanes = (
            [fault for fault in self._options.faults if fault.kind in OF_COLLECT],
            [fault for fault in self._options.faults if fault.kind not in OF_COLLECT],
        )
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(self._inflict(lane, begun))

    async def _inflict(self, faults: Sequence[Fault], begun: float) -> None:
        """One after the other; what takes longer than planned delays all that follow, so that pauses stay pauses."""
        for fault in faults:
            await asyncio.sleep(max(0.0, begun + fault.at_s - time.monotonic()))
            self._say(f"{fault.kind} for {fault.lasts_s:.1f} s")
            await inflict(fault, self._parts)
            self._say(f"{fault.kind} over")
            begun += max(0.0, time.monotonic() - begun - fault.over_s)

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            books, counts = self.ledger, self._watch.counts
            self._say(
                f"sent {len(books)}: durable {books.count(Fate.DURABLE)}, refused {books.count(Fate.REFUSED)}, "
                f"unanswered or open {books.count(Fate.UNANSWERED)}; spooled {counts['spooled']}, drained "
                f"{counts['drained']}; {self._watch.rss_bytes >> 20} MB"
            )

    async def _until_ready(self) -> None:
        async with _bounded(READY_S, "collect did not become ready once the faults were over"):
            while not await self._parts.collect.ready():
                await asyncio.sleep(LOOK_S)

    async def _until_drained(self) -> None:
        async with _bounded(DRAIN_S, "the spool was not drained"):
            while left := await asyncio.to_thread(left_in_spool, self._options.spool):
                self._say(f"{left} records are still in the spool")
                await asyncio.sleep(1)


@asynccontextmanager
async def _bounded(seconds: float, fault: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise PartFault(f"Within {seconds:.0f} s {fault}.") from exc


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and largest, rounded; empty for no values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1) for name, share in at.items()}
