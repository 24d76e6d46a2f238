"""A processor with more sessions than anybody lists at once, and what is left of its ended ones."""

from __future__ import annotations

from kato_gateway.domain.sessions import NodeState, activated, hibernated, new_session
from kato_gateway.registry.base import Leftover, LeftoverChange
from kato_gateway.registry.documents import session_document
from kato_gateway.registry.memory import MemoryRegistry
from tests.integration.lifecycle.world import POLICY, World, assert_sound, created, serving

CROWD = 10_100


def asleep(world: World, processor_id: str) -> None:
    """Have many hibernated sessions of the processor on record."""
    for number in range(CROWD):
        record = new_session(f"a{number:05}", incarnation="i", at_s=0.0, ttl_s=None, processor_id=processor_id)
        record = hibernated(activated(record, node_id="gone", effective_config={}))
        world.tables.sessions[record.session_id] = session_document(record)


async def test_the_last_of_many_sessions_keeps_its_node(world: World) -> None:
    """However many of a processor's sessions sleep, one that is awake keeps the node; the end of it ends that."""
    async with serving(world) as gateway:
        made = await created(world, gateway, "z", node_id="p")
        other = await created(world, gateway, "y", node_id="p")
        asleep(world, "p")
        await world.run(gateway.end("y"))
        await world.clock.turn(POLICY.sweep_interval_s)
        assert await world.records() == {made.route.node_id: NodeState.BOUND}
        assert gateway.routes.get("z") == made.route
        assert (other.route.node_id, list(world.store("p").sessions)) == (made.route.node_id, ["z"])
        await world.run(gateway.end("z"))
        await world.clock.turn(1.0)
        assert world.alive() == []


async def test_what_is_left_of_a_former_life_is_deleted_under_the_later_one(world: World) -> None:
    """The records of an ended life go, with a bind or by a node that is there; those of the one that lives stay."""
    async with serving(world) as gateway:
        owed = Leftover(processor_id="p", session_id="s", incarnation="former")
        remember = [LeftoverChange(leftover=owed, remember=True)]
        await MemoryRegistry(world.tables).apply(remember)
        made = await created(world, gateway, "s", node_id="p")
        assert world.tables.leftovers == {}
        await MemoryRegistry(world.tables).apply(remember)
        await created(world, gateway, "t", node_id="p")
        await world.run(gateway.end("t"))
        assert world.tables.leftovers == {}
        assert world.store("p").sessions["s"].incarnation == made.record.incarnation
        await assert_sound(world, gateway)
