"""The embedded registry: one SQLite file, one thread that owns the connection, one commit for all that wait."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

from kato_gateway.domain.errors import RegistryUnavailable
from kato_gateway.domain.sessions import NodeRecord, NodeState, SessionRecord
from kato_gateway.registry.base import (
    Change,
    GatewayRecord,
    Leftover,
    SessionQuery,
)
from kato_gateway.registry.documents import (
    Document,
    Plain,
    gateway_record,
    leftover_of,
    node_record,
    session_record,
)
from kato_gateway.registry.schema import HOLDING, UnknownSchema, brought_up
from kato_gateway.registry.statements import may_be_done, step, where_of

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], object]

BUSY_TIMEOUT_S = 5.0
_WAL_PAUSE_S = 0.01
CALL_TIMEOUT_S = 15.0
GROUP_MAX = 256

_ADVICE = "Check the disk and the file's permissions."

_log = logging.getLogger(__name__)


class _Refused(Exception):
    """A change's `before` no longer stands; the whole of its transaction is undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Work for the thread, and where its outcome is awaited. A writing one is a transaction inside its group's."""

    work: Work
    writes: bool
    future: asyncio.Future[object]


class SqliteRegistry:
    """One file; WAL, and each commit is on the disk before its callers hear of it.

    Args:
        path: the file, made if missing; its directory must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """See Registry."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[object] = loop.create_future()
        thread = threading.Thread(target=self._run, args=(loop, opened), name="gateway-registry", daemon=True)
        thread.start()
        try:
            await opened
        except asyncio.CancelledError:
            self._jobs.put(None)
            raise
        self._thread = thread

    async def close(self) -> None:
        """See Registry. Calls that wait are answered first."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._jobs.put(None)
        await asyncio.get_running_loop().run_in_executor(None, thread.join, CALL_TIMEOUT_S)

    async def apply(self, changes: Sequence[Change]) -> bool:
        """See Registry."""
        steps = [(*step(change), may_be_done(change)) for change in changes]

        def work(connection: sqlite3.Connection) -> bool:
            for statement, values, is_optional in steps:
                if connection.execute(statement, values).rowcount == 0 and not is_optional:
                    raise _Refused
            return True

        return await self._call(work, writes=True)

    async def settled(self, name: str, proposed: str) -> str:
        """See Registry."""

        def work(connection: sqlite3.Connection) -> str:
            connection.execute("INSERT OR IGNORE INTO facts (_id, value) VALUES (?, ?)", (name, proposed))
            return str(connection.execute("SELECT value FROM facts WHERE _id = ?", (name,)).fetchone()[0])

        return await self._call(work, writes=True)

    async def session(self, session_id: str) -> SessionRecord | None:
        """See Registry."""
        found = await self._documents("SELECT document FROM sessions WHERE _id = ?", (session_id,))
        return session_record(found[0]) if found else None

    async def sessions(self, query: SessionQuery, *, limit: int, after: str = "") -> Sequence[SessionRecord]:
        """See Registry."""
        where, values = where_of(query)
        found = await self._documents(
            f"SELECT document FROM sessions WHERE _id > ?{where} ORDER BY _id LIMIT ?",  # noqa: S608 - our own names
            (after, *values, limit),
        )
        return [session_record(document) for document in found]

    async def count_sessions(self, query: SessionQuery) -> int:
        """See Registry."""
        where, values = where_of(query)
        return await self._count(f"SELECT count(*) FROM sessions WHERE _id > ''{where}", values)  # noqa: S608

    async def node(self, node_id: str) -> NodeRecord | None:
        """See Registry."""
        found = await self._documents("SELECT document FROM nodes WHERE _id = ?", (node_id,))
        return node_record(found[0]) if found else None

    async def node_of(self, processor_id: str) -> NodeRecord | None:
        """See Registry."""
        found = await self._documents(
            f"SELECT document FROM nodes WHERE processor_id = ? AND state IN ({HOLDING})",  # noqa: S608 - our states
            (processor_id,),
        )
        return node_record(found[0]) if found else None

    async def nodes(self) -> Sequence[NodeRecord]:
        """See Registry."""
        return [node_record(document) for document in await self._documents("SELECT document FROM nodes ORDER BY _id")]

    async def count_nodes(self) -> int:
        """See Registry."""
        return await self._count("SELECT count(*) FROM nodes WHERE state != ?", (NodeState.ENDED.value,))

    async def owner(self, processor_id: str) -> str | None:
        """See Registry."""
        found = await self._documents("SELECT document FROM owners WHERE _id = ?", (processor_id,))
        return str(found[0]["owner"]) if found else None

    async def purges(self) -> Sequence[str]:
        """See Registry."""
        found = await self._call(
            lambda connection: connection.execute("SELECT _id FROM purges ORDER BY _id").fetchall(), writes=False
        )
        return [processor_id for (processor_id,) in found]

    async def gateways(self) -> Sequence[GatewayRecord]:
        """See Registry."""
        return [
            gateway_record(document) for document in await self._documents("SELECT document FROM gateways ORDER BY _id")
        ]

    async def leftovers(self, processor_id: str) -> Sequence[Leftover]:
        """See Registry."""
        found = await self._documents(
            "SELECT document FROM leftovers WHERE processor_id = ? ORDER BY _id", (processor_id,)
        )
        return [leftover_of(document) for document in found]

    async def _documents(self, statement: str, values: Sequence[Plain] = ()) -> list[Document]:
        rows = await self._call(lambda connection: connection.execute(statement, values).fetchall(), writes=False)
        return [json.loads(text) for (text,) in rows]

    async def _count(self, statement: str, values: Sequence[Plain]) -> int:
        row = await self._call(lambda connection: connection.execute(statement, values).fetchone(), writes=False)
        return int(row[0])

    async def _call(self, work: Callable[[sqlite3.Connection], T], *, writes: bool) -> T:
        if self._thread is None:
            raise RegistryUnavailable("The registry is closed.")
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work=work, writes=writes, future=future))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return cast("T", await future)
        except TimeoutError as error:
            raise RegistryUnavailable(f"The registry did not answer in {CALL_TIMEOUT_S:g} s.") from error

    # What follows runs on the registry's own thread.

    def _run(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[object]) -> None:
        connection: sqlite3.Connection | None
        try:
            connection = _connect(self._path, mode="rwc")
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller waits to hear of it
            reason = str(error) if isinstance(error, UnknownSchema) else f"{error}. {_ADVICE}"
            loop.call_soon_threadsafe(_settle, opened, RegistryUnavailable(f"{self._path}: {reason}"))
            return
        try:
            loop.call_soon_threadsafe(_settle, opened, None)
            more = True
            while more:
                group, more = self._next_group()
                try:
                    connection = connection or _connect(self._path, mode="rw")
                    outcomes = _outcomes(connection, group)
                except Exception as error:  # noqa: BLE001 - the thread stays for the calls to come
                    outcomes = self._failed(error, group)
                    connection = _undone(connection)
                loop.call_soon_threadsafe(_settle_all, group, outcomes)
        finally:
            if connection is not None:
                connection.close()

    def _next_group(self) -> tuple[list[_Job], bool]:
        """Wait for one job and take those behind it; False once closing was asked for."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == GROUP_MAX or self._jobs.empty():
                return group, True
            job = self._jobs.get()
        return group, False

    def _failed(self, error: Exception, group: Sequence[_Job]) -> list[object]:
        """Return a failure of the whole group as everybody's outcome. The log says which file; clients hear it, too."""
        _log.error("registry_failed", extra={"path": str(self._path), "reason": f"{type(error).__name__}: {error}"})
        reason = str(error) if isinstance(error, sqlite3.Error) else "unforeseen, see the log"
        return [RegistryUnavailable(f"The registry failed: {reason}. {_ADVICE}") for _ in group]


