"""Purging a processor: everything that it has goes, whatever fails on the way."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from kato_gateway.domain.errors import Conflict, NodeFailed
from kato_gateway.domain.sessions import SessionStatus
from tests.integration.lifecycle.world import Killed, World, assert_sound, created, kill, serving, settle


async def test_a_purge_deletes_everything(world: World) -> None:
    """The session ends, its node gives way to one that deletes all that the processor has, and is removed, too."""
    async with serving(world) as gateway:
        await created(world, gateway, "s", node_id="p")
        world.store("p").patterns = 3
        await world.run(gateway.end("s", purge=True))
        assert (world.store("p").patterns, world.store("p").sessions) == (0, {})
        assert not await gateway.directory.owes_purge("p")
        await settle()
        assert world.engine.nodes == {}
        await assert_sound(world, gateway)


async def test_a_purge_wakes_a_node(world: World) -> None:
    """A hibernated session's processor is purged by a node that is started for it and removed afterwards."""
    async with serving(world) as gateway:
        await created(world, gateway, "s", node_id="p")
        world.store("p").patterns = 3
        await world.run(gateway.end_node("p"))
        await world.run(gateway.end("s", purge=True))
        assert world.store("p").patterns == 0
        await settle()
        assert world.engine.nodes == {}
        await assert_sound(world, gateway)


async def test_a_processor_in_use_is_not_purged(world: World) -> None:
    """While another session uses the processor, purging it is a CONFLICT, and nothing happens."""
    async with serving(world) as gateway:
        for name in ("a", "b"):
            await created(world, gateway, name, node_id="p")
        world.store("p").patterns = 3
        with pytest.raises(Conflict):
            await world.run(gateway.end("a", purge=True))
        assert await world.sessions() == {"a": SessionStatus.ACTIVE, "b": SessionStatus.ACTIVE}
        await world.run(gateway.end("b"))
        await world.run(gateway.end("a", purge=True))
        assert world.store("p").patterns == 0


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("step", ["runtime.start", "node.bind"])
async def test_a_purge_that_was_begun_is_finished_after_a_crash(
    world: World, step: str, phase: Literal["before", "after"]
) -> None:
    """Whenever the gateway is killed, the next one finishes the purge, and then leaves no node behind."""
    dead = False

    async def knob(name: str, at: Literal["before", "after"]) -> None:
        nonlocal dead
        dead = dead or (armed and (name, at) == (step, phase))
        if dead:
            raise Killed

    armed = False
    gateway = world.gateway(knob=knob)
    await world.run(gateway.start())
    await created(world, gateway, "s", node_id="p")
    world.store("p").patterns = 3
    await world.run(gateway.end_node("p"))
    armed = True
    ending = asyncio.create_task(gateway.end("s", purge=True))
    await settle()
    assert dead
    await kill(gateway)
    await asyncio.gather(ending, return_exceptions=True)
    async with serving(world) as gateway:
        await world.clock.turn(60.0)
        assert (world.store("p").patterns, world.tables.purges) == (0, {})
        await assert_sound(world, gateway)


async def test_a_session_begins_on_a_purged_processor(world: World) -> None:
    """Where the purge could not be made, it is made before the next session of the processor is served."""
    fails = True

    async def knob(name: str, phase: Literal["before", "after"]) -> None:
        if fails and name == "runtime.start" and phase == "before":
            raise NodeFailed("no node today")

    async with serving(world, knob=knob) as gateway:
        fails = False
        await created(world, gateway, "s", node_id="p")
        world.store("p").patterns = 3
        await world.run(gateway.end_node("p"))
        fails = True
        await world.run(gateway.end("s", purge=True))
        assert await gateway.directory.owes_purge("p")
        assert world.store("p").patterns == 3
        fails = False
        await created(world, gateway, "t", node_id="p")
        assert (world.store("p").patterns, list(world.store("p").sessions)) == (0, ["t"])
        world.store("p").patterns = 1
        await world.clock.turn(60.0)
        assert world.store("p").patterns == 1
        await assert_sound(world, gateway)
