"""Forwarding a WebSocket: reaching the session's node, and reaching it again."""

from __future__ import annotations

import aiohttp
from starlette.types import Receive, Send
from yarl import URL

from kato_gateway.dataplane.admit import Forward, Head
from kato_gateway.dataplane.attempts import Limits, Resolver, Usage, attempt
from kato_gateway.dataplane.conversation import Attached, Conversation
from kato_gateway.dataplane.hangup import unless_hung_up
from kato_gateway.dataplane.heads import request_headers
from kato_gateway.dataplane.proxy import Client
from kato_gateway.dataplane.routes import Route
from kato_gateway.dataplane.vigil import NodeLost
from kato_gateway.domain.errors import NodeFailed
from kato_node.wire import headers


class WebSocketProxy:
    """Forwards WebSockets."""

    def __init__(self, resolver: Resolver, usage: Usage, client: Client, *, limits: Limits) -> None:
        self._resolver = resolver
        self._usage = usage
        self._client = client
        self._limits = limits

    async def run(self, head: Head, forward: Forward, request_id: str, receive: Receive, send: Send) -> None:
        """Reach the session's node, accept the client, and copy messages until the client's socket closes.

        Raises: GatewayError, ClientDisconnect, before the client has been accepted.
        """

        async def attach() -> Attached:
            return await attempt(
                self._resolver,
                forward.session_id,
                lambda route: self._open(head, forward, route, request_id),
                owner=forward.owner,
                limits=self._limits,
                repeatable=lambda: True,
            )

        await receive()  # websocket.connect
        first = await unless_hung_up(receive, attach())  # before it is accepted a client has nothing else to send
        self._usage.touch(forward.session_id)
        conversation = Conversation(
            receive, send, first, attach=attach, resolver=self._resolver, usage=self._usage, limits=self._limits
        )
        try:
            await send({"type": "websocket.accept", "headers": _echo(first.route)})
            await conversation.run()
        finally:
            await conversation.close()

    async def _open(self, head: Head, forward: Forward, route: Route, request_id: str) -> Attached:
        try:
            socket = await self._client.ws_connect(
                URL(route.address.http_url + forward.target, encoded=True),
                headers=request_headers(head, route, request_id=request_id, key=None),
                heartbeat=self._limits.node_ping_s,
                timeout=aiohttp.ClientWSTimeout(ws_close=self._limits.connect_s),
                max_msg_size=0,
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 421:
                raise NodeLost from error
            raise NodeFailed(f"The session's node refused the WebSocket with status {error.status}.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NodeLost from error
        return Attached(socket=socket, route=route)


def _echo(route: Route) -> list[tuple[bytes, bytes]]:
    return [(headers.SESSION.encode("ascii"), route.session_id.encode("ascii"))]
