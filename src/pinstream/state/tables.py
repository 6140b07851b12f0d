"""The tables of the control plane. The migrations create them; a test compares both.

Times are milliseconds since 1970. Ids of sites, audiences, connections and runs stand in ClickHouse too,
so they are never given out twice, not even after a delete.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(name: str, *parts: Any) -> Table:
    return Table(name, METADATA, *parts, sqlite_autoincrement=True)


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True)


def _ms(name: str, *, empty: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=empty)


def _text(name: str, length: int, **options: Any) -> Column[str]:
    return Column(name, String(length), nullable=False, **options)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False)


def _points_to(table: str, *, index: bool = True) -> Column[int]:
    return Column(f"{table}_id", Integer, ForeignKey(f"{table}.id"), nullable=False, index=index)


SITE: Final = _table(
    "site",
    _id(),
    _text("tag_id", 64, unique=True),
    _text("name", 200),
    Column("origins", JSON, nullable=False),
    _flag("allow_null_origin"),
    _flag("allow_no_origin"),
    _text("currency", 3),
    _text("consent_default", 8),
    _flag("explicit_yes_overrides_gpc"),
    _text("cookie_domain", 253),
    _text("phone_region", 2),
    _ms("created_ms"),
)

API_KEY: Final = _table(
    "api_key",
    _id(),
    _text("sha256", 64, unique=True),
    _text("prefix", 16),
    Column("site_id", Integer, ForeignKey("site.id"), nullable=True),  # NULL = every site
    _text("label", 200),
    _ms("created_ms"),
    _flag("may_import"),
)

MEMBER_LIST: Final = _table(
    "member_list",
    _id(),
    _points_to("site"),
    _text("name", 100),
    _ms("created_ms"),
    UniqueConstraint("site_id", "name"),
)

AUDIENCE: Final = _table(
    "audience",
    _id(),
    _points_to("site"),
    _text("name", 100),
    Column("rule", Text, nullable=False),
    _flag("enabled"),
    _ms("created_ms"),
    UniqueConstraint("site_id", "name"),
)

CONNECTION: Final = _table(
    "connection",
    _id(),
    Column("audience_id", Integer, ForeignKey("audience.id"), nullable=False, unique=True),
    _text("ad_account_id", 18),
    _text("list_name", 200),
    _text("customer_list_id", 64),
    _text("pinterest_audience_id", 64),
    _text("state", 16),
    Column("detail", Text, nullable=False),
    _flag("removals_confirmed"),
    _text("lease_owner", 64),
    _ms("lease_until_ms"),
    _ms("created_ms"),
    _ms("last_run_ms"),
)

SYNC_RUN: Final = _table(
    "sync_run",
    _id(),
    _points_to("connection"),
    _text("status", 16),
    _ms("started_ms"),
    _ms("finished_ms", empty=True),
    Column("desired", Integer, nullable=False),
    Column("members", Integer, nullable=False),
    Column("adds", Integer, nullable=False),
    Column("removes", Integer, nullable=False),
    Column("held", Integer, nullable=False),
    Column("detail", Text, nullable=False),
)

CHUNK: Final = _table(
    "chunk",
    _id(),
    Column("key", String(128), nullable=False, unique=True),
    _points_to("connection", index=False),
    _points_to("sync_run"),
    Column("number", Integer, nullable=False),
    _text("operation", 8),
    _text("status", 16),
    Column("members", LargeBinary, nullable=False),  # 32 bytes each; emptied once recorded
    Column("size", Integer, nullable=False),
    _ms("acknowledged_ms", empty=True),
    Column("detail", Text, nullable=False),
    Index(None, "connection_id", "status"),
)

SUPPRESSION: Final = Table(
    "suppression",
    METADATA,
    Column("hash", String(64), primary_key=True),
    _ms("created_ms"),
)

POPULAR: Final = Table(
    "popular",
    METADATA,
    Column("site_id", Integer, ForeignKey("site.id"), primary_key=True),
    Column("products", JSON, nullable=False),
    Column("pins", JSON, nullable=False),
)

SECRET: Final = Table(
    "secret",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
