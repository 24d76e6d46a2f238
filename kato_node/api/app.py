"""The node's ASGI application, built from its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

import kato_node
from kato_node.api.access import Guardable, LoopbackOnly, guard
from kato_node.api.control import control_routes, is_control
from kato_node.api.errors import translate
from kato_node.api.routes import operation_routes, takes_lines
from kato_node.api.sessions import session_routes
from kato_node.api.ws import websocket_routes
from kato_node.errors import WrongNode
from kato_node.node import Node
from kato_node.settings import Settings
from kato_node.wire import headers, openapi
from kato_node.wire.errors import ErrorReply
from kato_node.wire.web import BodyLimit, add_docs, error_response, explain, install_errors

HELD_BYTES_MAX = 64 * 2**20  # of bodies, which decoded take several times as much
_DESCRIPTION = "One processor: a deterministic memory for sequences. "


def create_app(node: Node, settings: Settings) -> FastAPI:
    """Return the application that serves the node: operations, WebSocket, documentation, control routes.

    Nothing is started here; the node may be bound before or after.
    """
    app = FastAPI(
        title="KATO node",
        version=kato_node.__version__,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    add_docs(app)
    secret = settings.node_secret
    sockets = websocket_routes(
        node, lambda error: explain(error, translate), message_bytes_max=settings.ws_message_bytes_max
    )
    documentation = list(app.router.routes)
    control = [] if secret is None else control_routes(node, secret)
    operations: list[Guardable] = [*operation_routes(node, line_bytes_max=settings.line_bytes_max), *sockets]
    if settings.require_token:
        guard(operations, key=lambda: node.token_key, processor_id=lambda: node.service.processor_id)
    else:  # a token is for one session, and the gateway makes both
        operations.extend(session_routes(node))
    # In the order in which they are tried: the busiest first.
    app.router.routes[:] = [*operations, *control, *documentation]
    described = partial(
        openapi.document,
        title=app.title,
        version=app.version,
        description=_DESCRIPTION,
        require_token=settings.require_token,
    )
    app.openapi = cache(described)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.body_bytes_max,
        exempt=takes_lines,
        silence_max_s=settings.body_silence_max_s,
        held_bytes_max=max(HELD_BYTES_MAX, settings.body_bytes_max),
    )
    app.add_middleware(IdentityGate, node=node, secret=secret)
    if settings.host_is_loopback and not settings.require_token:
        app.add_middleware(LoopbackOnly)
    install_errors(app, translate, log_context=lambda: _log_context(node))
    return app


def _log_context(node: Node) -> Mapping[str, object]:
    if node.state != "bound":
        return {"node_id": node.node_id}
    return {"node_id": node.node_id, "processor_id": node.service.processor_id, "epoch": node.service.epoch}


class IdentityGate:
    """Lets in only what means this node (architecture.md, decision 6), before anything reads a body.

    A request that names a processor and an epoch means exactly these, whatever its path. One that names none means
    whoever listens here, unless the node is stopping.
    """

    def __init__(self, app: ASGIApp, *, node: Node, secret: str | None) -> None:
        self._app = app
        self._node = node
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        refusal = self._refusal(scope) if scope["type"] in {"http", "websocket"} else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await error_response(refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ErrorReply | None:
        given = Headers(scope=scope)
        processor_id, epoch = given.get(headers.PROCESSOR), given.get(headers.EPOCH)
        if processor_id is not None or epoch is not None:
            return None if self._is_meant(processor_id, epoch) else _wrong_node(closing=self._node.state == "draining")
        if self._node.state == "draining" and not is_control(scope, self._secret):
            message = "This node is stopping; try again."
            return ErrorReply(code="RUNTIME_UNAVAILABLE", message=message, headers={"Connection": "close"})
        return None

    def _is_meant(self, processor_id: str | None, epoch: str | None) -> bool:
        try:
            service = self._node.service
        except WrongNode:
            return False
        return processor_id in {None, service.processor_id} and epoch in {None, str(service.epoch)}


def _wrong_node(*, closing: bool) -> ErrorReply:
    message = "This node is not the one that the request was meant for."
    return ErrorReply(code="WRONG_NODE", message=message, headers={"Connection": "close"} if closing else {})
