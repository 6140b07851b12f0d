"""One TCP connection to an edge, byte by byte: what a client sends, and the answers as they are on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

import msgspec

from tests.collect.conftest import Running

PATIENCE_S = 10
BODILESS = (204, 304)
LISTS = ("vary",)


class Answer(NamedTuple):
    """An answer as it came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case, sorted."""
    body: bytes

    @property
    def reason(self) -> str:
        """Why something was refused or dropped, wherever the answer says so; empty if nothing was."""
        headers = dict(self.headers)
        if self.body and headers.get("content-type") == "application/json" and self.status >= 400:
            return str(msgspec.json.decode(self.body)["reason"])
        return headers.get("x-pinstream-refused") or headers.get("x-pinstream-dropped", "")


class Connection(asyncio.Protocol):
    """A connection, seen from the client. What has come stays readable whatever becomes of the connection."""

    def __init__(self) -> None:
        self._came = bytearray()
        self._ended = False
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._came += data
        self._news.set()

    def eof_received(self) -> bool:
        self._ended = True
        self._news.set()
        return True  # what is still to be sent may be sent

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._news.set()

    async def send(self, *parts: bytes) -> None:
        """Send each part so that it arrives by itself."""
        for part in parts:
            self._transport.write(part)
            for _ in range(3):  # the server is in this loop: one round to see the part, one to take it
                await asyncio.sleep(0)

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """The next answer. `bodiless`: it is one to HEAD."""
        head = (await self._until(lambda: self._came.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in self._came else 0))[:-4]
        line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for name, value in (field.split(": ", 1) for field in lines):
            assert name.lower() not in headers or name.lower() in LISTS, f"a header twice: {lines}"
            headers[name.lower()] = ", ".join(filter(None, [headers.get(name.lower()), value]))
        length = int(headers.get("content-length", 0))
        if bodiless or int(status) in BODILESS or int(status) < 200:
            length = 0
        body = await self._until(lambda: length if len(self._came) >= length else 0) if length else b""
        return Answer(int(status), tuple(sorted(headers.items())), body)

    async def rest(self) -> bytes:
        """What else comes until the server ends the connection."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._ended:
                self._news.clear()
                await self._news.wait()
        return bytes(self._came)

    def half_close(self) -> None:
        """Send nothing more."""
        self._transport.write_eof()

    def reset(self) -> None:
        """Go away without a word."""
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    async def _until(self, size: Callable[[], int]) -> bytes:
        """The first `size()` bytes, once that is not 0."""
        async with asyncio.timeout(PATIENCE_S):
            while not size():
                if self._ended:
                    raise EOFError(f"The connection ended after {bytes(self._came)!r}.")
                self._news.clear()
                await self._news.wait()
        taken = bytes(self._came[: size()])
        del self._came[: len(taken)]
        return taken


@asynccontextmanager
async def connected(edge: Running) -> AsyncIterator[Connection]:
    """A connection while the block runs."""
    port = int(edge.base_url.rpartition(":")[2])
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    try:
        yield connection
    finally:
        connection.close()
