"""Fixtures of every test: those that must exist once in a run."""

from __future__ import annotations

from tests.mongo import mongo_admin, mongo_database, mongo_url

__all__ = ["mongo_admin", "mongo_database", "mongo_url"]
