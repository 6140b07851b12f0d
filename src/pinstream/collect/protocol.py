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
from functools import lru_cache
from itertools import count
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr

from pinstream import metrics
from pinstream.collect import answer as answers
from pinstream.collect.answer import Answer
from pinstream.collect.body import DISCARD_BYTES, too_large
from pinstream.collect.commit import Committer
from pinstream.collect.edge import Edge, Head, Taken
from pinstream.collect.pace import Pace
from pinstream.errors import LogError, Refused
from pinstream.event import MAX_BODY_BYTES
from pinstream.serving import FIELD_BYTES, LINE_BYTES, MAX_FIELDS, MAX_HEAD_BYTES, Bounded, State

logger = logging.getLogger(__name__)

MAX_QUEUED: Final = 64  # requests of one connection that are not answered; past it, nothing more is read from it

_HOT: Final = {
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
        self.read_at = protocol.last_at
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
    pace: ClassVar[Pace]
    body_timeout_s: ClassVar[float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.last_at = 0.0  # when something was last received
        self._queue: deque[_Request | RequestResponseCycle | _Refusal] = deque()
        self._head: Head | None = None  # of the hot request that is being read
        self._route = ""
        self._chunks: list[bytes] = []
        self._body_bytes = 0
        self._body_clock: asyncio.TimerHandle | None = None
        self._idle_clock: asyncio.TimerHandle | None = None
        self._peer = ""
        self._possible_bytes = 0  # that the longest head in this segment may have
        self._ended = False  # nothing that comes now is a request

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._peer = (get_remote_addr(transport) or ("",))[0]
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_body_clock()
        if self._idle_clock:
            self._idle_clock.cancel()
        for each in self._queue:
            if isinstance(each, RequestResponseCycle):
                each.disconnected = True
                each.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that only stops sending still gets the answers to what it sent."""
        self._ended = True
        return bool(self._queue)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self.last_at = self.loop.time()
        if not self.pace.in_turn:
            self.pace.turn_begins(time.monotonic())
            self.loop.call_soon(self._turn_ends)
        self._possible_bytes = self._unseen_bytes + len(data)
        super().data_received(data)
        if self._head and self._body_clock is None and not self.transport.is_closing():
            self._body_clock = self.loop.call_later(self.body_timeout_s, self._body_too_slow)

    def _turn_ends(self) -> None:
        self.pace.turn_ends(time.monotonic())

    def shutdown(self) -> None:
        """Called by the server: what was received is answered, then the connection ends."""
        if not self._queue and not self._body_open:
            self.transport.close()

    @property
    def _draining(self) -> bool:
        return isinstance(self.server_state, State) and self.server_state.draining

    def pause_writing(self) -> None:
        """The client does not read its answers: nothing more is read from it either."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if len(self._queue) < MAX_QUEUED:
            self.flow.resume_reading()

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
        parser = self.parser
        path, _, query = self.url.partition(b"?")
        route = _HOT.get((parser.get_method(), path))
        if route and b"#" not in query and not parser.should_upgrade() and parser.get_http_version() == "1.1":
            head = Head(path.decode(), query, self.headers, self._peer)
            if not head.get(b"expect"):
                self._head, self._route = head, route
                self._chunks, self._body_bytes = [], 0
                return
        self._hand_over()

    def on_body(self, body: bytes) -> None:
        self._unseen_bytes = 0
        if self._head:
            self._body_bytes += len(body)
            if self._body_bytes <= MAX_BODY_BYTES:
                self._chunks.append(body)
            elif self._body_bytes > DISCARD_BYTES:
                self._take()
                self._ended = True
        elif not self._ended:
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
        elif not self._ended:
            HttpToolsProtocol.on_message_complete(self)

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
        request = _Request(self, self._route, head.origin, keep_alive=self.parser.should_keep_alive())
        self._ended = not request.keep_alive
        self._enqueue(request)
        try:
            taken = self._taken(head)
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

    def _taken(self, head: Head) -> Taken | Answer:
        if self.pace.pressed and not self.pace.admits(time.monotonic()):
            return self.edge.busy()
        if self._route == "v3":
            return self.edge.pixel(head)
        if self._body_bytes > MAX_BODY_BYTES:
            return self.edge.refused(too_large())
        return self.edge.events(head, self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks))

    def answered(self, request: _Request, answer: Answer) -> None:
        """What to answer to a request of the queue is known; it is sent when it is its turn."""
        request.answer = answers.as_pixel(answer) if request.route == "v3" else answer
        if self._queue and self._queue[0] is request:
            self._advance()

    def _body_too_slow(self) -> None:
        self._body_clock = None
        if self._head is None:
            return
        head, self._head, self._ended = self._head, None, True
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
        if not self.transport.is_closing():
            self._advance()

    # --- in order ---

    def _enqueue(self, request: _Request | RequestResponseCycle | _Refusal) -> None:
        self._queue.append(request)
        if len(self._queue) >= MAX_QUEUED:
            self.flow.pause_reading()

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
                super()._start_asgi_task(first, self.app)
                return
            else:
                queue.popleft()
                super()._refuse(first.reason)
                return
        if self.flow.read_paused and not self.flow.write_paused:
            self.flow.resume_reading()
        if self._ended or (self._draining and not self._body_open):
            self.transport.close()
        elif self._idle_clock is None:
            self._idle_clock = self.loop.call_later(self.timeout_keep_alive, self._idle)

    def _send(self, request: _Request, answer: Answer) -> None:
        _count_answer(request.route, answer.status, self.loop, request.read_at)
        if self.transport.is_closing():
            metrics.tally(metrics.ANSWERS_UNDELIVERED, 1)
            return
        last = self._draining and not self._queue and not self._body_open
        keep_alive = request.keep_alive and not last and not answers.closes(answer)
        cors = self.edge.cors(request.origin, mirror=answer.mirror)
        self.transport.write(answers.to_bytes(answer, cors, keep_alive=keep_alive))
        if not keep_alive:
            self.transport.close()

    def _refuse(self, reason: str) -> None:
        if not self._queue or self._refused:
            super()._refuse(reason)
        elif not self._ended:
            self._ended = True
            self._stop_clock()
            self._enqueue(_Refusal(reason))

    def _too_slow(self) -> None:
        if self._queue:
            self._deadline = None
            self._start_clock()  # the answers before it come first
        else:
            super()._too_slow()

    def _idle(self) -> None:
        """Close a connection on which nothing happens. One timer that looks again costs less than one a request."""
        self._idle_clock = None
        rest = self.last_at + self.timeout_keep_alive - self.loop.time()
        busy = self._queue or self._head_open or self._body_open
        if not busy and rest <= 0:
            self.transport.close()
        else:
            self._idle_clock = self.loop.call_later(max(rest, 1.0), self._idle)


SAMPLED: Final = 32
"""Of so many answers of the hot path, the time of one is taken."""

_answers = count(1)


@lru_cache(maxsize=64)
def _requests(route: str, status: int) -> Any:
    return metrics.REQUESTS.labels(route, str(status))


def _count_answer(route: str, status: int, loop: asyncio.AbstractEventLoop, read_at: float) -> None:
    metrics.tally(_requests(route, status), 1)
    if next(_answers) % SAMPLED == 0:
        metrics.ANSWER_MS.observe((loop.time() - read_at) * 1000)
