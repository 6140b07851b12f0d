"""The `collect` role: log and gate opened, both ports served, and at the end everything drained in order."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

from pinstream import ops
from pinstream.clock import now_ms
from pinstream.collect.app import build
from pinstream.collect.commit import Committer
from pinstream.collect.edge import Edge
from pinstream.collect.gate import Gate, ReadSnapshot, first_snapshot, keep_fresh, tell_age
from pinstream.collect.inbox import Inbox
from pinstream.collect.pace import Pace
from pinstream.collect.protocol import HOT, Hot
from pinstream.errors import Retryable
from pinstream.eventlog.contract import Log
from pinstream.serving import serving
from pinstream.settings import Collect, Settings

logger = logging.getLogger(__name__)

KEEP_ALIVE_S: Final = 20
IDLE_GRACE_S: Final = 2.0  # a proxy that keeps connections uses each of them again within this time, or may lose it
RESERVED_FILES: Final = 128  # files that are no connections of the public port


class Listeners(NamedTuple):
    """Sockets that were opened by somebody else."""

    public: socket.socket
    ops: socket.socket


async def serve(
    settings: Settings,
    log: Log,
    read_snapshot: ReadSnapshot,
    stop: asyncio.Event | None = None,
    listeners: Listeners | None = None,
) -> None:
    """Answer requests until `stop` is set or this task is cancelled. `listeners`: used instead of the settings' ports.

    Then: no new connections, running requests finish, idle connections end, the last group is appended, the log is
    closed.

    Raises:
        SetupFault: a port is taken, or the log or the data folder cannot be used.
        StateError: the state database is away and there is no earlier snapshot.
    """
    stop = stop or asyncio.Event()
    async with AsyncExitStack() as stack:
        gate = Gate(await first_snapshot(read_snapshot, settings.snapshot_file))
        appender = await log.appender()
        stack.push_async_callback(appender.aclose)
        committer = Committer(appender, settings.collect)
        committer.start()
        stack.push_async_callback(committer.aclose)

        accepting = asyncio.Event()

        async def ready() -> None:
            if stop.is_set():
                raise Retryable("This process is stopping.")
            if not accepting.is_set():
                raise Retryable("This process is starting: it does not take connections yet.")
            committer.check()
            await appender.ready()

        await stack.enter_async_context(
            ops.serve(settings.collect.ops_host, settings.collect.ops_port, ready, listener=listeners and listeners.ops)
        )
        await stack.enter_async_context(_fresh(gate, read_snapshot, settings))
        edge = Edge(gate, committer, settings.collect, now_ms)
        options = {"proxy_headers": False, "timeout_keep_alive": KEEP_ALIVE_S, "date_header": False}
        port = await stack.enter_async_context(
            serving(
                build(edge, committer, settings.collect, settings.tags_dir),
                settings.collect.host,
                settings.collect.port,
                listener=listeners and listeners.public,
                idle_grace_s=IDLE_GRACE_S,
                http=public(edge, committer, settings.collect),
                ws="none",
                lifespan="off",
                **options,
            )
        )
        accepting.set()
        logger.info("Taking events on http://%s:%d", settings.collect.host, port)
        await stop.wait()


def public(edge_: Edge, committer_: Committer, settings: Collect) -> type[Hot]:
    """The protocol of the public port: scripts of any page may read why they were refused."""

    class Public(Hot):
        edge = edge_
        committer = committer_
        inbox = Inbox()
        hot = HOT | {(b"POST", settings.endpoint_path.encode()): "events"}
        pace = Pace(settings.longest_wait_ms / 1000)
        max_body_bytes = settings.max_pending_bytes
        body_timeout_s = settings.body_timeout_s
        max_connections = connections_possible(settings.max_connections)
        headers_of_refusals = b"access-control-allow-origin: *\r\n"

    return Public


def connections_possible(wanted: int) -> int:
    """How many connections the machine allows, up to `wanted`. What the log and the operations port need is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= need:
        return wanted
    possible = max(1, soft - RESERVED_FILES)
    logger.warning("Only %d connections instead of %d: this process may open %d files.", possible, wanted, soft)
    return possible


@asynccontextmanager
async def _fresh(gate: Gate, read: ReadSnapshot, settings: Settings) -> AsyncIterator[None]:
    """Keep the gate's snapshot fresh, and its age told, while the block runs."""
    every_s = settings.collect.snapshot_refresh_s
    tasks = (
        asyncio.create_task(keep_fresh(gate, read, settings.snapshot_file, every_s), name="snapshot"),
        asyncio.create_task(tell_age(gate, now_ms), name="snapshot age"),
    )
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
