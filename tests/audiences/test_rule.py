from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstream.audiences import rule
from pinstream.audiences.rule import (
    MAX_AT_LEAST,
    MAX_BYTES,
    MAX_CONDITIONS,
    MAX_EVENTS,
    MAX_NAMES,
    MAX_QUIET_MIN,
    MAX_RAW_DAYS,
    MAX_WITHIN_DAYS,
    Bought,
    Condition,
    Consents,
    Did,
    Engaged,
    InAudience,
    Known,
    OnList,
    Orders,
    Rule,
    Where,
    reads_events,
)
from pinstream.audiences.templates import cart_abandoned
from pinstream.errors import Refused

DID = '{"type": "did", "events": ["add_to_cart"], "within_days": 7}'


def did(*events: str, days: int = 7) -> Did:
    return Did(events=events or ("add_to_cart",), within_days=days)


def test_the_template_is_the_documented_json() -> None:
    assert rule.to_json(cart_abandoned()) == (
        '{"all":[{"type":"did","events":["initiate_checkout","add_to_cart"],"within_days":7}],'
        '"none":[{"type":"did","events":["checkout"],"within_days":7}],"quiet_for_min":60}'
    )


def test_toml_and_json_say_the_same() -> None:
    text = """
        quiet_for_min = 30
        [[all]]
        type = "did"
        events = ["AddToCart", "initiate-checkout", "add_to_cart"]
        within_days = 14
        [[none]]
        type = "did"
        events = ["checkout"]
        within_days = 14
    """
    expected = Rule(
        all=(did("add_to_cart", "initiate_checkout", days=14),), none=(did("checkout", days=14),), quiet_for_min=30
    )
    assert rule.from_toml(text) == expected
    assert rule.from_json(rule.to_json(expected)) == expected


names = st.lists(st.text("abc é'\\\\{}:%", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple)
days = st.integers(1, MAX_WITHIN_DAYS)
raw_days = st.integers(1, MAX_RAW_DAYS)
numbers = st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=3).map(tuple)
money = st.none() | st.floats(0, 1e9).map(lambda value: round(value, 4))
events = st.lists(
    st.sampled_from(["checkout", "add_to_cart", "page_visit", "view_content", "view_category", "played the game"]),
    min_size=1,
    max_size=3,
    unique=True,
).map(tuple)
conditions: st.SearchStrategy[Condition] = st.one_of(
    st.builds(
        Did,
        events=events,
        within_days=raw_days,
        at_least=st.integers(1, MAX_AT_LEAST),
        where=st.builds(
            Where,
            products=names | st.just(()),
            categories=names | st.just(()),
            brands=names | st.just(()),
            value_at_least=money,
            value_below=money,
            currency=st.sampled_from(["", "EUR"]),
            url_contains=st.sampled_from(["", "/sale"]),
            search_contains=st.sampled_from(["", "chair"]),
        ),
    ),
    st.builds(Engaged, within_days=days, actions=st.sampled_from([(), ("click",), ("save", "like")])),
    st.builds(Engaged, within_days=days, on=st.just("product"), ids=names | st.just(())),
    st.builds(Engaged, within_days=days, on=st.just("pin"), ids=numbers.map(lambda found: tuple(map(str, found)))),
    *(st.builds(kind, within_days=days) for kind in (rule.Arrived, rule.FirstSeen, rule.LastSeen)),
    st.builds(
        Orders,
        within_days=st.integers(0, MAX_WITHIN_DAYS),
        count_at_least=st.integers(0, 10),
        count_at_most=st.none() | st.integers(0, 10),
        total_at_least=money,
        total_below=money,
        average_at_least=money,
        average_below=money,
    ),
    st.builds(Bought, products=names, categories=names | st.just(())),
    st.builds(Consents, word=st.sampled_from(["yes", "no", "unknown"])),
    st.just(Known()),
    st.builds(OnList, lists=numbers),
    st.builds(InAudience, audiences=numbers),
)


