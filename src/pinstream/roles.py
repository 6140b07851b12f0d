"""Settings -> resources -> one role. Each function runs its role until `stop` is set, then ends in order."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from pinstream import ops, serving
from pinstream.audiences import membership
from pinstream.clock import now_ms
from pinstream.collect import server as collect_server
from pinstream.collect.server import Listeners
from pinstream.console import app as console_app
from pinstream.errors import Misconfigured, PositionLost, Refused, SetupFault, StateError, WarehouseAway, WarehouseError
from pinstream.eventlog import open_log
from pinstream.eventlog.contract import Consumer, Partition
from pinstream.history import importing
from pinstream.history.columns import Reading
from pinstream.history.lists import Listed, ListImport, ListReport, Lists, Operation
from pinstream.load import loop, rebuild
from pinstream.load.loop import Loader
from pinstream.pinterest.client import Client
from pinstream.push import popular, sync
from pinstream.settings import Settings
from pinstream.state.runs import Run
from pinstream.state.snapshot import Snapshot
from pinstream.state.store import PAYLOAD_KEY, Store
from pinstream.supervisor import GRACE_S, Program
from pinstream.warehouse import migrate, queries
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.password import password

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
COLLECT_GRACE_S: Final = 30.0  # it gives its workers 25


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """The state database, its schema up to date, and the first site of the settings in it."""
    store = await asyncio.to_thread(Store.open, settings.state_url)
    try:
        await asyncio.to_thread(store.ensure_first_site, settings.site, now_ms=now_ms())
        yield store
    finally:
        await asyncio.to_thread(store.close)


@asynccontextmanager
async def open_warehouse(settings: Settings) -> AsyncIterator[Warehouse]:
    """The client of ClickHouse; it connects when first asked something."""
    warehouse = Warehouse.open(settings.warehouse, password=password(settings))
    try:
        yield warehouse
    finally:
        await warehouse.aclose()


async def collect(settings: Settings, stop: asyncio.Event, listeners: Listeners | None = None) -> None:
    """HTTP in, durable answer out. `listeners`: as one of several workers (`collect.workers`), on sockets of theirs."""
    store: Store | None = None

    def read_snapshot() -> Snapshot:
        nonlocal store
        store = store or Store.open(settings.state_url)
        store.ensure_first_site(settings.site, now_ms=now_ms())
        return store.snapshot(now_ms())

    _collect_seldom()
    await collect_server.serve(settings, open_log(settings), read_snapshot, stop, listeners)


def _collect_seldom() -> None:
    """What is there now stays, and records leave no cycles: looking for some is 5-9 % of a request's time, and more
    of a loaded record's."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def load(settings: Settings, stop: asyncio.Event) -> None:
    """Log -> ClickHouse, exactly once. On embedded engines this role also brings the schema up to date."""
    async with open_store(settings) as store, open_warehouse(settings) as warehouse:
        secret = await asyncio.to_thread(store.secret, PAYLOAD_KEY)
        loader = Loader(open_log(settings), warehouse, settings.load, secret)
        async with ops.serve(LOOPBACK, settings.load.ops_port, loader.ready):
            await _schema_ready(settings, warehouse, stop)
            _collect_seldom()
            await loader.run(stop)


async def _schema_ready(settings: Settings, warehouse: Warehouse, stop: asyncio.Event) -> None:
    """Wait until ClickHouse answers with this program's schema. Raises SchemaBehind where it is not ours to change."""
    while not stop.is_set():
        try:
            if settings.warehouse.mode == "embedded":
                await migrate.migrate(warehouse, settings.warehouse)
            await migrate.check(warehouse)
        except WarehouseAway as exc:
            logger.warning("%s Waiting.", exc)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 1)
        else:
            return


async def push(settings: Settings, stop: asyncio.Event) -> None:
    """Audiences -> Pinterest, and what is popular there -> state."""
    if not settings.pinterest.ad_account_id:
        raise Misconfigured("pinterest.ad_account_id is empty: there is nothing to push to.")
    async with open_store(settings) as store, open_warehouse(settings) as warehouse:
        client = Client(settings.pinterest)
        try:
            async with ops.serve(LOOPBACK, settings.push.ops_port, warehouse.ping), popular.copied(store, warehouse):
                await sync.loop(settings, store, warehouse, client, stop)
        finally:
            await client.aclose()


async def console(settings: Settings, stop: asyncio.Event) -> None:
    """The admin API."""
    async with open_store(settings) as store, open_warehouse(settings) as warehouse:
        app = console_app.build(store, Lists(store, warehouse), now_ms)

        async def ready() -> None:
            await asyncio.to_thread(store.ping)
            await warehouse.ping()

        async with (
            ops.serve(LOOPBACK, settings.console.ops_port, ready),
            serving.serving(app, settings.console.host, settings.console.port),
        ):
            logger.info("The admin API answers at http://%s:%s", settings.console.host, settings.console.port)
            await stop.wait()


