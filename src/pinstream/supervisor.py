"""Several processes of pinstream under one: readable, prefixed logs; what dies is started again; an orderly end.

All start at once, for each waits by itself for what it needs; stopping goes through the list from its end, so that
writers stop before what they write to. One program can be put in another's place while both run (`replace`).
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from pinstream.errors import SetupFault

logger = logging.getLogger(__name__)

READY_S = 60.0
GRACE_S = 20.0
MAX_LINE_BYTES = 16_384
"""Of a log line; a longer one is cut into pieces."""
MAX_ANSWER_BYTES = 65_536
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S = 30.0
"""A process that ran this long is not in a crash loop: it is started again at once."""

ONE_DEATH_S = 1.0
"""Linux tells a child of its parent's death once for each thread that the parent had (see `_die_with_parent`)."""

Emit = Callable[[str, str], None]
"""Where a line of a process goes: (name of the process, line)."""


class Program(Struct, frozen=True):
    """One process to run."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = {}
    ready_url: str = ""
    """An http URL that answers 200 once the process can work; empty = ready at once."""
    fds: Sequence[int] = ()
    """Open files that it inherits under the same numbers."""
    relayed: bool = True
    """Its lines go to `emit`; else it writes where this process writes, also after this one was killed."""
    grace_s: float = GRACE_S
    """From SIGTERM to SIGKILL."""


class Running(Struct):
    """One program and what became of it."""

    program: Program
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    keeper: asyncio.Task[None] | None = None
    end: asyncio.Task[None] | None = None
    """Set once it is being stopped."""

    @property
    def pid(self) -> int | None:
        """Its process id, None while it does not run."""
        return self.process.pid if self.process and self.process.returncode is None else None


class Supervisor:
    """Starts, watches and stops programs."""

    def __init__(self, programs: Sequence[Program], emit: Emit) -> None:
        self._all = [Running(program) for program in programs]
        self._emit = emit

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, of those that run now."""
        return {each.program.name: each.pid for each in self._all if each.pid is not None}

    @property
    def running(self) -> Sequence[Running]:
        """Every program as it stands now, those on their way out included."""
        return tuple(self._all)

    @property
    def restarts(self) -> dict[str, int]:
        """How often each program was started again."""
        return {each.program.name: each.restarts for each in self._all}

    async def start(self, stop: asyncio.Event | None = None) -> None:
        """Start all, and wait until they are ready, READY_S at most: one that is not may only wait for another machine.

        Does not wait any longer once `stop` is set.

        Raises:
            SetupFault: one ended; its last line says why.
        """
        for each in self._all:
            await self._spawn(each)
        deadline = time.monotonic() + READY_S
        for each in self._all:
            if not await self._is_ready(each, deadline, stop or asyncio.Event()):
                url = each.program.ready_url
                self._emit(each.program.name, f"is not ready after {READY_S:.0f} s, see {url}; going on")
            self._keep(each)

    async def replace(self, name: str, program: Program) -> None:
        """Put `program` in the place of the one called `name`, which is stopped once its successor is ready.

        Raises:
            SetupFault: the successor ended, or was not ready within READY_S. The old one goes on.
        """
        (old,) = (each for each in self._all if each.program.name == name)
        new = Running(program)
        self._all.append(new)
        try:
            await self._spawn(new)
            if not await self._is_ready(new, time.monotonic() + READY_S, asyncio.Event()):
                raise SetupFault(f"{program.name} was not ready after {READY_S:.0f} s: {name} goes on in its place.")
        except SetupFault:
            await _stopped(new)
            self._all.remove(new)
            raise
        self._keep(new)
        await _stopped(old)
        self._all.remove(old)

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop all in reverse order, or `at_once`: SIGTERM, then SIGKILL after their grace."""
        if at_once:
            await asyncio.gather(*map(_stopped, self._all))
        for each in reversed(self._all):
            await _stopped(each)

    async def _spawn(self, each: Running) -> None:
        pipe = asyncio.subprocess.PIPE if each.program.relayed else None
        try:
            each.process = await asyncio.create_subprocess_exec(
                *each.program.argv,
                env={**os.environ, **each.program.env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe and asyncio.subprocess.STDOUT,
                pass_fds=each.program.fds,
                preexec_fn=partial(_die_with_parent, os.getpid()),
                start_new_session=True,
            )
        except OSError as exc:
            raise SetupFault(f"Cannot start {each.program.argv[0]}: {exc.strerror}.") from exc
        if pipe:
            asyncio.create_task(self._relay(each.program.name, each.process), name=f"log {each.program.name}")  # noqa: RUF006

    async def _relay(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  narrows the type: it is a pipe
        held = b""
        while chunk := await process.stdout.read(MAX_LINE_BYTES):
            *lines, held = (held + chunk).split(b"\n")
            for line in lines:
                self._say(name, line)
            if len(held) >= MAX_LINE_BYTES:
                self._say(name, held)
                held = b""
        if held:
            self._say(name, held)

    def _say(self, name: str, line: bytes) -> None:
        for start in range(0, len(line) or 1, MAX_LINE_BYTES):
            self._emit(name, line[start : start + MAX_LINE_BYTES].decode(errors="replace").rstrip())

    async def _is_ready(self, each: Running, deadline: float, stop: asyncio.Event) -> bool:
        """Wait for that until `deadline`. Raises SetupFault if it ends before."""
        while time.monotonic() < deadline and not stop.is_set():
            if each.pid is None:
                await asyncio.sleep(0.1)  # let its last words through
                raise SetupFault(f"{each.program.name} ended at start; its lines above say why.")
            if not each.program.ready_url or await answers_ok(each.program.ready_url):
                return True
            await asyncio.sleep(0.05)
        return stop.is_set()

    def _keep(self, each: Running) -> None:
        each.keeper = asyncio.create_task(self._revive(each), name=f"keep {each.program.name}")

    async def _revive(self, each: Running) -> None:
        """Start it again whenever it ends."""
        failures = 0
        while each.process:
            started = time.monotonic()
            code = await each.process.wait()
            failures = 0 if time.monotonic() - started > STEADY_S else failures + 1
            pause = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1] if failures else 0
            self._emit(each.program.name, f"ended ({_how(code)}); starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            each.restarts += 1
            try:
                await self._spawn(each)
            except SetupFault as exc:
                self._emit(each.program.name, f"{exc} Trying again.")


@asynccontextmanager
async def supervised(
    programs: Sequence[Program], emit: Emit, stop: asyncio.Event | None = None
) -> AsyncIterator[Supervisor]:
    """Run `programs` while the block runs, which begins once they are ready or `stop` is set (`Supervisor.start`)."""
    supervisor = Supervisor(programs, emit)
    try:
        await supervisor.start(stop)
        yield supervisor
    finally:
        await supervisor.stop()


async def _stopped(each: Running) -> None:
    """Stop it, and wait until it has. Only one SIGTERM is sent, for a second one means haste."""
    if each.end is None:
        if each.keeper:
            each.keeper.cancel()
        each.end = asyncio.create_task(_end(each), name=f"end {each.program.name}")
    await asyncio.shield(each.end)


async def _end(each: Running) -> None:
    if each.keeper:
        await asyncio.wait([each.keeper])  # it may be starting the process at this very moment
    process = each.process
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), each.program.grace_s)
    except TimeoutError:
        logger.warning("%s did not stop within %.0f s and was killed", each.program.name, each.program.grace_s)
        process.kill()
        await process.wait()


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _die_with_parent(parent: int) -> None:
    """In the child: ask Linux for a SIGTERM when the supervisor dies, however it dies."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)  # it was too late to ask


