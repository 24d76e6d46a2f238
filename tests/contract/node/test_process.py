"""The node as a program: settings, start, signals, exit status; and no traceback for anybody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from kato_node.wire.tokens import node_secret
from tests.contract.node.serving import until

PROGRAM = (sys.executable, "-m", "kato_node")
# What a fork server does: hand over a socket that listens, and the environment of the node.
RUN = (
    "import json, socket, sys; from kato_node.__main__ import run;"
    "sys.exit(run(json.loads(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A running node."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient

    async def ended(self, number: int | None = None) -> tuple[int, str]:
        """Send the signal, if any, and return the exit status and what was written to stderr."""
        if number is not None:
            self.process.send_signal(number)
        _, written = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, written.decode()


@asynccontextmanager
async def running(home: Path, **settings: str) -> AsyncIterator[Program]:
    """Run a static node on a port of the system's choice until it answers."""
    environment = {"PROCESSOR_ID": "p-1", "PORT": "0", "KATO_HOME": str(home), **settings}
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, env=bare() | environment, stderr=asyncio.subprocess.PIPE, limit=2**20
    )
    try:
        assert process.stderr is not None
        started = json.loads(await process.stderr.readline())
        assert started["event"] == "node_started", started
        async with httpx.AsyncClient(base_url=f"http://{started['host']}:{started['port']}", timeout=30) as client:
            yield Program(process=process, http=client)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def refuses(client: httpx.AsyncClient) -> bool:
    """Whether the node sends callers away."""
    return (await client.get("/health")).status_code == 503


