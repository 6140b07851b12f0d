"""What people ask about an audience: how many are in, why this person is or is not, who they are, what a sync would do.

Reads only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from pinstream.audiences import compile, membership, rule, templates, words
from pinstream.audiences.compile import Level, Money, Query
from pinstream.audiences.membership import Counts, Target
from pinstream.audiences.rule import (
    Arrived,
    Condition,
    Did,
    Engaged,
    FirstSeen,
    Group,
    InAudience,
    LastSeen,
    OnList,
    Orders,
    Rule,
)
from pinstream.audiences.templates import Language
from pinstream.errors import Refused
from pinstream.state.runs import MEMBER_BYTES
from pinstream.state.store import Audience, Store
from pinstream.warehouse.client import Warehouse

LANGUAGES: tuple[Language, ...] = ("en", "fr")
VISITOR_BYTES = 8
MAX_EVENT_NAMES = 10_000
"""Of a site, looked through for those that a rule asks for."""
NAMED_EVENTS = 20
"""So many are told, the most frequent first."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Subject(Struct, frozen=True):
    """An audience to be asked about, at one moment."""

    audience: Audience
    rule: Rule
    money: Money
    now_ms: int
    names: words.Names = words.NO_NAMES
    """What the site's lists and audiences are called."""

    def answers(self) -> Query:
        """Everybody who is in: `em` of a rule about people, `visitor_id` of one about visitors."""
        ask = compile.members if self.rule.level == "person" else compile.visitors
        return ask(self.rule, site_id=self.audience.site_id, now_ms=self.now_ms, money=self.money)


class Preview(Struct, frozen=True, kw_only=True):
    """How many are in, and who that is in words, by language."""

    id: int
    name: str
    size: int
    """People, or browsers if the rule is about visitors."""
    visitors: int
    """Browsers of which the rule is true on their own, known by e-mail or not."""
    reads_events: bool
    undecided: int
    """Who match, and never said yes or no to tracking."""
    declined: int
    """Who match, and said no."""
    unseen: list[str]
    """Events that the rule asks for and that never came: of a condition whose others came, those of own making."""
    unpriced: int
    """Orders of those who are in whose currency has no rate."""
    full: int
    """Of those who are in: who bought more than is kept."""
    size_in_words: dict[Language, str]
    sentence: dict[Language, str]
    notes: dict[Language, list[str]]


class Reason(Struct, frozen=True, kw_only=True):
    """One condition, asked of one person."""

    group: Group
    holds: bool
    clause: dict[Language, str]
    seen_s: int = 0
    """When it was last true, seconds since 1970; 0 = never, or a matter without a time."""
    count: int | None = None
    """How often, where the condition counts."""
    money: float | None = None
    """What the orders counted come to in the site's currency, where the condition asks for money."""


class Explanation(Struct, frozen=True, kw_only=True):
    """Why one person is in an audience, or is not."""

    em: str
    known: bool
    """False: the e-mail was never seen here, or on too many devices to belong to one person."""
    is_in: bool
    consent: rule.Word = "unknown"
    erased: bool = False
    devices: int = 0
    """Without those that are shared."""
    quiet: bool = True
    """Nothing was seen for as long as the rule asks."""
    quiet_for_min: int = 0
    """So long."""
    last_seen_s: int = 0
    """Seconds since 1970; 0 = never."""
    currency: str = ""
    """The site's, of the reasons' money."""
    reasons: list[Reason] = []


class DryRun(Struct, frozen=True, kw_only=True):
    """What a sync would do now."""

    id: int
    name: str
    desired: int
    members: int
    adds: int
    removes: int
    withdrawn: int
    """Of the removals: people who withdrew or were erased. They are never held back."""
    enabled: bool
    """Else nobody but them is sent."""


def rule_of_template(key: str, changes: Sequence[str]) -> Rule:
    """The rule of a template, changed as `name=value` says. Raises Refused."""
    wanted = {}
    for change in changes:
        name, sign, value = change.partition("=")
        if not sign:
            raise Refused("bad_value", f"A change is name=value, not {change!r}.", field="set")
        wanted[name.strip()] = value.strip()
    found = templates.template(key).rule(wanted)
    rule.check_possible(found)
    return found


def rule_of_file(path: Path) -> Rule:
    """The rule in a .json or .toml file. Raises Refused."""
    try:
        text = path.read_bytes()[: rule.MAX_BYTES + 1]
    except OSError as exc:
        raise Refused("bad_value", f"Cannot read {path}: {exc.strerror}.", field="rule") from exc
    found = rule.from_toml(text) if path.suffix == ".toml" else rule.from_json(text)
    rule.check_possible(found)
    return found


