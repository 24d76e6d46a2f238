"""What happens to sessions and nodes, told to whoever listens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "session_created",
    "session_active",
    "session_hibernated",
    "session_ended",
    "node_started",
    "node_start_failed",
    "node_bound",
    "node_adopted",
    "node_quarantined",
    "node_ended",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened; ids that do not apply are None. `node_id` is the node's own id.

    Attributes:
        at_s: seconds since the epoch.
        reason: why, where there is a choice: how a session ended, what a start failed of.
        exit_status: of a node that died, where the runtime knows it (container_manager.spec.NodeStatus).
        owner: whose session it is about; None without keys, and for what is about no session.
    """

    kind: Kind
    at_s: float
    session_id: str | None = None
    processor_id: str | None = None
    node_id: str | None = None
    reason: str | None = None
    exit_status: int | None = None
    owner: str | None = None


class Events:
    """Tells each event to every listener, in order, at once, and to the log."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[Event], None]] = {}

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with each event from now on; it must not block. Returns: what ends that."""
        key = object()
        self._listeners[key] = listener

        def leave() -> None:
            self._listeners.pop(key, None)

        return leave

    def publish(self, event: Event) -> None:
        """Tell everybody."""
        ids = {"session_id": event.session_id, "processor_id": event.processor_id, "node_id": event.node_id}
        why = {"reason": event.reason, "exit_status": event.exit_status}
        facts = {name: value for name, value in {**ids, **why}.items() if value is not None}
        _log.log(logging.WARNING if event.exit_status else logging.INFO, event.kind, extra=facts)
        for listener in tuple(self._listeners.values()):
            listener(event)
