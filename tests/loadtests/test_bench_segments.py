"""scripts/bench segments: its figures, and one small run in which every way of asking must agree."""

from __future__ import annotations

import pytest
from loadtests.bench import __main__ as program
from loadtests.bench import raw_rules, segments
from loadtests.bench.segments import Options, Outcome

from pinstream.audiences import templates

KEYS = {
    "events",
    "visitors",
    "one_pass_ms",
    "person_one_pass_ms",
    "each_ms",
    "person_each_ms",
    "raw_total_ms",
    "person_raw_total_ms",
    "diff_ms",
    "python_diff_ms",
    "erase_1_ms",
    "erase_1000_ms",
    "bytes_per_event",
}


def test_figures_are_medians_and_totals_sums_of_them() -> None:
    times = {"one_pass": [3.0, 1.0, 2.0], "raw:a": [10.0, 30.0, 20.0], "raw:b": [1.0], "each:a": [5.0], "each:b": [6.0]}
    times |= {"person_one_pass": [4.0], "person_raw:a": [40.0], "person_each:a": [7.0], "person_each:b": [8.0]}
    times |= {"diff": [5.0], "python_diff": [20.0], "erase_1": [1.0], "erase_1000": [2.0]}
    outcome = Outcome(1000, 100, times, 70.04)
    assert set(outcome.result) == KEYS
    assert outcome.result["raw_total_ms"] == 21 and outcome.result["one_pass_ms"] == 2
    assert outcome.result["each_ms"] == {"a": 5, "b": 6} and outcome.result["person_raw_total_ms"] == 40
    assert {name: round(ratio, 3) for name, ratio in outcome.ratios().items()} == {
        "one_pass": 0.095,
        "person_one_pass": 0.1,
        "diff": 0.25,
    }


def test_the_command_and_its_words() -> None:
    assert program.parser().parse_args(["segments"]).events == 1_000_000
    assert [segments._verdict(share, 0.2, 0.25) for share in (0.2, 0.25, 0.26)] == [
        "goal met",
        "stop line held",
        "missed",
    ]


@pytest.mark.parametrize("template", templates.ALL, ids=lambda each: each.key)
def test_every_template_is_written_over_raw_events_too(template: templates.Template) -> None:
    for level in ("visitor", "person"):
        query = raw_rules.size(template.key, level, 1, 1_795_291_391_000)
        assert "visitor_profile" not in query.sql
        assert not [word for word in ("LAST(", "SEEN", "ORDERED", "KNOWN") if word in query.sql]


@pytest.mark.slow
def test_a_small_run_agrees_on_every_count() -> None:
    outcome = segments.run(Options(events=50_000, rounds=2))
    assert set(outcome.result) == KEYS
    assert outcome.result["bytes_per_event"] > 20
    assert "all in one pass" in segments.shown(outcome)