async def failed(*arguments: str, **settings: str) -> tuple[int, str]:
    """Run a node that does not start; return its exit status and its words."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *arguments, env=bare() | settings, stderr=asyncio.subprocess.PIPE
    )
    _, written = await process.communicate()
    assert process.returncode is not None
    return process.returncode, written.decode()


def bare() -> dict[str, str]:
    """Return our environment without any setting of a node."""
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}


async def test_a_static_node_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """A static node binds itself; SIGTERM ends it with 0, and its successor has everything, at the next epoch."""
    async with running(tmp_path) as node:
        await node.http.post("/observe", json={"strings": ["a", "b"]})
        await node.http.post("/learn")
        await node.http.post("/observe", json={"strings": ["a"]})
        assert (await node.http.get("/status")).json()["epoch"] == 1
        status, written = await node.ended(signal.SIGTERM)
        assert status == 0
        assert all(json.loads(line)["ts"] for line in written.splitlines())
    async with running(tmp_path, PROCESSOR_NAME="first") as node:
        told = (await node.http.get("/status")).json()
        assert (told["processor_name"], told["epoch"], told["patterns"], told["stm_length"]) == ("first", 2, 1, 1)
        assert (await node.ended(signal.SIGINT))[0] == 0


async def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """After SIGKILL the acknowledged observation is there."""
    async with running(tmp_path) as node:
        assert (await node.http.post("/observe", json={"strings": ["a"]})).status_code == 200
        assert (await node.ended(signal.SIGKILL))[0] == -signal.SIGKILL
    async with running(tmp_path) as node:
        assert (await node.http.get("/stm")).json()["stm"] == [["a"]]


async def test_an_idle_node_ends_by_itself(tmp_path: Path) -> None:
    """With IDLE_TIMEOUT_S a node that serves nothing for that long exits 0."""
    async with running(tmp_path, IDLE_TIMEOUT_S="0.2") as node:
        status, written = await node.ended()
        assert status == 0
        assert json.loads(written.splitlines()[-1])["reason"] == "idle"


async def test_a_node_whose_processor_was_taken_over_ends_with_3(tmp_path: Path) -> None:
    """A second node of the same processor fences the first, which exits 3."""
    async with running(tmp_path) as first, running(tmp_path) as second:
        status, written = await first.ended()
        assert status == 3
        assert json.loads(written.splitlines()[-1])["reason"] == "fenced"
        assert (await second.http.get("/status")).json()["epoch"] == 2


@pytest.mark.parametrize("pool", [("--pool",), ()])
async def test_a_pool_node_waits_to_be_bound(tmp_path: Path, pool: tuple[str, ...]) -> None:
    """--pool, or NODE_POOL=1, starts a node that is bound to nothing and has control routes."""
    secret = tmp_path / "secret"
    secret.write_text("s-e-c-r-e-t\n")
    settings = {"KATO_HOME": str(tmp_path), "DEPLOYMENT_SECRET_FILE": str(secret), "NODE_ID": "n-1", "PORT": "0"}
    known = {"X-Kato-Secret": node_secret("s-e-c-r-e-t", "n-1")}
    flag = {} if pool else {"NODE_POOL": "1"}
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *pool, env=bare() | settings | flag, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    started = json.loads(await process.stderr.readline())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{started['port']}") as client:
        assert (await client.get("/health")).json()["processor_id"] is None
        identity = (await client.get("/control/identity", headers=known)).json()
        assert (identity["node_id"], identity["state"]) == ("n-1", "unbound")
        await client.post("/control/drain", headers=known)
    assert await process.wait() == 0
    await process.communicate()


async def test_a_node_runs_on_a_socket_that_it_is_handed(tmp_path: Path) -> None:
    """`run` serves on a listening socket with the environment that it is given, and returns the exit status."""
    listener = socket.create_server(("127.0.0.1", 0))
    environment = {"NODE_POOL": "1", "KATO_HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, json.dumps(environment), str(listener.fileno())),
        env=bare(),
        pass_fds=[listener.fileno()],
        stderr=asyncio.subprocess.PIPE,
    )
    port = listener.getsockname()[1]
    listener.close()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        assert (await client.get("/health")).json()["status"] == "healthy"
    process.terminate()
    _, written = await process.communicate()
    assert process.returncode == 0, written


async def test_a_drain_finishes_the_upload_in_flight(tmp_path: Path) -> None:
    """A call whose body is still arriving at SIGTERM is applied and answered before the node exits 0."""
    async with running(tmp_path) as node:
        port = node.http.base_url.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /observe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18\r\nExpect: 100-continue\r\n\r\n")
        assert b"100" in await reader.readline()
        node.process.send_signal(signal.SIGTERM)
        await until(lambda: refuses(node.http))
        writer.write(b'{"strings": ["a"]}')
        assert b'"stm_length":1' in await reader.read()
        writer.close()
        await writer.wait_closed()
        assert (await node.ended())[0] == 0


async def test_a_bad_setting_stops_the_start_with_one_line() -> None:
    """A bad value is one line on stderr that names it, and exit status 2."""
    status, written = await failed(PROCESSOR_ID="p", PORT="many")
    assert (status, written.count("\n")) == (2, 1)
    assert written.startswith("kato-node: PORT: ")


async def test_a_start_that_fails_is_one_line(tmp_path: Path) -> None:
    """A port that is taken, or a store that cannot be opened, is one line that says so, and exit status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, written = await failed(PROCESSOR_ID="p", KATO_HOME=str(tmp_path), PORT=port)
    assert (status, written.count("\n")) == (1, 1)
    assert port in written
    (tmp_path / "file").write_text("no folder")
    status, written = await failed(PROCESSOR_ID="p", KATO_HOME=str(tmp_path / "file"), PORT="0")
    assert (status, written.count("\n")) == (1, 1)
    assert "Traceback" not in written


@pytest.mark.parametrize("url", ["mongodb://", "mongodb://u:p@ss@h/", "mongodb://u:p/ss@h/", "mongodb://u:p?ss@h/"])
async def test_a_bad_mongo_url_is_one_line(url: str) -> None:
    """A MONGO_URL that is no URL is one line without a word of it, which may be the password, and exit status 1."""
    status, written = await failed(PROCESSOR_ID="p", MONGO_URL=url, PORT="0")
    assert (status, written.count("\n")) == (1, 1), written
    assert "MONGO_URL" in written
    assert "ss" not in written.replace("password", "")


async def test_an_unknown_argument_is_one_line() -> None:
    """Arguments other than --pool are told what there is, with exit status 2."""
    status, written = await failed("--help-me")
    assert (status, written.count("\n")) == (2, 1)
    assert "--pool" in written
