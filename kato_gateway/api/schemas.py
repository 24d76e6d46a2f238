"""What the gateway's own routes take and answer (api.md, section 2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from kato_gateway.lifecycle import TTL_S_MAX
from kato_node.wire.control import Id

RESERVED_IDS = frozenset({"count", "create"})
"""Words that stand where a session's id does in the gateway's own paths."""

CREATE_EXAMPLE: dict[str, JsonValue] = {
    "user_id": "ann",
    "config": {"max_pattern_length": 5, "stm_mode": "ROLLING"},
    "metadata": {"purpose": "a first try"},
}
CONFIG_EXAMPLE: dict[str, JsonValue] = {"config": {"recall_threshold": 0.3}}


def _not_reserved(session_id: str) -> str:
    if session_id in RESERVED_IDS:
        raise ValueError(f"{session_id!r} is a word of the interface; choose another id")
    return session_id


class Request(BaseModel):
    """A body; an unknown field is a VALIDATION_ERROR that names it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Reply(BaseModel):
    """A reply's body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CreateSession(Request):
    """A session to create, or to find by its `session_id`; every field may be left out.

    A live session that is found stays as it is: `config`, `ttl_seconds`, `sliding` and `metadata` are for a new one.
    """

    user_id: str | None = Field(
        default=None, min_length=1, max_length=128, description="a label; with API keys, the key's name if null"
    )
    session_id: Annotated[Id, AfterValidator(_not_reserved)] | None = Field(
        default=None, description="generated if null; a live session of this id is returned as it is"
    )
    node_id: Id | None = Field(
        default=None, description="names the processor; sessions that name the same one share what it has learned"
    )
    ttl_seconds: float | None = Field(
        default=None, gt=0, le=TTL_S_MAX, allow_inf_nan=False, description="the gateway's SESSION_TTL_S if null"
    )
    sliding: bool = Field(default=True, description="whether each call moves the expiry")
    config: dict[str, JsonValue] | None = Field(default=None, description="the session's own configuration values")
    metadata: dict[str, JsonValue] | None = Field(default=None, description="the client's own; kept as given")


class Session(Reply):
    """A session, and the node that serves it now; what belongs to the node is null while there is none."""

    session_id: str
    user_id: str | None
    node_id: str = Field(description="the processor's name, as a session may give it")
    processor_id: str
    status: Literal["creating", "active", "hibernated", "ended"]
    container_name: str | None = Field(description="what the runtime calls the node; null while there is none")
    port: int | None = Field(description="of external_url")
    internal_url: str | None = Field(description="where the gateway reaches the node")
    external_url: str | None = Field(description="where a client on this host reaches the node; changes with the node")
    ws_url: str = Field(description="the session's WebSocket, through the gateway; never changes")
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = Field(description="null: never")
    ttl_seconds: int | float | None
    last_activity_at: AwareDatetime
    session_config: dict[str, JsonValue] = Field(description="effective; empty before a node had the session open")
    metadata: dict[str, JsonValue]
    access_token: str | None = Field(
        description="the Bearer token for calls on this session at external_url; null where none is needed"
    )


class CreatedSession(Session):
    """A session as it was created or found, and how long that took, in milliseconds."""

    start: Literal["warm", "cold", "shared", "restored"]
    timings_ms: dict[str, float]


class DeletedSession(Reply):
    """A session has ended; what its processor learned stays, unless it was to be purged."""

    status: Literal["deleted"]
    session_id: str
    processor_id: str
    purged: bool = Field(
        description="all that the processor had is deleted; asked for and false: that is done soon, and before "
        "anybody uses the processor again"
    )


class GatewayHealth(Reply):
    """A gateway that answers is healthy."""

    status: Literal["healthy"]
    uptime: float = Field(description="seconds")


class GatewayStatus(Reply):
    """The gateway's figures: how many sessions there are by status, and nodes by state."""

    status: Literal["okay"]
    version: str
    uptime: float = Field(description="seconds")
    runtime: str
    sessions: dict[str, int]
    nodes: dict[str, int]


class SessionList(Reply):
    """One page of sessions, by id; `session_config` as their nodes last answered it."""

    sessions: list[Session]
    next_cursor: str | None = Field(description="for the next page; null: this is the last")
    total: int = Field(description="on all pages")


class SessionCount(Reply):
    """How many sessions live."""

    active_session_count: int


class SessionExists(Reply):
    """Whether a session lives; `expired` if its time to live passed in the last day."""

    exists: bool
    expired: bool
    session_id: str


class SetConfig(Request):
    """Configuration values to change, whole or not at all."""

    config: dict[str, JsonValue]


class SessionConfig(Reply):
    """A session's configuration: every value that applies."""

    session_id: str
    processor_id: str
    config: dict[str, JsonValue]


class Node(Reply):
    """A running node."""

    node_id: str = Field(description="its own id, for life")
    processor_id: str | None = Field(description="whom it serves; null while it is in the pool")
    epoch: int | None
    container_name: str
    runtime: str
    state: Literal["creating", "pool", "binding", "bound", "quarantined"]
    internal_url: str | None
    external_url: str | None
    sessions: list[str] = Field(description="the ids of the sessions that it has open")
    memory_bytes: int | None = Field(description="resident; null if it does not answer")
    created_at: AwareDatetime
    last_activity_at: AwareDatetime | None = Field(description="calls at the node itself included; null likewise")


class NodeList(Reply):
    """The running nodes, by id."""

    nodes: list[Node]


class StoppedNode(Reply):
    """A node has finished what it had, and is stopped; its sessions sleep until their next call."""

    status: Literal["stopped"]
    node_id: str
    processor_id: str | None


class Ready(Reply):
    """The gateway serves; each thing that it depends on is okay."""

    status: Literal["ready"]
    dependencies: dict[str, str]


class PoolFigures(Reply):
    """The warm pool: nodes that can be claimed, nodes being started, users who wait."""

    idle: int
    starting: int
    waiting: int


class GatewayMetrics(Reply):
    """The gateway's figures; counts of events are since its start."""

    uptime_seconds: float
    sessions: dict[str, int] = Field(description="by status")
    nodes: dict[str, int] = Field(description="by state")
    pool: PoolFigures
    events: dict[str, int] = Field(description="by kind")
