"""Answers leave only on a fresh word that the processor is still this node's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kato_node import guard, ownership
from kato_node.domain.errors import DomainError
from kato_node.domain.limits import Limits
from kato_node.errors import ServiceError
from kato_node.node import Node
from kato_node.ownership import FRESH_S
from kato_node.store.base import Fenced, StoreUnavailable
from kato_node.store.memory import MemoryDisk, MemoryStore
from tests.unit.node.running import PROCESSOR, Clock, gather, key, observe_all, running, seen, stm, stored

READS: dict[str, Callable[[Node], Awaitable[object]]] = {
    "session": lambda node: node.reads.session("s"),
    "stm": lambda node: node.reads.stm("s"),
    "predictions": lambda node: node.reads.predictions("s"),
    "percept_data": lambda node: node.reads.percept_data("s"),
    "cognition_data": lambda node: node.reads.cognition_data("s"),
    "genes": lambda node: node.reads.genes("s"),
    "gene": lambda node: node.reads.gene("s", "persistence"),
    "pattern": lambda node: node.reads.pattern("unknown"),
    "status": lambda node: node.reads.status("s"),
    "metrics": lambda node: node.reads.metrics("s"),
}


class Counting(MemoryStore):
    """Counts how often the epoch is read."""

    def __init__(self, disk: MemoryDisk, processor_id: str) -> None:
        super().__init__(disk, processor_id)
        self.readings = 0

    async def read_epoch(self) -> int:
        """See Store."""
        self.readings += 1
        return await super().read_epoch()


@pytest.mark.parametrize("name", READS)
async def test_a_node_that_slept_answers_nothing_stale(name: str) -> None:
    """A node that was stopped while another took its processor refuses every read, and ends."""
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, sessions=["s"], clock=clock) as node:
        await observe_all(node, "s", "a", "b")
        disk.take_over(PROCESSOR)
        clock.now_s += FRESH_S + 1
        read = READS[name]
        with pytest.raises(Fenced):
            await read(node)
        await node.stopped.wait()
        assert (node.state, node.stop_reason) == ("draining", "fenced")


async def test_a_node_that_slept_in_the_middle_of_a_read_answers_nothing_stale() -> None:
    """The epoch counts at the end of a read: a node stopped while it computed a prediction refuses it."""
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, sessions=["s"], clock=clock) as node:
        await observe_all(node, "s", "a", "b")
        reading = asyncio.ensure_future(node.reads.predictions("s"))
        await asyncio.sleep(0)
        disk.take_over(PROCESSOR)
        clock.now_s += FRESH_S + 1
        with pytest.raises(Fenced):
            await reading


async def test_a_fenced_writer_writes_nothing_and_ends() -> None:
    """The first write after a takeover is refused, the session's state untouched, and the node ends by itself."""
    disk = MemoryDisk()
    async with running(disk, sessions=["s"]) as node:
        await observe_all(node, "s", "a")
        service = node.service
        disk.take_over(PROCESSOR)
        with pytest.raises(Fenced) as fenced:
            await service.observe("s", seen("b"))
        assert fenced.value.code == "PROCESSOR_FENCED"
        results = await gather(service.learn("s"), node.drain())
        assert isinstance(results[0], Exception)
        assert node.stop_reason == "fenced"
    record = await stored(disk, "s")
    assert record is not None
    assert record.state.stm == (("a",),)


async def test_a_fresh_reading_is_enough() -> None:
    """Within 5 seconds of the last reading or commit, reads do not ask the store."""
    disk, clock = MemoryDisk(), Clock()
    stores: list[Counting] = []

    def open_store(processor_id: str) -> Counting:
        stores.append(Counting(disk, processor_id))
        return stores[-1]

    async with running(disk, sessions=["s"], clock=clock, open_store=open_store) as node:
        clock.now_s += FRESH_S
        await node.reads.stm("s")
        await node.service.observe("s", seen("a"))
        clock.now_s += FRESH_S
        await node.reads.stm("s")
        assert stores[0].readings == 0
        clock.now_s += 0.1
        await asyncio.gather(*(node.reads.stm("s") for _ in range(10)))
        assert stores[0].readings == 1


@pytest.mark.parametrize("name", sorted(READS.keys() - {"session", "pattern"}))  # a view and an error carry no mark
async def test_without_a_store_reads_are_marked(name: str) -> None:
    """With the store out of reach reads answer from memory and say so; when it is back they no longer do."""
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, sessions=["s"], clock=clock) as node:
        read = READS[name]
        disk.unavailable = True
        clock.now_s += FRESH_S + 1
        for _ in range(2):
            reply = await read(node)
            assert isinstance(reply, dict)
            assert reply["degraded"] is True
        disk.unavailable = False
        clock.now_s += FRESH_S + 1
        reply = await read(node)
        assert isinstance(reply, dict)
        assert "degraded" not in reply


async def test_without_a_store_writes_are_refused_and_recover() -> None:
    """With the store out of reach writes are refused; once it is back they go on, and reads at once know it."""
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, sessions=["s"], clock=clock) as node:
        disk.unavailable = True
        clock.now_s += FRESH_S + 1
        with pytest.raises(StoreUnavailable):
            await node.service.observe("s", seen("a"))
        assert (await node.reads.stm("s"))["degraded"] is True
        disk.unavailable = False
        await node.service.observe("s", seen("a"))
        assert (await node.reads.stm("s")).get("degraded") is None
        assert await stm(node, "s") == [["a"]]


