"""The nodes as people look at them: what is recorded, and what each of them says of itself now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from container_manager.errors import ContainerError
from kato_gateway.domain.errors import GatewayError, NodeNotFound
from kato_gateway.domain.owners import permits
from kato_gateway.domain.sessions import NodeRecord, NodeState
from kato_gateway.ground import Ground
from kato_gateway.registry.base import SessionQuery
from kato_gateway.sessions.directory import Directory
from kato_gateway.tasks import all_of

ASK_TIMEOUT_S = 1.0
_ASKED_MAX = 32
_SESSIONS_MAX = 1_000
_log = logging.getLogger(__name__)
_ANSWERING = frozenset({NodeState.POOL, NodeState.BOUND})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node.

    Attributes:
        sessions: the ids of the sessions that it has open.
        memory_bytes: resident; None if the node does not say.
        last_activity_at_s: when its last operation ended, now while there is one, seconds since the epoch; likewise.
    """

    record: NodeRecord
    sessions: Sequence[str]
    memory_bytes: int | None
    last_activity_at_s: float | None


class Survey:
    """Looks at nodes. With keys, an owner sees the nodes of the processors that are the owner's."""

    def __init__(self, ground: Ground, directory: Directory) -> None:
        self._ground = ground
        self._directory = directory
        self._asking = asyncio.Semaphore(_ASKED_MAX)

    async def nodes(self, *, owner: str | None = None) -> Sequence[NodeView]:
        """Return every node that the owner may see, by id. Raises: RegistryUnavailable."""
        records = [record for record in await self._directory.nodes() if await self._is_seen(record, owner)]
        return await all_of(self._view(record) for record in records)

    async def node(self, name: str, *, owner: str | None = None) -> NodeView:
        """Return one node, by its own id or its processor's. Raises: NodeNotFound, RegistryUnavailable."""
        return await self._view(await self.record(name, owner=owner))

    async def record(self, name: str, *, owner: str | None = None) -> NodeRecord:
        """Return the record of one node, by its own id or its processor's. Raises: as `node`."""
        record = await self._directory.node(name)
        if not await self._is_seen(record, owner):
            raise NodeNotFound(name)
        return record

    async def dependencies(self) -> Mapping[str, str]:
        """Return what the gateway stands on, by name: "okay" or "unavailable"."""
        return {"registry": await self._registry(), "runtime": await self._runtime()}

    async def _is_seen(self, record: NodeRecord, owner: str | None) -> bool:
        if owner is None:
            return True
        if record.processor_id is None:
            return False
        return permits(await self._ground.registry.owner(record.processor_id), caller=owner)

    async def _view(self, record: NodeRecord) -> NodeView:
        open_there = await self._ground.registry.sessions(SessionQuery(node_id=record.node_id), limit=_SESSIONS_MAX)
        memory_bytes, last_activity_at_s = await self._vitals(record)
        return NodeView(
            record=record,
            sessions=[session.session_id for session in open_there],
            memory_bytes=memory_bytes,
            last_activity_at_s=last_activity_at_s,
        )

    async def _vitals(self, record: NodeRecord) -> tuple[int | None, float | None]:
        if record.state not in _ANSWERING:
            return None, None
        try:
            async with self._asking:
                vitals = await self._ground.client.vitals(record, timeout_s=ASK_TIMEOUT_S)
        except GatewayError:
            return None, None
        return vitals.memory_bytes, self._ground.clock.now_s() - vitals.idle_s

    async def _registry(self) -> str:
        try:
            await self._ground.registry.count_nodes()
        except GatewayError as error:  # whoever asks may have no key, and is told no more
            _log.warning("registry_out_of_reach", extra={"reason": error.message})
            return "unavailable"
        return "okay"

    async def _runtime(self) -> str:
        try:
            await self._ground.runtime.list()
        except ContainerError as error:
            _log.warning("runtime_out_of_reach", extra={"reason": repr(error)})
            return "unavailable"
        return "okay"
