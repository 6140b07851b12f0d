"""The network between `collect` and Kafka: a TCP proxy that can be cut, slowed down and made to swallow.

Shopify's Toxiproxy where Go can install it, else a small one of our own that knows the same toxics.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import httpx

Toxic = Literal["cut", "latency", "throttle", "half_open", "acks_lost"]
"""cut: connections are closed and new ones refused. half_open: both directions are swallowed, connections stay.
acks_lost: only what comes back is swallowed, so requests arrive and nobody learns of it."""

TOXIPROXY: Final = "v2.12.0"
LATENCY_MS: Final = 300
JITTER_MS: Final = 100
THROTTLE_KB: Final = 20  # a second
START_S: Final = 10
INSTALL_S: Final = 300
CHUNK_BYTES: Final = 16 << 10
LOOPBACK: Final = "127.0.0.1"


class Proxy(Protocol):
    """Listens on `port` and passes on to `upstream`."""

    name: str
    port: int

    async def start(self, upstream: int) -> None:
        """Begin to pass on to that port of the loopback."""

    async def impose(self, toxic: Toxic) -> None:
        """Begin to misbehave. One toxic at a time."""

    async def heal(self) -> None:
        """Behave again. After half_open and acks_lost connections are closed first: a stream with a hole is none."""

    async def aclose(self) -> None:
        """Stop, and close all connections."""


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


# --- Toxiproxy ------------------------------------------------------------------------------------


class Toxiproxy:
    """Toxiproxy as a process, driven through its HTTP interface (its README describes it)."""

    name = f"toxiproxy {TOXIPROXY}"

    def __init__(self, program: Path) -> None:
        self._program = program
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None
        self._api = httpx.AsyncClient(trust_env=False, timeout=5, verify=False)
        self._toxic: Toxic | None = None

    async def start(self, upstream: int) -> None:
        """See `Proxy`."""
        port = free_port()
        self._api.base_url = httpx.URL(f"http://{LOOPBACK}:{port}")
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            f"-host={LOOPBACK}",
            f"-port={port}",
            env=os.environ | {"LOG_LEVEL": "error"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(START_S):
            while not await self._answers():
                await asyncio.sleep(0.05)
        listen, upstream_address = f"{LOOPBACK}:{self.port}", f"{LOOPBACK}:{upstream}"
        await self._post("/proxies", {"name": "kafka", "listen": listen, "upstream": upstream_address})

    async def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return (await self._api.get("/version")).is_success
        return False

    async def impose(self, toxic: Toxic) -> None:
        """See `Proxy`."""
        self._toxic = toxic
        if toxic == "cut":
            await self._enable(False)
        elif toxic == "latency":
            for stream in ("upstream", "downstream"):
                await self._poison("latency", stream, {"latency": LATENCY_MS // 2, "jitter": JITTER_MS // 2})
        elif toxic == "throttle":
            await self._poison("bandwidth", "upstream", {"rate": THROTTLE_KB})
        else:  # `timeout` of 0: data is dropped, the connection stays
            for stream in ("upstream", "downstream") if toxic == "half_open" else ("downstream",):
                await self._poison("timeout", stream, {"timeout": 0})

    async def heal(self) -> None:
        """See `Proxy`."""
        if self._toxic in ("half_open", "acks_lost"):
            await self._enable(False)
        for each in (await self._api.get("/proxies/kafka/toxics")).json():
            (await self._api.delete(f"/proxies/kafka/toxics/{each['name']}")).raise_for_status()
        await self._enable(True)
        self._toxic = None

    async def _poison(self, kind: str, stream: str, attributes: dict[str, int]) -> None:
        body = {"name": f"{kind}_{stream}", "type": kind, "stream": stream, "attributes": attributes}
        await self._post("/proxies/kafka/toxics", body)

    async def _enable(self, enabled: bool) -> None:
        await self._post("/proxies/kafka", {"enabled": enabled})

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        (await self._api.post(path, json=body)).raise_for_status()

    async def aclose(self) -> None:
        """See `Proxy`."""
        await self._api.aclose()
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def installed_toxiproxy() -> Path | None:
    """Toxiproxy's program, installed into our cache folder on first use; None where Go is missing or cannot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pinstream" / f"toxiproxy-{TOXIPROXY}"
    program = cache / "server"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        return None
    cache.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        go,
        "install",
        f"github.com/Shopify/toxiproxy/v2/cmd/server@{TOXIPROXY}",
        env=os.environ | {"GOBIN": str(cache)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await asyncio.wait_for(process.wait(), INSTALL_S)
    except TimeoutError:
        process.kill()
        await process.wait()
    return program if program.exists() else None


# --- ours -----------------------------------------------------------------------------------------


class OwnProxy:
    """The same toxics in this process, for machines without Go."""

    name = "our own proxy"

    def __init__(self) -> None:
        self.port = free_port()
        self._upstream = 0
        self._toxic: Toxic | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, upstream: int) -> None:
        """See `Proxy`."""
        self._upstream = upstream
        self._server = await asyncio.start_server(self._pass_on, LOOPBACK, self.port)

    async def impose(self, toxic: Toxic) -> None:
        """See `Proxy`."""
        self._toxic = toxic
        if toxic == "cut":
            await self.aclose()

    async def heal(self) -> None:
        """See `Proxy`."""
        if self._toxic in ("half_open", "acks_lost"):
            self._cut()
        if self._toxic == "cut":
            await self.start(self._upstream)
        self._toxic = None

    async def aclose(self) -> None:
        """See `Proxy`."""
        if self._server:
            self._server.close()
        self._cut()
        while self._open:
            await asyncio.sleep(0.01)

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            there, back = await asyncio.open_connection(LOOPBACK, self._upstream)
            self._open.add(back)
            try:
                await asyncio.gather(self._pump(reader, back, up=True), self._pump(there, writer, up=False))
            finally:
                self._open.discard(back)
                back.transport.abort()
        except OSError:
            pass  # a side went away: so does the other
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self._toxic == "latency":
                await asyncio.sleep(LATENCY_MS / 2000)
            elif self._toxic == "throttle" and up:
                await asyncio.sleep(len(data) / (THROTTLE_KB * 1000))
            if self._toxic == "half_open" or (self._toxic == "acks_lost" and not up):
                continue
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # ends the other direction too
