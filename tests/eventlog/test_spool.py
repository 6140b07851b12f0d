"""Kafka away: what was answered is in Kafka afterwards, counted one by one, whatever dies on the way."""

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from pinstream import metrics
from pinstream.errors import Fatal, LogError, Retryable, SetupFault, Uncertain
from pinstream.eventlog import journal_file, open_log, spool, spool_file
from pinstream.eventlog.contract import MAX_VALUE_BYTES, Record
from pinstream.eventlog.kafka import KafkaLog
from pinstream.eventlog.spool import SpoolingAppender, SpoolingLog, rest_s
from pinstream.eventlog.spool_backlog import Backlog
from pinstream.eventlog.spool_file import SpoolFile, State, standing, verify
from pinstream.settings import Log as LogSettings
from pinstream.settings import Settings
from tests.kafka_broker import Broker

from .place import Place, read, start

TOPIC = "t"
MB = 1 << 20


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


NOWHERE = f"127.0.0.1:{unused_port()}"


def through(folder: Path, bootstrap: str, topics: dict[str, int], **settings: Any) -> SpoolingLog:
    chosen = {
        "kafka_bootstrap": bootstrap,
        "kafka_create_topics": True,
        "kafka_request_timeout_ms": 2000,
        "kafka_ack_timeout_ms": 1000,
        "spool_after_s": 0.5,
        **settings,
    }
    read_by_all = LogSettings(**chosen)
    return SpoolingLog(KafkaLog(read_by_all, topics=topics), folder, read_by_all)


