"""How the gateway talks to MongoDB: the client's options, and an end that leaves no socket behind.

What kato_node.store says of the node's client holds here, too; the gateway imports nothing of it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from pymongo import AsyncMongoClient
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)

from kato_gateway.registry.mongo_schema import Database, Stored
from kato_gateway.registry.mongo_writers import Writers

CONNECT_TIMEOUT_S = 2.0
CONNECTIONS_MAX = 50


class Connection:
    """A client of that server, which connects when it is used.

    The URL says where, and as whom. How is ours, whatever its options say: an acknowledged write survives, and reads
    see only such.

    Args:
        gateway_id: under which the sessions of its transactions are on record.
        timeout_s: within which a majority is to have a write, and a primary is to be found.
    Raises: PyMongoError or ValueError for a bad URL.
    """

    def __init__(self, url: str, database: str, *, gateway_id: str, timeout_s: float) -> None:
        self._heartbeats = _Heartbeats()
        self.client: AsyncMongoClient[Stored] = AsyncMongoClient(
            url,
            w="majority",
            journal=True,
            wTimeoutMS=_ms(timeout_s),  # within pymongo.timeout the driver sends what is left of it, maxTimeMS, instead
            readConcernLevel="majority",
            readPreference="primary",
            retryWrites=True,
            retryReads=True,
            timeoutMS=None,
            connectTimeoutMS=_ms(CONNECT_TIMEOUT_S),
            serverSelectionTimeoutMS=_ms(timeout_s),
            serverMonitoringMode="poll",  # a failed command asks again at once
            minPoolSize=0,
            maxPoolSize=CONNECTIONS_MAX,
            appname="kato-gateway",
            event_listeners=[self._heartbeats],
        )
        self.database: Database = self.client[database]
        self.writers = Writers(self.database, gateway_id)

    async def close(self) -> None:
        """Let go of every socket: one that the driver connects just then would be left to the garbage collector."""
        await self.writers.close()
        await self._heartbeats.quiet()
        await self.client.close()


class _Heartbeats(ServerHeartbeatListener):
    """Knows whether the driver is asking the server for its state, and may be connecting for it."""

    def __init__(self) -> None:
        self._asking = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def started(self, _event: ServerHeartbeatStartedEvent) -> None:
        """See ServerHeartbeatListener."""
        self._asking += 1
        self._quiet.clear()

    def succeeded(self, _event: ServerHeartbeatSucceededEvent) -> None:
        """See ServerHeartbeatListener."""
        self._ended()

    def failed(self, _event: ServerHeartbeatFailedEvent) -> None:
        """See ServerHeartbeatListener."""
        self._ended()

    async def quiet(self) -> None:
        """Return once it is not asking, or as long after as a connect may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._quiet.wait()

    def _ended(self) -> None:
        self._asking -= 1
        if not self._asking:
            self._quiet.set()


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
