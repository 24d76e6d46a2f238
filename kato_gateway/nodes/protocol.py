"""The control calls that nodes take (kato_node.wire.control), as the lifecycle makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kato_gateway.domain.sessions import Json, NodeRecord
from kato_node.wire.control import BindReply, BindRequest, Identity, OpenSession, SessionInfo, Vitals


class NodeClient(Protocol):
    """Reaches nodes at their `internal` address. A call to a bound node says which processor and epoch it means.

    Every call may raise NodeFailed (not reached, broken off, nonsense), NodeTimeout, and NodeRefused with the node's
    own error, WRONG_NODE among them (kato_gateway.domain.errors).
    """

    async def identity(self, node: NodeRecord, *, timeout_s: float) -> Identity:
        """Ask the node what it answers for."""

    async def vitals(self, node: NodeRecord, *, timeout_s: float) -> Vitals:
        """Ask the node how it is."""

    async def bind(self, node: NodeRecord, request: BindRequest, *, timeout_s: float) -> BindReply:
        """Bind the unbound node."""

    async def open_session(self, node: NodeRecord, request: OpenSession, *, timeout_s: float) -> SessionInfo:
        """Open a session on the bound node, or find it there."""

    async def session(self, node: NodeRecord, session_id: str, *, timeout_s: float) -> SessionInfo:
        """Return the session as the bound node has it."""

    async def configure(
        self, node: NodeRecord, session_id: str, values: Mapping[str, Json], *, timeout_s: float
    ) -> SessionInfo:
        """Change the session's config on the bound node, wholly or not at all."""

    async def close_session(self, node: NodeRecord, session_id: str, *, incarnation: str, timeout_s: float) -> None:
        """Have the bound node delete the session's records, if they are of this incarnation."""

    async def drain(self, node: NodeRecord, *, timeout_s: float) -> None:
        """Have the bound node finish what it has and end."""