async def warehouse(settings: Settings, stop: asyncio.Event) -> None:
    """The embedded ClickHouse engine behind ClickHouse's HTTP interface."""
    from pinstream.warehouse import embedded  # the engine takes 200 MB: only this role pays

    async with embedded.running(settings):
        await stop.wait()


@asynccontextmanager
async def alone(settings: Settings) -> AsyncIterator[None]:
    """The right to run every role on this data folder and these ports, while the block runs.

    Raises:
        SetupFault: another `up` has the folder, or somebody has a port.
    """
    path = settings.data_dir / "up.lock"
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        lock = open(path, "w")  # noqa: SIM115, ASYNC230  held for as long as the process lives
    except OSError as exc:
        raise SetupFault(f"Cannot write {path}: {exc.strerror}. Check data_dir and its owner.") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise SetupFault(f"Another `pinstream up` runs on {settings.data_dir}. Stop it first.") from exc
        for host, port in _ports(settings):
            serving.bind(host, port).close()
        yield


def _ports(settings: Settings) -> list[tuple[str, int]]:
    collect, console, url = settings.collect, settings.console, urlsplit(settings.warehouse.url)
    found = [(collect.host, collect.port), (collect.ops_host, collect.ops_port), (LOOPBACK, settings.load.ops_port)]
    found += [(console.host, console.port), (LOOPBACK, console.ops_port)]
    if settings.pinterest.ad_account_id:
        found.append((LOOPBACK, settings.push.ops_port))
    if settings.warehouse.mode == "embedded":
        found.append((url.hostname or LOOPBACK, url.port or 8123))
    return found


def programs(settings: Settings) -> list[Program]:
    """The processes of `up`, in the order of starting."""
    found = []
    if settings.warehouse.mode == "embedded":
        found.append(program("warehouse", ready_url=f"{settings.warehouse.url}/ping"))
    found.append(program("load", ready_url=f"http://{LOOPBACK}:{settings.load.ops_port}/readyz"))
    if settings.pinterest.ad_account_id:
        found.append(program("push", ready_url=f"http://{LOOPBACK}:{settings.push.ops_port}/readyz"))
    found.append(program("console", ready_url=f"http://{LOOPBACK}:{settings.console.ops_port}/readyz"))
    url = f"http://{settings.collect.ops_host}:{settings.collect.ops_port}/readyz"
    found.append(program("collect", ready_url=url, grace_s=COLLECT_GRACE_S))
    return found


def program(role: str, *, ready_url: str = "", grace_s: float = GRACE_S) -> Program:
    """One role as a process of its own."""
    return Program(role, (sys.executable, "-m", "pinstream", role), ready_url=ready_url, grace_s=grace_s)


# --- one-off tasks -------------------------------------------------------------------------------


async def migrate_all(settings: Settings, *, dry_run: bool = False) -> list[migrate.Step]:
    """Bring both databases up to date; gives ClickHouse's steps."""
    if not dry_run:
        async with open_store(settings):
            pass
    async with open_warehouse(settings) as warehouse:
        return await migrate.migrate(warehouse, settings.warehouse, dry_run=dry_run)


async def rebuild_rollup(
    settings: Settings, name: str, say: Callable[[str], None], *, forget: bool = False
) -> rebuild.Rebuilt:
    """Build a rollup anew from the events that are there, while load goes on; `say` gets progress."""
    async with open_warehouse(settings) as warehouse:
        await migrate.check(warehouse)
        return await rebuild.rebuild(open_log(settings), warehouse, name, say, forget=forget)


async def refresh_popular(settings: Settings) -> None:
    """What is popular on Pinterest made anew now, and copied to the state, whether `push` runs or not."""
    async with open_store(settings) as store, open_warehouse(settings) as warehouse:
        await migrate.check(warehouse)
        await popular.refresh(warehouse)
        await popular.copy(store, warehouse)


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """A file to import, as the command line names it."""

    path: Path
    tag_id: str
    reading: Reading
    encoding: str
    dry_run: bool = False


async def import_file(
    settings: Settings,
    kind: importing.Kind,
    wanted: Imported,
    stop: asyncio.Event,
    say: Callable[[str], None],
    name_bad: Callable[[importing.Bad], None],
) -> importing.Report:
    """Import a file of orders or events into the log; `say` gets progress, `name_bad` every refused row."""
    async with open_store(settings) as store:
        site = await asyncio.to_thread(store.site, wanted.tag_id)
        snapshot = await asyncio.to_thread(store.snapshot, now_ms())
    source = importing.Source(
        path=wanted.path,
        kind=kind,
        site=site,
        secret=snapshot.payload_key,
        suppressed=snapshot.suppressed,
        reading=wanted.reading,
        encoding=wanted.encoding,
        dry_run=wanted.dry_run,
    )
    run = importing.Import(source, settings.imports_dir, say, name_bad)
    return await run.run(open_log(settings), now_ms=now_ms(), stop=stop)