def check_names(store: Store, site_id: int, asked: Rule, *, before: int | None = None) -> None:
    """Raise Refused if `asked` names a list or an audience that its site does not have.

    To be done before it is stored, of a new rule for the audience numbered `before` too: as an audience can only name
    those before it, none asks for itself, by whatever way.
    """
    lists = {each.id for each in store.lists(site_id=site_id)}
    others = {each.id for each in store.audiences(site_id=site_id) if before is None or each.id < before}
    for group, number, each in asked.conditions():
        path = f"$.{group}[{number}]"
        if isinstance(each, OnList) and (missing := set(each.lists) - lists):
            raise Refused("bad_value", f"The site has no list {min(missing)}. See `pinstream lists list`.", field=path)
        if isinstance(each, InAudience) and (missing := set(each.audiences) - others):
            which = "audience" if before is None else f"audience older than {before} with the number"
            detail = f"The site has no {which} {min(missing)}. See `pinstream audiences list`."
            raise Refused("bad_value", detail, field=path)


def check_unnamed(store: Store, audience: Audience) -> None:
    """Raise Refused if the rule of another audience names this one."""
    for other in store.audiences(site_id=audience.site_id):
        for _, _, each in rule.from_json(other.rule).conditions():
            if isinstance(each, InAudience) and audience.id in each.audiences:
                raise Refused(
                    "bad_value", f"The rule of audience {other.id}, {other.name}, names it. Change that first."
                )


async def subject(store: Store, audience_id: int, rates: Mapping[str, float], *, now_ms: int) -> Subject:
    """The audience to ask about. Raises Refused if there is none, or its rule is not valid."""
    audience = await asyncio.to_thread(store.audience, audience_id)
    currency = await asyncio.to_thread(store.currency, audience.site_id)
    names = await _names(store, audience.site_id)
    return Subject(audience, rule.from_json(audience.rule), Money(currency=currency, rates=rates), now_ms, names)


async def draft(
    store: Store, tag_id: str, name: str, wanted: Rule, rates: Mapping[str, float], *, now_ms: int
) -> Subject:
    """An audience that is not saved, to ask about: its number is 0.

    Raises Refused if there is no such site, or as `check_names`.
    """
    site = await asyncio.to_thread(store.site, tag_id)
    await asyncio.to_thread(check_names, store, site.id, wanted)
    made = Audience(id=0, site_id=site.id, name=name, rule=rule.to_json(wanted), enabled=False, created_ms=now_ms)
    return Subject(made, wanted, Money(currency=site.currency, rates=rates), now_ms, await _names(store, site.id))


async def _names(store: Store, site_id: int) -> words.Names:
    lists = await asyncio.to_thread(store.lists, site_id=site_id)
    audiences = await asyncio.to_thread(store.audiences, site_id=site_id)
    return {"list": {each.id: each.name for each in lists}, "audience": {each.id: each.name for each in audiences}}


async def preview(warehouse: Warehouse, asked: Subject) -> Preview:
    """How many are in now."""
    level = asked.rule.level
    own = await _preview(warehouse, asked, level)
    visitors = own["n"] if level == "visitor" else (await _preview(warehouse, asked, "visitor"))["n"]
    missing, seen = await _unseen(warehouse, asked)
    said = {language: words.notes(asked.rule, language, own) for language in LANGUAGES}
    if missing:
        said = {language: [words.unseen(missing, seen, language), *notes] for language, notes in said.items()}
    return Preview(
        id=asked.audience.id,
        name=asked.audience.name,
        size=own["n"],
        visitors=visitors,
        reads_events=any(rule.reads_events(each) for _, _, each in asked.rule.conditions()),
        undecided=own["undecided"],
        declined=own["declined"],
        unseen=missing,
        unpriced=own["unpriced"],
        full=own["full"],
        size_in_words={language: words.size(own["n"], asked.rule, language) for language in LANGUAGES},
        sentence={
            language: words.sentence(asked.rule, language, asked.money.currency, asked.names) for language in LANGUAGES
        },
        notes=said,
    )


async def _unseen(warehouse: Warehouse, asked: Subject) -> tuple[list[str], list[str]]:
    """The events that the rule asks for and that never came, and the names of those that did.

    A usual event is none of them where another in its place came: many shops send one of two.
    """
    asks = [each.events for _, _, each in asked.rule.conditions() if isinstance(each, Did)]
    if not asks:
        return [], []
    sql = (
        "SELECT event_name FROM visitor_day WHERE site_id = {site:UInt32} "
        "GROUP BY event_name ORDER BY count() DESC LIMIT {most:UInt32}"
    )
    rows = await warehouse.select(sql, {"site": asked.audience.site_id, "most": MAX_EVENT_NAMES})
    seen = [str(row["event_name"]) for row in rows]
    missing = dict.fromkeys(
        event
        for events in asks
        for event in events
        if event not in seen and (event not in words.EVENTS or not set(seen).intersection(events))
    )
    return list(missing), seen[:NAMED_EVENTS]


