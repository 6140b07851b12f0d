"""What the fake Pinterest remembers: customer lists, their members, audiences. No HTTP here; time is an argument.

In SQLite, in memory or in a file: each change is one transaction, so a killed fake comes back whole.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from pinstream.errors import SetupFault

MAX_OBJECTS: Final = 10_000
"""Lists, and as many audiences."""
MAX_MEMBERS: Final = 5_000_000
"""In all lists together."""

INVALID: Final = 4196
"""Pinterest's code for an invalid request, as its description gives it for events."""

_FIRST_IDS: Final = (2_542_620_000_000, 2_542_830_000_000)
"""Of lists and audiences; apart, so that a mix-up shows."""
_HASH: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}")
_E_MAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")

_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS list (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ad_account_id TEXT, name TEXT, size INTEGER, settled_size INTEGER,
    batches INTEGER, uploaded INTEGER, removed INTEGER, invalid INTEGER, created_at REAL, changed_at REAL);
CREATE TABLE IF NOT EXISTS member (list_id INTEGER, hash TEXT, PRIMARY KEY (list_id, hash)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audience (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ad_account_id TEXT, name TEXT, description TEXT, audience_type TEXT,
    rule TEXT, created_at REAL, updated_at REAL);
"""


class Problem(Exception):
    """An answer that is not a success, on its way to the edge."""

    def __init__(self, status: int, code: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


class Records(Struct, frozen=True):
    """A `records` text, taken apart."""

    hashes: frozenset[str]
    attempts: int
    plain: int
    """Plain e-mails among the attempts."""
    invalid: int
    """Neither a hash nor an e-mail."""


def records(text: str) -> Records:
    """Hashes as they are, plain e-mails hashed, the rest counted as invalid."""
    parts = [part.strip().lower() for part in text.split(",") if part.strip()]
    hashes = [part for part in parts if _HASH.fullmatch(part)]
    plain = [part for part in parts if _E_MAIL.fullmatch(part)]
    known = frozenset(hashes) | {hashlib.sha256(part.encode()).hexdigest() for part in plain}
    return Records(known, len(parts), len(plain), len(parts) - len(hashes) - len(plain))


class Page(Struct, frozen=True):
    """Which part of a listing is asked for."""

    size: int = 25
    descending: bool = False
    after: int | None = None


def bookmark_of(identifier: int) -> str:
    """The text that continues a listing behind `identifier`."""
    return base64.urlsafe_b64encode(f"after:{identifier}".encode()).decode()


def position_of(bookmark: str) -> int | None:
    """The other way round; None for no bookmark. Raises Problem for a text that no page gave."""
    if not bookmark:
        return None
    try:
        word, _, digits = base64.urlsafe_b64decode(bookmark).decode().partition(":")
    except ValueError:
        word, digits = "", ""
    if word != "after" or not re.fullmatch("[0-9]{1,18}", digits):
        raise Problem(400, INVALID, "bookmark: not one that a page gave.")
    return int(digits)


class World:
    """Lists and audiences, in SQLite: in memory, or in a file that outlives the process. Time is an argument."""

    def __init__(self, state_file: Path | None, *, minimum_size: int, processing_s: float) -> None:
        """`minimum_size`: people under which a list is TOO_SMALL; `processing_s`: how long a change takes.

        Raises SetupFault if the file cannot be used.
        """
        self._minimum_size = minimum_size
        self._processing_s = processing_s
        try:
            self._db = sqlite3.connect(str(state_file) if state_file else ":memory:", isolation_level=None)
            self._open()
        except sqlite3.Error as exc:
            raise SetupFault(f"The fake Pinterest cannot use {state_file}: {exc}. Name another file.") from exc

    def _open(self) -> None:
        try:
            self._db.row_factory = sqlite3.Row
            self._db.executescript(_SCHEMA)
            if not self._db.execute("SELECT count(*) FROM sqlite_sequence").fetchone()[0]:
                self._db.execute("INSERT INTO sqlite_sequence VALUES ('list', ?), ('audience', ?)", _FIRST_IDS)
        except sqlite3.Error:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def reset(self) -> None:
        """Forget everything. Ids are not used again."""
        self._db.executescript("BEGIN; DELETE FROM member; DELETE FROM list; DELETE FROM audience; COMMIT;")

    # customer lists

    def create_list(self, account: str, name: str, given: Records, now: float) -> dict[str, Any]:
        self._check_room("list")
        with self._transaction():
            row = self._db.execute(
                "INSERT INTO list (ad_account_id, name, size, batches, uploaded, removed, invalid,"
                " created_at, changed_at) VALUES (?, ?, 0, 0, 0, 0, 0, ?, ?)",
                (account, name, now, now),
            )
            return self._change(account, str(row.lastrowid), "ADD", given, now)

    def change_list(self, account: str, list_id: str, operation: str, given: Records, now: float) -> dict[str, Any]:
        with self._transaction():
            return self._change(account, list_id, operation, given, now)

    def list_of(self, account: str, list_id: str, now: float) -> dict[str, Any]:
        return self._list_shown(self._row("list", account, list_id), now)

    def lists(self, account: str, page: Page, now: float) -> dict[str, Any]:
        rows, bookmark = self._page("list", account, page)
        return {"items": [self._list_shown(row, now) for row in rows], "bookmark": bookmark}

    def members(self, list_id: str) -> list[str]:
        rows = self._db.execute("SELECT hash FROM member WHERE list_id = ? ORDER BY hash", (int(list_id),))
        return [row["hash"] for row in rows]

    def every_list(self, now: float) -> list[dict[str, Any]]:
        rows = self._db.execute("SELECT * FROM list ORDER BY id").fetchall()
        return [{**self._list_shown(row, now), "members": self.members(str(row["id"]))} for row in rows]

    # audiences

    def create_audience(self, account: str, body: dict[str, Any], now: float) -> dict[str, Any]:
        self._check_room("audience")
        self._check_rule(account, body["audience_type"], body["rule"])
        row = self._db.execute(
            "INSERT INTO audience (ad_account_id, name, description, audience_type, rule, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (account, body["name"], body.get("description"), body["audience_type"], json.dumps(body["rule"]), now, now),
        )
        return self.audience_of(account, str(row.lastrowid), now)

    def change_audience(self, account: str, audience_id: str, body: dict[str, Any], now: float) -> dict[str, Any]:
        row = self._row("audience", account, audience_id)
        if body.get("operation_type") == "REMOVE":
            self._db.execute("DELETE FROM audience WHERE id = ?", (row["id"],))
            return self._audience_shown(row, now)
        rule = body.get("rule", json.loads(row["rule"]))
        self._check_rule(account, row["audience_type"], rule)
        self._db.execute(
            "UPDATE audience SET name = ?, description = ?, rule = ?, updated_at = ? WHERE id = ?",
            (
                body.get("name", row["name"]),
                body.get("description", row["description"]),
                json.dumps(rule),
                now,
                row["id"],
            ),
        )
        return self.audience_of(account, audience_id, now)

    def audience_of(self, account: str, audience_id: str, now: float) -> dict[str, Any]:
        return self._audience_shown(self._row("audience", account, audience_id), now)

    def audiences(self, account: str, page: Page, now: float) -> dict[str, Any]:
        rows, bookmark = self._page("audience", account, page)
        return {"items": [self._audience_shown(row, now) for row in rows], "bookmark": bookmark}

    def every_audience(self, now: float) -> list[dict[str, Any]]:
        rows = self._db.execute("SELECT * FROM audience ORDER BY id").fetchall()
        return [self._audience_shown(row, now) for row in rows]

    # inside

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _row(self, table: str, account: str, identifier: str) -> sqlite3.Row:
        query = f"SELECT * FROM {table} WHERE id = ? AND ad_account_id = ?"  # noqa: S608 - one of two table names
        row: sqlite3.Row | None = self._db.execute(query, (int(identifier), account)).fetchone()
        if row is None:
            raise Problem(404, 404, f"No {table} {identifier} in ad account {account}.")
        return row

    def _page(self, table: str, account: str, page: Page) -> tuple[list[sqlite3.Row], str | None]:
        beyond, direction = ("<", "DESC") if page.descending else (">", "ASC")
        start = page.after if page.after is not None else (2**62 if page.descending else 0)
        query = f"SELECT * FROM {table} WHERE ad_account_id = ? AND id {beyond} ? ORDER BY id {direction} LIMIT ?"  # noqa: S608
        rows = self._db.execute(query, (account, start, page.size + 1)).fetchall()
        more = len(rows) > page.size
        return rows[: page.size], bookmark_of(rows[page.size - 1]["id"]) if more else None

    def _check_room(self, table: str) -> None:
        count = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - one of two names
        if count >= MAX_OBJECTS:
            raise Problem(400, INVALID, f"This fake holds at most {MAX_OBJECTS} of a kind.")

    def _change(self, account: str, list_id: str, operation: str, given: Records, now: float) -> dict[str, Any]:
        row = self._row("list", account, list_id)
        if not given.hashes:
            raise Problem(400, INVALID, "records: no e-mail and no hash among them.")
        grown = self._add(row["id"], given) if operation == "ADD" else -self._remove(row["id"], given)
        uploaded, removed = (given.attempts, 0) if operation == "ADD" else (0, given.attempts)
        self._db.execute(
            "UPDATE list SET batches = batches + 1, uploaded = uploaded + ?, removed = removed + ?,"
            " invalid = invalid + ?, settled_size = ?, size = size + ?, changed_at = ? WHERE id = ?",
            (uploaded, removed, given.invalid, self._settled_size(row, now), grown, now, row["id"]),
        )
        return self.list_of(account, list_id, now)

    def _add(self, list_id: int, given: Records) -> int:
        """How many were not in it before."""
        pairs = [(list_id, value) for value in given.hashes]
        added = self._db.executemany("INSERT OR IGNORE INTO member VALUES (?, ?)", pairs).rowcount
        held = self._db.execute("SELECT coalesce(sum(size), 0) FROM list").fetchone()[0]
        if held + added > MAX_MEMBERS:
            raise Problem(400, INVALID, f"This fake holds at most {MAX_MEMBERS} members.")
        return added

    def _remove(self, list_id: int, given: Records) -> int:
        """How many were in it."""
        pairs = [(list_id, value) for value in given.hashes]
        return self._db.executemany("DELETE FROM member WHERE list_id = ? AND hash = ?", pairs).rowcount

    def _settled_size(self, row: sqlite3.Row, now: float) -> int | None:
        """Members as of the last processed change; None before the first is."""
        settled = row["batches"] and now >= row["changed_at"] + self._processing_s
        size: int | None = row["size"] if settled else row["settled_size"]
        return size

    def _list_shown(self, row: sqlite3.Row, now: float) -> dict[str, Any]:
        processing = now < row["changed_at"] + self._processing_s
        ready = "READY" if row["size"] >= self._minimum_size else "TOO_SMALL"
        return {
            "id": str(row["id"]),
            "ad_account_id": row["ad_account_id"],
            "name": row["name"],
            "type": "customerlist",
            "status": "PROCESSING" if processing else ready,
            "num_batches": row["batches"],
            "num_uploaded_user_records": row["uploaded"],
            "num_removed_user_records": row["removed"],
            "exceptions": {"invalid_records": row["invalid"]} if row["invalid"] else {},
            "created_time": int(row["created_at"]),
            "updated_time": int(row["changed_at"]),
        }

    def _check_rule(self, account: str, audience_type: str, rule: dict[str, Any]) -> None:
        if audience_type == "PERSONA":
            raise Problem(400, INVALID, "audience_type: PERSONA audiences are made by Pinterest, not through the API.")
        for name, most in (("retention_days", 540), ("percentage", 10)):
            if not 1 <= rule.get(name, 1) <= most:
                raise Problem(400, INVALID, f"rule.{name}: must be 1 to {most}.")
        needed = {"CUSTOMER_LIST": "customer_list_id", "ENGAGEMENT": "engagement_domain", "ACTALIKE": "seed_id"}
        field = needed.get(audience_type)
        if field and not rule.get(field):
            raise Problem(400, INVALID, f"rule.{field}: required for {audience_type}.")
        if audience_type == "CUSTOMER_LIST" and not self._has_list(account, rule["customer_list_id"]):
            raise Problem(400, INVALID, "rule.customer_list_id: no such customer list in this ad account.")

    def _has_list(self, account: str, list_id: str) -> bool:
        query = "SELECT 1 FROM list WHERE id = ? AND ad_account_id = ?"
        return len(list_id) <= 18 and self._db.execute(query, (int(list_id), account)).fetchone() is not None

    def _audience_shown(self, row: sqlite3.Row, now: float) -> dict[str, Any]:
        rule = json.loads(row["rule"])
        size = self._audience_size(row, rule, now)
        ready = "READY" if (size or 0) >= self._minimum_size else "TOO_SMALL"
        return {
            "id": str(row["id"]),
            "ad_account_id": row["ad_account_id"],
            "name": row["name"],
            "description": row["description"],
            "audience_type": row["audience_type"],
            "rule": rule,
            "type": "audience",
            "size": size,
            "status": "INITIALIZING" if size is None else ready,
            "created_timestamp": int(row["created_at"]),
            "updated_timestamp": int(row["updated_at"]),
            "created_by_company_name": None,
        }

    def _audience_size(self, row: sqlite3.Row, rule: dict[str, Any], now: float) -> int | None:
        """None until it was processed once. Nobody visits or engages here, so other kinds stay empty."""
        if now < row["created_at"] + self._processing_s:
            return None
        if row["audience_type"] != "CUSTOMER_LIST":
            return 0
        return self._settled_size(self._row("list", row["ad_account_id"], rule["customer_list_id"]), now)
