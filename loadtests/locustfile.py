"""The users, for locust: `.venv/bin/locust -f loadtests/locustfile.py --host ... --site ... --origin ...`.

Each answer is compared with what docs/http-api.md promises for its request, and booked event by event in a ledger
that is printed at the end and shown at /ledger of locust's web page.
"""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any, Final, TextIO

import gevent  # type: ignore[import-untyped]
from locust import FastHttpUser, events, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtests import traffic
from loadtests.ledger import MAX_TRIES, Answer, Ledger, Request, cookies, pause_s, told_to_wait, verdicts
from pinstream.clock import now_ms

logger = logging.getLogger(__name__)

ANSWERS: Final = frozenset(range(100, 600))
"""A refusal is an answer like any other: as errors they would be decoded as text, which a GIF is not."""
LEDGER: Final = Ledger()
ACCEPTED: Final[list[TextIO]] = []
"""The file for the ids of accepted events, if one is wanted."""


class User(FastHttpUser):
    """Sends requests until they are finally answered."""

    abstract = True
    connection_timeout = 10.0
    network_timeout = 30.0
    insecure = False

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self.target = traffic.Target(options.site, options.origin, options.api_key)
        self.dice = random.Random()
        agent = self.client.client
        agent.cookiejar = None  # the visitor keeps ps_vid; a jar would send it a second time
        agent.valid_response_codes = ANSWERS  # type: ignore[misc]  # of this user alone

    def wait_time(self) -> float:
        """As people arrive: at random, so that they neither march in step nor wait for each other."""
        pause = float(self.environment.parsed_options.pause)
        return min(self.dice.expovariate(1 / pause), 10 * pause) if pause > 0 else 0

    def send(self, request: Request) -> Answer:
        """Send it, again and under the same event ids if need be, and book what is said."""
        who = type(self).__name__
        answer = Answer(0)
        for attempt in range(MAX_TRIES):
            LEDGER.sends(who, request, again=attempt > 0)
            under_way = gevent.spawn(self._once, who, request)
            try:
                outcome: tuple[Answer, bool] = under_way.get()
            except gevent.GreenletExit:  # the user is stopped, but the event is out: hear what becomes of it
                under_way.join()
                raise
            answer, final = outcome
            if final:
                return answer
            LEDGER.waits(who, answer)
            gevent.sleep(pause_s(answer, attempt, self.dice.random()))
        if not told_to_wait(answer):  # a server that asks to wait, again and again, breaks no promise
            LEDGER.wonder(who, f"{request.name}: no final answer in {MAX_TRIES} tries")
        return answer

    def _once(self, who: str, request: Request) -> tuple[Answer, bool]:
        """(the answer, whether it is final)."""
        with self.client.request(
            request.method,
            request.path,
            name=request.name,
            data=request.body,  # type: ignore[arg-type]  # bytes are fine
            headers=request.headers,
            catch_response=True,
        ) as response:
            answer = _answer(response)
            found = verdicts(request, answer)
            if found is not None:
                wrong, durable = LEDGER.book(who, request, answer, found)
                _note(request.table, durable)
                response.failure(wrong) if wrong else response.success()
            elif told_to_wait(answer):
                response.request_meta["name"] = f"told to wait, {answer.status}"
                response.success()
            else:
                response.failure(f"no final answer, {answer.status}")
            return answer, found is not None


def _answer(response: Any) -> Answer:
    if not response.status_code:
        return Answer(0)
    headers = response.headers
    return Answer(
        status=response.status_code,
        body=response.content or b"",
        retry_after=headers.get("retry-after", ""),
        dropped=headers.get("x-pinstream-dropped", ""),
        refused=headers.get("x-pinstream-refused", ""),
        cookies=headers.getlist("set-cookie"),
    )


def _note(table: str, event_ids: list[str]) -> None:
    """Write down what was accepted, and when that was known: whole lines, also where processes share the file."""
    if ACCEPTED and event_ids:
        at = now_ms()
        ACCEPTED[0].write("".join(f"{table} {at} {event_id}\n" for event_id in event_ids))


class _Visitor(User):
    abstract = True
    visits: traffic.Visits

    def on_start(self) -> None:
        super().on_start()
        self.browser = traffic.Browser(self.target, self.dice, type(self).visits)

    def goes_on(self) -> None:
        answer = self.send(self.browser.request(now_ms()))
        self.browser.keep(cookies(answer.cookies))


