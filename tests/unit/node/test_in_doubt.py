"""Commits of unknown outcome: what is true is asked of the store before anybody builds on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kato_node.domain.errors import PatternNotFound
from kato_node.domain.learn import Pattern, display_name, pattern_name
from kato_node.store.base import Batch, CommitUnknown, SessionRecord, StoreUnavailable
from kato_node.store.memory import MemoryDisk, MemoryStore
from tests.unit.node.running import PROCESSOR, frequency, gather, observe_all, running, seen, stm

AB = display_name(pattern_name((("a",), ("b",))))


@pytest.mark.parametrize("written", [True, False])
async def test_a_session_in_doubt_is_read_from_the_store(written: bool) -> None:
    """After a lost acknowledgement the STM is what the store says, for the next read and the next call."""
    disk = MemoryDisk()
    async with running(disk) as node:
        await observe_all(node, None, "a")
        disk.fail_next_commit(CommitUnknown("lost"), written=written)
        with pytest.raises(CommitUnknown) as unknown:
            await node.service.observe(None, seen("b"))
        assert unknown.value.code == "STORAGE_UNAVAILABLE"
        expected = [["a"], ["b"]] if written else [["a"]]
        assert await stm(node) == expected
        await observe_all(node, None, "c")
        assert await stm(node) == [*expected, ["c"]]


@pytest.mark.parametrize("written", [True, False])
async def test_an_ltm_in_doubt_is_loaded_again(written: bool) -> None:
    """After a learn of unknown outcome the LTM is the store's: the pattern counts as often as it is stored."""
    disk = MemoryDisk()
    async with running(disk) as node:
        await observe_all(node, None, "a", "b")
        disk.fail_next_commit(CommitUnknown("lost"), written=written)
        with pytest.raises(CommitUnknown):
            await node.service.learn(None)
        if written:
            assert await frequency(node, AB) == 1
            assert await stm(node) == []
        else:
            with pytest.raises(PatternNotFound):
                await node.reads.pattern(AB)
            assert await stm(node) == [["a"], ["b"]]
        await observe_all(node, None, "a", "b")
        assert (await node.reads.predictions(None))["count"] == int(written)


async def test_every_call_of_a_batch_in_doubt_is_told() -> None:
    """All calls of one transaction share its fate, and each session is loaded again."""
    disk = MemoryDisk()
    names = [f"s{number}" for number in range(5)]
    async with running(disk, sessions=names) as node:
        disk.fail_next_commit(CommitUnknown("lost"), written=True)
        results = await gather(*(node.service.observe(name, seen(name)) for name in names))
        assert [type(result) for result in results] == [CommitUnknown] * 5
        assert [await stm(node, name) for name in names] == [[[name]] for name in names]


class SlowCommit(MemoryStore):
    """A store whose acknowledgement is lost while the commit itself arrives late: with the next thing written."""

    def __init__(self, disk: MemoryDisk, processor_id: str) -> None:
        super().__init__(disk, processor_id)
        self.late: Batch | None = None
        self.lose_next = False

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        if self.lose_next:
            self.lose_next, self.late = False, batch
            raise CommitUnknown("lost")
        if self.late is not None:
            late, self.late = self.late, None
            await super().commit(late, epoch=epoch)
        await super().commit(batch, epoch=epoch)


async def test_nothing_is_read_while_a_lost_commit_may_still_arrive() -> None:
    """The doubt is settled by a commit that nothing can overtake, before the session is read."""
    disk = MemoryDisk()
    stores: list[SlowCommit] = []

    def open_store(processor_id: str) -> SlowCommit:
        stores.append(SlowCommit(disk, processor_id))
        return stores[-1]

    async with running(disk, open_store=open_store) as node:
        await observe_all(node, None, "a")
        stores[0].lose_next = True
        with pytest.raises(CommitUnknown):
            await node.service.observe(None, seen("b"))
        assert await stm(node) == [["a"], ["b"]]
        await observe_all(node, None, "c")
        assert await stm(node) == [["a"], ["b"], ["c"]]


