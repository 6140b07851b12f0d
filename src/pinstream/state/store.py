"""The way into the control plane: sites, keys, audiences, connections, suppressions, secrets, what is popular.

Every function is one transaction and blocks for as long as the database takes: call it through
`asyncio.to_thread` where a loop runs. Faults of the database are StateErrors.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Self, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Engine, Row, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from pinstream.errors import Refused, StateError
from pinstream.settings import FirstSite
from pinstream.state import database
from pinstream.state.snapshot import Key, Popular, Site, Snapshot
from pinstream.state.tables import API_KEY, AUDIENCE, CONNECTION, MEMBER_LIST, POPULAR, SECRET, SITE, SUPPRESSION

PAYLOAD_KEY: Final = "payload_hash"
"""Name of the secret that hashes of refused payloads are keyed with."""
KEY_PREFIX: Final = "psk_"
SECRET_BYTES: Final = 32
MAX_ORIGINS: Final = 100
MAX_RULE_BYTES: Final = 16_384
MAX_NAME: Final = 100
SUPPRESSED_AT_ONCE: Final = 500  # looked up in one statement
_TAG_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ORIGIN: Final = re.compile(r"\*|https?://[a-z0-9.-]{1,253}(?::\d{1,5})?|https?://\[[0-9a-f:]{2,39}\](?::\d{1,5})?")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_AD_ACCOUNT: Final = re.compile(r"\d{1,18}")

ConnectionState = Literal["new", "active", "held", "error"]
"""new: no list yet; active: the last sync went through; held: removals wait for confirmation; error: see `detail`."""

T = TypeVar("T")


class KeyInfo(Struct, frozen=True, kw_only=True):
    """An API key as it may be shown."""

    id: int
    prefix: str
    site_id: int | None
    """None = every site."""
    label: str
    created_ms: int
    may_import: bool
    """History and lists."""


class MemberList(Struct, frozen=True, kw_only=True):
    """A list of people that a shop gave us; who is on it stands in ClickHouse (`list_member`)."""

    id: int
    site_id: int
    name: str
    created_ms: int


class Audience(Struct, frozen=True, kw_only=True):
    """Who: a named rule of one site."""

    id: int
    site_id: int
    name: str
    rule: str
    """JSON of `audiences.rule.Rule`."""
    enabled: bool
    created_ms: int


class Link(Struct, frozen=True, kw_only=True):
    """A connection: one audience and the customer list and audience at Pinterest that mirror it."""

    id: int
    audience_id: int
    ad_account_id: str
    list_name: str
    """Given once, unique in the ad account: a list whose creation was cut short is found again by it."""
    customer_list_id: str
    """Empty until Pinterest made the list."""
    pinterest_audience_id: str
    """Empty until Pinterest made the audience."""
    state: ConnectionState
    detail: str
    removals_confirmed: bool
    """The next sync may remove any number of members."""
    created_ms: int
    last_run_ms: int
    """When the last sync began; 0 = never."""


class Store:
    """The control plane, open."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str, *, upgrade: bool = True) -> Self:
        """Open the database at `url`, by default bringing its schema up to date.

        Raises:
            Misconfigured: `url` is not one we speak.
            SetupFault: a SQLite file cannot be written there.
            StateError: no answer, or a schema newer than this program (or, without `upgrade`, an older one).
        """
        store = cls(database.open_engine(url))
        try:
            if upgrade:
                database.upgrade(store.engine)
            else:
                database.check(store.engine)
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def ping(self) -> None:
        """Return if the database answers and has our schema; else raise StateError."""
        database.check(self.engine)

    # --- sites ---------------------------------------------------------------------------------------

    def add_site(self, site: Site, *, now_ms: int) -> Site:
        """Store a site under an id that we give. Raises Refused if its tag id is taken or a value is bad."""
        check_site(site)
        values = msgspec.structs.asdict(site) | {"origins": list(site.origins), "created_ms": now_ms}
        del values["id"]
        taken = f"There is a site with the tag id {site.tag_id} already."
        return msgspec.structs.replace(site, id=self._add(SITE, values, taken))

    def sites(self) -> list[Site]:
        """All sites, oldest first."""
        with database.reading(self.engine) as connection:
            return _sites(connection)

    def site(self, tag_id: str) -> Site:
        """The site with this tag id. Raises Refused if there is none."""
        missing = f"There is no site {tag_id}. `pinstream sites list` shows all, `pinstream sites add` makes one."
        return self._one(SITE, SITE.c.tag_id == tag_id, Site, missing)

    def currency(self, site_id: int) -> str:
        """A site's own currency; empty if none was set. Raises Refused if there is no such site."""
        return self._one(
            SITE, SITE.c.id == site_id, Site, f"There is no site {site_id}. `pinstream sites list`."
        ).currency

    def set_site(self, site: Site) -> Site:
        """Replace what is stored of the site with this tag id. Raises Refused if there is none or a value is bad."""
        check_site(site)
        values = msgspec.structs.asdict(site) | {"origins": list(site.origins), "id": self.site(site.tag_id).id}
        with database.writing(self.engine) as connection:
            connection.execute(update(SITE).where(SITE.c.tag_id == site.tag_id).values(values))
        return site

    def ensure_first_site(self, first: FirstSite, *, now_ms: int) -> Site | None:
        """Create the settings' site if there is none at all. Returns it if this call made it."""
        if not first.tag_id or self.sites():
            return None
        site = Site(id=0, tag_id=first.tag_id, name=first.name, origins=tuple(first.origins), currency=first.currency)
        try:
            return self.add_site(site, now_ms=now_ms)
        except Refused:
            if any(other.tag_id == first.tag_id for other in self.sites()):
                return None  # another process was faster
            raise

    # --- keys ----------------------------------------------------------------------------------------

    def create_key(self, *, site_id: int | None, label: str, now_ms: int, may_import: bool = False) -> str:
        """A new API key of 256 random bits for one site, or for every site (None). Shown once, never stored."""
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        values = {
            "sha256": hash_key(key),
            "prefix": key[:10],
            "site_id": site_id,
            "label": label[:200],
            "created_ms": now_ms,
            "may_import": may_import,
        }
        self._add(API_KEY, values, f"There is no site with the id {site_id}.")
        return key

    def api_keys(self) -> list[KeyInfo]:
        """All keys, oldest first."""
        with database.reading(self.engine) as connection:
            return _all(connection, API_KEY, KeyInfo)

    def key(self, presented: str) -> Key | None:
        """The key that somebody presents, or None if there is no such key."""
        with database.reading(self.engine) as connection:
            found = connection.execute(select(API_KEY).where(API_KEY.c.sha256 == hash_key(presented))).one_or_none()
        return None if found is None else _key(found)

    def revoke_key(self, prefix: str) -> None:
        """Delete the one key whose shown beginning is `prefix`. Raises Refused if it is not exactly one."""
        with database.writing(self.engine) as connection:
            found = connection.scalars(select(API_KEY.c.id).where(API_KEY.c.prefix == prefix)).all()
            if len(found) != 1:
                raise Refused("bad_value", f"{len(found)} keys begin with {prefix}. `pinstream keys list` shows them.")
            connection.execute(delete(API_KEY).where(API_KEY.c.id == found[0]))

    # --- lists ---------------------------------------------------------------------------------------

    def add_list(self, *, site_id: int, name: str, now_ms: int) -> MemberList:
        """Store an empty list, or give the one that has this name already."""
        name = _checked_name(name)
        named = (MEMBER_LIST.c.site_id == site_id) & (MEMBER_LIST.c.name == name)
        values = {"site_id": site_id, "name": name, "created_ms": now_ms}
        try:
            number = self._add(MEMBER_LIST, values, f"There is no site with the id {site_id}.")
        except Refused as exc:
            return self._one(MEMBER_LIST, named, MemberList, str(exc))
        return msgspec.convert(values | {"id": number}, MemberList)

    def lists(self, *, site_id: int | None = None) -> list[MemberList]:
        """All lists (of one site), oldest first."""
        with database.reading(self.engine) as connection:
            found = _all(connection, MEMBER_LIST, MemberList)
        return [each for each in found if site_id in (None, each.site_id)]

    def list_named(self, *, site_id: int, name: str) -> MemberList:
        """A site's list of this name. Raises Refused if there is none."""
        missing = f"There is no list {name}. `pinstream lists list` shows them."
        named = (MEMBER_LIST.c.site_id == site_id) & (MEMBER_LIST.c.name == name.strip())
        return self._one(MEMBER_LIST, named, MemberList, missing)

    def list_numbered(self, list_id: int) -> MemberList:
        """One list. Raises Refused if there is none."""
        missing = f"There is no list {list_id}. `pinstream lists list` shows them."
        return self._one(MEMBER_LIST, MEMBER_LIST.c.id == list_id, MemberList, missing)

    def remove_list(self, list_id: int) -> None:
        """Forget a list; its members are to be deleted first. Its id is never given out again."""
        with database.writing(self.engine) as connection:
            connection.execute(delete(MEMBER_LIST).where(MEMBER_LIST.c.id == list_id))

    # --- audiences -----------------------------------------------------------------------------------

    def add_audience(self, *, site_id: int, name: str, rule: str, now_ms: int) -> Audience:
        """Store an audience. `rule`: JSON, checked by `audiences.rule` before. Raises Refused if the name is taken."""
        name = _checked_name(name)
        if len(rule.encode()) > MAX_RULE_BYTES:
            raise Refused("too_long", f"The rule is longer than {MAX_RULE_BYTES} bytes.", field="rule")
        values = {"site_id": site_id, "name": name, "rule": rule, "enabled": True, "created_ms": now_ms}
        self.currency(site_id)  # or there is no such site
        number = self._add(AUDIENCE, values, _taken(name))
        return msgspec.convert(values | {"id": number}, Audience)

    def audiences(self, *, site_id: int | None = None) -> list[Audience]:
        """All audiences (of one site), oldest first."""
        with database.reading(self.engine) as connection:
            found = _all(connection, AUDIENCE, Audience)
        return [audience for audience in found if site_id in (None, audience.site_id)]

    def audience(self, audience_id: int) -> Audience:
        """One audience. Raises Refused if there is none."""
        missing = f"There is no audience {audience_id}. `pinstream audiences list` shows them."
        return self._one(AUDIENCE, AUDIENCE.c.id == audience_id, Audience, missing)

    def set_audience(
        self, audience_id: int, *, name: str | None = None, rule: str | None = None, enabled: bool | None = None
    ) -> Audience:
        """Change an audience; what is None stays. Of a disabled one, a sync only removes who withdrew.

        Removals that were confirmed were those of the rule before: with another one they are asked for again.

        Raises Refused if there is none, or the name is taken.
        """
        if rule is not None and len(rule.encode()) > MAX_RULE_BYTES:
            raise Refused("too_long", f"The rule is longer than {MAX_RULE_BYTES} bytes.", field="rule")
        name = None if name is None else _checked_name(name)
        wanted = {"name": name, "rule": rule, "enabled": enabled}
        changes = {column: value for column, value in wanted.items() if value is not None}
        if changes:
            try:
                with database.writing(self.engine) as connection:
                    connection.execute(update(AUDIENCE).where(AUDIENCE.c.id == audience_id).values(**changes))
                    if rule is not None:
                        mirrors = update(CONNECTION).where(CONNECTION.c.audience_id == audience_id)
                        connection.execute(mirrors.values(removals_confirmed=False))
            except IntegrityError as exc:
                raise Refused("bad_value", _taken(name), field="name") from exc
        return self.audience(audience_id)

    def remove_audience(self, audience_id: int) -> None:
        """Delete an audience that is not connected. Raises Refused while a connection mirrors it."""
        self.audience(audience_id)
        try:
            with database.writing(self.engine) as connection:
                connection.execute(delete(AUDIENCE).where(AUDIENCE.c.id == audience_id))
        except IntegrityError as exc:
            raise Refused(
                "bad_value",
                f"Audience {audience_id} is connected to Pinterest. `pinstream audiences set {audience_id} --disable` "
                "stops it; delete its list at Pinterest.",
            ) from exc

    # --- connections ---------------------------------------------------------------------------------

    def connect(self, *, audience_id: int, ad_account_id: str, now_ms: int) -> Link:
        """Connect an audience to an ad account, one to one. Raises Refused if it is connected already."""
        check_ad_account(ad_account_id)
        audience = self.audience(audience_id)
        site = self._one(SITE, SITE.c.id == audience.site_id, Site, "The audience's site is gone.")
        install = hashlib.sha256(self.secret("install")).hexdigest()[:8]
        values: dict[str, Any] = {
            "audience_id": audience_id,
            "ad_account_id": ad_account_id,
            "list_name": "",
            "customer_list_id": "",
            "pinterest_audience_id": "",
            "state": "new",
            "detail": "",
            "removals_confirmed": False,
            "lease_owner": "",
            "lease_until_ms": 0,
            "created_ms": now_ms,
            "last_run_ms": 0,
        }
        try:
            with database.writing(self.engine) as connection:
                added = connection.execute(insert(CONNECTION).values(**values).returning(CONNECTION.c.id))
                number = int(added.scalar_one())
                name = f"pinstream {site.name[:60] or site.tag_id} {audience.name} #{number}-{install}"
                connection.execute(update(CONNECTION).where(CONNECTION.c.id == number).values(list_name=name))
        except IntegrityError as exc:
            raise Refused("bad_value", f"Audience {audience_id} is connected already.") from exc
        return self.connection(number)

    def connections(self) -> list[Link]:
        """All connections, oldest first."""
        with database.reading(self.engine) as connection:
            return _all(connection, CONNECTION, Link)

    def connection(self, connection_id: int) -> Link:
        """One connection. Raises Refused if there is none."""
        missing = f"There is no connection {connection_id}. `pinstream connections` lists them."
        return self._one(CONNECTION, CONNECTION.c.id == connection_id, Link, missing)

    def set_connection(self, connection_id: int, **changes: Any) -> None:
        """Set columns of a connection: `customer_list_id`, `state`, `removals_confirmed` and so on."""
        with database.writing(self.engine) as connection:
            connection.execute(update(CONNECTION).where(CONNECTION.c.id == connection_id).values(**changes))

    # --- suppressions and secrets --------------------------------------------------------------------

    def suppress(self, hashes: Iterable[str], *, now_ms: int) -> int:
        """Never take events of these people again; returns how many are new.

        `hashes`: SHA-256 hex of e-mails, phones and external ids.
        """
        wanted = set(hashes)
        if bad := [value for value in wanted if not _SHA256.fullmatch(value)]:
            raise Refused("bad_hash", f"{len(bad)} of the identifiers are not SHA-256 in lowercase hex.")
        with database.writing(self.engine) as connection:
            new = sorted(wanted - _suppressed(connection))
            if new:
                connection.execute(insert(SUPPRESSION), [{"hash": value, "created_ms": now_ms} for value in new])
        return len(new)

    def suppressions(self) -> dict[str, int]:
        """Everybody who asked to be erased: hash -> when, in ms since 1970."""
        with database.reading(self.engine) as connection:
            found = connection.execute(select(SUPPRESSION.c.hash, SUPPRESSION.c.created_ms))
            return {str(value): int(created_ms) for value, created_ms in found}

    def suppressed(self, hashes: Iterable[str]) -> set[str]:
        """Those of `hashes` that belong to people who asked to be erased."""
        wanted, found = sorted(set(hashes)), set[str]()
        with database.reading(self.engine) as connection:
            for start in range(0, len(wanted), SUPPRESSED_AT_ONCE):
                some = wanted[start : start + SUPPRESSED_AT_ONCE]
                found.update(connection.scalars(select(SUPPRESSION.c.hash).where(SUPPRESSION.c.hash.in_(some))))
        return found

    def secret(self, name: str) -> bytes:
        """This install's secret of that name: 32 random bytes, made when first asked for, equal in every process."""
        with database.reading(self.engine) as connection:
            found = connection.scalar(select(SECRET.c.value).where(SECRET.c.name == name))
        if found is not None:
            return bytes(found)
        try:
            with database.writing(self.engine) as connection:
                value = secrets.token_bytes(SECRET_BYTES)
                connection.execute(insert(SECRET).values(name=name, value=value))
                return value
        except IntegrityError:  # another process was faster
            return self.secret(name)

    # --- popular on Pinterest ------------------------------------------------------------------------

    def set_popular(self, popular: Mapping[int, Popular]) -> None:
        """Put this in the place of all that was; by site id, sites that are gone are left out.

        Nothing is written where it is the same as before.

        Raises:
            StateError: the database is away, or another process did the same at the same moment.
        """
        try:
            with database.writing(self.engine) as connection:
                rows = [
                    {"site_id": site.id} | msgspec.structs.asdict(popular[site.id])
                    for site in _sites(connection)
                    if site.id in popular
                ]
                before = connection.execute(select(POPULAR).order_by(POPULAR.c.site_id)).mappings().all()
                if rows == [dict(row) for row in before]:
                    return
                connection.execute(delete(POPULAR))
                if rows:
                    connection.execute(insert(POPULAR), rows)
        except IntegrityError as exc:
            raise StateError("Another process copies what is popular right now.") from exc

    # --- snapshot ------------------------------------------------------------------------------------

    def snapshot(self, now_ms: int) -> Snapshot:
        """What `collect` needs, all of one moment."""
        payload_key = self.secret(PAYLOAD_KEY)
        with database.reading(self.engine) as connection:
            keys = [_key(row) for row in connection.execute(select(API_KEY).order_by(API_KEY.c.id))]
            return Snapshot(
                taken_ms=now_ms,
                sites=tuple(_sites(connection)),
                keys=tuple(keys),
                suppressed=frozenset(_suppressed(connection)),
                popular={
                    row.site_id: Popular(products=row.products, pins=row.pins)
                    for row in connection.execute(select(POPULAR))
                },
                payload_key=payload_key,
            )

    # --- in common -----------------------------------------------------------------------------------

    def _add(self, table: Table, values: dict[str, Any], taken: str) -> int:
        try:
            with database.writing(self.engine) as connection:
                added = connection.execute(insert(table).values(**values).returning(table.c.id))
                return int(added.scalar_one())
        except IntegrityError as exc:
            raise Refused("bad_value", taken) from exc

    def _one(self, table: Table, where: ColumnElement[bool], kind: type[T], missing: str) -> T:
        with database.reading(self.engine) as connection:
            row = connection.execute(select(table).where(where)).one_or_none()
        if row is None:
            raise Refused("bad_value", missing)
        return _as(row, kind)


