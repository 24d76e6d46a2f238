"""A sequence: as if its observations had come one by one, and yet all or none."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from kato_node.domain.config import DEFAULT
from kato_node.domain.errors import ValidationFailed, VectorDimensionMismatch
from kato_node.domain.learn import display_name, pattern_name
from kato_node.domain.limits import Limits
from kato_node.service import Reply, SequenceRequest
from kato_node.store.memory import MemoryDisk
from tests.unit.node.running import PROCESSOR, answers, frequency, observe_all, running, seen, stm, stored


def request(*symbols: str, **flags: bool) -> SequenceRequest:
    """Return a sequence of these symbols, one event each."""
    return SequenceRequest(observations=[seen(symbol, unique_id=f"id {symbol}") for symbol in symbols], **flags)


def name(*symbols: str) -> str:
    """Return the name of the pattern with these symbols, one event each."""
    return display_name(pattern_name(tuple((symbol,) for symbol in symbols)))


def items(reply: Reply) -> list[Reply]:
    """Return the results of a sequence's reply."""
    return cast("list[Reply]", reply["results"])


async def test_a_sequence_is_its_observations_one_by_one() -> None:
    """Everything that can be asked afterwards is as after the single calls, auto-learned patterns included."""
    symbols = "abcdabcxabcd"
    defaults = DEFAULT.updated({"max_pattern_length": 3, "stm_mode": "ROLLING"})
    async with running(defaults=defaults) as one, running(defaults=defaults) as other:
        await one.service.observe(None, seen("0", emotives={"joy": 1.0}, metadata={"tag": [1]}))
        await other.service.observe(None, seen("0", emotives={"joy": 1.0}, metadata={"tag": [1]}))
        singles = [await one.service.observe(None, seen(symbol)) for symbol in symbols]
        reply = await other.service.observe_sequence(
            None, SequenceRequest(observations=[seen(symbol) for symbol in symbols])
        )
        assert repr(await answers(one)) == repr(await answers(other))
        for fields in ("time", "stm_length", "auto_learned_pattern", "status"):
            assert [single[fields] for single in singles] == [item[fields] for item in items(reply)]
        assert [item["sequence_position"] for item in items(reply)] == list(range(12))
        names = [single["auto_learned_pattern"] for single in singles]
        assert reply["auto_learned_patterns"] == [learned for learned in names if learned]
        assert (await one.reads.metrics(None)) == (await other.reads.metrics(None))


async def test_a_sequence_replies_as_published() -> None:
    """The reply counts what was done and names what was learned."""
    async with running() as node:
        await observe_all(node, None, "x")
        reply = await node.service.observe_sequence(None, request("a", "b", learn_at_end=True))
        assert reply == {
            "status": "completed",
            "processor_id": PROCESSOR,
            "session_id": "default",
            "observations_processed": 2,
            "initial_stm_length": 1,
            "final_stm_length": 0,
            "results": [
                {
                    "status": "okay",
                    "sequence_position": position,
                    "stm_length": position + 2,
                    "time": position + 2,
                    "unique_id": f"id {symbol}",
                    "auto_learned_pattern": None,
                }
                for position, symbol in enumerate("ab")
            ],
            "auto_learned_patterns": [],
            "final_learned_pattern": name("x", "a", "b"),
            "isolated": False,
        }
        empty = await node.service.observe_sequence(None, request())
        assert (empty["observations_processed"], empty["results"]) == (0, [])


async def test_learning_after_each() -> None:
    """Each observation is learned by itself; one with too little to learn names nothing."""
    async with running() as node:
        moments = [seen("a", "b"), seen("c"), seen("a", "b")]
        reply = await node.service.observe_sequence(
            None, SequenceRequest(observations=moments, learn_after_each=True, learn_at_end=True)
        )
        learned = display_name(pattern_name((("a", "b"),)))
        assert reply["auto_learned_patterns"] == [learned, learned]
        assert (reply["final_learned_pattern"], reply["final_stm_length"]) == ("", 0)
        assert await frequency(node, learned) == 2


