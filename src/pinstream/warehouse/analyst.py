"""What an analyst may ask the embedded warehouse: pure, statement text in, decision out, on top of guard.py.

The embedded engine has no users, grants or profiles, and `readonly = 1` alone still lets a client read every database
and write files. So for a request of the analyst this module decides which statements, databases, table functions and
settings there are; only then `readonly = 1` is set on a connection of the request's own. On a ClickHouse server the
same is done by a role: `grants`.

Names are compared without regard to case, and a name is refused wherever it could stand for a foreign database: an
alias that is called as one is refused too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from pinstream.errors import QueryFailed
from pinstream.settings import Warehouse as Settings
from pinstream.warehouse import guard, schema
from pinstream.warehouse.guard import Statement, Token

SYSTEM_TABLES: Final = guard.names(
    "one numbers databases tables columns functions table_functions settings formats data_type_families time_zones "
    "build_options"
)
"""Those of `system` that clients ask for names and types; none holds data, or statements of others."""

TABLE_FUNCTIONS: Final = guard.names("numbers numbers_mt zeros zeros_mt generate_series generateseries values")
"""Lower case."""

LIMITS: Final[dict[str, int]] = {
    "max_execution_time": 60,
    "max_memory_usage": 1 << 30,
    "max_result_bytes": 64 << 20,
    "max_result_rows": 1_000_000,
}
"""Settings in force for every statement of an analyst, who may lower them."""

_NUMBERS: Final = guard.names(
    "limit offset max_rows_to_read max_bytes_to_read max_block_size extremes join_use_nulls "
    "use_client_time_zone output_format_json_quote_64bit_integers output_format_json_quote_denormals "
    "output_format_json_quote_decimals output_format_native_encode_types_in_binary_format "
    "output_format_native_use_flattened_dynamic_and_json_serialization output_format_write_statistics "
    "output_format_arrow_string_as_string output_format_parquet_string_as_string "
    "cast_string_to_dynamic_use_inference input_format_native_allow_types_conversion"
)
_WORDS: Final = guard.names(
    "session_timezone date_time_input_format date_time_output_format result_overflow_mode read_overflow_mode "
    "timeout_overflow_mode log_comment output_format_arrow_compression_method output_format_parquet_compression_method "
    "output_format_csv_crlf_end_of_line"
)
SETTINGS: Final = frozenset(LIMITS) | {"max_threads"} | _NUMBERS | _WORDS
"""What a request may set; anything else is refused. Grafana, clickhouse-connect and people need no more."""

MAX_SQL_BYTES: Final = 64 << 10
"""Of a statement of an analyst, and of a request's body with it: reading one takes Python's lock for its length."""

_READS: Final = frozenset({"SELECT", "WITH", "FROM", "(", "EXPLAIN", "SHOW", "DESCRIBE", "DESC", "EXISTS"})
_METADATA: Final = frozenset({"EXPLAIN", "SHOW", "DESCRIBE", "DESC", "EXISTS"})
_SHOWS: Final = frozenset({"TABLES", "COLUMNS", "FIELDS", "DATABASES", "CREATE", "FUNCTIONS"})
_LOOKUPS: Final = re.compile(r"(?:dict(?:get|has|isin)|joinget|getserversetting|filesystem).*")
"""Ordinary functions, lower case, that read tables by a name in a string, or tell about the machine."""
_END: Final = Token("", "", 0, 0)


def inspect(sql: bytes, forbidden: frozenset[str], databases: Iterable[str], own: str) -> Statement:
    """Decide on one statement of an analyst.

    `forbidden`: as for `guard.inspect`. `databases`: all that there are; `own`: the one with the views.

    Raises:
        QueryFailed: SYNTAX_ERROR if it is none, or more than one; ACCESS_DENIED if an analyst may not run it;
            QUERY_IS_TOO_LARGE above MAX_SQL_BYTES.
    """
    if len(sql) > MAX_SQL_BYTES:
        raise QueryFailed(
            f"An analyst's statement has at most {MAX_SQL_BYTES} bytes. (QUERY_IS_TOO_LARGE)",
            code=guard.QUERY_IS_TOO_LARGE,
        )
    words = list(guard.tokens(sql.decode("latin-1")))
    statement = guard.inspect(sql, forbidden | (guard.TABLE_FUNCTIONS - TABLE_FUNCTIONS), words)
    foreign = {name.lower() for name in databases} - {own.lower()} | {"system", "information_schema"}
    words += [_END, _END]
    first = words[0].upper
    if statement.kind != "read" or first not in _READS:
        raise _denied(f"An analyst reads, and does not run {first}; settings come along with the request")
    shown = [word.upper for word in words[1:3]]
    if first == "SHOW" and next((word for word in shown if word != "FULL"), "") not in _SHOWS:
        raise _denied("An analyst may SHOW TABLES, COLUMNS, DATABASES, FUNCTIONS and CREATE")
    earlier = before = _END
    for token, after, then in zip(words, words[1:], words[2:], strict=False):
        if token.name:
            _check_name(token, after, then, foreign, first)
            if token.name == "identifier" and before.kind == ":":
                raise _denied("An analyst's statement takes no parameter for a name")
            if token.upper == "SETTINGS" and not (before.kind == "." and earlier.name):
                raise _denied("An analyst's settings come along with the request, not in the statement")
        earlier, before = before, token
    return statement


def _check_name(token: Token, after: Token, then: Token, foreign: set[str], first: str) -> None:
    head, dot, _ = token.name.partition(".")
    listed = token.name == "system" and after.kind == "." and then.name in SYSTEM_TABLES
    if head in foreign and (dot or after.kind == "." or first in _METADATA) and not listed:
        tables = ", ".join(sorted(SYSTEM_TABLES))
        raise _denied(f"An analyst reads the views of the database for analysts, and of system only {tables}")
    if _LOOKUPS.fullmatch(token.name):
        raise _denied(f"An analyst does not call {token.name}")


def settings(asked: Mapping[str, str], threads: int) -> dict[str, str]:
    """The settings of a statement: LIMITS, at most `threads` threads, and what was asked for within these.

    Raises:
        QueryFailed: ACCESS_DENIED for a setting that is not in SETTINGS; SETTING_CONSTRAINT_VIOLATION for a value above
            a limit, or none of its kind.
    """
    limits = {**LIMITS, "max_threads": threads}
    granted = {name: str(limit) for name, limit in limits.items()}
    for name, value in asked.items():
        if name not in SETTINGS:
            raise _denied(f"An analyst may not set {name}, only {', '.join(sorted(SETTINGS))}")
        limit = limits.get(name, (1 << 63) - 1)
        least = 1 if name in limits else 0
        fits = _WORD.fullmatch(value) if name in _WORDS else _NUMBER.fullmatch(value) and least <= int(value) <= limit
        if not fits:
            raise QueryFailed(
                f"Setting {name} of an analyst is {'a word' if name in _WORDS else f'{least} to {limit}'}. "
                "(SETTING_CONSTRAINT_VIOLATION)",
                code=guard.SETTING_CONSTRAINT_VIOLATION,
            )
        granted[name] = value
    return granted


_WORD: Final = re.compile(r"[\w/+: .,=-]{1,200}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def database(asked: str, own: str) -> str:
    """The current database of a statement. Raises QueryFailed if another one than the analyst's was asked for."""
    if asked not in ("", own):
        raise _denied(f"An analyst's database is {own}, not {asked}")
    return own


