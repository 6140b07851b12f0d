"""Run an ASGI app inside a process that also does other things: bind first, complain clearly, drain at the end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import uvicorn

from pinstream.errors import SetupFault


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket. `port` 0 takes any free one.

    Raises:
        SetupFault: the port is taken, or the address is not this machine's; the message says what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; without, an answer may wait 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise SetupFault(f"Port {port} on {host} is taken. Stop what listens there, or set another port.") from exc
        raise SetupFault(f"Cannot listen on {host}:{port}: {exc.strerror}. Set another host or port.") from exc
    listener.listen(2048)
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process it lives in."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def serving(app: Any, host: str, port: int, **config: Any) -> AsyncIterator[int]:
    """Serve `app` while the block runs; gives the port. At the end running requests get up to 10 s to finish.

    `config` goes to `uvicorn.Config`.
    """
    listener = bind(host, port)
    options = {
        "log_config": None,
        "access_log": False,
        "timeout_graceful_shutdown": 10,
        "server_header": False,
        **config,
    }
    server = _Server(uvicorn.Config(app, **options))
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http {host}:{port}")
    try:
        while not server.started:
            if task.done():
                task.result()
                raise SetupFault(f"The HTTP server on {host}:{port} did not start.")
            await asyncio.sleep(0.01)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task