async def import_list(
    settings: Settings,
    operation: Operation,
    wanted: Imported,
    name: str,
    stop: asyncio.Event,
    say: Callable[[str], None],
    name_bad: Callable[[importing.Bad], None],
) -> ListReport:
    """Put everybody in a file on a list, which is made if need be, or take them off; see `import_file`."""
    async with open_store(settings) as store, open_warehouse(settings) as warehouse:
        await migrate.check(warehouse)
        site = await asyncio.to_thread(store.site, wanted.tag_id)
        there = {each.name for each in await asyncio.to_thread(store.lists, site_id=site.id)}
        find = partial(store.add_list, now_ms=now_ms()) if operation == "add" else store.list_named
        target = await asyncio.to_thread(find, site_id=site.id, name=name)
        run = ListImport(Lists(store, warehouse), site, target, operation)
        columns = wanted.reading.columns
        try:
            return await run.run(wanted.path, columns, wanted.encoding, stop=stop, say=say, name_bad=name_bad)
        finally:
            if target.name not in there and not run.report.members:
                await asyncio.to_thread(store.remove_list, target.id)


async def lists(settings: Settings) -> list[Listed]:
    """All lists, with their sizes."""
    async with open_store(settings) as store, open_warehouse(settings) as warehouse:
        return await Lists(store, warehouse).all()


async def drop_list(settings: Settings, tag_id: str, name: str) -> None:
    """Forget a list. Raises Refused while an audience asks for it."""
    async with open_store(settings) as store, open_warehouse(settings) as warehouse:
        site = await asyncio.to_thread(store.site, tag_id)
        gone = await asyncio.to_thread(store.list_named, site_id=site.id, name=name)
        await Lists(store, warehouse).drop(gone)


async def latest_syncs(settings: Settings) -> dict[int, membership.Past]:
    """By audience the latest sync that went through; none while ClickHouse is away or has no tables yet."""
    async with open_warehouse(settings) as warehouse:
        try:
            return await membership.latest(warehouse)
        except WarehouseError as exc:
            logger.warning("Sizes are not known: %s", exc)
            return {}


async def sync_now(settings: Settings, audience_id: int, *, confirm_removals: bool = False) -> Run:
    """One sync of an audience's connection, now. Raises Refused if it is not connected."""
    async with open_store(settings) as store, open_warehouse(settings) as warehouse:
        links = await asyncio.to_thread(store.connections)
        link = next((link for link in links if link.audience_id == audience_id), None)
        if link is None:
            raise Refused("bad_value", f"Audience {audience_id} is not connected to Pinterest.")
        if confirm_removals:
            await asyncio.to_thread(store.set_connection, link.id, removals_confirmed=True)
        client = Client(settings.pinterest)
        try:
            run = await sync.sync(
                sync.Parts(store, warehouse, client, settings.push, rates=settings.audiences.rates), link.id
            )
        finally:
            await client.aclose()
    if run is None:
        raise StateError("Another process is syncing this audience right now.")
    return run


async def reset_positions(settings: Settings, to: Literal["oldest", "behind"]) -> list[dict[str, object]]:
    """Give a new position to each partition of which `load` refuses the stored one; the others stay.

    `oldest`: the log's oldest record, for a new log or a new warehouse. `behind`: behind what ClickHouse holds of it.

    Raises:
        Fenced: another loader runs; stop it first.
    """
    async with open_warehouse(settings) as warehouse:
        consumer = await open_log(settings).consumer(loop.GROUP, loop.TOPICS)
        try:
            while not consumer.assignment():
                await consumer.poll(timeout_s=0.5, max_records=1)
            partitions = sorted(consumer.assignment())
            return [await _reset(consumer, each, warehouse, settings, to) for each in partitions]
        finally:
            await consumer.aclose()


async def _reset(
    consumer: Consumer, partition: Partition, warehouse: Warehouse, settings: Settings, to: Literal["oldest", "behind"]
) -> dict[str, object]:
    bounds, position = await consumer.bounds(partition), await consumer.position(partition)
    newest = await queries.newest_offset(warehouse, *partition, since_ms=settings.load.positions_from_ms)
    blank = await queries.knows_nothing(warehouse)
    told: dict[str, object] = {"topic": partition.topic, "partition": partition.number}
    try:
        start = loop.starting_offset(partition, position, bounds, newest, blank=blank)
        return told | {"offset": start, "then": "unchanged"}
    except PositionLost:
        behind = bounds.first if newest is None else newest + 1
    offset = bounds.first if to == "oldest" else min(max(behind, bounds.first), bounds.end)
    consumer.seek(partition, offset)
    await consumer.commit(partition, offset, None)
    older = newest is not None and newest >= offset
    return told | {"offset": offset, "then": f"set load.positions_from_ms = {now_ms()}" if older else "start load"}
