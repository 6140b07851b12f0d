"""`scripts/bench profile`: where the time of ours goes under load, sampled by py-spy (Python and native frames).

A sampled process runs slower: the shares are worth something, the rates are not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtests.bench import broker, report, servers, traffic, wrk
from loadtests.bench.collect import CASES, WARM_UP_S, check, progress, workplace
from loadtests.bench.overload import fresh
from loadtests.bench.parts import Fault, need
from loadtests.bench.processes import ROOT, Process, cores, pinned

PY_SPY: Final = "py-spy==0.4.3"
PLACE: Final = ROOT / ".data" / "bench-profile"
SAMPLES_PER_S: Final = 250
ROWS: Final = 30


@dataclass(frozen=True)
class Share:
    """A function's part of all samples, in percent: running itself, and with what it calls."""

    function: str
    alone: float
    with_callees: float


def run(seconds: float, settings: Mapping[str, str]) -> list[Share]:
    """Record ours under wrk for `seconds`, once for the table and once for the flame graph; both files stay in PLACE.

    Raises:
        Fault: something is missing, or this user may not look into the process.
    """
    need("wrk", "taskset")
    spy = _py_spy()
    PLACE.mkdir(parents=True, exist_ok=True)
    stacks, graph = PLACE / "collect.speedscope.json", PLACE / "collect.svg"
    with (
        workplace() as home,
        broker.kafka(home / "kafka", broker.CURRENT, cores()) as bootstrap,
        servers.ours(home / "ours", cores()[0], bootstrap, settings) as ours,
    ):
        requests = home / "requests"
        fresh(requests)
        check("ours", CASES["ours"], ours, traffic.read(requests)[0])
        for kind, target in (("speedscope", stacks), ("flamegraph", graph)):
            fresh(requests)
            wrk.load(ours.port, requests, seconds=WARM_UP_S, core=cores()[1])
            progress(f"recording {seconds:.0f} s into {target.relative_to(ROOT)}")
            with _recording(spy, ours.process, kind, target, seconds):
                wrk.load(ours.port, requests, seconds=seconds + 1, core=cores()[1])
    return shares(json.loads(stacks.read_text()))


def _py_spy() -> Path:
    """py-spy's program, from PyPI on first use."""
    program = Path(sys.executable).parent / "py-spy"
    if not program.exists():
        progress(f"installing {PY_SPY}")
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", PY_SPY], stdout=sys.stderr, check=False)
    if not program.exists():
        raise Fault(f"{PY_SPY} could not be installed (see above).")
    return program


@contextmanager
def _recording(spy: Path, process: Process, kind: str, target: Path, seconds: float) -> Iterator[None]:
    options = ["--pid", str(process.pid), "--subprocesses", "--native", "--function", "--rate", str(SAMPLES_PER_S)]
    options += ["--duration", str(round(seconds)), "--format", kind, "--output", str(target)]
    command = pinned([cores()[1]], [str(spy), "record", *options])
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        output, _ = child.communicate()
    if child.returncode:
        text = output.decode(errors="replace")
        raise Fault(f"py-spy failed; it needs root, or kernel.yama.ptrace_scope = 0.\n{text}")


def shares(recorded: Mapping[str, Any]) -> list[Share]:
    """Pure: a speedscope file -> every function's part of the main threads' samples, the busiest first.

    py-spy cannot see that a thread idles in native code, so the worker threads, which mostly do, are left out.
    """
    names = [_name(frame) for frame in recorded["shared"]["frames"]]
    alone: Counter[str] = Counter()
    with_callees: Counter[str] = Counter()
    for profile in recorded["profiles"]:
        if "MainThread" not in profile["name"]:
            continue
        for stack, weight in zip(profile["samples"], profile["weights"], strict=True):
            with_callees.update(dict.fromkeys((names[frame] for frame in stack), weight))
            alone.update({names[frame]: weight for frame in stack[-1:]})
    total = sum(alone.values())
    found = [Share(name, 100 * alone[name] / total, 100 * weight / total) for name, weight in with_callees.items()]
    return sorted(found, key=lambda each: (-each.alone, -each.with_callees))


def _name(frame: Mapping[str, Any]) -> str:
    """Function and file, the file from its package on."""
    name, file = str(frame["name"]), str(frame.get("file") or "")
    for root in ("/site-packages/", "/src/"):
        file = file.rpartition(root)[2]
    return f"{name} ({file if not file.startswith('/') else Path(file).name})" if file else name


def shown(found: Sequence[Share]) -> str:
    """The ROWS busiest functions, in Markdown."""
    rows = [["alone %", "with callees %", "function"]]
    rows += [[f"{each.alone:.1f}", f"{each.with_callees:.1f}", f"`{each.function}`"] for each in found[:ROWS]]
    return "\n".join(report.markdown(rows))
