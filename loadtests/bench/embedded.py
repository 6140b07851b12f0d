"""An embedded warehouse for a benchmark, as `pinstream up` starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from loadtests.bench.processes import free_port, running
from pinstream.settings import Warehouse as Settings
from pinstream.warehouse.client import Warehouse
from pinstream.warehouse.migrate import migrate

PASSWORD: Final = "bench"


@contextmanager
def started(home: Path) -> Iterator[Settings]:
    """The process, with its data in `home`. Raises Fault if it does not start."""
    port = free_port()
    settings = Settings(url=f"http://127.0.0.1:{port}", password=SecretStr(PASSWORD))
    command = [sys.executable, "-m", "pinstream", "warehouse"]
    with running(command, core=None, port=port, log=home / "warehouse.log", env=environment(home, settings)):
        yield settings


def environment(home: Path, warehouse: Settings) -> dict[str, str]:
    """Of a process that uses it, with no other settings than these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PINSTREAM_")}
    return clean | {
        "PINSTREAM_DATA_DIR": str(home / "data"),
        "PINSTREAM_WAREHOUSE__URL": warehouse.url,
        "PINSTREAM_WAREHOUSE__PASSWORD": PASSWORD,
        "PINSTREAM_WAREHOUSE__DATABASE": warehouse.database,
    }


@asynccontextmanager
async def database(settings: Settings, name: str = "") -> AsyncIterator[Warehouse]:
    """A client of one of its databases, migrated; default: the one in `settings`."""
    own = settings.model_copy(update={"database": name or settings.database})
    warehouse = Warehouse.open(own, password=PASSWORD)
    try:
        await migrate(warehouse, own)
        yield warehouse
    finally:
        await warehouse.aclose()
