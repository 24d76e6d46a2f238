"""How a node talks to MongoDB: the client's options, and what its errors mean to a store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

from pymongo import AsyncMongoClient
from pymongo.errors import ConnectionFailure, PyMongoError
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)

from kato_node.store.base import StoreFull, StoreUnavailable, StoreUnreachable

T = TypeVar("T")
Document = dict[str, Any]

OPERATION_TIMEOUT_S = 5.0  # of one command, connecting and finding the primary included
WRITE_TIMEOUT_S = 4.0  # for which the server waits until a majority has the write: wtimeout
CONNECT_TIMEOUT_S = 2.0
HEARTBEAT_S = 10.0
POOL_SIZE_MAX = 50

TRANSIENT = "TransientTransactionError"
UNKNOWN = "UnknownTransactionCommitResult"

_OUT_OF_DISK_SPACE = 14031
# What passes: LockTimeout, MaxTimeMSExpired, WriteConflict, ReadConcernMajorityNotAvailableYet, SnapshotUnavailable,
# ExceededTimeLimit. A transaction that an owner with another user left open, and a server that was just started.
_PASSING = frozenset({24, 50, 112, 134, 246, 262})


class Heartbeats(ServerHeartbeatListener):
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

    async def quiet(self, *, within_s: float) -> None:
        """Return once it is not asking, or after that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._quiet.wait()

    def _ended(self) -> None:
        self._asking -= 1
        if not self._asking:
            self._quiet.set()


def connected(url: str, heartbeats: Heartbeats) -> AsyncMongoClient[Document]:
    """Return a client of that server, which connects when it is used.

    The URL says where, and as whom. How is ours, whatever its options say: an acknowledged write survives, reads see
    only such, and nothing waits for ever.

    Raises: PyMongoError or ValueError for a bad URL.
    """
    return AsyncMongoClient(
        url,
        w="majority",
        journal=True,
        wTimeoutMS=_ms(WRITE_TIMEOUT_S),
        readConcernLevel="majority",
        readPreference="primary",
        retryWrites=True,
        retryReads=True,
        timeoutMS=None,  # where it is set the driver sends no wtimeout
        socketTimeoutMS=_ms(OPERATION_TIMEOUT_S),
        connectTimeoutMS=_ms(CONNECT_TIMEOUT_S),
        serverSelectionTimeoutMS=_ms(OPERATION_TIMEOUT_S),
        waitQueueTimeoutMS=_ms(OPERATION_TIMEOUT_S),
        heartbeatFrequencyMS=_ms(HEARTBEAT_S),
        serverMonitoringMode="poll",  # one connection less for each node; a failed command asks again at once
        minPoolSize=0,
        maxPoolSize=POOL_SIZE_MAX,
        appname="kato-node",
        event_listeners=[heartbeats],
    )


def unavailable(error: PyMongoError) -> StoreUnavailable:
    """Return what the error means where it is known that nothing was written."""
    code = getattr(error, "code", None)
    if isinstance(error, ConnectionFailure) or error.timeout or code in _PASSING:
        return StoreUnreachable(f"MongoDB is out of reach ({type(error).__name__}); check that it runs, and MONGO_URL.")
    if code == _OUT_OF_DISK_SPACE:
        return StoreFull("MongoDB has no room left; nothing was written.")
    return StoreUnavailable(f"MongoDB refused ({type(error).__name__}); check that it runs, its users, and MONGO_URL.")


async def translated(work: Awaitable[T]) -> T:
    """Return what the work does. Raises: StoreUnavailable for what the driver raises."""
    try:
        return await work
    except PyMongoError as error:
        raise unavailable(error) from error


class Errands:
    """Work that goes on when whoever waits for it is cancelled: each piece ends by itself, within its time-outs.

    A command that is cancelled costs its connection, and one that is cancelled while it connects leaves a socket open.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self, work: Coroutine[None, None, T]) -> T:
        """Return or raise what the work does. Raises: CancelledError, and the work goes on."""
        return await asyncio.shield(self.start(work))

    def start(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Let the work go on by itself."""
        task = asyncio.create_task(work)
        self._tasks.add(cast("asyncio.Task[object]", task))
        task.add_done_callback(self._forget)
        return task

    async def end(self, *, within_s: float) -> None:
        """Return once nothing goes on any more; what takes longer is cancelled."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever was cancelled does not want it


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
