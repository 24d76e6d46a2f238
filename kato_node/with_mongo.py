"""`run` of __main__ for a fork server whose nodes all use MongoDB: what is imported here is shared by all of them."""

from __future__ import annotations

from kato_node.__main__ import run
from kato_node.store import mongo

__all__ = ["mongo", "run"]
