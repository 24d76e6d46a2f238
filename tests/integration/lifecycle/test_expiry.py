"""What time does to sessions: sliding, expiring, being forgotten, getting stuck."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kato_gateway.domain.errors import InvalidSession, RegistryUnavailable, SessionExpired, SessionNotFound
from kato_gateway.domain.sessions import SessionStatus, new_session
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.registry.base import SessionChange
from kato_gateway.registry.memory import MemoryRegistry
from tests.integration.lifecycle.world import POLICY, Phase, World, assert_sound, created, serving, settle

TTL_S = 100.0


async def expiry(gateway: Lifecycle, session_id: str = "s") -> float:
    """Return when the session expires, as clients see it."""
    at_s = (await gateway.get(session_id)).expires_at_s
    assert at_s is not None
    return at_s


async def written(world: World, session_id: str = "s") -> float | None:
    """Return when the session expires, as it is written."""
    record = await MemoryRegistry(world.tables).session(session_id)
    assert record is not None
    return record.expires_at_s


async def test_an_unused_session_expires(world: World) -> None:
    """At its time the session ends, its node with it; it answers SESSION_EXPIRED for a day and then is forgotten."""
    async with serving(world) as gateway:
        await created(world, gateway, "s", ttl_seconds=TTL_S)
        await world.clock.turn(TTL_S - 1.5)
        assert (await gateway.get("s")).status is SessionStatus.ACTIVE
        await world.clock.turn(3.0)
        assert await world.sessions() == {"s": SessionStatus.ENDED}
        assert world.alive() == []
        assert world.store("s").sessions == {}
        for call in (gateway.get("s"), gateway.resolve("s"), gateway.end("s"), gateway.extend("s", ttl_s=1.0)):
            with pytest.raises(SessionExpired):
                await world.run(call)
        world.clock.time_s += POLICY.ended_kept_s
        await world.clock.turn(2.0)
        assert await world.sessions() == {}
        with pytest.raises(SessionNotFound):
            await gateway.resolve("s")


async def test_calls_slide_the_expiry(world: World) -> None:
    """A session that is called lives its whole time after each call, before anything of it is written."""
    async with serving(world) as gateway:
        await created(world, gateway, "s", ttl_seconds=TTL_S)
        for _ in range(5):
            await world.clock.turn(TTL_S * 0.7)
            gateway.activity.touch("s")
            assert await expiry(gateway) == world.clock.now_s() + TTL_S
        await world.clock.turn(TTL_S + 2.0)
        assert await world.sessions() == {"s": SessionStatus.ENDED}


async def test_a_fixed_expiry_is_not_slid(world: World) -> None:
    """Without sliding a session ends at its time, however much it is called."""
    async with serving(world) as gateway:
        made = await created(world, gateway, "s", ttl_seconds=TTL_S, sliding=False)
        await world.clock.turn(TTL_S - 2.0)
        gateway.activity.touch("s")
        assert await expiry(gateway) == made.record.expires_at_s
        await world.clock.turn(4.0)
        assert await world.sessions() == {"s": SessionStatus.ENDED}


async def test_looking_at_a_session_slides_nothing(world: World) -> None:
    """To get a session is no call on it."""
    async with serving(world) as gateway:
        made = await created(world, gateway, "s", ttl_seconds=TTL_S)
        await world.clock.turn(TTL_S / 2)
        assert (await gateway.get("s")).expires_at_s == made.record.expires_at_s
        assert await written(world) == made.record.expires_at_s


async def test_a_session_in_use_does_not_expire(world: World) -> None:
    """While a call or a socket is open the session lives on, and afterwards its whole time."""
    async with serving(world) as gateway:
        await created(world, gateway, "s", ttl_seconds=TTL_S, sliding=False)
        await created(world, gateway, "t", ttl_seconds=TTL_S)
        gateway.activity.begin("s")
        gateway.activity.begin("t")
        await world.clock.turn(10 * TTL_S)
        assert set((await world.sessions()).values()) == {SessionStatus.ACTIVE}
        assert await world.run(gateway.resolve("s"))
        gateway.activity.finish("s")
        gateway.activity.finish("t")
        await world.clock.turn(TTL_S - 2.0)
        assert await world.sessions() == {"s": SessionStatus.ENDED, "t": SessionStatus.ACTIVE}


async def test_use_is_written_now_and_then(world: World) -> None:
    """Many calls make one write, within seconds, and another gateway sees the new expiry."""
    writes: list[str] = []

    async def note(name: str, phase: Phase) -> None:
        if (name, phase) == ("registry.apply", "before"):
            writes.append(name)

    async with serving(world, knob=note) as gateway:
        await created(world, gateway, "s", ttl_seconds=TTL_S)
        await world.clock.turn(POLICY.flush_interval_s + 1.0)
        writes.clear()
        for _ in range(1000):
            gateway.activity.touch("s")
        used_at_s = world.clock.now_s()
        await world.clock.turn(POLICY.flush_interval_s + 1.0)
        assert len(writes) == 1
        assert await written(world) == used_at_s + TTL_S


async def test_use_that_cannot_be_written_is_not_forgotten(world: World) -> None:
    """While the registry is out of reach uses are kept, and nothing expires for want of them."""
    out_of_reach = False

    async def fail(name: str, phase: Phase) -> None:
        if out_of_reach and name.startswith("registry"):
            raise RegistryUnavailable("out of reach")

    async with serving(world, knob=fail) as gateway:
        await created(world, gateway, "s", ttl_seconds=TTL_S)
        await world.clock.turn(TTL_S * 0.7)
        gateway.activity.touch("s")
        used_at_s = world.clock.now_s()
        out_of_reach = True
        await world.clock.turn(TTL_S * 0.7)
        out_of_reach = False
        await world.clock.turn(POLICY.flush_interval_s + 1.0)
        assert await written(world) == used_at_s + TTL_S
        assert (await gateway.get("s")).status is SessionStatus.ACTIVE


async def test_a_hibernated_session_expires_too(world: World) -> None:
    """Nothing is woken for it; what its store has of it is deleted by the processor's next node."""
    async with serving(world) as gateway:
        made = await created(world, gateway, "s", node_id="p", ttl_seconds=TTL_S)
        world.engine.kill(made.route.node_id)
        await world.clock.turn(TTL_S + 2.0)
        assert await world.sessions() == {"s": SessionStatus.ENDED}
        assert world.alive() == []
        assert list(world.store("p").sessions) == ["s"]
        await created(world, gateway, "t", node_id="p")
        assert list(world.store("p").sessions) == ["t"]
        assert world.tables.leftovers == {}
        await assert_sound(world, gateway)


