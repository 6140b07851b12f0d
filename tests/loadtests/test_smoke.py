"""The judgement, and a short smoke from start to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from loadtests.truth import Accepted, Arrived, Judgement, judge

from pinstream.event import REASONS

ROOT = Path(__file__).parents[2]
QUIET = {"resent": 0, "unanswered": 0, "withdrawn": 0}


def judged(arrived: Arrived, **changes: int) -> Judgement:
    return judge(QUIET | changes, {"events": 10}, {"events": arrived})


@pytest.mark.parametrize(
    ("arrived", "ledger", "broken"),
    [
        (Arrived(10, 10, 10, 0), {}, {}),
        (Arrived(9, 9, 9, 0), {}, {"lost": 1}),
        (Arrived(10, 10, 9, 0), {}, {"lost": 1}),  # there, but not counted
        (Arrived(10, 10, 11, 0), {}, {"doubled": 1}),
        (Arrived(10, 10, 10, 2), {}, {"doubled": 2}),
        (Arrived(10, 12, 12, 0), {}, {"doubled": 2, "strange": 2}),  # nobody was told of two
        (Arrived(10, 12, 12, 0), {"withdrawn": 2}, {}),
        (Arrived(10, 10, 10, 0), {"withdrawn": 2}, {"lost": 2}),
        (Arrived(10, 12, 12, 0), {"unanswered": 2}, {}),
        (Arrived(10, 10, 12, 0), {"resent": 2}, {}),
        (Arrived(10, 10, 12, 1), {"resent": 2}, {"doubled": 1}),
    ],
)
def test_lost_and_doubled_show_at_both_levels(arrived: Arrived, ledger: dict[str, int], broken: dict[str, int]) -> None:
    found = judged(arrived, **ledger)
    assert {name: n for name in ("lost", "doubled", "strange") if (n := getattr(found, name))} == broken


def test_the_users_file_is_read_on_and_half_a_line_waits(tmp_path: Path) -> None:
    accepted = Accepted(tmp_path / "accepted")
    accepted.read()
    assert len(accepted) == 0
    accepted.path.write_text("events 5 a\nengagements 6 b\nevents 7")
    accepted.read()
    accepted.read()
    assert accepted.answered_ms == {"events": {"a": 5}, "engagements": {"b": 6}}
    with accepted.path.open("a") as file:
        file.write(" c\n")
    accepted.read()
    assert accepted.answered_ms["events"] == {"a": 5, "c": 7}


@pytest.mark.slow
def test_a_smoke_that_is_stopped_early_still_tells_the_truth_and_leaves_nobody_behind() -> None:
    argv = [sys.executable, "-m", "loadtests.smoke", "smoke", "--json", "--users", "20", "--seconds", "60"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PINSTREAM_")}
    process = subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    told = []
    try:
        for line in process.stderr:
            told.append(line)
            if (count := re.search(r"(\d+) accepted", line)) and int(count[1]) > 300:
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGINT)
                break
        printed, rest = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, "".join(told) + rest
    summary: dict[str, Any] = json.loads(printed.splitlines()[-1])
    assert summary["in_clickhouse"] == summary["accepted"] > 300
    assert [summary[name] for name in ("lost", "doubled", "unexpected", "unanswered")] == [0, 0, 0, 0]
    assert summary["rejected"].keys() <= REASONS.keys() >= summary["dropped"].keys()
    assert summary["rejected"]
    assert summary["dropped"]
    assert summary["engine"] == "journal"
    assert 0 < summary["freshness_ms"]["p50"] <= summary["freshness_ms"]["p99"]
    assert summary["seconds"] < 60
    assert len(children) >= 5  # up, its three roles, locust
    deadline = time.monotonic() + 10
    while any(child.is_running() for child in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.1)
