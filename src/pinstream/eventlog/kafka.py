"""The event log on Apache Kafka. The only module that knows aiokafka.

Appending is idempotent with `acks=all`: a batch a partition, acknowledged or accounted for. What aiokafka does when
a broker goes away decides what an append reports: a batch that `send_batch` did not accept is not in Kafka, one that
it accepted stays open for the whole outage and usually arrives in the end, so it is Uncertain at the deadline.

A consumer group's position and intent are one commit, offset and metadata, fenced by the group's generation. aiokafka
would send an old commit under a new generation once it has rejoined, so a commit here goes out only under the
membership that its partition was sought with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition, codec
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.helpers import create_ssl_context
from aiokafka.structs import OffsetAndMetadata

from pinstream import clock
from pinstream.errors import Fatal, Fenced, LogError, Misconfigured, PositionLost, Retryable, SetupFault, Uncertain
from pinstream.event import ENGAGEMENTS, EVENTS, FORWARD, REJECTED
from pinstream.eventlog.contract import MAX_VALUE_BYTES, Bounds, Intent, Partition, Position, Record, Stored
from pinstream.settings import Log as LogSettings

logger = logging.getLogger(__name__)
T = TypeVar("T")

BATCH_BYTES: Final = 1 << 20  # of one batch before compression, unless one record is larger
MESSAGE_BYTES: Final = MAX_VALUE_BYTES + (64 << 10)  # a topic's max.message.bytes: our largest record in a batch
FETCH_BYTES: Final = 4 << 20  # read ahead, a partition
SESSION_MS: Final = 10_000  # a member that is not heard of for so long is replaced
FORWARD_KEEP_MS: Final = 24 * 3_600_000  # design: what is forwarded is kept for a day
READY_S: Final = 2.0  # for the whole of `ready`
FRESH_S: Final = 2.0  # an acknowledgement this young is proof enough
CLOSE_S: Final = 3.0  # for what is still open, and again for the client library
CREATE_S: Final = 20.0  # until created topics have leaders
LZ4_LEVEL: Final = 1  # aiokafka's own is 9: five times the CPU, the rest of appending taken together, for 3 % less

# --- what aiokafka's errors mean ------------------------------------------------------------------

_TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError, kafka.RecordTooLargeError)
_LOST_MEMBERSHIP = (
    kafka.CommitFailedError,
    kafka.IllegalGenerationError,
    kafka.UnknownMemberIdError,
    kafka.RebalanceInProgressError,
    kafka.IllegalStateError,
    kafka.ConsumerStoppedError,
)
_NOT_ALLOWED = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.AuthenticationFailedError,
    kafka.SaslAuthenticationFailed,
    kafka.AuthenticationMethodNotSupported,
    kafka.UnsupportedSaslMechanismError,
)
_MEANING: Final[tuple[tuple[tuple[type[BaseException], ...], type[LogError], str], ...]] = (
    (_TOO_LARGE, Fatal, "Kafka refuses a record as too large ({0}): set the topic's max.message.bytes to 2097152."),
    ((kafka.InvalidTopicError,), Fatal, "Kafka does not take the topic ({0})."),
    (_LOST_MEMBERSHIP, Fenced, "The group has another member for this partition now ({0})."),
    (
        (kafka.OffsetOutOfRangeError, kafka.NoOffsetForPartitionError),
        PositionLost,
        "Kafka has no record at the position ({0}): the topic was recreated, or its retention has passed it.",
    ),
    (_NOT_ALLOWED, Retryable, "Kafka does not allow it ({0}): check log.kafka_extra and the ACLs."),
    ((kafka.KafkaError, OSError, TimeoutError), Retryable, "Kafka does not answer ({0})."),
)
_POISONED = (
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
    kafka.ProducerFenced,
    kafka.ProducerClosed,
)
"""After one of these a producer never delivers again: another one takes its place."""


def translated(exc: BaseException) -> LogError:
    """Our error for one of aiokafka's."""
    for kinds, ours, sentence in _MEANING:
        if isinstance(exc, kinds):
            return ours(sentence.format(_text(exc)))
    return Fatal(f"Kafka's client failed in a way it should not ({_text(exc)}).")


