from __future__ import annotations

import pytest

from pinstream.errors import StateError
from pinstream.state import runs
from pinstream.state.runs import KEEP_MS, PlannedChunk
from pinstream.state.snapshot import Site
from pinstream.state.store import Store

NOW = 1_795_291_391_000
MEMBERS = b"a" * 32 + b"b" * 32


@pytest.fixture
def connection(store: Store) -> int:
    site = store.add_site(Site(id=0, tag_id="t1"), now_ms=NOW)
    audience = store.add_audience(site_id=site.id, name="A", rule="{}", now_ms=NOW)
    return store.connect(audience_id=audience.id, ad_account_id="1", now_ms=NOW).id


def planned(number: int, run: int) -> PlannedChunk:
    return PlannedChunk(key=f"run{run}:{number}", number=number, operation="ADD", members=MEMBERS)


def with_chunks(store: Store, connection: int, count: int = 1) -> int:
    run = runs.begin(store, connection, now_ms=NOW)
    runs.plan(store, connection, run, [planned(number, run) for number in range(count)])
    return run


def test_a_chunk_goes_its_way(store: Store, connection: int) -> None:
    run = with_chunks(store, connection)
    chunk = runs.next_planned(store, run)
    assert chunk and (chunk.members, chunk.size, chunk.status) == (MEMBERS, 2, "planned")
    assert runs.next_open(store, connection) is None
    runs.start_sending(store, chunk)
    assert runs.next_planned(store, run) is None
    under_way = runs.next_open(store, connection)
    assert under_way and (under_way.status, under_way.members) == ("sending", MEMBERS)
    at_ms = runs.acknowledge(store, chunk, now_ms=NOW, customer_list_id="77")
    assert at_ms == NOW and store.connection(connection).customer_list_id == "77"
    acknowledged = runs.next_open(store, connection)
    assert acknowledged and (acknowledged.status, acknowledged.acknowledged_ms) == ("acknowledged", NOW)
    runs.record(store, chunk)
    assert runs.next_open(store, connection) is None
    [done] = runs.chunks(store, run)
    assert (done.status, done.members, done.size) == ("recorded", b"", 2)


def test_no_step_can_be_left_out_or_taken_twice(store: Store, connection: int) -> None:
    run = with_chunks(store, connection)
    chunk = runs.next_planned(store, run)
    assert chunk
    with pytest.raises(StateError, match="not sending any more"):
        runs.acknowledge(store, chunk, now_ms=NOW, customer_list_id="")
    with pytest.raises(StateError, match="not acknowledged"):
        runs.record(store, chunk)
    runs.start_sending(store, chunk)
    with pytest.raises(StateError, match="not planned"):
        runs.start_sending(store, chunk)
    runs.refuse(store, chunk, "no such list")
    with pytest.raises(StateError):
        runs.refuse(store, chunk, "no such list")
    [refused] = runs.chunks(store, run)
    assert (refused.status, refused.members, refused.detail) == ("refused", b"", "no such list")


def test_times_of_acknowledgement_grow_whatever_the_clock_does(store: Store, connection: int) -> None:
    run = with_chunks(store, connection, 3)
    times = []
    for now_ms in (NOW, NOW, NOW - 5000):
        chunk = runs.next_planned(store, run)
        assert chunk
        runs.start_sending(store, chunk)
        times.append(runs.acknowledge(store, chunk, now_ms=now_ms, customer_list_id="1"))
    assert times == [NOW, NOW + 1, NOW + 2]


def test_a_new_run_forgets_what_was_only_planned(store: Store, connection: int) -> None:
    first = with_chunks(store, connection, 2)
    chunk = runs.next_planned(store, first)
    assert chunk
    runs.start_sending(store, chunk)
    second = runs.begin(store, connection, now_ms=NOW + 1)
    assert second > first
    assert [left.status for left in runs.chunks(store, first)] == ["sending"]
    assert [(run.id, run.status) for run in runs.runs(store, connection)] == [
        (second, "running"),
        (first, "interrupted"),
    ]
    assert store.connection(connection).last_run_ms == NOW + 1


def test_a_run_reads_back(store: Store, connection: int) -> None:
    run = runs.begin(store, connection, now_ms=NOW)
    runs.note(store, run, desired=5, members=3, adds=4, removes=2, held=1)
    runs.finish(store, run, "held", now_ms=NOW + 9, detail="1 removal waits")
    [stored] = runs.runs(store, connection)
    assert (stored.desired, stored.members, stored.adds, stored.removes, stored.held) == (5, 3, 4, 2, 1)
    assert (stored.status, stored.finished_ms, stored.detail) == ("held", NOW + 9, "1 removal waits")


