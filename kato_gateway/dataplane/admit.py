"""Who asks, and who is meant: one pure decision on a request's head, for HTTP and WebSocket alike.

With keys every request needs one, but for a few that tell nobody anything; without keys only this machine is served. A
request is forwarded when its path is an operation of a node, in one of these places:

    /sessions/{id}/OPERATION, /session/{id}/OPERATION, /v2/sessions/{id}/OPERATION
    /OPERATION, the session in X-Session-ID (on a WebSocket also in ?session_id=), else `default`

The operations are a closed list, which no control route is on. Everything else is the gateway's own to answer, an
unknown route included.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, quote_from_bytes, unquote_to_bytes

from kato_gateway.domain.owners import DEFAULT_SESSION, KeyTable
from kato_node.wire import docs, headers
from kato_node.wire.control import ID_PATTERN
from kato_node.wire.operations import OPERATIONS, Operation
from kato_node.wire.origins import foreign
from kato_node.wire.tokens import bearer

WEBSOCKET = "WEBSOCKET"
"""The method that stands for a WebSocket handshake."""

NOT_AT_ROOT = frozenset({"/health", "/metrics", "/status"})
"""Operations that are the gateway's own at its root."""

WITHOUT_KEY = frozenset({b"/health", b"/ready", *(path.encode() for path in docs.PATHS)})
"""Paths of the gateway's own that ask for no key: whether it serves, and what it could be asked."""

_ID = re.compile(ID_PATTERN)
_SESSION_ROOTS = (b"sessions", b"session")
_SOCKET = [b"ws"]
_SESSION_HEADER = headers.SESSION.encode("ascii")
_KEY_HEADER = headers.IDEMPOTENCY_KEY.encode("ascii")
_API_KEY_HEADER = headers.API_KEY.encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a request as it came in.

    Attributes:
        method: in capitals; `WEBSOCKET` for a WebSocket handshake.
        path: percent-encoded, as sent. query: what follows the `?`, as sent, b"" if nothing.
        headers: in order, names in lower case.
    """

    method: str
    path: bytes
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header, None if it is absent."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Forward to the node of this session.

    Attributes:
        owner: whose call it is; None without keys.
        target: path and query at the node, percent-encoded as the client sent them.
        mutating: the call changes something, so that it needs a key to be repeated by.
        key: the client's own Idempotency-Key.
    """

    session_id: str
    target: str
    owner: str | None = None
    mutating: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Answer with this error; `allow` are the methods of a METHOD_NOT_ALLOWED."""

    code: str
    message: str
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """The gateway answers this itself, for this owner; None without keys, or where none is asked for."""

    owner: str | None = None


Decision = Forward | Refuse | Own


def admit(head: Head, keys: KeyTable) -> Decision:
    """Decide who answers a request, from its head and the keys that are good here."""
    owner = _owner(head, keys)
    if isinstance(owner, Refuse):
        return owner
    in_path, segments = _addressed(head.path)
    allowed = _operations(segments, at_root=in_path is None)
    if not allowed:
        return Own(owner=owner)
    if head.method not in allowed:
        return _wrong_method(head.method, segments, tuple(allowed))
    operation = allowed[head.method]
    session_id = _session(head, in_path)
    if isinstance(session_id, Refuse):
        return session_id
    return Forward(
        session_id=session_id,
        owner=owner,
        target=_target(segments, b"" if head.method == WEBSOCKET else head.query),
        mutating=operation is not None and operation.mutating,
        key=head.header(_KEY_HEADER),
    )


def _owner(head: Head, keys: KeyTable) -> str | Refuse | None:
    """Return whose call it is: the owner of its key, None where there are no keys, or none is asked for."""
    if not keys:
        wrong = foreign(head.headers)
        return None if wrong is None else Refuse(code="FORBIDDEN", message=wrong)
    if head.path in WITHOUT_KEY:
        return None
    key = _key(head)
    if key is None:
        return Refuse(code="UNAUTHENTICATED", message="Send `Authorization: Bearer KEY`, or `X-API-Key: KEY`.")
    owner = keys.owner_of(key)
    return Refuse(code="UNAUTHENTICATED", message="This key is not known here.") if owner is None else owner


def _key(head: Head) -> bytes | None:
    """Return the key that was sent, in the one header or the other."""
    key = bearer(head.headers)
    if key is not None:
        return key
    given = [value for name, value in head.headers if name == _API_KEY_HEADER]
    return given[0] if len(given) == 1 else None


def _addressed(path: bytes) -> tuple[bytes | None, list[bytes]]:
    """Split a path into the session that it names, None if it names none, and the segments of the operation."""
    segments = path.split(b"/")[1:]
    if segments[:2] == [b"v2", b"sessions"]:
        segments = segments[1:]
    elif not segments or segments[0] not in _SESSION_ROOTS:
        return None, segments
    return b"".join(segments[1:2]), segments[2:]


def takes_lines(method: str, path: bytes) -> bool:
    """Whether a request's body is read line by line at the node, and so may be of any length."""
    in_path, segments = _addressed(path)
    operation = _operations(segments, at_root=in_path is None).get(method)
    return operation is not None and operation.lines


