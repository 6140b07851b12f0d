from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from pinstream import metrics
from pinstream.audiences import membership, rule
from pinstream.audiences.compile import MAX_VISITORS_PER_ID
from pinstream.audiences.membership import Past, Target
from pinstream.audiences.templates import cart_abandoned
from pinstream.errors import PinterestAway, PinterestRefused, RateLimited, Refused, StateError, WarehouseAway
from pinstream.pinterest import lists
from pinstream.pinterest.client import Client
from pinstream.push import sync
from pinstream.push.ledger import Ledger
from pinstream.push.sync import LEASE_S
from pinstream.settings import Push
from pinstream.state import runs
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import Seen, hashed
from tests.push.conftest import Shop, connected, people

CHANGE, CREATE = "customer_lists/update", "customer_lists/create"
CREATE_AUDIENCE = "audiences/create"


def sent(operation: str) -> float:
    return float(metrics.MEMBERS_SENT.labels(operation)._value.get())


# --- what goes out


async def test_the_first_sync_makes_the_list_and_its_audience(shop: Shop) -> None:
    await shop.carted(*range(7))
    before = sent("ADD")
    run = await shop.sync()
    assert (run.status, run.desired, run.members, run.adds, run.removes, run.held) == ("done", 7, 0, 7, 0, 0)
    assert shop.members() == people(*range(7))
    [audience] = shop.fake.audiences()
    assert audience["rule"] == {"customer_list_id": shop.link.customer_list_id}
    assert (audience["audience_type"], audience["name"]) == ("CUSTOMER_LIST", shop.link.list_name)
    assert (shop.link.state, shop.link.pinterest_audience_id) == ("active", audience["id"])
    assert [call["records"] for call in shop.fake.calls(CREATE)] == [3]
    assert [call["records"] for call in shop.fake.calls(CHANGE)] == [3, 1]
    assert sent("ADD") - before == 7


async def test_later_syncs_send_only_what_changed_and_removals_first(shop: Shop) -> None:
    await shop.carted(*range(6))
    await shop.sync()
    calls = len(shop.fake.calls())
    await shop.ordered(0)
    await shop.carted(6, 7)
    run = await shop.sync()
    assert (run.adds, run.removes) == (2, 1)
    assert [(call["operation"], call["records"]) for call in shop.fake.calls()[calls:]] == [(CHANGE, 1), (CHANGE, 2)]
    assert [chunk.operation for chunk in runs.chunks(shop.parts.store, run.id)] == ["REMOVE", "ADD"]
    assert shop.members() == people(*range(1, 8))


async def test_a_sync_without_changes_calls_nobody(shop: Shop) -> None:
    await shop.carted(1)
    await shop.sync()
    calls = len(shop.fake.calls())
    run = await shop.sync()
    assert (run.status, run.adds, run.removes) == ("done", 0, 0)
    assert len(shop.fake.calls()) == calls


async def test_nobody_wanted_and_no_list_yet_does_nothing(shop: Shop) -> None:
    run = await shop.sync()
    assert run.status == "done"
    assert shop.fake.calls() == [] and shop.link.state == "new"


async def test_the_last_member_can_go_and_the_list_stays(shop: Shop) -> None:
    await shop.carted(1)
    await shop.sync()
    await shop.ordered(1)
    await shop.sync()
    assert shop.members() == set()
    await shop.carted(2)
    await shop.sync()
    assert shop.members() == people(2) and len(shop.fake.lists()) == 1


async def test_a_withdrawn_person_is_removed_at_the_next_run(shop: Shop) -> None:
    await shop.carted(1, 2)
    await shop.sync()
    await shop.withdrew(2)
    await shop.sync()
    assert shop.members() == people(1)


@pytest.mark.parametrize("kind", ["em", "ph", "x"])
async def test_whoever_asked_to_be_erased_is_removed_at_the_next_run(shop: Shop, kind: str) -> None:
    """Whatever else is held back, by whichever hash the state knows them."""
    await shop.carted(1, 2, 3, 4)
    await shop.seen(*[Seen(1000 + n, "page_visit", 60, em=f"p{n}", ph=f"ph{n}", x=f"x{n}") for n in (1, 2, 3, 4)])
    await shop.sync()
    gone = hashed({"em": "p1", "ph": "ph1", "x": "x1"}[kind])
    shop.parts.store.suppress([gone], now_ms=1)
    await shop.ordered(2, 3, 4)
    run = await shop.sync(config=strict())
    assert (run.status, run.held) == ("held", 3)
    assert shop.members() == people(2, 3, 4)
    await shop.carted(5)
    shop.parts.store.set_connection(shop.link_id, removals_confirmed=True)
    await shop.sync()
    assert shop.members() == people(5)


