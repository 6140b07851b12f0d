"""Files of shops, row by row: CSV and JSON lines of any size, in the memory of one row.

A row that cannot be read is a Refused in its place and costs the line it begins on; the next one is read all the same.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from pinstream.collect.values import an_object, decode_json
from pinstream.errors import Refused
from pinstream.event import MAX_BODY_BYTES

MAX_LINE_CHARS: Final = MAX_BODY_BYTES  # of a row of several lines too
MAX_RECORD_LINES: Final = 100
"""Of a row whose quoted texts hold line breaks; it is also how far a stray quote is looked into for its end."""
MAX_COLUMNS: Final = 500
_DELIMITERS: Final = ",;\t"
PHONE: Final = re.compile(r"\+?[\d ()./-]{6,30}")
"""What may be somebody's number."""
_CHUNK_BYTES: Final = 1 << 20
_NO_TEXT: Final = "holds a NUL, or is in another encoding: --encoding cp1252 is that of old spreadsheets"


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
        self._width = 0

    def head(self, unnamed: str = "") -> None:
        """Read the names of the columns.

        `unnamed`: the name of the first column where the file has no names, which is so if its first line holds an `@`,
        a number or a hash; else such a file has the names that are in its first row.

        Raises:
            Refused: the first line is no row of names.
        """
        if not self._is_csv:
            return
        self._delimiter = max(_DELIMITERS, key=self._lines.peek().count)
        names = [name.strip() for name in self._record(self._reader()) or ()]
        if len(names) > MAX_COLUMNS or not any(names):
            raise Refused("bad_value", f"The first line names no columns, or more than {MAX_COLUMNS}.", field="line 1")
        if not _is_text("".join(names)):
            raise Refused("bad_text", f"The first line {_NO_TEXT}.", field="line 1")
        self._width = len(names)
        if unnamed and any("@" in name or len(name) == 64 or PHONE.fullmatch(name) for name in names):
            self._lines.again(0)
            self.columns = (unnamed,)
        else:
            self.columns = tuple(names)

    def rows(self) -> Iterator[Row]:
        """Every row behind the head."""
        return self._csv_rows() if self._is_csv else self._json_rows()

    def _csv_rows(self) -> Iterator[Row]:
        rows = self._reader()
        while True:
            line = self._lines.number + 1
            try:
                cells = self._record(rows)
            except Refused as exc:
                yield Row(line, exc)
                continue
            if cells is None:
                return
            if any(cells):
                yield Row(line, self._named(cells))

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines, delimiter=self._delimiter, strict=True)

    def _record(self, rows: Iterator[list[str]]) -> list[str] | None:
        """The cells of the next row; None at the end. Where a row is Refused, its second line is the next one."""
        self._lines.begin()
        try:
            cells = next(rows, None)
            if cells and self._lines.taken > 1 and self._width and not 1 < len(cells) == self._width:
                raise Refused("bad_value", "A row of several lines needs all its cells. Is a quote left open?")
            return cells
        except csv.Error as exc:
            self._lines.again(1)
            reason = "too_long" if "field limit" in str(exc) else "bad_value"
            raise Refused(reason, f"This is no row of CSV: {exc}.") from exc
        except Refused:
            self._lines.again(1)
            raise

    def _named(self, cells: list[str]) -> Mapping[str, Any] | Refused:
        found = {name: cell for name, cell in zip(self.columns, cells, strict=False) if name and cell.strip()}
        if not _is_text("".join(found.values())):
            return Refused("bad_text", f"A text {_NO_TEXT}.")
        return found

    def _json_rows(self) -> Iterator[Row]:
        while True:
            self._lines.begin()
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
    """The lines of a file, for one row at a time; of a row that was wrong the lines behind the first are read again."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._ahead: deque[str | Refused] = deque()
        self._row: list[str | Refused] = []
        self._chars = 0
        self.number = 0
        """Of the line that was read last."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        """The next line. Raises Refused for one that is too long, or too many of one row."""
        if len(self._row) == MAX_RECORD_LINES:
            raise _too_long()
        line = self._ahead.popleft() if self._ahead else self._read()
        if not line:
            raise StopIteration
        self._row.append(line)
        self.number += 1
        if isinstance(line, Refused):
            raise line
        self._chars += len(line)
        if self._chars > MAX_LINE_CHARS:
            raise _too_long()
        return line

    @property
    def taken(self) -> int:
        """How many lines the row has."""
        return len(self._row)

    def begin(self) -> None:
        """A row begins."""
        self._row, self._chars = [], 0

    def again(self, start: int) -> None:
        """The lines of the row from its `start` on, counted from 0, are next."""
        self._ahead.extendleft(reversed(self._row[start:]))
        self.number -= len(self._row[start:])
        del self._row[start:]

    def peek(self) -> str:
        """The next line, which stays the next one. Raises Refused if it is too long."""
        self.begin()
        line = next(self, "")
        self.again(0)
        return line

    def _read(self) -> str | Refused:
        line = self._file.readline(MAX_LINE_CHARS)
        if len(line) < MAX_LINE_CHARS or line.endswith(("\n", "\r")):
            return line
        while (rest := self._file.readline(MAX_LINE_CHARS)) and not rest.endswith(("\n", "\r")):
            pass
        return _too_long()


def _too_long() -> Refused:
    bounds = f"{MAX_RECORD_LINES} lines and {MAX_LINE_CHARS} characters"
    return Refused("too_long", f"A row has at most {bounds}. Is a quote left open?")


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
