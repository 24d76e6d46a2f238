"""The node as a program on MongoDB: it waits for its server, ends when told to, and costs nothing where unused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.mongo import StandIn

PROGRAM = (sys.executable, "-m", "kato_node")


@asynccontextmanager
async def program(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a static node on MongoDB."""
    environment = {"PATH": os.environ["PATH"], "PROCESSOR_ID": "p", "PORT": "0", "MONGO_URL": url}
    process = await asyncio.create_subprocess_exec(*PROGRAM, env=environment, stderr=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def event(process: asyncio.subprocess.Process) -> dict[str, object]:
    """Return the next line of its log."""
    assert process.stderr is not None
    line: dict[str, object] = json.loads(await process.stderr.readline())
    return line


async def test_a_node_waits_for_its_server(tmp_path: Path) -> None:
    """Started before its server a node says so, tries again, and serves once the server is there."""
    with StandIn(tmp_path) as server:
        server.kill()
        async with program(server.url) as node:
            waiting = await event(node)
            assert (waiting["event"], waiting["level"]) == ("store_unreachable", "WARNING")
            assert "MONGO_URL" in str(waiting["reason"])
            assert str(waiting["cause"]).startswith(server.url.removeprefix("mongodb://").rstrip("/"))
            server.start()
            names = [waiting["event"]]
            while names[-1] == "store_unreachable":
                names.append((await event(node))["event"])
            assert names[-1] == "node_started"
            node.send_signal(signal.SIGTERM)
            assert await node.wait() == 0


async def test_a_node_that_waits_ends_when_it_is_told_to() -> None:
    """SIGTERM ends a node that still waits for its server, with exit status 0."""
    async with program("mongodb://127.0.0.1:1/") as node:
        assert (await event(node))["event"] == "store_unreachable"
        node.send_signal(signal.SIGTERM)
        assert await node.wait() == 0


async def test_a_server_that_is_no_replica_set_is_not_waited_for(tmp_path: Path) -> None:
    """What no waiting mends is one line, and exit status 1."""
    with StandIn(tmp_path, "--standalone") as server:
        async with program(server.url) as node:
            _, written = await node.communicate()
    assert (node.returncode, written.count(b"\n")) == (1, 1)
    assert b"replica set" in written


@pytest.mark.parametrize("module", ["kato_node.__main__", "container_manager.runtimes.forkserver"])
async def test_the_driver_is_imported_only_where_it_is_used(module: str) -> None:
    """A node on SQLite does not pay for MongoDB's driver."""
    code = f"import sys, {module}, kato_node.store.sqlite; sys.exit('pymongo' in sys.modules or 'bson' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
