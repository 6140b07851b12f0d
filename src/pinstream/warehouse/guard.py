"""What the embedded warehouse lets through: pure, statement text in, decision out.

chDB is ClickHouse inside our own process, with our own user's rights and no users, grants or sandbox of its
own: `file()` reads any file, `url()` calls any host, and creating a Kafka table leaves a data folder that can
never be opened again. So every statement is read here first, by the rules of ClickHouse's own lexer (strings
with backslashes and doubled quotes, heredocs, nested comments, `--`, `//` and `#` comments), and is refused
unless it is of a known kind, with known engines and known table functions. Where this lexer and ClickHouse's
could differ, the text is read in the way that refuses more.

Refusals are `QueryFailed` with the exception code that ClickHouse would use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from pinstream.errors import QueryFailed

SYNTAX_ERROR: Final = 62
READONLY: Final = 164
QUERY_IS_TOO_LARGE: Final = 307
ACCESS_DENIED: Final = 497
SETTING_CONSTRAINT_VIOLATION: Final = 452

MAX_SQL_BYTES: Final = 1 << 20
"""Of a statement's text without its data; the values of INSERT ... VALUES count as text."""


MAX_QUERY_MEMORY_BYTES: Final = 2 << 30
MAX_RESULT_BYTES: Final = 512 << 20
"""Of one answer, uncompressed: it is put together in memory."""
CAPS: Final[dict[str, int]] = {
    "max_memory_usage": MAX_QUERY_MEMORY_BYTES,
    "max_result_bytes": MAX_RESULT_BYTES,
    "max_untracked_memory": 4 << 20,
}
"""Settings that a client may lower, and neither raise nor lift: 1 up to this, as plain digits."""


def names(text: str) -> frozenset[str]:
    """The words of `text`."""
    return frozenset(text.split())


ENGINES: Final = frozenset(
    f"{prefix}MergeTree" for prefix in ("", "Replacing", "Aggregating", "Summing", "Collapsing", "Coalescing")
) | {"VersionedCollapsingMergeTree", "Memory", "Null", "Log", "TinyLog", "StripeLog", "View", "MaterializedView"}
DATABASE_ENGINES: Final = frozenset({"Atomic", "Memory"})

TABLE_FUNCTIONS: Final = names(
    "numbers numbers_mt zeros zeros_mt primes generate_series generateseries generaterandom values "
    "view null merge dictionary"
)
"""Those that touch nothing but memory and tables; lower case."""

KNOWN_TABLE_FUNCTIONS: Final = TABLE_FUNCTIONS | names(
    "sqlstandardvalues arrowstream azureblobstorage azureblobstoragecluster bigquery cluster clusterallreplicas cosn "
    "deltalake deltalakeazure deltalakeazurecluster deltalakecluster deltalakelocal deltalakes3 deltalakes3cluster "
    "eval executable file filecluster filesystem format fuzzjson fuzzquery gcs hdfs hdfscluster hive hudi hudicluster "
    "iceberg icebergazure icebergazurecluster icebergcluster iceberghdfs iceberghdfscluster iceberglocal "
    "iceberglocalcluster icebergs3 icebergs3cluster input jdbc loop mergetreeanalyzeindexes "
    "mergetreeanalyzeindexesuuid mergetreecodecblockcounts mergetreeindex mergetreeprojection mergetreetextindex "
    "meilisearch mongodb mysql odbc oss paimon paimonazure paimonazurecluster paimoncluster paimonhdfs "
    "paimonhdfscluster paimonlocal paimons3 paimons3cluster postgresql prometheusquery prometheusqueryrange python "
    "redis remote remotesecure s3 s3cluster sqlite timeseriesdata timeseriesmetricfamilies timeseriesmetrics "
    "timeseriessamples timeseriesselector timeseriestags url urlcluster viewexplain viewifpermitted ytsaurus"
)

_STRUCTURED: Final = frozenset({"values", "generaterandom", "null"})
"""Table functions whose first argument is a list of columns in a string, where DEFAULT would hide an expression."""

_FUNCTIONS: Final = names(
    "file hascolumnintable showcertificate catboostevaluate aiclassify aiembed aiextract aifilter aigenerate airedact "
    "aisimilarity aitranslate generateembedding"
)
"""Ordinary functions that read files or call hosts. Refused as a bare name too: arrayMap(file, ...) calls them."""

