"""When a node counts as ready."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from container_manager.readiness import NeverHealthy, NodeEnded, wait_until_healthy
from container_manager.spec import Address

LONG_S = 20.0
SHORT_S = 0.2
Answer = Callable[[int], bytes]


@asynccontextmanager
async def serving(answer: Answer, *, requests: list[bytes] | None = None) -> AsyncIterator[Address]:
    """Serve on a port: the n-th connection, from 0, is answered with `answer(n)` and closed."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        reply = answer(count - 1)
        request = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(request)
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield Address(host=host, port=port)


def ok(_: int) -> bytes:
    """Answer as a healthy node."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def after(first: bytes) -> Answer:
    """Answer the first probe like this and the next as a healthy node."""
    return lambda count: first if count == 0 else ok(count)


async def test_a_healthy_answer_is_ready() -> None:
    """A 200 to GET /health is what a node is ready by."""
    requests: list[bytes] = []
    async with serving(ok, requests=requests) as address:
        await wait_until_healthy(address, timeout_s=LONG_S)
    assert requests[0].startswith(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    "first",
    [b"", b"HTTP/1.1 503 No\r\n\r\n", b"HTTP/1.1 4", b"SSH-2.0-x\r\n", b"\r\n", b"x" * 10_000, b"HTTP/1.1 x\r\n"],
)
async def test_anything_else_means_try_again(first: bytes) -> None:
    """An empty reply, another status, half a reply, and what is no HTTP are tried again."""
    async with serving(after(first)) as address:
        await wait_until_healthy(address, timeout_s=LONG_S)


async def test_a_refused_connection_means_try_again() -> None:
    """A port that refuses is tried until somebody listens there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        host, port = listener.getsockname()
        waiting = asyncio.create_task(wait_until_healthy(Address(host=host, port=port), timeout_s=LONG_S))
        with socket.socket() as knock:
            knock.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.get_running_loop().sock_connect(knock, (host, port))
        server = await asyncio.start_server(lambda _, writer: _reply(writer), sock=listener)
        async with server:
            await waiting


async def _reply(writer: asyncio.StreamWriter) -> None:
    writer.write(ok(0))
    writer.close()


@pytest.mark.parametrize(
    ("answer", "told"), [(lambda _: b"HTTP/1.1 503 No\r\n\r\n", "status 503"), (lambda _: b"", "IncompleteReadError")]
)
async def test_the_error_says_what_was_met_last(answer: Answer, told: str) -> None:
    """When time is over, the error says how the node answered, if it did."""
    async with serving(answer) as address:
        with pytest.raises(NeverHealthy, match=told):
            await wait_until_healthy(address, timeout_s=SHORT_S)


async def _ended() -> asyncio.Future[None]:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ended.set_result(None)
    return ended


async def test_an_ended_node_is_waited_for_no_longer() -> None:
    """The wait ends at once when the node has ended."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        with pytest.raises(NodeEnded):
            await wait_until_healthy(Address(host=host, port=port), timeout_s=LONG_S, ended=await _ended())


async def test_a_wait_can_be_cancelled() -> None:
    """A cancelled wait leaves no probe behind."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        waiting = asyncio.create_task(wait_until_healthy(Address(host=host, port=port), timeout_s=LONG_S))
        await asyncio.wait({waiting}, timeout=0.0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}
