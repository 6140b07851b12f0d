"""What people ask about an audience, answered by the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import structs

from pinstream.audiences import desk, membership
from pinstream.audiences.compile import ORDERS_CAP, Money
from pinstream.audiences.desk import Subject
from pinstream.audiences.membership import Target
from pinstream.audiences.rule import (
    Bought,
    Did,
    Engaged,
    InAudience,
    LastSeen,
    OnList,
    Orders,
    Rule,
    Where,
    checked,
    to_json,
)
from pinstream.audiences.templates import cart_abandoned
from pinstream.errors import Refused
from pinstream.event import CONSENT_WITHDRAWN
from pinstream.state.runs import Chunk
from pinstream.state.snapshot import Site
from pinstream.state.store import Audience, Store
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import DAY, NOW_MS, NOW_S, Pinned, Seen, World, create, hashed

MONEY = Money(currency="EUR")


async def about(warehouse: Warehouse, rule: Rule, *seen: Seen, world: World | None = None) -> Subject:
    [site_id] = await create(warehouse, [world or World(seen)])
    rule = checked(rule)
    audience = Audience(id=site_id, site_id=site_id, name="Asked", rule=to_json(rule), enabled=True, created_ms=NOW_MS)
    return Subject(audience, rule, MONEY, NOW_MS)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'state.db'}")
    yield opened
    opened.close()


# --- how many


async def test_a_preview_has_size_words_and_browsers(warehouse: Warehouse) -> None:
    rule = cart_abandoned(quiet_for_min=0)
    seen = [
        Seen(1, "add_to_cart", 100, em="ann"),
        Seen(2, "checkout", 100, em="ann"),  # the person has ordered, the browser has not
        Seen(3, "add_to_cart", 100, em="bob"),
        Seen(4, "add_to_cart", 100),
    ]
    found = await desk.preview(warehouse, await about(warehouse, rule, *seen))
    assert (found.size, found.visitors, found.reads_events, found.unpriced, found.full) == (1, 3, False, 0, 0)
    assert found.size_in_words["en"] == "1 person with a known e-mail address and consent"
    assert found.sentence["fr"].startswith("Les personnes qui ont commencé à payer")
    assert found.notes == {"en": [], "fr": []}


async def test_a_preview_says_what_it_reads_and_what_it_leaves_out(warehouse: Warehouse) -> None:
    rule = Rule(
        all=(Did(events=("checkout",), within_days=7, where=Where(products=("p1",))),),
        any=(Orders(total_at_least=1), Bought(products=("p1",))),
    )
    many = tuple((f"p{number}", "", "") for number in range(100))
    seen = [
        Seen(1, "checkout", 100 + n, em="ann", order_id=f"o{n}", value=5, currency=currency, items=many)
        for n, currency in enumerate(["EUR", "JPY", "JPY"])
    ]
    more = [
        Seen(2, "checkout", 100 + n, em="bob", items=tuple((f"{n}-{each}", "", "") for each in range(100)) + many[1:2])
        for n in range(5)
    ]
    full = Seen(2, "checkout", 90, em="bob", items=many[:2])
    found = await desk.preview(warehouse, await about(warehouse, rule, *seen, *more, full))
    assert (found.size, found.reads_events, found.unpriced, found.full) == (2, True, 2, 1)
    assert [len(notes) for notes in found.notes.values()] == [3, 3]


def many(visitor: int, name: str, *, orders: int = 5) -> list[Seen]:
    """Orders in JPY of a hundred products each: five fill the set."""
    return [
        Seen(
            visitor,
            "checkout",
            100 + number,
            em=name,
            order_id=f"{name}{number}",
            items=tuple((f"p{number * 100 + each}", "", "") for each in range(100)),
            value=5,
            currency="JPY",
        )
        for number in range(orders)
    ]


async def test_what_a_preview_warns_of_is_about_those_who_are_in(warehouse: Warehouse) -> None:
    """Full sets and foreign money of the others are left out: of who does not consent, and whom the rule leaves out."""
    rule = Rule(all=(Bought(products=("p7",)), Orders(total_below=1)), none=(Did(events=("signup",), within_days=7),))
    seen = [
        *many(1, "in and full"),
        *many(2, "in, one short of full", orders=4),
        *many(3, "full, and signed up"),
        Seen(3, "signup", 50, em="full, and signed up"),
        *many(4, "full, and withdrew"),
        Seen(4, CONSENT_WITHDRAWN, 50),
    ]
    asked = await about(warehouse, rule, *seen)
    found = await desk.preview(warehouse, asked)
    assert (found.size, found.full, found.unpriced) == (2, 1, 5 + 4)
    browsers = structs.replace(asked, rule=structs.replace(rule, level="visitor"))
    assert (await desk.preview(warehouse, browsers)).full == 1


async def test_a_till_is_bounded_and_said_to_be(warehouse: Warehouse) -> None:
    """However many orders one browser has, they cost no more than ORDERS_CAP of them do."""
    till = [
        Seen(1, "checkout", 100, em="till", order_id=f"o{number}", event_id=f"e{number}")
        for number in range(ORDERS_CAP + 1)
    ]
    rule = Rule(all=(Orders(count_at_most=ORDERS_CAP),))
    one_short = Seen(2, "checkout", 100, em="ann")
    found = await desk.preview(warehouse, await about(warehouse, rule, *till, one_short))
    assert (found.size, found.full) == (2, 1)


async def test_a_rule_about_browsers_is_counted_in_browsers(warehouse: Warehouse) -> None:
    rule = Rule(all=(LastSeen(within_days=7),), level="visitor")
    seen = [Seen(1, "page_visit", 100, em="ann"), Seen(2, "page_visit", 100, em="ann")]
    found = await desk.preview(warehouse, await about(warehouse, rule, *seen))
    assert (found.size, found.visitors) == (2, 2)


# --- why


SEEN = datetime.fromtimestamp(NOW_S - 60, UTC).strftime("%Y-%m-%d %H:%M")
WHY = Rule(
    all=(Did(events=("add_to_cart",), within_days=7), Did(events=("page_visit",), within_days=7, at_least=2)),
    any=(Orders(count_at_least=2), OnList(lists=(1,)), Engaged(within_days=7, on="pin", ids=("11",))),
    none=(LastSeen(within_days=1),),
    quiet_for_min=30,
)


async def test_each_condition_is_explained_by_what_decided_it(warehouse: Warehouse) -> None:
    world = World(
        [
            Seen(1, "add_to_cart", 3 * DAY, em="ann"),
            Seen(1, "page_visit", 2 * DAY, em="ann"),
            Seen(2, "page_visit", 5 * DAY, em="ann"),
            Seen(2, "checkout", 90 * DAY, em="ann", order_id="o1"),
            Seen(2, "order_refunded", 80 * DAY, order_id="o2", source="api"),
            Seen(2, "checkout", 85 * DAY, order_id="o2"),
        ],
        [Pinned(1, "save", 6 * DAY, pin=11)],
    )
    asked = await about(warehouse, WHY, world=world)
    found = await desk.explain(warehouse, asked, hashed("ann"))
    assert (found.known, found.is_in, found.consent, found.devices, found.quiet) == (True, True, "yes", 2, True)
    assert [(each.group, each.holds, each.seen_s, each.count) for each in found.reasons] == [
        ("all", True, NOW_S - 3 * DAY, None),
        ("all", True, 0, 2),
        ("any", False, 0, 1),
        ("any", False, 0, None),
        ("any", True, 0, None),
        ("none", False, NOW_S - 2 * DAY, None),
    ]
    told = desk.told(found, "en")
    assert told[0] == "In. Own devices: 2."
    assert told[2] == (
        "  yes: visited a page at least 2 times in the last 7 whole days and today (UTC) (required; found: 2)"
    )
    assert told[4].endswith("are on list 1 (one of these is required)") and "(excluded; at " in told[6]
    assert desk.told(found, "fr")[0] == "Dans l'audience. Appareils personnels : 2."


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (Seen(1, CONSENT_WITHDRAWN, 60), "Said no to tracking."),
        (Seen(1, "page_visit", 60, em="ann"), f"Last seen {SEEN} UTC; the rule asks for 30 minutes without activity."),
    ],
)
async def test_who_is_not_in_is_told_why(warehouse: Warehouse, more: Seen, says: str) -> None:
    rule = cart_abandoned(quiet_for_min=30)
    asked = await about(warehouse, rule, Seen(1, "add_to_cart", 7200, em="ann"), more)
    found = await desk.explain(warehouse, asked, hashed("ann"))
    assert not found.is_in and all(each.holds is (each.group == "all") for each in found.reasons)
    assert desk.told(found, "en")[:2] == ["Not in. Own devices: 1.", f"  {says}"]


async def test_where_money_is_asked_money_is_told(warehouse: Warehouse) -> None:
    rule = Rule(all=(Orders(total_at_least=3000), Orders(count_at_least=2)))
    seen = [
        Seen(1, "checkout", 100, em="ann", order_id="o1", value=1200.5, currency="EUR"),
        Seen(1, "checkout", 90, em="ann", order_id="o2", value=1212, currency=""),
    ]
    found = await desk.explain(warehouse, await about(warehouse, rule, *seen), hashed("ann"))
    assert [(each.count, each.money) for each in found.reasons] == [(2, 2412.5), (2, None)]
    assert desk.told(found, "en")[1:] == [
        "  no:  spent at least 3,000 EUR altogether (required; found: 2,412.50 EUR in 2 orders)",
        "  yes: ordered at least 2 times altogether (required; found: 2)",
    ]
    assert "(exigé ; trouvé : 2\u202f412,50 EUR en 2 commandes)" in desk.told(found, "fr")[1]


async def test_a_preview_says_who_matches_and_is_not_in(warehouse: Warehouse) -> None:
    rule = Rule(all=(Engaged(within_days=7),))
    pinned = [Pinned(number, "save", DAY, pin=11, em=f"p{number}") for number in range(1, 4)]
    world = World([Seen(4, CONSENT_WITHDRAWN, 60)], [*pinned, Pinned(4, "save", DAY, pin=11, em="joe")])
    found = await desk.preview(warehouse, await about(warehouse, rule, world=world))
    assert (found.size, found.undecided, found.declined) == (0, 3, 1)
    assert found.notes["en"] == [
        "3 more match, but never said yes to tracking.",
        "1 more matches, but said no to tracking.",
    ]


async def test_a_preview_names_events_that_never_came(warehouse: Warehouse) -> None:
    bought = Did(events=("checkout", "add_to_cart", "purchase"), within_days=7)
    rule = Rule(all=(bought,), none=(Did(events=("lead",), within_days=7),))
    seen = [Seen(1, "checkout", 100, em="ann"), Seen(2, "checkout", 100), Seen(2, "signup", 100)]
    found = await desk.preview(warehouse, await about(warehouse, rule, *seen))
    assert found.unseen == ["purchase", "lead"]
    assert found.notes["en"] == ["No event “purchase” or “lead” was ever seen here. Seen were: checkout, signup."]


async def test_explained_and_counted_are_the_same_people(warehouse: Warehouse) -> None:
    seen = [
        Seen(1, "add_to_cart", 100, em="ann"),
        Seen(2, "add_to_cart", 100, em="bob", consent="unknown"),
        Seen(3, "add_to_cart", 100, em="eve"),
        Seen(3, "checkout", 50, em="eve"),
        *(Seen(10 + n, "add_to_cart", 100, em="info") for n in range(51)),
        Seen(70, "page_visit", 100, em="joe", x="c"),
        Seen(71, "add_to_cart", 100, x="c"),
    ]
    asked = await about(warehouse, cart_abandoned(quiet_for_min=0), *seen)
    count, lines = await desk.export(warehouse, asked)
    names = ("ann", "bob", "eve", "info", "joe", "nobody")
    is_in = {name for name in names if (await desk.explain(warehouse, asked, hashed(name))).is_in}
    assert is_in == {"ann", "joe"}
    assert sorted(lines) == sorted(map(hashed, is_in)) and count == 2


async def test_an_unknown_person_is_said_to_be_unknown(warehouse: Warehouse) -> None:
    asked = await about(warehouse, WHY, Seen(1, "add_to_cart", 100, em="ann"))
    found = await desk.explain(warehouse, asked, hashed("bob"))
    assert (found.known, found.is_in, found.reasons) == (False, False, [])
    assert "never seen" in desk.told(found, "en")[0]
    with pytest.raises(Refused, match="SHA-256"):
        await desk.explain(warehouse, asked, "bob")


ERASED = [("em", "ann"), ("hash", "ann"), ("hash", "tel"), ("ph", "tel"), ("external_id", "c"), ("epik", "k")]


@pytest.mark.parametrize("erased", [*ERASED, ("visitor", "1")])
async def test_the_erased_are_out_whatever_they_were_erased_by(warehouse: Warehouse, erased: tuple[str, str]) -> None:
    """Of the second address on the device, all but the first address may be."""
    seen = [
        Seen(1, "add_to_cart", 100, em="ann", ph="tel", x="c", epik="k"),
        Seen(1, "add_to_cart", 100, em="bob"),
        Seen(2, "add_to_cart", 100, em="eve"),
    ]
    asked = await about(warehouse, cart_abandoned(quiet_for_min=0), world=World(seen, erased=[erased]))
    found = await desk.explain(warehouse, asked, hashed("ann"))
    assert found.erased and not found.is_in and "  Asked to be erased." in desk.told(found, "en")
    preview = await desk.preview(warehouse, asked)
    assert (preview.size, preview.visitors) == (2 if erased[1] == "ann" else 1, 1)


async def test_nobody_is_erased_by_what_was_seen_on_a_shared_device(warehouse: Warehouse) -> None:
    till = [Seen(1, "add_to_cart", 100, em=f"p{number}", ph="tel") for number in range(6)]
    seen = [*till, Seen(2, "add_to_cart", 100, em="p0"), Seen(3, "add_to_cart", 100, em="p1", ph="tel")]
    asked = await about(warehouse, cart_abandoned(quiet_for_min=0), world=World(seen, erased=[("ph", "tel")]))
    assert (await desk.preview(warehouse, asked)).size == 1
    assert (await desk.explain(warehouse, asked, hashed("p0"))).is_in


# --- what a rule may name


def test_a_rule_names_lists_and_audiences_of_its_own_site(store: Store) -> None:
    one, other = [store.add_site(Site(id=0, tag_id=tag), now_ms=1).id for tag in ("one", "other")]
    listed, foreign = [store.add_list(site_id=site, name="VIPs", now_ms=1).id for site in (one, other)]
    rule = Rule(all=(LastSeen(within_days=7),), none=(OnList(lists=(listed,)),))
    desk.check_names(store, one, rule)
    with pytest.raises(Refused, match=f"no list {foreign}") as caught:
        desk.check_names(
            store, one, Rule(all=rule.all, none=(LastSeen(within_days=1), OnList(lists=(listed, foreign))))
        )
    assert caught.value.field == "$.none[1]"
    first = store.add_audience(site_id=one, name="first", rule=to_json(rule), now_ms=1).id
    desk.check_names(store, one, Rule(any=(InAudience(audiences=(first,)),)))
    with pytest.raises(Refused, match=f"no audience {first}"):
        desk.check_names(store, other, Rule(any=(InAudience(audiences=(first,)),)))
    with pytest.raises(Refused, match=f"no audience {first + 1}"):  # itself, as soon as it is stored
        desk.check_names(store, one, Rule(all=rule.all, none=(InAudience(audiences=(first + 1,)),)))


# --- who


async def test_an_export_is_sorted_hashes(warehouse: Warehouse) -> None:
    seen = [Seen(number, "add_to_cart", 100, em=f"p{number}") for number in range(1, 8)]
    count, lines = await desk.export(warehouse, await about(warehouse, cart_abandoned(quiet_for_min=0), *seen))
    assert (count, list(lines)) == (7, sorted(hashed(f"p{number}") for number in range(1, 8)))


async def test_an_export_of_browsers_is_their_numbers(warehouse: Warehouse) -> None:
    rule = Rule(all=(LastSeen(within_days=7),), level="visitor")
    seen = [Seen(number, "page_visit", 100) for number in (2**63 + 1, 5)]
    count, lines = await desk.export(warehouse, await about(warehouse, rule, *seen))
    assert (count, list(lines)) == (2, ["5", str(2**63 + 1)])


# --- what a sync would do


async def test_a_dry_run_compares_and_keeps_nothing(warehouse: Warehouse) -> None:
    seen = [Seen(10 + number, "add_to_cart", 100, em=f"p{number}") for number in range(4)]
    seen += [Seen(11, CONSENT_WITHDRAWN, 50), Seen(12, "checkout", 50)]
    asked = await about(warehouse, cart_abandoned(quiet_for_min=0), *seen)
    site_id = asked.audience.site_id
    chunk = Chunk(
        key=f"desk {site_id}",
        number=0,
        operation="ADD",
        members=b"".join(bytes.fromhex(hashed(f"p{number}")) for number in (0, 1, 2)),
        id=1,
        connection_id=1,
        sync_run_id=1,
        status="acknowledged",
        size=3,
        acknowledged_ms=NOW_MS,
        detail="",
    )
    await membership.record(warehouse, Target(site_id=site_id, audience_id=site_id, run_id=1), chunk, NOW_MS)
    found = await desk.dry_run(warehouse, asked)
    assert (found.desired, found.members, found.adds, found.removes, found.withdrawn) == (2, 3, 1, 2, 1)
    assert await desk.dry_run(warehouse, asked) == found
    [left] = await warehouse.select(
        "SELECT count() AS n FROM audience_desired WHERE site_id = {site:UInt32}", {"site": site_id}
    )
    assert left["n"] == 0


async def test_a_rule_about_browsers_is_never_pushed_nor_explained(warehouse: Warehouse) -> None:
    asked = await about(warehouse, Rule(all=(LastSeen(within_days=7),), level="visitor"))
    for refused in (desk.dry_run(warehouse, asked), desk.explain(warehouse, asked, hashed("ann"))):
        with pytest.raises(Refused):
            await refused


# --- from the state and from files


async def test_a_subject_knows_its_site_s_currency(store: Store) -> None:
    site = store.add_site(Site(id=0, tag_id="shop", origins=("*",), currency="SEK"), now_ms=1)
    made = store.add_audience(site_id=site.id, name="Cart", rule=to_json(cart_abandoned()), now_ms=1)
    asked = await desk.subject(store, made.id, {"SEK": 0.1}, now_ms=5)
    assert (asked.money, asked.rule, asked.now_ms) == (Money(currency="SEK", rates={"SEK": 0.1}), cart_abandoned(), 5)
    with pytest.raises(Refused):
        await desk.subject(store, made.id + 1, {}, now_ms=5)
    with pytest.raises(Refused):
        store.currency(site.id + 1)


def test_rules_of_files_and_templates(tmp_path: Path) -> None:
    (tmp_path / "rule.json").write_text(to_json(cart_abandoned()))
    (tmp_path / "rule.toml").write_text('[[all]]\ntype = "last_seen"\nwithin_days = 3\n')
    assert desk.rule_of_file(tmp_path / "rule.json") == cart_abandoned()
    assert desk.rule_of_file(tmp_path / "rule.toml") == Rule(all=(LastSeen(within_days=3),))
    assert desk.rule_of_template("cart_abandoned", ["within_days = 3"]) == cart_abandoned(within_days=3)
    for wrong in (tmp_path / "none.json", tmp_path):
        with pytest.raises(Refused, match="Cannot read"):
            desk.rule_of_file(wrong)
    with pytest.raises(Refused, match="name=value"):
        desk.rule_of_template("cart_abandoned", ["within_days"])


def test_factors_are_worked_out_once_for_all() -> None:
    factors = Money(currency="EUR", rates={"EUR": 1.25, "USD": 1.0, "JPY": 0.01}).factors()
    assert {code: str(factor) for code, factor in factors.items()} == {
        "": "1",
        "EUR": "1",
        "USD": "0.80000000",
        "JPY": "0.00800000",
    }
    assert set(Money(currency="EUR", rates={"USD": 1.0}).factors()) == {"", "EUR"}


def test_a_rule_names_older_audiences_which_then_stay(store: Store) -> None:
    site = store.add_site(Site(id=0, tag_id="shop", origins=("*",)), now_ms=1)
    first, second = (
        store.add_audience(site_id=site.id, name=name, rule=to_json(cart_abandoned()), now_ms=1) for name in "ab"
    )
    names_first, names_second = (Rule(all=(InAudience(audiences=(each.id,)),)) for each in (first, second))
    desk.check_names(store, site.id, names_first, before=second.id)
    for younger in (names_second, names_first):
        with pytest.raises(Refused, match=f"older than {first.id}"):
            desk.check_names(store, site.id, younger, before=first.id)
    desk.check_unnamed(store, first)
    store.set_audience(second.id, rule=to_json(names_first))
    with pytest.raises(Refused, match="audience 2, b, names it"):
        desk.check_unnamed(store, first)
