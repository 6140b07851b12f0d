"""What an answer is taken for, and what the ledger makes of it."""

from __future__ import annotations

import random

import msgspec
import pytest
from loadtests.ledger import DURABLE, Answer, Ledger, Request

from loadtests import ledger
from pinstream.demo.shoppers import Verdict
from pinstream.event import REASONS

TWO = Request(name="two", event_ids=("a", "b"), verdicts=(DURABLE, DURABLE), visitor_id="v-1")
IMAGE = Request(name="image", method="GET", event_ids=("a",), status=200, verdicts=(DURABLE,))
BOT = Verdict("dropped", "bot")


def lines(*results: tuple[str, str, str]) -> bytes:
    named = [dict(zip(("event_id", "status", "reason"), result, strict=True)) for result in results]
    return msgspec.json.encode({"results": named})


MIXED = lines(("a", "durable", ""), ("b", "dropped", "bot"))
IN_PART = lines(("a", "durable", ""), ("b", "refused", "log_away"))


@pytest.mark.parametrize(
    ("request_", "answer", "found"),
    [
        (TWO, Answer(204), [DURABLE, DURABLE]),
        (TWO, Answer(207, MIXED), [DURABLE, BOT]),
        (TWO, Answer(400, b'{"reason": "bad_json"}'), [Verdict("refused", "bad_json")] * 2),
        (TWO, Answer(207, lines(("a", "durable", ""))), [Verdict("unknown", "http_207")] * 2),
        (TWO, Answer(500, b"oops"), [Verdict("unknown", "http_500")] * 2),
        (TWO, Answer(503, b'{"reason": "log_broken"}'), [Verdict("unknown", "http_503")] * 2),
        (IMAGE, Answer(200, b"GIF"), [DURABLE]),
        (IMAGE, Answer(200, b"GIF", dropped="gpc"), [Verdict("dropped", "gpc")]),
        (IMAGE, Answer(403, b"GIF", refused="unknown_site"), [Verdict("refused", "unknown_site")]),
        (IMAGE, Answer(502, b"<html>"), [Verdict("unknown", "http_502")]),
    ],
)
def test_an_answer_says_what_became_of_each_event(request_: Request, answer: Answer, found: list[Verdict]) -> None:
    assert ledger.verdicts(request_, answer) == found


@pytest.mark.parametrize(
    "answer",
    [Answer(0), Answer(429), Answer(429, retry_after="3"), Answer(503, retry_after="1"), Answer(207, IN_PART)],
)
def test_some_answers_ask_to_come_again(answer: Answer) -> None:
    assert ledger.verdicts(TWO, answer) is None


def test_what_asks_to_come_again_is_documented() -> None:
    assert {reason for reason in ledger.AGAIN if REASONS[reason][0] in (429, 503)} == ledger.AGAIN


def test_more_events_than_an_answer_names_are_refused_with_those() -> None:
    many = Request(name="many", event_ids=("x",) * 101, status=400, verdicts=(Verdict("refused", "too_many"),) * 101)
    answer = Answer(400, lines(*[("x", "refused", "too_many")] * 100))
    found = ledger.verdicts(many, answer)
    assert found == list(many.verdicts)
    assert ledger.fault(many, answer, found) == ""


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(204), ""),
        (Answer(204, cookies=["ps_vid=v-1; Path=/; Secure"]), ""),
        (Answer(204, cookies=["ps_vid=; Max-Age=0", "other=v-2"]), ""),
        (Answer(204, cookies=["ps_vid=v-2; Path=/"]), "two: the cookie names somebody else"),
        (Answer(207, MIXED), "two: 207 durable, dropped bot, not 204 durable"),
        (Answer(200), "two: 200 durable, not 204 durable"),
        (Answer(204, lines(("z", "durable", ""))), "two: the answer names events of somebody else"),
    ],
)
def test_an_answer_that_should_have_been_another_is_named(answer: Answer, sentence: str) -> None:
    found = [DURABLE, BOT] if answer.status == 207 else [DURABLE, DURABLE]
    assert ledger.fault(TWO, answer, found) == sentence