async def test_while_the_store_is_out_of_reach_a_session_in_doubt_reads_as_last_acknowledged() -> None:
    """In doubt and without a store: reads answer what was acknowledged, marked degraded; writes are refused."""
    disk = MemoryDisk()
    async with running(disk, sessions=["s", "t"]) as node:
        await observe_all(node, "s", "a", "b")
        disk.fail_next_commit(CommitUnknown("lost"), written=True)
        await gather(node.service.learn("s"))
        disk.unavailable = True
        reply = await node.reads.stm("s")
        assert (reply["degraded"], reply["length"]) == (True, 2)
        assert (await node.reads.predictions("s"))["degraded"] is True
        with pytest.raises(StoreUnavailable):
            await node.service.observe("s", seen("c"))
        with pytest.raises(StoreUnavailable):
            await node.service.observe("t", seen("c"))
        disk.unavailable = False
        reply = await node.reads.stm("s")
        assert (reply.get("degraded"), reply["length"]) == (None, 0)
        assert await frequency(node, AB) == 1
        assert (await node.service.observe("t", seen("c")))["time"] == 1


async def test_a_doubt_about_the_doubt_is_no_answer() -> None:
    """When the settling commit itself is lost, the call is refused with nothing written, and the next one settles."""
    disk = MemoryDisk()
    async with running(disk) as node:
        await observe_all(node, None, "a")
        for _ in range(2):
            disk.fail_next_commit(CommitUnknown("lost"), written=True)
        await gather(node.service.observe(None, seen("b")))
        with pytest.raises(StoreUnavailable):
            await node.service.observe(None, seen("c"))
        assert await stm(node) == [["a"], ["b"]]


async def test_an_error_that_nobody_foresaw_is_an_unknown_outcome() -> None:
    """A driver's unexpected exception in a commit is treated like a lost acknowledgement."""

    class Broken(MemoryStore):
        async def commit(self, batch: Batch, *, epoch: int) -> None:
            await super().commit(batch, epoch=epoch)
            if any(write.after and write.after.state.stm[-1:] == (("boom",),) for write in batch.sessions):
                raise RuntimeError("not in the protocol")

    disk = MemoryDisk()
    async with running(disk, open_store=lambda processor_id: Broken(disk, processor_id)) as node:
        with pytest.raises(CommitUnknown):
            await node.service.observe(None, seen("boom"))
        assert await stm(node) == [["boom"]]


async def test_what_cannot_be_read_again_is_refused_until_it_can() -> None:
    """When loading fails in a way that nobody foresaw, calls are refused, and served again once it succeeds."""
    broken: list[str] = []

    class Unreadable(MemoryStore):
        def load_patterns(self) -> AsyncIterator[Pattern]:
            if broken:
                raise RuntimeError(broken.pop())
            return super().load_patterns()

    disk = MemoryDisk()
    async with running(disk, open_store=lambda processor_id: Unreadable(disk, processor_id)) as node:
        await observe_all(node, None, "a", "b")
        disk.fail_next_commit(CommitUnknown("lost"), written=True)
        await gather(node.service.learn(None))
        broken += ["not in the protocol"] * 2
        for call in (node.service.observe(None, seen("c")), node.service.learn(None)):
            with pytest.raises(StoreUnavailable):
                await call
        assert await frequency(node, AB) == 1
        await observe_all(node, None, "c")
        assert await stm(node) == [["c"]]


