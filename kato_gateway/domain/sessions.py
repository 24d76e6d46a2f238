"""Sessions and nodes as the gateway records them, and the moves that each may make.

    session   creating -> active <-> hibernated;  each of them -> ended (deleted, expired, failed)
    node      creating -> pool -> binding -> bound;  each of them -> ended, or -> quarantined -> ended

A session is creating until a node has taken its configuration, active while a node has it open, hibernated while none
does. A node is recorded as creating before the runtime is asked for it, and as binding before it is told its
processor: `binding` and `bound` hold the processor, and the registry lets one node hold it at a time. A quarantined
node runs, but is not what its record says or has none: it gets no calls, and is left alone for a while. An ended node
serves nobody; its record stays until every trace of it is removed from the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from container_manager.spec import Address
from kato_gateway.domain.owners import is_default

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


class SessionStatus(Enum):
    """Where a session is in its life."""

    CREATING = "creating"
    ACTIVE = "active"
    HIBERNATED = "hibernated"
    ENDED = "ended"


class EndReason(Enum):
    """Why a session ended."""

    DELETED = "deleted"
    EXPIRED = "expired"
    FAILED = "failed"


class NodeState(Enum):
    """Where a node is in its life."""

    CREATING = "creating"
    POOL = "pool"
    BINDING = "binding"
    BOUND = "bound"
    QUARANTINED = "quarantined"
    ENDED = "ended"


SESSION_MOVES: Mapping[SessionStatus, frozenset[SessionStatus]] = {
    SessionStatus.CREATING: frozenset({SessionStatus.ACTIVE, SessionStatus.ENDED}),
    SessionStatus.ACTIVE: frozenset({SessionStatus.ACTIVE, SessionStatus.HIBERNATED, SessionStatus.ENDED}),
    SessionStatus.HIBERNATED: frozenset({SessionStatus.ACTIVE, SessionStatus.ENDED}),
    SessionStatus.ENDED: frozenset(),
}

NODE_MOVES: Mapping[NodeState, frozenset[NodeState]] = {
    NodeState.CREATING: frozenset({NodeState.POOL, NodeState.QUARANTINED, NodeState.ENDED}),
    NodeState.POOL: frozenset({NodeState.BINDING, NodeState.QUARANTINED, NodeState.ENDED}),
    NodeState.BINDING: frozenset({NodeState.BOUND, NodeState.QUARANTINED, NodeState.ENDED}),
    NodeState.BOUND: frozenset({NodeState.QUARANTINED, NodeState.ENDED}),
    NodeState.QUARANTINED: frozenset({NodeState.ENDED}),
    NodeState.ENDED: frozenset(),
}

LIVE_STATUSES = frozenset({SessionStatus.CREATING, SessionStatus.ACTIVE, SessionStatus.HIBERNATED})
SERVED_STATUSES = frozenset({SessionStatus.CREATING, SessionStatus.ACTIVE})  # those for which a node is kept
HOLDING_STATES = frozenset({NodeState.BINDING, NodeState.BOUND})


class IllegalMove(Exception):
    """A record was asked to go where its table does not lead; nothing has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """One session, as the registry keeps it.

    Attributes:
        owner: the name of the key that it was created with; None without keys.
        user_id: whose it is for that owner, a label; None where nobody asks.
        processor_id: whose LTM it uses: the `node_id` of the API, by default the session's own id.
        incarnation: tells it from an ended session of the same id.
        reason: why it ended; None before.
        node_id: the node that has it open, by the node's own id; set exactly while active.
        ttl_s: time to live, in seconds; None: it never expires.
        sliding: whether calls move the expiry.
        created_at_s, last_activity_at_s, expires_at_s, ended_at_s: seconds since the epoch.
        config: the session's own values, as asked for at its creation.
        effective_config: every value, as its node last answered; empty before the first answer.
        metadata: the client's own, kept as given.
        version: counts this incarnation's changes from 1; a change names the version that it replaces.
    """

    session_id: str
    user_id: str | None
    processor_id: str
    incarnation: str
    created_at_s: float
    last_activity_at_s: float
    expires_at_s: float | None
    ttl_s: float | None
    owner: str | None = None
    sliding: bool = True
    status: SessionStatus = SessionStatus.CREATING
    reason: EndReason | None = None
    node_id: str | None = None
    ended_at_s: float | None = None
    config: Mapping[str, Json] = field(default_factory=dict)
    effective_config: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    version: int = 1

    @property
    def live(self) -> bool:
        """Whether the session can still be called."""
        return self.status in LIVE_STATUSES

    @property
    def owns_processor(self) -> bool:
        """Whether the processor was made for this session, rather than named by it."""
        return self.processor_id == self.session_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One node, as the registry keeps it.

    Attributes:
        node_id: its own, for life.
        called: what the runtime is asked to call it once it is bound; None: `kato-<node_id>`, its first name.
        spec_hash: of the specification that it was started from, but for its id: equal for interchangeable nodes.
        engine: the runtime's identity (container_manager.runtime.Runtime.engine) whose node it is; "" on old records.
        starter: the gateway that starts it (GatewayRecord.gateway_id); "" on old records.
        created_at_s, changed_at_s: when its intent was recorded, when it last changed state; seconds since the epoch.
        processor_id: what it holds; set exactly while binding or bound.
        epoch: what it is bound with; set exactly while bound.
        internal, external: where the gateway, and where a client on this host, reach it; None before it has started.
        version: counts its changes from 1.
    """

    node_id: str
    spec_hash: str
    created_at_s: float
    changed_at_s: float
    engine: str = ""
    starter: str = ""
    state: NodeState = NodeState.CREATING
    processor_id: str | None = None
    epoch: int | None = None
    internal: Address | None = None
    external: Address | None = None
    called: str | None = None
    version: int = 1

    @property
    def name(self) -> str:
        """The name that people see; what the node is addressed by is its id."""
        return self.called or f"kato-{self.node_id}"

    def is_on(self, engine: str) -> bool:
        """Whether it is a node of this engine, as those on old records are taken to be."""
        return self.engine in {"", engine}


def new_session(
    session_id: str,
    *,
    incarnation: str,
    at_s: float,
    ttl_s: float | None,
    processor_id: str | None = None,
    owner: str | None = None,
    user_id: str | None = None,
    sliding: bool = True,
    config: Mapping[str, Json] | None = None,
    metadata: Mapping[str, Json] | None = None,
) -> SessionRecord:
    """Return a session as it begins, with a processor of its own unless it names one; `default` never expires."""
    lasting_s = None if is_default(session_id, owner=owner) else ttl_s
    return SessionRecord(
        session_id=session_id,
        owner=owner,
        user_id=user_id,
        processor_id=session_id if processor_id is None else processor_id,
        incarnation=incarnation,
        created_at_s=at_s,
        last_activity_at_s=at_s,
        expires_at_s=None if lasting_s is None else at_s + lasting_s,
        ttl_s=lasting_s,
        sliding=sliding,
        config=config or {},
        metadata=metadata or {},
    )


def activated(record: SessionRecord, *, node_id: str, effective_config: Mapping[str, Json]) -> SessionRecord:
    """Return the session as open on a node. Raises: IllegalMove."""
    return _session_moved(
        record, SessionStatus.ACTIVE, replace(record, node_id=node_id, effective_config=effective_config)
    )


def configured(record: SessionRecord, *, effective_config: Mapping[str, Json]) -> SessionRecord:
    """Return the session with its configuration as its node answers it now."""
    return replace(record, effective_config=effective_config, version=record.version + 1)


def hibernated(record: SessionRecord) -> SessionRecord:
    """Return the session as open nowhere. Raises: IllegalMove."""
    return _session_moved(record, SessionStatus.HIBERNATED, replace(record, node_id=None))


def ended(record: SessionRecord, *, reason: EndReason, at_s: float) -> SessionRecord:
    """Return the session as ended. Raises: IllegalMove if it has ended already."""
    return _session_moved(record, SessionStatus.ENDED, replace(record, node_id=None, reason=reason, ended_at_s=at_s))


def slid(record: SessionRecord, *, at_s: float) -> SessionRecord:
    """Return the session as last used at `at_s`: a sliding one expires its whole time to live after that.

    Never moves either time back.
    """
    used_at_s = max(record.last_activity_at_s, at_s)
    expires_at_s = record.expires_at_s
    if record.sliding and record.ttl_s is not None and expires_at_s is not None:
        expires_at_s = max(expires_at_s, used_at_s + record.ttl_s)
    return replace(record, last_activity_at_s=used_at_s, expires_at_s=expires_at_s, version=record.version + 1)


def extended(record: SessionRecord, *, at_s: float, ttl_s: float | None) -> SessionRecord:
    """Return the session with a new expiry, `ttl_s` from `at_s` (None: its present time to live again).

    A session that never expires gets no expiry by being extended without one; `default` gets none at all.
    """
    lasting_s = record.ttl_s if ttl_s is None or is_default(record.session_id, owner=record.owner) else ttl_s
    expires_at_s = None if lasting_s is None else at_s + lasting_s
    return replace(record, ttl_s=lasting_s, expires_at_s=expires_at_s, version=record.version + 1)


def pooled(node: NodeRecord, *, internal: Address, external: Address | None, at_s: float) -> NodeRecord:
    """Return the node as booted and unbound. Raises: IllegalMove."""
    return _node_moved(node, NodeState.POOL, replace(node, internal=internal, external=external, changed_at_s=at_s))


def claimed(node: NodeRecord, *, processor_id: str, at_s: float) -> NodeRecord:
    """Return the node as holding the processor that it is about to be bound to. Raises: IllegalMove."""
    return _node_moved(node, NodeState.BINDING, replace(node, processor_id=processor_id, changed_at_s=at_s))


def bound(node: NodeRecord, *, epoch: int, at_s: float, called: str | None = None) -> NodeRecord:
    """Return the node as bound with this epoch, and called so from now on. Raises: IllegalMove."""
    return _node_moved(node, NodeState.BOUND, replace(node, epoch=epoch, called=called, changed_at_s=at_s))


def quarantined(node: NodeRecord, *, at_s: float) -> NodeRecord:
    """Return the node as left alone, holding nothing. Raises: IllegalMove."""
    return _node_moved(node, NodeState.QUARANTINED, replace(node, processor_id=None, epoch=None, changed_at_s=at_s))


def node_ended(node: NodeRecord, *, at_s: float) -> NodeRecord:
    """Return the node as serving nobody and holding nothing. Raises: IllegalMove."""
    return _node_moved(node, NodeState.ENDED, replace(node, processor_id=None, epoch=None, changed_at_s=at_s))


def _session_moved(before: SessionRecord, to: SessionStatus, after: SessionRecord) -> SessionRecord:
    if to not in SESSION_MOVES[before.status]:
        raise IllegalMove(f"session {before.session_id}: {before.status.value} -> {to.value}")
    return replace(after, status=to, version=before.version + 1)


def _node_moved(before: NodeRecord, to: NodeState, after: NodeRecord) -> NodeRecord:
    if to not in NODE_MOVES[before.state]:
        raise IllegalMove(f"node {before.node_id}: {before.state.value} -> {to.value}")
    return replace(after, state=to, version=before.version + 1)
