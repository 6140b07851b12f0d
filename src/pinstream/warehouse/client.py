"""The warehouse as the rest of pinstream sees it: ClickHouse over HTTP, a real server or the embedded engine alike.

The only importer of clickhouse_connect. Its client is synchronous, so calls run in a few threads of their own and
share its pool of connections. Whatever goes wrong leaves here as WarehouseAway (the same call may succeed later) or
as QueryFailed (it will not).
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import clickhouse_connect
import lz4.frame
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httputil import get_pool_manager
from urllib3.exceptions import HTTPError

from pinstream.errors import Misconfigured, PinstreamError, QueryFailed, WarehouseAway
from pinstream.settings import Warehouse as WarehouseSettings

CALLS: Final = 6
"""Calls at a time; more wait."""
CONNECT_TIMEOUT_S: Final = 5
COMPRESS_FROM_BYTES: Final = 64 << 10
"""Smaller bodies are sent as they are, and so is everything that stays on this machine."""

INSERT_SETTINGS: Final[dict[str, Any]] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "date_time_input_format": "best_effort",
    "input_format_skip_unknown_fields": 0,
    "input_format_json_read_objects_as_strings": 1,
    # One body is one block in the records' order: the token covers a block, so a body cut in two would be two tokens.
    "input_format_parallel_parsing": 0,
    "max_insert_block_size": 10_000_000,
    "min_insert_block_size_rows": 10_000_000,
    "min_insert_block_size_bytes": 1 << 30,
    # A quarter of an insert's time, measured with eight views: they run side by side, and what a view has grouped
    # already is not merged again before it is written.
    "parallel_view_processing": 1,
    "optimize_on_insert": 0,
}

TRANSIENT: Final = frozenset({202, 209, 210, 242, 252, 279, 319, 999})
"""Codes after which the same call may succeed: TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR,
TABLE_IS_READ_ONLY, TOO_MANY_PARTS, ALL_CONNECTION_TRIES_FAILED, UNKNOWN_STATUS_OF_INSERT, KEEPER_EXCEPTION."""
MEMORY_LIMIT_EXCEEDED: Final = 241
_WRONG_LOGIN: Final = frozenset({192, 193, 194, 516})

_T = TypeVar("_T")


class Warehouse:
    """One database of one ClickHouse. Safe for any number of tasks; CALLS of them are served at a time."""

    def __init__(self, settings: WarehouseSettings, *, password: str) -> None:
        """Connects at the first call; neither server nor database need to be there yet.

        Raises:
            Misconfigured: warehouse.url is not an address.
        """
        url = urlsplit(settings.url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise Misconfigured(f"warehouse.url must be http://host:port or https://host:port, not {settings.url!r}.")
        self.settings = settings
        self.database = settings.database
        self._url = url
        self._password = password
        self._local = url.hostname in ("127.0.0.1", "::1", "localhost")
        self._threads = ThreadPoolExecutor(CALLS, "clickhouse")
        self._opening = threading.Lock()
        self._client: Any = None
        self._pool = get_pool_manager(maxsize=CALLS, num_pools=1)
        for name in ("clickhouse_connect", "urllib3.connectionpool"):  # they warn of each failure that is also raised
            logging.getLogger(name).setLevel(logging.ERROR)

    @classmethod
    def open(cls, settings: WarehouseSettings, *, password: str) -> Warehouse:
        """As the constructor."""
        return cls(settings, password=password)

    async def insert(self, table: str, columns: Sequence[str], body: bytes, *, token: str) -> None:
        """Insert JSON objects, one a line, as one block. Returns once it is in the table and all its views.

        Repeating a call with the same token and body is harmless: what was applied is dropped, what was half applied
        is completed. The token alone decides, so never use it for other rows.

        Raises:
            WarehouseAway: may or may not have been applied; repeat it with the same token.
            QueryFailed: not applied; the same body will be refused again.
        """
        packed = len(body) >= COMPRESS_FROM_BYTES and not self._local

        def call(client: Any) -> None:
            client.raw_insert(
                f"{self.database}.{table}",
                columns,
                lz4.frame.compress(body) if packed else body,
                settings={**INSERT_SETTINGS, "insert_deduplication_token": token},
                fmt="JSONEachRow",
                compression="lz4" if packed else None,
            )

        await self._run(call)

    async def select(
        self, sql: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Rows as dictionaries: DateTime as aware datetime, FixedString as bytes, Decimal as Decimal.

        `params` fill `{name:Type}` in the statement, on the server.
        """

        def call(client: Any) -> list[dict[str, Any]]:
            result = client.query(sql, parameters=_bound(params), settings=dict(settings or {}))
            return list(result.named_results())

        return await self._run(call)

    async def select_bytes(self, sql: str, params: Mapping[str, Any] | None = None, fmt: str = "JSONEachRow") -> bytes:
        """The result in one of ClickHouse's formats."""
        return await self._run(lambda client: bytes(client.raw_query(sql, parameters=_bound(params), fmt=fmt)))

    async def command(
        self, sql: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Run a statement that has no result."""
        await self._run(lambda client: client.command(sql, parameters=_bound(params), settings=dict(settings or {})))

    async def create_database(self) -> None:
        """Make our database if it is missing; the one call that works without it."""
        cluster = f" ON CLUSTER `{self.settings.cluster}`" if self.settings.mode == "cluster" else ""
        sql = f"CREATE DATABASE IF NOT EXISTS {self.database}{cluster}"
        await self._run(lambda client: client.command(sql, use_database=False))

    async def ping(self) -> None:
        """Return if the warehouse answers and lets us in. Raises WarehouseAway or QueryFailed."""
        await self._run(lambda client: client.command("SELECT 1", use_database=False))

    async def aclose(self) -> None:
        """Close the connections. Calls that still run are left to their time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.clear()

    async def _run(self, call: Callable[[Any], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._guarded, call)

    def _guarded(self, call: Callable[[Any], _T]) -> _T:
        try:
            return call(self._connected())
        except (ClickHouseError, HTTPError, OSError) as exc:
            raise self._translated(exc) from exc

    def _connected(self) -> Any:
        """The client; made at first use, because clickhouse_connect asks the server for its version and settings."""
        with self._opening:
            if self._client is None:
                client = clickhouse_connect.get_client(
                    interface=self._url.scheme,
                    host=self._url.hostname,
                    port=self._url.port or (8443 if self._url.scheme == "https" else 8123),
                    username=self.settings.user,
                    password=self._password,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    send_receive_timeout=int(self.settings.query_timeout_s),
                    compress=not self._local,
                    autogenerate_session_id=False,
                    query_retries=0,
                    tz_mode="aware",
                    client_name="pinstream",
                    pool_mgr=self._pool,
                )
                client.database = self.database  # not above: it need not exist yet
                self._client = client
            return self._client

    def _translated(self, exc: Exception) -> PinstreamError:
        """The one place where what can go wrong gets its name."""
        code = getattr(exc, "code", None) or 0
        text = _sentence(str(exc))
        if code in _WRONG_LOGIN:
            return QueryFailed(
                f"ClickHouse refuses user {self.settings.user!r}. Set warehouse.user and .password.", code=code
            )
        if code:
            others = code == MEMORY_LIMIT_EXCEEDED and "(total)" in text  # what all statements have together
            return WarehouseAway(text) if others or code in TRANSIENT else QueryFailed(text, code=code)
        status = re.search(r"HTTP status (\d{3})", text)
        if isinstance(exc, HTTPError | OSError) or (status and status[1] >= "500") or _is_transport(exc):
            return WarehouseAway(f"ClickHouse at {self.settings.url} does not answer ({_cause(exc)}). Is it running?")
        return QueryFailed(text)


def _is_transport(exc: BaseException) -> bool:
    """clickhouse_connect wraps what urllib3 raises."""
    return isinstance(exc.__cause__, HTTPError | OSError)


def _cause(exc: BaseException) -> str:
    """The last link of the chain, which names the fault of the network."""
    while isinstance(inner := exc.__cause__ or getattr(exc, "reason", None), BaseException):
        exc = inner
    return str(exc).rpartition(": ")[2][:200]


def _sentence(text: str) -> str:
    """ClickHouse's own words out of clickhouse_connect's: no address, no version."""
    text = re.sub(
        r"^Received ClickHouse exception, code: \d+, server response: (Code: \d+\. DB::Exception: )?", "", text
    )
    return re.sub(r"\s*(\(version [^)]*\))?\s*\(for url [^)]*\)\s*$", "", text)[:2000]


def _bound(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return dict(params) if params else None
