"""A node's connection to MongoDB: a replica set with our collections, and what is left to be swept up there."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pymongo
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import CollectionInvalid, OperationFailure, PyMongoError

from kato_node.store.base import StoreUnavailable, StoreUnreachable
from kato_node.store.mongo_client import Document, Errands, Heartbeats, connected, translated
from kato_node.store.mongo_documents import COLLECTIONS, SCHEMA_VERSION, under

OPEN_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 0.2  # of each step of it
BATCH_DOCUMENTS = 1_000  # read, or swept up, at once

_NAMESPACE_EXISTS = 48


class Connection:
    """A client of one database, and the session of the server to which a node's transactions belong.

    Args:
        url: of a replica set; one member is enough. Its options cannot weaken what a store promises: see `connected`.

    Raises: StoreUnavailable, for a URL that the driver refuses.
    """

    def __init__(self, url: str, database: str) -> None:
        self._heartbeats = Heartbeats()
        try:
            self.client = connected(url, self._heartbeats)
        except (PyMongoError, ValueError) as error:  # its words may hold the password
            message = f"MONGO_URL: the driver does not take it ({type(error).__name__})"
            advice = "special characters of name and password are to be percent-encoded"
            raise StoreUnavailable(f"{message}; {advice}.") from None
        self.database = self.client[database]
        self.session = self.client.start_session()
        self.errands = Errands()
        self._is_open = False
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Find the server, and create what is missing there; then sweep up. Done once.

        Raises: StoreUnavailable, StoreUnreachable if another try may find the server.
        """
        if self._is_open:
            return
        await self.errands.run(translated(self._open()))
        self._is_open = True
        self.sweep()

    async def close(self) -> None:
        """Let go of the server. It takes a moment, whatever that does; a caller that is cancelled does not stop it."""
        await asyncio.shield(asyncio.create_task(self._close()))

    def sweep(self) -> None:
        """Sweep up garbage, soon and beside everything else."""
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = self.errands.start(self._swept())

    async def _close(self) -> None:
        """Close the client when it is not connecting: the driver forgets the socket of a connect that it cancels."""
        await self.errands.end(within_s=CLOSE_TIMEOUT_S)
        with suppress(PyMongoError), pymongo.timeout(CLOSE_TIMEOUT_S):
            if self.client.topology_description.has_writable_server():
                await self.session.end_session()
            else:
                self.client._topology.pop_all_sessions()  # else it looks for a server to tell, connecting again
        await self._heartbeats.quiet(within_s=CLOSE_TIMEOUT_S)
        with pymongo.timeout(CLOSE_TIMEOUT_S):
            await self.client.close()

    async def _open(self) -> None:
        with pymongo.timeout(OPEN_TIMEOUT_S):
            hello = await self.client.admin.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            if hello.get("isreplicaset"):
                raise StoreUnreachable("MongoDB is a replica set that was not initiated yet: run rs.initiate().")
            raise StoreUnavailable("MongoDB is not a replica set; start it as one (one member is enough).")
        for name in sorted(set(COLLECTIONS) - set(await self.database.list_collection_names())):
            try:
                await self.database.create_collection(name)
            except CollectionInvalid:
                pass  # made by another node meanwhile
            except OperationFailure as error:
                if error.code != _NAMESPACE_EXISTS:
                    raise

    async def _swept(self) -> None:
        """Delete what belongs to nobody any more, of any processor. Broken off, it goes on with the next connection."""
        with suppress(PyMongoError):
            while garbage := await self.database.garbage.find({"v": SCHEMA_VERSION}).to_list(BATCH_DOCUMENTS):
                for document in garbage:
                    for collection in document["collections"]:
                        await _emptied(self.database[collection], document["_id"])
                    await self.database.garbage.delete_one({"_id": document["_id"]})


async def _emptied(collection: AsyncCollection[Document], path: str) -> None:
    """Delete everything under the path, a batch at a time."""
    while True:
        found = collection.find({"_id": under(path)}, {"_id": 1}, sort={"_id": 1}, limit=BATCH_DOCUMENTS)
        part = await found.to_list()
        if not part:
            return
        await collection.delete_many({"_id": {"$gte": part[0]["_id"], "$lte": part[-1]["_id"]}})
