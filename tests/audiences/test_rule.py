from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstream.audiences import rule
from pinstream.audiences.rule import MAX_BYTES, MAX_CONDITIONS, MAX_EVENTS, MAX_QUIET_MIN, Did, Rule
from pinstream.audiences.templates import cart_abandoned
from pinstream.errors import Refused

DID = '{"type": "did", "events": ["add_to_cart"], "within_days": 7}'


def did(*events: str, days: int = 7) -> Did:
    return Did(events=events or ("add_to_cart",), within_days=days)


def test_the_template_is_the_documented_json() -> None:
    assert rule.to_json(cart_abandoned()) == (
        '{"all":[{"type":"did","events":["initiate_checkout","add_to_cart"],"within_days":7}],'
        '"none":[{"type":"did","events":["checkout"],"within_days":7}],"quiet_for_min":60,"level":"person"}'
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


conditions = st.builds(
    Did,
    events=st.lists(st.sampled_from(sorted(rule.PROFILE_COLUMNS)), min_size=1, max_size=3, unique=True).map(tuple),
    within_days=st.integers(1, rule.MAX_WITHIN_DAYS),
)


@given(
    st.builds(
        Rule,
        all=st.lists(conditions, min_size=1, max_size=MAX_CONDITIONS).map(tuple),
        none=st.lists(conditions, max_size=MAX_CONDITIONS).map(tuple),
        quiet_for_min=st.integers(0, MAX_QUIET_MIN),
    )
)
def test_any_rule_reads_back_equal(any_rule: Rule) -> None:
    assert rule.from_json(rule.to_json(any_rule)) == any_rule == rule.checked(any_rule)


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ('{"all": []}', "$.all", "length >= 1"),
        ('{"none": [DID]}', "$", "missing required field `all`"),
        ('{"all": [DID], "level": "visitor"}', "$.level", "Invalid enum value"),
        ('{"all": [DID], "often": 3}', "$", "unknown field `often`"),
        ('{"all": [{"type": "did", "events": ["checkout"]}]}', "$.all[0]", "missing required field `within_days`"),
        ('{"all": [{"type": "did", "events": ["checkout"], "within_days": 0}]}', "$.all[0].within_days", ">= 1"),
        ('{"all": [{"type": "did", "events": ["checkout"], "within_days": 541}]}', "$.all[0].within_days", "<= 540"),
        ('{"all": [{"type": "did", "events": ["checkout"], "within_days": "7"}]}', "$.all[0].within_days", "int"),
        ('{"all": [{"type": "did", "events": [], "within_days": 7}]}', "$.all[0].events", "length >= 1"),
        ('{"all": [{"type": "spent", "events": [], "within_days": 7}]}', "$.all[0].type", "Invalid value 'spent'"),
        ('{"all": [DID], "none": [{"type": "did", "events": ["checkout", "lead"], "within_days": 7}]}',
         "$.none[0].events[1]", "No rule can use the event lead yet"),
        ('{"all": [DID], "quiet_for_min": -1}', "$.quiet_for_min", ">= 0"),
        ('{"all": [DID], "quiet_for_min": 43201}', "$.quiet_for_min", "<= 43200"),
        ("{", "$", "not valid JSON"),
        ("[" * 5000, "$", "not valid"),
        (b"\xff", "$", "not valid"),
        ('{"all": [{"type": "did", "events": ["\\u0000\\ud83d\\ude00\'; DROP"], "within_days": 7}]}',
         "$.all[0].events[0]", "event "),
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
    assert (changed.all[0].within_days, changed.none[0].within_days, changed.quiet_for_min) == (3, 3, 0)
    with pytest.raises(Refused):
        cart_abandoned(within_days=0)
