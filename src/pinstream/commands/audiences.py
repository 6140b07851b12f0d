"""`pinstream audiences`: what they need they import late, so that `--help` is quick."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pinstream.clock import now_ms
from pinstream.commands.terminal import AsJson, load_settings, open_store, plain, show
from pinstream.errors import Refused

if TYPE_CHECKING:
    from pinstream.audiences.desk import Subject
    from pinstream.audiences.rule import Rule
    from pinstream.state.runs import Run
    from pinstream.state.store import Audience, Link, Store
    from pinstream.warehouse.client import Warehouse

T = TypeVar("T")

audiences = typer.Typer(no_args_is_help=True, help="Audiences: preview, add, connect, explain, export, sync.")

DEFAULT = "cart_abandoned"
Which = Annotated[str, typer.Argument(metavar="AUDIENCE", help="Its number, or its name.")]
TemplateOption = Annotated[
    str | None, typer.Option(help=f"One of `pinstream audiences templates`; default: {DEFAULT}.")
]
Changes = Annotated[
    list[str], typer.Option("--set", help="Change the template: within_days=14. Repeat it; lists with commas.")
]
RuleOption = Annotated[Path | None, typer.Option(help="A rule of your own, a .json or .toml file.")]
AdAccount = Annotated[str | None, typer.Option(help="Pinterest's number of the ad account; default: the settings'.")]


class Language(StrEnum):
    """Languages of what marketers read."""

    en = "en"
    fr = "fr"


@audiences.command("list")
def audiences_list(as_json: AsJson = False) -> None:
    """All audiences, how their connection to Pinterest is, and what the latest sync left: size, entered, left."""
    from pinstream import roles

    latest = asyncio.run(roles.latest_syncs(load_settings()))
    with open_store() as store:
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
                "detail": _detail(audience, links.get(audience.id)),
            }
            for audience in store.audiences()
        ]
    show(rows, as_json)


def _detail(audience: Audience, link: Link | None) -> str:
    """What a reader of the list may wonder about."""
    if link is None:
        return f"Not connected: `pinstream audiences connect {audience.id}`."
    if link.state != "new":
        return link.detail
    return "Nobody is in: the first member makes the list." if link.last_run_ms else "Waits for its first sync by push."


@audiences.command("history")
def audiences_history(
    audience: Which,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many syncs, the newest first.")] = 30,
    as_json: AsJson = False,
) -> None:
    """How its list at Pinterest grew and shrank, sync by sync: size, entered, left, and what waits."""
    from pinstream.audiences import membership

    async def past(warehouse: Warehouse, asked: Subject) -> list[membership.Past]:
        target = membership.Target(site_id=asked.audience.site_id, audience_id=asked.audience.id, run_id=0)
        return await membership.history(warehouse, target, limit=limit)

    show([plain(each) for each in _asked(audience, past)], as_json)


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
            "set": {parameter.name: parameter.default for parameter in each.parameters}
            if as_json
            else " ".join(
                f"--set {parameter.name}={parameter.default or templates.EXAMPLES.get(parameter.kind, 0)}"
                for parameter in each.parameters
            ),
        }
        for each in templates.ALL
    ]
    show(rows, as_json)


@audiences.command("add")
def audiences_add(
    site: Annotated[str, typer.Option(help="Tag id of the site.")],
    template: TemplateOption = None,
    changes: Changes = [],  # noqa: B006 - typer copies it
    rule: RuleOption = None,
    name: Annotated[str, typer.Option(help="Its name; default: the template's.")] = "",
    ad_account: AdAccount = None,
    draft: Annotated[bool, typer.Option("--draft", help="Only save it; `audiences connect` sends it later.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create an audience from a template or a rule and, if an ad account is known, connect it to Pinterest."""
    from pinstream.audiences import desk
    from pinstream.audiences.rule import to_json

    called, wanted = _wanted(template, changes, rule)
    account = "" if draft or wanted.level == "visitor" else _account(ad_account)
    with open_store() as store:
        site_id = store.site(site).id
        desk.check_names(store, site_id, wanted)
        audience = store.add_audience(site_id=site_id, name=name or called, rule=to_json(wanted), now_ms=now_ms())
        if account:
            store.connect(audience_id=audience.id, ad_account_id=account, now_ms=now_ms())
    if account:
        _told_of_connection(audience, account)
    elif wanted.level == "visitor":
        print("A rule about browsers: it can be counted and exported, and is never pushed.", file=sys.stderr)
    else:
        print(f"Saved, not connected: `pinstream audiences connect {audience.id}` sends it.", file=sys.stderr)
    show([plain(audience)], as_json)


