from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstream.push.plan import Guard, chunks


def people(count: int) -> bytes:
    return b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(count))


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (9, [4, 4, 1])])
def test_members_are_cut_at_the_size(count: int, sizes: list[int]) -> None:
    planned = chunks(7, "ADD", 3, people(count), 4)
    assert [len(chunk.members) // 32 for chunk in planned] == sizes
    assert [chunk.number for chunk in planned] == list(range(3, 3 + len(sizes)))
    assert b"".join(chunk.members for chunk in planned) == people(count)


@given(count=st.integers(0, 50), size=st.integers(1, 20), run=st.integers(1, 1000), first=st.integers(0, 9))
def test_keys_are_stable_and_name_one_set_of_members(count: int, size: int, run: int, first: int) -> None:
    planned = chunks(run, "ADD", first, people(count), size)
    again = chunks(run, "ADD", first, people(count), size)
    others = chunks(run + 1, "ADD", first, people(count), size) + chunks(run, "REMOVE", first, people(count), size)
    assert planned == again
    keys = [chunk.key for chunk in [*planned, *others]]
    assert len(set(keys)) == len(keys)


def test_a_key_changes_with_its_members() -> None:
    [one], [other] = chunks(1, "ADD", 0, people(2), 9), chunks(1, "ADD", 0, people(3), 9)
    assert one.key != other.key


def test_members_become_pinterests_hex() -> None:
    [chunk] = chunks(1, "ADD", 0, people(2), 9)
    assert chunk.hexes() == [hashlib.sha256(b"0").hexdigest(), hashlib.sha256(b"1").hexdigest()]


@pytest.mark.parametrize(
    ("members", "removes", "held"),
    [(100, 50, False), (100, 51, True), (99, 99, False), (100, 0, False), (0, 0, False), (1000, 1000, True)],
)
def test_the_guard_holds_what_is_more_than_its_share(members: int, removes: int, held: bool) -> None:
    assert Guard(max_ratio=0.5, min_members=100).holds(members=members, removes=removes) is held
