"""The threads that call an engine: bounded, with deadlines, and replaced when they are stuck."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
from docker import APIClient

from container_manager.runtimes.dockerthreads import Threads, TimeUp
from tests.processes import until

SIZE = 2
PATIENCE_S = 20.0


class Client:
    """Stands in for an engine's client: what the pool asks of one."""

    made = 0
    closed = 0

    def __init__(self) -> None:
        self.timeout = 0.0
        Client.made += 1

    def close(self) -> None:
        Client.closed += 1


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    """Clients are counted from 0, and each that was made is closed in the end; no thread is left."""
    Client.made = Client.closed = 0
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if thread.name == "t"]
    for thread in left:
        thread.join(PATIENCE_S)
    assert Client.made == Client.closed
    assert not any(thread.is_alive() for thread in left)


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    """At most two threads."""
    threads = Threads("t", SIZE, lambda _timeout_s: cast("APIClient", Client()))
    yield threads
    await threads.close()


async def test_no_more_calls_run_than_there_are_threads(threads: Threads) -> None:
    """Of many calls only as many run at a time as there may be threads; all are done, with a client for each thread."""
    running: list[int] = []
    most: list[int] = []
    both = threading.Barrier(SIZE)

    def work(_client: APIClient) -> int:
        running.append(1)
        most.append(len(running))
        both.wait(PATIENCE_S)
        running.pop()
        return 1

    assert sum(await asyncio.gather(*(threads.call(work, timeout_s=PATIENCE_S) for _ in range(8)))) == 8
    assert max(most) == SIZE
    assert Client.made == SIZE


async def test_a_clients_sockets_have_the_calls_deadline(threads: Threads) -> None:
    """A client's own timeout is never longer than what is left of the call."""
    assert 0 < await threads.call(lambda client: client.timeout, timeout_s=5.0) <= 5.0


async def test_a_failed_call_raises_and_its_client_is_not_used_again(threads: Threads) -> None:
    """What the work raises is raised; the next call has a new client."""

    def fail(_client: APIClient) -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await threads.call(fail, timeout_s=PATIENCE_S)
    await threads.call(lambda _client: None, timeout_s=PATIENCE_S)
    assert (Client.made, Client.closed) == (2, 1)


async def test_stuck_threads_are_replaced(threads: Threads) -> None:
    """Calls that never come back end at their deadline, and the next one is served."""
    gate = threading.Event()
    stuck = [threads.call(lambda _client: gate.wait(PATIENCE_S), timeout_s=0.05) for _ in range(SIZE)]
    results = await asyncio.gather(*stuck, return_exceptions=True)
    assert [type(result) for result in results] == [TimeUp] * SIZE
    assert await threads.call(lambda _client: "served", timeout_s=PATIENCE_S) == "served"
    gate.set()


async def test_there_is_an_end_to_replacing(threads: Threads) -> None:
    """With as many threads lost as may be replaced, further calls wait for one to come back, and are served then."""
    gate = threading.Event()
    for _ in range(2):
        stuck = [threads.call(lambda _client: gate.wait(PATIENCE_S), timeout_s=0.05) for _ in range(SIZE)]
        await asyncio.gather(*stuck, return_exceptions=True)
    assert len([thread for thread in threading.enumerate() if thread.name == "t"]) == 2 * SIZE
    with pytest.raises(TimeUp):
        await threads.call(lambda _client: None, timeout_s=0.05)
    gate.set()
    assert await threads.call(lambda _client: "served", timeout_s=PATIENCE_S) == "served"


async def test_a_cancelled_call_that_settles_is_over_when_it_ends(threads: Threads) -> None:
    """A cancelled call that is to be undone has ended in its thread when the cancellation is raised."""
    begun, gate = threading.Event(), threading.Event()
    ended: list[int] = []

    def work(_client: APIClient) -> None:
        begun.set()
        gate.wait(PATIENCE_S)
        ended.append(1)

    call = asyncio.create_task(threads.call(work, timeout_s=PATIENCE_S, settle=True))
    await until(begun.is_set)
    call.cancel()
    asyncio.get_running_loop().call_soon(gate.set)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended == [1]


async def test_a_call_that_is_cancelled_in_the_queue_is_never_made(threads: Threads) -> None:
    """A call that is cancelled before it has a thread does nothing."""
    gate = threading.Event()
    made: list[int] = []
    busy = [asyncio.create_task(threads.call(lambda _client: gate.wait(5), timeout_s=5.0)) for _ in range(SIZE)]
    await asyncio.sleep(0)
    queued = asyncio.create_task(threads.call(lambda _client: made.append(1), timeout_s=5.0))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    gate.set()
    await asyncio.gather(*busy)
    await threads.call(lambda _client: None, timeout_s=5.0)
    assert made == []


async def test_closed_threads_can_be_used_again(threads: Threads) -> None:
    """Closing ends every thread; a later call makes a new one."""
    await threads.call(lambda _client: None, timeout_s=PATIENCE_S)
    await threads.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "t"]
    assert await threads.call(lambda _client: 1, timeout_s=PATIENCE_S) == 1
