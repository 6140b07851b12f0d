"""What takes time or several connections, on both HTTP paths: slow, endless, half closed, gone, too many.

What can be said in bytes alone stands in `corpus/`.
"""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest

from pinstream import serving as servings
from pinstream.collect import server
from pinstream.event import EVENTS
from pinstream.settings import Collect
from tests.collect.conftest import SITE, running
from tests.collect.corpus.case import CHUNKED, END, HEALTH, chunk, get, post, unmeasured
from tests.collect.raw import Answer, connected
from tests.collect.test_app import sample

EVENT = b'{"site":"%s","event":"x","event_id":"1","consent":"yes"}' % SITE.tag_id.encode()
WHOLE = post(body=EVENT)
QUICK = Collect(commit_interval_ms=1, body_timeout_s=0.2)
both_paths = pytest.mark.parametrize(
    "hot", [pytest.param(True, id="hot"), pytest.param(False, id="starlette", marks=pytest.mark.slow)]
)


def refused(found: Answer) -> tuple[int, str]:
    headers = dict(found.headers)
    assert (headers["connection"], headers["access-control-allow-origin"]) == ("close", "*")
    return found.status, found.reason


@both_paths
@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\na: ",
        b"POST /p/i HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: ",
        b"POST /p/i HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;",
    ],
)
async def test_what_never_ends_is_not_collected(tmp_path: Path, start: bytes, hot: bool) -> None:
    async with running(tmp_path, hot=hot) as edge, connected(edge) as connection:
        await connection.send(start, *[b"x" * 20_000] * 4)
        assert refused(await connection.answer()) in [(400, "bad_http"), (431, "head_too_large")]


@both_paths
@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST /p/i HTTP/1.1\r\nX-A: "])
async def test_a_head_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes, hot: bool
) -> None:
    monkeypatch.setattr(servings, "HEAD_S", 0.2)
    async with running(tmp_path, hot=hot) as edge:
        async with connected(edge) as connection:
            await connection.send(sent)
            assert refused(await connection.answer()) == (408, "too_slow")
        async with connected(edge) as connection:
            for _ in range(2):
                await connection.send(HEALTH)
                assert (await connection.answer()).status == 200
                await asyncio.sleep(0.4)  # an idle connection is kept longer than a head may take
            await connection.send(sent or b"G")
            assert refused(await connection.answer()) == (408, "too_slow")


@both_paths
@pytest.mark.parametrize("path", [b"/p/i", b"/v1/engagements", b"/v3/"])
@pytest.mark.parametrize("sent", [EVENT[:-1], b""])
async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, path: bytes, sent: bytes, hot: bool) -> None:
    async with running(tmp_path, hot=hot, settings=QUICK) as edge, connected(edge) as connection:
        await connection.send(post(path=path, body=sent, length=b"%d" % len(EVENT)))
        assert refused(await connection.answer()) == (408, "too_slow")
        await connection.send(EVENT[-1:] + WHOLE)
        assert await connection.rest() == b""
        assert await edge.stored(EVENTS) == []


@both_paths
async def test_a_slow_chunked_body_is_not_waited_for(tmp_path: Path, hot: bool) -> None:
    async with running(tmp_path, hot=hot, settings=QUICK) as edge, connected(edge) as connection:
        await connection.send(unmeasured(CHUNKED, body=chunk(EVENT)))
        assert refused(await connection.answer()) == (408, "too_slow")
        await connection.send(END + WHOLE)
        assert await connection.rest() == b""
        assert await edge.stored(EVENTS) == []


@both_paths
async def test_a_body_nobody_reads_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hot: bool
) -> None:
    monkeypatch.setattr(servings, "HEAD_S", 0.2)
    async with running(tmp_path, hot=hot) as edge, connected(edge) as connection:
        await connection.send(post(path=b"/nowhere", body=b"x", length=b"100"))
        assert (await connection.answer()).status == 404
        assert await connection.rest() == b""


@both_paths
@pytest.mark.parametrize("cut", [1, WHOLE.index(b"\r\n\r\n"), WHOLE.index(b"{"), len(WHOLE) - 1])
async def test_who_goes_before_the_end_has_said_nothing(tmp_path: Path, cut: int, hot: bool) -> None:
    async with running(tmp_path, hot=hot) as edge:
        async with connected(edge) as connection:
            await connection.send(WHOLE + WHOLE[:cut])
            assert (await connection.answer()).status == 204
            connection.reset()
        async with connected(edge) as connection:
            await connection.send(WHOLE[:cut])
            connection.half_close()
            assert await connection.rest() == b""
        async with connected(edge) as connection:
            await connection.send(WHOLE)
            assert (await connection.answer()).status == 204
        assert len(await edge.stored(EVENTS)) == 2


@both_paths
async def test_who_goes_before_the_answer_leaves_an_event_and_no_trouble(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hot: bool
) -> None:
    async with running(tmp_path, hot=hot) as edge:
        for _ in range(20):
            async with connected(edge) as connection:
                await connection.send(WHOLE + HEALTH + WHOLE)
                connection.reset()
        async with connected(edge) as connection:
            await connection.send(HEALTH + get(b"/healthz", b"Connection: close"))
            assert [(await connection.answer()).status for _ in range(2)] == [200, 200]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_only_stops_sending_gets_the_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, connected(edge) as connection:
        await connection.send(WHOLE + HEALTH + WHOLE)
        connection.half_close()
        assert [(await connection.answer()).status for _ in range(3)] == [204, 200, 204]
        assert await connection.rest() == b""
        assert len(await edge.stored(EVENTS)) == 2


@both_paths
async def test_one_connection_too_many_is_told_and_closed(tmp_path: Path, hot: bool) -> None:
    two = Collect(commit_interval_ms=0, max_connections=2)
    before = sample("http_refused_total", reason="busy")
    async with running(tmp_path, settings=two, hot=hot) as edge, connected(edge) as first:
        async with connected(edge) as second:
            for connection in (first, second):
                await connection.send(HEALTH)
                assert (await connection.answer()).status == 200
            async with connected(edge) as third:
                found = await third.answer()
                assert refused(found) == (503, "busy") and dict(found.headers)["retry-after"] == "1"
            await second.send(get(b"/healthz", b"Connection: close"))
            assert (await second.answer()).status == 200
            assert await second.rest() == b""
        async with connected(edge) as fourth:
            await fourth.send(HEALTH)
            assert (await fourth.answer()).status == 200
    assert sample("http_refused_total", reason="busy") == before + 1


@pytest.mark.parametrize(("soft", "hard", "possible"), [(5000, 5000, 4096), (1024, 5000, 4096), (1024, 2000, 1872)])
def test_connections_leave_files_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, possible: int
) -> None:
    limits: list[Any] = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, found: limits.append(found))
    assert server.connections_possible(4096) == possible
    assert limits[-1][0] >= possible + server.RESERVED_FILES
