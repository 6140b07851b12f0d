"""Fixtures that every test may ask for."""

from __future__ import annotations

from tests.browser_fixtures import chromium, open_page, page
from tests.fake_pinterest import fake_pinterest, fake_pinterest_server
from tests.warehouse_server import fresh_database, warehouse, warehouse_server, warehouse_settings

__all__ = [
    "chromium",
    "fake_pinterest",
    "fake_pinterest_server",
    "fresh_database",
    "open_page",
    "page",
    "warehouse",
    "warehouse_server",
    "warehouse_settings",
]
