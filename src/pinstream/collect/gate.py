"""Who may send: sites, origins, API keys, crawlers. Holds the snapshot in use and keeps it fresh.

Nothing here asks the state database in a request. While the database is away, the last good snapshot is used,
also one that an earlier process left on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

import re2
from crawleruseragents import CRAWLER_USER_AGENTS_DATA

from pinstream import metrics
from pinstream.errors import Misconfigured, PinstreamError, StateError
from pinstream.state import snapshot as snapshots
from pinstream.state.snapshot import Key, Site, Snapshot

logger = logging.getLogger(__name__)

BOT_CACHE_AGENTS: Final = 10_000
MAX_AGENT_CHARS: Final = 512
MAX_KEY_CHARS: Final = 256
MAX_FORWARDED: Final = 20  # addresses of X-Forwarded-For that are looked at
NULL_ORIGIN: Final = "null"
AGE_EVERY_S: Final = 1.0

ReadSnapshot = Callable[[], Snapshot]
"""Reads the state database; may block. Raises StateError while it is away."""

Network = IPv4Network | IPv6Network


class Gate:
    """The sites, origins and keys in force."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.use(snapshot)

    def use(self, snapshot: Snapshot) -> None:
        """Put `snapshot` in force, in one step."""
        self.snapshot = snapshot
        self._sites = {site.tag_id: site for site in snapshot.sites}
        self._keys = {key.sha256: key for key in snapshot.keys}
        self._origins = {origin for site in snapshot.sites for origin in site.origins}
        self._null = any(site.allow_null_origin for site in snapshot.sites)

    @property
    def suppressed(self) -> frozenset[str]:
        """Hashes of people who asked to be erased."""
        return self.snapshot.suppressed

    def site(self, tag_id: str) -> Site | None:
        """The site with this tag id."""
        return self._sites.get(tag_id)

    def knows_origin(self, origin: str) -> bool:
        """Whether any site takes requests from `origin`; a preflight does not say for which one it is."""
        if origin == NULL_ORIGIN:
            return self._null
        return origin in self._origins or "*" in self._origins

    def key(self, presented: str) -> Key | None:
        """The API key. It is looked up by its SHA-256, so the time taken tells nothing about near misses."""
        if not presented or len(presented) > MAX_KEY_CHARS:
            return None
        return self._keys.get(sha256(presented.encode("latin-1", "replace")).hexdigest())


def presented_key(authorization: str, x_api_key: str) -> str:
    """The API key in a request: `Authorization: Bearer KEY`, else `X-API-Key: KEY`; empty if there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else x_api_key


def allows(site: Site, origin: str | None) -> bool:
    """Whether `site` takes requests with this Origin header; None: there is none."""
    if origin is None:
        return site.allow_no_origin
    if origin == NULL_ORIGIN:
        return site.allow_null_origin
    return origin in site.origins or "*" in site.origins


# --- crawlers --------------------------------------------------------------------------------------

_OWN_PATTERNS: Final = ("^Pinterest/", "Pinterestbot")  # its crawlers; `[Pinterest/iOS]` is a person in its app


@lru_cache(maxsize=1)
def _crawlers() -> re2.Set:
    patterns = re2.Set.SearchSet()
    for entry in CRAWLER_USER_AGENTS_DATA:
        patterns.Add(entry["pattern"])
    for pattern in _OWN_PATTERNS:
        patterns.Add(pattern)
    patterns.Compile()
    return patterns


@lru_cache(maxsize=BOT_CACHE_AGENTS)
def _is_bot(user_agent: str) -> bool:
    return bool(_crawlers().Match(user_agent))


def is_bot(user_agent: str) -> bool:
    """Whether a user agent is a known crawler's (list: crawler-user-agents). An empty one is not."""
    return bool(user_agent) and _is_bot(user_agent[:MAX_AGENT_CHARS])


# --- the sender's address --------------------------------------------------------------------------


def networks(texts: list[str]) -> tuple[Network, ...]:
    """The setting `collect.trusted_proxies` as networks. Raises Misconfigured."""
    try:
        return tuple(ip_network(text, strict=False) for text in texts)
    except ValueError as exc:
        raise Misconfigured(f"collect.trusted_proxies: {exc}. Write networks such as 10.0.0.0/8.") from exc


def client_ip(peer: str, forwarded: str, trusted: tuple[Network, ...]) -> str:
    """The nearest address that is not one of our proxies. `forwarded`: X-Forwarded-For, believed of proxies only.

    A proxy may write a port behind an address, and a socket for both families has IPv4 peers mapped into IPv6
    (RFC 4291 2.5.5.2): both are taken off.
    """
    if not trusted or not _within(peer, trusted):
        return peer
    hops = [_bare(hop.strip()) for hop in forwarded.split(",") if hop.strip()][-MAX_FORWARDED:]
    for hop in reversed(hops):
        if not _within(hop, trusted):
            return hop
    return hops[0] if hops else peer


def _bare(hop: str) -> str:
    """`203.0.113.9:5123`, `[2001:db8::1]:44` and `[2001:db8::1]` without port and brackets; the rest as it is."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _within(ip: str, trusted: tuple[Network, ...]) -> bool:
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    plain = (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
    return any(plain in network or address in network for network in trusted)


# --- freshness -------------------------------------------------------------------------------------


async def first_snapshot(read: ReadSnapshot, path: Path) -> Snapshot:
    """The snapshot to start with: the database's, else the one kept at `path`.

    Raises:
        StateError: the database is away and no snapshot is kept.
    """
    try:
        return await _read_and_keep(read, path)
    except PinstreamError as exc:
        kept = await asyncio.to_thread(snapshots.load, path)
        if kept is None:
            raise StateError(f"{exc} There is no earlier snapshot at {path} to start with.") from exc
        logger.warning("State database is away, starting with the sites of the last snapshot: %s", exc)
        return kept


async def keep_fresh(gate: Gate, read: ReadSnapshot, path: Path, every_s: float) -> None:
    """Read the snapshot again and again until cancelled; the last good one stays in force while that fails.

    Nothing else ends it: a process that goes on with the sites and suppressions of long ago looks healthy.
    """
    away = False
    while True:
        await asyncio.sleep(every_s)
        try:
            gate.use(await _read_and_keep(read, path))
            away = False
        except PinstreamError as exc:
            if not away:
                logger.warning("State database is away, going on with the sites known so far: %s", exc)
            away = True
        except Exception:
            if not away:
                logger.exception("The sites cannot be read for a reason nobody foresaw, going on with those known.")
            away = True


async def tell_age(gate: Gate, clock: Callable[[], int]) -> None:
    """Export the age of the snapshot in force until cancelled. Not part of the refreshing, which may hang."""
    while True:
        metrics.SNAPSHOT_AGE_S.set(max(0, clock() - gate.snapshot.taken_ms) / 1000)
        await asyncio.sleep(AGE_EVERY_S)


async def _read_and_keep(read: ReadSnapshot, path: Path) -> Snapshot:
    snapshot = await asyncio.to_thread(read)
    try:
        await asyncio.to_thread(snapshots.save, snapshot, path)
    except OSError as exc:
        logger.warning(
            "Cannot keep the snapshot at %s (%s); it will be missed if the state database goes away.", path, exc
        )
    return snapshot
