"""Changes and queries as statements of SQLite, on the tables of schema.py."""

from __future__ import annotations

import json

from kato_gateway.registry.base import (
    Change,
    GatewayChange,
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
    compared_documents,
    conditions,
    gateway_document,
    leftover_document,
    owner_document,
)
from kato_gateway.registry.schema import COLUMNS, LIVING

_COMPARED = {"sessions": ("_id", "incarnation", "version"), "nodes": ("_id", "version")}


def may_be_done(change: Change) -> bool:
    """Whether the change stands, too, where there is nothing left to do."""
    return isinstance(change, LeftoverChange | GatewayChange) or (isinstance(change, PurgeChange) and not change.owed)


def step(change: Change) -> tuple[str, tuple[Plain, ...]]:
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
    if isinstance(change, GatewayChange):
        return _gateway_step(change)
    return _compared_step(change)


def _compared_step(change: SessionChange | NodeChange) -> tuple[str, tuple[Plain, ...]]:
    table = "sessions" if isinstance(change, SessionChange) else "nodes"
    before, after = compared_documents(change)
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


def _gateway_step(change: GatewayChange) -> tuple[str, tuple[Plain, ...]]:
    if not change.serves:
        return "DELETE FROM gateways WHERE _id = ?", (change.gateway.gateway_id,)
    statement, values = _insert("gateways", gateway_document(change.gateway))
    return statement.replace("INSERT", "INSERT OR REPLACE", 1), values


def _insert(table: str, document: Document) -> tuple[str, tuple[Plain, ...]]:
    columns = (*COLUMNS[table], "document")
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", _row(table, document)  # noqa: S608


def _row(table: str, document: Document) -> tuple[Plain, ...]:
    return (*(document[name] for name in COLUMNS[table]), json.dumps(document, separators=(",", ":")))


def where_of(query: SessionQuery) -> tuple[str, tuple[Plain, ...]]:
    """Return the query's conditions as ` AND …` and their values."""
    parts: list[str] = []
    values: list[Plain] = []
    for name, relation, operands in conditions(query):
        places = ", ".join("?" * len(operands))
        parts.append(f" AND {name} IN ({places})" if relation == "in" else f" AND {name} <= {places}")
        values += operands
    return "".join(parts), tuple(values)
