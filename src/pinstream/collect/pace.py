"""Pure: when a process has more to do than it can, some requests are refused at once instead of all answered late.

One turn of the event loop reads from every connection that has something. While the process keeps up, a turn is over
in a few milliseconds; a turn that takes long is the queue that everybody waits in. Bursts are let through: only when
turn after turn is too long, for GRACE_S, is something refused.

To refuse costs time as well: next to nothing beside a batch, but a third of what a single event costs to take. So it
gets REFUSING of the time of such a turn and no more. That turns away all batches that are too many; single events that
are too many mostly wait, and how many can is bounded by the number of connections.
"""

from __future__ import annotations

from typing import Final

GRACE_S: Final = 1.0
REFUSING: Final = 0.05
"""Of the time for taking requests, in turns that are too long."""


class Pace:
    """How long the turns are. Times are seconds of a monotonic clock."""

    def __init__(self, longest_turn_s: float) -> None:
        self._longest_s = longest_turn_s
        self._began = 0.0
        self._long_since: float | None = None
        self.in_turn = False

    @property
    def pressed(self) -> bool:
        """Whether the last turn was too long: ask `admits` before each request."""
        return self._long_since is not None

    def turn_begins(self, now: float) -> None:
        """The first thing of a turn was read."""
        self.in_turn = True
        self._began = now

    def turn_ends(self, now: float) -> None:
        """Everything that could be read in this turn was."""
        self.in_turn = False
        if now - self._began <= self._longest_s:
            self._long_since = None
        elif self._long_since is None:
            self._long_since = self._began

    def admits(self, now: float) -> bool:
        """Whether one more request is taken in this turn."""
        if self._long_since is None or now - self._long_since < GRACE_S:
            return True
        return (now - self._began) % (self._longest_s * (1 + REFUSING)) <= self._longest_s
