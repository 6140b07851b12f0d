"""The least that HTTP costs in this language and with these libraries: uvloop and httptools read each request whole,
headers in lower case as everyone needs them, and a constant answer goes back. Nothing is looked at.

Run by scripts/bench as `python floor.py PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import uvloop

ANSWER = (
    b"HTTP/1.1 204 No Content\r\n"
    b"set-cookie: ps_vid=0190b3a2-5a3e-4f0e-9d59-9f5f4d6f0a11; Max-Age=33696000; Path=/; SameSite=Lax; Secure\r\n"
    b"access-control-allow-origin: https://www.shop.example\r\naccess-control-allow-credentials: true\r\n"
    b"vary: Origin\r\naccess-control-expose-headers: Retry-After, X-Pinstream-Dropped\r\n\r\n"
)


class Floor(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body = body

    def on_message_complete(self) -> None:
        self._transport.write(ANSWER)


async def serve(port: int) -> None:
    """Until the process ends."""
    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
