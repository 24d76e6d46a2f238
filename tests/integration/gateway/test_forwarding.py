"""Forwarding over HTTP: what reaches the node, what comes back, and what happens when the node does not answer."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from yarl import URL

from kato_gateway.domain.errors import RuntimeOutOfReach
from tests.integration.gateway.serving import QUICK, Node, Places, gateway, nowhere, serving, talking

LARGE = 3 * 2**20
STALE = b'{"error": {"code": "PROCESSOR_FENCED", "message": "", "details": {}}, "status": 409}'


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that shows replies as they are."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


async def error_of(response: aiohttp.ClientResponse) -> tuple[int, str]:
    """Return an error reply's status and code; its envelope must be whole."""
    reply = await response.json()
    assert set(reply) == {"error", "status"}
    assert set(reply["error"]) == {"code", "message", "details"}
    assert reply["status"] == response.status
    return response.status, reply["error"]["code"]


async def test_the_node_gets_the_clients_request_and_whom_it_means(client: aiohttp.ClientSession) -> None:
    """Method, raw path, query, end-to-end headers and body arrive unchanged; the gateway names whom it means."""
    node = Node()
    async with serving(node) as at, gateway(Places({"s": [at]})) as front:
        url = f"{front.http_url}/sessions/s/predictions?unique_id=%20x+y"
        headers = {
            "Accept": "text/plain;q=0.5",
            "X-Own": "é",
            "X-Request-ID": "r-1",
            "Connection": "X-Hop, keep-alive",
            "X-Hop": "1",
            "TE": "trailers",
            "X-Kato-Processor": "forged",
            "X-Kato-Epoch": "99",
            "X-Kato-Secret": "forged",
        }
        async with client.post(URL(url, encoded=True), data=b"\x00\xff", headers=headers) as response:
            assert response.status == 200
            assert response.headers["X-Request-ID"] == "r-1"
    [got] = node.received
    assert (got.method, got.target, got.body) == ("POST", "/predictions?unique_id=%20x+y", b"\x00\xff")
    assert got.header("x-session-id") == "s"
    assert got.header("x-kato-processor") == "p-s"
    assert got.header("x-kato-epoch") == "1"
    assert got.header("x-request-id") == "r-1"
    assert got.header("accept") == "text/plain;q=0.5"
    assert got.header("content-length") == "2"
    for absent in ("x-kato-secret", "x-hop", "te", "connection", "transfer-encoding", "idempotency-key"):
        assert got.header(absent) is None


