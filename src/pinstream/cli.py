"""The command line. Nobody imports this module; what it needs it imports late, so that `--help` is quick.
Groups of commands that stand by themselves are in `commands/`.

Exit codes: 0 done, 1 a fault (the message says what to do), 2 the command itself was wrong.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from pinstream import __version__
from pinstream import settings as settings_module
from pinstream.clock import now_ms
from pinstream.commands.audiences import audiences
from pinstream.commands.terminal import AsJson, load_settings, log_to_stderr, open_store, plain, show
from pinstream.errors import PinstreamError
from pinstream.supervisor import Serve, Supervisor, on_hangup, supervised, until_signalled

if TYPE_CHECKING:  # imported where it is used, so that `--help` is quick
    from pinstream.state.snapshot import Site

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)
config = typer.Typer(no_args_is_help=True, help="Show the settings in force, or a documented sample file.")
sites = typer.Typer(no_args_is_help=True, help="Shops: tag ids and allowed origins.")
keys = typer.Typer(no_args_is_help=True, help="API keys for servers that send engagements.")
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


def _run(serve: Serve) -> None:
    """Run a role until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(until_signalled(serve))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop  # not needed for --help

    return uvloop.new_event_loop()


# --- config --------------------------------------------------------------------------------------


@config.command("show")
def config_show(as_json: AsJson = False) -> None:
    """The settings in force, secrets masked."""
    shown = settings_module.shown(load_settings())
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
    with open_store() as store:
        show([plain(site) for site in store.sites()], as_json)


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
    with open_store() as store:
        show([plain(store.add_site(_site(values), now_ms=now_ms()))], as_json)
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
    with open_store() as store:
        site = store.site(tag_id)
        if unknown := set(remove_origin or ()) - set(site.origins):
            raise typer.BadParameter(f"{', '.join(unknown)}: not on the list, which is {', '.join(site.origins)}.")
        kept = [origin for origin in site.origins if origin not in (remove_origin or ())]
        changes = {key: value for key, value in values.items() if value is not None}
        changed = _site(plain(site) | changes | {"origins": tuple(dict.fromkeys([*kept, *(add_origin or ())]))})
        show([plain(store.set_site(changed))], as_json)


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
    with open_store() as store:
        site_id = store.site(site).id if site else None
        key = store.create_key(site_id=site_id, label=label, now_ms=now_ms(), may_import=may_import)
    print(json.dumps({"key": key}) if as_json else key)
    if not as_json:
        print("Shown once. collect knows it within half a minute.", file=sys.stderr)


@keys.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """All keys, without the keys."""
    with open_store() as store:
        show([plain(key) for key in store.api_keys()], as_json)


@keys.command("revoke")
def keys_revoke(prefix: str) -> None:
    """Delete the key that begins with PREFIX; collect forgets it within half a minute."""
    with open_store() as store:
        store.revoke_key(prefix)


# --- roles ---------------------------------------------------------------------------------------


def _role(name: str) -> None:
    from pinstream import roles

    settings = load_settings()
    run = {"load": roles.load, "push": roles.push, "warehouse": roles.warehouse, "console": roles.console}[name]
    _run(lambda stop: run(settings, stop))


