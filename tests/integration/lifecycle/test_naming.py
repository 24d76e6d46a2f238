"""What people see nodes called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.integration.lifecycle.world import POLICY, World, created, serving, settle

WARM = replace(POLICY, warm_pool_size=1)


@pytest.mark.parametrize("user", ["ann", None])
async def test_a_bound_node_says_whose_it_is(world: World, user: str | None) -> None:
    """Once bound, a node is called after user, session and time, on record from the bind on, and at the runtime soon.

    A member of the pool has its first name.
    """
    async with serving(world, policy=WARM) as gateway:
        [member] = await gateway.directory.nodes()
        assert member.name == f"kato-{member.node_id}"
        made = await created(world, gateway, "s:1", user_id=user)
        assert made.node.name == f"kato-{user or 'anonymous'}-s-1-{int(made.node.changed_at_s)}"
        await settle()
        assert world.engine.nodes[made.node.node_id].name == made.node.name
        assert (await gateway.directory.node("s:1")).name == made.node.name


async def test_a_second_session_changes_no_name(world: World) -> None:
    """A node that sessions share is called after the first."""
    async with serving(world) as gateway:
        first = await created(world, gateway, "s", node_id="p", user_id="ann")
        second = await created(world, gateway, "t", node_id="p", user_id="bob")
        assert second.node.name == first.node.name


async def test_a_name_is_not_worth_a_failure(world: World) -> None:
    """A runtime that cannot rename just now costs nobody anything: the session is there, and its node is found."""
    async with serving(world, policy=WARM) as gateway:
        world.engine.knobs.is_out_of_reach = True
        made = await created(world, gateway, "s", user_id="ann")
        await settle()
        await world.engine_returns()
        assert world.engine.nodes[made.node.node_id].name != made.node.name
        assert (await gateway.resolve("s")).node_id == made.node.node_id
