"""Fixtures that every test may ask for."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest

from tests.browser_fixtures import chromium, open_page, page
from tests.fake_pinterest import fake_pinterest, fake_pinterest_server
from tests.kafka_broker import _spare_kafka, kafka, kafka_cluster, private_kafka
from tests.warehouse_server import fresh_database, warehouse, warehouse_server, warehouse_settings

__all__ = [
    "_spare_kafka",
    "chromium",
    "fake_pinterest",
    "fake_pinterest_server",
    "fresh_database",
    "kafka",
    "kafka_cluster",
    "open_page",
    "page",
    "private_kafka",
    "warehouse",
    "warehouse_server",
    "warehouse_settings",
]


@pytest.fixture(autouse=True)
def _leftovers_of_kafkas_client(request: pytest.FixtureRequest) -> Iterator[None]:
    """aiokafka forgets a connection that it is opening when it is closed: not the next test's fault."""
    yield
    if request.node.get_closest_marker("kafka"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


PARTS = {"warehouse_server", "fake_pinterest_server"}
"""Fixtures that start a process of their own: tests that ask for one are left out of `scripts/check`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if PARTS & set(getattr(item, "fixturenames", ())):
            item.add_marker("parts")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Long bytes are named after their parameter: processes must agree on names, and packed bytes may hold the time."""
    return argname if isinstance(val, bytes) and len(val) > 40 else None
