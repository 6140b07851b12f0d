"""Run an ASGI app inside a process that also does other things: bind first, complain clearly, drain at the end.

What a request may cost before an app sees it is bounded here: uvicorn itself takes headers of any size, and waits for
them for ever.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, ClassVar, Final

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from pinstream import metrics
from pinstream.errors import SetupFault
from pinstream.event import REASONS

MAX_HEAD_BYTES: Final = 64 << 10  # request line, headers and the blank line after them
MAX_FIELDS: Final = 100
HEAD_S: Final = 10.0
WRITE_S: Final = 10.0  # for a client to read what was written
LINGER_S: Final = 1.0
MAX_LINGERING: Final = 64  # refused connections past the bound that are read on
LINE_BYTES: Final = len("  HTTP/1.1\r\n\r\n")  # of a request line beside method and target, and of the empty line
FIELD_BYTES: Final = len(": \r\n")  # of a field beside name and value

_OF_UPGRADES: Final = (b"upgrade", b"http2-settings")
_ABOUT_ITSELF: Final = (b"close", b"keep-alive")


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening TCP socket. `port` 0 takes any free one.

    `shared`: others that say so too may have the same address, and the kernel spreads connections over them.

    Raises:
        SetupFault: the port is taken, or the address is not this machine's; the message says what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; without, an answer may wait 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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


class Bounded(HttpToolsProtocol):
    """HTTP/1.1 with bounded heads and connections. What breaks a bound is answered with its reason, and closed.

    The time for a head runs from the connection, later from the request's first byte. While a connection is idle
    between requests, uvicorn's keep-alive counts.
    """

    max_connections: ClassVar[int] = 1 << 30
    """Of this server; one more is answered 503."""
    headers_of_refusals: ClassVar[bytes] = b""
    """Further header lines, each with its line end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._refusal = "bad_http"
        self._refused = False
        self._head_bytes = 0  # of complete fields
        self._unseen_bytes = 0  # since anything was handed on: the parser buffers an incomplete field
        self._head_open = self._body_open = self._completed = False
        self._upgrading = False  # the request that is read asks for another protocol
        self._running: RequestResponseCycle | None = None
        self._due = ""  # the reason to refuse with once the answers before it are complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse("busy")
        else:
            self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        if self._unread:
            self._unread.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused or self._due or self.transport.is_closing():
            return
        self._completed = False
        self._unseen_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._refused or self._due or self.transport.is_closing():
            return
        if self._unseen_bytes > MAX_HEAD_BYTES:
            self._refuse("head_too_large")
        elif self._head_open or not (self._body_open or self._completed):
            self._start_clock()

    def _feed(self, data: bytes) -> None:
        """Let the parser have it."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._ignore_upgrade(data[exc.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the request again without its wish for another protocol (RFC 9110 7.8), and go on with what follows.

        The parser takes what comes behind such a head for the other protocol.
        """
        self._upgrading = self._body_open = False
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join([token for token in value.split(b",") if token.strip().lower() in _ABOUT_ITSELF])
            if name not in _OF_UPGRADES:
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _asks_for_upgrade(self) -> bool:
        """Whether the head that was read does; then nothing of the request is to be handed on yet."""
        if not self.parser.should_upgrade():
            return False
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("This is no proxy.")  # the parser makes it the error that is answered 400
        self._upgrading = True
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers; uvicorn writes no more until it does, which may be never."""
        super().pause_writing()
        self._unread = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread:
            self._unread.cancel()
            self._unread = None

    def _end(self) -> None:
        """Close once everything is written; a client that does not read has WRITE_S for it."""
        if self.transport.get_write_buffer_size():
            self.loop.call_later(WRITE_S, self.transport.abort)
        self.transport.close()

    # --- what the parser finds ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._head_open = 0, True

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body_open:
            return  # a trailer says nothing about the request
        super().on_header(name, value)
        self._count(len(name) + len(value) + FIELD_BYTES)

    def on_headers_complete(self) -> None:
        self._count(len(self.parser.get_method()) + LINE_BYTES)
        self._head_open, self._body_open = False, True
        self._stop_clock()
        if not self._asks_for_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unseen_bytes = 0
        if not self._upgrading:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unseen_bytes = 0
        self._body_open, self._completed = False, True
        self._stop_clock()
        if not self._upgrading:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._due and not self._answering():
            self._unset_keepalive_if_required()
            self._refuse(self._due)
        elif self._body_open:
            self._start_clock()  # of a body that nobody reads

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_FIELDS:
            self._refusal = "head_too_large"
            raise ValueError("The head is too large.")  # the parser makes it the error that uvicorn answers

    # --- time, and the end ---

    def _start_clock(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S, self._too_slow)

    def _stop_clock(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.cycle and not self.cycle.response_complete:
            self._start_clock()  # an earlier request's answer comes first
        elif self._body_open:
            self.transport.close()
        else:
            self._refuse("too_slow")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, reason: str) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._stop_clock()
        broken = self._answering() and self.cycle.more_body  # the newest request itself breaks off
        if broken and self.pipeline:
            self.pipeline.popleft()  # the refusal is its answer
            self.cycle = self.pipeline[0][0] if self.pipeline else self._running  # type: ignore[assignment]
            broken = False
        if self._answering() and not broken:
            self._due = reason
            return
        metrics.HTTP_REFUSED.labels(reason).inc()
        status, hint = REASONS[reason]
        body = msgspec.json.encode({"reason": reason, "field": "", "hint": hint})
        lines = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        again = b"retry-after: 1\r\n" if status == 503 else b""
        self.transport.write(STATUS_LINE[status] + lines + again + self.headers_of_refusals + b"\r\n" + body)
        if broken or len(self.connections) > self.max_connections + MAX_LINGERING:
            self.transport.close()
            return
        self._refused = True
        self.transport.write_eof()  # and read on a little: closing on unread bytes resets, and the answer is lost
        self.loop.call_later(LINGER_S, self.transport.close)


class State(ServerState):
    """What the connections of a server share; a protocol finds it as `self.server_state`."""

    draining = False
    """Set when no more connections are taken: whatever is answered from now on says `Connection: close`, and closes."""


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process it lives in, and ends in two steps.

    It stops accepting and says `Connection: close` in what it answers. After `idle_grace_s` it closes what is idle:
    sooner, a request might be on its way, and would be lost.
    """

    def __init__(self, config: uvicorn.Config, idle_grace_s: float) -> None:
        super().__init__(config)
        self.server_state = self._state = State()
        self._idle_grace_s = idle_grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self._state
        state.draining = True
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        deadline = time.monotonic() + self._idle_grace_s
        while state.connections and time.monotonic() < deadline:  # noqa: ASYNC110  uvicorn tells nobody
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)  # idle connections are closed, running requests get their time

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def serving(
    app: Any,
    host: str,
    port: int,
    *,
    listener: socket.socket | None = None,
    idle_grace_s: float = 0,
    **config: Any,
) -> AsyncIterator[int]:
    """Serve `app` while the block runs; gives the port. At the end running requests get up to 10 s to finish.

    `listener`: take connections from this one instead of binding one. It is closed when the end begins; connections
    that wait in its queue are not lost if another process has it open too.
    `idle_grace_s`: how long connections without a request stay open at the end. `config` goes to `uvicorn.Config`.
    """
    listener = listener or bind(host, port)
    options = {
        "log_config": None,
        "access_log": False,
        "timeout_graceful_shutdown": 10,
        "server_header": False,
        "http": Bounded,
        **config,
    }
    bound = int(listener.getsockname()[1])
    server = _Server(uvicorn.Config(app, **options), idle_grace_s)
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http {host}:{port}")
    try:
        while not server.started:
            if task.done():
                task.result()
                raise SetupFault(f"The HTTP server on {host}:{port} did not start.")
            await asyncio.sleep(0.01)
        yield bound
    finally:
        server.should_exit = True
        await task