@app.command()
def collect(
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that share the port; default: collect.workers.")
    ] = None,
) -> None:
    """Role: HTTP in, durable answer out. With several workers, SIGHUP restarts them one by one."""
    settings = load_settings()
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

    settings = load_settings()
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

    show(asyncio.run(roles.reset_positions(load_settings(), reset_positions.value)), as_json)


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
    forget_older: Annotated[
        bool, typer.Option("--forget-older", help="Lose what only events that are deleted by now have told.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build a rollup anew from the events that are there, while load goes on: no gap, nothing counted twice."""
    from pinstream import roles

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    done = asyncio.run(roles.rebuild_rollup(load_settings(), view, say, forget=forget_older))
    if as_json:
        print(json.dumps(plain(done)))
    else:
        print(f"{done.view}: {done.rows:,} rows counted anew in {done.seconds} s; load was held for {done.held_ms} ms.")


@warehouse.command("refresh")
def warehouse_refresh(as_json: AsJson = False) -> None:
    """Make what is popular on Pinterest anew now, not only at the next full hour."""
    from pinstream import roles

    settings = load_settings()
    asyncio.run(roles.refresh_popular(settings))
    if as_json:
        print(json.dumps({"known_within_s": settings.collect.snapshot_refresh_s}))
    else:
        print(f"Made anew. collect knows it within {settings.collect.snapshot_refresh_s:g} s.")


@warehouse.command("dictionary")
def warehouse_dictionary(as_json: AsJson = False) -> None:
    """Every table and column of the warehouse, and what it means in English and French, as Markdown."""
    from pinstream import roles
    from pinstream.warehouse import dictionary

    async def ask() -> list[dictionary.Entry]:
        async with roles.open_warehouse(load_settings()) as clickhouse:
            return await dictionary.entries(clickhouse)

    found = asyncio.run(ask())
    print(json.dumps({"entries": plain(found)}) if as_json else dictionary.markdown(found).rstrip())


@warehouse.command("analyst")
def warehouse_analyst(as_json: AsJson = False) -> None:
    """How an analyst connects: to the embedded engine at once, to a server after its administrator ran this SQL."""
    from pinstream.warehouse import analyst, schema

    settings = load_settings()
    own = settings.warehouse
    sql = "" if own.mode == "embedded" else analyst.grants(own)
    told = {"url": own.url, "user": own.analyst_user, "database": schema.analytics_database(own), "sql": sql}
    if not sql:
        told["password_file"] = "" if own.analyst_password.get_secret_value() else str(settings.analyst_password_file)
    if as_json:
        print(json.dumps(told))
    else:
        print(sql, end="") if sql else show([{key: value for key, value in told.items() if value}], False)


@app.command()
def up() -> None:
    """All roles on this machine, under one process; what dies is started again. SIGHUP is passed on to `collect`."""
    from pinstream import roles

    settings = load_settings()
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

    log_to_stderr("text")
    options = run.Options(seconds=seconds, events_per_s=events_per_s, data_dir=data_dir, seed=seed, verbose=verbose)
    outcome: list[run.Summary] = []

    async def serve(stop: asyncio.Event) -> None:
        outcome.append(await run.demo(options, stop, _prefixed))

    _run(serve)
    if as_json and outcome:
        print(json.dumps(plain(outcome[0])))
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

    steps = asyncio.run(roles.migrate_all(load_settings(), dry_run=dry_run))
    if as_json:
        print(json.dumps([plain(step) for step in steps]))
        return
    for step in steps:
        ran = step.state == "pending" and not dry_run
        print(f"{step.number:04d} {step.name}: {'applied now' if ran else step.state}")
        if dry_run and step.state == "pending":
            print("\n".join(f"    {line}" for statement in step.statements for line in f"{statement};".splitlines()))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Name what is wrong with this set-up, and the fix. Exit code 1 if anything is."""
    from pinstream import doctor as examination

    try:
        findings = asyncio.run(examination.examine(load_settings()))
    except PinstreamError as exc:
        findings = [examination.fault("settings", exc)]
    if as_json:
        print(json.dumps([plain(finding) for finding in findings]))
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

    collect = load_settings().collect
    with open_store() as store:
        found = store.site(site)
    if not url:
        url = f"http://{collect.host}:{collect.port}"
        print(f"For this machine only, at {url}: --url says where browsers reach collect.", file=sys.stderr)
    made_for = made(found, platform.value, url, TagFiles(collect.script_path, collect.endpoint_path))
    for note in made_for.notes:
        print(f"Note: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(plain(made_for)))
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
        async with roles.open_warehouse(load_settings()) as clickhouse:
            return await clickhouse.select(query)

    show(asyncio.run(ask()), as_json)


# --- history -------------------------------------------------------------------------------------

File = Annotated[Path, typer.Argument(help="A .csv file, or .jsonl with an object a line.")]
SiteOption = Annotated[str, typer.Option(help="Tag id of the site.")]
Columns = Annotated[
    list[str],
    typer.Option(
        "--column",
        help="Which column holds what, such as em=E-Mail or order_id=Number. Nothing behind =: none. Repeat it.",
    ),
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
    status: Annotated[
        list[str],
        typer.Option(help="What a word in the column of states means: placed=, cancelled= or refunded=WORD."),
    ] = [],  # noqa: B006 - typer copies it
    encoding: Encoding = "utf-8",
    bad_rows: BadRows = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only read and judge the file; nothing is stored.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """History of a shop, out of its own files. Run it again after a stop: it goes on from there."""
    from pinstream import roles
    from pinstream.history.columns import reading

    how = reading(column, consent, time_zone, time_format, status)
    found: list[Any] = []
    with _bad_rows(bad_rows) as name_bad:

        async def serve(stop: asyncio.Event) -> None:
            wanted = roles.Imported(path=file, tag_id=site, reading=how, encoding=encoding, dry_run=dry_run)
            found.append(await roles.import_file(load_settings(), kind.value, wanted, stop, _say, name_bad))

        _run(serve)
    _imported(plain(found[0]) if found else {"finished": False}, as_json, vouched=bool(consent))
    if dry_run:
        _say("Nothing was stored: this was a dry run.")
    elif found and found[0].durable:
        _say(
            "In the event log. `pinstream load` (part of `up`) brings it into ClickHouse; `doctor` says how far it is."
        )


def _imported(report: dict[str, Any], as_json: bool, *, vouched: bool = False) -> None:
    """What became of a file; exit code 1 if it stopped before its end, or if all of it was refused."""
    for bad in report.get("bad", [])[:20]:
        print(f"line {bad['line']}: {bad['reason']} {bad['field']} {bad['hint']}".rstrip(), file=sys.stderr)
    if clamped := report.get("clamped"):
        _say(f"{clamped} are older than 400 days: they count as of then in totals, and the events are not kept.")
    if "consent" in report.get("dropped", {}) and not vouched:
        _say("Without consent nothing is stored. --consent yes, if you have it; see docs/import.md.")
    if unknown := report.get("unknown_states"):
        named = ", ".join(f"{state} ({orders})" for state, orders in unknown.items())
        _say(f"States of orders not understood, which count as placed: {named}. Say --status refunded=WORD or so.")
    if without := report.get("without_value"):
        _say(f"No sum is told of {without} orders: they add nothing to totals. Name its column: --column value=...")
    if as_json:
        print(json.dumps(report))
    else:
        show([{name: value for name, value in report.items() if name != "bad"}], as_json=False)
    if not report["finished"]:
        _say("Stopped. Run the same command again: what is there already is not taken twice.")
        raise typer.Exit(1)
    if report["refused"] and not report.get("valid", report.get("members")):
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

    show([plain(each) for each in asyncio.run(roles.lists(load_settings()))], as_json)


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

    asyncio.run(roles.drop_list(load_settings(), site, name))


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
            found.append(await roles.import_list(load_settings(), operation, wanted, name, stop, _say, name_bad))

        _run(serve)
    _imported(plain(found[0]) if found else {"finished": False}, as_json)


# --- spool ---------------------------------------------------------------------------------------


@spool.command("status")
def spool_status(as_json: AsJson = False) -> None:
    """Each file: records, bytes, age, and the process that writes it."""
    from pinstream.eventlog import spool_file

    found = spool_file.standing(load_settings().spool_dir)
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
        show([{name: "-" if value is None else value for name, value in row.items()} for row in rows], as_json)


@spool.command("drain")
def spool_drain(as_json: AsJson = False) -> None:
    """Send to Kafka, now, what dead processes left. Files that a running process holds are left to it.

    Exit code 1 if some of what dead processes left stays.
    """
    from pinstream.eventlog import drain_spool

    def report(file: int, records: int) -> None:
        print(f"file {file}: {records} records left", file=sys.stderr)

    found = asyncio.run(drain_spool(load_settings(), report))
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
    for verdict in spool_file.verify(load_settings().spool_dir):
        print(f"file {verdict.file}: {verdict.records} records, {verdict.damage or 'whole'}", file=sys.stderr)
        verdicts.append(verdict)
    if as_json:
        print(
            json.dumps({"records": sum(each.records for each in verdicts), "files": [plain(each) for each in verdicts]})
        )
    else:
        show([plain(each) for each in verdicts], as_json)
    if any(each.damage or each.unreadable for each in verdicts):
        raise typer.Exit(1)
