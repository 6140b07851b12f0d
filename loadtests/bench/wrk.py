"""wrk, the closed loop: every connection sends its next request when the last one is answered."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests.bench.parts import Fault
from loadtests.bench.processes import pinned

CONNECTIONS: Final = 256
SCRIPT: Final = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Loaded:
    """What wrk saw. `answered` has 2xx and 3xx only; `errors` are other statuses and broken connections."""

    seconds: float
    answered: int
    errors: int
    timeouts: int
    p50_ms: float
    p99_ms: float

    @property
    def rps(self) -> float:
        return self.answered / self.seconds


def load(port: int, requests: Path, *, seconds: float, core: int) -> Loaded:
    """Load the server on `port` with CONNECTIONS connections from one thread on `core`.

    Raises:
        Fault: wrk failed.
    """
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(SCRIPT)]
    command = pinned([core], ["wrk", *options, f"http://127.0.0.1:{port}/", "--", str(requests)])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Fault(f"wrk failed: {done.stdout}{done.stderr}")
    return parse(done.stdout)


def parse(output: str) -> Loaded:
    """The line that wrk.lua's `done` printed.

    Raises:
        Fault: there is none.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            found = json.loads(line)
            return Loaded(
                seconds=found["duration_us"] / 1e6,
                answered=found["requests"] - found["status"],
                errors=found["status"] + found["connect"] + found["read"] + found["write"],
                timeouts=found["timeout"],
                p50_ms=found["p50_us"] / 1000,
                p99_ms=found["p99_us"] / 1000,
            )
    raise Fault(f"wrk printed no result: {output}")
