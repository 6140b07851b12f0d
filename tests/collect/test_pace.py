"""When requests are refused because the process has too much to do: turn after turn, and only the end of each."""

from __future__ import annotations

import pytest

from pinstream.collect.pace import GRACE_S, REFUSING, Pace

LONG = 0.1


def turn(pace: Pace, begins: float, lasts: float) -> list[bool]:
    """Whether a request is taken at the beginning, at the bound, and one past it."""
    pace.turn_begins(begins)
    found = [pace.admits(begins + after) for after in (0.0, LONG - 0.001, LONG + 0.001)]
    pace.turn_ends(begins + lasts)
    return found


def test_a_burst_is_taken_however_long_its_turn() -> None:
    pace = Pace(LONG)
    assert turn(pace, 10.0, 5.0) == [True, True, True]
    assert pace.pressed
    assert turn(pace, 15.0, 0.01) == [True, True, False]  # it has lasted for more than GRACE_S by now
    assert not pace.pressed


def test_what_comes_late_in_turn_after_turn_is_refused() -> None:
    pace = Pace(LONG)
    now, found = 10.0, []
    while now < 10.0 + GRACE_S + 0.5:
        found.append(turn(pace, now, 0.25))
        now += 0.25
    assert found == [[True, True, True]] * 4 + [[True, True, False]] * 2


def test_one_short_turn_ends_it() -> None:
    pace = Pace(LONG)
    for begins in (10.0, 10.5, 11.0, 11.5):
        turn(pace, begins, 0.4)
    assert turn(pace, 12.0, LONG) == [True, True, False]
    assert turn(pace, 12.5, 0.4) == [True, True, True]


def test_to_refuse_takes_a_small_share_of_the_time() -> None:
    pace = Pace(LONG)
    for begins in (10.0, 12.0):
        turn(pace, begins, 1.9)
    pace.turn_begins(14.0)
    asked = [pace.admits(14.0 + after / 10_000) for after in range(100_000)]
    assert asked.count(False) / asked.count(True) == pytest.approx(REFUSING, rel=0.05)
