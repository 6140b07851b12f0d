"""One suite for every event log: what contract.py promises, on the journal and on a real Kafka."""

import asyncio
import json
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pinstream.errors import Fatal, Fenced, PositionLost
from pinstream.eventlog.contract import MAX_VALUE_BYTES, Appender, Consumer, Intent, Partition, Position, Record

from .place import LEASE_S, Place, owning, read, start

pytestmark = pytest.mark.slow

INTENT = Intent(last=7, rollup_version=2, format=1)


@pytest.fixture(params=["journal", pytest.param("kafka", marks=pytest.mark.kafka)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    name = f"t{uuid.uuid4().hex}"
    topics = {f"{name}.many": 3, f"{name}.one": 1}
    if request.param == "journal":
        return Place("journal", str(tmp_path / "journal"), topics)
    spool = str(tmp_path / "spool") if request.param == "spool" else ""
    return Place("kafka", request.getfixturevalue("kafka"), topics, spool)


written_through_the_spool = pytest.mark.parametrize(
    "place", ["journal", *(pytest.param(kind, marks=pytest.mark.kafka) for kind in ("kafka", "spool"))], indirect=True
)
"""For what a writer can see: the spool has no readers of its own."""


@asynccontextmanager
async def appending(place: Place, **settings: Any) -> AsyncIterator[Appender]:
    appender = await place.log(**settings).appender()
    try:
        yield appender
    finally:
        await appender.aclose()


@asynccontextmanager
async def consuming(place: Place, group: str = "g", *, started: bool = True) -> AsyncIterator[Consumer]:
    consumer = await place.log().consumer(group, list(place.topics))
    try:
        if started:
            await start(consumer)
        yield consumer
    finally:
        await consumer.aclose()


def records(place: Place, count: int, *, key: int = 0, topic: str = "") -> list[Record]:
    return [Record(topic or place.first, key, b"%d" % number) for number in range(count)]


async def some_partition(place: Place, consumer: Consumer) -> Partition:
    return min(partition for partition in await owning(consumer) if partition.topic == place.first)


@written_through_the_spool
async def test_what_was_appended_is_read_back(place: Place) -> None:
    values = [b"", b"\0\xff\0", "Zo\u00eb \U0001f600".encode(), b"x" * 900_000, b"{}"]
    async with appending(place) as appender, consuming(place) as consumer:
        await start(consumer)
        await appender.append([Record(place.first, 5, value) for value in values])
        found = await read(consumer, len(values))
    (rows,) = found.values()
    assert [row.value for row in rows] == values
    assert all(row.appended_ms > 1_700_000_000_000 for row in rows)


@written_through_the_spool
async def test_topics_are_kept_apart(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(
            [Record(place.first, 1, b"a"), Record(place.other, 1, b"b"), Record(place.first, 1, b"c")]
        )
        found = await read(consumer, 3)
    by_topic = {partition.topic: [row.value for row in rows] for partition, rows in found.items()}
    assert by_topic == {place.first: [b"a", b"c"], place.other: [b"b"]}


@written_through_the_spool
async def test_a_key_keeps_its_order_and_offsets_grow(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        for begin in range(0, 300, 50):
            await appender.append(
                [Record(place.first, key, b"%d" % n) for n in range(begin, begin + 50) for key in (1, 2, 3)]
            )
        found = await read(consumer, 900)
    for rows in found.values():
        offsets = [row.offset for row in rows]
        assert offsets == sorted(set(offsets))
    for key in (1, 2, 3):
        assert sum(_holds_in_order(rows, 300) for rows in found.values()) <= 3, key
    values = [int(row.value) for rows in found.values() for row in rows]
    assert sorted(values) == sorted(list(range(300)) * 3)


def _holds_in_order(rows: Any, count: int) -> bool:
    return [int(row.value) for row in rows] == list(range(count))


@written_through_the_spool
async def test_equal_keys_go_to_one_partition_in_order(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        for number in range(20):
            await appender.append([Record(place.first, 4711, b"%d" % number)])
        found = await read(consumer, 20)
    (rows,) = found.values()
    assert [row.value for row in rows] == [b"%d" % number for number in range(20)]


@written_through_the_spool
async def test_no_key_spreads_over_all_partitions(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 30))
        found = await read(consumer, 30)
        partitions = {partition for partition in consumer.assignment() if partition.topic == place.first}
    assert set(found) == partitions


@written_through_the_spool
async def test_fifty_appends_at_once(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        values = [b"%d-%d" % (call, n) for call in range(50) for n in range(20)]
        await asyncio.gather(
            *(
                appender.append([Record(place.first, call + 1, value) for value in values[call * 20 : call * 20 + 20]])
                for call in range(50)
            )
        )
        found = await read(consumer, 1000)
    assert sorted(row.value for rows in found.values() for row in rows) == sorted(values)


@written_through_the_spool
async def test_many_appends_wait_their_turn(place: Place) -> None:
    """Far more at once than a log takes in one go, to one partition: each gets its turn well within the time-out."""
    async with appending(place) as appender, consuming(place) as consumer:

        async def some(call: int) -> None:
            for n in range(20):
                await appender.append([Record(place.other, 1, b"%d-%d" % (call, n))])

        await asyncio.gather(*(some(call) for call in range(100)))
        (rows,) = (await read(consumer, 2000)).values()
    for call in range(100):
        own = [row.value for row in rows if row.value.startswith(b"%d-" % call)]
        assert own == [b"%d-%d" % (call, n) for n in range(20)]


@written_through_the_spool
async def test_an_empty_append_is_nothing(place: Place) -> None:
    async with appending(place) as appender:
        await appender.append([])
        await appender.ready()


@written_through_the_spool
async def test_value_at_the_size_bound_and_one_past(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append([Record(place.first, 1, b"x" * MAX_VALUE_BYTES)])
        with pytest.raises(Fatal, match=str(MAX_VALUE_BYTES)):
            await appender.append([Record(place.first, 1, b"ok"), Record(place.first, 1, b"x" * (MAX_VALUE_BYTES + 1))])
        found = await read(consumer, 1)
        assert await consumer.poll(timeout_s=0.3, max_records=10) == {}
    assert [len(row.value) for rows in found.values() for row in rows] == [MAX_VALUE_BYTES]


async def test_nothing_is_returned_before_seek(place: Place) -> None:
    async with appending(place) as appender, consuming(place, started=False) as consumer:
        await appender.append(records(place, 10))
        partition = await some_partition(place, consumer)
        assert await consumer.poll(timeout_s=0.5, max_records=10) == {}
        consumer.seek(partition, (await consumer.bounds(partition)).first)
        found: Mapping[Partition, Any] = {}
        while not found:
            found = await consumer.poll(timeout_s=0.5, max_records=10)
        assert set(found) == {partition}


async def test_position_is_empty_at_first(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 1))
        partition = await some_partition(place, consumer)
        assert await consumer.position(partition) == Position(None, None)


async def test_position_and_intent_come_back(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 9, key=1))
        await start(consumer)
        for partition in consumer.assignment():
            await consumer.commit(partition, 3, INTENT)
            assert await consumer.position(partition) == Position(3, INTENT)


async def test_commit_without_intent_clears_it(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 9))
        await start(consumer)
        partition = await some_partition(place, consumer)
        await consumer.commit(partition, 3, INTENT)
        await consumer.commit(partition, 8, None)
        assert await consumer.position(partition) == Position(8, None)


async def test_groups_do_not_see_each_other(place: Place) -> None:
    async with appending(place) as appender:
        await appender.append(records(place, 10, key=1))
        async with consuming(place, "a") as one, consuming(place, "b") as two:
            (partition,) = await read(one, 10)
            await one.commit(partition, 4, INTENT)
            assert await two.position(partition) == Position(None, None)
            assert sum(map(len, (await read(two, 10)).values())) == 10


async def test_reopening_continues_where_the_group_stands(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 10, key=1))
        ((partition, rows),) = (await read(consumer, 10)).items()
        await consumer.commit(partition, rows[6].offset, None)
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append([Record(place.first, 1, b"new")])
        ((same, rest),) = (await read(consumer, 5)).items()
    assert same == partition
    assert [row.value for row in rest] == [b"6", b"7", b"8", b"9", b"new"]
    assert rest[-1].offset > rows[-1].offset


async def test_seek_reads_exactly_the_same_again(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 100, key=1))
        ((partition, rows),) = (await read(consumer, 100)).items()
        consumer.seek(partition, rows[40].offset)
        again = (await read(consumer, 60))[partition]
    assert again == rows[40:]


async def test_bounds(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 10, key=1))
        ((partition, rows),) = (await read(consumer, 10)).items()
        bounds = await consumer.bounds(partition)
    assert bounds.first <= rows[0].offset
    assert bounds.end == rows[-1].offset + 1


