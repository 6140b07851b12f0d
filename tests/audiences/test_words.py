from __future__ import annotations

import string
from typing import get_args

import pytest

from pinstream.audiences import templates, words
from pinstream.audiences.rule import (
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
)
from pinstream.audiences.templates import Language
from pinstream.event import Action

LANGUAGES: tuple[Language, ...] = get_args(Language)
WHERE = Where(
    products=("p1", "p2"),
    categories=("c",),
    brands=("b",),
    value_at_least=9.5,
    value_below=100,
    currency="USD",
    url_contains="/sale",
    search_contains="chair",
)
CASES: list[tuple[Condition, str, str]] = [
    (
        Did(events=("checkout", "lead"), within_days=7),
        "placed an order or left their details in the last 7 days",
        "ont passé commande ou ont laissé leurs coordonnées ces 7 derniers jours",
    ),
    (
        Did(events=("played",), within_days=1, at_least=3),
        "did “played” at least 3 times since yesterday 00:00 UTC",
        "ont fait « played » au moins 3 fois depuis hier 00:00 UTC",
    ),
    (
        Did(events=("search",), within_days=7, at_least=2),
        "searched at least 2 times in the last 7 whole days and today (UTC)",
        "ont fait une recherche au moins 2 fois ces 7 derniers jours entiers et aujourd'hui (UTC)",
    ),
    (
        Did(events=("view_content", "page_visit", "view_category"), within_days=30),
        "visited a page in the last 30 days",
        "ont visité une page ces 30 derniers jours",
    ),
    (
        Did(events=("search",), within_days=30, where=WHERE),
        "searched (product p1 or p2, category c, brand b, worth at least 9.50 EUR, worth less than 100 EUR, in USD, "
        "“/sale” in the page's address, “chair” in the search) in the last 30 days",
        "ont fait une recherche (produit p1 ou p2, catégorie c, marque b, d'au moins 9,50 EUR, de moins de 100 EUR, "
        "en USD, « /sale » dans l'adresse de la page, « chair » dans la recherche) ces 30 derniers jours",
    ),
    (
        Engaged(within_days=7),
        "engaged with a Pin in the last 7 days",
        "ont interagi avec une épingle ces 7 derniers jours",
    ),
    (
        Engaged(within_days=7, actions=("save", "like"), on="board", ids=("21", "22")),
        "saved or liked a Pin of the board 21 or 22 in the last 7 days",
        "ont enregistré ou aimé une épingle du tableau 21 ou 22 ces 7 derniers jours",
    ),
    (
        Engaged(within_days=7, actions=("click", "save", "comment"), on="pin", ids=("123",)),
        "clicked or saved or commented on the Pin 123 in the last 7 days",
        "ont enregistré ou commenté l'épingle 123 ou cliqué dessus ces 7 derniers jours",
    ),
    (
        Engaged(within_days=7, actions=("click",)),
        "clicked a Pin in the last 7 days",
        "ont cliqué sur une épingle ces 7 derniers jours",
    ),
    (
        Engaged(within_days=7, on="campaign"),
        "engaged with a Pin of some campaign in the last 7 days",
        "ont interagi avec une épingle d'une campagne ces 7 derniers jours",
    ),
    (Arrived(within_days=7), "came from a Pin in the last 7 days", "sont venues d'une épingle ces 7 derniers jours"),
    (
        FirstSeen(within_days=7),
        "were here for the first time in the last 7 days",
        "sont venues pour la première fois ces 7 derniers jours",
    ),
    (LastSeen(within_days=7), "were here in the last 7 days", "sont venues ces 7 derniers jours"),
    (Orders(count_at_least=1), "ordered before", "ont déjà commandé"),
    (
        Orders(within_days=90, count_at_least=1),
        "ordered in the last 90 days",
        "ont commandé ces 90 derniers jours",
    ),
    (Orders(count_at_most=0), "never ordered", "n'ont jamais commandé"),
    (
        Orders(count_at_most=0, within_days=30),
        "ordered nothing in the last 30 days",
        "n'ont rien commandé ces 30 derniers jours",
    ),
    (
        Orders(count_at_most=1, count_at_least=1),
        "ordered at least once and ordered at most once altogether",
        "ont commandé au moins une fois et ont commandé au plus une fois en tout",
    ),
    (
        Orders(total_at_least=1_000_000.5),
        "spent at least 1,000,000.50 EUR altogether",
        "ont dépensé au moins 1\u202f000\u202f000,50 EUR en tout",
    ),
    (
        Orders(
            count_at_least=2,
            count_at_most=5,
            total_at_least=10,
            total_below=1000,
            average_at_least=5.25,
            average_below=200,
        ),
        "ordered at least 2 times and ordered at most 5 times and spent at least 10 EUR and spent less than 1,000 EUR "
        "and spent at least 5.25 EUR an order and spent less than 200 EUR an order altogether",
        "ont commandé au moins 2 fois et ont commandé au plus 5 fois et ont dépensé au moins 10 EUR et "
        "ont dépensé moins de 1\u202f000 EUR et ont dépensé au moins 5,25 EUR par commande et "
        "ont dépensé moins de 200 EUR par commande en tout",
    ),
    (
        Bought(products=("p",), categories=("c", "d")),
        "bought product p or something of category c or d",
        "ont acheté le produit p ou un article de la catégorie c ou d",
    ),
    (Consents(word="no"), "said no to tracking", "ont refusé leur accord"),
    (Known(), "left an e-mail address", "ont laissé une adresse e-mail"),
    (OnList(lists=(1, 2)), "are on list 1 or 2", "sont sur la liste 1 ou 2"),
    (InAudience(audiences=(3,)), "are in audience 3", "sont dans l'audience 3"),
]


