"""A store that lets its callers wait: each waits for so long, few of them ask, and it is noticed when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kato_node import guard, sessions
from kato_node.domain.learn import Pattern, display_name, pattern_name
from kato_node.errors import NodeOverloaded
from kato_node.guard import CALL_MAX_S, PAUSE_MAX_S, SLOW_S, GuardedStore
from kato_node.node import BindSpec
from kato_node.ownership import FRESH_S
from kato_node.store import sqlite
from kato_node.store.base import Batch, CommitUnknown, SessionRecord, StoreFull, StoreUnavailable
from kato_node.store.memory import MemoryDisk, MemoryStore
from tests.unit.node.running import (
    PROCESSOR,
    Clock,
    frequency,
    gather,
    key,
    new_node,
    observe_all,
    running,
    seen,
    stm,
    until,
)

AB = display_name(pattern_name((("a",), ("b",))))
NOTHING = Batch(sessions=(), ltm=())


class Slow(MemoryStore):
    """A store that fails as told, after it has let its caller wait; it counts who asks."""

    def __init__(self, disk: MemoryDisk, clock: Clock) -> None:
        super().__init__(disk, PROCESSOR)
        self.asked = 0
        self.waits_s = 0.0
        self.error: Exception | None = None
        self._clock = clock

    async def session_ids(self) -> list[str]:
        """See Store."""
        await self._wait()
        return []

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        await self._wait()

    async def _wait(self) -> None:
        self.asked += 1
        self._clock.now_s += self.waits_s
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


async def guarded() -> tuple[Slow, GuardedStore, Clock]:
    """Return a store, its guard, and their clock."""
    clock = Clock()
    store = Slow(MemoryDisk(), clock)
    await store.open()
    return store, GuardedStore(store, clock_s=clock, chance=lambda: 1.0), clock


async def test_a_store_that_lets_wait_is_asked_now_and_then() -> None:
    """After a call that waited in vain the next ones are refused unasked, until a pause is over that doubles each time;
    then one call asks, and its success lets all the others through again.
    """
    store, guarding, clock = await guarded()
    store.error, store.waits_s = StoreUnavailable("no"), SLOW_S
    pause_s = guard.PAUSE_MIN_S
    for failures in range(1, 10):
        with pytest.raises(StoreUnavailable):
            await guarding.session_ids()
        assert store.asked == failures
        clock.now_s += 0.9 * pause_s
        for refused in await gather(guarding.session_ids(), guarding.session_ids()):
            assert isinstance(refused, StoreUnavailable)
        assert store.asked == failures
        clock.now_s += 0.2 * pause_s
        pause_s = min(2 * pause_s, PAUSE_MAX_S)
    store.error, store.asked = None, 0
    first, *others = await gather(*(guarding.session_ids() for _ in range(5)))
    assert (first, store.asked) == ([], 1)
    assert all(isinstance(other, StoreUnavailable) for other in others)
    assert await gather(*(guarding.session_ids() for _ in range(5))) == [[]] * 5


async def test_many_that_waited_together_are_one_failure() -> None:
    """However many calls wait for one outage, it is tried again as soon as after one."""
    store, guarding, clock = await guarded()
    store.error, store.waits_s = StoreUnavailable("no"), SLOW_S
    await gather(*(guarding.session_ids() for _ in range(50)))
    store.error = None
    clock.now_s += guard.PAUSE_MIN_S
    assert await guarding.session_ids() == []


async def test_what_is_refused_at_once_is_tried_each_time() -> None:
    """A store that answers with an error, such as one whose disk is full, is asked by every call."""
    store, guarding, _ = await guarded()
    store.error = StoreFull("no room")
    for _ in range(10):
        with pytest.raises(StoreFull):
            await guarding.commit(NOTHING, epoch=1)
    assert store.asked == 10


async def test_reads_go_on_where_commits_wait_in_vain() -> None:
    """Reads and commits are judged apart: a store that can be read is."""
    store, guarding, _ = await guarded()
    store.error, store.waits_s = StoreUnavailable("no"), SLOW_S
    with pytest.raises(StoreUnavailable):
        await guarding.commit(NOTHING, epoch=1)
    store.error = None
    with pytest.raises(StoreUnavailable):
        await guarding.commit(NOTHING, epoch=1)
    assert await guarding.session_ids() == []


async def test_the_tries_of_many_nodes_are_spread() -> None:
    """The pause is between half of it and the whole, by chance."""
    for chance, waits in ((0.0, 0.5), (1.0, 1.0)):
        clock = Clock()
        store = Slow(MemoryDisk(), clock)
        guarding = GuardedStore(store, clock_s=clock, chance=lambda chance=chance: chance)  # type: ignore[misc]
        store.error, store.waits_s = StoreUnavailable("no"), SLOW_S
        await gather(guarding.session_ids())
        clock.now_s += waits * guard.PAUSE_MIN_S - 0.01
        await gather(guarding.session_ids())
        assert store.asked == 1
        clock.now_s += 0.02
        await gather(guarding.session_ids())
        assert store.asked == 2


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up a call to the store as soon as it has to wait."""
    monkeypatch.setattr(guard, "CALL_MAX_S", 0.01)
    monkeypatch.setattr(guard, "COMMIT_MAX_S", 0.01)
    monkeypatch.setattr(guard, "EPOCH_MAX_S", 0.01)
    monkeypatch.setattr(guard, "CLOSE_MAX_S", 0.01)


