"""What a store on MongoDB promises, seen from the server's side: durability, versions, and documents that fit."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from functools import cache

import bson
import pytest
from pymongo import ReadPreference

from kato_node.domain.learn import Pattern
from kato_node.domain.limits import LIMITS
from kato_node.domain.ltm import LtmChange, pattern_bytes
from kato_node.domain.state import EMPTY, Percept, SessionState
from kato_node.store import mongo_client
from kato_node.store.base import StoreUnavailable
from tests.conformance.node.stores import batch, operation, record, write
from tests.integration.node.mongo_nodes import Commands, bound_node, commands, open_store
from tests.mongo import Client
from tests.unit.node.running import observe_all

__all__ = ["commands"]

STRONG = {"w": "majority", "j": True, "wtimeout": 4_000}
MAJORITY = {"level": "majority"}
WEAK = (
    "w=0&journal=false&wTimeoutMS=1&readConcernLevel=local&readPreference=secondaryPreferred&retryWrites=false"
    "&retryReads=false&timeoutMS=60000&maxPoolSize=1"
)
WRITES = {"insert", "update", "delete", "findAndModify", "commitTransaction", "abortTransaction", "create"}
READS = {"find", "aggregate", "count", "distinct"}
DOCUMENT_BYTES_MAX = 16 * 1024 * 1024


@pytest.mark.parametrize("options", ["", WEAK])
async def test_write_concern_majority(commands: Commands, mongo_url: str, mongo_database: str, options: str) -> None:
    """Each write and each commit waits for a majority and the journal, with a time-out, whatever the URL's options say;
    each read sees only what a majority has, or is of a transaction that does.
    """
    url = f"{mongo_url}{'&' if '?' in mongo_url else '?'}{options}" if options else mongo_url
    commands.seen.clear()
    async with bound_node(url, mongo_database) as node:
        await observe_all(node, None, "a", "b")
        await node.service.learn(None)
        await node.service.clear_all(None)
    names = {name for name, _ in commands.seen}
    assert names >= {"findAndModify", "update", "commitTransaction", "find"}
    for name, command in commands.seen:
        in_transaction = command.get("autocommit") is False
        if name in WRITES and (not in_transaction or name.endswith("Transaction")):
            assert command["writeConcern"] == STRONG, name
        if command.get("startTransaction") or (name in READS and not in_transaction):
            assert command["readConcern"]["level"] == "majority", name
        if name == "commitTransaction":
            assert in_transaction


async def test_a_node_reads_what_it_wrote_of_whatever_server(
    commands: Commands, mongo_url: str, mongo_database: str
) -> None:
    """Once it has taken a processor, every read comes after that and after its commits, on a new primary, too."""
    async with bound_node(mongo_url, mongo_database) as node:
        await observe_all(node, None, "a", "b")
        await node.service.learn(None)
    commands.seen.clear()
    async with bound_node(mongo_url, mongo_database) as node:
        await observe_all(node, None, "a")
    taken = [name for name, _ in commands.seen].index("findAndModify")
    reads = [command for name, command in commands.seen[taken:] if name in READS and command.get("find") != "garbage"]
    reads = [command for command in reads if "autocommit" not in command]
    assert {command["find"] for command in reads} >= {"patterns", "vectors", "sessions", "session_rows"}
    assert all("afterClusterTime" in command["readConcern"] for command in reads)


async def test_no_option_of_the_url_weakens_a_node() -> None:
    """Whatever the URL asks for, a node writes for good, reads what most members have, and never waits for ever."""
    heartbeats = mongo_client.Heartbeats()
    client = mongo_client.connected(f"mongodb://127.0.0.1:1/?{WEAK}&socketTimeoutMS=0&minPoolSize=1", heartbeats)
    assert client.write_concern.document == STRONG
    assert client.read_concern.document == MAJORITY
    assert client.read_preference == ReadPreference.PRIMARY
    assert (client.options.retry_writes, client.options.retry_reads, client.options.timeout) == (True, True, None)
    pool = client.options.pool_options
    assert (pool.socket_timeout, pool.connect_timeout, pool.wait_queue_timeout) == (5.0, 2.0, 5.0)
    assert (pool.min_pool_size, pool.max_pool_size) == (0, 50)
    await client.close()


async def test_many_nodes_may_be_the_first_of_a_processor(mongo_url: str, mongo_database: str) -> None:
    """Bound by many at once, a processor that nobody had before is taken by each of them, and is the last one's."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_store(mongo_url, mongo_database)) for _ in range(8)]
        epochs = [record.epoch for record in await asyncio.gather(*(store.bind() for store in stores))]
        assert len(set(epochs)) == len(stores)
        assert await stores[0].read_epoch() == max(epochs)


