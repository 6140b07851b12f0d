"""The load: kept-alive connections that send realistic bodies at a bounded rate, each event once."""

from __future__ import annotations

import asyncio
import random
import re
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from loadtests.chaos.ledger import Fate, Ledger

TAG_ID: Final = "chaos"
ORIGIN: Final = "https://www.shop.example"
AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
CONNECTIONS: Final = 64
ANSWER_S: Final = 30.0  # without an answer for so long, the event counts as unanswered
CONNECT_S: Final = 10.0  # collect may be starting again; then nothing was sent
TICK_S: Final = 0.01
BATCH_SHARE: Final = 0.2  # of the requests; the others carry one event
MAX_BATCH: Final = 10
VISITORS: Final = 5000
MAX_BODY_BYTES: Final = 1 << 20  # of an answer

_PRODUCTS: Final = [
    {
        "product_id": f"SKU-{number}",
        "product_name": f"Stoneware mug no. {number}",
        "product_category": "Kitchen > Mugs",
        "product_brand": "Fern & Clay",
        "product_price": 12.5 + number,
        "product_quantity": 1 + number % 3,
    }
    for number in range(50)
]
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Sender:
    """Sends until told to stop, and keeps the books."""

    def __init__(self, host: str, port: int, ledger: Ledger, *, rate: float, seed: int) -> None:
        """`rate`: events a second; fewer are sent while every connection waits for an answer."""
        self._host, self._port = host, port
        self._ledger = ledger
        self._rate = rate
        self._rng = random.Random(seed)
        self._visitors = [str(uuid.UUID(int=self._rng.getrandbits(128), version=4)) for _ in range(VISITORS)]
        self._work: asyncio.Queue[range | None] = asyncio.Queue(CONNECTIONS)
        self._started = time.monotonic()
        self.answers: Counter[str] = Counter()
        """Requests by what came back, such as `204`, `503 log_away`, `no answer`."""
        self.answer_ms = array("f")
        """One for each request that was answered."""

    @property
    def now_s(self) -> float:
        """Since the sender was made: the clock of the ledger."""
        return time.monotonic() - self._started

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set, then wait for the answers that are still open."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._connection())
            await self._pace(stop)
            for _ in range(CONNECTIONS):
                await self._work.put(None)

    async def _pace(self, stop: asyncio.Event) -> None:
        begun, due = time.monotonic(), 0
        while not stop.is_set():
            target = int((time.monotonic() - begun) * self._rate)
            while due < target:
                count = self._rng.randint(2, MAX_BATCH) if self._rng.random() < BATCH_SHARE else 1
                if not self._work.full():
                    self._work.put_nowait(self._ledger.open(count, at_s=self.now_s))
                due += count  # what found no connection is not made up for: that would be a burst
            await asyncio.sleep(TICK_S)

    async def _connection(self) -> None:
        connection = _Connection(self._host, self._port)
        try:
            while (numbers := await self._work.get()) is not None:
                await self._send(connection, numbers)
        finally:
            connection.close()

    async def _send(self, connection: _Connection, numbers: range) -> None:
        visitor = self._rng.choice(self._visitors)
        body = request_body(
            [self._ledger.event_id(number) for number in numbers], visitor, now_ms=time.time_ns() // 10**6
        )
        begun = time.monotonic()
        try:
            status, answer = await connection.post(body)
            kind, fates = reading(status, answer, len(numbers))
        except (OSError, EOFError, TimeoutError, ValueError) as exc:
            connection.close()
            self.answers[f"no answer: {type(exc).__name__}"] += 1
            return
        self.answers[kind] += 1
        self.answer_ms.append((time.monotonic() - begun) * 1000)
        self._ledger.answer(numbers, fates, at_s=self.now_s)


class _Connection:
    """One HTTP/1.1 connection, opened when needed."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._head = (
            f"POST /p/i HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {ORIGIN}\r\nUser-Agent: {AGENT}\r\n"
            "Accept-Language: de-DE,de;q=0.8\r\nContent-Type: text/plain\r\nContent-Length: "
        ).encode()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError, EOFError or TimeoutError where no answer came, ValueError for a bad one."""
        reader, writer = await self._open()
        async with asyncio.timeout(ANSWER_S):
            writer.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            size = int(length[1]) if length else 0
            if size > MAX_BODY_BYTES:
                raise ValueError("The answer is too large.")
            answer = await reader.readexactly(size)
        if _CLOSES.search(head):
            self.close()
        return int(head[9:12]), answer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        deadline = time.monotonic() + CONNECT_S
        while self._reader is None or self._writer is None or self._writer.is_closing() or self._reader.at_eof():
            self.close()
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + CONNECT_S):
                    self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        return self._reader, self._writer

    def close(self) -> None:
        """Drop the connection; the next request opens another one."""
        if self._writer:
            self._writer.close()
        self._reader = self._writer = None


def request_body(event_ids: Sequence[str], visitor: str, *, now_ms: int) -> bytes:
    """What a shop's tag sends: consent given, one event or several."""
    return msgspec.json.encode(
        {
            "site": TAG_ID,
            "sent_at": now_ms,
            "consent": "yes",
            "visitor_id": visitor,
            "epik": "dj0yJnU9Y2hhb3M",
            "events": [_event(event_id, now_ms) for event_id in event_ids],
        }
    )


def _event(event_id: str, now_ms: int) -> dict[str, Any]:
    product = _PRODUCTS[int(event_id[-6:], 16) % len(_PRODUCTS)]
    return {
        "event": "addtocart",
        "event_id": event_id,
        "time": now_ms - 40,
        "url": f"{ORIGIN}/p/{product['product_id']}?epik=dj0yJnU9Y2hhb3M",
        "referrer": "https://www.pinterest.com/",
        "value": product["product_price"],
        "currency": "EUR",
        "order_quantity": product["product_quantity"],
        "line_items": [product],
        "props": {"theme": "autumn", "position": 3},
    }


class _Line(msgspec.Struct):
    status: Literal["durable", "dropped", "refused"]


class _Answer(msgspec.Struct):
    reason: str = ""
    results: list[_Line] = []


_ANSWER: Final = msgspec.json.Decoder(_Answer)


def reading(status: int, body: bytes, count: int) -> tuple[str, list[Fate]]:
    """How docs/http-api.md says to read an answer to `count` events: its kind, and the fate of each.

    Raises ValueError for an answer that is not of that form.
    """
    if status == 204:
        return "204", [Fate.DURABLE] * count
    try:
        told = _ANSWER.decode(body)
    except msgspec.DecodeError as exc:
        raise ValueError(f"Status {status} with a body that is not documented: {exc}.") from exc
    if status >= 400:
        return f"{status} {told.reason}", [Fate.REFUSED] * count
    if len(told.results) != count:
        raise ValueError(f"{len(told.results)} results for {count} events.")
    return str(status), [Fate[line.status.upper()] for line in told.results]
