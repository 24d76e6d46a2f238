"""The engine goes away and comes back, with its nodes or without them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kato_gateway.domain.errors import RuntimeOutOfReach
from kato_gateway.domain.sessions import SessionStatus
from tests.integration.lifecycle.world import POLICY, World, assert_sound, created, serving, settle

WARM = replace(POLICY, warm_pool_size=1)
LONG_S = 3 * max(POLICY.quarantine_s, POLICY.start_timeout_s, POLICY.gateway_silent_max_s)


async def test_what_has_a_route_goes_on_while_the_engine_is_away(world: World) -> None:
    """Sessions are served, nothing is stopped or removed; a create beyond the pool is refused until it is back."""
    async with serving(world, policy=WARM) as gateway:
        made = await created(world, gateway, "s")
        await world.clock.turn(2.0)
        before = world.alive()
        world.engine.knobs.is_out_of_reach = True
        await world.clock.turn(LONG_S)
        assert await gateway.resolve("s") == made.route
        assert (await created(world, gateway, "pooled")).start == "warm"
        with pytest.raises(RuntimeOutOfReach) as refused:
            await created(world, gateway, "t")
        assert refused.value.retry_after_s
        assert world.alive() == before
        assert await world.sessions() == {"s": SessionStatus.ACTIVE, "pooled": SessionStatus.ACTIVE}
        await world.engine_returns()
        await created(world, gateway, "t")
        await world.clock.turn(LONG_S)
        assert await gateway.resolve("s") == made.route
        await assert_sound(world, gateway)


async def test_an_engine_that_comes_back_with_its_nodes_changes_nothing(world: World) -> None:
    """Live restore: every route, epoch and member is what it was."""
    async with serving(world, policy=WARM) as gateway:
        made = [await created(world, gateway, f"s{number}") for number in range(3)]
        await world.clock.turn(2.0)
        before = world.alive()
        for _ in range(3):
            world.engine.knobs.is_out_of_reach = True
            await world.clock.turn(POLICY.sweep_interval_s)
            await world.engine_returns()
            await world.clock.turn(POLICY.sweep_interval_s)
        assert world.alive() == before
        assert [gateway.routes.get(one.route.session_id) for one in made] == [one.route for one in made]
        await assert_sound(world, gateway)


@pytest.mark.parametrize("hints", [True, False])
async def test_an_engine_that_comes_back_without_its_nodes_loses_no_session(world: World, hints: bool) -> None:
    """What died with it, heard of while nothing could be told, is found dead then, and restored on demand, once."""
    async with serving(world, policy=WARM) as gateway:
        for number in range(3):
            await created(world, gateway, f"s{number}")
        await world.clock.turn(2.0)
        world.engine.knobs.is_out_of_reach = True
        if not hints:
            world.engine.listeners.clear()
        for node_id in world.alive():
            world.engine.kill(node_id)
        await settle()
        assert set((await world.sessions()).values()) == {SessionStatus.ACTIVE}
        route = gateway.routes.get("s0")
        assert route is not None
        with pytest.raises(RuntimeOutOfReach):
            await world.run(gateway.lost(route))
        await world.clock.turn(LONG_S)
        assert set((await world.sessions()).values()) == {SessionStatus.ACTIVE}
        await world.engine_returns()
        for number in range(3):
            for old in [route for route in [gateway.routes.get(f"s{number}")] if route is not None]:
                await world.run(gateway.lost(old))  # as a call that meets the dead node says
            assert (await world.run(gateway.resolve(f"s{number}"))).epoch == 2
        await world.clock.turn(POLICY.sweep_interval_s + 2.0)
        await assert_sound(world, gateway)
