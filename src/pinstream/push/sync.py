"""One sync of one connection, and the loop that runs them when they are due.

A sync first ends what a killed process left half done, then compares who should be in with who is recorded as
in, and sends the difference, removals first. Every call to Pinterest is a chunk of the ledger, and the order of
its steps is what makes a kill at any moment harmless:

    planned -> sending -> (call Pinterest) -> acknowledged -> (write audience_member) -> recorded

`sending` is sent again, which changes nothing where it had arrived: a list is a set. `acknowledged` is written
again, which ClickHouse drops where it had arrived: the chunk's key is the deduplication token.

A process that was stopped for longer than its lease may wake in the middle of all this. So the lease is proved
right before each call; and a call that was overtaken all the same is undone by the next sync, by a chunk of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pinstream import metrics
from pinstream.audiences import compile, membership, rule, words
from pinstream.audiences.compile import Money, Query
from pinstream.audiences.membership import Counts, Target
from pinstream.clock import now_ms
from pinstream.errors import (
    PinstreamError,
    PinterestAway,
    PinterestError,
    PinterestRefused,
    RateLimited,
    Refused,
    StateError,
    WarehouseError,
)
from pinstream.pinterest import audiences, lists
from pinstream.pinterest.client import Client
from pinstream.privacy import suppress
from pinstream.push import plan
from pinstream.push.ledger import Ledger
from pinstream.settings import Push, Settings
from pinstream.state.runs import Chunk, Run
from pinstream.state.store import Audience, Link, Store
from pinstream.warehouse.client import Warehouse

logger = logging.getLogger(__name__)

LEASE_S: Final = 15.0
"""A connection whose process died is taken over after this time."""
POLL_S: Final = 2.0
"""How soon a new connection is noticed."""
STOP_S: Final = 10.0
"""When told to stop, a sync gets so long to end its chunk."""
FIRST_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 300.0
GONE: Final = 404
NO_ACCESS: Final = frozenset({401, 403})
"""Statuses that say nothing about the call: it may have arrived when it was sent before."""


@dataclass(frozen=True)
class Parts:
    """What a sync works with."""

    store: Store
    warehouse: Warehouse
    client: Client
    config: Push
    clock_ms: Callable[[], int] = now_ms
    rates: Mapping[str, float] = field(default_factory=dict)
    """Of currencies, as `settings.audiences.rates`."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Once set, no further chunk is begun."""


async def sync(parts: Parts, connection_id: int) -> Run | None:
    """Run one sync now. None while another process works on the connection.

    Raises:
        PinterestError, WarehouseError, StateError: it broke off; the next sync goes on from there.
        Refused: there is no such connection, or its audience's rule is not valid.
    """
    ledger = Ledger(parts.store, connection_id, parts.clock_ms)
    owner = f"{os.getpid()}-{secrets.token_hex(8)}"
    await ledger.connection()
    if not await ledger.claim(owner, LEASE_S):
        logger.info("connection %d: another process works on it.", connection_id)
        return None
    task = asyncio.create_task(_Sync(parts, ledger, owner).run(), name=f"sync {connection_id}")
    try:
        while not (await asyncio.wait([task], timeout=LEASE_S / 3))[0]:
            await _prove(ledger, owner)
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])
        with contextlib.suppress(StateError):  # the lease runs out by itself
            await ledger.release(owner)


async def _prove(ledger: Ledger, owner: str) -> None:
    """Prolong the lease. Raises StateError if it is somebody else's by now."""
    if not await ledger.prolong(owner, LEASE_S):
        raise StateError(f"Another process took connection {ledger.connection_id} over.")


