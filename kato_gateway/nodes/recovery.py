"""What runs, what is recorded and what the nodes answer, compared: at the start, now and then, and upon each exit.

The runtime's hints may be missed, and the runtime itself may be out of reach; then nothing is concluded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from container_manager.errors import ContainerError
from container_manager.spec import Liveness, NodeStatus
from kato_gateway.domain.errors import GatewayError
from kato_gateway.domain.policy import Sight, Step, Verdict, judge, plan_recovery
from kato_gateway.domain.sessions import NodeRecord, NodeState
from kato_gateway.events import Event
from kato_gateway.ground import Ground
from kato_gateway.nodes.fleet import Fleet
from kato_gateway.nodes.janitor import Janitor
from kato_gateway.nodes.lookout import Lookout
from kato_gateway.nodes.peers import Peers
from kato_gateway.nodes.pool import Pool
from kato_gateway.registry.base import NodeChange, SessionQuery
from kato_gateway.tasks import all_of

ASKED_MAX = 32
_SESSIONS_MAX = 10_000
_log = logging.getLogger(__name__)


class Recovery:
    """Brings records, routes and pool into line with what runs."""

    def __init__(
        self,
        ground: Ground,
        *,
        peers: Peers,
        fleet: Fleet,
        pool: Pool,
        janitor: Janitor,
        lookout: Lookout,
    ) -> None:
        self._ground = ground
        self._peers = peers
        self._fleet = fleet
        self._pool = pool
        self._janitor = janitor
        self._lookout = lookout
        self._asking = asyncio.Semaphore(ASKED_MAX)

    async def sweep(self) -> None:
        """Compare everything once and act on it. Raises: RegistryUnavailable."""
        ground = self._ground
        listed = await self.running()
        if listed is None:
            return
        believed = ((self._fleet.nodes(), NodeState.BOUND), (self._pool.nodes(), NodeState.POOL))
        records = await ground.registry.nodes()  # after the list: whatever runs in it had its record before
        await self._peers.beat()  # after the nodes: whoever recorded one of them had said before that it serves
        self._lookout.keep({record.node_id for record in records})
        for node_ids, state in believed:  # what another gateway has taken, or ended
            for node_id in node_ids - {node.node_id for node in records if node.state is state}:
                self._janitor.forget(node_id)
        statuses = {status.node_id: status for status in listed}
        known = {record.node_id for record in records}
        ours = [record for record in records if record.is_on(ground.engine)]
        steps = plan_recovery(
            ours,
            await self._sights(ours, statuses),
            [status for status in listed if status.node_id not in known and not self._being_removed(status)],
            now_s=ground.clock.now_s(),
            engine=ground.engine,
            hashes=self._peers.hashes,
            policy=ground.policy,
        )
        await all_of(self._act(step) for step in steps)
        await all_of(self._tidied(record) for record in ours if self._seems_unused(record))

    async def running(self) -> Sequence[NodeStatus] | None:
        """Return what the runtime has of this deployment's nodes, dead ones included; None if it cannot tell."""
        ground = self._ground
        try:
            listed = await ground.runtime.list()
        except ContainerError as error:
            _log.warning("runtime_out_of_reach", extra={"reason": repr(error)})
            return None
        return [status for status in listed if status.deployment == ground.deployment and status.role == "node"]

    async def watch(self) -> None:
        """Follow the runtime's hints, for as long as it gives any."""
        try:
            async for node_id in self._ground.runtime.exits():
                await self._exited(node_id)
        except (ContainerError, GatewayError) as error:  # what is missed, the next sweep sees
            _log.warning("exits_not_watched", extra={"reason": repr(error)})

    async def _exited(self, node_id: str) -> None:
        ground = self._ground
        node = await ground.registry.node(node_id)
        if node is None or node.state is NodeState.ENDED:
            self._janitor.forget(node_id)  # another gateway was quicker
            return
        sight = await self._lookout.glance(node)
        verdict = judge(node, sight, hashes=self._peers.hashes, policy=ground.policy)
        if verdict is Verdict.END:
            await self._janitor.end(node, exit_status=sight.exit_status)

    def _being_removed(self, status: NodeStatus) -> bool:
        return self._janitor.is_removing(status.node_id)

    async def _sights(self, records: Sequence[NodeRecord], statuses: Mapping[str, NodeStatus]) -> dict[str, Sight]:
        seen = await all_of(self._sight(record, statuses.get(record.node_id)) for record in records)
        return dict(zip((record.node_id for record in records), seen, strict=True))

    async def _sight(self, record: NodeRecord, status: NodeStatus | None) -> Sight:
        async with self._asking:
            if status is None:  # younger than the list, another deployment's, or gone
                status = await self._lookout.status(record.node_id)
            if self._is_in_use(record) and status.deployment in {"", self._ground.deployment}:
                return Sight(liveness=status.liveness, exit_status=status.exit_status)
            sight = await self._lookout.sight(record, status)
            return replace(sight, abandoned=self._pool.is_abandoned(record))

    def _is_in_use(self, node: NodeRecord) -> bool:
        """Whether the node is bound just as this gateway takes it for, and need not be asked.

        Members of the pool are asked, since one that nobody asks ends (kato_node.node.UNASKED_MAX_S).
        """
        return node.state is NodeState.BOUND and self._fleet.serves(node)

    async def _act(self, step: Step) -> None:
        try:
            if step.verdict is Verdict.GOOD:
                await self._adopt(step.node)
            elif step.verdict is Verdict.QUARANTINE:
                if step.recorded or await self._still_runs(step.node):
                    await self._janitor.quarantine(step.node, recorded=step.recorded)
            elif step.verdict is Verdict.END:
                if step.recorded or await self._ground.registry.apply([NodeChange(before=None, after=step.node)]):
                    await self._janitor.end(step.node, exit_status=step.exit_status)
            else:
                await self._fleet.follow(step.node, step.verdict, step.answer)
                current = await self._ground.registry.node(step.node.node_id)
                if current is not None:
                    await self._adopt(current)
        except GatewayError as error:  # looked at again by the next sweep
            _log.warning("node_not_recovered", extra={"node_id": step.node.node_id, "reason": error.message})

    async def _still_runs(self, node: NodeRecord) -> bool:
        """Whether a node without a record still runs: one that another gateway was just removing does not."""
        return (await self._lookout.status(node.node_id)).liveness is Liveness.ALIVE

    async def _adopt(self, node: NodeRecord) -> None:
        """Serve by a node that is as recorded: a member of the pool, or a bound one with the sessions open on it."""
        if node.state is NodeState.POOL and await self._ground.registry.node(node.node_id) == node:
            self._pool.adopt(node)
        if node.state is not NodeState.BOUND or node.processor_id is None:
            return
        self._fleet.adopt(node)
        sessions = await self._ground.registry.sessions(SessionQuery(node_id=node.node_id), limit=_SESSIONS_MAX)
        if not self._fleet.serves(node):
            return
        for session in sessions:
            self._ground.routes.put(self._fleet.route(node, session))
        self._ground.events.publish(
            Event(
                kind="node_adopted",
                at_s=self._ground.clock.now_s(),
                processor_id=node.processor_id,
                node_id=node.node_id,
            )
        )
        if not sessions:
            await self._fleet.tidy(node.processor_id)

    def _seems_unused(self, node: NodeRecord) -> bool:
        """Whether it may serve nobody: a session that another gateway has ended leaves our route to it behind."""
        is_routed = self._ground.routes.sessions_on(node.node_id) and not self._peers.any_serve
        return self._is_in_use(node) and not is_routed

    async def _tidied(self, node: NodeRecord) -> None:
        try:
            await self._fleet.tidy(node.processor_id or "")
        except GatewayError as error:
            _log.warning("node_not_tidied", extra={"node_id": node.node_id, "reason": error.message})
