"""Every store that obeys the protocol, as one fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kato_node.store.base import Store
from kato_node.store.memory import MemoryDisk, MemoryStore
from kato_node.store.mongo import MongoStore
from kato_node.store.mongo_connection import Connection
from kato_node.store.sqlite import SqliteStore
from tests.conformance.node.stores import MakeStore, OpenStore


@pytest.fixture(params=["memory", "sqlite", "mongo"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Make stores of any processor on the same, empty data."""
    if request.param == "memory":
        disk = MemoryDisk()
        return lambda processor_id: MemoryStore(disk, processor_id)
    if request.param == "sqlite":
        return lambda processor_id: SqliteStore(tmp_path / "processors" / f"{processor_id}.sqlite", processor_id)
    url: str = request.getfixturevalue("mongo_url")
    database: str = request.getfixturevalue("mongo_database")
    return lambda processor_id: MongoStore(Connection(url, database), processor_id)


@pytest.fixture
async def open_store(make_store: MakeStore) -> AsyncIterator[OpenStore]:
    """Open stores; they are closed after the test."""
    async with AsyncExitStack() as stack:

        async def opened(processor_id: str = "p") -> Store:
            store = make_store(processor_id)
            stack.push_async_callback(store.close)
            await store.open()
            return store

        yield opened
