"""A registry in memory, for tests: the same codec as the databases, and a knob for each way to fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

from kato_gateway.domain.sessions import HOLDING_STATES, LIVE_STATUSES, NodeRecord, NodeState, SessionRecord
from kato_gateway.registry.base import (
    Change,
    GatewayChange,
    GatewayRecord,
    Leftover,
    LeftoverChange,
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
    gateway_record,
    leftover_document,
    leftover_of,
    node_record,
    owner_document,
    session_record,
)

T = TypeVar("T")
Table: TypeAlias = dict[str, Document]
Knob: TypeAlias = Callable[[str, Literal["before", "after"]], Awaitable[None]]

_HOLDING = {state.value for state in HOLDING_STATES}


@dataclass(slots=True)
class MemoryTables:
    """The documents themselves; registries may share them, or find them again."""

    sessions: Table = field(default_factory=dict)
    nodes: Table = field(default_factory=dict)
    leftovers: Table = field(default_factory=dict)
    owners: Table = field(default_factory=dict)
    purges: Table = field(default_factory=dict)
    gateways: Table = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


class MemoryRegistry:
    """A registry on such tables.

    Args:
        knob: awaited before and after each call with its name; what it raises, the call raises: "before" nothing has
            happened, "after" everything has. It may also wait, or be cancelled.
    """

    def __init__(self, tables: MemoryTables, knob: Knob | None = None) -> None:
        self._knob = knob
        self._sessions = tables.sessions
        self._nodes = tables.nodes
        self._leftovers = tables.leftovers
        self._owners = tables.owners
        self._purges = tables.purges
        self._gateways = tables.gateways
        self._facts = tables.facts

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    async def close(self) -> None:
        """Do nothing: what is in memory stays, for whoever opens it again."""

    async def apply(self, changes: Sequence[Change]) -> bool:
        """See Registry."""
        return await self._call("apply", lambda: self._apply(changes))

    async def settled(self, name: str, proposed: str) -> str:
        """See Registry."""
        return await self._call("settled", lambda: self._facts.setdefault(name, proposed))

    async def session(self, session_id: str) -> SessionRecord | None:
        """See Registry."""
        found = await self._call("session", lambda: self._sessions.get(session_id))
        return session_record(found) if found else None

    async def sessions(self, query: SessionQuery, *, limit: int, after: str = "") -> Sequence[SessionRecord]:
        """See Registry."""
        found = await self._call("sessions", lambda: self._matching(query, after)[:limit])
        return [session_record(document) for document in found]

    async def count_sessions(self, query: SessionQuery) -> int:
        """See Registry."""
        return await self._call("count_sessions", lambda: len(self._matching(query, "")))

    async def node(self, node_id: str) -> NodeRecord | None:
        """See Registry."""
        found = await self._call("node", lambda: self._nodes.get(node_id))
        return node_record(found) if found else None

    async def node_of(self, processor_id: str) -> NodeRecord | None:
        """See Registry."""
        found = await self._call("node_of", lambda: self._holder(processor_id))
        return node_record(found) if found else None

    async def nodes(self) -> Sequence[NodeRecord]:
        """See Registry."""
        found = await self._call("nodes", lambda: [self._nodes[node_id] for node_id in sorted(self._nodes)])
        return [node_record(document) for document in found]

    async def count_nodes(self) -> int:
        """See Registry."""
        ended = NodeState.ENDED.value
        return await self._call("count_nodes", lambda: sum(node["state"] != ended for node in self._nodes.values()))

    async def owner(self, processor_id: str) -> str | None:
        """See Registry."""
        found = await self._call("owner", lambda: self._owners.get(processor_id))
        return str(found["owner"]) if found else None

    async def purges(self) -> Sequence[str]:
        """See Registry."""
        return await self._call("purges", lambda: sorted(self._purges))

    async def gateways(self) -> Sequence[GatewayRecord]:
        """See Registry."""
        found = await self._call("gateways", lambda: [self._gateways[key] for key in sorted(self._gateways)])
        return [gateway_record(document) for document in found]

    async def leftovers(self, processor_id: str) -> Sequence[Leftover]:
        """See Registry."""
        found = await self._call(
            "leftovers",
            lambda: [document for _, document in sorted(self._leftovers.items()) if _is_of(document, processor_id)],
        )
        return [leftover_of(document) for document in found]

    async def _call(self, name: str, work: Callable[[], T]) -> T:
        if self._knob is None:
            return work()
        await self._knob(name, "before")
        result = work()
        await self._knob(name, "after")
        return result

    def _apply(self, changes: Sequence[Change]) -> bool:
        undo: list[tuple[Table, str, Document | None]] = []
        for change in changes:
            table, key, expected, after = self._step(change)
            stored = table.get(key)
            if not _stands(stored, expected, change) or self._held_by_another(after) or self._in_use(change):
                for undone, undone_key, document in reversed(undo):
                    _put(undone, undone_key, document)
                return False
            undo.append((table, key, stored))
            _put(table, key, after)
        return True

    def _step(self, change: Change) -> tuple[Table, str, Document | None, Document | None]:
        if isinstance(change, LeftoverChange):
            document = leftover_document(change.leftover)
            return self._leftovers, str(document["_id"]), None, document if change.remember else None
        if isinstance(change, OwnerChange):
            document = owner_document(change)
            return self._owners, str(document["_id"]), document, document
        if isinstance(change, PurgeChange):
            return self._purges, change.processor_id, None, {"_id": change.processor_id} if change.owed else None
        if isinstance(change, GatewayChange):
            document = gateway_document(change.gateway)
            return self._gateways, change.gateway.gateway_id, None, document if change.serves else None
        table = self._sessions if isinstance(change, SessionChange) else self._nodes
        before, after = compared_documents(change)
        return table, str((before or after or {})["_id"]), before, after

    def _held_by_another(self, after: Document | None) -> bool:
        if after is None or after.get("state") not in _HOLDING:
            return False
        holder = self._holder(str(after["processor_id"]))
        return holder is not None and holder["_id"] != after["_id"]

    def _in_use(self, change: Change) -> bool:
        if not isinstance(change, PurgeChange) or not change.owed:
            return False
        query = SessionQuery(processor_id=change.processor_id, statuses=LIVE_STATUSES)
        return bool(self._matching(query, ""))

    def _holder(self, processor_id: str) -> Document | None:
        holding = (node for node in self._nodes.values() if node["state"] in _HOLDING)
        return next((node for node in holding if _is_of(node, processor_id)), None)

    def _matching(self, query: SessionQuery, after: str) -> list[Document]:
        wanted = conditions(query)
        return [
            self._sessions[session_id]
            for session_id in sorted(self._sessions)
            if session_id > after and all(_meets(self._sessions[session_id], *condition) for condition in wanted)
        ]


def _stands(stored: Document | None, expected: Document | None, change: Change) -> bool:
    if isinstance(change, LeftoverChange | PurgeChange | GatewayChange):
        return True
    if isinstance(change, OwnerChange):
        return stored in (None, expected)
    if stored is None or expected is None:
        return stored is None and expected is None
    return all(stored.get(name) == expected.get(name) for name in ("incarnation", "version"))


def _put(table: Table, key: str, document: Document | None) -> None:
    if document is None:
        table.pop(key, None)
    else:
        table[key] = document


def _is_of(document: Document, processor_id: str) -> bool:
    return document["processor_id"] == processor_id


def _meets(document: Document, name: str, relation: str, values: tuple[Plain, ...]) -> bool:
    value = document[name]
    if relation == "in":
        return value in values
    bound = values[0]
    return isinstance(value, int | float) and isinstance(bound, int | float) and value <= bound
