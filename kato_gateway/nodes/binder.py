"""Binding: a node of the pool becomes a processor's own, once, with its first session; all of it recorded together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kato_gateway.domain.errors import NodeFailed, NodeRefused
from kato_gateway.domain.sessions import NodeRecord, NodeState, SessionRecord, activated, bound
from kato_gateway.events import Event
from kato_gateway.ground import Ground
from kato_gateway.nodes.janitor import Janitor
from kato_gateway.nodes.naming import called, rename
from kato_gateway.nodes.pool import Claim, Pool
from kato_gateway.registry.base import Change, LeftoverChange, NodeChange, PurgeChange, SessionChange
from kato_gateway.sessions.opening import binding
from kato_node.wire.control import BindReply, BindRequest

_LOST = frozenset({"CONFLICT", "PROCESSOR_FENCED"})  # somebody else has the node, or the processor
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A processor's node, bound.

    Attributes:
        start: "shared" if it was there already.
        session: the session that the node was bound with, recorded as active; None if it has yet to be opened.
        timings_ms: claim, spawn, ready and bind, as far as they were needed.
    """

    node: NodeRecord
    start: Literal["warm", "cold", "shared"]
    session: SessionRecord | None
    timings_ms: Mapping[str, float]


class Binder:
    """Makes members of the pool processors' nodes."""

    def __init__(self, ground: Ground, *, pool: Pool, janitor: Janitor) -> None:
        self._ground = ground
        self._pool = pool
        self._janitor = janitor

    async def bind(self, processor_id: str, session: SessionRecord | None) -> Placement | None:
        """Bind a member to the processor, with this session as its first; None: try again, or another node holds it.

        What is owed to the processor, a purge or the deletion of sessions, is looked up once the claim stands: from
        then on nobody else can settle it, so that nothing is deleted that came later.
        Raises: as Fleet.place.
        """
        clock = self._ground.clock
        with self._pool.serving():
            began_s = clock.monotonic_s()
            user = None if session is None else session.owner or session.user_id
            claim = await self._pool.claim(processor_id, user=user)
            if claim is None:
                return None
            claimed_s = clock.monotonic_s()
            placement: Placement | None = None
            try:
                placement = await self._told(claim, processor_id, session)
            except (NodeFailed, NodeRefused) as error:
                if isinstance(error, NodeRefused) and error.code not in _LOST:
                    raise
                _log.warning("bind_failed", extra={"node_id": claim.node.node_id, "reason": error.message})
            finally:
                if placement is None:
                    self._janitor.end_later(claim.node)
            if placement is None:
                return None
            timings_ms = {
                "claim": 1000 * (claimed_s - began_s) - claim.spawn_ms - claim.probe_ms,
                "spawn": claim.spawn_ms,
                "ready": claim.probe_ms,
                "bind": 1000 * (clock.monotonic_s() - claimed_s),
            }
            return replace(placement, timings_ms=timings_ms)

    async def _told(self, claim: Claim, processor_id: str, session: SessionRecord | None) -> Placement | None:
        """Tell the claimed node what it is, and record it."""
        ground = self._ground
        opens = None if session is None else (session.session_id, session.incarnation)
        leftovers = [  # but this session's own: if its caller has left, the node is to delete it once it has opened it
            leftover
            for leftover in await ground.registry.leftovers(processor_id)
            if (leftover.session_id, leftover.incarnation) != opens
        ]
        purge = processor_id in await ground.registry.purges()
        request = binding(
            processor_id,
            session,
            ended=leftovers,
            purge=purge,
            idle_timeout_s=ground.policy.idle_timeout_s,
            secret=ground.secret,
        )
        reply = await self._bound(claim, request)
        settled: list[Change] = [LeftoverChange(leftover=leftover, remember=False) for leftover in leftovers]
        if purge:
            settled.append(PurgeChange(processor_id=processor_id, owed=False))
        return await self._recorded(claim, reply, session, settled)

    async def _bound(self, claim: Claim, request: BindRequest) -> BindReply:
        """Tell the node what it is. Raises: NodeRefused, NodeFailed (also: another node took it), NodeTimeout."""
        timeout_s = self._ground.policy.bind_timeout_s
        reply = await self._ground.client.bind(claim.node, request, timeout_s=timeout_s)
        told = (reply.identity.node_id, reply.identity.state, reply.identity.processor_id)
        if told != (claim.node.node_id, "bound", request.processor_id) or reply.identity.epoch is None:
            raise NodeFailed(f"Node {claim.node.node_id} was bound and answers as {told}.")
        return reply

    async def _recorded(
        self, claim: Claim, reply: BindReply, session: SessionRecord | None, settled: Sequence[Change]
    ) -> Placement | None:
        """Record the bind, what it settled and, unless it has changed meanwhile, the session as active.

        Returns: None if the node was given up.
        """
        registry, now_s = self._ground.registry, self._ground.clock.now_s()
        node = bound(
            claim.node,
            epoch=reply.identity.epoch or 0,
            at_s=now_s,
            called=called(self._ground.runtime, session, at_s=now_s),
        )
        changes: list[Change] = [NodeChange(before=claim.node, after=node), *settled]
        opened: SessionRecord | None = None
        made = False
        if session is not None and reply.session is not None:
            opened = activated(session, node_id=node.node_id, effective_config=reply.session.config)
            made = await registry.apply([*changes, SessionChange(before=session, after=opened)])
        if not made:
            opened = None
            if not await registry.apply(changes):
                current = await registry.node(node.node_id)
                if current is None or (current.state, current.epoch) != (NodeState.BOUND, node.epoch):
                    return None
                node = current  # a sweep was quicker
                await registry.apply(settled)
        self._ground.events.publish(
            Event(kind="node_bound", at_s=now_s, processor_id=node.processor_id, node_id=node.node_id)
        )
        self._ground.tasks.spawn("rename", rename(self._ground.runtime, node))
        return Placement(node=node, start=claim.start, session=opened, timings_ms={})