async def test_everything_sent_is_a_hash(shop: Shop) -> None:
    await shop.carted(*range(5))
    await shop.sync()
    assert all(call["plain"] == 0 for call in shop.fake.calls())


async def test_two_sites_do_not_mix(shop: Shop) -> None:
    other = connected(shop.parts, shop.fake, shop.clock)
    await shop.carted(1, 2)
    await other.carted(2, 3)
    await shop.sync()
    await other.sync()
    assert (shop.members(), other.members()) == (people(1, 2), people(2, 3))


async def test_a_run_is_copied_for_analysts(shop: Shop) -> None:
    await shop.carted(1, 2)
    run = await shop.sync()
    [row] = await shop.parts.warehouse.select(
        "SELECT run_id, adds, fingerprint_members FROM audience_run WHERE site_id = {site:UInt32}",
        {"site": shop.site_id},
    )
    assert row == {"run_id": run.id, "adds": 2, "fingerprint_members": 2}


async def test_a_connection_or_a_rule_that_is_not_there_is_refused(shop: Shop) -> None:
    with pytest.raises(Refused, match="no connection 99"):
        await sync.sync(shop.parts, 99)
    shop.parts.store.set_audience(shop.link.audience_id, rule='{"all": []}')
    with pytest.raises(Refused, match="rule is not valid"):
        await shop.sync()
    assert shop.link.state == "error" and "rule is not valid" in shop.link.detail


# --- too many removals


def strict(**changes: Any) -> Push:
    return Push(**{"chunk_members": 3, "max_remove_ratio": 0.5, "max_remove_min_members": 4, **changes})


async def test_many_removals_wait_for_a_yes(shop: Shop) -> None:
    await shop.carted(1, 2, 3, 4)
    await shop.sync()
    await shop.ordered(1, 2, 3)
    await shop.carted(5)
    run = await shop.sync(config=strict())
    assert (run.status, run.held, run.removes) == ("held", 3, 3)
    assert shop.link.state == "held"
    assert "3 of 4 members (75%) are to leave, push.max_remove_ratio allows 50% at once" in shop.link.detail
    assert f"`pinstream audiences sync {shop.link.audience_id} --confirm-removals`" in shop.link.detail
    assert shop.members() == people(1, 2, 3, 4)
    shop.parts.store.set_connection(shop.link_id, removals_confirmed=True)
    assert (await shop.sync(config=strict())).status == "done"
    assert shop.members() == people(4, 5)
    assert (shop.link.state, shop.link.removals_confirmed) == ("active", False)


async def test_whoever_withdrew_goes_even_while_others_wait(shop: Shop) -> None:
    await shop.carted(1, 2, 3, 4, 5)
    await shop.sync()
    await shop.ordered(1, 2, 3)
    await shop.withdrew(4)
    run = await shop.sync(config=strict())
    assert (run.status, run.held) == ("held", 3)
    assert shop.members() == people(1, 2, 3, 5)


async def test_withdrawals_alone_never_wait(shop: Shop) -> None:
    await shop.carted(1, 2, 3, 4)
    await shop.sync()
    await shop.withdrew(1, 2, 3, 4)
    run = await shop.sync(config=strict())
    assert (run.status, run.held, run.removes) == ("done", 0, 4)
    assert shop.members() == set()


async def test_whoever_withdrew_goes_however_many_devices_the_address_has(shop: Shop) -> None:
    await shop.carted(0, 1, 2, 3, 4)
    await shop.sync()
    await shop.seen(*[Seen(50_000 + number, "page_visit", 3000, em="p0") for number in range(MAX_VISITORS_PER_ID)])
    await shop.withdrew(0)
    await shop.ordered(1, 2, 3)
    run = await shop.sync(config=strict())
    assert (run.status, run.held) == ("held", 3)
    assert shop.members() == people(1, 2, 3, 4)


