"""What push wrote down, for a loop: the functions of `state.runs` for one connection, off the loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import msgspec

from pinstream.audiences.membership import Counts
from pinstream.state import runs
from pinstream.state.runs import Chunk, PlannedChunk, Run, RunStatus
from pinstream.state.store import Audience, Link, Store

P = ParamSpec("P")
T = TypeVar("T")


class Ledger:
    """The ledger of one connection. Every call may raise StateError; what it says has then not happened, or has."""

    def __init__(self, store: Store, connection_id: int, clock_ms: Callable[[], int]) -> None:
        self.connection_id = connection_id
        self._store = store
        self._clock_ms = clock_ms

    async def claim(self, owner: str, for_s: float) -> bool:
        """Take the lease. False while somebody else has it."""
        now_ms = self._clock_ms()
        until_ms = now_ms + int(for_s * 1000)
        return await _off(runs.claim, self._store, self.connection_id, owner, now_ms=now_ms, until_ms=until_ms)

    async def prolong(self, owner: str, for_s: float) -> bool:
        """Prolong the lease. False once somebody else had it."""
        until_ms = self._clock_ms() + int(for_s * 1000)
        return await _off(runs.prolong, self._store, self.connection_id, owner, until_ms=until_ms)

    async def release(self, owner: str) -> None:
        """Give the lease back."""
        await _off(runs.release, self._store, self.connection_id, owner)

    async def connection(self) -> Link:
        """The connection as it is now."""
        return await _off(self._store.connection, self.connection_id)

    async def audience(self, audience_id: int) -> Audience:
        """The audience it mirrors."""
        return await _off(self._store.audience, audience_id)

    async def change(self, **changes: Any) -> None:
        """Set columns of the connection."""
        await _off(self._store.set_connection, self.connection_id, **changes)

    async def begin(self) -> int:
        """Start a run; gives its id."""
        return await _off(runs.begin, self._store, self.connection_id, now_ms=self._clock_ms())

    async def note(self, run_id: int, counts: Counts, held: int) -> None:
        """Write down what a run found, and how many removals it holds back."""
        await _off(runs.note, self._store, run_id, **msgspec.structs.asdict(counts), held=held)

    async def finish(self, run_id: int, status: RunStatus, detail: str = "") -> Run:
        """End a run; gives it as stored."""
        await _off(runs.finish, self._store, run_id, status, now_ms=self._clock_ms(), detail=detail)
        return (await _off(runs.runs, self._store, self.connection_id, limit=1))[0]

    async def moved(self, run_id: int) -> tuple[int, int]:
        """How many entered and left since the run before that went through."""
        return await _off(runs.moved, self._store, self.connection_id, run_id)

    async def plan(self, run_id: int, chunks: Sequence[PlannedChunk]) -> None:
        """Add chunks to a run."""
        await _off(runs.plan, self._store, self.connection_id, run_id, chunks)

    async def next_planned(self, run_id: int) -> Chunk | None:
        """The next chunk to send."""
        return await _off(runs.next_planned, self._store, run_id)

    async def next_open(self) -> Chunk | None:
        """The oldest chunk that was under way."""
        return await _off(runs.next_open, self._store, self.connection_id)

    async def start_sending(self, chunk: Chunk) -> None:
        """planned -> sending."""
        await _off(runs.start_sending, self._store, chunk)

    async def acknowledge(self, chunk: Chunk, customer_list_id: str) -> int:
        """sending -> acknowledged; gives the time to record it with."""
        return await _off(
            runs.acknowledge, self._store, chunk, now_ms=self._clock_ms(), customer_list_id=customer_list_id
        )

    async def record(self, chunk: Chunk) -> None:
        """acknowledged -> recorded."""
        await _off(runs.record, self._store, chunk)

    async def refuse(self, chunk: Chunk, detail: str) -> None:
        """sending -> refused."""
        await _off(runs.refuse, self._store, chunk, detail)

    async def repair(self, chunk: Chunk, owner: str) -> bool:
        """Plan to undo what `owner` sent too late; False if it was in time."""
        return await _off(runs.repair, self._store, chunk, owner)

    async def lose_list(self, customer_list_id: str) -> None:
        """Forget a list that Pinterest has no more."""
        await _off(runs.lose_list, self._store, self.connection_id, customer_list_id)


async def _off(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.to_thread(function, *args, **kwargs)
