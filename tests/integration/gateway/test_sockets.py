"""Forwarding of WebSockets: to the session's node and back, and what the client sees when the node goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from starlette.types import Receive, Scope, Send

from tests.integration.gateway.serving import Node, Places, gateway, nowhere, serving

HANDSHAKE = (
    b"GET /sessions/s/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client."""
    async with aiohttp.ClientSession() as session:
        yield session


@dataclass
class Echo:
    """A node that says what it hears; `close` followed by a code makes it close."""

    heads: list[dict[str, str]] = field(default_factory=list)
    paths: list[tuple[str, str]] = field(default_factory=list)
    closed: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket."""
        self.heads.append({name.decode(): value.decode() for name, value in scope["headers"]})
        self.paths.append((scope["path"], scope["query_string"].decode()))
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text is not None and text.startswith("close "):
                await send({"type": "websocket.close", "code": int(text[6:]), "reason": "so be it"})
            else:
                kind = "bytes" if text is None else "text"
                await send({"type": "websocket.send", kind: message[kind]})
        self.closed.put_nowait(message["code"])


@pytest.mark.parametrize(
    ("path", "session_id"),
    [
        ("/sessions/s/ws", "s"),
        ("/session/s/ws", "s"),
        ("/v2/sessions/s/ws", "s"),
        ("/ws?session_id=s", "s"),
        ("/ws", "default"),
    ],
)
async def test_messages_are_copied_both_ways(client: aiohttp.ClientSession, path: str, session_id: str) -> None:
    """On each of its paths a socket reaches its session's node, and text and bytes come back as they went."""
    echo = Echo()
    async with serving(echo) as at, gateway(Places({session_id: [at]})) as front:
        async with client.ws_connect(front.http_url + path, headers={"X-Kato-Epoch": "9"}) as socket:
            for text in ("", "é\u0000", "x" * 2**21):
                await socket.send_str(text)
                assert await socket.receive_str() == text
            await socket.send_bytes(b"\x00\xff")
            assert await socket.receive_bytes() == b"\x00\xff"
        assert await echo.closed.get() == 1000
    [head] = echo.heads
    assert (head["x-session-id"], head["x-kato-processor"], head["x-kato-epoch"]) == (
        session_id,
        f"p-{session_id}",
        "1",
    )
    assert head["x-request-id"]
    assert echo.paths == [("/ws", "")]


async def test_the_session_is_echoed(client: aiohttp.ClientSession) -> None:
    """An accepted socket carries X-Session-ID and X-Request-ID."""
    async with (
        serving(Echo()) as at,
        gateway(Places({"s": [at]})) as front,
        client.get(
            f"{front.http_url}/sessions/s/ws",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "X-Request-ID": "r",
            },
        ) as response,
    ):
        assert response.status == 101
        assert (response.headers["X-Session-ID"], response.headers["X-Request-ID"]) == ("s", "r")


async def test_a_socket_finds_the_node_that_is_there(client: aiohttp.ClientSession) -> None:
    """A node that is gone, or says it is not the one meant, is passed over before the client is accepted."""
    places = Places({})
    async with serving(Node(status=421)) as wrong, serving(Echo()) as at, gateway(places) as front:
        places.places["s"] = [nowhere(), wrong, at]
        async with client.ws_connect(f"{front.http_url}/sessions/s/ws") as socket:
            await socket.send_str("a")
            assert await socket.receive_str() == "a"
    assert [route.epoch for route in places.lost_routes] == [1, 2]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/sessions/none/ws", 404, "SESSION_NOT_FOUND"),
        ("/sessions/a b/ws", 404, "SESSION_NOT_FOUND"),
        ("/sessions/gone/ws", 502, "NODE_FAILED"),
        ("/sessions/odd/ws", 502, "NODE_FAILED"),
        ("/sessions/gone/observe", 405, "METHOD_NOT_ALLOWED"),
        ("/nothing", 404, "NOT_FOUND"),
    ],
)
async def test_a_refused_socket_is_told_why(client: aiohttp.ClientSession, path: str, status: int, code: str) -> None:
    """A handshake that cannot be answered gets the envelope, like any other request."""
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    async with (
        serving(Node(status=500)) as odd,
        gateway(Places({"gone": [nowhere()], "odd": [odd]})) as front,
        client.get(front.http_url + path, headers=headers | key) as response,
    ):
        reply = await response.json()
        assert (response.status, reply["status"], reply["error"]["code"]) == (status, status, code)
        assert response.headers["X-Request-ID"]


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (1009, 1009), (4000, 4000)])
async def test_the_nodes_close_reaches_the_client(client: aiohttp.ClientSession, code: int, seen: int) -> None:
    """The client's socket closes as the node's did."""
    async with serving(Echo()) as at:
        places = Places({"s": [at]})
        async with gateway(places) as front, client.ws_connect(f"{front.http_url}/sessions/s/ws") as socket:
            await socket.send_str(f"close {code}")
            message = await socket.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, seen)
    assert places.lost_routes == []


