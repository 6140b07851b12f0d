"""A rule in words that a marketer understands, in English and French. Pure.

`sentence` is about everybody who is in, `clause` about one condition; both speak of people in the plural, because a
French verb then needs no form of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from pinstream.audiences.rule import (
    VIEWS,
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
    reads_events,
)
from pinstream.audiences.templates import Language, Text

EVENTS: Final[dict[str, Text]] = {
    "page_visit": {"en": "visited a page", "fr": "ont visité une page"},
    "view_content": {"en": "looked at a product", "fr": "ont regardé un produit"},
    "view_category": {"en": "looked at a category", "fr": "ont regardé une catégorie"},
    "search": {"en": "searched", "fr": "ont fait une recherche"},
    "add_to_cart": {"en": "put something in the cart", "fr": "ont mis un article au panier"},
    "add_to_wishlist": {"en": "put something on a wish list", "fr": "ont ajouté un article à leurs envies"},
    "initiate_checkout": {"en": "began to check out", "fr": "ont commencé à payer"},
    "add_payment_info": {"en": "gave payment details", "fr": "ont donné un moyen de paiement"},
    "checkout": {"en": "placed an order", "fr": "ont passé commande"},
    "signup": {"en": "signed up", "fr": "ont créé un compte"},
    "lead": {"en": "left their details", "fr": "ont laissé leurs coordonnées"},
    "subscribe": {"en": "subscribed", "fr": "ont souscrit un abonnement"},
    "watch_video": {"en": "watched a video", "fr": "ont regardé une vidéo"},
    "contact": {"en": "got in touch", "fr": "ont pris contact"},
}
"""What people did, for the events that shops send most; any other is named as it is."""

ACTIONS: Final[dict[str, Text]] = {
    "click": {"en": "clicked", "fr": "cliqué sur"},
    "save": {"en": "saved", "fr": "enregistré"},
    "closeup": {"en": "enlarged", "fr": "agrandi"},
    "comment": {"en": "commented on", "fr": "commenté"},
    "like": {"en": "liked", "fr": "aimé"},
}

OBJECTS: Final[dict[str, Text]] = {
    "any": {"en": "a Pin", "fr": "une épingle"},
    "pin": {"en": "the Pin", "fr": "l'épingle"},
    "board": {"en": "a Pin of the board", "fr": "une épingle du tableau"},
    "product": {"en": "a Pin of the product", "fr": "une épingle du produit"},
    "campaign": {"en": "a Pin of the campaign", "fr": "une épingle de la campagne"},
}
"""With an id behind; without ids see `_SOME`."""

_SOME: Final[dict[str, Text]] = {
    "pin": {"en": "a Pin", "fr": "une épingle"},
    "board": {"en": "a Pin of some board", "fr": "une épingle d'un tableau"},
    "product": {"en": "a Pin of some product", "fr": "une épingle d'un produit"},
    "campaign": {"en": "a Pin of some campaign", "fr": "une épingle d'une campagne"},
}

_T: Final[dict[str, Text]] = {
    "people": {"en": "People who {0}", "fr": "Les personnes qui {0}"},
    "browsers": {"en": "Browsers of people who {0}", "fr": "Les navigateurs des personnes qui {0}"},
    "not": {"en": ", except those who {0}", "fr": ", sauf celles qui {0}"},
    "quiet": {"en": ", once quiet for {0}", "fr": ", après {0} sans activité"},
    "and": {"en": " and ", "fr": " et "},
    "or": {"en": " or ", "fr": " ou "},
    "either": {"en": "either {0}", "fr": "soit {0}"},
    "else": {"en": ", or ", "fr": ", soit "},
    "within": {"en": " in the last {0}", "fr": " ces {0} derniers jours"},
    "within_day": {"en": " in the last 24 hours", "fr": " ces dernières 24 heures"},
    "days": {"en": "{0} days", "fr": "{0}"},
    "minutes": {"en": "{0} minutes", "fr": "{0} minutes"},
    "did": {"en": "did “{0}”", "fr": "ont fait « {0} »"},
    "at_least": {
        "en": " at least {0} times (whole days, UTC)",
        "fr": " au moins {0} fois (jours entiers, UTC)",
    },
    "products": {"en": "product {0}", "fr": "produit {0}"},
    "categories": {"en": "category {0}", "fr": "catégorie {0}"},
    "brands": {"en": "brand {0}", "fr": "marque {0}"},
    "worth": {"en": "worth at least {0}", "fr": "d'au moins {0}"},
    "worth_below": {"en": "worth less than {0}", "fr": "de moins de {0}"},
    "currency": {"en": "in {0}", "fr": "en {0}"},
    "url": {"en": "“{0}” in the page's address", "fr": "« {0} » dans l'adresse de la page"},
    "search": {"en": "“{0}” in the search", "fr": "« {0} » dans la recherche"},
    "with": {"en": " ({0})", "fr": " ({0})"},
    "engaged": {"en": "{0} {1}", "fr": "ont {0} {1}"},
    "engaged_any": {"en": "engaged with", "fr": "interagi avec"},
    "arrived": {"en": "came from a Pin", "fr": "sont venues d'une épingle"},
    "first_seen": {"en": "were here for the first time", "fr": "sont venues pour la première fois"},
    "last_seen": {"en": "were here", "fr": "sont venues"},
    "ordered": {"en": "ordered", "fr": "ont commandé"},
    "ordered_ever": {"en": "ordered before", "fr": "ont déjà commandé"},
    "orders_from": {"en": "ordered at least {0} times", "fr": "ont commandé au moins {0} fois"},
    "orders_to": {"en": "ordered at most {0} times", "fr": "ont commandé au plus {0} fois"},
    "total_from": {"en": "spent at least {0}", "fr": "ont dépensé au moins {0}"},
    "total_below": {"en": "spent less than {0}", "fr": "ont dépensé moins de {0}"},
    "average_from": {"en": "spent at least {0} an order", "fr": "ont dépensé au moins {0} par commande"},
    "average_below": {"en": "spent less than {0} an order", "fr": "ont dépensé moins de {0} par commande"},
    "ever": {"en": " altogether", "fr": " en tout"},
    "bought": {"en": "bought {0}", "fr": "ont acheté {0}"},
    "bought_products": {"en": "product {0}", "fr": "le produit {0}"},
    "bought_categories": {"en": "something of category {0}", "fr": "un article de la catégorie {0}"},
    "consent_yes": {"en": "said yes to tracking", "fr": "ont donné leur accord"},
    "consent_no": {"en": "said no to tracking", "fr": "ont refusé leur accord"},
    "consent_unknown": {"en": "said nothing about tracking", "fr": "n'ont rien dit de leur accord"},
    "known": {"en": "left an e-mail address", "fr": "ont laissé une adresse e-mail"},
    "list": {"en": "are on list {0}", "fr": "sont sur la liste {0}"},
    "audience": {"en": "are in audience {0}", "fr": "sont dans l'audience {0}"},
    "raw": {
        "en": "This rule reads single events: it takes longer the more traffic there is.",
        "fr": "Cette règle lit les événements un à un : plus il y a de trafic, plus elle prend de temps.",
    },
    "unpriced": {
        "en": "{0} orders are in a currency without a rate: they count, their money does not.",
        "fr": "{0} commande(s) dans une devise sans taux : elles comptent, leur montant non.",
    },
    "full": {
        "en": "{0} who are in have bought more than is kept: about them the answer may be wrong.",
        "fr": "{0} des personnes retenues ont acheté plus de choses qu'on n'en garde : "
        "pour elles, la réponse peut être fausse.",
    },
    "size_person": {
        "en": "{0} people with a known e-mail address and consent",
        "fr": "{0} personnes dont l'adresse e-mail est connue et qui ont donné leur accord",
    },
    "size_visitor": {
        "en": "{0} browsers with consent",
        "fr": "{0} navigateurs dont l'accord a été donné",
    },
    "nobody": {
        "en": "This e-mail address was never seen here, or on too many devices to be one person's.",
        "fr": "Cette adresse e-mail n'a jamais été vue ici, ou sur trop d'appareils pour être celle d'une personne.",
    },
    "is_in": {"en": "In. Own devices: {0}.", "fr": "Dans l'audience. Appareils personnels : {0}."},
    "is_out": {"en": "Not in. Own devices: {0}.", "fr": "Pas dans l'audience. Appareils personnels : {0}."},
    "erased": {"en": "  Asked to be erased.", "fr": "  A demandé son effacement."},
    "no_consent_no": {"en": "  Said no to tracking.", "fr": "  A refusé son accord."},
    "no_consent_unknown": {"en": "  Never said yes to tracking.", "fr": "  N'a jamais donné son accord."},
    "not_quiet": {"en": "  Was active a moment ago.", "fr": "  Était actif il y a un instant."},
    "true": {"en": "yes:", "fr": "oui :"},
    "false": {"en": "no: ", "fr": "non :"},
    "must": {"en": "must be", "fr": "doit l'être"},
    "may": {"en": "one of these must be", "fr": "l'un d'eux doit l'être"},
    "must_not": {"en": "must not be", "fr": "ne doit pas l'être"},
    "counted": {"en": "; found: {0}", "fr": " ; trouvé : {0}"},
    "last_time": {"en": "; at {0} UTC", "fr": " ; le {0} UTC"},
}


def sentence(rule: Rule, language: Language, currency: str = "") -> str:
    """Who is in, as one sentence. `currency`: the site's, behind amounts."""
    say = _Speaker(language, currency)
    wanted = [say.clause(each) for each in rule.all]
    if rule.any:
        wanted.append(say.either([say.clause(each) for each in rule.any]))
    text = say("browsers" if rule.level == "visitor" else "people", say("and").join(wanted))
    if rule.none:
        text += say("not", say("or").join(say.clause(each) for each in rule.none))
    if rule.quiet_for_min:
        text += say("quiet", say("minutes", rule.quiet_for_min))
    return f"{text}."


