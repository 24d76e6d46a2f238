"""A node cut off from MongoDB by the network, alone or while another takes its processor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.node.programs import Program, observe, running, stm

pytestmark = pytest.mark.slow


class Cable:
    """What leads from a node to its MongoDB, and can be cut: then nothing arrives any more, and no connection ends."""

    def __init__(self, host: str, port: int) -> None:
        self.whole = asyncio.Event()
        self.whole.set()
        self.port = 0
        self._there = (host, port)
        self._ends: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where a node finds MongoDB by this way, and by no other."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[None]:
        """Forward whatever connects, until the end of the block."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            for end in self._ends:
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _connected(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_in, far_out = await asyncio.open_connection(*self._there)
        self._ends |= {near_out, far_out}
        for source, target in ((near_in, far_out), (far_in, near_out)):
            self._pumps.add(asyncio.create_task(self._pump(source, target)))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                await self.whole.wait()
                target.write(data)
                await target.drain()
            target.close()


@asynccontextmanager
async def cable(url: str) -> AsyncIterator[Cable]:
    """Lay a cable to the MongoDB of this URL."""
    there = urlsplit(url)
    laid = Cable(there.hostname or "", there.port or 27017)
    async with laid.laid():
        yield laid


async def degraded(node: Program) -> bool:
    """Whether the node marks what it answers to a read."""
    return (await node.http.get("/stm")).raise_for_status().json().get("degraded") is True


async def recovered(node: Program) -> bool:
    """Whether it marks nothing any more."""
    return not await degraded(node)


async def observed(node: Program, name: str) -> httpx.Response:
    """Observe, so that it may be sent again."""
    return await node.http.post("/observe", json={"strings": [name]}, headers={"Idempotency-Key": name})


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes."""
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - it is another process's state
            await asyncio.sleep(0.05)


async def test_a_node_that_is_cut_off_reads_on_and_recovers(
    tmp_path: Path, mongo_url: str, mongo_database: str
) -> None:
    """Cut off, a node answers reads marked `degraded` and refuses writes with 503 and Retry-After; when the network is
    back it goes on as the owner, marks nothing, and has applied nothing of what it refused but what was unconfirmed.
    """
    async with cable(mongo_url) as way, running(tmp_path, MONGO_URL=way.url, MONGO_DATABASE=mongo_database) as node:
        await observe(node.http, "a")
        way.whole.clear()
        await eventually(partial(degraded, node))
        refused = await observed(node, "b")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")
        assert int(refused.headers["Retry-After"]) >= 1
        assert await degraded(node)
        way.whole.set()
        await eventually(partial(recovered, node))
        assert (await observed(node, "b")).is_success
        assert await stm(node.http) == [["a"], ["b"]]
        assert (await node.http.get("/status")).json()["epoch"] == 1


async def test_a_node_that_is_cut_off_and_replaced_finds_itself_fenced(
    tmp_path: Path, mongo_url: str, mongo_database: str
) -> None:
    """Cut off while another takes its processor, a node acknowledges nothing; back again it is fenced, exits with 3,
    and nothing that it was asked meanwhile is in what its successor has.
    """
    async with cable(mongo_url) as way, running(tmp_path, MONGO_URL=way.url, MONGO_DATABASE=mongo_database) as first:
        await observe(first.http, "a")
        way.whole.clear()
        async with running(tmp_path, MONGO_URL=mongo_url, MONGO_DATABASE=mongo_database) as second:
            await observe(second.http, "b")
            await eventually(partial(degraded, first))
            assert (await first.http.post("/observe", json={"strings": ["late"]})).status_code == 503
            way.whole.set()
            assert await first.ended() == 3
            await observe(second.http, "c")
            assert await stm(second.http) == [["a"], ["b"], ["c"]]
