"""What the commands share: settings and log lines, tables and JSON, the control plane's store."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pinstream import settings as settings_module
from pinstream.settings import Settings

if TYPE_CHECKING:  # imported where it is used, so that `--help` is quick
    from pinstream.state.store import Store

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def load_settings() -> Settings:
    loaded = settings_module.load()
    log_to_stderr(loaded.log_format)
    return loaded


def log_to_stderr(style: Literal["text", "json"]) -> None:
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name]
    if style == "json":
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        renderer: Any = structlog.processors.JSONRenderer()
    else:
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, stamp],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("httpx", "httpcore", "aiokafka", "alembic", "urllib3", "uvicorn.error", "clickhouse_connect"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """A list of things: JSON for programs; for people a table, or a block each where it is too wide; TSV into pipes."""
    if as_json:
        print(json.dumps(rows, default=str))
        return
    if not rows:
        print("none")
        return
    if not sys.stdout.isatty():
        print("\n".join("\t".join(map(_cell, line)) for line in (rows[0], *(row.values() for row in rows))))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console = Console()
    if console.measure(table).maximum <= console.width:
        console.print(table)
        return
    for row in rows:
        console.rule()
        for name, value in row.items():
            console.print(f"[bold]{name}[/] {escape(_cell(value))}", highlight=False, soft_wrap=True)


def _cell(value: object) -> str:
    """A value as a person reads it in a table."""
    if isinstance(value, dict):
        value = [f"{name} {each}" for name, each in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@contextmanager
def open_store() -> Iterator[Store]:
    from pinstream.state.store import Store

    settings = load_settings()
    if not settings.state.url and not (settings.data_dir / "state.db").exists():
        source = settings_module.config_file() or "no pinstream.toml here"
        print(f"{source}; data in {settings.data_dir.absolute()}", file=sys.stderr)  # or was another folder meant?
    store = Store.open(settings.state_url)
    try:
        yield store
    finally:
        store.close()


def plain(value: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
