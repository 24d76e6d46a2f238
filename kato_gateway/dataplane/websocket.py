"""Forwarding a WebSocket: one to the session's node, and its messages copied both ways, each side at the other's pace.

Pings of the protocol are answered on each side by itself, so an open socket is no sign of life to a node.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import aiohttp
from starlette.types import Receive, Send
from yarl import URL

from kato_gateway.dataplane.admit import Forward, Head
from kato_gateway.dataplane.attempts import Limits, NodeLost, Resolver, Usage, attempt, report
from kato_gateway.dataplane.heads import request_headers
from kato_gateway.dataplane.proxy import Client
from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import NodeFailed
from kato_node.wire import headers

SERVICE_RESTART = 1012
# RFC 6455, section 7.4.1: what is never sent in a close frame.
_NO_STATUS = 1005
_PING_CHARACTERS_MAX = 256

Upstream = aiohttp.ClientWebSocketResponse[bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """How a node closed its socket: the code and reason for the client, and whether the node was going away."""

    code: int
    reason: str
    node_lost: bool


class WebSocketProxy:
    """Forwards WebSockets."""

    def __init__(self, resolver: Resolver, usage: Usage, client: Client, *, limits: Limits) -> None:
        self._resolver = resolver
        self._usage = usage
        self._client = client
        self._limits = limits

    async def run(self, head: Head, forward: Forward, request_id: str, receive: Receive, send: Send) -> None:
        """Reach the session's node, accept the client, and copy messages until either side closes.

        A lost node closes the client's socket with 1012.
        Raises: GatewayError, before the client has been accepted.
        """
        await receive()  # websocket.connect
        upstream, route = await attempt(
            self._resolver,
            forward.session_id,
            lambda route: self._open(head, forward, route, request_id),
            owner=forward.owner,
            limits=self._limits,
            repeatable=lambda: True,
        )
        self._usage.touch(route.session_id)
        async with upstream:
            await send({"type": "websocket.accept", "headers": _echo(route)})
            closed = await self._copy(upstream, route.session_id, receive, send)
        if closed is None:
            return
        try:
            await send({"type": "websocket.close", "code": closed.code, "reason": closed.reason})
        finally:
            if closed.node_lost:
                await report(self._resolver, route)

    async def _open(self, head: Head, forward: Forward, route: Route, request_id: str) -> tuple[Upstream, Route]:
        try:
            upstream = await self._client.ws_connect(
                URL(route.address.http_url + forward.target, encoded=True),
                headers=request_headers(head, route, request_id=request_id, key=None),
                heartbeat=self._limits.silence_s,
                timeout=aiohttp.ClientWSTimeout(ws_close=self._limits.connect_s),
                max_msg_size=0,
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 421:
                raise NodeLost from error
            raise NodeFailed(f"The session's node refused the WebSocket with status {error.status}.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NodeLost from error
        return upstream, route

    async def _copy(self, upstream: Upstream, session_id: str, receive: Receive, send: Send) -> Closed | None:
        """Copy until one side closes; return how the node did, None if it was the client."""
        inward = asyncio.create_task(self._copy_in(upstream, session_id, receive))
        outward = asyncio.create_task(_copy_out(upstream, send))
        try:
            await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
            if inward.done() and not inward.result():
                return await outward
            return None if inward.done() else outward.result()
        finally:
            inward.cancel()
            outward.cancel()
            await asyncio.gather(inward, outward, return_exceptions=True)

    async def _copy_in(self, upstream: Upstream, session_id: str, receive: Receive) -> bool:
        """Copy from the client to the node; return whether it was the client that ended it."""
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return True
            text = message.get("text")
            try:
                if text is None:
                    await upstream.send_bytes(message["bytes"])
                else:
                    await upstream.send_str(text)
            except (aiohttp.ClientError, ConnectionError):
                return False
            if text is None or not _is_ping(text):
                self._usage.touch(session_id)


async def _copy_out(upstream: Upstream, send: Send) -> Closed | None:
    """Copy from the node to the client until the node closes or is lost; return how, None if the client is gone."""
    while True:
        message = await upstream.receive()
        if message.type is aiohttp.WSMsgType.TEXT or message.type is aiohttp.WSMsgType.BINARY:
            kind = "text" if message.type is aiohttp.WSMsgType.TEXT else "bytes"
            try:
                await send({"type": "websocket.send", kind: message.data})
            except OSError:
                return None
        elif message.type is aiohttp.WSMsgType.CLOSE and message.data != SERVICE_RESTART:
            code = 1000 if message.data in {None, _NO_STATUS} else int(message.data)
            return Closed(code=code, reason=message.extra or "", node_lost=False)
        else:
            reason = "The session's node has ended; connect again and repeat what was not answered."
            return Closed(code=SERVICE_RESTART, reason=reason, node_lost=True)


def _is_ping(text: str) -> bool:
    """Tell the interface's own ping message, which is no call on the session."""
    if len(text) > _PING_CHARACTERS_MAX or '"ping"' not in text:
        return False
    try:
        message = json.loads(text)
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("type") == "ping"


def _echo(route: Route) -> list[tuple[bytes, bytes]]:
    return [(headers.SESSION.encode("ascii"), route.session_id.encode("ascii"))]