_SETTINGS: Final = re.compile(
    r"(?i)(?:.*_)?dialect|additional_(?:table_filters|result_filter)|parallel_replicas_custom_key.*|format_schema.*"
    r"|format_template_.*|format_avro_schema_registry_url|output_format_schema|input_format_record_errors_file_path"
    r"|allow_experimental_eval_table_function|allow_python_table_function|ast_fuzzer.*|ai_function.*|url_base"
    r"|rename_files_after_processing|profile|max_memory_usage_for_user"
)
"""Settings that hold SQL, name files or hosts, change the language that this module reads, or set other settings."""

_READS: Final = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "("})
_WRITES: Final = names("INSERT CREATE REPLACE ALTER DROP TRUNCATE OPTIMIZE RENAME EXCHANGE DELETE UPDATE UNDROP SYSTEM")
_SESSION: Final = frozenset({"SET", "USE"})
_KNOWN_BUT_REFUSED: Final = names(
    "ATTACH DETACH BACKUP RESTORE KILL GRANT REVOKE EXECUTE MOVE IMPORT COPY BEGIN COMMIT ROLLBACK WATCH"
)
_CREATES: Final = frozenset({"TABLE", "TEMPORARY", "VIEW", "MATERIALIZED", "DATABASE", "FUNCTION"})
_SYSTEM: Final = re.compile(
    r"(?:FLUSH LOGS|(?:REFRESH|WAIT) VIEW|RELOAD DICTIONAR(?:Y|IES)|(?:DROP|CLEAR) [A-Z ]*CACHE)\b"
)
"""Those that stop nothing for others."""
_OWN_DATABASES: Final = frozenset({"system", "information_schema"})
"""The engine's own: without their tables no statement runs any more, for anybody."""
_LASTING_DATABASES: Final = _OWN_DATABASES | {"default"}
"""Without `default` no connection opens any more."""
_REMAKES: Final = names("DROP RENAME EXCHANGE TRUNCATE UNDROP")
_CLAUSES: Final = names("SELECT WHERE PREWHERE GROUP ORDER HAVING LIMIT ON USING SETTINGS UNION QUALIFY WINDOW FORMAT")

Kind = Literal["read", "write", "session"]


class Statement(NamedTuple):
    """One statement that may run."""

    kind: Kind
    output_format: str
    """Of a FORMAT clause; empty if there is none, and for an INSERT with data."""
    insert_format: str
    """Format of the data of an INSERT ... FORMAT; empty for every other statement."""
    head: bytes
    """What the engine gets: the whole text; of an INSERT ... FORMAT what comes before SETTINGS and FORMAT."""
    settings: bytes
    """The SETTINGS clause of an INSERT ... FORMAT."""
    data_at: int
    """Where an INSERT's data begins; -1 if it has none."""


class Token(NamedTuple):
    """One lexeme; `kind` is word, quoted (an identifier in quotes), string, number or the sign itself."""

    kind: str
    text: str
    begin: int
    end: int

    @property
    def upper(self) -> str:
        """The keyword it may be, or its sign; a quoted identifier is never a keyword."""
        return self.text.upper() if self.kind == "word" else self.kind

    @property
    def name(self) -> str:
        """The identifier it may be, lower case; empty for anything else."""
        return self.text.lower() if self.kind in ("word", "quoted") else ""


_NOTHING: Final = Token("", "", 0, 0)
_INERT: Final = frozenset({"number", "string", ","})
"""What no rule looks at outside a list of columns in a string; most of INSERT ... VALUES."""

