"""Creating sessions."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from container_manager import errors as container
from kato_gateway.domain.errors import (
    CapacityReached,
    Conflict,
    GatewayError,
    InvalidSession,
    NodeFailed,
    NodeRefused,
    NodeTimeout,
    RuntimeOutOfReach,
)
from kato_gateway.domain.sessions import NodeState, SessionStatus
from kato_gateway.lifecycle import CreateSession
from kato_node.wire.control import ID_PATTERN
from tests.integration.lifecycle.world import POLICY, Phase, World, assert_sound, created, serving, settle

WARM = replace(POLICY, warm_pool_size=2)


async def test_a_session_gets_a_node_of_its_own(world: World) -> None:
    """A new session is active on a bound node, with its effective configuration and a route."""
    async with serving(world) as gateway:
        made = await created(world, gateway, "s", user_id="ann", config={"x": 1}, metadata={"k": [None]})
        assert (made.created, made.start) == (True, "cold")
        assert (made.record.status, made.record.node_id) == (SessionStatus.ACTIVE, made.node.node_id)
        assert (made.record.processor_id, made.record.user_id) == ("s", "ann")
        assert made.record.effective_config == {"persistence": 5, "x": 1}
        assert made.record.metadata == {"k": [None]}
        assert made.node.state is NodeState.BOUND
        assert world.node(made.node.node_id).own_session
        assert made.route == gateway.routes.get("s")
        assert (made.route.epoch, made.route.address) == (1, made.node.internal)
        assert set(made.timings_ms) == {"claim", "spawn", "ready", "bind", "total"}
        assert all(value >= 0 for value in made.timings_ms.values())
        await assert_sound(world, gateway)


async def test_a_pool_member_makes_it_a_warm_start(world: World) -> None:
    """With a member ready nothing is started for the session."""
    async with serving(world, policy=WARM) as gateway:
        assert gateway.pool.view.idle == 2
        made = await created(world, gateway, "s")
        assert (made.start, made.timings_ms["spawn"]) == ("warm", 0.0)
        await world.clock.turn(2.0)
        assert gateway.pool.view.idle == 2
        await assert_sound(world, gateway)


async def test_the_record_comes_first(world: World) -> None:
    """The session is on record before any node is claimed or started."""
    seen: list[tuple[str, dict[str, SessionStatus]]] = []

    async def note(name: str, phase: Phase) -> None:
        if phase == "before" and name in {"runtime.start", "node.bind"}:
            seen.append((name, await world.sessions()))

    async with serving(world, knob=note) as gateway:
        await created(world, gateway, "s")
        creating = {"s": SessionStatus.CREATING}
        assert seen == [("runtime.start", creating), ("node.bind", creating)]


async def test_generated_ids_cannot_be_guessed(world: World) -> None:
    """Without an id each session gets one of 128 random bits, fit for a path and a file name."""
    async with serving(world) as gateway:
        made = [await world.run(gateway.create(CreateSession())) for _ in range(3)]
        ids = {one.record.session_id for one in made}
        assert len(ids) == 3
        assert all(re.fullmatch(ID_PATTERN, name) and len(name) == 32 for name in ids)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"session_id": "a/b"}, "session_id"),
        ({"session_id": ""}, "session_id"),
        ({"session_id": "ok\n"}, "session_id"),
        ({"session_id": "a" * 129}, "session_id"),
        ({"node_id": "../x"}, "node_id"),
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"ttl_seconds": -1.0}, "ttl_seconds"),
        ({"ttl_seconds": float("nan")}, "ttl_seconds"),
        ({"ttl_seconds": float("inf")}, "ttl_seconds"),
        ({"metadata": {"note": "\N{SNOWMAN}" * 350_000}}, "metadata"),
        ({"config": {"note": "x" * 600_000}, "metadata": {"note": "x" * 500_000}}, "config"),
    ],
)
async def test_what_no_session_can_be_made_of_is_refused(world: World, wanted: dict[str, Any], field: str) -> None:
    """Bad ids and times, and more than is kept of a session, are named, and nothing is begun."""
    async with serving(world) as gateway:
        with pytest.raises(InvalidSession) as refused:
            await world.run(gateway.create(CreateSession(**wanted)))
        assert [error["field"] for error in refused.value.details["errors"]] == [field]  # type: ignore[attr-defined]
        assert await world.sessions() == {}


async def test_the_callers_live_session_is_found(world: World) -> None:
    """Creating a live session again returns it as it is; for somebody else, or another node_id, it is a conflict."""
    async with serving(world) as gateway:
        first = await created(world, gateway, "s", user_id="ann")
        again = await created(world, gateway, "s", user_id="ann", config={"other": 1}, ttl_seconds=1.0)
        assert (again.created, again.start, again.route) == (False, "shared", first.route)
        assert again.record == first.record
        for user_id in ("bob", None):
            with pytest.raises(Conflict):
                await created(world, gateway, "s", user_id=user_id)
        with pytest.raises(Conflict):
            await created(world, gateway, "s", user_id="ann", node_id="another")
        await assert_sound(world, gateway)


async def test_creating_at_once_is_creating_once(world: World) -> None:
    """Many calls for one id at the same time make one session on one node; one of them made it."""
    async with serving(world) as gateway:
        calls = [gateway.create(CreateSession(session_id="s", user_id="ann")) for _ in range(20)]
        made = await world.run(_all(*calls))
        assert sum(one.created for one in made) == 1
        assert len({one.route for one in made}) == 1
        await assert_sound(world, gateway)


async def test_sessions_naming_one_node_id_share_its_node(world: World) -> None:
    """However many at once, one processor gets one node, bound once."""
    async with serving(world) as gateway:
        calls = [gateway.create(CreateSession(session_id=f"s{number}", node_id="p")) for number in range(20)]
        made = await world.run(_all(*calls))
        assert len({one.route.node_id for one in made}) == 1
        assert {one.start for one in made} == {"cold"}  # each of them waited for it
        assert (await created(world, gateway, "later", node_id="p")).start == "shared"
        assert world.store("p").epoch == 1
        assert not world.node(made[0].node.node_id).own_session
        await assert_sound(world, gateway)


async def test_many_processors_at_once_get_a_node_each(world: World) -> None:
    """No two sessions get one pool member, and no session two."""
    policy = replace(POLICY, warm_pool_size=10)
    async with serving(world, policy=policy) as gateway:
        made = await world.run(_all(*(gateway.create(CreateSession()) for _ in range(30))))
        assert len({one.route.node_id for one in made}) == 30
        assert {store.epoch for store in world.stores.values()} == {1}
        await world.clock.turn(10.0)
        await assert_sound(world, gateway)


async def test_a_bad_configuration_leaves_nothing_behind(world: World) -> None:
    """The node's own refusal is the answer; no session, and no node that serves nobody, is left."""
    async with serving(world, policy=WARM) as gateway:
        with pytest.raises(NodeRefused) as refused:
            await created(world, gateway, "s", config={"bad": 1})
        assert (refused.value.status, refused.value.code) == (422, "VALIDATION_ERROR")
        assert await world.sessions() == {}
        assert world.tables.leftovers == {}
        await world.clock.turn(2.0)
        assert gateway.pool.view.idle == 2
        await assert_sound(world, gateway)


