"""What the gateway stands on is away or hangs: who has a route goes on, all others are refused at once, few ask."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from container_manager.runtimes.memory import MemoryRuntime
from container_manager.spec import NodeSpec
from kato_gateway.domain.errors import GatewayError, RegistryUnavailable, RuntimeOutOfReach
from kato_gateway.guard import PAUSE_MAX_S, QUICK_MAX, SLOW_S, GuardedRegistry
from kato_gateway.lifecycle import CreateSession, Lifecycle
from kato_gateway.nodes.janitor import REMOVALS_MAX
from kato_gateway.registry.memory import MemoryRegistry, MemoryTables
from kato_gateway.registry.mongo import MongoRegistry
from tests.integration.lifecycle.world import (
    DEPLOYMENT,
    POLICY,
    FakeClient,
    Phase,
    World,
    assert_sound,
    created,
    serving,
    settle,
)
from tests.mongo import StandIn

AWAY_S = 120.0
QUICK = replace(POLICY, call_timeout_s=0.05, start_timeout_s=0.05, drain_grace_s=0.05)


class Outage:
    """A knob that has the calls of one part hang or fail, and counts those that came."""

    def __init__(self, part: str, *, hangs: bool) -> None:
        self.is_on = False
        self.asked: Counter[str] = Counter()
        self._part = part
        self._hangs = hangs
        self._end = asyncio.Event()

    def ends(self) -> None:
        """Answer again, also whoever still waits."""
        self.is_on = False
        self._end.set()

    async def __call__(self, name: str, phase: Phase) -> None:
        """Strike before a call of the part."""
        if not self.is_on or phase == "after" or not name.startswith(f"{self._part}."):
            return
        self.asked[name] += 1
        if self._hangs:
            await self._end.wait()
            return
        raise RegistryUnavailable("away", retry_after_s=1.0)


async def refused(gateway: Lifecycle, kind: type[GatewayError]) -> GatewayError:
    """Create sessions until one is refused in this way; return the refusal."""
    for number in range(3 * QUICK_MAX):
        with pytest.raises(GatewayError) as caught:
            await gateway.create(CreateSession(session_id=f"refused-{number}"))
        if isinstance(caught.value, kind) and caught.value.retry_after_s:
            return caught.value
    raise AssertionError(f"never refused as {kind.__name__}")


async def test_an_engine_that_hangs(world: World) -> None:
    """Nobody but a call now and then waits for it, creates are refused at once, and what has a route goes on."""
    outage = Outage("runtime", hangs=True)
    async with serving(world, policy=QUICK, knob=outage) as gateway:
        made = await created(world, gateway, "s")
        outage.is_on = True
        assert (await refused(gateway, RuntimeOutOfReach)).retry_after_s
        asked = outage.asked["runtime.start"]
        crowd = (gateway.create(CreateSession(session_id=f"crowd-{number}")) for number in range(50))
        told = await asyncio.gather(*crowd, return_exceptions=True)
        assert {type(error) for error in told} == {RuntimeOutOfReach}
        assert outage.asked["runtime.start"] == asked
        assert outage.asked.total() <= 2 * REMOVALS_MAX
        assert await gateway.resolve("s") == made.route
        outage.ends()
        await world.clock.turn(PAUSE_MAX_S)
        await created(world, gateway, "t")
        await world.clock.turn(AWAY_S)
        assert await gateway.resolve("s") == made.route
        await assert_sound(world, gateway)


async def test_a_registry_that_is_away(world: World) -> None:
    """Creates are refused, what has a route goes on; whatever the gateway does by itself, it asks seldom."""
    outage = Outage("registry", hangs=False)
    async with serving(world, policy=replace(POLICY, warm_pool_size=2), knob=outage) as gateway:
        made = await created(world, gateway, "s")
        outage.is_on = True
        assert (await refused(gateway, RegistryUnavailable)).retry_after_s
        asked = outage.asked.total()
        await world.clock.turn(AWAY_S)
        assert outage.asked.total() - asked <= 2 * AWAY_S / (
            PAUSE_MAX_S / 2
        )  # reads and changes, half a pause apart at least
        assert await gateway.resolve("s") == made.route
        outage.ends()
        await world.clock.turn(PAUSE_MAX_S + POLICY.upkeep_interval_s)
        await created(world, gateway, "t")
        await world.clock.turn(AWAY_S)
        assert await gateway.resolve("s") == made.route
        await assert_sound(world, gateway)


async def test_a_registry_that_hangs_is_not_waited_for_by_everybody() -> None:
    """After the one call that waited in vain others are refused without asking; reads and changes are judged apart."""
    outage = Outage("registry", hangs=True)

    async def knob(name: str, phase: Phase) -> None:
        await outage(f"registry.{name}", phase)

    time_s = 0.0
    registry = GuardedRegistry(MemoryRegistry(MemoryTables(), knob), clock_s=lambda: time_s, call_max_s=0.01)
    outage.is_on = True
    for _ in range(5):
        with pytest.raises(RegistryUnavailable) as caught:
            await registry.session("s")
        assert caught.value.retry_after_s
    assert outage.asked.total() == 1
    with pytest.raises(RegistryUnavailable):
        await registry.apply([])
    assert outage.asked.total() == 2
    outage.ends()
    time_s = PAUSE_MAX_S
    assert await registry.session("s") is None
    assert await registry.apply([])


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_a_mongodb_that_is_away(tmp_path: Path, how: str) -> None:
    """Frozen or killed: creates are refused with Retry-After, the served go on; once it is back all is as before."""
    world = World()
    with StandIn(tmp_path) as mongo:
        registry = MongoRegistry(mongo.url, "kato", call_timeout_s=2 * SLOW_S)
        await registry.open()
        gateway = Lifecycle(
            registry=registry,
            runtime=MemoryRuntime(world.engine, DEPLOYMENT),
            client=FakeClient(world, None),
            new_spec=lambda node_id, at_s: NodeSpec(
                node_id=node_id, deployment=DEPLOYMENT, env={"NODE_ID": node_id}, created_at_s=at_s
            ),
            policy=POLICY,
            gateway_id="first",
        )
        await gateway.start()
        route = (await gateway.create(CreateSession(session_id="s"))).route
        mongo.freeze() if how == "frozen" else mongo.kill()
        assert (await refused(gateway, RegistryUnavailable)).retry_after_s
        assert await gateway.resolve("s") == route
        mongo.thaw() if how == "frozen" else mongo.start()
        while True:  # at most as long as a pause lasts
            try:
                await gateway.create(CreateSession(session_id="t"))
            except RegistryUnavailable:
                await settle()
                await asyncio.sleep(0.05)
            else:
                break
        assert await gateway.resolve("s") == route
        await gateway.stop()
        await registry.close()
    assert world.alive() == []
