"""What a message's head loses and gains on its way through the gateway: pure functions over header lists."""

from __future__ import annotations

from collections.abc import Iterable

from kato_gateway.dataplane.admit import Head
from kato_gateway.dataplane.routes import Route
from kato_node.wire import headers

Headers = Iterable[tuple[bytes, bytes]]

# RFC 9110, section 7.6.1: they speak of one connection, not of the message.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Said anew by the gateway: to whom, about what, and how long.
_SET_BY_GATEWAY = frozenset(
    name.encode("ascii")
    for name in (*headers.GATEWAY_OWN, headers.SESSION, headers.REQUEST_ID, headers.IDEMPOTENCY_KEY)
) | {b"host", b"content-length", b"expect"}
# What opens the gateway is nothing that a node should ever see: it gets the session's own token instead.
_CREDENTIALS = frozenset({b"authorization", headers.API_KEY.encode("ascii")})
_HANDSHAKE_PREFIX = b"sec-websocket-"
# Said anew by the gateway's own server and its middleware.
_SET_BY_SERVER = frozenset({b"date", b"server", headers.REQUEST_ID.encode("ascii")})


def request_headers(head: Head, route: Route, *, request_id: str, key: str | None) -> list[tuple[str, str]]:
    """Return the headers for the node: the client's end-to-end ones but for its key, and whom the gateway means."""
    own = [
        (headers.SESSION, route.session_id),
        (headers.PROCESSOR, route.processor_id),
        (headers.EPOCH, str(route.epoch)),
        (headers.INCARNATION, route.incarnation),
        (headers.REQUEST_ID, request_id),
        ("authorization", f"Bearer {route.token}"),
    ]
    if key is not None:
        own.append((headers.IDEMPOTENCY_KEY, key))
    dropped = _HOP_BY_HOP | _SET_BY_GATEWAY | _CREDENTIALS | _connection_options(head.headers)
    kept = (
        (name.decode("ascii"), value.decode("utf-8", "surrogateescape"))
        for name, value in head.headers
        if name not in dropped and not name.startswith(_HANDSHAKE_PREFIX)
    )
    return [*kept, *own]


def reply_headers(received: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers of a node's reply for the client, names in lower case."""
    lowered = [(name.lower(), value) for name, value in received]
    dropped = _HOP_BY_HOP | _SET_BY_SERVER | _connection_options(lowered)
    return [(name, value) for name, value in lowered if name not in dropped]


def _connection_options(received: Headers) -> frozenset[bytes]:
    """Return the headers that a Connection header names as meant for one hop only."""
    options = (value.lower().split(b",") for name, value in received if name == b"connection")
    return frozenset(option.strip() for named in options for option in named)
