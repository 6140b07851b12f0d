"""`collect` with several workers, as processes on real sockets. A client's own ledger says what became of each request.

No worker is asked whether it lost something.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import psutil
import pytest

from pinstream.collect import workers
from pinstream.errors import SetupFault
from pinstream.event import EVENTS
from pinstream.serving import bind
from pinstream.settings import Collect, Settings
from tests.collect.conftest import BROWSER, SHOP, Running
from tests.collect.test_server import free_port, settings_in

slow = pytest.mark.slow  # each of these starts processes

TAG = "2600000000009"


class Collector:
    """A running `collect`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, port: int, ops_port: int) -> None:
        self.process, self.folder, self.port = process, folder, port
        self.ops = f"http://127.0.0.1:{ops_port}"
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr
        while line := await self.process.stderr.readline():
            self.lines.append(line.decode())

    async def readyz(self) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.get(f"{self.ops}/readyz", timeout=10)

    async def workers(self) -> list[dict[str, Any]]:
        """What the operations port says of each worker."""
        found: list[dict[str, Any]] = (await self.readyz()).json()["workers"]
        return found

    async def pids(self) -> set[int]:
        return {worker["pid"] for worker in await self.workers()}

    async def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"{self.ops}/metrics", timeout=10)).text
        (value,) = (line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))
        return float(value)

    async def wait_for(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Ask again and again."""
        try:
            async with asyncio.timeout(60):
                while not await holds():
                    assert self.process.returncode is None
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"It did not come true. {''.join(self.lines)}") from None

    async def is_ready(self) -> bool:
        try:
            return (await self.readyz()).status_code == 200
        except httpx.TransportError:
            return False

    async def all_ready(self, *, without: Collection[int] = ()) -> bool:
        """Are there two workers, both ready, none of them in `without`?"""
        try:
            found = await self.workers()
        except httpx.TransportError:
            return False
        fresh = [worker["ready"] and worker["pid"] not in without for worker in found]
        return fresh == [True, True]

    async def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    async def stopped(self) -> None:
        """Told to stop, it has."""
        self.process.terminate()
        await asyncio.wait_for(self.process.wait(), 60)

    async def stored(self) -> list[str]:
        """The id of each event in the log, as often as it is there."""
        events = await Running("", self.folder / "journal").stored(EVENTS)
        return [event["event_id"] for event in events]


@asynccontextmanager
async def collector(folder: Path, *, workers: int = 2, **environment: str) -> AsyncIterator[Collector]:
    port, ops_port = free_port(), free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PINSTREAM_")}
    settings = {
        "PINSTREAM_DATA_DIR": str(folder),
        "PINSTREAM_COLLECT__PORT": str(port),
        "PINSTREAM_COLLECT__OPS_PORT": str(ops_port),
        "PINSTREAM_SITE__TAG_ID": TAG,
        "PINSTREAM_SITE__ORIGINS": f'["{SHOP}"]',
    }
    argv = (sys.executable, "-m", "pinstream", "collect", "--workers", str(workers))
    process = await asyncio.create_subprocess_exec(
        *argv, env=clean | settings | environment, stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    running = Collector(process, folder, port, ops_port)
    started: list[psutil.Process] = []
    try:
        await running.wait_for(running.all_ready if workers > 1 else running.is_ready)
        yield running
        started = psutil.Process(process.pid).children() if process.returncode is None else []
    finally:
        if process.returncode is None:
            process.kill() if sys.exc_info()[0] else process.terminate()
            await asyncio.wait_for(process.wait(), 60)
        await asyncio.wait_for(running._reading, 60)  # ends with the last process that may write
        assert not any(child.is_running() for child in started)


class Ledger:
    """What became of each request."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        """Event ids answered 204."""
        self.told_to_close = 0
        self.broken: list[str] = []
        """Event ids that were sent on an open connection, which ended without an answer."""
        self.refused = 0
        """Connections that were not taken."""


class Connection:
    """A connection of a browser, opened with the first request and whenever the server has ended it."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        self._port, self._ledger = port, ledger
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def send(self) -> bool:
        """One event, answered; False if it was not."""
        event_id = str(uuid4())
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self._ledger.refused += 1
                return False
        reader, writer = self._streams
        try:
            writer.write(request(event_id))
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            self._ledger.broken.append(event_id)
            await self.close()
            return False
        assert head.startswith(b"HTTP/1.1 204 "), head
        self._ledger.answered.append(event_id)
        if b"\r\nconnection: close\r\n" in head.lower():
            self._ledger.told_to_close += 1
            assert await reader.read() == b""  # it says so, and does so
            await self.close()
        return True

    async def close(self) -> None:
        if self._streams:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def browsers(port: int, ledger: Ledger, number: int) -> AsyncIterator[list[Connection]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Connection(port, ledger)) for _ in range(number)]