async def test_clearing_between_isolates_the_observations() -> None:
    """The STM is cleared before each but the first, which still meets what was there."""
    async with running() as node:
        await observe_all(node, None, "x", "y")
        reply = await node.service.observe_sequence(None, request("a", "b", clear_stm_between=True))
        assert [(item["time"], item["stm_length"]) for item in items(reply)] == [(3, 3), (1, 1)]
        assert reply["isolated"] is True
        assert await stm(node) == [["b"]]


async def test_a_bad_item_fails_the_whole_call() -> None:
    """One bad observation, and nothing of the sequence is applied; the error names the item and the field."""
    disk = MemoryDisk()
    async with running(disk) as node:
        await observe_all(node, None, "x")
        before, commits = await answers(node), len(disk.commits)
        bad = [seen("a", "b"), seen("c", emotives={"joy": float("nan")})]
        with pytest.raises(ValidationFailed) as refused:
            await node.service.observe_sequence(None, SequenceRequest(observations=bad, learn_after_each=True))
        assert refused.value.errors[0][0] == "observations.1.emotives.joy"
        mismatched = [seen(vectors=[[1.0]]), seen(vectors=[[1.0, 2.0]])]
        with pytest.raises(VectorDimensionMismatch):
            await node.service.observe_sequence(None, SequenceRequest(observations=mismatched))
        assert repr(await answers(node)) == repr(before)
        assert len(disk.commits) == commits


async def test_an_item_sees_what_the_sequence_learned_before() -> None:
    """A vector learned on the way fixes the dimension for what follows in the same call, and is a neighbour there."""
    async with running(defaults=DEFAULT.updated({"vector_neighbors": 1})) as node:
        first, second = seen("a", vectors=[[0.0, 0.0]]), seen("a", vectors=[[0.0, 1.0]])
        reply = await node.service.observe_sequence(
            None, SequenceRequest(observations=[first, second], learn_after_each=True)
        )
        patterns = [await node.reads.pattern(learned) for learned in cast("list[str]", reply["auto_learned_patterns"])]
        events = [cast("dict[str, tuple[tuple[str, ...], ...]]", one["pattern"])["pattern_data"] for one in patterns]
        assert [len(event) for (event,) in events] == [2, 3]
        assert set(events[0][0]) < set(events[1][0])
        longer = [seen("a", vectors=[[1.0, 2.0]]), seen("b", vectors=[[1.0, 2.0, 3.0]])]
        with pytest.raises(VectorDimensionMismatch):
            await node.service.observe_sequence(None, SequenceRequest(observations=longer, learn_after_each=True))


async def test_a_sequence_is_one_transaction() -> None:
    """However long, a sequence is one commit."""
    disk = MemoryDisk()
    async with running(disk) as node:
        done = len(disk.commits)
        moments = [seen(f"{number}", "x") for number in range(300)]
        await node.service.observe_sequence(None, SequenceRequest(observations=moments, learn_after_each=True))
        assert len(disk.commits) == done + 1
        assert (await node.reads.status(None))["patterns"] == 300
    record = await stored(disk)
    assert record is not None
    assert record.state.time == 300


async def test_a_long_sequence_holds_up_no_other_session() -> None:
    """While one session computes a long sequence, another is served."""
    async with running(sessions=["long", "short"]) as node:
        moments = [seen(f"{number}") for number in range(2_000)]
        long = asyncio.create_task(node.service.observe_sequence("long", SequenceRequest(observations=moments)))
        await asyncio.sleep(0)
        await node.service.observe("short", seen("a"))
        assert not long.done()
        await long


async def test_a_sequence_has_its_limit() -> None:
    """More observations than the limit are refused as a whole."""
    async with running(limits=Limits(observations_max=2)) as node:
        with pytest.raises(ValidationFailed, match="observations"):
            await node.service.observe_sequence(None, request("a", "b", "c"))
        assert await stm(node) == []
