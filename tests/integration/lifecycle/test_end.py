"""Ending sessions and nodes."""

from __future__ import annotations

import asyncio

import pytest

from kato_gateway.domain.errors import NodeNotFound, SessionNotFound
from kato_gateway.domain.sessions import EndReason, SessionStatus
from kato_gateway.events import Event
from kato_gateway.lifecycle import CreateSession
from tests.integration.lifecycle.world import World, assert_sound, created, serving, settle


async def test_ending_a_session_ends_a_node_that_serves_nobody_else(world: World) -> None:
    """The session is gone, its records are deleted, its node is removed; what the processor learned stays."""
    async with serving(world) as gateway:
        await created(world, gateway, "s")
        ended = await world.run(gateway.end("s"))
        assert (ended.status, ended.reason) == (SessionStatus.ENDED, EndReason.DELETED)
        assert gateway.routes.get("s") is None
        await settle()
        assert world.engine.nodes == {}
        assert (world.store("s").epoch, world.store("s").sessions) == (1, {})
        assert world.tables.leftovers == {}
        await assert_sound(world, gateway)


async def test_ending_one_of_two_leaves_the_other(world: World) -> None:
    """A node that serves somebody else goes on; only the ended session's records are deleted."""
    async with serving(world) as gateway:
        for name in ("a", "b"):
            await created(world, gateway, name, node_id="p")
        await world.run(gateway.end("a"))
        assert list(world.store("p").sessions) == ["b"]
        assert (await gateway.resolve("b")).epoch == 1
        await world.run(gateway.end("b"))
        await settle()
        assert world.alive() == []


async def test_an_ended_session_is_not_found(world: World) -> None:
    """Deleted is deleted: every call answers SESSION_NOT_FOUND."""
    async with serving(world) as gateway:
        await created(world, gateway, "s")
        await world.run(gateway.end("s"))
        for call in (gateway.get("s"), gateway.resolve("s"), gateway.end("s"), gateway.extend("s", ttl_s=1.0)):
            with pytest.raises(SessionNotFound):
                await world.run(call)


async def test_a_session_can_be_ended_while_it_is_created(world: World) -> None:
    """The end is answered at once; whoever created it is told; no node, record or route is left."""
    async with serving(world) as gateway:
        world.engine.knobs.start_gate = asyncio.Event()
        create = asyncio.create_task(gateway.create(CreateSession(session_id="s")))
        await settle()
        await asyncio.wait_for(gateway.end("s"), 1.0)
        world.engine.knobs.start_gate.set()
        with pytest.raises(SessionNotFound):
            await create
        await settle()
        assert gateway.routes.get("s") is None
        assert await world.sessions() == {"s": SessionStatus.ENDED}
        await assert_sound(world, gateway)


async def test_a_session_can_be_ended_while_it_wakes(world: World) -> None:
    """No route appears after the end, whatever was under way."""
    async with serving(world) as gateway:
        made = await created(world, gateway, "s")
        world.engine.kill(made.route.node_id)
        await settle()
        world.engine.knobs.start_gate = asyncio.Event()
        wake = asyncio.create_task(gateway.resolve("s"))
        await settle()
        await asyncio.wait_for(gateway.end("s"), 1.0)
        world.engine.knobs.start_gate.set()
        with pytest.raises(SessionNotFound):
            await wake
        await settle()
        assert gateway.routes.get("s") is None
        await assert_sound(world, gateway)


async def test_a_hibernated_session_can_be_ended(world: World) -> None:
    """Nothing is woken; the processor's next node deletes what is left, and no live session of that id."""
    async with serving(world) as gateway:
        made = await created(world, gateway, "s")
        world.engine.kill(made.route.node_id)
        await settle()
        await world.run(gateway.end("s"))
        assert world.alive() == []
        again = await created(world, gateway, "s")
        assert world.store("s").sessions["s"].incarnation == again.record.incarnation
        await assert_sound(world, gateway)


async def test_ending_twice_at_once_ends_once(world: World) -> None:
    """Of two calls one ends the session, the other finds it gone."""
    async with serving(world) as gateway:
        await created(world, gateway, "s")
        outcomes = await asyncio.gather(*(gateway.end("s") for _ in range(3)), return_exceptions=True)
        assert sum(isinstance(outcome, SessionNotFound) for outcome in outcomes) == 2


