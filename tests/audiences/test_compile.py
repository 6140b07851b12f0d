from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pinstream.audiences import compile
from pinstream.audiences.compile import Money
from pinstream.audiences.rule import (
    MAX_BYTES,
    MAX_WITHIN_DAYS,
    PROFILE_COLUMNS,
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
    checked,
    to_json,
)
from pinstream.audiences.templates import cart_abandoned, template
from pinstream.errors import Refused
from pinstream.event import CONSENT_WITHDRAWN, Source
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import (
    DAY,
    NOW_MS,
    NOW_S,
    Pinned,
    Seen,
    World,
    answer,
    answers,
    create,
    expected,
    found,
    hashed,
    load,
    next_site,
    people_in,
    visitors_in,
    world,
)

CART = cart_abandoned(quiet_for_min=0)
PHONE, LAPTOP, TILL = 101, 102, 103
HOUR = 3600


def carted(visitor: int = PHONE, ago_s: float = HOUR, **more: object) -> Seen:
    return Seen(visitor, "add_to_cart", ago_s, **{"em": "ann", **more})  # type: ignore[arg-type]


async def names(warehouse: Warehouse, *seen: Seen, rule: Rule = CART) -> set[str]:
    """Who is in, by name; the plain specification must agree."""
    site_id = await world(warehouse, *seen)
    result = await found(warehouse, site_id, rule)
    assert result == expected(seen, rule)
    by_hash = {hashed(one.em): one.em for one in seen if one.em}
    return {by_hash[member] for member in result}


# --- carts and orders


async def test_who_carted_is_in_and_who_ordered_is_not(warehouse: Warehouse) -> None:
    ordered = [carted(1, em="bob"), Seen(1, "checkout", 60, em="bob")]
    began = Seen(2, "initiate_checkout", 90, em="eve")
    looked = Seen(3, "page_visit", 10, em="joe")
    nobody = carted(4, em="")
    assert await names(warehouse, carted(), *ordered, began, looked, nobody) == {"ann", "eve"}


async def test_an_order_counts_whatever_its_place_in_the_week(warehouse: Warehouse) -> None:
    assert await names(warehouse, Seen(PHONE, "checkout", 2 * DAY, em="ann"), carted(ago_s=HOUR)) == set()


async def test_an_order_before_the_window_does_not_count(warehouse: Warehouse) -> None:
    assert await names(warehouse, Seen(PHONE, "checkout", 8 * DAY, em="ann"), carted(ago_s=HOUR)) == {"ann"}


@pytest.mark.parametrize(
    ("ago_s", "inside"), [(7 * DAY + 1, False), (7 * DAY, True), (1, True), (0, True), (-60, True)]
)
async def test_a_window_takes_its_first_second_and_what_a_clock_that_is_ahead_calls_later(
    warehouse: Warehouse, ago_s: int, inside: bool
) -> None:
    assert await names(warehouse, carted(ago_s=ago_s)) == ({"ann"} if inside else set())


async def test_a_moment_ago_is_within_the_window_whatever_else_is_asked(warehouse: Warehouse) -> None:
    site = await world(warehouse, Seen(1, "checkout", 0.001, em="ann", order_id="1", items=(("chair", "home", "oak"),)))
    asked = Rule(all=(Did(events=("checkout",), within_days=7, where=Where(products=("chair",))),))
    assert await found(warehouse, site, asked) == {hashed("ann")}


async def test_whose_clock_is_ahead_was_seen_and_has_bought(warehouse: Warehouse) -> None:
    """They would enter for a moment what asks for people who are not seen, or do not buy, any more."""
    rules = (template("re_engagement").rule(), template("win_back").rule())
    before = Seen(PHONE, "signup", 100 * DAY, em="ann")
    assert [await names(warehouse, before, rule=rule) for rule in rules] == [{"ann"}, set()]
    for ahead in (Seen(PHONE, "page_visit", -30, em="ann"), Seen(PHONE, "checkout", -30, em="ann", order_id="1")):
        assert [await names(warehouse, before, ahead, rule=rule) for rule in rules] == [set(), set()]


