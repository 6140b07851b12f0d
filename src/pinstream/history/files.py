"""Files of shops, row by row: CSV and JSON lines of any size, in the memory of one row.

A row that cannot be read is a Refused in its place; the next one is read all the same.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from pinstream.collect.values import an_object, decode_json
from pinstream.errors import Refused
from pinstream.event import MAX_BODY_BYTES

MAX_LINE_CHARS: Final = MAX_BODY_BYTES
MAX_COLUMNS: Final = 500
_DELIMITERS: Final = ",;\t"
_CHUNK_BYTES: Final = 1 << 20


class Row(NamedTuple):
    """One row."""

    line: int
    """Where it begins in the file, from 1."""
    fields: Mapping[str, Any] | Refused
    """By column; of a CSV file texts, empty ones left out."""


class Table:
    """An open file."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._lines = _Lines(file)
        self._is_csv = path.suffix.lower() not in (".jsonl", ".ndjson", ".json")
        self.columns: tuple[str, ...] = ()
        """Of a CSV file; empty where every row names its own."""
        self._delimiter = ","

    def head(self, unnamed: str = "") -> None:
        """Read the names of the columns.

        `unnamed`: the name of the first column where the file has no names, which is so if its first line holds an `@`
        or a hash; else such a file has the names that are in its first row.

        Raises:
            Refused: the first line is no row of names.
        """
        if not self._is_csv:
            return
        first = self._lines.peek()
        self._delimiter = max(_DELIMITERS, key=first.count)
        names = [name.strip() for name in next(csv.reader([first], delimiter=self._delimiter), [])]
        if len(names) > MAX_COLUMNS or not any(names):
            raise Refused("bad_value", f"The first line names no columns, or more than {MAX_COLUMNS}.", field="line 1")
        if unnamed and any("@" in name or len(name) == 64 for name in names):
            self.columns = (unnamed,)
            return
        self._lines.skip()
        self.columns = tuple(names)

    def rows(self) -> Iterator[Row]:
        """Every row behind the head."""
        return self._csv_rows() if self._is_csv else self._json_rows()

    def _csv_rows(self) -> Iterator[Row]:
        rows = csv.reader(self._lines, delimiter=self._delimiter, strict=True)
        while True:
            line = self._lines.number + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except Refused as exc:
                yield Row(line, exc)
                continue
            except csv.Error as exc:
                reason = "too_long" if "field limit" in str(exc) else "bad_value"
                yield Row(line, Refused(reason, f"This is no row of CSV: {exc}."))
                continue
            if any(cells):
                yield Row(line, self._named(cells))

    def _named(self, cells: list[str]) -> Mapping[str, Any] | Refused:
        found = {name: cell for name, cell in zip(self.columns, cells, strict=False) if name and cell.strip()}
        if not _is_text("".join(found.values())):
            return Refused("bad_text", "A text holds a NUL, or is not in the encoding that was given.")
        return found

    def _json_rows(self) -> Iterator[Row]:
        while True:
            line = self._lines.number + 1
            try:
                sent = next(self._lines)
                if sent.strip():
                    yield Row(line, an_object(decode_json(sent.encode("utf-8", "surrogateescape")), "$"))
            except StopIteration:
                return
            except Refused as exc:
                yield Row(line, exc)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


class _Lines:
    """The lines of a file; one that is too long is raised as a Refused, and the next one is read all the same."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._peeked: str | None = None
        self.number = 0
        """Of the line that was read last."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, self._peeked = self._peeked, None
        if line is None:
            line = self._file.readline(MAX_LINE_CHARS)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) < MAX_LINE_CHARS or line.endswith("\n"):
            return line
        while (rest := self._file.readline(MAX_LINE_CHARS)) and not rest.endswith(("\n", "\r")):
            pass
        raise Refused("too_long", f"A line has at most {MAX_LINE_CHARS} characters.")

    def peek(self) -> str:
        """The next line, which stays the next one."""
        self._peeked = self._file.readline(MAX_LINE_CHARS)
        return self._peeked

    def skip(self) -> None:
        """Pass over the line that was peeked at."""
        self._peeked = None
        self.number += 1


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[Table]:
    """The file at `path`.

    Raises:
        Refused: there is no such file, or no such encoding.
    """
    name = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        file = open(path, encoding=name, errors="surrogateescape", newline="")  # noqa: SIM115  closed below
    except (OSError, LookupError) as exc:
        raise Refused("bad_value", f"Cannot read {path}: {exc}.") from exc
    with file:
        yield Table(path, file)


def fingerprint(path: Path, key: bytes) -> str:
    """A keyed hash of the file, hex. Raises Refused if it cannot be read."""
    made = blake2b(key=key, digest_size=16)
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                made.update(chunk)
    except OSError as exc:
        raise Refused("bad_value", f"Cannot read {path}: {exc.strerror}.") from exc
    return made.hexdigest()
