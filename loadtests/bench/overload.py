"""`scripts/bench overload`: what ours does when three times as much comes as it can take.

The knee is found first: wrk gives an idea, then the open loop offers rising rates, and the knee is the highest rate of
204 that any of them brought. Then FACTOR times the knee is offered, and counted who got which answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtests.bench import broker, report, servers, traffic, wrk
from loadtests.bench.collect import CASES, WARM_UP_S, check, progress, workplace
from loadtests.bench.parts import Fault, need
from loadtests.bench.processes import Process, cores, pinned
from loadtests.bench.servers import Server

FACTOR: Final = 3
FIRST: Final = 0.3
"""The ramp's first rate, as a share of what wrk reached."""
RISE: Final = 1.2
STEPS: Final = 15
STEP_S: Final = 3.0
ENOUGH: Final = 0.9
"""The ramp ends when twice in a row a smaller share of the offer than this came through."""
SAMPLE_S: Final = 0.2
LATE_MS: Final = 20.0


@dataclass(frozen=True)
class Outcome:
    """The JSON object, what is not in it, and which counts do not hold."""

    result: dict[str, Any]
    seen: dict[str, Any]
    faults: list[str]


def run(seconds: float, settings: Mapping[str, str]) -> Outcome:
    """Find the knee, then offer FACTOR times as much for `seconds`.

    Raises:
        Fault: something is missing or does not start.
    """
    need("wrk", "taskset")
    with (
        workplace() as home,
        broker.kafka(home / "kafka", broker.CURRENT, cores()) as bootstrap,
        servers.ours(home / "ours", cores()[0], bootstrap, settings) as ours,
    ):
        requests = home / "requests"
        fresh(requests)
        check("ours", CASES["ours"], ours, traffic.read(requests)[0])
        knee_rps = knee(ours, requests)
        progress(f"knee: {knee_rps:,.0f} req/s; now {FACTOR} times as much for {seconds:.0f} s")
        before, rss_bytes = ours.records(), ours.process.rss_bytes()
        fresh(requests)
        with watched(ours.process) as memory:
            seen = offer(ours, requests, FACTOR * knee_rps, seconds)
        in_kafka = ours.records() - before
    return judge(knee_rps, seen, in_kafka, rss_bytes, max(memory))


def fresh(requests: Path) -> None:
    """Requests of now: a browser's clock is right."""
    traffic.write(requests, traffic.singles(time.time_ns() % 2**32, time.time_ns() // 1_000_000))


def knee(ours: Server, requests: Path) -> float:
    """The highest rate of 204, in requests a second, that an open loop brought."""
    wrk.load(ours.port, requests, seconds=WARM_UP_S, core=cores()[1])
    idea = wrk.load(ours.port, requests, seconds=STEP_S, core=cores()[1]).rps
    progress(f"wrk, {wrk.CONNECTIONS} connections: {idea:,.0f} req/s")
    best, rate, failed = 0.0, FIRST * idea, 0
    for _ in range(STEPS):
        fresh(requests)
        seen = offer(ours, requests, rate, STEP_S)
        good, offered = seen["good_in_time"] / seen["seconds"], seen["offered"] / seen["seconds"]
        progress(f"offered {offered:>8,.0f}/s  204: {good:>8,.0f}/s  p99 {seen['p99_ms']:,.0f} ms")
        best = max(best, good)
        failed = failed + 1 if good < ENOUGH * offered else 0
        if failed == 2:  # one may be a hiccup of the machine
            break
        rate *= RISE
    return best


def offer(server: Server, requests: Path, rate: float, seconds: float) -> dict[str, Any]:
    """What the open loop saw, as its process printed it."""
    arguments = ["--port", str(server.port), "--requests", str(requests)]
    arguments += ["--rate", str(rate), "--seconds", str(seconds)]
    command = pinned([cores()[1]], [sys.executable, "-m", "loadtests.bench.openloop", *arguments])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Fault(f"The load generator failed: {done.stderr}")
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if seen["lag_p99_ms"] > LATE_MS:
        progress(f"the load generator itself was late, by {seen['lag_p99_ms']:,.0f} ms (p99): its core is too busy")
    return seen


@contextmanager
def watched(process: Process) -> Iterator[list[int]]:
    """The process's resident bytes, sampled while the block runs."""
    found = [process.rss_bytes()]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            found.append(process.rss_bytes())

    thread = threading.Thread(target=watch, name="memory")
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def judge(knee_rps: float, seen: dict[str, Any], in_kafka: int, start_bytes: int, peak_bytes: int) -> Outcome:
    """Pure: what was seen -> the result."""
    answers: dict[str, int] = seen["answers"]
    refused = {status: answers.get(status, 0) for status in ("429", "503")}
    goodput = seen["good_in_time"] / seen["seconds"]
    result = {
        "knee_rps": round(knee_rps),
        "offered_rps": round(seen["offered"] / seen["seconds"]),
        "goodput_rps": round(goodput),
        "goodput_ratio": round(goodput / knee_rps, 3) if knee_rps else 0.0,
        "refused": refused,
        "retry_after": sum(refused.values()) > 0 and seen["retry_after"] == sum(refused.values()),
        "rss_mb_start": round(start_bytes / 1e6, 1),
        "rss_mb_peak": round(peak_bytes / 1e6, 1),
        "p99_ms": seen["p99_ms"],
        "unsent": seen["unsent"],
        "unanswered": seen["unanswered"],
        "answered": answers.get("204", 0),
        "in_kafka": in_kafka,
    }
    faults = []
    if in_kafka < result["answered"]:
        faults.append(f"{result['answered'] - in_kafka:,} events were answered 204 and are not in Kafka")
    strange = {status: count for status, count in answers.items() if status not in ("204", "429", "503")}
    if strange:
        faults.append(f"other answers than 204, 429 and 503: {strange}")
    return Outcome(result, seen, faults)


def shown(outcome: Outcome) -> str:
    """The figures, in Markdown."""
    found = outcome.result
    rows = [
        ["figure", "measured"],
        ["knee, req/s", f"{found['knee_rps']:,}"],
        ["offered, req/s", f"{found['offered_rps']:,}"],
        ["204 in time, req/s", f"{found['goodput_rps']:,}"],
        ["of the knee (goal: >= 0.9)", f"{found['goodput_ratio']}"],
        ["429", f"{found['refused']['429']:,}"],
        ["503", f"{found['refused']['503']:,}"],
        ["every refusal with Retry-After", "yes" if found["retry_after"] else "no"],
        ["never sent: the connection was full or closed", f"{found['unsent']:,}"],
        ["sent, never answered", f"{found['unanswered']:,}"],
        ["204, p99 ms from when it was due", f"{found['p99_ms']:,}"],
        ["load generator late, p99 ms", f"{outcome.seen['lag_p99_ms']:,}"],
        ["memory before, MB", f"{found['rss_mb_start']}"],
        ["memory at most, MB", f"{found['rss_mb_peak']}"],
        ["answered 204", f"{found['answered']:,}"],
        ["in Kafka", f"{found['in_kafka']:,}"],
    ]
    return "\n".join(report.markdown(rows))
