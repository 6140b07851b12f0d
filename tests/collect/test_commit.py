"""Group commit: who shares an append, who is told what, and what is bounded. The log here is driven by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pinstream.collect import commit
from pinstream.collect.commit import RECORD_OVERHEAD_BYTES, Committer
from pinstream.errors import Fatal, LogError, Retryable, Uncertain
from pinstream.eventlog.contract import Record
from pinstream.settings import Collect


class Drum:
    """A log whose appends take as long, and fail, as the test says."""

    def __init__(self) -> None:
        self.groups: list[list[bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.faults: list[Any] = []

    async def append(self, records: Sequence[Record]) -> None:
        self.groups.append([record.value for record in records])
        await self.gate.wait()
        fault = self.faults.pop(0) if self.faults else None
        if callable(fault):
            fault = fault(records)
        if fault:
            raise fault

    async def ready(self) -> None: ...

    async def aclose(self) -> None: ...


def record(value: bytes) -> Record:
    return Record("pinstream.events", 0, value)


@asynccontextmanager
async def committing(drum: Drum, **settings: Any) -> AsyncIterator[Committer]:
    committer = Committer(drum, Collect(**{"commit_interval_ms": 0, **settings}))
    committer.start()
    try:
        yield committer
    finally:
        drum.gate.set()
        await committer.aclose()


async def test_an_idle_log_gets_a_request_at_once() -> None:
    drum = Drum()
    async with committing(drum, commit_interval_ms=1000) as committer:
        started = time.monotonic()
        await committer.commit([record(b"a")])
        assert time.monotonic() - started < 1
    assert drum.groups == [[b"a"]]


async def test_requests_within_an_interval_share_an_append() -> None:
    drum = Drum()
    async with committing(drum, commit_interval_ms=100) as committer:
        started = time.monotonic()
        await committer.commit([record(b"first")])
        await asyncio.gather(*(committer.commit([record(b"%d" % n)]) for n in range(50)))
        assert time.monotonic() - started > 0.09
    assert drum.groups == [[b"first"], [b"%d" % n for n in range(50)]]


async def test_nobody_is_answered_before_the_append_is_through() -> None:
    drum = Drum()
    drum.gate.clear()
    async with committing(drum) as committer:
        task = asyncio.create_task(committer.commit([record(b"a")]))
        await asyncio.sleep(0.05)
        assert not task.done()
        drum.gate.set()
        await task


async def test_a_client_that_left_does_not_disturb_the_others() -> None:
    drum = Drum()
    drum.gate.clear()
    async with committing(drum) as committer:
        gone, stays = (asyncio.create_task(committer.commit([record(value)])) for value in (b"a", b"b"))
        await asyncio.sleep(0.01)
        gone.cancel()
        drum.gate.set()
        await stays
        assert committer._pending_bytes == 0


async def test_a_fault_reaches_everybody_of_the_group_and_nobody_after() -> None:
    drum = Drum()
    drum.faults = [Retryable("away")]
    async with committing(drum) as committer:
        results = await asyncio.gather(
            *(committer.commit([record(b"%d" % n)]) for n in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [Retryable] * 3
        await committer.commit([record(b"later")])


@pytest.mark.parametrize("kind", [Retryable, Uncertain])
async def test_a_fault_that_names_records_leaves_the_others_durable(kind: type[LogError]) -> None:
    def second_only(records: Sequence[Record]) -> LogError:
        fault = Uncertain("late", records[1:2], asyncio.get_running_loop().create_future())
        if kind is Uncertain:
            return fault
        away = Retryable("away")
        away.records = records[1:2]  # type: ignore[attr-defined,unused-ignore]
        return away

    drum = Drum()
    drum.faults = [second_only]
    async with committing(drum) as committer:
        results = await asyncio.gather(
            *(committer.commit([record(value)]) for value in (b"a", b"b", b"c")), return_exceptions=True
        )
    assert [type(result) for result in results] == [type(None), kind, type(None)]


async def test_a_record_the_log_never_takes_costs_only_its_own_request() -> None:
    drum = Drum()
    drum.faults = [Fatal("too large"), None, Fatal("too large"), Fatal("too large"), None]
    async with committing(drum) as committer:
        results = await asyncio.gather(
            *(committer.commit([record(value)]) for value in (b"a", b"b", b"c")), return_exceptions=True
        )
    assert [type(result) for result in results] == [type(None), Fatal, type(None)]
    assert drum.groups == [[b"a", b"b", b"c"], [b"a"], [b"b", b"c"], [b"b"], [b"c"]]


async def test_two_refused_requests_among_hundreds_are_found_by_halves() -> None:
    def refuse(records: Sequence[Record]) -> LogError | None:
        return Fatal("too large") if any(each.value in (b"7", b"400") for each in records) else None

    drum = Drum()
    drum.faults = [refuse] * 1000
    async with committing(drum) as committer:
        results = await asyncio.gather(
            *(committer.commit([record(b"%d" % n)]) for n in range(512)), return_exceptions=True
        )
        assert committer._pending_bytes == 0
    assert [n for n, result in enumerate(results) if result] == [7, 400]
    taken = [value for group in drum.groups if not {b"7", b"400"} & set(group) for value in group]
    assert taken == [b"%d" % n for n in range(512) if n not in (7, 400)], "each once, in the order of arrival"
    assert len(drum.groups) < 40


async def test_a_fault_that_nobody_foresaw_is_logged_and_leaves_the_log_open(caplog: pytest.LogCaptureFixture) -> None:
    drum = Drum()
    drum.faults = [KeyError("a client library's own")]
    async with committing(drum) as committer:
        results = await asyncio.gather(
            *(committer.commit([record(value)]) for value in (b"a", b"b")), return_exceptions=True
        )
        for value, result in zip((b"a", b"b"), results, strict=True):
            assert isinstance(result, Uncertain)
            assert [each.value for each in result.records] == [value]
            assert not await result.settled
        assert "a client library's own" in caplog.text
        committer.check()
        await committer.commit([record(b"later")])


async def test_what_waits_is_bounded_in_bytes() -> None:
    drum = Drum()
    drum.gate.clear()
    bound = 1 << 20
    async with committing(drum, max_pending_bytes=bound) as committer:
        rest = bound - 10 * RECORD_OVERHEAD_BYTES
        waiting = [asyncio.create_task(committer.commit([record(b"x" * (rest // 10))])) for _ in range(9)]
        await asyncio.sleep(0.01)
        committer.check()
        last = rest - 9 * (rest // 10)
        with pytest.raises(Retryable) as caught:
            await committer.commit([record(b"x" * (last + 1))])
        assert caught.value.reason == "log_full"
        waiting.append(asyncio.create_task(committer.commit([record(b"x" * last)])))
        await asyncio.sleep(0.01)
        with pytest.raises(Retryable) as caught:
            committer.check()
        assert caught.value.reason == "log_full"
        committer.leave([record(b"no room")])
        drum.gate.set()
        await asyncio.gather(*waiting)
        committer.check()


async def test_a_group_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "MAX_GROUP_BYTES", 3 * (RECORD_OVERHEAD_BYTES + 1))
    drum = Drum()
    async with committing(drum) as committer:
        await asyncio.gather(*(committer.commit([record(b"%d" % n)]) for n in range(5)))
    assert [len(group) for group in drum.groups] == [3, 2]


async def test_records_nobody_waits_for_are_appended_and_may_fail() -> None:
    drum = Drum()
    drum.faults = [Retryable("away")]
    async with committing(drum) as committer:
        committer.leave([record(b"a")])
        await asyncio.sleep(0.02)
        committer.leave([record(b"b")])
    assert drum.groups == [[b"a"], [b"b"]]


async def test_closing_appends_what_waits_and_takes_no_more() -> None:
    drum = Drum()
    drum.gate.clear()
    committer = Committer(drum, Collect(commit_interval_ms=1000))
    committer.start()
    first = asyncio.create_task(committer.commit([record(b"a")]))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(committer.commit([record(b"b")]))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(committer.aclose())
    await asyncio.sleep(0.01)
    with pytest.raises(Retryable):
        await committer.commit([record(b"c")])
    drum.gate.set()
    await asyncio.gather(first, second, closing)
    assert drum.groups == [[b"a"], [b"b"]]


async def test_closing_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "DRAIN_S", 0.05)
    drum = Drum()
    drum.gate.clear()
    committer = Committer(drum, Collect())
    committer.start()
    tasks = [asyncio.create_task(committer.commit([record(b"a")]))]
    await asyncio.sleep(0.01)
    tasks.append(asyncio.create_task(committer.commit([record(b"b")])))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(committer.aclose(), 2)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Retryable, Retryable]