async def test_nothing_is_added_that_the_client_did_not_say(client: aiohttp.ClientSession) -> None:
    """A bare request arrives without an Accept, a User-Agent or a Content-Type of the gateway's making."""
    node = Node()
    async with serving(node) as at, gateway(Places({"default": [at]})) as front:
        reader, writer = await asyncio.open_connection(front.host, front.port)
        writer.write(b"GET /stm HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    [got] = node.received
    assert {name for name, _ in got.headers} == {
        "host",
        "x-session-id",
        "x-kato-processor",
        "x-kato-epoch",
        "x-kato-incarnation",
        "x-request-id",
        "authorization",
    }


async def test_the_client_gets_the_nodes_reply(client: aiohttp.ClientSession) -> None:
    """Status, headers and bytes come back unchanged: nothing is decoded, joined, followed or remembered."""
    node = Node(
        status=302,
        body=b"\x1f\x8bnot really gzip",
        headers=[
            (b"content-encoding", b"gzip"),
            (b"location", b"/elsewhere"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"x-session-id", b"s"),
            (b"connection", b"x-hop"),
            (b"x-hop", b"1"),
        ],
    )
    async with serving(node) as at, gateway(Places({"s": [at]})) as front:
        for _ in range(2):
            async with client.get(f"{front.http_url}/sessions/s/stm", allow_redirects=False) as response:
                assert response.status == 302
                assert await response.read() == node.body
                assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
                assert response.headers["X-Session-ID"] == "s"
                assert len(response.headers.getall("Date")) == 1
                assert "x-hop" not in response.headers
    assert all(got.header("cookie") is None for got in node.received)


async def test_a_mutating_call_has_a_key(client: aiohttp.ClientSession) -> None:
    """The gateway adds an Idempotency-Key to a mutating call without one, another each time, and to no read."""
    node = Node()
    async with serving(node) as at, gateway(Places({"default": [at]})) as front:
        await client.post(f"{front.http_url}/learn")
        await client.post(f"{front.http_url}/learn")
        await client.post(f"{front.http_url}/learn", headers={"Idempotency-Key": "mine"})
        await client.post(f"{front.http_url}/predictions")
    first, second, own, read = (got.header("idempotency-key") for got in node.received)
    assert first
    assert second
    assert first != second
    assert (own, read) == ("mine", None)


async def _hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def _stops_in_its_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"status": ')
    await writer.drain()


@pytest.mark.parametrize("way", ["refused", "hangs up", "stops in its reply", "hangs", "wrong node", "fenced"])
async def test_a_call_that_its_node_did_not_answer_is_made_again(client: aiohttp.ClientSession, way: str) -> None:
    """However the node fails before its reply is whole, the next one gets the same call, with the same key."""
    first, second = Node(status=421 if way == "wrong node" else 409, body=STALE), Node(body=b'{"time": 1}')
    conversation = {"hangs up": _hangs_up, "hangs": _hangs}.get(way, _stops_in_its_reply)
    async with serving(second) as good, serving(first) as stale, talking(conversation) as bad:
        place = {"refused": nowhere(), "wrong node": stale, "fenced": stale}.get(way, bad)
        places = Places({"s": [place, good]})
        async with gateway(places, replace(QUICK, silent_s=0.02)) as front:
            url = f"{front.http_url}/sessions/s/observe"
            async with client.post(url, json={"strings": ["a"]}, headers={"Idempotency-Key": "k"}) as response:
                assert (response.status, await response.json()) == (200, {"time": 1})
    [got] = second.received
    assert json.loads(got.body) == {"strings": ["a"]}
    assert (got.header("idempotency-key"), got.header("x-kato-epoch")) == ("k", "2")
    assert [(route.epoch, route.address) for route in places.lost_routes] == [(1, place)]


async def test_the_gateways_own_key_stays_over_a_retry(client: aiohttp.ClientSession) -> None:
    """The second try carries the key of the first, so a node that had applied the call applies it no second time."""
    first, second = Node(status=409, body=STALE), Node()
    async with serving(first) as stale, serving(second) as good, gateway(Places({"default": [stale, good]})) as front:
        assert (await client.post(f"{front.http_url}/learn")).status == 200
    assert first.received[0].header("idempotency-key") == second.received[0].header("idempotency-key")


@pytest.mark.parametrize("status", [409, 503, 500])
async def test_a_nodes_own_errors_are_its_answer(client: aiohttp.ClientSession, status: int) -> None:
    """An error that a node answers in its own right is passed on and not tried elsewhere."""
    body = b'{"error": {"code": "CONFLICT", "message": "m", "details": {}}, "status": 0}'
    node, places = Node(status=status, body=body), Places({})
    async with serving(node) as at:
        places.places["s"] = [at]
        async with gateway(places) as front, client.post(f"{front.http_url}/sessions/s/learn") as response:
            assert (response.status, await response.read()) == (status, body)
    assert (len(node.received), places.lost_routes) == (1, [])


async def test_a_call_is_not_tried_for_ever(client: aiohttp.ClientSession) -> None:
    """After a few lost nodes the client is told NODE_FAILED, and the key to repeat its call with."""
    places = Places({"default": [nowhere()]})
    async with gateway(places) as front:
        async with client.post(f"{front.http_url}/learn") as response:
            assert await error_of(response) == (502, "NODE_FAILED")
            assert (await response.json())["error"]["details"]["operation_id"]
        async with client.post(f"{front.http_url}/learn", headers={"Idempotency-Key": "k"}) as response:
            assert (await response.json())["error"]["details"] == {"operation_id": "k"}
        async with client.get(f"{front.http_url}/stm") as response:
            assert (await response.json())["error"]["details"] == {}
    assert len(places.lost_routes) == 3 * QUICK.tries_max


async def test_a_call_that_takes_long_is_waited_for(client: aiohttp.ClientSession) -> None:
    """A node that is there is asked after, and again, and loses neither its call nor its route."""
    places = Places({"s": []})

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await places.asked_thrice.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with talking(slow) as at, gateway(places, replace(QUICK, silent_s=0.01)) as front:
        places.places["s"].append(at)
        async with client.get(f"{front.http_url}/sessions/s/stm") as response:
            assert response.status == 200
    assert {route.address for route in places.asked_after} == {at}
    assert places.lost_routes == []


async def test_a_silent_node_is_not_waited_for_for_ever(client: aiohttp.ClientSession) -> None:
    """A node that takes the call and never answers it ends in NODE_TIMEOUT, with the key to repeat the call with."""
    limits = replace(QUICK, answer_s=0.2)
    async with (
        talking(_hangs) as at,
        gateway(Places({"default": [at]}), limits) as front,
        client.post(f"{front.http_url}/learn") as response,
    ):
        assert await error_of(response) == (504, "NODE_TIMEOUT")
        assert (await response.json())["error"]["details"]["operation_id"]
        assert response.headers["X-Request-ID"]


async def test_what_the_lifecycle_cannot_do_is_what_the_client_is_told(client: aiohttp.ClientSession) -> None:
    """An unknown session and a runtime out of reach are answered with their own codes."""
    places = Places({})
    async with gateway(places) as front:
        async with client.get(f"{front.http_url}/sessions/none/stm") as response:
            assert await error_of(response) == (404, "SESSION_NOT_FOUND")
        places.failure = RuntimeOutOfReach("m", retry_after_s=1.2)
        async with client.get(f"{front.http_url}/stm") as response:
            assert await error_of(response) == (503, "RUNTIME_UNAVAILABLE")
            assert response.headers["Retry-After"] == "2"
        async with client.post(f"{front.http_url}/learn", headers={"Idempotency-Key": "k"}) as response:
            assert (await response.json())["error"]["details"] == {"operation_id": "k"}


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_is_streamed(client: aiohttp.ClientSession, chunked: bool) -> None:
    """The node has the beginning of a large body while the client still holds back its end."""
    begun = asyncio.Event()
    node = Node()

    async def watched(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        async def noting():  # type: ignore[no-untyped-def]
            message = await receive()
            begun.set()
            return message

        await node(scope, noting, send)

    async def body() -> AsyncIterator[bytes]:
        yield b"a" * (LARGE - 1)
        await begun.wait()
        yield b"z"

    async with serving(watched) as at, gateway(Places({"default": [at]})) as front:
        headers = {} if chunked else {"Content-Length": str(LARGE)}
        async with client.post(f"{front.http_url}/observe-sequence", data=body(), headers=headers) as response:
            assert response.status == 200
    [got] = node.received
    assert got.body == b"a" * (LARGE - 1) + b"z"
    assert got.header("content-length") == (None if chunked else str(LARGE))
    assert got.header("idempotency-key")


async def test_a_large_body_is_not_sent_to_the_wrong_node(client: aiohttp.ClientSession) -> None:
    """A node that says 421, or is not there, has taken nothing of a large body: the next one gets it whole."""
    node = Node()
    async with (
        serving(Node(status=421)) as wrong,
        serving(node) as good,
        gateway(Places({"default": [nowhere(), wrong, good]})) as front,
        client.post(f"{front.http_url}/observe-sequence", data=io.BytesIO(b"a" * LARGE)) as response,
    ):
        assert response.status == 200
    [got] = node.received
    assert len(got.body) == LARGE


async def test_a_large_body_is_sent_once(client: aiohttp.ClientSession) -> None:
    """A node lost in the middle of a large body is NODE_FAILED with the key to repeat the call with."""

    async def takes_some(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.readexactly(2 * 2**20)

    node = Node()
    async with (
        talking(takes_some) as bad,
        serving(node) as good,
        gateway(Places({"default": [bad, good]})) as front,
        client.post(f"{front.http_url}/observe-sequence", data=io.BytesIO(b"a" * 2 * LARGE)) as response,
    ):
        assert await error_of(response) == (502, "NODE_FAILED")
        assert (await response.json())["error"]["details"]["operation_id"]
    assert node.received == []


async def test_a_body_beyond_the_limit_is_refused(client: aiohttp.ClientSession) -> None:
    """More than 16 MiB is BODY_TOO_LARGE: at once if declared, else as soon as it is exceeded; no node applies it."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"a" * 2**20

    node = Node()
    async with serving(node) as at, gateway(Places({"default": [at]})) as front:
        headers = {"Content-Length": str(2**24 + 1)}
        reader, writer = await asyncio.open_connection(front.host, front.port)
        lines = [f"{name}: {value}" for name, value in {"Host": "x", **headers}.items()]
        writer.write("\r\n".join(["POST /observe HTTP/1.1", *lines, "\r\n"]).encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        try:
            async with client.post(f"{front.http_url}/observe", data=endless()) as response:
                assert await error_of(response) == (413, "BODY_TOO_LARGE")
        except aiohttp.ClientConnectionError:
            pass  # the reply came while the client was still sending, and it did not stop to read
    assert node.received == []


async def test_a_client_that_hangs_up_breaks_nothing(client: aiohttp.ClientSession) -> None:
    """A call whose client has gone is completed at the node, and the gateway goes on serving."""
    entered, leave, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    node = Node()

    async def slow(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        entered.set()
        await leave.wait()
        await node(scope, receive, send)
        done.set()

    async with serving(slow) as at, gateway(Places({"default": [at]})) as front:
        call = asyncio.create_task(client.post(f"{front.http_url}/learn"))
        await entered.wait()
        call.cancel()
        await asyncio.wait([call])
        leave.set()
        await done.wait()
        assert (await client.get(f"{front.http_url}/stm")).status == 200
    assert [got.target for got in node.received] == ["/learn", "/stm"]


async def test_a_long_reply_is_streamed(client: aiohttp.ClientSession) -> None:
    """The client has the beginning of a reply of unknown length while the node still holds back its end."""
    leave = asyncio.Event()

    async def slow(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await leave.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async with (
        serving(slow) as at,
        gateway(Places({"default": [at]})) as front,
        client.get(f"{front.http_url}/genes") as response,
    ):
        assert await response.content.readexactly(5) == b"first"
        leave.set()
        assert await response.content.read() == b"last"


@pytest.mark.parametrize("way", ["breaks off", "falls silent"])
async def test_a_reply_that_breaks_off_is_seen_to(client: aiohttp.ClientSession, way: str) -> None:
    """A streamed reply without its end never looks whole to the client."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()
        if way == "falls silent":
            await reader.read()

    limits = replace(QUICK, silence_s=0.2)
    async with (
        talking(half) as at,
        gateway(Places({"default": [at]}), limits) as front,
        client.get(f"{front.http_url}/genes") as response,
    ):
        assert await response.content.readexactly(5) == b"first"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


async def test_nobody_streams_to_a_client_that_hung_up(client: aiohttp.ClientSession) -> None:
    """When the client of a streamed reply goes away, the node's side is closed too."""
    closed = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"400\r\n" + b"a" * 1024 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
        finally:
            closed.set()

    async with talking(endless) as at, gateway(Places({"default": [at]})) as front:
        async with client.get(f"{front.http_url}/genes") as response:
            await response.content.readexactly(10)
        await closed.wait()


async def test_nobody_streams_to_a_client_that_does_not_read() -> None:
    """A client that takes nothing more of a streamed reply is given up: its session is in use no more."""
    closed = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
                await writer.drain()
        finally:
            closed.set()

    async with talking(endless) as at:
        places = Places({"default": [at]})
        async with gateway(places, replace(QUICK, silence_s=0.1)) as front:
            _, writer = await asyncio.open_connection(front.host, front.port)
            writer.write(b"GET /genes HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await closed.wait()
            assert not places.activity.in_use("default")
            writer.transport.abort()


async def test_connections_to_a_node_are_kept(client: aiohttp.ClientSession) -> None:
    """Calls one after the other share one connection to the node."""
    connections = 0

    async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with talking(polite) as at, gateway(Places({"default": [at]})) as front:
        for _ in range(5):
            assert (await client.get(f"{front.http_url}/stm")).status == 200
    assert connections == 1


async def test_use_is_counted(client: aiohttp.ClientSession) -> None:
    """While a call is under way its session is in use, and afterwards no more."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        entered.set()
        await leave.wait()
        await Node()(scope, receive, send)

    async with serving(slow) as at:
        places = Places({"s": [at]})
        async with gateway(places) as front:
            call = asyncio.create_task(client.get(f"{front.http_url}/sessions/s/stm"))
            await entered.wait()
            assert places.activity.in_use("s")
            leave.set()
            await call
            assert not places.activity.in_use("s")
            assert set(places.activity.take()) == {"s"}


async def test_use_lasts_as_long_as_a_streamed_reply(client: aiohttp.ClientSession) -> None:
    """A session is in use until the last byte of a reply has come: it does not expire in the middle of one."""
    leave = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await leave.wait()
        writer.write(b"4\r\nlast\r\n0\r\n\r\n")

    async with talking(slow) as at:
        places = Places({"s": [at]})
        async with gateway(places) as front, client.get(f"{front.http_url}/sessions/s/stm") as response:
            assert await response.content.readexactly(5) == b"first"
            assert places.activity.in_use("s")
            leave.set()
            assert await response.content.read() == b"last"
            assert not places.activity.in_use("s")
