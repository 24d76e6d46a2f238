"""Edits of patterns, as the writer decides them."""

from __future__ import annotations

from typing import cast

import pytest

from kato_node.domain.edit import validated_edit
from kato_node.domain.errors import PatternNotFound
from kato_node.node import Node
from kato_node.replies import Reply
from kato_node.store.base import CommitUnknown, StoreUnavailable
from kato_node.store.memory import MemoryDisk
from tests.unit.node.running import answers, frequency, gather, key, observe_all, running, seen, stm


async def learned(node: Node, *symbols: str) -> str:
    """Learn a pattern of these symbols, an event each; return its name."""
    await observe_all(node, None, *symbols)
    return cast("str", (await node.service.learn(None))["pattern_name"])


async def test_an_edit_that_is_refused_takes_nothing_with_it() -> None:
    """Of changes in one transaction, those of other sessions stand where one is refused."""
    async with running(sessions=("one", "two")) as node:
        name = await learned(node, "a", "b")
        results = await gather(
            node.service.observe("one", seen("x")),
            node.patterns.delete("two", "unknown"),
            node.patterns.update("one", name, validated_edit({"frequency": 4})),
            node.service.observe("two", seen("y")),
        )
        assert [type(result) for result in results] == [dict, PatternNotFound, dict, dict]
        assert (await stm(node, "one"), await stm(node, "two")) == ([["x"]], [["y"]])
        assert await frequency(node, name) == 4


async def test_an_edit_tells_what_it_left() -> None:
    """Edits and learns of several sessions, decided in one transaction, each see those before, and say so."""
    async with running(sessions=("one", "two")) as node:
        name = await learned(node, "a", "b")
        await observe_all(node, "one", "a", "b")
        results = await gather(
            node.patterns.update("two", name, validated_edit({"frequency": 10})),
            node.service.learn("one"),
            node.patterns.update(None, name, validated_edit({"metadata": {"k": ["v"]}})),
        )
        last = cast("Reply", cast("Reply", results[2])["pattern"])
        assert (last["frequency"], await frequency(node, name)) == (11, 11)


async def test_a_deletion_is_repeated_by_its_key() -> None:
    """The key's first reply is given again after the pattern is gone, by the next node too."""
    disk = MemoryDisk()
    async with running(disk) as node:
        name = await learned(node, "a", "b")
        first = await node.patterns.delete(None, name, retry=key("k"))
        assert await node.patterns.delete(None, name, retry=key("k")) == first
    async with running(disk) as node:
        assert await node.patterns.delete(None, name, retry=key("k")) == first
        with pytest.raises(PatternNotFound):
            await node.patterns.delete(None, name)


@pytest.mark.parametrize("written", [False, True])
async def test_an_edit_in_doubt_is_settled_by_the_store(*, written: bool) -> None:
    """After a commit without an answer, memory is what the store has, and the key says what became of the call."""
    disk = MemoryDisk()
    async with running(disk) as node:
        name = await learned(node, "a", "b")
        disk.fail_next_commit(CommitUnknown("lost"), written=written)
        wanted = validated_edit({"frequency": 7})
        with pytest.raises(CommitUnknown):
            await node.patterns.update(None, name, wanted, retry=key("k"))
        assert await frequency(node, name) == (7 if written else 1)
        again = await node.patterns.update(None, name, wanted, retry=key("k"))
        assert cast("Reply", again["pattern"])["frequency"] == 7
        assert await frequency(node, name) == 7


async def test_an_edit_that_is_not_written_changes_nothing() -> None:
    """With the store out of reach an edit and a deletion fail, and every answer is as before."""
    disk = MemoryDisk()
    async with running(disk) as node:
        name = await learned(node, "a", "b")
        before = await answers(node)
        for call in (
            node.patterns.update(None, name, validated_edit({"frequency": 7})),
            node.patterns.delete(None, name),
        ):
            disk.fail_next_commit(StoreUnavailable("gone"))
            with pytest.raises(StoreUnavailable):
                await call
        assert await answers(node) == before
        assert await frequency(node, name) == 1