async def explain(warehouse: Warehouse, asked: Subject, em: str) -> Explanation:
    """Why the person of e-mail hash `em`, hex, is in or not. Raises Refused if the rule is about visitors."""
    if not _SHA256.fullmatch(em):
        raise Refused("bad_hash", "A person is named by an e-mail address or its SHA-256.", field="person")
    if asked.rule.level != "person":
        raise Refused("bad_value", "This rule is about browsers: no person can be explained.", field="$.level")
    site_id = asked.audience.site_id
    query = compile.explain(asked.rule, em=em, site_id=site_id, now_ms=asked.now_ms, money=asked.money)
    rows = await warehouse.select(query.sql, query.params)
    if not rows:
        return Explanation(em=em, known=False, is_in=False)
    [row] = rows
    reasons = [_reason(asked, row, group, number, each) for group, number, each in asked.rule.conditions()]
    words_of_consent: tuple[rule.Word, ...] = ("unknown", "yes", "no")
    some = [reason.holds for reason in reasons if reason.group == "any"]
    true = all(reason.holds is (reason.group == "all") for reason in reasons if reason.group != "any")
    return Explanation(
        em=em,
        known=True,
        is_in=true and (any(some) or not some) and bool(row["quiet"]) and row["consent"] == 1 and not row["erased"],
        consent=words_of_consent[row["consent"]],
        erased=bool(row["erased"]),
        devices=row["devices"],
        quiet=bool(row["quiet"]),
        quiet_for_min=asked.rule.quiet_for_min,
        last_seen_s=int(row["last_seen"]),
        currency=asked.money.currency,
        reasons=reasons,
    )


async def export(warehouse: Warehouse, asked: Subject) -> tuple[int, Iterator[str]]:
    """How many are in, and a line for each, in order: SHA-256 of the e-mail in hex, or the number of the visitor.

    All of one moment; holds 32 bytes a person in memory.
    """
    query = asked.answers()
    person = asked.rule.level == "person"
    who = "em" if person else "visitor_id"
    sql = f"SELECT {who} FROM ({query.sql}) ORDER BY {who}"  # noqa: S608 - constants of compile.py; values are bound
    found = await warehouse.select_bytes(sql, query.params, "RowBinary")
    step = MEMBER_BYTES if person else VISITOR_BYTES

    def lines() -> Iterator[str]:
        for at in range(0, len(found), step):
            one = found[at : at + step]
            yield one.hex() if person else str(int.from_bytes(one, "little"))

    return len(found) // step, lines()


async def dry_run(warehouse: Warehouse, asked: Subject) -> DryRun:
    """What a sync would do now; nothing is written. Raises Refused if the rule is about visitors."""
    site_id, audience = asked.audience.site_id, asked.audience
    wanted = compile.members(asked.rule, site_id=site_id, now_ms=asked.now_ms, money=asked.money)
    target = Target(site_id=site_id, audience_id=audience.id, run_id=0)
    withdrawn = compile.withdrawn(site_id=site_id, now_ms=asked.now_ms)
    counts, gone = await membership.compare(warehouse, target, wanted, withdrawn)
    counts = counts if audience.enabled else counts.disabled(gone)
    return DryRun(id=audience.id, name=audience.name, **_fields(counts), withdrawn=gone, enabled=audience.enabled)


def told(found: Explanation, language: Language) -> list[str]:
    """An explanation in lines for a person."""
    say = words.Speaker(language, found.currency)
    if not found.known:
        return [say("nobody")]
    lines = [say("is_in" if found.is_in else "is_out", found.devices)]
    if found.erased:
        lines.append(say("erased"))
    if found.consent != "yes":
        lines.append(say(f"no_consent_{found.consent}"))
    if not found.quiet:
        lines.append(say("not_quiet", _minute(found.last_seen_s), say("minutes", found.quiet_for_min)))
    return lines + [_line(reason, language, say) for reason in found.reasons]


def _line(reason: Reason, language: Language, say: words.Speaker) -> str:
    by = ""
    if reason.money is not None:
        by = say("counted", say("money_in", say.money(reason.money), say("orders", reason.count or 0)))
    elif reason.count is not None:
        by = say("counted", reason.count)
    elif reason.seen_s:
        by = say("last_time", _minute(reason.seen_s))
    wanted = say({"all": "must", "any": "may", "none": "must_not"}[reason.group])
    return f"  {say('true' if reason.holds else 'false')} {reason.clause[language]} ({wanted}{by})"


def _minute(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")


def _fields(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in counts.__struct_fields__}


async def _preview(warehouse: Warehouse, asked: Subject, level: Level) -> dict[str, int]:
    site_id = asked.audience.site_id
    query = compile.preview(asked.rule, level=level, site_id=site_id, now_ms=asked.now_ms, money=asked.money)
    [row] = await warehouse.select(query.sql, query.params)
    return {name: int(value) for name, value in row.items()}


def _reason(asked: Subject, row: Mapping[str, Any], group: Group, number: int, condition: Condition) -> Reason:
    place = f"{group}_{number}"
    seen = int(row[f"{place}_seen"])
    counts = isinstance(condition, Orders) or (isinstance(condition, Did) and condition.at_least > 1)
    timed = isinstance(condition, Arrived | FirstSeen | LastSeen | Did | Engaged) and not counts
    never = 4_294_967_295  # of a first time that has not come
    return Reason(
        group=group,
        holds=bool(row[place]),
        clause={
            language: words.clause(condition, language, asked.money.currency, asked.names) for language in LANGUAGES
        },
        seen_s=seen if timed and 1 < seen < never else 0,
        count=seen if counts else None,
        money=float(row[f"{place}_money"]) if f"{place}_money" in row else None,
    )
