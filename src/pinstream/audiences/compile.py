"""From a rule to ClickHouse's SQL: pure text, every value a bound parameter.

How the people of a site are put together:

- *shared device*: a visitor with more than MAX_IDS_PER_VISITOR hashes of a kind within SHARED_WINDOW_S, as a till has.
- *shared id*: an e-mail hash or external id with more than MAX_VISITORS_PER_ID visitors; it belongs to nobody.
- *person of an e-mail*: its devices, and the devices that share an external id with one of them. Shared ids join
  nothing, shared devices are left out.
- *consent of a person*: the latest word of those devices. Of a shared device only a no counts.

A condition is asked of each device's latest event of a kind, and holds for a person if it holds on one of the devices.
ClickHouse keeps those times as whole seconds, so a window's ends are whole seconds too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from pinstream.audiences.rule import PROFILE_COLUMNS, Did, Rule

MAX_VISITORS_PER_ID: Final = 50
MAX_IDS_PER_VISITOR: Final = 5
SHARED_WINDOW_S: Final = 30 * 86_400

_PEOPLE: Final = """
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
    WHERE site_id = {site:UInt32} AND id_type = 'em'),
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
SELECT toFixedString(device.em, 32) AS em
FROM device
INNER JOIN (
  SELECT * EXCEPT (em, epik), visitor_id IN shared_device AS shared
  FROM visitor_profile FINAL WHERE site_id = {site:UInt32}) AS profile
  ON device.visitor_id = profile.visitor_id
GROUP BY device.em
HAVING uniqExactIf(device.visitor_id, direct) <= {max_visitors:UInt32}
"""
"""One row a person; further conditions follow. Columns of `profile` are those of one device.

Rows of a device may come more than once, so only aggregates that do not mind are used.
"""

_CONSENTS: Final = "maxIf(consent, consent.2 = 2 OR (consent.2 = 1 AND NOT shared)).2 = 1"
_ERASED: Final = "SELECT id_value FROM erased WHERE site_id = {site:UInt32} AND id_type = 'em'"


class Query(Struct, frozen=True, kw_only=True):
    """A SELECT with one column, `em`, and its bound parameters."""

    sql: str
    params: dict[str, Any]


def members(rule: Rule, *, site_id: int, now_ms: int) -> Query:
    """The people, as distinct e-mail hashes of 32 bytes, of whom `rule` is true and who consent."""
    windows = _Windows(now_ms)
    wanted = [windows.did(condition) for condition in rule.all]
    unwanted = [f"NOT {windows.did(condition)}" for condition in rule.none]
    quiet = [windows.quiet(rule.quiet_for_min)] if rule.quiet_for_min else []
    return _people(
        [_CONSENTS, f"device.em NOT IN ({_ERASED})", *wanted, *unwanted, *quiet], windows.params, site_id, now_ms
    )


def withdrawn(*, site_id: int, now_ms: int) -> Query:
    """The people who must be in no audience: their latest word is not a yes, or they were erased."""
    asked = _people([f"NOT {_CONSENTS}"], {}, site_id, now_ms)
    erased = f"SELECT toFixedString(id_value, 32) AS em FROM ({_ERASED})"  # noqa: S608 - our text
    return Query(sql=f"{asked.sql} UNION DISTINCT {erased}", params=asked.params)


def count(query: Query) -> Query:
    """How many rows `query` has, as `n`."""
    return Query(sql=f"SELECT count() AS n FROM ({query.sql})", params=query.params)  # noqa: S608 - our text


def _people(having: Sequence[str], params: dict[str, Any], site_id: int, now_ms: int) -> Query:
    bounds = {
        "site": site_id,
        "shared_since": max(0, now_ms // 1000 - SHARED_WINDOW_S),
        "max_ids": MAX_IDS_PER_VISITOR,
        "max_visitors": MAX_VISITORS_PER_ID,
    }
    return Query(sql=_PEOPLE + "".join(f"  AND {condition}\n" for condition in having), params=params | bounds)


class _Windows:
    """Writes conditions and collects their parameters, each window's once."""

    def __init__(self, now_ms: int) -> None:
        self._now_s = -(-now_ms // 1000)  # the second that is running counts as past
        self.params: dict[str, Any] = {"now": self._now_s}

    def did(self, condition: Did) -> str:
        since = self._since(f"since_{condition.within_days}d", condition.within_days * 86_400)
        columns = [PROFILE_COLUMNS[event] for event in condition.events]
        inside = [f"({column} >= {since} AND {column} < toDateTime({{now:UInt32}}))" for column in columns]
        return f"max(NOT shared AND ({' OR '.join(inside)}))"

    def quiet(self, minutes: int) -> str:
        return f"maxIf(last_seen, NOT shared) < {self._since(f'since_{minutes}min', minutes * 60)}"

    def _since(self, name: str, ago_s: int) -> str:
        self.params[name] = max(0, self._now_s - ago_s)
        return f"toDateTime({{{name}:UInt32}})"