def clause(condition: Condition, language: Language, currency: str = "") -> str:
    """What a condition says of people, as `placed an order in the last 7 days`."""
    return _Speaker(language, currency).clause(condition)


def notes(rule: Rule, language: Language, *, unpriced: int = 0, full: int = 0) -> list[str]:
    """What a reader of the size should know: sentences, empty if nothing.

    `unpriced` and `full`: as of `compile.preview`.
    """
    say = _Speaker(language, "")
    found = [say("raw")] if any(reads_events(each) for _, _, each in rule.conditions()) else []
    return found + [say(name, count) for name, count in (("unpriced", unpriced), ("full", full)) if count]


def size(count: int, rule: Rule, language: Language) -> str:
    """How many are in, as `12 people with ...`."""
    return _Speaker(language, "")(f"size_{rule.level}", count)


def speaker(language: Language) -> Callable[..., str]:
    """Says the fixed texts of `_T`, their places filled."""
    return _Speaker(language, "")


class _Speaker:
    """Says things in one language."""

    def __init__(self, language: Language, currency: str) -> None:
        self._language: Language = language
        self._currency = currency
        self._says: dict[type, Callable[[Any], str]] = {
            Did: self._did,
            Engaged: self._engaged,
            Arrived: lambda each: self("arrived") + self._within(each.within_days),
            FirstSeen: lambda each: self("first_seen") + self._within(each.within_days),
            LastSeen: lambda each: self("last_seen") + self._within(each.within_days),
            Orders: self._orders,
            Bought: self._bought,
            Consents: lambda each: self(f"consent_{each.word}"),
            Known: lambda _: self("known"),
            OnList: lambda each: self("list", self._any_of(each.lists)),
            InAudience: lambda each: self("audience", self._any_of(each.audiences)),
        }

    def __call__(self, key: str, *values: object) -> str:
        return _T[key][self._language].format(*values)

    def clause(self, condition: Condition) -> str:
        return self._says[type(condition)](condition)

    def either(self, parts: Sequence[str]) -> str:
        return parts[0] if len(parts) == 1 else self("either", self("else").join(parts))

    def _any_of(self, names: Sequence[object]) -> str:
        return self("or").join(map(str, names))

    def _within(self, days: int) -> str:
        return self("within_day") if days == 1 else self("within", self("days", days))

    def _money(self, amount: float) -> str:
        number = f"{amount:.0f}" if amount == int(amount) else f"{amount:.2f}"
        number = number.replace(".", ",") if self._language == "fr" else number
        return f"{number} {self._currency}".strip()

    def _did(self, condition: Did) -> str:
        events = list(condition.events)
        if set(events) >= VIEWS:
            events = ["page_visit", *(each for each in events if each not in VIEWS)]
        named = [EVENTS[each][self._language] if each in EVENTS else self("did", each) for each in events]
        often = self("at_least", condition.at_least) if condition.at_least > 1 else ""
        return self("or").join(named) + self._where(condition.where) + often + self._within(condition.within_days)

    def _where(self, where: Where) -> str:
        named = (("products", where.products), ("categories", where.categories), ("brands", where.brands))
        found = [self(key, self._any_of(names)) for key, names in named if names]
        amounts = (("worth", where.value_at_least), ("worth_below", where.value_below))
        found += [self(key, self._money(amount)) for key, amount in amounts if amount is not None]
        texts = (("currency", where.currency), ("url", where.url_contains), ("search", where.search_contains))
        found += [self(key, text) for key, text in texts if text]
        return self("with", ", ".join(found)) if found else ""

    def _engaged(self, condition: Engaged) -> str:
        if condition.ids:
            thing = f"{OBJECTS[condition.on][self._language]} {self._any_of(condition.ids)}"
        else:
            thing = _SOME.get(condition.on, OBJECTS["any"])[self._language]
        done = self._any_of([ACTIONS[each][self._language] for each in condition.actions]) or self("engaged_any")
        return self("engaged", done, thing) + self._within(condition.within_days)

    def _orders(self, condition: Orders) -> str:
        if condition == Orders(within_days=condition.within_days, count_at_least=1):
            return (
                self("ordered") + self._within(condition.within_days) if condition.within_days else self("ordered_ever")
            )
        when = self._within(condition.within_days) if condition.within_days else self("ever")
        counts = (("orders_from", condition.count_at_least), ("orders_to", condition.count_at_most))
        found = [self(key, count) for key, count in counts if count is not None]
        amounts = (
            ("total_from", condition.total_at_least),
            ("total_below", condition.total_below),
            ("average_from", condition.average_at_least),
            ("average_below", condition.average_below),
        )
        found += [self(key, self._money(amount)) for key, amount in amounts if amount is not None]
        return self("and").join(found) + when

    def _bought(self, condition: Bought) -> str:
        named = (("bought_products", condition.products), ("bought_categories", condition.categories))
        return self("bought", self("or").join(self(key, self._any_of(names)) for key, names in named if names))
