"""How fast `collect` is beside its peers, what it does past its limit, where its time goes; what the tag costs; how
fast `load` and segments are.

Real servers, real Kafka, real Chromium, on this machine's loopback. docs/benchmarks.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Any

from loadtests.bench import collect, load, overload, profile, segments, tag
from loadtests.bench.parts import Fault

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: it ran to the end, also where a goal is missed. 1: a count does not hold, or it could not run."""
    signal.signal(signal.SIGTERM, _terminated)
    options = parser().parse_args(arguments)
    command = f"scripts/bench {shlex.join(arguments)}"
    try:
        code: int = options.run(options, command)
    except Fault as fault:
        print(f"scripts/bench: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scripts/bench: stopped", file=sys.stderr)
        return 130
    return code


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    made = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    one = _command(commands, "collect", _collect, "ours and its peers in turn, interleaved; medians and ratios")
    one.add_argument("--seconds", type=_seconds, default=5.0, help="of one run (default 5)")
    one.add_argument("--rounds", type=_count, default=3, help="of all cases (default 3)")
    one.add_argument("--only", type=_cases, default=tuple(collect.CASES), help="cases, such as ours,nginx_204")

    two = _command(commands, "overload", _overload, "three times the knee from an open loop")
    two.add_argument("--seconds", type=_seconds, default=60.0, help="of the overload (default 60)")

    three = _command(commands, "profile", _profile, "a flame graph of ours under wrk, and its busiest functions")
    three.add_argument("--seconds", type=_seconds, default=15.0, help="of one recording; there are two (default 15)")

    four = _command(
        commands, "load", _load, "the log through load into ClickHouse, and the same bytes inserted directly"
    )
    four.add_argument("--events", type=_events, default=300_000, help="of one run (default 300000)")
    four.add_argument("--rounds", type=_count, default=8, help="of both (default 8, so that each goes first as often)")
    four.add_argument("--log", choices=("kafka", "journal"), default="kafka", help="default kafka")

    five = _command(commands, "segments", _segments, "the templates in one pass, and the same rules over raw events")
    five.add_argument("--events", type=_events, default=1_000_000, help="of a year (default 1000000)")
    five.add_argument("--visitors", type=_visitors, help="that they are from (default a tenth of the events)")
    five.add_argument("--rounds", type=_count, default=5, help="of all questions (default 5)")

    six = _command(commands, "tag", _tag, "pages left in Chromium, and the tag's time on their main thread; peers too")
    six.add_argument("--leaves", type=_leaves, default=1000, help="pages that are left (default 1000)")
    six.add_argument("--peer-leaves", type=_leaves, default=200, help="the same for each peer (default 200)")
    six.add_argument("--peers", type=_peers, default=tag.PEERS, help="such as plausible,posthog; empty: none")
    return made


def _command(commands: Commands, name: str, run: Callable[..., int], says: str) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=says, description=says)
    made.set_defaults(run=run)
    made.add_argument("--json", action="store_true", help="end with one line of JSON")
    made.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    made.add_argument(
        "--set",
        dest="settings",
        type=_setting,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another setting of ours, such as collect.commit_interval_ms=2; default: as shipped",
    )
    return made


def _collect(options: argparse.Namespace, command: str) -> int:
    wanted = collect.Options(options.seconds, options.rounds, options.only, dict(options.settings))
    outcome = collect.run(wanted)
    return _end(options, command, "collect", collect.shown(outcome), outcome.result, outcome.faults)


def _overload(options: argparse.Namespace, command: str) -> int:
    outcome = overload.run(options.seconds, dict(options.settings))
    return _end(options, command, "overload", overload.shown(outcome), outcome.result, outcome.faults)


def _profile(options: argparse.Namespace, command: str) -> int:
    found = profile.run(options.seconds, dict(options.settings))
    return _end(
        options,
        command,
        "profile",
        profile.shown(found),
        {"functions": [asdict(each) for each in found[: profile.ROWS]]},
    )


def _load(options: argparse.Namespace, command: str) -> int:
    outcome = load.run(load.Options(options.events, options.rounds, options.log, dict(options.settings)))
    return _end(options, command, "load", load.shown(outcome), outcome.result)


def _segments(options: argparse.Namespace, command: str) -> int:
    visitors = options.visitors or options.events // 10
    if visitors > options.events:
        raise Fault(f"{options.events:,} events cannot be from {visitors:,} visitors: each has one at least.")
    outcome = segments.run(segments.Options(options.events, visitors, options.rounds))
    code = _end(options, command, "segments", segments.shown(outcome), outcome.result)
    if options.write:
        collect.write_row(segments.SIZES, segments.size(outcome, time.strftime("%Y-%m-%d")), "segments by size")
    return code


def _tag(options: argparse.Namespace, command: str) -> int:
    wanted = tag.Options(options.leaves, options.peer_leaves, options.peers, dict(options.settings))
    found = tag.run(wanted)
    return _end(options, command, "tag", tag.shown(found), tag.result(found))


def _end(
    options: argparse.Namespace,
    command: str,
    table: str,
    shown: str,
    result: dict[str, Any],
    faults: Sequence[str] = (),
) -> int:
    """Show what was found, put it where it was asked for, and give the exit code."""
    print(shown, file=sys.stderr)
    if options.write:
        collect.write(f"{collect.circumstances(command)}\n\n{shown}", table)
    for fault in faults:
        print(f"scripts/bench: {fault}", file=sys.stderr)
    if options.json:
        print(json.dumps(result))
    return 1 if faults else 0


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise ValueError
    return value


def _events(text: str) -> int:
    value = int(text)
    if not 50_000 <= value <= 100_000_000:
        raise argparse.ArgumentTypeError("50,000 at least: the first block of each partition does not count")
    return value


def _visitors(text: str) -> int:
    value = int(text)
    if not segments.MIN_VISITORS <= value <= 100_000_000:
        raise argparse.ArgumentTypeError(f"{segments.MIN_VISITORS:,} at least: so many are erased, each once")
    return value


def _leaves(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise ValueError
    return value


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    if unknown := set(names) - set(tag.PEERS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: the peers are {', '.join(tag.PEERS)}")
    return names


def _cases(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(collect.CASES):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: the cases are {', '.join(collect.CASES)}")
    return names


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text}: say KEY=VALUE")
    return key, value


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
