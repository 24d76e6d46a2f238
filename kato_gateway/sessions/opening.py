"""What a session is opened with: at a node, and for whoever calls there."""

from __future__ import annotations

from collections.abc import Iterable

from kato_gateway.domain.sessions import SessionRecord
from kato_gateway.registry.base import Leftover
from kato_node.wire.control import BindRequest, EndedSession, OpenSession
from kato_node.wire.tokens import Grant, issued, token_key


def access_token(session: SessionRecord, *, secret: str) -> str:
    """Return what proves to the node of the session's processor that a call is this session's."""
    grant = Grant(session_id=session.session_id, processor_id=session.processor_id)
    return issued(grant, key=token_key(secret, session.processor_id))


def opening(session: SessionRecord) -> OpenSession:
    """Return the message that opens the session on a node."""
    return OpenSession(
        session_id=session.session_id,
        incarnation=session.incarnation,
        config=dict(session.config),  # type: ignore[arg-type]  # pydantic's name for the same JSON
    )


def binding(
    processor_id: str,
    session: SessionRecord | None,
    *,
    ended: Iterable[Leftover],
    purge: bool,
    idle_timeout_s: float,
    secret: str,
) -> BindRequest:
    """Return the message that binds a node to a processor, with this session as its first.

    Args:
        ended: whose records the node is to delete. purge: whether it is to delete everything else, too.
        secret: the deployment's; what the message carries is derived from it, for this processor alone.
    """
    return BindRequest(
        processor_id=processor_id,
        idle_timeout_s=idle_timeout_s,
        session=None if session is None else opening(session),
        own_session=session is not None and session.owns_processor,
        ended_sessions=[EndedSession(session_id=each.session_id, incarnation=each.incarnation) for each in ended],
        purge=purge,
        token_key=token_key(secret, processor_id),
    )
