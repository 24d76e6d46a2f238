"""The warm pool under use."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from container_manager import errors as container
from kato_gateway.domain.errors import CapacityReached, NodeFailed
from kato_gateway.domain.policy import BACKOFF_S_MAX
from kato_gateway.domain.sessions import NodeState
from kato_gateway.lifecycle import CreateSession
from tests.integration.lifecycle.world import POLICY, Phase, World, assert_sound, created, serving, settle


def pool_of(size: int, **other: Any) -> Any:
    """Return a policy with a pool of this size."""
    return replace(POLICY, warm_pool_size=size, **other)


async def test_the_pool_fills_in_the_background(world: World) -> None:
    """The start does not wait for it, and each member is booted, unbound and recorded."""
    async with serving(world, policy=pool_of(5)) as gateway:
        assert gateway.pool.view.idle == 5
        assert set((await world.records()).values()) == {NodeState.POOL}
        await assert_sound(world, gateway)


async def test_a_dead_member_is_replaced_and_the_next_is_tried(world: World) -> None:
    """A member that died unnoticed is found out at its claim; the session gets the next, the pool another."""
    async with serving(world, policy=pool_of(3)) as gateway:
        dead = next(iter(world.engine.nodes))
        world.engine.listeners.clear()
        world.engine.kill(dead)
        made = [await created(world, gateway, f"s{number}") for number in range(2)]
        assert {one.start for one in made} == {"warm"}
        assert dead not in {one.route.node_id for one in made}
        await world.clock.turn(2.0)
        assert gateway.pool.view.idle == 3
        await assert_sound(world, gateway)


async def test_a_pool_of_dead_members_is_a_cold_start(world: World) -> None:
    """When nobody in the pool lives, the session waits for a start."""
    async with serving(world, policy=pool_of(2)) as gateway:
        world.engine.listeners.clear()
        for node_id in world.alive():
            world.engine.kill(node_id)
        assert (await created(world, gateway, "s")).start == "cold"
        await world.clock.turn(2.0)
        await assert_sound(world, gateway)


async def test_a_member_that_dies_is_noticed(world: World) -> None:
    """The runtime's hint takes it out of the pool, and another takes its place."""
    async with serving(world, policy=pool_of(2)) as gateway:
        dead = world.alive()[0]
        world.engine.kill(dead)
        await settle()
        assert not gateway.pool.has(dead)
        assert gateway.pool.view.idle == 2
        await assert_sound(world, gateway)


async def test_a_member_that_dies_without_a_hint_is_swept(world: World) -> None:
    """A missed hint is made up for by the next sweep."""
    async with serving(world, policy=pool_of(2)) as gateway:
        dead = world.alive()[0]
        world.engine.listeners.clear()
        world.engine.kill(dead)
        await world.clock.turn(POLICY.sweep_interval_s + 1.0)
        assert not gateway.pool.has(dead)
        assert gateway.pool.view.idle == 2
        await assert_sound(world, gateway)


async def test_a_member_that_serves_somebody_already_is_not_handed_out(world: World) -> None:
    """A member that answers as bound at its claim goes to nobody."""
    async with serving(world, policy=pool_of(2)) as gateway:
        taken = next(iter(world.engine.nodes))
        world.node(taken).state = "bound"
        made = [await created(world, gateway, f"s{number}") for number in range(2)]
        assert taken not in {one.route.node_id for one in made}
        await world.clock.turn(2.0)
        await assert_sound(world, gateway)


async def test_a_burst_empties_the_pool_and_binds_each_member_once(world: World) -> None:
    """Fifty at once against fifty members: fifty nodes, fifty warm starts."""
    async with serving(world, policy=pool_of(50)) as gateway:
        await world.clock.turn(10.0)
        assert gateway.pool.view.idle == 50
        made = await _all(*(gateway.create(CreateSession()) for _ in range(50)))
        assert {one.start for one in made} == {"warm"}
        assert len({one.route.node_id for one in made}) == 50
        assert {store.epoch for store in world.stores.values()} == {1}
        await world.clock.turn(10.0)
        assert gateway.pool.view.idle == 50
        await assert_sound(world, gateway)


async def test_a_miss_takes_whatever_comes_first(world: World) -> None:
    """Who waits gets the first node to boot, one of the pool's or one of its own; the other joins the pool."""
    async with serving(world, policy=pool_of(2)) as gateway:
        world.engine.knobs.start_gate = asyncio.Event()
        await _all(*(gateway.create(CreateSession()) for _ in range(2)))
        miss = asyncio.create_task(gateway.create(CreateSession(session_id="s")))
        await world.clock.turn(2.0)
        assert (gateway.pool.view.waiting, gateway.pool.view.starting) == (1, 2)  # those of the pool will do
        world.engine.knobs.start_gate.set()
        assert (await world.run(_all(miss)))[0].start == "cold"
        await world.clock.turn(2.0)
        assert gateway.pool.view.idle == 2
        await assert_sound(world, gateway)


async def test_a_start_that_nobody_waits_for_any_more_is_the_pools(world: World) -> None:
    """When the session that wanted it has ended meanwhile, a cold start is not leaked."""
    async with serving(world, policy=pool_of(0)) as gateway:
        world.engine.knobs.start_gate = asyncio.Event()
        miss = asyncio.create_task(gateway.create(CreateSession(session_id="s")))
        await settle()
        await world.run(gateway.end("s"))
        world.engine.knobs.start_gate.set()
        with pytest.raises(Exception, match="no session"):
            await world.run(_all(miss))
        await settle()
        await assert_sound(world, gateway)


