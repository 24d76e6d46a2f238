"""Ports are reused, memories are not: a route that leads to another processor's node, with real nodes behind it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp

from container_manager.runtimes.process import ProcessRuntime
from container_manager.spec import NodeSpec
from kato_gateway.api.app import create_app
from kato_gateway.dataplane.attempts import Limits
from kato_gateway.dataplane.proxy import new_client
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.nodes.client import HttpNodeClient
from kato_gateway.registry.memory import MemoryRegistry, MemoryTables
from kato_node.wire.tokens import node_secret
from tests.integration.gateway.serving import serving


@asynccontextmanager
async def platform(home: Path) -> AsyncIterator[tuple[Lifecycle, aiohttp.ClientSession]]:
    """Run a gateway inside the test, so that its routes are at hand; its nodes are real processes."""
    secret = secrets.token_hex(32)

    def spec(node_id: str, created_at_s: float) -> NodeSpec:
        own = {"NODE_ID": node_id, "NODE_SECRET": node_secret(secret, node_id)}
        env = {"NODE_POOL": "1", "KATO_HOME": str(home), **own}
        return NodeSpec(node_id=node_id, deployment="test", env=env, created_at_s=created_at_s)

    async with AsyncExitStack() as stack:
        runtime, nodes = ProcessRuntime(home, "test"), HttpNodeClient(secret)
        for part in (runtime, nodes):
            stack.push_async_callback(part.close)
            await part.open()
        registry = MemoryRegistry(MemoryTables())
        await registry.open()
        policy = LifecyclePolicy(warm_pool_size=1)
        lifecycle = Lifecycle(registry=registry, runtime=runtime, client=nodes, new_spec=spec, policy=policy)
        stack.push_async_callback(lifecycle.stop)
        await lifecycle.start()
        client = await stack.enter_async_context(new_client(Limits()))
        address = await stack.enter_async_context(serving(create_app(lifecycle, client, runtime=runtime.name)))
        yield lifecycle, await stack.enter_async_context(aiohttp.ClientSession(address.http_url))


async def test_a_route_to_another_processors_node(tmp_path: Path) -> None:
    """A session whose route leads to another processor's node reads and writes its own memory, not that one's."""
    async with platform(tmp_path) as (lifecycle, client):
        for name in ("mine", "theirs"):
            await client.post("/sessions", json={"session_id": name})
            reply = await client.post(f"/sessions/{name}/observe", json={"strings": [f"{name} only"]})
            assert reply.status == 200
        mine, theirs = lifecycle.routes.get("mine"), lifecycle.routes.get("theirs")
        assert mine is not None
        assert theirs is not None
        for call in range(3):
            lifecycle.routes.put(replace(mine, address=theirs.address))
            reply = await client.post("/sessions/mine/observe", json={"strings": [f"more {call}"]})
            assert (reply.status, (await reply.json())["stm_length"]) == (200, call + 2)
            found = lifecycle.routes.get("mine")
            assert found is not None
            assert found.address == mine.address
        memory = await (await client.get("/sessions/mine/stm")).json()
        assert memory["stm"] == [["mine only"], ["more 0"], ["more 1"], ["more 2"]]
        other = await (await client.get("/sessions/theirs/stm")).json()
        assert other["stm"] == [["theirs only"]]
