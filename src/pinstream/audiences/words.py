"""A rule in words that a marketer understands, in English and French. Pure.

`sentence` is about everybody who is in, `clause` about one condition; both speak of people in the plural, because a
French verb then needs no form of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

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

Names = Mapping[Literal["list", "audience"], Mapping[int, str]]
"""What lists and audiences are called, by number; one that is not here is named by its number."""
NO_NAMES: Final[Names] = {}

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
"""A French click is told last and by itself, for its object stands behind a preposition."""

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
    "browsers": {"en": "Browsers in which people {0}", "fr": "Les navigateurs dans lesquels des personnes {0}"},
    "not": {"en": ", except those who {0}", "fr": ", sauf celles qui {0}"},
    "browsers_not": {"en": ", except those in which they {0}", "fr": ", sauf ceux dans lesquels elles {0}"},
    "quiet": {"en": ", once quiet for {0}", "fr": ", après {0} sans activité"},
    "and": {"en": " and ", "fr": " et "},
    "or": {"en": " or ", "fr": " ou "},
    "either": {"en": "either {0}", "fr": "soit {0}"},
    "else": {"en": ", or ", "fr": ", soit "},
    "within": {"en": " in the last {0} days", "fr": " ces {0} derniers jours"},
    "within_day": {"en": " in the last 24 hours", "fr": " ces dernières 24 heures"},
    "whole_days": {
        "en": " in the last {0} whole days and today (UTC)",
        "fr": " ces {0} derniers jours entiers et aujourd'hui (UTC)",
    },
    "whole_day": {"en": " since yesterday 00:00 UTC", "fr": " depuis hier 00:00 UTC"},
    "minutes": {"en": "{0} minutes", "fr": "{0} minutes"},
    "minutes_one": {"en": "{0} minute", "fr": "{0} minute"},
    "times": {"en": "{0} times", "fr": "{0} fois"},
    "once": {"en": "once", "fr": "une fois"},
    "quoted": {"en": "“{0}”", "fr": "« {0} »"},
    "did": {"en": "did “{0}”", "fr": "ont fait « {0} »"},
    "at_least": {"en": " at least {0}", "fr": " au moins {0}"},
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
    "or_clicked": {"en": " or clicked it", "fr": " ou cliqué dessus"},
    "arrived": {"en": "came from a Pin", "fr": "sont venues d'une épingle"},
    "first_seen": {"en": "were here for the first time", "fr": "sont venues pour la première fois"},
    "last_seen": {"en": "were here", "fr": "sont venues"},
    "ordered": {"en": "ordered", "fr": "ont commandé"},
    "ordered_ever": {"en": "ordered before", "fr": "ont déjà commandé"},
    "ordered_never": {"en": "never ordered", "fr": "n'ont jamais commandé"},
    "ordered_nothing": {"en": "ordered nothing", "fr": "n'ont rien commandé"},
    "orders_from": {"en": "ordered at least {0}", "fr": "ont commandé au moins {0}"},
    "orders_to": {"en": "ordered at most {0}", "fr": "ont commandé au plus {0}"},
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
    "unseen": {
        "en": "No event {0} was ever seen here. Seen were: {1}.",
        "fr": "Aucun événement {0} n'a jamais été vu ici. Ont été vus : {1}.",
    },
    "undecided": {
        "en": "{0} more match, but never said yes to tracking.",
        "fr": "{0} autres correspondent, mais n'ont jamais donné leur accord.",
    },
    "undecided_one": {
        "en": "{0} more matches, but never said yes to tracking.",
        "fr": "{0} autre correspond, mais n'a jamais donné son accord.",
    },
    "declined": {
        "en": "{0} more match, but said no to tracking.",
        "fr": "{0} autres correspondent, mais ont refusé leur accord.",
    },
    "declined_one": {
        "en": "{0} more matches, but said no to tracking.",
        "fr": "{0} autre correspond, mais a refusé son accord.",
    },
    "unpriced": {
        "en": "{0} orders are in a currency without a rate: they count, their money does not.",
        "fr": "{0} commandes sont dans une devise sans taux : elles comptent, leur montant non.",
    },
    "unpriced_one": {
        "en": "{0} order is in a currency without a rate: it counts, its money does not.",
        "fr": "{0} commande est dans une devise sans taux : elle compte, son montant non.",
    },
    "full": {
        "en": "{0} who are in have bought more than is kept: about them the answer may be wrong.",
        "fr": "{0} des personnes retenues ont acheté plus de choses qu'on n'en garde : "
        "pour elles, la réponse peut être fausse.",
    },
    "full_one": {
        "en": "{0} who is in has bought more different things than are kept: about them the answer may be wrong.",
        "fr": "{0} des personnes retenues a acheté plus d'articles différents qu'on n'en garde : "
        "pour elle, la réponse peut être fausse.",
    },
    "size_person": {
        "en": "{0} people with a known e-mail address and consent",
        "fr": "{0} personnes dont l'adresse e-mail est connue et qui ont donné leur accord",
    },
    "size_person_one": {
        "en": "{0} person with a known e-mail address and consent",
        "fr": "{0} personne dont l'adresse e-mail est connue et qui a donné son accord",
    },
    "size_visitor": {
        "en": "{0} browsers with consent",
        "fr": "{0} navigateurs dont l'accord a été donné",
    },
    "size_visitor_one": {
        "en": "{0} browser with consent",
        "fr": "{0} navigateur dont l'accord a été donné",
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
    "not_quiet": {
        "en": "  Last seen {0} UTC; the rule asks for {1} without activity.",
        "fr": "  Vu pour la dernière fois le {0} UTC ; la règle demande {1} sans activité.",
    },
    "true": {"en": "yes:", "fr": "oui :"},
    "false": {"en": "no: ", "fr": "non :"},
    "must": {"en": "required", "fr": "exigé"},
    "may": {"en": "one of these is required", "fr": "au moins un exigé"},
    "must_not": {"en": "excluded", "fr": "exclu"},
    "counted": {"en": "; found: {0}", "fr": " ; trouvé : {0}"},
    "orders": {"en": "{0} orders", "fr": "{0} commandes"},
    "orders_one": {"en": "{0} order", "fr": "{0} commande"},
    "money_in": {"en": "{0} in {1}", "fr": "{0} en {1}"},
    "last_time": {"en": "; at {0} UTC", "fr": " ; le {0} UTC"},
}


def sentence(rule: Rule, language: Language, currency: str = "", names: Names = NO_NAMES) -> str:
    """Who is in, as one sentence. `currency`: the site's, behind amounts."""
    say = Speaker(language, currency, names)
    wanted = [say.clause(each) for each in rule.all]
    if rule.any:
        wanted.append(say.either([say.clause(each) for each in rule.any]))
    browsers = rule.level == "visitor"
    text = say("browsers" if browsers else "people", say("and").join(wanted))
    if rule.none:
        text += say("browsers_not" if browsers else "not", say("or").join(say.clause(each) for each in rule.none))
    if rule.quiet_for_min:
        text += say("quiet", say("minutes", rule.quiet_for_min))
    return f"{text}."