class _Sync:
    """One sync under way."""

    def __init__(self, parts: Parts, ledger: Ledger, owner: str) -> None:
        self._parts = parts
        self._ledger = ledger
        self._owner = owner

    async def run(self) -> Run:
        run_id = 0
        try:
            await self._resume()
            run_id = await self._ledger.begin()
            held, notes = await self._plan(run_id)
            if not await self._send_planned(run_id):
                return await self._ledger.finish(run_id, "interrupted", "Stopped; the next sync goes on from there.")
            notes.append(await self._ensure_audience())
        except PinstreamError as exc:
            await self._failed(run_id, exc)
            raise
        return await self._done(run_id, held, " ".join(filter(None, notes)))

    # --- what to send

    async def _plan(self, run_id: int) -> tuple[int, list[str]]:
        """Compare, and write down the chunks. Returns how many removals wait, and what people should know."""
        link = await self._ledger.connection()
        audience = await self._ledger.audience(link.audience_id)
        target = Target(site_id=audience.site_id, audience_id=audience.id, run_id=run_id)
        await suppress.carry(self._parts.store, self._parts.warehouse, audience.site_id)
        now_ms = self._parts.clock_ms()
        withdrawn = compile.withdrawn(site_id=audience.site_id, now_ms=now_ms)
        if not audience.enabled:
            await self._plan_withdrawn(target, link, withdrawn)
            return 0, [plan.DISABLED]
        async with contextlib.AsyncExitStack() as snapshot:
            try:
                wanted = await self._wanted(audience, now_ms)
                await snapshot.enter_async_context(membership.desired(self._parts.warehouse, target, wanted))
            except (Refused, WarehouseError):  # whatever is wrong with the rule, who withdrew must not wait for it
                await self._plan_withdrawn(target, link, withdrawn)
                await self._send_planned(run_id)
                raise
            counts = await self._counts(target, link)
            full = await membership.count_full(self._parts.warehouse, target)
            held = await self._held(target, counts, withdrawn, link)
            await self._ledger.note(run_id, counts, held)
            await self._plan_chunks(target, withdrawn if held else None)
        notes = [words.Speaker("en")("full", full)] if full else []
        if held:
            notes.insert(0, plan.guard(self._parts.config).sentence(counts.members, held, audience.id))
            logger.warning("connection %d: %s", self._ledger.connection_id, notes[0])
        return held, notes

    async def _wanted(self, audience: Audience, now_ms: int) -> Query:
        """Who should be in. Raises Refused if the rule is not valid."""
        currency = await asyncio.to_thread(self._parts.store.currency, audience.site_id)
        money = Money(currency=currency, rates=self._parts.rates)
        return compile.members(rule.from_json(audience.rule), site_id=audience.site_id, now_ms=now_ms, money=money)

    async def _plan_withdrawn(self, target: Target, link: Link, withdrawn: Query) -> None:
        """Write down the chunks that remove who withdrew, whatever the rule says."""
        async with membership.desired(self._parts.warehouse, target, None):
            counts = await self._counts(target, link)
            asked = await membership.count_removes(self._parts.warehouse, target, only=withdrawn)
            await self._ledger.note(target.run_id, counts.disabled(asked), 0)
            await self._plan_chunks(target, withdrawn)

    async def _counts(self, target: Target, link: Link) -> Counts:
        """How wanted and actual members compare. Without a list nobody is a member, whatever was recorded."""
        counts = await membership.counts(self._parts.warehouse, target)
        if link.customer_list_id or not counts.members:
            return counts
        logger.warning("connection %d: its list is not known here any more, so a new one is made.", link.id)
        await membership.forget(self._parts.warehouse, target, now_ms=self._parts.clock_ms())
        return await membership.counts(self._parts.warehouse, target)

    async def _held(self, target: Target, counts: Counts, withdrawn: Query, link: Link) -> int:
        """How many removals are too many at once; those that people asked for are never among them."""
        guard = plan.guard(self._parts.config)
        if link.removals_confirmed or not guard.holds(members=counts.members, removes=counts.removes):
            return 0
        asked = await membership.count_removes(self._parts.warehouse, target, only=withdrawn)
        return guard.held(members=counts.members, removes=counts.removes, asked=asked)

    async def _plan_chunks(self, target: Target, removes_of: Query | None) -> None:
        """Write down the chunks of the difference, removals first; or only the removals of these people."""
        size, first = self._parts.config.chunk_members, 0
        pages = membership.difference(self._parts.warehouse, target, size, removes_of=removes_of)
        async for operation, page in pages:
            chunks = plan.chunks(target.run_id, operation, first, page, size)
            await self._ledger.plan(target.run_id, chunks)
            first += len(chunks)

    # --- sending

    async def _resume(self) -> None:
        """End every chunk that was under way."""
        while chunk := await self._ledger.next_open():
            logger.info("connection %d: chunk %s was %s, going on.", chunk.connection_id, chunk.key, chunk.status)
            if chunk.status == "sending":
                await self._send(chunk)
            else:
                await self._record(chunk, chunk.acknowledged_ms or 0)

    async def _send_planned(self, run_id: int) -> bool:
        """Send the run's chunks. False if it was stopped before the end."""
        while chunk := await self._ledger.next_planned(run_id):
            if self._parts.stop.is_set():
                return False
            await self._ledger.start_sending(chunk)
            await self._send(chunk)
        return True

    async def _send(self, chunk: Chunk) -> None:
        """sending -> recorded, or refused."""
        try:
            list_id = await self._deliver(chunk)
        except PinterestRefused as exc:
            if exc.status not in NO_ACCESS:
                await self._ledger.refuse(chunk, str(exc))
            raise
        except (PinterestAway, asyncio.CancelledError):  # it may have arrived
            await self._repair(chunk)
            raise
        try:
            acknowledged_ms = await self._ledger.acknowledge(chunk, list_id)
        except StateError:
            await self._repair(chunk, list_id)
            raise
        metrics.MEMBERS_SENT.labels(chunk.operation).inc(chunk.size)
        await self._record(chunk, acknowledged_ms)

    async def _deliver(self, chunk: Chunk) -> str:
        """Make the call; gives the list's id. A list is only created where none of its name is found."""
        link = await self._ledger.connection()
        client, account, members = self._parts.client, link.ad_account_id, chunk.hexes()
        list_id = link.customer_list_id
        if not list_id:
            found = await lists.find_by_name(client, account, link.list_name)
            if found is None and chunk.operation == "ADD":
                await _prove(self._ledger, self._owner)
                return (await lists.create(client, account, name=link.list_name, members=members)).id
            if found is None:
                return ""  # nobody is in a list that does not exist
            list_id = found.id
        await _prove(self._ledger, self._owner)
        try:
            await lists.change(client, account, list_id, chunk.operation, members)
        except PinterestRefused as exc:
            if exc.status == GONE:
                logger.warning("connection %d: Pinterest has no list %s; a new one is made.", link.id, list_id)
                await self._ledger.lose_list(list_id)
            raise
        return list_id

    async def _repair(self, chunk: Chunk, list_id: str = "") -> None:
        """After a call that somebody else may have overtaken: see to it that it is undone."""
        if not await self._ledger.repair(chunk, self._owner):
            return
        logger.warning("connection %d: chunk %s was sent too late; it is undone.", chunk.connection_id, chunk.key)
        link = await self._ledger.connection()
        if list_id not in ("", link.customer_list_id):  # a list of its own, which nobody else knows
            try:
                await lists.change(self._parts.client, link.ad_account_id, list_id, "REMOVE", chunk.hexes())
            except PinterestError as exc:
                logger.warning("connection %d: list %s cannot be emptied, delete it: %s", link.id, list_id, exc)

    async def _record(self, chunk: Chunk, acknowledged_ms: int) -> None:
        """acknowledged -> recorded."""
        target = await self._target(chunk.sync_run_id)
        await membership.record(self._parts.warehouse, target, chunk, acknowledged_ms)
        await self._ledger.record(chunk)

    async def _target(self, run_id: int) -> Target:
        audience = await self._ledger.audience((await self._ledger.connection()).audience_id)
        return Target(site_id=audience.site_id, audience_id=audience.id, run_id=run_id)

    # --- the end

    async def _ensure_audience(self) -> str:
        """Wrap the list in an audience, once. Returns why Pinterest would not, or nothing."""
        link = await self._ledger.connection()
        if not link.customer_list_id or link.pinterest_audience_id:
            return ""
        client, account = self._parts.client, link.ad_account_id
        made = await audiences.find_by_list(client, account, link.customer_list_id)
        await _prove(self._ledger, self._owner)
        try:
            made = made or await audiences.create_customer_list_audience(
                client, account, name=link.list_name, customer_list_id=link.customer_list_id
            )
        except PinterestRefused as exc:
            if exc.status in NO_ACCESS:
                raise
            return f"Pinterest made no audience of the list yet: {exc}"
        await self._ledger.change(pinterest_audience_id=made.id)
        return ""

    async def _done(self, run_id: int, held: int, note: str) -> Run:
        run = await self._ledger.finish(run_id, "held" if held else "done", note)
        link = await self._ledger.connection()
        state = "held" if held else "active" if link.customer_list_id else "new"
        await self._ledger.change(state=state, detail=note, removals_confirmed=False)
        entered, left = await self._ledger.moved(run_id)
        name = (await self._ledger.audience(link.audience_id)).name
        await membership.publish(
            self._parts.warehouse, await self._target(run_id), name, run, entered=entered, left=left
        )
        return run

    async def _failed(self, run_id: int, exc: PinstreamError) -> None:
        """Say so where people look. `run_id` 0: it never came to a run."""
        with contextlib.suppress(StateError):
            await self._ledger.change(state="error", detail=str(exc))
            if run_id:
                await self._ledger.finish(run_id, "failed", str(exc))


