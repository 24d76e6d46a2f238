"""A client's WebSocket outlives the node behind it, and nobody who is gone is waited for for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import aiohttp
import pytest
from starlette.types import Receive, Scope, Send
from websockets.utils import accept_key

from kato_gateway.dataplane.attempts import Limits
from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import CapacityReached
from kato_node.wire import messages
from kato_node.wire.server import Heartbeat
from tests.integration.gateway.serving import QUICK, Places, gateway, nowhere, server, serving, talking

HANDSHAKE = (
    b"GET /sessions/s/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)
SOON = Heartbeat(ping_s=0.05, pong_s=0.05)


@dataclass
class Scribe:
    """A node that notes what it hears and answers each message with itself; `deaf`: it answers nothing.

    "leave" makes it close with 1012 instead, and "subscribe" is answered with the event that says so.
    """

    deaf: bool = False
    heard: list[str] = field(default_factory=list)
    hearing: asyncio.Event = field(default_factory=asyncio.Event)
    sockets: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket."""
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = message["text"]
            self.heard.append(text)
            self.hearing.set()
            if text == "leave":
                await send({"type": "websocket.close", "code": 1012, "reason": "stopping"})
            elif text == "subscribe":
                await send({"type": "websocket.send", "text": messages.event(messages.SUBSCRIBED, {})})
            elif not self.deaf:
                await send({"type": "websocket.send", "text": text})
        self.sockets.put_nowait(message["code"])


@asynccontextmanager
async def socket_to(places: Places, limits: Limits = QUICK) -> AsyncIterator[aiohttp.ClientWebSocketResponse[bool]]:
    """Open a client's socket to session s through a gateway."""
    async with (
        gateway(places, limits) as front,
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{front.http_url}/sessions/s/ws") as socket,
    ):
        yield socket


async def closed(socket: aiohttp.ClientWebSocketResponse[bool]) -> int:
    """Return the code with which the socket is closed next."""
    message = await socket.receive()
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    return int(message.data)


async def test_a_node_that_leaves_is_replaced_by_the_next_message() -> None:
    """When a node takes its leave the client's socket stays open; its next message reaches the session's next node."""
    first, second = Scribe(), Scribe()
    async with server(first) as (at, leaving), serving(second) as then:
        places = Places({"s": [at, then]})
        async with socket_to(places) as socket:
            await socket.send_str("a")
            assert await socket.receive_str() == "a"
            leaving.stop()
            await places.reported.wait()
            await socket.send_str("b")
            assert await socket.receive_str() == "b"
    assert (first.heard, second.heard) == (["a"], ["b"])


@dataclass
class Queue(Places):
    """Places of which the second is waited for until whoever waits leaves."""

    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def resolve(self, session_id: str, *, owner: str | None = None) -> Route:
        """See Places."""
        if self.lost_routes:
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        return await super().resolve(session_id, owner=owner)


async def test_a_message_whose_client_leaves_waits_for_no_node() -> None:
    """A client that hangs up while its message waits for a node leaves the queue."""
    async with server(Scribe()) as (at, leaving):
        places = Queue({"s": [at]})
        async with socket_to(places) as socket:
            leaving.stop()
            await places.reported.wait()
            await socket.send_str("b")
            await places.waiting.wait()
            await socket.close()
            await places.left.wait()


async def test_a_socket_never_reaches_the_next_session_of_its_id() -> None:
    """When the session has ended and another has its id, the client's socket closes with 1012, and none of its messages
    reaches that one.
    """
    first, second = Scribe(), Scribe()
    async with server(first) as (at, leaving), serving(second) as then:
        places = Places({"s": [at, then]})
        async with socket_to(places) as socket:
            await socket.send_str("a")
            assert await socket.receive_str() == "a"
            leaving.stop()
            await places.reported.wait()
            places.incarnation = "2"
            await socket.send_str("b")
            assert await closed(socket) == 1012
    assert (first.heard, second.heard) == (["a"], [])


async def test_without_a_node_pings_wake_none() -> None:
    """While no node is behind a socket, the interface's own pings are answered and open no way to a node."""
    second = Scribe()
    async with server(Scribe()) as (at, leaving), serving(second) as then:
        places = Places({"s": [at, then]})
        async with socket_to(places) as socket:
            leaving.stop()
            await places.reported.wait()
            await socket.send_str('{"type": "ping", "id": 7}')
            assert await socket.receive_json() == {"type": "pong", "data": {}, "id": 7}
            assert second.heard == []
            await socket.send_str('{"type": "ping", "id": true}')  # not a proper one: what it is, the node says
            assert await socket.receive_str() == '{"type": "ping", "id": true}'


async def test_a_message_at_which_every_node_leaves_is_given_up() -> None:
    """A message that no node answers is tried on so many and no more; then the client's socket closes with 1012."""
    async with serving(Scribe()) as at:
        places = Places({"s": [at]})
        async with socket_to(places) as socket:
            await socket.send_str("leave")
            assert await closed(socket) == 1012
    assert len(places.lost_routes) == QUICK.tries_max


async def test_unanswered_messages_are_repeated_in_order() -> None:
    """A node that stops with messages waiting has them answered by its successor, in the order sent."""
    first, second = Scribe(deaf=True), Scribe()
    places = Places({})
    async with server(first) as (at, leaving), serving(second) as then:
        places.places["s"] = [at, then]
        async with socket_to(places) as socket:
            for number in range(50):
                await socket.send_str(str(number))
            await first.hearing.wait()
            leaving.stop()
            assert [await socket.receive_str() for _ in range(50)] == [str(number) for number in range(50)]
    assert second.heard == [str(number) for number in range(50)]


