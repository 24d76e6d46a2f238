"""What can go wrong with a session or a node, as clients learn of it: stable codes (api.md, section 4), no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class GatewayError(Exception):
    """The gateway could not do what it was asked.

    Attributes:
        code: one of api.md's error codes.
        message: what happened and what to do, for people.
        details: JSON values by name.
        retry_after_s: when the same call may succeed, None where time alone does not help.
    """

    code = "INTERNAL_ERROR"

    def __init__(
        self, message: str, *, details: Mapping[str, object] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = details or {}
        self.retry_after_s = retry_after_s


class SessionNotFound(GatewayError):
    """No live session has this id, and none expired of late."""

    code = "SESSION_NOT_FOUND"

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"There is no session {session_id!r}. Create it with POST /sessions.", details={"session_id": session_id}
        )


class SessionExpired(GatewayError):
    """The session's time to live has passed; what its processor learned is kept."""

    code = "SESSION_EXPIRED"

    def __init__(self, session_id: str, *, processor_id: str) -> None:
        super().__init__(
            f"Session {session_id!r} has expired. A new session with node_id {processor_id!r} finds its patterns.",
            details={"session_id": session_id, "node_id": processor_id},
        )


class Conflict(GatewayError):
    """Somebody else's session, or a change that another one overtook."""

    code = "CONFLICT"


class Forbidden(GatewayError):
    """What was named is somebody else's."""

    code = "FORBIDDEN"


class InvalidSession(GatewayError):
    """A field of the session asked for is not acceptable."""

    code = "VALIDATION_ERROR"

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{field}: {message}" for field, message in errors),
            details={"errors": [{"field": field, "message": message} for field, message in errors]},
        )


class CapacityReached(GatewayError):
    """As many nodes live as this installation admits."""

    code = "CAPACITY_REACHED"


class NodeNotFound(GatewayError):
    """No node runs under this id, nor for this processor."""

    code = "NODE_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"No node runs under the id {name!r}, nor for a processor of that id.", details={"node_id": name}
        )


class NodeFailed(GatewayError):
    """A node ended, never started or answered nonsense; nothing is known to be lost and the call may be repeated."""

    code = "NODE_FAILED"


class NodeTimeout(GatewayError):
    """A node did not answer in time."""

    code = "NODE_TIMEOUT"


class RuntimeOutOfReach(GatewayError):
    """What runs cannot be told now: nothing was stopped, nothing concluded."""

    code = "RUNTIME_UNAVAILABLE"


class GatewayStopping(RuntimeOutOfReach):
    """The gateway takes no more calls; whatever was under way is ended, its outcome unknown."""

    def __init__(self) -> None:
        super().__init__("The gateway is stopping; call again in a moment.", retry_after_s=1.0)


class RegistryUnavailable(GatewayError):
    """The registry cannot be reached or refused; whether the last change was written is unknown."""

    code = "STORAGE_UNAVAILABLE"


class NodeRefused(GatewayError):
    """The node answered with an error of its own, which stands as it is: a bad configuration, too many sessions.

    Attributes:
        status: the HTTP status that the node gave, 4xx or 5xx.
    """

    def __init__(self, *, status: int, code: str, message: str, details: Mapping[str, object]) -> None:
        super().__init__(message, details=details)
        self.code = code
        self.status = status
