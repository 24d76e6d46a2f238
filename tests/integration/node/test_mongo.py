"""The MongoDB store against a server that misbehaves: the stand-in, with its failure points."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from kato_node.domain.config import DEFAULT
from kato_node.domain.limits import LIMITS
from kato_node.node import BindSpec, Node
from kato_node.store import mongo, mongo_client
from kato_node.store.base import CommitUnknown, StoreFull, StoreUnavailable, StoreUnreachable
from kato_node.store.mongo import MongoStore
from kato_node.store.mongo_connection import Connection
from tests.conformance.node.stores import batch, record, write
from tests.mongo import Client, StandIn
from tests.unit.node.running import answers, frequency, key, observe_all, seen, stm

AB = "76d7efca2e96cb5eeddf4e06ac96a0f424630135"  # [['a'],['b']]


class Server:
    """A database of a server whose commands can be made to fail."""

    def __init__(self, url: str, database: str, admin: Client) -> None:
        self.url = url
        self.database = database
        self._admin = admin

    def fail(self, command: str, *, times: int | None, **how: object) -> None:
        """Let a command fail that many times; None: always."""
        mode = "alwaysOn" if times is None else {"times": times}
        data = {"failCommands": [command], **how}
        self._admin.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})

    def recover(self) -> None:
        """Let nothing fail any more."""
        self._admin.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.fixture
def server(mongo_url: str, mongo_database: str, mongo_admin: Client) -> Iterator[Server]:
    """A database of this test's own; in the end nothing fails any more."""
    found = Server(mongo_url, mongo_database, mongo_admin)
    try:
        found.recover()
    except OperationFailure:
        pytest.skip("this server has no failure points: start it with --setParameter enableTestCommands=1")
    yield found
    found.recover()


@asynccontextmanager
async def bound(server: Server) -> AsyncIterator[Node]:
    """Bind a node to a processor in the server; drain it afterwards."""
    node = Node(
        node_id="n",
        open_store=lambda processor_id: MongoStore(Connection(server.url, server.database), processor_id),
        defaults=DEFAULT,
        limits=LIMITS,
    )
    await node.bind(BindSpec(processor_id="p"))
    try:
        yield node
    finally:
        await node.drain()


async def test_a_restart_changes_no_answer(server: Server) -> None:
    """A node that takes over gives every answer of the one before, bit for bit."""
    async with bound(server) as node:
        fields = {"emotives": {"joy": 0.1 + 0.2}, "metadata": {"tree": {"$set": {"a.b": [1, 1.0, None]}}}}
        for symbol in "aba":
            await node.service.observe(None, seen(symbol, vectors=[[0.1, 1 / 3]], **fields))
        await node.service.learn(None)
        await node.service.observe(None, seen("a", vectors=[[0.1, 1 / 3]], **fields))
        before = await answers(node)
    async with bound(server) as node:
        assert repr(await answers(node)) == repr(before)


async def test_a_commit_whose_acknowledgement_is_lost_is_asked_again(server: Server) -> None:
    """Connections that break in the commit cost nothing but time: it is repeated, and takes effect once."""
    async with bound(server) as node:
        await observe_all(node, None, "a", "b")
        server.fail("commitTransaction", times=3, closeConnection=True)
        await node.service.learn(None)
        assert (await stm(node), await frequency(node, AB)) == ([], 1)


async def test_a_transaction_that_met_a_conflict_is_tried_again(server: Server) -> None:
    """A passing trouble repeats the whole transaction, which then takes effect once."""
    async with bound(server) as node:
        await observe_all(node, None, "a", "b")
        labels = ["TransientTransactionError"]
        for command in ("update", "commitTransaction"):
            server.fail(command, times=2, errorCode=112, errorLabels=labels)
            await node.service.observe(None, seen(command))
        assert await stm(node) == [["a"], ["b"], ["update"], ["commitTransaction"]]


