"""Each step fails, is cancelled, or is the last: nothing leaks, nothing is lost, and it can be done again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Literal, TypeAlias

import pytest

from container_manager.errors import RuntimeUnavailable
from kato_gateway.domain.errors import GatewayError, NodeFailed, RegistryUnavailable, SessionNotFound
from kato_gateway.domain.sessions import SessionStatus
from kato_gateway.lifecycle import CreateSession, Lifecycle
from tests.integration.lifecycle.world import (
    POLICY,
    Killed,
    Phase,
    World,
    assert_sound,
    created,
    kill,
    settle,
)

Mode: TypeAlias = Literal["fails", "is cancelled", "kills"]
PATIENT = replace(POLICY, warm_pool_size=1, upkeep_interval_s=10.0)
LONG_S = 200.0
STEPS_MAX = 150


class Saboteur:
    """A knob that lets `at` steps pass and then strikes: once, or for good where it kills."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.at: int | None = None
        self.struck: str | None = None

    async def __call__(self, name: str, phase: Phase) -> None:
        if self.struck and self.mode == "kills":
            raise Killed
        if self.at is None:
            return
        if self.at:
            self.at -= 1
            return
        self.at = None
        self.struck = f"{phase} {name}"
        raise {"fails": _error(name), "is cancelled": asyncio.CancelledError(), "kills": Killed()}[self.mode]


def _error(name: str) -> Exception:
    part = name.partition(".")[0]
    return {
        "registry": RegistryUnavailable(f"{name} failed"),
        "runtime": RuntimeUnavailable(f"{name} failed"),
        "node": NodeFailed(f"{name} failed"),
    }[part]


Scene: TypeAlias = Callable[[World, Lifecycle], Awaitable[object]]


async def create_warm(world: World, gateway: Lifecycle) -> object:
    """A session with a processor of its own, a member ready."""
    return await gateway.create(CreateSession(session_id="new", user_id="ann"))


async def create_two(world: World, gateway: Lifecycle) -> object:
    """Two sessions at once, one member ready: one of them waits for a start."""
    calls = (gateway.create(CreateSession(session_id=name, user_id="ann")) for name in ("new", "newer"))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


async def create_shared(world: World, gateway: Lifecycle) -> object:
    """A session on the processor of one that is there."""
    return await gateway.create(CreateSession(session_id="new", user_id="ann", node_id="old"))


async def wake(world: World, gateway: Lifecycle) -> object:
    """The node has ended by itself; the next call wakes another."""
    world.engine.kill(gateway.routes.get("old").node_id)  # type: ignore[union-attr]
    await settle()
    return await gateway.resolve("old")


async def lose(world: World, gateway: Lifecycle) -> object:
    """The data plane finds the node gone before anybody else does."""
    route = gateway.routes.get("old")
    assert route is not None
    world.engine.listeners.clear()
    world.engine.kill(route.node_id)
    await gateway.lost(route)
    return await gateway.resolve("old")


async def end(world: World, gateway: Lifecycle) -> object:
    """A session is ended, and its node with it."""
    await gateway.end("old")
    await settle()
    return None


async def end_and_create(world: World, gateway: Lifecycle) -> object:
    """A session is ended and another of its id made."""
    await gateway.end("old")
    return await gateway.create(CreateSession(session_id="old", user_id="ann"))


async def end_hibernated(world: World, gateway: Lifecycle) -> object:
    """A session is ended while no node has it open, and another one comes to its processor."""
    world.engine.kill(gateway.routes.get("old").node_id)  # type: ignore[union-attr]
    await settle()
    await gateway.end("old")
    return await gateway.create(CreateSession(session_id="new", user_id="ann", node_id="old"))


async def end_node(world: World, gateway: Lifecycle) -> object:
    """An operator ends a node, the session is called again."""
    await gateway.end_node("old")
    return await gateway.resolve("old")


async def extend(world: World, gateway: Lifecycle) -> object:
    """A session is used, its use is written, it is extended."""
    gateway.activity.touch("old")
    await world.clock.turn(11.0)
    return await gateway.extend("old", ttl_s=10_000.0)


SCENES: tuple[Scene, ...] = (
    create_warm,
    create_two,
    create_shared,
    wake,
    lose,
    end,
    end_and_create,
    end_hibernated,
    end_node,
    extend,
)


async def stage(world: World, saboteur: Saboteur) -> Lifecycle:
    """Serve one session, with one member in the pool."""
    gateway = world.gateway(policy=PATIENT, knob=saboteur)
    await world.run(gateway.start())
    await created(world, gateway, "old", user_id="ann", ttl_seconds=5000.0)
    await world.clock.turn(2.0)
    await assert_sound(world, gateway)
    return gateway


@pytest.mark.parametrize("mode", ["fails", "is cancelled", "kills"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_every_step_may_be_the_wrong_one(scene: Scene, mode: Mode) -> None:
    """Whichever call to registry, runtime or node goes wrong, before or after its effect, the story stays one."""
    for at in range(STEPS_MAX):
        world, saboteur = World(), Saboteur(mode)
        gateway = await stage(world, saboteur)
        saboteur.at = at
        succeeded = await attempt(world, scene(world, gateway), saboteur)
        saboteur.at = None
        if saboteur.struck and mode == "kills":
            succeeded = False
            await kill(gateway)
            gateway = world.gateway(policy=PATIENT)
            await world.run(gateway.start())
        try:
            await check(world, gateway, scene, succeeded=succeeded)
        except AssertionError as error:
            raise AssertionError(f"at step {at}, {saboteur.struck}") from error
        await world.run(gateway.stop())
        assert world.engine.nodes == {}
        assert len(asyncio.all_tasks()) == 1
        if saboteur.struck is None:
            assert succeeded
            return
    pytest.fail("there was no end to the steps")


async def attempt(world: World, call: Awaitable[object], saboteur: Saboteur) -> bool:
    """Make the call, which may fail as calls may; return whether it did not. A killed gateway answers nobody."""

    async def made() -> bool:
        try:
            await call
        except (GatewayError, asyncio.CancelledError):
            return False
        return True

    task = asyncio.create_task(made())
    await settle()
    while not task.done() and not (saboteur.mode == "kills" and saboteur.struck):
        await world.clock.turn(0.5)
    return task.done() and await task


async def check(world: World, gateway: Lifecycle, scene: Scene, *, succeeded: bool) -> None:
    """Check that what was promised is there, at once and after a long while, and that everything can be done again."""
    if succeeded:
        await check_sessions(world, gateway, scene, succeeded=succeeded)
    await world.clock.turn(LONG_S)
    await assert_sound(world, gateway)
    await check_sessions(world, gateway, scene, succeeded=succeeded)
    await assert_sound(world, gateway)
    again = await created(world, gateway, "new", user_id="ann")
    assert again.record.status is SessionStatus.ACTIVE
    await assert_sound(world, gateway)


async def check_sessions(world: World, gateway: Lifecycle, scene: Scene, *, succeeded: bool) -> None:
    """Check that each session that must be there can be called, and that one that must not be cannot."""
    may_be_gone = scene in {end, end_and_create, end_hibernated}
    if not may_be_gone or (succeeded and scene is end_and_create):
        assert (await world.run(gateway.resolve("old"))).processor_id == "old"
    elif succeeded:
        with pytest.raises(SessionNotFound):
            await world.run(gateway.resolve("old"))
    if succeeded and scene in {create_warm, create_two, create_shared, end_hibernated}:
        assert await world.run(gateway.resolve("new"))
