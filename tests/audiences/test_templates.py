from __future__ import annotations

from typing import Any, get_args

import pytest

from pinstream.audiences import templates, words
from pinstream.audiences.rule import Orders, checked
from pinstream.audiences.templates import BOUNDS, Language, Template, template
from pinstream.errors import Refused

LANGUAGES: tuple[Language, ...] = get_args(Language)
CROSS = {"bought_products": "a", "not_categories": "b"}
EIGHT = {
    "cart_abandoned",
    "win_back",
    "re_engagement",
    "cross_sell",
    "new_customers",
    "multichannel",
    "brand_lovers",
    "disengaged_vips",
}


def needed(each: Template) -> dict[str, Any]:
    return dict(CROSS) if each.key == "cross_sell" else {}


def test_the_eight_use_cases_and_what_stands_beside_them() -> None:
    beside = {"recent_buyers", "all_visitors", "first_visitors", "engaged", "actalike_seed"}
    assert [each.key for each in templates.ALL[:8]] == list(dict.fromkeys(each.key for each in templates.ALL[:8]))
    assert {each.key for each in templates.ALL[:8]} == EIGHT
    assert {each.key for each in templates.ALL[8:]} == beside


@pytest.mark.parametrize("each", templates.ALL, ids=lambda each: each.key)
def test_a_template_has_a_rule_and_words_in_both_languages(each: Template) -> None:
    rule = each.rule(needed(each))
    assert checked(rule) == rule and rule.level == "person"
    for text in (each.name, each.description, *(parameter.label for parameter in each.parameters)):
        assert set(text) == set(LANGUAGES) and all(text.values())
        assert text["en"] != text["fr"]
    assert len(words.sentence(rule, "en")) > 20 < len(words.sentence(rule, "fr"))


@pytest.mark.parametrize(
    ("each", "number"),
    [(each, number) for each in templates.ALL for number in each.parameters if number.kind in BOUNDS],
    ids=lambda one: getattr(one, "key", "") or one.name,
)
def test_every_number_can_be_edited_within_its_bounds(each: Template, number: templates.Parameter) -> None:
    least, most = BOUNDS[number.kind]
    assert least <= number.default <= most
    assert each.rule(needed(each) | {number.name: str(number.default)}) == each.rule(needed(each))
    assert each.rule(needed(each) | {number.name: number.default + 1}) != each.rule(needed(each))
    for wrong in (least - 1, most + 1, "many"):
        with pytest.raises(Refused):
            each.rule(needed(each) | {number.name: wrong})


def test_lists_are_typed_with_commas() -> None:
    made = template("cross_sell").rule({"bought_products": "a, b,", "not_categories": ["c"]})
    assert made.all[0].products == ("a", "b")  # type: ignore[union-attr]
    assert made.none[0].categories == ("c",)  # type: ignore[union-attr]
    assert template("multichannel").rule({"lists": "3,4"}).all[0].lists == (3, 4)  # type: ignore[union-attr]
    assert template("engaged").rule({"actions": "save,like"}).all[0].actions == ("save", "like")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("key", "changes", "says"),
    [
        ("cart_abandoned", {"days": 3}, "It has: within_days, quiet_for_min"),
        ("cross_sell", {}, "--set bought_products="),
        ("cross_sell", {"bought_products": "p"}, "--set not_products="),
        ("engaged", {"actions": "pinned"}, "Allowed: click, save"),
        ("engaged", {"actions": "share"}, "share"),
        ("engaged", {"ids": "11"}, "needs `on`"),
        ("multichannel", {"lists": "newsletter"}, "lists"),
    ],
)
def test_a_wrong_change_is_refused(key: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says):
        template(key).rule(changes)


def test_an_unknown_template_is_refused_with_those_there_are() -> None:
    with pytest.raises(Refused, match="cart_abandoned"):
        template("cart")


def test_who_bought_is_asked_of_orders_so_that_a_cancelled_one_does_not_count() -> None:
    assert template("win_back").rule().all == (Orders(count_at_least=1),)
