"""Appends numbers through a spool, says each group that was acknowledged, and goes on until it is killed.

python -m tests.eventlog.spooler FOLDER BOOTSTRAP TOPIC FIRST
"""

import asyncio
import sys
from pathlib import Path

from pinstream.eventlog.contract import Record
from pinstream.eventlog.kafka import KafkaLog
from pinstream.eventlog.spool import SpoolingLog
from pinstream.settings import Log as LogSettings


async def main(folder: Path, bootstrap: str, topic: str, number: int) -> None:
    settings = LogSettings(kafka_bootstrap=bootstrap, kafka_ack_timeout_ms=500)
    appender = await SpoolingLog(KafkaLog(settings, topics={topic: 3}), folder, settings).appender()
    while True:
        group = range(number, number + 10)
        await appender.append([Record(topic, each + 1, b"%d" % each) for each in group])
        sys.stdout.write(f"{group[0]} {group[-1]}\n")
        sys.stdout.flush()
        number = group[-1] + 1


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
