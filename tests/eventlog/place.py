"""Where a test's log lies, told in plain values so that another process can open the same one."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pinstream.errors import LogError
from pinstream.eventlog.contract import Consumer, Intent, Log, Partition, Position, Stored
from pinstream.eventlog.journal import JournalLog
from pinstream.settings import Log as LogSettings

LEASE_S = 2.0


class Place(NamedTuple):
    """`where`: a folder, or a Kafka's bootstrap; `spool`: a folder, if it is written through one."""

    kind: str
    where: str
    topics: Mapping[str, int]
    spool: str = ""

    def log(self, **settings: Any) -> Log:
        if self.kind == "journal":
            return JournalLog(Path(self.where), LogSettings(**settings), lease_s=LEASE_S)
        from pinstream.eventlog.kafka import KafkaLog

        chosen = {"kafka_bootstrap": self.where, "kafka_create_topics": True, "kind": "kafka", **settings}
        kafka = KafkaLog(LogSettings(**chosen), topics=self.topics, session_timeout_ms=int(LEASE_S * 1000))
        if not self.spool:
            return kafka
        from pinstream.eventlog.spool import SpoolingLog

        return SpoolingLog(kafka, Path(self.spool), LogSettings(**chosen))

    @property
    def first(self) -> str:
        return next(iter(self.topics))

    @property
    def other(self) -> str:
        return list(self.topics)[1]


async def owning(consumer: Consumer, *, within_s: float = 20) -> frozenset[Partition]:
    """Poll until the consumer owns something."""
    async with asyncio.timeout(within_s):
        while not consumer.assignment():
            await consumer.poll(timeout_s=0.05, max_records=1)
    return consumer.assignment()


async def start(consumer: Consumer) -> dict[Partition, Position]:
    """What a loader does with a new assignment: read on where the group stands."""
    await owning(consumer)
    positions = {}
    for partition in consumer.assignment():
        position = positions[partition] = await consumer.position(partition)
        bounds = await consumer.bounds(partition)
        consumer.seek(partition, bounds.first if position.offset is None else position.offset)
    return positions


async def read(consumer: Consumer, count: int, *, within_s: float = 20) -> dict[Partition, list[Stored]]:
    """Poll until `count` records came; more than that is a fault."""
    found: dict[Partition, list[Stored]] = {}
    async with asyncio.timeout(within_s):
        while sum(map(len, found.values())) < count:
            for partition, rows in (await consumer.poll(timeout_s=0.2, max_records=1000)).items():
                found.setdefault(partition, []).extend(rows)
    assert sum(map(len, found.values())) == count
    return found


async def member(place: Place, group: str) -> None:
    """A group member in its own process: one JSON line in, one out."""
    consumer = await place.log().consumer(group, list(place.topics))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        try:
            answer = await obey(consumer, order)
        except LogError as exc:
            answer = type(exc).__name__
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await consumer.aclose()


async def obey(consumer: Consumer, order: dict[str, Any]) -> Any:
    if order["do"] == "start":
        await start(consumer)
        return sorted(consumer.assignment())
    if order["do"] == "poll":
        got = await consumer.poll(timeout_s=order["timeout_s"], max_records=1000)
        return sum(map(len, got.values()))
    intent = Intent(**order["intent"]) if order["intent"] else None
    await consumer.commit(Partition(*order["partition"]), order["offset"], intent)
    return "committed"


if __name__ == "__main__":
    said = json.loads(sys.argv[1])
    asyncio.run(member(Place(said["kind"], said["where"], said["topics"]), said["group"]))