@pytest.mark.parametrize(("ago_s", "quiet"), [(HOUR + 1, True), (HOUR, False), (HOUR - 1, False), (-5, False)])
async def test_quiet_means_nothing_at_all_was_seen(warehouse: Warehouse, ago_s: int, quiet: bool) -> None:
    rule = cart_abandoned(quiet_for_min=60)
    still_here = Seen(LAPTOP, "page_visit", ago_s, em="ann")
    assert await names(warehouse, carted(ago_s=2 * HOUR), still_here, rule=rule) == ({"ann"} if quiet else set())


async def test_a_withdrawal_is_not_a_visit(warehouse: Warehouse) -> None:
    """It would reset the quiet time of the person's other conditions."""
    rule = cart_abandoned(quiet_for_min=60)
    again = Seen(PHONE, "page_visit", 2 * HOUR, em="ann")
    withdrawn = Seen(PHONE, CONSENT_WITHDRAWN, 60, received_ago_s=3 * HOUR)
    assert await names(warehouse, carted(ago_s=3 * HOUR), withdrawn, again, rule=rule) == {"ann"}


async def test_conditions_are_joined_by_and(warehouse: Warehouse) -> None:
    both = checked(
        Rule(all=(Did(events=("add_to_cart",), within_days=7), Did(events=("initiate_checkout",), within_days=1)))
    )
    one = [carted(1, em="bob")]
    two = [carted(2), Seen(3, "initiate_checkout", HOUR, em="ann")]
    late = [carted(4, em="eve"), Seen(4, "initiate_checkout", 2 * DAY, em="eve")]
    assert await names(warehouse, *one, *two, *late, rule=both) == {"ann"}


async def test_another_site_is_another_world(warehouse: Warehouse) -> None:
    await world(warehouse, carted())
    assert await names(warehouse, carted(em="bob")) == {"bob"}


async def test_a_save_of_a_pin_is_known_for_as_long_as_a_rule_may_ask(warehouse: Warehouse) -> None:
    site_id = next_site()
    saves: list[Seen | Pinned] = [
        Pinned(1, "save", (MAX_WITHIN_DAYS - 5) * DAY, em="ann", pin=11),
        Seen(1, "page_visit", HOUR, em="ann"),
    ]
    await load(warehouse, site_id, saves)
    await warehouse.command("OPTIMIZE TABLE engagement_visitor FINAL")
    rules = [
        checked(Rule(all=(each,)))
        for each in (
            Engaged(within_days=MAX_WITHIN_DAYS),
            Engaged(within_days=MAX_WITHIN_DAYS, on="pin", ids=("11",)),
        )
    ]
    assert await answers(warehouse, site_id, rules, "person") == [{hashed("ann")}, {hashed("ann")}]


# --- what is one order


def ordered(ago_s: float = HOUR, **more: object) -> Seen:
    return Seen(PHONE, "checkout", ago_s, **{"em": "ann", "order_id": "o1", **more})  # type: ignore[arg-type]


async def placed(warehouse: Warehouse, *seen: Seen, money: Money = compile.NO_RATES) -> list[str]:
    """What is true of the only person's orders; the plain specification must agree."""
    rules = {
        "one": Orders(count_at_least=1),
        "two": Orders(count_at_least=2),
        "today": Orders(count_at_least=1, within_days=1),
        "600": Orders(total_at_least=600),
        "30000": Orders(total_at_least=30_000),
    }
    [site_id] = await create(warehouse, [World(seen, money=money)])
    asked = {name: checked(Rule(all=(each,))) for name, each in rules.items()}
    for level in get_args(compile.Level):
        found = await answers(warehouse, site_id, list(asked.values()), level, money)
        plain = people_in if level == "person" else visitors_in
        assert found == [plain(World(seen, money=money), rule) for rule in asked.values()]
    person = await answers(warehouse, site_id, list(asked.values()), "person", money)
    return [name for name, who in zip(rules, person, strict=True) if who]


