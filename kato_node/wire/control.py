"""The control messages between gateway and node, under /control; every call carries the node's secret (wire.tokens).

    POST   /control/bind                  BindRequest -> BindReply; 409 CONFLICT if bound already
    GET    /control/identity              -> Identity
    GET    /control/vitals                -> Vitals
    POST   /control/sessions              OpenSession -> SessionInfo (idempotent)
    GET    /control/sessions/{id}         -> SessionInfo
    POST   /control/sessions/{id}/config  SetConfig -> SessionInfo (whole or not at all)
    DELETE /control/sessions/{id}?incarnation=…
                                          -> Identity (after the records of that very session are deleted; idempotent:
                                          a session of the same id and another incarnation stays as it is)
    POST   /control/drain                 -> Identity; the node finishes what it has, flushes and exits 0

Without the secret each of them is an unknown route (404 NOT_FOUND).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

# One rule for the ids of sessions, users' processors (node_id) and static nodes: safe in a path, a header, a file name.
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$"
Id = Annotated[str, Field(pattern=ID_PATTERN)]


class Message(BaseModel):
    """A closed, immutable message: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class OpenSession(Message):
    """Open or find a session on the bound processor.

    `incarnation` tells it from an ended session of the same id: another one than the stored starts with empty state.
    `config` are the session's own values (processor.md, section 8); they apply when the session is new.
    """

    session_id: Id
    incarnation: str
    config: dict[str, JsonValue] = Field(default_factory=dict)


class SessionInfo(Message):
    """A session as the node has it; `config` is effective, `created` whether this call made it."""

    session_id: str
    config: dict[str, JsonValue]
    created: bool
    stm_length: int
    time: int


class SetConfig(Message):
    """Change these of the session's own config values."""

    config: dict[str, JsonValue]


class EndedSession(Message):
    """A session that ended while no node was bound: this incarnation of the id, and no other."""

    session_id: Id
    incarnation: str


class BindRequest(Message):
    """Bind an unbound node, once, to a processor and its first session.

    own_session: the processor is that session's own, so calls without X-Session-ID mean it; else they mean `default`.
    ended_sessions: their records are deleted.
    purge: everything the processor has is deleted before its first session is opened.
    token_key: what the tokens of the processor's sessions are issued under (wire.tokens); in nothing that is printed.
    idle_timeout_s: see IDLE_TIMEOUT_S; 0 is never.
    """

    processor_id: Id
    idle_timeout_s: float = Field(ge=0)
    session: OpenSession | None = None
    own_session: bool = False
    ended_sessions: list[EndedSession] = Field(default_factory=list)
    purge: bool = False
    token_key: str | None = Field(default=None, repr=False)


class Identity(Message):
    """What a node answers for: nothing (unbound), or one processor at one epoch."""

    node_id: str
    state: Literal["unbound", "binding", "bound", "draining"]
    processor_id: str | None = None
    epoch: int | None = None
    sessions: list[str] = Field(default_factory=list)


class Vitals(Message):
    """How a node is: resident memory, and for how long there has been no operation (0 while there is one)."""

    memory_bytes: int
    idle_s: float


class BindReply(Message):
    """The bound node's identity and its first session."""

    identity: Identity
    session: SessionInfo | None = None
