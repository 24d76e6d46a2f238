"""Stops, kills and new starts: what runs, what is recorded and what the nodes answer become one story again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from container_manager.runtimes.memory import MemoryRuntime
from container_manager.spec import NodeSpec
from kato_gateway.domain.errors import GatewayError, RegistryUnavailable, RuntimeOutOfReach
from kato_gateway.domain.sessions import NodeRecord, NodeState, SessionStatus, claimed, pooled
from kato_gateway.lifecycle import Created, CreateSession, Lifecycle
from kato_gateway.registry.base import NodeChange
from kato_gateway.registry.memory import MemoryRegistry
from tests.integration.lifecycle.world import (
    DEPLOYMENT,
    POLICY,
    Killed,
    Phase,
    World,
    assert_sound,
    created,
    kill,
    serving,
    settle,
)

WARM = replace(POLICY, warm_pool_size=2)


async def killed(world: World, *, sessions: int = 2) -> Lifecycle:
    """Return a gateway that served sessions s0, s1 … and a pool of two, and was killed."""
    gateway = world.gateway(policy=WARM)
    await world.run(gateway.start())
    for number in range(sessions):
        await created(world, gateway, f"s{number}")
    await world.clock.turn(2.0)
    await kill(gateway)
    return gateway


async def test_a_new_gateway_adopts_what_runs(world: World) -> None:
    """After a kill every node serves on as it did: routes with their epochs, members in the pool, nothing started."""
    before = await killed(world)
    nodes = world.alive()
    async with serving(world, policy=WARM) as gateway:
        for number in range(2):
            assert gateway.routes.get(f"s{number}") == before.routes.get(f"s{number}") is not None
        assert world.alive() == nodes
        assert gateway.pool.view.idle == 2
        await assert_sound(world, gateway)
        assert (await created(world, gateway, "t")).start == "warm"


async def test_what_died_meanwhile_is_hibernated(world: World) -> None:
    """A node that ended while nobody watched is found dead; its session wakes with the next call."""
    before = await killed(world)
    dead = before.routes.get("s0")
    assert dead is not None
    world.engine.kill(dead.node_id)
    async with serving(world, policy=WARM) as gateway:
        assert await world.sessions() == {"s0": SessionStatus.HIBERNATED, "s1": SessionStatus.ACTIVE}
        assert dead.node_id not in world.engine.nodes
        assert (await world.run(gateway.resolve("s0"))).epoch == 2
        await settle()
        await assert_sound(world, gateway)


async def test_an_unreachable_runtime_fails_no_start(world: World) -> None:
    """Nothing is concluded while it is out of reach; once it is back everything is adopted."""
    before = await killed(world)
    world.engine.knobs.is_out_of_reach = True
    nodes = world.alive()
    gateway = world.gateway(policy=WARM)
    await world.run(gateway.start())
    await world.clock.turn(POLICY.quarantine_s * 3)
    assert world.alive() == nodes
    assert set((await world.sessions()).values()) == {SessionStatus.ACTIVE}
    with pytest.raises(RuntimeOutOfReach):
        await world.run(gateway.resolve("s0"))
    await world.engine_returns()
    await world.clock.turn(POLICY.sweep_interval_s)
    assert gateway.routes.get("s0") == before.routes.get("s0")
    await world.clock.turn(60.0)
    await assert_sound(world, gateway)
    await world.run(gateway.stop())


async def test_a_registry_out_of_reach_fails_the_start(world: World) -> None:
    """Without its records a gateway does not pretend to serve, and changes nothing."""
    await killed(world)
    nodes = world.alive()

    async def fail(name: str, phase: Phase) -> None:
        if name.startswith("registry"):
            raise RegistryUnavailable("out of reach")

    gateway = world.gateway(policy=WARM, knob=fail)
    with pytest.raises(RegistryUnavailable):
        await gateway.start()
    assert len(asyncio.all_tasks()) == 1
    assert world.alive() == nodes


async def test_an_unknown_node_is_quarantined_then_removed(world: World) -> None:
    """What runs of this deployment without a record is left alone for a while by whoever finds it, then removed."""
    runtime = MemoryRuntime(world.engine, DEPLOYMENT)
    stray = NodeSpec(node_id="stray", deployment=DEPLOYMENT, env={}, created_at_s=0.0)
    await runtime.start(stray, timeout_s=1.0)
    first = world.gateway()
    await world.run(first.start())
    assert await world.records() == {"stray": NodeState.QUARANTINED}
    await world.clock.turn(POLICY.quarantine_s / 2)
    assert world.alive() == ["stray"]
    await kill(first)
    async with serving(world):
        await world.clock.turn(POLICY.quarantine_s - POLICY.sweep_interval_s)
        assert world.alive() == ["stray"]
        await world.clock.turn(2 * POLICY.sweep_interval_s)
        assert world.engine.nodes == {}


async def test_the_traces_of_an_unknown_dead_node_are_removed(world: World) -> None:
    """A dead node without a record leaves nothing."""
    runtime = MemoryRuntime(world.engine, DEPLOYMENT)
    await runtime.start(NodeSpec(node_id="dead", deployment=DEPLOYMENT, env={}, created_at_s=0.0), timeout_s=1.0)
    world.engine.kill("dead")
    async with serving(world) as gateway:
        await settle()
        assert world.engine.nodes == {}
        await assert_sound(world, gateway)


async def test_what_is_not_the_gateways_is_never_touched(world: World) -> None:
    """Another deployment's nodes and static nodes live through start, sweeps and stop."""
    other = NodeSpec(node_id="other", deployment="elsewhere", env={}, created_at_s=0.0)
    static = NodeSpec(node_id="static", deployment=DEPLOYMENT, env={}, created_at_s=0.0, role="static")
    await MemoryRuntime(world.engine, "elsewhere").start(other, timeout_s=1.0)
    await MemoryRuntime(world.engine, DEPLOYMENT).start(static, timeout_s=1.0)
    gateway = world.gateway(policy=WARM)
    await world.run(gateway.start())
    await world.clock.turn(POLICY.quarantine_s * 2)
    await world.run(gateway.stop())
    assert world.alive() == ["other", "static"]
    assert await world.records() == {}


