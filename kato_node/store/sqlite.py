"""The embedded store: one SQLite file per processor, WAL, synchronous=FULL, all of it on one thread of its own."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from kato_node.store.documents import Row, SessionDelta, Track, TrackDelta
from kato_node.thread import DedicatedThread

T = TypeVar("T")
Value = str | int | bytes | None
Statement = tuple[str, Sequence[tuple[Value, ...]]]  # and the values of each time that it runs

SCHEMA_VERSION = 1  # of the tables; the documents in them have their own
LOCK_WAIT_S = 5.0
WAL_KEPT_BYTES_MAX = 16 * 1024 * 1024  # what a large commit leaves of the -wal, once the file itself has it all
PAGE_ROWS = 1_000  # rows loaded per visit to the thread

# Rows lie in the order of their keys: what an observation adds to a session stands together, after what came before.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS processor (
    id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, commits INTEGER NOT NULL, dimension INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, head TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session_rows (
    session TEXT, number INTEGER, track INTEGER, document TEXT NOT NULL, PRIMARY KEY (session, number, track)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS patterns (name TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vectors (symbol TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process holds its lock; stop that process",
    sqlite3.SQLITE_LOCKED: "another process holds its lock; stop that process",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup",
    sqlite3.SQLITE_NOTADB: "it is not a database; restore it from a backup",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that KATO_HOME may be written",
    sqlite3.SQLITE_PERM: "it may not be opened; check the permissions of KATO_HOME",
    sqlite3.SQLITE_READONLY: "it may not be written; check the permissions of KATO_HOME",
    sqlite3.SQLITE_IOERR: "the disk failed; see the system's log",
}

_MAY_BE_FULL = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_ROOM_BYTES = 64 * 1024  # the least that opening a file takes: its -wal, and its -shm of 32 KiB

# Errors of COMMIT after which SQLite has rolled back, or still can: its last frame was never written whole.
_NOT_COMMITTED = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)


class SqliteStore:
    """The Store protocol on one file; see there for each method.

    Args:
        path: the file; its directory is made if missing.
    """

    def __init__(self, path: Path, processor_id: str) -> None:
        self._path = path
        self._processor_id = processor_id
        self._thread: DedicatedThread | None = None
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """See Store."""
        self._thread = self._thread or DedicatedThread(f"sqlite {self._processor_id}")
        try:
            await self._run(self._connected)
        except StoreError:
            await self.close()
            raise

    async def close(self) -> None:
        """See Store."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                await thread.run(self._disconnect)
            finally:
                thread.stop()

    async def bind(self) -> ProcessorRecord:
        """See Store."""
        [(epoch, dimension)] = await self._rows(
            "INSERT INTO processor VALUES (?, 1, 0, NULL) ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1 "
            "RETURNING epoch, dimension",
            self._processor_id,
        )
        return ProcessorRecord(processor_id=self._processor_id, epoch=epoch, dimension=dimension)

    async def read_epoch(self) -> int:
        """See Store."""
        rows = await self._rows("SELECT epoch FROM processor WHERE id = ?", self._processor_id)
        return int(rows[0][0]) if rows else 0

    async def load_patterns(self) -> AsyncIterator[Pattern]:
        """See Store."""
        async for name, text in self._table("patterns", "name", "document"):
            yield documents.pattern_from_text(name, text)

    async def load_vectors(self) -> AsyncIterator[tuple[str, Vector]]:
        """See Store."""
        async for symbol, data in self._table("vectors", "symbol", "data"):
            yield symbol, documents.vector_from(data)

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """See Store."""
        return await self._run(lambda: self._load_session(session_id))

    async def load_reply(self, session_id: str, number: int) -> str | None:
        """See Store."""
        rows = await self._rows(
            "SELECT document FROM session_rows WHERE session = ? AND number = ? AND track = ?",
            session_id,
            number,
            Track.OPERATIONS,
        )
        return documents.operation_reply(rows[0][0]) if rows else None

    async def session_ids(self) -> Sequence[str]:
        """See Store."""
        return [row[0] for row in await self._rows("SELECT id FROM sessions ORDER BY id")]

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        deltas = [documents.session_delta(write) for write in batch.sessions]
        ltm = documents.folded(batch.ltm)
        await self._run(lambda: self._commit(deltas, ltm, epoch))

    async def _run(self, call: Callable[[], T]) -> T:
        if self._thread is None:
            raise StoreUnavailable("The store is closed.")
        return await self._thread.run(call)

    async def _rows(self, sql: str, *values: Value) -> list[Any]:
        return await self._run(partial(self._select, sql, values))

    async def _table(self, table: str, key: str, column: str) -> AsyncIterator[Any]:
        """Yield (key, column) of every row, read page by page."""
        sql = f"SELECT {key}, {column} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {PAGE_ROWS}"  # noqa: S608
        page = await self._rows(sql, "")
        while page:
            for row in page:
                yield row
            page = await self._rows(sql, page[-1][0])

    # What follows runs on the thread.

    def _connected(self) -> sqlite3.Connection:
        """Return the connection; after an error that left it in doubt, a new one, which sees what is in the file."""
        if self._connection is None:
            with self._mapped():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = _connect(self._path)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _select(self, sql: str, values: Sequence[Value]) -> list[Any]:
        connection = self._connected()
        with self._mapped():
            return connection.execute(sql, values).fetchall()

    def _load_session(self, session_id: str) -> SessionRecord | None:
        heads = self._select("SELECT head FROM sessions WHERE id = ?", (session_id,))
        if not heads:
            return None
        tracks: dict[Track, list[Row]] = {track: [] for track in Track}
        sql = "SELECT track, number, document FROM session_rows WHERE session = ? ORDER BY number"
        for track, number, text in self._select(sql, (session_id,)):
            tracks[Track(track)].append((number, text))
        return documents.session_record(session_id, heads[0][0], tracks)

    def _commit(self, sessions: Sequence[SessionDelta], ltm: LtmChange, epoch: int) -> None:
        connection = self._connected()
        statements = _statements(sessions, ltm, self._processor_id)
        with self._mapped():
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._fence(connection, epoch)
                for sql, rows in statements:
                    connection.executemany(sql, rows)
            except BaseException:
                self._roll_back(connection)
                raise
        self._end(connection)

    def _fence(self, connection: sqlite3.Connection, epoch: int) -> None:
        sql = "UPDATE processor SET commits = commits + 1 WHERE id = ? AND epoch = ?"
        if connection.execute(sql, (self._processor_id, epoch)).rowcount != 1:
            raise Fenced(f"Another node has taken this processor; its epoch {epoch} is over.")

    def _end(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            if _code(error) in _NOT_COMMITTED:
                raise self._unavailable(error) from error
            # The file may or may not hold the commit: only a new connection, which recovers it, can tell.
            self._disconnect()
            raise CommitUnknown(self._message(error)) from error

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()  # which rolls back as well

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        if self._is_full(error):
            return StoreFull(
                f"The database file of processor {self._processor_id!r}: the disk is full; free some space."
            )
        return StoreUnavailable(self._message(error))

    def _is_full(self, error: Exception) -> bool:
        """Whether it failed for want of room: SQLite says so of files that grow, but not of those that it maps."""
        if isinstance(error, OSError):
            return error.errno in {errno.ENOSPC, errno.EDQUOT}
        return _code(error) == sqlite3.SQLITE_FULL or (_code(error) in _MAY_BE_FULL and _has_no_room(self._path))

    def _message(self, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) else error  # an OSError's text has the path in it
        advice = _ADVICE.get(_code(error), f"it cannot be used ({reason}); check KATO_HOME")
        return f"The database file of processor {self._processor_id!r}: {advice}."


def _has_no_room(path: Path) -> bool:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    no_names = found.f_files > 0 and found.f_favail == 0  # where there is no such limit, both are 0
    return no_names or found.f_bavail * found.f_frsize < _ROOM_BYTES


def _code(error: Exception) -> int:
    """Return the primary result code of an error, 0 if it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None)
    try:
        version = _schema_version(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES_MAX}")
        if version < SCHEMA_VERSION:
            connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _schema_version(connection: sqlite3.Connection) -> int:
    [(version,)] = connection.execute("PRAGMA user_version").fetchall()
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"The database file has schema version {version}; this node knows {SCHEMA_VERSION}: run a newer one."
        )
    return int(version)


def _statements(sessions: Sequence[SessionDelta], ltm: LtmChange, processor_id: str) -> Sequence[Statement]:
    """Return what a commit writes behind its fence, ready to run: while the transaction is open, others are locked."""
    statements = [statement for delta in sessions for statement in _of_session(delta)]
    statements += _of_ltm(ltm)
    if ltm.cleared or ltm.dimensionless or ltm.dimension is not None:
        statements.append(("UPDATE processor SET dimension = ? WHERE id = ?", [(ltm.dimension, processor_id)]))
    return statements


def _of_session(delta: SessionDelta) -> Iterator[Statement]:
    if delta.replaced:
        yield "DELETE FROM sessions WHERE id = ?", [(delta.session_id,)]
        yield "DELETE FROM session_rows WHERE session = ?", [(delta.session_id,)]
    if delta.head is not None:
        yield "INSERT OR REPLACE INTO sessions VALUES (?, ?)", [(delta.session_id, delta.head)]
    for track in delta.tracks:
        yield from _of_track(delta.session_id, track)


def _of_track(session_id: str, delta: TrackDelta) -> Iterator[Statement]:
    bounds = (("<", delta.below), (">", delta.above))
    for comparison, number in bounds:
        if number is not None:
            sql = f"DELETE FROM session_rows WHERE session = ? AND track = ? AND number {comparison} ?"  # noqa: S608
            yield sql, [(session_id, delta.track, number)]
    if delta.rows:
        rows = [(session_id, number, delta.track, text) for number, text in delta.rows]
        yield "INSERT OR REPLACE INTO session_rows VALUES (?, ?, ?, ?)", rows


def _of_ltm(change: LtmChange) -> Iterator[Statement]:
    if change.cleared:
        yield "DELETE FROM patterns", [()]
        yield "DELETE FROM vectors", [()]
    if change.put:
        patterns = [(pattern.name, documents.pattern_text(pattern)) for pattern in change.put]
        yield "INSERT OR REPLACE INTO patterns VALUES (?, ?)", patterns
    if change.deleted:
        yield "DELETE FROM patterns WHERE name = ?", [(name,) for name in change.deleted]
    if change.forgotten:
        yield "DELETE FROM vectors WHERE symbol = ?", [(symbol,) for symbol in change.forgotten]
    if change.vectors:
        vectors = [(symbol, documents.vector_bytes(vector)) for symbol, vector in change.vectors]
        yield "INSERT OR REPLACE INTO vectors VALUES (?, ?)", vectors
