"""Which node serves a processor: found, verified, bound from the pool, given up.

One gateway does this once at a time for a processor; between several, the registry lets one node hold a processor, and
the epoch that a bind takes makes every older node of that processor refuse.
"""

from __future__ import annotations

import logging

from container_manager.spec import Liveness
from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import NodeFailed, NodeRefused, NodeTimeout, RuntimeOutOfReach
from kato_gateway.domain.policy import INTENT_SLACK_S, Answer, LifecyclePolicy, Sight, Verdict, judge
from kato_gateway.domain.sessions import (
    HOLDING_STATES,
    SERVED_STATUSES,
    NodeRecord,
    NodeState,
    SessionRecord,
    bound,
)
from kato_gateway.ground import Ground
from kato_gateway.nodes.binder import Binder, Placement
from kato_gateway.nodes.janitor import Janitor
from kato_gateway.nodes.lookout import Lookout
from kato_gateway.nodes.peers import Peers
from kato_gateway.nodes.pool import RETRY_AFTER_S, Pool
from kato_gateway.registry.base import Leftover, LeftoverChange, NodeChange, SessionQuery
from kato_gateway.sessions.opening import access_token
from kato_gateway.tasks import Flights, Locks, all_of

_log = logging.getLogger(__name__)

POLL_S = 0.05
_POLL_S_MIN = 0.005
_ATTEMPTS = 5