@given(
    st.builds(
        Rule,
        all=st.lists(conditions, min_size=1, max_size=3).map(tuple),
        any=st.lists(conditions, max_size=3).map(tuple),
        none=st.lists(conditions, max_size=3).map(tuple),
        quiet_for_min=st.integers(0, MAX_QUIET_MIN),
        level=st.sampled_from(["person", "visitor"]),
    )
)
def test_any_rule_reads_back_equal(any_rule: Rule) -> None:
    assert rule.from_json(rule.to_json(any_rule)) == any_rule == rule.checked(any_rule)


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ('{"all": []}', "$", "needs a condition"),
        ('{"none": [DID]}', "$", "needs a condition"),
        ('{"all": [DID], "level": "household"}', "$.level", "Allowed: person, visitor"),
        ('{"all": [DID], "often": 3}', "$", "unknown field `often`"),
        ('{"all": [{"type": "did", "events": ["checkout"]}]}', "$.all[0]", "missing required field `within_days`"),
        ('{"all": [{"type": "did", "events": ["checkout"], "within_days": 0}]}', "$.all[0].within_days", ">= 1"),
        ('{"all": [{"type": "did", "events": ["checkout"], "within_days": 541}]}', "$.all[0].within_days", "<= 540"),
        ('{"all": [{"type": "did", "events": ["checkout"], "within_days": "7"}]}', "$.all[0].within_days", "a whole"),
        ('{"all": [{"type": "did", "events": [], "within_days": 7}]}', "$.all[0].events", "length >= 1"),
        ('{"all": [{"type": "spent", "events": [], "within_days": 7}]}', "$.all[0].type", "Invalid value 'spent'"),
        ('{"all": [DID], "none": [{"type": "did", "events": ["checkout", "Consent Withdrawn"], "within_days": 7}]}',
         "$.none[0].events[1]", "No rule can ask for the event"),
        ('{"all": [{"type": "did", "events": [" "], "within_days": 7}]}', "$.all[0].events[0]", "No rule can ask"),
        ('{"all": [{"type": "did", "events": ["a\\u0000b"], "within_days": 7}]}', "$.all[0].events[0]", "control"),
        ('{"all": [{"type": "did", "events": ["x"], "within_days": 7, "at_least": 65}]}', "$.all[0].at_least", "<= 64"),
        ('{"all": [{"type": "did", "events": ["x"], "within_days": 401}]}', "$.all[0].within_days", "400 days"),
        ('{"all": [{"type": "did", "events": ["checkout"], "within_days": 7, "where": {"currency": "eur"}}]}',
         "$.all[0].where.currency", "three capital letters"),
        ('{"all": [{"type": "engaged", "within_days": 7, "actions": ["share"]}]}', "$.all[0].actions[0]", "'share'"),
        ('{"all": [{"type": "engaged", "within_days": 7, "ids": ["1"]}]}', "$.all[0].on", "needs `on`"),
        ('{"all": [{"type": "engaged", "within_days": 7, "on": "pin", "ids": ["1", "x"]}]}',
         "$.all[0].ids[1]", "numbers"),
        ('{"all": [{"type": "engaged", "within_days": 7, "on": "pin", "ids": ["18446744073709551616"]}]}',
         "$.all[0].ids[0]", "numbers"),
        ('{"all": [{"type": "orders", "within_days": 9}]}', "$.all[0]", "how many orders"),
        ('{"all": [{"type": "orders", "total_at_least": -1}]}', "$.all[0].total_at_least", ">= 0"),
        ('{"any": [{"type": "bought"}]}', "$.any[0]", "name `products`"),
        ('{"all": [{"type": "bougth"}]}', "$.all[0].type", "Allowed: did, engaged, arrived"),
        ('{"all": [{"type": "engaged", "within_days": 1, "actions": ["x"]}]}', "$.all[0].actions[0]", "click, save"),
        ('{"all": [{"type": "list", "lists": []}]}', "$.all[0].lists", "length >= 1"),
        ('{"all": [{"type": "audience", "audiences": [0]}]}', "$.all[0].audiences[0]", ">= 1"),
        ('{"all": [{"type": "consent", "word": "maybe"}]}', "$.all[0].word", "'maybe'"),
        ('{"all": [{"type": "known", "by": "name"}]}', "$.all[0]", "unknown field"),
        ('{"all": [DID], "quiet_for_min": -1}', "$.quiet_for_min", ">= 0"),
        ('{"all": [DID], "quiet_for_min": 43201}', "$.quiet_for_min", "<= 43200"),
        ("{", "$", "not valid JSON"),
        ("[" * 5000, "$", "not valid"),
        (b"\xff", "$", "not valid"),
    ],
)  # fmt: skip
def test_a_bad_rule_is_refused_with_its_path(text: str | bytes, field: str, says: str) -> None:
    with pytest.raises(Refused) as caught:
        rule.from_json(text.replace("DID", DID) if isinstance(text, str) else text)
    assert says in str(caught.value)
    assert caught.value.field == field


