"""Ready-made rules, each with numbers that can be changed, named and described in English and French."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from pinstream.audiences.rule import (
    MAX_COUNT,
    MAX_QUIET_MIN,
    MAX_WITHIN_DAYS,
    Bought,
    Condition,
    Did,
    Engaged,
    FirstSeen,
    Known,
    LastSeen,
    OnList,
    Orders,
    Rule,
    checked,
    in_words,
)
from pinstream.errors import Refused
from pinstream.event import MAX_MONEY, Action

Language = Literal["en", "fr"]
Text = Mapping[Language, str]
Kind = Literal["days", "minutes", "count", "money", "names", "lists", "actions", "object"]

BOUNDS: Final[dict[Kind, tuple[float, float]]] = {
    "days": (1, MAX_WITHIN_DAYS),
    "minutes": (0, MAX_QUIET_MIN),
    "count": (0, MAX_COUNT),
    "money": (0, MAX_MONEY),
}
"""Of the kinds that are numbers: the least and the greatest."""


class Parameter(Struct, frozen=True):
    """What can be changed in a template."""

    name: str
    kind: Kind
    default: Any
    label: Text


EXAMPLES: Final[dict[Kind, str]] = {
    "names": "ID,ID",
    "lists": "NUMBER,NUMBER",
    "actions": "ACTION,ACTION",
}
"""What a value looks like where a parameter has no default."""


class Template(Struct, frozen=True, kw_only=True):
    """A rule to start from."""

    key: str
    name: Text
    description: Text
    parameters: tuple[Parameter, ...]
    build: Callable[..., Rule]

    def rule(self, changes: Mapping[str, Any] | None = None) -> Rule:
        """The rule with some parameters changed; a change may be text as typed, lists separated by commas.

        Raises Refused for a parameter that the template has not, and for a value that a rule cannot have.
        """
        values = {each.name: each.default for each in self.parameters}
        for name, value in (changes or {}).items():
            if name not in values:
                known = ", ".join(values)
                raise Refused("bad_value", f"Template {self.key} has no {name!r}. It has: {known}.", field=name)
            values[name] = _read(next(each for each in self.parameters if each.name == name), value)
        return checked(self.build(**values))


def _read(parameter: Parameter, value: Any) -> Any:
    kinds: dict[Kind, Any] = {
        "money": float,
        "names": tuple[str, ...],
        "lists": tuple[int, ...],
        "actions": tuple[Action, ...],
        "object": str,
    }
    kind = kinds.get(parameter.kind, int)
    if isinstance(value, str) and parameter.kind in ("names", "lists", "actions"):
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        read = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as exc:
        what, _, _ = str(exc).partition(" - at ")
        raise Refused("bad_value", f"{parameter.name}: {in_words(what, parameter.name)}", field=parameter.name) from exc
    if bounds := BOUNDS.get(parameter.kind):
        least, most = bounds
        if not least <= read <= most:
            detail = f"{parameter.name} must be from {least:g} to {most:.0f}, not {read:g}."
            raise Refused("out_of_range", detail, field=parameter.name)
    return read


# --- the rules ------------------------------------------------------------------------------------


def cart_abandoned(*, within_days: int = 7, quiet_for_min: int = 60) -> Rule:
    """Put something in the cart or began to pay within the last days, and placed no order since those days began."""
    began = Did(events=("initiate_checkout", "add_to_cart"), within_days=within_days)
    ordered = Did(events=("checkout",), within_days=within_days)
    return checked(Rule(all=(began,), none=(ordered,), quiet_for_min=quiet_for_min))


def win_back(*, idle_days: int = 90) -> Rule:
    """Bought once, but not for a long time."""
    return checked(Rule(all=(Orders(count_at_least=1),), none=(Orders(count_at_least=1, within_days=idle_days),)))


def re_engagement(*, idle_days: int = 60) -> Rule:
    """Known by e-mail, and not seen for a long time."""
    return checked(Rule(all=(Known(),), none=(LastSeen(within_days=idle_days),)))


def cross_sell(
    *,
    bought_products: Sequence[str] = (),
    bought_categories: Sequence[str] = (),
    not_products: Sequence[str] = (),
    not_categories: Sequence[str] = (),
) -> Rule:
    """Bought one thing, and not the other that goes with it. Raises Refused unless both are named."""
    for prefix, named in (("bought", (bought_products, bought_categories)), ("not", (not_products, not_categories))):
        if not any(named):
            detail = (
                f"cross_sell needs {prefix}_products or {prefix}_categories, such as --set {prefix}_products=ID,ID."
            )
            raise Refused("missing_field", detail, field=f"{prefix}_products")
    has = Bought(products=tuple(bought_products), categories=tuple(bought_categories))
    lacks = Bought(products=tuple(not_products), categories=tuple(not_categories))
    return checked(Rule(all=(has,), none=(lacks,)))


def new_customers(*, within_days: int = 30) -> Rule:
    """Was here lately, and never bought."""
    return checked(Rule(all=(LastSeen(within_days=within_days),), none=(Orders(count_at_least=1),)))


def multichannel(*, within_days: int = 30, lists: Sequence[int] = ()) -> Rule:
    """Reached by e-mail already, and active here: show the same people Pins as well."""
    contacted: Condition = OnList(lists=tuple(lists)) if lists else Known()
    return checked(Rule(all=(contacted, LastSeen(within_days=within_days))))


def brand_lovers(*, within_days: int = 60, orders_at_most: int = 2, total_below: float = 100) -> Rule:
    """Bought recently, but seldom and for little: could become fond of the shop."""
    lately = Orders(count_at_least=1, within_days=within_days)
    little = Orders(count_at_most=orders_at_most, total_below=total_below)
    return checked(Rule(all=(lately, little)))


def disengaged_vips(*, total_at_least: float = 500, idle_days: int = 60, lists: Sequence[int] = ()) -> Rule:
    """The best customers, by money or by a list, of whom nothing was seen lately."""
    listed: tuple[Condition, ...] = (OnList(lists=tuple(lists)),) if lists else ()
    lately = (LastSeen(within_days=idle_days), Engaged(within_days=idle_days))
    return checked(Rule(any=(Orders(total_at_least=total_at_least), *listed), none=lately))


def recent_buyers(*, within_days: int = 30) -> Rule:
    """Bought lately: mostly to be left out of campaigns."""
    return checked(Rule(all=(Orders(count_at_least=1, within_days=within_days),)))


def all_visitors(*, within_days: int = 30) -> Rule:
    """Everybody who was here lately."""
    return checked(Rule(all=(LastSeen(within_days=within_days),)))


def first_visitors(*, within_days: int = 30) -> Rule:
    """Came for the first time lately."""
    return checked(Rule(all=(FirstSeen(within_days=within_days),)))


def engaged(*, within_days: int = 30, actions: Sequence[Action] = (), on: Any = "any", ids: Sequence[str] = ()) -> Rule:
    """Clicked, saved, enlarged, liked or commented on a Pin: any, or those of one Pin, board, product or campaign."""
    return checked(Rule(all=(Engaged(within_days=within_days, actions=tuple(actions), on=on, ids=tuple(ids)),)))


def actalike_seed(*, within_days: int = 365, orders_at_least: int = 2, total_at_least: float = 200) -> Rule:
    """The best customers, from whom Pinterest finds people who are like them."""
    best = Orders(within_days=within_days, count_at_least=orders_at_least, total_at_least=total_at_least)
    return checked(Rule(all=(best,)))


# --- in words -------------------------------------------------------------------------------------

_WITHIN: Final[Text] = {"en": "In the last days", "fr": "Ces derniers jours"}
_IDLE: Final[Text] = {"en": "Nothing for days", "fr": "Rien depuis (jours)"}
_LISTS: Final[Text] = {"en": "Lists (numbers)", "fr": "Listes (numéros)"}
_TOTAL: Final[Text] = {"en": "Spent at least", "fr": "Dépensé au moins"}


def _within(days: int) -> Parameter:
    return Parameter("within_days", "days", days, _WITHIN)


def _idle(days: int) -> Parameter:
    return Parameter("idle_days", "days", days, _IDLE)


ALL: Final[tuple[Template, ...]] = (
    Template(
        key="cart_abandoned",
        name={"en": "Cart abandoned", "fr": "Panier abandonné"},
        description={
            "en": "They put something in the cart or began to check out, and placed no order. Remind them.",
            "fr": "Ils ont rempli un panier ou commencé à payer, sans passer commande. À relancer.",
        },
        parameters=(
            _within(7),
            Parameter("quiet_for_min", "minutes", 60, {"en": "Quiet for minutes", "fr": "Inactifs depuis (minutes)"}),
        ),
        build=cart_abandoned,
    ),
    Template(
        key="win_back",
        name={"en": "Win-back", "fr": "Reconquête"},
        description={
            "en": "They bought once, but not for a long time. Give them a reason to return.",
            "fr": "Ils ont déjà acheté, mais plus depuis longtemps. Donnez-leur une raison de revenir.",
        },
        parameters=(_idle(90),),
        build=win_back,
    ),
    Template(
        key="re_engagement",
        name={"en": "Re-engagement", "fr": "Réengagement"},
        description={
            "en": "You know their e-mail address, and they have not been here for a long time.",
            "fr": "Vous connaissez leur adresse e-mail, et ils ne sont pas venus depuis longtemps.",
        },
        parameters=(_idle(60),),
        build=re_engagement,
    ),
    Template(
        key="cross_sell",
        name={"en": "Cross-sell", "fr": "Vente croisée"},
        description={
            "en": "They bought one thing, and not the other that goes well with it.",
            "fr": "Ils ont acheté un article, mais pas celui qui va bien avec.",
        },
        parameters=(
            Parameter("bought_products", "names", (), {"en": "Bought: products", "fr": "Achetés : produits"}),
            Parameter("bought_categories", "names", (), {"en": "Bought: categories", "fr": "Achetées : catégories"}),
            Parameter("not_products", "names", (), {"en": "Not: products", "fr": "Pas achetés : produits"}),
            Parameter("not_categories", "names", (), {"en": "Not: categories", "fr": "Pas achetées : catégories"}),
        ),
        build=cross_sell,
    ),
    Template(
        key="new_customers",
        name={"en": "New customers", "fr": "Nouveaux clients"},
        description={
            "en": "They were here lately and never bought. Win them with a first offer.",
            "fr": "Ils sont venus récemment sans jamais acheter. Gagnez-les avec une première offre.",
        },
        parameters=(_within(30),),
        build=new_customers,
    ),
    Template(
        key="multichannel",
        name={"en": "Multichannel", "fr": "Multicanal"},
        description={
            "en": "You reach them by e-mail already, and they are active here: show them Pins as well. Without a list: "
            "all whose address is known.",
            "fr": "Vous leur écrivez déjà par e-mail et ils sont actifs ici : montrez-leur aussi des épingles. Sans "
            "liste : tous ceux dont l'adresse est connue.",
        },
        parameters=(_within(30), Parameter("lists", "lists", (), _LISTS)),
        build=multichannel,
    ),
    Template(
        key="brand_lovers",
        name={"en": "Potential brand lovers", "fr": "Futurs fans de la marque"},
        description={
            "en": "They bought recently, but seldom and for little. A little attention makes them regulars.",
            "fr": "Ils ont acheté récemment, mais rarement et pour peu. Un peu d'attention en fera des fidèles.",
        },
        parameters=(
            _within(60),
            Parameter("orders_at_most", "count", 2, {"en": "Orders at most", "fr": "Commandes au plus"}),
            Parameter("total_below", "money", 100.0, {"en": "Spent less than", "fr": "Dépensé moins de"}),
        ),
        build=brand_lovers,
    ),
    Template(
        key="disengaged_vips",
        name={"en": "Disengaged VIPs", "fr": "VIP inactifs"},
        description={
            "en": "Your best customers, of whom nothing was seen lately.",
            "fr": "Vos meilleurs clients, dont on n'a rien vu récemment.",
        },
        parameters=(
            Parameter("total_at_least", "money", 500.0, _TOTAL),
            _idle(60),
            Parameter("lists", "lists", (), _LISTS),
        ),
        build=disengaged_vips,
    ),
    Template(
        key="recent_buyers",
        name={"en": "Recent buyers", "fr": "Acheteurs récents"},
        description={
            "en": "They bought lately. Leave them out of campaigns that look for buyers.",
            "fr": "Ils viennent d'acheter. À exclure des campagnes qui cherchent des acheteurs.",
        },
        parameters=(_within(30),),
        build=recent_buyers,
    ),
    Template(
        key="all_visitors",
        name={"en": "All visitors", "fr": "Tous les visiteurs"},
        description={"en": "Everybody who was here lately.", "fr": "Tous ceux qui sont venus récemment."},
        parameters=(_within(30),),
        build=all_visitors,
    ),
    Template(
        key="first_visitors",
        name={"en": "First visit", "fr": "Première visite"},
        description={
            "en": "They came for the first time lately.",
            "fr": "Ils sont venus récemment pour la première fois.",
        },
        parameters=(_within(30),),
        build=first_visitors,
    ),
    Template(
        key="engaged",
        name={"en": "Engaged with a Pin", "fr": "Engagés avec une épingle"},
        description={
            "en": "They clicked, saved, enlarged, liked or commented on a Pin: any, or one of yours.",
            "fr": "Ils ont cliqué, enregistré, agrandi, aimé ou commenté une épingle : toutes, ou une des vôtres.",
        },
        parameters=(
            _within(30),
            Parameter(
                "actions",
                "actions",
                (),
                {
                    "en": "Actions: click, save, closeup, comment, like",
                    "fr": "Actions : click (clic), save (enregistrement), closeup (agrandissement), "
                    "comment (commentaire), like (j'aime)",
                },
            ),
            Parameter(
                "on",
                "object",
                "any",
                {
                    "en": "On: any, pin, board, product, campaign",
                    "fr": "Sur : any (tout), pin (épingle), board (tableau), product (produit), campaign (campagne)",
                },
            ),
            Parameter("ids", "names", (), {"en": "Their ids", "fr": "Leurs identifiants"}),
        ),
        build=engaged,
    ),
    Template(
        key="actalike_seed",
        name={"en": "Actalike seed", "fr": "Base d'une audience similaire"},
        description={
            "en": "Your best customers: Pinterest looks for people who are like them.",
            "fr": "Vos meilleurs clients : Pinterest cherche des personnes qui leur ressemblent.",
        },
        parameters=(
            _within(365),
            Parameter("orders_at_least", "count", 2, {"en": "Orders at least", "fr": "Commandes au moins"}),
            Parameter("total_at_least", "money", 200.0, _TOTAL),
        ),
        build=actalike_seed,
    ),
)
"""In the order of showing: the eight use cases, then what stands beside them."""

BY_KEY: Final[dict[str, Template]] = {template.key: template for template in ALL}


def template(key: str) -> Template:
    """The template of that key. Raises Refused if there is none."""
    if key not in BY_KEY:
        raise Refused("bad_value", f"There is no template {key!r}. There are: {', '.join(BY_KEY)}.", field="template")
    return BY_KEY[key]
