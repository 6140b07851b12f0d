"""Every metric pinstream exports: a closed list. A name that is not here cannot be counted.

Prometheus text format; labels come from closed sets only (never a site's or a visitor's text).
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY: Final = CollectorRegistry()
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_MS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
_S: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(f"pinstream_{name}", meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(f"pinstream_{name}", meaning, labels, registry=REGISTRY)


def _histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"pinstream_{name}", meaning, labels, buckets=buckets, registry=REGISTRY)


# collect. Loss identity: received = durable + dropped (by reason) + refused (by reason)
RECEIVED = _counter("received_total", "Events received, valid or not.")
DURABLE = _counter("durable_total", "Events answered after they were durable in the log.")
DROPPED = _counter("dropped_total", "Events dropped by policy.", "reason")
REFUSED = _counter("refused_total", "Events refused.", "reason")
REQUESTS = _counter("requests_total", "Requests answered.", "route", "status")
ANSWER_MS = _histogram("answer_ms", "From a request's last byte to its answer, milliseconds.", _MS)
GROUP_RECORDS = _histogram("group_records", "Records in one append.", (1, 5, 20, 50, 100, 500, 1000, 5000))
APPEND_MS = _histogram("append_ms", "One append to the log until durable, milliseconds.", _MS)
PENDING_BYTES = _gauge("pending_bytes", "Bytes that wait for the log.")
SNAPSHOT_AGE_S = _gauge("snapshot_age_seconds", "Age of the sites and keys in use.")

# load. Loss identity: durable = loaded + dead-lettered + in log
LOADED = _counter("loaded_total", "Records inserted, by topic.", "topic")
DEAD_LETTERS = _counter("dead_letters_total", "Records that can never be loaded.", "reason")
REPLAYED = _counter("replayed_blocks_total", "Blocks inserted again because their intent was open.")
INSERT_MS = _histogram("insert_ms", "One block into ClickHouse, milliseconds.", _MS)
FRESHNESS_S = _histogram("freshness_seconds", "From received to visible in ClickHouse, newest record of a block.", _S)
LAG_RECORDS = _gauge("lag_records", "Records not yet loaded.", "topic", "partition")
OVERDUE_PARTITIONS = _gauge("overdue_partitions", "Partitions with unread records past half of the log's retention.")

# push
SYNCS = _counter("syncs_total", "Finished syncs.", "outcome")
MEMBERS_SENT = _counter("members_sent_total", "Members acknowledged by Pinterest.", "operation")
PINTEREST_CALLS = _counter("pinterest_calls_total", "Calls to Pinterest.", "operation", "status")


def exposition() -> bytes:
    """All metrics in Prometheus's text format."""
    return generate_latest(REGISTRY)
