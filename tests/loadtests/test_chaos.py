from __future__ import annotations

import asyncio
import errno
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import pytest
from loadtests.chaos.disk import FileSizes
from loadtests.chaos.faults import KINDS, OF_COLLECT, Kind, Pace, plan
from loadtests.chaos.ledger import MAX_EVENTS, Fate, Ledger
from loadtests.chaos.proxy import LATENCY_MS, THROTTLE_KB, OwnProxy, Toxic
from loadtests.chaos.readback import event_ids_in_spool, left_in_spool
from loadtests.chaos.run import quantiles
from loadtests.chaos.sender import reading, request_body
from loadtests.chaos.watch import counted

from pinstream.event import EVENTS
from pinstream.eventlog.contract import Record
from pinstream.eventlog.journal import JournalLog
from pinstream.settings import Log
from tests.kafka_broker import need_kafka

ROOT = Path(__file__).parents[2]


def books(*fates: Fate) -> tuple[Ledger, list[str]]:
    """A ledger of one request, and its event ids."""
    ledger = Ledger(7)
    numbers = ledger.open(len(fates), at_s=1.0)
    ledger.answer(numbers, fates, at_s=2.5)
    return ledger, [ledger.event_id(number) for number in numbers]


def test_every_event_answered_durable_is_looked_for_in_kafka_and_in_the_spool() -> None:
    ledger, (kept, spooled, lost, both) = books(*[Fate.DURABLE] * 4)
    verdict = ledger.held_against([kept, both], [spooled, both])
    assert (verdict.answered, verdict.missing, verdict.only_in_spool, verdict.doubled) == (4, 1, 1, 0)
    assert [(each.event_id, each.sent_s, each.answered_s) for each in verdict.examples] == [(lost, 1.0, 2.5)]


def test_an_event_that_kafka_holds_twice_is_doubled_and_an_event_of_somebody_else_strange() -> None:
    ledger, (twice, once) = books(Fate.DURABLE, Fate.DURABLE)
    verdict = ledger.held_against([twice, once, twice, "somebody else's", Ledger(8).event_id(0)], [])
    assert (verdict.doubled, verdict.missing, verdict.strange) == (1, 0, 2)
    assert verdict.examples[0].in_kafka == 2


def test_what_was_refused_or_not_answered_may_be_in_the_log_and_is_told_apart() -> None:
    ledger, ids = books(Fate.REFUSED, Fate.REFUSED, Fate.UNANSWERED, Fate.DROPPED)
    verdict = ledger.held_against([ids[0], ids[2], ids[2]], [])
    assert (verdict.refused, verdict.refused_but_stored) == (2, 1)
    assert (verdict.unanswered, verdict.unanswered_but_stored, verdict.dropped) == (1, 1, 1)
    assert (verdict.answered, verdict.missing, verdict.doubled) == (0, 0, 0)


def test_the_books_are_bounded() -> None:
    with pytest.raises(OverflowError):
        Ledger(1).open(MAX_EVENTS + 1, at_s=0)


@pytest.mark.parametrize(
    ("status", "body", "kind", "fates"),
    [
        (204, b"", "204", [Fate.DURABLE, Fate.DURABLE]),
        (
            207,
            b'{"results":[{"event_id":"a","status":"durable"},{"event_id":"b","status":"refused"}]}',
            "207",
            [Fate.DURABLE, Fate.REFUSED],
        ),
        (200, b'{"results":[{"status":"dropped"},{"status":"dropped"}]}', "200", [Fate.DROPPED, Fate.DROPPED]),
        (503, b'{"reason":"log_away","field":"","hint":""}', "503 log_away", [Fate.REFUSED, Fate.REFUSED]),
    ],
)
def test_an_answer_is_read_as_documented(status: int, body: bytes, kind: str, fates: list[Fate]) -> None:
    assert reading(status, body, 2) == (kind, fates)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"results":[{"status":"durable"}]}', b'{"results":[{"status":"yes"}]}'])
def test_an_answer_that_is_not_documented_is_none(body: bytes) -> None:
    with pytest.raises(ValueError):
        reading(207, body, 2)


def test_a_body_carries_its_events_with_consent() -> None:
    ledger, ids = books(Fate.UNANSWERED, Fate.UNANSWERED)
    sent = json.loads(request_body(ids, "v", now_ms=1_795_291_391_000))
    assert sent["consent"] == "yes"
    assert [event["event_id"] for event in sent["events"]] == ids
    assert [ledger.number(each) for each in ids] == [0, 1]


# --- faults ---


def test_a_seed_decides_everything_and_every_kind_has_its_turn() -> None:
    faults = plan(28, 5)
    assert plan(28, 5) == faults != plan(28, 6)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert Counter(fault.kind for fault in faults)["collect_kill"] == 6
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)


def test_faults_of_kafka_do_not_overlap_and_pauses_are_kept() -> None:
    faults = [fault for fault in plan(40, 3, pace=Pace((1, 2), (0.5, 1))) if fault.kind not in OF_COLLECT]
    assert len(faults) > 10
    for one, other in pairwise(faults):
        assert one.over_s + 0.5 <= other.at_s <= one.over_s + 1


def test_only_the_kinds_asked_for_are_dealt() -> None:
    kinds: tuple[Kind, ...] = ("cut", "collect_stop")
    assert Counter(fault.kind for fault in plan(10, 1, kinds=kinds)) == {"cut": 5, "collect_stop": 5}


# --- the network ---


