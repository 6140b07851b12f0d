"""The event log on one machine: SQLite files in a folder, every append synced before it is acknowledged.

A file is a partition, of every topic (`journal_file.py`). One writer a file, which is a thread of its own:
appends that arrive while a commit runs share the next one (`journal_writer.py`). Any number of consumers, in
any process; a group's position, intent and owner are one row a topic, changed in one transaction
(`journal_reader.py`). Records that every enabled consumer has read are deleted once they are old enough, others
never (`journal_trim.py`): at its size bound the journal refuses.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from pinstream.errors import Retryable, SetupFault
from pinstream.eventlog.contract import Bounds, Partition, Position
from pinstream.eventlog.journal_file import (
    journal_path,
    log_full,
    make_folder,
    numbers,
    take,
    translated,
    used_by_others,
)
from pinstream.eventlog.journal_mend import fault_of
from pinstream.eventlog.journal_reader import LEASE_S, JournalConsumer
from pinstream.eventlog.journal_trim import UntilRead
from pinstream.eventlog.journal_writer import JournalAppender
from pinstream.settings import Log as LogSettings


class JournalLog:
    """The journal in `directory`. Of the settings it reads `consumers` and `journal_...`."""

    def __init__(self, directory: Path, settings: LogSettings, *, lease_s: float = LEASE_S) -> None:
        self._directory = directory
        self._settings = settings
        self._lease_s = lease_s

    async def appender(self) -> JournalAppender:
        """Become the writer of the first file that has none, or of a new one.

        Raises:
            SetupFault: the folder cannot be written, or has no room to mend a damaged file.
        """
        return await asyncio.to_thread(self._open_appender)

    def _open_appender(self) -> JournalAppender:
        make_folder(self._directory)
        lock = take(self._directory)
        try:
            return JournalAppender(self._directory, lock, UntilRead(self._settings))
        except BaseException:
            lock.release()
            raise

    async def consumer(self, group: str, topics: Sequence[str]) -> JournalConsumer:
        """Join `group`. Raises SetupFault if the folder cannot be written: positions are kept in it."""
        await asyncio.to_thread(make_folder, self._directory)
        return JournalConsumer(self._directory, group, tuple(topics), self._lease_s)

    async def check(self) -> None:
        """See `contract.Log`: is the folder writable, is each file whole, is there room below the bound?"""
        await asyncio.to_thread(self._check)

    def _check(self) -> None:
        folder = next(each for each in (self._directory, *self._directory.absolute().parents) if each.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise SetupFault(f"Cannot write in the journal's folder {self._directory}. Check data_dir and its owner.")
        for number in numbers(self._directory):
            path = journal_path(self._directory, number)
            try:
                fault = fault_of(path)
            except sqlite3.Error as exc:
                raise translated(exc, path) from exc
            if fault:
                raise Retryable(f"Journal file {path} is damaged ({fault}). Restart collect: it is mended when opened.")
        if used_by_others(self._directory, -1) >= self._settings.journal_max_bytes:
            raise log_full(f"The journal in {self._directory} is full. Start load, or raise log.journal_max_bytes.")

    async def inspect(self, group: str, topics: Sequence[str]) -> dict[Partition, tuple[Position, Bounds]]:
        """See `contract.Log`."""
        onlooker = JournalConsumer(self._directory, group, (), self._lease_s)
        partitions = [Partition(topic, number) for number in numbers(self._directory) for topic in topics]
        try:
            return {each: (await onlooker.position(each), await onlooker.bounds(each)) for each in partitions}
        finally:
            await onlooker.aclose()

    async def overdue(self, group: str, topics: Sequence[str], *, now_ms: int) -> Sequence[Partition]:
        """See `contract.Log`. None ever: what an enabled consumer has not read is never deleted."""
        return ()
