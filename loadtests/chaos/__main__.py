"""The command line of `scripts/chaos`."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from loadtests.chaos import load
from loadtests.chaos.disk import CAN_FILL, Tmpfs
from loadtests.chaos.faults import KINDS, QUICK, Fault, Pace, plan
from loadtests.chaos.parts import PartFault
from loadtests.chaos.run import OUTAGES, Options, run

WORDS = """Hurt a running pinstream, then count every event. Each has options of its own:

scripts/chaos collect --help   was an answer a lie?
scripts/chaos load --help      is each record in ClickHouse, once?
"""
DESCRIPTION = """Hurt a running collect and its Kafka under load, then count whether an answer was a lie.

A real `pinstream collect` writes to a real Kafka through a TCP proxy, while a sender keeps books about every event.
Meanwhile processes are killed, stopped and frozen, the network between them is cut, slowed and made to swallow, and
the spool's disk is filled. Afterwards every event that was answered durable must be in Kafka or in the spool.

The last line on stdout is one JSON object with --json, else a summary. Exit code 1 if an event is missing.
"""


def main() -> int:
    """The exit code of what the first word names."""
    parser = argparse.ArgumentParser("scripts/chaos", description=WORDS, formatter_class=_Formatter)
    parser.add_argument("scenario", choices=["collect", "load"])
    word: str = parser.parse_args(sys.argv[1:2]).scenario
    return load.main(sys.argv[2:]) if word == "load" else collect(sys.argv[2:])


def collect(arguments: list[str]) -> int:
    """Exit code 0: every event answered durable was found; 1: not, or a part did not come back."""
    options, keep, as_json = _options(arguments)
    tmpfs = None
    if any(fault.kind == "disk_full" for fault in options.faults):
        with suppress(OSError):  # no root, or a container without the right to mount
            tmpfs = Tmpfs(options.spool)
    passed, outcome = False, None
    try:
        outcome = asyncio.run(_until_told(options, tmpfs))
        passed = outcome["missing"] == 0 and outcome["answered"] > 0 and outcome["strange"] == 0
    except* PartFault as group:
        for fault in _leaves(group):
            say(f"scripts/chaos: {fault}")
    except* (KeyboardInterrupt, asyncio.CancelledError):
        say("scripts/chaos: stopped; nothing was counted")
    finally:
        if tmpfs:
            tmpfs.unmount()
        if passed and not keep:
            shutil.rmtree(options.directory, ignore_errors=True)
        else:
            say(f"everything is kept in {options.directory}")
    if outcome is None:
        return 1
    _summary(outcome)
    if as_json:
        print(json.dumps(outcome))
    return 0 if passed else 1


def _leaves(group: BaseExceptionGroup[PartFault]) -> Iterator[PartFault]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


async def _until_told(options: Options, tmpfs: Tmpfs | None) -> dict[str, Any]:
    """`run`; SIGTERM ends it as Ctrl-C does, with all that it started."""
    task = asyncio.current_task()
    assert task  # narrows the type
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(options, tmpfs, say)


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


def _options(arguments: list[str]) -> tuple[Options, bool, bool]:
    parser = argparse.ArgumentParser("scripts/chaos collect", description=DESCRIPTION, formatter_class=_Formatter)
    parser.add_argument("--kills", type=int, default=20, help="faults at random moments (20)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="only these, with commas between them (all)")
    parser.add_argument("--quick", action="store_true", help="short faults and pauses")
    parser.add_argument(
        "--outage", type=float, default=0, metavar="S", help="instead: Kafka is away for S seconds, once"
    )
    parser.add_argument("--how", choices=OUTAGES, default="kill", help="how it goes away (kill)")
    parser.add_argument("--rate", type=float, default=500, help="events a second (500)")
    parser.add_argument("--workers", type=int, default=0, help="passed on to collect")
    parser.add_argument("--seed", type=int, help="of all dice (another one each time, and told)")
    parser.add_argument(
        "--proxy", choices=["auto", "own", "toxiproxy"], default="auto", help="toxiproxy if Go is there"
    )
    parser.add_argument("--dir", type=Path, help="keep everything there (a temporary folder, kept after a failure)")
    parser.add_argument("--json", action="store_true", help="the last line is a JSON object")
    said = parser.parse_args(arguments)
    kinds = [kind for kind in KINDS if kind in said.kinds.split(",") and (kind != "disk_full" or CAN_FILL)]
    if said.kills < 1 or said.rate <= 0 or said.outage < 0 or not kinds:
        parser.error(f"numbers must be above 0, and --kinds some of {','.join(KINDS)}")
    seed = random.randrange(2**31) if said.seed is None else said.seed
    outage = [Fault(0, OUTAGES[said.how], said.outage)]
    options = Options(
        directory=Path(said.dir or tempfile.mkdtemp(prefix="pinstream-chaos-")).absolute(),
        faults=outage if said.outage else plan(said.kills, seed, kinds=kinds, pace=QUICK if said.quick else Pace()),
        how=said.how if said.outage else None,
        rate=said.rate,
        seed=seed,
        workers=said.workers,
        proxy=said.proxy,
    )
    options.directory.mkdir(parents=True, exist_ok=True)
    return options, bool(said.dir), said.json


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=118)


def _summary(outcome: dict[str, Any]) -> None:
    for example in outcome["examples"]:
        say(f"look at: {example}")
    faults = ", ".join(f"{kind} {count}" for kind, count in outcome["faults"].items())
    say(f"\nfaults      {faults} (--seed {outcome['seed']})")
    say(f"sent        {outcome['sent']} events in {outcome['seconds']} s, collect started {outcome['starts']} times")
    say(f"answered    {outcome['answered']} durable, {outcome['refused']} refused, {outcome['unanswered']} not at all")
    say(f"answers     {', '.join(f'{kind}: {count}' for kind, count in outcome['answers'].items())}")
    say(f"took        {outcome['answer_ms']} ms")
    say(f"spool       {outcome['spooled']} spooled, {outcome['drained']} drained, {outcome['only_in_spool']} left")
    say(f"memory      {outcome['rss_mb']} MB")
    say(f"missing     {outcome['missing']} of those answered durable")
    say(f"doubled     {outcome['doubled']} of those, though each was sent once")


if __name__ == "__main__":
    sys.exit(main())
