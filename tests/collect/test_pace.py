"""When requests are refused because the process does not keep up."""

from __future__ import annotations

import pytest

from pinstream.collect.pace import GRACE_S, REFUSING, Pace

LONG = 0.1


def test_a_burst_is_taken() -> None:
    pace = Pace(LONG)
    assert all(pace.admits(10.0 + after / 1000, 5.0) for after in range(int(GRACE_S * 1000)))


def test_who_has_to_wait_for_long_enough_is_refused_for_a_small_share_of_the_time() -> None:
    pace = Pace(LONG)
    pace.admits(10.0, LONG + 0.001)
    asked = [pace.admits(10.0 + GRACE_S + after / 10_000, LONG + 0.001) for after in range(100_000)]
    assert asked.count(False) / len(asked) == pytest.approx(REFUSING, rel=0.05)


def test_one_that_did_not_wait_ends_it() -> None:
    pace = Pace(LONG)
    pace.admits(10.0, 1.0)
    assert not pace.admits(12.001, 1.0)
    assert pace.admits(12.002, LONG)
    assert pace.admits(12.003, 1.0)


def test_after_an_idle_hour_a_burst_is_taken_as_any() -> None:
    pace = Pace(LONG)
    pace.admits(10.0, 1.0)
    pace.admits(3610.0, 0.0)
    assert all(pace.admits(3610.0 + after / 1000, 1.0) for after in range(500))
