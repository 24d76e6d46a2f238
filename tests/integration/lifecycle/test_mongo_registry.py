"""What only the registry on MongoDB can suffer: rivals, servers that fail, callers that leave in the middle."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar, cast

import pytest
from pymongo import AsyncMongoClient, MongoClient, ReadPreference
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from container_manager.spec import Address
from kato_gateway.domain.errors import InvalidSession, RegistryUnavailable
from kato_gateway.domain.sessions import (
    LIVE_STATUSES,
    EndReason,
    NodeRecord,
    SessionRecord,
    claimed,
    ended,
    new_session,
    pooled,
    slid,
)
from kato_gateway.registry import mongo, mongo_client, mongo_schema
from kato_gateway.registry.base import (
    Change,
    GatewayChange,
    GatewayRecord,
    Leftover,
    LeftoverChange,
    NodeChange,
    OwnerChange,
    PurgeChange,
    SessionChange,
    SessionQuery,
)
from kato_gateway.registry.mongo import MongoRegistry
from kato_gateway.registry.mongo_changes import make, planned
from tests.mongo import StandIn
from tests.processes import PATIENCE_S

T = TypeVar("T")
Client: TypeAlias = MongoClient[dict[str, Any]]
Opened: TypeAlias = Callable[[], "asyncio.Task[MongoRegistry]"]
Fail: TypeAlias = Callable[..., None]

IMPATIENT_S = 1.5


def session(session_id: str, *, on: str | None = None) -> SessionRecord:
    """Return a new session of a processor of its own, or of `on`."""
    return new_session(session_id, incarnation="1", at_s=1.0, ttl_s=60.0, processor_id=on)


def node(node_id: str) -> NodeRecord:
    """Return a node of the pool."""
    begun = NodeRecord(node_id=node_id, spec_hash="h", created_at_s=1.0, changed_at_s=1.0)
    return pooled(begun, internal=Address(host="127.0.0.1", port=20_000), external=None, at_s=2.0)


def creating(record: SessionRecord) -> SessionChange:
    """Return the change that creates it."""
    return SessionChange(before=None, after=record)


@pytest.fixture
async def opened(mongo_url: str, mongo_database: str) -> AsyncIterator[Opened]:
    """Open registries of one database, each as a gateway has it; they are closed in the end."""
    registries: list[MongoRegistry] = []

    async def one() -> MongoRegistry:
        registries.append(MongoRegistry(mongo_url, mongo_database))
        await registries[-1].open()
        return registries[-1]

    yield lambda: asyncio.create_task(one())
    for registry in registries:
        await registry.close()


@pytest.fixture
def fail(mongo_admin: Client) -> Iterator[Fail]:
    """Let a command of gateways fail, so many times (None: always); in the end nothing fails any more."""

    def failing(command: str, *, times: int | None, **how: object) -> None:
        mode = "alwaysOn" if times is None else {"times": times}
        data = {"failCommands": [command], "appName": "kato-gateway", **how}
        mongo_admin.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})

    yield failing
    mongo_admin.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Have a socket that nobody closed told of here."""
    yield
    gc.collect()


