"""Where `load`'s blocks go: the table of their topic, with all its views."""

from __future__ import annotations

from pinstream import event
from pinstream.warehouse import queries, schema
from pinstream.warehouse.client import Warehouse


class Blocks:
    """Inserts blocks, and says how far they got."""

    rollup_version = schema.ROLLUP_VERSION
    record_format = schema.RECORD_FORMAT

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    async def insert(self, topic: str, rows: bytes, *, token: str) -> None:
        """Apply `rows` to the topic's table and its views, once a token. Raises as `Warehouse.insert`."""
        table = schema.TABLE_OF_TOPIC[topic]
        await self._warehouse.insert(table, schema.insert_columns(table), rows, token=token)

    async def insert_dead(self, rows: bytes, *, token: str) -> None:
        """Apply `rows` to `rejected`, once a token. Raises as `Warehouse.insert`."""
        await self.insert(event.REJECTED, rows, token=token)

    async def newest(self, partition: tuple[str, int]) -> int | None:
        """The highest offset of (topic, number) that was applied, dead letters included; None if none was."""
        topic, number = partition
        (row,) = await queries.max_offset(topic, number).rows(self._warehouse)
        newest: int | None = row["newest"]
        return newest
