"""A node that is stopped at any point and replaced: it writes nothing more, answers nothing stale, and ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from kato_node.domain.observation import Observation
from kato_node.node import BindSpec, boot_clock_s
from kato_node.ownership import FRESH_S
from kato_node.store import sqlite
from kato_node.store.base import StoreUnavailable
from tests.integration.node.programs import is_stopped, observe, running, stm
from tests.integration.node.worker import new_node
from tests.processes import until

BIND = BindSpec(processor_id="p")
REFUSED = "PROCESSOR_FENCED"
GONE = "WRONG_NODE"  # of a node that has left service since
# A wall clock that leaps years to and fro at every look.
LEAPING = (
    "import itertools, sys, time; leaps = itertools.cycle((0, 1e8, -1e8)); wall = time.time;"
    "time.time = lambda: wall() + next(leaps);"
    "from kato_node.__main__ import main; sys.argv = ['node']; sys.exit(main())"
)


class Stopper:
    """The process of stopper.py, stopped at its point."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """Return the next thing that it says."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    async def continued(self) -> dict[str, str]:
        """Let it go on; return what it says until its end."""
        self.process.send_signal(signal.SIGCONT)
        output, _ = await self.process.communicate()
        return dict(line.split() for line in output.decode().splitlines())


@asynccontextmanager
async def stopped_at(point: str, path: Path) -> AsyncIterator[Stopper]:
    """Run a process that has observed `before` and has stopped at this point of the next observation's commit."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.node.stopper", str(path), point), stdout=asyncio.subprocess.PIPE
    )
    stopper = Stopper(process)
    try:
        assert await stopper.line() == "before acknowledged"
        await until(lambda: is_stopped(process.pid), what="the stop")
        yield stopper
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def successor_observes(path: Path, *names: str) -> list[str]:
    """Bind another node to the file, observe, and drain it; return the symbols of the STM."""
    node = new_node(path)
    await node.bind(BIND)
    for name in names:
        await node.service.observe("s", Observation(strings=[name]))
    events = (await node.reads.stm("s"))["stm"]
    await node.drain()
    return [symbol for event in events for symbol in event]  # type: ignore[union-attr, misc]


async def test_stopped_before_its_commit_a_node_writes_nothing(tmp_path: Path) -> None:
    """What was not begun when the node stopped is fenced when it goes on: refused, and nowhere to be found."""
    path = tmp_path / "p.sqlite"
    async with stopped_at("before_begin", path) as stopper:
        assert await successor_observes(path, "taken") == ["before", "taken"]
        said = await stopper.continued()
    assert said["during"] == REFUSED
    assert said["after"] in {REFUSED, GONE}
    assert said["ended"] == "fenced"
    assert await successor_observes(path) == ["before", "taken"]


async def test_stopped_behind_its_commit_a_node_answers_what_its_successor_has(tmp_path: Path) -> None:
    """An acknowledgement sent after the stop is of a commit before it, which the successor has; the next is fenced."""
    path = tmp_path / "p.sqlite"
    async with stopped_at("after_commit", path) as stopper:
        assert await successor_observes(path, "taken") == ["before", "during", "taken"]
        said = await stopper.continued()
    assert said["during"] == "acknowledged"
    assert said["after"] in {REFUSED, GONE}
    assert said["ended"] == "fenced"
    assert await successor_observes(path) == ["before", "during", "taken"]


@pytest.mark.parametrize("point", ["in_transaction", "before_commit"])
@pytest.mark.parametrize("killed", [True, False])
async def test_stopped_in_its_commit_a_node_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, killed: bool
) -> None:
    """A node stopped in a transaction keeps the file: a successor is refused, says why, and takes nothing. Killed, it
    has written nothing and the successor binds; continued, it is the owner still, and its commit is the last word.
    """
    monkeypatch.setattr(sqlite, "LOCK_WAIT_S", 0.01)
    path = tmp_path / "p.sqlite"
    async with stopped_at(point, path) as stopper:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="another process holds its lock; stop that process"):
                await successor_observes(path)
        if killed:
            stopper.process.kill()
            await stopper.process.wait()
        else:
            assert await stopper.continued() == {"during": "acknowledged", "after": "acknowledged", "ended": "drained"}
    written = [] if killed else ["during", "after"]
    assert await successor_observes(path, "taken") == ["before", *written, "taken"]


async def raw(port: int, request: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request on a connection of its own; nobody has to accept it yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    await writer.drain()
    return reader, writer


async def status_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
    """Return the status of the answer; None if the connection broke without one."""
    try:
        line = await reader.readline()
    except ConnectionError:
        line = b""
    writer.close()
    return int(line.split()[1]) if line else None


async def test_a_node_that_was_stopped_and_replaced_answers_nothing(tmp_path: Path) -> None:
    """Continued after its successor has written: reads and writes that waited at its door are refused, WebSockets close
    with 1012, nothing is written, and the exit status is 3.
    """
    body = '{"strings": ["late"]}'
    requests = [
        "GET /stm HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /predictions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        f"POST /observe HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}",
    ]
    async with running(tmp_path) as first:
        url = f"ws://127.0.0.1:{first.port}/ws"
        async with connect(url) as idle, connect(url) as busy:
            await busy.send('{"type": "observe", "payload": {"strings": ["a"]}, "id": "1"}')
            await busy.recv()
            await first.stopped()
            stopped_s = boot_clock_s()
            async with running(tmp_path) as second:
                await observe(second.http, "b")
                await until(lambda: boot_clock_s() > stopped_s + FRESH_S, what="an old reading")
                waiting = [await raw(first.port, request) for request in requests]
                await busy.send('{"type": "get_stm", "id": "2"}')
                first.process.send_signal(signal.SIGCONT)
                statuses = [await status_of(*one) for one in waiting]
                assert all(status in {409, 503, None} for status in statuses), statuses
                assert [await closed_with(socket) for socket in (busy, idle)] == [1012, 1012]
                assert await first.ended() == 3
                assert await stm(second.http) == [["a"], ["b"]]


async def closed_with(socket: ClientConnection) -> int | None:
    """Return the code with which the node closes the socket, on which it says nothing more."""
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    return socket.close_code


async def test_leaps_of_the_wall_clock_change_nothing(tmp_path: Path) -> None:
    """A node whose wall clock leaps years to and fro serves on as the owner, neither idle nor degraded nor fenced."""
    program = (sys.executable, "-c", LEAPING)
    async with running(tmp_path, program=program, IDLE_TIMEOUT_S="3600") as node:
        for name in ("a", "b"):
            await observe(node.http, name)
        told = (await node.http.get("/status")).json()
        assert (told["epoch"], told["stm_length"], told.get("degraded")) == (1, 2, None)
        assert 0 <= told["uptime"] < 3600
        node.process.send_signal(signal.SIGTERM)
        assert await node.ended() == 0


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root may have a clock of its own"
)
async def test_the_time_of_a_suspended_machine_counts() -> None:
    """What a node goes by is the clock that a suspension does not stop: where that one is a year ahead of the other,
    as after a year of sleep, the node is on that one's side.
    """
    year_s = 31_536_000
    script = "import time; from kato_node.node import boot_clock_s; print(boot_clock_s() - time.monotonic())"
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--time", "--boottime", str(year_s), "--fork", sys.executable, "-c", script),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert float(output) > year_s - 1