class Commands(CommandListener):
    """Every command that was sent."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        """Keep it."""
        self.sent.append(event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Keep nothing."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Keep nothing."""

    def named(self, *names: str) -> list[Mapping[str, Any]]:
        """Return those of these names."""
        return [command for command in self.sent if next(iter(command)) in names]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Watch what registries that are made from now on send."""
    watching = Commands()

    def watched(*args: Any, event_listeners: list[Any], **options: Any) -> AsyncMongoClient[dict[str, Any]]:
        return AsyncMongoClient(*args, event_listeners=[*event_listeners, watching], **options)

    monkeypatch.setattr(mongo_client, "AsyncMongoClient", watched)
    return watching


async def test_of_many_rivals_one_wins_each_document(opened: Opened) -> None:
    """Hundreds of changes through two gateways at once: each document is changed once, by one of them."""
    gateways = [await opened(), await opened()]
    records = [session(f"s{number}") for number in range(60)]
    assert all(await asyncio.gather(*(gateways[0].apply([creating(record)]) for record in records)))
    made = await asyncio.gather(
        *(
            gateways[turn % 2].apply([SessionChange(before=record, after=slid(record, at_s=10.0 + turn))])
            for record in records
            for turn in range(4)
        )
    )
    for number, record in enumerate(records):
        mine = made[4 * number : 4 * number + 4]
        assert sorted(mine) == [False] * 3 + [True]
        assert await gateways[1].session(record.session_id) == slid(record, at_s=10.0 + mine.index(True))


async def test_of_many_rivals_one_brings_its_node(opened: Opened) -> None:
    """Hundreds of claims through two gateways at once: each processor is held by one node, each node holds one."""
    gateways = [await opened(), await opened()]
    members = [node(f"n{number:03}") for number in range(40)]
    await asyncio.gather(*(gateways[0].apply([NodeChange(before=None, after=member)]) for member in members))
    claims = [
        NodeChange(before=member, after=claimed(member, processor_id=f"p{number % 20}", at_s=3.0))
        for number, member in enumerate(members)
    ]
    made = await asyncio.gather(*(gateway.apply([claim]) for claim in claims for gateway in gateways))
    assert sum(made) == 20
    holders = [await gateways[0].node_of(f"p{number}") for number in range(20)]
    assert len({holder.node_id for holder in holders if holder is not None}) == 20


async def test_many_sessions_of_one_processor_are_created_through_two_gateways(opened: Opened) -> None:
    """They get into each other's way, and all are made."""
    gateways = [await opened(), await opened()]
    creates: list[list[Change]] = [
        [creating(session(f"s{number}", on="p")), OwnerChange(processor_id="p", owner="ann")] for number in range(50)
    ]
    made = await asyncio.gather(*(gateways[number % 2].apply(create) for number, create in enumerate(creates)))
    assert all(made)
    query = SessionQuery(processor_id="p", statuses=LIVE_STATUSES)
    assert await gateways[0].count_sessions(query) == 50
    assert await gateways[1].owner("p") == "ann"


@pytest.mark.parametrize("finishes", [True, False])
async def test_a_purge_and_a_create_cannot_miss_each_other(
    opened: Opened, mongo_url: str, mongo_database: str, finishes: bool
) -> None:
    """A purge that meets a create under way waits for what becomes of it, and is refused if the session lives."""
    registry = await opened()
    plan = planned([creating(session("s", on="p"))])
    assert plan is not None
    async with AsyncMongoClient[dict[str, Any]](mongo_url) as other, other.start_session() as transaction:
        await transaction.start_transaction()
        assert await make(other[mongo_database], plan, transaction)
        purge = asyncio.create_task(registry.apply([PurgeChange(processor_id="p", owed=True)]))
        assert await registry.purges() == []
        assert not purge.done()
        await (transaction.commit_transaction() if finishes else transaction.abort_transaction())
        assert await purge is not finishes
    assert await registry.purges() == ([] if finishes else ["p"])


def test_whatever_brings_a_session_to_a_processor_writes_its_document() -> None:
    """Made, revived or moved there, a session is no more missed by a purge than one that is created."""
    live, over = session("s", on="p"), ended(session("s", on="p"), reason=EndReason.DELETED, at_s=2.0)
    used = [
        plan is not None and {name for name, touch in plan.touches.items() if touch.uses}
        for plan in (
            planned([SessionChange(before=before, after=after)])
            for before, after in (
                (None, live),
                (over, live),
                (replace(live, processor_id="q"), live),
                (live, slid(live, at_s=2.0)),
                (live, over),
                (over, None),
            )
        )
    ]
    assert used == [{"p"}, {"p"}, {"p"}, set(), set(), set()]


async def test_a_create_that_meets_a_purge_under_way_comes_after_it(
    opened: Opened, mongo_url: str, mongo_database: str
) -> None:
    """Whoever is told of the new session finds the purge owed, too: its node will make it first."""
    registry = await opened()
    plan = planned([PurgeChange(processor_id="p", owed=True)])
    assert plan is not None
    async with AsyncMongoClient[dict[str, Any]](mongo_url) as other, other.start_session() as transaction:
        await transaction.start_transaction()
        assert await make(other[mongo_database], plan, transaction)
        create = asyncio.create_task(registry.apply([creating(session("s", on="p"))]))
        assert await registry.session("s") is None
        assert not create.done()
        await transaction.commit_transaction()
        assert await create
    assert await registry.purges() == ["p"]


