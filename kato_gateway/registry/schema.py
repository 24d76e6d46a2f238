"""The tables of the embedded registry, and how a file of an older KATO comes to have them.

Columns are what is compared, searched or sorted by; the document has the whole. A file says in `user_version` which
version of this it has:

    0  empty, or the first, which did not say so
    1  sessions have an owner, processors have owners
    2  facts of the installation
    3  the gateways that serve
"""

from __future__ import annotations

import json
import sqlite3

from kato_gateway.domain.sessions import HOLDING_STATES, LIVE_STATUSES

VERSION = 3

HOLDING = ", ".join(sorted(f"'{state.value}'" for state in HOLDING_STATES))
LIVING = ", ".join(sorted(f"'{status.value}'" for status in LIVE_STATUSES))

COLUMNS = {
    "sessions": (
        "_id",
        "incarnation",
        "version",
        "status",
        "owner",
        "user_id",
        "processor_id",
        "node_id",
        "expires_at_s",
        "ended_at_s",
        "created_at_s",
    ),
    "nodes": ("_id", "version", "state", "processor_id"),
    "leftovers": ("_id", "processor_id"),
    "owners": ("_id", "owner"),
    "gateways": ("_id",),
}

_TABLES = f"""
CREATE TABLE IF NOT EXISTS sessions (
    _id TEXT PRIMARY KEY, incarnation TEXT NOT NULL, version INTEGER NOT NULL, status TEXT NOT NULL, owner TEXT,
    user_id TEXT, processor_id TEXT NOT NULL, node_id TEXT, expires_at_s REAL, ended_at_s REAL,
    created_at_s REAL NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_by_status ON sessions (status);
CREATE INDEX IF NOT EXISTS sessions_by_processor ON sessions (processor_id);
CREATE INDEX IF NOT EXISTS sessions_by_owner ON sessions (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS sessions_by_user ON sessions (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS sessions_by_node ON sessions (node_id) WHERE node_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expires_at_s) WHERE expires_at_s IS NOT NULL;
CREATE INDEX IF NOT EXISTS sessions_by_end ON sessions (ended_at_s) WHERE ended_at_s IS NOT NULL;
CREATE TABLE IF NOT EXISTS nodes (
    _id TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL, processor_id TEXT,
    document TEXT NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS one_node_holds_a_processor ON nodes (processor_id) WHERE state IN ({HOLDING});
CREATE TABLE IF NOT EXISTS leftovers (
    _id TEXT PRIMARY KEY, processor_id TEXT NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leftovers_by_processor ON leftovers (processor_id);
CREATE TABLE IF NOT EXISTS owners (
    _id TEXT PRIMARY KEY, owner TEXT NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS purges (_id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gateways (_id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (_id TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class UnknownSchema(Exception):
    """The file is of a newer KATO, or of none; nothing in it has been changed."""


def brought_up(connection: sqlite3.Connection) -> None:
    """Give the file this version's tables: all of it or nothing, once, whoever else opens it at the same time.

    Raises: UnknownSchema, sqlite3.Error.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection) == 0 and _has_sessions(connection):
            _give_owners(connection)
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    """Return the version that the file says it has. Raises: UnknownSchema for one that we do not know."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise UnknownSchema(f"a newer KATO wrote this file (version {found}, known is {VERSION}); use that one.")
    return found


def _has_sessions(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sessions'").fetchone() is not None


def _give_owners(connection: sqlite3.Connection) -> None:
    """Version 0 to 1: what was created without keys is nobody's."""
    connection.execute("ALTER TABLE sessions ADD COLUMN owner TEXT")
    for session_id, text in connection.execute("SELECT _id, document FROM sessions").fetchall():
        try:
            document = json.dumps({**json.loads(text), "owner": None}, separators=(",", ":"))
        except (ValueError, TypeError) as error:
            raise UnknownSchema(f"session {session_id!r} in this file cannot be read; it is damaged.") from error
        connection.execute("UPDATE sessions SET document = ? WHERE _id = ?", (document, session_id))