# --- the loop ------------------------------------------------------------------------------------


async def loop(settings: Settings, store: Store, warehouse: Warehouse, client: Client, stop: asyncio.Event) -> None:
    """Sync every connection each `push.interval_s`, until `stop`; returns at most STOP_S after it.

    A fault of one connection is logged and tried again, with growing waits; the others go on. At start every
    connection is due, so that what a killed process left half done is ended first.
    """
    rates = settings.audiences.rates
    parts = Parts(store=store, warehouse=warehouse, client=client, config=settings.push, rates=rates, stop=stop)
    agenda = _Agenda(settings.push.interval_s)
    while not stop.is_set():
        for connection_id in await _connections(store):
            if not stop.is_set() and agenda.is_due(connection_id, time.monotonic()):
                outcome = await _attempt(parts, connection_id)
                agenda.plan(connection_id, outcome, time.monotonic())
        await _waited(stop, min(POLL_S, settings.push.interval_s))


class _Agenda:
    """When each connection is due, in seconds of a clock that only goes forward."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due: dict[int, float] = {}
        self._failures: dict[int, int] = {}

    def is_due(self, connection_id: int, now_s: float) -> bool:
        return self._due.get(connection_id, now_s) <= now_s

    def plan(self, connection_id: int, outcome: Run | PinstreamError | None, now_s: float) -> None:
        """After an attempt: the next one, later with every failure in a row."""
        if isinstance(outcome, PinstreamError):
            failures = self._failures[connection_id] = self._failures.get(connection_id, 0) + 1
            backoff_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2 ** min(failures - 1, 16))
            wait_s = backoff_s if outcome.retryable else max(backoff_s, self._interval_s)
            if isinstance(outcome, RateLimited):
                wait_s = max(wait_s, outcome.retry_after_s)
        else:
            self._failures.pop(connection_id, None)
            wait_s = LEASE_S if outcome is None else self._interval_s
        self._due[connection_id] = now_s + wait_s


async def _connections(store: Store) -> list[int]:
    try:
        return [link.id for link in await asyncio.to_thread(store.connections)]
    except StateError as exc:
        logger.warning("push waits: %s", exc)
        return []


async def _attempt(parts: Parts, connection_id: int) -> Run | PinstreamError | None:
    """One sync; its fault is logged and given back. When told to stop, it gets STOP_S to end."""
    task = asyncio.create_task(sync(parts, connection_id))
    try:
        await _first_of(task, parts.stop)
        run = await asyncio.wait_for(task, STOP_S if parts.stop.is_set() else None)
    except TimeoutError:
        return None
    except PinstreamError as exc:
        metrics.SYNCS.labels("failed").inc()
        logger.warning("connection %d: sync broke off: %s", connection_id, exc)
        return exc
    finally:
        task.cancel()
        await asyncio.wait([task])
    if run is not None:
        metrics.SYNCS.labels(run.status).inc()
        if run.adds or run.removes:
            logger.info(
                "connection %d: %s, %d in, +%d -%d", connection_id, run.status, run.desired, run.adds, run.removes
            )
    return run


async def _first_of(task: asyncio.Task[Any], stop: asyncio.Event) -> None:
    """Return when `task` has ended or `stop` is set."""
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()


async def _waited(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
