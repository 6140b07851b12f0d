"""The event log: Kafka in production, the journal on one machine, one contract (`contract.py`) for both."""

from __future__ import annotations

from pinstream.eventlog.contract import Log
from pinstream.settings import Settings


def open_log(settings: Settings) -> Log:
    """The log that `settings.log.kind` names. Opens nothing yet."""
    if settings.log.kind == "kafka":
        from pinstream.eventlog.kafka import KafkaLog  # a client library that the journal does without

        return KafkaLog(settings.log)
    from pinstream.eventlog.journal import JournalLog

    return JournalLog(settings.journal_dir, settings.log)
