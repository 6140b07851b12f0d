"""What is durable in the end: every record of a Kafka topic from its beginning, and every event in the spool.

Both are read past the code under test: Kafka with a plain consumer, the spool's files with SQLite.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer

from pinstream.eventlog.contract import Record

POLL_MS: Final = 5000
POLL_RECORDS: Final = 20_000


class _Named(msgspec.Struct):
    event_id: str


_EVENT: Final = msgspec.json.Decoder(_Named)
_SPOOLED: Final = msgspec.msgpack.Decoder(Record)


async def event_ids_in_kafka(bootstrap: str, topic: str) -> list[str]:
    """The event id of every record of the topic, in no particular order across partitions.

    Raises RuntimeError if Kafka stops to give records before the end.
    """
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[str] = []
    try:
        partitions = sorted(consumer.assignment())  # without a group: all there are
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            if not batches:
                raise RuntimeError(f"Kafka gives no more records of {topic} before its end {ends}.")
            found += [_EVENT.decode(record.value).event_id for records in batches.values() for record in records]
    finally:
        await consumer.stop()
    return found


def left_in_spool(folder: Path) -> int:
    """How many records the spool's files hold now, of any topic."""
    return sum(count for file in _files(folder) for (count,) in _rows(file, "SELECT count(*) FROM record"))


def event_ids_in_spool(folder: Path, topic: str) -> list[str]:
    """The event id of every record of the topic that the spool's files still hold."""
    records = (
        _SPOOLED.decode(value) for file in _files(folder) for (value,) in _rows(file, "SELECT value FROM record")
    )
    return [_EVENT.decode(record.value).event_id for record in records if record.topic == topic]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def _rows(file: Path, query: str) -> Iterator[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        yield from connection.execute(query)
