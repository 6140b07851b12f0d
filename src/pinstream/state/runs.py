"""What push did, and what it must still do: runs of a connection, and their chunks.

A chunk goes planned -> sending -> acknowledged -> recorded, or ends as refused. `sending` means that Pinterest may
or may not have applied it; `acknowledged` that Pinterest has it and ClickHouse may not. Members are kept
until a chunk is recorded, so that a restart can repeat exactly what was under way.

A lease lets one process at a time work on a connection. Functions block; each is one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, delete, func, insert, or_, select, update

from pinstream.errors import StateError
from pinstream.state import database
from pinstream.state.store import Store
from pinstream.state.tables import CHUNK, CONNECTION, SYNC_RUN

KEEP_MS: Final = 90 * 86_400_000
"""How long finished runs and their chunks (without members) are kept."""

MEMBER_BYTES: Final = 32

Operation = Literal["ADD", "REMOVE"]
RunStatus = Literal["running", "done", "held", "failed", "interrupted"]
ChunkStatus = Literal["planned", "sending", "acknowledged", "recorded", "refused"]

_EMPTY: Final = b""


class PlannedChunk(Struct, frozen=True, kw_only=True):
    """One call to be made."""

    key: str
    """Names the chunk everywhere: in this ledger, and as ClickHouse's deduplication token."""
    number: int
    operation: Operation
    members: bytes
    """SHA-256 values, MEMBER_BYTES each, without separators."""

    def hexes(self) -> list[str]:
        """The members as Pinterest and JSON take them: SHA-256 in lowercase hex."""
        text = self.members.hex()
        return [text[at : at + 2 * MEMBER_BYTES] for at in range(0, len(text), 2 * MEMBER_BYTES)]


class Chunk(PlannedChunk, frozen=True, kw_only=True):
    """A chunk as stored."""

    id: int
    connection_id: int
    sync_run_id: int
    status: ChunkStatus
    size: int
    acknowledged_ms: int | None
    """When Pinterest had it. Grows strictly within a connection, whatever the clock does."""
    detail: str


class Run(Struct, frozen=True, kw_only=True):
    """One sync of one connection."""

    id: int
    connection_id: int
    status: RunStatus
    started_ms: int
    finished_ms: int | None
    desired: int
    """People the rule wants in."""
    members: int
    """People recorded as in, before this run."""
    adds: int
    removes: int
    held: int
    """Removals that wait for confirmation."""
    detail: str


# --- lease ---------------------------------------------------------------------------------------


def claim(store: Store, connection_id: int, owner: str, *, now_ms: int, until_ms: int) -> bool:
    """Take the right to work on a connection. False while another owner's lease lasts.

    A lease that ends later than twice ours would is of a clock that was set back since: it has lapsed too.
    """
    until = CONNECTION.c.lease_until_ms
    free = or_(CONNECTION.c.lease_owner == owner, until <= now_ms, until > until_ms + (until_ms - now_ms))
    with database.writing(store.engine) as connection:
        taken = connection.execute(
            update(CONNECTION)
            .where(CONNECTION.c.id == connection_id, free)
            .values(lease_owner=owner, lease_until_ms=until_ms)
        )
        return taken.rowcount == 1


def prolong(store: Store, connection_id: int, owner: str, *, until_ms: int) -> bool:
    """Prolong a lease that is held. False once anybody else had it, even if it is free again: plans are stale then."""
    held = (CONNECTION.c.id == connection_id, CONNECTION.c.lease_owner == owner)
    with database.writing(store.engine) as connection:
        return connection.execute(update(CONNECTION).where(*held).values(lease_until_ms=until_ms)).rowcount == 1


def release(store: Store, connection_id: int, owner: str) -> None:
    """Give the right back, if it is still held."""
    with database.writing(store.engine) as connection:
        held = (CONNECTION.c.id == connection_id, CONNECTION.c.lease_owner == owner)
        connection.execute(update(CONNECTION).where(*held).values(lease_owner="", lease_until_ms=0))


# --- runs ----------------------------------------------------------------------------------------


