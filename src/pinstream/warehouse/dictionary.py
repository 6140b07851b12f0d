"""The data dictionary: every table and column of the warehouse, what it means, in English and French.

English is the COMMENT in the migration, so that the database itself says it; french.toml holds the French of each
English sentence. docs/data-dictionary.md is `markdown` of a migrated warehouse; tests compare the two, and find a
sentence that has no French or that no table has any more.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from itertools import groupby

from msgspec import Struct

from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse

_HEAD = """\
# Data dictionary · Dictionnaire des données

Made by `pinstream warehouse dictionary`: edit the comments in `src/pinstream/warehouse/migrations` and their French in
`french.toml`, not this. Analysts read the database `analytics` ([how](analysts.md)); the tables behind it are for
pinstream itself and may change.

"""
_ENTRIES = """
SELECT if(home = {own:String}, 'analytics', 'pinstream') AS database, table, column, type, english
FROM
(
    SELECT database AS home, table, name AS column, type, comment AS english, position AS place FROM system.columns
    UNION ALL
    SELECT database AS home, name AS table, '' AS column, '' AS type, comment AS english, 0 AS place FROM system.tables
)
WHERE home IN ({own:String}, currentDatabase()) AND NOT match(table, '_v[0-9]+$|__(next|ready)$|^schema_lock_')
ORDER BY database, table, place
"""


class Entry(Struct, frozen=True):
    """A table, or one of its columns."""

    database: str
    """`analytics` or `pinstream`, whatever they are called here."""
    table: str
    column: str
    """Empty: the table itself."""
    type: str
    english: str
    """Empty: it has no comment."""
    french: str
    """Empty: the comment has no French."""


def french() -> dict[str, str]:
    """English sentence -> French."""
    return tomllib.loads(resources.files("pinstream.warehouse").joinpath("french.toml").read_text(encoding="utf-8"))


async def entries(warehouse: Warehouse) -> list[Entry]:
    """All tables and views with their columns, those for analysts first; pipes between tables are left out."""
    rows = await warehouse.select(_ENTRIES, {"own": schema.analytics_database(warehouse.settings)})
    translated = french()
    return [Entry(**row, french=translated.get(row["english"], "")) for row in rows]


def markdown(found: list[Entry]) -> str:
    """The document."""
    parts = [_HEAD]
    for database, tables in groupby(found, lambda entry: entry.database):
        parts.append(f"## {database}\n\n")
        for name, rows in groupby(tables, lambda entry: entry.table):
            table, *columns = rows
            parts.append(f"### {database}.{name}\n\n{table.english}  \n*{table.french}*\n\n")
            parts.append("| column | type | meaning | sens |\n|---|---|---|---|\n")
            parts += [
                f"| `{each.column}` | {_cell(each.type)} | {_cell(each.english)} | {_cell(each.french)} |\n"
                for each in columns
            ]
            parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
