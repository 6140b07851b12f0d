"""Raw bytes against a real server on both HTTP paths: what comes back, what reaches the log, and that both agree."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio

from pinstream.collect.protocol import Hot
from pinstream.event import EVENTS, TOPICS
from pinstream.eventlog.journal import JournalLog
from pinstream.serving import Bounded
from pinstream.settings import Collect, Log
from tests.collect.conftest import SNAPSHOT, Running, running
from tests.collect.corpus import CASES, MODULES
from tests.collect.corpus.case import EVENT, HEALTH, TINY, Case, post
from tests.collect.raw import Answer, connected

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = {"starlette": False, "hot": True}
"""Whether the hot path is on."""
NOW = 1_795_291_391_000
BYTEWISE_BYTES = 1000  # larger cases are only sent in one piece
CUT_BYTES = 150
LANES = 8  # connections at a time


class Outcome(NamedTuple):
    """What came of some bytes on a connection."""

    answers: list[Answer]
    ended: bool
    """Whether the server ended the connection."""


class Edge:
    """A running edge, and the records in its log."""

    def __init__(self, running: Running, consumer: Any) -> None:
        self.running = running
        self._consumer = consumer
        self._marks = map(str, itertools.count())

    async def outcome(self, case: Case, *parts: bytes) -> Outcome:
        """Send `parts`, and read as many answers as the case has. Raises EOFError if there are fewer."""
        try:
            return await self._outcome(case, parts)
        except BaseException:
            await self.new_records()  # not the next one's
            raise

    async def _outcome(self, case: Case, parts: Sequence[bytes]) -> Outcome:
        async with connected(self.running) as connection:
            await connection.send(*parts)
            answers = [await connection.answer(bodiless=said.startswith("HEAD")) for said in case.answers]
            if case.closes:
                assert await connection.rest() == b""
            else:
                await connection.send(HEALTH)
                assert (await connection.answer()).body == b'{"ok":true}'
        assert said(answers, case) == case.answers
        return Outcome(answers, case.closes)

    async def new_records(self) -> list[bytes]:
        """The events stored since the last time, in order."""
        mark = f"mark {next(self._marks)}"
        async with connected(self.running) as connection:
            await connection.send(post(body=EVENT.replace(b'"1"', msgspec.json.encode(mark))))
            assert (await connection.answer()).status == 204
        found: list[bytes] = []
        while not found or msgspec.json.decode(found[-1])["event_id"] != mark:
            for partition, records in (await self._consumer.poll(timeout_s=1, max_records=10_000)).items():
                found += [stored.value for stored in records if partition.topic == EVENTS]
        return found[:-1]


@asynccontextmanager
async def both_paths(folder: Path, settings: Collect | None = None) -> AsyncIterator[dict[str, Edge]]:
    """The same edge twice, with a log each."""
    snapshot = msgspec.structs.replace(SNAPSHOT, sites=(*SNAPSHOT.sites, TINY))
    async with AsyncExitStack() as stack:
        found = {}
        for path, hot in PATHS.items():
            edge = running(folder / path, snapshot=snapshot, settings=settings, clock=lambda: NOW, hot=hot)
            started = await stack.enter_async_context(edge)
            consumer = await JournalLog(folder / path, Log()).consumer("load", TOPICS)
            stack.push_async_callback(consumer.aclose)
            while not consumer.assignment():
                await consumer.poll(timeout_s=0.05, max_records=1)
            for partition in consumer.assignment():
                consumer.seek(partition, (await consumer.bounds(partition)).end)
            found[path] = Edge(started, consumer)
        yield found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edges(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Edge]]:
    async with both_paths(tmp_path_factory.mktemp("corpus")) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_unforeseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def cases(*paths: str, at_most_bytes: int | None = None) -> list[Any]:
    """Every case on each of these paths; with a bound on its size, only those that pass as a whole."""
    found = []
    for path in paths:
        for name, case in CASES.items():
            marks = [pytest.mark.slow] if path != "hot" else []
            if at_most_bytes is None or len(case.sent) <= at_most_bytes:
                found.append(pytest.param(path, case, id=f"{path}-{name}", marks=marks))
    return found


def said(answers: list[Answer], case: Case) -> tuple[str, ...]:
    """The answers as a case writes them."""
    marks = ["HEAD " if wanted.startswith("HEAD") else "" for wanted in case.answers]
    return tuple(f"{mark}{found.status} {found.reason}".strip() for mark, found in zip(marks, answers, strict=True))


async def test_no_case_hides_another() -> None:
    assert len(CASES) == sum(len(module.CASES) for module in MODULES)


async def test_parts_arrive_one_by_one(edges: dict[str, Edge], monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[bytes] = []
    feed = Bounded.data_received, Hot._read

    def noted(self: Bounded, data: bytes) -> None:
        came.append(data)
        feed[isinstance(self, Hot)](self, data)  # type: ignore[arg-type]

    monkeypatch.setattr(Bounded, "data_received", noted)
    monkeypatch.setattr(Hot, "_read", noted)
    case = CASES["health"]
    for edge in edges.values():
        came.clear()
        await edge.outcome(case, *in_bytes(case.sent))
        assert came[:-1] == in_bytes(case.sent)


def in_bytes(sent: bytes) -> list[bytes]:
    return [sent[at : at + 1] for at in range(len(sent))]


@pytest.mark.parametrize(("path", "case"), cases(*PATHS))
async def test_a_case(edges: dict[str, Edge], path: str, case: Case) -> None:
    edge = edges[path]
    await edge.outcome(case, case.sent)
    assert len(await edge.new_records()) == case.stored


@pytest.mark.slow
@pytest.mark.parametrize(("path", "case"), cases(*PATHS, at_most_bytes=BYTEWISE_BYTES))
async def test_a_case_byte_by_byte(edges: dict[str, Edge], path: str, case: Case) -> None:
    edge = edges[path]
    await edge.outcome(case, *in_bytes(case.sent))
    assert len(await edge.new_records()) == case.stored


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
async def test_both_paths_answer_alike(edges: dict[str, Edge], name: str) -> None:
    case = CASES[name]
    outcomes, records = [], []
    for edge in edges.values():
        outcomes.append(await edge.outcome(case, case.sent))
        records.append(await edge.new_records())
    assert outcomes[0] == outcomes[1]
    assert records[0] == records[1]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "case"), cases("hot", at_most_bytes=CUT_BYTES))
async def test_a_case_cut_in_two_anywhere(edges: dict[str, Edge], path: str, case: Case) -> None:
    edge = edges[path]
    places = iter(range(1, len(case.sent)))

    async def lane() -> None:
        for place in places:
            await edge.outcome(case, case.sent[:place], case.sent[place:])

    await asyncio.gather(*(lane() for _ in range(LANES)))
    assert len(await edge.new_records()) == case.stored * (len(case.sent) - 1)