def _text(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


@contextlib.contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except (kafka.KafkaError, kafka.ConsumerStoppedError, OSError, TimeoutError) as exc:
        raise translated(exc) from exc


async def _asked(timeout_s: float, ask: Callable[[], Awaitable[T]]) -> T:
    """The answer to a question that changes nothing. aiokafka asks a random broker once, and one may be away."""
    last: kafka.KafkaError = kafka.KafkaTimeoutError()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await ask()
                except kafka.KafkaError as exc:
                    if not exc.retriable:
                        raise
                    last = exc
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise translated(last) from last
    except kafka.KafkaError as exc:
        raise translated(exc) from exc


class _OnlyTheUnexpected(logging.Filter):
    """aiokafka logs every retry; what matters of them reaches our callers as an error. Exceptions pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info) or record.levelno < logging.INFO


_QUIET: Final = _OnlyTheUnexpected()
_NOISY: Final = (
    "aiokafka",
    "aiokafka.admin.client",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.consumer",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.consumer.subscription_state",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
    "aiokafka.producer.transaction_manager",
)

# --- the log ---------------------------------------------------------------------------------------


class KafkaAway(SetupFault):
    """No broker answers, or too few: what is set may be right, and Kafka fit later."""


class KafkaLog:
    """A cluster. Of the settings it reads `kafka_...`."""

    def __init__(
        self, settings: LogSettings, *, topics: Mapping[str, int] | None = None, session_timeout_ms: int = SESSION_MS
    ) -> None:
        """`topics`: name -> partitions; ours if not given. Raises Misconfigured if settings contradict each other."""
        self._settings = settings
        self._topics = topics or {EVENTS: settings.kafka_partitions, ENGAGEMENTS: 1, REJECTED: 1, FORWARD: 1}
        self._session_ms = session_timeout_ms
        self._client = client_options(settings)
        self._timeout_s = settings.kafka_request_timeout_ms / 1000
        if settings.kafka_min_insync > settings.kafka_replication:
            raise Misconfigured(
                f"log.kafka_min_insync ({settings.kafka_min_insync}) is greater than log.kafka_replication "
                f"({settings.kafka_replication}): nothing could be acknowledged. Lower the one or raise the other."
            )
        for name in _NOISY:
            logging.getLogger(name).addFilter(_QUIET)
        codec.lz4_encode.__defaults__ = (LZ4_LEVEL,)  # it offers no setting

    async def appender(self, *, ack_timeout_ms: int | None = None) -> KafkaAppender:
        """Connect for writing. `ack_timeout_ms`: of one append, log.kafka_request_timeout_ms if not given.

        Raises:
            SetupFault: no broker answers or too few do (KafkaAway), or a topic is missing or differs from the settings.
            Retryable: a broker answered and then went away.
        """
        await self.check(create=self._settings.kafka_create_topics)
        timeout_ms = ack_timeout_ms or self._settings.kafka_request_timeout_ms
        appender = KafkaAppender(self._settings, self._client, self._topics, timeout_ms / 1000)
        await appender.start()
        return appender

    def refuse(self, records: Sequence[Record]) -> None:
        """Raise Fatal if one of the records can never be appended, as far as can be told without Kafka."""
        for record in records:
            if record.topic not in self._topics:
                raise _no_topic(record)
            if len(record.value) > MAX_VALUE_BYTES:
                raise _too_long()

    async def consumer(self, group: str, topics: Sequence[str]) -> KafkaConsumer:
        """Join `group`; partitions come while polling. Raises SetupFault as `appender` does."""
        await self.check(create=self._settings.kafka_create_topics)
        consumer = KafkaConsumer(self._consumer_options(), self._client, group, topics, self._session_ms)
        try:
            with _translating():
                await consumer.start()
        except BaseException:
            await consumer.aclose()
            raise
        return consumer

    def _consumer_options(self) -> dict[str, Any]:
        # Joining waits for the slowest member, up to its session: the request must outlast that.
        timeout_ms = max(self._settings.kafka_request_timeout_ms, self._session_ms + 5000)
        return {**self._client, "request_timeout_ms": timeout_ms}

    async def check(self, *, create: bool = False) -> None:
        """See `contract.Log`. With `create`, missing topics are made."""
        async with self._admin() as admin:
            found = await self._found(admin)
            missing = [topic for topic in self._topics if topic not in found]
            if missing and create:
                await self._create(admin, missing)
                found = await self._all_found(admin)
                missing = [topic for topic in self._topics if topic not in found]
            if missing:
                raise SetupFault(
                    f"Kafka at {self._settings.kafka_bootstrap} lacks the topics {', '.join(missing)}. Set "
                    "log.kafka_create_topics = true once, or create them."
                )
            limits = await _topic_numbers(admin, list(self._topics), "min.insync.replicas", self._timeout_s)
        for topic, partitions in self._topics.items():
            self._fit(topic, partitions, found[topic], limits[topic])

    async def inspect(self, group: str, topics: Sequence[str]) -> dict[Partition, tuple[Position, Bounds]]:
        """See `contract.Log`."""
        async with self._admin() as admin:
            partitions = await self._partitions(admin, topics)
            if not partitions:
                return {}
            positions = await _positions(admin, group, partitions, self._timeout_s)
        async with self._reader() as reader:
            bounds = await _all_bounds(reader, partitions)
        return {each: (positions[each], bounds[each]) for each in partitions}

    async def overdue(self, group: str, topics: Sequence[str], *, now_ms: int) -> list[Partition]:
        """See `contract.Log`. By the topics' retention.ms; a retention by bytes is not looked at."""
        async with self._admin() as admin:
            partitions = await self._partitions(admin, topics)
            positions = await _positions(admin, group, partitions, self._timeout_s) if partitions else {}
            kept_ms = await _topic_numbers(admin, topics, "retention.ms", self._timeout_s) if partitions else {}
        mortal = [each for each in partitions if kept_ms[each.topic] > 0]
        if not mortal:
            return []
        async with self._reader() as reader:
            half = {TopicPartition(*each): now_ms - kept_ms[each.topic] // 2 for each in mortal}
            bounds = await _all_bounds(reader, mortal)
            newer = await reader.offsets_for_times(half)
        return [each for each in mortal if _is_overdue(positions[each], bounds[each], newer[TopicPartition(*each)])]

    async def _partitions(self, admin: AIOKafkaAdminClient, topics: Sequence[str]) -> list[Partition]:
        found = await self._found(admin)
        return [Partition(topic, each.number) for topic in topics for each in found.get(topic, [])]

    @contextlib.asynccontextmanager
    async def _reader(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer of no group, to ask for offsets."""
        reader = AIOKafkaConsumer(**self._client, auto_offset_reset="none", enable_auto_commit=False)
        try:
            with _translating():
                await reader.start()
                yield reader
        finally:
            await _stopped(reader)

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self._client)
        try:
            try:
                async with asyncio.timeout(_start_s(self._settings)):
                    await admin.start()
            except (kafka.KafkaError, OSError, TimeoutError) as exc:
                raise KafkaAway(
                    f"No Kafka answers at {self._settings.kafka_bootstrap} ({_text(exc)}). Start it, or set "
                    "log.kafka_bootstrap; for a secured one set log.kafka_extra."
                ) from exc
            yield admin
        finally:
            await _stopped(admin)

    async def _found(self, admin: AIOKafkaAdminClient) -> dict[str, list[_Replicas]]:
        topics = await _asked(self._timeout_s, admin.describe_topics)  # asking for one by name could create it
        return {
            topic["topic"]: [
                _Replicas(each["partition"], each["leader"], len(each["replicas"]), len(each["isr"]))
                for each in sorted(topic["partitions"], key=lambda each: each["partition"])
            ]
            for topic in topics
            if topic["error_code"] == 0
        }

    async def _all_found(self, admin: AIOKafkaAdminClient) -> dict[str, list[_Replicas]]:
        """As `_found`, once every topic is there: a broker may learn of a new one a moment after the others."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            found = await self._found(admin)
            if self._topics.keys() <= found.keys() or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.1)

    async def _create(self, admin: AIOKafkaAdminClient, names: Sequence[str]) -> None:
        wanted = [
            NewTopic(name, self._topics[name], self._settings.kafka_replication, topic_configs=self._configs(name))
            for name in names
        ]
        with _translating():
            answer = await admin.create_topics(wanted)
        for name, code, *message in answer.topic_errors:
            error = kafka.for_code(code)
            if error not in (kafka.NoError, kafka.TopicAlreadyExistsError):
                said = next((text for text in message if text), error.__name__)
                raise SetupFault(f"Kafka did not create {name}: {said} Start more brokers, or change log.kafka_....")
        logger.info("Created the topics %s.", ", ".join(names))
        await self._led(admin, names)

    def _configs(self, topic: str) -> dict[str, str]:
        configs = {
            "min.insync.replicas": str(self._settings.kafka_min_insync),
            "max.message.bytes": str(MESSAGE_BYTES),
        }
        return configs | ({"retention.ms": str(FORWARD_KEEP_MS)} if topic == FORWARD else {})

    async def _led(self, admin: AIOKafkaAdminClient, names: Sequence[str]) -> None:
        for _ in range(int(CREATE_S / 0.1)):
            found = await self._found(admin)
            if all(name in found and all(each.leader >= 0 for each in found[name]) for name in names):
                return
            await asyncio.sleep(0.1)
        raise SetupFault(f"Kafka created {', '.join(names)} but gives them no leader. Look at the brokers.")

    def _fit(self, topic: str, partitions: int, found: Sequence[_Replicas], min_insync: int) -> None:
        settings = self._settings
        if len(found) != partitions:
            raise SetupFault(
                f"Topic {topic} has {len(found)} partitions, the settings say {partitions} (log.kafka_partitions is "
                "for events, the others have 1). It is fixed at install: set what the topic has."
            )
        if min_insync < settings.kafka_min_insync:
            raise SetupFault(
                f"Topic {topic} has min.insync.replicas={min_insync}, log.kafka_min_insync asks for "
                f"{settings.kafka_min_insync}. Change one of them."
            )
        for each in found:
            if each.replicas < settings.kafka_replication:
                raise SetupFault(
                    f"Topic {topic} keeps {each.replicas} copies, log.kafka_replication asks for "
                    f"{settings.kafka_replication}. Reassign its replicas, or lower the setting."
                )
            if each.leader < 0:
                raise KafkaAway(f"Partition {each.number} of {topic} has no leader. Start the missing brokers.")
            if each.in_sync < min_insync:
                raise KafkaAway(
                    f"Partition {each.number} of {topic} has {each.in_sync} in-sync replicas and needs {min_insync} "
                    "(min.insync.replicas): nothing would be acknowledged. Start the missing brokers."
                )


class _Replicas(NamedTuple):
    """A partition as the cluster's metadata tell it."""

    number: int
    leader: int
    replicas: int
    in_sync: int


_CLIENT_OPTIONS: Final = frozenset(
    {
        "client_id",
        "connections_max_idle_ms",
        "metadata_max_age_ms",
        "retry_backoff_ms",
        "sasl_kerberos_domain_name",
        "sasl_kerberos_service_name",
        "sasl_mechanism",
        "sasl_plain_password",
        "sasl_plain_username",
        "security_protocol",
    }
)
_SSL_OPTIONS: Final = {
    "ssl_cafile": "cafile",
    "ssl_certfile": "certfile",
    "ssl_keyfile": "keyfile",
    "ssl_password": "password",
}


def client_options(settings: LogSettings) -> dict[str, Any]:
    """What every client of aiokafka gets. Raises Misconfigured for what kafka_extra may not say."""
    extra = dict(settings.kafka_extra)
    files = {theirs: extra.pop(ours) for ours, theirs in _SSL_OPTIONS.items() if ours in extra}
    unknown = sorted(extra.keys() - _CLIENT_OPTIONS)
    if unknown:
        known = ", ".join(sorted(_CLIENT_OPTIONS | _SSL_OPTIONS.keys()))
        raise Misconfigured(f"log.kafka_extra may not hold {', '.join(unknown)}. It may hold {known}.")
    if extra.get("retry_backoff_ms", 100) * 2 > settings.kafka_request_timeout_ms:
        raise Misconfigured("log.kafka_extra.retry_backoff_ms must be at most half of log.kafka_request_timeout_ms.")
    if "SSL" in extra.get("security_protocol", "").split("_"):
        try:
            extra["ssl_context"] = create_ssl_context(**files)
        except OSError as exc:
            raise Misconfigured(f"log.kafka_extra: the TLS files cannot be read: {exc}.") from exc
    return {
        "metadata_max_age_ms": 30_000,
        **extra,
        "bootstrap_servers": settings.kafka_bootstrap,
        "request_timeout_ms": settings.kafka_request_timeout_ms,
    }


def _start_s(settings: LogSettings) -> float:
    """How long a client may take to connect: it tries one broker after the other."""
    return (1 + settings.kafka_bootstrap.count(",")) * settings.kafka_request_timeout_ms / 1000


async def _topic_numbers(
    admin: AIOKafkaAdminClient, topics: Sequence[str], setting: str, timeout_s: float
) -> dict[str, int]:
    """A numeric setting of each topic, such as min.insync.replicas."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, {setting: None}) for name in topics]

    async def ask() -> dict[str, int]:
        answers = await admin.describe_configs(resources)
        told = [resource for answer in answers for resource in answer.resources]
        for code, _, _, _, entries in told:
            if code or not entries:  # a broker may learn of a new topic a moment after the others
                raise kafka.for_code(code or kafka.UnknownTopicOrPartitionError.errno)
        return {name: int(entries[0][1]) for _, _, _, name, entries in told}

    return await _asked(timeout_s, ask)


async def _stopped(client: Any, within_s: float = CLOSE_S) -> None:
    """Close one of aiokafka's clients, whatever it waits for."""
    close = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    task = asyncio.ensure_future(close())
    _, open_ = await asyncio.wait([task], timeout=within_s)
    if open_:
        task.cancel()
        await asyncio.wait([task], timeout=1)
        inner = getattr(client, "client", None) or client._client
        await asyncio.wait([asyncio.ensure_future(inner.close())], timeout=1)
    if task.done() and not task.cancelled() and task.exception():
        logger.warning("Kafka's client did not close in order: %s", task.exception())


# --- writing ---------------------------------------------------------------------------------------

_NO_HEADERS: Final[list[tuple[str, bytes]]] = []


@dataclass(eq=False, slots=True)
class _Batch:
    """Records for one partition that go to Kafka as one unit."""

    partition: Partition
    builder: Any
    records: list[Record] = field(default_factory=list)
    ack: asyncio.Future[Any] | None = None
    """None: Kafka's client did not take it."""
    refusal: BaseException | None = None
    add: Callable[..., Any] = field(init=False)
    """What the builder's `append` calls for each record, without what it costs beside."""

    def __post_init__(self) -> None:
        self.add = self.builder._builder.append

    def close(self) -> None:
        """It is complete."""
        self.builder._relative_offset = len(self.records)
        self.builder.close()


class KafkaAppender:
    """One idempotent producer, replaced when it can deliver no more."""

    def __init__(
        self, settings: LogSettings, client: Mapping[str, Any], topics: Mapping[str, int], ack_timeout_s: float
    ) -> None:
        self._settings = settings
        self._client = client
        self._topics = topics
        self._ack_timeout_s = ack_timeout_s
        self._turns = count()
        self._turn_of: dict[Partition, asyncio.Lock] = {}
        self._queued: dict[Partition, int] = {}
        self._open: set[asyncio.Future[Any]] = set()
        self._unsettled: set[asyncio.Future[bool]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: LogError | None = None
        self._acked_at = 0.0
        self._started = asyncio.Event()
        self._closed = False
        self._producer = self._make_producer()
        self._retired: set[AIOKafkaProducer] = set()
        self._admin = AIOKafkaAdminClient(**client)

    def _make_producer(self) -> AIOKafkaProducer:
        compression = self._settings.kafka_compression
        return AIOKafkaProducer(
            **self._client,
            enable_idempotence=True,
            acks="all",
            compression_type=None if compression == "none" else compression,
            max_batch_size=BATCH_BYTES,
            max_request_size=MESSAGE_BYTES,
        )

    async def start(self) -> None:
        """Connect. Raises KafkaAway if that does not succeed in time."""
        try:
            async with asyncio.timeout(_start_s(self._settings)):
                await self._producer.start()
                await self._admin.start()
            self._started.set()
        except BaseException as exc:
            await self.aclose()
            if not isinstance(exc, (kafka.KafkaError, OSError, TimeoutError)):
                raise
            raise KafkaAway(f"Kafka at {self._settings.kafka_bootstrap} takes no producer ({_text(exc)}).") from exc

    async def append(self, records: Sequence[Record]) -> None:
        """See `contract.Appender`. Answers within the ack time-out."""
        if self._closed:
            raise Retryable("This appender is closed.")
        if not records:
            return
        deadline = time.monotonic() + self._ack_timeout_s
        batches = self._batches(records)
        try:
            if not self._started.is_set():
                await _until(self._started, deadline)
            await self._send(batches, deadline)
            if acks := [batch.ack for batch in batches if batch.ack is not None]:
                await asyncio.wait(acks, timeout=max(0.0, deadline - time.monotonic()))
        finally:
            self._leave(batches)
        self._fault = self._outcome(batches)
        if self._fault is not None:
            raise self._fault
        self._acked_at = time.monotonic()

    def _batches(self, records: Sequence[Record]) -> list[_Batch]:
        """The hot loop: one look-up and one call of Kafka's client for each record."""
        made: list[_Batch] = []
        filling: dict[str, list[_Batch | None]] = {}
        now_ms = clock.now_ms()
        for record in records:
            topic, key, value = record
            lanes = filling.get(topic)
            if lanes is None:
                if topic not in self._topics:
                    raise _no_topic(record)
                lanes = filling[topic] = [None] * self._topics[topic]
            number = (key or next(self._turns)) % len(lanes)
            batch = lanes[number]
            key_bytes = key.to_bytes(8, "big") if key else None
            if batch is None or not batch.add(len(batch.records), now_ms, key_bytes, value, _NO_HEADERS):
                if len(value) > MAX_VALUE_BYTES:  # which no batch takes but an empty one
                    raise _too_long()
                batch = lanes[number] = _Batch(Partition(topic, number), self._producer.create_batch())
                made.append(batch)
                if not batch.add(0, now_ms, key_bytes, value, _NO_HEADERS):
                    raise Fatal(f"Kafka's client does not take a record of {len(value)} bytes.")
            batch.records.append(record)
        for batch in made:
            batch.close()
        return made

    async def _send(self, batches: Sequence[_Batch], deadline: float) -> None:
        """Offer each batch, those of one partition in order; after one that Kafka's client does not take, none."""
        crowded: dict[Partition, list[_Batch]] = {}
        refused: set[Partition] = set()
        for batch in batches:
            partition = batch.partition
            if partition in crowded or not self._has_room(partition):
                crowded.setdefault(partition, []).append(batch)
            elif partition not in refused and not await self._offer(batch):
                refused.add(partition)
        if crowded:
            with contextlib.suppress(TimeoutError):  # the batches tell what came of them
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await asyncio.gather(*(self._send_lane(lane) for lane in crowded.values()))

    def _has_room(self, partition: Partition) -> bool:
        """Will Kafka's client take a batch now, without waiting for its metadata or for another batch?"""
        client = self._producer
        return (
            not self._queued.get(partition)
            and not client._message_accumulator._batches.get(partition)
            and partition.number in client.client.cluster._partitions.get(partition.topic, ())
        )

    async def _send_lane(self, lane: Sequence[_Batch]) -> None:
        """One append at a time for each partition.

        aiokafka lets whoever comes first in, and counts the time of those that wait several times over.
        """
        partition = lane[0].partition
        self._queued[partition] = self._queued.get(partition, 0) + 1
        try:
            async with self._turn_of.setdefault(partition, asyncio.Lock()):
                for batch in lane:
                    if not await self._offer(batch):
                        return
        finally:
            self._queued[partition] -= 1

    async def _offer(self, batch: _Batch) -> bool:
        """True if Kafka's client took it. Cancelled, it did not: nothing is awaited once the batch is in its queue."""
        if not self._started.is_set():
            batch.refusal = kafka.KafkaTimeoutError("its producer is being replaced")
            return False
        topic, number = batch.partition
        try:
            batch.ack = await self._producer.send_batch(batch.builder, topic, partition=number)
        except AssertionError:
            batch.refusal = kafka.UnknownTopicOrPartitionError(f"{topic} has no partition {number} any more")
            return False
        except (kafka.KafkaError, OSError, TimeoutError) as exc:
            batch.refusal = exc
            return False
        self._open.add(batch.ack)
        return True

    def _leave(self, batches: Sequence[_Batch]) -> None:
        """An append is over: only what is still open is looked after."""
        for batch in batches:
            if batch.ack is None:
                continue
            if batch.ack.done():
                self._close_ack(batch.ack)
            else:
                batch.ack.add_done_callback(self._close_ack)

    def _close_ack(self, ack: asyncio.Future[Any]) -> None:
        self._open.discard(ack)
        if not ack.cancelled():
            ack.exception()  # seen, so that asyncio does not report it as forgotten

    def _outcome(self, batches: Sequence[_Batch]) -> LogError | None:
        """None if all is acknowledged; else the error that says exactly what is not."""
        states = [state_of(batch.ack, batch.refusal) for batch in batches]
        left = [batch for batch, state in zip(batches, states, strict=True) if state != "durable"]
        if not left:
            return None
        refusals = [exc for batch in left if (exc := _failure(batch)) is not None]
        if self._started.is_set() and (any(map(_poisons, left)) or self._producer._sender.sender_task.done()):
            self._replace_producer()
        if "open" in states or "unknown" in states:
            return self._uncertain(left, refusals)
        error = translated(refusals[0]) if refusals else Retryable("Kafka's client had no room in time.")
        if len(left) == len(batches):
            return error
        partly = Retryable(str(error))
        partly.records = [record for batch in left for record in batch.records]
        return partly

    def _uncertain(self, left: Sequence[_Batch], refusals: Sequence[BaseException]) -> Uncertain:
        """The parts settle one by one, and the whole with the last of them."""
        records = [record for batch in left for record in batch.records]
        parts = [(batch.records, self._later(batch.ack)) for batch in left if batch.ack is not None]
        settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def look(_: object) -> None:
            if not settled.done() and all(part.done() for _, part in parts):
                settled.set_result(len(parts) == len(left) and all(part.result() for _, part in parts))

        for _, part in parts:
            part.add_done_callback(look)
        why = _text(refusals[0]) if refusals else "no acknowledgement in time"
        uncertain = Uncertain(f"Kafka may still take {len(records)} records ({why}).", records, settled)
        uncertain.parts = parts
        return uncertain

    def _later(self, ack: asyncio.Future[Any]) -> asyncio.Future[bool]:
        """True once it is acknowledged, False once that can no longer be learnt."""
        settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._unsettled.add(settled)
        settled.add_done_callback(self._unsettled.discard)

        def look(_: object) -> None:
            if not settled.done():
                settled.set_result(state_of(ack, None) == "durable")

        ack.add_done_callback(look)
        return settled

    def renew(self) -> None:
        """Give up the connection, and what is still open on it, for another one. For a Kafka that answers others."""
        if self._started.is_set():
            self._replace_producer()

    def _replace_producer(self) -> None:
        """A producer whose sequence is broken refuses for ever. What it still holds can no longer be learnt."""
        if self._closed:
            return
        logger.warning("Kafka's producer cannot deliver any more; another one takes its place.")
        self._started.clear()
        old, self._producer = self._producer, self._make_producer()
        self._retired.add(old)
        self._spawn(self._swap(old, self._producer))

    async def _swap(self, old: AIOKafkaProducer, new: AIOKafkaProducer) -> None:
        held = set(self._unsettled)
        await _stopped(old)
        self._retired.discard(old)
        _give_up(held)
        while not self._started.is_set():
            try:
                async with asyncio.timeout(_start_s(self._settings)):
                    await new.start()
            except (kafka.KafkaError, OSError, TimeoutError):
                await asyncio.sleep(1)
            else:
                self._started.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ready(self) -> None:
        """See `contract.Appender`. A young acknowledgement is proof; else every partition must be writable."""
        if self._closed:
            raise Retryable("This appender is closed.")
        if self._fault is None and time.monotonic() - self._acked_at < FRESH_S:
            return
        topics = await _asked(READY_S, self._admin.describe_topics)
        leaders = {topic["topic"]: [each["leader"] for each in topic["partitions"]] for topic in topics}
        for name in self._topics:
            if not leaders.get(name) or min(leaders[name]) < 0:
                raise Retryable(f"Topic {name} has a partition without a leader, or is gone. Look at the brokers.")
        if isinstance(self._fault, Retryable | Uncertain) and self._open:
            raise self._fault

    async def aclose(self, *, within_s: float = CLOSE_S) -> None:
        """Wait up to `within_s` for what is still open, then stop within as much again."""
        if self._closed:
            return
        self._closed = True
        if self._open:
            await asyncio.wait(set(self._open), timeout=within_s)
        for task in list(self._tasks):
            task.cancel()
        clients = (self._producer, *self._retired, self._admin)
        await asyncio.gather(*(_stopped(client, within_s) for client in clients))
        _give_up(self._unsettled)


async def _until(happened: asyncio.Event, deadline: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await happened.wait()


def _give_up(unsettled: Collection[asyncio.Future[bool]]) -> None:
    for settled in list(unsettled):
        if not settled.done():
            settled.set_result(False)


def _no_topic(record: Record) -> Fatal:
    return Fatal(f"There is no topic {record.topic}.")


def _too_long() -> Fatal:
    return Fatal(f"A record is larger than {MAX_VALUE_BYTES} bytes: the log never takes it.")


def state_of(ack: asyncio.Future[Any] | None, refusal: BaseException | None) -> str:
    """What is known of a batch: durable, open (may still arrive), absent (not in Kafka) or unknown.

    Kafka's first answer to a batch may have been lost before the error that we see, so only errors that it gives
    to every attempt prove absence.
    """
    if ack is None:
        return "absent"
    if not ack.done():
        return "open"
    exc = None if ack.cancelled() else ack.exception()
    if exc is None:
        return "unknown" if ack.cancelled() else "durable"
    return "absent" if isinstance(exc, (*_TOO_LARGE, kafka.InvalidTopicError, *_NOT_ALLOWED)) else "unknown"


def _failure(batch: _Batch) -> BaseException | None:
    if batch.ack is not None and batch.ack.done() and not batch.ack.cancelled():
        return batch.ack.exception()
    return batch.refusal


def _poisons(batch: _Batch) -> bool:
    """aiokafka has counted the sequence numbers of a batch it accepted: if that fails, the next is out of order."""
    failure = _failure(batch)
    return isinstance(failure, _POISONED) or (batch.ack is not None and failure is not None)


# --- reading ---------------------------------------------------------------------------------------

_NOTHING: Final = TopicPartition("", 0)  # polled for when nothing is wanted: an empty list would mean everything


class KafkaConsumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of a consumer group."""

    def __init__(
        self,
        options: Mapping[str, Any],
        admin_options: Mapping[str, Any],
        group: str,
        topics: Sequence[str],
        session_ms: int,
    ) -> None:
        self._group = group
        self._topics = list(topics)
        self._timeout_s = admin_options["request_timeout_ms"] / 1000
        self._start_s = self._timeout_s * (2 + admin_options["bootstrap_servers"].count(","))
        self._generation = 0
        self._assigned: frozenset[Partition] = frozenset()
        self._sought: set[Partition] = set()
        self._member: tuple[int, str] = (-1, "")
        self._polling: asyncio.Task[dict[Partition, list[Stored]]] | None = None
        self._polling_under = 0
        self._moved: set[Partition] = set()  # sought while a poll was under way
        self._closed = False
        self._admin = AIOKafkaAdminClient(**admin_options)
        self._consumer = AIOKafkaConsumer(
            **options,
            group_id=group,
            auto_offset_reset="none",
            enable_auto_commit=False,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=max(100, session_ms // 4),
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=200,
        )

    async def start(self) -> None:
        """Connect, and begin to join: the assignment comes while polling. Raises aiokafka's errors."""
        async with asyncio.timeout(self._start_s):
            await self._consumer.start()
            await self._admin.start()
        self._consumer.subscribe(self._topics, listener=self)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """aiokafka calls it before it rejoins."""
        self._drop()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """aiokafka calls it once it has joined. Silent until sought."""
        self._drop()
        self._consumer.pause(*assigned)
        self._assigned = frozenset(Partition(each.topic, each.partition) for each in assigned)
        self._member = self._membership()

    def _membership(self) -> tuple[int, str]:
        coordinator = self._consumer._coordinator
        return coordinator.generation, coordinator.member_id

    def _drop(self) -> None:
        self._assigned = frozenset()
        self._sought.clear()
        self._generation += 1

    @property
    def generation(self) -> int:
        """See `contract.Consumer`."""
        return self._generation

    def assignment(self) -> frozenset[Partition]:
        """See `contract.Consumer`."""
        return self._assigned

    async def position(self, partition: Partition) -> Position:
        """See `contract.Consumer`."""
        return (await _positions(self._admin, self._group, [partition], self._timeout_s))[partition]

    async def bounds(self, partition: Partition) -> Bounds:
        """See `contract.Consumer`."""
        with _translating():
            async with asyncio.timeout(self._timeout_s):
                return (await _all_bounds(self._consumer, [partition]))[partition]

    def seek(self, partition: Partition, offset: int) -> None:
        """See `contract.Consumer`. Does nothing for a partition that is not assigned."""
        if partition in self._assigned:
            self._consumer.seek(TopicPartition(*partition), offset)
            self._sought.add(partition)
            self._moved.add(partition)

    async def poll(
        self, *, timeout_s: float, max_records: int, paused: frozenset[Partition] = frozenset()
    ) -> Mapping[Partition, Sequence[Stored]]:
        """See `contract.Consumer`."""
        if self._closed:
            raise Fenced("This consumer is closed.")
        if self._polling is None:
            wanted = self._sought - paused
            self._pause(wanted)
            self._moved.clear()
            self._polling_under = self._generation
            self._polling = asyncio.ensure_future(self._fetch(wanted, timeout_s, max_records))
        await asyncio.wait([self._polling], timeout=timeout_s + 0.05)
        if not self._polling.done():  # a rebalance holds it up: the next poll asks again
            return {}
        task, self._polling = self._polling, None
        with _translating():
            found = task.result()
        if self._polling_under != self._generation:
            return {}
        current = {each: rows for each, rows in found.items() if each in self._sought - self._moved}
        for partition in current.keys() & paused:  # asked for by an earlier poll: read it again later
            self._consumer.seek(TopicPartition(*partition), current.pop(partition)[0].offset)
        return current

    def _pause(self, wanted: Collection[Partition]) -> None:
        for partition in self._assigned:
            each = TopicPartition(*partition)
            if partition in wanted:
                self._consumer.resume(each)
            else:
                self._consumer.pause(each)

    async def _fetch(
        self, wanted: Collection[Partition], timeout_s: float, max_records: int
    ) -> dict[Partition, list[Stored]]:
        partitions = [TopicPartition(*each) for each in wanted] or [_NOTHING]
        try:
            found = await self._consumer.getmany(*partitions, timeout_ms=int(timeout_s * 1000), max_records=max_records)
        except kafka.NoOffsetForPartitionError:
            return {}  # kept from between the assignment and our seek, when it looked for a committed offset; now gone
        return {
            Partition(each.topic, each.partition): [Stored(row.offset, row.value or b"", row.timestamp) for row in rows]
            for each, rows in found.items()
        }

    async def commit(self, partition: Partition, offset: int, intent: Intent | None) -> None:
        """See `contract.Consumer`."""
        if self._closed or partition not in self._sought:
            raise Fenced(f"{partition.topic}/{partition.number} was not sought since it was assigned.")
        metadata = msgspec.json.encode(intent).decode() if intent else ""
        try:
            with _translating():
                async with asyncio.timeout(self._timeout_s):
                    await self._commit({TopicPartition(*partition): OffsetAndMetadata(offset, metadata)})
        except Fenced:
            self._drop()
            raise

    async def _commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """One attempt, under the membership of our assignment. aiokafka's own commit() tries again after rejoining."""
        member = self._member
        coordinator = self._consumer._coordinator
        await coordinator.ensure_coordinator_known()
        async with coordinator._commit_lock:
            if self._membership() != member or self._member != member:
                raise kafka.CommitFailedError("joined anew meanwhile")
            await coordinator._do_commit_offsets(None, offsets)

    async def aclose(self) -> None:
        """Leave the group, within a bounded time."""
        if self._closed:
            return
        self._closed = True
        self._drop()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling], timeout=1)
        await asyncio.gather(_stopped(self._consumer), _stopped(self._admin))


async def _positions(
    admin: AIOKafkaAdminClient, group: str, partitions: Sequence[Partition], timeout_s: float
) -> dict[Partition, Position]:
    wanted = [TopicPartition(*each) for each in partitions]

    async def ask() -> dict[TopicPartition, OffsetAndMetadata]:
        stored: dict[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(
            group, partitions=wanted
        )
        if not all(each in stored for each in wanted):  # it is not ready: not the same as "nothing was committed"
            raise kafka.GroupCoordinatorNotAvailableError
        return stored

    stored = await _asked(timeout_s, ask)
    return {Partition(each.topic, each.partition): _position(stored[each]) for each in wanted}


def _position(stored: OffsetAndMetadata) -> Position:
    if stored.offset < 0:
        return Position(None, None)
    if not stored.metadata:
        return Position(stored.offset, None)
    try:
        return Position(stored.offset, msgspec.json.decode(stored.metadata, type=Intent))
    except msgspec.MsgspecError as exc:
        raise PositionLost(f"The group's commit holds metadata that is not ours: {stored.metadata!r}.") from exc


def _is_overdue(position: Position, bounds: Bounds, newer: Any) -> bool:
    """Is the next record older than the first one of the newer half, which may not exist?"""
    reached = bounds.first if position.offset is None else position.offset
    return reached < (bounds.end if newer is None else newer.offset)


async def _all_bounds(consumer: AIOKafkaConsumer, partitions: Sequence[Partition]) -> dict[Partition, Bounds]:
    wanted = [TopicPartition(*each) for each in partitions]
    first = await consumer.beginning_offsets(wanted)
    end = await consumer.end_offsets(wanted)
    return {Partition(each.topic, each.partition): Bounds(first[each], end[each]) for each in wanted}
