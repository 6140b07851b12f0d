"""Fixtures that every test may ask for."""

from __future__ import annotations

from tests.fake_pinterest import fake_pinterest, fake_pinterest_server

__all__ = ["fake_pinterest", "fake_pinterest_server"]
