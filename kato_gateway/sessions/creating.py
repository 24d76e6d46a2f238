"""What creating a session takes and gives."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import InvalidSession
from kato_gateway.domain.sessions import Json, NodeRecord, SessionRecord
from kato_node.wire.control import ID_PATTERN

Start: TypeAlias = Literal["warm", "cold", "shared", "restored"]

TTL_S_MAX = 10.0 * 365 * 86_400
SESSION_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSession:
    """What a client asks for.

    Attributes:
        owner: who asks; None without keys.
        user_id: a label; the owner if None.
        session_id: generated if None; `wire.control.ID_PATTERN`.
        node_id: the processor, `wire.control.ID_PATTERN`; None: one of the session's own.
        ttl_seconds: None: the policy's.
        config: the session's own values, checked by its node.
    """

    owner: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    node_id: str | None = None
    ttl_seconds: float | None = None
    sliding: bool = True
    config: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A session and where it is.

    Attributes:
        created: False if it was there already.
        start: from the pool, by a node of its own start, on a node that was there, or (found again) on a woken one.
        timings_ms: milliseconds by step: claim, spawn, ready, bind, total.
        node: the node's record, for its addresses and name.
    """

    record: SessionRecord
    route: Route
    node: NodeRecord
    created: bool
    start: Start
    timings_ms: Mapping[str, float]


def check(wanted: CreateSession) -> None:
    """Refuse what no session can be made of; the configuration is its node's to judge. Raises: InvalidSession."""
    errors = [
        (name, "must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ + -, the first a letter or a digit")
        for name, value in (("session_id", wanted.session_id), ("node_id", wanted.node_id))
        if value is not None and re.fullmatch(ID_PATTERN, value) is None
    ]
    _refuse([*errors, *_ttl_errors(wanted.ttl_seconds), *_size_errors(wanted)])


def check_ttl(ttl_s: float | None) -> None:
    """Refuse a time to live that is none. Raises: InvalidSession."""
    _refuse(_ttl_errors(ttl_s))


def _ttl_errors(ttl_s: float | None) -> list[tuple[str, str]]:
    if ttl_s is None or (math.isfinite(ttl_s) and 0 < ttl_s <= TTL_S_MAX):
        return []
    return [("ttl_seconds", f"must be more than 0 and at most {TTL_S_MAX:.0f}")]


def _size_errors(wanted: CreateSession) -> list[tuple[str, str]]:
    """Name the larger one of what a registry keeps in one document: it must fit there, and be read again and again."""
    sizes = {name: _json_bytes(value) for name, value in (("config", wanted.config), ("metadata", wanted.metadata))}
    if sum(sizes.values()) <= SESSION_BYTES_MAX:
        return []
    message = f"config and metadata have {sum(sizes.values()):,} bytes together, more than {SESSION_BYTES_MAX:,}"
    return [(max(sizes, key=sizes.__getitem__), message)]


def _json_bytes(value: Mapping[str, Json]) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass"))


def _refuse(errors: list[tuple[str, str]]) -> None:
    if errors:
        raise InvalidSession(errors)
