"""Looking at nodes: what the runtime knows of them, and what they answer themselves."""

from __future__ import annotations

import asyncio

from container_manager.errors import ContainerError
from container_manager.spec import Liveness
from kato_gateway.domain.errors import GatewayError
from kato_gateway.domain.policy import Answer, Sight, needs_asking
from kato_gateway.domain.sessions import NodeRecord
from kato_gateway.ground import Ground


class Lookout:
    """Asks, with deadlines, and remembers since when a node has been unwell: alive and silent, or draining."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._unwell_since_s: dict[str, float] = {}

    async def liveness(self, node_id: str) -> Liveness:
        """Ask the runtime; no answer is UNKNOWN."""
        try:
            async with asyncio.timeout(self._ground.policy.call_timeout_s):
                status = await self._ground.runtime.status(node_id)
        except (ContainerError, TimeoutError):
            return Liveness.UNKNOWN
        return status.liveness

    async def look(self, node: NodeRecord) -> Sight:
        """Ask the runtime, and the node itself if that matters."""
        return await self.sight(node, await self.liveness(node.node_id))

    async def sight(self, node: NodeRecord, liveness: Liveness) -> Sight:
        """Ask the node itself, if that matters for one of this liveness."""
        if not needs_asking(node, liveness):
            return Sight(liveness=liveness)
        answer = await self._answer(node)
        now_s = self._ground.clock.now_s()
        if answer is not None and answer.state != "draining":
            self.forget(node.node_id)
            return Sight(liveness=liveness, asked=True, answer=answer)
        since_s = self._unwell_since_s.setdefault(node.node_id, now_s)
        return Sight(liveness=liveness, asked=True, answer=answer, unwell_s=now_s - since_s)

    async def gone(self, node_id: str, *, within_s: float, poll_s: float) -> None:
        """Return once the node does not live any more, or after `within_s`."""
        clock = self._ground.clock
        until_s = clock.now_s() + within_s
        while clock.now_s() < until_s and await self.liveness(node_id) is Liveness.ALIVE:
            await clock.sleep(poll_s)

    def forget(self, node_id: str) -> None:
        """Let go of what is remembered of a node that is well or gone."""
        self._unwell_since_s.pop(node_id, None)

    async def _answer(self, node: NodeRecord) -> Answer | None:
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