async def test_a_processors_document_goes_with_a_sessions(opened: Opened, mongo_admin: Client) -> None:
    """Nothing is left of processors that nobody owns and to which nothing is owed, once their sessions are deleted."""
    registry = await opened()
    for name, owner in (("s", None), ("t", "ann")):
        changes: list[Change] = [creating(session(name))]
        changes += [OwnerChange(processor_id=name, owner=owner)] if owner else []
        assert await registry.apply(changes)
        over = ended(session(name), reason=EndReason.DELETED, at_s=2.0)
        purge = PurgeChange(processor_id=name, owed=True)
        assert await registry.apply([SessionChange(before=session(name), after=over), purge])
        assert await registry.apply([replace(purge, owed=False)])
        assert await registry.apply([SessionChange(before=over, after=None)])
    assert (await registry.owner("s"), await registry.owner("t")) == (None, "ann")
    database = (await opened()).database
    assert [found["_id"] for found in mongo_admin[database]["gateway_processors"].find()] == ["t"]


async def test_every_write_waits_for_the_majoritys_journals(opened: Opened, commands: Commands) -> None:
    """Each write and each commit says so, with a deadline, and each read asks for what a majority has."""
    registry = await opened()
    record, member = session("s"), node("n")
    over = ended(record, reason=EndReason.DELETED, at_s=2.0)
    leftover = Leftover(processor_id="s", session_id="s", incarnation="1")
    await registry.settled("deployment", "d")
    assert await registry.apply([NodeChange(before=None, after=member)])
    assert await registry.apply([NodeChange(before=member, after=claimed(member, processor_id="s", at_s=3.0))])
    assert await registry.apply([creating(record), OwnerChange(processor_id="s", owner="ann")])
    ending: list[Change] = [
        SessionChange(before=record, after=over),
        LeftoverChange(leftover=leftover, remember=True),
        PurgeChange(processor_id="s", owed=True),
    ]
    assert await registry.apply(ending)
    assert await registry.apply([LeftoverChange(leftover=leftover, remember=False)])
    assert await registry.apply([SessionChange(before=over, after=None)])
    assert await registry.session("s") is None
    writes = commands.named("insert", "update", "delete", "findAndModify", "commitTransaction")
    acknowledged = [command for command in writes if "writeConcern" in command]
    assert {next(iter(command)) for command in acknowledged} == {next(iter(command)) for command in writes}
    for command in writes:
        assert command["maxTimeMS"] <= 1000 * mongo.CALL_TIMEOUT_S
        inside = command.get("autocommit") is False and next(iter(command)) != "commitTransaction"
        assert command.get("writeConcern") == (None if inside else {"w": "majority", "j": True})
    for command in (*commands.named("find"), *(command for command in writes if command.get("startTransaction"))):
        if "autocommit" not in command or command.get("startTransaction"):
            assert command["readConcern"]["level"] == "majority"


async def test_no_option_of_the_address_weakens_a_write() -> None:
    """Whatever the URL asks for, writes wait for most journals, and reads see what most have, at the primary."""
    weak = (
        "w=0&journal=false&wTimeoutMS=1&readConcernLevel=local&readPreference=secondaryPreferred&retryWrites=false"
        "&retryReads=false&timeoutMS=1&minPoolSize=50&maxPoolSize=1"
    )
    connection = mongo_client.Connection(f"mongodb://127.0.0.1:1/?{weak}", "kato", gateway_id="g", timeout_s=4.0)
    client = connection.client
    assert client.write_concern.document == {"w": "majority", "j": True, "wtimeout": 4_000}
    assert client.read_concern.level == "majority"
    assert client.read_preference == ReadPreference.PRIMARY
    assert (client.options.retry_writes, client.options.retry_reads, client.options.timeout) == (True, True, None)
    assert (client.options.pool_options.min_pool_size, client.options.pool_options.max_pool_size) == (0, 50)
    await connection.close()


