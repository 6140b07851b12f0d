"""What `collect` needs to know, as one immutable value.

`collect` never asks the state database in a request: it holds a Snapshot, refreshed every 30 s, kept on
disk, and the last good one is used while the database is away.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

logger = logging.getLogger(__name__)


class Site(Struct, frozen=True, kw_only=True):
    """One shop."""

    id: int
    """Ours, UInt32; what ClickHouse stores."""
    tag_id: str
    """What the tag sends as `site` or `tid`."""
    name: str = ""
    origins: tuple[str, ...] = ()
    """Allowed values of the Origin header, such as `https://www.shop.example`; `*` allows any."""
    allow_null_origin: bool = False
    """Storefront sandboxes send `Origin: null`. Never with cookies."""
    allow_no_origin: bool = True
    """Servers and images send no Origin."""
    currency: str = ""
    """Assumed where an event names none."""
    consent_default: Literal["unknown", "yes", "no"] = "unknown"
    """What counts where nobody said anything. Only `yes` lets an event through."""
    explicit_yes_overrides_gpc: bool = False
    cookie_domain: str = ""
    """Domain of the visitor cookie; empty = the host that set it."""
    phone_region: str = ""
    """ISO 3166 region for phone numbers without a country code, such as `DE`; empty = such numbers are refused."""


class Key(Struct, frozen=True, kw_only=True):
    """An API key, as its SHA-256 in hex; the key itself is shown once and never stored."""

    sha256: str
    prefix: str
    site_id: int
    """0 = every site."""
    may_import: bool = False
    """History (`source=import`) and lists."""


class Popular(Struct, frozen=True, kw_only=True):
    """What of a shop is popular on Pinterest: product or Pin -> how many people saved it, at least."""

    products: dict[str, int] = {}
    pins: dict[str, int] = {}


class Snapshot(Struct, frozen=True, kw_only=True):
    """Sites, keys, suppressed people and what is popular, as of `taken_ms`."""

    taken_ms: int
    sites: tuple[Site, ...] = ()
    keys: tuple[Key, ...] = ()
    suppressed: frozenset[str] = frozenset()
    """SHA-256 hex of e-mails, phones and external ids of people who asked to be erased."""
    popular: dict[int, Popular] = {}
    """By site id."""
    payload_key: bytes = b""
    """This installation's key for the hashes of refused payloads."""


def save(snapshot: Snapshot, path: Path) -> None:
    """Replace the file at `path` in one step, durably, readable by this user only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")  # other workers keep theirs at the same time
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(snapshot))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def load(path: Path) -> Snapshot | None:
    """The snapshot kept at `path`, or None if there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as exc:
        logger.warning("The snapshot at %s is unreadable: %s", path, exc)
        return None