async def test_a_commit_that_nobody_acknowledges_is_unknown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no answer comes in time the caller is told so; what is true is read later, and a retry applies once."""
    async with bound(server) as node:
        await observe_all(node, None, "a", "b")
        server.fail("commitTransaction", times=None, closeConnection=True)
        with monkeypatch.context() as impatient:
            impatient.setattr(mongo, "COMMIT_TIMEOUT_S", 0.5)
            with pytest.raises(CommitUnknown):
                await node.service.learn(None, retry=key("1"))
            reply = await node.reads.stm(None)
        assert (reply["length"], reply["degraded"]) == (2, True)
        server.recover()
        assert (await node.service.learn(None, retry=key("1")))["pattern_name"] == f"PTRN|{AB}"
        assert (await stm(node), await frequency(node, AB)) == ([], 1)


async def test_a_refused_statement_writes_nothing(server: Server) -> None:
    """An error before the commit is known to have changed nothing."""
    async with bound(server) as node:
        await observe_all(node, None, "a")
        server.fail("update", times=1, errorCode=13)  # as a server says that does not know us
        with pytest.raises(StoreUnavailable, match="MONGO_URL"):
            await node.service.observe(None, seen("b"))
        assert await stm(node) == [["a"]]
        await observe_all(node, None, "c")
        assert await stm(node) == [["a"], ["c"]]


async def test_a_full_disk_is_told_apart(server: Server) -> None:
    """A server without room is said to be that; nothing was written, and it goes on once there is some."""
    async with bound(server) as node:
        await observe_all(node, None, "a")
        server.fail("update", times=1, errorCode=14031)
        with pytest.raises(StoreFull):
            await node.service.observe(None, seen("b"))
        await observe_all(node, None, "c")
        assert await stm(node) == [["a"], ["c"]]


@pytest.mark.parametrize("code", [24, 50, 112, 134, 246, 262])
async def test_what_passes_by_itself_is_waited_for(server: Server, code: int) -> None:
    """A server that was just started, or whose locks somebody still holds, is asked again, and does not end a start."""
    server.fail("findAndModify", times=None, errorCode=code)
    with pytest.raises(StoreUnreachable):
        async with bound(server):
            pass
    server.recover()
    async with bound(server) as node:
        await observe_all(node, None, "a")


async def test_a_user_who_may_not_end_sessions_binds(server: Server) -> None:
    """Where the server refuses to end the session of the owner before, a node binds all the same."""
    async with bound(server):
        pass
    server.fail("killSessions", times=None, errorCode=13)
    async with bound(server) as node:
        assert node.service.epoch == 2


async def test_a_server_that_is_gone_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server every call is refused with what to do, and nothing hangs."""
    monkeypatch.setattr(mongo_client, "OPERATION_TIMEOUT_S", 0.3)
    monkeypatch.setattr(mongo, "OPERATION_TIMEOUT_S", 0.3)
    monkeypatch.setattr(mongo, "COMMIT_TIMEOUT_S", 0.3)
    with StandIn(tmp_path) as gone:
        store = MongoStore(Connection(gone.url, "kato"), "p")
        await store.open()
        await store.bind()
        await store.commit(batch(write(None, record())), epoch=1)
    for call in (
        store.read_epoch(),
        store.load_session("s"),
        store.bind(),
        store.commit(batch(write(record(), None)), epoch=1),
    ):
        with pytest.raises(StoreUnavailable, match="check that it runs"):
            await call
    with pytest.raises(StoreUnavailable):
        _ = [pattern async for pattern in store.load_patterns()]
    await store.close()


async def test_a_server_without_transactions_is_refused(tmp_path: Path) -> None:
    """A standalone server cannot keep what a node promises, and is refused when the store is opened."""
    with StandIn(tmp_path, "--standalone") as standalone:
        store = MongoStore(Connection(standalone.url, "kato"), "p")
        with pytest.raises(StoreUnavailable, match="replica set"):
            await store.open()
        await store.close()


async def test_a_transaction_that_its_owner_left_open_locks_nobody_out(server: Server) -> None:
    """A node killed in the middle of a transaction leaves it open; the next owner ends it and binds at once."""
    with MongoClient[dict[str, Any]](server.url) as client, client.start_session() as session:
        processors = client[server.database].processors
        writer = dict(session.session_id)
        fields = {"v": 1, "epoch": 1, "commits": 0, "ltm": "0", "dimension": None, "writer": writer}
        processors.insert_one({"_id": "p", **fields})
        session.start_transaction()
        processors.update_one({"_id": "p"}, {"$inc": {"commits": 1}}, session=session)
        async with bound(server) as node:
            assert node.service.epoch == 2
            await observe_all(node, None, "a")
            with pytest.raises(PyMongoError):
                session.commit_transaction()
            assert await stm(node) == [["a"]]


async def test_a_transaction_of_any_earlier_owner_locks_nobody_out(server: Server) -> None:
    """Whichever owner was killed in a transaction, the first or a later one: the next one binds at once."""
    async with AsyncExitStack() as stack:
        for epoch in range(1, 4):
            killed = Connection(server.url, server.database)
            stack.push_async_callback(killed.close)
            assert (await MongoStore(killed, "p").bind()).epoch == epoch
            await killed.session.start_transaction()
            await killed.database.processors.update_one({"_id": "p"}, {"$inc": {"commits": 1}}, session=killed.session)
        async with bound(server) as node:
            assert node.service.epoch == 4
