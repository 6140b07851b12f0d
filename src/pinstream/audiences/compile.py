"""From rules to ClickHouse's SQL: pure text, every value a bound parameter. Several rules share one pass.

How the people of a site are put together:

- *shared device*: a visitor with more than MAX_IDS_PER_VISITOR hashes of a kind within SHARED_WINDOW_S, as a till has.
- *shared id*: an e-mail hash or external id with more than MAX_VISITORS_PER_ID visitors; it belongs to nobody.
- *person of an e-mail*: its devices, and the devices that share an external id with one of them. Shared ids join
  nothing, shared devices are left out.
- *consent of a person*: the latest word of those devices. Of a shared device only a no counts.
- *erased person*: the e-mail was erased, or anything else that was seen on one of those devices.

A statement is built from the inside out: *facts* of each visitor, read from `visitor_profile` or looked up by visitor;
for persons each fact put together over their devices; then `figures` worked out of them; then the conditions. What
two conditions, or two rules, have in common is read once. `words.py` and docs/audiences.md say the same for people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

from msgspec import Struct

from pinstream.audiences import rule as rules
from pinstream.audiences.rule import (
    ACTION_COLUMNS,
    MAX_AT_LEAST,
    Arrived,
    Bought,
    Condition,
    Consents,
    Did,
    Engaged,
    FirstSeen,
    InAudience,
    Known,
    LastSeen,
    OnList,
    Orders,
    Rule,
    Where,
)
from pinstream.errors import Refused
from pinstream.warehouse import schema

MAX_VISITORS_PER_ID: Final = 50
MAX_IDS_PER_VISITOR: Final = 5
SHARED_WINDOW_S: Final = 30 * 86_400
BOUGHT_CAP: Final = 500
"""So many products, or categories, a visitor's set holds; a full one may lack some."""
ORDERS_CAP: Final = 2000
"""So many tellings of orders a visitor's set holds, a copy with another second or amount being one more."""

Level = Literal["person", "visitor"]

_IDENTITIES: Final = """
WITH
  shared_device AS (
    SELECT visitor_id FROM identity
    WHERE site_id = {site:UInt32} AND id_type IN ('em', 'external_id')
      AND last_seen >= toDateTime({shared_since:UInt32})
    GROUP BY visitor_id, id_type HAVING uniqExact(id_value) > {max_ids:UInt32}),
  shared_external_id AS (
    SELECT id_value FROM identity WHERE site_id = {site:UInt32} AND id_type = 'external_id'
    GROUP BY id_value HAVING uniqExact(visitor_id) > {max_visitors:UInt32}),
  by_em AS (
    SELECT id_value AS em, visitor_id FROM identity
    WHERE site_id = {site:UInt32} AND id_type = 'em'ONE_PERSON),
  by_external_id AS (
    SELECT id_value AS external_id, visitor_id FROM identity
    WHERE site_id = {site:UInt32} AND id_type = 'external_id' AND id_value NOT IN shared_external_id),
  em_to_external_id AS (
    SELECT DISTINCT by_em.em AS em, by_external_id.external_id AS external_id
    FROM by_em INNER JOIN by_external_id ON by_em.visitor_id = by_external_id.visitor_id
    WHERE by_em.visitor_id NOT IN shared_device),
  device AS (
    SELECT em, visitor_id, 1 AS direct FROM by_em
    UNION ALL
    SELECT em_to_external_id.em, by_external_id.visitor_id, 0
    FROM em_to_external_id
    INNER JOIN by_external_id ON em_to_external_id.external_id = by_external_id.external_id)
"""
"""`device`: which visitors an e-mail has. A row may come more than once: only aggregates that do not mind are used."""
_ONE_PERSON: Final = " AND id_value = unhex({em:String})"