async def test_members_of_an_older_specification_are_replaced(world: World) -> None:
    """With other settings the pool is renewed; bound nodes serve on as they are."""
    before = await killed(world)
    old = world.alive()
    async with serving(world, policy=WARM, env="2") as gateway:
        await world.clock.turn(2.0)
        bound = {route.node_id for number in range(2) if (route := before.routes.get(f"s{number}"))}
        assert set(world.alive()) & set(old) == bound
        assert gateway.pool.view.idle == 2
        await assert_sound(world, gateway)


async def test_an_intent_without_a_node_is_removed(world: World) -> None:
    """A record of a start that never came to anything goes, once that start cannot be under way any more."""
    now_s = world.clock.now_s()
    intent = NodeRecord(node_id="n", spec_hash="h", created_at_s=now_s, changed_at_s=now_s)
    await MemoryRegistry(world.tables).apply([NodeChange(before=None, after=intent)])
    async with serving(world) as gateway:
        await world.clock.turn(POLICY.start_timeout_s)
        assert await world.records() == {"n": NodeState.CREATING}
        await world.clock.turn(20.0)
        await assert_sound(world, gateway)


@pytest.mark.parametrize(("starter", "is_ended"), [("first", True), ("second", False), ("", False)])
async def test_what_a_killed_gateway_was_starting_ends_once_it_is_back(
    world: World, starter: str, *, is_ended: bool
) -> None:
    """What comes up after its gateway was killed ends within a sweep of that one's return; no other's does."""
    now_s = world.clock.now_s()
    intent = NodeRecord(node_id="late", spec_hash="h", starter=starter, created_at_s=now_s, changed_at_s=now_s)
    await MemoryRegistry(world.tables).apply([NodeChange(before=None, after=intent)])
    async with serving(world):
        late = NodeSpec(node_id="late", deployment=DEPLOYMENT, env={}, created_at_s=now_s)
        await MemoryRuntime(world.engine, DEPLOYMENT).start(late, timeout_s=1.0)
        await world.clock.turn(POLICY.sweep_interval_s + 1.0)
        assert (world.alive() == []) is is_ended
        await world.clock.turn(POLICY.start_timeout_s + 20.0)
        assert world.alive() == []


