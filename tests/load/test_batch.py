from __future__ import annotations

import json

import msgspec
import pytest

from pinstream.event import EVENTS, Event, encode
from pinstream.eventlog.contract import Intent, Partition, Stored
from pinstream.load import batch, deadletter

SECRET = b"s" * 32
EVENTS_2 = Partition(EVENTS, 2)


def stored(offset: int, value: bytes | None = None) -> Stored:
    good = encode(Event(event="checkout", event_id=f"id-{offset}", site_id=1, received_ms=1_700_000_000_000))
    return Stored(offset, good if value is None else value, 1_700_000_000_500)


def judged(*records: Stored) -> batch.Judged:
    return batch.judge(records, deadletter.CHECKS[EVENTS])


def pending(max_rows: int, max_bytes: int = 1 << 20) -> batch.Pending:
    return batch.Pending(max_rows=max_rows, max_bytes=max_bytes, is_valid=deadletter.CHECKS[EVENTS])


def intent(last: int) -> Intent:
    return Intent(last=last, rollup_version=3, format=deadletter.FORMAT)


def test_a_row_is_the_records_own_bytes_behind_its_position() -> None:
    record = stored(7)
    block = batch.build(EVENTS_2, judged(record), intent(7), SECRET)
    assert block.rows == b'{"k_partition":2,"k_offset":7,"rollup_version":3,' + record.value[1:]
    assert (block.good, block.bad, block.dead) == (1, 0, b"")


def test_the_token_names_range_and_content() -> None:
    records = [stored(5), stored(9)]
    block = batch.build(EVENTS_2, judged(*records), intent(9), SECRET)
    assert block.token.startswith("pinstream.events:2:5-9:")
    other = batch.build(EVENTS_2, judged(stored(5), stored(9, b"{}")), intent(9), SECRET)
    assert other.token != block.token
    assert batch.build(EVENTS_2, judged(*records), intent(9), SECRET) == block


def test_bad_records_leave_a_reason_and_a_hash_and_no_payload() -> None:
    block = batch.build(EVENTS_2, judged(stored(1), stored(2, b'{"event":"secret@example.com"}')), intent(2), SECRET)
    assert (block.good, block.bad) == (1, 1)
    row = json.loads(block.dead)
    assert row["k_offset"] == 2
    assert row["topic"] == EVENTS
    assert row["reason"] == "bad_record"
    assert len(row["payload_hash"]) == 32
    assert b"secret" not in block.dead


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b"[1]",
        b"not json",
        b'{"event":"a","site_id":1}',
        b' {"event":"a","site_id":1,"received_ms":1}',
        b'{"event":"a","event":"b","site_id":1,"received_ms":1}',
        b'{"event":"a","site_id":1,"received_ms":1,"k_offset":9}',
        b'{"event":"a","value":1e15,"site_id":1,"received_ms":1}',
        b'{"event":"a","order_quantity":70000,"site_id":1,"received_ms":1}',
        b'{"event":"a","currency":"USAX","site_id":1,"received_ms":1}',
        b'{"event":"a","site_id":1,"received_ms":1,"visitor_id":18446744073709551616}',
        b'{"event":"a","props":{"x":"\xff"},"site_id":1,"received_ms":1}',
        b'{"event":"a","props":' + b"[" * 10_000 + b"]" * 10_000 + b',"site_id":1,"received_ms":1}',
    ],
)
def test_what_would_fail_a_block_is_a_dead_letter(value: bytes) -> None:
    assert not deadletter.CHECKS[EVENTS](value)


def test_what_our_encoder_writes_is_good() -> None:
    event = Event(
        event="x", site_id=1, received_ms=1, value=0.1, props=msgspec.Raw(b'{"\xc3\xa4":1}'), visitor_id=2**64 - 1
    )
    assert deadletter.CHECKS[EVENTS](encode(event))


def test_a_block_is_due_when_full_or_after_the_interval() -> None:
    waiting = pending(3)
    assert not waiting.due(100.0, 1.0)
    waiting.add([stored(0)])
    assert waiting.due(100.0, 1.0)
    waiting.inserted_at = 99.5
    assert not waiting.due(100.0, 1.0)
    waiting.add([stored(1), stored(2)])
    assert waiting.full
    assert waiting.due(99.6, 1.0)


def test_a_block_is_cut_at_rows_and_at_bytes_but_never_empty() -> None:
    waiting = pending(2)
    waiting.add([stored(n) for n in range(5)])
    assert [record.offset for record in waiting.take().records] == [0, 1]
    one = len(stored(0).value)
    waiting.max_rows, waiting.max_bytes = 100, one * 2
    assert [record.offset for record in waiting.take().records] == [2, 3]
    waiting.max_bytes = 1
    assert [record.offset for record in waiting.take().records] == [4]
    assert waiting.bytes_held == 0


def test_a_block_takes_its_own_bad_records_along() -> None:
    waiting = pending(3)
    waiting.add([stored(0), stored(1, b"bad"), stored(2), stored(3), stored(4, b"bad")])
    assert waiting.take().bad == {1}
    assert waiting.bad == {4}
    assert waiting.take().bad == {4}
    assert not waiting.bad


def test_a_replay_takes_exactly_the_intents_range() -> None:
    waiting = pending(2, 1)
    waiting.add([stored(n) for n in (3, 4, 8, 9)])
    assert waiting.holds(8)
    assert not waiting.holds(10)
    assert [record.offset for record in waiting.take(8).records] == [3, 4, 8]
    assert [record.offset for record in waiting.records] == [9]


def test_the_writer_is_left_half_idle() -> None:
    assert batch.interval_s(1.0, 0.1, 3) == 1.0
    assert batch.interval_s(1.0, 0.5, 3) == 3.0


@pytest.mark.parametrize(("bad", "total", "stops"), [(19, 19, False), (10, 20, False), (11, 20, True), (0, 0, False)])
def test_load_stops_above_the_ratio_of_bad_records(bad: int, total: int, stops: bool) -> None:
    assert deadletter.too_many(bad, total, max_ratio=0.5, min_records=20) is stops
