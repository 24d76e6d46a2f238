"""Recovery, cell by cell: a node is on record or not, runs or not or nobody can tell, and is ours or not.

The table is in docs/decisions.md. In each cell a gateway starts, sweeps for longer than any patience, and a call comes
for the node's session.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import pytest

from container_manager.runtimes.memory import MemoryRuntime
from container_manager.spec import Address, NodeSpec
from kato_gateway.domain.errors import RuntimeOutOfReach
from kato_gateway.domain.sessions import NodeRecord, NodeState, SessionStatus, bound, claimed, pooled
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.registry.base import NodeChange
from kato_gateway.registry.memory import MemoryRegistry
from tests.integration.lifecycle.world import DEPLOYMENT, POLICY, World, created, kill, settle

Whose: TypeAlias = Literal["ours", "another deployment's", "another engine's"]
Life: TypeAlias = Literal["running", "dead", "unknown"]

LONG_S = 3 * max(POLICY.quarantine_s, POLICY.start_timeout_s, POLICY.silent_max_s)
FAR_AWAY = Address(host="192.0.2.1", port=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of the table, as it was before the gateway started."""

    world: World
    gateway: Lifecycle
    node_id: str

    async def state(self) -> NodeState | None:
        """Return the state of the node's record."""
        return (await self.world.records()).get(self.node_id)

    @property
    def is_there(self) -> bool:
        """Whether any engine still has the node, dead or alive."""
        return self.node_id in {**self.world.engine.nodes, **self.world.elsewhere.nodes}

    @property
    def lives(self) -> bool:
        """Whether it still runs."""
        nodes = {**self.world.engine.nodes, **self.world.elsewhere.nodes}
        return self.is_there and nodes[self.node_id].is_alive


async def cell(world: World, *, recorded: bool, life: Life, whose: Whose, deaf: bool = False) -> Cell:
    """Make the cell: a session `s` on a node of processor `s` that is then as asked for, and a gateway started anew."""
    deployment = "elsewhere" if whose == "another deployment's" else DEPLOYMENT
    engine = world.elsewhere if whose == "another engine's" else world.engine
    first = world.gateway()
    await world.run(first.start())
    made = await created(world, first, "s")
    node_id = made.route.node_id
    await kill(first)
    node = world.engine.nodes.pop(node_id)
    node.spec = replace(node.spec, deployment=deployment)
    engine.nodes[node_id] = node
    registry = MemoryRegistry(world.tables)
    record = await registry.node(node_id)
    assert record is not None
    if whose == "another engine's":
        world.tables.nodes[node_id]["engine"] = MemoryRuntime(world.elsewhere, DEPLOYMENT).engine
    if not recorded:
        del world.tables.nodes[node_id]
    if life == "dead":
        node.is_alive = False
    world.engine.knobs.is_out_of_reach = life == "unknown"
    world.node(node_id).is_deaf = deaf
    gateway = world.gateway()
    await world.run(gateway.start())
    return Cell(world=world, gateway=gateway, node_id=node_id)


async def served_by(here: Cell) -> str:
    """Call on the session; return the node that serves it."""
    return (await here.world.run(here.gateway.resolve("s"))).node_id


async def test_on_record_running_ours(world: World) -> None:
    """It is asked, found to be what its record says, and serves on."""
    here = await cell(world, recorded=True, life="running", whose="ours")
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.lives) == (NodeState.BOUND, True)
    assert await served_by(here) == here.node_id


async def test_on_record_dead_ours(world: World) -> None:
    """Its traces and its record go; its session sleeps, and is restored on demand by another node."""
    here = await cell(world, recorded=True, life="dead", whose="ours")
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.is_there) == (None, False)
    assert await world.sessions() == {"s": SessionStatus.HIBERNATED}
    assert await served_by(here) != here.node_id
    assert world.store("s").epoch == 2


async def test_on_record_unknown_ours(world: World) -> None:
    """Nothing is concluded; a call is refused until something is known, and then goes where it went before."""
    here = await cell(world, recorded=True, life="unknown", whose="ours")
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.lives) == (NodeState.BOUND, True)
    with pytest.raises(RuntimeOutOfReach) as refused:
        await served_by(here)
    assert refused.value.retry_after_s
    await world.engine_returns()
    assert await served_by(here) == here.node_id


@pytest.mark.parametrize("whose", ["another deployment's", "another engine's"])
async def test_on_record_running_anothers(world: World, whose: Whose) -> None:
    """It is not judged; since it answers at its address as its record says, its sessions are served by it."""
    here = await cell(world, recorded=True, life="running", whose=whose)
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.lives) == (NodeState.BOUND, True)
    assert await served_by(here) == here.node_id
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.lives) == (NodeState.BOUND, True)


@pytest.mark.parametrize("life", ["running", "dead", "unknown"])
@pytest.mark.parametrize("whose", ["another deployment's", "another engine's"])
async def test_on_record_silent_anothers(world: World, whose: Whose, life: Life) -> None:
    """If it does not answer, a call is refused and told whose it is; neither node nor record is touched."""
    here = await cell(world, recorded=True, life=life, whose=whose, deaf=True)
    await world.clock.turn(LONG_S)
    with pytest.raises(RuntimeOutOfReach) as refused:
        await served_by(here)
    assert refused.value.retry_after_s
    record = world.tables.nodes[here.node_id]
    if life == "unknown" and whose == "another deployment's":  # which our own engine would have to say
        assert "cannot be told now" in refused.value.message
    else:
        assert f"'{record['engine']}'" in refused.value.message
    assert (record["state"], here.is_there, here.lives) == ("bound", True, life != "dead")