_CONSENT: Final = (
    "bitAnd(maxIf(profile.consent, bitAnd(profile.consent, 3) = 2 OR (bitAnd(profile.consent, 3) = 1 "
    "AND NOT profile.shared)), 3)"
)
_ERASED_ROWS: Final = "FROM erased WHERE site_id = {site:UInt32} AND id_type"
_ERASED: Final = f"SELECT id_value {_ERASED_ROWS} != 'visitor'"
"""Of which kind they are does not matter: no hash is one of two things."""
_ERASED_DEVICES: Final = (
    f"SELECT visitor_id FROM identity WHERE site_id = {{site:UInt32}} AND id_type IN KINDS AND id_value IN ({_ERASED}) "
    f"UNION ALL SELECT toUInt64OrZero(id_value) {_ERASED_ROWS} = 'visitor'"
)
_GONE_VISITOR: Final = _ERASED_DEVICES.replace("KINDS", "('em', 'epik', 'external_id', 'ph')")
_GONE_DEVICE: Final = _ERASED_DEVICES.replace("KINDS", "('epik', 'external_id', 'ph')")
"""Of a device that has a second e-mail, only the erased one is gone."""
_CANCELLED: Final = "SELECT order_key FROM cancelled_order WHERE site_id = {site:UInt32}"

_TOGETHER: Final = {
    "any": "max({} AND NOT profile.shared)",
    "max": "maxIf({}, NOT profile.shared)",
    "min": "minIf({}, NOT profile.shared)",
    "all": "groupUniqArrayArrayIf({}, NOT profile.shared)",
    "union": f"groupUniqArrayArrayIf({MAX_AT_LEAST})({{}}, NOT profile.shared)",
}
"""How a fact of several devices becomes one of a person. All are idempotent."""


class Query(Struct, frozen=True, kw_only=True):
    """A SELECT and its bound parameters."""

    sql: str
    params: dict[str, Any]


class Money(Struct, frozen=True, kw_only=True):
    """What an amount is worth to a site."""

    currency: str = ""
    """The site's; amounts without a currency are in it."""
    rates: Mapping[str, float] = {}
    """Currency -> what one unit of it is worth, all in one and the same unit of account."""

    def factors(self) -> dict[str, Decimal]:
        """Currency -> the factor that makes its amounts the site's, to eight decimals."""
        found = {"": Decimal(1), self.currency: Decimal(1)}
        if base := self.rates.get(self.currency):
            worth = {code: Decimal(str(rate)) / Decimal(str(base)) for code, rate in self.rates.items()}
            found = {code: factor.quantize(Decimal("1e-8")) for code, factor in worth.items()} | found
        return found


NO_RATES: Final = Money()


def members(rule: Rule, *, site_id: int, now_ms: int, money: Money = NO_RATES) -> Query:
    """The people, as distinct e-mail hashes `em` of 32 bytes, of whom `rule` is true and who consent.

    `full_set`: 1 = this person has a full set that the rule asks about (see `preview`).

    Raises Refused if the rule is about visitors: what is pushed is worked out per person.
    """
    if rule.level != "person":
        raise Refused("bad_value", "Only a rule of level person can be pushed.", field="$.level")
    text = _Text("person", now_ms, money)
    holds = text.rule(rule)
    return text.select(f"em, {text.full_set} AS full_set", site_id, where=[_IN, holds])


def visitors(rule: Rule, *, site_id: int, now_ms: int, money: Money = NO_RATES) -> Query:
    """The browsers, as distinct `visitor_id`, of which `rule` is true on their own and which consent."""
    text = _Text("visitor", now_ms, money)
    holds = text.rule(rule)
    return text.select("visitor_id", site_id, where=[_IN, holds])


def sizes(asked: Sequence[Rule], *, level: Level, site_id: int, now_ms: int, money: Money = NO_RATES) -> Query:
    """How many are in each of `asked`, all in one pass: one row, `n0`, `n1` and so on."""
    text = _Text(level, now_ms, money)
    columns = ", ".join(f"countIf({text.rule(each)}) AS n{number}" for number, each in enumerate(asked))
    return text.select(columns, site_id, where=[_IN])


def answers(asked: Sequence[Rule], *, level: Level, site_id: int, now_ms: int, money: Money = NO_RATES) -> Query:
    """Everybody who consents, one a row: `em` or `visitor_id`, and as `n0`, `n1` and so on whether they are in each."""
    text = _Text(level, now_ms, money)
    who = "em" if level == "person" else "visitor_id"
    flags = "".join(f", {text.rule(each)} AS n{number}" for number, each in enumerate(asked))
    return text.select(who + flags, site_id, where=[_IN])