async def test_a_node_can_be_ended_by_either_name(world: World) -> None:
    """By its own id or its processor's: it drains, its sessions hibernate and wake with the next call."""
    async with serving(world) as gateway:
        for ended_by_processor in (True, False):
            made = await created(world, gateway, "s", node_id="p")
            route = await world.run(gateway.resolve("s"))
            await world.run(gateway.end_node("p" if ended_by_processor else route.node_id))
            await settle()
            assert route.node_id not in world.engine.nodes
            assert await world.sessions() == {"s": SessionStatus.HIBERNATED}
            assert (await world.run(gateway.resolve("s"))).epoch == route.epoch + 1
            assert made.record.session_id == "s"
        await assert_sound(world, gateway)
        with pytest.raises(NodeNotFound):
            await gateway.end_node("nobody")


async def test_a_node_that_does_not_drain_is_ended_all_the_same(world: World) -> None:
    """The drain is bounded."""
    world.drains_end = False
    async with serving(world) as gateway:
        made = await created(world, gateway, "s")
        await world.run(gateway.end_node("s"))
        await settle()
        assert made.route.node_id not in world.engine.nodes
        await assert_sound(world, gateway)


async def test_what_happens_is_told(world: World) -> None:
    """Listeners hear of each step in its order, until they leave."""
    heard: list[Event] = []
    async with serving(world) as gateway:
        leave = gateway.events.subscribe(heard.append)
        made = await created(world, gateway, "s")
        world.engine.kill(made.route.node_id)
        await settle()
        await world.run(gateway.resolve("s"))
        await world.run(gateway.end("s"))
        await settle()
        assert [event.kind for event in heard] == [
            "session_created",
            "node_started",
            "node_bound",
            "session_active",
            "node_ended",
            "session_hibernated",
            "node_started",
            "node_bound",
            "session_active",
            "session_ended",
            "node_ended",
        ]
        assert {event.session_id for event in heard if event.kind.startswith("session")} == {"s"}
        leave()
        leave()
        heard.clear()
        await created(world, gateway, "t")
        assert heard == []


async def test_a_session_begins_while_its_former_life_is_still_being_opened(world: World) -> None:
    """Whoever takes the id of a session that ended on its way gets one of its own, at once a node is there."""
    async with serving(world) as gateway:
        gate = world.engine.knobs.start_gate = asyncio.Event()
        former = asyncio.create_task(gateway.create(CreateSession(session_id="s")))
        await settle()
        await world.run(gateway.end("s"))
        later = asyncio.create_task(gateway.create(CreateSession(session_id="s", node_id="p")))
        await settle()
        again = asyncio.create_task(gateway.resolve("s"))
        await settle()
        gate.set()
        with pytest.raises(SessionNotFound):
            await world.run(asyncio.wait_for(former, 600.0))
        made = await world.run(asyncio.wait_for(later, 600.0))
        assert (made.created, made.record.processor_id) == (True, "p")
        assert await world.run(asyncio.wait_for(again, 600.0)) == made.route
        await world.clock.turn(1.0)
        assert await world.sessions() == {"s": SessionStatus.ACTIVE}
        await assert_sound(world, gateway)


async def test_a_later_life_on_the_same_processor_is_opened_as_itself(world: World) -> None:
    """It joins the search for a node that its former life began, and not what that opens there."""
    async with serving(world) as gateway:
        gate = world.engine.knobs.start_gate = asyncio.Event()
        former = asyncio.create_task(gateway.create(CreateSession(session_id="s")))
        await settle()
        await world.run(gateway.end("s"))
        later = asyncio.create_task(gateway.create(CreateSession(session_id="s")))
        await settle()
        gate.set()
        with pytest.raises(SessionNotFound):
            await world.run(asyncio.wait_for(former, 600.0))
        made = await world.run(asyncio.wait_for(later, 600.0))
        assert made.route.incarnation == made.record.incarnation
        await world.clock.turn(1.0)
        stored = world.store("s").sessions["s"].incarnation
        assert stored == made.record.incarnation
        await assert_sound(world, gateway)
