"""The registry on MongoDB, which all gateways of an installation share."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import Context
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import pymongo
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DocumentTooLarge, OperationFailure, PyMongoError

from kato_gateway.domain.errors import InvalidSession, RegistryUnavailable
from kato_gateway.domain.sessions import NodeRecord, NodeState, SessionRecord
from kato_gateway.registry.base import Change, GatewayRecord, Leftover, SessionQuery
from kato_gateway.registry.documents import Plain, conditions, gateway_record, leftover_of, node_record, session_record
from kato_gateway.registry.mongo_changes import Plan, make, planned
from kato_gateway.registry.mongo_client import Connection
from kato_gateway.registry.mongo_schema import (
    FACTS,
    GATEWAYS,
    LEFTOVERS,
    NODES,
    PROCESSORS,
    SESSIONS,
    VERSION,
    Database,
    Stored,
    known,
    prepare,
    put,
)

T = TypeVar("T")

CALL_TIMEOUT_S = 5.0
TRANSACTION_MAX_S = 60.0  # after which a server ends one that it hears no more of
RETRY_AFTER_S = 2.0
ENDING_WAIT_S = 0.5

# Unauthorized, AuthenticationFailed, and how a hosted one says that: waiting does not help.
_REFUSALS = frozenset({13, 18, 8000})
_LIVING_NODES = sorted(state.value for state in NodeState if state is not NodeState.ENDED)

_log = logging.getLogger(__name__)


class MongoRegistry:
    """Sessions and nodes in a MongoDB; what was acknowledged is in the journals of most of its members.

    Every call runs as a task of its own, to its end: a caller that leaves cannot leave a transaction open.

    Args:
        url: of a replica set; one member is enough.
        database: its name; the collections are those of mongo_schema.py.
        gateway_id: this gateway's own, the same after a restart: opening ends the transactions that a killed one of
            this id left open. Made up if "".
        call_timeout_s: within which each call has its answer, in seconds, or raises RegistryUnavailable.
    """

    def __init__(
        self, url: str, database: str, *, gateway_id: str = "", call_timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self._url = url
        self.database = database
        self._gateway_id = gateway_id or secrets.token_hex(8)
        self._timeout_s = call_timeout_s
        self._connection: Connection | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(self) -> None:
        """See Registry."""
        opening = self._task(self._bounded(self._connected))
        try:
            self._connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._task(_abandoned(opening))
            raise

    async def close(self) -> None:
        """See Registry. Calls that are under way are ended first: each has its time."""
        connection, self._connection = self._connection, None
        while self._tasks:
            await asyncio.wait(self._tasks)
        if connection is not None:
            await connection.close()

    async def apply(self, changes: Sequence[Change]) -> bool:
        """See Registry."""
        plan = planned(changes)
        if plan is None:
            return False
        connection = self._opened()
        return await self._run(lambda: self._apply(connection, plan))

    async def settled(self, name: str, proposed: str) -> str:
        """See Registry."""

        async def work(database: Database) -> str:
            fact = {"$setOnInsert": {"value": proposed, "schema": VERSION}}
            return str(known(await put(database[FACTS], {"_id": name}, fact))["value"])

        return await self._call(work)

    async def session(self, session_id: str) -> SessionRecord | None:
        """See Registry."""
        found = await self._find_one(SESSIONS, {"_id": session_id})
        return session_record(found) if found else None

    async def sessions(self, query: SessionQuery, *, limit: int, after: str = "") -> Sequence[SessionRecord]:
        """See Registry."""
        filters = _filter(query) | ({"_id": {"$gt": after}} if after else {})
        return [session_record(document) for document in await self._find(SESSIONS, filters, limit=limit)]

    async def count_sessions(self, query: SessionQuery) -> int:
        """See Registry."""
        return await self._call(lambda database: database[SESSIONS].count_documents(_filter(query)))

    async def node(self, node_id: str) -> NodeRecord | None:
        """See Registry."""
        found = await self._find_one(NODES, {"_id": node_id})
        return node_record(found) if found else None

    async def node_of(self, processor_id: str) -> NodeRecord | None:
        """See Registry."""
        found = await self._find_one(NODES, {"holds": processor_id})
        return node_record(found) if found else None

    async def nodes(self) -> Sequence[NodeRecord]:
        """See Registry."""
        return [node_record(document) for document in await self._find(NODES, {})]

    async def count_nodes(self) -> int:
        """See Registry."""
        return await self._call(lambda database: database[NODES].count_documents({"state": {"$in": _LIVING_NODES}}))

    async def owner(self, processor_id: str) -> str | None:
        """See Registry."""
        found = await self._find_one(PROCESSORS, {"_id": processor_id})
        return found.get("owner") if found else None

    async def purges(self) -> Sequence[str]:
        """See Registry."""
        return [document["_id"] for document in await self._find(PROCESSORS, {"purge_owed": True})]

    async def gateways(self) -> Sequence[GatewayRecord]:
        """See Registry."""
        return [gateway_record(document) for document in await self._find(GATEWAYS, {})]

    async def leftovers(self, processor_id: str) -> Sequence[Leftover]:
        """See Registry. "0" is what follows "/", which no id holds."""
        of_processor = {"_id": {"$gt": f"{processor_id}/", "$lt": f"{processor_id}0"}}
        return [leftover_of(document) for document in await self._find(LEFTOVERS, of_processor)]

    async def _find_one(self, collection: str, filters: Mapping[str, object]) -> Stored | None:
        async def work(database: Database) -> Stored | None:
            stored = await database[collection].find_one(filters)
            return None if stored is None else known(stored)

        return await self._call(work)

    async def _find(self, collection: str, filters: Mapping[str, object], *, limit: int | None = None) -> list[Stored]:
        """Return the documents, by id."""

        async def work(database: Database) -> list[Stored]:
            cursor = database[collection].find(filters, sort=[("_id", 1)], limit=limit or 0)
            return [known(stored) for stored in await cursor.to_list()]

        return await self._call(work)

    async def _apply(self, connection: Connection, plan: Plan) -> bool:
        database, writers = connection.database, connection.writers
        for gateway_id in plan.leaving - {self._gateway_id}:
            await writers.end_those_of(gateway_id)  # it may have been killed in a transaction
        if plan.is_one_write:
            return await make(database, plan)

        async def work(session: AsyncClientSession) -> bool:
            made = await make(database, plan, session)
            if not made:
                await session.abort_transaction()
            return made

        async with self._taking_turns(plan.touches):
            session = await writers.take()
            try:
                made = await session.with_transaction(work)  # repeats what met a conflict, or a commit in doubt
            except Exception:
                # In a context of its own: this one's time is up.
                self._task(self._end(connection, session), context=Context())
                raise
            writers.put_back(session)
            return made

    async def _end(self, connection: Connection, session: AsyncClientSession) -> None:
        """End what a failed transaction may have left open on the server, and what it wrote locked for everybody."""
        until_s = time.monotonic() + TRANSACTION_MAX_S
        while self._connection is connection and time.monotonic() < until_s:
            with suppress(PyMongoError), pymongo.timeout(self._timeout_s):
                await connection.client.admin.command("killSessions", [session.session_id])
                break
            await asyncio.sleep(ENDING_WAIT_S)
        connection.writers.put_back(session)

    @asynccontextmanager
    async def _taking_turns(self, processor_ids: Iterable[str]) -> AsyncIterator[None]:
        """Keep this gateway's own transactions on one processor, which would conflict, apart."""
        async with AsyncExitStack() as stack:
            for processor_id in sorted(processor_ids):
                turn = self._turns.get(processor_id)
                if turn is None:
                    turn = self._turns[processor_id] = asyncio.Lock()
                await stack.enter_async_context(turn)
            yield

    async def _call(self, work: Callable[[Database], Awaitable[T]]) -> T:
        connection = self._opened()
        return await self._run(lambda: work(connection.database))

    def _opened(self) -> Connection:
        if self._connection is None:
            raise RegistryUnavailable("The registry is closed.")
        return self._connection

    async def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        return await asyncio.shield(self._task(self._bounded(work)))

    def _task(self, work: Coroutine[Any, Any, T], *, context: Context | None = None) -> asyncio.Task[T]:
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _bounded(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what the work returns, in time. Raises: RegistryUnavailable; InvalidSession for one too large."""
        try:
            with pymongo.timeout(self._timeout_s):
                return await work()
        except DocumentTooLarge as error:  # only clients fill documents with as much
            raise InvalidSession([("metadata", "more than 16 MiB with the config, as JSON in ASCII")]) from error
        except PyMongoError as error:
            _log.warning("registry_failed", extra={"path": self.database, "reason": f"{type(error).__name__}: {error}"})
            raise _unavailable(error) from error

    async def _connected(self) -> Connection:
        try:
            connection = Connection(self._url, self.database, gateway_id=self._gateway_id, timeout_s=self._timeout_s)
        except (PyMongoError, ValueError) as error:  # its words may hold the password
            message = f"MONGO_URL is no address of a MongoDB: the driver does not take it ({type(error).__name__})."
            raise RegistryUnavailable(message) from None
        try:
            await prepare(connection.database)
            await connection.writers.open()
        except BaseException:
            await connection.close()
            raise
        return connection


async def _abandoned(opening: asyncio.Task[Connection]) -> None:
    """Let go of what nobody waits for any more, once it is there."""
    await asyncio.wait([opening])
    if opening.exception() is None:
        await opening.result().close()


def _unavailable(error: PyMongoError) -> RegistryUnavailable:
    if isinstance(error, OperationFailure) and error.code in _REFUSALS:
        return RegistryUnavailable("MongoDB refuses the user of MONGO_URL: check name, password and rights.")
    return RegistryUnavailable(
        f"The registry's MongoDB is out of reach or refused ({type(error).__name__}); try again in a moment, "
        "and check that it runs, and MONGO_URL.",
        retry_after_s=RETRY_AFTER_S,
    )


def _filter(query: SessionQuery) -> dict[str, object]:
    """Return the query's conditions as a filter."""
    return {name: _condition(relation, values) for name, relation, values in conditions(query)}


def _condition(relation: str, values: Sequence[Plain]) -> object:
    if relation == "<=":
        return {"$lte": values[0]}
    return values[0] if len(values) == 1 else {"$in": list(values)}
