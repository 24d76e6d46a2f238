"""What a WebSocket's messages look like from outside, for those who pass them on: which answer, and which are news.

A node answers each message with exactly one, in order; a pattern that was learned comes unasked between them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from kato_node.wire.errors import ErrorReply
from kato_node.wire.strict_json import dumps

NEWS = "pattern_learned"
SUBSCRIBED = "subscribed"
_PING = frozenset({"type", "payload", "id"})
_PING_CHARACTERS_MAX = 512


def event(kind: str, facts: Mapping[str, object], message_id: str | int | None = None) -> str:
    """Return an event: SUBSCRIBED answers a subscription, NEWS tells of a pattern."""
    return message("event", {"event": kind, **facts}, message_id)


def message(kind: str, data: object, message_id: str | int | None = None) -> str:
    """Return a message of a node: what it is comes first, so that nobody needs to read the rest to tell."""
    fields = {"type": kind, "data": data}
    return dumps(fields if message_id is None else {**fields, "id": message_id}).decode()


def error(reply: ErrorReply, text: str | bytes) -> str:
    """Return the answer to a message that was not understood or could not be served."""
    return message("error", reply.error, _id(_fields(text)))


def is_event(text: str) -> bool:
    """Whether a node's message is an event, which only a socket with a subscription gets."""
    return text.startswith(_EVENT)


def is_news(text: str) -> bool:
    """Whether a node's message answers nothing."""
    return text.startswith(_NEWS)


def pong(text: str | bytes) -> str | None:
    """Return the answer if this message is a proper ping, which asks nothing of a processor; None if it is not."""
    if len(text) > _PING_CHARACTERS_MAX:
        return None
    fields = _fields(text)
    if fields.get("type") != "ping" or not fields.keys() <= _PING or not isinstance(fields.get("payload") or {}, dict):
        return None
    message_id = _id(fields)
    return message("pong", {}, message_id) if message_id == fields.get("id") else None


def _fields(text: str | bytes) -> Mapping[str, object]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _id(fields: Mapping[str, object]) -> str | int | None:
    """Return what the caller calls its message, None if it has no name that could be echoed."""
    found = fields.get("id")
    return (
        found if isinstance(found, str | int) and not isinstance(found, bool) and 1 <= len(str(found)) <= 255 else None
    )


_EVENT = message("event", {}).partition(',"data"')[0]
_NEWS = event(NEWS, {})[:-2]
