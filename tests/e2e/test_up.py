"""`pinstream up` as an operator runs it: all roles, an orderly end, and everything still there afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.warehouse_server import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"


class Up:
    """One installation on ports of its own, which can be started again and again."""

    def __init__(self, folder: Path) -> None:
        self.port, self.warehouse, self.console = free_port(), free_port(), free_port()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PINSTREAM_")}
        self.environment = clean | {
            "PINSTREAM_DATA_DIR": str(folder),
            "PINSTREAM_COLLECT__PORT": str(self.port),
            "PINSTREAM_COLLECT__OPS_PORT": str(free_port()),
            "PINSTREAM_LOAD__OPS_PORT": str(free_port()),
            "PINSTREAM_CONSOLE__PORT": str(self.console),
            "PINSTREAM_CONSOLE__OPS_PORT": str(free_port()),
            "PINSTREAM_WAREHOUSE__URL": f"http://127.0.0.1:{self.warehouse}",
            "PINSTREAM_SITE__TAG_ID": "shop",
            "PINSTREAM_SITE__ORIGINS": '["*"]',
        }
        self.processes: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "pinstream", *arguments]
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=120)

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pinstream", "up"], env=self.environment, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "takes events at" in line:
                return process
        raise AssertionError("".join(lines))

    def send(self, event_id: str) -> int:
        event = {"site": "shop", "consent": "yes", "event": "page_visit", "event_id": event_id}
        return httpx.post(
            f"http://127.0.0.1:{self.port}/p/i", json=event, headers={"User-Agent": AGENT}, trust_env=False
        ).status_code

    def count(self) -> int:
        done = self.run("sql", "SELECT count() FROM events FINAL")
        return int(done.stdout.split()[-1]) if done.returncode == 0 else -1


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path / "data")
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def until(holds: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


def test_events_survive_a_stop_right_after_the_answer_and_a_killed_supervisor(up: Up) -> None:
    first = up.start()
    roles = psutil.Process(first.pid).children(recursive=True)
    assert [up.send(f"a{number}") for number in range(20)] == [204] * 20
    first.terminate()
    assert first.wait(60) == 0
    until(lambda: not any(role.is_running() for role in roles), "every role has ended")

    second = up.start()
    roles = psutil.Process(second.pid).children(recursive=True)
    until(lambda: up.count() == 20, "what was answered before the stop is in ClickHouse")
    assert up.send("b") == 204
    second.send_signal(signal.SIGKILL)
    second.wait()
    until(lambda: not any(role.is_running() for role in roles), "the roles end by themselves")

    third = up.start()
    until(lambda: up.count() == 21, "what was answered before the kill is in ClickHouse")
    third.terminate()
    assert third.wait(60) == 0


def test_a_second_one_is_refused_and_leaves_the_first_alone(up: Up) -> None:
    first = up.start()
    done = up.run("up")
    assert done.returncode == 1
    assert "Another `pinstream up`" in done.stderr
    assert up.send("a") == 204
    assert first.poll() is None


def test_the_admin_api_answers_and_is_started_again(up: Up) -> None:
    process = up.start()
    key = json.loads(up.run("keys", "create", "--site", "shop", "--label", "crm", "--may-import", "--json").stdout)[
        "key"
    ]
    api = httpx.Client(base_url=f"http://127.0.0.1:{up.console}", headers={"X-Api-Key": key}, trust_env=False)

    def members() -> list[int]:
        try:
            answer = api.get("/v1/lists", params={"site": "shop"})
        except httpx.TransportError:
            return []
        return [each["members"] for each in answer.json()["lists"]] if answer.status_code == 200 else []

    with api:
        made = api.post("/v1/lists", json={"site": "shop", "name": "VIP"}).json()
        added = api.post(f"/v1/lists/{made['id']}/members", json={"add": {"em": ["ann@shop.example"]}})
        assert added.json()["added"] == 1
        assert members() == [1]
        findings = json.loads(up.run("doctor", "--json").stdout)
        assert {each["check"]: each["verdict"] for each in findings}["console"] == "ok"
        (role,) = (each for each in psutil.Process(process.pid).children() if each.cmdline()[-1] == "console")
        role.kill()
        role.wait(10)
        until(lambda: members() == [1], "the admin API answers again")
    process.terminate()
    assert process.wait(60) == 0


def test_told_to_replace_workers_it_passes_that_on(up: Up) -> None:
    up.environment["PINSTREAM_COLLECT__WORKERS"] = "2"
    process = up.start()
    before = workers(process)
    assert len(before) == 2
    process.send_signal(signal.SIGHUP)
    until(lambda: len(workers(process)) == 2 and not workers(process) & before, "both workers were replaced", 60)
    assert up.send("a") == 204
    process.terminate()
    assert process.wait(60) == 0


def workers(up: subprocess.Popen[str]) -> set[int]:
    """The process ids of collect's workers."""
    found = set()
    for each in psutil.Process(up.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that is being replaced
            found |= {each.pid} if "collect-worker" in each.cmdline() else set()
    return found


def test_a_taken_port_is_one_sentence(up: Up) -> None:
    up.start()
    up.environment["PINSTREAM_DATA_DIR"] += "-2"
    done = up.run("up")
    assert done.returncode == 1
    assert f"Port {up.port} on 127.0.0.1 is taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_popular_is_told_at_once_when_asked_for_and_without_push(up: Up) -> None:
    up.environment["PINSTREAM_COLLECT__SNAPSHOT_REFRESH_S"] = "1"
    key = json.loads(up.run("keys", "create", "--json").stdout)["key"]
    up.start()
    saves = [{"action": "save", "product_id": "lamp", "user": {"em": f"p{n}@shop.example"}} for n in range(50)]
    url = f"http://127.0.0.1:{up.port}/v1/"
    body, headers = {"site": "shop", "engagements": saves}, {"X-API-Key": key}
    assert httpx.post(f"{url}engagements", json=body, headers=headers, trust_env=False).status_code == 204

    def savers() -> object:
        assert up.run("warehouse", "refresh", "--json").returncode == 0
        return httpx.get(f"{url}popular?site=shop&product=lamp", trust_env=False).json()["products"]

    until(lambda: savers() == {"lamp": {"savers": "50+", "at_least": 50}}, "fifty people are told of")
