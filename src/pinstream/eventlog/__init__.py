"""The event log: Kafka in production, the journal on one machine, one contract (`contract.py`) for both.

Kafka is written through a spool (`spool.py`), unless log.spool is off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pinstream.errors import Misconfigured
from pinstream.eventlog.contract import Log
from pinstream.settings import Settings

if TYPE_CHECKING:
    from pinstream.eventlog.spool import Drained


async def drain_spool(settings: Settings, report: Callable[[int, int], None]) -> Drained:
    """Send what dead processes left in the spool to Kafka, now. See `spool.drain_orphans`."""
    from pinstream.eventlog.kafka import KafkaLog
    from pinstream.eventlog.spool import drain_orphans

    if settings.log.kind != "kafka":
        raise Misconfigured("log.kind is journal: only Kafka has a spool.")
    return await drain_orphans(KafkaLog(settings.log), settings.spool_dir, settings.log, report)


def open_log(settings: Settings) -> Log:
    """The log that `settings.log.kind` names. Opens nothing yet."""
    if settings.log.kind == "kafka":
        from pinstream.eventlog.kafka import KafkaLog  # a client library that the journal does without

        kafka = KafkaLog(settings.log)
        if not settings.log.spool:
            return kafka
        from pinstream.eventlog.spool import SpoolingLog

        return SpoolingLog(kafka, settings.spool_dir, settings.log)
    from pinstream.eventlog.journal import JournalLog

    return JournalLog(settings.journal_dir, settings.log)
