"""Real servers on loopback for the tests: the gateway's application, and nodes that do as they are told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from container_manager.spec import Address
from kato_gateway.api.app import create_app
from kato_gateway.dataplane.attempts import Limits
from kato_gateway.dataplane.proxy import new_client
from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import GatewayError, SessionNotFound
from kato_gateway.domain.owners import NO_KEYS, KeyTable
from kato_gateway.events import Events
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.sessions.activity import Activity
from kato_node.wire.server import Heartbeat, Server, server_config

QUICK = Limits(answer_s=5.0, silence_s=5.0, connect_s=2.0, pause_s=0.001)


def listening_socket() -> socket.socket:
    """Return a socket that listens on a loopback port of the system's choice."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


@asynccontextmanager
async def server(app: ASGIApp, heartbeat: Heartbeat | None = None) -> AsyncIterator[tuple[Address, Server]]:
    """Serve an ASGI application over HTTP and WebSocket, as both services do, until the end of the block."""
    sock = listening_socket()
    ready = asyncio.Event()
    config = server_config(app, message_bytes_max=2**24, grace_s=2, heartbeat=heartbeat)
    running = Server(config, on_serving=ready.set)
    task = asyncio.create_task(running.serve([sock]))
    await ready.wait()
    try:
        yield Address(host="127.0.0.1", port=sock.getsockname()[1]), running
    finally:
        running.stop()
        await task


@asynccontextmanager
async def serving(app: ASGIApp, heartbeat: Heartbeat | None = None) -> AsyncIterator[Address]:
    """Serve an ASGI application; see `server`."""
    async with server(app, heartbeat) as (address, _):
        yield address


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as a node had it; header names in lower case."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the only value of a header, None if it is absent."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None


@dataclass
class Node:
    """A node that notes what it gets and answers all of it alike."""

    status: int = 200
    body: bytes = b"{}"
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [(b"content-type", b"application/json")])
    received: list[Received] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; 421 is answered before the body is read, as real nodes do."""
        if self.status != 421 and scope["type"] == "http":
            taken = await _taken(scope, receive)
            if taken is None:
                return
            self.received.append(taken)
        kind = "websocket.http" if scope["type"] == "websocket" else "http"
        length = [(b"content-length", str(len(self.body)).encode())]
        await send({"type": f"{kind}.response.start", "status": self.status, "headers": self.headers + length})
        await send({"type": f"{kind}.response.body", "body": self.body})


async def _taken(scope: Scope, receive: Receive) -> Received | None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    query = scope["query_string"].decode()
    return Received(
        method=scope["method"],
        target=scope["raw_path"].decode() + (f"?{query}" if query else ""),
        headers=[(name.decode(), value.decode()) for name, value in scope["headers"]],
        body=body,
    )


Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def talking(conversation: Conversation) -> AsyncIterator[Address]:
    """Serve raw connections, for what no proper server does."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await conversation(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


def nowhere() -> Address:
    """Return an address at which nothing listens."""
    with listening_socket() as sock:
        return Address(host="127.0.0.1", port=sock.getsockname()[1])


@dataclass
class Places(Lifecycle):
    """A lifecycle that knows where each session is by being told: one place after the other, the last one for good.

    Attributes:
        lost_routes: what was reported lost, in order; `reported` is set with the first.
        asked_after: of which calls waited long, in order.
        failure: what `resolve` raises instead.
    """

    places: dict[str, list[Address]]
    failure: GatewayError | None = None
    incarnation: str = "1"
    lost_routes: list[Route] = field(default_factory=list)
    asked_after: list[Route] = field(default_factory=list)
    asked_thrice: asyncio.Event = field(default_factory=asyncio.Event)
    reported: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.activity = Activity(lambda: 0.0)
        self.events = Events()

    async def resolve(self, session_id: str, *, owner: str | None = None) -> Route:
        """Return the session's first place, at epoch 1, 2, … as places are lost."""
        if self.failure is not None:
            raise self.failure
        if session_id not in self.places:
            raise SessionNotFound(session_id)
        epoch = len(self.lost_routes) + 1
        address = self.places[session_id][0]
        return Route(
            session_id=session_id,
            incarnation=self.incarnation,
            processor_id=f"p-{session_id}",
            epoch=epoch,
            node_id=f"n{epoch}",
            address=address,
        )

    async def lost(self, route: Route) -> None:
        """Go on to the session's next place."""
        self.lost_routes.append(route)
        self.reported.set()
        if len(self.places[route.session_id]) > 1:
            self.places[route.session_id].pop(0)

    async def is_lost(self, route: Route) -> bool:
        """Say that every node but a session's last place is lost, if it is asked after."""
        self.asked_after.append(route)
        if len(self.asked_after) == 3:
            self.asked_thrice.set()
        return len(self.places[route.session_id]) > 1


@asynccontextmanager
async def gateway(
    lifecycle: Lifecycle, limits: Limits = QUICK, heartbeat: Heartbeat | None = None, keys: KeyTable = NO_KEYS
) -> AsyncIterator[Address]:
    """Serve the gateway's application."""
    async with new_client(limits) as client:
        app = create_app(lifecycle, client, runtime="none", limits=limits, keys=keys)
        async with serving(app, heartbeat) as address:
            yield address