def _key(row: Row[Any]) -> Key:
    return Key(sha256=row.sha256, prefix=row.prefix, site_id=row.site_id or 0, may_import=row.may_import)


def hash_key(key: str) -> str:
    """What is stored of an API key. Plain SHA-256 is enough: a key has 256 random bits."""
    return hashlib.sha256(key.encode()).hexdigest()


def check_site(site: Site) -> None:
    """Raise Refused for the first value of `site` that is out of its bounds."""
    if not _TAG_ID.fullmatch(site.tag_id):
        raise Refused("bad_value", "A tag id is 1 to 64 of A-Z a-z 0-9 _ -.", field="tag_id")
    if len(site.origins) > MAX_ORIGINS:
        raise Refused("too_many", f"A site has at most {MAX_ORIGINS} origins.", field="origins")
    for origin in site.origins:
        if not _ORIGIN.fullmatch(origin):
            raise Refused(
                "bad_value", f"{origin} is not an origin. Write it as https://www.shop.example, or *.", field="origins"
            )
    if len(site.name) > 200 or len(site.cookie_domain) > 253:
        raise Refused("too_long", "A site's name has at most 200 characters, its cookie domain 253.", field="name")
    if not re.fullmatch(r"(?:[A-Z]{3})?", site.currency):
        raise Refused("bad_value", "A currency is three capital letters, such as EUR.", field="currency")
    if not re.fullmatch(r"(?:[A-Z]{2})?", site.phone_region):
        raise Refused("bad_value", "A phone region is two capital letters, such as DE.", field="phone_region")


def check_ad_account(ad_account_id: str) -> None:
    """Raise Refused for what is no ad account's number."""
    if not _AD_ACCOUNT.fullmatch(ad_account_id):
        raise Refused("bad_value", "An ad account id is up to 18 digits.", field="ad_account_id")


def _taken(name: str | None) -> str:
    return f"The site has an audience {name} already. Give it another --name; `pinstream audiences list` shows all."


def _checked_name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise Refused("bad_value", f"A name is 1 to {MAX_NAME} printable characters.", field="name")
    return name


def _as(row: Row[Any], kind: type[T]) -> T:
    return msgspec.convert({str(name): value for name, value in zip(row._fields, row, strict=True)}, kind)


def _all(connection: Connection, table: Table, kind: type[T]) -> list[T]:
    return [_as(row, kind) for row in connection.execute(select(table).order_by(table.c.id))]


def _sites(connection: Connection) -> list[Site]:
    return _all(connection, SITE, Site)


def _suppressed(connection: Connection) -> set[str]:
    return set(connection.scalars(select(SUPPRESSION.c.hash)))
