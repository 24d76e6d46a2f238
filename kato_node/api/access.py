"""Who may call on this node: whoever holds a session's token where one is required, else whoever is on this machine.

Control routes are not concerned: they ask for the node's secret, and without it do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from kato_node.wire import headers, logs
from kato_node.wire.errors import Forbidden, Unauthenticated
from kato_node.wire.origins import foreign
from kato_node.wire.tokens import bearer, verified

Guardable: TypeAlias = Route | WebSocketRoute
_SESSION = headers.SESSION.encode("ascii")


class LoopbackOnly:
    """Refuses what a web page of elsewhere has a browser on this machine ask (wire.origins). Raises: Forbidden."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        wrong = foreign(scope["headers"]) if scope["type"] in {"http", "websocket"} else None
        if wrong is not None:
            raise Forbidden(wrong)
        await self._app(scope, receive, send)


def guard(routes: Iterable[Guardable], *, key: Callable[[], str | None], processor_id: Callable[[], str]) -> None:
    """Have each of the routes ask for a token that was issued under the key, for the processor that is bound.

    Without one /health says how the node is, and nothing of a session that the request names.

    Args:
        key: of that processor; without one no token is good.
        processor_id: says which one that is; what it raises, a call raises.
    """
    for route in routes:
        open_to_all = route.path == "/health"
        route.app = _TokenGate(route.app, key=key, processor_id=processor_id, open_to_all=open_to_all)


class _TokenGate:
    """Lets in what carries a token, as a call of the session that the token names."""

    def __init__(
        self, app: ASGIApp, *, key: Callable[[], str | None], processor_id: Callable[[], str], open_to_all: bool
    ) -> None:
        self._app = app
        self._key = key
        self._processor_id = processor_id
        self._open_to_all = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. Raises: Unauthenticated, Forbidden, WrongNode."""
        passed = [item for item in scope["headers"] if item[0] != _SESSION]
        token = _token(scope)
        if token is not None:
            processor_id = self._processor_id()
            session_id = _granted(token, scope, self._key(), processor_id)
            passed.append((_SESSION, session_id.encode("ascii")))
            logs.context.set({**logs.context.get(), "session_id": session_id})
        elif not self._open_to_all:
            raise Unauthenticated("Send `Authorization: Bearer TOKEN` with the session's access_token.")
        await self._app({**scope, "headers": passed}, receive, send)


def _token(scope: Scope) -> str | None:
    given = bearer(scope["headers"])
    return _in_query(scope, "access_token") if given is None else given.decode("latin-1")


def _granted(token: str, scope: Scope, key: str | None, processor_id: str) -> str:
    """Return the session that the token is for. Raises: Unauthenticated, Forbidden."""
    grant = None if key is None else verified(token, key=key)
    if grant is None or grant.processor_id != processor_id:
        raise Unauthenticated("This token was not issued for this processor; ask the gateway where its session is.")
    named = [Headers(scope=scope).get(headers.SESSION), _in_query(scope, "session_id")]
    named.append(scope.get("path_params", {}).get("session_id"))
    if any(name not in {None, grant.session_id} for name in named):
        raise Forbidden("This token is for another session than the one that the request names.")
    return grant.session_id


def _in_query(scope: Scope, name: str) -> str | None:
    """Return a parameter of a WebSocket's query: there a browser can send no header."""
    if scope["type"] != "websocket":
        return None
    query = str(scope["query_string"], "latin-1")
    return next(iter(parse_qs(query).get(name, ())), None)