def test_old_runs_are_dropped_and_open_chunks_never(store: Store, connection: int) -> None:
    old = with_chunks(store, connection, 2)
    done, still_open = (runs.next_planned(store, old), None)
    assert done
    runs.start_sending(store, done)
    runs.acknowledge(store, done, now_ms=NOW, customer_list_id="1")
    runs.record(store, done)
    still_open = runs.next_planned(store, old)
    assert still_open
    runs.start_sending(store, still_open)
    runs.finish(store, old, "failed", now_ms=NOW)
    plain = runs.begin(store, connection, now_ms=NOW)
    runs.finish(store, plain, "done", now_ms=NOW)
    runs.begin(store, connection, now_ms=NOW + KEEP_MS)
    assert len(runs.runs(store, connection)) == 3
    newest = runs.begin(store, connection, now_ms=NOW + KEEP_MS + 1)
    assert {run.id for run in runs.runs(store, connection)} == {old, newest, newest - 1}
    assert [chunk.status for chunk in runs.chunks(store, old)] == ["sending"]


def test_planning_is_all_or_nothing(store: Store, connection: int) -> None:
    run = runs.begin(store, connection, now_ms=NOW)
    runs.plan(store, connection, run, [])
    with pytest.raises(Exception, match=r"(?i)unique"):
        runs.plan(store, connection, run, [planned(1, run), planned(1, run)])
    assert runs.chunks(store, run) == []


def test_one_process_has_the_lease(store: Store, connection: int) -> None:
    def claim(owner: str, now_ms: int) -> bool:
        return runs.claim(store, connection, owner, now_ms=now_ms, until_ms=now_ms + 1000)

    assert claim("a", NOW)
    assert not claim("b", NOW + 999)
    assert claim("a", NOW + 999)
    assert not claim("b", NOW + 1998)
    assert claim("b", NOW + 1999)
    runs.release(store, connection, "a")
    assert not claim("a", NOW + 2000)
    runs.release(store, connection, "b")
    assert claim("a", NOW + 2000)
    assert not runs.claim(store, 999, "a", now_ms=NOW, until_ms=NOW)


def test_a_lease_is_prolonged_by_its_holder_only(store: Store, connection: int) -> None:
    assert runs.claim(store, connection, "a", now_ms=NOW, until_ms=NOW + 10)
    assert runs.prolong(store, connection, "a", until_ms=NOW + 100)
    assert not runs.prolong(store, connection, "b", until_ms=NOW + 100)
    assert runs.claim(store, connection, "b", now_ms=NOW + 100, until_ms=NOW + 110)
    runs.release(store, connection, "b")
    assert not runs.prolong(store, connection, "a", until_ms=NOW + 200)  # free again, but it was lost


def test_a_lease_far_in_the_future_has_lapsed(store: Store, connection: int) -> None:
    """# the clock was set back; one lease ahead is only another process's slightly later clock"""
    assert runs.claim(store, connection, "a", now_ms=NOW, until_ms=NOW + 1000)
    assert not runs.claim(store, connection, "b", now_ms=NOW - 1000, until_ms=NOW)
    assert runs.claim(store, connection, "b", now_ms=NOW - 1001, until_ms=NOW - 1)


def test_a_chunk_that_somebody_else_went_on_with_is_undone(store: Store, connection: int) -> None:
    run = runs.begin(store, connection, now_ms=NOW)
    runs.plan(store, connection, run, [planned(1, run)])
    chunk = runs.next_planned(store, run)
    assert chunk is not None
    runs.start_sending(store, chunk)
    assert runs.claim(store, connection, "a", now_ms=NOW, until_ms=NOW + 10)
    assert not runs.repair(store, chunk, "a")
    runs.acknowledge(store, chunk, now_ms=NOW, customer_list_id="5")
    runs.record(store, chunk)
    assert runs.repair(store, chunk, "a")
    late = runs.next_open(store, connection)
    assert late is not None
    assert (late.operation, late.status, late.members, late.size) == ("REMOVE", "sending", chunk.members, chunk.size)


def test_a_list_is_lost_only_if_it_is_still_the_one(store: Store, connection: int) -> None:
    store.set_connection(connection, customer_list_id="5", pinterest_audience_id="6")
    runs.lose_list(store, connection, "4")
    assert store.connection(connection).customer_list_id == "5"
    runs.lose_list(store, connection, "5")
    assert (store.connection(connection).customer_list_id, store.connection(connection).pinterest_audience_id) == (
        "",
        "",
    )