def grants(warehouse: Settings) -> str:
    """SQL for the administrator of a ClickHouse server: the role `pinstream_analyst` and a user of it.

    `readonly = 2`, because Grafana's plugin and others set `max_execution_time` themselves; the constraints hold all
    the same. The views read with the rights of the user that pinstream works as.
    """
    user, own, on = warehouse.analyst_user, schema.analytics_database(warehouse), schema.on_cluster(warehouse)
    limits = ",\n    ".join(f"{name} = {limit} MIN 1 MAX {limit}" for name, limit in LIMITS.items())
    return f"""\
CREATE SETTINGS PROFILE IF NOT EXISTS pinstream_analyst{on} SETTINGS
    readonly = 2 CONST,
    allow_introspection_functions = 0 CONST,
    max_concurrent_queries_for_user = 8 CONST,
    {limits};

CREATE ROLE IF NOT EXISTS pinstream_analyst{on} SETTINGS PROFILE 'pinstream_analyst';

GRANT{on} SELECT, SHOW ON {own}.* TO pinstream_analyst;

CREATE QUOTA IF NOT EXISTS pinstream_analyst{on} FOR INTERVAL 1 hour MAX queries = 5000, execution_time = 3600
    TO pinstream_analyst;

-- a password of your own in the place of the question mark
CREATE USER IF NOT EXISTS {user}{on} IDENTIFIED BY '?' DEFAULT DATABASE {own};

GRANT{on} pinstream_analyst TO {user};
"""


def _denied(sentence: str) -> QueryFailed:
    return QueryFailed(f"{sentence}. See docs/analysts.md. (ACCESS_DENIED)", code=guard.ACCESS_DENIED)
