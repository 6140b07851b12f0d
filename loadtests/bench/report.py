"""Pure: samples of several rounds -> medians, ratios, verdicts, a table, and the part of docs/benchmarks.md."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple


@dataclass(frozen=True)
class Sample:
    """One run of one case.

    `answered` and `in_kafka` are events; in_kafka is None where nothing is kept. `errors` are requests.
    """

    seconds: float
    answered: int
    in_kafka: int | None
    p50_ms: float
    p99_ms: float
    cpu_s: float
    rss_bytes: int
    errors: int = 0
    events_per_request: int = 1

    @property
    def rps(self) -> float:
        """Answered requests a second."""
        return self.answered / self.events_per_request / self.seconds

    @property
    def cpu_us_per_event(self) -> float:
        return self.cpu_s / self.answered * 1e6

    @property
    def events_per_s_per_core(self) -> float:
        """Events a second, divided by the cores' worth of CPU time that the server used."""
        return self.answered / self.cpu_s


SERVERS: Final = ("ours", "nginx_204", "nginx_lua", "naive", "floor")


def summary(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """The JSON object of `scripts/bench collect`: medians over the rounds; the counts are those of the median round."""
    found: dict[str, Any] = {case: _server(samples[case]) for case in SERVERS if case in samples}
    if "batch50" in samples:
        rate = statistics.median(each.events_per_s_per_core for each in samples["batch50"])
        found["batch50"] = {"events_per_s_per_core": round(rate)}
    if "pixel" in samples:
        found["pixel"] = {"rps": round(statistics.median(each.rps for each in samples["pixel"]))}
    return found | {"ratios": _ratios(samples)}


def _server(runs: Sequence[Sample]) -> dict[str, Any]:
    middle = sorted(runs, key=lambda each: each.rps)[(len(runs) - 1) // 2]
    return {
        "rps": round(statistics.median(each.rps for each in runs)),
        "p50_ms": round(statistics.median(each.p50_ms for each in runs), 2),
        "p99_ms": round(statistics.median(each.p99_ms for each in runs), 2),
        "cpu_us_per_event": round(statistics.median(each.cpu_us_per_event for each in runs), 1),
        "rss_mb": round(statistics.median(each.rss_bytes for each in runs) / 1e6, 1),
        "answered": middle.answered,
        "in_kafka": middle.in_kafka,
    }


class _Ratio(NamedTuple):
    peer: str
    figure: str


_RATIOS: Final = {
    "rps_vs_naive": _Ratio("naive", "rps"),
    "rps_vs_nginx_lua": _Ratio("nginx_lua", "rps"),
    "cpu_vs_nginx_204": _Ratio("nginx_204", "cpu_us_per_event"),
    "cpu_vs_floor": _Ratio("floor", "cpu_us_per_event"),
}


def _ratios(samples: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    """Medians of each round's ratio: what disturbs the machine for a minute disturbs both sides of it."""
    found = {}
    for name, (peer, figure) in _RATIOS.items():
        if "ours" in samples and peer in samples:
            get = operator.attrgetter(figure)
            pairs = zip(samples["ours"], samples[peer], strict=True)
            found[name] = round(statistics.median(get(mine) / get(theirs) for mine, theirs in pairs), 2)
    return found


# --- goals -----------------------------------------------------------------------------------------


class Goal(NamedTuple):
    """A figure to reach. Past `stop` it is not acceptable; where there is none, `goal` is it."""

    what: str
    path: tuple[str, str]
    at_least: bool
    goal: float
    stop: float | None = None


GOALS: Final = (
    Goal("CPU per event, to nginx 204", ("ratios", "cpu_vs_nginx_204"), at_least=False, goal=1.2, stop=2.0),
    Goal("req/s, to nginx + lua", ("ratios", "rps_vs_nginx_lua"), at_least=True, goal=1.0, stop=0.8),
    Goal("req/s, to plain Starlette", ("ratios", "rps_vs_naive"), at_least=True, goal=4.0),
    Goal("p99, ms", ("ours", "p99_ms"), at_least=False, goal=50.0),
    Goal("batches of 50, events/s per core", ("batch50", "events_per_s_per_core"), True, goal=100_000, stop=60_000),
)


class Verdict(NamedTuple):
    """A goal beside what was measured. `word`: met, stop line held, missed."""

    goal: Goal
    value: float
    word: str


def verdicts(result: Mapping[str, Any]) -> list[Verdict]:
    """Those goals of which something was measured."""
    found = []
    for goal in GOALS:
        value = result.get(goal.path[0], {}).get(goal.path[1])
        if value is not None:
            found.append(Verdict(goal, value, _word(goal, value)))
    return found


def _word(goal: Goal, value: float) -> str:
    within = operator.ge if goal.at_least else operator.le
    if within(value, goal.goal):
        return "met"
    return "stop line held" if goal.stop is not None and within(value, goal.stop) else "missed"


def count_faults(case: str, runs: Sequence[Sample], open_requests: int) -> list[str]:
    """Rounds in which answers and Kafka do not agree: fewer records than answers, or more than were also open."""
    faults = []
    for number, each in enumerate(runs, 1):
        if each.in_kafka is None:
            continue
        surplus = each.in_kafka - each.answered
        if surplus < 0:
            faults.append(f"{case}, round {number}: {-surplus:,} events were answered and are not in Kafka")
        elif surplus > open_requests * each.events_per_request:
            faults.append(f"{case}, round {number}: {surplus:,} events more in Kafka than answered")
    return faults


# --- for people ------------------------------------------------------------------------------------

TITLES: Final = {
    "ours": "**pinstream**, one worker",
    "nginx_204": "nginx `return 204`",
    "nginx_lua": "nginx + lua-nginx-kafka",
    "floor": "uvloop + httptools, a constant",
    "naive": "Starlette + aiokafka",
    "batch50": "pinstream, 50 events a request",
    "pixel": "pinstream, pixel `GET /v3/`",
}


_COLUMNS: Final = (
    "server",
    "req/s",
    "events/s",
    "p50 ms",
    "p99 ms",
    "CPU us per event",
    "MB",
    "answered",
    "in Kafka",
    "errors",
)


def table(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Every case as a row of Markdown."""
    rows = [[*_COLUMNS]]
    for case, title in TITLES.items():
        if case not in samples:
            continue
        one, events = _server(samples[case]), samples[case][0].events_per_request
        errors = round(statistics.median(each.errors for each in samples[case]))
        rows.append(
            [
                title,
                f"{one['rps']:,}",
                f"{one['rps'] * events:,}",
                f"{one['p50_ms']:.1f}",
                f"{one['p99_ms']:.1f}",
                f"{one['cpu_us_per_event']:.1f}",
                f"{one['rss_mb']:.0f}",
                f"{one['answered']:,}",
                "-" if one["in_kafka"] is None else f"{one['in_kafka']:,}",
                f"{errors:,}",
            ]
        )
    return "\n".join(markdown(rows))


def goals(found: Sequence[Verdict]) -> str:
    """Every goal as a row of Markdown."""
    rows = [["goal", "wanted", "stop line", "measured", "verdict"]]
    for goal, value, word in found:
        sign = ">=" if goal.at_least else "<="
        stop = "" if goal.stop is None else f"{sign} {goal.stop:,g}"
        rows.append([goal.what, f"{sign} {goal.goal:,g}", stop, f"{value:,g}", word])
    return "\n".join(markdown(rows))


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown that also reads well as plain text: the first row is its head, numbers stand right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = [len(rows) > 1 and _is_number(rows[1][column]) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return f"| {' | '.join(cells)} |"

    rule = "|".join("-" * (width + 1) + (":" if r else "-") for width, r in zip(widths, right, strict=True))
    return [line(rows[0]), f"|{rule}|", *map(line, rows[1:])]


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "").isdigit()


def written(document: str, name: str, part: str) -> str:
    """The document with the text between the markers of `name` replaced.

    Raises:
        ValueError: the markers are not there.
    """
    before, _, after = _around(document, name)
    return f"{before}\n{part.strip()}\n\n{after}"


def with_row(document: str, name: str, head: Sequence[str], row: Sequence[str]) -> str:
    """The document with `row` in the table between the markers of `name`, sorted by its first two cells, both numbers.

    It takes the place of the row that has the same two. The others stay, unless the table's head was another one.

    Raises:
        ValueError: the markers are not there.
    """
    lines = _around(document, name)[1].strip().splitlines()
    known, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] or [[], []]
    kept = [each for each in rows if each[:2] != list(row[:2])] if known == list(head) else []
    rows = sorted([*kept, list(row)], key=lambda each: [int(cell.replace(",", "")) for cell in each[:2]])
    return written(document, name, "\n".join(markdown([list(head), *rows])))


def _around(document: str, name: str) -> tuple[str, str, str]:
    """What is before the part of `name`, the part itself, and what is behind it; the markers stand outside."""
    begin, end = f"<!-- {name}: written by scripts/bench -->\n", f"<!-- {name}: end -->\n"
    before, marker, rest = document.partition(begin)
    part, closing, after = rest.partition(end)
    if not marker or not closing:
        raise ValueError(f"The document has no lines {begin.strip()} and {end.strip()}")
    return before + begin, part, end + after
