"""The sessions of the server to which a gateway's transactions belong.

A gateway that is killed in a transaction leaves it open, and what it wrote is locked for everybody until the server
ends it by itself, a minute later. So each session is on record before the first transaction is begun in it: whoever
opens as that gateway the next time, or finds that it fell silent, ends them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure

from kato_gateway.registry.mongo_schema import VERSION, WRITERS, Database, known

SESSIONS_AT_ONCE = 8  # are recorded in one write: as many more whenever all are in use


class Writers:
    """A gateway's sessions, each for one transaction at a time. All calls but `close` may raise PyMongoError.

    Args:
        gateway_id: under which they are on record.
    """

    def __init__(self, database: Database, gateway_id: str) -> None:
        self._database = database
        self._client = database.client
        self._gateway_id = gateway_id
        self._free: list[AsyncClientSession] = []
        self._adding = asyncio.Lock()

    async def open(self) -> None:
        """End what this gateway left open when it was here before, and have the first sessions."""
        await self.end_those_of(self._gateway_id)
        await self._database[WRITERS].delete_one({"_id": self._gateway_id})
        await self._add()

    async def close(self) -> None:
        """Let the server forget the sessions, if it is there. All are put back by now."""
        if self._client.topology_description.has_writable_server():  # else the client would wait for it, to tell it
            for session in self._free:
                await session.end_session()

    async def end_those_of(self, gateway_id: str) -> None:
        """End whatever transactions that gateway has under way."""
        stored = await self._database[WRITERS].find_one({"_id": gateway_id})
        if stored is not None:
            # Nobody needs a right to end the sessions of one's own user; those of another's end by themselves.
            with suppress(OperationFailure):
                await self._client.admin.command("killSessions", known(stored)["sessions"])

    async def take(self) -> AsyncClientSession:
        """Return a session for one transaction, after which it is to be put back."""
        while not self._free:
            async with self._adding:
                if not self._free:
                    await self._add()
        return self._free.pop()

    def put_back(self, session: AsyncClientSession) -> None:
        """Have the session free for another transaction: it has none open."""
        self._free.append(session)

    async def _add(self) -> None:
        added = [self._client.start_session(causal_consistency=False) for _ in range(SESSIONS_AT_ONCE)]
        await self._database[WRITERS].update_one(
            {"_id": self._gateway_id},
            {"$push": {"sessions": {"$each": [session.session_id for session in added]}}, "$set": {"schema": VERSION}},
            upsert=True,
        )
        self._free += added