async def test_a_client_that_vanishes_closes_the_nodes_socket(client: aiohttp.ClientSession) -> None:
    """A client's connection that ends without a close frame leaves no socket open at the node."""
    echo = Echo()
    async with serving(echo) as at, gateway(Places({"s": [at]})) as front:
        socket = await client.ws_connect(f"{front.http_url}/sessions/s/ws")
        await socket.send_str("a")
        assert await socket.receive_str() == "a"
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()
        assert await echo.closed.get() in {1000, 1005, 1006}


async def test_a_message_beyond_the_limit_closes_the_socket() -> None:
    """More than 16 MiB in one message closes the socket with 1009 before it has been sent, and the node's with it."""
    echo = Echo()
    async with serving(echo) as at, gateway(Places({"s": [at]})) as front:
        reader, writer = await asyncio.open_connection(front.host, front.port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\xff" + (2**24 + 1).to_bytes(8, "big") + b"mask")
        first, length = await reader.readexactly(2)
        code = int.from_bytes((await reader.readexactly(length))[:2], "big")
        assert (first, code) == (0x88, 1009)
        writer.close()
        await echo.closed.get()


async def test_a_slow_client_slows_the_node() -> None:
    """A node that sends faster than the client reads is made to wait, instead of the gateway keeping it all."""
    sent, stuck = 0, asyncio.Event()

    async def floods(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(512):
            try:
                async with asyncio.timeout(1.0):
                    await send({"type": "websocket.send", "text": "x" * 2**18})
            except TimeoutError:
                stuck.set()
                return
            sent += 1

    async with serving(floods) as at, gateway(Places({"s": [at]})) as front:
        _, writer = await asyncio.open_connection(front.host, front.port, limit=2**16)
        writer.write(HANDSHAKE)
        await stuck.wait()
        writer.close()
    assert sent < 512


async def test_pings_are_no_use(client: aiohttp.ClientSession) -> None:
    """Pings, the protocol's and the interface's own, do not count as calls on the session; other messages do."""
    async with serving(Echo()) as at:
        places = Places({"s": [at]})
        async with gateway(places) as front, client.ws_connect(f"{front.http_url}/sessions/s/ws") as socket:
            await socket.send_str("hello")
            await socket.receive_str()
            assert set(places.activity.take()) == {"s"}
            await socket.ping()
            await socket.send_str('{"type": "ping", "id": 1}')
            await socket.receive_str()
            assert set(places.activity.take()) == set()
            await socket.send_str('{"type": "learn", "payload": {"x": "ping"}}')
            await socket.receive_str()
            assert set(places.activity.take()) == {"s"}


@pytest.mark.parametrize(
    "wrong",
    [
        HANDSHAKE.replace(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"),
        HANDSHAKE.replace(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", b""),
        HANDSHAKE.replace(b"AAAA==", b"no base64"),
    ],
)
async def test_a_handshake_that_is_none_gets_the_envelope(wrong: bytes) -> None:
    """What asks for a WebSocket without being its handshake is answered as any error is, and the connection closes."""
    async with gateway(Places({})) as front:
        reader, writer = await asyncio.open_connection(front.host, front.port)
        writer.write(wrong)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-request-id: " in head
    told = json.loads(body)
    assert (told["status"], told["error"]["code"]) == (400, "MALFORMED_JSON")
