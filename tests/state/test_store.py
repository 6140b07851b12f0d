from __future__ import annotations

import hashlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from pinstream.errors import Refused, StateError
from pinstream.settings import FirstSite
from pinstream.state import snapshot
from pinstream.state.snapshot import Key, Popular, Site
from pinstream.state.store import MAX_NAME, MAX_ORIGINS, MAX_RULE_BYTES, Store, check_site

NOW = 1_795_291_391_000
FULL = Site(
    id=0,
    tag_id="2612345678901",
    name="Käsehaus ☕",
    origins=("https://www.shop.example", "http://localhost:8000", "https://[::1]:8443"),
    allow_null_origin=True,
    allow_no_origin=False,
    currency="EUR",
    consent_default="no",
    explicit_yes_overrides_gpc=True,
    cookie_domain="shop.example",
    phone_region="DE",
)


def a_site(store: Store, tag_id: str = "t1") -> Site:
    return store.add_site(Site(id=0, tag_id=tag_id, name="Shop"), now_ms=NOW)


def an_audience(store: Store, name: str = "Cart abandoned") -> int:
    site = next(iter(store.sites()), None) or a_site(store)
    return store.add_audience(site_id=site.id, name=name, rule='{"all": []}', now_ms=NOW).id


# --- sites


def test_a_site_reads_back_as_it_was_added(store: Store) -> None:
    added = store.add_site(FULL, now_ms=NOW)
    assert added.id >= 1
    assert store.sites() == [added]
    assert store.site(FULL.tag_id) == added


def test_a_tag_id_is_taken_once(store: Store) -> None:
    a_site(store)
    with pytest.raises(Refused, match="t1 already"):
        a_site(store)
    assert len(store.sites()) == 1


def test_a_site_is_changed(store: Store) -> None:
    site = a_site(store)
    changed = replace(site, origins=("https://b.example",), explicit_yes_overrides_gpc=True, currency="SEK")
    assert store.set_site(changed) == changed
    assert store.site("t1") == changed
    with pytest.raises(Refused, match="no site t2"):
        store.set_site(replace(site, tag_id="t2"))
    with pytest.raises(Refused, match="is not an origin"):
        store.set_site(replace(site, origins=("b.example",)))
    assert store.site("t1") == changed


@pytest.mark.parametrize(
    "origin",
    [
        "https://shop.example/",
        "ftp://shop.example",
        "null",
        "",
        "https://",
        "https://a b",
        "https://Shop.example",
        "https://a.example:123456",
    ],
)
def test_what_no_browser_sends_as_origin_is_refused(origin: str) -> None:
    with pytest.raises(Refused) as caught:
        check_site(Site(id=0, tag_id="t1", origins=(origin,)))
    assert caught.value.field == "origins"


def test_a_site_has_a_bounded_number_of_origins() -> None:
    many = tuple(f"https://o{number}.example" for number in range(MAX_ORIGINS + 1))
    check_site(Site(id=0, tag_id="t1", origins=many[:-1]))
    with pytest.raises(Refused, match="at most"):
        check_site(Site(id=0, tag_id="t1", origins=many))


@pytest.mark.parametrize(
    ("site", "field"),
    [
        (Site(id=0, tag_id=""), "tag_id"),
        (Site(id=0, tag_id="a" * 65), "tag_id"),
        (Site(id=0, tag_id="a b"), "tag_id"),
        (Site(id=0, tag_id="a", name="n" * 201), "name"),
        (Site(id=0, tag_id="a", cookie_domain="n" * 254), "name"),
        (Site(id=0, tag_id="a", currency="eur"), "currency"),
        (Site(id=0, tag_id="a", phone_region="DEU"), "phone_region"),
    ],
)
def test_a_bad_value_of_a_site_is_named(site: Site, field: str) -> None:
    with pytest.raises(Refused) as caught:
        check_site(site)
    assert caught.value.field == field


def test_the_first_site_comes_from_the_settings_once(store: Store) -> None:
    first = FirstSite(tag_id="t9", name="Mine", origins=["https://a.example"], currency="CHF")
    assert store.ensure_first_site(FirstSite(), now_ms=NOW) is None
    made = store.ensure_first_site(first, now_ms=NOW)
    assert made and (made.tag_id, made.origins, made.currency) == ("t9", ("https://a.example",), "CHF")
    assert store.ensure_first_site(first, now_ms=NOW) is None
    assert store.ensure_first_site(FirstSite(tag_id="t10"), now_ms=NOW) is None
    assert store.sites() == [made]


def test_many_processes_make_the_first_site_once(store: Store) -> None:
    first = FirstSite(tag_id="t9")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: store.ensure_first_site(first, now_ms=NOW), range(16)))
    assert len([site for site in made if site]) == 1
    assert len(store.sites()) == 1


