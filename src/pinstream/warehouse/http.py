"""ClickHouse's HTTP interface in front of the embedded engine, as ClickHouse's own clients and curl expect it.

Statement in the body, or in `query` with its data in the body; `database`, `param_*`, `session_id`, `query_id`,
`default_format`; every other parameter is a setting of that statement. Errors carry ClickHouse's exception code,
text and status. Reference: ClickHouse documentation, "HTTP Interface".
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import gzip
import hmac
import json
import os
import re
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Final, NamedTuple, Protocol

import lz4.frame
import zstandard
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pinstream.errors import QueryFailed
from pinstream.warehouse import analyst, guard, native
from pinstream.warehouse.guard import Statement

MAX_BODY_BYTES: Final = 256 << 20
"""Of a request, before and after decompression; of an analyst's, analyst.MAX_SQL_BYTES."""
MAX_READS: Final = 12
MAX_WRITES: Final = 4
MAX_ANALYST_READS: Final = 4
"""Statements at a time; more wait, and slow reads never keep inserts out, nor an analyst's the others. Analysts have
threads of their own."""
ANALYST_THREADS: Final = max(1, (os.cpu_count() or 1) // MAX_ANALYST_READS)
"""Of the engine, for one statement of an analyst: all of them together ask for no more than the machine has cores."""
WAIT_S: Final = 60.0
"""Longest wait for a turn, and for a request's body."""
MAX_SESSION_TIMEOUT_S: Final = 3600

_QUERY_ID: Final = re.compile(r"[ -~]{0,256}")
"""It comes back in a header."""
_NOT_SETTINGS: Final = frozenset(
    {
        *("query", "database", "default_format", "query_id", "user", "password", "quota_key", "role", "readonly"),
        *("session_id", "session_timeout", "session_check", "close_session", "stacktrace"),
        *("compress", "decompress", "enable_http_compression", "http_zlib_compression_level"),
        *("buffer_size", "wait_end_of_query", "client_protocol_version", "add_http_cors_header"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms"),
        "cancel_http_readonly_queries_on_client_close",
    }
)
_STATUS: Final[dict[int, int]] = {
    **dict.fromkeys((194,), 401),
    **dict.fromkeys((192, 193, 497, 516), 403),
    **dict.fromkeys((6, 25, 26, 27, 36, 38, 41, 44, 53, 62, 72, 117, 164, 427, 457), 400),
    **dict.fromkeys((16, 46, 47, 50, 56, 60, 63, 73, 81, 115, 372), 404),
    159: 408,
    307: 413,
    48: 501,
    202: 503,
}
"""ClickHouse's exception codes that do not answer 500 (its HTTPHandler)."""

_TYPES: Final = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "JSONCompactEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
}
_PACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "zstd": lambda body: zstandard.ZstdCompressor(level=1).compress(body),
    "lz4": lz4.frame.compress,
    "gzip": lambda body: gzip.compress(body, 1),
    "deflate": lambda body: zlib.compress(body, 1),
}


class Call(NamedTuple):
    """One statement with everything that came along."""

    statement: Statement
    data: bytes
    """Of an INSERT ... FORMAT."""
    database: str
    settings: Mapping[str, str]
    params: Mapping[str, str]
    """For {name:Type} in the statement, escaped as in a TabSeparated file, as ClickHouse wants them."""
    output_format: str
    session_id: str = ""
    session_timeout_s: float = 60
    session_must_exist: bool = False
    read_only: bool = False
    """Nothing may be set any more once its settings are."""


class Outcome(NamedTuple):
    """What came of a statement."""

    body: bytes
    read_rows: int
    read_bytes: int
    written_rows: int
    result_rows: int
    elapsed_ns: int


class Engine(Protocol):
    """What runs statements: `embedded.Engine`."""

    version: str
    timezone: str
    forbidden: frozenset[str]

    def run(self, call: Call) -> Outcome:
        """Run to the end, blocking. Raises QueryFailed with ClickHouse's code."""

    def databases(self) -> list[str]:
        """Their names."""


