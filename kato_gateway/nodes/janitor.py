"""How nodes end: serving nobody first, then without a trace; each step can be made again.

The order is what makes a crash harmless: the record says `ended`, the node's sessions are hibernated, the runtime
removes the node, the record goes. Whoever finds an ended record carries on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from container_manager.errors import ContainerError
from kato_gateway.domain.errors import Conflict, GatewayError
from kato_gateway.domain.sessions import (
    NodeRecord,
    NodeState,
    SessionRecord,
    hibernated,
    node_ended,
    quarantined,
)
from kato_gateway.events import Event, Kind
from kato_gateway.ground import Ground
from kato_gateway.registry.base import NodeChange, SessionChange, SessionQuery
from kato_gateway.tasks import all_of

REMOVALS_MAX = 16
_PAGE = 500
_ROUNDS = 10
_log = logging.getLogger(__name__)


class Janitor:
    """Ends nodes and quarantines them.

    Args:
        forget: called at once with the id of each node that is to get no more calls.
    """

    def __init__(self, ground: Ground, forget: Callable[[str], None]) -> None:
        self._ground = ground
        self.forget = forget
        self._removing: set[str] = set()
        self._room = asyncio.Semaphore(REMOVALS_MAX)

    def is_removing(self, node_id: str) -> bool:
        """Whether the node is being removed just now."""
        return node_id in self._removing

    async def end(self, node: NodeRecord, *, exit_status: int | None = None) -> bool:
        """End the node as it stands in this record; False if the record has moved on, and nothing was done.

        Its removal goes on after the return. One of another engine, which only people give up, is merely forgotten:
        should it run, the gateway there finds it unknown.

        Args:
            exit_status: of one that has died, where that is known.
        Raises: RegistryUnavailable.
        """
        self.forget(node.node_id)
        if node.state is not NodeState.ENDED:
            after = node_ended(node, at_s=self._ground.clock.now_s())
            if not await self._ground.registry.apply([NodeChange(before=node, after=after)]):
                return False
            self._tell("node_ended", node, exit_status=exit_status)
            node = after
        self.remove_later(node)
        return True

    def end_later(self, node: NodeRecord) -> None:
        """End the node as a task of its own; if that fails, a sweep finds what is left."""
        self._ground.tasks.spawn(f"end {node.node_id}", self.end(node))

    async def quarantine(self, node: NodeRecord, *, recorded: bool = True) -> bool:
        """Let the node run, but serve nobody; False if its record has moved on. Raises: RegistryUnavailable."""
        self.forget(node.node_id)
        if recorded:
            after = quarantined(node, at_s=self._ground.clock.now_s())
            change = NodeChange(before=node, after=after)
        else:
            change = NodeChange(before=None, after=node)
        if not await self._ground.registry.apply([change]):
            return False
        self._tell("node_quarantined", node)
        await self._hibernate(node)
        return True

    def remove_later(self, node: NodeRecord) -> None:
        """Remove the ended node and then its record, as a task of its own; nothing if that is being done."""
        if node.node_id not in self._removing:
            self._removing.add(node.node_id)
            self._ground.tasks.spawn(f"remove {node.node_id}", self._remove(node))

    async def _remove(self, node: NodeRecord) -> None:
        policy, runtime = self._ground.policy, self._ground.runtime
        try:
            await self._hibernate(node)
            if node.is_on(self._ground.engine):
                async with self._room:
                    await runtime.stop(node.node_id, grace_s=policy.drain_grace_s)
                    await runtime.remove(node.node_id)
            await self._ground.registry.apply([NodeChange(before=node, after=None)])
        except (ContainerError, GatewayError) as error:
            _log.warning("node_not_removed", extra={"node_id": node.node_id, "reason": repr(error)})
        finally:
            self._removing.discard(node.node_id)

    async def _hibernate(self, node: NodeRecord) -> None:
        """Record of each session that was open on the node that it is open nowhere."""
        registry = self._ground.registry
        query = SessionQuery(node_id=node.node_id)
        for _ in range(_ROUNDS):
            sessions = await registry.sessions(query, limit=_PAGE)
            if not sessions:
                return
            await all_of(self._hibernate_one(session) for session in sessions)
        raise Conflict(f"The sessions of node {node.node_id} change too fast to be hibernated.")

    async def _hibernate_one(self, session: SessionRecord) -> None:
        if await self._ground.registry.apply([SessionChange(before=session, after=hibernated(session))]):
            self._ground.events.publish(
                Event(
                    kind="session_hibernated",
                    at_s=self._ground.clock.now_s(),
                    session_id=session.session_id,
                    processor_id=session.processor_id,
                    node_id=session.node_id,
                    owner=session.owner,
                )
            )

    def _tell(self, kind: Kind, node: NodeRecord, *, exit_status: int | None = None) -> None:
        self._ground.events.publish(
            Event(
                kind=kind,
                at_s=self._ground.clock.now_s(),
                processor_id=node.processor_id,
                node_id=node.node_id,
                exit_status=exit_status,
            )
        )
