"""Pure: which records can never be loaded, and what is kept of them.

A record is good if its bytes are exactly what our encoder writes for a valid struct. That is stricter than
"decodes", on purpose: a repeated key, an unknown field or a number beyond its column would fail the whole
block in ClickHouse, and every record of ours was written by that encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import msgspec

from pinstream import event
from pinstream.eventlog.contract import Stored

FORMAT: Final = 1
"""Version of these checks. A range is always judged by the version in its intent."""


def _check(struct: type[msgspec.Struct]) -> Callable[[bytes], bool]:
    decode = msgspec.json.Decoder(struct).decode
    uint64 = [field.name for field in msgspec.structs.fields(struct) if field.type == event.UInt64]

    def is_valid(value: bytes) -> bool:
        try:
            if not value.isascii():
                value.decode()  # msgspec leaves Raw fields unread
            record = decode(value)
            if event.encode(record) != value:
                return False
            for name in uint64:  # noqa: SIM110  a generator costs as much as the loop's body, a record
                if getattr(record, name) > event.MAX_UINT64:
                    return False
            return True
        except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError):
            return False

    return is_valid


CHECKS: Final[dict[str, Callable[[bytes], bool]]] = {
    event.EVENTS: _check(event.Event),
    event.ENGAGEMENTS: _check(event.Engagement),
    event.REJECTED: _check(event.Rejection),
}
"""Topic -> is this value a record that loads?"""


def rejection(topic: str, record: Stored, secret: bytes) -> bytes:
    """What is kept of a bad record, as JSON. Depends on the record and the installation's `secret` alone."""
    digest = hashlib.blake2b(record.value, digest_size=16, key=secret[:64]).hexdigest()
    kept = event.Rejection(
        received_ms=min(max(record.appended_ms, 0), event.MAX_TIME_MS),
        reason="bad_record",
        step="load",
        size_bytes=len(record.value),
        payload_hash=digest,
        topic=topic,
    )
    return event.encode(kept)


def too_many(bad: int, total: int, *, max_ratio: float, min_records: int) -> bool:
    """Is this so bad that stopping beats filling `rejected`? A bad deploy must become lag, not an empty table."""
    return total >= min_records and bad > max_ratio * total