def clause(condition: Condition, language: Language, currency: str = "", names: Names = NO_NAMES) -> str:
    """What a condition says of people, as `placed an order in the last 7 days`."""
    return Speaker(language, currency, names).clause(condition)


def notes(rule: Rule, language: Language, counts: Mapping[str, int]) -> list[str]:
    """What a reader of the size should know: sentences, empty if nothing. `counts`: a row of `compile.preview`."""
    say = Speaker(language)
    found = [say("raw")] if any(reads_events(each) for _, _, each in rule.conditions()) else []
    told = ("undecided", "declined", "unpriced", "full")
    return found + [say(name, counts[name]) for name in told if counts.get(name)]


def unseen(events: Sequence[str], seen: Sequence[str], language: Language) -> str:
    """That `events` never came, and which did."""
    say = Speaker(language)
    return say("unseen", say("or").join(say("quoted", each) for each in events), ", ".join(seen) or "-")


def size(count: int, rule: Rule, language: Language) -> str:
    """How many are in, as `12 people with ...`."""
    return Speaker(language)(f"size_{rule.level}", count)


class Speaker:
    """Says things in one language. Called with a key of `_T` it says that text, its places filled."""

    def __init__(self, language: Language, currency: str = "", names: Names = NO_NAMES) -> None:
        self._language: Language = language
        self._currency = currency
        self._names = names
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
            OnList: lambda each: self("list", self._called("list", each.lists)),
            InAudience: lambda each: self("audience", self._called("audience", each.audiences)),
        }

    def __call__(self, key: str, *values: object) -> str:
        one = f"{key}_one"
        if one in _T and values[0] in ((1,) if self._language == "en" else (0, 1)):
            key = one
        said = [self._number(value) if isinstance(value, int) else value for value in values]
        return _T[key][self._language].format(*said)

    def money(self, amount: float) -> str:
        """An amount in the site's currency."""
        return f"{self._number(amount)} {self._currency}".strip()

    def clause(self, condition: Condition) -> str:
        """What a condition says of people."""
        return self._says[type(condition)](condition)

    def either(self, parts: Sequence[str]) -> str:
        """That one of `parts` is true."""
        return parts[0] if len(parts) == 1 else self("either", self("else").join(parts))

    def _any_of(self, names: Sequence[object]) -> str:
        return self("or").join(map(str, names))

    def _called(self, kind: Literal["list", "audience"], numbers: Sequence[int]) -> str:
        names = self._names.get(kind, {})
        return self._any_of([self("quoted", names[each]) if each in names else each for each in numbers])

    def _within(self, days: int) -> str:
        return self("within_day") if days == 1 else self("within", days)

    def _times(self, count: int) -> str:
        return self("once") if count == 1 else self("times", count)

    def _number(self, amount: float) -> str:
        number = f"{amount:,.0f}" if amount == int(amount) else f"{amount:,.2f}"
        return number.replace(",", "\u202f").replace(".", ",") if self._language == "fr" else number

    def _did(self, condition: Did) -> str:
        events = list(condition.events)
        if set(events) >= VIEWS:
            events = ["page_visit", *(each for each in events if each not in VIEWS)]
        named = [EVENTS[each][self._language] if each in EVENTS else self("did", each) for each in events]
        text = self("or").join(named) + self._where(condition.where)
        if condition.at_least == 1:
            return text + self._within(condition.within_days)
        when = self("whole_day") if condition.within_days == 1 else self("whole_days", condition.within_days)
        return text + self("at_least", self._times(condition.at_least)) + when

    def _where(self, where: Where) -> str:
        named = (("products", where.products), ("categories", where.categories), ("brands", where.brands))
        found = [self(key, self._any_of(names)) for key, names in named if names]
        amounts = (("worth", where.value_at_least), ("worth_below", where.value_below))
        found += [self(key, self.money(amount)) for key, amount in amounts if amount is not None]
        texts = (("currency", where.currency), ("url", where.url_contains), ("search", where.search_contains))
        found += [self(key, text) for key, text in texts if text]
        return self("with", ", ".join(found)) if found else ""

    def _engaged(self, condition: Engaged) -> str:
        if condition.ids:
            thing = f"{OBJECTS[condition.on][self._language]} {self._any_of(condition.ids)}"
        else:
            thing = _SOME.get(condition.on, OBJECTS["any"])[self._language]
        actions, clicked = condition.actions, ""
        if self._language == "fr" and "click" in actions and len(actions) > 1:
            actions, clicked = tuple(each for each in actions if each != "click"), self("or_clicked")
        done = self._any_of([ACTIONS[each][self._language] for each in actions]) or self("engaged_any")
        return self("engaged", done, thing) + clicked + self._within(condition.within_days)

    def _orders(self, condition: Orders) -> str:
        if condition == Orders(within_days=condition.within_days, count_at_least=1):
            return (
                self("ordered") + self._within(condition.within_days) if condition.within_days else self("ordered_ever")
            )
        if condition == Orders(count_at_most=0):
            return self("ordered_never")
        when = self._within(condition.within_days) if condition.within_days else self("ever")
        found = []
        if condition.count_at_least is not None:
            found.append(self("orders_from", self._times(condition.count_at_least)))
        if condition.count_at_most is not None:
            most = condition.count_at_most
            found.append(self("orders_to", self._times(most)) if most else self("ordered_nothing"))
        amounts = (
            ("total_from", condition.total_at_least),
            ("total_below", condition.total_below),
            ("average_from", condition.average_at_least),
            ("average_below", condition.average_below),
        )
        found += [self(key, self.money(amount)) for key, amount in amounts if amount is not None]
        return self("and").join(found) + when

    def _bought(self, condition: Bought) -> str:
        named = (("bought_products", condition.products), ("bought_categories", condition.categories))
        return self("bought", self("or").join(self(key, self._any_of(names)) for key, names in named if names))
