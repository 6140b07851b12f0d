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
        "did “played” at least 3 times (whole days, UTC) in the last 24 hours",
        "ont fait « played » au moins 3 fois (jours entiers, UTC) ces dernières 24 heures",
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
    (
        Orders(
            count_at_least=2,
            count_at_most=5,
            total_at_least=10,
            total_below=1000,
            average_at_least=5.25,
            average_below=200,
        ),
        "ordered at least 2 times and ordered at most 5 times and spent at least 10 EUR and spent less than 1000 EUR "
        "and spent at least 5.25 EUR an order and spent less than 200 EUR an order altogether",
        "ont commandé au moins 2 fois et ont commandé au plus 5 fois et ont dépensé au moins 10 EUR et ont dépensé "
        "moins de 1000 EUR et ont dépensé au moins 5,25 EUR par commande et ont dépensé moins de 200 EUR par commande "
        "en tout",
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


def test_browsers_are_not_called_people() -> None:
    rule = Rule(any=(LastSeen(within_days=7),), level="visitor")
    assert words.sentence(rule, "en") == "Browsers of people who were here in the last 7 days."
    assert words.size(3, rule, "fr") == "3 navigateurs dont l'accord a été donné"


def test_notes_say_what_is_dear_and_what_is_left_out() -> None:
    raw = Rule(all=(Did(events=("checkout",), within_days=7, where=Where(brands=("b",))),))
    assert [len(words.notes(raw, language, unpriced=2, full=1)) for language in LANGUAGES] == [3, 3]
    assert words.notes(Rule(all=(LastSeen(within_days=7),)), "en") == []


@pytest.mark.parametrize("table", [words.EVENTS, words.ACTIONS, words.OBJECTS, words._SOME, words._T])
def test_every_text_is_in_both_languages_with_the_same_places(table: dict[str, templates.Text]) -> None:
    for key, text in table.items():
        assert set(text) == set(LANGUAGES), key
        places = {language: [place for _, place, _, _ in string.Formatter().parse(text[language])] for language in text}
        assert set(places["en"]) - {None} == set(places["fr"]) - {None}, key