async def test_bounds_of_an_empty_topic_are_equal(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 3))
        await start(consumer)
        (partition,) = (each for each in consumer.assignment() if each.topic == place.other)
        bounds = await consumer.bounds(partition)
    assert bounds.first == bounds.end


async def test_reading_past_the_end_is_a_lost_position(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 10, key=1))
        ((partition, rows),) = (await read(consumer, 10)).items()
        consumer.seek(partition, rows[-1].offset + 1000)
        with pytest.raises(PositionLost):
            await read(consumer, 1)


async def test_max_records_is_held(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer:
        await appender.append(records(place, 50, key=1))
        seen: list[bytes] = []
        while len(seen) < 50:
            got = await consumer.poll(timeout_s=1, max_records=7)
            assert sum(map(len, got.values())) <= 7
            seen += [row.value for rows in got.values() for row in rows]
    assert seen == [b"%d" % number for number in range(50)]


async def test_paused_partitions_stay_owned_and_silent(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as consumer, consuming(place, started=False) as standby:
        await appender.append(records(place, 10))
        await settled(consumer, standby)
        mine, generation = await _started(consumer), consumer.generation
        for _ in range(int(LEASE_S * 2 / 0.2)):
            assert await consumer.poll(timeout_s=0.1, max_records=10, paused=mine) == {}
            await standby.poll(timeout_s=0.1, max_records=10, paused=standby.assignment())
        assert (consumer.assignment(), consumer.generation) == (mine, generation)
        assert sum(map(len, (await consumer.poll(timeout_s=5, max_records=10)).values())) > 0


async def settled(*members: Consumer) -> None:
    """Poll all members until their assignments have not changed for a while."""
    seen: list[int] = []
    quiet = 0
    async with asyncio.timeout(30):
        while quiet < 10:
            await asyncio.gather(*(each.poll(timeout_s=0.1, max_records=1) for each in members))
            now = [each.generation for each in members]
            quiet = quiet + 1 if now == seen and any(each.assignment() for each in members) else 0
            seen = now


async def _started(consumer: Consumer) -> frozenset[Partition]:
    await start(consumer)
    return consumer.assignment()


async def test_a_successor_takes_over_at_once_when_a_member_leaves(place: Place) -> None:
    async with appending(place) as appender:
        await appender.append(records(place, 10, key=1))
        async with consuming(place) as first:
            ((partition, rows),) = (await read(first, 10)).items()
            await first.commit(partition, rows[3].offset, INTENT)
            generation = first.generation
        assert first.generation > generation
        assert not first.assignment()
        async with consuming(place, started=False) as second:
            async with asyncio.timeout(LEASE_S * 2 if place.kind == "journal" else 20):
                positions = await start(second)
            assert positions[partition] == Position(rows[3].offset, INTENT)
            assert (await read(second, 7))[partition] == rows[3:]


async def test_members_never_own_the_same_partition(place: Place) -> None:
    async with appending(place) as appender, consuming(place) as one, consuming(place, started=False) as two:
        await appender.append(records(place, 10))
        await settled(one, two)
        assert not one.assignment() & two.assignment()
        assert {partition.topic for partition in one.assignment() | two.assignment()} == set(place.topics)


async def test_a_closed_member_cannot_commit(place: Place) -> None:
    async with appending(place) as appender:
        await appender.append(records(place, 10, key=1))
        async with consuming(place) as consumer:
            (partition,) = await read(consumer, 10)
            await consumer.commit(partition, 2, INTENT)
        with pytest.raises(Fenced):
            await consumer.commit(partition, 9, None)
        async with consuming(place) as successor:
            assert await successor.position(partition) == Position(2, INTENT)


async def test_commit_needs_a_seek_under_this_generation(place: Place) -> None:
    async with appending(place) as appender, consuming(place, started=False) as consumer:
        await appender.append(records(place, 10))
        partition = await some_partition(place, consumer)
        with pytest.raises(Fenced):
            await consumer.commit(partition, 1, None)
        assert await consumer.position(partition) == Position(None, None)


class Zombie:
    """A member in a process that can be frozen."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def do(self, what: str, **more: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"do": what, **more}).encode() + b"\n")
        async with asyncio.timeout(30):
            return json.loads(await self.process.stdout.readline())


@asynccontextmanager
async def zombie(place: Place) -> AsyncIterator[Zombie]:
    said = json.dumps({"kind": place.kind, "where": place.where, "topics": place.topics, "group": "g"})
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.eventlog.place",
        said,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Zombie(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


async def test_a_frozen_member_that_wakes_cannot_commit(place: Place) -> None:
    async with appending(place) as appender, zombie(place) as frozen:
        await appender.append(records(place, 30))
        owned = [Partition(*each) for each in await frozen.do("start")]
        partition = min(each for each in owned if each.topic == place.first)
        assert await frozen.do(
            "commit", partition=partition, offset=1, intent={"last": 5, "rollup_version": 1, "format": 1}
        )
        frozen.process.send_signal(signal.SIGSTOP)
        async with consuming(place, started=False) as successor:
            positions = await start(successor)
            assert set(positions) == set(owned)
            assert positions[partition] == Position(1, Intent(last=5, rollup_version=1, format=1))
            await successor.commit(partition, 6, INTENT)
            frozen.process.send_signal(signal.SIGCONT)
            assert await frozen.do("commit", partition=partition, offset=2, intent=None) == "Fenced"
            assert await successor.position(partition) == Position(6, INTENT)
            await frozen.do("poll", timeout_s=0.2)
            assert await frozen.do("commit", partition=partition, offset=2, intent=None) == "Fenced"
            assert await successor.position(partition) == Position(6, INTENT)


async def test_a_killed_member_is_replaced(place: Place) -> None:
    async with appending(place) as appender, zombie(place) as killed:
        await appender.append(records(place, 30))
        owned = [Partition(*each) for each in await killed.do("start")]
        killed.process.kill()
        async with consuming(place) as successor:
            assert successor.assignment() == set(owned)
            assert sum(map(len, (await read(successor, 30)).values())) == 30