def request(event_id: str) -> bytes:
    body = msgspec.json.encode({"site": TAG, "consent": "yes", "event": "page_visit", "event_id": event_id})
    head = f"POST /p/i HTTP/1.1\r\nHost: x\r\nOrigin: {SHOP}\r\nUser-Agent: {BROWSER}\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


@asynccontextmanager
async def load(port: int, ledger: Ledger, *, kept: int = 6, fresh: int = 2) -> AsyncIterator[None]:
    """Requests one after the other, over `kept` kept-alive connections and `fresh` that begin anew for each request."""
    stop = asyncio.Event()

    async def go_on(connection: Connection, *, anew: bool) -> None:
        while not stop.is_set():
            await connection.send()
            if anew:
                await connection.close()
            await asyncio.sleep(0.005)  # leaves the machine to what is tested
        await connection.close()

    tasks = [
        asyncio.create_task(go_on(Connection(port, ledger), anew=number >= kept)) for number in range(kept + fresh)
    ]
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)


# --- as one port ---------------------------------------------------------------------------------


@slow
async def test_a_rolling_restart_loses_no_request(tmp_path: Path) -> None:
    ledger = Ledger()
    async with collector(tmp_path) as collect:
        first = await collect.pids()
        async with load(collect.port, ledger):
            collect.process.send_signal(signal.SIGHUP)
            await collect.wait_for(lambda: collect.said("All workers were restarted."))
            second = await collect.pids()
            before = len(ledger.answered)
            while len(ledger.answered) < before + 100:
                await asyncio.sleep(0.01)
        assert len(second) == 2 and not first & second
        assert await collect.metric("pinstream_durable_total") == len(ledger.answered)
        await collect.stopped()
        assert (ledger.broken, ledger.refused) == ([], 0)
        assert ledger.told_to_close >= 6  # every kept connection at least once
        assert sorted(await collect.stored()) == sorted(ledger.answered)


@slow
async def test_of_a_killed_worker_only_requests_under_way_are_cut_off(tmp_path: Path) -> None:
    ledger = Ledger()
    async with collector(tmp_path) as collect:
        first = await collect.pids()
        victim = min(first)
        async with load(collect.port, ledger):
            while len(ledger.answered) < 100:
                await asyncio.sleep(0.01)
            os.kill(victim, signal.SIGKILL)
            await collect.wait_for(lambda: collect.all_ready(without={victim}))
            before = len(ledger.answered)
            while len(ledger.answered) < before + 100:
                await asyncio.sleep(0.01)
        assert ledger.refused == 0
        assert len(ledger.broken) <= 8  # one a connection
        counted = await collect.metric("pinstream_durable_total")
        # a worker may die between an answer and its count, or between the count and the answer: one a connection
        assert len(ledger.answered) - 8 <= counted <= len(ledger.answered) + len(ledger.broken)
        assert [worker["restarts"] for worker in await collect.workers() if worker["pid"] not in first] == [1]
        await collect.stopped()
        stored = await collect.stored()
        assert len(stored) == len(set(stored))
        assert set(ledger.answered) <= set(stored) <= {*ledger.answered, *ledger.broken}


@slow
async def test_what_waits_for_a_killed_worker_is_answered_by_its_replacement_and_all_is_counted(tmp_path: Path) -> None:
    ledger = Ledger()
    async with collector(tmp_path) as collect:
        async with browsers(collect.port, ledger, 20) as found:
            assert await asyncio.gather(*(each.send() for each in found)) == [True] * 20
        assert await collect.metric("pinstream_durable_total") == 20
        first = await collect.pids()
        for pid in first:
            os.kill(pid, signal.SIGSTOP)  # it accepts nothing any more, the kernel does

        async def queued() -> bool:
            return connections(collect.port).count("ESTABLISHED") == 20

        async with browsers(collect.port, ledger, 20) as found:
            answers = asyncio.gather(*(each.send() for each in found))
            await collect.wait_for(queued)
            for pid in first:
                os.kill(pid, signal.SIGKILL)
            assert await asyncio.wait_for(answers, 60) == [True] * 20
        assert await collect.metric("pinstream_durable_total") == 40
        assert 0 <= await collect.metric("pinstream_snapshot_age_seconds") < 60
        assert len(list((tmp_path / "metrics").glob("*/counter_*.db"))) == 2  # however often a worker dies
        await collect.stopped()
        assert sorted(await collect.stored()) == sorted(ledger.answered)


