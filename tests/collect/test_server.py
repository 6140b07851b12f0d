"""The role as a process runs it: both ports, the snapshot on disk, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from pinstream.collect import server
from pinstream.collect.gate import ReadSnapshot
from pinstream.errors import SetupFault, StateError
from pinstream.event import EVENTS
from pinstream.eventlog.journal import JournalLog
from pinstream.serving import bind
from pinstream.serving import serving as serve_public
from pinstream.settings import Collect, Settings
from pinstream.state.snapshot import Snapshot
from tests.collect.conftest import BROWSER, SHOP, SITE, SNAPSHOT, Running

PAGE = {"site": SITE.tag_id, "consent": "yes", "event": "page_visit"}
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_in(folder: Path, **collect: float) -> Settings:
    ports = {"port": free_port(), "ops_port": free_port()}
    return Settings(data_dir=folder, collect=Collect.model_validate(ports | collect))


def away() -> Snapshot:
    raise StateError("No answer.")


class Role:
    """A running `collect`."""

    def __init__(self, settings: Settings, task: asyncio.Task[None], stop: asyncio.Event) -> None:
        self.settings, self.task, self.stop = settings, task, stop
        self.url = f"http://127.0.0.1:{settings.collect.port}"
        self.ops = f"http://127.0.0.1:{settings.collect.ops_port}"


@asynccontextmanager
async def serving(settings: Settings, read: ReadSnapshot = lambda: SNAPSHOT) -> AsyncIterator[Role]:
    stop = asyncio.Event()
    log = JournalLog(settings.journal_dir, settings.log)
    task = asyncio.create_task(server.serve(settings, log, read, stop))
    role = Role(settings, task, stop)
    async with httpx.AsyncClient() as http:
        while not task.done():
            try:
                await http.get(f"{role.url}/healthz")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.02)
    try:
        yield role
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


def browser() -> httpx.AsyncClient:
    return httpx.AsyncClient(headers={"origin": SHOP, "user-agent": BROWSER}, timeout=30)


async def test_events_in_and_both_ports_answer(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as role, browser() as http:
        assert (await http.post(f"{role.url}/p/i", json=PAGE)).status_code == 204
        assert (await http.get(f"{role.ops}/readyz")).json() == {"ready": True}
        assert "pinstream_durable_total" in (await http.get(f"{role.ops}/metrics")).text
        for private in ("/readyz", "/metrics"):
            assert (await http.get(role.url + private)).status_code == 404
    assert len(await Running("", settings.journal_dir).stored(EVENTS)) == 1


async def test_stopping_answers_what_is_open_and_keeps_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, commit_interval_ms=300)
    async with serving(settings) as role, AsyncExitStack() as stack:
        streams = [await connected(stack, settings.collect.port) for _ in range(20)]
        for _, writer in streams:
            writer.write(events())
        await asyncio.sleep(0.1)  # by now most likely taken, and waiting for the interval to pass
        role.stop.set()
        for reader, _ in streams:
            assert (await reader.readline()).startswith(b"HTTP/1.1 204 ")
    assert len(await Running("", settings.journal_dir).stored(EVENTS)) == 20


async def connected(stack: AsyncExitStack, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that the server has taken: it answered once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.push_async_callback(writer.wait_closed)
    stack.callback(writer.close)
    writer.write(GET)
    assert b"connection: close" not in await reader.readuntil(b'{"ok":true}')
    return reader, writer


async def test_it_is_not_ready_before_the_public_port_takes_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    before: list[httpx.Response] = []

    @asynccontextmanager
    async def asked_first(*args: Any, **options: Any) -> AsyncIterator[int]:
        async with httpx.AsyncClient() as http:
            before.append(await http.get(f"http://127.0.0.1:{settings.collect.ops_port}/readyz"))
        async with serve_public(*args, **options) as port:
            yield port

    monkeypatch.setattr(server, "serving", asked_first)
    async with serving(settings) as role, browser() as http:
        assert (await http.get(f"{role.ops}/readyz")).status_code == 200
    (response,) = before
    assert response.status_code == 503
    assert "starting" in response.json()["hint"]


async def test_while_it_stops_it_is_not_ready(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as role, browser() as http:
        reader, writer = await asyncio.open_connection("127.0.0.1", settings.collect.port)
        writer.write(b"POST /p/i HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"  # it waits for this body
        role.stop.set()
        while (response := await http.get(f"{role.ops}/readyz")).status_code == 200:
            await asyncio.sleep(0.01)
        assert (response.status_code, response.json()["reason"]) == (503, "log_away")
        writer.close()


async def test_while_it_stops_answers_close_and_idle_connections_get_time(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as role:
        async with AsyncExitStack() as stack:
            streams = [await connected(stack, settings.collect.port) for _ in range(3)]
            role.stop.set()
            while True:  # until nobody listens
                try:
                    _, probe = await asyncio.open_connection("127.0.0.1", settings.collect.port)
                except ConnectionError:  # refused, or reset in the very moment of closing
                    break
                probe.close()
                await probe.wait_closed()
            assert not any(reader.at_eof() for reader, _ in streams)
            for (reader, writer), request in zip(streams, (GET, events(), b""), strict=True):
                writer.write(request)
                assert (b"connection: close" in (await reader.read()).lower()) == bool(request)
        await asyncio.wait_for(role.task, 10)


def events() -> bytes:
    body = msgspec.json.encode(PAGE)
    head = f"POST /p/i HTTP/1.1\r\nHost: x\r\nOrigin: {SHOP}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def test_on_a_given_socket_it_leaves_the_queue_to_who_holds_another(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    log = JournalLog(settings.journal_dir, settings.log)
    with bind("127.0.0.1", settings.collect.port) as held:
        for _ in range(2):
            listeners = server.Listeners(held.dup(), bind("127.0.0.1", 0))
            stop = asyncio.Event()
            task = asyncio.create_task(server.serve(settings, log, lambda: SNAPSHOT, stop, listeners))
            async with browser() as http:
                assert (await http.get(f"http://127.0.0.1:{settings.collect.port}/healthz")).status_code == 200
            stop.set()
            await asyncio.wait_for(task, 30)
            assert listeners.public.fileno() == listeners.ops.fileno() == -1
        with socket.create_connection(("127.0.0.1", settings.collect.port)):
            pass  # it waits in the queue for the next


async def test_without_database_the_last_snapshot_serves(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(StateError):
        await server.serve(settings, JournalLog(settings.journal_dir, settings.log), away)
    async with serving(settings):
        pass
    async with serving(settings, away) as role, browser() as http:
        assert (await http.post(f"{role.url}/p/i", json=PAGE)).status_code == 204


async def test_a_taken_port_is_a_sentence_and_nothing_is_left_open(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with bind("127.0.0.1", settings.collect.port), pytest.raises(SetupFault, match="is taken"):
        await server.serve(settings, JournalLog(settings.journal_dir, settings.log), lambda: SNAPSHOT)
    async with serving(settings) as role, browser() as http:
        assert (await http.get(f"{role.url}/healthz")).status_code == 200


async def test_cancelling_stops_in_order_too(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    task = asyncio.create_task(server.serve(settings, JournalLog(settings.journal_dir, settings.log), lambda: SNAPSHOT))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with serving(settings):
        pass
