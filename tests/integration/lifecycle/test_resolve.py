"""From a session to its route: hits, wakes, and routes that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import RuntimeOutOfReach, SessionExpired, SessionNotFound
from kato_gateway.domain.sessions import EndReason, NodeState, SessionStatus
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.registry.memory import MemoryRegistry
from tests.integration.lifecycle.world import (
    POLICY,
    Phase,
    World,
    assert_sound,
    created,
    serving,
    settle,
)


def route_of(gateway: Lifecycle, session_id: str = "s") -> Route:
    """Return the session's route."""
    route = gateway.routes.get(session_id)
    assert route is not None
    return route


async def hibernate(world: World, gateway: Lifecycle, session_id: str = "s") -> None:
    """Let the session's node end by itself."""
    world.engine.kill(route_of(gateway, session_id).node_id)
    await settle()
    assert (await world.sessions())[session_id] is SessionStatus.HIBERNATED


async def test_a_hit_touches_neither_registry_nor_runtime(world: World) -> None:
    """A session with a route is resolved from memory alone."""
    calls: list[str] = []

    async def note(name: str, phase: Phase) -> None:
        calls.append(name)

    async with serving(world, knob=note) as gateway:
        made = await created(world, gateway, "s")
        calls.clear()
        assert await gateway.resolve("s") == made.route
        assert calls == []


async def test_an_unknown_session_is_not_found(world: World) -> None:
    """No route, no record: SESSION_NOT_FOUND, and nothing is started."""
    async with serving(world) as gateway:
        with pytest.raises(SessionNotFound):
            await gateway.resolve("s")
        assert world.alive() == []


async def test_the_session_default_is_made_on_demand(world: World) -> None:
    """`default` needs no create, once for all who call at the same time, never expires, and comes back if deleted."""
    async with serving(world) as gateway:
        routes = await world.run(_gathered(*(gateway.resolve("default") for _ in range(5))))
        assert len(set(routes)) == 1
        assert (await gateway.get("default")).expires_at_s is None
        await world.run(gateway.end("default"))
        assert await world.run(gateway.resolve("default"))
        await assert_sound(world, gateway)


async def test_a_call_wakes_a_hibernated_session(world: World) -> None:
    """Its node is gone; the next call finds a new one with a newer epoch, its state and its configuration."""
    async with serving(world) as gateway:
        made = await created(world, gateway, "s", config={"x": 1})
        await hibernate(world, gateway)
        assert gateway.routes.get("s") is None
        routes = await world.run(_gathered(*(gateway.resolve("s") for _ in range(5))))
        assert {(route.epoch, route.node_id != made.route.node_id) for route in routes} == {(2, True)}
        assert (await gateway.get("s")).effective_config == {"persistence": 5, "x": 1}
        assert world.store("s").epoch == 2
        await assert_sound(world, gateway)


async def test_creating_a_hibernated_session_restores_it(world: World) -> None:
    """The caller's hibernated session is found again, on a woken node."""
    async with serving(world) as gateway:
        await created(world, gateway, "s")
        await hibernate(world, gateway)
        again = await created(world, gateway, "s")
        assert (again.created, again.start) == (False, "restored")


async def test_sessions_of_one_processor_wake_its_node_once(world: World) -> None:
    """However many wake at the same time, the processor is bound once more."""
    async with serving(world) as gateway:
        for name in ("a", "b", "c"):
            await created(world, gateway, name, node_id="p")
        world.engine.kill(route_of(gateway, "a").node_id)
        await settle()
        assert set((await world.sessions()).values()) == {SessionStatus.HIBERNATED}
        routes = await world.run(_gathered(*(gateway.resolve(name) for name in ("a", "b", "c"))))
        assert len({route.node_id for route in routes}) == 1
        assert world.store("p").epoch == 2
        await assert_sound(world, gateway)


async def test_an_expired_session_is_not_woken(world: World) -> None:
    """Past its time a hibernated session answers SESSION_EXPIRED, also before anybody has ended it."""
    async with serving(world, policy=replace(POLICY, upkeep_interval_s=10_000.0)) as gateway:
        await created(world, gateway, "s", ttl_seconds=5.0)
        await hibernate(world, gateway)
        await world.clock.turn(5.0)
        assert (await world.sessions())["s"] is SessionStatus.HIBERNATED
        with pytest.raises(SessionExpired) as expired:
            await gateway.resolve("s")
        assert expired.value.details["node_id"] == "s"