async def test_refilling_does_not_overshoot(world: World) -> None:
    """Nodes being started count: claims while the pool refills start no more than they take."""
    async with serving(world, policy=pool_of(4)) as gateway:
        world.engine.knobs.start_gate = asyncio.Event()
        await _all(*(gateway.create(CreateSession()) for _ in range(4)))
        await world.clock.turn(5.0)
        assert gateway.pool.view.starting == POLICY.starts_max // 2
        world.engine.knobs.start_gate.set()
        await world.clock.turn(5.0)
        assert (gateway.pool.view.idle, len(world.alive())) == (4, 8)


async def test_failed_starts_back_off_and_recover(world: World) -> None:
    """While nothing can be started the pool tries ever more rarely, and fills again once it can."""
    async with serving(world, policy=pool_of(2)) as gateway:
        failed: list[str | None] = []
        gateway.events.subscribe(
            lambda event: failed.append(event.reason) if event.kind == "node_start_failed" else None
        )
        world.engine.knobs.start_error = container.StartFailed("broken image")
        for node_id in world.alive():
            world.engine.kill(node_id)
        await world.clock.turn(300.0)
        assert 5 <= len(failed) <= 2 * (6 + 300.0 / BACKOFF_S_MAX)
        with pytest.raises(NodeFailed):
            await created(world, gateway, "s")
        world.engine.knobs.start_error = None
        assert (await created(world, gateway, "t")).start == "cold"
        await world.clock.turn(BACKOFF_S_MAX)
        assert gateway.pool.view.idle == 2
        await assert_sound(world, gateway)


async def test_one_failure_fails_one_user(world: World) -> None:
    """When one start of several fails, one of those who wait hears of it and the rest get their nodes."""
    async with serving(world, policy=pool_of(0)) as gateway:
        world.engine.knobs.dies_after_start = True
        first = asyncio.create_task(gateway.create(CreateSession(session_id="s0")))
        await settle()
        world.engine.knobs.dies_after_start = False
        rest = [gateway.create(CreateSession(session_id=f"s{number}")) for number in range(1, 6)]
        outcomes = await world.run(_all(first, *rest, return_exceptions=True))
        assert sum(isinstance(outcome, Exception) for outcome in outcomes) <= 1
        await world.clock.turn(POLICY.sweep_interval_s + 1.0)
        await assert_sound(world, gateway)


async def test_the_pool_respects_the_bound_on_nodes(world: World) -> None:
    """The pool takes no more than there is room for, users claim what is there, and beyond that are refused."""
    async with serving(world, policy=pool_of(5, nodes_max=3)) as gateway:
        assert len(world.alive()) == 3
        for number in range(3):
            assert (await created(world, gateway, f"s{number}")).start == "warm"
        with pytest.raises(CapacityReached):
            await created(world, gateway, "s3")
        await world.run(gateway.end("s0"))
        await world.clock.turn(2 * BACKOFF_S_MAX)
        assert len(world.alive()) == 3
        await assert_sound(world, gateway)


async def test_a_lost_reply_of_the_runtime_leaves_no_node_behind(world: World) -> None:
    """A node that was started although the runtime said otherwise is found and removed."""
    async with serving(world, policy=pool_of(0)) as gateway:
        world.engine.knobs.loses_reply = True
        with pytest.raises(Exception, match="No node can be started"):
            await created(world, gateway, "s")
        world.engine.knobs.loses_reply = False
        await world.clock.turn(200.0)
        await assert_sound(world, gateway)
        assert world.alive() == []


async def _all(*calls: Any, return_exceptions: bool = False) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=return_exceptions)


async def test_a_stop_that_is_cut_short_undoes_the_starts(world: World) -> None:
    """Whoever hurries the stop gets a gateway that does nothing any more: no start ends in a node later."""
    gate = world.engine.knobs.start_gate = asyncio.Event()
    gateway = world.gateway(policy=pool_of(40))
    await world.run(gateway.start())
    assert gateway.pool.view.starting
    stop = asyncio.create_task(gateway.stop())
    await settle()
    stop.cancel()
    await asyncio.wait({stop})
    assert len(asyncio.all_tasks()) == 1
    gate.set()
    await settle()
    assert world.alive() == []


async def test_members_are_asked_while_nobody_uses_them(world: World) -> None:
    """Each sweep asks every member, which ends if nobody does; one that falls silent is replaced in time."""
    asked = 0

    async def knob(name: str, phase: Phase) -> None:
        nonlocal asked
        asked += (name, phase) == ("node.identity", "before")

    async with serving(world, policy=pool_of(2), knob=knob) as gateway:
        before = asked
        await world.clock.turn(3 * POLICY.sweep_interval_s + 1.0)
        assert asked - before == 2 * 3
        silent = world.alive()[0]
        world.node(silent).is_deaf = True
        await world.clock.turn(POLICY.silent_max_s + 2 * POLICY.sweep_interval_s)
        assert silent not in world.alive()
        assert gateway.pool.view.idle == 2
        await assert_sound(world, gateway)