def _connect(path: Path, *, mode: str) -> sqlite3.Connection:
    """Open the file; `mode` is SQLite's: rwc makes it if it is missing, rw does not, lest a lost one look empty."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )
    try:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        brought_up(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Have the file's journal be a write-ahead log.

    While another connection changes that, SQLite refuses at once, without the wait that it was told.
    """
    until_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return


def _outcomes(connection: sqlite3.Connection, group: Sequence[_Job]) -> list[object]:
    """Do the whole group in one transaction, if any of it writes. Raises: what is everybody's failure."""
    if not any(job.writes for job in group):
        return [_done(connection, job) for job in group]
    connection.execute("BEGIN IMMEDIATE")
    outcomes = [_done(connection, job) for job in group]
    connection.execute("COMMIT")
    return outcomes


def _undone(connection: sqlite3.Connection | None) -> sqlite3.Connection | None:
    """Undo what the connection has begun; None, with the connection closed, if not even that can be done."""
    if connection is None:
        return None
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except Exception:  # noqa: BLE001 - closing undoes it, too
        connection.close()
        return None
    return connection


def _done(connection: sqlite3.Connection, job: _Job) -> object:
    """Do one job: its result, or its own error, or False if it is refused. Nothing is left of one that was not done.

    Raises: sqlite3.Error, which is the whole group's.
    """
    if not job.writes:
        return _tried(connection, job.work)
    connection.execute("SAVEPOINT job")
    try:
        outcome = _tried(connection, job.work)
    except (_Refused, sqlite3.IntegrityError):
        outcome = False
    if outcome is False or isinstance(outcome, Exception):
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
    return outcome


def _tried(connection: sqlite3.Connection, work: Work) -> object:
    try:
        return work(connection)
    except (_Refused, sqlite3.Error):
        raise
    except Exception as error:  # noqa: BLE001 - a value that SQLite cannot take is its caller's error, nobody else's
        return error


def _settle_all(group: Sequence[_Job], outcomes: Sequence[object]) -> None:
    for job, outcome in zip(group, outcomes, strict=True):
        _settle(job.future, outcome)


def _settle(future: asyncio.Future[object], outcome: object) -> None:
    if future.done():  # its caller has been cancelled
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
