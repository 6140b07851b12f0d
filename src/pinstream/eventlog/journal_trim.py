"""What the journal deletes: records that every enabled consumer has read, once they are old enough or room is short."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection
from itertools import takewhile
from typing import Final, NamedTuple

from pinstream import clock
from pinstream.eventlog import journal_file as files
from pinstream.settings import Log as LogSettings

DELETE_ROWS: Final = 2000  # of one topic at once
NEARLY_FULL: Final = 0.8  # of the size bound: from here on what was read goes before its age


class UntilRead:
    """The journal's `journal_writer.Retention`. Of the settings it reads `consumers` and `journal_...`."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings

    @property
    def max_bytes(self) -> int:
        """See `Retention`."""
        return self._settings.journal_max_bytes

    @property
    def full(self) -> str:
        """See `Retention`."""
        return (
            f"The journal has reached {self.max_bytes} bytes (log.journal_max_bytes) that its readers "
            f"({', '.join(self._settings.consumers)}) have not read. Start them, or raise the bound."
        )

    def trim(self, connection: sqlite3.Connection, room_bytes: int) -> bool:
        """See `Retention`. Up to DELETE_ROWS of each topic."""
        progress = [Progress(*row) for row in connection.execute("SELECT group_id, topic, offset FROM consumer")]
        nearly_full = room_bytes < (1 - NEARLY_FULL) * self.max_bytes
        old_ms = clock.now_ms() - int(self._settings.journal_keep_hours * 3_600_000)
        deleted = False
        for topic in files.topics(connection):
            below = read_below(progress, self._settings.consumers, topic)
            was_read = any(row.topic == topic and row.group in self._settings.consumers for row in progress)
            deleted |= _delete(connection, topic, below, files.LAST_SEQ if nearly_full and was_read else old_ms)
        return deleted


def _delete(connection: sqlite3.Connection, topic: str, below: int, before_ms: int) -> bool:
    query = "SELECT seq, appended_ms FROM record WHERE topic = ? AND seq < ? ORDER BY seq LIMIT ?"
    with contextlib.closing(connection.execute(query, (topic, below, DELETE_ROWS))) as rows:
        gone = [seq for seq, _ in takewhile(lambda row: row[1] <= before_ms, rows)]
    if not gone:
        return False
    with files.transaction(connection):
        connection.execute("DELETE FROM record WHERE topic = ? AND seq <= ?", (topic, gone[-1]))
        connection.execute("INSERT OR REPLACE INTO trimmed VALUES (?, ?)", (topic, gone[-1] + 1))
    return True


class Progress(NamedTuple):
    """How far a group has come in one topic of a file; None: it has committed nothing."""

    group: str
    topic: str
    offset: int | None


def read_below(progress: Collection[Progress], enabled: Collection[str], topic: str) -> int:
    """The sequence number below which every enabled group has read `topic`.

    A group reads the topics it has joined with. One that never joined on this file may yet come for any of
    them, so it holds everything back.
    """
    below = files.LAST_SEQ
    for group in enabled:
        offsets = {row.topic: row.offset for row in progress if row.group == group}
        if not offsets:
            return 0
        if topic in offsets:
            below = min(below, offsets[topic] or 0)
    return below
