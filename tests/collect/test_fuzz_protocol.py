"""Whatever bytes come on a connection, in whatever pieces: both HTTP paths answer the same and store the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pinstream import serving
from pinstream.settings import Collect
from tests.collect.corpus import CASES, FAULTS
from tests.collect.corpus.case import get
from tests.collect.raw import connected
from tests.collect.test_corpus import BYTEWISE_BYTES, Edge, both_paths

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(FAULTS), reason="it would only find the faults that the corpus names"),
]

WAIT_S = 0.3  # for what never comes
LAST = get(b"/healthz", b"Connection: close")
SMALL = [
    case
    for case in CASES.values()
    if len(case.sent) <= BYTEWISE_BYTES and "431 head_too_large" not in case.answers  # of two faults either is named
]
WHOLE = [case.sent for case in SMALL if not case.closes]
BROKEN = [case.sent for case in SMALL if case.closes]
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


class Stream(NamedTuple):
    """Bytes for one connection, and where they are cut."""

    sent: bytes
    cuts: list[int]

    def parts(self) -> list[bytes]:
        places = sorted({at % (len(self.sent) + 1) for at in self.cuts} | {0, len(self.sent)})
        return [self.sent[start:end] for start, end in pairwise(places)]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """A few requests in a row, now and then with some bytes changed."""
    several = draw(st.lists(st.sampled_from(WHOLE), min_size=1, max_size=6))
    sent = bytearray(b"".join(several))
    if draw(st.booleans()):
        sent += draw(st.sampled_from(BROKEN))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(sent)))
        sent[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(BITS) | st.binary(max_size=3))
    return Stream(bytes(sent) + LAST, draw(st.lists(st.integers(0, 4000), max_size=8)))


class Both(NamedTuple):
    runner: asyncio.Runner
    edges: dict[str, Edge]

    def say(self, stream: Stream) -> list[tuple[bytes, list[bytes]]]:
        """What comes back until the server ends the connection, and what is stored; for each path."""
        return [self.runner.run(said(edge, stream)) for edge in self.edges.values()]


async def said(edge: Edge, stream: Stream) -> tuple[bytes, list[bytes]]:
    async with connected(edge.running) as connection:
        await connection.send(*stream.parts())
        return await connection.rest(), sorted(await edge.new_records())  # the hot path does not store in turn


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


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(stream=streams())
def test_both_paths_say_and_store_the_same(both: Both, caplog: pytest.LogCaptureFixture, stream: Stream) -> None:
    starlette, hot = both.say(stream)
    assert starlette == hot
    assert b"HTTP/1.1 5" not in hot[0]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(sent=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_noise_is_refused(both: Both, caplog: pytest.LogCaptureFixture, sent: bytes, cuts: list[int]) -> None:
    starlette, hot = both.say(Stream(b"\x01" + sent, cuts))
    assert starlette == hot
    assert hot[0].startswith(b"HTTP/1.1 400 ") and hot[1] == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