async def test_opening_and_closing_in_doubt() -> None:
    """An opening or a closing of unknown outcome is repeated until it is acknowledged, and then it is so."""
    disk = MemoryDisk()
    async with running(disk) as node:
        for written in (True, False):
            disk.fail_next_commit(CommitUnknown("lost"), written=written)
            with pytest.raises(CommitUnknown):
                await node.service.open_session("s", incarnation="1", overrides={})
            view = await node.service.open_session("s", incarnation="1", overrides={})
            assert view.created is not written
            disk.fail_next_commit(CommitUnknown("lost"), written=written)
            with pytest.raises(CommitUnknown):
                await node.service.close_session("s", incarnation="1")
            await node.service.close_session("s", incarnation="1")
            assert list(node.service.session_ids) == []


async def test_readers_and_calls_settle_a_doubt_once() -> None:
    """However many ask at once, the session is loaded once."""
    loads: list[str] = []

    class Counting(MemoryStore):
        async def load_session(self, session_id: str) -> SessionRecord | None:
            loads.append(session_id)
            return await super().load_session(session_id)

    disk = MemoryDisk()
    async with running(disk, open_store=lambda processor_id: Counting(disk, processor_id)) as node:
        await observe_all(node, None, "a")
        disk.fail_next_commit(CommitUnknown("lost"))
        await gather(node.service.observe(None, seen("b")))
        results = await asyncio.gather(
            *(node.reads.stm(None) for _ in range(5)), *(node.service.observe(None, seen("c")) for _ in range(5))
        )
        assert len(results) == 10
        assert loads == ["default"]


async def test_a_processor_that_is_loaded_anew_knows_all() -> None:
    """Sessions are loaded when first asked for; until the store is there they are 503, not unknown."""
    disk = MemoryDisk()
    async with running(disk, sessions=["s"]) as node:
        await observe_all(node, "s", "a")
    async with running(disk) as node:
        assert list(node.service.session_ids) == ["s"]
        disk.unavailable = True
        with pytest.raises(StoreUnavailable):
            await node.reads.stm("s")
        disk.unavailable = False
        assert await stm(node, "s") == [["a"]]
    assert disk.processor(PROCESSOR).epoch == 2


async def test_what_is_learned_behind_a_doubt_counts_on_top_of_it() -> None:
    """A learn that was written, though nobody heard so, and another session's of the same pattern count twice."""
    disk = MemoryDisk()
    async with running(disk, sessions=["one", "two"]) as node:
        for name in ("one", "two"):
            await observe_all(node, name, "a", "b")
        disk.fail_next_commit(CommitUnknown("lost"), written=True)
        results = await gather(node.service.learn("one"))
        assert isinstance(results[0], CommitUnknown)
        await node.service.learn("two")
        assert await frequency(node, AB) == 2
        assert (await node.reads.status("one"))["patterns"] == 1


async def test_no_call_is_decided_on_an_ltm_in_doubt() -> None:
    """Neighbours are looked for among the vectors that the store has, not among those of before the doubt."""
    disk = MemoryDisk()
    async with running(disk, sessions=["one", "two"]) as node:
        await node.service.update_genes("two", {"vector_neighbors": 1})
        await node.service.observe("one", seen("a", vectors=[[1.0, 2.0]]))
        disk.fail_next_commit(CommitUnknown("lost"), written=True)
        await gather(node.service.learn("one"))
        await node.service.observe("two", seen(vectors=[[1.0, 2.5]]))
        assert [len(event) for event in await stm(node, "two")] == [2]


async def test_the_status_of_an_ltm_in_doubt_is_marked() -> None:
    """The number of patterns is read again after a doubt; while it cannot be, the status is marked degraded."""
    disk = MemoryDisk()
    async with running(disk, sessions=["one", "two"]) as node:
        await observe_all(node, "one", "a", "b")
        disk.fail_next_commit(CommitUnknown("lost"), written=True)
        await gather(node.service.learn("one"))
        disk.unavailable = True
        reply = await node.reads.status("two")
        assert (reply["patterns"], reply.get("degraded")) == (0, True)
        disk.unavailable = False
        reply = await node.reads.status("two")
        assert (reply["patterns"], reply.get("degraded")) == (1, None)
