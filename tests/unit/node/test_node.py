"""A node's life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kato_node.domain.config import DEFAULT
from kato_node.domain.errors import ValidationFailed
from kato_node.domain.learn import Pattern
from kato_node.domain.limits import LIMITS
from kato_node.errors import AlreadyBound, WrongNode
from kato_node.node import BindSpec, Node, Opening, boot_clock_s
from kato_node.store.base import StoreUnavailable
from kato_node.store.memory import MemoryDisk, MemoryStore
from tests.unit.node.running import (
    PROCESSOR,
    Clock,
    answers,
    gather,
    new_node,
    observe_all,
    running,
    seen,
    stm,
    stored,
    until,
)

SPEC = BindSpec(processor_id=PROCESSOR)


def opening(session_id: str, **overrides: object) -> Opening:
    """Return a session to open at the bind."""
    return Opening(session_id=session_id, incarnation="1", overrides=tuple(overrides.items()))


async def test_an_unbound_node_serves_nothing() -> None:
    """Before its bind a node refuses operations, and is healthy."""
    node = new_node(MemoryDisk())
    assert node.state == "unbound"
    with pytest.raises(WrongNode):
        _ = node.service
    with pytest.raises(WrongNode):
        _ = node.reads
    health = node.health()
    assert (health["status"], health["processor_id"], health["stm_length"]) == ("healthy", None, 0)
    await node.drain()
    assert (node.state, node.stop_reason, node.stopped.is_set()) == ("draining", "drained", True)
    with pytest.raises(AlreadyBound):
        await node.bind(SPEC)


async def test_a_bind_opens_the_first_session() -> None:
    """A bind takes the next epoch and opens the session with its config; what is shown is effective."""
    disk = MemoryDisk()
    node = new_node(disk, defaults=DEFAULT.updated({"smoothness": 9}))
    view = await node.bind(BindSpec(processor_id=PROCESSOR, own_session=True, session=opening("s", persistence=7)))
    assert view is not None
    assert (view.session_id, view.created) == ("s", True)
    assert view.config == DEFAULT.updated({"smoothness": 9, "persistence": 7})
    assert (node.state, node.service.epoch, node.service.processor_id) == ("bound", 1, PROCESSOR)
    await observe_all(node, None, "a")
    health = node.health()
    assert (health["processor_id"], health["stm_length"]) == (PROCESSOR, 1)
    assert isinstance(health["memory_usage"], int)
    assert health["memory_usage"] > 1_000_000
    await node.drain()
    again = new_node(disk)
    found = await again.bind(BindSpec(processor_id=PROCESSOR, session=opening("s", persistence=9)))
    assert found is not None
    assert (found.created, found.config.persistence, found.stm_length) == (False, 7, 1)
    assert again.service.epoch == 2
    await again.drain()


async def test_a_node_is_bound_once() -> None:
    """Of two binds at once one is refused, and so is any later."""
    node = new_node(MemoryDisk())
    results = await gather(node.bind(SPEC), node.bind(BindSpec(processor_id="other")))
    assert results[0] is None
    assert isinstance(results[1], AlreadyBound)
    with pytest.raises(AlreadyBound):
        await node.bind(SPEC)
    assert node.service.processor_id == PROCESSOR
    await node.drain()


async def test_ended_sessions_are_deleted_at_the_bind() -> None:
    """Sessions that ended while no node was there are gone after the bind, the unknown among them no error."""
    disk = MemoryDisk()
    async with running(disk, sessions=["old", "kept"]):
        pass
    async with running(
        disk, spec=BindSpec(processor_id=PROCESSOR, ended_sessions=(("old", "1"), ("never", "1"), ("kept", "0")))
    ) as node:
        assert list(node.service.session_ids) == ["kept"]
    assert await stored(disk, "old") is None


async def test_a_restart_changes_no_answer() -> None:
    """A node that takes over after a drain gives every answer bit for bit as the one before."""
    disk = MemoryDisk()
    async with running(disk, sessions=["one", "two"]) as node:
        for number in range(40):
            symbols = [f"{number % 7}", f"{number % 5}"]
            fields = {"emotives": {"joy": number / 3, "fear": -number * 0.1}, "metadata": {"n": number, "deep": [{}]}}
            await node.service.observe("one", seen(*symbols, vectors=[[number * 0.1, 1 / (number + 1)]], **fields))
            if number % 4 == 3:
                await node.service.learn("one")
        await node.service.update_genes("two", {"recall_threshold": 0.0, "max_predictions": 5})
        await observe_all(node, "two", "1", "2", "3")
        await node.service.observe("one", seen("1", "2", vectors=[[0.1, 0.5]], emotives={"joy": 0.1}))
        before = {name: await answers(node, name) for name in ("one", "two")}
        assert before["two"]["predictions"]["count"] == 5
    async with running(disk) as node:
        assert repr({name: await answers(node, name) for name in ("one", "two")}) == repr(before)


@pytest.mark.parametrize("fault", ["open", "bind", "load", "session"])
async def test_a_bind_that_fails_leaves_the_node_unbound(fault: str) -> None:
    """Whatever step of a bind fails, the node is unbound again, holds nothing, and can be bound."""
    disk = MemoryDisk()
    broken = [fault]
    closed: list[MemoryStore] = []

    class Failing(MemoryStore):
        async def open(self) -> None:
            await super().open()
            disk.unavailable = broken == ["bind"]
            if broken == ["open"]:
                raise StoreUnavailable("no")

        async def load_patterns(self) -> AsyncIterator[Pattern]:
            if broken == ["load"]:
                raise StoreUnavailable("no")
            async for pattern in super().load_patterns():
                yield pattern

        async def close(self) -> None:
            await super().close()
            closed.append(self)

    tasks = asyncio.all_tasks()
    node = new_node(disk, open_store=lambda processor_id: Failing(disk, processor_id))
    bad = opening("s", persistence=0)
    with pytest.raises((StoreUnavailable, ValidationFailed)):
        await node.bind(BindSpec(processor_id=PROCESSOR, session=bad if fault == "session" else None))
    await until(lambda: asyncio.all_tasks() <= tasks)
    assert node.state == "unbound"
    assert len(closed) == 1
    broken.clear()
    disk.unavailable = False
    await node.bind(SPEC)
    await observe_all(node, None, "a")
    await node.drain()


async def test_a_cancelled_bind_goes_on() -> None:
    """A gateway that does not wait for the answer of its bind finds the node bound."""
    disk = MemoryDisk()
    node = new_node(disk)
    binding = asyncio.ensure_future(node.bind(BindSpec(processor_id=PROCESSOR, session=opening("s"))))
    await asyncio.sleep(0)
    binding.cancel()
    await gather(binding)
    await until(lambda: node.state == "bound")
    assert list(node.service.session_ids) == ["s"]
    await node.drain()


async def test_a_drain_asked_for_while_binding_comes_after_it() -> None:
    """A node told to stop in the middle of its bind finishes the bind, then drains."""
    disk = MemoryDisk()
    node = new_node(disk)
    disk.gate.clear()
    binding = asyncio.ensure_future(node.bind(SPEC))
    await asyncio.sleep(0)
    draining = asyncio.ensure_future(node.drain())
    await asyncio.sleep(0)
    assert node.state == "binding"
    disk.gate.set()
    await binding
    await draining
    assert node.stopped.is_set()


async def test_a_drain_waits_for_what_is_in_flight() -> None:
    """Operations in flight are finished and stored; new ones are refused from the first moment."""
    disk = MemoryDisk()
    async with running(disk) as node:
        service = node.service
        async with node.operation():
            draining = asyncio.ensure_future(node.drain())
            await until(lambda: node.state == "draining")
            with pytest.raises(WrongNode):
                _ = node.service
            await service.observe(None, seen("a"))
            assert not node.stopped.is_set()
        await draining
        await node.drain()
        assert node.stop_reason == "drained"
    record = await stored(disk)
    assert record is not None
    assert record.state.time == 1


async def test_an_idle_node_stops_by_itself_and_a_busy_one_does_not() -> None:
    """With no operation for its time-out a node drains, flushes and is done; one in flight keeps its node."""
    spec = BindSpec(processor_id=PROCESSOR, idle_timeout_s=0.02, session=opening("s"))
    async with running(spec=spec, clock=boot_clock_s) as busy:
        async with busy.operation():
            async with running(spec=spec, clock=boot_clock_s) as idle:
                await asyncio.wait_for(idle.stopped.wait(), timeout=10)
                assert (idle.state, idle.stop_reason) == ("draining", "idle")
            await observe_all(busy, "s", "a")
        await asyncio.wait_for(busy.stopped.wait(), timeout=10)
        assert busy.stop_reason == "idle"


async def test_the_end_of_an_operation_starts_the_time_anew() -> None:
    """However long an operation took, the node is idle only after it."""
    clock = Clock()
    async with running(spec=BindSpec(processor_id=PROCESSOR, idle_timeout_s=0.001), clock=clock) as node:
        async with node.operation():
            async with node.operation():
                clock.now_s += 3600
            await observe_all(node, None, "a")
            assert await stm(node) == [["a"]]
        looks = clock.looks
        await until(lambda: clock.looks > looks)  # the node has looked whether it is idle
        assert node.state == "bound"
        clock.now_s += 1
        await asyncio.wait_for(node.stopped.wait(), timeout=10)
        assert node.stop_reason == "idle"


async def test_a_store_that_fails_to_close_does_not_keep_the_node() -> None:
    """Whatever happens while it lets go, a drained node says that it has stopped."""

    class Stuck(MemoryStore):
        async def close(self) -> None:
            await super().close()
            raise StoreUnavailable("no")

    disk = MemoryDisk()
    async with running(disk, open_store=lambda processor_id: Stuck(disk, processor_id)) as node:
        await node.drain()
        assert node.stopped.is_set()


async def test_a_drain_does_not_wait_for_ever_for_what_is_not_applied() -> None:
    """An operation that never gets to its turn, such as one whose body drips, holds a drain for so long only."""
    disk = MemoryDisk()
    node = Node(
        node_id="node-1",
        open_store=lambda processor_id: MemoryStore(disk, processor_id),
        defaults=DEFAULT,
        limits=LIMITS,
        drain_max_s=0.0,
    )
    await node.bind(SPEC)
    service, reads = node.service, node.reads
    async with node.operation():
        await observe_all(node, None, "a", "b", "c")
        await node.drain()
        with pytest.raises(WrongNode):
            await service.observe(None, seen("late"))
        with pytest.raises(WrongNode):
            await reads.predictions(None)
    record = await stored(disk)
    assert record is not None
    assert record.state.time == 3


async def test_a_node_from_the_pool_is_as_if_it_had_just_been_used() -> None:
    """However long a node waited to be bound, its time to be idle begins at the bind."""
    clock = Clock()
    node = new_node(MemoryDisk(), clock=clock)
    clock.now_s += 3600
    await node.bind(BindSpec(processor_id=PROCESSOR, idle_timeout_s=1800))
    looks = clock.looks
    assert node.idle_s == 0
    await until(lambda: clock.looks > looks + 1)  # the node has looked whether it is idle
    assert node.state == "bound"
    await node.drain()


async def test_an_unbound_node_that_nobody_asks_ends() -> None:
    """A node whose gateway is gone ends by itself; one that is asked stays, and so does one that is bound."""
    clock = Clock()
    asked, bound, unasked = (new_node(MemoryDisk(), clock=clock, unasked_max_s=0.001) for _ in range(3))
    for node in (asked, bound, unasked):
        node.await_bind()
    await bound.bind(SPEC)
    clock.now_s += 3600
    asked.await_bind()
    await asyncio.wait_for(unasked.stopped.wait(), timeout=10)
    assert (unasked.state, unasked.stop_reason) == ("draining", "idle")
    looks = clock.looks
    await until(lambda: clock.looks > looks + 1)  # the one that is asked has looked
    assert (asked.state, bound.state) == ("unbound", "bound")
    await asked.drain()
    await bound.drain()