async def test_what_is_asked_often_is_found_by_an_index(
    opened: Opened, commands: Commands, mongo_admin: Client
) -> None:
    """None of these queries looks at every document."""
    registry = await opened()
    for number in range(20):
        await registry.apply([creating(session(f"s{number}"))])
    commands.sent.clear()
    await registry.session("s1")
    await registry.node("n")
    await registry.node_of("p")
    await registry.owner("p")
    await registry.sessions(SessionQuery(processor_id="s1", statuses=LIVE_STATUSES), limit=9)
    await registry.sessions(SessionQuery(node_id="n"), limit=9)
    await registry.sessions(SessionQuery(ended_by_s=9.0), limit=9)
    await registry.sessions(SessionQuery(owner="ann"), limit=9)
    await registry.sessions(SessionQuery(user_id="ann"), limit=9)
    await registry.purges()
    asked = commands.named("find")
    assert len(asked) == 10
    for command in asked:
        find = {name: command[name] for name in ("find", "filter", "sort", "limit") if name in command}
        plan = mongo_admin[registry.database].command("explain", find)["queryPlanner"]["winningPlan"]
        assert "COLLSCAN" not in str(plan), find


async def test_a_newer_documents_meaning_is_not_guessed(opened: Opened, mongo_admin: Client) -> None:
    """What a newer KATO wrote is refused, and so is opening where one has been; all is left as it is."""
    registry = await opened()
    await registry.apply([creating(session("s"))])
    sessions = mongo_admin[registry.database]["gateway_sessions"]
    sessions.update_one({"_id": "s"}, {"$set": {"schema": 99}})
    with pytest.raises(RegistryUnavailable, match="newer KATO"):
        await registry.session("s")
    mongo_admin[registry.database]["gateway_facts"].update_one({"_id": "/schema"}, {"$set": {"schema": 99}})
    with pytest.raises(RegistryUnavailable, match="newer KATO"):
        await opened()
    assert mongo_admin[registry.database]["gateway_facts"].find_one({"_id": "/schema"}) == {
        "_id": "/schema",
        "schema": 99,
    }


async def test_a_session_too_large_for_a_document_is_its_clients_mistake(opened: Opened) -> None:
    """It is refused with the field's name, nothing of the change is made, and others are served."""
    registry = await opened()
    large = replace(session("large", on="p"), metadata={"note": "\N{SNOWMAN}" * 3_000_000})
    with pytest.raises(InvalidSession, match="metadata"):
        await registry.apply([creating(session("s")), creating(large)])
    assert await registry.session("s") is None
    assert await registry.apply([creating(session("s", on="p"))])


@pytest.mark.parametrize("command", ["update", "findAndModify", "insert", "commitTransaction"])
async def test_a_transaction_that_met_a_conflict_is_made_again(opened: Opened, fail: Fail, command: str) -> None:
    """A passing trouble repeats the whole of it, which then takes effect once."""
    registry = await opened()
    member = node("n")
    await registry.apply([NodeChange(before=None, after=member)])
    fail(command, times=2, errorCode=112, errorLabels=["TransientTransactionError"])
    claim = NodeChange(before=member, after=claimed(member, processor_id="p", at_s=3.0))
    assert await registry.apply([claim, creating(session("s"))])
    assert await registry.node("n") == claim.after
    assert await registry.session("s") == session("s")


@pytest.mark.parametrize("command", ["insert", "commitTransaction"])
async def test_a_reply_that_is_lost_is_asked_for_again(opened: Opened, fail: Fail, command: str) -> None:
    """A connection that breaks in a write or a commit costs time only: it is repeated, and takes effect once."""
    registry = await opened()
    fail(command, times=1, closeConnection=True)
    changes: list[Change] = [NodeChange(before=None, after=node("n"))]
    changes += [creating(session("s"))] if command == "commitTransaction" else []
    assert await registry.apply(changes)
    assert await registry.node("n") == node("n")


@pytest.mark.parametrize("command", ["insert", "commitTransaction"])
async def test_a_change_that_nobody_acknowledges_is_in_doubt(
    mongo_url: str, mongo_database: str, fail: Fail, mongo_admin: Client, command: str
) -> None:
    """The caller is told so in time, with when to come again; what is true is read later, and is all or nothing."""
    registry = MongoRegistry(mongo_url, mongo_database, call_timeout_s=IMPATIENT_S)
    await registry.open()
    fail(command, times=None, closeConnection=True)
    member = NodeChange(before=None, after=node("n"))
    with pytest.raises(RegistryUnavailable, match="try again") as caught:
        await registry.apply([member, creating(session("s"))])
    assert caught.value.retry_after_s is not None
    mongo_admin.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert (await registry.node("n") is None) == (await registry.session("s") is None)
    await registry.close()


