"""Callers who leave: whoever still waits for a start to begin leaves the queue, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import pytest

from container_manager.spec import Address
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.domain.sessions import SessionStatus
from kato_gateway.lifecycle import CreateSession, Lifecycle
from tests.integration.gateway.serving import gateway as over_http
from tests.integration.gateway.test_sockets import HANDSHAKE
from tests.integration.lifecycle.world import World, assert_sound, created, serving, settle

ONE_START = LifecyclePolicy(warm_pool_size=0, starts_max=1)


@contextmanager
def held_up(world: World) -> Iterator[asyncio.Event]:
    """Let no start end in the block before the event is set."""
    gate = world.engine.knobs.start_gate = asyncio.Event()
    yield gate
    world.engine.knobs.start_gate = None


async def begun(gateway: Lifecycle, session_id: str, **wanted: str) -> asyncio.Task[object]:
    """Begin to create a session, as far as it goes by itself."""
    task: asyncio.Task[object] = asyncio.create_task(
        gateway.create(CreateSession(session_id=session_id, **wanted))  # type: ignore[arg-type]  # names only
    )
    await settle()
    return task


async def left(*callers: asyncio.Task[object]) -> None:
    """Have the callers leave."""
    for caller in callers:
        caller.cancel()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    await settle()


async def test_a_create_that_is_left_leaves_the_queue(world: World) -> None:
    """Its place is free, and neither a record nor anything owed is left; whoever stays is served by the one start."""
    async with serving(world, policy=ONE_START) as gateway:
        with held_up(world) as gate:
            stays = await begun(gateway, "stays")
            leaves = await begun(gateway, "leaves")
            assert gateway.pool.view.waiting == 2
            await left(leaves)
            assert gateway.pool.view.waiting == 1
            assert await world.sessions() == {"stays": SessionStatus.CREATING}
            assert world.tables.leftovers == {}
            gate.set()
            await world.run(asyncio.wait_for(stays, 600.0))
        assert len(world.alive()) == 1
        await assert_sound(world, gateway)


async def test_a_create_whose_start_has_begun_goes_on(world: World) -> None:
    """The node that is being started is its session's, although its caller has left."""
    async with serving(world, policy=ONE_START) as gateway:
        with held_up(world) as gate:
            await left(await begun(gateway, "s"))
            assert await world.sessions() == {"s": SessionStatus.CREATING}
            gate.set()
            await world.clock.turn(1.0)
        assert await world.sessions() == {"s": SessionStatus.ACTIVE}
        await assert_sound(world, gateway)


async def test_a_place_is_kept_until_the_last_of_its_callers_leaves(world: World) -> None:
    """Two creates of one session share a place; it is left when both are."""
    async with serving(world, policy=ONE_START) as gateway:
        with held_up(world) as gate:
            stays = await begun(gateway, "stays")
            first, second = await begun(gateway, "s"), await begun(gateway, "s")
            await left(first)
            assert gateway.pool.view.waiting == 2
            await left(second)
            assert gateway.pool.view.waiting == 1
            assert "s" not in await world.sessions()
            gate.set()
            await world.run(asyncio.wait_for(stays, 600.0))
        await assert_sound(world, gateway)


async def test_sessions_that_wait_for_one_processor_leave_one_by_one(world: World) -> None:
    """Each that is left is gone; the processor's place is kept for whoever stays, and its node keeps nothing of it."""
    async with serving(world, policy=ONE_START) as gateway:
        with held_up(world) as gate:
            other = await begun(gateway, "other")
            first, second = await begun(gateway, "a", node_id="p"), await begun(gateway, "b", node_id="p")
            await left(first)
            assert sorted(await world.sessions()) == ["b", "other"]
            assert gateway.pool.view.waiting == 2
            gate.set()
            await world.run(asyncio.wait_for(asyncio.gather(other, second), 600.0))
        await assert_sound(world, gateway)


