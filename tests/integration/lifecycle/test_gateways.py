"""Two gateways over one registry: nothing is bound twice, started in vain, or ended under the other's hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from kato_gateway.domain.errors import RegistryUnavailable
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.domain.sessions import NodeState, SessionStatus
from kato_gateway.lifecycle import CreateSession, Lifecycle
from tests.integration.lifecycle.world import (
    POLICY,
    Killed,
    Knob,
    Phase,
    World,
    assert_sound,
    created,
    kill,
    serving,
    settle,
)


def pool_of(size: int) -> LifecyclePolicy:
    """Return a policy with a pool of this size."""
    return replace(POLICY, warm_pool_size=size)


@asynccontextmanager
async def two(
    world: World, policy: LifecyclePolicy = POLICY, *, knob: Knob | None = None
) -> AsyncIterator[tuple[Lifecycle, Lifecycle]]:
    """Serve by two gateways that know of each other; afterwards nothing of either may be left."""
    gateways = [world.gateway(policy=policy, name=name, knob=knob) for name in ("first", "second")]
    for gateway in gateways:
        await world.run(gateway.start())
    await world.clock.turn(POLICY.sweep_interval_s + 1.0)
    yield gateways[0], gateways[1]
    for gateway in gateways:
        await world.run(gateway.stop())
    assert world.engine.nodes == {}
    assert await world.records() == {}
    assert world.tables.gateways == {}
    assert len(asyncio.all_tasks()) == 1


async def all_of(*calls: Any) -> list[Any]:
    """Return what the calls return, made at once."""
    return await asyncio.gather(*calls)


def members(world: World) -> int:
    """Return how many nodes run unbound."""
    return sum(world.node(node_id).state == "unbound" for node_id in world.alive())


@pytest.mark.parametrize("size", [0, 20, 50])
async def test_a_burst_through_both_binds_each_node_once(world: World, size: int) -> None:
    """Fifty creates, half through each: fifty distinct nodes, each bound once, whether or not the pool had them."""
    binds = 0

    async def knob(name: str, phase: Phase) -> None:
        nonlocal binds
        binds += (name, phase) == ("node.bind", "before")
        await asyncio.sleep(0)

    async with two(world, pool_of(size), knob=knob) as gateways:
        await world.clock.turn(20.0)
        assert size <= members(world) <= size + POLICY.starts_max // 2  # the first may not have seen the second yet
        made = await world.run(
            all_of(*(gateways[n % 2].create(CreateSession(session_id=f"s{n}")) for n in range(50))), within_s=3600.0
        )
        assert len({one.route.node_id for one in made}) == 50
        assert {store.epoch for store in world.stores.values()} == {1}
        assert binds == 50  # none in vain: the claim decides
        assert [one.start for one in made].count("warm") >= size
        await world.clock.turn(60.0)
        assert members(world) == size
        for gateway in gateways:
            await assert_sound(world, gateway)


async def test_one_processor_through_both_gets_one_node(world: World) -> None:
    """Ten creates that name one node_id, half through each at once, end on one node with one epoch."""
    async with two(world, pool_of(4)) as gateways:
        made = await world.run(
            all_of(*(gateways[n % 2].create(CreateSession(session_id=f"s{n}", node_id="p")) for n in range(10)))
        )
        assert len({one.route.node_id for one in made}) == 1
        assert world.store("p").epoch == 1
        await world.clock.turn(20.0)
        assert members(world) == 4
        for gateway in gateways:
            await assert_sound(world, gateway)


async def test_a_session_is_called_through_either(world: World) -> None:
    """What one has created the other finds, on the same node; what one ends, neither serves any more."""
    async with two(world) as (first, second):
        made = await created(world, first, "s")
        assert await world.run(second.resolve("s")) == made.route
        await world.run(second.end("s"))
        await world.clock.turn(POLICY.sweep_interval_s + 1.0)
        assert world.alive() == []
        assert first.routes.get("s") is None


async def test_two_pools_are_one(world: World) -> None:
    """Two gateways keep one pool's worth of members, whoever started them, and each hands out the other's, too."""
    async with two(world, pool_of(3)) as (first, second):
        assert members(world) == 3
        made = [await created(world, first, f"s{number}") for number in range(3)]
        assert {one.start for one in made} == {"warm"}
        await world.clock.turn(20.0)
        assert members(world) == 3
        assert (await created(world, second, "t")).start == "warm"


async def test_a_member_that_another_gateway_has_just_started_is_found(world: World) -> None:
    """Who knows of no member looks in the registry before it has a node started."""
    async with two(world, pool_of(1)) as (first, second):
        assert (await created(world, second, "a")).start == "warm"
        await world.clock.turn(2.0)
        world.engine.knobs.start_gate = asyncio.Event()
        assert (await created(world, first, "b")).start == "warm"
        world.engine.knobs.start_gate.set()


async def test_refilling_by_two_does_not_overshoot(world: World) -> None:
    """Both find the pool empty at once; what both are starting counts, so no more runs than one pool needs."""
    async with two(world, pool_of(4)) as gateways:
        gate = world.engine.knobs.start_gate = asyncio.Event()
        for node_id in world.alive():
            world.engine.kill(node_id)
        await world.clock.turn(5.0)
        assert sum(state is NodeState.CREATING for state in (await world.records()).values()) == 4
        gate.set()
        world.engine.knobs.start_gate = None
        for _ in range(60):
            await world.clock.turn(0.5)
            assert members(world) <= 4
        assert members(world) == 4
        for gateway in gateways:
            await assert_sound(world, gateway)


async def test_two_that_are_about_to_start_the_same_member_start_one(world: World) -> None:
    """Both have looked and found the pool empty; whoever then finds the other's intent beside its own withdraws."""
    waiting = 0
    both = asyncio.Event()
    both.set()

    async def knob(name: str, phase: Phase) -> None:
        nonlocal waiting
        if (name, phase) == ("registry.count_nodes", "before") and not both.is_set():
            waiting += 1
            if waiting == 2:
                both.set()
            await both.wait()

    async with two(world, pool_of(1), knob=knob):
        gate = world.engine.knobs.start_gate = asyncio.Event()
        both.clear()
        world.engine.kill(world.alive()[0])
        await world.clock.turn(1.0)
        assert waiting == 2
        assert sum(state is NodeState.CREATING for state in (await world.records()).values()) <= 1
        gate.set()
        for _ in range(40):
            await world.clock.turn(0.5)
            assert members(world) <= 1
        assert members(world) == 1