def preview(rule: Rule, *, level: Level, site_id: int, now_ms: int, money: Money = NO_RATES) -> Query:
    """One row: `n`, how many are in; of them `unpriced`, orders that are no money, and `full`, who has a full set;
    and beside them of whom the rule is true and who are `undecided` about consent, or `declined`.

    An order is no money if its currency has no rate. A full set of bought products or categories may lack some, so that
    about these people the answer may be wrong.
    """
    text = _Text(level, now_ms, money)
    holds = text.rule(rule)
    columns = f"countIf(word = 1 AND {holds} AS is_in) AS n"
    columns += f", countIf(word = 0 AND {holds}) AS undecided, countIf(word = 2 AND {holds}) AS declined"
    columns += f", sumIf({' + '.join(text.unpriced) or '0'}, is_in) AS unpriced"
    columns += f", countIf(is_in AND {text.full_set}) AS full"
    return text.select(columns, site_id, where=["NOT gone"])


def explain(rule: Rule, *, em: str, site_id: int, now_ms: int, money: Money = NO_RATES) -> Query:
    """At most one row about the person of e-mail hash `em`, hex; none: nobody here has it, or more than its share do.

    `consent` (0 unknown, 1 yes, 2 no), `erased`, `devices` (shared ones left out), `quiet`, `last_seen`, and for the
    condition at each place `all_0`, `none_1` and so on: whether it holds, as `all_0_seen` what it was decided by (see
    `_Part`), and where it asks for money, `all_0_money`.
    """
    text = _Text("person", now_ms, money)
    columns = ["word AS consent", "gone AS erased", "devices"]
    for group, number, each in rule.conditions():
        part = text.condition(each)
        columns += [f"{part.holds} AS {group}_{number}", f"{part.seen} AS {group}_{number}_seen"]
        columns += [f"{part.money} AS {group}_{number}_money"] if part.money else []
    columns.append(f"{text.quiet(rule.quiet_for_min) if rule.quiet_for_min else '1'} AS quiet")
    columns.append(f"{text.last_seen} AS last_seen")
    text.params["em"] = em
    return text.select(", ".join(columns), site_id, where=[], one_person=True)


def withdrawn(*, site_id: int, now_ms: int) -> Query:
    """The people who must be in no audience: their latest word is a no, or they were erased. Shared e-mails too."""
    text = _Text("person", now_ms, NO_RATES)
    asked = text.select("em", site_id, where=["(word = 2 OR gone)"], shared_too=True)
    unseen = f"SELECT toFixedString(substring(id_value, 1, 32), 32) AS em {_ERASED_ROWS} IN ('em', 'hash')"
    return Query(sql=f"{asked.sql} UNION DISTINCT {unseen}", params=asked.params)


def count(query: Query) -> Query:
    """How many rows `query` has, as `n`."""
    return Query(sql=f"SELECT count() AS n FROM ({query.sql})", params=query.params)


_IN: Final = "word = 1 AND NOT gone"


class _Part(Struct, frozen=True):
    """A condition as SQL."""

    holds: str
    seen: str = "0"
    """What it was decided by: the second of the latest time, or a number; 0 = nothing was found."""
    money: str = ""
    """What it adds up, where it asks for money."""


