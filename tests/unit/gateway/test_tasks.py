"""Owned tasks, flights and locks."""

from __future__ import annotations

import asyncio

import pytest

from kato_gateway.clock import SystemClock
from kato_gateway.domain.errors import NodeFailed, RuntimeOutOfReach
from kato_gateway.tasks import Flights, Locks, Tasks, all_of


async def test_one_flight_a_key() -> None:
    """Whoever joins while a flight is under way gets its outcome; the next one begins anew."""
    flights: Flights[int] = Flights(Tasks())
    landed = asyncio.Event()
    begun = 0

    async def fly() -> int:
        nonlocal begun
        begun += 1
        mine = begun
        await landed.wait()
        return mine

    joined = [asyncio.create_task(flights.join("k", fly)) for _ in range(3)]
    other = asyncio.create_task(flights.join("other", fly))
    await asyncio.sleep(0)
    assert flights.flying("k")
    landed.set()
    assert [await task for task in joined] == [1, 1, 1]
    assert await other == 2
    assert not flights.flying("k")
    assert await flights.join("k", fly) == 3


async def test_a_flight_outlives_whoever_began_it() -> None:
    """A caller's cancellation ends the caller, not the flight that others wait for."""
    flights: Flights[str] = Flights(Tasks())
    landed = asyncio.Event()

    async def fly() -> str:
        await landed.wait()
        return "there"

    first = asyncio.create_task(flights.join("k", fly))
    second = asyncio.create_task(flights.join("k", fly))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    landed.set()
    assert await second == "there"


async def test_everybody_hears_of_a_failed_flight() -> None:
    """The flight's error is each caller's."""
    flights: Flights[None] = Flights(Tasks())

    async def fall() -> None:
        await asyncio.sleep(0)
        raise NodeFailed("down")

    outcomes = await asyncio.gather(*(flights.join("k", fall) for _ in range(2)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NodeFailed, NodeFailed]


async def test_an_ended_flight_is_no_cancellation_of_its_callers() -> None:
    """When the owner ends its tasks, callers get an error that says so."""
    tasks = Tasks()
    flights: Flights[None] = Flights(tasks)
    caller = asyncio.create_task(flights.join("k", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await tasks.cancel()
    with pytest.raises(RuntimeOutOfReach):
        await caller


async def test_ending_ends_what_the_ended_begin() -> None:
    """A task that begins another one while it ends leaves none behind."""
    tasks = Tasks()
    begun = 0

    async def stubborn() -> None:
        nonlocal begun
        try:
            await asyncio.Event().wait()
        finally:
            begun += 1
            if begun < 3:
                tasks.spawn("another", stubborn())

    tasks.spawn("first", stubborn())
    await asyncio.sleep(0)
    await tasks.cancel()
    assert begun in {1, 2, 3}
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_supervised_work_is_begun_again_however_it_ended() -> None:
    """Work that returns, raises or is cancelled is begun again after its pause."""
    tasks = Tasks()
    rounds = 0
    enough = asyncio.Event()

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            raise NodeFailed("once")
        if rounds == 3:
            raise asyncio.CancelledError
        if rounds == 4:
            enough.set()

    tasks.supervise("work", work, SystemClock(), 0.0)
    await enough.wait()
    await tasks.cancel()


async def test_a_lock_is_held_by_one_and_kept_by_nobody() -> None:
    """Holders of one key take turns, those of another do not wait, and a cancelled one is out of the way."""
    locks = Locks()
    order: list[str] = []

    async def hold(key: str, name: str, let_go: asyncio.Event) -> None:
        async with locks.hold(key):
            order.append(name)
            await let_go.wait()

    gates = [asyncio.Event() for _ in range(4)]
    first = asyncio.create_task(hold("k", "first", gates[0]))
    waiting = asyncio.create_task(hold("k", "cancelled", gates[1]))
    second = asyncio.create_task(hold("k", "second", gates[2]))
    other = asyncio.create_task(hold("other", "other", gates[3]))
    await asyncio.sleep(0)
    waiting.cancel()
    for gate in gates:
        gate.set()
    await asyncio.wait({first, waiting, second, other})
    assert order == ["first", "other", "second"]
    assert not vars(locks)["_locks"]


async def test_all_of_waits_for_all() -> None:
    """The first error is raised once everything has ended, not before."""
    ended: list[str] = []

    async def fail() -> None:
        raise NodeFailed("one")

    async def end() -> None:
        await asyncio.sleep(0)
        ended.append("other")

    with pytest.raises(NodeFailed):
        await all_of([fail(), end()])
    assert ended == ["other"]


async def test_a_flight_that_may_end_ends_with_its_last_caller() -> None:
    """Not before, and not while it may not end; who comes while it ends waits for that, and begins anew."""
    flights: Flights[int] = Flights(Tasks(), may_end=lambda _: may_end)
    may_end, begun, ended, again = True, 0, asyncio.Event(), asyncio.Event()

    async def fly() -> int:
        nonlocal begun
        begun += 1
        mine = begun
        if mine == 2:
            again.set()
        try:
            return await asyncio.get_running_loop().create_future() or 0
        except asyncio.CancelledError:
            await ended.wait()
            raise
        finally:
            landed.append(mine)

    landed: list[int] = []
    first, second = (asyncio.create_task(flights.join("k", fly)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    assert not flights.is_given_up("k")
    second.cancel()
    await asyncio.wait({second})
    assert flights.is_given_up("k")
    third = asyncio.create_task(flights.join("k", fly))
    await asyncio.sleep(0)
    assert (begun, landed) == (1, [])
    ended.set()
    await again.wait()
    assert landed == [1]
    assert not flights.is_given_up("k")
    may_end = False
    third.cancel()
    await asyncio.wait({third})
    assert flights.flying("k")
    assert not flights.is_given_up("k")
