"""Looking at nodes: what the runtime knows of them, and what they answer themselves."""

from __future__ import annotations

from collections.abc import Collection

from container_manager.errors import ContainerError
from container_manager.spec import Liveness, NodeStatus
from kato_gateway.clock import Unchanged
from kato_gateway.domain.errors import GatewayError
from kato_gateway.domain.policy import Answer, Sight, needs_asking
from kato_gateway.domain.sessions import NodeRecord, NodeState
from kato_gateway.ground import Ground

_HELD = frozenset({NodeState.BINDING, NodeState.BOUND})


class Lookout:
    """Asks, with deadlines, and remembers since when a node has been unwell: alive and silent, or draining."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._unwell_since_s: dict[str, float] = {}
        self._records = Unchanged(ground.clock)

    async def status(self, node_id: str) -> NodeStatus:
        """Ask the runtime; no answer is UNKNOWN."""
        try:
            return await self._ground.runtime.status(node_id)
        except ContainerError:
            return NodeStatus(node_id=node_id, liveness=Liveness.UNKNOWN)

    async def look(self, node: NodeRecord) -> Sight:
        """Ask the runtime, if it is its node, and the node itself if that matters."""
        if not node.is_on(self._ground.engine):
            return await self._foreign(node)
        return await self.sight(node, await self.status(node.node_id))

    async def glance(self, node: NodeRecord) -> Sight:
        """Ask the runtime alone."""
        return self._unasked(node, await self.status(node.node_id))

    async def sight(self, node: NodeRecord, status: NodeStatus) -> Sight:
        """Ask the node itself, if that matters for one of which the runtime says this."""
        seen = self._unasked(node, status)
        if seen.foreign:
            return await self._foreign(node)
        if not needs_asking(node, seen.liveness):
            return seen
        asked_s = self._ground.clock.monotonic_s()
        answer = await self.answer(node)
        if answer is not None and answer.state != "draining":
            self.forget(node.node_id)
            return Sight(liveness=seen.liveness, asked=True, answer=answer, age_s=seen.age_s)
        since_s = self._unwell_since_s.setdefault(node.node_id, asked_s)
        unwell_s = self._ground.clock.monotonic_s() - since_s
        return Sight(liveness=seen.liveness, asked=True, answer=answer, unwell_s=unwell_s, age_s=seen.age_s)

    async def answer(self, node: NodeRecord) -> Answer | None:
        """Ask the node itself; None: it gave no answer."""
        try:
            identity = await self._ground.client.identity(node, timeout_s=self._ground.policy.call_timeout_s)
        except GatewayError:
            return None
        return Answer(
            node_id=identity.node_id,
            state=identity.state,
            processor_id=identity.processor_id,
            epoch=identity.epoch,
        )

    async def gone(self, node_id: str, *, within_s: float, poll_s: float) -> None:
        """Return once the node does not live any more, or after `within_s`."""
        clock = self._ground.clock
        until_s = clock.monotonic_s() + within_s
        while clock.monotonic_s() < until_s and (await self.status(node_id)).liveness is Liveness.ALIVE:
            await clock.sleep(poll_s)

    def forget(self, node_id: str) -> None:
        """Let go of what is remembered of a node that is well or gone."""
        self._unwell_since_s.pop(node_id, None)

    def keep(self, node_ids: Collection[str]) -> None:
        """Let go of the age of every other node's record."""
        self._records.keep(node_ids)

    def _unasked(self, node: NodeRecord, status: NodeStatus) -> Sight:
        ours = node.is_on(self._ground.engine) and status.deployment in {"", self._ground.deployment}
        if not ours:
            return Sight(liveness=Liveness.UNKNOWN, foreign=True)
        age_s = self._records.for_s(node.node_id, node.version)
        return Sight(liveness=status.liveness, age_s=age_s, exit_status=status.exit_status)

    async def _foreign(self, node: NodeRecord) -> Sight:
        answer = await self.answer(node) if node.state in _HELD else None
        return Sight(liveness=Liveness.UNKNOWN, foreign=True, asked=True, answer=answer)
