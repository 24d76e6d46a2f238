"""Every registry that obeys the protocol, as one fixture."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from kato_gateway.registry.base import Registry
from kato_gateway.registry.memory import MemoryRegistry, MemoryTables
from kato_gateway.registry.mongo import MongoRegistry
from kato_gateway.registry.sqlite import SqliteRegistry

MakeRegistry: TypeAlias = Callable[[], Registry]
PATIENCE_S = 60.0
Another: TypeAlias = Callable[[], asyncio.Task[Registry]]


@pytest.fixture(params=["memory", "sqlite", "mongo"])
def make_registry(request: pytest.FixtureRequest, tmp_path: Path) -> MakeRegistry:
    """Make registries, each as another gateway has it, on the same, empty data."""
    if request.param == "memory":
        tables = MemoryTables()
        return lambda: MemoryRegistry(tables)
    if request.param == "sqlite":
        return lambda: SqliteRegistry(tmp_path / "gateway.sqlite")
    url: str = request.getfixturevalue("mongo_url")
    database: str = request.getfixturevalue("mongo_database")
    return lambda: MongoRegistry(url, database, call_timeout_s=PATIENCE_S)  # hundreds at once, on a busy machine


@pytest.fixture
async def another(make_registry: MakeRegistry) -> AsyncIterator[Another]:
    """Open one more registry on the same data; all are closed at the end, and leave no thread."""
    async with AsyncExitStack() as stack:

        async def opened() -> Registry:
            registry = make_registry()
            await registry.open()
            stack.push_async_callback(registry.close)
            return registry

        yield lambda: asyncio.create_task(opened())
    assert not [thread for thread in threading.enumerate() if thread.name == "gateway-registry"]


@pytest.fixture
async def registry(another: Another) -> Registry:
    """An open registry without a document in it."""
    return await another()
