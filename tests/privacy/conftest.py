"""The warehouse that the tests of audiences share."""

from tests.audiences.conftest import shared_database, warehouse

__all__ = ["shared_database", "warehouse"]
