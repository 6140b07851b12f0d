"""Sorting more records than memory holds: sorted runs in files without a name, merged as they are read.

Memory: RUN_BYTES of records while they are put in, a buffer for each of MAX_RUNS files while they are taken out. Disk:
as much as the records. The files have no name, so nothing is left of them whatever happens to the process.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec
from msgspec import Struct

RUN_BYTES: Final = 16 << 20
MAX_RUNS: Final = 128
"""Of files at a time: one more, and they become one."""
_ENTRY_BYTES: Final = 400  # of an entry in memory beside its value
_BUFFER_BYTES: Final = 64 << 10
_LENGTH_BYTES: Final = 4


class Entry(Struct, frozen=True, order=True, array_like=True):
    """A record, ordered by when it happened. Equal in the first three: the same event."""

    time: int
    event: str
    event_id: str
    visitor_id: int
    value: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Entry).decode


class Sorter:
    """Put entries in, then take them out in order."""

    def __init__(self, folder: Path, run_bytes: int = RUN_BYTES, max_runs: int = MAX_RUNS) -> None:
        """`folder`: where the files are, which hold nothing but records."""
        self._folder = folder
        self._run_bytes = run_bytes
        self._max_runs = max_runs
        self._held: list[Entry] = []
        self._held_bytes = 0
        self._runs: list[IO[bytes]] = []

    def put(self, entry: Entry) -> None:
        """Take one entry in."""
        self._held.append(entry)
        self._held_bytes += len(entry.value) + _ENTRY_BYTES
        if self._held_bytes >= self._run_bytes:
            self._runs.append(self._written(iter(sorted(self._held))))
            self._held, self._held_bytes = [], 0
            if len(self._runs) == self._max_runs:
                merged = self._written(heapq.merge(*map(_read, self._runs)))
                self._close()
                self._runs.append(merged)

    def ordered(self) -> Iterator[Entry]:
        """Everything that was put in, in order. Once."""
        self._held.sort()
        return heapq.merge(*map(_read, self._runs), iter(self._held))

    def close(self) -> None:
        """Give the disk back."""
        self._close()

    def _written(self, entries: Iterator[Entry]) -> IO[bytes]:
        file = tempfile.TemporaryFile(dir=self._folder, buffering=_BUFFER_BYTES)  # noqa: SIM115  `close` closes it
        for entry in entries:
            packed = _encode(entry)
            file.write(len(packed).to_bytes(_LENGTH_BYTES, "big") + packed)
        return file

    def _close(self) -> None:
        for run in self._runs:
            run.close()
        self._runs = []


def _read(file: IO[bytes]) -> Iterator[Entry]:
    file.seek(0)
    while length := file.read(_LENGTH_BYTES):
        yield _decode(file.read(int.from_bytes(length, "big")))