def test_every_event_that_was_sent_is_in_one_sum() -> None:
    dice, books = random.Random(3), Ledger()
    answers = [Answer(204), Answer(207, MIXED), Answer(429), Answer(500), Answer(400, b'{"reason": "bad_json"}')]
    durable = []
    for _ in range(500):
        answer = dice.choice(answers)
        books.sends("Buyer", TWO, again=False)
        found = ledger.verdicts(TWO, answer)
        if found is None:
            books.waits("Buyer", answer)
        else:
            durable += books.book("Buyer", TWO, answer, found)[1]
    report = books.report()
    assert report["sent"] == 1000
    assert report["durable"] == len(durable)
    unheard = 2 * (report["told_to_wait"] + report["unexpected"]["two: 500 unknown http_500, not 204 durable"])
    assert report["unanswered"] == unheard > 0
    answered = report["durable"] + sum(report["dropped"].values()) + sum(report["refused"].values())
    assert answered + unheard == 1000
    assert report["by_class"]["Buyer"]["durable"] == len(durable)


def test_a_request_sent_again_is_one_request() -> None:
    books = Ledger()
    books.sends("Buyer", TWO, again=False)
    books.waits("Buyer", Answer(503, retry_after="1"))
    books.sends("Buyer", TWO, again=True)
    assert books.book("Buyer", TWO, Answer(204), [DURABLE, DURABLE]) == ("", ["a", "b"])
    report = books.report()
    assert [report[key] for key in ("requests", "sent", "resent", "durable", "told_to_wait")] == [1, 2, 2, 2, 1]


def test_ledgers_of_several_processes_add_up_and_nothing_is_told_twice() -> None:
    master, worker = Ledger(), Ledger()
    for _ in range(3):
        worker.sends("Buyer", TWO, again=False)
        worker.book("Buyer", TWO, Answer(204), [DURABLE, DURABLE])
        master.add(msgspec.json.decode(msgspec.json.encode(worker.take())))
        master.add(worker.take())
    assert master.report()["durable"] == 6
    assert worker.report()["sent"] == 0


def test_a_withdrawal_beside_events_is_a_record_more() -> None:
    gpc = Verdict("dropped", "gpc")
    request = Request(name="gpc", event_ids=("a",), status=200, verdicts=(gpc,), withdraws=1)
    books = Ledger()
    books.sends("BadClient", request, again=False)
    books.book("BadClient", request, Answer(200, lines(("a", "dropped", "gpc"))), [gpc])
    assert books.report()["withdrawn"] == 1


def test_a_ledger_stays_small_whatever_goes_wrong() -> None:
    books = Ledger()
    for number in range(10 * ledger.MAX_FAULTS):
        books.wonder("Buyer", f"fault {number}")
    wrong = books.report()["unexpected"]
    assert len(wrong) == ledger.MAX_FAULTS + 1
    assert sum(wrong.values()) == 10 * ledger.MAX_FAULTS


@pytest.mark.parametrize(
    ("answer", "attempt", "least", "most"),
    [
        (Answer(429, retry_after="3"), 0, 3, 3.75),
        (Answer(503, retry_after="86400"), 0, ledger.MAX_PAUSE_S, 1.25 * ledger.MAX_PAUSE_S),
        (Answer(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), 1, 0.4, 0.5),
        (Answer(0), 3, 1.6, 2),
    ],
)
def test_the_pause_is_what_the_server_asks_for_and_bounded(
    answer: Answer, attempt: int, least: float, most: float
) -> None:
    assert ledger.pause_s(answer, attempt, 0) == pytest.approx(least)
    assert least < ledger.pause_s(answer, attempt, 0.999) <= most
