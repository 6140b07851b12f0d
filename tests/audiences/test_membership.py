from __future__ import annotations

import hashlib
import itertools
import logging

import msgspec
import pytest

from pinstream.audiences import compile, membership
from pinstream.audiences.compile import Query
from pinstream.audiences.membership import Counts, Target
from pinstream.audiences.rule import Bought, Rule
from pinstream.audiences.templates import cart_abandoned
from pinstream.errors import QueryFailed
from pinstream.event import CONSENT_WITHDRAWN
from pinstream.state.runs import Chunk, Operation, Run
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import NOW_MS, Seen, hashed, load, next_site, world

CART = cart_abandoned(quiet_for_min=0)
NOBODY = Query(sql="SELECT toFixedString('', 32) AS em, 0 AS full_set WHERE 0", params={})


_keys = itertools.count()


def target(run_id: int = 1, site_id: int = 0) -> Target:
    site_id = site_id or next_site()
    return Target(site_id=site_id, audience_id=site_id, run_id=run_id)


def people(*numbers: int) -> Query:
    """A query that wants these people."""
    sql = "SELECT toFixedString(SHA256(toString(arrayJoin({people:Array(UInt32)}))), 32) AS em, 0 AS full_set"
    return Query(sql=sql, params={"people": list(numbers)})


