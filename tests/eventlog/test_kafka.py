"""Kafka against what goes wrong: a start that must be refused, brokers that freeze, die and come back."""

import asyncio
import logging
import random
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from pinstream.errors import Fatal, Fenced, LogError, Misconfigured, Retryable, SetupFault, Uncertain
from pinstream.event import FORWARD, TOPICS
from pinstream.eventlog.contract import Consumer, Log, Partition, Position, Record
from pinstream.eventlog.kafka import KafkaAppender, KafkaLog, state_of, translated
from pinstream.settings import Log as LogSettings
from tests.kafka_broker import Broker

from .place import Place, read, start


def log(bootstrap: str, topics: dict[str, int] | None = None, **settings: Any) -> KafkaLog:
    chosen = {"kafka_bootstrap": bootstrap, "kafka_request_timeout_ms": 2000, "kafka_create_topics": True, **settings}
    return KafkaLog(LogSettings(**chosen), topics=topics, session_timeout_ms=2000)


def name() -> str:
    return f"t{uuid.uuid4().hex}"


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def created(bootstrap: str, topic: str, **configs: str) -> str:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        settings = {key.replace("_", "."): text for key, text in configs.items()}
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=settings)])
    finally:
        await admin.close()
    return topic


class Opener:
    """Opens logs, and closes what it opened when the test ends, however it ends."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def appender(self, log: KafkaLog | Log) -> KafkaAppender:
        appender = await log.appender()
        self._stack.push_async_callback(appender.aclose)
        assert isinstance(appender, KafkaAppender)
        return appender

    async def consumer(self, log: KafkaLog | Log, group: str, topics: list[str]) -> Consumer:
        consumer = await log.consumer(group, topics)
        self._stack.push_async_callback(consumer.aclose)
        return consumer


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:
        yield Opener(stack)


# --- settings that contradict each other -----------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kafka_min_insync": 2, "kafka_replication": 1}, "kafka_min_insync"),
        ({"kafka_extra": {"acks": 0}}, "may not hold acks"),
        ({"kafka_extra": {"request_timeout_ms": 5}}, "may not hold request_timeout_ms"),
        ({"kafka_extra": {"retry_backoff_ms": 1001}}, "retry_backoff_ms"),
        ({"kafka_extra": {"security_protocol": "SSL", "ssl_cafile": "/no/such/file"}}, "TLS files"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        log("127.0.0.1:1", **settings)


async def test_extra_goes_to_every_client() -> None:
    extra = {"client_id": "mine", "security_protocol": "SSL", "retry_backoff_ms": 1000}
    made = log("127.0.0.1:1", kafka_extra=extra)
    appender = KafkaAppender(made._settings, made._client, made._topics, 1.0)
    assert appender._producer.client._client_id == "mine"
    assert appender._admin._client._ssl_context is not None
    await appender.aclose()


# --- errors, pure ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (kafka_errors.KafkaConnectionError(), Retryable),
        (kafka_errors.KafkaTimeoutError(), Retryable),
        (kafka_errors.TopicAuthorizationFailedError(), Retryable),
        (kafka_errors.NotEnoughReplicasError(), Retryable),
        (ConnectionRefusedError(), Retryable),
        (TimeoutError(), Retryable),
        (kafka_errors.MessageSizeTooLargeError(), Fatal),
        (kafka_errors.CommitFailedError(), Fenced),
        (kafka_errors.IllegalGenerationError(), Fenced),
        (kafka_errors.RebalanceInProgressError(), Fenced),
    ],
)
def test_what_their_errors_mean(theirs: BaseException, ours: type[LogError]) -> None:
    assert type(translated(theirs)) is ours


async def test_only_proof_makes_a_batch_absent() -> None:
    def ack(outcome: Any = None) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
            future.exception()
        elif outcome:
            future.set_result(outcome)
        return future

    assert state_of(None, kafka_errors.KafkaTimeoutError()) == "absent"
    assert state_of(ack(), None) == "open"
    assert state_of(ack("metadata"), None) == "durable"
    assert state_of(ack(kafka_errors.MessageSizeTooLargeError()), None) == "absent"
    assert state_of(ack(kafka_errors.NotLeaderForPartitionError()), None) == "unknown"
    assert state_of(ack(kafka_errors.OutOfOrderSequenceNumber()), None) == "unknown"


# --- a start that must be refused ------------------------------------------------------------------


@pytest.mark.parametrize("open_", ["appender", "check", "consumer", "inspect"])
async def test_no_broker(open_: str, caplog: pytest.LogCaptureFixture) -> None:
    away = log(f"127.0.0.1:{unused_port()}")
    arguments = [] if open_ in ("appender", "check") else ["g", list(TOPICS)]
    started = time.monotonic()
    with pytest.raises(SetupFault, match=r"Start it, or set log\.kafka_bootstrap"):
        await getattr(away, open_)(*arguments)
    assert time.monotonic() - started < 8
    assert not caplog.records


@pytest.mark.kafka
async def test_missing_topics(kafka: str) -> None:
    topics = {name(): 2, name(): 1}
    with pytest.raises(SetupFault, match=r"log\.kafka_create_topics = true") as refused:
        await log(kafka, topics, kafka_create_topics=False).appender()
    assert all(topic in str(refused.value) for topic in topics)
    with pytest.raises(SetupFault, match="lacks the topics"):
        await log(kafka, topics).check()


@pytest.mark.kafka
async def test_our_topics_are_created_as_set(private_kafka: Broker, opened: Opener) -> None:
    made = log(private_kafka.bootstrap, kafka_partitions=5)
    await opened.appender(made)
    await made.check()
    found = await made.inspect("load", TOPICS)
    assert {topic: sum(each.topic == topic for each in found) for topic in TOPICS} == dict(
        zip(TOPICS, (5, 1, 1, 1), strict=True)
    )
    assert set(found.values()) == {(Position(None, None), (0, 0))}
    assert await described(private_kafka.bootstrap, FORWARD, "retention.ms") == str(24 * 3_600_000)
    assert await described(private_kafka.bootstrap, FORWARD, "max.message.bytes") == str(2_000_000 + 65_536)


async def described(bootstrap: str, topic: str, key: str) -> str:
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {key: None})])
    finally:
        await admin.close()
    return str(answer.resources[0][4][0][1])


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("settings", "partitions", "said"),
    [
        ({}, 3, "has 1 partitions, the settings say 3"),
        ({"kafka_min_insync": 2, "kafka_replication": 2}, 1, "min.insync.replicas=1"),
        ({"kafka_replication": 2}, 1, "keeps 1 copies"),
    ],
)
async def test_a_topic_that_differs_from_the_settings(
    kafka: str, settings: dict[str, Any], partitions: int, said: str
) -> None:
    topic = await created(kafka, name())
    for open_ in (
        log(kafka, {topic: partitions}, **settings).appender,
        log(kafka, {topic: partitions}, **settings).check,
    ):
        with pytest.raises(SetupFault, match=said):
            await open_()


@pytest.mark.kafka
async def test_more_copies_than_brokers(kafka: str) -> None:
    with pytest.raises(SetupFault, match="did not create"):
        await log(kafka, {name(): 1}, kafka_replication=3).appender()


@pytest.mark.kafka
@pytest.mark.slow
async def test_too_few_replicas_in_sync(kafka_cluster: Broker, opened: Opener) -> None:
    topic = name()
    made = log(
        kafka_cluster.bootstrap, {topic: 3}, kafka_replication=3, kafka_min_insync=3, kafka_request_timeout_ms=5000
    )
    appender = await opened.appender(made)
    await appender.append([Record(topic, number, b"x") for number in range(9)])
    kafka_cluster.signal(signal.SIGKILL, node=3)
    async with asyncio.timeout(60):
        while True:
            try:
                await made.check()
            except SetupFault as exc:
                assert "has 2 in-sync replicas and needs 3" in str(exc)
                break
            await asyncio.sleep(0.5)
    with pytest.raises((Retryable, Uncertain)):
        await appender.append([Record(topic, number, b"y") for number in range(9)])
    await asyncio.to_thread(kafka_cluster.start)
    async with asyncio.timeout(60):
        while True:
            try:
                await appender.append([Record(topic, number, b"z") for number in range(9)])
            except (Retryable, Uncertain):
                await asyncio.sleep(0.5)
            else:
                break


# --- appending -------------------------------------------------------------------------------------


@pytest.mark.kafka
async def test_an_unknown_topic_is_fatal(kafka: str, opened: Opener) -> None:
    appender = await opened.appender(log(kafka, {name(): 1}))
    with pytest.raises(Fatal, match="no topic elsewhere"):
        await appender.append([Record("elsewhere", 1, b"x")])


@pytest.mark.kafka
async def test_a_part_that_is_refused_is_named(kafka: str, opened: Opener) -> None:
    wide, narrow = await created(kafka, name()), await created(kafka, name(), max_message_bytes="1000")
    made = log(kafka, {wide: 1, narrow: 1})
    appender = await opened.appender(made)
    noise = random.Random(3).randbytes(5000)
    taken, refused = Record(wide, 1, noise), Record(narrow, 1, noise)
    with pytest.raises(Retryable) as partly:
        await appender.append([taken, refused])
    assert partly.value.records is not None
    assert [each is refused for each in partly.value.records] == [True]
    with pytest.raises(Fatal, match="too large"):
        await appender.append([refused])
    assert {each.topic: bounds.end for each, (_, bounds) in (await made.inspect("g", [wide, narrow])).items()} == {
        wide: 1,
        narrow: 0,
    }
    await appender.append([Record(narrow, 1, b"small")])


@pytest.mark.kafka
async def test_a_large_append_is_several_batches_in_order(kafka: str, opened: Opener) -> None:
    topic = name()
    place = Place("kafka", kafka, {topic: 1})
    appender = await opened.appender(place.log())
    values = [b"%d " % number + random.Random(number).randbytes(50_000) for number in range(100)]
    await appender.append([Record(topic, 1, value) for value in values])
    consumer = await opened.consumer(place.log(), "g", [topic])
    await start(consumer)
    assert [row.value for row in (await read(consumer, 100))[Partition(topic, 0)]] == values


# --- brokers that freeze and die -------------------------------------------------------------------


class Ledger:
    """What a sender was told about each of its records."""

    def __init__(self) -> None:
        self.acked: set[bytes] = set()
        self.refused: set[bytes] = set()
        self.uncertain: list[tuple[set[bytes], asyncio.Future[bool]]] = []
        self.slowest_s = 0.0

    async def send(self, appender: KafkaAppender, records: list[Record]) -> None:
        sent, missing = {record.value for record in records}, set[bytes]()
        started = time.monotonic()
        try:
            await appender.append(records)
        except Uncertain as exc:
            missing = {record.value for record in exc.records}
            self.uncertain.append((missing, exc.settled))
        except Retryable as exc:
            missing = sent if exc.records is None else {record.value for record in exc.records}
            self.refused |= missing
        self.acked |= sent - missing
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)


async def values_in(place: Place) -> list[bytes]:
    consumer = await place.log().consumer(name(), [place.first])
    await start(consumer)
    ends = [await consumer.bounds(each) for each in consumer.assignment()]
    found = await read(consumer, sum(each.end - each.first for each in ends))
    await consumer.aclose()
    return [row.value for rows in found.values() for row in rows]


async def sending(ledger: Ledger, appender: KafkaAppender, topic: str, first: int, seconds: float) -> int:
    """Two records to two partitions every 10 ms, without waiting for the answers; returns the next number."""
    tasks = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        values = [b"%d" % first, b"%d'" % first]
        records = [Record(topic, first % 3 + 1 + shift, value) for shift, value in enumerate(values)]
        tasks.append(asyncio.create_task(ledger.send(appender, records)))
        first += 1
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    return first


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
async def test_the_truth_about_every_record_across_an_outage(
    private_kafka: Broker, fault: signal.Signals, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    topic = name()
    place = Place("kafka", private_kafka.bootstrap, {topic: 3})
    appender = await opened.appender(log(private_kafka.bootstrap, {topic: 3}))
    ledger = Ledger()
    following = await sending(ledger, appender, topic, 0, 1)
    await appender.ready()
    outage = asyncio.create_task(sending(ledger, appender, topic, following, 6))
    await asyncio.sleep(0.3)
    private_kafka.signal(fault)
    await asyncio.sleep(4)
    started = time.monotonic()
    with pytest.raises(LogError) as unready:
        await appender.ready()
    assert unready.value.reason in ("log_away", "log_uncertain")
    assert time.monotonic() - started < 3
    following = await outage
    await back(private_kafka, fault)
    async with asyncio.timeout(60):
        before = len(ledger.acked)
        while len(ledger.acked) == before:
            following = await sending(ledger, appender, topic, following, 0.5)
    await appender.ready()
    settled = [await asyncio.wait_for(each, 30) for _, each in ledger.uncertain]
    await appender.aclose()
    stored = await values_in(place)
    assert len(ledger.refused) > 20
    assert settled
    assert len(stored) == len(set(stored)), "nothing twice"
    assert ledger.acked <= set(stored), "acknowledged is there"
    assert not ledger.refused & set(stored), "refused is not"
    for (values, _), arrived in zip(ledger.uncertain, settled, strict=True):
        assert not arrived or values <= set(stored)
    assert ledger.slowest_s < 5.5, "nobody waits for Kafka to come back"
    assert not [record for record in caplog.records if record.levelno > logging.INFO], "no noise"


async def back(broker: Broker, fault: signal.Signals) -> None:
    if fault == signal.SIGSTOP:
        broker.signal(signal.SIGCONT)
    else:
        await asyncio.to_thread(broker.start)


@pytest.mark.kafka
@pytest.mark.slow
async def test_everything_stays_bounded_while_the_broker_is_frozen(private_kafka: Broker, opened: Opener) -> None:
    topic = name()
    made = log(private_kafka.bootstrap, {topic: 1})
    appender, consumer = await opened.appender(made), await opened.consumer(made, "g", [topic])
    await appender.append([Record(topic, 1, b"x")])
    await start(consumer)
    (partition,) = consumer.assignment()
    private_kafka.signal(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(Uncertain) as uncertain:
        await appender.append([Record(topic, 1, b"y")])
    assert not uncertain.value.settled.done()
    assert await consumer.poll(timeout_s=0.1, max_records=1, paused=consumer.assignment()) == {}
    for call in (consumer.position(partition), consumer.bounds(partition), consumer.commit(partition, 1, None)):
        with pytest.raises((Retryable, Fenced)):
            await call
    assert time.monotonic() - started < 12
    started = time.monotonic()
    await asyncio.gather(appender.aclose(), consumer.aclose())
    assert time.monotonic() - started < 15
    assert await uncertain.value.settled is False, "it can no longer be learnt"
    private_kafka.signal(signal.SIGCONT)


@pytest.mark.kafka
@pytest.mark.slow
async def test_a_consumer_lives_through_a_restart_of_the_broker(private_kafka: Broker, opened: Opener) -> None:
    topic = name()
    made = log(private_kafka.bootstrap, {topic: 1})
    appender, consumer = await opened.appender(made), await opened.consumer(made, "g", [topic])
    await appender.append([Record(topic, 1, b"1")])
    await start(consumer)
    partition = Partition(topic, 0)
    await read(consumer, 1)
    await consumer.commit(partition, 1, None)
    await asyncio.to_thread(private_kafka.stop)
    with pytest.raises((Retryable, Fenced)):
        await consumer.commit(partition, 1, None)
    await asyncio.to_thread(private_kafka.start)
    async with asyncio.timeout(60):
        while True:
            try:
                await appender.append([Record(topic, 1, b"2")])
            except (Retryable, Uncertain):
                await asyncio.sleep(0.5)
            else:
                break
        while await patient_read(consumer, partition) != b"2":
            continue


async def patient_read(consumer: Consumer, partition: Partition) -> bytes:
    try:
        positions = await start(consumer)
        assert positions[partition] == Position(1, None)
        for rows in (await consumer.poll(timeout_s=1, max_records=1)).values():
            return bytes(rows[0].value)
    except (Retryable, Fenced):
        await asyncio.sleep(0.5)
    return b""


@pytest.mark.kafka
async def test_a_producer_that_can_deliver_no_more_is_replaced(kafka: str, opened: Opener) -> None:
    topic = name()
    made = log(kafka, {topic: 1})
    appender = await opened.appender(made)
    await appender.append([Record(topic, 1, b"1")])
    broken = appender._producer
    broken._txn_manager.increment_sequence_number(TopicPartition(topic, 0), 100)  # the next batch is out of order
    with pytest.raises(Uncertain) as uncertain:
        await appender.append([Record(topic, 1, b"2")])
    assert await uncertain.value.settled is False
    async with asyncio.timeout(20):
        while True:
            try:
                await appender.append([Record(topic, 1, b"3")])
            except Retryable:
                await asyncio.sleep(0.1)
            else:
                break
    assert appender._producer is not broken
    await appender.ready()
    assert await values_in(Place("kafka", kafka, {topic: 1})) == [b"1", b"3"]


# --- records that nobody reads ---------------------------------------------------------------------


@pytest.mark.kafka
async def test_unread_records_past_half_of_the_retention_are_overdue(kafka: str, opened: Opener) -> None:
    topic, day_ms = name(), 86_400_000
    made = log(kafka, {topic: 1})
    appender = await opened.appender(made)
    await appender.append([Record(topic, 1, b"x")] * 3)
    now_ms = int(time.time() * 1000)
    assert await made.overdue("g", [topic], now_ms=now_ms) == []
    assert await made.overdue("g", [topic], now_ms=now_ms + 4 * day_ms) == [Partition(topic, 0)]  # 7 days are kept
    consumer = await opened.consumer(made, "g", [topic])
    await start(consumer)
    await consumer.commit(Partition(topic, 0), 3, None)
    assert await made.overdue("g", [topic], now_ms=now_ms + 4 * day_ms) == []
