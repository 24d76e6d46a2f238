"""Finding a session its node: the one way from a session's id to its route."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import (
    CapacityReached,
    GatewayError,
    GatewayStopping,
    NodeFailed,
    NodeRefused,
    NodeTimeout,
    RuntimeOutOfReach,
    SessionExpired,
    SessionNotFound,
)
from kato_gateway.domain.owners import is_default
from kato_gateway.domain.sessions import (
    Json,
    NodeRecord,
    NodeState,
    SessionRecord,
    SessionStatus,
    activated,
    new_session,
)
from kato_gateway.events import Event
from kato_gateway.ground import Ground
from kato_gateway.nodes.binder import Placement
from kato_gateway.nodes.fleet import Fleet
from kato_gateway.registry.base import Change, Leftover, LeftoverChange, OwnerChange, SessionChange
from kato_gateway.sessions.directory import Directory
from kato_gateway.sessions.opening import opening
from kato_gateway.tasks import Flights

_ATTEMPTS = 4
_ROUNDS = 5
_LOST = frozenset({"WRONG_NODE", "PROCESSOR_FENCED"})  # it serves this processor no more
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session that a node has open, and how it came to be.

    Attributes:
        timings_ms: claim, spawn, ready and bind, as far as they were needed.
    """

    record: SessionRecord
    node: NodeRecord
    route: Route
    start: Literal["warm", "cold", "shared"]
    timings_ms: Mapping[str, float]