@pytest.mark.usefixtures("hasty")
async def test_a_commit_without_an_answer_is_of_unknown_outcome() -> None:
    """A write that the store does not answer is told as unknown, the next is refused at once, reads are marked; when
    the store is back each session is what was stored, and the repeated call applies once.
    """
    disk, clock = MemoryDisk(), Clock()
    async with running(disk, sessions=["s", "t"], clock=clock) as node:
        await observe_all(node, "s", "a")
        disk.gate.clear()
        with pytest.raises(CommitUnknown):
            await node.service.observe("s", seen("b"), retry=key("1"))
        with pytest.raises(StoreUnavailable):
            await node.service.observe("t", seen("x"))
        clock.now_s += FRESH_S + 1
        reply = await node.reads.stm("s")
        assert (reply["degraded"], reply["length"]) == (True, 1)
        disk.gate.set()
        clock.now_s += PAUSE_MAX_S
        await node.service.observe("s", seen("b"), retry=key("1"))
        assert await stm(node, "s") == [["a"], ["b"]]
        clock.now_s += FRESH_S + 1
        assert (await node.reads.stm("s")).get("degraded") is None


@pytest.mark.usefixtures("hasty")
async def test_a_bind_does_not_wait_for_ever() -> None:
    """A store that does not answer at the bind fails it in time, and the node may be bound later."""
    disk = MemoryDisk()
    node = new_node(disk)
    disk.gate.clear()
    with pytest.raises(StoreUnavailable):
        await node.bind(BindSpec(processor_id=PROCESSOR))
    assert node.state == "unbound"
    disk.gate.set()
    await node.bind(BindSpec(processor_id=PROCESSOR))
    await node.drain()
    assert not node.gave_up


