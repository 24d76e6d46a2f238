"""What a session is opened with: at a node, and for whoever calls there."""

from __future__ import annotations

from kato_gateway.domain.sessions import SessionRecord
from kato_node.wire.control import OpenSession
from kato_node.wire.tokens import Grant, issued


def access_token(session: SessionRecord, *, secret: str) -> str:
    """Return what proves to the node of the session's processor that a call is this session's."""
    return issued(Grant(session_id=session.session_id, processor_id=session.processor_id), secret=secret)


def opening(session: SessionRecord) -> OpenSession:
    """Return the message that opens the session on a node."""
    return OpenSession(
        session_id=session.session_id,
        incarnation=session.incarnation,
        config=dict(session.config),  # type: ignore[arg-type]  # pydantic's name for the same JSON
    )
