"""`pinstream audiences`: what they need they import late, so that `--help` is quick."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pinstream.clock import now_ms
from pinstream.commands.terminal import AsJson, load_settings, open_store, plain, show
from pinstream.errors import Refused

if TYPE_CHECKING:
    from pinstream.audiences.desk import Subject
    from pinstream.warehouse.client import Warehouse

T = TypeVar("T")

audiences = typer.Typer(no_args_is_help=True, help="Audiences: add, preview, explain, export, sync.")


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
                "detail": links[audience.id].detail if audience.id in links else "",
            }
            for audience in store.audiences()
        ]
    show(rows, as_json)


@audiences.command("history")
def audiences_history(
    audience: Annotated[str, typer.Argument(help="Its number, or its name.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many syncs, the newest first.")] = 30,
    as_json: AsJson = False,
) -> None:
    """How its list at Pinterest grew and shrank, sync by sync: size, entered, left, and what waits."""
    from pinstream.audiences import membership

    with open_store() as store:
        found = [each.id for each in store.audiences() if audience in (str(each.id), each.name)]
    if len(found) != 1:
        raise Refused("bad_value", f"{len(found)} audiences are called {audience}. `pinstream audiences list`.")

    async def past(warehouse: Warehouse, asked: Subject) -> list[membership.Past]:
        target = membership.Target(site_id=asked.audience.site_id, audience_id=asked.audience.id, run_id=0)
        return await membership.history(warehouse, target, limit=limit)

    show([plain(each) for each in _asked(found[0], past)], as_json)


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
    show(rows, as_json)


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
    account = ad_account or load_settings().pinterest.ad_account_id
    with open_store() as store:
        site_id = store.site(site).id
        desk.check_names(store, site_id, wanted)
        audience = store.add_audience(
            site_id=site_id,
            name=name or (rule.stem if rule else template),
            rule=to_json(wanted),
            now_ms=now_ms(),
        )
        if account and wanted.level == "person":
            store.connect(audience_id=audience.id, ad_account_id=account, now_ms=now_ms())
    show([plain(audience)], as_json)


@audiences.command("preview")
def audiences_preview(audience_id: int, as_json: AsJson = False) -> None:
    """How many are in it now, and who that is in words, in English and French."""
    from pinstream.audiences import desk

    found = _asked(audience_id, desk.preview)
    if as_json:
        print(json.dumps(plain(found)))
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
    print(json.dumps(plain(found)) if as_json else "\n".join(desk.told(found, language.value)))


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
        show([asyncio.run(roles.sync_now(load_settings(), audience_id, confirm_removals=confirm_removals))], as_json)
        return
    from pinstream.audiences import desk
    from pinstream.push import plan

    found = _asked(audience_id, desk.dry_run)
    guard = plan.guard(load_settings().push)
    held = 0 if confirm_removals else guard.held(members=found.members, removes=found.removes, asked=found.withdrawn)
    show([plain(found) | {"held": held}], as_json)


def _asked(audience_id: int, question: Callable[[Warehouse, Subject], Awaitable[T]]) -> T:
    """The answer to a question about an audience."""
    from pinstream import roles
    from pinstream.audiences import desk
    from pinstream.privacy import suppress

    settings = load_settings()

    async def ask() -> T:
        async with roles.open_store(settings) as store, roles.open_warehouse(settings) as clickhouse:
            asked = await desk.subject(store, audience_id, settings.audiences.rates, now_ms=now_ms())
            await suppress.carry(store, clickhouse, asked.audience.site_id)
            return await question(clickhouse, asked)

    return asyncio.run(ask())
