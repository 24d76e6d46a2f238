"""The protocol that every registry obeys; tests/conformance holds each of them to it.

A registry keeps documents under string ids: sessions, nodes, leftovers, the owners of processors, the purges that are
owed to processors, the gateways that serve, and facts of the installation. It decides nothing: a change names the
document that it replaces and the one that comes after, and is made only if the first still stands (compare and set).
It locks nothing beyond one transaction, so several gateways may share one registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from kato_gateway.domain.sessions import NodeRecord, SessionRecord, SessionStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A session that has ended, and whose records its processor's store may still have; a node is to delete them."""

    processor_id: str
    session_id: str
    incarnation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRecord:
    """A gateway that serves, as it says of itself now and then.

    Attributes:
        gateway_id: its own, of this run.
        engine: where it starts nodes, and spec_hash: what it starts; as of NodeRecord.
        at_s: when it last said so, by its own clock; seconds since the epoch.
    """

    gateway_id: str
    engine: str
    spec_hash: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionChange:
    """From `before` (None: no session of this id) to `after` (None: deleted); compares incarnation and version."""

    before: SessionRecord | None
    after: SessionRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChange:
    """From `before` (None: no node of this id) to `after` (None: deleted); compares the version."""

    before: NodeRecord | None
    after: NodeRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftoverChange:
    """Remember a leftover, or forget it once its node has deleted it; either may have been done before."""

    leftover: Leftover
    remember: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerChange:
    """Let the processor be this owner's, for good; not made if it is another's."""

    processor_id: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeChange:
    """Owe the deletion of everything that the processor has, or no more once a node has done it.

    It cannot become owed while a live session uses the processor, the changes before this one made. Either may have
    been done before.
    """

    processor_id: str
    owed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayChange:
    """Note that the gateway serves, in place of what it said before, or that it does so no more."""

    gateway: GatewayRecord
    serves: bool


Change: TypeAlias = SessionChange | NodeChange | LeftoverChange | OwnerChange | PurgeChange | GatewayChange


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionQuery:
    """Which sessions: those that meet every condition given.

    Attributes:
        owner: None: any, and none.
        node_id: the node that has it open, by the node's own id.
        expires_by_s, ended_by_s, created_by_s: that time or earlier, seconds since the epoch.
    """

    owner: str | None = None
    user_id: str | None = None
    statuses: frozenset[SessionStatus] | None = None
    processor_id: str | None = None
    node_id: str | None = None
    expires_by_s: float | None = None
    ended_by_s: float | None = None
    created_by_s: float | None = None


class Registry(Protocol):
    """Sessions and nodes, durably. Every call may raise RegistryUnavailable (kato_gateway.domain.errors)."""

    async def open(self) -> None:
        """Connect, and create what is missing."""

    async def close(self) -> None:
        """Let go of every connection, file and thread. Idempotent."""

    async def apply(self, changes: Sequence[Change]) -> bool:
        """Make all changes durably, or none; return whether they were made.

        They are not made if a `before` no longer stands, if a new document's id is taken, if another node holds the
        processor that a node is to hold, another owner has the one that an owner is to have, or a live session uses
        the one whose purge is to be owed. On RegistryUnavailable they may or may not have been made.
        """

    async def settled(self, name: str, proposed: str) -> str:
        """Return the fact of the installation of this name: what the first of all gateways proposed, durably.

        On RegistryUnavailable it may or may not be settled; asking again tells.
        """

    async def session(self, session_id: str) -> SessionRecord | None:
        """Return the session of this id, live or ended."""

    async def sessions(self, query: SessionQuery, *, limit: int, after: str = "") -> Sequence[SessionRecord]:
        """Return the first `limit` sessions of the query whose id sorts after `after`, by id."""

    async def count_sessions(self, query: SessionQuery) -> int:
        """Return how many sessions the query has."""

    async def node(self, node_id: str) -> NodeRecord | None:
        """Return the node of this id."""

    async def node_of(self, processor_id: str) -> NodeRecord | None:
        """Return the node that holds the processor, binding or bound."""

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return every node on record, ended ones included, by id."""

    async def count_nodes(self) -> int:
        """Return how many nodes have not ended."""

    async def owner(self, processor_id: str) -> str | None:
        """Return whose the processor is, None if it is nobody's yet."""

    async def purges(self) -> Sequence[str]:
        """Return the processors to which a purge is owed, sorted."""

    async def gateways(self) -> Sequence[GatewayRecord]:
        """Return every gateway that said it serves and has not said otherwise since, by id."""

    async def leftovers(self, processor_id: str) -> Sequence[Leftover]:
        """Return what the processor's store may still have of ended sessions, by session id."""