class Opener:
    """Opens appenders and files, and closes them when the test ends, however it ends."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def appender(self, log: SpoolingLog) -> SpoolingAppender:
        appender = await log.appender()
        self._stack.push_async_callback(appender.aclose)
        return appender

    async def file(self, folder: Path, max_bytes: int = 16 * MB) -> SpoolFile:
        file = await SpoolFile.take(folder, max_bytes)
        self._stack.push_async_callback(file.aclose)
        return file


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:
        yield Opener(stack)


def numbered(first: int, count: int, topic: str = TOPIC) -> list[Record]:
    return [Record(topic, number + 1, b"%d" % number) for number in range(first, first + count)]


async def until(happened: Callable[[], bool], within_s: float = 40) -> None:
    async with asyncio.timeout(within_s):
        while not happened():
            await asyncio.sleep(0.05)


# --- the file --------------------------------------------------------------------------------------


async def test_a_record_comes_back_as_it_was_in_the_order_of_arrival(tmp_path: Path, opened: Opener) -> None:
    file = await opened.file(tmp_path)
    records = [
        Record("a.b_c-d", 2**64 - 1, b"\0\xff"),
        Record(TOPIC, 0, b""),
        Record(TOPIC, 7, b"x" * MAX_VALUE_BYTES),
        *numbered(0, 50),
    ]
    for record in records:
        await file.add([(State.waiting, [record])])
    found = await file.oldest(1000, 100 * MB)
    assert [each.record for each in found] == records
    assert [each.record for each in await file.oldest(5, 100 * MB)] == records[:5]
    assert [each.record for each in await file.oldest(1000, 1000)] == records[:3], "bounded in bytes"
    assert file.records == len(records)


async def test_what_is_uncertain_is_not_drained_until_its_writer_is_dead(tmp_path: Path, opened: Opener) -> None:
    file = await opened.file(tmp_path)
    waiting, uncertain, refused = await file.add(
        [(State.waiting, numbered(0, 2)), (State.uncertain, numbered(2, 2)), (State.waiting, numbered(4, 1))]
    )
    await file.mark(refused, State.refused)
    assert [each.seq for each in await file.oldest(10, MB)] == list(waiting)
    (seen,) = standing(tmp_path)
    assert (seen.records, seen.uncertain, seen.refused, seen.holder) == (5, 2, 1, os.getpid())
    await file.mark([uncertain[0]], State.waiting)
    assert [each.seq for each in await file.oldest(10, MB)] == [*waiting, uncertain[0]]
    await file.aclose()
    (seen,) = standing(tmp_path)
    assert seen.holder is None
    assert spool_file.orphans(tmp_path) == [0]
    successor = await opened.file(tmp_path)
    assert [each.record for each in await successor.oldest(10, MB)] == numbered(0, 5)


async def test_the_lock_decides_who_may_have_a_file(tmp_path: Path, opened: Opener) -> None:
    file = await opened.file(tmp_path)
    await file.add([(State.waiting, numbered(0, 1))])
    assert await SpoolFile.adopt(tmp_path, 0, MB) is None
    assert spool_file.orphans(tmp_path) == []
    assert (await opened.file(tmp_path)).number == 1
    await file.aclose()
    adopted = await SpoolFile.adopt(tmp_path, 0, MB)
    assert adopted is not None
    assert adopted.records == 1
    await adopted.aclose()


async def test_an_emptied_file_gives_its_room_back(tmp_path: Path, opened: Opener) -> None:
    file = await opened.file(tmp_path, 100 * MB)
    (seqs,) = await file.add([(State.waiting, [Record(TOPIC, 1, b"x" * MB)] * 20)])
    path = journal_file.journal_path(tmp_path, 0)
    assert journal_file.size(path) + journal_file.size(journal_file.wal(path)) > 20 * MB
    await file.forget(seqs)
    assert journal_file.size(path) + journal_file.size(journal_file.wal(path)) < MB
    (again,) = await file.add([(State.waiting, numbered(0, 1))])
    assert again[0] > seqs[-1], "sequence numbers are never used twice"


async def test_mending_does_not_bring_back_what_was_drained(tmp_path: Path, opened: Opener) -> None:
    file = await opened.file(tmp_path)
    (seqs,) = await file.add([(State.waiting, [Record(TOPIC, 1, b"%d" % n + b"x" * 3000) for n in range(100)])])
    await file.forget(seqs[:60])
    await file.aclose()
    path = journal_file.journal_path(tmp_path, 0)
    with path.open("r+b") as damaged:  # the schema's page
        damaged.write(b"no longer a database" * 10)
    assert [verdict.damage != "" for verdict in verify(tmp_path)] == [True]
    mended = await opened.file(tmp_path)
    assert [each.seq for each in await mended.oldest(1000, MB)] == list(seqs[60:])
    (verdict,) = verify(tmp_path)
    assert (verdict.records, verdict.unreadable, verdict.damage) == (40, 0, "")
    assert len(verdict.set_aside) == 1


async def test_a_record_that_cannot_be_read_holds_nobody_up(
    tmp_path: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    file = await opened.file(tmp_path)
    await file._writer.store([Record(State.waiting, 0, b"\xc1")])
    await file.add([(State.waiting, numbered(1, 1))])
    assert [each.record for each in await file.oldest(10, MB)] == numbered(1, 1)
    assert "cannot be read" in caplog.text
    assert (standing(tmp_path)[0].refused, [verdict.unreadable for verdict in verify(tmp_path)]) == (1, [1])


def test_the_pace() -> None:
    assert rest_s(500, 0.02) == pytest.approx(0.06), "a quarter of what Kafka takes"
    assert rest_s(500, 0.5) == pytest.approx(0.5), "500 a second, where a quarter would be less"
    assert rest_s(500, 3.0) == 0.0


# --- without Kafka ---------------------------------------------------------------------------------


async def test_without_kafka_records_are_durable_and_collect_is_ready(
    tmp_path: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    started = time.monotonic()
    appender = await opened.appender(through(tmp_path, NOWHERE, {TOPIC: 3}))
    assert time.monotonic() - started < 3
    await asyncio.gather(*(appender.append(numbered(10 * n, 10)) for n in range(50)))
    await appender.ready()
    assert metrics.REGISTRY.get_sample_value("pinstream_spooling") == 1
    with pytest.raises(Fatal, match="no topic elsewhere"):
        await appender.append([Record("elsewhere", 1, b"")])
    with pytest.raises(Fatal, match="larger than"):
        await appender.append([Record(TOPIC, 1, b"x" * (MAX_VALUE_BYTES + 1))])
    started = time.monotonic()
    await appender.aclose()
    assert time.monotonic() - started < 4
    with pytest.raises(Retryable, match="closed"):
        await appender.append(numbered(0, 1))
    file = await opened.file(tmp_path)
    assert [each.record for each in await file.oldest(1000, MB)] == numbered(0, 500)
    assert "records go to the spool" in caplog.text


async def test_at_the_size_bound_it_says_so_and_is_not_ready(tmp_path: Path, opened: Opener) -> None:
    appender = await opened.appender(through(tmp_path, NOWHERE, {TOPIC: 3}, spool_max_bytes=MB))
    taken = 0
    with pytest.raises(Retryable, match="spool_max_bytes") as refused:
        while taken < 1000:
            await appender.append([Record(TOPIC, 1, random.Random(taken).randbytes(5000))])
            taken += 1
    assert refused.value.reason == "log_full"
    assert 100 < taken < 220
    with pytest.raises(Retryable, match="spool_max_bytes"):
        await appender.ready()
    assert standing(tmp_path)[0].records == taken


async def test_on_a_full_disk_it_says_so_and_recovers(tmp_path: Path, opened: Opener) -> None:
    appender = await opened.appender(through(tmp_path, NOWHERE, {TOPIC: 3}))
    await appender.append(numbered(0, 1))
    await appender._own.file._writer.call(
        lambda connection: connection.execute("PRAGMA max_page_count = 60").fetchall()
    )
    with pytest.raises(Retryable) as refused:
        await appender.append([Record(TOPIC, 1, b"x" * 500_000)])
    assert refused.value.reason == "log_full"
    with pytest.raises(Retryable) as unready:
        await appender.ready()
    assert unready.value.reason == "log_full"
    await appender.append(numbered(1, 1))
    await appender.ready()


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupFault, match="data_dir"):
        await through(tmp_path / "file" / "spool", NOWHERE, {TOPIC: 3}).appender()


def test_what_opens_the_spool(tmp_path: Path) -> None:
    def kind(**log: Any) -> str:
        return type(open_log(Settings(data_dir=tmp_path, log=LogSettings(**log)))).__name__

    assert kind(kind="kafka") == "SpoolingLog"
    assert kind(kind="kafka", spool=False) == "KafkaLog"
    assert kind(kind="journal") == "JournalLog"


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PINSTREAM_")}
    said = {"LOG__KIND": "kafka", "LOG__KAFKA_BOOTSTRAP": NOWHERE, "DATA_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "pinstream", "spool", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=clean | {f"PINSTREAM_{name}": value for name, value in said.items()},
    )


@pytest.mark.slow
async def test_the_commands(tmp_path: Path, opened: Opener) -> None:
    import json

    def said(*arguments: str) -> tuple[int, Any]:
        done = command(tmp_path, *arguments, "--json")
        return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.stdout else done.stderr

    assert said("drain") == (0, {"drained": 0, "left": 0, "held": 0})
    file = await opened.file(tmp_path / "spool")
    await file.add([(State.waiting, numbered(0, 3)), (State.uncertain, numbered(3, 2))])
    code, status = await asyncio.to_thread(said, "status")
    assert (code, status["records"]) == (0, 5)
    assert status["files"][0] | {"bytes": 0, "oldest_s": 0} == {
        "file": 0,
        "held_by": os.getpid(),
        "records": 5,
        "uncertain": 2,
        "refused": 0,
        "bytes": 0,
        "oldest_s": 0,
        "damage": "",
    }
    assert status["files"][0]["oldest_s"] < 30
    assert await asyncio.to_thread(said, "verify") == (
        0,
        {"records": 5, "files": [{"file": 0, "records": 5, "unreadable": 0, "damage": "", "set_aside": []}]},
    )
    assert await asyncio.to_thread(said, "drain") == (0, {"drained": 0, "left": 0, "held": 5}), "it has a living writer"
    told = await asyncio.to_thread(command, tmp_path, "drain")
    assert told.stdout == "0 drained, 0 left. 5 in files that running processes hold and drain themselves.\n"
    await file.aclose()
    assert command(tmp_path, "status").stdout.splitlines()[1].split("\t")[:3] == ["0", "-", "5"]
    code, refusal = said("drain")
    assert code == 1
    assert "No Kafka answers" in refusal
    path = journal_file.journal_path(tmp_path / "spool", 0)
    path.write_bytes(b"no database" * 1000)
    assert said("verify")[0] == 1


# --- with Kafka ------------------------------------------------------------------------------------


def name() -> str:
    return f"t{uuid.uuid4().hex}"


async def values_in(bootstrap: str, topics: dict[str, int]) -> list[bytes]:
    place = Place("kafka", bootstrap, topics)
    consumer = await place.log().consumer(name(), list(topics))
    try:
        await start(consumer)
        ends = [await consumer.bounds(each) for each in consumer.assignment()]
        found = await read(consumer, sum(each.end - each.first for each in ends))
    finally:
        await consumer.aclose()
    return [row.value for rows in found.values() for row in rows]


class Ledger:
    """What a sender was told about each of its records."""

    def __init__(self, appender: SpoolingAppender, topic: str) -> None:
        self.appender = appender
        self.topic = topic
        self.acked: list[bytes] = []
        self.faults: list[LogError] = []
        self.slowest_s = 0.0
        self._next = 0

    async def send(self) -> None:
        records = numbered(self._next, 3, self.topic)
        self._next += 3
        started = time.monotonic()
        try:
            await self.appender.append(records)
        except LogError as exc:
            self.faults.append(exc)
        else:
            self.acked += [record.value for record in records]
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    async def load(self, seconds: float) -> None:
        """One append every 5 ms, without waiting for the answers."""
        tasks = []
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            tasks.append(asyncio.create_task(self.send()))
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)


def is_drained(appender: SpoolingAppender) -> bool:
    return not appender._away_since and not appender._own.file.records


def counted(what: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"pinstream_{what}") or 0.0


async def back(broker: Broker, fault: signal.Signals) -> None:
    if fault == signal.SIGSTOP:
        broker.signal(signal.SIGCONT)
    else:
        await asyncio.to_thread(broker.start)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
async def test_an_outage_loses_nothing_and_doubles_nothing(
    private_kafka: Broker, tmp_path: Path, fault: signal.Signals, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    topic = name()
    appender = await opened.appender(through(tmp_path, private_kafka.bootstrap, {topic: 3}))
    ledger = Ledger(appender, topic)
    spooled, drained = counted("spooled_total"), counted("drained_total")
    await ledger.load(0.5)
    assert counted("spooled_total") == spooled, "Kafka is there: nothing is spooled"
    outage = asyncio.create_task(ledger.load(4))
    await asyncio.sleep(0.3)
    private_kafka.signal(fault)
    await until(lambda: counted("spooling") == 1)
    await until(lambda: standing(tmp_path)[0].uncertain > 0)
    assert standing(tmp_path)[0].uncertain <= 2 * 3 * 3, "two batches of three records, three partitions"
    await appender.ready()
    await outage
    await back(private_kafka, fault)
    await ledger.load(1)
    await until(lambda: is_drained(appender))
    assert counted("spooling") == 0
    assert counted("spooled_total") - spooled == counted("drained_total") - drained > 100
    assert (counted("spool_records"), ledger.faults) == (0, [])
    assert ledger.slowest_s < 3.5, "nobody waits for Kafka to come back"
    await ledger.load(0.2)
    await appender.aclose()
    assert sorted(await values_in(private_kafka.bootstrap, {topic: 3})) == sorted(ledger.acked), "each of them, once"
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == ["WARNING"]


@pytest.mark.kafka
@pytest.mark.slow
async def test_a_kafka_that_comes_and_goes(private_kafka: Broker, tmp_path: Path, opened: Opener) -> None:
    topic = name()
    appender = await opened.appender(through(tmp_path, private_kafka.bootstrap, {topic: 3}))
    ledger = Ledger(appender, topic)
    traffic = asyncio.create_task(ledger.load(6))
    for pause_s in (0.1, 0.9, 1.5, 0.6):
        private_kafka.signal(signal.SIGSTOP)
        await asyncio.sleep(pause_s)
        private_kafka.signal(signal.SIGCONT)
        await asyncio.sleep(0.5)
    await traffic
    await until(lambda: is_drained(appender))
    await appender.aclose()
    assert ledger.faults == []
    assert sorted(await values_in(private_kafka.bootstrap, {topic: 3})) == sorted(ledger.acked)


@pytest.mark.kafka
@pytest.mark.slow
async def test_stopping_in_an_outage_is_bounded_and_the_next_process_drains(
    private_kafka: Broker, tmp_path: Path, opened: Opener
) -> None:
    topic = name()
    log = through(tmp_path, private_kafka.bootstrap, {topic: 3})
    appender = await opened.appender(log)
    ledger = Ledger(appender, topic)
    await ledger.load(0.2)
    private_kafka.signal(signal.SIGSTOP)
    traffic = asyncio.create_task(ledger.load(0.3))
    await asyncio.sleep(0.2)  # these are still waiting for Kafka when the end comes
    started = time.monotonic()
    await asyncio.gather(appender.aclose(), traffic)
    assert time.monotonic() - started < 6
    assert ledger.acked
    assert all("closed" in str(fault) for fault in ledger.faults)
    kept = standing(tmp_path)[0].records
    assert kept > 0
    started = time.monotonic()
    successor = await opened.appender(log)
    assert time.monotonic() - started < 3, "a process starts while Kafka is away"
    await successor.append(numbered(900_000, 5, topic))
    await successor.ready()
    private_kafka.signal(signal.SIGCONT)
    await until(lambda: is_drained(successor))
    found = await values_in(private_kafka.bootstrap, {topic: 3})
    assert set(found) == {*ledger.acked, *(record.value for record in numbered(900_000, 5))}
    assert len(found) - len(set(found)) <= kept, "what was uncertain when its process ended may come twice"


@pytest.mark.kafka
@pytest.mark.slow
async def test_topics_that_are_found_wrong_later(
    private_kafka: Broker, tmp_path: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    topic = name()
    creator = await opened.appender(through(tmp_path / "other", private_kafka.bootstrap, {topic: 3}))
    await creator.aclose()
    private_kafka.signal(signal.SIGSTOP)
    appender = await opened.appender(through(tmp_path, private_kafka.bootstrap, {topic: 2}))
    await appender.append(numbered(0, 10, topic))
    private_kafka.signal(signal.SIGCONT)
    await until(lambda: appender._misfit is not None)
    with pytest.raises(Fatal, match="has 3 partitions, the settings say 2"):
        await appender.ready()
    assert "not ready" in caplog.text
    await appender.append(numbered(10, 10, topic))
    await appender.aclose()
    assert standing(tmp_path)[0].records == 20, "nothing is lost"
    with pytest.raises(SetupFault, match="has 3 partitions"):
        await through(tmp_path, private_kafka.bootstrap, {topic: 2}).appender()
    corrected = await opened.appender(through(tmp_path, private_kafka.bootstrap, {topic: 3}))
    await until(lambda: is_drained(corrected))
    found = await values_in(private_kafka.bootstrap, {topic: 3})
    assert sorted(found) == sorted(record.value for record in numbered(0, 20))


@pytest.mark.kafka
@pytest.mark.slow
async def test_a_killed_process_s_file_is_drained_by_another(
    kafka: str, tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "LOOK_S", 0.2)
    topic = name()
    living = await opened.appender(through(tmp_path, kafka, {topic: 3}))
    acked: list[bytes] = []
    for first in (0, 1_000_000):
        arguments = [str(tmp_path), NOWHERE, topic, str(first)]
        killed = subprocess.Popen([sys.executable, "-m", "tests.eventlog.spooler", *arguments], stdout=subprocess.PIPE)
        assert killed.stdout
        said = [await asyncio.to_thread(killed.stdout.readline) for _ in range(30)]
        assert {each.holder for each in standing(tmp_path)} == {os.getpid(), killed.pid}
        killed.kill()
        said += killed.stdout.readlines()
        killed.wait()
        killed.stdout.close()
        for line in said:
            begin, end = map(int, line.split())
            acked += [b"%d" % number for number in range(begin, end + 1)]
        await until(lambda: not any(each.records for each in standing(tmp_path)))
    await until(lambda: standing(tmp_path)[1].holder is None)
    await living.append(numbered(5_000_000, 1, topic))
    found = await values_in(kafka, {topic: 3})
    assert len(acked) >= 600
    assert {*acked, b"5000000"} <= set(found), "more may be there: spooled, and killed before it could be said"
    assert len(found) == len(set(found))


@pytest.mark.kafka
async def test_what_kafka_refuses_stays_and_holds_nobody_up(kafka: str, tmp_path: Path, opened: Opener) -> None:
    topic = name()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "20000"})])
    await admin.close()
    log = through(tmp_path, kafka, {topic: 1})
    file = await opened.file(tmp_path)
    poison = Record(topic, 1, random.Random(1).randbytes(50_000))
    await file.add([(State.waiting, [*numbered(0, 5, topic), poison, *numbered(5, 5, topic)])])
    kafka_appender = await log._kafka.appender()
    backlog = Backlog(file)
    assert await backlog.drain(kafka_appender, 500) == 11
    assert await backlog.drain(kafka_appender, 500) == 0
    await kafka_appender.aclose()
    assert (standing(tmp_path)[0].records, standing(tmp_path)[0].refused) == (1, 1)
    assert await values_in(kafka, {topic: 1}) == [b"%d" % number for number in range(10)]


@pytest.mark.kafka
async def test_a_full_spool_beside_a_kafka_that_answers(kafka: str, tmp_path: Path, opened: Opener) -> None:
    topic = name()
    file = await opened.file(tmp_path)
    with contextlib.suppress(Retryable):
        while True:
            await file.add([(State.waiting, [Record(topic, 1, b"x" * 100_000)])])
    appender = await opened.appender(through(tmp_path, kafka, {topic: 1}, spool_max_bytes=MB))
    with pytest.raises(Retryable, match="spool_max_bytes"):
        await appender._own.file.ready()
    await appender.append(numbered(0, 3, topic))
    await appender.ready()
    assert await values_in(kafka, {topic: 1}) == [b"0", b"1", b"2"]


@pytest.mark.kafka
async def test_a_pause_after_an_append_that_failed_is_no_silence_of_kafka(
    kafka: str, tmp_path: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    topic = name()
    appender = await opened.appender(through(tmp_path, kafka, {topic: 1}))
    failed = asyncio.create_task(appender.append(numbered(0, 1, topic)))
    await asyncio.sleep(0)
    failed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await failed
    await asyncio.sleep(0.6)  # longer than spool_after_s
    await appender.append(numbered(1, 3, topic))
    assert (appender._away_since, standing(tmp_path)[0].records) == (0, 0)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.kafka
@pytest.mark.slow
async def test_neither_kafka_nor_the_spool_can_take_it(private_kafka: Broker, tmp_path: Path, opened: Opener) -> None:
    topic = name()
    appender = await opened.appender(through(tmp_path, private_kafka.bootstrap, {topic: 1}, spool_max_bytes=MB))
    await appender.append(numbered(0, 3, topic))
    private_kafka.signal(signal.SIGSTOP)
    too_much = [Record(topic, 1, random.Random(number).randbytes(400_000)) for number in range(5)]
    with pytest.raises(Uncertain) as uncertain:
        await appender.append(too_much)
    with pytest.raises(Retryable) as refused:
        await appender.append(too_much)
    assert (refused.value.reason, refused.value.records) == ("log_full", too_much)
    await appender.append(numbered(3, 3, topic))
    private_kafka.signal(signal.SIGCONT)
    assert await uncertain.value.settled is False, "what aiokafka had no room for is not there"
    assert await uncertain.value.parts[0][1] is True
    await until(lambda: is_drained(appender))
