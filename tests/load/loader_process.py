"""A loader as a process of its own, which can be told to die or to freeze at one exact moment.

Usage: python -m tests.load.loader_process MOMENT NTH, settings by environment.
MOMENT: after-insert | before-insert | before-commit | never; at its NTH time the process says "now" and
kills itself (die:MOMENT) or stops itself (freeze:MOMENT). One that was stopped says "past" once it has done the insert
or the commit in whose midst it was. Its successor takes over after LEASE_S.

A journal's consumer reads while the loader inserts and commits, and a process that is stopped within a transaction
keeps everybody out of SQLite's file. So the process is stopped by the thread in which all of SQLite happens.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partialmethod
from typing import Any

from pinstream import roles, settings
from pinstream.eventlog.journal import JournalLog
from pinstream.eventlog.journal_reader import JournalConsumer
from pinstream.eventlog.kafka import KafkaLog
from pinstream.load.loop import Loader
from pinstream.supervisor import until_signalled
from pinstream.warehouse.client import Warehouse
from tests.eventlog.place import LEASE_S


def main() -> None:
    how, _, moment = sys.argv[1].partition(":")
    number = signal.SIGKILL if how == "die" else signal.SIGSTOP
    seen = 0

    def at(name: str) -> bool:
        """True where the process was stopped and goes on."""
        nonlocal seen
        if name != moment:
            return False
        seen += 1
        if seen != int(sys.argv[2]):
            return False
        print("now", flush=True)
        os.kill(os.getpid(), number)
        return True

    readers: list[JournalConsumer] = []

    async def between_reads(name: str) -> bool:
        return await readers[0]._run(at, name) if readers else at(name)

    def start_reading(self: JournalConsumer, *args: Any) -> None:
        start(self, *args)
        readers.append(self)

    start: Callable[..., None] = JournalConsumer.__init__
    insert: Callable[..., Awaitable[None]] = Warehouse.insert
    commit: Callable[..., Awaitable[None]] = Loader._commit

    async def inserting(self: Warehouse, *args: Any, **named: Any) -> None:
        stopped = await between_reads("before-insert")
        try:
            await insert(self, *args, **named)
        finally:
            if stopped:
                print("past", flush=True)
        await between_reads("after-insert")

    async def committing(self: Loader, *args: Any) -> None:
        stopped = await between_reads("before-commit")
        try:
            await commit(self, *args)
        finally:
            if stopped:
                print("past", flush=True)

    KafkaLog.__init__ = partialmethod(KafkaLog.__init__, session_timeout_ms=int(LEASE_S * 1000))  # type: ignore
    JournalLog.__init__ = partialmethod(JournalLog.__init__, lease_s=LEASE_S)  # type: ignore
    JournalConsumer.__init__ = start_reading  # type: ignore[method-assign, assignment]
    Warehouse.insert = inserting  # type: ignore[method-assign]
    Loader._commit = committing  # type: ignore[method-assign, assignment]
    print("loading", flush=True)
    asyncio.run(until_signalled(lambda stop: roles.load(settings.load(), stop)))


if __name__ == "__main__":
    main()