class Opener:
    """Opens sessions, each life of theirs once at a time.

    Args:
        waits: whether a processor only waits for the start of a node to begin.
    """

    def __init__(self, ground: Ground, *, fleet: Fleet, directory: Directory, waits: Callable[[str], bool]) -> None:
        self._ground = ground
        self._waits = waits
        self._fleet = fleet
        self._directory = directory
        self._opening: Flights[Opened] = Flights(ground.tasks, may_end=self._is_queued)
        self._placing: dict[str, str] = {}
        self._cut_short: set[str] = set()

    async def open(self, session_id: str, *, owner: str | None) -> Opened:
        """Have a node open the owner's session, wherever it is in its life; the default one is made on demand.

        Raises: see Lifecycle.resolve. A session that was still being created is gone after any of them.
        """
        record = await self._record(session_id, owner)
        return await self._opening.join(_life(record), lambda: self._open(record))

    def is_opening(self, record: SessionRecord) -> bool:
        """Whether the session is being opened just now."""
        return self._opening.flying(_life(record))

    def is_queued(self, record: SessionRecord) -> bool:
        """Whether the session only waits for the start of a node to begin."""
        return self._is_queued(_life(record))

    def close(self, record: SessionRecord) -> None:
        """Take it that the session has ended: no route leads to it, nor will one that is being found."""
        self._ground.routes.drop_session(record.session_id)
        if self.is_opening(record):
            self._cut_short.add(_life(record))

    def _is_queued(self, life: str) -> bool:
        processor_id = self._placing.get(life)
        return processor_id is not None and self._waits(processor_id)

    async def _open(self, found: SessionRecord) -> Opened:
        session_id, policy = found.session_id, self._ground.policy
        record = await self._directory.session(session_id)  # an opening that was given up may just have discarded it
        if _life(record) != _life(found):
            raise SessionNotFound(session_id)
        failure: GatewayError | None = None
        opened: Opened | None = None
        try:
            async with asyncio.timeout(policy.start_timeout_s + policy.bind_timeout_s + policy.call_timeout_s):
                opened = await self._opened(record)
        except TimeoutError as error:
            failure = NodeTimeout(f"No node was ready for session {session_id!r} in time; try again.")
            raise failure from error
        except GatewayError as error:
            failure = error
            raise
        finally:
            self._cut_short.discard(_life(record))
            if opened is None and (record.status is SessionStatus.CREATING or isinstance(failure, SessionNotFound)):
                untaken = _refused(failure) or self._fleet.is_given_up(record.processor_id)
                await self._ground.tasks.outlive("discard", self._discard(record, untaken=untaken))
        return opened

    async def _record(self, session_id: str, owner: str | None) -> SessionRecord:
        try:
            return await self._directory.session(session_id, owner=owner)
        except (SessionNotFound, SessionExpired):
            if not is_default(session_id, owner=owner):
                raise
        now_s = self._ground.clock.now_s()
        fresh = new_session(
            session_id, incarnation=secrets.token_hex(8), at_s=now_s, ttl_s=None, owner=owner, user_id=owner
        )
        ended = await self._ground.registry.session(session_id)
        changes: list[Change] = [SessionChange(before=ended, after=fresh)]
        if owner is not None:
            changes.append(OwnerChange(processor_id=fresh.processor_id, owner=owner))
        await self._ground.registry.apply(changes)
        return await self._directory.session(session_id, owner=owner)

    async def _opened(self, record: SessionRecord) -> Opened:
        for _ in range(_ATTEMPTS):
            placement = await self._placed(record)
            session = await self._session_on(placement, record)
            if _life(record) in self._cut_short:
                raise SessionNotFound(record.session_id)
            if session is not None and self._fleet.serves(placement.node):
                return self._routed(record, session, placement)
            if session is None:
                await self._fleet.doubt(placement.node.node_id)
        raise NodeFailed(f"Session {record.session_id!r} found no node that lasted; try again.")

    async def _placed(self, record: SessionRecord) -> Placement:
        self._placing[_life(record)] = record.processor_id
        try:
            return await self._fleet.place(record)
        finally:
            del self._placing[_life(record)]

    async def _session_on(self, placement: Placement, record: SessionRecord) -> SessionRecord | None:
        """Return the session as active on the node, opened there if need be; None: the node did not take the call."""
        bound_with = placement.session
        if bound_with is not None and _life(bound_with) == _life(record):
            return bound_with
        timeout_s = self._ground.policy.call_timeout_s
        try:
            info = await self._ground.client.open_session(placement.node, opening(record), timeout_s=timeout_s)
        except (NodeFailed, NodeTimeout):
            return None
        except NodeRefused as error:
            if error.code not in _LOST:
                raise
            return None
        session = await self._activated(record, placement.node, info.config)
        # Another gateway may have ended the node meanwhile; whoever ends it from now on finds the session there.
        node = await self._ground.registry.node(placement.node.node_id)
        return session if node is not None and node.state is NodeState.BOUND else None

    async def _activated(
        self, record: SessionRecord, node: NodeRecord, effective_config: Mapping[str, Json]
    ) -> SessionRecord:
        """Record the session as active on the node. Raises: SessionNotFound if it has ended meanwhile."""
        current: SessionRecord | None = record
        while current is not None and current.live and current.incarnation == record.incarnation:
            after = activated(current, node_id=node.node_id, effective_config=effective_config)
            told = (current.status, current.node_id, current.effective_config)
            if told == (after.status, after.node_id, after.effective_config):
                return current
            if await self._ground.registry.apply([SessionChange(before=current, after=after)]):
                return after
            current = await self._ground.registry.session(record.session_id)
        raise SessionNotFound(record.session_id)

    def _routed(self, record: SessionRecord, session: SessionRecord, placement: Placement) -> Opened:
        route = self._fleet.route(placement.node, session)
        self._ground.routes.put(route)
        if record.status is not SessionStatus.ACTIVE:
            self._ground.events.publish(
                Event(
                    kind="session_active",
                    at_s=self._ground.clock.now_s(),
                    session_id=session.session_id,
                    processor_id=session.processor_id,
                    node_id=placement.node.node_id,
                    owner=session.owner,
                )
            )
        return Opened(
            record=session,
            node=placement.node,
            route=route,
            start=placement.start,
            timings_ms=placement.timings_ms,
        )

    async def _discard(self, record: SessionRecord, *, untaken: bool) -> None:
        """Leave nothing of a session that could not be created, or ended meanwhile.

        Args:
            untaken: whether it is certain that no node has taken it.

        What cannot be undone now, upkeep ends later.
        """
        changes: list[Change] = []
        if not untaken:
            leftover = Leftover(
                processor_id=record.processor_id, session_id=record.session_id, incarnation=record.incarnation
            )
            changes.append(LeftoverChange(leftover=leftover, remember=True))
        try:
            for _ in range(_ROUNDS):
                current = await self._ground.registry.session(record.session_id)
                undone = self._undone(record, current)
                if not undone + changes or await self._ground.registry.apply(undone + changes):
                    break
            self._ground.tasks.spawn("tidy", self._fleet.tidy(record.processor_id))
        except GatewayError as error:
            _log.warning("session_not_discarded", extra={"session_id": record.session_id, "reason": error.message})

    def _undone(self, record: SessionRecord, current: SessionRecord | None) -> list[Change]:
        """Return the change that deletes the session, if it is still the one that was being created."""
        if record.status is not SessionStatus.CREATING or current is None or not current.live:
            return []
        same = current.incarnation == record.incarnation
        return [SessionChange(before=current, after=None)] if same else []


def _life(record: SessionRecord) -> str:
    """Return what tells this life of the session from others of its id; ids hold no slash."""
    return f"{record.session_id}/{record.incarnation}"


def _refused(failure: GatewayError | None) -> bool:
    """Whether it is certain that no node has taken the session."""
    if isinstance(failure, NodeRefused):
        return failure.status < 500
    return isinstance(failure, CapacityReached | RuntimeOutOfReach) and not isinstance(failure, GatewayStopping)
