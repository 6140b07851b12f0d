"""What comes before an app sees it, through raw sockets: heads too large or too slow, no HTTP, too many connections."""

from __future__ import annotations

import asyncio
import json
import resource
from pathlib import Path
from typing import Any

import pytest

from pinstream import serving as servings
from pinstream.collect import server
from pinstream.serving import MAX_FIELDS, MAX_HEAD_BYTES
from pinstream.settings import Collect
from tests.collect.conftest import Running, running


async def talk(edge: Running, *sent: bytes, pause_s: float = 0) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the first answer; the connection is read until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(edge.base_url.rpartition(":")[2]))
    try:
        for part in sent:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        return await answer(reader)
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
    return int(head.split()[1]), fields, await reader.readexactly(int(fields.get("content-length", 0)))


def reason(found: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    status, fields, body = found
    assert fields["content-type"] == "application/json"
    assert (fields["connection"], fields["access-control-allow-origin"]) == ("close", "*")
    return status, str(json.loads(body)["reason"])


def head(size: int) -> bytes:
    start, end = b"GET /healthz HTTP/1.1\r\nhost: x\r\na: ", b"\r\n\r\n"
    return start + b"x" * (size - len(start) - len(end)) + end


def fields(count: int) -> bytes:
    return b"GET /healthz HTTP/1.1\r\n" + b"".join(b"a%d: x\r\n" % n for n in range(count)) + b"\r\n"


async def test_a_head_is_bounded_in_bytes_and_fields(tmp_path: Path) -> None:
    async with running(tmp_path) as edge:
        for good in (head(MAX_HEAD_BYTES), fields(MAX_FIELDS)):
            assert (await talk(edge, good))[0] == 200
        for bad in (head(MAX_HEAD_BYTES + 1), fields(MAX_FIELDS + 1), head(1 << 20)):
            assert reason(await talk(edge, bad)) == (431, "head_too_large")


@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\na: ",
        b"POST /p/i HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: ",
        b"POST /p/i HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;",
    ],
)
async def test_what_never_ends_is_not_collected(tmp_path: Path, start: bytes) -> None:
    async with running(tmp_path) as edge:
        assert (await talk(edge, start, *[b"x" * 20_000] * 4, pause_s=0.02))[0] in (400, 431)


async def test_what_is_no_http_has_a_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as edge:
        for bad in (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET / HTTP/1.1\r\na b: c\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
        ):
            assert reason(await talk(edge, bad)) == (400, "bad_http")


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST /p/i HTTP/1.1\r\nX-A: "])
async def test_a_head_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(servings, "HEAD_S", 0.2)
    async with running(tmp_path) as edge:
        assert reason(await talk(edge, sent)) == (408, "too_slow")
        whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(edge.base_url.rpartition(":")[2]))
        for _ in range(2):  # an idle connection is kept longer than a head may take
            writer.write(whole)
            assert (await answer(reader))[0] == 200
            await asyncio.sleep(0.4)
        writer.write(sent or b"G")
        assert reason(await answer(reader)) == (408, "too_slow")
        writer.close()


async def test_a_body_nobody_reads_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servings, "HEAD_S", 0.2)
    async with running(tmp_path) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(edge.base_url.rpartition(":")[2]))
        writer.write(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nx")
        assert (await answer(reader))[0] == 404
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()


async def test_one_connection_too_many_is_told_and_closed(tmp_path: Path) -> None:
    async with running(tmp_path, settings=Collect(commit_interval_ms=0, max_connections=3)) as edge:
        port = int(edge.base_url.rpartition(":")[2])
        open_ones = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        refused = await talk(edge)
        assert reason(refused) == (503, "busy") and refused[1]["retry-after"] == "1"
        reader, writer = open_ones.pop()
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await answer(reader))[0] == 200
        writer.close()
        await asyncio.sleep(0.05)
        assert (await talk(edge, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"))[0] == 200
        for _, writer in open_ones:
            writer.close()


@pytest.mark.parametrize(("soft", "hard", "possible"), [(5000, 5000, 4096), (1024, 5000, 4096), (1024, 2000, 1872)])
def test_connections_leave_files_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, possible: int
) -> None:
    limits: list[Any] = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, found: limits.append(found))
    assert server.connections_possible(4096) == possible
    assert limits[-1][0] >= possible + server.RESERVED_FILES