@pytest.mark.parametrize(
    "call", [lambda node: node.reads.stm("s"), lambda node: node.service.observe("s", seen("c"))], ids=["read", "write"]
)
async def test_a_node_that_was_cut_off_and_replaced_is_fenced(call: Callable[[Node], Awaitable[object]]) -> None:
    """Cut off from its store a node serves marked reads and refuses writes; back again, and replaced meanwhile, neither
    its reads nor its writes are answered, nothing of it is written, and it ends.
    """
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, sessions=["s"], clock=clock) as node:
        await observe_all(node, "s", "a")
        disk.unavailable = True
        clock.now_s += FRESH_S + 1
        assert (await node.reads.stm("s"))["degraded"] is True
        with pytest.raises(StoreUnavailable):
            await node.service.observe("s", seen("b"))
        disk.take_over(PROCESSOR)
        disk.unavailable = False
        clock.now_s += FRESH_S + 1
        with pytest.raises(Fenced):
            await call(node)
        await node.stopped.wait()
        assert node.stop_reason == "fenced"
    record = await stored(disk, "s")
    assert record is not None
    assert record.state.stm == (("a",),)


async def test_the_epoch_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that nobody asks notices by itself that another has taken its processor, after failed readings too."""
    monkeypatch.setattr(ownership, "WATCH_S", 0.001)
    disk = MemoryDisk()
    async with running(disk) as node:
        disk.unavailable = True
        await asyncio.wait_for(_degraded(node), timeout=10)
        disk.unavailable = False
        disk.take_over(PROCESSOR)
        await asyncio.wait_for(node.stopped.wait(), timeout=10)
        assert node.stop_reason == "fenced"


async def _degraded(node: Node) -> None:
    while "degraded" not in await node.reads.stm(None):  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)


async def test_a_store_that_hangs_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading that gets no answer in time counts as failed; the read answers, marked."""
    monkeypatch.setattr(guard, "EPOCH_MAX_S", 0.01)
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, sessions=["s"], clock=clock) as node:
        disk.gate.clear()
        clock.now_s += FRESH_S + 1
        assert (await node.reads.stm("s"))["degraded"] is True
        disk.gate.set()


async def test_a_purged_processor_is_not_ours() -> None:
    """An epoch that is gone from the store is another's as much as a newer one."""
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, sessions=["s"], clock=clock) as node:
        disk.processor(PROCESSOR).epoch = 0
        clock.now_s += FRESH_S + 1
        with pytest.raises(Fenced):
            await node.reads.stm("s")


REFUSED: list[Callable[[Node], Awaitable[object]]] = [
    lambda node: node.reads.stm("new"),
    lambda node: node.reads.gene("s", "nope"),
    lambda node: node.service.observe("s", seen(vectors=[[1.0]])),
    lambda node: node.service.observe("s", seen("x" * 50)),
    lambda node: node.service.learn("s", retry=key("k", "2")),
]


@pytest.mark.parametrize("call", REFUSED)
async def test_a_refusal_is_the_owners(call: Callable[[Node], Awaitable[object]]) -> None:
    """What a node would refuse by what it remembers is PROCESSOR_FENCED once another has its processor."""
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, sessions=["s"], clock=clock, limits=Limits(stm_bytes_max=60)) as node:
        await node.service.observe("s", seen("a", "b", vectors=[[1.0, 2.0]]), retry=key("k", "1"))
        with pytest.raises((DomainError, ServiceError)):
            async with node.operation():
                await call(node)
        disk.take_over(PROCESSOR)
        clock.now_s += 60
        with pytest.raises(Fenced):
            async with node.operation():
                await call(node)


async def test_an_opening_or_a_closing_that_writes_nothing_is_the_owners() -> None:
    """That a session is there already, or not any more, is said on the owner's word alone."""
    calls: list[Callable[[Node], Awaitable[object]]] = [
        lambda node: node.service.open_session("s", incarnation="1", overrides={}),
        lambda node: node.service.close_session("s", incarnation="2"),
        lambda node: node.service.close_session("unknown", incarnation="1"),
    ]
    for call in calls:
        disk, clock = MemoryDisk(), Clock()
        async with running(disk, sessions=["s"], clock=clock) as node:
            await call(node)
            disk.take_over(PROCESSOR)
            clock.now_s += 60
            with pytest.raises(Fenced):
                await call(node)


async def test_a_reading_is_as_old_as_its_beginning() -> None:
    """What a slow reading of the epoch says was true when it began: freshness counts from there."""
    disk, clock = MemoryDisk(), Clock()
    stores: list[Slow] = []

    class Slow(Counting):
        async def read_epoch(self) -> int:
            epoch = await super().read_epoch()
            clock.now_s += FRESH_S - 1
            return epoch

    def open_store(processor_id: str) -> Slow:
        stores.append(Slow(disk, processor_id))
        return stores[-1]

    async with running(disk, sessions=["s"], clock=clock, open_store=open_store) as node:
        clock.now_s += FRESH_S + 1
        await node.reads.stm("s")
        assert stores[0].readings == 1
        clock.now_s += 2
        await node.reads.stm("s")
        assert stores[0].readings == 2
