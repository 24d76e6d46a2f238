"""Records as clients see them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from kato_gateway.api import schemas
from kato_gateway.domain.sessions import Json, NodeRecord, SessionRecord
from kato_gateway.nodes.survey import NodeView


def session_reply(
    record: SessionRecord,
    node: NodeRecord | None,
    config: Mapping[str, Json],
    *,
    authority: str,
    token: str | None,
) -> schemas.Session:
    """Return the session as clients see it.

    Args:
        node: the one that has it open. config: effective.
        authority: how the client reached the gateway, host and port.
        token: what the node takes for a call of this session, None where it asks for none.
    """
    external = None if node is None else node.external
    return schemas.Session(
        session_id=record.session_id,
        user_id=record.user_id,
        node_id=record.processor_id,
        processor_id=record.processor_id,
        status=record.status.value,
        container_name=None if node is None else node.name,
        port=None if external is None else external.port,
        internal_url=None if node is None or node.internal is None else node.internal.http_url,
        external_url=None if external is None else external.http_url,
        ws_url=f"ws://{authority}/sessions/{record.session_id}/ws",
        created_at=moment(record.created_at_s),
        expires_at=None if record.expires_at_s is None else moment(record.expires_at_s),
        ttl_seconds=_number(record.ttl_s),
        last_activity_at=moment(record.last_activity_at_s),
        session_config=dict(config),  # type: ignore[arg-type]  # JSON, read-only as the record has it
        metadata=dict(record.metadata),  # type: ignore[arg-type]  # as above
        access_token=token,
    )


def node_reply(view: NodeView, *, runtime: str) -> schemas.Node:
    """Return the node as clients see it."""
    record = view.record
    return schemas.Node(
        node_id=record.node_id,
        processor_id=record.processor_id,
        epoch=record.epoch,
        container_name=record.name,
        runtime=runtime,
        state=record.state.value,  # type: ignore[arg-type]  # one that has not ended
        internal_url=None if record.internal is None else record.internal.http_url,
        external_url=None if record.external is None else record.external.http_url,
        sessions=list(view.sessions),
        memory_bytes=view.memory_bytes,
        created_at=moment(record.created_at_s),
        last_activity_at=None if view.last_activity_at_s is None else moment(view.last_activity_at_s),
    )


def moment(seconds: float) -> datetime:
    """Return seconds since the epoch as a date."""
    return datetime.fromtimestamp(seconds, tz=UTC)


def _number(value: float | None) -> int | float | None:
    """Return whole numbers as integers: 3600 reads better than 3600.0."""
    return int(value) if value is not None and value.is_integer() else value
