"""A node that is cut off from MongoDB: nothing acknowledged is lost, nothing is applied twice, and it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kato_node.node import Node
from kato_node.store import mongo
from kato_node.store.base import CommitUnknown, StoreError
from tests.conformance.node.stores import batch, record, write
from tests.integration.node.mongo_nodes import bound_node, open_store
from tests.mongo import Client, StandIn
from tests.processes import PATIENCE_S
from tests.tcpproxy import TcpProxy, proxied
from tests.unit.node.running import frequency, key, observe_all, seen, stm

AB = "76d7efca2e96cb5eeddf4e06ac96a0f424630135"  # [['a'],['b']]
_POLL_S = 0.02


@pytest.fixture
async def proxy(mongo_admin: Client) -> AsyncIterator[TcpProxy]:
    """A network between nodes and the server."""
    address = mongo_admin.address
    assert address is not None
    async with proxied((address[0], address[1] or 27017)) as found:
        yield found


@pytest.fixture
async def node(proxy: TcpProxy, mongo_database: str) -> AsyncIterator[Node]:
    """A node on the other side of it, whose session has seen a and b."""
    async with cut_off_node(proxy, mongo_database) as found:
        await observe_all(found, None, "a", "b")
        yield found
        proxy.restore()


@asynccontextmanager
async def cut_off_node(proxy: TcpProxy, database: str) -> AsyncIterator[Node]:
    """Bind a node that knows no way but through the proxy."""
    async with bound_node(f"mongodb://127.0.0.1:{proxy.address[1]}/?directConnection=true", database) as found:
        yield found


def is_commit(data: bytes) -> bool:
    """Whether a request commits a transaction."""
    return b"commitTransaction" in data


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Ask until the answer is yes."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(_POLL_S)


async def degraded(node: Node) -> bool:
    """Whether reads say that the store is out of reach."""
    return (await node.reads.stm(None)).get("degraded") is True


async def test_a_lost_acknowledgement_costs_time_only(node: Node, proxy: TcpProxy) -> None:
    """A commit whose reply is lost with its connection is asked for again: it is acknowledged, and applied once."""
    lost = proxy.swallow_reply(is_commit)
    reply = await node.service.learn(None)
    assert lost.is_set()
    assert reply["pattern_name"] == f"PTRN|{AB}"
    assert (await stm(node), await frequency(node, AB)) == ([], 1)


async def test_a_retry_after_a_lost_acknowledgement_applies_once(
    node: Node, proxy: TcpProxy, mongo_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off right after the commit, the node does not know; the same key later gives the first reply, applied once,
    by that node and by the next.
    """
    proxy.swallow_reply(is_commit, then_refuse=True)
    with monkeypatch.context() as impatient:
        impatient.setattr(mongo, "COMMIT_TIMEOUT_S", 0.5)
        with pytest.raises(CommitUnknown):
            await node.service.learn(None, retry=key("1"))
    proxy.restore()
    replies = []

    async def repeated() -> bool:
        try:
            replies.append(await node.service.learn(None, retry=key("1")))
        except StoreError:
            return False
        return True

    await until(repeated)
    assert (await stm(node), await frequency(node, AB)) == ([], 1)
    await node.drain()
    async with cut_off_node(proxy, mongo_database) as after:
        assert await after.service.learn(None, retry=key("1")) == replies[-1]
        assert await frequency(after, AB) == 1


@pytest.mark.parametrize("spoil", [TcpProxy.hold, TcpProxy.refuse], ids=["silent", "refusing"])
async def test_a_node_that_is_cut_off_comes_back(
    node: Node, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[TcpProxy], None]
) -> None:
    """Cut off, reads say so and writes fail; with the network back, both work again, and only what was acknowledged,
    or was in doubt, is there.
    """
    monkeypatch.setattr(mongo, "COMMIT_TIMEOUT_S", 0.5)
    spoil(proxy)
    with pytest.raises(StoreError):
        await node.service.observe(None, seen("lost"), retry=key("1"))
    await until(lambda: degraded(node))
    proxy.restore()

    async def observed() -> bool:
        try:
            await node.service.observe(None, seen("lost"), retry=key("1"))
        except StoreError:
            return False
        return True

    await until(observed)
    await until(lambda: _not(degraded(node)))
    assert await stm(node) == [["a"], ["b"], ["lost"]]


async def test_a_server_that_is_killed_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server is down reads are degraded and writes refused; after it nothing acknowledged is missing."""
    monkeypatch.setattr(mongo, "COMMIT_TIMEOUT_S", 0.5)
    with StandIn(tmp_path) as server:
        async with bound_node(server.url, "kato") as node:
            await observe_all(node, None, "a", "b")
            server.kill()
            with pytest.raises(StoreError):
                await node.service.observe(None, seen("c"))
            await until(lambda: degraded(node))
            assert await stm(node) == [["a"], ["b"]]
            server.start()

            async def learned() -> bool:
                try:
                    await node.service.learn(None, retry=key("1"))
                except StoreError:
                    return False
                return True

            await until(learned)
            assert (await stm(node), await frequency(node, AB)) == ([], 1)
        async with bound_node(server.url, "kato") as after:
            assert await frequency(after, AB) == 1


async def test_a_cancelled_commit_is_whole_and_in_nobody_s_way(mongo_url: str, mongo_database: str) -> None:
    """Cancelled at whatever step once it began, a commit takes place; neither the next one nor the next owner waits."""
    async with open_store(mongo_url, mongo_database) as store:
        epoch = (await store.bind()).epoch
        for steps in range(40):
            task = asyncio.create_task(store.commit(batch(write(None, record(f"s{steps}"))), epoch=epoch))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await store.commit(batch(), epoch=epoch)
        stored = await store.session_ids()
        assert stored == sorted(f"s{steps}" for steps in range(1, 40))
        async with open_store(mongo_url, mongo_database) as next_owner:
            assert (await next_owner.bind()).epoch == epoch + 1
            assert await next_owner.session_ids() == stored
            for session_id in stored:
                assert await next_owner.load_session(session_id) == record(session_id)


async def test_a_store_that_is_closed_at_any_moment_leaves_nothing_open(mongo_url: str, mongo_database: str) -> None:
    """Closed in the middle of whatever it does, a store leaves no task, no socket and no transaction behind."""
    others = asyncio.all_tasks()
    for steps in range(0, 60, 3):
        async with open_store(mongo_url, mongo_database) as store:
            epoch = (await store.bind()).epoch
            task = asyncio.create_task(store.commit(batch(write(None, record())), epoch=epoch))
            for _ in range(steps):
                await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
    assert asyncio.all_tasks() <= others


async def _not(answer: Awaitable[bool]) -> bool:
    return not await answer
