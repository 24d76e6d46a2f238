"""Which node serves a processor: found, verified, bound from the pool, given up.

One gateway does this once at a time for a processor; between several, the registry lets one node hold a processor, and
the epoch that a bind takes makes every older node of that processor refuse.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from container_manager.spec import Liveness
from kato_gateway.dataplane.routes import Route, RouteTable
from kato_gateway.domain.errors import NodeFailed, NodeRefused, NodeTimeout, RuntimeOutOfReach
from kato_gateway.domain.policy import INTENT_SLACK_S, Answer, LifecyclePolicy, Sight, Verdict, judge, serving
from kato_gateway.domain.sessions import (
    HOLDING_STATES,
    LIVE_STATUSES,
    NodeRecord,
    NodeState,
    SessionRecord,
    activated,
    bound,
)
from kato_gateway.events import Event
from kato_gateway.ground import Ground
from kato_gateway.nodes.janitor import Janitor
from kato_gateway.nodes.lookout import Lookout
from kato_gateway.nodes.naming import called, rename
from kato_gateway.nodes.pool import RETRY_AFTER_S, Claim, Pool
from kato_gateway.registry.base import (
    Change,
    Leftover,
    LeftoverChange,
    NodeChange,
    PurgeChange,
    SessionChange,
    SessionQuery,
)
from kato_gateway.sessions.opening import access_token, binding
from kato_gateway.tasks import Flights, Locks, all_of
from kato_node.wire.control import BindReply, BindRequest

_log = logging.getLogger(__name__)

POLL_S = 0.05
_POLL_S_MIN = 0.005
_ATTEMPTS = 5
_SESSIONS_MAX = 10_000
_LOST = frozenset({"CONFLICT", "PROCESSOR_FENCED"})  # somebody else has the node, or the processor


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


class Fleet:
    """The nodes that are bound, by processor."""

    def __init__(self, ground: Ground, *, pool: Pool, janitor: Janitor, lookout: Lookout, routes: RouteTable) -> None:
        self._ground = ground
        self._pool = pool
        self._janitor = janitor
        self._lookout = lookout
        self._routes = routes
        self._known: dict[str, NodeRecord] = {}
        self._locks = Locks()
        self._placing: Flights[Placement] = Flights(ground.tasks, may_end=pool.is_queued)
        self._doubting: Flights[None] = Flights(ground.tasks)
        self._purging: Flights[None] = Flights(ground.tasks)

    def serves(self, node: NodeRecord) -> bool:
        """Whether the node is known to serve the processor that it holds in this record."""
        known = self._known.get(node.processor_id or "")
        return known is not None and known.node_id == node.node_id

    def route(self, node: NodeRecord, session: SessionRecord) -> Route:
        """Return the way to a session on a bound node. Raises: NodeFailed if the node is not bound or nowhere."""
        if node.processor_id is None or node.epoch is None or node.internal is None:
            raise NodeFailed(f"Node {node.node_id} is not bound.")
        return Route(
            session_id=session.session_id,
            incarnation=session.incarnation,
            processor_id=node.processor_id,
            epoch=node.epoch,
            node_id=node.node_id,
            address=node.internal,
            owner=session.owner,
            token=access_token(session, secret=self._ground.secret),
        )

    def adopt(self, node: NodeRecord) -> None:
        """Take it as known that the node serves its processor."""
        if node.processor_id is not None:
            self._known[node.processor_id] = node

    def forget(self, node_id: str) -> None:
        """Take it that the node serves nobody; its routes go."""
        self._routes.drop_node(node_id)
        for processor_id in [key for key, known in self._known.items() if known.node_id == node_id]:
            del self._known[processor_id]

    def nodes(self) -> frozenset[str]:
        """Return the ids of the nodes that are known to serve."""
        return frozenset(node.node_id for node in self._known.values())

    async def place(self, session: SessionRecord) -> Placement:
        """Find the node of the session's processor, or bind one, with this session as its first.

        Raises: NodeRefused (the bind), CapacityReached, NodeFailed, NodeTimeout, RuntimeOutOfReach,
            RegistryUnavailable.
        """
        while True:
            joined = self._placing.flying(session.processor_id)
            try:
                return await self._placing.join(session.processor_id, lambda: self._place(session))
            except NodeRefused:  # another session's configuration is no fault of this one
                if not joined:
                    raise

    def is_queued(self, processor_id: str) -> bool:
        """Whether the processor only waits for the start of a node to begin."""
        return self._pool.is_queued(processor_id)

    def is_given_up(self, processor_id: str) -> bool:
        """Whether the processor gets no node now, since all who wanted one have left; nor does a node know of them."""
        return self._placing.is_given_up(processor_id)

    async def doubt(self, node_id: str) -> None:
        """Find out about a node that a call failed on; no call goes there meanwhile.

        Raises: RuntimeOutOfReach, NodeTimeout if that cannot be found out now; RegistryUnavailable.
        """
        await self._doubting.join(node_id, lambda: self._doubt(node_id))

    async def tidy(self, processor_id: str) -> None:
        """Have the processor's node delete what is left of ended sessions; end it if it serves nobody.

        Raises: RegistryUnavailable.
        """
        async with self._locks.hold(processor_id):
            node = await self._ground.registry.node_of(processor_id)
            if node is None or node.state is not NodeState.BOUND:
                return
            sessions = await self._live_sessions(processor_id)
            leftovers = await self._closable(processor_id, sessions)
            await all_of(self._close(node, leftover) for leftover in leftovers)
            if not serving(sessions):
                await self._janitor.end(node)

    async def purge(self, processor_id: str) -> None:
        """Have a node delete everything that the processor has, if that is owed; one is woken for it if need be.

        Raises: as `place`; then it is still owed.
        """
        await self._purging.join(processor_id, lambda: self._purge(processor_id))

    async def _purge(self, processor_id: str) -> None:
        async with self._locks.hold(processor_id):
            if await self._owes_purge(processor_id):
                await self._placed(processor_id, None)
        await self.tidy(processor_id)

    async def _place(self, session: SessionRecord) -> Placement:
        async with self._locks.hold(session.processor_id):
            return await self._placed(session.processor_id, session)

    async def _placed(self, processor_id: str, session: SessionRecord | None) -> Placement:
        """Find or bind the processor's node, its lock held. A purge that is owed comes before everything else."""
        for _ in range(_ATTEMPTS):
            purge = await self._owes_purge(processor_id)
            known = self._known.get(processor_id)
            if known is not None and not purge:
                return _shared(known)
            holder = await self._ground.registry.node_of(processor_id)
            if holder is None:
                placement = await self._bind(processor_id, session, purge=purge)
            else:
                settled = await self._settle(holder)
                is_good = settled is not None and (not purge or await self._purged(settled))
                placement = _shared(settled) if settled is not None and is_good else None
            if placement is not None:
                self.adopt(placement.node)
                return placement
        raise NodeFailed(f"No node could be bound to processor {processor_id!r}; try again.")

    async def _owes_purge(self, processor_id: str) -> bool:
        return processor_id in await self._ground.registry.purges()

    async def _purged(self, node: NodeRecord) -> bool:
        """Have the bound node purge its processor; False if it is not what it seemed. Raises: as `place`."""
        try:
            await self._ground.client.purge(node, timeout_s=self._ground.policy.bind_timeout_s)
        except NodeFailed as error:
            _log.warning("purge_failed", extra={"node_id": node.node_id, "reason": error.message})
            return False
        await self._ground.registry.apply([PurgeChange(processor_id=node.processor_id or "", owed=False)])
        return True

    async def _doubt(self, node_id: str) -> None:
        self.forget(node_id)
        node = await self._ground.registry.node(node_id)
        if node is None or node.processor_id is None:
            return
        async with self._locks.hold(node.processor_id):
            self.forget(node_id)
            current = await self._ground.registry.node(node_id)
            if current is None or current.state not in HOLDING_STATES:
                return
            settled = await self._settle(current)
            if settled is not None:
                self.adopt(settled)

    async def _settle(self, holder: NodeRecord) -> NodeRecord | None:
        """Look at the processor's holder until it can be said whether it serves; None: it holds nothing any more.

        One that is draining is waited for, and then superseded: whatever is bound next takes a newer epoch.
        """
        ground, policy = self._ground, self._ground.policy
        since_s = ground.clock.now_s()
        node: NodeRecord | None = holder
        while node is not None and node.state in HOLDING_STATES:
            sight = await self._lookout.look(node)
            now_s = ground.clock.now_s()
            verdict = judge(node, sight, now_s=now_s, spec_hash=ground.spec_hash, policy=policy)
            if verdict is Verdict.GOOD:
                return node
            if verdict is Verdict.WAIT and _patience_s(sight, policy) <= now_s - since_s:
                _raise_if_untold(node, sight)
                verdict = Verdict.END
            if verdict is Verdict.WAIT:
                await ground.clock.sleep(_pause_s(now_s - since_s))
            else:
                await self.follow(node, verdict, sight.answer)
            node = await ground.registry.node(node.node_id)
        return None

    async def follow(self, node: NodeRecord, verdict: Verdict, answer: Answer | None) -> None:
        """Do what a verdict other than GOOD and WAIT asks for; nothing if the record has moved on."""
        if verdict is Verdict.END:
            await self._janitor.end(node)
        elif verdict is Verdict.QUARANTINE:
            await self._janitor.quarantine(node)
        elif verdict is Verdict.RECORD and answer is not None and answer.epoch is not None:
            after = bound(node, epoch=answer.epoch, at_s=self._ground.clock.now_s())
            await self._ground.registry.apply([NodeChange(before=node, after=after)])

    async def _bind(self, processor_id: str, session: SessionRecord | None, *, purge: bool) -> Placement | None:
        """Bind a pool member to the processor; None: try again, or another node holds the processor."""
        ground = self._ground
        with self._pool.serving():
            began_s = ground.clock.now_s()
            leftovers = await self._closable(processor_id, None)
            user = None if session is None else session.owner or session.user_id
            claim = await self._pool.claim(processor_id, user=user)
            if claim is None:
                return None
            claimed_s = ground.clock.now_s()
            placement: Placement | None = None
            try:
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
                placement = await self._recorded(claim, reply, session, settled)
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
                "bind": 1000 * (ground.clock.now_s() - claimed_s),
            }
            return replace(placement, timings_ms=timings_ms)

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

    async def _live_sessions(self, processor_id: str) -> Sequence[SessionRecord]:
        query = SessionQuery(processor_id=processor_id, statuses=LIVE_STATUSES)
        return await self._ground.registry.sessions(query, limit=_SESSIONS_MAX)

    async def _closable(self, processor_id: str, sessions: Sequence[SessionRecord] | None) -> Sequence[Leftover]:
        """Return the processor's leftovers, without those whose session's id lives again (`sessions`; None: look)."""
        leftovers = await self._ground.registry.leftovers(processor_id)
        if leftovers and sessions is None:
            sessions = await self._live_sessions(processor_id)
        live = {session.session_id for session in sessions or ()}
        return [leftover for leftover in leftovers if leftover.session_id not in live]

    async def _close(self, node: NodeRecord, leftover: Leftover) -> None:
        try:
            await self._ground.client.close_session(
                node,
                leftover.session_id,
                incarnation=leftover.incarnation,
                timeout_s=self._ground.policy.call_timeout_s,
            )
        except (NodeFailed, NodeTimeout, NodeRefused) as error:
            _log.info("session_not_closed", extra={"session_id": leftover.session_id, "reason": error.message})
        else:
            await self._ground.registry.apply([LeftoverChange(leftover=leftover, remember=False)])