async def test_every_document_has_its_schema_version(mongo_url: str, mongo_database: str, mongo_admin: Client) -> None:
    """Whatever is stored says by which schema; what a newer version wrote is refused with what to do."""
    database = mongo_admin[mongo_database]
    async with bound_node(mongo_url, mongo_database) as node:
        await observe_all(node, None, "a", "b")
        await node.service.learn(None)
    names = set(database.list_collection_names()) - {"garbage"}
    assert {document["v"] for name in names for document in database[name].find()} == {1}
    for name in ("patterns", "sessions", "processors"):
        database[name].update_many({}, {"$set": {"v": 2}})
        async with open_store(mongo_url, mongo_database) as store:
            with pytest.raises(StoreUnavailable, match="schema version 2; this node knows 1"):
                await {
                    "patterns": lambda: anext(store.load_patterns()),
                    "sessions": lambda: store.load_session("default"),
                    "processors": store.bind,
                }[name]()


@cache
def wild(count: int, alphabet: str, *, length: int = LIMITS.symbol_bytes_max) -> tuple[str, ...]:
    """Return symbols of random characters, the same each time."""
    chance = random.Random(count)
    return tuple("".join(chance.choices(alphabet, k=length)) for _ in range(count))


CONTROLS = "".join(map(chr, range(1, 8)))  # JSON takes six bytes for each
EVENTS = {
    "controls": (wild(127, CONTROLS),),
    "quotes": (wild(127, '"\\'),),
    "anything": (wild(127, "".join(map(chr, range(128)))),),
    "wide": (wild(127, "".join(map(chr, range(0x10000, 0x10400))), length=LIMITS.symbol_bytes_max // 4),),
    "short": tuple((f"{number % 10}",) * 10_000 for number in range(209)),
}


@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS)
async def test_the_largest_pattern_fits(
    mongo_url: str, mongo_database: str, mongo_admin: Client, events: tuple[tuple[str, ...], ...]
) -> None:
    """A pattern as large as its limit, of whatever takes most room, is stored in one document, and comes back."""
    pattern = Pattern(name="0f", events=events, frequency=1, metadata={})
    assert 0.95 * LIMITS.pattern_bytes_max < pattern_bytes(pattern) <= LIMITS.pattern_bytes_max
    async with open_store(mongo_url, mongo_database) as store:
        await store.bind()
        await store.commit(batch(ltm=(LtmChange(put=(pattern,)),)), epoch=1)
        assert [found async for found in store.load_patterns()] == [pattern]
    assert largest_document(mongo_admin, mongo_database) < DOCUMENT_BYTES_MAX * 0.9


async def test_the_largest_session_fits(mongo_url: str, mongo_database: str, mongo_admin: Client) -> None:
    """Head, rows and remembered replies of a session at its limits fit into their documents, and come back."""
    half = wild(63, CONTROLS)
    text = "".join(wild(127, CONTROLS))
    state = SessionState(
        stm=(half,),
        event_times=(1,),
        time=1,
        emotives=((1, dict.fromkeys(wild(4, CONTROLS), 1000000000000000.0)),),
        metadata=((1, {"text": text[: LIMITS.pattern_bytes_max // 6]}),),
        percept=Percept(
            strings=wild(127, CONTROLS), vectors=((1e15,) * LIMITS.vector_length_max,) * 16, emotives={}, metadata={}
        ),
        vectors=((1e15 / 3,) * LIMITS.vector_length_max,),
    )
    reply = json.dumps({"text": text})
    full = record(state=state, operations=(operation(1, reply),))
    async with open_store(mongo_url, mongo_database) as store:
        await store.bind()
        await store.commit(batch(write(None, full)), epoch=1)
        found = await store.load_session("s")
        assert found is not None
        assert found.state == state
        assert await store.load_reply("s", 1) == reply
    assert largest_document(mongo_admin, mongo_database) < DOCUMENT_BYTES_MAX * 0.9


async def test_many_large_sessions_are_one_transaction(mongo_url: str, mongo_database: str) -> None:
    """A batch of more than one message can hold is still stored as a whole."""
    symbols = wild(63, "abcdefgh")
    state = SessionState(stm=(symbols,), event_times=(1,), time=1)
    records = [record(f"s{number}", state) for number in range(13)]
    async with open_store(mongo_url, mongo_database) as store:
        await store.bind()
        await store.commit(batch(*(write(None, one) for one in records)), epoch=1)
        assert len(await store.session_ids()) == len(records)
        assert await store.load_session("s12") == records[12]
        await store.commit(batch(*(write(one, None) for one in records)), epoch=1)
        assert list(await store.session_ids()) == []


async def test_emotives_and_metadata_may_be_named_anything(mongo_url: str, mongo_database: str) -> None:
    """Names that MongoDB's own documents could not have are stored like others."""
    pattern = Pattern(
        name="0f",
        events=(("a",), ("b",)),
        frequency=1,
        emotives=({"nul\0": 1.0, "$set": 2.0},),
        metadata={"a.b\0": ("x",)},
    )
    async with open_store(mongo_url, mongo_database) as store:
        await store.bind()
        await store.commit(batch(write(None, record(state=EMPTY)), ltm=(LtmChange(put=(pattern,)),)), epoch=1)
        assert [found async for found in store.load_patterns()] == [pattern]


def largest_document(admin: Client, database: str) -> int:
    """Return the bytes of the largest document of the database."""
    collections = [admin[database][name] for name in admin[database].list_collection_names()]
    return max(len(bson.encode(document)) for collection in collections for document in collection.find())