async def test_a_member_that_died_unnoticed_is_handed_out_by_neither(world: World) -> None:
    """Each probes what it claims; the dead one is replaced once."""
    async with two(world, pool_of(3)) as gateways:
        world.engine.listeners.clear()
        dead = world.alive()[0]
        world.engine.kill(dead)
        made = await world.run(all_of(*(gateway.create(CreateSession()) for gateway in gateways)))
        assert dead not in {one.route.node_id for one in made}
        await world.clock.turn(20.0)
        assert members(world) == 3


async def test_two_specifications_have_a_pool_each(world: World) -> None:
    """In a rolling upgrade each gateway keeps its own members and leaves the other's alone; the last of a kind ends."""
    gateways = [world.gateway(policy=pool_of(2), name=name, env=name) for name in ("old", "new")]
    for gateway in gateways:
        await world.run(gateway.start())
    await world.clock.turn(30.0)
    before = world.alive()
    assert len(before) == 4
    await world.clock.turn(120.0)
    assert world.alive() == before
    for gateway in gateways:
        assert (await created(world, gateway, f"{gateway.pool.view.idle}{id(gateway)}")).start == "warm"
    await world.run(gateways[0].stop())
    await world.clock.turn(30.0)
    assert members(world) == 2
    await world.run(gateways[1].stop())
    assert world.engine.nodes == {}


async def test_a_gateway_that_stops_leaves_the_nodes_to_the_other(world: World) -> None:
    """Its sessions go on where they are, through the other, which ends everything when it stops, too."""
    first, second = (world.gateway(policy=pool_of(2), name=name) for name in ("first", "second"))
    for gateway in (first, second):
        await world.run(gateway.start())
    made = await created(world, first, "s")
    await world.clock.turn(POLICY.sweep_interval_s + 1.0)
    before = world.alive()
    await world.run(first.stop())
    assert world.alive() == before
    assert await world.sessions() == {"s": SessionStatus.ACTIVE}
    assert await world.run(second.resolve("s")) == made.route
    await world.clock.turn(60.0)
    await assert_sound(world, second)
    await world.run(second.stop())
    assert world.engine.nodes == {}
    assert await world.sessions() == {"s": SessionStatus.HIBERNATED}


async def test_two_that_stop_at_once_leave_nothing(world: World) -> None:
    """At least the later one sees that nobody is left, and ends the nodes."""
    gateways = [world.gateway(policy=pool_of(2), name=name) for name in ("first", "second")]
    for gateway in gateways:
        await world.run(gateway.start())
        await created(world, gateway, f"s{len(world.stores)}")
    await world.clock.turn(POLICY.sweep_interval_s + 1.0)
    await world.run(all_of(*(gateway.stop() for gateway in gateways)))
    assert world.engine.nodes == {}
    assert set((await world.sessions()).values()) == {SessionStatus.HIBERNATED}


