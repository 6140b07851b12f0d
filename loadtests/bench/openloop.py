"""An open loop: requests leave when they are due, whether or not earlier ones are answered. A process of its own.

Each of the connections is like one of a proxy in front of the server: every TICK_S it sends what came in for it, one
request after the other without waiting (HTTP pipelining). The connections take turns, so that the whole is even. Up to
CONNECTIONS / TICK_S (25,600 a second) a turn has one request at most; above, a few share a write, which is
what lets one core offer several times of what the server can take.

A request's latency counts from when it was due. What cannot be sent, because too many on that connection are
unanswered or it is closed, was offered all the same.

    python -m loadtests.bench.openloop --port 8080 --requests FILE --rate 10000 --seconds 3

prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from array import array
from collections import Counter, deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from loadtests.bench import traffic

CONNECTIONS: Final = 256
TICK_S: Final = 0.01
MAX_UNANSWERED: Final = 64
"""Of one connection; what is due beyond is not sent."""
DRAIN_S: Final = 5.0

_ANSWER: Final = re.compile(rb"HTTP/1\.1 (\d{3}) |\r\n[Rr]etry-[Aa]fter:")
_LONGEST: Final = len(b"\r\nretry-after:")


@dataclass
class Seen:
    """What became of the requests. `offered` = `unsent` + sent; sent = answers + unanswered."""

    seconds: float = 0.0
    offered: int = 0
    unsent: int = 0
    unanswered: int = 0
    good_in_time: int = 0
    """204 before the end of the offer."""
    retry_after: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    """Of the 204."""
    lag_p99_ms: float = 0.0
    """How late this process itself was."""
    cpu_share: float = 0.0
    """Of its core that this process used."""


class Answers:
    """Finds answers in what a connection receives, wherever it is cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> tuple[list[int], int]:
        """Statuses in their order, and how many Retry-After."""
        text = self._rest + data
        statuses, again, end = [], 0, 0
        for match in _ANSWER.finditer(text):
            end = match.end()
            if match[1]:
                statuses.append(int(match[1]))
            else:
                again += 1
        self._rest = text[end:][1 - _LONGEST :]
        return statuses, again


class Connection(asyncio.Protocol):
    """One connection; it comes back when the server closes it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._answers = Answers()
        self._transport: asyncio.Transport | None = None
        self.due: deque[float] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        statuses, again = self._answers.feed(data)
        self._load.seen.retry_after += again
        now = time.perf_counter()
        for status in statuses:
            if self.due:
                self._load.answered(status, self.due.popleft(), now)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._load.lost(self)

    def room(self) -> int:
        """How many requests can be sent now."""
        return MAX_UNANSWERED - len(self.due) if self._transport else 0

    def send(self, requests: list[bytes], due: float) -> None:
        """Send them; there is room."""
        if self._transport:
            self.due.extend([due] * len(requests))
            self._transport.write(requests[0] if len(requests) == 1 else b"".join(requests))

    def close(self) -> None:
        """For good."""
        if self._transport:
            self._transport.abort()


class Load:
    """Offers `rate` requests a second for `seconds`, then waits `drain_s` at most for late answers."""

    def __init__(
        self, port: int, requests: list[bytes], *, rate: float, seconds: float, drain_s: float = DRAIN_S
    ) -> None:
        self._port = port
        self._requests = requests
        self._rate = rate
        self._seconds = seconds
        self._drain_s = drain_s
        self._connections: list[Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._open = True
        self._end = 0.0
        self.seen = Seen()
        self.statuses: Counter[int] = Counter()
        self._latency_ms = array("d")
        self._lag_ms = array("d")

    async def run(self) -> dict[str, Any]:
        """Offer everything; what became of it."""
        self._connections = [await self._connect() for _ in range(CONNECTIONS)]
        cpu_s, start = time.process_time(), time.perf_counter()
        self._end = start + self._seconds
        await self._offer(start)
        self.seen.seconds = time.perf_counter() - start
        self.seen.cpu_share = (time.process_time() - cpu_s) / self.seen.seconds
        deadline = time.perf_counter() + self._drain_s
        while any(each.due for each in self._connections) and time.perf_counter() < deadline:
            await asyncio.sleep(0.02)
        self._open = False
        for each in self._connections:
            each.close()
        self.seen.unanswered += sum(len(each.due) for each in self._connections)
        self.seen.p50_ms, self.seen.p99_ms = percentile(self._latency_ms, 50), percentile(self._latency_ms, 99)
        self.seen.lag_p99_ms = percentile(self._lag_ms, 99)
        return {**asdict(self.seen), "answers": {str(status): n for status, n in sorted(self.statuses.items())}}

    async def _offer(self, start: float) -> None:
        """Turn by turn: in each one connection gets what came due since the last."""
        turns_per_s = CONNECTIONS / TICK_S
        done, offered, position = 0, 0, 0
        while (now := time.perf_counter()) < self._end:
            last = int((now - start) * turns_per_s)
            self._lag_ms.append((last - done) / turns_per_s * 1000)
            for turn in range(done + 1, last + 1):
                count = int(self._rate * turn / turns_per_s) - offered
                if not count:
                    continue
                offered += count
                connection = self._connections[turn % CONNECTIONS]
                sent = min(count, connection.room())
                self.seen.unsent += count - sent
                if sent:
                    position = position if position + sent <= len(self._requests) else 0
                    connection.send(self._requests[position : position + sent], due=start + turn / turns_per_s)
                    position += sent
            done = last
            await asyncio.sleep(0.001)
        self.seen.offered = offered

    def answered(self, status: int, due: float, now: float) -> None:
        """An answer to the request that was due then."""
        self.statuses[status] += 1
        if status == 204:
            self._latency_ms.append((now - due) * 1000)
            self.seen.good_in_time += now <= self._end

    def lost(self, connection: Connection) -> None:
        """The server closed it: another one takes its place."""
        if not self._open:
            return
        self.seen.unanswered += len(connection.due)
        connection.due.clear()
        task = asyncio.get_running_loop().create_task(self._replace(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _replace(self, old: Connection) -> None:
        place = self._connections.index(old)
        while self._open:
            try:
                self._connections[place] = await self._connect()
                return
            except OSError:
                await asyncio.sleep(0.1)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        return connection


def percentile(values: array[float], percent: float) -> float:
    """Nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))], 2)


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    load = Load(options.port, traffic.read(options.requests), rate=options.rate, seconds=options.seconds)
    json.dump(uvloop.run(load.run()), sys.stdout)
    print()


if __name__ == "__main__":
    main()