@audiences.command("connect")
def audiences_connect(audience: Which, ad_account: AdAccount = None, as_json: AsJson = False) -> None:
    """Connect a saved audience to an ad account: from then on `push` mirrors it."""
    from pinstream.audiences.rule import from_json

    with open_store() as store:
        found = _named(store, audience)
        if from_json(found.rule).level == "visitor":
            raise Refused("bad_value", f"Audience {found.id} is about browsers: such a rule is never pushed.")
        if not (account := _account(ad_account)):
            raise Refused("missing_field", "Which ad account? Say --ad-account, or set pinterest.ad_account_id.")
        link = store.connect(audience_id=found.id, ad_account_id=account, now_ms=now_ms())
    _told_of_connection(found, account)
    show([plain(link)], as_json)


@audiences.command("set")
def audiences_set(
    audience: Which,
    template: TemplateOption = None,
    changes: Changes = [],  # noqa: B006 - typer copies it
    rule: RuleOption = None,
    name: Annotated[str | None, typer.Option(help="A new name; Pinterest's list keeps the old one.")] = None,
    enabled: Annotated[
        bool | None,
        typer.Option("--enable/--disable", help="A disabled one keeps its list as it is, less who withdraws."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change an audience. What is not named stays as it is; the next sync goes by it."""
    from pinstream.audiences import desk
    from pinstream.audiences.rule import from_json, to_json

    if changes and not template and not rule:
        raise typer.BadParameter("--set changes a template: name it with --template.")
    wanted = _wanted(template, changes, rule)[1] if template or rule else None
    with open_store() as store:
        found = _named(store, audience)
        if wanted and wanted.level != from_json(found.rule).level:
            raise Refused("bad_value", "A rule about people and one about browsers cannot take each other's place.")
        if wanted:
            desk.check_names(store, found.site_id, wanted, before=found.id)
        changed = store.set_audience(found.id, name=name, rule=to_json(wanted) if wanted else None, enabled=enabled)
    show([plain(changed)], as_json)


@audiences.command("remove")
def audiences_remove(audience: Which) -> None:
    """Delete an audience that is not connected to Pinterest, and that no other rule names."""
    from pinstream.audiences import desk

    with open_store() as store:
        found = _named(store, audience)
        desk.check_unnamed(store, found)
        store.remove_audience(found.id)


@audiences.command("preview")
def audiences_preview(
    audience: Annotated[str | None, typer.Argument(help="Its number, or its name; or --site and --template.")] = None,
    site: Annotated[str, typer.Option(help="Tag id of the site, for a template or rule that is not saved.")] = "",
    template: TemplateOption = None,
    changes: Changes = [],  # noqa: B006 - typer copies it
    rule: RuleOption = None,
    as_json: AsJson = False,
) -> None:
    """How many are in it now, and who that is in words, in English and French; also of a rule before it is saved."""
    from pinstream.audiences import desk

    if (audience is None) != bool(site) or (audience and (template or changes or rule)):
        raise typer.BadParameter("Name an audience, or say --site and --template or --rule.")
    if audience is not None:
        found = _asked(audience, desk.preview)
    else:
        name, wanted = _wanted(template, changes, rule)
        found = _answered(lambda store: desk.draft(store, site, name, wanted, _rates(), now_ms=now_ms()), desk.preview)
    if as_json:
        print(json.dumps(plain(found)))
        return
    for language in desk.LANGUAGES:
        print(f"{language}  {found.sentence[language]}")
        print(
            "".join(f"    {line}\n" for line in (f"{found.size_in_words[language]}.", *found.notes[language])), end=""
        )


@audiences.command("explain")
def audiences_explain(
    audience: Which,
    person: Annotated[str, typer.Option(help="An e-mail address, or its SHA-256 in hex.")],
    language: Annotated[Language, typer.Option(help="Of the answer.")] = Language.en,
    as_json: AsJson = False,
) -> None:
    """Why one person is in it or not: each condition, and what it was decided by."""
    from pinstream.audiences import desk
    from pinstream.collect.identity import hashed

    try:
        em = hashed("em", person, "", "person")
    except Refused as exc:
        raise Refused("bad_hash", f"{person!r} is no e-mail address, and no SHA-256 of one in hex.") from exc
    found = _asked(audience, lambda warehouse, asked: desk.explain(warehouse, asked, em))
    print(json.dumps(plain(found)) if as_json else "\n".join(desk.told(found, language.value)))


@audiences.command("export")
def audiences_export(
    audience: Which,
    out: Annotated[Path | None, typer.Option(help="Write here; default: to the terminal.")] = None,
    as_json: AsJson = False,
) -> None:
    """Who is in it now, as CSV: a SHA-256 of an e-mail address a line; for rules about browsers a visitor's number."""
    from pinstream.audiences import desk

    count, lines = _asked(audience, desk.export)
    if as_json and out is None:
        raise typer.BadParameter("--json needs --out: the lines themselves go to the terminal.")
    with open(out, "w") if out else nullcontext(sys.stdout) as file:
        file.writelines(f"{line}\n" for line in lines)
    if as_json:
        print(json.dumps({"audience": audience, "lines": count, "file": str(out)}))
    else:
        print(f"{count} lines", file=sys.stderr)


@audiences.command("sync")
def audiences_sync(
    audience: Which,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what a sync would do.")] = False,
    confirm_removals: Annotated[
        bool, typer.Option("--confirm-removals", help="Allow this sync to remove any number of members.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make Pinterest's list equal to the audience now."""
    from pinstream import roles

    if not dry_run:
        with open_store() as store:
            audience_id = _named(store, audience).id
        run = asyncio.run(roles.sync_now(load_settings(), audience_id, confirm_removals=confirm_removals))
        show([run_told(run)], as_json)
        return
    from pinstream.audiences import desk
    from pinstream.push import plan

    found = _asked(audience, desk.dry_run)
    guard = plan.guard(load_settings().push)
    held = 0 if confirm_removals else guard.held(members=found.members, removes=found.removes, asked=found.withdrawn)
    told = plain(found) | {"held": held}
    show([told if found.enabled else told | {"note": plan.DISABLED}], as_json)


def run_told(run: Run) -> dict[str, object]:
    """A sync as people read it. What is held waits with the additions: the list then shrinks by withdrawals alone."""
    told = plain(run)
    for name in ("started", "finished"):
        told[f"{name}_at"] = _utc(told.pop(f"{name}_ms"))
    told["before"] = told.pop("members")
    if run.status == "done":
        told["after"] = told["before"] + run.adds - run.removes
    return told


def _utc(time_ms: int | None) -> str | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")


def _wanted(template: str | None, changes: list[str], rule: Path | None) -> tuple[str, Rule]:
    """The rule that the options name, and what it is called."""
    from pinstream.audiences import desk

    if rule and (template or changes):
        raise typer.BadParameter("--rule is a whole rule: --template and --set have no place beside it.")
    if rule:
        return rule.stem, desk.rule_of_file(rule)
    return template or DEFAULT, desk.rule_of_template(template or DEFAULT, changes)


def _account(wanted: str | None) -> str:
    """The ad account to connect to; empty where none is known."""
    from pinstream.state.store import check_ad_account

    if wanted == "":
        raise typer.BadParameter("--draft saves an audience without connecting it.")
    account = wanted or load_settings().pinterest.ad_account_id
    if account:
        check_ad_account(account)
    return account


def _told_of_connection(audience: Audience, account: str) -> None:
    from pinstream.push.sync import POLL_S

    soon = f"`push`, where it runs, begins its first sync within {POLL_S:.0f} s"
    print(f"Audience {audience.id} is connected to ad account {account}: {soon}.", file=sys.stderr)


def _named(store: Store, wanted: str) -> Audience:
    """The audience of this number or name. Raises Refused if it is not exactly one."""
    everything = store.audiences()
    found = [each for each in everything if wanted == str(each.id)] or [
        each for each in everything if wanted == each.name
    ]
    if len(found) != 1:
        numbers = f": {', '.join(str(each.id) for each in found)}" if found else ""
        which = f"{len(found)} audiences are called {wanted}{numbers}." if found else f"There is no audience {wanted}."
        detail = f"{which} `pinstream audiences list` shows them."
        raise Refused("bad_value", detail)
    return found[0]


def _rates() -> dict[str, float]:
    return load_settings().audiences.rates


def _asked(audience: str, question: Callable[[Warehouse, Subject], Awaitable[T]]) -> T:
    """The answer to a question about a saved audience."""
    from pinstream.audiences import desk

    def subject(store: Store) -> Awaitable[Subject]:
        return desk.subject(store, _named(store, audience).id, _rates(), now_ms=now_ms())

    return _answered(subject, question)


def _answered(
    subject: Callable[[Store], Awaitable[Subject]], question: Callable[[Warehouse, Subject], Awaitable[T]]
) -> T:
    from pinstream import roles
    from pinstream.privacy import suppress

    settings = load_settings()

    async def ask() -> T:
        async with roles.open_store(settings) as store, roles.open_warehouse(settings) as clickhouse:
            asked = await subject(store)
            await suppress.carry(store, clickhouse, asked.audience.site_id)
            return await question(clickhouse, asked)

    return asyncio.run(ask())
