"""The command line. Nobody imports this module; what it needs it imports late, so that `--help` is quick.

Exit codes: 0 done, 1 a fault (the message says what to do), 2 the command itself was wrong.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pinstream import __version__
from pinstream import settings as settings_module
from pinstream.clock import now_ms
from pinstream.errors import PinstreamError, Refused
from pinstream.settings import Settings
from pinstream.supervisor import Serve, Supervisor, on_hangup, supervised, until_signalled

if TYPE_CHECKING:  # imported where it is used, so that `--help` is quick
    from pinstream.audiences.desk import Subject
    from pinstream.state.snapshot import Site
    from pinstream.state.store import Store
    from pinstream.warehouse.client import Warehouse

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)
config = typer.Typer(no_args_is_help=True, help="Show the settings in force, or a documented sample file.")
sites = typer.Typer(no_args_is_help=True, help="Shops: tag ids and allowed origins.")
keys = typer.Typer(no_args_is_help=True, help="API keys for servers that send engagements.")
audiences = typer.Typer(no_args_is_help=True, help="Audiences: add, preview, explain, export, sync.")
warehouse = typer.Typer(help="Role: the embedded ClickHouse engine; and tasks in the warehouse.")
lists = typer.Typer(no_args_is_help=True, help="Lists of people for rules: customers, VIPs, newsletter.")
spool = typer.Typer(no_args_is_help=True, help="What is kept on disk while Kafka is away. Works while collect runs.")
for name, group in (
    ("config", config),
    ("sites", sites),
    ("keys", keys),
    ("audiences", audiences),
    ("warehouse", warehouse),
    ("lists", lists),
    ("spool", spool),
):
    app.add_typer(group, name=name)


class Language(StrEnum):
    """Languages of what marketers read."""

    en = "en"
    fr = "fr"


class Positions(StrEnum):
    """Where `load` goes on when its stored position does not fit."""

    oldest = "oldest"
    behind = "behind"


class Platform(StrEnum):
    """What a shop runs on, or how it wants the tag."""

    html = "html"
    html_csp = "html-csp"
    image = "image"
    mirror = "mirror"
    gtm = "gtm"
    shopify = "shopify"
    woocommerce = "woocommerce"
    magento = "magento"
    react = "react"
    vue = "vue"


ONE_WORKER = "one worker: nothing to replace"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def main() -> None:
    """Entry point of the `pinstream` program."""
    try:
        app()
    except PinstreamError as exc:
        print(f"pinstream: {exc}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """What happens in a shop becomes Pinterest audiences, on your own server.

    Settings come from pinstream.toml, or the file that PINSTREAM_CONFIG names, and from PINSTREAM_* variables.
    """
    if version:
        print(__version__)
        raise typer.Exit


# --- in common -----------------------------------------------------------------------------------


def _settings() -> Settings:
    loaded = settings_module.load()
    _log_to_stderr(loaded.log_format)
    return loaded


def _log_to_stderr(style: Literal["text", "json"]) -> None:
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


def _run(serve: Serve) -> None:
    """Run a role until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(until_signalled(serve))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop  # not needed for --help

    return uvloop.new_event_loop()


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
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
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@contextmanager
def _store() -> Iterator[Store]:
    from pinstream.state.store import Store

    settings = _settings()
    if not settings.state.url and not (settings.data_dir / "state.db").exists():
        source = settings_module.config_file() or "no pinstream.toml here"
        print(f"{source}; data in {settings.data_dir.absolute()}", file=sys.stderr)  # or was another folder meant?
    store = Store.open(settings.state_url)
    try:
        yield store
    finally:
        store.close()


# --- config --------------------------------------------------------------------------------------


@config.command("show")
def config_show(as_json: AsJson = False) -> None:
    """The settings in force, secrets masked."""
    shown = settings_module.shown(_settings())
    if as_json:
        print(json.dumps(shown))
        return
    for section, value in shown.items():
        for key, inner in value.items() if isinstance(value, dict) else [("", value)]:
            print(f"{section}{'.' if key else ''}{key} = {json.dumps(inner)}")


@config.command("sample")
def config_sample() -> None:
    """A TOML file with every setting, its meaning and its default."""
    print(settings_module.sample(), end="")


# --- sites and keys ------------------------------------------------------------------------------


@sites.command("list")
def sites_list(as_json: AsJson = False) -> None:
    """All sites."""
    with _store() as store:
        _print([_plain(site) for site in store.sites()], as_json)


