"""The data plane as an ASGI application: it forwards what is admitted, and hands everything else on."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from starlette.types import ASGIApp, Receive, Scope, Send

from kato_gateway.dataplane.admit import WEBSOCKET, Forward, Head, Own, Refuse, admit
from kato_gateway.dataplane.attempts import Limits, Resolver, Usage
from kato_gateway.dataplane.body import RequestBody
from kato_gateway.dataplane.hangup import hung_up
from kato_gateway.dataplane.proxy import Answer, AnswerBroken, Call, Client, HttpProxy
from kato_gateway.dataplane.websocket import WebSocketProxy
from kato_gateway.domain.owners import KeyTable
from kato_node.wire import logs
from kato_node.wire.errors import ErrorReply

OWNER = "kato.owner"
"""Where the scope of a request that the gateway answers itself says whose it is; None without keys."""

_log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that names an operation but cannot be forwarded; `reply` is what its caller is told."""

    def __init__(self, refusal: Refuse) -> None:
        super().__init__(refusal.message)
        allow = {"Allow": ", ".join(refusal.allow)} if refusal.allow else {}
        self.reply = ErrorReply(code=refusal.code, message=refusal.message, headers=allow)


class DataPlane:
    """Forwards to nodes what `admit` admits; `app` answers the rest, and is told whose call it is.

    Stands inside the layer that gives a request its id and turns errors into replies.
    """

    def __init__(
        self, app: ASGIApp, *, resolver: Resolver, usage: Usage, client: Client, limits: Limits, keys: KeyTable
    ) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._http = HttpProxy(resolver, usage, client, limits=limits)
        self._websocket = WebSocketProxy(resolver, usage, client, limits=limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. Raises: Refused, GatewayError, ClientDisconnect, what `receive` raises."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        head = _head(scope)
        decision = admit(head, self._keys)
        if isinstance(decision, Own):
            await self._app({**scope, OWNER: decision.owner}, receive, send)
        elif isinstance(decision, Refuse):
            raise Refused(decision)
        elif scope["type"] == "websocket":
            await self._websocket.run(head, decision, _request_id(decision), receive, send)
        else:
            await self._forward(head, decision, receive, send)

    async def _forward(self, head: Head, forward: Forward, receive: Receive, send: Send) -> None:
        body = RequestBody(receive, kept_bytes_max=self._limits.kept_bytes_max)
        call = Call(head=head, forward=forward, body=body, request_id=_request_id(forward))
        answer = await self._http.answer(call)
        try:
            await _deliver(answer, receive, send, silence_s=self._limits.silence_s)
        except (AnswerBroken, TimeoutError):
            # The head is out: that the connection ends too early is all that the client can still be told.
            _log.warning("reply_broken_off")


def _head(scope: Scope) -> Head:
    return Head(
        method=scope.get("method", WEBSOCKET),
        path=scope["raw_path"],
        query=scope["query_string"],
        headers=scope["headers"],
    )


def _request_id(forward: Forward) -> str:
    """Return the request's id, and have the session's stand beside it in the log."""
    known = logs.context.get()
    logs.context.set({**known, "session_id": forward.session_id})
    return str(known["request_id"])


async def _deliver(answer: Answer, receive: Receive, send: Send, *, silence_s: float) -> None:
    """Send a reply on; a streamed one until the client hangs up, or takes nothing of it for so long.

    Raises: AnswerBroken; TimeoutError for a client that takes nothing: nobody's node is to wait for it.
    """
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    if answer.rest is None:
        await send({"type": "http.response.body", "body": answer.body})
        return
    gone = asyncio.create_task(hung_up(receive))
    try:
        async with aclosing(answer.rest) as rest:
            async for chunk in rest:
                if gone.done():
                    return
                async with asyncio.timeout(silence_s):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()