@pytest.mark.usefixtures("nothing_left")
async def test_a_server_that_stops_is_found_again(tmp_path: Path) -> None:
    """Calls fail while it is away, and go well once it is back, with everything acknowledged, without reopening."""
    with StandIn(tmp_path) as server:
        registry = MongoRegistry(server.url, "kato", call_timeout_s=IMPATIENT_S)
        await registry.open()
        assert await registry.apply([creating(session("s"))])
        for stop, start in ((server.kill, server.start), (server.freeze, server.thaw)):
            stop()
            with pytest.raises(RegistryUnavailable):
                await registry.apply([creating(session("t"))])
            with pytest.raises(RegistryUnavailable):
                await registry.session("s")
            start()
            assert await eventually(lambda: registry.session("s")) == session("s")
        await eventually(lambda: registry.apply([creating(session("t"))]))  # what hung may have been made
        assert await registry.session("t") == session("t")
        await registry.close()


async def eventually(call: Callable[[], Awaitable[T]]) -> T:
    """Return what the call returns, once the server answers."""
    while True:
        try:
            return await call()
        except RegistryUnavailable:
            continue


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://127.0.0.1:99999/",
        "http://127.0.0.1/",
        "mongodb://",
        "mongodb://ann:se/cret@127.0.0.1/",
        "mongodb://127.0.0.1/?readPreferenceTags=dc:cret",
        "mongodb://127.0.0.1/?fsync=true",
    ],
)
async def test_an_address_that_is_none_is_refused(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Opening says for good which setting is wrong, and not what it holds: there may be a password in it."""
    with pytest.raises(RegistryUnavailable, match="MONGO_URL") as caught:
        await MongoRegistry(url, "kato").open()
    assert caught.value.retry_after_s is None
    for text in (str(caught.value), caplog.text):
        assert url not in text
        assert "cret" not in text


@pytest.mark.parametrize("code", [13, 18, 8000])
async def test_a_refused_user_is_told_from_a_passing_trouble(opened: Opened, fail: Fail, code: int) -> None:
    """A user without the right is a setting to correct, and time alone does not help."""
    registry = await opened()
    fail("find", times=1, errorCode=code)
    with pytest.raises(RegistryUnavailable, match="refuses the user") as caught:
        await registry.session("s")
    assert caught.value.retry_after_s is None


async def test_two_gateways_may_prepare_a_database_at_once(opened: Opened, fail: Fail) -> None:
    """Whoever is told that a collection has been made meanwhile goes on."""
    fail("create", times=1, errorCode=48)
    registry = await opened()
    assert await registry.apply([creating(session("s"))])


@pytest.mark.usefixtures("nothing_left")
async def test_a_server_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    """Nobody there, or no replica set: opening says so, leaves nothing behind, and may be tried again."""
    with StandIn(tmp_path, "--standalone") as alone:
        registry = MongoRegistry(alone.url, "kato", call_timeout_s=IMPATIENT_S)
        with pytest.raises(RegistryUnavailable, match="replica set"):
            await registry.open()
    with StandIn(tmp_path) as server:
        registry = MongoRegistry(server.url, "kato", call_timeout_s=IMPATIENT_S)
        server.kill()
        with pytest.raises(RegistryUnavailable, match="MONGO_URL"):
            await registry.open()
        with pytest.raises(RegistryUnavailable, match="closed"):
            await registry.session("s")
        server.start()
        await registry.open()
        assert await registry.session("s") is None
        await registry.close()
        await registry.close()
    with pytest.raises(RegistryUnavailable, match="closed"):
        await registry.apply([])


async def test_a_replica_set_that_is_still_being_made_is_waited_for() -> None:
    """A member of a set that nobody has initiated yet is no server of the wrong kind: it is asked again."""

    async def hello(_command: str) -> dict[str, object]:
        return {"ok": 1.0, "isWritablePrimary": False, "isreplicaset": True}  # as a mongod --replSet says at first

    database = SimpleNamespace(client=SimpleNamespace(admin=SimpleNamespace(command=hello)))
    with pytest.raises(RegistryUnavailable, match="initiate") as caught:
        await mongo_schema.prepare(cast("mongo_schema.Database", database))
    assert caught.value.retry_after_s is not None


# What a gateway does that is killed in the middle of a change; its arguments are a URL and a database.
_KILLED = """
import asyncio, os, signal, sys
from kato_gateway.registry import mongo
from tests.integration.lifecycle.test_mongo_registry import left_open

write = mongo.make

async def killed_then(*arguments):
    await write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    registry = mongo.MongoRegistry(*sys.argv[1:], gateway_id="killed")
    await registry.open()
    mongo.make = killed_then
    await registry.apply(left_open())

asyncio.run(main())
"""


def left_open() -> list[Change]:
    """Return what a gateway was about to do when it was killed."""
    return [creating(session("s", on="p")), NodeChange(before=None, after=node("n"))]


@pytest.fixture
async def killed(mongo_url: str, mongo_database: str) -> None:
    """Kill a gateway in the middle of a transaction."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _KILLED, mongo_url, mongo_database)
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.usefixtures("killed")
async def test_a_gateway_that_was_killed_in_a_change_locks_nobody_out(mongo_url: str, mongo_database: str) -> None:
    """Started again it ends the transaction that it left open, and makes the same change at once."""
    registry = MongoRegistry(mongo_url, mongo_database, gateway_id="killed")
    await registry.open()
    assert await registry.session("s") is None
    assert await registry.apply(left_open())
    await registry.close()


@pytest.mark.usefixtures("killed")
async def test_a_gateway_that_fell_silent_in_a_change_locks_nobody_out(opened: Opened) -> None:
    """Whoever takes its name off the list ends the transaction that it left open."""
    registry = await opened()
    silent = GatewayRecord(gateway_id="killed", engine="e", spec_hash="h", at_s=1.0)
    assert await registry.apply([GatewayChange(gateway=silent, serves=False)])
    assert await registry.apply(left_open())


async def test_a_gateway_that_leaves_goes_on_with_its_changes(mongo_url: str, mongo_database: str) -> None:
    """Taking its own name off the list breaks off nothing that it has under way, and it can be opened again."""
    registry = MongoRegistry(mongo_url, mongo_database, gateway_id="g")
    own = GatewayRecord(gateway_id="g", engine="e", spec_hash="h", at_s=1.0)
    for turn in range(2):
        await registry.open()
        creates: list[list[Change]] = [[creating(session(f"{turn}-{number}", on="p"))] for number in range(30)]
        leave: list[Change] = [GatewayChange(gateway=own, serves=False)]
        assert all(await asyncio.gather(*(registry.apply(changes) for changes in [*creates, leave])))
        await registry.close()


async def test_a_user_who_may_not_end_sessions_opens(mongo_url: str, mongo_database: str, fail: Fail) -> None:
    """Where the server refuses to end the sessions of the run before, the gateway starts all the same."""
    registry = MongoRegistry(mongo_url, mongo_database, gateway_id="g")
    await registry.open()
    await registry.close()
    fail("killSessions", times=None, errorCode=13)
    await registry.open()
    assert await registry.apply(left_open())
    await registry.close()


async def test_a_caller_may_leave_at_any_moment(opened: Opened) -> None:
    """Wherever it is cancelled, a change is made or not made as a whole, and what it wrote is free for the next."""
    first, second = await opened(), await opened()
    for turns in range(0, 60, 2):
        record = session(f"s{turns}", on="p")
        changes: list[Change] = [creating(record), NodeChange(before=None, after=node(f"n{turns}"))]
        leaving = asyncio.create_task(first.apply(changes))
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        made = await second.apply(changes)  # waits for what is still under way
        assert (await second.session(f"s{turns}"), await second.node(f"n{turns}")) == (record, node(f"n{turns}"))
        assert made or await first.session(f"s{turns}") == record


async def test_a_change_that_has_begun_is_made_without_its_caller(opened: Opened) -> None:
    """Whoever leaves does not stop it: it is not left open on the server, and not left half-way to a retry."""
    registry = await opened()
    for turns in range(2, 30, 3):
        leaving = asyncio.create_task(registry.apply([creating(session(f"s{turns}")), creating(session(f"t{turns}"))]))
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        async with asyncio.timeout(PATIENCE_S):
            while await registry.session(f"t{turns}") is None:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("nothing_left")
async def test_whoever_leaves_an_opening_leaves_nothing(mongo_url: str, mongo_database: str) -> None:
    """Wherever it is cancelled, no connection stays, and the registry can be opened after that."""
    for turns in range(0, 40, 4):
        registry = MongoRegistry(mongo_url, mongo_database)
        opening = asyncio.create_task(registry.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await registry.close()
    await registry.open()
    assert await registry.session("s") is None
    await registry.close()