@pytest.fixture
def heard() -> list[bytes]:
    """What arrived at the server."""
    return []


@pytest.fixture
async def echo(heard: list[bytes]) -> AsyncIterator[int]:
    """The port of a server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while data := await reader.read(1000):
                heard.append(data)
                writer.write(b"<" + data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


class Caller(NamedTuple):
    """A client of the proxy with one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes, *, within_s: float = 5) -> bytes:
        """The answer; nothing if the connection is gone."""
        self.writer.write(data)
        with suppress(ConnectionResetError):
            return await asyncio.wait_for(self.reader.read(1000), within_s)
        return b""


@asynccontextmanager
async def calling(proxy: OwnProxy) -> AsyncIterator[Caller]:
    caller = Caller(*await asyncio.open_connection("127.0.0.1", proxy.port))
    try:
        yield caller
    finally:
        caller.writer.close()


@pytest.fixture
async def proxy(echo: int) -> AsyncIterator[OwnProxy]:
    proxy = OwnProxy()
    await proxy.start(echo)
    yield proxy
    await proxy.aclose()


async def test_the_proxy_passes_on_until_it_is_cut_and_again_once_it_is_healed(proxy: OwnProxy) -> None:
    async with calling(proxy) as caller:
        assert await caller.say(b"a") == b"<a"
        await proxy.impose("cut")
        assert await caller.say(b"b") == b""
    with pytest.raises(ConnectionRefusedError):
        async with calling(proxy):
            pass
    await proxy.heal()
    async with calling(proxy) as caller:
        assert await caller.say(b"c") == b"<c"


@pytest.mark.parametrize(("toxic", "arrived"), [("half_open", []), ("acks_lost", [b"a"])])
async def test_what_is_swallowed_never_comes_and_the_connection_dies_when_healed(
    proxy: OwnProxy, heard: list[bytes], toxic: Toxic, arrived: list[bytes]
) -> None:
    async with calling(proxy) as caller:
        await proxy.impose(toxic)
        with pytest.raises(TimeoutError):
            await caller.say(b"a", within_s=0.3)
        assert heard == arrived
        await proxy.heal()
        assert await caller.say(b"b") == b""
    async with calling(proxy) as caller:
        assert await caller.say(b"c") == b"<c"


async def test_latency_and_throttling_take_their_time(proxy: OwnProxy) -> None:
    now = asyncio.get_running_loop().time
    async with calling(proxy) as caller:
        begun = now()
        await proxy.impose("latency")
        assert await caller.say(b"a") == b"<a"
        assert now() - begun >= LATENCY_MS / 1000
        await proxy.heal()
        await proxy.impose("throttle")
        begun = now()
        assert (await caller.say(b"x" * 900)).startswith(b"<x")
        assert now() - begun >= 0.9 / THROTTLE_KB


# --- the disk, the spool and what is counted ---


def test_a_full_disk_is_one_on_which_nothing_grows(tmp_path: Path) -> None:
    program = f"""
import sys
for line in sys.stdin:
    try:
        open({str(tmp_path / "file")!r}, "ab", 0).write(b"x" * 5000)
        print(0, flush=True)
    except OSError as exc:
        print(exc.errno, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout

        def write() -> int:
            assert process.stdin and process.stdout
            process.stdin.write("go\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        disk = FileSizes(lambda: [psutil.Process(process.pid)])
        assert write() == 0
        disk.fill()
        assert write() == errno.EFBIG
        disk.relieve()
        assert write() == 0
        process.stdin.close()


async def test_what_the_spool_holds_is_read_from_its_files(tmp_path: Path) -> None:
    assert event_ids_in_spool(tmp_path, EVENTS) == []
    kept = [Record(EVENTS, 1, b'{"event_id":"a"}'), Record("other", 1, b'{"event_id":"b"}')]
    appender = await JournalLog(tmp_path, Log()).appender()
    await appender.append([Record("waiting", 0, msgspec.msgpack.encode(record)) for record in kept])
    assert event_ids_in_spool(tmp_path, EVENTS) == ["a"]
    assert left_in_spool(tmp_path) == 2
    await appender.aclose()


def test_counters_are_read_from_the_metrics() -> None:
    text = '# HELP pinstream_spooled_total x\npinstream_spooled_total{a="b"} 3.0\npinstream_spooled_total{a="c"} 1e3\n'
    assert counted(text) == {"spooled": 1003, "drained": 0}


def test_quantiles() -> None:
    assert quantiles([]) == {}
    assert quantiles(range(1, 101)) == {"p50": 51, "p99": 100, "max": 100}


# --- all of it ---


@pytest.mark.kafka
@pytest.mark.slow
def test_no_answer_is_a_lie_while_processes_and_the_network_fail(tmp_path: Path) -> None:
    need_kafka()
    kinds = "kafka_kill,acks_lost,disk_full,collect_kill"
    command = ["collect", "--kills", "3", "--quick", "--kinds", kinds, "--seed", "34", "--rate", "200", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "loadtests.chaos", *command, "--proxy", "own", "--dir", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as chaos:
        try:
            said, _ = chaos.communicate(timeout=120)
        finally:
            chaos.terminate()  # it ends what it started
    assert chaos.returncode == 0
    outcome = json.loads(said.splitlines()[-1])
    assert outcome["missing"] == 0
    assert outcome["answered"] > 200
    # As this seed deals them; collect is killed while Kafka is away.
    assert outcome["faults"] == {"disk_full": 1, "kafka_kill": 1, "collect_kill": 1}