async def test_whoever_meets_a_create_that_was_left_begins_again(world: World) -> None:
    """A create of the same id, however early it comes, waits for nobody's leaving and gets a session of its own."""
    async with serving(world, policy=ONE_START) as gateway:
        with held_up(world) as gate:
            stays = await begun(gateway, "stays")
            for turns in range(12):
                leaves = await begun(gateway, "s")
                leaves.cancel()
                for _ in range(turns):
                    await asyncio.sleep(0)
                again = await begun(gateway, "s")
                assert leaves.cancelled()
                assert gateway.pool.view.waiting == 2
                assert (await world.sessions())["s"] is SessionStatus.CREATING
                if turns < 11:
                    await left(again)
            gate.set()
            await world.run(asyncio.wait_for(asyncio.gather(stays, again), 600.0))
        await assert_sound(world, gateway)


async def test_a_call_that_is_left_leaves_the_queue(world: World) -> None:
    """A call that would wake a node gives its place up; its session sleeps on, and the next call wakes it."""
    async with serving(world, policy=ONE_START) as gateway:
        await created(world, gateway, "s")
        await world.run(gateway.end_node("s"))
        with held_up(world) as gate:
            stays = await begun(gateway, "stays")
            call: asyncio.Task[object] = asyncio.create_task(gateway.resolve("s"))
            await settle()
            assert gateway.pool.view.waiting == 2
            await left(call)
            assert gateway.pool.view.waiting == 1
            assert (await world.sessions())["s"] is SessionStatus.HIBERNATED
            gate.set()
            await world.run(asyncio.wait_for(stays, 600.0))
        await world.run(gateway.resolve("s"))
        await assert_sound(world, gateway)


@asynccontextmanager
async def posting(at: Address, path: str, body: bytes = b"") -> AsyncIterator[None]:
    """Have sent a POST in the block, and hang up after it without having read a reply."""
    _, writer = await asyncio.open_connection(at.host, at.port)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    yield
    writer.close()
    await writer.wait_closed()


async def until_waiting(gateway: Lifecycle, waiting: int) -> None:
    """Wait until so many wait in the queue."""
    while gateway.pool.view.waiting != waiting:
        await settle()


@pytest.mark.parametrize(("path", "body"), [("/sessions", b'{"session_id": "s"}'), ("/sessions/asleep/learn", b"")])
async def test_a_client_that_hangs_up_leaves_the_queue(world: World, path: str, body: bytes) -> None:
    """Over HTTP: a create, and a call that would wake a node, wait no longer than their client does."""
    gateway = world.gateway(policy=ONE_START)
    await world.run(gateway.start())
    await created(world, gateway, "asleep")
    await world.run(gateway.end_node("asleep"))
    async with over_http(gateway) as at, aiohttp.ClientSession() as client:
        with held_up(world) as gate:
            stays = asyncio.create_task(client.post(f"{at.http_url}/sessions", json={"session_id": "stays"}))
            await until_waiting(gateway, 1)
            async with posting(at, path, body):
                await until_waiting(gateway, 2)
            await until_waiting(gateway, 1)
            gate.set()
            assert (await stays).status == 201
        await settle()
        assert await world.sessions() == {"asleep": SessionStatus.HIBERNATED, "stays": SessionStatus.ACTIVE}
        await assert_sound(world, gateway)
    await world.run(gateway.stop())


async def test_a_socket_that_hangs_up_leaves_the_queue(world: World) -> None:
    """A handshake that waits for a node waits no longer than its client does."""
    gateway = world.gateway(policy=ONE_START)
    await world.run(gateway.start())
    await created(world, gateway, "asleep")
    await world.run(gateway.end_node("asleep"))
    async with over_http(gateway) as at, aiohttp.ClientSession() as client:
        with held_up(world) as gate:
            stays = asyncio.create_task(client.post(f"{at.http_url}/sessions", json={"session_id": "stays"}))
            await until_waiting(gateway, 1)
            _, writer = await asyncio.open_connection(at.host, at.port)
            writer.write(HANDSHAKE.replace(b"/sessions/s/", b"/sessions/asleep/"))
            await until_waiting(gateway, 2)
            writer.close()
            await writer.wait_closed()
            await until_waiting(gateway, 1)
            gate.set()
            assert (await stays).status == 201
        await settle()
        assert await world.sessions() == {"asleep": SessionStatus.HIBERNATED, "stays": SessionStatus.ACTIVE}
        await assert_sound(world, gateway)
    await world.run(gateway.stop())
