"""Nodes and stores on MongoDB, for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kato_node.domain.config import DEFAULT
from kato_node.domain.limits import LIMITS
from kato_node.node import BindSpec, Node
from kato_node.store.mongo import MongoStore


@asynccontextmanager
async def bound_node(url: str, database: str, processor_id: str = "p", *, purge: bool = False) -> AsyncIterator[Node]:
    """Bind a node to a processor in the server; drain it afterwards."""
    node = Node(
        node_id="n",
        open_store=lambda processor: MongoStore(url, database, processor),
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
    store = MongoStore(url, database, processor_id)
    try:
        await store.open()
        yield store
    finally:
        await store.close()