class Hanging(MemoryStore):
    """A store whose calls never return once it hangs, closing included."""

    hangs = False

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        await self._maybe_hang()
        await super().commit(batch, epoch=epoch)

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """See Store."""
        await self._maybe_hang()
        return await super().load_session(session_id)

    async def close(self) -> None:
        """See Store."""
        await self._maybe_hang()
        await super().close()

    async def _maybe_hang(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()


async def test_a_drain_does_not_wait_for_a_store_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain ends in time whatever the store does: calls that wait for it are told what may have become of them."""
    monkeypatch.setattr(guard, "CLOSE_MAX_S", 0.01)
    disk = MemoryDisk()
    stores: list[Hanging] = []
    async with running(disk, sessions=["cold"]) as node:
        await observe_all(node, "cold", "a")

    def open_store(processor_id: str) -> Hanging:
        stores.append(Hanging(disk, processor_id))
        return stores[-1]

    node = new_node(disk, open_store=open_store, drain_max_s=0.01)
    await node.bind(BindSpec(processor_id=PROCESSOR))
    service, reads = node.service, node.reads
    await node.service.open_session("s", incarnation="1", overrides={})
    stores[0].hangs = True

    async def call(work: object) -> object:
        async with node.operation():
            return await work  # type: ignore[misc]

    calls = asyncio.gather(
        call(service.observe("s", seen("a"))),
        call(service.observe("s", seen("b"))),
        call(reads.stm("cold")),
        return_exceptions=True,
    )
    await until(lambda: node.idle_s == 0)
    await asyncio.wait_for(node.drain(), timeout=10)
    kinds = (CommitUnknown, StoreUnavailable, StoreUnavailable)
    assert all(isinstance(outcome, kind) for outcome, kind in zip(await calls, kinds, strict=True))
    assert node.gave_up


async def test_a_drain_while_the_bind_hangs() -> None:
    """A node that is told to end while its bind waits for the store ends in time."""
    disk = MemoryDisk()
    node = new_node(disk, drain_max_s=0.01)
    disk.gate.clear()
    binding = asyncio.create_task(node.bind(BindSpec(processor_id=PROCESSOR)))
    await until(lambda: node.state == "binding")
    await asyncio.wait_for(node.drain(), timeout=10)
    with pytest.raises(StoreUnavailable):
        await binding
    assert node.gave_up


async def test_everything_is_loaded_however_much_there_is() -> None:
    """What is stored comes whole and once through the guard, also where it is a full part or none."""

    class Many(MemoryStore):
        def __init__(self, rows: int) -> None:
            super().__init__(MemoryDisk(), PROCESSOR)
            self._rows = rows

        async def load_vectors(self) -> AsyncIterator[tuple[str, tuple[float, ...]]]:
            for number in range(self._rows):
                yield str(number), (1.0,)

        async def load_patterns(self) -> AsyncIterator[Pattern]:
            patterns: list[Pattern] = []
            for pattern in patterns:
                yield pattern

    for rows in (0, 1, guard._PART_ROWS - 1, guard._PART_ROWS, guard._PART_ROWS + 1, 3 * guard._PART_ROWS):
        guarding = GuardedStore(Many(rows), clock_s=Clock())
        assert [int(name) async for name, _ in guarding.load_vectors()] == list(range(rows))
        assert [pattern async for pattern in guarding.load_patterns()] == []


def test_the_limits_are_behind_the_stores_own() -> None:
    """A store says itself what is the matter, such as a lock that another holds, before its callers are told less."""
    assert sqlite.LOCK_WAIT_S < CALL_MAX_S


async def test_a_node_has_so_many_unanswered_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is slow, calls beyond the node's limit are refused at once with RATE_LIMITED, whatever their
    session; those before are all applied, and then there is room again.
    """
    monkeypatch.setattr(sessions, "NODE_UNANSWERED_MAX", 10)
    disk = MemoryDisk()
    names = [f"s{number}" for number in range(6)]
    async with running(disk, sessions=names) as node:
        disk.gate.clear()
        calls = [asyncio.ensure_future(node.service.observe(name, seen(x))) for x in "ab" for name in names]
        refused = await gather(*calls[10:])
        assert [type(one) for one in refused] == [NodeOverloaded] * 2
        assert (refused[0].code, refused[0].retry_after_s) == ("RATE_LIMITED", 1.0)  # type: ignore[attr-defined]
        disk.gate.set()
        await asyncio.gather(*calls[:10])
        assert [len(await stm(node, name)) for name in names] == [2, 2, 2, 2, 1, 1]
        await observe_all(node, "s5", "b")
        await node.service.learn("s5")
        assert await frequency(node, AB) == 1
