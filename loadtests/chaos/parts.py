"""The processes that are hurt: Kafka by `scripts/kafka`, and `pinstream collect`, started again whenever it dies."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from pinstream.supervisor import answers_ok

ROOT: Final = Path(__file__).parents[2]
LOOPBACK: Final = "127.0.0.1"
READY_S: Final = 60
RESTART_S: Final = 0.3  # before `collect` is started again
STOP_S: Final = 30  # for an orderly end; afterwards SIGKILL
COMMAND_S: Final = 60
WORKERS_SHARE: Final = 0.75  # of the kills, where there are workers; the others hit what supervises them

Say = Callable[[str], None]
"""Where a line for a person goes."""


class PartFault(Exception):
    """A part does not do what it should without any fault of ours; the message says what."""


class Kafka:
    """One node of Apache Kafka in a folder of its own, which sends its clients to a proxy's port."""

    def __init__(self, directory: Path, advertise: int) -> None:
        self._directory = directory
        self._advertise = advertise

    async def start(self) -> int:
        """Start it, or do nothing if it runs; returns its own port once it answers there."""
        said = await self._command("start", "--port", "0", "--advertise", str(self._advertise))
        return int(said.rpartition(":")[2])

    async def stop(self) -> None:
        """In an orderly way."""
        await self._command("stop")

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        process = psutil.Process(self._pid())
        process.kill()
        await asyncio.to_thread(psutil.wait_procs, [process], 5)

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        os.kill(self._pid(), signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self._pid(), signal.SIGCONT)

    def _pid(self) -> int:
        return int((self._directory / "node1" / "pid").read_text())

    async def _command(self, command: str, *more: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "scripts" / "kafka"),
            command,
            "--dir",
            str(self._directory),
            *more,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), COMMAND_S)
        finally:
            if process.returncode is None:  # we are told to end: it must not start anything behind our back
                process.kill()
                await process.wait()
        if process.returncode:
            raise PartFault(f"scripts/kafka {command}: {err.decode().strip()}")
        return out.decode().strip()


class Collect:
    """`pinstream collect` as users run it. It lives until `aclose`, whatever happens to it."""

    def __init__(self, environment: Mapping[str, str], log: Path, *, workers: int, seed: int) -> None:
        """`workers`: passed on as `--workers`; 0 leaves it out. `log`: where its output goes."""
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith("PINSTREAM_")}
        self._environment |= environment
        self.port = int(environment["PINSTREAM_COLLECT__PORT"])
        self.ops_port = int(environment["PINSTREAM_COLLECT__OPS_PORT"])
        self._log = log
        self._several = ["--workers", str(workers)] if workers else []
        self._rng = random.Random(seed)
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._down_s = RESTART_S
        self._ending = False
        self.starts = 0
        """How often it was started."""

    async def start(self) -> None:
        """Start it for the first time. Raises PartFault if it is not ready within READY_S."""
        await self._spawn()
        deadline = time.monotonic() + READY_S
        while not await self.ready():
            if self._process is None or self._process.returncode is not None or time.monotonic() > deadline:
                raise PartFault(f"collect is not ready; its output:\n{self._log.read_text()[-2000:]}")
            await asyncio.sleep(0.05)
        self._keeper = asyncio.create_task(self._keep(), name="keep collect")

    async def ready(self) -> bool:
        """Does it say that events may be stored now?"""
        return await answers_ok(f"http://{LOOPBACK}:{self.ops_port}/readyz")

    async def kill(self, *, down_s: float) -> None:
        """SIGKILL to it, which is started again after `down_s`; of several workers mostly to one of those."""
        victim = await self._victim()
        self._down_s = down_s
        with suppress(psutil.NoSuchProcess):
            victim.kill()

    async def stop(self, *, down_s: float) -> None:
        """SIGTERM to it, with all its workers, and wait for its end; started again after `down_s`."""
        await self._victim()
        self._down_s = down_s
        if self._process:
            await _ended(self._process)

    async def _victim(self) -> psutil.Process:
        """Waits until there is one: it may just be starting again."""
        async with asyncio.timeout(READY_S):
            while True:
                if found := self.processes():
                    first, *workers = found
                    return self._rng.choice(workers) if workers and self._rng.random() < WORKERS_SHARE else first
                await asyncio.sleep(0.05)

    def processes(self) -> Sequence[psutil.Process]:
        """The process and then its children, as far as they run."""
        if self._process is None or self._process.returncode is not None:
            return []
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def rss_bytes(self) -> int:
        """Resident memory of all of it now."""
        total = 0
        for process in self.processes():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    async def aclose(self) -> None:
        """Stop it for good."""
        self._ending = True
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process:
            await _ended(self._process)

    async def _spawn(self) -> None:
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pinstream",
                "collect",
                *self._several,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.starts += 1

    async def _keep(self) -> None:
        while self._process and not self._ending:
            await self._process.wait()
            await asyncio.sleep(self._down_s)
            self._down_s = RESTART_S
            await self._spawn()


async def _ended(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL if that does not end it within STOP_S."""
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