async def test_a_copy_without_the_number_is_the_same_order(warehouse: Warehouse) -> None:
    tag = ordered(2 * DAY, event_id="e1", value=300)
    server = replace(tag, source="api", order_id="", ago_s=HOUR)
    assert await placed(warehouse, tag, server) == ["one"]
    assert await placed(warehouse, tag, replace(server, visitor=LAPTOP)) == ["one"]
    assert await placed(warehouse, tag, replace(server, event_id="e2")) == ["one", "two", "today", "600"]
    gone = Seen(0, "order_cancelled", 60, order_id="o1", source="api")
    assert await placed(warehouse, tag, server, gone) == []


async def test_value_and_currency_are_those_of_one_copy(warehouse: Warehouse) -> None:
    money = Money(currency="EUR", rates={"EUR": 1, "HUF": 0.0025, "ATS": 1000.0})
    tag, server = ordered(value=40_000, currency="HUF"), ordered(value=100, currency="EUR", source="api")
    assert await placed(warehouse, tag, server, money=money) == ["one", "today"]
    same = [ordered(value=40_000, currency=code) for code in ("ATS", "", "HUF")]
    assert await placed(warehouse, *same, money=money) == ["one", "today"]


@pytest.mark.parametrize("source", ["tag", "api", "import"])
@pytest.mark.parametrize("visitor", [0, PHONE])
@pytest.mark.parametrize("name", ["order_cancelled", "order_refunded"])
async def test_only_the_shop_cancels(warehouse: Warehouse, name: str, visitor: int, source: Source) -> None:
    """Numbers of orders can be guessed, and anybody's browser can say anything."""
    cancelled = Seen(visitor, name, 60, order_id="o1", source=source, consent="unknown")
    assert await placed(warehouse, ordered(), cancelled) == (["one", "today"] if source == "tag" else [])


# --- people


async def test_carted_on_the_phone_and_bought_on_the_laptop_is_out(warehouse: Warehouse) -> None:
    assert await names(warehouse, carted(), Seen(LAPTOP, "checkout", 60, em="ann")) == set()


async def test_an_external_id_joins_devices_too(warehouse: Warehouse) -> None:
    known = [carted(), Seen(PHONE, "page_visit", 2 * HOUR, x="customer-7")]
    assert await names(warehouse, *known) == {"ann"}
    assert await names(warehouse, *known, Seen(LAPTOP, "checkout", 60, x="customer-7")) == set()


async def test_a_cart_on_a_device_that_only_has_the_external_id_counts(warehouse: Warehouse) -> None:
    logged_in = Seen(PHONE, "page_visit", 9 * DAY, em="ann", x="customer-7")
    assert await names(warehouse, logged_in, Seen(LAPTOP, "add_to_cart", 60, x="customer-7")) == {"ann"}


async def test_the_join_goes_one_hop_and_no_further(warehouse: Warehouse) -> None:
    chain = [
        carted(1, x="a"),
        Seen(2, "page_visit", HOUR, x="a"),
        Seen(2, "page_visit", HOUR, x="b"),
        Seen(3, "checkout", 60, x="b"),
    ]
    assert await names(warehouse, *chain) == {"ann"}


async def test_two_addresses_of_one_customer_are_both_in_or_both_out(warehouse: Warehouse) -> None:
    both = [carted(PHONE, em="ann", x="c"), Seen(LAPTOP, "page_visit", HOUR, em="ann-at-work", x="c")]
    assert await names(warehouse, *both) == {"ann", "ann-at-work"}
    assert await names(warehouse, *both, Seen(LAPTOP, "checkout", 60)) == set()


async def test_an_address_is_known_from_any_event_of_the_device(warehouse: Warehouse) -> None:
    assert await names(warehouse, carted(em=""), Seen(PHONE, "page_visit", 100 * DAY, em="ann")) == {"ann"}


# --- shared devices and ids


