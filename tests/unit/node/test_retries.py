"""Idempotency keys: the same key again gives the first reply and applies nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kato_node.errors import IdempotencyKeyReused
from kato_node.node import Node
from kato_node.service import Reply, RetryKey, SequenceRequest
from kato_node.store.base import CommitUnknown, Fenced, StoreUnavailable
from kato_node.store.memory import MemoryDisk
from kato_node.turns import OPERATIONS_MAX
from tests.unit.node.running import PROCESSOR, Clock, answers, key, observe_all, running, seen, stm, stored

Call = Callable[[Node, RetryKey], Awaitable[Reply]]

MUTATIONS: dict[str, Call] = {
    "observe": lambda node, retry: node.service.observe(None, seen("c", vectors=[[1.0]]), retry=retry),
    "observe_sequence": lambda node, retry: node.service.observe_sequence(
        None, SequenceRequest(observations=[seen("c"), seen("d")], learn_at_end=True), retry=retry
    ),
    "learn": lambda node, retry: node.service.learn(None, retry=retry),
    "clear_stm": lambda node, retry: node.service.clear_stm(None, retry=retry),
    "clear_all": lambda node, retry: node.service.clear_all(None, retry=retry),
    "update_genes": lambda node, retry: node.service.update_genes(None, {"persistence": 7}, retry=retry),
}


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_repeated_call_applies_once(name: str) -> None:
    """Repeated at once, later, or to a node that took over: the first reply each time, and the state of one call."""
    disk = MemoryDisk()
    call = MUTATIONS[name]
    async with running(disk) as node:
        await observe_all(node, None, "a", "b")
        first, same = await asyncio.gather(call(node, key("1")), call(node, key("1")))
        after = await answers(node)
        await node.service.update_genes(None, {"smoothness": 4})
        assert same == await call(node, key("1")) == first
        await node.service.update_genes(None, {"smoothness": 3})
        assert repr(await answers(node)) == repr(after)
    async with running(disk) as node:
        assert await call(node, key("1")) == first
        assert repr(await answers(node)) == repr(after)


async def test_a_key_belongs_to_one_body() -> None:
    """A key that came with another body, or for another operation, is refused, and nothing is applied."""
    async with running() as node:
        await node.service.observe(None, seen("a"), retry=key("1", body="observe a"))
        with pytest.raises(IdempotencyKeyReused):
            await node.service.observe(None, seen("b"), retry=key("1", body="observe b"))
        assert await stm(node) == [["a"]]


async def test_keys_are_the_sessions_own() -> None:
    """Two sessions may use the same key for different things."""
    async with running(sessions=["one", "two"]) as node:
        await node.service.observe("one", seen("a"), retry=key("1", body="a"))
        await node.service.observe("two", seen("b"), retry=key("1", body="b"))
        assert (await stm(node, "one"), await stm(node, "two")) == ([["a"]], [["b"]])


async def test_the_newest_keys_are_remembered() -> None:
    """A session remembers its newest 64 keys, across clears; an older one applies again."""
    disk = MemoryDisk()
    async with running(disk) as node:
        first = await node.service.observe(None, seen("a"), retry=key("0"))
        await node.service.clear_stm(None)
        for number in range(1, OPERATIONS_MAX):
            await node.service.observe(None, seen("b"), retry=key(str(number)))
        assert await node.service.observe(None, seen("a"), retry=key("0")) == first
        await node.service.learn(None, retry=key("64"))
        assert (await node.service.observe(None, seen("a"), retry=key("0"))) != first
    record = await stored(disk)
    assert record is not None
    assert len(record.operations) == OPERATIONS_MAX


async def test_a_long_reply_is_repeated_whole() -> None:
    """A reply that is not kept in memory comes back as it was, from the store."""
    disk = MemoryDisk()
    request = SequenceRequest(observations=[seen(f"symbol {number}") for number in range(200)])
    async with running(disk) as node:
        first = await node.service.observe_sequence(None, request, retry=key("1"))
        again = await node.service.observe_sequence(None, request, retry=key("1"))
        assert again == first
        await node.service.observe(None, seen("x"), retry=key("2"))
        assert await node.service.observe_sequence(None, request, retry=key("1")) == again
    async with running(disk) as node:
        assert await node.service.observe_sequence(None, request, retry=key("1")) == again


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize("written", [True, False])
async def test_after_a_lost_acknowledgement_a_retry_applies_once(name: str, written: bool) -> None:
    """Whether or not the commit arrived, the same key again leaves what one call leaves."""
    disk, undisturbed = MemoryDisk(), MemoryDisk()
    call = MUTATIONS[name]
    async with running(undisturbed) as node:
        await observe_all(node, None, "a", "b")
        await call(node, key("1"))
        expected = await answers(node)
    async with running(disk) as node:
        await observe_all(node, None, "a", "b")
        disk.fail_next_commit(CommitUnknown("lost"), written=written)
        with pytest.raises(CommitUnknown):
            await call(node, key("1"))
        await call(node, key("1"))
        assert repr(await answers(node)) == repr(expected)
    async with running(disk) as node:
        assert repr(await answers(node)) == repr(expected)


async def test_a_refused_call_is_not_remembered() -> None:
    """A key whose call was not applied may be used again, with the same or another body."""
    disk = MemoryDisk()
    async with running(disk) as node:
        disk.fail_next_commit(StoreUnavailable("no"))
        with pytest.raises(StoreUnavailable):
            await node.service.observe(None, seen("a"), retry=key("1", body="a"))
        await node.service.observe(None, seen("b"), retry=key("1", body="b"))
        assert await stm(node) == [["b"]]


async def test_a_fenced_node_repeats_no_reply() -> None:
    """A remembered reply, too, is given only by the processor's owner."""
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, clock=clock) as node:
        service = node.service
        await service.observe(None, seen("a"), retry=key("1"))
        disk.take_over(PROCESSOR)
        clock.now_s += 60
        with pytest.raises(Fenced):
            await service.observe(None, seen("a"), retry=key("1"))
