"""The one codec between records and what a registry stores: flat documents of plain values under a string `_id`.

What clients and nodes may fill freely (config, metadata) is kept as JSON text, so that no key of theirs can mean
anything to a database.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TypeAlias, cast

from container_manager.spec import Address
from kato_gateway.domain.sessions import EndReason, Json, NodeRecord, NodeState, SessionRecord, SessionStatus
from kato_gateway.registry.base import (
    GatewayRecord,
    Leftover,
    NodeChange,
    OwnerChange,
    SessionChange,
    SessionQuery,
)

Plain: TypeAlias = str | int | float | bool | None
Document: TypeAlias = dict[str, Plain]

_FREE = ("config", "effective_config", "metadata")
_ADDRESSES = ("internal", "external")
_YOUNGER = frozenset(
    {"engine", "called", "starter"}
)  # fields that documents of an older KATO do not have; they have a default


def session_document(record: SessionRecord) -> Document:
    """Return the session as a document; its id is the session's."""
    document: Document = {"_id": record.session_id}
    for name in _SESSION_FIELDS:
        document[name] = getattr(record, name)
    document["status"] = record.status.value
    document["reason"] = record.reason.value if record.reason else None
    for name in _FREE:
        document[name] = json.dumps(getattr(record, name), separators=(",", ":"))
    return document


def session_record(document: Mapping[str, Plain]) -> SessionRecord:
    """Return the session that `session_document` wrote."""
    plain = {name: document[name] for name in _SESSION_FIELDS}
    reason = document["reason"]
    return SessionRecord(
        session_id=cast("str", document["_id"]),
        status=SessionStatus(document["status"]),
        reason=None if reason is None else EndReason(reason),
        config=_free(document, "config"),
        effective_config=_free(document, "effective_config"),
        metadata=_free(document, "metadata"),
        **plain,  # type: ignore[arg-type]  # as session_document wrote them
    )


def node_document(record: NodeRecord) -> Document:
    """Return the node as a document; its id is the node's."""
    document: Document = {"_id": record.node_id}
    for name in _NODE_FIELDS:
        document[name] = getattr(record, name)
    document["state"] = record.state.value
    for name in _ADDRESSES:
        address: Address | None = getattr(record, name)
        document[f"{name}_host"] = address.host if address else None
        document[f"{name}_port"] = address.port if address else None
    return document


def node_record(document: Mapping[str, Plain]) -> NodeRecord:
    """Return the node that `node_document` wrote; an older one knew less."""
    plain = {name: document[name] for name in _NODE_FIELDS if name in document or name not in _YOUNGER}
    return NodeRecord(
        node_id=cast("str", document["_id"]),
        state=NodeState(document["state"]),
        internal=_address(document, "internal"),
        external=_address(document, "external"),
        **plain,  # type: ignore[arg-type]  # as node_document wrote them
    )


def compared_documents(change: SessionChange | NodeChange) -> tuple[Document | None, Document | None]:
    """Return what a change compares with and what it leaves, as documents."""
    if isinstance(change, SessionChange):
        return (
            session_document(change.before) if change.before else None,
            session_document(change.after) if change.after else None,
        )
    return (
        node_document(change.before) if change.before else None,
        node_document(change.after) if change.after else None,
    )


def leftover_document(leftover: Leftover) -> Document:
    """Return the leftover as a document. Ids hold no slash, so the parts of its id cannot be confused."""
    return {
        "_id": f"{leftover.processor_id}/{leftover.session_id}/{leftover.incarnation}",
        "processor_id": leftover.processor_id,
        "session_id": leftover.session_id,
        "incarnation": leftover.incarnation,
    }


def leftover_of(document: Mapping[str, Plain]) -> Leftover:
    """Return the leftover that `leftover_document` wrote."""
    return Leftover(
        processor_id=cast("str", document["processor_id"]),
        session_id=cast("str", document["session_id"]),
        incarnation=cast("str", document["incarnation"]),
    )


def owner_document(change: OwnerChange) -> Document:
    """Return a processor's owner as a document; its id is the processor's."""
    return {"_id": change.processor_id, "owner": change.owner}


def gateway_document(record: GatewayRecord) -> Document:
    """Return the gateway as a document; its id is the gateway's."""
    return {
        "_id": record.gateway_id,
        "engine": record.engine,
        "spec_hash": record.spec_hash,
        "at_s": record.at_s,
    }


def gateway_record(document: Mapping[str, Plain]) -> GatewayRecord:
    """Return the gateway that `gateway_document` wrote."""
    return GatewayRecord(
        gateway_id=cast("str", document["_id"]),
        engine=cast("str", document["engine"]),
        spec_hash=cast("str", document["spec_hash"]),
        at_s=cast("float", document["at_s"]),
    )


def conditions(query: SessionQuery) -> tuple[tuple[str, str, tuple[Plain, ...]], ...]:
    """Return a query as conditions that must all hold: (field, one of `in` and `<=`, values).

    A field without a value (a session that never expires) meets no `<=`.
    """
    found: list[tuple[str, str, tuple[Plain, ...]]] = [
        (name, "in", (getattr(query, name),))
        for name in ("owner", "user_id", "processor_id", "node_id")
        if getattr(query, name) is not None
    ]
    if query.statuses is not None:
        found.append(("status", "in", tuple(sorted(status.value for status in query.statuses))))
    bounds = (
        ("expires_at_s", query.expires_by_s),
        ("ended_at_s", query.ended_by_s),
        ("created_at_s", query.created_by_s),
    )
    found += [(name, "<=", (bound,)) for name, bound in bounds if bound is not None]
    return tuple(found)


def _free(document: Mapping[str, Plain], name: str) -> Mapping[str, Json]:
    return cast("Mapping[str, Json]", json.loads(cast("str", document[name])))


def _address(document: Mapping[str, Plain], name: str) -> Address | None:
    host, port = document[f"{name}_host"], document[f"{name}_port"]
    return None if host is None else Address(host=cast("str", host), port=cast("int", port))


_SESSION_FIELDS = tuple(
    item.name for item in fields(SessionRecord) if item.name not in {"session_id", "status", "reason", *_FREE}
)
_NODE_FIELDS = tuple(item.name for item in fields(NodeRecord) if item.name not in {"node_id", "state", *_ADDRESSES})
