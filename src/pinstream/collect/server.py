"""The `collect` role: log and gate opened, both ports served, and at the end everything drained in order."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from pinstream import ops
from pinstream.collect.app import build
from pinstream.collect.commit import Committer
from pinstream.collect.gate import Gate, ReadSnapshot, first_snapshot, keep_fresh
from pinstream.errors import Retryable, SetupFault
from pinstream.eventlog.contract import Log
from pinstream.serving import serving
from pinstream.settings import Settings

logger = logging.getLogger(__name__)

SECRET_BYTES: Final = 32
KEEP_ALIVE_S: Final = 20


async def serve(
    settings: Settings,
    log: Log,
    read_snapshot: ReadSnapshot,
    stop: asyncio.Event | None = None,
    *,
    secret: bytes = b"",
) -> None:
    """Answer requests until `stop` is set or this task is cancelled.

    Then: no new connections, running requests finish, the last group is appended, the log is closed.
    `secret`: key of the hashes of refused payloads; empty = one that is kept in the data folder.

    Raises:
        SetupFault: a port is taken, or the log or the data folder cannot be used.
        StateError: the state database is away and there is no earlier snapshot.
    """
    stop = stop or asyncio.Event()
    async with AsyncExitStack() as stack:
        secret = secret or await asyncio.to_thread(install_secret, settings.data_dir / "collect.secret")
        gate = Gate(await first_snapshot(read_snapshot, settings.snapshot_file))
        appender = await log.appender()
        stack.push_async_callback(appender.aclose)
        committer = Committer(appender, settings.collect)
        committer.start()
        stack.push_async_callback(committer.aclose)

        async def ready() -> None:
            if stop.is_set():
                raise Retryable("This process is stopping.")
            committer.check()
            await appender.ready()

        await stack.enter_async_context(ops.serve(settings.collect.ops_host, settings.collect.ops_port, ready))
        await stack.enter_async_context(_fresh(gate, read_snapshot, settings))
        app = build(gate, committer, settings.collect, now_ms, secret)
        options = {"proxy_headers": False, "timeout_keep_alive": KEEP_ALIVE_S, "date_header": False}
        port = await stack.enter_async_context(
            serving(
                app,
                settings.collect.host,
                settings.collect.port,
                http="httptools",
                ws="none",
                lifespan="off",
                **options,
            )
        )
        logger.info("Taking events on http://%s:%d", settings.collect.host, port)
        await stop.wait()


@asynccontextmanager
async def _fresh(gate: Gate, read: ReadSnapshot, settings: Settings) -> AsyncIterator[None]:
    """Keep the gate's snapshot fresh while the block runs."""
    every_s = settings.collect.snapshot_refresh_s
    task = asyncio.create_task(keep_fresh(gate, read, settings.snapshot_file, every_s, now_ms), name="snapshot")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def now_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000


def install_secret(path: Path) -> bytes:
    """The key that this installation hashes refused payloads with; made once, readable by this user only.

    Raises:
        SetupFault: the folder cannot be written, or the file holds something else.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        draft.touch(mode=0o600)
        draft.write_bytes(os.urandom(SECRET_BYTES))
        with suppress(FileExistsError):
            os.link(draft, path)  # whoever comes first decides, and nobody reads half a file
        draft.unlink()
        secret = path.read_bytes()
    except OSError as exc:
        raise SetupFault(f"Cannot keep a secret at {path}: {exc.strerror}. Check data_dir and its owner.") from exc
    if len(secret) != SECRET_BYTES:
        raise SetupFault(f"{path} does not hold {SECRET_BYTES} bytes. Remove it: a new one will be made.")
    return secret