def till(count: int, ago_s: float = 9 * DAY) -> list[Seen]:
    """So many customers' e-mails typed into the shop's own tablet."""
    return [Seen(TILL, "page_visit", ago_s, em=f"customer-{number}") for number in range(count)]


async def test_a_device_with_many_addresses_is_shared_from_the_sixth_on(warehouse: Warehouse) -> None:
    customers = {f"customer-{number}" for number in range(5)}
    assert await names(warehouse, *till(5), carted(TILL, em="")) == customers
    assert await names(warehouse, *till(6), carted(TILL, em="")) == set()


async def test_addresses_of_long_ago_do_not_make_a_device_shared(warehouse: Warehouse) -> None:
    assert len(await names(warehouse, *till(6, ago_s=30 * DAY + 1), carted(TILL, em=""))) == 6
    assert len(await names(warehouse, *till(6, ago_s=30 * DAY), carted(TILL, em=""))) == 0


async def test_what_happens_on_a_shared_device_says_nothing_of_its_people(warehouse: Warehouse) -> None:
    own = carted(PHONE, em="customer-0")
    assert await names(warehouse, *till(6), own, Seen(TILL, "checkout", 60)) == {"customer-0"}


async def test_traffic_on_a_shared_device_does_not_break_the_quiet(warehouse: Warehouse) -> None:
    own = carted(PHONE, em="customer-0", ago_s=2 * HOUR)
    rule = cart_abandoned(quiet_for_min=60)
    assert await names(warehouse, *till(6), own, Seen(TILL, "page_visit", 60), rule=rule) == {"customer-0"}


async def test_a_shared_device_joins_nobody(warehouse: Warehouse) -> None:
    through_the_till = [Seen(TILL, "page_visit", HOUR, x="customer-9"), Seen(LAPTOP, "checkout", 60, x="customer-9")]
    assert await names(warehouse, *till(6), carted(PHONE, em="customer-0"), *through_the_till) == {"customer-0"}


async def test_an_address_with_many_devices_is_nobodys_from_the_51st_on(warehouse: Warehouse) -> None:
    devices = [carted(visitor, em="info@shop") for visitor in range(1, 52)]
    assert await names(warehouse, *devices[:50]) == {"info@shop"}
    assert await names(warehouse, *devices) == set()


async def test_an_external_id_with_many_devices_joins_nobody(warehouse: Warehouse) -> None:
    guests = [Seen(visitor, "page_visit", HOUR, x="guest") for visitor in range(1, 51)]
    buyer = Seen(1, "checkout", 60)
    assert await names(warehouse, carted(51, x=""), *guests, buyer) == {"ann"}
    assert await names(warehouse, carted(50), *guests, buyer) == set()
    assert await names(warehouse, carted(51, x="guest"), *guests, buyer) == {"ann"}


# --- consent


async def test_without_a_yes_nobody_is_in(warehouse: Warehouse) -> None:
    assert await names(warehouse, carted(consent="unknown")) == set()
    assert await names(warehouse, carted(consent="no")) == set()


async def test_a_withdrawal_on_any_device_takes_the_person_out(warehouse: Warehouse) -> None:
    laptop = Seen(LAPTOP, "page_visit", HOUR, em="ann")
    assert await names(warehouse, carted(), laptop, Seen(LAPTOP, CONSENT_WITHDRAWN, 60)) == set()


async def test_the_latest_word_counts_by_when_it_was_received(warehouse: Warehouse) -> None:
    withdrawn = Seen(PHONE, CONSENT_WITHDRAWN, 10, received_ago_s=500)
    later_yes = carted(LAPTOP, ago_s=499)
    assert await names(warehouse, carted(ago_s=HOUR), withdrawn, later_yes) == {"ann"}
    earlier_yes = carted(LAPTOP, ago_s=501, received_ago_s=1)
    assert await names(warehouse, carted(ago_s=HOUR), withdrawn, earlier_yes) == set()


async def test_a_tie_of_yes_and_no_is_a_no(warehouse: Warehouse) -> None:
    assert await names(warehouse, carted(ago_s=60), Seen(PHONE, CONSENT_WITHDRAWN, 60)) == set()


