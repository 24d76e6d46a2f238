"""What is known of sessions and nodes, for those who only read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kato_gateway.domain.errors import Conflict, Forbidden, NodeNotFound, SessionExpired, SessionNotFound
from kato_gateway.domain.owners import may_name, meant, permits
from kato_gateway.domain.policy import expires_at_s
from kato_gateway.domain.sessions import LIVE_STATUSES, EndReason, NodeRecord, NodeState, SessionRecord, slid
from kato_gateway.ground import Ground
from kato_gateway.nodes.peers import Peers
from kato_gateway.registry.base import Change, OwnerChange, SessionQuery
from kato_gateway.sessions.activity import Activity

_FLUSHES = 3  # of which one may fail, and the last be under way


class Directory:
    """Reads the registry, and adds what has not been written yet. Every call may raise RegistryUnavailable."""

    def __init__(self, ground: Ground, activity: Activity, peers: Peers) -> None:
        self._ground = ground
        self._peers = peers
        self._activity = activity

    async def session(self, session_id: str, *, owner: str | None = None) -> SessionRecord:
        """Return the live session, exactly as recorded.

        Args:
            owner: who asks: to whom another's sessions do not exist. None: whoever may see them all.
        Raises: SessionNotFound, SessionExpired.
        """
        record = await self._ground.registry.session(meant(session_id, caller=owner))
        if record is None or (not record.live and record.reason is not EndReason.EXPIRED):
            raise SessionNotFound(session_id)
        if not permits(record.owner, caller=owner):
            raise SessionNotFound(session_id)
        if not record.live or self.is_due(record):
            raise SessionExpired(session_id, processor_id=record.processor_id)
        return record

    def is_due(self, record: SessionRecord) -> bool:
        """Whether the live session's time has come: no call is open, and none was made since within its time."""
        if self._activity.in_use(record.session_id):
            return False
        at_s = expires_at_s(record, self._activity.last_use_s(record.session_id), slack_s=self.slack_s)
        return at_s is not None and at_s <= self._ground.clock.now_s()

    @property
    def slack_s(self) -> float:
        """How much later than is known here a sliding session may expire: as other gateways write their uses."""
        return _FLUSHES * self._ground.policy.flush_interval_s if self._peers.any_serve else 0.0

    def current(self, record: SessionRecord) -> SessionRecord:
        """Return the record with its times as of now; not one to compare and set with."""
        used_at_s = self._activity.last_use_s(record.session_id) if record.live else None
        return record if used_at_s is None else replace(slid(record, at_s=used_at_s), version=record.version)

    async def sessions(self, query: SessionQuery, *, limit: int, after: str = "") -> Sequence[SessionRecord]:
        """Return the first `limit` sessions of the query by id, beyond `after`; their times as of now."""
        found = await self._ground.registry.sessions(query, limit=limit, after=after)
        return [self.current(record) for record in found]

    async def count_sessions(self, query: SessionQuery) -> int:
        """Return how many sessions the query has."""
        return await self._ground.registry.count_sessions(query)

    async def owes_purge(self, processor_id: str) -> bool:
        """Return whether the processor has yet to be purged."""
        return processor_id in await self._ground.registry.purges()

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return every node that has not ended, by id."""
        return [node for node in await self._ground.registry.nodes() if node.state is not NodeState.ENDED]

    async def node(self, name: str) -> NodeRecord:
        """Return the node of this id, or the one that holds the processor of this id. Raises: NodeNotFound."""
        node = await self._ground.registry.node(name)
        if node is None or node.state is NodeState.ENDED:
            node = await self._ground.registry.node_of(name)
        if node is None:
            raise NodeNotFound(name)
        return node

    async def owning(self, record: SessionRecord) -> Sequence[Change]:
        """Return what makes the session's processor its owner's for good. Raises: Forbidden if it is another's."""
        if record.owner is None:
            return []
        taken = [name for name in (record.session_id, record.processor_id) if not may_name(name, caller=record.owner)]
        owner = await self._ground.registry.owner(record.processor_id)
        if owner is not None and not permits(owner, caller=record.owner):
            taken.append(record.processor_id)
        if taken:
            raise Forbidden(f"The name {taken[0]!r} is somebody else's; choose another one.")
        return [OwnerChange(processor_id=record.processor_id, owner=record.owner)]

    async def check_alone(self, record: SessionRecord) -> None:
        """Raise Conflict if another session uses the session's processor."""
        query = SessionQuery(processor_id=record.processor_id, statuses=LIVE_STATUSES)
        others = await self._ground.registry.count_sessions(query) - 1
        if others > 0:
            raise Conflict(f"{others} other sessions use processor {record.processor_id!r}; end them first.")
