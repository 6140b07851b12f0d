"""Steps of the rollup version: which one new records get, and whether they may be loaded.

`load` takes up the newest step. It tells so in the log, with the position of each partition (load/loop.py).
"""

from __future__ import annotations

from typing import NamedTuple

from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse


class Flip(NamedTuple):
    """One step; a later one is greater."""

    version: int
    open: bool
    """False: no record is to be loaded under this version yet."""


async def latest(warehouse: Warehouse) -> Flip:
    """The newest step."""
    rows = await warehouse.select(
        "SELECT version, max(state) = 'open' AS open FROM rollup_flip GROUP BY version ORDER BY version DESC LIMIT 1"
    )
    return Flip(rows[0]["version"], bool(rows[0]["open"])) if rows else Flip(schema.ROLLUP_VERSION, True)


async def flip(warehouse: Warehouse, to: Flip, *, rollup: str = "", next_uuid: str = "") -> None:
    """Note a step. Only the holder of the migrations' lock may."""
    await warehouse.command(
        "INSERT INTO rollup_flip (version, state, rollup, next_uuid) "
        "SELECT {version:UInt16}, {state:String}, {rollup:String}, {uuid:String}",
        {"version": to.version, "state": "open" if to.open else "held", "rollup": rollup, "uuid": next_uuid},
    )


async def held(warehouse: Warehouse) -> tuple[str, str]:
    """The rollup for which the newest step is, or was, held, and the table that takes its place."""
    rows = await warehouse.select(
        "SELECT rollup, next_uuid FROM rollup_flip WHERE state = 'held' ORDER BY version DESC LIMIT 1"
    )
    return (rows[0]["rollup"], rows[0]["next_uuid"]) if rows else ("", "")
