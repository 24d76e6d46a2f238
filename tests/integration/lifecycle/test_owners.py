"""Sessions and processors of several owners, in one gateway's lifecycle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from kato_gateway.domain.errors import Conflict, Forbidden, GatewayError, SessionNotFound
from kato_gateway.lifecycle import CreateSession, Lifecycle
from kato_node.wire.tokens import Grant, token_key, verified
from tests.integration.lifecycle.world import POLICY, World, assert_sound, created, serving

COLD = replace(POLICY, warm_pool_size=0)
Call = Callable[[Lifecycle, str, str], Awaitable[object]]

CALLS: dict[str, Call] = {
    "resolve": lambda gateway, name, owner: gateway.resolve(name, owner=owner),
    "get": lambda gateway, name, owner: gateway.get(name, owner=owner),
    "extend": lambda gateway, name, owner: gateway.extend(name, ttl_s=9.0, owner=owner),
    "effective_config": lambda gateway, name, owner: gateway.effective_config(name, owner=owner),
    "end": lambda gateway, name, owner: gateway.end(name, owner=owner),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("routed", [True, False])
async def test_anothers_session_does_not_exist(world: World, call: str, routed: bool) -> None:
    """For whoever is not its owner every call says what it says of an id that was never given, awake or asleep."""

    async def refusal(gateway: Lifecycle, name: str) -> tuple[type[GatewayError], str]:
        with pytest.raises(GatewayError) as refused:
            await world.run(CALLS[call](gateway, name, "bob"))  # type: ignore[arg-type]  # each is a coroutine
        return type(refused.value), refused.value.message.replace(f"'{name}'", "…")

    async with serving(world, policy=COLD) as gateway:
        await created(world, gateway, "s", owner="ann")
        if not routed:
            gateway.routes.drop_session("s")
        before = await gateway.directory.session("s")
        assert await refusal(gateway, "s") == await refusal(gateway, "never")
        assert await gateway.directory.session("s") == before
        await world.run(CALLS[call](gateway, "s", "ann"))  # type: ignore[arg-type]  # as above
        await assert_sound(world, gateway)


async def test_a_session_that_is_being_created_is_nobody_elses(world: World) -> None:
    """Another's call does not even wait for it."""
    async with serving(world, policy=COLD) as gateway:
        creating = asyncio.create_task(gateway.create(CreateSession(session_id="s", owner="ann")))
        while await world.sessions() == {}:  # noqa: ASYNC110 - another task's work, seen in the registry
            await asyncio.sleep(0)
        with pytest.raises(SessionNotFound):
            await gateway.resolve("s", owner="bob")
        assert not creating.done()
        await world.run(asyncio.wait_for(creating, None))
        await assert_sound(world, gateway)


async def test_a_live_sessions_id_is_taken(world: World) -> None:
    """Its owner finds it, another owner or the same under another label gets a conflict."""
    async with serving(world, policy=COLD) as gateway:
        first = await created(world, gateway, "s", owner="ann")
        assert first.record.user_id == "ann"
        again = await created(world, gateway, "s", owner="ann")
        assert (again.created, again.record.incarnation) == (False, first.record.incarnation)
        for wanted in ({"owner": "bob"}, {"owner": "bob", "user_id": "ann"}, {"owner": "ann", "user_id": "eve"}):
            with pytest.raises(Conflict):
                await created(world, gateway, "s", **wanted)
        await assert_sound(world, gateway)


async def test_a_processor_is_its_first_owners_beyond_its_sessions(world: World) -> None:
    """Whoever else names it, or a session's own, is refused, while its sessions live and after; nothing is recorded."""
    async with serving(world, policy=COLD) as gateway:
        await created(world, gateway, "a1", owner="ann", node_id="shared")
        await created(world, gateway, "own", owner="ann")
        await created(world, gateway, "a2", owner="ann", node_id="shared")
        for ended in (False, True):
            if ended:
                for session_id in ("a1", "a2", "own"):
                    await world.run(gateway.end(session_id, owner="ann"))
            for session_id, node_id in (("b1", "shared"), ("b2", "own"), ("shared", None)):
                with pytest.raises(Forbidden):
                    await created(world, gateway, session_id, owner="bob", node_id=node_id)
            assert {"b1", "b2", "shared"}.isdisjoint(await world.sessions())
        with pytest.raises(Forbidden):
            await created(world, gateway, "own", owner="bob")
        await created(world, gateway, "a3", owner="ann", node_id="own")
        await assert_sound(world, gateway)