async def test_many_expire_at_once(world: World) -> None:
    """However many are due, and whatever among them is in use, all that are due end."""
    registry = MemoryRegistry(world.tables)
    for number in range(1200):
        record = new_session(f"s{number:04}", incarnation="1", at_s=world.clock.now_s() - 50.0, ttl_s=50.0)
        await registry.apply([SessionChange(before=None, after=record)])
    async with serving(world, policy=replace(POLICY, upkeep_interval_s=10_000.0)) as gateway:
        while SessionStatus.CREATING in (await world.sessions()).values():
            await settle()
        await assert_sound(world, gateway)


async def test_extending_sets_a_new_expiry(world: World) -> None:
    """From now, longer or shorter, kept as the session's time to live."""
    async with serving(world) as gateway:
        await created(world, gateway, "s", ttl_seconds=TTL_S)
        await world.clock.turn(10.0)
        assert (await gateway.extend("s", ttl_s=1000.0)).expires_at_s == world.clock.now_s() + 1000.0
        await world.clock.turn(10.0)
        assert (await gateway.extend("s", ttl_s=None)).expires_at_s == world.clock.now_s() + 1000.0
        assert (await gateway.extend("s", ttl_s=5.0)).expires_at_s == world.clock.now_s() + 5.0
        with pytest.raises(InvalidSession):
            await gateway.extend("s", ttl_s=0.0)
        await world.clock.turn(7.0)
        assert await world.sessions() == {"s": SessionStatus.ENDED}


async def test_a_creation_that_nobody_finishes_fails(world: World) -> None:
    """A session that its gateway left being created ends as failed, once no deadline can be running any more."""
    record = new_session("s", incarnation="1", at_s=world.clock.now_s(), ttl_s=5000.0)
    await MemoryRegistry(world.tables).apply([SessionChange(before=None, after=record)])
    async with serving(world) as gateway:
        await world.clock.turn(POLICY.start_timeout_s + POLICY.bind_timeout_s)
        assert await world.sessions() == {"s": SessionStatus.CREATING}
        await world.clock.turn(20.0)
        assert await world.sessions() == {"s": SessionStatus.ENDED}
        with pytest.raises(SessionNotFound):
            await gateway.resolve("s")


async def test_a_creation_that_was_left_is_made_good_by_the_same_call(world: World) -> None:
    """The client that repeats its create gets the session at once."""
    record = new_session("s", incarnation="1", at_s=world.clock.now_s(), ttl_s=5000.0, user_id="ann")
    await MemoryRegistry(world.tables).apply([SessionChange(before=None, after=record)])
    async with serving(world) as gateway:
        made = await created(world, gateway, "s", user_id="ann")
        assert (made.created, made.record.incarnation) == (False, "1")
        await settle()
        await assert_sound(world, gateway)
