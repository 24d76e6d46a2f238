"""What the node's services refuse, with stable codes and no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from kato_node.domain.state import Json


class ServiceError(Exception):
    """A call that the node refuses; nothing was applied.

    Attributes:
        code: stable, one of api.md section 4.
        message: what happened and what to do.
        details: JSON-able facts for the caller.
        retry_after_s: when another try makes sense, None if never by itself.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    retry_after_s: ClassVar[float | None] = None

    def __init__(self, message: str, details: Mapping[str, Json] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Json] = details or {}


class SessionNotFound(ServiceError):
    """No session of this id on this processor."""

    code = "SESSION_NOT_FOUND"

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"Session {session_id!r} does not exist on this processor; create it first.", {"session_id": session_id}
        )


class SessionOfGateway(ServiceError):
    """A gateway keeps this session, and would not know of its end."""

    code = "CONFLICT"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session {session_id!r} was made by the gateway; end it there.", {"session_id": session_id})


class IdempotencyKeyReused(ServiceError):
    """The key came first with another operation or body."""

    code = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"Idempotency-Key {key!r} was used for another call; use a new key for each call.", {"key": key}
        )


class WrongNode(ServiceError):
    """This node is not, or no longer, bound to the processor that is meant."""

    code = "WRONG_NODE"


class WrongIncarnation(ServiceError):
    """The session of this id is another than the one that is meant: that one has ended, or its route is old."""

    code = "WRONG_NODE"  # to the gateway the same: it finds out where the id leads now

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"Session {session_id!r} is not the one that this call was meant for.", {"session_id": session_id}
        )


class AlreadyBound(ServiceError):
    """A node is bound once, for life."""

    code = "CONFLICT"


class TooManyCalls(ServiceError):
    """The session has too many unanswered mutating calls."""

    code = "RATE_LIMITED"
    retry_after_s = 1.0

    def __init__(self, session_id: str, unanswered_max: int) -> None:
        super().__init__(
            f"Session {session_id!r} has {unanswered_max} unanswered calls; wait for some of them to be answered.",
            {"session_id": session_id, "unanswered_max": unanswered_max},
        )


class NodeOverloaded(ServiceError):
    """The sessions of this node have too many unanswered mutating calls together."""

    code = "RATE_LIMITED"
    retry_after_s = 1.0

    def __init__(self, unanswered_max: int) -> None:
        super().__init__(
            f"This node has {unanswered_max} unanswered calls; try again when it has answered some of them.",
            {"node_unanswered_max": unanswered_max},
        )


class TooManySessions(ServiceError):
    """The processor keeps as many sessions as one node may."""

    code = "CAPACITY_REACHED"
    retry_after_s = 60.0

    def __init__(self, sessions_max: int) -> None:
        super().__init__(
            f"This processor has {sessions_max} sessions; end one before opening another.",
            {"sessions_max": sessions_max},
        )


class IllegalMove(Exception):
    """A state change that the table of states does not allow: our own mistake; nothing was changed."""

    def __init__(self, states: Sequence[str]) -> None:
        super().__init__(" -> ".join(states))
