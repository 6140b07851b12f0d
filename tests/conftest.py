"""Fixtures that every test may ask for."""

from __future__ import annotations

from tests.browser_fixtures import chromium, open_page, page
from tests.fake_pinterest import fake_pinterest, fake_pinterest_server

__all__ = ["chromium", "fake_pinterest", "fake_pinterest_server", "open_page", "page"]
