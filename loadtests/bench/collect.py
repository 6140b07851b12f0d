"""`scripts/bench collect`: ours and its peers in turn under wrk, and after each run the count in Kafka."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from loadtests.bench import broker, report, servers, traffic, wrk
from loadtests.bench.parts import Fault, need
from loadtests.bench.processes import ROOT, cores
from loadtests.bench.report import Sample
from loadtests.bench.servers import Server

DOCUMENT: Final = ROOT / "docs" / "benchmarks.md"
WARM_UP_S: Final = 2


@dataclass(frozen=True)
class Case:
    """A server under one kind of requests. `promises`: its count in Kafka must hold."""

    server: str
    make: Callable[[int, int], list[bytes]] = traffic.singles
    status: int = 204
    says: bytes = b""
    """What the head of its answer must hold."""
    events: int = 1
    promises: bool = True


CASES: Final = {
    "nginx_204": Case("nginx_204", promises=False),
    "floor": Case("floor", promises=False),
    "ours": Case("ours", says=b"set-cookie: ps_vid="),
    "nginx_lua": Case("nginx_lua", promises=False),
    "naive": Case("naive"),
    "batch50": Case("ours", traffic.batches, says=b"set-cookie: ps_vid=", events=traffic.BATCH),
    "pixel": Case("ours", traffic.pixels, status=200, says=b"set-cookie: ps_vid="),
}
"""In the order in which each round runs them."""


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    seconds: float
    rounds: int
    only: Sequence[str]
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What was measured, and which counts do not hold."""

    samples: Mapping[str, Sequence[Sample]]
    faults: Sequence[str]

    @property
    def result(self) -> dict[str, Any]:
        return report.summary(self.samples)


def run(options: Options) -> Outcome:
    """Measure every case in every round.

    Raises:
        Fault: something is missing, does not start, or answers otherwise than it should.
    """
    need("wrk", "taskset")
    cases = {name: case for name, case in CASES.items() if name in options.only}
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    with workplace() as home, ExitStack() as stack:
        started = _start(stack, home, {case.server for case in cases.values()}, options.settings)
        for number in range(1, options.rounds + 1):
            for name, case in cases.items():
                requests = home / f"{case.make.__name__}.requests"
                # of now: a browser's clock is right, and an old `sent_at` would be taken for a wrong one
                traffic.write(requests, case.make(time.time_ns() % 2**32, time.time_ns() // 1_000_000))
                server = started[case.server]
                if number == 1:
                    check(name, case, server, traffic.read(requests)[0])
                    wrk.load(server.port, requests, seconds=WARM_UP_S, core=cores()[1])
                sample = measure(case, server, requests, options.seconds)
                samples[name].append(sample)
                progress(f"round {number}/{options.rounds}  {name:9}  {_line(sample)}")
    faults = []
    for name, runs in samples.items():
        found = report.count_faults(name, runs, wrk.CONNECTIONS)
        if cases[name].promises:
            faults += found
        else:
            for fault in found:
                progress(f"{fault} (it promised nothing)")
    return Outcome(samples, faults)


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder on the checkout's disk, for the servers' files; gone at the end."""
    place = ROOT / ".data" / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as home:
        yield Path(home)


def _start(stack: ExitStack, home: Path, wanted: set[str], settings: Mapping[str, str]) -> dict[str, Server]:
    """All servers at once: they idle while another one is measured."""
    core, both = cores()[0], cores()
    found: dict[str, Server] = {}
    if wanted & {"ours", "naive"}:
        progress(f"starting Kafka {broker.CURRENT}")
        current = stack.enter_context(broker.kafka(home / "kafka", broker.CURRENT, both))
        if "ours" in wanted:
            found["ours"] = stack.enter_context(servers.ours(home / "ours", core, current, settings))
        if "naive" in wanted:
            found["naive"] = stack.enter_context(servers.naive(home / "naive", core, current))
    if "nginx_204" in wanted:
        found["nginx_204"] = stack.enter_context(servers.nginx_204(home / "nginx_204", core))
    if "floor" in wanted:
        found["floor"] = stack.enter_context(servers.floor(home / "floor", core))
    if "nginx_lua" in wanted:
        progress(f"starting Kafka {broker.OLD}")
        old = stack.enter_context(broker.kafka(home / "old-kafka", broker.OLD, both))
        found["nginx_lua"] = stack.enter_context(servers.nginx_lua(home / "nginx_lua", core, old))
    return found


def check(name: str, case: Case, server: Server, request: bytes) -> None:
    """Send one request as it will be sent while measuring. Raises Fault if it is not taken."""
    status, head = servers.answer(server.port, request)
    if status != case.status or case.says not in head.lower():
        wanted = f"{case.status}{' with ' + case.says.decode() if case.says else ''}"
        raise Fault(f"{name} should answer {wanted}, and says:\n{head.decode(errors='replace')}")


def measure(case: Case, server: Server, requests: Path, seconds: float) -> Sample:
    """One run of wrk."""
    before = server.records() if server.topic else 0
    cpu_s = server.process.cpu_s()
    loaded = wrk.load(server.port, requests, seconds=seconds, core=cores()[1])
    cpu_s, rss_bytes = server.process.cpu_s() - cpu_s, server.process.rss_bytes()
    if not loaded.answered:
        raise Fault(f"wrk got no answer, and {loaded.errors:,} errors.")
    if loaded.errors or loaded.timeouts:
        progress(f"wrk counted {loaded.errors:,} errors and {loaded.timeouts:,} answers later than 10 s")
    return Sample(
        seconds=loaded.seconds,
        answered=loaded.answered * case.events,
        in_kafka=server.records() - before if server.topic else None,
        p50_ms=loaded.p50_ms,
        p99_ms=loaded.p99_ms,
        cpu_s=cpu_s,
        rss_bytes=rss_bytes,
        errors=loaded.errors,
        events_per_request=case.events,
    )


def _line(sample: Sample) -> str:
    kept = "" if sample.in_kafka is None else f", {sample.in_kafka:,} in Kafka"
    return (
        f"{sample.rps:>8,.0f} req/s  p99 {sample.p99_ms:>6.1f} ms  {sample.cpu_us_per_event:>6.1f} us an event  "
        f"{sample.answered:,} events answered{kept}"
    )


def progress(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def shown(outcome: Outcome) -> str:
    """The tables, in Markdown."""
    return f"{report.table(outcome.samples)}\n\n{report.goals(report.verdicts(outcome.result))}"


def write(part: str, name: str) -> None:
    """Put a part into docs/benchmarks.md, between the markers of `name`."""
    DOCUMENT.write_text(report.written(DOCUMENT.read_text(), name, part))


def write_row(head: Sequence[str], row: Sequence[str], name: str) -> None:
    """Put a row into a table of docs/benchmarks.md that keeps those of other runs (`report.with_row`)."""
    DOCUMENT.write_text(report.with_row(DOCUMENT.read_text(), name, head, row))


def circumstances(command: str) -> str:
    """A sentence on the command, the code and the machine, without names of hosts."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"`{command}` at commit {described.stdout.strip() or 'unknown'}, {time.strftime('%Y-%m-%d')}. "
        f"{os.cpu_count()} CPUs ({names[0] if names else platform.machine()}), {memory:.0f} GiB, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}; Kafka {broker.CURRENT}; "
        f"load average {os.getloadavg()[2]:.1f} in the quarter of an hour before the end."
    )
