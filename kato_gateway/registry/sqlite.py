"""The embedded registry: one SQLite file, one thread that owns the connection, one commit for all that wait."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

from kato_gateway.domain.errors import RegistryUnavailable
from kato_gateway.domain.sessions import NodeRecord, NodeState, SessionRecord
from kato_gateway.registry.base import (
    Change,
    Leftover,
    LeftoverChange,
    NodeChange,
    OwnerChange,
    PurgeChange,
    SessionChange,
    SessionQuery,
)
from kato_gateway.registry.documents import (
    Document,
    Plain,
    conditions,
    leftover_document,
    leftover_of,
    node_document,
    node_record,
    owner_document,
    session_document,
    session_record,
)
from kato_gateway.registry.schema import COLUMNS, HOLDING, LIVING, UnknownSchema, brought_up

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], object]

BUSY_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 15.0
GROUP_MAX = 256

_ADVICE = "Check the disk and the file's permissions."

_log = logging.getLogger(__name__)

_COMPARED = {"sessions": ("_id", "incarnation", "version"), "nodes": ("_id", "version")}


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
        steps = [(*_step(change), _may_be_done(change)) for change in changes]

        def work(connection: sqlite3.Connection) -> bool:
            for statement, values, may_be_done in steps:
                if connection.execute(statement, values).rowcount == 0 and not may_be_done:
                    raise _Refused
            return True

        return await self._call(work, writes=True)

    async def session(self, session_id: str) -> SessionRecord | None:
        """See Registry."""
        found = await self._documents("SELECT document FROM sessions WHERE _id = ?", (session_id,))
        return session_record(found[0]) if found else None

    async def sessions(self, query: SessionQuery, *, limit: int, after: str = "") -> Sequence[SessionRecord]:
        """See Registry."""
        where, values = _where(query)
        found = await self._documents(
            f"SELECT document FROM sessions WHERE _id > ?{where} ORDER BY _id LIMIT ?",  # noqa: S608 - our own names
            (after, *values, limit),
        )
        return [session_record(document) for document in found]

    async def count_sessions(self, query: SessionQuery) -> int:
        """See Registry."""
        where, values = _where(query)
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
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        brought_up(connection)
    except BaseException:
        connection.close()
        raise
    return connection


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
    if outcome is not True:
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


def _may_be_done(change: Change) -> bool:
    """Whether the change stands, too, where there is nothing left to do."""
    return isinstance(change, LeftoverChange) or (isinstance(change, PurgeChange) and not change.owed)


def _step(change: Change) -> tuple[str, tuple[Plain, ...]]:
    """Return the statement that makes the change, or touches no row if it may not be made."""
    if isinstance(change, LeftoverChange):
        document = leftover_document(change.leftover)
        if change.remember:
            statement, values = _insert("leftovers", document)
            return statement.replace("INSERT", "INSERT OR IGNORE", 1), values
        return "DELETE FROM leftovers WHERE _id = ?", (document["_id"],)
    if isinstance(change, OwnerChange):
        statement, values = _insert("owners", owner_document(change))
        return f"{statement} ON CONFLICT (_id) DO UPDATE SET owner = owner WHERE owner = excluded.owner", values
    if isinstance(change, PurgeChange):
        return _purge_step(change)
    return _compared_step(change)


def _compared_step(change: SessionChange | NodeChange) -> tuple[str, tuple[Plain, ...]]:
    table, before, after = _documents_of(change)
    if before is None:
        return _insert(table, after or {})
    compared = " AND ".join(f"{name} = ?" for name in _COMPARED[table])
    expected = tuple(before[name] for name in _COMPARED[table])
    if after is None:
        return f"DELETE FROM {table} WHERE {compared}", expected  # noqa: S608 - our own names
    columns = COLUMNS[table]
    assigned = ", ".join(f"{name} = ?" for name in (*columns, "document"))
    return f"UPDATE {table} SET {assigned} WHERE {compared}", (*_row(table, after), *expected)  # noqa: S608


def _purge_step(change: PurgeChange) -> tuple[str, tuple[Plain, ...]]:
    if not change.owed:
        return "DELETE FROM purges WHERE _id = ?", (change.processor_id,)
    statement = (
        "INSERT OR REPLACE INTO purges (_id, document) SELECT ?, '{}' WHERE NOT EXISTS "  # noqa: S608 - our own words
        f"(SELECT 1 FROM sessions WHERE processor_id = ? AND status IN ({LIVING}))"
    )
    return statement, (change.processor_id, change.processor_id)


def _documents_of(change: SessionChange | NodeChange) -> tuple[str, Document | None, Document | None]:
    if isinstance(change, SessionChange):
        return (
            "sessions",
            session_document(change.before) if change.before else None,
            session_document(change.after) if change.after else None,
        )
    return (
        "nodes",
        node_document(change.before) if change.before else None,
        node_document(change.after) if change.after else None,
    )


def _insert(table: str, document: Document) -> tuple[str, tuple[Plain, ...]]:
    columns = (*COLUMNS[table], "document")
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", _row(table, document)  # noqa: S608


def _row(table: str, document: Document) -> tuple[Plain, ...]:
    return (*(document[name] for name in COLUMNS[table]), json.dumps(document, separators=(",", ":")))


def _where(query: SessionQuery) -> tuple[str, tuple[Plain, ...]]:
    """Return the query's conditions as ` AND …` and their values."""
    parts: list[str] = []
    values: list[Plain] = []
    for name, relation, operands in conditions(query):
        places = ", ".join("?" * len(operands))
        parts.append(f" AND {name} IN ({places})" if relation == "in" else f" AND {name} <= {places}")
        values += operands
    return "".join(parts), tuple(values)
