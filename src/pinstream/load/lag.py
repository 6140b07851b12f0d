"""How far the log is ahead of what is loaded, as metrics and warnings, whatever the loop is waiting for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from pinstream import metrics
from pinstream.errors import LogError
from pinstream.eventlog.contract import Log

logger = logging.getLogger(__name__)

LOOK_S: Final = 15.0


async def watch(log: Log, group: str, topics: Sequence[str]) -> None:
    """Measure it every LOOK_S, until cancelled."""
    while True:
        try:
            await _look(log, group, topics)
        except LogError as exc:
            logger.warning("The lag is unknown: %s", exc)
        await asyncio.sleep(LOOK_S)


async def _look(log: Log, group: str, topics: Sequence[str]) -> None:
    for partition, (position, bounds) in (await log.inspect(group, topics)).items():
        reached = bounds.first if position.offset is None else position.offset
        gauge = metrics.LAG_RECORDS.labels(partition.topic, str(partition.number))
        gauge.set(max(0, bounds.end - reached))
    overdue = await log.overdue(group, topics, now_ms=int(time.time() * 1000))
    metrics.OVERDUE_PARTITIONS.set(len(overdue))
    for partition in overdue:
        logger.warning(
            "%s/%d: unread records are past half of the log's retention. Add loaders, or raise retention.ms.",
            partition.topic,
            partition.number,
        )