class Analyst(NamedTuple):
    """Who may read the views for analysts, and nothing else."""

    user: str
    password: str
    database: str


class _Request(NamedTuple):
    """A request, taken apart."""

    sql: bytes
    values: Mapping[str, str]
    """Parameters of the address and of a form; settings too."""
    read_only: bool
    default_format: str
    encoding: str
    """Compression of the answer; empty for none."""


class Interface:
    """The one endpoint."""

    def __init__(
        self, engine: Engine, threads: Executor, analysts: Executor, *, user: str, password: str, analyst: Analyst
    ) -> None:
        self._engine = engine
        self._threads = threads
        self._analysts = analysts
        self._users = {user, "default"}
        self._password = password.encode()
        self._analyst = analyst
        self._turns = {
            "read": asyncio.Semaphore(MAX_READS),
            "write": asyncio.Semaphore(MAX_WRITES),
            "analyst": asyncio.Semaphore(MAX_ANALYST_READS),
        }

    async def query(self, request: Request) -> Response:
        """`/` with whatever comes."""
        if request.method == "GET" and not request.url.query:
            return await _ok(request)
        query_id = request.query_params.get("query_id", "")
        try:
            if not _QUERY_ID.fullmatch(query_id):
                query_id = ""
                raise QueryFailed("query_id is at most 256 printable ASCII characters. (BAD_ARGUMENTS)", code=36)
            answer = self._answer_analyst if self._authenticate(request) else self._answer
            response = await answer(request)
        except QueryFailed as exc:
            response = self._failure(exc)
        response.headers["X-ClickHouse-Server-Display-Name"] = "pinstream"
        response.headers["X-ClickHouse-Query-Id"] = query_id or str(uuid.uuid4())
        response.headers["X-ClickHouse-Timezone"] = self._engine.timezone
        return response

    def _authenticate(self, request: Request) -> bool:
        """Whether it is the analyst."""
        user, password = _credentials(request)
        if not user and not password:
            raise QueryFailed("The warehouse wants a user and a password. (REQUIRED_PASSWORD)", code=194)
        if user == self._analyst.user and hmac.compare_digest(password.encode(), self._analyst.password.encode()):
            return True
        if not hmac.compare_digest(password.encode(), self._password) or (user or "default") not in self._users:
            raise QueryFailed(
                f"{user}: Authentication failed: password is incorrect, or there is no user with such name. "
                "The embedded warehouse keeps its password in <data_dir>/warehouse.password, the analyst's in "
                "<data_dir>/analyst.password. (AUTHENTICATION_FAILED)",
                code=516,
            )
        return False

    async def _answer(self, request: Request) -> Response:
        asked = await self._in_thread(_unpack, request, await _body(request, MAX_BODY_BYTES), MAX_BODY_BYTES)
        call: Call = await self._in_thread(_call, asked, self._engine.forbidden)
        kind = call.statement.kind
        async with self._turn("write" if kind == "write" else "read"):
            outcome: Outcome = await self._in_thread(self._engine.run, call)
        response: Response = await self._in_thread(
            _success, outcome, call.output_format if kind == "read" else "", asked
        )
        return response

    async def _answer_analyst(self, request: Request) -> Response:
        """In a turn, and on threads, that only analysts have: from reading the statement to packing the answer."""
        body = await _body(request, analyst.MAX_SQL_BYTES)
        async with self._turn("analyst"):
            return await asyncio.get_running_loop().run_in_executor(
                self._analysts, self._analysts_answer, request, body
            )

    def _analysts_answer(self, request: Request, body: bytes) -> Response:
        asked = _unpack(request, body, analyst.MAX_SQL_BYTES)
        call = _analyst_call(asked, self._engine, self._analyst)
        return _success(self._engine.run(call), call.output_format, asked)

    async def _in_thread(self, function: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    @asynccontextmanager
    async def _turn(self, kind: str) -> AsyncIterator[None]:
        try:
            await asyncio.wait_for(self._turns[kind].acquire(), WAIT_S)
        except TimeoutError:
            sentence = f"Too many simultaneous queries: no turn within {WAIT_S:.0f} s. (TOO_MANY_SIMULTANEOUS_QUERIES)"
            raise QueryFailed(sentence, code=202) from None
        try:
            yield
        finally:
            self._turns[kind].release()

    def _failure(self, exc: QueryFailed) -> Response:
        text = f"Code: {exc.code}. DB::Exception: {exc} (version {self._engine.version})\n"
        headers = {"X-ClickHouse-Exception-Code": str(exc.code)}
        if exc.code == 194:
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        return PlainTextResponse(text, _STATUS.get(exc.code, 500), headers)


def app(interface: Interface) -> Starlette:
    """The routes."""
    return Starlette(
        routes=[
            Route("/", interface.query, methods=["GET", "POST"]),
            Route("/ping", _ok),
            Route("/replicas_status", _ok),
        ]
    )


async def _ok(request: Request) -> Response:
    return PlainTextResponse("Ok.\n")


def _credentials(request: Request) -> tuple[str, str]:
    """User and password, from ClickHouse's headers, Basic auth or the address."""
    headers, query = request.headers, request.query_params
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        return headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", "")
    scheme, _, basic = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(basic, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise QueryFailed("Authorization is not valid Basic auth. (AUTHENTICATION_FAILED)", code=516) from None
        return user, password
    return query.get("user", ""), query.get("password", "")


async def _body(request: Request, cap: int) -> bytes:
    """The body as sent, at most `cap` bytes of it, within WAIT_S."""
    if int(request.headers.get("content-length") or 0) > cap:
        raise _too_large(cap)
    body = bytearray()
    try:
        async with asyncio.timeout(WAIT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > cap:
                    raise _too_large(cap)
    except TimeoutError:
        raise QueryFailed(f"The body did not arrive within {WAIT_S:.0f} s. (SOCKET_TIMEOUT)", code=209) from None
    except ClientDisconnect:
        raise QueryFailed("The client went away. (NETWORK_ERROR)", code=210) from None
    return bytes(body)


def _unpack(request: Request, body: bytes, cap: int) -> _Request:
    values = dict(request.query_params)
    if values.get("compress", "0") != "0" or values.get("decompress", "0") != "0":
        raise QueryFailed(
            "compress=1 and decompress=1 (ClickHouse's own block format) are not offered here: use Content-Encoding, "
            "and Accept-Encoding with enable_http_compression=1. (NOT_IMPLEMENTED)",
            code=48,
        )
    encoding = request.headers.get("content-encoding", "")
    body = _decompressed(body, encoding.lower(), cap) if encoding else body
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        values, body = {**values, **_form(content_type, body)}, b""
    query = values.get("query", "").encode()
    return _Request(
        query + b"\n" + body if query and body else query or body,
        values,
        request.method == "GET" or values.get("readonly", "0") != "0",
        request.headers.get("x-clickhouse-format") or values.get("default_format") or "TabSeparated",
        _encoding(request.headers.get("accept-encoding", "")) if values.get("enable_http_compression") == "1" else "",
    )


def _decompressed(body: bytes, encoding: str, cap: int) -> bytes:
    """Undo Content-Encoding, stopping at `cap` bytes whatever the data claim."""
    try:
        if encoding in ("gzip", "deflate"):
            plain = zlib.decompressobj(47 if encoding == "gzip" else 15).decompress(body, cap + 1)
        elif encoding == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True) as reader:
                plain = reader.read(cap + 1)
        elif encoding == "lz4":
            plain = lz4.frame.LZ4FrameDecompressor().decompress(body, cap + 1)
        else:
            raise QueryFailed(
                f"Unknown compression {encoding}: use gzip, deflate, lz4 or zstd. (NOT_IMPLEMENTED)", code=48
            )
    except (zlib.error, zstandard.ZstdError, RuntimeError, EOFError) as exc:
        raise QueryFailed(f"The body is not valid {encoding}: {exc}. (CANNOT_DECOMPRESS)", code=271) from exc
    if len(plain) > cap:
        raise _too_large(cap)
    return plain


def _too_large(cap: int) -> QueryFailed:
    return QueryFailed(f"A request holds at most {cap} bytes. (QUERY_IS_TOO_LARGE)", code=guard.QUERY_IS_TOO_LARGE)


def _form(content_type: str, body: bytes) -> dict[str, str]:
    """Plain fields of a form; files would be external tables, which are not offered."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    values = {}
    for part in message.iter_parts():
        if part.get_filename():
            raise QueryFailed("External data in a form is not offered here. (NOT_IMPLEMENTED)", code=48)
        payload = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        try:
            values[str(name)] = payload.decode() if isinstance(payload, bytes) else ""
        except UnicodeDecodeError:
            raise QueryFailed(f"Field {name} of the form is not UTF-8. (BAD_ARGUMENTS)", code=36) from None
    return values


def _call(asked: _Request, forbidden: frozenset[str]) -> Call:
    """Look at the statement. Raises QueryFailed if it may not run, or not in this way."""
    statement = guard.inspect(asked.sql, forbidden)
    if asked.read_only and statement.kind == "write":
        raise QueryFailed(
            "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly: use POST. "
            "(READONLY)",
            code=guard.READONLY,
        )
    values, settings = asked.values, _settings(asked.values)
    for name, value in settings.items():
        guard.check_setting(name, value)
    return Call(
        statement,
        asked.sql[statement.data_at :] if statement.data_at >= 0 else b"",
        values.get("database", ""),
        settings,
        _params(values),
        statement.output_format or asked.default_format,
        values.get("session_id", ""),
        _session_timeout_s(values.get("session_timeout", "60")),
        values.get("session_check") == "1",
    )


def _analyst_call(asked: _Request, engine: Engine, reader: Analyst) -> Call:
    """The same for an analyst, whose statements leave no mark, so that they need no session."""
    values = asked.values
    database = analyst.database(values.get("database", ""), reader.database)
    settings = analyst.settings(_settings(values), ANALYST_THREADS)
    statement = analyst.inspect(asked.sql, engine.forbidden, engine.databases(), reader.database)
    output_format = statement.output_format or asked.default_format
    return Call(statement, b"", database, settings, _params(values), output_format, read_only=True)


def _settings(values: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in values.items() if name not in _NOT_SETTINGS and not name.startswith("param_")
    }


def _params(values: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix("param_"): value for name, value in values.items() if name.startswith("param_")}


def _session_timeout_s(text: str) -> float:
    if not text.isdecimal() or int(text) > MAX_SESSION_TIMEOUT_S:
        raise QueryFailed(f"session_timeout is 0 to {MAX_SESSION_TIMEOUT_S} seconds. (BAD_ARGUMENTS)", code=36)
    return float(text)


def _protocol_version(values: Mapping[str, str]) -> int:
    text = values.get("client_protocol_version", "0")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0


def _encoding(accepts: str) -> str:
    """The first encoding of Accept-Encoding that is known here."""
    names = (part.partition(";")[0].strip().lower() for part in accepts.split(","))
    return next((name for name in names if name in _PACK), "")


def _success(outcome: Outcome, output_format: str, asked: _Request) -> Response:
    """The answer; `output_format` is empty for a statement that has no result."""
    summary = {
        "read_rows": outcome.read_rows,
        "read_bytes": outcome.read_bytes,
        "written_rows": outcome.written_rows,
        "written_bytes": 0,
        "total_rows_to_read": 0,
        "result_rows": outcome.result_rows,
        "result_bytes": len(outcome.body),
        "elapsed_ns": outcome.elapsed_ns,
    }
    headers = {"X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in summary.items()})}
    if output_format:
        headers["X-ClickHouse-Format"] = output_format
    body = outcome.body
    if output_format == "Native" and _protocol_version(asked.values) >= native.CUSTOM_SERIALIZATION:
        body = native.for_client(body)
    if asked.encoding and body:
        body, headers["Content-Encoding"] = _PACK[asked.encoding](body), asked.encoding
    return Response(body, headers=headers, media_type=_TYPES.get(output_format, "text/plain; charset=UTF-8"))
