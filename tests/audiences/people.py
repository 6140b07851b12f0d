"""Small worlds for audience tests: who was seen doing what, loaded into the real engine, and what a rule means there.

`expected` is the specification in plain Python, written without a look at the SQL.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pinstream import event
from pinstream.audiences import compile
from pinstream.audiences.rule import Did, Rule
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse

NOW_S = int(time.time()) - 100_000
NOW_MS = NOW_S * 1000
DAY = 86_400

_sites = itertools.count(1)
_tokens = itertools.count()


@dataclass(frozen=True)
class Seen:
    """One event of one visitor."""

    visitor: int
    event: str
    ago_s: float
    em: str = ""
    x: str = ""
    consent: Literal["unknown", "yes", "no"] = "yes"
    received_ago_s: float | None = None

    @property
    def time_ms(self) -> int:
        return round((NOW_S - self.ago_s) * 1000)

    @property
    def received_ms(self) -> int:
        return self.time_ms if self.received_ago_s is None else round((NOW_S - self.received_ago_s) * 1000)


def next_site() -> int:
    """Every world gets a site of its own, so that many share one database."""
    return next(_sites)


def hashed(text: str) -> str:
    """SHA-256 hex of a made-up person or customer number."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


async def load(warehouse: Warehouse, site_id: int, seen: Iterable[Seen]) -> None:
    """Insert events as `load` does: the record's own bytes with its position in front, through all views."""
    rows = []
    for number, one in enumerate(seen):
        record = event.Event(
            event=one.event,
            event_id=f"{number}",
            time=one.time_ms,
            site_id=site_id,
            received_ms=one.received_ms,
            visitor_id=one.visitor,
            consent=one.consent,
            em=hashed(one.em),
            external_id=hashed(one.x),
        )
        rows.append(b'{"k_partition":0,"k_offset":0,"rollup_version":1,' + event.encode(record)[1:])
    await warehouse.insert("events", schema.insert_columns("events"), b"\n".join(rows), token=f"test:{next(_tokens)}")


async def world(warehouse: Warehouse, *seen: Seen) -> int:
    """A new site with these events; gives its id."""
    site_id = next_site()
    await load(warehouse, site_id, seen)
    return site_id


async def found(warehouse: Warehouse, site_id: int, rule: Rule, now_ms: int = NOW_MS) -> set[str]:
    """The e-mail hashes that the engine says are in."""
    return await answer(warehouse, compile.members(rule, site_id=site_id, now_ms=now_ms))


async def answer(warehouse: Warehouse, query: compile.Query) -> set[str]:
    """The e-mail hashes a query gives, each at most once."""
    rows = [bytes(row["em"]).hex() for row in await warehouse.select(query.sql, query.params)]
    assert len(rows) == len(set(rows))
    return set(rows)


# --- the specification ---------------------------------------------------------------------------


def expected(seen: Iterable[Seen], rule: Rule) -> set[str]:
    """The e-mail hashes that should be in at NOW."""
    everything = list(seen)
    return {hashed(em) for em, devices in people(everything).items() if _is_in(everything, devices, rule)}


def people(everything: list[Seen]) -> dict[str, set[int]]:
    """E-mail -> its devices, shared ones included."""
    by_em, by_x = _links(everything, "em"), _links(everything, "x")
    shared = shared_devices(everything)
    persons = {}
    for em, direct in by_em.items():
        if len(direct) > compile.MAX_VISITORS_PER_ID:
            continue
        devices = set(direct)
        for visitors in by_x.values():
            if len(visitors) <= compile.MAX_VISITORS_PER_ID and visitors & (direct - shared):
                devices |= visitors
        persons[em] = devices
    return persons


def shared_devices(everything: list[Seen]) -> set[int]:
    """Devices with too many e-mails, or too many external ids, in the last 30 days."""
    recent = [one for one in everything if one.time_ms // 1000 >= NOW_S - compile.SHARED_WINDOW_S]
    return {
        visitor
        for kind in ("em", "x")
        for visitor in {one.visitor for one in recent}
        if sum(visitor in visitors for visitors in _links(recent, kind).values()) > compile.MAX_IDS_PER_VISITOR
    }


def _links(everything: list[Seen], kind: str) -> dict[str, set[int]]:
    links: dict[str, set[int]] = defaultdict(set)
    for one in everything:
        if getattr(one, kind):
            links[getattr(one, kind)].add(one.visitor)
    return links


def _is_in(everything: list[Seen], devices: set[int], rule: Rule) -> bool:
    shared = shared_devices(everything)
    if not _consents(everything, devices, shared):
        return False
    own = [one for one in everything if one.visitor in devices - shared and one.event != event.CONSENT_WITHDRAWN]
    if any(not _did(own, condition) for condition in rule.all) or any(_did(own, condition) for condition in rule.none):
        return False
    quiet_since_s = NOW_S - rule.quiet_for_min * 60
    return not rule.quiet_for_min or all(one.time_ms // 1000 < quiet_since_s for one in own)


def _consents(everything: list[Seen], devices: set[int], shared: set[int]) -> bool:
    words = []
    for device in devices:
        said = [(_said_ms(one), _word(one)) for one in everything if one.visitor == device and _word(one)]
        latest = max(said, default=(0, 0))
        if latest[1] == 2 or device not in shared:
            words.append(latest)
    return max(words, default=(0, 0))[1] == 1


def _said_ms(one: Seen) -> int:
    """A yes is as old as its event, a no counts from when it was received."""
    return min(one.time_ms, one.received_ms) if _word(one) == 1 else one.received_ms


def _word(one: Seen) -> int:
    return 2 if one.event == event.CONSENT_WITHDRAWN else {"unknown": 0, "yes": 1, "no": 2}[one.consent]


def _did(own: list[Seen], condition: Did) -> bool:
    since_s = NOW_S - condition.within_days * DAY
    return any(one.event in condition.events and since_s <= one.time_ms // 1000 < NOW_S for one in own)
