"""The MongoDB store: all processors share six collections; a commit is one transaction that begins with the fence.

What stands where, and why nothing large is ever deleted in a transaction: mongo_documents.py.

Every transaction writes the processor's document, so none can commit while an earlier one is open. All of a node's are
of one session of the server, where beginning the next ends an open one; and `writer` names that session, for the next
owner to end: else a node that was killed in a transaction would keep the processor locked for a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from typing import TypeVar

import pymongo
from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import CollectionInvalid, OperationFailure, PyMongoError

from kato_node.domain.learn import Pattern
from kato_node.domain.state import Vector
from kato_node.store import documents
from kato_node.store.base import (
    Batch,
    CommitUnknown,
    Fenced,
    ProcessorRecord,
    SessionRecord,
    StoreUnavailable,
    StoreUnreachable,
)
from kato_node.store.documents import Track
from kato_node.store.mongo_client import (
    OPERATION_TIMEOUT_S,
    TRANSIENT,
    UNKNOWN,
    Document,
    Errands,
    Heartbeats,
    connected,
    unavailable,
)
from kato_node.store.mongo_documents import (
    COLLECTIONS,
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

OPEN_TIMEOUT_S = 2.0
COMMIT_TIMEOUT_S = 5.0
ABORT_TIMEOUT_S = 1.0
CLOSE_TIMEOUT_S = 0.2  # of each step of it
CONFLICT_WAIT_S = 0.01
BATCH_DOCUMENTS = 1_000  # read, or swept up, at once

_AT_ONCE_S = 0.001
_NAMESPACE_EXISTS = 48


class MongoStore:
    """The Store protocol on MongoDB; see there for each method.

    Args:
        url: of a replica set; one member is enough. Its options cannot weaken what a store promises: see `connected`.
    """

    def __init__(self, url: str, database: str, processor_id: str) -> None:
        self._processor_id = processor_id
        self._heartbeats = Heartbeats()
        self._client = connected(url, self._heartbeats)
        self._database = self._client[database]
        self._session = self._client.start_session()
        self._errands = Errands()
        self._committing = asyncio.Lock()
        self._serials: dict[str, str] = {}  # of sessions as last committed or loaded; a cache
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See Store. Raises: StoreUnreachable if another try may find the server."""
        await self._errands.run(_translated(self._open()))

    async def close(self) -> None:
        """See Store. It takes a moment, whatever the server does; a caller that is cancelled does not stop it."""
        await asyncio.shield(asyncio.create_task(self._close()))

    async def bind(self) -> ProcessorRecord:
        """See Store."""
        stored = await self._errands.run(_translated(self._bind()))
        self._sweep()
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

    async def _close(self) -> None:
        """Close the client when it is not connecting: the driver forgets the socket of a connect that it cancels."""
        await self._errands.end(within_s=CLOSE_TIMEOUT_S)
        with suppress(PyMongoError), pymongo.timeout(CLOSE_TIMEOUT_S):
            if self._client.topology_description.has_writable_server():
                await self._session.end_session()
            else:
                self._client._topology.pop_all_sessions()  # else it looks for a server to tell, connecting again
        await self._heartbeats.quiet(within_s=CLOSE_TIMEOUT_S)
        with pymongo.timeout(CLOSE_TIMEOUT_S):
            await self._client.close()

    async def _open(self) -> None:
        with pymongo.timeout(OPEN_TIMEOUT_S):
            hello = await self._client.admin.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            if hello.get("isreplicaset"):
                raise StoreUnreachable("MongoDB is a replica set that was not initiated yet: run rs.initiate().")
            raise StoreUnavailable("MongoDB is not a replica set; start it as one (one member is enough).")
        for name in sorted(set(COLLECTIONS) - set(await self._database.list_collection_names())):
            try:
                await self._database.create_collection(name)
            except CollectionInvalid:
                pass  # made by another node meanwhile
            except OperationFailure as error:
                if error.code != _NAMESPACE_EXISTS:
                    raise

    async def _bind(self) -> Document:
        """Take the processor, and return its document."""
        timeout_ms = int(OPERATION_TIMEOUT_S * 1000)
        before = await self._database.processors.find_one({"_id": self._processor_id})
        if before is not None:
            checked(before)
            # Ends a transaction that the owner before us may have left open. Nobody needs a right to end the sessions
            # of one's own user; those of another's end by themselves, a minute after their node, and bind waits.
            with suppress(OperationFailure):
                await self._client.admin.command("killSessions", [before["writer"]])
        stored = await self._database.processors.find_one_and_update(
            {"_id": self._processor_id, "v": SCHEMA_VERSION},
            {
                "$inc": {"epoch": 1},
                "$set": {"writer": self._session.session_id},
                "$setOnInsert": {"commits": 0, "ltm": FIRST_SERIAL, "dimension": None},
            },
            upsert=True,
            return_document=ReturnDocument.AFTER,
            maxTimeMS=timeout_ms,
        )
        assert stored is not None, "an upsert returns its document"
        return stored

    async def _ltm_path(self) -> str:
        stored = await self._find_one("processors", self._processor_id)
        return f"{self._processor_id}/{FIRST_SERIAL if stored is None else stored['ltm']}"

    async def _find_one(self, collection: str, key: str) -> Document | None:
        async def found() -> Document | None:
            with pymongo.timeout(OPERATION_TIMEOUT_S):
                return await self._database[collection].find_one({"_id": key})

        document = await self._errands.run(_translated(found()))
        return None if document is None else checked(document)

    async def _range(
        self, collection: str, path: str, *, projection: Document | None = None
    ) -> AsyncIterator[tuple[str, Document]]:
        """Yield (rest of _id, document) of everything under the path, in the order of _id."""
        cursor = self._database[collection].find(
            {"_id": under(path)}, projection, sort={"_id": 1}, batch_size=BATCH_DOCUMENTS
        )
        try:
            while part := await self._errands.run(_translated(cursor.to_list(BATCH_DOCUMENTS))):
                for document in part:
                    yield document["_id"][len(path) + 1 :], checked(document)
        finally:
            with suppress(PyMongoError):
                await self._errands.run(cursor.close())

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
            self._sweep()

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
        serials = self._serials
        if looked_up := plan.sessions_of_unknown_serial(serials):
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

    def _sweep(self) -> None:
        """Sweep up garbage soon."""
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = self._errands.start(self._swept())

    async def _swept(self) -> None:
        """Delete what belongs to nobody any more, of any processor. Broken off, it goes on at the next bind."""
        with suppress(PyMongoError):
            while garbage := await self._database.garbage.find({"v": SCHEMA_VERSION}).to_list(BATCH_DOCUMENTS):
                for document in garbage:
                    for collection in document["collections"]:
                        await _emptied(self._database[collection], document["_id"])
                    await self._database.garbage.delete_one({"_id": document["_id"]})


async def _emptied(collection: AsyncCollection[Document], path: str) -> None:
    """Delete everything under the path, a batch at a time."""
    while True:
        found = collection.find({"_id": under(path)}, {"_id": 1}, sort={"_id": 1}, limit=BATCH_DOCUMENTS)
        part = await found.to_list()
        if not part:
            return
        await collection.delete_many({"_id": {"$gte": part[0]["_id"], "$lte": part[-1]["_id"]}})


async def _translated(work: Awaitable[T]) -> T:
    """Return what the work does. Raises: StoreUnavailable for what the driver raises."""
    try:
        return await work
    except PyMongoError as error:
        raise unavailable(error) from error


def _require_transient(error: PyMongoError, deadline_s: float) -> None:
    """Raises: StoreUnavailable, unless it was a passing trouble and there is time for another try."""
    if not error.has_error_label(TRANSIENT) or time.monotonic() > deadline_s:
        raise unavailable(error) from error


def _remaining_s(deadline_s: float) -> float:
    return max(deadline_s - time.monotonic(), _AT_ONCE_S)  # 0 would be for ever


def _unknown(error: Exception) -> CommitUnknown:
    return CommitUnknown(f"MongoDB did not confirm a commit ({type(error).__name__}).")
