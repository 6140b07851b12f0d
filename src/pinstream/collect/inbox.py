"""What was received and is not read yet, over all connections, in the order in which it came.

Reading happens in slices between two looks at the sockets, so that nobody waits for a long round over all of them:
least of all the log's acknowledgements, for which everybody waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, Protocol

SLICE_S: Final = 0.001


class Reader(Protocol):
    """A connection that has something to read."""

    def read_some(self) -> None:
        """Read a bounded piece; whoever has more adds itself again. Never raises."""


class Inbox:
    """The connections of one server whose turn it is to be read."""

    def __init__(self) -> None:
        self.body_bytes = 0
        """Of bodies that are not complete, over all connections."""
        self._waiting: deque[Reader] = deque()
        self._working = False

    def add(self, reader: Reader, loop: asyncio.AbstractEventLoop) -> None:
        """Let `reader` read when those before it have. A reader is here once at a time."""
        self._waiting.append(reader)
        if not self._working:
            self._working = True
            loop.call_soon(self._work, loop)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, until = self._waiting, time.monotonic() + SLICE_S
        while waiting:
            waiting.popleft().read_some()
            if time.monotonic() >= until:
                break
        self._working = bool(waiting)
        if waiting:
            loop.call_soon(self._work, loop)
