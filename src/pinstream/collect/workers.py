"""Several processes that take events on one port, and the one that starts, watches and replaces them.

Each worker has a listening socket of its own, bound here and inherited: what waits in its queue outlives a worker that
is killed, and one that is replaced. A worker tells on a loopback port whether it is ready; the operations port, served
here, asks them all. They count in files of one folder.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

from pinstream import metrics, ops
from pinstream.errors import SetupFault
from pinstream.serving import bind, serving
from pinstream.settings import PREFIX, Collect, Settings
from pinstream.supervisor import Program, Running, Supervisor, fetched, on_hangup

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
TURNS: Final = {"a": "b", "b": "a"}  # while a worker is replaced there are two of it
MIN_PENDING_BYTES: Final = 1 << 20  # the least that the setting allows
GRACE_S: Final = 25.0
"""From SIGTERM to SIGKILL: idle connections, running requests, the last group, the log."""


def share(collect: Collect) -> Collect:
    """What one of the workers gets of the limits that are meant for all together; never less than it can work with."""
    part = {
        "max_connections": max(1, collect.max_connections // collect.workers),
        "max_pending_bytes": max(MIN_PENDING_BYTES, collect.max_pending_bytes // collect.workers),
        "reject_records_per_s": -(-collect.reject_records_per_s // collect.workers),
        "site_events_per_s": -(-collect.site_events_per_s // collect.workers),
        "key_events_per_s": -(-collect.key_events_per_s // collect.workers),
    }
    return collect.model_copy(update=part)


async def serve(settings: Settings, count: int, stop: asyncio.Event) -> None:
    """Run `count` workers until `stop` is set; replace them one by one at each SIGHUP.

    Raises:
        SetupFault: a port is taken, the data folder cannot be written, or a worker ended at start.
    """
    collect = settings.collect
    folder = settings.data_dir.absolute() / "metrics" / f"collect-{collect.port}"
    try:
        await asyncio.to_thread(metrics.clear, folder)
    except OSError as exc:
        raise SetupFault(f"Cannot write {folder}: {exc.strerror}. Check data_dir and its owner.") from exc
    told = asyncio.Event()
    with _public(collect, count) as public, _private(count) as private, on_hangup(told.set):
        crew = Crew(public, private, folder)
        async with serving(ops.app(crew.report, crew.exposition), collect.ops_host, collect.ops_port):
            try:
                await crew.start(stop)
                url, hint = f"http://{collect.host}:{collect.port}", f"kill -HUP {os.getpid()} replaces them"
                logger.info("%d workers take events on %s; %s", count, url, hint)
                async with _restarting(crew, told):
                    await stop.wait()
            finally:
                for listener in public:
                    listener.close()  # so that connections are refused as soon as no worker takes them
                await crew.stop()


class Crew:
    """The workers of one port. Number n is called `worker-<n>a` or, in turn with it, `worker-<n>b`."""

    def __init__(self, public: Sequence[socket.socket], private: dict[str, socket.socket], folder: Path) -> None:
        """`public`: of each number, where it takes events. `private`: of each name, where it tells if it is ready.

        `folder`: where they count.
        """
        self._public = public
        self._private = private
        self._folder = folder
        programs = [self._program(number, "a") for number in range(len(public))]
        self._supervisor = Supervisor(programs, lambda name, line: logger.warning("%s %s", name, line))
        self._turns = ["a" for _ in public]

    async def start(self, stop: asyncio.Event) -> None:
        """Start all; see `Supervisor.start`."""
        await self._supervisor.start(stop)

    async def stop(self) -> None:
        """Stop all at once: each finishes its requests and closes its log."""
        await self._supervisor.stop(at_once=True)

    async def restart(self) -> None:
        """Replace one after the other, each once its successor is ready; give up at the first that does not get there.

        For a moment both take connections from the same queue, so nothing waits and nothing is refused.
        """
        logger.info("Restarting the workers one by one.")
        for number, turn in enumerate(self._turns):
            successor = self._program(number, TURNS[turn])
            try:
                await self._supervisor.replace(_name(number, turn), successor)
            except SetupFault as exc:
                logger.error("%s The workers that were not replaced go on.", exc)
                return
            self._turns[number] = TURNS[turn]
        logger.info("All workers were restarted.")

    def exposition(self) -> bytes:
        """What all workers counted together, those that are gone included."""
        return metrics.exposition_of(self._folder, self._supervisor.pids)

    async def report(self) -> dict[str, object]:
        """Ready if at least one worker is; of the others it tells why not."""
        workers = await asyncio.gather(*map(_asked, self._supervisor.running))
        if any(worker["ready"] for worker in workers):
            return {"ready": True, "workers": workers}
        hint = "No worker can take events; `workers` says why."
        return {"ready": False, "reason": "no_worker", "hint": hint, "workers": workers}

    def _program(self, number: int, turn: str) -> Program:
        name = _name(number, turn)
        public, private = self._public[number].fileno(), self._private[name].fileno()
        options = ("--public-fd", str(public), "--ops-fd", str(private))
        return Program(
            name,
            (sys.executable, "-m", "pinstream", "collect-worker", *options),
            env={**metrics.environment(self._folder, name), f"{PREFIX}COLLECT__WORKERS": str(len(self._public))},
            ready_url=f"http://{LOOPBACK}:{self._private[name].getsockname()[1]}/readyz",
            fds=(public, private),
            relayed=False,
            grace_s=GRACE_S,
        )


def _name(number: int, turn: str) -> str:
    return f"worker-{number}{turn}"


async def _asked(worker: Running) -> dict[str, object]:
    known: dict[str, object] = {"worker": worker.program.name, "pid": worker.pid, "restarts": worker.restarts}
    if worker.pid is None:
        return known | {"ready": False, "reason": "ended", "hint": "It is being started again."}
    answer = await fetched(worker.program.ready_url)
    if answer is None:
        return known | {"ready": False, "reason": "no_answer", "hint": "It is starting, or it hangs."}
    said: dict[str, object] = json.loads(answer.body)
    return known | said


@contextmanager
def _public(collect: Collect, count: int) -> Iterator[list[socket.socket]]:
    """For each worker a listening socket on the public port."""
    bind(collect.host, collect.port).close()  # whoever has the port already would share it with us
    with ExitStack() as stack:
        yield [stack.enter_context(bind(collect.host, collect.port, shared=True)) for _ in range(count)]


@contextmanager
def _private(count: int) -> Iterator[dict[str, socket.socket]]:
    """For each name a listening socket on loopback."""
    names = [_name(number, turn) for number in range(count) for turn in TURNS]
    with ExitStack() as stack:
        yield {name: stack.enter_context(bind(LOOPBACK, 0)) for name in names}


@asynccontextmanager
async def _restarting(crew: Crew, told: asyncio.Event) -> AsyncIterator[None]:
    """Restart the crew whenever told, while the block runs; told while it does: once more afterwards."""

    async def listen() -> None:
        while True:
            await told.wait()
            told.clear()
            await crew.restart()

    task = asyncio.create_task(listen(), name="rolling restart")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
