"""What one connection may cost: clients that send without end, or never read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pinstream import serving
from pinstream.collect.protocol import MAX_QUEUED, PENDING_BYTES, PIECE_BYTES, Hot
from pinstream.settings import Collect
from tests.collect.conftest import SITE, Running, running

TINY = b"GET / HTTP/1.1\r\n\r\n"
TAG = b"GET /tag.js HTTP/1.1\r\nHost: x\r\n\r\n"


async def opened(edge: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(edge.base_url.rpartition(":")[2]))


async def status(edge: Running, request: bytes) -> int:
    reader, writer = await opened(edge)
    try:
        writer.write(request)
        return int((await asyncio.wait_for(reader.readline(), 10)).split()[1])
    finally:
        writer.close()


async def test_who_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WRITE_S", 0.3)
    async with running(tmp_path, settings=Collect(max_connections=1)) as edge:
        _, deaf = await opened(edge)
        deaf.write(TAG * 4000)  # their answers are more than the sockets hold
        assert await status(edge, TAG) == 503
        for _ in range(100):
            if await status(edge, TAG) == 200:
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("It still holds its connection.")
        deaf.transport.abort()


async def test_what_a_connection_may_have_under_way_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queued, pending = [0], [0]
    enqueue, received = Hot._enqueue, Hot.data_received

    def noted(self: Hot, request: Any) -> None:
        enqueue(self, request)
        queued.append(len(self._queue))

    def heard(self: Hot, data: bytes) -> None:
        received(self, data)
        pending.append(self._pending_bytes - len(data))

    monkeypatch.setattr(Hot, "_enqueue", noted)
    monkeypatch.setattr(Hot, "data_received", heard)
    async with running(tmp_path) as edge:
        reader, writer = await opened(edge)
        writer.write(TINY * 20_000 + TAG.replace(b"Host: x", b"Connection: close"))
        found = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert found.count(b"HTTP/1.1 404 ") == 20_000
    assert found.count(b"HTTP/1.1 200 ") == 1
    assert MAX_QUEUED < max(queued) <= MAX_QUEUED + PIECE_BYTES // len(TINY) + 1
    assert max(pending) < PENDING_BYTES


@pytest.mark.parametrize("hot", [True, False])
@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t "])
async def test_blanks_around_a_value_are_no_part_of_it(tmp_path: Path, blank: bytes, hot: bool) -> None:
    body = b'{"site":"%b","consent":"yes","event":"search"}' % SITE.tag_id.encode()
    opted_out = b"POST /p/i HTTP/1.1\r\nContent-Length: %d\r\nSec-GPC: 1%b\r\n\r\n%b" % (len(body), blank, body)
    async with running(tmp_path, hot=hot) as edge:
        reader, writer = await opened(edge)
        writer.write(opted_out)
        assert b"x-pinstream-dropped: gpc" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.close()