async def test_a_purged_processor_stays_its_owners(world: World) -> None:
    """Nobody else gets its name, and with it what an access token of before would open; its owner may use it again."""
    async with serving(world, policy=COLD) as gateway:
        await created(world, gateway, "s", owner="ann")
        with pytest.raises(SessionNotFound):
            await world.run(gateway.end("s", owner="bob", purge=True))
        await world.run(gateway.end("s", owner="ann", purge=True))
        with pytest.raises(Forbidden):
            await created(world, gateway, "s", owner="bob")
        assert (await created(world, gateway, "s", owner="ann")).created
        await assert_sound(world, gateway)


async def test_of_two_owners_at_once_one_gets_the_processor(world: World) -> None:
    """Two owners who name a new processor at the same time do not share it."""
    async with serving(world, policy=COLD) as gateway:
        wanted = [CreateSession(owner=owner, session_id=f"of-{owner}", node_id="p") for owner in ("ann", "bob")]
        outcomes = await world.run(_all(*(gateway.create(each) for each in wanted)))
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [type(failure) for failure in failures] == [Forbidden]
        assert len(await world.sessions()) == 1
        await assert_sound(world, gateway)


async def _all(*calls: Awaitable[object]) -> list[object]:
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def test_each_owner_has_a_default_session(world: World) -> None:
    """`default` is another session for each; it comes without being created, and nobody else may take its name."""
    async with serving(world, policy=COLD) as gateway:
        ann, bob = [(await world.run(gateway.resolve("default", owner=owner))) for owner in ("ann", "bob")]
        assert (ann.session_id, bob.session_id) == ("default:ann", "default:bob")
        assert (ann.processor_id, ann.owner) == ("default:ann", "ann")
        assert ann.node_id != bob.node_id
        assert await gateway.resolve("default:ann", owner="ann") == ann
        with pytest.raises(SessionNotFound):
            await gateway.resolve("default:ann", owner="bob")
        record = await gateway.get("default", owner="ann")
        assert (record.session_id, record.expires_at_s, record.user_id) == ("default:ann", None, "ann")
        assert not (await created(world, gateway, "default", owner="ann")).created
        for session_id, node_id in (("default:cat", None), ("s", "default:ann")):
            with pytest.raises(Forbidden):
                await created(world, gateway, session_id, owner="bob", node_id=node_id)
        await world.run(gateway.end("default", owner="ann"))
        again = await world.run(_all(*(gateway.resolve("default", owner="ann") for _ in range(3))))
        assert {route.session_id for route in again} == {"default:ann"}  # type: ignore[attr-defined]  # routes
        await assert_sound(world, gateway)


async def test_what_was_made_without_keys_is_the_first_owners_who_names_it(world: World) -> None:
    """An ownerless session is nobody's once there are keys; its processor goes to whoever names it first."""
    async with serving(world, policy=COLD) as gateway:
        await created(world, gateway, "s", node_id="p")
        with pytest.raises(SessionNotFound):
            await gateway.get("s", owner="ann")
        await created(world, gateway, "t", owner="ann", node_id="p")
        with pytest.raises(Forbidden):
            await created(world, gateway, "u", owner="bob", node_id="p")
        assert (await gateway.get("s")).session_id == "s"
        assert (await gateway.get("t")).owner == "ann"
        await assert_sound(world, gateway)


async def test_a_route_carries_the_sessions_token(world: World) -> None:
    """What the data plane sends to the node is the session's own token, which is in nothing that is printed."""
    async with serving(world, policy=COLD) as gateway:
        made = await created(world, gateway, "s", owner="ann", node_id="p")
        assert made.route.token == gateway.access_token(made.record)
        assert verified(made.route.token, key=token_key("", "p")) == Grant(session_id="s", processor_id="p")
        assert made.route.token not in repr(made.route)
        await assert_sound(world, gateway)
