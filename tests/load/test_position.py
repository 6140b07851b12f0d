from __future__ import annotations

import pytest

from pinstream.errors import Fatal, PositionLost
from pinstream.event import EVENTS
from pinstream.eventlog.contract import Bounds, Intent, Partition, Position
from pinstream.load.loop import starting_offset

P = Partition(EVENTS, 0)


def intent(last: int, format: int = 1) -> Intent:
    return Intent(last=last, rollup_version=1, format=format)


@pytest.mark.parametrize(
    ("position", "bounds", "newest", "start"),
    [
        (Position(None, None), Bounds(0, 100), None, 0),
        (Position(None, None), Bounds(40, 100), None, 40),
        (Position(60, None), Bounds(0, 100), 59, 60),
        (Position(60, None), Bounds(60, 100), None, 60),
        (Position(60, intent(79)), Bounds(0, 100), None, 60),
        (Position(100, None), Bounds(0, 100), 99, 100),
        (Position(60, intent(79)), Bounds(0, 100), 59, 60),
        (Position(60, intent(79)), Bounds(0, 100), 79, 60),
        (Position(60, intent(99)), Bounds(60, 100), 70, 60),
    ],
)
def test_reading_goes_on_at_the_stored_position(
    position: Position, bounds: Bounds, newest: int | None, start: int
) -> None:
    assert starting_offset(P, position, bounds, newest, blank=newest is None) == start


def test_a_partition_whose_rows_are_all_deleted_is_none_of_a_lost_warehouse() -> None:
    assert starting_offset(P, Position(60, None), Bounds(0, 100), None, blank=False) == 60


@pytest.mark.parametrize(
    ("position", "bounds", "newest"),
    [
        (Position(101, None), Bounds(0, 100), 99),  # recreated: shorter than the position
        (Position(None, None), Bounds(0, 100), 100),  # recreated, and the group's positions are gone too
        (Position(None, None), Bounds(0, 20000), 5000),  # the positions are gone; the log may be another one
        (Position(None, None), Bounds(9000, 20000), 5000),  # the positions are gone, and records between
        (Position(60, None), Bounds(0, 100), None),  # the warehouse was wiped
        (Position(60, intent(100)), Bounds(0, 100), 59),  # the intent's range is not all there
        (Position(60, None), Bounds(61, 100), 59),  # deleted before it was loaded
        (Position(60, None), Bounds(0, 100), 60),  # somebody moved the position back
        (Position(60, intent(79)), Bounds(0, 100), 80),
    ],
)
def test_a_position_that_contradicts_log_or_warehouse_is_refused(
    position: Position, bounds: Bounds, newest: int | None
) -> None:
    with pytest.raises(PositionLost, match="reset-positions"):
        starting_offset(P, position, bounds, newest, blank=newest is None)


def test_an_intent_of_a_newer_program_is_refused() -> None:
    with pytest.raises(Fatal, match="newer pinstream"):
        starting_offset(P, Position(60, intent(79, format=99)), Bounds(0, 100), 59, blank=False)
