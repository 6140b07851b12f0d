"""Whatever bytes come on a connection, in whatever pieces: both HTTP paths answer the same and store the same."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pinstream import serving
from pinstream.settings import Collect
from tests.collect.corpus import CASES
from tests.collect.corpus.case import Case, get
from tests.collect.raw import Answer, connected
from tests.collect.test_corpus import BYTEWISE_BYTES, PATHS, Edge, both_paths

pytestmark = pytest.mark.slow

WAIT_S = 2.0  # for what never comes
LAST = get(b"/healthz", b"Connection: close")
SMALL = [
    case
    for name, case in CASES.items()
    if len(case.sent) <= BYTEWISE_BYTES
    and "431 head_too_large" not in case.answers  # of two faults in one head either is named
]
WHOLE = [case for case in SMALL if not case.closes]
BROKEN = [case for case in SMALL if case.closes]
BITS = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b":",
    b"\0",
    b"0\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\xff",
]


cuts = st.lists(st.integers(0, 4000), max_size=8)


def pieces(sent: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({at % (len(sent) + 1) for at in cuts} | {0, len(sent)})
    return [sent[start:end] for start, end in pairwise(places)]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Some requests in a row, one of them broken now and then, and now and then some bytes changed."""
    sent = bytearray(b"".join(case.sent for case in draw(st.lists(st.sampled_from(WHOLE), max_size=6))))
    if draw(st.booleans()):
        sent += draw(st.sampled_from(BROKEN)).sent
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(sent)))
        sent[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(BITS) | st.binary(max_size=3))
    return bytes(sent) + LAST


class Both(NamedTuple):
    """The two paths, on a loop of their own."""

    runner: asyncio.Runner
    edges: dict[str, Edge]

    def say(self, path: str, before: list[Case], parts: list[bytes]) -> Said:
        """Exchange the cases one after the other, then send the parts in one go."""
        return self.runner.run(_said(self.edges[path], before, parts))


class Said(NamedTuple):
    """What came back until the server ended the connection, and what was stored."""

    answers: list[Answer]
    rest: bytes
    records: list[bytes]


async def _said(edge: Edge, before: list[Case], parts: list[bytes]) -> Said:
    async with connected(edge.running) as connection:
        answers = []
        for case in before:
            await connection.send(case.sent)
            answers += [await connection.answer(bodiless=one.startswith("HEAD")) for one in case.answers]
        await connection.send(*parts)
        return Said(answers, await connection.rest(), await edge.new_records())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Servers that do not wait long."""
    quick = Collect(commit_interval_ms=1, body_timeout_s=WAIT_S)
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(serving, "HEAD_S", WAIT_S)
        paths = both_paths(tmp_path_factory.mktemp("fuzz"), quick)
        edges = runner.run(paths.__aenter__())
        try:
            yield Both(runner, edges)
        finally:
            runner.run(paths.__aexit__(None, None, None))


@pytest.fixture(autouse=True)
def nothing_unforeseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def stored_by(said: bytes) -> int:
    """How many requests of one event each were answered as stored."""
    heads: list[bytes] = re.findall(rb"HTTP/1\.1 (20[04] .*?)\r\n\r\n", said, re.DOTALL)
    return sum(
        b"access-control-allow-methods" not in head and b"x-pinstream-dropped" not in head
        for head in heads
        if head.startswith(b"204") or b"image/gif" in head
    )


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(sent=streams(), cuts=cuts)
def test_what_is_answered_as_stored_is_what_is_stored(both: Both, sent: bytes, cuts: list[int]) -> None:
    said = both.say("hot", [], pieces(sent, cuts))
    assert re.search(rb"HTTP/1\.1 5", said.rest) is None
    assert stored_by(said.rest) == len(said.records)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=st.lists(st.sampled_from(WHOLE), max_size=4), last=st.sampled_from(SMALL), cuts=cuts)
def test_both_paths_say_and_store_the_same(both: Both, before: list[Case], last: Case, cuts: list[int]) -> None:
    starlette, hot = (both.say(path, before, [*pieces(last.sent, cuts), LAST]) for path in PATHS)
    assert starlette == hot


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(sent=st.binary(max_size=200), cuts=cuts)
def test_noise_is_refused(both: Both, sent: bytes, cuts: list[int]) -> None:
    starlette, hot = (both.say(path, [], pieces(b"\x01" + sent, cuts)) for path in PATHS)
    assert starlette == hot
    assert hot.rest.startswith(b"HTTP/1.1 400 ") and hot.records == []
