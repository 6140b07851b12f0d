"""Appends numbers to a journal and says each one that was acknowledged, until it is killed.

    python -m tests.eventlog.writer FOLDER FIRST [FILE_SIZE_LIMIT]

With a limit, it stops at the first refusal, says why, raises the limit and appends once more.
"""

import asyncio
import resource
import signal
import sys
from pathlib import Path

from pinstream.errors import Retryable
from pinstream.eventlog.contract import Record
from pinstream.eventlog.journal import JournalLog
from pinstream.settings import Log as LogSettings

TOPIC = "t"


def value(number: int) -> bytes:
    return b"%d " % number + b"x" * (number % 700)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def main(folder: Path, first: int, limit: int) -> None:
    appender = await JournalLog(folder, LogSettings()).appender()
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    number = first
    while True:
        group = range(number, number + 1 + number % 37)
        try:
            await appender.append([Record(TOPIC, 1, value(each)) for each in group])
        except Retryable as exc:
            say(exc.reason)
            break
        say(f"{group[0]} {group[-1]}")
        number = group[-1] + 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await appender.append([Record(TOPIC, 1, value(number))])
    await appender.ready()
    say(f"{number} {number}")
    await appender.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int((*sys.argv, "0")[3])))
