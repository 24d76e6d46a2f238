"""What waits while the store writes goes into the next transactions, each of which is small enough to be in time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from kato_node import writer
from kato_node.domain.learn import display_name, pattern_name
from kato_node.sequences import SequenceRequest
from kato_node.store.base import StoreUnavailable
from kato_node.store.memory import MemoryDisk
from tests.unit.node.running import frequency, gather, key, running, seen, stm

NAMES = [f"s{number}" for number in range(7)]
SYMBOL = "x" * 600
XX = display_name(pattern_name(((SYMBOL,), (SYMBOL,))))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> MemoryDisk:
    """A store of whose transactions each has room for two of these observations."""
    monkeypatch.setattr(writer, "BATCH_BYTES_MAX", 1_000)
    return MemoryDisk()


def written(disk: MemoryDisk) -> Sequence[list[str]]:
    """Return the sessions of each transaction."""
    return [[write.session_id for write in batch.sessions] for batch in disk.commits]


async def test_a_transaction_is_closed_when_it_holds_enough(disk: MemoryDisk) -> None:
    """Changes that wait together are written in their order, two at a time, and every call is answered."""
    async with running(disk, sessions=NAMES) as node:
        disk.commits.clear()
        replies = await asyncio.gather(*(node.service.observe(name, seen(SYMBOL)) for name in NAMES))
        assert [reply["stm_length"] for reply in replies] == [1] * 7
        assert written(disk) == [NAMES[:2], NAMES[2:4], NAMES[4:6], NAMES[6:]]
        assert [await stm(node, name) for name in NAMES] == [[[SYMBOL]]] * 7


async def test_small_changes_share_a_transaction(disk: MemoryDisk) -> None:
    """However large the sessions are that they change, what counts is what is new."""
    async with running(disk, sessions=NAMES) as node:
        await gather(*(node.service.observe(name, seen(SYMBOL)) for name in NAMES))
        disk.commits.clear()
        await gather(*(node.service.observe(name, seen("y")) for name in NAMES))
        assert written(disk) == [NAMES]


async def test_emotives_and_replies_count(disk: MemoryDisk) -> None:
    """What a session carries beside its STM, and what it remembers, is written, too."""
    async with running(disk, sessions=NAMES) as node:
        disk.commits.clear()
        long = SequenceRequest(observations=[seen("a")] * 20)
        emotives = {f"{number:0100}": 1.0 for number in range(12)}
        await gather(*(node.service.observe(name, seen("a", emotives=emotives)) for name in NAMES[:2]))
        assert written(disk) == [NAMES[:1], NAMES[1:2]]
        disk.commits.clear()
        await gather(*(node.service.observe_sequence(name, long, retry=key("1")) for name in NAMES[:2]))
        assert written(disk) == [NAMES[:1], NAMES[1:2]]


async def test_patterns_count_and_find_those_of_the_transaction_before(disk: MemoryDisk) -> None:
    """Sessions that learn the same, each in a transaction of its own, count it once each."""
    async with running(disk, sessions=NAMES) as node:
        for _ in range(2):
            await gather(*(node.service.observe(name, seen(SYMBOL)) for name in NAMES))
        disk.commits.clear()
        await gather(*(node.service.learn(name) for name in NAMES))
        assert written(disk) == [[name] for name in NAMES]
        assert await frequency(node, XX) == len(NAMES)


async def test_a_transaction_that_fails_takes_no_other_along(disk: MemoryDisk) -> None:
    """Only those whose transaction was not written are refused."""
    async with running(disk, sessions=NAMES) as node:
        disk.fail_next_commit(StoreUnavailable("full"))
        results = await gather(*(node.service.observe(name, seen(SYMBOL)) for name in NAMES))
        assert [isinstance(result, StoreUnavailable) for result in results] == [True] * 2 + [False] * 5
        assert [await stm(node, name) for name in NAMES] == [[]] * 2 + [[[SYMBOL]]] * 5
