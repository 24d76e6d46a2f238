"""The date jumps: people set it, NTP corrects it. What is under way, and whose nodes are whose, does not change."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from container_manager import errors as container
from container_manager.runtimes.memory import MemoryRuntime
from container_manager.spec import NodeSpec
from kato_gateway.domain.policy import BACKOFF_S_MAX
from kato_gateway.domain.sessions import NodeState, SessionStatus
from kato_gateway.lifecycle import CreateSession
from tests.integration.lifecycle.world import (
    DEPLOYMENT,
    POLICY,
    Phase,
    World,
    assert_sound,
    created,
    serving,
    settle,
)

WARM = replace(POLICY, warm_pool_size=2)
HOUR_S = 3600.0
JUMPS = pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S], ids=["ahead", "back"])


@JUMPS
async def test_what_serves_goes_on(world: World, by_s: float) -> None:
    """Nodes, members, routes and lasting sessions stay as they are, through sweeps and upkeep."""
    async with serving(world, policy=WARM) as gateway:
        made = await created(world, gateway, "s", ttl_seconds=10 * HOUR_S)
        await world.clock.turn(2.0)
        before = world.alive()
        world.clock.ahead_s += by_s
        await world.clock.turn(3 * POLICY.sweep_interval_s)
        assert world.alive() == before
        assert gateway.routes.get("s") == made.route
        await assert_sound(world, gateway)


@JUMPS
async def test_intents_are_not_given_up(world: World, by_s: float) -> None:
    """A node that another gateway is just starting, and the session that waits for it, are left their time."""
    first, second = world.gateway(name="first"), world.gateway(name="second")
    for gateway in (first, second):
        await world.run(gateway.start())
    gate = world.engine.knobs.start_gate = asyncio.Event()
    creating = asyncio.create_task(first.create(CreateSession(session_id="s", ttl_seconds=10 * HOUR_S)))
    await settle()
    world.clock.ahead_s += by_s
    await world.clock.turn(2 * POLICY.sweep_interval_s)
    assert set((await world.records()).values()) == {NodeState.CREATING}
    assert await world.sessions() == {"s": SessionStatus.CREATING}
    gate.set()
    made = await world.run(asyncio.wait_for(creating, 600.0))
    assert await world.run(second.resolve("s")) == made.route
    for gateway in (first, second):
        await world.run(gateway.stop())


@JUMPS
@pytest.mark.parametrize("step", ["before", "after"])
async def test_a_bind_under_way_is_not_undone(world: World, by_s: float, step: Phase) -> None:
    """A node that was claimed before the jump, told its processor or not, is bound after it."""
    held = asyncio.Event()

    async def knob(name: str, phase: Phase) -> None:
        if (name, phase) == ("node.bind", step):
            await held.wait()

    first, second = world.gateway(name="first", knob=knob), world.gateway(name="second")
    for gateway in (first, second):
        await world.run(gateway.start())
    creating = asyncio.create_task(first.create(CreateSession(session_id="s", ttl_seconds=10 * HOUR_S)))
    await settle()
    world.clock.ahead_s += by_s
    await world.clock.turn(POLICY.call_timeout_s / 2)
    held.set()
    made = await world.run(asyncio.wait_for(creating, 600.0))
    assert (made.route.epoch, world.store("s").epoch) == (1, 1)
    for gateway in (first, second):
        await world.run(gateway.stop())


@JUMPS
async def test_a_quarantine_lasts_as_long(world: World, by_s: float) -> None:
    """It is neither cut short nor drawn out."""
    stray = NodeSpec(node_id="stray", deployment=DEPLOYMENT, env={}, created_at_s=0.0)
    await MemoryRuntime(world.engine, DEPLOYMENT).start(stray, timeout_s=1.0)
    async with serving(world):
        world.clock.ahead_s += by_s
        await world.clock.turn(POLICY.quarantine_s / 2)
        assert world.alive() == ["stray"]
        await world.clock.turn(POLICY.quarantine_s / 2 + 2 * POLICY.sweep_interval_s)
        assert world.engine.nodes == {}


@JUMPS
async def test_a_pool_that_failed_is_tried_again_as_soon(world: World, by_s: float) -> None:
    """The pause after failures is no longer, and uses are written as often."""
    async with serving(world, policy=WARM) as gateway:
        await created(world, gateway, "s", ttl_seconds=10 * HOUR_S)
        world.engine.knobs.start_error = container.StartFailed("broken image")
        for node_id in set(world.alive()) - {node_id for node_id in world.alive() if world.node(node_id).processor_id}:
            world.engine.kill(node_id)
        await world.clock.turn(20.0)
        world.clock.ahead_s += by_s
        world.engine.knobs.start_error = None
        gateway.activity.touch("s")
        await world.clock.turn(BACKOFF_S_MAX)
        assert gateway.pool.view.idle == 2
        assert gateway.activity.last_use_s("s") is None
        await assert_sound(world, gateway)


async def test_only_a_time_to_live_follows_the_date(world: World) -> None:
    """A jump ahead ends what would have ended by then; a jump back keeps it that much longer."""
    async with serving(world) as gateway:
        await created(world, gateway, "short", ttl_seconds=HOUR_S / 2)
        await created(world, gateway, "long", ttl_seconds=2 * HOUR_S)
        world.clock.ahead_s -= HOUR_S
        await world.clock.turn(POLICY.sweep_interval_s)
        assert set((await world.sessions()).values()) == {SessionStatus.ACTIVE}
        world.clock.ahead_s += 2 * HOUR_S
        await world.clock.turn(POLICY.sweep_interval_s)
        assert await world.sessions() == {"short": SessionStatus.ENDED, "long": SessionStatus.ACTIVE}