class Fetched(NamedTuple):
    """An answer to GET."""

    status: int
    body: bytes


async def answers_ok(url: str) -> bool:
    """Does this http URL of our own answer 200 within a second?"""
    answer = await fetched(url)
    return answer is not None and answer.status == 200


async def fetched(url: str) -> Fetched | None:
    """What this http URL of our own answers within a second, up to MAX_ANSWER_BYTES; None if nothing."""
    try:
        return await asyncio.wait_for(_get(url), 1.0)
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None


async def _get(url: str) -> Fetched:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?im)^content-length: *(\d+)", head)
        body = await reader.readexactly(min(int(length[1]), MAX_ANSWER_BYTES)) if length else b""
        return Fetched(int(head.split()[1]), body)
    finally:
        writer.close()


@contextmanager
def on_hangup(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` in the event loop at each SIGHUP while the block runs; without it, a SIGHUP ends the process."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, act)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


Serve = Callable[[asyncio.Event], Coroutine[None, None, None]]


async def until_signalled(serve: Serve) -> None:
    """Run `serve(stop)`, where SIGTERM and SIGINT set `stop`, and a second one cancels what is still going on.

    A SIGTERM within ONE_DEATH_S of the first signal is not a second one.
    """
    stop = asyncio.Event()
    task = asyncio.ensure_future(serve(stop))
    loop = asyncio.get_running_loop()
    told_at = 0.0

    def told(number: signal.Signals) -> None:
        nonlocal told_at
        if not stop.is_set():
            told_at = loop.time()
            stop.set()
        elif number == signal.SIGINT or loop.time() - told_at > ONE_DEATH_S:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)
    with suppress(asyncio.CancelledError):
        await task
