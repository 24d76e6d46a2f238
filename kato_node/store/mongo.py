"""The MongoDB store: all processors share six collections; a commit is one transaction that begins with the fence.

What stands where, and why nothing large is ever deleted in a transaction: mongo_documents.py.

Every transaction writes the processor's document, so none can commit while an earlier one is open. All of a node's are
of one session of the server, where beginning the next ends an open one; and `writer` names that session, for the next
owner to end: else a node that was killed in a transaction would keep the processor locked for a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import pymongo
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from kato_node.domain.learn import Pattern
from kato_node.domain.state import Vector
from kato_node.store import documents
from kato_node.store.base import (
    Batch,
    CommitUnknown,
    Fenced,
    ProcessorRecord,
    SessionRecord,
)
from kato_node.store.documents import Track
from kato_node.store.mongo_client import (
    OPERATION_TIMEOUT_S,
    TRANSIENT,
    UNKNOWN,
    Document,
    translated,
    unavailable,
)
from kato_node.store.mongo_connection import BATCH_DOCUMENTS, Connection
from kato_node.store.mongo_documents import (
    FIRST_SERIAL,
    SCHEMA_VERSION,
    Planned,
    Writes,
    checked,
    planned,
    row_id,
    under,
    unpacked,
    writes,
)

T = TypeVar("T")

COMMIT_TIMEOUT_S = 5.0
ABORT_TIMEOUT_S = 1.0
CONFLICT_WAIT_S = 0.01

_AT_ONCE_S = 0.001


class MongoStore:
    """The Store protocol on MongoDB; see there for each method.

    Args:
        connection: open or not; from now on it is the store's, which closes it.
    """

    def __init__(self, connection: Connection, processor_id: str) -> None:
        self._processor_id = processor_id
        self._connection = connection
        self._database = connection.database
        self._session = connection.session
        self._errands = connection.errands
        self._committing = asyncio.Lock()
        self._serials: dict[str, str] = {}  # of sessions as last committed or loaded; a cache
        self._taken: Document | None = None  # the processor's document as we took it, until something is committed

    async def open(self) -> None:
        """See Store. Raises: StoreUnreachable if another try may find the server."""
        await self._connection.open()

    async def close(self) -> None:
        """See Store, and Connection."""
        await self._connection.close()

    async def bind(self) -> ProcessorRecord:
        """See Store."""
        stored = self._taken = await self._errands.run(translated(self._bind()))
        return ProcessorRecord(processor_id=self._processor_id, epoch=stored["epoch"], dimension=stored["dimension"])

    async def read_epoch(self) -> int:
        """See Store."""
        stored = await self._find_one("processors", self._processor_id)
        return 0 if stored is None else int(stored["epoch"])

    async def load_patterns(self) -> AsyncIterator[Pattern]:
        """See Store."""
        path = await self._ltm_path()
        async for name, document in self._range("patterns", path):
            yield documents.pattern_from_text(name, unpacked(document["text"]))

    async def load_vectors(self) -> AsyncIterator[tuple[str, Vector]]:
        """See Store."""
        path = await self._ltm_path()
        async for symbol, document in self._range("vectors", path):
            yield symbol, documents.vector_from(document["data"])

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """See Store."""
        if self._is_new:
            return None
        stored = await self._find_one("sessions", f"{self._processor_id}/{session_id}")
        if stored is None:
            return None
        tracks: dict[Track, list[documents.Row]] = {track: [] for track in Track}
        async for key, document in self._range("session_rows", f"{self._processor_id}/{stored['serial']}"):
            track, number = map(int, key.split("/"))
            tracks[Track(track)].append((number, unpacked(document["text"])))
        self._serials[session_id] = stored["serial"]
        return documents.session_record(session_id, unpacked(stored["head"]), tracks)

    async def load_reply(self, session_id: str, number: int) -> str | None:
        """See Store."""
        if self._is_new:
            return None
        stored = await self._find_one("sessions", f"{self._processor_id}/{session_id}")
        if stored is None:
            return None
        path = f"{self._processor_id}/{stored['serial']}/{Track.OPERATIONS:d}"
        row = await self._find_one("session_rows", row_id(path, number))
        return None if row is None else documents.operation_reply(unpacked(row["text"]))

    async def session_ids(self) -> Sequence[str]:
        """See Store."""
        found = self._range("sessions", self._processor_id, projection={"v": 1})
        return [session_id async for session_id, _ in found]

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store. A caller that is cancelled does not stop it."""
        plan = planned(self._processor_id, batch)
        await self._errands.run(self._commit(plan, epoch))

    @property
    def _is_new(self) -> bool:
        """Whether it is known, without asking, that nothing of the processor is stored: nobody had it before us."""
        return self._taken is not None and self._taken["epoch"] == 1

    async def _bind(self) -> Document:
        """Take the processor, and return its document."""
        while True:
            try:
                stored = await self._try_to_bind()
            except DuplicateKeyError:  # of two that make it at once, one
                stored = None
            if stored is not None:
                return stored

    async def _try_to_bind(self) -> Document | None:
        timeout_ms = int(OPERATION_TIMEOUT_S * 1000)
        before = await self._database.processors.find_one({"_id": self._processor_id})
        if before is not None:
            checked(before)
            # Ends a transaction that the owner before us may have left open. Nobody needs a right to end the sessions
            # of one's own user; those of another's end by themselves, a minute after their node, and bind waits.
            with suppress(OperationFailure):
                await self._connection.client.admin.command("killSessions", [before["writer"]])
        return await self._database.processors.find_one_and_update(
            {"_id": self._processor_id, "v": SCHEMA_VERSION},
            {
                "$inc": {"epoch": 1},
                "$set": {"writer": self._session.session_id},
                "$setOnInsert": {"commits": 0, "ltm": FIRST_SERIAL, "dimension": None},
            },
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=self._session,
            maxTimeMS=timeout_ms,
        )

    async def _ltm_path(self) -> str:
        stored = self._taken or await self._find_one("processors", self._processor_id)
        return f"{self._processor_id}/{FIRST_SERIAL if stored is None else stored['ltm']}"

    async def _find_one(self, collection: str, key: str) -> Document | None:
        async def found() -> Document | None:
            with pymongo.timeout(OPERATION_TIMEOUT_S):
                async with self._reading() as session:
                    return await self._database[collection].find_one({"_id": key}, session=session)

        document = await self._errands.run(translated(found()))
        return None if document is None else checked(document)

    async def _range(
        self, collection: str, path: str, *, projection: Document | None = None
    ) -> AsyncIterator[tuple[str, Document]]:
        """Yield (rest of _id, document) of everything of ours under the path, in the order of _id."""
        if self._is_new:
            return
        async with self._reading() as session:
            cursor = self._database[collection].find(
                {"_id": under(path)}, projection, sort={"_id": 1}, batch_size=BATCH_DOCUMENTS, session=session
            )
            try:
                while part := await self._errands.run(translated(cursor.to_list(BATCH_DOCUMENTS))):
                    for document in part:
                        yield document["_id"][len(path) + 1 :], checked(document)
            finally:
                with suppress(PyMongoError):
                    await self._errands.run(cursor.close())

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncClientSession]:
        """Yield a session whose reads come after our bind and our commits, of whatever server they are asked.

        A majority has those by then; but one that has only just become the primary may not know of it yet.
        """
        async with self._connection.client.start_session() as session:
            if self._session.operation_time is not None:
                session.advance_operation_time(self._session.operation_time)
            yield session

    async def _commit(self, plan: Planned, epoch: int) -> None:
        async with self._committing:  # one transaction at a time is all that a session of the server can have
            deadline_s = time.monotonic() + COMMIT_TIMEOUT_S
            written: Writes | None = None
            try:
                written = await self._committed(plan, epoch, deadline_s)
                while written is None:
                    await asyncio.sleep(CONFLICT_WAIT_S)
                    written = await self._committed(plan, epoch, deadline_s)
            finally:
                for delta in plan.sessions:
                    serial = None if written is None else written.serials[delta.session_id]
                    if serial is None:
                        self._serials.pop(delta.session_id, None)
                    else:
                        self._serials[delta.session_id] = serial
        if written.litter:
            self._connection.sweep()

    async def _committed(self, plan: Planned, epoch: int, deadline_s: float) -> Writes | None:
        """Try once; return None if it is known that nothing was written and another try may help.

        A try after one of which that was wrongly known does no harm: it writes the same once more.
        """
        try:
            with pymongo.timeout(_remaining_s(deadline_s)):
                await self._session.start_transaction()
                written = await self._write(plan, epoch)
        except PyMongoError as error:
            await self._abort()
            _require_transient(error, deadline_s)
            return None
        except BaseException:
            await self._abort()
            raise
        try:
            await self._commit_transaction(deadline_s)
        except PyMongoError as error:
            _require_transient(error, deadline_s)
            return None
        return written

    async def _commit_transaction(self, deadline_s: float) -> None:
        """Commit until there is an answer. Raises: PyMongoError (nothing written), CommitUnknown."""
        try:
            async with asyncio.timeout(_remaining_s(deadline_s)):
                while True:
                    try:
                        await self._session.commit_transaction()
                    except PyMongoError as error:
                        if error.has_error_label(TRANSIENT):
                            raise
                        if not error.has_error_label(UNKNOWN):
                            raise _unknown(error) from error
                    else:
                        return
                    await asyncio.sleep(CONFLICT_WAIT_S)
        except TimeoutError as error:
            raise _unknown(error) from error

    async def _write(self, plan: Planned, epoch: int) -> Writes:
        """Write everything, the fence first; of a session whose serial is not known, find it."""
        session, processors = self._session, self._database.processors
        fenced = await processors.find_one_and_update(
            {"_id": self._processor_id, "epoch": epoch},
            {"$inc": {"commits": 1}} | ({"$set": plan.processor} if plan.processor else {}),
            projection={"commits": 1, "ltm": 1},
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if fenced is None:
            raise Fenced(f"Another node has taken this processor; its epoch {epoch} is over.")
        is_new, self._taken = self._is_new, None
        serials = self._serials
        if looked_up := [] if is_new else plan.sessions_of_unknown_serial(serials):
            keys = [f"{self._processor_id}/{session_id}" for session_id in looked_up]
            found = self._database.sessions.find({"_id": {"$in": keys}}, {"serial": 1}, session=session)
            stored = {document["_id"].rpartition("/")[2]: document["serial"] for document in await found.to_list()}
            serials = {name: serial for name, serial in serials.items() if name not in looked_up} | stored
        written = writes(plan, commit=fenced["commits"], ltm=fenced["ltm"], serials=serials)
        if written.ltm != fenced["ltm"]:
            await processors.update_one({"_id": self._processor_id}, {"$set": {"ltm": written.ltm}}, session=session)
        for collection, operations in written.by_collection.items():
            if operations:
                await self._database[collection].bulk_write(operations, session=session)
        return written

    async def _abort(self) -> None:
        with suppress(PyMongoError):  # the server ends by itself what it hears no more of
            if self._session.in_transaction:
                with pymongo.timeout(ABORT_TIMEOUT_S):
                    await self._session.abort_transaction()


def _require_transient(error: PyMongoError, deadline_s: float) -> None:
    """Raises: StoreUnavailable, unless it was a passing trouble and there is time for another try."""
    if not error.has_error_label(TRANSIENT) or time.monotonic() > deadline_s:
        raise unavailable(error) from error


def _remaining_s(deadline_s: float) -> float:
    return max(deadline_s - time.monotonic(), _AT_ONCE_S)  # 0 would be for ever


def _unknown(error: Exception) -> CommitUnknown:
    return CommitUnknown(f"MongoDB did not confirm a commit ({type(error).__name__}).")


class MongoStores:
    """Makes the stores of processors in one database; the first of them may find a connection made ahead of it."""

    def __init__(self, url: str, database: str) -> None:
        self._url = url
        self._database = database
        self._ahead: Connection | None = None

    async def connect(self) -> None:
        """Connect, for the next store. Raises: StoreUnavailable."""
        connection = Connection(self._url, self._database)
        try:
            await connection.open()
        except BaseException:
            await connection.close()
            raise
        self._ahead = connection

    def __call__(self, processor_id: str) -> MongoStore:
        """Return the store of a processor. Raises: StoreUnavailable, for a bad URL."""
        connection, self._ahead = self._ahead or Connection(self._url, self._database), None
        return MongoStore(connection, processor_id)

    async def close(self) -> None:
        """Close the connection that no store has taken."""
        if self._ahead is not None:
            await self._ahead.close()