async def test_an_unknown_after_a_word_says_nothing(warehouse: Warehouse) -> None:
    assert await names(warehouse, carted(), Seen(PHONE, "page_visit", 60, consent="unknown")) == {"ann"}


async def test_of_a_shared_device_only_a_no_counts(warehouse: Warehouse) -> None:
    own = carted(PHONE, em="customer-0", ago_s=HOUR)
    assert await names(warehouse, *till(6), own, Seen(TILL, CONSENT_WITHDRAWN, 60)) == set()
    withdrawn = Seen(PHONE, CONSENT_WITHDRAWN, 60)
    assert await names(warehouse, *till(6), own, withdrawn, Seen(TILL, "page_visit", 30)) == set()


async def test_whoever_was_erased_is_out(warehouse: Warehouse) -> None:
    site_id = await world(warehouse, carted(), carted(LAPTOP, em="bob"))
    await warehouse.command(
        "INSERT INTO erased SELECT {site:UInt32}, 'em', unhex({em:String}), now64()",
        {"site": site_id, "em": hashed("ann")},
    )
    assert await found(warehouse, site_id, CART) == {hashed("bob")}
    assert await answer(warehouse, compile.withdrawn(site_id=site_id, now_ms=NOW_MS)) == {hashed("ann")}


async def test_withdrawn_is_everybody_whose_latest_word_is_a_no(warehouse: Warehouse) -> None:
    site_id = await world(
        warehouse,
        carted(1, em="yes"),
        carted(2, em="no"),
        Seen(2, CONSENT_WITHDRAWN, 60),
        carted(3, em="unknown", consent="unknown"),
        Seen(4, "page_visit", 60, em="looks"),
    )
    withdrawn = await answer(warehouse, compile.withdrawn(site_id=site_id, now_ms=NOW_MS))
    assert withdrawn == {hashed("no")}


# --- any world


events = st.sampled_from(["add_to_cart"] * 3 + ["initiate_checkout", "page_visit", "checkout", CONSENT_WITHDRAWN])
edges = [1, 60 * 60 - 1, 60 * 60, 60 * 60 + 1]
edges += [days * DAY + near for days in (1, 7, 30) for near in (-1, 0, 1)]
moments = st.sampled_from(edges) | st.integers(1, 8 * DAY) | st.integers(1, 40 * DAY)
anybody = st.lists(
    st.builds(
        Seen,
        visitor=st.integers(1, 6),
        event=events,
        ago_s=moments,
        em=st.sampled_from(["ann", "bob", "eve", ""]),
        x=st.sampled_from(["", "", "c1", "c2", "c3"]),
        consent=st.sampled_from(["yes"] * 6 + ["unknown", "no"]),
        received_ago_s=st.none() | moments,
    ),
    min_size=1,
    max_size=20,
)
conditions = st.builds(
    Did,
    events=st.lists(st.sampled_from(sorted(PROFILE_COLUMNS)), min_size=1, max_size=3, unique=True).map(tuple),
    within_days=st.sampled_from([7, 1, 30]),
)
rules = st.builds(
    Rule,
    all=st.lists(conditions, min_size=1, max_size=2).map(tuple),
    none=st.lists(conditions, max_size=2).map(tuple),
    quiet_for_min=st.sampled_from([0, 0, 60]),
)


@pytest.mark.slow
def test_engine_and_specification_agree_on_any_world(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "MAX_IDS_PER_VISITOR", 2)
    monkeypatch.setattr(compile, "MAX_VISITORS_PER_ID", 3)
    hits = []
    with asyncio.Runner() as runner:
        client = Warehouse.open(warehouse.settings, password=warehouse.settings.password.get_secret_value())

        @settings(max_examples=120, deadline=None, database=None)
        @example(seen=[carted()], rule=CART)
        @given(seen=anybody, rule=rules | st.just(CART))
        def agree(seen: list[Seen], rule: Rule) -> None:
            site_id = runner.run(world(client, *seen))
            result = runner.run(found(client, site_id, rule))
            hits.append(len(result))
            assert result == expected(seen, rule)

        agree()
        runner.run(client.aclose())
    assert sum(hits) > 10, "the random worlds are too empty to prove anything"