async def test_a_bad_configuration_on_a_shared_node_harms_nobody(world: World) -> None:
    """The session that was there keeps its node; others that arrive at the same time get theirs."""
    async with serving(world) as gateway:
        calls = [
            gateway.create(CreateSession(session_id=f"s{number}", node_id="p", config={"bad": 1} if number % 2 else {}))
            for number in range(1, 7)
        ]
        outcomes = await world.run(_all(*calls, return_exceptions=True))
        assert [isinstance(outcome, NodeRefused) for outcome in outcomes] == [True, False] * 3
        assert await world.sessions() == dict.fromkeys(("s2", "s4", "s6"), SessionStatus.ACTIVE)
        await assert_sound(world, gateway)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (container.StartFailed("x"), NodeFailed),
        (container.StartTimeout("x"), NodeTimeout),
        (container.ResourcesExhausted("x"), CapacityReached),
        (container.ImageMissing("x"), RuntimeOutOfReach),
        (container.RuntimeUnavailable("x"), RuntimeOutOfReach),
        (container.NameTaken("x"), NodeFailed),
    ],
)
async def test_a_start_that_fails_is_told_and_undone(
    world: World, error: container.ContainerError, expected: type[GatewayError]
) -> None:
    """Each way a start can fail has its code; nothing is left, and the next try succeeds."""
    async with serving(world) as gateway:
        world.engine.knobs.start_error = error
        with pytest.raises(expected):
            await created(world, gateway, "s")
        assert await world.sessions() == {}
        await assert_sound(world, gateway)
        world.engine.knobs.start_error = None
        assert (await created(world, gateway, "s")).created


