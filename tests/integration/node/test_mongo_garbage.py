"""Clear-all, purge and a session's end take one small transaction each; what they leave is swept up afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import CLEARED, LtmChange
from kato_node.store import mongo_connection
from kato_node.store.mongo import MongoStore
from kato_node.store.mongo_connection import Connection
from tests.conformance.node.stores import RICH, batch, operation, record, write
from tests.integration.node.mongo_nodes import bound_node, open_store
from tests.mongo import Client
from tests.processes import until
from tests.unit.node.running import observe_all

PATTERNS = 1_100  # more than are swept up at once


def learned(count: int) -> LtmChange:
    """Return a change that learns that many patterns, and a vector."""
    patterns = tuple(Pattern(name=f"{n:040x}", events=(("a",), ("b",)), frequency=1, metadata={}) for n in range(count))
    return LtmChange(put=patterns, vectors=(("VCTR|1", (1.0,)),), dimension=1)


def counts(admin: Client, database: str) -> dict[str, int]:
    """Return how many documents each collection has."""
    names = ("sessions", "session_rows", "patterns", "vectors", "garbage")
    return {name: admin[database][name].count_documents({}) for name in names}


async def loaded(store: MongoStore) -> list[str]:
    """Return the names of the stored patterns."""
    return [pattern.name async for pattern in store.load_patterns()]


@pytest.fixture
def unswept(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing is swept up, as if each node were killed at once; `undo` ends that."""
    monkeypatch.setattr(Connection, "sweep", lambda self: None)
    return monkeypatch


async def test_clear_all_is_swept_up(mongo_url: str, mongo_database: str, mongo_admin: Client) -> None:
    """After a clear-all nothing is found at once, what is learned then stays, and the old documents are soon gone."""
    async with open_store(mongo_url, mongo_database) as store:
        epoch = (await store.bind()).epoch
        await store.commit(batch(ltm=(learned(PATTERNS),)), epoch=epoch)
        await store.commit(batch(ltm=(CLEARED, LtmChange(put=learned(1).put))), epoch=epoch)
        assert await loaded(store) == [f"{0:040x}"]
        assert [symbol async for symbol, _ in store.load_vectors()] == []
        await until(lambda: counts(mongo_admin, mongo_database)["garbage"] == 0)
        assert counts(mongo_admin, mongo_database)["patterns"] == 1
        assert await loaded(store) == [f"{0:040x}"]


async def test_clear_all_writes_no_more_for_more_patterns(
    mongo_url: str, mongo_database: str, mongo_admin: Client, unswept: pytest.MonkeyPatch
) -> None:
    """The transaction of a clear-all touches no pattern, so that it takes no longer however many there are."""
    async with open_store(mongo_url, mongo_database) as store:
        epoch = (await store.bind()).epoch
        await store.commit(batch(ltm=(learned(PATTERNS),)), epoch=epoch)
        await store.commit(batch(ltm=(CLEARED,)), epoch=epoch)
        assert await loaded(store) == []
        found = counts(mongo_admin, mongo_database)
        assert (found["patterns"], found["vectors"], found["garbage"]) == (PATTERNS, 1, 1)


async def test_what_a_killed_node_left_is_swept_up_by_any_other(
    mongo_url: str, mongo_database: str, mongo_admin: Client, unswept: pytest.MonkeyPatch
) -> None:
    """Garbage that nobody swept up is found by the next node that starts, whatever its processor."""
    full = record(state=RICH, operations=(operation(1),))
    async with open_store(mongo_url, mongo_database) as store:
        epoch = (await store.bind()).epoch
        await store.commit(batch(write(None, full), ltm=(learned(10),)), epoch=epoch)
        await store.commit(batch(write(full, None), ltm=(CLEARED,)), epoch=epoch)
    assert counts(mongo_admin, mongo_database)["garbage"] == 2
    unswept.undo()
    async with open_store(mongo_url, mongo_database, "another") as other:
        await other.bind()
        await until(lambda: not any(counts(mongo_admin, mongo_database).values()))


async def test_sweeping_that_breaks_off_goes_on_later(
    mongo_url: str, mongo_database: str, mongo_admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a sweep is broken off, what lives is untouched, and the next one finishes."""
    monkeypatch.setattr(mongo_connection, "BATCH_DOCUMENTS", 7)
    for steps in range(0, 200, 20):
        async with open_store(mongo_url, mongo_database) as store:
            epoch = (await store.bind()).epoch
            await store.commit(batch(ltm=(learned(50),)), epoch=epoch)
            await store.commit(batch(ltm=(CLEARED, learned(3))), epoch=epoch)
            for _ in range(steps):
                await asyncio.sleep(0)
    async with open_store(mongo_url, mongo_database) as store:
        await store.bind()
        await until(lambda: counts(mongo_admin, mongo_database)["garbage"] == 0)
        assert len(await loaded(store)) == counts(mongo_admin, mongo_database)["patterns"] == 3


async def test_a_session_that_starts_anew_keeps_nothing_of_the_old(
    mongo_url: str, mongo_database: str, mongo_admin: Client
) -> None:
    """A session that is replaced in place has its own rows only, in a store that knew the old one too."""
    old = record(state=RICH, operations=(operation(1),))
    new = record(incarnation="2", state=replace(RICH, time=10))
    async with open_store(mongo_url, mongo_database) as store:
        epoch = (await store.bind()).epoch
        await store.commit(batch(write(None, old)), epoch=epoch)
        await store.commit(batch(write(None, new)), epoch=epoch)
        after = replace(new, state=replace(new.state, time=11))
        await store.commit(batch(write(new, after)), epoch=epoch)
        assert await store.load_session("s") == after
        await until(lambda: counts(mongo_admin, mongo_database)["garbage"] == 0)
        assert await store.load_session("s") == after
        assert await store.load_reply("s", 1) is None


async def test_a_purge_leaves_no_document(mongo_url: str, mongo_database: str, mongo_admin: Client) -> None:
    """Of a purged processor nothing is left but the record of its epoch."""
    async with bound_node(mongo_url, mongo_database) as node:
        await observe_all(node, None, "a", "b")
        await node.service.learn(None)
    async with bound_node(mongo_url, mongo_database, purge=True):
        await until(lambda: not any(counts(mongo_admin, mongo_database).values()))
