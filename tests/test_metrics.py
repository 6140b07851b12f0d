"""Counting in several processes that are one to the outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pinstream import metrics

COUNT = "from pinstream import metrics; metrics.RECEIVED.inc({n}); metrics.PENDING_BYTES.set({n})"


def run(folder: Path, process: str, code: str) -> str:
    """Run `code` as a process that counts in `folder`; gives what it logs."""
    environment = os.environ | metrics.environment(folder, process)
    done = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True, check=True)
    return done.stderr


def value(exposition: bytes, name: str) -> float:
    (found,) = (line.split()[1] for line in exposition.decode().splitlines() if line.startswith(f"{name} "))
    return float(found)


@pytest.mark.slow
def test_counters_outlive_their_process_and_gauges_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    metrics.clear(folder)
    for process, n in (("one", 1), ("two", 2), ("one", 4)):
        run(folder, process, COUNT.format(n=n))
    assert len(list(folder.glob("counter_*"))) == 2  # a name is used again, and so is its file
    assert all(
        file.stat().st_blocks * 512 >= file.stat().st_size for file in folder.iterdir()
    )  # no holes to fill later
    both = metrics.exposition_of(folder, {"one", "two"})
    assert value(both, "pinstream_received_total") == 7
    assert value(both, "pinstream_pending_bytes") == 6
    assert b"pid=" not in both
    left = metrics.exposition_of(folder, {"two"})
    assert value(left, "pinstream_received_total") == 7
    assert value(left, "pinstream_pending_bytes") == 2
    metrics.clear(folder)
    assert metrics.exposition_of(folder, ()) == b""


@pytest.mark.slow
def test_without_room_for_its_files_a_process_works_all_the_same(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
    folder = tmp_path / "metrics"
    metrics.clear(folder)
    assert "will be missing" in run(folder, "one", limit + COUNT.format(n=1))