@pytest.mark.parametrize("whose", ["another deployment's", "another engine's"])
async def test_on_record_unknown_anothers(world: World, whose: Whose) -> None:
    """That our own engine is out of reach changes nothing for what answers for itself."""
    here = await cell(world, recorded=True, life="unknown", whose=whose)
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.lives) == (NodeState.BOUND, True)
    if whose == "another engine's":
        assert await served_by(here) == here.node_id


async def test_not_on_record_running_ours(world: World) -> None:
    """It is quarantined, gets no calls, and is removed after a while; its session is restored by another node."""
    here = await cell(world, recorded=False, life="running", whose="ours")
    assert (await here.state(), here.lives) == (NodeState.QUARANTINED, True)
    assert await served_by(here) != here.node_id
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.is_there) == (None, False)


async def test_not_on_record_dead_ours(world: World) -> None:
    """Its traces are removed."""
    here = await cell(world, recorded=False, life="dead", whose="ours")
    await settle()
    assert (await here.state(), here.is_there) == (None, False)
    assert await served_by(here) != here.node_id


async def test_not_on_record_unknown_ours(world: World) -> None:
    """It is left alone until something is known."""
    here = await cell(world, recorded=False, life="unknown", whose="ours")
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.lives) == (None, True)


@pytest.mark.parametrize("life", ["running", "dead", "unknown"])
@pytest.mark.parametrize("whose", ["another deployment's", "another engine's"])
async def test_not_on_record_anothers(world: World, whose: Whose, life: Life) -> None:
    """It does not exist for us: no record is made of it, and nobody touches it; its session gets a node of ours."""
    here = await cell(world, recorded=False, life=life, whose=whose)
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.is_there, here.lives) == (None, True, life != "dead")
    await world.engine_returns()
    assert await served_by(here) != here.node_id
    await world.run(here.gateway.stop())
    assert (here.is_there, here.lives) == (True, life != "dead")


@pytest.mark.parametrize("state", [NodeState.CREATING, NodeState.POOL, NodeState.BINDING, NodeState.ENDED])
async def test_what_another_engine_is_about_is_left_alone(world: World, state: NodeState) -> None:
    """In whatever state its record is, a node of another engine is neither claimed nor cleared away."""
    record = NodeRecord(node_id="n", spec_hash="h", engine="memory:other", created_at_s=0.0, changed_at_s=0.0)
    if state in {NodeState.POOL, NodeState.BINDING}:
        record = pooled(record, internal=FAR_AWAY, external=None, at_s=0.0)
    if state is NodeState.BINDING:
        record = claimed(record, processor_id="p", at_s=0.0)
    record = replace(record, state=state)
    await MemoryRegistry(world.tables).apply([NodeChange(before=None, after=record)])
    gateway = world.gateway(policy=replace(POLICY, warm_pool_size=1))
    await world.run(gateway.start())
    await created(world, gateway, "s")
    await world.clock.turn(LONG_S)
    if state is NodeState.BINDING:
        with pytest.raises(RuntimeOutOfReach, match="memory:other"):
            await created(world, gateway, "t", node_id="p")
    await world.run(gateway.stop())
    assert await world.records() == {"n": state}


async def test_another_engines_node_is_given_up_by_people_alone(world: World) -> None:
    """Whoever ends it by name frees its processor: the next call gets a node of ours, with a newer epoch."""
    here = await cell(world, recorded=True, life="running", whose="another engine's")
    world.node(here.node_id).is_deaf = True
    await world.run(here.gateway.end_node(here.node_id))
    await settle()
    assert (await here.state(), here.lives) == (None, True)
    assert await served_by(here) != here.node_id
    assert world.store("s").epoch == 2


async def test_another_engines_node_is_not_ended_with_its_last_session(world: World) -> None:
    """Its session's records are deleted there; the node is its own gateway's to end."""
    here = await cell(world, recorded=True, life="running", whose="another engine's")
    assert await served_by(here) == here.node_id
    await world.run(here.gateway.end("s"))
    await world.clock.turn(LONG_S)
    assert (await here.state(), here.lives) == (NodeState.BOUND, True)
    assert world.store("s").sessions == {}


async def test_a_record_of_no_known_engine_is_ours(world: World) -> None:
    """What an older KATO recorded is judged as before."""
    record = NodeRecord(node_id="n", spec_hash="h", created_at_s=0.0, changed_at_s=0.0)
    record = bound(
        claimed(pooled(record, internal=FAR_AWAY, external=None, at_s=0.0), processor_id="p", at_s=0.0),
        epoch=1,
        at_s=0.0,
    )
    await MemoryRegistry(world.tables).apply([NodeChange(before=None, after=record)])
    gateway = world.gateway()
    await world.run(gateway.start())
    await settle()
    assert await world.records() == {}
    await world.run(gateway.stop())


async def test_a_node_that_another_gateway_just_removes_is_not_taken_for_unknown(world: World) -> None:
    """It was in the engine's list, and its record is gone when that is read: nothing is recorded of it anew."""
    spec = NodeSpec(node_id="n", deployment=DEPLOYMENT, env={}, created_at_s=0.0)
    await MemoryRuntime(world.engine, DEPLOYMENT).start(spec, timeout_s=1.0)
    quarantined: list[str | None] = []

    async def knob(name: str, phase: str) -> None:
        if (name, phase) == ("registry.nodes", "before"):
            world.engine.nodes.pop("n", None)

    gateway = world.gateway(knob=knob)
    gateway.events.subscribe(
        lambda event: quarantined.append(event.node_id) if event.kind == "node_quarantined" else None
    )
    await world.run(gateway.start())
    assert (quarantined, await world.records()) == ([], {})
    await world.run(gateway.stop())
