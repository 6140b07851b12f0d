"""A real embedded warehouse in its own process, and a fresh, migrated database for a test that asks for one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from pinstream import settings
from pinstream.warehouse import schema
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.migrate import migrate

PASSWORD = "test-password"
ANALYST_PASSWORD = "analysts-password"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedProcess:
    """`pinstream warehouse` on a folder and a port of its own; may be killed and started again."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.settings = settings.Warehouse(url=f"http://127.0.0.1:{self.port}", password=SecretStr(PASSWORD))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = os.environ | {
            "PINSTREAM_DATA_DIR": str(self.data_dir),
            "PINSTREAM_WAREHOUSE__URL": self.settings.url,
            "PINSTREAM_WAREHOUSE__PASSWORD": PASSWORD,
            "PINSTREAM_WAREHOUSE__ANALYST_PASSWORD": ANALYST_PASSWORD,
        }
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with open(self.data_dir / "log.txt", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pinstream", "warehouse"], env=environment, stdout=log, stderr=log
            )
        self._wait()

    def _wait(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.settings.url}/ping", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        raise AssertionError((self.data_dir / "log.txt").read_text())

    def kill(self) -> None:
        """SIGKILL, as kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def warehouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedProcess]:
    """One embedded warehouse for the whole session."""
    server = EmbeddedProcess(tmp_path_factory.mktemp("warehouse"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def warehouse_settings(warehouse_server: EmbeddedProcess) -> settings.Warehouse:
    """How to reach the session's warehouse, password included."""
    return warehouse_server.settings


@pytest.fixture
async def warehouse(warehouse_settings: settings.Warehouse) -> AsyncIterator[Warehouse]:
    """A client of a new, migrated database, which is dropped afterwards."""
    own = warehouse_settings.model_copy(update={"database": f"t_{uuid.uuid4().hex[:12]}"})
    client = Warehouse.open(own, password=own.password.get_secret_value())
    await migrate(client, own)
    yield client
    await client.command(f"DROP DATABASE {schema.analytics_database(own)}")
    await client.command(f"DROP DATABASE {own.database}")
    await client.aclose()


@pytest.fixture
def fresh_database(warehouse: Warehouse) -> str:
    """The name of a new, migrated database."""
    return warehouse.database