# --- the text


def test_every_value_is_bound() -> None:
    query = compile.members(cart_abandoned(), site_id=987_654, now_ms=NOW_MS)
    assert "987654" not in query.sql and str(NOW_MS // 1000) not in query.sql
    used = set(re.findall(r"\{(\w+):\w+\}", query.sql))
    assert used == set(query.params)
    assert all(isinstance(value, int) for value in query.params.values())


EVIL = "'); DROP TABLE events; --{p:String}"
ODD = 765_432
"""A number that stands in no text of ours."""
Case = tuple[Condition, set[str], list[object]]


def with_property(where: Where, bound: object) -> Case:
    return Did(events=(EVIL,), within_days=123, where=where), {"events"}, [[EVIL], bound, ("days", 123)]


FIELDS: list[Case] = [
    (Did(events=("checkout",), within_days=123), set(), [("days", 123)]),
    (Did(events=("checkout", EVIL), within_days=123), {"visitor_day"}, [[EVIL], ("days", 123)]),
    (Did(events=(EVIL,), within_days=181), {"events"}, [[EVIL], ("days", 181)]),
    (Did(events=(EVIL,), within_days=123, at_least=37), {"visitor_day"}, [[EVIL], 37, ("days", 123)]),
    with_property(Where(products=(EVIL, "b")), [EVIL, "b"]),
    with_property(Where(categories=(EVIL,)), [EVIL]),
    with_property(Where(brands=(EVIL,)), [EVIL]),
    with_property(Where(value_at_least=7654.321), "7654.3210"),
    with_property(Where(value_below=7654.321), "7654.3210"),
    with_property(Where(currency="XTS"), "XTS"),
    with_property(Where(url_contains=EVIL), EVIL),
    with_property(Where(search_contains=EVIL), EVIL),
    (Engaged(within_days=123), set(), [("days", 123)]),
    (Engaged(within_days=123, actions=("save", "closeup")), set(), [("days", 123)]),
    (Engaged(within_days=123, on="board"), {"engagement_visitor"}, [("days", 123)]),
    (Engaged(within_days=123, on="product", ids=(EVIL,)), {"engagement_visitor"}, [[EVIL], ("days", 123)]),
    (Arrived(within_days=123), set(), [("days", 123)]),
    (FirstSeen(within_days=123), set(), [("days", 123)]),
    (LastSeen(within_days=123), set(), [("days", 123)]),
    (Orders(within_days=123, count_at_least=ODD), {"cancelled_order"}, [ODD, ("days", 123)]),
    (Orders(count_at_most=ODD), {"cancelled_order"}, [ODD]),
    (Orders(total_at_least=7654.321), {"cancelled_order"}, ["7654.3210"]),
    (Orders(total_below=7654.321), {"cancelled_order"}, ["7654.3210"]),
    (Orders(average_at_least=7654.321), {"cancelled_order"}, ["7654.3210"]),
    (Orders(average_below=7654.321), {"cancelled_order"}, ["7654.3210"]),
    (Bought(products=(EVIL,)), set(), [[EVIL]]),
    (Bought(categories=(EVIL,)), set(), [[EVIL]]),
    (Consents(word="no"), set(), []),
    (Known(), set(), []),
    (OnList(lists=(ODD,)), {"list_member"}, [[ODD]]),
    (InAudience(audiences=(ODD,)), {"audience_member"}, [[ODD]]),
]
"""Every field: a condition that has it -> the tables that are looked up beside the profile, and what is bound."""
TABLES = {"events", "visitor_day", "engagement_visitor", "cancelled_order", "list_member", "audience_member"}


@pytest.mark.parametrize("level", ["person", "visitor"])
@pytest.mark.parametrize(("condition", "tables", "bound"), FIELDS)
def test_each_field_is_bound_and_looked_up_where_it_should_be(
    condition: Condition, tables: set[str], bound: list[object], level: compile.Level
) -> None:
    asked = compile.members if level == "person" else compile.visitors
    query = asked(checked(Rule(all=(condition,))), site_id=1, now_ms=NOW_MS, money=Money(currency="XTS"))
    assert {table for table in TABLES if re.search(rf"FROM {table}\b", query.sql)} == tables
    for value in bound:
        wanted = NOW_S - value[1] * DAY if isinstance(value, tuple) else value
        assert wanted in query.params.values(), query.params
    text = re.sub(r"\{\w+:[^}]+\}", "", query.sql)
    assert not [value for value in ("DROP", "7654", "XTS", "123", "37)") if value in text]
    assert set(re.findall(r"\{(\w+):[^}]+\}", query.sql)) == set(query.params)


def test_every_field_of_a_rule_is_compiled_in_a_test() -> None:
    """A field that no case sets would be a field that nobody compiles."""
    for kind in (*get_args(Condition), Where):
        cases = [condition for condition, _, _ in FIELDS if isinstance(condition, kind)]
        cases += [each.where for each, _, _ in FIELDS if isinstance(each, Did) and kind is Where]
        for field in msgspec.structs.fields(kind):
            default = field.default if field.default is not msgspec.NODEFAULT else None
            assert any(getattr(case, field.name) != default for case in cases), f"{kind.__name__}.{field.name}"


async def test_the_longest_rule_is_understood(warehouse: Warehouse) -> None:
    """Parameters travel in the address of a request: the longest rule must fit."""
    rule = checked(Rule(all=tuple(Bought(products=tuple(f"{n}{'é' * 80}{m}" for n in range(9))) for m in range(10))))
    assert MAX_BYTES * 0.9 < len(to_json(rule).encode()) <= MAX_BYTES
    assert await found(warehouse, next_site(), rule) == set()
    assert await answers(warehouse, next_site(), [rule], "visitor") == [set()]


def test_rules_share_what_they_have_in_common() -> None:
    """One pass: a column is read once, however many rules ask for it."""
    rules = [cart_abandoned(within_days=days) for days in range(1, 20)]
    one, many = (compile.sizes(asked, level="person", site_id=1, now_ms=NOW_MS) for asked in (rules[:1], rules))
    assert one.sql.count("last_cart") == many.sql.count("last_cart")
    assert many.sql.count("countIf") == 19


def test_browsers_are_never_pushed() -> None:
    with pytest.raises(Refused, match="level person"):
        compile.members(Rule(all=(Known(),), level="visitor"), site_id=1, now_ms=NOW_MS)


def test_windows_reach_back_to_1970_at_most() -> None:
    query = compile.members(cart_abandoned(within_days=540), site_id=1, now_ms=1000)
    assert query.params["since_540d"] == 0 == query.params["shared_since"]


@pytest.mark.slow
async def test_two_hundred_thousand_people_take_no_time(warehouse: Warehouse) -> None:
    """A guard against an accidental cross join: the true figure is well below a second."""
    site_id = next_site()
    await warehouse.command(
        "INSERT INTO events (k_partition, k_offset, rollup_version, site_id, event, event_id, time, received_ms, "
        "consent, visitor_id, em, external_id, line_items) "
        "SELECT 0, number, 1, {site:UInt32}, if(number % 3 = 0, 'checkout', 'add_to_cart'), toString(number), "
        "{now:Int64} - 1000 * (number % 1000000) - 1, {now:Int64}, 'yes', cityHash64(number), "
        "lower(hex(SHA256(toString(number % 150000)))), lower(hex(SHA256(toString(number % 190000)))), [] "
        "FROM numbers(200000)",
        {"site": site_id, "now": NOW_MS},
    )
    began = time.monotonic()
    query = compile.count(compile.members(CART, site_id=site_id, now_ms=NOW_MS))
    [row] = await warehouse.select(query.sql, query.params)
    assert row["n"] > 10_000
    assert time.monotonic() - began < 15