class TestLost:
    """Lifecycle.lost."""

    async def test_a_dead_node_is_replaced(self, world: World) -> None:
        """Reported before the runtime says a word: the node is found dead, and the next resolve wakes another."""
        async with serving(world) as gateway:
            for name in ("a", "b"):
                await created(world, gateway, name, node_id="p")
            lost = route_of(gateway, "a")
            world.engine.listeners.clear()
            world.engine.kill(lost.node_id)
            await world.run(_gathered(*(gateway.lost(lost) for _ in range(5))))
            assert (gateway.routes.get("a"), gateway.routes.get("b")) == (None, None)
            assert (await world.run(gateway.resolve("b"))).epoch == 2
            assert (await world.run(gateway.resolve("a"))).epoch == 2
            await settle()
            await assert_sound(world, gateway)

    async def test_a_node_that_is_well_is_found_again(self, world: World) -> None:
        """A connection that broke for no reason costs nothing but the question."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            await world.run(gateway.lost(made.route))
            assert await world.run(gateway.resolve("s")) == made.route
            await assert_sound(world, gateway)

    async def test_an_old_report_does_not_harm_a_new_route(self, world: World) -> None:
        """A report about a node that was replaced already changes nothing."""
        async with serving(world) as gateway:
            old = (await created(world, gateway, "s")).route
            await hibernate(world, gateway)
            new = await world.run(gateway.resolve("s"))
            await world.run(gateway.lost(old))
            assert gateway.routes.get("s") == new

    async def test_nothing_is_concluded_while_the_runtime_cannot_tell(self, world: World) -> None:
        """UNKNOWN: the caller is told to try again, no record and no node changes, and later all is as it was."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            world.engine.knobs.is_out_of_reach = True
            for call in (gateway.lost(made.route), gateway.resolve("s")):
                with pytest.raises(RuntimeOutOfReach) as told:
                    await world.run(call)
                assert told.value.retry_after_s is not None
            assert await world.records() == {made.route.node_id: NodeState.BOUND}
            assert world.alive() == [made.route.node_id]
            await world.engine_returns()
            assert await world.run(gateway.resolve("s")) == made.route
            await assert_sound(world, gateway)

    async def test_what_runs_under_another_identity_is_quarantined(self, world: World) -> None:
        """A node that answers for something else gets no calls and is removed later; the session wakes elsewhere."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            stranger = world.node(made.route.node_id)
            stranger.processor_id = "other"
            await world.run(gateway.lost(made.route))
            assert await world.records() == {made.route.node_id: NodeState.QUARANTINED}
            assert (await world.run(gateway.resolve("s"))).node_id != made.route.node_id
            assert made.route.node_id in world.alive()
            await world.clock.turn(POLICY.quarantine_s + POLICY.sweep_interval_s)
            assert made.route.node_id not in world.alive()
            await assert_sound(world, gateway)

    async def test_a_draining_node_is_waited_for(self, world: World) -> None:
        """While the old node finishes what it has, a call waits; the new node follows it."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            world.node(made.route.node_id).state = "draining"
            lost = asyncio.create_task(gateway.lost(made.route))
            await world.clock.turn(1.0)
            assert not lost.done()
            world.engine.kill(made.route.node_id)
            await world.run(_gathered(lost))
            assert (await world.run(gateway.resolve("s"))).epoch == 2
            await assert_sound(world, gateway)

    async def test_a_node_that_drains_for_ever_is_superseded(self, world: World) -> None:
        """The wait is bounded; then another node takes the processor with a newer epoch."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            world.node(made.route.node_id).state = "draining"
            at_s = world.clock.now_s()
            await world.run(gateway.lost(made.route), step_s=0.1)
            assert POLICY.drain_grace_s <= world.clock.now_s() - at_s <= POLICY.drain_grace_s + 1.0
            assert (await world.run(gateway.resolve("s"))).epoch == 2
            await settle()
            await assert_sound(world, gateway)

    async def test_a_silent_node_is_given_up_after_a_while(self, world: World) -> None:
        """A node that lives and answers nothing is waited for, but not for ever: then another takes its place."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            world.node(made.route.node_id).is_deaf = True
            at_s = world.clock.now_s()
            await world.run(gateway.lost(made.route), step_s=0.1)
            assert POLICY.silent_max_s <= world.clock.now_s() - at_s <= POLICY.silent_max_s + 1.0
            assert (await world.run(gateway.resolve("s"))).epoch == 2
            await settle()
            await assert_sound(world, gateway)


