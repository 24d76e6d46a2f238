"""A node, its server on a loopback port, and clients of it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from websockets.asyncio.client import ClientConnection, connect

from kato_node.__main__ import serve
from kato_node.node import BindSpec, Node
from kato_node.settings import Settings
from kato_node.store.base import Batch
from kato_node.store.memory import MemoryDisk, MemoryStore
from kato_node.wire.tokens import node_secret, token_key

PROCESSOR = "processor-1"
DEPLOYMENT_SECRET = "the-secret-of-this-deployment"
SECRET = node_secret(DEPLOYMENT_SECRET, "node-1")
TOKEN_KEY = token_key(DEPLOYMENT_SECRET, PROCESSOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A node being served, and what a test needs to talk to it and to disturb it."""

    node: Node
    disk: MemoryDisk
    http: httpx.AsyncClient
    address: tuple[str, int]
    serving: asyncio.Task[None]
    committing: asyncio.Event

    def socket(self, query: str = "", **options: object) -> connect:
        """Return a WebSocket to the node, to be entered."""
        host, port = self.address
        return connect(f"ws://{host}:{port}/ws{query}", **options)  # type: ignore[arg-type]

    async def learned(self, *events: list[str]) -> str:
        """Observe and learn a pattern; return its name."""
        for event in events:
            (await self.http.post("/observe", json={"strings": event})).raise_for_status()
        name: str = (await self.http.post("/learn")).raise_for_status().json()["pattern_name"]
        return name


class _Store(MemoryStore):
    """A store that tells when a commit has reached it, even while the disk's gate is cleared."""

    def __init__(self, disk: MemoryDisk, processor_id: str, committing: asyncio.Event) -> None:
        super().__init__(disk, processor_id)
        self._committing = committing

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        self._committing.set()
        await super().commit(batch, epoch=epoch)


@asynccontextmanager
async def serving_node(
    *, settings: Settings | None = None, disk: MemoryDisk | None = None, bound: bool = True, idle_timeout_s: float = 0
) -> AsyncIterator[Served]:
    """Serve a node on a store in memory, bound to PROCESSOR unless told otherwise; at the end it has drained."""
    chosen = settings or Settings(processor_id=PROCESSOR, node_secret=SECRET)
    kept = disk or MemoryDisk()
    committing = asyncio.Event()
    node = Node(
        node_id="node-1",
        open_store=lambda processor_id: _Store(kept, processor_id, committing),
        defaults=chosen.defaults,
        limits=chosen.limits,
    )
    if bound:
        await node.bind(BindSpec(processor_id=PROCESSOR, idle_timeout_s=idle_timeout_s, token_key=TOKEN_KEY))
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    serving = asyncio.create_task(serve(node, chosen, listener))
    try:
        async with httpx.AsyncClient(base_url=f"http://{address[0]}:{address[1]}", timeout=30) as client:
            yield Served(node=node, disk=kept, http=client, address=address, serving=serving, committing=committing)
    finally:
        await node.drain()
        await serving


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes."""
    while not await condition():  # noqa: ASYNC110 - what is asked is another's state, seen from outside
        await asyncio.sleep(0.001)


async def drained_by(served: Served) -> asyncio.Task[None]:
    """Begin to drain the node; it is draining when this returns."""
    draining = asyncio.create_task(served.node.drain())
    await asyncio.sleep(0)
    assert served.node.state == "draining"
    return draining


async def say(socket: ClientConnection, kind: str, payload: object = None, **more: object) -> dict[str, object]:
    """Send one message and return the next that comes."""
    await socket.send(json.dumps({"type": kind, "payload": payload, **more}))
    return await hear(socket)


async def hear(socket: ClientConnection) -> dict[str, object]:
    """Return the next message."""
    message: dict[str, object] = json.loads(await socket.recv())
    return message


def error_of(response: httpx.Response) -> dict[str, object]:
    """Return the error of a reply, whose envelope must be whole and agree with its status."""
    body = response.json()
    assert set(body) == {"error", "status"}
    assert body["status"] == response.status_code
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error: dict[str, object] = body["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["message"]
    return error