_ORIGIN = typer.Option(help="An allowed origin, such as https://www.shop.example; repeat it.")
_SITE_NAME = typer.Option(help="The shop's name.")
_CURRENCY = typer.Option(help="Three letters, such as EUR; assumed where an event names none.")
_COOKIE_DOMAIN = typer.Option(help="Domain of the visitor cookie; empty: collect's own host.")
_PHONE_REGION = typer.Option(help="Region of phone numbers without a country code, such as DE.")
_CONSENT_DEFAULT = typer.Option(help="unknown, yes or no: where nobody said anything.")


@sites.command("add")
def sites_add(
    tag_id: Annotated[str, typer.Option(help="What the tag sends as its id.")],
    origin: Annotated[list[str], _ORIGIN],
    name: Annotated[str, _SITE_NAME] = "",
    currency: Annotated[str, _CURRENCY] = "",
    cookie_domain: Annotated[str, _COOKIE_DOMAIN] = "",
    phone_region: Annotated[str, _PHONE_REGION] = "",
    consent_default: Annotated[str, _CONSENT_DEFAULT] = "unknown",
    null_origin: Annotated[bool, typer.Option("--null-origin", help="Take events of sandboxes.")] = False,
    explicit_yes_overrides_gpc: Annotated[
        bool, typer.Option("--explicit-yes-overrides-gpc", help="A visitor's own yes beats the browser's signal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create a site."""
    values = {
        "id": 0,
        "tag_id": tag_id,
        "origins": tuple(origin),
        "name": name or tag_id,
        "currency": currency,
        "cookie_domain": cookie_domain,
        "phone_region": phone_region,
        "consent_default": consent_default,
        "allow_null_origin": null_origin,
        "explicit_yes_overrides_gpc": explicit_yes_overrides_gpc,
    }
    with _store() as store:
        _print([_plain(store.add_site(_site(values), now_ms=now_ms()))], as_json)
    if not as_json:
        print("collect knows it within half a minute.", file=sys.stderr)


@sites.command("set")
def sites_set(
    tag_id: str,
    add_origin: Annotated[list[str] | None, typer.Option(help="Allow one more origin; repeat it.")] = None,
    remove_origin: Annotated[list[str] | None, typer.Option(help="Allow an origin no longer; repeat it.")] = None,
    name: Annotated[str | None, _SITE_NAME] = None,
    currency: Annotated[str | None, _CURRENCY] = None,
    cookie_domain: Annotated[str | None, _COOKIE_DOMAIN] = None,
    phone_region: Annotated[str | None, _PHONE_REGION] = None,
    consent_default: Annotated[str | None, _CONSENT_DEFAULT] = None,
    allow_null_origin: Annotated[
        bool | None, typer.Option("--null-origin/--no-null-origin", help="Take events of sandboxes.")
    ] = None,
    allow_no_origin: Annotated[
        bool | None, typer.Option("--without-origin/--not-without-origin", help="Take events of servers and images.")
    ] = None,
    explicit_yes_overrides_gpc: Annotated[
        bool | None,
        typer.Option("--explicit-yes-overrides-gpc/--gpc-first", help="May a visitor's own yes beat the signal?"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change a site. What is not named stays as it is; collect goes by it within half a minute."""
    values = {
        "name": name,
        "currency": currency,
        "cookie_domain": cookie_domain,
        "phone_region": phone_region,
        "consent_default": consent_default,
        "allow_null_origin": allow_null_origin,
        "allow_no_origin": allow_no_origin,
        "explicit_yes_overrides_gpc": explicit_yes_overrides_gpc,
    }
    with _store() as store:
        site = store.site(tag_id)
        if unknown := set(remove_origin or ()) - set(site.origins):
            raise typer.BadParameter(f"{', '.join(unknown)}: not on the list, which is {', '.join(site.origins)}.")
        kept = [origin for origin in site.origins if origin not in (remove_origin or ())]
        changes = {key: value for key, value in values.items() if value is not None}
        changed = _site(_plain(site) | changes | {"origins": tuple(dict.fromkeys([*kept, *(add_origin or ())]))})
        _print([_plain(store.set_site(changed))], as_json)


def _site(values: dict[str, Any]) -> Site:
    import msgspec

    from pinstream.state.snapshot import Site

    try:
        return msgspec.convert(values, Site)
    except msgspec.ValidationError as exc:
        raise typer.BadParameter(str(exc)) from exc


@keys.command("create")
def keys_create(
    site: Annotated[str, typer.Option(help="Tag id of the site; default: every site.")] = "",
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    may_import: Annotated[bool, typer.Option("--may-import", help="It may also import history, and lists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown once."""
    with _store() as store:
        site_id = store.site(site).id if site else None
        key = store.create_key(site_id=site_id, label=label, now_ms=now_ms(), may_import=may_import)
    print(json.dumps({"key": key}) if as_json else key)
    if not as_json:
        print("Shown once. collect knows it within half a minute.", file=sys.stderr)


@keys.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """All keys, without the keys."""
    with _store() as store:
        _print([_plain(key) for key in store.api_keys()], as_json)


@keys.command("revoke")
def keys_revoke(prefix: str) -> None:
    """Delete the key that begins with PREFIX; collect forgets it within half a minute."""
    with _store() as store:
        store.revoke_key(prefix)


def _plain(value: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain


# --- roles ---------------------------------------------------------------------------------------


def _role(name: str) -> None:
    from pinstream import roles

    settings = _settings()
    run = {"load": roles.load, "push": roles.push, "warehouse": roles.warehouse, "console": roles.console}[name]
    _run(lambda stop: run(settings, stop))


@app.command()
def collect(
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that share the port; default: collect.workers.")
    ] = None,
) -> None:
    """Role: HTTP in, durable answer out. With several workers, SIGHUP restarts them one by one."""
    settings = _settings()
    count = settings.collect.workers if workers is None else workers
    if count == 1:
        from pinstream import roles

        async def serve(stop: asyncio.Event) -> None:
            with on_hangup(lambda: logging.getLogger(__name__).info(ONE_WORKER)):
                await roles.collect(settings, stop)

        _run(serve)
        return
    from pinstream.collect import workers as crew  # the workers load the rest, the process above them needs little

    _run(lambda stop: crew.serve(settings, count, stop))


@app.command("collect-worker", hidden=True)
def collect_worker(
    public_fd: Annotated[int, typer.Option(help="The socket that takes events.")],
    ops_fd: Annotated[int, typer.Option(help="The socket that tells whether this process is ready.")],
) -> None:
    """One worker of `collect`, which starts it."""
    import socket

    from pinstream import roles
    from pinstream.collect.server import Listeners
    from pinstream.collect.workers import share

    settings = _settings()
    part = settings.model_copy(update={"collect": share(settings.collect)})
    listeners = Listeners(socket.socket(fileno=public_fd), socket.socket(fileno=ops_fd))
    _run(lambda stop: roles.collect(part, stop, listeners))


@app.command()
def load(
    reset_positions: Annotated[
        Positions | None,
        typer.Option(help="Once, where load refuses its position: load all that the log holds, or go on behind."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Role: log to ClickHouse, exactly once."""
    if reset_positions is None:
        _role("load")
        return
    from pinstream import roles

    _print(asyncio.run(roles.reset_positions(_settings(), reset_positions.value)), as_json)


@app.command()
def push() -> None:
    """Role: audiences to Pinterest."""
    _role("push")


@app.command()
def console() -> None:
    """Role: the admin API (lists)."""
    _role("console")


@warehouse.callback(invoke_without_command=True)
def warehouse_role(ctx: typer.Context) -> None:
    """Role: the embedded ClickHouse engine behind ClickHouse's HTTP interface; or a task in the warehouse."""
    if ctx.invoked_subcommand is None:
        _role("warehouse")


@warehouse.command("rebuild")
def warehouse_rebuild(
    view: Annotated[str, typer.Option(help="The rollup, such as visitor_profile or product_day.")],
    as_json: AsJson = False,
) -> None:
    """Build a rollup anew from the events that are there, while load goes on: no gap, nothing counted twice."""
    from pinstream import roles

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    done = asyncio.run(roles.rebuild_rollup(_settings(), view, say))
    if as_json:
        print(json.dumps(_plain(done)))
    else:
        print(f"{done.view}: {done.rows:,} rows counted anew in {done.seconds} s; load was held for {done.held_ms} ms.")


@warehouse.command("dictionary")
def warehouse_dictionary(as_json: AsJson = False) -> None:
    """Every table and column of the warehouse, and what it means in English and French, as Markdown."""
    from pinstream import roles
    from pinstream.warehouse import dictionary

    async def ask() -> list[dictionary.Entry]:
        async with roles.open_warehouse(_settings()) as clickhouse:
            return await dictionary.entries(clickhouse)

    found = asyncio.run(ask())
    print(json.dumps({"entries": _plain(found)}) if as_json else dictionary.markdown(found).rstrip())


@warehouse.command("analyst")
def warehouse_analyst(as_json: AsJson = False) -> None:
    """How an analyst connects: to the embedded engine at once, to a server after its administrator ran this SQL."""
    from pinstream.warehouse import analyst, schema

    settings = _settings()
    own = settings.warehouse
    sql = "" if own.mode == "embedded" else analyst.grants(own)
    told = {"url": own.url, "user": own.analyst_user, "database": schema.analytics_database(own), "sql": sql}
    if not sql:
        told["password_file"] = "" if own.analyst_password.get_secret_value() else str(settings.analyst_password_file)
    if as_json:
        print(json.dumps(told))
    else:
        print(sql, end="") if sql else _print([{key: value for key, value in told.items() if value}], False)


@app.command()
def up() -> None:
    """All roles on this machine, under one process; what dies is started again. SIGHUP is passed on to `collect`."""
    from pinstream import roles

    settings = _settings()
    running: Supervisor | None = None

    def hung_up() -> None:
        pid = running.pids.get("collect") if running else None
        if settings.collect.workers == 1:
            _prefixed("up", ONE_WORKER)
        elif pid is None:
            _prefixed("up", "collect is starting: nothing to replace yet")
        else:
            os.kill(pid, signal.SIGHUP)

    async def serve(stop: asyncio.Event) -> None:
        nonlocal running
        if not settings.pinterest.ad_account_id:
            _prefixed("up", "push is not started: set pinterest.ad_account_id and pinterest.access_token")
        with on_hangup(hung_up):
            async with roles.alone(settings), supervised(roles.programs(settings), _prefixed, stop) as running:
                _prefixed("up", f"takes events at http://{settings.collect.host}:{settings.collect.port}/p/i")
                _prefixed("up", f"admin API at http://{settings.console.host}:{settings.console.port}")
                _prefixed("up", f"ClickHouse at {settings.warehouse.url}, metrics at port {settings.collect.ops_port}")
                await stop.wait()
                _prefixed("up", "stopping: collect first, the warehouse last")

    _run(serve)


_COLOURS = {
    "collect": "green",
    "load": "cyan",
    "push": "magenta",
    "console": "bright_blue",
    "warehouse": "yellow",
    "pinterest": "red",
}


def _prefixed(name: str, line: str) -> None:
    """One line of a process, under its name."""
    with suppress(OSError):  # the terminal was closed, and the processes go on
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[{_COLOURS.get(name, 'blue')}]{name:>9}[/] {escape(line)}"
        )


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option("--for", help="End by itself after this many seconds.")] = None,
    events_per_s: Annotated[float, typer.Option(help="What the synthetic shoppers send.", min=1, max=500)] = 50,
    data_dir: Annotated[Path | None, typer.Option(help="Keep everything here.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the shoppers' dice; default: another each time.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the processes' own log lines.")] = False,
    as_json: AsJson = False,
) -> None:
    """A shop, its shoppers, the whole pipeline and a fake Pinterest, on this machine and on embedded engines."""
    from pinstream.demo import run

    _log_to_stderr("text")
    options = run.Options(seconds=seconds, events_per_s=events_per_s, data_dir=data_dir, seed=seed, verbose=verbose)
    outcome: list[run.Summary] = []

    async def serve(stop: asyncio.Event) -> None:
        outcome.append(await run.demo(options, stop, _prefixed))

    _run(serve)
    if as_json and outcome:
        print(json.dumps(_plain(outcome[0])))
    if not outcome or not outcome[0].holds:
        raise typer.Exit(1)


# --- the operator's tools ------------------------------------------------------------------------


@app.command()
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring ClickHouse's schema and the state database up to date."""
    from pinstream import roles

    steps = asyncio.run(roles.migrate_all(_settings(), dry_run=dry_run))
    if as_json:
        print(json.dumps([_plain(step) for step in steps]))
        return
    for step in steps:
        print(f"{step.number:04d} {step.name}: {step.state}")
        if dry_run and step.state == "pending":
            print("\n".join(f"    {line}" for statement in step.statements for line in f"{statement};".splitlines()))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Name what is wrong with this set-up, and the fix. Exit code 1 if anything is."""
    from pinstream import doctor as examination

    try:
        findings = asyncio.run(examination.examine(_settings()))
    except PinstreamError as exc:
        findings = [examination.fault("settings", exc)]
    if as_json:
        print(json.dumps([_plain(finding) for finding in findings]))
    else:
        for finding in findings:
            mark = {"ok": "[green]ok[/]   ", "note": "[yellow]note[/] ", "fault": "[red]FAULT[/]"}[finding.verdict]
            console = Console(highlight=False, soft_wrap=True)
            console.print(f"{mark} {finding.check}: {escape(finding.seen)}")
            if finding.fix:
                console.print(f"      -> {escape(finding.fix)}")
    if any(finding.verdict == "fault" for finding in findings):
        raise typer.Exit(1)


@app.command()
def snippet(
    site: Annotated[str, typer.Option(help="Tag id of the site.")],
    platform: Annotated[Platform, typer.Option(help="What the shop runs on.")] = Platform.html,
    url: Annotated[str, typer.Option(help="Where browsers reach collect, such as https://t.shop.example.")] = "",
    text: Annotated[bool, typer.Option("--text", help="Print what to paste and nothing else.")] = False,
    as_json: AsJson = False,
) -> None:
    """What to put into a shop's pages, what its Content-Security-Policy must allow, and the script's hash."""
    from pinstream.collect.snippet import snippet as made
    from pinstream.collect.tagfiles import TagFiles

    collect = _settings().collect
    with _store() as store:
        found = store.site(site)
    if not url:
        url = f"http://{collect.host}:{collect.port}"
        print(f"For this machine only, at {url}: --url says where browsers reach collect.", file=sys.stderr)
    made_for = made(found, platform.value, url, TagFiles(collect.script_path, collect.endpoint_path))
    for note in made_for.notes:
        print(f"Note: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(_plain(made_for)))
        return
    if text:
        print(made_for.text, end="")
        return
    policy = "; ".join(f"{directive} {' '.join(allowed)}" for directive, allowed in made_for.csp.items())
    print(f"{made_for.where}\n\n{made_for.text}")
    print(f"Content-Security-Policy, besides what it says now:\n\n{policy}\n")
    if made_for.pinned:
        print(f"Or in its place, this version and no other ({made_for.integrity}):\n\n{made_for.pinned}")


@app.command()
def openapi(as_json: AsJson = False) -> None:
    """The OpenAPI document of collect's public port, as it stands at /openapi.json."""
    from pinstream.collect.openapi import document

    print(json.dumps(document(), indent=None if as_json else 2))


@app.command()
def sql(
    query: str,
    as_json: AsJson = False,
) -> None:
    """Ask ClickHouse one question."""
    from pinstream import roles

    async def ask() -> list[dict[str, Any]]:
        async with roles.open_warehouse(_settings()) as clickhouse:
            return await clickhouse.select(query)

    _print(asyncio.run(ask()), as_json)


# --- history -------------------------------------------------------------------------------------

File = Annotated[Path, typer.Argument(help="A .csv file, or .jsonl with an object a line.")]
SiteOption = Annotated[str, typer.Option(help="Tag id of the site.")]
Columns = Annotated[
    list[str],
    typer.Option("--column", help="Which column holds what: order_id=Number. Nothing behind =: none. Repeat it."),
]
Encoding = Annotated[str, typer.Option(help="Of the file's texts, such as cp1252.")]
BadRows = Annotated[Path | None, typer.Option(help="Write line and reason of every bad row here, as CSV.")]
ConsentOption = Annotated[
    str, typer.Option(help="yes: you vouch that the people of rows that say nothing agreed. Default: the site's.")
]
TimeZone = Annotated[str, typer.Option(help="Of times that name none, such as Europe/Paris.")]
TimeFormat = Annotated[str, typer.Option(help="Of times, such as '%d/%m/%Y %H:%M'. Default: ISO 8601 or a number.")]


class ImportKind(StrEnum):
    """What a file tells of."""

    orders = "orders"
    events = "events"


@app.command("import")
def import_file(
    kind: Annotated[
        ImportKind,
        typer.Argument(help="orders, as Shopify, WooCommerce and others export them; or events, as docs/http-api.md."),
    ],
    file: File,
    site: SiteOption,
    column: Columns = [],  # noqa: B006 - typer copies it
    consent: ConsentOption = "",
    time_zone: TimeZone = "UTC",
    time_format: TimeFormat = "",
    encoding: Encoding = "utf-8",
    bad_rows: BadRows = None,
    as_json: AsJson = False,
) -> None:
    """History of a shop, out of its own files. Run it again after a stop: it goes on from there."""
    from pinstream import roles
    from pinstream.history.columns import reading

    how = reading(column, consent, time_zone, time_format)
    found: list[Any] = []
    with _bad_rows(bad_rows) as name_bad:

        async def serve(stop: asyncio.Event) -> None:
            wanted = roles.Imported(path=file, tag_id=site, reading=how, encoding=encoding)
            found.append(await roles.import_file(_settings(), kind.value, wanted, stop, _say, name_bad))

        _run(serve)
    _imported(_plain(found[0]) if found else {"finished": False}, as_json)


def _imported(report: dict[str, Any], as_json: bool) -> None:
    """What became of a file; exit code 1 if it stopped before its end."""
    for bad in report.get("bad", [])[:20]:
        print(f"line {bad['line']}: {bad['reason']} {bad['field']} {bad['hint']}".rstrip(), file=sys.stderr)
    if "consent" in report.get("dropped", {}):
        _say("Without consent nothing is stored. --consent yes, if you have it; see docs/import.md.")
    if as_json:
        print(json.dumps(report))
    else:
        _print([{name: value for name, value in report.items() if name != "bad"}], as_json=False)
    if not report["finished"]:
        _say("Stopped. Run the same command again: it goes on from there.")
        raise typer.Exit(1)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _bad_rows(path: Path | None) -> Iterator[Callable[[Any], None]]:
    """Writes bad rows down: where, why, never what."""
    import csv

    with open(path, "w", newline="") if path else nullcontext() as file:
        rows = csv.writer(file) if file else None
        if rows:
            rows.writerow(("line", "reason", "field", "hint"))

        def name_bad(bad: Any) -> None:
            if rows:
                rows.writerow((bad.line, bad.reason, bad.field, bad.hint))

        yield name_bad


# --- lists ---------------------------------------------------------------------------------------

ListName = Annotated[str, typer.Option("--list", help="Name of the list.")]


@lists.command("list")
def lists_list(as_json: AsJson = False) -> None:
    """All lists, by the number that rules know them by, and how many identifiers are on each."""
    from pinstream import roles

    _print([_plain(each) for each in asyncio.run(roles.lists(_settings()))], as_json)


@lists.command("import")
def lists_import(
    file: File,
    name: ListName,
    site: SiteOption,
    column: Columns = [],  # noqa: B006 - typer copies it
    encoding: Encoding = "utf-8",
    bad_rows: BadRows = None,
    as_json: AsJson = False,
) -> None:
    """Put people on a list: e-mails, phones, customer ids, or SHA-256 of them. A new name makes a new list."""
    _list("add", file, name, site, (column, encoding), bad_rows, as_json)


@lists.command("remove")
def lists_remove(
    file: File,
    name: ListName,
    site: SiteOption,
    column: Columns = [],  # noqa: B006 - typer copies it
    encoding: Encoding = "utf-8",
    bad_rows: BadRows = None,
    as_json: AsJson = False,
) -> None:
    """Take the people in a file off a list."""
    _list("remove", file, name, site, (column, encoding), bad_rows, as_json)


@lists.command("drop")
def lists_drop(name: ListName, site: SiteOption) -> None:
    """Forget a list, and who is on it."""
    from pinstream import roles

    asyncio.run(roles.drop_list(_settings(), site, name))


def _list(
    operation: Literal["add", "remove"],
    file: Path,
    name: str,
    site: str,
    options: tuple[list[str], str],
    bad_rows: Path | None,
    as_json: bool,
) -> None:
    from pinstream import roles
    from pinstream.history.columns import reading

    column, encoding = options
    wanted = roles.Imported(path=file, tag_id=site, reading=reading(column, "", "UTC", ""), encoding=encoding)
    found: list[Any] = []
    with _bad_rows(bad_rows) as name_bad:

        async def serve(stop: asyncio.Event) -> None:
            found.append(await roles.import_list(_settings(), operation, wanted, name, stop, _say, name_bad))

        _run(serve)
    _imported(_plain(found[0]) if found else {"finished": False}, as_json)


# --- spool ---------------------------------------------------------------------------------------


@spool.command("status")
def spool_status(as_json: AsJson = False) -> None:
    """Each file: records, bytes, age, and the process that writes it."""
    from pinstream.eventlog import spool_file

    found = spool_file.standing(_settings().spool_dir)
    rows = [
        {
            "file": each.file,
            "held_by": each.holder,
            "records": each.records,
            "uncertain": each.uncertain,
            "refused": each.refused,
            "bytes": each.used_bytes,
            "oldest_s": None if each.oldest_ms is None else round((now_ms() - each.oldest_ms) / 1000, 1),
            "damage": each.damage,
        }
        for each in found
    ]
    if as_json:
        totals = {"records": sum(each.records for each in found), "bytes": sum(each.used_bytes for each in found)}
        print(json.dumps(totals | {"files": rows}))
    else:
        _print([{name: "-" if value is None else value for name, value in row.items()} for row in rows], as_json)


@spool.command("drain")
def spool_drain(as_json: AsJson = False) -> None:
    """Send to Kafka, now, what dead processes left. Files that a running process holds are left to it.

    Exit code 1 if some of what dead processes left stays.
    """
    from pinstream.eventlog import drain_spool

    def report(file: int, records: int) -> None:
        print(f"file {file}: {records} records left", file=sys.stderr)

    found = asyncio.run(drain_spool(_settings(), report))
    if as_json:
        print(json.dumps(found._asdict()))
    else:
        held = f" {found.held} in files that running processes hold and drain themselves." if found.held else ""
        print(f"{found.drained} drained, {found.left} left.{held}")
    if found.left:
        raise typer.Exit(1)


@spool.command("verify")
def spool_verify(as_json: AsJson = False) -> None:
    """Read every file to its end. Exit code 1 if one is damaged."""
    from pinstream.eventlog import spool_file

    verdicts = []
    for verdict in spool_file.verify(_settings().spool_dir):
        print(f"file {verdict.file}: {verdict.records} records, {verdict.damage or 'whole'}", file=sys.stderr)
        verdicts.append(verdict)
    if as_json:
        print(
            json.dumps(
                {"records": sum(each.records for each in verdicts), "files": [_plain(each) for each in verdicts]}
            )
        )
    else:
        _print([_plain(each) for each in verdicts], as_json)
    if any(each.damage or each.unreadable for each in verdicts):
        raise typer.Exit(1)


# --- audiences -----------------------------------------------------------------------------------


@audiences.command("list")
def audiences_list(as_json: AsJson = False) -> None:
    """All audiences, how their connection to Pinterest is, and what the latest sync left: size, entered, left."""
    from pinstream import roles

    latest = asyncio.run(roles.latest_syncs(_settings()))
    with _store() as store:
        links = {link.audience_id: link for link in store.connections()}
        rows = [
            {
                "id": audience.id,
                "site_id": audience.site_id,
                "name": audience.name,
                "enabled": audience.enabled,
                "connection": links[audience.id].state if audience.id in links else "-",
                **{
                    name: getattr(latest[audience.id], name) if audience.id in latest else None
                    for name in ("size", "entered", "left")
                },
                "detail": links[audience.id].detail if audience.id in links else "",
            }
            for audience in store.audiences()
        ]
    _print(rows, as_json)


@audiences.command("history")
def audiences_history(
    audience: Annotated[str, typer.Argument(help="Its number, or its name.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many syncs, the newest first.")] = 30,
    as_json: AsJson = False,
) -> None:
    """How its list at Pinterest grew and shrank, sync by sync: size, entered, left, and what waits."""
    from pinstream.audiences import membership

    with _store() as store:
        found = [each.id for each in store.audiences() if audience in (str(each.id), each.name)]
    if len(found) != 1:
        raise Refused("bad_value", f"{len(found)} audiences are called {audience}. `pinstream audiences list`.")

    async def past(warehouse: Warehouse, asked: Subject) -> list[membership.Past]:
        target = membership.Target(site_id=asked.audience.site_id, audience_id=asked.audience.id, run_id=0)
        return await membership.history(warehouse, target, limit=limit)

    _print([_plain(each) for each in _asked(found[0], past)], as_json)


@audiences.command("templates")
def audiences_templates(
    language: Annotated[Language, typer.Option(help="Of names and descriptions.")] = Language.en,
    as_json: AsJson = False,
) -> None:
    """Ready-made rules, and what can be changed in each with `audiences add --set`."""
    from pinstream.audiences import templates

    rows = [
        {
            "key": each.key,
            "name": each.name[language.value],
            "description": each.description[language.value],
            "set": {parameter.name: parameter.default for parameter in each.parameters},
        }
        for each in templates.ALL
    ]
    _print(rows, as_json)


@audiences.command("add")
def audiences_add(
    site: Annotated[str, typer.Option(help="Tag id of the site.")],
    template: Annotated[str, typer.Option(help="One of `pinstream audiences templates`.")] = "cart_abandoned",
    changes: Annotated[
        list[str], typer.Option("--set", help="Change the template: within_days=14. Repeat it; lists with commas.")
    ] = [],  # noqa: B006 - typer copies it
    rule: Annotated[Path | None, typer.Option(help="A rule of your own, a .json or .toml file.")] = None,
    name: Annotated[str, typer.Option(help="Its name; default: the template's.")] = "",
    ad_account: Annotated[str, typer.Option(help="Connect it to this ad account; default: the settings'.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create an audience from a template or a rule and, if an ad account is known, connect it to Pinterest."""
    from pinstream.audiences import desk
    from pinstream.audiences.rule import to_json

    wanted = desk.rule_of_file(rule) if rule else desk.rule_of_template(template, changes)
    account = ad_account or _settings().pinterest.ad_account_id
    with _store() as store:
        audience = store.add_audience(
            site_id=store.site(site).id,
            name=name or (rule.stem if rule else template),
            rule=to_json(wanted),
            now_ms=now_ms(),
        )
        if account and wanted.level == "person":
            store.connect(audience_id=audience.id, ad_account_id=account, now_ms=now_ms())
    _print([_plain(audience)], as_json)


@audiences.command("preview")
def audiences_preview(audience_id: int, as_json: AsJson = False) -> None:
    """How many are in it now, and who that is in words, in English and French."""
    from pinstream.audiences import desk

    found = _asked(audience_id, desk.preview)
    if as_json:
        print(json.dumps(_plain(found)))
        return
    for language in desk.LANGUAGES:
        print(f"{language}  {found.size_in_words[language]}: {found.sentence[language]}")
        print("".join(f"    {note}\n" for note in found.notes[language]), end="")


@audiences.command("explain")
def audiences_explain(
    audience_id: int,
    person: Annotated[str, typer.Option(help="An e-mail address, or its SHA-256 in hex.")],
    language: Annotated[Language, typer.Option(help="Of the answer.")] = Language.en,
    as_json: AsJson = False,
) -> None:
    """Why one person is in it or not: each condition, and what it was decided by."""
    from pinstream.audiences import desk
    from pinstream.collect.identity import hashed

    em = hashed("em", person, "", "person")
    found = _asked(audience_id, lambda warehouse, asked: desk.explain(warehouse, asked, em))
    print(json.dumps(_plain(found)) if as_json else "\n".join(desk.told(found, language.value)))


@audiences.command("export")
def audiences_export(
    audience_id: int,
    out: Annotated[Path | None, typer.Option(help="Write here; default: to the terminal.")] = None,
    as_json: AsJson = False,
) -> None:
    """Who is in it now, as CSV: a SHA-256 of an e-mail address a line; for rules about browsers a visitor's number."""
    from pinstream.audiences import desk

    count, lines = _asked(audience_id, desk.export)
    if as_json and out is None:
        raise typer.BadParameter("--json needs --out: the lines themselves go to the terminal.")
    with open(out, "w") if out else nullcontext(sys.stdout) as file:
        file.writelines(f"{line}\n" for line in lines)
    if as_json:
        print(json.dumps({"id": audience_id, "lines": count, "file": str(out)}))
    else:
        print(f"{count} lines", file=sys.stderr)


@audiences.command("sync")
def audiences_sync(
    audience_id: int,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what a sync would do.")] = False,
    confirm_removals: Annotated[
        bool, typer.Option("--confirm-removals", help="Allow this sync to remove any number of members.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make Pinterest's list equal to the audience now."""
    from pinstream import roles

    if not dry_run:
        _print([asyncio.run(roles.sync_now(_settings(), audience_id, confirm_removals=confirm_removals))], as_json)
        return
    from pinstream.audiences import desk
    from pinstream.push import plan

    found = _asked(audience_id, desk.dry_run)
    guard = plan.guard(_settings().push)
    held = 0 if confirm_removals else guard.held(members=found.members, removes=found.removes, asked=found.withdrawn)
    _print([_plain(found) | {"held": held}], as_json)


def _asked(audience_id: int, question: Callable[[Warehouse, Subject], Awaitable[T]]) -> T:
    """The answer to a question about an audience."""
    from pinstream import roles
    from pinstream.audiences import desk
    from pinstream.privacy import suppress

    settings = _settings()

    async def ask() -> T:
        async with roles.open_store(settings) as store, roles.open_warehouse(settings) as clickhouse:
            asked = await desk.subject(store, audience_id, settings.audiences.rates, now_ms=now_ms())
            await suppress.carry(store, clickhouse, asked.audience.site_id)
            return await question(clickhouse, asked)

    return asyncio.run(ask())
