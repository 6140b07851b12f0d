"""Every metric pinstream exports: a closed list. A name that is not here cannot be counted.

Prometheus text format; labels come from closed sets only (never a site's or a visitor's text).

A process counts in its memory. Processes that are one to the outside (the workers of `collect`) count in files of one
folder instead, so that what a process counted outlives it; which of the two is decided by `environment`.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.parser import text_string_to_metric_families

logger = logging.getLogger(__name__)

_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"  # the client library reads it when it is imported
_PROCESS: Final = "PROMETHEUS_MULTIPROC_PROCESS"
_FILE_BYTES: Final = 1 << 16  # of each file, and all that our closed lists can fill

REGISTRY: Final = CollectorRegistry()
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_MS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
_S: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)


def environment(folder: Path, process: str) -> dict[str, str]:
    """What must be in a process's environment before it starts to count in `folder`.

    `process`: a name without `_` that no other running process has. Whoever takes it next goes on where the one before
    ended, so there are as many files as names, however often a process dies.
    """
    return {_FOLDER: str(folder), _PROCESS: process}


def clear(folder: Path) -> None:
    """Begin at zero, before the first process counts in `folder`. Raises OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


def _count_in_files(folder: Path, process: str) -> None:
    _forget_gauges(folder, process)  # of who had the name before; its counters stay
    try:
        for kind in ("counter", "histogram", "gauge_livesum", "gauge_livemax"):
            with open(folder / f"{kind}_{process}.db", "ab") as file:
                if not file.tell():
                    file.write(bytes(_FILE_BYTES))  # else, on a full disk, the first count would be a SIGBUS
    except OSError as exc:
        logger.warning("Cannot write in %s (%s): what this process counts will be missing.", folder, exc.strerror)
        values.ValueClass = values.MutexValue
    else:
        values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]


def _forget_gauges(folder: Path, process: str) -> None:
    mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]


if _PROCESS in os.environ:
    _count_in_files(Path(os.environ[_FOLDER]), os.environ[_PROCESS])


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(f"pinstream_{name}", meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str, all_: Literal["livesum", "livemax"] = "livesum") -> Gauge:
    """`all_`: what the gauges of several processes say together."""
    return Gauge(f"pinstream_{name}", meaning, labels, registry=REGISTRY, multiprocess_mode=all_)


def _histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"pinstream_{name}", meaning, labels, buckets=buckets, registry=REGISTRY)


# collect. Loss identity: received = durable + dropped (by reason) + refused (by reason)
RECEIVED = _counter("received_total", "Events received, valid or not.")
DURABLE = _counter("durable_total", "Events answered after they were durable in the log.")
DROPPED = _counter("dropped_total", "Events dropped by policy.", "reason")
REFUSED = _counter("refused_total", "Events refused.", "reason")
RATE_LIMIT_DRY_RUN = _counter("rate_limit_dry_run_total", "Events that enforced limits would have refused.", "scope")
REQUESTS = _counter("requests_total", "Requests answered.", "route", "status")
HTTP_REFUSED = _counter(
    "http_refused_total",
    "Requests and connections refused before a route saw them: too many, too slow, too large, no HTTP.",
    "reason",
)
ANSWER_MS = _histogram(
    "answer_ms",
    "From a request's last byte to its answer, milliseconds, of one in 32 answers; "
    "requests are counted in requests_total.",
    _MS,
)
GROUP_RECORDS = _histogram("group_records", "Records in one append.", (1, 5, 20, 50, 100, 500, 1000, 5000))
APPEND_MS = _histogram("append_ms", "One append to the log until durable, milliseconds.", _MS)
PENDING_BYTES = _gauge("pending_bytes", "Bytes that wait for the log.")
ANSWERS_UNDELIVERED = _counter("answers_undelivered_total", "Answers whose client had left; their events count.")
SPOOLING = _gauge("spooling", "1 while Kafka is away and records go to the spool.")
SPOOLED = _counter("spooled_total", "Records that went to the spool, answered before Kafka had them.")
DRAINED = _counter("drained_total", "Spooled records that have arrived in Kafka.")
SPOOL_RECORDS = _gauge("spool_records", "Records in the spool files of this process.")
SPOOL_BYTES = _gauge("spool_bytes", "Bytes in use by the spool files of this process.")
SNAPSHOT_AGE_S = _gauge("snapshot_age_seconds", "Age of the sites and keys in use.", all_="livemax")

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


_TALLY: dict[Counter, float] = {}


def tally(counter: Counter, amount: float) -> None:
    """Count in a hot loop: for a fraction of what `inc` costs, but exported only by the next `flush`."""
    _TALLY[counter] = _TALLY.get(counter, 0) + amount


def flush() -> None:
    """Export what was tallied. Belongs before whatever answers, so that nobody hears of what is not counted."""
    for counter, amount in _TALLY.items():
        counter.inc(amount)
    _TALLY.clear()


def exposition() -> bytes:
    """This process's metrics in Prometheus's text format."""
    return generate_latest(REGISTRY)


def counted(exposition: str, counter: Counter) -> dict[str, float]:
    """What an exposition says of a counter with one label: each label value that was counted. Raises ValueError."""
    (family,) = counter.describe()
    return {
        next(iter(sample.labels.values())): sample.value
        for found in text_string_to_metric_families(exposition)
        if found.name == family.name
        for sample in found.samples
        if sample.name == f"{found.name}_total" and sample.value
    }


def exposition_of(folder: Path, running: Collection[str]) -> bytes:
    """The sum over all processes that ever counted in `folder`; gauges only of those that are `running`."""
    for name in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")} - set(running):
        _forget_gauges(folder, name)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