def person(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def chunk(operation: Operation, *numbers: int) -> Chunk:
    members = b"".join(map(person, numbers))
    return Chunk(
        key=f"chunk {next(_keys)}",
        number=0,
        operation=operation,
        members=members,
        id=1,
        connection_id=1,
        sync_run_id=1,
        status="acknowledged",
        size=len(numbers),
        acknowledged_ms=NOW_MS,
        detail="",
    )


async def members(warehouse: Warehouse, aim: Target) -> list[bytes]:
    rows = await warehouse.select(
        "SELECT em FROM audience_member FINAL WHERE site_id = {site:UInt32} AND audience_id = {audience:UInt32} "
        "AND state = 1 ORDER BY em",
        {"site": aim.site_id, "audience": aim.audience_id},
    )
    return [bytes(row["em"]) for row in rows]


async def pages(
    warehouse: Warehouse, aim: Target, operation: Operation, size: int = 10, only: Query | None = None
) -> list[bytes]:
    found = membership.difference(warehouse, aim, size, removes_of=only)
    return [page async for each, page in found if each == operation]


def split(*found: bytes) -> list[bytes]:
    joined = b"".join(found)
    return [joined[at : at + 32] for at in range(0, len(joined), 32)]


# --- the difference


async def test_the_difference_is_wanted_minus_members(warehouse: Warehouse) -> None:
    aim = target()
    await membership.record(warehouse, aim, chunk("ADD", 1, 2, 3), NOW_MS)
    async with membership.desired(warehouse, aim, people(2, 3, 4, 5)):
        assert await membership.counts(warehouse, aim) == Counts(desired=4, members=3, adds=2, removes=1)
        assert split(*await pages(warehouse, aim, "ADD")) == sorted([person(4), person(5)])
        assert split(*await pages(warehouse, aim, "REMOVE")) == [person(1)]


async def test_equal_sets_have_no_difference(warehouse: Warehouse) -> None:
    aim = target()
    await membership.record(warehouse, aim, chunk("ADD", 1, 2), NOW_MS)
    async with membership.desired(warehouse, aim, people(1, 2)):
        assert await membership.counts(warehouse, aim) == Counts(desired=2, members=2, adds=0, removes=0)
        assert await pages(warehouse, aim, "ADD") == [] == await pages(warehouse, aim, "REMOVE")


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (5, [5]), (6, [6]), (7, [6, 1]), (13, [6, 6, 1])])
async def test_pages_hold_whole_chunks(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, count: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(membership, "CHUNKS_A_PAGE", 3)
    aim = target()
    async with membership.desired(warehouse, aim, people(*range(count)) if count else NOBODY):
        found = await pages(warehouse, aim, "ADD", size=2)
    assert [len(page) // 32 for page in found] == sizes
    assert split(*found) == sorted(map(person, range(count)))


@pytest.mark.parametrize("removes", range(0, 9))
@pytest.mark.parametrize("adds", [0, 1, 6, 7])
async def test_removals_come_first_and_each_operation_in_whole_chunks(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, removes: int, adds: int
) -> None:
    """Wherever a page ends: in the removals, between the two, in the additions."""
    monkeypatch.setattr(membership, "CHUNKS_A_PAGE", 2)
    aim = target()
    gone, new, stays = range(100, 100 + removes), range(200, 200 + adds), (1, 2)
    await membership.record(warehouse, aim, chunk("ADD", *gone, *stays), NOW_MS)
    async with membership.desired(warehouse, aim, people(*new, *stays)):
        found = [page async for page in membership.difference(warehouse, aim, 3)]
    operations = [operation for operation, _ in found]
    assert operations == sorted(operations, reverse=True)
    for operation, wanted in (("REMOVE", gone), ("ADD", new)):
        pages = [page for each, page in found if each == operation]
        assert split(*pages) == sorted(map(person, wanted))
        assert all(len(page) % (3 * 32) == 0 for page in pages[:-1])


async def test_other_audiences_sites_and_runs_do_not_mix(warehouse: Warehouse) -> None:
    aim = target(run_id=5)
    other_audience = Target(site_id=aim.site_id, audience_id=aim.audience_id + 100_000, run_id=5)
    other_site = Target(site_id=next_site(), audience_id=aim.audience_id, run_id=5)
    for other in (other_audience, other_site):
        await membership.record(warehouse, other, chunk("ADD", 1), NOW_MS)
    async with (
        membership.desired(warehouse, other_audience, people(7)),
        membership.desired(warehouse, aim, people(8)),
    ):
        assert await membership.counts(warehouse, aim) == Counts(desired=1, members=0, adds=1, removes=0)


async def test_two_runs_of_an_audience_do_not_mix(warehouse: Warehouse) -> None:
    newer = target(run_id=5)
    older = Target(site_id=newer.site_id, audience_id=newer.audience_id, run_id=4)
    async with membership.desired(warehouse, newer, people(7)), membership.desired(warehouse, older, people(8)):
        assert split(*await pages(warehouse, older, "ADD")) == [person(8)]
        assert split(*await pages(warehouse, newer, "ADD")) == [person(7)]


async def test_full_sets_are_counted_in_the_snapshot(warehouse: Warehouse) -> None:
    """Of the wanted alone, and each once where the snapshot was written twice."""
    items = [tuple((f"p{order * 100 + each}", "", "") for each in range(100)) for order in range(5)]
    seen = [Seen(1, "checkout", 90 + n, em="full", order_id=f"f{n}", items=each) for n, each in enumerate(items)]
    seen += [Seen(2, "checkout", 90 + n, em="other", order_id=f"o{n}", items=each) for n, each in enumerate(items[1:])]
    site_id = await world(warehouse, *seen)
    for product, known in (("p0", (1, 1)), ("p499", (2, 1)), ("p500", (0, 0))):
        aim = Target(site_id=site_id, audience_id=site_id, run_id=1)
        wanted = compile.members(Rule(all=(Bought(products=(product,)),)), site_id=site_id, now_ms=NOW_MS)
        async with membership.desired(warehouse, aim, wanted), membership.desired(warehouse, aim, wanted):
            desired = (await membership.counts(warehouse, aim)).desired
            assert (desired, await membership.count_full(warehouse, aim)) == known


async def test_a_snapshot_written_twice_changes_nothing(warehouse: Warehouse) -> None:
    """An INSERT whose answer was lost may have been applied."""
    aim = target()
    async with membership.desired(warehouse, aim, people(1, 2)), membership.desired(warehouse, aim, people(1, 2)):
        assert await membership.counts(warehouse, aim) == Counts(desired=2, members=0, adds=2, removes=0)
        assert len(split(*await pages(warehouse, aim, "ADD"))) == 2


async def test_the_snapshot_goes_with_its_run_and_so_do_those_of_killed_runs(warehouse: Warehouse) -> None:
    killed, later = target(run_id=1), None
    later = Target(site_id=killed.site_id, audience_id=killed.audience_id, run_id=2)
    columns = "(site_id, audience_id, run_id, em)"
    await warehouse.command(
        f"INSERT INTO audience_desired {columns} VALUES ({killed.site_id}, {killed.audience_id}, 1, 'x')"
    )
    count = "SELECT uniqExact(run_id) AS n FROM audience_desired WHERE site_id = {site:UInt32}"
    async with membership.desired(warehouse, later, people(1)):
        assert (await membership.counts(warehouse, later)).desired == 1
        assert await warehouse.select(count, {"site": killed.site_id}) == [{"n": 1}]
    assert await warehouse.select(count, {"site": killed.site_id}) == [{"n": 0}]


async def test_a_failed_block_throws_its_snapshot_away_too(warehouse: Warehouse) -> None:
    aim = target()
    with pytest.raises(ZeroDivisionError):
        async with membership.desired(warehouse, aim, people(1)):
            _ = 1 // 0
    assert (await membership.counts(warehouse, aim)).desired == 0


async def test_a_query_that_fails_says_so(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(QueryFailed):
        async with membership.desired(warehouse, target(), Query(sql="SELECT nonsense AS em", params={})):
            pass


# --- what was acknowledged


async def test_a_chunk_recorded_again_changes_nothing(warehouse: Warehouse) -> None:
    aim = target()
    once = chunk("ADD", 1, 2)
    for _ in range(3):
        await membership.record(warehouse, aim, once, NOW_MS)
    rows = await warehouse.select(
        "SELECT count() AS n, any(op_at) AS at, any(chunk_id) AS chunk FROM audience_member "
        "WHERE site_id = {site:UInt32}",
        {"site": aim.site_id},
    )
    assert rows[0]["n"] == 2 and rows[0]["chunk"] == once.key
    assert rows[0]["at"].timestamp() * 1000 == NOW_MS


async def test_the_latest_operation_counts_in_any_order_of_writing(warehouse: Warehouse) -> None:
    aim = target()
    await membership.record(warehouse, aim, chunk("ADD", 1, 2), NOW_MS)
    await membership.record(warehouse, aim, chunk("ADD", 1), NOW_MS + 2)
    await membership.record(warehouse, aim, chunk("REMOVE", 1, 2), NOW_MS + 1)
    assert await members(warehouse, aim) == [person(1)]
    await warehouse.command("OPTIMIZE TABLE audience_member FINAL")
    assert await members(warehouse, aim) == [person(1)]


async def test_the_same_chunk_of_another_state_database_is_another_one(warehouse: Warehouse) -> None:
    """A new state database counts its runs from 1 again; ClickHouse must not take its chunks for the old ones."""
    aim = target()
    once = chunk("ADD", 1)
    await membership.record(warehouse, aim, once, NOW_MS)
    await membership.record(warehouse, aim, chunk("REMOVE", 1), NOW_MS + 1)
    await membership.record(warehouse, aim, once, NOW_MS + 2)
    assert await members(warehouse, aim) == [person(1)]


async def test_members_of_a_list_that_is_lost_are_forgotten(warehouse: Warehouse) -> None:
    aim = target()
    await membership.record(warehouse, aim, chunk("ADD", 1, 2), NOW_MS + 1_000_000)
    await membership.forget(warehouse, aim, now_ms=NOW_MS)
    assert await members(warehouse, aim) == []
    await membership.record(warehouse, aim, chunk("ADD", 1), NOW_MS + 1_000_002)
    assert await members(warehouse, aim) == [person(1)]


# --- who must go


async def test_removals_can_be_narrowed_to_those_who_withdrew(warehouse: Warehouse) -> None:
    seen = [Seen(number, "add_to_cart", 100, em=f"p{number}") for number in range(4)]
    site_id = await world(warehouse, *seen)
    aim = Target(site_id=site_id, audience_id=site_id, run_id=1)
    everybody = compile.members(CART, site_id=site_id, now_ms=NOW_MS)
    async with membership.desired(warehouse, aim, everybody):
        [page] = await pages(warehouse, aim, "ADD")
    added = msgspec.structs.replace(chunk("ADD"), members=page)
    await membership.record(warehouse, aim, added, NOW_MS)
    await load(warehouse, site_id, [Seen(1, CONSENT_WITHDRAWN, 50), Seen(2, "checkout", 50)])
    withdrawn = compile.withdrawn(site_id=site_id, now_ms=NOW_MS)
    async with membership.desired(warehouse, aim, everybody):
        counts = await membership.counts(warehouse, aim)
        assert (counts.members, counts.removes) == (3, 2)
        assert await membership.count_removes(warehouse, aim, only=withdrawn) == 1
        [page] = await pages(warehouse, aim, "REMOVE", only=withdrawn)
    assert page.hex() == hashed("p1")


# --- numbers for people


async def test_a_run_is_copied_once_with_a_fingerprint_of_the_members(warehouse: Warehouse) -> None:
    aim = target(run_id=9)
    await membership.record(warehouse, aim, chunk("ADD", 1, 2), NOW_MS)
    run = Run(
        id=9,
        connection_id=4,
        status="done",
        started_ms=NOW_MS,
        finished_ms=NOW_MS + 5,
        desired=2,
        members=0,
        adds=2,
        removes=0,
        held=0,
        detail="",
    )
    for _ in range(2):
        await membership.publish(warehouse, aim, "VIPs", run, entered=3, left=1)
    [row] = await warehouse.select("SELECT * FROM audience_run WHERE site_id = {site:UInt32}", {"site": aim.site_id})
    assert (row["run_id"], row["connection_id"], row["status"], row["adds"]) == (9, 4, "done", 2)
    assert (row["fingerprint_members"], row["audience"], row["error"]) == (2, "VIPs", "")
    [expected] = await warehouse.select(
        "SELECT groupBitXor(sipHash64(toFixedString(SHA256(toString(arrayJoin([1, 2]))), 32))) AS f"
    )
    assert row["fingerprint"] == expected["f"]
