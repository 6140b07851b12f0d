"""A real Kafka for tests: one for the whole session, or one of its own for a test that hurts it.

KAFKA_BOOTSTRAP names another one. Without Java or Maven the tests are skipped, in CI they fail.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "kafka"
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
"""For each java that a test starts: brokers live for seconds, optimizing them costs more than it gives."""
NEEDED = {"java": "openjdk-17-jre-headless", "mvn": "maven"}


def _run(command: str, directory: Path, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), command, "--dir", str(directory), *more], capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(f"scripts/kafka {command}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def need_kafka() -> None:
    """Skip where Kafka cannot be started, fail where it must be."""
    missing = [f"{tool} (apt-get install {package})" for tool, package in NEEDED.items() if not shutil.which(tool)]
    if missing and os.environ.get("CI"):
        pytest.fail(f"Kafka needs {' and '.join(missing)}.")
    if missing:
        pytest.skip(f"Kafka needs {' and '.join(missing)}.")


class Broker:
    """A Kafka in `directory`; `nodes` 1 or 3. The ports stay the same from start to start."""

    def __init__(self, directory: Path, nodes: int = 1) -> None:
        self.directory = directory
        self.nodes = nodes

    @property
    def bootstrap(self) -> str:
        layout = json.loads((self.directory / "layout.json").read_text())
        return ",".join(f"127.0.0.1:{node['port']}" for node in layout)

    def start(self) -> str:
        return _run("start", self.directory, "--port", "0", "--nodes", str(self.nodes))

    def stop(self) -> None:
        _run("stop", self.directory)

    def signal(self, number: signal.Signals, node: int = 1) -> None:
        """SIGSTOP, SIGCONT or SIGKILL one node."""
        os.kill(int((self.directory / f"node{node}" / "pid").read_text()), number)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap of a Kafka that all tests share: use topics of your own."""
    if named := os.environ.get("KAFKA_BOOTSTRAP"):
        yield named
        return
    need_kafka()
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    yield broker.start()
    broker.stop()


@pytest.fixture(scope="session")
def _spare_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    need_kafka()
    broker = Broker(tmp_path_factory.mktemp("spare-kafka"))
    yield broker
    broker.stop()


@pytest.fixture
def private_kafka(_spare_kafka: Broker) -> Broker:
    """A running Kafka that the test may stop, freeze and kill. Tests share it one after the other: use new topics."""
    with suppress(FileNotFoundError, ProcessLookupError):
        _spare_kafka.signal(signal.SIGCONT)
    _spare_kafka.start()
    return _spare_kafka


@pytest.fixture
def kafka_cluster(tmp_path: Path) -> Iterator[Broker]:
    """Three nodes of this test's own, started."""
    need_kafka()
    broker = Broker(tmp_path / "kafka", nodes=3)
    broker.start()
    yield broker
    broker.stop()
