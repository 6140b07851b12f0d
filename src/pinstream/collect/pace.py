"""Pure: when a process has more to do than it can, some requests are refused at once instead of all answered late.

What tells is how long a request has waited to be read. Bursts are let through: only when requests have waited too
long for GRACE_S on end is something refused, and one that did not wait ends it.

To refuse costs time as well: next to nothing beside a batch, but a third of what a single event costs to take. So it
gets a share of REFUSING of the time and no more. That turns away all batches that are too many; single events that
are too many mostly wait, and how many can is bounded by the number of connections.
"""

from __future__ import annotations

from typing import Final

GRACE_S: Final = 1.0
REFUSING: Final = 0.05
"""Of the time for taking requests, while there are too many."""


class Pace:
    """Whether the process keeps up. Times are seconds of a monotonic clock."""

    def __init__(self, longest_wait_s: float) -> None:
        self._longest_s = longest_wait_s
        self._late_since: float | None = None

    def admits(self, now: float, waited_s: float) -> bool:
        """Whether a request that has waited so long is taken."""
        if waited_s <= self._longest_s:
            self._late_since = None
            return True
        if self._late_since is None:
            self._late_since = now
        late_s = now - self._late_since
        return late_s < GRACE_S or late_s % self._longest_s >= self._longest_s * REFUSING