async def test_its_own_starts_are_not_abandoned(world: World) -> None:
    """A node whose start takes longer than several sweeps is waited for, and is the pool's."""
    gate = asyncio.Event()
    world.engine.knobs.start_gate = gate
    async with serving(world, policy=replace(POLICY, warm_pool_size=1)) as gateway:
        await world.clock.turn(2 * POLICY.sweep_interval_s)
        gate.set()
        world.engine.knobs.start_gate = None
        await world.clock.turn(1.0)
        assert gateway.pool.view.idle == 1


@pytest.mark.parametrize("was_told", [True, False])
async def test_a_bind_that_was_cut_short_is_made_good_or_undone(world: World, was_told: bool) -> None:
    """A node that was bound before the kill is adopted, one only claimed is ended; the create can be repeated."""
    gateway = world.gateway(policy=WARM, knob=_forever_in("node.bind", "after" if was_told else "before"))
    await world.run(gateway.start())
    create = asyncio.create_task(gateway.create(CreateSession(session_id="s", user_id="ann")))
    await settle()
    assert not create.done()
    await kill(gateway)
    assert sorted(state.value for state in (await world.records()).values()) == ["binding", "pool"]
    async with serving(world, policy=WARM) as gateway:
        again = await created(world, gateway, "s", user_id="ann")
        assert again.route.epoch == 1
        await world.clock.turn(200.0)
        await assert_sound(world, gateway)


async def test_the_sessions_of_a_stopped_gateway_are_found_again(world: World) -> None:
    """A stop ends every node and hibernates every session; the next start finds each of them, and starts no node."""
    async with serving(world, policy=WARM) as gateway:
        for number in range(5):
            await created(world, gateway, f"s{number}", node_id=f"p{number // 2}", ttl_seconds=500.0)
        gateway.activity.touch("s0")
        await world.clock.turn(1.0)
        used_at_s = world.clock.now_s()
        gateway.activity.touch("s0")
    assert set((await world.sessions()).values()) == {SessionStatus.HIBERNATED}
    async with serving(world) as gateway:
        assert world.alive() == []
        assert (await gateway.get("s0")).expires_at_s == used_at_s + 500.0
        for number in range(5):
            assert (await world.run(gateway.resolve(f"s{number}"))).epoch == 2
        await assert_sound(world, gateway)


class TestStop:
    """Lifecycle.stop, at bad moments; `serving` asserts that nothing is left."""

    async def test_calls_under_way_are_finished_or_told(self, world: World) -> None:
        """A create that cannot finish is told so, and leaves nothing; later calls are refused."""
        policy = replace(POLICY, call_timeout_s=0.05)
        async with serving(world, policy=policy) as gateway:
            world.engine.knobs.start_gate = asyncio.Event()
            create = asyncio.create_task(gateway.create(CreateSession(session_id="s")))
            await settle()
            stop = asyncio.create_task(gateway.stop())
            with pytest.raises(GatewayError):
                await create
            await stop
            assert await world.sessions() == {}
            for call in (gateway.create(CreateSession()), gateway.resolve("s"), gateway.end("s")):
                with pytest.raises(RuntimeOutOfReach):
                    await call

    async def test_a_stop_without_a_runtime_ends(self, world: World) -> None:
        """With the runtime out of reach the stop ends in time; the next start makes up for it."""
        gateway = world.gateway(policy=WARM)
        await world.run(gateway.start())
        await created(world, gateway, "s")
        world.engine.knobs.is_out_of_reach = True
        await world.run(gateway.stop())
        assert len(asyncio.all_tasks()) == 1
        await world.engine_returns()
        async with serving(world, policy=WARM) as gateway:
            assert (await world.run(gateway.resolve("s"))).epoch == 2
            await settle()
            await assert_sound(world, gateway)

    async def test_a_stop_without_a_registry_leaves_no_process(self, world: World) -> None:
        """With the registry out of reach the nodes end all the same; the next start finds the sessions."""
        out_of_reach = False

        async def fail(name: str, phase: Phase) -> None:
            if out_of_reach and name.startswith("registry"):
                raise RegistryUnavailable("out of reach")

        gateway = world.gateway(policy=WARM, knob=fail)
        await world.run(gateway.start())
        await created(world, gateway, "s")
        out_of_reach = True
        await world.run(gateway.stop())
        assert world.alive() == []
        async with serving(world, policy=WARM) as gateway:
            assert (await world.run(gateway.resolve("s"))).epoch == 2
            await settle()
            await assert_sound(world, gateway)

    async def test_a_stop_ends_what_was_started_unseen(self, world: World) -> None:
        """A node that runs without a record ends with the rest."""
        async with serving(world):
            world.engine.knobs.loses_reply = True
            runtime = MemoryRuntime(world.engine, DEPLOYMENT)
            with pytest.raises(Exception, match="lost"):
                await runtime.start(
                    NodeSpec(node_id="unseen", deployment=DEPLOYMENT, env={}, created_at_s=0.0), timeout_s=1.0
                )
            assert world.alive() == ["unseen"]

    async def test_stopping_twice_or_before_the_start_is_nothing(self, world: World) -> None:
        """Only a gateway that serves has anything to stop."""
        gateway = world.gateway()
        await gateway.stop()
        async with serving(world) as gateway:
            await world.run(gateway.stop())


