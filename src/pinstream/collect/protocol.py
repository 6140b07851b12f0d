"""The hot path: an HTTP/1.1 protocol for uvicorn that answers the routes with events itself.

`POST /p/i`, `POST /v1/events` and `GET /v3/` go from the parser to the edge and into the open group without a task or
a future; when the group is durable, the answers are written one after the other. Every other request, and what is
rare (HTTP/1.0, upgrades, `Expect`), goes to Starlette unchanged; both give the same answers.

A connection's requests are answered in order, whichever way they go: `_queue` holds the ones that are not answered
yet. A request of events does not wait for its turn to be stored, only to be answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr

from pinstream import metrics
from pinstream.collect import answer as answers
from pinstream.collect.answer import Answer
from pinstream.collect.body import DISCARD_BYTES, too_large
from pinstream.collect.commit import Committer
from pinstream.collect.edge import Edge, Head, Taken, count_answer
from pinstream.collect.inbox import Inbox
from pinstream.collect.pace import Pace
from pinstream.errors import LogError, Refused
from pinstream.event import MAX_BODY_BYTES
from pinstream.serving import FIELD_BYTES, LINE_BYTES, MAX_FIELDS, MAX_HEAD_BYTES, Bounded, State

logger = logging.getLogger(__name__)

MAX_QUEUED: Final = 64  # requests of one connection that are not answered; past it, nothing more is read from it

PIECE_BYTES: Final = 4096  # that are parsed at once: a few hundred requests at most
PENDING_BYTES: Final = 64 << 10  # received and not read; past it, nothing more is received

HOT: Final = {
    (b"POST", b"/p/i"): "events",
    (b"POST", b"/v1/events"): "events",
    (b"GET", b"/v3/"): "v3",
    (b"GET", b"/v3"): "v3",
}


class _Request:
    """A hot request in the queue, parked with the committer while its records wait for the log."""

    __slots__ = ("answer", "keep_alive", "origin", "protocol", "read_at", "route", "taken")

    def __init__(self, protocol: Hot, route: str, origin: str | None, *, keep_alive: bool) -> None:
        self.protocol = protocol
        self.route = route
        self.origin = origin
        self.keep_alive = keep_alive
        self.read_at = protocol.came_at
        self.taken: Taken | None = None
        self.answer: Answer | None = None

    def settled(self, fault: LogError | None) -> None:
        """See `commit.Parked`."""
        assert self.taken is not None  # noqa: S101  parked only with it
        self.protocol.answered(self, self.protocol.edge.settle(self.taken, fault))


class _Refusal:
    """What ends a connection after the answers before it: its bytes are no HTTP, or too slow, or too large."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Hot(Bounded):
    """One connection of the public port. What connections share is set by whoever serves."""

    edge: ClassVar[Edge]
    committer: ClassVar[Committer]
    inbox: ClassVar[Inbox]
    hot: ClassVar[Mapping[tuple[bytes, bytes], str]] = HOT
    """Method and path -> the route's name in metrics."""
    pace: ClassVar[Pace]
    body_timeout_s: ClassVar[float]
    max_body_bytes: ClassVar[int]
    """Of all bodies that are on their way; past it, the one that grows is refused."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last_at = 0.0  # when something was last received
        self._queue: deque[_Request | RequestResponseCycle | _Refusal] = deque()
        self._head: Head | None = None  # of the hot request that is being read
        self._route = ""
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self._held_bytes = 0  # of the body, as the inbox counts it
        self._body_clock: asyncio.TimerHandle | None = None
        self._idle_clock: asyncio.TimerHandle | None = None
        self._peer = ""
        self._possible_bytes = 0  # that the longest head in this piece may have
        self._pending: deque[tuple[bytes, float]] = deque()  # received and not read, and when
        self.came_at = 0.0  # the piece that is being read
        self._pending_bytes = 0
        self._read_bytes = 0  # of the first of them
        self._listed = False  # in the inbox
        self._half_closed = False
        self._ended = False  # nothing that comes now is a request

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._peer = (get_remote_addr(transport) or ("",))[0]
        super().connection_made(transport)
        self.flow = _Flow(transport, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_body_clock()
        self._forget_body()
        self._pending.clear()
        if self._idle_clock:
            self._idle_clock.cancel()
        for each in self._queue:
            if isinstance(each, RequestResponseCycle):
                each.disconnected = True
                each.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that only stops sending still gets the answers to what it sent."""
        self._half_closed = True
        return bool(self._queue or self._pending)

    def data_received(self, data: bytes) -> None:
        self._last_at = time.monotonic()
        self._pending.append((data, self._last_at))
        self._pending_bytes += len(data)
        if self._pending_bytes >= PENDING_BYTES:
            self.flow.pause_reading()
        if not self._listed and self.may_read():
            self._listed = True
            self.inbox.add(self, self.loop)

    def may_read(self) -> bool:
        """Whether this client reads its answers, and waits for few enough of them."""
        return len(self._queue) < MAX_QUEUED and not self.flow.write_paused

    def is_full(self) -> bool:
        """Whether enough was received that is not read yet."""
        return self._pending_bytes >= PENDING_BYTES

    def read_some(self) -> None:
        """See `inbox.Reader`."""
        self._listed = False
        try:
            if self._pending and not (self._ended or self._refused or self.transport.is_closing()):
                self._read(self._next_piece())
        except Exception:
            logger.exception("A connection failed for a reason nobody foresaw.")
            self.transport.abort()
        self._go_on()

    def _next_piece(self) -> bytes:
        first, self.came_at = self._pending[0]
        at = self._read_bytes
        piece = first if len(first) <= PIECE_BYTES else first[at : at + PIECE_BYTES]
        self._read_bytes += len(piece)
        if self._read_bytes == len(first):
            self._pending.popleft()
            self._read_bytes = 0
        self._pending_bytes -= len(piece)
        return piece

    def _read(self, piece: bytes) -> None:
        self._completed = False
        self._unseen_bytes += len(piece)
        self._possible_bytes = self._unseen_bytes
        self._unset_keepalive_if_required()
        self._feed(piece)
        if self._refused or self.transport.is_closing():
            return
        if self._unseen_bytes > MAX_HEAD_BYTES:
            self._refuse("head_too_large")
        elif self._pending:
            return  # whoever is slow, it is not the client
        elif self._head:
            if self._body_clock is None:
                self._body_clock = self.loop.call_later(self.body_timeout_s, self._body_too_slow)
        elif self._head_open or not (self._body_open or self._completed):
            self._start_clock()

    def _go_on(self) -> None:
        """Read what is pending as soon as it may be, then receive more."""
        if self.transport.is_closing() or self._listed:
            return
        if self._ended or self._refused:
            self._pending.clear()
            self._pending_bytes = self._read_bytes = 0
        if self._pending:
            if self.may_read():
                self._listed = True
                self.inbox.add(self, self.loop)
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._half_closed and not self._queue:
            self._end()

    def shutdown(self) -> None:
        """Called by the server: what was received is answered, then the connection ends."""
        if not (self._queue or self._pending or self._head_open or self._body_open):
            self._end()

    @property
    def _draining(self) -> bool:
        return isinstance(self.server_state, State) and self.server_state.draining

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    # --- what the parser finds ---

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._head = None
        self._head_open = True

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body_open:
            return  # a trailer says nothing about the request
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._possible_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_FIELDS:
            self._count_head()
        self._head_open, self._body_open = False, True
        if self._deadline:
            self._stop_clock()
        if self._ended:
            return
        if self._asks_for_upgrade():
            return
        parser = self.parser
        path, _, query = self.url.partition(b"?")
        route = self.hot.get((parser.get_method(), path))
        if route and b"#" not in query and parser.get_http_version() == "1.1":
            head = Head(path.decode(), query, self.headers, self._peer)
            if not head.get(b"expect"):
                self._head, self._route = head, route
                self._body, self._body_bytes = b"", 0
                return
        self._hand_over()

    def on_body(self, body: bytes) -> None:
        self._unseen_bytes = 0
        if self._head:
            self._body_bytes += len(body)
            if self._body_bytes == len(body):
                self._body = body  # mostly it comes in one piece
            elif self._body_bytes <= MAX_BODY_BYTES and self.inbox.body_bytes <= self.max_body_bytes:
                self._hold(body)
            elif self._body_bytes > DISCARD_BYTES:
                self._take()
                self._ended = True
        elif not self._ended and not self._upgrading:
            HttpToolsProtocol.on_body(self, body)

    def on_message_complete(self) -> None:
        self._unseen_bytes = 0
        self._body_open, self._completed = False, True
        if self._deadline:
            self._stop_clock()
        if self._body_clock:
            self._stop_body_clock()
        if self._head:
            self._take()
        elif not self._ended and not self._upgrading:
            HttpToolsProtocol.on_message_complete(self)

    def _hold(self, body: bytes) -> None:
        if not isinstance(self._body, bytearray):
            self._body = bytearray(self._body)
        self._body += body
        grown = len(self._body) - self._held_bytes
        self._held_bytes += grown
        self.inbox.body_bytes += grown

    def _forget_body(self) -> None:
        self.inbox.body_bytes -= self._held_bytes
        self._held_bytes = 0
        self._body = b""

    def _count_head(self) -> None:
        """The exact size, where the segments received leave room for one that is too large."""
        self._head_bytes = 0
        self._count(len(self.parser.get_method()) + len(self.url) + LINE_BYTES)
        for name, value in self.headers:
            self._count(len(name) + len(value) + FIELD_BYTES)

    # --- hot requests ---

    def _take(self) -> None:
        """The hot request is complete: store what it says, and answer when that is done."""
        head, self._head = self._head, None
        assert head is not None  # noqa: S101  narrows the type
        body, too_many = self._body, len(self._body) < self._body_bytes <= MAX_BODY_BYTES
        self._forget_body()
        request = _Request(self, self._route, head.origin, keep_alive=self.parser.should_keep_alive())
        self._ended = not request.keep_alive
        self._enqueue(request)
        try:
            taken = self.edge.busy() if too_many else self._taken(head, bytes(body))
            if isinstance(taken, Taken):
                request.taken = taken
                self.committer.park(taken.found.records, request)
                return
            answer = taken
        except LogError as exc:
            assert request.taken is not None  # noqa: S101  only `park` raises it
            answer = self.edge.settle(request.taken, exc)
        except Exception:
            logger.exception("A request to %s failed for a reason nobody foresaw.", request.route)
            answer = answers.FAULT
        if answers.closes(answer):
            self._ended = True
        self.answered(request, answer)
        metrics.flush()

    def _taken(self, head: Head, body: bytes) -> Taken | Answer:
        now = time.monotonic()
        if not self.pace.admits(now, now - self.came_at):
            return self.edge.busy()
        if self._route == "v3":
            return self.edge.pixel(head)
        if self._body_bytes > MAX_BODY_BYTES:
            return self.edge.refused(too_large())
        return self.edge.events(head, body)

    def answered(self, request: _Request, answer: Answer) -> None:
        """What to answer to a request of the queue is known; it is sent when it is its turn."""
        request.answer = answers.as_pixel(answer) if request.route == "v3" else answer
        if self._queue and self._queue[0] is request:
            self._advance()

    def _body_too_slow(self) -> None:
        self._body_clock = None
        if self._head is None:
            return
        if self._pending:
            self._body_clock = self.loop.call_later(self.body_timeout_s, self._body_too_slow)
            return
        head, self._head, self._ended = self._head, None, True
        self._forget_body()
        request = _Request(self, self._route, head.origin, keep_alive=False)
        self._enqueue(request)
        self.answered(request, self.edge.refused(Refused("too_slow", "The body did not arrive in time.")))
        metrics.flush()

    def _stop_body_clock(self) -> None:
        if self._body_clock:
            self._body_clock.cancel()
            self._body_clock = None

    # --- Starlette's requests ---

    def _hand_over(self) -> None:
        """Let uvicorn do with this request what it does with any."""
        url, headers = self.url, self.headers
        HttpToolsProtocol.on_message_begin(self)
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        self.cycle = None  # type: ignore[assignment]  # the queue is ours: uvicorn's own is to stay empty
        HttpToolsProtocol.on_headers_complete(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._enqueue(cycle)
        if self._queue[0] is cycle:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._queue.popleft()
        super().on_response_complete()
        self._unset_keepalive_if_required()  # `_idle` does that
        if self.transport.is_closing():
            self._end()
            return
        if self._head:
            self._stop_clock()  # the body's own runs
        self._advance()

    # --- in order ---

    def _enqueue(self, request: _Request | RequestResponseCycle | _Refusal) -> None:
        self._queue.append(request)

    def _advance(self) -> None:
        """Send what is ready, as far as it is its turn; then let the next one begin."""
        queue = self._queue
        while queue:
            first = queue[0]
            if isinstance(first, _Request):
                if first.answer is None:
                    return
                queue.popleft()
                self._send(first, first.answer)
                if self.transport.is_closing():
                    return
            elif isinstance(first, RequestResponseCycle):
                if len(queue) > 1:  # the answers behind it are to follow, also while the server drains
                    first.default_headers = [each for each in first.default_headers if each[0] != b"connection"]
                super()._start_asgi_task(first, self.app)
                return
            else:
                queue.popleft()
                super()._refuse(first.reason)
                return
        if self._ended or (self._draining and not (self._body_open or self._head_open or self._pending)):
            self._end()
            return
        if self._idle_clock is None:
            self._idle_clock = self.loop.call_later(self.timeout_keep_alive, self._idle)
        self._go_on()

    def _send(self, request: _Request, answer: Answer) -> None:
        count_answer(request.route, answer.status, request.read_at)
        if self.transport.is_closing():
            metrics.tally(metrics.ANSWERS_UNDELIVERED, 1)
            return
        last = self._draining and not (self._queue or self._body_open or self._head_open or self._pending)
        keep_alive = request.keep_alive and not last and not answers.closes(answer)
        cors = self.edge.cors(request.origin, mirror=answer.mirror)
        self.transport.write(answers.to_bytes(answer, cors, keep_alive=keep_alive))
        if not keep_alive:
            self._end()

    def _refuse(self, reason: str) -> None:
        newest = self._queue[-1] if self._queue else None
        if isinstance(newest, RequestResponseCycle) and newest.more_body:
            self._queue.pop()  # its body breaks off: the refusal is its answer
            newest.disconnected = True
            newest.message_event.set()
            self.cycle = None  # type: ignore[assignment]
        if not self._queue or self._refused:
            super()._refuse(reason)
        elif not self._ended:
            self._ended = True
            self._stop_clock()
            self._enqueue(_Refusal(reason))

    def _too_slow(self) -> None:
        if self._queue or self._pending:
            self._deadline = None
            self._start_clock()  # the answers before it come first
        else:
            super()._too_slow()

    def _idle(self) -> None:
        """Close a connection on which nothing happens. One timer that looks again costs less than one a request."""
        self._idle_clock = None
        rest = self._last_at + self.timeout_keep_alive - time.monotonic()
        busy = self._queue or self._pending or self._head_open or self._body_open
        if not busy and rest <= 0:
            self._end()
        else:
            self._idle_clock = self.loop.call_later(max(rest, 1.0), self._idle)


class _Flow(FlowControl):
    """uvicorn lets a connection receive again whenever an answer is complete; ours may have enough to read still."""

    def __init__(self, transport: asyncio.Transport, protocol: Hot) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if not self._protocol.is_full():
            super().resume_reading()