def test_bad_toml_is_refused() -> None:
    with pytest.raises(Refused, match="not valid TOML"):
        rule.from_toml("all = [")


@pytest.mark.parametrize(
    ("at_the_bound", "past_it"),
    [
        (Rule(all=(did(days=540),)), Rule(all=(did(days=541),))),
        (Rule(all=(did(),) * MAX_CONDITIONS), Rule(all=(did(),) * (MAX_CONDITIONS + 1))),
        (
            Rule(all=(did(),), none=(did(),) * MAX_CONDITIONS),
            Rule(all=(did(),), none=(did(),) * (MAX_CONDITIONS + 1)),
        ),
        (
            Rule(all=(did(*["checkout"] * MAX_EVENTS),)),
            Rule(all=(did(*["checkout"] * (MAX_EVENTS + 1)),)),
        ),
        (Rule(any=(did(),) * MAX_CONDITIONS), Rule(any=(did(),) * (MAX_CONDITIONS + 1))),
        (Rule(all=(OnList(lists=(1,) * MAX_NAMES),)), Rule(all=(OnList(lists=(1,) * (MAX_NAMES + 1)),))),
        (Rule(all=(Bought(products=("x" * 256,)),)), Rule(all=(Bought(products=("x" * 257,)),))),
        (Rule(all=(did("x", days=400),)), Rule(all=(did("x", days=401),))),
        (Rule(all=(did(),), quiet_for_min=MAX_QUIET_MIN), Rule(all=(did(),), quiet_for_min=MAX_QUIET_MIN + 1)),
    ],
)
def test_each_bound_holds(at_the_bound: Rule, past_it: Rule) -> None:
    assert rule.checked(at_the_bound).level == "person"
    with pytest.raises(Refused):
        rule.checked(past_it)


def test_the_text_of_a_rule_is_bounded() -> None:
    text = '{"all": [' + DID + "]}"
    assert rule.from_json(text.ljust(MAX_BYTES)) == Rule(all=(did(),))
    with pytest.raises(Refused, match="longer than"):
        rule.from_json(text.ljust(MAX_BYTES + 1))


def test_the_template_takes_days_and_minutes() -> None:
    changed = cart_abandoned(within_days=3, quiet_for_min=0)
    assert changed.all == (did("initiate_checkout", "add_to_cart", days=3),)
    assert changed.none == (did("checkout", days=3),) and changed.quiet_for_min == 0
    with pytest.raises(Refused):
        cart_abandoned(within_days=0)


@pytest.mark.parametrize(
    ("condition", "raw"),
    [
        (did("checkout", days=540), False),
        (did("page_visit", "view_content", "view_category", days=540), False),
        (did("page_visit", days=180), False),
        (did("page_visit", days=181), True),
        (Did(events=("checkout",), within_days=180, at_least=2), False),
        (Did(events=("checkout",), within_days=181, at_least=2), True),
        (Did(events=("checkout",), within_days=7, where=Where(brands=("a",))), True),
        (Engaged(within_days=540, on="pin", ids=("1",)), False),
        (Orders(total_at_least=1), False),
    ],
)
def test_a_rule_knows_when_it_reads_events(condition: Condition, raw: bool) -> None:
    assert reads_events(condition) is raw


def test_the_documented_rule_is_one_and_every_type_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "audiences.md").read_text()
    [example] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(rule.from_toml(example).conditions()) == 4
    kinds = {kind.__struct_config__.tag: kind for kind in get_args(Condition)}
    rows = re.findall(r"^\| `.*$", text, re.MULTILINE)
    documented = {name: row for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1]) if name != "type"}
    assert set(documented) == set(kinds)
    for name, kind in kinds.items():
        assert all(f"`{field}`" in documented[name] for field in kind.__struct_fields__), name


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (Orders(count_at_least=3, count_at_most=1), "nothing is count_at_least 3 and count_at_most 1"),
        (Orders(total_at_least=3, total_below=3), "total_below 3"),
        (Orders(average_at_least=3, average_below=2), "average_below 2"),
        (Did(events=("checkout",), within_days=7, where=Where(value_at_least=3, value_below=3)), "value_below 3"),
    ],
)
def test_bounds_that_exclude_each_other_are_refused(condition: Condition, says: str) -> None:
    with pytest.raises(Refused, match=says):
        rule.check_possible(Rule(none=(condition,)))
    rule.check_possible(Rule(all=(Orders(count_at_least=3, count_at_most=3, total_at_least=2, total_below=2.5),)))
