"""scripts/bench segments: its figures, and one small run in which every way of asking must agree."""

from __future__ import annotations

import pytest
from loadtests.bench import __main__ as program
from loadtests.bench import raw_rules, report, segments
from loadtests.bench.processes import ROOT
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


def outcome(events: int = 1000, visitors: int = 100) -> Outcome:
    times = {"one_pass": [3.0, 1.0, 2.0], "raw:a": [10.0, 30.0, 20.0], "raw:b": [1.0], "each:a": [5.0], "each:b": [6.0]}
    times |= {"person_one_pass": [4.0], "person_raw:a": [40.0], "person_each:a": [7.0], "person_each:b": [8.0]}
    times |= {"diff": [5.0], "python_diff": [20.0], "erase_1": [1.0], "erase_1000": [2.0]}
    return Outcome(events, visitors, times, 70.04)


def test_figures_are_medians_and_totals_sums_of_them() -> None:
    found = outcome()
    assert set(found.result) == KEYS
    assert found.result["raw_total_ms"] == 21 and found.result["one_pass_ms"] == 2
    assert found.result["each_ms"] == {"a": 5, "b": 6} and found.result["person_raw_total_ms"] == 40
    assert {name: round(ratio, 3) for name, ratio in found.ratios().items()} == {
        "one_pass": 0.095,
        "person_one_pass": 0.1,
        "diff": 0.25,
    }


def test_the_command_and_its_words() -> None:
    asked = program.parser().parse_args(["segments"])
    assert asked.events == 1_000_000 and asked.visitors is None
    with pytest.raises(SystemExit):
        program.parser().parse_args(["segments", "--visitors", "3999"])
    assert segments._verdict(9_999_999, 0.2, 0.2, 0.25) == "no goal below 10,000,000 events"
    assert [segments._verdict(10_000_000, share, 0.2, 0.25) for share in (0.2, 0.25, 0.26)] == [
        "goal met",
        "stop line held",
        "missed",
    ]


def test_more_visitors_than_events_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["segments", "--events", "50000", "--visitors", "50001"]) == 1
    assert "50,000 events cannot be from 50,001 visitors" in capsys.readouterr().err


def test_rows_of_other_sizes_stay_in_the_table() -> None:
    name = "segments by size"
    document = (ROOT / "docs" / "benchmarks.md").read_text()
    row = segments.size(outcome(1_000_000, 4_001), "2026-01-02")
    assert row == ["4,001", "1,000,000", "2", "21", "0.095", "4", "40", "0.100", "5", "20", "3", "2026-01-02"]
    once = report.with_row(document, name, segments.SIZES, row)
    assert "| 4,001 |" in " ".join(once.split())
    assert set(words(document)) <= set(words(once))
    again = report.with_row(once, name, segments.SIZES, [*row[:-1], "2026-01-03"])
    assert "2026-01-02" not in again and len(again.splitlines()) == len(once.splitlines())
    more = report.with_row(again, name, segments.SIZES, ["4,001", "900,000", *row[2:]])
    first, second = (
        line for line in more.splitlines() if line.split("|")[1:2] and line.split("|")[1].strip() == "4,001"
    )
    assert "900,000" in first and "1,000,000" in second


def words(document: str) -> list[str]:
    """Its lines, however wide their columns are."""
    return [" ".join(line.split()) for line in document.splitlines() if not line.startswith("|-")]


@pytest.mark.parametrize("template", templates.ALL, ids=lambda each: each.key)
def test_every_template_is_written_over_raw_events_too(template: templates.Template) -> None:
    for level in ("visitor", "person"):
        query = raw_rules.size(template.key, level, 1, 1_795_291_391_000)
        assert "visitor_profile" not in query.sql
        assert not [word for word in ("LAST(", "SEEN", "ORDERED", "KNOWN") if word in query.sql]


@pytest.mark.slow
def test_a_small_run_agrees_on_every_count() -> None:
    found = segments.run(Options(events=50_000, visitors=7_001, rounds=2))
    assert set(found.result) == KEYS
    assert found.result["visitors"] == 7_001
    assert found.result["bytes_per_event"] > 20
    assert "all in one pass" in segments.shown(found)