@pytest.mark.parametrize(("condition", "en", "fr"), CASES)
def test_a_condition_in_words(condition: Condition, en: str, fr: str) -> None:
    assert words.clause(condition, "en", "EUR") == en
    assert words.clause(condition, "fr", "EUR") == fr


def test_every_condition_has_words() -> None:
    assert {type(condition) for condition, _, _ in CASES} == set(get_args(Condition))
    assert set(words.ACTIONS) == set(get_args(Action))


def test_a_rule_in_words() -> None:
    rule = Rule(
        all=(Known(), LastSeen(within_days=7)),
        any=(OnList(lists=(1,)), Orders(total_at_least=500)),
        none=(Arrived(within_days=1), Consents(word="no")),
        quiet_for_min=30,
    )
    assert words.sentence(rule, "en", "EUR") == (
        "People who left an e-mail address and were here in the last 7 days and either are on list 1, or spent at "
        "least 500 EUR altogether, except those who came from a Pin in the last 24 hours or said no to tracking, "
        "once quiet for 30 minutes."
    )
    assert words.sentence(rule, "fr", "EUR") == (
        "Les personnes qui ont laissé une adresse e-mail et sont venues ces 7 derniers jours et soit sont sur la liste "
        "1, soit ont dépensé au moins 500 EUR en tout, sauf celles qui sont venues d'une épingle ces dernières 24 "
        "heures ou ont refusé leur accord, après 30 minutes sans activité."
    )


def test_a_rule_about_browsers_asks_each_by_itself() -> None:
    rule = Rule(any=(LastSeen(within_days=7),), none=(Arrived(within_days=7),), level="visitor")
    assert words.sentence(rule, "en") == (
        "Browsers in which people were here in the last 7 days, except those in which they came from a Pin in the last "
        "7 days."
    )
    assert words.sentence(rule, "fr") == (
        "Les navigateurs dans lesquels des personnes sont venues ces 7 derniers jours, sauf ceux dans lesquels elles "
        "sont venues d'une épingle ces 7 derniers jours."
    )
    assert words.size(3, rule, "fr") == "3 navigateurs dont l'accord a été donné"


@pytest.mark.parametrize(
    ("count", "en", "fr"),
    [
        (0, "0 people with", "0 personne dont"),
        (1, "1 person with", "1 personne dont"),
        (2, "2 people with", "2 personnes dont"),
        (12345, "12,345 people with", "12\u202f345 personnes dont"),
    ],
)
def test_one_is_not_several(count: int, en: str, fr: str) -> None:
    rule = Rule(all=(LastSeen(within_days=7),), quiet_for_min=1)
    assert words.size(count, rule, "en").startswith(en) and words.size(count, rule, "fr").startswith(fr)
    assert words.sentence(rule, "en").endswith("once quiet for 1 minute.")
    assert words.sentence(rule, "fr").endswith("après 1 minute sans activité.")


def test_lists_and_audiences_have_names() -> None:
    names: words.Names = {"list": {1: "VIP"}, "audience": {3: "Buyers"}}
    assert words.clause(OnList(lists=(1, 2)), "en", "", names) == "are on list “VIP” or 2"
    assert words.clause(InAudience(audiences=(3,)), "fr", "", names) == "sont dans l'audience « Buyers »"


def test_notes_say_what_is_dear_and_what_is_left_out() -> None:
    raw = Rule(all=(Did(events=("checkout",), within_days=7, where=Where(brands=("b",))),))
    assert [len(words.notes(raw, language, {"unpriced": 2, "full": 1, "n": 9})) for language in LANGUAGES] == [3, 3]
    plain = Rule(all=(LastSeen(within_days=7),))
    assert words.notes(plain, "en", {"n": 9, "undecided": 0}) == []
    assert words.notes(plain, "en", {"undecided": 200, "declined": 1}) == [
        "200 more match, but never said yes to tracking.",
        "1 more matches, but said no to tracking.",
    ]


@pytest.mark.parametrize("table", [words.EVENTS, words.ACTIONS, words.OBJECTS, words._SOME, words._T])
def test_every_text_is_in_both_languages_with_the_same_places(table: dict[str, templates.Text]) -> None:
    for key, text in table.items():
        assert set(text) == set(LANGUAGES), key
        places = {language: [place for _, place, _, _ in string.Formatter().parse(text[language])] for language in text}
        assert set(places["en"]) - {None} == set(places["fr"]) - {None}, key