async def test_a_lost_node_with_unanswered_messages_closes_with_1012() -> None:
    """A node that breaks off owing answers closes the client's socket with 1012: it may have applied them."""
    first, second = Scribe(deaf=True), Scribe()
    async with server(first) as (at, breaking), serving(second) as then:
        places = Places({"s": [at, then]})
        async with socket_to(places) as socket:
            await socket.send_str("a")
            await first.hearing.wait()
            breaking.cut()
            assert await closed(socket) == 1012
            await places.reported.wait()
    assert second.heard == []


async def test_a_lost_node_that_owed_nothing_is_replaced() -> None:
    """A node that breaks off with everything answered is replaced by the next message, and the socket stays open."""
    second = Scribe()
    async with server(Scribe()) as (at, breaking), serving(second) as then:
        places = Places({"s": [at, then]})
        async with socket_to(places) as socket:
            await socket.send_str("a")
            assert await socket.receive_str() == "a"
            breaking.cut()
            await places.reported.wait()
            await socket.send_str("b")
            assert await socket.receive_str() == "b"
    assert second.heard == ["b"]


@pytest.mark.parametrize("how", ["stop", "cut"])
async def test_a_subscription_ends_with_its_node(how: str) -> None:
    """A socket that has subscribed closes with 1012 when its node ends: its client knows that it may miss events."""
    async with server(Scribe()) as (at, ending), socket_to(Places({"s": [at]})) as socket:
        await socket.send_str("subscribe")
        assert (await socket.receive_json())["data"] == {"event": "subscribed"}
        getattr(ending, how)()
        assert await closed(socket) == 1012


async def test_a_message_that_finds_no_node_is_told_so() -> None:
    """A message for which there is no node is answered with the error and its id, and the socket stays open."""
    async with server(Scribe()) as (at, leaving), serving(Scribe()) as then:
        places = Places({"s": [at, then]})
        async with socket_to(places) as socket:
            leaving.stop()
            await places.reported.wait()
            places.failure = CapacityReached("As many nodes live as may.", retry_after_s=1.0)
            await socket.send_str('{"type": "observe", "id": "m-1"}')
            answer = await socket.receive_json()
            assert (answer["type"], answer["id"], answer["data"]["code"]) == ("error", "m-1", "CAPACITY_REACHED")
            places.failure = None
            await socket.send_str('{"type": "observe", "id": "m-1"}')
            assert json.loads(await socket.receive_str())["id"] == "m-1"


async def test_unanswered_messages_are_bounded() -> None:
    """A client that sends without end to a node that does not answer is made to wait, whatever it sends."""
    node = Scribe(deaf=True)
    limits = replace(QUICK, owed_max=10)
    async with serving(node) as at, socket_to(Places({"s": [at]}), limits) as socket:
        sending = asyncio.create_task(_send_on(socket))
        assert await asyncio.wait({sending}, timeout=2.0) == (set(), {sending})
        sending.cancel()
        assert len(node.heard) == 10
        assert socket._writer.transport is not None
        socket._writer.transport.abort()  # rather than wait until all of it is read


async def _send_on(socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
    while True:
        await socket.send_str("x" * 1000)


async def test_a_client_that_is_gone_without_a_word_is_found_out() -> None:
    """A connection on which nothing answers pings is cut, and the node's socket is closed with it."""
    node = Scribe()
    async with serving(node) as at, gateway(Places({"s": [at]}), heartbeat=SOON) as front:
        _, writer = await asyncio.open_connection(front.host, front.port)
        writer.write(HANDSHAKE)
        await node.sockets.get()
        writer.close()


async def test_a_client_that_is_gone_while_much_is_on_its_way_is_found_out() -> None:
    """A connection that takes nothing more is cut, although what was sent on it never arrives."""
    ended = asyncio.Event()

    async def floods(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "x" * 2**18})
        finally:
            ended.set()

    async with serving(floods) as at, gateway(Places({"s": [at]}), heartbeat=SOON) as front:
        _, writer = await asyncio.open_connection(front.host, front.port, limit=2**16)
        writer.write(HANDSHAKE)
        await ended.wait()
        writer.close()


async def test_a_client_that_answers_pings_stays() -> None:
    """A client that only answers pings keeps its socket, over many pings."""
    node = Scribe()
    async with (
        serving(node) as at,
        gateway(Places({"s": [at]}), heartbeat=SOON) as front,
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{front.http_url}/sessions/s/ws", autoping=False) as socket,
    ):
        for _ in range(10):
            ping = await socket.receive()
            assert ping.type is aiohttp.WSMsgType.PING
            await socket.pong(ping.data)
        await socket.send_str("a")
        while (message := await socket.receive()).type is aiohttp.WSMsgType.PING:
            await socket.pong(message.data)
        assert message.data == "a"


async def test_a_node_that_hangs_is_found_out() -> None:
    """A node that takes messages and answers neither them nor pings closes the client's socket with 1012."""
    places = Places({})

    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        _, _, rest = head.decode().lower().partition("sec-websocket-key: ")
        key = head.decode()[-len(rest) :].partition("\r\n")[0]
        writer.write(ACCEPTED % accept_key(key).encode())
        await reader.read()

    async with talking(hangs) as at:
        places.places["s"] = [at, nowhere()]
        async with socket_to(places, replace(QUICK, node_ping_s=0.1)) as socket:
            await socket.send_str("a")
            assert await closed(socket) == 1012