class BrowsingVisitor(_Visitor):
    """Pages, categories, products and searches; unknown consent, then yes; a few withdraw."""

    weight = 10
    visits = staticmethod(traffic.browses)

    @tag("browse")
    @task
    def looks(self) -> None:
        self.goes_on()


class Buyer(_Visitor):
    """From the front page through the cart to an order, with an e-mail address."""

    weight = 5
    visits = staticmethod(traffic.buys)

    @tag("buy")
    @task
    def shops(self) -> None:
        self.goes_on()


class BadClient(User):
    """Everything that must be refused or dropped, and the exact answer to it."""

    weight = 2

    @tag("bad")
    @task
    def blunders(self) -> None:
        self.send(traffic.blunder(self.target, now_ms(), self.dice))


class EngagementSender(User):
    """A server with an API key, which tells what people did with Pins."""

    weight = 1

    @tag("engage")
    @task
    def tells(self) -> None:
        self.send(traffic.engagements(self.target, now_ms(), self.dice))


# --- locust's hooks --------------------------------------------------------------------------------


@events.init_command_line_parser.add_listener
def _arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--site", env_var="LOADTEST_SITE", default="loadtest", help="Tag id of the site.")
    parser.add_argument(
        "--origin", env_var="LOADTEST_ORIGIN", default="https://loadtest.example", help="One of the site's origins."
    )
    parser.add_argument(
        "--api-key",
        env_var="LOADTEST_API_KEY",
        default="",
        include_in_web_ui=False,
        help="Key for engagements; without it no EngagementSender comes.",
    )
    parser.add_argument(
        "--pause",
        env_var="LOADTEST_PAUSE",
        type=float,
        default=1.0,
        help="Seconds between two requests of a user, on average.",
    )
    parser.add_argument("--ledger", default="", include_in_web_ui=False, help="Write the ledger to this file, as JSON.")
    parser.add_argument(
        "--accepted",
        default="",
        include_in_web_ui=False,
        help="Write a line for each accepted event to this file: table, ms since 1970, event id.",
    )


@events.init.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    wanted, unwanted = set(options.tags or ()), set(options.exclude_tags or ())
    environment.user_classes = [each for each in environment.user_classes if _stays(each, wanted, unwanted)]
    if not options.api_key and EngagementSender in environment.user_classes:
        environment.user_classes.remove(EngagementSender)
        logger.warning("No --api-key (`pinstream keys create`): no EngagementSender comes.")
    if options.accepted:
        ACCEPTED.append(open(options.accepted, "a", buffering=1))  # noqa: SIM115  for as long as the process lives
    if environment.web_ui and environment.web_ui.app:
        show = environment.web_ui.auth_required_if_enabled(LEDGER.report)
        environment.web_ui.app.add_url_rule("/ledger", "ledger", show)
    if not isinstance(environment.runner, WorkerRunner):
        events.quit.add_listener(lambda exit_code, **_: _end(environment))


def _stays(user: type[Any], wanted: set[str], unwanted: set[str]) -> bool:
    """Whether --tags and --exclude-tags leave it a task: locust itself would stumble over a user without one."""
    tags = {name for each in user.tasks for name in getattr(each, "locust_tag_set", ())}
    return (not wanted or bool(tags & wanted)) and not tags & unwanted


@events.test_start.add_listener
def _forget(**_: Any) -> None:
    LEDGER.take()


@events.user_error.add_listener
def _stumbled(user_instance: Any, exception: Exception, **_: Any) -> None:
    who = type(getattr(user_instance, "user", user_instance)).__name__  # locust tells the user's task set
    LEDGER.wonder(who, f"the user itself failed: {type(exception).__name__}")


@events.report_to_master.add_listener
def _hand_over(data: dict[str, Any], **_: Any) -> None:
    data["ledger"] = LEDGER.take()


@events.worker_report.add_listener
def _receive(data: dict[str, Any], **_: Any) -> None:
    LEDGER.add(data.pop("ledger", {}))


def _end(environment: Environment) -> None:
    options, total = environment.parsed_options, environment.stats.total
    report = {
        **LEDGER.report(),
        "rps": round(total.total_rps, 1),
        "p50_ms": total.get_response_time_percentile(0.5) or 0,
        "p99_ms": total.get_response_time_percentile(0.99) or 0,
    }
    if options and options.ledger:
        Path(options.ledger).write_text(json.dumps(report))
    else:
        print(json.dumps(report, indent=2))