def _operations(segments: Sequence[bytes], *, at_root: bool) -> Mapping[str, Operation | None]:
    """Return what a path means, by method; None for the socket. Nothing if it is not forwarded."""
    if segments == _SOCKET:
        return {WEBSOCKET: None}
    found = _EXACT.get(tuple(segments))
    if found is None and segments and segments[-1]:
        found = _WITH_PARAMETER.get(tuple(segments[:-1]))
    if found is None or (at_root and any(operation.paths[0] in NOT_AT_ROOT for operation in found.values())):
        return {}
    return found


def _session(head: Head, in_path: bytes | None) -> str | Refuse:
    """Return the session that is meant: the path's, else the header's, else a WebSocket's query's, else `default`."""
    named = head.header(_SESSION_HEADER)
    if named is None and head.method == WEBSOCKET:
        named = parse_qs(head.query.decode("latin-1")).get("session_id", [None])[0]
    if in_path is None:
        session_id = DEFAULT_SESSION if named is None else named
    else:
        session_id = unquote_to_bytes(in_path).decode("utf-8", "replace")
        if named is not None and named != session_id:
            return Refuse(code="VALIDATION_ERROR", message="The request names two different sessions.")
    if not _ID.fullmatch(session_id):
        return Refuse(code="SESSION_NOT_FOUND", message="No session can have such an id. POST /sessions makes one.")
    return session_id


def _target(segments: Sequence[bytes], query: bytes) -> str:
    target = b"/" + b"/".join(segments) + (b"?" + query if query else b"")
    return quote_from_bytes(target, safe=string.printable)  # bytes beyond ASCII, which no request line may hold


def _wrong_method(method: str, segments: Sequence[bytes], allowed: Sequence[str]) -> Refuse:
    path = _target(segments, b"")
    if segments == _SOCKET:
        return Refuse(code="METHOD_NOT_ALLOWED", message=f"{path} is a WebSocket.", allow=("GET",))
    asked = "a WebSocket" if method == WEBSOCKET else method
    message = f"{path} takes {' or '.join(allowed)}, not {asked}."
    return Refuse(code="METHOD_NOT_ALLOWED", message=message, allow=tuple(allowed))


def _by_segments(*, with_parameter: bool) -> Mapping[tuple[bytes, ...], Mapping[str, Operation]]:
    """Return the operations by the segments of their paths and by method; a last segment that varies is left out."""
    table: dict[tuple[bytes, ...], dict[str, Operation]] = {}
    for operation in OPERATIONS:
        for path in operation.paths:
            if path.endswith("}") == with_parameter:
                fixed = (part.encode("ascii") for part in path.split("/")[1:] if not part.startswith("{"))
                table.setdefault(tuple(fixed), {}).update(dict.fromkeys(operation.methods, operation))
    return table


_EXACT = _by_segments(with_parameter=False)
_WITH_PARAMETER = _by_segments(with_parameter=True)
