"""Peers that are gone, do not read, or do not speak HTTP: none is waited for for ever, none costs without end."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import aiohttp
from websockets.frames import Frame, Opcode

from kato_node.settings import Settings
from kato_node.wire.server import Heartbeat
from tests.contract.node.serving import PROCESSOR, Served, serving_node

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
SOON = Settings(processor_id=PROCESSOR, heartbeat=Heartbeat(ping_s=0.1, pong_s=0.1))


def framed(kind: str, payload: object = None) -> bytes:
    """Return a message as the bytes of a client's frame."""
    text = json.dumps({"type": kind, "payload": payload}).encode()
    return Frame(Opcode.TEXT, text).serialize(mask=True)


async def test_a_half_open_socket_is_cut() -> None:
    """A connection that completes the handshake and then never answers a ping is cut."""
    async with serving_node(settings=SOON) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(HANDSHAKE)
        with suppress(ConnectionError):
            while await reader.read(2**16):  # pings, and what is said at the end; until the connection is gone
                pass
        writer.close()


async def test_a_client_that_does_not_read_is_not_served_on() -> None:
    """A client that asks on and on and reads nothing is answered until the ways are full, no further, and then cut."""
    async with serving_node(settings=SOON) as served:
        long = {"strings": [str(number) * 100 for number in range(5_000)]}
        (await served.http.post("/observe", json=long)).raise_for_status()
        reader, writer = await asyncio.open_connection(*served.address, limit=2**16)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        asked = 0
        with suppress(ConnectionError):
            while True:
                writer.write(framed("get_stm") * 100)
                asked += 100
                await writer.drain()
        assert asked > 1000
        writer.close()
        assert (await served.http.get("/stm")).json()["length"] == 1


async def test_a_busy_node_hears_its_client() -> None:
    """A message that takes longer than many pings does not cost a living client its socket: its pongs are heard."""
    async with serving_node(settings=SOON) as served, aiohttp.ClientSession() as client:
        await served.http.post("/learn")
        served.committing.clear()
        served.disk.gate.clear()
        url = f"http://{served.address[0]}:{served.address[1]}/ws"
        async with client.ws_connect(url, autoping=False) as socket:
            await socket.send_json({"type": "observe", "payload": {"strings": ["a"]}})
            await served.committing.wait()
            for _ in range(5):
                ping = await socket.receive()
                assert ping.type is aiohttp.WSMsgType.PING
                await socket.pong(ping.data)
            served.disk.gate.set()
            while (message := await socket.receive()).type is aiohttp.WSMsgType.PING:
                await socket.pong(message.data)
            assert json.loads(message.data)["type"] == "observation_result"


async def test_what_is_no_http_is_answered_with_the_envelope(served: Served) -> None:
    """Bytes that are no HTTP request are answered with 400 and the envelope, and the connection is closed."""
    for sent in (b"nonsense\r\n\r\n", b"GET /stm HTTP/1.1\r\nContent-Length: many\r\n\r\n"):
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(sent)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"x-request-id: " in head.lower()
        assert json.loads(body)["error"]["code"] == "MALFORMED_JSON"
        writer.close()
    assert (await served.http.get("/health")).status_code == 200