def test_ids_are_never_given_twice(store: Store) -> None:
    gone = an_audience(store)
    store.remove_audience(gone)
    assert an_audience(store) > gone


# --- keys


def test_a_key_is_shown_once_and_stored_as_its_hash(store: Store) -> None:
    site = a_site(store)
    key = store.create_key(site_id=site.id, label="shop server", now_ms=NOW)
    assert key.startswith("psk_") and len(key) == 47
    [info] = store.api_keys()
    assert (info.prefix, info.site_id, info.label) == (key[:10], site.id, "shop server")
    [in_snapshot] = store.snapshot(NOW).keys
    assert in_snapshot == Key(sha256=hashlib.sha256(key.encode()).hexdigest(), prefix=key[:10], site_id=site.id)


def test_a_key_for_every_site_has_site_zero_in_the_snapshot(store: Store) -> None:
    store.create_key(site_id=None, label="", now_ms=NOW)
    assert [key.site_id for key in store.snapshot(NOW).keys] == [0]


def test_a_key_needs_an_existing_site(store: Store) -> None:
    with pytest.raises(Refused, match="no site with the id 77"):
        store.create_key(site_id=77, label="", now_ms=NOW)
    assert store.api_keys() == []


def test_a_revoked_key_is_gone(store: Store) -> None:
    key = store.create_key(site_id=None, label="", now_ms=NOW)
    store.revoke_key(key[:10])
    assert store.api_keys() == [] and store.snapshot(NOW).keys == ()
    with pytest.raises(Refused, match="0 keys begin with"):
        store.revoke_key(key[:10])


# --- audiences


def test_an_audience_reads_back_and_changes(store: Store) -> None:
    number = an_audience(store)
    assert store.audience(number).enabled
    changed = store.set_audience(number, rule='{"all": [1]}', enabled=False)
    assert (changed.rule, changed.enabled) == ('{"all": [1]}', False)
    assert store.audiences() == [changed] == store.audiences(site_id=changed.site_id)
    assert store.audiences(site_id=changed.site_id + 1) == []
    assert store.set_audience(number) == changed
    assert store.set_audience(number, name=" Carts ").name == "Carts"


def test_removals_that_were_confirmed_are_asked_for_again_with_another_rule(store: Store) -> None:
    number = an_audience(store)
    link = store.connect(audience_id=number, ad_account_id="549755885175", now_ms=NOW)
    store.set_connection(link.id, removals_confirmed=True)
    store.set_audience(number, name="Other")
    assert store.connection(link.id).removals_confirmed
    store.set_audience(number, rule="{}")
    assert not store.connection(link.id).removals_confirmed


def test_a_name_is_taken_once_in_a_site(store: Store) -> None:
    an_audience(store)
    with pytest.raises(Refused, match="already"):
        an_audience(store)
    second = an_audience(store, "Second")
    with pytest.raises(Refused, match="has an audience Cart abandoned already"):
        store.set_audience(second, name="Cart abandoned")
    with pytest.raises(Refused, match="There is no site 99"):
        store.add_audience(site_id=99, name="Cart abandoned", rule="{}", now_ms=NOW)
    other = a_site(store, "t2")
    assert store.add_audience(site_id=other.id, name="Cart abandoned", rule="{}", now_ms=NOW).site_id == other.id


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "n" * (MAX_NAME + 1)])
def test_a_bad_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(Refused) as caught:
        an_audience(store, name)
    assert caught.value.field == "name"


def test_names_and_rules_are_taken_up_to_their_bounds(store: Store) -> None:
    number = an_audience(store, "n" * MAX_NAME)
    assert len(store.set_audience(number, rule="r" * MAX_RULE_BYTES).rule) == MAX_RULE_BYTES
    with pytest.raises(Refused, match="longer"):
        store.set_audience(number, rule="r" * (MAX_RULE_BYTES + 1))
    with pytest.raises(Refused, match="longer"):
        store.add_audience(site_id=1, name="x", rule="r" * (MAX_RULE_BYTES + 1), now_ms=NOW)


def test_an_audience_that_does_not_exist_is_named(store: Store) -> None:
    for call in (store.audience, store.remove_audience, store.set_audience):
        with pytest.raises(Refused, match="no audience 9"):
            call(9)


# --- connections


def test_a_connection_is_one_to_one(store: Store) -> None:
    number = an_audience(store)
    link = store.connect(audience_id=number, ad_account_id="549755885175", now_ms=NOW)
    assert (link.state, link.customer_list_id, link.last_run_ms) == ("new", "", 0)
    with pytest.raises(Refused, match="connected already"):
        store.connect(audience_id=number, ad_account_id="1", now_ms=NOW)
    with pytest.raises(Refused, match="connected to Pinterest"):
        store.remove_audience(number)
    with pytest.raises(Refused, match="18 digits"):
        store.connect(audience_id=number, ad_account_id="12x", now_ms=NOW)
    assert store.connections() == [link]


