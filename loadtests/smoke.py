"""`scripts/loadtest smoke`: a private stack, locust's users, and at the end the truth.

The users' ledger says what was answered; ClickHouse, asked over HTTP, says what arrived. No figure comes from the
processes that are judged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadtests.truth import Watch, arrived, judge
from pinstream import roles, serving
from pinstream import settings as settings_module
from pinstream.errors import PinstreamError, SetupFault
from pinstream.settings import PREFIX, Settings
from pinstream.supervisor import Emit, Program, supervised, until_signalled
from pinstream.warehouse.client import Warehouse

ROOT: Final = Path(__file__).parents[1]
SITE: Final = "loadtest"
ORIGIN: Final = "https://loadtest.example"

MAX_SECONDS: Final = 1800
MAX_USERS: Final = 1000
KAFKA_START_S: Final = 180.0
"""The first start on a machine fetches Kafka's jars."""
STOP_TIMEOUT_S: Final = 10
"""How long locust's users may take to hear their last answers."""
LOCUST_GRACE_S: Final = 40.0
KEPT_LINES: Final = 60
"""Of the processes, shown when something fails."""
BUSY: Final = 0.8
"""Of a core: a generator busier than that measures itself."""

CONFIG: Final = """\
data_dir = "{folder}/data"

[collect]
port = {collect}
ops_port = {ops}

[load]
ops_port = {load_ops}

[console]
port = {console}
ops_port = {console_ops}

[warehouse]
url = "http://127.0.0.1:{clickhouse}"

[log]
kind = "{kind}"
kafka_bootstrap = "{bootstrap}"
kafka_create_topics = true
"""


class Options(Struct, frozen=True, kw_only=True):
    """How the smoke runs."""

    seconds: int
    users: int
    pause_s: float
    """Between two requests of a user, on average."""
    kafka: bool
    verbose: bool
    """Show the processes' own lines."""


class Summary(Struct, frozen=True, kw_only=True):
    """The truth at the end. The keys are a contract."""

    accepted: int
    """Events and engagements that were answered durable."""
    in_clickhouse: int
    """Of these, how many a SELECT finds."""
    lost: int
    doubled: int
    """What counts more than once, and log positions that were loaded more than once."""
    rejected: dict[str, int]
    """Events refused, by the reason in the answer."""
    dropped: dict[str, int]
    unexpected: int
    """Answers that were not what docs/http-api.md promises, and whatever else must not happen; `faults` names them."""
    faults: dict[str, int]
    unanswered: int
    """Events whose users left before a final answer came."""
    retried: int
    """Requests that were told to wait, or not answered, and then sent again."""
    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    freshness_ms: dict[str, int]
    """From the answer until a SELECT finds the event."""
    generator_cpu: float
    """Cores that locust used."""
    engine: str
    seconds: float

    @property
    def holds(self) -> bool:
        """Was anything sent at all, and is every promise kept?"""
        return self.accepted > 0 and not (self.lost or self.doubled or self.unexpected)


# --- the run -----------------------------------------------------------------------------------------


