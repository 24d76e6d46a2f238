"""A session's configuration: what applies now, and changing it; both are its node's to say."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import GatewayError, NodeFailed, NodeRefused, NodeTimeout
from kato_gateway.domain.sessions import Json, SessionRecord, configured
from kato_gateway.ground import Ground
from kato_gateway.registry.base import SessionChange
from kato_gateway.sessions.activity import Activity
from kato_gateway.sessions.directory import Directory

_ATTEMPTS = 3
_LOST = frozenset({"WRONG_NODE", "PROCESSOR_FENCED"})
_log = logging.getLogger(__name__)


class Configs:
    """Reads and changes configurations.

    Args:
        resolve: finds or wakes a session's node. lost: takes the report that a route failed.
    """

    def __init__(
        self,
        ground: Ground,
        *,
        directory: Directory,
        activity: Activity,
        resolve: Callable[[str], Awaitable[Route]],
        lost: Callable[[Route], Awaitable[None]],
    ) -> None:
        self._ground = ground
        self._directory = directory
        self._activity = activity
        self._resolve = resolve
        self._lost = lost

    async def effective(self, session_id: str, *, owner: str | None = None) -> Mapping[str, Json]:
        """Return the session's whole configuration: its node's answer, or the last one if no node has it open.

        Raises: SessionNotFound, SessionExpired, RegistryUnavailable.
        """
        record = await self._directory.session(session_id, owner=owner)
        session_id = record.session_id
        route = self._ground.routes.get(session_id)
        node = await self._ground.registry.node(route.node_id) if route else None
        if node is None:
            return record.effective_config
        try:
            info = await self._ground.client.session(node, session_id, timeout_s=self._ground.policy.call_timeout_s)
        except GatewayError as error:
            _log.info("config_not_read", extra={"session_id": session_id, "reason": error.message})
            return record.effective_config
        await self._keep(record, info.config)
        return info.config

    async def update(
        self, session_id: str, values: Mapping[str, Json], *, owner: str | None = None
    ) -> Mapping[str, Json]:
        """Change these values, wholly or not at all; return the whole configuration. Wakes the session's node.

        Raises: as Lifecycle.resolve; NodeRefused with the node's VALIDATION_ERROR.
        """
        record = await self._directory.session(session_id, owner=owner)
        self._activity.begin(record.session_id)
        try:
            config = await self._updated(record.session_id, values)
        finally:
            self._activity.finish(record.session_id)
        await self._keep(await self._directory.session(record.session_id), config)
        return config

    async def _updated(self, session_id: str, values: Mapping[str, Json]) -> Mapping[str, Json]:
        """Repeat the call while nodes are lost under it: setting a value twice is setting it once."""
        timeout_s = self._ground.policy.call_timeout_s
        failure: GatewayError = NodeFailed(f"Session {session_id!r} found no node that lasted; try again.")
        for _ in range(_ATTEMPTS):
            route = await self._resolve(session_id)
            node = await self._ground.registry.node(route.node_id)
            try:
                if node is not None:
                    info = await self._ground.client.configure(node, session_id, values, timeout_s=timeout_s)
                    return info.config
            except (NodeFailed, NodeTimeout) as error:
                failure = error
            except NodeRefused as error:
                if error.code not in _LOST:
                    raise
                failure = error
            await self._lost(route)
        raise failure

    async def _keep(self, record: SessionRecord, config: Mapping[str, Json]) -> None:
        """Have the record show it while no node has the session open; overtaken, the next reading does."""
        if config != record.effective_config:
            await self._ground.registry.apply(
                [SessionChange(before=record, after=configured(record, effective_config=config))]
            )