class Fleet:
    """The nodes that are bound, by processor."""

    def __init__(
        self,
        ground: Ground,
        *,
        peers: Peers,
        pool: Pool,
        janitor: Janitor,
        lookout: Lookout,
    ) -> None:
        self._ground = ground
        self._peers = peers
        self._binder = Binder(ground, pool=pool, janitor=janitor)
        self._janitor = janitor
        self._lookout = lookout
        self._known: dict[str, NodeRecord] = {}
        self._locks = Locks()
        self._placing: Flights[Placement] = Flights(ground.tasks, may_end=pool.is_queued)
        self._doubting: Flights[None] = Flights(ground.tasks)
        self._asking: Flights[bool] = Flights(ground.tasks)
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
        self._ground.routes.drop_node(node_id)
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

    def is_given_up(self, processor_id: str) -> bool:
        """Whether the processor gets no node now, since all who wanted one have left; nor does a node know of them."""
        return self._placing.is_given_up(processor_id)

    async def doubt(self, node_id: str) -> None:
        """Find out about a node that a call failed on; no call goes there meanwhile.

        Raises: RuntimeOutOfReach, NodeTimeout if that cannot be found out now; RegistryUnavailable.
        """
        await self._doubting.join(node_id, lambda: self._doubt(node_id))

    async def is_lost(self, node_id: str) -> bool:
        """Ask a node that a call has been waiting for in vain: whether it serves nobody, given up only now perhaps.

        No call is kept from it while it answers. Raises: as `doubt`.
        """
        return await self._asking.join(node_id, lambda: self._is_lost(node_id))

    async def tidy(self, processor_id: str) -> None:
        """Have the processor's node delete what is left of ended sessions; end it if it serves nobody.

        Raises: RegistryUnavailable.
        """
        async with self._locks.hold(processor_id):
            node = await self._ground.registry.node_of(processor_id)
            if node is None or node.state is not NodeState.BOUND:
                return
            leftovers = await self._ground.registry.leftovers(processor_id)
            await all_of(self._close(node, leftover) for leftover in leftovers)
            served = SessionQuery(processor_id=processor_id, statuses=SERVED_STATUSES)
            if node.is_on(self._ground.engine) and not await self._ground.registry.count_sessions(served):
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
        """Find or bind the processor's node, its lock held. A purge that is owed comes before everything else.

        Only a bind purges, whose claim keeps every other gateway off: a node that is there already is given up for it.
        """
        for _ in range(_ATTEMPTS):
            owes_purge = await self._owes_purge(processor_id)
            known = self._known.get(processor_id)
            if known is not None and not owes_purge:
                return _shared(known)
            holder = await self._ground.registry.node_of(processor_id)
            placement: Placement | None = None
            if holder is None:
                placement = await self._binder.bind(processor_id, session)
            elif (settled := await self._settle(holder)) is not None:
                if await self._owes_purge(processor_id):
                    await self._give_up(settled)
                else:
                    placement = _shared(settled)
            if placement is not None:
                self.adopt(placement.node)
                return placement
        raise NodeFailed(f"No node could be bound to processor {processor_id!r}; try again.")

    async def _owes_purge(self, processor_id: str) -> bool:
        return processor_id in await self._ground.registry.purges()

    async def _give_up(self, node: NodeRecord) -> None:
        """End a node that is good, for the sake of a new one. Raises: RuntimeOutOfReach if it is another engine's."""
        if not node.is_on(self._ground.engine):
            raise _theirs(node, "to replace")
        await self._janitor.end(node)

    async def _is_lost(self, node_id: str) -> bool:
        node = await self._ground.registry.node(node_id)
        if node is not None and node.state in HOLDING_STATES:
            if (await self._lookout.look(node)).answer is not None:
                return False
            await self.doubt(node_id)
            node = await self._ground.registry.node(node_id)
        if node is None or node.state not in HOLDING_STATES:
            self.forget(node_id)
            return True
        return False

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
        since_s = ground.clock.monotonic_s()
        node: NodeRecord | None = holder
        while node is not None and node.state in HOLDING_STATES:
            sight = await self._lookout.look(node)
            now_s = ground.clock.monotonic_s()
            verdict = judge(node, sight, hashes=self._peers.hashes, policy=policy)
            if verdict is Verdict.GOOD:
                return node
            if verdict is Verdict.WAIT and _patience_s(sight, policy) <= now_s - since_s:
                _raise_if_untold(node, sight)
                verdict = Verdict.END
            if verdict is Verdict.WAIT:
                await ground.clock.sleep(_pause_s(now_s - since_s))
            else:
                await self.follow(node, verdict, sight.answer, exit_status=sight.exit_status)
            node = await ground.registry.node(node.node_id)
        return None

    async def follow(
        self, node: NodeRecord, verdict: Verdict, answer: Answer | None, *, exit_status: int | None = None
    ) -> None:
        """Do what a verdict other than GOOD and WAIT asks for; nothing if the record has moved on."""
        if verdict is Verdict.END:
            await self._janitor.end(node, exit_status=exit_status)
        elif verdict is Verdict.QUARANTINE:
            await self._janitor.quarantine(node)
        elif verdict is Verdict.RECORD and answer is not None and answer.epoch is not None:
            after = bound(node, epoch=answer.epoch, at_s=self._ground.clock.now_s())
            await self._ground.registry.apply([NodeChange(before=node, after=after)])

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
    if sight.answer is None:
        return 0.0 if sight.liveness is Liveness.UNKNOWN else policy.silent_max_s + policy.call_timeout_s
    return policy.drain_grace_s if sight.answer.state == "draining" else policy.bind_timeout_s + INTENT_SLACK_S


def _raise_if_untold(node: NodeRecord, sight: Sight) -> None:
    """Refuse to conclude anything from silence. Raises: RuntimeOutOfReach, NodeTimeout."""
    if sight.foreign:
        raise _theirs(node, "and does not answer" if sight.answer is None else "and does not serve now")
    if sight.liveness is Liveness.UNKNOWN:
        raise RuntimeOutOfReach(
            f"Whether node {node.node_id} lives cannot be told now; nothing was stopped. Try again.",
            retry_after_s=RETRY_AFTER_S,
        )
    if sight.answer is None:
        raise NodeTimeout(f"Node {node.node_id} lives and does not answer; try again.", retry_after_s=RETRY_AFTER_S)


def _theirs(node: NodeRecord, why: str) -> RuntimeOutOfReach:
    return RuntimeOutOfReach(
        f"Node {node.node_id} on the engine {node.engine!r} is not this gateway's {why}. "
        f"See to it that its own gateway runs, or give the node up with DELETE /nodes/{node.node_id}.",
        details={"node_id": node.node_id, "engine": node.engine},
        retry_after_s=RETRY_AFTER_S,
    )
