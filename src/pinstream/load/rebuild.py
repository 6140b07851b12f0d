"""Build a rollup anew while load goes on: no gap, no record counted twice.

Every record carries the rollup version under which it was loaded. A *step* raises the version; once every partition
has taken it up, the records below it are all there and stay the same, so a backfill may read them. So the table is
filled beside the old one in rounds, each with what was loaded during the one before, until a round is short. Then the
load is held, the rest is filled in, the new table takes the old one's place, and the load goes on.

What each step does in ClickHouse is in warehouse/rollup.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from pinstream import event
from pinstream.errors import LogError, Refused, Retryable, WarehouseAway
from pinstream.eventlog.contract import Log, Partition
from pinstream.load.loop import GROUP
from pinstream.warehouse import flips, migrate, rollup
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.flips import Flip
from pinstream.warehouse.rollup import StillOurs

TOPICS: Final = (event.EVENTS, event.ENGAGEMENTS)
SHORT_S: Final = 2.0
"""A round that took no longer is the last one before the load is held."""
MAX_ROUNDS: Final = 10
HELD_S: Final = 30.0
"""The load is not held for longer: then nothing has changed, and the rebuild may be tried again."""
LOOK_S: Final = 0.2
SAY_S: Final = 10.0
TRIES: Final = 5
"""Of one slice while ClickHouse is away."""


class Rebuilt(Struct):
    """What a rebuild did."""

    view: str
    version: int
    """The views count from this rollup version on."""
    rows: int
    """Rows of the sources that were counted anew."""
    slices: int
    rounds: int
    held_ms: int
    """How long nothing was loaded."""
    seconds: float


async def rebuild(
    log: Log, warehouse: Warehouse, name: str, say: Callable[[str], None], *, forget: bool = False
) -> Rebuilt:
    """Build the rollup `name` anew from the events and engagements that are there, by this program's definition.

    `load` has to run, or to be started meanwhile. `say` gets progress, a line at a time. `forget`: what is known of
    events that are deleted by now may be lost.

    Raises:
        Misconfigured: there is no such rollup.
        Refused: it knows of events that are deleted by now, and `forget` is not given.
        SchemaBehind: another process migrates or rebuilds.
        Retryable: the log was away, or did not show in time that the load is held; nothing has changed, try again.
        WarehouseAway: ClickHouse was away for too long; run it again, which goes on or begins anew.
    """
    rollup.views(warehouse.settings, name, 1)  # is there such a one?
    async with migrate.lock(warehouse) as still_ours:
        if done := await rollup.recover(warehouse, still_ours):
            say(done)
        if (rows := await rollup.outlived(warehouse, name)) and not forget:
            raise Refused(
                "bad_value",
                f"{rows:,} rows of {name} tell of more than {rollup.KEPT_DAYS} days ago, and those events are deleted. "
                "A rebuild forgets that, which may change who is pushed. If that is well: --forget-older.",
            )
        return await _Rebuild(log, warehouse, name, say, still_ours).run()


class _Rebuild:
    def __init__(
        self, log: Log, warehouse: Warehouse, name: str, say: Callable[[str], None], still_ours: StillOurs
    ) -> None:
        self._log = log
        self._warehouse = warehouse
        self._name = name
        self._say = say
        self._still_ours = still_ours
        self._done = Rebuilt(view=name, version=0, rows=0, slices=0, rounds=0, held_ms=0, seconds=0.0)

    async def run(self) -> Rebuilt:
        started = time.monotonic()
        await rollup.begin(self._warehouse, self._name)
        filled_to = 0
        while self._done.rounds < MAX_ROUNDS:
            end = await self._step(open=True)
            await self._taken_up(end)
            round_started = time.monotonic()
            await self._fill(filled_to, end)
            filled_to = end
            self._done.rounds += 1
            if time.monotonic() - round_started <= SHORT_S:
                break
        held = time.monotonic()
        await self._take_its_place(filled_to)
        self._done.held_ms = int((time.monotonic() - held) * 1000)
        self._done.seconds = round(time.monotonic() - started, 1)
        return self._done

    async def _take_its_place(self, filled_to: int) -> None:
        self._done.version = await self._step(open=False)
        try:
            async with asyncio.timeout(HELD_S):
                await self._taken_up(self._done.version)
                await self._fill(filled_to, self._done.version)
            await self._still_ours()
            await rollup.decide(self._warehouse, self._name)
            await rollup.finish(self._warehouse, self._name, self._still_ours)
        except BaseException as exc:  # whatever it is, and be it Ctrl-C: load must go on
            self._say(await rollup.recover(self._warehouse, self._still_ours))
            if isinstance(exc, TimeoutError):
                raise Retryable(f"The load did not come to rest in {HELD_S:.0f} s. Try again.") from exc
            raise

    async def _step(self, *, open: bool) -> int:
        version = (await flips.latest(self._warehouse)).version + 1
        next_uuid = await rollup.table_uuid(self._warehouse, f"{self._name}__next")
        await self._still_ours()
        await flips.flip(self._warehouse, Flip(version, open), rollup=self._name, next_uuid=next_uuid)
        return version

    async def _taken_up(self, version: int) -> None:
        """Wait until the log shows that no record will be loaded under an older version any more."""
        said = time.monotonic()
        while behind := await self._behind(version):
            if time.monotonic() - said > SAY_S:
                said = time.monotonic()
                self._say(f"waiting for load to take up version {version} on {', '.join(behind)}; is it running?")
            await asyncio.sleep(LOOK_S)

    async def _behind(self, version: int) -> list[str]:
        try:
            found = await self._log.inspect(GROUP, TOPICS)
        except LogError as exc:
            self._say(f"the log does not answer: {exc}")
            await asyncio.sleep(1)
            return ["the log"]
        taken_up: list[Partition] = [
            partition
            for partition, (position, _) in found.items()
            if position.intent and position.intent.rollup_version >= version
        ]
        return [f"{topic}/{number}" for topic, number in sorted(found.keys() - set(taken_up))]

    async def _fill(self, first: int, end: int) -> None:
        pieces = [piece async for piece in rollup.slices(self._warehouse, self._name, first, end)]
        total, rows = sum(piece.rows for piece in pieces), 0
        said = time.monotonic()
        for piece in pieces:
            await self._still_ours()
            await self._insert(piece)
            rows += piece.rows
            if time.monotonic() - said > 1 or piece is pieces[-1]:
                said = time.monotonic()
                at = f"{piece.view.source} of {piece.day}"
                self._say(f"{self._name}, round {self._done.rounds + 1}: {rows / total:.0%} of {total:,} rows, at {at}")
        self._done.rows += rows
        self._done.slices += len(pieces)

    async def _insert(self, piece: rollup.Slice) -> None:
        for number in range(1, TRIES + 1):
            try:
                return await rollup.fill(self._warehouse, self._name, piece)
            except WarehouseAway as exc:
                if number == TRIES:
                    raise
                self._say(f"ClickHouse does not answer, trying again: {exc}")
                await asyncio.sleep(number)
        return None
