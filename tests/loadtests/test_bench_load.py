"""scripts/bench load: its events, its figures, and one small run against the real parts."""

from __future__ import annotations

import pytest
from loadtests.bench import __main__ as program
from loadtests.bench import load
from loadtests.bench.load import Outcome, Round

from pinstream.event import EVENTS
from pinstream.load import deadletter

NOW_MS = 1_795_291_391_000


def test_every_event_loads_and_is_another_one() -> None:
    made = list(load.make(5000, seed=1, now_ms=NOW_MS))
    assert all(deadletter.CHECKS[EVENTS](each.value) for each in made)
    assert len({each.value for each in made}) == 5000
    assert 550 <= sum(len(each.value) for each in made) / 5000 <= 700
    assert {each.value for each in load.make(5000, seed=2, now_ms=NOW_MS)}.isdisjoint(each.value for each in made)


def test_the_ratio_is_the_median_of_the_rounds_own() -> None:
    outcome = Outcome([Round(50, 100, 90), Round(90, 100, 110), Round(30, 40, 100)], 650, 10_000)
    assert outcome.result == {"rows_per_s": 50, "direct_rows_per_s": 100, "ratio": 0.75, "rss_mb": 100}
    assert "missed" in load.shown(outcome)
    assert "stop line held" in load.shown(Outcome([Round(86, 100, 90)], 650, 10_000))


def test_a_run_too_short_to_measure_is_refused() -> None:
    with pytest.raises(SystemExit):
        program.parser().parse_args(["load", "--events", "49999"])
    assert program.parser().parse_args(["load", "--events", "50000"]).log == "kafka"


@pytest.mark.slow
def test_a_small_run_counts_every_event() -> None:
    outcome = load.run(load.Options(events=50_000, rounds=1, log="journal", settings={}))
    assert outcome.result["rows_per_s"] > 500
    assert outcome.result["direct_rows_per_s"] > 500