async def smoke(options: Options, stop: asyncio.Event, say: Emit) -> Summary:
    """Start everything, let the users in until `stop` or the end of their time, settle and compare.

    Raises:
        SetupFault: something could not start; the lines given to `say` tell why.
    """
    started = time.monotonic()
    lines = Lines(say, shown=options.verbose)
    try:
        with tempfile.TemporaryDirectory(prefix="pinstream-loadtest-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            async with _log(options, folder, lines) as bootstrap, _stack(folder, bootstrap, lines) as running:
                if stop.is_set():
                    raise SetupFault("Stopped before the users came.")
                say("loadtest", f"everything runs, {time.monotonic() - started:.0f} s after the start")
                async with running.watch.watching(say):
                    cores = await _users(running, options, stop, lines)
                    say("loadtest", "the users have gone; waiting until the last events have arrived")
                    ledger = _ledger(folder)
                    await running.watch.settle(ledger["withdrawn"])
                return await _summary(running, ledger, cores, time.monotonic() - started, lines.restarts)
    except PinstreamError:
        if not options.verbose:
            for name, line in lines.kept:
                say(name, line)
        raise


class Lines:
    """What the processes say: kept for the case that something fails, shown at once if wanted."""

    def __init__(self, say: Emit, *, shown: bool) -> None:
        self._say = say
        self._shown = shown
        self.kept: list[tuple[str, str]] = []
        self.restarts = 0
        """Processes that ended by themselves."""

    def __call__(self, name: str, line: str) -> None:
        """Take a line of a process."""
        if "|" not in line:  # locust's tables tell no cause
            self.kept.append((name, line))
            del self.kept[:-KEPT_LINES]
        ended = re.search(r"ended \(.*starting it again", line) is not None
        self.restarts += ended
        if self._shown or ended:
            self._say(name, line)


class Running(Struct, frozen=True):
    """The private stack."""

    folder: Path
    settings: Settings
    site_id: int
    api_key: str
    warehouse: Warehouse
    watch: Watch


@asynccontextmanager
async def _log(options: Options, folder: Path, lines: Lines) -> AsyncIterator[str]:
    """Kafka's bootstrap while the block runs; empty for the journal, which needs no process."""
    if not options.kafka:
        yield ""
        return
    answers: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def listen(name: str, line: str) -> None:
        lines(name, line)
        if re.fullmatch(r"127\.0\.0\.1:\d+", line) and not answers.done():
            answers.set_result(line)

    run = (sys.executable, str(ROOT / "scripts" / "kafka"), "run", "--dir", str(folder / "kafka"), "--port", "0")
    async with supervised([Program("kafka", run)], listen) as supervisor:
        deadline = time.monotonic() + KAFKA_START_S
        while not answers.done():
            if supervisor.restarts["kafka"] or time.monotonic() > deadline:
                raise SetupFault("Kafka did not start; its lines above say why.")
            await asyncio.wait([answers], timeout=0.2)
        yield answers.result()


@asynccontextmanager
async def _stack(folder: Path, bootstrap: str, lines: Lines) -> AsyncIterator[Running]:
    """`pinstream up` on free ports, with a site and a key made by the command line."""
    settings = _configure(folder, bootstrap)
    site = await _pinstream("sites", "add", "--tag-id", SITE, "--origin", ORIGIN, "--currency", "EUR", "--json")
    key = await _pinstream("keys", "create", "--site", SITE, "--label", "loadtest", "--json")
    up = Program(
        "up",
        (sys.executable, "-m", "pinstream", "up"),
        ready_url=f"http://127.0.0.1:{settings.collect.ops_port}/readyz",
    )
    async with supervised([up], lines), roles.open_warehouse(settings) as warehouse:
        watch = Watch(warehouse, settings.log.kafka_partitions, folder / "accepted")
        yield Running(folder, settings, site[0]["id"], key["key"], warehouse, watch)


def _configure(folder: Path, bootstrap: str) -> Settings:
    """Write the settings file and read it; settings of this machine's environment do not reach the stack."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    ports = {name: _free_port() for name in ("collect", "ops", "load_ops", "console", "console_ops", "clickhouse")}
    config = folder / "pinstream.toml"
    kind = "kafka" if bootstrap else "journal"
    config.write_text(CONFIG.format(folder=folder, kind=kind, bootstrap=bootstrap or "127.0.0.1:9092", **ports))
    os.environ[f"{PREFIX}CONFIG"] = str(config)
    return settings_module.load()


def _free_port() -> int:
    with serving.bind("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


async def _pinstream(*arguments: str) -> Any:
    """What a command prints as JSON. Raises SetupFault."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pinstream", *arguments, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    printed, told = await process.communicate()
    if process.returncode:
        raise SetupFault(f"`pinstream {' '.join(arguments)}` failed: {told.decode(errors='replace').strip()}")
    return json.loads(printed)


async def _users(running: Running, options: Options, stop: asyncio.Event, lines: Lines) -> float:
    """Let locust's users in until their time is over or `stop` is set; gives the cores that locust used."""
    began, used = time.monotonic(), _children_s()
    process = await asyncio.create_subprocess_exec(
        *_locust(running, options),
        cwd=ROOT,
        env={**os.environ, "LOADTEST_API_KEY": running.api_key},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    relaying = asyncio.create_task(_relay(process, lines))
    stopping = asyncio.create_task(stop.wait())
    ending = asyncio.create_task(process.wait())
    try:
        limit = options.seconds + STOP_TIMEOUT_S + LOCUST_GRACE_S
        await asyncio.wait([ending, stopping], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(process)
        for task in (relaying, stopping, ending):
            task.cancel()
    return (_children_s() - used) / (time.monotonic() - began)


def _locust(running: Running, options: Options) -> Sequence[str]:
    given = {
        "--locustfile": ROOT / "loadtests" / "locustfile.py",
        "--host": f"http://127.0.0.1:{running.settings.collect.port}",
        "--site": SITE,
        "--origin": ORIGIN,
        "--users": options.users,
        "--spawn-rate": options.users,
        "--run-time": f"{options.seconds}s",
        "--stop-timeout": STOP_TIMEOUT_S,
        "--pause": options.pause_s,
        "--ledger": running.folder / "ledger.json",
        "--accepted": running.watch.accepted.path,
        "--loglevel": "WARNING",
    }
    flags = [str(part) for pair in given.items() for part in pair]
    return (sys.executable, "-m", "locust", "--headless", "--only-summary", *flags)


async def _relay(process: Process, lines: Lines) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        lines("locust", line.decode(errors="replace").rstrip())


async def _end(process: Process) -> None:
    """SIGTERM, on which locust writes its ledger; then SIGKILL."""
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), LOCUST_GRACE_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _children_s() -> float:
    """CPU time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _ledger(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "ledger.json").read_text())
    except (OSError, ValueError) as exc:
        raise SetupFault("locust left no ledger; its lines above say why.") from exc
    return found


async def _summary(running: Running, ledger: dict[str, Any], cores: float, seconds: float, restarts: int) -> Summary:
    watch = running.watch
    ids = watch.accepted.answered_ms
    there = {table: await arrived(running.warehouse, running.site_id, table, ids[table]) for table in ids}
    judgement = judge(ledger, {table: len(ids[table]) for table in ids}, there)
    faults = {
        **ledger["unexpected"],
        "events in ClickHouse that nobody was told of": judgement.strange,
        "accepted events that the users did not write down": abs(ledger["durable"] - len(watch.accepted)),
        "processes that ended and were started again": restarts,
    }
    faults = {fault: n for fault, n in faults.items() if n}
    freshness = watch.freshness_ms() or [0]
    return Summary(
        accepted=len(watch.accepted),
        in_clickhouse=judgement.found,
        lost=judgement.lost,
        doubled=judgement.doubled,
        rejected=ledger["refused"],
        dropped=ledger["dropped"],
        unexpected=sum(faults.values()),
        faults=faults,
        unanswered=ledger["unanswered"],
        retried=ledger["told_to_wait"] + ledger["unheard"],
        requests=ledger["requests"],
        rps=ledger["rps"],
        p50_ms=ledger["p50_ms"],
        p99_ms=ledger["p99_ms"],
        freshness_ms={
            "p50": freshness[len(freshness) // 2],
            "p99": freshness[min(len(freshness) - 1, len(freshness) * 99 // 100)],
        },
        generator_cpu=round(cores, 2),
        engine=running.settings.log.kind,
        seconds=round(seconds, 1),
    )


# --- the command -------------------------------------------------------------------------------------


def _say(name: str, line: str) -> None:
    print(f"{name:>9} {line}", file=sys.stderr, flush=True)


def _say_verdict(summary: Summary) -> None:
    marks = {True: "kept", False: "BROKEN"}
    for line in (
        f"{summary.requests} requests, {summary.rps:.0f}/s, {summary.p50_ms:.0f} ms p50, {summary.p99_ms:.0f} ms p99",
        f"{summary.accepted} events answered durable, {summary.lost} lost: {marks[summary.lost == 0]}",
        f"{summary.doubled} counted twice: {marks[summary.doubled == 0]}",
        f"{summary.unexpected} answers that should have been others: {marks[summary.unexpected == 0]}",
        f"from answer to SELECT: {summary.freshness_ms['p50']} ms p50, {summary.freshness_ms['p99']} ms p99",
    ):
        _say("loadtest", line)
    for fault, n in summary.faults.items():
        _say("loadtest", f"unexpected, {n} times: {fault}")
    if summary.generator_cpu > BUSY:
        _say("loadtest", f"locust used {summary.generator_cpu} cores: its times are its own; take fewer --users")


def _bounded(most: int) -> Any:
    def number(text: str) -> int:
        if not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"from 1 to {most}")
        return int(text)

    return number


def main() -> int:
    """Entry point of `scripts/loadtest`. Exit code 1: a promise is broken, or something could not start."""
    parser = argparse.ArgumentParser(prog="scripts/loadtest", description="Load against a private stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("smoke", help="a short run, and then: is everything that was accepted in ClickHouse?")
    sub.add_argument("--seconds", type=_bounded(MAX_SECONDS), default=30, help="how long users come (default 30)")
    sub.add_argument("--users", type=_bounded(MAX_USERS), default=40, help="at the same time (default 40)")
    sub.add_argument("--pause", type=float, default=0.2, help="seconds between two requests of a user (default 0.2)")
    sub.add_argument("--kafka", action="store_true", help="on a real Kafka instead of the embedded journal")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON, in one line")
    sub.add_argument("--verbose", action="store_true", help="show the processes' own lines")
    given = parser.parse_args()
    options = Options(
        seconds=given.seconds, users=given.users, pause_s=given.pause, kafka=given.kafka, verbose=given.verbose
    )
    outcome: list[Summary] = []

    async def serve(stop: asyncio.Event) -> None:
        outcome.append(await smoke(options, stop, _say))

    try:
        asyncio.run(until_signalled(serve))
    except PinstreamError as exc:
        _say("loadtest", str(exc))
        return 1
    if not outcome:
        return 1
    _say_verdict(outcome[0])
    if given.json:
        print(json.dumps(msgspec.to_builtins(outcome[0])))
    return 0 if outcome[0].holds else 1


if __name__ == "__main__":
    sys.exit(main())
