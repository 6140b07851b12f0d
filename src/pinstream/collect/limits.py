"""Pure: how many events a second a site and an API key may send; time is an argument.

A bucket each for the sites and keys that exist, never for a text that somebody sent or for a visitor, so their number
is known. A process counts for itself.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pinstream.settings import Collect
from pinstream.state.snapshot import Key, Site, Snapshot


class Bucket:
    """`per_s` events a second, and after a rest as many at once as come in `burst_s`.

    Counted in thousandths of an event: as many as `per_s` come back each millisecond, so nothing is ever rounded.
    """

    __slots__ = ("_at_ms", "_per_s", "_size", "_taken")

    def __init__(self, per_s: int, burst_s: int) -> None:
        self._per_s = per_s
        self._size = 1000 * per_s * burst_s
        self._taken = 0
        self._at_ms = 0

    def wait_ms(self, events: int, now_ms: int) -> int:
        """How long until a request of so many events fits; 0: it does now. Nothing is taken yet.

        More than the bucket holds fits when it is full, so nobody waits longer than for a full one, or than it takes
        after such a request.
        """
        passed_ms = now_ms - self._at_ms
        self._at_ms = now_ms  # also when the clock was set back: nobody waits until it is as late as it was
        taken = self._taken
        if taken and passed_ms > 0:
            taken -= passed_ms * self._per_s
            self._taken = taken = taken if taken > 0 else 0
        over = taken + 1000 * events - self._size
        return -(-min(over, taken) // self._per_s) if over > 0 else 0

    def take(self, events: int) -> None:
        """A request of so many events goes through, as of the time last told."""
        self._taken += 1000 * events


class Over(NamedTuple):
    """A request that is more than a limit allows."""

    scope: Literal["site", "key"]
    """Whose limit; of both, the one that is longer in the way."""
    wait_s: int
    """When the same request fits, if no other comes: whole seconds, at least 1."""


class Limits:
    """The buckets of all sites and keys."""

    def __init__(self, settings: Collect) -> None:
        self._settings = settings
        self._snapshot: Snapshot | None = None
        self._sites: dict[int, Bucket] = {}
        self._keys: dict[str, Bucket] = {}

    def take(self, snapshot: Snapshot, site: Site, key: Key | None, events: int, now_ms: int) -> Over | None:
        """None: the request goes through. Else it takes nothing. `site` and `key` are of `snapshot`."""
        if snapshot is not self._snapshot:
            self._know(snapshot)
        of_site = self._sites[site.id]
        of_key = self._keys[key.sha256] if key else None
        site_ms = of_site.wait_ms(events, now_ms)
        key_ms = of_key.wait_ms(events, now_ms) if of_key else 0
        if site_ms or key_ms:
            return Over("key" if key_ms > site_ms else "site", -(-max(site_ms, key_ms) // 1000))
        of_site.take(events)
        if of_key:
            of_key.take(events)
        return None

    def _know(self, snapshot: Snapshot) -> None:
        """A bucket for each site and key there is now; those that were there keep theirs."""
        settings, sites, keys = self._settings, self._sites, self._keys
        burst_s = settings.burst_s
        self._sites = {
            site.id: sites.get(site.id) or Bucket(settings.site_events_per_s, burst_s) for site in snapshot.sites
        }
        self._keys = {
            key.sha256: keys.get(key.sha256) or Bucket(settings.key_events_per_s, burst_s) for key in snapshot.keys
        }
        self._snapshot = snapshot