def begin(store: Store, connection_id: int, *, now_ms: int) -> int:
    """Start a run; its id is new for ever.

    Chunks that an earlier run planned and never sent are dropped: what is right now is worked out afresh.
    """
    with database.writing(store.engine) as connection:
        _forget(connection, connection_id, now_ms)
        values = {"connection_id": connection_id, "status": "running", "started_ms": now_ms, "detail": ""}
        counts = dict.fromkeys(("desired", "members", "adds", "removes", "held"), 0)
        added = connection.execute(insert(SYNC_RUN).values(**values, **counts).returning(SYNC_RUN.c.id))
        connection.execute(update(CONNECTION).where(CONNECTION.c.id == connection_id).values(last_run_ms=now_ms))
        return int(added.scalar_one())


def _forget(connection: Connection, connection_id: int, now_ms: int) -> None:
    ours = CHUNK.c.connection_id == connection_id
    runs = SYNC_RUN.c.connection_id == connection_id
    unfinished = (runs, SYNC_RUN.c.status == "running")
    connection.execute(delete(CHUNK).where(ours, CHUNK.c.status == "planned"))
    connection.execute(update(SYNC_RUN).where(*unfinished).values(status="interrupted", finished_ms=now_ms))
    old = select(SYNC_RUN.c.id).where(runs, SYNC_RUN.c.finished_ms < now_ms - KEEP_MS)
    ended = CHUNK.c.status.in_(("recorded", "refused"))
    connection.execute(delete(CHUNK).where(ours, ended, CHUNK.c.sync_run_id.in_(old)))
    still_open = select(CHUNK.c.sync_run_id).where(ours)
    connection.execute(delete(SYNC_RUN).where(SYNC_RUN.c.id.in_(old), SYNC_RUN.c.id.not_in(still_open)))


def note(store: Store, run_id: int, *, desired: int, members: int, adds: int, removes: int, held: int) -> None:
    """Write down what a run found and will do."""
    counts = {"desired": desired, "members": members, "adds": adds, "removes": removes, "held": held}
    with database.writing(store.engine) as connection:
        connection.execute(update(SYNC_RUN).where(SYNC_RUN.c.id == run_id).values(**counts))


def finish(store: Store, run_id: int, status: RunStatus, *, now_ms: int, detail: str = "") -> None:
    """End a run. `detail`: a sentence for people, such as why it failed."""
    with database.writing(store.engine) as connection:
        connection.execute(
            update(SYNC_RUN).where(SYNC_RUN.c.id == run_id).values(status=status, finished_ms=now_ms, detail=detail)
        )


def moved(store: Store, connection_id: int, run_id: int) -> tuple[int, int]:
    """How many Pinterest took, and let go, since the run before `run_id` that went through: what broke off counts."""
    through = select(func.max(SYNC_RUN.c.id)).where(
        SYNC_RUN.c.connection_id == connection_id, SYNC_RUN.c.id < run_id, SYNC_RUN.c.status.in_(("done", "held"))
    )
    query = (
        select(CHUNK.c.operation, func.sum(CHUNK.c.size))
        .where(CHUNK.c.connection_id == connection_id, CHUNK.c.status == "recorded", CHUNK.c.sync_run_id <= run_id)
        .where(CHUNK.c.sync_run_id > func.coalesce(through.scalar_subquery(), 0))
        .group_by(CHUNK.c.operation)
    )
    with database.reading(store.engine) as connection:
        sizes = {str(operation): int(size) for operation, size in connection.execute(query)}
    return sizes.get("ADD", 0), sizes.get("REMOVE", 0)


def runs(store: Store, connection_id: int, *, limit: int = 20) -> list[Run]:
    """The latest runs, newest first."""
    query = select(SYNC_RUN).where(SYNC_RUN.c.connection_id == connection_id).order_by(SYNC_RUN.c.id.desc())
    with database.reading(store.engine) as connection:
        return [msgspec.convert(_plain(row), Run) for row in connection.execute(query.limit(limit))]


# --- chunks --------------------------------------------------------------------------------------


