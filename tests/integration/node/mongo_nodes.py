"""Nodes and stores on MongoDB, for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo import monitoring

from kato_node.domain.config import DEFAULT
from kato_node.domain.limits import LIMITS
from kato_node.node import BindSpec, Node
from kato_node.store.mongo import MongoStore
from kato_node.store.mongo_connection import Connection


@asynccontextmanager
async def bound_node(url: str, database: str, processor_id: str = "p", *, purge: bool = False) -> AsyncIterator[Node]:
    """Bind a node to a processor in the server; drain it afterwards."""
    node = Node(
        node_id="n",
        open_store=lambda processor: MongoStore(Connection(url, database), processor),
        defaults=DEFAULT,
        limits=LIMITS,
    )
    await node.bind(BindSpec(processor_id=processor_id, purge=purge))
    try:
        yield node
    finally:
        await node.drain()


@asynccontextmanager
async def open_store(url: str, database: str, processor_id: str = "p") -> AsyncIterator[MongoStore]:
    """Open a store; close it afterwards."""
    store = MongoStore(Connection(url, database), processor_id)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


class Commands(monitoring.CommandListener):
    """Every command that any client sends."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.seen.append((event.command_name, dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to note."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to note."""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands of the clients that are made from now on."""
    found = Commands()
    registered = monitoring._LISTENERS
    monkeypatch.setattr(monitoring, "_LISTENERS", registered._replace(command_listeners=[found]))
    return found
