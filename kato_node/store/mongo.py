"""The MongoDB store: all processors share five collections; a commit is one transaction that begins with the fence.

    processors    _id = processor                          {epoch, commits, dimension, writer}
    sessions      _id = processor/session                  {head}: JSON text, see documents.py
    session_rows  _id = processor/session/track/number     {document}: JSON text; the number padded, so that it sorts
    patterns      _id = processor/name                     the pattern's document
    vectors       _id = processor/symbol                   {data}: little-endian float64

No id holds a "/", so all that belongs to one processor, session or track is one range of _id; no other index is needed.
Every transaction writes the processor's document, so none can commit while an earlier one is open. All of a node's are
of one session of the server, where beginning the next ends an open one; and `writer` names that session, for the next
owner to end: else a node that was killed in a transaction would keep the processor locked for a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pymongo
from pymongo import AsyncMongoClient, DeleteMany, DeleteOne, ReplaceOne, ReturnDocument
from pymongo.errors import CollectionInvalid, PyMongoError

from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import LtmChange
from kato_node.domain.state import Vector
from kato_node.store import documents
from kato_node.store.base import (
    Batch,
    CommitUnknown,
    Fenced,
    ProcessorRecord,
    SessionRecord,
    StoreUnavailable,
)
from kato_node.store.documents import SessionDelta, Track, TrackDelta

Document = dict[str, Any]
Write = ReplaceOne[Document] | DeleteOne | DeleteMany

COLLECTIONS = ("processors", "sessions", "session_rows", "patterns", "vectors")
OPERATION_TIMEOUT_MS = 5_000
COMMIT_TIMEOUT_S = 5.0
CONFLICT_WAIT_S = 0.01

_NUMBER_DIGITS = 19
_TRANSIENT = "TransientTransactionError"
_UNKNOWN = "UnknownTransactionCommitResult"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transaction:
    """One batch as operations: the fence first, then the writes of each collection in order."""

    fence: Mapping[str, object]
    update: Mapping[str, object]
    writes: Mapping[str, Sequence[Write]]


class MongoStore:
    """The Store protocol on MongoDB; see there for each method.

    Args:
        url: of a replica set; one member is enough.
    """

    def __init__(self, url: str, database: str, processor_id: str) -> None:
        self._processor_id = processor_id
        # Given here, these hold whatever the URL says: an acknowledged commit survives, and reads see only such.
        self._client: AsyncMongoClient[Document] = AsyncMongoClient(
            url,
            w="majority",
            journal=True,
            readConcernLevel="majority",
            readPreference="primary",
            retryWrites=True,
            timeoutMS=OPERATION_TIMEOUT_MS,
            serverSelectionTimeoutMS=OPERATION_TIMEOUT_MS,  # what the driver does without a time-out of its own
            appname="kato-node",
        )
        self._database = self._client[database]
        self._session = self._client.start_session()

    async def open(self) -> None:
        """See Store."""
        try:
            await self._open()
        except PyMongoError as error:
            raise _unavailable(error) from error

    async def close(self) -> None:
        """See Store."""
        await self._session.end_session()
        await self._client.close()

    async def bind(self) -> ProcessorRecord:
        """See Store."""
        try:
            await self._end_writer()
            stored = await self._database.processors.find_one_and_update(
                {"_id": self._processor_id},
                {
                    "$inc": {"epoch": 1},
                    "$set": {"writer": self._session.session_id},
                    "$setOnInsert": {"commits": 0, "dimension": None},
                },
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        except PyMongoError as error:
            raise _unavailable(error) from error
        assert stored is not None, "an upsert returns its document"
        return ProcessorRecord(processor_id=self._processor_id, epoch=stored["epoch"], dimension=stored["dimension"])

    async def read_epoch(self) -> int:
        """See Store."""
        stored = await self._find_one("processors", self._processor_id)
        return 0 if stored is None else int(stored["epoch"])

    async def load_patterns(self) -> AsyncIterator[Pattern]:
        """See Store."""
        async for name, document in self._range("patterns", self._processor_id):
            yield documents.pattern_from(name, document)

    async def load_vectors(self) -> AsyncIterator[tuple[str, Vector]]:
        """See Store."""
        async for symbol, document in self._range("vectors", self._processor_id):
            yield symbol, documents.vector_from(document["data"])

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """See Store."""
        path = f"{self._processor_id}/{session_id}"
        head = await self._find_one("sessions", path)
        if head is None:
            return None
        tracks: dict[Track, list[documents.Row]] = {track: [] for track in Track}
        async for key, document in self._range("session_rows", path):
            track, number = map(int, key.split("/"))
            tracks[Track(track)].append((number, document["document"]))
        return documents.session_record(session_id, head["head"], tracks)

    async def load_reply(self, session_id: str, number: int) -> str | None:
        """See Store."""
        path = f"{self._processor_id}/{session_id}/{Track.OPERATIONS:d}"
        stored = await self._find_one("session_rows", _row_id(path, number))
        return None if stored is None else documents.operation_reply(stored["document"])

    async def session_ids(self) -> Sequence[str]:
        """See Store."""
        return [session_id async for session_id, _ in self._range("sessions", self._processor_id)]

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        transaction = self._transaction(batch, epoch)
        deadline_s = time.monotonic() + COMMIT_TIMEOUT_S
        with pymongo.timeout(COMMIT_TIMEOUT_S):
            while True:
                if await self._committed(transaction, deadline_s):
                    return
                await asyncio.sleep(CONFLICT_WAIT_S)

    async def _open(self) -> None:
        hello = await self._client.admin.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise StoreUnavailable("MongoDB is not a replica set; start it as one (one member is enough).")
        for name in sorted(set(COLLECTIONS) - set(await self._database.list_collection_names())):
            with suppress(CollectionInvalid):  # made by another node meanwhile
                await self._database.create_collection(name)

    async def _find_one(self, collection: str, key: str) -> Document | None:
        try:
            return await self._database[collection].find_one({"_id": key})
        except PyMongoError as error:
            raise _unavailable(error) from error

    async def _range(self, collection: str, path: str) -> AsyncIterator[tuple[str, Document]]:
        """Yield (rest of _id, document) of everything under the path, in the order of _id."""
        try:
            async for document in self._database[collection].find({"_id": _under(path)}).sort("_id"):
                yield document["_id"][len(path) + 1 :], document
        except PyMongoError as error:
            raise _unavailable(error) from error

    async def _end_writer(self) -> None:
        """End the session of the owner before us, and with it a transaction that it may have left open."""
        stored = await self._database.processors.find_one({"_id": self._processor_id})
        if stored is not None:
            await self._client.admin.command("killSessions", [stored["writer"]])

    async def _committed(self, transaction: _Transaction, deadline_s: float) -> bool:
        """Try once; return False if it is known that nothing was written and another try may help."""
        try:
            await self._session.start_transaction()
            await self._write(transaction)
        except PyMongoError as error:
            await self._abort()
            return _try_again(error, deadline_s)
        except BaseException:
            await self._abort()
            raise
        while True:
            try:
                await self._session.commit_transaction()
            except PyMongoError as error:
                if error.has_error_label(_TRANSIENT):
                    return _try_again(error, deadline_s)
                if not error.has_error_label(_UNKNOWN) or time.monotonic() > deadline_s:
                    raise CommitUnknown(f"MongoDB did not confirm a commit ({type(error).__name__}).") from error
            else:
                return True

    async def _write(self, transaction: _Transaction) -> None:
        session = self._session
        fenced = await self._database.processors.update_one(transaction.fence, transaction.update, session=session)
        if fenced.matched_count != 1:
            raise Fenced(f"Another node has taken this processor; its epoch {transaction.fence['epoch']} is over.")
        for collection, writes in transaction.writes.items():
            if writes:
                await self._database[collection].bulk_write(writes, session=session)

    async def _abort(self) -> None:
        with suppress(PyMongoError):  # the server ends by itself what it hears no more of
            if self._session.in_transaction:
                await self._session.abort_transaction()

    def _transaction(self, batch: Batch, epoch: int) -> _Transaction:
        ltm = documents.folded(batch.ltm)
        known = ltm.cleared or ltm.dimensionless or ltm.dimension is not None
        dimension = {"$set": {"dimension": ltm.dimension}} if known else {}
        writes: dict[str, list[Write]] = {name: [] for name in COLLECTIONS[1:]}
        for delta in map(documents.session_delta, batch.sessions):
            _add_session(writes, f"{self._processor_id}/{delta.session_id}", delta)
        _add_ltm(writes, self._processor_id, ltm)
        return _Transaction(
            fence={"_id": self._processor_id, "epoch": epoch},
            update={"$inc": {"commits": 1}, **dimension},
            writes=writes,
        )


def _add_session(writes: Mapping[str, list[Write]], path: str, delta: SessionDelta) -> None:
    if delta.replaced:
        writes["sessions"].append(DeleteOne({"_id": path}))
        writes["session_rows"].append(DeleteMany({"_id": _under(path)}))
    if delta.head is not None:
        writes["sessions"].append(ReplaceOne({"_id": path}, {"head": delta.head}, upsert=True))
    for track in delta.tracks:
        _add_track(writes["session_rows"], f"{path}/{track.track:d}", track)


def _add_track(writes: list[Write], path: str, delta: TrackDelta) -> None:
    track = _under(path)
    if delta.below is not None:
        writes.append(DeleteMany({"_id": {**track, "$lt": _row_id(path, delta.below)}}))
    if delta.above is not None:
        writes.append(DeleteMany({"_id": {**track, "$gt": _row_id(path, delta.above)}}))
    for number, text in delta.rows:
        writes.append(ReplaceOne({"_id": _row_id(path, number)}, {"document": text}, upsert=True))


def _add_ltm(writes: Mapping[str, list[Write]], processor_id: str, change: LtmChange) -> None:
    if change.cleared:
        for collection in ("patterns", "vectors"):
            writes[collection].append(DeleteMany({"_id": _under(processor_id)}))
    for pattern in change.put:
        document = documents.pattern_document(pattern)
        writes["patterns"].append(ReplaceOne({"_id": f"{processor_id}/{pattern.name}"}, document, upsert=True))
    for name in change.deleted:
        writes["patterns"].append(DeleteOne({"_id": f"{processor_id}/{name}"}))
    for symbol in change.forgotten:
        writes["vectors"].append(DeleteOne({"_id": f"{processor_id}/{symbol}"}))
    for symbol, vector in change.vectors:
        document = {"data": documents.vector_bytes(vector)}
        writes["vectors"].append(ReplaceOne({"_id": f"{processor_id}/{symbol}"}, document, upsert=True))


def _under(path: str) -> dict[str, str]:
    """Return the range of every _id below the path."""
    return {"$gt": f"{path}/", "$lt": f"{path}0"}  # "0" is what follows "/"


def _row_id(path: str, number: int) -> str:
    return f"{path}/{number:0{_NUMBER_DIGITS}d}"


def _try_again(error: PyMongoError, deadline_s: float) -> bool:
    """Return False, for another try, if the transaction met with a passing trouble. Raises: StoreUnavailable."""
    if error.has_error_label(_TRANSIENT) and time.monotonic() < deadline_s:
        return False
    raise _unavailable(error) from error


def _unavailable(error: PyMongoError) -> StoreUnavailable:
    return StoreUnavailable(
        f"MongoDB is out of reach or refused ({type(error).__name__}); check that it runs, and MONGO_URL."
    )
