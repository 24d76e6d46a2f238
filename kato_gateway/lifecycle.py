"""The life of sessions: created, found a node, hibernated with it, woken, ended; and what the nodes owe them.

The one place that changes sessions and routes. The data plane reads `routes` and calls `resolve` on a miss and `lost`
on a route that failed it; the API calls the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from kato_gateway.activity import Activity
from kato_gateway.dataplane.routes import Route, RouteTable
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.domain.sessions import EndReason, Json, NodeRecord, SessionRecord

Start = Literal["warm", "cold", "shared", "restored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSession:
    """What a client asks for.

    Attributes:
        session_id: generated if None; `wire.control.ID_PATTERN`.
        node_id: the processor, `wire.control.ID_PATTERN`; None: one of the session's own.
        ttl_seconds: None: the policy's.
        config: the session's own values, checked by its node.
    """

    user_id: str | None = None
    session_id: str | None = None
    node_id: str | None = None
    ttl_seconds: float | None = None
    sliding: bool = True
    config: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A session and where it is.

    Attributes:
        created: False if it was there already.
        start: from the pool, by a node of its own start, on a node that was there, or (found again) on a woken one.
        timings_ms: milliseconds by step: claim, spawn, ready, bind, total.
        node: the node's record, for its addresses and name.
    """

    record: SessionRecord
    route: Route
    node: NodeRecord
    created: bool
    start: Start
    timings_ms: Mapping[str, float]


class Lifecycle:
    """Creates, finds, wakes and ends sessions."""

    def __init__(self, *, routes: RouteTable, activity: Activity, policy: LifecyclePolicy) -> None:
        self.routes = routes
        self.activity = activity
        self._policy = policy

    async def start(self) -> None:
        """Match what runs with what is recorded, then serve; the pool fills in the background.

        Raises: RegistryUnavailable. A runtime out of reach does not fail the start: it is looked at again.
        """
        raise NotImplementedError

    async def stop(self) -> None:
        """Take no more calls, end every node gently, leave each session hibernated. Idempotent, bounded in time."""
        raise NotImplementedError

    async def create(self, wanted: CreateSession) -> Created:
        """Create the session and have a node open it; or find the caller's live session of this id.

        Raises: InvalidSession, Conflict, NodeRefused, CapacityReached, NodeFailed, NodeTimeout, RuntimeOutOfReach,
            RegistryUnavailable. After any of them no session is left behind.
        """
        raise NotImplementedError

    async def resolve(self, session_id: str) -> Route:
        """Return the session's route; on a miss find its processor's node, or wake one. `default` is made on demand.

        Raises: SessionNotFound, SessionExpired, NodeRefused, CapacityReached, NodeFailed, NodeTimeout,
            RuntimeOutOfReach, RegistryUnavailable.
        """
        raise NotImplementedError

    async def lost(self, route: Route) -> None:
        """Take a report that the route failed: connection refused or broken, 421, or a draining node's 503.

        Drops the node's routes and finds out. Afterwards `resolve` gives a route that is good as far as can be told.
        Raises: RuntimeOutOfReach if the runtime cannot tell; nothing was stopped, try again later.
        """
        raise NotImplementedError

    def touch(self, session_id: str) -> None:
        """Note a call on the session, which slides its expiry; in memory, written now and then."""
        raise NotImplementedError

    async def get(self, session_id: str) -> SessionRecord:
        """Return the live session, its times as of now; slides nothing.

        Raises: SessionNotFound, SessionExpired, RegistryUnavailable.
        """
        raise NotImplementedError

    async def extend(self, session_id: str, *, ttl_s: float | None) -> SessionRecord:
        """Give the session a new expiry, `ttl_s` seconds from now. Raises: as get."""
        raise NotImplementedError

    async def end(self, session_id: str, reason: EndReason = EndReason.DELETED) -> SessionRecord:
        """End the session in whatever state it is, and its node if that serves nobody else; patterns stay.

        Raises: SessionNotFound, SessionExpired if it has ended already; RegistryUnavailable.
        """
        raise NotImplementedError

    async def end_node(self, node_id: str) -> NodeRecord:
        """Drain and stop one node, named by its own id or its processor's; its sessions are hibernated.

        Raises: NodeNotFound, RegistryUnavailable.
        """
        raise NotImplementedError


Clock = Callable[[], float]
