"""What people see a node called: after its bind it says whose it is, where the runtime can rename."""

from __future__ import annotations

import logging

from container_manager.errors import ContainerError
from container_manager.labels import name_for_people
from container_manager.runtime import Runtime
from kato_gateway.domain.sessions import NodeRecord, SessionRecord

_NOBODY = "anonymous"
_log = logging.getLogger(__name__)


def called(runtime: Runtime, session: SessionRecord | None, *, at_s: float) -> str | None:
    """Return what a node that is bound now, for this session, is to be called; None: it keeps its first name."""
    if session is None or not runtime.capabilities.renames:
        return None
    return name_for_people(session.user_id or _NOBODY, session.session_id, at_s)


async def rename(runtime: Runtime, node: NodeRecord) -> None:
    """Have the runtime call the node as its record says. It is found by its labels whether that succeeds or not."""
    if node.called is None:
        return
    try:
        await runtime.rename(node.node_id, node.called)
    except ContainerError as error:
        _log.warning("node_not_renamed", extra={"node_id": node.node_id, "reason": str(error)})
