"""What every test has: the fixtures that must exist once in a run, and the engine's hooks."""

from __future__ import annotations

from tests.engine import pytest_runtest_makereport, pytest_runtest_setup
from tests.mongo import mongo_admin, mongo_database, mongo_url

__all__ = ["mongo_admin", "mongo_database", "mongo_url", "pytest_runtest_makereport", "pytest_runtest_setup"]
