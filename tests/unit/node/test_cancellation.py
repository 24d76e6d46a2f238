"""A caller that goes away, at every point where a call waits: nothing is torn apart, and a retry applies once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kato_node.node import Node
from kato_node.service import Reply, RetryKey, SequenceRequest
from kato_node.store.base import CommitUnknown, StoreError, StoreUnavailable
from kato_node.store.memory import MemoryDisk
from tests.unit.node.running import answers, gather, key, observe_all, running, seen, stm, stored, until

Call = Callable[[Node, RetryKey], Awaitable[Reply]]

CALLS: dict[str, Call] = {
    "observe": lambda node, retry: node.service.observe(None, seen("c", emotives={"joy": 1.0}), retry=retry),
    "neighbours": lambda node, retry: node.service.observe(None, seen(vectors=[[1.0, 2.5]]), retry=retry),
    "learn": lambda node, retry: node.service.learn(None, retry=retry),
    "sequence": lambda node, retry: node.service.observe_sequence(
        None,
        SequenceRequest(observations=[seen("c"), seen("d")], learn_after_each=True, learn_at_end=True),
        retry=retry,
    ),
    "clear_all": lambda node, retry: node.service.clear_all(None, retry=retry),
}
FAILURES: dict[str, tuple[StoreError, bool] | None] = {
    "no failure": None,
    "refused": (StoreUnavailable("no"), False),
    "lost before it was written": (CommitUnknown("lost"), False),
    "lost after it was written": (CommitUnknown("lost"), True),
}
STEPS_MAX = 200


async def prepared(node: Node) -> None:
    """Bring the node where a call has everything to change: patterns, vectors, an STM that was learned before."""
    await node.service.update_genes(None, {"vector_neighbors": 1})
    for _ in range(2):
        await node.service.observe(None, seen("a", vectors=[[1.0, 2.0]]))
        await observe_all(node, None, "b")
        await node.service.learn(None)
    await observe_all(node, None, "a", "b")


async def outcome(disk: MemoryDisk) -> str:
    """Return all that a node answers which loads what is stored now."""
    async with running(disk) as node:
        return repr(await answers(node))


async def expected_of(call: Call) -> str:
    """Return the same of a node on which the call was made once, undisturbed."""
    disk = MemoryDisk()
    async with running(disk) as node:
        await prepared(node)
        await call(node, key("1"))
    return await outcome(disk)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_may_be_cancelled_at_every_point(name: str, failure: str) -> None:
    """Cancelled at each await in turn, under each failure of its commit: memory and store agree, no task is left,
    and the same call with the same key leaves what one undisturbed call leaves.
    """
    call = CALLS[name]
    expected = await expected_of(call)
    for steps in range(STEPS_MAX):
        disk = MemoryDisk()
        async with running(disk) as node:
            await prepared(node)
            if (error := FAILURES[failure]) is not None:
                disk.fail_next_commit(error[0], written=error[1])
            tasks = asyncio.all_tasks()
            caller = asyncio.ensure_future(call(node, key("1")))
            for _ in range(steps):
                await asyncio.sleep(0)
            answered = caller.done()
            caller.cancel()
            await gather(caller)
            await until(lambda tasks=tasks: asyncio.all_tasks() <= tasks)  # type: ignore[misc]
            assert repr(await answers(node)) == await restarted(disk)
            await settled(node, call)
            assert repr(await answers(node)) == await restarted(disk) == expected
        if answered:
            return
    pytest.fail(f"not answered after {STEPS_MAX} steps")


async def settled(node: Node, call: Call) -> None:
    """Repeat the call with its key until it is acknowledged, as a client does."""
    while True:
        try:
            await call(node, key("1"))
        except (StoreUnavailable, CommitUnknown):
            continue
        return


async def restarted(disk: MemoryDisk) -> str:
    """Return what another node would answer that loads the same documents, without taking the processor."""
    epoch = disk.processor("p").epoch
    answer = await outcome(disk)
    disk.processor("p").epoch = epoch
    return answer


async def test_a_cancelled_call_completes_by_itself() -> None:
    """A call whose caller left while the store was busy is applied all the same, and the next one after it."""
    disk = MemoryDisk()
    async with running(disk) as node:
        disk.gate.clear()
        caller = asyncio.ensure_future(node.service.observe(None, seen("a")))
        await asyncio.sleep(0)
        caller.cancel()
        await gather(caller)
        behind = asyncio.ensure_future(node.service.observe(None, seen("b")))
        disk.gate.set()
        assert (await behind)["time"] == 2
        assert await stm(node) == [["a"], ["b"]]


async def test_a_call_cancelled_before_it_began_applies_nothing() -> None:
    """A caller that is gone before its call started has not made it."""
    async with running() as node:
        caller = asyncio.ensure_future(node.service.observe(None, seen("a")))
        caller.cancel()
        await gather(caller)
        assert await stm(node) == []


async def test_many_cancelled_callers_leave_the_order_alone() -> None:
    """Of many calls of a session every second caller leaves: all are applied, in the order of their arrival."""
    disk = MemoryDisk()
    async with running(disk) as node:
        callers = [asyncio.ensure_future(node.service.observe(None, seen(f"{number:02}"))) for number in range(20)]
        await asyncio.sleep(0)
        for caller in callers[::2]:
            caller.cancel()
        await gather(*callers)
        await node.service.observe(None, seen("end"))
        assert await stm(node) == [*([f"{number:02}"] for number in range(20)), ["end"]]


async def test_a_cancelled_read_leaves_nothing_behind() -> None:
    """A reader that leaves, at any point of a prediction, disturbs no other."""
    async with running() as node:
        await prepared(node)
        expected = await node.reads.predictions(None)
    for steps in range(20):
        async with running() as node:
            await prepared(node)
            reader = asyncio.ensure_future(node.reads.predictions(None))
            for _ in range(steps):
                await asyncio.sleep(0)
            reader.cancel()
            await gather(reader)
            assert await node.reads.predictions(None) == expected


async def test_a_drain_waits_for_calls_whose_callers_left() -> None:
    """A node that drains writes first what it has taken on, though nobody waits for the answer."""
    disk = MemoryDisk()
    async with running(disk) as node:
        disk.gate.clear()
        caller = asyncio.ensure_future(node.service.observe(None, seen("a")))
        await asyncio.sleep(0)
        caller.cancel()
        await gather(caller)
        draining = asyncio.ensure_future(node.drain())
        await until(lambda: node.state == "draining")
        assert not node.stopped.is_set()
        disk.gate.set()
        await draining
    record = await stored(disk)
    assert record is not None
    assert record.state.stm == (("a",),)