def _shared(node: NodeRecord) -> Placement:
    return Placement(node=node, start="shared", session=None, timings_ms={})


def _pause_s(waited_s: float) -> float:
    """Return when to look again: soon at first, since most nodes that are leaving are gone in a moment."""
    return min(POLL_S, max(_POLL_S_MIN, waited_s / 4))


def _patience_s(sight: Sight, policy: LifecyclePolicy) -> float:
    """Return how long it is worth waiting for a holder that looks like this to become clear."""
    if sight.liveness is Liveness.UNKNOWN:
        return 0.0
    if sight.answer is None:
        return policy.call_timeout_s
    return policy.drain_grace_s if sight.answer.state == "draining" else policy.bind_timeout_s + INTENT_SLACK_S


def _raise_if_untold(node: NodeRecord, sight: Sight) -> None:
    """Refuse to conclude anything from silence. Raises: RuntimeOutOfReach, NodeTimeout."""
    if sight.liveness is Liveness.UNKNOWN:
        raise RuntimeOutOfReach(
            f"Whether node {node.node_id} lives cannot be told now; nothing was stopped. Try again.",
            retry_after_s=RETRY_AFTER_S,
        )
    if sight.answer is None:
        raise NodeTimeout(f"Node {node.node_id} lives and does not answer; try again.", retry_after_s=RETRY_AFTER_S)
