"""What a node of the pool does ahead of its bind, so that the bind is a few commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kato_node.domain.config import DEFAULT
from kato_node.domain.limits import LIMITS
from kato_node.node import BindSpec, Node, Opening
from kato_node.store.base import StoreUnreachable
from kato_node.store.mongo import MongoStores
from tests.integration.node.mongo_nodes import Commands, bound_node, commands
from tests.unit.node.running import observe_all

__all__ = ["commands"]

COMMIT = ["findAndModify", "update", "commitTransaction"]


@pytest.fixture
async def stores(mongo_url: str, mongo_database: str, commands: Commands) -> AsyncIterator[MongoStores]:
    """Stores that have connected ahead; the commands of that are forgotten."""
    stores = MongoStores(mongo_url, mongo_database)
    await stores.connect()
    commands.seen.clear()
    yield stores
    await stores.close()


def sent(commands: Commands) -> list[str]:
    """Return the commands by name, but for those that look for garbage, which is done beside everything else."""
    return [name for name, command in commands.seen if command.get(name) != "garbage"]


@asynccontextmanager
async def bound(stores: MongoStores, processor_id: str) -> AsyncIterator[Node]:
    """Bind a node with its first session; drain it afterwards."""
    node = Node(node_id="n", open_store=stores, defaults=DEFAULT, limits=LIMITS)
    session = Opening(session_id="s", incarnation="1")
    await node.bind(BindSpec(processor_id=processor_id, session=session, own_session=True))
    yield node
    await node.drain()


async def test_a_new_processor_is_bound_with_two_commands_and_a_commit(stores: MongoStores, commands: Commands) -> None:
    """What nobody has bound before is not looked for: the bind takes the processor, and commits its session."""
    async with bound(stores, "p"):
        assert sent(commands) == ["find", "findAndModify", *COMMIT]


async def test_a_processor_of_before_is_loaded(
    stores: MongoStores, commands: Commands, mongo_url: str, mongo_database: str
) -> None:
    """A processor that was bound before is found with all that it has, with a look at each of its collections."""
    async with bound_node(mongo_url, mongo_database) as before:
        await observe_all(before, None, "a", "b")
        await before.service.learn(None)
    commands.seen.clear()
    async with bound(stores, "p") as node:
        assert (await node.reads.status(None))["patterns"] == 1
        assert sent(commands).count("find") == 5


async def test_a_second_store_connects_by_itself(stores: MongoStores, commands: Commands) -> None:
    """The connection made ahead is the first store's, which closes it; whoever binds after a failure has another."""
    async with bound(stores, "p"):
        commands.seen.clear()
    async with bound(stores, "q"):
        assert sent(commands)[:3] == ["endSessions", "hello", "listCollections"]


async def test_nothing_is_left_of_a_connection_that_fails() -> None:
    """Where there is no server, connecting ahead is an error, and nothing of it stays open."""
    stores = MongoStores("mongodb://127.0.0.1:1/", "kato")
    with pytest.raises(StoreUnreachable):
        await stores.connect()
    await stores.close()
