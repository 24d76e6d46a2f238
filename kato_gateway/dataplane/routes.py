"""Where each session's calls go: one table in memory, filled by the lifecycle and read by the data plane."""

from __future__ import annotations

from dataclasses import dataclass, field

from container_manager.spec import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The node that serves a session now, and for whom it answers there.

    Attributes:
        incarnation: tells the session from others of its id, before it and after it; a node answers 421 for another.
        processor_id, epoch: what the node must be bound to; it answers 421 to anything else.
        node_id: the node's own id, for life.
        address: where the gateway reaches it.
        owner: whose session it is; None without keys.
        token: the session's own, which proves a call to the node; in nothing that is printed.
    """

    session_id: str
    incarnation: str
    processor_id: str
    epoch: int
    node_id: str
    address: Address
    owner: str | None = None
    token: str = field(default="", repr=False)


class RouteTable:
    """Routes by session, and the sessions of each node. A route is a hint: the node itself refuses a wrong one."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._sessions: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._routes)

    def get(self, session_id: str) -> Route | None:
        """Return the session's route, None if it has to be resolved."""
        return self._routes.get(session_id)

    def put(self, route: Route) -> None:
        """Let the session's calls go there from now on, in place of where they went before."""
        self.drop_session(route.session_id)
        self._routes[route.session_id] = route
        self._sessions.setdefault(route.node_id, set()).add(route.session_id)

    def drop_session(self, session_id: str) -> None:
        """Forget where the session is; nothing if it is not known."""
        route = self._routes.pop(session_id, None)
        if route is None:
            return
        sessions = self._sessions[route.node_id]
        sessions.discard(session_id)
        if not sessions:
            del self._sessions[route.node_id]

    def drop_node(self, node_id: str) -> tuple[str, ...]:
        """Forget every route to the node; return the ids of the sessions that had one."""
        sessions = tuple(self._sessions.pop(node_id, ()))
        for session_id in sessions:
            del self._routes[session_id]
        return sessions

    def sessions_on(self, node_id: str) -> tuple[str, ...]:
        """Return the ids of the sessions that have a route to the node."""
        return tuple(self._sessions.get(node_id, ()))