def test_list_names_differ_between_connections_and_between_installs(store: Store, tmp_path: Path) -> None:
    one, two = (
        store.connect(audience_id=an_audience(store, name), ad_account_id="1", now_ms=NOW).list_name
        for name in ("A" * MAX_NAME, "B")
    )
    other = Store.open(f"sqlite:///{tmp_path / 'other.db'}")
    twin = other.connect(audience_id=an_audience(other, "A" * MAX_NAME), ad_account_id="1", now_ms=NOW).list_name
    other.close()
    assert len({one, two, twin}) == 3
    assert one.startswith("pinstream Shop A") and max(map(len, (one, two, twin))) <= 200


def test_a_connection_remembers_what_pinterest_made(store: Store) -> None:
    link = store.connect(audience_id=an_audience(store), ad_account_id="1", now_ms=NOW)
    store.set_connection(link.id, customer_list_id="123", state="active", removals_confirmed=True)
    changed = store.connection(link.id)
    assert (changed.customer_list_id, changed.state, changed.removals_confirmed) == ("123", "active", True)
    with pytest.raises(Refused, match="no connection 99"):
        store.connection(99)


# --- suppressions, secrets, snapshot


def test_suppressions_are_set_like_and_in_the_snapshot(store: Store) -> None:
    one, two = "a" * 64, "b" * 64
    assert store.suppress([one, one], now_ms=NOW) == 1
    assert store.suppress([one, two], now_ms=NOW) == 1
    assert store.suppress([], now_ms=NOW) == 0
    assert store.snapshot(NOW).suppressed == {one, two}
    with pytest.raises(Refused, match="not SHA-256"):
        store.suppress(["me@shop.example"], now_ms=NOW)


def test_a_secret_is_made_once_even_by_many_at_the_same_time(store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        values = set(threads.map(lambda _: store.secret("rejected"), range(16)))
    assert len(values) == 1 and len(values.pop()) == 32
    assert store.secret("other") != store.secret("rejected")


def test_what_is_popular_is_replaced_as_a_whole(store: Store) -> None:
    one, two = (store.add_site(Site(id=0, tag_id=name), now_ms=NOW).id for name in ("one", "two"))
    lamp = Popular(products={"lamp": 50}, pins={"7": 100})
    store.set_popular({one: lamp, two: Popular(products={"café": 500}), 99: lamp})
    assert store.snapshot(NOW).popular == {one: lamp, two: Popular(products={"café": 500})}
    store.set_popular({two: lamp})
    assert store.snapshot(NOW).popular == {two: lamp}
    store.set_popular({})
    assert store.snapshot(NOW).popular == {}


def test_what_is_as_popular_as_before_is_not_written_again(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/state.db")
    one, two = (store.add_site(Site(id=0, tag_id=name), now_ms=NOW).id for name in ("one", "two"))
    with closing(sqlite3.connect(tmp_path / "state.db")) as watch:

        def wrote(popular: dict[int, Popular]) -> bool:
            """SQLite's data_version moves when another connection has changed the file."""
            before = watch.execute("PRAGMA data_version").fetchone()
            store.set_popular(popular)
            return bool(watch.execute("PRAGMA data_version").fetchone() != before)

        lamp, rug = Popular(products={"lamp": 50, "rug": 100}), Popular(pins={"7": 50})
        assert not wrote({})
        assert wrote({two: rug, one: lamp})
        assert not wrote({one: lamp, two: rug, 99: lamp})
        assert wrote({one: lamp, two: lamp})
        assert wrote({one: lamp})
    store.close()


def test_many_may_say_what_is_popular_at_the_same_time(store: Store) -> None:
    site = store.add_site(Site(id=0, tag_id="one"), now_ms=NOW).id

    def say(number: int) -> bool:
        try:
            store.set_popular({site: Popular(products={"lamp": number})})
        except StateError as exc:
            return exc.retryable
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(say, range(16)))
    assert store.snapshot(NOW).popular[site].products["lamp"] in range(16)


def test_a_snapshot_survives_its_file(store: Store, tmp_path: Path) -> None:
    store.add_site(FULL, now_ms=NOW)
    store.create_key(site_id=None, label="", now_ms=NOW)
    store.suppress(["c" * 64], now_ms=NOW)
    store.set_popular({1: Popular(products={"lamp": 50})})
    taken = store.snapshot(NOW)
    assert taken.popular and taken.taken_ms == NOW and len(taken.sites) == 1
    snapshot.save(taken, tmp_path / "kept" / "snapshot.json")
    assert snapshot.load(tmp_path / "kept" / "snapshot.json") == taken


def test_a_snapshot_file_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert snapshot.load(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text('{"taken_ms": ')
    assert snapshot.load(tmp_path / "bad.json") is None
