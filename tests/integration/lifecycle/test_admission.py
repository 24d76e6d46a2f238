"""Admission over the memory runtime: turns, bounds, and what a refusal says."""

from __future__ import annotations

import asyncio

import pytest

from kato_gateway.domain.errors import CapacityReached
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.lifecycle import CreateSession
from kato_gateway.nodes import admission
from tests.integration.lifecycle.world import World, created, serving, settle


async def test_one_users_many_do_not_hold_up_another(world: World) -> None:
    """A user who asks for many sessions at once does not keep the next user's one waiting behind them all."""
    policy = LifecyclePolicy(warm_pool_size=0, starts_max=1)
    async with serving(world, policy=policy) as gateway:
        world.engine.knobs.start_gate = asyncio.Event()
        done: list[str] = []

        async def create(session_id: str, user_id: str) -> None:
            await gateway.create(CreateSession(session_id=session_id, user_id=user_id))
            done.append(session_id)

        creates = [asyncio.create_task(create(f"many-{number}", "ann")) for number in range(6)]
        await settle()
        creates.append(asyncio.create_task(create("one", "bob")))
        await settle()
        world.engine.knobs.start_gate.set()
        await world.run(asyncio.wait_for(asyncio.gather(*creates), 600.0))
        assert done.index("one") <= 2


async def test_the_queue_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would be one too many is refused at once; those who wait are served, and nothing of it is left."""
    monkeypatch.setattr(admission, "QUEUE_MAX", 2)
    async with serving(world, policy=LifecyclePolicy(warm_pool_size=0, starts_max=1)) as gateway:
        gate = world.engine.knobs.start_gate = asyncio.Event()
        waiting = [asyncio.create_task(gateway.create(CreateSession(session_id=f"s{n}"))) for n in range(2)]
        await settle()
        with pytest.raises(CapacityReached) as refused:
            await created(world, gateway, "s2")
        assert refused.value.details["waiting_max"] == 2
        gate.set()
        await world.run(asyncio.wait_for(asyncio.gather(*waiting), 600.0))
        assert sorted(await world.sessions()) == ["s0", "s1"]


async def test_a_refusal_tells_when_to_come_again(world: World) -> None:
    """With every node taken, Retry-After is when the longest idle one stops by itself."""
    policy = LifecyclePolicy(warm_pool_size=0, nodes_max=1, idle_timeout_s=900.0)
    async with serving(world, policy=policy) as gateway:
        await created(world, gateway, "s")
        await world.clock.turn(300.0)
        with pytest.raises(CapacityReached) as refused:
            await created(world, gateway, "t")
        assert refused.value.retry_after_s == pytest.approx(600.0, abs=5.0)
        assert list(await world.sessions()) == ["s"]


async def test_creates_for_one_processor_collapse_onto_one_start(world: World) -> None:
    """Many sessions that name the same processor at once get the one node that is started for them."""
    async with serving(world, policy=LifecyclePolicy(warm_pool_size=0, nodes_max=1)) as gateway:
        wanted = [CreateSession(session_id=f"s{number}", node_id="p") for number in range(8)]
        found = await world.run(asyncio.wait_for(asyncio.gather(*map(gateway.create, wanted)), 600.0))
        assert {each.node.node_id for each in found} == set(world.alive())