class TestWatch:
    """The runtime's hints."""

    async def test_a_watcher_that_ends_is_restarted(self, world: World) -> None:
        """When the runtime's iterator ends, another one takes its place; no sweep is needed for the next exit."""
        async with serving(world, policy=replace(POLICY, sweep_interval_s=10_000.0)) as gateway:
            made = await created(world, gateway, "s")
            for listener in world.engine.listeners:
                listener.put_nowait(None)
            await world.clock.turn(2.0)
            world.engine.kill(made.route.node_id)
            await settle()
            assert await world.sessions() == {"s": SessionStatus.HIBERNATED}

    async def test_a_wrong_hint_is_no_news(self, world: World) -> None:
        """An id that nobody knows, or of a node that lives, changes nothing."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            for listener in world.engine.listeners:
                listener.put_nowait("nobody")
                listener.put_nowait(made.route.node_id)
            await settle()
            assert gateway.routes.get("s") == made.route
            await assert_sound(world, gateway)

    async def test_a_missed_hint_is_swept_up(self, world: World) -> None:
        """A node that ended unnoticed is found by the next sweep, and its session hibernated."""
        async with serving(world) as gateway:
            made = await created(world, gateway, "s")
            world.engine.listeners.clear()
            world.engine.kill(made.route.node_id)
            await world.clock.turn(POLICY.sweep_interval_s + 1.0)
            assert await world.sessions() == {"s": SessionStatus.HIBERNATED}
            assert gateway.routes.get("s") is None
            await assert_sound(world, gateway)


class TestTwoGateways:
    """Two gateways on one registry and one runtime."""

    async def test_one_processor_gets_one_node(self, world: World) -> None:
        """Created, woken and shared by both at once, a processor is held by one node, and both find it."""
        first, second = world.gateway(policy=WARM), world.gateway(policy=WARM)
        for gateway in (first, second):
            await world.run(gateway.start())
        for round_ in range(1, 6):
            calls = [
                gateway.create(CreateSession(session_id=f"{name}{number}", node_id="p"))
                for number in range(3)
                for name, gateway in (("a", first), ("b", second))
            ]
            made = await world.run(_gathered(*calls))
            assert len({one.route for one in made if one.route.session_id == "a0"}) == 1
            assert len({one.route.node_id for one in made}) == 1
            assert world.store("p").epoch == round_
            world.engine.kill(made[0].route.node_id)
            await settle()
        await world.clock.turn(100.0)
        await world.run(first.stop())
        await world.run(second.stop())
        assert world.engine.nodes == {}

    async def test_one_member_goes_to_one_of_them(self, world: World) -> None:
        """Members that both know are claimed once each."""
        first = world.gateway(policy=WARM)
        await world.run(first.start())
        second = world.gateway(policy=WARM)
        await world.run(second.start())
        calls = [gateway.create(CreateSession()) for gateway in (first, second) for _ in range(4)]
        made = await world.run(_gathered(*calls))
        assert len({one.route.node_id for one in made}) == 8
        assert {store.epoch for store in world.stores.values()} == {1}
        await world.run(first.stop())
        await world.run(second.stop())

    async def test_two_claims_of_one_member_leave_one_with_nothing(self, world: World) -> None:
        """A member that the other recorded between the question and the claim is not bound: another node is."""
        asked, gate = asyncio.Event(), asyncio.Event()
        calls: list[str] = []

        async def knob(name: str, phase: Phase) -> None:
            if asked.is_set() or not armed:
                calls.append(f"{name} {phase}")
            elif (name, phase) == ("node.identity", "after"):
                asked.set()
                await gate.wait()

        armed = False
        first = world.gateway(policy=replace(POLICY, warm_pool_size=1), knob=knob)
        await world.run(first.start())
        (member,) = world.alive()
        second = world.gateway()
        await world.run(second.start())
        armed = True
        one = asyncio.create_task(first.create(CreateSession(session_id="a")))
        await asyncio.wait_for(asked.wait(), 1.0)
        other = await world.run(second.create(CreateSession(session_id="b")))
        calls.clear()
        gate.set()
        made = (await world.run(_gathered(one)))[0]
        assert (other.route.node_id, other.start) == (member, "warm")
        assert made.route.node_id != member
        assert calls.count("node.bind before") == 1
        assert world.node(member).processor_id == "b"
        await world.run(first.stop())
        await world.run(second.stop())

    async def test_a_bind_of_the_other_is_waited_for(self, world: World) -> None:
        """While one gateway binds a processor the other one waits for it, instead of binding another node."""
        first = world.gateway(knob=_gate_in("node.bind", gate := asyncio.Event()))
        second = world.gateway()
        for gateway in (first, second):
            await world.run(gateway.start())
        one = asyncio.create_task(first.create(CreateSession(session_id="a", node_id="p")))
        await settle()
        other = asyncio.create_task(second.create(CreateSession(session_id="b", node_id="p")))
        await world.clock.turn(1.0)
        assert not other.done()
        gate.set()
        made = await world.run(_gathered(one, other))
        assert made[0].route.node_id == made[1].route.node_id
        assert world.store("p").epoch == 1
        await world.run(first.stop())
        await world.run(second.stop())


async def test_a_node_claimed_by_a_gateway_that_died_frees_its_processor(world: World) -> None:
    """A processor held by a node that nobody will bind any more is served after a short wait."""
    async with serving(world, policy=WARM) as gateway:
        registry = MemoryRegistry(world.tables)
        other = NodeRecord(node_id="n", spec_hash="h", created_at_s=0.0, changed_at_s=world.clock.now_s())
        runtime = MemoryRuntime(world.engine, DEPLOYMENT)
        status = await runtime.start(
            NodeSpec(node_id="n", deployment=DEPLOYMENT, env={}, created_at_s=0.0), timeout_s=1.0
        )
        assert status.internal is not None
        member = pooled(other, internal=status.internal, external=None, at_s=world.clock.now_s())
        await registry.apply(
            [NodeChange(before=None, after=claimed(member, processor_id="s", at_s=world.clock.now_s()))]
        )
        at_s = world.clock.now_s()
        made = await created(world, gateway, "s")
        assert made.route.node_id != "n"
        assert world.clock.now_s() - at_s <= POLICY.call_timeout_s + 1.0
        await settle()
        await assert_sound(world, gateway)


def _forever_in(name: str, phase: Phase) -> _Knob:
    return _Knob(name, phase, asyncio.Event())


def _gate_in(name: str, gate: asyncio.Event) -> _Knob:
    return _Knob(name, "before", gate)


class _Knob:
    """Holds the named call until its gate opens; once that call is cancelled its gateway reaches nothing any more."""

    def __init__(self, name: str, phase: Phase, gate: asyncio.Event) -> None:
        self._at = (name, phase)
        self._gate = gate
        self._killed = False

    async def __call__(self, name: str, phase: Phase) -> None:
        if self._killed:
            raise Killed
        if (name, phase) == self._at:
            try:
                await self._gate.wait()
            except asyncio.CancelledError:
                self._killed = True
                raise Killed from None


async def _gathered(*calls: Awaitable[Created]) -> list[Created]:
    return await asyncio.gather(*calls)