class _Text:
    """Writes conditions, and collects what they need: facts, lookups, figures and parameters, each once."""

    def __init__(self, level: Level, now_ms: int, money: Money) -> None:
        self.params: dict[str, Any] = {}
        self.unpriced: list[str] = []
        self._full: list[str] = []
        self._level = level
        self._worth = money
        self._now_s = now_ms // 1000
        self._facts: dict[tuple[str, str], str] = {}
        self._lookups: dict[str, str] = {}
        self._figures: dict[str, str] = {}
        self._totals: dict[str, str] = {}
        self._parts: dict[type[Condition], Callable[[Any], _Part]] = {
            Did: self._did,
            Engaged: self._engaged,
            Arrived: lambda each: self._latest(("last_epik_landing",), each.within_days),
            FirstSeen: self._first_seen,
            LastSeen: lambda each: self._latest(("last_seen",), each.within_days),
            Orders: self._orders,
            Bought: self._bought,
            Consents: lambda each: _Part(f"word = {('unknown', 'yes', 'no').index(each.word)}", "word"),
            Known: self._known,
            OnList: self._on_list,
            InAudience: self._in_audience,
        }

    # --- whole statements

    def rule(self, rule: Rule) -> str:
        """Whether a rule is true, consent left aside."""
        parts = [self.condition(each).holds for each in rule.all]
        parts += [f"NOT {self.condition(each).holds}" for each in rule.none]
        if rule.any:
            parts.append(f"({' OR '.join(self.condition(each).holds for each in rule.any)})")
        if rule.quiet_for_min:
            parts.append(self.quiet(rule.quiet_for_min))
        return f"({' AND '.join(parts)})"

    def condition(self, condition: Condition) -> _Part:
        """Whether a condition holds, in brackets or an atom, and by what."""
        return self._parts[type(condition)](condition)

    def quiet(self, minutes: int) -> str:
        """Whether nothing was seen for so long."""
        return f"({self._last_seen} < {self._since(f'since_{minutes}min', minutes * 60)})"

    @property
    def last_seen(self) -> str:
        """The second of the latest event."""
        return f"toUInt32({self._last_seen})"

    @property
    def _last_seen(self) -> str:
        return self._fact("last_seen", "max")

    @property
    def full_set(self) -> str:
        """Whether a set that one of the conditions so far asks about is full."""
        return f"({' OR '.join(self._full) or '0'})"

    def select(
        self, columns: str, site_id: int, *, where: Sequence[str], one_person: bool = False, shared_too: bool = False
    ) -> Query:
        """`columns` of everybody of the site for whom `where` holds; `word` is the consent, `gone`: was erased.

        `shared_too`: shared e-mails, which belong to nobody, as well.
        """
        self.params["site"] = site_id
        found = self._persons(one_person, shared_too) if self._level == "person" else self._visitors()
        if self._figures:
            figures = "".join(f",\n  {expression} AS {name}" for expression, name in self._figures.items())
            found = f"SELECT *{figures} FROM (\n{found})"
        filters = f"\nWHERE {' AND '.join(where)}" if where else ""
        heads = _IDENTITIES.replace("ONE_PERSON", _ONE_PERSON if one_person else "")
        head = heads if self._level == "person" else ""
        return Query(sql=f"{head}SELECT {columns} FROM (\n{found}){filters}\n", params=self.params)

    def _persons(self, one_person: bool, shared_too: bool) -> str:
        self.params |= {
            "shared_since": max(0, self._now_s - SHARED_WINDOW_S),
            "max_ids": MAX_IDS_PER_VISITOR,
            "max_visitors": MAX_VISITORS_PER_ID,
        }
        facts = "".join(
            f",\n    {_TOGETHER[how].format(f'profile.{name}')} AS {name}" for (_, how), name in self._facts.items()
        )
        facts += ",\n    uniqExactIf(device.visitor_id, NOT profile.shared) AS devices" if one_person else ""
        shared = "profile.visitor_id IN shared_device AS shared"
        profile = self._profile(shared, f"profile.visitor_id IN ({_GONE_DEVICE}) AS gone", one_person=one_person)
        own = "" if shared_too else " HAVING uniqExactIf(device.visitor_id, direct) <= {max_visitors:UInt32}"
        return (
            f"  SELECT toFixedString(device.em, 32) AS em, {_CONSENT} AS word,\n"
            f"    max(profile.gone AND NOT profile.shared) OR device.em IN ({_ERASED}) AS gone{facts}\n"
            f"  FROM (\n{profile}) AS profile INNER JOIN device ON profile.visitor_id = device.visitor_id\n"
            f"  GROUP BY device.em{own}"
        )

    def _visitors(self) -> str:
        profile = self._profile(f"profile.visitor_id IN ({_GONE_VISITOR}) AS gone")
        return f"  SELECT *, bitAnd(consent, 3) AS word FROM (\n{profile})"

    def _profile(self, *columns: str, one_person: bool = False) -> str:
        """A row a visitor: its consent, `columns` and the facts."""
        selected = ["profile.visitor_id AS visitor_id", "profile.consent AS consent", *columns]
        selected += [f"{expression} AS {name}" for (expression, _), name in self._facts.items()]
        lookups = "".join(
            f"    LEFT JOIN ({sql}) AS {name} ON profile.visitor_id = {name}.visitor_id\n"
            for sql, name in self._lookups.items()
        )
        one = " AND profile.visitor_id IN (SELECT visitor_id FROM device)" if one_person else ""
        return (
            f"    SELECT {', '.join(selected)}\n    FROM visitor_profile AS profile FINAL\n{lookups}"
            f"    WHERE profile.site_id = {{site:UInt32}}{one}\n"
        )

    # --- what a statement is made of

    def _fact(self, expression: str, how: str) -> str:
        """The name of what `expression` says of a visitor, and of a person put together as `_TOGETHER[how]` says."""
        return self._facts.setdefault((expression, how), f"f{len(self._facts)}")

    def _lookup(self, sql: str) -> str:
        """The name under which the rows of `sql`, at most one a visitor, stand beside the profile."""
        return self._lookups.setdefault(sql, f"l{len(self._lookups)}")

    def _figure(self, expression: str) -> str:
        """The name of what is worked out of facts."""
        return self._figures.setdefault(expression, f"d{len(self._figures)}")

    def _bound(self, kind: str, value: Any, name: str = "") -> str:
        """A parameter's place; equal values share one."""
        for known, other in self.params.items():
            if not name and known.startswith(f"p_{_slug(kind)}_") and other == value:
                name = known
        name = name or f"p_{_slug(kind)}_{len(self.params)}"
        self.params[name] = value
        return f"{{{name}:{kind}}}"

    def _since(self, name: str, ago_s: int) -> str:
        return f"toDateTime({self._bound('UInt32', max(0, self._now_s - ago_s), name)})"

    def _days_ago(self, days: int) -> str:
        return self._since(f"since_{days}d", days * 86_400)

    def _window(self, column: str, days: int) -> str:
        """Since then. What lies ahead of now, which `collect` allows clocks for EARLY_MS, counts as of just now."""
        return f"{column} >= {self._days_ago(days)}"

    def _whole_days(self, column: str, days: int) -> str:
        """Today and the days before, in UTC."""
        return f"{column} >= toDate({self._days_ago(days)}, 'UTC')"

    # --- conditions

    def _latest(self, columns: Sequence[str], days: int) -> _Part:
        """One of the profile's times lies in the window."""
        known = [self._fact(column, "max") for column in columns]
        holds = " OR ".join(self._window(name, days) for name in known)
        return _Part(f"({holds})", f"toUInt32({_greatest(known)})")

    def _first_seen(self, condition: FirstSeen) -> _Part:
        first = self._fact("first_seen", "min")
        return _Part(f"({self._window(first, condition.within_days)})", f"toUInt32({first})")

    def _engaged(self, condition: Engaged) -> _Part:
        actions = condition.actions or tuple(ACTION_COLUMNS)
        if condition.on == "any":
            columns = [ACTION_COLUMNS[action] for action in condition.actions] or ["last_engage"]
            return self._latest(columns, condition.within_days)
        ids = f" AND object_id IN {self._bound('Array(String)', list(condition.ids))}" if condition.ids else ""
        listed = ", ".join(f"'{action}'" for action in actions)  # names of ours
        return self._one_of(
            "SELECT visitor_id FROM engagement_visitor WHERE site_id = {site:UInt32} "
            f"AND action IN ({listed}) AND object = '{condition.on}'{ids} "
            f"AND {self._window('last_at', condition.within_days)}"
        )

    def _did(self, condition: Did) -> _Part:
        if rules.reads_events(condition):
            return self._did_by_events(condition)
        if condition.at_least > 1:
            asked = f"{self._days(condition.events)} AND {self._whole_days('day', condition.within_days)}"
            return self._counted(
                f"SELECT visitor_id, groupUniqArrayArray({MAX_AT_LEAST})(keys) AS keys {asked} GROUP BY visitor_id",
                condition.at_least,
            )
        columns, others = rules.columns_of(condition.events)
        parts = [self._latest(columns, condition.within_days)] if columns else []
        if others:
            since = f"day >= toDate({self._days_ago(condition.within_days)}, 'UTC')"
            window = self._window("last_at", condition.within_days)
            parts.append(self._one_of(f"SELECT visitor_id {self._days(others)} AND {since} AND {window}"))
        holds = " OR ".join(part.holds for part in parts)
        return _Part(f"({holds})", _greatest([part.seen for part in parts]))

    def _days(self, events: Sequence[str]) -> str:
        names = self._bound("Array(String)", list(events))
        return f"FROM visitor_day WHERE site_id = {{site:UInt32}} AND event_name IN {names}"

    def _did_by_events(self, condition: Did) -> _Part:
        days = condition.within_days
        counted = condition.at_least > 1
        if counted:
            when = self._whole_days("toDate(event_time, 'UTC')", days)
        else:  # a bound in whole seconds would leave out parts that hold nothing but the last second
            when = f"event_time >= toDateTime64({self._days_ago(days)}, 3)"
        asked = [
            "site_id = {site:UInt32}",
            f"event_name IN {self._bound('Array(String)', list(condition.events))}",
            f"event_time >= toStartOfDay({self._days_ago(days)}, 'UTC')",  # opens months, not years
            when,
            *self._where(condition.where),
        ]
        found = f"FROM events WHERE {' AND '.join(asked)}"
        if not counted:
            return self._one_of(f"SELECT visitor_id {found}")
        keys = f"groupUniqArray({MAX_AT_LEAST})(event_key) AS keys"
        return self._counted(f"SELECT visitor_id, {keys} {found} GROUP BY visitor_id", condition.at_least)

    def _where(self, where: Where) -> list[str]:
        found = []
        for names, column in (
            (where.products, "product_ids"),
            (where.categories, "line_items.product_category"),
            (where.brands, "line_items.product_brand"),
        ):
            if names:
                found.append(f"hasAny({column}, {self._bound('Array(String)', list(names))})")
        if where.value_at_least is not None or where.value_below is not None:
            codes, factors = self._factors()
            found.append(f"has({codes}, toString(currency))")
            worth = f"toDecimal128(value, 4) * {factors}[indexOf({codes}, toString(currency))]"
            found += self._between(worth, where.value_at_least, where.value_below)
        if where.currency:
            found.append(f"currency = {self._bound('String', where.currency)}")
        for part, column in ((where.url_contains, "url"), (where.search_contains, "search_query")):
            if part:
                found.append(f"positionCaseInsensitiveUTF8({column}, {self._bound('String', part)}) > 0")
        return found

    def _one_of(self, sql: str) -> _Part:
        """The visitor is among those of `sql`."""
        found = self._fact(f"profile.visitor_id IN ({sql})", "any")
        return _Part(found, f"toUInt32({found})")

    def _counted(self, sql: str, at_least: int) -> _Part:
        """The keys that `sql` gives for each visitor are so many; a key that two devices have counts once."""
        keys = self._fact(f"{self._lookup(sql)}.keys", "union")
        return _Part(f"(length({keys}) >= {self._bound('UInt8', at_least)})", f"toUInt32(length({keys}))")

    def _orders(self, condition: Orders) -> _Part:
        self._full.append(self._fact(f"length(profile.orders) >= {ORDERS_CAP}", "any"))
        placed = self._figure(schema.orders(self._fact("profile.orders", "all")))
        window = ""
        if condition.within_days:
            since = self._bound("UInt32", max(0, self._now_s - condition.within_days * 86_400))
            window = f" AND each.4 >= {since}"
        kept = self._figure(f"arrayFilter(each -> each.1 NOT IN ({_CANCELLED}){window}, {placed})")
        bounds = self._between(f"length({kept})", condition.count_at_least, condition.count_at_most, count=True)
        money = (condition.total_at_least, condition.total_below, condition.average_at_least, condition.average_below)
        total = ""
        if any(bound is not None for bound in money):
            bounds += self._money(kept, condition)
            total = self._totals[kept]
        return _Part(f"({' AND '.join(bounds)})", f"toUInt32(length({kept}))", total)

    def _money(self, kept: str, condition: Orders) -> list[str]:
        codes, factors = self._factors()
        total = self._figure(f"arraySum(each -> toDecimal128(each.2, 4) * {factors}[indexOf({codes}, each.3)], {kept})")
        priced = self._figure(f"arrayCount(each -> has({codes}, each.3), {kept})")
        self.unpriced.append(f"length({kept}) - {priced}")
        self._totals[kept] = total
        bounds = self._between(total, condition.total_at_least, condition.total_below)
        average = (condition.average_at_least, condition.average_below)
        if average != (None, None):
            bounds += [f"{priced} > 0", *self._between(total, *average, times=f" * {priced}")]
        return bounds

    def _between(
        self,
        expression: str,
        at_least: float | None,
        end: float | None,
        *,
        count: bool = False,
        times: str = "",
    ) -> list[str]:
        """From `at_least` on, and below `end`; of a count, up to `end`."""
        found = []
        for sign, bound in ((">=", at_least), ("<=" if count else "<", end)):
            if bound is None:
                continue
            place = (
                self._bound("UInt32", int(bound))
                if count
                else f"toDecimal128({self._bound('String', f'{bound:.4f}')}, 4)"
            )
            found.append(f"{expression} {sign} {place}{times}")
        return found

    def _factors(self) -> tuple[str, str]:
        known = self._worth.factors()
        codes = self._bound("Array(String)", list(known))
        return codes, self._bound("Array(Decimal(38, 8))", list(known.values()))

    def _bought(self, condition: Bought) -> _Part:
        found = []
        for names, column in ((condition.products, "bought"), (condition.categories, "bought_categories")):
            if names:
                hashes = f"arrayMap(name -> cityHash64(name), {self._bound('Array(String)', list(names))})"
                found.append(self._fact(f"hasAny(profile.{column}, {hashes})", "any"))
                self._full.append(self._fact(f"length(profile.{column}) >= {BOUGHT_CAP}", "any"))
        holds = f"({' OR '.join(found)})"
        return _Part(holds, f"toUInt32({holds})")

    def _known(self, _: Known) -> _Part:
        if self._level == "person":
            return _Part("1", "1")
        return self._one_of("SELECT visitor_id FROM identity WHERE site_id = {site:UInt32} AND id_type = 'em'")

    def _on_list(self, condition: OnList) -> _Part:
        """A person by the e-mail itself, or by a phone or external id of one of the own devices."""
        lists = self._bound("Array(UInt32)", list(condition.lists))
        listed = f"FROM list_member FINAL WHERE site_id = {{site:UInt32}} AND list_id IN {lists}"
        types = "" if self._level == "visitor" else " AND id_type != 'em'"
        by_device = self._one_of(
            "SELECT visitor_id FROM identity WHERE site_id = {site:UInt32} AND (toString(id_type), id_value) IN "
            f"(SELECT toString(id_type), substring(id_value, 1, 32) {listed}{types})"
        )
        if self._level == "visitor":
            return by_device
        holds = f"(em IN (SELECT id_value {listed} AND id_type = 'em') OR {by_device.holds})"
        return _Part(holds, f"toUInt32({holds})")

    def _in_audience(self, condition: InAudience) -> _Part:
        audiences = self._bound("Array(UInt32)", list(condition.audiences))
        found = (
            "SELECT em FROM audience_member FINAL "
            f"WHERE site_id = {{site:UInt32}} AND audience_id IN {audiences} AND state = 1"
        )
        if self._level == "person":
            return _Part(f"(em IN ({found}))", f"toUInt32(em IN ({found}))")
        return self._one_of(
            "SELECT visitor_id FROM identity WHERE site_id = {site:UInt32} AND id_type = 'em' "
            f"AND toFixedString(id_value, 32) IN ({found})"
        )


def _greatest(expressions: Sequence[str]) -> str:
    return expressions[0] if len(expressions) == 1 else f"greatest({', '.join(expressions)})"


def _slug(kind: str) -> str:
    return "".join(letter for letter in kind.lower() if letter.isalnum())