class TestSilence:
    """Lifecycle.is_lost: what a call that waits long asks."""

    async def test_a_node_that_answers_keeps_its_calls(self, world: World) -> None:
        """It is not lost, and its route stays."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            assert not await world.run(gateway.is_lost(made.route))
            assert gateway.routes.get("s") == made.route

    async def test_a_node_that_hangs_is_given_up_while_its_call_waits(self, world: World) -> None:
        """Many calls that wait are told at once, after its patience has ended; the next call finds another node."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            world.node(made.route.node_id).is_deaf = True
            at_s = world.clock.now_s()
            told = await world.run(asyncio.wait_for(_all(*(gateway.is_lost(made.route) for _ in range(5))), 600.0))
            assert told == [True] * 5
            assert POLICY.silent_max_s <= world.clock.now_s() - at_s <= POLICY.silent_max_s + 1.0
            assert (await world.run(gateway.resolve("s"))).epoch == 2
            await settle()
            await assert_sound(world, gateway)

    async def test_a_node_that_is_gone_is_lost(self, world: World) -> None:
        """Whoever asks hears it at once, and its route goes."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            await world.run(gateway.end_node("s"))
            gateway.routes.put(made.route)
            assert await world.run(gateway.is_lost(made.route))
            assert gateway.routes.get("s") is None

    async def test_nothing_is_lost_while_the_runtime_cannot_tell(self, world: World) -> None:
        """A silent node of which nothing is known is not given up."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            world.node(made.route.node_id).is_deaf = True
            world.engine.knobs.is_out_of_reach = True
            with pytest.raises(RuntimeOutOfReach):
                await world.run(gateway.is_lost(made.route))
            await world.engine_returns()
            assert made.route.node_id in world.alive()


async def _all(*calls: Awaitable[bool]) -> list[bool]:
    return await asyncio.gather(*calls)


async def test_a_fenced_node_is_replaced_when_a_session_is_opened_on_it(world: World) -> None:
    """Somebody else took the processor: the node stops, and the session opens on a new one."""
    async with serving(world) as gateway:
        first = await created(world, gateway, "a", node_id="p")
        world.engine.listeners.clear()
        world.store("p").epoch += 1
        second = await created(world, gateway, "b", node_id="p")
        assert second.route.node_id != first.route.node_id
        assert (await world.run(gateway.resolve("a"))).node_id == second.route.node_id
        await settle()
        await assert_sound(world, gateway)


async def test_the_effective_configuration_is_the_nodes_own(world: World) -> None:
    """An active session's configuration is asked of its node and noted; a hibernated one's is the last known."""
    async with serving(world) as gateway:
        await created(world, gateway, "s")
        world.store("s").sessions["s"].config = {"persistence": 9}
        assert await gateway.effective_config("s") == {"persistence": 9}
        await hibernate(world, gateway)
        assert await gateway.effective_config("s") == {"persistence": 9}
        assert world.alive() == []
        with pytest.raises(SessionNotFound):
            await gateway.effective_config("t")


async def test_a_hibernated_session_costs_no_memory_of_its_own(world: World) -> None:
    """When its node is gone nothing is kept of a session but its record."""
    async with serving(world) as gateway:
        for number in range(5):
            await created(world, gateway, f"s{number}")
            gateway.activity.touch(f"s{number}")
        await world.clock.turn(POLICY.flush_interval_s + 1.0)
        for number in range(5):
            await hibernate(world, gateway, f"s{number}")
        await world.clock.turn(POLICY.flush_interval_s + 1.0)
        assert len(gateway.routes) == 0
        assert gateway.activity.take() == {}
        assert len(await MemoryRegistry(world.tables).nodes()) == 0


async def _gathered(*calls: object) -> list[Route]:
    return await asyncio.gather(*calls)  # type: ignore[call-overload, no-any-return]


async def test_an_expired_default_is_made_anew(world: World) -> None:
    """`default` is there whenever it is called: after one that expired comes one with empty STM."""
    async with serving(world) as gateway:
        await world.run(gateway.resolve("default"))
        first = await gateway.get("default")
        await world.run(gateway.end("default", EndReason.EXPIRED))
        await world.run(gateway.resolve("default"))
        second = await gateway.get("default")
        assert second.incarnation != first.incarnation
        assert world.store("default").sessions["default"].incarnation == second.incarnation
        await assert_sound(world, gateway)
