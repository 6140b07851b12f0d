"""Processes pinned to one core, what they cost, and how they end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from loadtests.bench.parts import Fault

ROOT: Final = Path(__file__).parents[2]
START_S: Final = 30.0
STOP_S: Final = 15.0


def cores() -> tuple[int, int]:
    """The core of the measured server, and that of the load generator. Kafka may use both."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise Fault("A benchmark needs two cores: one for the server, one for the load generator.")
    return usable[0], usable[1]


def pinned(where: Sequence[int], command: Sequence[str]) -> list[str]:
    """The command, allowed to run on these cores only."""
    return ["taskset", "--cpu-list", ",".join(map(str, where)), *command]


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A running program with its children. The figures come from the kernel's counters."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    @property
    def pid(self) -> int:
        return self._root.pid

    def cpu_s(self) -> float:
        """User and system time so far, in ticks of 10 ms."""
        return sum(each.cpu_times().user + each.cpu_times().system for each in self._all())

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return sum(int(each.memory_info().rss) for each in self._all())

    def _all(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]


@contextmanager
def running(
    command: Sequence[str], *, core: int | None, port: int, log: Path, env: Mapping[str, str]
) -> Iterator[Process]:
    """A server on one core (None: on any) while the block runs, from when it accepts connections on `port`.

    Raises:
        Fault: it ended or did not listen in time; the message holds the end of its output.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            command if core is None else pinned([core], command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(env),
            cwd=ROOT,
        )
    try:
        _await_port(child, port, log)
        yield Process(child.pid)
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            print(f"{command[0]} did not end within {STOP_S:.0f} s and is killed", file=sys.stderr)
            child.kill()
            child.wait()


def _await_port(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and child.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise Fault(f"{child.args!r} did not listen on port {port}. Its last output:\n{end}")