async def test_a_gateway_that_was_killed_is_counted_out(world: World) -> None:
    """Once it has been silent for a while, whoever stops next is the last, and ends its nodes, too."""
    dead = False

    async def knob(name: str, phase: Phase) -> None:
        if dead:
            raise Killed

    first, second = world.gateway(name="first", knob=knob), world.gateway(name="second")
    await world.run(first.start())
    await created(world, first, "s")
    dead = True
    await kill(first)
    await world.run(second.start())
    assert second.peers.share_nodes
    await world.clock.turn(POLICY.gateway_silent_max_s + 2 * POLICY.sweep_interval_s)
    assert not second.peers.any_serve
    await world.run(second.stop())
    assert world.engine.nodes == {}


async def test_a_gateway_that_is_started_again_is_not_its_own_neighbour(world: World) -> None:
    """What it said before it was killed keeps nobody from ending the nodes."""
    first = world.gateway(name="first")
    await world.run(first.start())
    await created(world, first, "s")
    await kill(first)
    async with serving(world) as again:
        assert not again.peers.any_serve


async def test_a_use_through_one_keeps_the_session_from_the_other(world: World) -> None:
    """A session that one gateway serves does not expire in the other's eyes before its uses are written."""
    ttl_s = POLICY.flush_interval_s / 2
    async with two(world) as (first, second):
        await created(world, first, "s", ttl_seconds=ttl_s)
        for _ in range(40):
            first.activity.touch("s")
            await world.clock.turn(ttl_s / 2)
            assert (await second.get("s")).live
        await world.clock.turn(ttl_s + 6 * POLICY.flush_interval_s)
        assert await world.sessions() == {"s": SessionStatus.ENDED}


async def test_a_purge_by_two_deletes_nothing_that_came_later(world: World) -> None:
    """Both find the purge owed; once one has made it, the other's hands are off what is learned from then on."""
    async with two(world) as (first, second):
        await created(world, first, "s", node_id="p")
        world.store("p").patterns = 3
        world.engine.knobs.start_gate = gate = asyncio.Event()
        ending = asyncio.create_task(first.end("s", purge=True))
        await settle()
        beginning = asyncio.create_task(second.create(CreateSession(session_id="t", node_id="p")))
        await settle()
        gate.set()
        made = await world.run(asyncio.wait_for(beginning, 600.0))
        assert world.store("p").patterns == 0
        world.store("p").patterns = 1
        await world.run(asyncio.wait_for(ending, 600.0))
        await world.clock.turn(60.0)
        assert world.store("p").patterns == 1
        assert await world.run(second.resolve("t")) == made.route


async def test_a_session_opened_while_the_other_ends_its_node_is_opened_again(world: World) -> None:
    """A node that was ended between the opening of a session and its record serves that session no more."""
    held = asyncio.Event()
    held.set()

    async def knob(name: str, phase: Phase) -> None:
        if (name, phase) == ("node.open_session", "after"):
            await held.wait()

    first, second = world.gateway(name="first"), world.gateway(name="second", knob=knob)
    for gateway in (first, second):
        await world.run(gateway.start())
    old = await created(world, first, "a", node_id="p")
    held.clear()
    opening = asyncio.create_task(second.create(CreateSession(session_id="b", node_id="p")))
    await settle()
    world.engine.listeners.clear()
    await world.run(first.end_node("p"))
    held.set()
    made = await world.run(asyncio.wait_for(opening, 600.0))
    assert made.route.node_id != old.route.node_id
    await world.clock.turn(20.0)
    await assert_sound(world, second)
    for gateway in (first, second):
        await world.run(gateway.stop())


async def test_a_gateway_without_a_registry_kills_no_neighbours_nodes(world: World) -> None:
    """One that cannot read who is left, at its stop, goes by what it saw last."""
    out_of_reach = False

    async def knob(name: str, phase: Phase) -> None:
        if out_of_reach and name.startswith("registry"):
            raise RegistryUnavailable("out of reach")

    first, second = world.gateway(name="first"), world.gateway(name="second", knob=knob)
    for gateway in (first, second):
        await world.run(gateway.start())
    await created(world, first, "s")
    out_of_reach = True
    await world.run(second.stop())
    assert len(world.alive()) == 1
    await world.clock.turn(POLICY.gateway_silent_max_s + 2 * POLICY.sweep_interval_s)
    await world.run(first.stop())
    assert world.engine.nodes == {}
