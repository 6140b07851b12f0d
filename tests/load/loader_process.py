"""A loader as a process of its own, which can be told to die or to freeze at one exact moment.

Usage: python -m tests.load.loader_process MOMENT NTH, settings by environment.
MOMENT: after-insert | before-insert | before-commit | never; at its NTH time the process
kills itself (die:MOMENT) or stops itself (freeze:MOMENT).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from pinstream import roles, settings
from pinstream.load.loop import Loader
from pinstream.supervisor import until_signalled
from pinstream.warehouse.client import Warehouse


def main() -> None:
    how, _, moment = sys.argv[1].partition(":")
    number = signal.SIGKILL if how == "die" else signal.SIGSTOP
    seen = 0

    def at(name: str) -> None:
        nonlocal seen
        if name == moment:
            seen += 1
            if seen == int(sys.argv[2]):
                print("now", flush=True)
                os.kill(os.getpid(), number)

    insert: Callable[..., Awaitable[None]] = Warehouse.insert
    commit: Callable[..., Awaitable[None]] = Loader._commit

    async def inserting(self: Warehouse, *args: Any, **named: Any) -> None:
        at("before-insert")
        await insert(self, *args, **named)
        at("after-insert")

    async def committing(self: Loader, *args: Any) -> None:
        at("before-commit")
        await commit(self, *args)

    Warehouse.insert = inserting  # type: ignore[method-assign]
    Loader._commit = committing  # type: ignore[method-assign, assignment]
    print("loading", flush=True)
    asyncio.run(until_signalled(lambda stop: roles.load(settings.load(), stop)))


if __name__ == "__main__":
    main()
