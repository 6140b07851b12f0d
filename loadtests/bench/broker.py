"""A real Kafka of this benchmark's own, and how many records a topic holds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from loadtests.bench.parts import Fault, need
from loadtests.bench.processes import ROOT, pinned

CURRENT: Final = "4.1.1"
OLD: Final = "3.9.1"
"""The last that takes the Produce requests of lua-nginx-kafka."""

PARTITIONS: Final = 3
SETTLE_S: Final = 30.0


@contextmanager
def kafka(home: Path, version: str, where: Sequence[int]) -> Iterator[str]:
    """One node on these cores while the block runs; gives its bootstrap."""
    need("java", "mvn", "taskset")
    script = str(ROOT / "scripts" / "kafka")
    start = [sys.executable, script, "start", "--dir", str(home), "--port", "0", "--version", version]
    try:
        done = subprocess.run(pinned(where, start), stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise Fault(f"Kafka {version} did not start (see above).")
        yield done.stdout.strip()
    finally:
        subprocess.run([sys.executable, script, "stop", "--dir", str(home)], stdout=subprocess.DEVNULL, check=False)


def create(bootstrap: str, topic: str) -> None:
    """A topic like the one that `collect` makes."""

    async def run() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
        finally:
            await admin.close()

    asyncio.run(run())


def settled(bootstrap: str, topic: str, quiet_s: float) -> int:
    """Records in the topic, once none has come for `quiet_s`.

    Raises:
        Fault: they still come after SETTLE_S.
    """

    async def run() -> int:
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
        await consumer.start()
        try:
            partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
            deadline = time.monotonic() + SETTLE_S
            count, since = -1, 0.0
            while time.monotonic() < deadline:
                found = sum((await consumer.end_offsets(partitions)).values())
                if found != count:
                    count, since = found, time.monotonic()
                elif time.monotonic() - since >= quiet_s:
                    return count
                await asyncio.sleep(0.1)
        finally:
            await consumer.stop()
        raise Fault(f"Records still come into {topic} {SETTLE_S:.0f} s after the load ended.")

    return asyncio.run(run())