async def test_there_is_a_bound_on_live_nodes(world: World) -> None:
    """With all nodes in use another session is refused, and admitted once one has ended."""
    async with serving(world, policy=replace(POLICY, nodes_max=2)) as gateway:
        outcomes = await world.run(
            _all(*(gateway.create(CreateSession(session_id=f"s{n}")) for n in range(3)), return_exceptions=True)
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, CapacityReached)]
        assert len(refused) == 1
        assert refused[0].retry_after_s is not None
        ended = next(session_id for session_id in await world.sessions())
        await world.run(gateway.end(ended))
        await settle()
        assert (await created(world, gateway, "again")).created
        await assert_sound(world, gateway)


async def test_an_ended_id_can_be_used_again(world: World) -> None:
    """A new session of an old id starts afresh, by its incarnation."""
    async with serving(world) as gateway:
        first = await created(world, gateway, "s", config={"x": 1})
        await world.run(gateway.end("s"))
        second = await created(world, gateway, "s", user_id="bob")
        assert second.created
        assert second.record.incarnation != first.record.incarnation
        assert second.record.effective_config == {"persistence": 5}
        await assert_sound(world, gateway)


async def test_a_caller_that_leaves_gets_its_session_all_the_same(world: World) -> None:
    """A cancelled create goes on, so that the same call again finds the session."""
    async with serving(world) as gateway:
        world.engine.knobs.start_gate = asyncio.Event()
        caller = asyncio.create_task(gateway.create(CreateSession(session_id="s")))
        await settle()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        world.engine.knobs.start_gate.set()
        await settle()
        assert await world.sessions() == {"s": SessionStatus.ACTIVE}
        assert not (await created(world, gateway, "s")).created
        await assert_sound(world, gateway)


async def test_a_node_that_never_starts_is_waited_for_in_vain(world: World) -> None:
    """The start's deadline ends the wait, and nothing is left."""
    async with serving(world, policy=replace(POLICY, start_timeout_s=0.01)) as gateway:
        world.engine.knobs.start_gate = asyncio.Event()
        with pytest.raises(NodeTimeout):
            await gateway.create(CreateSession(session_id="s"))
        await settle()
        assert await world.sessions() == {}
        await assert_sound(world, gateway)


async def test_time_to_live_is_the_clients_or_the_policys(world: World) -> None:
    """Without one the policy's holds; `default` has none."""
    async with serving(world) as gateway:
        at_s = world.clock.now_s()
        assert (await created(world, gateway, "a")).record.expires_at_s == at_s + POLICY.session_ttl_s
        assert (await created(world, gateway, "b", ttl_seconds=5.0)).record.expires_at_s == at_s + 5.0
        assert (await created(world, gateway, "default", ttl_seconds=5.0)).record.expires_at_s is None


async def _all(*calls: Any, return_exceptions: bool = False) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=return_exceptions)
