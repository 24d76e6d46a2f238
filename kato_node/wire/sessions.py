"""A node's own sessions, as a table like that of the operations: made, listed and ended at the node itself.

The gateway serves these paths itself, for sessions that it places, keeps and expires; it forwards none of these.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kato_node.wire.operations import PAGE, Operation, Parameter
from kato_node.wire.schemas import ConfigValue, Read, Reply, Request

ROOTS = ("/sessions", "/v2/sessions")
"""Where the sessions are: ROOT/{session_id} is one, ROOT/{session_id}/OPERATION an operation of it."""

PARAMETER = Parameter(description="a session of this processor", example="default")
_ONE = tuple(f"{root}/{{session_id}}" for root in ROOTS)


class NewSession(Request):
    """A session to make, or to find if it is there; at a node it lasts until it is ended."""

    session_id: str | None = Field(default=None, description="generated if null")
    config: dict[str, ConfigValue] = Field(default={}, description="of a new session; the rest are the node's defaults")


class Session(Read):
    """A session of this processor; `session_config` is effective."""

    session_id: str
    processor_id: str
    status: Literal["active"]
    session_config: dict[str, ConfigValue]
    stm_length: int
    time: int


class SessionList(Reply):
    """A page of sessions by id; the next begins at `next_cursor` (null: there is none)."""

    sessions: list[Session]
    next_cursor: str | None
    total: int


class SessionDeleted(Reply):
    """The session has ended; what it learned stays."""

    status: Literal["deleted"]
    session_id: str
    processor_id: str


OPERATIONS = (
    Operation(
        name="create_session",
        methods=("POST",),
        paths=ROOTS,
        summary="Make a session on this processor, or find it",
        request=NewSession,
        example={"session_id": "default", "config": {"max_predictions": 20}},
        reply=Session,
        creating=True,
        by_session=False,
    ),
    Operation(
        name="sessions",
        methods=("GET",),
        paths=ROOTS,
        summary="List the sessions of this processor by id",
        parameters=PAGE,
        reply=SessionList,
        by_session=False,
    ),
    Operation(
        name="session",
        methods=("GET",),
        paths=_ONE,
        summary="Show a session",
        parameters={"session_id": PARAMETER},
        reply=Session,
        by_session=False,
    ),
    Operation(
        name="delete_session",
        methods=("DELETE",),
        paths=_ONE,
        summary="End a session; what it learned stays",
        parameters={"session_id": PARAMETER},
        reply=SessionDeleted,
        by_session=False,
    ),
)