_LEXEME: Final = re.compile(
    r"""
      (?P<fancy>\xe2\x80[\x98\x99\x9c\x9d])
    | (?P<gap>(?:(?!\xe2\x80[\x98\x99\x9c\x9d])[\x00-\x20\x7f-\xff])+ | (?:--|//|\#)[^\n]*)
    | (?P<comment>/\*)
    | (?P<word>[A-Za-z_][\w$]*)
    | (?P<number>[0-9][\w$]*)
    | '(?P<string>(?:[^'\\]++|\\.|'')*+)'
    | (?P<quote>["`])(?P<quoted>(?:(?!(?P=quote))[^\\]|\\.|(?P=quote){2})*+)(?P=quote)
    | (?P<dollar>\$\w*\$?)
    | (?P<sign>[^'"`])
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


def tokens(sql: str) -> Iterator[Token]:
    """The lexemes of `sql`, which is the statement's bytes read as Latin-1, so that offsets are those of the bytes."""
    at = 0
    while at < len(sql):
        match = _LEXEME.match(sql, at)
        if match is None:
            raise _syntax(f"a quote at position {at + 1} is not closed")
        kind, begin, at = match.lastgroup or "", at, match.end()
        if kind == "comment":
            at = _end_of_comment(sql, at)
        elif kind == "fancy":
            raise _syntax(f"typographic quotes at position {begin + 1} are not taken here; use ' or \"")
        elif match["quote"]:
            yield Token("quoted", _unquoted(match["quoted"], match["quote"]), begin, at)
        elif kind == "dollar":
            end = _end_of_heredoc(sql, match[0], at)
            yield Token("string", sql[at:end], begin, end + len(match[0]))
            at = end + len(match[0])
        elif match["string"] is not None:
            yield Token("string", match["string"], begin, at)
        elif kind != "gap":
            yield Token(match["sign"] or kind, match[0], begin, at)


def _end_of_comment(sql: str, at: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(sql, at)
        if edge is None:
            raise _syntax("a comment is not closed")
        depth, at = depth + (1 if edge[0] == "/*" else -1), edge.end()
    return at


def _end_of_heredoc(sql: str, tag: str, at: int) -> int:
    """Where `tag` comes again. Not to find it ends the reading: no text is searched for one tag after the other."""
    end = sql.find(tag, at) if len(tag) > 1 and tag[-1] == "$" else -1
    if end < 0:
        raise _syntax(f"{tag[:50]} at position {at - len(tag) + 1} opens a text that is not closed")
    return end


def _unquoted(text: str, quote: str) -> str:
    if "\\" in text:
        raise _denied("A backslash inside a quoted name is not taken by the embedded warehouse.")
    return text.replace(quote * 2, quote)


def forbidden_calls(engine_knows: Iterable[str] = ()) -> frozenset[str]:
    """The table functions to refuse: all that are known here or to the engine, except the harmless ones."""
    return (KNOWN_TABLE_FUNCTIONS | {name.lower() for name in engine_knows}) - TABLE_FUNCTIONS


def check_setting(name: str, value: str) -> None:
    """Raise QueryFailed if a setting from outside could lead around this module, or lifts one of CAPS."""
    name = name.lower()
    if _SETTINGS.fullmatch(name):
        raise _denied(f"The embedded warehouse does not take the setting {name}.")
    cap = CAPS.get(name)
    if cap is not None and not (re.fullmatch(r"[0-9]{1,18}", value) and 0 < int(value) <= cap):
        raise QueryFailed(
            f"Setting {name} is 1 to {cap} in the embedded warehouse. (SETTING_CONSTRAINT_VIOLATION)",
            code=SETTING_CONSTRAINT_VIOLATION,
        )


def check_database(statement: Statement, database: str) -> None:
    """Raise QueryFailed if `statement` writes while `database` is one of the engine's own."""
    if statement.kind == "write" and database.lower() in _OWN_DATABASES:
        raise _denied(f"The embedded warehouse does not write while {database} is the current database.")


def inspect(sql: bytes, forbidden: frozenset[str] | None = None, words: Iterable[Token] | None = None) -> Statement:
    """Decide on one statement, with the data of an INSERT behind it.

    `forbidden`: from `forbidden_calls`. `words`: its `tokens`, from a caller who has them. Data in a format is not
    looked at; VALUES are, for they may hold expressions.

    Raises:
        QueryFailed: SYNTAX_ERROR if it is none, or more than one; ACCESS_DENIED if it must not run.
    """
    words = tokens(sql[:MAX_SQL_BYTES].decode("latin-1")) if words is None else words
    return _Reader(sql, forbidden_calls() if forbidden is None else forbidden, iter(words)).statement()


class _Reader:
    """Reads one statement from left to right, keeping what the rules need: two tokens back, brackets, clause."""

    def __init__(self, sql: bytes, forbidden: frozenset[str], stream: Iterator[Token]) -> None:
        self.sql = sql
        self.forbidden = forbidden
        self.stream = stream
        self.before = _NOTHING
        self.token = next(self.stream, _NOTHING)
        self.after = next(self.stream, _NOTHING)
        self.first = self.token.upper
        self.head_words: list[str] = []
        self.from_clause = [False]
        self.structured: list[int] = []
        self.output_format = ""
        self.bare = True
        self.inserts = False
        self.settings_at = len(sql)

    def advance(self) -> None:
        """Go on by one token."""
        self.before, self.token, self.after = self.token, self.after, next(self.stream, _NOTHING)

    def statement(self) -> Statement:
        """Read to the end, or to the data of an INSERT ... FORMAT."""
        self.check_first()
        while self.token is not _NOTHING:
            if self.data_follows():
                return self.with_data()
            if self.token.kind not in _INERT or self.structured:
                self.check()
            self.advance()
        if len(self.sql) > MAX_SQL_BYTES:
            raise _syntax(f"the statement is longer than {MAX_SQL_BYTES} bytes; send data with FORMAT instead")
        self.check_head()
        return Statement(self.kind(), self.output_format, "", self.sql, b"", -1)

    def data_follows(self) -> bool:
        """At FORMAT of INSERT INTO t [(columns)] [SETTINGS ...] FORMAT name."""
        return (
            self.first == "INSERT"
            and len(self.from_clause) == 1
            and self.token.upper == "FORMAT"
            and self.after.kind == "word"
            and self.bare
        )

    def with_data(self) -> Statement:
        """Split at FORMAT, as ClickHouse does: data begins after blanks and at most one line break."""
        self.check_head()
        name, at, sql = self.after.text, self.after.end, self.sql
        while at < len(sql) and sql[at] in b" \t\f":
            at += 1
        at += sql[at : at + 1] == b"\r"
        at += sql[at : at + 1] == b"\n"
        if name.upper() == "VALUES":
            inspect(b"INSERT INTO t VALUES " + sql[at:], self.forbidden)
        end = self.token.begin
        split = min(self.settings_at, end)
        return Statement("write", "", name, sql[:split], sql[split:end], at)

    def kind(self) -> Kind:
        if self.first in _SESSION:
            return "session"
        return "write" if self.first in _WRITES or self.inserts else "read"

    # --- rules -----------------------------------------------------------------------------------

    def check_first(self) -> None:
        first = self.first
        if first in _KNOWN_BUT_REFUSED:
            raise _denied(f"The embedded warehouse does not run {first}.")
        if first not in _READS | _WRITES | _SESSION:
            raise _syntax(f"failed at position 1 ({self.token.text[:50]}): no statement begins so")

    def check_head(self) -> None:
        """Rules on the first words, once enough of them were read."""
        words = " ".join(self.head_words)
        if self.first == "SYSTEM" and not _SYSTEM.match(words.removeprefix("SYSTEM ")):
            raise _denied("The embedded warehouse does not run this SYSTEM statement.")
        if self.first in ("CREATE", "REPLACE"):
            created = [word for word in self.head_words[1:] if word not in ("OR", "REPLACE")]
            if not created or created[0] not in _CREATES or (created[0] == "MATERIALIZED" and "VIEW" not in created):
                raise _denied("The embedded warehouse creates tables, views, databases and SQL functions.")

    def check(self) -> None:
        """All rules on the token in the middle."""
        upper = self.token.upper
        if len(self.head_words) < 8:
            self.head_words.append(upper)
        self.check_end(upper)
        self.check_words(upper)
        self.check_names()
        self.check_databases(upper)
        self.follow(upper)

    def check_end(self, upper: str) -> None:
        if upper == ";" and self.after.kind not in ("", ";"):
            raise _syntax(f"failed at position {self.after.begin + 1}: one statement a request")
        if upper == "PARALLEL" and self.after.upper == "WITH":
            raise _syntax("PARALLEL WITH is not taken: one statement a request")

    def check_words(self, upper: str) -> None:
        if upper in ("INFILE", "OUTFILE"):
            raise _denied("The embedded warehouse neither reads nor writes files for a client.")
        if upper == "=":
            self.check_cap()
        if upper == "ENGINE" and self.first in _WRITES:
            self.check_engine()
        if upper == "FETCH" and self.first == "ALTER":
            raise _denied("The embedded warehouse fetches nothing from other servers.")
        if self.first in ("CREATE", "REPLACE") and "FUNCTION" in self.head_words[:4]:
            self.check_sql_function(upper)
        outermost = len(self.from_clause) == 1
        self.bare = self.bare and not (upper == "SELECT" or (outermost and upper in ("VALUES", "WITH", "FROM")))
        self.inserts = self.inserts or (outermost and upper == "INSERT")
        if outermost and upper == "SETTINGS":
            self.settings_at = min(self.settings_at, self.token.begin)

    def check_engine(self) -> None:
        """At ENGINE: what is named next must be allowed. Without `=` it may also be a column called engine."""
        explicit = self.after.kind == "="
        if explicit:
            self.advance()
        name = self.after.text
        if self.after.kind not in ("word", "quoted"):
            return
        allowed = DATABASE_ENGINES if "DATABASE" in self.head_words[:4] else ENGINES
        if name in allowed or (not explicit and self.after.upper in _CLAUSES | {"FROM", "AS", "AND", "OR", "IN"}):
            return
        raise _denied(f"The embedded warehouse has no engine {name}: only {', '.join(sorted(allowed))}.")

    def check_sql_function(self, upper: str) -> None:
        if upper in ("LANGUAGE", "ENGINE", "ARGUMENTS", "RETURNS"):
            raise _denied("The embedded warehouse takes SQL functions only: CREATE FUNCTION name AS (x) -> expression.")

    def check_names(self) -> None:
        """Functions, table functions, dynamic disks and settings."""
        name, after = self.token.name, self.after.kind
        if not name:
            return
        if name in _FUNCTIONS:
            raise _denied(f"The embedded warehouse does not run {name}: it would touch files or the network.")
        if after == "(" and self.calls_forbidden(name):
            raise _denied(f"The embedded warehouse does not run {name}(): it would touch files or the network.")
        if after == "(" and name == "disk":
            raise _denied("The embedded warehouse takes no disks of a statement's own.")
        if after == "=" and _SETTINGS.fullmatch(name):
            check_setting(name, "")

    def check_cap(self) -> None:
        """At `=`: what stands behind it, up to the next blank or sign."""
        if self.before.name in CAPS:
            value = self.after.text
            if self.sql[self.after.end : self.after.end + 1].strip(b" \t\r\n,;)"):
                value += "?"  # goes on, such as the exponent of 1.5e18
            check_setting(self.before.name, value)

    def check_databases(self, upper: str) -> None:
        """The databases without which nothing runs stay, and so does what is in the engine's own."""
        creates = self.first in ("CREATE", "REPLACE")
        if not creates and self.first not in _REMAKES:
            return
        if creates and not {"AS", "("}.isdisjoint(self.head_words[:-1]):
            return
        what = [word for word in self.head_words[1:] if word not in ("OR", "REPLACE")]
        whole = what[:1] == ["DATABASE"] and what[1:4] != ["IF", "NOT", "EXISTS"]
        name, own = self.token.name, self.token.name in _OWN_DATABASES
        if (whole and name in _LASTING_DATABASES) or (own and (self.after.kind == "." or self.first == "TRUNCATE")):
            raise _denied(f"The embedded warehouse keeps its database {name} as it is.")
        if upper == "{":
            raise _denied("The embedded warehouse takes no parameter for the name of what is made or dropped.")

    def calls_forbidden(self, name: str) -> bool:
        """`format` is an ordinary function too: it counts as a table function where a table may stand."""
        if name == "format":
            places = ("FROM", "JOIN", "FUNCTION", "TABLE", "AS", "IN", "DESCRIBE", "DESC")
            return self.from_clause[-1] or self.before.upper in places
        return name in self.forbidden

    def follow(self, upper: str) -> None:
        """Keep track of brackets, of FROM clauses, of arguments that hold a list of columns, and of FORMAT."""
        if upper == "(":
            outermost = len(self.from_clause) == 1
            rows = self.first == "INSERT" and outermost and self.before.upper == "VALUES" and not self.from_clause[0]
            self.from_clause.append(self.from_clause[-1] and self.before.upper in ("FROM", "JOIN", ",", "("))
            if self.structured or (self.before.name in _STRUCTURED and not rows):
                self.structured.append(len(self.from_clause))
        elif upper == ")":
            if self.structured and self.structured[-1] == len(self.from_clause):
                self.structured.pop()
            if len(self.from_clause) > 1:
                self.from_clause.pop()
        elif upper in ("FROM", "JOIN"):
            self.from_clause[-1] = True
        elif upper in _CLAUSES:
            self.from_clause[-1] = False
            if upper == "FORMAT" and self.after.kind == "word" and len(self.from_clause) == 1:
                self.output_format = self.after.text
        if self.structured:
            self.check_structure()

    def check_structure(self) -> None:
        """Inside values('a UInt8', ...): nothing that could put an expression into the list of columns."""
        hidden = self.token.kind == "string" and re.search(
            r"(?i)\b(?:default|alias|materialized|ephemeral)\b", self.token.text
        )
        called = self.token.name and self.after.kind == "(" and self.token.name not in _STRUCTURED
        if (
            hidden
            or called
            or self.token.kind in ("{", "|")
            or (self.first != "INSERT" and self.token.upper == "SELECT")
        ):
            raise _denied(
                "The embedded warehouse takes only plain values inside values(), generateRandom() and null()."
            )


def _denied(sentence: str) -> QueryFailed:
    return QueryFailed(f"{sentence} Use a ClickHouse server for that. (ACCESS_DENIED)", code=ACCESS_DENIED)


def _syntax(sentence: str) -> QueryFailed:
    return QueryFailed(f"Syntax error: {sentence}. (SYNTAX_ERROR)", code=SYNTAX_ERROR)