def plan(store: Store, connection_id: int, run_id: int, chunks: Sequence[PlannedChunk]) -> None:
    """Add chunks to a run, all or none."""
    fixed = {"connection_id": connection_id, "sync_run_id": run_id, "status": "planned", "detail": ""}
    rows = [
        {**msgspec.structs.asdict(chunk), **fixed, "size": len(chunk.members) // MEMBER_BYTES, "acknowledged_ms": None}
        for chunk in chunks
    ]
    if rows:
        with database.writing(store.engine) as connection:
            connection.execute(insert(CHUNK), rows)


def next_planned(store: Store, run_id: int) -> Chunk | None:
    """The next chunk of a run to send, in the order of planning."""
    return _first(store, CHUNK.c.sync_run_id == run_id, CHUNK.c.status == "planned")


def next_open(store: Store, connection_id: int) -> Chunk | None:
    """The oldest chunk, of any run, that is `sending` or `acknowledged`."""
    return _first(store, CHUNK.c.connection_id == connection_id, CHUNK.c.status.in_(("sending", "acknowledged")))


def start_sending(store: Store, chunk: Chunk) -> None:
    """planned -> sending: from now on Pinterest may have it."""
    with database.writing(store.engine) as connection:
        _move(connection, chunk, "planned", status="sending")


def acknowledge(store: Store, chunk: Chunk, *, now_ms: int, customer_list_id: str) -> int:
    """sending -> acknowledged, and remember the list it went to. Returns the time it is acknowledged at."""
    with database.writing(store.engine) as connection:
        ours = CHUNK.c.connection_id == chunk.connection_id
        latest = connection.scalar(select(func.max(CHUNK.c.acknowledged_ms)).where(ours)) or 0
        at_ms = max(now_ms, int(latest) + 1)
        _move(connection, chunk, "sending", status="acknowledged", acknowledged_ms=at_ms)
        link = update(CONNECTION).where(CONNECTION.c.id == chunk.connection_id)
        connection.execute(link.values(customer_list_id=customer_list_id))
        return at_ms


def record(store: Store, chunk: Chunk) -> None:
    """acknowledged -> recorded: done, the members are not needed any more."""
    with database.writing(store.engine) as connection:
        _move(connection, chunk, "acknowledged", status="recorded", members=_EMPTY)


def refuse(store: Store, chunk: Chunk, detail: str) -> None:
    """sending -> refused: Pinterest will not take it, and has not. The next run plans anew."""
    with database.writing(store.engine) as connection:
        _move(connection, chunk, "sending", status="refused", members=_EMPTY, detail=detail)


def repair(store: Store, chunk: Chunk, owner: str) -> bool:
    """Undo what `owner` may have sent too late: True if somebody else went on with the chunk, or the connection.

    Whether the others' calls came before or after is not known, so the chunk's members are taken out and written
    down as out: the next sync sends this first, then adds again whom it should.
    """
    with database.writing(store.engine) as connection:
        holder = connection.scalar(select(CONNECTION.c.lease_owner).where(CONNECTION.c.id == chunk.connection_id))
        status = connection.scalar(select(CHUNK.c.status).where(CHUNK.c.id == chunk.id))
        if holder == owner and status == "sending":
            return False
        known = {**msgspec.structs.asdict(chunk), "key": f"{chunk.key}:late:{owner}", "operation": "REMOVE"}
        changed = {"status": "sending", "acknowledged_ms": None, "detail": "Takes back what came too late."}
        del known["id"]
        connection.execute(insert(CHUNK).values(**known | changed))
        return True


def lose_list(store: Store, connection_id: int, customer_list_id: str) -> None:
    """Forget a list that is gone, and the audience made of it; nothing if the connection has another list by now."""
    same = (CONNECTION.c.id == connection_id, CONNECTION.c.customer_list_id == customer_list_id)
    with database.writing(store.engine) as connection:
        connection.execute(update(CONNECTION).where(*same).values(customer_list_id="", pinterest_audience_id=""))


def chunks(store: Store, run_id: int) -> list[Chunk]:
    """The chunks of a run, in order."""
    query = select(CHUNK).where(CHUNK.c.sync_run_id == run_id).order_by(CHUNK.c.id)
    with database.reading(store.engine) as connection:
        return [msgspec.convert(_plain(row), Chunk) for row in connection.execute(query)]


def _first(store: Store, *where: Any) -> Chunk | None:
    query = select(CHUNK).where(*where).order_by(CHUNK.c.id).limit(1)
    with database.reading(store.engine) as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else msgspec.convert(_plain(row), Chunk)


def _move(connection: Connection, chunk: Chunk, expected: ChunkStatus, **changes: Any) -> None:
    moved = connection.execute(
        update(CHUNK).where(CHUNK.c.id == chunk.id, CHUNK.c.status == expected).values(**changes)
    )
    if moved.rowcount != 1:
        raise StateError(f"Chunk {chunk.key} is not {expected} any more: another process took the connection over.")


def _plain(row: Any) -> dict[str, Any]:
    return {str(name): value for name, value in zip(row._fields, row, strict=True)}