def connections(port: int) -> list[str]:
    """The state of each of this process's connections to `port`."""
    return [each.status for each in psutil.Process().net_connections("tcp") if each.raddr and each.raddr.port == port]


@slow
async def test_a_restart_that_cannot_succeed_changes_nothing_and_a_worker_that_hangs_is_named(tmp_path: Path) -> None:
    config, ledger = tmp_path / "pinstream.toml", Ledger()
    config.write_text("")
    async with collector(tmp_path / "data", PINSTREAM_CONFIG=str(config)) as collect:
        await collect.wait_for(lambda: collect.said(f"kill -HUP {collect.process.pid} replaces them"))
        first = await collect.pids()
        async with load(collect.port, ledger):
            config.write_text("[collect]\nprot = 1\n")
            collect.process.send_signal(signal.SIGHUP)
            await collect.wait_for(lambda: collect.said("The workers that were not replaced go on."))
        await collect.wait_for(lambda: collect.said("Did you mean"))
        assert await collect.pids() == first
        assert (ledger.broken, ledger.refused, ledger.told_to_close) == ([], 0, 0)

        hung, other = sorted(first)
        try:
            os.kill(hung, signal.SIGSTOP)
            answer = await collect.readyz()
            found = {worker["pid"]: worker for worker in answer.json()["workers"]}
            assert (answer.status_code, found[other]["ready"]) == (200, True)
            assert (found[hung]["ready"], found[hung]["reason"]) == (False, "no_answer")
            os.kill(other, signal.SIGSTOP)
            answer = await collect.readyz()
            assert (answer.status_code, answer.json()["reason"]) == (503, "no_worker")
        finally:
            for pid in first:
                os.kill(pid, signal.SIGCONT)


@slow
async def test_one_worker_goes_on_when_told_to_be_replaced(tmp_path: Path) -> None:
    async with collector(tmp_path, workers=1) as collect:
        collect.process.send_signal(signal.SIGHUP)
        await collect.wait_for(lambda: collect.said("one worker: nothing to replace"))
        assert await collect.is_ready()


# --- the end -------------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_told_to_stop_or_left_alone_the_workers_finish_what_they_have(
    how: signal.Signals, tmp_path: Path
) -> None:
    """Workers whose parent was killed stop by themselves, in the same order."""
    ledger = Ledger()
    async with collector(tmp_path, PINSTREAM_COLLECT__COMMIT_INTERVAL_MS="300") as collect:
        workers = [psutil.Process(pid) for pid in await collect.pids()]
        async with browsers(collect.port, ledger, 10) as found:
            assert await asyncio.gather(*(each.send() for each in found)) == [True] * 10
            answers = asyncio.gather(*(each.send() for each in found))
            collect.process.send_signal(how)
            assert await answers == [True] * 10
        await asyncio.wait_for(collect.process.wait(), 60)
        assert not psutil.wait_procs(workers, 60)[1]
        assert sorted(await collect.stored()) == sorted(ledger.answered)


# --- in this process -----------------------------------------------------------------------------


async def test_a_taken_port_is_a_sentence_whoever_has_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    for shared in (False, True):
        with (
            bind("127.0.0.1", settings.collect.port, shared=shared),
            pytest.raises(SetupFault, match=f"Port {settings.collect.port} on 127.0.0.1 is taken"),
        ):
            await workers.serve(settings, 2, asyncio.Event())


async def test_an_unwritable_data_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("")
    with pytest.raises(SetupFault, match="Check data_dir"):
        await workers.serve(settings_in(tmp_path), 2, asyncio.Event())


def test_limits_are_shared_out() -> None:
    whole = Collect(workers=4)
    part = workers.share(whole)
    assert part.max_connections == whole.max_connections // 4
    assert part.max_pending_bytes == whole.max_pending_bytes // 4
    assert part.reject_records_per_s * 4 >= whole.reject_records_per_s > (part.reject_records_per_s - 1) * 4
    least = workers.share(Collect(workers=64, max_connections=1, max_pending_bytes=1 << 20, reject_records_per_s=0))
    assert (least.max_connections, least.max_pending_bytes, least.reject_records_per_s) == (1, 1 << 20, 0)


def test_one_worker_is_one_process() -> None:
    assert Settings().collect.workers == 1