async def test_people_of_whom_nothing_is_known_any_more_did_not_withdraw(shop: Shop) -> None:
    """A device that becomes shared belongs to nobody: as many removals as after a fault of the shop's, so they wait."""
    await shop.seen(*[Seen(2000 + number // 4, "add_to_cart", 3600, em=f"p{number}") for number in range(8)])
    await shop.sync()
    extra = [Seen(2000 + device, "page_visit", 60, em=f"e{device}-{n}") for device in range(2) for n in range(2)]
    await shop.seen(*extra)
    run = await shop.sync(config=strict())
    assert (run.status, run.held) == ("held", 8)
    assert shop.members() == people(*range(8))


async def history(shop: Shop) -> list[Past]:
    target = Target(site_id=shop.site_id, audience_id=shop.link.audience_id, run_id=0)
    return await membership.history(shop.parts.warehouse, target, limit=10)


async def test_the_history_says_who_really_entered_and_left(shop: Shop) -> None:
    await shop.carted(1, 2, 3, 4)
    await shop.sync()
    await shop.ordered(1, 2)
    await shop.carted(5)
    await shop.withdrew(3)
    await shop.sync(config=strict(max_remove_ratio=0.25))
    shop.parts.store.set_connection(shop.link_id, removals_confirmed=True)
    await shop.sync(config=strict(max_remove_ratio=0.25))
    past = await history(shop)
    assert [(each.status, each.size, each.entered, each.left, each.held) for each in past] == [
        ("done", 2, 1, 2, 0),
        ("held", 3, 0, 1, 2),
        ("done", 4, 4, 0, 0),
    ]
    assert "--confirm-removals" in past[1].note


async def test_what_a_sync_that_broke_off_did_is_in_the_history_of_the_next(shop: Shop) -> None:
    await shop.carted(*range(7))
    shop.fake.fault("rate_limited", CHANGE, retry_after_s=3600)
    with pytest.raises(RateLimited):
        await shop.sync()
    async with Client(shop.fake.settings()) as later:
        run = await shop.sync(client=later)
    [past] = await history(shop)
    assert (past.run_id, past.size, past.entered, past.left) == (run.id, 7, 7, 0)


async def test_a_set_at_its_cap_is_flagged(shop: Shop) -> None:
    asked = rule.Rule(all=(rule.Bought(products=("p0",)),))
    shop.parts.store.set_audience(shop.link.audience_id, rule=rule.to_json(asked))
    for visitor, kind in ((1, "p"), (2, "q")):  # the second one has a full set too, and is not in
        for place in range(5):
            items = tuple((f"{kind}{place * 100 + number}", "", "") for number in range(100))
            order = Seen(visitor, "checkout", 60, em=f"p{visitor}", items=items, event_id=f"order {kind}{place}")
            await shop.seen(order)
    run = await shop.sync()
    assert (run.status, run.desired) == ("done", 1)
    assert shop.link.detail == (
        "1 who is in has bought more different things than are kept: about them the answer may be wrong."
    )


async def test_a_small_list_is_not_held_back(shop: Shop) -> None:
    await shop.carted(1, 2, 3)
    await shop.sync()
    await shop.ordered(1, 2, 3)
    assert (await shop.sync(config=strict())).status == "done"
    assert shop.members() == set()


async def test_who_withdrew_goes_although_the_rule_cannot_be_asked(shop: Shop) -> None:
    await shop.carted(1, 2, 3)
    await shop.sync()
    await shop.withdrew(2)
    shop.parts.store.set_audience(shop.link.audience_id, rule='{"all": [{"type": "of a newer program"}]}')
    with pytest.raises(Refused):
        await shop.sync()
    assert shop.members() == people(1, 3)
    assert shop.link.state == "error"


async def test_a_disabled_audience_tells_only_of_what_it_does(shop: Shop) -> None:
    await shop.carted(1, 2, 3, 4)
    await shop.sync()
    shop.parts.store.set_audience(shop.link.audience_id, enabled=False)
    await shop.ordered(2, 3, 4)
    await shop.carted(5)
    await shop.withdrew(1)
    run = await shop.sync(config=strict())
    assert (run.status, run.desired, run.members, run.adds, run.removes, run.held) == ("done", 3, 4, 0, 1, 0)
    assert "disabled" in run.detail
    assert shop.members() == people(2, 3, 4)


async def test_a_disabled_audience_still_lets_people_withdraw(shop: Shop) -> None:
    await shop.carted(1, 2)
    await shop.sync()
    shop.parts.store.set_audience(shop.link.audience_id, enabled=False)
    await shop.carted(3)
    await shop.withdrew(1)
    await shop.ordered(2)
    await shop.sync()
    assert shop.members() == people(2)


# --- Pinterest misbehaves


async def test_rate_limits_are_waited_for(shop: Shop) -> None:
    await shop.carted(*range(7))
    shop.fake.fault("rate_limited", CREATE, retry_after_s=0.05)
    shop.fake.fault("rate_limited", CHANGE, count=2, retry_after_s=0.05)
    assert (await shop.sync()).status == "done"
    assert shop.members() == people(*range(7)) and len(shop.fake.lists()) == 1


async def test_a_long_pause_is_given_back_and_gone_on_from(shop: Shop) -> None:
    await shop.carted(*range(7))
    shop.fake.fault("rate_limited", CHANGE, retry_after_s=3600)
    with pytest.raises(RateLimited) as caught:
        await shop.sync()
    assert caught.value.retry_after_s > 3000
    assert (shop.last_run().status, shop.link.state) == ("failed", "error")
    async with Client(shop.fake.settings()) as later:
        await shop.sync(client=later)
    assert shop.members() == people(*range(7)) and shop.link.state == "active"


@pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
@pytest.mark.parametrize("operation", [CREATE, CHANGE, CREATE_AUDIENCE])
async def test_a_connection_cut_around_a_call_makes_nothing_twice(shop: Shop, kind: str, operation: str) -> None:
    await shop.carted(*range(7))
    shop.fake.fault(kind, operation)
    for _ in range(3):
        try:
            await shop.sync()
            break
        except PinterestAway:
            continue
    assert shop.members() == people(*range(7))
    assert (len(shop.fake.lists()), len(shop.fake.audiences())) == (1, 1)


async def test_what_pinterest_refuses_is_said_and_planned_anew(shop: Shop) -> None:
    await shop.carted(1)
    await shop.sync()
    shop.parts.store.set_connection(shop.link_id, customer_list_id="404404")
    await shop.carted(2)
    with pytest.raises(PinterestRefused):
        await shop.sync()
    [chunk] = runs.chunks(shop.parts.store, shop.last_run().id)
    assert (chunk.status, chunk.members) == ("refused", b"") and "404" in chunk.detail
    shop.parts.store.set_connection(shop.link_id, customer_list_id=shop.fake.lists()[0]["id"])
    await shop.sync()
    assert shop.members() == people(1, 2)


async def test_an_audience_that_pinterest_will_not_make_is_said_and_tried_again(shop: Shop) -> None:
    await shop.carted(1)
    await shop.sync()
    good = shop.link.customer_list_id
    shop.parts.store.set_connection(shop.link_id, customer_list_id="404404", pinterest_audience_id="")
    run = await shop.sync()
    assert run.status == "done" and "made no audience of the list yet" in shop.link.detail
    shop.parts.store.set_connection(shop.link_id, customer_list_id=good)
    await shop.sync()
    assert shop.link.pinterest_audience_id and shop.link.detail == ""


async def test_a_refused_token_leaves_the_chunk_open(shop: Shop) -> None:
    """It may have arrived when it was sent before: only a call that is let in can settle it."""
    await shop.carted(1)
    async with Client(shop.fake.settings(access_token="pina_revoked")) as revoked:
        with pytest.raises(PinterestRefused):
            await shop.sync(client=revoked)
        assert runs.next_open(shop.parts.store, shop.link_id) is not None
        shop.parts.store.set_connection(shop.link_id, state="active", detail="")
        with pytest.raises(PinterestRefused):
            await shop.sync(client=revoked)
        assert shop.link.state == "error" and "401" in shop.link.detail
    await shop.sync()
    assert shop.members() == people(1)


async def test_a_list_that_is_lost_is_made_anew_with_everybody(shop: Shop) -> None:
    """As after a state database that was lost, or a connection that was reset."""
    await shop.carted(1, 2)
    await shop.sync()
    shop.parts.store.set_connection(
        shop.link_id, customer_list_id="", pinterest_audience_id="", list_name="another name"
    )
    await shop.sync()
    assert shop.members() == people(1, 2)
    assert len(shop.fake.lists()) == 2
    assert [(each.size, each.entered, each.left) for each in await history(shop)] == [(2, 2, 2), (2, 2, 0)]


async def test_what_a_killed_process_left_is_not_pushed_after_the_state_was_restored(shop: Shop) -> None:
    """The ids of its runs come again, and nobody of whom the rule is not true comes with them."""
    await shop.carted(1)
    run = await shop.sync()
    await shop.parts.warehouse.command(
        "INSERT INTO audience_desired (site_id, audience_id, run_id, em) "
        "SELECT {site:UInt32}, {audience:UInt32}, {run:UInt64}, unhex({em:String})",
        {"site": shop.site_id, "audience": shop.link.audience_id, "run": run.id + 1, "em": hashed("p99")},
    )
    await shop.sync()
    assert shop.members() == people(1)


async def test_a_list_that_was_deleted_at_pinterest_is_made_anew(shop: Shop) -> None:
    await shop.carted(1, 2)
    await shop.sync()
    shop.fake.reset()
    await shop.carted(3)
    with pytest.raises(PinterestRefused):
        await shop.sync()
    assert (shop.link.customer_list_id, shop.link.pinterest_audience_id) == ("", "")
    await shop.sync()
    assert shop.members() == people(1, 2, 3)
    assert shop.link.state == "active"
    [audience] = [one for one in shop.fake.audiences() if one["id"] == shop.link.pinterest_audience_id]
    assert audience["rule"] == {"customer_list_id": shop.link.customer_list_id}


# --- killed at any moment


class Killed(BaseException):
    """What kill -9 looks like from inside: nothing after it happens."""


class Fuse:
    """Lets a number of steps end, then kills."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.blown = False

    async def guard(self, step: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        if self.blown:
            raise Killed
        result = await step(*args, **kwargs)
        self.left -= 1
        if self.left <= 0:
            self.blown = True
            raise Killed
        return result


def fused(fuse: Fuse, kind: type) -> type:
    """`kind`, each of whose public coroutines is a step of the fuse."""

    def step(name: str) -> Any:
        async def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
            return await fuse.guard(getattr(kind, name), self, *args, **kwargs)

        return guarded

    names = [name for name, value in vars(kind).items() if asyncio.iscoroutinefunction(value) and name[0] != "_"]
    return type(f"Fused{kind.__name__}", (kind,), {name: step(name) for name in names})


async def killed_after(shop: Shop, steps: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A sync that is killed when its step number `steps` has been done. False if it ended before that."""
    fuse = Fuse(steps)
    client, warehouse = shop.parts.client, shop.parts.warehouse
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(sync, "Ledger", fused(fuse, Ledger))
        patch.setattr(client, "__class__", fused(fuse, Client))
        patch.setattr(warehouse, "__class__", fused(fuse, Warehouse))
        await shop.sync()
    shop.clock.now_ms += round(LEASE_S * 1000) + 1
    return fuse.blown


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_killed_after_any_step_the_next_sync_ends_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sync, which creates, and the second, which removes and adds: each killed after every step it has."""
    steps = 1
    alive = {"first", "second"}
    while alive:
        one = connected(shop.parts, shop.fake, shop.clock)
        await one.carted(*range(5))
        if "first" in alive and not await killed_after(one, steps, monkeypatch):
            alive.discard("first")
        await one.sync()
        assert one.members() == people(*range(5)), f"killed after step {steps}"
        await one.ordered(0)
        await one.withdrew(1)
        await one.carted(5, 6)
        if "second" in alive and not await killed_after(one, steps, monkeypatch):
            alive.discard("second")
        await one.sync()
        assert one.members() == people(2, 3, 4, 5, 6), f"killed after step {steps}"
        mine = [item["id"] for item in one.fake.audiences() if item["name"] == one.link.list_name]
        assert mine == [one.link.pinterest_audience_id]
        steps += 1
    assert steps > 30


# --- one process at a time


async def test_a_taken_connection_is_left_alone(shop: Shop) -> None:
    ledger = Ledger(shop.parts.store, shop.link_id, shop.clock)
    assert await ledger.claim("somebody else", LEASE_S)
    assert await sync.sync(shop.parts, shop.link_id) is None
    await ledger.release("somebody else")
    assert await sync.sync(shop.parts, shop.link_id) is not None


async def test_two_processes_at_once_send_everything_once(shop: Shop) -> None:
    await shop.carted(*range(9))
    outcomes = await asyncio.gather(*[sync.sync(shop.parts, shop.link_id) for _ in range(4)])
    assert len([run for run in outcomes if run]) == 1
    assert shop.members() == people(*range(9))
    assert len(shop.fake.calls(CREATE)) == 1 and len(shop.fake.calls(CHANGE)) == 2


async def test_a_lost_lease_stops_the_sync(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "LEASE_S", 0.3)
    await shop.carted(1)
    shop.fake.fault("slow", CREATE, ms=3000)
    task = asyncio.create_task(sync.sync(shop.parts, shop.link_id))
    while not shop.fake.calls(CREATE):
        await asyncio.sleep(0.01)
    shop.parts.store.set_connection(shop.link_id, lease_owner="thief", lease_until_ms=shop.clock.now_ms + 400)
    with pytest.raises(StateError, match="took connection"):
        await task


class Frozen:
    """Lets a step wait once, as a process that is stopped (SIGSTOP, a suspended machine), before or after doing it."""

    def __init__(self, step: Callable[..., Awaitable[Any]], *, done_first: bool = False) -> None:
        self.step, self.done_first = step, done_first
        self.reached, self.thawed = asyncio.Event(), asyncio.Event()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.reached.is_set():
            return await self.step(*args, **kwargs)
        if self.done_first:
            result = await self.step(*args, **kwargs)
        self.reached.set()
        await self.thawed.wait()
        return result if self.done_first else await self.step(*args, **kwargs)


async def frozen_sync(shop: Shop, frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> asyncio.Task[Any]:
    """A sync that stands still in a step, without a lease any more."""
    monkeypatch.setattr(sync, "LEASE_S", 300.0)  # it renews nothing while it stands still
    task = asyncio.create_task(sync.sync(shop.parts, shop.link_id))
    await frozen.reached.wait()
    monkeypatch.setattr(sync, "LEASE_S", LEASE_S)
    shop.clock.now_ms += 300_001
    return task


async def test_who_lost_the_lease_before_the_call_does_not_call(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.carted(0, 1)
    await shop.sync()
    await shop.carted(2)
    frozen = Frozen(Ledger.start_sending, done_first=True)

    async def start_sending(self: Ledger, chunk: Any) -> None:
        await frozen(self, chunk)

    monkeypatch.setattr(Ledger, "start_sending", start_sending)
    task = await frozen_sync(shop, frozen, monkeypatch)
    await shop.withdrew(2)
    await shop.sync()
    calls = len(shop.fake.calls())
    frozen.thawed.set()
    with pytest.raises(StateError, match="took connection"):
        await task
    assert len(shop.fake.calls()) == calls
    assert shop.members() == people(0, 1)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_is_sent_after_the_lease_was_lost_is_undone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    """Stopped between the proof and the call: a withdrawn person does not stay in, and a wanted one not out."""
    await shop.carted(0, 1)
    await shop.sync()
    await shop.carted(2, 3)
    frozen = Frozen(lists.change)
    monkeypatch.setattr(lists, "change", frozen)
    task = await frozen_sync(shop, frozen, monkeypatch)
    await shop.withdrew(2)
    await shop.sync()
    assert shop.members() == people(0, 1, 3)
    if cancelled:
        monkeypatch.setattr(frozen, "step", and_then_waits(frozen.step))
    frozen.thawed.set()
    while shop.members() != people(0, 1, 2, 3):
        await asyncio.sleep(0.01)
    if cancelled:
        task.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else StateError):
        await task
    monkeypatch.undo()
    await shop.sync()
    assert shop.members() == people(0, 1, 3)
    assert await recorded(shop) == people(0, 1, 3)


def and_then_waits(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def without_an_answer(*args: Any, **kwargs: Any) -> None:
        await step(*args, **kwargs)
        await asyncio.Event().wait()

    return without_an_answer


async def recorded(shop: Shop) -> set[str]:
    """Who is written down as in."""
    sql = "SELECT lower(hex(em)) AS em FROM audience_member FINAL WHERE site_id = {site:UInt32} AND state = 1"
    return {row["em"] for row in await shop.parts.warehouse.select(sql, {"site": shop.site_id})}


async def test_a_late_removal_is_undone_too(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.carted(0, 1)
    await shop.sync()
    store, audience_id = shop.parts.store, shop.link.audience_id
    store.set_audience(audience_id, rule=rule.to_json(cart_abandoned(quiet_for_min=120)))  # means nobody
    frozen = Frozen(lists.change)
    monkeypatch.setattr(lists, "change", frozen)
    task = await frozen_sync(shop, frozen, monkeypatch)
    store.set_audience(audience_id, rule=rule.to_json(cart_abandoned(quiet_for_min=0)))
    await shop.sync()
    assert shop.members() == people(0, 1)
    frozen.thawed.set()
    with pytest.raises(StateError):
        await task
    assert shop.members() == set()
    await shop.sync()
    assert shop.members() == people(0, 1)


async def test_a_list_that_is_created_too_late_is_emptied(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.carted(0, 1)
    frozen = Frozen(lists.create)
    monkeypatch.setattr(lists, "create", frozen)
    task = await frozen_sync(shop, frozen, monkeypatch)
    await shop.sync()
    frozen.thawed.set()
    with pytest.raises(StateError):
        await task
    await shop.sync()
    mine = [item["id"] for item in shop.fake.lists() if item["name"] == shop.link.list_name]
    assert {id_: shop.fake.members(id_) for id_ in mine} == {
        id_: people(0, 1) if id_ == shop.link.customer_list_id else set() for id_ in mine
    }
    assert len(mine) == 2


async def test_a_lease_of_a_clock_that_was_set_back_has_lapsed(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(shop.parts.store, shop.link_id, shop.clock)
    assert await ledger.claim("who died", LEASE_S)
    with caplog.at_level(logging.INFO):
        assert await sync.sync(shop.parts, shop.link_id) is None
    assert f"connection {shop.link_id}: another process works on it." in caplog.messages
    shop.clock.now_ms -= 3 * 3_600_000
    assert await sync.sync(shop.parts, shop.link_id) is not None


# --- told to stop


async def test_a_stop_ends_after_the_chunk_under_way(shop: Shop) -> None:
    await shop.carted(*range(9))
    stop = asyncio.Event()

    async def stop_at_the_first_call() -> None:
        while not shop.fake.lists():
            await asyncio.sleep(0.005)
        stop.set()

    shop.fake.fault("slow", CHANGE, ms=300)
    watcher = asyncio.create_task(stop_at_the_first_call())
    run = await shop.sync(stop=stop)
    await watcher
    assert run.status == "interrupted"
    assert len(shop.members()) in (3, 6)
    assert runs.next_open(shop.parts.store, shop.link_id) is None
    await shop.sync()
    assert shop.members() == people(*range(9))


# --- ClickHouse misbehaves


async def test_a_warehouse_that_is_away_breaks_off_and_is_gone_on_from(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.carted(1)
    nowhere = shop.parts.warehouse.settings.model_copy(update={"url": "http://127.0.0.1:1"})
    away = Warehouse.open(nowhere, password="")
    with pytest.raises(WarehouseAway), caplog.at_level(logging.WARNING):
        await sync.sync(replace(shop.parts, warehouse=away), shop.link_id)
    await away.aclose()
    assert shop.last_run().status == "failed"
    await shop.sync()
    assert shop.members() == people(1)


async def test_what_was_acknowledged_is_recorded_once_the_warehouse_is_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.carted(*range(5))

    async def away(*args: Any, **kwargs: Any) -> None:
        raise WarehouseAway("gone for a moment")

    with monkeypatch.context() as patch, pytest.raises(WarehouseAway):
        patch.setattr(membership, "record", away)
        await shop.sync()
    chunk = runs.next_open(shop.parts.store, shop.link_id)
    assert chunk and chunk.status == "acknowledged"
    run = await shop.sync()
    assert (run.members, run.adds) == (3, 2)
    assert shop.members() == people(*range(5))
