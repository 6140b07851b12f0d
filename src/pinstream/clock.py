"""What time it is. Read at the edges only (commands, loops, a request's arrival); everything else is given the time."""

from __future__ import annotations

import time


def now_ms() -> int:
    """This machine's clock: milliseconds since 1970."""
    return time.time_ns() // 1_000_000
